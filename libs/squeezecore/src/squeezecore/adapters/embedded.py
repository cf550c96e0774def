"""A ClickHouse server for one home directory, shared by all commands that use it: join it, or start it.

    <home>/data/            the engine's files
    <home>/run/server.json  port and process id of the server that runs now
    <home>/run/server.lock  held by the server as long as it lives, whatever way it ends
    <home>/run/start.lock   held while somebody looks for or starts a server, and while one goes
    <home>/run/leases/      a file per client, locked as long as the client lives
    <home>/run/server.log   what the engine said since it was last started
    <home>/run/scratch/     what commands need only while they run

All locks are `flock`s: the kernel drops them with their process, so nothing here outlives a `kill -9`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.util
import json
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from squeezecore.adapters import supervisor
from squeezecore.adapters.store import Store
from squeezecore.errors import SqueezeError

DATABASE = "squeeze"
PORT_TRIES_MAX = 5
LOCK_S_MAX = 2 * supervisor.STOP_S_MAX  # a server that stops holds the start lock for as long as that takes
POLL_S = 0.02
FREE_BYTES_MIN = 1_048_576


class EmbeddedError(SqueezeError):
    """The server of a home directory cannot be started or reached; the message says why and what to do."""


class Server(NamedTuple):
    """A running server."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"


class Lease:
    """A client's claim on the server: while it is held the server stays."""

    def __init__(self, run: Path) -> None:
        self._path = run / "leases" / f"{os.getpid()}-{secrets.token_hex(4)}.lock"
        self._maker = os.getpid()
        self._descriptor: int | None = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def close(self) -> None:
        """Give the claim up; a second call does nothing."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        if os.getpid() == self._maker:  # a forked child shares the lock but must not end it
            self._path.unlink(missing_ok=True)
        os.close(descriptor)


def open_store(home: Path, grace_s: float = 60.0, database: str = DATABASE) -> Store:
    """Open the store of a home directory, starting its server if none runs.

    Args:
        home: ours alone; made if absent.
        grace_s: how long the server stays after its last client is gone; the client that starts it decides.
        database: the database inside; tests take a fresh one each.

    Returns:
        A migrated `Store`; close it, or use it in a `with`.

    Raises:
        EmbeddedError: no engine installed, directory not writable, disk full, no free port, server does not answer.
    """
    home = Path(home).expanduser().absolute()
    _prepare(home)
    with _start_lock(home):  # the server reaps leases only under this lock
        lease = Lease(home / "run")
    try:
        store = Store(lambda: join(home, grace_s).url, database, on_close=lease.close)
    except BaseException:
        lease.close()
        raise
    return store


def join(home: Path, grace_s: float) -> Server:
    """Return the running server of a home directory, starting one if there is none. The caller holds a lease."""
    with _start_lock(home):
        running = _running(home)
        return running if running is not None else _start(home, grace_s)


def status(home: Path) -> Server | None:
    """Return the server of a home directory if one answers now; start nothing."""
    path = Path(home) / "run" / "server.json"
    try:
        server = Server(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return server if supervisor.answers(server.port) and _is_locked(Path(home)) else None


def clients(home: Path) -> list[int]:
    """Return the process ids that hold a lease on a home directory's server."""
    return sorted(int(path.name.split("-", 1)[0]) for path in supervisor.leases(Path(home) / "run"))


def stop(home: Path, wait_s: float = supervisor.STOP_S_MAX) -> bool:
    """Stop a home directory's server, whoever uses it, and wait for its end; False when none ran."""
    server = status(home)
    if server is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(server.pid, signal.SIGTERM)
    deadline = time.monotonic() + wait_s
    while _is_locked(Path(home)):
        if time.monotonic() > deadline:
            raise EmbeddedError(
                f"server {server.pid} of {home} was still running {wait_s:.0f} s after SIGTERM: end it with kill -9 {server.pid}"
            )
        time.sleep(POLL_S)
    return True


def _prepare(home: Path) -> None:
    """Make the home directory's own directories."""
    try:
        for path in (home / "data", home / "run" / "leases"):
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(home, error) from error


def refusal(home: Path, error: OSError) -> EmbeddedError:
    """Put an error of the file system into words for the person who can mend it."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return EmbeddedError(f"disk of {home} was full: free some space, or name another directory with --home")
    return EmbeddedError(
        f"home directory was {home}, it cannot be written ({error.strerror}): mend its rights, or name another with --home"
    )


@contextlib.contextmanager
def start_lock(home: Path, run: Path, log: Path) -> Iterator[None]:
    """Hold the lock under which the servers of `run` are looked for, started and gone; `log` is where they say why not."""
    deadline = time.monotonic() + LOCK_S_MAX
    while True:
        try:
            descriptor = supervisor.try_lock(run / "start.lock")
        except OSError as error:
            raise refusal(home, error) from error
        if descriptor is not None:
            break
        if time.monotonic() > deadline:
            raise EmbeddedError(
                f"start lock of {run} was held by another process for {LOCK_S_MAX:.0f} s: look into {log}"
            )
        time.sleep(POLL_S)
    try:
        yield
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Say whether the process that holds a lock file lives."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return supervisor.is_held(descriptor)
    finally:
        os.close(descriptor)


def _start_lock(home: Path) -> contextlib.AbstractContextManager[None]:
    return start_lock(home, home / "run", home / "run" / "server.log")


def _is_locked(home: Path) -> bool:
    """Say whether a server process of this home directory lives."""
    return is_locked(home / "run" / "server.lock")


def _running(home: Path) -> Server | None:
    """Return the server that runs, waiting for one that is starting or stopping; None when there is none."""
    deadline = time.monotonic() + supervisor.START_S_MAX
    while _is_locked(home):
        server = status(home)
        if server is not None:
            return server
        if time.monotonic() > deadline:
            raise EmbeddedError(
                f"server of {home} was running but did not answer for {supervisor.START_S_MAX:.0f} s: "
                f"look into {home / 'run' / 'server.log'}, then end the process that holds {home / 'run' / 'server.lock'}"
            )
        time.sleep(POLL_S)
    return None


def _start(home: Path, grace_s: float) -> Server:
    """Start a server and wait until it answers."""
    _check_engine()
    run = home / "run"
    for _ in range(PORT_TRIES_MAX):
        (run / "server.json").unlink(missing_ok=True)
        try:
            with (run / "server.log").open("wb") as log:
                code = subprocess.run(  # noqa: S603 - our own module, no shell
                    [sys.executable, "-P", "-m", supervisor.__name__, str(home), str(_free_port()), str(grace_s)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # a Ctrl-C at our terminal must not reach it
                    check=False,
                ).returncode
        except OSError as error:
            raise refusal(home, error) from error
        server = None if code else _running(home)
        if server is not None:
            return server
        said = (run / "server.log").read_text(errors="replace")
        if "Code: 210" not in said and "Address already in use" not in said:
            raise _start_error(home, said)
    raise EmbeddedError(
        f"{PORT_TRIES_MAX} free loopback ports were each taken by another process before the server had them: try again"
    )


def _start_error(home: Path, said: str) -> EmbeddedError:
    """Explain a server that ended before it answered, from what it said."""
    if "Cannot lock file" in said:
        return EmbeddedError(
            f"data directory was {home / 'data'}, another program has it open: end that program, or use another --home"
        )
    # A full disk takes not even the line that says so.
    if "No space left" in said or "NOT_ENOUGH_SPACE" in said or shutil.disk_usage(home).free < FREE_BYTES_MIN:
        return EmbeddedError(f"disk of {home} was full: free some space, or name another directory with --home")
    if "Permission denied" in said or "Read-only file system" in said:
        return EmbeddedError(
            f"home directory was {home}, its files cannot be written: mend their rights, or name another with --home"
        )
    last = "\n".join(said.strip().splitlines()[-5:]) or "nothing: it may lack AVX2, or have been killed"
    return EmbeddedError(f"server of {home} ended before it answered; {home / 'run' / 'server.log'} says: {last}")


def _check_engine(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Refuse early what can never start."""
    if importlib.util.find_spec("chdb") is None:
        raise EmbeddedError(
            "package chdb was not installed, the embedded server needs it: make venv, or pip install 'squeezecore[embedded]'"
        )
    if platform.machine() in {"x86_64", "AMD64"}:
        with contextlib.suppress(OSError):
            said = cpuinfo.read_text()
            if "flags" in said and " avx2" not in said:
                raise EmbeddedError(
                    "processor was without AVX2, the embedded server needs x86-64-v3: use an external ClickHouse server"
                )


def _free_port() -> int:
    """Ask the kernel for a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
