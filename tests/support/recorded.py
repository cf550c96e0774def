"""The recorded window of BTC that lies in the repository, and the larger recordings where they are at hand."""

import gzip
from functools import cache
from pathlib import Path

import pytest

from squeezecore.market import Instrument, Trades
from squeezecore.venues import Event, trades_of, venue

FIXTURES = Path(__file__).parents[1] / "fixtures" / "binance"
WINDOW = {  # section → (native symbol, file)
    "spot": ("BTCUSDT", "binance.spot.btcusdt.20240808.recvts_json.gz"),
    "linear": ("BTCUSDT", "binance.linear.btcusdt.20240808.recvts_json.gz"),
    "inverse": ("BTCUSD_PERP", "binance.inverse.btcusd_perp.20240808.recvts_json.gz"),
}


def recordings() -> Path:
    """Return the folder of larger recordings beside the repository, or skip the test."""
    for parent in Path(__file__).parents:
        folder = parent.parent / "shared" / "data"
        if (folder / "index.csv").is_file():
            return folder
    pytest.skip("no folder shared/data beside the repository: the larger recordings are not at hand")


@cache
def frames(section: str) -> list[tuple[int, bytes]]:
    """Return the window's frames of a section: (local receive time in ns, message)."""
    lines = gzip.decompress((FIXTURES / WINDOW[section][1]).read_bytes()).splitlines()
    return [(int(time), frame) for time, frame in (line.split(b" ", 1) for line in lines)]


def window_instrument(section: str) -> Instrument:
    """Return what the window of a section was recorded of."""
    return venue("binance").instrument(section, WINDOW[section][0])


@cache
def window_events(section: str) -> list[Event]:
    """Parse the window of a section."""
    instrument = window_instrument(section)
    known = {instrument.native_symbol: instrument}
    parse = venue("binance").parse
    return [event for time, frame in frames(section) for event in parse(section, known, frame, time)]


def window_trades(section: str) -> Trades:
    """Return the window's prints of a section."""
    return trades_of(window_events(section))[window_instrument(section).id]
