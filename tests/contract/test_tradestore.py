"""Live records in the store: what was written comes back, once, however often it was written."""

from __future__ import annotations

import numpy as np

from squeezecore.adapters import tradestore
from squeezecore.adapters.store import Store
from squeezecore.adapters.tradestore import Switched
from squeezecore.desk import signal_of
from squeezecore.exchange import Payment
from squeezecore.trading import Fill, Liquidity, Order, OrderState, OrderUpdate, Side, Signal
from support.backtest_worlds import world


def test_what_a_backtest_did_comes_back_as_live_records(store: Store):
    _, days = world(5, seconds=3_000).run(days=1)
    day = days[0]
    signals = [signal for signal in map(signal_of, day.decisions) if signal is not None]
    points = {int(ts): int(usd) for ts, usd in zip(day.equity_ts, day.equity_usd_e8, strict=True)}
    for _ in range(2):
        tradestore.insert_signals(store, "paper", signals)
        tradestore.insert_orders(store, "paper", day.orders)
        tradestore.insert_updates(store, "paper", day.updates)
        tradestore.insert_fills(store, "paper", day.fills)
        tradestore.insert_equity(store, "paper", points)
        store.insert_decisions(tradestore.live_run("paper"), day.decisions)
    assert day.fills
    assert tradestore.signals(store, "paper") == sorted(signals, key=lambda signal: signal.ts)
    assert tradestore.orders(store, "paper") == list(day.orders)
    assert {canonical_of(update) for update in tradestore.updates(store, "paper")} == set(
        map(canonical_of, day.updates)
    )
    assert tradestore.fills(store, "paper") == sorted(day.fills, key=lambda fill: (fill.ts, fill.id))
    ts, usd = tradestore.equity(store, "paper")
    assert dict(zip(ts.tolist(), usd.tolist(), strict=True)) == points
    assert store.decisions("live:paper") == list(day.decisions)
    first = day.fills[0].ts
    assert tradestore.fills(store, "paper", 0, first) == []
    assert [fill.ts for fill in tradestore.fills(store, "paper", first, first + 1)] == [first]
    assert len(tradestore.orders(store, "paper", limit=2)) == 2
    assert tradestore.orders(store, "other") == []


def canonical_of(update: OrderUpdate) -> tuple[str, ...]:
    return (update.order_id, str(update.ts), update.state, update.reason, update.limit, update.value)


def test_every_kind_of_record_comes_back(store: Store):
    signal = Signal(asset="BTC", ts=60, direction=-1, score_milli=4_100, reasons=("entry",), params_hash="p")
    order = Order(
        id="sf-1", account="a", asset="BTC", instrument="x:y", decided_ts=60, side=Side.SELL, qty=5, reduce_only=True,
        reason="structure",
    )  # fmt: skip
    update = OrderUpdate(order_id="sf-1", ts=61, state=OrderState.DENIED, reason="r", limit="l", value="v")
    fill = Fill(
        id="sf-1-1", order_id="sf-1", account="a", asset="BTC", instrument="x:y", ts=61, side=Side.SELL, price=7, qty=5,
        fee_usd_e8=-1, slippage_usd_e8=2, liquidity=Liquidity.MAKER, reason="structure",
    )  # fmt: skip
    tradestore.insert_signals(store, "a", [signal])
    tradestore.insert_orders(store, "a", [order])
    tradestore.insert_updates(store, "a", [update])
    tradestore.insert_fills(store, "a", [fill])
    tradestore.insert_payments(store, "a", [Payment("x:y", 3_600, -5)])
    tradestore.insert_fills(store, "a", [])
    assert tradestore.signals(store, "a") == [signal]
    assert tradestore.orders(store, "a") == [order]
    assert tradestore.updates(store, "a") == [update]
    assert tradestore.fills(store, "a") == [fill]
    assert tradestore.payments(store, "a") == [Payment("x:y", 3_600, -5)]
    assert isinstance(tradestore.equity(store, "a")[0], np.ndarray)


def test_the_newest_switch_is_known(store: Store):
    assert tradestore.last_switch(store, "a") is None
    for n, (state, kill) in enumerate([("active", False), ("halted", True)]):
        tradestore.insert_switch(store, Switched("a", n + 1, n, state, kill, "why"))
    assert tradestore.last_switch(store, "a") == Switched("a", 2, 1, "halted", True, "why")
    assert tradestore.last_switch(store, "b") is None
