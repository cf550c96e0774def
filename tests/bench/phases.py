"""What each phase of the scan costs: the kernel is compiled again without one of them, and runs the same day.

A phase is found by its comment in the kernel's source. Leaving it out also quiets what depends on it, so the parts need not
add up; what is left when all are out is the part that they share: windows, candles, swings, logarithms.
"""

from __future__ import annotations

import ast
import inspect
import re
import statistics
import textwrap
import time
from collections.abc import Callable
from typing import Any

import numba
from tests.bench.measuring import Figure, plain
from tests.bench.stage import Stage

from squeezecore import squeeze
from squeezecore.market import Rows
from squeezecore.squeeze import SqueezeParams, SqueezeState

ROUNDS = 15
NAMES = {1: "phase 1, context", 2: "phase 2, divergence", 3: "phase 3, reset", 4: "phase 4, candle parts and score"}


def figures(day: Rows, warm: SqueezeState, stage: Stage) -> list[Figure]:
    """Time the scan of one warm day whole, without each phase, and without all of them, in turns."""
    params = SqueezeParams()
    left_out: list[set[int]] = [set(), *({n} for n in NAMES), set(NAMES)]
    kernels = []
    for phases in left_out:
        stage.tell(f"compiling the kernel without {len(phases)} phases")
        kernels.append(without(phases))
        _scan(kernels[-1], params, warm, day)
    rounds = [[_scan(kernel, params, warm, day) for kernel in kernels] for _ in range(ROUNDS)]
    whole = statistics.median(times[0] for times in rounds)
    kept = [statistics.median(times[n] / times[0] for times in rounds) for n in range(len(kernels))]
    lines = []
    for n, name in enumerate([*NAMES.values(), "shared by all phases"], 1):
        last = n == len(left_out) - 1
        share = kept[n] if last else 1 - kept[n]
        how = "what is left without phases 1-4" if last else "time saved when it is left out"
        said = f"{share:.0%} of the scan of one warm day, {whole * 1e3:.2f} ms; {how}; median ratio of {ROUNDS} rounds"
        lines.append(plain(f"    {name}", share * whole * 1e3, "ms/day/core", said))
    return lines


def without(phases: set[int]) -> Callable[..., Any]:
    """Compile the kernel without some phases."""
    function = squeeze._kernel.py_func  # type: ignore[attr-defined]
    source = textwrap.dedent(inspect.getsource(function))
    tree = ast.parse(source)
    ready = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "ready"
    )
    begins = {
        int(found[1]): number
        for number, line in enumerate(source.splitlines(), 1)
        if (found := re.match(r"\s*# Phase (\d)", line))
    }
    if sorted(begins) != sorted(NAMES):
        raise AssertionError(f"comments of phases in the kernel were {sorted(begins)}, expected are {sorted(NAMES)}")
    kept = []
    for node in ready.body:
        phase = max((n for n, line in begins.items() if line < node.lineno), default=0)
        if phase not in phases or (
            isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets] == ["evaluated"]
        ):
            kept.append(node)
    ready.body = kept or [ast.Pass()]
    outer = tree.body[0]
    assert isinstance(outer, ast.FunctionDef)
    outer.decorator_list = []
    names = dict(vars(squeeze))
    exec(compile(ast.fix_missing_locations(tree), "<kernel without phases>", "exec"), names)
    return numba.njit(names["_kernel"])  # type: ignore[no-any-return]


def _scan(kernel: Callable[..., Any], params: SqueezeParams, warm: SqueezeState, day: Rows) -> float:
    compiled = squeeze._compiled
    segments, state = compiled()[1], warm.copy()
    squeeze._compiled = lambda: (kernel, segments)  # type: ignore[assignment]
    try:
        begun = time.perf_counter()
        squeeze.scan(params, state, day)
        return time.perf_counter() - begun
    finally:
        squeeze._compiled = compiled
