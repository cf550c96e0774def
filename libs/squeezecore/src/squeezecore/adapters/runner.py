"""Run a backtest on a laptop: scan in a pool, fold as days become certain, keep everything in the store, export on request.

A run is resumable at any moment: days are kept as they are scanned, the fold is repeated from the start because it is
cheap. A finished run is shown again without work, unless the rows it read have changed since.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from squeezecore import backtest as core
from squeezecore import squeeze
from squeezecore.adapters import scanning, trials
from squeezecore.adapters.assets import find_asset
from squeezecore.adapters.operations import Progress, Report, assets, open_store, refusal, silent, utc
from squeezecore.adapters.store import Store
from squeezecore.adapters.tables import BacktestRun
from squeezecore.errors import DataHoleError, SpecError, SqueezeError, UsageError
from squeezecore.fold import DayResult, Fold, Result
from squeezecore.market import DAY_S, FundingSeries, Instrument, Rows, empty
from squeezecore.report import Summary, Trade
from squeezecore.spec import BacktestSpec, Costs, Limits, canonical, day_start_s, nearest
from squeezecore.squeeze import SqueezeParams
from squeezecore.trading import USD_E8

FLUSH_DAYS = 10  # days of results stored at once
READ_DAYS = 10  # asset-days of tapes read back at once
TAPES_BYTES_MAX = 32_000_000  # held for the fold; more are read back from the store
DAYS_A_PROCESS = 8  # asset-days that make another process worth its start


class BacktestRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A spec, and how to compute it; only the spec decides the result."""

    spec: BacktestSpec
    shards: int = 0  # 0: one piece a process
    jobs: int = 0  # 0: one a core, fewer for a few days
    fresh: bool = False
    out: Path | None = None


class BacktestReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to, with its receipt."""

    run_id: str
    result_hash: str
    cached: bool
    code_version: str
    params_hash: str
    data_hash: str
    spec: BacktestSpec
    summary: Summary
    warnings: tuple[str, ...]
    seconds: float  # it took; 0 when cached
    out: str = ""
    trial: str = ""  # hash of its trial (trials.py); empty: a run of a version that did not count


# --- what is asked ---


def make_params(file: Path | None, changes: Mapping[str, Any]) -> SqueezeParams:
    """Read a parameters file, if any, and lay single changes over it."""
    base = SqueezeParams()
    if file is not None:
        try:
            base = squeeze.read_params(file.read_text("utf-8"), str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"parameters file {file} cannot be read ({error}): squeezeflow params --out FILE makes one"
            ) from error
    return squeeze.params_from({**msgspec.to_builtins(base), **changes})


def make_spec(
    *,
    assets: Sequence[str],
    start: dt.date,
    end: dt.date,
    params_file: Path | None = None,
    changes: Mapping[str, Any] | None = None,
    costs: Mapping[str, Any] | None = None,
    limits: Mapping[str, Any] | None = None,
    capital_usd: int = 100_000,
    warmup_s: int = 28 * 3600,
) -> BacktestSpec:
    """Make a spec in its canonical form: parameters that equal their default are left out, so that equal runs have equal ids."""
    params = make_params(params_file, changes or {})
    defaults = SqueezeParams()
    differing = {
        name: getattr(params, name)
        for name in params.__struct_fields__
        if getattr(params, name) != getattr(defaults, name)
    }
    values = {
        "assets": tuple(assets),
        "start": start,
        "end": end,
        "params": differing,
        "costs": dict(costs or {}),
        "limits": dict(limits or {}),
        "capital_usd": capital_usd,
        "warmup_s": warmup_s,
    }
    for flag, given, kind in (("--cost", costs or {}, Costs), ("--limit", limits or {}, Limits)):
        for name in given:
            if name not in kind.__struct_fields__:
                raise SpecError(f"{flag} was {name!r}, which does not exist: {nearest(name, kind.__struct_fields__)}")
    try:
        return msgspec.convert(values, BacktestSpec, strict=False)
    except msgspec.ValidationError as error:
        raise SpecError(refusal(error, values)) from error


# --- the run ---


def backtest(
    home: Path, clickhouse_url: str | None, request: BacktestRequest, report: Report = silent
) -> BacktestReport:
    """Run a spec, or show its finished run; see the module's words."""
    opener = functools.partial(open_store, home, clickhouse_url)
    with opener() as store:
        return _backtest(opener, store, request, report)


def _backtest(opener: scanning.Opener, store: Store, request: BacktestRequest, report: Report) -> BacktestReport:
    spec = request.spec
    instruments, funding = _markets(store, spec)
    warnings = _look_at_data(store, spec)
    version = scanning.code_version()
    run_id = core.run_id(spec, version)
    found = store.run(run_id)
    if found is not None and found.state == "planned":  # it was asked for, and nothing is done of it
        found = None
    begun = time.perf_counter()
    with ThreadPoolExecutor(1) as beside:
        summing = beside.submit(_fingerprint, store, spec)
        if found is not None:
            if found.state == "done" and not request.fresh and found.summary["rows"] == summing.result():
                answer = _answer(spec, found, warnings, cached=True)
                return _exported(store, answer, instruments, request.out)
            if found.summary["rows"] != summing.result():
                warnings = ("rows have changed since this run was begun: it was scanned again", *warnings)
                store.drop_run(run_id)  # what other rows left must not stand beside what these bring
                found = None
        run = BacktestRun(run_id=run_id, spec=canonical(spec).decode(), code_version=version, state="running")
        started = beside.submit(lambda: _begin(store, run, summing.result()))
        work = _Run(opener, store, run_id, spec, request, report, resume=found is not None and not request.fresh)
        result = work.fold(instruments, funding, version)
        run = started.result()
    rows_seen = run.summary["rows"]
    summary = {
        "rows": rows_seen,
        "params_hash": result.params_hash,
        "data_hash": result.data_hash,
        "figures": msgspec.to_builtins(result.summary),
        "trial": trials.record(store, spec, result),  # before the run is done: a finished run has been counted
    }
    done = msgspec.structs.replace(run, state="done", result_hash=result.result_hash, summary=summary)
    store.put_run(done)
    answer = _answer(spec, done, warnings, cached=False, seconds=time.perf_counter() - begun)
    return _exported(store, answer, instruments, request.out)


def announce(store: Store, run_id: str, spec: BacktestSpec) -> None:
    """Record that a run was asked for, so that it is in the list whatever happens to who was asked."""
    if store.run(run_id) is None:
        store.put_run(
            BacktestRun(
                run_id=run_id, spec=canonical(spec).decode(), code_version=scanning.code_version(), state="planned"
            )
        )


def _begin(store: Store, run: BacktestRun, rows: str) -> BacktestRun:
    """Record that a run has begun, and of which rows; only then are its stored days taken up by a later attempt."""
    run = msgspec.structs.replace(run, summary={"rows": rows})
    store.put_run(run)
    return run


def _markets(store: Store, spec: BacktestSpec) -> tuple[dict[str, Instrument], dict[str, FundingSeries]]:
    known, listed = assets(store), store.instruments()
    instruments, funding = {}, {}
    for asset in spec.assets:
        traded = find_asset(known, asset).traded
        if traded not in listed:
            held = {name for name, config in known.items() if config.traded in listed}
            hint = nearest(asset, held) if held else "the store is empty: import or simulate first"
            raise DataHoleError(f"asset was {asset}, the store holds nothing of {traded}: {hint}")
        instruments[asset] = listed[traded]
        funding[asset] = store.read_funding(traded, day_start_s(spec.start), day_start_s(spec.end) + DAY_S)
    return instruments, funding


def _look_at_data(store: Store, spec: BacktestSpec) -> tuple[str, ...]:
    """Refuse a range without data; say which days are not whole."""
    warnings = []
    start, end = day_start_s(spec.start), day_start_s(spec.end) + DAY_S
    for asset in spec.assets:
        days = {line.day: line for line in store.asset_coverage(asset, start - spec.warmup_s - 3600, end)}
        inside = [days[day] for day in spec.days() if day in days]
        if not inside:
            whole = store.asset_coverage(asset)
            have = (
                f"it has rows from {whole[0].day} to {whole[-1].day}"
                if whole
                else "it has none at all: import or simulate first"
            )
            raise DataHoleError(f"range was {spec.start} to {spec.end}, {asset} has no row in it: {have}")
        short = [day for day in spec.days() if day not in days or days[day].seconds < DAY_S]
        if short:
            listed = ", ".join(map(str, short[:5])) + (f" and {len(short) - 5} more" if len(short) > 5 else "")
            warnings.append(
                f"{asset}: rows are missing on {listed}; after each hole it warms up for 28 hours (squeezeflow data)"
            )
        before = min(line.first_ts for line in days.values())
        if before > start - spec.warmup_s:
            warnings.append(
                f"{asset}: rows begin at {utc(before)}, so nothing trades before 28 hours of them have passed"
            )
    return tuple(warnings)


def _fingerprint(store: Store, spec: BacktestSpec) -> str:
    """Sum up the rows a run reads, by the server, so that a finished run is not shown for other data."""
    start, end = day_start_s(spec.start) - spec.warmup_s, day_start_s(spec.end) + DAY_S
    table = store.query(
        "SELECT toString(count()) AS n, toString(sum(cityHash64(asset, ts, open, high, low, close, buy_qty, sell_qty, mark, "
        "spot_delta, perp_delta, spot_volume, perp_volume, open_interest, oi_known_at, oi_interval_s, funding_rate_8h, basis_bps, "
        "quality_ppm, config_rev))) AS h FROM rows_1s FINAL WHERE asset IN {assets:Array(String)} "
        "AND ts >= toDateTime({start:UInt32}, 'UTC') AND ts < toDateTime({end:UInt32}, 'UTC')",
        {"assets": list(spec.assets), "start": max(start, 0), "end": end},
    )
    return f"{table['n'][0].as_py()}:{table['h'][0].as_py()}"


class _Run:
    """One computation of a run: scans arriving in any order, folded in the days' order as soon as they are certain."""

    def __init__(
        self,
        opener: scanning.Opener,
        store: Store,
        run_id: str,
        spec: BacktestSpec,
        request: BacktestRequest,
        report: Report,
        *,
        resume: bool,
    ) -> None:
        self._opener, self._store, self._run_id, self._spec, self._report = opener, store, run_id, spec, report
        self._keeper, self._recent = scanning.Keeper(store, run_id), scanning.Recent()
        self._read = _Reader(store, self._recent)
        self._params = squeeze.params_from(spec.params)
        self._jobs = request.jobs or worth_jobs(spec)
        self._resume = resume
        self._shards = request.shards or max(self._jobs, len(spec.assets))
        self._scans: dict[tuple[str, dt.date], core.DayScan] = {}  # with their tapes as long as the fold needs them
        self._tapes_bytes = 0
        self._days = spec.days()
        self._folded = self._trades = 0
        self._unstored: list[DayResult] = []

    def fold(self, instruments: Mapping[str, Instrument], funding: Mapping[str, FundingSeries], version: str) -> Result:
        """Scan what is missing, repair seams, fold all days, and store each day's results."""
        fold = Fold(self._spec, instruments, funding, version)
        total = len(self._days) * len(self._spec.assets)
        for scan in scanning.stored(self._store, self._run_id) if self._resume else ():
            self._scans[scan.asset, scan.day] = scan
        scans = scanning.scan_all(
            self._opener, self._keeper, self._recent, self._spec, self._params, self._open_items(), self._jobs
        )
        with contextlib.closing(scans):
            for scan in scans:
                self._take(scan)
                self._report(Progress(f"scan {scan.asset} {scan.day}", len(self._scans), total, "asset-days"))
                self._advance(fold)
                if self._tapes_bytes > TAPES_BYTES_MAX:
                    self._take(scanning.light(scan))
        repaired = self._repair()
        self._advance(fold)
        if self._folded < len(self._days):
            raise SqueezeError(
                f"days folded were {self._folded} of {len(self._days)}: run the same command again, with --fresh"
            )
        result = fold.finish(repaired)
        self._store_day(result.closing)
        self._flush()
        return result

    def _open_items(self) -> list[core.Item]:
        """Cut what is not scanned yet as the plan would; all assets' first days come first, so that the fold can follow."""
        wanted = core.plan(self._spec, self._shards)
        kept = core.missing(self._spec, self._scans.values(), {})
        left = {(item.asset, day) for item in kept for day in item.days()}
        items = []
        for item in wanted:
            days = [day for day in item.days() if (item.asset, day) in left]
            for first, last in _spans(days):
                items.append(core.Item(asset=item.asset, first_day=first, n_days=(last - first).days + 1))
        return sorted(items, key=lambda item: item.first_day)

    def _take(self, scan: core.DayScan) -> None:
        """Put a scan in the place of the one that was known of its day; without its tape it stays known."""
        key = scan.asset, scan.day
        self._tapes_bytes += len(scan.tape) - (len(self._scans[key].tape) if key in self._scans else 0)
        self._scans[key] = scan

    def _certain(self, day: dt.date) -> bool:
        """Say whether each asset's scan of a day began where the day before it ended."""
        for asset in self._spec.assets:
            scan = self._scans.get((asset, day))
            before = self._scans.get((asset, day - dt.timedelta(1)))
            if scan is None or (day != self._days[0] and (before is None or before.state_out != scan.state_in)):
                return False
        return True

    def _advance(self, fold: Fold) -> None:
        while self._folded < len(self._days) and self._certain(self._days[self._folded]):
            day = self._days[self._folded]
            scans = self._with_tapes(day)
            self._store_day(fold.add_day(day, scans, self._read))
            for scan in scans.values():
                self._take(scanning.light(scan))
            self._folded += 1
            self._report(Progress(f"fold {day}", self._folded, len(self._days), "days"))

    def _with_tapes(self, day: dt.date) -> dict[str, core.DayScan]:
        """Return a day's scans; tapes that are not held are read back, some days of them at once."""
        assets = self._spec.assets
        if not all(self._scans[asset, day].tape for asset in assets):
            self._keeper.flush()
            last = day + dt.timedelta(max(1, READ_DAYS // len(assets)) - 1)
            for scan in scanning.stored(self._store, self._run_id, (day, last)):
                if self._scans.get((scan.asset, scan.day)) == scanning.light(scan):  # not one that has been replaced
                    self._take(scan)
        scans = {asset: self._scans[asset, day] for asset in assets}
        for asset, scan in scans.items():
            if not scan.tape:
                raise SqueezeError(
                    f"scan of {asset} {day} was no longer in the store (another command removed or changed it): "
                    "run the same command again"
                )
        return scans

    def _repair(self) -> int:
        """Scan days again that began from a wrong state; return how many."""

        def scan_from(asset: str, first: dt.date, last: dt.date) -> Any:
            item = core.Item(asset=asset, first_day=first, n_days=(last - first).days + 1)
            return scanning.scan_item(self._store, self._spec, self._params, item)

        begun = time.perf_counter()
        repaired = core.repair(self._scans.values(), scan_from)
        for scan in repaired:
            self._keeper.add(scan, (time.perf_counter() - begun) / len(repaired))
            self._take(scan)
        self._keeper.flush()
        return len(repaired)

    def _store_day(self, day: DayResult) -> None:
        """Keep a day's results for the next flush: an insert costs the same for a day as for ten."""
        self._unstored.append(day)
        if len(self._unstored) >= FLUSH_DAYS:
            self._flush()

    def _flush(self) -> None:
        days, self._unstored = self._unstored, []
        trades = [trade for day in days for trade in day.trades]
        decisions = [decision for day in days for decision in day.decisions]
        if trades:
            self._store.insert_trades(self._run_id, trades, self._trades + 1)
            self._trades += len(trades)
        if days:
            ts, equity = (np.concatenate([day[n] for day in days]) for n in (2, 3))
            self._store.insert_equity(self._run_id, ts, equity)
        if decisions:
            self._store.insert_decisions(self._run_id, decisions)


def worth_jobs(spec: BacktestSpec) -> int:
    """Return how many processes a spec is worth on this machine."""
    return max(1, min(os.cpu_count() or 1, len(spec.days()) * len(spec.assets) // DAYS_A_PROCESS))


def _spans(days: Sequence[dt.date]) -> list[tuple[dt.date, dt.date]]:
    spans: list[tuple[dt.date, dt.date]] = []
    for day in days:
        if spans and spans[-1][1] + dt.timedelta(1) == day:
            spans[-1] = (spans[-1][0], day)
        else:
            spans.append((day, day))
    return spans


class _Reader:
    """Rows for the fold, of the columns it looks at: those just scanned in this process, else from the store, a day at a time."""

    def __init__(self, store: Store, recent: scanning.Recent | None = None) -> None:
        self._store, self._recent = store, recent or scanning.Recent()
        self._kept: dict[str, tuple[int, int, Rows]] = {}

    def __call__(self, asset: str, start_s: int, end_s: int) -> Rows:
        found = self._recent.rows(asset, start_s, end_s)
        if found is not None:
            return found
        first, last, rows = self._kept.get(asset, (0, 0, empty(Rows)))
        if start_s < first or end_s > last:
            first, last = start_s, max(end_s, (end_s - 1) // DAY_S * DAY_S + DAY_S)
            rows = scanning.fold_rows(self._store.read_row_columns(asset, first, last, scanning.FOLD_COLUMNS))
            self._kept[asset] = (first, last, rows)
        return scanning.rows_between(rows, start_s, end_s)


# --- results, to the store and to files ---


def _answer(
    spec: BacktestSpec, run: BacktestRun, warnings: tuple[str, ...], *, cached: bool, seconds: float = 0.0
) -> BacktestReport:
    return BacktestReport(
        run_id=run.run_id,
        result_hash=run.result_hash,
        cached=cached,
        code_version=run.code_version,
        params_hash=run.summary["params_hash"],
        data_hash=run.summary["data_hash"],
        spec=spec,
        summary=msgspec.convert(run.summary["figures"], Summary),
        warnings=warnings,
        seconds=round(seconds, 3),
        trial=run.summary.get("trial", ""),
    )


def answer_of(run: BacktestRun) -> BacktestReport:
    """Return a finished run's report, from what the store keeps of it."""
    return _answer(msgspec.json.decode(run.spec, type=BacktestSpec), run, (), cached=True)


def trade_table(trades: Sequence[Trade], instruments: Mapping[str, Instrument]) -> pa.Table:
    """Return trades in units people use: USD, base units, UTC seconds."""
    rows = []
    for number, trade in enumerate(trades, 1):
        listed = instruments[trade.asset]
        price, qty = 10**listed.price_decimals, 10**listed.qty_decimals
        rows.append(
            {
                "number": number,
                "asset": trade.asset,
                "instrument": trade.instrument,
                "direction": trade.direction.name,
                "tier": trade.tier,
                "score": trade.score_milli / 1000,
                "decided_ts": trade.decided_ts,
                "entry_ts": trade.entry_ts,
                "exit_ts": trade.exit_ts,
                "hold_s": trade.hold_s,
                "qty": trade.qty / qty,
                "entry_price": trade.entry_price / price,
                "exit_price": trade.exit_price / price,
                "pnl_usd": trade.pnl_usd_e8 / USD_E8,
                "fees_usd": trade.fees_usd_e8 / USD_E8,
                "slippage_usd": trade.slippage_usd_e8 / USD_E8,
                "funding_usd": trade.funding_usd_e8 / USD_E8,
                "structure_level": trade.level / price,
                "exit_reason": trade.reason,
                "entry_order_id": trade.entry_order_id,
                "exit_order_id": trade.exit_order_id,
            }
        )
    return pa.Table.from_pylist(rows) if rows else pa.table({"number": pa.array([], pa.int64())})


def _exported(
    store: Store, answer: BacktestReport, instruments: Mapping[str, Instrument], out: Path | None
) -> BacktestReport:
    """Write the run's files; each appears whole or not at all."""
    if out is None:
        return answer
    answer = msgspec.structs.replace(answer, out=str(out))
    trades = store.trades(answer.run_id)
    ts, equity = store.equity(answer.run_id)
    tables = {
        "trades": trade_table(trades, instruments),
        "equity": pa.table({"ts": ts, "equity_usd": equity / USD_E8}),
        "decisions": store.read_table("decisions", answer.run_id).drop_columns(["run_id"]),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            _whole(out / f"{name}.parquet", lambda path, table=table: pa.parquet.write_table(table, path))
            _whole(out / f"{name}.csv", lambda path, table=table: pa.csv.write_csv(table, path))
        text = msgspec.json.format(msgspec.json.encode(answer), indent=2)
        _whole(out / "result.json", lambda path: path.write_bytes(text))
    except OSError as error:
        raise SqueezeError(
            f"result could not be written to {out} ({error}): the run {answer.run_id[:12]} itself is kept; "
            "free space or name another --out, then run the same command again"
        ) from error
    return answer


def _whole(path: Path, write: Any) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        write(partial)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


# --- lists ---


class RunLine(msgspec.Struct, frozen=True, kw_only=True):
    """A run in a list."""

    run_id: str
    state: str
    assets: tuple[str, ...]
    start: dt.date
    end: dt.date
    params: dict[str, Any]
    result_hash: str
    total_return: float | None
    trades: int | None


def runs(store: Store) -> list[RunLine]:
    """Return every run, the newest first."""
    lines = []
    for run in store.runs():
        spec = msgspec.json.decode(run.spec, type=BacktestSpec)
        figures = run.summary.get("figures", {})
        lines.append(
            RunLine(
                run_id=run.run_id,
                state=run.state,
                assets=spec.assets,
                start=spec.start,
                end=spec.end,
                params=spec.params,
                result_hash=run.result_hash,
                total_return=figures.get("total_return"),
                trades=figures.get("trades"),
            )
        )
    return lines
