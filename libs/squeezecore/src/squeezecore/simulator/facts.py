"""Open interest and funding of a simulated perpetual, as a venue publishes them: late, and at an interval."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from squeezecore.market import DAY_S, FUNDING_SCALE, FundingSeries, OpenInterestSeries
from squeezecore.simulator.noise import normal, uniform

POLL_S = 60
FUNDING_S = 28_800
_ANCHOR_DAYS = 60
_DEFAULT_RATE = 1e-4  # what a venue charges per 8 h while the premium is within its band


@njit(cache=True)
def _level(stream: np.uint64, day: int, mean: int) -> int:
    """Return open interest at the midnight that begins `day`."""
    wander = 0.0
    keep = 1.0
    for back in range(_ANCHOR_DAYS):
        wander += keep * 0.018 * normal(stream, 100_000_000_000_000 + day - back)
        keep *= 0.92
    return int(mean * (1.0 + max(-0.6, wander)))


@njit(cache=True)
def _changes(
    stream: np.uint64, day: int, mean: int, volume: NDArray[np.int64], push: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return open interest at each second's end, index 0 at midnight; a second never changes it by more than it traded.

    Every print opens, passes on or closes contracts: the second's share of opens less closes is noise, plus what its
    minute and a regime lean to. It does not follow the sign of the flow.
    """
    start = day * DAY_S
    begin, end = _level(stream, day, mean), _level(stream, day + 1, mean)
    share = np.empty(DAY_S)
    drawn = traded = 0.0
    for s in range(DAY_S):
        t = start + s
        own = (uniform(stream, 101_000_000_000_000 + t) - 0.5) * 0.7
        minute = 0.05 * normal(stream, 102_000_000_000_000 + t // 60)
        share[s] = own + minute + push[s]
        drawn += share[s] * volume[s]
        traded += volume[s]
    lean = (end - begin - drawn) / max(1.0, traded)
    out = np.empty(DAY_S + 1, np.int64)
    out[0] = begin
    cumulated = 0.0
    for s in range(DAY_S):
        cumulated += max(-0.95, min(0.95, share[s] + lean)) * volume[s]
        out[s + 1] = begin + np.int64(np.floor(cumulated))
    return out


def open_interest_truth(
    stream: np.uint64, day: int, mean: int, volume: NDArray[np.int64], push: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the true open interest at each second's end of a day, `DAY_S + 1` values from midnight to midnight."""
    return _changes(stream, day, mean, volume, push)


def publish_open_interest(stream: np.uint64, day: int, truth: NDArray[np.int64]) -> OpenInterestSeries:
    """Return what a poll a minute sees: a value that the venue made 35 to 58 s before, known a few seconds after.

    The first poll shows midnight itself and is known with the day's first second, so no day needs the one before.
    """
    polls = DAY_S // POLL_S
    event = day * DAY_S + POLL_S * np.arange(polls, dtype=np.int64)
    known, value = event.copy(), truth[:-1:POLL_S].copy()
    event[0] -= 1
    for n in range(1, polls):
        lag = 35 + int(24 * uniform(stream, 103_000_000_000_000 + int(event[n])))
        value[n] = truth[n * POLL_S - lag]
        known[n] += 1 + int(3 * uniform(stream, 104_000_000_000_000 + int(event[n])))
    return OpenInterestSeries(event, known, value, np.full(polls, POLL_S, np.int64))


@njit(cache=True)
def _premium(stream: np.uint64, block: int) -> float:
    """Return a funding interval's premium in its standard deviation; two thirds of it stay for the next one."""
    value, keep = 0.0, 0.714
    for back in range(12):
        value += keep * normal(stream, 105_000_000_000_000 + block - back)
        keep *= 0.7
    return value


def publish_funding(stream: np.uint64, day: int, interval_s: int = FUNDING_S) -> FundingSeries:
    """Return the day's settlements: the default rate while premium is small, else what the premium says."""
    event = np.arange(day * DAY_S, (day + 1) * DAY_S, interval_s, dtype=np.int64)
    rate = np.empty(event.size, np.int64)
    for n in range(event.size):
        block = int(event[n]) // interval_s
        z = _premium(stream, block)
        premium = 0.42e-4 + 0.45e-4 * z
        per_interval = min(_DEFAULT_RATE, premium) * interval_s / FUNDING_S
        rate[n] = round(per_interval * FUNDING_SCALE)
    return FundingSeries(event, event.copy(), rate, np.full(event.size, interval_s, np.int64))
