"""Fifty people watch fifty assets at one update a second: does each get every update, and how late?

    .venv/bin/python loadtests/viewers.py                   everything on a home of its own, rows made up here
    .venv/bin/python loadtests/viewers.py --url URL         a service that runs already, with the assets it watches

Ends with 0 when every viewer got every second of every asset. Lateness is from the publication of a second until its event
was read by the last of them; with --url it is not known when a second was published, and left out.
"""

# ruff: noqa: INP001

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
import numpy as np

from squeezecore.adapters import bus, catalogue, embedded, embedded_nats, flowstore
from squeezecore.adapters.accounts import ASSETS, BUCKET
from squeezecore.adapters.store import Store
from squeezecore.market import Rows
from squeezecore.simulator import instruments
from squeezecore.spec import AssetConfig, MarketConfig, canonical
from squeezecore.wire import RowBatch

BEFORE_S = 1800  # rows of each asset that are stored before
START_S = 1_767_225_600
READY_S_MAX = 120.0
LATE_S_MAX = 2.0  # a second that comes later than this is no live view
GRACE_S = 20.0  # for the last events to come


class Seen(NamedTuple):
    """What one viewer got: when it read each second, s of the monotonic clock, and how many assets it held."""

    at_s: dict[int, float]
    assets: dict[int, int]


class Settings(NamedTuple):
    """What is asked for."""

    viewers: int
    assets: int
    seconds: int


def rows_of(count: int, ts: range, seed: int) -> Rows:
    """Make up rows of `count` assets, asset after asset, each second of `ts`."""
    rng = np.random.default_rng(seed)
    n = count * len(ts)
    stamps = np.tile(np.arange(ts.start, ts.stop), count)
    close = 60_000_000 + rng.integers(-50_000, 50_000, n)
    columns = {name: np.zeros(n, np.int64) for name in Rows._fields}
    columns |= dict.fromkeys(("open", "high", "low", "close", "mark"), close)
    columns |= {"ts": stamps, "quality_ppm": np.full(n, 1_000_000), "open_interest": np.full(n, 10**12)}
    columns |= {name: rng.integers(-(10**7), 10**7, n) for name in ("spot_delta", "perp_delta")}
    columns |= {name: rng.integers(10**7, 10**8, n) for name in ("spot_volume", "perp_volume")}
    columns |= {"oi_known_at": stamps, "oi_interval_s": np.full(n, 60)}
    return Rows(**columns)


def split(rows: Rows, count: int) -> list[Rows]:
    """Cut rows into one block an asset."""
    size = len(rows.ts) // count
    return [Rows(*(column[at * size : (at + 1) * size] for column in rows)) for at in range(count)]


async def watch(url: str, first_ts: int, last_ts: int, seen: Seen, open_: asyncio.Event) -> None:
    """Read the board until a second, coming back with the last id when the line breaks."""
    last_id = str(first_ts - 1)
    place = urlsplit(url)
    while not seen.at_s or max(seen.at_s) < last_ts:
        reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=1 << 20)
        request = f"GET /v1/stream HTTP/1.1\r\nHost: {place.netloc}\r\nLast-Event-ID: {last_id}\r\n\r\n"
        writer.write(request.encode())
        open_.set()
        while line := await reader.readline():
            if line.startswith(b"id: "):
                last_id = line[4:].decode().strip()
            elif line.startswith(b"data: {") and b'"assets"' in line:
                board = msgspec.json.decode(line[6:])
                seen.at_s[board["ts"]] = time.monotonic()
                seen.assets[board["ts"]] = len(board["assets"])
                if board["ts"] >= last_ts:
                    break
        writer.close()


async def publish(url: str, asked: Settings, names: list[str], store: Store, first_ts: int) -> dict[int, float]:
    """Close a second every second, as cvd does: into the store, then onto the bus; return when each was published."""
    client = await bus.connect(url, name="loadtest")
    rows = split(rows_of(asked.assets, range(first_ts, first_ts + asked.seconds), 2), asked.assets)
    began, at_s = time.monotonic(), {}
    for n in range(asked.seconds):
        await asyncio.sleep(max(0.0, began + n - time.monotonic()))
        parts = {name: Rows(*(c[n : n + 1] for c in block)) for name, block in zip(names, rows, strict=True)}
        await asyncio.to_thread(flowstore.insert_rows, store, parts)
        joined = Rows(*(np.concatenate(columns) for columns in zip(*parts.values(), strict=True)))
        at_s[first_ts + n] = time.monotonic()
        await client.publish(RowBatch(first_ts + n, tuple(names), joined))
    await client.close()
    return at_s


async def ask(url: str, path: str) -> bytes:
    """Ask for a path; return the answer's body."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return body if head.split()[1] == b"200" else b""


@contextmanager
def stage(folder: Path, asked: Settings) -> Iterator[tuple[str, str, list[str], Store]]:
    """Start both servers and reporting on a home of its own: the service's address, the bus's, the assets, the store."""
    names = [f"A{n:03d}" for n in range(asked.assets)]
    with embedded_nats.open_nats(folder, grace_s=1.0) as nats, embedded.open_store(folder, grace_s=1.0) as store:
        asyncio.run(_declare(nats.url, store, names))
        before = split(rows_of(asked.assets, range(START_S - BEFORE_S, START_S), 1), asked.assets)
        flowstore.insert_rows(store, dict(zip(names, before, strict=True)))
        given = {"HOME": folder, "NATS_URL": nats.url, "RUN_DIR": folder / "run", "REQUESTS_BURST": 10_000}
        words = [f"SQUEEZE_{name}={value}" for name, value in given.items()]
        command = ["env", *words, sys.executable, "-m", "squeeze_reporting"]
        with subprocess.Popen(command, stderr=(folder / "reporting.log").open("wb")) as process:  # noqa: S603 - ours
            try:
                yield _ready(folder / "run" / "reporting.json", process), nats.url, names, store
            finally:
                process.terminate()
    embedded_nats.stop(folder)
    embedded.stop(folder)


async def _declare(url: str, store: Store, names: list[str]) -> None:
    client = await bus.connect(url, name="loadtest")
    listed = instruments("BTC")
    perp = next(one for one in listed if one.symbol.endswith("PERP"))
    watched = {}
    for name in names:
        one = msgspec.structs.replace(perp, base=name, symbol=f"{name}-USDT-PERP", native_symbol=f"{name}USDT")
        await catalogue.declare(client, one)
        store.put_instrument(one)
        watched[name] = AssetConfig(traded=one.id, markets=(MarketConfig(instrument=one.id),))
    await client.put(BUCKET, ASSETS, canonical(watched))
    await client.close()


def _ready(note: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + READY_S_MAX
    while time.monotonic() < deadline and process.poll() is None:
        if note.exists():
            url = f"http://127.0.0.1:{json.loads(note.read_text())['port']}"
            if asyncio.run(ask(url, "/readyz")):
                return url
        time.sleep(0.1)
    raise SystemExit(f"reporting was not ready within {READY_S_MAX:.0f} s: see {note.parent.parent / 'reporting.log'}")


async def measure(
    url: str, asked: Settings, nats_url: str = "", names: list[str] | None = None, store: Store | None = None
) -> int:
    """Let all watch, judge what they saw, say it; return the exit code."""
    board = msgspec.json.decode(await ask(url, "/v1/board"))
    first_ts = START_S if store is not None else board["ts"] + 2
    last_ts = first_ts + asked.seconds - 1
    assets = asked.assets if store is not None else len(board["assets"])
    everyone = [Seen({}, {}) for _ in range(asked.viewers)]
    opened = [asyncio.Event() for _ in everyone]
    watching = [
        asyncio.create_task(watch(url, first_ts, last_ts, seen, open_))
        for seen, open_ in zip(everyone, opened, strict=True)
    ]
    for each in opened:
        await each.wait()
    published = await publish(nats_url, asked, names or [], store, first_ts) if store is not None else {}
    done, late = await asyncio.wait(watching, timeout=GRACE_S + (0 if store is not None else asked.seconds))
    for task in late:
        task.cancel()
    for task in done:
        task.result()
    expected = range(first_ts, last_ts + 1)
    got = sum(seen.assets.get(ts, 0) for seen in everyone for ts in expected)
    wanted = asked.viewers * assets * asked.seconds
    delays = sorted(seen.at_s[ts] - published[ts] for seen in everyone for ts in published if ts in seen.at_s)
    result: dict[str, float] = {
        "viewers": asked.viewers,
        "assets": assets,
        "seconds": asked.seconds,
        "updates": got,
        "of": wanted,
    }
    if delays:
        result |= {
            "delay_p50_s": round(delays[len(delays) // 2], 4),
            "delay_p95_s": round(delays[int(len(delays) * 0.95)], 4),
            "delay_max_s": round(delays[-1], 4),
        }
    good = got == wanted and (not delays or delays[int(len(delays) * 0.95)] <= LATE_S_MAX)
    sys.stdout.write(json.dumps(result | {"verdict": "good" if good else "bad"}) + "\n")
    return 0 if good else 1


def main() -> int:
    """Read what is asked for and do it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", help="a reporting service that runs already, http://127.0.0.1:PORT")
    parser.add_argument("--viewers", type=int, default=50)
    parser.add_argument("--assets", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=30)
    given = parser.parse_args()
    asked = Settings(given.viewers, given.assets, given.seconds)
    if given.url:
        return asyncio.run(measure(given.url, asked))
    with tempfile.TemporaryDirectory() as folder, stage(Path(folder), asked) as (url, nats_url, names, store):
        return asyncio.run(measure(url, asked, nats_url, names, store))


if __name__ == "__main__":
    sys.exit(main())
