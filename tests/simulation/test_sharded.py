"""A backtest's result does not depend on how its days were shared out: a simulated month, byte for byte."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from squeezecore import backtest, squeeze
from squeezecore.fold import Fold, Result
from squeezecore.market import DAY_S, FundingSeries, Rows, concat, cut
from squeezecore.simulator import WorldSpec, asset_config, instruments, simulate_day
from squeezecore.spec import BacktestSpec, day_start_s

START = dt.date(2026, 1, 3)
BEFORE_DAYS = 2


@functools.lru_cache(maxsize=4)
def market(asset: str, days: int) -> tuple[Rows, FundingSeries]:
    """Make a market's rows, two days of warm-up included."""
    spec = WorldSpec(seed=21, start=START, days=days, assets=(asset,))
    made = [simulate_day(spec, asset, START + dt.timedelta(n)) for n in range(-BEFORE_DAYS, days)]
    return concat([day.rows for day in made]), concat([day.funding for day in made])


class Run:
    """One backtest in memory."""

    def __init__(self, days: int, assets: tuple[str, ...] = ("BTC",), warmup_s: int = 28 * 3600) -> None:
        self.days = days
        self.spec = BacktestSpec(assets=assets, start=START, end=START + dt.timedelta(days - 1), warmup_s=warmup_s)
        self.params = squeeze.params_from(self.spec.params)
        self.scanned: list[tuple[str, dt.date]] = []

    def read(self, asset: str, start_s: int, end_s: int) -> Rows:
        rows, _ = market(asset, self.days)
        first, end = np.searchsorted(rows.ts, [start_s, end_s])
        return cut(rows, int(first), int(end))

    def scan_from(self, asset: str, first: dt.date, last: dt.date) -> Iterator[backtest.DayScan]:
        start_s, days = day_start_s(first), (last - first).days + 1
        warmup = self.read(asset, backtest.warmup_start_s(first, self.spec.warmup_s), start_s)
        rows = (
            (first + dt.timedelta(n), self.read(asset, start_s + n * DAY_S, start_s + (n + 1) * DAY_S))
            for n in range(days)
        )
        for scan in backtest.scan_block(self.params, asset, warmup, rows, self.spec.warmup_s):
            self.scanned.append((asset, scan.day))
            yield scan

    def scans(self, shards: int) -> list[backtest.DayScan]:
        items = backtest.plan(self.spec, shards)
        return [s for item in items for s in self.scan_from(item.asset, item.first_day, item.days()[-1])]

    def fold(self, scans: list[backtest.DayScan], repaired: int = 0) -> Result:
        traded = {
            asset: next(i for i in instruments(asset) if i.id == asset_config(asset).traded)
            for asset in self.spec.assets
        }
        funding = {asset: market(asset, self.days)[1] for asset in self.spec.assets}
        fold = Fold(self.spec, traded, funding, "test")
        by_day = {(s.asset, s.day): s for s in scans}
        for day in self.spec.days():
            fold.add_day(day, {asset: by_day[asset, day] for asset in self.spec.assets}, self.read)
        return fold.finish(repaired)


def test_one_two_five_and_thirty_shards_of_a_month_give_the_same_bytes():
    run = Run(30)
    results = {}
    for shards in (1, 2, 5, 30):
        scans = run.scans(shards)
        assert len(scans) == 30
        fresh = {(s.asset, s.day): s for s in backtest.repair(scans, run.scan_from)}
        scans = [fresh.get((s.asset, s.day), s) for s in scans]
        assert not backtest.seams(scans)
        results[shards] = (scans, run.fold(scans))
    scans, result = results[1]
    assert result.summary.trades >= 30
    for other_scans, other in results.values():
        assert other_scans == scans
        assert other.lines() == result.lines()
        assert other.equity_usd_e8.tobytes() == result.equity_usd_e8.tobytes()


@pytest.mark.parametrize("hours", [4, 22])
def test_seams_of_a_short_warmup_are_found_and_repaired_to_the_same_hash(hours: int):
    run = Run(8, warmup_s=hours * 3600)
    whole = run.scans(1)
    truth = run.fold(whole)
    parts = run.scans(4)
    broken = backtest.seams(parts)
    assert len(broken) == 3
    run.scanned.clear()
    fresh = backtest.repair(parts, run.scan_from)
    assert {s.day for s in broken} <= {s.day for s in fresh}
    by_day = {s.day: s for s in fresh}
    repaired = [by_day.get(s.day, s) for s in parts]
    assert not backtest.seams(repaired)
    assert repaired == whole
    result = run.fold(repaired, len(fresh))
    assert result.result_hash == truth.result_hash
    assert result.summary.seams_repaired == len(fresh) > 0


def test_the_first_days_of_a_longer_run_are_the_shorter_run():
    short, long = Run(3), Run(5)
    market.cache_clear()
    one, other = short.fold(short.scans(1)), long.fold(long.scans(1))
    border = day_start_s(short.spec.end) + DAY_S
    decided = [t for t in one.trades if t.exit_ts < border]
    assert decided
    assert decided == [t for t in other.trades if t.exit_ts < border]
    minutes = one.equity_ts < border
    assert one.equity_usd_e8[minutes].tobytes() == other.equity_usd_e8[other.equity_ts < border].tobytes()


def test_a_run_of_two_assets_matches_its_golden_file(golden: Callable[[str, list[str]], None]):
    run = Run(3, assets=("BTC", "ETH"))
    golden("backtest_btc_eth.txt", run.fold(run.scans(2)).lines())
