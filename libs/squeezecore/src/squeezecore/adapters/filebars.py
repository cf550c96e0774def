"""A file's prints to bars on disk, in bounded memory: `flow.scan_bars` fed block by block, one file a day.

Knows no store. What comes out is the whole file, judged, before anything of it is stored.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from squeezecore import flow
from squeezecore.adapters.reading import Opened
from squeezecore.adapters.repair import Findings, take
from squeezecore.adapters.splicing import Span, subtract
from squeezecore.market import DAY_S, Bars, Gap, Side, TradeFlag, Trades, concat, cut, dtypes, empty

SECOND_NS = 1_000_000_000
LAG_S = 2  # a second is closed when a print two seconds younger is met: ids and times disagree by less
JUMP_S_MAX = 30 * DAY_S  # a file that jumps further in time is two recordings in one
STEP_S = 20 * DAY_S  # of time handed to the kernel at once


class ScannedDay(NamedTuple):
    """One day of a file's bars, on disk."""

    day: dt.date
    path: Path
    prints: int
    first_id: int
    last_id: int


class Scanned(NamedTuple):
    """A whole file as bars, not yet in the store."""

    days: list[ScannedDay]
    spans: list[Span]  # ids it has; empty where ids prove nothing
    gaps: list[Gap]  # that are no missing ids
    border: Trades  # the prints of its first and its last second
    ends: Span  # ids and seconds of its first and last print


def scan_file(opened: Opened, blocks: Iterable[Trades], spool: Path, findings: Findings) -> Scanned | None:
    """Make bars of a file's prints, ordered by id; None when there is none."""
    scanner = _Scanner(opened, spool, findings)
    for block in blocks:
        scanner.add(block)
    return scanner.end()


def load_bars(path: Path) -> Bars:
    """Read a day's bars back."""
    matrix = np.load(path)
    columns: list[Any] = [np.array(row).astype(kind) for row, kind in zip(matrix, dtypes(Bars).values(), strict=True)]
    return Bars(*columns)


class _Scanner:
    """Holds the kernel's state, the open day and the border prints."""

    def __init__(self, opened: Opened, spool: Path, findings: Findings) -> None:
        self._params = flow.bar_params(opened.instrument, opened.id_kind, opened.contiguous)
        self._opened, self._spool, self._findings = opened, spool, findings
        self._state = flow.bars_initial()
        self._open: list[Bars] = []
        self._days: list[ScannedDay] = []
        self._spans: list[Span] = []
        self._gaps: list[Gap] = []
        self._holes: list[Gap] = []
        self._head: Trades = empty(Trades)
        self._tail: Trades = empty(Trades)
        self._ends: list[int] = []  # first id, last id, first second, last second
        self._last_ns = -1
        self._start_s = -1  # of this recording

    def add(self, block: Trades) -> None:
        """Take prints that follow, by id, those taken before."""
        if not len(block.id):
            return
        if self._opened.skips_one:
            block = self._fill_skips(block)
        self._remember(block)
        latest = np.maximum.accumulate(block.exchange_ns)
        previous = np.concatenate([[latest[0] if self._last_ns < 0 else self._last_ns], latest[:-1]])
        jumps = np.flatnonzero(latest - previous > JUMP_S_MAX * SECOND_NS)
        steps = np.flatnonzero(np.diff(latest // (STEP_S * SECOND_NS)) > 0) + 1
        borders = sorted({0, *jumps.tolist(), *steps.tolist(), len(block.id)})
        jumped = set(jumps.tolist())
        for start, end in pairwise(borders):
            if start in jumped:
                self._finish()
            part = cut(block, start, end)
            watermark_s = int(latest[end - 1]) // SECOND_NS - LAG_S
            if self._start_s < 0:
                self._start_s = int(part.exchange_ns.min()) // SECOND_NS
            if watermark_s <= self._start_s:
                watermark_s = 0  # a promise before the first print would say that its second is whole
            self._state, bars, gaps = flow.scan_bars(self._params, self._state, part, watermark_s)
            self._keep(bars, gaps)
        self._last_ns = int(latest[-1])

    def end(self) -> Scanned | None:
        """Close everything."""
        if not self._ends:
            return None
        self._finish()
        self._write_day()
        last_s = self._ends[3]
        tail = take(self._tail, self._tail.exchange_ns // SECOND_NS == last_s)
        border = self._head if self._ends[2] == last_s else concat([self._head, tail])
        return Scanned(self._days, self._spans, self._gaps, border, Span(*self._ends))

    def _finish(self) -> None:
        """End one recording: what it has seen becomes spans of ids."""
        self._state, bars, gaps = flow.finish_bars(self._params, self._state)
        self._keep(bars, gaps)
        state = self._state
        if self._opened.contiguous and state.high_id >= 0:
            whole = Span(state.low_id, state.high_id, state.low_s, state.high_s)
            self._spans += subtract([whole], self._holes)
        if state.late:
            self._findings.set_aside["late"] += state.late
        if state.doubled:
            self._findings.repaired["doubled_rows"] += state.doubled
        self._holes, self._start_s = [], -1
        self._state = flow.bars_initial()

    def _keep(self, bars: Bars, gaps: list[Gap]) -> None:
        for gap in gaps:
            missing = gap.cause == "ids missing" and gap.first_id >= 0
            (self._holes if missing else self._gaps).append(gap)
        for day_bars in _by_day(bars):
            if self._open and self._open[-1].ts[-1] // DAY_S != day_bars.ts[0] // DAY_S:
                self._write_day()
            self._open.append(day_bars)

    def _write_day(self) -> None:
        if not self._open:
            return
        bars = concat(self._open)
        day = dt.datetime.fromtimestamp(int(bars.ts[0]), dt.UTC).date()
        path = self._spool / f"bars-{len(self._days)}.npy"
        np.save(path, np.stack([column.astype(np.int64) for column in bars]))
        ids = bars.first_id >= 0
        first = int(bars.first_id[ids].min()) if ids.any() else -1
        prints = int((bars.buy_trades + bars.sell_trades).sum())
        self._days.append(ScannedDay(day, path, prints, first, int(bars.last_id.max())))
        self._open = []

    def _remember(self, block: Trades) -> None:
        """Keep the ends of the file, and the prints of its first and last second."""
        seconds = block.exchange_ns // SECOND_NS
        low, high = int(seconds.min()), int(seconds.max())
        if not self._ends:
            self._ends = [int(block.id[0]), int(block.id[-1]), low, high]
        self._ends[1] = int(block.id[-1])
        self._ends[3] = max(self._ends[3], high)
        if low <= self._ends[2]:
            if low < self._ends[2]:
                self._head = empty(Trades)
            self._ends[2] = low
            self._head = concat([self._head, take(block, seconds == low)])
        tail = concat([self._tail, take(block, seconds >= self._ends[3] - 1)])
        self._tail = take(tail, tail.exchange_ns // SECOND_NS >= self._ends[3] - 1)

    def _fill_skips(self, block: Trades) -> Trades:
        """Stand in for single ids that the venue leaves out of its files: they are used up, and no flow."""
        before = np.concatenate([[self._ends[1] if self._ends else block.id[0]], block.id[:-1]])
        at = np.flatnonzero(block.id - before == 2)
        if not len(at):
            return block
        self._findings.repaired["ids_the_venue_leaves_out"] += len(at)
        values: dict[str, Any] = {
            "id": block.id[at] - 1,
            "exchange_ns": block.exchange_ns[at],
            "received_ns": 0,
            "price": block.price[at],
            "qty": 0,
            "quote_cents": -1,
            "side": int(Side.NONE),
            "flags": int(TradeFlag.INTERNAL),
        }
        columns: list[Any] = [np.insert(column, at, values[name]) for name, column in block._asdict().items()]
        return Trades(*columns)


def _by_day(bars: Bars) -> Iterator[Bars]:
    """Cut bars at midnight."""
    if not len(bars.ts):
        return
    borders: NDArray[np.intp] = np.flatnonzero(np.diff(bars.ts // DAY_S)) + 1
    yield from (cut(bars, a, b) for a, b in zip([0, *borders.tolist()], [*borders.tolist(), len(bars.ts)], strict=True))
