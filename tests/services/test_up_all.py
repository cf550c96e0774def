"""The six services under `squeezeflow up` on a simulated market: ready, well, and the same market after a second start."""

import datetime as dt
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeezecore import simulator
from squeezecore.adapters import embedded, embedded_nats
from squeezecore.market import DAY_S, PPM
from squeezeflow.up import SERVICES
from support.command import WAIT_S, Market, eventually

ASSETS = """
[BTC]
traded = "binance:BTC-USDT-PERP"
markets = [
    { instrument = "binance:BTC-USDT" },
    { instrument = "binance:BTC-USDT-PERP" },
    { instrument = "binance:BTC-USD-PERP" },
]
"""
# What the feeds alone make; marks and open interest are polled, and known a moment later than the simulator's.
FLOWS = ("open", "high", "low", "close", "spot_delta", "perp_delta", "spot_volume", "perp_volume")


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    home = tmp_path / "home"
    yield Market(home, None)  # type: ignore[arg-type] - the command alone opens its store
    embedded_nats.stop(home)
    embedded.stop(home)


@contextmanager
def up(market: Market, *words: object) -> Iterator[list[dict[str, Any]]]:
    """Run `up` until it is ready; at the end press Ctrl-C and see it stop in good order."""
    process = market.start("up", "--source", "sim:7", "--json", *words)
    lines: list[dict[str, Any]] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: lines.extend(map(json.loads, process.stdout or ())))
    reader.start()
    try:
        assert eventually(lambda: any(line["event"] == "ready" for line in lines), process), lines[-20:]
        yield lines
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()
    stopped = next(line["stopped"] for line in lines if line["event"] == "stopped")
    assert stopped == [*reversed(SERVICES), "venue", "nats", "clickhouse"]


def last_second(market: Market) -> int:
    """Return BTC's newest stored second."""
    with embedded.open_store(market.home) as store:
        return max((line.last_ts for line in store.asset_coverage("BTC")), default=0)


def test_everything_runs_and_goes_on_where_it_was(market: Market, tmp_path: Path) -> None:
    (tmp_path / "assets.toml").write_text(ASSETS)
    with up(market, "--assets", tmp_path / "assets.toml") as lines:
        ready = {line["service"] for line in lines if line["event"] == "state" and line["ready"]}
        assert ready == {*SERVICES, "venue", "nats", "clickhouse"}
        told = {finding["name"]: finding for finding in json.loads(market.say("doctor", "--json").out)["findings"]}
        assert all(told[name]["state"] == "right" for name in (*SERVICES, "bus", "store", "services")), told
        begun = last_second(market)
        assert eventually(lambda: last_second(market) >= begun + 5)
    stopped = last_second(market)
    with up(market):
        assert eventually(lambda: last_second(market) >= stopped + 15)
    with embedded.open_store(market.home) as store:
        rows = store.read_rows("BTC", 0, 2**32 - 1)
    assert set(np.diff(rows.ts).tolist()) == {1}, "no second is missing, not even while nothing ran"
    midnight = int(rows.ts[-1]) // DAY_S * DAY_S
    truth = simulator.simulate_day(
        simulator.WorldSpec(seed=7), "BTC", dt.datetime.fromtimestamp(midnight, dt.UTC).date()
    ).rows
    mine = np.flatnonzero((rows.ts >= midnight) & (rows.quality_ppm == PPM))
    assert (rows.ts[mine] > stopped).sum() >= 5
    for name in FLOWS:
        np.testing.assert_array_equal(getattr(rows, name)[mine], getattr(truth, name)[rows.ts[mine] - midnight], name)
