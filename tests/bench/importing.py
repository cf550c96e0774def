"""Recorded trades to bars: a Parquet file through the importer's own reader and kernel, then into the store."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from squeezecore import simulator
from squeezecore.adapters import archive, embedded, importing, reading, repair
from squeezecore.adapters.filebars import scan_file
from squeezecore.adapters.operations import silent
from squeezecore.market import Side, Trades
from squeezecore.spec import day_start_s
from tests.bench.measuring import Figure, plain, rate, timed
from tests.bench.stage import ASSET, START, Stage

NAME = "binance:BTC-USDT-PERP"
COLUMNS = "id=id,price=price,qty=qty,time=time,maker=is_buyer_maker"
TRADES_MIN = 2_000_000
RUNS = 3
BAR = 1e6


def figures(stage: Stage) -> list[Figure]:
    """Measure readers, readers + kernel, and the whole import."""
    stage.tell("simulating trades")
    instrument = next(one for one in simulator.instruments(ASSET) if one.id == NAME)
    with tempfile.TemporaryDirectory(prefix="squeezeflow-bench-") as folder:
        file = Path(folder) / "trades.parquet"
        count, seconds = _write(file, instrument.price_decimals, instrument.qty_decimals)
        said = f"{count:,} prints of {seconds:,} s, id, price and quantity as float64, time in ms; {file.stat().st_size / count:.1f} bytes a print"
        stage.tell("trades from Parquet to bars")
        layout = archive.column_map(COLUMNS)

        def read() -> None:
            assert sum(len(block.id) for block in _blocks(file, layout)) == count

        def to_bars() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as spool:
                opened = reading.open_table(file, layout, NAME, {})
                assert opened is not None
                findings = repair.Findings()
                blocks = opened.blocks(findings, archive.UnitCount(), lambda _done: None)
                scanned = scan_file(
                    opened, repair.in_order(blocks, has_ids=True, findings=findings), Path(spool), findings
                )
                assert scanned is not None
                assert sum(day.prints for day in scanned.days) == count

        reader, bars = timed(read, RUNS), timed(to_bars, RUNS)
        lines = [
            rate("trades to bars from Parquet", count, bars, "trades/s/core", BAR, f"read, judge order and ids, make bars: {said}"),
            plain("  of it reading", reader.seconds / bars.seconds, "of the time", f"{count / reader.seconds:,.0f} trades/s; {reader.said}"),
        ]  # fmt: skip
        return [*lines, _whole(stage, file, layout, count)]


def _whole(stage: Stage, file: Path, layout: archive.Layout, count: int) -> Figure:
    """Import into an empty database, again and again."""
    stage.tell("importing into ClickHouse")
    with embedded.open_store(stage.home, database="bench_import") as store:

        def act() -> None:
            importing.import_paths(store, [file], column_map=layout, instrument=NAME, replace=True, progress=silent)

        timing = timed(act, RUNS)
        store.drop_database()
    how = f"import_paths: checksum, bars, holes, bars and rows stored, an older import of the same days dropped; {timing.said}"
    return plain("trades imported into the store", count / timing.seconds, "trades/s", how)


def _blocks(file: Path, layout: archive.Layout) -> list[Trades]:
    opened = reading.open_table(file, layout, NAME, {})
    assert opened is not None
    return list(opened.blocks(repair.Findings(), archive.UnitCount(), lambda _done: None))


def _write(file: Path, price_decimals: int, qty_decimals: int) -> tuple[int, int]:
    """Write simulated prints as a repacked archive has them; return how many, and of how many seconds."""
    start_s = day_start_s(START)
    world = simulator.WorldSpec(start=START, assets=(ASSET,))
    tables: list[pa.Table] = []
    count = hours = 0
    while count < TRADES_MIN:
        span = start_s + hours * 3600
        trades = simulator.simulate_trades(world, ASSET, span, span + 4 * 3600)[NAME]
        tables.append(
            pa.table(
                {
                    "id": trades.id,
                    "price": trades.price / 10**price_decimals,
                    "qty": trades.qty / 10**qty_decimals,
                    "time": trades.exchange_ns // 1_000_000,
                    "is_buyer_maker": np.equal(trades.side, int(Side.SELL)),
                }
            )
        )
        count += len(trades.id)
        hours += 4
    pq.write_table(pa.concat_tables(tables), file, compression="zstd")
    return count, hours * 3600
