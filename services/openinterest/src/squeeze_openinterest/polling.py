"""One section's markets: what is asked for, when, and what becomes of the answers.

Each market is asked for on one grid, at its own place in it. `known_at` is the second an answer came in, `event_ts` the
venue's own time. A venue that replays another day has a clock of its own: what it says is then known at *its* time, as
the prints beside it are.
"""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import numpy as np

from squeeze_openinterest.desk import Desk, Params, RefusedError
from squeeze_openinterest.facts import SETTLED_S, Facts
from squeeze_openinterest.limits import every_s, next_s
from squeezecore.adapters.clock import Clock
from squeezecore.errors import ParseError, UsageError
from squeezecore.market import FundingSeries, Instrument, MarkPrice, OpenInterestSeries
from squeezecore.venues import Funding, Venue
from squeezecore.wire import FundingFact, InterestFact, MarkFact

SECOND_NS = 1_000_000_000
HEADROOM = 0.8  # of the budget goes into rounds: a queue that is always full only grows
INFO_EVERY_S = 3600.0
SETTLED_EVERY_S = 3600.0  # settled funding is asked for at least so often …
SETTLED_AFTER_S, SETTLED_AGAIN_S = 5.0, 15.0  # … and so long after it was due, until it is there …
SETTLED_TRIES = 20  # … or so often: the interval may have changed
REST_S_MAX = 3600.0  # a market whose requests are refused is left alone for at most so long
EVENT_AGE_S_MAX = 3600  # an older value is that of a venue that has stopped to count
OTHER_CLOCK_NS = 120 * SECOND_NS  # a venue further away than this lives on another day

Fact = InterestFact | FundingFact | MarkFact


class Past(NamedTuple):
    """What the store has of a market."""

    open_interest: OpenInterestSeries
    settled: FundingSeries


History = Callable[[str, int], Awaitable[Past]]  # (instrument, now_s)
Publish = Callable[[Desk, str, Sequence[Fact]], Awaitable[None]]


class Poll:
    """Polls one section."""

    def __init__(
        self,
        desk: Desk,
        rules: Venue,
        facts: Facts,
        params: Params,
        clock: Clock,
        history: History,
        publish: Publish,
    ) -> None:
        self.desk = desk
        self.offset_ns = 0  # the venue's clock less ours; 0 where they are the same day's
        self.heard = False  # whether it has ever told its time
        self._rules, self._facts, self._params = rules, facts, params
        self._clock, self._history, self._publish = clock, history, publish
        self._section = desk.section
        self._instruments: dict[str, Instrument] = {}  # by native symbol
        self._intervals: dict[str, int] = {}
        self._marks: dict[str, int] = {}
        self._predicted: dict[str, tuple[int, int, int]] = {}  # instrument → what was published last
        self._listed = bool(self._section.premium_all)  # the venue answers for all at once
        self._events: dict[str, tuple[int, int]] = {}  # instrument → newest event_ts, how long after the one before
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def instruments(self) -> list[str]:
        """The ids of the markets that are polled."""
        return sorted(one.id for one in list(self._instruments.values()))

    @property
    def at_once(self) -> bool:
        """Whether marks are asked for all at once, because that weighs less than one by one."""
        weights = self._section.weights
        return self._listed and weights.get("premium_all", 1) < len(self._instruments) * weights.get("premium", 1)

    @property
    def every_s(self) -> float:
        """How often a market is asked for: as wanted, or as the section's limits let it."""
        weights, count = self._section.weights, len(self._instruments)
        weight = count * weights.get("open_interest", 1)
        if self._section.premium:
            weight += weights.get("premium_all", 1) if self.at_once else count * weights.get("premium", 1)
        per_minute = self._section.weight_per_minute_max * self._params.share * HEADROOM
        return every_s(self._params.every_s, weight, per_minute)

    def now_ns(self) -> int:
        """The time of day where the venue lives."""
        return self._clock.now_ns() + self.offset_ns

    def add(self, instrument: Instrument, group: asyncio.TaskGroup) -> None:
        """Begin to poll a market."""
        if not self._tasks:
            self._tasks[""] = group.create_task(self._common())
        self._instruments[instrument.native_symbol] = instrument
        self._tasks[instrument.id] = group.create_task(self._follow(instrument))

    def drop(self, instrument: Instrument) -> None:
        """Poll a market no more."""
        self._instruments.pop(instrument.native_symbol, None)
        self._tasks.pop(instrument.id).cancel()

    async def _common(self) -> None:
        """Ask for what is said of all markets at once."""
        async with asyncio.TaskGroup() as group:
            if self._section.funding_info:
                await self._tried(self._info)
                group.create_task(self._repeat("info", self._info, lambda: INFO_EVERY_S))
            if self._section.premium_all:
                await self._repeat("premium", self._premium_all, lambda: self.every_s)

    async def _follow(self, instrument: Instrument) -> None:
        """Ask for a market's mark, which tells the venue's time too; then look back; then poll."""
        refused = 0
        while self._section.premium and instrument.id not in self._marks:
            refused = 0 if await self._tried(lambda: self._premium(instrument)) else refused + 1
            if instrument.id not in self._marks:
                await asyncio.sleep(min(self.every_s * 2**refused, REST_S_MAX))
        past = await self._history(instrument.id, self.now_ns() // SECOND_NS)
        self._facts.fill(instrument.id, past.open_interest, past.settled)
        events = past.open_interest.event_ts[-2:].tolist()
        if events:
            self._events[instrument.id] = (events[-1], events[-1] - events[0])
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat(instrument.id, lambda: self._interest(instrument), lambda: self.every_s))
            if self._section.funding:
                group.create_task(self._repeat_settled(instrument))

    async def _repeat(self, name: str, work: Callable[[], Awaitable[None]], every: Callable[[], float]) -> None:
        """Do something on a grid for ever, each thing at its own place in it; what is refused is asked for less often."""
        phase = self._phase(name)
        refused = 0
        while True:
            rest_s = min(every() * (2 ** min(refused, 20) - 1), REST_S_MAX)
            await asyncio.sleep(rest_s)
            await asyncio.sleep(next_s(self._clock.now_ns() / SECOND_NS, every(), phase))
            refused = 0 if await self._tried(work) else refused + 1

    async def _tried(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do something; False where the venue will not answer it, or not so that we can read it."""
        try:
            await work()
        except RefusedError:
            return False
        except ParseError as error:
            self.desk.unreadable(error)
            return False
        return True

    def _phase(self, name: str) -> float:
        seed = [self._params.seed, zlib.crc32(f"{self.desk.venue}.{self._section.name}.{name}".encode())]
        return float(np.random.default_rng(seed).random())

    async def _info(self) -> None:
        body = await self.desk.ask("funding_info")
        if body is not None:
            self._intervals = self._rules.funding_intervals(self._section.name, body)

    async def _premium_all(self) -> None:
        if not self.at_once:
            return
        try:
            body = await self.desk.ask("premium_all")
        except RefusedError:
            self._listed = False  # one by one, then
            raise
        if body is not None:
            await self._take_premium(body)

    async def _premium(self, instrument: Instrument) -> None:
        body = await self.desk.ask("premium", symbol=instrument.native_symbol)
        if body is not None and instrument.id not in await self._take_premium(body):
            raise ParseError(f"{instrument.id}: the answer for its mark was about something else")

    async def _take_premium(self, body: bytes) -> set[str]:
        """Publish marks, and predictions that have changed; return the instruments whose marks came."""
        received_ns, section = self._clock.now_ns(), self._section.name
        marks = self._rules.marks(section, self._instruments, body, received_ns)
        predicted = self._rules.funding(section, self._instruments, body, received_ns, self._intervals)
        if not marks:
            return set()
        self._tell_time(received_ns, max(one.exchange_ns for one in marks))
        self._marks |= {one.instrument: one.mark for one in marks}
        if self._params.publish_marks:
            await self._publish(self.desk, "mark", [self._mark_fact(one) for one in marks if one.mark > 0])
        news = {
            one.instrument: one
            for one in predicted
            if self._predicted.get(one.instrument) != (one.exchange_ns, one.rate, one.interval_s)
        }
        self._predicted |= {name: (one.exchange_ns, one.rate, one.interval_s) for name, one in news.items()}
        await self._publish(self.desk, "predicted", [self._funding_fact(one) for one in news.values()])
        return {one.instrument for one in marks}

    def _tell_time(self, received_ns: int, exchange_ns: int) -> None:
        apart_ns = exchange_ns - received_ns
        self.offset_ns = apart_ns if abs(apart_ns) > OTHER_CLOCK_NS else 0
        self.heard = True

    def _known_at(self, received_ns: int, exchange_ns: int = 0) -> int:
        """Return the second in which something became known; never before it happened where the venue has its own clock."""
        here_ns = received_ns + self.offset_ns
        return (max(here_ns, exchange_ns) if self.offset_ns else here_ns) // SECOND_NS

    async def _interest(self, instrument: Instrument) -> None:
        """Ask for a market's open interest, and where marks do not come for all at once for its mark just before."""
        if self._section.premium and not self.at_once:
            await self._premium(instrument)
        body = await self.desk.ask("open_interest", symbol=instrument.native_symbol)
        if body is None:
            return
        received_ns = self._clock.now_ns()
        mark = self._marks.get(instrument.id, 0)
        try:
            value = self._rules.open_interest(self._section.name, instrument, body, received_ns, mark)
        except UsageError as error:  # the venue gave no mark that it needs
            raise ParseError(str(error)) from error
        if value.open_interest <= 0:
            raise ParseError(f"{instrument.id}: open interest was 0, which is no value")
        known_at = self._known_at(received_ns, value.exchange_ns)
        age_s = known_at - value.exchange_ns // SECOND_NS
        if age_s > EVENT_AGE_S_MAX:
            raise ParseError(f"{instrument.id}: open interest was {age_s} s old, the limit is {EVENT_AGE_S_MAX} s")
        fact = InterestFact(
            venue=self.desk.venue,
            feed=self._section.name,
            instrument=instrument.id,
            event_ts=value.exchange_ns // SECOND_NS,
            known_at=known_at,
            open_interest=value.open_interest,
            interval_s=self._interval_s(instrument, value.exchange_ns // SECOND_NS, age_s),
        )
        if fact.event_ts > self._events.get(instrument.id, (-1, 0))[0]:
            self._note_event(instrument, fact.event_ts)
            await self._publish(self.desk, "interest", [fact])
        else:
            self._facts.take(fact)  # known already, and still so

    def _note_event(self, instrument: Instrument, event_ts: int) -> None:
        before, _ = self._events.get(instrument.id, (event_ts, 0))
        self._events[instrument.id] = (event_ts, event_ts - before)

    def _interval_s(self, instrument: Instrument, event_ts: int, age_s: int) -> int:
        """Return how often the source has a new value, in its own seconds; never less than we ask.

        That is the shorter of its last two distances, so that our own silence does not count; for the first value its age.
        """
        before = self._events.get(instrument.id)
        seen = age_s if before is None else min(event_ts - before[0], before[1] or event_ts - before[0])
        return max(1, math.ceil(self.every_s), seen)

    async def _repeat_settled(self, instrument: Instrument) -> None:
        """Ask for settled funding: at the start as far back as it is remembered, then when it is due until it is there."""
        await asyncio.sleep(self._phase(f"{instrument.id}.settled") * min(self.every_s, SETTLED_AGAIN_S))
        tries = 0
        while True:
            fine = await self._tried(lambda: self._settled(instrument))
            now_s = self.now_ns() / SECOND_NS
            due_s = self._due_s(instrument, now_s)
            tries = tries + 1 if due_s <= now_s else 0
            again = fine and tries < SETTLED_TRIES
            wait_s = SETTLED_AGAIN_S if due_s <= now_s else min(due_s - now_s, SETTLED_EVERY_S)
            await asyncio.sleep(wait_s if again else SETTLED_EVERY_S)

    def _due_s(self, instrument: Instrument, now_s: float) -> float:
        """Return when the next settlement that is not there can be asked for; far ahead where none is known."""
        known = self._facts[instrument.id]
        predicted = known.latest.get("predicted")
        if not isinstance(predicted, FundingFact):
            return now_s + SETTLED_EVERY_S
        due = predicted.event_ts
        if due - predicted.interval_s not in known.settled and known.settled:
            due -= predicted.interval_s  # the prediction has moved on, the payment before it is not there yet
        return due + SETTLED_AFTER_S

    async def _settled(self, instrument: Instrument) -> None:
        now_s = self.now_ns() // SECOND_NS
        body = await self.desk.ask(
            "funding", symbol=instrument.native_symbol, start_ms=(now_s - SETTLED_S) * 1000, end_ms=(now_s + 60) * 1000
        )
        if body is None:
            return
        received_ns = self._clock.now_ns()
        found = self._rules.funding(self._section.name, self._instruments, body, received_ns, self._intervals)
        known = self._facts[instrument.id].settled
        facts = [self._funding_fact(one) for one in found if one.settled and one.instrument == instrument.id]
        await self._publish(self.desk, "settled", [fact for fact in facts if fact.event_ts not in known])

    def _funding_fact(self, one: Funding) -> FundingFact:
        return FundingFact(
            venue=self.desk.venue,
            feed=self._section.name,
            instrument=one.instrument,
            event_ts=one.exchange_ns // SECOND_NS,
            known_at=self._known_at(one.received_ns),
            rate=one.rate,
            interval_s=one.interval_s,
            settled=one.settled,
        )

    def _mark_fact(self, one: MarkPrice) -> MarkFact:
        return MarkFact(
            venue=self.desk.venue,
            feed=self._section.name,
            instrument=one.instrument,
            known_at=self._known_at(one.received_ns),
            mark=one.mark,
        )
