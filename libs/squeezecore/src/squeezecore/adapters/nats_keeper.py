"""The process that keeps the NATS server of one home directory: starts it, starts it again if it dies, ends it in time.

`python -m squeezecore.adapters.nats_keeper BINARY HOME GRACE_S` detaches itself and stays until no client has held a lease
for GRACE_S seconds, or until SIGTERM. `embedded_nats` starts it. The server shares the keeper's lock, because two servers
on one directory would each number its messages and lose the other's without a word.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from squeezecore.adapters import supervisor

FILE_BYTES_MAX = 10_000_000_000  # of the whole store; the server's own default is three quarters of the free disk
MEMORY_BYTES_MAX = 268_435_456
START_S_MAX = 60.0  # a store of many messages takes a while after kill -9
STOP_S_MAX = 10.0
POLL_S = 0.005
WATCH_S = 0.1

EXIT_SERVER_FAILED = 1  # its reason is in the log

CONFIG = f"""listen: "127.0.0.1:{{port}}"
http: "127.0.0.1:-1"
max_payload: 2MB
log_file: "{{log}}"
logfile_size_limit: 10MB
logfile_max_num: 3
jetstream {{{{
  store_dir: "{{store}}"
  max_file_store: {FILE_BYTES_MAX}
  max_memory_store: {MEMORY_BYTES_MAX}
  sync_interval: always
}}}}
"""


def answers(port: int, timeout_s: float = 2.0) -> bool:
    """Ask the server on a loopback monitoring port whether it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> None:
    """Keep the server of the home directory named on the command line."""
    binary, nats, grace_s = sys.argv[1], Path(sys.argv[2]) / "nats", float(sys.argv[3])
    # The lock is taken before the forks: it belongs to the open file, which the server inherits.
    deadline = time.monotonic() + supervisor.LOCK_S_MAX
    while (lock := supervisor.try_lock(nats / "run" / "server.lock")) is None:  # who just asks holds it for a moment
        if time.monotonic() > deadline:
            sys.exit(supervisor.EXIT_ALREADY_RUNNING)
        time.sleep(0.01)
    os.set_inheritable(lock, True)
    if os.fork():
        os._exit(supervisor.EXIT_DONE)  # the starter waits for this process only
    sys.exit(keep(binary, nats, grace_s))


def keep(binary: str, nats: Path, grace_s: float) -> int:
    """Run the server until it is no longer wanted; return the exit code."""

    def asked(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(supervisor.EXIT_DONE)

    run = nats / "run"
    own_lock = supervisor.try_lock(run / "keeper.lock")  # the server does not inherit it, so it tells that we live
    announcement = run / "server.json"
    pid = 0
    start_lock: int | None = None
    try:
        for number in supervisor.STOP_SIGNALS:
            signal.signal(number, asked)
        while start_lock is None:
            announcement.unlink(missing_ok=True)
            (run / "port").touch()
            _configure(nats, wish(run))
            pid = _spawn(binary, run)
            ports = _ready(run, pid)
            if ports is None:
                return EXIT_SERVER_FAILED
            (run / "port").write_text(str(ports["port"]))  # a server that starts again is found where it was
            start_lock = _watch(run, {**ports, "pid": pid, "keeper_pid": os.getpid()}, grace_s)
        return supervisor.EXIT_DONE
    finally:
        for number in supervisor.STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(OSError):
            announcement.unlink(missing_ok=True)
        _end(pid)
        del own_lock  # held until here


def wish(run: Path) -> int:
    """Return the port the server had before, if it is free; otherwise -1: any."""
    try:
        port = int((run / "port").read_text())
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the server before may linger
            probe.bind(("127.0.0.1", port))
    except (OSError, ValueError, OverflowError):
        return -1
    return port


def _configure(nats: Path, port: int) -> None:
    run = nats / "run"
    (run / "nats.conf").write_text(CONFIG.format(port=port, store=nats, log=run / "nats.log"))
    for left in (run / "ports").glob("*.ports"):  # of servers that were killed
        left.unlink(missing_ok=True)


def _spawn(binary: str, run: Path) -> int:
    """Start the server as a child that ends with us, whatever way we end."""
    keeper = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        for number in supervisor.STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        if sys.platform == "linux":
            death_signal = 1  # PR_SET_PDEATHSIG
            ctypes.CDLL(None).prctl(death_signal, signal.SIGTERM)
        if os.getppid() == keeper:
            os.execv(binary, [binary, "-c", str(run / "nats.conf"), "--ports_file_dir", str(run / "ports")])  # noqa: S606
    finally:
        os._exit(EXIT_SERVER_FAILED)


def _ready(run: Path, pid: int) -> dict[str, Any] | None:
    """Wait until the server answers; None when it ended, or did not in time."""
    deadline = time.monotonic() + START_S_MAX
    path = run / "ports" / f"nats-server_{pid}.ports"
    while time.monotonic() < deadline:
        if _has_ended(pid):
            return None
        with contextlib.suppress(OSError, ValueError, LookupError):
            told = json.loads(path.read_text())
            port, monitoring = (int(told[key][0].rsplit(":", 1)[1]) for key in ("nats", "monitoring"))
            if answers(monitoring):
                return {"port": port, "monitoring_port": monitoring}
        time.sleep(POLL_S)
    return None


def _has_ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True


def _end(pid: int) -> None:
    """End the server in good order, or by force."""
    for number, wait_s in ((signal.SIGTERM, STOP_S_MAX), (signal.SIGKILL, STOP_S_MAX)):
        deadline = time.monotonic() + wait_s
        while pid and not _has_ended(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
        else:
            return


def _watch(run: Path, announcement: dict[str, Any], grace_s: float) -> int | None:
    """Return the held start lock once no lease has been held for `grace_s` seconds; None when the server died.

    The start lock keeps a newcomer from joining a server that is about to go; it ends with the process.
    """
    seen = time.monotonic()
    while not _has_ended(announcement["pid"]):
        with contextlib.suppress(OSError):  # a full disk is no reason to end
            _announce(run, json.dumps(announcement))
        if next(supervisor.leases(run), None) is not None:
            seen = time.monotonic()
        elif time.monotonic() - seen >= grace_s:
            start_lock = supervisor.try_lock(run / "start.lock")
            if start_lock is not None:
                if next(supervisor.leases(run), None) is None:
                    for stale in (run / "leases").glob("*.lock"):  # of clients that were killed
                        stale.unlink(missing_ok=True)
                    return start_lock
                os.close(start_lock)
        time.sleep(WATCH_S)
    return None


def _announce(run: Path, text: str) -> None:
    """Write `server.json` unless it stands there already."""
    path = run / "server.json"
    with contextlib.suppress(OSError, ValueError):
        if path.read_text() == text:
            return
    temporary = run / "server.json.new"
    temporary.write_text(text)
    temporary.replace(path)


if __name__ == "__main__":
    main()
