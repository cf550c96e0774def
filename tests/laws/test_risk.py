"""The laws of risk: no accepted order breaks a limit, a tighter limit accepts no more, an exit is never denied."""

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezecore.ledger import notional_usd_e8
from squeezecore.market import DAY_S, Side
from squeezecore.risk import (
    Book,
    EquityMarks,
    Holding,
    Pending,
    TradingState,
    advance,
    check,
    clusters,
    correlations,
    is_exit,
    marks_at,
    size,
    size_factor,
)
from squeezecore.spec import Limits
from squeezecore.trading import USD_E8, OrderKind, OrderState
from support.market_worlds import BTC, ETH, LOT, order, perp

XMR = perp("XMR")
TRADED = {one.id: one for one in (BTC, ETH, XMR)}
CLOSES = {BTC.id: 60_000_000, ETH.id: 3_000_000, XMR.id: 200_000}
NOW = 1_767_225_600
BUY, SELL = Side.BUY, Side.SELL


def holding(of=BTC, lots=100):
    return Holding(asset=of.base, instrument=of.id, qty=lots * LOT)


def book(**changes):
    """Make a healthy book of 100,000 USD that holds nothing."""
    money = dict.fromkeys(("equity_usd_e8", "day_open_usd_e8", "week_open_usd_e8", "peak_usd_e8"), 100_000 * USD_E8)
    values = {
        "ts": NOW, **money, "instruments": TRADED, "last_close": CLOSES, "last_data_ts": dict.fromkeys(TRADED, NOW),
    }  # fmt: skip
    return Book(**{**values, **changes})


instruments = st.sampled_from(list(TRADED.values()))
orders = st.builds(
    order,
    side=st.sampled_from([BUY, SELL]),
    lots=st.integers(1, 200_000),
    of=instruments,
    reduce_only=st.booleans(),
    kind=st.sampled_from([OrderKind.MARKET, OrderKind.LIMIT]),
    price=st.sampled_from([60_000_000, 60_500_000, 3_000_000, 3_050_000, 200_000]),
)


def held_up_to(lots):
    """Draw what is held: at most one position an asset, long or short."""
    one = st.builds(holding, of=instruments, lots=st.integers(-lots, lots))
    return st.lists(one, max_size=3, unique_by=lambda h: h.asset).map(tuple)


def pending(drawn):
    """Draw open orders."""
    return st.lists(st.builds(lambda o: Pending(o, o.qty), drawn), max_size=3).map(tuple)


small_orders = st.builds(order, of=instruments, side=st.sampled_from([BUY, SELL]), lots=st.integers(1, 3_000))
dollars = st.integers(-10_000, 200_000).map(lambda usd: usd * USD_E8)
books = st.builds(
    book,
    equity_usd_e8=dollars,
    day_open_usd_e8=dollars,
    week_open_usd_e8=dollars,
    peak_usd_e8=dollars,
    holdings=held_up_to(20_000),
    open_orders=pending(orders),
    orders_last_minute=st.integers(0, 70),
    state=st.sampled_from(TradingState),
    kill_switch=st.booleans(),
    last_data_ts=st.sampled_from([{}, dict.fromkeys(TRADED, NOW - 11), dict.fromkeys(TRADED, NOW)]),
    clusters=st.sampled_from([(), (("BTC", "ETH"), ("XMR",)), (("BTC", "ETH", "XMR"),)]),
)
calm_books = st.builds(
    book,
    holdings=held_up_to(5_000),
    open_orders=pending(small_orders),
    equity_usd_e8=st.integers(97_000, 150_000).map(lambda usd: usd * USD_E8),
    peak_usd_e8=st.integers(100_000, 150_000).map(lambda usd: usd * USD_E8),
    clusters=st.sampled_from([(), (("BTC", "ETH"), ("XMR",))]),
)
limits_drawn = st.builds(
    Limits,
    order_notional_usd_max=st.integers(1, 2_000_000),
    position_notional_usd_max=st.integers(1, 2_000_000),
    open_positions_max=st.integers(1, 4),
    leverage_max=st.floats(0.1, 20),
    correlated_exposure_max=st.floats(0.1, 20),
    daily_loss_max=st.floats(0.01, 1),
    weekly_loss_max=st.floats(0.01, 1),
    drawdown_taper_start=st.floats(0, 1),
    drawdown_max=st.floats(0.01, 1),
    price_collar=st.floats(0.001, 1),
    orders_per_minute_max=st.integers(1, 70),
    stale_data_s_max=st.integers(1, 20),
)


wide_limits = st.builds(
    Limits,
    leverage_max=st.floats(0.5, 20),
    correlated_exposure_max=st.floats(0.5, 20),
    position_notional_usd_max=st.integers(50_000, 2_000_000),
    open_positions_max=st.integers(1, 4),
    drawdown_taper_start=st.floats(0, 0.3),
)
some_orders = small_orders | orders  # half of them small enough to be accepted


def filled(of, the_book, the_order):
    """Return the signed extremes of a position when the order and every open entry fill, in qty."""
    pending = [(p.order, p.remaining) for p in the_book.open_orders if not p.order.reduce_only] + [
        (the_order, the_order.qty)
    ]
    held, mine = the_book.qty_of(of.id), [(o.side, qty) for o, qty in pending if o.instrument == of.id]
    return [held + side.sign * sum(qty for way, qty in mine if way is side) for side in (BUY, SELL)]


@given(some_orders, calm_books | books, wide_limits | limits_drawn)
@settings(deadline=None, max_examples=300)
def test_no_accepted_entry_breaks_a_limit(one, view, limits):
    if check(one, view, limits) is not None or is_exit(one, view):
        return
    equity, worst = view.equity_usd_e8, {}
    for of in TRADED.values():
        worst[of.base] = max(abs(notional_usd_e8(of, CLOSES[of.id], qty)) for qty in filled(of, view, one))
    value = notional_usd_e8(TRADED[one.instrument], CLOSES[one.instrument], one.qty)
    assert not view.kill_switch
    assert view.state is TradingState.ACTIVE
    assert view.ts - view.last_data_ts[one.instrument] <= limits.stale_data_s_max
    assert value <= limits.order_notional_usd_max * USD_E8 * size_factor(view, limits)
    way = max(0, one.side.sign * filled(TRADED[one.instrument], view, one)[0 if one.side is BUY else 1])
    assert (
        notional_usd_e8(TRADED[one.instrument], CLOSES[one.instrument], way)
        <= limits.position_notional_usd_max * USD_E8
    )
    already = {h.asset for h in view.holdings} | {p.order.asset for p in view.open_orders}
    assert sum(notional > 0 for notional in worst.values()) <= max(limits.open_positions_max, len(already))
    assert sum(worst.values()) <= equity * limits.leverage_max
    for cluster in view.clusters:
        if one.asset in cluster:
            assert sum(worst[asset] for asset in cluster) <= equity * limits.correlated_exposure_max
    assert view.day_open_usd_e8 - equity < view.day_open_usd_e8 * limits.daily_loss_max
    assert view.week_open_usd_e8 - equity < view.week_open_usd_e8 * limits.weekly_loss_max
    assert view.orders_last_minute < limits.orders_per_minute_max
    if one.kind is OrderKind.LIMIT:
        assert abs(one.price / CLOSES[one.instrument] - 1) <= limits.price_collar + 1e-12


@given(
    some_orders,
    calm_books | books,
    wide_limits | limits_drawn,
    st.sampled_from(Limits.__struct_fields__),
    st.floats(0.05, 1),
)
@settings(deadline=None, max_examples=300)
def test_a_tighter_limit_never_accepts_more(one, view, limits, name, share):
    if name == "correlation_min":
        return  # it shapes the clusters: the test below
    now = getattr(limits, name)
    tighter = max(1, int(now * share)) if isinstance(now, int) else now * share
    strict = msgspec.structs.replace(limits, **{name: tighter})
    if check(one, view, strict) is None:
        assert check(one, view, limits) is None


@given(orders, books, limits_drawn)
@settings(deadline=None, max_examples=300)
def test_an_exit_is_never_denied(one, view, limits):
    held = view.qty_of(one.instrument)
    if not held:
        return
    back = SELL if held > 0 else BUY
    assert check(msgspec.structs.replace(one, side=back, reduce_only=True), view, limits) is None
    alone = msgspec.structs.replace(view, open_orders=())
    plain = msgspec.structs.replace(one, side=back, reduce_only=False, qty=min(one.qty, abs(held)))
    assert check(plain, alone, limits) is None


def test_what_would_flip_a_position_is_no_exit():
    view = book(holdings=(holding(lots=10),), kill_switch=True)
    assert check(order(side=SELL, lots=10), view, Limits()) is None
    assert check(order(side=SELL, lots=11), view, Limits()).limit_name == "kill_switch"
    pending = msgspec.structs.replace(view, open_orders=(Pending(order("b", SELL, 5), 5 * LOT),))
    assert check(order(side=SELL, lots=6), pending, Limits()).limit_name == "kill_switch"
    assert check(order(side=SELL, lots=11, reduce_only=True), pending, Limits()) is None


def test_only_a_malformed_exit_is_denied():
    view = book(holdings=(holding(lots=10),))
    broken = msgspec.structs.replace(order(side=SELL, reduce_only=True), qty=LOT + 1)
    assert check(broken, view, Limits()).limit_name == "lot"
    assert check(order(of=perp("DOGE")), view, Limits()).limit_name == "instrument"


LOSS = 95_000 * USD_E8
PAIR = book(holdings=(holding(ETH, 20_000),), clusters=(("BTC", "ETH"),))


@pytest.mark.parametrize(
    ("name", "value", "one", "view", "limits"),
    [
        ("kill_switch", 1, order(), book(kill_switch=True), Limits()),
        ("trading_state", 1, order(), book(state=TradingState.REDUCING), Limits()),
        ("trading_state", 1, order(), book(state=TradingState.HALTED), Limits()),
        ("stale_data_s_max", 11, order(), book(last_data_ts={BTC.id: NOW - 11}), Limits()),
        ("stale_data_s_max", math.inf, order(), book(last_data_ts={}), Limits()),
        ("price_collar", 0.03, order(kind=OrderKind.LIMIT, price=61_800_000), book(), Limits()),
        ("daily_loss_max", 0.05, order(), book(equity_usd_e8=LOSS), Limits()),
        ("weekly_loss_max", 0.05, order(), book(equity_usd_e8=LOSS, day_open_usd_e8=LOSS), Limits(weekly_loss_max=0.04)),
        ("drawdown_max", 0.5, order(), book(peak_usd_e8=200_000 * USD_E8), Limits()),
        ("orders_per_minute_max", 61, order(), book(orders_last_minute=60), Limits()),
        ("order_notional_usd_max", 120, order(lots=2), book(), Limits(order_notional_usd_max=100)),
        ("position_notional_usd_max", 180, order(lots=2), book(holdings=(holding(lots=1),)), Limits(position_notional_usd_max=150)),
        ("open_positions_max", 2, order(of=ETH), book(holdings=(holding(lots=1),)), Limits(open_positions_max=1)),
        ("leverage_max", 6, order(lots=10_000), book(), Limits()),
        ("correlated_exposure_max", 1.2, order(lots=1_000), PAIR, Limits(correlated_exposure_max=1.0)),
    ],
)  # fmt: skip
def test_each_denial_carries_the_limit_and_the_value(name, value, one, view, limits):
    denied = check(one, view, limits)
    assert denied is not None
    assert (denied.limit_name, round(denied.value, 9)) == (name, value)
    assert one.id in denied.message
    assert one.instrument in denied.message
    update = denied.update(one, NOW)
    assert update.state is OrderState.DENIED
    assert update.limit.startswith(name)
    assert update.value


@given(
    calm_books, wide_limits | limits_drawn, instruments, st.sampled_from([BUY, SELL]),
    st.floats(0.002, 0.2), st.floats(0.001, 0.1), st.floats(0.5, 10),
)  # fmt: skip
@settings(deadline=None, max_examples=300)
def test_a_size_is_accepted_by_the_limits_that_cut_it(view, limits, of, side, stop, risk, cap):
    sized = size(
        view,
        limits,
        asset=of.base,
        instrument=of.id,
        side=side,
        stop_distance=stop,
        risk_fraction=risk,
        leverage_cap=cap,
    )
    assert sized.qty % LOT == 0
    assert sized.qty >= 0
    value = notional_usd_e8(of, CLOSES[of.id], sized.qty)
    assert value <= view.equity_usd_e8 * min(cap, risk / stop) * (1 + 1e-12)
    if sized.qty:
        denied = check(order(side=side, lots=sized.qty // LOT, of=of), view, limits)
        assert denied is None or denied.limit_name in ("daily_loss_max", "weekly_loss_max", "drawdown_max")


def test_a_size_is_risk_over_stop_distance_cut_by_the_smallest_bound():
    common = {"asset": "BTC", "instrument": BTC.id, "side": BUY, "leverage_cap": 3.0}
    assert size(book(), Limits(), **common, stop_distance=0.01, risk_fraction=0.006) == (1_000 * LOT, "risk")
    assert size(book(), Limits(), **common, stop_distance=0.002, risk_fraction=0.02) == (5_000 * LOT, "leverage_cap")
    fallen = book(equity_usd_e8=82_500 * USD_E8)  # half of the size, cut to lots
    assert size(fallen, Limits(), **common, stop_distance=0.01, risk_fraction=0.006).qty == 412 * LOT


@pytest.mark.parametrize(("equity", "factor"), [(100, 1), (90, 1), (82.5, 0.5), (75, 0), (10, 0), (-5, 0)])
def test_sizes_shrink_linearly_in_a_drawdown(equity, factor):
    view = book(equity_usd_e8=round(equity * 1_000) * USD_E8)
    assert size_factor(view, Limits()) == pytest.approx(factor)


@given(
    st.dictionaries(
        st.sampled_from("ABCDEF"), st.lists(st.integers(-(10**9), 10**9), min_size=3, max_size=20), min_size=2
    )
)
@settings(deadline=None, max_examples=60)
def test_a_lower_correlation_minimum_only_merges_clusters(returns):
    pairs = correlations(returns)
    assert all(-1.000001 <= value <= 1.000001 for value in pairs.values())
    coarse, fine = clusters(pairs, 0.2), clusters(pairs, 0.7)
    assert sorted(name for one in fine for name in one) == sorted(returns)
    assert all(any(set(small) <= set(large) for large in coarse) for small in fine)


def test_correlation_is_exact_where_it_must_be():
    pairs = correlations({"A": [1, 2, 3, 4], "B": [9, 2, 4, 6, 8], "C": [-1, -2, -3, -4], "D": [5, 5, 5, 5]})
    assert pairs["A", "B"] == 1  # the newest four
    assert pairs["A", "C"] == -1
    assert pairs["A", "D"] == 0


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=40), st.integers(0, 10**7), st.integers(0, 40))
@settings(deadline=None, max_examples=60)
def test_equity_marks_are_the_same_over_any_cut_and_know_days_weeks_and_the_peak(equities, first, cut):
    step = 7 * 3_600
    start = NOW + first
    marks = marks_at(start, equities[0])
    for i, equity in enumerate(equities[1:], 1):
        marks = EquityMarks(*tuple(marks)) if i == cut else marks
        marks = advance(marks, start + i * step, equity)
    last = start + (len(equities) - 1) * step
    same_day = [e for i, e in enumerate(equities) if (start + i * step) // DAY_S == last // DAY_S]
    same_week = [e for i, e in enumerate(equities) if (start + i * step) // DAY_S + 3 >= (last // DAY_S + 3) // 7 * 7]
    assert (marks.day_open_usd_e8, marks.week_open_usd_e8, marks.peak_usd_e8) == (
        same_day[0],
        same_week[0],
        max(equities),
    )
