"""strategy: settings, wiring, and what it answers over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, HTTPException, Path
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel, Field

from squeeze_strategy.deciding import COUNTS, Strategy
from squeeze_strategy.keeping import Keep
from squeezecore.adapters import accounts, explaining
from squeezecore.adapters.accounts import Plan
from squeezecore.adapters.service import Kit, Part, ServiceSettings, writer
from squeezecore.errors import DataHoleError, SpecError, SqueezeError
from squeezecore.spec import canonical, nearest
from squeezecore.squeeze import params_from

TS_MAX = 2**32 - 1
HELP = {
    "rows": "Seconds of rows taken.",
    "seconds": "Words that seconds are decided.",
    "decisions": "Records of what was seen and decided.",
    "signals": "Signals.",
    "intents": "Orders asked for.",
    "snapshots": "States stored.",
    "swaps": "Changes of parameters.",
    "refused_params": "Parameters that were refused.",
    "store_errors": "Writes that ClickHouse did not take at once.",
}

AssetName = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,32}$", description="An asset, as in the list of assets.")]


class Settings(ServiceSettings):
    """What the strategy can be told."""

    account: str = Field(default="paper", pattern=r"^[A-Za-z0-9_-]{1,32}$", description="The account it decides for.")


class Second(BaseModel, extra="forbid"):
    """A second of an asset."""

    asset: str = Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")
    ts: int = Field(ge=0, le=TS_MAX, description="UTC seconds.")


async def build(kit: Kit, stack: AsyncExitStack) -> Part:
    """Put the service together."""
    del stack
    assert kit.store is not None
    settings: Settings = kit.settings
    strategy = Strategy(kit, Keep(kit.store, settings.account), settings.account, Plan())
    kit.registry.register(_Metrics(strategy))

    async def rows_are_scanned() -> None:
        if strategy.state != "RUNNING":
            raise SqueezeError(f"strategy is {strategy.state.lower()}")

    return Part(
        run=strategy.run, router=_router(kit, strategy), probes={"rows": rows_are_scanned}, status=strategy.status
    )


def _router(kit: Kit, strategy: Strategy) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["strategy"])

    @router.get("/assets/{asset}/state")
    async def state(asset: AssetName) -> dict[str, Any]:
        """Say how an asset stands: phase, direction, score with its parts, reset range, position."""
        desk = strategy.desk
        if asset not in desk.assets:
            meant = nearest(asset, desk.assets) if desk.assets else "none is configured"
            raise HTTPException(404, f"asset was {asset!r}, there is no such asset: {meant}")
        shown, standing = desk.show(asset), desk.standing
        held = [one for one in standing.holdings if one.asset == asset] if standing is not None else []
        return {
            "asset": asset,
            "instrument": desk.assets[asset].id,
            "warm": shown.warm,
            "rows_s": shown.rows_s,
            "close": shown.close,
            "second": None if shown.record is None else msgspec.to_builtins(shown.record),
            "position": [msgspec.to_builtins(one) for one in held],
            "entry": None if shown.entry is None else msgspec.to_builtins(shown.entry),
            "taken_ts": desk.taken_ts,
            "decided_ts": desk.decided_ts,
        }

    @router.get("/parameters")
    async def parameters() -> dict[str, Any]:
        """Return the parameters in force, those that come, and which held from which second on."""
        swaps, _ = await accounts.swaps_of(kit.bus)
        desk = strategy.desk
        return {
            "hash": desk.params.hash,
            "values": msgspec.to_builtins(desk.params),
            "next_hash": desk.params_after.hash,
            "asked": strategy.asked,
            "refused": strategy.refused,
            "log": [{"from_ts": swap.from_ts, "hash": swap.params.hash} for swap in swaps],
        }

    @router.put("/parameters", dependencies=[writer()])
    async def put_parameters(values: dict[str, Any]) -> dict[str, Any]:
        """Let other parameters hold from the next second on; a field that is left out has its default."""
        try:
            params = params_from(values)
        except SpecError as error:
            raise HTTPException(422, str(error)) from error
        await kit.bus.put(accounts.BUCKET, accounts.PARAMS, canonical(values))
        return {"hash": params.hash, "values": msgspec.to_builtins(params)}

    @router.post("/evaluate")
    async def evaluate(second: Second) -> Any:
        """Scan the 28 hours before a second again and name every input of its score; nothing is decided."""
        assert kit.store is not None
        try:
            found = await kit.in_thread(
                explaining.explain_second, kit.store, second.asset, second.ts, strategy.desk.params
            )
        except DataHoleError as error:
            raise HTTPException(404, str(error)) from error
        return msgspec.to_builtins(found)

    return router


class _Metrics(Collector):
    """Counts of the strategy, from zero on."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy

    def collect(self) -> Iterator[Metric]:
        strategy, desk = self._strategy, self._strategy.desk
        for name in COUNTS:
            yield CounterMetricFamily(f"squeezeflow_strategy_{name}", HELP[name], value=strategy.counts[name])
        gauges = {
            "decided_seconds": ("Up to where seconds are decided, UTC.", desk.decided_ts),
            "undecided_seconds": ("Seconds of rows that are not decided.", desk.undecided_s),
            "warming": ("Assets that have not seen 28 h of rows.", len(desk.warming)),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"squeezeflow_strategy_{name}", text, value)
