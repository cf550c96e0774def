"""What is wrong here and how to mend it: the machine, the packages, both servers, and each service that should run.

Every check is a function that yields findings; one that fails in a way nobody foresaw is a finding too. What need not be
there (services while nothing runs) is neither right nor wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import msgspec

from squeezecore import wire
from squeezecore.adapters import bus as buses
from squeezecore.adapters import embedded_nats, operations, supervisor
from squeezecore.adapters.settings import redacted
from squeezecore.errors import SqueezeError
from squeezeflow.up import PORT_BASE, SERVICES, is_free

PYTHON_MIN = (3, 11)
MEMORY_BYTES_MIN = 3_000_000_000  # both servers and six services take about two thirds of it
FREE_BYTES_MIN = 2_000_000_000
SKEW_S_MAX = 1.0  # a feed's watermarks are late by as much
ASK_S_MAX = 5.0
GRACE_S = 1.0  # a server that was started for the check goes again
PACKAGES = (
    "clickhouse-connect", "fastapi", "httpx", "msgspec", "nats-py", "numba", "numpy", "picows", "polars", "prometheus-client",
    "pyarrow", "pydantic-settings", "structlog", "uvicorn", "uvloop",
)  # fmt: skip
INSTALL = "make venv, or pip install 'squeezeflow[up]'"

State = Literal["right", "wrong", "absent"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one check found."""

    name: str
    state: State
    found: str
    mend: str = ""


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was found."""

    well: bool  # nothing is wrong
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Place:
    """What is looked at."""

    home: Path
    clickhouse_url: str | None = None


def examine(place: Place) -> Diagnosis:
    """Check everything, in the order in which it would fail."""
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        try:
            findings += check(place)
        except Exception as error:  # noqa: BLE001 - a doctor does not faint
            findings.append(
                _wrong(name, f"the check failed: {type(error).__name__}: {error}", "tell us, with this line")
            )
    return Diagnosis(well=all(finding.state != "wrong" for finding in findings), findings=tuple(findings))


def _right(name: str, found: str) -> Finding:
    return Finding(name=name, state="right", found=found)


def _wrong(name: str, found: str, mend: str) -> Finding:
    return Finding(name=name, state="wrong", found=redacted(found), mend=mend)


def _absent(name: str, found: str, mend: str = "") -> Finding:
    return Finding(name=name, state="absent", found=found, mend=mend)


def _judge(good: bool, name: str, found: str, mend: str) -> Finding:
    return _right(name, found) if good else _wrong(name, found, mend)


# --- the machine ---


def _python(_place: Place) -> Iterator[Finding]:
    least = ".".join(map(str, PYTHON_MIN))
    yield _judge(
        sys.version_info[:2] >= PYTHON_MIN,
        "python",
        f"{platform.python_version()} at {sys.executable}",
        f"install Python {least} or newer, then make venv",
    )


def _processor(place: Place) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    flags = ""
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text()
    needs = place.clickhouse_url is None and platform.machine() in {"x86_64", "AMD64"} and "flags" in flags
    found = f"{platform.machine()}, {cores} cores"
    if needs:
        has = " avx2" in flags
        found += ", AVX2" if has else ", without AVX2"
        yield _judge(
            has, "processor", found, "the embedded ClickHouse needs AVX2: name an external server with --clickhouse"
        )
    else:
        yield _right("processor", found)


def _memory(_place: Place) -> Iterator[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = total
    with contextlib.suppress(OSError, TypeError):
        said = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
        free = int(said[1]) * 1024 if said else total
    yield _judge(
        total >= MEMORY_BYTES_MIN,
        "memory",
        f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB available",
        f"all of it together wants {MEMORY_BYTES_MIN / 1e9:.0f} GB: leave services out with up --without, "
        "or use an external ClickHouse",
    )


def _home(place: Place) -> Iterator[Finding]:
    name = "home"
    try:
        place.home.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.home):
            pass
    except OSError as error:
        yield _wrong(
            name, f"{place.home} cannot be written ({error.strerror})", "mend its rights, or name another with --home"
        )
        return
    yield _right(name, f"{place.home} can be written")
    free = shutil.disk_usage(place.home).free
    yield _judge(
        free >= FREE_BYTES_MIN,
        "disk",
        f"{free / 1e9:,.1f} GB free",
        f"{FREE_BYTES_MIN / 1e9:.0f} GB should be free: delete something, or name a home on another disk with --home",
    )


def _packages(_place: Place) -> Iterator[Finding]:
    missing = []
    for package in PACKAGES:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    missing += [f"squeeze-{name}" for name in SERVICES if importlib.util.find_spec(f"squeeze_{name}") is None]
    yield _judge(
        not missing, "packages", f"missing: {', '.join(missing)}" if missing else "all that services need", INSTALL
    )


def _programs(place: Place) -> Iterator[Finding]:
    try:
        binary = embedded_nats.find_binary()
    except SqueezeError as error:
        yield _wrong("nats-server", str(error), INSTALL)
    else:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout  # noqa: S603
        yield _right("nats-server", f"{said.strip().removeprefix('nats-server: ')} at {binary}")
    if place.clickhouse_url is None:
        try:
            found = importlib.metadata.version("chdb")
        except importlib.metadata.PackageNotFoundError:
            yield _wrong("engine", "package chdb was not installed", "pip install 'squeezecore[embedded]'")
        else:
            yield _right("engine", f"chdb {found}")


# --- the servers ---


def _bus(place: Place) -> Iterator[Finding]:
    if not os.access(place.home, os.W_OK):
        yield _absent("bus", "it needs a home that can be written")
        return
    if embedded_nats.status(place.home) is None and not (place.home / "nats").exists():
        yield _absent("bus", "there is none yet", "squeezeflow up makes it")
        return
    try:
        with embedded_nats.open_nats(place.home, GRACE_S) as server:
            streams = asyncio.run(_streams(server.url))
    except SqueezeError as error:
        yield _wrong("bus", str(error), f"look into {place.home / 'nats' / 'run' / 'nats.log'}")
        return
    yield _right("bus", f"NATS answers at {server.url}; {streams}")


async def _streams(url: str) -> str:
    client = await buses.connect(url, name="doctor", wait_s=ASK_S_MAX)
    try:
        told = {name: await client.stream(name) for name in wire.STREAMS}
    finally:
        await client.close()
    return ", ".join(f"{name} {info.messages:,} messages {info.bytes / 1e6:,.1f} MB" for name, info in told.items())


def _store(place: Place) -> Iterator[Finding]:
    if place.clickhouse_url is None and not os.access(place.home, os.W_OK):
        yield _absent("store", "it needs a home that can be written")
        return
    try:
        with operations.open_store(place.home, place.clickhouse_url) as store:
            engine = store.query("SELECT version() AS v")["v"].to_pylist()[0]
            schema = store.query("SELECT max(version) AS v FROM schema_version")["v"].to_pylist()[0]
            sizes = sorted(store.sizes(), key=lambda size: -size.bytes)
            source = store.config("up.source")
    except SqueezeError as error:
        log = place.home / "run" / "server.log"
        mend = (
            f"look into {log}"
            if place.clickhouse_url is None
            else "start that server, or mend the address of --clickhouse"
        )
        yield _wrong("store", str(error), mend)
        return
    largest = ", ".join(
        f"{size.table} {size.rows:,} rows {size.bytes / 1e6:,.1f} MB" for size in sizes[:4] if size.rows
    )
    where = "" if source is None else f", market {source[0]}"
    yield _right("store", f"ClickHouse {engine}, schema {schema}{where}; {largest or 'empty'}")


# --- the services ---


def _services(place: Place) -> Iterator[Finding]:
    pid = running_up(place.home)
    if pid is None:
        yield _absent("services", "squeezeflow up does not run on this home", "squeezeflow up")
        free = [PORT_BASE + n for n in range(len(SERVICES)) if is_free(PORT_BASE + n)]
        span = f"{PORT_BASE} to {PORT_BASE + len(SERVICES) - 1}"
        taken = len(SERVICES) - len(free)
        yield _right("ports", f"{span} are free" if not taken else f"{taken} of {span} are taken: up will use others")
        return
    yield _right("services", f"squeezeflow up runs, process {pid}")
    with httpx.Client(timeout=ASK_S_MAX, trust_env=False) as http:
        for name in SERVICES:
            yield _service(place.home, name, http)
        yield from _skew(place.home, http)


def running_up(home: Path) -> int | None:
    """Return the process that runs `up` on a home directory."""
    path = home / "run" / "up.lock"
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        held = supervisor.is_held(descriptor)
    finally:
        os.close(descriptor)
    return int(path.read_text().strip() or 0) if held else None


def _address(home: Path, name: str) -> str | None:
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        told = json.loads((home / "run" / "services" / f"{name}.json").read_text())
        os.kill(told["pid"], 0)
        return f"http://127.0.0.1:{int(told['port'])}"
    return None


def _service(home: Path, name: str, http: httpx.Client) -> Finding:
    log = f"look into {home / 'run' / 'logs' / f'{name}.log'}"
    url = _address(home, name)
    if url is None:
        return _wrong(name, "it does not run", f"{log}; was it left out with --without?")
    try:
        ready, status = http.get(f"{url}/readyz"), http.get(f"{url}/v1/status").json()
        if ready.status_code != httpx.codes.OK:
            return _wrong(name, f"{url} is not ready: {ready.json()['detail']}", log)
    except (httpx.HTTPError, ValueError, LookupError) as error:
        return _wrong(name, f"{url} does not answer ({type(error).__name__})", log)
    lag = "" if status.get("lag_s") is None else f", {status['lag_s']:.1f} s behind"
    return _right(name, f"{url} is {str(status['state']).lower()}{lag}, {status.get('messages', 0):,} messages")


def _skew(home: Path, http: httpx.Client) -> Iterator[Finding]:
    """Compare this machine's clock with the venues', as ingest measures it."""
    url, skews = _address(home, "ingest"), []
    if url is not None:
        with contextlib.suppress(httpx.HTTPError):
            said = http.get(f"{url}/metrics").text
            skews = [
                float(v)
                for v in re.findall(r"^squeezeflow_ingest_skew_seconds\{[^}]*\} ([-+.e\d]+)$", said, re.MULTILINE)
            ]
    if not skews:
        yield _absent("clock", "no venue has told its time yet")
        return
    worst = max(skews, key=abs)
    yield _judge(
        abs(worst) <= SKEW_S_MAX,
        "clock",
        f"{worst:+.3f} s against the venue that differs most, limit is {SKEW_S_MAX:g} s",
        "synchronise this machine's clock (Debian: apt install chrony)",
    )


CHECKS: dict[str, Callable[[Place], Iterator[Finding]]] = {
    "python": _python,
    "processor": _processor,
    "memory": _memory,
    "home": _home,
    "packages": _packages,
    "programs": _programs,
    "bus": _bus,
    "store": _store,
    "services": _services,
}


def lines(diagnosis: Diagnosis) -> Iterator[str]:
    """Yield a line a finding, and how to mend it where something is wrong."""
    marks = {"right": "✓", "wrong": "✗", "absent": "·"}
    width = max(len(finding.name) for finding in diagnosis.findings)
    for finding in diagnosis.findings:
        yield f"{marks[finding.state]} {finding.name:{width}}  {finding.found}"
        if finding.mend:
            yield f"  {'':{width}}  → {finding.mend}"
    wrong = sum(finding.state == "wrong" for finding in diagnosis.findings)
    yield "nothing is wrong" if diagnosis.well else f"{wrong} wrong: mend the first, then ask again"
