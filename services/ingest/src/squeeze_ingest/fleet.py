"""All feeds: made from the assets that are watched, changed when these change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import numpy as np

from squeeze_ingest.feed import Feed, Ports
from squeeze_ingest.links import Connect
from squeeze_ingest.rest import Desk
from squeezecore.adapters import catalogue
from squeezecore.adapters.asking import Fetch, Places
from squeezecore.adapters.service import Kit
from squeezecore.errors import ParseError, SqueezeError
from squeezecore.market import Instrument
from squeezecore.spec import AssetConfig, digest
from squeezecore.venues import Feed as Stream
from squeezecore.venues import venue

BUCKET, KEY = "config", "assets"
AGAIN_S = 5.0  # what could not be found out is asked again
LIST_S = 60.0  # an instrument list is used again for so long

_assets = msgspec.json.Decoder(dict[str, AssetConfig])


class Fleet:
    """The feeds of this process."""

    def __init__(
        self,
        kit: Kit,
        *,
        places: Places,
        connect: Connect,
        fetch: Fetch,
        stream: Stream,
        instance: str = "0",
        record: Callable[[str, str, bytes, int], None] | None = None,
    ) -> None:
        self.feeds: dict[tuple[str, str], Feed] = {}  # by venue and section
        self.waiting: dict[str, str] = {"assets": f"key {KEY} of {BUCKET} is not there yet: write it with the assets"}
        self._kit = kit
        self._places = places
        self._connect = connect
        self._fetch = fetch
        self._stream = stream
        self._instance = instance
        self._record = record
        self._desks: dict[tuple[str, str], Desk] = {}
        self._lists: dict[tuple[str, str], tuple[float, bytes | SqueezeError]] = {}  # (good until, what was answered)
        self._wanted: dict[str, AssetConfig] | None = None
        self._changed = asyncio.Event()
        self._instruments: dict[str, Instrument] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            while True:
                self._changed.clear()
                complete = await self._apply(tasks)
                try:
                    async with asyncio.timeout(None if complete else AGAIN_S):
                        await self._changed.wait()
                except TimeoutError:
                    continue

    async def _watch(self) -> None:
        async for value, revision in self._kit.bus.watch(BUCKET, KEY):
            try:
                self._wanted = _assets.decode(value)
            except msgspec.DecodeError as error:
                self._say(
                    "assets", f"revision {revision} of {KEY} is not what it should be ({error}): the one before holds"
                )
                continue
            self.waiting.pop("assets", None)
            self._kit.log.info("assets", revision=revision, assets=",".join(sorted(self._wanted)))
            self._changed.set()

    def _say(self, what: str, why: str) -> None:
        """Keep why something is missing, and log it when it is news."""
        known = why in self.waiting.values()
        self.waiting[what] = why
        if not known:
            self._kit.log.warning("waiting", what=what, reason=why)

    async def _apply(self, tasks: asyncio.TaskGroup) -> bool:
        """Make the feeds what the assets say; return whether every instrument could be found."""
        if self._wanted is None:
            return True  # until the key is there
        names = sorted({market.instrument for asset in self._wanted.values() for market in asset.markets})
        names = sorted({*names, *(asset.traded for asset in self._wanted.values())})
        for name in [name for name in self.waiting if name != "assets" and name not in names]:
            del self.waiting[name]
        for name in names:
            if name not in self._instruments:
                await self._find(name)
        by_feed: dict[tuple[str, str], list[Instrument]] = {}
        for name in names:
            found = self._instruments.get(name)
            if found is not None:
                by_feed.setdefault((found.venue, found.section), []).append(found)
        for place in [place for place in self.feeds if place not in by_feed]:
            self._tasks.pop(place).cancel()
            del self.feeds[place]
        for place, instruments in by_feed.items():
            feed = self.feeds.get(place)
            if feed is None:
                feed = self.feeds[place] = Feed(
                    venue(place[0]), place[1], self._stream, self._ports(place), self._instance
                )
                feed.watch(instruments)
                self._tasks[place] = tasks.create_task(feed.run())
            else:
                feed.watch(instruments)
        return all(name in self._instruments for name in names)

    async def _find(self, name: str) -> None:
        try:
            self._instruments[name] = await catalogue.instrument(self._kit, name, self._list)
        except (SqueezeError, ParseError) as error:
            self._say(name, str(error))
        else:
            self.waiting.pop(name, None)

    async def _list(self, venue_name: str, section: str) -> bytes:
        """Ask a section's instrument list, once for many instruments."""
        place, loop = (venue_name, section), asyncio.get_running_loop()
        kept = self._lists.get(place)
        if kept is not None and loop.time() < kept[0]:
            if isinstance(kept[1], SqueezeError):
                raise kept[1]
            return kept[1]
        try:
            body = await self._desk(place).ask("instruments")
        except SqueezeError as error:
            self._lists[place] = (loop.time() + AGAIN_S / 2, error)  # for the others of this round
            raise
        self._lists[place] = (loop.time() + LIST_S, body)
        return body

    def _desk(self, place: tuple[str, str]) -> Desk:
        if place not in self._desks:
            section = venue(place[0]).SECTIONS[place[1]]
            self._desks[place] = Desk(
                section, partial(self._places.rest, place[0], section), self._fetch, self._kit.clock
            )
        return self._desks[place]

    def _ports(self, place: tuple[str, str]) -> Ports:
        seed = int(digest(self._instance.encode(), "/".join(place).encode())[:8], 16)  # no two pods pause alike
        return Ports(
            bus=self._kit.bus,
            clock=self._kit.clock,
            connect=self._connect,
            place=self._places.websocket(*place),
            desk=self._desk(place),
            random=np.random.default_rng(seed),
            log=self._kit.log,
            record=self._record,
        )

    def reasons(self) -> dict[str, list[str]]:
        """Return why something is missing, each reason once, and what."""
        found: dict[str, list[str]] = {}
        for what, why in self.waiting.items():
            found.setdefault(why, []).append(what)
        return found

    @property
    def asked(self) -> int:
        """How many questions REST sides were asked."""
        return sum(desk.asked for desk in self._desks.values())

    @property
    def turned_away(self) -> int:
        """How many of them were too many for the venue."""
        return sum(desk.refused for desk in self._desks.values())

    def describe(self) -> list[dict[str, Any]]:
        """Say how each feed goes."""
        return [feed.describe() for _, feed in sorted(self.feeds.items())]
