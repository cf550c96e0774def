"""Reporting: settings, wiring. HTTP is all it does; its loops work the queue of backtests and tell what happens now."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import httpx
from fastapi import APIRouter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import Field

from squeeze_reporting import backtests, dashboard, market, trading
from squeeze_reporting.live import Live
from squeeze_reporting.peers import Peers
from squeeze_reporting.runs import ENDS, Runs
from squeezecore.adapters.service import Kit, Part, ServiceSettings, clickhouse_address
from squeezecore.adapters.settings import HttpUrl

# What a browser may do with our answers: load the page's own script, style and data, and nothing from anywhere else.
HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Frame-Options", "DENY"),
)


class Settings(ServiceSettings):
    """What reporting can be told."""

    HEADERS: ClassVar[tuple[tuple[str, str], ...]] = HEADERS

    account: str = Field(
        default="paper", pattern=r"^[A-Za-z0-9_-]{1,32}$", description="The account whose positions the board shows."
    )
    instance: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_-]{1,40}$",
        description="Tells this process from another reporting on the same bus; by itself the host and the port.",
    )
    peers: dict[str, HttpUrl] = Field(
        default={},
        description="Where other services answer, a JSON object of addresses by name; the run directory tells of the rest.",
    )
    runs_at_once: int = Field(default=1, ge=1, le=64, description="How many backtests run at once; others wait.")


class _Metrics(Collector):
    """The runs' numbers, read off the queue when they are asked for."""

    def __init__(self, runs: Runs, live: Live) -> None:
        self._runs, self._live = runs, live

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        yield GaugeMetricFamily("squeezeflow_backtests_running", "Backtests that run now.", value=self._runs.running)
        yield GaugeMetricFamily("squeezeflow_backtests_queued", "Backtests that wait.", value=self._runs.queued)
        ended = CounterMetricFamily("squeezeflow_backtests_ended", "Backtests that ended here.", labels=["state"])
        for state in ENDS:
            ended.add_metric([state], self._runs.ended[state])
        yield ended
        counts = self._live.counts
        yield GaugeMetricFamily("squeezeflow_viewers", "Streams that somebody reads now.", value=counts.viewers)
        yield CounterMetricFamily(
            "squeezeflow_viewers_dropped", "Streams ended for slow reading.", value=counts.dropped
        )
        yield CounterMetricFamily(
            "squeezeflow_viewers_resumed", "Streams that went on from an id.", value=counts.resumed
        )
        yield CounterMetricFamily("squeezeflow_events_sent", "Events sent, each viewer's counted.", value=counts.sent)
        yield GaugeMetricFamily("squeezeflow_board_seconds", "The newest second told, UTC.", value=self._live.taken_ts)


def _instance(port: int) -> str:
    """Name this process so that its next start has the same name and no other process has: the bus keeps its readers."""
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:30]
    return f"{host}-{port}" if port else f"{host}-p{os.getpid()}"


async def build(kit: Kit, stack: AsyncExitStack) -> Part:
    """Make the service."""
    settings: Settings = kit.settings
    home = None if settings.clickhouse_url else settings.home
    runs = Runs(home, clickhouse_address(settings), at_once=settings.runs_at_once, log=kit.log)
    live = Live(kit, settings.account, settings.instance or _instance(settings.port))
    client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, follow_redirects=False))
    peers = Peers(client, settings.peers, settings.run_dir)
    kit.registry.register(_Metrics(runs, live))
    router = APIRouter()
    parts = market.routes(kit), trading.routes(kit), backtests.routes(kit, runs), dashboard.routes(kit, live, peers)
    for part in parts:
        router.include_router(part)

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(runs.run())
            tasks.create_task(live.run())

    def status() -> dict[str, Any]:
        failed = [run for run in runs.live.values() if run.state == "failed"]
        return {
            "messages": sum(runs.ended.values()) + live.rows,
            "errors": runs.ended["failed"],
            "last_error": failed[-1].error if failed else "",
            "last_message_ns": live.last_message_ns,
            "runs": {"queued": runs.queued, "running": runs.running},
            "live": {
                "state": live.state,
                "ts": live.taken_ts,
                "viewers": live.counts.viewers,
                "assets": len(live.lanes),
            },
        }

    return Part(run=run, router=router, probes={"board": live.ready}, status=status)
