"""A stored backtest: however its days are shared out, kept and read back, and wherever it is stopped, its result is the same."""

import datetime as dt
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from squeezecore import simulator
from squeezecore.adapters import embedded, runner, scanning
from squeezecore.adapters.operations import Progress, assets, open_store
from squeezecore.adapters.runner import BacktestReport, BacktestRequest
from squeezecore.adapters.store import Store
from squeezecore.errors import SqueezeError
from squeezecore.spec import BacktestSpec
from support.command import days_of
from support.store import random_rows

START = dt.date(2026, 1, 3)
DAYS = 5
ASSETS = ("BTC", "ETH")


class Stored(NamedTuple):
    """A store with a market in it."""

    home: Path
    store: Store

    def run(
        self, spec: BacktestSpec, report: Callable[[Progress], None] = lambda _: None, **how: object
    ) -> BacktestReport:
        request = BacktestRequest(spec=spec, **how)  # type: ignore[arg-type]
        return runner._backtest(functools.partial(open_store, self.home), self.store, request, report)

    def days(self, spec: BacktestSpec) -> dict[tuple[str, str], object]:
        run_id = runner.core.run_id(spec, scanning.code_version())
        return {key: day.timings for key, day in days_of(self.store, run_id).items()}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    home = tmp_path_factory.mktemp("home")
    world = simulator.WorldSpec(seed=21, start=START, days=DAYS, assets=ASSETS)
    with embedded.open_store(home, grace_s=1.0) as store:
        for asset in ASSETS:
            for instrument in simulator.instruments(asset):
                store.put_instrument(instrument)
            for n in range(-2, DAYS):
                made = simulator.simulate_day(world, asset, START + dt.timedelta(n))
                store.insert_rows(asset, made.rows)
                store.insert_funding(assets(store)[asset].traded, made.funding)
        yield Stored(home, store)
    embedded.stop(home)


def spec(cooldown_s: int, names: tuple[str, ...] = ASSETS, warmup_s: int = 28 * 3600) -> BacktestSpec:
    """Make a spec; another cooldown makes another run."""
    end = START + dt.timedelta(DAYS - 1)
    return runner.make_spec(assets=names, start=START, end=end, changes={"cooldown_s": cooldown_s}, warmup_s=warmup_s)


@pytest.fixture(scope="module")
def truth(stored: Stored) -> BacktestReport:
    report = stored.run(spec(300), jobs=1, shards=1, fresh=True)
    assert report.summary.trades > 10
    return report


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("shards", [2, 10])
@pytest.mark.parametrize("held_bytes", [0, 10**9])
def test_processes_shards_and_held_tapes_change_nothing(
    stored: Stored, truth: BacktestReport, monkeypatch: pytest.MonkeyPatch, jobs: int, shards: int, held_bytes: int
) -> None:
    monkeypatch.setattr(runner, "TAPES_BYTES_MAX", held_bytes)
    report = stored.run(spec(300), jobs=jobs, shards=shards, fresh=True)
    assert (report.result_hash, report.summary) == (truth.result_hash, truth.summary)
    assert len(stored.days(spec(300))) == DAYS * len(ASSETS)


@pytest.mark.parametrize("abreast", [1, 4])
def test_rows_that_are_no_longer_remembered_are_read(
    stored: Stored, truth: BacktestReport, monkeypatch: pytest.MonkeyPatch, abreast: int
) -> None:
    monkeypatch.setattr(scanning, "ABREAST", abreast)
    read: list[str] = []
    asked = Store.read_row_columns

    def counted(store: Store, asset: str, start_s: int, end_s: int, columns: tuple[str, ...]) -> object:
        read.append(asset if columns == scanning.FOLD_COLUMNS else "")
        return asked(store, asset, start_s, end_s, columns)

    monkeypatch.setattr(Store, "read_row_columns", counted)
    assert stored.run(spec(300), jobs=1, fresh=True).result_hash == truth.result_hash
    assert ("BTC" in read) == (abreast == 1)


def test_seams_are_repaired_with_tapes_held_and_read_back(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    short = spec(300, ("BTC",), 4 * 3600)
    whole = stored.run(short, jobs=1, shards=1, fresh=True)
    for held_bytes in (0, 10**9):
        monkeypatch.setattr(runner, "TAPES_BYTES_MAX", held_bytes)
        parts = stored.run(short, jobs=1, shards=4, fresh=True)
        assert parts.summary.seams_repaired > 0
        assert parts.result_hash == whole.result_hash


@pytest.mark.parametrize("after", [1, 4, 10])
@pytest.mark.parametrize("jobs", [1, 2])
def test_what_was_scanned_when_a_run_is_stopped_is_not_scanned_again(stored: Stored, after: int, jobs: int) -> None:
    asked = spec(1_000 + 10 * after + jobs)
    seen: list[str] = []

    def stop(progress: Progress) -> None:
        if progress.label.startswith("scan"):
            seen.append(progress.label)
            if len(seen) == after:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored.run(asked, stop, jobs=jobs)
    kept = stored.days(asked)
    assert {f"scan {asset} {day}" for asset, day in kept} >= set(seen)
    resumed = stored.run(asked, jobs=jobs)
    assert not resumed.cached
    days = stored.days(asked)
    assert {key: days[key] for key in kept} == kept
    fresh = stored.run(asked, jobs=1, shards=1, fresh=True)
    assert (fresh.result_hash, fresh.summary) == (resumed.result_hash, resumed.summary)


def test_a_scan_that_somebody_removes_meanwhile_is_missed(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "TAPES_BYTES_MAX", 0)
    asked = spec(2_000)
    run_id = runner.core.run_id(asked, scanning.code_version())

    def remove(progress: Progress) -> None:
        if progress.label.startswith("scan ETH"):
            stored.store.drop_run(run_id)

    with pytest.raises(SqueezeError, match="no longer in the store"):
        stored.run(asked, remove, jobs=2, shards=4)
    assert stored.run(asked, jobs=1).summary.days == DAYS


@given(
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=5),
    a=st.integers(-10, 400),
    length=st.integers(1, 200),
)
def test_remembered_rows_are_the_rows(seed: int, lengths: list[int], a: int, length: int) -> None:
    """What is remembered of consecutive blocks is all of a span or nothing, and the last two blocks are."""
    recent = scanning.Recent()
    made = random_rows(seed, sum(lengths), 0)
    borders = [0, *(int(made.ts[n - 1]) + 1 if n else 0 for n in np.cumsum(lengths))]
    for first_s, end_s in itertools.pairwise(borders):
        recent.add("BTC", first_s, end_s, scanning.rows_between(made, first_s, end_s))
    found = recent.rows("BTC", a, a + length)
    if a >= borders[-3 if len(borders) > 2 else 0] and a + length <= borders[-1]:
        assert found is not None
    if found is not None:
        expected = scanning.fold_rows(scanning.rows_between(made, a, a + length)._asdict())
        for name in scanning.FOLD_COLUMNS:
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert recent.rows("ETH", a, a + length) is None
