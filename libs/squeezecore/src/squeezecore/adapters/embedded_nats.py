"""A NATS server for one home directory, shared by all processes that use it: join it, or start it.

    <home>/nats/jetstream/       the streams
    <home>/nats/run/server.json  ports and process ids of the server that runs now
    <home>/nats/run/server.lock  held by the server and its keeper as long as either lives
    <home>/nats/run/keeper.lock  held by the keeper alone
    <home>/nats/run/start.lock   held while somebody looks for or starts a server, and while one goes
    <home>/nats/run/leases/      a file per client, locked as long as the client lives
    <home>/nats/run/port         where the server was last, and will be again
    <home>/nats/run/nats.log     what the server said; keeper.log: what kept it from starting

It listens on loopback only, without a password, and writes every message to the disk before it is acknowledged.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from squeezecore.adapters import nats_keeper, supervisor
from squeezecore.adapters.embedded import EmbeddedError, Lease, is_locked, refusal, start_lock

VERSION_MIN = (2, 12)
LOCK_S_MAX = 60.0
POLL_S = 0.01
_INSTALL = "pip install 'squeezecore[embedded]', or put nats-server 2.12 or newer on the PATH"


@dataclass(frozen=True)
class NatsServer:
    """A running server; from `open_nats` it also holds the claim that keeps it running."""

    port: int
    monitoring_port: int
    pid: int
    keeper_pid: int
    _lease: Lease | None = field(default=None, repr=False, compare=False)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"nats://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Give the claim up; a second call does nothing."""
        if self._lease is not None:
            self._lease.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_nats(home: Path, grace_s: float = 60.0) -> NatsServer:
    """Join the NATS server of a home directory, starting it if none runs.

    Args:
        home: ours alone; made if absent.
        grace_s: how long the server stays after its last client is gone; the client that starts it decides.

    Returns:
        The server, with a claim on it: close it, or use it in a `with`.

    Raises:
        EmbeddedError: no server installed, directory not writable, disk full, server does not answer.
    """
    home = Path(home).expanduser().absolute()
    run = home / "nats" / "run"
    try:
        for name in ("leases", "ports"):
            (run / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(home, error) from error
    with _start_lock(home):  # the keeper reaps leases only under this lock
        lease = Lease(run)
        try:
            server = _running(home) or _start(home, grace_s)
        except BaseException:
            lease.close()
            raise
    return NatsServer(server.port, server.monitoring_port, server.pid, server.keeper_pid, lease)


def status(home: Path) -> NatsServer | None:
    """Return the server of a home directory if one answers now; start nothing."""
    try:
        told = json.loads((Path(home) / "nats" / "run" / "server.json").read_text())
        port, monitoring_port, pid, keeper_pid = (
            int(told[key]) for key in ("port", "monitoring_port", "pid", "keeper_pid")
        )
    except (OSError, ValueError, TypeError, LookupError):
        return None
    # A server whose keeper was killed still answers for a moment, and then goes.
    if (
        not _is_locked(Path(home))
        or not _is_locked(Path(home), "keeper.lock")
        or not nats_keeper.answers(monitoring_port)
    ):
        return None
    return NatsServer(port, monitoring_port, pid, keeper_pid)


def clients(home: Path) -> list[int]:
    """Return the process ids that hold a lease on a home directory's server."""
    return sorted(int(path.name.split("-", 1)[0]) for path in supervisor.leases(Path(home) / "nats" / "run"))


def stop(home: Path, wait_s: float = supervisor.STOP_S_MAX) -> bool:
    """Stop a home directory's server, whoever uses it, and wait for its end; False when none ran."""
    server = status(home)
    if server is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(server.keeper_pid, signal.SIGTERM)
    deadline = time.monotonic() + wait_s
    while _is_locked(Path(home)):
        if time.monotonic() > deadline:
            raise EmbeddedError(
                f"NATS server {server.pid} of {home} was still running {wait_s:.0f} s after SIGTERM: "
                f"end it with kill -9 {server.keeper_pid} {server.pid}"
            )
        time.sleep(POLL_S)
    return True


def find_binary(python: Path = Path(sys.executable), path: str | None = None) -> str:
    """Return the server's program: beside the interpreter, else on the PATH.

    Raises:
        EmbeddedError: there is none, or it is older than `VERSION_MIN`.
    """
    beside = python.with_name("nats-server")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("nats-server", path=path)
    if found is None:
        raise EmbeddedError(f"program nats-server was not found beside {python} or on the PATH: {_INSTALL}")
    try:
        said = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedError(f"program {found} could not be run ({error}): {_INSTALL}") from error
    version = re.search(r"v?(\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < VERSION_MIN:
        raise EmbeddedError(
            f"program {found} was {said.strip() or 'of no version'}, 2.12 or newer is needed: {_INSTALL}"
        )
    return found


def _start_lock(home: Path) -> contextlib.AbstractContextManager[None]:
    run = home / "nats" / "run"
    return start_lock(home, run, run / "nats.log")


def _is_locked(home: Path, name: str = "server.lock") -> bool:
    """Say whether a server of this home directory, or its keeper, lives."""
    return is_locked(home / "nats" / "run" / name)


def _running(home: Path) -> NatsServer | None:
    """Return the server that runs, waiting for one that is starting or stopping; None when there is none."""
    run = home / "nats" / "run"
    deadline = time.monotonic() + nats_keeper.START_S_MAX
    while _is_locked(home):
        server = status(home)
        if server is not None:
            return server
        if time.monotonic() > deadline:
            raise EmbeddedError(
                f"NATS server of {home} was running but did not answer for {nats_keeper.START_S_MAX:.0f} s: "
                f"look into {run / 'nats.log'}, then end the processes that hold {run / 'server.lock'}"
            )
        time.sleep(POLL_S)
    return None


def _start(home: Path, grace_s: float) -> NatsServer:
    """Start a server and wait until it answers."""
    binary = find_binary()
    run = home / "nats" / "run"
    try:
        (run / "server.json").unlink(missing_ok=True)
        (run / "nats.log").unlink(missing_ok=True)
        with (run / "keeper.log").open("wb") as log:
            code = subprocess.run(  # noqa: S603 - our own module, no shell
                [sys.executable, "-P", "-m", nats_keeper.__name__, binary, str(home), str(grace_s)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C at our terminal must not reach it
                check=False,
            ).returncode
    except OSError as error:
        raise refusal(home, error) from error
    # The keeper of a starter that was killed may have been quicker: then its server is ours.
    server = _running(home) if code in {supervisor.EXIT_DONE, supervisor.EXIT_ALREADY_RUNNING} else None
    if server is None:
        raise _start_error(home)
    return server


def _start_error(home: Path) -> EmbeddedError:
    """Explain a server that ended before it answered, from what was said."""
    said = ""
    for name in ("nats.log", "keeper.log"):
        with contextlib.suppress(OSError):
            said += (home / "nats" / "run" / name).read_text(errors="replace")
    if "no space left" in said.lower() or shutil.disk_usage(home).free < (1 << 20):
        return EmbeddedError(f"disk of {home} was full: free some space, or name another directory with --home")
    if "permission denied" in said.lower() or "read-only file system" in said.lower():
        return EmbeddedError(
            f"home directory was {home}, its files cannot be written: mend their rights, or name another with --home"
        )
    last = "\n".join(said.strip().splitlines()[-5:]) or "nothing: it may have been killed"
    return EmbeddedError(f"NATS server of {home} ended before it answered; {home / 'nats' / 'run'} says: {last}")
