"""Finished runs without any market, to be counted as trials; also by processes that are started for it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from squeezecore.adapters import embedded, trials
from squeezecore.adapters.store import Store
from squeezecore.adapters.tables import Trial
from squeezecore.fold import Fold, Result
from squeezecore.spec import BacktestSpec, canonical, day_start_s, digest
from squeezecore.trading import USD_E8
from support.market_worlds import BTC, ETH

DAY = dt.date(2026, 1, 5)


def spec_of(
    number: int = 0, *, days: int = 3, first: dt.date = DAY, assets: tuple[str, ...] = ("BTC",)
) -> BacktestSpec:
    return BacktestSpec(assets=assets, start=first, end=first + dt.timedelta(days - 1), capital_usd=1_000 + number)


def result_of(spec: BacktestSpec, data: int = 0, code: str = "code") -> Result:
    """Make a finished run whose equity walks at random, by what was asked and by the data it read."""
    days = len(spec.days())
    seed = int(digest(canonical(spec), str(data).encode()), 16)
    walk = np.cumsum(np.random.default_rng(seed).integers(-100, 101, days * 24))
    equity = spec.capital_usd * USD_E8 + walk * USD_E8 // 100
    fold = Fold(spec, {"BTC": BTC, "ETH": ETH}, {}, code)
    for day in spec.days():
        fold.add_day(day, {}, no_rows)
    empty = fold.finish()
    ts = day_start_s(spec.start) + 3_600 * np.arange(1, days * 24 + 1) - 1
    total = float(equity[-1] / (spec.capital_usd * USD_E8) - 1)
    return empty._replace(
        equity_ts=ts, equity_usd_e8=equity, result_hash=digest(empty.result_hash.encode(), str(data).encode()),
        summary=msgspec.structs.replace(empty.summary, total_return=total, trades=data),
    )  # fmt: skip


def no_rows(asset: str, start_s: int, end_s: int) -> Any:
    raise AssertionError(f"rows of {asset} {start_s}..{end_s} were asked for")


def write(store: Store, count: int, first: int = 0) -> list[Trial]:
    """Write trials of different runs as one chain; return its links."""
    writer = trials.Writer(store)
    for number in range(first, first + count):
        spec = spec_of(number)
        writer.record(spec, result_of(spec))
    return [link for link in store.trials() if link.writer == writer.name]


def write_in_process(home: Path, database: str, first: int, count: int, ready: Any, go: Any) -> None:
    with embedded.open_store(home, database=database) as store:
        ready.release()
        go.wait()
        write(store, count, first)
