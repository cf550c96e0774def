"""The certificate of a stored day: green where nothing was touched, and where anything was, it names the place."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from squeezecore import desk, engine, flow
from squeezecore.adapters import embedded, parity, parity_trading, tradestore
from squeezecore.adapters.accounts import Plan
from squeezecore.adapters.parity import Certificate, ParityRequest
from squeezecore.adapters.store import Store
from squeezecore.errors import DataHoleError
from squeezecore.spec import Limits, day_start_s
from support import live_days
from support.backtest_worlds import INSTRUMENTS, START, world
from support.command import Market
from support.trading_worlds import SIMULATED, after, batches_of, pretend

FIRST, LAST = 16_200, 18_000  # seconds of the simulated day; a position is opened in them
FLOW, TRADING = ("bars", "rows"), parity_trading.KINDS


class Lived:
    """A store in which a part of a day was lived."""

    def __init__(self, home: Path, store: Store) -> None:
        self.home, self.store = home, store

    def certificate(self, **changes: Any) -> Certificate:
        return parity.parity(self.store, ParityRequest(**{"day": SIMULATED, **changes}))


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    home = tmp_path_factory.mktemp("lived")
    with embedded.open_store(home, grace_s=1.0) as store:
        live_days.simulated_window(store, "BTC", SIMULATED, FIRST, LAST)
        yield Lived(home, store)
    embedded.stop(home)


@pytest.fixture
def other(store_home: Path) -> Iterator[Store]:
    with embedded.open_store(store_home, database="t_" + secrets.token_hex(6)) as opened:
        yield opened
        opened.drop_database()


def proof(certificate: Certificate, what: str) -> Any:
    return next(each for each in certificate.proofs if each.what == what)


def assert_differs(certificate: Certificate, what: str, ts: int, *words: str) -> None:
    """Assert that this kind of facts differs first at a second, and that both sides are shown."""
    found = proof(certificate, what)
    assert certificate.verdict == "different"
    assert found.equal is False
    assert found.difference.ts == ts
    shown = f"{found.difference.name} {found.difference.stored} {found.difference.again}"
    assert all(word in shown for word in words), shown
    assert found.stored_hash != found.again_hash or what == "bars"


def test_a_day_that_nobody_touched_is_equal(lived: Lived) -> None:
    found = lived.certificate()
    assert found.verdict == "equal"
    assert (found.proved, found.different, found.unproved) == (9, 0, 0)
    counts = {each.what: each.count for each in found.proofs}
    assert counts["orders"] == 1
    assert counts["fills"] > 10
    assert counts["updates"] > counts["fills"]
    assert counts["equity"] > 20
    assert counts["bars"] > 3_000
    assert counts["rows"] > LAST - 700
    assert len(found.live_code_versions) == 1
    assert found.seconds > 1_000
    start_s = day_start_s(SIMULATED)
    assert (found.from_ts, found.until_ts) == (start_s + FIRST, start_s + found.until_ts % 86_400)
    assert [each.note for each in found.proofs if each.what in TRADING] == [""] * len(TRADING)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Certificate) == found


def test_it_is_the_same_certificate_every_time(lived: Lived) -> None:
    assert lived.certificate().proofs == lived.certificate().proofs


def cheaper(store: Store) -> tuple[str, int, Callable[[], None]]:
    fill = tradestore.fills(store, "paper")[3]
    wrong = msgspec.structs.replace(fill, price=fill.price - 1)
    tradestore.insert_fills(store, "paper", [wrong])
    return "fills", fill.ts, lambda: tradestore.insert_fills(store, "paper", [fill])


def without_a_decision(store: Store) -> tuple[str, int, Callable[[], None]]:
    records = store.decisions("live:paper")
    gone = next(record for record in records if record.kind == "entry")
    store.delete("decisions", "run_id = 'live:paper' AND ts = {ts:Int64}", {"ts": gone.ts})
    back = [record for record in records if record.ts == gone.ts]
    return "decisions", gone.ts, lambda: store.insert_decisions("live:paper", back)


def an_order_more(store: Store) -> tuple[str, int, Callable[[], None]]:
    order = tradestore.orders(store, "paper")[0]
    more = msgspec.structs.replace(order, id="sf-planted", decided_ts=order.decided_ts + 9)
    tradestore.insert_orders(store, "paper", [more])

    def undo() -> None:
        store.delete("orders", "id = {id:String}", {"id": more.id})

    return "orders", more.decided_ts, undo


def richer(store: Store) -> tuple[str, int, Callable[[], None]]:
    ts, usd = (column.tolist() for column in tradestore.equity(store, "paper"))
    tradestore.insert_equity(store, "paper", {ts[5]: usd[5] + 1})
    return "equity", ts[5], lambda: tradestore.insert_equity(store, "paper", {ts[5]: usd[5]})


def a_signal_less(store: Store) -> tuple[str, int, Callable[[], None]]:
    signal = tradestore.signals(store, "paper")[0]
    store.delete("signals", "ts = {ts:Int64}", {"ts": signal.ts})
    return "signals", signal.ts, lambda: tradestore.insert_signals(store, "paper", [signal])


def another_end(store: Store) -> tuple[str, int, Callable[[], None]]:
    update = tradestore.updates(store, "paper")[-1]
    wrong = msgspec.structs.replace(update, reason="planted")
    tradestore.insert_updates(store, "paper", [wrong])
    return "updates", update.ts, lambda: tradestore.insert_updates(store, "paper", [update])


def a_cent_more(store: Store) -> tuple[str, int, Callable[[], None]]:
    ts = day_start_s(SIMULATED) + FIRST + 5
    row = store.read_rows("BTC", ts, ts + 1)
    store.insert_rows("BTC", row._replace(spot_delta=row.spot_delta + 1), replace=True)
    return "rows", ts, lambda: store.insert_rows("BTC", row, replace=True)  # type: ignore[return-value]


def a_smaller_bar(store: Store) -> tuple[str, int, Callable[[], None]]:
    ts = day_start_s(SIMULATED) + FIRST + 99
    bar = store.read_bars("binance:BTC-USDT", ts, ts + 1)
    newer = np.uint64(1)
    store.insert_bars("binance:BTC-USDT", bar._replace(buy_volume=bar.buy_volume - 1, version=bar.version + newer))
    mended = bar._replace(version=bar.version + newer + newer)
    return "bars", ts, lambda: store.insert_bars("binance:BTC-USDT", mended)


def a_print_less(store: Store) -> tuple[str, int, Callable[[], None]]:
    name = "binance:BTC-USDT-PERP"
    where = "instrument = {name:String} AND id = {id:Int64}"
    found = store.query(
        "SELECT * EXCEPT recorded_at FROM trades WHERE instrument = {name:String} ORDER BY id LIMIT 1 OFFSET 500",
        {"name": name},
    )
    columns = [each for each in found.column_names if each != "ts"]
    store.delete("trades", where, {"name": name, "id": found["id"][0].as_py()})
    return (
        "bars",
        found["exchange_ns"][0].as_py() // 10**9,
        lambda: store.insert_table("trades", found.select(columns)),
    )


PLANTS = (
    cheaper, without_a_decision, an_order_more, richer, a_signal_less, another_end, a_cent_more, a_smaller_bar,
    a_print_less,
)  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_change_is_found_and_its_place_named(lived: Lived, plant: Callable[[Store], Any]) -> None:
    what, ts, undo = plant(lived.store)
    try:
        assert_differs(lived.certificate(), what, ts)
    finally:
        undo()


def test_a_row_that_was_changed_after_live_saw_it_shows_on_both_sides(lived: Lived) -> None:
    fill = tradestore.fills(lived.store, "paper")[2]
    row = lived.store.read_rows("BTC", fill.ts, fill.ts + 1)
    lived.store.insert_rows("BTC", row._replace(open=row.open - 10_000, low=row.low - 10_000), replace=True)
    try:
        found = lived.certificate()
        assert_differs(found, "rows", fill.ts, "open=")
        assert_differs(found, "fills", fill.ts, f'"price":{fill.price}')
    finally:
        lived.store.insert_rows("BTC", row, replace=True)


def test_a_repaired_row_changes_nothing_for_what_live_did(lived: Lived) -> None:
    fill = tradestore.fills(lived.store, "paper")[2]
    row = lived.store.read_rows("BTC", fill.ts, fill.ts + 1)
    lived.store.insert_rows("BTC", row._replace(open=row.open - 10_000), keep_superseded=True)
    lived.store.insert_rows("BTC", row._replace(open=row.open - 20_000), keep_superseded=True)
    try:
        found = lived.certificate()
        assert found.repaired == 1
        assert all(proof(found, kind).equal for kind in TRADING)
        assert_differs(found, "rows", fill.ts)  # no bar says so
    finally:
        lived.store.insert_rows("BTC", row, replace=True)
        lived.store.delete("rows_superseded", "asset = 'BTC'", {})


def a_higher_score(patch: pytest.MonkeyPatch) -> str:
    scan = desk.squeeze.scan

    def mutant(*args: Any) -> Any:
        state, features = scan(*args)
        return state, features._replace(score_milli=features.score_milli + (features.score_milli > 0))

    patch.setattr(desk.squeeze, "scan", mutant)
    return "decisions"


def another_fee(patch: pytest.MonkeyPatch) -> str:
    patch.setattr(
        parity, "_plan", lambda *_: (Plan(costs=msgspec.structs.replace(Plan().costs, taker_fee_ppm=501)), "")
    )
    return "fills"


def a_lower_sum(patch: pytest.MonkeyPatch) -> str:
    scan = flow.scan_bars

    def mutant(*args: Any) -> Any:
        state, bars, gaps = scan(*args)
        return state, bars._replace(sell_usd_cents=bars.sell_usd_cents - (bars.sell_usd_cents > 0)), gaps

    patch.setattr(flow, "scan_bars", mutant)
    return "bars"


def another_delta(patch: pytest.MonkeyPatch) -> str:
    scan = flow.scan_rows

    def mutant(*args: Any) -> Any:
        state, rows = scan(*args)
        return state, rows._replace(perp_delta=rows.perp_delta + 1)

    patch.setattr(flow, "scan_rows", mutant)
    return "rows"


def a_larger_order(patch: pytest.MonkeyPatch) -> str:
    process = engine.Engine.process

    def mutant(self: Any, ts: int, views: Any, book: Any) -> Any:
        decided = process(self, ts, views, book)
        return decided._replace(orders=tuple(msgspec.structs.replace(o, qty=o.qty + 100_000) for o in decided.orders))

    patch.setattr(engine.Engine, "process", mutant)
    return "orders"


@pytest.mark.parametrize(
    "mutate", [a_higher_score, another_fee, a_lower_sum, another_delta, a_larger_order], ids=lambda each: each.__name__
)
def test_a_line_changed_on_one_of_the_paths_is_found(lived: Lived, mutate: Callable[[pytest.MonkeyPatch], str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        what = mutate(patch)
        found = lived.certificate()
    assert found.verdict == "different"
    assert proof(found, what).equal is False


def test_what_is_not_there_is_said(lived: Lived) -> None:
    with pytest.raises(DataHoleError, match="holds no row"):
        lived.certificate(day=SIMULATED.replace(year=2031))
    found = lived.certificate(account="nobody")
    assert found.verdict == "equal"
    assert (found.proved, found.unproved, found.until_ts) == (2, 7, 0)
    assert "did not run then" in proof(found, "orders").note
    before = lived.certificate(day=SIMULATED.replace(day=5))  # rows and bars, and no prints
    assert proof(before, "bars").equal is None
    assert "prints of" in proof(before, "bars").note
    assert proof(before, "rows").equal is True


def test_the_command_prints_it_and_ends_with_its_code(lived: Lived) -> None:
    market = Market(lived.home, lived.store)
    said = market.ask("parity", "--date", SIMULATED)
    assert said["verdict"] == "equal"
    _, ts, undo = cheaper(lived.store)
    try:
        shown = market.say("parity", "--date", SIMULATED)
        assert shown.code == 1, shown
        assert f"(second {ts})" in shown.out
        assert "DIFFERENT" in shown.out
    finally:
        undo()
    assert market.say("parity", "--date", "2031-01-06").code == 42
    assert market.say("parity", "--date", SIMULATED, "--account", "a b").code == 2


@pytest.mark.parametrize("seed", [3, 8])
def test_a_day_begins_where_the_one_before_ended(other: Store, seed: int) -> None:
    drawn = world(seed, assets=("BTC", "ETH"), days=2, seconds=1_500, holes=2, capital_usd=1_000_000)
    drawn = live_days.moved(drawn, 86_400 - 1_500)
    batches = [*batches_of(drawn.rows), after(drawn)]
    changes = {0: {}, 2: {"entry_score": 4.5, "cooldown_s": 0}}
    plan = Plan(capital_usd=1_000_000, limits=Limits(open_positions_max=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(desk.squeeze, "scan", pretend(drawn))
        live_days.trade(
            other,
            INSTRUMENTS,
            live_days.configs_of(INSTRUMENTS),
            batches,
            funding=drawn.funding,
            params=changes,
            plan=plan,
        )
        found = [parity.parity(other, ParityRequest(day=day)) for day in drawn.spec.days()]
    for day, certificate in zip(drawn.spec.days(), found, strict=True):
        assert certificate.verdict == "equal", [p.difference for p in certificate.proofs]
        assert proof(certificate, "fills").count > 5
        assert certificate.until_ts == day_start_s(day) + 86_400
    assert found[1].from_ts == day_start_s(START) + 86_400
    assert len(found[0].params_hashes) == 2
