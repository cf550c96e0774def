"""Rows for the laws of the squeeze kernel: cheap, seeded, and wild enough that every phase and part occurs."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from squeezecore.market import OpenInterestSeries, Rows, cut
from squeezecore.squeeze import Features

WARMUP_S = 28 * 3600
START_S = 1_767_225_600 + 1_234  # within an hour, a candle and a minute
EVENTS = {"swings": "swing_ts", "reset": "reset_ts", "parts": "part_ts"}


class Facts(NamedTuple):
    """What was published: rows without open interest, and open interest with the time it could be known."""

    rows: Rows
    open_interest: OpenInterestSeries

    def until(self, end: int) -> Facts:
        """Keep what was known when the row before index `end` closed."""
        known = int(self.rows.ts[end - 1])
        series = self.open_interest
        return Facts(cut(self.rows, 0, end), cut(series, 0, int(np.searchsorted(series.known_at, known, "right"))))


def _slow(rng: np.random.Generator, n: int, tau_s: float) -> np.ndarray:
    """Make a process with a memory of `tau_s`, of unit variance, drawn once a minute."""
    m = n // 60 + 2
    keep = np.exp(-60 / tau_s)
    steps = rng.standard_normal(m) * np.sqrt(1 - keep * keep)
    path = np.empty(m)
    value = 0.0
    for k in range(m):
        value = path[k] = keep * value + steps[k]
    return np.interp(np.arange(n), np.arange(m) * 60, path)


@functools.lru_cache(maxsize=8)
def facts(seed: int, seconds: int, start_s: int = START_S) -> Facts:
    """Make one asset's market: flows with slow common and own parts, a price that follows them loosely."""
    rng = np.random.default_rng(seed)
    n, price = seconds, 61_800_300
    common, own, activity = _slow(rng, n, 1800), _slow(rng, n, 1200), np.exp(0.5 * _slow(rng, n, 3600))
    e_spot = rng.standard_normal(n)
    e_perp = 0.5 * e_spot + 0.87 * rng.standard_normal(n)
    spot = np.rint(activity * 3e6 * (0.25 * common + 0.2 * own + e_spot)).astype(np.int64)
    perp = np.rint(activity * 25e6 * (0.25 * common - 0.2 * own + e_perp)).astype(np.int64)
    step = activity * (2.5e-5 * e_spot + 1.7e-5 * e_perp + 3.5e-5 * rng.standard_normal(n) + 3e-6 * common)
    step[rng.random(n) < 0.28] = 0.0
    close = np.rint(price * np.exp(np.cumsum(step - step.mean())) / 100).astype(np.int64) * 100
    open_ = np.concatenate([[price], close[:-1]])
    wicks = np.rint(np.abs(rng.standard_normal((2, n))) * 2e-5 * price / 100).astype(np.int64) * 100
    zero = np.zeros(n, np.int64)
    rows = Rows(
        ts=start_s + np.arange(n),
        open=open_,
        high=np.maximum(open_, close) + wicks[0],
        low=np.minimum(open_, close) - wicks[1],
        close=close,
        buy_qty=np.abs(perp) // 100,
        sell_qty=np.abs(spot) // 100,
        mark=close,
        spot_delta=spot,
        perp_delta=perp,
        spot_volume=3 * np.abs(spot) + 10**6,
        perp_volume=3 * np.abs(perp) + 10**7,
        open_interest=zero,
        oi_known_at=zero,
        oi_interval_s=zero,
        funding_rate_8h=zero,
        basis_bps=zero,
        quality_ppm=np.full(n, 1_000_000),
        config_rev=zero,
    )
    event_ts = np.arange(start_s - start_s % 60, start_s + n, 60)
    level = 8 * 10**12 + np.cumsum(np.rint(rng.standard_normal(len(event_ts)) * 2.5e9)).astype(np.int64)
    known_at = event_ts + rng.integers(5, 55, len(event_ts))
    return Facts(rows, OpenInterestSeries(event_ts, known_at, level, np.full(len(event_ts), 60)))


def rows_of(facts: Facts) -> Rows:
    """Lay the open interest last known over the rows."""
    return with_open_interest(facts, facts.open_interest.known_at)


def with_open_interest(facts: Facts, visible_at: np.ndarray) -> Rows:
    """Lay open interest over the rows, each value from the second it is said to be visible at."""
    rows, series = facts
    if not len(visible_at):
        return rows
    last = np.searchsorted(visible_at, rows.ts, "right") - 1
    none = last < 0
    columns = {
        "open_interest": np.where(none, 0, series.open_interest[last]),
        "oi_known_at": np.where(none, 0, series.known_at[last]),
        "oi_interval_s": np.where(none, 0, series.interval_s[last]),
    }
    return rows._replace(**columns)


@functools.lru_cache(maxsize=8)
def rows(seed: int, seconds: int, start_s: int = START_S) -> Rows:
    """Make rows of one asset's market."""
    return rows_of(facts(seed, seconds, start_s))


def bits(features: Features) -> list[bytes]:
    """Return features as bytes, with dtypes and shapes."""
    return [str((column.dtype, column.shape)).encode() + column.tobytes() for column in features]


def in_force(features: Features, name: str) -> np.ndarray:
    """Spread an event column over the seconds."""
    stamps = getattr(features, EVENTS[name])
    return getattr(features, name)[np.searchsorted(stamps, features.ts, "right") - 1]


def spread(features: Features) -> dict[str, np.ndarray]:
    """Return one value a second of everything features say."""
    columns = {name: in_force(features, name) for name in EVENTS}
    return {"score_milli": features.score_milli, "flags": features.flags, **columns}
