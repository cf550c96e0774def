"""The whole stack under `squeezeflow up`: its start, what a second costs ClickHouse, and each process's memory over a day."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
from tests.bench.commanding import COMMAND, MEGABYTE, ROOT
from tests.bench.measuring import REFERENCE_S, Figure, calibrate, plain
from tests.bench.stage import Stage

from squeezecore.adapters import embedded, embedded_nats
from squeezecore.market import DAY_S
from squeezeflow.up import SERVICES

STARTS = 3
READY_S_MAX = 10.0
WAIT_S = 180.0
COST_S = 20.0  # of real time
MEMORY_S_MAX = 240.0
SAMPLE_S = 2.0
SHARES = (0.25, 0.5, 0.75, 1.0)
FLAT = 1.15  # what a process holds at the end, of what it held halfway
SLACK_MB = 15.0  # allocators keep so much more or less
ASSET_FILE = """
[BTC]
traded = "binance:BTC-USDT-PERP"
markets = [
    { instrument = "binance:BTC-USDT" },
    { instrument = "binance:BTC-USDT-PERP" },
    { instrument = "binance:BTC-USD-PERP" },
]
"""
INSERTS = ("InsertQuery", "InsertedRows", "InsertQueryTimeMicroseconds")


def figures(stage: Stage) -> list[Figure]:
    """Measure in homes of their own."""
    with tempfile.TemporaryDirectory(prefix="squeezeflow-up-") as name:
        folder = Path(name)
        return [*_starts(stage, folder), *_memory(stage, folder)]


# --- the command ---


class Upping:
    """A running `up`, and what it has said."""

    def __init__(self, home: Path, *words: str, **environment: str) -> None:
        self.home = home
        self.begun_s = time.monotonic()
        self.ready_s = 0.0  # from the command's start, seen from outside
        self._ready = threading.Event()
        self._said: list[str] = []
        person = {key: value for key, value in os.environ.items() if not key.startswith("SQUEEZE_")}
        self.process = subprocess.Popen(
            [str(COMMAND), "--home", str(home), "up", "--source", "sim:7", "--json", *words],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=person | environment, start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self._said = [*self._said, line][-50:]
            if '"ready"' in line and json.loads(line).get("event") == "ready":
                self.ready_s = time.monotonic() - self.begun_s
                self._ready.set()

    def wait(self) -> float:
        """Wait until everything is ready; return after how many seconds."""
        self.until(self._ready.is_set)
        return self.ready_s

    def until(self, condition: Callable[[], bool], within_s: float = WAIT_S) -> None:
        """Wait for something."""
        deadline = time.monotonic() + within_s
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"up did not come so far: {''.join(self._said)[-2000:]}")
            time.sleep(0.05)

    def note(self, name: str) -> dict[str, int]:
        """Return the port and the process id of a service; empty while it has none."""
        try:
            found: dict[str, int] = json.loads((self.home / "run" / "services" / f"{name}.json").read_text())
        except (OSError, ValueError):
            return {}
        return found

    def status(self, name: str) -> dict[str, Any]:
        """Ask a service how it goes; empty where it does not answer."""
        try:
            url = f"http://127.0.0.1:{self.note(name)['port']}/v1/status"
            found: dict[str, Any] = httpx.get(url, trust_env=False, timeout=5.0).json()
        except (KeyError, OSError, ValueError, httpx.HTTPError):
            return {}
        return found

    def close(self) -> None:
        """Press Ctrl-C, and wait for the end."""
        self.process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextmanager
def up(home: Path, *words: str, **environment: str) -> Iterator[Upping]:
    """Run `up`; end it, and its servers, afterwards."""
    made = Upping(home, *words, **environment)
    try:
        yield made
    finally:
        made.close()
        embedded_nats.stop(home)
        embedded.stop(home)


# --- the start ---


def _starts(stage: Stage, folder: Path) -> list[Figure]:
    """Start on a home that holds a history, kernels cached; then once with nothing cached."""
    stage.tell("the stack's first start, with the simulated days before")
    home, cache = folder / "five", folder / "kernels"
    with up(home, NUMBA_CACHE_DIR=str(cache)) as first:
        made_s = first.wait()
        first.until(lambda: first.status("strategy").get("decided_ts", -1) > 0)
    seconds, fair = [], []
    for number in range(STARTS):
        stage.tell(f"the stack's start, {number + 1} of {STARTS}")
        before = calibrate(2)
        with up(home, NUMBA_CACHE_DIR=str(cache)) as again:
            seconds.append(again.wait())
            fair.append(seconds[-1] / max(1.0, (before + calibrate(2)) / 2 / REFERENCE_S[2]))
            if number == STARTS - 1:
                stage.tell("what a second costs ClickHouse")
                cost = _cost(again)
    stage.tell("the stack's start without cached kernels")
    with up(home, NUMBA_CACHE_DIR=str(folder / "none")) as cold:
        cold_s = cold.wait()
    ready, judged = statistics.median(seconds), statistics.median(fair)
    said = f"all six services and both servers answer that they are ready; median of {STARTS}, {min(seconds):.1f}..{max(seconds):.1f} s"
    return [
        Figure(
            name="start of the whole stack to ready", value=ready, unit="s", bar=READY_S_MAX, ok=judged <= READY_S_MAX,
            how=f"squeezeflow up on a home with three days of five assets, kernels cached; {said}; machine {ready / judged:.2f} x "
            "the reference time",
        ),
        plain("  without cached kernels", cold_s, "s", "every process compiles what it needs, once on a machine"),
        plain("  the very first", made_s, "s", "an empty home: two days of five assets are simulated and stored first"),
        *cost,
    ]  # fmt: skip


def _cost(running: Upping) -> list[Figure]:
    """Count what ClickHouse did for five assets in real time."""
    running.until(lambda: running.status("cvd").get("decided_s", 0) > time.time() - 15)
    server = embedded.status(running.home)
    assert server is not None
    process = psutil.Process(server.pid)
    with embedded.open_store(running.home) as store:

        def counts() -> dict[str, int]:
            names = ", ".join(f"'{name}'" for name in INSERTS)
            table = store.query(f"SELECT event, value FROM system.events WHERE event IN ({names})")
            return dict(zip(table["event"].to_pylist(), table["value"].to_pylist(), strict=True))

        before, times, begun = counts(), process.cpu_times(), time.monotonic()
        time.sleep(COST_S)
        after, now, took = counts(), process.cpu_times(), time.monotonic() - begun
    cpu_s = (now.user + now.system - times.user - times.system) / took
    inserts, rows, micros = ((after.get(name, 0) - before.get(name, 0)) / took for name in INSERTS)
    how = (
        f"five assets of three markets each, in real time over {took:.0f} s: {inserts:.1f} inserts of {rows:.0f} rows a second "
        f"(prints, bars, rows, facts, snapshots), {micros / 1e3:.1f} ms in them; merges and questions counted"
    )
    return [plain("ClickHouse, a second of five assets", cpu_s * 1e3, "ms of a core", how)]


# --- memory ---


class Sample(NamedTuple):
    """What every process held when the market was there."""

    second: int  # decided, UTC
    pss: dict[str, int]  # bytes


def _memory(stage: Stage, folder: Path) -> list[Figure]:
    """Let a simulated day pass as fast as it can, and look at every process meanwhile."""
    stage.tell("a simulated day, for the memory")
    home, file = folder / "one", folder / "assets.toml"
    file.write_text(ASSET_FILE)
    samples: list[Sample] = []
    with up(home, "--speed", "max", "--assets", str(file)) as running:
        running.wait()
        deadline = time.monotonic() + MEMORY_S_MAX
        while time.monotonic() < deadline:
            second = running.status("strategy").get("decided_ts", -1)
            if second > 0:
                samples.append(Sample(second, _held(running)))
                passed = second - samples[0].second
                stage.tell(f"a simulated day, for the memory: {passed / 3600:.1f} h")
                if passed >= DAY_S:
                    break
            time.sleep(SAMPLE_S)
    first, last = samples[0].second, samples[-1].second
    hours = (last - first) / 3600
    at = [min(samples, key=lambda sample: abs(sample.second - first - share * (last - first))) for share in SHARES]
    lines = []
    for name in (*SERVICES, "nats", "clickhouse"):
        held = [sample.pss.get(name, 0) / MEGABYTE for sample in at]
        judged = name in SERVICES
        growth = held[3] / max(held[1], 1.0)
        flat = growth <= FLAT or held[3] <= held[1] + SLACK_MB
        how = (
            f"PSS after {hours:.1f} h of one asset at --speed max; at a quarter, half, three quarters: "
            f"{held[0]:.0f}, {held[1]:.0f}, {held[2]:.0f} MB; flat is {FLAT} times the half's, or {SLACK_MB:.0f} MB more"
        )
        if judged:
            bar = max(FLAT * held[1], held[1] + SLACK_MB)
            lines.append(
                Figure(name=f"memory of {name}", value=held[3], unit="MB", bar=round(bar, 1), ok=flat, how=how)
            )
        else:
            lines.append(plain(f"  memory of {name}", held[3], "MB", how))
    return lines


def _held(running: Upping) -> dict[str, int]:
    """Return the proportional memory of each process."""
    found = {}
    pids = {name: running.note(name).get("pid", 0) for name in SERVICES}
    bus, store = embedded_nats.status(running.home), embedded.status(running.home)
    pids |= {"nats": bus.pid if bus is not None else 0, "clickhouse": store.pid if store is not None else 0}
    for name, pid in pids.items():
        with suppress(psutil.Error, ValueError):
            found[name] = psutil.Process(pid).memory_full_info().pss
    return found
