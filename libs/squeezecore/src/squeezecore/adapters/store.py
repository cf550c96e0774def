"""The store: every read and write of ClickHouse, the same against a laptop's engine and any server.

Exactly once without tokens: each table is a ReplacingMergeTree on its natural key, the writer sends the same rows until
one send succeeds, and readers say FINAL. So a write may be repeated blindly, by us or by whoever calls. A day of one
instrument or asset is one block: it is in the store whole or not at all.

Only this module talks to ClickHouse. It turns columns into Arrow and back, bit for bit, and decides nothing.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from squeezecore.adapters import migration
from squeezecore.adapters.clickhouse import Connection, StoreError
from squeezecore.adapters.tables import (
    CLOCK_COLUMNS,
    RESULT_KEYS,
    ROLLUPS,
    TABLES,
    BacktestDay,
    BacktestRun,
    DayCoverage,
    ImportRecord,
    PlaceboRun,
    TableSize,
    Trial,
)
from squeezecore.errors import UsageError
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
from squeezecore.trading import Decision, Trade

__all__ = ["BacktestDay", "BacktestRun", "DayCoverage", "ImportRecord", "Store", "StoreError", "TableSize"]

Column = NDArray[Any]

TS_MAX = 2**32 - 1  # DateTime; 2106
SERIES_ROWS_MAX = 100_000  # a block of a sparse series, so that it spans less than a hundred months
# rows_1s.version = revision << 20 | quality_ppm: of two equal revisions the more complete wins.
REVISION_SHIFT = np.uint64(20)


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
        self._connection = Connection(locate, database)
        self._on_close = on_close
        try:
            self.migrate()
        except BaseException:
            self._connection.close()
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
        if self._connection.close():
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
        self.delete("bars_1s", where, values, partition=f"{day:%Y%m%d}")
        for table in ROLLUPS:
            self.delete(table, where, values, partition=f"{day:%Y%m}")
        self.delete("gaps", where.replace("ts ", "start_s "), values)
        self.delete(
            "imports",
            "instrument = {name:String} AND day = {day:Date} AND kind IN ('trade', 'aggregate')",
            {"name": instrument, "day": day},
        )

    def rollup(self, first: dt.date, last: dt.date | None = None, instruments: Sequence[str] = ()) -> None:
        """Compute the minute, five-minute and hour bars of days from their seconds; repeating it is harmless.

        Args:
            first: a UTC day.
            last: the last day; the same if None.
            instruments: whose; all if none is named.
        """
        start, end = day_start_s(first), day_start_s(last or first) + DAY_S
        for table in ROLLUPS:
            for month_s, until_s in _months(start, end):  # as much as a block may span
                self.rollup_span(table, month_s, until_s, instruments)

    def rollup_span(self, table: str, start_s: int, end_s: int, instruments: Sequence[str] = ()) -> None:
        """Compute one length's bars of `[start_s, end_s)`, whole ones, from the next shorter length's; at most a month."""
        lengths = list(ROLLUPS)
        at = lengths.index(table)  # each from the one before: only the first reads seconds
        source, seconds_of, version = (
            (lengths[at - 1], "sum(seconds)", "sum(version)") if at else ("bars_1s", "count()", "sum(version + 1)")
        )
        self.command(
            f"INSERT INTO {table} ({', '.join(TABLES[table])}) "
            f"SELECT instrument, toStartOfInterval(ts, INTERVAL {ROLLUPS[table]} SECOND) AS bar, "
            "argMin(open, ts), max(high), min(low), argMax(close, ts), sum(buy_volume), sum(sell_volume), "
            "sum(buy_usd_cents), sum(sell_usd_cents), sum(buy_trades), sum(sell_trades), max(largest), "
            f"{seconds_of}, sum(complete), {version} "
            f"FROM {source} FINAL WHERE (instrument IN {{names:Array(String)}} OR empty({{names:Array(String)}})) "
            "AND ts >= toDateTime({start:UInt32}, 'UTC') AND ts < toDateTime({end:UInt32}, 'UTC') "
            "GROUP BY instrument, bar",
            {"names": list(instruments), "start": start_s, "end": end_s},
        )

    def read_rollup(self, table: str, instrument: str, start_s: int, end_s: int) -> pa.Table:
        """Return `bars_1m`, `bars_5m` or `bars_1h` of `[start_s, end_s)`; columns as in the schema, `ts` in seconds."""
        names = TABLES[table][1:]
        return pa.table(self._columns_of(table, names, "instrument", instrument, start_s, end_s))

    def compact(self, day: dt.date) -> None:
        """Merge a closed day's parts, so that reading it costs least; safe to leave out, safe to repeat."""
        for table in ("bars_1s", "rows_1s"):
            self.command(f"OPTIMIZE TABLE {table} PARTITION {day:%Y%m%d} FINAL")

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
            revision = np.where(found, (stored["version"][at] >> REVISION_SHIFT) + np.uint64(1), np.uint64(0))
            version |= revision << REVISION_SHIFT
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
            self.delete(
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
        rows = [
            msgspec.structs.asdict(day)
            | {"facts": canonical(day.facts).decode(), "timings": canonical(day.timings).decode()}
            for day in days
        ]
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
            f"SELECT run_id, asset, day, data_hash, state_in, state_out, {'tape' if tapes else chr(39) * 2} AS tape, facts, timings, error "
            "FROM backtest_days FINAL WHERE run_id = {run:String} AND (asset = {asset:String} OR {asset:String} = '') "
            "AND day >= {start:Date} AND day <= {end:Date} ORDER BY asset, day",
            {"run": run_id, "asset": asset or "", "start": max(start, low), "end": min(end, high)},
        )
        at = table.schema.get_field_index("tape")
        table = table.set_column(at, "tape", table["tape"].cast(pa.binary()))
        return [
            BacktestDay(
                **row
                | {"day": _date(row["day"])}
                | {name: msgspec.json.decode(row[name]) for name in ("facts", "timings")}
            )
            for row in table.to_pylist()
        ]

    def insert_trades(self, run_id: str, trades: Sequence[Trade], first: int = 1) -> None:
        """Store trades of a run in order of entry, numbered from `first`."""
        rows = [
            msgspec.structs.asdict(trade) | {"run_id": run_id, "number": n} for n, trade in enumerate(trades, first)
        ]
        self._insert_dicts("backtest_trades", [row | {"direction": int(row["direction"])} for row in rows])

    def trades(self, run_id: str) -> list[Trade]:
        """Return a run's trades in order of entry; the number a person calls one by is its place, from 1."""
        rows = self.read_table("backtest_trades", run_id).drop_columns(["run_id", "number"]).to_pylist()
        return msgspec.convert(rows, list[Trade])

    def insert_equity(self, run_id: str, ts: NDArray[np.int64], equity_usd_e8: NDArray[np.int64]) -> None:
        """Store points of a run's equity, at most one a second."""
        if len(ts):
            self._insert("backtest_equity", _arrow({"run_id": run_id, "ts": ts, "equity_usd_e8": equity_usd_e8}))

    def equity(self, run_id: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return `(ts, equity_usd_e8)` of a run, ascending."""
        table = self.read_table("backtest_equity", run_id)
        return _numpy(table["ts"]), _numpy(table["equity_usd_e8"])

    def insert_decisions(self, run_id: str, decisions: Sequence[Decision]) -> None:
        """Store decisions, all those of a second and asset together and in their order."""
        seen: Counter[tuple[str, int]] = Counter()
        rows = []
        for decision in decisions:
            second = (decision.asset, decision.ts)
            rows.append(
                {
                    name: getattr(decision, name)
                    for name in ("asset", "ts", "kind", "score_milli", "phase", "reason", "order_id")
                }
                | {"run_id": run_id, "number": seen[second], "direction": int(decision.direction)}
                | {"record": canonical(decision).decode()}
            )
            seen[second] += 1
        self._insert_dicts("decisions", rows)

    def decisions(self, run_id: str, asset: str | None = None, start_s: int = 0, end_s: int = TS_MAX) -> list[Decision]:
        """Return the decisions of `[start_s, end_s)`, by asset, second and their order within it."""
        table = self.query(
            "SELECT record FROM decisions FINAL WHERE run_id = {run:String} AND (asset = {asset:String} OR {asset:String} = '') "
            "AND ts >= {start:Int64} AND ts < {end:Int64} ORDER BY asset, ts, number",
            {"run": run_id, "asset": asset or "", "start": start_s, "end": end_s},
        )
        return [msgspec.json.decode(record, type=Decision) for record in table["record"].to_pylist()]

    def drop_results(self, run_id: str) -> None:
        """Forget a run's trades, equity and decisions, so that a fold starts from nothing."""
        for table in RESULT_KEYS:
            self.delete(table, "run_id = {run:String}", {"run": run_id})

    def drop_run(self, run_id: str) -> None:
        """Forget a run altogether; that it was tried stays (`trials`)."""
        self.drop_results(run_id)
        for table in ("run_parts", "placebos", "backtest_days", "backtest_runs"):
            self.delete(table, "run_id = {run:String}", {"run": run_id})

    # Trials, placebos, parts

    def insert_trial(self, trial: Trial) -> None:
        """Append a link; the same link again changes nothing, another one in its place stands beside it."""
        kinds = {"seen": pa.list_(pa.string()), "assets": pa.list_(pa.string()), "daily": pa.list_(pa.float64())}
        kinds["sharpe"] = pa.float64()
        row = msgspec.structs.asdict(trial)
        columns = {name: pa.array([row[name]], kinds.get(name)) for name in TABLES["trials"]}
        self._insert("trials", pa.table(columns))

    def trials(self, run_id: str = "", assets: Sequence[str] = ()) -> list[Trial]:
        """Return links by generation, then hash: all, those of one run, or those of exactly these assets."""
        table = self.query(
            f"SELECT {', '.join(TABLES['trials'])} FROM trials FINAL WHERE (run_id = {{run:String}} OR {{run:String}} = '') "
            "AND (assets = {assets:Array(String)} OR empty({assets:Array(String)})) ORDER BY generation, hash",
            {"run": run_id, "assets": sorted(assets)},
        )
        return [
            msgspec.convert(row | {name: _date(row[name]) for name in ("first_day", "last_day")}, Trial)
            for row in table.to_pylist()
        ]

    def trial_heads(self) -> list[tuple[str, str, int]]:
        """Return `(hash, writer, generation)` of the links that no other names."""
        table = self.query(
            "SELECT hash, writer, generation FROM trials FINAL WHERE hash NOT IN (SELECT previous FROM trials) "
            "AND hash NOT IN (SELECT arrayJoin(seen) FROM trials) ORDER BY hash"
        )
        return [(row["hash"], row["writer"], row["generation"]) for row in table.to_pylist()]

    def insert_placebos(self, run_id: str, result_hash: str, runs: Sequence[PlaceboRun]) -> None:
        """Store what seeds came to; the same seed again replaces."""
        if not runs:
            return
        kinds = {"sharpe": pa.float64(), "win_rate": pa.float64()}
        rows = [msgspec.structs.asdict(run) | {"run_id": run_id, "result_hash": result_hash} for run in runs]
        columns = {name: pa.array([row[name] for row in rows], kinds.get(name)) for name in TABLES["placebos"]}
        self._insert("placebos", pa.table(columns))

    def placebos(self, run_id: str, result_hash: str, name: str) -> list[PlaceboRun]:
        """Return what a placebo's seeds came to for one result of a run, by seed."""
        table = self.query(
            "SELECT toString(name) AS name, seed, total_return, trades, sharpe, win_rate FROM placebos FINAL "
            "WHERE run_id = {run:String} AND result_hash = {result:String} AND placebos.name = {name:String} ORDER BY seed",
            {"run": run_id, "result": result_hash, "name": name},
        )
        return msgspec.convert(table.to_pylist(), list[PlaceboRun])

    def put_part(self, run_id: str, part: str, result_hash: str, body: bytes, version: int = 1) -> None:
        """Store what was worked out about one result of a run; `version` is the body's format."""
        row = {"run_id": run_id, "part": part, "result_hash": result_hash, "body": body, "version": version}
        self._insert_dicts("run_parts", [row])

    def part(self, run_id: str, part: str, result_hash: str, version: int = 1) -> bytes | None:
        """Return a part that was made for this result in this format, or None."""
        table = self.query(
            "SELECT body FROM run_parts FINAL WHERE run_id = {run:String} AND part = {part:String} "
            "AND result_hash = {result:String} AND version = {version:UInt64}",
            {"run": run_id, "part": part, "result": result_hash, "version": version},
        )
        found: list[bytes] = table["body"].cast(pa.binary()).to_pylist()
        return found[0] if found else None

    # Any table

    def insert_table(self, name: str, table: pa.Table) -> None:
        """Insert Arrow columns, exactly those of `TABLES[name]` in any order; repeating it is harmless."""
        self._insert(name, table)

    def read_table(self, name: str, run_id: str, order: str = "") -> pa.Table:
        """Return a run's rows of one of `RESULT_KEYS`, in key order or as `order` says."""
        return self.query(
            f"SELECT {', '.join(TABLES[name])} FROM {name} FINAL WHERE run_id = {{run:String}} ORDER BY {order or RESULT_KEYS[name]}",
            {"run": run_id},
        )

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> pa.Table:
        """Run a SELECT, values bound as `{name:Type}`; `DateTime` columns come as uint32 seconds, `Date` as uint16 days."""
        return self._connection.query(sql, params)

    # Schema

    def migrate(self) -> None:
        """Bring the database to this code's schema; repeating it is harmless."""
        migration.migrate(self._connection)

    def drop_database(self) -> None:
        """Forget everything in this database, and the database."""
        self.command(f"DROP DATABASE IF EXISTS `{self.database}` SYNC")

    # Arrow in and out

    def _insert_series(self, table: str, instrument: str, columns: Mapping[str, Column]) -> None:
        """Insert columns of one instrument, a hundred thousand at a time, so that no block spans too many partitions."""
        n = len(next(iter(columns.values())))
        for start in range(0, n, SERIES_ROWS_MAX):
            self._insert(
                table,
                _arrow(
                    {"instrument": instrument} | {k: v[start : start + SERIES_ROWS_MAX] for k, v in columns.items()}
                ),
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
            self._connection.insert(name, table)

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

    def delete(self, table: str, where: str, values: Mapping[str, Any], partition: str = "") -> None:
        """Delete rows and wait until they are gone."""
        place = f" IN PARTITION {partition}" if partition else ""
        self.command(f"DELETE FROM {table}{place} WHERE {where}", values)

    def command(self, sql: str, params: Mapping[str, Any] | None = None) -> None:
        """Run a statement that may be repeated."""
        self._connection.command(sql, params)


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


def _months(start_s: int, end_s: int) -> Iterator[tuple[int, int]]:
    """Yield each thirty days of a range."""
    for at in range(start_s, end_s, 30 * DAY_S):
        yield at, min(at + 30 * DAY_S, end_s)


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
