"""cvd as a process on a real bus and a real store: seconds, rows and messages come once and are right, whatever dies."""

import asyncio
import itertools
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from squeezecore.adapters import bus as buses
from squeezecore.adapters import embedded, flowstore
from squeezecore.adapters.catalogue import key
from squeezecore.adapters.store import Store
from squeezecore.spec import canonical
from squeezecore.wire import AssetChange, RowBatch, TradeBatch
from support import flow_worlds as worlds
from support.bus import NatsBed, NatsProcess
from support.flow_stage import check as check_all
from support.flow_stage import withheld
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
            {
                "nats_url": self.bed.process.url,
                "home": self.home,
                "database": self.store.database,
                "requests_per_s": 10_000,
            }
            | settings,
        )
        self.services.append(service)
        return service

    def sequence(self, stream: str) -> int:
        return self.on_bus(lambda bus: bus.stream(stream)).last_seq

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


def is_done(status: dict, last: int) -> bool:
    return status["stream_seq"] == last and status["remakes"] == 0


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


@pytest.mark.parametrize("seed", range(2))
def test_killed_again_and_again_it_leaves_the_same_tables_and_messages(
    stage: Stage, made: worlds.World, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    truth = worlds.events(made, {"spot": 0.2, "inverse": 1.5})
    stream = withheld(truth, rng, 0.01, 3.0, made.start_s + 4.0)
    flowstore.insert_trades(stage.store, [e.message for e in stream if isinstance(e.message, TradeBatch)])
    stage.configure(made)
    cuts = [0, *sorted(rng.integers(0, len(stream), 3).tolist()), len(stream)]
    for start, end in itertools.pairwise(cuts):
        service = stage.start()
        stage.publish(stream[start:end])
        if end < len(stream):
            before = stage.sequence("FLOW")
            service.until(lambda before=before: stage.sequence("FLOW") > before or rng.random() < 0.05)
            service.end(signal.SIGKILL)
    until_decided(service.listening(), made.end_s)
    last = stage.sequence("MD")
    service.until(lambda: is_done(service.get("/v1/status").json(), last))
    assert service.end() == 0
    check_all(stage.store, made, truth, stage.flow())


def test_a_person_can_ask_for_rows_and_for_what_is_complete(stage: Stage, made: worlds.World) -> None:
    service = stage.start().listening()
    assert service.get("/v1/assets/BTC/row").status_code == 503
    stage.configure(made)
    stage.publish(worlds.events(made))
    until_decided(service.ready(), made.end_s)
    expected = stage.store.read_rows("BTC", 0, 2**40)
    newest = service.get("/v1/assets/BTC/row").json()
    assert newest == {name: int(column[-1]) for name, column in expected._asdict().items()}
    span = {"from": made.start_s + 5, "to": made.start_s + 500, "limit": 7}
    columns = service.get("/v1/assets/BTC/rows", params=span).json()
    assert columns == {name: column[5:12].tolist() for name, column in expected._asdict().items()}
    answer = service.get("/v1/assets/BTC/rows", params=span, headers={"Accept": "application/vnd.apache.arrow.stream"})
    assert answer.headers["content-type"] == "application/vnd.apache.arrow.stream"
    assert pa.ipc.open_stream(answer.content).read_all().to_pydict() == columns
    told = service.get("/v1/completeness", params={"seconds": 60}).json()
    found = {each["instrument"]: each for feed in told["feeds"] for each in feed["instruments"]}
    assert set(found) == set(made.instruments)
    assert found["binance:BTC-USDT-PERP"]["complete"] == int(
        stage.store.read_bars("binance:BTC-USDT-PERP", 0, 2**40).complete.sum()
    )
    metrics = service.get("/metrics").text
    assert f"squeezeflow_cvd_rows_total {2 * len(expected.ts)}.0" in metrics
    assert "squeezeflow_cvd_late_total 0.0" in metrics
    assert 'squeezeflow_cvd_alive{feed="binance/spot"} 1.0' in metrics


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v1/assets/BTX/row", 404, "did you mean BTC?"),
        ("/v1/assets/BTC/rows", 422, "query.from"),
        ("/v1/assets/BTC/rows?from=9&to=3", 422, "swap them"),
        ("/v1/assets/BTC/rows?from=0&to=3&limit=10001", 422, "query.limit"),
        ("/v1/assets/BTC/rows?from=-1&to=3", 422, "query.from"),
        ("/v1/assets/a.b/row", 422, "path.asset"),
        ("/v1/completeness?seconds=1", 422, "query.seconds"),
    ],
)
def test_wrong_questions_are_answered_with_the_field_and_the_reason(
    asked: Service, path: str, status: int, words: str
) -> None:
    answer = asked.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.text


@pytest.fixture(scope="module")
def asked(
    nats_process: NatsProcess, store_home: Path, tmp_path_factory: pytest.TempPathFactory, made: worlds.World
) -> Iterator[Service]:
    """Give a service that knows assets; it is only asked."""
    bed = NatsBed(nats_process)
    asyncio.run(bed._clear())
    database = "t_" + secrets.token_hex(6)
    with embedded.open_store(store_home, database=database) as opened:
        stage = Stage(bed, opened, store_home, tmp_path_factory.mktemp("cvd"))
        stage.configure(made)
        service = stage.start().ready()
        yield service
        service.close()
        opened.drop_database()


def test_bytes_of_another_version_end_it_with_the_reason(stage: Stage, made: worlds.World) -> None:
    stage.configure(made)
    stage.publish(worlds.events(made)[:100])
    asyncio.run(stage.bed.foreign("md.v1.mark.binance.spot", b"\x91\x63"))
    service = stage.start()
    assert service.wait() == 1
    assert "schema was [99], this version reads 1" in service.said()
