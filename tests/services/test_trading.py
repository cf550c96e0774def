"""Strategy and executor as processes on a real bus and a real store: they do what the backtest does, whatever dies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from squeezecore.adapters import bus as buses
from squeezecore.adapters import tradestore
from squeezecore.adapters.catalogue import key
from squeezecore.adapters.store import Store
from squeezecore.market import cut
from squeezecore.spec import AssetConfig, canonical, day_start_s
from squeezecore.trading import Decision, Order
from squeezecore.wire import Decided, RowBatch, Sending
from support.bus import NatsBed
from support.command import eventually
from support.services import Service
from support.trading_worlds import Simulated, batches_of, facts_of, simulated

VENUE = Path(__file__).parents[1] / "support" / "trading_venue.py"
TOKEN = "a-token-of-the-executor-0123456789"
SECONDS = 8_000  # of the simulated day: a trade lies in them
ASSETS = ("BTC", "SOL")


@pytest.fixture(scope="module")
def market() -> Simulated:
    return begun(simulated(ASSETS), SECONDS)


def begun(day: Simulated, seconds: int) -> Simulated:
    """Keep a day's first seconds."""
    return day._replace(rows={asset: cut(rows, 0, seconds) for asset, rows in day.rows.items()})


class Stage:
    """A bus, a store, and both services between them."""

    def __init__(self, bed: NatsBed, store: Store, home: Path, run: Path) -> None:
        self.bed, self.store, self.home, self.run = bed, store, home, run
        self.services: list[Service] = []
        self.token = run / "token"
        self.token.write_text(TOKEN)

    def on_bus(self, action: Callable[[Any], Any]) -> Any:
        async def main() -> Any:
            bus = await buses.connect(self.bed.process.url, name="test")
            try:
                return await action(bus)
            finally:
                await bus.close()

        return asyncio.run(main())

    def configure(self, day: Simulated) -> None:
        async def main(bus: Any) -> None:
            for instrument in day.instruments.values():
                await bus.put("instruments", key(instrument.id), canonical(instrument))
            configs = {asset: AssetConfig(traded=one.id, markets=()) for asset, one in day.instruments.items()}
            await bus.put("config", "assets", canonical(configs))

        self.on_bus(main)
        for asset, rows in day.warmup.items():
            self.store.insert_rows(asset, rows)

    def publish(self, day: Simulated, batches: list[RowBatch] | None = None) -> None:
        batches = day.batches if batches is None else batches
        self.on_bus(lambda bus: bus.publish_all([*facts_of(day.instruments, day.funding), *batches]))

    def start(self, name: str, words: list[str] | None = None) -> Service:
        service = Service(
            name, words or ["-m", f"squeeze_{name}"], self.run / str(len(self.services)),
            {
                "nats_url": self.bed.process.url, "home": self.home, "database": self.store.database,
                "requests_per_s": 10_000, "token_file": self.token, "executor_token_file": self.token,
            },
        )  # fmt: skip
        self.services.append(service)
        return service

    def trade(self) -> list[Any]:
        """Return all messages of the stream TRADE, in order."""

        async def main(bus: Any) -> list[Any]:
            info = await bus.stream("TRADE")
            reader = await bus.read("TRADE", ("trade.v1.>",), "test", 0)
            found: list[Any] = []
            while len(found) < info.messages:
                found += [each.message for each in await reader.pull(500, 5.0)]
            await reader.close()
            return found

        return self.on_bus(main)

    def until_settled(self, service: Service, second: int) -> None:
        service.until(lambda: service.get("/v1/status").json().get("settled_ts", -1) >= second)

    def until_stored(self, last: int) -> None:
        """Wait until the last minute's point of equity is in the store."""
        assert eventually(lambda: last in tradestore.equity(self.store, "paper", last, last + 1)[0].tolist())


@pytest.fixture
def stage(nats_bed: NatsBed, store: Store, store_home: Path, tmp_path: Path) -> Iterator[Stage]:
    made = Stage(nats_bed, store, store_home, tmp_path)
    yield made
    for service in made.services:
        service.close()


def check(stage: Stage, day: Simulated, end_s: int) -> None:
    """The store and the stream hold what the backtest says of the same rows, byte for byte, before a second."""
    results = day.fold()
    start_s = day_start_s(day.spec.start)

    def same(mine: list[Any], name: str, second: str = "ts") -> None:
        theirs = [one for result in results for one in getattr(result, name) if getattr(one, second) < end_s]
        assert sorted(map(canonical, mine)) == sorted(map(canonical, theirs)), name
        assert theirs

    store = stage.store
    said = [one for result in results for one in result.decisions if one.ts < end_s]
    # the executor may be through before the strategy has stored its last word
    assert eventually(lambda: len(store.decisions("live:paper", None, start_s, end_s)) >= len(said))
    same(store.decisions("live:paper", None, start_s, end_s), "decisions")
    same(tradestore.orders(store, "paper", start_s, end_s), "orders", "decided_ts")
    same(tradestore.updates(store, "paper", start_s, end_s), "updates")
    same(tradestore.fills(store, "paper", start_s, end_s), "fills")
    ts, equity = tradestore.equity(store, "paper", start_s, end_s)
    expected = {
        int(t): int(usd)
        for result in results
        for t, usd in zip(result.equity_ts, result.equity_usd_e8, strict=True)
        if t < end_s
    }
    assert dict(zip(ts.tolist(), equity.tolist(), strict=True)) == expected
    said = stage.trade()
    intents = {one.id: one for one in said if isinstance(one, Order)}
    orders = [one for result in results for one in result.orders if one.decided_ts < end_s]
    assert {canonical(one) for one in intents.values()} == set(map(canonical, orders))
    sent = [one.order.id for one in said if isinstance(one, Sending)]
    assert sorted(sent) == sorted(one.id for one in orders)
    decided = [one.ts for one in said if isinstance(one, Decided)]
    assert decided[-1] >= end_s - 1


def end_of(day: Simulated) -> int:
    """Return the second up to which all is settled: the last waits for nothing more."""
    return int(day.rows["BTC"].ts[-1])


def test_a_stream_of_rows_is_traded_as_the_backtest_trades_them(stage: Stage, market: Simulated) -> None:
    strategy, executor = stage.start("strategy").listening(), stage.start("executor").listening()
    assert "strategy" in str(strategy.missing()) or "waiting" in str(strategy.missing())
    stage.configure(market)
    stage.publish(market)
    end_s = end_of(market)
    stage.until_settled(executor, end_s)
    stage.until_stored(end_s // 60 * 60 - 1)
    check(stage, market, end_s)
    for service in (strategy.ready(), executor.ready()):
        status = service.get("/v1/status").json()
        assert status["state"] == "RUNNING"
        assert service.get("/metrics").status_code == 200
        assert service.end() == 0


@pytest.mark.parametrize("seed", range(3))
def test_killed_again_and_again_they_leave_the_same(stage: Stage, market: Simulated, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stage.configure(market)
    running = {name: stage.start(name).listening() for name in ("strategy", "executor")}
    batches, end_s = market.batches, end_of(market)
    borders = np.sort(rng.integers(1, len(batches), 7)).tolist()
    for first, last in zip([0, *borders], [*borders, len(batches)], strict=True):
        stage.publish(market, batches[first:last])
        name = ("strategy", "executor", "nats")[int(rng.integers(3))]
        goal = batches[int(rng.integers(first, last))].ts
        if last < len(batches):
            executor = running["executor"]
            executor.until(lambda at=executor, ts=goal: at.get("/v1/status").json().get("settled_ts", -1) >= ts)
            if name == "nats":
                stage.bed.process.kill()
                stage.bed.process.start()
            else:
                running[name].end(signal.SIGKILL)
                running[name] = stage.start(name).listening()
    stage.until_settled(running["executor"], end_s)
    stage.until_stored(end_s // 60 * 60 - 1)
    check(stage, market, end_s)


@pytest.mark.parametrize("where", ["before", "between", "after"])
def test_of_two_executors_one_sends_each_order_once(stage: Stage, market: Simulated, where: str) -> None:
    ledger = stage.run / "venue"
    stage.configure(market)
    stage.start("strategy").listening()
    old = stage.start("executor", [str(VENUE), str(ledger), where]).listening()
    stage.publish(market)
    assert eventually(ledger.with_suffix(".stopped").exists, old.process), old.said()
    new = stage.start("executor", [str(VENUE), str(ledger)]).listening()
    end_s = end_of(market)
    stage.until_settled(new, end_s)
    os.kill(old.process.pid, signal.SIGCONT)
    assert old.wait() == 1
    assert "somebody else leads" in old.said() or "was taken over by another process" in old.said()
    stage.until_stored(end_s // 60 * 60 - 1)
    check(stage, market, end_s)
    orders = [order.id for result in market.fold() for order in result.orders if order.decided_ts < end_s]
    assert sorted(ledger.read_text().split()) == sorted(orders)


def test_answers_over_http(stage: Stage, market: Simulated) -> None:
    strategy, executor = stage.start("strategy").listening(), stage.start("executor").listening()
    stage.configure(market)
    short = begun(market, 7_000)  # ends within the trade
    stage.publish(short)
    end_s = end_of(short)
    stage.until_settled(executor, end_s)
    bearer = {"Authorization": f"Bearer {TOKEN}"}

    state = strategy.get("/v1/assets/SOL/state").json()
    assert state["warm"]
    assert state["second"]["ts"] == end_s
    assert set(state["second"]["parts"]) == {
        "reset_deceleration", "absorption", "failed_breakdown", "directional_bias", "open_interest",
    }  # fmt: skip
    assert state["position"][0]["asset"] == "SOL"
    assert state["entry"]["tier"] in (1, 2, 3)
    wrong = strategy.get("/v1/assets/SOLX/state")
    assert (wrong.status_code, "did you mean SOL" in wrong.json()["detail"]) == (404, True)

    positions = executor.get("/v1/positions").json()
    assert [one["asset"] for one in positions] == ["SOL"]
    account = executor.get("/v1/account").json()
    assert account["limits"]["open_positions_max"] == {"used": 1, "limit": 10}
    assert account["equity_usd_e8"] != account["capital_usd"] * 10**8
    stage.until_stored(end_s // 60 * 60 - 1)
    orders = executor.get("/v1/orders").json()
    assert orders["open"] == []
    assert [one["last_update"]["state"] for one in orders["orders"]] == ["filled"]
    assert sum(one["qty"] for one in executor.get("/v1/fills").json()) == abs(positions[0]["qty"])
    assert executor.get("/v1/fills?limit=0").status_code == 422

    found = strategy.post("/v1/evaluate", json={"asset": "SOL", "ts": end_s + 10})
    assert found.status_code == 404
    assert strategy.post("/v1/evaluate", json={"asset": "SOL"}).status_code == 422

    for path, body in (("/kill", {"reason": "r"}), ("/state", {"state": "halted", "reason": "r"})):
        assert executor.post(path, json=body).status_code == 401
    assert executor.post("/kill", headers=bearer, json={}).status_code == 422
    assert (
        executor.post("/state", headers=bearer, json={"state": "reducing", "reason": "r"}).json()["state"] == "reducing"
    )
    assert executor.post("/state", headers=bearer, json={"state": "active", "reason": "r"}).status_code == 200
    assert executor.post("/state", headers=bearer, json={"state": "HALTED", "reason": "r"}).status_code == 200
    refused = executor.post("/state", headers=bearer, json={"state": "active", "reason": "r"})
    assert (refused.status_code, "POST /resume" in refused.text) == (422, True)
    assert executor.post("/resume", headers=bearer, json={"reason": "r", "confirm": "other"}).status_code == 422
    assert executor.post("/resume", headers=bearer, json={"reason": "r", "confirm": "paper"}).status_code == 200

    assert executor.post("/kill", headers=bearer, json={"reason": "smoke"}).json()["kill_switch"] is True
    executor.end(signal.SIGKILL)
    executor = stage.start("executor").ready()
    assert executor.get("/v1/switches").json()["kill_switch"] is True
    assert executor.get("/v1/status").json()["state"] == "KILLED"
    stage.publish(short, batches_of({asset: cut(rows, 7_000, 7_100) for asset, rows in market.rows.items()}))
    stage.until_settled(executor, end_s + 90)
    assert executor.get("/v1/positions").json() == []  # what was held has been left
    executor.until(lambda: "hard_risk" in {one["reason"] for one in executor.get("/v1/orders").json()["orders"]})
    parameters(strategy, stage, market, bearer)


def parameters(strategy: Service, stage: Stage, market: Simulated, bearer: dict[str, str]) -> None:
    """Other parameters hold from a second on, and are in every record from there; wrong ones change nothing."""

    def put(values: dict[str, Any], **options: Any) -> httpx.Response:
        return strategy.http.put("/v1/parameters", json=values, **options)

    before = strategy.get("/v1/parameters").json()
    assert put({"entry_score": 5.0}).status_code == 401
    wrong = put({"entry_score": 50.0}, headers=bearer)
    assert (wrong.status_code, "entry_score was 50.0" in wrong.text) == (422, True)
    wrong = put({"entry_scores": 5.0}, headers=bearer)
    assert (wrong.status_code, "did you mean entry_score" in wrong.text) == (422, True)
    stage.on_bus(lambda bus: bus.put("config", "params", b'{"entry_score": -1}'))
    strategy.until(lambda: "entry_score was -1" in strategy.get("/v1/parameters").json()["refused"])
    assert strategy.get("/v1/parameters").json()["hash"] == before["hash"]
    done = put({"entry_score": 5.0}, headers=bearer).json()
    strategy.until(lambda: strategy.get("/v1/parameters").json()["next_hash"] == done["hash"])
    stage.publish(market, batches_of({asset: cut(rows, 7_100, 7_900) for asset, rows in market.rows.items()}))
    strategy.until(lambda: strategy.get("/v1/parameters").json()["hash"] == done["hash"])
    log = strategy.get("/v1/parameters").json()["log"]
    assert log[-1]["hash"] == done["hash"]
    from_ts = log[-1]["from_ts"]
    start_s = day_start_s(market.spec.start)
    last = start_s + 7_899

    def all_stored() -> list[Decision]:
        return stage.store.decisions("live:paper", None, start_s, last + 1)

    strategy.until(lambda: strategy.get("/v1/status").json()["decided_ts"] >= last)
    strategy.until(lambda: any(one.ts > from_ts for one in all_stored()))
    assert all((one.params_hash == done["hash"]) == (one.ts >= from_ts) for one in all_stored())
