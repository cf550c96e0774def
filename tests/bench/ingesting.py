"""From frames to batches on one core, and from sockets to acknowledged batches with fifty symbols on one feed."""

from __future__ import annotations

import gzip
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import uvloop
from tests.bench.measuring import REFERENCE_S, Figure, calibrate, on_one_core, plain, rate, timed
from tests.bench.stage import Stage

from squeeze_ingest.batching import Batcher, Tape
from squeezecore import wire
from squeezecore.adapters import bus, embedded_nats
from squeezecore.adapters.loopback import source_of
from squeezecore.market import Instrument
from squeezecore.spec import AssetConfig, MarketConfig, canonical
from squeezecore.venues import Contiguity, venue

RECORDED = Path(__file__).parents[1] / "fixtures" / "binance" / "binance.linear.btcusdt.20240808.recvts_json.gz"
SYMBOLS = 50
START, START_NS, NS = "2026-01-01T12:00", 1_767_268_800_000_000_000, 1_000_000_000
SIMULATED_S = 120  # of exchange time, for the parts
RUN_MINUTES = 30  # of exchange time, for the whole path
GATHERED = 1_000  # frames that one turn of a busy loop parses together
WAIT_S = 180.0
BAR_CORE, BAR_PATH = 200_000, 100_000


class Tapes(NamedTuple):
    """Frames of one section, as they come."""

    section: str
    instruments: dict[str, Instrument]  # by native symbol
    frames: list[bytes]


def figures(stage: Stage) -> list[Figure]:
    """Measure the parts, then the whole."""
    recorded, simulated = _recorded(), _simulated()
    found = []
    for tapes, name in ((recorded, "recorded frames of one symbol"), (simulated, f"frames of {SYMBOLS} symbols")):
        stage.tell(f"parsing {name}")
        action = on_one_core(lambda tapes=tapes: _through(tapes))
        found.append(
            rate(
                f"parse and aggregate, {name}",
                len(tapes.frames),
                timed(action),
                "trades/s a core",
                BAR_CORE,
                f"parse_many of {GATHERED} frames, ids judged, batches sealed",
            )
        )
    parts = _parts(simulated)
    stage.tell("a venue at full speed into a bus")
    path = _path(stage.home)
    found.append(path)
    whole_us = 1e6 / path.value
    for name, part_us in parts.items():
        found.append(
            plain(f"… of a trade's way: {name}", part_us, "µs", f"of {whole_us:.1f} µs; processor time, same frames")
        )
    rest_us = whole_us - sum(parts.values())
    found.append(plain("… of a trade's way: socket, bus, the loop itself", rest_us, "µs", "what is left"))
    return found


def _recorded() -> Tapes:
    """Read the recorded window's prints."""
    lines = gzip.decompress(RECORDED.read_bytes()).splitlines()
    instrument = venue("binance").instrument("linear", "BTCUSDT")
    frames = [line.split(b" ", 1)[1] for line in lines if b'"e":"trade"' in line]
    return Tapes("linear", {instrument.native_symbol: instrument}, frames)


def _simulated() -> Tapes:
    """Make the frames of many symbols, in the order of their times."""
    source = source_of("sim:7", ("BTC",), clones=SYMBOLS - 1)
    listed, _ = venue("binance").instruments("linear", source.exchange_info("linear", START_NS))
    frames: list[tuple[int, bytes]] = []
    for one in listed:
        stream = f"{one.native_symbol.lower()}@aggTrade"
        for found in source.frames("linear", stream, START_NS, START_NS + SIMULATED_S * NS):
            frames += zip(found.at_ns.tolist(), found.texts(), strict=True)
    frames.sort(key=lambda pair: pair[0])
    return Tapes("linear", {one.native_symbol: one for one in listed}, [text for _, text in frames])


def _batcher(tapes: Tapes) -> Batcher:
    batcher = Batcher()
    for one in tapes.instruments.values():
        batcher.watch(Tape(one.id, Contiguity.CONTIGUOUS))
    return batcher


def _through(tapes: Tapes) -> list[wire.TradeBatch]:
    """Take frames into sealed batches."""
    parse, batcher = venue("binance").parse_many, _batcher(tapes)
    batches: list[wire.TradeBatch] = []
    for begin in range(0, len(tapes.frames), GATHERED):
        part = tapes.frames[begin : begin + GATHERED]
        batcher.take(parse(tapes.section, tapes.instruments, part, [1] * len(part)).trades, 0.0)
        batches += batcher.seal("binance", tapes.section, 10**6)
    batcher.close(2**62)
    batches += batcher.seal("binance", tapes.section, 10**6)
    assert batcher.taken == len(tapes.frames)
    assert batcher.waiting == 0
    return batches


def _parts(tapes: Tapes) -> dict[str, float]:
    """Return the processor time of each step, µs a trade; the least of several rounds."""
    parse, rounds = venue("binance").parse_many, []
    for _ in range(5):
        spent = dict.fromkeys(("parse", "judge ids, sort into borders", "seal", "encode", "id"), 0.0)

        def spend(name: str, action: Callable[[], Any], spent: dict[str, float] = spent) -> Any:
            begun = time.process_time()
            made = action()
            spent[name] += time.process_time() - begun
            return made

        batcher = _batcher(tapes)
        for begin in range(0, len(tapes.frames), GATHERED):
            part = tapes.frames[begin : begin + GATHERED]
            parsed = spend("parse", lambda part=part: parse(tapes.section, tapes.instruments, part, [1] * len(part)))
            spend("judge ids, sort into borders", lambda parsed=parsed: batcher.take(parsed.trades, 0.0))  # noqa: B023
            for batch in spend("seal", lambda: batcher.seal("binance", tapes.section, 10**6)):  # noqa: B023
                spend("encode", lambda batch=batch: wire.encode(batch))
                spend("id", lambda batch=batch: wire.message_id(batch))
        rounds.append(spent)
    return {name: min(one[name] for one in rounds) * 1e6 / len(tapes.frames) for name in rounds[0]}


def _path(home: Path) -> Figure:
    """Time the service itself: a venue's process sends, a bus's process acknowledges, the core's time is the service's."""
    folder = home / "ingesting"
    folder.mkdir(parents=True, exist_ok=True)
    endpoints, minutes = folder / "endpoints.json", RUN_MINUTES
    words = ["--source", "sim:7", "--assets", "BTC", "--symbols", str(SYMBOLS - 1), "--endpoints", str(endpoints)]
    words += [
        "--speed",
        "max",
        "--start",
        START,
        "--until",
        f"2026-01-01T12:{minutes}",
        "--await-streams",
        str(SYMBOLS),
    ]
    source = source_of("sim:7", ("BTC",), clones=SYMBOLS - 1)
    listed, _ = venue("binance").instruments("spot", source.exchange_info("spot", START_NS))
    with embedded_nats.open_nats(folder, 5.0) as server:
        uvloop.run(_watch(server.url, [one.id for one in listed]))
        venue_process = subprocess.Popen(
            [sys.executable, "-m", "squeezecore.adapters.loopback", *words], stdout=subprocess.DEVNULL
        )
        settings = {"nats_url": server.url, "home": home, "endpoints": endpoints, "run_dir": folder, "recorder": False}
        person = {key: value for key, value in os.environ.items() if not key.startswith("SQUEEZE_")}
        told = person | {f"SQUEEZE_{key.upper()}": str(value) for key, value in settings.items()}
        with (folder / "ingest.log").open("wb") as log:
            service = subprocess.Popen([sys.executable, "-m", "squeeze_ingest"], env=told, stderr=log)
        try:
            return _observe(service, folder / "ingest.json")
        finally:
            for process in (service, venue_process):
                process.kill()
                process.wait()


async def _watch(url: str, names: list[str]) -> None:
    opened = await bus.connect(url, name="bench")
    markets = tuple(MarketConfig(instrument=name) for name in names)
    await opened.put("config", "assets", canonical({"BTC": AssetConfig(traded=names[0], markets=markets)}))
    await opened.close()


def _observe(service: subprocess.Popen[bytes], note: Path) -> Figure:
    """Watch the service until everything is acknowledged; say trades a second of its processor time."""
    deadline = time.monotonic() + WAIT_S
    process = psutil.Process(service.pid)
    speeds = [calibrate() for _ in range(3)]
    marks: list[tuple[float, float, int]] = []  # (time, processor time, prints acknowledged)
    with httpx.Client(trust_env=False, timeout=WAIT_S) as client:
        while True:
            assert service.poll() is None, note.with_suffix(".log").read_text()
            assert time.monotonic() < deadline, "the path was not gone to its end"
            time.sleep(0.2)
            if not note.exists():
                continue
            told = json.loads(note.read_text())
            if told["pid"] != service.pid:
                continue
            try:
                feeds = client.get(f"http://127.0.0.1:{told['port']}/v1/feeds")
            except httpx.TransportError:  # the next look says whether it ended
                continue
            if feeds.status_code != 200 or not feeds.json():
                continue
            [feed] = feeds.json()
            used = process.cpu_times()
            marks.append((time.monotonic(), used.user + used.system, feed["trades_published"]))
            still = len(marks) > 10 and len({mark[2] for mark in marks[-10:]}) == 1
            if still and marks[-1][2] > 0:
                break
    speeds += [calibrate() for _ in range(3)]
    flowing = [mark for mark in marks if 0 < mark[2] < marks[-1][2]]
    begun, ended = flowing[0], next(mark for mark in marks if mark[2] == marks[-1][2])
    count, core_s, wall_s = ended[2] - begun[2], ended[1] - begun[1], ended[0] - begun[0]
    slower = max(1.0, statistics.mean(speeds) / REFERENCE_S[1])
    value = count / core_s
    return Figure(
        name=f"socket to acknowledged batch, {SYMBOLS} symbols on a feed",
        value=value,
        unit="trades/s on ingest's core",
        bar=BAR_PATH,
        ok=value * slower >= BAR_PATH,
        how=f"{count:,} trades; {count / wall_s:,.0f} a second by the clock with venue and bus on the same 2 cores; "
        f"machine {slower:.2f} x the reference time",
    )
