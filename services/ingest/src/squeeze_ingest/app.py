"""Ingest: settings, wiring, HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

import httpx
from fastapi import APIRouter, HTTPException
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import Field

from squeeze_ingest.feed import Feed
from squeeze_ingest.fleet import Fleet
from squeeze_ingest.links import Connect, connector
from squeeze_ingest.recorder import Recorder
from squeeze_ingest.tapping import Tap
from squeezecore.adapters.asking import Fetch, Places, fetcher
from squeezecore.adapters.service import Kit, Part, ServiceSettings, writer
from squeezecore.errors import SqueezeError
from squeezecore.venues import Feed as Stream

SECOND_NS = 1_000_000_000
NAMED_MAX = 4  # instruments of one reason


class Settings(ServiceSettings):
    """What ingest can be told."""

    endpoints: Path | None = Field(default=None, description="A JSON file of addresses that replace the venues' own.")
    trade_stream: Literal["aggtrade", "trade"] = Field(
        default="aggtrade",
        description="Which prints: a venue's aggregates, whose holes can be closed by id, or single ones.",
    )
    record: Path | None = Field(default=None, description="A folder that raw frames are recorded into.")
    recorder: bool = Field(default=True, description="Write prints from the bus into the table trades.")
    instance: str = Field(
        default="0",
        pattern=r"^[A-Za-z0-9_-]{1,12}$",
        description="Tells this process from another ingest on the same bus.",
    )


def summed(names: list[str]) -> str:
    """Name a few of many.

    >>> summed(["a", "b", "c", "d", "e"])
    'a, b and 3 more'
    """
    return ", ".join(names) if len(names) <= NAMED_MAX else f"{', '.join(names[:2])} and {len(names) - 2} more"


class Ingest:
    """The service: feeds, and the recorder beside them."""

    def __init__(self, fleet: Fleet, recorder: Recorder | None, tap: Tap | None) -> None:
        self.fleet = fleet
        self.recorder = recorder
        self.tap = tap

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.fleet.run())
            if self.recorder is not None:
                tasks.create_task(self.recorder.run())
            if self.tap is not None:
                tasks.create_task(self.tap.run())

    async def ready(self) -> None:
        """Raise while nothing can come: no assets yet, or no feed up."""
        feeds = list(self.fleet.feeds.values())
        if not feeds:
            raise SqueezeError("; ".join(self.fleet.reasons()) or "no asset is watched: write some")
        if all(feed.state in ("STARTING", "CONNECTING", "DOWN") for feed in feeds):
            raise SqueezeError("; ".join(f"{feed.name}: {feed.last_error or feed.state.lower()}" for feed in feeds))

    def status(self) -> dict[str, Any]:
        """Say how it goes."""
        feeds = list(self.fleet.feeds.values())
        lags = [feed.lag_s for feed in feeds if feed.lag_s is not None]
        reasons = [f"{feed.name}: {feed.last_error}" for feed in feeds if feed.last_error]
        reasons += [f"{summed(names)}: {why}" for why, names in self.fleet.reasons().items()]
        if self.recorder is not None and self.recorder.last_error:
            reasons.append(f"recorder: {self.recorder.last_error}")
        if self.tap is not None and self.tap.last_error:
            reasons.append(f"recording: {self.tap.last_error}")
        states = {feed.state for feed in feeds}
        return {
            "state": "WAITING" if not feeds else states.pop() if len(states) == 1 else "DEGRADED",
            "lag_s": max(lags, default=None),
            "messages": sum(feed.frames for feed in feeds),
            "messages_per_s": round(sum(feed.frames_per_s for feed in feeds), 1),
            "errors": sum(feed.errors + feed.refused for feed in feeds)
            + (self.recorder.errors if self.recorder else 0),
            "last_message_ns": max((feed.last_frame_ns for feed in feeds), default=0),
            "last_error": "; ".join(reasons),
        }


class _Metrics(Collector):
    """The feeds' numbers, read off them when they are asked for."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest

    def collect(self) -> Iterator[Metric]:
        """Yield them, one a feed."""
        feeds = list(self._ingest.fleet.feeds.values())
        for name, text, value in _COUNTERS:
            counter = CounterMetricFamily(f"squeezeflow_ingest_{name}", text, labels=["venue", "section"])
            for feed in feeds:
                counter.add_metric([feed.venue.NAME, feed.section.name], value(feed))
            yield counter
        for name, text, value in _GAUGES:
            gauge = GaugeMetricFamily(f"squeezeflow_ingest_{name}", text, labels=["venue", "section"])
            for feed in feeds:
                gauge.add_metric([feed.venue.NAME, feed.section.name], value(feed))
            yield gauge
        fleet, recorder = self._ingest.fleet, self._ingest.recorder
        yield CounterMetricFamily("squeezeflow_ingest_rest_requests", "Questions to REST sides.", value=fleet.asked)
        yield CounterMetricFamily("squeezeflow_ingest_rest_refused", "Refused for our rate.", value=fleet.turned_away)
        recorded, failed = (0, 0) if recorder is None else (recorder.recorded, recorder.errors)
        yield CounterMetricFamily("squeezeflow_ingest_recorded_trades", "Prints written to the store.", value=recorded)
        yield CounterMetricFamily("squeezeflow_ingest_recorder_errors", "Times that the recorder failed.", value=failed)
        tap = self._ingest.tap
        taken, left_out = (0, 0) if tap is None else (tap.recorded, tap.left_out)
        yield CounterMetricFamily("squeezeflow_ingest_raw_frames", "Raw frames recorded.", value=taken)
        yield CounterMetricFamily("squeezeflow_ingest_raw_frames_left_out", "Frames not recorded.", value=left_out)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


_Read = Callable[[Feed], float]
_COUNTERS: tuple[tuple[str, str, _Read], ...] = (
    ("messages", "Frames heard.", lambda feed: feed.frames),
    ("trades", "Prints taken, each once.", lambda feed: feed.batcher.taken),
    ("trades_published", "Prints acknowledged by the bus.", lambda feed: feed.published),
    ("trades_doubled", "Prints heard again.", lambda feed: feed.batcher.doubled),
    ("trades_backfilled", "Prints that came over REST.", lambda feed: feed.backfilled),
    ("parse_errors", "Frames that were not what the venue documents.", lambda feed: feed.refused),
    ("unknown", "Well-formed messages that no rule covers.", lambda feed: feed.unknown.total()),
    ("connects", "Connections opened.", lambda feed: sum(line.connections for line in feed.lines)),
    ("errors", "Connections that failed or ended.", lambda feed: feed.errors),
)
_GAUGES: tuple[tuple[str, str, _Read], ...] = (
    ("alive", "Whether every connection answers.", lambda feed: float(feed.alive)),
    ("lag_seconds", "How far the watermark is behind the venue's clock.", lambda feed: _or_nan(feed.lag_s)),
    (
        "skew_seconds",
        "How far our clock is ahead of the venue's, delay included.",
        lambda feed: float("nan") if feed.wall_skew_ns is None else feed.wall_skew_ns / SECOND_NS,
    ),
    ("holes_open", "Holes in trade ids.", lambda feed: len(feed.holes())),
    ("messages_per_second", "Frames a second of late.", lambda feed: feed.frames_per_s),
)


def _router(ingest: Ingest) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["feeds"])

    def find(venue: str, section: str) -> Feed:
        feed = ingest.fleet.feeds.get((venue, section))
        if feed is None:
            there = ", ".join(sorted(each.name for each in ingest.fleet.feeds.values())) or "none yet"
            raise HTTPException(404, f"feed was {venue}/{section}, there are: {there}")
        return feed

    @router.get("/feeds")
    async def feeds() -> list[dict[str, Any]]:
        """Say how each feed goes."""
        return ingest.fleet.describe()

    @router.post("/feeds/{venue}/{section}/pause", dependencies=[writer()])
    async def pause(venue: str, section: str) -> dict[str, Any]:
        """Close a feed's connections; its seconds then close without it, incomplete."""
        feed = find(venue, section)
        feed.pause(on=True)
        return feed.describe()

    @router.post("/feeds/{venue}/{section}/resume", dependencies=[writer()])
    async def resume(venue: str, section: str) -> dict[str, Any]:
        """Connect again; what was missed is asked for."""
        feed = find(venue, section)
        feed.pause(on=False)
        return feed.describe()

    return router


async def build(kit: Kit, stack: AsyncExitStack, *, connect: Connect | None = None, fetch: Fetch | None = None) -> Part:
    """Make the service; a simulation gives its own connections and answers."""
    settings: Settings = kit.settings
    if fetch is None:
        fetch = fetcher(await stack.enter_async_context(httpx.AsyncClient(trust_env=False, follow_redirects=False)))
    tap = None if settings.record is None else Tap(settings.record, kit.log)
    fleet = Fleet(
        kit,
        places=Places(settings.endpoints),
        connect=connect or connector(kit.clock),
        fetch=fetch,
        stream=Stream(settings.trade_stream),
        instance=settings.instance,
        record=None if tap is None else tap.take,
    )
    recorder = Recorder(kit, kit.store, settings.instance) if settings.recorder and kit.store is not None else None
    ingest = Ingest(fleet, recorder, tap)
    kit.registry.register(_Metrics(ingest))
    return Part(run=ingest.run, router=_router(ingest), probes={"feeds": ingest.ready}, status=ingest.status)
