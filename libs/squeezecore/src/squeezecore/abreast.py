"""The flow kernels for many instruments and assets at once: the same bits as one after the other, a call instead of a thousand.

A live second closes a thousand instruments. `flow.scan_bars` costs some tens of microseconds a call, most of it Python's;
here the common case is one compiled loop: prints that carry on where the last ones ended, no hole, a feed that lives.
Whatever is not common goes through `flow.scan_bars` itself, so there is one meaning, and a law holds both to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from squeezecore.flow import (
    BarParams,
    BarState,
    Holes,
    Ints,
    RowParams,
    RowState,
    _add_market,
    _add_spot,
    _carry,
    _fill,
    _known,
    _own,
    _per_8h,
    _pick,
    _ratio,
    scan_bars,
)
from squeezecore.market import Bars, Gap, Rows, Trades, concat, cut, dtypes, empty

# -- trades to bars ----------------------------------------------------------------------------------------------------

_ENDS = BarState._fields[2:]  # what stands in a row of `Abreast.ends`
_LOW_ID, _LOW_S, _HIGH_ID, _HIGH_S, _CLOSED, _COVERED, _CLOSE, _DEAD, _LATE, _DOUBLED, _HISTORY, _NOT_FLOW = range(12)


class Abreast(NamedTuple):
    """The states of many instruments, each in its slot."""

    ends: Ints  # slot × the numbers of a BarState
    pending: Trades  # of all, by slot
    pending_at: Ints  # slot k's are [k]:[k + 1]
    holes: Holes
    holes_at: Ints


def abreast(states: Sequence[BarState]) -> Abreast:
    """Put states side by side."""
    ends = np.array([state[2:] for state in states], np.int64).reshape(len(states), len(_ENDS))
    return Abreast(
        ends,
        concat([empty(Trades), *(state.pending for state in states)]),
        _offsets([len(state.pending.id) for state in states]),
        concat([empty_holes(), *(state.holes for state in states)]),
        _offsets([len(state.holes.first_id) for state in states]),
    )


def empty_holes() -> Holes:
    """Make no holes."""
    return Holes(*(np.empty(0, np.int64) for _ in Holes._fields))


def state_of(state: Abreast, slot: int) -> BarState:
    """Return one slot's state."""
    pending = cut(state.pending, int(state.pending_at[slot]), int(state.pending_at[slot + 1]))
    holes = cut(state.holes, int(state.holes_at[slot]), int(state.holes_at[slot + 1]))
    ends = dict(zip(_ENDS, state.ends[slot].tolist(), strict=True))
    return BarState(pending, holes, **ends | {"dead": bool(ends["dead"])})


def states_of(state: Abreast) -> list[BarState]:
    """Return all slots' states."""
    return [state_of(state, slot) for slot in range(len(state.ends))]


def _offsets(counts: Sequence[int] | Ints) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(counts, np.int64))])


class Lanes(NamedTuple):
    """The parameters of many instruments, as columns for the compiled loop."""

    params: tuple[BarParams, ...]
    shift: Ints  # decimals of price * qty beyond cents
    contiguous: NDArray[np.bool_]
    id_kind: Ints


def lanes(params: Sequence[BarParams]) -> Lanes:
    """Take instruments' parameters into columns."""
    return Lanes(
        tuple(params),
        np.array([p.price_decimals + p.qty_decimals - 2 for p in params], np.int64),
        np.array([p.contiguous for p in params], np.bool_),
        np.array([p.id_kind for p in params], np.int64),
    )


def scan_abreast(
    lanes: Lanes,
    state: Abreast,
    slots: Ints,
    trades: Trades,
    watermark_s: int,
    alive: bool = True,
    doubts: Ints | None = None,
) -> tuple[Abreast, Ints, Bars, list[Gap]]:
    """Do `flow.scan_bars` for every slot with its own prints; `slots` names each print's, `doubts` holds each slot's `doubt_s`.

    Returns the new state, the slot of each bar, the bars by slot and second, and all gaps by slot.
    """
    count = len(state.ends)
    if len(slots) and bool((slots[1:] < slots[:-1]).any()):
        order = np.argsort(slots, kind="stable")
        slots, trades = slots[order], _pick(trades, order)
    trades = _own(trades)
    new_at = np.searchsorted(slots, np.arange(count + 1)).astype(np.int64)
    common = np.ones(count, np.bool_)
    doubts = np.full(count, -1, np.int64) if doubts is None else doubts
    if not alive:
        common[:] = False
    watermark_s = int(watermark_s)
    spans, joined_at = _plan(
        lanes.contiguous, state.ends, state.pending.id, state.pending.exchange_ns, state.pending_at, state.holes_at,
        trades.id, trades.exchange_ns, new_at, watermark_s, doubts, common,
    )  # fmt: skip
    bars = Bars(*(np.zeros(int(spans[-1]), dtype) for dtype in dtypes(Bars).values()))
    pending = Trades(*(np.empty(int(joined_at[-1]), dtype) for dtype in dtypes(Trades).values()))
    ends = state.ends.copy()
    pending_at, broken = _close(
        lanes.shift, lanes.id_kind, ends, state.pending, state.pending_at, trades, new_at, joined_at, pending, bars, spans,
        watermark_s, common,
    )  # fmt: skip
    if broken >= 0:  # it knows how to say it
        own = cut(trades, int(new_at[broken]), int(new_at[broken + 1]))
        scan_bars(lanes.params[broken], state_of(state, broken), own, watermark_s)
    pending = cut(pending, 0, int(pending_at[-1]))
    bar_slots = np.repeat(np.arange(count), np.diff(spans))
    if common.all():
        return Abreast(ends, pending, pending_at, state.holes, state.holes_at), bar_slots, bars, []
    return _rest(
        lanes, state, trades, new_at, (watermark_s, alive), doubts, common, ends, pending, pending_at, bars, spans
    )


def _rest(
    lanes: Lanes,
    state: Abreast,
    trades: Trades,
    new_at: Ints,
    mark: tuple[int, bool],
    doubts: Ints,
    common: NDArray[np.bool_],
    ends: Ints,
    pending: Trades,
    pending_at: Ints,
    bars: Bars,
    spans: Ints,
) -> tuple[Abreast, Ints, Bars, list[Gap]]:
    """Send the slots that are not common through `scan_bars`, and put all results together in the order of slots."""
    count = len(common)
    gaps: list[Gap] = []
    prints, seconds, holes = [empty(Trades)], [empty(Bars)], [empty_holes()]
    print_counts, bar_counts, hole_counts = np.diff(pending_at), np.diff(spans), np.diff(state.holes_at)
    done = 0  # slots before are put together
    for slot in np.flatnonzero(~common).tolist():
        prints.append(cut(pending, int(pending_at[done]), int(pending_at[slot])))
        seconds.append(cut(bars, int(spans[done]), int(spans[slot])))
        own = cut(trades, int(new_at[slot]), int(new_at[slot + 1]))
        after, made, found = scan_bars(lanes.params[slot], state_of(state, slot), own, *mark, int(doubts[slot]))
        ends[slot] = after[2:]
        prints.append(after.pending)
        seconds.append(made)
        holes.append(after.holes)
        gaps += found
        print_counts[slot], bar_counts[slot] = len(after.pending.id), len(made.ts)
        hole_counts[slot] = len(after.holes.first_id)
        done = slot + 1
    prints.append(cut(pending, int(pending_at[done]), int(pending_at[count])))
    seconds.append(cut(bars, int(spans[done]), int(spans[count])))
    state = Abreast(ends, concat(prints), _offsets(print_counts), concat(holes), _offsets(hole_counts))
    return state, np.repeat(np.arange(count), bar_counts), concat(seconds), gaps


@njit(cache=True)
def _plan(
    contiguous: NDArray[np.bool_],
    ends: Ints,
    pending_id: Ints,
    pending_ns: Ints,
    pending_at: Ints,
    holes_at: Ints,
    new_id: Ints,
    new_ns: Ints,
    new_at: Ints,
    watermark_s: int,
    doubts: Ints,
    common: NDArray[np.bool_],
) -> tuple[Ints, Ints]:
    """Find the slots whose prints carry on where the last ones ended; sum up their seconds and their prints.

    Common is: price and coverage are known, no hole, not dead, nothing in doubt; new ids carry on (by exactly one where
    ids are contiguous), and new times do not go back, nor behind what is closed.
    """
    count = len(ends)
    spans = np.zeros(count + 1, np.int64)
    joined_at = np.zeros(count + 1, np.int64)
    for k in range(count):
        closed_s = ends[k, 4]
        fine = common[k] and ends[k, 7] == 0 and ends[k, 6] >= 0 and closed_s >= 0 and holes_at[k] == holes_at[k + 1]
        fine = fine and 0 <= ends[k, 5] <= closed_s and (doubts[k] <= closed_s or watermark_s <= closed_s)
        fine = fine and watermark_s - closed_s <= 62 * 86_400
        a, b = new_at[k], new_at[k + 1]
        if fine and b > a:
            last_ns, last_id = closed_s * 1_000_000_000, np.int64(-1)
            if pending_at[k + 1] > pending_at[k]:
                last_ns = pending_ns[pending_at[k + 1] - 1]
            if contiguous[k]:
                last_id = ends[k, 2]
                fine = last_id >= 0
            else:
                for i in range(pending_at[k], pending_at[k + 1]):
                    last_id = max(last_id, pending_id[i])
            for i in range(a, b):
                step = new_id[i] - last_id
                if new_ns[i] < last_ns or step < 1 or (contiguous[k] and step > 1):
                    fine = False
                    break
                last_id, last_ns = new_id[i], new_ns[i]
        common[k] = fine
        joined_at[k + 1] = joined_at[k]
        spans[k + 1] = spans[k]
        if fine:
            joined_at[k + 1] += pending_at[k + 1] - pending_at[k] + b - a
            spans[k + 1] += max(np.int64(0), watermark_s - closed_s)
    return spans, joined_at


@njit(cache=True)
def _close(
    shift: Ints,
    id_kind: Ints,
    ends: Ints,
    pending: Trades,
    pending_at: Ints,
    new: Trades,
    new_at: Ints,
    joined_at: Ints,
    joined: Trades,
    bars: Bars,
    spans: Ints,
    watermark_s: int,
    common: NDArray[np.bool_],
) -> tuple[Ints, int]:
    """Join each common slot's prints, close its seconds, and leave the open prints at the beginning of `joined`.

    Returns where each slot's open prints lie, and the slot whose turnover does not fit 63 bits (−1: none).
    """
    count = len(ends)
    left_at = np.zeros(count + 1, np.int64)
    for k in range(count):
        left_at[k + 1] = left_at[k]
        if not common[k]:
            continue
        a, b, c, d = pending_at[k], pending_at[k + 1], new_at[k], new_at[k + 1]
        start = joined_at[k]
        middle, end = start + b - a, joined_at[k + 1]
        _lay(joined, start, pending, a, b)
        _lay(joined, middle, new, c, d)
        if d > c and ends[k, 2] >= 0:  # ids are counted only where they are contiguous
            ends[k, 2], ends[k, 3] = new.id[d - 1], new.exchange_ns[d - 1] // 1_000_000_000
        closing = start
        if watermark_s > ends[k, 4]:
            while closing < end and joined.exchange_ns[closing] < watermark_s * 1_000_000_000:
                closing += 1
            part = Bars(
                bars.ts[spans[k] : spans[k + 1]], bars.open[spans[k] : spans[k + 1]], bars.high[spans[k] : spans[k + 1]],
                bars.low[spans[k] : spans[k + 1]], bars.close[spans[k] : spans[k + 1]],
                bars.buy_volume[spans[k] : spans[k + 1]], bars.sell_volume[spans[k] : spans[k + 1]],
                bars.buy_usd_cents[spans[k] : spans[k + 1]], bars.sell_usd_cents[spans[k] : spans[k + 1]],
                bars.buy_trades[spans[k] : spans[k + 1]], bars.sell_trades[spans[k] : spans[k + 1]],
                bars.largest[spans[k] : spans[k + 1]], bars.complete[spans[k] : spans[k + 1]],
                bars.first_id[spans[k] : spans[k + 1]], bars.last_id[spans[k] : spans[k + 1]],
                bars.id_kind[spans[k] : spans[k + 1]], bars.version[spans[k] : spans[k + 1]],
            )  # fmt: skip
            prints = Trades(
                joined.id[start:closing], joined.exchange_ns[start:closing], joined.received_ns[start:closing],
                joined.price[start:closing], joined.qty[start:closing], joined.quote_cents[start:closing],
                joined.side[start:closing], joined.flags[start:closing],
            )  # fmt: skip
            close, _, not_flow, broken = _fill(prints, part, ends[k, 4], ends[k, 6], shift[k])
            if broken >= 0:
                return left_at, k
            part.id_kind[:] = id_kind[k]
            part.version[:] = np.uint64(1) << np.uint64(32)
            ends[k, 6] = close
            ends[k, 4] = watermark_s
            ends[k, 11] += not_flow
        _lay(joined, left_at[k], joined, closing, end)
        left_at[k + 1] = left_at[k] + end - closing
    return left_at, -1


@njit(cache=True)
def _lay(out: Trades, at: int, block: Trades, start: int, end: int) -> None:
    """Copy prints `start:end` of a block to `at`; forward, so that a block may be moved down within itself."""
    for i in range(end - start):
        out.id[at + i] = block.id[start + i]
        out.exchange_ns[at + i] = block.exchange_ns[start + i]
        out.received_ns[at + i] = block.received_ns[start + i]
        out.price[at + i] = block.price[start + i]
        out.qty[at + i] = block.qty[start + i]
        out.quote_cents[at + i] = block.quote_cents[start + i]
        out.side[at + i] = block.side[start + i]
        out.flags[at + i] = block.flags[start + i]


# -- bars to rows ------------------------------------------------------------------------------------------------------


class RowLanes(NamedTuple):
    """The parameters of many assets as columns; asset a's markets are `market_at[a]:market_at[a + 1]`."""

    params: tuple[RowParams, ...]
    market_at: Ints
    slot: Ints  # whose bars a market's are; -1: nobody's
    weight_ppm: Ints
    side: Ints
    scale: NDArray[np.float64]  # of the market's prices
    traded: Ints  # position among the asset's markets
    basis_perp: Ints
    config_rev: Ints
    age_s_max: Ints


def row_lanes(params: Sequence[RowParams], slots: Mapping[str, int]) -> RowLanes:
    """Take assets' parameters into columns; `slots` says where an instrument's bars will lie."""
    return RowLanes(
        tuple(params),
        _offsets([len(p.instruments) for p in params]),
        np.array([slots.get(name, -1) for p in params for name in p.instruments], np.int64),
        np.array([weight for p in params for weight in p.weights_ppm], np.int64),
        np.array([side for p in params for side in p.sides], np.int64),
        np.array([10.0**decimals for p in params for decimals in p.price_decimals], np.float64),
        np.array([p.traded for p in params], np.int64),
        np.array([p.basis_perp for p in params], np.int64),
        np.array([p.config_rev for p in params], np.int64),
        np.array([p.age_s_max for p in params], np.int64),
    )


class RowsAbreast(NamedTuple):
    """The states of many assets."""

    spot_close: Ints  # by market, asset after asset
    spot_close_s: Ints
    last: Ints  # asset × the numbers of a RowState


def rows_abreast(states: Sequence[RowState]) -> RowsAbreast:
    """Put states side by side."""
    return RowsAbreast(
        np.concatenate([np.empty(0, np.int64), *(state.spot_close for state in states)]),
        np.concatenate([np.empty(0, np.int64), *(state.spot_close_s for state in states)]),
        np.array([state[2:] for state in states], np.int64).reshape(len(states), len(RowState._fields) - 2),
    )


def row_state_of(lanes: RowLanes, state: RowsAbreast, asset: int) -> RowState:
    """Return one asset's state."""
    a, b = int(lanes.market_at[asset]), int(lanes.market_at[asset + 1])
    return RowState(state.spot_close[a:b].copy(), state.spot_close_s[a:b].copy(), *state.last[asset].tolist())


class Known(NamedTuple):
    """One kind of fact of many assets' traded instruments; asset a's are `at[a]:at[a + 1]`, ascending by `known_at`."""

    at: Ints
    known_at: Ints
    value: Ints
    interval_s: Ints  # zeros where the kind has none


def known(facts: Sequence[Sequence[tuple[int, int, int]]]) -> Known:
    """Take each asset's facts, as (known_at, value, interval_s), into columns."""
    flat = np.array([fact for own in facts for fact in own], np.int64).reshape(-1, 3)
    columns = (np.ascontiguousarray(flat[:, n]) for n in range(3))
    return Known(_offsets([len(own) for own in facts]), *columns)


def scan_rows_abreast(
    lanes: RowLanes, state: RowsAbreast, bars: Bars, bar_at: Ints, open_interest: Known, funding: Known, marks: Known
) -> tuple[RowsAbreast, Ints, Rows]:
    """Do `flow.scan_rows` for every asset; slot k's bars are `bar_at[k]:bar_at[k + 1]`.

    Returns the new state, where each asset's rows lie, and the rows by asset and second.
    """
    own = lanes.slot[lanes.market_at[:-1] + lanes.traded]
    counts = np.where(own >= 0, np.diff(bar_at)[own], 0) if len(bar_at) > 1 else np.zeros(len(own), np.int64)
    row_at = _offsets(counts)
    rows = Rows(*(np.zeros(int(row_at[-1]), dtype) for dtype in dtypes(Rows).values()))
    state = RowsAbreast(*(column.copy() for column in state))
    bars = _own(bars)
    _weigh_all(lanes[1:], tuple(state), bars, bar_at, row_at, rows, tuple(open_interest), tuple(funding), tuple(marks))
    return state, row_at, rows


@njit(cache=True)
def _weigh_all(
    lanes: Any, state: Any, bars: Bars, bar_at: Ints, row_at: Ints, rows: Rows, interest: Any, funding: Any, marks: Any
) -> None:
    """Make all assets' rows in place, with the kernels of `flow`."""
    market_at, slot, weight_ppm, side, scale, traded, basis_perp, config_rev, age_s_max = lanes
    spot_close, spot_close_s, last = state
    for a in range(len(traded)):
        i, j = row_at[a], row_at[a + 1]
        if i == j:
            continue
        k = slot[market_at[a] + traded[a]]
        b, c = bar_at[k], bar_at[k + 1]
        rows.ts[i:j] = bars.ts[b:c]
        rows.open[i:j], rows.high[i:j] = bars.open[b:c], bars.high[b:c]
        rows.low[i:j], rows.close[i:j] = bars.low[b:c], bars.close[b:c]
        rows.buy_qty[i:j], rows.sell_qty[i:j] = bars.buy_volume[b:c], bars.sell_volume[b:c]
        rows.config_rev[i:j] = config_rev[a]
        ts, covered = rows.ts[i:j], rows.quality_ppm[i:j]
        whole = 0
        for m in range(market_at[a], market_at[a + 1]):
            if side[m] == 0 or weight_ppm[m] == 0:
                continue
            whole += weight_ppm[m]
            if slot[m] < 0:
                continue
            p, q = bar_at[slot[m]], bar_at[slot[m] + 1]
            delta = rows.spot_delta[i:j] if side[m] == 1 else rows.perp_delta[i:j]
            volume = rows.spot_volume[i:j] if side[m] == 1 else rows.perp_volume[i:j]
            _add_market(
                ts, delta, volume, covered, bars.ts[p:q], bars.buy_usd_cents[p:q], bars.sell_usd_cents[p:q],
                bars.complete[p:q], weight_ppm[m],
            )  # fmt: skip
        for n in range(j - i):
            covered[n] = covered[n] * 1_000_000 // whole if whole else np.int64(bars.complete[b + n]) * 1_000_000
        _lay_known(rows, i, j, a, age_s_max[a], last[a], interest, funding, marks)
        value, weight_sum = np.zeros(j - i), np.zeros(j - i)
        for m in range(market_at[a], market_at[a + 1]):
            if side[m] != 1:
                continue
            p, q = (bar_at[slot[m]], bar_at[slot[m] + 1]) if slot[m] >= 0 else (np.int64(0), np.int64(0))
            spot_close[m], spot_close_s[m] = _add_spot(
                ts, value, weight_sum, bars.ts[p:q], bars.close[p:q], spot_close[m], spot_close_s[m],
                float(max(weight_ppm[m], 1)), scale[m], age_s_max[a],
            )  # fmt: skip
        perp, perp_scale = np.full(j - i, -1, np.int64), 1.0
        if basis_perp[a] >= 0:
            m = market_at[a] + basis_perp[a]
            perp_scale = scale[m]
            if basis_perp[a] == traded[a]:
                perp[:] = rows.mark[i:j]
            else:
                p, q = (bar_at[slot[m]], bar_at[slot[m] + 1]) if slot[m] >= 0 else (np.int64(0), np.int64(0))
                last[a, 0] = _carry(ts, perp, bars.ts[p:q], bars.close[p:q], last[a, 0])
        last[a, 8] = _ratio(perp, perp_scale, value, weight_sum, rows.basis_bps[i:j], last[a, 8])


@njit(cache=True)
def _lay_known(
    rows: Rows, i: int, j: int, a: int, age_s_max: int, last: Ints, interest: Any, funding: Any, marks: Any
) -> None:
    """Write the last known facts into the rows of one asset; `last` is its row of `RowsAbreast.last`."""
    ts = rows.ts[i:j]
    of, known_at, value, interval_s = interest
    b, c = of[a], of[a + 1]
    at = _known(ts, known_at[b:c], last[2])
    kept_value, kept_at, kept_s = last[1], last[2], last[3]
    for n in range(j - i):
        new = at[n] >= 0
        rows.open_interest[i + n] = value[b + at[n]] if new else kept_value
        rows.oi_known_at[i + n] = known_at[b + at[n]] if new else kept_at
        rows.oi_interval_s[i + n] = interval_s[b + at[n]] if new else kept_s
    last[1], last[2], last[3] = rows.open_interest[j - 1], rows.oi_known_at[j - 1], rows.oi_interval_s[j - 1]
    of, known_at, value, interval_s = funding
    b, c = of[a], of[a + 1]
    at = _known(ts, known_at[b:c], last[5])
    rate, kept_value = _per_8h(value[b:c], interval_s[b:c]), last[4]
    for n in range(j - i):
        rows.funding_rate_8h[i + n] = rate[at[n]] if at[n] >= 0 else kept_value
    last[4] = rows.funding_rate_8h[j - 1]
    last[5] = known_at[b + at[-1]] if at[-1] >= 0 else last[5]
    of, known_at, value, interval_s = marks
    b, c = of[a], of[a + 1]
    at = _known(ts, known_at[b:c], last[7])
    kept_value, kept_at = last[6], last[7]
    for n in range(j - i):
        price = value[b + at[n]] if at[n] >= 0 else kept_value
        when = known_at[b + at[n]] if at[n] >= 0 else kept_at
        fresh = when >= 0 and ts[n] - when <= age_s_max and price > 0
        rows.mark[i + n] = price if fresh else rows.close[i + n]
        last[6], last[7] = price, when
