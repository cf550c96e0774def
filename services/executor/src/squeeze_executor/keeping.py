"""What the executor keeps in ClickHouse, and finds there again. Every write may be repeated, and changes nothing then."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from squeezecore.account import Happened
from squeezecore.adapters import flowstore, tradestore
from squeezecore.adapters.accounts import Plan, plan_key
from squeezecore.adapters.flowstore import Snapshot
from squeezecore.adapters.scanning import code_version
from squeezecore.adapters.store import Store
from squeezecore.adapters.tradestore import Standing, Switched
from squeezecore.exchange import Payment
from squeezecore.spec import canonical
from squeezecore.trading import Decision, Fill, Order, OrderUpdate

SERVICE = "executor"
PRUNE_EVERY = 20  # snapshots


class Place(NamedTuple):
    """How far the streams have had their effect on a state."""

    flow_seq: int = 0
    flow_created: str | None = None
    trade_seq: int = 0
    trade_created: str | None = None
    facts_seq: int = 0
    facts_created: str | None = None
    sent: tuple[str, ...] = ()  # orders that went out and are not in the state: a restart was redoing what it had done


class Records:
    """What is to be stored next."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.updates: list[OrderUpdate] = []
        self.fills: list[Fill] = []
        self.payments: list[Payment] = []
        self.decisions: list[Decision] = []
        self.equity: dict[int, int] = {}
        self.standings: list[Standing] = []

    def add(self, happened: Happened) -> None:
        """Take what happened."""
        self.orders += happened.orders
        self.updates += happened.updates
        self.fills += happened.fills
        self.payments += happened.payments
        self.decisions += happened.decisions

    def __bool__(self) -> bool:
        return any(vars(self).values())


class Keep:
    """The tables of one account."""

    def __init__(self, store: Store, account: str) -> None:
        self.store, self.account = store, account
        self._snapshots = 0

    def put(self, records: Records) -> None:
        """Store records."""
        store, account = self.store, self.account
        tradestore.insert_orders(store, account, records.orders)
        tradestore.insert_updates(store, account, records.updates)
        tradestore.insert_fills(store, account, records.fills)
        tradestore.insert_payments(store, account, records.payments)
        tradestore.insert_equity(store, account, records.equity)
        tradestore.insert_standings(store, account, records.standings)
        if records.decisions:
            store.insert_decisions(tradestore.live_run(account), records.decisions)

    def put_snapshot(self, ts: int, place: Place, state: bytes) -> None:
        """Store where the account stands before second `ts`."""
        body = msgspec.msgpack.encode((place, state))
        flowstore.put_snapshot(self.store, Snapshot(SERVICE, self.account, ts, place.trade_seq, code_version(), body))
        self._snapshots += 1
        if self._snapshots % PRUNE_EVERY == 0:
            flowstore.prune(self.store, SERVICE, self.account)

    def snapshot(self) -> tuple[Place, bytes] | None:
        """Return the last snapshot."""
        found = flowstore.last_snapshot(self.store, SERVICE, self.account)
        return None if found is None else msgspec.msgpack.decode(found.body, type=tuple[Place, bytes])

    def put_plan(self, plan: Plan) -> None:
        """Store what the account trades with: parity needs it, and reads no bus."""
        self.store.put_config(plan_key(self.account), canonical(plan).decode())

    def put_switch(self, switched: Switched) -> None:
        """Store a change of the switches."""
        tradestore.insert_switch(self.store, switched)

    def last_switch(self) -> Switched | None:
        """Return the last change of the switches."""
        return tradestore.last_switch(self.store, self.account)

    def orders(self, start_s: int, end_s: int, limit: int) -> list[Order]:
        """Return orders that were decided in a range."""
        return tradestore.orders(self.store, self.account, start_s, end_s, limit)

    def updates(self, start_s: int, end_s: int, limit: int) -> list[OrderUpdate]:
        """Return what became of orders in a range."""
        return tradestore.updates(self.store, self.account, start_s, end_s, limit)

    def fills(self, start_s: int, end_s: int, limit: int) -> list[Fill]:
        """Return fills of a range."""
        return tradestore.fills(self.store, self.account, start_s, end_s, limit)
