"""Everything that is watched: follows the list of assets, keeps one `Poll` a venue and section, publishes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from squeeze_openinterest.desk import Counts, Desk, Params, Where
from squeeze_openinterest.facts import Facts
from squeeze_openinterest.polling import SECOND_NS, Fact, History, Past, Poll
from squeezecore.adapters import catalogue
from squeezecore.adapters.asking import Fetch
from squeezecore.adapters.bus import Bus, BusError
from squeezecore.adapters.clock import Clock
from squeezecore.errors import SqueezeError
from squeezecore.spec import AssetConfig
from squeezecore.venues import Section, venue

MISSING_EVERY_S = 1.0  # how often an instrument that nobody has made yet is looked for


def at_home(_venue: str, section: Section) -> str:
    """Say that a section is where its venue has it."""
    return section.rest


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
        where: Where = at_home,
    ) -> None:
        self.facts = Facts(params.max_age_s)
        self.polls: dict[tuple[str, str], Poll] = {}
        self.published = self.errors = 0
        self.last_error, self.last_message_ns = "", 0
        self.missing: list[str] = []  # instruments that nobody has made yet
        self._bus, self._clock, self._fetch, self._history = bus, clock, fetch, history
        self._params, self._counts, self._log = params, counts, log
        self._where = where
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
        except SqueezeError as error:
            self._note(f"{name}: {error}")
            return False
        self.facts.watch(instrument)
        key = (instrument.venue, instrument.section)
        if key not in self.polls:
            desk = Desk(instrument.venue, section, self._where, self._fetch, self._params, self._counts)
            self.polls[key] = Poll(desk, rules, self.facts, self._params, self._clock, self._past, self._publish)
        self.polls[key].add(instrument, group)
        return True

    async def _past(self, instrument: str, now_s: int) -> Past:
        """Return what the store has of a market, as soon as it answers."""
        while True:
            try:
                return await self._history(instrument, now_s)
            except SqueezeError as error:
                self._note(f"{instrument}: {error}")
            await asyncio.sleep(MISSING_EVERY_S)

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
        self.last_message_ns = self._clock.now_ns()
        self._counts.published(desk.venue, desk.section.name, kind, len(facts))

    def _note(self, reason: str) -> None:
        """Note an error; the log has it when it changes."""
        self.errors += 1
        if reason != self.last_error:
            self.last_error = reason
            self._log.warning("trouble", reason=reason)

    @property
    def now_s(self) -> int:
        """The time of day of what is watched: this machine's, but for venues that replay another day."""
        clocks = [poll.now_ns() for poll in list(self.polls.values()) if poll.heard]
        return max(clocks, default=self._clock.now_ns()) // SECOND_NS

    def status(self) -> dict[str, Any]:
        """Say how it goes, by section; any thread may ask."""
        sections = {}
        for (name, section), poll in sorted(self.polls.items()):
            left_s = poll.desk.pause_s
            sections[f"{name}.{section}"] = {
                "state": "PAUSED" if left_s else "POLLING",
                "pause_s": round(left_s, 1),
                "failures": poll.desk.pause.failures,
                "every_s": poll.every_s,
                "instruments": len(poll.instruments),
                "clock_offset_s": round(poll.offset_ns / SECOND_NS, 1),
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
