"""When the simulated exchange fills, at what price, and that it never knows the future."""

import datetime as dt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laws.mutants_exchange import MUTANTS
from squeezecore.errors import UsageError
from squeezecore.exchange import CARRY_S_MAX, Exchange, FundingEvent, Market, round_trip_cost, taking_price
from squeezecore.ledger import notional_usd_e8
from squeezecore.market import PPM, Kind, Margin, Side
from squeezecore.schedules import TABLES, maintenance_path, maintenance_usd_e8, terms_of
from squeezecore.spec import Costs
from squeezecore.trading import USD_E8, Liquidity, OrderKind, OrderState
from support.market_worlds import BTC, CAPITAL, ETH, INSTRUMENTS, LOT, TICK, World, order, perp, play, second, world

FREE = Costs(taker_fee_ppm=0, maker_fee_ppm=0, half_spread_ppm=0, impact_ppm=0, participation_max_ppm=PPM, latency_ms=0)
FREE_TAKING = Costs(half_spread_ppm=0, impact_ppm=0)
BUY, SELL = Side.BUY, Side.SELL


def venue(costs=FREE, capital=CAPITAL):
    return Exchange(INSTRUMENTS, costs, capital)


def run(exchange, *seconds, start=101, of=BTC):
    """Settle seconds of one instrument from `start` on; return all fills."""
    return [fill for i, one in enumerate(seconds) for fill in exchange.settle(start + i, {of.id: one}).fills]


# --- market orders ---


@pytest.mark.parametrize(("latency_ms", "filled_in"), [(0, 101), (250, 101), (999, 101), (1_000, 102), (2_500, 103)])
def test_an_order_meets_the_second_after_its_own_plus_whole_seconds_of_latency(latency_ms, filled_in):
    exchange = venue(Costs(latency_ms=latency_ms))
    exchange.submit(order(ts=100), 100)
    (fill,) = run(exchange, *[second(60_000 + i, high=60_100, low=59_900) for i in range(4)])
    assert fill.ts == filled_in
    assert fill.slippage_usd_e8 == notional_usd_e8(BTC, fill.price - (60_000 + filled_in - 101) * 1_000, fill.qty)


def test_the_price_is_the_open_plus_half_the_spread_plus_impact_by_share():
    exchange = venue(Costs(half_spread_ppm=100, impact_ppm=1_000, participation_max_ppm=500_000))
    exchange.submit(order(lots=5_000), 100)  # 5 BTC of the 10 that takers bought: half of it
    (fill,) = run(exchange, second(60_000, high=60_100, low=59_900))
    assert fill.price == 60_036_000  # 60,000 × (1 + 100 ppm + 1000 ppm / 2)
    assert fill.fee_usd_e8 == 5 * 60_036 * 500 * 100  # 5 bp of 300,180 USD


def test_a_buy_competes_with_taker_buys_and_a_sale_with_taker_sells():
    for side, buy, sell in ((BUY, 0.02, 0), (SELL, 0, 0.02)):
        exchange = venue()
        exchange.submit(order(side=side, lots=50), 100)
        (fill,) = run(exchange, second(buy=buy, sell=sell))
        assert fill.qty == 20 * LOT


def test_what_volume_cannot_carry_goes_over_and_pays_the_next_open():
    exchange = venue(Costs(participation_max_ppm=200_000, half_spread_ppm=0, impact_ppm=0))
    exchange.submit(order(lots=30), 100)
    fills = run(exchange, second(60_000, buy=0.1), second(60_000, buy=0), second(60_100, buy=5))
    assert [(fill.ts, fill.price, fill.qty) for fill in fills] == [
        (101, 60_000_000, 20 * LOT),
        (103, 60_100_000, 10 * LOT),
    ]
    assert exchange.status("a").state is OrderState.FILLED
    assert [fill.id for fill in fills] == ["a-1", "a-2"]


def test_all_our_orders_share_one_cap_and_the_later_pays_the_impact_of_both():
    exchange = venue(Costs(participation_max_ppm=500_000, half_spread_ppm=0, impact_ppm=1_000))
    for name in "ab":
        exchange.submit(order(name, lots=30), 100)
    fills = run(exchange, second(60_000, high=60_100, buy=0.1))
    assert [(fill.qty // LOT, fill.price) for fill in fills] == [(30, 60_018_000), (20, 60_030_000)]


def test_the_price_stays_within_the_range_widened_by_half_the_spread():
    exchange = venue(Costs(half_spread_ppm=100, impact_ppm=100_000, participation_max_ppm=PPM))
    exchange.submit(order(lots=10_000), 100)
    (fill,) = run(exchange, second(60_000, high=60_010, low=59_990))
    assert fill.price == 60_016_100  # 60,010 × (1 + 100 ppm) = 60,016.001, up to the tick


@given(
    st.sampled_from([BUY, SELL]), st.integers(1, 10**6), st.integers(0, 10**4), st.integers(0, 10**4),
    st.integers(1, 10**9), st.integers(0, 10**9), st.integers(0, 10_000), st.integers(0, 100_000),
)  # fmt: skip
@settings(deadline=None, max_examples=200)
def test_a_taker_never_gets_better_than_the_open_nor_worse_than_the_widened_range(
    side, ticks, up, down, volume, share, half, impact
):
    low, high = max(1, ticks - down), ticks + up
    one = Market(ticks * TICK, high * TICK, low * TICK, ticks * TICK, volume, volume, ticks * TICK)
    costs = Costs(half_spread_ppm=half, impact_ppm=impact)
    price = taking_price(side, one.open, one, volume, min(share, volume), costs, TICK)
    assert price % TICK == 0
    assert side.sign * (price - one.open) >= 0
    edge = one.high * (PPM + half) if side is BUY else one.low * (PPM - half)
    assert side.sign * (price * PPM - edge) < TICK * PPM  # rounding against us adds less than a tick


@given(st.integers(1, 10**4), st.integers(1, 10**4), st.integers(0, 10**5))
@settings(deadline=None, max_examples=100)
def test_a_larger_order_never_pays_less(small, more, impact):
    one, costs = second(60_000, high=90_000, low=30_000), Costs(impact_ppm=impact)
    prices = [taking_price(BUY, one.open, one, one.buy_qty, lots * LOT, costs, TICK) for lots in (small, small + more)]
    assert prices[0] <= prices[1]


def test_an_opening_order_is_given_up_after_a_minute_without_volume_and_an_exit_never():
    exchange = venue()
    exchange.submit(order("in", lots=10), 100)
    run(exchange, second())
    exchange.submit(order("more", lots=10), 101)
    exchange.submit(order("out", SELL, lots=10, reduce_only=True), 101)
    run(exchange, *[second(buy=0, sell=0)] * (3 * CARRY_S_MAX), start=102)
    assert exchange.status("more").state is OrderState.CANCELLED
    assert "waited 60 s" in exchange.status("more").reason
    assert exchange.status("out").state is OrderState.ACCEPTED
    (fill,) = run(exchange, second(), start=400)
    assert fill.order_id == "out"


# --- limit orders ---


def test_a_resting_limit_fills_only_when_the_price_is_crossed_strictly():
    exchange = venue()
    exchange.submit(order(kind=OrderKind.LIMIT, price=59_990_000), 100)
    fills = run(exchange, second(60_000, low=59_991), second(60_000, low=59_990), second(60_000, low=59_989.9))
    assert [(fill.ts, fill.price, fill.liquidity) for fill in fills] == [(103, 59_990_000, Liquidity.MAKER)]


def test_a_resting_limit_gains_nothing_from_a_gap_and_is_filled_by_the_other_takers():
    exchange = venue(Costs(latency_ms=0, participation_max_ppm=100_000))
    exchange.submit(order(kind=OrderKind.LIMIT, price=59_990_000, lots=10), 100)
    fills = run(exchange, second(60_000), second(59_000, buy=0, sell=0.05), second(59_000, buy=9, sell=0))
    assert [(fill.price, fill.qty // LOT, fill.fee_usd_e8) for fill in fills] == [(59_990_000, 5, 59_990 * 100)]  # 2 bp


def test_a_limit_that_could_trade_at_once_takes_but_never_beyond_its_price():
    exchange = venue(Costs(latency_ms=0, impact_ppm=100_000, half_spread_ppm=0, participation_max_ppm=PPM))
    exchange.submit(order(kind=OrderKind.LIMIT, price=60_001_000, lots=10_000), 100)
    (fill,) = run(exchange, second(60_000, high=61_000))
    assert (fill.price, fill.liquidity) == (60_001_000, Liquidity.TAKER)


def test_a_limit_rests_from_the_first_full_second_after_its_arrival():
    for latency_ms, filled_in in ((0, 101), (250, 102), (1_000, 102), (1_001, 103)):
        exchange = venue(Costs(latency_ms=latency_ms))
        exchange.submit(order(kind=OrderKind.LIMIT, price=59_990_000), 100)
        (fill,) = run(exchange, *[second(60_000, low=59_980)] * 3)
        assert fill.ts == filled_in


# --- stops ---


@pytest.mark.parametrize(
    ("side", "touching", "opens", "price"),
    [
        (BUY, 60_010, 60_005, 60_010), (BUY, 60_010, 60_030, 60_030),
        (SELL, 59_990, 59_995, 59_990), (SELL, 59_990, 59_950, 59_950),
    ],
)  # fmt: skip
def test_a_stop_fills_at_the_worse_of_its_price_and_the_next_open(side, touching, opens, price):
    exchange = venue()
    stop = 60_010_000 if side is BUY else 59_990_000
    exchange.submit(order(side=side, kind=OrderKind.STOP, price=stop), 100)
    touch = second(60_000, high=max(touching, 60_000), low=min(touching, 60_000))
    fills = run(exchange, second(60_000), touch, second(opens))
    assert [(fill.ts, fill.price) for fill in fills] == [(103, round(price * 1_000))]


def test_a_stop_is_touched_only_from_its_arrival_on():
    exchange = venue(Costs(latency_ms=1_000))
    exchange.submit(order(kind=OrderKind.STOP, price=60_010_000), 100)
    assert not run(exchange, second(60_000, high=60_020), second(60_000), second(60_000))


# --- reduce only, duplicates, refusals, cancels ---


@given(st.integers(1, 50), st.integers(1, 80), st.booleans())
@settings(deadline=None, max_examples=40)
def test_a_reduce_only_order_never_increases_or_flips_a_position(held, wanted, short):
    way, back = (SELL, BUY) if short else (BUY, SELL)
    exchange = venue()
    exchange.submit(order("in", way, held), 100)
    exchange.submit(order("out", back, wanted, reduce_only=True), 101)
    exchange.submit(order("wrong", way, wanted, reduce_only=True), 101)
    run(exchange, *[second()] * 4)
    assert exchange.ledger.qty_of(BTC.id) == way.sign * max(0, held - wanted) * LOT
    assert exchange.status("wrong").state is OrderState.CANCELLED
    assert not exchange.open_orders()


def test_a_duplicate_submit_changes_nothing():
    exchange = venue()
    exchange.submit(order(), 100)
    before = exchange.to_bytes()
    exchange.submit(order(), 100)
    assert exchange.to_bytes() == before
    run(exchange, second())
    assert exchange.submit(order(), 101).state is OrderState.FILLED
    assert not exchange.open_orders()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (order(of=perp("XMR")), "traded here are"), (order(lots=0), "multiple of the lot"),
        (order(side=Side.NONE), "BUY or SELL"), (order(kind=OrderKind.LIMIT, price=60_000_050), "multiple of the tick"),
        (order(kind=OrderKind.STOP), "multiple of the tick"),
    ],
)  # fmt: skip
def test_a_malformed_order_is_rejected_with_the_value_and_the_rule(wrong, reason):
    update = venue().submit(wrong, 100)
    assert update.state is OrderState.REJECTED
    assert reason in update.reason


def test_a_cancel_takes_its_latency_too():
    exchange = venue(Costs(latency_ms=250))
    exchange.submit(order(kind=OrderKind.LIMIT, price=59_990_000), 100)
    run(exchange, second(60_000), second(60_000))
    exchange.cancel("a", 102)
    assert run(exchange, second(60_000, low=59_980, sell=0.001), start=103) == []  # a fifth of a lot fills nothing
    exchange.settle(104, {BTC.id: second(60_000, low=59_980)})
    assert exchange.status("a").state is OrderState.CANCELLED
    assert exchange.cancel("never", 104).state is OrderState.UNKNOWN


def test_an_entry_without_margin_ends_with_the_reason_and_an_exit_needs_none():
    exchange = venue(capital=1_000 * USD_E8)
    exchange.submit(order("in", lots=100), 100)  # 6,000 USD reserve 300
    exchange.submit(order("much", lots=400), 100)
    run(exchange, second())
    assert exchange.ledger.qty_of(BTC.id) == 100 * LOT
    assert "margin would be" in exchange.status("much").reason
    exchange.submit(order("out", SELL, 100, reduce_only=True), 101)
    run(exchange, second(), start=102)
    assert not exchange.ledger.positions


def test_contracts_that_pay_in_another_coin_are_refused():
    inverse = perp(margin=Margin.INVERSE)
    with pytest.raises(UsageError, match="linear perpetuals only"):
        Exchange({inverse.id: inverse}, Costs(), CAPITAL)


# --- funding, liquidation, holes ---


def test_funding_is_paid_on_what_was_held_before_the_second_at_its_mark_and_once():
    exchange = venue()
    exchange.submit(order(lots=1_000), 100)
    event = FundingEvent(BTC.id, 101, 1_000_000)
    assert exchange.settle(101, {BTC.id: second()}, [event]).payments == ()  # bought in that very second
    again = FundingEvent(BTC.id, 102, 1_000_000)
    (payment,) = exchange.settle(102, {BTC.id: second(60_000, mark=61_000)}, [again, again]).payments
    assert payment.received_usd_e8 == -(61_000 * USD_E8) // 10_000
    assert exchange.settle(103, {BTC.id: second()}, [event, again]).payments == ()


def test_funding_of_the_future_and_seconds_out_of_order_are_faults():
    exchange = venue()
    with pytest.raises(ValueError, match="future"):
        exchange.settle(100, {}, [FundingEvent(BTC.id, 101, 1)])
    exchange.settle(100, {})
    with pytest.raises(ValueError, match="must ascend"):
        exchange.settle(100, {})


def leveraged(costs=FREE):
    """Hold 10 BTC at 60,000 with 60,000 USD."""
    exchange = venue(costs, 60_000 * USD_E8)
    exchange.submit(order(lots=10_000), 100)
    run(exchange, second())
    exchange.submit(order("resting", kind=OrderKind.LIMIT, price=50_000_000), 101)
    return exchange


def test_a_position_is_liquidated_at_the_mark_not_at_a_wick():
    exchange = leveraged()
    exchange.settle(102, {BTC.id: second(60_000, low=50_100, mark=60_000)})
    assert exchange.ledger.positions
    settled = exchange.settle(103, {BTC.id: second(60_000, close=54_900, mark=54_200)})
    (fill,) = settled.fills
    assert (fill.reason, fill.price, fill.side) == ("liquidation", 54_200_000, SELL)  # the worse of mark and close
    assert fill.fee_usd_e8 == 542_000 * USD_E8 // 80  # 1.25 %
    assert exchange.idle
    assert exchange.status("resting").reason == "liquidation"
    assert exchange.ledger.check() == 60_000 * USD_E8 - 58_000 * USD_E8 - fill.fee_usd_e8


@given(st.integers(53_000, 62_000))
@settings(deadline=None, max_examples=40)
def test_liquidation_comes_exactly_when_equity_is_no_more_than_maintenance(mark):
    exchange = leveraged()
    notional, equity = mark * 10 * USD_E8, (60_000 - (60_000 - mark) * 10) * USD_E8
    # Binance's second bracket in 1970's table: 0.4 % to 50,000, 0.5 % to 250,000, then 1 %
    maintenance = notional // 100 - (250_000 * USD_E8 // 200 + 50 * USD_E8)
    settled = exchange.settle(102, {BTC.id: second(60_000, mark=mark)})
    assert bool(settled.fills) == (equity <= maintenance)


def test_a_hole_closes_at_the_last_close_with_taker_cost_and_ends_the_orders():
    exchange = leveraged(Costs(half_spread_ppm=100, participation_max_ppm=PPM))
    settled = exchange.close_out(101, BTC.id, 60_000_000, "data_hole")
    (fill,) = settled.fills
    assert (fill.price, fill.reason, fill.ts) == (59_994_000, "data_hole", 101)
    assert fill.fee_usd_e8 == 10 * 59_994 * USD_E8 // 2_000
    assert exchange.idle
    assert exchange.close_out(101, BTC.id, 60_000_000, "data_hole").fills == ()


@given(st.integers(0, 2**32), st.integers(0, 1))
@settings(deadline=None, max_examples=25)
def test_a_skipped_span_equals_the_same_seconds_settled_one_by_one(seed, short):
    rng = np.random.default_rng(seed)
    marks = (60_000_000 + np.cumsum(rng.integers(-900, 901, 300)) * 1_000).astype(np.int64)
    slow, fast = (leveraged() for _ in range(2))
    for exchange in (slow, fast):
        exchange.cancel("resting", 101)
        exchange.settle(102, {})
        exchange.settle(103, {})
    equity = fast.skip(103 + len(marks), {BTC.id: marks})
    for i, mark in enumerate(marks[: len(equity)]):
        one = Market(60_000_000, 60_000_000, 60_000_000, 60_000_000, 0, 0, int(mark))
        settled = slow.settle(104 + i, {BTC.id: one})
        assert settled.fills == ()
        assert settled.equity_usd_e8 == equity[i]
    assert fast.to_bytes() == slow.to_bytes()
    if len(equity) < len(marks):  # the next second must liquidate
        one = Market(60_000_000, 60_000_000, 60_000_000, 60_000_000, 0, 0, int(marks[len(equity)]))
        (fill,) = slow.settle(104 + len(equity), {BTC.id: one}).fills
        assert fill.reason == "liquidation"


def test_a_span_with_open_orders_is_not_skipped():
    with pytest.raises(ValueError, match="orders are open"):
        leveraged().skip(200, {BTC.id: np.full(5, 60_000_000)})


# --- schedules ---


def test_dated_terms_begin_at_their_midnight():
    midnight = TABLES[BTC.id][1].valid_from_s
    assert dt.datetime.fromtimestamp(midnight, dt.UTC) == dt.datetime(2022, 1, 1, tzinfo=dt.UTC)
    assert [terms_of(BTC, ts).taker_fee_ppm for ts in (0, midnight - 1, midnight)] == [400, 400, 500]
    for costs, fee in ((Costs(dated_fees=True), 400), (Costs(), 500), (Costs(taker_fee_ppm=123), 123)):
        exchange = venue(costs)
        exchange.submit(order(), 100)
        (fill,) = run(exchange, second(60_000, high=60_100, low=59_900))
        assert fill.fee_usd_e8 == notional_usd_e8(BTC, fill.price, fill.qty) * fee // PPM


@given(st.integers(0, 3 * 10**9 * USD_E8), st.integers(0, 2_000_000_000))
@settings(deadline=None, max_examples=100)
def test_maintenance_is_each_part_at_its_own_rate(notional, ts):
    for instrument in (BTC, ETH, perp("XMR")):
        terms, left, below, parts = terms_of(instrument, ts), notional, 0, 0
        for bracket in terms.brackets:
            part = min(left, bracket.notional_usd_max * USD_E8 - below)
            left, below, parts = left - part, bracket.notional_usd_max * USD_E8, parts + part * bracket.maintenance_ppm
        parts += left * terms.brackets[-1].maintenance_ppm
        assert maintenance_usd_e8(terms, notional) == -(-parts // PPM)


def test_the_maintenance_of_a_span_changes_with_the_terms_inside_it():
    border = TABLES[BTC.id][2].valid_from_s
    marks = np.linspace(50_000_000, 70_000_000, 20).astype(np.int64)
    for qty in (10**10, -(10**10)):
        path = maintenance_path(BTC, qty, border - 10, marks)
        slow = [
            maintenance_usd_e8(terms_of(BTC, border - 10 + i), notional_usd_e8(BTC, int(mark), abs(qty)))
            for i, mark in enumerate(marks)
        ]
        assert path.tolist() == slow


def test_spot_has_no_maintenance_and_is_never_liquidated():
    spot = perp(symbol="BTC-USDT", kind=Kind.SPOT, margin=Margin.NONE)
    exchange = Exchange({spot.id: spot}, FREE, CAPITAL)
    exchange.submit(order(of=spot, lots=1_600), 100)
    run(exchange, second(), of=spot)
    equity = exchange.skip(103, {spot.id: np.array([30_000_000, 1_000])})
    assert len(equity) == 2
    exchange.submit(order("short", SELL, 2_000, of=spot), 103)
    run(exchange, second(), start=104, of=spot)
    assert "nothing left to sell" in exchange.status("short").reason
    assert not exchange.ledger.positions


def test_a_round_trip_estimate_covers_a_real_round_trip():
    costs = Costs(participation_max_ppm=200_000)
    exchange = venue(costs)
    one = second(60_000, high=61_000, low=59_000, buy=10, sell=10)
    exchange.submit(order("in", lots=1_000), 100)
    exchange.submit(order("out", SELL, 1_000, reduce_only=True), 101)
    run(exchange, one, one)
    lost = (CAPITAL - exchange.ledger.check()) / (60_000 * USD_E8)
    assert 0 < lost <= round_trip_cost(costs) * 1.001


# --- cuts and prefixes ---


@given(st.integers(0, 2**32), st.integers(0, 79))
@settings(deadline=None, max_examples=15)
def test_a_snapshot_is_invisible_anywhere(seed, cut):
    the_world = world(seed)
    whole, parted = play(the_world), play(the_world, cut=cut)
    assert parted.exchange.to_bytes() == whole.exchange.to_bytes()
    assert parted[:4] == whole[:4]


def test_the_order_of_instruments_in_a_second_is_irrelevant():
    the_world = world(5)
    turned = the_world._replace(seconds=[dict(reversed(one.items())) for one in the_world.seconds])
    assert play(turned).equity == play(the_world).equity


def altered(the_world: World, t: int, seed: int) -> World:
    """Rewrite all that comes after second `t`, and of `t` itself what is not known when its orders fill.

    Its open and volumes stay, its range only grows (resting orders and the bound on a price may use it), its close and
    mark are new.
    """
    other, at = world(seed), t - the_world.start
    now = {
        name: one._replace(
            high=one.high + 400 * TICK, low=max(TICK, one.low - 400 * TICK), close=one.low, mark=one.low - 3 * TICK
        )
        for name, one in the_world.seconds[at].items()
    }
    seconds = [*the_world.seconds[:at], now, *other.seconds[at + 1 :]]
    funding = [e for e in the_world.funding if e.event_ts <= t] + [e for e in other.funding if e.event_ts > t]
    return World(the_world.start, seconds, funding)


def leaks(make, seed: int, t: int) -> str:
    """Say what of the past the future changed; empty when nothing."""
    the_world, changed = world(seed), altered(world(seed), t, seed + 1)
    known = t + 1 - the_world.start
    later = changed._replace(seconds=[*the_world.seconds[:known], *changed.seconds[known:]])
    before, after = (play(one, exchange=make(one, Costs())) for one in (the_world, later))
    for column in ("fills", "payments", "updates"):
        kept, other = ([x for x in getattr(one, column) if x.ts <= t] for one in (before, after))
        if kept != other:
            return f"{column} up to {t} changed with what came after"
    if list(before.equity.values())[:known] != list(after.equity.values())[:known]:
        return f"equity up to {t} changed with what came after"
    # without resting orders, which a second's range may fill, and without costs, which it bounds, a fill must not know
    # more of its second than the open and the volume
    takers = [
        [
            f
            for f in play(one, exchange=make(one, FREE_TAKING), rests=False).fills
            if f.ts <= t and f.reason != "liquidation"
        ]
        for one in (the_world, changed)
    ]
    return "" if takers[0] == takers[1] else f"a fill up to {t} knew the close, mark or range of its own second"


PREFIXES = [(seed, 1_000 + t) for seed in (1, 2, 3) for t in range(6, 79, 6)]


def test_no_past_depends_on_the_future():
    found = [leaks(lambda _, costs: venue(costs), seed, t) for seed, t in PREFIXES]
    assert not any(found), found


@pytest.mark.parametrize("name", MUTANTS)
def test_each_planted_look_ahead_is_caught(name):
    assert any(leaks(MUTANTS[name], seed, t) for seed, t in PREFIXES), f"{name} was not caught"


def test_the_worlds_exercise_every_kind_of_fill():
    runs = [play(world(seed)) for seed in (1, 2, 3, 4, 5, 6)]
    fills = [fill for one in runs for fill in one.fills]
    assert {fill.liquidity for fill in fills} == set(Liquidity)
    assert {update.state for one in runs for update in one.updates} >= {
        OrderState.PARTIAL, OrderState.FILLED, OrderState.CANCELLED,
    }  # fmt: skip
    assert any(one.payments for one in runs)
    assert len(fills) > 100
