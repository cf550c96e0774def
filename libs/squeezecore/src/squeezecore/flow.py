"""Trades to bars, bars to rows: what was bought and sold in each second, exactly, and how sure we are.

Two kernels, each state in, state out. `scan_bars` takes prints of one instrument in any order and a watermark, and
closes seconds; `scan_rows` weighs the bars of an asset's markets together. Both are functions of facts alone: cutting
their input anywhere changes nothing (the split law), nor does the order in which prints came before the watermark.

What makes a bar exact: a print is dropped when its id was seen before; a jump in ids is a hole, found before any filter,
because prints that are no flow use up ids too; sums of `price * qty` are kept in 128 bits and rounded once. What makes
it honest: a second that a hole touches, that a dead feed closed, or that coverage began or ended in, says
`complete = 0`; a print that comes after its second was closed is reported, never added and never forgotten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray

from squeezecore.errors import UsageError
from squeezecore.market import (
    DAY_S,
    PPM,
    TRADE_NOT_FLOW,
    Bars,
    Block,
    FundingSeries,
    Gap,
    IdKind,
    Instrument,
    Kind,
    MarkSeries,
    OpenInterestSeries,
    Rows,
    TradeFlag,
    Trades,
    concat,
    cut,
    dtypes,
    empty,
)
from squeezecore.spec import AssetConfig

SECOND_NS = 1_000_000_000
HOLE_MEMORY_S = 3600  # a reported hole is remembered so long, to tell a late print from a doubled one
SPAN_S_MAX = 62 * DAY_S  # seconds that one call may close; more is a broken clock

_NOT_FLOW, _SNAPSHOT = int(TRADE_NOT_FLOW), int(TradeFlag.SNAPSHOT)

# -- trades to bars ----------------------------------------------------------------------------------------------------

Ints = NDArray[np.int64]


class BarParams(NamedTuple):
    """What is fixed for an instrument."""

    instrument: str  # its id
    price_decimals: int
    qty_decimals: int
    id_kind: IdKind  # which prints are counted
    contiguous: bool  # ids grow by exactly one, so a jump is a hole
    hole_s_max: int = 3600  # a hole longer than this is no covered time: its inner seconds get no bar


def bar_params(instrument: Instrument, id_kind: IdKind, contiguous: bool = True, hole_s_max: int = 3600) -> BarParams:
    """Take an instrument's scales into the kernel's parameters."""
    return BarParams(instrument.id, instrument.price_decimals, instrument.qty_decimals, id_kind, contiguous, hole_s_max)


class Holes(NamedTuple):
    """Ids that were jumped over, ascending; each lies between two prints that were seen."""

    first_id: Ints
    last_id: Ints
    before_s: Ints  # second of the print with id first_id - 1
    after_s: Ints  # second of the print with id last_id + 1
    reported: Ints  # 1: a Gap was returned for it


class BarState(NamedTuple):
    """All that the past may tell the future: the open seconds' prints, which ids were seen, the last close."""

    pending: Trades  # not yet closed, by (exchange_ns, id)
    holes: Holes
    low_id: int = -1  # lowest and highest id seen, and their seconds; -1 before the first
    low_s: int = -1
    high_id: int = -1
    high_s: int = -1
    closed_s: int = -1  # seconds before this one are closed
    covered_s: int = -1  # seconds before this one were not covered whole; -1 = not known before the first print
    close: int = -1  # last price; -1 before the first
    dead: bool = False  # the feed was not alive at the last watermark
    late: int = 0  # prints that came after their second was closed
    doubled: int = 0  # prints whose id was seen before
    history: int = 0  # snapshot prints from before coverage began
    not_flow: int = 0  # prints that are no order-book trades (in closed seconds)


def bars_initial(covered_from_s: int = -1) -> BarState:
    """Begin. `covered_from_s`: every print from that second on will be given; -1 where coverage begins mid-second."""
    return BarState(empty(Trades), Holes(*(np.empty(0, np.int64) for _ in Holes._fields)), covered_s=covered_from_s)


def scan_bars(
    params: BarParams, state: BarState, trades: Trades, watermark_s: int, alive: bool = True, doubt_s: int = -1
) -> tuple[BarState, Bars, list[Gap]]:
    """Take prints in any order and close every second before `watermark_s` (UTC).

    Returns the new state, one bar for each closed second of covered time, ascending, and the gaps that are final: holes
    whose last border second is closed, seconds closed by a dead feed, and late prints (cause "late", `missing` of them).
    A watermark that does not pass the last one closes nothing. `alive=False`: what it closes is incomplete, and so is
    what the next one closes. A watermark inside a hole is a promise that the missing prints lie after it.
    `doubt_s`: the connection was new before that second, so what it closes before it is complete only where prints with a
    lower id, from an earlier second, and with a higher id, from a later one, have been seen and no id is missing between.
    Raises `UsageError` when a sum does not fit 63 bits or a call would close more than `SPAN_S_MAX` seconds.
    """
    watermark_s, alive = int(watermark_s), bool(alive)
    state, late = _take(params, state, trades)
    gaps = _late_gaps(params, late)
    if watermark_s <= state.closed_s or (state.closed_s < 0 and watermark_s <= 0):
        return (state if alive else state._replace(dead=True)), empty(Bars), gaps
    close_count = int(np.searchsorted(state.pending.exchange_ns, watermark_s * SECOND_NS))
    closing = cut(state.pending, 0, close_count)
    first_s = int(closing.exchange_ns[0] // SECOND_NS) if close_count else watermark_s
    covered_s = state.covered_s
    if covered_s < 0 and (close_count or alive):
        covered_s = first_s + 1 if close_count else watermark_s
    start_s = state.closed_s if state.close >= 0 else first_s
    bars, close, not_flow = _seconds(params, state, closing, start_s, watermark_s)
    incomplete_to = watermark_s if state.dead or not alive else covered_s
    proved = (state.low_s + 1, state.high_s) if params.contiguous and state.high_id >= 0 else (0, 0)
    bars = _judge(params, state.holes, bars, incomplete_to, proved, doubt_s)
    if state.dead or not alive:
        gaps.append(_gap(params, max(start_s, state.closed_s), watermark_s - 1, "feed not alive"))
    holes, hole_gaps = _report(params, state.holes, watermark_s)
    state = state._replace(
        pending=cut(state.pending, close_count, len(state.pending.id)),
        holes=holes,
        closed_s=watermark_s,
        covered_s=covered_s,
        close=close,
        dead=not alive,
        not_flow=state.not_flow + not_flow,
    )
    return state, bars, gaps + hole_gaps


def finish_bars(params: BarParams, state: BarState, until_s: int = -1) -> tuple[BarState, Bars, list[Gap]]:
    """Close what is still open when no more is known: the last print's second and those to `until_s` as incomplete.

    Prints after the last one may exist, so nothing proves that its second is whole; `merge_bars` completes it when a
    later block adjoins. Seconds up to `until_s` (exclusive) get a bar unless there are more than `hole_s_max` of them.
    """
    if not len(state.pending.id):
        return state, empty(Bars), []
    last_s = int(state.pending.exchange_ns[-1] // SECOND_NS)
    state, bars, gaps = scan_bars(params, state, empty(Trades), last_s)
    end_s = until_s if last_s + 1 < until_s <= last_s + 1 + params.hole_s_max else last_s + 1
    state, border, more = scan_bars(params, state, empty(Trades), end_s, alive=False)
    return state, concat([bars, border]), gaps + [gap for gap in more if gap.cause != "feed not alive"]


def fingerprint(state: NamedTuple) -> str:
    """Hash a state to 32 hex digits; equal states have equal fingerprints, on any machine."""
    digest = hashlib.blake2b(digest_size=16)
    _feed(digest, state)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, tuple):
        digest.update(b"(%d" % len(value))
        for part in value:
            _feed(digest, part)
    elif isinstance(value, np.ndarray):
        digest.update(f"[{value.dtype.str}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    else:
        digest.update(b"%d;" % int(value))


def _take(params: BarParams, state: BarState, trades: Trades) -> tuple[BarState, Trades]:
    """Drop what was seen before, find holes, and put the rest among the pending prints; return the late ones too."""
    count = len(trades.id)
    if count == 0:
        return state, trades
    trades = _own(trades)
    order = _by_id(trades.id)
    sorted_trades = trades if order is None else _pick(trades, order)
    seconds = sorted_trades.exchange_ns // SECOND_NS
    if params.contiguous:
        ends = np.array([state.low_id, state.low_s, state.high_id, state.high_s], np.int64)
        verdict, hole_columns = _admit(
            sorted_trades.id, seconds, sorted_trades.flags, ends, np.stack(state.holes), state.closed_s
        )
        low_id, low_s, high_id, high_s = (int(end) for end in ends)
        holes = Holes(*(np.ascontiguousarray(column) for column in hole_columns))
        state = state._replace(low_id=low_id, low_s=low_s, high_id=high_id, high_s=high_s, holes=holes)
    else:
        verdict = _admit_unique(sorted_trades.id, seconds, np.sort(state.pending.id), state.closed_s)
    counts = np.bincount(verdict, minlength=4)
    state = state._replace(
        doubled=state.doubled + int(counts[_DOUBLED]),
        late=state.late + int(counts[_LATE]),
        history=state.history + int(counts[_HISTORY]),
    )
    taken = sorted_trades if counts[_TAKEN] == count else _pick(sorted_trades, verdict == _TAKEN)
    late = _pick(sorted_trades, verdict == _LATE) if counts[_LATE] else empty(Trades)
    return state._replace(pending=_merge_pending(state.pending, taken)), late


def _own(block: Block) -> Block:
    """Give columns the documented dtypes, writable: a kernel is compiled anew for any other kind of array."""
    return type(block)(
        *(np.require(c, dtype, ["C", "W"]) for c, dtype in zip(block, dtypes(type(block)).values(), strict=True))
    )


def _pick(block: Block, index: NDArray[Any]) -> Block:
    return type(block)(*(column[index] for column in block))


def _merge_pending(pending: Trades, taken: Trades) -> Trades:
    """Put prints in the one order that does not depend on delivery: by time, then id, then content."""
    joined = concat([pending, taken]) if len(pending.id) else taken
    if _in_order(joined.exchange_ns, joined.id):
        return joined
    keys = (joined.flags, joined.side, joined.qty, joined.price, joined.id, joined.exchange_ns)
    return _pick(joined, np.lexsort(keys))


def _by_id(ids: Ints) -> NDArray[np.intp] | None:
    """Return the order that sorts ids, stable; None where they are in order."""
    return None if len(ids) < 2 or bool((ids[1:] >= ids[:-1]).all()) else np.argsort(ids, kind="stable")


_TAKEN, _DOUBLED, _LATE, _HISTORY = range(4)


@njit(cache=True)
def _in_order(exchange_ns: Ints, ids: Ints) -> bool:
    for i in range(1, len(ids)):
        if exchange_ns[i] < exchange_ns[i - 1]:
            return False
        if exchange_ns[i] == exchange_ns[i - 1] and ids[i] <= ids[i - 1]:
            return False
    return True


@njit(cache=True)
def _admit(
    ids: Ints, seconds: Ints, flags: NDArray[np.uint8], ends: Ints, holes: Ints, closed_s: int
) -> tuple[Ints, Ints]:
    """Judge prints in ascending id, and bring the set of seen ids, kept as `ends` minus `holes`, up to date.

    `ends` is low_id, low_s, high_id, high_s and is changed in place. The set does not depend on the order in which its
    members came, so neither do the holes. Returns a verdict a print and the new holes.
    """
    count, old = len(ids), holes.shape[1]
    verdict = np.zeros(count, np.int64)
    out = np.empty((5, old + count + 1), np.int64)
    made, h = 0, 0
    remaining = holes.copy()
    low_id, low_s, high_id, high_s = ends[0], ends[1], ends[2], ends[3]
    known_low = low_id  # what was lowest before this block
    below_id, below_s = np.int64(-1), np.int64(-1)  # last print below it
    for i in range(count):
        number, second = ids[i], seconds[i]
        if i > 0 and number == ids[i - 1] and verdict[i - 1] != _HISTORY:
            verdict[i] = _DOUBLED
            continue
        before_known = known_low < 0 or number < known_low
        if flags[i] & _SNAPSHOT and before_known and (high_id < 0 or known_low >= 0):
            verdict[i] = _HISTORY
            continue
        if high_id < 0:
            low_id, low_s, high_id, high_s = number, second, number, second
        elif known_low >= 0 and number < known_low:
            if second < closed_s:  # from before coverage began
                verdict[i] = _LATE
                continue
            if below_id < 0:
                low_id, low_s = number, second
            elif number > below_id + 1:
                made = _push(out, made, below_id + 1, number - 1, below_s, second, 0)
            below_id, below_s = number, second
        else:
            if below_id >= 0:
                if known_low > below_id + 1:
                    made = _push(out, made, below_id + 1, known_low - 1, below_s, ends[1], 0)
                below_id = np.int64(-1)
            if number > high_id:
                while h < old:
                    made = _copy(out, made, remaining, h)
                    h += 1
                if number > high_id + 1:
                    made = _push(out, made, high_id + 1, number - 1, high_s, second, 0)
                high_id, high_s = number, second
            else:
                while h < old and remaining[1, h] < number:
                    made = _copy(out, made, remaining, h)
                    h += 1
                if h == old or remaining[0, h] > number:
                    verdict[i] = _DOUBLED
                    continue
                if remaining[0, h] < number:
                    made = _push(out, made, remaining[0, h], number - 1, remaining[2, h], second, remaining[4, h])
                remaining[0, h], remaining[2, h] = number + 1, second
                if remaining[0, h] > remaining[1, h]:
                    h += 1
        if second < closed_s:
            verdict[i] = _LATE
    if below_id >= 0 and known_low > below_id + 1:
        made = _push(out, made, below_id + 1, known_low - 1, below_s, ends[1], 0)
    while h < old:
        made = _copy(out, made, remaining, h)
        h += 1
    ends[0], ends[1], ends[2], ends[3] = low_id, low_s, high_id, high_s
    return verdict, out[:, :made].copy()


@njit(cache=True)
def _push(out: Ints, made: int, first: Any, last: Any, before: Any, after: Any, reported: Any) -> int:
    out[0, made], out[1, made], out[2, made], out[3, made], out[4, made] = first, last, before, after, reported
    return made + 1


@njit(cache=True)
def _copy(out: Ints, made: int, holes: Ints, h: int) -> int:
    for row in range(5):
        out[row, made] = holes[row, h]
    return made + 1


@njit(cache=True)
def _admit_unique(ids: Ints, seconds: Ints, pending_ids: Ints, closed_s: int) -> Ints:
    """Judge prints of a venue whose ids only name them: doubled within the open seconds, or late."""
    verdict = np.zeros(len(ids), np.int64)
    p = 0
    for i in range(len(ids)):
        if ids[i] >= 0:
            while p < len(pending_ids) and pending_ids[p] < ids[i]:
                p += 1
            if (p < len(pending_ids) and pending_ids[p] == ids[i]) or (i > 0 and ids[i] == ids[i - 1]):
                verdict[i] = _DOUBLED
                continue
        if seconds[i] < closed_s:
            verdict[i] = _LATE
    return verdict


def _seconds(params: BarParams, state: BarState, closing: Trades, start_s: int, end_s: int) -> tuple[Bars, int, int]:
    """Make the bars of `start_s` to `end_s`, dense, from the first price on; all complete for now."""
    span = max(0, end_s - start_s)
    if span > SPAN_S_MAX:
        raise UsageError(
            f"{params.instrument}: one step would close {span} seconds ({start_s} to {end_s}), the limit is {SPAN_S_MAX}:"
            " check the prints' times, or begin anew after the gap"
        )
    bars = Bars(*(np.zeros(span, dtype) for dtype in dtypes(Bars).values()))
    bars.id_kind[:] = params.id_kind
    close, first, not_flow, broken = _fill(
        closing, bars, start_s, state.close, params.price_decimals + params.qty_decimals - 2
    )
    if broken >= 0:
        raise UsageError(
            f"{params.instrument}: the turnover of second {start_s + broken} does not fit 63 bits at {params.price_decimals}"
            f" price and {params.qty_decimals} qty decimals: store it with fewer decimals"
        )
    return cut(bars, first, span), close, not_flow


@njit(cache=True)
def _fill(trades: Trades, bars: Bars, start_s: int, close: int, shift: int) -> tuple[int, int, int, int]:
    """Add sorted prints into dense seconds.

    Returns the last close, the index of the first second with a price, the number of prints that are no flow, and the
    index of a second whose sums do not fit (-1: none).
    """
    count, span = len(trades.id), len(bars.ts)
    i, not_flow, first = 0, 0, -1
    largest_int = np.int64(9223372036854775807)
    top = np.uint64(1) << np.uint64(63)
    for k in range(span):
        end_ns = (start_s + k + 1) * SECOND_NS
        low_id, high_id = np.int64(-1), np.int64(-1)
        open_, high, low = close, close, close
        buy_volume, sell_volume, largest = np.int64(0), np.int64(0), np.int64(0)
        buy_cents, sell_cents = np.int64(0), np.int64(0)  # of prints that bring their own notional
        buy_count, sell_count = 0, 0
        buy_hi, buy_lo, sell_hi, sell_lo = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
        while i < count and trades.exchange_ns[i] < end_ns:
            number, side, price, qty = trades.id[i], trades.side[i], trades.price[i], trades.qty[i]
            cents = trades.quote_cents[i]
            if number >= 0:
                low_id = number if low_id < 0 else min(low_id, number)
                high_id = max(high_id, number)
            if trades.flags[i] & _NOT_FLOW or side == 0:
                not_flow += 1
                i += 1
                continue
            if buy_count + sell_count == 0:
                open_, high, low = price, price, price
            high, low, close, largest = max(high, price), min(low, price), price, max(largest, qty)
            hi, lo = np.uint64(0), np.uint64(0)
            if cents < 0:
                hi, lo = _multiply(np.uint64(price), np.uint64(qty))
                cents = np.int64(0)
            if side > 0:
                if buy_volume > largest_int - qty or buy_cents > largest_int - cents:
                    return close, 0, 0, k
                buy_count += 1
                buy_volume += qty
                buy_cents += cents
                buy_lo += lo
                buy_hi += hi + (np.uint64(1) if buy_lo < lo else np.uint64(0))
            else:
                if sell_volume > largest_int - qty or sell_cents > largest_int - cents:
                    return close, 0, 0, k
                sell_count += 1
                sell_volume += qty
                sell_cents += cents
                sell_lo += lo
                sell_hi += hi + (np.uint64(1) if sell_lo < lo else np.uint64(0))
            if buy_hi >= top or sell_hi >= top:
                return close, 0, 0, k
            i += 1
        buy_usd = _cents(buy_hi, buy_lo, shift)
        sell_usd = _cents(sell_hi, sell_lo, shift)
        if buy_usd < 0 or sell_usd < 0 or buy_usd > largest_int - buy_cents or sell_usd > largest_int - sell_cents:
            return close, 0, 0, k
        bars.ts[k] = start_s + k
        bars.open[k], bars.high[k], bars.low[k], bars.close[k] = open_, high, low, close
        bars.buy_volume[k], bars.sell_volume[k], bars.largest[k] = buy_volume, sell_volume, largest
        bars.buy_usd_cents[k], bars.sell_usd_cents[k] = buy_usd + buy_cents, sell_usd + sell_cents
        bars.buy_trades[k], bars.sell_trades[k] = buy_count, sell_count
        bars.complete[k] = 1
        bars.first_id[k], bars.last_id[k] = low_id, high_id
        if first < 0 and close >= 0:
            first = k
    return close, (first if first >= 0 else span), not_flow, -1


@njit(cache=True)
def _multiply(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Return a * b as (high, low) 64 bits: four products of 32-bit halves, as on paper."""
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    a_low, a_high, b_low, b_high = a & mask, a >> half, b & mask, b >> half
    low, high = a_low * b_low, a_high * b_high
    cross_1, cross_2 = a_low * b_high, a_high * b_low
    middle = (low >> half) + (cross_1 & mask) + (cross_2 & mask)
    return high + (cross_1 >> half) + (cross_2 >> half) + (middle >> half), (low & mask) | (middle << half)


@njit(cache=True)
def _divide(hi: np.uint64, lo: np.uint64, divisor: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Return (hi, lo) // divisor for a divisor below 2**32, by 32-bit digits."""
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    first, rest = (hi >> half) // divisor, (hi >> half) % divisor
    step = (rest << half) | (hi & mask)
    second, rest = step // divisor, step % divisor
    step = (rest << half) | (lo >> half)
    third, rest = step // divisor, step % divisor
    fourth = ((rest << half) | (lo & mask)) // divisor
    return (first << half) | second, (third << half) | fourth


@njit(cache=True)
def _cents(hi: np.uint64, lo: np.uint64, shift: int) -> np.int64:
    """Return (hi, lo) / 10**shift rounded half away from zero (it is never negative); -1 where it exceeds 63 bits.

    floor((x + 10**shift / 2) / 10**shift), the division in steps of at most 10**9: floors of floors are exact.
    """
    ten = np.uint64(10)
    if hi == 0 and lo == 0:
        return np.int64(0)
    if shift > 0:
        five, rest = np.uint64(5), np.uint64(1)
        for k in range(shift - 1):
            if k < 18:
                five *= ten
            else:
                rest *= ten
        add_hi, add_lo = _multiply(five, rest)
        lo += add_lo
        hi += add_hi + (np.uint64(1) if lo < add_lo else np.uint64(0))
    left = shift
    while left > 0:
        divisor = np.uint64(1)
        for _ in range(min(left, 9)):
            divisor *= ten
        hi, lo = _divide(hi, lo, divisor)
        left -= 9
    while left < 0 and shift < 0:
        if hi != 0 or lo > np.uint64(9223372036854775807) // ten:
            return np.int64(-1)
        lo *= ten
        left += 1
    if hi != 0 or lo >> np.uint64(63) != 0:
        return np.int64(-1)
    return np.int64(lo)


def _judge(
    params: BarParams, holes: Holes, bars: Bars, incomplete_to: int, proved: tuple[int, int], doubt_s: int
) -> Bars:
    """Mark seconds before `incomplete_to`, doubtful ones not proved, those a hole touches; leave long holes' inner ones out."""
    if not len(bars.ts):
        return bars
    start_s, span = int(bars.ts[0]), len(bars.ts)
    bars.complete[: max(0, incomplete_to - start_s)] = 0
    bars.complete[(bars.ts < doubt_s) & ((bars.ts < proved[0]) | (bars.ts >= proved[1]))] = 0
    keep = np.ones(span, bool)
    for before_s, after_s in zip(holes.before_s, holes.after_s, strict=True):
        first, last = int(min(before_s, after_s)) - start_s, int(max(before_s, after_s)) - start_s
        bars.complete[max(0, first) : max(0, last + 1)] = 0
        if last - first - 1 > params.hole_s_max:
            keep[max(0, first + 1) : max(0, last)] = False
    bars.version[:] = bars.complete.astype(np.uint64) << np.uint64(32)
    return bars if keep.all() else _pick(bars, keep)


def _gap(params: BarParams, start_s: int, end_s: int, cause: str, first_id: int = -1, last_id: int = -1) -> Gap:
    missing = last_id - first_id + 1 if first_id >= 0 else 0
    return Gap(
        instrument=params.instrument,
        start_s=start_s,
        end_s=end_s,
        first_id=first_id,
        last_id=last_id,
        missing=missing,
        cause=cause,
    )


def _report(params: BarParams, holes: Holes, watermark_s: int) -> tuple[Holes, list[Gap]]:
    """Return gaps for the holes whose border seconds are both closed now, and forget what is long past."""
    final = np.maximum(holes.before_s, holes.after_s) < watermark_s
    gaps = [
        _gap(
            params,
            int(min(holes.before_s[k], holes.after_s[k])),
            int(max(holes.before_s[k], holes.after_s[k])),
            "ids missing",
            int(holes.first_id[k]),
            int(holes.last_id[k]),
        )
        for k in np.flatnonzero(final & (holes.reported == 0))
    ]
    holes = holes._replace(reported=np.where(final, 1, holes.reported))
    keep = ~final | (np.maximum(holes.before_s, holes.after_s) >= watermark_s - HOLE_MEMORY_S)
    return _pick(holes, keep), gaps


def _late_gaps(params: BarParams, late: Trades) -> list[Gap]:
    """Report late prints, one gap a second."""
    seconds = late.exchange_ns // SECOND_NS
    gaps = []
    for second in np.unique(seconds):
        ids = late.id[seconds == second]
        gap = _gap(params, int(second), int(second), "late", int(ids.min()), int(ids.max()))
        gaps.append(msgspec.structs.replace(gap, missing=len(ids)))
    return gaps


# -- bars to bars: a second imported twice -----------------------------------------------------------------------------

_SUMMED = ("buy_volume", "sell_volume", "buy_usd_cents", "sell_usd_cents", "buy_trades", "sell_trades")


def merge_bars(older: Bars, newer: Bars) -> Bars:
    """Lay two blocks of one instrument's bars together, each ascending; where both have a second, by their ids.

    * the newer one's ids cover the older one's: the newer one stands (equal ones stay as they are);
    * the older one's cover the newer one's: the older one stays;
    * the ranges do not touch: sums are added, open and close taken in the order of the ids. Cents were rounded in each
      part, so the sum may differ by one from a second read whole;
    * the ranges overlap in part, or count different prints (`id_kind`), or a complete second would become incomplete:
      `UsageError`.

    Where the blocks adjoin (the older one's last id + 1 is the newer one's first, or the reverse), the seconds between
    get their empty bars, and border seconds become complete if the ids prove it: as many prints as ids, and neighbours
    whose ids adjoin. Changed seconds count one more repair in `version`.
    """
    if not len(older.ts) or not len(newer.ts):
        return newer if not len(older.ts) else older
    _, in_older, in_newer = np.intersect1d(older.ts, newer.ts, assume_unique=True, return_indices=True)
    choice = _choose(older, newer, in_older, in_newer)
    only_newer = np.setdiff1d(np.arange(len(newer.ts)), in_newer, assume_unique=True)
    joined = concat([older, _pick(newer, only_newer)])
    for k, take in zip(in_older[choice != _KEEP], in_newer[choice != _KEEP], strict=True):
        _repair(joined, int(k), older, newer, int(take))
    joined = _pick(joined, np.argsort(joined.ts, kind="stable"))
    return _prove(joined, _borders(older, newer))


_KEEP, _REPLACE, _ADD = range(3)


def _choose(older: Bars, newer: Bars, i: NDArray[np.intp], j: NDArray[np.intp]) -> NDArray[np.int64]:
    """Decide for each second that both have; raise where no rule is safe."""
    old_first, old_last = older.first_id[i], older.last_id[i]
    new_first, new_last = newer.first_id[j], newer.last_id[j]
    old_prints = older.buy_trades[i] + older.sell_trades[i]
    new_prints = newer.buy_trades[j] + newer.sell_trades[j]
    old_empty, new_empty = (old_first < 0) & (old_prints == 0), (new_first < 0) & (new_prints == 0)
    without_ids = ~old_empty & ~new_empty & ((old_first < 0) | (new_first < 0))
    old_covers = ~without_ids & ~old_empty & (new_empty | ((old_first <= new_first) & (old_last >= new_last)))
    new_covers = ~without_ids & ~new_empty & (old_empty | ((new_first <= old_first) & (new_last >= old_last)))
    apart = ~old_empty & ~new_empty & ~without_ids & ((old_last < new_first) | (new_last < old_first))
    same_range = (old_covers & new_covers) | (old_empty & new_empty)
    choice = np.full(len(i), -1, np.int64)
    choice[apart] = _ADD
    choice[new_covers | without_ids] = _REPLACE
    choice[old_covers & ~same_range] = _KEEP
    better = newer.complete[j] > older.complete[i]
    same = np.ones(len(i), bool)
    for name in ("open", "high", "low", "close", "largest", *_SUMMED):
        same &= getattr(older, name)[i] == getattr(newer, name)[j]
    choice[same_range & ~better & (same | (older.complete[i] > newer.complete[j]))] = _KEEP
    choice[same_range & better] = _REPLACE
    choice[same_range & ~better & (new_prints < old_prints)] = _KEEP
    choice[old_empty & new_empty & ~better] = _KEEP
    kinds_differ = ~old_empty & ~new_empty & (older.id_kind[i] != newer.id_kind[j])
    spoils = (choice != _KEEP) & (older.complete[i] == 1) & (newer.complete[j] == 0)
    for bad, why in (
        (choice < 0, "overlap in part"),
        (kinds_differ, "count prints of different kinds"),
        (spoils, "disagree: the stored one is complete, the new one is not"),
    ):
        if bad.any():
            k = int(np.flatnonzero(bad)[0])
            raise UsageError(
                f"second {older.ts[i[k]]} holds ids {old_first[k]}..{old_last[k]}, the new one {new_first[k]}..{new_last[k]}:"
                f" they {why}; import the whole day again and replace what is stored"
            )
    return choice


def _repair(joined: Bars, k: int, older: Bars, newer: Bars, j: int) -> None:
    """Write the second `newer[j]` over or onto `joined[k]`, which still is `older[k]`."""
    apart = older.last_id[k] >= 0 and newer.last_id[j] >= 0
    apart = apart and (older.last_id[k] < newer.first_id[j] or newer.last_id[j] < older.first_id[k])
    repairs = (max(int(older.version[k]), int(newer.version[j])) & 0xFFFFFFFF) + 1
    if not apart:
        for name in Bars._fields[1:]:
            getattr(joined, name)[k] = getattr(newer, name)[j]
        complete = int(newer.complete[j])
    else:
        parts = [(older, k), (newer, j)]
        if newer.last_id[j] < older.first_id[k]:
            parts.reverse()
        priced = [(bars, n) for bars, n in parts if bars.buy_trades[n] + bars.sell_trades[n] > 0] or parts
        joined.open[k] = priced[0][0].open[priced[0][1]]
        joined.close[k] = priced[-1][0].close[priced[-1][1]]
        joined.high[k] = max(bars.high[n] for bars, n in priced)
        joined.low[k] = min(bars.low[n] for bars, n in priced)
        joined.largest[k] = max(older.largest[k], newer.largest[j])
        joined.first_id[k] = parts[0][0].first_id[parts[0][1]]
        joined.last_id[k] = parts[1][0].last_id[parts[1][1]]
        for name in _SUMMED:
            getattr(joined, name)[k] = int(getattr(older, name)[k]) + int(getattr(newer, name)[j])
        complete = 0  # `_prove` knows better where the ids do
    joined.complete[k] = complete
    joined.version[k] = np.uint64(complete << 32 | repairs)


def _borders(older: Bars, newer: Bars) -> set[int]:
    """Return the seconds at which one block ends or begins; only these may be proved complete by the other."""
    borders = set()
    for bars in (older, newer):
        with_ids = np.flatnonzero(bars.last_id >= 0)
        if len(with_ids):
            borders |= {int(bars.ts[with_ids[0]]), int(bars.ts[with_ids[-1]])}
    return borders


def _prove(bars: Bars, borders: set[int]) -> Bars:
    """Complete border seconds, and what lies between them and the next print, where ids leave no room for a print."""
    with_ids = np.flatnonzero(bars.last_id >= 0)
    if not len(with_ids):
        return bars
    first_id, last_id = bars.first_id[with_ids], bars.last_id[with_ids]
    adjoins = last_id[:-1] + 1 == first_id[1:]
    prints = (bars.buy_trades + bars.sell_trades)[with_ids]
    missing: list[int] = []  # seconds to be filled, and the position of the bar whose close they repeat
    source: list[int] = []
    for n in range(len(with_ids)):
        k = int(with_ids[n])
        if int(bars.ts[k]) not in borders:
            continue
        left, right = n > 0 and bool(adjoins[n - 1]), n + 1 < len(with_ids) and bool(adjoins[n])
        if left and right and int(prints[n]) == int(last_id[n] - first_id[n]) + 1:
            _complete(bars, k)
        if right and int(bars.ts[with_ids[n + 1]]) in borders:
            following = int(with_ids[n + 1])
            for between in range(k + 1, following):
                _complete(bars, between)
            present = set(bars.ts[k + 1 : following].tolist())
            gap = [s for s in range(int(bars.ts[k]) + 1, int(bars.ts[following])) if s not in present]
            missing += gap
            source += [k] * len(gap)
    if not missing:
        return bars
    filled = concat([bars, _empties(bars, np.array(missing), np.array(source))])
    return _pick(filled, np.argsort(filled.ts, kind="stable"))


def _complete(bars: Bars, k: int) -> None:
    if not bars.complete[k]:
        bars.complete[k] = 1
        bars.version[k] = np.uint64(1 << 32 | (int(bars.version[k]) & 0xFFFFFFFF))


def _empties(bars: Bars, seconds: Ints, source: NDArray[Any]) -> Bars:
    """Make complete bars without a trade that repeat the close of `bars[source]`."""
    made = Bars(*(np.zeros(len(seconds), dtype) for dtype in dtypes(Bars).values()))
    made.ts[:] = seconds
    for name in ("open", "high", "low", "close"):
        getattr(made, name)[:] = bars.close[source]
    made.first_id[:], made.last_id[:] = -1, -1
    made.id_kind[:] = bars.id_kind[source]
    made.complete[:] = 1
    made.version[:] = 1 << 32
    return made


# -- bars to rows ------------------------------------------------------------------------------------------------------

USD_RATES = {"USD": 1, "USDT": 1, "USDC": 1}  # until rates come with the venues
_NEITHER, _SPOT, _PERP = range(3)


class RowParams(NamedTuple):
    """What is fixed for an asset while its configuration stands; markets in the order of their ids."""

    traded: int  # position of the traded instrument
    basis_perp: int  # position of the perp whose mark or close stands in the basis; -1 = none
    instruments: tuple[str, ...]
    weights_ppm: tuple[int, ...]
    sides: tuple[int, ...]  # 0 neither, 1 spot, 2 perp
    price_decimals: tuple[int, ...]
    config_rev: int
    age_s_max: int = 60  # a mark or a spot close older than this is not used


class RowState(NamedTuple):
    """Last known facts; -1 or 0 where there is none yet."""

    spot_close: Ints  # by market, price scale
    spot_close_s: Ints
    perp_close: int = -1  # of the basis perp
    open_interest: int = 0
    oi_known_at: int = 0
    oi_interval_s: int = 0
    funding_rate_8h: int = 0
    funding_known_at: int = -1
    mark: int = 0
    mark_known_at: int = -1
    basis_bps: int = 0


def row_params(
    config: AssetConfig, instruments: Mapping[str, Instrument], futures: bool = False, age_s_max: int = 60
) -> RowParams:
    """Take an asset's configuration into the kernel's parameters; `instruments` by id.

    Only spot feeds the spot side and only perpetuals the perp side; dated futures join them where `futures` says so;
    anything else, unknown kinds above all, feeds neither. Raises `UsageError` for an instrument that is not known, or a
    quote without a USD rate.
    """
    weights = {market.instrument: market.weight_ppm for market in config.markets}
    weights.setdefault(config.traded, 0)
    known: list[Instrument] = []
    for name in sorted(weights):
        if name not in instruments:
            raise UsageError(f"instrument was {name!r}, which is not in the catalogue: import or declare it first")
        if instruments[name].quote not in USD_RATES:
            raise UsageError(
                f"{name} is quoted in {instruments[name].quote}, known USD rates are {', '.join(USD_RATES)}: take it out of"
                " the asset's markets"
            )
        known.append(instruments[name])
    side_of = {Kind.SPOT: _SPOT, Kind.PERP: _PERP, Kind.FUTURE: _PERP if futures else _NEITHER}
    names = tuple(instrument.id for instrument in known)
    traded = names.index(config.traded)
    perps = [k for k, instrument in enumerate(known) if instrument.kind is Kind.PERP]
    return RowParams(
        traded=traded,
        basis_perp=traded if traded in perps else (perps[0] if perps else -1),
        instruments=names,
        weights_ppm=tuple(weights[name] for name in names),
        sides=tuple(side_of.get(instrument.kind, _NEITHER) for instrument in known),
        price_decimals=tuple(instrument.price_decimals for instrument in known),
        config_rev=config.revision(),
        age_s_max=age_s_max,
    )


def rows_initial(params: RowParams) -> RowState:
    """Begin without any fact."""
    count = len(params.instruments)
    return RowState(np.full(count, -1, np.int64), np.full(count, -1, np.int64))


def scan_rows(
    params: RowParams,
    state: RowState,
    bars: Mapping[str, Bars],
    open_interest: OpenInterestSeries | None = None,
    funding: FundingSeries | None = None,
    marks: MarkSeries | None = None,
) -> tuple[RowState, Rows]:
    """Make one row for every second in which the traded instrument has a bar.

    `bars` by instrument id; a market without a bar in a second adds nothing there and lowers the quality by its weight.
    The series are those of the traded instrument (open interest at its qty scale); they may reach beyond the block on
    both sides: a row at `ts` uses what was known at `ts`, and facts that become known later must be passed again.
    """
    bars = {name: _own(block) for name, block in bars.items() if name in params.instruments}
    own = bars.get(params.instruments[params.traded], empty(Bars))
    count = len(own.ts)
    rows = Rows(*(np.zeros(count, dtype) for dtype in dtypes(Rows).values()))
    if count == 0:
        return state, rows
    for name in ("ts", "open", "high", "low", "close"):
        getattr(rows, name)[:] = getattr(own, name)
    rows.buy_qty[:], rows.sell_qty[:] = own.buy_volume, own.sell_volume
    rows.config_rev[:] = params.config_rev
    state = _add_markets(params, state, bars, rows)
    state = _lay_facts(params, state, rows, open_interest, funding, marks)
    return _basis(params, state, bars, rows), rows


def _add_markets(params: RowParams, state: RowState, bars: Mapping[str, Bars], rows: Rows) -> RowState:
    """Add each market's weighted flow, and measure the quality; an asset without weights has its own bar's."""
    whole = 0
    sums = {_SPOT: (rows.spot_delta, rows.spot_volume), _PERP: (rows.perp_delta, rows.perp_volume)}
    for name, weight, side in zip(params.instruments, params.weights_ppm, params.sides, strict=True):
        if side == _NEITHER or weight == 0:
            continue
        whole += weight
        b = bars.get(name, empty(Bars))
        delta, volume = sums[side]
        _add_market(
            rows.ts, delta, volume, rows.quality_ppm, b.ts, b.buy_usd_cents, b.sell_usd_cents, b.complete, weight
        )
    if whole == 0:
        rows.quality_ppm[:] = bars[params.instruments[params.traded]].complete.astype(np.int64) * PPM
    else:
        rows.quality_ppm[:] = rows.quality_ppm * PPM // whole
    return state


@njit(cache=True)
def _add_market(
    ts: Ints,
    delta: Ints,
    volume: Ints,
    covered: Ints,
    bar_ts: Ints,
    buy: Ints,
    sell: Ints,
    complete: NDArray[np.uint8],
    weight: int,
) -> None:
    k = 0
    for i in range(len(ts)):
        while k < len(bar_ts) and bar_ts[k] < ts[i]:
            k += 1
        if k == len(bar_ts):
            break
        if bar_ts[k] != ts[i]:
            continue
        delta[i] += _weigh(buy[k] - sell[k], weight)
        volume[i] += _weigh(buy[k] + sell[k], weight)
        if complete[k]:
            covered[i] += weight


@njit(cache=True)
def _weigh(value: int, weight: int) -> int:
    """Return value * weight / 10**6, rounded half away from zero, without leaving 63 bits on the way."""
    size = abs(value)
    whole, rest = size // 1_000_000, size % 1_000_000
    weighted = whole * weight + (rest * weight + 500_000) // 1_000_000
    return weighted if value >= 0 else -weighted


def _lay_facts(
    params: RowParams,
    state: RowState,
    rows: Rows,
    open_interest: OpenInterestSeries | None,
    funding: FundingSeries | None,
    marks: MarkSeries | None,
) -> RowState:
    """Write the last known open interest, funding and mark into each row."""
    ts = rows.ts
    oi = _own(open_interest or empty(OpenInterestSeries))
    at = _known(ts, oi.known_at, state.oi_known_at)
    rows.open_interest[:] = _value_at(oi.open_interest, at, state.open_interest)
    rows.oi_known_at[:] = _value_at(oi.known_at, at, state.oi_known_at)
    rows.oi_interval_s[:] = _value_at(oi.interval_s, at, state.oi_interval_s)
    paid = _own(funding or empty(FundingSeries))
    at = _known(ts, paid.known_at, state.funding_known_at)
    rows.funding_rate_8h[:] = _value_at(_per_8h(paid.rate, paid.interval_s), at, state.funding_rate_8h)
    funding_known_at = int(_value_at(paid.known_at, at[-1:], state.funding_known_at)[0])
    mark = _own(marks or empty(MarkSeries))
    at = _known(ts, mark.known_at, state.mark_known_at)
    known_at = _value_at(mark.known_at, at, state.mark_known_at)
    value = _value_at(mark.mark, at, state.mark)
    fresh = (known_at >= 0) & (ts - known_at <= params.age_s_max) & (value > 0)
    rows.mark[:] = np.where(fresh, value, rows.close)
    return state._replace(
        open_interest=int(rows.open_interest[-1]),
        oi_known_at=int(rows.oi_known_at[-1]),
        oi_interval_s=int(rows.oi_interval_s[-1]),
        funding_rate_8h=int(rows.funding_rate_8h[-1]),
        funding_known_at=funding_known_at,
        mark=int(value[-1]),
        mark_known_at=int(known_at[-1]),
    )


@njit(cache=True)
def _known(ts: Ints, known_at: Ints, kept_known_at: int) -> Ints:
    """Return for each second the index of the last fact known at it; -1 where what the state keeps is as new."""
    out = np.empty(len(ts), np.int64)
    k = 0
    for i in range(len(ts)):
        while k < len(known_at) and known_at[k] <= ts[i]:
            k += 1
        out[i] = k - 1 if k > 0 and known_at[k - 1] > kept_known_at else -1
    return out


def _value_at(values: Ints, at: Ints, kept: int) -> Ints:
    if not len(values):
        return np.full(len(at), kept, np.int64)
    return cast("Ints", np.where(at >= 0, values[at], kept))


@njit(cache=True)
def _per_8h(rate: Ints, interval_s: Ints) -> Ints:
    """Bring rates to 8 hours, rounded half away from zero; a rate without an interval is one of 8 hours."""
    out = np.empty(len(rate), np.int64)
    for i in range(len(rate)):
        interval = interval_s[i] if interval_s[i] > 0 else 28_800
        size = (2 * abs(rate[i]) * 28_800 + interval) // (2 * interval)
        out[i] = size if rate[i] >= 0 else -size
    return out


def _basis(params: RowParams, state: RowState, bars: Mapping[str, Bars], rows: Rows) -> RowState:
    """Write perp over spot: the traded perp's mark, or another perp's close, over the spot closes by weight."""
    count = len(rows.ts)
    value, weight_sum = np.zeros(count), np.zeros(count)
    spot_close, spot_close_s = state.spot_close.copy(), state.spot_close_s.copy()
    for k, name in enumerate(params.instruments):
        if params.sides[k] == _SPOT:
            b = bars.get(name, empty(Bars))
            weight = float(max(params.weights_ppm[k], 1))  # an unweighted spot still gives a price
            spot_close[k], spot_close_s[k] = _add_spot(
                rows.ts, value, weight_sum, b.ts, b.close, spot_close[k], spot_close_s[k], weight,
                10.0 ** params.price_decimals[k], params.age_s_max,
            )  # fmt: skip
    perp, perp_close, scale = np.full(count, -1, np.int64), state.perp_close, 1.0
    if params.basis_perp >= 0:
        scale = 10.0 ** params.price_decimals[params.basis_perp]
        if params.basis_perp == params.traded:
            perp[:] = rows.mark
        else:
            b = bars.get(params.instruments[params.basis_perp], empty(Bars))
            perp_close = _carry(rows.ts, perp, b.ts, b.close, perp_close)
    basis = _ratio(perp, scale, value, weight_sum, rows.basis_bps, state.basis_bps)
    return state._replace(
        spot_close=spot_close, spot_close_s=spot_close_s, perp_close=int(perp_close), basis_bps=int(basis)
    )


@njit(cache=True)
def _add_spot(
    ts: Ints,
    value: NDArray[np.float64],
    weight_sum: NDArray[np.float64],
    bar_ts: Ints,
    bar_close: Ints,
    close: int,
    close_s: int,
    weight: float,
    scale: float,
    age_s_max: int,
) -> tuple[int, int]:
    k = 0
    for i in range(len(ts)):
        while k < len(bar_ts) and bar_ts[k] <= ts[i]:
            close, close_s = bar_close[k], bar_ts[k]
            k += 1
        if close > 0 and ts[i] - close_s <= age_s_max:
            value[i] += weight * (close / scale)
            weight_sum[i] += weight
    return close, close_s


@njit(cache=True)
def _carry(ts: Ints, out: Ints, bar_ts: Ints, bar_close: Ints, close: int) -> int:
    k = 0
    for i in range(len(ts)):
        while k < len(bar_ts) and bar_ts[k] <= ts[i]:
            close = bar_close[k]
            k += 1
        out[i] = close
    return close


@njit(cache=True)
def _ratio(
    perp: Ints, scale: float, value: NDArray[np.float64], weight_sum: NDArray[np.float64], out: Ints, basis: int
) -> int:
    """Write the basis in bps * 1e3, the last known one where a side is missing."""
    for i in range(len(perp)):
        if perp[i] > 0 and weight_sum[i] > 0.0:
            ratio = (perp[i] / scale) / (value[i] / weight_sum[i]) - 1.0
            basis = int(np.floor(abs(ratio) * 1e7 + 0.5))  # 1e4 for bps, 1e3 for BASIS_SCALE
            basis = basis if ratio >= 0.0 else -basis
        out[i] = basis
    return basis
