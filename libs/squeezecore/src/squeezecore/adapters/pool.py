"""Work shared among processes, each forked from one that has everything imported and every kernel loaded.

Starting an interpreter and loading the kernels takes longer than scanning a week. So one server process does it once,
beside whatever the parent does meanwhile (`warm`), and workers are forked from it in milliseconds. It holds no
connection and no thread when it forks.

Each worker has one line to the parent, a socket pair that no third process holds. So whoever dies, however and whenever,
ends the line, and the other side knows: a killed worker is told as such, a killed parent leaves nobody behind.
Ctrl-C is the parent's business: workers ignore it, and end when their line does.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing import connection
from multiprocessing.context import ForkServerContext
from typing import Any, TypeVar

from squeezecore.errors import SqueezeError

PRELOAD = "squeezecore.adapters.preload"
END_S_MAX = 20.0  # for a worker to bring what it holds into safety; after that it is killed
KILLED = (
    "a worker process was killed from outside (out of memory?): run the same command again, with fewer --jobs if memory "
    "was short"
)
RESULT, DONE, FAILED = range(3)  # what a worker says

Held = TypeVar("Held")
Task = TypeVar("Task")
Result = TypeVar("Result")
Opener = Callable[[], contextlib.AbstractContextManager[Held]]
Work = Callable[[Held, Task], Generator[Result, None, None]]


def context() -> ForkServerContext:
    """Return the context whose processes are forked from the warm one."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload([PRELOAD])
    return made


def warm() -> None:
    """Start the warm process, if it does not run yet, without waiting for it."""
    context()
    ensure: Any = multiprocessing.forkserver.ensure_running
    ensure()


def run_tasks(
    opener: Opener[Held], work: Work[Held, Task, Result], tasks: Sequence[Task], jobs: int, killed: str = KILLED
) -> Generator[Result, None, None]:
    """Do tasks in `jobs` processes and yield their results as they come, those of one task in their order.

        with closing(run_tasks(partial(open_store, home), work, tasks, jobs=2)) as results:
            for result in results: ...

    Close it, as here, where the loop may be left early: workers are told to end, and waited for. With one job, or one
    task, everything happens in this process.

    Args:
        opener: called once in each process; what it holds (a store, say) is given to `work` and closed at the end.
        work: `work(held, task)`, a generator of results. One that is not run to its end is closed, so its `finally` may
            keep what it has not yielded yet. Like `opener`, tasks and results, it must be picklable: a module's function.
        tasks: begun in this order.
        jobs: at most so many processes; never more than there are tasks.
        killed: what to say when a process is killed from outside.

    Raises:
        SqueezeError: `killed`, when a process ended that should not.
        Exception: whatever `opener` or `work` raised, with the traceback of its process as a note.
    """
    if jobs <= 1 or len(tasks) <= 1:
        with opener() as held:
            for task in tasks:
                yield from work(held, task)
        return
    pool = _Pool(opener, work, killed)
    try:
        yield from pool.run(tasks, jobs)
    finally:
        pool.end()


class _Worker:
    """A process as its parent sees it; without a line once it has nothing more to do."""

    def __init__(self, opener: Opener[Any], work: Work[Any, Any, Any]) -> None:
        forking = context()
        does = pickle.dumps((opener, work))  # unpacked where a failure can be told
        self.line, far = forking.Pipe()
        with far:  # only the worker may hold this end: its death must end the line
            self.process = forking.Process(target=_serve, args=(far, does), daemon=True)
            self.process.start()


class _Pool:
    """The workers of one `run_tasks`."""

    def __init__(self, opener: Opener[Any], work: Work[Any, Any, Any], killed: str) -> None:
        self._opener, self._work, self._killed = opener, work, killed
        self._workers: list[_Worker] = []
        self._busy: list[_Worker] = []

    def run(self, tasks: Sequence[Any], jobs: int) -> Iterator[Any]:
        """Keep every worker busy until all is done."""
        waiting = deque(tasks)
        while waiting and len(self._busy) < jobs:
            self._give(self._start(), waiting.popleft())
        while self._busy:
            ready = connection.wait([end for each in self._busy for end in (each.line, each.process.sentinel)])
            for worker in list(self._busy):
                over = worker.process.sentinel in ready  # asked first: what it said before is in its line by now
                if worker.line not in ready and not over:
                    continue
                for kind, value in self._heard(worker):
                    if kind == RESULT:
                        yield value
                    elif kind == FAILED:
                        raise value
                    elif waiting:
                        self._give(worker, waiting.popleft())
                    else:
                        worker.line.close()
                        self._busy.remove(worker)
                if over and worker in self._busy:
                    raise SqueezeError(self._killed)

    def _start(self) -> _Worker:
        try:
            worker = _Worker(self._opener, self._work)
        except (EOFError, ConnectionError) as error:  # it did not live to hear what to do
            raise SqueezeError(self._killed) from error
        self._workers.append(worker)
        self._busy.append(worker)
        return worker

    def _give(self, worker: _Worker, task: Any) -> None:
        with contextlib.suppress(ConnectionError):  # dead: its line, read next, says so
            worker.line.send(task)

    def _heard(self, worker: _Worker) -> Iterator[tuple[int, Any]]:
        """Yield what a worker has said so far; it ends the line itself only by dying."""
        try:
            while not worker.line.closed and worker.line.poll():
                yield worker.line.recv()
        except (EOFError, ConnectionError) as error:
            raise SqueezeError(self._killed) from error

    def end(self) -> None:
        """End the lines, and wait for the workers to bring what they hold into safety."""
        for worker in self._workers:
            worker.line.close()
        try:
            deadline = time.monotonic() + END_S_MAX
            for worker in self._workers:
                worker.process.join(max(0.0, deadline - time.monotonic()))
        finally:  # also when somebody is too impatient for that
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()


# --- in the worker ---


class _UnheardError(Exception):
    """The parent has ended the line."""


def _serve(line: connection.Connection, does: bytes) -> None:
    """Do what comes down the line until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        opener, work = pickle.loads(does)  # from our parent  # noqa: S301
        with opener() as held:
            while True:
                try:
                    task = line.recv()
                except (EOFError, ConnectionError):
                    return
                with contextlib.closing(work(held, task)) as results:
                    for result in results:
                        _say(line, RESULT, result)
                _say(line, DONE, None)
    except _UnheardError:
        return
    except BaseException as error:  # noqa: BLE001 (the parent raises it)
        with contextlib.suppress(_UnheardError):
            _say(line, FAILED, _portable(error))


def _say(line: connection.Connection, kind: int, value: Any) -> None:
    try:
        line.send((kind, value))
    except ConnectionError as error:
        raise _UnheardError from error


def _portable(error: BaseException) -> BaseException:
    """Note where an error arose; one that cannot travel is put into words."""
    error.add_note("".join(traceback.format_exception(error)).rstrip())
    try:
        pickle.loads(pickle.dumps(error))  # some can be packed, but not unpacked  # noqa: S301
    except Exception:  # noqa: BLE001 (whatever a foreign class does here)
        told = SqueezeError(f"{type(error).__name__}: {error}")
        told.__notes__ = error.__notes__
        return told
    return error


def _end_with_parent() -> None:
    """End this process when its parent was killed: nobody would send it work or an end, and its lease keeps the server."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
