"""The map of a backtest on a laptop: items of days are scanned, here or in processes, and what each day said is stored.

Days are stored a few at a time (`Keeper`), because an insert costs the same for one as for ten: every `KEEP_S`, at the
end of an item, and when a run is stopped. So a stopped run goes on where it was, and one that is killed has less than a
second to scan again. A process holds a day and its warm-up in memory, never more; where the fold runs in the same
process, `Recent` holds the last two days' columns for it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import hashlib
import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from squeezecore.adapters.pool import run_tasks
from squeezecore.adapters.store import Store
from squeezecore.adapters.tables import BacktestDay
from squeezecore.backtest import DayScan, Item, scan_block, warmup_start_s
from squeezecore.errors import SqueezeError
from squeezecore.market import DAY_S, Rows, concat, cut
from squeezecore.spec import BacktestSpec, day_start_s
from squeezecore.squeeze import SqueezeParams

KEEP_S = 0.3  # of scanning, that a killed process may lose
KEEP_DAYS = 16  # scanned days stored at once, at most
ABREAST = 4  # assets scanned side by side where the fold runs in the same process, and remembered for it
KILLED = (
    "a scanning process was killed from outside (out of memory?); scanned days are kept: run the same command again, "
    "with fewer --jobs if memory was short"
)
FACTS = ("seconds", "incomplete", "holes", "first_open", "last_close", "hour_closes")  # what a day's row keeps as JSON
FOLD_COLUMNS = ("ts", "open", "high", "low", "close", "buy_qty", "sell_qty", "mark", "spot_delta", "perp_delta")
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


# --- rows ---


class Recent:
    """The rows of each asset that were read last, two blocks of them: what a fold in the same process asks for."""

    def __init__(self) -> None:
        self._blocks: dict[str, list[tuple[int, int, Rows]]] = {}

    def add(self, asset: str, start_s: int, end_s: int, rows: Rows) -> None:
        """Remember the rows that exist in `[start_s, end_s)` and those added before them."""
        before = self._blocks.pop(asset, [])[-1:]
        self._blocks[asset] = [*before, (start_s, end_s, fold_rows(rows._asdict()))]
        while len(self._blocks) > ABREAST:
            del self._blocks[next(iter(self._blocks))]  # the asset that was read longest ago

    def rows(self, asset: str, start_s: int, end_s: int) -> Rows | None:
        """Return the rows that exist in `[start_s, end_s)`; None where they are not remembered."""
        parts, reached_s = [], start_s
        for first_s, last_s, rows in self._blocks.get(asset, ()):
            if first_s <= reached_s < min(last_s, end_s):
                parts.append(rows_between(rows, reached_s, end_s))
                reached_s = last_s
        if reached_s < end_s or not parts:
            return None
        return parts[0] if len(parts) == 1 else concat(parts)


def fold_rows(columns: Mapping[str, NDArray[np.int64]]) -> Rows:
    """Make rows of the columns a fold looks at; the others are zero and take no memory."""
    zero = np.broadcast_to(np.int64(0), len(columns["ts"]))
    return Rows(*(columns[name] if name in FOLD_COLUMNS else zero for name in Rows._fields))


def rows_between(rows: Rows, start_s: int, end_s: int) -> Rows:
    """Return the rows in `[start_s, end_s)`, as views."""
    a, b = np.searchsorted(rows.ts, (start_s, end_s))
    return cut(rows, int(a), int(b))


# --- days scanned ---


def scan_item(
    store: Store, spec: BacktestSpec, params: SqueezeParams, item: Item, recent: Recent | None = None
) -> Iterator[DayScan]:
    """Read an item's rows day by day and scan them; `recent` is to remember the rows."""

    def read(start_s: int, end_s: int) -> Rows:
        rows = store.read_rows(item.asset, start_s, end_s)
        if recent is not None:
            recent.add(item.asset, start_s, end_s, rows)
        return rows

    first_s = day_start_s(item.first_day)
    warmup = read(warmup_start_s(item.first_day, spec.warmup_s), first_s)
    days = ((day, read(day_start_s(day), day_start_s(day) + DAY_S)) for day in item.days())
    yield from scan_block(params, item.asset, warmup, days, spec.warmup_s)


class Keeper:
    """Stores scanned days of a run a few at a time; the same day again replaces."""

    def __init__(self, store: Store, run_id: str) -> None:
        self.store, self.run_id = store, run_id
        self._held: list[BacktestDay] = []
        self._seconds = 0.0

    def add(self, scan: DayScan, seconds: float) -> bool:
        """Take a day that was scanned in so many seconds; tell whether it is time to `flush`."""
        self._seconds += seconds
        self._held.append(
            BacktestDay(
                run_id=self.run_id,
                asset=scan.asset,
                day=scan.day,
                data_hash=scan.data_hash,
                state_in=scan.state_in,
                state_out=scan.state_out,
                tape=scan.tape,
                facts={name: getattr(scan, name) for name in FACTS},
                timings={"scan_s": round(seconds, 6)},
            )
        )
        return self._seconds >= KEEP_S or len(self._held) >= KEEP_DAYS

    def flush(self) -> None:
        """Store what was taken."""
        if self._held:
            self.store.insert_backtest_days(self._held)
        self._held, self._seconds = [], 0.0


def stored(store: Store, run_id: str, span: tuple[dt.date, dt.date] | None = None) -> list[DayScan]:
    """Return the scanned days of a run without their tapes, or those of a span of days, both ends in it, with them."""
    first, last = span or (dt.date.min, dt.date.max)
    days = store.backtest_days(run_id, None, first, last, tapes=span is not None)
    return [
        msgspec.convert(
            {name: getattr(each, name) for name in DayScan.__struct_fields__ if name not in FACTS} | each.facts, DayScan
        )
        for each in days
    ]


def light(scan: DayScan) -> DayScan:
    """Leave the tape out: what seams and progress need, in a kilobyte."""
    return msgspec.structs.replace(scan, tape=b"")


# --- a run's items ---


def scan_all(
    opener: Opener,
    keeper: Keeper,
    recent: Recent,
    spec: BacktestSpec,
    params: SqueezeParams,
    items: Sequence[Item],
    jobs: int,
) -> Generator[DayScan, None, None]:
    """Scan items and store their days, yielding each with its tape.

    With `jobs` processes a day is in the store when it is yielded. In this process (one job, or one item) it is yielded as
    soon as it is scanned, with its rows in `recent`; `keeper` stores it later, at the end whatever ends it.
    """
    store, run_id = keeper.store, keeper.run_id
    if jobs > 1 and len(items) > 1:
        work = functools.partial(_work, run_id, spec, params)
        with contextlib.closing(run_tasks(opener, work, items, jobs, KILLED)) as batches:
            for batch in batches:
                yield from batch
        return
    try:
        for group in _side_by_side(items):
            streams = [_timed(scan_item(store, spec, params, item, recent)) for item in group]
            for scan, seconds in itertools.chain.from_iterable(zip(*streams, strict=True)):
                if keeper.add(scan, seconds):
                    keeper.flush()
                yield scan
            keeper.flush()
    except SqueezeError:
        raise  # it may be the store that fails
    except BaseException:
        keeper.flush()
        raise


def _side_by_side(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Group items of the same days, so that a fold can follow day by day."""
    for _, same in itertools.groupby(items, key=lambda item: (item.first_day, item.n_days)):
        group = list(same)
        for start in range(0, len(group), ABREAST):
            yield group[start : start + ABREAST]


def _work(
    run_id: str, spec: BacktestSpec, params: SqueezeParams, store: Store, item: Item
) -> Generator[list[DayScan], None, None]:
    """Scan an item in a worker process, yielding days once they are stored."""
    keeper = Keeper(store, run_id)
    batch: list[DayScan] = []
    for scan, seconds in _timed(scan_item(store, spec, params, item)):
        batch.append(scan)
        if keeper.add(scan, seconds):
            keeper.flush()
            yield batch
            batch = []
    keeper.flush()
    yield batch


def _timed(scans: Iterable[DayScan]) -> Iterator[tuple[DayScan, float]]:
    """Yield scans with the seconds each took."""
    begun = time.perf_counter()
    for scan in scans:
        yield scan, time.perf_counter() - begun
        begun = time.perf_counter()
