"""The executor's side of paper trading, pure: rows and the desk's word in, what became of the account out.

A `Settling` lets one second after the other happen to an `Account`. Second t is settled when its rows are there and all
seconds that were settled before are decided; then its orders, once decided, are put to the limits, and those that pass go
to the exchange one by one, so that whoever drives this can write each down before it is sent. A second without rows happens
only to an account with something to lose: it is a hole, and ends that.

Funding is paid in the second of its event. Where an account holds a perpetual over a second in which funding is due by the
schedule, `awaits` names it, so that the driver can wait for the fact; one that comes later is paid with the next second.

This module knows no bus, no switch and no clock of a machine. A snapshot at any cut is invisible to whoever then gives the
rows after the settled second again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from squeezecore.account import Account, Happened
from squeezecore.exchange import FundingEvent, market_at
from squeezecore.market import DAY_S, Instrument, Kind, Rows
from squeezecore.spec import Costs, Limits
from squeezecore.trading import ExitReason, Order, OrderState, OrderUpdate, Signal
from squeezecore.wire import Clock, Decided, FundingFact, RowBatch

NEVER = -1  # before any second
HOUR_S = 3_600
MINUTE_S = 60
KNOWN_S = DAY_S  # ids of denied orders are remembered for so long


class SettledSecond(NamedTuple):
    """What a second brought to the account."""

    ts: int
    happened: Happened
    equity_usd_e8: int
    is_point: bool  # worth a point of the equity curve: a minute's last second, or one with a fill
    clock: Clock | None  # to be told to the desk; None where it can do without


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    """What a snapshot holds."""

    account: bytes
    settled_ts: int
    decided_ts: int
    judged_ts: int
    intents: dict[int, list[Order]]
    denied: dict[str, int]
    closes: dict[str, int]
    last_close: dict[str, int]
    hours: dict[str, list[int]]
    day: int
    funding: dict[int, list[tuple[str, int]]]
    schedule: dict[str, tuple[int, int]]
    told: tuple[bool, str, int]
    must_tell: bool


class Settling:
    """One account on paper, from rows as they come. Mutable, deterministic."""

    def __init__(
        self,
        assets: Mapping[str, Instrument],
        costs: Costs,
        limits: Limits,
        capital_usd_e8: int,
        account: str = "paper",
    ) -> None:
        self._assets = dict(sorted(assets.items()))
        self._name = account
        self.account = Account(self._assets, costs, limits, capital_usd_e8, 0, account=account)
        self.settled_ts = NEVER
        self.decided_ts = NEVER
        self.taken_ts = NEVER
        self._judged_ts = NEVER  # the last second whose orders were put to the limits
        self._queue: deque[RowBatch] = deque()
        self._intents: dict[int, list[Order]] = {}  # by the second they were decided at
        self._denied: dict[str, int] = {}  # id → second
        self._closes: dict[str, int] = {}  # of the settled second's rows, by instrument
        self._last_close: dict[str, int] = dict.fromkeys(self._assets, 0)
        self._hours: dict[str, list[int]] = {asset: [0] * 24 for asset in self._assets}
        self._day = NEVER
        self._funding: dict[int, list[tuple[str, int]]] = {}  # event second → (instrument, rate)
        self._schedule: dict[str, tuple[int, int]] = {}  # instrument → an event's second, the interval
        self._told: tuple[bool, str, int] = (False, "", NEVER)  # switches and second of the last clock
        self._must_tell = False

    # --- what comes in ---

    def take(self, batches: Sequence[RowBatch]) -> None:
        """Take rows, a second a batch, ascending; one that is not newer than what was taken is ignored."""
        for batch in batches:
            if batch.ts > self.taken_ts:
                self.taken_ts = batch.ts
                self._queue.append(batch)

    def hear(self, message: Order | Decided | Signal | FundingFact) -> None:
        """Take an intent, the desk's word, or funding; what is known already changes nothing."""
        if isinstance(message, Order):
            known = self.account.exchange.status(message.id) is not None or message.id in self._denied
            waiting = self._intents.get(message.decided_ts, [])
            if not known and message.id not in {order.id for order in waiting}:
                self._intents[message.decided_ts] = [*waiting, message]
        elif isinstance(message, Decided):
            self.decided_ts = max(self.decided_ts, message.ts)
        elif isinstance(message, Signal):
            self.account.params_hash = message.params_hash
        else:
            self._schedule[message.instrument] = (message.event_ts, message.interval_s)
            events = self._funding.setdefault(message.event_ts, [])
            if message.settled and message.instrument not in {name for name, _ in events}:
                events.append((message.instrument, message.rate))

    # --- orders ---

    @property
    def may_judge(self) -> bool:
        """Tell whether the settled second is decided and its orders were not put to the limits yet."""
        return self._judged_ts < self.settled_ts <= self.decided_ts

    def judge(self, sent: Collection[str] = (), until_ts: int = NEVER) -> list[Order]:
        """Put the orders of the settled second to the limits; return those that may be sent, in their order.

        An order that leaves a position ends its instrument's open orders that enter. `sent` are ids that went out before a
        restart: they pass again, and others of a second before `until_ts` were denied then.
        """
        ts, account = self.settled_ts, self.account
        late = [second for second in sorted(self._intents) if second < ts]
        self._judged_ts = ts
        orders = self._intents.pop(ts, [])
        book = account.book(ts, self._closes)
        leaving = {order.instrument for order in orders if order.reduce_only}
        for order, _ in account.exchange.open_orders():
            if order.instrument in leaving and not order.reduce_only:
                account.exchange.cancel(order.id, ts)
        passed = []
        self._must_tell |= bool(orders)
        for order in orders:
            if order.id in sent:
                account.happened.orders.append(order)
                good = True
            else:
                good = account.ask(order, book, ts)
                if good and ts < until_ts:
                    good = self._deny(order, "denied before a restart: see its first update")
            if good:
                passed.append(order)
                book = book.with_order(order)
            else:
                self._denied[order.id] = ts
        for second in late:
            for order in self._intents.pop(second):
                self._must_tell = True
                if order.reduce_only and account.ask(order, book, ts):
                    passed.append(order)
                else:
                    self._deny(order, f"was decided at second {order.decided_ts}, it is {ts}: too late to enter")
        self._denied = {name: second for name, second in self._denied.items() if second > ts - KNOWN_S}
        return passed

    def submit(self, order: Order) -> OrderUpdate:
        """Send an order that passed."""
        return self.account.submit(order, self.settled_ts)

    def _deny(self, order: Order, reason: str) -> bool:
        update = OrderUpdate(order_id=order.id, ts=self.settled_ts, state=OrderState.DENIED, reason=reason)
        self.account.happened.updates.append(update)
        self._denied[order.id] = self.settled_ts
        return False

    # --- seconds ---

    @property
    def next_ts(self) -> int:
        """Return the second that may be settled now; −1 when rows or decisions are missing."""
        if not self._queue or self.decided_ts < self.settled_ts or self.may_judge:
            return NEVER
        first = self._queue[0].ts
        return first if self.account.exchange.idle or self.settled_ts == NEVER else min(first, self.settled_ts + 1)

    @property
    def has_orders(self) -> bool:
        """Tell whether there are orders to put to the limits now."""
        return any(second <= self.settled_ts for second in self._intents)

    @property
    def rows(self) -> list[RowBatch]:
        """Return the rows that are not settled."""
        return list(self._queue)

    @property
    def assets(self) -> Mapping[str, Instrument]:
        """Return the traded instrument of each asset."""
        return self._assets

    @property
    def waiting_s(self) -> int:
        """Return how many seconds of rows are not settled."""
        return len(self._queue)

    def awaits(self, ts: int) -> tuple[str, ...]:
        """Return the instruments held whose funding is due at second `ts` and not known."""
        known = {name for name, _ in self._funding.get(ts, ())}
        due = []
        for name, position in self.account.exchange.ledger.positions.items():
            event_ts, interval_s = self._schedule.get(name, (0, 0))
            perp = self.account.instruments[name].kind is not Kind.SPOT
            if position.qty and perp and interval_s > 0 and (ts - event_ts) % interval_s == 0 and name not in known:
                due.append(name)
        return tuple(due)

    def settle(self) -> SettledSecond:
        """Let the next second (`next_ts`) happen."""
        ts, account, exchange = self.next_ts, self.account, self.account.exchange
        assert ts != NEVER, "a second was to be settled that is not decided, or without rows"
        batch = self._queue.popleft() if self._queue[0].ts == ts else None
        self._turn_day(ts)
        was_idle = exchange.idle
        places = {asset: n for n, asset in enumerate(batch.assets)} if batch is not None else {}
        if not was_idle:
            self._settle(ts, places, batch.rows if batch is not None else None)
        self._forget_funding(ts)
        if batch is not None:
            self._note_closes(ts, places, batch.rows)
        else:
            self._closes = {}
        equity = account.measure(ts)
        self.settled_ts = ts
        happened = account.take()
        clock = None
        switches = (account.kill_switch, str(account.state))
        news = not (was_idle and exchange.idle) or self._must_tell or switches != self._told[:2]
        if news or ts // MINUTE_S != self._told[2] // MINUTE_S:
            self._told, self._must_tell = (*switches, ts), False
            clock = Clock(account=self._name, settled_ts=ts, standing=account.standing())
        is_point = (ts + 1) % MINUTE_S == 0 or bool(happened.fills)
        return SettledSecond(ts, happened, equity, is_point, clock)

    def _settle(self, ts: int, places: Mapping[str, int], rows: Rows | None) -> None:
        account = self.account
        market, broken = {}, []
        for asset in account.involved():
            at = places.get(asset)
            if at is None or rows is None:
                broken.append(asset)
            else:
                market[self._assets[asset].id] = market_at(rows, at)
        account.settle(ts, market, self._funding_due(ts))
        for asset in broken:
            name = self._assets[asset].id
            account.break_off(ts, asset, name, self._last_close[asset], ExitReason.DATA_HOLE)

    def _funding_due(self, ts: int) -> list[FundingEvent]:
        """Return what is to be paid on positions that are older than the event."""
        held = self.account.exchange.ledger.positions
        return [
            FundingEvent(name, event_ts, rate)
            for event_ts in sorted(self._funding)
            for name, rate in self._funding[event_ts]
            if event_ts <= ts and name in held and held[name].opened_ts < event_ts
        ]

    def _note_closes(self, ts: int, places: Mapping[str, int], rows: Rows) -> None:
        closes = rows.close.tolist()
        self._closes = {}
        hour = ts % DAY_S // HOUR_S
        for asset, instrument in self._assets.items():
            at = places.get(asset)
            if at is not None:
                close = closes[at]
                self._closes[instrument.id] = self._last_close[asset] = self._hours[asset][hour] = close

    def _forget_funding(self, ts: int) -> None:
        """Drop what was paid, or was due while nothing was held."""
        for event_ts in [event_ts for event_ts in self._funding if event_ts <= ts]:
            del self._funding[event_ts]

    def _turn_day(self, ts: int) -> None:
        day = ts // DAY_S
        if day == self._day:
            return
        if self._day != NEVER:
            for passed in range(self._day, day):
                for asset, closes in self._hours.items():
                    self.account.end_day(asset, closes if passed == self._day else [0] * 24)
        self._hours = {asset: [0] * 24 for asset in self._assets}
        self._day = day
        self.account.begin_day()
        self._must_tell = True

    # --- a cut in time ---

    def to_bytes(self) -> bytes:
        """Write the whole state but rows that are not settled; assets, costs and limits are given again on restoration."""
        kept = _Kept(
            self.account.to_bytes(), self.settled_ts, self.decided_ts, self._judged_ts, self._intents, self._denied,
            self._closes, self._last_close, self._hours, self._day, self._funding, self._schedule, self._told, self._must_tell,
        )  # fmt: skip
        return msgspec.msgpack.encode(kept)

    def restore(self, data: bytes) -> None:
        """Take over what `to_bytes` wrote; the rows after `settled_ts` are to be taken anew. Unknown assets have no history."""
        kept = msgspec.msgpack.decode(data, type=_Kept)
        self.account.restore(kept.account)
        self.settled_ts, self.decided_ts, self._judged_ts = kept.settled_ts, kept.decided_ts, kept.judged_ts
        self.taken_ts, self._queue = kept.settled_ts, deque()
        self._intents, self._denied, self._closes = kept.intents, kept.denied, kept.closes
        self._last_close = {asset: kept.last_close.get(asset, 0) for asset in self._assets}
        self._hours = {asset: kept.hours.get(asset, [0] * 24) for asset in self._assets}
        self._day, self._funding, self._schedule = kept.day, kept.funding, kept.schedule
        self._told, self._must_tell = kept.told, kept.must_tell
