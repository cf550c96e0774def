"""Placebos keep what they must keep, cut only what they must cut, and depend on nothing but their seed."""

import datetime as dt

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezecore import backtest, placebo, squeeze
from squeezecore.market import DAY_S, FundingSeries, Rows, concat, cut, empty
from squeezecore.placebo import BLOCK_S, FACTOR_MAX, FOLDS_MAX
from squeezecore.report import Trade
from squeezecore.simulator import WorldSpec, simulate_day
from squeezecore.spec import Costs, day_start_s
from squeezecore.trading import USD_E8, Direction
from support.market_worlds import BTC
from support.store import random_rows

START_S = day_start_s(dt.date(2026, 1, 5))
FEW = settings(deadline=None, max_examples=25)
NO_FUNDING = empty(FundingSeries)


def rows_of(seed: int, seconds: int, holes: int = 0, late: int = 0) -> Rows:
    """Make random rows, all seconds from `late` on there but for some holes."""
    rng = np.random.default_rng(seed)
    keep = np.ones(seconds, bool)
    keep[:late] = False
    for _ in range(holes):
        at = int(rng.integers(0, seconds))
        keep[at : at + int(rng.integers(1, 400))] = False
    rows = random_rows(seed, seconds, START_S)._replace(ts=START_S + np.arange(seconds))
    return Rows(*(column[keep] for column in rows))


def blocks(rows: Rows) -> list[bytes]:
    """Return the bytes of each whole hour's perp delta and volume."""
    hours = placebo.whole_hours(rows.ts, START_S)
    return [
        rows.perp_delta[at : at + BLOCK_S].tobytes() + rows.perp_volume[at : at + BLOCK_S].tobytes() for at in hours.at
    ]


worlds = st.builds(
    rows_of, st.integers(0, 2**32), st.integers(1, 9 * BLOCK_S), holes=st.integers(0, 3), late=st.integers(0, 4_000)
)


# --- shuffled flow ---


@FEW
@given(rows=worlds, seed=st.integers(0, 2**63 - 1))
def test_shuffling_permutes_whole_hours_and_touches_nothing_else(rows: Rows, seed: int) -> None:
    new = placebo.shuffle_perp(rows, seed, START_S)
    assert sorted(blocks(new)) == sorted(blocks(rows))
    whole = np.zeros(len(rows.ts), bool)
    for at in placebo.whole_hours(rows.ts, START_S).at:
        whole[at : at + BLOCK_S] = True
    for name, old, now in zip(Rows._fields, rows, new, strict=True):
        where = ~whole if name in ("perp_delta", "perp_volume") else slice(None)
        np.testing.assert_array_equal(old[where], now[where], err_msg=name)


@FEW
@given(rows=worlds, seed=st.integers(0, 1_000), data=st.data())
def test_it_does_not_matter_how_the_range_is_cut(rows: Rows, seed: int, data: st.DataObject) -> None:
    n = len(rows.ts)
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=6)))
    hours = placebo.whole_hours(rows.ts, START_S)
    source = placebo.permuted(hours, seed)
    columns = rows.perp_delta, rows.perp_volume
    parts = [
        placebo.shuffled(columns, hours, source, first, end) for first, end in zip([0, *cuts], [*cuts, n], strict=True)
    ]
    whole = placebo.shuffle_perp(rows, seed, START_S)
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), whole.perp_delta)
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), whole.perp_volume)


def test_a_seed_says_it_all_and_another_seed_something_else() -> None:
    hours = placebo.whole_hours(START_S + np.arange(48 * BLOCK_S), START_S)
    orders = [tuple(placebo.permuted(hours, seed) // BLOCK_S) for seed in (0, 1, 2, 0)]
    assert orders[0] == orders[3]
    assert len(set(orders)) == 3
    assert all(sorted(order) == list(range(48)) for order in orders)
    assert orders[1][:8] == SEED_1  # as long as this holds, stored placebos are what would be made today


SEED_1 = (9, 36, 39, 31, 16, 2, 28, 18)


def test_every_hour_may_come_anywhere() -> None:
    hours = placebo.whole_hours(START_S + np.arange(4 * BLOCK_S), START_S)
    counts = np.zeros((4, 4))
    for seed in range(2_000):
        counts[range(4), placebo.permuted(hours, seed) // BLOCK_S] += 1
    assert np.abs(counts / 2_000 - 0.25).max() < 0.05  # five standard errors


def test_assets_with_the_same_hours_are_shuffled_alike() -> None:
    one, other = rows_of(1, 8 * BLOCK_S), rows_of(2, 8 * BLOCK_S)
    broken = Rows(*(np.delete(column, 5) for column in other))  # its first hour stays
    orders = [placebo.permuted(placebo.whole_hours(rows.ts, START_S), 7) // BLOCK_S for rows in (one, other, broken)]
    np.testing.assert_array_equal(orders[0], orders[1])
    left = [int(hour) for hour in orders[0] if hour]  # in the same order, where all are there
    assert len(orders[2]) == 7
    assert [int(hour) + 1 for hour in orders[2]] == left


def test_rows_without_a_whole_hour_stay_as_they_are() -> None:
    for rows in (empty(Rows), rows_of(3, BLOCK_S - 1), rows_of(3, BLOCK_S + 10, late=11)):
        new = placebo.shuffle_perp(rows, 1, START_S)
        np.testing.assert_array_equal(new.perp_delta, rows.perp_delta)


def test_what_a_scan_says_does_not_depend_on_costs() -> None:
    """Why the cost stress may fold the tapes of the run: the kernel is given parameters only, and none of them is a cost."""
    assert not set(squeeze.SqueezeParams.__struct_fields__) & set(Costs.__struct_fields__)


# --- random entries ---


def trade_of(**changes: object) -> Trade:
    fields: dict[str, object] = {
        "asset": "BTC", "instrument": BTC.id, "direction": Direction.BULLISH, "tier": 1, "score_milli": 4_000,
        "decided_ts": START_S, "entry_ts": START_S + 1, "exit_ts": START_S + 601, "entry_order_id": "a",
        "exit_order_id": "b", "qty": 1_000, "entry_price": 100, "exit_price": 100, "entry_usd_e8": 1_000 * USD_E8,
        "exit_usd_e8": 1_000 * USD_E8, "fees_usd_e8": 0, "slippage_usd_e8": 0, "funding_usd_e8": 0, "pnl_usd_e8": 0,
        "level": 0, "reason": "structure",
    }  # fmt: skip
    return Trade(**(fields | changes))  # type: ignore[arg-type]


def market_of(opens: np.ndarray, volume: int = 10**12, funding: FundingSeries = NO_FUNDING) -> placebo.Market:
    n = len(opens)
    rows = random_rows(1, n, START_S)._replace(
        ts=START_S + np.arange(n), open=opens, buy_qty=np.full(n, volume), sell_qty=np.full(n, volume)
    )
    return placebo.Market(rows, BTC, funding)


FREE = Costs(taker_fee_ppm=0, maker_fee_ppm=0, half_spread_ppm=0, impact_ppm=0)


def test_entering_a_still_market_costs_the_costs() -> None:
    still = market_of(np.full(5_000, 100_000))
    for direction in (Direction.BULLISH, Direction.BEARISH):
        found = placebo.random_entries(
            [trade_of(direction=direction)] * 3, {"BTC": still}, Costs(), 10_000 * USD_E8, [1, 2]
        )
        np.testing.assert_allclose(found.total_return, -3 * 0.1 * 2 * (500 + 10) / 1e6, rtol=2e-4)
        assert found.win_rate.tolist() == [0.0, 0.0]
    thin = placebo.random_entries([trade_of()], {"BTC": market_of(np.full(5_000, 100_000), 0)}, Costs(), USD_E8, [1])
    impact = 100 * 0.2  # at the participation cap
    np.testing.assert_allclose(thin.total_return, -1_000 * 2 * (500 + 10 + impact) / 1e6, rtol=1e-3)


def test_entries_take_the_open_of_the_next_second_and_hold_as_long() -> None:
    rising = market_of(100_000 + np.arange(5_000))
    found = placebo.random_entries([trade_of()], {"BTC": rising}, FREE, 1_000 * USD_E8, range(200))
    entry = 600 / found.total_return - 100_000  # price in, as a place
    assert np.abs(entry - entry.round()).max() < 1e-6
    assert entry.min() >= 1
    assert entry.max() <= 4_999 - 600
    assert entry.max() - entry.min() > 3_900  # all over the range
    assert (found.win_rate == 1.0).all()


def test_a_seed_gives_the_same_entries_whoever_stands_beside_it() -> None:
    market = market_of(100_000 + np.random.default_rng(5).integers(-500, 500, 9_000).cumsum() // 10)
    trades = [trade_of(exit_ts=START_S + 1 + hold) for hold in (1, 60, 4_000)]
    many = placebo.random_entries(trades, {"BTC": market}, Costs(), USD_E8, range(20)).total_return
    one = placebo.random_entries(trades, {"BTC": market}, Costs(), USD_E8, [7]).total_return
    assert one[0] == many[7]
    assert len(set(many.tolist())) == 20


def test_funding_is_paid_by_longs_while_they_hold() -> None:
    at = np.array([START_S + 2_500])
    funding = FundingSeries(event_ts=at, known_at=at, rate=np.array([10**8]), interval_s=np.array([28_800]))  # 1 %
    still = market_of(np.full(5_000, 100_000), funding=funding)
    for direction, sign in ((Direction.BULLISH, -1), (Direction.BEARISH, 1)):
        trade = trade_of(direction=direction, exit_ts=START_S + 1 + 4_000)  # whenever it begins, it holds then
        found = placebo.random_entries([trade], {"BTC": still}, FREE, 1_000 * USD_E8, range(5)).total_return
        np.testing.assert_allclose(found, sign * 0.01)


def test_a_trade_as_long_as_the_range_begins_with_it() -> None:
    short = market_of(100_000 + np.arange(50))
    found = placebo.random_entries([trade_of()], {"BTC": short}, FREE, 1_000 * USD_E8, range(5)).total_return
    np.testing.assert_allclose(found, 48 / 100_001)


def test_without_trades_nothing_is_won() -> None:
    found = placebo.random_entries([], {}, Costs(), USD_E8, [1, 2])
    assert found.total_return.tolist() == found.win_rate.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("real", "expected"), [(5.0, 0.25), (2.0, 0.75), (0.0, 1.0), (3.0, 0.5)])
def test_a_p_value_counts_the_result_itself(real: float, expected: float) -> None:
    assert placebo.p_value(real, [1.0, 2.0, 3.0]) == expected


# --- costs ---


def test_costs_are_multiplied_within_their_bounds() -> None:
    costs = Costs(maker_fee_ppm=-200, impact_ppm=50_000)
    twice = placebo.scaled(costs, 2.0)
    assert (twice.taker_fee_ppm, twice.maker_fee_ppm, twice.half_spread_ppm, twice.impact_ppm) == (
        1_000,
        -400,
        20,
        100_000,
    )
    assert placebo.scaled(costs, 1.0) == costs
    largest = placebo.scaled(Costs(taker_fee_ppm=10_000, maker_fee_ppm=-1_000), FACTOR_MAX)
    assert msgspec.convert(msgspec.to_builtins(largest), Costs) == largest  # still within what a spec may say


def test_dated_fees_become_those_of_a_day() -> None:
    old, new = (
        placebo.plain_fees(Costs(dated_fees=True), BTC, day_start_s(dt.date(year, 6, 1))) for year in (2021, 2024)
    )
    assert (old.taker_fee_ppm, new.taker_fee_ppm) == (400, 500)
    assert not old.dated_fees
    assert placebo.plain_fees(Costs(), BTC, 0) == Costs()


@FEW
@given(zero=st.floats(0.02, 12.0), bend=st.floats(0.3, 3.0))
def test_the_break_even_of_a_falling_result_is_found(zero: float, bend: float) -> None:
    asked = []

    def result(factor: float) -> float:
        asked.append(factor)
        return 1.0 - (factor / zero) ** bend

    found = placebo.break_even({factor: 1.0 - (factor / zero) ** bend for factor in (0.0, 1.0, 2.0)}, result)
    assert len(asked) <= FOLDS_MAX
    assert all(0.0 < factor <= FACTOR_MAX for factor in asked)
    if zero > FACTOR_MAX:
        assert found is None
    elif zero < FACTOR_MAX - 0.1:
        assert found is not None
        assert abs(found - zero) <= max(0.1, 0.04 * zero)


def test_what_loses_for_free_breaks_even_at_nothing() -> None:
    def never(factor: float) -> float:
        raise AssertionError(f"{factor} was asked for")

    assert placebo.break_even({0.0: -0.1, 1.0: -0.2, 2.0: -0.3}, never) == 0.0
    assert placebo.break_even({0.0: 0.0, 1.0: 0.0, 2.0: 0.0}, never) == 0.0


def test_the_first_fall_to_nothing_counts() -> None:
    found = placebo.break_even({0.0: 1.0, 1.0: -0.5, 2.0: 0.5}, lambda factor: 1.0 - 1.5 * factor)
    assert found == pytest.approx(2 / 3, abs=0.01)


# --- what is cut, and what is not ---


def test_shuffling_cuts_what_links_spot_and_perp() -> None:
    spec = WorldSpec(seed=3, start=dt.date(2026, 1, 5), days=2, assets=("BTC",))
    rows = concat([simulate_day(spec, "BTC", dt.date(2026, 1, 5) + dt.timedelta(n)).rows for n in range(2)])
    new = placebo.shuffle_perp(rows, 1)

    def link(block: Rows) -> float:
        minutes = [
            column[: len(column) // 60 * 60].reshape(-1, 60).sum(axis=1)
            for column in (block.spot_delta, block.perp_delta)
        ]
        return abs(float(np.corrcoef(minutes)[0, 1]))

    assert len(rows.ts) == 2 * DAY_S
    assert link(rows) > 0.2
    assert link(new) < 0.1


def test_half_a_day_of_a_scan_is_not_touched_by_what_is_shuffled_later() -> None:
    """Only where its flow is another does a scan say something else: the hours before the first moved one stay."""
    rows = rows_of(11, 6 * BLOCK_S)
    hours = placebo.whole_hours(rows.ts, START_S)
    source = hours.at.copy()
    source[4], source[5] = hours.at[5], hours.at[4]
    delta, volume = placebo.shuffled((rows.perp_delta, rows.perp_volume), hours, source)
    np.testing.assert_array_equal(delta[: 4 * BLOCK_S], rows.perp_delta[: 4 * BLOCK_S])
    np.testing.assert_array_equal(volume[4 * BLOCK_S : 5 * BLOCK_S], rows.perp_volume[5 * BLOCK_S :])
    assert backtest.hash_hours(cut(rows, 0, BLOCK_S)) == backtest.hash_hours(
        cut(rows._replace(perp_delta=delta), 0, BLOCK_S)
    )
