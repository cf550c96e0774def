"""Deliberate faults of the simulated exchange, each one a way in which backtests have been too good.

A mutant is the real exchange with one thing wrong. Most are handed the whole world, which the real one never sees; two
only rewrite what has happened. The prefix tests must catch each of them, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

from squeezecore.exchange import Exchange, FundingEvent, Market, Settled, touched
from squeezecore.ledger import divide_half_away, notional_usd_e8
from squeezecore.market import PPM, Side
from squeezecore.spec import Costs
from squeezecore.trading import Fill, Liquidity, Order, OrderKind, OrderState, OrderUpdate
from support.market_worlds import CAPITAL, INSTRUMENTS, World


class _Mutant(Exchange):
    """The real one, with the whole world in its hands."""

    def __init__(self, world: World, costs: Costs) -> None:
        super().__init__(INSTRUMENTS, costs, CAPITAL)
        self.world = world
        self.now: dict[str, Market] = {}

    def next(self, ts: int) -> dict[str, Market]:
        """Look at the second after `ts`, or once more at the last one."""
        return self.world.seconds[min(ts + 1 - self.world.start, len(self.world.seconds) - 1)]

    def change(self, one: Market, after: Market) -> Market:  # noqa: ARG002
        """Say how the second is falsified."""
        return one

    def settle(self, ts, market, funding=()) -> Settled:
        self.now = dict(market)
        after = self.next(ts)
        return super().settle(ts, {name: self.change(one, after[name]) for name, one in market.items()}, funding)


class MarkOfTheNextSecond(_Mutant):
    """Values and liquidates at a mark that is not known yet."""

    def change(self, one, after):
        return one._replace(mark=after.mark)


class VolumeOfTheNextSecond(_Mutant):
    """Caps participation by volume that has not traded yet."""

    def change(self, one, after):
        return one._replace(buy_qty=after.buy_qty, sell_qty=after.sell_qty)


class RangeOfTheNextSecond(_Mutant):
    """Fills resting limits and triggers stops on the range of two seconds, the second one unborn: a centred window."""

    def change(self, one, after):
        return one._replace(high=max(one.high, after.high), low=min(one.low, after.low))


class BetterOfTwoOpens(_Mutant):
    """Takes at the lower of this open and the next: patience it could not have had."""

    def change(self, one, after):
        return one._replace(open=min(one.open, after.open), low=min(one.low, after.open))


class ReferenceIsTheClose(_Mutant):
    """Takes the second's close as the reference: fills a second late in name only."""

    def change(self, one, after):  # noqa: ARG002
        return one._replace(open=one.close)


class FutureFunding(_Mutant):
    """Pays each event eleven seconds early, with the rate that is still to come."""

    def settle(self, ts, market, funding=()) -> Settled:  # noqa: ARG002
        coming = [FundingEvent(e.instrument, ts, e.rate) for e in self.world.funding if e.event_ts == ts + 11]
        return super().settle(ts, market, coming)


class _InItsOwnSecond(_Mutant):
    """Fills a market order in the second whose close decided it."""

    def price(self, one: Market) -> int:  # noqa: ARG002
        raise AssertionError("a mutant must say at what price")

    def __init__(self, world: World, costs: Costs) -> None:
        super().__init__(world, costs)
        self.rewritten: list[Fill] = []

    def submit(self, order: Order, now_ts: int) -> OrderUpdate:
        if order.kind is not OrderKind.MARKET or order.reduce_only or order.id in self._state.known:
            return super().submit(order, now_ts)
        fill = _instant(order, now_ts, self.price(self.now[order.instrument]))
        self.ledger.apply(fill, INSTRUMENTS[order.instrument])
        self.rewritten.append(fill)
        return self._say(order, now_ts, OrderState.FILLED)

    def settle(self, ts, market, funding=()) -> Settled:
        settled = super().settle(ts, market, funding)
        earlier, self.rewritten = tuple(self.rewritten), []
        return settled._replace(fills=earlier + settled.fills)


class FilledAtItsOwnClose(_InItsOwnSecond):
    """Decided at the close and filled at that very close."""

    def price(self, one):
        return one.close


class FilledAtItsOwnOpen(_InItsOwnSecond):
    """Decided at the close and filled at the open before it."""

    def price(self, one):
        return one.open


class StopInTheSecondThatTouchedIt(_Mutant):
    """Fills a stop in the second whose range triggers it, at the stop's own price: no gap ever costs anything."""

    def _meet(self, working, ts, second, taken, fills, updates):
        order = working.order
        if order.kind is OrderKind.STOP and ts >= working.taking_from_ts and touched(order.side, order.price, second):
            fill = _instant(order, ts, order.price, working.remaining)
            self.ledger.apply(fill, INSTRUMENTS[order.instrument])
            fills.append(fill)
            updates.append(self._say(order, ts, OrderState.FILLED))
            return
        super()._meet(working, ts, second, taken, fills, updates)


class EntriesWithoutRegret(_Mutant):
    """Lets an opening order pass when the next close would have been a loss."""

    def _meet(self, working, ts, second, taken, fills, updates):
        order = working.order
        if not order.reduce_only and order.kind is OrderKind.MARKET:
            after = self.next(ts)[order.instrument]
            if order.side.sign * (after.close - second.open) < 0:
                return
        super()._meet(working, ts, second, taken, fills, updates)


def _instant(order: Order, ts: int, price: int, qty: int = 0) -> Fill:
    qty = qty or order.qty
    fee = divide_half_away(notional_usd_e8(INSTRUMENTS[order.instrument], price, qty) * 500, PPM)
    return Fill(
        id=f"{order.id}-1", order_id=order.id, account=order.account, asset=order.asset, instrument=order.instrument,
        ts=ts, side=Side(order.side), price=price, qty=qty, fee_usd_e8=fee, slippage_usd_e8=0, liquidity=Liquidity.TAKER,
    )  # fmt: skip


MUTANTS: dict[str, Callable[[World, Costs], Exchange]] = {
    "mark of the next second": MarkOfTheNextSecond,
    "volume of the next second": VolumeOfTheNextSecond,
    "range of the next second": RangeOfTheNextSecond,
    "better of two opens": BetterOfTwoOpens,
    "reference is the close": ReferenceIsTheClose,
    "future funding": FutureFunding,
    "filled at its own close": FilledAtItsOwnClose,
    "filled at its own open": FilledAtItsOwnOpen,
    "stop filled in the second that touched it": StopInTheSecondThatTouchedIt,
    "entries without regret": EntriesWithoutRegret,
}
