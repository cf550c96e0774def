"""Desk and account in lockstep over stored rows, in any order of what could come first, with cuts: what a backtest must equal."""

from __future__ import annotations

import datetime as dt
import functools
import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from squeezecore import backtest, squeeze, tape
from squeezecore.desk import Desk, signal_of
from squeezecore.fold import DayResult, Fold
from squeezecore.market import DAY_S, FundingSeries, Instrument, Rows, concat, cut
from squeezecore.settling import Settling
from squeezecore.simulator import WorldSpec, asset_config, simulate_day
from squeezecore.simulator import instruments as simulator_instruments
from squeezecore.spec import BacktestSpec, canonical, day_start_s
from squeezecore.squeeze import Features, params_from
from squeezecore.trading import USD_E8
from squeezecore.wire import Clock, Decided, FundingFact, RowBatch, decode, encode, subject
from support.backtest_worlds import World

SIMULATED = dt.date(2026, 1, 6)


def batches_of(rows: Mapping[str, Rows]) -> list[RowBatch]:
    """Make the messages that bring these rows: one a second, its assets sorted."""
    names = sorted(rows)
    whole = concat([rows[name] for name in names])
    codes = np.concatenate([np.full(len(rows[name].ts), n) for n, name in enumerate(names)])
    order = np.lexsort((codes, whole.ts))
    ordered, codes = Rows(*(column[order] for column in whole)), codes[order]
    borders = [0, *(np.flatnonzero(np.diff(ordered.ts)) + 1).tolist(), len(codes)]
    return [
        RowBatch(int(ordered.ts[a]), tuple(names[code] for code in codes[a:b]), cut(ordered, a, b))
        for a, b in itertools.pairwise(borders)
    ]


def facts_of(instruments: Mapping[str, Instrument], funding: Mapping[str, FundingSeries]) -> list[FundingFact]:
    return [
        FundingFact(
            venue="binance", feed="linear", instrument=instruments[asset].id, event_ts=int(event), known_at=int(known),
            rate=int(rate), interval_s=int(interval), settled=True,
        )
        for asset, series in funding.items()
        for event, known, rate, interval in zip(*series, strict=True)
    ]  # fmt: skip


class Lockstep:
    """The two state machines, and the messages between them, each on its own way."""

    def __init__(
        self,
        spec: BacktestSpec,
        instruments: Mapping[str, Instrument],
        batches: list[RowBatch],
        facts: list[FundingFact],
        seed: int = 0,
    ) -> None:
        self.spec, self.batches = spec, batches
        self.instruments = {asset: instruments[asset] for asset in spec.assets}
        self.rng = np.random.default_rng(seed)
        self.desk, self.settling = self.new_desk(), self.new_settling()
        for fact in facts:
            self.settling.hear(fact)
        self.to_desk: list[Clock] = []
        self.to_account: list[Any] = []
        self.at = [0, 0]
        self.decisions: list[Any] = []
        self.orders: list[Any] = []
        self.updates: list[Any] = []
        self.fills: list[Any] = []
        self.equity: dict[int, int] = {}

    def new_desk(self) -> Desk:
        return Desk(params_from(self.spec.params), self.instruments, self.spec.costs, self.spec.limits)

    def new_settling(self) -> Settling:
        return Settling(self.instruments, self.spec.costs, self.spec.limits, self.spec.capital_usd * USD_E8)

    def begin(self, ts: int) -> None:
        """Let the desk start after second `ts`."""
        self.desk.begin(ts)
        self.to_account.append(Decided(account="paper", ts=ts))

    def run(self, *, cuts: int = 12, pull: int = 400) -> None:
        """Go on in a random order until nothing moves any more."""
        idle = 0
        while idle < 200:
            moved = [self.desk_takes, self.desk_says, self.account_takes, self.account_goes, self.carry][
                int(self.rng.integers(5))
            ](pull)
            idle = 0 if moved else idle + 1
            if cuts > 0 and self.rng.random() < 0.05:
                cuts -= 1
                self.cut()

    def desk_takes(self, pull: int) -> bool:
        return self._take(0, self.desk, pull)

    def account_takes(self, pull: int) -> bool:
        return self._take(1, self.settling, pull)

    def _take(self, side: int, machine: Any, pull: int) -> bool:
        count = int(self.rng.integers(1, pull))
        again = int(self.rng.integers(0, 3)) if self.at[side] > 3 else 0  # delivered twice
        machine.take(self.batches[self.at[side] - again : self.at[side] + count])
        moved = self.at[side] < len(self.batches)
        self.at[side] = min(len(self.batches), self.at[side] + count)
        return moved

    def desk_says(self, _: int) -> bool:
        moved = False
        while (said := self.desk.decide()) is not None:
            moved = True
            self.decisions += said.decisions
            signals = [signal for signal in map(signal_of, said.decisions) if signal is not None]
            self.to_account += [*signals, *said.orders, Decided(account="paper", ts=said.decided_ts)]
        return moved

    def account_goes(self, _: int) -> bool:
        moved = False
        machine = self.settling
        while True:
            if machine.may_judge:
                for order in machine.judge():
                    machine.submit(order)
            elif machine.next_ts >= 0:
                second = machine.settle()
                self.note(second)
                if second.clock is not None:
                    self.to_desk.append(_carried(second.clock))
            else:
                return moved
            moved = True

    def note(self, second: Any) -> None:
        happened = second.happened
        self.decisions += happened.decisions
        self.orders += happened.orders
        self.updates += happened.updates
        self.fills += happened.fills
        if second.is_point:
            self.equity[second.ts] = second.equity_usd_e8

    def carry(self, _: int) -> bool:
        moved = bool(self.to_desk or self.to_account)
        for clock in self.to_desk:
            self.desk.hear(clock)
        for message in self.to_account:
            self.settling.hear(_carried(message))
        self.to_desk, self.to_account = [], []
        return moved

    def cut(self) -> None:
        """Restart both from snapshots of this moment."""
        kept, happened = (self.desk.to_bytes(), self.settling.to_bytes()), self.settling.account.happened
        self.desk, self.settling = self.new_desk(), self.new_settling()
        self.desk.restore(kept[0])
        self.settling.restore(kept[1])
        self.settling.account.happened = happened
        self.at[1] = sum(batch.ts <= self.settling.settled_ts for batch in self.batches)
        assert (self.desk.to_bytes(), self.settling.to_bytes()) == kept

    def differs(self, days: list[DayResult], start_s: int, end_s: int) -> str:
        """Say what is not as the backtest has it; empty when all is, byte for byte."""
        for name in ("decisions", "orders", "updates", "fills"):
            mine = [one for one in getattr(self, name) if start_s <= _second(one) < end_s]
            theirs = [one for day in days for one in getattr(day, name)]
            if name == "decisions":
                mine.sort(key=lambda decision: (decision.ts, decision.asset))
            for n, (a, b) in enumerate(itertools.zip_longest(mine, theirs)):
                if a is None or b is None or canonical(a) != canonical(b):
                    return f"{name} {n}: {a} is not {b}"
        wanted = {int(ts): int(usd) for day in days for ts, usd in zip(day.equity_ts, day.equity_usd_e8, strict=True)}
        for ts, usd in self.equity.items():
            if start_s <= ts < end_s and wanted.get(ts) != usd:
                return f"equity at {ts}: {usd} is not {wanted.get(ts)}"
        absent = {fill.ts for day in days for fill in day.fills} - set(self.equity)
        return f"equity is missing at {sorted(absent)[:3]}" if absent else ""


def _second(record: Any) -> int:
    return int(getattr(record, "ts", 0) or getattr(record, "decided_ts", 0))


def _carried(message: Any) -> Any:
    """Send a message through its bytes."""
    return decode(subject(message), encode(message))


def cut_features(features: Features, ts: np.ndarray) -> Features:
    """Return what a scan of only these seconds would say, from what it said of the whole day."""
    a, b = (int(n) for n in np.searchsorted(features.ts, (ts[0], ts[-1] + 1)))
    if b - a != len(ts):  # nothing was drawn: silence
        zero = np.zeros(len(ts), np.int64)
        one = np.zeros((1, 3), np.int64)
        return Features(
            ts, zero.astype(np.int16), zero.astype(np.uint32), ts[:1], one.astype(np.float64), ts[:1], one, ts[:1],
            one.astype(np.int16),
        )  # fmt: skip
    columns = {name: getattr(features, name)[a:b] for name in ("ts", "score_milli", "flags")}
    for stamp, name in (("swing_ts", "swings"), ("reset_ts", "reset"), ("part_ts", "parts")):
        stamps = getattr(features, stamp)
        first, last = int(stamps.searchsorted(ts[0], "right")) - 1, int(stamps.searchsorted(ts[-1], "right"))
        columns[stamp] = np.concatenate([ts[:1], stamps[first + 1 : last]])
        columns[name] = getattr(features, name)[first:last]
    return Features(**columns)


def pretend(drawn: World) -> Any:
    """Make a scan that says of a world's rows what was drawn for them; prices of two assets lie far apart."""
    whole = {
        (day_start_s(day) // DAY_S, asset): tape.unpack(scan.tape)
        for day, scans in drawn.scans.items()
        for asset, scan in scans.items()
    }

    def scan(_params: Any, state: Any, rows: Rows) -> tuple[Any, Features]:
        days = rows.ts // DAY_S
        asset = "BTC" if rows.close[0] > 15_000_000 else "ETH"
        blocks = [
            cut_features(whole.get((int(day), asset), squeeze.join([])), rows.ts[days == day])
            for day in np.unique(days)
        ]
        return state, squeeze.join(blocks)

    return scan


def after(drawn: World) -> RowBatch:
    """Make a last second, a day later, by which all see that the rows before it have ended."""
    ts = day_start_s(drawn.spec.end) + 2 * DAY_S
    rows = {asset: cut(rows, 0, 1)._replace(ts=np.array([ts])) for asset, rows in drawn.rows.items()}
    return batches_of(rows)[0]


class Simulated(NamedTuple):
    """Simulated days of some assets, with the warm-up before them."""

    spec: BacktestSpec
    instruments: dict[str, Instrument]
    warmup: dict[str, Rows]
    rows: dict[str, Rows]
    funding: dict[str, FundingSeries]

    @property
    def batches(self) -> list[RowBatch]:
        return batches_of(self.rows)

    def read(self, asset: str, start_s: int, end_s: int) -> Rows:
        whole = concat([self.warmup[asset], self.rows[asset]])
        first, end = np.searchsorted(whole.ts, [start_s, end_s])
        return cut(whole, int(first), int(end))

    def fold(self) -> list[DayResult]:
        """Backtest these days."""
        params, start_s = params_from(self.spec.params), day_start_s(self.spec.start)
        fold = Fold(self.spec, self.instruments, self.funding, "test")
        scans: dict[dt.date, dict[str, backtest.DayScan]] = {day: {} for day in self.spec.days()}
        for asset in self.spec.assets:
            spans = ((day, day_start_s(day)) for day in self.spec.days())
            days = ((day, self.read(asset, begin, begin + DAY_S)) for day, begin in spans)
            warmup = self.read(asset, start_s - self.spec.warmup_s, start_s)
            for scan in backtest.scan_block(params, asset, warmup, days, self.spec.warmup_s):
                scans[scan.day][asset] = scan
        return [fold.add_day(day, scans[day], self.read) for day in self.spec.days()]


@functools.lru_cache(maxsize=2)
def simulated(assets: tuple[str, ...], days: int = 1, seed: int = 21, start: dt.date = SIMULATED) -> Simulated:
    """Simulate a squeeze market."""
    market = WorldSpec(seed=seed, start=start, days=days, assets=assets)
    spec = BacktestSpec(assets=assets, start=start, end=start + dt.timedelta(days - 1))
    listed = {asset: {one.id: one for one in simulator_instruments(asset)} for asset in assets}
    warmup, rows, funding = {}, {}, {}
    for asset in assets:
        made = [simulate_day(market, asset, start + dt.timedelta(n)) for n in range(-2, days)]
        before = concat([day.rows for day in made[:2]])
        warmup[asset] = cut(before, int(before.ts.searchsorted(day_start_s(start) - spec.warmup_s)), len(before.ts))
        rows[asset] = concat([day.rows for day in made[2:]])
        funding[asset] = concat([day.funding for day in made[2:]])
    traded = {asset: listed[asset][asset_config(asset).traded] for asset in assets}
    return Simulated(spec, traded, warmup, rows, funding)
