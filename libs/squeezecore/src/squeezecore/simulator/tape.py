"""The prints of planned seconds: orders cut into fills, and the same fills summed to bars.

One kernel makes both, so the bars of a simulated day are the bars of its trades, to the last unit. A second's prints
depend on the plan and the second's own key only: any stretch can be made alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from squeezecore.market import (
    CENTS,
    DAY_S,
    Bars,
    IdKind,
    Instrument,
    Trades,
    scaled,
)
from squeezecore.simulator.noise import exp, hash64, uniform
from squeezecore.simulator.plan import Plan
from squeezecore.simulator.profiles import MarketProfile, contract_cents

NS = 1_000_000_000
_MS = 1_000_000
_CHOICES = 4_096  # entries of a size table
_U20, _U32, _U44, _LOW12, _LOW16 = np.uint64(20), np.uint64(32), np.uint64(44), np.uint64(0xFFF), np.uint64(0xFFFF)
_ORDERS = 1 << 20  # counters of orders start here, those of fills at zero


class _Sums(NamedTuple):
    """What a market's seconds add up to; prices in ticks, qty at the qty scale, money in `tick * lot` units."""

    prices: NDArray[np.int64]  # [n, 4] open, high, low, close
    volume: NDArray[np.int64]  # [n, 2] buys, sells
    money: NDArray[np.int64]  # [n, 2]
    fills: NDArray[np.int64]  # [n, 2]
    largest: NDArray[np.int64]  # [n]


@njit(cache=True)
def _sizes(
    median: float, sigma: float, most: int, atoms: NDArray[np.int64], shares: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Tabulate fill sizes in lots by quantile: atoms first, then a lognormal body, cut at `most`."""
    table = np.empty(_CHOICES, np.int64)
    filled = 0
    for a in range(atoms.size):
        for _ in range(int(shares[a] * _CHOICES)):
            table[filled] = atoms[a]
            filled += 1
    body = _CHOICES - filled
    # Quantiles of a normal by integrating its density with steps of 1e-3: exact arithmetic only, once a process.
    z = -4.0
    mass = 3.167e-5
    for i in range(body):
        wanted = (i + 0.5) / body
        while mass < wanted:
            mass += 0.3989422804014327 * exp(-0.5 * (z + 0.0005) * (z + 0.0005)) * 0.001
            z += 0.001
        table[filled + i] = min(most, max(1, int(median * exp(sigma * z) + 0.5)))
    return table


@njit(cache=True)
def _scan(
    stream: np.uint64,
    first: int,
    second: int,
    bid: NDArray[np.int64],
    prints: NDArray[np.int64],
    lean: NDArray[np.float64],
    burst: NDArray[np.uint8],
    sizes: NDArray[np.int64],
    lot: int,
    inverse: int,
    tick: int,
    trade_id: int,
    last: int,
    sums: _Sums,
    trades: Trades,
) -> None:
    """Make the prints of seconds `first ..` of a day (as many as `sums` has); write them out if `trades` has room."""
    write = trades.id.size > 0
    row = 0
    for n in range(sums.largest.size):
        s = first + n
        count = prints[s]
        base = second + s
        key = hash64(stream, 3_000_000_000_000 + base)
        opening, high, low = last, last, last
        buys = sells = buy_money = sell_money = buy_count = sell_count = largest = 0
        left = ms = 0
        side = 1
        orders = 0
        bias = lean[s]
        start, travel = bid[s], bid[s + 1] - bid[s]
        if burst[s] or count > 180:
            # A burst is the work of a few large takers on one side: the quote's own where it moved.
            bias = 0.80 if travel > 0 or (travel == 0 and uniform(key, _ORDERS - 1) < 0.5) else -0.80
        for f in range(count):
            if left == 0:
                h = hash64(key, _ORDERS + orders)
                u = (np.float64(h & _LOW16) + 1.0) / 65537.0
                root = np.sqrt(u)
                left = int(min(400.0, 1.0 / (root * np.sqrt(root))))  # P(left >= k) = k ** -4/3
                if burst[s]:
                    left *= 6
                keep = np.float64((h >> _U20) & _LOW12) < 0.12 * 4096
                if orders == 0 or not keep:
                    # Small orders are half deaf to what moves the large ones.
                    pull = bias if left >= 3 else 0.65 * bias
                    side = 1 if np.float64((h >> _U32) & _LOW16) < 32768.0 * (1.0 + pull) else -1
                orders += 1
                ms = (f * 1000 + int(h >> _U44) % 1000) // count
            left -= 1
            h = hash64(key, f)
            lots = sizes[np.int64(h & _LOW12)]
            price = start + (travel * (f + 1)) // count
            if s == DAY_S - 1 and f == count - 1:
                side = -1  # midnight: the last print is a sell at the quote both days know
            if side > 0:
                price += 1
            if f == 0:
                opening = high = low = price
            high, low, last = max(high, price), min(low, price), price
            if inverse:
                paid = lots
                qty = (lots * inverse + price * tick // 2) // (price * tick)
            else:
                paid = price * lots
                qty = lots * lot
            largest = max(largest, qty)
            if side > 0:
                buys += qty
                buy_money += paid
                buy_count += 1
            else:
                sells += qty
                sell_money += paid
                sell_count += 1
            if write:
                trades.id[row] = trade_id + row
                trades.exchange_ns[row] = base * NS + ms * _MS
                trades.price[row] = price * tick
                trades.qty[row] = qty
                trades.quote_cents[row] = paid if inverse else -1
                trades.side[row] = side
                row += 1
        sums.prices[n, 0], sums.prices[n, 1], sums.prices[n, 2], sums.prices[n, 3] = opening, high, low, last
        sums.volume[n, 0], sums.volume[n, 1] = buys, sells
        sums.money[n, 0], sums.money[n, 1] = buy_money, sell_money
        sums.fills[n, 0], sums.fills[n, 1] = buy_count, sell_count
        sums.largest[n] = largest


_TABLES: dict[MarketProfile, NDArray[np.int64]] = {}


def _table(market: MarketProfile, price_usd: float) -> NDArray[np.int64]:
    """Return a market's size table, made once a process."""
    if market not in _TABLES:
        lot_usd = float(market.contract_usd) if market.contract_usd else price_usd * float(market.lot)
        _TABLES[market] = _sizes(
            market.size_median_usd / lot_usd,
            market.size_sigma,
            max(1, round(market.size_max_usd / lot_usd)),
            np.array([lots for lots, _ in market.atoms], np.int64),
            np.array([share for _, share in market.atoms]),
        )
    return _TABLES[market]


def make_tape(
    plan: Plan, m: int, market: MarketProfile, instrument: Instrument, price_usd: float, stream: np.uint64,
    day_start_s: int, first: int, last: int, *, with_trades: bool,
) -> tuple[Bars, Trades]:  # fmt: skip
    """Return market `m`'s bars and, if wanted, trades of seconds `first..last-1` of the planned day.

    Where no print came yet, the carried close of a day's first seconds is the midnight quote, which is also the last
    print of the day before; of a later stretch it is the quote before it.
    """
    seconds = last - first
    sums = _Sums(
        np.empty((seconds, 4), np.int64), np.empty((seconds, 2), np.int64), np.empty((seconds, 2), np.int64),
        np.empty((seconds, 2), np.int64), np.empty(seconds, np.int64),
    )  # fmt: skip
    prints = plan.prints[m]
    before = int(plan.first_id[m]) + int(prints[:first].sum())
    total = int(prints[first:last].sum()) if with_trades else 0
    trades = Trades(
        np.empty(total, np.int64), np.empty(total, np.int64), np.empty(total, np.int64), np.empty(total, np.int64),
        np.empty(total, np.int64), np.empty(total, np.int64), np.empty(total, np.int8), np.zeros(total, np.uint8),
    )  # fmt: skip
    tick = scaled(market.tick, instrument.price_decimals)
    contract = contract_cents(market)
    lot = 0 if contract else scaled(market.lot, instrument.qty_decimals)
    # qty of an inverse print = contracts * USD * 10**qty_decimals / price, in whole units of the qty scale
    inverse = market.contract_usd * 10 ** (instrument.qty_decimals + instrument.price_decimals)
    _scan(
        stream, first, day_start_s, plan.bid[m], prints, plan.lean[m], plan.burst, _table(market, price_usd), lot,
        inverse, tick, before, int(plan.bid[m, first]), sums, trades,
    )  # fmt: skip
    if with_trades:
        if contract:
            np.multiply(trades.quote_cents, contract, out=trades.quote_cents)
        np.add(trades.exchange_ns, 12 * _MS, out=trades.received_ns)
    return _bars(sums, day_start_s + first, before, tick, contract, market), trades


def _bars(sums: _Sums, start_s: int, before: int, tick: int, contract: int, market: MarketProfile) -> Bars:
    """Turn sums into bars."""
    seconds = sums.largest.size
    count = sums.fills[:, 0] + sums.fills[:, 1]
    after = before + np.cumsum(count)
    some = count > 0
    if contract:
        usd = sums.money * contract
    else:
        # money is in ticks * lots; a cent is 10**(decimals of both) / 100 of their decimal units
        tick_decimals, lot_decimals = _decimals(market.tick), _decimals(market.lot)
        unit = scaled(market.tick, tick_decimals) * scaled(market.lot, lot_decimals)
        per_cent = 10 ** (tick_decimals + lot_decimals)
        usd = (sums.money * (unit * CENTS) + per_cent // 2) // per_cent
    return Bars(
        ts=np.arange(start_s, start_s + seconds, dtype=np.int64),
        open=sums.prices[:, 0] * tick,
        high=sums.prices[:, 1] * tick,
        low=sums.prices[:, 2] * tick,
        close=sums.prices[:, 3] * tick,
        buy_volume=np.ascontiguousarray(sums.volume[:, 0]),
        sell_volume=np.ascontiguousarray(sums.volume[:, 1]),
        buy_usd_cents=np.ascontiguousarray(usd[:, 0]),
        sell_usd_cents=np.ascontiguousarray(usd[:, 1]),
        buy_trades=np.ascontiguousarray(sums.fills[:, 0]),
        sell_trades=np.ascontiguousarray(sums.fills[:, 1]),
        largest=sums.largest,
        complete=np.ones(seconds, np.uint8),
        first_id=np.where(some, after - count, -1),
        last_id=np.where(some, after - 1, -1),
        id_kind=np.full(seconds, IdKind.TRADE, np.uint8),
        version=np.full(seconds, np.uint64(1) << np.uint64(32), np.uint64),
    )


def _decimals(text: str) -> int:
    """Return how many decimals a tick or lot is written with."""
    return len(text.partition(".")[2])
