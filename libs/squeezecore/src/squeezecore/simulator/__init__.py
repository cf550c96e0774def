"""Seeded market worlds: several markets an asset, spot and perpetual, with regimes whose truth is known.

The same spec gives the same bytes on any machine, and a day is the same whatever days are made beside it. `simulate_rows`
gives what a store holds (bars, open interest, funding, rows); `simulate_trades` and `wire_frames` give the prints those
bars are made of. docs/simulator.md says what is calibrated to what.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from squeezecore import flow
from squeezecore.errors import UsageError
from squeezecore.market import DAY_S, Bars, FundingSeries, OpenInterestSeries, Rows, Trades, concat
from squeezecore.simulator.facts import open_interest_truth, publish_funding, publish_open_interest
from squeezecore.simulator.noise import key
from squeezecore.simulator.plan import USD_M, Plan, keys_of, plan_day
from squeezecore.simulator.profiles import PROFILES, asset_config, instruments, profile_of
from squeezecore.simulator.regimes import Push, Regime, draw, push_of
from squeezecore.simulator.tape import make_tape
from squeezecore.simulator.wire import wire_frames
from squeezecore.spec import day_start_s

__all__ = [
    "PROFILES",
    "MarketDay",
    "Regime",
    "WorldSpec",
    "asset_config",
    "instruments",
    "regimes",
    "simulate_day",
    "simulate_rows",
    "simulate_trades",
    "wire_frames",
]

_MOODY = {"noise": 1.0, "squeeze": 0.5}  # in squeeze worlds the regimes carry what moods carry elsewhere
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class WorldSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A simulated market: which assets, which UTC days, and whether somebody gets trapped.

    `squeeze` plants regimes whose flows foretell a move; in `noise` flows know nothing of the future. Only `seed` and
    `kind` enter the noise: the days of two specs that share them agree wherever they overlap.
    """

    seed: Seed = 7
    start: dt.date = dt.date(2026, 1, 1)
    days: Annotated[int, Meta(ge=1, le=3_660)] = 3
    assets: Annotated[tuple[str, ...], Meta(min_length=1, max_length=16)] = ("BTC",)
    kind: Literal["squeeze", "noise"] = "squeeze"

    def __post_init__(self) -> None:
        """Refuse what no world knows."""
        for asset in self.assets:
            profile_of(asset)
        if len(set(self.assets)) != len(self.assets):
            raise UsageError(
                f"assets were {', '.join(self.assets)}, each may stand there once: remove the repeated one"
            )
        if not 2017 <= self.start.year <= 2099:
            raise UsageError(f"start was {self.start}, the limits are 2017-01-01 and 2099-12-31: choose a day between")

    def all_days(self) -> list[dt.date]:
        """Return the world's days, in order."""
        return [self.start + dt.timedelta(n) for n in range(self.days)]


class MarketDay(NamedTuple):
    """One asset's simulated day."""

    day: dt.date
    rows: Rows
    open_interest: OpenInterestSeries  # of the traded perpetual
    funding: FundingSeries  # of the traded perpetual
    bars: dict[str, Bars]  # by instrument id


def regimes(world: WorldSpec, asset: str, day: dt.date) -> tuple[Regime, ...]:
    """Return the truth: the episodes planted in a day; none in a noise world."""
    if world.kind == "noise":
        return ()
    return draw(world.seed, asset, _number(day), profile_of(asset).sigma_bp)


def simulate_day(world: WorldSpec, asset: str, day: dt.date) -> MarketDay:
    """Make one day of an asset; the day need not lie within the world's days, so a warm-up can be had before them."""
    number = _number(day)
    profile, listed = profile_of(asset), instruments(asset)
    plan, push = _plan(world, asset, day)
    keys = keys_of(world.seed, world.kind, asset)
    bars = {
        listed[m].id: make_tape(
            plan, m, market, listed[m], profile.price_usd, keys.market[m], number * DAY_S, 0, DAY_S, with_trades=False
        )[0]
        for m, market in enumerate(profile.markets)
    }
    traded = bars[listed[USD_M].id]
    stream = key(world.seed, world.kind, asset, "facts")
    mean = round(profile.open_interest * 10 ** listed[USD_M].qty_decimals)
    truth = open_interest_truth(stream, number, mean, traded.buy_volume + traded.sell_volume, push.interest)
    interest = publish_open_interest(stream, number, truth)
    funding = publish_funding(stream, number)
    params = flow.row_params(asset_config(asset), {one.id: one for one in listed})
    _, rows = flow.scan_rows(params, flow.rows_initial(params), bars, interest, funding)
    return MarketDay(day, rows, interest, funding, bars)


def simulate_rows(world: WorldSpec, asset: str) -> Iterator[MarketDay]:
    """Make an asset's days one after the other, about a tenth of a second each."""
    for day in world.all_days():
        yield simulate_day(world, asset, day)


def simulate_trades(world: WorldSpec, asset: str, start_s: int, end_s: int) -> dict[str, Trades]:
    """Make the prints of seconds `start_s..end_s-1` of an asset's markets, by instrument id.

    Their bars are those of `simulate_day`, to the last unit; ids run on from day to day without a hole.
    """
    if end_s <= start_s:
        raise UsageError(f"range was {start_s}..{end_s}, the end must lie after the start: swap them")
    profile, listed = profile_of(asset), instruments(asset)
    keys = keys_of(world.seed, world.kind, asset)
    parts: dict[str, list[Trades]] = {one.id: [] for one in listed}
    for number in range(start_s // DAY_S, (end_s - 1) // DAY_S + 1):
        plan, _ = _plan(world, asset, dt.date(1970, 1, 1) + dt.timedelta(number))
        midnight = number * DAY_S
        first, last = max(0, start_s - midnight), min(DAY_S, end_s - midnight)
        for m, market in enumerate(profile.markets):
            _, trades = make_tape(
                plan, m, market, listed[m], profile.price_usd, keys.market[m], midnight, first, last, with_trades=True
            )
            parts[listed[m].id].append(trades)
    return {name: concat(found) for name, found in parts.items()}


def _plan(world: WorldSpec, asset: str, day: dt.date) -> tuple[Plan, Push]:
    number = _number(day)
    push = push_of(regimes(world, asset, day), number, _MOODY[world.kind])
    return plan_day(profile_of(asset), keys_of(world.seed, world.kind, asset), number, push), push


def _number(day: dt.date) -> int:
    """Count a day from 1970."""
    return day_start_s(day) // DAY_S
