"""A backtest without IO: plan → map → seams → fold. Whoever calls supplies rows, processes and a place to keep results.

* `plan` cuts a spec into items, blocks of days of one asset; any partition of them may be scanned anywhere.
* `scan_block` is the map: the rows of an item's days (and of the warm-up before them) → a `DayScan` each: the day's tape,
  and fingerprints of the kernel's state at both ends.
* `seams` finds days that began from another state than the day before ended with; `repair` scans those again from the
  true state. After that, any partition gives the same scans, bit for bit.
* `Fold` takes the days in order and runs engine → limits → exchange → ledger over them: exact, each second accounted for,
  but only those seconds touched in which something can happen. Rows are asked for round orders and positions only.

A *hole*, a missing row, ends a position at the last close before it (`DATA_HOLE`, taker cost) and starts the asset's warm-up
afresh; it is reported, not raised. This module reads no clock and keeps no file; progress goes to a callback as values.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
import numba
import numpy as np
from numpy.typing import NDArray

from squeezecore import report, risk, squeeze, tape
from squeezecore.engine import RANGE_S, Engine, Entry, Look, SecondView, hard_risk, loss_floor_usd_e8, view_at
from squeezecore.errors import UsageError
from squeezecore.exchange import Exchange, FundingEvent, Market, Settled
from squeezecore.ledger import Drawdown, deepen, divide_half_away, equity_path, notional_usd_e8
from squeezecore.market import DAY_S, PPM, WARMUP_S, FundingSeries, Instrument, Rows, empty
from squeezecore.mixing import hash_words
from squeezecore.report import DayFacts, Summary, Trade, summarise
from squeezecore.spec import BacktestSpec, canonical, day_start_s, digest
from squeezecore.squeeze import Features, SqueezeParams, log_nano, params_from
from squeezecore.trading import (
    USD_E8,
    Decision,
    Direction,
    ExitReason,
    Fill,
    Order,
    OrderState,
    OrderUpdate,
    Parts,
)

Ints = NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., Any])
_njit = cast("Callable[[Function], Function]", numba.njit(cache=True))
ReadRows = Callable[[str, int, int], Rows]  # (asset, start_s, end_s) → the rows that exist in [start_s, end_s)

HOUR_S = 3_600
BLOCK_DAYS = 30  # days of a plan's item unless more shards are asked for
CHUNK_S = 3_600  # rows asked for at once while a position is held
PENDING_S = 20  # seconds looked at while an order is open
CLUSTER_HOURS = 168  # hourly returns behind the correlation clusters
CLUSTER_HOURS_MIN = 24


# --- plan ---


class Item(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A block of days of one asset: what one process scans without stopping."""

    asset: str
    first_day: dt.date
    n_days: int

    def days(self) -> list[dt.date]:
        """Return the item's days, in order."""
        return [self.first_day + dt.timedelta(n) for n in range(self.n_days)]


def plan(spec: BacktestSpec, shards: int = 0) -> tuple[Item, ...]:
    """Cut a spec into items; `plan(spec, n)[i::n]` for i in range(n) is a partition of its asset-days.

    Items are blocks of at most `BLOCK_DAYS` days, shorter ones when `shards` asks for more than that gives; a day is the
    finest. Each asset is cut alike, into lengths that differ by one day at most.
    """
    days = spec.days()
    blocks = max(-(-len(days) // BLOCK_DAYS), -(-shards // len(spec.assets)))
    blocks = min(blocks, len(days))
    borders = [len(days) * n // blocks for n in range(blocks + 1)]
    return tuple(
        Item(asset=asset, first_day=days[first], n_days=end - first)
        for asset in spec.assets
        for first, end in itertools.pairwise(borders)
    )


def run_id(spec: BacktestSpec, code_version: str) -> str:
    """Name a run by what determines it but the data: 32 hex digits."""
    return digest(canonical(spec), code_version.encode())


def warmup_start_s(day: dt.date, warmup_s: int = WARMUP_S) -> int:
    """Return the second at which the warm-up of a block that begins with `day` begins: a whole UTC hour."""
    return (day_start_s(day) - warmup_s) // HOUR_S * HOUR_S


# --- map ---


class DayScan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What scanning one asset's day said, and what proves it."""

    asset: str
    day: dt.date
    data_hash: str  # of the rows of the day and of the warm-up before it
    state_in: str  # fingerprint of the kernel's state before the day's first row
    state_out: str  # after its last
    tape: bytes  # the day's features
    seconds: int  # rows that exist
    incomplete: int  # of these, seconds with a venue missing
    holes: tuple[tuple[int, int], ...]  # missing seconds, [start_s, end_s)
    first_open: int  # price scale; 0 = no row
    last_close: int
    hour_closes: tuple[int, ...]  # last close of each of the 24 hours; 0 = no row in it

    @property
    def facts(self) -> DayFacts:
        """Return what a summary needs to know."""
        return DayFacts(
            asset=self.asset, day=self.day, seconds=self.seconds, incomplete=self.incomplete, holes=len(self.holes),
            first_open=self.first_open, last_close=self.last_close,
        )  # fmt: skip


def scan_block(
    params: SqueezeParams,
    asset: str,
    warmup: Rows,
    days: Iterable[tuple[dt.date, Rows]],
    warmup_s: int = WARMUP_S,
) -> Iterator[DayScan]:
    """Scan consecutive days of one asset from a fresh state, yielding each as it is done.

    `warmup` holds the rows of `[warmup_start_s(first day), first day)` that exist, `days` each day with those of its rows
    that exist (none is a hole of a day). Raises `UsageError` for rows outside of their span.
    """
    return (scan for scan, _ in scan_days(params, asset, warmup, days, warmup_s))


def scan_days(
    params: SqueezeParams,
    asset: str,
    warmup: Rows,
    days: Iterable[tuple[dt.date, Rows]],
    warmup_s: int = WARMUP_S,
) -> Iterator[tuple[DayScan, Features]]:
    """Scan as `scan_block` does, and yield what each day's tape holds too: who folds in the same process need not read it."""
    state = squeeze.initial(params)
    hours: dict[int, bytes] = {}
    if len(warmup.ts):
        state, _ = squeeze.scan(params, state, warmup)
        hours.update(hash_hours(warmup))
    before = squeeze.fingerprint(state)
    for day, rows in days:
        start_s = day_start_s(day)
        _demand_span(asset, rows.ts, start_s, start_s + DAY_S)
        hours.update(hash_hours(rows))
        state, features = squeeze.scan(params, state, rows)
        after = squeeze.fingerprint(state)
        yield _day_scan(asset, day, rows, features, data_hash(hours, day, warmup_s), before, after), features
        before = after
        past = warmup_start_s(day + dt.timedelta(1), warmup_s) // HOUR_S
        hours = {hour: value for hour, value in hours.items() if hour >= past}


def hash_hours(rows: Rows) -> dict[int, bytes]:
    """Hash the rows of each UTC hour (hours since 1970 → 16 bytes); every column and every row counts.

    For telling changed data, not for defending against somebody who forges it.
    """
    ts = np.ascontiguousarray(rows.ts)
    if not len(ts):
        return {}
    first, last = int(ts[0]) // HOUR_S, int(ts[-1]) // HOUR_S
    borders = np.searchsorted(ts, np.arange(first, last + 2) * HOUR_S)
    row = np.zeros(len(ts), np.uint64)
    words = [np.ascontiguousarray(column, np.int64).view(np.uint64) for column in rows]
    for k in range(0, len(words) - 3, 4):  # four at a time: the row's words are gone through a fifth as often
        a, b, c, d = words[k : k + 4]
        _weigh_four(a, b, c, d, _ODD[k], _ODD[k + 1], _ODD[k + 2], _ODD[k + 3], row)
    for k in range(len(words) // 4 * 4, len(words)):
        _weigh(words[k], _ODD[k], row)
    return {
        first + n: hash_words(row[start:end])
        for n, (start, end) in enumerate(itertools.pairwise(borders.tolist()))
        if end > start
    }


def data_hash(hours: Mapping[int, bytes], day: dt.date, warmup_s: int = WARMUP_S) -> str:
    """Hash a day's rows together with its warm-up's, from the hashes of their hours."""
    first, end = warmup_start_s(day, warmup_s) // HOUR_S, day_start_s(day) // HOUR_S + 24
    return digest(*(hour.to_bytes(8, "big") + hours[hour] for hour in range(first, end) if hour in hours))


_ODD = np.array(  # one odd multiplier a column; values of one row cancel out only if they are made to
    [int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") | 1 for name in Rows._fields],
    np.uint64,
)


@_njit
def _weigh_four(a: Any, b: Any, c: Any, d: Any, odd_a: Any, odd_b: Any, odd_c: Any, odd_d: Any, row: Any) -> None:
    """Add four columns to the hash words of their rows."""
    for i in range(len(row)):
        row[i] += a[i] * odd_a + b[i] * odd_b + c[i] * odd_c + d[i] * odd_d


@_njit
def _weigh(words: Any, odd: Any, row: Any) -> None:
    """Add one column to the hash words of its rows."""
    for i in range(len(row)):
        row[i] += words[i] * odd


def _demand_span(asset: str, ts: Ints, start_s: int, end_s: int) -> None:
    if len(ts) and not (start_s <= int(ts[0]) and int(ts[-1]) < end_s):
        raise UsageError(
            f"rows of {asset} were {ts[0]}..{ts[-1]}, the day's are {start_s}..{end_s - 1}: give each day its own rows"
        )


def _day_scan(asset: str, day: dt.date, rows: Rows, features: Features, data: str, before: str, after: str) -> DayScan:
    start_s = day_start_s(day)
    n = len(rows.ts)
    ends = np.searchsorted(rows.ts, start_s + np.arange(25) * HOUR_S) - 1
    closes = [int(rows.close[ends[h + 1]]) if ends[h + 1] > ends[h] else 0 for h in range(24)]
    return DayScan(
        asset=asset,
        day=day,
        data_hash=data,
        state_in=before,
        state_out=after,
        tape=tape.pack(features),
        seconds=n,
        incomplete=int(np.count_nonzero(rows.quality_ppm < PPM)),
        holes=holes_of(rows.ts, start_s, start_s + DAY_S),
        first_open=int(rows.open[0]) if n else 0,
        last_close=int(rows.close[-1]) if n else 0,
        hour_closes=tuple(closes),
    )


def holes_of(ts: Ints, start_s: int, end_s: int) -> tuple[tuple[int, int], ...]:
    """Return the missing seconds of a span as [start, end) pairs."""
    if len(ts) == end_s - start_s:
        return ()
    edges = np.concatenate((np.array([start_s - 1]), ts, np.array([end_s])))
    at = np.nonzero(np.diff(edges) > 1)[0]
    return tuple((int(edges[i]) + 1, int(edges[i + 1])) for i in at)


# --- seams ---


def seams(scans: Iterable[DayScan]) -> list[DayScan]:
    """Return the days that did not begin with the state in which the day before them ended."""
    ordered = sorted(scans, key=lambda s: (s.asset, s.day))
    return [
        scan
        for before, scan in itertools.pairwise(ordered)
        if before.asset == scan.asset and before.day + dt.timedelta(1) == scan.day and before.state_out != scan.state_in
    ]


def repair(scans: Iterable[DayScan], scan_from: Callable[[str, dt.date, dt.date], Iterator[DayScan]]) -> list[DayScan]:
    """Scan again, from the true state, every day that began with another; return those days' new scans.

    `scan_from(asset, first, last)` is `scan_block` over those days, with the warm-up before `first`, lazily. The true
    state is had by scanning an earlier day whose own warm-up leads to the state that is proven for it; the run's first
    day is true by definition. Scanning goes on until a day begins as it did before.
    """
    by_asset: dict[str, list[DayScan]] = {}
    for scan in sorted(scans, key=lambda s: (s.asset, s.day)):
        by_asset.setdefault(scan.asset, []).append(scan)
    repaired = []
    for asset, days in by_asset.items():
        place = 1
        while place < len(days):
            if days[place].state_in == days[place - 1].state_out:
                place += 1
                continue
            end = _repair_from(asset, days, place, scan_from)
            repaired += days[place:end]
            place = max(end, place + 1)
    return repaired


def _repair_from(
    asset: str, days: list[DayScan], place: int, scan_from: Callable[[str, dt.date, dt.date], Iterator[DayScan]]
) -> int:
    """Replace `days[place]` and on until a day begins with the state it began with; return the index of that day."""
    back = 1
    while True:
        start = max(0, place - back)
        stream = scan_from(asset, days[start].day, days[-1].day)
        scan = next(stream)
        if start == 0 or scan.state_in == days[start].state_in:
            break
        back *= 2
    for index in range(start, len(days)):
        if index > start:
            scan = next(stream)
        if index < place:
            continue
        if scan.state_in == days[index].state_in:
            return index
        days[index] = scan
    return len(days)


def missing(spec: BacktestSpec, stored: Iterable[DayScan], hashes: Mapping[tuple[str, dt.date], str]) -> list[Item]:
    """Return the items still to be scanned: days that are not stored, or whose rows' `data_hash` is another now.

    `hashes` may hold the present hash of some days only; a stored day without one is taken as it is.
    """
    done = {(s.asset, s.day) for s in stored if hashes.get((s.asset, s.day), s.data_hash) == s.data_hash}
    items: list[Item] = []
    for asset in spec.assets:
        first: dt.date | None = None
        for day in [*spec.days(), None]:
            if day is not None and (asset, day) not in done:
                first = first or day
            elif first is not None:
                end = day or spec.end + dt.timedelta(1)
                items.append(Item(asset=asset, first_day=first, n_days=(end - first).days))
                first = None
    return items


# --- fold ---


class DayResult(NamedTuple):
    """What one day of the fold brought; the caller may store it and forget it."""

    day: dt.date
    trades: tuple[Trade, ...]  # closed in this day, by exit
    equity_ts: Ints  # s: the last second of each minute and each second with a fill
    equity_usd_e8: Ints
    decisions: tuple[Decision, ...]  # by second, then asset
    orders: tuple[Order, ...]
    updates: tuple[OrderUpdate, ...]
    fills: tuple[Fill, ...]


class Result(NamedTuple):
    """A finished run. `closing` is what closing the last positions brought (reason `END_OF_RUN`)."""

    run_id: str
    result_hash: str
    data_hash: str  # of all days
    params_hash: str
    code_version: str
    summary: Summary
    trades: tuple[Trade, ...]
    equity_ts: Ints
    equity_usd_e8: Ints
    closing: DayResult

    def lines(self) -> list[str]:
        """Return the receipt, the summary and every trade as sorted `key=value` lines; what golden files hold."""
        head = {
            name: getattr(self, name) for name in ("run_id", "result_hash", "data_hash", "params_hash", "code_version")
        }
        return report.lines({**head, "summary": self.summary, "trade": self.trades})


class Progress(NamedTuple):
    """How far a run is; `done` of `total` asset-days."""

    stage: str  # scan | repair | fold
    day: dt.date
    done: int
    total: int


class _Open:
    """A trade that has not ended: sums over its fills."""

    def __init__(self, fill: Fill, entry: Entry | None) -> None:
        self.entry = entry
        self.entry_ts = fill.ts
        self.entry_order_id = fill.order_id
        self.direction = Direction(fill.side.sign)
        self.held = 0  # qty scale
        self.bought = [0, 0, 0]  # entry side: qty, notional in usd_e8, sum of price × qty
        self.sold = [0, 0, 0]
        self.fees = self.slippage = self.funding = 0

    def add(self, fill: Fill, instrument: Instrument) -> None:
        """Count a fill."""
        entering = fill.side.sign == self.direction
        sums = self.bought if entering else self.sold
        sums[0] += fill.qty
        sums[1] += notional_usd_e8(instrument, fill.price, fill.qty)
        sums[2] += fill.price * fill.qty
        self.held += fill.qty if entering else -fill.qty
        self.fees += fill.fee_usd_e8
        self.slippage += fill.slippage_usd_e8

    def close(self, fill: Fill) -> Trade:
        """End the trade with its last fill."""
        entry, sign = self.entry, int(self.direction)
        return Trade(
            asset=fill.asset,
            instrument=fill.instrument,
            direction=self.direction,
            tier=entry.tier if entry else 1,
            score_milli=entry.score_milli if entry else 0,
            decided_ts=entry.decided_ts if entry else self.entry_ts,
            entry_ts=self.entry_ts,
            exit_ts=fill.ts,
            entry_order_id=self.entry_order_id,
            exit_order_id=fill.order_id,
            qty=self.bought[0],
            entry_price=divide_half_away(self.bought[2], self.bought[0]),
            exit_price=divide_half_away(self.sold[2], self.sold[0]),
            entry_usd_e8=self.bought[1],
            exit_usd_e8=self.sold[1],
            fees_usd_e8=self.fees,
            slippage_usd_e8=self.slippage,
            funding_usd_e8=self.funding,
            pnl_usd_e8=sign * (self.sold[1] - self.bought[1]) - self.fees + self.funding,
            level=entry.level if entry else 0,
            reason=fill.reason,
        )


class _Lane:
    """One asset's day in the fold: its features, how far they are counted, and the rows read round positions."""

    def __init__(self, asset: str, instrument: Instrument, last_close: int) -> None:
        self.asset = asset
        self.name = instrument.id
        self.last_close = last_close  # of the day before; price scale, 0 = never seen
        self.cursor = 0  # first second that is not counted
        self.look: Look | None = None
        self.look_end_s = 0  # first second it does not cover, where it found nothing
        self.pending: tuple[Order, ...] = ()  # open orders when it was looked at
        self.take_rows(empty(Rows), 0, 0)  # a window of rows, and what was asked for to have it
        self.begin(squeeze.join([]))

    def take_rows(self, rows: Rows, start_s: int, end_s: int) -> None:
        """Take a window of rows, all that exist in [start_s, end_s)."""
        self.rows, self.rows_start_s, self.rows_end_s = rows, start_s, end_s
        self.rows_first_s = int(rows.ts[0]) if len(rows.ts) else 0
        self.rows_dense = len(rows.ts) > 0 and int(rows.ts[-1]) - self.rows_first_s == len(rows.ts) - 1

    def begin(self, features: Features) -> None:
        """Take the features of a new day."""
        self.features, self.cursor, self.look = features, 0, None
        self.count = len(features.ts)
        self.start_s = int(features.ts[0]) if self.count else 0
        self.dense = self.count > 0 and int(features.ts[-1]) - self.start_s == self.count - 1

    def index(self, ts: int) -> int:
        """Return the index of the first second at or after `ts`."""
        at = ts - self.start_s
        if self.dense and 0 <= at <= self.count:
            return at
        return int(self.features.ts.searchsorted(ts))

    def has(self, ts: int) -> bool:
        """Tell whether the second's row exists."""
        at = ts - self.start_s
        if self.dense:
            return 0 <= at < self.count
        at = int(self.features.ts.searchsorted(ts))
        return at < self.count and int(self.features.ts[at]) == ts

    def stops_at(self, ts: int) -> bool:
        """Tell whether a second was found in which something happens."""
        return self.look is not None and self.look.found and int(self.features.ts[self.look.stop]) == ts

    def covers(self, ts: int) -> bool:
        """Tell whether the window of rows holds a second and the half hour before it."""
        return self.rows_start_s <= ts + 1 - RANGE_S and ts < self.rows_end_s

    def unbroken(self, first: int, end_s: int) -> int:
        """Return the end of the contiguous seconds from index `first`, none at or after `end_s`."""
        seconds = self.features.ts
        end = self.index(end_s)
        if end > first and int(seconds[end - 1]) - int(seconds[first]) != end - 1 - first:
            end = first + 1 + int(np.argmax(np.diff(seconds[first:end]) != 1))
        return end


class Fold:
    """A run's days, in order → trades, equity, decisions. Holds what one day needs, and the points and trades so far.

    `instruments` names the traded instrument of each of the spec's assets, `funding` its settled funding where it has any.
    With `every_second` nothing is skipped: the same result, byte for byte, a thousand times slower (a test holds it).
    """

    def __init__(
        self,
        spec: BacktestSpec,
        instruments: Mapping[str, Instrument],
        funding: Mapping[str, FundingSeries] | None = None,
        code_version: str = "",
        *,
        progress: Callable[[Progress], None] | None = None,
        every_second: bool = False,
    ) -> None:
        absent = [asset for asset in spec.assets if asset not in instruments]
        if absent:
            raise UsageError(
                f"assets were {', '.join(spec.assets)}, no traded instrument is known for {', '.join(absent)}"
            )
        assets = {asset: instruments[asset] for asset in sorted(spec.assets)}
        self._spec, self._code_version = spec, code_version
        self._params = params_from(spec.params)
        self._days = spec.days()
        self._capital = spec.capital_usd * USD_E8
        self._engine = Engine(self._params, assets, spec.costs, spec.limits, spec.account)
        self._by_id = {instrument.id: instrument for instrument in assets.values()}
        self._exchange = Exchange(self._by_id, spec.costs, self._capital, account=spec.account)
        self._lanes = {asset: _Lane(asset, instrument, 0) for asset, instrument in assets.items()}
        self._funding = _funding_events(assets, funding or {})
        self._funding_next = 0
        self._marks = risk.marks_at(day_start_s(spec.start), self._capital)
        self._drawdown = Drawdown(self._capital, 0, 0.0)
        self._open: dict[str, _Open] = {}
        self._sent: deque[int] = deque()  # seconds of the last minute's orders
        self._hours: dict[str, list[int]] = {asset: [] for asset in assets}
        self._clusters: tuple[tuple[str, ...], ...] = ()
        self._every_second = every_second
        self._progress = progress
        self._done = 0
        self._held_s = self._run_s = self._records = self._repaired = 0
        self._facts: list[DayFacts] = []
        self._trades: list[Trade] = []
        self._points: list[tuple[Ints, Ints]] = []
        self._data = hashlib.blake2b(digest_size=16)
        self._day = _Day(spec.start)
        self._read: ReadRows = _no_rows

    # --- days ---

    def add_day(
        self,
        day: dt.date,
        scans: Mapping[str, DayScan],
        read_rows: ReadRows,
        features: Mapping[str, Features] | None = None,
    ) -> DayResult:
        """Fold one day; days must come in the spec's order, each once.

        `scans` holds the day of each asset (an absent one is a hole of a day), seams repaired. `read_rows` is asked for
        rows of this day and of the half hour before it. `features` are what the tapes hold, of assets whose caller has them.
        """
        if self._done == len(self._days) or day != self._days[self._done]:
            expected = self._days[self._done] if self._done < len(self._days) else "none, all are done"
            raise UsageError(f"day was {day}, the next to fold is {expected}: fold the days in order, each once")
        self._day, self._read = _Day(day), read_rows
        self._clusters = self._find_clusters()
        for asset, lane in self._lanes.items():
            scan = scans.get(asset) or _absent(asset, day)
            found = (features or {}).get(asset)
            lane.begin(found or (tape.unpack(scan.tape) if scan.tape else squeeze.join([])))
            self._data.update(f"{asset} {day} {scan.data_hash}\n".encode())
            self._facts.append(scan.facts)
        self._run(self._day.start_s, self._day.start_s + DAY_S)
        for asset, lane in self._lanes.items():
            scan = scans.get(asset) or _absent(asset, day)
            lane.last_close = scan.last_close or lane.last_close
            self._hours[asset] = [*self._hours[asset], *scan.hour_closes][-CLUSTER_HOURS - 1 :]
        self._done += 1
        self._run_s += DAY_S
        self._drawdown = deepen(self._drawdown, self._day.equity)
        if self._progress is not None:
            self._progress(Progress("fold", day, self._done, len(self._days)))
        return self._keep(self._day.result())

    def finish(self, seams_repaired: int = 0) -> Result:
        """Close what is still open at the last close, add up, and sign the result."""
        if self._done < len(self._days):
            raise UsageError(f"days folded were {self._done}, the run has {len(self._days)}: fold all, then finish")
        end_s = day_start_s(self._days[-1]) + DAY_S
        self._day = _Day(self._days[-1])
        for asset, lane in self._lanes.items():
            if self._exchange.ledger.qty_of(lane.name):
                settled = self._exchange.close_out(end_s, lane.name, lane.last_close, ExitReason.END_OF_RUN)
                self._book_in(settled)
                self._day.decisions.append(_forced(asset, end_s, ExitReason.END_OF_RUN, settled, self._params.hash))
        equity = self._exchange.ledger.check()
        self._drawdown = deepen(self._drawdown, np.array([equity]))
        closing = self._keep(self._day.closing(end_s, equity))
        summary = summarise(
            self._trades, self._facts, capital_usd_e8=self._capital, equity_usd_e8=equity, drawdown=self._drawdown,
            seconds_held=self._held_s, seconds_run=self._run_s, records=self._records, seams_repaired=seams_repaired,
        )  # fmt: skip
        return self._sign(summary, closing)

    def _keep(self, result: DayResult) -> DayResult:
        self._trades += result.trades
        self._points.append((result.equity_ts, result.equity_usd_e8))
        self._records += len(result.decisions)
        return result

    def _sign(self, summary: Summary, closing: DayResult) -> Result:
        spec = canonical(self._spec)
        ts, equity = (np.concatenate([points[n] for points in self._points]) for n in range(2))
        data = self._data.hexdigest()
        trades = tuple(self._trades)
        signed = digest(
            spec, self._code_version.encode(), data.encode(), b"\n".join(canonical(trade) for trade in trades),
            ts.astype("<i8").tobytes(), equity.astype("<i8").tobytes(),
        )  # fmt: skip
        return Result(
            run_id(self._spec, self._code_version), signed, data, self._params.hash, self._code_version,
            summary, trades, ts, equity, closing,
        )  # fmt: skip

    # --- time ---

    def _run(self, now: int, end: int) -> None:
        """Go through [now, end): quiet spans in one pass, eventful seconds one by one."""
        while now < end:
            target, eventful = self._next_event(now, end)
            reached = self._rest(now, target) if target > now else now
            if reached < target:
                target, eventful = reached, True
            now = target
            if eventful and now < end:
                now = self._work(now, end)
            for lane in self._lanes.values():
                if lane.look is not None and not lane.look.found and lane.look_end_s <= now:
                    self._catch_up(lane, now)

    def _next_event(self, now: int, end: int) -> tuple[int, bool]:
        """Return the next second in [now, end) that must be stepped (True), or up to which can be rested (False)."""
        if self._every_second:
            there = not self._exchange.idle or any(lane.has(now) for lane in self._lanes.values())
            return (now, True) if there else (now + 1, False)
        orders = self._exchange.open_orders()
        target, eventful = (now, True) if orders else (end, False)
        for asset, lane in self._lanes.items():
            if lane.look is None:
                lane.pending = tuple(order for order, _ in orders if order.asset == asset)
            elif orders:
                continue  # this second is stepped anyhow
            at, needed = self._next_of(lane, now, end)
            if at < target or (at == target and needed):
                target, eventful = at, needed
        if self._exchange.ledger.positions:
            funded = self._next_funding(now)
            if funded <= target and funded < end:
                return funded, True
        return target, eventful

    def _next_of(self, lane: _Lane, now: int, end: int) -> tuple[int, bool]:
        """Return the next second that one asset needs stepped, or up to which it was looked at."""
        engaged = bool(lane.pending) or self._exchange.ledger.qty_of(lane.name) != 0
        if lane.look is None:
            if engaged and not lane.has(now):
                return now, True  # a hole begins
            lane.cursor = lane.index(now)
            lane.look = self._look(lane, lane.cursor, end)
        if lane.look.found:
            return int(lane.features.ts[lane.look.stop]), True
        return lane.look_end_s, engaged and lane.look_end_s < end and not lane.has(lane.look_end_s)

    def _look(self, lane: _Lane, first: int, end: int) -> Look:
        """Look at an asset's seconds from index `first` to second `end`: all while it is flat, else as far as rows go."""
        features = lane.features
        lane.look_end_s = end
        if not lane.pending and self._engine.entry_of(lane.asset) is None:
            window = lane.rows if first < len(features.ts) and lane.covers(int(features.ts[first])) else None
            return self._engine.look(lane.asset, features, first, lane.index(end), window)
        start_s = int(features.ts[first])
        stop = lane.unbroken(first, min(start_s + (PENDING_S if lane.pending else CHUNK_S), end))
        lane.look_end_s = start_s + stop - first
        at = self._reach(lane, start_s, lane.look_end_s)
        return self._engine.look(lane.asset, features, first, stop, lane.rows, at, pending=lane.pending)

    def _catch_up(self, lane: _Lane, ts: int) -> None:
        """Let the engine count and record an asset's seconds before `ts`."""
        end = lane.index(ts)
        look, lane.look = lane.look, None
        while lane.cursor < end:
            if look is None or look.first != lane.cursor or look.stop > end:
                look = self._look(lane, lane.cursor, ts)
            assert not look.found or look.stop >= end, (
                f"{lane.asset}: second {ts} was to be reached, something stands at index {look.stop}"
            )
            self._day.decisions += self._engine.skip(look)
            lane.cursor, look = look.stop, None

    def _rest(self, now: int, target: int) -> int:
        """Account for the quiet seconds [now, target); return the first one that is not quiet after all."""
        ledger, first = self._exchange.ledger, now - self._day.start_s
        if not ledger.positions:
            equity = ledger.equity_usd_e8
            self._day.equity[first : target - self._day.start_s] = equity
            self._marks = risk.advance(self._marks, now, equity)
            return target
        columns = {}
        for lane in self._lanes.values():
            if ledger.qty_of(lane.name):
                at = self._reach(lane, now, target)
                columns[lane.name] = lane.rows.mark[at : at + target - now]
        path = ledger.equity_path(columns)
        marks = risk.advance(self._marks, now, int(path[0]))
        quiet = self._until_hard_risk(path, columns, marks.day_open_usd_e8)
        if quiet:
            past = {name: column[:quiet] for name, column in columns.items()}
            path = self._exchange.skip(now + quiet - 1, past, path[:quiet])
            quiet = len(path)  # shorter where the exchange would liquidate
        if quiet:
            self._marks = marks._replace(peak_usd_e8=max(marks.peak_usd_e8, int(path.max())))
            self._day.equity[first : first + quiet] = path
            self._held_s += quiet
        return now + quiet

    def _until_hard_risk(self, path: Ints, marks: Mapping[str, Ints], day_open_usd_e8: int) -> int:
        """Return how many seconds of a span no hard limit of the account is broken in."""
        limits, positions = self._spec.limits, self._exchange.ledger.positions
        floor = loss_floor_usd_e8(day_open_usd_e8, limits)
        distance, lowest = limits.liquidation_distance_min, int(path.min())
        gross_max = sum(
            abs(notional_usd_e8(self._by_id[name], int(column.max()), positions[name].qty))
            for name, column in marks.items()
        )
        if lowest > max(floor, gross_max * distance):
            return len(path)
        broken = path <= floor
        if lowest <= gross_max * distance:
            names = list(marks)
            grid = np.array([marks[name] for name in names])
            sizes = [abs(positions[name].qty) for name in names]
            gross = equity_path(0, grid, sizes, [0] * len(names), [self._by_id[name] for name in names])
            broken |= path <= np.floor(gross * distance)
        return int(broken.argmax()) if broken.any() else len(path)

    # --- one second ---

    def _work(self, now: int, end: int) -> int:
        """Step second `now`, and those after it in which orders fill and nobody needs the engine; return the next one."""
        last = self._until_needed(now, end)
        if last == now:
            self._step(now)
            return now + 1
        involved = self._involved()
        for lane in involved:
            self._reach(lane, now, last)
        ts = now
        while ts < last:
            orders = {order.id: order for order, _ in self._exchange.open_orders()}
            if not orders:
                return ts
            touched, done = self._fill(ts, last, orders, involved)
            if not done:
                touched, done = self._settle_with(ts, self._markets(involved, ts), orders, []), 1
                self._measure(ts, touched)
            ts += done
            if touched:
                self._decide(ts - 1, touched, self._markets(involved, ts - 1))
                return ts
        return last

    def _markets(self, lanes: Iterable[_Lane], ts: int) -> dict[str, Market]:
        return {lane.name: _market_at(lane.rows, self._reach(lane, ts, ts + 1)) for lane in lanes}

    def _fill(self, ts: int, last: int, orders: Mapping[str, Order], involved: Sequence[_Lane]) -> tuple[set[str], int]:
        """Settle seconds from `ts` on in one pass where there is one plain order; return who was touched, and how many."""
        first, limits, exchange = ts - self._day.start_s, self._spec.limits, self._exchange
        if len(involved) != 1 or len(orders) != 1 or not first:
            return set(), 0  # a day's first second opens its marks
        rows, at = involved[0].rows, self._reach(involved[0], ts, last)
        columns = (rows.open, rows.high, rows.low, rows.buy_qty, rows.sell_qty, rows.mark)
        seconds = [column[at : at + last - ts] for column in columns]
        floor = loss_floor_usd_e8(self._marks.day_open_usd_e8, limits)
        held = bool(exchange.ledger.positions)
        settled, equity = exchange.fill(ts, involved[0].name, seconds, floor, limits.liquidation_distance_min)
        done = len(equity)
        if done:
            self._day.equity[first : first + done] = equity
            self._marks = self._marks._replace(peak_usd_e8=max(self._marks.peak_usd_e8, int(equity.max())))
            holds = bool(exchange.ledger.positions)  # a position begins or ends in the last second only
            self._held_s += done - (not holds) if held else int(holds)
        return self._touched_by(settled, orders), done

    def _until_needed(self, now: int, end: int) -> int:
        """Return the first second from `now` on in which an asset, funding or a hole may need more than the exchange."""
        if self._every_second or not self._exchange.open_orders():
            return now
        last = min(end, self._next_funding(now))
        for lane in self._lanes.values():
            if lane.look is None:
                return now
            last = min(last, int(lane.features.ts[lane.look.stop]) if lane.look.found else lane.look_end_s)
        return max(now, last)

    def _involved(self) -> list[_Lane]:
        """Return the assets with a position or an open order."""
        names = {order.asset for order, _ in self._exchange.open_orders()}
        names |= {position.asset for position in self._exchange.ledger.positions.values()}
        return [self._lanes[asset] for asset in sorted(names)]

    def _step(self, ts: int) -> None:
        """Let one second happen: the exchange settles, the engine decides, the limits are asked, orders go out."""
        touched = (
            set(self._lanes) if self._every_second else {a for a, lane in self._lanes.items() if lane.stops_at(ts)}
        )
        market = {} if self._exchange.idle else self._settle(ts, touched)
        if self._measure(ts, touched):
            self._decide(ts, touched, market)

    def _measure(self, ts: int, touched: set[str]) -> bool:
        """Note the equity of a second, adding whom a hard limit concerns; return whether the engine must see anybody."""
        ledger = self._exchange.ledger
        equity = ledger.equity_usd_e8
        self._day.equity[ts - self._day.start_s] = equity
        if equity > self._marks.peak_usd_e8 or ts == self._day.start_s:
            self._marks = risk.advance(self._marks, ts, equity)
        if ledger.positions:
            self._held_s += 1
            if hard_risk(equity, self._marks.day_open_usd_e8, self._gross(), self._spec.limits):
                touched |= {position.asset for position in ledger.positions.values()}
        return bool(touched)

    def _gross(self) -> int:
        ledger = self._exchange.ledger
        return sum(abs(ledger.value_of(name)) for name in ledger.positions)

    def _decide(self, ts: int, touched: set[str], market: dict[str, Market]) -> None:
        """Let the engine see the touched assets at the close of a second, and send what it orders."""
        views: dict[str, SecondView] = {}
        for asset in sorted(touched):
            lane = self._lanes[asset]
            self._catch_up(lane, ts)
            if lane.has(ts):
                at = self._reach(lane, ts, ts + 1)
                views[asset] = view_at(lane.features, lane.cursor, lane.rows, at)
                lane.cursor += 1
                market.setdefault(lane.name, _market_at(lane.rows, at))
        book = self._book(ts, market)
        decided = self._engine.process(ts, views, book)
        self._day.decisions += decided.decisions
        for name in decided.cancels:
            self._exchange.cancel(name, ts)
        for order in decided.orders:
            book = self._send(order, book, ts)

    def _settle(self, ts: int, touched: set[str]) -> dict[str, Market]:
        """Let the exchange have the second of every asset with a position or an order; holes end both.

        Adds to `touched` the assets whose orders or position began or ended: the engine must see those.
        """
        market: dict[str, Market] = {}
        broken = []
        for lane in self._involved():
            if lane.has(ts):
                at = self._reach(lane, ts, ts + 1)  # first: it may bring other rows
                market[lane.name] = _market_at(lane.rows, at)
            else:
                broken.append(lane)
        orders = {order.id: order for order, _ in self._exchange.open_orders()}
        touched |= self._settle_with(ts, market, orders, self._funding_at(ts))
        for lane in broken:
            self._catch_up(lane, ts)
            price = self._close_before(lane)
            settled = self._exchange.close_out(ts, lane.name, price, ExitReason.DATA_HOLE)
            self._book_in(settled)
            touched.add(lane.asset)
            if settled.fills:
                self._day.decisions.append(_forced(lane.asset, ts, ExitReason.DATA_HOLE, settled, self._params.hash))
        return market

    def _settle_with(
        self, ts: int, market: Mapping[str, Market], orders: Mapping[str, Order], funding: list[FundingEvent]
    ) -> set[str]:
        """Settle a second; return the assets whose position began or ended, or whose order ended without a position."""
        return self._touched_by(self._exchange.settle(ts, market, funding), orders)

    def _touched_by(self, settled: Settled, orders: Mapping[str, Order]) -> set[str]:
        """Book what was settled; return whom the engine must see for it."""
        touched = self._book_in(settled)
        for update in settled.updates:
            order = orders.get(update.order_id)
            if order is None or update.state is OrderState.PARTIAL:
                continue
            if order.reduce_only or not self._exchange.ledger.qty_of(order.instrument):
                touched.add(order.asset)  # an entry that ends with a position changes nothing for its exits
        return touched

    def _close_before(self, lane: _Lane) -> int:
        """Return the close of the last second that is counted."""
        if lane.cursor == 0:
            return lane.last_close
        at = self._reach(lane, int(lane.features.ts[lane.cursor - 1]), int(lane.features.ts[lane.cursor - 1]) + 1)
        return int(lane.rows.close[at])

    def _book_in(self, settled: Settled) -> set[str]:
        """Count fills and funding into trades, ended ones go to the day; return whose position began or ended."""
        changed = set()
        for payment in settled.payments:
            self._open[payment.instrument].funding += payment.received_usd_e8
        for fill in settled.fills:
            trade = self._open.get(fill.instrument)
            if trade is None:
                trade = self._open[fill.instrument] = _Open(fill, self._engine.entry_of(fill.asset))
                changed.add(fill.asset)
            trade.add(fill, self._by_id[fill.instrument])
            if trade.held == 0:
                self._day.trades.append(trade.close(fill))
                del self._open[fill.instrument]
                changed.add(fill.asset)
        self._day.fills += settled.fills
        self._day.updates += settled.updates
        return changed

    def _book(self, ts: int, market: Mapping[str, Market]) -> risk.Book:
        """Show the account as it stands at the close of a second."""
        ledger = self._exchange.ledger
        while self._sent and self._sent[0] <= ts - 60:
            self._sent.popleft()
        return risk.Book(
            ts=ts,
            equity_usd_e8=ledger.equity_usd_e8,
            day_open_usd_e8=self._marks.day_open_usd_e8,
            week_open_usd_e8=self._marks.week_open_usd_e8,
            peak_usd_e8=self._marks.peak_usd_e8,
            instruments=self._by_id,
            last_close={name: second.close for name, second in market.items()},
            last_data_ts=dict.fromkeys(market, ts),
            holdings=tuple(
                risk.Holding(asset=p.asset, instrument=name, qty=p.qty) for name, p in sorted(ledger.positions.items())
            ),
            open_orders=tuple(risk.Pending(order, rest) for order, rest in self._exchange.open_orders()),
            orders_last_minute=len(self._sent),
            clusters=self._clusters,
            gross_usd_e8=self._gross(),
        )

    def _send(self, order: Order, book: risk.Book, ts: int) -> risk.Book:
        """Ask the limits, then send; return the book with the order in it."""
        self._day.orders.append(order)
        denied = risk.check(order, book, self._spec.limits)
        if denied is not None:
            self._day.updates.append(denied.update(order, ts))
            return book
        self._day.updates.append(self._exchange.submit(order, ts))
        self._sent.append(ts)
        return book.with_order(order)

    # --- rows, funding, correlations ---

    def _reach(self, lane: _Lane, start_s: int, end_s: int) -> int:
        """Have the rows [start_s, end_s), and the 1,799 before them, in the lane's window; return the index of the first."""
        before_s = start_s + 1 - RANGE_S
        if not (lane.covers(start_s) and end_s <= lane.rows_end_s):
            last_s = max(end_s, min(start_s + CHUNK_S, self._day.start_s + DAY_S))
            lane.take_rows(self._read(lane.asset, before_s, last_s), before_s, last_s)
        ts = lane.rows.ts
        at = start_s - lane.rows_first_s if lane.rows_dense else int(ts.searchsorted(start_s))
        end = at + end_s - start_s
        if lane.rows_dense and at >= 0 and end <= len(ts):
            return at
        if end > len(ts) or int(ts[at]) != start_s or int(ts[end - 1]) != end_s - 1:
            raise UsageError(
                f"rows of {lane.asset} for {start_s}..{end_s - 1} were not all there, the scan had seen them: "
                "scan the day again (--fresh)"
            )
        return at

    def _next_funding(self, now: int) -> int:
        while self._funding_next < len(self._funding) and self._funding[self._funding_next].event_ts < now:
            self._funding_next += 1
        if self._funding_next == len(self._funding):
            return 2**62
        return self._funding[self._funding_next].event_ts

    def _funding_at(self, ts: int) -> list[FundingEvent]:
        events = []
        while self._next_funding(ts) <= ts:
            events.append(self._funding[self._funding_next])
            self._funding_next += 1
        return events

    def _find_clusters(self) -> tuple[tuple[str, ...], ...]:
        """Group assets by the correlation of their hourly returns over the last week, known when the day begins."""
        hours = min((len(closes) for closes in self._hours.values()), default=0)
        if len(self._lanes) < 2 or hours <= CLUSTER_HOURS_MIN:
            return ()
        returns = {asset: _hourly_returns(closes[-hours:]) for asset, closes in self._hours.items()}
        return risk.clusters(risk.correlations(returns), self._spec.limits.correlation_min)


class _Day:
    """What a day of the fold gathers."""

    def __init__(self, day: dt.date) -> None:
        self.day = day
        self.start_s = day_start_s(day)
        self.equity = np.zeros(DAY_S, np.int64)
        self.trades: list[Trade] = []
        self.decisions: list[Decision] = []
        self.orders: list[Order] = []
        self.updates: list[OrderUpdate] = []
        self.fills: list[Fill] = []

    def result(self) -> DayResult:
        """Return the day with a point of equity a minute and at each fill."""
        wanted = np.zeros(DAY_S, np.bool_)
        wanted[59::60] = True
        wanted[[fill.ts - self.start_s for fill in self.fills]] = True
        points = np.flatnonzero(wanted)
        return self._with(self.start_s + points, self.equity[points])

    def closing(self, ts: int, equity: int) -> DayResult:
        """Return what the end of the run brought."""
        count = 1 if self.fills else 0
        return self._with(np.full(count, ts, np.int64), np.full(count, equity, np.int64))

    def _with(self, ts: Ints, equity: Ints) -> DayResult:
        decisions = sorted(self.decisions, key=lambda d: (d.ts, d.asset))  # stable: one second's keep their order
        return DayResult(
            self.day, tuple(self.trades), ts, equity, tuple(decisions), tuple(self.orders), tuple(self.updates),
            tuple(self.fills),
        )  # fmt: skip


# --- leaves ---


def _market_at(rows: Rows, at: int) -> Market:
    return Market(
        int(rows.open[at]), int(rows.high[at]), int(rows.low[at]), int(rows.close[at]),
        int(rows.buy_qty[at]), int(rows.sell_qty[at]), int(rows.mark[at]),
    )  # fmt: skip


def _no_rows(asset: str, start_s: int, end_s: int) -> Rows:
    raise UsageError(f"rows of {asset} for {start_s}..{end_s} were asked for before the first day")


def _funding_events(assets: Mapping[str, Instrument], funding: Mapping[str, FundingSeries]) -> list[FundingEvent]:
    """Return all settlements of the traded instruments, in order of time, then instrument."""
    events = [
        FundingEvent(assets[asset].id, int(event), int(rate))
        for asset, series in funding.items()
        if asset in assets
        for event, rate in zip(series.event_ts, series.rate, strict=True)
    ]
    return sorted(events, key=lambda e: (e.event_ts, e.instrument))


def _forced(asset: str, ts: int, reason: str, settled: Settled, params_hash: str) -> Decision:
    """Record an exit that no second of the market decided."""
    return Decision(
        asset=asset, ts=ts, kind="exit", direction=Direction.NEUTRAL, score_milli=0, parts=Parts(), phase="IDLE",
        reset_low=0, reset_high=0, reason=reason, order_id=settled.fills[0].order_id if settled.fills else "",
        params_hash=params_hash,
    )  # fmt: skip


def _absent(asset: str, day: dt.date) -> DayScan:
    """Stand in for a day that nobody scanned: one hole."""
    start_s = day_start_s(day)
    return DayScan(
        asset=asset, day=day, data_hash="", state_in="", state_out="", tape=b"", seconds=0, incomplete=0,
        holes=((start_s, start_s + DAY_S),), first_open=0, last_close=0, hour_closes=(0,) * 24,
    )  # fmt: skip


def _hourly_returns(closes: Sequence[int]) -> list[int]:
    """Return the hours' log returns in 1e-9; 0 where an hour has no row."""
    return [
        log_nano(after) - log_nano(before) if before > 0 and after > 0 else 0
        for before, after in itertools.pairwise(closes)
    ]
