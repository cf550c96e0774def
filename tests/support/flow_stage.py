"""cvd in this process: a bus in memory, a real store, virtual time, and a fuse that ends it at any effect."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from squeeze_cvd.keeping import Keep
from squeeze_cvd.running import Cvd
from squeezecore import flow
from squeezecore.adapters import flowstore
from squeezecore.adapters.catalogue import key
from squeezecore.adapters.membus import MemServer
from squeezecore.adapters.service import Kit
from squeezecore.adapters.store import Store
from squeezecore.market import Bars, MarkSeries, Rows
from squeezecore.spec import canonical
from squeezecore.wire import Message, RepairBatch, RowBatch, TradeBatch
from support import flow_worlds as worlds
from support import virtual
from support.flow_worlds import Event, World
from support.store import assert_equal

SETTLED_S = 5.0  # of virtual time without anything to do


class Blown(BaseException):
    """The process ended here."""


class Fuse:
    """Ends whatever goes through it after so many effects, before or after the last of them."""

    def __init__(self, left: int | None, *, after: bool = False) -> None:
        self.left, self.after = left, after

    def burn(self, *, done: bool) -> None:
        if self.left is None or done != self.after:
            return
        self.left -= 1
        if self.left < 0:
            raise Blown


class FusedBus:
    """A bus whose publishing burns the fuse, message by message."""

    def __init__(self, bus: Any, fuse: Fuse) -> None:
        self._bus, self._fuse = bus, fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def publish_all(self, messages: Sequence[Message]) -> list[Any]:
        acks = []
        for message in messages:
            self._fuse.burn(done=False)
            acks += await self._bus.publish_all([message])
            self._fuse.burn(done=True)
        return acks


class FusedKeep(Keep):
    """A store whose writing burns the fuse."""

    def __init__(self, store: Store, code: str, fuse: Fuse) -> None:
        super().__init__(store, code)
        self._fuse = fuse

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not name.startswith("put"):
            return found
        fuse = super().__getattribute__("_fuse")

        def burning(*args: Any) -> Any:
            fuse.burn(done=False)
            result = found(*args)
            fuse.burn(done=True)
            return result

        return burning


class Stage:
    """What outlives the process."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.server = MemServer()
        self.code = "code"
        self.last: Cvd | None = None

    async def configure(self, made: World, configs: Any = None) -> None:
        bus = self.server.connect()
        for name, instrument in made.instruments.items():
            await bus.put("instruments", key(name), canonical(instrument))
        await bus.put("config", "assets", canonical(configs or made.configs))

    async def publish(self, events: Sequence[Event]) -> None:
        """Put messages into the stream, and their prints into the store as the recorder would."""
        messages = [event.message for event in events]
        await self.server.connect().publish_all(messages)
        flowstore.insert_trades(self.store, [each for each in messages if isinstance(each, TradeBatch)])

    async def live(self, fuse: Fuse | None = None, keep: type[FusedKeep] | None = None, **options: Any) -> bool:
        """Run until nothing is left to do; False if the fuse has ended it."""
        fuse = fuse or Fuse(None)
        bus = FusedBus(self.server.connect(), fuse)
        kit = Kit("cvd", None, bus, self.store)  # type: ignore[arg-type]
        cvd = self.last = Cvd(kit, (keep or FusedKeep)(self.store, self.code, fuse), **options)
        task = asyncio.create_task(cvd.run())
        idle_s = 0.0
        try:
            while idle_s < SETTLED_S:
                done, _ = await asyncio.wait([task], timeout=0.5)
                if done:
                    await task
                end = (await bus.stream("MD")).last_seq
                busy = cvd.state != "RUNNING" or cvd.flow.seq < end or cvd.flow.due()
                idle_s = 0.0 if busy else idle_s + 0.5
        except BaseExceptionGroup as group:
            if group.subgroup(Blown) is None:
                raise
            return False
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return True

    async def flow(self) -> list[Message]:
        """Return all messages of the stream FLOW, in order."""
        bus = self.server.connect()
        info = await bus.stream("FLOW")
        reader = await bus.read("FLOW", ("flow.v1.>",), "test", 0)
        found: list[Message] = []
        while len(found) < info.messages:
            found += [each.message for each in await reader.pull(500, 1.0)]
        return found


def on_stage(main: Any) -> Any:
    """Run a coroutine in virtual time."""
    return virtual.run(main)


def withheld(
    stream: Sequence[Event], rng: np.random.Generator, share: float, late_s: float, from_s: float = 0.0
) -> list[Event]:
    """Take some prints after `from_s` out of their batches and publish them later, each batch's together."""
    found = []
    for event in stream:
        batch = event.message
        if not isinstance(batch, TradeBatch) or event.at < from_s:
            found.append(event)
            continue
        kept, gone = [], []
        for name, block in zip(batch.instruments, batch.trades, strict=True):
            out = rng.random(len(block.id)) < share
            if (~out).any():
                kept.append((name, type(block)(*(column[~out] for column in block))))
            if out.any():
                gone.append((name, type(block)(*(column[out] for column in block))))
        if kept:
            names, blocks = zip(*kept, strict=True)
            found.append(Event(event.at, batch._replace(instruments=names, trades=blocks)))
        if gone:
            names, blocks = zip(*gone, strict=True)
            at = event.at + late_s * float(rng.random())
            found.append(Event(at, batch._replace(instruments=names, trades=blocks)))
    return sorted(found, key=lambda event: event.at)


def same_bars(one: Bars, other: Bars) -> None:
    """Assert that bars are equal but for how often they were repaired."""
    assert_equal(other._replace(version=one.version), one)
    assert (one.version >> np.uint64(32)).tolist() == one.complete.tolist()


def rows_of_bars(store: Store, made: worlds.World, bars: dict[str, Bars]) -> dict[str, Rows]:
    """Scan rows from bars and stored facts, as a rebuild would."""
    found = {}
    for asset, config in made.configs.items():
        params = flow.row_params(config, made.instruments)
        facts = (
            store.read_open_interest(config.traded, 0, 2**32 - 1),
            store.read_funding(config.traded, 0, 2**32 - 1),
            MarkSeries(*store.read_marks(config.traded, 0, 2**32 - 1)),
        )
        _, found[asset] = flow.scan_rows(params, flow.rows_initial(params), bars, *facts)
    return found


def check(store: Store, made: worlds.World, stream, messages) -> None:
    """Tables hold the truth; messages lead to the tables, and say each second's first rows once."""
    bars = {name: store.read_bars(name, 0, 2**40) for name in made.instruments}
    for name, expected in worlds.true_bars(made, stream, proved=True).items():
        same_bars(bars[name], expected)
    rows = rows_of_bars(store, made, bars)
    seen: dict[tuple[str, int], Rows] = {}
    firsts: dict[int, RowBatch] = {}
    for message in messages:
        if isinstance(message, RowBatch):
            assert message.ts not in firsts
            assert not firsts or message.ts > max(firsts)
            firsts[message.ts] = message
        if isinstance(message, RowBatch | RepairBatch):
            for at, asset in enumerate(message.assets):
                seen[asset, message.ts] = worlds.pick(message.rows, np.arange(at, at + 1))
    for asset, expected in rows.items():
        stored = store.read_rows(asset, 0, 2**40)
        assert_equal(expected, stored)
        for at, ts in enumerate(stored.ts.tolist()):
            assert_equal(worlds.pick(stored, np.arange(at, at + 1)), seen[asset, ts])
        old, _ = store.read_rows_superseded(asset, 0, 2**40)
        for ts in np.unique(old.ts).tolist():
            first = firsts[ts]
            own = worlds.pick(first.rows, np.array([name == asset for name in first.assets]))
            assert_equal(own, worlds.pick(old, np.flatnonzero(old.ts == ts)[:1]))
