"""What the live flow keeps in ClickHouse: prints, many instruments' seconds at once, snapshots, configurations by time.

The rules are the store's: natural keys, blind repetition, FINAL. A live second is one block a table for all instruments
together, because an insert costs ten milliseconds whatever is in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from squeezecore.adapters.store import TS_MAX, Store
from squeezecore.adapters.tables import CLOCK_COLUMNS, ROLLUPS, TABLES
from squeezecore.errors import UsageError
from squeezecore.market import (
    DAY_S,
    Bars,
    Block,
    FundingSeries,
    MarkSeries,
    OpenInterestSeries,
    Rows,
    Trades,
    cut,
    dtypes,
)
from squeezecore.spec import AssetConfig, canonical
from squeezecore.wire import AssetChange, TradeBatch

SNAPSHOTS_KEPT = 3  # and the first of each UTC day: parity starts there
TRADE_DAYS_MAX = 3_650
SECOND_NS = 1_000_000_000

Columns = dict[str, NDArray[Any]]


class Snapshot(NamedTuple):
    """Where a service stood."""

    service: str
    key: str  # what of it: an asset, an account, a stream
    ts: int  # s; seconds before this one are in the state
    stream_seq: int  # the last message that is in the state
    code_version: str
    body: bytes


# -- prints ------------------------------------------------------------------------------------------------------------


def insert_trades(store: Store, batches: Iterable[TradeBatch]) -> int:
    """Insert the prints of batches as one block; the same print again replaces. Return how many there were."""
    names: list[str] = []
    blocks: list[Trades] = []
    twins: list[NDArray[np.uint32]] = []
    for batch in batches:
        for instrument, block in zip(batch.instruments, batch.trades, strict=True):
            if len(block.id):
                names.append(instrument)
                blocks.append(block)
                twins.append(_twins(block))
    if not blocks:
        return 0
    columns = {name: np.concatenate([getattr(block, name) for block in blocks]) for name in Trades._fields}
    columns["twin"] = np.concatenate(twins)
    table = pa.table({"instrument": _named(names, [len(block.id) for block in blocks])} | columns)
    store.insert_table("trades", table)
    return len(columns["twin"])


def _twins(block: Trades) -> NDArray[np.uint32]:
    """Number the prints that nothing but their place tells apart: without an id, equal in time, price, qty and side."""
    twins = np.zeros(len(block.id), np.uint32)
    if (block.id >= 0).all():
        return twins
    seen: dict[tuple[int, ...], int] = {}
    for at in np.flatnonzero(block.id < 0).tolist():
        key = (int(block.exchange_ns[at]), int(block.price[at]), int(block.qty[at]), int(block.side[at]))
        twins[at] = seen.get(key, 0)
        seen[key] = int(twins[at]) + 1
    return twins


def read_trades(store: Store, instrument: str, start_s: int, end_s: int) -> Trades:
    """Return the prints of `[start_s, end_s)` as far as they are kept, by time, then id."""
    table = store.query(
        f"SELECT {', '.join(Trades._fields)} FROM trades FINAL WHERE instrument = {{name:String}} "
        "AND exchange_ns >= {start:Int64} AND exchange_ns < {end:Int64} "
        "AND ts >= toDateTime({start_s:UInt32}, 'UTC') AND ts < toDateTime({end_s:UInt32}, 'UTC') "
        "ORDER BY exchange_ns, id, price, qty, side, twin",
        {
            "name": instrument,
            "start": start_s * SECOND_NS,
            "end": end_s * SECOND_NS,
            "start_s": _clock(start_s),
            "end_s": _clock(end_s),
        },
    )
    return _block(Trades, table)


def keep_trades(store: Store, days: int) -> None:
    """Say for how many days prints are kept from when they were recorded."""
    if not 1 <= days <= TRADE_DAYS_MAX:
        raise UsageError(f"prints were to be kept for {days} days, the limit is 1..{TRADE_DAYS_MAX}")
    store.command(f"ALTER TABLE trades MODIFY TTL recorded_at + INTERVAL {days} DAY")


# -- seconds of many at once -------------------------------------------------------------------------------------------


def insert_bars(store: Store, parts: Mapping[str, Bars]) -> None:
    """Insert seconds of many instruments, one block a day; of two versions of a second the higher stays."""
    insert_bar_block(store, list(parts), _index(parts), Bars(**_joined(Bars, parts)))


def insert_bar_block(store: Store, names: Sequence[str], index: NDArray[Any], bars: Bars) -> None:
    """Do the same for bars that stand in one block already; `index` names each one's instrument."""
    columns = bars._asdict()
    first, last = columns.pop("first_id"), columns["last_id"]
    has_ids = first >= 0
    columns["id_span"] = np.where(has_ids, last.view(np.uint64) - first.view(np.uint64) + np.uint64(1), np.uint64(0))
    _insert_by_day(store, "bars_1s", "instrument", names, index, columns)


def read_bars(store: Store, names: Sequence[str], start_s: int, end_s: int) -> dict[str, Bars]:
    """Return the seconds of `[start_s, end_s)` of several instruments, ascending: one question, not one for each."""
    plain = [name for name in Bars._fields if name not in {"first_id", "last_id"}]
    table = store.query(
        f"SELECT indexOf({{names:Array(String)}}, toString(instrument)) AS at, {', '.join(plain)}, last_id, id_span "
        "FROM bars_1s FINAL WHERE instrument IN {names:Array(String)} "
        "AND ts >= toDateTime({start:UInt32}, 'UTC') AND ts < toDateTime({end:UInt32}, 'UTC') ORDER BY at, ts",
        {"names": list(names), "start": _clock(start_s), "end": _clock(end_s)},
    )
    last, span = (table[name].to_numpy() for name in ("last_id", "id_span"))
    first = (last.view(np.uint64) - span + np.uint64(1)).view(np.int64)
    ids = {"first_id": np.where(span > 0, first, -1), "last_id": np.where(span > 0, last, -1)}
    columns = {name: table[name].to_numpy().astype(dtype) for name, dtype in dtypes(Bars).items() if name not in ids}
    whole = Bars(**columns, **ids)
    cuts = np.searchsorted(table["at"].to_numpy(), np.arange(1, len(names) + 2))
    return {
        name: cut(whole, low, high)
        for name, low, high in zip(names, cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)
    }


def insert_rows(store: Store, parts: Mapping[str, Rows]) -> None:
    """Insert closed seconds of many assets as they were published, one block a day.

    They are revision 0 whatever is stored, so that the same seconds sent again never win over a repair of theirs
    (`Store.insert_rows` is what repairs).
    """
    insert_row_block(store, list(parts), _index(parts), Rows(**_joined(Rows, parts)))


def insert_row_block(store: Store, names: Sequence[str], index: NDArray[Any], rows: Rows) -> None:
    """Do the same for rows that stand in one block already; `index` names each one's asset."""
    columns = rows._asdict() | {"version": rows.quality_ppm.astype(np.uint64)}
    _insert_by_day(store, "rows_1s", "asset", names, index, columns)


def roll_up(store: Store, start_s: int, end_s: int, until_s: int, instruments: Sequence[str] = ()) -> None:
    """Compute the minute, five-minute and hour bars that `[start_s, end_s)` touches and that end by `until_s`."""
    for table, seconds in ROLLUPS.items():
        low = start_s // seconds * seconds
        high = min(-(-end_s // seconds), until_s // seconds) * seconds
        if high > low:
            store.rollup_span(table, low, high, instruments)


def insert_facts(
    store: Store,
    open_interest: Mapping[str, OpenInterestSeries],
    funding: Mapping[str, FundingSeries],
    marks: Mapping[str, MarkSeries],
) -> None:
    """Insert what became known of many instruments, one block a table; `known_at` is when the rows first used it."""
    for table, parts in (("open_interest", open_interest), ("funding", funding), ("marks", marks)):
        kept: dict[str, Any] = {name: part for name, part in parts.items() if len(part[0])}
        if not kept:
            continue
        joined = _joined(type(next(iter(kept.values()))), kept)
        if table == "marks":
            joined["ts"] = joined.pop("known_at")
        names = _named(list(kept), [len(part[0]) for part in kept.values()])
        _insert_named(store, table, "instrument", names, joined)


def _joined(kind: type[Block], parts: Mapping[str, Any]) -> Columns:
    """Join the columns of blocks of one kind."""
    return {
        name: np.concatenate([np.empty(0, dtype), *(getattr(part, name) for part in parts.values())]).astype(dtype)
        for name, dtype in dtypes(kind).items()
    }


def _index(parts: Mapping[str, Any]) -> NDArray[Any]:
    return np.repeat(np.arange(len(parts)), [len(part.ts) for part in parts.values()])


def _insert_by_day(
    store: Store, table: str, key: str, names: Sequence[str], index: NDArray[Any], joined: Columns
) -> None:
    """Insert columns, a block for each day: a block may not span many partitions."""
    days = joined["ts"] // DAY_S
    for day in np.unique(days).tolist():
        at = days == day
        _insert_named(
            store, table, key, _chosen(names, index[at]), {name: values[at] for name, values in joined.items()}
        )


def _insert_named(store: Store, table: str, key: str, names: pa.Array, columns: Columns) -> None:
    """Insert a block; times become what DateTime takes."""
    arrays = {name: pa.array(_clocks(name, column)) for name, column in columns.items()}
    store.insert_table(table, pa.table({key: names} | arrays))


def _clocks(name: str, column: NDArray[Any]) -> NDArray[Any]:
    if name not in CLOCK_COLUMNS:
        return column
    if len(column) and (column.min() < 0 or column.max() > TS_MAX):
        raise UsageError(f"{name} was {column.min()}..{column.max()} s, the limit is 0..{TS_MAX}: give UTC seconds")
    return column.astype(np.uint32)


def _named(names: Sequence[str], counts: Sequence[int]) -> pa.Array:
    """Make a text column that says each name as often as its count."""
    return _chosen(names, np.repeat(np.arange(len(names)), counts))


def _chosen(names: Sequence[str], index: NDArray[Any]) -> pa.Array:
    """Make a text column of the names that an index chooses."""
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}  # a dictionary holds a name once
    place = np.array([places[name] for name in names], np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(place[index]), pa.array(list(places), pa.string()))


def last_seconds(store: Store, instruments: Sequence[str]) -> dict[str, int]:
    """Return the last stored second of each instrument that has any."""
    table = store.query(
        "SELECT toString(instrument) AS name, toUnixTimestamp(max(ts)) AS last FROM bars_1s "
        "WHERE instrument IN {names:Array(String)} GROUP BY name",
        {"names": list(instruments)},
    )
    return {row["name"]: int(row["last"]) for row in table.to_pylist()}


# -- snapshots ---------------------------------------------------------------------------------------------------------


def put_snapshot(store: Store, snapshot: Snapshot) -> None:
    """Store where a service stands; the same again replaces."""
    row = snapshot._asdict()
    columns = {name: pa.array([row[name]]) for name in ("service", "key", "code_version")}
    columns |= {
        "ts": pa.array([_clock(snapshot.ts)], pa.uint32()),
        "stream_seq": pa.array([snapshot.stream_seq], pa.uint64()),
        "body": pa.array([snapshot.body], pa.binary()),
    }
    store.insert_table("snapshots", pa.table(columns))


def last_snapshot(
    store: Store, service: str, key: str, before_ts: int = TS_MAX + 1, code_version: str = ""
) -> Snapshot | None:
    """Return the newest snapshot whose time lies before `before_ts`, of any code or of one version, or None."""
    table = store.query(
        "SELECT ts, stream_seq, code_version, body FROM snapshots FINAL WHERE service = {service:String} "
        "AND key = {key:String} AND ts <= toDateTime({last:UInt32}, 'UTC') "
        "AND (code_version = {code:String} OR {code:String} = '') ORDER BY snapshots.ts DESC, stream_seq DESC LIMIT 1",
        {"service": service, "key": key, "last": _clock(before_ts - 1), "code": code_version},
    )
    if not table.num_rows:
        return None
    body: bytes = table["body"].cast(pa.binary())[0].as_py()
    ts, seq, code = (table[name][0].as_py() for name in ("ts", "stream_seq", "code_version"))
    return Snapshot(service, key, int(ts), int(seq), code, body)


def drop_snapshots(store: Store, service: str, key: str, from_ts: int) -> None:
    """Forget the snapshots of a time and later: the service went back."""
    where = "service = {service:String} AND key = {key:String} AND ts >= toDateTime({ts:UInt32}, 'UTC')"
    store.delete("snapshots", where, {"service": service, "key": key, "ts": _clock(from_ts)})


def prune(store: Store, service: str, key: str) -> None:
    """Forget snapshots but the last three and the first of each UTC day."""
    table = store.query(
        "SELECT ts, stream_seq FROM snapshots FINAL WHERE service = {service:String} AND key = {key:String} "
        "ORDER BY ts, stream_seq",
        {"service": service, "key": key},
    )
    stood = list(zip(table["ts"].to_pylist(), table["stream_seq"].to_pylist(), strict=True))
    first_of_day = {ts // DAY_S: (ts, seq) for ts, seq in reversed(stood)}
    gone = sorted(set(stood[:-SNAPSHOTS_KEPT]) - set(first_of_day.values()))
    if gone:
        store.delete(
            "snapshots",
            "service = {service:String} AND key = {key:String} "
            "AND (toUnixTimestamp(ts), stream_seq) IN {gone:Array(Tuple(UInt32, UInt64))}",
            {"service": service, "key": key, "gone": gone},
        )


# -- configurations by time --------------------------------------------------------------------------------------------


def put_asset_changes(store: Store, changes: Iterable[AssetChange]) -> None:
    """Record from when which configuration holds; the same minute of an asset again replaces."""
    rows = [
        {
            "asset": change.asset,
            "from_ts": _clock(change.from_ts),
            "config_rev": 0 if change.config is None else change.config.revision(),
            "config": "" if change.config is None else canonical(change.config).decode(),
        }
        for change in changes
    ]
    if rows:
        columns = {name: [row[name] for row in rows] for name in TABLES["asset_changes"]}
        times = pa.array(columns.pop("from_ts"), pa.uint32())
        store.insert_table("asset_changes", pa.table(columns | {"from_ts": times}))


def asset_changes(store: Store, asset: str = "") -> list[AssetChange]:
    """Return the configurations of one asset or of all, by asset and time."""
    table = store.query(
        "SELECT toString(asset) AS name, toUnixTimestamp(from_ts) AS from_s, config FROM asset_changes FINAL "
        "WHERE asset = {asset:String} OR {asset:String} = '' ORDER BY name, from_s",
        {"asset": asset},
    )
    return [
        AssetChange(
            asset=row["name"],
            from_ts=int(row["from_s"]),
            config=msgspec.json.decode(row["config"], type=AssetConfig) if row["config"] else None,
        )
        for row in table.to_pylist()
    ]


def _clock(seconds: int) -> int:
    return max(0, min(TS_MAX, int(seconds)))


def _block(kind: type[Block], table: pa.Table) -> Block:
    """Copy Arrow columns into arrays of their own."""
    columns = []
    for name, dtype in dtypes(kind).items():
        out = np.empty(table.num_rows, dtype)
        if table.num_rows:
            out[:] = table[name].to_numpy()
        columns.append(out)
    return kind(*columns)
