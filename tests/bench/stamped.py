"""A service as it is, that also writes down when it did what. A script, imported by nobody.

    python stamped.py SERVICE FILE

Each line of the file is `what second count begin end`, the last two in ns of the monotonic clock, which all processes of a
machine share. The count of a function that was timed is what it took of a core, ns. cvd gets twenty venues that exist here
only; nothing else is other than in `python -m squeeze_<service>`.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from squeezecore import desk, settling, venues, wire
from squeezecore.adapters import bus, service
from squeezecore.market import Watermark

VENUES = tuple(f"v{n:02}" for n in range(20))
SECONDS = ("ts", "settled_ts", "decided_ts", "event_ts")
now_ns = time.monotonic_ns


class Stamps:
    """The file, and how the functions of a service are made to write to it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def say(self, what: str, second: int, count: int, begin: int, end: int) -> None:
        """Write one line, from any thread."""
        os.write(self._file, f"{what} {second} {count} {begin} {end}\n".encode())

    def time(self, owner: Any, name: str, what: str, second: Callable[[Any, Any], int | None]) -> None:
        """Stamp a function; `second` makes of its owner and its result what it was about, None leaves it out."""
        function = getattr(owner, name)

        def call(self_: Any, *args: Any, **kwargs: Any) -> Any:
            begin, used = now_ns(), time.thread_time_ns()
            result = function(self_, *args, **kwargs)
            used, end = time.thread_time_ns() - used, now_ns()
            about = second(self_, result)
            if about is not None:
                self.say(what, about, used, begin, end)
            return result

        setattr(owner, name, call)

    def time_bus(self) -> None:
        """Stamp what is published to other services, until it is acknowledged, and what is read of them."""
        one, many, decode = bus.JetStream.publish, bus.JetStream.publish_all, wire.decode
        read = (wire.RowBatch, wire.Clock, wire.Decided)

        async def publish(self_: Any, message: Any, **options: Any) -> Any:
            begin = now_ns()
            result = await one(self_, message, **options)
            self.say(f"publish-{type(message).__name__}", about(message), 1, begin, now_ns())
            return result

        async def publish_all(self_: Any, messages: Any) -> Any:
            begin = now_ns()
            result = await many(self_, messages)
            if messages:
                self.say(f"publish-{type(messages[-1]).__name__}", about(messages[-1]), len(messages), begin, now_ns())
            return result

        def decoded(name: str, data: bytes) -> Any:
            begin = now_ns()
            message = decode(name, data)
            if isinstance(message, read):
                self.say(f"read-{type(message).__name__}", about(message), 1, begin, now_ns())
            return message

        bus.JetStream.publish, bus.JetStream.publish_all, wire.decode = publish, publish_all, decoded  # type: ignore[method-assign,assignment]

    def time_cvd(self) -> None:
        """Stamp how a border's burst is drained, and how a second is closed, decided and stored."""
        from squeeze_cvd import flowing, keeping, running

        decode, take = wire.decode, flowing.Flow.take
        marks: dict[tuple[str, int], int] = {}
        burst = {"begin": 0, "work": 0, "over": 1, "prints": 0}

        def decoded(name: str, data: bytes) -> Any:
            begin = now_ns()
            message = decode(name, data)
            if isinstance(message, Watermark):
                marks[message.venue, message.exchange_ns] = begin
            elif isinstance(message, wire.TradeBatch):
                if burst["over"]:
                    burst.update(begin=begin, work=0, over=0, prints=0)
                burst["work"] += now_ns() - begin
                burst["prints"] += sum(len(block.id) for block in message.trades)
            return message

        def taken(self_: Any, message: Any, seq: int) -> None:
            before, begin, used = self_.frontier_s, now_ns(), time.thread_time_ns()
            read = marks.pop((message.venue, message.exchange_ns), begin) if isinstance(message, Watermark) else begin
            take(self_, message, seq)
            if isinstance(message, wire.TradeBatch):
                burst["work"] += now_ns() - begin
            if self_.frontier_s > before >= 0:
                second = self_.frontier_s - 1
                self.say("burst", second, burst["prints"], burst["begin"], read)
                self.say("burst-work", second, burst["prints"], 0, burst["work"])
                self.say("closing", second, time.thread_time_ns() - used, read, now_ns())
            if isinstance(message, Watermark):
                burst["over"] = 1

        wire.decode, flowing.Flow.take = decoded, taken  # type: ignore[method-assign]
        self.time(flowing.Flow, "decide", "decide", lambda flow, _: flow.decided_s - 1)
        put, snapshot = keeping.Keep.put, keeping.Keep.put_snapshot

        def puts(self_: Any, effects: Any) -> None:
            second, begin = effects.rows[-1].ts if effects.rows else 0, now_ns()
            put(self_, effects)
            if second:
                self.say("put", second, len(effects.rows), begin, now_ns())

        def put_snapshots(self_: Any, ts: int, seq: int, body: bytes) -> None:
            begin = now_ns()
            snapshot(self_, ts, seq, body)
            self.say("snapshot", ts - 1, len(body), begin, now_ns())

        keeping.Keep.put, keeping.Keep.put_snapshot = puts, put_snapshots  # type: ignore[method-assign]
        freeze = running.freeze

        def frozen(state: Any) -> bytes:
            begin = now_ns()
            body = freeze(state)
            self.say("freeze", state.decided_s - 1, len(body), begin, now_ns())
            return body

        running.freeze = frozen

    def time_desks(self) -> None:
        """Stamp what strategy and executor do with a second."""
        self.time(desk.Desk, "take", "take", lambda the, _: the.taken_ts)
        self.time(desk.Desk, "decide", "decide", lambda _, said: None if said is None else said.decided_ts)
        self.time(settling.Settling, "settle", "settle", lambda _, second: second.ts)


def about(message: Any) -> int:
    """Return the second that a message is about, 0 if none."""
    for name in SECONDS:
        if hasattr(message, name):
            return int(getattr(message, name))
    return 0


def main(name: str, file: Path) -> None:
    """Run a service."""
    for each in VENUES:
        sys.modules[f"squeezecore.venues.{each}"] = importlib.import_module("squeezecore.venues.binance")
    venues.VENUES = (*venues.VENUES, *VENUES)  # type: ignore[assignment]
    stamps = Stamps(file)
    stamps.time_bus()
    if name == "cvd":
        stamps.time_cvd()
    else:
        stamps.time_desks()
    app = importlib.import_module(f"squeeze_{name}.app")
    service.main(name, app.Settings, app.build)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
