"""Simulated exchanges that speak Binance's WebSocket and REST on this machine: for `squeezeflow up` and for tests.

`python -m squeezecore.adapters.loopback --source sim:7` serves spot, USD-M and COIN-M of a simulated world as long as its
parent lives. In real time the venue's clock is this machine's. With a speed, or at `max`, it has a clock of its own, one for
all connections: at `max` time passes as fast as the slowest subscribed client reads.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import math
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace
from picows import WSUpgradeRequest, WSUpgradeResponse, WSUpgradeResponseWithListener, ws_create_server

from squeezecore.adapters.loopback_faults import (
    CONNECT_FAULTS,
    FOREVER_S,
    KINDS,
    FrameFaults,
    Made,
    Trouble,
    parse_faults,
)
from squeezecore.adapters.loopback_replay import Recorded
from squeezecore.adapters.loopback_rest import Rest, handle
from squeezecore.adapters.loopback_sockets import LIMITS, Connection, Limits, place_of
from squeezecore.adapters.loopback_source import NS, SECTIONS, Query, Source
from squeezecore.adapters.loopback_world import STRETCH_S, Simulated
from squeezecore.errors import SqueezeError, UsageError
from squeezecore.simulator import PROFILES, WorldSpec

HOST = "127.0.0.1"
VENUE = "binance"
MAX = math.inf
_TICK_S = 0.02  # how often frames leave in real time
_STEP_NS = NS  # of the venue's time, sent at once at other speeds
_LATENCY_NS = 10_000_000  # a message is on its way for so long in real time
_AHEAD_NS = 300 * NS  # the next stretch is prepared so long before it begins
_SLEPT_NS = 60 * NS
_PARENT_S = 0.5
_UNREAD_MAX = 10  # seconds of an own clock that a client may be behind
_LOOK_S = 0.5  # how often who is behind is looked at without being told


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an exchange runs."""

    speed: float = 1.0  # MAX: as fast as the slowest client
    start_ns: int | None = None  # of the venue's clock; None: this machine's, or where the source begins
    until_ns: int | None = None  # the clock stops there; connections stay open
    await_streams: int = (
        1  # at other speeds than real time the clock stands until so many are subscribed, at MAX also later
    )
    limits: Mapping[str, Limits] = msgspec.field(default_factory=lambda: dict(LIMITS))
    faults: str = ""  # see loopback_faults.parse_faults
    port: int = 0
    rest_port: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        if not self.speed > 0:
            raise UsageError(f"speed was {self.speed}, it has to be above zero: choose 1 for real time")
        if self.start_ns is not None and self.until_ns is not None and self.until_ns <= self.start_ns:
            raise UsageError("until lies before start: choose a later time")


class Loopback:
    """A running exchange: its connections and its clock."""

    def __init__(self, source: Source, options: Options) -> None:
        self.source, self.options = source, options
        self.trouble = Trouble(parse_faults(options.faults))
        self.connections: set[Connection] = set()
        self.done = asyncio.Event()  # everything up to `until_ns` has been sent
        self.port = self.rest_port = 0
        self._numbers = dict.fromkeys(SECTIONS, 0)
        self._changed = asyncio.Event()
        self._own_clock = options.speed != 1 or options.start_ns is not None or source.start_ns is not None
        start_ns = options.start_ns if options.start_ns is not None else source.start_ns
        self.sent_ns = start_ns if start_ns is not None else time.time_ns() - _LATENCY_NS  # all before it has been sent
        self.began_ns = self.sent_ns
        self._until_ns = min((t for t in (options.until_ns, source.end_ns) if t is not None), default=None)
        self.loops: list[asyncio.Task[None]] = []  # that never end by themselves
        self._began: tuple[float, int] | None = None
        self._frames_before = 0
        self._ready: dict[tuple[str, str], int] = {}  # stream → the stretch up to which it has been prepared
        self._wanted: set[tuple[str, str]] = set()

    @property
    def endpoints(self) -> dict[str, dict[str, dict[str, str]]]:
        """Where each section is, in the form that services read."""
        return {
            VENUE: {
                section: {
                    "websocket": f"ws://{HOST}:{self.port}/{section}",
                    "rest": f"http://{HOST}:{self.rest_port}/{section}",
                }
                for section in SECTIONS
            }
        }

    def now_ns(self) -> int:
        """Return the venue's present: what REST may tell."""
        return self.sent_ns if self._own_clock else time.time_ns() - _LATENCY_NS

    def status(self) -> dict[str, object]:
        """Say how the exchange stands."""
        return {
            "now_ns": self.now_ns(),
            "done": self.done.is_set(),
            "connections": len(self.connections),
            "streams": self.streams(),
            "faults": dict(self.trouble.counts),
            "frames_sent": self._frames_before + sum(one.frames_sent for one in self.connections),
        }

    def streams(self) -> int:
        """Count the streams that all connections have subscribed to."""
        return sum(len(one.streams) for one in self.connections if one.open)

    def truth(
        self, section: str, native: str, aggregate: bool = False, from_id: int | None = None, to_id: int | None = None
    ) -> list[bytes]:
        """Return prints as the stream's messages, whatever was sent: from an id on, or since the clock began, up to now."""
        query = Query(until_ns=self.now_ns(), limit=2**62, from_id=from_id)
        if from_id is None and self.source.start_ns is None:
            query = query._replace(start_ns=self.began_ns)
        elif from_id is None:
            query = query._replace(from_id=0)  # a recording holds what it holds
        elif to_id is not None:
            query = query._replace(limit=to_id - from_id + 1)
        return self.source.truth(section, native, aggregate, query) or []

    # -- connections ---------------------------------------------------------------------------------------------------

    def accept(self, request: WSUpgradeRequest) -> Connection | WSUpgradeResponseWithListener | None:
        """Make the listener of a new client, or the refusal; None: nobody lives there."""
        path = request.path
        place = place_of(path.decode("latin-1") if isinstance(path, bytes) else str(path))
        if place is None:
            return None
        number = self._numbers[place.section]
        self._numbers[place.section] += 1
        kind = self.trouble.faults.draw(CONNECT_FAULTS, place.section, number=number)
        if kind:
            self.trouble.note(Made(kind, place.section, number, -1))
            return WSUpgradeResponseWithListener(
                WSUpgradeResponse.create_error_response(HTTPStatus.SERVICE_UNAVAILABLE, b"a fault on purpose"), None
            )
        faults = FrameFaults(self.trouble, place.section, number)
        return Connection(
            place, self.options.limits[place.section], self.source, faults, number, self._on_change, self._is_ready
        )

    def _on_change(self, connection: Connection) -> None:
        if connection.open:
            self.connections.add(connection)
        elif connection in self.connections:
            self.connections.discard(connection)
            self._frames_before += connection.frames_sent
        self._changed.set()

    # -- time ----------------------------------------------------------------------------------------------------------

    def go_on(self, until_ns: int | None) -> None:
        """Let the clock run to another time than it was told; None: for as long as the source goes on."""
        self._until_ns = self.source.end_ns if until_ns is None else until_ns
        self._changed.set()
        if self._until_ns is None or self.sent_ns < self._until_ns:
            self.done.clear()

    async def run(self) -> None:
        """Let time pass and send what it brings, for ever; `done` says that it stands at its end."""
        if self._own_clock:
            await self._enough()
        while True:
            if self._until_ns is not None and self.sent_ns >= self._until_ns:
                self.done.set()
                self._began = None
                await self._change()
                continue
            if self._own_clock:
                self._skip()
            if self.options.speed == MAX:
                await self._enough()
                target = self.sent_ns + _STEP_NS
            else:
                await asyncio.sleep(_TICK_S)
                target = self._target()
            await self._advance(target if self._until_ns is None else min(target, self._until_ns))

    def _skip(self) -> None:
        """Pass over a stretch of which the source knows nothing."""
        resumes_ns = self.source.resumes_ns(self.sent_ns)
        if resumes_ns > self.sent_ns:
            self.sent_ns = resumes_ns if self._until_ns is None else min(resumes_ns, self._until_ns)
            self._began = None

    def _target(self) -> int:
        """Return the time up to which a clock that runs evenly has come."""
        if not self._own_clock:
            return time.time_ns() - _LATENCY_NS
        if self._began is None:
            self._began = (time.monotonic(), self.sent_ns)
        began_s, began_ns = self._began
        return began_ns + int((time.monotonic() - began_s) * self.options.speed * NS)

    async def _advance(self, target_ns: int) -> None:
        """Send everything up to a time, a step at once; at other speeds than real time wait for whoever is slow."""
        if not self._own_clock and target_ns - self.sent_ns > _SLEPT_NS:
            self.sent_ns = target_ns  # this machine slept, or its clock jumped: no connection outlives that
            for connection in list(self.connections):
                connection.abort()
        while self.sent_ns < target_ns:
            start_ns, self.sent_ns = self.sent_ns, min(target_ns, self.sent_ns + _STEP_NS)
            for connection in sorted(self.connections, key=lambda one: (one.section, one.number)):
                connection.deliver(start_ns, self.sent_ns)
            await asyncio.sleep(0)
            if self._own_clock:
                for connection in list(self.connections):
                    await connection.writable.wait()
                await self._pace(start_ns)

    async def _pace(self, start_ns: int) -> None:
        """With each second of an own clock ask the clients how far they are, and wait for those that are behind.

        Buffers hold minutes of a market in a hurry: without this sections would drift apart, and REST tell what nobody has read.
        """
        if self.sent_ns // NS == start_ns // NS:
            return
        for connection in list(self.connections):
            connection.pace()
        while any(connection.is_behind(_UNREAD_MAX) for connection in self.connections):
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._changed.wait()

    async def _enough(self) -> None:
        """Wait until as many streams are subscribed as were announced."""
        while self.streams() < self.options.await_streams:
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # -- what takes long -----------------------------------------------------------------------------------------------

    def _is_ready(self, section: str, stream: str) -> bool:
        """Whether a stream can be told at once; an own clock waits instead, so that nothing depends on speed."""
        if self._own_clock or (section, stream) in self._ready:
            return True
        self._wanted.add((section, stream))
        return False

    def start(self) -> None:
        """Start the loops that live as long as the exchange."""
        self.loops = [asyncio.create_task(self.run())]
        if not self._own_clock:
            self.loops.append(asyncio.create_task(self.prepare()))

    def check(self) -> None:
        """Raise what ended a loop that should never end; it must not go unseen."""
        for loop in self.loops:
            if loop.done():
                loop.result()

    async def prepare(self) -> None:
        """Keep subscribed streams prepared in real time, in another thread: nobody waits while a day is counted."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as thread:
            while True:
                await asyncio.sleep(_TICK_S)
                soon_ns = time.time_ns() + _AHEAD_NS
                stretch = soon_ns // (STRETCH_S * NS)
                for section, stream in [*self._wanted, *(one for one, made in self._ready.items() if made < stretch)]:
                    for at_ns in (time.time_ns(), soon_ns):
                        await loop.run_in_executor(thread, self.source.prepare, section, stream, at_ns)
                    self._ready[section, stream] = stretch
                    self._wanted.discard((section, stream))
                    for connection in list(self.connections):
                        connection.acknowledge()


@asynccontextmanager
async def serve(source: Source | str, options: Options | None = None) -> AsyncIterator[Loopback]:
    """Serve a source on loopback ports within the running event loop.

    Raises:
        UsageError: the source or an option cannot be.
    """
    options = options or Options()
    exchange = Loopback(source_of(source) if isinstance(source, str) else source, options)
    rest = Rest(
        exchange.source, rest_limits(options), exchange.now_ns, exchange.status, exchange.trouble, exchange.go_on
    )
    sockets = await ws_create_server(
        exchange.accept, HOST, options.port, enable_auto_pong=False, websocket_handshake_timeout=5
    )
    http: asyncio.Server | None = None
    tasks: set[asyncio.Task[None]] = set()

    def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(handle(rest, reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    try:
        http = await asyncio.start_server(answer, HOST, options.rest_port)
        exchange.port = sockets.sockets[0].getsockname()[1]
        exchange.rest_port = http.sockets[0].getsockname()[1]
        exchange.start()
        tasks.update(exchange.loops)
        yield exchange
        exchange.check()
    finally:
        for server in (sockets, http):
            if server is not None:
                server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in list(exchange.connections):
            connection.abort()
        await asyncio.sleep(0)  # so that they hear of it


def rest_limits(options: Options) -> Mapping[str, Limits]:
    """Return what REST allows: in a minute of the venue's clock as much as in a real one, at `MAX` whatever is asked."""
    if options.speed == 1:
        return options.limits
    return {
        section: replace(
            limits, weight_per_minute=0 if options.speed == MAX else round(limits.weight_per_minute * options.speed)
        )
        for section, limits in options.limits.items()
    }


def source_of(text: str, assets: tuple[str, ...] = tuple(PROFILES), kind: str = "squeeze", clones: int = 0) -> Source:
    """Read `sim:SEED` or `replay:DIR`."""
    what, colon, rest = text.partition(":")
    if what == "sim" and colon:
        if not rest.isdecimal() or int(rest) > 2**63 - 1:
            raise UsageError(f"source was {text!r}, a seed is a number from 0: write sim:7")
        try:
            world = msgspec.convert({"seed": int(rest), "assets": assets, "kind": kind}, WorldSpec)
        except msgspec.ValidationError as error:
            raise UsageError(f"world: {error}") from error
        return Simulated(world, clones)
    if what == "replay" and rest:
        return Recorded(Path(rest))
    raise UsageError(f"source was {text!r}, expected sim:SEED or replay:DIR")


def write_endpoints(path: Path, exchange: Loopback) -> None:
    """Write where the sections are, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(exchange.endpoints, indent=2) + "\n")
    temporary.replace(path)


# -- the command -------------------------------------------------------------------------------------------------------

_ABOUT = """Simulated exchanges on 127.0.0.1 that speak Binance's WebSocket and REST.

sources
  sim:SEED     a simulated market, the same for everybody with that seed; in real time unless --start or --speed is given
  replay:DIR   recorded frames, as they came

examples
  python -m squeezecore.adapters.loopback --source sim:7 --endpoints run/endpoints.json
  python -m squeezecore.adapters.loopback --source sim:7 --start 2026-01-01T12:00 --until 2026-01-01T13:00 --speed max
"""


_FAULTS = "faults: name=chance[:amount], each frame or REST answer meets it with that chance\n" + "\n".join(
    f"  {name:<13}{kind.meaning}{f' ({kind.amount:g})' if 0 < kind.amount < FOREVER_S else ''}"
    for name, kind in KINDS.items()
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UsageError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m squeezecore.adapters.loopback",
        description=_ABOUT,
        epilog=_FAULTS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--source", required=True, help="sim:SEED or replay:DIR")
    add("--endpoints", type=Path, metavar="FILE", help="write where the sections are to this file once it listens")
    add("--port", type=int, default=0, help="of the WebSockets; 0 takes a free one")
    add("--rest-port", type=int, default=0, help="of REST; 0 takes a free one")
    add("--speed", default="1", help="1 is real time, 60 a minute a second, max as fast as the slowest client reads")
    add(
        "--start",
        metavar="ISO",
        help="where the exchange's own clock begins, UTC; without it the clock is this machine's",
    )
    add("--until", metavar="ISO", help="where the clock stops; connections stay open")
    add("--await-streams", type=int, default=1, metavar="N", help="the own clock stands until N streams are subscribed")
    add("--faults", default="", metavar="SPEC", help="such as seed=3,disconnect=0.001,delay=0.01:250; see below")
    add("--assets", default=",".join(PROFILES), help="of a simulated market (default: %(default)s)")
    add("--world", default="squeeze", help="squeeze or noise")
    add("--symbols", type=int, default=0, metavar="N", help="add N copies of BTC under other names, for load tests")
    return parser


class _Asked(NamedTuple):
    source: Source
    options: Options
    endpoints: Path | None


def _asked(words: list[str]) -> _Asked:
    """Read the command line."""
    given = _parser().parse_args(words)
    try:
        speed = MAX if given.speed == "max" else float(given.speed)
    except ValueError as error:
        raise UsageError(f"speed was {given.speed!r}, expected a number or max") from error
    assets = tuple(name.strip().upper() for name in given.assets.split(",") if name.strip())
    source = source_of(given.source, assets, given.world, given.symbols)
    options = Options(
        speed=speed,
        start_ns=_time_ns("start", given.start),
        until_ns=_time_ns("until", given.until),
        await_streams=given.await_streams,
        faults=given.faults,
        port=given.port,
        rest_port=given.rest_port,
    )
    if speed != 1 and options.start_ns is None and source.start_ns is None:
        raise UsageError(f"speed was {given.speed}, which needs a time to begin at: add --start 2026-01-01T00:00")
    return _Asked(source, options, given.endpoints)


def _time_ns(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        when = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{name} was {text!r}, expected a time such as 2026-01-01T12:00") from error
    if when.tzinfo is None:
        when = when.replace(tzinfo=dt.UTC)
    return int((when - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)).total_seconds()) * NS


async def _main(asked: _Asked) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    parent = os.getppid()
    async with serve(asked.source, asked.options) as exchange:
        if asked.endpoints is not None:
            write_endpoints(asked.endpoints, exchange)
        sys.stdout.write(json.dumps(exchange.endpoints) + "\n")
        sys.stdout.flush()
        while not stop.is_set() and os.getppid() == parent:
            exchange.check()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _PARENT_S)


def main(words: list[str] | None = None) -> int:
    """Serve until told to stop; return the exit code."""
    try:
        asyncio.run(_main(_asked(sys.argv[1:] if words is None else words)))
    except (SqueezeError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code if isinstance(error, SqueezeError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
