"""Strategy and executor in this process: a bus in memory, virtual time, and a fuse that ends either at any effect."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from squeeze_executor import keeping as executing
from squeeze_executor.trading import Executor
from squeeze_executor.venue import Paper
from squeeze_strategy import keeping as deciding
from squeeze_strategy.deciding import Strategy
from squeezecore.adapters.accounts import Plan, plan_key
from squeezecore.adapters.catalogue import key
from squeezecore.adapters.membus import MemServer
from squeezecore.adapters.service import Kit
from squeezecore.desk import signal_of
from squeezecore.fold import DayResult
from squeezecore.market import Instrument, Rows, empty
from squeezecore.spec import AssetConfig, BacktestSpec, canonical
from squeezecore.trading import Order, OrderUpdate
from squeezecore.wire import FundingFact, RowBatch, Sending
from support.flow_stage import Blown, Fuse

SETTLED_S = 6.0  # of virtual time without anything to do


class FusedBus:
    """A bus every call of which burns the fuse, before and after it had its effect."""

    def __init__(self, bus: Any, fuse: Fuse) -> None:
        self._bus, self._fuse = bus, fuse

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._bus, name)
        if name not in ("publish", "publish_all", "take_lead", "get", "put", "last"):
            return found

        async def burning(*args: Any, **options: Any) -> Any:
            self._fuse.burn(done=False)
            result = await found(*args, **options)
            self._fuse.burn(done=True)
            return result

        return burning


class Memory:
    """What a store would hold, by the keys it would have; it outlives both services."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[Any, Any]] = {}
        self.snapshots: dict[str, list[tuple[int, Any, bytes]]] = {"executor": [], "strategy": []}
        self.switches: list[Any] = []

    def add(self, table: str, records: Mapping[Any, Any]) -> None:
        held = self.tables.setdefault(table, {})
        for name, record in records.items():
            if name in held:
                assert canonical(held[name]) == canonical(record), f"{table} {name}: {held[name]} is not {record}"
            held[name] = record

    def of(self, table: str) -> list[Any]:
        return [record for _, record in sorted(self.tables.get(table, {}).items())]


class ExecutorKeep:
    """`executing.Keep` over a `Memory`."""

    account = "paper"

    def __init__(self, memory: Memory, fuse: Fuse) -> None:
        self.memory, self.fuse = memory, fuse

    def put(self, records: executing.Records) -> None:
        self.fuse.burn(done=False)
        self.memory.add("orders", {(order.decided_ts, order.id): order for order in records.orders})
        self.memory.add("updates", {(one.ts, one.order_id, one.state): one for one in records.updates})
        self.memory.add("fills", {(fill.ts, fill.id): fill for fill in records.fills})
        self.memory.add("payments", {(one.ts, one.instrument): one for one in records.payments})
        self.memory.add("decisions", {(one.ts, one.asset, one.kind): one for one in records.decisions})
        self.memory.add("equity", records.equity)
        self.fuse.burn(done=True)

    def put_snapshot(self, ts: int, place: executing.Place, state: bytes) -> None:
        self.fuse.burn(done=False)
        self.memory.snapshots["executor"].append((ts, place, state))
        self.fuse.burn(done=True)

    def snapshot(self) -> Any:
        found = self.memory.snapshots["executor"]
        return found[-1][1:] if found else None

    def put_plan(self, plan: Plan) -> None:
        self.memory.add("plans", {self.account: plan})

    def put_switch(self, switched: Any) -> None:
        self.memory.switches.append(switched)

    def last_switch(self) -> Any:
        return self.memory.switches[-1] if self.memory.switches else None


class StrategyKeep:
    """`deciding.Keep` over a `Memory`."""

    account = "paper"

    def __init__(self, memory: Memory, fuse: Fuse) -> None:
        self.memory, self.fuse = memory, fuse

    def put(self, decisions: Sequence[Any]) -> None:
        self.fuse.burn(done=False)
        self.memory.add("decisions", {(one.ts, one.asset, one.kind): one for one in decisions})
        signals = [one for one in map(signal_of, decisions) if one is not None]
        self.memory.add("signals", {(one.ts, one.asset): one for one in signals})
        self.fuse.burn(done=True)

    def put_snapshot(self, ts: int, place: deciding.Place, state: bytes) -> None:
        self.fuse.burn(done=False)
        self.memory.snapshots["strategy"].append((ts, place, state))
        self.fuse.burn(done=True)

    def snapshot(self) -> Any:
        found = self.memory.snapshots["strategy"]
        return deciding.Found(*found[-1][1:], True) if found else None

    def put_swaps(self, swaps: Sequence[Any]) -> None:
        self.memory.add("swaps", {swap.from_ts: swap for swap in swaps})

    def last_row(self, _assets: Sequence[str], _before_ts: int) -> int:
        return -1

    def warmup(self, _asset: str, _end_ts: int) -> Rows:
        return empty(Rows)


class CountingVenue:
    """An exchange outside of the process: it knows each order by its id, whoever sends it."""

    def __init__(self, paper: Paper, orders: dict[str, int]) -> None:
        self._paper, self.orders = paper, orders

    def __getattr__(self, name: str) -> Any:
        return getattr(self._paper, name)

    async def submit(self, order: Order) -> OrderUpdate:
        self.orders[order.id] = self.orders.get(order.id, 0) + 1
        await asyncio.sleep(0)
        return await self._paper.submit(order)


class Stage:
    """What outlives both services, and both."""

    def __init__(self, spec: BacktestSpec, instruments: Mapping[str, Instrument]) -> None:
        self.spec = spec
        self.instruments = {asset: instruments[asset] for asset in spec.assets}
        self.server, self.memory = MemServer(), Memory()
        self.venue_orders: dict[str, int] = {}
        self.strategy: Strategy | None = None
        self.executor: Executor | None = None
        self.ends = 0

    async def configure(self) -> None:
        bus, spec = self.server.connect(), self.spec
        for instrument in self.instruments.values():
            await bus.put("instruments", key(instrument.id), canonical(instrument))
        configs = {asset: AssetConfig(traded=one.id, markets=()) for asset, one in self.instruments.items()}
        await bus.put("config", "assets", canonical(configs))
        plan = Plan(capital_usd=spec.capital_usd, costs=spec.costs, limits=spec.limits)
        await bus.put("config", plan_key("paper"), canonical(plan))
        await bus.put("config", "params", canonical(spec.params))

    async def publish(self, batches: Sequence[RowBatch], facts: Sequence[FundingFact] = ()) -> None:
        bus = self.server.connect()
        await bus.publish_all(list(facts))
        await bus.publish_all(list(batches))

    def new_strategy(self, fuse: Fuse) -> Strategy:
        kit = Kit("strategy", None, FusedBus(self.server.connect(), fuse), None)  # type: ignore[arg-type]
        self.strategy = Strategy(kit, StrategyKeep(self.memory, fuse), "paper", Plan())  # type: ignore[arg-type]
        return self.strategy

    def new_executor(self, fuse: Fuse) -> Executor:
        kit = Kit("executor", None, FusedBus(self.server.connect(), fuse), None)  # type: ignore[arg-type]
        self.executor = Executor(
            kit, ExecutorKeep(self.memory, fuse), "paper", Plan(), f"e{self.ends}",  # type: ignore[arg-type]
            venue_of=lambda paper: CountingVenue(paper, self.venue_orders),
        )  # fmt: skip
        return self.executor

    async def live(self, rng: np.random.Generator | None = None, ends: int = 0, until_ts: int = 0) -> None:
        """Run both until all rows are settled, each ended `ends` times at a random effect and started again."""
        left = {"strategy": ends, "executor": ends}
        over = False

        async def keep_running(what: str) -> None:
            while not over:  # a group of tasks that fails while it is cancelled tells of the failure alone
                fuse = Fuse(None)
                if rng is not None and left[what]:
                    fuse = Fuse(int(rng.integers(0, 120)), after=bool(rng.random() < 0.5))
                service = self.new_strategy(fuse) if what == "strategy" else self.new_executor(fuse)
                try:
                    await service.run()
                except Blown:
                    left[what] -= 1
                    self.ends += 1
                await asyncio.sleep(0 if rng is None else float(rng.random()))

        async def settled() -> None:
            idle_s = 0.0
            while idle_s < SETTLED_S:
                await asyncio.sleep(0.5)
                there = self.executor is not None and self.executor.settling.settled_ts >= until_ts
                idle_s = idle_s + 0.5 if there else 0.0

        tasks = [asyncio.create_task(one) for one in (keep_running("strategy"), keep_running("executor"))]
        watch = asyncio.create_task(settled())
        done, _ = await asyncio.wait([*tasks, watch], return_when=asyncio.FIRST_COMPLETED)
        over = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    def begin(self, what: str, fuse: Fuse | None = None) -> asyncio.Task[None]:
        """Start a service as a task."""
        make = self.new_strategy if what == "strategy" else self.new_executor
        self.ends += 1
        return asyncio.create_task(make(fuse or Fuse(None)).run())

    async def until(self, ts: int, *tasks: asyncio.Task[None]) -> None:
        """Wait until all rows up to a second are settled and what they brought is kept; a task that ends is a fault."""
        while self.executor is None or self.executor.settling.settled_ts < ts:
            await asyncio.sleep(0.05)
            for task in tasks:
                if task.done():
                    task.result()
        await asyncio.sleep(SETTLED_S)

    async def sendings(self) -> list[str]:
        """Return the orders that were written down before they went out, in order."""
        bus = self.server.connect()
        info = await bus.stream("TRADE")
        reader = await bus.read("TRADE", ("trade.v1.>",), "test", 0)
        found: list[Any] = []
        while len(found) < info.messages:
            found += [each.message for each in await reader.pull(500, 1.0)]
        return [one.order.id for one in found if isinstance(one, Sending)]

    def differs(self, days: Sequence[DayResult], end_s: int) -> str:
        """Say what is not as the backtest has it before a second; empty when all is, byte for byte."""
        kinds = {
            "decisions": [(one.ts, one.asset) for day in days for one in day.decisions],
            "orders": [(one.decided_ts, one.id) for day in days for one in day.orders],
            "updates": [(one.ts, one.order_id, one.state) for day in days for one in day.updates],
            "fills": [(one.ts, one.id) for day in days for one in day.fills],
        }
        for name, keys in kinds.items():
            theirs = [one for day in days for one in getattr(day, name)]
            want = sorted(zip(keys, map(canonical, theirs), strict=True))
            have = [canonical(one) for one in self.memory.of(name) if _second(one) < end_s]
            if [value for keyed, value in want if keyed[0] < end_s] != have:
                return f"{name}: {len(have)} live, {len(want)} in the backtest"
        equity = {int(t): int(usd) for day in days for t, usd in zip(day.equity_ts, day.equity_usd_e8, strict=True)}
        mine = {ts: usd for ts, usd in self.memory.tables.get("equity", {}).items() if ts < end_s}
        wrong = [ts for ts, usd in mine.items() if equity.get(ts) != usd]
        return f"equity differs at {wrong[:3]}" if wrong else ""


def _second(record: Any) -> int:
    return int(getattr(record, "ts", None) or getattr(record, "decided_ts", 0))
