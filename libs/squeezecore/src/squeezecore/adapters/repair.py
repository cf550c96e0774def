"""Trades in the order they happened, out of files whose rows are not: sorted by id, doubles dropped, wrong times found.

A file in order streams through untouched. One that is not (rows shuffled, two id ranges interleaved, a block that
carries one wrong time) is read again, sorted on disk in bounded memory, and judged window by window. What cannot be
repaired exactly is taken out and counted: its ids are then missing, so a gap says where it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from squeezecore.market import Trades, concat, cut, dtypes

JITTER_NS = 1_000_000_000  # ids and times of one matching engine disagree by milliseconds; more is an error
WINDOW_ROWS = 1 << 19  # judged at a time, with as many rows after them in view
FROZEN_ROWS_MIN = 100  # prints at one instant …
FROZEN_SILENCE_NS = 10_000_000_000  # … beside a silence: perhaps the silence's prints, all with one time
FROZEN_RATIO_MAX = 4  # they are, unless they are more than the silence should have had, by this factor
RUN_WEIGHT_MAX = 20  # a thousand prints at one instant prove no more than twenty

Ints = NDArray[np.int64]


PERIOD_SLACK_NS = 60_000_000_000  # a published file may hold prints this far outside of its days
ALWAYS = (0, 2**63 - 1)


class OutOfOrderError(Exception):
    """The file must be sorted and judged; never leaves this package."""


class Findings:
    """What was met in a file and what became of it, counted."""

    def __init__(self) -> None:
        self.repaired: Counter[str] = Counter()
        self.set_aside: Counter[str] = Counter()
        self.removed_ids: list[tuple[int, int, str]] = []  # first, last, why


class Run(NamedTuple):
    """The prints at one instant that end what was read so far."""

    time_ns: int = -1
    rows: int = 0
    silence_ns: int = 0  # before it


def take(trades: Trades, index: NDArray[np.bool_] | NDArray[np.intp]) -> Trades:
    """Pick prints."""
    columns: list[Any] = [column[index] for column in trades]
    return Trades(*columns)


def pack(trades: Trades) -> Ints:
    """Make one matrix of a block, for a file."""
    return np.stack([column.astype(np.int64) for column in trades])


def unpack(matrix: Ints) -> Trades:
    """Make a block of a matrix."""
    columns: list[Any] = [np.array(row, kind) for row, kind in zip(matrix, dtypes(Trades).values(), strict=True)]
    return Trades(*columns)


@njit(cache=True)
def _plausible(time_ns: Ints, last_ns: int, rows: int, silence_ns: int, jitter_ns: int) -> tuple[bool, int, int, int]:
    """Check that times ascend within the jitter and that no crowd stands beside a silence; carries the last run on."""
    for i in range(len(time_ns)):
        step = time_ns[i] - last_ns if last_ns >= 0 else 0
        if step == 0 and last_ns >= 0:
            rows += 1
            if rows >= FROZEN_ROWS_MIN and silence_ns >= FROZEN_SILENCE_NS:
                return False, last_ns, rows, silence_ns
            continue
        if step < -jitter_ns or (step >= FROZEN_SILENCE_NS and rows >= FROZEN_ROWS_MIN):
            return False, last_ns, rows, silence_ns
        rows, silence_ns, last_ns = 1, step, time_ns[i]
    return True, last_ns, rows, silence_ns


def in_order(
    blocks: Iterable[Trades], *, has_ids: bool, findings: Findings, period_ns: tuple[int, int] = ALWAYS
) -> Iterator[Trades]:
    """Pass a file's blocks on as they are.

    Raises:
        OutOfOrderError: at the first row that is not in order or whose time is not plausible.
    """
    run, last = Run(), None
    for block in blocks:
        prints = block
        if has_ids:
            step = np.diff(prints.id)
            if (step < 0).any() or (last is not None and prints.id[0] < last.id[0]):
                raise OutOfOrderError
            if last is not None and prints.id[0] == last.id[0]:
                prints = concat([last, prints])
                before = len(prints.id)
                prints = _single(prints, findings)
                if len(prints.id) == before or prints.id[0] != last.id[0]:
                    raise OutOfOrderError
                prints = take(prints, np.arange(1, len(prints.id)))
            elif (step == 0).any():
                prints = _single(prints, findings)
            if not len(prints.id):
                continue
        if prints.exchange_ns.min() < period_ns[0] or prints.exchange_ns.max() >= period_ns[1]:
            raise OutOfOrderError
        fine, *carried = _plausible(prints.exchange_ns, *run, JITTER_NS if has_ids else 0)
        if not fine:
            raise OutOfOrderError
        run = Run(*carried)
        last = take(prints, np.array([len(prints.id) - 1]))
        yield prints


def _single(prints: Trades, findings: Findings) -> Trades:
    """Drop what stands there twice in prints sorted by id; take out ids that stand for different prints."""
    same_id = prints.id[1:] == prints.id[:-1]
    if not same_id.any():
        return prints
    equal = same_id.copy()
    for name in ("exchange_ns", "price", "qty", "side"):  # not when we heard
        column = getattr(prints, name)
        equal &= column[1:] == column[:-1]
    group = np.concatenate([[0], np.cumsum(~same_id)])
    torn = np.unique(group[1:][same_id & ~equal])  # groups with different prints under one id
    keep = np.concatenate([[True], ~same_id])
    if len(torn):
        in_torn = np.isin(group, torn)
        findings.set_aside["one_id_different_prints"] += int(in_torn.sum())
        findings.removed_ids += [(int(i), int(i), "one id, different prints") for i in np.unique(prints.id[in_torn])]
        keep &= ~in_torn
        doubled = int((~keep & ~in_torn).sum())
    else:
        doubled = int((~keep).sum())
    findings.repaired["doubled_rows"] += doubled
    return take(prints, keep)


# --- sorting on disk --------------------------------------------------------------------------------------------------


def in_any_order(
    blocks: Iterable[Trades], *, has_ids: bool, findings: Findings, spool: Path, period_ns: tuple[int, int] = ALWAYS
) -> Iterator[Trades]:
    """Sort a file's rows by id (by time where there are none), drop doubles, take out wrong times.

    `period_ns` is the time that the file says it is of.
    """
    kept: list[Trades] = []
    floor_ns = -1
    for part in _sorted(blocks, has_ids, findings, spool):
        kept.append(_single(part, findings) if has_ids else part)
        if sum(len(prints.id) for prints in kept) >= 2 * WINDOW_ROWS:
            window = concat(kept)
            judged, floor_ns = _judge(window, WINDOW_ROWS, floor_ns, has_ids, findings, period_ns)
            yield judged
            kept = [take(window, np.arange(WINDOW_ROWS, len(window.id)))]
    if kept:
        window = concat(kept)
        judged, _ = _judge(window, len(window.id), floor_ns, has_ids, findings, period_ns)
        yield judged


def _sorted(blocks: Iterable[Trades], has_ids: bool, findings: Findings, spool: Path) -> Iterator[Trades]:
    """Sort each block, put it on disk, and merge the blocks by slices that fit memory."""
    runs: list[NDArray[np.int64]] = []
    samples: list[Ints] = []
    last_key = -1
    for number, prints in enumerate(blocks):
        key = prints.id if has_ids else prints.exchange_ns
        if len(key) and (key[0] < last_key or bool((np.diff(key) < 0).any())):
            lag = np.maximum.accumulate(np.concatenate([[last_key], key]))[:-1]
            findings.repaired["rows_out_of_order"] += int((key < lag).sum())
        if not len(key):
            continue
        last_key = max(last_key, int(key.max()))
        order = np.argsort(key, kind="stable")
        matrix = pack(take(prints, order))
        path = spool / f"run-{number}.npy"
        np.save(path, matrix)
        runs.append(np.load(path, mmap_mode="r"))
        samples.append(key[order][:: max(1, WINDOW_ROWS // 64)])
    if not runs:
        return
    row = Trades._fields.index("id" if has_ids else "exchange_ns")
    total = sum(run.shape[1] for run in runs)
    grid = np.unique(np.concatenate(samples))
    slices = max(1, total // WINDOW_ROWS)
    borders = np.unique(grid[np.linspace(0, len(grid) - 1, slices + 1).astype(np.int64)[1:-1]])
    ends = [np.searchsorted(run[row], borders).tolist() for run in runs]
    starts = [0] * len(runs)
    for k in range(len(borders) + 1):
        parts = []
        for r, run in enumerate(runs):
            end = ends[r][k] if k < len(borders) else run.shape[1]
            parts.append(np.asarray(run[:, starts[r] : end]))
            starts[r] = end
        matrix = np.concatenate(parts, axis=1)
        matrix = matrix[:, np.argsort(matrix[row], kind="stable")]
        yield unpack(matrix)


# --- wrong times ------------------------------------------------------------------------------------------------------


def _judge(
    prints: Trades, commit: int, floor_ns: int, has_ids: bool, findings: Findings, period_ns: tuple[int, int]
) -> tuple[Trades, int]:
    """Take prints with wrong times out of the first `commit` rows, judged with the rows after them in view."""
    right = right_times(prints.exchange_ns, floor_ns) if has_ids else np.ones(len(prints.id), np.bool_)
    right &= ~_frozen(prints.exchange_ns, right)
    right &= ~_astray(prints.exchange_ns, period_ns)
    right = right[:commit]
    wrong = np.flatnonzero(~right)
    if len(wrong):
        findings.set_aside["wrong_time"] += len(wrong)
        breaks = np.flatnonzero(np.diff(wrong) > 1)
        for a, b in zip([0, *(breaks + 1)], [*breaks, len(wrong) - 1], strict=True):
            ids = prints.id[wrong[a]], prints.id[wrong[b]]
            findings.removed_ids.append((int(ids[0]), int(ids[1]), "wrong time"))
    kept = take(cut(prints, 0, commit), right)
    if len(kept.id):
        floor_ns = max(floor_ns, int(kept.exchange_ns[-1]))
    return kept, floor_ns


def right_times(time_ns: Ints, floor_ns: int = -1) -> NDArray[np.bool_]:
    """Say which of some times, in the order of their ids, can be right.

    Time cannot run backwards, so the right ones are the heaviest chain that never falls; whoever is within the jitter of
    that chain belongs to it too. A run at one instant weighs little, however long, so a block that carries one wrong
    time never outweighs the rows it contradicts.
    """
    count = len(time_ns)
    if not count:
        return np.ones(0, np.bool_)
    starts = np.flatnonzero(np.concatenate([[True], np.diff(time_ns) != 0]))
    times = time_ns[starts]
    lengths = np.diff(np.concatenate([starts, [count]]))
    if floor_ns >= 0 and bool((times < floor_ns - JITTER_NS).any()):
        allowed = times >= floor_ns - JITTER_NS
    else:
        allowed = np.ones(len(times), np.bool_)
    if allowed.all() and bool((np.diff(times) >= -JITTER_NS).all()):
        return np.ones(count, np.bool_)
    _, ranks = np.unique(times, return_inverse=True)
    chain = _chain(ranks.astype(np.int64), np.minimum(lengths, RUN_WEIGHT_MAX), allowed)
    return np.repeat(_near_chain(times, chain, JITTER_NS) & allowed, lengths)


@njit(cache=True)
def _chain(ranks: Ints, weights: Ints, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find the heaviest non-decreasing subsequence; a Fenwick tree holds the best chain that ends at or below a rank."""
    count = len(ranks)
    size = count + 1
    best = np.zeros(size + 1, np.int64)
    owner = np.full(size + 1, -1, np.int64)
    parent = np.full(count, -1, np.int64)
    weight = np.zeros(count, np.int64)
    top, end = np.int64(0), -1
    for i in range(count):
        if not allowed[i]:
            continue
        node, found, before = ranks[i] + 1, np.int64(0), np.int64(-1)
        while node > 0:
            if best[node] > found:
                found, before = best[node], owner[node]
            node -= node & -node
        weight[i], parent[i] = found + weights[i], before
        node = ranks[i] + 1
        while node <= size:
            if weight[i] > best[node]:
                best[node], owner[node] = weight[i], i
            node += node & -node
        if weight[i] > top:
            top, end = weight[i], i
    chosen = np.zeros(count, np.bool_)
    while end >= 0:
        chosen[end] = True
        end = parent[end]
    return chosen


@njit(cache=True)
def _near_chain(times: Ints, chain: NDArray[np.bool_], jitter_ns: int) -> NDArray[np.bool_]:
    """Add to a chain what lies within the jitter of its neighbours in it."""
    count = len(times)
    kept = chain.copy()
    after = np.empty(count, np.int64)
    following = np.int64(9223372036854775807) - jitter_ns
    for k in range(count):
        i = count - 1 - k
        after[i] = following
        if chain[i]:
            following = times[i]
    before = np.int64(-1)
    for i in range(count):
        if chain[i]:
            before = times[i]
        elif before - jitter_ns <= times[i] <= after[i] + jitter_ns:
            kept[i] = True
    return kept


def _frozen(time_ns: Ints, right: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find crowds at one instant that hold the prints of the silence beside them."""
    out = np.zeros(len(time_ns), np.bool_)
    kept = np.flatnonzero(right)
    if len(kept) < FROZEN_ROWS_MIN:
        return out
    times = time_ns[kept]
    starts = np.flatnonzero(np.concatenate([[True], np.diff(times) != 0]))
    lengths = np.diff(np.concatenate([starts, [len(times)]]))
    for k in np.flatnonzero(lengths >= FROZEN_ROWS_MIN):
        at = times[starts[k]]
        before = at if k == 0 else times[starts[k] - 1]
        after = at if k + 1 == len(starts) else times[starts[k + 1]]
        silence = int(max(at, after) - min(before, at))
        if max(at - before, after - at) < FROZEN_SILENCE_NS:
            continue
        others = len(times) - int(lengths[k])
        span = max(1, int(times[-1] - times[0]) - silence)
        expected = max(1.0, others * (silence / span))
        if lengths[k] <= expected * FROZEN_RATIO_MAX:
            out[kept[starts[k] : starts[k] + lengths[k]]] = True
    return out


def _astray(time_ns: Ints, period_ns: tuple[int, int]) -> NDArray[np.bool_]:
    """Find stretches outside of the file's own days that all carry one time: another day's prints have times of their own."""
    outside = (time_ns < period_ns[0]) | (time_ns >= period_ns[1])
    out = np.zeros(len(time_ns), np.bool_)
    if outside.any():
        edges = np.flatnonzero(np.diff(np.concatenate([[False], outside, [False]]).astype(np.int8)))
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            out[start:end] = bool((time_ns[start:end] == time_ns[start]).all())
    return out
