"""A feed: one section of one venue, from its sockets to acknowledged batches and watermarks.

The order is the promise: what was heard is parsed, judged by id, batched, published and acknowledged, and only then does a
watermark say so. It is held back while a hole may still be closed, and goes on without it after `HOLD_S_MAX`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from squeeze_ingest.backfill import PARALLEL, TRIES_MAX, Mender
from squeeze_ingest.batching import Batcher, Hole, Tape
from squeeze_ingest.lines import ANSWER_S_MAX, PING_S, TICK_S, Line
from squeeze_ingest.links import Connect
from squeeze_ingest.promises import GRACE_NS
from squeeze_ingest.rest import Desk
from squeezecore.adapters.bus import Bus, BusError, Delivery
from squeezecore.adapters.clock import Clock
from squeezecore.errors import ParseError, SqueezeError
from squeezecore.market import Instrument, Kind, MarkPrice, TradeFlag, Trades, Watermark
from squeezecore.venues import Contiguity, Parsed, Unknown, Venue
from squeezecore.venues import Feed as Stream
from squeezecore.wire import BORDER_NS, MarkFact, Message, TradeBatch, subject

HOLD_S_MAX = 10.0  # a watermark waits so long for a hole to close
OTHERS_NS = 6_000_000_000  # a watermark of another ingest this near to ours says that it lives
SEAL_BORDERS = 64  # sealed and published together
WAITING_MAX = 400_000  # prints taken and not yet acknowledged; beyond it nothing more is read
PONG_S_MAX = 2.0  # a ping's answer waits so long for what came before it to be published
TAIL_MESSAGES = 20_000  # of the stream, read at the start to know what was published
TAIL_TRIES = 5
TOLD_S_MAX = 3.0  # the venue's own word on its time counts for so long
RATE_S = 10.0  # messages a second are counted over this
SAMPLES_MAX = 20  # kinds of unknown frames that are remembered
SAMPLE_CHARS = 200
HOLES_SHOWN = 50
SECOND_NS = 1_000_000_000
FOR_EVER_NS = 1 << 62
_SINGLE = np.uint8(TradeFlag.SINGLE)


@dataclass(frozen=True)
class Ports:
    """What a feed touches the world with."""

    bus: Bus
    clock: Clock
    connect: Connect
    place: Callable[[str], str]  # a venue's WebSocket address → where it is today
    desk: Desk
    random: np.random.Generator
    log: Any
    record: Callable[[str, str, bytes, int], None] | None = None  # venue, section, frame, received_ns


class Feed:
    """One section of one venue."""

    def __init__(self, venue: Venue, section: str, stream: Stream, ports: Ports, instance: str = "0") -> None:
        self.venue = venue
        self.section = venue.SECTIONS[section]
        self.stream = stream
        self.instruments: dict[str, Instrument] = {}  # by native symbol
        self.paused = False
        self.batcher = Batcher()
        self.lines: list[Line] = []
        self.marked_ns = 0  # of the last watermark
        self.alive = True
        self.connections = 0  # since the feed's first start, as its watermarks count
        self.published = 0  # prints acknowledged
        self.copies = 0  # messages that the bus held already, from another ingest or an earlier life
        self.frames = 0
        self.refused = 0  # frames that were not what the venue documents
        self.refused_sample = ""
        self.unknown: Counter[str] = Counter()
        self.errors = 0
        self.last_error = ""
        self.last_frame_ns = 0
        self.newest_ns = 0
        self.restored = False
        self._ports = ports
        self._loop = asyncio.get_running_loop()  # its clock is read from other threads, too
        self._instance = instance
        self._contiguity = self.section.contiguity.get(stream, Contiguity.NONE)
        self._mender = Mender(self, ports.desk, ports.clock)
        self._line_of: dict[str, Line] = {}  # by native symbol; the line with its prints
        self._tasks: asyncio.TaskGroup | None = None
        self._due = asyncio.Event()
        self._facts: list[Message] = []
        self._marked: dict[str, int] = {}  # instrument → known_at of its last mark price
        self._flying = 0
        self._answers: deque[tuple[int, float, Callable[[], None]]] = deque()  # once so many are published, or then
        self._held_since_s: float | None = None
        self._told_skew: tuple[int, float] | None = None  # (by the venue's REST side, when), monotonic
        self._kept_skew_ns: int | None = None  # of the last connection, or as the last watermark shows
        self._known: dict[str, Tape] = {}  # what was published before we began
        self._rates: deque[tuple[float, int]] = deque()

    @property
    def name(self) -> str:
        """`venue/section`."""
        return f"{self.venue.NAME}/{self.section.name}"

    # -- what is watched -----------------------------------------------------------------------------------------------

    def watch(self, instruments: Iterable[Instrument]) -> None:
        """Watch these instruments and no others; what is new is subscribed, what is gone is left out."""
        wanted = {each.native_symbol: each for each in instruments}
        for native in [native for native in self.instruments if native not in wanted]:
            gone = self.instruments.pop(native)
            self.batcher.forget(gone.id)
            self._line_of.pop(native, None)
            for line in self.lines:
                if native in line.wanted:
                    line.wanted = line.wanted - {native}
                    line.poke()
        for native, instrument in wanted.items():
            if native not in self.instruments:
                self.instruments[native] = instrument
                known = self._known.pop(instrument.id) if instrument.id in self._known else None
                self.batcher.watch(known or Tape(instrument.id, self._contiguity))
                self._assign(native, instrument)

    def _assign(self, native: str, instrument: Instrument) -> None:
        """Put an instrument's streams on lines, new ones where all are full."""
        streams = [self.stream]
        if instrument.kind is Kind.PERP and Stream.MARK in self.section.websocket:
            streams.append(Stream.MARK)
        by_url: dict[str, list[Stream]] = {}
        for stream in streams:
            by_url.setdefault(self.section.websocket[stream], []).append(stream)
        for url, wanted in by_url.items():
            key = (url, tuple(wanted))
            line = next((line for line in self.lines if (line.url, line.streams) == key and line.room > 0), None)
            if line is None:
                line = Line(
                    self,
                    url,
                    tuple(wanted),
                    connect=self._ports.connect,
                    place=self._ports.place,
                    random=self._ports.random,
                    trades=self.stream in wanted,
                    records=self._ports.record is not None,
                )
                self.lines.append(line)
                if self._tasks is not None:
                    self._tasks.create_task(line.run())
            line.wanted = line.wanted | {native}
            line.poke()
            if line.trades:
                self._line_of[native] = line

    def pause(self, *, on: bool) -> None:
        """Close the connections until further notice, or go on."""
        self.paused = on
        for line in self.lines:
            line.poke()

    # -- what the lines say --------------------------------------------------------------------------------------------

    def heard(self, line: Line, parsed: Parsed, frames: int, newest_ns: int) -> None:
        """Take what some frames said."""
        del line
        self.frames += frames
        self.last_frame_ns = self._ports.clock.now_ns()
        self.newest_ns = max(self.newest_ns, newest_ns)
        for event in parsed.others:
            if isinstance(event, MarkPrice):
                self._take_mark(event)
            elif isinstance(event, Unknown):
                what = event.what if event.what in self.unknown or len(self.unknown) < SAMPLES_MAX else "others"
                self.unknown[what] += 1
        if parsed.refused:
            self.refused += len(parsed.refused)
            self.refused_sample = str(parsed.refused[-1])[:SAMPLE_CHARS]
        if parsed.trades:
            self.take(parsed.trades)

    def take(self, blocks: Mapping[str, Trades]) -> None:
        """Take prints, from a socket or from REST."""
        if self.stream is Stream.TRADE:
            blocks = {name: block._replace(flags=block.flags | _SINGLE) for name, block in blocks.items()}
        self.batcher.take(blocks, self._loop.time())
        if self.batcher.closed:
            self._due.set()
        if self._unacknowledged > WAITING_MAX:
            self._read(on=False)

    @property
    def backfilled(self) -> int:
        """How many prints came over REST."""
        return self._mender.filled

    @property
    def _unacknowledged(self) -> int:
        return self.batcher.waiting + self._flying

    def when_published(self, answer: Callable[[], None]) -> None:
        """Call once what was heard so far is published, after `PONG_S_MAX` in any case."""
        self._answers.append((self.batcher.taken, self._loop.time() + PONG_S_MAX, answer))
        self._answer()

    def _answer(self) -> None:
        """Give the answers that are due; a quiet market's last prints wait in an open batch, and hold nothing up."""
        done, now_s = self.batcher.taken - self._unacknowledged, self._loop.time()
        while self._answers and (self._answers[0][0] <= done or self._answers[0][1] <= now_s):
            self._answers.popleft()[2]()

    def _read(self, *, on: bool) -> None:
        for line in self.lines:
            line.read(on=on)

    def _take_mark(self, event: MarkPrice) -> None:
        """Keep the first mark price of each second; it is known from the next second on."""
        known_at = event.exchange_ns // SECOND_NS + 1
        if event.mark > 0 and known_at > self._marked.get(event.instrument, 0):
            self._marked[event.instrument] = known_at
            venue, feed = self.venue.NAME, self.section.name
            self._facts.append(
                MarkFact(venue=venue, feed=feed, instrument=event.instrument, known_at=known_at, mark=event.mark)
            )

    def raw(self, frame: bytes, received_ns: int) -> None:
        """Record a frame as it came."""
        if self._ports.record is not None:
            self._ports.record(self.venue.NAME, self.section.name, frame, received_ns)

    def opened(self, line: Line) -> None:
        """Learn that a line is up."""
        del line
        self.last_error = ""

    def lost(self, line: Line) -> None:
        """Doubt everything that the line brought: something may be missed until it is back."""
        self.keep_skew(line.skew_ns)
        if line.trades:
            for native in line.wanted:
                instrument = self.instruments.get(native)
                if instrument is not None:
                    self.batcher.tapes[instrument.id].doubt()

    def failed(self, line: Line, reason: str) -> None:
        """Count a failure; a new reason is logged, one that repeats is not."""
        del line
        self.errors += 1
        if reason != self.last_error:
            self.last_error = reason
            self._ports.log.warning("feed", feed=self.name, reason=reason)

    def up_since_s(self, native: str) -> float | None:
        """Return since when the line with an instrument's prints is up."""
        line = self._line_of.get(native)
        return None if line is None else line.up_s

    # -- the loop ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until cancelled."""
        await self._restore()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for line in self.lines:
                tasks.create_task(line.run())
            tasks.create_task(self._publish())
            tasks.create_task(self._ask_time())
            for _ in range(PARALLEL):
                tasks.create_task(self._mender.run())
            while True:
                self._count_rate()
                self._answer()
                self._due.set()
                await asyncio.sleep(TICK_S)

    async def _publish(self) -> None:
        bus, venue, feed = self._ports.bus, self.venue.NAME, self.section.name
        while True:
            await self._due.wait()
            self._due.clear()
            mark = self._next_watermark()
            if mark is not None:
                self.batcher.close(mark.exchange_ns)
            elif not all(line.reading for line in self.lines):
                self.batcher.close(FOR_EVER_NS)  # nothing newer comes that would close it: reading waits for this
            left = self.batcher.closed
            facts, self._facts = self._facts, []
            while left > 0 or facts:
                batches = self.batcher.seal(venue, feed, min(left, SEAL_BORDERS))
                self._flying = sum(len(block.id) for batch in batches for block in batch.trades)
                acks = await bus.publish_all([*facts, *batches])
                self.copies += sum(ack.duplicate for ack in acks)
                self.published += self._flying
                self._flying = 0
                self._answer()
                left -= SEAL_BORDERS
                facts = []
                if self._unacknowledged < WAITING_MAX // 2:
                    self._read(on=True)
            if mark is not None and (mark.alive or not await self._others_live(mark)):
                await bus.publish(mark)
                self.marked_ns, self.alive = mark.exchange_ns, mark.alive

    async def _others_live(self, mark: Watermark) -> bool:
        """Say whether another ingest still hears the venue, so that our being cut off is nobody's loss."""
        last = await self._ports.bus.last(subject(mark))
        if last is None or not isinstance(last.message, Watermark) or not last.message.alive:
            return False
        self.alive = False
        return last.message.exchange_ns >= mark.exchange_ns - OTHERS_NS

    async def _ask_time(self) -> None:
        """Ask the venue for its time while a line is silent: by that alone we know how far silence reaches."""
        while True:
            await asyncio.sleep(PING_S)
            if not any(line.trades and line.silent for line in self.lines):
                continue
            try:
                body = await self._ports.desk.ask("server_time")
                told_ns = self.venue.server_time(body)
            except (SqueezeError, ParseError):
                continue  # then the skew that we know has to do
            now_s = self._loop.time()
            self._told_skew = (round(now_s * 1e9) - told_ns, now_s)

    # -- watermarks ----------------------------------------------------------------------------------------------------

    def keep_skew(self, skew_ns: int | None) -> None:
        """Remember by how much the venue's clock was behind ours."""
        if skew_ns is not None:
            self._kept_skew_ns = skew_ns

    @property
    def skew_ns(self) -> int | None:
        """How far the monotonic clock is ahead of the venue's: the least of the lines', else the last known."""
        known = [line.skew_ns for line in self.lines if line.skew_ns is not None]
        return min(known) if known else self._kept_skew_ns

    def _next_watermark(self) -> Watermark | None:
        """Say how far everything is published, once what is closed is; None where that is nothing new."""
        now_s = self._loop.time()
        lines = [line for line in self.lines if line.trades and line.wanted]
        if not all(line.reading for line in lines):
            return None  # what has come lies unread
        living = [line for line in lines if now_s - line.heard_s <= ANSWER_S_MAX]
        skew_ns = self.skew_ns
        told = self._told_skew
        asked_ns = told[0] if told is not None and now_s - told[1] <= TOLD_S_MAX else None
        promises = [line.promise_ns(skew_ns, asked_ns) for line in living]
        if not lines or any(promise is None for promise in promises) or any(line.asking for line in living):
            return None
        if promises:
            target = min(promise for promise in promises if promise is not None)
        elif skew_ns is not None:
            target = round(now_s * 1e9) - skew_ns - GRACE_NS
        else:
            return None
        behind_ns = max((skew for skew in (skew_ns, asked_ns) if skew is not None), default=None)
        begun_s = max((line.begun_s for line in living), default=0.0)
        if living and (behind_ns is None or target < round(begun_s * 1e9) - behind_ns):
            return None  # from before the venue confirmed that it would tell
        alive = len(living) == len(lines)
        target = self._held_back(target, now_s, doubts=alive) // BORDER_NS * BORDER_NS
        if target <= self.marked_ns:
            return None
        return Watermark(
            venue=self.venue.NAME,
            feed=self.section.name,
            connection=self.connections + sum(line.connections for line in self.lines),
            exchange_ns=target,
            alive=alive,
        )

    def _held_back(self, target: int, now_s: float, *, doubts: bool) -> int:
        """Return how far the watermark may go: not past a hole that may still be closed, for `HOLD_S_MAX`.

        Doubts count as holes, but not while the feed is dead: what it closes then is incomplete anyway.
        """
        holes = [hole for hole in self.batcher.holes() if not hole.passed]
        doubted = [tape for tape in self.batcher.tapes.values() if doubts and not tape.proven and not tape.waived]
        limits = [hole.before_ns for hole in holes] + ([self.marked_ns] if doubted else [])
        if not limits or min(limits) >= target:
            self._held_since_s = None
            return target
        if self._held_since_s is None:
            self._held_since_s = now_s
        if now_s - self._held_since_s < HOLD_S_MAX:
            return min(limits)
        self._held_since_s = None
        for hole in holes:
            hole.passed = True
        for tape in doubted:
            tape.waived = True
        return target

    # -- the start -----------------------------------------------------------------------------------------------------

    async def _restore(self) -> None:
        """Learn from the stream what was published before: the watermark, and each instrument's ids."""
        bus = self._ports.bus
        example = Watermark(venue=self.venue.NAME, feed=self.section.name, connection=0, exchange_ns=0, alive=True)
        mark = await bus.last(subject(example))
        if mark is not None and isinstance(mark.message, Watermark):
            self.marked_ns, self.connections = mark.message.exchange_ns, mark.message.connection
            ago_ns = self._ports.clock.now_ns() - mark.published_ns
            at_ns = round(self._loop.time() * 1e9) - ago_ns
            self.keep_skew(at_ns - (mark.message.exchange_ns + GRACE_NS))
        trades = subject(TradeBatch(self.venue.NAME, self.section.name, 0, (), ()))
        newest = await bus.last(trades)
        if newest is not None:
            for number in range(1, TAIL_TRIES + 1):
                try:
                    self._known = await self._read_tail(trades, newest)
                    break
                except BusError:  # another process of ours reads it under the same name at this moment
                    if number == TAIL_TRIES:
                        raise
                    await asyncio.sleep(self._ports.random.uniform(0.1, 1.0))
        for instrument, tape in self.batcher.tapes.items():
            known = self._known.pop(instrument, None)
            if known is not None and tape.high_id < 0:
                self.batcher.watch(known)
        self.restored = True

    async def _read_tail(self, name: str, newest: Delivery) -> dict[str, Tape]:
        """Read the stream's last batches of this feed; what they lack is a hole, what came since is in doubt."""
        tapes: dict[str, Tape] = {}
        begin = max(0, newest.seq - TAIL_MESSAGES)
        now_s = self._loop.time()
        reader = await self._ports.bus.read("MD", (name,), f"ingest-{self._instance}-{self.section.name}", begin)
        try:
            seq = begin
            while seq < newest.seq:
                for delivery in await reader.pull():
                    seq = delivery.seq
                    batch = delivery.message
                    if isinstance(batch, TradeBatch):
                        for instrument, block in zip(batch.instruments, batch.trades, strict=True):
                            if bool(block.flags[0] & _SINGLE) != (self.stream is Stream.TRADE):
                                tapes.pop(instrument, None)  # another setting's: these ids say nothing of ours
                                continue
                            tapes.setdefault(instrument, Tape(instrument, self._contiguity)).admit(block, now_s)
            await reader.ack(seq)
        finally:
            await reader.close()
        for tape in tapes.values():
            tape.doubt()
            for hole in tape.holes:
                hole.passed = hole.before_ns < self.marked_ns
        return tapes

    # -- how it goes ---------------------------------------------------------------------------------------------------

    def holes(self) -> list[Hole]:
        """Return what is missing now."""
        return self.batcher.holes()

    def _count_rate(self) -> None:
        now_s = self._loop.time()
        self._rates.append((now_s, self.frames))
        while len(self._rates) > 1 and now_s - self._rates[0][0] > RATE_S:
            self._rates.popleft()

    @property
    def frames_per_s(self) -> float:
        """How many frames came a second of late."""
        if len(self._rates) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._rates[0], self._rates[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0

    @property
    def state(self) -> str:
        """PAUSED, STARTING, CONNECTING, DOWN or RUNNING."""
        if self.paused:
            return "PAUSED"
        if not self.restored:
            return "STARTING"
        if all(line.up_s is not None for line in self.lines if line.wanted):
            return "RUNNING"
        now_s = self._loop.time()
        silent_s = max((now_s - line.heard_s for line in self.lines if line.wanted), default=0.0)
        return "DOWN" if silent_s > ANSWER_S_MAX else "CONNECTING"

    @property
    def wall_skew_ns(self) -> int | None:
        """How far the machine's clock is ahead of the venue's, delay included; None before the first event."""
        skew_ns = self.skew_ns
        if skew_ns is None:
            return None
        return skew_ns + self._ports.clock.now_ns() - round(self._loop.time() * 1e9)

    @property
    def lag_s(self) -> float | None:
        """How far the last watermark is behind the venue's clock; None before the first."""
        skew_ns = self.skew_ns
        if skew_ns is None or not self.marked_ns:
            return None
        return max(0.0, (round(self._loop.time() * 1e9) - skew_ns - self.marked_ns) / SECOND_NS)

    def describe(self) -> dict[str, Any]:
        """Say how it goes; counts since this process's start, ages in seconds."""
        now_ns, now_s = self._ports.clock.now_ns(), self._loop.time()
        skew_ns, holes = self.wall_skew_ns, self.holes()
        return {
            "venue": self.venue.NAME,
            "section": self.section.name,
            "stream": self.stream.value,
            "state": self.state,
            "alive": self.alive,
            "instruments": sorted(instrument.id for instrument in self.instruments.values()),
            "connections": [line.describe() for line in self.lines if line.wanted],
            "connects": sum(line.connections for line in self.lines),
            "lag_s": self.lag_s,
            "watermark_ns": self.marked_ns,
            "skew_s": None if skew_ns is None else skew_ns / SECOND_NS,
            "last_message_age_s": (now_ns - self.last_frame_ns) / SECOND_NS if self.last_frame_ns else None,
            "messages": self.frames,
            "messages_per_s": round(self.frames_per_s, 1),
            "trades": self.batcher.taken,
            "trades_published": self.published,
            "trades_doubled": self.batcher.doubled,
            "messages_held_already": self.copies,
            "trades_backfilled": self._mender.filled,
            "parse_errors": self.refused,
            "parse_error_sample": self.refused_sample,
            "unknown": dict(self.unknown),
            "holes": [
                {
                    "instrument": hole.instrument,
                    "first_id": hole.first_id,
                    "last_id": hole.last_id,
                    "age_s": round(now_s - hole.found_s, 1),
                    "tries": hole.tries,
                    "given_up": hole.tries >= TRIES_MAX,
                }
                for hole in holes[:HOLES_SHOWN]
            ],
            "holes_open": len(holes),
            "trades_missing": sum(hole.last_id - hole.first_id + 1 for hole in holes),
            "unproven": sorted(tape.instrument for tape in self.batcher.tapes.values() if not tape.proven),
            "errors": self.errors,
            "last_error": self.last_error or self._mender.last_error,
        }
