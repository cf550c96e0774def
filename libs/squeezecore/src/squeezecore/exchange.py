"""The simulated venue: orders and one second of market in, fills and what became of the orders out.

A pure state machine without clock: `submit` and `cancel` say at the close of which second we decided, `settle` says what
one second brought. What may be known when is the first rule: nothing in `settle(ts, …)` reads a second after `ts`.

When an order fills, and at what price
* An order decided at the close of second t meets the market in second `t + 1 + floor(latency)`; its *reference price* is
  that second's open. It never sees the second it was decided in.
* A market order pays half the spread and an impact that grows with its share of the second's opposite volume, that is of
  what takers on our side took from the side we take from: a buy competes with the taker buys for the asks (`buy_qty`).
  At most `participation_max_ppm` of that volume is ours in a second, all our orders together; the rest is carried to the
  next second and pays that one's open. A second without such volume fills nothing. The price stays within the second's low
  and high, widened by half the spread, and is rounded to the tick against us.
* A market order that would open or add is given up after `CARRY_S_MAX` seconds. One that reduces waits as long as it must.
* A limit order that could trade at once (reference better than its price) takes like a market order, never beyond its
  price. Otherwise it rests from the first full second after its arrival, and fills at its own price when the second's low
  (high) lies strictly beyond it, at most `participation_max_ppm` of the volume that came against us (a resting buy is
  filled by taker sells). Touching is not crossing.
* A stop is touched by the high or low of a second t at or after its arrival. It then takes at the worse of its price and
  the open of t + 1, plus the cost of a market order, without further latency.
* Funding is paid at each event's own time on the position held before that second's fills, × that second's mark.
* After the fills, when equity at the mark is no more than the maintenance margin, all perpetuals are closed at the worse of
  mark and close, half the spread away and rounded against us, and pay the liquidation fee. All open orders end.

Where this lies, and in which direction, is told assumption by assumption in docs/simulated-exchange.md. All arithmetic is
on integers, in parts per million, so every machine makes the same fill. This module knows no strategy and no limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from squeezecore.filling import OUT_EQUITY, Deal, fill_seconds
from squeezecore.ledger import MARGIN_PPM, Ledger, divide_half_away, notional_usd_e8, refuse_unsupported
from squeezecore.market import DAY_S, PPM, Instrument, Kind, Rows, Side
from squeezecore.schedules import Grid, Terms, bracket_columns, grid_of, maintenance_path, maintenance_usd_e8, terms_of
from squeezecore.spec import Costs
from squeezecore.trading import (
    ExitReason,
    Fill,
    Liquidity,
    Order,
    OrderKind,
    OrderState,
    OrderUpdate,
    Payment,
    order_id,
)

__all__ = ["Payment"]  # of `trading`; everything else here is to be had by its name

CARRY_S_MAX = 60  # seconds an opening market order waits for volume
DEAL_MAX = 2**60  # what the kernel of `fill` may be told


class Market(NamedTuple):
    """One second of one traded instrument; plain integers at its price and qty scale."""

    open: int
    high: int
    low: int
    close: int
    buy_qty: int  # taker buys
    sell_qty: int  # taker sells
    mark: int


def market_at(rows: Rows, at: int) -> Market:
    """Return a row as the exchange sees it."""
    return Market(
        int(rows.open[at]), int(rows.high[at]), int(rows.low[at]), int(rows.close[at]),
        int(rows.buy_qty[at]), int(rows.sell_qty[at]), int(rows.mark[at]),
    )  # fmt: skip


class FundingEvent(NamedTuple):
    """One settlement: at `event_ts`, positive `rate` (× FUNDING_SCALE, of its own interval): longs pay shorts."""

    instrument: str
    event_ts: int  # s, UTC
    rate: int


class Settled(NamedTuple):
    """What one second brought, in the order it happened: payments, fills; then the equity at the second's marks."""

    fills: tuple[Fill, ...]
    updates: tuple[OrderUpdate, ...]
    payments: tuple[Payment, ...]
    equity_usd_e8: int


class _Working(msgspec.Struct):
    """An order on its way or in the book."""

    order: Order
    remaining: int
    taking_from_ts: int  # first second it may take in
    resting_from_ts: int  # first second it may rest through
    fills: int = 0
    resting: bool = False  # a limit order that met a worse market
    triggered_ts: int = -1  # a stop: the second that touched it
    cancel_ts: int = -1  # the first second it is gone in


class _State(msgspec.Struct):
    """All that the past tells the future, beside the ledger."""

    settled_ts: int = -1
    known: dict[str, OrderUpdate] = {}  # the last word on each order, open or done
    working: list[_Working] = []  # open orders, in order of arrival
    funded_ts: dict[str, int] = {}  # last funding event paid, per instrument


class Exchange:
    """One account at the simulated venue. Deterministic; snapshot and restoration are invisible.

    Raises `UsageError` for instruments that cannot be held (inverse, quanto, options).
    """

    def __init__(
        self,
        instruments: Mapping[str, Instrument],
        costs: Costs,
        capital_usd_e8: int,
        *,
        account: str = "paper",
        margin_ppm: int = MARGIN_PPM,
    ) -> None:
        for instrument in instruments.values():
            refuse_unsupported(instrument)
        self.ledger = Ledger(capital_usd_e8, margin_ppm)
        self._instruments = dict(instruments)
        self._costs = costs
        self._account = account
        self._known_terms: dict[tuple[str, int], Terms] = {}  # both of one UTC day, so that they stay small
        self._known_grids: dict[tuple[str, int], Grid] = {}
        self._state = _State()

    # --- what we say ---

    def submit(self, order: Order, now_ts: int) -> OrderUpdate:
        """Accept an order decided at the close of second `now_ts`, or reject it; a known id changes nothing."""
        known = self._state.known.get(order.id)
        if known is not None:
            return known
        fault = self._fault(order, now_ts)
        if fault:
            return self._say(order, now_ts, OrderState.REJECTED, fault)
        latency = self._costs.latency_ms
        self._state.working.append(
            _Working(
                order=order,
                remaining=order.qty,
                taking_from_ts=now_ts + 1 + latency // 1000,
                resting_from_ts=now_ts + 1 + -(-latency // 1000),
            )
        )
        return self._say(order, now_ts, OrderState.ACCEPTED)

    def cancel(self, order_id: str, now_ts: int) -> OrderUpdate:
        """Ask for the end of an order at the close of second `now_ts`; it may still fill until the word has arrived.

        Returns the last word on the order; `CANCELLED` comes from `settle`. An unknown id is `UNKNOWN`.
        """
        for working in self._state.working:
            if working.order.id == order_id and working.cancel_ts < 0:
                working.cancel_ts = now_ts + 1 + -(-self._costs.latency_ms // 1000)
        unknown = OrderUpdate(order_id=order_id, ts=now_ts, state=OrderState.UNKNOWN, reason="never submitted here")
        return self._state.known.get(order_id, unknown)

    # --- what the market says ---

    def settle(self, ts: int, market: Mapping[str, Market], funding: Iterable[FundingEvent] = ()) -> Settled:
        """Let second `ts` happen: funding, cancels, fills, marks, liquidation.

        `market` holds the second of every instrument with a position or an order that has one; `funding` the events since
        the last settled second, up to `ts`. Raises `ValueError` for a second that does not follow the last one and for
        funding of the future: both would be our fault.
        """
        if ts <= self._state.settled_ts:
            raise ValueError(f"second was {ts}, the last settled is {self._state.settled_ts}: seconds must ascend")
        payments = self._fund(ts, market, funding)
        updates: list[OrderUpdate] = []
        fills: list[Fill] = []
        taken: dict[tuple[str, Liquidity, Side], int] = {}
        still: list[_Working] = []
        for working in self._state.working:
            if self._ended(working, ts, updates):
                continue
            second = market.get(working.order.instrument)
            if second is not None:
                self._meet(working, ts, second, taken, fills, updates)
            if self._state.known[working.order.id].state in (OrderState.ACCEPTED, OrderState.PARTIAL):
                still.append(working)
        self._state.working = still
        self.ledger.mark({name: second.mark for name, second in market.items()})
        self._liquidate(ts, market, fills, updates)
        self._state.settled_ts = ts
        booked = bool(fills or payments)
        equity = self.ledger.check() if booked else self.ledger.equity_usd_e8
        return Settled(tuple(fills), tuple(updates), tuple(payments), equity)

    def fill(
        self, ts: int, name: str, seconds: Sequence[NDArray[np.int64]], loss_floor_usd_e8: int, distance_min: float
    ) -> tuple[Settled, NDArray[np.int64]]:
        """Settle, in one pass, seconds from `ts` on in which the one market order fills; return the equity of each too.

        `seconds` holds columns open, high, low, buy_qty, sell_qty, mark of instrument `name`, the only one with an order or
        a position; no funding may fall into them, nor midnight. Stops after a second that fills the order or opens a
        position; and before one that needs more care: no such order, one that ends unfilled, a lack of margin, equity at
        the loss floor, at `distance_min` of the gross value, or to be liquidated, integers too large or off the grid. Such
        a second must go through `settle`, to which this is equal second by second.
        """
        deal = self._deal(ts, name, loss_floor_usd_e8, distance_min)
        if deal is None:
            return _NOTHING
        working = self._state.working[0]
        order, (open_, high, low, buy_qty, sell_qty, mark) = working.order, seconds
        beside = buy_qty if order.side is Side.BUY else sell_qty
        brackets = bracket_columns(self._terms(name, ts).brackets)
        done, count, after, out = fill_seconds(deal, (open_, high, low, beside, mark), brackets)
        if not done:
            return _NOTHING
        fills, updates = _fills_of(working, out[:, :count].T.tolist())
        if fills:
            self._state.known[order.id] = updates[-1]
            self.ledger.apply_all(fills, self._instruments[name], after.position * deal.lot, after.cost, after.realised)
        if not working.remaining:
            self._state.working = []
        self.ledger.mark({name: int(mark[done - 1])})
        self._state.settled_ts = ts + done - 1
        equity = self.ledger.check() if fills else self.ledger.equity_usd_e8
        return Settled(tuple(fills), tuple(updates), (), equity), out[OUT_EQUITY, :done]

    def skip(
        self, end_ts: int, marks: Mapping[str, NDArray[np.int64]], path: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """Settle, in one pass, the quiet seconds up to and including `end_ts`, and return the equity of each, usd_e8.

        `marks` holds, for each instrument held, a column of the marks of the seconds that end with `end_ts`. There must be
        no open order, and no funding event in the span. Stops before the first second that would liquidate: then the
        result is shorter than the columns, and that second must go through `settle`. Equal to `settle` second by second.
        `path` is what the ledger's `equity_path` says of these columns, where the caller has it already.
        """
        if self._state.working:
            raise ValueError(
                f"{len(self._state.working)} orders are open, a span can be skipped without any: settle it"
            )
        equity = self.ledger.equity_path(marks) if path is None else path
        start_ts = end_ts - len(equity) + 1
        if start_ts <= self._state.settled_ts:
            raise ValueError(f"span began at {start_ts}, the last settled is {self._state.settled_ts}: ascend")
        quiet = len(equity)
        if not self._is_safe(start_ts, end_ts, int(equity.min()), marks):
            threatened = equity <= self._maintenance_path(start_ts, marks, len(equity))
            quiet = int(threatened.argmax()) if threatened.any() else len(equity)
        if quiet:
            self.ledger.mark({name: int(column[quiet - 1]) for name, column in marks.items()})
            self._state.settled_ts = start_ts + quiet - 1
        return equity[:quiet]

    def close_out(self, ts: int, instrument_id: str, price: int, reason: str) -> Settled:
        """Close a position at `price` at once, with half the spread and the taker fee; its open orders end.

        For what no market second can fill: the last close before a hole (`DATA_HOLE`) and the end of a run.
        """
        fills: list[Fill] = []
        updates: list[OrderUpdate] = []
        for working in [w for w in self._state.working if w.order.instrument == instrument_id]:
            self._state.working.remove(working)
            updates.append(self._say(working.order, ts, OrderState.CANCELLED, reason))
        if self.ledger.qty_of(instrument_id):
            self._close(ts, instrument_id, price, reason, self._terms(instrument_id, ts).taker_fee_ppm, fills, updates)
        return Settled(tuple(fills), tuple(updates), (), self.ledger.check())

    # --- what is there ---

    @property
    def settled_ts(self) -> int:
        """Return the last second that was settled; −1 before the first."""
        return self._state.settled_ts

    @property
    def idle(self) -> bool:
        """Tell whether there is neither a position nor an open order: no second can change anything."""
        return not self._state.working and not self.ledger.positions

    def open_orders(self) -> tuple[tuple[Order, int], ...]:
        """Return open orders, each with the qty that is still to be filled, in order of arrival."""
        return tuple((working.order, working.remaining) for working in self._state.working)

    def status(self, order_id: str) -> OrderUpdate | None:
        """Return the last word on an order."""
        return self._state.known.get(order_id)

    def maintenance_usd_e8(self, ts: int) -> int:
        """Return the maintenance margin of all perpetuals at their last marks."""
        return sum(
            maintenance_usd_e8(self._terms(name, ts), abs(self.ledger.value_of(name)))
            for name in self.ledger.positions
            if self._instruments[name].kind is not Kind.SPOT
        )

    # --- a cut in time ---

    def to_bytes(self) -> bytes:
        """Write the whole state; instruments and costs are given again on restoration."""
        return msgspec.json.encode((self.ledger.to_bytes(), self._account, self._state), order="sorted")

    @classmethod
    def from_bytes(cls, data: bytes, instruments: Mapping[str, Instrument], costs: Costs) -> Exchange:
        """Restore what `to_bytes` wrote."""
        books, account, state = msgspec.json.decode(data, type=tuple[bytes, str, _State])
        exchange = cls(instruments, costs, 0, account=account)
        exchange.ledger = Ledger.from_bytes(books)
        exchange._state = state
        return exchange

    # --- one second, step by step ---

    def _fund(self, ts: int, market: Mapping[str, Market], funding: Iterable[FundingEvent]) -> list[Payment]:
        payments = []
        for event in sorted(funding, key=lambda e: (e.event_ts, e.instrument)):
            if event.event_ts > ts:
                raise ValueError(f"funding was of second {event.event_ts}, settled is {ts}: the future cannot be paid")
            if event.event_ts <= self._state.funded_ts.get(event.instrument, -1):
                continue
            self._state.funded_ts[event.instrument] = event.event_ts
            if self.ledger.qty_of(event.instrument):
                second = market.get(event.instrument)
                mark = second.mark if second is not None else self.ledger.marks[event.instrument]
                received = self.ledger.pay_funding(event.instrument, event.rate, mark)
                payments.append(Payment(event.instrument, event.event_ts, received))
        return payments

    def _ended(self, working: _Working, ts: int, updates: list[OrderUpdate]) -> bool:
        """Cancel what was asked to end, or has waited too long."""
        order = working.order
        takes_from = working.triggered_ts + 1 if order.kind is OrderKind.STOP else working.taking_from_ts
        reason = ""
        if 0 <= working.cancel_ts <= ts:
            reason = "cancelled by us"
        elif order.kind is OrderKind.LIMIT or ts < takes_from or takes_from == 0:
            return False
        elif order.reduce_only and order.side.sign * self.ledger.qty_of(order.instrument) >= 0:
            reason = "reduce only: nothing left to reduce"
        elif not order.reduce_only and ts - takes_from >= CARRY_S_MAX:
            reason = f"waited {CARRY_S_MAX} s for volume, {working.remaining} of {order.qty} were left"
        if reason:
            updates.append(self._say(order, ts, OrderState.CANCELLED, reason))
        return bool(reason)

    def _meet(
        self,
        working: _Working,
        ts: int,
        second: Market,
        taken: dict[tuple[str, Liquidity, Side], int],
        fills: list[Fill],
        updates: list[OrderUpdate],
    ) -> None:
        """Let one order meet one second."""
        order, side = working.order, working.order.side
        if ts < working.taking_from_ts:
            return
        if order.kind is OrderKind.STOP and not 0 <= working.triggered_ts < ts:
            if working.triggered_ts < 0 and touched(side, order.price, second):
                working.triggered_ts = ts  # it takes from the next second on
            return
        if order.kind is OrderKind.LIMIT and (working.resting or side.sign * (second.open - order.price) >= 0):
            working.resting = True
            if ts >= working.resting_from_ts and crossed(side, order.price, second):
                against = second.sell_qty if side is Side.BUY else second.buy_qty
                self._fill(working, ts, second, against, taken, Liquidity.MAKER, fills, updates)
            return
        beside = second.buy_qty if side is Side.BUY else second.sell_qty
        self._fill(working, ts, second, beside, taken, Liquidity.TAKER, fills, updates)

    def _fill(
        self,
        working: _Working,
        ts: int,
        second: Market,
        volume: int,
        taken: dict[tuple[str, Liquidity, Side], int],
        liquidity: Liquidity,
        fills: list[Fill],
        updates: list[OrderUpdate],
    ) -> None:
        """Fill what the second's volume and the account allow."""
        order, side = working.order, working.order.side
        instrument = self._instruments[order.instrument]
        grid = self._grid(order.instrument, ts)
        # our takers and our makers of one side eat from different volumes: what we took and what came to us
        key = (order.instrument, liquidity, side)
        used = taken.get(key, 0)
        room = volume * self._costs.participation_max_ppm // PPM - used
        qty = min(working.remaining, room // grid.lot * grid.lot)
        if qty <= 0:
            return
        takes = liquidity is Liquidity.TAKER
        price = self._taking_price(working, second, volume, used + qty, grid.tick) if takes else order.price
        allowed, shortage = self._allowed(order, instrument, ts, price, qty)
        if allowed:
            taken[key] = used + allowed
            working.remaining -= allowed
            working.fills += 1
            terms = self._terms(order.instrument, ts)
            fee_ppm = terms.maker_fee_ppm if liquidity is Liquidity.MAKER else terms.taker_fee_ppm
            fill = _fill_of(order, instrument, ts, price, allowed, fee_ppm, liquidity, working.fills, second.open)
            self.ledger.apply(fill, instrument)
            fills.append(fill)
        if working.remaining == 0:
            updates.append(self._say(order, ts, OrderState.FILLED))
        elif shortage:
            updates.append(self._say(order, ts, OrderState.CANCELLED, shortage))
        else:
            updates.append(self._say(order, ts, OrderState.PARTIAL, f"{working.remaining} carried over"))

    def _taking_price(self, working: _Working, second: Market, volume: int, share_qty: int, tick: int) -> int:
        """Price a fill that takes: reference, cost, the second's range, the order's own bounds, the tick."""
        order, side = working.order, working.order.side
        reference = second.open
        if order.kind is OrderKind.STOP and working.fills == 0:
            reference = max(reference, order.price) if side is Side.BUY else min(reference, order.price)
        price = taking_price(side, reference, second, volume, share_qty, self._costs, tick)
        if order.kind is OrderKind.LIMIT:
            price = min(price, order.price) if side is Side.BUY else max(price, order.price)
        return price

    def _allowed(self, order: Order, instrument: Instrument, ts: int, price: int, qty: int) -> tuple[int, str]:
        """Return how much of a fill the account can bear, and why not all of it."""
        held = self.ledger.qty_of(order.instrument)
        reducible = max(0, -order.side.sign * held)
        spot_sale = instrument.kind is Kind.SPOT and order.side is Side.SELL
        if order.reduce_only or spot_sale:
            if qty <= reducible:
                return qty, ""
            return (
                reducible,
                "reduce only: nothing left to reduce" if order.reduce_only else "spot: nothing left to sell",
            )
        if qty <= reducible:
            return qty, ""
        needed = self._margin_after(instrument, price, held + order.side.sign * qty)
        fee = notional_usd_e8(instrument, price, qty) * self._terms(order.instrument, ts).taker_fee_ppm // PPM
        if needed + fee <= self.ledger.equity_usd_e8:
            return qty, ""
        return reducible, f"margin would be {needed} usd_e8, equity is {self.ledger.equity_usd_e8}: trade less"

    def _margin_after(self, instrument: Instrument, price: int, qty: int) -> int:
        """Return all margin that would be reserved with `qty` of an instrument, valued at `price`."""
        others = sum(m for name, m in self.ledger.margins.items() if name != instrument.id)
        return others + self.ledger.margin_for(instrument, notional_usd_e8(instrument, price, qty))

    def _liquidate(self, ts: int, market: Mapping[str, Market], fills: list[Fill], updates: list[OrderUpdate]) -> None:
        maintenance = self.maintenance_usd_e8(ts)
        if maintenance == 0 or self.ledger.equity_usd_e8 > maintenance:
            return
        cancelled, why = OrderState.CANCELLED, ExitReason.LIQUIDATION
        updates.extend(self._say(working.order, ts, cancelled, why) for working in self._state.working)
        self._state.working = []
        for name in sorted(self.ledger.positions):
            if self._instruments[name].kind is Kind.SPOT:
                continue
            second = market.get(name)
            mark = self.ledger.marks[name]
            close = second.close if second is not None else mark
            worse = min(mark, close) if self.ledger.qty_of(name) > 0 else max(mark, close)
            fee_ppm = self._terms(name, ts).liquidation_fee_ppm
            self._close(ts, name, worse, ExitReason.LIQUIDATION, fee_ppm, fills, updates)

    def _close(
        self,
        ts: int,
        name: str,
        price: int,
        reason: str,
        fee_ppm: int,
        fills: list[Fill],
        updates: list[OrderUpdate],
    ) -> None:
        """Close a whole position at a price, half the spread and the tick against us."""
        instrument, position = self._instruments[name], self.ledger.positions[name]
        side = Side.SELL if position.qty > 0 else Side.BUY
        order = Order(
            id=order_id("exchange", self._account, name, ts, reason), account=self._account, asset=position.asset,
            instrument=name, decided_ts=ts, side=side, qty=abs(position.qty), reduce_only=True, reason=reason,
        )  # fmt: skip
        tick = grid_of(instrument, ts).tick
        spread = _away(side, price * (PPM + side.sign * self._costs.half_spread_ppm), PPM, tick)
        fill = _fill_of(order, instrument, ts, spread, order.qty, fee_ppm, Liquidity.TAKER, 1, price)
        self.ledger.apply(fill, instrument)
        fills.append(fill)
        updates.append(self._say(order, ts, OrderState.FILLED, reason))

    # --- leaves ---

    def _deal(self, ts: int, name: str, loss_floor_usd_e8: int, distance_min: float) -> Deal | None:
        """Describe the one market order to the kernel; None when it is not the plain case."""
        state, instrument, ledger = self._state, self._instruments[name], self.ledger
        if len(state.working) != 1 or ts <= state.settled_ts or instrument.kind is Kind.SPOT:
            return None
        working = state.working[0]
        order, grid, qty = working.order, self._grid(name, ts), ledger.qty_of(name)
        adds = order.side.sign * qty >= 0
        decimals = instrument.price_decimals + instrument.qty_decimals - 8
        unit = int(10 ** max(0, decimals))
        plain = (
            order.kind is OrderKind.MARKET
            and order.instrument == name
            and ledger.positions.keys() <= {name}
            and working.cancel_ts < 0
            and ts >= working.taking_from_ts
            and order.reduce_only != adds
            and qty % grid.lot == working.remaining % grid.lot == grid.lot % unit == 0
        )
        if not plain:
            return None
        costs, held = self._costs, ledger.positions.get(name)
        deal = Deal(
            first_ts=ts, side=order.side.sign, reduces=int(order.reduce_only), remaining=working.remaining // grid.lot,
            end_ts=working.taking_from_ts + CARRY_S_MAX, tick=grid.tick, lot=grid.lot,
            lot_usd_e8=grid.lot // unit * int(10 ** max(0, -decimals)), half_spread_ppm=costs.half_spread_ppm,
            impact_ppm=costs.impact_ppm, participation_ppm=costs.participation_max_ppm,
            fee_ppm=self._terms(name, ts).taker_fee_ppm, margin_ppm=ledger.margin_ppm, floor=loss_floor_usd_e8,
            position=qty // grid.lot, cost=held.cost_usd_e8 if held else 0,
            funds=ledger.cash_usd_e8 + ledger.margin_usd_e8, mark=ledger.marks.get(name, 0), distance=distance_min,
        )  # fmt: skip
        return deal if max(map(abs, deal)) < DEAL_MAX else None

    def _is_safe(self, start_ts: int, end_ts: int, lowest: int, marks: Mapping[str, NDArray[np.int64]]) -> bool:
        """Tell, without a look at each second, whether the lowest equity is above the margin at the highest marks."""
        if start_ts // DAY_S != end_ts // DAY_S:
            return False  # terms may change in between
        margin, perps = 0, False
        for name, position in self.ledger.positions.items():
            if self._instruments[name].kind is not Kind.SPOT:
                top = notional_usd_e8(self._instruments[name], int(marks[name].max()), abs(position.qty))
                margin += maintenance_usd_e8(self._terms(name, start_ts), top)  # it grows with the notional
                perps = True
        return lowest > margin or not perps

    def _maintenance_path(
        self, start_ts: int, marks: Mapping[str, NDArray[np.int64]], seconds: int
    ) -> NDArray[np.int64]:
        total = np.full(seconds, -(2**63) if self._has_no_perp() else 0, np.int64)
        for name, position in self.ledger.positions.items():
            instrument = self._instruments[name]
            if instrument.kind is not Kind.SPOT:
                total += maintenance_path(instrument, position.qty, start_ts, marks[name])
        return total

    def _has_no_perp(self) -> bool:
        return all(self._instruments[name].kind is Kind.SPOT for name in self.ledger.positions)

    def _grid(self, name: str, ts: int) -> Grid:
        """Return the tick and lot in force."""
        known = self._known_grids.get((name, ts // DAY_S))
        if known is None:
            self._known_grids = {k: grid for k, grid in self._known_grids.items() if k[1] == ts // DAY_S}
            known = self._known_grids[name, ts // DAY_S] = grid_of(self._instruments[name], ts)
        return known

    def _terms(self, name: str, ts: int) -> Terms:
        """Return the terms in force, with the spec's fees unless it asked for the venue's."""
        known = self._known_terms.get((name, ts // DAY_S))  # terms change at midnight
        if known is None:
            known = terms_of(self._instruments[name], ts)
            if not self._costs.dated_fees:
                known = known._replace(taker_fee_ppm=self._costs.taker_fee_ppm, maker_fee_ppm=self._costs.maker_fee_ppm)
            self._known_terms = {k: terms for k, terms in self._known_terms.items() if k[1] == ts // DAY_S}
            self._known_terms[name, ts // DAY_S] = known
        return known

    def _fault(self, order: Order, now_ts: int) -> str:
        """Say what is wrong with an order, in words; empty when nothing is."""
        instrument = self._instruments.get(order.instrument)
        if instrument is None:
            return f"instrument was {order.instrument}, traded here are {', '.join(sorted(self._instruments))}"
        grid = self._grid(order.instrument, now_ts)
        if now_ts < self._state.settled_ts:
            return f"decided at second {now_ts}, the last settled is {self._state.settled_ts}"
        if order.side is Side.NONE:
            return "side was NONE, must be BUY or SELL"
        if order.qty <= 0 or order.qty % grid.lot:
            return f"qty was {order.qty}, must be a positive multiple of the lot {grid.lot}"
        if order.kind is not OrderKind.MARKET and (order.price <= 0 or order.price % grid.tick):
            return f"price was {order.price}, must be a positive multiple of the tick {grid.tick}"
        return ""

    def _say(self, order: Order, ts: int, state: OrderState, reason: str = "") -> OrderUpdate:
        update = OrderUpdate(order_id=order.id, ts=ts, state=state, reason=reason)
        self._state.known[order.id] = update
        return update


_NOTHING = Settled((), (), (), 0), np.empty(0, np.int64)


def _fills_of(working: _Working, lines: list[list[int]]) -> tuple[list[Fill], list[OrderUpdate]]:
    """Write down the kernel's fills of an order, (second, price, qty, fee, slippage, …) each, and what they left of it."""
    order = working.order
    name, account, asset, instrument = order.id, order.account, order.asset, order.instrument
    side, reason, taker = order.side, order.reason, Liquidity.TAKER
    fills, updates = [], []
    for ts, price, qty, fee, slippage, _ in lines:
        working.fills += 1
        working.remaining -= qty
        fills.append(
            Fill(
                id=f"{name}-{working.fills}", order_id=name, account=account, asset=asset, instrument=instrument, ts=ts,
                side=side, price=price, qty=qty, fee_usd_e8=fee, slippage_usd_e8=slippage, liquidity=taker, reason=reason,
            )
        )  # fmt: skip
        rest = working.remaining
        state, text = (OrderState.PARTIAL, f"{rest} carried over") if rest else (OrderState.FILLED, "")
        updates.append(OrderUpdate(order_id=name, ts=ts, state=state, reason=text))
    return fills, updates


def touched(side: Side, stop: int, second: Market) -> bool:
    """Tell whether a second's range reached a stop; reaching is enough."""
    return second.high >= stop if side is Side.BUY else second.low <= stop


def crossed(side: Side, limit: int, second: Market) -> bool:
    """Tell whether a second traded strictly beyond a resting limit; touching is not enough, others stood before us."""
    return second.low < limit if side is Side.BUY else second.high > limit


def taking_price(
    side: Side, reference: int, second: Market, volume: int, share_qty: int, costs: Costs, tick: int
) -> int:
    """Price of a fill that takes `share_qty` (ours of this second, this fill included) of `volume`, whole ticks.

    reference × (1 ± (half_spread + impact · share)), within [low · (1 − half_spread), high · (1 + half_spread)] but never
    better than a stop's own reference, rounded to the tick against us.
    """
    sign, half, scale = side.sign, costs.half_spread_ppm, PPM * volume
    price = _away(side, reference * (scale + sign * (half * volume + costs.impact_ppm * share_qty)), scale, tick)
    if side is Side.BUY:
        bound = max(_away(side, second.high * (PPM + half), PPM, tick), _away(side, reference, 1, tick))
        return min(price, bound)
    bound = min(_away(side, second.low * (PPM - half), PPM, tick), _away(side, reference, 1, tick))
    return max(price, bound)


def _away(side: Side, numerator: int, denominator: int, tick: int) -> int:
    """Round numerator / denominator to a whole tick against us: up for a buy, down for a sale, never below one tick."""
    step = denominator * tick
    ticks = -(-numerator // step) if side is Side.BUY else max(1, numerator // step)
    return ticks * tick


def _fill_of(
    order: Order,
    instrument: Instrument,
    ts: int,
    price: int,
    qty: int,
    fee_ppm: int,
    liquidity: Liquidity,
    number: int,
    reference: int,
) -> Fill:
    notional = notional_usd_e8(instrument, price, qty)
    slippage = order.side.sign * (notional - notional_usd_e8(instrument, reference, qty))
    return Fill(
        id=f"{order.id}-{number}", order_id=order.id, account=order.account, asset=order.asset,
        instrument=order.instrument, ts=ts, side=order.side, price=price, qty=qty,
        fee_usd_e8=divide_half_away(notional * fee_ppm, PPM), slippage_usd_e8=slippage, liquidity=liquidity,
        reason=order.reason,
    )  # fmt: skip


def round_trip_cost(costs: Costs) -> float:
    """Estimate what entering and leaving at the market costs, as a log return: the entry test of strategy.md section 6.

    Each way the taker fee, half the spread, and the impact of an order at the participation cap. The price moves by a
    factor (1 + c) / (1 − c), whose logarithm is 2·(c + c³/3 + c⁵/5 + …), exact here to the last bit for c < 2 %.

    >>> round(round_trip_cost(Costs()), 8)
    0.00106
    """
    ppm = costs.taker_fee_ppm + costs.half_spread_ppm + costs.impact_ppm * costs.participation_max_ppm / PPM
    c = ppm / PPM
    return 2.0 * (c + c * c * c / 3.0 + c * c * c * c * c / 5.0)
