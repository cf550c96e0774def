"""Ingest as a process, over a real NATS, a real ClickHouse and a venue that speaks over real sockets."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from squeezecore.adapters import bus
from squeezecore.adapters.catalogue import known
from squeezecore.adapters.flowstore import read_trades
from squeezecore.adapters.loopback_recording import read_lines, recorded_files
from squeezecore.adapters.store import Store
from support.bus import NatsProcess
from support.command import WAIT_S, eventually
from support.feeding import LINEAR, SPOT, Heard, assets_of, heard
from support.services import Service, started

TOKEN = "sixteen-signs-are-a-token"
NAMES = (SPOT, LINEAR)


class Bench:
    """A bus, a venue, and what ingest is told."""

    def __init__(self, folder: Path, store: Store, store_home: Path) -> None:
        self.folder = folder
        self.nats = NatsProcess(folder / "nats")
        self.endpoints = folder / "endpoints.json"
        self.database = store.database
        self.store_home = store_home
        self.venue: subprocess.Popen[bytes] | None = None
        (folder / "token").write_text(TOKEN)

    def start_venue(self) -> None:
        words = ["-m", "squeezecore.adapters.loopback", "--source", "sim:7", "--assets", "BTC"]
        self.endpoints.unlink(missing_ok=True)
        self.venue = subprocess.Popen(
            [sys.executable, *words, "--endpoints", str(self.endpoints)], stdout=subprocess.DEVNULL
        )
        assert eventually(self.endpoints.exists, self.venue)

    def stop_venue(self) -> None:
        if self.venue is not None:
            self.venue.kill()
            self.venue.wait()
            self.venue = None

    @contextlib.contextmanager
    def ingest(self, instance: str = "0", **settings: object) -> Iterator[Service]:
        told = {
            "nats_url": self.nats.url,
            "home": self.store_home,
            "database": self.database,
            "endpoints": self.endpoints,
            "token_file": self.folder / "token",
            "instance": instance,
            "requests_per_s": 1000,
        }
        with started(self.folder / f"run-{instance}", ["-m", "squeeze_ingest"], "ingest", **told | settings) as service:
            yield service

    def on_bus(self, what):
        """Run something with a connection to the bus."""

        async def run():
            opened = await bus.connect(self.nats.url, name="test")
            try:
                return await what(opened)
            finally:
                await opened.close()

        return asyncio.run(run())

    def heard(self) -> Heard:
        return self.on_bus(heard)

    def watch(self, *names: str) -> None:
        self.on_bus(lambda opened: opened.put("config", "assets", assets_of(*names)))

    def prints(self) -> int:
        return sum(len(block.id) for blocks in self.heard().blocks.values() for block in blocks)

    def truth(self, section: str, native: str, first_id: int, last_id: int) -> list[int]:
        base = json.loads(self.endpoints.read_text())["binance"][section]["rest"].rsplit("/", 1)[0]
        with httpx.Client(trust_env=False, timeout=WAIT_S) as client:
            answer = client.get(
                f"{base}/truth/{section}/{native}", params={"kind": "aggTrade", "from_id": first_id, "to_id": last_id}
            )
        return [row["a"] for row in answer.json()]

    def assert_whole(self, copies: int = 1) -> None:
        """Assert that every print between the first and the last is on the bus."""
        found = self.heard()
        for name, section in ((SPOT, "spot"), (LINEAR, "linear")):
            ids, counts = np.unique(found.trades(name).id, return_counts=True)
            assert ids.tolist() == self.truth(section, "BTCUSDT", int(ids[0]), int(ids[-1]))
            assert counts.max() <= copies


@pytest.fixture
def bench(tmp_path: Path, store: Store, store_home: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, store, store_home)
    made.start_venue()
    yield made
    made.stop_venue()
    made.nats.kill()


def feeds(service: Service) -> dict[str, dict]:
    return {feed["section"]: feed for feed in service.get("/v1/feeds").json()}


def is_whole(service: Service) -> bool:
    found = feeds(service).values()
    return bool(found) and all(
        feed["state"] == "RUNNING" and feed["alive"] and not feed["holes_open"] and not feed["unproven"]
        for feed in found
    )


def flowing(service: Service, bench: Bench, count: int = 40) -> None:
    """Wait until so many prints more have come."""
    before = bench.prints()
    service.until(lambda: bench.prints() > before + count)


def test_killed_and_started_again_it_leaves_no_hole(bench):
    with bench.ingest() as service:
        service.listening()
        service.until(lambda: "not there yet" in service.missing().get("feeds", ""))
        bench.watch(*NAMES)
        service.ready()
        flowing(service, bench)
        assert service.end(signal.SIGKILL) == -signal.SIGKILL
    with bench.ingest() as service:
        service.ready().until(lambda: is_whole(service))
        flowing(service, bench)
        assert sum(feed["trades_backfilled"] for feed in feeds(service).values()) > 0
        assert service.end() == 0
    bench.assert_whole(copies=2)
    assert bench.on_bus(lambda opened: known(opened, LINEAR)).section == "linear"


def test_nats_and_the_venue_may_die_and_two_at_once_are_as_one(bench):
    bench.watch(*NAMES)
    with bench.ingest("a") as one, bench.ingest("b") as two:
        one.ready()
        two.ready()
        flowing(one, bench)
        bench.nats.kill()
        bench.nats.start()
        flowing(one, bench)
        bench.stop_venue()
        one.until(lambda: all(feed["state"] != "RUNNING" for feed in feeds(one).values()))
        bench.start_venue()
        for service in (one, two):
            service.until(lambda service=service: is_whole(service))
        flowing(two, bench)
        assert sum(feed["messages_held_already"] for feed in feeds(two).values()) > 0
        for service in (one, two):
            assert service.process.poll() is None
            assert service.get("/readyz").status_code == 200
        # The venue's clock is this machine's.
        assert all(abs(feed["skew_s"]) < 5 for feed in feeds(one).values())
    bench.assert_whole(copies=2)


def test_prints_are_recorded_into_the_store_and_frames_onto_the_disk(bench, store):
    bench.watch(*NAMES)
    with bench.ingest(record=bench.folder / "frames") as service:
        service.ready()
        flowing(service, bench)
        last = bench.heard()
        service.until(lambda: len(read_trades(store, SPOT, 0, 2**32 - 1).id) >= len(last.trades(SPOT).id))
        assert service.end() == 0
    found = bench.heard()
    kept = read_trades(store, SPOT, 0, 2**32 - 1)
    sent = found.trades(SPOT)
    assert len(kept.id) >= len(last.trades(SPOT).id)
    for one, other in zip(kept, sent, strict=True):
        np.testing.assert_array_equal(one, other[: len(one)])
    lines = [line for file in recorded_files(bench.folder / "frames") for line in read_lines(file)]
    assert {line.section for line in lines} == {"spot", "linear"}
    assert sum(b"aggTrade" in line.frame for line in lines) >= bench.prints()


def test_http_tells_pauses_and_resumes_and_only_with_a_token(bench):
    bench.watch(*NAMES)
    with bench.ingest() as service:
        service.ready()
        head = {"Authorization": f"Bearer {TOKEN}"}
        assert service.post("/v1/feeds/binance/spot/pause").status_code == 401
        assert service.post("/v1/feeds/binance/moon/pause", headers=head).status_code == 404
        assert "binance/spot" in service.post("/v1/feeds/binance/moon/pause", headers=head).json()["detail"]
        service.until(lambda: feeds(service)["spot"]["connections"][0]["up_s"] is not None)
        answer = service.post("/v1/feeds/binance/spot/pause", headers=head)
        assert answer.json()["state"] == "PAUSED"
        service.until(lambda: feeds(service)["spot"]["connections"][0]["up_s"] is None)
        assert service.get("/v1/status").json()["state"] == "DEGRADED"
        service.post("/v1/feeds/binance/spot/resume", headers=head)
        service.until(lambda: is_whole(service))
        text = service.get("/metrics").text
        for name in (
            "trades_total",
            "parse_errors_total",
            "holes_open",
            "skew_seconds",
            "lag_seconds",
            "connects_total",
        ):
            assert f'squeezeflow_ingest_{name}{{section="spot",venue="binance"}}' in text
        assert 'squeezeflow_ingest_parse_errors_total{section="spot",venue="binance"} 0.0' in text
        assert "/v1/feeds/{venue}/{section}/pause" in service.get("/openapi.json").json()["paths"]
