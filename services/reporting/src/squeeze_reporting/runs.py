"""Backtests by request: one process each, a few at a time, in the order asked; what became of them is in the store.

This holds only what the store cannot know: who waits, how far the running ones are. When the service ends, its runs are
interrupted; asked for again, they go on from the days that are done.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from squeeze_reporting.job import Task
from squeezecore.errors import UsageError
from squeezecore.spec import BacktestSpec

LINE_BYTES_MAX = 16_000_000  # a report with its summary is a few kilobytes
STOP_S_MAX = 10.0
QUEUE_MAX = 100
ENDS = ("done", "failed", "cancelled")
KEPT_MAX = 200  # ended runs whose last words are remembered


class Live(msgspec.Struct, kw_only=True):
    """A run that was asked for here."""

    run_id: str
    spec: BacktestSpec
    state: str = "queued"  # queued | running | done | failed | cancelled
    jobs: int = 0
    shards: int = 0
    fresh: bool = False
    placebos: int = 0
    stage: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    begun_s: float = 0.0  # of the event loop
    stage_s: float = 0.0
    error: str = ""
    exit_code: int = 0
    report: Any = None

    def progress(self, now_s: float) -> dict[str, Any]:
        """Say how far it is, and when the present stage may be over."""
        spent = now_s - self.stage_s
        eta = round(spent / self.done * (self.total - self.done), 1) if 0 < self.done < self.total else None
        return {"stage": self.stage, "done": self.done, "total": self.total, "unit": self.unit, "eta_s": eta}


class Runs:
    """The queue and its processes."""

    def __init__(self, home: Path | None, clickhouse_url: str | None, *, at_once: int, log: Any) -> None:
        self._home, self._url = None if home is None else str(home), clickhouse_url
        self._at_once, self._log = at_once, log
        self.live: dict[str, Live] = {}
        self.ended = dict.fromkeys(ENDS, 0)  # since the start
        self._waiting: deque[str] = deque()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    def ask(
        self,
        run_id: str,
        spec: BacktestSpec,
        *,
        jobs: int = 0,
        shards: int = 0,
        fresh: bool = False,
        placebos: int = 0,
    ) -> Live:
        """Queue a run; one that waits or runs already is that one."""
        known = self.live.get(run_id)
        if known is not None and known.state in ("queued", "running"):
            return known
        if len(self._waiting) >= QUEUE_MAX:
            raise UsageError(f"runs waiting were {len(self._waiting)}, the limit is {QUEUE_MAX}: wait for some to end")
        run = Live(run_id=run_id, spec=spec, jobs=jobs, shards=shards, fresh=fresh, placebos=placebos)
        self.live.pop(run_id, None)
        self.live[run_id] = run
        self._waiting.append(run_id)
        self._forget()
        self._changed.set()
        return run

    async def cancel(self, run_id: str) -> Live | None:
        """Stop a run or take it out of the queue; None where none waits or runs. What was finished is kept."""
        run = self.live.get(run_id)
        if run is None or run.state not in ("queued", "running"):
            return None
        with contextlib.suppress(ValueError):
            self._waiting.remove(run_id)
        run.state, run.error = "cancelled", "cancelled by request; asked for again it goes on where it was"
        task = self._tasks.get(run_id)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        return run

    async def run(self) -> None:
        """Work the queue until cancelled; then interrupt what runs."""
        try:
            while True:
                while self._waiting and len(self._tasks) < self._at_once:
                    run = self.live[self._waiting.popleft()]
                    task = asyncio.create_task(self._work(run))
                    self._tasks[run.run_id] = task
                    task.add_done_callback(self._ended(run.run_id))
                self._changed.clear()
                await self._changed.wait()
        finally:
            for task in self._tasks.values():
                task.cancel()
            if self._tasks:
                await asyncio.wait(set(self._tasks.values()))

    @property
    def running(self) -> int:
        """How many run now."""
        return len(self._tasks)

    @property
    def queued(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def _ended(self, run_id: str) -> Callable[[asyncio.Task[None]], None]:
        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.pop(run_id, None)
            self._changed.set()
            run = self.live[run_id]
            error = None if task.cancelled() else task.exception()
            if error is not None:
                run.state, run.error = "failed", f"{type(error).__name__}: {error}"
                self._log.error("backtest failed", run_id=run_id, reason=run.error)
            if run.state in ENDS:
                self.ended[run.state] += 1

        return ended

    def _forget(self) -> None:
        over = [name for name, run in self.live.items() if run.state not in ("queued", "running")]
        for name in over[: max(0, len(over) - KEPT_MAX)]:
            del self.live[name]

    async def _work(self, run: Live) -> None:
        loop = asyncio.get_running_loop()
        run.state, run.begun_s, run.stage_s = "running", loop.time(), loop.time()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "squeeze_reporting.job",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX, start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        last = asyncio.create_task(_tail(process.stderr))
        try:
            task = Task(
                home=self._home, clickhouse_url=self._url, spec=run.spec, jobs=run.jobs, shards=run.shards,
                fresh=run.fresh, placebos=run.placebos,
            )  # fmt: skip
            process.stdin.write(msgspec.json.encode(task) + b"\n")
            await process.stdin.drain()
            async for line in process.stdout:
                self._hear(run, msgspec.json.decode(line), loop.time())
            code = await process.wait()
            if run.state == "running":
                run.state, run.exit_code = "failed", code
                run.error = f"its process ended with {code}: {await last}"
        finally:
            last.cancel()
            await _stop(process)
            self._log.info("backtest ended", run_id=run.run_id, state=run.state)

    def _hear(self, run: Live, said: dict[str, Any], now_s: float) -> None:
        if "report" in said:
            run.state, run.report = "done", said["report"]
        elif "error" in said:
            run.state, run.error, run.exit_code = "failed", said["error"], said["exit_code"]
        else:
            if said["label"] != run.stage:
                run.stage_s = now_s
            run.stage, run.done, run.total, run.unit = said["label"], said["done"], said["total"], said["unit"]


async def _tail(stream: asyncio.StreamReader) -> str:
    """Read all, keep the end."""
    kept: deque[bytes] = deque(maxlen=5)
    async for line in stream:
        kept.append(line)
    return b"".join(kept).decode(errors="replace").strip()


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Ask a process to end by closing its stdin; end it when it does not."""
    if process.returncode is not None:
        return
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(STOP_S_MAX):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
