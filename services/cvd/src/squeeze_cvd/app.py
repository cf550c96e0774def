"""cvd: settings, wiring, and what it answers over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal

import pyarrow as pa
from fastapi import APIRouter, Header, HTTPException, Path, Query, Response
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import Field

from squeeze_cvd.keeping import Keep
from squeeze_cvd.running import Cvd, version
from squeezecore import abreast as many
from squeezecore.adapters.service import PAGE, Kit, PageSize, Part, ServiceSettings
from squeezecore.errors import SqueezeError
from squeezecore.market import Rows
from squeezecore.spec import nearest
from squeezecore.venues import Feed as Stream

ARROW = "application/vnd.apache.arrow.stream"
TS_MAX = 2**32 - 1
SPAN_S_MAX = 86_400  # of one question for completeness
COUNTERS = {
    "trades": "Prints taken.",
    "strange": "Batches and blocks of feeds and instruments that no asset has.",
    "foreign": "Prints of the kind that is not counted: ingest has another SQUEEZE_TRADE_STREAM.",
    "late": "Prints that came after their second was closed.",
    "bars": "Seconds of instruments closed.",
    "incomplete": "Of them incomplete.",
    "rows": "Seconds of assets decided.",
}

AssetName = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,32}$", description="An asset, as in the list of assets.")]
Second = Annotated[int, Query(ge=0, le=TS_MAX, description="UTC seconds.")]


class Settings(ServiceSettings):
    """What cvd can be told."""

    trade_stream: Literal["aggtrade", "trade"] = Field(
        default="aggtrade", description="Which prints ingest brings; the same setting as there."
    )
    weights: Literal["fixed", "volume_24h"] = Field(
        default="fixed",
        description="Markets' weights: as the list of assets says, or by turnover of the day before, anew each midnight.",
    )
    from_bars: bool = Field(
        default=False, description="Begin from the stored bars, whatever snapshot there is; for one start."
    )


async def build(kit: Kit, stack: AsyncExitStack) -> Part:
    """Put the service together."""
    del stack
    assert kit.store is not None
    settings: Settings = kit.settings
    keep = Keep(kit.store, version())
    cvd = Cvd(
        kit,
        keep,
        Stream(settings.trade_stream),
        shares=settings.weights == "volume_24h",
        from_bars=settings.from_bars,
    )
    kit.registry.register(_Metrics(cvd))

    async def assets_are_known() -> None:
        if not cvd.flow.assets and not cvd.flow.schedule:
            raise SqueezeError("no assets are configured: run squeezeflow up, or put key assets into bucket config")

    return Part(run=cvd.run, router=_router(kit, keep, cvd), probes={"assets": assets_are_known}, status=cvd.status)


def _router(kit: Kit, keep: Keep, cvd: Cvd) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["flow"])

    def check(asset: str) -> None:
        known = {*cvd.flow.assets, *(change.asset for change in cvd.flow.changes)}
        if asset not in known:
            meant = nearest(asset, known) if known else "none is configured"
            raise HTTPException(404, f"asset was {asset!r}, there is no such asset: {meant}")

    @router.get("/assets/{asset}/row")
    async def row(asset: AssetName) -> dict[str, int]:
        """Return an asset's newest second."""
        check(asset)
        last = cvd.last_rows.get(asset)
        if last is None:
            last = await kit.in_thread(keep.row_before, asset, TS_MAX)
        if not len(last.ts):
            raise HTTPException(404, f"asset {asset} has no row yet")
        return {name: int(column[-1]) for name, column in last._asdict().items()}

    @router.get(
        "/assets/{asset}/rows",
        responses={200: {"content": {"application/json": {}, ARROW: {}}, "description": "Columns of rows, ascending."}},
    )
    async def rows(
        asset: AssetName,
        start_s: Annotated[int, Query(alias="from", ge=0, le=TS_MAX, description="The first second.")],
        end_s: Annotated[int, Query(alias="to", ge=0, le=TS_MAX, description="The second after the last.")],
        limit: PageSize = PAGE,
        accept: Annotated[str, Header()] = "application/json",
    ) -> Response:
        """Return an asset's first `limit` seconds of a range, as JSON columns or as an Arrow stream."""
        check(asset)
        if end_s < start_s:
            raise HTTPException(422, f"range was {start_s} to {end_s}, to must not lie before from: swap them")
        found = await kit.in_thread(keep.first_rows, asset, start_s, end_s, limit)
        table = pa.table(found._asdict())
        if ARROW in accept:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            return Response(sink.getvalue().to_pybytes(), media_type=ARROW)
        return Response(_json(found), media_type="application/json")

    @router.get("/completeness")
    async def completeness(
        seconds: Annotated[int, Query(ge=60, le=SPAN_S_MAX, description="How far back, from the last row.")] = 3600,
    ) -> dict[str, Any]:
        """Say how complete each instrument's last seconds are, and how far each feed has come."""
        end_s = max(cvd.flow.decided_s, 0)
        present = await kit.in_thread(keep.presence, max(0, end_s - seconds), end_s)
        return {"from": max(0, end_s - seconds), "to": end_s, "feeds": list(_feeds(cvd, present))}

    return router


def _json(rows: Rows) -> bytes:
    columns = ",".join(f'"{name}":{column.tolist()}' for name, column in rows._asdict().items())
    return b"{" + columns.replace(" ", "").encode() + b"}"


def _feeds(cvd: Cvd, present: dict[str, tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """Describe feeds and their instruments."""
    for (venue, section), feed in cvd.flow.feeds.items():
        instruments = []
        for slot, name in enumerate(feed.names):
            state = many.state_of(feed.state, slot)
            seconds, complete = present.get(name, (0, 0))
            instruments.append(
                {
                    "instrument": name,
                    "seconds": seconds,
                    "complete": complete,
                    "closed_s": state.closed_s,
                    "last_print_s": state.high_s,
                    "late": state.late,
                    "doubled": state.doubled,
                    "holes": len(state.holes.first_id),
                    "unproved": sum(tear.end_s - tear.start_s for tear in feed.tears.get(name, [])),
                }
            )
        yield {
            "feed": f"{venue}/{section}",
            "closed_s": feed.closed_s,
            "alive": feed.alive,
            "connection": feed.connections[-1] if feed.connections else None,
            "instruments": instruments,
        }


class _Metrics(Collector):
    """Counts of the flow, from zero on."""

    def __init__(self, cvd: Cvd) -> None:
        self._cvd = cvd

    def collect(self) -> Iterator[Metric]:
        state = self._cvd.flow
        for name, text in COUNTERS.items():
            yield CounterMetricFamily(f"squeezeflow_cvd_{name}", text, value=state.counts[name])
        repaired = self._cvd.repaired
        yield CounterMetricFamily("squeezeflow_cvd_repaired", "Rows that got a newer version.", value=repaired)
        yield GaugeMetricFamily(
            "squeezeflow_cvd_remakes", "Instruments with seconds to be made again.", len(state.remakes)
        )
        yield GaugeMetricFamily("squeezeflow_cvd_lag_messages", "Messages of the stream not yet taken.", self._cvd.lag)
        closed = GaugeMetricFamily(
            "squeezeflow_cvd_closed_seconds", "Up to where a feed is closed, UTC.", labels=["feed"]
        )
        alive = GaugeMetricFamily("squeezeflow_cvd_alive", "Whether a feed lives.", labels=["feed"])
        for place, feed in state.feeds.items():
            closed.add_metric(["/".join(place)], feed.closed_s)
            alive.add_metric(["/".join(place)], float(feed.alive))
        yield closed
        yield alive
