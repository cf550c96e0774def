"""An exchange for ingest under virtual time: a real simulated market, the venue's own messages and answers, faults at will."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from squeeze_ingest.app import Settings
from squeeze_ingest.fleet import Fleet
from squeeze_ingest.links import Connect, Ear, LinkError
from squeezecore.adapters.asking import Answer, AskError, Fetch, Places
from squeezecore.adapters.bus import Bus
from squeezecore.adapters.loopback_faults import Trouble, parse_faults
from squeezecore.adapters.loopback_rest import Rest
from squeezecore.adapters.loopback_sockets import LIMITS
from squeezecore.adapters.loopback_source import Query, Source
from squeezecore.adapters.membus import MemServer
from squeezecore.adapters.service import Kit
from squeezecore.market import Instrument, TradeFlag, Trades, Watermark, concat
from squeezecore.spec import AssetConfig, MarketConfig, canonical
from squeezecore.venues import Feed as Stream
from squeezecore.venues import venue
from squeezecore.wire import MarkFact, TradeBatch
from support.virtual import VirtualClock, VirtualLoop, run

NS = 1_000_000_000
START_NS = 1_767_268_800 * NS  # 2026-01-01T12:00
STEP_S = 0.05  # how often a connection sends
LATENCY_NS = 5_000_000
HOSTS = {"stream.binance.com": "spot", "fstream.binance.com": "linear", "dstream.binance.com": "inverse"}
SPOT, LINEAR, INVERSE = "binance:BTC-USDT", "binance:BTC-USDT-PERP", "binance:BTC-USD-PERP"


class Faults(msgspec.Struct, kw_only=True):
    """How often something happens: to a message, or to a connection within a second."""

    lost: float = 0.0
    doubled: float = 0.0
    swapped: float = 0.0  # with the message after it
    garbled: float = 0.0  # sent, and half of another message after it
    cut_per_s: float = 0.0
    refused: float = 0.0  # of the tries to connect
    rest_failing: float = 0.0


class Exchange:
    """The venue: its time is the clock's, its market a source's."""

    def __init__(self, source: Source, clock: VirtualClock, faults: Faults | None = None, seed: int = 0) -> None:
        self.source, self.clock = source, clock
        self.faults = faults or Faults()
        self.random = np.random.default_rng(seed)
        self.links: list[VirtualLink] = []  # all that ever were
        self.online = True  # whether anybody can connect, or ask
        self.confirms_s = 0.01  # after that a subscription is confirmed
        self.asked: list[str] = []
        self.answers: list[Answer] = []  # given before any other, one a question
        self._rest = Rest(source, LIMITS, self.now_ns, dict, Trouble(parse_faults("")), lambda *_: None)

    def now_ns(self) -> int:
        """Return up to when it has told."""
        return self.clock.now_ns() - LATENCY_NS

    async def connect(self, url: str, ear: Ear) -> "VirtualLink":
        await asyncio.sleep(0.01)
        if not self.online or self.random.random() < self.faults.refused:
            raise LinkError(f"{url} could not be reached (refused)")
        link = VirtualLink(self, url, ear)
        self.links.append(link)
        return link

    async def fetch(self, url: str) -> Answer:
        await asyncio.sleep(0.02)
        self.asked.append(url)
        if not self.online or self.random.random() < self.faults.rest_failing:
            raise AskError(f"{url} could not be asked (refused)")
        if self.answers:
            return self.answers.pop(0)
        found = self._rest.answer("/" + url.split("/", 3)[3])
        return Answer(found.status, found.body, {name.lower(): value for name, value in found.headers})

    @property
    def open(self) -> "list[VirtualLink]":
        """The connections that are open now."""
        return [link for link in self.links if link.reason is None]

    def truth(self, instrument: Instrument, first_id: int, last_id: int) -> Trades:
        """Return the aggregates `first_id..last_id` as the venue means them."""
        query = Query(until_ns=self.now_ns(), limit=last_id - first_id + 1, from_id=first_id)
        frames = self.source.truth(instrument.section, instrument.native_symbol, True, query)
        assert frames is not None
        known = {instrument.native_symbol: instrument}
        return venue("binance").parse_many(instrument.section, known, frames, [0] * len(frames)).trades[instrument.id]


class VirtualLink:
    """One connection to it."""

    def __init__(self, exchange: Exchange, url: str, ear: Ear) -> None:
        self.exchange, self.url = exchange, url
        self.section = HOSTS[url.split("/")[2].split(":", maxsplit=1)[0]]
        self.streams: list[str] = []
        self.sent: list[tuple[float, bytes]] = []  # what we were told, and when
        self.reason: str | None = None  # why it ended
        self.mute = False  # sends and answers nothing, and is not closed
        self.reading = True
        self._ear = ear
        self._sent_ns = exchange.now_ns()
        self._task = asyncio.get_running_loop().create_task(self._deliver())

    def send(self, message: bytes) -> None:
        self.sent.append((asyncio.get_running_loop().time(), message))
        asked = msgspec.json.decode(message)
        if self.reason is None and not self.mute:
            assert asked["method"] == "SUBSCRIBE"
            self.streams += [name for name in asked["params"] if name not in self.streams]
            answer = msgspec.json.encode({"result": None, "id": asked["id"]})
            asyncio.get_running_loop().call_later(self.exchange.confirms_s, self.say, answer)

    def ping(self) -> None:
        if self.reason is None and not self.mute:
            asyncio.get_running_loop().call_later(0.01, self._pong)

    def _pong(self) -> None:
        if self.reason is None:
            self._ear.alive(pong=True)

    def pause(self) -> None:
        self.reading = False

    def resume(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.end("closed by us")

    def end(self, reason: str) -> None:
        """End it, for whatever reason."""
        if self.reason is None:
            self.reason = reason
            self._task.cancel()
            self._ear.lost(reason)

    def say(self, frame: bytes) -> None:
        """Send a message."""
        if self.reason is None and not self.mute:
            self._ear.frame(frame, self.exchange.clock.now_ns())

    async def _deliver(self) -> None:
        while True:
            await asyncio.sleep(STEP_S)
            if not self.reading:
                continue
            start_ns, self._sent_ns = self._sent_ns, self.exchange.now_ns()
            for frame in self._disturbed(self._frames(start_ns, self._sent_ns)):
                self.say(frame)
            if self.exchange.random.random() < self.exchange.faults.cut_per_s * STEP_S:
                self.end("the connection broke")

    def _frames(self, start_ns: int, end_ns: int) -> list[bytes]:
        found: list[tuple[int, bytes]] = []
        for stream in self.streams:
            for frames in self.exchange.source.frames(self.section, stream, start_ns, end_ns):
                found += zip(frames.at_ns.tolist(), frames.texts(), strict=True)
        return [text for _, text in sorted(found, key=lambda pair: pair[0])]

    def _disturbed(self, frames: list[bytes]) -> Iterable[bytes]:
        faults, random = self.exchange.faults, self.exchange.random
        for at in range(len(frames) - 1):
            if random.random() < faults.swapped:
                frames[at], frames[at + 1] = frames[at + 1], frames[at]
        for frame in frames:
            if random.random() >= faults.lost:
                yield frame
            if random.random() < faults.doubled:
                yield frame
            if random.random() < faults.garbled:
                yield frame[: int(random.integers(1, len(frame)))]


class World:
    """A bus, an exchange and one or more ingests, in one loop of virtual time."""

    def __init__(self, source: Source, clock: VirtualClock, faults: Faults | None, seed: int) -> None:
        self.clock = clock
        self.server = MemServer(clock.now_ns)
        self.exchange = Exchange(source, clock, faults, seed)
        self.bus = self.server.connect()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def watch(self, *names: str) -> None:
        """Say what to watch."""
        await self.bus.put("config", "assets", assets_of(*names))

    def begin(self, instance: str = "0", stream: Stream = Stream.AGGREGATE, exchange: Exchange | None = None) -> Fleet:
        """Start an ingest; `exchange` is how the venue looks from there."""
        seen = exchange or self.exchange
        fleet = fleet_of(self.server.connect(), self.clock, seen.connect, seen.fetch, instance, stream)
        self._tasks[instance] = asyncio.get_running_loop().create_task(fleet.run())
        return fleet

    async def kill(self, instance: str = "0") -> None:
        """End an ingest at once, whatever it was doing; its connections end with it."""
        task = self._tasks.pop(instance)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled(), task

    async def settle(self, condition: Callable[[], bool], within_s: float = 600.0) -> None:
        """Let time pass until a condition holds; raise what ended an ingest."""
        until_s = asyncio.get_running_loop().time() + within_s
        while not condition():
            for task in self._tasks.values():
                if task.done():
                    task.result()
            assert asyncio.get_running_loop().time() < until_s, "it never came"
            await asyncio.sleep(STEP_S)

    async def heard(self) -> "Heard":
        """Read everything that is on the bus."""
        return await heard(self.bus)


def fleet_of(
    bus: Bus, clock: Any, connect: Connect, fetch: Fetch, instance: str, stream: Stream, places: Path | None = None
) -> Fleet:
    """Make an ingest's feeds."""
    kit = Kit("ingest", Settings(instance=instance), bus, None, clock=clock)
    return Fleet(kit, places=Places(places), connect=connect, fetch=fetch, stream=stream, instance=instance)


def assets_of(*names: str) -> bytes:
    """Make the value of the key: one asset of these instruments."""
    markets = tuple(MarketConfig(instrument=name) for name in names)
    return canonical({"BTC": AssetConfig(traded=names[0], markets=markets)})


def in_world(
    source: Source, main: Callable[[World], Awaitable[None]], faults: Faults | None = None, seed: int = 0
) -> None:
    """Run a test in a world of its own."""

    async def begin() -> None:
        await main(World(source, clock, faults, seed))

    loop = VirtualLoop()
    clock = VirtualClock(loop, START_NS)
    run(begin(), loop)


class Heard:
    """What the bus holds: prints by instrument in the stream's order, and what its watermarks promised."""

    def __init__(self, messages: list[Any]) -> None:
        self.batches: list[TradeBatch] = []
        self.marks: list[MarkFact] = []
        self.watermarks: list[Watermark] = []
        self.behind: list[TradeBatch] = []  # batches behind a watermark that says they had been
        self.blocks: dict[str, list[Trades]] = {}
        promised: dict[str, int] = {}
        for message in messages:
            if isinstance(message, TradeBatch):
                self.batches.append(message)
                if message.border_ns <= promised.get(message.feed, 0):
                    self.behind.append(message)
                for instrument, block in zip(message.instruments, message.trades, strict=True):
                    self.blocks.setdefault(instrument, []).append(block)
            elif isinstance(message, Watermark):
                self.watermarks.append(message)
                promised[message.feed] = max(promised.get(message.feed, 0), message.exchange_ns)
            elif isinstance(message, MarkFact):
                self.marks.append(message)

    def trades(self, instrument: str) -> Trades:
        """Return an instrument's prints by id, each as often as it is there."""
        block = concat(self.blocks[instrument])
        order = np.argsort(block.id, kind="stable")
        return Trades(*(column[order] for column in block))

    def assert_whole(self, exchange: Exchange, instrument: Instrument, copies: int = 1) -> int:
        """Assert that every print between the first and the last is there as the venue means it; return how many."""
        found = self.trades(instrument.id)
        ids, counts = np.unique(found.id, return_counts=True)
        assert counts.max() <= copies
        first = np.searchsorted(found.id, ids)
        once = Trades(*(column[first] for column in found))
        truth = exchange.truth(instrument, int(ids[0]), int(ids[-1]))
        np.testing.assert_array_equal(ids, truth.id)
        for name in ("exchange_ns", "price", "qty", "quote_cents", "side"):
            np.testing.assert_array_equal(getattr(once, name), getattr(truth, name), err_msg=name)
        np.testing.assert_array_equal(once.flags & ~np.uint8(TradeFlag.BACKFILL), truth.flags)
        return len(ids)


async def heard(bus: Bus) -> Heard:
    """Read everything that is on the bus."""
    reader = await bus.read("MD", ("md.v1.>",), "test", 0)
    last_seq = (await bus.stream("MD")).last_seq
    messages: list[Any] = []
    seq = 0
    while seq < last_seq:
        for delivery in await reader.pull(1000, 0.5):
            messages.append(delivery.message)
            seq = delivery.seq
    await reader.close()
    return Heard(messages)
