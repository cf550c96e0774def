"""Server-sent events: one producer and what it said lately, however many viewers; whoever reads too slowly is let go.

An event's id is the second it belongs to. A second's own event has the second as its id; what happened between it and the
next has `second.n`. A viewer that comes back with the id of its last event (`Last-Event-ID`) gets what came after it, from
memory here or, where that begins too late, from whoever asks the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

from fastapi import Response
from starlette.types import Receive, Scope, Send

from squeezecore.errors import UsageError

RING_S = 1200  # what is kept in memory of each channel
QUEUE_MAX = 120  # events that wait for a viewer; more, and it is let go
HEARTBEAT_S = 15.0
DRAIN_S_MAX = 10.0  # a viewer that was let go may still take what is on its way
HEARTBEAT = b": heartbeat\n\n"
END_S_MAX = 0.5  # to end a stream when the service ends
CHUNK = 100  # events of a backlog that are written at once
RETRY_MS = 1000  # after which a browser comes back
ID = re.compile(r"(\d{1,10})(?:\.(\d{1,6}))?", re.ASCII)

Key = tuple[int, int]  # a second, and the number of the event within it
NOTHING_SEEN: Key = (-1, 0)


class Event(NamedTuple):
    """An event as it goes over the wire; encoded once for all viewers."""

    key: Key
    data: bytes


def encode(name: str, body: bytes, key: Key | None) -> bytes:
    r"""Write an event.

    >>> encode("row", b"{}", (60, 0)), encode("fill", b"{}", (60, 2)), encode("schema", b"{}", None)
    (b'id: 60\nevent: row\ndata: {}\n\n', b'id: 60.2\nevent: fill\ndata: {}\n\n', b'event: schema\ndata: {}\n\n')
    """
    number = "" if key is None else f"id: {key[0]}\n" if not key[1] else f"id: {key[0]}.{key[1]}\n"
    return f"{number}event: {name}\ndata: ".encode() + body + b"\n\n"


def read_id(text: str | None) -> Key | None:
    """Read the id of the last event that a viewer has seen; None where it has seen none."""
    if text is None or not text.strip():
        return None
    found = ID.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"Last-Event-ID was {text[:40]!r}, it is the id of an event of this stream: leave it out to begin"
        )
    return int(found[1]), int(found[2] or 0)


class Counts:
    """What all channels of a service did together."""

    def __init__(self) -> None:
        self.viewers = 0
        self.dropped = 0
        self.sent = 0
        self.resumed = 0


class Viewer:
    """One open connection: what waits for it."""

    def __init__(self, after: Key) -> None:
        self.after = after  # the last event it has, or that is on its way
        self.waiting: deque[Event] = deque()
        self.stirred = asyncio.Event()
        self.dropped = asyncio.Event()

    def drop(self) -> None:
        """Let the viewer go."""
        self.waiting.clear()
        self.dropped.set()
        self.stirred.set()

    def offer(self, event: Event) -> bool:
        """Put an event into the queue; False when it is full, and the viewer is let go."""
        if len(self.waiting) >= QUEUE_MAX:
            self.drop()
            return False
        self.waiting.append(event)
        self.stirred.set()
        return True


class Channel:
    """One stream of events."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._ring: deque[Event] = deque()
        self._viewers: set[Viewer] = set()
        self._number = 0  # of the newest event since its second's own
        self.last_ts = -1  # the newest second
        self.begun = asyncio.Event()
        self.begun_ts = 0  # the first second that is told here

    @property
    def first_ts(self) -> int:
        """Return the first second that is in memory; one after the newest where there is none."""
        return self._ring[0].key[0] if self._ring else self.last_ts + 1

    @property
    def newest(self) -> Event | None:
        """Return the newest second's own event."""
        return next((event for event in reversed(self._ring) if not event.key[1]), None)

    def begin(self, ts: int) -> None:
        """Start after second `ts`: what lies before is in the store. Who watches comes back and is told from there."""
        self._ring.clear()
        self.last_ts, self._number = ts, 0
        if self.begun.is_set():
            for viewer in self._viewers:
                viewer.drop()
            self._viewers.clear()
        self.begun_ts = ts + 1
        self.begun.set()

    def say(self, name: str, body: bytes, ts: int | None = None) -> None:
        """Publish an event: of second `ts`, newer than all before; without it, of what came after the newest second."""
        if ts is None:
            self._number += 1
        else:
            assert ts > self.last_ts, (ts, self.last_ts)
            self.last_ts, self._number = ts, 0
        key = (self.last_ts, self._number)
        event = Event(key, encode(name, body, key))
        self._ring.append(event)
        while self._is_old(self._ring[0].key):
            self._ring.popleft()
        for viewer in [viewer for viewer in self._viewers if not viewer.offer(event)]:
            self._viewers.discard(viewer)
            self._counts.dropped += 1

    def _is_old(self, key: Key) -> bool:
        """Say whether an event at the ring's beginning is to be forgotten; what happened goes with its second."""
        return key[0] <= self.last_ts - RING_S or (key[1] > 0 and key[0] < self.last_ts)

    def join(self, after: Key | None) -> tuple[Viewer, list[Event]]:
        """Add a viewer; return it with the events in memory that it lacks: all after `after`, or the newest second's."""
        if after is None:
            newest = self.newest
            after = NOTHING_SEEN if newest is None else (newest.key[0], -1)
        ring = list(self._ring)
        backlog = ring[bisect_right(ring, after, key=lambda event: event.key) :]
        viewer = Viewer(after)
        self._viewers.add(viewer)
        return viewer, backlog

    def leave(self, viewer: Viewer) -> None:
        """Forget a viewer."""
        self._viewers.discard(viewer)


History = Callable[[Key, int], AsyncIterator[bytes]]  # what came after an id, up to a second (exclusive)


class EventStream(Response):
    """The answer that goes on until its reader leaves or is too slow."""

    media_type = "text/event-stream"

    def __init__(
        self, channel: Channel, counts: Counts, *, after: Key | None, greeting: bytes, history: History
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self.headers["content-type"] = "text/event-stream"
        del self.headers["content-length"]
        self._channel, self._counts = channel, counts
        self._after, self._greeting, self._history = after, greeting, history

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until there is nobody to read them."""
        del scope
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        first_ts = self._channel.first_ts if self._channel.begun.is_set() else -1
        viewer, backlog = self._channel.join(self._after)
        self._counts.viewers += 1
        try:
            await self._watch(viewer, first_ts, backlog, receive, send)
        except (
            asyncio.CancelledError
        ):  # the service ends: a stream that ends in good order lets its reader come back at once
            with contextlib.suppress(Exception):
                async with asyncio.timeout(END_S_MAX):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._channel.leave(viewer)
            self._counts.viewers -= 1

    async def _watch(self, viewer: Viewer, first_ts: int, backlog: list[Event], receive: Receive, send: Send) -> None:
        """Send, until it is done, or nobody reads, or too slowly."""
        sending = asyncio.create_task(self._send_all(viewer, first_ts, backlog, send))
        leaving = asyncio.create_task(_gone(receive))
        dropped = asyncio.create_task(viewer.dropped.wait())
        tasks = {sending, leaving, dropped}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if viewer.dropped.is_set():  # what is under way may still arrive; then it ends in good order
                await asyncio.wait({sending, leaving}, timeout=DRAIN_S_MAX, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _send_all(self, viewer: Viewer, first_ts: int, backlog: list[Event], send: Send) -> None:
        async def write(data: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        await write(f"retry: {RETRY_MS}\n\n".encode() + self._greeting)
        while not self._channel.begun.is_set():
            if not await _within(self._channel.begun):
                await write(HEARTBEAT)
        if first_ts < 0:  # it joined before the beginning, so all from there on waits for it
            first_ts = self._channel.begun_ts
        if self._after is not None:
            self._counts.resumed += 1
            if self._after[0] < first_ts:
                async for piece in self._history(self._after, first_ts):
                    await write(piece)
        for start in range(0, len(backlog), CHUNK):
            await self._write(viewer, backlog[start : start + CHUNK], write)
        while not viewer.dropped.is_set():
            viewer.stirred.clear()
            events = list(viewer.waiting)
            viewer.waiting.clear()
            if events:
                await self._write(viewer, events, write)
            elif not await _within(viewer.stirred):
                await write(HEARTBEAT)
        await write(b"", more=False)

    async def _write(self, viewer: Viewer, events: list[Event], write: Callable[[bytes], Awaitable[None]]) -> None:
        fresh = [event for event in events if event.key > viewer.after]
        if not fresh:
            return
        viewer.after = fresh[-1].key
        await write(b"".join([event.data for event in fresh]))
        self._counts.sent += len(fresh)


async def _within(event: asyncio.Event) -> bool:
    """Wait for an event as long as a reader may hear nothing; say whether it came."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HEARTBEAT_S):
            await event.wait()
            return True
    return False


async def _gone(receive: Receive) -> None:
    """Return when the reader has left."""
    with contextlib.suppress(Exception):
        while (await receive())["type"] != "http.disconnect":
            pass
