"""Reporting: settings, wiring. HTTP is all it does; the loop works the queue of backtests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import Field

from squeeze_reporting import backtests, market, trading
from squeeze_reporting.runs import ENDS, Runs
from squeezecore.adapters.service import Kit, Part, ServiceSettings, clickhouse_address


class Settings(ServiceSettings):
    """What reporting can be told."""

    runs_at_once: int = Field(default=1, ge=1, le=64, description="How many backtests run at once; others wait.")


class _Metrics(Collector):
    """The runs' numbers, read off the queue when they are asked for."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        yield GaugeMetricFamily("squeezeflow_backtests_running", "Backtests that run now.", value=self._runs.running)
        yield GaugeMetricFamily("squeezeflow_backtests_queued", "Backtests that wait.", value=self._runs.queued)
        ended = CounterMetricFamily("squeezeflow_backtests_ended", "Backtests that ended here.", labels=["state"])
        for state in ENDS:
            ended.add_metric([state], self._runs.ended[state])
        yield ended


async def build(kit: Kit, _stack: AsyncExitStack) -> Part:
    """Make the service."""
    settings: Settings = kit.settings
    home = None if settings.clickhouse_url else settings.home
    runs = Runs(home, clickhouse_address(settings), at_once=settings.runs_at_once, log=kit.log)
    kit.registry.register(_Metrics(runs))
    router = APIRouter()
    for part in (market.routes(kit), trading.routes(kit), backtests.routes(kit, runs)):
        router.include_router(part)

    def status() -> dict[str, Any]:
        failed = [run for run in runs.live.values() if run.state == "failed"]
        return {
            "messages": sum(runs.ended.values()),
            "errors": runs.ended["failed"],
            "last_error": failed[-1].error if failed else "",
            "runs": {"queued": runs.queued, "running": runs.running},
        }

    return Part(run=runs.run, router=router, status=status)
