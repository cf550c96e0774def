"""The flow of all assets as one state machine: messages in, in the order of the stream; seconds, rows and repairs out.

No IO and no clock. A second of an instrument closes when its feed's watermark passes it; a second's rows are decided when
every feed has passed it, all assets' at once, so rows come in order and a dead feed holds nothing back for longer than it
takes to be called dead. Whatever is decided stays decided: a print that comes late makes a remake, which gives newer
versions beside what live saw. Freezing and thawing anywhere changes nothing, for the kernels obey the split law.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from squeeze_cvd.refilling import refill
from squeezecore import abreast as many
from squeezecore import flow
from squeezecore.market import (
    Bars,
    Block,
    Gap,
    IdKind,
    Instrument,
    Rows,
    TradeFlag,
    Trades,
    Watermark,
    concat,
    empty,
)
from squeezecore.spec import AssetConfig
from squeezecore.venues import Contiguity, venue
from squeezecore.venues import Feed as Stream
from squeezecore.wire import AssetChange, FundingFact, InterestFact, MarkFact, Message, RowBatch, TradeBatch

START_WAIT_S = 10  # rows wait so long, in exchange time, for a feed that has never spoken
DOUBT_S = 3  # ingest's grace and a second: what a new connection's first watermark may promise too early
NEW_S = 20  # the same for an instrument that is watched from now on
TRUSTED = -2  # instead of a connection's number: whatever speaks next went on speaking
CONNECTIONS_KEPT = 16  # numbers of a feed's connections that are known
TEAR_S_MAX = flow.HOLE_MEMORY_S  # after that nothing can be proved any more
ROLL_BEFORE_S = 3600  # prints may be so much older than the first watermark
NEVER_S = 1 << 40  # after every second
SECOND_NS = 1_000_000_000

Ints = NDArray[np.int64]


class Tear(NamedTuple):
    """A stretch of closed seconds that are incomplete until something is proved."""

    start_s: int
    end_s: int  # exclusive
    first_id: int  # the missing ids; -1 where only a later print's id can prove that none is missing
    last_id: int
    cause: str  # empty where a gap with ids says it


class Remake(NamedTuple):
    """Seconds of one instrument that are to be made again."""

    start_s: int
    end_s: int  # exclusive
    late: Trades  # prints that came after their seconds were closed
    proved: tuple[tuple[int, int], ...] = ()  # stretches that turned out whole
    rows_only: bool = False  # its bars came too late for the rows, and are right
    gaps: tuple[Gap, ...] = ()  # that say of the late prints


class Feed:
    """One feed's instruments, each in its slot, and how far they have come."""

    def __init__(self, place: tuple[str, str], params: Sequence[flow.BarParams]) -> None:
        self.place = place  # venue, section
        self.params = tuple(params)
        self.names = tuple(each.instrument for each in params)
        self.slots = {name: slot for slot, name in enumerate(self.names)}
        self.lanes = many.lanes(params)
        self.state = many.abreast([flow.bars_initial() for _ in params])
        self.waiting: list[tuple[Ints, Trades]] = []  # (slot, print) not yet given to the kernel
        self.closed: list[tuple[Ints, Bars]] = []  # (slot, bar) not yet in rows
        self.connections: list[int] = []
        self.closed_s = -1
        self.mark_ns = -1
        self.alive = True
        self.doubt_s = -1
        self.tears: dict[str, list[Tear]] = {}

    def doubts(self) -> Ints:
        """Return for each instrument the second before which only ids prove anything.

        Its first print's second is in doubt whatever the connection: a print before it may be missing. So is all before
        that where bars are stored and none of their ids is of the kind that comes.
        """
        low_s, closed_s = self.state.ends[:, 1], self.state.ends[:, 4]
        begins = np.where(low_s >= closed_s, low_s + 1, -1)
        return np.maximum(self.doubt_s, np.where(self.lanes.contiguous & (low_s < 0), NEVER_S, begins))

    def begin_anew(self, watermark_s: int) -> None:
        """Let no second close of the time before an instrument's first print where that is longer than the longest hole."""
        low_s, closed_s, close = self.state.ends[:, 1], self.state.ends[:, 4], self.state.ends[:, 6]
        anew = self.lanes.contiguous & (close >= 0) & ((low_s < 0) | (low_s >= closed_s))
        if anew.any():
            longest_s = np.array([each.hole_s_max for each in self.params], np.int64)
            anew &= np.where(low_s < 0, watermark_s, low_s) - closed_s > longest_s
            ends = self.state.ends.copy()
            ends[anew, 6] = -1
            self.state = self.state._replace(ends=ends)

    def regrouped(self, params: Sequence[flow.BarParams]) -> Feed:
        """Return this feed with other instruments; those that stay keep their state."""
        made = Feed(self.place, params)
        states = {name: many.state_of(self.state, slot) for name, slot in self.slots.items()}
        made.state = many.abreast([states.get(name, flow.bars_initial()) for name in made.names])
        moved = np.array([made.slots.get(name, -1) for name in self.names], np.int64)
        made.waiting = [
            (moved[slots][moved[slots] >= 0], pick(block, moved[slots] >= 0)) for slots, block in self.waiting
        ]
        for slots, bars in self.closed:
            stays = moved[slots] >= 0
            order = np.argsort(moved[slots][stays], kind="stable")
            made.closed.append((moved[slots][stays][order], pick(pick(bars, stays), order)))
        made.tears = {name: tears for name, tears in self.tears.items() if name in made.slots}
        for name in ("connections", "closed_s", "mark_ns", "alive", "doubt_s"):
            setattr(made, name, getattr(self, name))
        if set(made.names) - set(self.names) and self.closed_s >= 0:  # when they are subscribed, ingest knows
            made.doubt_s = max(made.doubt_s, self.closed_s + NEW_S)
        return made


class Facts:
    """What became known of one instrument, ascending by `known_at`: the last that rows have used, and what they will."""

    def __init__(self) -> None:
        self.interest: list[tuple[int, int, int]] = []  # known_at, value, interval_s
        self.funding: list[tuple[int, int, int]] = []
        self.marks: list[tuple[int, int, int]] = []
        self.interest_event = self.funding_event = self.mark_known = -1  # the newest taken

    def prune(self, decided_s: int) -> None:
        """Forget what no later row can use."""
        self.interest = _pruned(self.interest, decided_s)
        self.funding = _pruned(self.funding, decided_s)
        self.marks = _pruned(self.marks, decided_s)


def _pruned(facts: list[tuple[int, int, int]], decided_s: int) -> list[tuple[int, int, int]]:
    if len(facts) < 2 or facts[1][0] >= decided_s:
        return facts
    return facts[sum(1 for fact in facts if fact[0] < decided_s) - 1 :]


class Effects:
    """What the state machine wants done; the loop does it, acknowledges, and never the other way round."""

    def __init__(self) -> None:
        self.rows: list[RowBatch] = []  # ascending by second
        self.stored: list[tuple[tuple[str, ...], Ints, Rows]] = []  # assets, the asset of each row, the same rows
        self.bars: list[tuple[tuple[str, ...], Ints, Bars]] = []  # instruments, the instrument of each bar, the bars
        self.gaps: list[Gap] = []
        self.interest: dict[str, list[tuple[int, int, int, int]]] = {}  # event_ts, known_at, open_interest, interval_s
        self.funding: dict[str, list[tuple[int, int, int, int]]] = {}  # event_ts, known_at, rate, interval_s
        self.marks: dict[str, list[tuple[int, int]]] = {}  # known_at, mark
        self.roll: tuple[int, int] | None = None  # whole minutes whose bars are closed in every feed

    def __bool__(self) -> bool:
        return any(vars(self).values())


def joined(parts: Iterable[Effects]) -> Effects:
    """Put effects together, in their order."""
    made = Effects()
    for part in parts:
        made.rows += part.rows
        made.stored += part.stored
        made.bars += part.bars
        made.gaps += part.gaps
        for mine, more in ((made.interest, part.interest), (made.funding, part.funding)):
            for name, facts in more.items():
                mine[name] = mine.get(name, []) + facts
        for name, marks in part.marks.items():
            made.marks[name] = made.marks.get(name, []) + marks
        if part.roll is not None:
            made.roll = part.roll if made.roll is None else (made.roll[0], part.roll[1])
    return made


class Asset(NamedTuple):
    """An asset as its rows follow it now."""

    config: AssetConfig
    params: flow.RowParams


class Flow:
    """All feeds, all assets, one position in the stream."""

    def __init__(self, stream: Stream = Stream.AGGREGATE) -> None:
        self.stream = stream  # which prints a feed brings
        self.feeds: dict[tuple[str, str], Feed] = {}
        self.instruments: dict[str, Instrument] = {}
        self.assets: dict[str, Asset] = {}  # sorted by name
        self.schedule: list[AssetChange] = []  # known, not yet in effect; by from_ts, then asset
        self.changes: list[AssetChange] = []  # in effect, as far back as repairs may reach
        self.decided_s = -1  # rows before this second are decided; -1: none yet
        self.first_s = -1  # the first watermark of all
        self.frontier_s = -1  # seconds before this one are closed in all feeds, and wait for `decide`
        self.hold_s = -1  # no row from this second on is decided; -1: no such second
        self.rolled_s = -1  # minutes before this second are rolled up
        self.facts: dict[str, Facts] = {}
        self.remakes: dict[str, Remake] = {}
        self.seq = 0
        self.counts = dict.fromkeys(("trades", "strange", "foreign", "late", "bars", "rows", "incomplete"), 0)
        self._rows: many.RowsAbreast | None = None
        self._row_lanes: many.RowLanes | None = None
        self._bases: dict[tuple[str, str], int] = {}
        self._effects = Effects()

    # -- configuration -------------------------------------------------------------------------------------------------

    def plan(self, assets: Mapping[str, AssetConfig], from_ts: int = -1) -> list[AssetChange]:
        """Say which changes make the assets these, from a given minute or else from the next whole one that is open.

        Before the first row that is the beginning. They take effect by `change`, once they are safe in the store.
        """
        expected = {name: asset.config for name, asset in self.assets.items()}
        for change in self.schedule:
            expected[change.asset] = change.config  # type: ignore[assignment]
        now_s = max(self.decided_s, self.frontier_s)
        if from_ts < 0:
            from_ts = 0 if now_s < 0 else (now_s // 60 + 1) * 60
        return [
            AssetChange(asset=name, from_ts=from_ts, config=assets.get(name))
            for name in sorted({*assets, *expected})
            if assets.get(name) != expected.get(name)
        ]

    def change(self, changes: Iterable[AssetChange], instruments: Mapping[str, Instrument]) -> None:
        """Take changes into the schedule; those that lie behind what is decided are in effect at once.

        Raises:
            UsageError: an instrument that is not among `instruments`, or whose quote has no USD rate.
        """
        known = self.instruments | dict(instruments)
        news = [change for change in changes if change not in self.schedule and change not in self.changes]
        for change in news:
            if change.config is not None:
                flow.row_params(change.config, known)
        self.instruments = known
        self.schedule = sorted([*self.schedule, *news], key=lambda change: (change.from_ts, change.asset))
        self._regroup(self.row_states())
        self._apply(self.decided_s)

    def _apply(self, ts: int) -> None:
        """Put into effect what is due at a second."""
        due = [change for change in self.schedule if change.from_ts <= max(ts, 0)]
        if not due:
            return
        self.schedule = self.schedule[len(due) :]
        self.changes += due
        states = self.row_states()
        for change in due:
            before = self.assets.pop(change.asset, None)
            if change.config is None:
                continue
            params = flow.row_params(change.config, self.instruments)
            if before is not None:
                states[change.asset] = _carried(before.params, params, states[change.asset])
            else:
                states[change.asset] = flow.rows_initial(params)
            self.assets[change.asset] = Asset(change.config, params)
        self.assets = dict(sorted(self.assets.items()))
        self._regroup(states)

    def _regroup(self, states: Mapping[str, flow.RowState]) -> None:
        """Give every instrument that some asset needs, or will, its slot."""
        configs = [asset.config for asset in self.assets.values()]
        configs += [change.config for change in self.schedule if change.config is not None]
        names = {name for config in configs for name in names_of(config)}
        places: dict[tuple[str, str], list[str]] = {}
        for name in sorted(names):
            instrument = self.instruments[name]
            places.setdefault((instrument.venue, instrument.section), []).append(name)
        feeds = {}
        for place in sorted(places):
            params = [self.params_of(name) for name in places[place]]
            old = self.feeds.get(place)
            feeds[place] = Feed(place, params) if old is None else old
            if old is not None and old.names != tuple(places[place]):
                feeds[place] = old.regrouped(params)
        self.feeds = feeds
        self.facts = {name: self.facts.get(name, Facts()) for name in sorted(names)}
        self.remakes = {name: remake for name, remake in self.remakes.items() if name in names}
        self.set_rows(states)

    def params_of(self, name: str) -> flow.BarParams:
        """Return what is fixed of an instrument."""
        instrument = self.instruments[name]
        contiguity = venue(instrument.venue).SECTIONS[instrument.section].contiguity.get(self.stream)
        kind = IdKind.TRADE if self.stream is Stream.TRADE else IdKind.AGGREGATE
        return flow.bar_params(instrument, kind, contiguity is Contiguity.CONTIGUOUS)

    def row_states(self) -> dict[str, flow.RowState]:
        """Return what the rows of each asset know."""
        if self._rows is None or self._row_lanes is None:
            return {}
        lanes, rows = self._row_lanes, self._rows
        return {name: many.row_state_of(lanes, rows, a) for a, name in enumerate(self.assets)}

    def set_rows(self, states: Mapping[str, flow.RowState]) -> None:
        """Put the states of all assets side by side, over the slots as they are now."""
        self._bases, base = {}, 0
        for place, feed in self.feeds.items():
            self._bases[place] = base
            base += len(feed.names)
        slots = {
            name: self._bases[place] + slot for place, feed in self.feeds.items() for name, slot in feed.slots.items()
        }
        self._row_lanes = many.row_lanes([asset.params for asset in self.assets.values()], slots)
        self._rows = many.rows_abreast([states[name] for name in self.assets])

    # -- messages in ---------------------------------------------------------------------------------------------------

    def take(self, message: Message, seq: int) -> None:
        """Take the next message of the stream; one that was taken before changes nothing."""
        if seq <= self.seq:
            return
        self.seq = seq
        if isinstance(message, TradeBatch):
            self._take_trades(message)
        elif isinstance(message, Watermark):
            self._take_mark(message)
        elif isinstance(message, InterestFact | FundingFact | MarkFact):
            self._take_fact(message)

    def _take_trades(self, batch: TradeBatch) -> None:
        feed = self.feeds.get((batch.venue, batch.feed))
        if feed is None:
            self.counts["strange"] += 1
            return
        slots = [feed.slots.get(name, -1) for name in batch.instruments]
        counts = [len(block.id) for block in batch.trades]
        index = np.repeat(np.array(slots, np.int64), counts)
        block = _joined(batch.trades)
        if -1 in slots:
            self.counts["strange"] += slots.count(-1)
            index, block = index[index >= 0], pick(block, index >= 0)
        own = self.counts_in(block)
        if not own.all():  # another setting's: without them a second is not whole, unless ours are there and prove it
            self.counts["foreign"] += len(own) - int(own.sum())
            feed.doubt_s = max(feed.doubt_s, int(block.exchange_ns[~own].max()) // SECOND_NS + 1 + DOUBT_S)
            index, block = index[own], pick(block, own)
        if len(index):
            self.counts["trades"] += len(index)
            feed.waiting.append((index, block))

    def counts_in(self, trades: Trades) -> NDArray[np.bool_]:
        """Say which prints are of the kind that is counted: single trades, or aggregates; either's ids say nothing of the other's."""
        single: NDArray[np.bool_] = (trades.flags & np.uint8(TradeFlag.SINGLE)) != 0
        return single if self.stream is Stream.TRADE else ~single

    def _take_mark(self, mark: Watermark) -> None:
        feed = self.feeds.get((mark.venue, mark.feed))
        if feed is None:
            return
        watermark_s = mark.exchange_ns // SECOND_NS
        feed.mark_ns = max(feed.mark_ns, mark.exchange_ns)
        if mark.connection not in feed.connections:
            if feed.connections != [TRUSTED]:
                feed.doubt_s = max(feed.doubt_s, watermark_s + DOUBT_S)
            feed.connections = [*feed.connections, mark.connection][-CONNECTIONS_KEPT:]
        if watermark_s > feed.closed_s:
            self._close(feed, watermark_s, alive=mark.alive)
            self._advance()
        elif not mark.alive and feed.alive:
            self._scan(feed, watermark_s, alive=False)
        feed.alive = mark.alive

    def _advance(self) -> None:
        """See how far every feed has come; one that has never spoken is waited for a while."""
        spoken = [feed.closed_s for feed in self.feeds.values() if feed.closed_s >= 0]
        if self.first_s < 0:
            self.first_s = min(spoken)
        if self.frontier_s < 0 and len(spoken) < len(self.feeds) and max(spoken) - self.first_s < START_WAIT_S:
            return
        self.frontier_s = max(self.frontier_s, min(spoken))

    def _take_fact(self, fact: InterestFact | FundingFact | MarkFact) -> None:
        """Keep a fact from the moment it may be used: never before the first second that is not closed."""
        book = self.facts.get(fact.instrument)
        if book is None:
            return
        known_at = max(fact.known_at, self.frontier_s, 0)
        if isinstance(fact, MarkFact):
            if fact.known_at < book.mark_known or fact.mark <= 0:
                return
            book.mark_known = fact.known_at
            book.marks = [*(kept for kept in book.marks if kept[0] != known_at), (known_at, fact.mark, 0)]
            book.marks.sort()
            self._effects.marks.setdefault(fact.instrument, []).append((known_at, fact.mark))
        elif isinstance(fact, InterestFact):
            if fact.event_ts <= book.interest_event or fact.open_interest <= 0:
                return
            book.interest_event = fact.event_ts
            known_at = max([known_at, *(kept[0] for kept in book.interest[-1:])])
            book.interest.append((known_at, fact.open_interest, fact.interval_s))
            self._effects.interest.setdefault(fact.instrument, []).append(
                (fact.event_ts, known_at, fact.open_interest, fact.interval_s)
            )
        elif fact.settled and fact.event_ts > book.funding_event:  # a prediction is nothing that was paid
            book.funding_event = fact.event_ts
            known_at = max([known_at, *(kept[0] for kept in book.funding[-1:])])
            book.funding.append((known_at, fact.rate, fact.interval_s))
            self._effects.funding.setdefault(fact.instrument, []).append(
                (fact.event_ts, known_at, fact.rate, fact.interval_s)
            )

    # -- seconds -------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Give the kernel what waits, so that the state is all there is."""
        for feed in self.feeds.values():
            if feed.waiting:
                self._scan(feed, max(feed.closed_s, 0), alive=True)
                for name in list(feed.tears):
                    self._prove(feed, name)

    def _close(self, feed: Feed, watermark_s: int, *, alive: bool) -> None:
        if feed.waiting and bool((feed.lanes.contiguous & (feed.state.ends[:, 0] < 0)).any()):
            self._scan(feed, max(feed.closed_s, 0), alive=True)  # so that it is known where an instrument begins
        feed.begin_anew(watermark_s)
        dead = bool(feed.state.ends[:, 7].any()) or not alive
        slots, bars, gaps = self._scan(feed, watermark_s, alive=alive)
        feed.closed_s = watermark_s
        if len(bars.ts):
            feed.closed.append((slots, bars))
            self._effects.bars.append((feed.names, slots, bars))
            self.counts["bars"] += len(bars.ts)
            self.counts["incomplete"] += len(bars.ts) - int(bars.complete.sum())
        if feed.tears or gaps or not bars.complete.all():
            self._mend(feed, slots, bars, gaps, dead=dead)

    def _scan(self, feed: Feed, watermark_s: int, *, alive: bool) -> tuple[Ints, Bars, list[Gap]]:
        """Run the kernel over what waits; what came late is put aside for a remake."""
        slots = np.concatenate([np.empty(0, np.int64), *(slots for slots, _ in feed.waiting)])
        trades = concat([empty(Trades), *(block for _, block in feed.waiting)])
        feed.waiting = []
        if not len(feed.names):
            return slots, empty(Bars), []
        feed.state, bar_slots, bars, gaps = many.scan_abreast(
            feed.lanes, feed.state, slots, trades, watermark_s, alive, feed.doubts()
        )
        kept = []
        for gap in gaps:
            if gap.cause != "late":
                kept.append(gap)
                continue
            at = (slots == feed.slots[gap.instrument]) & (trades.exchange_ns // SECOND_NS == gap.start_s)
            late = pick(trades, at & (trades.id >= gap.first_id) & (trades.id <= gap.last_id))
            self.counts["late"] += len(late.id)
            self._effects.gaps.append(gap)
            self._remake(gap.instrument, Remake(gap.start_s, gap.start_s + 1, late, gaps=(gap,)))
        return bar_slots, bars, kept

    def _mend(self, feed: Feed, slots: Ints, bars: Bars, gaps: list[Gap], *, dead: bool) -> None:
        """Keep account of what is incomplete, and see what has been proved since."""
        for gap in gaps:
            if gap.cause == "ids missing":
                tears = feed.tears.setdefault(gap.instrument, [])
                tears.append(Tear(gap.start_s, gap.end_s + 1, gap.first_id, gap.last_id, gap.cause))
                self._effects.gaps.append(gap)
        for at in np.flatnonzero(bars.complete == 0).tolist():
            name, ts = feed.names[slots[at]], int(bars.ts[at])
            low_s, covered_s = int(feed.state.ends[slots[at], 1]), int(feed.state.ends[slots[at], 5])
            if ts < covered_s or ts <= low_s or (low_s < 0 and feed.params[slots[at]].contiguous):
                continue  # not covered, or not after the first print: nothing will ever prove it
            cause = "feed not alive" if dead else "connection new" if ts < feed.doubt_s else ""
            tears = feed.tears.setdefault(name, [])
            last = tears[-1] if tears else None
            if last is not None and last.cause == cause and last.first_id < 0 and last.end_s == ts:
                tears[-1] = last._replace(end_s=ts + 1)
            else:
                tears.append(Tear(ts, ts + 1, -1, -1, cause))
        for name in list(feed.tears):
            self._prove(feed, name)

    def _prove(self, feed: Feed, name: str) -> None:
        """Turn tears that are closed into remakes, and let go of those that nothing can close any more."""
        slot = feed.slots[name]
        holes = many.state_of(feed.state, slot).holes
        high_s = int(feed.state.ends[slot, 3]) if feed.params[slot].contiguous else -1
        left = []
        for tear in feed.tears[name]:
            gaps = [_gap_of(name, tear)] if tear.cause else []
            if tear.end_s < feed.closed_s - TEAR_S_MAX:
                self._effects.gaps += gaps
                continue
            if tear.first_id >= 0:
                proved = not bool(((holes.first_id <= tear.last_id) & (holes.last_id >= tear.first_id)).any())
            else:
                low_s, end_s = np.minimum(holes.before_s, holes.after_s), np.maximum(holes.before_s, holes.after_s)
                proved = not bool(((low_s < tear.end_s) & (end_s >= tear.start_s)).any())
                proved = proved and (not tear.cause or high_s >= tear.end_s)
            if not proved:
                left.append(tear)
                continue
            self._effects.gaps += [msgspec.structs.replace(gap, state="filled") for gap in gaps]
            self._remake(name, Remake(tear.start_s, tear.end_s, empty(Trades), ((tear.start_s, tear.end_s),)))
        if left:
            feed.tears[name] = left
        else:
            del feed.tears[name]

    def _remake(self, name: str, more: Remake) -> None:
        """Have seconds made again, together with those that wait already."""
        old = self.remakes.get(name)
        self.remakes[name] = (
            more
            if old is None
            else Remake(
                min(old.start_s, more.start_s),
                max(old.end_s, more.end_s),
                concat([old.late, more.late]),
                (*old.proved, *more.proved),
                old.rows_only and more.rows_only,
                (*old.gaps, *more.gaps),
            )
        )

    # -- rows ----------------------------------------------------------------------------------------------------------

    def decide(self) -> None:
        """Make the rows of all seconds that every feed has passed, each configuration's apart; none from `hold_s` on."""
        goal_s = self.frontier_s if self.hold_s < 0 else min(self.frontier_s, self.hold_s)
        while self.decided_s < goal_s:
            self._apply(self.decided_s)
            until_s = min([goal_s, *(change.from_ts for change in self.schedule[:1])])
            if until_s <= self.decided_s:
                break
            self._decide_until(until_s)
            self.decided_s = until_s
            minute_s = until_s // 60 * 60
            if minute_s > self.rolled_s:
                start_s = self.rolled_s if self.rolled_s >= 0 else self.first_s // 60 * 60 - ROLL_BEFORE_S
                self._effects.roll = (self._effects.roll or (start_s, 0))[0], minute_s
                self.rolled_s = minute_s
        self._apply(self.decided_s)

    def _decide_until(self, until_s: int) -> None:
        if not self.assets or self._rows is None or self._row_lanes is None:
            return
        slots, bars = self._closed_before(until_s)
        count = sum(len(feed.names) for feed in self.feeds.values())
        bar_at = np.searchsorted(slots, np.arange(count + 1)).astype(np.int64)
        books = [self.facts[asset.config.traded] for asset in self.assets.values()]
        self._rows, row_at, rows = many.scan_rows_abreast(
            self._row_lanes,
            self._rows,
            bars,
            bar_at,
            many.known([book.interest for book in books]),
            many.known([book.funding for book in books]),
            many.known([book.marks for book in books]),
        )
        for book in self.facts.values():
            if len(book.marks) > 1 or len(book.interest) > 1 or len(book.funding) > 1:
                book.prune(until_s)
        if not len(rows.ts):
            return
        names = tuple(self.assets)
        index = np.repeat(np.arange(len(names)), np.diff(row_at))
        self._effects.stored.append((names, index, rows))
        self._effects.rows += batches_of(names, index, rows)
        self.counts["rows"] += len(rows.ts)

    def _closed_before(self, until_s: int) -> tuple[Ints, Bars]:
        """Take the bars before a second out of the feeds, by slot over all of them; those behind the rows become remakes."""
        all_slots, all_bars = [np.empty(0, np.int64)], [empty(Bars)]
        for place, feed in self.feeds.items():
            left = []
            for slots, bars in feed.closed:
                low, high = int(bars.ts.min()), int(bars.ts.max())
                if low >= until_s:
                    left.append((slots, bars))
                    continue
                now_slots, now = slots, bars
                if high >= until_s:
                    later = bars.ts >= until_s
                    left.append((slots[later], pick(bars, later)))
                    now_slots, now = slots[~later], pick(bars, ~later)
                if low < self.decided_s:
                    behind = now.ts < self.decided_s
                    for slot in np.unique(now_slots[behind]).tolist():
                        ts = now.ts[behind & (now_slots == slot)]
                        again = Remake(int(ts[0]), int(ts[-1]) + 1, empty(Trades), rows_only=True)
                        self._remake(feed.names[slot], again)
                    now_slots, now = now_slots[~behind], pick(now, ~behind)
                all_slots.append(now_slots + self._bases[place])
                all_bars.append(now)
            feed.closed = left
        slots, joined = np.concatenate(all_slots), concat(all_bars)
        if bool((slots[1:] < slots[:-1]).any()):
            order = np.argsort(slots, kind="stable")
            slots, joined = slots[order], pick(joined, order)
        return slots, joined

    def effects(self) -> Effects:
        """Hand over what is to be done, and begin anew."""
        made, self._effects = self._effects, Effects()
        return made

    # -- remakes -------------------------------------------------------------------------------------------------------

    def due(self) -> list[str]:
        """Return the instruments with remakes whose seconds' rows are all decided."""
        return [name for name, remake in self.remakes.items() if remake.end_s <= self.decided_s]

    def remade(self, name: str, older: Bars, prints: Trades, *, forced: bool = False) -> Bars | None:
        """Make an instrument's seconds again.

        Args:
            name: the instrument's.
            older: what is stored from the second before the remake on, up to what is closed.
            prints: all that is kept of `[start_s, end_s)`; the late ones may be among them or not.
            forced: do with what there is, a print that is missing is not waited for.

        Returns:
            The seconds that differ, as newer versions; None while prints are missing that must be there.
        """
        place = next(place for place, feed in self.feeds.items() if name in feed.slots)
        feed, remake = self.feeds[place], self.remakes[name]
        slot = feed.slots[name]
        params = feed.params[slot]
        state = many.state_of(feed.state, slot)
        new = pick(older, np.arange(len(older.ts)))
        if len(remake.late.id):
            if not refill(params, new, remake.late, prints, forced=forced):
                return None
            self._correct(feed, slot, older, new)
        first_s = max(state.covered_s, state.low_s + 1)  # beside the first print another may have been before it
        for start_s, end_s in remake.proved:
            new.complete[(new.ts >= max(start_s, first_s)) & (new.ts < end_s)] = 1
        for tear in feed.tears.get(name, []):
            torn = (new.ts >= tear.start_s) & (new.ts < tear.end_s) & (older.complete == 0)
            new.complete[torn] = 0
        for before_s, after_s in zip(state.holes.before_s, state.holes.after_s, strict=True):
            torn = (new.ts >= min(before_s, after_s)) & (new.ts <= max(before_s, after_s)) & (older.complete == 0)
            new.complete[torn] = 0
        changed = np.zeros(len(new.ts), np.bool_)
        for column, other in zip(new[:-1], older[:-1], strict=True):
            changed |= column != other
        repairs = (older.version & np.uint64(0xFFFFFFFF)) + np.uint64(1)
        new.version[changed] = (new.complete.astype(np.uint64) << np.uint64(32) | repairs)[changed]
        return pick(new, changed)

    def _correct(self, feed: Feed, slot: int, older: Bars, new: Bars) -> None:
        """Let coming seconds repeat the price that turned out to be the last one; what they were is not rewound."""
        if not len(new.ts) or int(new.close[-1]) == int(older.close[-1]):
            return
        if int(new.ts[-1]) + 1 == feed.state.ends[slot, 4] and feed.state.ends[slot, 6] == int(older.close[-1]):
            ends = feed.state.ends.copy()
            ends[slot, 6] = int(new.close[-1])
            feed.state = feed.state._replace(ends=ends)
            if feed.closed_s > self.decided_s:  # these bars wait for their rows with the price before
                again = Remake(self.decided_s, feed.closed_s, empty(Trades), rows_only=True)
                self._remake(feed.names[slot], again)

    def forget(self, name: str, done: Remake) -> None:
        """Let go of a remake that has had all its effects, and say that its late prints are in."""
        if self.remakes.get(name) is done:
            del self.remakes[name]
        self._effects.gaps += [msgspec.structs.replace(gap, state="filled") for gap in done.gaps]

    def config_at(self, asset: str, ts: int) -> AssetConfig | None:
        """Return the configuration that an asset's row of a second follows."""
        found = None
        for change in self.changes:
            if change.asset == asset and change.from_ts <= ts:
                found = change.config
        return found

    def configs_between(self, asset: str, start_s: int, end_s: int) -> list[tuple[int, int, AssetConfig]]:
        """Cut a stretch of seconds by the configuration that an asset's rows follow."""
        borders = {
            change.from_ts for change in self.changes if change.asset == asset and start_s < change.from_ts < end_s
        }
        cuts = [start_s, *sorted(borders), end_s]
        pieces = ((low, high, self.config_at(asset, low)) for low, high in pairwise(cuts))
        return [(low, high, config) for low, high, config in pieces if config is not None and low < high]

    def closed_s(self, name: str) -> int:
        """Return the second before which an instrument's are closed."""
        return next(feed.closed_s for feed in self.feeds.values() if name in feed.slots)

    def waits_for(self, stale_s: int) -> list[str]:
        """Return the feeds without which no row is decided while others have gone on: `venue/feed`, sorted."""
        newest = max((feed.closed_s for feed in self.feeds.values()), default=-1)
        return ["/".join(place) for place, feed in self.feeds.items() if 0 <= feed.closed_s < newest - stale_s]

    def assets_with(self, name: str) -> list[str]:
        """Return the assets that an instrument is or was part of."""
        return sorted(
            {change.asset for change in self.changes if change.config is not None and name in names_of(change.config)}
        )


def names_of(config: AssetConfig) -> set[str]:
    """Return the instruments of an asset."""
    return {config.traded, *(market.instrument for market in config.markets)}


def batches_of(names: Sequence[str], index: Ints, rows: Rows) -> list[RowBatch]:
    """Cut rows by asset and second into one batch a second, assets sorted."""
    if bool((rows.ts == rows.ts[0]).all()):
        return [RowBatch(int(rows.ts[0]), tuple(names[a] for a in index.tolist()), rows)]
    order = np.argsort(rows.ts, kind="stable")
    rows, index = pick(rows, order), index[order]
    borders = np.flatnonzero(np.diff(rows.ts)) + 1
    made = []
    for start, end in zip([0, *borders.tolist()], [*borders.tolist(), len(rows.ts)], strict=True):
        part = Rows(*(column[start:end] for column in rows))
        made.append(RowBatch(int(part.ts[0]), tuple(names[a] for a in index[start:end].tolist()), part))
    return made


def _gap_of(name: str, tear: Tear) -> Gap:
    missing = tear.last_id - tear.first_id + 1 if tear.first_id >= 0 else 0
    return Gap(
        instrument=name, start_s=tear.start_s, end_s=tear.end_s - 1, first_id=tear.first_id, last_id=tear.last_id,
        missing=missing, cause=tear.cause,
    )  # fmt: skip


def _carried(old: flow.RowParams, new: flow.RowParams, state: flow.RowState) -> flow.RowState:
    """Take what the rows know into another configuration: spot closes by market; facts if the traded one is the same."""
    made = flow.rows_initial(new)
    for k, name in enumerate(new.instruments):
        if name in old.instruments:
            at = old.instruments.index(name)
            made.spot_close[k], made.spot_close_s[k] = state.spot_close[at], state.spot_close_s[at]
    if old.instruments[old.traded] != new.instruments[new.traded]:
        return made
    kept = state._asdict() | {"spot_close": made.spot_close, "spot_close_s": made.spot_close_s}
    if (old.basis_perp < 0) != (new.basis_perp < 0) or (
        old.basis_perp >= 0 and old.instruments[old.basis_perp] != new.instruments[new.basis_perp]
    ):
        kept["perp_close"] = -1
    return flow.RowState(**kept)


def _joined(blocks: Sequence[Trades]) -> Trades:
    """Put blocks one after the other; those of one message lie so already (`wire.decode`), and need no copy."""
    whole = _bases(blocks[0]) if blocks else []
    count = sum(len(block.id) for block in blocks)
    if not whole or not all(isinstance(base, np.ndarray) and base.shape == (count,) for base in whole):
        return concat([empty(Trades), *blocks])
    place = _address(whole[0])
    for block in blocks:
        if _address(block.id) != place or any(a is not b for a, b in zip(_bases(block), whole, strict=True)):
            return concat([empty(Trades), *blocks])
        place += block.id.nbytes
    return Trades(*whole)


def _bases(columns: tuple[Any, ...]) -> list[Any]:
    return [column.base for column in columns]


def _address(column: Any) -> int:
    return int(column.__array_interface__["data"][0])


def pick(block: Block, index: NDArray[Any]) -> Block:
    """Return some of a block's entries."""
    return type(block)(*(column[index] for column in block))
