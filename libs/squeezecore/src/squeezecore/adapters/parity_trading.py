"""What an account must have decided and done on a day, worked out anew from the rows that live saw.

Both machines of live trading begin where their snapshots stood, as a rule at the day's midnight, and go on in lockstep over
the stored rows, each second in its earliest version. What they say is compared with the tables. A snapshot tells up to where
the tables hold everything, so a day that is still running can be looked at, too.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from squeezecore.adapters import comparing, flowstore, tradestore
from squeezecore.adapters.accounts import PARAMS_LOG, Plan, Swap
from squeezecore.adapters.comparing import Proof
from squeezecore.adapters.flowstore import Snapshot
from squeezecore.adapters.store import Store
from squeezecore.adapters.tradestore import Standing
from squeezecore.desk import Desk, signal_of
from squeezecore.errors import DataHoleError, UsageError
from squeezecore.exchange import Payment
from squeezecore.market import DAY_S, Instrument, Rows, concat, cut, empty
from squeezecore.risk import TradingState
from squeezecore.settling import SettledSecond, Settling
from squeezecore.squeeze import SqueezeParams
from squeezecore.trading import USD_E8, Decision, Fill, Order, OrderUpdate, Signal
from squeezecore.wire import Decided, FundingFact, RowBatch

DESK, ACCOUNT = "strategy", "executor"  # whose snapshots
HOUR_S = 3_600
KINDS = ("decisions", "signals", "orders", "updates", "fills", "payments", "equity")


class Span(NamedTuple):
    """What is worked out, and from where."""

    start_s: int
    until_s: int  # exclusive; the tables hold everything before it
    desk: Snapshot
    account: Snapshot


class Lived(NamedTuple):
    """What an account decided and did in a stretch of seconds."""

    decisions: list[Decision]
    signals: list[Signal]
    orders: list[Order]
    updates: list[OrderUpdate]
    fills: list[Fill]
    payments: list[Payment]
    equity: list[tuple[int, int]]  # second, usd_e8


# --- where it begins ---


def span_of(store: Store, account: str, day_s: int) -> Span:
    """Find the snapshots a day is worked out from, and how much of it is settled for good.

    Raises `DataHoleError` where there are none.
    """
    desks, accounts = _times(store, DESK, account), _times(store, ACCOUNT, account)
    end_s = day_s + DAY_S
    begins = [ts for ts in desks if ts <= day_s][-1:] or [ts for ts in desks if ts < end_s][:1]
    if not begins:
        raise DataHoleError(f"no snapshot of {account}'s strategy lies before the day's end: it did not run then")
    desk = _snapshot(store, DESK, account, begins[0])
    stands = [ts for ts in accounts if ts <= begins[0]]
    if not stands:
        raise DataHoleError(f"no snapshot of {account}'s executor lies before that of its strategy, second {begins[0]}")
    until_s = min(
        end_s,
        max(desks),
        max(ts if ts % DAY_S == 0 else ts - 1 for ts in accounts),  # the last second's orders may come after it
    )
    start_s = max(day_s, begins[0])
    if until_s <= start_s:
        raise DataHoleError(f"nothing of {account} is settled for good after second {start_s}: wait a minute")
    return Span(start_s, until_s, desk, _snapshot(store, ACCOUNT, account, stands[-1]))


def _times(store: Store, service: str, key: str) -> list[int]:
    table = store.query(
        "SELECT DISTINCT toUnixTimestamp(ts) AS at FROM snapshots WHERE service = {service:String} AND key = {key:String} "
        "ORDER BY at",
        {"service": service, "key": key},
    )
    return [int(at) for at in table["at"].to_pylist()]


def _snapshot(store: Store, service: str, key: str, ts: int) -> Snapshot:
    found = flowstore.last_snapshot(store, service, key, before_ts=ts + 1)
    if found is None:
        raise DataHoleError(f"the snapshot of {service} {key} at second {ts} is gone: run the same again")
    return found


def _state(snapshot: Snapshot) -> bytes:
    """Take the machine's state out of a snapshot; the place in the streams beside it means nothing here."""
    try:
        _, state = msgspec.msgpack.decode(snapshot.body, type=tuple[Any, bytes])
    except msgspec.MsgspecError as error:
        raise UsageError(
            f"snapshot of {snapshot.service} at second {snapshot.ts} was not understood ({error}): it is of another version, "
            f"{snapshot.code_version}"
        ) from error
    return state


# --- the rows live saw ---


def rows_as_seen(store: Store, asset: str, start_s: int, end_s: int) -> tuple[Rows, int]:
    """Return an asset's rows of `[start_s, end_s)`, each second as it was published, and how many were repaired since."""
    newest = store.read_rows(asset, start_s, end_s)
    older, _ = store.read_rows_superseded(asset, start_s, end_s)
    if not len(older.ts):
        return newest, 0
    seconds, first = np.unique(older.ts, return_index=True)  # ascending by second, then version
    stays = ~np.isin(newest.ts, seconds)
    both = concat([Rows(*(column[stays] for column in newest)), Rows(*(column[first] for column in older))])
    order = np.argsort(both.ts, kind="stable")
    return Rows(*(column[order] for column in both)), len(seconds)


def batches_of(rows: Mapping[str, Rows]) -> list[RowBatch]:
    """Make the messages that brought these rows: one a second, assets sorted."""
    names = sorted(rows)
    whole = concat([empty(Rows), *(rows[name] for name in names)])
    codes = np.repeat(np.arange(len(names)), [len(rows[name].ts) for name in names])
    order = np.lexsort((codes, whole.ts))
    whole, codes = Rows(*(column[order] for column in whole)), codes[order]
    borders = [0, *(np.flatnonzero(np.diff(whole.ts)) + 1).tolist(), len(codes)]
    return [
        RowBatch(int(whole.ts[a]), tuple(names[code] for code in codes[a:b]), cut(whole, a, b))
        for a, b in itertools.pairwise(borders)
        if b > a
    ]


class Seen:
    """The rows of some assets, an hour at a time."""

    def __init__(self, store: Store, assets: Sequence[str]) -> None:
        self._store, self._assets = store, assets
        self.seconds = self.repaired = 0

    def hours(self, start_s: int, until_s: int) -> Iterator[list[RowBatch]]:
        """Yield the batches of a span, and the first one after it: by that a hole at the end is seen."""
        at = start_s
        while at < until_s:
            end = min(until_s, (at // HOUR_S + 1) * HOUR_S)
            batches, repaired = self._read(at, end)
            self.seconds += len(batches)
            self.repaired += repaired
            yield batches
            at = end
        found = self._store.query(
            "SELECT toUnixTimestamp(min(ts)) AS first FROM rows_1s WHERE asset IN {names:Array(String)} "
            "AND ts >= toDateTime({until:UInt32}, 'UTC')",
            {"names": list(self._assets), "until": until_s},
        )
        after = int(found["first"][0].as_py())  # 0: none
        if after:
            yield self._read(after, after + 1)[0]

    def _read(self, start_s: int, end_s: int) -> tuple[list[RowBatch], int]:
        seen = {asset: rows_as_seen(self._store, asset, start_s, end_s) for asset in self._assets}
        return batches_of({asset: rows for asset, (rows, _) in seen.items()}), sum(n for _, n in seen.values())


# --- living it again ---


class Life:
    """Both machines of an account, and what they have said and done."""

    def __init__(self, desk: Desk, settling: Settling, until_s: int, standings: Sequence[Standing] = ()) -> None:
        self.desk, self.settling = desk, settling
        self._until_s = until_s
        self._standings = deque(sorted(standings))
        self.lived = Lived([], [], [], [], [], [], [])

    def take(self, batches: Sequence[RowBatch]) -> None:
        """Take rows and go on in lockstep as far as they reach."""
        self.desk.take(batches)
        self.settling.take(batches)
        while self._decide() or self._settle():
            pass

    def _decide(self) -> bool:
        said = self.desk.decide()
        if said is None:
            return False
        self.lived.decisions.extend(said.decisions)
        signals = [signal for signal in map(signal_of, said.decisions) if signal is not None]
        self.lived.signals.extend(signals)
        for signal in signals:
            self.settling.hear(signal)
        for order in said.orders:
            self.settling.hear(order)
        self.settling.hear(Decided(account="", ts=said.decided_ts))
        return True

    def _settle(self) -> bool:
        settling = self.settling
        if settling.may_judge:
            self._stand(settling.settled_ts, judging=True)
            for order in settling.judge():
                settling.submit(order)
            self._note(settling.account.take())
            return True
        if not 0 <= settling.next_ts < self._until_s:
            return False
        self._stand(settling.next_ts, judging=False)
        self._note_second(settling.settle())
        return True

    def _stand(self, ts: int, *, judging: bool) -> None:
        """Let the account do what it might do by then."""
        while self._standings and self._standings[0][:2] <= (ts, judging):
            standing = self._standings.popleft()
            self.settling.account.state = TradingState(standing.state)
            self.settling.account.kill_switch = standing.kill_switch

    def _note_second(self, second: SettledSecond) -> None:
        self._note(second.happened)
        if second.is_point:
            self.lived.equity.append((second.ts, second.equity_usd_e8))
        if second.clock is not None:
            self.desk.hear(second.clock)

    def _note(self, happened: Any) -> None:
        for kind in ("decisions", "orders", "updates", "fills", "payments"):
            getattr(self.lived, kind).extend(getattr(happened, kind))


def live_again(
    store: Store,
    account: str,
    plan: Plan,
    assets: Mapping[str, Instrument],
    span: Span,
    report: Callable[[int], None] = lambda _: None,
) -> tuple[Lived, Seen]:
    """Work out what an account decided and did from its snapshots on; `report` is told how many seconds are done."""
    desk = Desk(SqueezeParams(), assets, plan.costs, plan.limits, account)
    desk.restore(_state(span.desk))
    for from_ts, params in swaps(store, desk.taken_ts + 1, span.until_s):
        desk.swap(params, from_ts)
    settling = Settling(assets, plan.costs, plan.limits, plan.capital_usd * USD_E8, account)
    settling.restore(_state(span.account))
    _catch_up(store, account, desk, settling)
    for instrument in assets.values():
        _tell_funding(store, instrument, settling, span)
    life = Life(desk, settling, span.until_s, tradestore.standings(store, account, span.until_s))
    seen = Seen(store, sorted(assets))
    start_s = settling.settled_ts + 1 if settling.settled_ts >= 0 else desk.decided_ts + 1
    for batches in seen.hours(start_s, span.until_s):
        life.take(batches)
        report(seen.seconds)
    return life.lived, seen


def _catch_up(store: Store, account: str, desk: Desk, settling: Settling) -> None:
    """Tell the account what the desk had said when its snapshot was taken; the snapshot of the account is the older one."""
    settling.decided_ts = min(settling.decided_ts, settling.settled_ts)
    for order in tradestore.orders(store, account, max(0, settling.settled_ts), desk.decided_ts + 1):
        settling.hear(order)
    settling.hear(Decided(account=account, ts=desk.decided_ts))


def _tell_funding(store: Store, instrument: Instrument, settling: Settling, span: Span) -> None:
    """Tell the account the settlements it could have been part of."""
    first_s = max(settling.settled_ts + 1, span.start_s - DAY_S)
    for event_ts, known_at, rate, interval_s in zip(
        *(c.tolist() for c in store.read_funding(instrument.id, first_s, span.until_s)), strict=True
    ):
        settling.hear(
            FundingFact(
                venue=instrument.venue, feed=instrument.section, instrument=instrument.id, event_ts=event_ts,
                known_at=known_at, rate=rate, interval_s=interval_s, settled=True,
            )
        )  # fmt: skip


def swaps(store: Store, start_s: int, until_s: int) -> list[tuple[int, SqueezeParams]]:
    """Return which parameters came into force in a span, and when."""
    found = store.config(PARAMS_LOG)
    known = msgspec.json.decode(found[0], type=list[Swap]) if found is not None else []
    return [(swap.from_ts, swap.params) for swap in known if start_s <= swap.from_ts < until_s]


# --- side by side ---


def kept(store: Store, account: str, start_s: int, until_s: int) -> Lived:
    """Return what the tables say of a span."""
    whole: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    at = start_s
    while at < until_s:  # by the hour: an answer is bounded
        end = min(until_s, (at // HOUR_S + 1) * HOUR_S)
        whole["decisions"] += store.decisions(tradestore.live_run(account), None, at, end)
        for kind in KINDS[1:-1]:
            whole[kind] += getattr(tradestore, kind)(store, account, at, end)
        whole["equity"] += zip(*(c.tolist() for c in tradestore.equity(store, account, at, end)), strict=True)
        at = end
    return Lived(**whole)


def compare(stored: Lived, again: Lived, start_s: int, until_s: int) -> list[Proof]:
    """Compare each kind of record of `[start_s, until_s)`."""
    return [
        comparing.compare_records(
            kind,
            getattr(stored, kind),
            [record for record in getattr(again, kind) if start_s <= _place(record)[0] < until_s],
            _place,
        )
        for kind in KINDS
    ]


def _place(record: Any) -> tuple[int, str]:
    """Return a record's second, and what it is of."""
    if isinstance(record, tuple) and not isinstance(record, Payment):
        return record[0], "account"
    if isinstance(record, Order):
        return record.decided_ts, record.id
    if isinstance(record, OrderUpdate):
        return record.ts, f"{record.order_id} {record.state}"
    if isinstance(record, Fill):
        return record.ts, record.id
    if isinstance(record, Payment):
        return record.ts, record.instrument
    return record.ts, record.asset
