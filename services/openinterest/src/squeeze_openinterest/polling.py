"""The loop: each section of each venue is asked on its own grid and at its own limits, and what it says is published.

A section that fails is left alone for longer and longer; the others know nothing of it. `known_at` is the local second an
answer came in, `event_ts` the venue's own time. What goes in and out is given: the bus, the clock, a GET, what the store
has of a market; so a simulation drives this loop as it is.
"""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np

from squeezecore.adapters import catalogue
from squeezecore.adapters.bus import Bus, BusError
from squeezecore.adapters.clock import Clock
from squeezecore.errors import ParseError, SqueezeError, UsageError
from squeezecore.market import Instrument, MarkPrice, OpenInterestSeries
from squeezecore.spec import AssetConfig
from squeezecore.venues import Funding, Section, Venue, venue
from squeezecore.wire import FundingFact, InterestFact, MarkFact

from .facts import SETTLED_S, Facts
from .limits import BANNED, TOO_MANY, Budget, Pause, every_s, next_s

SECOND_NS = 1_000_000_000
SLOTS = 4  # requests to a section at once
MISSING_EVERY_S = 1.0  # how often an instrument that nobody has made yet is looked for
INFO_EVERY_S = 3600.0
SETTLED_EVERY_S = 3600.0  # settled funding is asked for at least so often …
SETTLED_AFTER_S, SETTLED_AGAIN_S = 5.0, 15.0  # … and so long after it was due, until it is there …
SETTLED_TRIES = 20  # … or so often: the interval may have changed
REST_S_MAX = 3600.0  # a market whose requests are refused is left alone for at most so long
OK = 200

Fact = InterestFact | FundingFact | MarkFact


class FetchError(SqueezeError):
    """A venue could not be asked."""


class Answer(NamedTuple):
    """What a venue answered."""

    status: int
    body: bytes
    retry_after: str | None = None


class Fetch(Protocol):
    """Asks a venue."""

    async def __call__(self, url: str) -> Answer:
        """GET a URL; raise `FetchError` where there is no answer."""
        ...


class Past(NamedTuple):
    """What the store has of a market."""

    open_interest: OpenInterestSeries
    settled: tuple[int, ...]  # event_ts


History = Callable[[str, int], Awaitable[Past]]  # (instrument, now_s)
Endpoints = Mapping[str, Mapping[str, str]]  # venue → section → base URL


class Params(NamedTuple):
    """What can be chosen."""

    every_s: float = 10.0
    share: float = 0.5  # of a section's limits; the rest is for others at the same address
    max_age_s: int = 120
    publish_marks: bool = True
    seed: int = 0


class Counts(Protocol):
    """Where a section counts."""

    def asked(self, venue: str, section: str, outcome: str) -> None:
        """Count a request: answered, refused, limited, failed, unreadable."""

    def published(self, venue: str, section: str, kind: str, count: int) -> None:
        """Count facts: interest, predicted, settled, mark."""


class _RefusedError(SqueezeError):
    """The venue does not answer this request; others may be answered."""


class Desk:
    """Asks one section of one venue; all its polls go through here."""

    def __init__(self, name: str, section: Section, base: str, fetch: Fetch, params: Params, counts: Counts) -> None:
        self.venue, self.section, self.base = name, section, base
        self.last_error, self.answered_ns = "", 0
        self.pause = Pause()
        self._fetch, self._counts = fetch, counts
        self._budget = Budget(section.weight_per_minute_max * params.share)
        self._funding = Budget(section.funding_per_minute_max * params.share)
        self._slots = asyncio.Semaphore(SLOTS)
        self._dice = np.random.default_rng([params.seed, zlib.crc32(f"{name}.{section.name}".encode())])

    async def ask(self, field: str, path: str) -> bytes | None:
        """Ask for a path of the section's `field`; None where the section did not answer, which is dealt with here.

        Raises `_RefusedError` where it answered that it will not.
        """
        async with self._slots:
            await self._turn(field)
            began_s = asyncio.get_running_loop().time()
            try:
                answer = await self._fetch(self.base + path)
            except FetchError as error:
                self._failed(began_s, str(error))
                return None
        now_s = asyncio.get_running_loop().time()
        if answer.status in (TOO_MANY, BANNED):
            pause_s = self.pause.told(answer.status, answer.retry_after, now_s)
            self._count("limited", f"{self._name} answered {answer.status}: it is left alone for {pause_s:.0f} s")
            return None
        if answer.status >= 500:
            self._failed(began_s, f"{self._name} answered {answer.status}")
            return None
        self.pause.succeeded()
        if answer.status != OK:
            reason = f"{self._name} refused {path} with {answer.status}: {answer.body[:200].decode(errors='replace')}"
            self._count("refused", reason)
            raise _RefusedError(reason)
        self._counts.asked(self.venue, self.section.name, "answered")
        return answer.body

    def unreadable(self, error: ParseError) -> None:
        """Note that an answer could not be read."""
        self._count("unreadable", str(error))

    @property
    def _name(self) -> str:
        return f"{self.venue} {self.section.name}"

    async def _turn(self, field: str) -> None:
        """Wait until the section may be asked."""
        loop = asyncio.get_running_loop()
        budget = self._funding if field in ("funding", "funding_info") else self._budget
        weight = 1 if budget is self._funding else self.section.weights.get(field, 1)
        await asyncio.sleep(budget.take(weight, loop.time()))
        while True:
            left_s = self.pause.left_s(loop.time())
            if left_s <= 0:
                return
            await asyncio.sleep(left_s)

    def _failed(self, began_s: float, reason: str) -> None:
        now_s = asyncio.get_running_loop().time()
        pause_s = self.pause.failed(began_s, now_s, float(self._dice.random()))
        self._count("failed", f"{reason}: next try in {pause_s:.1f} s")

    def _count(self, outcome: str, reason: str) -> None:
        self.last_error = reason
        self._counts.asked(self.venue, self.section.name, outcome)


class Poll:
    """One section's markets: what is asked for, when, and what becomes of the answers."""

    def __init__(
        self,
        desk: Desk,
        rules: Venue,
        facts: Facts,
        params: Params,
        clock: Clock,
        publish: Callable[..., Awaitable[None]],
    ) -> None:
        self.desk, self._rules, self._facts, self._params = desk, rules, facts, params
        self._clock, self._publish = clock, publish
        self._section = desk.section
        self._instruments: dict[str, Instrument] = {}  # by native symbol
        self._intervals: dict[str, int] = {}
        self._marks: dict[str, int] = {}
        self._premium_came = asyncio.Event()
        self._predicted: dict[str, tuple[int, int, int]] = {}  # instrument → what was published last
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}

    @property
    def instruments(self) -> list[str]:
        """The ids of the markets that are polled."""
        return sorted(one.id for one in self._instruments.values())

    @property
    def every_s(self) -> float:
        """How often a market is asked for: as wanted, or as the section's limits let it."""
        weights = self._section.weights
        round_weight = len(self._instruments) * weights.get("open_interest", 1)
        round_weight += weights.get("premium", 1) if self._section.premium else 0
        return every_s(self._params.every_s, round_weight, self._section.weight_per_minute_max * self._params.share)

    def add(self, instrument: Instrument, group: asyncio.TaskGroup) -> None:
        """Begin to poll a market."""
        if not self._tasks:
            self._tasks[""] = [group.create_task(job) for job in self._common()]
        self._instruments[instrument.native_symbol] = instrument
        jobs = [self._repeat(instrument.id, self._interest(instrument), lambda: self.every_s)]
        if self._section.funding:
            jobs.append(self._repeat_settled(instrument))
        self._tasks[instrument.id] = [group.create_task(job) for job in jobs]

    def drop(self, instrument: Instrument) -> None:
        """Poll a market no more."""
        self._instruments.pop(instrument.native_symbol, None)
        for task in self._tasks.pop(instrument.id, []):
            task.cancel()

    def _common(self) -> list[Coroutine[Any, Any, None]]:
        jobs = []
        if self._section.funding_info:
            jobs.append(self._repeat("info", self._info, lambda: INFO_EVERY_S))
        if self._section.premium:
            jobs.append(self._premium_from_now())
        return jobs

    async def _premium_from_now(self) -> None:
        """Ask for marks and predictions at once, the intervals first if they can be had; then on the grid."""
        if self._section.funding_info:
            await self._tried(self._info)
        await self._tried(self._premium)
        await self._repeat("premium", self._premium, lambda: self.every_s)

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
        except _RefusedError:
            return False
        except ParseError as error:
            self.desk.unreadable(error)
            return False
        return True

    def _phase(self, name: str) -> float:
        seed = [self._params.seed, zlib.crc32(f"{self.desk.venue}.{self._section.name}.{name}".encode())]
        return float(np.random.default_rng(seed).random())

    async def _info(self) -> None:
        body = await self.desk.ask("funding_info", self._section.funding_info)
        if body is not None:
            self._intervals = self._rules.funding_intervals(self._section.name, body)

    async def _premium(self) -> None:
        body = await self.desk.ask("premium", self._section.premium)
        if body is None:
            return
        received_ns, section = self._clock.now_ns(), self._section.name
        marks = self._rules.marks(section, self._instruments, body, received_ns)
        predicted = self._rules.funding(section, self._instruments, body, received_ns, self._intervals)
        self._marks |= {one.instrument: one.mark for one in marks}
        self._premium_came.set()
        if self._params.publish_marks:
            await self._publish(self.desk, "mark", [self._mark_fact(one) for one in marks if one.mark > 0])
        news = [
            one
            for one in predicted
            if self._predicted.get(one.instrument) != (one.exchange_ns, one.rate, one.interval_s)
        ]
        self._predicted |= {one.instrument: (one.exchange_ns, one.rate, one.interval_s) for one in news}
        await self._publish(self.desk, "predicted", [self._funding_fact(one) for one in news])

    def _interest(self, instrument: Instrument) -> Callable[[], Awaitable[None]]:
        async def ask() -> None:
            if self._section.premium:
                await self._premium_came.wait()
            path = self._section.open_interest.format(symbol=instrument.native_symbol)
            body = await self.desk.ask("open_interest", path)
            if body is None:
                return
            received_ns = self._clock.now_ns()
            mark = self._marks.get(instrument.id, 0)
            try:
                value = self._rules.open_interest(self._section.name, instrument, body, received_ns, mark)
            except UsageError as error:
                raise ParseError(str(error)) from error  # the mark list did not name it
            if value.open_interest <= 0:
                raise ParseError(f"{instrument.id}: open interest was 0, which is no value")
            fact = InterestFact(
                venue=self.desk.venue,
                feed=self._section.name,
                instrument=instrument.id,
                event_ts=value.exchange_ns // SECOND_NS,
                known_at=received_ns // SECOND_NS,
                open_interest=value.open_interest,
                interval_s=max(1, math.ceil(self.every_s)),
            )
            await self._publish(self.desk, "interest", [fact])

        return ask

    async def _repeat_settled(self, instrument: Instrument) -> None:
        """Ask for settled funding: at the start as far back as it is remembered, then when it is due until it is there."""
        await asyncio.sleep(self._phase(f"{instrument.id}.settled") * min(self.every_s, SETTLED_AGAIN_S))
        tries = 0
        while True:
            fine = await self._tried(lambda: self._settled(instrument))
            now_s = self._clock.now_ns() / SECOND_NS
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
        now_s = self._clock.now_ns() // SECOND_NS
        path = self._section.funding.format(
            symbol=instrument.native_symbol, start_ms=(now_s - SETTLED_S) * 1000, end_ms=(now_s + 60) * 1000
        )
        body = await self.desk.ask("funding", path)
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
            known_at=one.received_ns // SECOND_NS,
            rate=one.rate,
            interval_s=one.interval_s,
            settled=one.settled,
        )

    def _mark_fact(self, one: MarkPrice) -> MarkFact:
        return MarkFact(
            venue=self.desk.venue,
            feed=self._section.name,
            instrument=one.instrument,
            known_at=one.received_ns // SECOND_NS,
            mark=one.mark,
        )


_ASSETS = msgspec.json.Decoder(dict[str, AssetConfig])


class Poller:
    """Everything that is watched: follows the assets' configuration, keeps one `Poll` a venue and section."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        fetch: Fetch,
        history: History,
        params: Params,
        counts: Counts,
        log: Any,
        endpoints: Endpoints | None = None,
    ) -> None:
        self.facts = Facts(params.max_age_s)
        self.polls: dict[tuple[str, str], Poll] = {}
        self.published = self.errors = 0
        self.last_error, self.last_message_ns = "", 0
        self.missing: list[str] = []  # instruments that nobody has made yet
        self._bus, self._clock, self._fetch, self._history = bus, clock, fetch, history
        self._params, self._counts, self._log = params, counts, log
        self._endpoints = endpoints or {}
        self._wanted: dict[str, None] = {}
        self._without: set[str] = set()  # instruments that have no open interest: spot
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Watch and poll for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            await self._follow(group)

    async def _watch(self) -> None:
        """Follow the list of assets."""
        while True:
            try:
                async for value, revision in self._bus.watch("config", "assets"):
                    self._configure(value, revision)
            except BusError as error:
                self._note(str(error))
            await asyncio.sleep(MISSING_EVERY_S)

    def _configure(self, value: bytes, revision: int) -> None:
        try:
            assets = _ASSETS.decode(value)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            self._note(f"assets of revision {revision} cannot be read, the ones before stay ({error})")
            return
        self.facts.assets = assets
        self._wanted = {market.instrument: None for config in assets.values() for market in config.markets}
        self._log.info("assets", revision=revision, assets=len(assets), instruments=len(self._wanted))
        self._changed.set()

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        """Begin with markets as they get known, end with those that nobody wants any more."""
        while True:
            self._changed.clear()
            for name in [name for name in self.facts if name not in self._wanted]:
                known = self.facts[name].instrument
                self.polls[known.venue, known.section].drop(known)
                self.facts.forget(name)
            looked_for = [name for name in self._wanted if name not in self.facts and name not in self._without]
            self.missing = [name for name in looked_for if not await self._begin(name, group)]
            try:
                async with asyncio.timeout(MISSING_EVERY_S if self.missing else None):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _begin(self, name: str, group: asyncio.TaskGroup) -> bool:
        """Begin to poll an instrument if it is known what it is."""
        try:
            instrument = await catalogue.known(self._bus, name)
            if instrument is None:
                return False
            rules = venue(instrument.venue)
            section = rules.SECTIONS.get(instrument.section)
            if section is None or not section.open_interest:
                self._without.add(name)
                return True
            past = await self._history(name, self._clock.now_ns() // SECOND_NS)
        except SqueezeError as error:
            self._note(f"{name}: {error}")
            return False
        self.facts.watch(instrument, past.open_interest, past.settled)
        key = (instrument.venue, instrument.section)
        if key not in self.polls:
            base = self._endpoints.get(instrument.venue, {}).get(instrument.section) or section.rest
            desk = Desk(instrument.venue, section, base.rstrip("/"), self._fetch, self._params, self._counts)
            self.polls[key] = Poll(desk, rules, self.facts, self._params, self._clock, self._publish)
        self.polls[key].add(instrument, group)
        return True

    async def _publish(self, desk: Desk, kind: str, facts: Sequence[Fact]) -> None:
        """Publish facts and remember them; a bus that is away is waited for."""
        if not facts:
            return
        try:
            await self._bus.publish_all(facts)
        except BusError as error:
            self._note(str(error))
            return
        for fact in facts:
            self.facts.take(fact)
        self.published += len(facts)
        self.last_message_ns = desk.answered_ns = self._clock.now_ns()
        self._counts.published(desk.venue, desk.section.name, kind, len(facts))

    def _note(self, reason: str) -> None:
        """Note an error; the log has it when it changes."""
        self.errors += 1
        if reason != self.last_error:
            self.last_error = reason
            self._log.warning("trouble", reason=reason)

    def status(self) -> dict[str, Any]:
        """Say how it goes, by section."""
        now_s = asyncio.get_running_loop().time()
        sections = {}
        for (name, section), poll in sorted(self.polls.items()):
            left_s = poll.desk.pause.left_s(now_s)
            sections[f"{name}.{section}"] = {
                "state": "PAUSED" if left_s else "POLLING",
                "pause_s": round(left_s, 1),
                "failures": poll.desk.pause.failures,
                "every_s": poll.every_s,
                "instruments": len(poll.instruments),
                "last_error": poll.desk.last_error,
            }
        paused = [name for name, one in sections.items() if one["state"] == "PAUSED"]
        state = "WARMING" if not sections else "FAILING" if len(paused) == len(sections) else "RUNNING"
        errors = [str(sections[name]["last_error"]) for name in paused]
        return {
            "state": state,
            "messages": self.published,
            "errors": self.errors,
            "last_message_ns": self.last_message_ns,
            "last_error": errors[0] if errors else self.last_error,
            "sections": sections,
            "missing": self.missing,
        }
