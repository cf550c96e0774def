"""Map and fold in memory: a day and core, its parts, its tape, the kernel's phases, and the same kernel as plain Python."""

from __future__ import annotations

import datetime as dt
import types
from typing import Any, NamedTuple

import numpy as np
from tests.bench.measuring import Figure, Stopwatch, at_most, median_of_parts, plain, timed
from tests.bench.phases import figures as phase_figures
from tests.bench.stage import ASSET, START, WARMUP_DAYS, Stage, first_day

from squeezecore import backtest, fold, simulator, squeeze, tape
from squeezecore.adapters import scanning
from squeezecore.adapters.runner import make_spec
from squeezecore.fold import Fold, Result
from squeezecore.market import DAY_S, FundingSeries, Instrument, Rows, concat, cut
from squeezecore.spec import BacktestSpec, day_start_s

DAYS = 30  # a plan's block, whose warm-up is paid once
RUNS = 5
PLAIN_S = 3_600  # seconds the plain loop goes through
PARTS = (
    (squeeze, "scan", "scan: phases 1-4"),
    (squeeze, "fingerprint", "state fingerprint"),
    (backtest, "hash_hours", "data hash"),
    (backtest, "data_hash", "data hash"),
    (tape, "pack", "tape pack"),
    (tape, "unpack", "tape unpack"),
    (Fold, "_look", "engine: phase 5 over quiet seconds"),
    (Fold, "_catch_up", "engine: phase 5 over quiet seconds"),
    (Fold, "_rest", "equity path and limits of quiet seconds"),
    (Fold, "_step", "eventful seconds: engine, limits, exchange, ledger"),
    (Fold, "_work", "seconds of open orders: exchange, ledger"),
    (Fold, "_sign", "result hash"),
    (fold, "deepen", "drawdown"),
    (scanning, "code_version", "code hash"),
)


class World(NamedTuple):
    """A month of one asset in memory."""

    spec: BacktestSpec
    instrument: Instrument
    warmup: Rows
    days: list[tuple[dt.date, Rows]]
    funding: FundingSeries

    def read(self, _asset: str, start_s: int, end_s: int) -> Rows:
        """Return rows as a store would, from the day and the one before it."""
        origin = day_start_s(self.days[0][0])
        at = max(0, (end_s - 1 - origin) // DAY_S)
        blocks = [self.warmup if start_s < origin else self.days[max(0, at - 1)][1], self.days[at][1]]
        found = []
        for rows in blocks if start_s < origin + at * DAY_S else blocks[1:]:
            a, b = np.searchsorted(rows.ts, (start_s, end_s))
            found.append(cut(rows, int(a), int(b)))
        return found[0] if len(found) == 1 else concat(found)


def make_world(days: int = DAYS) -> World:
    """Simulate the warm-up and the days."""
    world = simulator.WorldSpec(start=START, days=days + WARMUP_DAYS, assets=(ASSET,))
    made = list(simulator.simulate_rows(world, ASSET))
    rows = concat([day.rows for day in made[:WARMUP_DAYS]])
    first = first_day()
    a = int(np.searchsorted(rows.ts, backtest.warmup_start_s(first)))
    traded = simulator.asset_config(ASSET).traded
    return World(
        spec=make_spec(assets=[ASSET], start=first, end=first + dt.timedelta(days - 1)),
        instrument=next(one for one in simulator.instruments(ASSET) if one.id == traded),
        warmup=cut(rows, a, len(rows.ts)),
        days=[(day.day, day.rows) for day in made[WARMUP_DAYS:]],
        funding=concat([day.funding for day in made]),
    )


def run(world: World) -> tuple[Result, list[backtest.DayScan]]:
    """Do what a run does between reading rows and storing results, in one process."""
    version = scanning.code_version()
    params = squeeze.params_from(world.spec.params)
    scanned = list(backtest.scan_days(params, ASSET, world.warmup, world.days, world.spec.warmup_s))
    scans = [scan for scan, _ in scanned]
    fold = Fold(world.spec, {ASSET: world.instrument}, {ASSET: world.funding}, version)
    repaired = backtest.repair(scans, lambda *_: iter(()))
    for scan, features in scanned:
        fold.add_day(scan.day, {ASSET: scan}, world.read, {ASSET: features})
    return fold.finish(len(repaired)), scans


def figures(stage: Stage) -> list[Figure]:
    """Measure everything that needs no store."""
    stage.tell(f"simulating {DAYS} days in memory")
    world = make_world()
    stage.tell("map and fold in memory")
    timing = timed(lambda: run(world), RUNS)
    result, scans = run(world)
    trades, decisions = result.summary.trades, result.summary.records
    whole = at_most(
        "map and fold in memory", timing, "ms/day/core", 12.0, 1e3 / DAYS,
        f"one process, {DAYS} days of {ASSET} after a warm-up of 28 h (its scan counted): all five phases, every second, "
        f"hashes, tape, exact fold with fills and metrics ({trades} trades, {decisions} decision records)",
    )  # fmt: skip
    parts = _parts(world)
    return [whole, *parts, *_tape(scans), *phase_figures(world.days[0][1], _warm(world), stage), _against_python(world)]


def _parts(world: World) -> list[Figure]:
    """Split the run among its parts, which add up to it."""
    runs = []
    for _ in range(3):
        watch = Stopwatch()
        with watch.watching([*PARTS, (_Whole, "run", "bookkeeping between these")]):
            _Whole.run(world)
        runs.append(watch.seconds)
    parts = median_of_parts(runs)
    total = sum(parts.values())
    return [
        plain(
            f"  {label}",
            seconds * 1e3 / DAYS,
            "ms/day/core",
            f"{seconds / total:.0%} of map and fold; function by function",
        )
        for label, seconds in sorted(parts.items(), key=lambda part: -part[1])
    ]


class _Whole:
    """Holds `run` where a stopwatch can reach it."""

    run = staticmethod(run)


def _tape(scans: list[backtest.DayScan]) -> list[Figure]:
    sizes = [len(scan.tape) for scan in scans]
    how = f"the largest of {len(sizes)} days; mean {np.mean(sizes) / 1e3:.1f} kB, least {min(sizes) / 1e3:.1f} kB"
    return [plain("tape", max(sizes) / 1e3, "kB/day", how, 300.0)]


def _warm(world: World) -> squeeze.SqueezeState:
    params = squeeze.params_from(world.spec.params)
    return squeeze.scan(params, squeeze.initial(params), world.warmup)[0]


def plain_python() -> tuple[Any, Any]:
    """Return the kernel and its entry as Python functions that call nothing compiled."""
    names: dict[str, Any] = {}
    for name, value in vars(squeeze).items():
        names[name] = types.FunctionType(value.py_func.__code__, names, name) if hasattr(value, "py_func") else value
    return names["_kernel"], names["_segments"]


def _against_python(world: World) -> Figure:
    """Compare the compiled kernel with the same source run by Python, on the same rows from the same warm state."""
    params, warm, rows = squeeze.params_from(world.spec.params), _warm(world), cut(world.days[0][1], 0, PLAIN_S)
    fast = timed(lambda: [squeeze.scan(params, warm.copy(), rows) for _ in range(20)], 3)
    copying = timed(lambda: [warm.copy() for _ in range(20)], 3)
    compiled = squeeze._compiled
    found: dict[str, squeeze.Features] = {}

    def slowly() -> None:
        found["features"] = squeeze.scan(params, warm.copy(), rows)[1]

    squeeze._compiled = plain_python  # type: ignore[assignment]
    try:
        slow = timed(slowly, 3)
    finally:
        squeeze._compiled = compiled
    same = squeeze.scan(params, warm.copy(), rows)[1]
    equal = tape.pack(same) == tape.pack(found["features"])
    one = (fast.seconds - copying.seconds) / 20
    return Figure(
        name="compiled kernel over plain Python", value=slow.seconds / one, unit="times", bar=1.0, ok=equal and slow.seconds > one,
        how=f"phases 1-4 over {PLAIN_S} rows: {slow.seconds / PLAIN_S * 1e6:.1f} us against {one / PLAIN_S * 1e9:.0f} ns a second, "
        f"output bit for bit {'the same' if equal else 'DIFFERENT'}",
    )  # fmt: skip
