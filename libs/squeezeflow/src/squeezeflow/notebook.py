"""What a notebook wants: a run's tables, rows and bars as data frames, in units people use."""

from __future__ import annotations

import datetime as dt
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from squeezecore.adapters import explaining, operations, runner
from squeezecore.adapters.store import Store
from squeezecore.errors import UsageError
from squeezecore.report import Summary
from squeezecore.spec import BacktestSpec
from squeezecore.trading import USD_E8
from squeezeflow.main import default_home

Kind = Literal["polars", "pandas"]
Time = str | dt.date | dt.datetime


def _open(home: str | Path | None, clickhouse: str | None) -> AbstractContextManager[Store]:
    return operations.open_store(Path(home) if home else default_home(), clickhouse)


def _frame(table: pa.Table, kind: Kind) -> Any:
    if kind == "polars":
        import polars as pl  # noqa: PLC0415

        return pl.from_arrow(table)
    if kind == "pandas":
        return table.to_pandas()
    raise UsageError(f"frame was {kind!r}, it can be polars or pandas")


def _second(time: Time, name: str) -> int:
    if isinstance(time, str):
        try:
            time = dt.datetime.fromisoformat(time)
        except ValueError:
            raise UsageError(f"{name} was {time!r}, which is no UTC time: write it as 2026-01-31T12:00:00") from None
    if not isinstance(time, dt.datetime):
        time = dt.datetime(time.year, time.month, time.day)  # noqa: DTZ001 - made UTC below
    if time.microsecond or getattr(time, "nanosecond", 0):  # the latter is pandas'
        raise UsageError(f"{name} was {time}, times are whole seconds: leave the fraction out")
    return int((time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp())


@dataclass(frozen=True)
class Run:
    """A finished run; its tables are read when asked for."""

    run_id: str
    result_hash: str
    spec: BacktestSpec
    summary: Summary
    home: Path | None = None
    clickhouse: str | None = None
    frame: Kind = "polars"

    def trades(self) -> Any:
        """Return one line a trade: USD, base units, UTC seconds."""
        with _open(self.home, self.clickhouse) as store:
            known, listed = operations.assets(store), store.instruments()
            instruments = {asset: listed[known[asset].traded] for asset in self.spec.assets}
            return _frame(runner.trade_table(store.trades(self.run_id), instruments), self.frame)

    def equity(self) -> Any:
        """Return equity in USD, a point a minute and at each fill."""
        with _open(self.home, self.clickhouse) as store:
            ts, equity = store.equity(self.run_id)
        return _frame(pa.table({"ts": _clock(ts), "equity_usd": equity / USD_E8}), self.frame)

    def decisions(self) -> Any:
        """Return every decision record, its reasons as JSON in `record`."""
        with _open(self.home, self.clickhouse) as store:
            return _frame(store.read_table("decisions", self.run_id).drop_columns(["run_id"]), self.frame)


def load_run(
    name: str = "last", *, home: str | Path | None = None, clickhouse: str | None = None, frame: Kind = "polars"
) -> Run:
    """Load a finished run by its id, the beginning of it, or `last`.

    `home` is where the command keeps its store: `SQUEEZE_HOME` or the user's data directory when not given. `frame` decides
    what its tables are: polars or pandas.

    >>> run = load_run("last")
    >>> run.summary.days, run.spec.assets
    (3, ('BTC',))
    >>> run.trades().columns[:4]
    ['number', 'asset', 'instrument', 'direction']
    >>> run.equity().columns
    ['ts', 'equity_usd']

    Raises:
        UsageError: no finished run has that name.
    """
    with _open(home, clickhouse) as store:
        found = explaining.find_run(store, name)
    answer = runner.answer_of(found)
    return Run(
        run_id=found.run_id,
        result_hash=found.result_hash,
        spec=answer.spec,
        summary=answer.summary,
        home=Path(home) if home else None,
        clickhouse=clickhouse,
        frame=frame,
    )


def rows(
    asset: str,
    start: Time,
    end: Time,
    *,
    home: str | Path | None = None,
    clickhouse: str | None = None,
    frame: Kind = "polars",
) -> Any:
    """Return an asset's seconds in `[start, end)`: flows in USD, the traded instrument's prices, open interest in base.

    Times are UTC, whole seconds: a string, a date (its midnight) or a datetime. The asset may be written small.

    >>> rows("BTC", "2026-01-04T12:00:00", "2026-01-04T12:05:00").height
    300

    Raises:
        UsageError: the asset is unknown, a time is none, or the range does not end after it begins.
        DataHoleError: no row lies in the range.
    """
    begin, stop = _range(start, end)
    with _open(home, clickhouse) as store:
        traded = operations.instrument_for(store, "rows", asset.upper())
        block = operations.read_rows(store, asset.upper(), begin, stop)
    return _clocked(operations.block_table(block, traded), frame)


def bars(
    instrument: str,
    start: Time,
    end: Time,
    *,
    every: str = "1s",
    home: str | Path | None = None,
    clickhouse: str | None = None,
    frame: Kind = "polars",
) -> Any:
    """Return an instrument's seconds in `[start, end)`: prices, base volumes, USD, prints, completeness.

    `every` gives longer bars, "1m", "5m" or "1h": those that begin in the range, each whole, with the seconds it has and
    how many of these are complete.

    >>> bars("binance:BTC-USDT", "2026-01-04", "2026-01-05", frame="pandas")["complete"].mean()
    np.float64(1.0)
    >>> bars("binance:BTC-USDT", "2026-01-04", "2026-01-05", every="1h").height
    24

    Raises:
        UsageError: the store does not know the instrument, a time is none, or the range does not end after it begins.
        DataHoleError: no bar lies in the range.
    """
    begin, stop = _range(start, end)
    with _open(home, clickhouse) as store:
        of = operations.instrument_for(store, "bars", instrument)
        return _clocked(operations.read_bars(store, of, begin, stop, every), frame)


def _range(start: Time, end: Time) -> tuple[int, int]:
    begin, stop = _second(start, "start"), _second(end, "end")
    if stop <= begin:
        raise UsageError(f"range was {operations.utc(begin)} to {operations.utc(stop)}, it must end after it begins")
    return begin, stop


def _clocked(table: pa.Table, frame: Kind) -> Any:
    return _frame(table.set_column(0, "ts", _clock(table["ts"].to_numpy())), frame)


def _clock(ts: np.ndarray[Any, Any]) -> pa.Array:
    return pa.array(ts, pa.timestamp("s", "UTC"))
