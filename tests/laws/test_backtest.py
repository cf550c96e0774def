"""The laws of plan, map and fold that need no simulated market: drawn features, small days."""

from __future__ import annotations

import datetime as dt
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezecore import backtest, squeeze
from squeezecore.errors import UsageError
from squeezecore.fold import DayResult, Fold
from squeezecore.market import DAY_S, Rows
from squeezecore.spec import BacktestSpec, Costs, Limits, canonical, day_start_s
from squeezecore.trading import USD_E8, ExitReason
from support.backtest_worlds import START, World, world


def same(a: list[DayResult], b: list[DayResult]) -> bool:
    return [bits(x) for x in a] == [bits(y) for y in b]


def bits(day: DayResult) -> tuple[bytes, ...]:
    return tuple(part.tobytes() if isinstance(part, np.ndarray) else canonical(part) for part in day)


@given(
    days=st.integers(1, 200),
    assets=st.integers(1, 5),
    shards=st.integers(0, 60),
    n=st.integers(1, 9),
)
@settings(deadline=None, max_examples=60)
def test_any_stride_of_the_plan_is_a_partition_of_the_asset_days(days: int, assets: int, shards: int, n: int):
    names = tuple(f"A{k}" for k in range(assets))
    spec = BacktestSpec(assets=names, start=START, end=START + dt.timedelta(days - 1))
    items = backtest.plan(spec, shards)
    parts = [items[i::n] for i in range(n)]
    found = [(item.asset, day) for part in parts for item in part for day in item.days()]
    assert sorted(found) == sorted(itertools.product(names, spec.days()))
    assert len(items) >= min(shards, days * assets) - assets
    lengths = {item.n_days for item in items}
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) <= backtest.BLOCK_DAYS


PARAMS = ({}, {"cooldown_s": 0}, {"fixed_stop": 0.002}, {"structure_atr": 1.0}, {"time_stop_tier_1_h": 0.1})
LIMITS = (Limits(), Limits(daily_loss_max=0.002), Limits(open_positions_max=1), Limits(orders_per_minute_max=1))
COSTS = (Costs(), Costs(latency_ms=3_500), Costs(participation_max_ppm=1_000))


@given(
    seed=st.integers(0, 2**32),
    assets=st.sampled_from([("BTC",), ("BTC", "ETH")]),
    holes=st.integers(0, 5),
    params=st.sampled_from(PARAMS),
    limits=st.sampled_from(LIMITS),
    costs=st.sampled_from(COSTS),
    capital=st.sampled_from([1_000, 10_000, 1_000_000]),
)
@settings(deadline=None, max_examples=12)
def test_skipping_quiet_seconds_changes_no_byte(
    seed: int, assets: tuple[str, ...], holes: int, params: dict[str, float], limits: Limits, costs: Costs, capital: int
):
    drawn = world(
        seed, assets=assets, seconds=2_500, holes=holes, params=params, limits=limits, costs=costs, capital_usd=capital
    )
    quick, quick_days = drawn.run()
    slow, slow_days = drawn.run(every_second=True)
    assert same(quick_days, slow_days)
    assert quick is not None
    assert slow is not None
    assert quick.lines() == slow.lines()
    assert bits(quick.closing) == bits(slow.closing)


@pytest.mark.parametrize("limit", [{"daily_loss_max": 0.001}, {"liquidation_distance_min": 0.9}, {"leverage_max": 0.5}])
def test_skipping_changes_no_byte_when_the_account_hits_its_limits(limit: dict[str, float]):
    drawn = world(3, assets=("BTC", "ETH"), seconds=3_000, limits=Limits(**limit))
    (quick, quick_days), (slow, slow_days) = drawn.run(), drawn.run(every_second=True)
    assert same(quick_days, slow_days)
    assert quick is not None
    assert slow is not None
    assert quick.result_hash == slow.result_hash
    assert quick.trades or "leverage_max" in limit


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=10)
def test_the_worth_of_all_trades_is_the_change_of_equity(seed: int):
    result, _ = world(seed, assets=("BTC", "ETH"), days=2).run()
    assert result is not None
    assert result.trades
    assert sum(t.pnl_usd_e8 for t in result.trades) == result.summary.equity_usd_e8 - 10_000 * USD_E8
    assert result.summary.equity_usd_e8 == int(result.equity_usd_e8[-1])


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=8)
def test_the_future_changes_nothing_that_was_decided_before(seed: int):
    whole = world(seed, days=3, seconds=3_000)
    other = world(seed + 1, days=3, seconds=3_000)
    day = START + dt.timedelta(1)
    border = day_start_s(day)
    rows = {
        asset: Rows(*(np.concatenate([a[whole.rows[asset].ts < border], b[other.rows[asset].ts >= border]])
                      for a, b in zip(whole.rows[asset], other.rows[asset], strict=True)))
        for asset in whole.rows
    }  # fmt: skip
    mixed = World(whole.spec, {**other.scans, START: whole.scans[START]}, rows, whole.funding)
    _, expected = whole.run(days=1)
    _, found = mixed.run(days=1)
    assert same(found, expected)
    _, all_days = mixed.run()
    assert bits(all_days[0]) == bits(expected[0])


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=10)
def test_a_hole_ends_a_position_at_the_last_close_before_it(seed: int):
    drawn = world(seed, seconds=4_000, holes=3)
    _, days = drawn.run()
    rows = drawn.rows["BTC"]
    starts = {start for start, _ in drawn.scans[START]["BTC"].holes}
    positions = {t.entry_ts: t for t in days[0].trades}
    for trade in positions.values():
        assert not any(trade.entry_ts < hole < trade.exit_ts for hole in starts)
        if trade.reason == ExitReason.DATA_HOLE:
            assert trade.exit_ts in starts
            close = int(rows.close[rows.ts == trade.exit_ts - 1][0])
            fill = next(f for f in days[0].fills if f.order_id == trade.exit_order_id)
            assert abs(fill.price - close) <= close * 20 // 1_000_000 + 100
            assert fill.fee_usd_e8 > 0


def test_a_position_open_at_the_end_is_closed_at_the_last_close():
    for seed in range(20):
        result, _ = world(seed, seconds=DAY_S, holes=0, params={"structure_break": 1.0}).run()
        assert result is not None
        if result.closing.trades:
            (trade,) = result.closing.trades
            assert trade.reason == ExitReason.END_OF_RUN
            assert trade.exit_ts == day_start_s(START) + DAY_S
            assert result.closing.decisions[0].reason == "end_of_run"
            return
    pytest.fail("no world ended with a position")


def test_equity_has_a_point_a_minute_and_one_at_each_fill():
    _, days = world(5).run()
    start = day_start_s(START)
    points = set(days[0].equity_ts.tolist())
    assert {start + 60 * n + 59 for n in range(1440)} <= points
    assert {fill.ts for fill in days[0].fills} <= points
    assert len(points) <= 1440 + len(days[0].fills)


def test_days_must_be_folded_in_order_and_all_of_them():
    drawn = world(1, days=2, seconds=100)
    fold = Fold(drawn.spec, {"BTC": drawn_instrument()})
    with pytest.raises(UsageError, match="fold the days in order"):
        fold.add_day(START + dt.timedelta(1), {}, drawn.read)
    with pytest.raises(UsageError, match="fold all, then finish"):
        fold.finish()
    with pytest.raises(UsageError, match="no traded instrument is known for BTC"):
        Fold(drawn.spec, {})


def drawn_instrument():
    from support.market_worlds import BTC

    return BTC


def test_a_run_without_a_single_row_ends_with_its_capital():
    spec = BacktestSpec(assets=("BTC",), start=START, end=START + dt.timedelta(1))
    fold = Fold(spec, {"BTC": drawn_instrument()})
    for day in spec.days():
        fold.add_day(day, {}, World(spec, {}, {}, {}).read)
    result = fold.finish()
    assert result.summary.equity_usd_e8 == 100_000 * USD_E8
    assert result.summary.holes == 2
    assert not result.trades


@given(seed=st.integers(0, 2**32), column=st.sampled_from(Rows._fields[1:]), at=st.integers(0, 4_000))
@settings(deadline=None, max_examples=40)
def test_any_changed_value_changes_the_hash_of_its_hour_and_no_other(seed: int, column: str, at: int):
    rows = world(seed, seconds=5_000, holes=0).rows["BTC"]
    before = backtest.hash_hours(rows)
    changed = getattr(rows, column).copy()
    changed[at] += 1
    after = backtest.hash_hours(rows._replace(**{column: changed}))
    hour = int(rows.ts[at]) // 3600
    assert {h for h in before if before[h] != after[h]} == {hour}


def test_two_values_that_change_places_change_the_hash():
    rows = world(1, seconds=5_000, holes=0).rows["BTC"]
    close = rows.close.copy()
    close[[10, 20]] = close[[20, 10]]
    assert close[10] != close[20]
    assert backtest.hash_hours(rows) != backtest.hash_hours(rows._replace(close=close))
    swapped = rows._replace(spot_delta=rows.perp_delta, perp_delta=rows.spot_delta)
    assert backtest.hash_hours(rows) != backtest.hash_hours(swapped)


def test_a_days_data_hash_does_not_depend_on_the_block_it_was_scanned_in():
    drawn = world(2, days=4, seconds=DAY_S, holes=0)
    params = squeeze.params_from({})
    days = [(day, drawn.read("BTC", day_start_s(day), day_start_s(day) + DAY_S)) for day in drawn.spec.days()]
    whole = list(backtest.scan_block(params, "BTC", drawn.read("BTC", 0, 0), days))
    start = backtest.warmup_start_s(days[2][0])
    part = list(backtest.scan_block(params, "BTC", drawn.read("BTC", start, day_start_s(days[2][0])), days[2:]))
    assert [s.data_hash for s in whole[2:]] == [s.data_hash for s in part]
    assert len({s.data_hash for s in whole}) == 4


def test_only_missing_and_changed_days_are_scanned_again():
    drawn = world(2, days=5, seconds=50, holes=0)
    scans = [drawn.scans[day]["BTC"] for day in drawn.spec.days()]
    days = drawn.spec.days()
    assert backtest.missing(drawn.spec, scans, {}) == []
    assert backtest.missing(drawn.spec, [], {}) == [backtest.Item(asset="BTC", first_day=START, n_days=5)]
    changed = {("BTC", days[4]): "another"}
    assert backtest.missing(drawn.spec, [*scans[:1], *scans[3:]], changed) == [
        backtest.Item(asset="BTC", first_day=days[1], n_days=2),
        backtest.Item(asset="BTC", first_day=days[4], n_days=1),
    ]


def test_the_result_hash_signs_spec_code_data_and_what_came_out():
    drawn = world(4, seconds=3_000)
    result, _ = drawn.run()
    again, _ = drawn.run()
    assert result is not None
    assert again is not None
    assert result.result_hash == again.result_hash
    fold = Fold(drawn.spec, {"BTC": drawn_instrument()}, drawn.funding, "other code")
    fold.add_day(START, drawn.scans[START], drawn.read)
    other = fold.finish()
    assert other.result_hash != result.result_hash
    assert other.run_id != result.run_id


def test_rows_that_were_scanned_but_are_gone_are_an_error_in_words():
    drawn = world(4, seconds=3_000)
    gone = drawn._replace(rows={"BTC": drawn.read("BTC", 0, day_start_s(START) + 10)})
    with pytest.raises(UsageError, match="scan the day again"):
        gone.run()
