"""A day's plan: each second's quotes, number of prints and bias of the flow, before any print is made.

Price comes first and flow follows it within the same second, so what flow says about the *future* is exactly what a
regime plants there. Midnights are anchors that both neighbouring days compute alike: the price, the number of prints so
far and the basis of a day need no day before it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from squeezecore.market import DAY_S
from squeezecore.simulator.noise import exp, key, normal, uniform
from squeezecore.simulator.profiles import AssetProfile
from squeezecore.simulator.regimes import Push

MARKETS = 3
SPOT, USD_M, COIN_M = range(MARKETS)
BP = 1e-4
_TEMPER = 1.3  # log amplitude of moods: hours without and hours with one-sided flow
_FIRST_DAY = 17_167  # 2017-01-01: print ids are counted from here
_WARMUP_S = 7_200  # every second-by-second state forgets within this time
_WARMUP_MIN = 2_880
_ANCHOR_DAYS = 90  # daily moves that make the price level: it wanders some 10 % round its mean and returns
_ANCHOR_KEEP = 0.97
_COMMON_MOVE = 0.7  # share of an asset's variance that all assets have in common
_COMMON_NOISE, _OWN_MOVE, _OWN_NOISE = 0.836660026534076, 1.0 - _COMMON_MOVE, 0.547722557505166  # square roots
# Activity by UTC hour, mean 1: Asia, Europe, America; between 0.74 and 1.55.
_DAY_SHAPE = np.array(
    [0.95, 0.92, 0.88, 0.84, 0.78, 0.74, 0.77, 0.86, 0.95, 0.98, 0.93, 0.90,
     1.00, 1.28, 1.55, 1.48, 1.34, 1.20, 1.08, 1.02, 0.98, 0.90, 0.82, 0.85]
)  # fmt: skip


class Keys(NamedTuple):
    """Streams of noise of one asset in one world; `common` ones belong to all assets."""

    common: np.uint64
    own: np.uint64
    flow: np.uint64
    market: NDArray[np.uint64]  # [3]


class Plan(NamedTuple):
    """One asset's day, second by second; quotes are bids in ticks, index 0 stands for the midnight before."""

    bid: NDArray[np.int64]  # [3, DAY_S + 1]
    prints: NDArray[np.int64]  # [3, DAY_S]
    lean: NDArray[np.float64]  # [3, DAY_S], expected share of buys less that of sells
    burst: NDArray[np.uint8]  # [DAY_S]
    first_id: NDArray[np.int64]  # [3], id of each market's first print


def keys_of(seed: int, kind: str, asset: str) -> Keys:
    """Make the streams of one asset."""
    market = np.array([key(seed, kind, asset, "market", m) for m in range(MARKETS)], np.uint64)
    return Keys(key(seed, kind, "common"), key(seed, kind, asset), key(seed, kind, asset, "flow"), market)


@njit(cache=True)
def _anchor(common: np.uint64, own: np.uint64, day: int, daily: float) -> float:
    """Return the log price at the midnight that begins `day`, relative to the profile's price."""
    total = 0.0
    keep = 1.0
    for back in range(_ANCHOR_DAYS):
        shared = normal(common, 1_000_000_000_000 + day - back)
        alone = normal(own, 1_000_000_000_000 + day - back)
        total += keep * daily * (_COMMON_NOISE * shared + _OWN_NOISE * alone)
        keep *= _ANCHOR_KEEP
    return total


@njit(cache=True)
def _volatility(common: np.uint64, own: np.uint64, day: int, out: NDArray[np.float64]) -> None:
    """Fill the day's log volatility, minute by minute: memories of three hours and of a quarter of an hour."""
    slow = medium = slow_own = 0.0
    start = day * 1440
    for minute in range(start - _WARMUP_MIN, start + 1440):
        slow += -slow / 180.0 + 0.1053 * normal(common, 4_000_000_000_000 + minute)
        medium += -medium / 15.0 + 0.3590 * normal(common, 5_000_000_000_000 + minute)
        slow_own += -slow_own / 60.0 + 0.1818 * normal(own, 6_000_000_000_000 + minute)
        if minute >= start:
            out[minute - start] = 0.30 * slow + 0.30 * medium + 0.20 * slow_own


@njit(cache=True)
def _path(
    common: np.uint64,
    own: np.uint64,
    day: int,
    sigma: float,
    daily: float,
    drift: NDArray[np.float64],
    calm: NDArray[np.float64],
    x: NDArray[np.float64],
    activity: NDArray[np.float64],
    burst: NDArray[np.uint8],
) -> None:
    """Fill the efficient log price at each second's end, the common log activity and the bursts."""
    minutes = np.empty(1440)
    _volatility(common, own, day, minutes)
    start = day * DAY_S
    begin, end = _anchor(common, own, day, daily), _anchor(common, own, day + 1, daily)
    quick = excite = 0.0
    level = 0.0
    x[0] = begin
    for t in range(start - _WARMUP_S, start + DAY_S):
        spark = normal(common, 10_000_000_000_000 + t)
        quick += -quick / 45.0 + 0.2095 * normal(common, 20_000_000_000_000 + t)
        excite += -excite / 4.0 + 0.6614 * spark
        if t < start:
            continue
        s = t - start
        shape = _DAY_SHAPE[s // 3600]
        wave = minutes[s // 60] + 0.30 * quick
        own_second = normal(own, 30_000_000_000_000 + t)
        burst[s] = 1 if uniform(common, 40_000_000_000_000 + t) < 0.003 * shape * exp(wave) else 0
        activity[s] = 0.75 * wave + 0.70 * excite + 0.30 * own_second
        step = _COMMON_NOISE * normal(common, 50_000_000_000_000 + t) + _OWN_NOISE * normal(own, 50_000_000_000_000 + t)
        size = sigma * np.sqrt(shape) * exp(wave + 0.40 * excite - 0.45) * calm[s]
        if burst[s]:
            size *= 2.0
        level += size * step + drift[s]
        x[s + 1] = level
    # The day ends where the next one begins: spread the difference evenly over its seconds.
    tilt = (end - begin - level) / DAY_S
    for s in range(DAY_S):
        x[s + 1] = begin + x[s + 1] + tilt * (s + 1)


@njit(cache=True)
def _basis_at(stream: np.uint64, t: int) -> float:
    """Return the venue's own deviation at second `t`, in its standard deviation, from the noise before it alone."""
    value = 0.0
    for back in range(t - 240, t):
        value += -value / 12.0 + 0.4000 * normal(stream, 60_000_000_000_000 + back)
    return value


@njit(cache=True)
def _bid(price: float, offset: float, x: float, tick: float) -> int:
    return int(np.floor(price * exp(x + offset) / tick))


@njit(cache=True)
def _quotes(
    stream: np.uint64,
    day: int,
    price: float,
    tick: float,
    mean_bp: float,
    spread_bp: float,
    still: float,
    x: NDArray[np.float64],
    out: NDArray[np.int64],
) -> None:
    """Fill one market's bid at each second's end: efficient price and basis, but it stands still in many seconds."""
    start = day * DAY_S
    deviation = _basis_at(stream, start)
    out[0] = _bid(price, (mean_bp + spread_bp * deviation) * BP, x[0], tick)
    for s in range(DAY_S):
        t = start + s
        deviation += -deviation / 12.0 + 0.4000 * normal(stream, 60_000_000_000_000 + t)
        target = _bid(price, (mean_bp + spread_bp * deviation) * BP, x[s + 1], tick)
        patience = still * (0.3 + 1.4 * uniform(stream, 70_000_000_000_000 + t)) * out[s]
        out[s + 1] = target if abs(target - out[s]) > patience else out[s]
    deviation = _basis_at(stream, start + DAY_S)
    out[DAY_S] = _bid(price, (mean_bp + spread_bp * deviation) * BP, x[DAY_S], tick)


@njit(cache=True)
def _ids(stream: np.uint64, day: int, per_day: int) -> int:
    """Return how many prints the market had before `day`: a straight line with a wobble that midnights agree on."""
    wobble = (uniform(stream, 2_000_000_000_000 + day) - 0.5) * 0.1
    return (day - _FIRST_DAY) * per_day + int(wobble * per_day)


@njit(cache=True)
def _prints(
    stream: np.uint64,
    day: int,
    per_day: int,
    gain: float,
    own_activity: float,
    activity: NDArray[np.float64],
    burst: NDArray[np.uint8],
    out: NDArray[np.int64],
) -> int:
    """Share the day's prints among its seconds by random weights; return the id of the first."""
    first = _ids(stream, day, per_day)
    budget = _ids(stream, day + 1, per_day) - first - 1  # one print always stands at the midnight quote
    start = day * DAY_S
    slow = 0.0
    for t in range(start - 600, start):
        slow += -slow / 60.0 + 0.1818 * normal(stream, 80_000_000_000_000 + t)
    cumulated = np.empty(DAY_S + 1)
    cumulated[0] = total = 0.0
    for s in range(DAY_S):
        t = start + s
        slow += -slow / 60.0 + 0.1818 * normal(stream, 80_000_000_000_000 + t)
        weight = (
            exp(gain * activity[s] + own_activity * (0.90 * normal(stream, 81_000_000_000_000 + t) + 0.436 * slow))
            * _DAY_SHAPE[s // 3600]
        )
        if burst[s]:
            u = uniform(stream, 82_000_000_000_000 + t)
            weight = 8.0 * weight + min(40.0, 4.0 / np.sqrt(1.0 - u)) * _DAY_SHAPE[s // 3600]
        cumulated[s + 1] = weight
        total += weight
    most = 30.0 * total / DAY_S  # what the busiest second can hold
    for s in range(DAY_S):
        cumulated[s + 1] = cumulated[s] + min(most, cumulated[s + 1])
    scale = budget / cumulated[DAY_S]
    before = np.int64(0)
    for s in range(DAY_S - 1):
        now = np.int64(cumulated[s + 1] * scale)
        out[s] = now - before
        before = now
    out[DAY_S - 1] = budget - before + 1
    return first


@njit(cache=True)
def _lean(
    flow: np.uint64,
    day: int,
    sigma_bp: float,
    links: NDArray[np.float64],
    moody: float,
    bid: NDArray[np.int64],
    prints: NDArray[np.int64],
    push: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Fill each market's bias of side: what its quote did since its last print, slow moods, and what a regime pushes."""
    start = day * DAY_S
    shared = slow_shared = temper = 0.0
    own = np.zeros(MARKETS)
    slow_own = np.zeros(MARKETS)
    seen = bid[:, 0].copy()
    for t in range(start - _WARMUP_S, start + DAY_S):
        shared += -shared / 60.0 + 0.1818 * normal(flow, 90_000_000_000_000 + t)
        temper += -temper / 3600.0 + 0.02357 * normal(flow, 98_000_000_000_000 + t)
        slow_shared += -slow_shared / 900.0 + 0.04713 * normal(flow, 91_000_000_000_000 + t)
        for m in range(MARKETS):
            own[m] += -own[m] / 120.0 + 0.1288 * normal(flow, (92 + m) * 1_000_000_000_000 + t)
            slow_own[m] += -slow_own[m] / 1200.0 + 0.04082 * normal(flow, (95 + m) * 1_000_000_000_000 + t)
        if t < start:
            continue
        s = t - start
        heat = moody * exp(_TEMPER * temper - 0.5 * _TEMPER * _TEMPER)
        for m in range(MARKETS):
            move = (bid[m, s + 1] - seen[m]) / (bid[m, s] * BP * 0.45 * sigma_bp)
            if prints[m, s] > 0:
                seen[m] = bid[m, s + 1]
            follow = links[m] * move / np.sqrt(1.0 + move * move)
            mood = 0.10 * shared + 0.06 * slow_shared + heat * (0.12 * own[m] + 0.15 * slow_own[m]) + push[m, s]
            out[m, s] = min(0.97, max(-0.97, follow + mood))


def plan_day(profile: AssetProfile, keys: Keys, day: int, push: Push) -> Plan:
    """Plan one UTC day (counted from 1970) of an asset under the pushes of its regimes."""
    sigma = profile.sigma_bp * BP
    daily = sigma * 294.0  # sqrt(86 400 s)
    x, activity = np.empty(DAY_S + 1), np.empty(DAY_S)
    plan = Plan(
        np.empty((MARKETS, DAY_S + 1), np.int64),
        np.empty((MARKETS, DAY_S), np.int64),
        np.empty((MARKETS, DAY_S)),
        np.empty(DAY_S, np.uint8),
        np.empty(MARKETS, np.int64),
    )
    _path(keys.common, keys.own, day, sigma, daily, push.drift, push.calm, x, activity, plan.burst)
    for m, market in enumerate(profile.markets):
        mean_bp = (0.0, profile.basis_bp, profile.basis_bp + 1.0)[m]
        spread_bp = (0.48, 0.48, 0.50)[m]
        _quotes(
            keys.market[m], day, profile.price_usd, float(market.tick), mean_bp, spread_bp, market.still * sigma, x,
            plan.bid[m],
        )  # fmt: skip
        per_day = round(market.fills_per_s * DAY_S)
        plan.first_id[m] = _prints(
            keys.market[m], day, per_day, market.gain, market.own_activity, activity, plan.burst, plan.prints[m]
        )
    links = np.array([market.link for market in profile.markets])
    _lean(keys.flow, day, profile.sigma_bp, links, push.moody, plan.bid, plan.prints, push.flow, plan.lean)
    return plan
