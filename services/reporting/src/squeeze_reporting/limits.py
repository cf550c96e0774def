"""How much of each limit an account uses, from its last word on the bus; the executor need not answer for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException

from squeeze_reporting.board import Lane
from squeezecore.adapters import accounts
from squeezecore.adapters.accounts import Plan
from squeezecore.adapters.bus import Bus
from squeezecore.ledger import notional_usd_e8
from squeezecore.spec import Limits
from squeezecore.trading import USD_E8
from squeezecore.wire import Clock, Standing


async def used(bus: Bus, account: str, lanes: Mapping[str, Lane]) -> dict[str, Any]:
    """Return an account's limits with what is used of each, and how it stands."""
    last = await bus.last(f"trade.v1.clock.{account}")
    if last is None or not isinstance(last.message, Clock):
        raise HTTPException(404, f"account was {account}, it has never been heard of: see whether its executor runs")
    found = await bus.get(accounts.BUCKET, accounts.plan_key(account))
    plan = Plan() if found is None else accounts.decoded(accounts.plan_key(account), found[0], Plan)
    standing = last.message.standing
    measured = measure(standing, last.message.settled_ts, lanes)
    return {
        "account": account,
        "settled_ts": last.message.settled_ts,
        "state": str(standing.state),
        "kill_switch": standing.kill_switch,
        "equity_usd": standing.equity_usd_e8 / USD_E8,
        "peak_usd": standing.peak_usd_e8 / USD_E8,
        "limits": {name: _entry(measured.get(name), limit) for name, limit in _limits(plan.limits).items()},
    }


def measure(standing: Standing, ts: int, lanes: Mapping[str, Lane]) -> dict[str, float]:
    """Return what is used of each limit that can be measured while nothing is asked for."""
    equity = standing.equity_usd_e8

    def fallen(since: int) -> float:
        return max(0, since - equity) / since if since > 0 else 0.0

    values = {}
    for one in standing.holdings:
        lane = lanes.get(one.asset)
        if lane is not None and lane.instrument.id == one.instrument:
            values[one.asset] = abs(notional_usd_e8(lane.instrument, lane.mark, one.qty)) / USD_E8
    together = [sum(values.get(asset, 0.0) for asset in cluster) for cluster in standing.clusters]
    lone = [value for asset, value in values.items() if not any(asset in cluster for cluster in standing.clusters)]
    gross = standing.gross_usd_e8
    found = {
        "daily_loss_max": fallen(standing.day_open_usd_e8),
        "weekly_loss_max": fallen(standing.week_open_usd_e8),
        "drawdown_max": fallen(standing.peak_usd_e8),
        "drawdown_taper_start": fallen(standing.peak_usd_e8),
        "leverage_max": gross / equity if equity > 0 else 0.0,
        "open_positions_max": float(len(standing.holdings)),
        "orders_per_minute_max": float(sum(sent > ts - 60 for sent in standing.sent_ts)),
        "position_notional_usd_max": max(values.values(), default=0.0),
        "correlated_exposure_max": max((*together, *lone), default=0.0) * USD_E8 / equity if equity > 0 else 0.0,
    }
    if gross:
        found["liquidation_distance_min"] = equity / gross
    return found


def _limits(limits: Limits) -> dict[str, float]:
    return {name: getattr(limits, name) for name in limits.__struct_fields__}


def _entry(value: float | None, limit: float) -> dict[str, float | None]:
    return {"used": value, "limit": limit}
