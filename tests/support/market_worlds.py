"""Small seeded markets and a fixed way of trading them, for the laws of the simulated exchange."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from squeezecore.exchange import Exchange, FundingEvent, Market
from squeezecore.market import Instrument, Kind, Margin, Side
from squeezecore.spec import Costs
from squeezecore.trading import USD_E8, Fill, Order, OrderKind, OrderUpdate

TICK, LOT = 100, 100_000  # 0.1 USD at 3 decimals, 0.001 BTC at 8
CAPITAL = 100_000 * USD_E8


def perp(base: str = "BTC", **changes: Any) -> Instrument:
    values: dict[str, Any] = {
        "venue": "binance", "symbol": f"{base}-USDT-PERP", "native_symbol": f"{base}USDT", "section": "linear",
        "base": base, "quote": "USDT", "settle": "USDT", "kind": Kind.PERP, "margin": Margin.LINEAR, "price_decimals": 3,
        "qty_decimals": 8, "tick_size": Decimal("0.1"), "lot_size": Decimal("0.001"),
    }  # fmt: skip
    return Instrument(**{**values, **changes})


BTC, ETH = perp(), perp("ETH")
INSTRUMENTS = {BTC.id: BTC, ETH.id: ETH}


def second(
    open: float = 60_000.0,  # noqa: A002  # the column's name
    high: float | None = None,
    low: float | None = None,
    close: float | None = None,
    buy: float = 10.0,
    sell: float = 10.0,
    mark: float | None = None,
) -> Market:
    """Make a second from prices in USD and volumes in BTC; by default it does not move and is deep."""
    close = open if close is None else close
    prices = (open, max(open, close) if high is None else high, min(open, close) if low is None else low, close)
    scaled = [round(price * 1_000) for price in prices]
    return Market(*scaled, round(buy * 1e8), round(sell * 1e8), round((close if mark is None else mark) * 1_000))


def order(
    name: str = "a", side: Side = Side.BUY, lots: int = 10, *, of: Instrument = BTC, ts: int = 100, **more: Any
) -> Order:
    """Make an order with good defaults: buy 0.01 BTC at the market, decided at the close of second 100."""
    return Order(
        id=name, account="paper", asset=of.base, instrument=of.id, decided_ts=ts, side=side, qty=lots * LOT, **more
    )


class World(NamedTuple):
    """Seconds from `start` on, and when funding is due."""

    start: int
    seconds: list[dict[str, Market]]
    funding: list[FundingEvent]


def world(seed: int, length: int = 80, start: int = 1_000) -> World:
    """Draw a market whose seconds are wider than any cost, with quiet ones, swings that liquidate, and funding."""
    rng = np.random.default_rng(seed)
    prices = {BTC.id: 600_000, ETH.id: 40_000}  # ticks
    seconds = []
    for _ in range(length):
        now = {}
        for name, price in prices.items():
            scale = price // 2_000
            close = max(1_000, price + int(rng.integers(-scale, scale + 1)) * int(rng.choice([1, 1, 1, 8])))
            room = int(rng.integers(scale // 4 + 1, scale + 2))
            low, high = min(price, close) - room, max(price, close) + room
            buy, sell = (int(v) * LOT for v in rng.integers(0, 400, 2) * (rng.random() > 0.2))
            mark = close + int(rng.integers(-5, 6))
            now[name] = Market(price * TICK, high * TICK, low * TICK, close * TICK, buy, sell, mark * TICK)
            prices[name] = max(1_000, close + int(rng.integers(-5, 6)))  # the next one opens near
        seconds.append(now)
    events = [
        FundingEvent(name, start + i, int(rng.integers(-50, 51)) * 10**6)
        for i in range(7, length, 11)
        for name in (BTC.id, ETH.id)
    ]
    return World(start, seconds, events)


class Run(NamedTuple):
    """What a run said, in order."""

    fills: list[Fill]
    updates: list[OrderUpdate]
    payments: list[Any]
    equity: dict[int, int]  # by second
    exchange: Exchange


def decide(exchange: Exchange, ts: int, seconds: dict[str, Market], *, rests: bool = True) -> None:
    """Trade on nothing but this second's closes and what is held: noisy, deterministic, of every kind of order."""
    for name, instrument in INSTRUMENTS.items():
        one = seconds.get(name)
        if one is None:
            continue
        dice = (one.close // TICK * 2_654_435_761 + ts) % 2**32 // 2**20
        held, name_of = exchange.ledger.qty_of(name), f"{ts}-{instrument.base}"
        side = Side.BUY if dice % 2 else Side.SELL
        lots = (1 + dice % 7) * (40 if instrument is BTC else 600)
        common = {"name": name_of, "of": instrument, "ts": ts, "lots": lots, "side": side}
        if dice % 5 == 0:
            exchange.submit(order(**common), ts)
        elif dice % 5 == 1 and rests:
            price = one.close // TICK * TICK - side.sign * (dice % 30) * TICK
            exchange.submit(order(**common, kind=OrderKind.LIMIT, price=price), ts)
        elif dice % 5 == 2:
            price = one.close // TICK * TICK + side.sign * (dice % 40) * TICK
            exchange.submit(order(**common, kind=OrderKind.STOP, price=price), ts)
        elif dice % 5 == 3 and held:
            back = Side.SELL if held > 0 else Side.BUY
            exchange.submit(order(**{**common, "side": back}, reduce_only=True), ts)
        for working, _ in exchange.open_orders():
            if working.instrument == name and ts - working.decided_ts > 15:
                exchange.cancel(working.id, ts)


def play(
    the_world: World, costs: Costs | None = None, exchange: Exchange | None = None, *, cut: int = -1, rests: bool = True
) -> Run:
    """Trade a world to its end, with or without resting orders; after `cut` seconds the exchange goes through its bytes."""
    costs = costs or Costs()
    exchange = exchange or Exchange(INSTRUMENTS, costs, CAPITAL)
    run = Run([], [], [], {}, exchange)
    for i, seconds in enumerate(the_world.seconds):
        ts = the_world.start + i
        if i == cut:
            exchange = Exchange.from_bytes(exchange.to_bytes(), INSTRUMENTS, costs)
        settled = exchange.settle(ts, seconds, [e for e in the_world.funding if e.event_ts == ts])
        run.fills.extend(settled.fills)
        run.updates.extend(settled.updates)
        run.payments.extend(settled.payments)
        run.equity[ts] = settled.equity_usd_e8
        assert exchange.ledger.check() == settled.equity_usd_e8
        decide(exchange, ts, seconds, rests=rests)
    return run._replace(exchange=exchange)
