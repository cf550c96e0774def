"""A run's charts: one pass over each asset's stored days, rows and tape, into packs, bands, excursions and reasons.

It is the expensive part of a report page, so it is made once for a result and kept (`run_parts`). Nothing is estimated: a
second of the page is a row of the store, a minute is its rows, and so are the coarser steps that a run of many months is
shown in.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from squeezecore import squeeze, statistics, tape
from squeezecore.adapters import operations, wording
from squeezecore.adapters.assets import find_asset
from squeezecore.adapters.operations import Progress, Report
from squeezecore.adapters.page import AssetSeries, Band, Pack, Quality, QualityDay, Series, VenueLine, Why, pack
from squeezecore.adapters.store import Store
from squeezecore.adapters.tables import BacktestDay, BacktestRun
from squeezecore.backtest import warmup_start_s
from squeezecore.errors import DataHoleError
from squeezecore.market import CENTS, DAY_S, PPM, Instrument, Rows
from squeezecore.report import Trade
from squeezecore.spec import BacktestSpec, day_start_s
from squeezecore.squeeze import Features, params_from
from squeezecore.trading import USD_E8, Decision

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

PART, VERSION = "charts", 3  # of `run_parts`; another version is made anew
MINUTE_S = 60
STEPS = ((92, MINUTE_S), (731, 300), (10**9, 900))  # (days up to, s): how fine a run's whole length is shown
AROUND_S = 300  # either side of an entry and an exit
CLOSE_TRADES = 200  # of largest |pnl|, shown at one second
COARSE_S = 5  # the others
HOLES_MAX = 100  # listed, the longest
OPEN_INTEREST_DIGITS = 7
DRAWDOWN_SCALE = 100_000

INSTANT = ("open", "high", "low", "close", "spot_cvd", "perp_cvd", "open_interest", "score", "reset_deceleration", "absorption",
           "failed_breakdown", "quality")  # fmt: skip


class Charts(msgspec.Struct, frozen=True, kw_only=True):
    """What a page takes from rows and tapes; trades by their number, from 1."""

    series: tuple[AssetSeries, ...]
    bands: tuple[Band, ...]
    excursions: dict[int, tuple[float, float]]  # MAE ≤ 0 and MFE ≥ 0, USD
    entries: dict[int, Why]
    exits: dict[int, Why]
    equity: Pack
    quality: tuple[Quality, ...]
    scores_differ: int  # trades whose explained score is not the one they were decided with


def charts(
    store: Store, run: BacktestRun, trades: Sequence[Trade], decisions: Callable[[], Sequence[Decision]], report: Report
) -> Charts:
    """Return a run's charts: the stored ones, or made now and stored."""
    found = store.part(run.run_id, PART, run.result_hash, VERSION)
    if found is not None:
        return msgspec.msgpack.decode(zlib.decompress(found), type=Charts)
    made = make_charts(store, run, trades, decisions(), report)
    body = zlib.compress(msgspec.msgpack.encode(made), 6)
    store.put_part(run.run_id, PART, run.result_hash, body, VERSION)
    return made


def make_charts(
    store: Store, run: BacktestRun, trades: Sequence[Trade], decisions: Sequence[Decision], report: Report
) -> Charts:
    """Read every day of a run once and make its charts; some 0.1 s a day."""
    spec = msgspec.json.decode(run.spec, type=BacktestSpec)
    known, listed = operations.assets(store), store.instruments()
    numbered = list(enumerate(trades, 1))
    assets: list[_Asset] = []
    total = len(spec.assets) * len(spec.days())
    for asset in spec.assets:
        traded = find_asset(known, asset).traded
        mine = [(n, trade) for n, trade in numbered if trade.asset == asset]
        records = [d for d in decisions if d.asset == asset]
        made = _Asset(spec, asset, listed[traded], mine, close_up(trades), records)
        made.warm_up(store)
        for day in store.backtest_days(run.run_id, asset):
            report(Progress(f"charts of {asset} {day.day}", len(assets) * len(spec.days()) + made.days, total, "days"))
            made.add(store, day)
        made.quality = _quality(store, spec, asset, made.facts)
        assets.append(made)
    return Charts(
        series=tuple(a.series() for a in assets),
        bands=tuple(band for a in assets for band in a.bands()),
        excursions={n: value for a in assets for n, value in a.excursions().items()},
        entries={n: why for a in assets for n, why in a.entries.items()},
        exits={n: why for a in assets for n, why in a.exits.items()},
        equity=_equity(store, run, spec, [a.closes() for a in assets]),
        quality=tuple(a.quality for a in assets if a.quality is not None),
        scores_differ=sum(a.scores_differ for a in assets),
    )


def step_of(spec: BacktestSpec) -> int:
    """Return the step, s, in which a run's whole length is shown: a minute, or coarser where that made a file too large."""
    return next(step for days, step in STEPS if len(spec.days()) <= days)


def close_up(trades: Sequence[Trade]) -> frozenset[int]:
    """Return the numbers of the trades that are shown at one second: those largest in |pnl|."""
    order = sorted(range(1, len(trades) + 1), key=lambda n: (-abs(trades[n - 1].pnl_usd_e8), n))
    return frozenset(order[:CLOSE_TRADES])


class _Span(NamedTuple):
    """A stretch of one phase and side of the reset machine."""

    start_s: int
    end_s: int  # not included
    phase: int
    side: int
    low: int
    high: int


class _Asset:
    """One asset's charts in the making, day by day."""

    def __init__(
        self,
        spec: BacktestSpec,
        asset: str,
        listed: Instrument,
        trades: list[tuple[int, Trade]],
        close_up: frozenset[int],
        records: list[Decision],
    ) -> None:
        self.asset, self.days, self.scores_differ = asset, 0, 0
        self.entries: dict[int, Why] = {}
        self.exits: dict[int, Why] = {}
        self.facts: list[BacktestDay] = []
        self.quality: Quality | None = None
        self._spec, self._listed, self._trades, self._close_up = spec, listed, trades, close_up
        self._params = params_from(spec.params)
        self._state = squeeze.initial(self._params)
        self._step_s = step_of(spec)
        self._cvd = np.zeros(2, np.int64)  # spot, perp, cents
        self._base: list[dict[str, Ints]] = []
        self._seconds: list[dict[str, Ints]] = []
        self._spans: list[_Span] = []
        self._extremes: dict[int, tuple[int, int]] = {}
        self._entry_records = {d.order_id: d for d in records if d.kind == "entry"}
        self._exit_records: dict[str, Decision] = {}
        for record in records:
            if record.kind == "exit":
                self._exit_records.setdefault(record.order_id, record)
        self._wanted = {t.decided_ts for _, t in trades} | {
            self._exit_records[t.exit_order_id].ts for _, t in trades if t.exit_order_id in self._exit_records
        }

    def warm_up(self, store: Store) -> None:
        """Bring the kernel to the run's first second, as the run did."""
        first = self._spec.start
        rows = store.read_rows(self.asset, max(warmup_start_s(first, self._spec.warmup_s), 0), day_start_s(first))
        squeeze.scan(self._params, self._state, rows)

    def add(self, store: Store, day: BacktestDay) -> None:
        """Take a day's rows and tape in."""
        self.days += 1
        self.facts.append(day)
        start = day_start_s(day.day)
        rows, features = store.read_rows(self.asset, start, start + DAY_S), tape.unpack(day.tape)
        if not np.array_equal(rows.ts, features.ts):
            raise DataHoleError(
                f"{self.asset} had {len(features.ts)} rows on {day.day} when it was scanned, it has {len(rows.ts)} now: "
                "run the backtest again with the same command"
            )
        if not len(rows.ts):
            return
        trades = [
            (number, trade)
            for number, trade in self._trades
            if trade.exit_ts + AROUND_S + COARSE_S >= start and trade.decided_ts - AROUND_S - COARSE_S < start + DAY_S
        ]
        self._explain(rows, trades)
        columns = self._columns(rows, features)
        close, coarse = self._near(rows.ts, trades)
        self._base.append(_based(columns, close | coarse, self._step_s))
        self._seconds.append(_detail(columns, close, coarse))
        self._add_spans(features)
        for number, trade in trades:
            first, end = np.searchsorted(rows.ts, (trade.entry_ts, trade.exit_ts))
            if first < end:
                low, high = int(rows.low[first:end].min()), int(rows.high[first:end].max())
                old = self._extremes.get(number, (low, high))
                self._extremes[number] = (min(low, old[0]), max(high, old[1]))

    def _columns(self, rows: Rows, features: Features) -> dict[str, Ints]:
        """Return every second of a day in the page's terms, integers as they are in the store."""
        spot = self._cvd[0] + np.cumsum(rows.spot_delta)
        perp = self._cvd[1] + np.cumsum(rows.perp_delta)
        self._cvd[:] = spot[-1], perp[-1]
        flags = features.flags.astype(np.int64)
        sign = (flags & squeeze.F_LONG > 0).astype(np.int64) - (flags & squeeze.F_SHORT > 0)
        parts = features.parts[np.searchsorted(features.part_ts, rows.ts, "right") - 1].astype(np.int64)
        return {
            "ts": rows.ts, "open": rows.open, "high": rows.high, "low": rows.low, "close": rows.close,
            "spot_cvd": spot, "perp_cvd": perp, "open_interest": rows.open_interest,
            "score": features.score_milli * sign, "reset_deceleration": parts[:, squeeze.PART_DECELERATION],
            "absorption": parts[:, squeeze.PART_ABSORPTION], "failed_breakdown": parts[:, squeeze.PART_BREAKDOWN],
            "quality": rows.quality_ppm,
        }  # fmt: skip

    def _near(self, ts: Ints, trades: Sequence[tuple[int, Trade]]) -> tuple[Bools, Bools]:
        """Return which seconds lie around entries and exits: those to be shown as they are, and those in steps of five."""
        close, coarse = np.zeros(len(ts), np.bool_), np.zeros(len(ts), np.bool_)
        for number, trade in trades:
            for at in (trade.entry_ts, trade.exit_ts):
                near = number in self._close_up
                around = (at - AROUND_S, at + AROUND_S + 1) if near else _outwards(at, AROUND_S, COARSE_S)
                first, end = np.searchsorted(ts, around)
                (close if near else coarse)[first:end] = True
        coarse &= ~np.isin(ts // COARSE_S, ts[close] // COARSE_S)  # where both lie, the seconds stand
        return close, coarse

    def _explain(self, rows: Rows, trades: Sequence[tuple[int, Trade]]) -> None:
        """Scan a day on, and explain its decided seconds on the way."""
        seen = {e["ts"]: e for e in squeeze.explain_seconds(self._params, self._state, rows, self._wanted)}
        for number, trade in trades:
            entry = seen.get(trade.decided_ts)
            if entry is not None:
                record = self._entry_records.get(trade.entry_order_id)
                self.entries[number] = wording.entry_why(entry, record, trade, self._params, self._listed)
                self.scores_differ += int(entry["score_milli"]) != trade.score_milli
            left = self._exit_records.get(trade.exit_order_id)
            if left is not None and left.ts in seen:
                self.exits[number] = wording.exit_why(seen[left.ts], left, trade, self._params, self._listed)

    def _add_spans(self, features: Features) -> None:
        phase = (features.flags >> squeeze.PHASE_SHIFT & 3).astype(np.int64)
        side = (features.flags & squeeze.F_RESET_LONG > 0).astype(np.int64) - (
            features.flags & squeeze.F_RESET_SHORT > 0
        )
        state = phase * 3 + side
        cuts = np.flatnonzero((np.diff(state) != 0) | (np.diff(features.ts) != 1)) + 1
        for first, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(state)], strict=True):
            if phase[first] == squeeze.IDLE:
                continue
            start, stop = int(features.ts[first]), int(features.ts[end - 1]) + 1
            low, high, _ = features.reset[int(np.searchsorted(features.reset_ts, stop - 1, "right")) - 1].tolist()
            span = _Span(start, stop, int(phase[first]), int(side[first]), low, high)
            last = self._spans[-1] if self._spans else None
            if last is not None and (last.end_s, last.phase, last.side) == (start, span.phase, span.side):
                self._spans[-1] = span._replace(start_s=last.start_s)
            else:
                self._spans.append(span)

    def bands(self) -> list[Band]:
        """Return the spans in which one side was trapped."""
        price = 10**self._listed.price_decimals
        return [
            Band(
                asset=self.asset, start_s=s.start_s, end_s=s.end_s, direction=s.side, phase=squeeze.PHASES[s.phase],
                low=s.low / price if s.low else None, high=s.high / price if s.high else None,
            )
            for s in self._spans
        ]  # fmt: skip

    def excursions(self) -> dict[int, tuple[float, float]]:
        """Return each trade's worst and best unrealised result, USD, at the extremes of the seconds it was held."""
        found = {}
        for number, trade in self._trades:
            low, high = self._extremes.get(number, (0, 0))
            marks = np.array([low, high] if low else [], np.int64)
            seen = statistics.excursion(marks, self._listed, trade.direction, trade.qty, trade.entry_usd_e8)
            found[number] = (seen.mae_usd_e8 / USD_E8, seen.mfe_usd_e8 / USD_E8)
        return found

    def closes(self) -> tuple[Ints, Ints]:
        """Return the base rows' last seconds and closes."""
        if not self._base:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        ts, width, close = (np.concatenate([base[name] for base in self._base]) for name in ("ts", "width", "close"))
        first = self._base[0]  # holding begins at the first open
        return np.append(ts[0] - 1, ts + width - 1), np.append(first["open"][0], close)

    def series(self) -> AssetSeries:
        """Pack what was gathered."""
        base, seconds = _joined(self._base, ("ts", "width", *INSTANT)), _joined(self._seconds, ("ts", *INSTANT))
        prices = [base[name] for name in ("open", "high", "low", "close")]
        shift = _common_decimals(prices, self._listed.price_decimals)
        interest = _interest_shift(base["open_interest"], self._listed.qty_decimals)
        packs = [
            pack([_column(name, values, self._listed, shift, interest) for name, values in columns.items()])
            for columns in (base, seconds)
        ]
        return AssetSeries(
            asset=self.asset, instrument=self._listed.id, price_decimals=wording.decimals(self._listed),
            step_s=self._step_s, base=packs[0], seconds=packs[1],
        )  # fmt: skip


def _joined(blocks: Sequence[Mapping[str, Ints]], names: Sequence[str]) -> dict[str, Ints]:
    return {name: np.concatenate([b[name] for b in blocks]) if blocks else np.zeros(0, np.int64) for name in names}


def _outwards(at: int, around: int, step: int) -> tuple[int, int]:
    """Return the span around a second, to whole steps."""
    return (at - around) // step * step, (at + around) // step * step + step


def _based(columns: Mapping[str, Ints], near: Bools, step: int) -> dict[str, Ints]:
    """Fold a day into steps, and into minutes in those steps that hold seconds around a trade; `width` is each row's, s."""
    ts = columns["ts"]
    fine = np.isin(ts // step, ts[near] // step)
    starts = np.where(fine, ts // MINUTE_S * MINUTE_S, ts // step * step)
    made = _folded(columns, starts)
    made["width"] = np.where(np.isin(made["ts"] // step, ts[near] // step), MINUTE_S, step).astype(np.int64)
    return made


def _detail(columns: Mapping[str, Ints], close: Bools, coarse: Bools) -> dict[str, Ints]:
    """Keep the seconds around entries and exits, those of the smaller trades folded by five."""
    single = {name: column[close] for name, column in columns.items()}
    fives = {name: column[coarse] for name, column in columns.items()}
    folded = _folded(fives, fives["ts"] // COARSE_S * COARSE_S)
    order = np.argsort(np.concatenate((single["ts"], folded["ts"])), kind="stable")
    return {name: np.concatenate((single[name], folded[name]))[order] for name in columns}


def _folded(columns: Mapping[str, Ints], begins: Ints) -> dict[str, Ints]:
    """Fold seconds into rows, given when each second's row begins: extremes of prices, what stood at the close, mean quality."""
    if not len(begins):
        return dict(columns)
    starts = np.concatenate((np.zeros(1, np.int64), np.flatnonzero(np.diff(begins)) + 1))
    ends = np.append(starts[1:], len(begins)) - 1
    made = {name: column[ends] for name, column in columns.items()}
    made["ts"] = begins[starts]
    made["open"] = columns["open"][starts]
    made["high"] = np.maximum.reduceat(columns["high"], starts)
    made["low"] = np.minimum.reduceat(columns["low"], starts)
    made["quality"] = np.add.reduceat(columns["quality"], starts) // (ends - starts + 1)
    return made


def _column(name: str, values: Ints, listed: Instrument, shift: int, interest: int) -> Series:
    """Give a column its unit, and no more digits than it has or people read."""
    if name == "ts":
        return Series(name, "s UTC", 1, values)
    if name == "width":
        return Series(name, "s", 1, values)
    if name in ("open", "high", "low", "close"):
        return Series(name, listed.quote, 10 ** (listed.price_decimals - shift), values // 10**shift)
    if name in ("spot_cvd", "perp_cvd"):
        return Series(name, "USD", 1, np.rint(values / CENTS).astype(np.int64))
    if name == "open_interest":
        down = 10**interest
        return Series(name, listed.base, 10 ** (listed.qty_decimals - interest), (values + down // 2) // down)
    if name == "quality":
        return Series(name, "share", PPM, values)
    return Series(name, "points", 1000, values)


def _common_decimals(columns: Sequence[Ints], most: int) -> int:
    """Return how many last decimal digits all values have as zeros; integers stay exact without them."""
    shift = 0
    while shift < most and all((column % 10 ** (shift + 1) == 0).all() for column in columns):
        shift += 1
    return shift


def _interest_shift(values: Ints, most: int) -> int:
    """Return how many digits of open interest are beyond what people read."""
    top = int(values.max()) if len(values) else 0
    return max(0, min(most, len(str(top)) - OPEN_INTEREST_DIGITS))


def _quality(store: Store, spec: BacktestSpec, asset: str, days: Sequence[BacktestDay]) -> Quality:
    """Say how whole an asset's rows and markets were."""
    start, end = day_start_s(spec.start), day_start_s(spec.end) + DAY_S
    holes = sorted(
        ((int(a), int(b)) for day in days for a, b in day.facts.get("holes", ())),
        key=lambda hole: (hole[0] - hole[1], hole[0]),
    )
    venues = []
    for market in find_asset(operations.assets(store), asset).markets:
        covered = store.coverage(market.instrument, start, end)
        venues.append(
            VenueLine(
                instrument=market.instrument, weight=market.weight_ppm / PPM, seconds=sum(c.seconds for c in covered),
                complete=sum(c.complete for c in covered), gaps=len(store.gaps(market.instrument, start, end)),
            )
        )  # fmt: skip
    return Quality(
        asset=asset,
        seconds_expected=end - start,
        seconds=sum(int(day.facts["seconds"]) for day in days),
        incomplete=sum(int(day.facts["incomplete"]) for day in days),
        days=tuple(
            QualityDay(day=day.day, seconds=int(day.facts["seconds"]), incomplete=int(day.facts["incomplete"]),
                       holes=len(day.facts.get("holes", ())))
            for day in days
        ),
        holes=tuple(sorted(holes[:HOLES_MAX])),
        venues=tuple(venues),
    )  # fmt: skip


def _equity(store: Store, run: BacktestRun, spec: BacktestSpec, closes: Sequence[tuple[Ints, Ints]]) -> Pack:
    """Pack the account's points beside its drawdown and what holding all assets in equal parts was worth then."""
    ts, equity = store.equity(run.run_id)
    capital = spec.capital_usd * USD_E8
    peaks = np.maximum(np.maximum.accumulate(equity), capital) if len(equity) else equity
    kept = _kept_points(ts, equity, peaks, step_of(spec))
    ts, equity, peaks = ts[kept], equity[kept], peaks[kept]
    held = np.full(len(ts), 1.0 if not any(len(c) for _, c in closes) else 0.0)
    there = [(stamps, close) for stamps, close in closes if len(stamps)]
    for stamps, close in there:
        at = np.clip(np.searchsorted(stamps, ts, "right") - 1, 0, None)
        held += close[at] / close[0] / len(there)
    return pack([
        Series("ts", "s UTC", 1, ts),
        Series("equity", "USD", CENTS, np.rint(equity / (USD_E8 // CENTS)).astype(np.int64)),
        Series("drawdown", "share", DRAWDOWN_SCALE, np.rint((equity / np.maximum(peaks, 1) - 1) * DRAWDOWN_SCALE).astype(np.int64)),
        Series("holding", "USD", 1, np.rint(held * spec.capital_usd).astype(np.int64)),
    ])  # fmt: skip


def _kept_points(ts: Ints, equity: Ints, peaks: Ints, step: int) -> Bools:
    """Return which of the account's points are shown: all of them, or the last of each step and those of the deepest fall."""
    kept = np.ones(len(ts), np.bool_)
    if step == MINUTE_S or not len(ts):
        return kept
    kept[:-1] = ts[:-1] // step != ts[1:] // step
    low = int(np.argmin(equity / np.maximum(peaks, 1)))
    kept[[0, low, int(np.argmax(equity[: low + 1]))]] = True
    return kept
