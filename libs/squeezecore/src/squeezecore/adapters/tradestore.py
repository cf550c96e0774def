"""What live trading keeps in ClickHouse: signals, orders and what became of them, fills, funding, equity, switches.

Each record has a key of its own content, so the same may be written again, and a restart does. `live_run` names an account
among backtests' runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from squeezecore.adapters.store import TS_MAX, Store
from squeezecore.adapters.tables import TABLES
from squeezecore.exchange import Payment
from squeezecore.trading import Fill, Order, OrderUpdate, Signal

ROWS_MAX = 100_000  # of one answer
Record = TypeVar("Record", Signal, Order, OrderUpdate, Fill)
Ints = NDArray[np.int64]


class Switched(NamedTuple):
    """A change of what an account may do."""

    account: str
    revision: int
    at_ns: int
    state: str
    kill_switch: bool
    reason: str


class Standing(NamedTuple):
    """From when on an account might trade or not."""

    ts: int  # s
    judging: bool  # from the judgement of this second's orders on, else from its settlement on
    state: str
    kill_switch: bool


def live_run(account: str) -> str:
    """Return the run id of an account's live records.

    >>> live_run("paper")
    'live:paper'
    """
    return f"live:{account}"


def insert_signals(store: Store, account: str, signals: Sequence[Signal]) -> None:
    """Store signals; one a second and asset."""
    _insert(store, "signals", account, (msgspec.structs.asdict(signal) for signal in signals))


def insert_orders(store: Store, account: str, orders: Sequence[Order]) -> None:
    """Store orders that were asked for."""
    _insert(store, "orders", account, (msgspec.structs.asdict(order) for order in orders))


def insert_updates(store: Store, account: str, updates: Sequence[OrderUpdate]) -> None:
    """Store what became of orders."""
    _insert(store, "order_updates", account, (msgspec.structs.asdict(update) for update in updates))


def insert_fills(store: Store, account: str, fills: Sequence[Fill]) -> None:
    """Store fills."""
    _insert(store, "fills", account, (msgspec.structs.asdict(fill) for fill in fills))


def insert_payments(store: Store, account: str, payments: Sequence[Payment]) -> None:
    """Store funding that moved."""
    _insert(store, "payments", account, (payment._asdict() for payment in payments))


def insert_equity(store: Store, account: str, points: Mapping[int, int]) -> None:
    """Store the account's worth in usd_e8 at some seconds."""
    _insert(store, "equity", account, ({"ts": ts, "equity_usd_e8": usd} for ts, usd in points.items()))


def insert_standings(store: Store, account: str, standings: Sequence[Standing]) -> None:
    """Store what the account might do, and since when."""
    _insert(store, "standings", account, (standing._asdict() for standing in standings))


def insert_switch(store: Store, switched: Switched) -> None:
    """Store a change of a switch."""
    store.insert_table("switches", _table("switches", [switched._asdict()]))


def signals(store: Store, account: str, start_s: int = 0, end_s: int = TS_MAX, limit: int = ROWS_MAX) -> list[Signal]:
    """Return signals of `[start_s, end_s)` by second."""
    return _read(store, Signal, "signals", "ts", account, start_s, end_s, limit)


def orders(store: Store, account: str, start_s: int = 0, end_s: int = TS_MAX, limit: int = ROWS_MAX) -> list[Order]:
    """Return orders decided in `[start_s, end_s)`, by second."""
    return _read(store, Order, "orders", "decided_ts", account, start_s, end_s, limit)


def updates(
    store: Store, account: str, start_s: int = 0, end_s: int = TS_MAX, limit: int = ROWS_MAX
) -> list[OrderUpdate]:
    """Return what became of orders in `[start_s, end_s)`, by second."""
    return _read(store, OrderUpdate, "order_updates", "ts", account, start_s, end_s, limit)


def fills(store: Store, account: str, start_s: int = 0, end_s: int = TS_MAX, limit: int = ROWS_MAX) -> list[Fill]:
    """Return fills of `[start_s, end_s)`, by second."""
    return _read(store, Fill, "fills", "ts", account, start_s, end_s, limit)


def payments(store: Store, account: str, start_s: int = 0, end_s: int = TS_MAX) -> list[Payment]:
    """Return funding due in `[start_s, end_s)`, by second."""
    rows = _select(store, "payments", "ts", account, start_s, end_s, ROWS_MAX)
    return [Payment(**row) for row in rows]


def equity(
    store: Store, account: str, start_s: int = 0, end_s: int = TS_MAX, limit: int = ROWS_MAX
) -> tuple[Ints, Ints]:
    """Return `(ts, equity_usd_e8)` of `[start_s, end_s)`, ascending."""
    rows = _select(store, "equity", "ts", account, start_s, end_s, limit)
    return tuple(np.array([row[name] for row in rows], np.int64) for name in ("ts", "equity_usd_e8"))  # type: ignore[return-value]


def standings(store: Store, account: str, end_s: int = TS_MAX) -> list[Standing]:
    """Return from when on the account might do what, before a second, oldest first."""
    rows = _select(store, "standings", "ts", account, 0, end_s, ROWS_MAX)
    found = [
        Standing(**row)._replace(judging=bool(row["judging"]), kill_switch=bool(row["kill_switch"])) for row in rows
    ]
    return sorted(found)


def last_switch(store: Store, account: str) -> Switched | None:
    """Return the newest change of an account's switches."""
    table = store.query(
        f"SELECT {', '.join(Switched._fields)} FROM switches FINAL WHERE account = {{account:String}} "
        "ORDER BY at_ns DESC, revision DESC LIMIT 1",
        {"account": account},
    )
    rows = table.to_pylist()
    return Switched(**(rows[0] | {"kill_switch": bool(rows[0]["kill_switch"])})) if rows else None


# -- leaves ------------------------------------------------------------------------------------------------------------


def _insert(store: Store, name: str, account: str, records: Iterable[dict[str, Any]]) -> None:
    rows = [record | {"run_id": live_run(account)} for record in records]
    if rows:
        store.insert_table(name, _table(name, rows))


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    return pa.table({column: pa.array([_plain(row[column]) for row in rows]) for column in TABLES[name]})


def _plain(value: Any) -> Any:
    """Make of enums and truth values what a column takes."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    return list(value) if isinstance(value, tuple) else value


def _select(
    store: Store, name: str, time: str, account: str, start_s: int, end_s: int, limit: int
) -> list[dict[str, Any]]:
    columns = ", ".join(column for column in TABLES[name] if column != "run_id")
    table = store.query(
        f"SELECT {columns} FROM {name} FINAL WHERE run_id = {{run:String}} AND {time} >= {{start:Int64}} "
        f"AND {time} < {{end:Int64}} ORDER BY {time}, {TABLES[name][1]} LIMIT {{limit:UInt32}}",
        {"run": live_run(account), "start": start_s, "end": end_s, "limit": limit},
    )
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _read(
    store: Store, kind: type[Record], name: str, time: str, account: str, start_s: int, end_s: int, limit: int
) -> list[Record]:
    rows = _select(store, name, time, account, start_s, end_s, limit)
    for row in rows:
        if "account" in kind.__struct_fields__:
            row["account"] = account
        if "reduce_only" in row:
            row["reduce_only"] = bool(row["reduce_only"])
    return msgspec.convert(rows, list[kind])  # type: ignore[valid-type]
