"""What a user can do, as functions Request → Response; the command, HTTP and notebooks are skins over these.

A request is a frozen value with bounds, a response a frozen value that becomes JSON as it is. Long work reports `Progress`
through a callback and can be interrupted at any moment: what was finished is kept, what was not leaves no trace.
Imports and backtests have modules of their own (`importing`, `download`, `runner`); they are operations like these.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from msgspec import Meta

from squeezecore.adapters import embedded
from squeezecore.adapters.assets import find_asset, load_assets
from squeezecore.adapters.store import Store
from squeezecore.adapters.tables import ROLLUPS, DayCoverage
from squeezecore.errors import DataHoleError, SqueezeError, UsageError
from squeezecore.market import BASIS_SCALE, CENTS, DAY_S, FUNDING_SCALE, PPM, Bars, Gap, Instrument, Rows
from squeezecore.spec import AssetConfig, canonical, day_start_s, nearest

ASSETS_KEY = "assets.toml"  # where the store keeps the asset list in force


class Progress(NamedTuple):
    """How far a long operation is."""

    label: str
    done: int
    total: int
    unit: str


Report = Callable[[Progress], None]


def silent(_progress: Progress) -> None:
    """Report nothing."""


def refusal(error: msgspec.ValidationError, values: Mapping[str, Any]) -> str:
    """Put a refused value into words: its name, the value itself, and what it must be.

    >>> refusal(msgspec.ValidationError("Expected `int` <= 9 - at `$.costs.fee`"), {"costs": {"fee": 12}})
    'costs.fee was 12, it was refused: expected `int` <= 9'
    """
    what, _, place = str(error).partition(" - at `$.")
    if not place:
        return f"the request was refused: {what}"
    value: Any = values
    for name in place.rstrip("`").split("."):
        value = value.get(name, "") if isinstance(value, Mapping) else value
    return f"{place.rstrip('`')} was {value!r}, it was refused: {what[0].lower()}{what[1:]}"


@contextlib.contextmanager
def open_store(home: Path, clickhouse_url: str | None = None) -> Iterator[Store]:
    """Open the store: an external ClickHouse when its address is given, else the embedded one of `home`."""
    if clickhouse_url is None:
        with embedded.open_store(home) as store:
            yield store
        return
    url, _, database = clickhouse_url.partition("//")[2].partition("/")
    address = clickhouse_url.partition("//")[0] + "//" + url
    with Store.connect(address, database or "squeeze") as store:
        yield store


# --- assets ---


def assets(store: Store) -> dict[str, AssetConfig]:
    """Return the asset list in force: the store's, or the one that comes with the package."""
    found = store.config(ASSETS_KEY)
    return load_assets() if found is None else msgspec.json.decode(found[0], type=dict[str, AssetConfig])


def put_assets(store: Store, path: Path) -> dict[str, AssetConfig]:
    """Check an assets file and put it in force."""
    config = load_assets(path)
    store.put_config(ASSETS_KEY, canonical(config).decode())
    return config


# --- simulate ---


WORLDS = ("squeeze", "noise")
DAY_MAX = dt.date(2105, 12, 31)  # the last whole year of the store's clock


class SimulateRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A simulated market to be put into the store."""

    assets: tuple[str, ...] = ("BTC",)
    start: dt.date = dt.date(2026, 1, 1)
    days: Annotated[int, Meta(ge=1, le=3_660)] = 3
    seed: Annotated[int, Meta(ge=0)] = 7
    world: str = "squeeze"


class SimulateReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was made."""

    assets: tuple[str, ...]
    first: dt.date
    last: dt.date
    seed: int
    world: str
    rows: int
    bars: int


def simulate(store: Store, request: SimulateRequest, report: Report = silent) -> SimulateReport:
    """Make a seeded market and store its bars, open interest, funding and rows; doing it again changes nothing.

    Real data is never overwritten: a day that an import has brought is refused.
    """
    from squeezecore import simulator  # noqa: PLC0415 - compiles on first use

    if request.world not in WORLDS:
        raise UsageError(f"world was {request.world!r}, which does not exist: {nearest(request.world, WORLDS)}")
    try:
        world = msgspec.convert(
            {
                "seed": request.seed,
                "start": request.start,
                "days": request.days,
                "assets": request.assets,
                "kind": request.world,
            },
            simulator.WorldSpec,
        )
    except msgspec.ValidationError as error:
        raise UsageError(refusal(error, {**msgspec.structs.asdict(request), "kind": request.world})) from error
    if world.start + dt.timedelta(world.days - 1) > DAY_MAX:
        raise UsageError(f"days were {world.days} from {world.start}, the store ends with {DAY_MAX}: make fewer")
    _refuse_mixing(store, world)
    known = assets(store)
    rows = bars = done = 0
    total, last = len(world.assets) * world.days, world.start + dt.timedelta(world.days - 1)
    for asset in world.assets:
        find_asset(known, asset)
        listed = simulator.instruments(asset)
        for instrument in listed:
            store.put_instrument(instrument)
        traded = known[asset].traded
        for day in simulator.simulate_rows(world, asset):
            for name, block in day.bars.items():
                store.insert_bars(name, block)
                bars += len(block.ts)
            store.insert_open_interest(traded, day.open_interest)
            store.insert_funding(traded, day.funding)
            store.insert_rows(asset, day.rows, replace=True)
            rows += len(day.rows.ts)
            done += 1
            report(Progress(f"{asset} {day.day}", done, total, "days"))
        store.rollup(world.start, last, [instrument.id for instrument in listed])
    return SimulateReport(
        assets=world.assets, first=world.start, last=last, seed=world.seed, world=world.kind, rows=rows, bars=bars
    )


def _refuse_mixing(store: Store, world: Any) -> None:
    start, end = day_start_s(world.start), day_start_s(world.start) + world.days * DAY_S
    for record in store.imports():
        at = day_start_s(record.day)
        base = record.instrument.partition(":")[2].partition("-")[0]
        if base in world.assets and start <= at < end:
            raise UsageError(
                f"day was {record.day} of {record.instrument}, which holds imported trades ({record.source}): "
                "simulate other days, or another --home"
            )


# --- what is in the store ---


class CoverageReport(msgspec.Struct, frozen=True, kw_only=True):
    """Days, holes and sizes of everything stored."""

    instruments: tuple[DayCoverage, ...]
    assets: tuple[DayCoverage, ...]
    gaps: tuple[Gap, ...]
    set_aside: dict[str, dict[str, int]]  # instrument → what imports repaired or set aside, counted
    tables: tuple[dict[str, Any], ...]


def coverage(store: Store, name: str | None = None) -> CoverageReport:
    """Say what the store holds, of one instrument or asset or of all."""
    everything = tuple(store.coverage()), tuple(store.asset_coverage())
    names = {line.name for part in everything for line in part}
    if name is not None and name.upper() in names:  # an asset may be written small
        name = name.upper()
    if name is not None and name not in names:
        raise UsageError(
            f"name was {name!r}, the store holds nothing of it: {nearest(name, names) if names else 'import or simulate first'}"
        )
    wanted = names if name is None else {name}
    counted: dict[str, dict[str, int]] = {}
    for record in store.imports():
        for key, count in record.report.items():
            if isinstance(count, int) and count and record.instrument in wanted:
                of = counted.setdefault(record.instrument, {})
                of[key] = of.get(key, 0) + count
    return CoverageReport(
        instruments=tuple(line for line in everything[0] if line.name in wanted),
        assets=tuple(line for line in everything[1] if line.name in wanted),
        gaps=tuple(gap for gap in store.gaps() if gap.instrument in wanted),
        set_aside=counted,
        tables=tuple(
            {"table": size.table, "rows": size.rows, "bytes": size.bytes, "bytes_per_row": round(size.bytes_per_row, 2)}
            for size in store.sizes()
            if size.rows
        ),
    )


# --- flow, to look at ---


class FlowReport(msgspec.Struct, frozen=True, kw_only=True):
    """One asset's seconds as a person wants to see them; USD and prices as decimals."""

    asset: str
    traded: str
    ts: list[int]
    close: list[float]
    spot_delta_usd: list[float]
    perp_delta_usd: list[float]
    spot_cvd_usd: list[float]
    perp_cvd_usd: list[float]
    spot_volume_usd: float
    perp_volume_usd: float
    basis_bps: list[float]
    quality: list[float]
    missing_seconds: int


FLOW_SECONDS_MAX = 7 * DAY_S


def flow(store: Store, asset: str, start_s: int, end_s: int) -> FlowReport:
    """Return spot and perp flow of each second in `[start_s, end_s)`; CVD counts from `start_s`."""
    if not 0 < end_s - start_s <= FLOW_SECONDS_MAX:
        raise UsageError(f"range was {end_s - start_s} s, it must be 1 to {FLOW_SECONDS_MAX}: move --from or --to")
    config = find_asset(assets(store), asset)
    rows = read_rows(store, asset, start_s, end_s)
    scale = 10 ** store.instruments()[config.traded].price_decimals
    return FlowReport(
        asset=asset,
        traded=config.traded,
        ts=rows.ts.tolist(),
        close=(rows.close / scale).tolist(),
        spot_delta_usd=(rows.spot_delta / CENTS).tolist(),
        perp_delta_usd=(rows.perp_delta / CENTS).tolist(),
        spot_cvd_usd=(np.cumsum(rows.spot_delta) / CENTS).tolist(),
        perp_cvd_usd=(np.cumsum(rows.perp_delta) / CENTS).tolist(),
        spot_volume_usd=int(rows.spot_volume.sum()) / CENTS,
        perp_volume_usd=int(rows.perp_volume.sum()) / CENTS,
        basis_bps=(rows.basis_bps / BASIS_SCALE).tolist(),
        quality=(rows.quality_ppm / PPM).tolist(),
        missing_seconds=int(rows.ts[-1] - rows.ts[0]) + 1 - len(rows.ts),
    )


def read_rows(store: Store, asset: str, start_s: int, end_s: int) -> Rows:
    """Read an asset's rows, or say which rows there are when none lie in the range."""
    rows = store.read_rows(asset, start_s, end_s)
    if len(rows.ts):
        return rows
    known = store.asset_coverage()
    mine = [line for line in known if line.name == asset]
    if mine:
        text = f"{asset} has rows from {utc(mine[0].first_ts)} to {utc(mine[-1].last_ts)}"
    else:
        others = sorted({line.name for line in known})
        text = (
            f"the store holds rows of {', '.join(others)}" if others else "the store is empty: import or simulate first"
        )
    raise DataHoleError(f"range was {utc(start_s)} to {utc(end_s)}, {asset} has no row in it: {text}")


def bars_table(store: Store, instrument: Instrument, start_s: int, end_s: int, every: str = "1s") -> pa.Table:
    """Return an instrument's bars of a length (`EVERY`) that begin in `[start_s, end_s)`, in units people use."""
    if every not in EVERY:
        raise UsageError(f"every was {every!r}, it can be {', '.join(EVERY)}")
    if not EVERY[every]:
        return block_table(store.read_bars(instrument.id, start_s, end_s), instrument)
    stored = store.read_rollup(EVERY[every], instrument.id, start_s, end_s)
    names = [{"complete": "seconds_complete"}.get(name, name) for name in stored.column_names]
    columns = dict(zip(names, (column.to_numpy() for column in stored.columns), strict=True))
    del columns["version"]
    return _in_units(columns, instrument)


def read_bars(store: Store, instrument: Instrument, start_s: int, end_s: int, every: str = "1s") -> pa.Table:
    """Do as `bars_table`, or say which bars there are when none lie in the range."""
    bars = bars_table(store, instrument, start_s, end_s, every)
    if len(bars):
        return bars
    mine = store.coverage(instrument.id)
    text = (
        f"it has bars from {utc(mine[0].first_ts)} to {utc(mine[-1].last_ts)}"
        if mine
        else "the store holds none of it: import or simulate first"
    )
    raise DataHoleError(f"range was {utc(start_s)} to {utc(end_s)}, {instrument.id} has no bar in it: {text}")


def utc(second: int) -> str:
    """Write a second as UTC."""
    return dt.datetime.fromtimestamp(second, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- export ---


EVERY = {"1s": ""} | {table.removeprefix("bars_"): table for table in ROLLUPS}  # length of a bar → table


class ExportRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bars or rows of a range, into one file."""

    what: str  # bars | rows
    name: str  # an instrument, or an asset
    start_s: int
    end_s: int
    out: Path
    every: str = "1s"  # of bars: how long one is, a key of `EVERY`


class ExportReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was written."""

    out: str
    rows: int
    bytes: int
    columns: tuple[str, ...]


def export(store: Store, request: ExportRequest, report: Report = silent) -> ExportReport:
    """Write seconds, or longer bars, to Parquet or CSV, a day at a time; the file appears whole or not at all.

    A longer bar is written whole where it begins in the range. `ts` is in UTC seconds, quantities in base units, prices
    and USD as decimals: each the float nearest to the stored integer's exact value.
    """
    if request.what not in ("bars", "rows"):
        raise UsageError(f"what was {request.what!r}, it can be bars or rows")
    if request.every not in EVERY:
        raise UsageError(f"every was {request.every!r}, it can be {', '.join(EVERY)}")
    if request.every != "1s" and request.what == "rows":
        raise UsageError(f"every was {request.every}, rows are seconds: leave it out, or export bars")
    if request.out.suffix not in (".parquet", ".csv"):
        raise UsageError(f"file was {request.out}, its name must end in .parquet or .csv")
    if request.end_s <= request.start_s:
        raise UsageError(f"range was {utc(request.start_s)} to {utc(request.end_s)}, it must not be empty")
    instrument = instrument_for(store, request.what, request.name)
    partial = request.out.with_name(request.out.name + ".partial")
    written = 0
    columns: tuple[str, ...] = ()
    writer: Any = None
    step = DAY_S if request.every == "1s" else 30 * DAY_S
    spans = list(range(request.start_s, request.end_s, step))
    try:
        request.out.parent.mkdir(parents=True, exist_ok=True)
        for number, start in enumerate(spans, 1):
            table = _decimals(store, request, instrument, start, min(start + step, request.end_s))
            if writer is None:
                writer = _open_writer(partial, table.schema)
                columns = tuple(table.column_names)
            if len(table):
                writer.write_table(table)
            written += len(table)
            report(Progress(request.name, number, len(spans), "days"))
        writer.close()
        if not written:
            partial.unlink()
            raise DataHoleError(
                f"range was {utc(request.start_s)} to {utc(request.end_s)}, {request.name} has no second in it: see squeezeflow data"
            )
        partial.replace(request.out)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise SqueezeError(
            f"{request.out} could not be written ({error}): nothing was kept, free space or choose another place"
        ) from error
    return ExportReport(out=str(request.out), rows=written, bytes=request.out.stat().st_size, columns=columns)


def instrument_for(store: Store, what: str, name: str) -> Instrument:
    """Return the instrument whose scales bars (of `name`) or rows (of asset `name`) are written at."""
    known = store.instruments()
    if what == "rows":
        name = find_asset(assets(store), name).traded
    if name not in known:
        hint = nearest(name, known) if known else "the store is empty: import or simulate first"
        raise UsageError(f"instrument was {name!r}, which the store does not know: {hint}")
    return known[name]


def _open_writer(path: Path, schema: pa.Schema) -> Any:
    if path.name.endswith(".csv.partial"):
        return pa.csv.CSVWriter(path, schema)
    return pa.parquet.ParquetWriter(path, schema, compression="zstd")


PRICES = frozenset(("open", "high", "low", "close", "mark"))
QUANTITIES = frozenset(("buy_volume", "sell_volume", "largest", "buy_qty", "sell_qty", "open_interest"))
USD_COLUMNS = {"buy_usd_cents": "buy_usd", "sell_usd_cents": "sell_usd"} | {
    name: name for name in ("spot_delta", "perp_delta", "spot_volume", "perp_volume")
}
RATES = {"funding_rate_8h": FUNDING_SCALE, "basis_bps": BASIS_SCALE, "quality_ppm": PPM}


def _decimals(store: Store, request: ExportRequest, instrument: Instrument, start_s: int, end_s: int) -> pa.Table:
    if request.what == "bars":
        return bars_table(store, instrument, start_s, end_s, request.every)
    return block_table(store.read_rows(request.name, start_s, end_s), instrument)


def block_table(block: Bars | Rows, instrument: Instrument) -> pa.Table:
    """Return bars or rows as a table in units people use; see `export`."""
    return _in_units(block._asdict(), instrument)


def _in_units(stored: Mapping[str, Any], instrument: Instrument) -> pa.Table:
    columns: dict[str, Any] = {}
    for name, values in stored.items():
        if name in PRICES:
            columns[name] = values / 10**instrument.price_decimals
        elif name in QUANTITIES:
            columns[name] = values / 10**instrument.qty_decimals
        elif name in USD_COLUMNS:
            columns[USD_COLUMNS[name]] = values / CENTS
        elif name in RATES:
            columns["quality" if name == "quality_ppm" else name] = values / RATES[name]
        elif name == "complete":
            columns[name] = values.astype(bool)
        else:
            columns[name] = values
    return pa.table(columns)
