"""The laws of the ledger: identities that hold after every booking, whatever is booked."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezecore.errors import UsageError
from squeezecore.ledger import Drawdown, Ledger, deepen, divide_half_away, equity_path, notional_usd_e8
from squeezecore.market import Instrument, Kind, Margin, Side, scaled
from squeezecore.trading import USD_E8, Fill, Liquidity

CAPITAL = 100_000 * USD_E8


def instrument(symbol="BTC-USDT-PERP", price_decimals=3, qty_decimals=8, tick="0.1", lot="0.001", **changes):
    base = symbol.split("-")[0]
    values = {
        "venue": "binance", "symbol": symbol, "native_symbol": base + "USDT", "section": "linear", "base": base,
        "quote": "USDT", "settle": "USDT", "kind": Kind.PERP, "margin": Margin.LINEAR, "price_decimals": price_decimals,
        "qty_decimals": qty_decimals, "tick_size": Decimal(tick), "lot_size": Decimal(lot),
    }  # fmt: skip
    return Instrument(**{**values, **changes})


BTC = instrument()
ETH = instrument("ETH-USDT-PERP", 4, 7, "0.01")
SHIB = instrument("SHIB-USDT-PERP", 12, 0, "0.00000001", "1")
COARSE = instrument("XYZ-USDT-PERP", 2, 2, "0.01", "0.01")
SPOT = instrument("SOL-USDT", 5, 6, "0.01", "0.001", kind=Kind.SPOT, margin=Margin.NONE, section="spot")
ALL = {one.id: one for one in (BTC, ETH, SHIB, COARSE, SPOT)}
PERPS = (BTC, ETH, SHIB, COARSE)


def fill(of=BTC, side=Side.BUY, ticks=600_000, lots=10, fee=0, ts=0, number=0):
    return Fill(
        id=f"o-{number}", order_id="o", account="paper", asset=of.base, instrument=of.id, ts=ts, side=side,
        price=ticks * scaled(of.tick_size, of.price_decimals), qty=lots * scaled(of.lot_size, of.qty_decimals),
        fee_usd_e8=fee, slippage_usd_e8=0, liquidity=Liquidity.TAKER,
    )  # fmt: skip


fills = st.lists(
    st.builds(
        fill,
        of=st.sampled_from(PERPS),
        side=st.sampled_from([Side.BUY, Side.SELL]),
        ticks=st.integers(1, 10**6),
        lots=st.integers(1, 5_000),
        fee=st.integers(-(10**9), 10**10),
    ),
    max_size=30,
)


def booked(some, capital=CAPITAL):
    ledger = Ledger(capital)
    for one in some:
        ledger.apply(one, ALL[one.instrument])
    return ledger


@given(fills)
@settings(deadline=None, max_examples=80)
def test_every_transaction_adds_up_to_zero_and_equity_is_an_identity(some):
    ledger = Ledger(CAPITAL)
    for number, one in enumerate(some):
        postings = ledger.apply(one, ALL[one.instrument])
        assert sum(posting.amount_usd_e8 for posting in postings) == 0
        ledger.pay_funding(one.instrument, (number - 5) * 1_000_000, one.price)
        ledger.mark({one.instrument: one.price + number})
        assert ledger.check() == ledger.cash_usd_e8 + ledger.margin_usd_e8 + ledger.unrealised_usd_e8


@given(fills)
@settings(deadline=None, max_examples=80)
def test_a_position_is_the_sum_of_its_signed_fills(some):
    ledger = booked(some)
    for one in PERPS:
        assert ledger.qty_of(one.id) == sum(f.side.sign * f.qty for f in some if f.instrument == one.id)


@given(fills, st.integers(1, 10**6))
@settings(deadline=None, max_examples=80)
def test_equity_changes_by_profit_less_fees_plus_funding(some, rate):
    """Profit is counted the slow way: what was sold for, less what was bought for, with what is left at its mark."""
    ledger = booked(some)
    received = sum(ledger.pay_funding(one.id, rate, 10**6) for one in PERPS)
    ledger.mark({one.id: 7_654_300 for one in PERPS})
    value = sum(notional_usd_e8(one, 7_654_300, ledger.qty_of(one.id)) for one in PERPS)
    paid = sum(notional_usd_e8(ALL[f.instrument], f.price, f.side.sign * f.qty) for f in some)
    assert ledger.equity_usd_e8 - CAPITAL == value - paid - sum(f.fee_usd_e8 for f in some) + received


@given(fills, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_the_order_of_fills_in_different_instruments_is_irrelevant(some, random):
    queues = {one.id: [f for f in some if f.instrument == one.id] for one in PERPS}
    shuffled = []
    while any(queues.values()):
        shuffled.append(queues[random.choice([name for name, queue in queues.items() if queue])].pop(0))
    first, second = booked(some), booked(shuffled)
    assert first.balances == second.balances
    assert first.positions == second.positions


@given(
    st.sampled_from([*PERPS, SPOT]), st.integers(1, 10**6), st.lists(st.integers(1, 1_000), min_size=1, max_size=8),
    st.booleans(), st.integers(0, 10**9),
)  # fmt: skip
@settings(deadline=None, max_examples=80)
def test_a_round_trip_at_one_price_loses_exactly_the_fees(of, ticks, parts, long, fee):
    """Bought in parts, sold at once: products of whole ticks and lots need no rounding."""
    way = Side.BUY if long or of is SPOT else Side.SELL
    back = Side.SELL if way is Side.BUY else Side.BUY
    ledger = booked([fill(of, way, ticks, lots, fee) for lots in parts] + [fill(of, back, ticks, sum(parts), fee)])
    assert not ledger.positions
    assert ledger.check() == CAPITAL - fee * (len(parts) + 1)
    assert ledger.margin_usd_e8 == 0


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.lists(st.integers(1, 1_000), min_size=2, max_size=8))
@settings(deadline=None, max_examples=80)
def test_partial_closes_add_up_to_the_whole(bought, sold, parts):
    """The cost share of each part is rounded once and the remainder stays, so no part of a cent is lost."""
    whole = booked([fill(ETH, Side.BUY, bought, sum(parts)), fill(ETH, Side.SELL, sold, sum(parts))])
    piecewise = booked([fill(ETH, Side.BUY, bought, sum(parts)), *(fill(ETH, Side.SELL, sold, lots) for lots in parts)])
    assert whole.totals == piecewise.totals


def test_a_flip_closes_the_old_position_and_opens_a_new_one():
    ledger = booked([fill(BTC, Side.BUY, 600_000, 10, ts=5), fill(BTC, Side.SELL, 610_000, 25, ts=9)])
    position = ledger.positions[BTC.id]
    assert ledger.totals.realised_usd_e8 == 10 * USD_E8  # 0.01 BTC × 1,000 USD
    assert (position.qty, position.opened_ts) == (-1_500_000, 9)
    assert position.cost_usd_e8 == -notional_usd_e8(BTC, 61_000_000, 1_500_000)


def test_adding_to_a_position_keeps_the_second_it_was_opened_in():
    ledger = booked([fill(ts=5), fill(ts=9), fill(side=Side.SELL, lots=5, ts=11)])
    assert ledger.positions[BTC.id].opened_ts == 5


@given(fills, st.integers(0, 30))
@settings(deadline=None, max_examples=40)
def test_a_snapshot_is_invisible(some, cut):
    kept = Ledger.from_bytes(booked(some[:cut]).to_bytes())
    for one in some[cut:]:
        kept.apply(one, ALL[one.instrument])
    assert kept.to_bytes() == booked(some).to_bytes()
    assert kept.check() == booked(some).check()


@given(fills, st.lists(st.integers(1, 10**9), min_size=1, max_size=50))
@settings(deadline=None, max_examples=60)
def test_the_equity_path_is_the_mark_of_every_second(some, prices):
    ledger = booked(some)
    marks = {one.id: np.array(prices, np.int64) + row for row, one in enumerate(PERPS)}
    path = ledger.equity_path(marks)
    slow = [ledger.mark({name: int(column[i]) for name, column in marks.items()}) for i in range(len(prices))]
    assert path.tolist() == slow


def test_an_equity_that_could_leave_int64_is_refused():
    with pytest.raises(UsageError, match="the limit is"):
        equity_path(0, np.array([[10**9]]), [10**17], [0], [SHIB])


@given(st.lists(st.integers(-(10**15), 10**15), min_size=1, max_size=60), st.integers(0, 60))
@settings(deadline=None, max_examples=60)
def test_a_drawdown_is_the_same_over_any_cut_and_equals_the_slow_one(equity, cut):
    column, start = np.array(equity, np.int64), Drawdown(10**14, 0, 0.0)
    whole = deepen(start, column)
    assert deepen(deepen(start, column[:cut]), column[cut:]) == whole
    peaks = np.maximum.accumulate([start.peak_usd_e8, *equity])[1:]
    assert whole.depth_usd_e8 == max(0, int((peaks - column).max()))
    assert whole.depth == max(0.0, *((int(p) - e) / int(p) for p, e in zip(peaks, equity, strict=True)), 0.0)


def test_funding_is_paid_by_longs_when_the_rate_is_positive():
    ledger = booked([fill(BTC, Side.BUY, 600_000, 1_000)])  # 1 BTC at 60,000
    assert ledger.pay_funding(BTC.id, 1_000_000, 60_000_000) == -6 * USD_E8  # 1 bp of 60,000 USD
    ledger.apply(fill(BTC, Side.SELL, 600_000, 2_000), BTC)
    assert ledger.pay_funding(BTC.id, 1_000_000, 60_000_000) == 6 * USD_E8
    assert ledger.totals.funding_usd_e8 == 0


def test_funding_folded_again_by_its_amounts_gives_the_same_account():
    first, second = Ledger(1_000 * USD_E8), Ledger(1_000 * USD_E8)
    for ledger in (first, second):
        ledger.apply(fill(BTC, Side.BUY, 60_000_000, 10**8), BTC)
    for rate in (1_000_000, -700_001, 3):
        second.receive_funding(first.pay_funding(BTC.id, rate, 61_000_000))
    assert first.to_bytes() == second.to_bytes()
    assert first.check() == second.check()


def test_spot_is_bought_with_cash_and_never_sold_short():
    ledger = booked([fill(SPOT, Side.BUY, 10_000, 2_000)])  # 2 SOL at 100
    assert (ledger.cash_usd_e8, ledger.margin_usd_e8) == (CAPITAL - 200 * USD_E8, 200 * USD_E8)
    ledger.mark({SPOT.id: 110_00000})
    assert ledger.check() == CAPITAL + 20 * USD_E8
    with pytest.raises(UsageError, match="cannot be sold short"):
        ledger.apply(fill(SPOT, Side.SELL, 10_000, 2_001), SPOT)


def test_an_inverse_contract_is_refused_with_a_reason():
    inverse = instrument("BTC-USD-PERP", margin=Margin.INVERSE)
    with pytest.raises(UsageError, match="linear perpetuals only"):
        Ledger(CAPITAL).apply(fill(inverse), inverse)


@pytest.mark.parametrize(("numerator", "expected"), [(15, 2), (14, 1), (-15, -2), (-14, -1), (0, 0)])
def test_money_is_rounded_half_away_from_zero(numerator, expected):
    assert divide_half_away(numerator, 10) == expected
