"""A summary is plain arithmetic over stored values; each figure is checked against the slow, obvious way."""

from __future__ import annotations

import datetime as dt
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezecore import report
from squeezecore.fold import Result
from squeezecore.ledger import Drawdown
from squeezecore.report import DayFacts, Summary, Trade
from squeezecore.spec import canonical
from squeezecore.trading import USD_E8, Direction
from support.backtest_worlds import world

CAPITAL = 10_000 * USD_E8


def run(seed: int = 11) -> Result:
    result, _ = world(seed, assets=("BTC", "ETH"), days=2, seconds=6_000).run()
    assert result is not None
    return result


def add_up(trades: list[Trade], facts: list[DayFacts]) -> Summary:
    return report.summarise(
        trades, facts, capital_usd_e8=CAPITAL, equity_usd_e8=CAPITAL, drawdown=Drawdown(CAPITAL, 0, 0.0),
        seconds_held=10, seconds_run=40,
    )  # fmt: skip


def fact(asset: str, day: int, first_open: int, last_close: int, seconds: int = 86_400) -> DayFacts:
    return DayFacts(
        asset=asset, day=dt.date(2026, 1, day), seconds=seconds, incomplete=1, holes=2, first_open=first_open,
        last_close=last_close,
    )  # fmt: skip


def test_every_figure_is_what_its_name_says():
    result = run()
    trades, summary = result.trades, result.summary
    assert len(trades) > 5
    assert summary.trades == len(trades)
    assert summary.wins == len([t for t in trades if t.pnl_usd_e8 > 0])
    assert summary.win_rate == summary.wins / len(trades)
    assert summary.long_share == len([t for t in trades if t.direction is Direction.BULLISH]) / len(trades)
    assert summary.hold_s_median == statistics.median(t.exit_ts - t.entry_ts for t in trades)
    assert summary.fees_usd_e8 == sum(t.fees_usd_e8 for t in trades)
    assert summary.slippage_usd_e8 == sum(t.slippage_usd_e8 for t in trades)
    assert summary.funding_usd_e8 == sum(t.funding_usd_e8 for t in trades)
    assert summary.total_return == (summary.equity_usd_e8 - CAPITAL) / CAPITAL
    assert sum(summary.exits.values()) == sum(summary.tiers.values()) == len(trades)
    assert sum(summary.trades_by_asset.values()) == len(trades)
    assert 0 < summary.exposure < 1
    assert summary.days == 2


def test_the_drawdown_is_the_deepest_fall_from_a_peak():
    result = run()
    peak, deepest = CAPITAL, 0
    for equity in result.equity_usd_e8.tolist():
        peak = max(peak, equity)
        deepest = max(deepest, peak - equity)
    # the summary looks at every second, the points are one a minute and at each fill
    assert deepest <= result.summary.drawdown_max_usd_e8 <= deepest * 2
    assert result.summary.drawdown_max == pytest.approx(result.summary.drawdown_max_usd_e8 / peak, rel=0.1)


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=20)
def test_the_order_of_trades_and_days_does_not_matter(seed: int):
    trades = list(run().trades)
    facts = [fact(asset, day, 100 + day, 101 + day) for asset in ("BTC", "ETH") for day in (1, 2, 3)]
    before = canonical(add_up(trades, facts))
    shuffled = random.Random(seed)
    shuffled.shuffle(trades)
    shuffled.shuffle(facts)
    assert canonical(add_up(trades, facts)) == before


def test_buy_and_hold_goes_from_the_first_open_to_the_last_close():
    facts = [fact("BTC", 2, 110, 120), fact("BTC", 1, 100, 111), fact("ETH", 1, 0, 0, 0), fact("ETH", 2, 50, 40)]
    summary = add_up([], facts)
    assert summary.buy_and_hold == {"BTC": 0.2, "ETH": -0.2}
    assert summary.buy_and_hold_equal == 0.0
    assert summary.holes == 8
    assert summary.seconds == 3 * 86_400


def test_a_run_without_trades_is_all_zeros_and_no_error():
    summary = add_up([], [])
    assert (summary.trades, summary.win_rate, summary.profit_factor, summary.hold_s_median) == (0, 0.0, 0.0, 0.0)
    assert summary.exposure == 0.25


def test_lines_are_sorted_and_tell_every_value():
    found = report.lines({"b": [3, {"x": 0.1}], "a": True, "empty": {}})
    assert found == ["a=True", "b.0=3", "b.1.x=0.1"]
    numbers = report.lines(list(range(12)))
    assert numbers[2] == "02=2"
    assert numbers == sorted(numbers)


def test_a_results_lines_change_with_any_trade():
    one, other = run().lines(), run(12).lines()
    assert one != other
    assert any(line.startswith("result_hash=") for line in one)
    assert any(line.startswith(("trade.00.pnl_usd_e8=", "trade.0.pnl_usd_e8=")) for line in one)
