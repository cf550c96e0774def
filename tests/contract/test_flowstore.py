"""The live flow's tables give back what they were given, once, and keep the snapshots a restart and a proof need."""

import numpy as np
import pytest

from squeezecore.adapters import flowstore
from squeezecore.adapters.flowstore import Snapshot
from squeezecore.adapters.store import Store
from squeezecore.errors import UsageError
from squeezecore.market import DAY_S, Bars, FundingSeries, MarkSeries, OpenInterestSeries, Rows, Trades, cut
from squeezecore.spec import AssetConfig, MarketConfig
from squeezecore.wire import AssetChange, TradeBatch
from support.store import assert_equal, random_bars, random_rows

START = 1_723_075_200
SPOT, PERP = "binance:BTC-USDT", "binance:BTC-USDT-PERP"


def prints(seed: int, n: int, first_id: int = 1) -> Trades:
    rng = np.random.default_rng(seed)
    return Trades(
        id=np.arange(first_id, first_id + n),
        exchange_ns=START * 10**9 + np.sort(rng.integers(0, 20 * 10**9, n)),
        received_ns=rng.integers(0, 2**62, n),
        price=rng.integers(1, 2**62, n),
        qty=rng.integers(1, 2**62, n),
        quote_cents=rng.integers(-1, 2**40, n),
        side=rng.integers(-1, 2, n).astype(np.int8),
        flags=rng.integers(0, 256, n).astype(np.uint8),
    )


def batch(trades: Trades, instrument: str = SPOT) -> TradeBatch:
    return TradeBatch("binance", "spot", 0, (instrument,), (trades,))


def test_prints_come_back_bit_for_bit_and_once_however_they_were_cut(store: Store) -> None:
    spot, perp = prints(1, 500), prints(2, 300)
    flowstore.insert_trades(
        store, [batch(cut(spot, 0, 99)), batch(perp, PERP), batch(cut(spot, 99, 500)), batch(cut(spot, 0, 0))]
    )
    assert flowstore.insert_trades(store, [batch(cut(spot, 100, 400))]) == 300
    assert_equal(spot, flowstore.read_trades(store, SPOT, START, START + 20))
    seconds = perp.exchange_ns // 10**9 - START
    at = (seconds >= 3) & (seconds < 7)
    assert_equal(Trades(*(c[at] for c in perp)), flowstore.read_trades(store, PERP, START + 3, START + 7))
    assert flowstore.insert_trades(store, []) == 0


def test_prints_without_ids_that_are_alike_stay_as_many_as_they_were(store: Store) -> None:
    one = prints(1, 1)._replace(id=np.array([-1]))
    three = Trades(*(np.repeat(column, 3) for column in one))
    for _ in range(2):
        flowstore.insert_trades(store, [batch(three)])
    assert_equal(three, flowstore.read_trades(store, SPOT, START, START + 20))


def test_old_prints_are_kept_from_when_they_were_recorded(store: Store) -> None:
    flowstore.insert_trades(store, [batch(prints(1, 50))])  # of 2024
    store.command("OPTIMIZE TABLE trades FINAL")
    assert len(flowstore.read_trades(store, SPOT, START, START + 20).id) == 50
    flowstore.keep_trades(store, 3)
    ddl = store.query("SELECT create_table_query AS q FROM system.tables WHERE name = 'trades' AND database = {d:String}",
                      {"d": store.database})["q"][0].as_py()  # fmt: skip
    assert "toIntervalDay(3)" in ddl
    with pytest.raises(UsageError, match="0 days"):
        flowstore.keep_trades(store, 0)


def test_seconds_of_many_are_those_of_each(store: Store) -> None:
    bars = {SPOT: random_bars(1, 400, START + DAY_S - 300), PERP: random_bars(2, 200, START, extreme=True)}
    rows = {"BTC": random_rows(1, 400, START + DAY_S - 300), "ETH": random_rows(2, 100, START)}
    for _ in range(2):
        flowstore.insert_bars(store, bars)
        flowstore.insert_rows(store, rows)
    for name, block in bars.items():
        assert_equal(block, store.read_bars(name, 0, 2**40))
    for name, block in rows.items():
        assert_equal(block, store.read_rows(name, 0, 2**40))
    assert flowstore.last_seconds(store, [SPOT, PERP, "x:Y"]) == {n: int(b.ts[-1]) for n, b in bars.items()}
    flowstore.insert_bars(store, {})
    flowstore.insert_rows(store, {})


def test_many_instruments_are_read_as_each_is(store: Store) -> None:
    names = [f"v{n}:A-USDT" for n in range(5)]
    for n, name in enumerate(names[1:]):  # the first has none
        store.insert_bars(name, random_bars(n, 300, 1_767_229_200))
    for start_s, end_s in ((0, 2**32 - 1), (1_767_229_300, 1_767_229_400), (5, 5)):
        for asked in (names, names[::-1], names[2:3], []):
            found = flowstore.read_bars(store, asked, start_s, end_s)
            assert list(found) == asked
            for name in asked:
                assert_equal(store.read_bars(name, start_s, end_s), found[name])


def test_a_block_may_say_a_name_more_than_once(store: Store) -> None:
    bars, rows = random_bars(1, 60, START), random_rows(1, 60, START)
    index = np.arange(60) % 3
    flowstore.insert_bar_block(store, [SPOT, PERP, SPOT], index, bars)
    flowstore.insert_row_block(store, ["BTC", "ETH", "BTC"], index, rows)
    for place, (name, asset) in enumerate(((SPOT, "BTC"), (PERP, "ETH"))):
        own = (index == 1) == bool(place)
        assert_equal(Bars(*(column[own] for column in bars)), store.read_bars(name, 0, 2**40))
        assert_equal(Rows(*(column[own] for column in rows)), store.read_rows(asset, 0, 2**40))


def test_a_row_sent_again_does_not_win_over_its_repair(store: Store) -> None:
    rows = random_rows(1, 50, START)
    flowstore.insert_rows(store, {"BTC": rows})
    repaired = rows._replace(spot_delta=rows.spot_delta + 1)
    assert store.insert_rows("BTC", repaired, keep_superseded=True) == 50
    flowstore.insert_rows(store, {"BTC": rows})
    assert_equal(repaired, store.read_rows("BTC", 0, 2**40))
    assert_equal(rows, store.read_rows_superseded("BTC", 0, 2**40)[0])


def test_facts_of_many_are_those_of_each(store: Store) -> None:
    at = np.arange(START, START + 5)
    interest = OpenInterestSeries(at, at + 1, at * 3, np.full(5, 300))
    funding = FundingSeries(at, at + 2, at % 7 - 3, np.full(5, 28_800))
    marks = MarkSeries(at, at * 5)
    flowstore.insert_facts(
        store, {SPOT: interest, PERP: interest}, {PERP: funding}, {PERP: marks, SPOT: MarkSeries(at[:0], at[:0])}
    )
    assert_equal(interest, store.read_open_interest(SPOT, 0, 2**40))
    assert_equal(funding, store.read_funding(PERP, 0, 2**40))
    assert_equal(marks, MarkSeries(*store.read_marks(PERP, 0, 2**40)))


def snapshot(ts: int, seq: int = 1, key: str = "BTC") -> Snapshot:
    return Snapshot("cvd", key, ts, seq, "code", bytes([0, 255, seq % 256]))


def test_the_newest_snapshot_is_found_and_one_before_a_time(store: Store) -> None:
    assert flowstore.last_snapshot(store, "cvd", "BTC") is None
    for one in (snapshot(START + 1), snapshot(START + 2, 5), snapshot(START + 2, 4), snapshot(START + 9, key="ETH")):
        flowstore.put_snapshot(store, one)
    assert flowstore.last_snapshot(store, "cvd", "BTC") == snapshot(START + 2, 5)
    assert flowstore.last_snapshot(store, "cvd", "BTC", before_ts=START + 2) == snapshot(START + 1)
    assert flowstore.last_snapshot(store, "cvd", "BTC", before_ts=START) is None
    assert flowstore.last_snapshot(store, "strategy", "BTC") is None
    newer = snapshot(START + 3)._replace(code_version="newer")
    flowstore.put_snapshot(store, newer)
    assert flowstore.last_snapshot(store, "cvd", "BTC") == newer
    assert flowstore.last_snapshot(store, "cvd", "BTC", code_version="code") == snapshot(START + 2, 5)
    assert flowstore.last_snapshot(store, "cvd", "BTC", code_version="other") is None
    flowstore.drop_snapshots(store, "cvd", "BTC", START + 2)
    assert flowstore.last_snapshot(store, "cvd", "BTC") == snapshot(START + 1)


def test_pruning_keeps_the_last_three_and_the_first_of_each_day(store: Store) -> None:
    for n in range(10):
        flowstore.put_snapshot(store, snapshot(START + n * DAY_S // 4, n))
    flowstore.put_snapshot(store, snapshot(START + 5, 77, "ETH"))
    for _ in range(2):
        flowstore.prune(store, "cvd", "BTC")
    left = store.query("SELECT toUInt32(stream_seq) AS seq FROM snapshots FINAL WHERE key = 'BTC' ORDER BY seq")["seq"]
    assert left.to_pylist() == [0, 4, 7, 8, 9]
    assert flowstore.last_snapshot(store, "cvd", "ETH") == snapshot(START + 5, 77, "ETH")


def test_configurations_stand_by_asset_and_minute(store: Store) -> None:
    config = AssetConfig(traded=PERP, markets=(MarketConfig(instrument=SPOT),))
    changes = [
        AssetChange(asset="BTC", from_ts=START, config=config),
        AssetChange(asset="BTC", from_ts=START + 60, config=None),
        AssetChange(asset="ETH", from_ts=START, config=config),
    ]
    for _ in range(2):
        flowstore.put_asset_changes(store, reversed(changes))
    assert flowstore.asset_changes(store) == changes
    assert flowstore.asset_changes(store, "BTC") == changes[:2]
