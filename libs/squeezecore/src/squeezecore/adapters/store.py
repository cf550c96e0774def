"""The store: every read and write of ClickHouse, the same against a laptop's engine and any server.

Exactly once without tokens: each table is a ReplacingMergeTree on its natural key, the writer sends the same rows until
one send succeeds, and readers say FINAL. So a write may be repeated blindly, by us or by whoever calls. A day of one
instrument or asset is one block: it is in the store whole or not at all.

Only this module talks to ClickHouse. It turns columns into Arrow and back, bit for bit, and decides nothing.
"""

from __future__ import annotations

import datetime as dt
import http.client
import os
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from types import TracebackType
from typing import Any, Self, TypeVar

import clickhouse_connect
import msgspec
import numpy as np
import pyarrow as pa
import urllib3
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, ProgrammingError
from numpy.typing import NDArray

from squeezecore.errors import SqueezeError, UsageError
from squeezecore.market import (
    DAY_S,
    PPM,
    Bars,
    FundingSeries,
    Gap,
    Instrument,
    OpenInterestSeries,
    Rows,
    cut,
)
from squeezecore.spec import canonical, day_start_s

T = TypeVar("T")
Column = NDArray[Any]

RETRY_S_MAX = 30.0  # a server that is restarted, or an embedded one that was killed, is back long before
CONNECT_S_MAX = 5.0  # but the first connection fails sooner: its address is probably wrong
RETRY_PAUSE_S_MAX = 1.0
QUERY_S_MAX = 600
ANSWER_BYTES_MAX = 67_108_864  # up to here an answer comes in one piece: a day in half the time, errors before any byte
TS_MAX = 2**32 - 1  # DateTime; 2106
REVISION_SHIFT = (
    20  # rows_1s.version = revision << 20 | quality_ppm, so that of two equal revisions the more complete wins
)
SECONDS_OF = {"bars_1m": 60, "bars_5m": 300, "bars_1h": 3600}

# ClickHouse error codes after which the same request may succeed.
RETRY_CODES = {
    159,  # timeout exceeded
    202,  # too many simultaneous queries
    209,  # socket timeout
    210,  # network error
    241,  # memory limit: of the whole server, so somebody else's query may have been the large one
    242,  # table is read only: a replica that has lost its keeper
    252,  # too many parts: merges lag behind
    319,  # unknown status of insert
    425,  # system error
    999,  # keeper
}
DISK_FULL_CODE = 243

TABLES: dict[str, tuple[str, ...]] = {
    "schema_version": ("version", "name"),
    "instruments": (
        *("instrument", "venue", "symbol", "kind", "base", "quote"),
        *("price_decimals", "qty_decimals", "definition", "version"),
    ),
    "bars_1s": (
        *(
            "instrument",
            "ts",
            "open",
            "high",
            "low",
            "close",
            "buy_volume",
            "sell_volume",
            "buy_usd_cents",
            "sell_usd_cents",
        ),
        *("buy_trades", "sell_trades", "largest", "complete", "last_id", "id_span", "id_kind", "version"),
    ),
    **dict.fromkeys(
        SECONDS_OF,
        (
            *("instrument", "ts", "open", "high", "low", "close", "buy_volume", "sell_volume", "buy_usd_cents"),
            *("sell_usd_cents", "buy_trades", "sell_trades", "largest", "seconds", "complete", "version"),
        ),
    ),
    "rows_1s": ("asset", *Rows._fields, "version"),
    "rows_superseded": ("asset", *Rows._fields, "version"),
    "open_interest": ("instrument", "known_at", "event_ts", "open_interest", "interval_s"),
    "funding": ("instrument", "event_ts", "known_at", "rate", "interval_s"),
    "marks": ("instrument", "ts", "mark"),
    "gaps": ("instrument", "start_s", "end_s", "first_id", "last_id", "missing", "cause", "state", "version"),
    "imports": (
        *("instrument", "day", "kind", "sha256", "source", "rows", "first_id", "last_id", "state", "report", "version"),
    ),
    "config": ("key", "value", "version"),
    "backtest_runs": ("run_id", "spec", "code_version", "state", "result_hash", "summary", "error", "version"),
    "backtest_days": ("run_id", "asset", "day", "data_hash", "state_in", "state_out", "tape", "timings", "error"),
    "backtest_trades": (
        *(
            "run_id",
            "number",
            "asset",
            "instrument",
            "direction",
            "entry_ts",
            "exit_ts",
            "entry_price",
            "exit_price",
            "qty",
        ),
        *("pnl_usd_e8", "fees_usd_e8", "slippage_usd_e8", "funding_usd_e8", "score_milli", "exit_reason"),
        *("entry_order_id", "exit_order_id", "detail"),
    ),
    "backtest_equity": (
        *("run_id", "ts", "equity_usd_e8", "cash_usd_e8", "margin_usd_e8", "unrealised_usd_e8", "exposure_usd_e8"),
    ),
    "decisions": (
        *(
            "run_id",
            "asset",
            "ts",
            "number",
            "kind",
            "direction",
            "score_milli",
            "phase",
            "reason",
            "order_id",
            "record",
        ),
    ),
}
RESULT_TABLES = ("backtest_trades", "backtest_equity", "decisions")
CLOCK_COLUMNS = {"ts", "known_at", "event_ts", "start_s", "end_s"}  # DateTime where the table says so
LABELS = {"instrument", "asset"}


class StoreError(SqueezeError):
    """ClickHouse refused or could not be reached; the message carries its reason."""


class ImportRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one file brought for one day of one instrument."""

    instrument: str
    day: dt.date
    kind: str  # trade | aggregate | funding | open_interest
    sha256: str
    source: str  # file name without its folder
    rows: int
    first_id: int = -1
    last_id: int = -1
    state: str = "done"  # started | done; done wins
    report: dict[str, Any] = {}  # what was repaired or set aside, counted


class DayCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """What the store holds of one instrument or asset on one UTC day."""

    name: str
    day: dt.date
    seconds: int  # present, of 86,400
    complete: int  # of them complete
    trades: int  # prints; 0 for assets
    first_ts: int
    last_ts: int
    id_kind: int = 0  # market.IdKind; 0 for assets


class TableSize(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the disk a table takes."""

    table: str
    rows: int  # before duplicates are merged away
    bytes: int

    @property
    def bytes_per_row(self) -> float:
        """Bytes a row, 0 for an empty table; in parts under 10 MB fixed costs dominate."""
        return self.bytes / self.rows if self.rows else 0.0


class BacktestRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One backtest: what was asked, by which code, and what came out."""

    run_id: str
    spec: str  # canonical JSON
    code_version: str
    state: str = "planned"  # planned | running | done | failed
    result_hash: str = ""
    summary: dict[str, Any] = {}
    error: str = ""


class BacktestDay(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One scanned day of one asset in a run; the fold reads these."""

    run_id: str
    asset: str
    day: dt.date
    data_hash: str
    state_in: str
    state_out: str
    tape: bytes = b""
    timings: dict[str, float] = {}
    error: str = ""


class Store:
    """One database of one ClickHouse. Safe for threads; a forked process connects anew."""

    def __init__(self, locate: Callable[[], str], database: str, on_close: Callable[[], None] = lambda: None) -> None:
        """Connect and migrate.

        Args:
            locate: gives the server's URL, starting the server if it must; asked again after each lost connection.
            database: made if absent.
            on_close: called once by `close`.

        Raises:
            StoreError: unreachable, refused, or a schema this code does not know.
        """
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", database):
            raise UsageError(f"database was {database!r}, allowed are letters, digits and _: choose another name")
        self.database = database
        self._locate = locate
        self._on_close = on_close
        self._lock = threading.Lock()
        self._client: tuple[int, Client] | None = None
        self._columns: dict[str, set[str]] = {}
        self._closed = False
        try:
            self.migrate()
        except BaseException:
            self._disconnect()
            raise

    @classmethod
    def connect(cls, url: str, database: str = "squeeze") -> Self:
        """Open a database of a server that somebody else runs, `http[s]://[user:password@]host[:port]`."""
        return cls(lambda: url, database)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the server go; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._disconnect()
        self._on_close()

    # Instruments

    def instruments(self) -> dict[str, Instrument]:
        """Return every known instrument by id."""
        table = self.query("SELECT instrument, definition FROM instruments FINAL ORDER BY instrument")
        return {row["instrument"]: msgspec.json.decode(row["definition"], type=Instrument) for row in table.to_pylist()}

    def put_instrument(self, instrument: Instrument) -> None:
        """Add an instrument, or its changed tick, lot or contract; its scales can never change."""
        found = self.query(
            "SELECT definition, version FROM instruments FINAL WHERE instrument = {id:String}", {"id": instrument.id}
        ).to_pylist()
        version = 0
        if found:
            old = msgspec.json.decode(found[0]["definition"], type=Instrument)
            if old == instrument:
                return
            for scale in ("price_decimals", "qty_decimals"):
                was, new = getattr(old, scale), getattr(instrument, scale)
                if was != new:
                    raise UsageError(
                        f"{scale} of {instrument.id} was {was}, it cannot become {new} because stored bars are written at it: "
                        f"keep {was}, or import into another --home"
                    )
            version = found[0]["version"] + 1
        self._insert_dicts(
            "instruments",
            [
                {
                    "instrument": instrument.id,
                    "venue": instrument.venue,
                    "symbol": instrument.symbol,
                    "kind": instrument.kind.value,
                    "base": instrument.base,
                    "quote": instrument.quote,
                    "price_decimals": instrument.price_decimals,
                    "qty_decimals": instrument.qty_decimals,
                    "definition": canonical(instrument).decode(),
                    "version": version,
                }
            ],
        )

    # Bars

    def insert_bars(self, instrument: str, bars: Bars) -> None:
        """Insert seconds of one instrument, ascending; of two versions of a second the higher stays."""
        _check_ascending("bars", instrument, bars.ts)
        has_ids = bars.first_id >= 0
        broken = np.flatnonzero(
            np.where(has_ids, bars.last_id < bars.first_id, (bars.first_id != -1) | (bars.last_id != -1))
        )
        if broken.size:
            at = int(broken[0])
            raise UsageError(
                f"ids of {instrument} were {bars.first_id[at]}..{bars.last_id[at]} in second {bars.ts[at]}, "
                "they must be -1 and -1, or first <= last: mend whoever made these bars"
            )
        columns: dict[str, Column] = bars._asdict()
        first, last = columns.pop("first_id"), columns.pop("last_id")
        # A second without ids repeats the id before it: the column then only grows, and packs into a byte or two.
        latest = np.maximum.accumulate(np.where(has_ids, np.arange(len(last)), 0)) if len(last) else np.arange(0)
        columns["last_id"] = last[latest]
        columns["id_span"] = np.where(
            has_ids, last.view(np.uint64) - first.view(np.uint64) + np.uint64(1), np.uint64(0)
        )
        for start, end in _days(bars.ts):
            part = {name: column[start:end] for name, column in columns.items()}
            self._insert("bars_1s", _arrow({"instrument": instrument, **part}))

    def read_bars(self, instrument: str, start_s: int, end_s: int) -> Bars:
        """Return the seconds of `[start_s, end_s)`, ascending."""
        names = [name for name in Bars._fields if name not in {"first_id", "last_id"}]
        columns = self._columns_of("bars_1s", [*names, "last_id", "id_span"], "instrument", instrument, start_s, end_s)
        span, last = columns.pop("id_span"), columns.pop("last_id")
        has_ids = span > 0
        first = (last.view(np.uint64) - span + np.uint64(1)).view(np.int64)
        return Bars(**columns, first_id=np.where(has_ids, first, -1), last_id=np.where(has_ids, last, -1))

    def drop_day(self, instrument: str, day: dt.date) -> None:
        """Forget one day of an instrument: bars of every length, gaps that begin in it, and what brought it."""
        start = day_start_s(day)
        where = "instrument = {name:String} AND ts >= toDateTime({start:UInt32}, 'UTC') AND ts < toDateTime({end:UInt32}, 'UTC')"
        values: dict[str, Any] = {"name": instrument, "start": start, "end": start + DAY_S}
        self._delete("bars_1s", where, values, partition=f"{day:%Y%m%d}")
        for table in SECONDS_OF:
            self._delete(table, where, values, partition=f"{day:%Y%m}")
        self._delete("gaps", where.replace("ts ", "start_s "), values)
        self._delete(
            "imports",
            "instrument = {name:String} AND day = {day:Date} AND kind IN ('trade', 'aggregate')",
            {"name": instrument, "day": day},
        )

    def rollup(self, day: dt.date) -> None:
        """Compute the minute, five-minute and hour bars of a closed day from its seconds; repeating it is harmless."""
        for table, seconds in SECONDS_OF.items():
            self._command(
                f"INSERT INTO {table} ({', '.join(TABLES[table])}) "
                f"SELECT instrument, toStartOfInterval(ts, INTERVAL {seconds} SECOND) AS bar, "
                "argMin(open, ts), max(high), min(low), argMax(close, ts), sum(buy_volume), sum(sell_volume), "
                "sum(buy_usd_cents), sum(sell_usd_cents), sum(buy_trades), sum(sell_trades), max(largest), "
                "count(), sum(complete), sum(version + 1) "
                "FROM bars_1s FINAL WHERE ts >= toDateTime({start:UInt32}, 'UTC') AND ts < toDateTime({end:UInt32}, 'UTC') "
                "GROUP BY instrument, bar",
                {"start": day_start_s(day), "end": day_start_s(day) + DAY_S},
            )

    def read_rollup(self, table: str, instrument: str, start_s: int, end_s: int) -> pa.Table:
        """Return `bars_1m`, `bars_5m` or `bars_1h` of `[start_s, end_s)`; columns as in the schema, `ts` in seconds."""
        names = TABLES[table][1:]
        return pa.table(self._columns_of(table, names, "instrument", instrument, start_s, end_s))

    def compact(self, day: dt.date) -> None:
        """Merge a closed day's parts, so that reading it costs least; safe to leave out, safe to repeat."""
        for table in ("bars_1s", "rows_1s"):
            self._command(f"OPTIMIZE TABLE {table} PARTITION {day:%Y%m%d} FINAL")

    # Rows

    def insert_rows(self, asset: str, rows: Rows, *, keep_superseded: bool = False, replace: bool = False) -> int:
        """Insert seconds of one asset, ascending; what they replace is decided by content.

        A second that is already stored with the same values is left alone. One with other values becomes the next
        revision, unless it is less complete under the same configuration: then the stored one stays, so that a stalled
        writer cannot undo a repair. `replace` lets the new one win even then. One asset has one writer at a time.

        Args:
            asset: its name.
            rows: strictly ascending.
            keep_superseded: copy what is replaced to `rows_superseded` first.
            replace: the caller knows better than what is stored, as after an import that replaced a day.

        Returns:
            How many seconds were written.
        """
        _check_ascending("rows", asset, rows.ts)
        if len(rows.ts) and (rows.quality_ppm.min() < 0 or rows.quality_ppm.max() > PPM):
            raise UsageError(f"quality of {asset} was outside of 0..{PPM} ppm: mend whoever made these rows")
        written = 0
        for start, end in _days(rows.ts):
            written += self._insert_rows_day(asset, cut(rows, start, end), keep_superseded, replace)
        return written

    def _insert_rows_day(self, asset: str, rows: Rows, keep_superseded: bool, replace: bool) -> int:
        """Insert rows of one day: skip what is equal or stale, number what is newer."""
        first, end = int(rows.ts[0]), int(rows.ts[-1]) + 1
        version = rows.quality_ppm.astype(np.uint64)
        write = np.ones(len(rows.ts), np.bool_)
        if self._count("rows_1s", "asset", asset, first, end):
            stored = self._columns_of("rows_1s", [*Rows._fields, "version"], "asset", asset, first, end)
            at = np.minimum(np.searchsorted(stored["ts"], rows.ts), len(stored["ts"]) - 1)
            found = stored["ts"][at] == rows.ts
            same = found.copy()
            for name, column in rows._asdict().items():
                same &= column == stored[name][at]
            stale = (
                found & (rows.config_rev == stored["config_rev"][at]) & (rows.quality_ppm < stored["quality_ppm"][at])
            )
            write = ~same if replace else ~(same | stale)
            revision = np.where(
                found, (stored["version"][at] >> np.uint64(REVISION_SHIFT)) + np.uint64(1), np.uint64(0)
            )
            version |= revision << np.uint64(REVISION_SHIFT)
            if keep_superseded and (write & found).any():
                old = {name: column[at[write & found]] for name, column in stored.items()}
                self._insert("rows_superseded", _arrow({"asset": asset, **old}))
        if write.any():
            new = {name: column[write] for name, column in (rows._asdict() | {"version": version}).items()}
            self._insert("rows_1s", _arrow({"asset": asset, **new}))
        return int(write.sum())

    def read_rows(self, asset: str, start_s: int, end_s: int) -> Rows:
        """Return the seconds of `[start_s, end_s)`, ascending; a missing second is missing."""
        return Rows(**self.read_row_columns(asset, start_s, end_s, Rows._fields))

    def read_row_columns(self, asset: str, start_s: int, end_s: int, columns: Sequence[str]) -> dict[str, Column]:
        """Return only some columns of `rows_1s`, by name: what is not needed costs nothing."""
        return self._columns_of("rows_1s", columns, "asset", asset, start_s, end_s)

    def read_rows_superseded(self, asset: str, start_s: int, end_s: int) -> tuple[Rows, NDArray[np.uint64]]:
        """Return rows that were replaced, and their versions, ascending by second and version."""
        names = [*Rows._fields, "version"]
        columns = self._columns_of("rows_superseded", names, "asset", asset, start_s, end_s, order="ts, version")
        version = columns.pop("version")
        return Rows(**columns), version

    def drop_rows(self, asset: str, start_s: int, end_s: int) -> None:
        """Forget the seconds of an asset in `[start_s, end_s)`; superseded ones stay."""
        days = self.query(
            "SELECT DISTINCT toYYYYMMDD(ts) AS day FROM rows_1s WHERE asset = {name:String} "
            "AND ts >= toDateTime({start:UInt32}, 'UTC') AND ts < toDateTime({end:UInt32}, 'UTC') ORDER BY day",
            {"name": asset, "start": _clock(start_s), "end": _clock(end_s)},
        )
        for day in days["day"].to_pylist():
            self._delete(
                "rows_1s",
                "asset = {name:String} AND ts >= toDateTime({start:UInt32}, 'UTC') AND ts < toDateTime({end:UInt32}, 'UTC')",
                {"name": asset, "start": _clock(start_s), "end": _clock(end_s)},
                partition=str(day),
            )

    # Open interest, funding, marks

    def insert_open_interest(self, instrument: str, series: OpenInterestSeries) -> None:
        """Insert open interest; the same `(known_at, event_ts)` again replaces."""
        if len(series.open_interest) and series.open_interest.min() <= 0:
            raise UsageError(
                f"open interest of {instrument} was {series.open_interest.min()}, zero is no value: leave such rows out"
            )
        self._insert_series("open_interest", instrument, series._asdict())

    def read_open_interest(self, instrument: str, start_s: int, end_s: int) -> OpenInterestSeries:
        """Return what became known in `[start_s, end_s)`, ascending by `known_at`."""
        return OpenInterestSeries(
            **self._columns_of(
                *("open_interest", OpenInterestSeries._fields, "instrument", instrument, start_s, end_s),
                time="known_at",
                order="known_at, event_ts",
            )
        )

    def insert_funding(self, instrument: str, series: FundingSeries) -> None:
        """Insert settled funding; the same event again replaces."""
        self._insert_series("funding", instrument, series._asdict())

    def read_funding(self, instrument: str, start_s: int, end_s: int) -> FundingSeries:
        """Return funding paid in `[start_s, end_s)`, ascending by event."""
        return FundingSeries(
            **self._columns_of(
                "funding", FundingSeries._fields, "instrument", instrument, start_s, end_s, time="event_ts"
            )
        )

    def insert_marks(self, instrument: str, ts: NDArray[np.int64], mark: NDArray[np.int64]) -> None:
        """Insert mark prices (price scale) as known at the start of seconds `ts`."""
        self._insert_series("marks", instrument, {"ts": ts, "mark": mark})

    def read_marks(self, instrument: str, start_s: int, end_s: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return `(ts, mark)` of `[start_s, end_s)`, ascending."""
        columns = self._columns_of("marks", ("ts", "mark"), "instrument", instrument, start_s, end_s)
        return columns["ts"], columns["mark"]

    # Gaps, imports, coverage, sizes

    def put_gaps(self, gaps: Sequence[Gap]) -> None:
        """Record holes; the same hole with state `filled` wins over `open`."""
        self._insert_dicts(
            "gaps", [msgspec.structs.asdict(gap) | {"version": int(gap.state == "filled")} for gap in gaps]
        )

    def gaps(self, instrument: str | None = None, start_s: int = 0, end_s: int = TS_MAX) -> list[Gap]:
        """Return the holes that touch `[start_s, end_s)`, of one instrument or of all, by instrument and time."""
        table = self.query(
            "SELECT instrument, toUnixTimestamp(start_s) AS a, toUnixTimestamp(end_s) AS b, first_id, last_id, missing, cause, state "
            "FROM gaps FINAL WHERE (instrument = {name:String} OR {name:String} = '') AND end_s >= toDateTime({start:UInt32}, 'UTC') "
            "AND start_s < toDateTime({end:UInt32}, 'UTC') ORDER BY instrument, gaps.start_s, gaps.end_s, first_id",
            {"name": instrument or "", "start": _clock(start_s), "end": _clock(end_s)},
        )
        return [Gap(start_s=row.pop("a"), end_s=row.pop("b"), **row) for row in table.to_pylist()]

    def put_imports(self, records: Sequence[ImportRecord]) -> None:
        """Record what files brought; `done` wins over `started`."""
        self._insert_dicts(
            "imports",
            [
                msgspec.structs.asdict(record)
                | {"report": canonical(record.report).decode(), "version": int(record.state == "done")}
                for record in records
            ],
        )

    def imports(
        self, instrument: str | None = None, day: dt.date | None = None, sha256: str | None = None
    ) -> list[ImportRecord]:
        """Return what files brought, narrowed by instrument, day or the file's hash."""
        table = self.query(
            f"SELECT {', '.join(TABLES['imports'][:-1])} FROM imports FINAL "
            "WHERE (instrument = {name:String} OR {name:String} = '') AND (sha256 = {sha:String} OR {sha:String} = '') "
            "AND (day = {day:Date} OR {any_day:UInt8}) ORDER BY instrument, day, kind, sha256",
            {
                "name": instrument or "",
                "sha": sha256 or "",
                "day": day or dt.date(1970, 1, 1),
                "any_day": int(day is None),
            },
        )
        return [
            msgspec.convert(
                row | {"day": _date(row["day"]), "report": msgspec.json.decode(row["report"])}, ImportRecord
            )
            for row in table.to_pylist()
        ]

    def coverage(self, instrument: str | None = None, start_s: int = 0, end_s: int = TS_MAX) -> list[DayCoverage]:
        """Return what `bars_1s` holds, by instrument and day."""
        return self._coverage("bars_1s", "instrument", instrument, start_s, end_s)

    def asset_coverage(self, asset: str | None = None, start_s: int = 0, end_s: int = TS_MAX) -> list[DayCoverage]:
        """Return what `rows_1s` holds, by asset and day; a second counts as complete at full quality."""
        return self._coverage("rows_1s", "asset", asset, start_s, end_s)

    def _coverage(self, table: str, key: str, name: str | None, start_s: int, end_s: int) -> list[DayCoverage]:
        """Count seconds by name and day."""
        facts = (
            "sum(complete) AS complete, sum(buy_trades + sell_trades) AS trades, max(id_kind) AS id_kind"
            if table == "bars_1s"
            else f"countIf(quality_ppm = {PPM}) AS complete, 0 AS trades, 0 AS id_kind"
        )
        found = self.query(
            f"SELECT toString({key}) AS name, toDate(ts) AS day, count() AS seconds, {facts}, "
            f"toUnixTimestamp(min(ts)) AS first_ts, toUnixTimestamp(max(ts)) AS last_ts FROM {table} FINAL "
            f"WHERE ({key} = {{name:String}} OR {{name:String}} = '') "
            "AND ts >= toDateTime({start:UInt32}, 'UTC') AND ts < toDateTime({end:UInt32}, 'UTC') "
            "GROUP BY name, day ORDER BY name, day",
            {"name": name or "", "start": _clock(start_s), "end": _clock(end_s)},
        )
        return [msgspec.convert(row | {"day": _date(row["day"])}, DayCoverage) for row in found.to_pylist()]

    def sizes(self) -> list[TableSize]:
        """Return rows and bytes on disk of every table, largest first."""
        table = self.query(
            "SELECT t.name AS table, p.rows AS rows, p.bytes AS bytes FROM system.tables AS t LEFT JOIN "
            "(SELECT table, sum(rows) AS rows, sum(bytes_on_disk) AS bytes FROM system.parts "
            "WHERE active AND database = {db:String} GROUP BY table) AS p ON p.table = t.name "
            "WHERE t.database = {db:String} ORDER BY bytes DESC, t.name",
            {"db": self.database},
        )
        return [msgspec.convert(row, TableSize) for row in table.to_pylist()]

    # Configuration

    def config(self, key: str) -> tuple[str, int] | None:
        """Return a configured text and its version, or None."""
        found = self.query("SELECT value, version FROM config FINAL WHERE key = {key:String}", {"key": key}).to_pylist()
        return (found[0]["value"], found[0]["version"]) if found else None

    def put_config(self, key: str, value: str) -> int:
        """Store a text under a key and return its version; the same text again keeps its version."""
        found = self.config(key)
        if found is not None and found[0] == value:
            return found[1]
        version = 1 if found is None else found[1] + 1
        self._insert_dicts("config", [{"key": key, "value": value, "version": version}])
        return version

    # Backtests

    def put_run(self, run: BacktestRun) -> None:
        """Store a run, or its next state."""
        found = self._runs(run.run_id)
        if found and found[0][0] == run:
            return
        row = msgspec.structs.asdict(run) | {"summary": canonical(run.summary).decode()}
        self._insert_dicts("backtest_runs", [row | {"version": found[0][1] + 1 if found else 0}])

    def run(self, run_id: str) -> BacktestRun | None:
        """Return one run, or None."""
        found = self._runs(run_id)
        return found[0][0] if found else None

    def runs(self) -> list[BacktestRun]:
        """Return every run, the one written last first."""
        return [run for run, _ in self._runs("")]

    def _runs(self, run_id: str) -> list[tuple[BacktestRun, int]]:
        """Return runs with their versions."""
        table = self.query(
            f"SELECT {', '.join(TABLES['backtest_runs'])} FROM backtest_runs FINAL "
            "WHERE run_id = {run:String} OR {run:String} = '' ORDER BY recorded_at DESC, run_id",
            {"run": run_id},
        )
        found = []
        for row in table.to_pylist():
            version = row.pop("version")
            found.append((BacktestRun(**row | {"summary": msgspec.json.decode(row["summary"])}), version))
        return found

    def insert_backtest_days(self, days: Sequence[BacktestDay]) -> None:
        """Store scanned days; the same day of a run again replaces."""
        rows = [msgspec.structs.asdict(day) | {"timings": canonical(day.timings).decode()} for day in days]
        self._insert_dicts("backtest_days", rows)

    def backtest_days(
        self,
        run_id: str,
        asset: str | None = None,
        start: dt.date = dt.date.min,
        end: dt.date = dt.date.max,
        *,
        tapes: bool = True,
    ) -> list[BacktestDay]:
        """Return the scanned days of a run from `start` to `end` (inclusive), by asset and day; without tapes if asked."""
        low, high = dt.date(1970, 1, 1), dt.date(2149, 6, 6)
        table = self.query(
            f"SELECT run_id, asset, day, data_hash, state_in, state_out, {'tape' if tapes else chr(39) * 2} AS tape, timings, error "
            "FROM backtest_days FINAL WHERE run_id = {run:String} AND (asset = {asset:String} OR {asset:String} = '') "
            "AND day >= {start:Date} AND day <= {end:Date} ORDER BY asset, day",
            {"run": run_id, "asset": asset or "", "start": max(start, low), "end": min(end, high)},
        )
        at = table.schema.get_field_index("tape")
        table = table.set_column(at, "tape", table["tape"].cast(pa.binary()))
        return [
            BacktestDay(**row | {"day": _date(row["day"]), "timings": msgspec.json.decode(row["timings"])})
            for row in table.to_pylist()
        ]

    def drop_results(self, run_id: str) -> None:
        """Forget a run's trades, equity and decisions, so that a fold starts from nothing."""
        for table in RESULT_TABLES:
            self._delete(table, "run_id = {run:String}", {"run": run_id})

    def drop_run(self, run_id: str) -> None:
        """Forget a run altogether."""
        self.drop_results(run_id)
        for table in ("backtest_days", "backtest_runs"):
            self._delete(table, "run_id = {run:String}", {"run": run_id})

    # Any table

    def insert_table(self, name: str, table: pa.Table) -> None:
        """Insert Arrow columns, exactly those of `TABLES[name]` in any order; repeating it is harmless."""
        self._insert(name, table)

    def read_table(self, name: str, run_id: str, order: str = "") -> pa.Table:
        """Return a run's rows of one of `RESULT_TABLES`, in key order or as `order` says."""
        keys = {"backtest_trades": "number", "backtest_equity": "ts", "decisions": "asset, ts, number"}
        return self.query(
            f"SELECT {', '.join(TABLES[name])} FROM {name} FINAL WHERE run_id = {{run:String}} ORDER BY {order or keys[name]}",
            {"run": run_id},
        )

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> pa.Table:
        """Run a SELECT, values bound as `{name:Type}`; `DateTime` columns come as uint32 seconds, `Date` as uint16 days."""
        result: pa.Table = self._attempt(lambda client: client.query_arrow(sql, parameters=dict(params or {})))
        return result

    # Schema

    def migrate(self) -> None:
        """Bring the database to this code's schema and check that the columns are those this code knows.

        Raises:
            StoreError: the schema is newer than this code, or its columns differ.
        """
        files = schema_files()
        newest = max(files)
        self._attempt(self._create_database, CONNECT_S_MAX)
        columns = self._stored_columns()
        if "schema_version" not in columns:
            self._command(
                "CREATE TABLE IF NOT EXISTS schema_version (version UInt32, name String) ENGINE = ReplacingMergeTree ORDER BY version"
            )
        applied = set(self.query("SELECT version FROM schema_version FINAL")["version"].to_pylist())
        if applied and max(applied) > newest:
            raise StoreError(
                f"schema of database {self.database} was version {max(applied)}, this program knows {newest}: "
                "use a newer squeezeflow, or another --home"
            )
        pending = sorted(set(files) - applied)
        for version in pending:
            name, text = files[version]
            for statement in statements(text):
                self._command(statement)
            self._command(f"INSERT INTO schema_version (version, name) VALUES ({version}, '{name}')")
        self._check_columns(self._stored_columns() if pending else columns)

    def drop_database(self) -> None:
        """Forget everything in this database, and the database."""
        self._command(f"DROP DATABASE IF EXISTS `{self.database}` SYNC")

    def _create_database(self, client: Client) -> None:
        """Make the database; the client is not yet in it."""
        client.command(f"CREATE DATABASE IF NOT EXISTS `{self.database}`", use_database=False)

    def _stored_columns(self) -> dict[str, dict[str, str]]:
        """Return, by table and column, the kind of default a column has."""
        table = self.query(
            "SELECT table, name, default_kind FROM system.columns WHERE database = {db:String}", {"db": self.database}
        )
        found: dict[str, dict[str, str]] = {}
        for row in table.to_pylist():
            found.setdefault(row["table"], {})[row["name"]] = row["default_kind"]
        return found

    def _check_columns(self, stored: dict[str, dict[str, str]]) -> None:
        """Refuse a table whose columns are not ours: a column left out of an insert would silently become zero."""
        for table, names in TABLES.items():
            there = stored.get(table, {})
            missing = [name for name in names if name not in there]
            unknown = [name for name, default in there.items() if name not in names and not default]
            if missing or unknown:
                raise StoreError(
                    f"table {self.database}.{table} was without {missing or 'nothing'} and with unknown {unknown or 'nothing'}: "
                    "it was made by another version of this program; use that one, or another --home"
                )

    # Arrow in and out

    def _insert_series(self, table: str, instrument: str, columns: Mapping[str, Column]) -> None:
        """Insert columns of one instrument, a hundred thousand at a time, so that no block spans too many partitions."""
        n = len(next(iter(columns.values())))
        for start in range(0, n, 100_000):
            self._insert(
                table, _arrow({"instrument": instrument} | {k: v[start : start + 100_000] for k, v in columns.items()})
            )

    def _insert_dicts(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert a few rows given as mappings."""
        if rows:
            self._insert(name, pa.table({column: [row[column] for row in rows] for column in TABLES[name]}))

    def _insert(self, name: str, table: pa.Table) -> None:
        """Send one block until one send succeeds."""
        if set(table.column_names) != set(TABLES[name]) or len(table.column_names) != len(TABLES[name]):
            raise UsageError(
                f"columns for {name} were {', '.join(table.column_names)}, they must be {', '.join(TABLES[name])}"
            )
        if table.num_rows:
            self._attempt(lambda client: client.insert_arrow(name, table))

    def _columns_of(
        self,
        table: str,
        names: Sequence[str],
        key: str,
        value: str,
        start_s: int,
        end_s: int,
        *,
        time: str = "ts",
        order: str = "",
    ) -> dict[str, Column]:
        """Return columns of one name between two times as arrays of their own, ready for kernels."""
        unknown = [name for name in names if name not in TABLES[table]]
        if unknown:
            raise UsageError(f"columns of {table} were {', '.join(unknown)}, known are {', '.join(TABLES[table])}")
        found = self.query(
            f"SELECT {', '.join(names)} FROM {table} FINAL WHERE {key} = {{name:String}} "
            f"AND {time} >= toDateTime({{start:UInt32}}, 'UTC') AND {time} < toDateTime({{end:UInt32}}, 'UTC') "
            f"ORDER BY {order or time}",
            {"name": value, "start": _clock(start_s), "end": _clock(end_s)},
        )
        return {name: _numpy(found[name]) for name in names}

    def _count(self, table: str, key: str, value: str, start_s: int, end_s: int) -> int:
        """Count stored rows of one name, duplicates included."""
        found = self.query(
            f"SELECT count() AS n FROM {table} WHERE {key} = {{name:String}} "
            "AND ts >= toDateTime({start:UInt32}, 'UTC') AND ts < toDateTime({end:UInt32}, 'UTC')",
            {"name": value, "start": start_s, "end": end_s},
        )
        return int(found["n"][0].as_py())

    def _delete(self, table: str, where: str, values: Mapping[str, Any], partition: str = "") -> None:
        """Delete rows and wait until they are gone."""
        place = f" IN PARTITION {partition}" if partition else ""
        self._command(f"DELETE FROM {table}{place} WHERE {where}", values)

    def _command(self, sql: str, params: Mapping[str, Any] | None = None) -> None:
        """Run a statement that may be repeated."""
        self._attempt(lambda client: client.command(sql, parameters=dict(params or {})))

    # The connection

    def _attempt(self, action: Callable[[Client], T], seconds_max: float = RETRY_S_MAX) -> T:
        """Do `action` until it succeeds, reconnecting in between; give up on an error that would come again."""
        if self._closed:
            raise StoreError(f"store {self.database} was closed: open it again")
        deadline = time.monotonic() + seconds_max
        pause = 0.02
        while True:
            try:
                return action(self._connected())
            except (
                ClickHouseError,
                urllib3.exceptions.HTTPError,
                http.client.HTTPException,
                OSError,
                pa.ArrowInvalid,
            ) as error:
                if not _may_pass(error) or time.monotonic() > deadline:
                    raise _explained(error, self.database) from error
                self._disconnect()
            time.sleep(pause)
            pause = min(2 * pause, RETRY_PAUSE_S_MAX)

    def _connected(self) -> Client:
        """Return this process's connection."""
        with self._lock:
            if self._client is None or self._client[0] != os.getpid():
                client = open_client(self._locate())
                client.database = self.database
                self._client = (os.getpid(), client)
            return self._client[1]

    def _disconnect(self) -> None:
        """Drop the connection, so that the next use makes a new one."""
        with self._lock:
            if self._client is not None and self._client[0] == os.getpid():
                self._client[1].close_connections()
                self._client[1].close()
            self._client = None


def open_client(url: str) -> Client:
    """Connect to a server, with the settings every reader and writer needs."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"server was {url!r}, it must look like http://user:password@host:8123")
    near = parts.hostname in {"127.0.0.1", "::1", "localhost"}
    return clickhouse_connect.get_client(
        interface=parts.scheme,
        host=parts.hostname,
        port=parts.port or (8443 if parts.scheme == "https" else 8123),
        username=urllib.parse.unquote(parts.username or "default"),
        password=urllib.parse.unquote(parts.password or ""),
        compress=False if near else "lz4",
        connect_timeout=5,
        send_receive_timeout=QUERY_S_MAX,
        query_limit=0,
        # A pool of its own, closed with the client: a connection left open delays a server's stop by seconds. The near
        # one is made here, because the driver would send even loopback through a proxy named in the environment.
        pool_mgr=urllib3.PoolManager(num_pools=1, maxsize=8) if near else None,
        dedicated_pool=not near,
        autogenerate_session_id=False,  # a session would refuse two threads at once
        settings={
            "async_insert": 0,  # 26.x defaults to 1, with de-duplication rules of its own
            "do_not_merge_across_partitions_select_final": 1,  # every key contains its time, so none crosses a partition
            "http_response_buffer_size": ANSWER_BYTES_MAX,
            "output_format_arrow_compression_method": "none" if near else "lz4_frame",
        },
    )


def schema_files() -> dict[int, tuple[str, str]]:
    """Return the numbered schema files: version → (name, text)."""
    folder = resources.files("squeezecore.adapters") / "schema"
    found = {}
    for entry in folder.iterdir():
        if entry.name.endswith(".sql"):
            found[int(entry.name.split("_", 1)[0])] = (entry.name, entry.read_text(encoding="utf-8"))
    return found


def statements(text: str) -> Iterator[str]:
    """Yield the statements of a schema file, without comments.

    >>> list(statements("SELECT 1; SELECT 2; -- one; two"))
    ['SELECT 1', 'SELECT 2']
    """
    for statement in re.sub(r"--[^\n]*", "", text).split(";"):
        if statement.strip():
            yield statement.strip()


def _may_pass(error: Exception) -> bool:
    """Say whether the same request may succeed later."""
    if isinstance(error, ClickHouseError):
        code = getattr(error, "code", None)
        return code in RETRY_CODES if code is not None else not isinstance(error, ProgrammingError)
    return True


def _explained(error: Exception, database: str) -> StoreError:
    """Put an error of the driver into words."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if getattr(error, "code", None) == DISK_FULL_CODE or "No space left" in str(error):
        return StoreError(
            f"disk of the store was full, nothing of this block was written: free some space and repeat ({text})"
        )
    return StoreError(f"store {database} answered: {text}")


def _clock(seconds: int) -> int:
    """Cut a time to what a DateTime can be compared with."""
    return max(0, min(TS_MAX, int(seconds)))


def _date(days: int | dt.date) -> dt.date:
    """Read a `Date` column's value."""
    return days if isinstance(days, dt.date) else dt.date(1970, 1, 1) + dt.timedelta(days)


def _check_ascending(what: str, name: str, ts: NDArray[np.int64]) -> None:
    """Refuse seconds out of order or outside of what the store can hold."""
    if not len(ts):
        return
    if ts.min() < 0 or ts.max() > TS_MAX:
        raise UsageError(
            f"times of {what} of {name} were {ts.min()}..{ts.max()} s, the limit is 0..{TS_MAX}: give UTC seconds"
        )
    if (np.diff(ts) <= 0).any():
        at = int(np.flatnonzero(np.diff(ts) <= 0)[0])
        raise UsageError(
            f"times of {what} of {name} were {ts[at]} then {ts[at + 1]}, they must ascend: sort them, one row a second"
        )


def _days(ts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield `(start, end)` of each UTC day's part of ascending seconds."""
    if len(ts):
        borders = np.flatnonzero(np.diff(ts // DAY_S)) + 1
        yield from zip([0, *borders.tolist()], [*borders.tolist(), len(ts)], strict=True)


def _arrow(columns: Mapping[str, Column | str]) -> pa.Table:
    """Make an Arrow table; a text stands for a column of that text, times become what DateTime takes."""
    n = len(next(column for column in columns.values() if not isinstance(column, str)))
    arrays = {}
    for name, column in columns.items():
        if isinstance(column, str):
            arrays[name] = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([column]))
        elif name in CLOCK_COLUMNS:
            if n and (column.min() < 0 or column.max() > TS_MAX):
                raise UsageError(
                    f"{name} was {column.min()}..{column.max()} s, the limit is 0..{TS_MAX}: give UTC seconds"
                )
            arrays[name] = pa.array(column.astype(np.uint32))
        else:
            arrays[name] = pa.array(column)
    return pa.table(arrays)


def _numpy(column: pa.ChunkedArray) -> Column:
    """Copy an Arrow column into an array of its own; seconds become int64."""
    dtype = np.int64 if column.type == pa.uint32() else column.type.to_pandas_dtype()
    out = np.empty(len(column), dtype)
    at = 0
    for chunk in column.chunks:
        out[at : at + len(chunk)] = chunk.to_numpy(zero_copy_only=True)
        at += len(chunk)
    return out
