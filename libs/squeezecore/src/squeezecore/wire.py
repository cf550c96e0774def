"""Every message's subject and bytes; nobody else knows either.

A message is a domain value. Its bytes are a msgpack array: the schema number first, then the fields in their order;
columns go as raw little-endian buffers. A reader refuses a schema it does not know, a wrong number of fields and a
column of a wrong length, with `ParseError`. Any change of a message is a new schema number.

Subjects run from general to particular, with the version from day one:

    md.v1.trade.<venue>.<feed>     TradeBatch         md.v1.mark.<venue>.<feed>      Watermark
    md.v1.interest.<venue>.<feed>  InterestFact       md.v1.funding.<venue>.<feed>   FundingFact
    md.v1.price.<venue>.<feed>     MarkFact
    flow.v1.rows                   RowBatch           flow.v1.config.<asset>         AssetChange
    flow.v1.repair                 RepairBatch
    trade.v1.signal.<asset>        Signal             trade.v1.intent.<account>      Order
    trade.v1.decided.<account>     Decided            trade.v1.lead.<account>        Lead
    trade.v1.sending.<account>     Sending            trade.v1.clock.<account>       Clock
    trade.v1.fill.<account>        Fill               trade.v1.payment.<account>     Payment
    audit.v1.decision.<asset>      Decision           audit.v1.order.<order id>      OrderUpdate
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import numpy as np

from squeezecore.errors import ParseError, UsageError
from squeezecore.market import Block, Rows, Trades, Watermark, dtypes
from squeezecore.spec import AssetConfig, digest
from squeezecore.standing import Holding, Pending, TradingState
from squeezecore.trading import Decision, Fill, Order, OrderUpdate, Signal

SCHEMA = 1
BORDER_NS = 250_000_000  # trade batches close on multiples of this, in exchange time
PAYLOAD_BYTES_MAX = 1 << 20  # the bus refuses more
TOKENS_MAX = 16

# Streams are cut by durability class and retention, not by symbol.
STREAMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "MD": ("md.v1.>",),  # hours; can be fetched again
        "FLOW": ("flow.v1.>",),  # days
        "TRADE": ("trade.v1.>",),  # kept, synced
        "AUDIT": ("audit.v1.>",),  # kept
    }
)


class TradeBatch(NamedTuple):
    """The prints of one feed in one border of exchange time: all its instruments, in one message."""

    venue: str
    feed: str
    border_ns: int  # end of the 250 ms, exclusive
    instruments: tuple[str, ...]
    trades: tuple[Trades, ...]  # one block an instrument


class RowBatch(NamedTuple):
    """One second of all assets, sorted by asset."""

    ts: int  # s, UTC
    assets: tuple[str, ...]
    rows: Rows  # one entry an asset


class RepairBatch(NamedTuple):
    """Newer versions of one second's rows, of the assets that a repair changed; live state is never rewound for them."""

    ts: int  # s, UTC
    assets: tuple[str, ...]
    rows: Rows


class InterestFact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One value of open interest and when it could first be known."""

    venue: str
    feed: str
    instrument: str
    event_ts: int  # s
    known_at: int  # s
    open_interest: int  # base, qty scale, one-sided
    interval_s: int


class FundingFact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One funding rate; a prediction never replaces a settlement."""

    venue: str
    feed: str
    instrument: str
    event_ts: int  # s, when it is paid
    known_at: int  # s
    rate: int  # for its own interval, * FUNDING_SCALE
    interval_s: int
    settled: bool


class MarkFact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One mark price."""

    venue: str
    feed: str
    instrument: str
    known_at: int  # s
    mark: int  # price scale


class AssetChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An asset's configuration from a UTC minute on."""

    asset: str
    from_ts: int  # s, a whole minute
    config: AssetConfig | None  # None: no longer watched


class Lead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A writer takes an account over; later intents must name this message's sequence."""

    account: str
    holder: str
    previous_seq: int


class Standing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An account at the close of a second, as `risk.Book` needs it. Money in usd_e8."""

    equity_usd_e8: int
    day_open_usd_e8: int
    week_open_usd_e8: int
    peak_usd_e8: int
    gross_usd_e8: int = 0  # notional of all positions at their marks
    holdings: tuple[Holding, ...] = ()
    open_orders: tuple[Pending, ...] = ()
    sent_ts: tuple[int, ...] = ()  # seconds of the last minute's orders
    clusters: tuple[tuple[str, ...], ...] = ()  # assets that move together
    state: TradingState = TradingState.ACTIVE
    kill_switch: bool = False


class Clock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last second whose orders of an account are settled, and how the account stands at its close."""

    account: str
    settled_ts: int
    standing: Standing


class Decided(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All seconds up to `ts` are decided: every intent of them lies before this message in the stream."""

    account: str
    ts: int
    kill_switch: bool = False  # what the decisions since the message before knew of the switches
    state: TradingState = TradingState.ACTIVE


class Sending(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An accepted order goes to its venue now; written before that, under the account's fence."""

    account: str
    order: Order
    lead_seq: int


class Payment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Funding that moved."""

    account: str
    instrument: str
    ts: int  # s, when it was due
    received_usd_e8: int  # negative: we paid


Message = (
    TradeBatch
    | Watermark
    | InterestFact
    | FundingFact
    | MarkFact
    | RowBatch
    | RepairBatch
    | AssetChange
    | Signal
    | Order
    | OrderUpdate
    | Lead
    | Clock
    | Decided
    | Sending
    | Payment
    | Fill
    | Decision
)

# type → (subject's beginning, the fields that end it); each type has exactly one.
SUBJECTS: Mapping[type[Any], tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        TradeBatch: ("md.v1.trade", ("venue", "feed")),
        Watermark: ("md.v1.mark", ("venue", "feed")),
        InterestFact: ("md.v1.interest", ("venue", "feed")),
        FundingFact: ("md.v1.funding", ("venue", "feed")),
        MarkFact: ("md.v1.price", ("venue", "feed")),
        RowBatch: ("flow.v1.rows", ()),
        RepairBatch: ("flow.v1.repair", ()),
        AssetChange: ("flow.v1.config", ("asset",)),
        Signal: ("trade.v1.signal", ("asset",)),
        Order: ("trade.v1.intent", ("account",)),
        Lead: ("trade.v1.lead", ("account",)),
        Decided: ("trade.v1.decided", ("account",)),
        Sending: ("trade.v1.sending", ("account",)),
        Clock: ("trade.v1.clock", ("account",)),
        Payment: ("trade.v1.payment", ("account",)),
        Fill: ("trade.v1.fill", ("account",)),
        Decision: ("audit.v1.decision", ("asset",)),
        OrderUpdate: ("audit.v1.order", ("order_id",)),
    }
)
_TYPES = {prefix: kind for kind, (prefix, _) in SUBJECTS.items()}
_TOKEN = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def subject(message: Message) -> str:
    """Return the one subject a message goes to.

    >>> subject(Decided(account="paper", ts=1))
    'trade.v1.decided.paper'
    """
    prefix, fields = SUBJECTS[type(message)]
    return ".".join((prefix, *(_token(getattr(message, field)) for field in fields)))


def _token(text: str) -> str:
    if _TOKEN.fullmatch(text) is None:
        raise UsageError(f"subject token was {text!r}, allowed are A-Z a-z 0-9 - _: rename it")
    return text


def type_of(name: str) -> type[Any]:
    """Return the type of the messages on a subject."""
    tokens = name.split(".")
    kind = _TYPES.get(".".join(tokens[:3]))
    if kind is None or len(tokens) != 3 + len(SUBJECTS[kind][1]) or not all(map(_TOKEN.fullmatch, tokens)):
        raise ParseError(f"subject was {name!r}, known are {', '.join(sorted(_TYPES))} and their ends")
    return kind


def encode(message: Message) -> bytes:
    """Return a message's bytes; the same value gives the same bytes everywhere."""
    return _packed(message, received=True)


def _packed(message: Message, *, received: bool) -> bytes:
    if isinstance(message, TradeBatch):
        if len(message.instruments) != len(message.trades):
            raise UsageError(
                f"batch held {len(message.instruments)} instruments and {len(message.trades)} blocks: pair them"
            )
        blocks = [_buffers(block if received else _unheard(block)) for block in message.trades]
        fields: tuple[Any, ...] = (message.venue, message.feed, message.border_ns, message.instruments, blocks)
    elif isinstance(message, RowBatch | RepairBatch):
        if list(message.assets) != sorted(set(message.assets)) or len(message.assets) != len(message.rows.ts):
            raise UsageError(f"rows were of {', '.join(message.assets)}, they must be sorted, each asset once")
        fields = (message.ts, message.assets, _buffers(message.rows))
    else:
        fields = msgspec.structs.astuple(message)
    return msgspec.msgpack.encode((SCHEMA, *fields))


def _unheard(block: Trades) -> Trades:
    """Leave out when we heard of the prints: two who saw the same must make the same id."""
    return block._replace(received_ns=np.zeros_like(block.received_ns))


def _buffers(block: Block) -> list[bytes]:
    columns = dtypes(type(block))
    sizes = {len(column) for column in block}
    if len(sizes) != 1:
        raise UsageError(f"columns of a {type(block).__name__} block had lengths {sorted(sizes)}, they must be equal")
    return [
        np.ascontiguousarray(column, dtype.newbyteorder("<")).tobytes()
        for column, dtype in zip(block, columns.values(), strict=True)
    ]


def _block(kind: type[Block], buffers: list[bytes]) -> Block:
    columns = dtypes(kind)
    if len(buffers) != len(columns):
        raise ParseError(f"{kind.__name__} block had {len(buffers)} columns, schema {SCHEMA} has {len(columns)}")
    arrays = []
    for buffer, (name, dtype) in zip(buffers, columns.items(), strict=True):
        if len(buffer) % dtype.itemsize:
            raise ParseError(f"column {name} had {len(buffer)} bytes, expected a multiple of {dtype.itemsize}")
        arrays.append(np.frombuffer(buffer, dtype.newbyteorder("<")).astype(dtype))  # a copy: kernels want writable
    if len({len(array) for array in arrays}) != 1:
        raise ParseError(
            f"columns of a {kind.__name__} block had different lengths: {[len(array) for array in arrays]}"
        )
    return kind(*arrays)


def decode(name: str, data: bytes) -> Message:
    """Read the bytes that came on subject `name`; raises only `ParseError`."""
    kind = type_of(name)
    try:
        values = msgspec.msgpack.decode(data, type=list)
        if not values or values[0] != SCHEMA or isinstance(values[0], bool):
            raise ParseError(f"{name}: schema was {values[:1]}, this version reads {SCHEMA}: update the older side")
        message: Message = _READERS.get(kind, _read_struct)(kind, values[1:])
        belongs = subject(message)
    except (msgspec.MsgspecError, RecursionError, TypeError, ValueError, UsageError) as error:
        if isinstance(error, ParseError):
            raise
        raise ParseError(f"{name}: bytes were not a {kind.__name__} of schema {SCHEMA} ({error})") from error
    if belongs != name:
        raise ParseError(f"message on {name} belongs on {belongs}")
    return message


def _fields(kind: type[Any], values: list[Any], names: tuple[str, ...]) -> dict[str, Any]:
    if len(values) != len(names):
        raise ParseError(f"{kind.__name__} had {len(values)} fields, schema {SCHEMA} has {len(names)}")
    return dict(zip(names, values, strict=True))


def _read_struct(kind: type[Any], values: list[Any]) -> Any:
    fields = _fields(kind, values, kind.__struct_fields__)
    if kind is Watermark:  # an array on the wire wherever it stands
        return msgspec.convert(["Watermark", *values], Watermark)
    return msgspec.convert(fields, kind)


_TRADE_COLUMNS = dtypes(Trades)


class _TradeHead(msgspec.Struct):
    venue: str
    feed: str
    border_ns: int
    instruments: tuple[str, ...]
    trades: list[list[bytes]]


class _RowHead(msgspec.Struct):
    ts: int
    assets: tuple[str, ...]
    rows: list[bytes]


def _read_trades(kind: type[Any], values: list[Any]) -> TradeBatch:
    head = msgspec.convert(_fields(kind, values, TradeBatch._fields), _TradeHead)
    if len(head.instruments) != len(head.trades):
        raise ParseError(f"batch held {len(head.instruments)} instruments and {len(head.trades)} blocks")
    return TradeBatch(head.venue, head.feed, head.border_ns, head.instruments, _trade_blocks(head.trades))


def _trade_blocks(blocks: list[list[bytes]]) -> tuple[Trades, ...]:
    """Read all instruments' columns at once; their blocks are views that lie one after the other in the same arrays."""
    sizes = [dtype.itemsize for dtype in _TRADE_COLUMNS.values()]
    counts = [len(buffers[0]) // sizes[0] if buffers else 0 for buffers in blocks]
    if any(
        [len(buffer) for buffer in buffers] != [count * size for size in sizes]
        for buffers, count in zip(blocks, counts, strict=True)
    ):
        return tuple(_block(Trades, buffers) for buffers in blocks)  # it finds what is wrong and says it
    joined = [
        np.frombuffer(b"".join([buffers[n] for buffers in blocks]), dtype.newbyteorder("<")).astype(dtype)
        for n, dtype in enumerate(_TRADE_COLUMNS.values())
    ]
    made, start = [], 0
    for count in counts:
        made.append(Trades(*[column[start : start + count] for column in joined]))
        start += count
    return tuple(made)


def _read_rows(kind: type[Any], values: list[Any]) -> RowBatch | RepairBatch:
    head = msgspec.convert(_fields(kind, values, kind._fields), _RowHead)
    rows = _block(Rows, head.rows)
    if len(rows.ts) != len(head.assets) or list(head.assets) != sorted(set(head.assets)):
        raise ParseError(f"rows were {len(rows.ts)} for assets {', '.join(head.assets)}: one each, sorted")
    batch: RowBatch | RepairBatch = kind(head.ts, head.assets, rows)
    return batch


_READERS: dict[type[Any], Callable[[type[Any], list[Any]], Any]] = {
    TradeBatch: _read_trades,
    RowBatch: _read_rows,
    RepairBatch: _read_rows,
}


def message_id(message: Message) -> str:
    """Return the id by which the bus drops a second copy: a function of content, never of who sent it or when.

    Trade batches: `venue.feed.border.hash`, the time we heard left out. Orders, their sending and fills: their own id.
    """
    if isinstance(message, Order | Fill):
        return f"{SUBJECTS[type(message)][0].rsplit('.', 1)[1]}.{message.id}"
    if isinstance(message, Sending):  # whoever leads: an order is sent once
        return f"sending.{message.order.id}"
    content = digest(subject(message).encode(), _packed(message, received=False))[:20]
    if isinstance(message, TradeBatch):
        return f"{message.venue}.{message.feed}.{message.border_ns}.{content}"
    return f"{subject(message)}.{content}"


def border_ns(exchange_ns: int) -> int:
    """Return the end of the 250 ms that a print belongs to.

    >>> border_ns(1_000_000_001), border_ns(1_249_999_999)
    (1250000000, 1250000000)
    """
    return (exchange_ns // BORDER_NS + 1) * BORDER_NS
