"""The strategy's side of live trading, pure: rows and the account's standings in, orders and records out.

A `Desk` scans rows as they come and decides second after second, with the kernels and the engine of the backtest. While the
account holds nothing and has no open order, a second's decision needs no word from it: its standing only ages, so a whole
pull of rows may be decided at once. Else a second is decided when the account's `Clock` of that second is there. So what is
decided does not depend on how rows and clocks arrived, and equals what `fold.Fold` decides over the same rows.

Where a second has no row of an asset, or of any, that is a hole: the engine sees the second without the asset. A standing
serves seconds of its own UTC day only, because a day begins with new groups of correlated assets.

This module knows no bus and no clock of a machine; a snapshot at any cut is invisible.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from squeezecore import squeeze
from squeezecore.account import book_of
from squeezecore.engine import RANGE_S, Engine, Entry, SecondView, view_at
from squeezecore.errors import UsageError
from squeezecore.market import DAY_S, Instrument, Rows, concat
from squeezecore.risk import TradingState
from squeezecore.spec import Costs, Limits
from squeezecore.squeeze import Features, SqueezeParams
from squeezecore.trading import Decision, Direction, Order, Signal
from squeezecore.wire import Clock, RowBatch, Standing

Ints = NDArray[np.int64]

NEVER = -1  # before any second
SIGNAL_MILLI = 3_000  # a change of direction is a signal from this score on
KEPT = ("ts", "high", "low", "close", "spot_delta", "perp_delta")  # what the engine looks at of a row
FEATURES = (
    np.int64, np.int16, np.uint32, np.int64, np.float64, np.int64, np.int64, np.int64, np.int16,
)  # fmt: skip


class Said(NamedTuple):
    """What was decided in one go: all seconds after those of the go before, up to `decided_ts`."""

    decided_ts: int
    orders: tuple[Order, ...]  # of the last of these seconds
    decisions: tuple[Decision, ...]
    state: TradingState  # the switches that these decisions knew
    kill_switch: bool


class Shown(NamedTuple):
    """An asset as it stood at its last second that was taken."""

    record: Decision | None  # what a record of that second would say; None before the first
    close: int  # price scale
    entry: Entry | None  # what was frozen when its present position was decided
    warm: bool
    rows_s: int  # contiguous rows the scan has seen, saturating at 28 h


def signal_of(decision: Decision) -> Signal | None:
    """Return what a record says to others: entries, denied entries, exits, and new directions of a score worth a record."""
    if decision.kind not in ("entry", "denied", "exit", "direction"):
        return None
    if decision.kind == "direction" and (
        decision.direction is Direction.NEUTRAL or decision.score_milli < SIGNAL_MILLI
    ):
        return None
    words = (decision.kind, decision.reason, *decision.blocked_by)
    return Signal(
        asset=decision.asset,
        ts=decision.ts,
        direction=Direction.NEUTRAL if decision.kind == "exit" else decision.direction,
        score_milli=decision.score_milli,
        reasons=tuple(dict.fromkeys(word for word in words if word)),
        params_hash=decision.params_hash,
    )


class _KeptLane(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    state: bytes
    rows: bytes
    features: list[bytes]
    cursor: int


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    """What a snapshot holds."""

    params: SqueezeParams
    swaps: list[tuple[int, SqueezeParams]]
    engine: bytes
    lanes: dict[str, _KeptLane]
    taken_ts: int
    decided_ts: int
    ordered_ts: int
    stamps: list[int]
    standing: Standing | None
    standing_ts: int
    clocks: list[Clock]


class _Lane:
    """One asset: its kernel's state, its last half hour of rows, and the features that are not decided."""

    def __init__(self, instrument: Instrument, params: SqueezeParams) -> None:
        self.name = instrument.id
        self.state = squeeze.initial(params)
        self.features = squeeze.join([])
        self.cursor = 0  # first second that is not decided
        self._table = np.zeros((len(KEPT), 4 * RANGE_S), np.int64)
        self._start = self._end = 0
        self._view()

    def take(self, params: SqueezeParams, rows: Rows) -> None:
        """Scan new rows and keep what the engine needs of them."""
        self.state, features = squeeze.scan(params, self.state, rows)
        self._append(np.array([getattr(rows, name) for name in KEPT]))
        if self.cursor == len(self.features.ts):
            self.features, self.cursor = features, 0
        else:
            self._drop()
            self.features = squeeze.join([self.features, features])

    def forget(self) -> None:
        """Take what was scanned as decided."""
        self.cursor = len(self.features.ts)
        self._drop()
        self._make_room(0)
        self._view()

    def index(self, ts: int) -> int:
        """Return the index of the first second at or after `ts`."""
        return int(self.features.ts.searchsorted(ts))

    def at(self, ts: int) -> int:
        """Return the index of the row of second `ts`."""
        return int(self.rows.ts.searchsorted(ts))

    def next_ts(self) -> int:
        """Return the first second that is not decided; −1 where there is none."""
        return int(self.features.ts[self.cursor]) if self.cursor < len(self.features.ts) else NEVER

    def keep(self) -> _KeptLane:
        """Write the lane down."""
        self._drop()
        self._make_room(0)
        self._view()
        rows = np.ascontiguousarray(self._table[:, self._start : self._end]).tobytes()
        features = [np.ascontiguousarray(column).tobytes() for column in self.features]
        return _KeptLane(squeeze.to_bytes(self.state), rows, features, self.cursor)

    def restore(self, kept: _KeptLane) -> None:
        """Take over what `keep` wrote."""
        self.state = squeeze.from_bytes(kept.state)
        columns: list[Any] = []
        for data, dtype, name in zip(kept.features, FEATURES, Features._fields, strict=True):
            column = np.frombuffer(data, dtype).copy()
            columns.append(column.reshape(-1, 3) if name in ("swings", "reset", "parts") else column)
        self.features, self.cursor = Features(*columns), kept.cursor
        self._start = self._end = 0
        self._append(np.frombuffer(kept.rows, np.int64).reshape(len(KEPT), -1))

    def _drop(self) -> None:
        """Let go of features that are decided, all but the last second's."""
        first = self.cursor - 1
        if first > 0:
            self.features, self.cursor = _from(self.features, first), 1

    def _append(self, columns: Ints) -> None:
        new = columns.shape[1]
        if self._end + new > self._table.shape[1]:
            self._make_room(new)
        self._table[:, self._end : self._end + new] = columns
        self._end += new
        self._view()

    def _make_room(self, new: int) -> None:
        """Let go of rows that no undecided second looks back to, and have room for new ones."""
        first = self.next_ts() if self.next_ts() != NEVER else 2**62
        needed = int(self._table[0, self._start : self._end].searchsorted(first)) + 1 - RANGE_S
        held = self._table[:, self._start + max(0, needed) : self._end]
        table = np.zeros((len(KEPT), max(4 * RANGE_S, 2 * (held.shape[1] + new))), np.int64)
        table[:, : held.shape[1]] = held
        self._table, self._start, self._end = table, 0, held.shape[1]

    def _view(self) -> None:
        held = self._table[:, self._start : self._end]
        zero = np.broadcast_to(np.int64(0), held.shape[1])
        columns = dict(zip(KEPT, held, strict=True))
        self.rows = Rows(*(columns.get(name, zero) for name in Rows._fields))


class Desk:
    """One account's decisions over several assets, from rows as they come. Mutable, deterministic.

    `assets` names the instrument that is traded for each asset; rows of others are not looked at.
    """

    def __init__(
        self,
        params: SqueezeParams,
        assets: Mapping[str, Instrument],
        costs: Costs,
        limits: Limits,
        account: str = "paper",
    ) -> None:
        self._assets = dict(sorted(assets.items()))
        self._given = (costs, limits, account)
        self._instruments = {instrument.id: instrument for instrument in self._assets.values()}
        self.params = params
        self._engine = Engine(params, self._assets, *self._given)
        self._lanes = {asset: _Lane(instrument, params) for asset, instrument in self._assets.items()}
        self._codes = {asset: code for code, asset in enumerate(self._assets)}
        self._swaps: list[tuple[int, SqueezeParams]] = []  # parameters that hold from a second on
        self._stamps: deque[int] = deque()  # seconds with rows that are not decided
        self._clocks: deque[Clock] = deque()  # of seconds that are not decided
        self._standing: Standing | None = None
        self._standing_ts = NEVER
        self._ordered_ts = NEVER  # the last second with an order of ours
        self.taken_ts = NEVER  # the last second whose rows were taken
        self.decided_ts = NEVER

    # --- what comes in ---

    def warm(self, asset: str, rows: Rows) -> None:
        """Scan rows of the past, ascending; nothing is decided about them."""
        if asset in self._lanes and len(rows.ts):
            self.warm_one(asset, rows)
            self.begin(int(rows.ts[-1]))

    def warm_one(self, asset: str, rows: Rows) -> None:
        """Scan the past of an asset that joins while others go on; its rows end where theirs do."""
        lane = self._lanes[asset]
        if len(rows.ts):
            lane.take(self.params, rows)
            lane.forget()

    def begin(self, ts: int) -> None:
        """Leave seconds up to `ts` undecided for good: the first to be decided comes after it."""
        self.taken_ts, self.decided_ts = max(self.taken_ts, ts), max(self.decided_ts, ts)

    def take(self, batches: Sequence[RowBatch]) -> None:
        """Take rows, a second a batch, ascending; one that is not newer than what was taken is ignored."""
        fresh = []
        for batch in batches:
            if batch.ts > self.taken_ts:
                fresh.append(batch)
                self.taken_ts = batch.ts
        while fresh:
            params, end = self._params_at(fresh[0].ts), len(fresh)
            if self._swaps:
                end = next((n for n, batch in enumerate(fresh) if self._params_at(batch.ts) is not params), end)
            self._scan(params, fresh[:end])
            self._stamps.extend(batch.ts for batch in fresh[:end])
            fresh = fresh[end:]

    def _params_at(self, ts: int) -> SqueezeParams:
        due = [params for from_ts, params in self._swaps if ts >= from_ts]
        return due[-1] if due else self.params

    def _scan(self, params: SqueezeParams, batches: Sequence[RowBatch]) -> None:
        rows = concat([batch.rows for batch in batches]) if len(batches) > 1 else batches[0].rows
        codes = np.array([self._codes.get(asset, -1) for batch in batches for asset in batch.assets], np.int64)
        for asset, code in self._codes.items():
            mine = np.flatnonzero(codes == code)
            if len(mine):
                self._lanes[asset].take(params, Rows(*(column[mine] for column in rows)))

    def hear(self, clock: Clock) -> None:
        """Take the account's word on a second; a known one changes nothing."""
        newest = self._clocks[-1].settled_ts if self._clocks else self._standing_ts
        if clock.settled_ts <= newest:
            return
        if clock.settled_ts > self.decided_ts:
            self._clocks.append(clock)
        elif self._standing is None or clock.settled_ts > self._ordered_ts:
            self._standing, self._standing_ts = clock.standing, clock.settled_ts

    def swap(self, params: SqueezeParams, from_ts: int) -> None:
        """Let other parameters hold from second `from_ts` on, which must not be taken yet."""
        if from_ts <= self.taken_ts or (self._swaps and from_ts <= self._swaps[-1][0]):
            raise UsageError(
                f"parameters were to hold from {from_ts}, rows up to {self.taken_ts} are taken: name a later second"
            )
        self._swaps.append((from_ts, params))

    # --- what goes out ---

    @property
    def engaged(self) -> bool:
        """Tell whether the next second can only be decided with the account's word on it."""
        standing = self._standing
        if standing is None or self._ordered_ts >= self._standing_ts:
            return True
        return bool(standing.holdings or standing.open_orders)

    @property
    def params_after(self) -> SqueezeParams:
        """Return the parameters that hold once all swaps that are known are done."""
        return self._swaps[-1][1] if self._swaps else self.params

    @property
    def swapped_ts(self) -> int:
        """Return the second from which the last of the known swaps holds; −1 where all are done."""
        return self._swaps[-1][0] if self._swaps else NEVER

    @property
    def waits(self) -> bool:
        """Tell whether rows were taken that cannot be decided before the account says more."""
        return bool(self._stamps)

    @property
    def standing(self) -> Standing | None:
        """Return how the account stood when it was last heard of."""
        return self._standing

    @property
    def undecided_s(self) -> int:
        """Return how many seconds with rows are not decided."""
        return len(self._stamps)

    def decide(self) -> Said | None:
        """Decide as many seconds as one standing allows; None when it needs more rows, or the account's next word."""
        if self.engaged:
            return self._decide_engaged()
        first = self._stamps[0] if self._stamps else self.taken_ts + 1
        while self._clocks and self._clocks[0].settled_ts <= first:
            self._adopt()
            if self.engaged:  # a position we know nothing of
                return self._decide_now(self._standing_ts) if self._standing_ts == first else self.decide()
        if not self._stamps:
            return None
        if first // DAY_S > self._standing_ts // DAY_S:
            return self._said((), ()) if self._advance(first - 1) else None
        return self._decide_flat(first)

    def _decide_engaged(self) -> Said | None:
        """Decide the second of the account's next word."""
        if not self._clocks or self._clocks[0].settled_ts > self.taken_ts:
            return None
        unsure = self._standing is None
        self._adopt()
        if unsure and not self.engaged:
            return self.decide()
        return self._decide_now(self._standing_ts)

    def _decide_now(self, ts: int) -> Said:
        """Decide second `ts`, whose standing is known."""
        self._switch(ts)
        decisions: list[Decision] = []
        for lane in self._lanes.values():
            while lane.next_ts() != NEVER and lane.next_ts() < ts:  # of seconds the account never spoke of
                lane.cursor += 1
        orders = self._process(ts, decisions)
        self._advance(ts)
        return self._said(orders, decisions)

    def _decide_flat(self, now: int) -> Said:
        """Decide seconds from `now` on, in which the account's standing only ages, until an order or the end."""
        self._switch(now)
        end = min(
            [self.taken_ts + 1, (now // DAY_S + 1) * DAY_S, *(clock.settled_ts for clock in list(self._clocks)[:1])]
        )
        end = min([end, *(from_ts for from_ts, _ in self._swaps[:1])])
        decisions: list[Decision] = []
        orders: tuple[Order, ...] = ()
        while now < end and not orders:
            stop = self._rest(end, decisions)
            if stop < end:
                orders = self._process(stop, decisions)
                stop += 1
            now = stop
        self._advance(now - 1)
        return self._said(orders, decisions)

    def _rest(self, end: int, decisions: list[Decision]) -> int:
        """Count and record seconds in which no asset needs more; return the first one that does, or `end`."""
        looks = {}
        stop_ts = end
        for asset, lane in self._lanes.items():
            look = self._engine.look(asset, lane.features, lane.cursor, lane.index(stop_ts), lane.rows)
            looks[asset] = look
            if look.found:
                stop_ts = int(lane.features.ts[look.stop])
        for asset, lane in self._lanes.items():
            look, last = looks[asset], lane.index(stop_ts)
            if look.stop > last:
                look = self._engine.look(asset, lane.features, lane.cursor, last, lane.rows)
            decisions += self._engine.skip(look)
            lane.cursor = look.stop
        return stop_ts

    def _process(self, ts: int, decisions: list[Decision]) -> tuple[Order, ...]:
        """Let the engine see a second of all assets that have a row of it."""
        assert self._standing is not None
        views: dict[str, SecondView] = {}
        closes: dict[str, int] = {}
        for asset, lane in self._lanes.items():
            if lane.next_ts() == ts:
                view = views[asset] = view_at(lane.features, lane.cursor, lane.rows, lane.at(ts))
                closes[lane.name] = view.close
                lane.cursor += 1
        decided = self._engine.process(ts, views, book_of(self._standing, ts, self._instruments, closes))
        decisions += decided.decisions
        if decided.orders:
            self._ordered_ts = ts
        return decided.orders

    def _adopt(self) -> None:
        clock = self._clocks.popleft()
        self._standing, self._standing_ts = clock.standing, clock.settled_ts

    def _advance(self, ts: int) -> bool:
        """Take seconds up to `ts` as decided; tell whether that is news."""
        news, self.decided_ts = ts > self.decided_ts, max(self.decided_ts, ts)
        while self._stamps and self._stamps[0] <= ts:
            self._stamps.popleft()
        return news

    def _said(self, orders: tuple[Order, ...], decisions: Sequence[Decision]) -> Said:
        assert self._standing is not None
        # engine and fold agree on this order: by second, then asset, one second's in their own
        ordered = sorted(decisions, key=lambda decision: (decision.ts, decision.asset))
        return Said(self.decided_ts, orders, tuple(ordered), self._standing.state, self._standing.kill_switch)

    def _switch(self, ts: int) -> None:
        """Let the parameters hold that are due at second `ts`."""
        while self._swaps and self._swaps[0][0] <= ts:
            _, self.params = self._swaps.pop(0)
            engine = Engine(self.params, self._assets, *self._given)
            engine.restore(self._engine.to_bytes())
            self._engine = engine

    # --- what is there ---

    def show(self, asset: str) -> Shown:
        """Return an asset as it stood at its last second that was taken."""
        lane = self._lanes[asset]
        count, state = len(lane.features.ts), lane.state
        record = self._engine.describe(asset, lane.features, count - 1) if count else None
        close = int(lane.rows.close[-1]) if len(lane.rows.ts) else 0
        return Shown(record, close, self._engine.entry_of(asset), state.warm, int(state.whole[squeeze.I_COUNT]))

    @property
    def assets(self) -> Mapping[str, Instrument]:
        """Return the traded instrument of each asset."""
        return self._assets

    @property
    def warming(self) -> tuple[str, ...]:
        """Return the assets that have not seen 28 h of rows yet."""
        return tuple(asset for asset, lane in self._lanes.items() if not lane.state.warm)

    # --- a cut in time ---

    def to_bytes(self) -> bytes:
        """Write the whole state; assets, costs and limits are given again on restoration."""
        kept = _Kept(
            self.params, self._swaps, self._engine.to_bytes(), {a: lane.keep() for a, lane in self._lanes.items()},
            self.taken_ts, self.decided_ts, self._ordered_ts, list(self._stamps), self._standing, self._standing_ts,
            list(self._clocks),
        )  # fmt: skip
        return msgspec.msgpack.encode(kept)

    def adopt(self, data: bytes) -> None:
        """Take over only what rows cannot tell: what was decided and is held; the rows are to be warmed up from anew."""
        kept = msgspec.msgpack.decode(data, type=_Kept)
        self._engine.restore(kept.engine)
        self._ordered_ts = kept.ordered_ts
        self._standing, self._standing_ts = kept.standing, kept.standing_ts

    def restore(self, data: bytes) -> None:
        """Take over what `to_bytes` wrote; assets it does not know start afresh."""
        kept = msgspec.msgpack.decode(data, type=_Kept)
        self.params, self._swaps = kept.params, kept.swaps
        self._engine = Engine(self.params, self._assets, *self._given)
        self._engine.restore(kept.engine)
        for asset, lane in self._lanes.items():
            if asset in kept.lanes:
                lane.restore(kept.lanes[asset])
        self.taken_ts, self.decided_ts, self._ordered_ts = kept.taken_ts, kept.decided_ts, kept.ordered_ts
        self._stamps, self._clocks = deque(kept.stamps), deque(kept.clocks)
        self._standing, self._standing_ts = kept.standing, kept.standing_ts


def _from(features: Features, first: int) -> Features:
    """Return the features of seconds from index `first` on, with what is in force there."""
    ts = features.ts[first:]
    columns: dict[str, Any] = {"ts": ts, "score_milli": features.score_milli[first:], "flags": features.flags[first:]}
    for stamp, name in (("swing_ts", "swings"), ("reset_ts", "reset"), ("part_ts", "parts")):
        stamps: Ints = getattr(features, stamp)
        at = int(stamps.searchsorted(ts[0], "right")) - 1
        columns[stamp] = np.concatenate([ts[:1], stamps[at + 1 :]])
        columns[name] = getattr(features, name)[at:]
    return Features(**columns)
