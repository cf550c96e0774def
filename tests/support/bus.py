"""Two beds for one suite: the bus in memory under virtual time, and JetStream on a real server that may be killed."""

import asyncio
import contextlib
import functools
import json
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest

from squeezecore import wire
from squeezecore.adapters import bus, embedded_nats, nats_keeper
from squeezecore.adapters.bus import Bus
from squeezecore.adapters.membus import MemServer
from support import virtual

HANG_S = 90.0  # a test that takes this long has hung


class NatsProcess:
    """A server on a free loopback port; started again it has the same port and the same streams."""

    def __init__(self, folder: Path, body: str = "") -> None:
        self.folder = folder
        self.port = -1
        self._body = body or (
            f'jetstream {{ store_dir: "{folder / "store"}", max_file_store: 10GB, max_memory_store: 64MB }}'
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start unless it runs, and wait until it answers."""
        if self._process is not None:
            return
        shutil.rmtree(self.folder / "ports", ignore_errors=True)
        (self.folder / "ports").mkdir(parents=True)
        config = self.folder / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{self.port}"\nhttp: "127.0.0.1:-1"\nmax_payload: 2MB\n'
            f'log_file: "{self.folder / "nats.log"}"\n{self._body}\n'
        )
        self._process = subprocess.Popen(
            [embedded_nats.find_binary(), "-c", str(config), "--ports_file_dir", str(self.folder / "ports")]
        )
        while True:
            assert self._process.poll() is None, (self.folder / "nats.log").read_text()
            with contextlib.suppress(OSError, ValueError, StopIteration):
                told = json.loads(next((self.folder / "ports").iterdir()).read_text())
                self.port, monitoring = (int(told[key][0].rsplit(":", 1)[1]) for key in ("nats", "monitoring"))
                if nats_keeper.answers(monitoring):
                    return
            time.sleep(0.005)

    def kill(self) -> None:
        """End it as a power switch ends a process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it in good order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


class MemoryBed:
    """The twin."""

    real = False

    def __init__(self) -> None:
        self.server = MemServer()

    def run(self, main: Awaitable[Any]) -> None:
        virtual.run(main)

    async def connect(self) -> Bus:
        return self.server.connect()

    async def down(self) -> None:
        self.server.stop()

    async def up(self) -> None:
        self.server.start()

    async def make_anew(self, stream: str) -> None:
        self.server.make_anew(stream)

    async def foreign(self, subject: str, data: bytes) -> None:
        """Put in bytes that no version of ours would write."""
        self.server.streams[bus.stream_of(subject)].add(subject, data, "foreign", self.server.now_ns())


class NatsBed:
    """The real thing."""

    real = True

    def __init__(self, process: NatsProcess) -> None:
        self.process = process
        self._connections: list[Bus] = []

    def run(self, main: Awaitable[Any]) -> None:
        async def bounded() -> None:
            try:
                async with asyncio.timeout(HANG_S):
                    await main
            finally:
                for each in self._connections:
                    await each.close()

        asyncio.run(bounded())

    async def _clear(self) -> None:
        """Delete all streams; on a server that has messages, they may come back with the next stream of that name."""
        client = await nats.connect(self.process.url)
        for name in [*wire.STREAMS, *(f"KV_{bucket}" for bucket in bus.BUCKETS)]:
            await client.request(f"$JS.API.STREAM.DELETE.{name}", b"{}", timeout=30)
        await client.close()

    async def connect(self) -> Bus:
        made = await bus.connect(self.process.url, name="test")
        self._connections.append(made)
        return made

    async def down(self) -> None:
        await asyncio.to_thread(self.process.kill)

    async def up(self) -> None:
        await asyncio.to_thread(self.process.start)

    async def make_anew(self, stream: str) -> None:
        client = await nats.connect(self.process.url)
        await client.request(f"$JS.API.STREAM.DELETE.{stream}", b"{}", timeout=10)
        await client.close()
        await (await bus.connect(self.process.url, name="maker")).close()

    async def foreign(self, subject: str, data: bytes) -> None:
        client = await nats.connect(self.process.url)
        await client.jetstream().publish(subject, data)
        await client.close()


Bed = MemoryBed | NatsBed


@pytest.fixture(scope="session")
def nats_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    """Give a server that lives as long as the run."""
    process = NatsProcess(tmp_path_factory.mktemp("nats"))
    yield process
    process.kill()


@pytest.fixture
def nats_bed(tmp_path: Path) -> Iterator[NatsBed]:
    """Give JetStream on a server of its own: a stream deleted and made again may bring old messages back."""
    process = NatsProcess(tmp_path / "nats")
    yield NatsBed(process)
    process.kill()


@pytest.fixture(params=["memory", "jetstream"])
def bed(request: pytest.FixtureRequest) -> Bed:
    """Give each kind of bus in turn, empty."""
    if request.param == "memory":
        return MemoryBed()
    made: NatsBed = request.getfixturevalue("nats_bed")
    return made


def on(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an asynchronous test on the loop of its `bed` or `nats_bed`."""

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        bed = arguments["bed"] if "bed" in arguments else arguments["nats_bed"]
        bed.run(test(**arguments))

    return run
