"""The tables by name and column, as this code knows them, and the records that are kept in them.

The schema files make the tables; at start both are compared, because a column left out of an insert would silently
become zero. A block of arrays (bars, rows, …) is defined in `squeezecore.market`, not here.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from squeezecore.market import Rows
from squeezecore.trading import Fill, Order, OrderUpdate, Payment, Signal, Trade

ROLLUPS = {"bars_1m": 60, "bars_5m": 300, "bars_1h": 3600}  # table → seconds a bar

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
        ROLLUPS,
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
    "backtest_days": (
        "run_id",
        "asset",
        "day",
        "data_hash",
        "state_in",
        "state_out",
        "tape",
        "facts",
        "timings",
        "error",
    ),
    "backtest_trades": ("run_id", "number", *Trade.__struct_fields__),
    "backtest_equity": ("run_id", "ts", "equity_usd_e8"),
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
    "trials": (
        *("writer", "sequence", "generation", "previous", "seen", "run_id", "result_hash", "spec", "first_day"),
        *("last_day", "assets", "daily", "sharpe", "total_return", "trades", "code_version", "hash"),
    ),
    "placebos": ("run_id", "result_hash", "name", "seed", "total_return", "sharpe", "trades", "win_rate"),
    "run_parts": ("run_id", "part", "result_hash", "body", "version"),
    "signals": ("run_id", *Signal.__struct_fields__),
    "orders": ("run_id", *(name for name in Order.__struct_fields__ if name != "account")),
    "order_updates": ("run_id", *OrderUpdate.__struct_fields__),
    "fills": ("run_id", *(name for name in Fill.__struct_fields__ if name != "account")),
    "payments": ("run_id", *Payment._fields),
    "equity": ("run_id", "ts", "equity_usd_e8"),
    "standings": ("run_id", "ts", "judging", "state", "kill_switch"),
    "switches": ("account", "revision", "at_ns", "state", "kill_switch", "reason"),
    "trades": (
        *("instrument", "exchange_ns", "id", "price", "qty", "side", "twin", "received_ns", "quote_cents", "flags"),
    ),
    "snapshots": ("service", "key", "ts", "stream_seq", "code_version", "body"),
    "asset_changes": ("asset", "from_ts", "config_rev", "config"),
}
RESULT_KEYS = {"backtest_trades": "number", "backtest_equity": "ts", "decisions": "asset, ts, number"}  # within a run
CLOCK_COLUMNS = {
    "ts",
    "known_at",
    "event_ts",
    "start_s",
    "end_s",
    "from_ts",
}  # DateTime in the tables of what the market said


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
    facts: dict[str, Any] = {}  # of the day's rows: what the fold and the summary need beside the tape
    timings: dict[str, float] = {}  # seconds by phase
    error: str = ""


class Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One finished run as a link of a chain; `trials` says how links hang together."""

    writer: str
    sequence: int
    generation: int
    previous: str
    seen: tuple[str, ...]  # ascending
    run_id: str
    result_hash: str
    spec: str  # canonical JSON
    first_day: dt.date
    last_day: dt.date
    assets: tuple[str, ...]  # ascending
    daily: tuple[float, ...]  # return of each day
    sharpe: float | None  # a year; none where days do not differ
    total_return: float
    trades: int
    code_version: str
    hash: str = ""


class PlaceboRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one seed of a placebo came to."""

    name: str  # shuffled | random
    seed: int
    total_return: float
    trades: int
    sharpe: float | None = None  # a year; none where it is not defined
    win_rate: float | None = None
