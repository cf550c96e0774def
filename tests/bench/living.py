"""The live loop in processes: from a second's closing watermark to its last signal; the whole stack's start; a day's memory."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import psutil
import uvloop
from numpy.typing import NDArray
from tests.bench import upping
from tests.bench.measuring import REFERENCE_S, Figure, calibrate, plain
from tests.bench.stage import Stage

from squeezecore import simulator, wire
from squeezecore.adapters import bus as buses
from squeezecore.adapters import embedded, embedded_nats
from squeezecore.adapters.accounts import Plan
from squeezecore.adapters.catalogue import key
from squeezecore.adapters.store import Store
from squeezecore.market import WARMUP_S, Instrument, Kind, Margin, Trades, Watermark, concat, cut
from squeezecore.spec import AssetConfig, Limits, MarketConfig, canonical
from squeezecore.wire import MarkFact, TradeBatch

STAMPED = Path(__file__).with_name("stamped.py")
DATABASE = "live"
ASSETS, VENUES = 50, 20
PRINTS = 5  # of each instrument in each border: 20,000 a second in all
START = 1_767_229_200  # 2026-01-01 01:00 UTC: seven hours from any funding
NS = 10**9
PRE_S_MAX, SECONDS = 120, 90
SILENT = 24  # borders before the first print: what a new connection tells first is in doubt, and would be made again
GOOD_S = 62  # after the first second, which is in doubt: the strategy wants a minute of whole ones
SPEED_EVERY = 20  # borders between two looks at the machine's speed
QUIET_S = 5  # everybody keeps up for so long before it counts
RECONNECT_S = 20  # watched after a feed has another connection
BEHIND_S_MAX = 60.0  # waited for at the end
LATENCY_MS_MAX = 25.0
SERVICES = ("cvd", "strategy", "executor")
# A world of signals: every asset wants in; one may at a time, and leaves at the first step against it; all others are denied,
# once a minute each.
PARAMS = {
    "entry_score": 0.0, "cost_multiple": 0.0, "cooldown_s": 0, "context_enter": 0.01,
    "divergence_min": 0.1, "divergence_armed_s": 21_600, "fixed_stop": 1e-9,
}  # fmt: skip
LIMITS = Limits(open_positions_max=1)


# --- the market ---


def instrument(asset: int, venue: int) -> Instrument:
    """Make one of a venue's perpetuals, or spots on every other venue."""
    spot = venue % 2 == 1
    return Instrument(
        venue=f"v{venue:02}", symbol=f"A{asset:02}-USDT" + ("" if spot else "-PERP"), native_symbol="", quote="USDT",
        section="spot" if spot else "linear", base=f"A{asset:02}", settle="USDT", kind=Kind.SPOT if spot else Kind.PERP,
        margin=Margin.NONE if spot else Margin.LINEAR, price_decimals=3, qty_decimals=8, tick_size=Decimal("0.1"),
        lot_size=Decimal("0.001"),
    )  # fmt: skip


class Market:
    """Fifty assets on twenty venues, told border by border as ingest would."""

    def __init__(self, close: int) -> None:
        self.instruments: dict[str, Instrument] = {}
        self.configs: dict[str, AssetConfig] = {}
        self._feeds: dict[tuple[str, str], list[str]] = {}
        for asset in range(ASSETS):
            own = [instrument(asset, venue) for venue in range(VENUES)]
            self.instruments |= {one.id: one for one in own}
            self.configs[f"A{asset:02}"] = AssetConfig(
                traded=own[0].id, markets=tuple(MarketConfig(instrument=one.id) for one in own)
            )
            for one in own:
                self._feeds.setdefault((one.venue, one.section), []).append(one.id)
        self.reconnected: set[str] = set()  # venues whose connection is another by now
        self._rng = np.random.default_rng(7)
        self._close = np.full(ASSETS, close)

    def border(self, number: int) -> tuple[list[TradeBatch], list[MarkFact], list[Watermark]]:
        """Tell the prints of one border, the marks of a second that ends with it, and that all was told."""
        rng, start_ns = self._rng, START * NS + number * wire.BORDER_NS
        end_ns = start_ns + wire.BORDER_NS
        self._close += 100 * rng.integers(-3, 4, ASSETS)
        batches, marks = [], []
        count = ASSETS * PRINTS
        ids = np.tile(1 + (number - SILENT) * PRINTS + np.arange(PRINTS), ASSETS)
        for (venue, section), names in self._feeds.items():
            at = start_ns + np.sort(rng.integers(0, wire.BORDER_NS, (ASSETS, PRINTS)), axis=1).ravel()
            price = np.repeat(self._close, PRINTS) + 100 * rng.integers(-1, 2, count)
            qty = rng.integers(1, 500_000 if section == "spot" else 5_000_000, count)
            side = rng.choice([-1, 1], count).astype(np.int8)
            columns = (ids, at, at + 10**7, price, qty, np.full(count, -1), side, np.zeros(count, np.uint8))
            blocks = [Trades(*(c[n : n + PRINTS] for c in columns)) for n in range(0, count, PRINTS)]
            batches.append(TradeBatch(venue, section, end_ns, tuple(names), tuple(blocks)))
        if number < SILENT:
            batches.clear()
        elif end_ns % NS == 0:
            marks = [
                MarkFact(venue="v00", feed="linear", instrument=config.traded, known_at=end_ns // NS, mark=int(close))
                for config, close in zip(self.configs.values(), self._close, strict=True)
            ]
        promises = [
            Watermark(
                venue=venue, feed=section, connection=1 + (venue in self.reconnected), exchange_ns=end_ns, alive=True
            )
            for venue, section in self._feeds
        ]
        return batches, marks, promises


def history(store: Store, configs: Mapping[str, AssetConfig]) -> int:
    """Store 28 hours of rows, the same for all, each asset's a little shorter than the one's before; return the last close.

    So the strategy finds one asset after the other warm, and what it says of them once a minute is spread over the minute.
    """
    first = dt.date(2025, 12, 30)
    world = simulator.WorldSpec(start=first, days=3, assets=("BTC",))
    rows = concat([day.rows for day in simulator.simulate_rows(world, "BTC")])
    low, high = np.searchsorted(rows.ts, (START - WARMUP_S + SILENT // 4, START + 2 * SILENT // 4))
    rows = cut(rows, int(low), int(high))
    names = list(configs)
    whole = rows._replace(config_rev=np.full(len(rows.ts), configs[names[0]].revision()))
    store.insert_rows(names[0], whole)
    for n, name in enumerate(names[1:], 1):
        store.command(
            "INSERT INTO rows_1s SELECT * REPLACE({name:String} AS asset, {rev:UInt64} AS config_rev) FROM rows_1s "
            "AS own WHERE own.asset = {first:String} AND own.ts >= toDateTime({start:UInt32}, 'UTC')",
            {
                "name": name,
                "first": names[0],
                "rev": configs[name].revision(),
                "start": START - WARMUP_S + SILENT // 4 + GOOD_S + n * 60 // ASSETS,
            },
        )
    return int(rows.close[-1 - SILENT // 4])


# --- the processes ---


class Place(NamedTuple):
    """Where the services live."""

    folder: Path
    nats_url: str
    home: Path

    def stamps(self, name: str) -> Path:
        """Return the file of a service's stamps."""
        return self.folder / f"{name}.stamps"

    def status(self, name: str) -> dict[str, object]:
        """Ask a service how it goes; empty while it does not answer."""
        try:
            port = json.loads((self.folder / f"{name}.json").read_text())["port"]
            found: dict[str, object] = httpx.get(
                f"http://127.0.0.1:{port}/v1/status", trust_env=False, timeout=2.0
            ).json()
        except (OSError, ValueError, httpx.HTTPError):
            return {}
        return found


@contextmanager
def running(place: Place) -> Iterator[dict[str, psutil.Process]]:
    """Run cvd, strategy and executor, with stamps."""
    person = {name: value for name, value in os.environ.items() if not name.startswith("SQUEEZE_")}
    given = {
        "SQUEEZE_NATS_URL": place.nats_url, "SQUEEZE_HOME": str(place.home), "SQUEEZE_DATABASE": DATABASE,
        "SQUEEZE_RUN_DIR": str(place.folder),
    }  # fmt: skip
    made = {}
    try:
        for name in SERVICES:
            with (place.folder / f"{name}.log").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, str(STAMPED), name, str(place.stamps(name))],
                    env=person | given, stdout=subprocess.DEVNULL, stderr=log,
                )  # fmt: skip
            made[name] = process
        yield {name: psutil.Process(process.pid) for name, process in made.items()}
    finally:
        for process in made.values():
            process.terminate()
        for process in made.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


# --- the run ---


class Run(NamedTuple):
    """What was seen between two seconds."""

    first_s: int
    last_s: int
    stamps: dict[str, dict[str, dict[int, tuple[int, int, int]]]]  # service → what → second → count, begin, end
    cpu_s: dict[str, float]
    speeds: list[float]
    zero_ns: int  # when the first border of `START` was told
    reconnect_s: int  # from this second on, a feed of fifty instruments has another connection


def live(stage: Stage, seconds: int = SECONDS) -> Run:
    """Tell the market in real time to the three services, over a real bus and a real store."""
    with tempfile.TemporaryDirectory(prefix="squeezeflow-live-") as name:
        folder = Path(name)
        with (
            embedded.open_store(stage.home, database=DATABASE) as store,
            embedded_nats.open_nats(folder, grace_s=2.0) as server,
        ):
            try:
                stage.tell("28 h of rows of 50 assets")
                place = Place(folder, server.url, stage.home)
                market = Market(0)
                market = Market(history(store, market.configs))
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    return runner.run(_tell_market(stage, place, market, seconds, server.pid))
            finally:
                embedded_nats.stop(folder)
                store.drop_database()


async def _tell_market(stage: Stage, place: Place, market: Market, seconds: int, nats_pid: int) -> Run:
    bus = await buses.connect(place.nats_url, name="bench")
    for name, each in market.instruments.items():
        await bus.put("instruments", key(name), canonical(each))
    await bus.put("config", "assets", canonical(market.configs))
    await bus.put("config", "params", canonical(PARAMS))
    await bus.put("config", "account.paper", canonical(Plan(limits=LIMITS)))
    clickhouse = embedded.status(place.home)
    assert clickhouse is not None
    with running(place) as processes:
        watched = processes | {
            "nats": psutil.Process(nats_pid), "clickhouse": psutil.Process(clickhouse.pid), "teller": psutil.Process(),
        }  # fmt: skip
        for name in SERVICES:  # the waiting ones answer, too
            while not await asyncio.to_thread(place.status, name):
                if processes[name].status() == psutil.STATUS_ZOMBIE:
                    raise AssertionError((place.folder / f"{name}.log").read_text()[-1000:])
                await asyncio.sleep(0.2)
        loop = asyncio.get_running_loop()
        begun, number, kept_s, first_s, before, cpu_s = loop.time(), 0, 0, 0, {}, {}
        zero_ns = time.monotonic_ns()
        speeds: list[float] = []
        while True:
            batches, marks, promises = market.border(number)
            number += 1
            await asyncio.sleep(begun + number * wire.BORDER_NS / NS - loop.time())
            await bus.publish_all([*batches, *marks])
            await bus.publish_all(promises)
            if number % SPEED_EVERY == 2 and first_s:  # halfway between two seconds, where nobody has anything to do
                speeds.append(await asyncio.to_thread(calibrate))
            if number % 4:
                continue
            now_s = START + number // 4
            if not first_s:
                decided = int((await asyncio.to_thread(place.status, "strategy")).get("decided_ts", 0))  # type: ignore[call-overload]
                kept_s = kept_s + 1 if decided >= now_s - 3 else 0
                stage.tell(f"warming the strategy up, {now_s - decided} s behind")
                if kept_s >= QUIET_S and now_s > START + SILENT // 4 + GOOD_S:
                    first_s, before = now_s, {name: _cpu(process) for name, process in watched.items()}
                elif number > PRE_S_MAX * 4:
                    told = {name: place.status(name) for name in SERVICES}
                    raise AssertionError(f"the strategy was {now_s - decided} s behind after {PRE_S_MAX} s: {told}")
            elif now_s == first_s + seconds:
                cpu_s = {name: (_cpu(process) - before[name]) / seconds for name, process in watched.items()}
                market.reconnected.add("v01")
                stage.tell("the live loop, after a reconnect")
            elif now_s >= first_s + seconds + RECONNECT_S:
                break
            elif now_s < first_s + seconds:
                stage.tell(f"the live loop, second {now_s - first_s} of {seconds}")
        deadline = loop.time() + BEHIND_S_MAX
        while int((await asyncio.to_thread(place.status, "strategy")).get("decided_ts", 0)) < now_s - 1:  # type: ignore[call-overload]
            if loop.time() > deadline:
                break
            await asyncio.sleep(0.5)
        await bus.close()
    stamps = {name: _read(place.stamps(name)) for name in SERVICES}
    return Run(first_s + 1, first_s + seconds - 1, stamps, cpu_s, speeds, zero_ns, first_s + seconds)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _read(path: Path) -> dict[str, dict[int, tuple[int, int, int]]]:
    found: dict[str, dict[int, tuple[int, int, int]]] = defaultdict(dict)
    for line in path.read_text().splitlines():
        what, second, count, begin, end = line.split()
        found[what].setdefault(int(second), (int(count), int(begin), int(end)))  # a repeated one is about nothing new
    return found


# --- the figures ---


class Step(NamedTuple):
    """One second's way from the closing watermark on, ns of the monotonic clock."""

    read: int  # cvd has the watermark's bytes
    rows: int  # rows are made and go out
    heard: int  # the strategy has them
    scanned: int
    ready: int  # what the account must say is there
    decided: int
    signals: int  # the last one is acknowledged; 0 where the second has none
    end: int  # so is the word that all was said

    @property
    def last(self) -> int:
        """Return when the last signal was acknowledged; where there was none, the word after it."""
        return self.signals or self.end


PARTS = (
    "cvd: bars and rows", "bus: rows on the disk and over", "strategy: scan", "the account's word", "strategy: decide",
    "bus: signals on the disk",
)  # fmt: skip


def steps(run: Run) -> dict[int, Step]:
    """Put the stamps of each second together; several that were behind may have gone out at once, under the last one's name."""
    cvd, strategy = run.stamps["cvd"], run.stamps["strategy"]
    found = {}
    for second in range(run.first_s, run.last_s + 1):
        scanned, decided = _from(strategy["take"], second)[2], _from(strategy["decide"], second)
        said = min(key for key in strategy["publish-Decided"] if key >= second)
        signals = [end for key, (_, _, end) in strategy["publish-Signal"].items() if second <= key <= said]
        found[second] = Step(
            read=cvd["closing"][second][1],
            rows=_from(cvd["publish-RowBatch"], second)[1],
            heard=strategy["read-RowBatch"][second][1],
            scanned=scanned,
            ready=max(scanned, decided[1]),
            decided=decided[2],
            signals=max(signals, default=0),
            end=strategy["publish-Decided"][said][2],
        )
    return found


def _from(stamps: Mapping[int, tuple[int, int, int]], second: int) -> tuple[int, int, int]:
    """Return the first stamp about a second or a later one."""
    return stamps[min(key for key in stamps if key >= second)]


def figures(stage: Stage) -> list[Figure]:
    """Measure the live loop's way, then the whole stack."""
    return [*latency(live(stage)), *upping.figures(stage)]


def latency(run: Run) -> list[Figure]:
    """Judge the way from the closing watermark to the last signal."""
    way = steps(run)
    last = np.array([step.last - step.read for step in way.values()]) / 1e6
    with_signal = [step for step in way.values() if step.signals]
    slow = max(1.0, float(np.median(run.speeds)) / REFERENCE_S[1])
    p99 = float(np.quantile(last, 0.99))
    signals = sum(run.stamps["strategy"]["publish-Signal"].get(second, (0,))[0] for second in way)
    cpu = ", ".join(f"{name} {share:.0%}" for name, share in run.cpu_s.items())
    alone = np.array([step.signals - step.read for step in with_signal]) / 1e6
    lines = [
        Figure(
            name="closing watermark read to last signal acknowledged, p99", value=p99, unit="ms", bar=LATENCY_MS_MAX,
            ok=p99 / slow <= LATENCY_MS_MAX,
            how=f"{len(way)} seconds in real time, {ASSETS} assets x {VENUES} venues, {ASSETS * VENUES * PRINTS * 4:,} prints a second; "
            f"{signals} signals in {len(with_signal)} of the seconds, else until Decided is; median {np.median(last):.1f} ms; "
            f"machine {slow:.2f} x the reference time; of a core: {cpu}",
        ),
    ]  # fmt: skip
    if len(alone):
        lines.append(
            plain(
                "  seconds with a signal, p99",
                float(np.quantile(alone, 0.99)),
                "ms",
                f"median {np.median(alone):.1f} ms",
            )
        )
    columns = np.array([(*step[:6], step.last) for step in way.values()]) / 1e6
    parts = np.diff(columns, axis=1)
    slowest = last >= np.quantile(last, 0.9)
    for n, name in enumerate(PARTS):
        how = (
            f"quickest tenth {np.quantile(parts[:, n], 0.1):.2f} ms, p99 {np.quantile(parts[:, n], 0.99):.2f} ms; "
            f"mean of the slowest tenth of all {parts[slowest, n].mean():.2f} ms"
        )
        lines.append(plain(f"    {name}, median", float(np.median(parts[:, n])), "ms", how))
    lines.append(
        plain(
            "  a calm second: the quickest tenth",
            float(np.quantile(last, 0.1)),
            "ms",
            f"where nobody else wants the cores; processor time of each second's kernels: {_used(run, way)}",
        )
    )
    return [*lines, *_beside(run, way), _reconnect(run)]


def _reconnect(run: Run) -> Figure:
    """Tell how late rows are once a feed has another connection, and its seconds are made again."""
    out = run.stamps["cvd"]["publish-RowBatch"]

    def late(second: int) -> float:
        return (_from(out, second)[2] - run.zero_ns) / 1e9 - (second + 1 - START)

    usual = float(np.median([late(second) for second in range(run.first_s, run.last_s)]))
    after = [late(n) - usual for n in range(run.reconnect_s, min(run.reconnect_s + RECONNECT_S, max(out)))]
    repairs = sum(second >= run.reconnect_s - 2 for second in run.stamps["cvd"]["publish-RepairBatch"])
    how = (
        f"{ASSETS} instruments, {len(after)} seconds watched, rows of {repairs} seconds made again; until rows are "
        "acknowledged, against the median second before"
    )
    return plain("rows late after a feed's reconnect, at worst", max(after, default=0.0) * 1e3, "ms", how)


def _used(run: Run, way: Mapping[int, Step]) -> str:
    """Say what the computing parts took of a core: the median second."""
    told = []
    for service, what, words in (
        ("cvd", "closing", "cvd's last feed"), ("cvd", "decide", "cvd's rows"), ("strategy", "take", "scan"),
        ("strategy", "decide", "decide"), ("executor", "settle", "the executor's second"),
    ):  # fmt: skip
        stamps = run.stamps[service][what]
        used = [stamps[second][0] / 1e6 for second in way if second in stamps]
        told.append(f"{words} {np.median(used) if used else 0:.2f} ms")
    return ", ".join(told)


def _beside(run: Run, way: Mapping[int, Step]) -> list[Figure]:
    """Tell of what stands beside that way: the burst before it, storing after it."""
    cvd = run.stamps["cvd"]

    def times(what: str) -> NDArray[np.float64]:
        return np.array([(end - begin) / 1e6 for s in way for _, begin, end in [cvd[what].get(s, (0, 0, 0))] if end])

    def median(what: str) -> float:
        return float(np.median(found)) if len(found := times(what)) else 0.0

    burst, put = times("burst"), times("put")
    prints = ASSETS * VENUES * PRINTS
    end = np.array([(step.end - step.read) / 1e6 for step in way.values()])
    return [
        plain("  until the second is said to be decided, p99", float(np.quantile(end, 0.99)), "ms", f"median {np.median(end):.1f} ms"),
        plain("draining a border's burst in cvd, median", float(np.median(burst)), "ms",
              f"{VENUES} batches, {prints:,} prints and {ASSETS} marks, from the first decoded to the closing watermark, the bus "
              f"in between; p99 {np.quantile(burst, 0.99):.1f} ms; cvd's own work {median('burst-work'):.1f} ms"),
        plain("storing a second, median", float(np.median(put)), "ms",
              f"{ASSETS * VENUES} bars, {ASSETS} rows, {ASSETS} marks; p99 {np.quantile(put, 0.99):.1f} ms; beside the loop, after "
              f"the rows are out; a snapshot {median('snapshot'):.1f} ms, and {median('freeze'):.1f} ms to write it down"),
    ]  # fmt: skip
