"""executor: settings, wiring, and what it answers over HTTP."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, HTTPException, Query
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel, BeforeValidator, Field

from squeeze_executor.keeping import Keep
from squeeze_executor.trading import COUNTS, Executor
from squeeze_executor.venue import Paper, Venue
from squeezecore import risk
from squeezecore.adapters.accounts import Plan, Switches
from squeezecore.adapters.service import PAGE, Kit, PageSize, Part, ServiceSettings, writer
from squeezecore.engine import loss_floor_usd_e8
from squeezecore.errors import SqueezeError
from squeezecore.risk import TradingState
from squeezecore.trading import USD_E8

TS_MAX = 2**32 - 1
HELP = {
    "seconds": "Seconds settled.",
    "orders": "Orders that were asked for.",
    "denied": "Of them denied by the limits.",
    "sent": "Of them sent to the venue.",
    "fills": "Fills.",
    "payments": "Funding payments.",
    "clocks": "Standings told to the strategy.",
    "snapshots": "States stored.",
    "late_funding": "Funding rates that came after their second.",
    "store_errors": "Writes that ClickHouse did not take at once.",
}

From = Annotated[int, Query(alias="from", ge=0, le=TS_MAX, description="The first second, UTC.")]
To = Annotated[int, Query(alias="to", ge=0, le=TS_MAX, description="The second after the last.")]


class Settings(ServiceSettings):
    """What the executor can be told."""

    account: str = Field(default="paper", pattern=r"^[A-Za-z0-9_-]{1,32}$", description="The account it trades.")
    capital_usd: int = Field(
        default=100_000, ge=100, le=1_000_000_000, description="Capital of an account that is new; later it is known."
    )
    from_streams: bool = Field(
        default=False, description="Go on although the store or the stream of trading was lost; for one start."
    )


def _lower(text: object) -> object:
    return text.lower() if isinstance(text, str) else text


class Reason(BaseModel, extra="forbid"):
    """Why somebody switches."""

    reason: str = Field(min_length=1, max_length=500)


class Resume(Reason):
    """Switching on again asks for the account's name, so that it is never a slip."""

    confirm: str = Field(description="The account's name.")


class Limit(Reason):
    """Another trading state."""

    state: Annotated[Literal["active", "reducing", "halted"], BeforeValidator(_lower)]


async def build(kit: Kit, stack: AsyncExitStack, *, venue_of: Callable[[Paper], Venue] = lambda paper: paper) -> Part:
    """Put the service together."""
    del stack
    assert kit.store is not None
    settings: Settings = kit.settings
    keep = Keep(kit.store, settings.account)
    executor = Executor(
        kit, keep, settings.account, Plan(capital_usd=settings.capital_usd), f"{socket.gethostname()}.{os.getpid()}",
        from_streams=settings.from_streams, venue_of=venue_of,
    )  # fmt: skip
    kit.registry.register(_Metrics(executor))

    async def switches_are_readable() -> None:
        if executor.switchboard.error:
            raise SqueezeError(executor.switchboard.error)

    async def account_is_known() -> None:
        if executor.state != "RUNNING":
            raise SqueezeError(f"account {settings.account} is {executor.state.lower()}")

    probes = {"switches": switches_are_readable, "account": account_is_known}
    return Part(run=executor.run, router=_router(kit, keep, executor), probes=probes, status=executor.status)


def _router(kit: Kit, keep: Keep, executor: Executor) -> APIRouter:
    router = APIRouter(tags=["trading"])
    board = executor.switchboard

    def shown(switches: Switches) -> dict[str, Any]:
        return {"account": executor.account, **msgspec.to_builtins(switches)}

    @router.post("/kill", dependencies=[writer("executor")])
    async def kill(body: Reason) -> dict[str, Any]:
        """End all positions, let nothing in; holds over restarts, until resumed."""
        return shown(await board.kill(body.reason))

    @router.post("/resume", dependencies=[writer("executor")])
    async def resume(body: Resume) -> dict[str, Any]:
        """Trade again after a kill or a halt."""
        if body.confirm != executor.account:
            raise HTTPException(422, f"confirm was {body.confirm!r}, it must be the account's name, {executor.account}")
        return shown(await board.resume(body.reason))

    @router.post("/state", dependencies=[writer("executor")])
    async def state(body: Limit) -> dict[str, Any]:
        """Let nothing in (`reducing`, `halted`), or trade again after `reducing`."""
        return shown(await board.limit(TradingState(body.state), body.reason))

    @router.get("/v1/switches")
    async def switches() -> dict[str, Any]:
        """Say what the account may do."""
        return {**shown(board.switches), "kill_switch": board.kill_switch, "error": board.error}

    @router.get("/v1/positions")
    async def positions() -> list[dict[str, Any]]:
        """Return what is held, at the last marks."""
        ledger = executor.settling.account.exchange.ledger
        return [
            {
                "asset": position.asset,
                "instrument": name,
                "qty": position.qty,
                "cost_usd_e8": position.cost_usd_e8,
                "value_usd_e8": ledger.value_of(name),
                "unrealised_usd_e8": ledger.unrealised_of(name),
                "mark": ledger.marks[name],
                "opened_ts": position.opened_ts,
            }
            for name, position in sorted(ledger.positions.items())
        ]

    @router.get("/v1/orders")
    async def orders(start_s: From = 0, end_s: To = TS_MAX, limit: PageSize = PAGE) -> dict[str, Any]:
        """Return open orders, and those decided in a range with what became of them."""
        found = await kit.in_thread(keep.orders, start_s, end_s, limit)
        last = found[-1].decided_ts + 86_400 if found else 0
        updates = await kit.in_thread(keep.updates, found[0].decided_ts if found else 0, last, 10 * limit)
        states = {update.order_id: update for update in updates}
        still = await executor.venue.open_orders()
        return {
            "open": [{**msgspec.to_builtins(order), "remaining": rest} for order, rest in still],
            "orders": [
                {**msgspec.to_builtins(order), "last_update": msgspec.to_builtins(states.get(order.id))}
                for order in found
            ],
        }

    @router.get("/v1/fills")
    async def fills(start_s: From = 0, end_s: To = TS_MAX, limit: PageSize = PAGE) -> list[dict[str, Any]]:
        """Return the first fills of a range."""
        return [msgspec.to_builtins(fill) for fill in await kit.in_thread(keep.fills, start_s, end_s, limit)]

    @router.get("/v1/account")
    async def account() -> dict[str, Any]:
        """Say how the account stands, and how much of each limit is used."""
        return _account(executor)

    return router


def _account(executor: Executor) -> dict[str, Any]:
    settling, limits = executor.settling, executor.plan.limits
    standing, totals = settling.account.standing(), settling.account.exchange.ledger.totals
    equity = standing.equity_usd_e8

    def fallen(since: int) -> float:
        return max(0, since - equity) / since if since > 0 else 0.0

    used = {
        "daily_loss_max": (fallen(standing.day_open_usd_e8), limits.daily_loss_max),
        "weekly_loss_max": (fallen(standing.week_open_usd_e8), limits.weekly_loss_max),
        "drawdown_max": (fallen(standing.peak_usd_e8), limits.drawdown_max),
        "leverage_max": (standing.gross_usd_e8 / equity if equity > 0 else 0.0, limits.leverage_max),
        "open_positions_max": (len(standing.holdings), limits.open_positions_max),
        "orders_per_minute_max": (
            sum(ts > settling.settled_ts - 60 for ts in standing.sent_ts), limits.orders_per_minute_max
        ),
    }  # fmt: skip
    largest = max(
        (abs(settling.account.exchange.ledger.value_of(one.instrument)) for one in standing.holdings), default=0
    )
    used["position_notional_usd_max"] = (largest / USD_E8, limits.position_notional_usd_max)
    return {
        "account": executor.account,
        "settled_ts": settling.settled_ts,
        "decided_ts": settling.decided_ts,
        "equity_usd_e8": equity,
        "gross_usd_e8": standing.gross_usd_e8,
        "day_open_usd_e8": standing.day_open_usd_e8,
        "week_open_usd_e8": standing.week_open_usd_e8,
        "peak_usd_e8": standing.peak_usd_e8,
        "loss_floor_usd_e8": loss_floor_usd_e8(standing.day_open_usd_e8, limits),
        "size_factor": risk.size_factor(settling.account.book(settling.settled_ts, {}), limits),
        "totals": totals._asdict(),
        "state": str(executor.switchboard.state),
        "kill_switch": executor.switchboard.kill_switch,
        "capital_usd": executor.plan.capital_usd,
        "limits": {name: {"used": use, "limit": limit} for name, (use, limit) in used.items()},
        "costs": msgspec.to_builtins(executor.plan.costs),
    }


class _Metrics(Collector):
    """Counts of the account, from zero on."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def collect(self) -> Iterator[Metric]:
        executor = self._executor
        for name in COUNTS:
            yield CounterMetricFamily(f"squeezeflow_executor_{name}", HELP[name], value=executor.counts[name])
        settling, board = executor.settling, executor.switchboard
        ledger = settling.account.exchange.ledger
        gauges = {
            "settled_seconds": ("Up to where the account is settled, UTC.", settling.settled_ts),
            "waiting_seconds": ("Seconds of rows that wait to be settled.", settling.waiting_s),
            "equity_usd": ("What the account is worth.", ledger.equity_usd_e8 / USD_E8),
            "positions": ("Positions held.", len(ledger.positions)),
            "open_orders": ("Orders open.", len(settling.account.open_orders())),
            "kill_switch": ("Whether the kill switch is on.", float(board.kill_switch)),
            "trading": (
                "Whether entries may pass.",
                float(board.state is TradingState.ACTIVE and not board.kill_switch),
            ),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"squeezeflow_executor_{name}", text, value)
