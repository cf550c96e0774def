"""Recorded trades to bars: a Parquet file through the importer's own reader and kernel, then into the store."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tests.bench.measuring import Figure, on_one_core, plain, rate, timed
from tests.bench.stage import ASSET, START, Stage

from squeezecore import simulator
from squeezecore.adapters import archive, embedded, importing, reading, repair
from squeezecore.adapters.filebars import scan_file
from squeezecore.adapters.operations import silent
from squeezecore.market import Side
from squeezecore.spec import day_start_s

NAME = "binance:BTC-USDT-PERP"
COLUMNS = "id=id,price=price,qty=qty,time=time,maker=is_buyer_maker"
TRADES_MIN = 2_000_000
RUNS = 3
BAR = 1e6


def figures(stage: Stage) -> list[Figure]:
    """Measure readers, readers + kernel, and the whole import."""
    stage.tell("simulating trades")
    instrument = next(one for one in simulator.instruments(ASSET) if one.id == NAME)
    layout = archive.column_map(COLUMNS)
    lines = []
    with tempfile.TemporaryDirectory(prefix="squeezeflow-bench-") as folder:
        file, texts = Path(folder) / "trades.parquet", Path(folder) / "texts.parquet"
        count, seconds = _write(file, texts, instrument.price_decimals, instrument.qty_decimals)
        for path, kind in ((file, "floats"), (texts, "texts")):
            stage.tell(f"trades from Parquet to bars, {kind}")
            reader = timed(on_one_core(_read, path, layout, count), RUNS)
            bars = timed(on_one_core(_to_bars, path, layout, count, folder), RUNS)
            said = (
                f"read, judge order and ids, make bars: {count:,} prints of {seconds:,} s, price and quantity as {kind}, "
                f"{path.stat().st_size / count:.1f} bytes a print"
            )
            lines += [
                rate(f"trades to bars from Parquet, {kind}", count, bars, "trades/s/core", BAR, said),
                plain("  of it reading", reader.seconds / bars.seconds, "of the time", reader.said),
            ]
        return [*lines, _whole(stage, file, layout, count)]


def _read(file: Path, layout: archive.Layout, count: int) -> None:
    opened = reading.open_table(file, layout, NAME, {})
    assert opened is not None
    blocks = opened.blocks(repair.Findings(), archive.UnitCount(), lambda _done: None)
    assert sum(len(block.id) for block in blocks) == count


def _to_bars(file: Path, layout: archive.Layout, count: int, folder: str) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as spool:
        opened = reading.open_table(file, layout, NAME, {})
        assert opened is not None
        findings = repair.Findings()
        blocks = opened.blocks(findings, archive.UnitCount(), lambda _done: None)
        ordered = repair.in_order(blocks, has_ids=True, findings=findings)
        scanned = scan_file(opened, ordered, Path(spool), findings)
        assert scanned is not None
        assert sum(day.prints for day in scanned.days) == count


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


def _write(file: Path, texts: Path, price_decimals: int, qty_decimals: int) -> tuple[int, int]:
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
    table = pa.concat_tables(tables)
    pq.write_table(table, file, compression="zstd")
    for name, decimals in (("price", price_decimals), ("qty", qty_decimals)):
        numbers = [f"{number:.{decimals}f}" for number in table[name].to_pylist()]
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(numbers))
    pq.write_table(table, texts, compression="zstd")
    return count, hours * 3600
