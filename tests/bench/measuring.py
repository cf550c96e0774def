"""Times that a slow minute of the machine cannot spoil, and the figures made of them.

Every timed run stands between two runs of a fixed loop, the calibration. Where the loop takes longer than it does on a
quiet machine of the reference class, an absolute time may be longer by the same factor. Ratios need no such help: both
sides are timed within one run.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
import numba
import numpy as np

# One calibration on a quiet machine of 2 shared Zen 4 cores (numba 0.68), the least of 300: on one core, and on both at once.
REFERENCE_S = {1: 0.0166, 2: 0.0182}
ROUNDS, LOOPS = 5, 1_000_000
SAMPLES = 3  # on either side of a run
WORDS = np.arange(1 << 20, dtype=np.uint64)  # 8 MB: more than a core's own cache, as a day of rows is


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table."""

    name: str
    value: float
    unit: str
    bar: float | None  # None: it explains another line and is not judged
    ok: bool
    how: str


class Timing(NamedTuple):
    """Several runs of one action."""

    seconds: float  # median of the runs
    fair: float  # the same, each run divided by how much slower than the reference the machine was about it
    runs: tuple[float, ...]

    @property
    def said(self) -> str:
        """Say how often and how widely it was measured."""
        spread = f"{min(self.runs) / self.seconds:.2f}..{max(self.runs) / self.seconds:.2f}"
        return f"median of {len(self.runs)} runs ({spread} of it), machine {self.seconds / self.fair:.2f} x the reference time"


@numba.njit(nogil=True, cache=True)
def _churn(words: Any, rounds: int, loops: int) -> Any:
    x = np.uint64(0x9E3779B97F4A7C15)
    for _ in range(rounds):
        for _ in range(loops):
            x ^= x >> np.uint64(12)
            x ^= x << np.uint64(25)
            x ^= x >> np.uint64(27)
            x *= np.uint64(0x2545F4914F6CDD1D)
        for word in words:
            x += word ^ (x >> np.uint64(31))
    return x


def calibrate(cores: int = 1) -> float:
    """Time the fixed loop, on several cores at once where the measured thing uses several; return seconds."""
    others = [threading.Thread(target=_churn, args=(WORDS, ROUNDS, LOOPS)) for _ in range(cores - 1)]
    begun = time.perf_counter()
    for other in others:
        other.start()
    _churn(WORDS, ROUNDS, LOOPS)
    for other in others:
        other.join()
    return time.perf_counter() - begun


def timed(action: Callable[[], Any], runs: int = 5, cores: int = 1, before: Callable[[], Any] | None = None) -> Timing:
    """Run an action several times after one run that does not count; `before` prepares each and is not timed.

    An action that returns a float has timed itself: from outside a process, its start or its end may not belong to it.
    """
    calibrate(cores)
    seconds, fair = [], []
    for number in range(runs + 1):
        if before is not None:
            before()
        speeds = [calibrate(cores) for _ in range(SAMPLES)]
        begun = time.perf_counter()
        own = action()
        took = time.perf_counter() - begun
        speeds += [calibrate(cores) for _ in range(SAMPLES)]
        if number:
            seconds.append(own if isinstance(own, float) else took)
            fair.append(seconds[-1] / max(1.0, statistics.mean(speeds) / REFERENCE_S[cores]))
    return Timing(statistics.median(seconds), statistics.median(fair), tuple(seconds))


def on_one_core(action: Callable[..., Any], *args: Any) -> Callable[[], float]:
    """Make an action tell the processor seconds of all its threads where they are more than the time that passed."""

    def act() -> float:
        begun, used = time.perf_counter(), time.process_time()
        action(*args)
        return max(time.perf_counter() - begun, time.process_time() - used)

    return act


def at_most(name: str, timing: Timing, unit: str, bar: float, per: float, how: str) -> Figure:
    """Judge a time: `per` converts seconds to the unit."""
    value = timing.seconds * per
    return Figure(name=name, value=value, unit=unit, bar=bar, ok=timing.fair * per <= bar, how=f"{how}; {timing.said}")


def rate(name: str, count: int, timing: Timing, unit: str, bar: float, how: str) -> Figure:
    """Judge a throughput of `count` things a run."""
    value = count / timing.seconds
    return Figure(
        name=name, value=value, unit=unit, bar=bar, ok=count / timing.fair >= bar, how=f"{how}; {timing.said}"
    )


def plain(name: str, value: float, unit: str, how: str, bar: float | None = None, *, least: bool = False) -> Figure:
    """State a value that does not depend on the machine's speed; with `least` the bar is a lower one."""
    ok = bar is None or (value >= bar if least else value <= bar)
    return Figure(name=name, value=value, unit=unit, bar=bar, ok=ok, how=how)


class Stopwatch:
    """Splits one run among named functions: the time of each without what it calls that is also named.

    It follows the thread that made it; what others do beside it costs that thread nothing.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]

    @contextmanager
    def watching(self, watched: Sequence[tuple[Any, str, str]]) -> Iterator[None]:
        """Time functions `(module or class, name, label)` while the block runs."""
        kept = [(owner, name, getattr(owner, name)) for owner, name, _ in watched]
        try:
            for (owner, name, function), (_, _, label) in zip(kept, watched, strict=True):
                setattr(owner, name, self._timed(function, label))
            yield
        finally:
            for owner, name, function in kept:
                setattr(owner, name, function)

    def _timed(self, function: Callable[..., Any], label: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._thread:
                return function(*args, **kwargs)
            self._inner.append(0.0)
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.perf_counter() - begun
                self.seconds[label] = self.seconds.get(label, 0.0) + took - self._inner.pop()
                self._inner[-1] += took

        return call


def median_of_parts(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return each part's median over several runs."""
    return {label: statistics.median(run.get(label, 0.0) for run in runs) for label in runs[0]}
