"""What was recorded, through all of `squeezeflow up`: the same rows at any speed, and in words what a recording lacks."""

import datetime as dt
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from squeezecore import simulator
from squeezecore.adapters import embedded, embedded_nats
from squeezecore.adapters.assets import load_assets
from squeezecore.adapters.loopback_recording import Recorder
from squeezecore.adapters.loopback_replay import Contents, Recorded
from squeezecore.adapters.loopback_world import Simulated
from squeezecore.errors import UsageError
from squeezecore.market import PPM, Rows
from squeezecore.simulator import WorldSpec
from squeezeflow import up
from support import recorded
from support.command import Market, eventually

NS = 1_000_000_000
NOON = 1_767_268_800  # 2026-01-01T12:00
SECONDS = 40
STREAMS = {
    "spot": ("btcusdt@aggTrade",),
    "linear": ("btcusdt@aggTrade", "btcusdt@markPrice@1s"),
    "inverse": ("btcusd_perp@aggTrade", "btcusd_perp@markPrice@1s"),
}
# What prints alone make; marks and open interest are of REST, and known a moment later than the simulator's.
FLOWS = ("open", "high", "low", "close", "spot_delta", "perp_delta", "spot_volume", "perp_volume")


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    home = tmp_path / "home"
    yield Market(home, None)  # type: ignore[arg-type] - the command alone opens its store
    embedded_nats.stop(home)
    embedded.stop(home)


def record(folder: Path, kind: str) -> None:
    """Record a stretch of the simulated market, as ingest hears it."""
    source = Simulated(WorldSpec(seed=7, assets=("BTC",)))
    lines = []
    for section, streams in STREAMS.items():
        for stream in streams:
            name = stream.replace("aggTrade", kind)
            for frames in source.frames(section, name, NOON * NS, (NOON + SECONDS) * NS):
                lines += [(at, section, text) for at, text in zip(frames.at_ns.tolist(), frames.texts(), strict=True)]
    recorder = Recorder(folder)
    for at, section, text in sorted(lines):
        recorder.write(section, at, text)
    recorder.close()


def rows_of(market: Market) -> Rows:
    with embedded.open_store(market.home) as store:
        return store.read_rows("BTC", 0, 2**32 - 1)


@pytest.mark.parametrize(("kind", "speed"), [("aggTrade", "max"), ("trade", "60")])
def test_a_recording_becomes_the_rows_of_its_market_at_any_speed(
    market: Market, tmp_path: Path, kind: str, speed: str
) -> None:
    record(tmp_path / "recorded", kind)
    process = market.start("up", "--source", f"replay:{tmp_path / 'recorded'}", "--speed", speed, "--json")
    try:
        # What is shown first lies in a pipe; the rows say when all of it was heard.
        assert eventually((market.home / "run" / "services" / "cvd.json").exists, process)
        assert eventually(lambda: rows_of(market).ts[-1:].tolist() >= [NOON + SECONDS - 5], process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    told = [line["text"] for line in map(json.loads, out.splitlines()) if line["event"] == "told"]
    assert any("the recording has no open interest" in text for text in told)
    assert any("no prints of binance:DOGE-USD-PERP" in text for text in told)
    rows = rows_of(market)
    truth = simulator.simulate_day(WorldSpec(seed=7), "BTC", dt.date(2026, 1, 1)).rows
    whole = np.flatnonzero(rows.quality_ppm == PPM)
    assert len(whole) >= SECONDS - 10
    at = rows.ts[whole] - int(truth.ts[0])
    for name in FLOWS:
        np.testing.assert_array_equal(getattr(rows, name)[whole], getattr(truth, name)[at], name)


def test_a_recording_says_what_it_holds(tmp_path: Path) -> None:
    names = frozenset({"binance:BTC-USDT", "binance:BTC-USDT-PERP", "binance:BTC-USD-PERP"})
    held = Recorded(recorded.FIXTURES).contents()
    assert held == Contents(single=True, prints=names, marks=frozenset(), open_interest=False)
    record(tmp_path, "aggTrade")
    held = Recorded(tmp_path).contents()
    assert held == Contents(single=False, prints=names, marks=names - {"binance:BTC-USDT"}, open_interest=False)


def test_only_assets_whose_traded_market_was_recorded_are_watched() -> None:
    told: list[str] = []
    held = Contents(
        single=False,
        prints=frozenset({"binance:BTC-USDT-PERP", "binance:BTC-USDT", "binance:ETH-USDT"}),
        marks=frozenset(),
        open_interest=True,
    )
    kept = up.recorded_assets(load_assets(), held, told.append)
    assert {name: [one.instrument for one in asset.markets] for name, asset in kept.items()} == {
        "BTC": ["binance:BTC-USDT", "binance:BTC-USDT-PERP"]
    }
    assert len(told) == 1
    assert "binance:BTC-USD-PERP" in told[0]
    with pytest.raises(UsageError, match="name other assets with --assets"):
        up.recorded_assets(load_assets(), held._replace(prints=frozenset({"binance:ETH-USDT"})), told.append)
