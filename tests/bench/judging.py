"""The report: statistics of a year, a month's page and its size, and how long luck takes to measure."""

from __future__ import annotations

import json
import multiprocessing
import statistics as middle
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import msgspec
import numpy as np
from tests.bench import computing
from tests.bench.commanding import COMMAND, MONTH_DAYS, backtest_of, run_command
from tests.bench.measuring import Figure, at_most, plain, timed
from tests.bench.stage import CORES, Stage

from squeezecore import statistics
from squeezecore.adapters import explaining, placebos
from squeezecore.market import DAY_S
from squeezecore.report import Trade
from squeezecore.trading import USD_E8, Direction

YEAR_DAYS = 365
TRADES_A_DAY = 7
PAGE_RUNS = 5
PLACEBO_RUNS, PLACEBO_RUNS_QUICK = 200, 40
PLACEBO_BAR = 1.3  # times the scans and folds themselves
CAPITAL = 100_000 * USD_E8


def figures(stage: Stage) -> list[Figure]:
    """Measure what comes after a run."""
    stage.grow(MONTH_DAYS)
    return [_year(stage), *_page(stage), *_luck(stage)]


# --- statistics ---


def _year(stage: Stage) -> Figure:
    stage.tell("statistics of a year")
    rng = np.random.default_rng(1)
    n = YEAR_DAYS * 1_440
    ts = np.arange(n, dtype=np.int64) * 60 + 59
    equity = (CAPITAL * np.exp(np.cumsum(rng.normal(1e-6, 4e-4, n)))).astype(np.int64)
    curve = statistics.Curve(ts, equity, CAPITAL, 0, YEAR_DAYS)
    trades = [_trade(rng, number) for number in range(YEAR_DAYS * TRADES_A_DAY)]

    def everything() -> None:
        statistics.performance(curve, trades, trial_sharpes=[1.0, 0.5])
        statistics.intervals(curve, trades, seed=b"bench")

    return at_most(
        "statistics of a year", timed(everything), "s", 1.0, 1.0,
        f"all figures and their bootstrap intervals, {YEAR_DAYS} days of minutes, {len(trades)} trades",
    )  # fmt: skip


def _trade(rng: np.random.Generator, number: int) -> Trade:
    entry = number * DAY_S // TRADES_A_DAY
    pnl = int(rng.normal(5, 300) * USD_E8)
    return Trade(
        asset="BTC", instrument="binance:BTC-USDT-PERP", direction=Direction(1 if number % 2 else -1), tier=1 + number % 3,
        score_milli=4_500, decided_ts=entry - 1, entry_ts=entry, exit_ts=entry + 2_000, entry_order_id=f"e{number}",
        exit_order_id=f"x{number}", qty=1_000, entry_price=600_000, exit_price=600_000, entry_usd_e8=60_000 * USD_E8,
        exit_usd_e8=60_000 * USD_E8 + pnl, fees_usd_e8=60 * USD_E8, slippage_usd_e8=USD_E8, funding_usd_e8=0,
        pnl_usd_e8=pnl, level=0, reason="structure",
    )  # fmt: skip


# --- the page ---


def _page(stage: Stage) -> list[Figure]:
    stage.tell("a month's page")
    run = run_command(backtest_of(stage, MONTH_DAYS))
    file = stage.home / "bench.html"
    asked = [
        str(COMMAND),
        "--home",
        str(stage.home),
        "report",
        run["run_id"],
        "--placebos",
        "0",
        "--json",
        "--out",
        str(file),
    ]
    begun = time.perf_counter()
    run_command(asked)
    first = time.perf_counter() - begun
    again = timed(lambda: run_command(asked), PAGE_RUNS)
    trades = run["summary"]["trades"]
    return [
        at_most(
            "a month's page from stored numbers", again, "s", 2.0, 1.0,
            f"squeezeflow report, a new process to its end, {MONTH_DAYS} days, {trades} trades; the first time {first:.1f} s",
        ),
        plain("  its size", file.stat().st_size / 1e6, "MB", f"{trades} trades of {MONTH_DAYS} days, one asset", 6.0),
    ]  # fmt: skip


# --- luck ---


def _luck(stage: Stage) -> list[Figure]:
    """Hold placebo runs against nothing but scans and folds of as many days, on as many cores."""
    runs = PLACEBO_RUNS_QUICK if stage.quick else PLACEBO_RUNS
    stage.tell(f"{runs} placebo runs over a month")
    alone = _scans_and_folds()
    run = explaining.find_run(stage.store, run_command(backtest_of(stage, MONTH_DAYS))["run_id"])
    begun = time.perf_counter()
    placebos.measure(stage.store, run, runs=runs, entries=0, jobs=CORES, scratch=stage.home / "bench-scratch")
    took = time.perf_counter() - begun
    alone = middle.mean((alone, _scans_and_folds()))
    bare = runs * alone * MONTH_DAYS / computing.DAYS
    return [
        plain(
            f"{runs} placebo runs over a month, against their bare scans and folds", took / bare, "times",
            f"{took:.1f} s on {CORES} cores, everything included; a month's scan and fold in memory takes {alone * CORES:.2f} s "
            f"with both cores busy, timed before and after",
            PLACEBO_BAR,
        )
    ]  # fmt: skip


def _scans_and_folds() -> float:
    """Return seconds a month's scan and fold takes when every core does them: wall time over their number."""
    with ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn"), _hold_world) as pool:
        list(pool.map(_run_world, range(CORES)))  # worlds made, kernels loaded
        begun = time.perf_counter()
        count = CORES * 4
        list(pool.map(_run_world, range(count)))
        return (time.perf_counter() - begun) / count


_held: dict[str, Any] = {}


def _hold_world() -> None:
    _held["world"] = computing.make_world()


def _run_world(_number: int) -> int:
    result, _ = computing.run(_held["world"])
    return len(json.dumps(msgspec.to_builtins(result.summary)))
