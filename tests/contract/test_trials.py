"""Trials are counted once, by whoever writes them, whatever dies; and what was done to them afterwards is found."""

import datetime as dt
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from squeezecore.adapters import trials
from squeezecore.adapters.store import Store
from squeezecore.adapters.tables import BacktestRun, PlaceboRun, Trial
from squeezecore.spec import BacktestSpec, canonical
from support.trial_work import DAY, result_of, spec_of, write, write_in_process


def faults(store: Store) -> list[str]:
    return [fault.what for fault in trials.verify(store).faults]


def drop(store: Store, link: Trial) -> None:
    store.delete("trials", "hash = {hash:String}", {"hash": link.hash})


def put_instead(store: Store, link: Trial, **changes: Any) -> None:
    """Change a link behind the system's back."""
    drop(store, link)
    store.insert_trial(msgspec.structs.replace(link, **changes))


# --- counting ---


def test_a_trial_says_what_the_run_was_and_came_to(store: Store) -> None:
    spec = spec_of(assets=("ETH", "BTC"))
    result = result_of(spec, 7)
    name = trials.record(store, spec, result)
    (trial,) = store.trials()
    assert (trial.hash, trials.hash_of(trial)) == (name, name)
    assert (trial.run_id, trial.result_hash, trial.code_version) == (result.run_id, result.result_hash, "code")
    assert (trial.assets, trial.first_day, trial.last_day) == (("BTC", "ETH"), spec.start, spec.end)
    assert msgspec.json.decode(trial.spec, type=BacktestSpec) == spec
    grown = np.prod(1 + np.array(trial.daily)) - 1
    assert len(trial.daily) == 3
    assert grown == pytest.approx(result.summary.total_return)
    assert trial.sharpe == pytest.approx(np.mean(trial.daily) / np.std(trial.daily, ddof=1) * np.sqrt(365))


def test_a_run_counts_once_however_often_it_is_written(store: Store) -> None:
    spec = spec_of()
    names = {trials.record(store, spec, result_of(spec)) for _ in range(3)}
    assert len(names) == 1
    assert len(store.trials()) == 1
    assert trials.trials_for(store, spec).count == 1


def test_a_run_of_other_data_is_a_new_trial_in_place_of_the_old(store: Store) -> None:
    spec = spec_of()
    first, second = result_of(spec, 1), result_of(spec, 2)
    names = [trials.record(store, spec, result) for result in (first, second, second, first)]
    assert names[1] == names[2]
    assert len(set(names)) == 3  # the data came back: that is the newest again
    (counted,) = trials.trials_for(store, spec).trials
    assert (counted.hash, counted.result_hash) == (names[3], first.result_hash)
    assert faults(store) == []


def test_trials_count_where_they_share_assets_and_a_day(store: Store) -> None:
    mine = spec_of()
    others = {
        "the day before": spec_of(first=DAY - dt.timedelta(3)),
        "its last day": spec_of(1, first=DAY + dt.timedelta(2), days=5),
        "the day after": spec_of(2, first=DAY + dt.timedelta(3)),
        "another asset": spec_of(3, assets=("ETH",)),
        "an asset more": spec_of(4, assets=("BTC", "ETH")),
        "other capital": spec_of(5),
    }
    by_hash = {trials.record(store, spec, result_of(spec)): name for name, spec in others.items()}
    by_hash[trials.record(store, mine, result_of(mine))] = "itself"
    found = trials.trials_for(store, mine)
    assert {by_hash[trial.hash] for trial in found.trials} == {"its last day", "other capital", "itself"}
    assert len(found.sharpes_day) == 3


def test_the_same_days_under_other_code_are_the_same_trial(store: Store) -> None:
    spec = spec_of()
    for code, data in (("code", 0), ("newer", 0), ("newest", 1)):
        trials.record(store, spec, result_of(spec, data, code))
    assert trials.trials_for(store, spec).count == 2


def test_ten_trials_of_one_range_make_a_matrix(store: Store) -> None:
    write(store, 9)
    longer = spec_of(50, days=4)
    trials.record(store, longer, result_of(longer))
    assert trials.trials_for(store, spec_of()).matrix is None
    write(store, 1, first=9)
    matrix = trials.trials_for(store, spec_of()).matrix
    assert matrix is not None
    assert matrix.shape == (3, 10)
    np.testing.assert_array_equal(matrix[:, 4], store.trials()[4].daily)


# --- chains ---


def test_chains_of_several_writers_hang_together(store: Store) -> None:
    links = [*write(store, 2), *write(store, 2, first=2)]
    assert [link.sequence for link in links] == [0, 1, 0, 1]
    assert [link.generation for link in links] == [1, 2, 3, 4]
    assert [link.previous for link in links] == ["", links[0].hash, "", links[2].hash]
    assert [link.seen for link in links] == [(), (), (links[1].hash,), ()]
    found = trials.verify(store)
    assert found.intact
    assert (found.links, found.chains, found.heads) == (4, 2, (links[3].hash,))
    assert [line.run_id for line in found.trials] == [link.run_id for link in reversed(links)]


def test_an_empty_store_has_nothing_to_find_fault_with(store: Store) -> None:
    found = trials.verify(store)
    assert (found.intact, found.links, found.heads, found.trials) == (True, 0, (), ())


CHANGES = {
    "daily": (0.5, 0.5, 0.5), "sharpe": 9.0, "total_return": 1.0, "trades": 10**6, "run_id": "0" * 32, "spec": "{}",
    "result_hash": "0" * 32, "first_day": dt.date(2020, 1, 1), "assets": ("ETH",), "code_version": "0", "generation": 99,
    "seen": ("0" * 32,), "previous": "1" * 32, "writer": "f" * 16, "sequence": 3,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CHANGES))
@pytest.mark.parametrize("sealed", [False, True])
def test_a_changed_link_is_found_even_with_a_new_hash(store: Store, name: str, sealed: bool) -> None:
    link = write(store, 3)[1]
    changes = {name: CHANGES[name]}
    if sealed:
        changes["hash"] = trials.hash_of(msgspec.structs.replace(link, **changes))
    put_instead(store, link, **changes)
    assert faults(store)


@settings(deadline=None, max_examples=12, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_removed_link_is_found_unless_nobody_saw_it(store: Store, data: st.DataObject) -> None:
    store.command("TRUNCATE TABLE trials")
    for number in range(3):
        write(store, 2, first=2 * number)
    links = store.trials()
    gone = data.draw(st.sets(st.integers(0, len(links) - 1), min_size=1))
    for number in gone:
        drop(store, links[number])
    # Only a tail can go unseen, and what goes last is named by receipts: see the next test.
    last_left = max(set(range(len(links))) - gone, default=-1)
    assert bool(faults(store)) == any(number < last_left for number in gone)


def test_a_whole_chain_that_was_taken_out_is_missed_by_those_after_it(store: Store) -> None:
    for link in [write(store, 2), write(store, 2, first=2)][0]:
        drop(store, link)
    assert any("which is not there any more" in what for what in faults(store))


def test_the_last_link_is_missed_by_the_receipt_of_its_run(store: Store) -> None:
    spec = spec_of()
    result = result_of(spec)
    name = trials.record(store, spec, result)
    run = BacktestRun(
        run_id=result.run_id, spec=canonical(spec).decode(), code_version="code", state="done",
        result_hash=result.result_hash, summary={"trial": name},
    )  # fmt: skip
    store.put_run(run)
    assert faults(store) == []
    (link,) = store.trials()
    drop(store, link)
    (what,) = faults(store)
    assert what.startswith(f"its receipt names trial {name[:12]}, which is not there")
    put_instead(store, link, result_hash="0" * 32)
    assert any("with another result" in what for what in faults(store))


def test_links_that_changed_places_are_found(store: Store) -> None:
    _, second, third, _ = write(store, 4)
    put_instead(store, second, sequence=2)
    put_instead(store, third, sequence=1)
    assert len(faults(store)) >= 2


def test_a_second_link_in_one_place_stands_beside_the_first(store: Store) -> None:
    link = write(store, 2)[1]
    forged = msgspec.structs.replace(link, total_return=99.0, hash="")
    store.insert_trial(msgspec.structs.replace(forged, hash=trials.hash_of(forged)))
    assert len(store.trials()) == 3
    assert "2 links stand in its place" in faults(store)


def test_a_link_sent_twice_is_one(store: Store) -> None:
    for link in write(store, 2):
        store.insert_trial(link)
    assert len(store.trials()) == 2
    assert faults(store) == []


def test_after_an_error_a_writer_begins_another_chain(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, real = trials.Writer(store), store.insert_trial

    def arrives_but_nobody_knows(trial: Trial) -> None:
        real(trial)
        raise ConnectionError("cut")

    first, second = spec_of(1), spec_of(2)
    with monkeypatch.context() as broken:
        broken.setattr(store, "insert_trial", arrives_but_nobody_knows)
        with pytest.raises(ConnectionError):
            writer.record(first, result_of(first))
    writer.record(second, result_of(second))
    found = trials.verify(store)
    assert (found.intact, found.links, found.chains) == (True, 2, 2)


# --- processes ---


def _start(store_home: Path, store: Store, firsts: list[int], count: int) -> tuple[list[Any], Callable[[], None]]:
    spawning = multiprocessing.get_context("spawn")
    ready, go = spawning.Semaphore(0), spawning.Event()
    started = [
        spawning.Process(target=write_in_process, args=(store_home, store.database, first, count, ready, go))
        for first in firsts
    ]
    for process in started:
        process.start()
    for _ in started:
        assert ready.acquire(timeout=120)
    return started, go.set


def test_writers_in_two_processes_leave_whole_chains(store_home: Path, store: Store) -> None:
    processes, go = _start(store_home, store, [0, 100], 12)
    go()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    found = trials.verify(store)
    assert (found.intact, found.links, found.chains, len(found.trials)) == (True, 24, 2, 24)


def test_a_writer_killed_in_the_middle_leaves_a_whole_chain(store_home: Path, store: Store) -> None:
    (process,), go = _start(store_home, store, [0], 10_000)
    go()
    while len(store.trials()) < 4:
        assert process.is_alive()
    os.kill(process.pid, signal.SIGKILL)
    process.join(120)
    write(store, 2, first=20_000)
    found = trials.verify(store)
    assert found.intact
    assert found.links >= 6
    assert found.chains == 2


# --- parts and placebos of a run ---


def test_parts_and_placebos_are_those_of_one_result(store: Store) -> None:
    seeds = [
        PlaceboRun(name="shuffled", seed=seed, total_return=seed / 3, trades=seed, sharpe=None if seed else 1.5)
        for seed in range(3)
    ]
    store.put_part("run", "costs", "one", b"\x00\xffbody", version=2)
    store.insert_placebos("run", "one", seeds)
    store.insert_placebos("run", "one", seeds[:1])
    assert store.part("run", "costs", "one", version=2) == b"\x00\xffbody"
    assert store.part("run", "costs", "one") is None
    assert store.part("run", "costs", "two", version=2) is None
    assert store.placebos("run", "one", "shuffled") == seeds
    assert store.placebos("run", "two", "shuffled") == store.placebos("run", "one", "random") == []
    store.drop_run("run")
    assert store.part("run", "costs", "one", version=2) is None
    assert store.placebos("run", "one", "shuffled") == []


def test_a_forgotten_run_was_tried_all_the_same(store: Store) -> None:
    (link,) = write(store, 1)
    store.drop_run(link.run_id)
    assert store.trials() == [link]
