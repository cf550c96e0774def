"""Every finished run is a trial, counted by the system: whoever tries often enough finds something by luck.

A trial is a link of a chain: its hash covers the link before it and its own content, and it names the heads of all other
chains that were there when it was written. So chains hang together like branches that are merged again and again, and a
link cannot be taken out, changed or moved without a trace in those after it. docs/adr/0006 says what is found and what not.

A chain belongs to one `Writer`, that is to one piece of one process, and its name is drawn at random. Nobody ever goes on
with somebody else's chain; so any number may write at once, be killed, or send a link twice, and no chain forks.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from squeezecore import statistics
from squeezecore.adapters.store import Store
from squeezecore.adapters.tables import BacktestRun, Trial
from squeezecore.fold import Result
from squeezecore.spec import BacktestSpec, canonical, day_start_s, digest
from squeezecore.trading import USD_E8


class TrialFault(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it was written."""

    run_id: str
    writer: str  # of the chain; empty where a run names a trial that is not there
    sequence: int
    what: str


class TrialLine(msgspec.Struct, frozen=True, kw_only=True):
    """A trial in a list; of a run's several results the newest."""

    run_id: str
    hash: str
    assets: tuple[str, ...]
    first_day: str
    last_day: str
    total_return: float
    sharpe: float | None  # a year
    trades: int


class TrialsRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was tried; and whether the chains hold, if that is asked."""

    verify: bool = False


class TrialsReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was tried, and whether the chains hold."""

    links: int  # everything that was ever written
    chains: int
    heads: tuple[str, ...]  # hashes that no link names yet
    runs_without: int  # finished runs of versions that wrote no trials
    verified: bool  # whether faults were looked for
    faults: tuple[TrialFault, ...]
    trials: tuple[TrialLine, ...]  # one a run, the newest first

    @property
    def intact(self) -> bool:
        """Whether no fault was found."""
        return not self.faults


# --- writing ---


class Writer:
    """One chain. Safe for threads; in a forked process it begins a chain of its own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._process, self.name = os.getpid(), secrets.token_hex(8)
        self._next, self._head, self._generation = 0, "", 0

    def record(self, spec: BacktestSpec, result: Result) -> str:
        """Write a finished run's trial and return its hash; a run whose newest trial has this result has it already."""
        with self._lock:
            before = self._store.trials(result.run_id)
            if before and before[-1].result_hash == result.result_hash:
                return before[-1].hash
            if os.getpid() != self._process:
                self._begin()
            heads = self._store.trial_heads()
            trial = _sealed(
                msgspec.structs.replace(
                    trial_of(spec, result),
                    writer=self.name,
                    sequence=self._next,
                    generation=1 + max([self._generation, *(generation for _, _, generation in heads)]),
                    previous=self._head,
                    seen=tuple(sorted(name for name, writer, _ in heads if writer != self.name)),
                )
            )
            try:
                self._store.insert_trial(trial)
            except BaseException:
                self._begin()  # nobody knows whether it arrived: nothing may be written in its place
                raise
            self._next, self._head, self._generation = trial.sequence + 1, trial.hash, trial.generation
            return trial.hash


def record(store: Store, spec: BacktestSpec, result: Result) -> str:
    """Write one finished run's trial, as a chain of its own; return its hash."""
    return Writer(store).record(spec, result)


def trial_of(spec: BacktestSpec, result: Result) -> Trial:
    """Return what a trial says of a run, not yet a link of any chain."""
    days = spec.days()
    daily = statistics.daily_returns(
        result.equity_ts, result.equity_usd_e8, spec.capital_usd * USD_E8, day_start_s(spec.start), len(days)
    )
    return Trial(
        writer="",
        sequence=0,
        generation=0,
        previous="",
        seen=(),
        run_id=result.run_id,
        result_hash=result.result_hash,
        spec=canonical(spec).decode(),
        first_day=spec.start,
        last_day=spec.end,
        assets=tuple(sorted(spec.assets)),
        daily=tuple(daily.tolist()),
        sharpe=statistics.sharpe(daily),
        total_return=result.summary.total_return,
        trades=result.summary.trades,
        code_version=result.code_version,
    )


def hash_of(trial: Trial) -> str:
    """Hash the link before and all of a link's content."""
    return digest(trial.previous.encode(), canonical(msgspec.structs.replace(trial, hash="")))


def _sealed(trial: Trial) -> Trial:
    return msgspec.structs.replace(trial, hash=hash_of(trial))


# --- verifying ---


def overview(store: Store, request: TrialsRequest) -> TrialsReport:
    """List what was tried; with `verify` read every link, and say what is not as it was written.

    Takes memory for all links, some 10 kB for a year's.
    """
    links = store.trials()
    runs = [run for run in store.runs() if run.state == "done"]
    there = {link.hash: link for link in links}
    named = {name for link in links for name in (link.previous, *link.seen)}
    faults = _faults(links, there, runs) if request.verify else []
    return TrialsReport(
        links=len(links),
        chains=len({link.writer for link in links}),
        heads=tuple(sorted(there.keys() - named)),
        runs_without=sum("trial" not in run.summary for run in runs),
        verified=request.verify,
        faults=tuple(sorted(faults, key=lambda fault: (fault.writer, fault.sequence, fault.run_id, fault.what))),
        trials=tuple(_line(trial) for trial in reversed(newest(links))),
    )


def verify(store: Store) -> TrialsReport:
    """Say what is not as it was written."""
    return overview(store, TrialsRequest(verify=True))


def _faults(links: Sequence[Trial], there: Mapping[str, Trial], runs: Sequence[BacktestRun]) -> list[TrialFault]:
    """Check each chain within, what chains name of each other, and what runs name."""
    by_writer: dict[str, list[Trial]] = defaultdict(list)
    for link in links:
        by_writer[link.writer].append(link)
    within = [fault for chain in by_writer.values() for fault in _faults_of_chain(chain)]
    between = [
        _fault(link, f"it names {name[:12]}, which is not there any more: a link was taken out")
        for link in links
        for name in link.seen
        if name not in there
    ]
    return [*within, *between, *(fault for run in runs for fault in _faults_of_run(run, there))]


def _faults_of_chain(chain: Sequence[Trial]) -> list[TrialFault]:
    """Check a chain's links against their hashes, their numbers and each other."""
    faults = [
        _fault(link, "its content is not what its hash was made of") for link in chain if hash_of(link) != link.hash
    ]
    places: dict[int, list[Trial]] = defaultdict(list)
    for link in chain:
        places[link.sequence].append(link)
    for sequence in range(max(places) + 1):
        found, before = places.get(sequence, []), places.get(sequence - 1, [])
        if not found:
            after = min(place for place in places if place > sequence)
            faults.append(_fault(places[after][0], f"link {sequence} of its chain is missing"))
        if len(found) > 1:
            faults.append(_fault(found[0], f"{len(found)} links stand in its place"))
        hashes = {link.hash for link in before} if sequence else {""}
        faults += [
            _fault(link, "the link before it is not the one it was written after")
            for link in found
            if hashes and link.previous not in hashes
        ]
    return faults


def _faults_of_run(run: BacktestRun, there: Mapping[str, Trial]) -> list[TrialFault]:
    """Check the trial that a run's receipt names."""
    name = run.summary.get("trial")
    if name is None:
        return []
    trial = there.get(name)
    if trial is None:
        what = f"its receipt names trial {name[:12]}, which is not there: it was taken out or changed"
        return [TrialFault(run_id=run.run_id, writer="", sequence=0, what=what)]
    if (trial.run_id, trial.result_hash) != (run.run_id, run.result_hash):
        return [_fault(trial, f"the receipt of run {run.run_id[:12]} names it, with another result")]
    return []


def _fault(link: Trial, what: str) -> TrialFault:
    return TrialFault(run_id=link.run_id, writer=link.writer, sequence=link.sequence, what=what)


def _line(trial: Trial) -> TrialLine:
    return TrialLine(
        run_id=trial.run_id, hash=trial.hash, assets=trial.assets, first_day=str(trial.first_day),
        last_day=str(trial.last_day), total_return=trial.total_return, sharpe=trial.sharpe, trades=trial.trades,
    )  # fmt: skip


# --- counting ---


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What was tried on the same market and time as a spec, itself included once it is finished; oldest first."""

    spec: BacktestSpec
    trials: tuple[Trial, ...]

    @property
    def count(self) -> int:
        """How many trials count."""
        return len(self.trials)

    @property
    def sharpes_day(self) -> NDArray[np.float64]:
        """Sharpe ratio of each trial, per day; those without one are left out."""
        found = [statistics.sharpe(trial.daily, 1.0) for trial in self.trials]
        return np.array([value for value in found if value is not None], np.float64)

    @property
    def matrix(self) -> NDArray[np.float64] | None:
        """Daily returns of the trials over exactly the spec's days, float64 [days, trials]; None with fewer than ten."""
        same = [t for t in self.trials if (t.first_day, t.last_day) == (self.spec.start, self.spec.end)]
        return np.array([t.daily for t in same]).T if len(same) >= statistics.PBO_TRIALS_MIN else None


def trials_for(store: Store, spec: BacktestSpec) -> Tried:
    """Return the trials that a spec's result must be measured against.

    Those on exactly its assets whose range shares a day with its own: each was a try at the same market. Any difference
    in parameters, costs, limits or capital makes another trial. One run counts once, by its newest result; the same spec
    that came to the same days under another version of the code is the same trial.
    """
    trials: dict[tuple[str, tuple[float, ...]], Trial] = {}
    for trial in newest(store.trials(assets=spec.assets)):
        if trial.first_day <= spec.end and trial.last_day >= spec.start:
            trials.setdefault((trial.spec, trial.daily), trial)
    return Tried(spec=spec, trials=tuple(trials.values()))


def newest(links: Iterable[Trial]) -> list[Trial]:
    """Return the newest trial of each run, oldest first."""
    last: dict[str, Trial] = {}
    for link in sorted(links, key=lambda link: (link.generation, link.hash)):
        last.pop(link.run_id, None)
        last[link.run_id] = link
    return list(last.values())
