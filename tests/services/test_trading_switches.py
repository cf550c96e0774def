"""What may stop trading and what may change it while it runs: switches, fences, parameters, assets, lost snapshots."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from squeezecore import desk
from squeezecore.adapters.bus import BusError, Fenced
from squeezecore.adapters.store import StoreError
from squeezecore.errors import UsageError
from squeezecore.risk import TradingState
from squeezecore.spec import AssetConfig, canonical
from squeezecore.squeeze import params_from
from squeezecore.wire import Decided
from support import virtual
from support.backtest_worlds import INSTRUMENTS, World, world
from support.trading_stage import Stage, StrategyKeep
from support.trading_worlds import batches_of, facts_of, pretend

Play = Callable[[Stage, list[Any]], Awaitable[None]]
SECONDS = 1_500


def play(drawn: World, scene: Play) -> Stage:
    """Let a scene happen over a world's first day, in virtual time."""
    stage = Stage(drawn.spec, {asset: INSTRUMENTS[asset] for asset in drawn.spec.assets})

    async def main() -> None:
        await stage.configure()
        await scene(stage, batches_of(drawn.rows))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(desk.squeeze, "scan", pretend(drawn))
        virtual.run(main())
    return stage


def busy_world(seed: int = 11, **changes: object) -> World:
    return world(seed, seconds=SECONDS, holes=0, params={"cooldown_s": 0}, **changes)


def entries(stage: Stage, first: int, last: int) -> list[Any]:
    """Return fills of entries in a span of seconds."""
    return [fill for fill in stage.memory.of("fills") if fill.reason == "entry" and first <= fill.ts < last]


def test_a_kill_ends_what_is_held_and_holds_over_restarts_until_resumed():
    marks: list[int] = []

    async def scene(stage: Stage, batches: list[Any]) -> None:
        tasks = [stage.begin("strategy"), stage.begin("executor")]
        held = 0
        for at in range(0, 900, 20):  # until something is held
            await stage.publish(batches[at : at + 20])
            await stage.until(batches[at + 19].ts, *tasks)
            held = at + 20
            if stage.executor.settling.account.exchange.ledger.positions:
                break
        await stage.executor.switchboard.kill("test")
        assert stage.executor.status()["state"] == "KILLED"
        await stage.publish(batches[held : held + 100])
        await stage.until(batches[held + 99].ts, *tasks)
        assert not stage.executor.settling.account.exchange.ledger.positions
        tasks[1].cancel()
        tasks[1] = stage.begin("executor")
        await stage.publish(batches[held + 100 : held + 300])
        await stage.until(batches[held + 299].ts, *tasks)
        assert stage.executor.switchboard.kill_switch
        await stage.executor.switchboard.resume("test is over")
        await stage.publish(batches[held + 300 :])
        await stage.until(batches[-1].ts, *tasks)
        marks.extend(batch.ts for batch in (batches[held - 1], batches[held + 299], batches[-1]))
        for task in tasks:
            task.cancel()

    stage = play(busy_world(), scene)
    killed_ts, resumed_ts, end_ts = marks
    assert entries(stage, 0, killed_ts + 1)
    assert not entries(stage, killed_ts + 2, resumed_ts)
    assert entries(stage, resumed_ts, end_ts + 1)
    reasons = {one.reason for one in stage.memory.of("decisions") if one.kind == "exit" and one.ts > killed_ts}
    assert "hard_risk: kill switch" in reasons
    denied = [one for one in stage.memory.of("decisions") if one.kind == "denied" and killed_ts < one.ts < resumed_ts]
    assert denied
    assert all("kill_switch" in one.reason for one in denied)
    assert [one.kill_switch for one in stage.memory.switches] == [True, False]


def test_switches_that_cannot_be_read_let_exits_through_and_nothing_else():
    marks: list[int] = []

    async def scene(stage: Stage, batches: list[Any]) -> None:
        tasks = [stage.begin("strategy"), stage.begin("executor")]
        at = 0
        while not (stage.executor and stage.executor.settling.account.exchange.ledger.positions):
            await stage.publish(batches[at : at + 20])
            await stage.until(batches[at + 19].ts, *tasks)
            at += 20
        real = stage.executor._bus.get

        async def broken(bucket: str, name: str) -> Any:
            if name.startswith("switch."):
                raise BusError("the bus said nothing")
            return await real(bucket, name)

        stage.executor._bus.get = broken
        await asyncio.sleep(3.0)
        assert "cannot be read" in stage.executor.switchboard.error
        assert stage.executor.status()["state"] == "HALTED"
        await stage.publish(batches[at:1_200])
        await stage.until(batches[1_199].ts, *tasks)
        assert not stage.executor.settling.account.exchange.ledger.positions
        marks.append(batches[at].ts)
        stage.executor._bus.get = real
        await asyncio.sleep(3.0)
        assert stage.executor.switchboard.error == ""
        await stage.publish(batches[1_200:])
        await stage.until(batches[-1].ts, *tasks)
        marks.append(batches[1_200].ts)
        for task in tasks:
            task.cancel()

    stage = play(busy_world(), scene)
    assert not entries(stage, marks[0] + 1, marks[1])
    exits = [fill for fill in stage.memory.of("fills") if fill.reason != "entry" and marks[0] <= fill.ts < marks[1]]
    assert exits
    said = [one.reason for one in stage.memory.of("decisions") if one.kind == "denied"]
    said += [one.reason for one in stage.memory.of("updates")]
    assert any("trading state was halted" in one for one in said)


def test_states_are_left_only_by_the_right_door():
    async def scene(stage: Stage, _: list[Any]) -> None:
        task = stage.begin("executor")
        await asyncio.sleep(1.0)
        board = stage.executor.switchboard
        await board.limit(TradingState.REDUCING, "careful")
        await board.limit(TradingState.ACTIVE, "fine")
        await board.limit(TradingState.HALTED, "bad")
        with pytest.raises(UsageError, match="only POST /resume"):
            await board.limit(TradingState.ACTIVE, "fine")
        await board.kill("worse")
        with pytest.raises(UsageError, match="is killed"):
            await board.limit(TradingState.REDUCING, "fine")
        task.cancel()
        bus = stage.server.connect()
        await bus.put("config", "switch.paper", b"nonsense")
        task = stage.begin("executor")
        with pytest.raises(UsageError, match=r"switch\.paper"):
            await task

    stage = play(busy_world(), scene)
    assert [str(one.state) for one in stage.memory.switches] == ["reducing", "active", "halted", "halted"]


def test_a_bus_without_memory_does_not_switch_trading_on():
    async def scene(stage: Stage, _: list[Any]) -> None:
        task = stage.begin("executor")
        await asyncio.sleep(1.0)
        await stage.executor.switchboard.kill("stays")
        task.cancel()
        other = Stage(stage.spec, stage.instruments)
        other.memory = stage.memory
        await other.configure()
        task = other.begin("executor")
        await asyncio.sleep(1.0)
        assert other.executor.switchboard.kill_switch
        assert other.executor.switchboard.switches.reason == "stays"
        task.cancel()

    play(busy_world(), scene)


def test_who_was_replaced_ends():
    async def scene(stage: Stage, batches: list[Any]) -> None:
        tasks = [stage.begin("strategy"), stage.begin("executor")]
        await stage.publish(batches[:100])
        await stage.until(batches[99].ts, *tasks)
        newer = stage.begin("executor")
        await stage.publish(batches[100:], facts_of(stage.instruments, drawn.funding))
        with pytest.raises(BusError, match=r"leads|taken over"):
            await tasks[1]
        assert issubclass(Fenced, BusError)
        await stage.until(batches[-1].ts, newer)
        tasks[0].cancel()
        newer.cancel()

    drawn = busy_world()
    stage = play(drawn, scene)
    _, days = drawn.run(days=1)
    assert stage.differs(days, int(drawn.rows["BTC"].ts[-1])) == ""


def test_parameters_hold_from_the_same_second_after_a_restart():
    others, last = {"entry_score": 6.0, "cooldown_s": 0}, {"entry_score": 4.5}

    async def scene(stage: Stage, batches: list[Any]) -> None:
        tasks = [stage.begin("strategy"), stage.begin("executor")]
        await stage.publish(batches[:400])
        await stage.until(batches[399].ts, *tasks)
        bus = stage.server.connect()
        await bus.put("config", "params", b'{"entry_score": "high"}')
        await asyncio.sleep(2.0)
        assert "entry_score was 'high', it must be a number" in stage.strategy.refused
        await bus.put("config", "params", canonical(others))
        await asyncio.sleep(2.0)
        assert stage.strategy.refused == ""
        await stage.publish(batches[400:800])
        await stage.until(batches[799].ts, *tasks)
        tasks[0].cancel()
        del stage.memory.snapshots["strategy"][1:]  # far behind: what it decides again must be the same
        await bus.put("config", "params", canonical(last))
        tasks[0] = stage.begin("strategy")
        await stage.publish(batches[800:])
        await stage.until(batches[-1].ts, *tasks)
        log = msgspec.json.decode((await bus.get("config", "params.log"))[0])
        assert [swap["from_ts"] for swap in log] == [batches[400].ts, batches[800].ts]
        for task in tasks:
            task.cancel()

    drawn = busy_world()
    stage = play(drawn, scene)
    ts = drawn.rows["BTC"].ts
    hashes = [params_from(values).hash for values in ({"cooldown_s": 0}, others, last)]

    def due(second: int) -> str:
        return hashes[int(second >= ts[400]) + int(second >= ts[800])]

    said = [*stage.memory.of("decisions"), *stage.memory.of("signals")]
    assert {one.params_hash for one in said} == set(hashes)
    assert all(one.params_hash == due(one.ts) for one in said)


def test_assets_come_and_go_and_what_is_held_stays_until_it_is_left():
    def configs(*assets: str) -> bytes:
        return canonical({asset: AssetConfig(traded=INSTRUMENTS[asset].id, markets=()) for asset in assets})

    async def scene(stage: Stage, batches: list[Any]) -> None:
        bus = stage.server.connect()
        await bus.put("config", "assets", configs("BTC"))
        tasks = [stage.begin("strategy"), stage.begin("executor")]
        at = 0
        while not (stage.executor and stage.executor.settling.account.exchange.ledger.positions):
            await stage.publish(batches[at : at + 20])
            await stage.until(batches[at + 19].ts, *tasks)
            at += 20
        assert set(stage.strategy.desk.assets) == {"BTC"}
        await bus.put("config", "assets", b'{"ETH": 1}')
        await asyncio.sleep(2.0)
        for service in (stage.strategy, stage.executor):
            assert "key assets of bucket config was not understood" in service.status()["last_error"]
        await bus.put("config", "assets", configs("ETH"))
        await asyncio.sleep(2.0)
        await stage.publish(batches[at : at + 1])
        await stage.until(batches[at].ts, *tasks)
        assert set(stage.strategy.desk.assets) == set(stage.executor.settling.assets) == {"BTC", "ETH"}
        await stage.publish(batches[at + 1 :])
        await stage.until(batches[-1].ts, *tasks)
        assert set(stage.strategy.desk.assets) == set(stage.executor.settling.assets) == {"ETH"}
        for task in tasks:
            task.cancel()

    stage = play(busy_world(assets=("BTC", "ETH")), scene)
    fills = stage.memory.of("fills")
    assert {fill.asset for fill in fills} == {"BTC", "ETH"}
    assert len({fill.order_id for fill in fills if fill.asset == "BTC"}) == 2


def test_trading_goes_on_while_the_store_is_away(monkeypatch: pytest.MonkeyPatch):
    away = {"executor": True, "strategy": True}

    def missing(what: str, real: Any) -> Any:
        def put(*values: Any) -> None:
            if away[what]:
                raise StoreError("the store is away")
            real(*values)

        return put

    async def scene(stage: Stage, batches: list[Any]) -> None:
        tasks = [stage.begin("strategy"), stage.begin("executor")]
        await stage.publish(batches[:1], facts_of(stage.instruments, drawn.funding))
        await stage.until(batches[0].ts, *tasks)
        for what, service in (("executor", stage.executor), ("strategy", stage.strategy)):
            monkeypatch.setattr(service._keep, "put", missing(what, service._keep.put))
        await stage.publish(batches[1:1_000])
        await stage.until(batches[999].ts, *tasks)
        assert stage.executor.counts["fills"]
        assert not stage.memory.of("fills")
        assert "the store is away" in stage.executor.status()["last_error"]
        snapshots = len(stage.memory.snapshots["executor"])
        away.update(executor=False, strategy=False)
        await asyncio.sleep(5.0)
        assert len(stage.memory.snapshots["executor"]) > snapshots
        await stage.publish(batches[1_000:])
        await stage.until(batches[-1].ts, *tasks)
        for task in tasks:
            task.cancel()

    drawn = busy_world()
    stage = play(drawn, scene)
    _, days = drawn.run(days=1)
    assert stage.differs(days, int(drawn.rows["BTC"].ts[-1])) == ""


class _OtherCode(StrategyKeep):
    def snapshot(self) -> Any:
        found = super().snapshot()
        return found._replace(fits=False) if found is not None else None


def test_another_version_of_the_code_leaves_by_what_was_frozen_at_the_entry(monkeypatch: pytest.MonkeyPatch):
    async def scene(stage: Stage, batches: list[Any]) -> None:
        tasks = [stage.begin("strategy"), stage.begin("executor")]
        at = 0
        while not (stage.executor and stage.executor.settling.account.exchange.ledger.positions):
            await stage.publish(batches[at : at + 70])
            await stage.until(batches[at + 69].ts, *tasks)
            at += 70
        frozen = stage.strategy.desk.show("BTC").entry
        assert frozen is not None
        stage.strategy._freeze(batches[at - 1].ts + 1)
        await asyncio.sleep(1.0)
        tasks[0].cancel()
        monkeypatch.setattr("support.trading_stage.StrategyKeep", _OtherCode)
        monkeypatch.setattr(_OtherCode, "last_row", lambda *_: batches[at - 1].ts)
        tasks[0] = stage.begin("strategy")
        await asyncio.sleep(2.0)
        assert stage.strategy.desk.show("BTC").entry == frozen
        await stage.publish(batches[at:])
        await stage.until(batches[-1].ts, *tasks)
        for task in tasks:
            task.cancel()

    stage = play(busy_world(), scene)
    assert len(stage.memory.of("fills")) > 1


def test_an_account_whose_store_was_lost_is_not_begun_anew():
    async def scene(stage: Stage, batches: list[Any]) -> None:
        tasks = [stage.begin("strategy"), stage.begin("executor")]
        await stage.publish(batches)
        await stage.until(batches[-1].ts, *tasks)
        tasks[1].cancel()
        stage.memory.snapshots["executor"].clear()
        with pytest.raises(UsageError, match="the store has no snapshot of it"):
            await stage.begin("executor")
        tasks[0].cancel()

    play(busy_world(), scene)


def test_nothing_is_decided_without_an_account():
    async def scene(stage: Stage, batches: list[Any]) -> None:
        task = stage.begin("strategy")
        await stage.publish(batches[:300])
        await asyncio.sleep(5.0)
        assert stage.strategy.status()["state"] == "WAITING FOR THE EXECUTOR"
        assert await stage.server.connect().last("trade.v1.decided.paper") is None
        other = stage.begin("executor")
        await stage.until(batches[299].ts, task, other)
        said = await stage.server.connect().last("trade.v1.decided.paper")
        assert isinstance(said.message, Decided)
        assert said.message.ts == batches[299].ts
        for each in (task, other):
            each.cancel()

    play(busy_world(), scene)


def test_a_snapshot_that_is_not_understood_is_a_sentence():
    async def scene(stage: Stage, batches: list[Any]) -> None:
        tasks = [stage.begin("strategy"), stage.begin("executor")]
        await stage.publish(batches[:300])
        await stage.until(batches[299].ts, *tasks)
        for task in tasks:
            task.cancel()
        for name, held in stage.memory.snapshots.items():
            place = held[-1][1]
            stage.memory.snapshots[name] = [(held[-1][0], place, b"\x81\xa1a\x01")]
        with pytest.raises(UsageError, match="snapshot of account paper was not understood"):
            await stage.begin("executor")

    play(busy_world(), scene)
