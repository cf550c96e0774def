"""The command as a person waits for it, what its processes hold in memory, and how soon a fresh process has a day."""

from __future__ import annotations

import datetime as dt
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from tests.bench.measuring import Figure, at_most, plain, timed
from tests.bench.stage import ASSET, CORES, Stage, first_day

from squeezecore.backtest import warmup_start_s
from squeezecore.market import DAY_S
from squeezecore.spec import day_start_s

COMMAND = Path(sys.executable).with_name("squeezeflow")
ROOT = Path(__file__).parents[2]
MONTH_DAYS = 31
RUNS = 3
COLD_RUNS = 5
SAMPLE_S = 0.04
MEGABYTE = 1e6
FLAT = 1.25  # 365 days may take this much more than 30
QUICK_NOTE = " (--quick: 90 days instead of 365)"


def figures(stage: Stage) -> list[Figure]:
    """Measure the command on a warm server."""
    stage.grow(MONTH_DAYS)
    return [*_month(stage), *_cold(stage), *_memory(stage)]


def backtest_of(stage: Stage, days: int, *flags: str) -> list[str]:
    last = first_day() + dt.timedelta(days - 1)
    asked = ["backtest", ASSET, "--from", str(first_day()), "--to", str(last), "--json", *flags]
    return [str(COMMAND), "--home", str(stage.home), *asked]


def run_command(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _month(stage: Stage) -> list[Figure]:
    stage.tell("a month from the command")
    answers = []
    fresh = timed(lambda: answers.append(run_command(backtest_of(stage, MONTH_DAYS, "--fresh"))), RUNS, CORES)
    cached = timed(lambda: answers.append(run_command(backtest_of(stage, MONTH_DAYS))), RUNS)
    hashes = {answer["result_hash"] for answer in answers}
    if len(hashes) != 1 or [answer["cached"] for answer in answers] != [False] * (RUNS + 1) + [True] * (RUNS + 1):
        raise AssertionError(f"results of the same month were {hashes}, one is expected, and the later ones cached")
    inside = statistics.median(answer["seconds"] for answer in answers[1 : RUNS + 1])
    return [
        at_most(
            "a month from command to result", fresh, "s", 5.0, 1.0,
            f"squeezeflow backtest {ASSET}, {MONTH_DAYS} days, --fresh --json, a new process to its end, server warm, {CORES} cores; "
            f"{inside:.2f} s of it in the run itself",
        ),
        plain("  the same again, cached", cached.seconds, "s", f"a new process to its end; {cached.said}"),
    ]  # fmt: skip


# --- cold start ---


def _cold(stage: Stage) -> list[Figure]:
    """Start processes that scan one day, rows from the store and from a file; the first run caches the kernels."""
    stage.tell("cold starts")
    day = first_day()
    file = stage.home.parent / "day.npy"
    np.save(file, np.stack(stage.store.read_rows(ASSET, warmup_start_s(day), day_start_s(day) + DAY_S)))
    lines = []
    for origin, given in (("rows_1s of a warm server", []), ("an .npy file", [str(file)])):
        command = [sys.executable, "-m", "tests.bench.cold", str(stage.home), str(day), *given]
        steps: list[dict[str, float]] = []

        def start(command: list[str] = command, steps: list[dict[str, float]] = steps) -> float:
            begun = time.monotonic()
            steps.append({name: at - begun for name, at in run_command(command).items()})
            return steps[-1]["scanned"]

        timing = timed(start, COLD_RUNS)
        parts = ", ".join(f"{name} {statistics.median(step[name] for step in steps[1:]):.2f} s" for name in steps[0])
        how = f"a fresh process, numba cache warm, 28 h and the day from {origin}; reached: {parts}"
        lines.append(
            at_most(
                f"cold start to a scanned day, rows from {'a file' if given else 'the store'}",
                timing,
                "s",
                2.0,
                1.0,
                how,
            )
        )
    return lines


# --- memory ---


class Peak(NamedTuple):
    """The largest PSS seen, in bytes: of the command's own process and of its largest worker."""

    parent: int
    worker: int

    @property
    def largest(self) -> int:
        """Return what the bar is about."""
        return max(self)


def _memory(stage: Stage) -> list[Figure]:
    stage.tell("memory of a day and a month")
    lengths = [1, 30, stage.year_days]
    stage.grow(stage.year_days)
    note = QUICK_NOTE if stage.quick else ""
    peaks, lines = [], []
    for days in lengths:
        stage.tell(f"memory of {days} days")
        peak, seconds = watch(backtest_of(stage, days, "--fresh"))
        peaks.append(peak)
        how = (
            f"largest PSS of one of our processes, sampled every {SAMPLE_S * 1e3:.0f} ms: command {peak.parent / MEGABYTE:.0f} MB, "
            f"largest worker {peak.worker / MEGABYTE:.0f} MB; the run took {seconds:.1f} s; the ClickHouse server is not counted{note}"
        )
        lines.append(plain(f"peak memory, {days} day{'s' * (days > 1)}", peak.largest / MEGABYTE, "MB", how, 500.0))
    growth = peaks[2].largest / peaks[1].largest
    how = f"{lengths[2]} days over 30 days; flat is at most {FLAT}{note}"
    return [*lines, plain("peak memory, growth", growth, "times", how, FLAT)]


def watch(command: list[str]) -> tuple[Peak, float]:
    """Run a command; return the peaks of its processes, and how long it took."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    peaks: dict[int, int] = {}
    done = threading.Event()
    watcher = threading.Thread(target=_sample, args=(process.pid, peaks, done))
    watcher.start()
    said = process.communicate()[1]
    done.set()
    watcher.join()
    if process.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {process.returncode}: {said[-500:]!r}")
    workers = [peak for pid, peak in peaks.items() if pid != process.pid]
    return Peak(peaks[process.pid], max(workers, default=0)), time.perf_counter() - begun


def _sample(pid: int, peaks: dict[int, int], done: threading.Event) -> None:
    """Note the largest PSS of a process and its children until told to stop."""
    try:
        parent = psutil.Process(pid)
        while not done.wait(SAMPLE_S):
            for process in [parent, *parent.children(recursive=True)]:
                try:
                    peaks[process.pid] = max(peaks.get(process.pid, 0), process.memory_full_info().pss)
                except psutil.Error:  # it has just ended
                    continue
    except psutil.NoSuchProcess:
        return
