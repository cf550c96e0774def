"""What the tests of the pool hold and do: in a module of their own, because worker processes import it."""

import contextlib
import itertools
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

from squeezecore.errors import UsageError


@contextlib.contextmanager
def folder(path: Path) -> Iterator[Path]:
    """Hold a folder, and note who has let it go."""
    try:
        yield path
    finally:
        (path / f"closed-{os.getpid()}").touch()


def count(_held: Path, task: int) -> Generator[tuple[int, int, int], None, None]:
    for number in range(task % 5):
        yield task, number, os.getpid()


def large(_held: Path, task: int) -> Generator[bytes, None, None]:
    for number in range(3):
        yield bytes([task, number]) * 2_000_000


def endless(held: Path, task: int) -> Generator[int, None, None]:
    """Keep in `finally` what nobody has heard of."""
    number = 0
    try:
        for number in itertools.count():
            yield number
    finally:
        (held / f"kept-{task}").write_text(str(number))


class OddError(Exception):
    """Cannot be unpacked: its arguments are not those of its class."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def wrong(_held: Path, task: int) -> Generator[int, None, None]:
    yield task
    if task == 2:
        raise UsageError("task was 2, allowed are others: give another")
    if task == 3:
        raise OddError(3, 4)


def suicide(_held: Path, task: int) -> Generator[int, None, None]:
    yield task
    if task == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    yield task


@contextlib.contextmanager
def dead_on_arrival() -> Iterator[Path]:
    os.kill(os.getpid(), signal.SIGKILL)
    yield Path()


@contextlib.contextmanager
def refused() -> Iterator[Path]:
    raise UsageError("server was x, it must be y: name another")
    yield Path()
