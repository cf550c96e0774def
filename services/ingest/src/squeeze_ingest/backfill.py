"""Closing holes over REST, by trade id.

A hole is asked for soon after it was found, then ever more rarely, and after `TRIES_MAX` tries no more: it stays on the
list. After a connection was lost, an instrument whose next print does not come is asked for as well, because only that
shows that there was none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from operator import attrgetter
from typing import Protocol

from squeeze_ingest.batching import Batcher, Hole, Tape
from squeeze_ingest.rest import Desk
from squeezecore.adapters.clock import Clock
from squeezecore.errors import ParseError, SqueezeError
from squeezecore.market import Instrument, Trade, Trades
from squeezecore.venues import Feed as Stream
from squeezecore.venues import Section, Venue, trades_of

PARALLEL = 4  # questions at once, of one feed
LOOK_S = 0.2
HOLE_S_MIN = 0.25  # prints may merely have overtaken one another
DOUBT_S_MIN = 1.0  # the next print may show by itself that nothing was missed
RETRY_S, RETRY_S_MAX = 0.5, 300.0
TRIES_MAX = 20
PAGE = 1_000  # prints of one answer
IDS_MAX = 100_000  # of a hole that is longer, only the last so many are asked for


class Owner(Protocol):
    """Whose holes are closed."""

    venue: Venue
    section: Section
    stream: Stream
    instruments: dict[str, Instrument]
    batcher: Batcher

    def take(self, blocks: Mapping[str, Trades]) -> None:
        """Take prints."""

    def up_since_s(self, native: str) -> float | None:
        """Return since when an instrument's prints come."""


class Mender:
    """Closes one feed's holes."""

    def __init__(self, owner: Owner, desk: Desk, clock: Clock) -> None:
        self.filled = 0  # prints
        self.last_error = ""
        self._owner = owner
        self._desk = desk
        self._clock = clock
        self._busy: set[str] = set()  # native symbols

    async def run(self) -> None:
        """Close holes, for ever; several of these may run."""
        while True:
            found = self._next()
            if found is None:
                await asyncio.sleep(LOOK_S)
                continue
            instrument, hole = found
            self._busy.add(instrument.native_symbol)
            try:
                await (self._prove(instrument) if hole is None else self._close(instrument, hole))
            finally:
                self._busy.discard(instrument.native_symbol)

    def _next(self) -> tuple[Instrument, Hole | None] | None:
        """Choose what to ask for: doubts first, then the holes that the watermark waits for, then the others."""
        now_s = asyncio.get_running_loop().time()
        best: tuple[bool, float] | None = None
        chosen: tuple[Instrument, Hole | None] | None = None
        for native, instrument in self._owner.instruments.items():
            if native in self._busy:
                continue
            tape = self._owner.batcher.tapes[instrument.id]
            if not tape.proven and now_s >= tape.retry_s:
                up_s = self._owner.up_since_s(native)
                if up_s is not None and now_s - up_s >= DOUBT_S_MIN:
                    return instrument, None
            for hole in tape.holes:
                due = now_s >= hole.retry_s and now_s - hole.found_s >= HOLE_S_MIN and hole.tries < TRIES_MAX
                if due and (best is None or (hole.passed, hole.found_s) < best):
                    best, chosen = (hole.passed, hole.found_s), (instrument, hole)
        return chosen

    async def _prove(self, instrument: Instrument) -> None:
        """Ask for everything after the highest id: what comes was missed, nothing says that nothing was."""
        tape = self._owner.batcher.tapes[instrument.id]
        now_s = asyncio.get_running_loop().time()
        try:
            trades = await self._ask(instrument, tape.high_id + 1)
        except (SqueezeError, ParseError) as error:
            self.last_error = str(error)
            tape.retry_s = now_s + 2 * RETRY_S
            return
        self._take(instrument, [trade for trade in trades if trade.id > tape.high_id])
        tape.proven = True
        if len(trades) >= PAGE and self._owner.stream is Stream.AGGREGATE:
            tape.doubt()

    async def _close(self, instrument: Instrument, hole: Hole) -> None:
        """Ask for what is missing, from the first id on."""
        tape = self._owner.batcher.tapes[instrument.id]
        self._shorten(tape, hole)
        first_id = hole.first_id
        found: list[Trade] = []
        try:
            trades = await self._ask(instrument, first_id)
            if self._owner.stream is Stream.TRADE and not any(trade.id <= first_id for trade in trades):
                trades += await self._ask_old(instrument, first_id)
            found = [trade for trade in trades if tape.lacks(trade.id)]  # of this hole, and of those behind it
        except (SqueezeError, ParseError) as error:
            self.last_error = str(error)
        self._take(instrument, found)
        if found:
            hole.tries = 0
        else:
            hole.tries += 1
            hole.retry_s = asyncio.get_running_loop().time() + min(RETRY_S_MAX, RETRY_S * 2.0**hole.tries)

    def _shorten(self, tape: Tape, hole: Hole) -> None:
        """Give up the beginning of a hole that is too long to be asked for."""
        if hole.last_id - hole.first_id < IDS_MAX:
            return
        begin = hole.last_id - IDS_MAX + 1
        lost = Hole(
            instrument=hole.instrument,
            first_id=hole.first_id,
            last_id=begin - 1,
            before_ns=hole.before_ns,
            found_s=hole.found_s,
            passed=True,
            tries=TRIES_MAX,
        )
        hole.first_id = begin
        tape.holes.insert(tape.holes.index(hole), lost)

    async def _ask(self, instrument: Instrument, from_id: int) -> list[Trade]:
        venue, section, native = self._owner.venue, self._owner.section.name, instrument.native_symbol
        if self._owner.stream is Stream.AGGREGATE:
            body = await self._desk.ask("backfill", symbol=native, from_id=from_id)
            return venue.aggregates(section, instrument, body, self._clock.now_ns())
        body = await self._desk.ask("recent_trades", symbol=native)
        return venue.recent_trades(section, instrument, body, self._clock.now_ns())

    async def _ask_old(self, instrument: Instrument, from_id: int) -> list[Trade]:
        """Ask for single prints that are no longer among the recent ones; some venues want a key for that."""
        body = await self._desk.ask("backfill_trades", symbol=instrument.native_symbol, from_id=from_id)
        return self._owner.venue.recent_trades(self._owner.section.name, instrument, body, self._clock.now_ns())

    def _take(self, instrument: Instrument, trades: list[Trade]) -> None:
        if trades and instrument.native_symbol in self._owner.instruments:
            self.filled += len(trades)
            self._owner.take(trades_of(sorted(trades, key=attrgetter("id"))))
