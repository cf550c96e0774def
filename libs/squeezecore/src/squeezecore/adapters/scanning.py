"""The map of a backtest on a laptop: a pool of processes that scan items of days and store what each day said.

A day is stored as soon as it is scanned, so an interrupted run goes on where it was. A worker holds a day and its warm-up
in memory, never more. Ctrl-C is the parent's business: workers ignore it and end when the pool is shut down.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from squeezecore.adapters.pool import context
from squeezecore.adapters.store import Store
from squeezecore.adapters.tables import BacktestDay
from squeezecore.backtest import DayScan, Item, scan_block, warmup_start_s
from squeezecore.errors import SqueezeError
from squeezecore.market import DAY_S
from squeezecore.spec import BacktestSpec, day_start_s
from squeezecore.squeeze import SqueezeParams

POLL_S = 0.05
FACTS = ("seconds", "incomplete", "holes", "first_open", "last_close", "hour_closes")  # what a day's row keeps as JSON
Opener = Callable[[], contextlib.AbstractContextManager[Store]]


def code_version() -> str:
    """Hash the installed core's sources, adapters left out: 32 hex digits that name the code a result came from."""
    digest = hashlib.blake2b(digest_size=16)
    with resources.as_file(resources.files("squeezecore")) as root:
        for path in sorted(Path(root).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            if not name.startswith("adapters/"):
                data = path.read_bytes()
                digest.update(f"{name}\n{len(data)}\n".encode())
                digest.update(data)
    return digest.hexdigest()


def scan_item(store: Store, spec: BacktestSpec, params: SqueezeParams, item: Item) -> Iterator[DayScan]:
    """Read an item's rows day by day and scan them."""
    first = day_start_s(item.first_day)
    warmup = store.read_rows(item.asset, warmup_start_s(item.first_day, spec.warmup_s), first)
    days = ((day, store.read_rows(item.asset, day_start_s(day), day_start_s(day) + DAY_S)) for day in item.days())
    yield from scan_block(params, item.asset, warmup, days, spec.warmup_s)


def keep(store: Store, run_id: str, scan: DayScan, seconds: float) -> None:
    """Store a scanned day; the same day again replaces it."""
    store.insert_backtest_days(
        [
            BacktestDay(
                run_id=run_id,
                asset=scan.asset,
                day=scan.day,
                data_hash=scan.data_hash,
                state_in=scan.state_in,
                state_out=scan.state_out,
                tape=scan.tape,
                facts={name: getattr(scan, name) for name in FACTS},
                timings={"scan_s": round(seconds, 6)},
            )
        ]
    )


def stored(store: Store, run_id: str, day: dt.date | None = None) -> list[DayScan]:
    """Return the scanned days of a run without their tapes, or those of one of its days with them."""
    first, last = (dt.date.min, dt.date.max) if day is None else (day, day)
    days = store.backtest_days(run_id, None, first, last, tapes=day is not None)
    return [
        msgspec.convert(
            {name: getattr(each, name) for name in DayScan.__struct_fields__ if name not in FACTS} | each.facts, DayScan
        )
        for each in days
    ]


def light(scan: DayScan) -> DayScan:
    """Leave the tape out: what seams and progress need, in a kilobyte."""
    return msgspec.structs.replace(scan, tape=b"")


def scan_all(
    opener: Opener,
    store: Store,
    run_id: str,
    spec: BacktestSpec,
    params: SqueezeParams,
    items: list[Item],
    jobs: int,
) -> Iterator[DayScan]:
    """Scan items in `jobs` processes (in this one when that is 1), storing each day and yielding it without its tape."""
    if jobs <= 1 or len(items) <= 1:
        for item in items:
            yield from _scan_and_keep(store, run_id, spec, params, item)
        return
    forking = context()
    news: Any = forking.Queue()
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(min(jobs, len(items)), forking, _start_worker, (opener, news))
    try:
        pending: set[Future[int]] = {pool.submit(_work, run_id, spec, params, item) for item in items}
        expected = received = 0
        while pending or received < expected:
            done, pending = wait(pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
            expected += sum(future.result() for future in done)
            for scan in _drain(news):
                received += 1
                yield scan
    except BrokenProcessPool as error:
        # A worker that was just being started when another died is waited for by the pool, but not ended by it.
        for worker in set(multiprocessing.active_children()).difference(others):
            worker.kill()
        raise SqueezeError(
            "a scanning process was killed from outside (out of memory?); scanned days are kept: run the same command again, "
            "with fewer --jobs if memory was short"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _drain(news: Any) -> Iterator[DayScan]:
    with contextlib.suppress(queue.Empty):
        while True:
            yield msgspec.msgpack.decode(news.get_nowait(), type=DayScan)


def _scan_and_keep(
    store: Store, run_id: str, spec: BacktestSpec, params: SqueezeParams, item: Item
) -> Iterator[DayScan]:
    begun = time.perf_counter()
    for scan in scan_item(store, spec, params, item):
        keep(store, run_id, scan, time.perf_counter() - begun)
        yield light(scan)
        begun = time.perf_counter()


class _Worker:
    """What a worker process holds on to: its own connection, and where its news go."""

    store: Store
    news: Any
    stack: contextlib.ExitStack


def _start_worker(opener: Opener, news: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _Worker.stack = contextlib.ExitStack()
    _Worker.store = _Worker.stack.enter_context(opener())
    _Worker.news = news
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent was killed: nobody would send it work or an end, and its lease keeps the server."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(run_id: str, spec: BacktestSpec, params: SqueezeParams, item: Item) -> int:
    count = 0
    for scan in _scan_and_keep(_Worker.store, run_id, spec, params, item):
        _Worker.news.put(msgspec.msgpack.encode(scan))
        count += 1
    return count
