"""From a venue's sockets to stored rows: ingest and cvd are killed on the way, and every second comes to the truth."""

import asyncio
import datetime as dt
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from squeezecore import simulator
from squeezecore.adapters import bus as buses
from squeezecore.adapters.store import Store
from squeezecore.market import DAY_S, Bars
from squeezecore.spec import canonical
from support.bus import NatsProcess
from support.command import eventually
from support.services import Service

PRINTS = {"buy_volume": "buy_trades", "sell_volume": "sell_trades"}
CONTENT = ("open", "high", "low", "close", "buy_volume", "sell_volume", "buy_usd_cents", "sell_usd_cents")


def truth(name: str, bars: Bars) -> dict[str, np.ndarray]:
    """Return the simulator's columns of the same seconds."""
    midnight = int(bars.ts[-1]) // DAY_S * DAY_S
    day = dt.datetime.fromtimestamp(midnight, dt.UTC).date()
    made = [
        simulator.simulate_day(simulator.WorldSpec(seed=7), "BTC", day - dt.timedelta(n)).bars[name] for n in (1, 0)
    ]
    ts = np.concatenate([block.ts for block in made])
    at = np.searchsorted(ts, bars.ts)
    return {
        column: np.concatenate([getattr(block, column) for block in made])[at]
        for column in (*CONTENT, *PRINTS.values())
    }


def test_killed_on_the_way_every_second_comes_to_the_truth(tmp_path: Path, store: Store, store_home: Path) -> None:
    nats = NatsProcess(tmp_path / "nats")
    endpoints = tmp_path / "endpoints.json"
    words = [
        "-m",
        "squeezecore.adapters.loopback",
        "--source",
        "sim:7",
        "--assets",
        "BTC",
        "--endpoints",
        str(endpoints),
    ]
    venue = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
    told = {
        "nats_url": nats.url, "home": store_home, "database": store.database, "endpoints": endpoints, "requests_per_s": 10_000,
    }  # fmt: skip
    running: list[Service] = []

    def start(name: str) -> Service:
        own = told if name == "ingest" else {key: value for key, value in told.items() if key != "endpoints"}
        running.append(Service(name, ["-m", f"squeeze_{name}"], tmp_path / f"{name}-{len(running)}", own))
        return running[-1].listening()

    def decided(service: Service) -> int:
        return service.get("/v1/status").json().get("decided_s", -1)

    def on(service: Service, seconds: int) -> None:
        begun = decided(service)
        service.until(lambda: decided(service) >= max(begun, 0) + seconds and decided(service) > 0)

    def in_all(what: Callable[[buses.Bus], object]) -> None:
        async def main() -> None:
            opened = await buses.connect(nats.url, name="test")
            await what(opened)
            await opened.close()

        asyncio.run(main())

    try:
        assert eventually(endpoints.exists, venue)
        in_all(lambda bus: bus.put("config", "assets", canonical({"BTC": simulator.asset_config("BTC")})))
        ingest, cvd = start("ingest"), start("cvd")
        cvd.until(lambda: decided(cvd) > 0)
        on(cvd, 4)
        cvd.end(signal.SIGKILL)
        cvd = start("cvd")
        cvd.until(lambda: decided(cvd) > 0)
        on(cvd, 2)
        ingest.end(signal.SIGKILL)
        ingest = start("ingest")
        on(cvd, 8)

        def whole() -> bool:
            state = cvd.get("/v1/completeness", params={"seconds": 60}).json()
            left = sum(one["unproved"] for feed in state["feeds"] for one in feed["instruments"])
            return left == 0 and cvd.get("/v1/status").json()["remakes"] == 0

        cvd.until(whole)
        assert cvd.end() == 0
        assert ingest.end() == 0
    finally:
        for service in running:
            service.close()
        venue.kill()
        venue.wait()
        nats.kill()
    for name in (one.id for one in simulator.instruments("BTC")):
        bars = store.read_bars(name, 0, 2**32 - 1)
        covered = int(np.argmax(bars.complete))  # the first second began before anybody listened
        assert set(np.diff(bars.ts).tolist()) == {1}
        assert bars.complete[covered:].all(), name
        expected = truth(name, bars)
        for column in CONTENT:
            off = np.abs(getattr(bars, column) - expected[column])[covered:]
            # contracts become base units once an aggregate here, once a print in the simulator's bars
            rounded = name.endswith("USD-PERP") and column in PRINTS
            allowed = expected[PRINTS[column]][covered:] if rounded else 0
            assert (off <= allowed).all(), (name, column, off.max())
    rows = store.read_rows("BTC", 0, 2**32 - 1)
    assert set(np.diff(rows.ts).tolist()) == {1}
