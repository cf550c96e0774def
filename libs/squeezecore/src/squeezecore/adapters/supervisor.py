"""The process that is the ClickHouse server of one home directory: the engine of the chdb wheel, listening on loopback.

`python -m squeezecore.adapters.supervisor HOME PORT GRACE_S` detaches itself and serves until no client has held a lease
for GRACE_S seconds, or until SIGTERM. It knows nothing of tables; `embedded` starts it and clients only speak HTTP to it.

The engine is reached through a private module whose first and only query must be the one below, so this process does
nothing else. That query blocks on a FIFO; a line written to it is the orderly end. SIGKILL is safe for the data.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

MEMORY_BYTES_MAX = 2_000_000_000  # of the whole server; a query beyond it fails with code 241 and the server goes on
MARK_CACHE_BYTES_MAX = 67_108_864
WATCH_S = 0.1  # how often leases are looked at
START_S_MAX = 60.0
LOCK_S_MAX = 1.0
STOP_S_MAX = 30.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

EXIT_DONE = 0
EXIT_ENGINE_FAILED = 1  # its reason is in the log
EXIT_STOP_HUNG = 2
EXIT_ALREADY_RUNNING = 3

CONFIG = f"""<clickhouse>
<http_port>{{port}}</http_port><listen_host>127.0.0.1</listen_host>
<max_server_memory_usage>{MEMORY_BYTES_MAX}</max_server_memory_usage>
<mark_cache_size>{MARK_CACHE_BYTES_MAX}</mark_cache_size><uncompressed_cache_size>0</uncompressed_cache_size>
</clickhouse>
"""


def try_lock(path: Path) -> int | None:
    """Take the exclusive lock of a file; return its descriptor, or None when another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def leases(run: Path) -> Iterator[Path]:
    """Yield the lease files that a living client holds."""
    for path in (run / "leases").glob("*.lock"):
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue  # its client left this very moment
        try:
            held = is_held(descriptor)
        finally:
            os.close(descriptor)
        if held:
            yield path


def is_held(descriptor: int) -> bool:
    """Say whether somebody else holds a file's exclusive lock; askers do not disturb each other."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def answers(port: int, timeout_s: float = 2.0) -> bool:
    """Ask the server on a loopback port whether it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().read() == b"Ok.\n"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> None:
    """Serve the home directory named on the command line."""
    home, port, grace_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    # The lock is taken before the fork: it belongs to the open file, so there is no moment at which nobody holds it.
    deadline = time.monotonic() + LOCK_S_MAX
    while try_lock(home / "run" / "server.lock") is None:  # somebody who just asks holds it for a moment only
        if time.monotonic() > deadline:
            sys.exit(EXIT_ALREADY_RUNNING)
        time.sleep(0.01)
    if os.fork():
        os._exit(EXIT_DONE)  # the starter waits for this process only; the server below is nobody's child
    serve(home, port, grace_s)


def serve(home: Path, port: int, grace_s: float) -> None:
    """Run the engine until it is no longer wanted, then end the process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # first, so that the engine's threads inherit it
    run = home / "run"
    (run / "config.xml").write_text(CONFIG.format(port=port))
    fifo = run / "stop"
    fifo.unlink(missing_ok=True)
    os.mkfifo(fifo, 0o600)
    os.chdir(run)  # the engine reads ./config.xml
    pipe = os.open(fifo, os.O_RDWR)  # does not block, and the reader never sees an end of file
    stopping = threading.Event()
    threading.Thread(target=_engine, args=(home / "data", stopping), daemon=True).start()

    def asked(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit

    for number in STOP_SIGNALS:
        signal.signal(number, asked)
    start_lock: int | None = None
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # from here on they reach the main thread only
        if _announce(run, port):
            start_lock = _watch(run, port, grace_s)
    except SystemExit:
        pass
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    stopping.set()
    with contextlib.suppress(OSError):
        (run / "server.json").unlink(missing_ok=True)
    os.write(pipe, b"stop\n")  # the blocked SELECT returns and `_engine` ends the process; `pipe` stays open on purpose
    threading.Event().wait(STOP_S_MAX)
    del start_lock  # held until here
    os._exit(EXIT_STOP_HUNG)


def _engine(data: Path, stopping: threading.Event) -> None:
    """Open the engine and block in its first and only query."""
    try:
        # Imported after the signal mask and the change of directory; typed as Any, because the module is private.
        _chdb: Any = importlib.import_module("chdb._chdb")
        _chdb.set_signal_handlers_enabled(0)
        _chdb.query(
            "SYSTEM START LISTEN HTTP; SELECT * FROM file('stop', LineAsString, 's String') LIMIT 1 "
            "SETTINGS input_format_parallel_parsing = 0 FORMAT Null",
            "TabSeparated",
            path=str(data),
        )
    except BaseException as error:  # noqa: BLE001 - whatever it was, the process must not live on without its engine
        print(f"the engine failed: {error}", file=sys.stderr, flush=True)  # noqa: T201 - stderr is the log file
        os._exit(EXIT_ENGINE_FAILED)
    os._exit(EXIT_DONE if stopping.is_set() else EXIT_ENGINE_FAILED)


def _announce(run: Path, port: int) -> bool:
    """Wait until the engine answers, then write `server.json`; False when it does not."""
    deadline = time.monotonic() + START_S_MAX
    while not answers(port):
        if time.monotonic() > deadline:
            print(f"the engine did not answer on port {port} within {START_S_MAX:.0f} s", file=sys.stderr, flush=True)  # noqa: T201
            return False
        time.sleep(0.01)
    _write_json(run, port)
    return True


def _write_json(run: Path, port: int) -> None:
    """Write `server.json` unless it stands there already."""
    text = json.dumps({"port": port, "pid": os.getpid()})
    path = run / "server.json"
    with contextlib.suppress(OSError, ValueError):
        if path.read_text() == text:
            return
    temporary = run / "server.json.new"
    temporary.write_text(text)
    temporary.replace(path)


def _watch(run: Path, port: int, grace_s: float) -> int:
    """Return, holding the start lock, once no lease has been held for `grace_s` seconds.

    The start lock keeps a newcomer from joining a server that is about to go; it ends with the process.
    """
    seen = time.monotonic()
    while True:
        with contextlib.suppress(OSError):  # a full disk is no reason to end
            _write_json(run, port)  # somebody may have deleted or damaged it
        if next(leases(run), None) is not None:
            seen = time.monotonic()
        elif time.monotonic() - seen >= grace_s:
            start_lock = try_lock(run / "start.lock")
            if start_lock is not None:
                if next(leases(run), None) is None:
                    for stale in (run / "leases").glob("*.lock"):  # of clients that were killed
                        stale.unlink(missing_ok=True)
                    return start_lock
                os.close(start_lock)
        time.sleep(WATCH_S)


if __name__ == "__main__":
    main()
