"""Days for the laws of engine and fold: wild features and rows that belong together, cheap and seeded.

The features are drawn, not scanned: whatever the kernel might say, engine and fold must keep their laws.
"""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

import numpy as np

from squeezecore import backtest, squeeze, tape
from squeezecore.fold import DayResult, Fold, Result
from squeezecore.market import DAY_S, PPM, FundingSeries, Instrument, Rows, concat, cut, empty
from squeezecore.spec import BacktestSpec, day_start_s
from squeezecore.squeeze import Features
from support.market_worlds import BTC, ETH

START = dt.date(2026, 1, 5)
INSTRUMENTS = {"BTC": BTC, "ETH": ETH}
ALWAYS = squeeze.F_WARM | squeeze.F_QUALITY
RARE = (
    squeeze.F_BOTH_AGAINST_LONG, squeeze.F_BOTH_AGAINST_SHORT, squeeze.F_CONTEXT_AGAINST_LONG,
    squeeze.F_CONTEXT_AGAINST_SHORT,
)  # fmt: skip
OFTEN = (squeeze.F_SIGNAL, squeeze.F_RETURN_UP, squeeze.F_RESET_LONG, squeeze.F_OI_CONFIRMS, squeeze.F_BIAS_SPOT)


class World(NamedTuple):
    """A run's input: the days' scans and rows, in memory."""

    spec: BacktestSpec
    scans: dict[dt.date, dict[str, backtest.DayScan]]
    rows: dict[str, Rows]
    funding: dict[str, FundingSeries]

    def read(self, asset: str, start_s: int, end_s: int) -> Rows:
        first, end = np.searchsorted(self.rows[asset].ts, [start_s, end_s])
        return cut(self.rows[asset], int(first), int(end))

    def run(self, *, every_second: bool = False, days: int | None = None) -> tuple[Result | None, list[DayResult]]:
        """Fold the world; with `days` only its first ones, unfinished."""
        fold = Fold(self.spec, INSTRUMENTS, self.funding, "test", every_second=every_second)
        results = [fold.add_day(day, self.scans.get(day, {}), self.read) for day in self.spec.days()[:days]]
        return (fold.finish() if days is None else None), results


def _runs(rng: np.random.Generator, n: int, share: float, mean_s: float) -> np.ndarray:
    """Draw a yes/no that lasts `mean_s` where it is yes, `share` of the time."""
    ons = rng.random(n) < share / mean_s
    return np.convolve(ons, np.ones(max(1, int(mean_s))))[:n] > 0


def world(
    seed: int,
    *,
    assets: tuple[str, ...] = ("BTC",),
    days: int = 1,
    seconds: int = 5_000,
    holes: int = 1,
    **changes: object,
) -> World:
    """Make a world whose days hold `seconds` seconds each, from 00:00 on, with `holes` holes a day."""
    rng = np.random.default_rng(seed)
    spec = BacktestSpec(
        assets=assets, start=START, end=START + dt.timedelta(days - 1),
        **{"capital_usd": 10_000, **changes},  # type: ignore[arg-type]
    )  # fmt: skip
    scans: dict[dt.date, dict[str, backtest.DayScan]] = {day: {} for day in spec.days()}
    rows: dict[str, list[Rows]] = {asset: [empty(Rows)] for asset in assets}
    for day in spec.days():
        for asset in assets:
            ts = _seconds(rng, day_start_s(day), seconds, holes)
            rows[asset].append(_rows(rng, ts, 60_000_000 if asset == "BTC" else 3_000_000))
            scans[day][asset] = scan_of(asset, day, rows[asset][-1], _features(rng, rows[asset][-1]))
    events = np.arange(day_start_s(START) + 900, day_start_s(START) + days * DAY_S, 1_800)
    series = FundingSeries(
        event_ts=events, known_at=events, rate=rng.integers(-2_000_000, 2_000_000, len(events)),
        interval_s=np.full(len(events), 1_800),
    )  # fmt: skip
    return World(spec, scans, {a: concat(parts) for a, parts in rows.items()}, dict.fromkeys(assets, series))


def _seconds(rng: np.random.Generator, start_s: int, seconds: int, holes: int) -> np.ndarray:
    ts = start_s + np.arange(seconds)
    keep = np.ones(seconds, bool)
    for _ in range(holes):
        at = int(rng.integers(0, seconds))
        keep[at : at + int(rng.integers(1, 50))] = False
    return ts[keep]


def _rows(rng: np.random.Generator, ts: np.ndarray, price: int) -> Rows:
    n = len(ts)
    close = np.rint(price * np.exp(np.cumsum(rng.standard_normal(n) * 1.2e-4)) / 100).astype(np.int64) * 100
    open_ = np.concatenate([[price], close[:-1]])[:n]
    zero, quiet = np.zeros(n, np.int64), rng.random(n) < 0.2
    volume = np.where(quiet, 0, rng.integers(1_000_000, 200_000_000, n))
    return Rows(
        ts=ts, open=open_, high=np.maximum(open_, close) + 100, low=np.minimum(open_, close) - 100, close=close,
        buy_qty=volume, sell_qty=np.where(quiet, 0, rng.integers(1_000_000, 200_000_000, n)),
        mark=close + rng.integers(-300, 300, n),
        spot_delta=rng.integers(-3_000_000, 3_000_000, n), perp_delta=rng.integers(-9_000_000, 9_000_000, n),
        spot_volume=zero + 1, perp_volume=zero + 1, open_interest=zero, oi_known_at=zero, oi_interval_s=zero,
        funding_rate_8h=zero, basis_bps=zero, quality_ppm=np.full(n, PPM), config_rev=zero,
    )  # fmt: skip


def _features(rng: np.random.Generator, rows: Rows) -> Features:
    n = len(rows.ts)
    flags = np.full(n, ALWAYS, np.uint32)
    long = _runs(rng, n, 1.0, 400.0)
    flags |= np.where(long, squeeze.F_LONG, squeeze.F_SHORT).astype(np.uint32)
    for bit in RARE:
        flags |= np.where(_runs(rng, n, 0.08, 40.0), bit, 0).astype(np.uint32)
    for bit in OFTEN:
        flags |= np.where(_runs(rng, n, 1.5, 200.0), bit, 0).astype(np.uint32)
    flags &= ~np.where(_runs(rng, n, 0.05, 60.0), ALWAYS, 0).astype(np.uint32)
    flags |= (rng.integers(0, 4, n // 300 + 1).repeat(300)[:n] << squeeze.PHASE_SHIFT).astype(np.uint32)
    flags |= np.where(rng.random(n) < 0.01, squeeze.F_RECORD, 0).astype(np.uint32)
    score = np.where(_runs(rng, n, 0.5, 120.0), rng.integers(3_500, 7_000, n), 0).astype(np.int16)
    stamps = np.unique(np.concatenate([rows.ts[:1], rows.ts[rows.ts % 60 == 59]]))
    k = len(stamps)
    at = np.searchsorted(rows.ts, stamps)
    swings = np.stack([rng.uniform(0, 2e7, k), rng.uniform(0, 6e7, k), rng.uniform(0.001, 0.006, k)], axis=1)
    width = rng.integers(0, 400_000, k)
    reset = np.stack([rows.close[at] - width, rows.close[at] + width, rng.integers(10**5, 10**7, k)], axis=1)
    parts = rng.integers(0, 2_000, (k, 3)).astype(np.int16)
    return Features(rows.ts, score, flags, stamps, swings, stamps, reset, stamps, parts)


def scan_of(asset: str, day: dt.date, rows: Rows, features: Features) -> backtest.DayScan:
    """Pretend that scanning these rows said these features."""
    start_s = day_start_s(day)
    return backtest.DayScan(
        asset=asset, day=day, data_hash=backtest.data_hash(backtest.hash_hours(rows), day), state_in="", state_out="",
        tape=tape.pack(features), seconds=len(rows.ts), incomplete=0,
        holes=backtest.holes_of(rows.ts, start_s, start_s + DAY_S), first_open=int(rows.open[0]),
        last_close=int(rows.close[-1]), hour_closes=(0,) * 24,
    )  # fmt: skip


def instrument(asset: str) -> Instrument:
    return INSTRUMENTS[asset]
