"""Binance: spot, USD-M futures (`linear`) and COIN-M futures (`inverse`).

`m` says whether the *buyer* rested; true becomes `Side.SELL` here and nowhere else. COIN-M quantities are contracts;
they become base units here. Listed thousands (`1000SHIB`) become single units here. Excerpts above the parsers are the
venue's messages, shortened.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Any, TypeVar, cast

import msgspec
import numpy as np

from squeezecore.errors import ParseError, UsageError
from squeezecore.market import (
    CENTS,
    FUNDING_SCALE,
    BookDelta,
    IdKind,
    Instrument,
    Kind,
    Liquidation,
    Margin,
    MarkPrice,
    Quote,
    Side,
    Trade,
    TradeFlag,
    Trades,
    cut,
    default_price_decimals,
    default_qty_decimals,
)
from squeezecore.spec import nearest
from squeezecore.venues import (
    INT64_MAX,
    ArchiveFile,
    Contiguity,
    Control,
    Event,
    Feed,
    Funding,
    Interest,
    Parsed,
    Section,
    Unknown,
    fixed,
    fixed_again,
    fixed_rounded,
    half_away,
    trades_of,
)

NAME = "binance"
SAMPLE_BYTES = 256
MS = 1_000_000  # ns
DELIVERY_HOUR = 8  # UTC, of dated contracts
PERPETUAL_DELIVERY_MS = 4_000_000_000_000  # the list dates perpetuals to 2100-12-25

_SPOT_WS = "wss://stream.binance.com:9443/ws"
_PUBLIC_WS, _MARKET_WS = "wss://fstream.binance.com/public/ws", "wss://fstream.binance.com/market/ws"
_COIN_WS = "wss://dstream.binance.com/ws"
_IDS = {Feed.TRADE: Contiguity.CONTIGUOUS, Feed.AGGREGATE: Contiguity.CONTIGUOUS}
_WEIGHTS = {"premium_all": 10, "backfill": 20, "backfill_trades": 20, "recent_trades": 5}

SECTIONS: Mapping[str, Section] = MappingProxyType(
    {
        "spot": Section(
            name="spot",
            websocket=dict.fromkeys((Feed.TRADE, Feed.AGGREGATE, Feed.QUOTE, Feed.BOOK), _SPOT_WS),
            rest="https://api.binance.com",
            instruments="/api/v3/exchangeInfo",
            backfill="/api/v3/aggTrades?symbol={symbol}&fromId={from_id}&limit=1000",
            backfill_trades="/api/v3/historicalTrades?symbol={symbol}&fromId={from_id}&limit=1000",
            recent_trades="/api/v3/trades?symbol={symbol}&limit=1000",
            server_time="/api/v3/time",
            weights={"instruments": 20, "backfill": 4, "backfill_trades": 25, "recent_trades": 25},
            weight_per_minute_max=6_000,
            contiguity=_IDS,
            streams_max=1024,
        ),
        "linear": Section(
            name="linear",
            websocket={
                Feed.TRADE: _PUBLIC_WS,
                Feed.QUOTE: _PUBLIC_WS,
                Feed.BOOK: _PUBLIC_WS,
                Feed.AGGREGATE: _MARKET_WS,
                Feed.MARK: _MARKET_WS,
                Feed.LIQUIDATION: _MARKET_WS,
            },
            rest="https://fapi.binance.com",
            instruments="/fapi/v1/exchangeInfo",
            open_interest="/fapi/v1/openInterest?symbol={symbol}",
            funding="/fapi/v1/fundingRate?symbol={symbol}&startTime={start_ms}&endTime={end_ms}&limit=1000",
            premium="/fapi/v1/premiumIndex?symbol={symbol}",
            premium_all="/fapi/v1/premiumIndex",
            funding_info="/fapi/v1/fundingInfo",
            backfill="/fapi/v1/aggTrades?symbol={symbol}&fromId={from_id}&limit=1000",
            backfill_trades="/fapi/v1/historicalTrades?symbol={symbol}&fromId={from_id}&limit=1000",
            recent_trades="/fapi/v1/trades?symbol={symbol}&limit=1000",
            server_time="/fapi/v1/time",
            weights=_WEIGHTS,
            weight_per_minute_max=2_400,
            funding_per_minute_max=100,
            contiguity=_IDS,
            streams_max=1024,
            messages_per_s_max=10,
            silence_s_max=600,
        ),
        "inverse": Section(
            name="inverse",
            websocket=dict.fromkeys(Feed, _COIN_WS),
            rest="https://dapi.binance.com",
            instruments="/dapi/v1/exchangeInfo",
            open_interest="/dapi/v1/openInterest?symbol={symbol}",
            funding="/dapi/v1/fundingRate?symbol={symbol}&startTime={start_ms}&endTime={end_ms}&limit=1000",
            premium="/dapi/v1/premiumIndex?symbol={symbol}",
            premium_all="/dapi/v1/premiumIndex",
            funding_info="/dapi/v1/fundingInfo",
            backfill="/dapi/v1/aggTrades?symbol={symbol}&fromId={from_id}&limit=1000",
            backfill_trades="/dapi/v1/historicalTrades?symbol={symbol}&fromId={from_id}&limit=1000",
            recent_trades="/dapi/v1/trades?symbol={symbol}&limit=1000",
            server_time="/dapi/v1/time",
            weights=_WEIGHTS,
            weight_per_minute_max=2_400,
            funding_per_minute_max=100,
            contiguity=_IDS,
            streams_max=1024,
            messages_per_s_max=10,
            silence_s_max=600,
        ),
    }
)

_STREAMS = {
    Feed.TRADE: "trade",
    Feed.AGGREGATE: "aggTrade",
    Feed.QUOTE: "bookTicker",
    Feed.BOOK: "depth@100ms",
    Feed.MARK: "markPrice@1s",
    Feed.LIQUIDATION: "forceOrder",
}


def _section(name: str) -> Section:
    if name not in SECTIONS:
        raise UsageError(f"section was {name!r}, binance has no such one: {nearest(name, SECTIONS)}")
    return SECTIONS[name]


def subscribe(section: str, natives: Sequence[str], feeds: Sequence[Feed], request_id: int) -> list[tuple[str, bytes]]:
    """Return one (URL, message) per URL of the section; stream names are lower case.

    >>> subscribe("spot", ["BTCUSDT"], [Feed.TRADE], 1)[0][1]
    b'{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":1}'
    """
    urls = _section(section).websocket
    streams: dict[str, list[str]] = {}
    for feed in feeds:
        if feed not in urls:
            raise UsageError(f"feed was {feed}, binance {section} bears {', '.join(urls)}: choose one of these")
        streams.setdefault(urls[feed], []).extend(f"{native.lower()}@{_STREAMS[feed]}" for native in natives)
    return [
        (url, msgspec.json.encode({"method": "SUBSCRIBE", "params": params, "id": request_id + number}))
        for number, (url, params) in enumerate(streams.items())
    ]


# -- frames ------------------------------------------------------------------------------------------------------------

Id = Annotated[int, msgspec.Meta(ge=0, le=INT64_MAX)]
Ms = Annotated[int, msgspec.Meta(ge=0, le=INT64_MAX // MS)]
Level = tuple[str, str]


class _Trade(msgspec.Struct, tag_field="e", tag="trade", gc=False):
    # {"e":"trade","E":1723161256322,"T":1723161256322,"s":"BTCUSDT","t":5266583935,"p":"61800.30","q":"0.006",
    #  "X":"MARKET","m":false}                                    spot has no X
    s: str
    t: Id
    p: str
    q: str
    T: Ms
    m: bool
    X: str = "MARKET"


class _AggTrade(msgspec.Struct, tag_field="e", tag="aggTrade", gc=False):
    # {"e":"aggTrade","E":…,"s":"BTCUSDT","a":389551486,"p":"58665.00","q":"0.043","f":621622993,"l":621622993,"T":…,"m":false}
    s: str
    a: Id
    p: str
    q: str
    f: Id
    l: Id  # noqa: E741 (the venue's name)
    T: Ms
    m: bool
    nq: str | None = None  # futures since 2025-12-31: the quantity without RPI


class _Quote(msgspec.Struct, tag_field="e", tag="bookTicker", gc=False):
    # {"e":"bookTicker","u":5123107839020,"s":"BTCUSDT","b":"61800.20","B":"2.507","a":"61800.30","A":"2.510","T":…,"E":…}
    s: str
    u: Id
    b: str
    B: str
    a: str
    A: str
    T: Ms = 0


class _SpotQuote(msgspec.Struct, gc=False):
    # {"u":50093239212,"s":"BTCUSDT","b":"61837.63000000","B":"3.78826000","a":"61837.64000000","A":"1.54698000"}
    s: str
    u: Id
    b: str
    B: str
    a: str
    A: str
    T: Ms = 0


class _Depth(msgspec.Struct, tag_field="e", tag="depthUpdate"):
    # {"e":"depthUpdate","E":…,"T":…,"s":"BTCUSDT","U":5123107832006,"u":5123107837557,"pu":5123107831937,
    #  "b":[["58710.20","0.014"],…],"a":[…]}                       spot has neither T nor pu
    s: str
    U: Id
    u: Id
    b: list[Level]
    a: list[Level]
    E: Ms
    T: Ms = 0
    pu: int = -1


class _Mark(msgspec.Struct, tag_field="e", tag="markPriceUpdate", gc=False):
    # {"e":"markPriceUpdate","E":…,"s":"BTCUSDT","p":"58940.14924532","P":…,"i":"58857.26693664","r":"0.00058455","T":…}
    s: str
    p: str
    E: Ms
    T: Ms = 0
    r: str = ""  # empty for dated contracts
    i: str = ""  # not sent on COIN-M


class _ForceOrderBody(msgspec.Struct, gc=False):
    s: str
    S: str
    q: str
    ap: str
    T: Ms


class _ForceOrder(msgspec.Struct, tag_field="e", tag="forceOrder", gc=False):
    # {"e":"forceOrder","E":…,"o":{"s":"BTCUSDT","S":"SELL","o":"LIMIT","f":"IOC","q":"0.014","p":"9910","ap":"9910",
    #  "X":"FILLED","l":"0.014","z":"0.014","T":…}}                 S is the order's side: SELL = a long was liquidated
    o: _ForceOrderBody


_Message = _Trade | _AggTrade | _Quote | _Depth | _Mark | _ForceOrder


class _Wrapped(msgspec.Struct):
    # {"stream":"btcusdt@trade","data":{…}}
    stream: str
    data: _Message | list[_Message]


class _WrappedRaw(msgspec.Struct):
    stream: str
    data: msgspec.Raw


class _Head(msgspec.Struct):
    # {"result":null,"id":1}     {"error":{"code":2,"msg":"Invalid request"},"id":3}     {"code":2,"msg":"…"}
    e: str = ""
    stream: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"")
    id: int | str | None = None
    result: msgspec.Raw = msgspec.Raw(b"")
    error: dict[str, Any] | None = None
    code: int | None = None
    msg: str = ""


_wrapped = msgspec.json.Decoder(_Wrapped)
_message = msgspec.json.Decoder(_Message | list[_Message])
_wrapped_raw = msgspec.json.Decoder(_WrappedRaw)
_spot_quote = msgspec.json.Decoder(_SpotQuote)
_head = msgspec.json.Decoder(_Head)


def parse(section: str, instruments: Mapping[str, Instrument], frame: bytes, received_ns: int) -> list[Event]:
    """Read one frame, bare or in a combined stream's wrapper; see `Venue.parse`."""
    try:
        return _parse(instruments, frame, received_ns)
    except ParseError as error:
        raise ParseError(f"binance {section}: {error}; frame began {frame[:SAMPLE_BYTES]!r}") from error
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise ParseError(
            f"binance {section}: frame was not one the venue documents ({error}); it began {frame[:SAMPLE_BYTES]!r}"
        ) from error


def _parse(instruments: Mapping[str, Instrument], frame: bytes, received_ns: int) -> list[Event]:
    """Decode in one pass where the frame is of a known type; the others take the long way."""
    messages: _Message | list[_Message] | _SpotQuote
    try:
        if frame.startswith(b'{"stream"'):
            if b'ookTicker"' in frame[:96] and b'"e"' not in frame:
                messages = _spot_quote.decode(_wrapped_raw.decode(frame).data)
            else:
                messages = _wrapped.decode(frame).data
        elif frame.startswith(b'{"u":') and b'"e"' not in frame:
            messages = _spot_quote.decode(frame)
        else:
            messages = _message.decode(frame)
    except msgspec.ValidationError:
        return _parse_other(instruments, frame, received_ns)
    if not isinstance(messages, list):
        return _events(instruments, messages, frame, received_ns)
    return [event for message in messages for event in _events(instruments, message, frame, received_ns)]


_KNOWN_TYPES = frozenset({"trade", "aggTrade", "bookTicker", "depthUpdate", "markPriceUpdate", "forceOrder"})


def _parse_other(instruments: Mapping[str, Instrument], frame: bytes, received_ns: int) -> list[Event]:
    """Read answers and errors; tell a type we do not know from a known one that is broken."""
    if frame.lstrip()[:1] == b"[":
        raise ParseError("list held a message of unknown type or form")
    head = _head.decode(frame)
    sample = frame[:SAMPLE_BYTES]
    request_id = head.id if isinstance(head.id, int) else 0
    if head.error is not None or head.code is not None:
        detail = head.msg if head.error is None else str(head.error.get("msg", ""))
        return [Control(request_id=request_id, ok=False, detail=detail)]
    if head.id is not None and bytes(head.result):
        return [Control(request_id=request_id, ok=True, detail="")]
    if head.stream is not None and bytes(head.data):
        inner = bytes(head.data)
        if inner[:1] == b"[":
            raise ParseError("list held a message of unknown type or form")
        if inner[:1] == b"{" and _head.decode(inner).stream is None:
            return _parse(instruments, inner, received_ns)
        raise ParseError("wrapper held no message")
    if head.e in _KNOWN_TYPES:
        _message.decode(frame)  # says what is wrong
    return [Unknown(what=f"type {head.e}" if head.e else "frame", sample=sample)]


def _events(
    instruments: Mapping[str, Instrument], message: _Message | _SpotQuote, frame: bytes, received_ns: int
) -> list[Event]:
    native = message.o.s if isinstance(message, _ForceOrder) else message.s
    instrument = instruments.get(native)
    if instrument is None:
        return [Unknown(what=f"instrument {native}", sample=frame[:SAMPLE_BYTES])]
    if isinstance(message, _Trade):
        return _trade(instrument, message, frame, received_ns)
    if isinstance(message, _AggTrade):
        return [_aggregate(instrument, message, received_ns)]
    if isinstance(message, _Depth):
        return [_depth(instrument, message, received_ns)]
    if isinstance(message, _Mark):
        return [_mark(instrument, message, received_ns)]
    if isinstance(message, _ForceOrder):
        return [_liquidation(instrument, message.o, received_ns)]
    return [_quote(instrument, message, received_ns)]


def amounts(instrument: Instrument, price: str, qty: str) -> tuple[int, int, int]:
    """Turn a venue's price and quantity into (price, qty in base, quote cents or −1), at the instrument's scales.

    A price of a listed unit of 1000 is divided by 1000, its quantity multiplied. For inverse contracts
    `base = contracts * contract_size / price`, rounded half away from zero, and the quote value is exact.
    Raises `ParseError` when a scale cannot hold the value exactly.
    """
    multiplier = instrument.multiplier
    if multiplier == 1:
        price_units = fixed(price, instrument.price_decimals)
    else:
        zeros = len(str(multiplier)) - 1  # multipliers are powers of ten
        price_units = fixed(price, instrument.price_decimals - zeros)
    if instrument.margin is not Margin.INVERSE:
        return price_units, _within(fixed(qty, instrument.qty_decimals) * multiplier), -1
    contracts = fixed(qty, 0)
    quote = contracts * int(instrument.contract_size)
    base = half_away(quote * 10 ** (instrument.qty_decimals + instrument.price_decimals), price_units or 1)
    return price_units, _within(base), _within(quote * 100)


def _within(value: int) -> int:
    if value > INT64_MAX:
        raise ParseError(f"quantity was {value}, the limit is 2**63 - 1")
    return value


def _positive(instrument: Instrument, price: str, qty: str) -> tuple[int, int, int]:
    price_units, qty_units, quote_cents = amounts(instrument, price, qty)
    if price_units == 0 or qty_units == 0:
        raise ParseError(f"print was {qty} at {price}, both must be above zero")
    return price_units, qty_units, quote_cents


# -- many frames -------------------------------------------------------------------------------------------------------


class _WrappedOne(msgspec.Struct, gc=False):
    stream: str
    data: _Message


_many_wrapped = msgspec.json.Decoder(_WrappedOne)
_many_bare = msgspec.json.Decoder(_Message)
_WRAPPER = b'{"stream"'
_FLAGS = {"MARKET": 0, "RPI": int(TradeFlag.RPI)}
_Print = _Trade | _AggTrade


def parse_many(
    section: str, instruments: Mapping[str, Instrument], frames: Sequence[bytes], received_ns: Sequence[int]
) -> Parsed:
    """Read many frames at once; see `Venue.parse_many`.

    The frames are decoded as lines in one call, and prints go into columns without a value for each. That is done only
    where it can give nothing else than `parse` would: anything odd in any frame, and all of them take the long way.
    """
    try:
        fast = _parse_lines(instruments, frames, received_ns)
    except (msgspec.DecodeError, RecursionError, ValueError, OverflowError):
        fast = None
    return fast if fast is not None else _parse_each(section, instruments, frames, received_ns)


def _parse_each(
    section: str, instruments: Mapping[str, Instrument], frames: Sequence[bytes], received_ns: Sequence[int]
) -> Parsed:
    events: list[Event] = []
    refused: list[ParseError] = []
    for frame, received in zip(frames, received_ns, strict=True):
        try:
            events += parse(section, instruments, frame, received)
        except ParseError as error:
            refused.append(error)
    return Parsed(trades_of(events), [event for event in events if not isinstance(event, Trade)], refused)


def _parse_lines(
    instruments: Mapping[str, Instrument], frames: Sequence[bytes], received_ns: Sequence[int]
) -> Parsed | None:
    """Decode frames of one form as lines; None where they are not of one form."""
    lines, borders = b"\n".join(frames), len(frames) - 1
    # A frame begins with { and ends with }, and holds no line break: no value can reach from one frame into the next.
    if lines[:1] != b"{" or lines[-1:] != b"}" or not lines.count(b"\n") == lines.count(b"}\n{") == borders:
        return None
    wrapped = lines.count(b"\n" + _WRAPPER) + lines.startswith(_WRAPPER)
    if wrapped not in (0, len(frames)):
        return None
    messages: list[_Message]
    messages = [one.data for one in _many_wrapped.decode_lines(lines)] if wrapped else _many_bare.decode_lines(lines)
    if len(messages) != len(frames):
        return None
    prints: list[_Print] = []
    heard: list[int] = []
    others: list[Event] = []
    for message, received, frame in zip(messages, received_ns, frames, strict=True):
        if isinstance(message, _Trade | _AggTrade) and message.s in instruments:
            prints.append(message)
            heard.append(received)
        else:
            others += _events(instruments, message, frame, received)
    trades = _lay_out(instruments, prints, heard) if prints else {}
    return None if trades is None else Parsed(trades, others, [])


def _lay_out(instruments: Mapping[str, Instrument], prints: list[_Print], heard: list[int]) -> dict[str, Trades] | None:
    """Lay prints out in columns, an instrument's together; None where one is out of the ordinary."""
    natives = [one.s for one in prints]
    numbers = {native: number for number, native in enumerate(dict.fromkeys(natives))}
    named = {native: instruments[native] for native in numbers}
    if len({one.id for one in named.values()}) != len(named) or len({one.margin for one in named.values()}) != 1:
        return None
    marked = _ids_and_flags(named, prints)
    amounts = _amounts_of(named, prints)
    if marked is None or amounts is None:
        return None
    whole = Trades(
        id=np.array(marked[0], np.int64),
        exchange_ns=np.array([one.T for one in prints], np.int64) * MS,
        received_ns=np.array(heard, np.int64),
        price=np.array(amounts[0], np.int64),
        qty=np.array(amounts[1], np.int64),
        quote_cents=np.array(amounts[2], np.int64),
        side=np.where([one.m for one in prints], np.int8(Side.SELL), np.int8(Side.BUY)),
        flags=np.array(marked[1], np.uint8),
    )
    names = [instrument.id for instrument in named.values()]
    if len(names) == 1:
        return {names[0]: whole}
    number = np.array([numbers[native] for native in natives])
    order = np.argsort(number, kind="stable")
    ordered = Trades._make(column[order] for column in whole)
    ends = np.cumsum(np.bincount(number)).tolist()
    return {name: cut(ordered, start, end) for name, start, end in zip(names, [0, *ends[:-1]], ends, strict=True)}


def _ids_and_flags(instruments: Mapping[str, Instrument], prints: list[_Print]) -> tuple[list[int], list[int]] | None:
    """Return ids and flags; None where a single print is no order-book trade, or an aggregate has its ids in no order."""
    kinds = set(map(type, prints))
    if kinds == {_Trade}:
        singles = cast("list[_Trade]", prints)
        if not _FLAGS.keys() >= {one.X for one in singles}:
            return None
        return [one.t for one in singles], [_FLAGS[one.X] for one in singles]
    if kinds != {_AggTrade}:
        return None
    aggregates = cast("list[_AggTrade]", prints)
    if any([one.l < one.f for one in aggregates]):  # noqa: C419 (a list is faster here)
        return None
    rpi = int(TradeFlag.RPI)
    flags = [
        rpi if one.nq is not None and one.nq != one.q and _differs(instruments[one.s], one.nq, one.q) else 0
        for one in aggregates
    ]
    return [one.a for one in aggregates], flags


def _amounts_of(
    instruments: Mapping[str, Instrument], prints: list[_Print]
) -> tuple[list[int], list[int], list[int]] | None:
    """Do what `amounts` does to whole columns; None where a print has no price or no quantity."""
    scales = {
        native: (instrument, instrument.price_decimals - _zeros(instrument))
        for native, instrument in instruments.items()
    }
    prices = [fixed_again(one.p, scales[one.s][1]) for one in prints]
    if min(prices) == 0:
        return None
    if instruments[prints[0].s].margin is Margin.INVERSE:
        sizes = {native: int(instrument.contract_size) for native, instrument in instruments.items()}
        powers = {native: 10 ** (one.qty_decimals + one.price_decimals) for native, one in instruments.items()}
        quotes = [fixed_again(one.q, 0) * sizes[one.s] for one in prints]
        quantities = [
            half_away(quote * powers[one.s], price) for one, quote, price in zip(prints, quotes, prices, strict=True)
        ]
        cents = [quote * CENTS for quote in quotes]
    else:
        quantities = [fixed_again(one.q, scales[one.s][0].qty_decimals) for one in prints]
        if any(instrument.multiplier != 1 for instrument in instruments.values()):
            quantities = [
                quantity * instruments[one.s].multiplier for one, quantity in zip(prints, quantities, strict=True)
            ]
        cents = [-1] * len(prints)
    return None if min(quantities) == 0 else (prices, quantities, cents)


_FLOW = {"MARKET": TradeFlag(0), "RPI": TradeFlag.RPI}
_INTERNAL = frozenset({"INSURANCE_FUND", "ADL"})


def _trade(instrument: Instrument, message: _Trade, frame: bytes, received_ns: int) -> list[Event]:
    """Read a single print; what is no order-book trade uses up an id and is no flow."""
    flags = _FLOW.get(message.X)
    others: list[Event] = []
    if flags is not None:
        price, qty, quote_cents = _positive(instrument, message.p, message.q)
    else:
        flags = TradeFlag.INTERNAL
        price, qty, quote_cents = amounts(instrument, message.p, message.q)
        if message.X not in _INTERNAL:
            others = [Unknown(what=f"X {message.X}", sample=frame[:SAMPLE_BYTES])]
    trade = Trade(
        instrument=instrument.id,
        id=message.t,
        id_kind=IdKind.TRADE,
        first_id=message.t,
        last_id=message.t,
        exchange_ns=message.T * MS,
        received_ns=received_ns,
        price=price,
        qty=qty,
        quote_cents=quote_cents,
        side=Side.SELL if message.m else Side.BUY,
        flags=flags,
    )
    return [trade, *others]


def _aggregate(instrument: Instrument, message: _AggTrade, received_ns: int) -> Trade:
    """Read an aggregate: the prints of one taker at one price, insurance fund and ADL left out by the venue."""
    price, qty, quote_cents = _positive(instrument, message.p, message.q)
    some_rpi = message.nq is not None and _differs(instrument, message.nq, message.q)
    if message.l < message.f:
        raise ParseError(f"aggregate held ids {message.f} to {message.l}, the last must not lie before the first")
    return Trade(
        instrument=instrument.id,
        id=message.a,
        id_kind=IdKind.AGGREGATE,
        first_id=message.f,
        last_id=message.l,
        exchange_ns=message.T * MS,
        received_ns=received_ns,
        price=price,
        qty=qty,
        quote_cents=quote_cents,
        side=Side.SELL if message.m else Side.BUY,
        flags=TradeFlag.RPI if some_rpi else TradeFlag(0),
    )


def _differs(instrument: Instrument, one: str, other: str) -> bool:
    """Whether two quantities of an instrument differ; both are in its native unit."""
    decimals = 0 if instrument.margin is Margin.INVERSE else instrument.qty_decimals
    return fixed(one, decimals) != fixed(other, decimals)


def _quote(instrument: Instrument, message: _Quote | _SpotQuote, received_ns: int) -> Quote:
    bid, bid_qty, _ = amounts(instrument, message.b, message.B)
    ask, ask_qty, _ = amounts(instrument, message.a, message.A)
    return Quote(
        instrument=instrument.id,
        update_id=message.u,
        exchange_ns=message.T * MS,
        received_ns=received_ns,
        bid=bid,
        bid_qty=bid_qty,
        ask=ask,
        ask_qty=ask_qty,
    )


def _depth(instrument: Instrument, message: _Depth, received_ns: int) -> BookDelta:
    return BookDelta(
        instrument=instrument.id,
        first_id=message.U,
        last_id=message.u,
        previous_id=message.pu,
        exchange_ns=(message.T or message.E) * MS,
        received_ns=received_ns,
        bids=tuple([amounts(instrument, *level)[:2] for level in message.b]),
        asks=tuple([amounts(instrument, *level)[:2] for level in message.a]),
    )


def _rate(text: str) -> int:
    """Read a funding rate, which has a sign."""
    negative = text.startswith("-")
    value = fixed_rounded(text[negative:], _RATE_DECIMALS)
    return -value if negative else value


def _mark(instrument: Instrument, message: _Mark, received_ns: int) -> MarkPrice:
    decimals = instrument.price_decimals - (len(str(instrument.multiplier)) - 1)
    return MarkPrice(
        instrument=instrument.id,
        exchange_ns=message.E * MS,
        received_ns=received_ns,
        mark=fixed_rounded(message.p, decimals),
        index=fixed_rounded(message.i, decimals) if message.i else 0,
        funding_rate=_rate(message.r) if message.r else 0,
        next_funding_ns=message.T * MS if message.r else 0,
    )


_LIQUIDATED = {"SELL": Side.BUY, "BUY": Side.SELL}  # order side → side of the position that was closed


def _liquidation(instrument: Instrument, order: _ForceOrderBody, received_ns: int) -> Liquidation:
    if order.S not in _LIQUIDATED:
        raise ParseError(f"side was {order.S!r}, expected SELL or BUY")
    zeros = len(str(instrument.multiplier)) - 1
    price = fixed_rounded(order.ap, instrument.price_decimals - zeros)
    _, qty, _ = amounts(instrument, _whole_tick(price, instrument), order.q)
    return Liquidation(
        instrument=instrument.id,
        exchange_ns=order.T * MS,
        received_ns=received_ns,
        liquidated=_LIQUIDATED[order.S],
        price=price,
        qty=qty,
        complete=False,  # at most one a symbol and second is sent
    )


def _whole_tick(price: int, instrument: Instrument) -> str:
    """Write a price that was rounded to the scale as the venue would have sent it."""
    zeros = len(str(instrument.multiplier)) - 1
    return f"{Decimal(price).scaleb(zeros - instrument.price_decimals):f}"


# -- REST answers ------------------------------------------------------------------------------------------------------

FUNDING_USUAL_S = 8 * 3600  # of an instrument that fundingInfo does not name
FUNDING_TOLERANCE_S = 120  # settlements come some milliseconds late
_INTERVALS_S = (3600, 2 * 3600, 4 * 3600, 6 * 3600)  # shorter than the usual
_RATE_DECIMALS = len(str(FUNDING_SCALE)) - 1


class _Refusal(msgspec.Struct):
    # {"code":-1121,"msg":"Invalid symbol."}
    code: int
    msg: str = ""


class _OpenInterest(msgspec.Struct):
    # {"openInterest":"83782.317","symbol":"BTCUSDT","time":1702244985273}                                    USD-M: base
    # {"contractType":"PERPETUAL","openInterest":"6784657","pair":"BTCUSD","symbol":"BTCUSD_PERP","time":…}   COIN-M: contracts
    symbol: str
    openInterest: str  # noqa: N815 (the venue's name)
    time: Ms


class _Settled(msgspec.Struct, rename="camel"):
    # [{"symbol":"BTCUSD_PERP","fundingRate":"0.00010000","fundingTime":1605513600010},…]    oldest first
    symbol: str
    funding_rate: str
    funding_time: Ms


class _Premium(msgspec.Struct, rename="camel"):
    # {"symbol":"BTCUSDT","markPrice":"26780.82240476","indexPrice":"26798.25197802","lastFundingRate":"0.00001226",
    #  "nextFundingTime":1687248000000,"time":1687244112000,…}      COIN-M sends a list always; dated: rate "", time 0
    symbol: str
    mark_price: str
    last_funding_rate: str
    next_funding_time: Ms
    time: Ms
    index_price: str = ""


class _FundingInfo(msgspec.Struct, rename="camel"):
    # [{"symbol":"LPTUSDT","fundingIntervalHours":4,"adjustedFundingRateCap":"0.02000000",…},…]
    symbol: str
    funding_interval_hours: Annotated[int, msgspec.Meta(ge=1, le=24)]


class _RestAggregate(msgspec.Struct, gc=False):
    # [{"a":4773826,"p":"19099.6","q":"70","f":7857138,"l":7857138,"T":1607294296787,"m":true},…]
    a: Id
    p: str
    q: str
    f: Id
    l: Id  # noqa: E741 (the venue's name)
    T: Ms
    m: bool
    nq: str | None = None


class _RestTrade(msgspec.Struct, rename="camel", gc=False):
    # [{"id":7857136,"price":"19099.7","qty":"40","baseQty":"0.20942737","time":1607294296510,"isBuyerMaker":false},…]
    id: Id
    price: str
    qty: str
    time: Ms
    is_buyer_maker: bool
    is_rpi_trade: bool = msgspec.field(default=False, name="isRPITrade")


class _ServerTime(msgspec.Struct):
    # {"serverTime":1499827319559}
    serverTime: Ms  # noqa: N815 (the venue's name)


Answer = TypeVar("Answer")
_refusal = msgspec.json.Decoder(_Refusal)
_open_interest = msgspec.json.Decoder(_OpenInterest)
_premium = msgspec.json.Decoder(_Premium | list[_Premium])
_settled = msgspec.json.Decoder(list[_Settled])
_funding_info = msgspec.json.Decoder(list[_FundingInfo])
_rest_aggregates = msgspec.json.Decoder(list[_RestAggregate])
_rest_trades = msgspec.json.Decoder(list[_RestTrade])
_server_time = msgspec.json.Decoder(_ServerTime)


def _answer(what: str, decoder: msgspec.json.Decoder[Answer], body: bytes) -> Answer:
    """Decode an answer, or say what the venue said instead."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        try:
            said = _refusal.decode(body)
        except (msgspec.DecodeError, RecursionError, ValueError):
            raise ParseError(f"{what}: {error}; the answer began {body[:SAMPLE_BYTES]!r}") from error
        raise ParseError(f"{what}: the venue refused it with code {said.code}: {said.msg}") from error


def _zeros(instrument: Instrument) -> int:
    """Count the zeros of a listed unit: multipliers are powers of ten."""
    return len(str(instrument.multiplier)) - 1


def open_interest(section: str, instrument: Instrument, body: bytes, received_ns: int, mark: int) -> Interest:
    """Read an openInterest answer; see `Venue.open_interest`. One-sided on both sections."""
    what = f"binance {section} open interest of {instrument.native_symbol}"
    answer = _answer(what, _open_interest, body)
    if answer.symbol != instrument.native_symbol:
        raise ParseError(f"{what}: the answer was about {answer.symbol!r}")
    if instrument.margin is Margin.INVERSE:
        if mark <= 0:
            raise UsageError(f"{what} is in contracts, its mark price was {mark}: pass the one of that moment")
        quote = fixed(answer.openInterest, 0) * int(instrument.contract_size)
        base = half_away(quote * 10 ** (instrument.qty_decimals + instrument.price_decimals), mark)
    else:
        base = fixed_rounded(answer.openInterest, instrument.qty_decimals + _zeros(instrument))
    return Interest(
        instrument=instrument.id,
        exchange_ns=answer.time * MS,
        received_ns=received_ns,
        open_interest=_within(base),
    )


def funding_intervals(section: str, body: bytes) -> dict[str, int]:
    """Read a fundingInfo answer, which names only what was ever adjusted; the others pay each `FUNDING_USUAL_S`."""
    entries = _answer(f"binance {section} funding intervals", _funding_info, body)
    return {entry.symbol: entry.funding_interval_hours * 3600 for entry in entries}


def funding(
    section: str,
    instruments: Mapping[str, Instrument],
    body: bytes,
    received_ns: int,
    intervals: Mapping[str, int] | None = None,
) -> list[Funding]:
    """Read a fundingRate answer (settled) or a premiumIndex answer (predicted); see `Venue.funding`."""
    what, said = f"binance {section} funding", intervals or {}
    try:
        settled = _settled.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return _predicted(what, instruments, body, received_ns, said)
    before: dict[str, int] = {}
    found: list[Funding] = []
    for entry in settled:
        instrument = instruments.get(entry.symbol)
        if instrument is None:
            continue
        interval_s = said.get(entry.symbol, FUNDING_USUAL_S)
        if entry.symbol in before:
            actual = _interval_s((entry.funding_time - before[entry.symbol]) // 1000)
            interval_s = min(interval_s, actual or interval_s)
        before[entry.symbol] = entry.funding_time
        found.append(
            Funding(
                instrument=instrument.id,
                exchange_ns=entry.funding_time * MS,
                received_ns=received_ns,
                rate=_rate(entry.funding_rate),
                interval_s=interval_s,
                settled=True,
            )
        )
    return found


def _interval_s(distance_s: int) -> int:
    """Return the funding interval that a distance between two events is; 0 when it is none shorter than the usual."""
    return next((known for known in _INTERVALS_S if abs(distance_s - known) <= FUNDING_TOLERANCE_S), 0)


def _predicted(
    what: str, instruments: Mapping[str, Instrument], body: bytes, received_ns: int, intervals: Mapping[str, int]
) -> list[Funding]:
    return [
        Funding(
            instrument=instruments[entry.symbol].id,
            exchange_ns=entry.next_funding_time * MS,
            received_ns=received_ns,
            rate=_rate(entry.last_funding_rate),
            interval_s=intervals.get(entry.symbol, FUNDING_USUAL_S),
            settled=False,
        )
        for entry in _premiums(what, body)
        if entry.symbol in instruments and entry.last_funding_rate and entry.next_funding_time
    ]


def _premiums(what: str, body: bytes) -> list[_Premium]:
    answer = _answer(what, _premium, body)
    return answer if isinstance(answer, list) else [answer]


def marks(section: str, instruments: Mapping[str, Instrument], body: bytes, received_ns: int) -> list[MarkPrice]:
    """Read a premiumIndex answer, of one symbol or of all; see `Venue.marks`."""
    found: list[MarkPrice] = []
    for entry in _premiums(f"binance {section} mark prices", body):
        instrument = instruments.get(entry.symbol)
        if instrument is None:
            continue
        decimals = instrument.price_decimals - _zeros(instrument)
        has_funding = bool(entry.last_funding_rate and entry.next_funding_time)
        found.append(
            MarkPrice(
                instrument=instrument.id,
                exchange_ns=entry.time * MS,
                received_ns=received_ns,
                mark=fixed_rounded(entry.mark_price, decimals),
                index=fixed_rounded(entry.index_price, decimals) if entry.index_price else 0,
                funding_rate=_rate(entry.last_funding_rate) if has_funding else 0,
                next_funding_ns=entry.next_funding_time * MS if has_funding else 0,
            )
        )
    return found


def aggregates(section: str, instrument: Instrument, body: bytes, received_ns: int = 0) -> list[Trade]:
    """Read an aggTrades answer; see `Venue.aggregates`."""
    answer = _answer(f"binance {section} aggregates of {instrument.native_symbol}", _rest_aggregates, body)
    return [
        _flagged(
            _aggregate(
                instrument,
                _AggTrade(s="", a=one.a, p=one.p, q=one.q, f=one.f, l=one.l, T=one.T, m=one.m, nq=one.nq),
                received_ns,
            )
        )
        for one in answer
    ]


def recent_trades(section: str, instrument: Instrument, body: bytes, received_ns: int = 0) -> list[Trade]:
    """Read a trades or historicalTrades answer; see `Venue.recent_trades`.

    The answer does not say which prints are the insurance fund's: a print without price or quantity is `INTERNAL`, any
    other one counts as a trade.
    """
    answer = _answer(f"binance {section} trades of {instrument.native_symbol}", _rest_trades, body)
    found: list[Trade] = []
    for one in answer:
        kind = "RPI" if one.is_rpi_trade else "MARKET"
        if not one.qty.strip("0.") or not one.price.strip("0."):
            kind = "ADL"
        message = _Trade(s="", t=one.id, p=one.price, q=one.qty, T=one.time, m=one.is_buyer_maker, X=kind)
        found += [
            _flagged(event) for event in _trade(instrument, message, b"", received_ns) if isinstance(event, Trade)
        ]
    return found


def _flagged(trade: Trade) -> Trade:
    return msgspec.structs.replace(trade, flags=trade.flags | TradeFlag.BACKFILL)


def server_time(body: bytes) -> int:
    """Read a time answer, in ns.

    >>> server_time(b'{"serverTime":1499827319559}')
    1499827319559000000
    """
    return _answer("binance server time", _server_time, body).serverTime * MS


# -- instruments -------------------------------------------------------------------------------------------------------

# Listed units that hold several base units, by the list's base (2025-08). A table, not a rule: digits may be a name.
_MULTIPLES: Mapping[str, tuple[str, int]] = MappingProxyType(
    {
        "1000SHIB": ("SHIB", 1_000),
        "1000XEC": ("XEC", 1_000),
        "1000LUNC": ("LUNC", 1_000),
        "1000PEPE": ("PEPE", 1_000),
        "1000FLOKI": ("FLOKI", 1_000),
        "1000BONK": ("BONK", 1_000),
        "1000SATS": ("SATS", 1_000),
        "1000RATS": ("RATS", 1_000),
        "1000CAT": ("CAT", 1_000),
        "1000CHEEMS": ("CHEEMS", 1_000),
        "1000WHY": ("WHY", 1_000),
        "1000BTTC": ("BTTC", 1_000),
        "1000000MOG": ("MOG", 1_000_000),
        "1000000BOB": ("BOB", 1_000_000),
        "1MBABYDOGE": ("BABYDOGE", 1_000_000),
    }
)

# Reference prices in USD of 2024-08-08. The scales of these bases follow from them by the `default_…` rules of
# `market`, so that they never depend on which file is imported first.
REFERENCE_PRICES: Mapping[str, str] = MappingProxyType(
    {
        "BTC": "61800",
        "ETH": "2600",
        "BNB": "520",
        "SOL": "160",
        "XRP": "0.61",
        "DOGE": "0.105",
        "ADA": "0.35",
        "LTC": "61",
        "LINK": "10.5",
        "AVAX": "22",
        "DOT": "4.7",
        "TRX": "0.127",
        "BCH": "350",
        "ETC": "18.5",
        "SUI": "0.8",
        "UNI": "6.1",
        "ATOM": "4.6",
        "NEAR": "4.0",
        "FIL": "3.5",
        "SHIB": "0.0000136",
        "PEPE": "0.0000078",
    }
)

# (tick, lot) of the instrument list of 2025-08-07, for work without a list; the list wins where there is one.
_FILTERS: Mapping[tuple[str, str], tuple[str, str]] = MappingProxyType(
    {
        ("spot", "BTCUSDT"): ("0.01", "0.00001"),
        ("spot", "ETHUSDT"): ("0.01", "0.0001"),
        ("linear", "BTCUSDT"): ("0.10", "0.001"),
        ("linear", "ETHUSDT"): ("0.01", "0.001"),
        ("linear", "BCHUSDT"): ("0.01", "0.001"),
        ("linear", "XRPUSDT"): ("0.0001", "0.1"),
        ("linear", "LTCUSDT"): ("0.01", "0.001"),
        ("linear", "TRXUSDT"): ("0.00001", "1"),
        ("linear", "LINKUSDT"): ("0.001", "0.01"),
        ("linear", "ADAUSDT"): ("0.0001", "1"),
        ("linear", "BNBUSDT"): ("0.01", "0.01"),
        ("inverse", "BTCUSD_PERP"): ("0.1", "1"),
        ("inverse", "ETHUSD_PERP"): ("0.01", "1"),
        ("inverse", "BNBUSD_PERP"): ("0.01", "1"),
        ("inverse", "SOLUSD_PERP"): ("0.01", "1"),
        ("inverse", "XRPUSD_PERP"): ("0.0001", "1"),
        ("inverse", "LTCUSD_PERP"): ("0.01", "1"),
    }
)

# Quote assets by which a bare name is split, longest match first (2025-08). A list's own fields are used where one is.
QUOTES = (
    "FDUSD", "USDT", "USDC", "BUSD", "TUSD", "USDE", "USDS", "USD1", "XUSD", "BFUSD", "BIDR", "IDRT", "BKRW", "DAI",
    "PAX", "EUR", "GBP", "TRY", "BRL", "JPY", "ARS", "AUD", "RUB", "UAH", "NGN", "ZAR", "PLN", "RON", "MXN", "COP",
    "CZK", "VAI", "UST", "USD", "BTC", "ETH", "BNB", "TRX", "XRP", "DOGE", "DOT", "SOL",
)  # fmt: skip

_NAMES: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "spot": re.compile(r"(?P<pair>[A-Z0-9]{3,})", re.ASCII),
        "linear": re.compile(r"(?P<pair>[A-Z0-9]{3,}?)(?:_(?P<date>[0-9]{6}))?", re.ASCII),
        "inverse": re.compile(r"(?P<pair>[A-Z0-9]+USD)_(?:PERP|(?P<date>[0-9]{6}))", re.ASCII),
    }
)
_PERPETUAL_TYPES = frozenset({"PERPETUAL", "PERPETUAL DELIVERING", "TRADIFI_PERPETUAL"})
_DATED_TYPES = frozenset(
    {
        f"{period}{state}"
        for period in ("CURRENT_MONTH", "NEXT_MONTH", "CURRENT_QUARTER", "NEXT_QUARTER")
        for state in ("", " DELIVERING")
    }
)
_TOKEN = re.compile(r"[A-Z0-9]+", re.ASCII)


def _expiry_s(date: str) -> int | None:
    try:
        day = dt.datetime.strptime(date, "%y%m%d").replace(tzinfo=dt.UTC)
    except ValueError:
        return None
    return int(day.timestamp()) + DELIVERY_HOUR * 3600


def kind(section: str, native: str) -> Kind:
    """Say what a native name is: the section decides between spot and derivatives, the name's end between the rest.

    >>> kind("linear", "BTCUSDT_221230"), kind("spot", "PERPUSDT"), kind("spot", "FOO~BAR")
    (<Kind.FUTURE: 'future'>, <Kind.SPOT: 'spot'>, <Kind.UNKNOWN: 'unknown'>)
    """
    _section(section)
    match = _NAMES[section].fullmatch(native)
    if match is None:
        return Kind.UNKNOWN
    if section == "spot":
        return Kind.SPOT
    date = match["date"]
    if date is None:
        return Kind.PERP
    return Kind.FUTURE if _expiry_s(date) is not None else Kind.UNKNOWN


def split(pair: str) -> tuple[str, str] | None:
    """Split a pair's name into base and quote by the longest known quote; None where none fits.

    >>> split("ETHBTC"), split("C98USDT")
    (('ETH', 'BTC'), ('C98', 'USDT'))
    """
    fits = [quote for quote in QUOTES if pair.endswith(quote) and len(pair) > len(quote)]
    if not fits:
        return None
    quote = max(fits, key=len)
    return pair[: -len(quote)], quote


def _scales(base: str, quote: str, price: Decimal | None) -> tuple[int, int] | None:
    """Choose (price_decimals, qty_decimals): by the table where the quote is worth a USD, else by a price met."""
    if base in REFERENCE_PRICES and split(f"X{quote}") and quote in _USD_LIKE:
        price = Decimal(REFERENCE_PRICES[base])
    if price is None or price <= 0:
        return None
    return default_price_decimals(float(price)), default_qty_decimals(float(price))


_USD_LIKE = frozenset({"USD", "USDT", "USDC", "BUSD", "TUSD", "FDUSD"})


def _decimals(step: Decimal) -> int:
    """Count the decimals a step needs: 0.00010 needs 4."""
    exponent = step.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _build(
    section: str,
    native: str,
    listed_base: str,
    quote: str,
    settle: str,
    what: Kind,
    *,
    expiry_s: int,
    contract_size: Decimal,
    filters: tuple[Decimal, Decimal] | None,
    price: Decimal | None,
) -> Instrument | None:
    """Put an instrument together; None where its scales cannot be known yet."""
    base, multiplier = _MULTIPLES.get(listed_base, (listed_base, 1))
    unit_price = None if price is None else price / multiplier
    scales = _scales(base, quote, unit_price)
    if scales is None and filters is None:
        return None
    zeros = len(str(multiplier)) - 1
    least = (zeros, 0)
    if filters is not None:
        least = (_decimals(filters[0]) + zeros, 0 if section == "inverse" else _decimals(filters[1]))
    if scales is None:
        scales = least
    price_decimals, qty_decimals = max(scales[0], least[0]), scales[1]
    if filters is None:
        tick, lot = Decimal(1).scaleb(-price_decimals), Decimal(1).scaleb(-qty_decimals)
        lot = Decimal(1) if section == "inverse" else lot
    else:
        tick, lot = filters[0] / multiplier, filters[1] * multiplier
    suffix = {Kind.SPOT: "", Kind.PERP: "-PERP"}.get(what)
    if suffix is None:
        suffix = f"-{dt.datetime.fromtimestamp(expiry_s, dt.UTC):%y%m%d}"
    margin = {"spot": Margin.NONE, "linear": Margin.LINEAR, "inverse": Margin.INVERSE}[section]
    return Instrument(
        venue=NAME,
        symbol=f"{base}-{quote}{suffix}",
        native_symbol=native,
        section=section,
        base=base,
        quote=quote,
        settle=settle,
        kind=what,
        margin=margin,
        price_decimals=price_decimals,
        qty_decimals=qty_decimals,
        tick_size=tick.normalize(),
        lot_size=lot.normalize(),
        contract_size=contract_size,
        multiplier=multiplier,
        expiry_s=expiry_s,
    )


def instrument(section: str, native: str, price: Decimal | None = None) -> Instrument:
    """Make an instrument from its name alone, with scales by the table or by `price` (of the listed unit, in quote).

    >>> instrument("inverse", "BTCUSD_PERP").id
    'binance:BTC-USD-PERP'

    Raises `UsageError` where no rule covers the name, or where `price` is needed and missing.
    """
    what = kind(section, native)
    match = _NAMES[section].fullmatch(native)
    parts = split(match["pair"]) if match else None
    if what is Kind.UNKNOWN or match is None or parts is None:
        raise UsageError(
            f"native symbol was {native!r}, no name rule of binance {section} covers it: check its spelling"
        )
    base, quote = parts
    expiry_s = 0 if what is not Kind.FUTURE else _expiry_s(match["date"]) or 0
    table = _FILTERS.get((section, native))
    built = _build(
        section,
        native,
        base,
        quote,
        _settle(section, base, quote),
        what,
        expiry_s=expiry_s,
        contract_size=Decimal(1) if section != "inverse" else Decimal(100 if base == "BTC" else 10),
        filters=None if table is None else (Decimal(table[0]), Decimal(table[1])),
        price=price,
    )
    if built is None:
        raise UsageError(
            f"scales of binance {section} {native} are not known: pass a price of it, or its instrument list"
        )
    return built


def _settle(section: str, base: str, quote: str) -> str:
    return base if section == "inverse" else quote


class _Filter(msgspec.Struct):
    filterType: str  # noqa: N815 (the venue's name)
    tickSize: str = ""  # noqa: N815
    stepSize: str = ""  # noqa: N815


class _Symbol(msgspec.Struct, rename="camel"):
    # {"symbol":"BTCUSD_PERP","contractType":"PERPETUAL","deliveryDate":4133404800000,"contractSize":100,"baseAsset":"BTC",
    #  "quoteAsset":"USD","marginAsset":"BTC","filters":[{"filterType":"PRICE_FILTER","tickSize":"0.1",…},…],…}
    symbol: str
    base_asset: str
    quote_asset: str
    filters: list[_Filter]
    contract_type: str | None = None
    delivery_date: int = 0
    contract_size: int = 1
    margin_asset: str = ""


class _List(msgspec.Struct):
    symbols: list[_Symbol]


_list = msgspec.json.Decoder(_List | list[_Symbol])


def instruments(
    section: str, body: bytes, prices: Mapping[str, Decimal] | None = None
) -> tuple[list[Instrument], list[Unknown]]:
    """Read an exchangeInfo answer, or its bare list of symbols. `prices` (by native symbol) set scales of new bases."""
    _section(section)
    try:
        answer = _list.decode(body)
    except msgspec.DecodeError as error:
        raise ParseError(f"binance {section} instrument list: {error}") from error
    symbols = answer if isinstance(answer, list) else answer.symbols
    found: list[Instrument] = []
    unknown: list[Unknown] = []
    seen: set[str] = set()
    for symbol in symbols:
        made = _listed(section, symbol, (prices or {}).get(symbol.symbol))
        if isinstance(made, str) or made.symbol in seen:
            why = made if isinstance(made, str) else f"its symbol {made.symbol} stands for another one already"
            unknown.append(Unknown(what=f"instrument {symbol.symbol}: {why}", sample=msgspec.json.encode(symbol)))
            continue
        seen.add(made.symbol)
        found.append(made)
    return found, unknown


def _listed(section: str, symbol: _Symbol, price: Decimal | None) -> Instrument | str:
    """Make an instrument from a list entry, or say why not. List and name must agree on its kind."""
    by_name = kind(section, symbol.symbol)
    by_list = _kind_of_type(section, symbol.contract_type)
    if by_name is Kind.UNKNOWN or by_list is not by_name:
        return f"name says {by_name}, list says {by_list} (contractType {symbol.contract_type!r})"
    if not _TOKEN.fullmatch(symbol.base_asset) or not _TOKEN.fullmatch(symbol.quote_asset):
        return f"base {symbol.base_asset!r} and quote {symbol.quote_asset!r} are not A-Z0-9"
    try:
        tick = _step(symbol.filters, "PRICE_FILTER", lambda f: f.tickSize)
        lot = _step(symbol.filters, "LOT_SIZE", lambda f: f.stepSize)
    except ParseError as error:
        return str(error)
    quote = symbol.quote_asset
    expiry_s = symbol.delivery_date // 1000 if by_name is Kind.FUTURE else 0
    made = _build(
        section,
        symbol.symbol,
        symbol.base_asset,
        quote,
        symbol.margin_asset or _settle(section, symbol.base_asset, quote),
        by_name,
        expiry_s=expiry_s,
        contract_size=Decimal(symbol.contract_size),
        filters=(tick, lot),
        price=price,
    )
    return made if made is not None else "its scales are not known"


def _kind_of_type(section: str, contract_type: str | None) -> Kind:
    if section == "spot":
        return Kind.SPOT if contract_type is None else Kind.UNKNOWN
    if contract_type in _PERPETUAL_TYPES:
        return Kind.PERP
    return Kind.FUTURE if contract_type in _DATED_TYPES else Kind.UNKNOWN


def _step(filters: Iterable[_Filter], name: str, of: Callable[[_Filter], str]) -> Decimal:
    for entry in filters:
        if entry.filterType == name:
            step = Decimal(fixed(of(entry), 12)).scaleb(-12)
            if step > 0:
                return step
    raise ParseError(f"{name} is missing or zero")


# -- archive -----------------------------------------------------------------------------------------------------------

ARCHIVE = "https://data.binance.vision"
ARCHIVE_SECTIONS: Mapping[str, str] = MappingProxyType(
    {"spot": "spot", "futures/um": "linear", "futures/cm": "inverse"}
)
_ARCHIVE_FOLDERS = {section: folder for folder, section in ARCHIVE_SECTIONS.items()}
MARKETS: Mapping[str, str] = MappingProxyType({"spot": "spot", "um": "linear", "cm": "inverse"})  # the archive's words

# Columns of the files as published without a header; some have one, spot has a last column of its own.
ARCHIVE_COLUMNS: Mapping[tuple[str, str], tuple[str, ...]] = MappingProxyType({
    ("spot", "aggTrades"): (
        "agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time", "is_buyer_maker",
        "is_best_match",
    ),
    ("linear", "aggTrades"): (
        "agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time", "is_buyer_maker",
    ),
    ("inverse", "aggTrades"): (
        "agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time", "is_buyer_maker",
    ),
    ("spot", "trades"): ("id", "price", "qty", "quote_qty", "time", "is_buyer_maker", "is_best_match"),
    ("linear", "trades"): ("id", "price", "qty", "quote_qty", "time", "is_buyer_maker"),
    ("inverse", "trades"): ("id", "price", "qty", "base_qty", "time", "is_buyer_maker"),
    ("linear", "fundingRate"): ("calc_time", "funding_interval_hours", "last_funding_rate"),
    ("inverse", "fundingRate"): ("calc_time", "funding_interval_hours", "last_funding_rate"),
    ("linear", "metrics"): (
        "create_time", "symbol", "sum_open_interest", "sum_open_interest_value", "count_toptrader_long_short_ratio",
        "sum_toptrader_long_short_ratio", "count_long_short_ratio", "sum_taker_long_short_vol_ratio",
    ),
    ("inverse", "metrics"): (
        "create_time", "symbol", "sum_open_interest", "sum_open_interest_value", "count_toptrader_long_short_ratio",
        "sum_toptrader_long_short_ratio", "count_long_short_ratio", "sum_taker_long_short_vol_ratio",
    ),
})  # fmt: skip

_ARCHIVE_PATH = re.compile(
    r"(?:^|/)data/(?P<folder>spot|futures/um|futures/cm)/(?P<span>daily|monthly)/(?P<kind>[A-Za-z]+)/"
    r"(?P<native>[A-Z0-9_]+)/(?P=native)-(?P=kind)-(?P<period>[0-9]{4}-[0-9]{2}(?:-[0-9]{2})?)\.(?:zip|csv)$",
    re.ASCII,
)


def archive_path(file: ArchiveFile) -> str:
    """Return the path of a file below `ARCHIVE`; a `.CHECKSUM` lies beside each.

    >>> archive_path(ArchiveFile(section="linear", kind="aggTrades", native_symbol="BTCUSDT", period="2024-08-08"))
    'data/futures/um/daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2024-08-08.zip'
    """
    native = file.native_symbol
    span = "monthly" if file.monthly else "daily"
    name = f"{native}-{file.kind}-{file.period}.zip"
    return f"data/{_ARCHIVE_FOLDERS[file.section]}/{span}/{file.kind}/{native}/{name}"


def archive_file(path: str) -> ArchiveFile | None:
    """Read a published path, whatever folder it was copied below; None where it is none."""
    match = _ARCHIVE_PATH.search(path.replace("\\", "/"))
    if match is None or (match["span"] == "monthly") != (len(match["period"]) == len("2024-08")):
        return None
    return ArchiveFile(
        section=ARCHIVE_SECTIONS[match["folder"]],
        kind=match["kind"],
        native_symbol=match["native"],
        period=match["period"],
    )
