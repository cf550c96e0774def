"""Tasks shared among processes: every result arrives, every way to die is told, nobody is left behind."""

import contextlib
import functools
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from squeezecore.adapters.pool import KILLED, run_tasks
from squeezecore.errors import SqueezeError, UsageError
from support.pool_work import count, dead_on_arrival, endless, folder, large, refused, suicide, wrong


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Callable[[], contextlib.AbstractContextManager[Path]]]:
    """Give what each process holds; afterwards no process may be left."""
    before = set(multiprocessing.active_children())
    yield functools.partial(folder, tmp_path)
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.parametrize("jobs", [1, 2, 3, 30])
def test_every_result_of_every_task_arrives_once_and_in_its_order(held, tmp_path: Path, jobs: int) -> None:
    got = list(run_tasks(held, count, list(range(20)), jobs))
    assert sorted(line[:2] for line in got) == [(task, number) for task in range(20) for number in range(task % 5)]
    for task in range(20):
        assert [number for t, number, _ in got if t == task] == list(range(task % 5))
    processes = {pid for _, _, pid in got}
    assert processes == {os.getpid()} if jobs == 1 else os.getpid() not in processes
    assert len(list(tmp_path.glob("closed-*"))) == min(jobs, 20)
    assert list(run_tasks(held, count, [], jobs)) == []


def test_results_larger_than_a_pipe_holds_arrive_whole(held) -> None:
    got = list(run_tasks(held, large, list(range(4)), 2))
    assert sorted(got) == sorted(bytes([task, n]) * 2_000_000 for task in range(4) for n in range(3))


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_work_raises_is_raised_here_and_says_where_it_arose(held, jobs: int) -> None:
    with pytest.raises(UsageError, match="task was 2") as caught:
        list(run_tasks(held, wrong, [1, 2], jobs))
    if jobs == 2:
        assert "in wrong" in "".join(caught.value.__notes__)


def test_an_error_that_cannot_travel_is_put_into_words(held) -> None:
    with pytest.raises(SqueezeError, match="OddError: 3 and 4"):
        list(run_tasks(held, wrong, [1, 3], 2))


def test_an_opener_that_fails_says_so_itself(held) -> None:
    with pytest.raises(UsageError, match="it must be y"):
        list(run_tasks(refused, count, [1, 2, 3], 2))


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_leaving_early_lets_every_worker_keep_what_it_holds(held, tmp_path: Path, jobs: int) -> None:
    with contextlib.closing(run_tasks(held, endless, [0, 1, 2], jobs)) as results:
        for number in itertools.islice(results, 5):
            assert number >= 0
    assert len(list(tmp_path.glob("kept-*"))) == jobs
    assert len(list(tmp_path.glob("closed-*"))) == jobs


@pytest.mark.parametrize("jobs", [2, 5])
def test_a_worker_that_is_killed_ends_all(held, jobs: int) -> None:
    got = []
    with pytest.raises(SqueezeError, match=r"^two were killed$"):
        got.extend(run_tasks(held, suicide, [*range(10), 7], jobs, killed="two were killed"))
    assert got == [] or set(got) <= set(range(10))


@pytest.mark.parametrize("jobs", [2, 8])
def test_workers_that_die_before_they_have_done_anything_end_all(held, jobs: int) -> None:
    with pytest.raises(SqueezeError) as caught:
        list(run_tasks(dead_on_arrival, count, list(range(10)), jobs))
    assert str(caught.value) == KILLED


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_worker_killed_while_others_are_started_ends_all(held, place: int) -> None:
    """Kill one as soon as it can be seen: starting it, or the next, is under way then."""
    told = threading.Event()

    def killer() -> None:
        while not told.is_set():
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.Error):
                    workers = child.children()
                    if len(workers) > place:
                        workers[place].kill()

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        with pytest.raises(SqueezeError) as caught, contextlib.closing(run_tasks(held, endless, [*range(6)], 6)) as got:
            for _ in got:
                pass
    finally:
        told.set()
        thread.join()
    assert str(caught.value) == KILLED
