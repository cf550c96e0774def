"""Prints of one feed in, each once, into one message for every 250 ms of exchange time.

No socket, no clock: what comes out is a function of what went in. Two ingest processes that heard the same prints make
the same batches, whatever the order in which these came, because a batch stays open for a border longer than its own and
is sorted when it is sealed. What comes later still goes into a further batch of its border.

Ids tell which prints are new, which were heard before, and which were jumped over. A jump is a hole; it is kept until
the prints that belong in it have come, from wherever.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from squeezecore.market import Block, TradeFlag, Trades, dtypes
from squeezecore.venues import Contiguity
from squeezecore.wire import BORDER_NS, PAYLOAD_BYTES_MAX, TradeBatch

LINGER = 1  # borders that a batch waits for prints that other instruments' have overtaken
TRADE_BYTES = sum(dtype.itemsize for dtype in dtypes(Trades).values())
BATCH_TRADES_MAX = PAYLOAD_BYTES_MAX * 3 // 4 // TRADE_BYTES  # the rest of the payload is for names and lengths
HOLES_MAX = 1_000  # an instrument's; beyond it the oldest is forgotten, and what belonged in it counts as heard
RECENT_MAX = 20_000  # ids of an instrument that are remembered where they only name a print

_SNAPSHOT = int(TradeFlag.SNAPSHOT)
_NEVER = -2  # no id is this


class Hole(msgspec.Struct, kw_only=True):
    """Ids that were jumped over: `first_id..last_id`."""

    instrument: str
    first_id: int
    last_id: int
    before_ns: int  # when the print before them happened, so they happened no sooner
    found_s: float  # monotonic
    passed: bool = False  # the watermark has passed it: what comes now repairs
    tries: int = 0
    retry_s: float = 0.0  # monotonic; not asked for before


class Tape:
    """What was heard of one instrument: every id up to the highest but those in the holes."""

    def __init__(self, instrument: str, contiguity: Contiguity, high_id: int = -1, high_ns: int = 0) -> None:
        self.instrument = instrument
        self.contiguity = contiguity
        self.high_id = high_id  # -1 before the first
        self.high_ns = high_ns
        self.holes: list[Hole] = []  # ascending
        self.proven = True  # nothing was missed since the highest, as far as anybody can know
        self.waived = False  # the watermark did not wait for the proof
        self.retry_s = 0.0  # monotonic; not asked for the proof before
        self._recent: dict[int, None] = {}

    def doubt(self) -> None:
        """Know no longer that nothing was missed: a connection was lost. The next print, or an answer, will tell."""
        self.proven = self.high_id < 0 or self.contiguity is not Contiguity.CONTIGUOUS
        self.waived = False

    def admit(self, block: Trades, now_s: float) -> Trades:
        """Return the prints that are new, and find the holes before them."""
        ids = block.id
        count = len(ids)
        first, last = int(ids[0]), int(ids[-1])
        if (
            first == self.high_id + 1
            and last - first == count - 1
            and self.high_id >= 0
            and self.contiguity is Contiguity.CONTIGUOUS
            and bool((ids[1:] - ids[:-1] == 1).all())
        ):
            self.high_id, self.high_ns, self.proven = last, int(block.exchange_ns[-1]), True
            return block
        numbers = zip(ids.tolist(), block.exchange_ns.tolist(), block.flags.tolist(), strict=True)
        judge = self._judge if self.contiguity is Contiguity.CONTIGUOUS else self._judge_unique
        keep = np.array([judge(number, at, flags, now_s) for number, at, flags in numbers], bool)
        return block if keep.all() else _pick(block, keep)

    def _judge(self, number: int, exchange_ns: int, flags: int, now_s: float) -> bool:
        """Say whether a print is new; ids grow by one."""
        if number > self.high_id:
            if self.high_id < 0:
                if flags & _SNAPSHOT:
                    return False  # history from before the first live print
            elif number > self.high_id + 1:
                self._open(number, now_s)
            self.high_id, self.high_ns, self.proven = number, exchange_ns, True
            return True
        at = self._hole_of(number)
        if at < 0:
            return False
        hole = self.holes[at]
        if hole.first_id == hole.last_id:
            del self.holes[at]
        elif number == hole.first_id:
            hole.first_id, hole.before_ns = number + 1, max(hole.before_ns, exchange_ns)
        elif number == hole.last_id:
            hole.last_id = number - 1
        else:
            rest = msgspec.structs.replace(hole, first_id=number + 1, before_ns=max(hole.before_ns, exchange_ns))
            hole.last_id = number - 1
            self.holes.insert(at + 1, rest)
        return True

    def _hole_of(self, number: int) -> int:
        """Return the index of the hole that an id lies in, −1 where there is none."""
        at = bisect_right(self.holes, number, key=lambda hole: hole.first_id) - 1
        return at if at >= 0 and self.holes[at].last_id >= number else -1

    def lacks(self, number: int) -> bool:
        """Say whether an id was jumped over and has not come."""
        return self._hole_of(number) >= 0

    def _open(self, number: int, now_s: float) -> None:
        """Remember the hole before an id."""
        self.holes.append(
            Hole(
                instrument=self.instrument,
                first_id=self.high_id + 1,
                last_id=number - 1,
                before_ns=self.high_ns,
                found_s=now_s,
            )
        )
        if len(self.holes) > HOLES_MAX:
            del self.holes[0]

    def _judge_unique(self, number: int, exchange_ns: int, flags: int, _now_s: float) -> bool:
        """Say whether a print is new; ids name it, or there are none."""
        if self.high_id < 0 and flags & _SNAPSHOT:
            return False
        if self.contiguity is Contiguity.UNIQUE:
            if number in self._recent:
                return False
            self._recent[number] = None
            if len(self._recent) > RECENT_MAX:
                del self._recent[next(iter(self._recent))]
        self.high_id, self.high_ns = max(number, 0), max(self.high_ns, exchange_ns)
        return True


def _pick(block: Block, index: Any) -> Block:
    return type(block)(*[column[index] for column in block])


Prints = dict[str, list[Trades]]  # by instrument, in the order received


class Batcher:
    """One feed's prints on their way into batches."""

    def __init__(self, linger: int = LINGER) -> None:
        self.tapes: dict[str, Tape] = {}
        self.taken = 0  # prints since the start
        self.doubled = 0
        self.waiting = 0  # prints taken and not yet sealed
        self._linger = linger
        self._open: dict[int, Prints] = {}
        self._closed: list[tuple[int, Prints]] = []  # in the order they were closed
        self._newest = -1  # border

    def watch(self, tape: Tape) -> None:
        """Begin to take an instrument's prints."""
        self.tapes[tape.instrument] = tape

    def forget(self, instrument: str) -> None:
        """Take no more prints of an instrument."""
        self.tapes.pop(instrument, None)

    @property
    def closed(self) -> int:
        """How many borders' prints can be sealed."""
        return len(self._closed)

    def take(self, blocks: Mapping[str, Trades], now_s: float) -> None:
        """Take prints by instrument, in any order; a print of an instrument that is not watched is left out."""
        newest = self._newest
        for instrument, block in blocks.items():
            tape = self.tapes.get(instrument)
            if tape is None or not len(block.id):
                continue
            new = tape.admit(block, now_s)
            count = len(new.id)
            self.doubled += len(block.id) - count
            if not count:
                continue
            self.taken += count
            self.waiting += count
            borders = new.exchange_ns // BORDER_NS
            border = int(borders[0])
            if count == 1 or bool((borders == border).all()):
                self._open.setdefault(border, {}).setdefault(instrument, []).append(new)
            else:
                for number in np.unique(borders).tolist():
                    part = _pick(new, borders == number)
                    self._open.setdefault(number, {}).setdefault(instrument, []).append(part)
                    border = max(border, number)
            newest = max(newest, border)
        if newest > self._newest:
            self._newest = newest
            self.close((newest - self._linger) * BORDER_NS)

    def close(self, until_ns: int) -> None:
        """Close the batches of borders that end at or before a time."""
        for number in sorted(number for number in self._open if (number + 1) * BORDER_NS <= until_ns):
            self._closed.append((number, self._open.pop(number)))

    def seal(self, venue: str, feed: str, borders: int) -> list[TradeBatch]:
        """Give the first closed borders as messages, and forget them."""
        closed, self._closed = self._closed[:borders], self._closed[borders:]
        batches: list[TradeBatch] = []
        for border, prints in closed:
            names, block, ends = _sorted(prints)
            self.waiting -= len(block.id)
            batches += _cut(venue, feed, (border + 1) * BORDER_NS, names, block, ends)
        return batches

    def holes(self) -> list[Hole]:
        """Return what is missing now."""
        return [hole for tape in list(self.tapes.values()) for hole in list(tape.holes)]


def _sorted(prints: Prints) -> tuple[list[str], Trades, list[int]]:
    """Join the prints of a border: (instruments sorted, their prints by id one after another, where each one's end)."""
    names = sorted(prints)
    pieces = [piece for name in names for piece in prints[name]]
    columns: list[NDArray[Any]] = [np.concatenate(column) for column in zip(*pieces, strict=True)]
    block = Trades(*columns)
    ends = np.cumsum([sum(len(piece.id) for piece in prints[name]) for name in names])
    rising = block.id[1:] > block.id[:-1]
    rising[ends[:-1] - 1] = True
    if not rising.all():
        which = np.repeat(np.arange(len(names)), np.diff(ends, prepend=0))
        order = np.lexsort((block.side, block.qty, block.price, block.exchange_ns, block.id, which))
        block = _pick(block, order)
    return names, block, ends.tolist()


def _cut(venue: str, feed: str, border_ns: int, names: list[str], block: Trades, ends: list[int]) -> list[TradeBatch]:
    """Make the messages of one border: several where one would be larger than the bus takes."""
    batches = []
    for start in range(0, ends[-1], BATCH_TRADES_MAX):
        stop = start + BATCH_TRADES_MAX
        inside = [
            (name, slice(max(begin, start), min(end, stop)))
            for name, begin, end in zip(names, [0, *ends], ends, strict=False)
            if begin < stop and end > start
        ]
        blocks = tuple(_pick(block, part) for _, part in inside)
        batches.append(TradeBatch(venue, feed, border_ns, tuple(name for name, _ in inside), blocks))
    return batches
