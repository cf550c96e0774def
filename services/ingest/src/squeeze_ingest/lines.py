"""A line: some instruments' streams at one address, kept up over one connection after another.

A connection is replaced before the venue ends its life, the new one subscribed before the old one closes. One that says
nothing is asked for a sign of life each second; one that does not answer is given up. Between two tries the pause grows,
and is never the same twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from squeeze_ingest.links import Connect, Link, LinkError
from squeeze_ingest.promises import GRACE_NS, Skew, promise_ns
from squeezecore.adapters.asking import AskError
from squeezecore.market import Instrument
from squeezecore.venues import Control, Parsed, Section, Venue
from squeezecore.venues import Feed as Stream

GATHER_S = 0.02  # frames of so long are parsed together, which is several times cheaper
GATHER_MAX = 2_000  # or so many
TICK_S = 0.25
PING_S = 1.0  # of silence, then we ask
ANSWER_S_MAX = 10.0  # without a sign of life: the connection is dead
ACK_S_MAX = 10.0  # for a subscription to be confirmed
SUBSCRIBE_MAX = 100  # instruments of one message
PAUSE_S, PAUSE_S_MAX = 0.25, 30.0  # between two tries
STABLE_S = 5.0  # a connection that lived so long starts the pauses anew
LIFE_SHARE, LIFE_JITTER = 0.9, 0.05  # of the venue's limit, then we replace it; so much sooner, not all at once
RENEW_S = 30.0  # after a replacement that failed


class Host(Protocol):
    """Whose line it is."""

    venue: Venue
    section: Section
    instruments: dict[str, Instrument]  # by native symbol
    paused: bool

    def heard(self, line: Line, parsed: Parsed, frames: int, newest_ns: int) -> None:
        """Take what some frames said."""

    def raw(self, frame: bytes, received_ns: int) -> None:
        """Take a frame as it came."""

    def when_published(self, answer: Callable[[], None]) -> None:
        """Call once what was heard so far is published, soon in any case."""

    def opened(self, line: Line) -> None:
        """Learn that a connection is open and everything is subscribed."""

    def lost(self, line: Line) -> None:
        """Learn that prints of the line's instruments may be missed from now on."""

    def failed(self, line: Line, reason: str) -> None:
        """Learn why a connection could not be opened, or ended."""


class _Ear:
    """Hears one connection: gathers its frames, parses them together, remembers its signs of life."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._loop = asyncio.get_running_loop()
        self._frames: list[bytes] = []
        self._received: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self.natives: set[str] = set()  # subscribed
        self.reason = ""  # why it ended
        self.acks: dict[int, asyncio.Future[None]] = {}
        self.began_s = self.heard_s = self._loop.time()
        self.asked_s: float | None = None  # when we asked for a sign of life that has not come
        self.newest_ns = 0  # of the venue's times
        self.asked_ns: int | None = None  # when we asked for the sign of life that came last, monotonic
        self._unsure: tuple[int, int] | None = None  # (when we heard of it, monotonic; the venue's time)
        self.event_s = 0.0  # when the venue last told a time
        self.skew = Skew()  # of the monotonic clock: nobody can set it

    def frame(self, frame: bytes, received_ns: int) -> None:
        """Take a message."""
        self._frames.append(frame)
        self._received.append(received_ns)
        if self._timer is None:
            self._timer = self._loop.call_later(GATHER_S, self.read)
        elif len(self._frames) >= GATHER_MAX:
            self.read()

    def read(self) -> None:
        """Parse what was gathered."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        frames, self._frames = self._frames, []
        received, self._received = self._received, []
        if not frames:
            return
        host = self._line.host
        if self._line.records:
            for frame, received_ns in zip(frames, received, strict=True):
                host.raw(frame, received_ns)
        parsed = host.venue.parse_many(host.section.name, host.instruments, frames, received)
        newest_ns = 0
        for block in parsed.trades.values():
            newest_ns = max(newest_ns, int(block.exchange_ns[-1]))
        for event in parsed.others:
            if isinstance(event, Control):
                self._answered(event)
            else:
                newest_ns = max(newest_ns, getattr(event, "exchange_ns", 0))
        self.heard_s = self._loop.time()
        if newest_ns > 0:
            self._believe(newest_ns)
        host.heard(self._line, parsed, len(frames), newest_ns)

    def _believe(self, newest_ns: int) -> None:
        """Take the newest time of some frames, if the venue's clock can have come so far.

        Where that is not known, or it has come further, once the next frames do not belie it: a single mad time moves nothing.
        """
        now_ns, skew_ns = round(self.heard_s * 1e9), self.skew.ns
        doubted = [] if self._unsure is None or self._unsure[1] > newest_ns + GRACE_NS else [self._unsure]
        if skew_ns is not None and newest_ns <= now_ns - skew_ns + GRACE_NS:
            doubted.append((now_ns, newest_ns))
            self._unsure = None
        else:
            self._unsure = (now_ns, newest_ns)
        for heard_ns, told_ns in doubted:
            self.skew.observe(heard_ns - told_ns, heard_ns / 1e9)
            self.newest_ns = max(self.newest_ns, told_ns)
        self.event_s = self.heard_s

    def _answered(self, answer: Control) -> None:
        waiting = self.acks.pop(answer.request_id, None)
        if waiting is None or waiting.done():
            if not answer.ok:
                self._line.host.failed(self._line, f"the venue says: {answer.detail or 'an error without words'}")
        elif answer.ok:
            waiting.set_result(None)
        else:
            waiting.set_exception(LinkError(f"the venue refused a subscription: {answer.detail}"))

    def alive(self, *, pong: bool) -> None:
        """Take a sign of life; what came before it was said before it."""
        self.read()
        self.heard_s = self._loop.time()
        if pong and self.asked_s is not None:
            self.asked_ns = round(self.asked_s * 1e9)
            self.asked_s = None

    def ping(self, answer: Callable[[], None]) -> None:
        """Take a ping; a venue whose clock is its own waits for the answer, so it runs no faster than we publish."""
        self.alive(pong=False)
        self._line.host.when_published(answer)

    def lost(self, reason: str) -> None:
        """Take the end."""
        self.read()
        self.reason = self.reason or reason
        for waiting in self.acks.values():
            if not waiting.done():
                waiting.set_exception(LinkError(reason))
        self._line.poke()


class Line:
    """Keeps some instruments' streams coming. `wanted` may be changed at any time, `poke` makes it look at once."""

    def __init__(
        self,
        host: Host,
        url: str,
        streams: tuple[Stream, ...],
        *,
        connect: Connect,
        place: Callable[[str], str],
        random: np.random.Generator,
        trades: bool,
        records: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.host = host
        self.url = url  # the venue's; `place` says where that is today
        self.streams = streams
        self.trades = trades  # whether prints come on it
        self.records = records
        self.wanted: set[str] = set()  # native symbols
        self.up_s: float | None = None  # since when everything is subscribed; None: it is not
        self.begun_s = self._loop.time()  # when the last subscription was confirmed that nothing had brought before
        self.connections = 0
        self._connect = connect
        self._place = place
        self._random = random
        self._poked = asyncio.Event()
        self._request = 0
        self._ear: _Ear | None = None
        self._link: Link | None = None
        self._reading = True
        self._life_s = float(host.section.life_s_max)
        self._newest_ns = 0
        self._heard_s = self._loop.time()

    @property
    def room(self) -> int:
        """How many instruments more it may bear."""
        return self.host.section.streams_max // len(self.streams) - len(self.wanted)

    @property
    def heard_s(self) -> float:
        """When it last gave a sign of life, monotonic; when it was made, if it never did."""
        return self._heard_s if self._ear is None else max(self._heard_s, self._ear.heard_s)

    @property
    def skew_ns(self) -> int | None:
        """How far the monotonic clock is ahead of the venue's on the present connection."""
        return None if self._ear is None else self._ear.skew.ns

    @property
    def asking(self) -> bool:
        """Whether it is up and something wanted is not subscribed yet: of that its signs of life say nothing."""
        return self._ear is not None and not self._ear.natives.issuperset(self.wanted)

    @property
    def reading(self) -> bool:
        """Whether what the venue sends is read."""
        return self._reading

    @property
    def silent(self) -> bool:
        """Whether it is up and answers at most: no print, no mark came of late."""
        ear = self._ear
        return ear is not None and self.up_s is not None and self._loop.time() - ear.event_s >= PING_S

    def promise_ns(self, stand_in_ns: int | None, asked_ns: int | None) -> int | None:
        """Return up to when its facts have come; None where nothing is known.

        `stand_in_ns` is a skew for the time before it has one of its own, `asked_ns` one that the venue just told: of
        two the larger counts, because a venue's clock may stand.
        """
        ear = self._ear
        if ear is None:
            return promise_ns(self._newest_ns, None, None)
        own = stand_in_ns if ear.skew.ns is None else ear.skew.ns
        known = [skew for skew in (own, asked_ns) if skew is not None]
        return promise_ns(max(self._newest_ns, ear.newest_ns), ear.asked_ns, max(known, default=None))

    def poke(self) -> None:
        """Have it look at what is wanted."""
        self._poked.set()

    def read(self, *, on: bool) -> None:
        """Stop or go on reading; what is not read waits at the venue's side."""
        if on == self._reading:
            return
        self._reading = on
        if self._link is not None and self._ear is not None and not self._ear.reason:
            (self._link.resume if on else self._link.pause)()
            self._ear.heard_s = self._loop.time()

    def describe(self) -> dict[str, Any]:
        """Say how it goes."""
        now_s = self._loop.time()
        return {
            "address": self.url,
            "streams": [stream.value for stream in self.streams],
            "instruments": len(self.wanted),
            "up_s": None if self.up_s is None else round(now_s - self.up_s, 1),
            "silent_s": round(now_s - self.heard_s, 1),
            "connects": self.connections,
            "reading": self._reading,
        }

    async def run(self) -> None:
        """Keep connected, for ever."""
        failures = 0
        while True:
            if not self.wanted or self.host.paused:
                await self._wait(None)
                continue
            self.up_s = None
            try:
                await self._hold()
            except AskError as error:
                self.host.failed(self, str(error))
            lived_s = 0.0 if self.up_s is None else self._loop.time() - self.up_s
            self.up_s = None
            if self.wanted and not self.host.paused:
                failures = 1 if lived_s > STABLE_S else failures + 1
                pause_s = min(PAUSE_S_MAX, PAUSE_S * 2.0 ** min(failures, 20))
                await asyncio.sleep(pause_s * self._random.uniform(0.5, 1.0))

    async def _wait(self, seconds: float | None) -> None:
        """Wait until poked, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._poked.wait()
        except TimeoutError:
            return
        self._poked.clear()

    async def _hold(self) -> None:
        """Connect, and stay connected until it breaks or is not wanted any more."""
        ear, link = await self._open()
        self._ear, self._link = ear, link
        self.begun_s = self._loop.time()
        renew_s = 0.0
        try:
            self._up(ear)
            while self.wanted and not self.host.paused:
                await self._wait(TICK_S)
                self._watch(ear, link)
                old = self._loop.time() - ear.began_s > self._life_s
                gone = ear.natives - self.wanted
                if (old or gone) and self._loop.time() >= renew_s:
                    renew_s = self._loop.time() + RENEW_S
                    try:
                        fresh = await self._open()
                    except AskError as error:
                        self.host.failed(self, f"its replacement failed, the old connection goes on: {error}")
                        continue
                    self._leave(ear, link)
                    if fresh[0].natives - ear.natives:
                        self.begun_s = self._loop.time()
                    ear, link = fresh
                    self._ear, self._link = ear, link
                    self._up(ear)
                elif self.wanted - ear.natives:
                    await self._subscribe(ear, link, self.wanted - ear.natives)
                    self.begun_s = self._loop.time()
                    self._up(ear)
        finally:
            self._leave(ear, link)
            self.host.lost(self)
            self._ear = self._link = None

    def _up(self, ear: _Ear) -> None:
        self.up_s = self._loop.time()
        self._life_s = self.host.section.life_s_max * (LIFE_SHARE - self._random.uniform(0.0, LIFE_JITTER))
        if not self._reading and self._link is not None:
            self._link.pause()
        self._heard_s = max(self._heard_s, ear.heard_s)
        self.host.opened(self)

    def _leave(self, ear: _Ear, link: Link) -> None:
        """Close a connection, and keep what it knew."""
        link.close()
        ear.read()
        self._newest_ns = max(self._newest_ns, ear.newest_ns)
        self._heard_s = max(self._heard_s, ear.heard_s)

    async def _open(self) -> tuple[_Ear, Link]:
        """Connect and subscribe."""
        ear = _Ear(self)
        url = self._place(self.url)
        link = await self._connect(url, ear)
        self.connections += 1
        try:
            await self._subscribe(ear, link, set(self.wanted))
        except BaseException:
            link.close()
            raise
        return ear, link

    async def _subscribe(self, ear: _Ear, link: Link, natives: set[str]) -> None:
        """Ask for streams, no faster than allowed, and wait until all are confirmed."""
        ordered = sorted(natives)
        acks = []
        for start in range(0, len(ordered), SUBSCRIBE_MAX):
            if start:
                await asyncio.sleep(1.0 / self.host.section.messages_per_s_max)
            self._request += 1
            part = ordered[start : start + SUBSCRIBE_MAX]
            [(_, message)] = self.host.venue.subscribe(self.host.section.name, part, self.streams, self._request)
            ack: asyncio.Future[None] = self._loop.create_future()
            ear.acks[self._request] = ack
            acks.append(ack)
            if ear.reason:
                break
            link.send(message)
        try:
            async with asyncio.timeout(ACK_S_MAX):
                await asyncio.gather(*acks)
        except TimeoutError:
            raise LinkError(f"{self.url} did not confirm a subscription within {ACK_S_MAX:.0f} s") from None
        finally:
            for ack in acks:
                ack.cancel()
        if ear.reason:
            raise LinkError(ear.reason)
        ear.natives |= natives

    def _watch(self, ear: _Ear, link: Link) -> None:
        """Ask a silent connection for a sign of life; raise when it is dead."""
        if ear.reason:
            raise LinkError(ear.reason)
        if not self._reading:
            return
        now = self._loop.time()
        silent_s = now - ear.heard_s
        limit_s = min(ANSWER_S_MAX, self.host.section.silence_s_max)
        if silent_s > limit_s:
            raise LinkError(
                f"{self.url} was silent for {silent_s:.0f} s and did not answer, the limit is {limit_s:.0f} s"
            )
        if silent_s >= PING_S and ear.asked_s is None:
            ear.asked_s = now
            link.ping()
