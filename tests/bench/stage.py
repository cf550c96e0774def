"""The stage: a home directory with a simulated market, made once, in processes, and thrown away.

Rows and funding are what `squeezeflow simulate` stores; its bars are left out, except of the days that a measurement of bars
needs, because a backtest reads none.
"""

from __future__ import annotations

import datetime as dt
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from squeezecore import simulator
from squeezecore.adapters import embedded
from squeezecore.adapters.operations import assets
from squeezecore.adapters.store import Store

ASSET = "BTC"
START = dt.date(2026, 1, 1)
WARMUP_DAYS = 2  # hold the 28 hours before the first day of every run
CORES = 2


class Stage(NamedTuple):
    """Where the market lies; `store` is this process's lease, so the server stays."""

    home: Path
    store: Store
    quick: bool
    tell: Callable[[str], None]

    @property
    def year_days(self) -> int:
        """How long the longest run is."""
        return 90 if self.quick else 365

    def grow(self, days: int) -> None:
        """Have the rows of this many days after the warm-up's."""
        held = {line.day for line in self.store.asset_coverage(ASSET)}
        wanted = [day for day in days_of(days + WARMUP_DAYS) if day not in held]
        if not wanted:
            return
        prepare(self.store)
        blocks = [wanted[n : n + 8] for n in range(0, len(wanted), 8)]
        done = 0
        with ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn")) as pool:
            futures = [pool.submit(store_days, self.home, block) for block in blocks]
            for future in as_completed(futures):
                done += future.result()
                self.tell(f"simulating {done} of {len(wanted)} days")


def days_of(count: int) -> list[dt.date]:
    """Return the first days of the stage."""
    return [START + dt.timedelta(n) for n in range(count)]


def first_day() -> dt.date:
    """Return the first day that a run may trade in."""
    return START + dt.timedelta(WARMUP_DAYS)


def prepare(store: Store) -> None:
    """Make the asset's instruments known."""
    for instrument in simulator.instruments(ASSET):
        store.put_instrument(instrument)


def store_days(home: Path, days: list[dt.date]) -> int:
    """Simulate and store days; runs in a process of its own."""
    world = simulator.WorldSpec(start=START, days=3_000, assets=(ASSET,))
    with embedded.open_store(home) as store:
        traded = assets(store)[ASSET].traded
        for day in days:
            made = simulator.simulate_day(world, ASSET, day)
            store.insert_funding(traded, made.funding)
            store.insert_rows(ASSET, made.rows)
    return len(days)
