"""One file per exchange; no IO. Only these modules know native symbols, native units and a venue's word for the taker.

A venue module is a plain module that satisfies `Venue`: subscribe messages out, frames in, values out. It opens no
socket and reads no clock; whoever holds the socket passes bytes and the time they came. Where a venue lives (hosts,
paths, limits) is data in its `SECTIONS`, so that configuration can replace it.
"""

from __future__ import annotations

import enum
import importlib
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple, Protocol, cast

import msgspec
import numpy as np

from squeezecore.errors import ParseError, UsageError
from squeezecore.market import (
    BookDelta,
    Instrument,
    Kind,
    Liquidation,
    MarkPrice,
    Quote,
    Trade,
    Trades,
    dtypes,
)
from squeezecore.spec import nearest

INT64_MAX = 2**63 - 1
DIGITS_MAX = 40  # characters of a number; a venue's longest has 20
QUOTES_USD = frozenset({"USD", "USDT", "USDC"})  # worth one USD until rates come with the venues


class Feed(enum.StrEnum):
    """What can be subscribed to; a venue says by its own names."""

    TRADE = "trade"
    AGGREGATE = "aggtrade"
    QUOTE = "quote"
    BOOK = "book"
    MARK = "mark"
    LIQUIDATION = "liquidation"


class Contiguity(enum.StrEnum):
    """What a venue's trade ids prove."""

    CONTIGUOUS = "contiguous"  # the ids of one market grow by exactly one: a jump is a hole
    UNIQUE = "unique"  # an id names a print, and that is all
    NONE = "none"


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint family of a venue as data: where it is, what it bears, where its lists are."""

    name: str  # spot, linear, inverse, …: the same native symbol may exist in several
    websocket: dict[Feed, str]  # feed → URL
    rest: str  # base URL
    instruments: str  # path of the instrument list
    open_interest: str = ""  # path templates with {symbol}, {start_ms}, {end_ms}, {from_id}; "" = none
    funding: str = ""  # what was settled
    premium: str = ""  # mark price and the funding predicted
    premium_all: str = ""  # the same of all instruments at once
    funding_info: str = ""  # intervals of those whose interval is not the usual one
    backfill: str = ""  # closes holes by id or time
    backfill_trades: str = ""  # the same for single prints
    recent_trades: str = ""  # the last single prints
    server_time: str = ""
    weights: dict[str, int] = {}  # what a request costs, by the name of its field above; 1 where none is named
    weight_per_minute_max: int = 600  # of all requests together
    funding_per_minute_max: int = 60  # requests for `funding` and `funding_info`, where a venue counts them apart
    contiguity: dict[Feed, Contiguity] = {}
    streams_max: int = 200  # per connection
    messages_per_s_max: int = 5  # that we may send
    silence_s_max: int = 60  # a connection that said nothing for so long is dead
    life_s_max: int = 86_400  # the venue closes a connection after this; reconnect before


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to something we sent, or an error frame."""

    request_id: int  # 0 where the frame names none
    ok: bool
    detail: str


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """A well-formed frame, or a value in one, that no rule of ours covers: counted, sampled, never guessed."""

    what: str
    sample: bytes  # the first bytes of the frame


Event = Trade | Quote | BookDelta | MarkPrice | Liquidation | Control | Unknown


class Interest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One value of open interest: one-sided, base units, thousands and contracts already converted."""

    instrument: str
    exchange_ns: int  # the venue's time of the value
    received_ns: int
    open_interest: int  # base, qty scale, rounded half away from zero; 0 = the venue has no value


class Funding(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One funding rate, settled or predicted. Positive: longs pay shorts."""

    instrument: str
    exchange_ns: int  # when it was or will be paid
    received_ns: int
    rate: int  # for its own interval, * FUNDING_SCALE
    interval_s: int
    settled: bool


class Parsed(NamedTuple):
    """What many frames said."""

    trades: dict[str, Trades]  # instrument → its prints, in the order received
    others: list[Event]  # everything that is no print, in the frames' order
    refused: list[ParseError]  # one for each frame that was not what the venue documents, in order


class ArchiveFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the published path of an archive file says about its content."""

    section: str
    kind: str  # the venue's word: trades, aggTrades, fundingRate, metrics
    native_symbol: str
    period: str  # YYYY-MM-DD or YYYY-MM

    @property
    def monthly(self) -> bool:
        """Whether the file holds a month, not a day."""
        return len(self.period) == len("2024-08")


class Venue(Protocol):
    """What one exchange's module offers; pure, every function a function of its arguments.

    `parse` raises `ParseError` and nothing else, whatever the bytes. It returns facts in the frame's order, `Control`
    for answers, `Unknown` for what no rule covers. Quantities leave it in base units at the instrument's scales.
    """

    NAME: str
    SECTIONS: Mapping[str, Section]

    def subscribe(
        self, section: str, natives: Sequence[str], feeds: Sequence[Feed], request_id: int
    ) -> list[tuple[str, bytes]]:
        """Return (URL, message) pairs; each URL of the section takes its own messages."""
        ...

    def parse(self, section: str, instruments: Mapping[str, Instrument], frame: bytes, received_ns: int) -> list[Event]:
        """Read one frame of a section; `instruments` is by native symbol."""
        ...

    def parse_many(
        self, section: str, instruments: Mapping[str, Instrument], frames: Sequence[bytes], received_ns: Sequence[int]
    ) -> Parsed:
        """Read many frames at once, several times faster than one by one, to exactly the same values.

        A law, kept by a test: it is `parse` of each frame in order, the prints gathered by `trades_of`, each
        `ParseError` kept in `refused`. It raises nothing. `received_ns` has one entry a frame. Frames come into their
        own by the dozen: let those of one turn of the loop gather.
        """
        ...

    def open_interest(self, section: str, instrument: Instrument, body: bytes, received_ns: int, mark: int) -> Interest:
        """Read the answer to `Section.open_interest`.

        `mark` is the instrument's mark price of that moment at its price scale; only contracts worth a sum of quote
        need it, and `UsageError` says so when it is missing. Else raises `ParseError` and nothing else.
        """
        ...

    def funding_intervals(self, section: str, body: bytes) -> dict[str, int]:
        """Read the answer to `Section.funding_info`: native symbol → seconds, of those that are not the usual."""
        ...

    def funding(
        self,
        section: str,
        instruments: Mapping[str, Instrument],
        body: bytes,
        received_ns: int,
        intervals: Mapping[str, int] | None = None,
    ) -> list[Funding]:
        """Read the answer to `Section.funding` (settled) or to `.premium` or `.premium_all` (predicted), in its order.

        Entries of instruments that are not in `instruments` (by native symbol), or that have no funding, are left out.
        `intervals` come from `funding_intervals`; where settled events lie nearer than that, their distance counts.
        """
        ...

    def marks(
        self, section: str, instruments: Mapping[str, Instrument], body: bytes, received_ns: int
    ) -> list[MarkPrice]:
        """Read the answer to `Section.premium` or `.premium_all` as mark prices; others than `instruments` are left out."""
        ...

    def aggregates(self, section: str, instrument: Instrument, body: bytes, received_ns: int = 0) -> list[Trade]:
        """Read the answer to `Section.backfill`: as frames say them, flagged `BACKFILL`."""
        ...

    def recent_trades(self, section: str, instrument: Instrument, body: bytes, received_ns: int = 0) -> list[Trade]:
        """Read the answer to `Section.recent_trades` or `.backfill_trades`: single prints, flagged `BACKFILL`."""
        ...

    def server_time(self, body: bytes) -> int:
        """Read the answer to `Section.server_time`, in ns."""
        ...

    def instruments(
        self, section: str, body: bytes, prices: Mapping[str, Decimal] | None = None
    ) -> tuple[list[Instrument], list[Unknown]]:
        """Read the venue's own list; what no rule covers comes back as `Unknown` and never feeds a flow."""
        ...

    def instrument(self, section: str, native: str, price: Decimal | None = None) -> Instrument:
        """Make an instrument from its native name where no list is at hand; `price` sets the scales of unlisted ones."""
        ...

    def kind(self, section: str, native: str) -> Kind:
        """Say what a native name is by the venue's rules; `UNKNOWN` where none covers it, never spot by default."""
        ...

    def archive_path(self, file: ArchiveFile) -> str:
        """Return the path at which the venue publishes a file; "" where it has no archive."""
        ...

    def archive_file(self, path: str) -> ArchiveFile | None:
        """Read a published path; None where it is not one."""
        ...


VENUES = ("binance",)


def venue(name: str) -> Venue:
    """Return a venue's module.

    >>> venue("binance").NAME
    'binance'
    """
    if name not in VENUES:
        raise UsageError(f"venue was {name!r}, which does not exist: {nearest(name, VENUES)}")
    return cast("Venue", importlib.import_module(f"squeezecore.venues.{name}"))


_PLAIN = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+", re.ASCII)
_EXPONENT = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][+-]?[0-9]{1,3}", re.ASCII)


def fixed(text: str, decimals: int) -> int:
    """Read an unsigned decimal exactly, as an integer of `10**-decimals`; exponents are understood.

    >>> fixed("61800.30", 3), fixed("1e-3", 6)
    (61800300, 1000)

    Raises `ParseError` when the text is no number, is negative, or has digits beyond `decimals` or 63 bits.
    """
    if len(text) > DIGITS_MAX:
        raise ParseError(f"number was {text[:DIGITS_MAX]!r}…, the limit is {DIGITS_MAX} characters")
    if _PLAIN.fullmatch(text) is None:
        return _fixed_exponent(text, decimals)
    whole, _, fraction = text.partition(".")
    beyond = len(fraction) - decimals
    if beyond > 0:
        if fraction[decimals:].strip("0"):
            raise ParseError(f"value was {text}, the limit is {decimals} decimals: store it with more decimals")
        fraction = fraction[:decimals]
        beyond = 0
    value: int = int((whole + fraction) or "0") * 10**-beyond
    if value > INT64_MAX:
        raise ParseError(f"value was {text}, the limit at {decimals} decimals is 2**63 - 1: store it with fewer")
    return value


@lru_cache(maxsize=1 << 15)
def fixed_again(text: str, decimals: int) -> int:
    """Read as `fixed` does, and remember: prices and quantities of a busy tape come again within seconds."""
    return fixed(text, decimals)


def _fixed_exponent(text: str, decimals: int) -> int:
    if _EXPONENT.fullmatch(text) is None:
        raise ParseError(f"number was {text!r}, expected a decimal of at least zero")
    value = Decimal(text)
    if value and abs(value.adjusted()) > DIGITS_MAX:
        raise ParseError(f"number was {text!r}, the limit is {DIGITS_MAX} digits")
    return fixed(f"{value:f}", decimals)


def fixed_rounded(text: str, decimals: int) -> int:
    """Read an unsigned decimal rounded half away from zero: for marks and rates, which have more digits than a tick."""
    if len(text) > DIGITS_MAX or _PLAIN.fullmatch(text) is None:
        raise ParseError(f"number was {text[:DIGITS_MAX]!r}, expected a plain decimal")
    whole, _, fraction = text.partition(".")
    digits = fraction.ljust(decimals + 1, "0")
    value = int((whole + digits[:decimals]) or "0") + (digits[decimals] >= "5")
    if value > INT64_MAX:
        raise ParseError(f"value was {text}, the limit at {decimals} decimals is 2**63 - 1: store it with fewer")
    return value


def half_away(numerator: int, denominator: int) -> int:
    """Divide non-negative integers, rounding half away from zero."""
    return (2 * numerator + denominator) // (2 * denominator)


def trades_of(events: Sequence[Event]) -> dict[str, Trades]:
    """Gather the prints among events into one block per instrument, in the order received."""
    by_instrument: dict[str, list[Trade]] = {}
    for event in events:
        if isinstance(event, Trade):
            by_instrument.setdefault(event.instrument, []).append(event)
    columns = dtypes(Trades)
    return {
        instrument: Trades(*(np.array([getattr(t, name) for t in prints], dtype) for name, dtype in columns.items()))
        for instrument, prints in by_instrument.items()
    }
