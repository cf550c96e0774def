"""The store gives back what it was given, decides versions by content, and refuses what it must not hold."""

import datetime as dt
import threading
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from squeezecore.adapters import clickhouse, migration, tables
from squeezecore.adapters.store import (
    BacktestDay,
    BacktestRun,
    ImportRecord,
    Store,
    StoreError,
)
from squeezecore.errors import UsageError
from squeezecore.market import (
    DAY_S,
    PPM,
    FundingSeries,
    Gap,
    Instrument,
    Kind,
    Margin,
    OpenInterestSeries,
    concat,
    cut,
    empty,
)
from squeezecore.market import Bars as BarsBlock
from squeezecore.market import Rows as RowsBlock
from squeezecore.report import Trade
from squeezecore.trading import Decision, Direction, Parts
from support.store import assert_equal, random_bars, random_rows

DAY = dt.date(2024, 8, 8)
START = 1_723_075_200
PERP = "binance:BTC-USDT-PERP"
RANDOM = settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def perp(**changes: object) -> Instrument:
    fields = {
        "venue": "binance",
        "symbol": "BTC-USDT-PERP",
        "native_symbol": "BTCUSDT",
        "section": "linear",
        "base": "BTC",
        "quote": "USDT",
        "settle": "USDT",
        "kind": Kind.PERP,
        "margin": Margin.LINEAR,
        "price_decimals": 3,
        "qty_decimals": 8,
        "tick_size": Decimal("0.10"),
        "lot_size": Decimal("0.001"),
    }
    return Instrument(**(fields | changes))


@RANDOM
@given(seed=st.integers(0, 2**32), n=st.integers(0, 400), days=st.integers(0, 3), extreme=st.booleans())
def test_bars_come_back_bit_for_bit(store: Store, seed: int, n: int, days: int, extreme: bool) -> None:
    name = f"venue:{seed}-{n}-{days}-{extreme}"
    bars = random_bars(seed, n, START + days * DAY_S - 200, extreme=extreme)  # often across midnight
    store.insert_bars(name, bars)
    assert_equal(bars, store.read_bars(name, 0, 2**40))


@RANDOM
@given(seed=st.integers(0, 2**32), n=st.integers(0, 400), days=st.integers(0, 3), extreme=st.booleans())
def test_rows_come_back_bit_for_bit(store: Store, seed: int, n: int, days: int, extreme: bool) -> None:
    name = f"asset-{seed}-{n}-{days}-{extreme}"
    rows = random_rows(seed, n, START + days * DAY_S - 200, extreme=extreme)
    assert store.insert_rows(name, rows) == n
    assert_equal(rows, store.read_rows(name, 0, 2**40))


def test_a_range_ends_before_its_end(store: Store) -> None:
    bars = random_bars(1, 300, START)
    store.insert_bars(PERP, bars)
    first, last = int(bars.ts[10]), int(bars.ts[20])
    assert_equal(cut(bars, 10, 20), store.read_bars(PERP, first, last))
    assert_equal(empty(BarsBlock), store.read_bars(PERP, first, first))
    assert_equal(empty(BarsBlock), store.read_bars("nobody:KNOWS", 0, 2**40))


def test_some_columns_alone_can_be_read(store: Store) -> None:
    rows = random_rows(1, 50, START)
    store.insert_rows("BTC", rows)
    found = store.read_row_columns("BTC", 0, 2**32, ["ts", "spot_delta"])
    assert list(found) == ["ts", "spot_delta"]
    np.testing.assert_array_equal(found["spot_delta"], rows.spot_delta)
    with pytest.raises(UsageError, match="spot_dela"):
        store.read_row_columns("BTC", 0, 2**32, ["spot_dela"])


def test_the_same_bars_twice_are_there_once(store: Store) -> None:
    bars = random_bars(2, 200, START)
    for part in (bars, bars, cut(bars, 50, 120)):
        store.insert_bars(PERP, part)
    assert_equal(bars, store.read_bars(PERP, 0, 2**40))


@pytest.mark.parametrize("late", [True, False])
def test_of_two_versions_of_a_bar_the_higher_stays_whichever_came_last(store: Store, late: bool) -> None:
    old = random_bars(3, 100, START)._replace(version=np.full(100, 1, np.uint64))
    new = random_bars(4, 100, START)._replace(ts=old.ts, version=np.full(100, 1 << 32, np.uint64))
    for bars in (old, new) if late else (new, old):
        store.insert_bars(PERP, bars)
    assert_equal(new, store.read_bars(PERP, 0, 2**40))


def test_a_repaired_row_wins_and_the_one_before_is_kept_when_asked(store: Store) -> None:
    old = random_rows(5, 100, START)._replace(quality_ppm=np.full(100, 800_000), config_rev=np.full(100, 7))
    repaired = old._replace(spot_delta=old.spot_delta + 1, quality_ppm=np.full(100, PPM))
    some = cut(repaired, 20, 30)
    assert store.insert_rows("BTC", old, keep_superseded=True) == 100
    assert store.insert_rows("BTC", some, keep_superseded=True) == 10
    assert store.insert_rows("BTC", some, keep_superseded=True) == 0
    assert_equal(concat([cut(old, 0, 20), some, cut(old, 30, 100)]), store.read_rows("BTC", 0, 2**40))
    superseded, versions = store.read_rows_superseded("BTC", 0, 2**40)
    assert_equal(cut(old, 20, 30), superseded)
    assert versions.tolist() == [800_000] * 10


def test_a_stalled_writer_cannot_undo_a_repair_unless_told_to_replace(store: Store) -> None:
    good = random_rows(6, 50, START)._replace(quality_ppm=np.full(50, PPM), config_rev=np.full(50, 7))
    stale = good._replace(spot_delta=good.spot_delta - 1, quality_ppm=np.full(50, 500_000))
    store.insert_rows("BTC", good)
    assert store.insert_rows("BTC", stale) == 0
    assert_equal(good, store.read_rows("BTC", 0, 2**40))
    assert store.insert_rows("BTC", stale, replace=True) == 50
    assert_equal(stale, store.read_rows("BTC", 0, 2**40))
    assert store.insert_rows("BTC", good) == 50
    assert_equal(good, store.read_rows("BTC", 0, 2**40))


def test_rows_under_another_configuration_win(store: Store) -> None:
    before = random_rows(7, 50, START)._replace(quality_ppm=np.full(50, PPM), config_rev=np.full(50, 7))
    after = before._replace(quality_ppm=np.full(50, 600_000), config_rev=np.full(50, 8))
    store.insert_rows("BTC", before)
    store.insert_rows("BTC", after)
    assert_equal(after, store.read_rows("BTC", 0, 2**40))


def test_dropped_seconds_are_gone_and_can_be_inserted_again(store: Store) -> None:
    rows = random_rows(8, 300, START + DAY_S - 300)
    store.insert_rows("BTC", rows)
    store.drop_rows("BTC", int(rows.ts[100]), int(rows.ts[200]))
    assert_equal(concat([cut(rows, 0, 100), cut(rows, 200, 300)]), store.read_rows("BTC", 0, 2**40))
    store.insert_rows("BTC", rows)
    assert_equal(rows, store.read_rows("BTC", 0, 2**40))


def test_dropping_a_day_leaves_other_days_and_instruments_alone(store: Store) -> None:
    bars = random_bars(9, 400, START + DAY_S - 400)
    today = int(np.searchsorted(bars.ts, START + DAY_S))
    for name in (PERP, "binance:BTC-USDT"):
        store.insert_bars(name, bars)
    store.rollup(DAY)
    record = ImportRecord(instrument=PERP, day=DAY, kind="trade", sha256="ab", source="f.zip", rows=3)
    store.put_imports([record])
    store.put_gaps([gap(START + 5), gap(START + DAY_S + 5)])
    store.drop_day(PERP, DAY)
    store.drop_day(PERP, dt.date(2031, 1, 1))  # nothing there: nothing happens
    assert_equal(cut(bars, today, 400), store.read_bars(PERP, 0, 2**40))
    assert_equal(bars, store.read_bars("binance:BTC-USDT", 0, 2**40))
    assert store.imports(PERP) == []
    assert [each.start_s for each in store.gaps()] == [START + DAY_S + 5]
    assert store.read_rollup("bars_1h", PERP, START, START + DAY_S).num_rows == 0
    assert store.read_rollup("bars_1h", "binance:BTC-USDT", START, START + DAY_S).num_rows == 1
    store.insert_bars(PERP, bars)
    assert_equal(bars, store.read_bars(PERP, 0, 2**40))


def test_minute_bars_are_the_sums_of_their_seconds_and_follow_a_repair(store: Store) -> None:
    n = 7200
    bars = random_bars(10, n, START)._replace(
        ts=START + np.arange(n), complete=np.ones(n, np.uint8), version=np.ones(n, np.uint64)
    )
    store.insert_bars(PERP, bars)
    store.rollup(DAY)
    repaired = cut(bars, 60, 120)
    repaired = repaired._replace(buy_volume=repaired.buy_volume + 5, version=repaired.version + np.uint64(1))
    store.insert_bars(PERP, repaired)
    store.rollup(DAY)
    store.rollup(DAY)
    bars.buy_volume[60:120] += 5
    for name, seconds in tables.ROLLUPS.items():
        found = store.read_rollup(name, PERP, START, START + DAY_S)
        shape = (n // seconds, seconds)
        assert found["ts"].to_pylist() == list(range(START, START + n, seconds))
        assert found["open"].to_pylist() == bars.open.reshape(shape)[:, 0].tolist()
        assert found["close"].to_pylist() == bars.close.reshape(shape)[:, -1].tolist()
        assert found["high"].to_pylist() == bars.high.reshape(shape).max(1).tolist()
        assert found["low"].to_pylist() == bars.low.reshape(shape).min(1).tolist()
        assert found["buy_volume"].to_pylist() == bars.buy_volume.reshape(shape).sum(1).tolist()
        assert found["sell_trades"].to_pylist() == bars.sell_trades.reshape(shape).sum(1).tolist()
        assert found["seconds"].to_pylist() == [seconds] * (n // seconds)


def test_instruments_come_back_and_their_scale_never_changes(store: Store) -> None:
    store.put_instrument(perp())
    store.put_instrument(perp(tick_size=Decimal("0.01")))
    store.put_instrument(perp(symbol="ETH-USDT-PERP"))
    assert store.instruments() == {
        PERP: perp(tick_size=Decimal("0.01")),
        "binance:ETH-USDT-PERP": perp(symbol="ETH-USDT-PERP"),
    }
    with pytest.raises(UsageError, match="price_decimals of binance:BTC-USDT-PERP was 3, it cannot become 2"):
        store.put_instrument(perp(price_decimals=2))
    with pytest.raises(UsageError, match="qty_decimals"):
        store.put_instrument(perp(qty_decimals=0))


def test_open_interest_funding_and_marks_come_back(store: Store) -> None:
    ts = START + 300 * np.arange(1000)
    interest = OpenInterestSeries(ts, ts + 60, 10**15 + np.arange(1000), np.full(1000, 300))
    funding = FundingSeries(ts, ts, -np.arange(1000), np.full(1000, 28_800))
    for _ in range(2):
        store.insert_open_interest(PERP, interest)
        store.insert_funding(PERP, funding)
        store.insert_marks(PERP, ts, interest.open_interest)
    assert_equal(interest, store.read_open_interest(PERP, 0, 2**40))
    assert_equal(cut(interest, 0, 1), store.read_open_interest(PERP, START, START + 61))
    assert_equal(funding, store.read_funding(PERP, 0, 2**40))
    np.testing.assert_array_equal(store.read_marks(PERP, 0, 2**40)[1], interest.open_interest)
    with pytest.raises(UsageError, match="zero is no value"):
        store.insert_open_interest(PERP, interest._replace(open_interest=np.zeros(1000, np.int64)))


def gap(start_s: int, **changes: object) -> Gap:
    fields = {
        "instrument": PERP,
        "start_s": start_s,
        "end_s": start_s + 9,
        "first_id": 5,
        "last_id": 8,
        "missing": 4,
        "cause": "x",
    }
    return Gap(**(fields | changes))


def test_a_filled_gap_stays_filled(store: Store) -> None:
    first, second = gap(START), gap(START + 100, instrument="binance:BTC-USDT")
    store.put_gaps([first, second])
    store.put_gaps([gap(START, state="filled")])
    store.put_gaps([first])
    assert store.gaps(PERP) == [gap(START, state="filled")]
    assert store.gaps() == [second, gap(START, state="filled")]
    assert store.gaps(None, START + 9, START + 10) == [gap(START, state="filled")]  # both ends belong to it
    assert store.gaps(None, START + 10, START + 100) == []


def test_what_a_file_brought_is_remembered_once(store: Store) -> None:
    started = ImportRecord(instrument=PERP, day=DAY, kind="trade", sha256="ab", source="f.zip", rows=3, state="started")
    done = ImportRecord(
        instrument=PERP,
        day=DAY,
        kind="trade",
        sha256="ab",
        source="f.zip",
        rows=3,
        first_id=1,
        last_id=3,
        report={"late": 2},
    )
    for record in (started, done, started):
        store.put_imports([record])
    assert store.imports() == store.imports(PERP, DAY, "ab") == [done]
    assert store.imports(sha256="cd") == store.imports(day=dt.date(2024, 8, 9)) == []


def test_configuration_counts_its_versions(store: Store) -> None:
    assert store.config("assets") is None
    assert store.put_config("assets", "[BTC]") == 1
    assert store.put_config("assets", "[BTC]") == 1
    assert store.put_config("assets", "[ETH] 'quoted' \\ 字") == 2
    assert store.config("assets") == ("[ETH] 'quoted' \\ 字", 2)


def test_coverage_counts_seconds_of_each_day(store: Store) -> None:
    n = 400
    bars = random_bars(11, n, START + DAY_S - 200)._replace(ts=START + DAY_S - 200 + np.arange(n))
    ones = np.ones(n, np.int64)
    bars = bars._replace(complete=(np.arange(n) % 2).astype(np.uint8), buy_trades=ones, sell_trades=2 * ones)
    store.insert_bars(PERP, bars)
    store.insert_bars(PERP, bars)
    found = store.coverage()
    assert [(each.name, each.day, each.seconds, each.complete, each.trades) for each in found] == [
        (PERP, DAY, 200, 100, 600),
        (PERP, dt.date(2024, 8, 9), 200, 100, 600),
    ]
    assert (found[0].first_ts, found[0].last_ts) == (START + DAY_S - 200, START + DAY_S - 1)
    assert store.coverage(PERP, START, START + DAY_S) == found[:1]
    assert store.coverage("nobody:KNOWS") == []
    rows = random_rows(12, 100, START)._replace(quality_ppm=np.full(100, PPM))
    store.insert_rows("BTC", rows)
    assert [(each.name, each.seconds, each.complete) for each in store.asset_coverage()] == [("BTC", 100, 100)]


def test_sizes_name_every_table(store: Store) -> None:
    store.insert_bars(PERP, random_bars(13, 1000, START))
    sizes = {each.table: each for each in store.sizes()}
    assert set(sizes) == set(tables.TABLES)
    assert sizes["bars_1s"].rows == 1000
    assert sizes["bars_1s"].bytes > 1000
    assert sizes["marks"].bytes_per_row == 0


def test_a_run_and_its_days_come_back(store: Store) -> None:
    run = BacktestRun(run_id="r1", spec="{}", code_version="c")
    done = BacktestRun(run_id="r1", spec="{}", code_version="c", state="done", result_hash="h", summary={"trades": 3})
    for each in (run, run, done):
        store.put_run(each)
    assert store.run("r1") == done
    assert store.run("r2") is None
    assert store.runs() == [done]
    days = [
        BacktestDay(
            run_id="r1",
            asset="BTC",
            day=DAY + dt.timedelta(n),
            data_hash="d",
            state_in="a",
            state_out="b",
            tape=bytes([n, 0, 255, 128]) * 1000,
            facts={"seconds": 86_400, "holes": [[1, 2]]},
            timings={"scan": 0.5},
        )
        for n in range(3)
    ]
    store.insert_backtest_days(days)
    store.insert_backtest_days(days[:1])
    assert store.backtest_days("r1") == days
    assert store.backtest_days("r1", "BTC", DAY, DAY) == days[:1]
    assert store.backtest_days("r1", "ETH") == store.backtest_days("r2") == []
    assert [each.tape for each in store.backtest_days("r1", tapes=False)] == [b""] * 3
    store.drop_run("r1")
    assert store.run("r1") is None
    assert store.backtest_days("r1") == []


def equity(run_id: str, n: int) -> pa.Table:
    values = pa.array(np.arange(n))
    names = tables.TABLES["backtest_equity"]
    return pa.table({name: pa.array([run_id] * n) if name == "run_id" else values for name in names})


def test_results_of_a_run_are_there_once_and_can_be_dropped(store: Store) -> None:
    for _ in range(2):
        store.insert_table("backtest_equity", equity("r1", 100))
    store.insert_table("backtest_equity", equity("r2", 5).select(tables.TABLES["backtest_equity"][::-1]))
    assert store.read_table("backtest_equity", "r1").to_pydict() == equity("r1", 100).to_pydict()
    store.drop_results("r1")
    assert store.read_table("backtest_equity", "r1").num_rows == 0
    assert store.read_table("backtest_equity", "r2").num_rows == 5


def trade(n: int) -> Trade:
    texts = {
        "asset": "BTC",
        "instrument": PERP,
        "entry_order_id": f"sf-{n}",
        "exit_order_id": "sf-x",
        "reason": "structure",
    }
    numbers = {name: n * 10**12 for name in Trade.__struct_fields__ if name not in {*texts, "direction", "tier"}}
    return Trade(direction=Direction.BEARISH if n % 2 else Direction.BULLISH, tier=1 + n % 3, **numbers, **texts)


def decision(n: int, **changes: object) -> Decision:
    fields = {
        "asset": "BTC",
        "ts": START + n,
        "kind": "entry",
        "direction": Direction.BULLISH,
        "score_milli": 4200,
        "parts": Parts(absorption=2500),
        "phase": "RESET_A",
        "reset_low": 1,
        "reset_high": 2,
        "blocked_by": ("cooldown",),
        "inputs": {"z_spot_900": 1 / 3},
    }
    return Decision(**(fields | changes))


def test_trades_equity_and_decisions_of_a_run_come_back(store: Store) -> None:
    trades = [trade(n) for n in (3, 1, 2)]
    made = [decision(1, asset="ETH"), decision(5), decision(5, kind="exit"), decision(5, kind="block"), decision(4)]
    ts, value = START + np.arange(100), -(10**18) + np.arange(100)
    for _ in range(2):
        store.insert_trades("r1", trades[:2])
        store.insert_trades("r1", trades[2:], 3)
        store.insert_equity("r1", ts, value)
        store.insert_decisions("r1", made)
    assert store.trades("r1") == trades
    for got, expected in zip(store.equity("r1"), (ts, value), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert store.decisions("r1") == [made[4], *made[1:4], made[0]]
    assert store.decisions("r1", "BTC", START + 5, START + 6) == made[1:4]
    store.insert_trades("r2", [])
    store.insert_equity("r2", ts[:0], value[:0])
    assert store.trades("r2") == store.decisions("r2") == []
    assert len(store.equity("r2")[0]) == 0


def test_a_missing_or_unknown_column_is_refused_rather_than_filled_with_zeros(store: Store) -> None:
    with pytest.raises(UsageError, match="columns for backtest_equity were"):
        store.insert_table("backtest_equity", equity("r1", 3).drop_columns(["equity_usd_e8"]))


def test_what_cannot_be_held_is_refused_with_its_value(store: Store) -> None:
    bars = random_bars(14, 10, START)
    with pytest.raises(UsageError, match="must ascend"):
        store.insert_bars(PERP, bars._replace(ts=bars.ts[::-1].copy()))
    with pytest.raises(UsageError, match="must ascend"):
        store.insert_rows("BTC", random_rows(1, 10, START)._replace(ts=np.full(10, START)))
    with pytest.raises(UsageError, match=r"limit is 0\.\.4294967295"):
        store.insert_bars(PERP, bars._replace(ts=bars.ts * 1000))
    with pytest.raises(UsageError, match="first <= last"):
        store.insert_bars(PERP, bars._replace(first_id=np.full(10, 9), last_id=np.full(10, 8)))
    with pytest.raises(UsageError, match="quality"):
        store.insert_rows("BTC", random_rows(1, 10, START)._replace(quality_ppm=np.full(10, PPM + 1)))
    assert_equal(empty(BarsBlock), store.read_bars(PERP, 0, 2**40))
    assert_equal(empty(RowsBlock), store.read_rows("BTC", 0, 2**40))


def test_a_wrong_query_is_explained_at_once(store: Store) -> None:
    with pytest.raises(StoreError, match="UNKNOWN_IDENTIFIER"):
        store.query("SELECT nothing FROM bars_1s")
    assert store.query("SELECT toInt64(42) AS answer")["answer"].to_pylist() == [42]


def test_threads_share_a_store(store: Store) -> None:
    bars = [random_bars(seed, 300, START) for seed in range(8)]
    threads = [threading.Thread(target=store.insert_bars, args=(f"venue:{n}", each)) for n, each in enumerate(bars)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, each in enumerate(bars):
        assert_equal(each, store.read_bars(f"venue:{n}", 0, 2**40))


def test_the_schema_is_applied_once_however_often_asked(store: Store) -> None:
    store.insert_bars(PERP, random_bars(15, 10, START))
    before = store.query("SELECT version, name FROM schema_version FINAL ORDER BY version").to_pylist()
    assert [each["version"] for each in before] == sorted(migration.schema_files())
    store.migrate()
    store.query("SELECT 1")
    for _, text in migration.schema_files().values():
        for statement in migration.statements(text):
            store.command(statement)
    assert store.query("SELECT version, name FROM schema_version ORDER BY version").to_pylist() == before
    assert len(store.read_bars(PERP, 0, 2**40).ts) == 10


def test_a_newer_schema_is_refused(store: Store) -> None:
    store.command("INSERT INTO schema_version VALUES (999, 'from the future')")
    with pytest.raises(StoreError, match="was version 999, this program knows"):
        store.migrate()


def test_a_table_of_another_shape_is_refused(store: Store) -> None:
    store.command("ALTER TABLE gaps DROP COLUMN cause")
    store.command("ALTER TABLE gaps ADD COLUMN why String")
    with pytest.raises(StoreError, match=r"gaps was without \['cause'\] and with unknown \['why'\]"):
        store.migrate()


def test_a_wrong_address_is_explained() -> None:
    with pytest.raises(UsageError, match="must look like http"):
        Store.connect("localhost:8123")
    with pytest.raises(UsageError, match="allowed are letters"):
        Store.connect("http://127.0.0.1:1", "a;b")


def test_a_server_that_is_not_there_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clickhouse, "CONNECT_S_MAX", 0.1)
    with pytest.raises(StoreError, match=r"127\.0\.0\.1"):
        Store.connect("http://127.0.0.1:1")


def test_a_closed_store_says_so(store: Store, store_home: object) -> None:
    store.query("SELECT 1")
    other = Store(store._connection.locate, store.database)
    other.close()
    other.close()
    with pytest.raises(StoreError, match="was closed"):
        other.query("SELECT 1")
