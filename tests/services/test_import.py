"""Importing: the real window in every form gives the same seconds; tables, series, rows; killed and run again."""

import datetime as dt
import gzip
import os
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services import archive_faults as faults
from services.archive_faults import FIXTURES, prints, publish
from squeezecore.adapters.archive import column_map
from squeezecore.adapters.importing import ImportRefusedError, import_paths
from squeezecore.adapters.scratch import scratch
from squeezecore.adapters.store import Store
from squeezecore.errors import UsageError
from squeezecore.market import Bars
from squeezecore.spec import day_start_s

IDS = {"spot": "binance:BTC-USDT", "um": "binance:BTC-USDT-PERP", "cm": "binance:BTC-USD-PERP"}
DAY = dt.date(2024, 8, 8)
T0 = day_start_s(DAY)
PERP = IDS["um"]


def bars_of(store: Store, name: str = PERP) -> Bars:
    return store.read_bars(name, 0, 2**32 - 1)


def assert_same(one: Bars, other: Bars, but: tuple[str, ...] = ()) -> None:
    for name in Bars._fields:
        if name not in but:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


# --- the real window --------------------------------------------------------------------------------------------------


def test_the_recorded_window_is_added_up_exactly(store: Store) -> None:
    report = import_paths(store, [FIXTURES])
    assert {file.instrument for file in report.files} == set(IDS.values())
    for market in ("spot", "um"):
        rows, bars = faults.recorded(market), bars_of(store, IDS[market])
        expected = faults.slow_seconds(rows)
        assert bars.ts.tolist() == list(range(min(expected), max(expected) + 1))
        for k, ts in enumerate(bars.ts.tolist()):
            second = expected.get(ts)
            volumes = (second.buy * 10**8, second.sell * 10**8, second.buys, second.sells) if second else (0, 0, 0, 0)
            assert (bars.buy_volume[k], bars.sell_volume[k], bars.buy_trades[k], bars.sell_trades[k]) == volumes
        assert np.flatnonzero(bars.complete == 0).tolist() == [0, len(bars.ts) - 1]
    rows, bars = faults.recorded("cm"), bars_of(store, IDS["cm"])
    contracts = sum(int(p.qty) for p in rows)
    assert int(bars.buy_usd_cents.sum() + bars.sell_usd_cents.sum()) == contracts * 100 * 100  # 100 USD a contract
    base = sum(Decimal(p.qty) * 100 / Decimal(p.price) for p in rows)
    assert abs(int(bars.buy_volume.sum() + bars.sell_volume.sum()) - base * 10**8) < len(rows)


@pytest.mark.parametrize("market", ["spot", "um", "cm"])
@pytest.mark.parametrize("content", ["aggTrades", "trades"])
@pytest.mark.parametrize("packed", ["zip", "csv"])
def test_the_recorded_window_published_gives_the_recording(
    store: Store, tmp_path: Path, market: str, content: str, packed: str
) -> None:
    import_paths(store, list(FIXTURES.glob(f"*{ {'spot': 'spot', 'um': 'linear', 'cm': 'inverse'}[market] }.*.gz")))
    want = bars_of(store, IDS[market])
    for day in {dt.datetime.fromtimestamp(ts, dt.UTC).date() for ts in want.ts.tolist()}:
        store.drop_day(IDS[market], day)
    text = faults.file_text(content, market, faults.recorded(market), header=market != "spot")
    import_paths(store, [publish(tmp_path, market, content, "2024-08", text, packed=packed)])
    assert_same(bars_of(store, IDS[market]), want, but=("id_kind",))


def test_rows_are_made_of_all_markets(store: Store) -> None:
    report = import_paths(store, [FIXTURES])
    rows = store.read_rows("BTC", 0, 2**32 - 1)
    assert [(r.asset, r.rows) for r in report.rows] == [("BTC", len(rows.ts))]
    spot, perp, coin = (bars_of(store, IDS[m]) for m in ("spot", "um", "cm"))
    at = np.searchsorted(spot.ts, rows.ts)
    np.testing.assert_array_equal(rows.spot_delta, (spot.buy_usd_cents - spot.sell_usd_cents)[at])
    delta = perp.buy_usd_cents - perp.sell_usd_cents
    inner = np.isin(perp.ts, coin.ts)
    delta[inner] += (coin.buy_usd_cents - coin.sell_usd_cents)[np.isin(coin.ts, perp.ts)]
    np.testing.assert_array_equal(rows.perp_delta, delta)
    assert (rows.quality_ppm[2:-1] == 1_000_000).all()


def test_one_market_alone_has_less_quality(store: Store) -> None:
    import_paths(store, [FIXTURES / "binance.linear.btcusdt.20240808.recvts_json.gz"])
    rows = store.read_rows("BTC", 0, 2**32 - 1)
    assert set(rows.quality_ppm[1:-1].tolist()) == {333_333}


# --- the market -------------------------------------------------------------------------------------------------------


def test_the_market_is_never_guessed(store: Store, tmp_path: Path) -> None:
    path = publish(tmp_path, "um", "aggTrades", str(DAY), faults.file_text("aggTrades", "um", prints(50, T0, 9)))
    flat = tmp_path / path.name
    flat.write_bytes(path.read_bytes())
    with pytest.raises(UsageError, match="--market"):
        import_paths(store, [flat])
    with pytest.raises(UsageError, match="leave --market out"):
        import_paths(store, [path], market="spot")
    with pytest.raises(UsageError, match="known are spot, um"):
        import_paths(store, [flat], market="usdm")
    assert import_paths(store, [flat], market="um").files[0].instrument == PERP


@pytest.mark.parametrize(
    ("content", "written", "read"),
    [("aggTrades", "spot", "um"), ("trades", "um", "spot"), ("trades", "cm", "um"), ("trades", "um", "cm")],
)
def test_a_file_of_another_market_is_refused(
    store: Store, tmp_path: Path, content: str, written: str, read: str
) -> None:
    rows = [p._replace(qty=str(k % 9 + 2)) for k, p in enumerate(prints(50, T0, 9))]
    text = faults.file_text(content, written, rows)
    if written == "um" and read == "spot":
        text = text.replace(b"true", b"false,0,0").replace(b"false\n", b"false,0,0\n")
    with pytest.raises(ImportRefusedError):
        import_paths(store, [publish(tmp_path, read, content, str(DAY), text)])
    assert store.coverage() == []


def test_what_cannot_be_imported_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match=r"notes\.csv is neither.*--columns"):
        import_paths(store, [tmp_path / "notes.csv"])
    with pytest.raises(UsageError, match="no file that can be imported"):
        import_paths(store, [tmp_path])
    with pytest.raises(UsageError, match="does not exist"):
        import_paths(store, [tmp_path / "absent"])


def test_an_empty_file_is_said_to_hold_nothing(store: Store, tmp_path: Path) -> None:
    report = import_paths(store, [publish(tmp_path, "um", "aggTrades", str(DAY), b"", packed="csv")])
    assert report.files[0].notes == ("it holds no trade",)
    only_header = faults.file_text("aggTrades", "um", [], header=True)
    report = import_paths(store, [publish(tmp_path, "um", "aggTrades", str(DAY), only_header)])
    assert report.files[0].rows == 0
    assert store.coverage() == []


def test_a_header_that_is_no_archive_header_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ImportRefusedError, match="line 1: it has 2 columns"):
        import_paths(store, [publish(tmp_path, "um", "aggTrades", str(DAY), b"x,y\n")])


def test_a_header_may_name_columns_that_are_new(store: Store, tmp_path: Path) -> None:
    text = faults.file_text("aggTrades", "um", prints(50, T0, 9), header=True)
    wider = b"\n".join(line + (b",nq" if not n else b",1") for n, line in enumerate(text.splitlines()))
    assert import_paths(store, [publish(tmp_path, "um", "aggTrades", str(DAY), wider)]).files[0].rows == 50


def test_a_report_is_json(store: Store, tmp_path: Path) -> None:
    report = import_paths(
        store, [publish(tmp_path, "um", "aggTrades", str(DAY), faults.file_text("aggTrades", "um", prints(50, T0, 9)))]
    )
    assert msgspec.json.decode(msgspec.json.encode(report))["files"][0]["rows"] == 50


# --- any table --------------------------------------------------------------------------------------------------------

ROWS = prints(500, T0, 100, seed=8)
MAP = "time=ts,price=p,qty=q,side=s,id=n"


def table_columns() -> dict[str, list]:
    return {
        "n": [p.id for p in ROWS],
        "ts": [p.ms for p in ROWS],
        "p": [p.price for p in ROWS],
        "q": [p.qty for p in ROWS],
        "s": ["SELL" if p.maker else "Buy" for p in ROWS],
    }


def clean(store: Store, tmp_path: Path) -> Bars:
    """Return the bars of the same prints out of an archive file, and forget them."""
    import_paths(store, [publish(tmp_path, "um", "aggTrades", str(DAY), faults.file_text("aggTrades", "um", ROWS))])
    bars = bars_of(store)
    store.drop_day(PERP, DAY)
    return bars


PARQUET = {
    "strings": {},
    "floats": {"p": pa.float64(), "q": pa.float64()},
    "decimals": {"p": pa.decimal128(18, 2), "q": pa.decimal128(18, 3)},
    "nanoseconds": {"ts": pa.timestamp("ns")},
    "milliseconds": {"ts": pa.timestamp("ms", tz="UTC")},
    "categories": {"s": pa.dictionary(pa.int32(), pa.string())},
}


@pytest.mark.parametrize("form", sorted(PARQUET))
def test_a_parquet_table_of_any_types_gives_the_same_seconds(store: Store, tmp_path: Path, form: str) -> None:
    want = clean(store, tmp_path)
    columns = table_columns()
    arrays = {}
    for name, values in columns.items():
        kind = PARQUET[form].get(name)
        if kind is None:
            arrays[name] = pa.array(values)
        elif pa.types.is_floating(kind):
            arrays[name] = pa.array([float(v) for v in values], kind)
        elif pa.types.is_decimal(kind):
            arrays[name] = pa.array([Decimal(v) for v in values], kind)
        elif pa.types.is_timestamp(kind):
            arrays[name] = pa.array(values, pa.int64()).cast(pa.timestamp("ms")).cast(kind)
        else:
            arrays[name] = pa.array(values).dictionary_encode()
    path = tmp_path / "trades.parquet"
    pq.write_table(pa.table(arrays), path)
    report = import_paths(store, [path], column_map=MAP, instrument=PERP)
    assert report.files[0].rows == 500
    assert_same(bars_of(store), want, but=("id_kind",))


def csv_times() -> dict[str, list[str]]:
    moments = [dt.datetime.fromtimestamp(p.ms / 1000, dt.UTC) for p in ROWS]
    return {
        "ms": [str(p.ms) for p in ROWS],
        "ns": [str(p.ms * 10**6) for p in ROWS],
        "s": [f"{p.ms // 1000}.{p.ms % 1000:03}" for p in ROWS],
        "iso": [f"{m:%Y-%m-%dT%H:%M:%S}.{m.microsecond // 1000:03}Z" for m in moments],
    }


@pytest.mark.parametrize("unit", ["ms", "ns", "s", "iso"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_with_a_column_map_gives_the_same_seconds(
    store: Store, tmp_path: Path, unit: str, delimiter: str
) -> None:
    want = clean(store, tmp_path)
    columns = table_columns() | {"ts": csv_times()[unit]}
    lines = [delimiter.join(columns), *(delimiter.join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path = tmp_path / "trades.csv"
    path.write_text("\n".join(lines))  # without a last line end
    report = import_paths(store, [path], column_map=MAP, instrument=PERP)
    assert report.files[0].time_units == {unit: 500}
    assert_same(bars_of(store), want, but=("id_kind",))


def test_a_table_without_ids_marks_its_borders_and_is_not_added_twice(store: Store, tmp_path: Path) -> None:
    columns = table_columns()
    path = tmp_path / "trades.csv"
    path.write_text(
        "\n".join(f"{a},{b},{c},{d}" for a, b, c, d in zip(*(columns[k] for k in ("ts", "p", "q", "s")), strict=True))
    )
    how = {"column_map": "time=0,price=1,qty=2,side=3", "instrument": PERP}
    import_paths(store, [path], **how)
    want = bars_of(store)
    assert (want.buy_trades + want.sell_trades).sum() == 500
    path.write_text(path.read_text() + "\n")  # another hash, the same prints
    report = import_paths(store, [path], **how)
    assert report.files[0].seconds_written == 0
    assert report.files[0].repaired == {"prints_stored_before": 500}
    assert_same(bars_of(store), want)


def test_a_table_of_an_instrument_no_rule_knows(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("t,p,a,side\n1723075200000,0.00001234,1000,bid\n1723075201000,0.00001235,10,ASK\n")
    import_paths(store, [path], column_map="time=t,price=p,qty=a,side=side", instrument="elsewhere:PEPE-USDT")
    made = store.instruments()["elsewhere:PEPE-USDT"]
    bars = bars_of(store, made.id)
    assert bars.close.tolist() == [1234 * 10 ** (made.price_decimals - 8), 1235 * 10 ** (made.price_decimals - 8)]
    assert bars.buy_volume.tolist() == [1000 * 10**made.qty_decimals, 0]


def test_side_values_can_be_named(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("t,p,a,d\n1723075200000,61000,1,up\n1723075200000,61000,3,down\n")
    with pytest.raises(ImportRefusedError, match="side was 'up'"):
        import_paths(store, [path], column_map="time=t,price=p,qty=a,side=d", instrument=PERP)
    import_paths(store, [path], column_map="time=t,price=p,qty=a,side=d,buy=up,sell=down", instrument=PERP)
    bars = bars_of(store)
    assert (int(bars.buy_volume[0]), int(bars.sell_volume[0])) == (10**8, 3 * 10**8)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("time=t,price=p", "lacks qty"),
        ("time=t,price=p,qty=q", "either side"),
        ("time=t,price=p,qty=q,side=s,maker=m", "either side"),
        ("time=t,cost=p,qty=q,side=s", "names the role 'cost'"),
        ("time", "role=column"),
        ("time=t,price=p,qty=q,side=s,time_unit=h", "time unit was 'h'"),
    ],
)
def test_a_broken_column_map_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        column_map(text)


def test_a_column_the_file_lacks_is_named_with_those_it_has(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("t,p,a,d\n1723075200000,61000,1,buy\n")
    with pytest.raises(UsageError, match="'q', the file's columns are t, p, a, d"):
        import_paths(store, [path], column_map="time=t,price=p,qty=q,side=d", instrument=PERP)


# --- recorded frames --------------------------------------------------------------------------------------------------


def test_a_recording_of_two_connections_counts_each_print_once(store: Store, tmp_path: Path) -> None:
    name = "binance.linear.btcusdt.20240808.recvts_json.gz"
    lines = gzip.decompress((FIXTURES / name).read_bytes()).splitlines(keepends=True)
    n = len(lines)
    import_paths(store, [FIXTURES / name])
    want = bars_of(store)
    for day in {dt.datetime.fromtimestamp(ts, dt.UTC).date() for ts in want.ts.tolist()}:
        store.drop_day(PERP, day)
    (tmp_path / name).write_bytes(gzip.compress(b"".join(lines[: 2 * n // 3] + lines[n // 3 :])))
    report = import_paths(store, [tmp_path / name])
    assert report.files[0].repaired["doubled_rows"] > 0
    assert_same(bars_of(store), want)


def test_a_reconnect_leaves_a_gap(store: Store, tmp_path: Path) -> None:
    name = "binance.spot.btcusdt.20240808.recvts_json.gz"
    lines = gzip.decompress((FIXTURES / name).read_bytes()).splitlines(keepends=True)
    plain = tmp_path / "session.txt"
    plain.write_bytes(b"".join(lines[:3000] + lines[3500:]))
    with pytest.raises(UsageError, match="--market"):
        import_paths(store, [plain])
    report = import_paths(store, [plain], market="spot")
    gaps = store.gaps(IDS["spot"])
    assert len(gaps) == report.files[0].gaps == 1
    assert 400 < gaps[0].missing <= 500


def test_a_broken_frame_is_refused_with_its_line(store: Store, tmp_path: Path) -> None:
    name = "binance.spot.btcusdt.20240808.recvts_json.gz"
    lines = gzip.decompress((FIXTURES / name).read_bytes()).splitlines(keepends=True)
    lines[699] = lines[699][:-20] + b"\n"
    (tmp_path / name).write_bytes(gzip.compress(b"".join(lines)))
    with pytest.raises(ImportRefusedError) as caught:
        import_paths(store, [tmp_path / name])
    assert caught.value.report.refused[0].line == 700
    assert store.coverage() == []


# --- open interest and funding ----------------------------------------------------------------------------------------


def metrics(rows: list[tuple[str, str, str]]) -> bytes:
    lines = [faults.HEADERS["metrics"], *(f"{DAY} {at},BTCUSDT,{oi},{value},1,1,1,1" for at, oi, value in rows)]
    return "\n".join(lines).encode()


def test_open_interest_zero_blank_doubled_and_missing(store: Store, tmp_path: Path) -> None:
    rows = [
        ("00:05:00", "80000.5", "1"), ("00:10:00", "0", "0"), ("00:15:00", "", ""), ("00:20:00", "80003", "1"),
        ("00:20:00", "80003", "1"), ("00:30:00", "80004", "1"), ("00:30:00", "90000", "1"), ("00:25:00", "80002", "1"),
        ("00:45:00", "80005", "1"),
    ]  # fmt: skip
    report = import_paths(store, [publish(tmp_path, "um", "metrics", str(DAY), metrics(rows))]).files[0]
    oi = store.read_open_interest(PERP, 0, 2**32 - 1)
    assert (oi.event_ts - T0).tolist() == [300, 1200, 1500, 2700]
    assert oi.open_interest.tolist() == [8_000_050_000_000, 8_000_300_000_000, 8_000_200_000_000, 8_000_500_000_000]
    assert (oi.known_at - oi.event_ts).tolist() == [60] * 4
    assert set(oi.interval_s.tolist()) == {300}
    assert report.repaired == {"doubled_rows": 2}
    assert report.set_aside == {
        "open_interest_without_value": 2, "one_time_different_values": 1, "open_interest_rows_missing": 2,
    }  # fmt: skip


def test_open_interest_of_coin_margined_contracts_is_in_base(store: Store, tmp_path: Path) -> None:
    text = metrics([("00:05:00", "6000000", "10000"), ("00:10:00", "6000000", "0")])  # contracts of 100 USD, BTC
    report = import_paths(store, [publish(tmp_path, "cm", "metrics", str(DAY), text)]).files[0]
    assert store.read_open_interest(IDS["cm"], 0, 2**32 - 1).open_interest.tolist() == [10_000 * 10**8]
    assert report.set_aside == {"contracts_without_price": 1}


def test_a_broken_metrics_line_is_refused(store: Store, tmp_path: Path) -> None:
    path = publish(tmp_path, "um", "metrics", str(DAY), metrics([("00:05:00", "8", "1"), ("00:10:00", "abc", "1")]))
    with pytest.raises(ImportRefusedError, match="line 3: sum_open_interest was 'abc'"):
        import_paths(store, [path])
    assert len(store.read_open_interest(PERP, 0, 2**32 - 1).event_ts) == 0


def test_funding_intervals_change_with_the_file_and_with_the_times(store: Store, tmp_path: Path) -> None:
    hours = [(0, 8), (8, 8), (16, 8), (20, 4), (24, 4), (25, 4), (26, 1), (27, 1), (30, 1)]
    lines = [
        faults.HEADERS["fundingRate"],
        *(f"{(T0 + h * 3600) * 1000 + 7},{n},{'-' * (h == 8)}0.0001" for h, n in hours),
    ]
    report = import_paths(store, [publish(tmp_path, "um", "fundingRate", "2024-08", "\n".join(lines).encode())]).files[
        0
    ]
    paid = store.read_funding(PERP, 0, 2**32 - 1)
    assert ((paid.event_ts - T0) // 3600).tolist() == [h for h, _ in hours]
    assert (paid.interval_s // 3600).tolist() == [
        8,
        8,
        8,
        4,
        4,
        1,
        1,
        1,
        1,
    ]  # 25 h says 4 and is 1 h after the one before
    assert paid.rate.tolist()[:2] == [1_000_000, -1_000_000]
    assert report.repaired == {"funding_interval_by_its_times": 1}
    assert report.set_aside == {"funding_events_missing": 2}


def test_series_reach_the_rows_whatever_came_first(store: Store, tmp_path: Path) -> None:
    trades = publish(
        tmp_path / "a", "um", "aggTrades", str(DAY), faults.file_text("aggTrades", "um", prints(900, T0, 900))
    )
    oi = publish(
        tmp_path / "b", "um", "metrics", str(DAY), metrics([("00:05:00", "80000", "1"), ("00:10:00", "81000", "1")])
    )
    import_paths(store, [trades])
    assert not store.read_rows("BTC", 0, 2**32 - 1).open_interest.any()
    import_paths(store, [oi])
    rows = store.read_rows("BTC", 0, 2**32 - 1)
    seen = {int(v): int(ts) - T0 for ts, v in zip(rows.ts[::-1], rows.open_interest[::-1], strict=True)}
    assert seen == {0: 0, 80_000 * 10**8: 360, 81_000 * 10**8: 660}  # never before it is known


# --- minutes ----------------------------------------------------------------------------------------------------------


def test_minutes_follow_their_seconds_through_repair_and_replacement(store: Store, tmp_path: Path) -> None:
    rows = prints(3000, T0 + 86_000, 3 * 3600)  # over a midnight, imported in an order that leaves a hole at first

    def assert_minutes_are_sums() -> None:
        bars, minutes = bars_of(store), store.read_rollup("bars_1m", PERP, 0, 2**32 - 1)
        starts, at = np.unique(bars.ts // 60 * 60, return_index=True)
        assert minutes["ts"].to_pylist() == starts.tolist()
        for name in ("buy_volume", "sell_volume", "buy_trades", "sell_trades", "complete"):
            sums = np.add.reduceat(getattr(bars, name).astype(np.int64), at)
            assert minutes[name].to_pylist() == sums.tolist(), name

    for number, part in enumerate((rows[:1000], rows[2000:], rows[1000:2000])):
        text = faults.file_text("aggTrades", "um", part)
        import_paths(store, [publish(tmp_path / str(number), "um", "aggTrades", "2024-08", text)])
        assert_minutes_are_sums()
    again = faults.file_text("aggTrades", "um", rows[:500])
    import_paths(store, [publish(tmp_path / "again", "um", "aggTrades", "2024-08", again)], replace=True)
    assert_minutes_are_sums()


# --- killed, and run again --------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path
from squeezecore.adapters import embedded, importing
from squeezecore.adapters.store import Store
wait = int(sys.argv[3])
inserted = 0
insert = Store.insert_bars
def slow(self, name, bars):
    global inserted
    if inserted == wait:
        print("now", flush=True)
        sys.stdin.read()
    inserted += 1
    insert(self, name, bars)
Store.insert_bars = slow
with embedded.open_store(Path(sys.argv[1]), database=sys.argv[2]) as store:
    importing.import_paths(store, [Path(sys.argv[4])], scratch=Path(sys.argv[5]))
"""


@pytest.mark.parametrize("days_before", [0, 2])
def test_an_import_that_is_killed_is_finished_by_the_next(
    store: Store, store_home: Path, tmp_path: Path, days_before: int
) -> None:
    rows = prints(2000, T0, 4 * 86_400)
    path = publish(tmp_path, "um", "aggTrades", "2024-08", faults.file_text("aggTrades", "um", rows[:900] + rows[950:]))
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, store_home, store.database, str(days_before), path, tmp_path / "scratch"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == b"now\n"
    with scratch(tmp_path / "scratch") as mine:
        assert len([each for each in (tmp_path / "scratch").iterdir() if each.is_dir()]) == 2  # a living one stays
    assert not mine.exists()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    child.stdin.close()
    assert len(store.coverage(PERP)) == days_before
    assert all(record.state == "started" for record in store.imports(PERP))
    assert len(list((tmp_path / "scratch").iterdir())) == 2  # the folder of the dead, and its lock
    import_paths(store, [path], scratch=tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []
    after, gaps, made = bars_of(store), store.gaps(PERP), store.read_rows("BTC", 0, 2**32 - 1)
    for n in range(5):
        store.drop_day(PERP, DAY + dt.timedelta(n))
    store.drop_rows("BTC", 0, 2**32 - 1)
    import_paths(store, [path])
    assert_same(after, bars_of(store))
    assert gaps == store.gaps(PERP)
    for one, other in zip(made, store.read_rows("BTC", 0, 2**32 - 1), strict=True):
        np.testing.assert_array_equal(one, other)


# --- the law of files -------------------------------------------------------------------------------------------------

WHOLE = prints(240, T0, 40, seed=11)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_how_prints_are_cut_into_files_changes_nothing(store: Store, tmp_path: Path, data: st.DataObject) -> None:
    """Any cuts, any overlaps, any order of imports: the same seconds as one file, and no gap."""
    cuts = sorted(data.draw(st.sets(st.integers(1, len(WHOLE) - 1), max_size=4)))
    parts = [
        WHOLE[max(0, a - data.draw(st.integers(0, 5))) : b]
        for a, b in zip([0, *cuts], [*cuts, len(WHOLE)], strict=True)
    ]
    order = data.draw(st.permutations(range(len(parts))))
    store.drop_day(PERP, DAY)
    import_paths(
        store,
        [publish(tmp_path / "whole", "um", "aggTrades", str(DAY), faults.file_text("aggTrades", "um", WHOLE))],
        assets={},
    )
    want = bars_of(store)
    store.drop_day(PERP, DAY)
    for k in order:
        text = faults.file_text("aggTrades", "um", parts[k])
        import_paths(
            store, [publish(tmp_path / f"part{k}", "um", "aggTrades", str(DAY), text, packed="csv")], assets={}
        )
    got = bars_of(store)
    assert_same(got, want, but=("version", "buy_usd_cents", "sell_usd_cents"))
    for name in ("buy_usd_cents", "sell_usd_cents"):  # each part of a second was rounded once
        assert np.abs(getattr(got, name) - getattr(want, name)).max() <= len(parts)
    assert [gap for gap in store.gaps(PERP) if gap.state == "open"] == []


def test_a_hole_that_is_filled_from_its_far_end_leaves_no_gap(store: Store, tmp_path: Path) -> None:
    """A smaller hole takes the place of a filled one; the filled one must not open its ids again."""
    for k, part in enumerate((WHOLE[:1], WHOLE[1:2], WHOLE[4:], WHOLE[3:4], WHOLE[2:3])):
        text = faults.file_text("aggTrades", "um", part)
        import_paths(
            store, [publish(tmp_path / f"part{k}", "um", "aggTrades", str(DAY), text, packed="csv")], assets={}
        )
    assert [gap for gap in store.gaps(PERP) if gap.state == "open"] == []
