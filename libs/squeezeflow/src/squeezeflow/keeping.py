"""Keep programs running: start them, start them again when they end, keep what they said, end them in good order.

A program that ends is started again after a pause that doubles, and not more than `STARTS_A_MINUTE` times a minute. One that
ends because a setting is wrong (exit code 2) is not: it would end again. All of them end when we do, even by `kill -9`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

TETHER = Path(__file__).with_name("tether.py")
PAUSE_S_MIN, PAUSE_S_MAX = 0.25, 30.0
HEALTHY_S = 60.0  # who ran so long begins with the short pause again
STARTS_A_MINUTE = 8
STOP_S_MAX = 20.0  # after SIGTERM; a service ends itself after 15
ASK_S_MAX = 3.0
LOG_BYTES_MAX = 5_000_000  # a file; two are kept
LAST_LINES = 20
WRONG_SETTING = 2
REASON = re.compile(r"""\] stopped .* reason=(?:'(.*)'|"(.*)"|(\S+)) service=""")  # a service's last word


@dataclass(frozen=True)
class Program:
    """What is to run, and where it says how it goes."""

    name: str
    words: tuple[str, ...]  # after the interpreter: "-m", "squeeze_cvd"
    settings: Mapping[str, str] = field(default_factory=dict)  # its environment beyond everybody's
    note: Path | None = None  # where it writes {"port": …, "pid": …} once it answers over HTTP
    sign: Path | None = None  # without a note: a file that is there once it is ready
    address: str = ""  # without a note: where it answers


class Log:
    """A program's log file, cut off at `LOG_BYTES_MAX` into one older file; its last lines are remembered."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        self._rest = b""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")

    def write(self, data: bytes) -> None:
        """Add what was said; a full disk loses it, but stops nobody."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-10_000:]
        self.last.extend(text for line in lines[-LAST_LINES:] if (text := line.decode(errors="replace").rstrip()))
        with contextlib.suppress(OSError):
            self._file.write(data)
            self._file.flush()
            if self._file.tell() > LOG_BYTES_MAX:
                self._file.close()
                self.path.replace(self.path.with_suffix(".log.1"))
                self._file = self.path.open("ab")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@dataclass
class Sight:
    """What is known of a program or server now; the board shows it."""

    name: str
    state: str = "STARTING"
    ready: bool = False
    pid: int = 0
    address: str = ""
    lag_s: float | None = None
    rate: float | None = None  # messages a second
    starts: int = 0
    error: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return max(0, self.starts - 1)


class Child:
    """A program that is kept running."""

    def __init__(
        self, program: Program, environment: Callable[[], Mapping[str, str]], log: Log, tell: Callable[[str], None]
    ) -> None:
        self.program = program
        self.sight = Sight(program.name)
        self.log = log
        self._environment = environment
        self._tell = tell
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._starts: deque[float] = deque(maxlen=STARTS_A_MINUTE)
        self._counted: tuple[float, int] | None = None  # when, and messages then

    async def keep(self) -> None:
        """Run the program until `stop`."""
        loop = asyncio.get_running_loop()
        pause_s = PAUSE_S_MIN
        while not self._stopping.is_set():
            began = loop.time()
            code = await self._once(began)
            if self._stopping.is_set():
                break
            sight = self.sight
            sight.ready, sight.lag_s, sight.rate, sight.address = False, None, None, ""
            sight.error = self._why(code)
            if code == WRONG_SETTING:
                sight.state = "REFUSED"
                self._tell(f"{sight.name} refused its settings and is not started again: {sight.error}")
                await self._stopping.wait()
                break
            if loop.time() - began > HEALTHY_S:
                pause_s = PAUSE_S_MIN
            wait_s = pause_s
            if len(self._starts) == STARTS_A_MINUTE:
                wait_s = max(wait_s, self._starts[0] + 60.0 - loop.time())
            sight.state = "RESTARTING"
            why = f": {sight.error}" if code >= 0 else ""
            self._tell(f"{sight.name} ended ({_end(code)}), it is started again in {wait_s:.1f} s{why}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)
        self.sight.state, self.sight.ready, self.sight.rate, self.sight.lag_s = "STOPPED", False, None, None

    async def _once(self, began: float) -> int:
        """Run the program once; return its exit code."""
        self._starts.append(began)
        self._counted = None
        self.sight.state = "STARTING"
        self.log.last.clear()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-S", "-E", str(TETHER), str(os.getpid()), sys.executable, "-P", *self.program.words,
            env={**self._environment(), **self.program.settings},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C at our terminal reaches us only: we end them in order
        )  # fmt: skip
        self.sight.pid = self._process.pid
        self.sight.starts += 1
        if self._stopping.is_set():  # asked meanwhile
            self._signal(signal.SIGTERM)
        assert self._process.stdout is not None
        while data := await self._process.stdout.read(65_536):
            self.log.write(data)
        code = await self._process.wait()
        self.sight.pid = 0
        return code

    def _why(self, code: int) -> str:
        """Return the last line that a program said; of one that was killed, by what."""
        for line in reversed(self.log.last if code >= 0 else ()):
            if not line.startswith(" "):
                reason = REASON.search(line)
                return (reason[reason.lastindex or 0] if reason else line.removeprefix("error: "))[:300]
        return _end(code)

    async def stop(self) -> str:
        """Ask the program to end, and see to it; return how it ended."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return "was not running"
        self.sight.state = "STOPPING"
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_S_MAX)
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await process.wait()
            return f"was killed: it had not ended {STOP_S_MAX:.0f} s after SIGTERM"
        code = process.returncode or 0
        return "stopped" if code in {0, -signal.SIGTERM} else _end(code)

    def restart(self) -> None:
        """Ask the program to end, so that it is started anew."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the program now."""
        self._stopping.set()
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def look(self, http: httpx.AsyncClient) -> None:
        """Ask the program how it goes."""
        sight, note = self.sight, self.program.note
        if sight.pid == 0 or self._stopping.is_set():
            return
        if note is None:
            if self.program.sign is None or self.program.sign.exists():
                sight.state, sight.ready, sight.address, sight.error = "RUNNING", True, self.program.address, ""
            return
        port = _port(note, sight.pid)
        if port is None:
            return
        sight.address = f"http://127.0.0.1:{port}"
        pid = sight.pid
        try:
            status, readyz = await asyncio.gather(
                http.get(f"{sight.address}/v1/status"), http.get(f"{sight.address}/readyz")
            )
            told = status.json()
            reason = "" if readyz.status_code == httpx.codes.OK else str(readyz.json()["detail"])
        except (httpx.HTTPError, ValueError, LookupError) as error:
            if sight.pid == pid:
                sight.state, sight.ready = "SILENT", False
                sight.error = f"no answer on {sight.address} ({type(error).__name__})"
            return
        if sight.pid == pid and not self._stopping.is_set():
            self._note(told, reason)

    def _note(self, told: Mapping[str, Any], reason: str) -> None:
        sight, now = self.sight, asyncio.get_running_loop().time()
        sight.state = str(told.get("state", "RUNNING"))
        sight.ready = not reason
        sight.lag_s = told.get("lag_s")
        sight.error = reason or str(told.get("last_error") or "")
        count = int(told.get("messages") or 0)
        if self._counted is not None and now > self._counted[0]:
            sight.rate = max(0, count - self._counted[1]) / (now - self._counted[0])
        self._counted = now, count


def _port(note: Path, pid: int) -> int | None:
    """Read where a program answers; None while it does not say, or another process said it."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        told = json.loads(note.read_text())
        if told["pid"] == pid:
            return int(told["port"])
    return None


def _end(code: int) -> str:
    """Say how a process ended.

    >>> _end(3), _end(-9)
    ('exit code 3', 'SIGKILL')
    """
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
