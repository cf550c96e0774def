"""One pass over the seconds in which a market order fills equals settling each of them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezecore.exchange import Exchange, Market
from squeezecore.market import PPM, Side
from squeezecore.spec import Costs
from squeezecore.trading import USD_E8, OrderState
from support.market_worlds import BTC, INSTRUMENTS, LOT, TICK, order

COSTS = Costs(half_spread_ppm=10, impact_ppm=100, participation_max_ppm=200_000, latency_ms=0)
START = 1_750_000_000


def drawn(rng: np.random.Generator, seconds: int, deep: int) -> list[np.ndarray]:
    """Draw columns open, high, low, close, buy_qty, sell_qty, mark; now and then a jump or no volume."""
    steps = rng.integers(-30, 31, seconds) * rng.choice([1, 1, 1, 1, 40], seconds)
    close = 600_000 + np.cumsum(steps)
    opens = close + rng.integers(-20, 21, seconds)
    high, low = np.maximum(opens, close) + rng.integers(0, 20, seconds), np.minimum(opens, close) - 3
    flows = [rng.integers(0, deep, seconds) * (rng.random(seconds) > 0.1) * LOT for _ in range(2)]
    mark = close * TICK + rng.integers(-500, 501, seconds)
    return [*(column * TICK for column in (opens, high, low, close)), *flows, mark]


def both(capital: int) -> tuple[Exchange, Exchange]:
    return Exchange(INSTRUMENTS, COSTS, capital), Exchange(INSTRUMENTS, COSTS, capital)


def settle_alike(
    slow: Exchange, fast: Exchange, columns: list[np.ndarray], at: int, floor: int, distance: float
) -> int:
    """Let `fast` take as many seconds as it will from index `at`, hold `slow` against each; return how many it took."""
    ts = START + at
    seconds = [columns[k][at:] for k in (0, 1, 2, 4, 5, 6)]
    settled, equity = fast.fill(ts, BTC.id, seconds, floor, distance)
    fills, updates = [], []
    for i, value in enumerate(equity):
        one = slow.settle(ts + i, {BTC.id: Market(*(int(column[at + i]) for column in columns))})
        fills += one.fills
        updates += one.updates
        assert one.equity_usd_e8 == value
    assert (list(settled.fills), list(settled.updates)) == (fills, updates)
    if len(equity):
        assert settled.equity_usd_e8 == equity[-1]
        assert fast.to_bytes() == slow.to_bytes()
    return len(equity)


@given(
    st.integers(0, 2**32),
    st.sampled_from([1_000, 100_000, 40_000_000]),
    st.sampled_from([1, 40, 3_000, 60_000]),
    st.sampled_from([5, 400, 40_000]),
    st.sampled_from([0.5, 0.98, 0.9999]),
    st.sampled_from([0.0, 0.3]),
)
@settings(deadline=None, max_examples=150)
def test_one_pass_equals_settling_second_by_second(seed, capital_usd, lots, deep, floor, distance):
    rng = np.random.default_rng(seed)
    capital = capital_usd * USD_E8
    slow, fast = both(capital)
    columns = drawn(rng, 150, deep)
    side = Side.BUY if rng.random() < 0.5 else Side.SELL
    back = Side.SELL if side is Side.BUY else Side.BUY
    at = 0
    for number, (way, only) in enumerate(((side, False), (side, False), (back, True), (back, True))):
        size = int(rng.integers(1, lots + 1))
        for exchange in (slow, fast):
            exchange.submit(order(f"o{number}", way, size, ts=START + at - 1, reduce_only=only), START + at - 1)
        for _ in range(150):
            if at >= 150 or not fast.open_orders():
                break
            done = settle_alike(slow, fast, columns, at, round(capital * floor), distance)
            if not done:  # a second that needs more care: both settle it
                market = {BTC.id: Market(*(int(column[at]) for column in columns))}
                assert fast.settle(START + at, market) == slow.settle(START + at, market)
                done = 1
            at += done
        assert fast.to_bytes() == slow.to_bytes()
    assert fast.ledger.check() == slow.ledger.check()


def test_an_order_of_the_usual_size_is_filled_in_passes_alone():
    capital = 100_000 * USD_E8
    slow, fast = both(capital)
    columns = drawn(np.random.default_rng(3), 200, 3_000)
    at = 0
    for number, (side, only) in enumerate(((Side.BUY, False), (Side.SELL, True))):
        for exchange in (slow, fast):
            exchange.submit(order(f"o{number}", side, 2_694, ts=START + at - 1, reduce_only=only), START + at - 1)
        while fast.open_orders():
            done = settle_alike(slow, fast, columns, at, 0, 0.03)
            assert done, f"second {at} was left to settle"
            at += done
        assert fast.status(f"o{number}").state is OrderState.FILLED
    assert not fast.ledger.positions
    assert at > 6  # it took its time


def test_what_is_not_plain_is_left_alone():
    slow, fast = both(100_000 * USD_E8)
    columns = drawn(np.random.default_rng(4), 20, 3_000)
    assert settle_alike(slow, fast, columns, 0, 0, 0.0) == 0  # no order
    for exchange in (slow, fast):
        exchange.submit(order("a", Side.BUY, 100, ts=START - 1), START - 1)
        exchange.submit(order("b", Side.SELL, 100, ts=START - 1), START - 1)
    assert settle_alike(slow, fast, columns, 0, 0, 0.0) == 0  # two orders share one cap


def test_a_part_of_an_amount_is_exact_beyond_64_bits_of_product():
    from squeezecore import filling

    rng = np.random.default_rng(5)
    for amount in (0, 1, 999_999, 2**61 - 7, *rng.integers(0, 2**61, 50).tolist()):
        for share in (0, 1, 500, 50_000, PPM - 1):
            whole = PPM
            exact = amount * share
            half = (2 * exact + whole) // (2 * whole)
            assert filling._part(amount, share, whole, 1) == half
            assert filling._part(amount, share, whole, 0) == exact // whole
            assert filling._part(amount, share, whole, 2) == -(-exact // whole)
