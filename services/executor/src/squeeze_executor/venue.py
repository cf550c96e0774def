"""Where orders go: the port that every exchange fits, and the exchange on paper.

An order's id is ours, made from what decided it, and the venue's client order id. Sending an id twice is one order: that is
what lets a new leader send again what an old one may or may not have sent. What a venue does not answer is unknown, never
rejected.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from squeezecore.settling import Settling
from squeezecore.trading import Fill, Order, OrderUpdate

FILLS_KEPT = 10_000


class Venue(Protocol):
    """An account at an exchange."""

    async def submit(self, order: Order) -> OrderUpdate:
        """Send an order and return the first word on it; an id that is known there changes nothing."""

    async def cancel(self, order_id: str) -> OrderUpdate:
        """Ask for the end of an order; return the last word on it, `UNKNOWN` for one that was never sent."""

    async def status(self, order_id: str) -> OrderUpdate | None:
        """Return the last word on an order; None when the venue has never heard of it."""

    async def open_orders(self) -> Sequence[tuple[Order, int]]:
        """Return open orders, each with the qty that is still to be filled."""

    async def positions(self) -> Mapping[str, int]:
        """Return what is held, by instrument id, at qty scale and signed."""

    async def fills(self, since_ts: int) -> Sequence[Fill]:
        """Return fills from second `since_ts` on, by second."""


class Paper:
    """The simulated exchange, fed by live rows."""

    def __init__(self, settling: Settling) -> None:
        self._settling = settling
        self._fills: deque[Fill] = deque(maxlen=FILLS_KEPT)

    def follow(self, settling: Settling) -> None:
        """Go on with another machine of the same account."""
        self._settling = settling

    def note(self, fills: Sequence[Fill]) -> None:
        """Remember fills of a settled second."""
        self._fills.extend(fills)

    async def submit(self, order: Order) -> OrderUpdate:
        """Send an order."""
        return self._settling.submit(order)

    async def cancel(self, order_id: str) -> OrderUpdate:
        """Ask for the end of an order."""
        return self._settling.account.exchange.cancel(order_id, self._settling.settled_ts)

    async def status(self, order_id: str) -> OrderUpdate | None:
        """Return the last word on an order."""
        return self._settling.account.exchange.status(order_id)

    async def open_orders(self) -> Sequence[tuple[Order, int]]:
        """Return open orders."""
        return self._settling.account.exchange.open_orders()

    async def positions(self) -> Mapping[str, int]:
        """Return what is held."""
        return {name: position.qty for name, position in self._settling.account.exchange.ledger.positions.items()}

    async def fills(self, since_ts: int) -> Sequence[Fill]:
        """Return the last fills."""
        return [fill for fill in self._fills if fill.ts >= since_ts]
