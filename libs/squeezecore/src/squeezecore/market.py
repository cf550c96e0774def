"""What the market said: instruments, trades, bars, rows, and the unit of every column.

Flows are fixed-point integers, so sums are exact in any order; statistics elsewhere are `float64`. A block of facts is a
`NamedTuple` of equally long numpy arrays, sorted by time: numba takes it as it is, and Arrow needs no copy. This module
knows no venue, no store and no clock.

Scales, fixed for ever when an instrument is first seen (`Instrument.price_decimals`, `.qty_decimals`):

* a *price* is `round(price * 10**price_decimals)`; eight significant digits by default;
* a *qty* or *volume* is `round(base * 10**qty_decimals)`; the default makes one unit worth at least 1.08e-5 USD, so that
  a year of 1e14 USD, fourteen times the busiest market's, stays below 2**63 (`default_qty_decimals` carries the proof);
* a flow in USD is in *cents*: 2**63 cents are 9.2e16 USD, a thousand such years.
"""

from __future__ import annotations

import enum
from decimal import Decimal
from math import floor, log10
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from squeezecore.errors import UsageError

Block = TypeVar("Block", bound=tuple[Any, ...])  # one of the NamedTuples below

DAY_S = 86_400
PPM = 1_000_000  # weights and quality are parts per million
CENTS = 100
FUNDING_SCALE = 10_000_000_000  # funding rates are stored as round(rate * 1e10)
BASIS_SCALE = 1_000  # basis is stored as round(bps * 1e3)
YEAR_USD_MAX = 10**14  # the turnover of one instrument and year that no scale may overflow at
WARMUP_S = 28 * 3600  # rows before the first second that may trade (strategy.md section 2)


class Side(enum.IntEnum):
    """Of a trade: the taker's; of an order: ours. `NONE` is a print without aggressor, and no flow."""

    BUY = 1
    SELL = -1
    NONE = 0

    @property
    def sign(self) -> int:
        """+1, −1 or 0."""
        return int(self)


class Kind(enum.StrEnum):
    """What an instrument is; `UNKNOWN` never feeds a flow."""

    SPOT = "spot"
    PERP = "perp"
    FUTURE = "future"
    OPTION = "option"
    INDEX = "index"
    UNKNOWN = "unknown"


class Margin(enum.StrEnum):
    """How a derivative settles."""

    NONE = "none"
    LINEAR = "linear"
    INVERSE = "inverse"
    QUANTO = "quanto"


class Instrument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing tradable on one venue.

    >>> Instrument.id_of("binance", "BTC-USDT-PERP")
    'binance:BTC-USDT-PERP'
    """

    venue: str
    symbol: str  # ours: BASE-QUOTE, BASE-QUOTE-PERP, BASE-QUOTE-YYMMDD
    native_symbol: str  # the venue's
    section: str  # the venue's endpoint family: spot, linear, inverse, …
    base: str
    quote: str
    settle: str
    kind: Kind
    margin: Margin
    price_decimals: int
    qty_decimals: int
    tick_size: Decimal
    lot_size: Decimal  # in base units; for inverse contracts in contracts
    contract_size: Decimal = Decimal(1)  # base per contract (linear) or quote per contract (inverse)
    multiplier: int = 1  # base units per listed unit: 1000 for 1000SHIB
    expiry_s: int = 0  # UTC seconds; 0 = none

    @property
    def id(self) -> str:
        """`venue:symbol`, the key everywhere outside of a venue's own module."""
        return f"{self.venue}:{self.symbol}"

    @staticmethod
    def id_of(venue: str, symbol: str) -> str:
        """Make an instrument's id."""
        return f"{venue}:{symbol}"

    def quantise_price(self, price: float | Decimal, side: Side) -> int:
        """Round a price to the tick, against us (`BUY` up, `SELL` down), as an integer at the price scale."""
        tick = scaled(self.tick_size, self.price_decimals)
        units = Decimal(price).scaleb(self.price_decimals) / tick
        whole = int(units.to_integral_value("ROUND_CEILING" if side is Side.BUY else "ROUND_FLOOR"))
        return whole * tick

    def quantise_qty(self, qty: float | Decimal) -> int:
        """Cut a quantity in base units down to whole lots, as an integer at the qty scale."""
        lot = scaled(self.lot_size, self.qty_decimals)
        return int(Decimal(qty).scaleb(self.qty_decimals) / lot) * lot


def scaled(value: Decimal | str, decimals: int) -> int:
    """Return `value * 10**decimals`, which must be whole.

    >>> scaled("61800.30", 3)
    61800300
    """
    shifted = Decimal(value).scaleb(decimals)
    whole = int(shifted)
    if whole != shifted:
        raise UsageError(
            f"value was {value}, the limit is {decimals} decimals: store this instrument with more decimals"
        )
    return whole


def default_price_decimals(price: float) -> int:
    """Give a price eight significant digits: BTC at 61,800 gets 3 decimals, SHIB at 0.0000124 gets 12.

    >>> default_price_decimals(61_800.3), default_price_decimals(0.0000124)
    (3, 12)
    """
    return max(0, min(15, 7 - floor(log10(price))))


def default_qty_decimals(price: float) -> int:
    """Choose the finest qty scale whose year cannot overflow.

    A year of `YEAR_USD_MAX` is `YEAR_USD_MAX / price` base units; times `10**d` it must stay below 2**63, so
    `d <= log10(2**63 * price / YEAR_USD_MAX)`. At most 8, the finest lot any venue lists.

    >>> default_qty_decimals(61_800.3), default_qty_decimals(84.35), default_qty_decimals(0.0000124)
    (8, 6, 0)
    """
    return max(0, min(8, floor(log10(2**63 * price / YEAR_USD_MAX))))


class IdKind(enum.IntEnum):
    """Which prints a bar counts: a venue's single trades, its aggregates, or prints without usable ids."""

    NONE = 0
    TRADE = 1
    AGGREGATE = 2


class TradeFlag(enum.IntFlag):
    """Marks of a print; those in `TRADE_NOT_FLOW` are counted but never enter a flow."""

    RPI = 1
    LIQUIDATION = 2
    BLOCK = 4
    INTERNAL = 8  # insurance fund, ADL
    AUCTION = 16
    SNAPSHOT = 32  # sent on subscribe: closes gaps, is never live flow
    BACKFILL = 64
    SINGLE = 128  # on the bus: a feed's single trade, whose id says nothing of aggregates' and they nothing of it


TRADE_NOT_FLOW = TradeFlag.BLOCK | TradeFlag.INTERNAL | TradeFlag.AUCTION


class Trades(NamedTuple):
    """Prints of one instrument, in the order received. `TradeBatch` on the wire is this plus its feed and border."""

    id: NDArray[np.int64]  # the venue's trade id; -1 where it has none
    exchange_ns: NDArray[np.int64]  # when it happened, UTC
    received_ns: NDArray[np.int64]  # when we heard; 0 for archives
    price: NDArray[np.int64]  # price scale
    qty: NDArray[np.int64]  # base, qty scale; contracts are already converted
    quote_cents: NDArray[np.int64]  # notional in quote cents where it is not price * qty (inverse); else -1
    side: NDArray[np.int8]  # Side
    flags: NDArray[np.uint8]  # TradeFlag


class Bars(NamedTuple):
    """One instrument's seconds, ascending; dense over covered time. `ts` is the start of its second."""

    ts: NDArray[np.int64]  # s, UTC
    open: NDArray[np.int64]  # price scale; a second without a trade repeats the last close
    high: NDArray[np.int64]
    low: NDArray[np.int64]
    close: NDArray[np.int64]
    buy_volume: NDArray[np.int64]  # base, qty scale, taker buys
    sell_volume: NDArray[np.int64]
    buy_usd_cents: NDArray[np.int64]  # rounded once, half away from zero, from the second's exact sum
    sell_usd_cents: NDArray[np.int64]
    buy_trades: NDArray[np.int64]  # prints of `id_kind`
    sell_trades: NDArray[np.int64]
    largest: NDArray[np.int64]  # largest print, base, qty scale
    complete: NDArray[np.uint8]  # 1: every print of the second is known to be in
    first_id: NDArray[np.int64]  # lowest and highest id seen in the second; -1 where there is none
    last_id: NDArray[np.int64]
    id_kind: NDArray[np.uint8]  # IdKind
    version: NDArray[np.uint64]  # complete << 32 | repairs: a function of content, never of the clock


class Rows(NamedTuple):
    """One asset's seconds: all its venues weighted together, and the traded instrument's own bar (strategy.md section 1)."""

    ts: NDArray[np.int64]  # s, UTC; covers [ts, ts+1)
    open: NDArray[np.int64]  # traded instrument, price scale
    high: NDArray[np.int64]
    low: NDArray[np.int64]
    close: NDArray[np.int64]
    buy_qty: NDArray[np.int64]  # traded instrument, base, qty scale
    sell_qty: NDArray[np.int64]
    mark: NDArray[np.int64]  # last known mark price, price scale; the close where no mark is known
    spot_delta: NDArray[np.int64]  # USD cents: taker buys - taker sells over the asset's venues, weighted
    perp_delta: NDArray[np.int64]
    spot_volume: NDArray[np.int64]  # USD cents: taker buys + taker sells, same sum
    perp_volume: NDArray[np.int64]
    open_interest: NDArray[np.int64]  # base at the traded instrument's qty scale, last value known at ts; 0 = none
    oi_known_at: NDArray[np.int64]  # s; 0 = none
    oi_interval_s: NDArray[np.int64]  # the source's publication interval; 0 = none
    funding_rate_8h: NDArray[np.int64]  # last known, per 8 h, * FUNDING_SCALE
    basis_bps: NDArray[np.int64]  # perp mark over spot, bps * BASIS_SCALE
    quality_ppm: NDArray[np.int64]  # weight of venues whose second is complete, 0..PPM
    config_rev: NDArray[np.int64]  # first 63 bits of the hash of the asset's configuration


class OpenInterestSeries(NamedTuple):
    """Open interest of one instrument, ascending by `known_at`; one-sided, base units. Zero is no value and never stored."""

    event_ts: NDArray[np.int64]  # s, the venue's time
    known_at: NDArray[np.int64]  # s, when it could first be known
    open_interest: NDArray[np.int64]  # base, qty scale
    interval_s: NDArray[np.int64]  # how often the source publishes


class FundingSeries(NamedTuple):
    """Settled funding of one instrument, ascending by event. Positive: longs pay shorts."""

    event_ts: NDArray[np.int64]  # s, when it is paid
    known_at: NDArray[np.int64]
    rate: NDArray[np.int64]  # for the event's own interval, * FUNDING_SCALE
    interval_s: NDArray[np.int64]  # the time this rate pays for: 8 h, 4 h, 1 h, … it changes


class Gap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A hole in one instrument's prints: ids `first_id..last_id` were never seen, between two seconds."""

    instrument: str
    start_s: int  # second of the last print before the hole
    end_s: int  # second of the first print after it (inclusive)
    first_id: int  # -1 where ids do not exist
    last_id: int
    missing: int  # prints known to be missing; 0 = unknown
    cause: str
    state: str = "open"  # open | filled


class Watermark(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, array_like=True, tag=True):
    """A venue's promise that its facts up to `exchange_ns` have been published."""

    venue: str
    feed: str
    connection: int
    exchange_ns: int
    alive: bool


class MarkSeries(NamedTuple):
    """Mark prices of one instrument, ascending by `known_at`."""

    known_at: NDArray[np.int64]  # s, when it could first be known
    mark: NDArray[np.int64]  # price scale


# What a venue's frame says, one value a fact. `received_ns` is when we heard; prices and quantities as in `Trades`.


class Trade(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One print, or one aggregate of prints; the taker's side was decided by the venue's parser."""

    instrument: str
    id: int  # of `id_kind`; -1 where the venue has none
    id_kind: IdKind
    first_id: int  # single trades inside an aggregate; the trade's own id otherwise
    last_id: int
    exchange_ns: int
    received_ns: int
    price: int
    qty: int
    quote_cents: int  # -1 where the notional is price * qty
    side: Side
    flags: TradeFlag


class Quote(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Best bid and ask."""

    instrument: str
    update_id: int
    exchange_ns: int  # 0 where the venue sends no time
    received_ns: int
    bid: int
    bid_qty: int
    ask: int
    ask_qty: int


class BookDelta(msgspec.Struct, frozen=True, kw_only=True):
    """Changed levels of a book, as (price, qty); a qty of zero removes the level."""

    instrument: str
    first_id: int
    last_id: int
    previous_id: int  # last_id of the update before; -1 where the venue does not say
    exchange_ns: int
    received_ns: int
    bids: tuple[tuple[int, int], ...]
    asks: tuple[tuple[int, int], ...]


class MarkPrice(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Mark price and the funding predicted for the next settlement."""

    instrument: str
    exchange_ns: int
    received_ns: int
    mark: int  # price scale, rounded half away from zero: a mark has more digits than a tick
    index: int  # the same; 0 where the venue does not send it
    funding_rate: int  # predicted, for the running interval, * FUNDING_SCALE
    next_funding_ns: int  # 0 = the instrument has no funding


class Liquidation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A forced order. A second measure of prints that are in the trades already: never added to a flow."""

    instrument: str
    exchange_ns: int
    received_ns: int
    liquidated: Side  # BUY: a long position was liquidated
    price: int  # mean price of what was filled, rounded half away from zero
    qty: int
    complete: bool  # False: the venue sends only some of them


_DTYPES: dict[tuple[str, str], type[np.generic]] = {
    ("Trades", "side"): np.int8,
    ("Trades", "flags"): np.uint8,
    ("Bars", "complete"): np.uint8,
    ("Bars", "id_kind"): np.uint8,
    ("Bars", "version"): np.uint64,
}


def dtypes(kind: type[Block]) -> dict[str, np.dtype[Any]]:
    """Return the documented dtype of each column of a block."""
    fields: tuple[str, ...] = kind._fields  # type: ignore[attr-defined]
    return {name: np.dtype(_DTYPES.get((kind.__name__, name), np.int64)) for name in fields}


def empty(kind: type[Block]) -> Block:
    """Make a block of `kind` without facts."""
    return kind(*(np.empty(0, dtype) for dtype in dtypes(kind).values()))


def concat(blocks: list[Block]) -> Block:
    """Join one or more blocks of one kind, in order."""
    return type(blocks[0])(*(np.concatenate(columns) for columns in zip(*blocks, strict=True)))


def cut(block: Block, start: int, end: int) -> Block:
    """Return entries `start:end` of a block, as views."""
    return type(block)(*(column[start:end] for column in block))
