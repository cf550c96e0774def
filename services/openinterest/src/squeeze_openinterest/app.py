"""Open interest and funding: settings, wiring, HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
from fastapi import APIRouter, HTTPException
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import Field

from squeeze_openinterest import answers
from squeeze_openinterest.desk import Params
from squeeze_openinterest.facts import SETTLED_S, ages_s
from squeeze_openinterest.polling import Past
from squeeze_openinterest.watching import Poller
from squeezecore.adapters.asking import Fetch, Places, fetcher
from squeezecore.adapters.service import Kit, Part, ServiceSettings
from squeezecore.errors import SqueezeError
from squeezecore.market import FundingSeries, OpenInterestSeries, empty
from squeezecore.venues import VENUES, venue

OUTCOMES = ("answered", "refused", "limited", "failed", "unreadable")
KINDS = ("interest", "predicted", "settled", "mark")


class Settings(ServiceSettings):
    """What the poller can be told."""

    endpoints: Path | None = Field(
        default=None, description="A JSON file of addresses that replace the venues' own; see the ingest page."
    )
    poll_s: float = Field(default=10.0, ge=0.1, le=600, description="How often each market is asked, in seconds.")
    limit_share: float = Field(
        default=0.5,
        gt=0,
        le=1_000,
        description="How much of a venue's request limits is used; above 1 only for a venue on this machine.",
    )
    max_age_s: int = Field(
        default=120, ge=1, le=86_400, description="How long a value counts in sums after it was known, in seconds."
    )
    publish_marks: bool = Field(default=True, description="Publish mark prices too.")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="Of the offsets at which markets are asked.")


class _Counts:
    """Counts requests and facts, at zero from the start."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["venue", "section"]
        self._requests = Counter(
            "squeezeflow_openinterest_requests", "Requests to venues.", [*labels, "outcome"], registry=registry
        )
        self._facts = Counter(
            "squeezeflow_openinterest_facts", "Facts published.", [*labels, "kind"], registry=registry
        )
        for name in VENUES:
            for section in venue(name).SECTIONS.values():
                if section.open_interest:
                    for outcome in OUTCOMES:
                        self._requests.labels(name, section.name, outcome)
                    for kind in KINDS:
                        self._facts.labels(name, section.name, kind)

    def asked(self, venue: str, section: str, outcome: str) -> None:
        """Count a request."""
        self._requests.labels(venue, section, outcome).inc()

    def published(self, venue: str, section: str, kind: str, count: int) -> None:
        """Count facts."""
        self._facts.labels(venue, section, kind).inc(count)


class _Gauges(Collector):
    """How old and how complete open interest is, read off when it is asked for."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        facts, now_s = self._poller.facts, self._poller.now_s
        age = GaugeMetricFamily(
            "squeezeflow_openinterest_age_seconds", "Since open interest was last known.", labels=["instrument"]
        )
        for name, seconds in ages_s(facts, now_s).items():
            age.add_metric([name], seconds)
        yield age
        coverage = GaugeMetricFamily(
            "squeezeflow_openinterest_coverage", "Share of the usual open interest that is known.", labels=["asset"]
        )
        for asset in list(facts.assets):
            ppm = facts.summary(asset, now_s).all.coverage_ppm
            coverage.add_metric([asset], 0.0 if ppm is None else ppm / 1e6)
        yield coverage
        paused = GaugeMetricFamily(
            "squeezeflow_openinterest_paused", "Whether a section is left alone.", labels=["venue", "section"]
        )
        for name, one in self._poller.status()["sections"].items():
            paused.add_metric(name.split("."), float(one["state"] == "PAUSED"))
        yield paused


def _router(poller: Poller) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["open interest"])

    def find(asset: str) -> str:
        if asset not in poller.facts.assets:
            there = ", ".join(sorted(poller.facts.assets)) or "none yet"
            raise HTTPException(404, f"asset was {asset!r}, watched are: {there}")
        return asset

    @router.get("/open-interest")
    async def assets() -> list[str]:
        """Name the watched assets."""
        return sorted(poller.facts.assets)

    @router.get("/open-interest/{asset}")
    async def open_interest(asset: str) -> dict[str, Any]:
        """Tell an asset's open interest in base units, one-sided: each market, each venue, sums, changes."""
        return answers.open_interest(poller.facts, find(asset), poller.now_s)

    @router.get("/funding/{asset}")
    async def funding(asset: str) -> dict[str, Any]:
        """Tell an asset's funding, predicted and settled; positive: longs pay shorts."""
        return answers.funding(poller.facts, find(asset), poller.now_s)

    return router


class _Service:
    """The loop, and what is asked about it."""

    def __init__(self, poller: Poller) -> None:
        self.poller = poller

    async def ready(self) -> None:
        """Raise while nothing can come."""
        status = self.poller.status()
        if status["state"] == "WARMING":
            missing = ", ".join(status["missing"])
            raise SqueezeError(f"instruments were not made yet: {missing}" if missing else "no asset is watched yet")
        if status["state"] == "FAILING":
            raise SqueezeError(f"no section answers: {status['last_error']}")


async def build(kit: Kit, stack: AsyncExitStack, *, fetch: Fetch | None = None) -> Part:
    """Make the service; a simulation gives its own answers."""
    settings: Settings = kit.settings
    if fetch is None:
        fetch = fetcher(await stack.enter_async_context(httpx.AsyncClient(trust_env=False, follow_redirects=False)))
    params = Params(
        every_s=settings.poll_s,
        share=settings.limit_share,
        max_age_s=settings.max_age_s,
        publish_marks=settings.publish_marks,
        seed=settings.seed,
    )

    async def history(instrument: str, now_s: int) -> Past:
        """Read what the store has; on another day than the venue's that is nothing."""
        store = kit.store
        if store is None:
            return Past(empty(OpenInterestSeries), empty(FundingSeries))
        keep_s = poller.facts.keep_s
        interest = await kit.in_thread(store.read_open_interest, instrument, now_s - keep_s, now_s + 1)
        paid = await kit.in_thread(store.read_funding, instrument, now_s - SETTLED_S - 60, now_s + 60)
        return Past(interest, paid)

    poller = Poller(
        kit.bus,
        kit.clock,
        fetch,
        history,
        params,
        _Counts(kit.registry),
        kit.log,
        Places(settings.endpoints).rest,
    )
    kit.registry.register(_Gauges(poller))
    service = _Service(poller)
    return Part(run=poller.run, router=_router(poller), probes={"sections": service.ready}, status=poller.status)
