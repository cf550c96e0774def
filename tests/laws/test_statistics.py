"""The laws of a run's statistics: they agree with what others define alike, with what was published, and with luck."""

import datetime as dt
import math
import re
import statistics as plain
import warnings
from decimal import Decimal
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezecore import statistics
from squeezecore.adapters import page
from squeezecore.errors import UsageError
from squeezecore.ledger import Drawdown, deepen
from squeezecore.market import Instrument, Kind, Margin
from squeezecore.report import Trade
from squeezecore.spec import canonical
from squeezecore.statistics import DAY_S, EDGE, FIGURES, NO_EDGE, TOO_FEW, Curve, Interval
from squeezecore.trading import USD_E8, Direction

with warnings.catch_warnings():
    # empyrical warns at its import where a package it can download prices with is missing; we ask it for formulas only
    warnings.filterwarnings("ignore", category=UserWarning, module="empyrical")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    import empyrical

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"
CAPITAL = 100_000 * USD_E8
START = 1_767_225_600  # 2026-01-01, a Thursday
BTC = Instrument(
    venue="binance", symbol="BTC-USDT-PERP", native_symbol="BTCUSDT", section="linear", base="BTC", quote="USDT",
    settle="USDT", kind=Kind.PERP, margin=Margin.LINEAR, price_decimals=3, qty_decimals=8, tick_size=Decimal("0.1"),
    lot_size=Decimal("0.001"),
)  # fmt: skip

returns_of_days = st.lists(st.floats(-0.2, 0.2, allow_subnormal=False), min_size=2, max_size=80).map(
    lambda values: [round(value, 9) for value in values]  # days that differ by rounding only are for another test
)


def curve(returns, start=START):
    """Return an account whose days end with these returns, a point a day."""
    equity = np.round(CAPITAL * np.cumprod(1 + np.asarray(returns, np.float64))).astype(np.int64)
    return Curve(start + DAY_S * np.arange(1, len(equity) + 1) - 1, equity, CAPITAL, start, len(equity))


def trade(pnl_usd=1.0, day=0, hour=12, hold_s=3600, **changes):
    entry = START + day * DAY_S + hour * 3600
    values = {
        "asset": "BTC", "instrument": BTC.id, "direction": Direction.BULLISH, "tier": 1, "score_milli": 5000,
        "decided_ts": entry - 1, "entry_ts": entry, "exit_ts": entry + hold_s, "entry_order_id": f"{day}-{hour}",
        "exit_order_id": "x", "qty": 10**8, "entry_price": 10**6, "exit_price": 10**6, "entry_usd_e8": 1_000 * USD_E8,
        "exit_usd_e8": 1_000 * USD_E8, "fees_usd_e8": USD_E8 // 2, "slippage_usd_e8": USD_E8 // 4,
        "funding_usd_e8": -USD_E8 // 4, "pnl_usd_e8": round(pnl_usd * USD_E8), "level": 0, "reason": "structure",
    }  # fmt: skip
    return Trade(**{**values, **changes})


def days_of(trades, days):
    """Return the daily returns that trades bring."""
    sums = np.zeros(days)
    for one in trades:
        sums[(one.exit_ts - START) // DAY_S] += one.pnl_usd_e8
    return sums / CAPITAL


def world(seed, mean_usd, days=120, a_day=2, swing_usd=600.0):
    """Return trades of a market in which one brings `mean_usd` in the mean, and the account's curve."""
    chance = np.random.default_rng(seed)
    pnl = chance.normal(mean_usd, swing_usd, (days, a_day))
    trades = [trade(pnl[day, n], day, 6 + n) for day in range(days) for n in range(a_day)]
    return trades, curve(days_of(trades, days))


def verdict(trades, of, seed=b"run", **tests):
    found = statistics.performance(of, trades)
    drawn = statistics.intervals(of, trades, seed, resamples=400)
    return statistics.judge(
        trades=found.trades, days=found.days, psr=found.psr, min_track_days=found.min_track_days, dsr=found.dsr,
        trials=found.trials, day_mean=drawn.values.get("day_mean"), **tests,
    )  # fmt: skip


# --- what others define alike ---


@pytest.mark.filterwarnings("ignore:.*divide by zero.*:RuntimeWarning", "ignore:.*invalid value.*:RuntimeWarning")
@given(values=returns_of_days)
@settings(deadline=None)
def test_numbers_agree_with_empyrical_where_both_define_them(values):
    row = np.array(values)
    pairs = [
        (statistics.total_return(row), empyrical.cum_returns_final(row)),
        (statistics.cagr(row), empyrical.cagr(row, annualization=365)),
        (statistics.annual_volatility(row), empyrical.annual_volatility(row, annualization=365)),
        (statistics.sharpe(row), empyrical.sharpe_ratio(row, annualization=365)),
        (statistics.sortino(row), empyrical.sortino_ratio(row, annualization=365)),
        (statistics.calmar(row), empyrical.calmar_ratio(row, annualization=365)),
        (statistics.omega(row), empyrical.omega_ratio(row)),
        (statistics.drawdown_max(row), -empyrical.max_drawdown(row)),
    ]
    if len(row) >= statistics.TAIL_DAYS_MIN:
        pairs.append((statistics.value_at_risk(row), empyrical.value_at_risk(row)))
        pairs.append((statistics.expected_shortfall(row), empyrical.conditional_value_at_risk(row)))
    for number, (ours, theirs) in enumerate(pairs):
        if ours is None:
            assert not math.isfinite(theirs), number
        else:
            assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9), number


@given(values=returns_of_days.filter(lambda values: plain.pstdev(values) > 1e-4))
def test_skew_and_kurtosis_are_the_moments_of_the_days(values):
    mean, deviation = plain.fmean(values), plain.pstdev(values)
    assert statistics.skew(values) == pytest.approx(
        plain.fmean(((v - mean) / deviation) ** 3 for v in values), abs=1e-6
    )
    fourth = plain.fmean(((v - mean) / deviation) ** 4 for v in values)
    assert statistics.kurtosis(values) == pytest.approx(fourth, rel=1e-6)


# --- equity → days ---


def test_a_day_ends_with_its_last_point_and_days_without_points_carry_on():
    ts = START + np.array([5, DAY_S - 1, DAY_S, 4 * DAY_S])  # the last is what closing brought, at the end itself
    equity = np.array([120, 110, 121, 242]) * USD_E8
    ends = statistics.daily_equity(ts, equity, 100 * USD_E8, START, 4)
    assert (ends // USD_E8).tolist() == [110, 121, 121, 242]
    returns = statistics.daily_returns(ts, equity, 100 * USD_E8, START, 4)
    assert returns == pytest.approx([0.1, 0.1, 0.0, 1.0])
    assert statistics.daily_returns(ts[:0], equity[:0], 1, START, 2).tolist() == [0.0, 0.0]
    assert statistics.daily_returns(ts[:0], equity[:0], 1, START, 0).tolist() == []


@given(st.lists(st.integers(10**9, 10**15), min_size=1, max_size=40))
def test_days_compound_to_what_the_account_ended_with(equity):
    ts = START + DAY_S // 3 * np.arange(len(equity))
    of = Curve(ts, np.array(equity), CAPITAL, START, len(equity) // 3 + 1)
    total = statistics.total_return(of.returns)
    assert CAPITAL * (1 + total) == pytest.approx(equity[-1], rel=1e-8)
    assert statistics.performance(of, []).total_return == pytest.approx(total, rel=1e-9, abs=1e-9)


def test_nobody_loses_more_than_everything():
    ts = START + DAY_S * np.arange(1, 5) - 1
    returns = statistics.daily_returns(ts, np.array([50, -20, 30, 40]), 100, START, 4)
    assert returns.tolist() == [-0.5, -1.0, 0.0, 0.0]
    assert statistics.total_return(returns) == statistics.cagr(returns) == -1.0


def test_points_that_cannot_be_are_refused_by_name():
    with pytest.raises(ValueError, match="ts falls after point 1"):
        statistics.daily_returns(np.array([1, 3, 2]), np.array([1, 1, 1]), 1, 0, 1)
    with pytest.raises(ValueError, match="capital was 0"):
        statistics.daily_returns(np.array([1]), np.array([1]), 0, 0, 1)
    with pytest.raises(ValueError, match="ts had 1 points, equity 2"):
        statistics.daily_returns(np.array([1]), np.array([1, 2]), 1, 0, 1)
    with pytest.raises(ValueError, match="return of day 1 is not finite"):
        statistics.sharpe([0.1, math.nan])
    with pytest.raises(ValueError, match="2 dimensions"):
        statistics.sharpe([[0.1], [0.2]])
    with pytest.raises(ValueError, match="1 dimensions"):
        statistics.overfitting([0.1])


def slow_fall(ts, equity):
    """Look at every pair of points: the deepest share, the first low of it, the last peak before it, the recovery."""
    best = (0.0, 0, 0)
    for low in range(len(equity)):
        for peak in range(low):
            share = (equity[peak] - equity[low]) / equity[peak]
            if share > best[0] or (share == best[0] > 0 and best[2] == low):
                best = (share, peak, low)
    share, peak, low = best
    back = next((ts[i] for i in range(low, len(ts)) if equity[i] >= equity[peak]), None) if share else None
    return share, ts[peak], ts[low], back


@given(st.lists(st.integers(1, 60), max_size=40))
def test_the_deepest_fall_is_what_looking_at_every_pair_finds(values):
    ts = START + 60 * np.arange(1, len(values) + 1)
    of = Curve(ts, np.array(values, np.int64), 50, START, 1)
    found = statistics.fall(of)
    share, peak, low, back = slow_fall([START, *ts.tolist()], [50, *values])
    if not values:
        assert found.depth is None
    elif share == 0:
        assert (found.depth, found.peak_ts, found.length_s, found.underwater_s_max) == (0.0, None, 0, 0)
    else:
        assert (found.depth, found.trough_ts, found.recovery_ts) == (share, low, back)
        assert found.peak_ts == peak
        assert found.length_s == (back or ts[-1]) - peak
        assert found.recovery_s == (back - low if back else None)
        assert found.underwater_s_max >= found.length_s
    assert (found.depth or 0.0) == deepen(Drawdown(50, 0, 0.0), np.array(values, np.int64)).depth


def test_the_longest_time_under_water_need_not_be_the_deepest_fall():
    values = np.array([100, 50, 100, 99, 99, 99, 100, 101, 100])
    found = statistics.fall(Curve(START + 60 * np.arange(1, 10), values, 100, START, 1))
    assert (found.depth, found.length_s, found.underwater_s_max) == (0.5, 120, 240)


def test_months_compound_to_the_whole():
    values = np.random.default_rng(3).normal(0, 0.02, 70)
    months = statistics.monthly_returns(values, dt.date(2025, 12, 20))
    assert [(m.year, m.month, m.days) for m in months] == [(2025, 12, 12), (2026, 1, 31), (2026, 2, 27)]
    assert math.prod(1 + m.total_return for m in months) - 1 == pytest.approx(statistics.total_return(values))


# --- what is not defined ---


@pytest.mark.parametrize("values", [[], [0.0], [0.01], [0.0] * 30, [0.1] * 30, [-1.0, 0.0], [0.1, 0.2], [9.0] * 3])
def test_what_is_not_defined_is_none_and_never_nan(values):
    of = curve(values)
    found = msgspec.structs.asdict(statistics.performance(of, []))
    for name, value in found.items():
        assert value is None or math.isfinite(value), name
    for name, interval in statistics.intervals(of, [], b"").values.items():
        assert all(math.isfinite(bound) for bound in interval), name
    assert found["win_rate"] is found["profit_factor"] is found["payoff"] is found["expectancy_usd"] is None
    if len({*values}) < 2:
        assert found["sharpe"] is found["psr"] is found["dsr"] is found["skew"] is found["min_track_days"] is None


def test_an_account_without_a_day_has_no_numbers():
    found = statistics.performance(curve([]), [])
    assert (found.days, found.trades, found.losing_streak) == (0, 0, 0)
    assert found.total_return is found.cagr is found.drawdown_max is found.exposure is found.turnover is None
    assert statistics.intervals(curve([]), [], b"").values == {}


# --- trades ---


def test_what_trades_brought_is_what_the_words_say():
    trades = [trade(pnl, day) for day, pnl in enumerate([30.0, -10.0, -10.0, 0.0, -20.0, 30.0])]
    assert statistics.win_rate(trades) == 2 / 6
    assert statistics.profit_factor(trades) == 60 / 40
    assert statistics.payoff(trades) == pytest.approx(30 / (40 / 3))
    assert statistics.expectancy_usd(trades) == pytest.approx(20 / 6)
    assert statistics.expectancy_bps(trades) == pytest.approx(20 / 6 / 1_000 * 1e4)
    assert statistics.losing_streak(trades[::-1]) == 2
    assert statistics.costs_usd_e8(trades) == 6 * USD_E8
    assert statistics.profit_factor(trades[:1]) is statistics.payoff(trades[:1]) is None


def test_turnover_and_leverage_are_multiples_of_the_equity():
    of = curve([0.0] * 4)
    trades = [trade(day=1, hour=0, hold_s=DAY_S, entry_usd_e8=CAPITAL, exit_usd_e8=CAPITAL)]
    assert statistics.turnover(trades, of) == pytest.approx(2 / 4)
    assert statistics.leverage(trades, of) == pytest.approx(1 / 4)
    assert statistics.exposure(trades, of.start_s, of.end_s) == pytest.approx(1 / 4)


@given(st.lists(st.tuples(st.integers(-5, 50), st.integers(0, 30)), max_size=12))
def test_exposure_counts_each_second_once(spans):
    trades = [trade(entry_ts=START + first, exit_ts=START + first + hold) for first, hold in spans]
    held = {second for first, hold in spans for second in range(first, first + hold) if 0 <= second < 40}
    assert statistics.exposure(trades, START, START + 40) == len(held) / 40


@given(
    marks=st.lists(st.integers(10**7, 2 * 10**8), min_size=1, max_size=30),
    direction=st.sampled_from([Direction.BULLISH, Direction.BEARISH]),
    lots=st.integers(1, 100),
)
@settings(deadline=None)
def test_excursions_are_the_worst_and_best_of_each_second(marks, direction, lots):
    qty, cost = lots * 10**5, 50_000 * lots * USD_E8 // 1000
    path = [int(direction) * (mark * qty // 1000 - cost) for mark in marks]  # price 3 + qty 8 - usd 8 decimals
    found = statistics.excursion(np.array(marks), BTC, direction, qty, cost)
    assert (found.mae_usd_e8, found.mfe_usd_e8) == (min(0, *path), max(0, *path))
    assert found.mae_at is None or path[found.mae_at] == found.mae_usd_e8
    assert found.mfe_at is None or path[found.mfe_at] == found.mfe_usd_e8


def test_excursions_refuse_what_cannot_be_added_up_and_know_no_second():
    assert statistics.excursion(np.array([], np.int64), BTC, Direction.BULLISH, 1, 1) == (0, 0, None, None)
    with pytest.raises(UsageError):
        statistics.excursion(np.array([10**12]), BTC, Direction.BULLISH, 10**17, 1)


@pytest.mark.parametrize("split", statistics.SPLITS, ids=lambda split: split.name)
def test_groups_add_up_to_the_whole(split):
    chance = np.random.default_rng(5)
    trades = [
        trade(pnl, day % 9, day % 24, tier=1 + day % 3, asset=("BTC", "ETH")[day % 2], reason=("structure", "time_stop")[day % 2],
              direction=(Direction.BULLISH, Direction.BEARISH)[day % 2])
        for day, pnl in enumerate(chance.normal(0, 50, 60))
    ]  # fmt: skip
    groups = statistics.attribute(trades, split.key, split.label)
    assert len({group.label for group in groups}) == len(groups) > 1
    assert sum(group.trades for group in groups) == len(trades)
    assert sum(group.wins for group in groups) == sum(t.pnl_usd_e8 > 0 for t in trades)
    assert sum(group.pnl_usd_e8 for group in groups) == sum(t.pnl_usd_e8 for t in trades)
    assert sum(group.costs_usd_e8 for group in groups) == statistics.costs_usd_e8(trades)


def test_groups_stand_in_the_order_of_their_key_with_words_for_people():
    by = {split.name: split for split in statistics.SPLITS}
    trades = [trade(day=day, hour=hour) for day, hour in ((4, 9), (0, 10), (3, 9))]  # Monday, Thursday, Sunday
    labels = [group.label for group in statistics.attribute(trades, by["weekday"].key, by["weekday"].label)]
    assert labels == ["Monday", "Thursday", "Sunday"]
    assert [g.label for g in statistics.attribute(trades, by["hour"].key, by["hour"].label)] == ["09:00", "10:00"]
    phases = {t.entry_order_id: "RESET_A" for t in trades}
    groups = statistics.attribute(trades, lambda t: phases[t.entry_order_id])
    assert [(group.label, group.trades, group.pnl_mean_usd) for group in groups] == [("RESET_A", 3, 1.0)]
    assert statistics.attribute([], by["hour"].key) == ()


# --- luck ---


def test_the_published_example_comes_out():
    variance, per_day = 0.5 / 250, 2.5 / math.sqrt(250)
    assert round(statistics.expected_max_sharpe(100, variance), 4) == 0.1132
    assert round(statistics.deflated_sharpe(per_day, 1250, -3.0, 10.0, 100, variance), 4) == 0.9004


@given(values=returns_of_days.filter(lambda values: plain.pstdev(values) > 1e-4))
def test_the_track_record_is_long_enough_exactly_when_psr_says_so(values):
    found = statistics.performance(curve(values), [])
    if found.psr is not None and abs(found.psr - statistics.CONFIDENCE) > 1e-9:
        enough = found.min_track_days is not None and found.days >= found.min_track_days
        assert enough == (found.psr >= statistics.CONFIDENCE)


def test_psr_is_as_often_above_95_percent_without_an_edge_as_it_says():
    chance = np.random.default_rng(17)
    above = 0
    for _ in range(1_000):
        row = chance.normal(0, 0.01, 250)
        psr = statistics.probabilistic_sharpe(
            statistics.sharpe(row, 1), 0, 250, statistics.skew(row), statistics.kurtosis(row)
        )
        above += psr > 0.95
    assert 0.03 < above / 1_000 < 0.07


@pytest.mark.parametrize("trials", [10, 100])
def test_the_best_of_many_without_an_edge_has_the_sharpe_that_is_expected(trials):
    chance = np.random.default_rng(trials)
    best = np.mean([np.max(chance.normal(0, 0.05, trials)) for _ in range(2_000)])
    assert statistics.expected_max_sharpe(trials, 0.05**2) == pytest.approx(best, rel=0.05)


def test_more_trials_never_make_a_result_more_believable():
    of = curve(np.random.default_rng(1).normal(0.001, 0.01, 300))
    chances = [
        statistics.performance(of, [], trial_sharpes=list(np.resize([1.0, -1.0, 0.5], count))).dsr
        for count in (1, 3, 30, 300)
    ]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] == statistics.performance(of, []).psr
    known = statistics.performance(of, [], trial_sharpes=[1.0, -1.0])
    counted = statistics.performance(of, [], trial_sharpes=[1.0, -1.0, None])
    assert (known.trials, counted.trials) == (2, 3)
    assert counted.dsr < known.dsr


def test_no_track_record_proves_what_is_not_above_its_benchmark():
    assert statistics.min_track_record(0.1, 0.1, 0.0, 3.0) is None
    assert statistics.min_track_record(1e-200, 0.0, 0.0, 3.0) is None
    assert statistics.probabilistic_sharpe(1.0, 0.0, 100, 2.0, 5.0) is None  # no spread is left
    assert statistics.expected_max_sharpe(1, 0.5) == 0.0


def test_overfitting_of_pure_noise_is_about_a_half():
    chance = np.random.default_rng(23)
    found = [statistics.overfitting(chance.normal(0, 0.01, (120, 20))) for _ in range(100)]
    assert 0.44 < np.mean([one.pbo for one in found]) < 0.56
    assert {(one.trials, one.days, one.blocks, one.splits) for one in found} == {(20, 112, 16, 12_870)}


def test_overfitting_of_a_planted_edge_is_near_nothing():
    noise = np.random.default_rng(29).normal(0, 0.01, (120, 20))
    noise[:, 7] += 0.006
    assert statistics.overfitting(noise).pbo < 0.01


def test_overfitting_needs_trials_and_days_and_takes_trials_that_stand_still():
    noise = np.random.default_rng(31).normal(0, 0.01, (120, 20))
    assert statistics.overfitting(noise[:, :9]) is None
    assert statistics.overfitting(noise[:15]) is None
    assert statistics.overfitting(noise[:30]).blocks == 14
    assert statistics.overfitting(np.zeros((30, 12))).pbo == 0.5
    noise[:, 3] = 0.0
    noise[:60, 4] = 0.0
    assert 0 <= statistics.overfitting(noise).pbo <= 1


def slow_overfitting(matrix, blocks):
    """Do it as the paper's words say, a split at a time."""
    import itertools

    parts = np.split(matrix, blocks)
    below = []
    for ways in itertools.combinations(range(blocks), blocks // 2):
        inside = np.concatenate([parts[n] for n in ways])
        outside = np.concatenate([parts[n] for n in range(blocks) if n not in ways])
        best = int(np.argmax(inside.mean(axis=0) / inside.std(axis=0, ddof=1)))
        chances = outside.mean(axis=0) / outside.std(axis=0, ddof=1)
        omega = (1 + int((chances < chances[best]).sum())) / (matrix.shape[1] + 1)
        below.append(0.5 if omega == 0.5 else float(omega < 0.5))
    return plain.fmean(below)


@pytest.mark.parametrize("trials", [10, 11])
def test_overfitting_is_what_a_split_at_a_time_gives(trials):
    noise = np.random.default_rng(trials).normal(0.002, 0.01, (24, trials))
    assert statistics.overfitting(noise).pbo == pytest.approx(slow_overfitting(noise, 12))


# --- intervals ---


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    chance = np.random.default_rng(41)
    truth = {"day_mean": 0.001, "sharpe": 0.1 * math.sqrt(365), "annual_volatility": 0.01 * math.sqrt(365)}
    covered = dict.fromkeys(truth, 0)
    for number in range(200):
        of = curve(chance.normal(0.001, 0.01, 150))
        drawn = statistics.intervals(of, [], number.to_bytes(4, "big"), resamples=400).values
        for name, value in truth.items():
            covered[name] += drawn[name].low <= value <= drawn[name].high
    assert all(0.87 < hits / 200 < 0.99 for hits in covered.values()), covered


def test_intervals_of_trades_cover_the_truth_about_as_often_as_they_say():
    chance = np.random.default_rng(43)
    hits = {"win_rate": 0, "expectancy_usd": 0}
    for number in range(150):
        trades = [trade(pnl, day) for day, pnl in enumerate(chance.choice([-100.0, 150.0], 120))]
        drawn = statistics.intervals(curve([0.0] * 120), trades, number.to_bytes(4, "big"), resamples=400).values
        hits["win_rate"] += drawn["win_rate"].low <= 0.5 <= drawn["win_rate"].high
        hits["expectancy_usd"] += drawn["expectancy_usd"].low <= 25 <= drawn["expectancy_usd"].high
    assert all(0.87 < count / 150 < 0.99 for count in hits.values()), hits


def test_blocks_widen_the_interval_of_days_that_follow_one_another():
    chance = np.random.default_rng(47)
    days = np.zeros(512)
    for day in range(1, 512):
        days[day] = 0.8 * days[day - 1] + chance.normal(0, 0.01)
    apart = chance.permutation(days)
    wide, narrow = (statistics.intervals(curve(row), [], b"x").values["day_mean"] for row in (days, apart))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_so_few_days_that_any_drawing_is_the_same_have_no_interval():
    few, enough = ([0.01 * (-1) ** day for day in range(days)] for days in (19, 20))
    assert statistics.intervals(curve(few), [trade()], b"x").values == {}
    drawn = statistics.intervals(curve(enough), [trade()], b"x").values
    assert drawn["day_mean"].high > drawn["day_mean"].low
    assert "win_rate" not in drawn  # one trade: many resamples have none


def test_a_number_lies_in_its_own_interval():
    trades, of = world(2, 100.0)
    found, drawn = statistics.performance(of, trades), statistics.intervals(of, trades, b"x")
    assert set(drawn.values) == {
        "total_return", "cagr", "day_mean", "annual_volatility", "sharpe", "sortino", "drawdown_max", "win_rate",
        "profit_factor", "expectancy_usd", "expectancy_bps",
    }  # fmt: skip
    assert set(drawn.values) <= {figure.name for figure in FIGURES}
    for name, interval in drawn.values.items():
        assert interval.low < getattr(found, name) < interval.high, name


def test_the_same_seed_gives_the_same_bits_and_another_others():
    trades, of = world(1, 50.0)
    one, same, other = (canonical(statistics.intervals(of, trades, seed)) for seed in (b"a", b"a", b"b"))
    assert one == same != other
    backwards = statistics.intervals(of, trades[::-1], b"a")
    assert canonical(backwards) == one
    assert canonical(statistics.performance(of, trades[::-1])) == canonical(statistics.performance(of, trades))


@given(days=st.integers(2, 40), block=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_drawn_days_are_blocks_of_neighbours_in_a_circle(days, block, seed):
    block = min(block, days)
    index = statistics._draw(np.random.PCG64(seed), 5, days, block)
    assert index.shape == (5, days)
    assert index.min() >= 0
    assert index.max() < days
    steps = (np.diff(index, axis=1) % days == 1) | (np.arange(1, days) % block == 0)
    assert steps.all()


def test_every_day_is_drawn_as_often_as_every_other():
    index = statistics._draw(np.random.PCG64(1), 4_000, 10, 3)
    counts = np.bincount(index.reshape(-1), minlength=10) / 4_000
    assert counts == pytest.approx(np.ones(10), abs=0.08)


# --- the verdict ---


def test_noise_has_no_edge():
    words = [verdict(*world(seed, 0.0)).word for seed in range(200)]
    assert set(words) <= {NO_EDGE, EDGE}
    assert words.count(EDGE) / 200 <= 0.06  # what 95 % of confidence lets through, before any placebo


def test_noise_that_pays_costs_has_no_edge():
    assert {verdict(*world(seed, -40.0)).word for seed in range(100)} == {NO_EDGE}


def test_a_planted_edge_is_found():
    words = [verdict(*world(seed, 200.0)).word for seed in range(100)]
    assert words.count(EDGE) / 100 >= 0.95
    assert set(words) <= {NO_EDGE, EDGE}


@pytest.mark.parametrize(("count", "days"), [(3, 30), (29, 120), (200, 19), (0, 0)])
def test_too_little_is_too_few_however_good_it_looks(count, days):
    trades = [trade(500.0 + number, number % max(days, 1), number % 20) for number in range(count)]
    found = verdict(trades, curve(days_of(trades, days)))
    assert found.word == TOO_FEW
    assert {reason.points for reason in found.reasons} == {0}
    assert str(count) in found.sentence
    assert str(days) in found.sentence


GOOD = {
    "trades": 100, "days": 200, "psr": 0.99, "min_track_days": 80, "dsr": 0.97, "trials": 12, "day_mean": Interval(1e-4, 9e-4),
    "placebos": {"shuffled flow": 0.01, "random entries": 0.02}, "break_even": 2.5, "pbo": 0.05,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "word", "words"),
    [
        ({}, EDGE, "all 8 tests hold"),
        ({"psr": 0.94}, NO_EDGE, "94.0% probability the true Sharpe ratio is above zero (95% is needed)"),
        ({"psr": None}, NO_EDGE, "not defined"),
        ({"min_track_days": 2_201}, NO_EDGE, "200 days were seen (a Sharpe ratio like this needs 2,201)"),
        ({"min_track_days": None}, NO_EDGE, "no number of days"),
        ({"dsr": 0.5}, NO_EDGE, "50.0% probability it is better than the luckiest of 12 trials"),
        ({"dsr": None, "trials": 1}, NO_EDGE, "(1 trial) is not defined"),
        ({"day_mean": Interval(-1e-4, 9e-4)}, NO_EDGE, "between -1.00 and 9.00 bp"),
        ({"day_mean": None}, NO_EDGE, "no interval"),
        ({"placebos": {"random entries": 0.2}}, NO_EDGE, "Against random entries, p = 0.200 (at most 0.05"),
        ({"placebos": None}, EDGE, "No placebo was run"),
        ({"placebos": None}, EDGE, "Provisional: all 6 tests that count hold"),
        (
            {"placebos": {}, "few": {"shuffled flow": 5}},
            EDGE,
            "Against shuffled flow there were 5 runs, too few to count (19 are",
        ),
        (
            {"placebos": {"random entries": 0.01}, "few": {"shuffled flow": 1}},
            EDGE,
            "Against shuffled flow there was 1 run, too few",
        ),
        (
            {"placebos": {"random entries": 0.2}, "few": {"shuffled flow": 5}},
            NO_EDGE,
            "Against random entries, p = 0.200",
        ),
        ({"break_even": 1.2}, NO_EDGE, "dies at 1.20 times the costs (at least 1.5"),
        ({"break_even": math.inf}, EDGE, "outlives all costs tried"),
        ({"break_even": None}, EDGE, "No cost stress was run"),
        ({"pbo": 0.3}, NO_EDGE, "30.0% probability the best trial was chosen by luck (at most 20%"),
        ({"pbo": None}, EDGE, "Not enough trials"),
        ({"break_even": None}, EDGE, "Provisional: all 7 tests that count hold"),
        ({"pbo": None, "break_even": None}, EDGE, "2 tests were not made"),
        ({"pbo": None, "psr": 0.1}, NO_EDGE, "1 of 7 tests fails. 1 test was not made"),
    ],
)
def test_each_test_is_told_with_its_number_and_decides(change, word, words):
    found = statistics.judge(**{**GOOD, **change})
    assert found.word == word
    assert words in " ".join([found.sentence, *(reason.text for reason in found.reasons)])
    assert (word == NO_EDGE) == any(reason.points < 0 for reason in found.reasons)


@pytest.mark.parametrize(
    ("change", "provisional"),
    [
        ({}, False),
        ({"pbo": None}, False),  # trials come with time
        ({"placebos": None}, True),
        ({"placebos": {}, "few": {"shuffled flow": 18, "random entries": 18}}, True),
        ({"placebos": {"random entries": 0.01}, "few": {"shuffled flow": 18}}, True),
        ({"break_even": None}, True),
        ({"placebos": None, "psr": 0.5}, False),  # no edge is not waiting for anything
        ({"placebos": None, "trades": 3}, False),
    ],
)
def test_an_edge_that_chance_and_costs_were_not_asked_about_is_provisional(change, provisional):
    found = statistics.judge(**{**GOOD, **change})
    assert found.provisional == provisional
    assert found.sentence.startswith("Provisional") == provisional
    told = " ".join(reason.text for reason in found.reasons)
    assert ("No placebo was run" in told) == ("placebos" in change and "few" not in change)


# --- words ---


def test_every_number_has_its_words_in_the_order_of_the_numbers():
    names = [figure.name for figure in FIGURES]
    assert names == list(statistics.Performance.__struct_fields__)
    units = {"share", "usd", "seconds", "bps", "count", "ratio", "date"}
    assert {figure.unit for figure in FIGURES} <= units
    assert len({figure.label for figure in FIGURES}) == len(names)
    for figure in FIGURES:
        assert figure.note.endswith("."), figure.name


def test_the_page_takes_numbers_and_verdict_as_they_are():
    trades, of = world(3, 100.0)
    found, drawn = statistics.performance(of, trades), statistics.intervals(of, trades, b"x")
    for figure in FIGURES:
        value, interval = getattr(found, figure.name), drawn.values.get(figure.name)
        shown = page.Figure(
            name=figure.name, label=figure.label, value=value, unit=figure.unit, note=figure.note,
            low=interval and interval.low, high=interval and interval.high,
        )  # fmt: skip
        assert msgspec.json.decode(msgspec.json.encode(shown), type=page.Figure).value == value
    said = verdict(trades, of)
    assert msgspec.convert(msgspec.to_builtins(said), page.Verdict).word == said.word


def test_the_page_of_statistics_names_every_number_and_threshold():
    text = PAGE.read_text()
    for figure in FIGURES:
        assert f"`{figure.name}`" in text, figure.name
        assert figure.label in text, figure.label
    one_line = " ".join(text.split())
    for words in (
        f"fewer than {statistics.TRADES_MIN} trades or {statistics.DAYS_MIN} days",
        f"at most {statistics.PLACEBO_P_MAX}",
        f"{statistics.BREAK_EVEN_MIN} times the costs",
        f"at most {statistics.PBO_MAX:.0%}".replace("%", " %"),
        f"{statistics.PBO_TRIALS_MIN} trials",
        f"{statistics.RESAMPLES:,} resamples",
        f"{statistics.DAYS_A_YEAR:.0f} days",
    ):
        assert words in one_line, words


def test_every_paper_that_is_named_is_in_the_sources():
    named = set(re.findall(r"\((19\d\d|20\d\d)\)", statistics.__doc__ or "")) | set(
        re.findall(r"\((19\d\d|20\d\d)\)", Path(statistics.__file__).read_text())
    )
    text = PAGE.read_text()
    assert {year for year in named if year not in text} == set()
