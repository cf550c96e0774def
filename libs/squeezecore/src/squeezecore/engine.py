"""Phase 5: when to enter, how much, when to leave, and why; the same for a live second and a year of them.

`Engine.process` takes one second: what `squeeze.scan` said of it, the rows' closes and flows, and the book as it stands
at the second's end. It answers with orders and with records of what was seen. It is pure and deterministic, and calling it
again for a second it has seen changes nothing.

`Engine.look` finds in a block of seconds the next one at which `process` would do more than count and record, and
`Engine.skip` does that counting and recording. Both use the scalar kernels below, which `process` calls too, so that
skipping and not skipping are one implementation (a property test holds them equal, byte for byte).

This module knows no fill, fee or venue; what became of its orders it reads from the book.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
import numba
import numpy as np
from numpy.typing import NDArray

from squeezecore import risk
from squeezecore.exchange import round_trip_cost
from squeezecore.market import Instrument, Rows, Side, empty
from squeezecore.risk import Book, Pending
from squeezecore.spec import Costs, Limits
from squeezecore.squeeze import (
    CANDLE_S,
    F_BIAS_PERP,
    F_BIAS_RETURN,
    F_BIAS_SPOT,
    F_BOTH_AGAINST_LONG,
    F_BOTH_AGAINST_SHORT,
    F_CONTEXT_AGAINST_LONG,
    F_CONTEXT_AGAINST_SHORT,
    F_LONG,
    F_OI_CONFIRMS,
    F_OI_DENIES,
    F_QUALITY,
    F_RECORD,
    F_RESET_LONG,
    F_RESET_SHORT,
    F_RETURN_DOWN,
    F_RETURN_UP,
    F_SHORT,
    F_SIGNAL,
    F_WARM,
    PHASE_SHIFT,
    PHASES,
    RESET_A,
    Features,
    SqueezeParams,
    log_nano,
)
from squeezecore.trading import USD_E8, Decision, Direction, ExitReason, Order, Parts, order_id

Function = TypeVar("Function", bound=Callable[..., Any])
_njit = cast("Callable[[Function], Function]", numba.njit(cache=True))

NEVER = -(2**40)  # a second before all others
FOREVER = 2**40
NANO = 1_000_000_000  # log prices are integers of 1e-9
NO_LEVEL = 2**60  # a log price that none reaches
RANGE_S = 1_800  # the range that stands in for a reset's

# What keeps a score that is high enough from becoming an order, as bits; the names stand in `Decision.blocked_by`.
B_WARMING, B_QUALITY, B_SIGNAL, B_COOLDOWN, B_FLOWS, B_CONTEXT, B_MOVE, B_STRUCTURE, B_RISK, B_BUSY = (
    1 << n for n in range(10)
)
BLOCKS = (
    "warming",  # less than 28 h of rows, or swings of zero
    "quality",  # one of the last 60 seconds was incomplete
    "signal",  # neither a reset nor an armed divergence in the score's direction
    "cooldown",  # the last exit was filled too short a time ago
    "both_flows_against",  # exit 4 holds already
    "context_flip",  # exit 5 holds already
    "expected_move",  # the expected move does not pay for twice the round trip
    "structure",  # exit 2 holds already
    "risk",  # a limit denied it less than a minute ago; that record's reason says which
    "position",  # a position or an order stands
)
DIRECTION = 1 << 16  # a set of blocks is remembered with the direction it blocked: set for a short one
RETRY_S = 60  # a denied entry is asked for again after a minute, not every second

EXITS = (
    ExitReason.HARD_RISK,
    ExitReason.STRUCTURE,
    ExitReason.FLOW_REVERSAL,
    ExitReason.BOTH_FLOWS_AGAINST,
    ExitReason.CONTEXT_FLIP,
    ExitReason.TIME_STOP,
)
X_NONE, X_HARD_RISK, X_STRUCTURE, X_REVERSAL, X_FLOWS, X_CONTEXT, X_TIME = range(7)


Ints = NDArray[np.int64]


class SecondView(NamedTuple):
    """One asset's second as the engine sees it: its row, its features, and what was in force."""

    ts: int  # s
    score_milli: int
    flags: int  # squeeze.F_…
    swing_spot: float  # swing_S(1800), USD cents
    swing_perp: float
    swing_return: float  # swing_R(3600), log return
    reset_low: int  # price scale; 0 = none
    reset_high: int
    candle_range: int  # mean range of the last 12 candles, 1e-9 log price
    deceleration: int  # parts of the score, thousandths
    absorption: int
    breakdown: int
    close: int  # price scale
    spot_delta: int  # USD cents
    perp_delta: int
    range_low: int  # lowest low and highest high of the last 1800 s, this one included
    range_high: int


_NO_ROW = (0, 0, 0, 0, 0)


def views_at(features: Features, indices: Ints) -> list[SecondView]:
    """See some seconds of a block without their rows: what a record needs, no price and no flow."""
    ts = features.ts[indices]
    swings = features.swings[features.swing_ts.searchsorted(ts, "right") - 1]
    reset = features.reset[features.reset_ts.searchsorted(ts, "right") - 1]
    parts = features.parts[features.part_ts.searchsorted(ts, "right") - 1]
    score, flags = features.score_milli[indices].tolist(), features.flags[indices].tolist()
    blocks = zip(ts.tolist(), score, flags, swings.tolist(), reset.tolist(), parts.tolist(), strict=True)
    return [
        SecondView._make((t, points, bits, *swing, *border, *part, *_NO_ROW))
        for t, points, bits, swing, border, part in blocks
    ]


def view_at(features: Features, index: int, rows: Rows, at: int) -> SecondView:
    """See second `index` of a block; `rows[at]` is its row, with those of the 1,799 s before it where they exist."""
    ts = features.ts[index]
    swing = features.swings[features.swing_ts.searchsorted(ts, "right") - 1].tolist()
    reset = features.reset[features.reset_ts.searchsorted(ts, "right") - 1].tolist()
    parts = features.parts[features.part_ts.searchsorted(ts, "right") - 1].tolist()
    first = int(rows.ts[: at + 1].searchsorted(ts + 1 - RANGE_S))
    row = (
        int(rows.close[at]), int(rows.spot_delta[at]), int(rows.perp_delta[at]),
        int(rows.low[first : at + 1].min()), int(rows.high[first : at + 1].max()),
    )  # fmt: skip
    seen = (int(ts), int(features.score_milli[index]), int(features.flags[index]))
    return SecondView._make((*seen, *swing, *reset, *parts, *row))


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is frozen when we decide to enter."""

    order_id: str
    decided_ts: int
    side: int  # 1 long, -1 short
    tier: int  # 1..3
    score_milli: int
    close: int  # price scale
    level: int  # the range's border on our side, price scale; 0 = none (an adopted position without history)
    stop_log: int  # log price beyond which the structure is broken, 1e-9


class AssetState(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """All that the past of one asset may tell its future."""

    ts: int = NEVER  # last second seen
    flags: int = 0  # of that second
    block: int = 0  # last recorded set of blocks with its direction
    left_ts: int = NEVER  # second of the last exit fill
    retry_ts: int = NEVER  # first second at which a denied entry may be asked for again
    entry: Entry | None = None
    opened_ts: int = NEVER  # second of the entry's first fill; NEVER = none was seen
    leaving: str = ""  # the exit that was decided; it is asked for until the position is gone
    spot_cents: int = 0  # flows since the entry's fill
    perp_cents: int = 0


class Held(NamedTuple):
    """A position as the exit kernel needs it."""

    side: int
    opened_ts: int
    stop_log: int  # 1e-9 log price; the structure breaks beyond it
    fixed_log: int  # the fixed stop
    time_stop_ts: int
    min_hold_ts: int
    watching: int  # 0: no exit is looked for, an order stands that must be filled or end first
    reversal: float  # in swings of 1800 s


class Gates(NamedTuple):
    """What an entry must pass, as the gate kernel needs it."""

    entry_milli: int
    left_ts: int
    retry_ts: int
    cooldown_s: int
    break_log: int  # the structure breaks this far beyond its level, 1e-9 log price
    break_ranges: float  # the same as a multiple of the candles' mean range; 0 = break_log
    move_min: float  # the expected move must exceed it, log return


class Decisions(NamedTuple):
    """What one second led to."""

    orders: tuple[Order, ...] = ()
    decisions: tuple[Decision, ...] = ()
    cancels: tuple[str, ...] = ()  # ids of open orders that must not fill any more


class Look(NamedTuple):
    """What `Engine.look` found in seconds `first..stop` of a block; `stop` itself is not counted yet."""

    asset: str
    features: Features
    first: int
    stop: int  # index of the second that needs `process`; the end of the block when there is none
    found: bool
    records: NDArray[np.int64]  # indices of seconds that leave a record
    blocks: NDArray[np.int64]  # the set of blocks of each
    block: int  # state at `stop`
    spot_cents: int
    perp_cents: int


# --- the conditions of one second ---


@_njit
def gate(ts: int, score_milli: int, flags: int, swing_return: float, g: Gates) -> int:
    """Return the blocks of a second's score as bits, 0 when nothing blocks it, -1 when there is nothing to block."""
    if score_milli < g.entry_milli or flags & (F_LONG | F_SHORT) == 0:
        return -1
    flows, context = F_BOTH_AGAINST_LONG, F_CONTEXT_AGAINST_LONG
    if flags & F_SHORT:
        flows, context = F_BOTH_AGAINST_SHORT, F_CONTEXT_AGAINST_SHORT
    blocks = 0
    if flags & F_WARM == 0:
        blocks |= B_WARMING
    if flags & F_QUALITY == 0:
        blocks |= B_QUALITY
    if flags & F_SIGNAL == 0:
        blocks |= B_SIGNAL
    if ts - g.left_ts < g.cooldown_s:
        blocks |= B_COOLDOWN
    if ts < g.retry_ts:
        blocks |= B_RISK
    if flags & flows:
        blocks |= B_FLOWS
    if flags & context:
        blocks |= B_CONTEXT
    # score / 5 swings of an hour are what we expect
    if not swing_return * score_milli / 5000.0 > g.move_min:
        blocks |= B_MOVE
    return blocks


@_njit
def exit_code(
    ts: int, flags: int, close_log: int, spot: int, perp: int, swing_spot: float, swing_perp: float, h: Held
) -> int:
    """Return the first exit that holds (an index into `EXITS` plus one), 0 when none does; section 7's order."""
    side = h.side
    if side * (close_log - h.fixed_log) <= 0:
        return X_HARD_RISK
    if side * (close_log - h.stop_log) < 0:
        return X_STRUCTURE
    if ts >= h.min_hold_ts and swing_spot > 0 and swing_perp > 0:
        in_favour = F_RETURN_UP if side > 0 else F_RETURN_DOWN
        against = -side * spot > h.reversal * swing_spot and side * perp > h.reversal * swing_perp
        if against and flags & in_favour == 0:
            return X_REVERSAL
    if flags & (F_BOTH_AGAINST_LONG if side > 0 else F_BOTH_AGAINST_SHORT):
        return X_FLOWS
    if flags & (F_CONTEXT_AGAINST_LONG if side > 0 else F_CONTEXT_AGAINST_SHORT):
        return X_CONTEXT
    if ts >= h.time_stop_ts:
        return X_TIME
    return X_NONE


@_njit
def level_of(side: int, flags: int, reset_low: int, reset_high: int, range_low: int, range_high: int) -> int:
    """Return the structure's border on our side: of the reset's range where one of our direction stands, else 30 minutes'."""
    ours = F_RESET_LONG if side > 0 else F_RESET_SHORT
    if flags & ours and (flags >> PHASE_SHIFT) & 3 >= RESET_A and reset_low > 0:
        return reset_low if side > 0 else reset_high
    return range_low if side > 0 else range_high


@_njit
def stop_log_of(side: int, level: int, candle_range: int, g: Gates) -> int:
    """Return the log price beyond which a structure is broken; one that none reaches where there is no level."""
    if level <= 0:
        return -side * NO_LEVEL
    margin = g.break_log if g.break_ranges == 0.0 else math.floor(g.break_ranges * candle_range)
    return log_nano(level) - side * margin


# --- the same conditions over a block ---


@_njit
def _watch_flat(
    ts: Ints, score_milli: Any, flags: Any, swing_ts: Ints, swings: Any, first: int, end: int,
    reset_ts: Ints, reset: Any, row_ts: Ints, low: Ints, high: Ints, close: Ints, block: int, g: Gates,
    found: Ints, blocks: Ints,
) -> tuple[int, int, int]:  # fmt: skip
    """Run `gate` until a second passes it; return that index, the number of records and the last set of blocks.

    Where the rows at hand reach, a passing second whose structure is broken already is blocked, not returned.
    """
    count, r = 0, 0
    k = np.searchsorted(swing_ts, ts[first], side="right") - 1
    for i in range(first, end):
        bits: Any = np.int64(flags[i])
        score: Any = np.int64(score_milli[i])
        while k + 1 < len(swing_ts) and swing_ts[k + 1] <= ts[i]:
            k += 1
        now = gate(ts[i], score, bits, swings[k, 2], g)
        if now == 0:
            at = ts[i] - row_ts[0] if len(row_ts) else 0
            if at >= len(row_ts) or at < 0 or row_ts[at] != ts[i]:
                return i, count, block
            side = 1 if bits & F_LONG else -1
            while r + 1 < len(reset_ts) and reset_ts[r + 1] <= ts[i]:
                r += 1
            since = max(0, at + 1 - RANGE_S)
            bottom, top = low[since : at + 1].min(), high[since : at + 1].max()
            level = level_of(side, bits, reset[r, 0], reset[r, 1], bottom, top)
            if side * (log_nano(close[at]) - stop_log_of(side, level, reset[r, 2], g)) >= 0:
                return i, count, block
            now = B_STRUCTURE
        changed = False
        if now > 0:
            shown = now | (DIRECTION if bits & F_SHORT else 0)
            changed = block != shown
            block = shown
        if changed or bits & F_RECORD:
            found[count] = i
            blocks[count] = max(now, 0)
            count += 1
    return end, count, block


@_njit
def _watch_held(
    ts: Ints, score_milli: Any, flags: Any, swing_ts: Ints, swings: Any, first: int, end: int,
    close: Ints, spot_delta: Ints, perp_delta: Ints, spot: int, perp: int, entry_milli: int, h: Held,
    found: Ints, blocks: Ints,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Run `exit_code` until a second must be left; return its index, the number of records, the flows before it.

    `close` and the flows hold the rows of seconds `first..end`.
    """
    count, last, last_log = 0, 0, 0
    k = np.searchsorted(swing_ts, ts[first], side="right") - 1
    for i in range(first, end):
        j = i - first
        bits: Any = np.int64(flags[i])
        while k + 1 < len(swing_ts) and swing_ts[k + 1] <= ts[i]:
            k += 1
        if close[j] != last:
            last = close[j]
            last_log = log_nano(last)
        now_spot, now_perp = spot, perp
        if ts[i] > h.opened_ts:
            now_spot += spot_delta[j]
            now_perp += perp_delta[j]
        if h.watching and exit_code(ts[i], bits, last_log, now_spot, now_perp, swings[k, 0], swings[k, 1], h):
            return i, count, spot, perp
        spot, perp = now_spot, now_perp
        if bits & F_RECORD:
            found[count] = i
            blocks[count] = B_BUSY if score_milli[i] >= entry_milli and bits & (F_LONG | F_SHORT) else 0
            count += 1
    return end, count, spot, perp


@functools.cache
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Compile both, or load them from numba's cache, for the one signature each has; it takes read-only columns too."""
    types = cast("Any", numba.types)
    whole = types.int64

    def column(kind: Any, dimensions: int = 1) -> Any:
        return types.Array(kind, dimensions, "C", readonly=True)

    features = (column(whole), column(types.int16), column(types.uint32), column(whole), column(types.float64, 2))
    gates = types.NamedTuple((*(whole,) * 5, types.float64, types.float64), Gates)
    held = types.NamedTuple((*(whole,) * 7, types.float64), Held)
    out = (whole[::1], whole[::1])
    flat, hold = cast("Any", _watch_flat), cast("Any", _watch_held)
    reset = (column(whole), column(whole, 2))
    flat.compile((*features, whole, whole, *reset, *(column(whole),) * 4, whole, gates, *out))
    hold.compile((*features, whole, whole, *(column(whole),) * 3, *(whole,) * 3, held, *out))
    flat.disable_compile()
    hold.disable_compile()
    return flat, hold


# --- the engine ---


_NO_ROWS = empty(Rows)
_BUSY = Held(1, FOREVER, 0, 0, FOREVER, FOREVER, 0, 0.0)  # an order stands, nothing is held: only records


class Engine:
    """One account's decisions over several assets. Mutable, deterministic; a snapshot and its restoration are invisible.

    `assets` names the instrument that is traded for each asset. Assets are asked in the order of their names, each seeing
    the orders of those before it.
    """

    def __init__(
        self,
        params: SqueezeParams,
        assets: Mapping[str, Instrument],
        costs: Costs,
        limits: Limits,
        account: str = "paper",
    ) -> None:
        self._params = params
        self._params_hash = params.hash
        self._assets = dict(sorted(assets.items()))
        self._limits = limits
        self._account = account
        self._round_trip = round_trip_cost(costs)
        self._entry_milli = round(params.entry_score * 1000)
        self._open_gates = Gates(
            self._entry_milli, NEVER, NEVER, params.cooldown_s, round(params.structure_break * NANO),
            float(params.structure_atr), float(params.cost_multiple * self._round_trip),
        )  # fmt: skip
        self._states = {asset: AssetState() for asset in self._assets}
        self._found, self._blocks = np.empty(0, np.int64), np.empty(0, np.int64)  # room for `look`

    # --- one second ---

    def process(self, second: int, views: Mapping[str, SecondView], book: Book) -> Decisions:
        """Decide at the close of `second`.

        `views` holds the assets whose row of this second exists; an asset may be left out when `look` found nothing for it.
        `book` is the account at the close of this second, its fills and marks included.
        """
        orders: list[Order] = []
        decisions: list[Decision] = []
        cancels: list[str] = []
        hard = hard_risk(book.equity_usd_e8, book.day_open_usd_e8, book.gross_usd_e8, self._limits)
        if book.kill_switch:
            hard = "kill switch"
        for asset, state in self._states.items():
            view = views.get(asset)
            qty, pending = self._settle(asset, state, view, second, book)
            if view is None or view.ts <= state.ts:
                continue
            if qty:
                order = self._hold(asset, state, view, qty, pending, hard, decisions)
                if order is not None:
                    orders.append(order)
                    cancels += [p.order.id for p in pending if not p.order.reduce_only]
            elif pending or state.entry is not None:
                self._record(asset, state, view, B_BUSY if self._scores(view) else 0, decisions)
            else:  # the next asset sees this one's order
                book = self._wait(asset, state, view, book, orders, decisions)
            state.ts, state.flags = view.ts, view.flags
        return Decisions(tuple(orders), tuple(decisions), tuple(cancels))

    def busy(self, asset: str) -> bool:
        """Tell whether the asset has an entry that the next second must see: ordered or held."""
        return self._states[asset].entry is not None

    def _settle(
        self, asset: str, state: AssetState, view: SecondView | None, second: int, book: Book
    ) -> tuple[int, list[Pending]]:
        """Learn from the book what became of our orders; return the position and the asset's open orders."""
        name = self._assets[asset].id
        qty = book.qty_of(name)
        pending = [p for p in book.open_orders if p.order.instrument == name]
        if qty:
            if state.entry is None or state.entry.side * qty < 0:
                if view is not None:  # a position we did not enter: it gets today's levels, and every exit
                    side = 1 if qty > 0 else -1
                    state.entry = self._entry(view, side, "", second)
                    state.opened_ts, state.spot_cents, state.perp_cents = second, 0, 0
            elif state.opened_ts == NEVER:
                state.opened_ts = second
        elif state.opened_ts != NEVER:
            _forget(state)
            state.left_ts = second
        elif state.entry is not None and not pending and second > state.entry.decided_ts:
            _forget(state)  # the entry came to nothing: denied, rejected, cancelled
        return qty, pending

    def _hold(
        self,
        asset: str,
        state: AssetState,
        view: SecondView,
        qty: int,
        pending: list[Pending],
        hard: str,
        decisions: list[Decision],
    ) -> Order | None:
        """Count a held second's flows and leave when an exit holds, unless an order to leave is out already."""
        assert state.entry is not None
        if view.ts > state.opened_ts:
            state.spot_cents += view.spot_delta
            state.perp_cents += view.perp_delta
        reason = state.leaving
        if not reason:
            code = exit_code(
                view.ts, view.flags, log_nano(view.close), state.spot_cents, state.perp_cents,
                view.swing_spot, view.swing_perp, self._held(state),
            )  # fmt: skip
            reason = ExitReason.HARD_RISK if hard else EXITS[code - 1] if code else ""
        leaving = any(p.order.reduce_only for p in pending)
        if not reason or leaving:
            self._record(asset, state, view, B_BUSY if self._scores(view) else 0, decisions)
            return None
        state.leaving = reason
        side = Side.SELL if qty > 0 else Side.BUY
        order = self._order(asset, view.ts, side, abs(qty), reason, reduce_only=True)
        inputs = {
            **_swing_inputs(view), **self._price_inputs(asset, state.entry, view), "held_s": float(view.ts - state.opened_ts),
            "spot_since_entry_usd": state.spot_cents / 100, "perp_since_entry_usd": state.perp_cents / 100,
        }  # fmt: skip
        text = f"{reason}: {hard}" if hard and reason == ExitReason.HARD_RISK else str(reason)
        decisions.append(self._decision(asset, "exit", view, reason=text, order_id=order.id, inputs=inputs))
        return order

    def _wait(
        self,
        asset: str,
        state: AssetState,
        view: SecondView,
        book: Book,
        orders: list[Order],
        decisions: list[Decision],
    ) -> Book:
        """Enter when nothing blocks it; return the book with the new order in it."""
        blocks = gate(view.ts, view.score_milli, view.flags, view.swing_return, self._gates(state))
        if blocks:
            self._record(asset, state, view, max(blocks, 0), decisions)
            return book
        side = 1 if view.flags & F_LONG else -1
        entry = self._entry(view, side, "", view.ts)
        if side * (log_nano(view.close) - entry.stop_log) < 0:
            self._record(asset, state, view, B_STRUCTURE, decisions)
            return book
        order, reason, inputs = self._ask(asset, entry, view, book)
        inputs = {**_swing_inputs(view), **self._price_inputs(asset, entry, view), **inputs}
        if order is None:
            state.retry_ts = view.ts + RETRY_S
            state.block = B_RISK | (DIRECTION if side < 0 else 0)
            decisions.append(self._decision(asset, "denied", view, B_RISK, reason=reason, inputs=inputs))
            return book
        state.entry = msgspec.structs.replace(entry, order_id=order.id)
        state.block, state.spot_cents, state.perp_cents = 0, 0, 0
        orders.append(order)
        decisions.append(self._decision(asset, "entry", view, reason="entry", order_id=order.id, inputs=inputs))
        return book.with_order(order)

    def _ask(
        self, asset: str, entry: Entry, view: SecondView, book: Book
    ) -> tuple[Order | None, str, dict[str, float]]:
        """Size an entry and ask the limits; return the order, or why there is none, and the figures of the size."""
        p = self._params
        instrument, side = self._assets[asset], Side(entry.side)
        distance = max(abs(log_nano(view.close) - entry.stop_log) / NANO, p.stop_distance_min)
        factor = (p.tier_1_size, p.tier_2_size, p.tier_3_size)[entry.tier - 1]
        sized = risk.size(
            book, self._limits, asset=asset, instrument=instrument.id, side=side, stop_distance=distance,
            risk_fraction=p.risk_per_trade * factor,
            leverage_cap=(p.tier_1_leverage, p.tier_2_leverage, p.tier_3_leverage)[entry.tier - 1],
        )  # fmt: skip
        inputs = {
            "stop_distance": distance,
            "expected_move": view.swing_return * view.score_milli / 5000.0,
            "round_trip_cost": self._round_trip,
            "equity_usd": book.equity_usd_e8 / USD_E8,
            "tier": float(entry.tier),
            "qty_base": sized.qty / 10**instrument.qty_decimals,
        }
        if not sized.qty:
            return None, f"{sized.cut_by} leaves less than one lot", inputs
        order = self._order(asset, view.ts, side, sized.qty, "entry")
        denied = risk.check(order, book, self._limits)
        if denied is not None:
            inputs |= {"limit": float(denied.limit), "value": float(denied.value)}
            return None, f"{denied.limit_name}: {denied.message}", inputs
        return order, "", inputs

    # --- many seconds ---

    def look(
        self,
        asset: str,
        features: Features,
        first: int,
        end: int,
        rows: Rows | None = None,
        at: int = 0,
        *,
        pending: Sequence[Order] = (),
    ) -> Look:
        """Find, from second `first` of a block, the next one before `end` that needs `process`. Changes nothing.

        `pending` are the asset's open orders. With a position or an open order `rows[at]` must be the row of second `first`
        and rows must reach to `end`; without, rows may hold any span (with the 1,799 before the first second looked at): it
        saves calls. Neither the orders nor whether there is a position may differ from what the last `process` saw, its own
        orders included.
        """
        state = self._states[asset]
        flat, hold = _compiled()
        if len(self._found) < end - first:
            self._found, self._blocks = np.empty(end - first, np.int64), np.empty(end - first, np.int64)
        found, blocks = self._found, self._blocks
        block, spot, perp = state.block, state.spot_cents, state.perp_cents
        columns = (features.ts, features.score_milli, features.flags, features.swing_ts, features.swings, first, end)
        if first >= end or self._is_unsettled(state, pending):
            return Look(asset, features, first, first, first < end, found[:0], blocks[:0], block, spot, perp)
        if state.entry is None and not pending:
            rows = rows or _NO_ROWS
            stop, count, block = flat(
                *columns, features.reset_ts, features.reset, rows.ts, rows.low, rows.high, rows.close,
                block, self._gates(state), found, blocks,
            )  # fmt: skip
        else:
            assert rows is not None, "an asset with a position or an order is looked at with its rows"
            seconds = slice(at, at + end - first)
            stop, count, spot, perp = hold(
                *columns, rows.close[seconds], rows.spot_delta[seconds], rows.perp_delta[seconds],
                spot, perp, self._entry_milli, _BUSY if state.opened_ts == NEVER else self._held(state), found, blocks,
            )  # fmt: skip
        records = (found[:count].copy(), blocks[:count].copy())
        return Look(asset, features, first, stop, stop < end, *records, block, spot, perp)

    def _is_unsettled(self, state: AssetState, pending: Sequence[Order]) -> bool:
        """Tell whether the very next second must be processed: something was asked for and is neither open nor done."""
        if state.leaving:
            return not any(order.reduce_only for order in pending)
        return state.entry is not None and state.opened_ts == NEVER and not pending

    def skip(self, look: Look) -> tuple[Decision, ...]:
        """Count and record what `look` found before its stop, as calling `process` for each of these seconds would."""
        state, features = self._states[look.asset], look.features
        decisions = []
        views = views_at(features, look.records) if len(look.records) else []
        for index, blocks, view in zip(look.records.tolist(), look.blocks.tolist(), views, strict=True):
            before = int(features.flags[index - 1]) if index > look.first else state.flags
            decisions.append(self._decision(look.asset, _kind(before, view), view, blocks))
        if look.stop > look.first:
            state.ts, state.flags = int(features.ts[look.stop - 1]), int(features.flags[look.stop - 1])
            state.block, state.spot_cents, state.perp_cents = look.block, look.spot_cents, look.perp_cents
        return tuple(decisions)

    # --- a cut in time ---

    def to_bytes(self) -> bytes:
        """Write the whole state; parameters, assets, costs and limits are given again on restoration."""
        return msgspec.json.encode(self._states, order="sorted")

    def restore(self, data: bytes) -> None:
        """Take over what `to_bytes` wrote; assets it does not know start afresh."""
        states = msgspec.json.decode(data, type=dict[str, AssetState])
        self._states = {asset: states.get(asset, AssetState()) for asset in self._assets}

    def entry_of(self, asset: str) -> Entry | None:
        """Return what was frozen when the asset's present position was decided."""
        return self._states[asset].entry

    def describe(self, asset: str, features: Features, index: int) -> Decision:
        """Return what a record of second `index` of a block would say, whether or not it leaves one."""
        return self._decision(asset, "state", views_at(features, np.array([index]))[0])

    # --- leaves ---

    def _scores(self, view: SecondView) -> bool:
        return view.score_milli >= self._entry_milli and view.flags & (F_LONG | F_SHORT) != 0

    def _gates(self, state: AssetState) -> Gates:
        return self._open_gates._replace(left_ts=state.left_ts, retry_ts=state.retry_ts)

    def _held(self, state: AssetState) -> Held:
        p, entry = self._params, state.entry
        assert entry is not None
        hours = (p.time_stop_tier_1_h, p.time_stop_tier_2_h, p.time_stop_tier_3_h)[entry.tier - 1]
        fixed = round(p.fixed_stop * NANO)
        return Held(
            side=entry.side,
            opened_ts=state.opened_ts,
            stop_log=entry.stop_log,
            fixed_log=log_nano(entry.close) - entry.side * fixed if fixed else -entry.side * NO_LEVEL,
            time_stop_ts=state.opened_ts + round(hours * 3600) if hours else FOREVER,
            min_hold_ts=state.opened_ts + p.reversal_min_hold_s,
            watching=0 if state.leaving else 1,
            reversal=p.reversal_swing,
        )

    def _entry(self, view: SecondView, side: int, order: str, decided_ts: int) -> Entry:
        """Freeze the tier and the structure: the reset's range where one of our direction stands, else 30 minutes'."""
        p = self._params
        level = level_of(side, view.flags, view.reset_low, view.reset_high, view.range_low, view.range_high)
        score = view.score_milli / 1000
        return Entry(
            order_id=order,
            decided_ts=decided_ts,
            side=side,
            tier=3 if score >= p.tier_3_score else 2 if score >= p.tier_2_score else 1,
            score_milli=view.score_milli,
            close=view.close,
            level=level,
            stop_log=stop_log_of(side, level, view.candle_range, self._open_gates),
        )

    def _order(self, asset: str, ts: int, side: Side, qty: int, reason: str, *, reduce_only: bool = False) -> Order:
        name = self._assets[asset].id
        return Order(
            id=order_id(self._params_hash, self._account, name, ts, reason), account=self._account, asset=asset,
            instrument=name, decided_ts=ts, side=side, qty=qty, reduce_only=reduce_only, reason=reason,
        )  # fmt: skip

    def _record(self, asset: str, state: AssetState, view: SecondView, blocks: int, decisions: list[Decision]) -> None:
        """Leave a record when the scan asked for one or what blocks an entry has changed."""
        changed = False
        if blocks and blocks != B_BUSY:
            now = blocks | (DIRECTION if view.flags & F_SHORT else 0)
            changed, state.block = now != state.block, now
        if changed or view.flags & F_RECORD:
            decisions.append(self._decision(asset, _kind(state.flags, view), view, blocks))

    def _decision(
        self,
        asset: str,
        kind: str,
        view: SecondView,
        blocks: int = 0,
        *,
        reason: str = "",
        order_id: str = "",
        inputs: dict[str, float] | None = None,
    ) -> Decision:
        flags = view.flags
        return Decision(
            asset=asset,
            ts=view.ts,
            kind=kind,
            direction=_DIRECTIONS[flags & 3],
            score_milli=view.score_milli,
            parts=_parts(view),
            phase=PHASES[flags >> PHASE_SHIFT & 3],
            reset_low=view.reset_low,
            reset_high=view.reset_high,
            blocked_by=_names(blocks),
            reason=reason,
            order_id=order_id,
            inputs=_swing_inputs(view) if inputs is None else inputs,
            params_hash=self._params_hash,
        )

    def _price_inputs(self, asset: str, entry: Entry, view: SecondView) -> dict[str, float]:
        scale = 10 ** self._assets[asset].price_decimals
        return {"close": view.close / scale, "structure_level": entry.level / scale}


_DIRECTIONS = (Direction.NEUTRAL, Direction.BULLISH, Direction.BEARISH, Direction.NEUTRAL)  # by the two lowest flags


def hard_risk(equity_usd_e8: int, day_open_usd_e8: int, gross_usd_e8: int, limits: Limits) -> str:
    """Say which limit of the account closes every position now; empty when none does (exit 1 of section 7)."""
    if equity_usd_e8 <= loss_floor_usd_e8(day_open_usd_e8, limits):
        return f"daily loss beyond {limits.daily_loss_max:.2%}"
    if gross_usd_e8 and equity_usd_e8 <= math.floor(gross_usd_e8 * limits.liquidation_distance_min):
        return f"liquidation nearer than {limits.liquidation_distance_min:.2%}"
    return ""


def loss_floor_usd_e8(day_open_usd_e8: int, limits: Limits) -> int:
    """Return the equity at (and below) which the day's loss closes everything."""
    return day_open_usd_e8 - math.floor(day_open_usd_e8 * limits.daily_loss_max)


def _forget(state: AssetState) -> None:
    """Forget a position, keep what outlives it."""
    state.entry, state.opened_ts, state.leaving = None, NEVER, ""
    state.block, state.spot_cents, state.perp_cents = 0, 0, 0


def _kind(before: int, view: SecondView) -> str:
    """Name what a record is about: what changed since the flags of the second before."""
    changed = before ^ view.flags
    if changed & (F_LONG | F_SHORT):
        return "direction"
    if changed & (3 << PHASE_SHIFT | F_RESET_LONG | F_RESET_SHORT):
        return "reset"
    if view.flags & F_RECORD and (view.ts + 1) % CANDLE_S == 0:
        return "candle"
    return "block"


@functools.cache
def _names(blocks: int) -> tuple[str, ...]:
    return tuple(name for n, name in enumerate(BLOCKS) if blocks >> n & 1)


def _parts(view: SecondView) -> Parts:
    """Split a score into its parts. The bias's context term is not on the tape: it is what the others leave of the score."""
    flags = view.flags
    if flags & (F_LONG | F_SHORT) == 0:
        return _NO_PARTS
    interest = 1000 if flags & F_OI_CONFIRMS else -1000 if flags & F_OI_DENIES else 0
    yes_no = (
        (800 if flags & F_BIAS_SPOT else 0)
        + (400 if flags & F_BIAS_PERP else 0)
        + (400 if flags & F_BIAS_RETURN else 0)
    )
    rest = view.score_milli - view.deceleration - view.absorption - view.breakdown - interest
    return Parts(
        reset_deceleration=view.deceleration,
        absorption=view.absorption,
        failed_breakdown=view.breakdown,
        directional_bias=min(max(rest, yes_no), yes_no + 400),
        open_interest=interest,
    )


_NO_PARTS = Parts()


def _swing_inputs(view: SecondView) -> dict[str, float]:
    return {
        "swing_spot_1800_usd": view.swing_spot / 100,
        "swing_perp_1800_usd": view.swing_perp / 100,
        "swing_return_3600": view.swing_return,
    }
