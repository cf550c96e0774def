"""What desk and executor of an account must agree on, in the bucket `config`: its plan, its switches, the parameters.

* `account.<name>`: capital, costs and limits. Made by whoever starts first; a change holds from the services' next start.
* `switch.<name>`: may it trade? Read by the executor before each order; what cannot be read forbids entries.
* `params`: the strategy's parameters as asked for; `params.log`: which held from which second on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, TypeVar

import msgspec

from squeezecore.adapters import catalogue
from squeezecore.adapters.bus import Bus, BusError, Conflict
from squeezecore.errors import UsageError
from squeezecore.market import Instrument
from squeezecore.risk import TradingState
from squeezecore.spec import AssetConfig, Costs, Limits, canonical
from squeezecore.squeeze import SqueezeParams

BUCKET = "config"
ASSETS, PARAMS, PARAMS_LOG = "assets", "params", "params.log"
LOG_MAX = 100  # swaps remembered
TRIES = 5  # of a compare-and-set
LOOK_S = 0.25  # between two looks at what is not there yet

Value = TypeVar("Value")


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an account trades with."""

    capital_usd: Annotated[int, msgspec.Meta(ge=100, le=1_000_000_000)] = 100_000
    costs: Costs = Costs()
    limits: Limits = Limits()


class Switches(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an account may do. The kill switch also ends what it holds."""

    state: TradingState = TradingState.ACTIVE
    kill_switch: bool = False
    reason: str = ""
    at_ns: int = 0  # UTC


class Swap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters and the first second they hold for."""

    from_ts: int
    params: SqueezeParams


def plan_key(account: str) -> str:
    """Return the key of an account's plan."""
    return f"account.{account}"


def switch_key(account: str) -> str:
    """Return the key of an account's switches."""
    return f"switch.{account}"


def decoded(key: str, data: bytes, kind: type[Value]) -> Value:
    """Read a key's value; raise `UsageError` that names the key."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UsageError) as error:
        raise UsageError(f"key {key} of bucket {BUCKET} was not understood ({error}): mend it") from error


async def plan_of(bus: Bus, account: str, fallback: Plan) -> Plan:
    """Return an account's plan; where there is none, `fallback` becomes it."""
    found = await bus.get(BUCKET, plan_key(account))
    if found is None:
        try:
            await bus.put(BUCKET, plan_key(account), canonical(fallback), revision=0)
        except Conflict:
            found = await bus.get(BUCKET, plan_key(account))
    return fallback if found is None else decoded(plan_key(account), found[0], Plan)


async def switches_of(bus: Bus, account: str) -> tuple[Switches, int] | None:
    """Return an account's switches and their revision; None where they were never set."""
    found = await bus.get(BUCKET, switch_key(account))
    return None if found is None else (decoded(switch_key(account), found[0], Switches), found[1])


async def traded_instruments(bus: Bus, value: bytes) -> dict[str, Instrument]:
    """Return the traded instrument of each asset that key `assets` names, once all of them are known."""
    traded = {asset: config.traded for asset, config in decoded(ASSETS, value, dict[str, AssetConfig]).items()}
    return by_asset(traded, await catalogue.wait_for(bus, traded.values()))


async def first_assets(bus: Bus) -> dict[str, Instrument]:
    """Wait until assets are configured, and return the traded instrument of each."""
    while True:
        found = await bus.get(BUCKET, ASSETS)
        assets = {} if found is None else await traded_instruments(bus, found[0])
        if assets:
            return assets
        await asyncio.sleep(LOOK_S)


async def asset_changes(bus: Bus, refuse: Callable[[str], None]) -> AsyncIterator[dict[str, Instrument]]:
    """Yield the traded instruments whenever the assets were changed; what is wrong is told and changes nothing."""
    async for value, _ in bus.watch(BUCKET, ASSETS):
        while True:
            try:
                found = await traded_instruments(bus, value)
            except BusError:  # away for a while
                await asyncio.sleep(LOOK_S)
                continue
            except UsageError as error:
                refuse(str(error))
            else:
                yield found
            break


async def swaps_of(bus: Bus) -> tuple[list[Swap], int]:
    """Return which parameters held from when, oldest first, and the log's revision."""
    found = await bus.get(BUCKET, PARAMS_LOG)
    return ([], 0) if found is None else (decoded(PARAMS_LOG, found[0], list[Swap]), found[1])


async def log_swap(bus: Bus, swap: Swap) -> None:
    """Write down that parameters hold from a second on, before they do."""
    for _ in range(TRIES):
        known, revision = await swaps_of(bus)
        if swap in known:
            return
        try:
            await bus.put(BUCKET, PARAMS_LOG, canonical([*known, swap][-LOG_MAX:]), revision=revision)
        except Conflict:
            continue
        return
    raise UsageError(f"key {PARAMS_LOG} of bucket {BUCKET} is written by somebody else all the time: run one strategy")


def by_asset(traded: dict[str, str], instruments: dict[str, Instrument]) -> dict[str, Instrument]:
    """Pair assets with their traded instruments."""
    return {asset: instruments[name] for asset, name in sorted(traded.items())}
