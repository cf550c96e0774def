"""What the store adds: the same map and fold from ClickHouse, the whole runner on one core, and bytes a bar."""

from __future__ import annotations

import datetime as dt
import functools
from typing import Any

from tests.bench.measuring import Figure, Stopwatch, at_most, median_of_parts, plain, timed
from tests.bench.stage import ASSET, START, Stage, first_day, prepare

from squeezecore import backtest, simulator, squeeze
from squeezecore.adapters import embedded, runner, scanning
from squeezecore.adapters.operations import open_store
from squeezecore.adapters.store import Store
from squeezecore.fold import Fold, Result
from squeezecore.market import DAY_S
from squeezecore.spec import BacktestSpec, day_start_s

DAYS = 30
RUNS = 3
BAR_DAYS = 5  # of every market of the asset: more than a million rows
PARTS = (
    (Store, "read_rows", "reading rows_1s FINAL"),
    (Store, "read_row_columns", "reading rows_1s FINAL"),
    (Store, "insert_backtest_days", "storing scans"),
    (Store, "backtest_days", "reading scans back"),
    (Store, "insert_trades", "storing results"),
    (Store, "insert_equity", "storing results"),
    (Store, "insert_decisions", "storing results"),
    (Store, "asset_coverage", "asking what there is"),
    (backtest, "_day_scan", "map"),
    (backtest, "hash_hours", "map"),
    (squeeze, "scan", "map"),
    (squeeze, "fingerprint", "map"),
    (Fold, "add_day", "fold"),
    (Fold, "finish", "fold"),
)


def figures(stage: Stage) -> list[Figure]:
    """Measure with the month stored."""
    stage.grow(DAYS)
    spec = runner.make_spec(assets=[ASSET], start=first_day(), end=first_day() + dt.timedelta(DAYS - 1))
    stage.tell("map and fold from ClickHouse")
    asset_instruments, funding = runner._markets(stage.store, spec)
    timing = timed(lambda: _from_store(stage.store, spec, asset_instruments, funding), RUNS)
    whole = at_most(
        "map and fold from ClickHouse", timing, "ms/day", 60.0, 1e3 / DAYS,
        f"one process, {DAYS} days and the warm-up read once from rows_1s FINAL, day by day; nothing kept",
    )  # fmt: skip
    stage.tell("the runner with one job")
    reading = timed(lambda: _read(stage.store, spec), RUNS)
    return [
        whole,
        plain("  of it reading rows_1s FINAL", reading.seconds * 1e3 / DAYS, "ms/day", f"19 columns; {reading.said}"),
        *_runner(stage, spec),
        *_bytes_a_bar(stage),
    ]


def _from_store(store: Store, spec: BacktestSpec, instruments: Any, funding: Any) -> Result:
    params = squeeze.params_from(spec.params)
    (item,) = backtest.plan(spec)
    fold, recent = Fold(spec, instruments, funding, scanning.code_version()), scanning.Recent()
    reader = runner._Reader(store, recent)
    for scan in scanning.scan_item(store, spec, params, item, recent):
        fold.add_day(scan.day, {ASSET: scan}, reader)
    return fold.finish()


def _read(store: Store, spec: BacktestSpec) -> None:
    for day in spec.days():
        start = day_start_s(day)
        store.read_rows(ASSET, start, start + DAY_S)


def _runner(stage: Stage, spec: BacktestSpec) -> list[Figure]:
    """Split the real runner, one job, among what it does."""
    request = runner.BacktestRequest(spec=spec, jobs=1, shards=1, fresh=True)
    opener = functools.partial(open_store, stage.home)

    def run() -> None:
        runner._backtest(opener, stage.store, request, lambda _progress: None)

    timing = timed(run, RUNS)
    runs = []
    for _ in range(RUNS):
        watch = Stopwatch()
        with watch.watching([*PARTS, (_Whole, "run", "bookkeeping between these")]):
            _Whole.run(run)
        runs.append(watch.seconds)
    parts = median_of_parts(runs)
    how = f"what squeezeflow backtest does after its start, scans and results kept in the store; {timing.said}"
    return [
        plain("the runner, one job", timing.seconds * 1e3 / DAYS, "ms/day", how),
        *(
            plain(f"  {label}", seconds * 1e3 / DAYS, "ms/day", "part of the runner; function by function")
            for label, seconds in sorted(parts.items(), key=lambda part: -part[1])
        ),
    ]


class _Whole:
    """Holds the run where a stopwatch can reach it."""

    @staticmethod
    def run(action: Any) -> None:
        """Do it."""
        action()


def _bytes_a_bar(stage: Stage) -> list[Figure]:
    """Store bars with ids in a database of their own, merge them, and ask the server what they take."""
    stage.tell("bars into ClickHouse")
    world = simulator.WorldSpec(start=START, days=BAR_DAYS, assets=(ASSET,))
    with embedded.open_store(stage.home, database="bench_bars") as store:
        prepare(store)
        ids = 0
        for made in simulator.simulate_rows(world, ASSET):
            for name, bars in made.bars.items():
                store.insert_bars(name, bars)
                ids += int((bars.first_id >= 0).sum())
            store.insert_rows(ASSET, made.rows)
            store.compact(made.day)
        sizes = {size.table: size for size in store.sizes()}
        bars_1s, rows_1s = sizes["bars_1s"], sizes["rows_1s"]
        store.drop_database()
    how = (
        f"bytes on disk of all columns after OPTIMIZE FINAL over {bars_1s.rows:,} rows of {BAR_DAYS} simulated days, "
        f"{ids / bars_1s.rows:.0%} of them with ids"
    )
    enough = bars_1s.rows >= 1_000_000
    bar = plain("bar row in ClickHouse", bars_1s.bytes_per_row, "bytes", how, 20.0)
    return [
        Figure(name=bar.name, value=bar.value, unit=bar.unit, bar=bar.bar, ok=bar.ok and enough, how=how),
        plain(
            "asset row in ClickHouse", rows_1s.bytes_per_row, "bytes", f"rows_1s, the same way, {rows_1s.rows:,} rows"
        ),
    ]
