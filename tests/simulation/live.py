"""The whole live loop in one process, from one seed: venue, bus, store and five services' loops in virtual time, with faults.

The market is a simulated exchange's, frame by frame; every service runs its real loop. Whatever the seed does to them, in
the end the tables must hold the truth, and the account must have done what the backtest does over the rows that live saw.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from squeeze_cvd.running import Cvd
from squeeze_executor.trading import Executor
from squeeze_ingest import feed as feed_module
from squeeze_ingest.app import Ingest
from squeeze_ingest.app import Settings as IngestSettings
from squeeze_ingest.fleet import Fleet
from squeeze_ingest.recorder import Recorder
from squeeze_openinterest.desk import Params
from squeeze_openinterest.polling import Past
from squeeze_openinterest.watching import Poller
from squeeze_strategy.deciding import Strategy
from squeezecore import desk, flow, squeeze
from squeezecore.adapters import parity_trading
from squeezecore.adapters.accounts import Plan, plan_key
from squeezecore.adapters.asking import Answer, AskError, Places
from squeezecore.adapters.bus import BusError, Fenced
from squeezecore.adapters.loopback import source_of
from squeezecore.adapters.loopback_source import Query
from squeezecore.adapters.membus import MemServer
from squeezecore.adapters.parity_trading import Life, Lived, batches_of, rows_as_seen
from squeezecore.adapters.service import Kit
from squeezecore.adapters.store import StoreError
from squeezecore.adapters.tradestore import Standing
from squeezecore.desk import Desk, signal_of
from squeezecore.fold import Fold
from squeezecore.market import DAY_S, Bars, IdKind, MarkSeries, Rows, cut
from squeezecore.settling import Settling
from squeezecore.spec import AssetConfig, BacktestSpec, MarketConfig, canonical
from squeezecore.squeeze import Features, params_from
from squeezecore.trading import USD_E8
from squeezecore.venues import Feed as Stream
from squeezecore.wire import Clock, Decided, FundingFact, RowBatch, Sending
from support import trading_stage, virtual
from support.backtest_worlds import scan_of
from support.feeding import LINEAR, SPOT, Exchange, Faults
from support.flow_stage import Blown, Fuse
from support.memory_store import MemoryKeep, MemoryStore, facts_of
from support.trading_worlds import cut_features
from support.virtual import VirtualClock, VirtualLoop

NS = 10**9
ASSET = "BTC"
CONFIG = AssetConfig(
    traded=LINEAR, markets=(MarketConfig(instrument=SPOT, weight_ppm=1_000_000), MarketConfig(instrument=LINEAR))
)
STARTS = (  # noon; funding in the middle; midnight in the middle
    1_767_268_800,
    1_767_283_200 - 25,
    1_767_312_000 - 25,
)
TROUBLE_S = 40  # the seed does what it likes
AFTER_S = 120.0  # then all must come to rest within so long
CAPITAL_USD = 50_000
PARAMS = {"cooldown_s": 0, "cost_multiple": 0.0, "reversal_min_hold_s": 0}
SERVICES = ("ingest", "openinterest", "cvd", "strategy", "executor")
GONE = "died of something else than the schedule"


class Quiet:
    """A log that nobody reads."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_args, **_values: None


@functools.cache
def market() -> Any:
    """Return the simulated market that all schedules share."""
    return source_of("sim:7", (ASSET,))


# --- what the kernel says: drawn, so that there is something to trade ---


def drawn(seed: int, bars: Bars) -> Features:
    """Draw what a scan would say of these seconds: entries and exits within half a minute."""
    rng = np.random.default_rng((seed, 7))
    n = len(bars.ts)

    def runs(share: float, mean_s: int) -> np.ndarray:
        return np.convolve(rng.random(n) < share / mean_s, np.ones(mean_s))[:n] > 0

    flags = np.full(n, squeeze.F_WARM | squeeze.F_QUALITY | squeeze.F_OI_CONFIRMS | squeeze.F_SIGNAL, np.uint32)
    flags |= np.where(runs(0.8, 60), squeeze.F_LONG, squeeze.F_SHORT).astype(np.uint32)
    for bit in (squeeze.F_BOTH_AGAINST_LONG, squeeze.F_BOTH_AGAINST_SHORT):
        flags |= np.where(runs(0.15, 4), bit, 0).astype(np.uint32)
    flags |= np.where(rng.random(n) < 0.05, squeeze.F_RECORD, 0).astype(np.uint32)
    score = np.where(runs(0.8, 12), rng.integers(4_000, 7_000, n), 0).astype(np.int16)
    stamps = bars.ts[::20].copy()
    k = len(stamps)
    swings = np.stack([rng.uniform(0, 2e7, k), rng.uniform(0, 6e7, k), rng.uniform(0.001, 0.006, k)], axis=1)
    width = rng.integers(100_000, 400_000, k)
    close = bars.close[::20]
    reset = np.stack([close - width, close + width, rng.integers(10**5, 10**7, k)], axis=1)
    parts = rng.integers(0, 2_000, (k, 3)).astype(np.int16)
    return Features(bars.ts, score, flags, stamps, swings, stamps, reset, stamps, parts)


def said_of(whole: Features, ts: np.ndarray) -> Features:
    """Return what was drawn for some seconds, holes between them or not."""
    borders = [0, *(np.flatnonzero(np.diff(ts) != 1) + 1).tolist(), len(ts)]
    return squeeze.join([cut_features(whole, ts[a:b]) for a, b in itertools.pairwise(borders) if b > a])


# --- the processes ---


class FusedBus:
    """A bus that ends its process before or after any effect."""

    def __init__(self, bus: Any, fuse: Fuse) -> None:
        self._bus, self._fuse = bus, fuse

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._bus, name)
        if name not in ("publish", "take_lead", "put", "read"):
            return found

        async def burning(*args: Any, **options: Any) -> Any:
            self._fuse.burn(done=False)
            result = await found(*args, **options)
            self._fuse.burn(done=True)
            return result

        return burning

    async def publish_all(self, messages: Sequence[Any]) -> list[Any]:
        return [await self.publish(message) for message in messages]


class Fused:
    """A keep whose writing ends its process before or after, and fails while the store is away."""

    def __init__(self, keep: Any, store: MemoryStore, fuse: Fuse) -> None:
        self._keep, self._memory, self._fuse = keep, store, fuse

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._keep, name)
        if not callable(found):
            return found

        def burning(*args: Any) -> Any:
            self._memory.reach()
            if not name.startswith("put"):
                return found(*args)
            self._fuse.burn(done=False)
            result = found(*args)
            self._fuse.burn(done=True)
            return result

        return burning


class Jittery(Exchange):
    """The venue, and what the seed does to it."""

    async def ask(self, url: str) -> Answer:
        """Answer the poller of open interest."""
        try:
            found = await self.fetch(url)
        except Exception as error:
            raise AskError(str(error)) from error
        return Answer(found.status, found.body, {name.lower(): value for name, value in found.headers.items()})


class _Counts:
    def asked(self, *_: Any) -> None: ...

    def published(self, *_: Any) -> None: ...


class World:
    """Everything that outlives a process, and the processes."""

    def __init__(self, seed: int, clock: VirtualClock, start_s: int, *, calm: bool = False) -> None:
        self.seed, self.clock, self.start_s = seed, clock, start_s
        self.rng = np.random.default_rng((seed, 1))
        self.calm = calm
        self.server = MemServer(clock.now_ns)
        self.store = MemoryStore()
        self.memory = trading_stage.Memory()
        self.exchange = Jittery(market(), clock, Faults(), seed)
        self.venue_orders: dict[str, int] = {}
        self.running: dict[str, Any] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.crashes = dict.fromkeys(SERVICES, 0)
        self.done: dict[str, int] = {}  # what the seed did
        self.trouble = not calm
        self.supervisors: list[asyncio.Task[None]] = []

    # -- one process each ----------------------------------------------------------------------------------------------

    def make(self, what: str, fuse: Fuse) -> Callable[[], Awaitable[None]]:
        """Start a process anew: nothing of it is left but what bus and store hold."""
        bus = FusedBus(self.server.connect(), fuse)
        kit = Kit(what, None, bus, self.store, log=Quiet(), clock=self.clock)  # type: ignore[arg-type]
        made: Any
        if what == "ingest":
            kit = Kit(what, IngestSettings(), bus, self.store, log=Quiet(), clock=self.clock)  # type: ignore[arg-type]
            fleet = Fleet(
                kit, places=Places(None), connect=self.exchange.connect, fetch=self.exchange.fetch,
                stream=Stream.AGGREGATE,
            )  # fmt: skip
            made = Ingest(fleet, Recorder(kit, self.store, "0"), None)  # type: ignore[arg-type]
        elif what == "openinterest":
            made = Poller(
                bus, self.clock, self.exchange.ask, self._past, Params(every_s=5.0, share=1.0), _Counts(), Quiet()  # type: ignore[arg-type]
            )  # fmt: skip
        elif what == "cvd":
            made = Cvd(kit, Fused(MemoryKeep(self.store, "code"), self.store, fuse))  # type: ignore[arg-type]
        elif what == "strategy":
            keep = trading_stage.StrategyKeep(self.memory, Fuse(None))
            made = Strategy(kit, Fused(keep, self.store, fuse), "paper", Plan())  # type: ignore[arg-type]
        else:
            execution = trading_stage.ExecutorKeep(self.memory, Fuse(None))
            made = Executor(
                kit, Fused(execution, self.store, fuse), "paper", Plan(), f"e{sum(self.crashes.values())}",  # type: ignore[arg-type]
                venue_of=lambda paper: trading_stage.CountingVenue(paper, self.venue_orders),
            )  # fmt: skip
        self.running[what] = made
        return made.run  # type: ignore[no-any-return]

    async def _past(self, instrument: str, now_s: int) -> Past:
        return Past(
            self.store.read_open_interest(instrument, now_s - 600, now_s + 1),
            self.store.read_funding(instrument, now_s - 40 * DAY_S, now_s + 60),
        )

    async def keep_running(self, what: str) -> None:
        """Start a service whenever it has ended."""
        while True:
            fuse = Fuse(None)
            if self.trouble and self.rng.random() < 0.5:
                fuse = Fuse(int(self.rng.integers(0, 250)), after=bool(self.rng.random() < 0.5))
            task = self.tasks[what] = asyncio.create_task(self.make(what, fuse)())  # type: ignore[arg-type]
            try:
                await asyncio.wait([task])
            finally:
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._judge(what, task)
            self.crashes[what] += 1
            await asyncio.sleep(self.rng.uniform(0.0, 3.0))

    def _judge(self, what: str, task: asyncio.Task[None]) -> None:
        """Let a process end only of what was done to it."""
        if task.cancelled():
            return
        error = task.exception()
        assert error is not None, f"{what} ended by itself"
        for leaf in _leaves(error):
            away = isinstance(leaf, BusError) and not isinstance(leaf, Fenced) and "bus" in self.done
            if not isinstance(leaf, Blown | StoreError) and not away:
                raise AssertionError(f"{what} {GONE}") from error

    # -- what the seed does --------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Live through trouble, then come to rest."""
        bus, rng = self.server.connect(), self.rng
        await bus.put("config", plan_key("paper"), canonical(Plan(capital_usd=CAPITAL_USD)))
        await bus.put("config", "params", canonical(PARAMS))
        await bus.put("config", "assets", canonical({ASSET: CONFIG}))
        self.supervisors = [asyncio.create_task(self.keep_running(what)) for what in SERVICES]
        try:
            if not self.calm:
                self.exchange.faults = Faults(
                    **{
                        name: float(rng.uniform(0, most)) if rng.random() < 0.5 else 0.0
                        for name, most in (
                            ("lost", 0.03), ("doubled", 0.05), ("swapped", 0.1), ("garbled", 0.02), ("cut_per_s", 0.05),
                            ("refused", 0.3), ("rest_failing", 0.3),
                        )
                    }
                )  # fmt: skip
            end_s = asyncio.get_running_loop().time() + TROUBLE_S
            while (left_s := end_s - asyncio.get_running_loop().time()) > 0:
                await self._pause(min(left_s, float(rng.exponential(6.0))))
                if not self.calm:
                    await self._harm(str(rng.choice(HARMS)))
            self.trouble = False
            self.exchange.faults = Faults()
            await self._come_to_rest()
        finally:
            for task in (*self.supervisors, *self.tasks.values()):
                task.cancel()
            await asyncio.gather(*self.supervisors, *self.tasks.values(), return_exceptions=True)

    async def _pause(self, seconds: float) -> None:
        done, _ = await asyncio.wait(self.supervisors, timeout=seconds)
        for task in done:
            task.result()

    async def _harm(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1
        rng, links = self.rng, self.exchange.open
        link = links[int(rng.integers(0, len(links)))] if links else None
        if what == "cut" and link is not None:
            link.end("the connection broke")
        elif what == "mute" and link is not None:  # half-open: what is sent meanwhile is gone
            link.mute = True
            await self._pause(float(rng.uniform(0.5, 4.0)))
            link.mute = False
        elif what == "stall" and link is not None:  # what is sent meanwhile comes at once
            link.reading = False
            await self._pause(float(rng.uniform(0.5, 4.0)))
            link.reading = True
        elif what == "offline":
            self.exchange.online = False
            for each in links:
                each.end("the connection broke")
            await self._pause(float(rng.uniform(0.5, 14.0)))
            self.exchange.online = True
        elif what == "bus":
            self.server.stop()
            await self._pause(float(rng.uniform(0.2, 6.0)))
            self.server.start()
        elif what == "store":
            self.store.away = True
            await self._pause(float(rng.uniform(0.2, 5.0)))
            self.store.away = False
        elif what in SERVICES and what in self.tasks:
            self.tasks[what].cancel()

    async def _come_to_rest(self) -> None:
        """Wait until nothing is missing, nothing is to be made again, and the account is settled up to now."""
        loop = asyncio.get_running_loop()
        until_s, wanted_s = loop.time() + AFTER_S, self.clock.now_ns() // NS + 5
        while not self._rests(wanted_s):
            assert loop.time() < until_s, f"it never came to rest: {self.state()}"
            await self._pause(0.5)
        await self._pause(2.5)  # records are gathered before they are stored

    def _rests(self, wanted_s: int) -> bool:
        fleet, cvd = self.running["ingest"].fleet, self.running["cvd"]
        executor, strategy = self.running["executor"], self.running["strategy"]
        feeds = list(fleet.feeds.values())
        tapes = [tape for feed in feeds for tape in feed.batcher.tapes.values()]
        return bool(
            len(feeds) == 2
            and all(feed.state == "RUNNING" and feed.restored for feed in feeds)
            and all(tape.proven and not tape.holes for tape in tapes)
            and cvd.state == "RUNNING"
            and not cvd.flow.remakes
            and not any(feed.tears for feed in cvd.flow.feeds.values())
            and min(executor.settling.settled_ts, strategy.desk.decided_ts, cvd.flow.decided_s) > wanted_s
        )

    def state(self) -> dict[str, Any]:
        fleet, cvd, executor = self.running["ingest"].fleet, self.running["cvd"], self.running["executor"]
        return {
            "feeds": [(each.state, each.last_error, each.holes()) for each in fleet.feeds.values()],
            "cvd": (cvd.state, cvd.flow.decided_s, cvd.flow.remakes.keys(), [f.tears for f in cvd.flow.feeds.values()]),
            "executor": executor.status(), "strategy": self.running["strategy"].status(), "done": self.done,
        }  # fmt: skip


HARMS = ("cut", "mute", "stall", "offline", "bus", "store", *SERVICES, *SERVICES)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]


# --- what must hold in the end ---


class Outcome(NamedTuple):
    """What a schedule came to."""

    wrong: str  # empty: everything held
    orders: int
    fills: int
    payments: int
    repaired: int
    crashes: int
    halted: bool  # the account was halted for a while, because its switches could not be read


def run(seed: int, *, calm: bool = False, spoil: Callable[[World], None] = lambda _: None) -> Outcome:
    """Live through one schedule and judge it; `spoil` changes what came of it before."""
    start_s = STARTS[seed % len(STARTS)]
    whole = drawn(seed, truth(start_s - 30, start_s + TROUBLE_S + int(AFTER_S) + 30))
    loop = VirtualLoop()
    world = World(seed, VirtualClock(loop, start_s * NS), start_s, calm=calm)
    found: list[Any] = []

    async def main() -> None:
        await world.live()
        found.extend(await _messages(world))

    def scan(_params: Any, state: Any, rows: Rows) -> tuple[Any, Features]:
        return state, said_of(whole, rows.ts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(desk.squeeze, "scan", scan)
        patch.setattr(feed_module, "WAITING_MAX", 300)
        virtual.run(main(), loop)
        spoil(world)
        return _judged(world, found, whole)


class Stopped(NamedTuple):
    """A clock that stands."""

    ns: int

    def now_ns(self) -> int:
        return self.ns


@functools.lru_cache(maxsize=8)
def truth(start_s: int, end_s: int) -> Bars:
    """Return the traded instrument's seconds as the venue means them."""
    source = market()
    instrument = source.markets["linear", "BTCUSDT"].instrument
    exchange = Exchange(source, Stopped(end_s * NS))  # type: ignore[arg-type]
    found = source.found(source.markets["linear", "BTCUSDT"], True, Query(end_s * NS, 10**6, None, start_s * NS))
    trades = exchange.truth(instrument, int(found.id[0]), int(found.id[-1]))
    params = flow.bar_params(instrument, IdKind.AGGREGATE)
    _, bars, _ = flow.scan_bars(params, flow.bars_initial(start_s), trades, end_s)
    return bars


async def _messages(world: World) -> list[Any]:
    bus = world.server.connect()
    found = []
    for stream, subjects in (("FLOW", "flow.v1.>"), ("TRADE", "trade.v1.>")):
        info = await bus.stream(stream)
        reader = await bus.read(stream, (subjects,), "judge", 0)
        count = len(found) + info.messages
        while len(found) < count:
            found += [each.message for each in await reader.pull(2000, 0.0)]
    return found


def _judged(world: World, messages: Sequence[Any], whole: Features) -> Outcome:
    store, memory = world.store, world.memory
    wrong = [
        _prints_wrong(world),
        _bars_wrong(world),
        _rows_wrong(world, messages),
        _trading_wrong(world, messages, whole),
    ]
    states = {clock.standing.state for clock in messages if isinstance(clock, Clock)}
    return Outcome(
        "; ".join(filter(None, wrong)), len(memory.of("orders")), len(memory.of("fills")), len(memory.of("payments")),
        sum(len(held) for held in store.superseded.values()), sum(world.crashes.values()), len(states) > 1,
    )  # fmt: skip


def _prints_wrong(world: World) -> str:
    """Every print between the first and the last was recorded once, as the venue means it."""
    for name in (SPOT, LINEAR):
        found, instrument = world.store.prints(name, 0, 2**33), world.store.known[name]
        ids = np.sort(found.id)
        if not len(ids) or (np.diff(ids) != 1).any():
            return f"prints of {name}: {len(ids)}, ids {ids[:-1][np.diff(ids) != 1][:3]} are followed by others"
        expected = world.exchange.truth(instrument, int(ids[0]), int(ids[-1]))
        order = np.argsort(found.id)
        for column in ("id", "exchange_ns", "price", "qty", "side"):
            if (getattr(found, column)[order] != getattr(expected, column)).any():
                return f"prints of {name}: {column} differs from the truth"
    return ""


def _bars_wrong(world: World) -> str:
    """Every second that is stored is the truth, and all but the first are complete."""
    for name in (SPOT, LINEAR):
        bars, instrument = world.store.read_bars(name, 0, 2**33), world.store.known[name]
        prints = world.store.prints(name, 0, 2**33)
        trades = world.exchange.truth(instrument, int(prints.id.min()), int(prints.id.max()))
        params = flow.bar_params(instrument, IdKind.AGGREGATE)
        _, expected, _ = flow.scan_bars(params, flow.bars_initial(), trades, int(bars.ts[-1]) + 1)
        expected = cut(expected, 0, int(expected.ts.searchsorted(bars.ts[-1], "right")))
        if bars.ts.tolist() != expected.ts.tolist():
            return f"bars of {name}: {len(bars.ts)} seconds from {bars.ts[0]}, the truth has {len(expected.ts)} from {expected.ts[0]}"
        for column in Bars._fields:
            if column in ("version", "complete"):
                continue
            differs = getattr(bars, column) != getattr(expected, column)
            if differs.any():
                at = int(differs.argmax())
                return f"bars of {name}: {column} at {bars.ts[at]} is {getattr(bars, column)[at]}, it was {getattr(expected, column)[at]}"
        if not bars.complete[2:].all():
            return f"bars of {name}: incomplete at {bars.ts[2:][bars.complete[2:] == 0].tolist()[:5]}"
    return ""


def _rows_wrong(world: World, messages: Sequence[Any]) -> str:
    """Rows are what bars and facts make of them, and each second was said once, in order."""
    seconds = [each.ts for each in messages if isinstance(each, RowBatch)]
    if seconds != list(range(seconds[0], seconds[0] + len(seconds))):
        return f"rows were said in this order: {[b for a, b in itertools.pairwise(seconds) if b != a + 1][:5]}"
    store = world.store
    params = flow.row_params(CONFIG, store.known)
    facts = facts_of(store, LINEAR)
    bars = {name: store.read_bars(name, 0, 2**33) for name in (SPOT, LINEAR)}
    _, expected = flow.scan_rows(
        params, flow.rows_initial(params), bars, facts["open_interest"], facts["funding"], MarkSeries(*facts["marks"])
    )
    stored = store.read_rows(ASSET, 0, 2**33)
    expected = cut(expected, 0, len(stored.ts))
    for column, mine, theirs in zip(Rows._fields, stored, expected, strict=True):
        if mine.shape != theirs.shape or (mine != theirs).any():
            at = stored.ts[int((mine[: len(theirs)] != theirs[: len(mine)]).argmax())]
            return f"rows: {column} at {at} differs from what the bars make"
    return ""


def _trading_wrong(world: World, messages: Sequence[Any], whole: Features) -> str:
    """The account did what it must over the rows that live saw; each order went out once."""
    memory, store = world.memory, world.store
    sent = [each.order.id for each in messages if isinstance(each, Sending)]
    if len(set(sent)) != len(sent) or set(sent) != set(world.venue_orders):
        return f"written down were {len(sent)} orders, {len(set(sent))} of them different, the venue has {len(world.venue_orders)}"
    first_s = next(each.ts for each in messages if isinstance(each, RowBatch))  # a repair may bring rows before it
    seen, _ = rows_as_seen(store, ASSET, first_s, 2**33)  # type: ignore[arg-type]
    instruments = {ASSET: store.known[LINEAR]}
    until_s = world.running["executor"].settling.settled_ts - 3
    standings = _standings(messages)
    if len({state for _, _, state, _ in standings}) > 1:
        return ""  # what the desk knew of a switch when it decided follows from when it heard of it, and nothing keeps that
    live = Lived(
        sorted(memory.of("decisions"), key=lambda d: (d.ts, d.asset)), memory.of("signals"), memory.of("orders"),
        memory.of("updates"), memory.of("fills"), memory.of("payments"), sorted(memory.tables.get("equity", {}).items()),
    )  # fmt: skip
    live = Lived(*([one for one in kind if parity_trading._place(one)[0] < until_s] for kind in live))
    again = _again(instruments, seen, facts_of(store, LINEAR)["funding"], standings, until_s)
    for proof in parity_trading.compare(live, again, 0, until_s):
        if not proof.equal:
            return f"{proof.what} differ: {proof.difference}"
    return _differs_from_the_backtest(live, instruments, seen, facts_of(store, LINEAR)["funding"], whole, until_s)


def _standings(messages: Sequence[Any]) -> list[Standing]:
    clocks = [each for each in messages if isinstance(each, Clock)]
    return [Standing(each.settled_ts, False, str(each.standing.state), each.standing.kill_switch) for each in clocks]


def _again(instruments: Any, seen: Rows, funding: Any, standings: list[Standing], until_s: int) -> Lived:
    plan = Plan(capital_usd=CAPITAL_USD)
    maker = Desk(params_from(PARAMS), instruments, plan.costs, plan.limits)
    settling = Settling(instruments, plan.costs, plan.limits, CAPITAL_USD * USD_E8)
    maker.begin(int(seen.ts[0]) - 1)
    settling.hear(Decided(account="paper", ts=int(seen.ts[0]) - 1))
    for event_ts, known_at, rate, interval_s in zip(*(c.tolist() for c in funding), strict=True):
        if event_ts > seen.ts[0]:
            settling.hear(
                FundingFact(
                    venue="binance", feed="linear", instrument=LINEAR, event_ts=event_ts, known_at=known_at, rate=rate,
                    interval_s=interval_s, settled=True,
                )
            )  # fmt: skip
    life = Life(maker, settling, until_s, standings)
    life.take(batches_of({ASSET: seen}))
    return life.lived


def _differs_from_the_backtest(
    live: Lived, instruments: Any, seen: Rows, funding: Any, whole: Features, until_s: int
) -> str:
    days = sorted(set((seen.ts // DAY_S).tolist()))
    dates = [dt.date(1970, 1, 1) + dt.timedelta(day) for day in days]
    spec = BacktestSpec(assets=(ASSET,), start=dates[0], end=dates[-1], params=PARAMS, capital_usd=CAPITAL_USD)
    fold = Fold(spec, instruments, {ASSET: funding}, "test")
    results = []
    for day, date in zip(days, dates, strict=True):
        held = cut(seen, *np.searchsorted(seen.ts, (day * DAY_S, (day + 1) * DAY_S)).tolist())
        scan = scan_of(ASSET, date, held, said_of(whole, held.ts))
        results.append(fold.add_day(date, {ASSET: scan}, lambda _, a, b: cut(seen, *np.searchsorted(seen.ts, (a, b)))))
    decisions = [one for result in results for one in result.decisions]
    backtested = Lived(
        decisions, [one for one in map(signal_of, decisions) if one is not None],
        *([one for result in results for one in getattr(result, kind)] for kind in ("orders", "updates", "fills")),
        live.payments, live.equity,
    )  # fmt: skip
    for proof in parity_trading.compare(live, backtested, 0, until_s):
        if not proof.equal:
            return f"{proof.what} differ from the backtest's: {proof.difference}"
    equity = {int(t): int(u) for r in results for t, u in zip(r.equity_ts, r.equity_usd_e8, strict=True)}
    wrong = [ts for ts, usd in live.equity if equity.get(ts) != usd]
    return f"equity differs from the backtest's at {wrong[:3]}" if wrong else ""


def replay(seed: int) -> str:
    """Name the command that lives through a schedule again."""
    return f"python -m tests.soak --seed {seed}"
