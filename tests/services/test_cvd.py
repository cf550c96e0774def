"""cvd as a process on a real bus and a real store: seconds, rows and messages come once and are right, whatever dies."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from squeezecore.adapters import bus as buses
from squeezecore.adapters import flowstore
from squeezecore.adapters.catalogue import key
from squeezecore.adapters.store import Store
from squeezecore.spec import canonical
from squeezecore.wire import AssetChange, RowBatch
from support import flow_worlds as worlds
from support.bus import NatsBed
from support.services import Service
from support.store import assert_equal


@pytest.fixture(scope="module")
def made() -> worlds.World:
    return worlds.world(seconds=30)


class Stage:
    """A bus, a store, and cvd between them."""

    def __init__(self, bed: NatsBed, store: Store, home: Path, run: Path) -> None:
        self.bed, self.store, self.home, self.run = bed, store, home, run
        self.services: list[Service] = []

    def on_bus(self, action):
        """Do something with a connection to the bus."""

        async def main():
            bus = await buses.connect(self.bed.process.url, name="test")
            try:
                return await action(bus)
            finally:
                await bus.close()

        return asyncio.run(main())

    def configure(self, made: worlds.World, configs=None) -> None:
        async def main(bus) -> None:
            for name, instrument in made.instruments.items():
                await bus.put("instruments", key(name), canonical(instrument))
            await bus.put("config", "assets", canonical(configs or made.configs))

        self.on_bus(main)

    def publish(self, events) -> None:
        self.on_bus(lambda bus: bus.publish_all([event.message for event in events]))

    def start(self, **settings) -> Service:
        service = Service(
            "cvd",
            ["-m", "squeeze_cvd"],
            self.run / str(len(self.services)),
            {"nats_url": self.bed.process.url, "home": self.home, "database": self.store.database, "port": 0}
            | settings,
        )
        self.services.append(service)
        return service

    def flow(self) -> list:
        """Return all messages of the stream FLOW, in order."""

        async def main(bus):
            info = await bus.stream("FLOW")
            reader = await bus.read("FLOW", ("flow.v1.>",), "test", 0)
            found = []
            while len(found) < info.messages:
                found += [each.message for each in await reader.pull(500, 5.0)]
            await reader.close()
            return found

        return self.on_bus(main)


@pytest.fixture
def stage(nats_bed: NatsBed, store: Store, store_home: Path, tmp_path: Path) -> Iterator[Stage]:
    asyncio.run(nats_bed._clear())
    made = Stage(nats_bed, store, store_home, tmp_path)
    yield made
    for service in made.services:
        service.close()


def until_decided(service: Service, second: int) -> None:
    service.until(lambda: service.get("/v1/status").json().get("decided_s", -1) >= second)


def check(stage: Stage, made: worlds.World, stream) -> None:
    """The store holds the truth; the bus has every second once, and the same."""
    bars = worlds.true_bars(made, stream)
    rows = worlds.true_rows(made, bars)
    for name, expected in bars.items():
        assert_equal(expected, stage.store.read_bars(name, 0, 2**40))
    for asset, expected in rows.items():
        assert_equal(expected, stage.store.read_rows(asset, 0, 2**40))
    batches = [message for message in stage.flow() if isinstance(message, RowBatch)]
    assert [batch.ts for batch in batches] == sorted({int(ts) for block in rows.values() for ts in block.ts})
    for batch in batches:
        for at, asset in enumerate(batch.assets):
            own = worlds.pick(rows[asset], rows[asset].ts == batch.ts)
            assert_equal(own, worlds.pick(batch.rows, np.arange(at, at + 1)))


def test_seconds_and_rows_of_a_stream_are_those_of_the_kernels(stage: Stage, made: worlds.World) -> None:
    stream = worlds.events(made, {"spot": 0.1, "inverse": 2.5})
    service = stage.start().listening()
    stage.configure(made)
    stage.publish(stream)
    until_decided(service, made.end_s)
    check(stage, made, stream)
    assert service.ready().end() == 0
    changes = [message for message in stage.flow() if isinstance(message, AssetChange)]
    assert changes == flowstore.asset_changes(stage.store)
    assert {change.asset: change.config for change in changes} == made.configs
