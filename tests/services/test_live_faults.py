"""The six services as processes where something is wrong from the start, or goes wrong under them: they wait, say so, lose nothing."""

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nats
import pytest

from squeezecore.adapters import bus as buses
from squeezecore.adapters import embedded, embedded_nats
from squeezecore.adapters.catalogue import key
from squeezecore.adapters.store import Store
from squeezecore.market import Instrument, cut
from squeezecore.spec import AssetConfig, canonical
from support import flow_worlds as worlds
from support.bus import NatsBed
from support.services import Service, started
from support.store import assert_equal
from support.trading_worlds import Simulated, simulated

SERVICES = ("ingest", "openinterest", "cvd", "strategy", "executor", "reporting")
SECONDS = 30
FOREIGN = b"\x91\x63"  # a message of schema 99


class Stage:
    """A bus, a store, and services on both."""

    def __init__(self, url: str, home: Path, database: str, run: Path) -> None:
        self.url, self.home, self.database, self.run = url, home, database, run
        self.services: list[Service] = []

    def on_bus(self, action: Callable[[Any], Any]) -> Any:
        async def main() -> Any:
            bus = await buses.connect(self.url, name="test")
            try:
                return await action(bus)
            finally:
                await bus.close()

        return asyncio.run(main())

    def ask(self, api: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask the server itself, as the person who keeps it may."""

        async def main() -> dict[str, Any]:
            client = await nats.connect(self.url)
            answer = await client.request(f"$JS.API.{api}", json.dumps(body).encode(), timeout=30)
            await client.close()
            told: dict[str, Any] = json.loads(answer.data)
            return told

        return asyncio.run(main())

    def configure(self, instruments: dict[str, Instrument], configs: dict[str, AssetConfig]) -> None:
        async def main(bus: Any) -> None:
            for one in instruments.values():
                await bus.put("instruments", key(one.id), canonical(one))
            await bus.put("config", "assets", canonical(configs))

        self.on_bus(main)

    def start(self, name: str) -> Service:
        service = Service(
            name, ["-m", f"squeeze_{name}"], self.run / str(len(self.services)),
            {"nats_url": self.url, "home": self.home, "database": self.database, "requests_per_s": 10_000},
        )  # fmt: skip
        self.services.append(service)
        return service

    def close(self) -> None:
        for service in self.services:
            service.close()


@pytest.fixture
def stage(nats_bed: NatsBed, store: Store, store_home: Path, tmp_path: Path) -> Iterator[Stage]:
    made = Stage(nats_bed.process.url, store_home, store.database, tmp_path)
    yield made
    made.close()


def status(service: Service) -> dict[str, Any]:
    """Ask how it goes; empty where it does not answer."""
    if service.process.poll() is not None:
        return {}
    told: dict[str, Any] = service.get("/v1/status").json()
    return told


# --- at the start ---


def test_each_service_waits_for_what_is_not_there_and_says_what_it_is(tmp_path: Path) -> None:
    bus, store = tmp_path / "bus", tmp_path / "store"
    with embedded_nats.open_nats(bus) as server:
        url = server.url
    embedded_nats.stop(bus)  # its port stays its own
    store.write_text("a file where the home directory should be")
    stage = Stage(url, store, "squeeze", tmp_path)
    try:
        services = [stage.start(name) for name in SERVICES]
        for service in services:
            service.listening().until(
                lambda service=service: "cannot be written" in service.missing().get("ClickHouse", "")
            )
            service.until(lambda service=service: url.removeprefix("nats://") in service.missing().get("NATS", ""))
            assert status(service)["state"] == "WAITING", service.name
            assert service.get("/healthz").status_code == 200, service.name
        store.unlink()
        with embedded_nats.open_nats(bus, grace_s=0.3), embedded.open_store(store, grace_s=0.3):
            for service in services:
                service.until(lambda service=service: not {"NATS", "ClickHouse"} & service.missing().keys())
                assert service.process.poll() is None, service.said()
                assert service.said().count("resource=NATS") == 1, "a reason is said once, not with every try"
            for service in services:
                assert service.end() == 0, service.said()
    finally:
        stage.close()
        embedded_nats.stop(bus)
        embedded.stop(store)


@pytest.mark.parametrize(
    ("name", "setting", "value", "words"),
    [
        ("ingest", "trade_stream", "trades", ["'aggtrade' or 'trade'"]),
        ("ingest", "recorder", "perhaps", ["boolean"]),
        ("ingest", "instance", "two words", ["pattern"]),
        ("openinterest", "limit_share", "-1", ["greater than"]),
        ("cvd", "weights", "by_mood", ["'fixed' or 'volume_24h'"]),
        ("cvd", "from_bars", "perhaps", ["boolean"]),
        ("strategy", "account", "the.first", ["pattern"]),
        ("strategy", "acount", "paper", ["did you mean SQUEEZE_ACCOUNT?"]),
        ("executor", "capital_usd", "99", ["greater than or equal to 100"]),
        ("executor", "capital_usd", "2000000000", ["less than or equal to 1000000000"]),
        ("reporting", "runs_at_once", "0", ["greater than or equal to 1"]),
        ("reporting", "database", "drop table", ["pattern"]),
    ],
)
def test_a_wrong_setting_is_refused_in_a_sentence(
    tmp_path: Path, name: str, setting: str, value: str, words: list[str]
) -> None:
    with started(tmp_path / "run", ["-m", f"squeeze_{name}"], name, home=tmp_path, **{setting: value}) as service:
        assert service.wait() == 2, service.said()
        said = service.said()
    assert f"SQUEEZE_{setting.upper()} was" in said
    assert len(said.splitlines()) == 1
    for word in words:
        assert word in said


def test_a_stream_of_another_configuration_is_waited_for_until_somebody_mends_it(stage: Stage) -> None:
    config = buses.stream_config("FLOW", buses.LIMITS["FLOW"])
    made = stage.ask("STREAM.CREATE.FLOW", config | {"max_age": 3_600 * 10**9})
    assert "error" not in made, made
    services = [stage.start(name).listening() for name in ("cvd", "strategy")]
    for service in services:
        service.until(lambda service=service: "stream FLOW" in service.missing().get("NATS", ""))
        told = service.missing()["NATS"]
        assert "had max_age 3600000000000, this version needs 259200000000000" in told
        assert "edit it with the nats command" in told
    mended = stage.ask("STREAM.UPDATE.FLOW", config)
    assert "error" not in mended, mended
    for service in services:
        service.until(lambda service=service: "NATS" not in service.missing())
        assert service.end() == 0


# --- a message that nobody here can read ---


@pytest.fixture(scope="module")
def day() -> Simulated:
    made = simulated(("BTC",))
    return made._replace(rows={asset: cut(rows, 0, SECONDS) for asset, rows in made.rows.items()})


@pytest.mark.parametrize(
    ("subject", "readers"),
    [
        ("flow.v1.rows", ("strategy", "executor")),
        ("trade.v1.clock.paper", ("strategy", "executor")),
        ("trade.v1.intent.paper", ("executor",)),
    ],
)
def test_a_message_of_another_version_ends_who_reads_it_and_nothing_is_lost(
    stage: Stage, store: Store, nats_bed: NatsBed, day: Simulated, subject: str, readers: tuple[str, ...]
) -> None:
    configs = {asset: AssetConfig(traded=one.id, markets=()) for asset, one in day.instruments.items()}
    stage.configure({one.id: one for one in day.instruments.values()}, configs)
    for asset, rows in day.warmup.items():
        store.insert_rows(asset, rows)
    services = {name: stage.start(name).listening() for name in ("strategy", "executor")}
    stage.on_bus(lambda bus: bus.publish_all(day.batches[: SECONDS // 2]))
    middle, last = day.batches[SECONDS // 2 - 1].ts, day.batches[-1].ts
    services["executor"].until(lambda: status(services["executor"]).get("settled_ts", -1) >= middle)

    asyncio.run(nats_bed.foreign(subject, FOREIGN))
    for name in readers:
        assert services[name].wait() == 1, services[name].said()
        assert "schema was [99], this version reads 1: update the older side" in services[name].said()
    stage.on_bus(lambda bus: bus.publish_all(day.batches[SECONDS // 2 :]))

    stream = subject.split(".", maxsplit=1)[0].upper()
    found = stage.ask(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
    if subject == "flow.v1.rows":  # rows came after it
        found = stage.ask(f"STREAM.MSG.GET.{stream}", {"seq": found["message"]["seq"] - SECONDS + SECONDS // 2})
    assert stage.ask(f"STREAM.MSG.DELETE.{stream}", {"seq": found["message"]["seq"]})["success"]
    services |= {name: stage.start(name).listening() for name in readers}  # as the version that can read it would
    for name, field in (("executor", "settled_ts"), ("strategy", "decided_ts")):
        services[name].until(lambda name=name, field=field: status(services[name]).get(field, -1) >= last)
    for service in services.values():
        assert service.end() == 0, service.said()


# --- a full disk ---


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[bool], None]]:
    """Mount a small disk where that is allowed; give what fills it to the last byte, or frees it again."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs rights this process lacks")
    ballast = folder / "ballast"

    def fill(full: bool) -> None:
        if not full:
            ballast.unlink()
            return
        with suppress(OSError), ballast.open("ab", buffering=0) as file:
            while True:
                file.write(b"0" * 4096)

    try:
        yield fill
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_cvd_holds_while_the_disk_is_full_and_goes_on_without_a_loss(nats_bed: NatsBed, tmp_path: Path) -> None:
    made = worlds.world(seconds=SECONDS)
    events = worlds.events(made)
    with small_disk(tmp_path / "disk") as fill:
        home = tmp_path / "disk" / "home"
        try:
            with embedded.open_store(home, grace_s=0.3) as store:
                stage = Stage(nats_bed.process.url, home, store.database, tmp_path)
                try:
                    stage.configure(made.instruments, made.configs)
                    service = stage.start("cvd").listening()
                    half = len(events) // 2
                    stage.on_bus(lambda bus: bus.publish_all([event.message for event in events[:half]]))
                    service.until(lambda: status(service).get("decided_s", -1) >= made.start_s + 10)
                    fill(True)
                    stage.on_bus(lambda bus: bus.publish_all([event.message for event in events[half:]]))
                    service.until(lambda: "full" in status(service).get("last_error", ""))
                    assert status(service)["decided_s"] < made.end_s
                    fill(False)
                    service.until(lambda: status(service).get("decided_s", -1) >= made.end_s)
                    assert service.process.poll() is None, "it held on, it was not started again"
                    assert service.end() == 0
                    bars = worlds.true_bars(made, events)
                    for name, expected in bars.items():
                        assert_equal(expected, store.read_bars(name, 0, 2**40))
                    for asset, rows in worlds.true_rows(made, bars).items():
                        assert_equal(rows, store.read_rows(asset, 0, 2**40))
                finally:
                    stage.close()
        finally:
            embedded.stop(home)
