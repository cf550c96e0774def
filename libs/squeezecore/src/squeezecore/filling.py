"""A market order that fills over several seconds, in one pass: what `Exchange.settle` does to it, second by second.

Only the plain case is here: one order and one perpetual, whole ticks and lots, products within 63 bits. The pass ends before
the first second that is not plain, and `settle` takes that one; a property test holds both equal. Quantities are counted
in lots and prices in ticks, so that every quotient is the one of `settle`'s large integers, with common factors taken out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from squeezecore.market import PPM

Function = TypeVar("Function", bound=Callable[..., Any])
_njit = cast("Callable[[Function], Function]", numba.njit(cache=True))
Ints = NDArray[np.int64]

OUT_TS, OUT_PRICE, OUT_QTY, OUT_FEE, OUT_SLIPPAGE, OUT_EQUITY = range(6)  # rows of `fill_seconds`' output
LARGE = 2.0**61  # a product above it is left to Python's integers; half of what an int64 holds, for the rounding


class Deal(NamedTuple):
    """An order and its account before the first second; money in usd_e8."""

    first_ts: int
    side: int  # 1 buy, -1 sell
    reduces: int  # 1: it can only close, 0: it can only open or add
    remaining: int  # lots
    end_ts: int  # the second in which an order that opens is given up
    tick: int
    lot: int
    lot_usd_e8: int  # value of one lot at a price of 1
    half_spread_ppm: int
    impact_ppm: int
    participation_ppm: int
    fee_ppm: int
    margin_ppm: int
    floor: int  # equity at (and below) which somebody must look
    position: int  # lots, signed
    cost: int
    funds: int  # cash + margin
    mark: int  # the last one
    distance: float  # gross value × distance: another such floor


class Account(NamedTuple):
    """What the fills made of the account."""

    position: int  # lots
    cost: int
    realised: int
    fees: int
    slippage: int


def fill_seconds(
    deal: Deal, seconds: tuple[Ints, Ints, Ints, Ints, Ints], margins: tuple[Ints, Ints, Ints]
) -> tuple[int, int, Account, Ints]:
    """Return how many seconds were settled and how many fills there were, the account after them, and the output.

    `seconds` are columns open, high, low, volume on the order's side, mark; `margins` as `schedules.margins_of` gives
    them. The output is int64 [6, seconds]: second, price, qty, fee, slippage of each fill; the equity of each second.
    """
    out = np.empty((6, len(seconds[0])), np.int64)
    done, fills, *after = _compiled()(deal, *seconds, *margins, out)
    return done, fills, Account(*after), out


@_njit
def _part(amount: int, share: int, whole: int, away: int) -> int:
    """Return amount × share / whole, rounded half away from zero (`away` 1), down (0) or up (2); amount and share >= 0.

    The product need not fit: what `whole` goes into is taken out first.
    """
    rest = amount % whole * share
    extra = (2 * rest + whole) // (2 * whole) if away == 1 else (rest + (whole - 1 if away == 2 else 0)) // whole
    return int(amount // whole * share + extra)


@_njit
def _taking_ticks(side: int, open_: int, high: int, low: int, volume: int, share: int, half: int, impact: int) -> int:
    """Price a fill as `exchange.taking_price` does: all prices in ticks, volume and our share of it in lots."""
    scale, one = PPM * volume, PPM
    if side > 0:
        price = -(-(open_ * (scale + half * volume + impact * share)) // scale)
        return int(min(price, max(-(-(high * (one + half)) // one), open_)))
    price = max(1, open_ * (scale - half * volume - impact * share) // scale)
    return int(max(price, min(max(1, low * (one - half) // one), open_)))


@_njit
def _maintenance(value: int, limits: Ints, rates: Ints, deductions: Ints) -> int:
    if len(rates) == 0:
        return 0
    at = 0
    while at < len(rates) - 1 and value > limits[at]:
        at += 1
    return int(_part(value, rates[at], PPM, 2) - deductions[at])


@_njit
def _fill_seconds(
    d: Deal, opens: Ints, highs: Ints, lows: Ints, volumes: Ints, marks: Ints,
    limits: Ints, rates: Ints, deductions: Ints, out: Ints,
) -> tuple[int, int, int, int, int, int, int]:  # fmt: skip
    """Fill second by second; a second counts once nothing in it asks for more care."""
    remaining, position, cost, funds, mark = d.remaining, d.position, d.cost, d.funds, d.mark
    realised, fees, slippage, fills = 0, 0, 0, 0
    for i in range(len(opens)):
        ts = d.first_ts + i
        if not d.reduces and ts >= d.end_ts:
            return i, fills, position, cost, realised, fees, slippage
        largest = float(max(highs[i], opens[i], marks[i]))
        volume = volumes[i] // d.lot
        if (
            volumes[i] != volume * d.lot
            or opens[i] % d.tick + highs[i] % d.tick + lows[i] % d.tick != 0
            or min(opens[i], lows[i], marks[i]) <= 0
            or 2.0 * PPM * max(largest, 1.0) * max(volume, 1) > LARGE
        ):
            return i, fills, position, cost, realised, fees, slippage
        qty = min(remaining, volume * d.participation_ppm // PPM)
        price = fee = paid = gain = 0
        now, now_cost = position, cost
        if qty > 0:
            ticks = _taking_ticks(
                d.side, opens[i] // d.tick, highs[i] // d.tick, lows[i] // d.tick, volume, qty,
                d.half_spread_ppm, d.impact_ppm,
            )  # fmt: skip
            price = ticks * d.tick
            now = position + d.side * qty
            if float(price) * d.lot_usd_e8 * max(abs(now), abs(position), qty) > LARGE:
                return i, fills, position, cost, realised, fees, slippage
            notional = price * qty * d.lot_usd_e8
            fee = _part(notional, d.fee_ppm, PPM, 1)
            paid = d.side * (notional - opens[i] * qty * d.lot_usd_e8)
            if d.reduces:
                if qty > abs(position):
                    return i, fills, position, cost, realised, fees, slippage
                share = -d.side * _part(abs(cost), qty, abs(position), 1)
                gain = -d.side * notional - share
                now_cost = cost - share
            else:
                now_cost = cost + d.side * notional
                needed = _part(price * abs(now) * d.lot_usd_e8, d.margin_ppm, PPM, 1)
                if needed + _part(notional, d.fee_ppm, PPM, 0) > funds + mark * position * d.lot_usd_e8 - cost:
                    return i, fills, position, cost, realised, fees, slippage
        value = marks[i] * now * d.lot_usd_e8
        equity = funds + gain - fee + value - now_cost
        gross = abs(value)
        if largest * d.lot_usd_e8 * max(abs(now), 1) > LARGE or (
            now != 0
            and (
                equity <= d.floor
                or equity <= math.floor(gross * d.distance)
                or equity <= _maintenance(gross, limits, rates, deductions)
            )
        ):
            return i, fills, position, cost, realised, fees, slippage
        if qty > 0:
            out[OUT_TS, fills], out[OUT_PRICE, fills], out[OUT_QTY, fills] = ts, price, qty * d.lot
            out[OUT_FEE, fills], out[OUT_SLIPPAGE, fills] = fee, paid
            fills += 1
            remaining -= qty
        opened = position == 0 and now != 0
        realised, fees, slippage = realised + gain, fees + fee, slippage + paid
        position, cost, funds, mark = now, now_cost, funds + gain - fee, marks[i]
        out[OUT_EQUITY, i] = equity
        if opened or remaining == 0:
            return i + 1, fills, position, cost, realised, fees, slippage
    return len(opens), fills, position, cost, realised, fees, slippage


@functools.cache
def _compiled() -> Callable[..., Any]:
    """Compile, or load from numba's cache, for the one signature it has; it takes read-only columns too."""
    types, kernel = cast("Any", numba.types), cast("Any", _fill_seconds)
    column = types.Array(types.int64, 1, "C", readonly=True)
    deal = types.NamedTuple((*(types.int64,) * (len(Deal._fields) - 1), types.float64), Deal)
    kernel.compile((deal, *(column,) * 8, types.int64[:, ::1]))
    kernel.disable_compile()
    return cast("Callable[..., Any]", kernel)
