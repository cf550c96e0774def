"""How a run's result stands against luck and against higher costs: hundreds of runs in memory, counted once and kept.

The rows of the run's range are read from the store once, into one file a column, which all processes map: nothing is
copied, and what memory is short of the system takes back. A process holds two days of each asset beside them (some 4 MB),
and the kernel's state. The files take 11 MB of disk a day and asset and are gone when the work ends, or, after a kill,
when somebody begins such work again.

A placebo run is scan and fold of the whole range, without hashes, tapes or records in the store. Before its results are
used, the same machinery runs over the rows as they are and must come to what the run came to. What is stored is not made
again, so Ctrl-C and the same request go on. The cost stress folds the run's stored tapes: what a scan says does not depend
on costs.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from squeezecore import placebo, squeeze, statistics
from squeezecore.adapters import scanning
from squeezecore.adapters.assets import find_asset
from squeezecore.adapters.operations import Progress, Report, assets, silent
from squeezecore.adapters.page import CostStress, Placebo, Stress
from squeezecore.adapters.pool import run_tasks
from squeezecore.adapters.scratch import scratch as scratch_folder
from squeezecore.adapters.store import Store
from squeezecore.adapters.tables import BacktestRun, PlaceboRun
from squeezecore.backtest import DayScan, holes_of, warmup_start_s
from squeezecore.errors import SqueezeError, UsageError
from squeezecore.fold import Fold, Result
from squeezecore.market import DAY_S, PPM, FundingSeries, Instrument, Rows, concat, cut
from squeezecore.placebo import Hours, Market
from squeezecore.spec import BacktestSpec, day_start_s
from squeezecore.trading import USD_E8

RUNS = 200
ENTRIES = 1_000
SHUFFLED, RANDOM = "shuffled", "random"
MOST = 2**31  # seeds are below
REAL = -1  # stands for a seed where nothing is shuffled
KEEP_S = 1.0  # of work that Ctrl-C may lose
STRESS, STRESS_FORMAT = "cost_stress", 1
FACTORS = (0.0, 1.0, 2.0)
UNREAD = frozenset(("funding_rate_8h", "basis_bps", "config_rev"))  # neither kernel nor fold looks at these
COLUMNS = tuple(name for name in Rows._fields if name not in UNREAD)
KILLED = (
    "a placebo process was killed from outside (out of memory?); finished ones are kept: run the same command again, with "
    "fewer processes if memory was short"
)
NOTES = {
    SHUFFLED: (
        "Shuffled perp flow",
        "The same strategy over the same prices and spot flow, perp delta and volume permuted in whole hours over the range "
        "and its warm-up. What is in an hour stays together; what perp traders do at which time of day does not.",
    ),
    RANDOM: (
        "Random entries",
        "The run's own trades with their directions, holding times and sizes, each entered at a second drawn uniformly over "
        "the range, with taker fees, half-spread, impact and funding; added up on the start capital without compounding.",
    ),
}
STRESS_NOTE = (
    "The whole run again with fees, half-spread and impact multiplied. Entries ask whether the expected move pays for the "
    "costs, so higher costs also mean fewer trades."
)
DATED_NOTE = " In the place of dated fees stand those of the first day and asset."


class Luck(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run stands."""

    run_id: str
    result_hash: str
    placebos: tuple[Placebo, ...] = ()
    stress: CostStress | None = None
    note: str = ""  # why something is missing


def measure(
    store: Store,
    run: BacktestRun,
    report: Report = silent,
    *,
    runs: int = RUNS,
    entries: int = ENTRIES,
    jobs: int = 0,
    scratch: Path | None = None,
) -> Luck:
    """Hold a finished run against placebos and other costs, working out what is not stored yet.

    Args:
        store: holds the run and its rows.
        run: finished, made by this version of the code (unless everything is stored).
        report: told how far it is.
        runs: seeds of shuffled flow; 0 leaves them out.
        entries: seeds of random entries; 0 leaves them out.
        jobs: processes; 0: one a core.
        scratch: where the rows lie meanwhile; the system's temporary directory by default.

    Raises:
        UsageError: the run is unfinished, of another version, or its rows have changed.
    """
    if run.state != "done":
        raise UsageError(f"run {run.run_id[:12]} was {run.state}, only a finished one can be measured: finish it first")
    if not run.summary["figures"]["trades"]:
        note = "The run made no trade: there is nothing to hold against luck or costs."
        return Luck(run_id=run.run_id, result_hash=run.result_hash, note=note)
    work = _Work(store, run, report, jobs or os.cpu_count() or 1)
    wanted = {SHUFFLED: runs, RANDOM: entries}
    missing = {name: work.missing(name, count) for name, count in wanted.items()}
    body = store.part(run.run_id, STRESS, run.result_hash, STRESS_FORMAT)
    if any(missing.values()) or body is None:
        work.demand_same_code()
        with scratch_folder(scratch) as folder:
            work.lay_out(folder)
            if body is None:
                body = work.stress()
            work.enter(missing[RANDOM])
            work.shuffle(missing[SHUFFLED])
    return Luck(
        run_id=run.run_id,
        result_hash=run.result_hash,
        placebos=tuple(work.placebo(name, count) for name, count in wanted.items() if count),
        stress=msgspec.json.decode(body, type=CostStress),
    )


def kept(store: Store, run: BacktestRun) -> Luck:
    """Return what was measured of a run so far, without measuring anything."""
    luck = Luck(run_id=run.run_id, result_hash=run.result_hash)
    if run.state != "done":
        return luck
    work = _Work(store, run, silent, 1)
    body = store.part(run.run_id, STRESS, run.result_hash, STRESS_FORMAT)
    found = (work.placebo(name, MOST) for name in (SHUFFLED, RANDOM))
    return msgspec.structs.replace(
        luck,
        placebos=tuple(placebo for placebo in found if placebo.values),
        stress=None if body is None else msgspec.json.decode(body, type=CostStress),
    )


# --- the work, seen from the parent ---


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """What a process needs to know of the run; its rows lie in `folder`."""

    folder: str
    spec: BacktestSpec
    instruments: dict[str, Instrument]
    funding: dict[str, FundingSeries]


class _Work:
    """One run being measured."""

    def __init__(self, store: Store, run: BacktestRun, report: Report, jobs: int) -> None:
        self._store, self._run, self._report, self._jobs = store, run, report, jobs
        self._spec = msgspec.json.decode(run.spec, type=BacktestSpec)
        self._figures = run.summary["figures"]
        self._opener: Callable[[], contextlib.AbstractContextManager[_Held]] = functools.partial(_nothing_laid_out)
        self._checked = False

    def missing(self, name: str, count: int) -> list[int]:
        """Return the seeds below `count` that are not stored."""
        there = {one.seed for one in self._stored(name)} if count else set()
        return [seed for seed in range(count) if seed not in there]

    def demand_same_code(self) -> None:
        """Refuse a run that other code made: its placebos would be those of another strategy."""
        version = scanning.code_version()
        if self._run.code_version != version:
            raise UsageError(
                f"run {self._run.run_id[:12]} was made by code {self._run.code_version[:12]}, this is {version[:12]}: "
                "placebos must come from the same; run the backtest again and measure that run"
            )

    def lay_out(self, folder: Path) -> None:
        """Read rows and tapes of the range from the store into files, a day at a time."""
        spec, store = self._spec, self._store
        known, listed = assets(store), store.instruments()
        traded = {asset: find_asset(known, asset).traded for asset in spec.assets}
        start_s, end_s = day_start_s(spec.start), day_start_s(spec.end) + DAY_S
        funding = {asset: store.read_funding(name, start_s, end_s) for asset, name in traded.items()}
        total, done = (len(spec.days()) + 1) * len(spec.assets), 0
        try:
            for asset in spec.assets:
                for first_s, last_s in _spans(spec):
                    append_rows(folder, asset, store.read_row_columns(asset, first_s, last_s, COLUMNS))
                    done += 1
                    self._report(Progress("placebo: read rows", done, total, "asset-days"))
            for day in spec.days():
                scans = scanning.stored(store, self._run.run_id, (day, day))
                (folder / f"{day}.scans").write_bytes(msgspec.msgpack.encode(scans))
        except OSError as error:
            raise SqueezeError(
                f"rows could not be laid out in {folder} ({error}): they take 11 MB a day and asset; free some space"
            ) from error
        laid = Range(
            folder=str(folder), spec=spec, instruments={asset: listed[name] for asset, name in traded.items()},
            funding=funding,
        )  # fmt: skip
        self._opener = functools.partial(open_range, laid)

    def shuffle(self, seeds: Sequence[int]) -> None:
        """Run the strategy over shuffled flow, and store what each seed came to."""
        if not seeds:
            return
        tasks = [*([] if self._checked else [REAL]), *seeds]
        made: list[PlaceboRun] = []
        begun, done = time.monotonic(), 0
        with contextlib.closing(run_tasks(self._opener, shuffled_runs, tasks, self._jobs, KILLED)) as results:
            try:
                for one in results:
                    if one.seed == REAL:
                        self._check(one.total_return, one.trades)
                        continue
                    made.append(one)
                    done += 1
                    self._report(Progress("placebo: shuffled flow", done, len(seeds), "runs"))
                    if self._checked and time.monotonic() - begun > KEEP_S:
                        made = self._keep(made)
                        begun = time.monotonic()
            finally:
                if self._checked:
                    self._keep(made)

    def enter(self, seeds: Sequence[int]) -> None:
        """Enter at random, and store what each seed came to."""
        if not seeds:
            return
        trades = self._store.trades(self._run.run_id)
        with self._opener() as held:
            found = placebo.random_entries(
                trades, held.markets(), self._spec.costs, self._spec.capital_usd * USD_E8, seeds
            )
        self._keep(
            [
                PlaceboRun(name=RANDOM, seed=seed, total_return=total, trades=len(trades), win_rate=wins)
                for seed, total, wins in zip(seeds, found.total_return.tolist(), found.win_rate.tolist(), strict=True)
            ]
        )
        self._report(Progress("placebo: random entries", len(seeds), len(seeds), "runs"))

    def stress(self) -> bytes:
        """Fold the run's tapes at other costs, find where nothing is left, and store it."""
        lines: dict[float, Stress] = {}

        def fold_at(factors: Sequence[float]) -> None:
            with contextlib.closing(run_tasks(self._opener, stressed_runs, factors, self._jobs, KILLED)) as results:
                for line in results:
                    lines[line.factor] = line
                    self._report(Progress("cost stress", len(lines), len(FACTORS) + placebo.FOLDS_MAX, "folds"))

        def result(factor: float) -> float:
            fold_at([factor])
            return lines[factor].total_return

        fold_at(FACTORS)
        self._check(lines[1.0].total_return, lines[1.0].trades)
        even = placebo.break_even({factor: line.total_return for factor, line in lines.items()}, result)
        shown = [*FACTORS, *([placebo.FACTOR_MAX] if even is None else [])]
        told = (
            f"{STRESS_NOTE} The dated fees are those of the first day, of the first asset."
            if self._spec.costs.dated_fees
            else STRESS_NOTE
        )
        body = msgspec.json.encode(
            CostStress(lines=tuple(lines[factor] for factor in shown), break_even=even, note=told)
        )
        self._store.put_part(self._run.run_id, STRESS, self._run.result_hash, body, STRESS_FORMAT)
        return body

    def placebo(self, name: str, count: int) -> Placebo:
        """Return where the run stands among the first `count` seeds."""
        values = sorted(one.total_return for one in self._stored(name) if one.seed < count)
        real, (title, what) = self._figures["total_return"], NOTES[name]
        return Placebo(
            name=name, title=title, what=what, measure="total return", real=real, values=tuple(values),
            p_value=placebo.p_value(real, values),
        )  # fmt: skip

    def _stored(self, name: str) -> list[PlaceboRun]:
        return self._store.placebos(self._run.run_id, self._run.result_hash, name)

    def _keep(self, made: Sequence[PlaceboRun]) -> list[PlaceboRun]:
        self._store.insert_placebos(self._run.run_id, self._run.result_hash, made)
        return []

    def _check(self, total_return: float, trades: int) -> None:
        """Demand that the machinery comes to what the run came to, where nothing is changed."""
        real = self._figures["total_return"], self._figures["trades"]
        if (total_return, trades) != real:
            raise UsageError(
                f"run {self._run.run_id[:12]} came to {real[0]:.6%} in {real[1]} trades, its rows now bring {total_return:.6%} in "
                f"{trades}: they have changed since; run the backtest again and measure that run"
            )
        self._checked = True


def append_rows(folder: Path, asset: str, columns: Mapping[str, NDArray[np.int64]]) -> None:
    """Write the next rows of an asset to its files, one a column."""
    for name in COLUMNS:
        with (folder / f"{asset}.{name}").open("ab") as file:
            file.write(columns[name].tobytes())


def _spans(spec: BacktestSpec) -> Iterator[tuple[int, int]]:
    """Yield the seconds of the warm-up and of each day."""
    first_s = day_start_s(spec.start)
    yield warmup_start_s(spec.start, spec.warmup_s), first_s
    for day in spec.days():
        yield day_start_s(day), day_start_s(day) + DAY_S


# --- the work, seen from a process ---


class _Asset(NamedTuple):
    """An asset's rows of the whole range, mapped from files; nothing is read until it is looked at."""

    rows: Rows
    hours: Hours
    borders: tuple[int, ...]  # index of the first row of the warm-up, of each day, and the end


class _Held:
    """A range as a process sees it."""

    def __init__(self, laid: Range) -> None:
        self.laid, self.spec = laid, laid.spec
        self.params = squeeze.params_from(laid.spec.params)
        self.assets = {asset: _mapped(laid, asset) for asset in laid.spec.assets}
        self._facts: dict[tuple[str, dt.date], DayScan] = {}

    def markets(self) -> dict[str, Market]:
        """Return what random entries need: the tested days, not the warm-up."""
        return {
            asset: Market(
                cut(held.rows, held.borders[1], held.borders[-1]),
                self.laid.instruments[asset],
                self.laid.funding[asset],
            )
            for asset, held in self.assets.items()
            if held.borders[-1] > held.borders[1]
        }

    def facts(self, asset: str, number: int, day: dt.date) -> DayScan:
        """Return what a fold must know of a day beside its features, made once: no perp flow is in it."""
        if (asset, day) not in self._facts:
            held = self.assets[asset]
            rows = cut(held.rows, held.borders[number + 1], held.borders[number + 2])
            self._facts[asset, day] = facts_of(asset, day, rows)
        return self._facts[asset, day]


def _nothing_laid_out() -> contextlib.AbstractContextManager[_Held]:
    raise SqueezeError("no rows were laid out for the placebo")


@contextlib.contextmanager
def open_range(laid: Range) -> Iterator[_Held]:
    """Map a range's files; they go when their folder does."""
    yield _Held(laid)


def _mapped(laid: Range, asset: str) -> _Asset:
    """Map an asset's columns; a write would change a copy of one's own."""
    columns: dict[str, NDArray[np.int64]] = {}
    for name in COLUMNS:
        path = Path(laid.folder) / f"{asset}.{name}"
        there = path.exists() and path.stat().st_size
        columns[name] = np.asarray(np.memmap(path, np.int64, "c")) if there else np.empty(0, np.int64)
    nothing = np.broadcast_to(np.int64(0), len(columns["ts"]))
    rows = Rows(*(columns.get(name, nothing) for name in Rows._fields))
    spans = list(_spans(laid.spec))
    borders = np.searchsorted(rows.ts, [*(first for first, _ in spans), spans[-1][1]])
    return _Asset(rows, placebo.whole_hours(rows.ts, spans[0][0]), tuple(borders.tolist()))


def facts_of(asset: str, day: dt.date, rows: Rows) -> DayScan:
    """Return a day's scan without tape, hashes and fingerprints: nobody looks at those in a run that is not kept."""
    start_s = day_start_s(day)
    ends = np.searchsorted(rows.ts, start_s + np.arange(25) * 3_600) - 1
    return DayScan(
        asset=asset, day=day, data_hash="", state_in="", state_out="", tape=b"", seconds=len(rows.ts),
        incomplete=int(np.count_nonzero(rows.quality_ppm < PPM)), holes=holes_of(rows.ts, start_s, start_s + DAY_S),
        first_open=int(rows.open[0]) if len(rows.ts) else 0, last_close=int(rows.close[-1]) if len(rows.ts) else 0,
        hour_closes=tuple(int(rows.close[ends[h + 1]]) if ends[h + 1] > ends[h] else 0 for h in range(24)),
    )  # fmt: skip


def shuffled_runs(held: _Held, seed: int) -> Generator[PlaceboRun, None, None]:
    """Run the strategy over the range with its perp flow shuffled; `REAL` leaves it in its place."""
    result = run_shuffled(held, seed)
    yield PlaceboRun(
        name=SHUFFLED, seed=seed, total_return=result.summary.total_return, trades=result.summary.trades,
        sharpe=_sharpe(held.spec, result), win_rate=result.summary.win_rate,
    )  # fmt: skip


class _Lane:
    """One asset in one placebo run: the kernel's state, and the rows of the last two days."""

    def __init__(self, held: _Asset, params: squeeze.SqueezeParams, seed: int) -> None:
        self._held, self._params = held, params
        self._source = None if seed == REAL else placebo.permuted(held.hours, seed)
        self._state = squeeze.initial(params)
        self._blocks: list[Rows] = []

    def scan(self, number: int) -> squeeze.Features | None:
        """Scan block `number` (0 is the warm-up) after the one before it."""
        first, end = self._held.borders[number : number + 2]
        rows = cut(self._held.rows, first, end)
        if self._source is not None:
            columns = self._held.rows.perp_delta, self._held.rows.perp_volume
            delta, volume = placebo.shuffled(columns, self._held.hours, self._source, first, end)
            rows = rows._replace(perp_delta=delta, perp_volume=volume)
        self._blocks = [*self._blocks[-1:], rows]
        if not len(rows.ts):
            return None
        self._state, features = squeeze.scan(self._params, self._state, rows)
        return features

    def read(self, start_s: int, end_s: int) -> Rows:
        """Return rows of the last two blocks."""
        parts = [_between(rows, start_s, end_s) for rows in self._blocks]
        found = [part for part in parts if len(part.ts)] or parts[-1:]
        return found[0] if len(found) == 1 else concat(found)


def run_shuffled(held: _Held, seed: int) -> Result:
    """Scan and fold a range with its perp flow shuffled."""
    fold = Fold(held.spec, held.laid.instruments, held.laid.funding)
    lanes = {asset: _Lane(one, held.params, seed) for asset, one in held.assets.items()}
    for lane in lanes.values():
        lane.scan(0)
    for number, day in enumerate(held.spec.days()):
        features = {asset: lane.scan(number + 1) for asset, lane in lanes.items()}
        scans = {asset: held.facts(asset, number, day) for asset in lanes}
        there = {asset: found for asset, found in features.items() if found is not None}
        fold.add_day(day, scans, lambda asset, start_s, end_s: lanes[asset].read(start_s, end_s), there)
    return fold.finish()


def stressed_runs(held: _Held, factor: float) -> Generator[Stress, None, None]:
    """Fold the run's stored tapes at a multiple of its costs."""
    result = run_stressed(held, factor)
    summary = result.summary
    yield Stress(
        factor=factor, total_return=summary.total_return, sharpe=_sharpe(held.spec, result), trades=summary.trades,
        costs_usd=(summary.fees_usd_e8 + summary.slippage_usd_e8 - summary.funding_usd_e8) / USD_E8,
    )  # fmt: skip


def run_stressed(held: _Held, factor: float) -> Result:
    """Fold a range's stored tapes at a multiple of its costs; at one times, with the very costs."""
    spec = held.spec
    if factor != 1.0:
        instrument = held.laid.instruments[spec.assets[0]]
        costs = placebo.plain_fees(spec.costs, instrument, day_start_s(spec.start))
        spec = msgspec.structs.replace(spec, costs=placebo.scaled(costs, factor))
    fold = Fold(spec, held.laid.instruments, held.laid.funding)
    for day in spec.days():
        data = (Path(held.laid.folder) / f"{day}.scans").read_bytes()
        scans = msgspec.msgpack.decode(data, type=list[DayScan])
        fold.add_day(
            day,
            {scan.asset: scan for scan in scans},
            lambda asset, start_s, end_s: _between(held.assets[asset].rows, start_s, end_s),
        )
    return fold.finish()


# --- leaves ---


def _between(rows: Rows, start_s: int, end_s: int) -> Rows:
    a, b = np.searchsorted(rows.ts, (start_s, end_s))
    return cut(rows, int(a), int(b))


def _sharpe(spec: BacktestSpec, result: Result) -> float | None:
    capital, days = spec.capital_usd * USD_E8, len(spec.days())
    daily = statistics.daily_returns(result.equity_ts, result.equity_usd_e8, capital, day_start_s(spec.start), days)
    return statistics.sharpe(daily)
