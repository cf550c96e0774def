"""Backtests over HTTP: ask, follow, cancel, resume, look at."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, HTTPException, Query, Request, Response

import squeezeview
from squeeze_reporting.answers import answer, body
from squeeze_reporting.runs import Live, Runs
from squeezecore import backtest as core
from squeezecore.adapters import reporting, runner, scanning
from squeezecore.adapters.page import Page
from squeezecore.adapters.service import Kit, PageSize, writer
from squeezecore.adapters.store import Store
from squeezecore.adapters.tables import BacktestRun
from squeezecore.spec import BacktestSpec

PLACEBOS_MAX = 1_000
RUNS_MAX = 8  # side by side


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A backtest as it is asked for: what differs from the defaults, and how to compute it."""

    assets: tuple[str, ...]
    start: dt.date
    end: dt.date  # the last day that is tested
    params: dict[str, Any] = {}
    costs: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    capital_usd: int = 100_000
    warmup_s: int = 28 * 3600
    jobs: int = 0  # processes; 0: one a core, fewer for a few days
    shards: int = 0
    fresh: bool = False  # scan again what is finished
    placebos: Annotated[int, msgspec.Meta(ge=0, le=PLACEBOS_MAX)] = 0  # runs over shuffled flow to measure luck by


def routes(kit: Kit, runs: Runs) -> APIRouter:
    """Return the paths below /v1/backtests."""
    router = APIRouter(prefix="/v1/backtests", tags=["backtests"])
    store = kit.store
    assert store is not None

    async def stored(run_id: str) -> BacktestRun:
        found = [run for run in await kit.in_thread(store.runs) if run.run_id.startswith(run_id)]
        if len(found) != 1:
            text = (
                f"{len(found)} runs begin so: write more of it"
                if found
                else "there is none: GET /v1/backtests lists them"
            )
            raise HTTPException(404, f"run was {run_id!r}, {text}")
        return found[0]

    async def state_of(run_id: str) -> dict[str, Any]:
        live = runs.live.get(run_id)
        if live is not None and live.state != "done":
            return _live(live)
        if live is None or live.report is None:
            return _stored(await stored(run_id))
        return _live(live) | {"report": live.report}

    @router.post("", status_code=202, dependencies=[writer()], openapi_extra=_body_of(Asked))
    async def ask(request: Request) -> Response:
        """Queue a backtest; the same request again is the same run, and a finished one is shown at once."""
        asked = await body(request, Asked)
        spec = runner.make_spec(
            assets=[asset.upper() for asset in asked.assets], start=asked.start, end=asked.end, changes=asked.params,
            costs=asked.costs, limits=asked.limits, capital_usd=asked.capital_usd, warmup_s=asked.warmup_s,
        )  # fmt: skip
        run_id = core.run_id(spec, scanning.code_version())
        await kit.in_thread(runner.announce, store, run_id, spec)
        run = runs.ask(run_id, spec, jobs=asked.jobs, shards=asked.shards, fresh=asked.fresh, placebos=asked.placebos)
        return answer(_live(run), 202, {"Location": f"/v1/backtests/{run_id}"})

    @router.get("")
    async def listed(limit: PageSize = 500) -> Response:
        """List all runs, the newest first, with those that wait or run now on top."""
        lines = await kit.in_thread(runner.runs, store)
        now = [_live(run) for run in runs.live.values() if run.state in ("queued", "running")]
        live = {line["run_id"] for line in now}
        done = [_line(line, runs) for line in lines if line.run_id not in live]
        return answer({"runs": (now + done)[:limit], "more": len(now) + len(done) > limit})

    @router.get("/compare")
    async def compare(
        request: Request,
        run: Annotated[list[str], Query(min_length=2, max_length=RUNS_MAX, description="A run's id; once for each.")],
    ) -> Response:
        """Put runs side by side: the page for a browser, its numbers as JSON otherwise."""
        return await _page(kit, request, run)

    @router.get("/{run_id}")
    async def state(run_id: str) -> Response:
        """Say what became of a run, or how far it is."""
        return answer(await state_of(run_id))

    @router.delete("/{run_id}", dependencies=[writer()])
    async def cancel(run_id: str) -> Response:
        """Cancel a run that waits or runs; what was finished is kept."""
        run = await runs.cancel(run_id)
        if run is None:
            found = await state_of(run_id)
            raise HTTPException(409, f"run {run_id} was {found['state']}, only one that waits or runs can be cancelled")
        return answer(_live(run))

    @router.post("/{run_id}/resume", status_code=202, dependencies=[writer()])
    async def resume(run_id: str) -> Response:
        """Go on with a run that was cancelled, interrupted or failed."""
        live = runs.live.get(run_id)
        spec = live.spec if live is not None else msgspec.json.decode((await stored(run_id)).spec, type=BacktestSpec)
        wanted = core.run_id(spec, scanning.code_version())
        await kit.in_thread(runner.announce, store, wanted, spec)
        run = runs.ask(wanted, spec)
        return answer(_live(run), 202, {"Location": f"/v1/backtests/{wanted}"})

    @router.get("/{run_id}/report")
    async def report(request: Request, run_id: str) -> Response:
        """Give the report: the page for a browser, its numbers as JSON otherwise."""
        return await _page(kit, request, [run_id])

    @router.get("/{run_id}/trades")
    async def trades(run_id: str, limit: PageSize = 500, offset: Annotated[int, Query(ge=0)] = 0) -> Response:
        """Give a run's trades in units people use."""
        run = await stored(run_id)
        found = await kit.in_thread(store.trades, run.run_id)
        listed = await kit.in_thread(store.instruments)
        by_asset = {trade.asset: listed[trade.instrument] for trade in found}
        entries = runner.trade_table(found, by_asset).slice(offset, limit).to_pylist() if found else []
        return answer({"run_id": run.run_id, "trades": entries, "of": len(found)})

    return router


def _build(store: Store, names: list[str]) -> Page:
    """Put a page together from what is stored: luck is shown where it was measured, and never measured here."""
    runs = [reporting.find_run(store, name) for name in names]
    measured = min(len(store.placebos(run.run_id, run.result_hash, "shuffled")) for run in runs)
    return reporting.build_page(store, names, placebo_runs=measured)


async def _page(kit: Kit, request: Request, names: list[str]) -> Response:
    store = kit.store
    assert store is not None
    made = await kit.in_thread(_build, store, names)
    if "text/html" not in request.headers.get("accept", ""):
        return answer(reporting.answer_of(made))
    if not squeezeview.built():
        raise HTTPException(501, "the page's front end is not built here: make web builds it; JSON is given without it")
    html = await asyncio.to_thread(squeezeview.render, made)
    policy = _policy(html[:4_000].decode(errors="replace"))
    return Response(html, headers={"Content-Security-Policy": policy}, media_type="text/html; charset=utf-8")


def _policy(html: str) -> str:
    """Return the Content-Security-Policy of a report page: its own, which names its script and style by hash."""
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    own = found[1] if found else "default-src 'none'"
    return f"{own}; frame-ancestors 'none'"


def _live(run: Live) -> dict[str, Any]:
    now_s = asyncio.get_running_loop().time()
    return {
        "run_id": run.run_id,
        "state": run.state,
        "spec": run.spec,
        "progress": run.progress(now_s),
        "error": run.error,
        "exit_code": run.exit_code,
        "links": {"self": f"/v1/backtests/{run.run_id}", "report": f"/v1/backtests/{run.run_id}/report"},
    }


def _stored(run: BacktestRun) -> dict[str, Any]:
    """Describe a run from the store alone; one that is not done was interrupted."""
    spec = msgspec.json.decode(run.spec, type=BacktestSpec)
    found: dict[str, Any] = {
        "run_id": run.run_id,
        "state": "interrupted" if run.state in ("planned", "running") else run.state,
        "spec": spec,
        "progress": None,
        "error": run.error,
        "exit_code": 0,
        "links": {"self": f"/v1/backtests/{run.run_id}", "report": f"/v1/backtests/{run.run_id}/report"},
    }
    if run.state == "done":
        found["report"] = runner.answer_of(run)
    return found


def _line(line: runner.RunLine, runs: Runs) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(line)
    live = runs.live.get(line.run_id)
    if line.state in ("planned", "running"):
        found["state"] = "interrupted" if live is None else live.state
    return found


def _body_of(kind: type[Any]) -> dict[str, Any]:
    """Describe a body for /docs."""
    schemas, parts = msgspec.json.schema_components([kind], ref_template="#/components/schemas/{name}")
    schema = parts.get(kind.__name__, schemas[0])
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
