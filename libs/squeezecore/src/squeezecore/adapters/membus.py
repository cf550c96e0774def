"""The bus without a server: the same behaviour in memory, for simulations in virtual time.

It reads no clock of its own and starts no thread; time is the event loop's. `tests/contract/test_bus.py` holds it to what
JetStream does. Bytes are made and read as on the real bus, so nobody shares a value by accident.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from squeezecore import wire
from squeezecore.adapters import bus
from squeezecore.adapters.bus import Ack, BusError, Delivery, Limits, Reader, StreamInfo
from squeezecore.errors import ParseError

_S_NS = 1_000_000_000


class _Stored(NamedTuple):
    seq: int
    subject: str
    data: bytes
    published_ns: int


@lru_cache(maxsize=256)
def _pattern(subjects: tuple[str, ...]) -> re.Pattern[str]:
    """Compile subject filters: `*` is one token, `>` all that follow."""
    parts = (re.escape(each).replace(r"\*", "[^.]+").replace(">", ".+") for each in subjects)
    return re.compile("|".join(parts) or ".+")


class _Stream:
    """One stream: what it holds, which ids it knows, who waits for more."""

    def __init__(self, created: str, limits: Limits) -> None:
        self.created = created
        self.limits = limits
        self.held: list[_Stored] = []  # the first `gone` of them are dropped
        self.gone = 0
        self.last_seq = 0
        self.bytes = 0
        self.newest: dict[str, int] = {}  # subject → seq
        self.ids: dict[str, tuple[int, int]] = {}  # message id → seq and time, oldest first
        self.readers: dict[str, object] = {}  # durable name → the reader that has it
        self.waiting: set[asyncio.Event] = set()

    @property
    def first_seq(self) -> int:
        return self.last_seq - len(self) + 1

    def __len__(self) -> int:
        return len(self.held) - self.gone

    def add(self, subject: str, data: bytes, message_id: str, now_ns: int) -> Ack:
        """Store a message unless its id is known."""
        self.drop(now_ns)
        known = self.ids.get(message_id)
        if known is not None:
            return Ack(known[0], duplicate=True)
        self.last_seq += 1
        self.held.append(_Stored(self.last_seq, subject, data, now_ns))
        self.newest[subject] = self.last_seq
        self.ids[message_id] = (self.last_seq, now_ns)
        self.bytes += len(data)
        self.drop(now_ns)
        for each in self.waiting:
            each.set()
        return Ack(self.last_seq, duplicate=False)

    def drop(self, now_ns: int) -> None:
        """Forget ids after the window, and messages beyond the limits."""
        while self.ids and now_ns - next(iter(self.ids.values()))[1] >= bus.DUPLICATES_S * _S_NS:
            del self.ids[next(iter(self.ids))]
        age_ns = self.limits.age_s * _S_NS
        while len(self) and (
            (age_ns and now_ns - self.held[self.gone].published_ns >= age_ns)
            or (self.limits.bytes and self.bytes > self.limits.bytes)
        ):
            oldest = self.held[self.gone]
            self.gone += 1
            self.bytes -= len(oldest.data)
            if self.newest[oldest.subject] == oldest.seq:
                del self.newest[oldest.subject]
        if self.gone > max(1000, len(self)):
            del self.held[: self.gone]
            self.gone = 0

    def at(self, seq: int) -> _Stored:
        return self.held[self.gone + seq - self.first_seq]


class MemServer:
    """What a NATS server is to the services of one event loop; `connect` gives each its own `Bus`.

    >>> async def demo() -> int:
    ...     server = MemServer()
    ...     return await server.connect().take_lead("paper", "me")
    >>> asyncio.run(demo())
    1
    """

    def __init__(self, now_ns: Callable[[], int] | None = None, limits: Mapping[str, Limits] = bus.LIMITS) -> None:
        """Make a server with empty streams.

        Args:
            now_ns: the time of day, as `Clock.now_ns`; without it, the loop's time.
            limits: what the streams keep.
        """
        self._now_ns = now_ns
        self._limits = limits
        self._made = 0
        self.streams: dict[str, _Stream] = {}
        for name in wire.STREAMS:
            self.make_anew(name)
        self.buckets: dict[str, dict[str, tuple[bytes, int]]] = {name: {} for name in bus.BUCKETS}
        self.revisions = dict.fromkeys(bus.BUCKETS, 0)
        self.watching: set[asyncio.Event] = set()
        self.up = asyncio.Event()
        self.up.set()

    def now_ns(self) -> int:
        """Return the time of day."""
        if self._now_ns is not None:
            return self._now_ns()
        return round(asyncio.get_running_loop().time() * _S_NS)

    def connect(self) -> MemBus:
        """Return a new connection."""
        return MemBus(self)

    def stop(self) -> None:
        """Answer nobody until `start`; nothing that was acknowledged is lost."""
        self.up.clear()

    def start(self) -> None:
        """Answer again."""
        self.up.set()

    def make_anew(self, stream: str) -> None:
        """Delete a stream with all it holds and make it again, as an operator might."""
        self._made += 1
        waiting = self.streams[stream].waiting if stream in self.streams else set()
        self.streams[stream] = _Stream(f"memory-{self._made}", self._limits[stream])
        for each in waiting:
            each.set()


class MemBus:
    """A `Bus` on a `MemServer`."""

    def __init__(self, server: MemServer) -> None:
        self._server = server
        self._closed = asyncio.Event()

    async def _reach(self, wait_s: float | None) -> None:
        """Wait until the server answers; each call lets others run first."""
        await asyncio.sleep(0)
        if not self._server.up.is_set() and not self._closed.is_set():
            waits = [asyncio.ensure_future(each.wait()) for each in (self._server.up, self._closed)]
            try:
                await asyncio.wait(waits, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waits:
                    each.cancel()
        if self._closed.is_set():
            raise BusError("connection to the bus in memory was closed by this process")
        if not self._server.up.is_set():
            raise BusError("bus in memory did not answer: it was stopped")

    async def publish(self, message: wire.Message, *, lead_seq: int | None = None) -> Ack:
        """Publish a message and wait until its stream holds it."""
        subject, data = self._checked(message)
        fence = None if lead_seq is None else bus.fence_subject(message)
        await self._reach(None)
        stream = self._server.streams[bus.stream_of(subject)]
        if fence is not None and lead_seq is not None and stream.newest.get(fence, 0) != lead_seq:
            raise bus.fenced(fence, lead_seq, f"the newest is {stream.newest.get(fence, 0)}")
        return stream.add(subject, data, wire.message_id(message), self._server.now_ns())

    async def publish_all(self, messages: Sequence[wire.Message]) -> list[Ack]:
        """Publish messages in their order."""
        for message in messages:
            self._checked(message)
        return [await self.publish(message) for message in messages]

    @staticmethod
    def _checked(message: wire.Message) -> tuple[str, bytes]:
        subject, data = wire.subject(message), wire.encode(message)
        bus.check_size(f"{type(message).__name__} for {subject}", data)
        return subject, data

    async def take_lead(self, account: str, holder: str) -> int:
        """Take over an account's writing."""
        subject = wire.subject(wire.Lead(account=account, holder=holder, previous_seq=0))
        await self._reach(None)
        stream = self._server.streams["TRADE"]
        lead = wire.Lead(account=account, holder=holder, previous_seq=stream.newest.get(subject, 0))
        unique = f"{subject}.{stream.last_seq + 1}"  # two takeovers of one holder are two
        return stream.add(subject, wire.encode(lead), unique, self._server.now_ns()).seq

    async def read(
        self, stream: str, subjects: tuple[str, ...], name: str, after_seq: int, *, created: str | None = None
    ) -> Reader:
        """Read a stream from the message after `after_seq` on."""
        bus.check_stream(stream)
        await self._reach(bus.CALL_S_MAX)
        found = self._server.streams[stream]
        if created is not None and created != found.created:
            raise bus.made_anew(stream, found.created, created)
        if found.last_seq < after_seq:
            raise bus.ends_before(stream, found.last_seq, after_seq)
        return _Reader(self, self._server, stream, subjects, name, after_seq)

    async def last(self, subject: str) -> Delivery | None:
        """Return the newest message of a subject."""
        await self._reach(bus.CALL_S_MAX)
        stream = self._server.streams[bus.stream_of(subject)]
        stream.drop(self._server.now_ns())
        seq = stream.newest.get(subject)
        if seq is None:
            return None
        stored = stream.at(seq)
        return Delivery(wire.decode(subject, stored.data), subject, seq, stored.published_ns)

    async def stream(self, stream: str) -> StreamInfo:
        """Say what a stream holds."""
        bus.check_stream(stream)
        await self._reach(bus.CALL_S_MAX)
        found = self._server.streams[stream]
        found.drop(self._server.now_ns())
        first_seq = found.first_seq if found.last_seq else 0
        return StreamInfo(first_seq, found.last_seq, found.created, len(found), found.bytes)

    async def get(self, bucket: str, key: str) -> tuple[bytes, int] | None:
        """Return a key's value and revision."""
        bus.check_key(bucket, key)
        await self._reach(bus.CALL_S_MAX)
        return self._server.buckets[bucket].get(key)

    async def put(self, bucket: str, key: str, value: bytes, revision: int | None = None) -> int:
        """Set a key, return its new revision."""
        bus.check_key(bucket, key)
        bus.check_size(f"value of {key} in {bucket}", value)
        await self._reach(bus.CALL_S_MAX)
        _, present = self._server.buckets[bucket].get(key, (b"", 0))
        if revision is not None and revision != present:
            raise bus.stale_key(bucket, key, revision)
        self._server.revisions[bucket] += 1
        self._server.buckets[bucket][key] = (bytes(value), self._server.revisions[bucket])
        for each in self._server.watching:
            each.set()
        return self._server.revisions[bucket]

    async def watch(self, bucket: str, key: str) -> AsyncIterator[tuple[bytes, int]]:
        """Yield a key's present value, then each newer one."""
        bus.check_key(bucket, key)
        changed = asyncio.Event()
        self._server.watching.add(changed)
        try:
            seen = 0
            while True:
                changed.clear()
                await self._reach(None)
                found = self._server.buckets[bucket].get(key)
                if found is not None and found[1] > seen:
                    seen = found[1]
                    yield found
                    continue
                await changed.wait()
        finally:
            self._server.watching.discard(changed)

    async def keys(self, bucket: str) -> list[str]:
        """Return a bucket's keys, sorted."""
        bus.check_key(bucket, "any")
        await self._reach(bus.CALL_S_MAX)
        return sorted(self._server.buckets[bucket])

    async def ping(self) -> None:
        """Return if the bus answers."""
        await self._reach(bus.ANSWER_S_MAX)

    async def close(self) -> None:
        """Let go of the connection."""
        self._closed.set()
        for stream in self._server.streams.values():
            for each in stream.waiting:
                each.set()
        for each in self._server.watching:
            each.set()


class _Reader:
    """A `Reader` on a stream in memory."""

    def __init__(
        self, connection: MemBus, server: MemServer, stream: str, subjects: tuple[str, ...], name: str, after_seq: int
    ) -> None:
        self._connection, self._server = connection, server
        self._stream, self._name = stream, name
        self._pattern = _pattern(subjects)
        self._seq = after_seq
        self._created = server.streams[stream].created
        self._arrived = asyncio.Event()
        self._bad: Exception | None = None
        server.streams[stream].readers[name] = self

    async def pull(self, count: int = 500, wait_s: float = 1.0) -> list[Delivery]:
        """Return the next messages in the stream's order."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            if self._bad is not None:
                raise self._bad
            self._arrived.clear()
            stream = self._server.streams[self._stream]
            stream.waiting.add(self._arrived)
            try:
                taken = await self._take(stream, count, deadline)
                if taken or loop.time() >= deadline:
                    return taken
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(deadline):
                        await self._arrived.wait()
            finally:
                stream.waiting.discard(self._arrived)

    async def _take(self, stream: _Stream, count: int, deadline: float) -> list[Delivery]:
        try:
            await self._connection._reach(max(0.0, deadline - asyncio.get_running_loop().time()))  # noqa: SLF001 - one module
        except BusError as error:
            if self._connection._closed.is_set():  # noqa: SLF001 - one module
                self._bad = error
                raise
            return []
        self._check(stream)
        stream.drop(self._server.now_ns())
        taken: list[Delivery] = []
        for seq in range(max(self._seq + 1, stream.first_seq), stream.last_seq + 1):
            if len(taken) == count:
                break
            stored = stream.at(seq)
            if self._pattern.fullmatch(stored.subject):
                try:
                    message = wire.decode(stored.subject, stored.data)
                except ParseError as error:
                    self._bad = ParseError(f"message {seq} of {self._stream}: {error}")
                    if taken:
                        break
                    raise self._bad from error
                taken.append(Delivery(message, stored.subject, seq, stored.published_ns))
            self._seq = seq
        return taken

    def _check(self, stream: _Stream) -> None:
        """Refuse to go on in another stream, or beside another reader of the name."""
        error = None
        if stream.created != self._created:
            error = bus.made_anew(self._stream, stream.created, self._created)
        elif stream.readers.get(self._name) is not self:
            error = bus.taken_over(self._stream, self._name)
        if error is not None:
            self._bad = error
            raise error

    async def ack(self, seq: int) -> None:
        """Say that everything up to `seq` has had its effect; nobody here asks."""

    async def lag(self) -> int:
        """Count the messages that are in the stream and not yet pulled."""
        await self._connection._reach(bus.CALL_S_MAX)  # noqa: SLF001 - one module
        stream = self._server.streams[self._stream]
        places = range(max(self._seq + 1, stream.first_seq), stream.last_seq + 1)
        return sum(self._pattern.fullmatch(stream.at(seq).subject) is not None for seq in places)

    async def close(self) -> None:
        """Stop reading."""
        self._bad = self._bad or BusError(f"reader {self._name} of {self._stream} was closed by this process")
