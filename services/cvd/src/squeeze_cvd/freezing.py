"""The whole state of the flow as bytes, and back; thawed, it goes on as if nothing had been."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from squeeze_cvd.flowing import Asset, Facts, Feed, Flow, Remake, Tear
from squeezecore import abreast as many
from squeezecore import flow
from squeezecore.errors import ParseError
from squeezecore.market import Bars, Gap, Instrument, Trades, dtypes
from squeezecore.spec import AssetConfig
from squeezecore.venues import Feed as Stream
from squeezecore.wire import AssetChange

FORMAT = 1


class FrozenFeed(NamedTuple):
    """A feed; arrays as raw little-endian columns."""

    place: tuple[str, str]
    names: list[str]
    ends: bytes
    pending: list[bytes]
    pending_at: bytes
    holes: list[bytes]
    holes_at: bytes
    closed: list[tuple[bytes, list[bytes]]]
    connections: list[int]
    numbers: tuple[int, int, bool, int]  # closed_s, mark_ns, alive, doubt_s
    tears: dict[str, list[Tear]]


class FrozenFacts(NamedTuple):
    """What is known of an instrument."""

    interest: list[tuple[int, int, int]]
    funding: list[tuple[int, int, int]]
    marks: list[tuple[int, int, int]]
    newest: tuple[int, int, int]


class FrozenRemake(NamedTuple):
    """A remake that waits."""

    start_s: int
    end_s: int
    late: list[bytes]
    proved: list[tuple[int, int]]
    rows_only: bool
    gaps: list[Gap]


class Frozen(msgspec.Struct, frozen=True, array_like=True):
    """All of it."""

    form: int
    stream: str
    seq: int
    seconds: tuple[int, int, int, int]  # first, decided, frontier, rolled
    instruments: list[Instrument]
    assets: dict[str, AssetConfig]
    schedule: list[AssetChange]
    changes: list[AssetChange]
    feeds: list[FrozenFeed]
    rows: dict[str, tuple[bytes, bytes, list[int]]]
    facts: dict[str, FrozenFacts]
    remakes: dict[str, FrozenRemake]
    counts: dict[str, int]


def freeze(state: Flow) -> bytes:
    """Return the state as bytes; prints that wait are given to the kernel first."""
    state.settle()
    return msgspec.msgpack.encode(
        Frozen(
            FORMAT,
            state.stream.value,
            state.seq,
            (state.first_s, state.decided_s, state.frontier_s, state.rolled_s),
            list(state.instruments.values()),
            {name: asset.config for name, asset in state.assets.items()},
            state.schedule,
            state.changes,
            [_freeze_feed(feed) for feed in state.feeds.values()],
            {
                name: (_raw(one.spot_close), _raw(one.spot_close_s), list(one[2:]))
                for name, one in state.row_states().items()
            },
            {name: _freeze_facts(book) for name, book in state.facts.items()},
            {name: _freeze_remake(remake) for name, remake in state.remakes.items()},
            state.counts,
        )
    )


def thaw(data: bytes) -> Flow:
    """Read a state.

    Raises:
        ParseError: the bytes are of another format.
    """
    try:
        frozen = msgspec.msgpack.decode(data, type=Frozen)
        if frozen.form != FORMAT:
            raise ParseError(f"snapshot was of format {frozen.form}, this version reads {FORMAT}")
        state = Flow(Stream(frozen.stream))
        state.seq = frozen.seq
        state.first_s, state.decided_s, state.frontier_s, state.rolled_s = frozen.seconds
        state.instruments = {instrument.id: instrument for instrument in frozen.instruments}
        state.schedule, state.changes, state.counts = frozen.schedule, frozen.changes, frozen.counts
        for name, config in sorted(frozen.assets.items()):
            state.assets[name] = Asset(config, flow.row_params(config, state.instruments))
        state.feeds = {one.place: _thaw_feed(state, one) for one in frozen.feeds}
        state.facts = {name: _thaw_facts(book) for name, book in frozen.facts.items()}
        state.remakes = {name: _thaw_remake(remake) for name, remake in frozen.remakes.items()}
        state.set_rows(
            {name: flow.RowState(_ints(a), _ints(b), *numbers) for name, (a, b, numbers) in frozen.rows.items()}
        )
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        if isinstance(error, ParseError):
            raise
        raise ParseError(f"snapshot was not a state of format {FORMAT} ({error})") from error
    return state


def _freeze_feed(feed: Feed) -> FrozenFeed:
    state = feed.state
    return FrozenFeed(
        feed.place,
        list(feed.names),
        _raw(state.ends),
        _columns(state.pending),
        _raw(state.pending_at),
        _columns(state.holes),
        _raw(state.holes_at),
        [(_raw(slots), _columns(bars)) for slots, bars in feed.closed],
        feed.connections,
        (feed.closed_s, feed.mark_ns, feed.alive, feed.doubt_s),
        feed.tears,
    )


def _thaw_feed(state: Flow, frozen: FrozenFeed) -> Feed:
    feed = Feed(frozen.place, [state.params_of(name) for name in frozen.names])
    feed.state = many.Abreast(
        _ints(frozen.ends).reshape(len(frozen.names), -1),
        _block(Trades, frozen.pending),
        _ints(frozen.pending_at),
        _block(flow.Holes, frozen.holes),
        _ints(frozen.holes_at),
    )
    feed.closed = [(_ints(slots), _block(Bars, columns)) for slots, columns in frozen.closed]
    feed.connections = frozen.connections
    feed.closed_s, feed.mark_ns, feed.alive, feed.doubt_s = frozen.numbers
    feed.tears = frozen.tears
    return feed


def _freeze_facts(book: Facts) -> FrozenFacts:
    newest = (book.interest_event, book.funding_event, book.mark_known)
    return FrozenFacts(book.interest, book.funding, book.marks, newest)


def _thaw_facts(frozen: FrozenFacts) -> Facts:
    book = Facts()
    book.interest, book.funding, book.marks = frozen.interest, frozen.funding, frozen.marks
    book.interest_event, book.funding_event, book.mark_known = frozen.newest
    return book


def _freeze_remake(remake: Remake) -> FrozenRemake:
    return FrozenRemake(
        remake.start_s, remake.end_s, _columns(remake.late), list(remake.proved), remake.rows_only, list(remake.gaps)
    )


def _thaw_remake(frozen: FrozenRemake) -> Remake:
    late = _block(Trades, frozen.late)
    return Remake(frozen.start_s, frozen.end_s, late, tuple(frozen.proved), frozen.rows_only, tuple(frozen.gaps))


def _raw(column: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(column, column.dtype.newbyteorder("<")).tobytes()


def _ints(data: bytes) -> NDArray[np.int64]:
    return np.frombuffer(data, "<i8").astype(np.int64)


def _columns(block: Any) -> list[bytes]:
    return [_raw(column) for column in block]


def _block(kind: Any, columns: list[bytes]) -> Any:
    named = zip(columns, dtypes(kind).values(), strict=True)
    return kind(*(np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype) for data, dtype in named))
