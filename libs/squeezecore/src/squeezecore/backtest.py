"""A backtest without IO: plan → map → seams; `fold` goes on. Whoever calls supplies rows, processes and a place for results.

* `plan` cuts a spec into items, blocks of days of one asset; any partition of them may be scanned anywhere.
* `scan_block` is the map: the rows of an item's days (and of the warm-up before them) → a `DayScan` each: the day's tape,
  and fingerprints of the kernel's state at both ends.
* `seams` finds days that began from another state than the day before ended with; `repair` scans those again from the
  true state. After that, any partition gives the same scans, bit for bit.

A *hole*, a missing row, starts the asset's warm-up afresh; it is reported, not raised. This module reads no clock and keeps
no file.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

import msgspec
import numba
import numpy as np
from numpy.typing import NDArray

from squeezecore import squeeze, tape
from squeezecore.errors import UsageError
from squeezecore.market import DAY_S, PPM, WARMUP_S, Rows
from squeezecore.mixing import hash_words
from squeezecore.report import DayFacts
from squeezecore.spec import BacktestSpec, canonical, day_start_s, digest
from squeezecore.squeeze import Features, SqueezeParams

Ints = NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., Any])
_njit = cast("Callable[[Function], Function]", numba.njit(cache=True))

HOUR_S = 3_600
BLOCK_DAYS = 30  # days of a plan's item unless more shards are asked for


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
