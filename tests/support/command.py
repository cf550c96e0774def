"""The command as a person starts it: real processes on a home directory."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from squeezecore.adapters import embedded
from squeezecore.adapters.store import Store
from squeezecore.adapters.tables import BacktestDay

COMMAND = Path(sys.executable).parent / "squeezeflow"
WAIT_S = 180.0  # a machine that does other things too
NOT_A_PERSONS = ("SQUEEZE_HOME", "SQUEEZE_CLICKHOUSE", "PYTHONDONTWRITEBYTECODE")


class Said(NamedTuple):
    """What a command ended with."""

    code: int
    out: str
    err: str


class Market(NamedTuple):
    """A home directory whose server runs as long as the tests do."""

    home: Path
    store: Store

    def start(self, *words: object, extra: Mapping[str, str] | None = None, **options: Any) -> "subprocess.Popen[str]":
        """Start the command in a session of its own, as a terminal does; `extra` adds to its environment."""
        person = {name: value for name, value in os.environ.items() if name not in NOT_A_PERSONS}  # noqa: TID251
        return subprocess.Popen(
            [COMMAND, "--home", self.home, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=person | dict(extra or {}),
            start_new_session=True,
            **options,
        )

    def say(self, *words: object, **options: Any) -> Said:
        """Run the command to its end, whatever that is."""
        process = self.start(*words, **options)
        out, err = process.communicate(timeout=WAIT_S)
        return Said(process.returncode, out, err)

    def do(self, *words: object) -> str:
        """Run a command that has to succeed, and return what it printed."""
        said = self.say(*words)
        assert said.code == 0, said
        return said.out

    def ask(self, *words: object) -> Any:
        """Run a command that has to succeed, and return its JSON."""
        return json.loads(self.do(*words, "--json"))


@contextmanager
def simulated(home: Path, assets: str, days: int, world: str = "squeeze") -> Iterator[Market]:
    """Simulate a market, and hold its server meanwhile."""
    with embedded.open_store(home, grace_s=1.0) as store:
        market = Market(home, store)
        market.do("simulate", "--assets", assets, "--days", days, "--world", world)
        yield market
    embedded.stop(home)


def eventually(condition: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> bool:
    """Wait until a condition holds; False when the process ended before."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if process is not None and process.poll() is not None:
            return False
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.002)
    return True


def days_of(store: Store, run_id: str) -> dict[tuple[str, str], BacktestDay]:
    """Return what a run has scanned so far."""
    days = store.backtest_days(run_id, None, tapes=False)
    return {(day.asset, day.day.isoformat()): day for day in days}


def interrupted(
    market: Market, number: int, days: int, words: Callable[[int], tuple[object, ...]]
) -> tuple[Said, str, tuple[object, ...]]:
    """Send a signal to a backtest once it has kept a day, though not all; return its end, its run and its words.

    A quick machine may finish before we look: then the next one of `words` is tried.
    """
    for attempt in range(10):
        known = {run.run_id for run in market.store.runs()}
        process = market.start(*words(attempt))

        def kept(known: set[str] = known) -> str | None:
            begun = [run.run_id for run in market.store.runs() if run.run_id not in known]
            return begun[0] if begun and days_of(market.store, begun[0]) else None

        if eventually(lambda: kept() is not None, process):
            os.killpg(process.pid, signal.SIGSTOP)
            run_id = kept()
            assert run_id is not None
            unfinished = len(days_of(market.store, run_id)) < days
            if unfinished:
                (os.kill if number == signal.SIGKILL else os.killpg)(process.pid, number)
            os.killpg(process.pid, signal.SIGCONT)
            out, err = process.communicate(timeout=WAIT_S)
            if unfinished:
                return Said(process.returncode, out, err), run_id, words(attempt)
        process.communicate(timeout=WAIT_S)
    raise AssertionError("ten backtests ended before a signal could reach them")


def processes_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Return the living processes of a command's session."""
    found = []
    for each in psutil.process_iter():
        try:
            if os.getsid(each.pid) == process.pid and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
        except (OSError, psutil.Error):
            continue
    return found
