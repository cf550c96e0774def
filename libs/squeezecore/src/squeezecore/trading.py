"""What we said and what came of it: signals, orders, fills, positions, decisions with their reasons.

Prices are integers at the instrument's price scale, always whole ticks; quantities integers at its qty scale, always
whole lots. Money is an integer of 1e-8 USD (`usd_e8`): each flow of money is rounded once, half away from zero, when it
is booked, and is exact from there on. Ids are pure functions of what they name, so a replay cannot make a new one.
"""

from __future__ import annotations

import enum
import hashlib
from typing import NamedTuple

import msgspec

from squeezecore.market import Side

USD_E8 = 100_000_000


class Direction(enum.IntEnum):
    """`BULLISH`: shorts are trapped, we would buy. `BEARISH`: longs are trapped, we would sell."""

    BULLISH = 1
    BEARISH = -1
    NEUTRAL = 0

    @property
    def side(self) -> Side:
        """The side of an order that opens in this direction."""
        return Side(int(self))


class OrderKind(enum.StrEnum):
    """How an order wants to be filled."""

    MARKET = "market"
    LIMIT = "limit"
    STOP = "stop"


class Liquidity(enum.StrEnum):
    """Whether our fill crossed or rested."""

    MAKER = "maker"
    TAKER = "taker"


class ExitReason(enum.StrEnum):
    """Why a position was left; the order is the order of evaluation (strategy.md section 7)."""

    LIQUIDATION = "liquidation"
    HARD_RISK = "hard_risk"
    STRUCTURE = "structure"
    FLOW_REVERSAL = "flow_reversal"
    BOTH_FLOWS_AGAINST = "both_flows_against"
    CONTEXT_FLIP = "context_flip"
    TIME_STOP = "time_stop"
    DATA_HOLE = "data_hole"
    END_OF_RUN = "end_of_run"


class Signal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An opinion about one asset at the close of second `ts`; not an order."""

    asset: str
    ts: int  # s, UTC
    direction: Direction
    score_milli: int  # thousandths of a point
    reasons: tuple[str, ...]
    params_hash: str


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An instruction, decided at the close of second `decided_ts`."""

    id: str
    account: str
    asset: str
    instrument: str
    decided_ts: int  # s, UTC
    side: Side
    qty: int  # qty scale, > 0
    kind: OrderKind = OrderKind.MARKET
    price: int = 0  # limit or stop price, price scale; 0 for market
    reduce_only: bool = False
    reason: str = ""  # "entry" or an ExitReason


def order_id(params_hash: str, account: str, instrument: str, decided_ts: int, reason: str) -> str:
    """Name an order by what decided it, so that the same decision is the same order on any machine.

    >>> order_id("p", "paper", "binance:BTC-USDT-PERP", 1_767_225_600, "entry")
    'sf-b1ba50c423041baca980'
    """
    text = "\n".join((params_hash, account, instrument, str(decided_ts), reason))
    return "sf-" + hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


class OrderState(enum.StrEnum):
    """The life of an order. *Denied*: our risk refused. *Rejected*: the venue did. *Unknown* is neither."""

    ACCEPTED = "accepted"
    DENIED = "denied"
    REJECTED = "rejected"
    PARTIAL = "partial"
    FILLED = "filled"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class OrderUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became of an order; a reason for every order that was not filled."""

    order_id: str
    ts: int
    state: OrderState
    reason: str = ""
    limit: str = ""
    value: str = ""


class Fill(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of our order done."""

    id: str  # order id and number of the fill
    order_id: str
    account: str
    asset: str
    instrument: str
    ts: int  # s, the second it was filled in
    side: Side
    price: int  # price scale
    qty: int  # qty scale, > 0
    fee_usd_e8: int  # positive: we pay
    slippage_usd_e8: int  # against the reference price (open of the second), positive: we pay
    liquidity: Liquidity
    reason: str = ""


class Position(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What we hold of one instrument, long positive, and what strategy.md freezes at entry."""

    asset: str
    instrument: str
    qty: int  # qty scale, signed
    cost_usd_e8: int  # signed notional paid for `qty`: unrealised = mark * qty - cost
    opened_ts: int  # second of the first entry fill


class Parts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A score's parts, in thousandths of a point (strategy.md section 6)."""

    reset_deceleration: int = 0
    absorption: int = 0
    failed_breakdown: int = 0
    directional_bias: int = 0
    open_interest: int = 0


class Decision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One record of what was seen and decided, with its reasons; kept, so that "why" needs no second run."""

    asset: str
    ts: int
    kind: str  # direction | reset | block | candle | entry | exit | denied
    direction: Direction
    score_milli: int
    parts: Parts
    phase: str  # IDLE | IMBALANCED | RESET_A | RESET_B
    reset_low: int  # price scale; 0 = no reset
    reset_high: int
    blocked_by: tuple[str, ...] = ()  # what kept a score >= entry from becoming an order
    reason: str = ""
    order_id: str = ""
    inputs: dict[str, float] = {}  # further inputs by name, units in the names
    params_hash: str = ""


class Payment(NamedTuple):
    """Funding that moved."""

    instrument: str
    ts: int
    received_usd_e8: int  # negative: we paid


class Trade(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry with its exit. `pnl = exit - entry (signed by direction) - fees + funding`, to the last 1e-8 USD."""

    asset: str
    instrument: str
    direction: Direction
    tier: int  # 1..3
    score_milli: int  # at the decision to enter
    decided_ts: int  # s, the second after whose close the entry was decided
    entry_ts: int  # s, first entry fill
    exit_ts: int  # s, last exit fill
    entry_order_id: str
    exit_order_id: str  # of the last exit fill
    qty: int  # bought or sold in all, qty scale
    entry_price: int  # mean, price scale, rounded half away from zero
    exit_price: int
    entry_usd_e8: int  # notional of the entry fills
    exit_usd_e8: int
    fees_usd_e8: int  # paid
    slippage_usd_e8: int  # paid; already inside the prices
    funding_usd_e8: int  # received; negative: paid
    pnl_usd_e8: int
    level: int  # the structure's border frozen at entry, price scale; 0 = none
    reason: str  # an ExitReason

    @property
    def hold_s(self) -> int:
        """Seconds from the first entry fill to the last exit fill."""
        return self.exit_ts - self.entry_ts
