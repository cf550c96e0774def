"""Series for charts: an asset's rows in steps as long as the screen needs, added up by the store, scored by the kernel."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from squeeze_reporting.board import BEFORE_S, Schedule
from squeezecore import squeeze
from squeezecore.adapters.store import Store
from squeezecore.errors import UsageError
from squeezecore.market import BASIS_SCALE, CENTS, DAY_S, FUNDING_SCALE, PPM, Instrument
from squeezecore.squeeze import F_LONG, F_SHORT, PHASE_SHIFT, PHASES, Features, SqueezeState

STEPS = (1, 5, 10, 30, 60, 300, 900, 3600, 14_400, DAY_S)
POINTS_MAX = 5_000
POINTS = 2_000  # at most, where the step is left to us
DAYS_KEPT = 64  # scanned days in memory, 1.3 MB each
KEPT_S = 600.0  # then a day is scanned anew: what was imported or repaired meanwhile shows
SCORE_SPAN_S_MAX = 3 * DAY_S  # a score is scanned, not stored: longer ranges come without
SCORED = {
    "score": pa.float64(), "phase": pa.string(), "reset_deceleration": pa.float64(), "absorption": pa.float64(),
    "failed_breakdown": pa.float64(), "reset_low": pa.float64(), "reset_high": pa.float64(),
}  # fmt: skip

_SQL = (
    "SELECT intDiv(toUnixTimestamp(ts), {step:UInt32}) * {step:UInt32} AS bucket, "
    "argMin(open, rows_1s.ts) AS open, max(high) AS high, min(low) AS low, argMax(close, rows_1s.ts) AS close, "
    "sum(spot_delta) AS spot_delta, sum(perp_delta) AS perp_delta, sum(spot_volume) AS spot_volume, "
    "sum(perp_volume) AS perp_volume, argMax(open_interest, rows_1s.ts) AS open_interest, "
    "argMax(funding_rate_8h, rows_1s.ts) AS funding_rate_8h, argMax(basis_bps, rows_1s.ts) AS basis_bps, "
    "sum(quality_ppm) AS quality, count() AS seconds FROM rows_1s FINAL WHERE asset = {asset:String} "
    "AND ts >= toDateTime({start:UInt32}, 'UTC') AND ts < toDateTime({end:UInt32}, 'UTC') GROUP BY bucket ORDER BY bucket"
)


def step_for(span_s: int) -> int:
    """Return the shortest step that gives at most `POINTS` points.

    >>> step_for(1800), step_for(3600), step_for(86_400), step_for(10**9)
    (1, 5, 60, 86400)
    """
    return next((step for step in STEPS if -(-span_s // step) <= POINTS), STEPS[-1])


def check_step(step: int | None, span_s: int) -> int:
    """Return the step that is meant, or refuse what would be too much."""
    if step is None:
        step = step_for(span_s)
    if step not in STEPS:
        raise UsageError(f"step was {step}, it can be {', '.join(map(str, STEPS))}")
    points = -(-span_s // step)
    if points > POINTS_MAX:
        longer = next((each for each in STEPS if -(-span_s // each) <= POINTS_MAX), None)
        hint = f"take step={longer}, or ask for less at once" if longer else "ask for less at once"
        raise UsageError(f"points were {points}, the limit of one answer is {POINTS_MAX}: {hint}")
    return step


class _Day(NamedTuple):
    """What the kernel says of an asset's UTC day, as far as it is stored; the state after it while it may go on."""

    features: Features
    state: SqueezeState | None
    scanned_s: float  # of the monotonic clock


class Scans:
    """The days of assets that were scanned lately. For one thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._days: OrderedDict[tuple[str, int], _Day] = OrderedDict()
        self._schedule: Schedule | None = None

    def features(self, schedule: Schedule, asset: str, start_s: int, end_s: int) -> Features:
        """Return what the kernel says of the seconds of `[start_s, end_s)` that have a row."""
        if schedule is not self._schedule:
            self._schedule = schedule
            self._days.clear()
        days = range(start_s // DAY_S, -(-end_s // DAY_S))
        return squeeze.join([self._day(schedule, asset, day, end_s) for day in days])

    def _day(self, schedule: Schedule, asset: str, day: int, end_s: int) -> Features:
        start, end, now_s = day * DAY_S, (day + 1) * DAY_S, time.monotonic()
        known = self._days.pop((asset, day), None)
        if known is None or now_s - known.scanned_s > KEPT_S:
            state = squeeze.initial(schedule.at(start))
            before = self._store.read_rows(asset, max(0, start - BEFORE_S), start)
            for params, block in schedule.parts(before):
                state, _ = squeeze.scan(params, state, block)
            known = _Day(squeeze.join([]), state, now_s)
        if known.state is not None and known.state.last_ts < min(end_s, end) - 1:
            state, blocks = known.state, [known.features] if len(known.features.ts) else []
            for params, block in schedule.parts(self._store.read_rows(asset, max(start, state.last_ts + 1), end)):
                state, features = squeeze.scan(params, state, block)
                blocks.append(features)
            known = _Day(squeeze.join(blocks), state if state.last_ts < end - 1 else None, known.scanned_s)
        self._days[asset, day] = known
        while len(self._days) > DAYS_KEPT:
            self._days.popitem(last=False)
        return known.features


def read(
    store: Store,
    scans: Scans,
    schedule: Schedule,
    asset: str,
    instrument: Instrument,
    start_s: int,
    end_s: int,
    step: int,
) -> pa.Table:
    """Return the steps that touch `[start_s, end_s)`, whole ones; one without a row is left out.

    Prices and open interest are the step's first, highest, lowest, last; flows are sums, quality is the mean of the rows
    that exist, a score the one furthest from zero with its direction's sign. What the kernel says is null where the range
    is too long to be scanned.
    """
    start, end = start_s // step * step, -(-end_s // step) * step
    found = store.query(_SQL, {"asset": asset, "start": max(0, start), "end": min(end, 2**32 - 1), "step": step})
    stored = {name: found[name].to_numpy() for name in found.column_names}
    price, qty = 10**instrument.price_decimals, 10**instrument.qty_decimals
    scales = {
        **dict.fromkeys(("open", "high", "low", "close"), price),
        **dict.fromkeys(("spot_delta", "perp_delta", "spot_volume", "perp_volume"), CENTS),
        "open_interest": qty, "funding_rate_8h": FUNDING_SCALE, "basis_bps": BASIS_SCALE,
    }  # fmt: skip
    columns: dict[str, Any] = {"ts": stored["bucket"].astype(np.int64)}
    columns |= {name: stored[name] / scale for name, scale in scales.items()}
    columns["quality"] = stored["quality"] / (stored["seconds"] * PPM)
    table = pa.table(columns)
    none = len(found) == 0 or end - start > SCORE_SPAN_S_MAX
    scored = {} if none else _scored(scans.features(schedule, asset, start, end), instrument, start, end, step)
    for name, kind in SCORED.items():
        table = table.append_column(name, pa.array(scored[name], kind) if scored else pa.nulls(len(found), kind))
    return table


def _scored(features: Features, instrument: Instrument, start_s: int, end_s: int, step: int) -> dict[str, Any]:
    """Return what the kernel says of each step."""
    found = steps_of(features, start_s, end_s, step)
    scale = 10**instrument.price_decimals
    for name in ("reset_low", "reset_high"):
        found[name] = [value / scale if value else None for value in found[name]]
    return found


def steps_of(features: Features, start_s: int, end_s: int, step: int) -> dict[str, Any]:
    """Return of each step of `[start_s, end_s)` its strongest second's score and parts, its last second's phase and range."""
    mine = slice(*features.ts.searchsorted((start_s, end_s)).tolist())
    ts, flags = features.ts[mine], features.flags[mine]
    begins = np.flatnonzero(np.diff(ts // step, prepend=-1))
    if not len(begins):
        return {name: [] for name in SCORED}
    sign = np.where(flags & F_LONG, 1, np.where(flags & F_SHORT, -1, 0))
    milli, count = features.score_milli[mine].astype(np.int64), len(ts)
    # The strongest of a step, the first of equal ones: the score before the place, counted from the end, in one number.
    key = np.maximum.reduceat(milli * count + np.arange(count)[::-1], begins)
    best, last = count - 1 - key % count, np.append(begins[1:], count) - 1
    parts = features.parts[features.part_ts.searchsorted(ts[best], "right") - 1] / 1000
    reset = features.reset[features.reset_ts.searchsorted(ts[last], "right") - 1]
    return {
        "score": sign[best] * milli[best] / 1000,
        "phase": [PHASES[int(bits) >> PHASE_SHIFT & 3] for bits in flags[last]],
        "reset_deceleration": parts[:, squeeze.PART_DECELERATION],
        "absorption": parts[:, squeeze.PART_ABSORPTION],
        "failed_breakdown": parts[:, squeeze.PART_BREAKDOWN],
        "reset_low": reset[:, squeeze.RESET_LOW].tolist(),
        "reset_high": reset[:, squeeze.RESET_HIGH].tolist(),
    }
