"""What the strategy keeps in ClickHouse, and finds there again. Every write may be repeated, and changes nothing then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from squeezecore.adapters import flowstore, tradestore
from squeezecore.adapters.accounts import PARAMS_LOG, Swap
from squeezecore.adapters.flowstore import Snapshot
from squeezecore.adapters.scanning import code_version
from squeezecore.adapters.store import Store
from squeezecore.desk import signal_of
from squeezecore.market import WARMUP_S, Rows
from squeezecore.spec import canonical
from squeezecore.trading import Decision

SERVICE = "strategy"
PRUNE_EVERY = 20  # snapshots


class Place(NamedTuple):
    """How far the streams have had their effect on a state."""

    flow_seq: int = 0
    flow_created: str | None = None
    trade_seq: int = 0
    trade_created: str | None = None


class Found(NamedTuple):
    """A snapshot."""

    place: Place
    state: bytes
    fits: bool  # this code wrote it


class Keep:
    """The tables of one account's strategy."""

    def __init__(self, store: Store, account: str, code: str = "") -> None:
        self.store, self.account = store, account
        self._code = code or code_version()
        self._snapshots = 0

    def put(self, decisions: Sequence[Decision]) -> None:
        """Store records, and the signals in them."""
        self.store.insert_decisions(tradestore.live_run(self.account), decisions)
        signals = [signal for signal in map(signal_of, decisions) if signal is not None]
        tradestore.insert_signals(self.store, self.account, signals)

    def put_snapshot(self, ts: int, place: Place, state: bytes) -> None:
        """Store how the desk stands before second `ts`."""
        body = msgspec.msgpack.encode((place, state))
        flowstore.put_snapshot(self.store, Snapshot(SERVICE, self.account, ts, place.flow_seq, self._code, body))
        self._snapshots += 1
        if self._snapshots % PRUNE_EVERY == 0:
            flowstore.prune(self.store, SERVICE, self.account)

    def put_swaps(self, swaps: Sequence[Swap]) -> None:
        """Store which parameters held from when: parity needs it, and reads no bus."""
        self.store.put_config(PARAMS_LOG, canonical(list(swaps)).decode())

    def snapshot(self) -> Found | None:
        """Return the last snapshot."""
        found = flowstore.last_snapshot(self.store, SERVICE, self.account)
        if found is None:
            return None
        place, state = msgspec.msgpack.decode(found.body, type=tuple[Place, bytes])
        return Found(place, state, found.code_version == self._code)

    def last_row(self, assets: Sequence[str], before_ts: int) -> int:
        """Return the last stored second of some assets before another, within a warm-up of it; −1 where there is none."""
        table = self.store.query(
            "SELECT toUnixTimestamp(max(ts)) AS last, count() AS n FROM rows_1s WHERE asset IN {names:Array(String)} "
            "AND ts < toDateTime({end:UInt32}, 'UTC') AND ts >= toDateTime({start:UInt32}, 'UTC')",
            {"names": list(assets), "end": before_ts, "start": max(0, before_ts - WARMUP_S)},
        )
        return int(table["last"][0].as_py()) if table["n"][0].as_py() else -1

    def warmup(self, asset: str, end_ts: int) -> Rows:
        """Return an asset's rows of the 28 hours before `end_ts`, from a whole UTC hour on."""
        return self.store.read_rows(asset, max(0, (end_ts - WARMUP_S) // 3_600 * 3_600), end_ts)
