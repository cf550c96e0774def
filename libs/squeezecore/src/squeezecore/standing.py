"""How an account stands: what it holds, what is open, what it may do. Apart from `risk`: who only passes it on compiles nothing."""

from __future__ import annotations

import enum
from typing import NamedTuple

import msgspec

from squeezecore.trading import Order


class TradingState(enum.StrEnum):
    """`REDUCING` and `HALTED` let exits through and nothing else; they differ in who may lift them."""

    ACTIVE = "active"
    REDUCING = "reducing"
    HALTED = "halted"


class Holding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A position as risk sees it."""

    asset: str
    instrument: str
    qty: int  # qty scale, signed


class Pending(NamedTuple):
    """An open order and what of it may still fill."""

    order: Order
    remaining: int  # qty scale
