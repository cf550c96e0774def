"""A backtest of a simulated market trades as often, as long and in such sizes as the strategy expects, within twice.

The expectations are those at the end of strategy.md's laws. The reset machine's shares of time are held in `test_simulator`.
"""

import datetime as dt
import functools
import statistics
from typing import NamedTuple

import numpy as np
import pytest

from squeezecore import backtest, squeeze
from squeezecore.fold import Fold, Result
from squeezecore.market import DAY_S, Rows, concat, cut
from squeezecore.simulator import WorldSpec, asset_config, instruments, simulate_day
from squeezecore.spec import BacktestSpec, day_start_s
from squeezecore.trading import Direction

START = dt.date(2026, 1, 3)
WARMUP_DAYS = 2
KINDS = ("squeeze", "noise")


class Rates(NamedTuple):
    """What backtests came to, several seeds together."""

    trades_a_day: float
    long_share: float
    hold_min_median: float
    tiers: tuple[float, float, float]  # shares
    records_a_day: float


def run(kind: str, asset: str, seed: int, days: int) -> Result:
    """Backtest an asset's simulated days in memory, as one block."""
    world = WorldSpec(seed=seed, start=START, days=days, assets=(asset,), kind=kind)
    made = [simulate_day(world, asset, START + dt.timedelta(n)) for n in range(-WARMUP_DAYS, days)]
    whole, funding = concat([day.rows for day in made]), concat([day.funding for day in made])
    spec = BacktestSpec(assets=(asset,), start=START, end=START + dt.timedelta(days - 1))

    def read(_asset: str, start_s: int, end_s: int) -> Rows:
        first, end = np.searchsorted(whole.ts, [start_s, end_s])
        return cut(whole, int(first), int(end))

    begun = day_start_s(START)
    warmup = read(asset, backtest.warmup_start_s(START, spec.warmup_s), begun)
    rows = ((day, read(asset, day_start_s(day), day_start_s(day) + DAY_S)) for day in spec.days())
    fold = Fold(spec, {asset: traded_of(asset)}, {asset: funding}, "test")
    for scan in backtest.scan_block(squeeze.params_from(spec.params), asset, warmup, rows, spec.warmup_s):
        fold.add_day(scan.day, {asset: scan}, read)
    return fold.finish(0)


def traded_of(asset: str):
    return next(one for one in instruments(asset) if one.id == asset_config(asset).traded)


@functools.cache
def rates(kind: str, asset: str, seeds: tuple[int, ...], days: int) -> Rates:
    results = [run(kind, asset, seed, days) for seed in seeds]
    trades = [trade for result in results for trade in result.trades]
    total = len(seeds) * days
    return Rates(
        trades_a_day=len(trades) / total,
        long_share=sum(trade.direction is Direction.BULLISH for trade in trades) / len(trades),
        hold_min_median=statistics.median(trade.hold_s for trade in trades) / 60,
        tiers=tuple(sum(trade.tier == tier for trade in trades) / len(trades) for tier in (1, 2, 3)),
        records_a_day=sum(result.summary.records for result in results) / total,
    )


def check(found: Rates) -> None:
    """Hold rates to the expectation: 4 to 6 trades a day, holds of 20 to 50 minutes, tiers 78 / 17 / 5 %, 120 records."""
    assert 4 / 2 <= found.trades_a_day <= 6 * 2, found
    assert 20 / 2 <= found.hold_min_median <= 50 * 2, found
    for share, expected in zip(found.tiers, (0.78, 0.17, 0.05), strict=True):
        assert expected / 2 <= share <= expected * 2, found
    assert 120 / 2 <= found.records_a_day <= 120 * 2, found
    for share in (found.long_share, 1 - found.long_share):  # 40 to 60 %: neither side falls below half of its least
        assert share >= 0.40 / 2, found


@pytest.mark.parametrize("kind", KINDS)
def test_a_fortnight_of_three_markets_trades_as_the_strategy_expects(kind: str) -> None:
    check(rates(kind, "BTC", (1, 2, 3), 14))


@pytest.mark.slow
@pytest.mark.parametrize("asset", ["BTC", "ETH", "SOL"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_months_of_an_asset_trade_as_the_strategy_expects(kind: str, asset: str) -> None:
    check(rates(kind, asset, (4, 5), 30))
