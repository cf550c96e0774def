"""cvd at 50 assets on 20 venues: the border's burst drained, the closing watermark to acknowledged rows, storing a second."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from decimal import Decimal
from pathlib import Path

import numpy as np
from tests.bench.measuring import REFERENCE_S, Figure, calibrate, plain
from tests.bench.stage import Stage

from squeeze_cvd.flowing import Flow
from squeeze_cvd.freezing import freeze
from squeeze_cvd.keeping import Keep
from squeezecore import flow, wire
from squeezecore.adapters import bus as buses
from squeezecore.adapters import embedded_nats
from squeezecore.market import IdKind, Instrument, Kind, Margin, Trades, Watermark
from squeezecore.spec import AssetConfig, MarketConfig
from squeezecore.wire import AssetChange, MarkFact, TradeBatch

ASSETS, VENUES = 50, 20
PRINTS = 5  # of each instrument in each border: 20,000 a second in all
WARM_S, SECONDS = 10, 60
START = 1_767_229_200
NS = 10**9
LATENCY_MS_MAX = 5.0  # median; the whole way to the last signal may take 25 ms at the 99th percentile


class Wide(Flow):
    """A flow whose venues exist here only."""

    def params_of(self, name: str) -> flow.BarParams:
        """Return what is fixed of an instrument."""
        return flow.bar_params(self.instruments[name], IdKind.AGGREGATE)


def instrument(asset: int, venue: int) -> Instrument:
    """Make one of a venue's perpetuals, or spots on every other venue."""
    spot = venue % 2 == 1
    return Instrument(
        venue=f"v{venue:02}", symbol=f"A{asset:02}-USDT" + ("" if spot else "-PERP"), native_symbol="", quote="USDT",
        section="spot" if spot else "linear", base=f"A{asset:02}", settle="USDT", kind=Kind.SPOT if spot else Kind.PERP,
        margin=Margin.NONE if spot else Margin.LINEAR, price_decimals=3, qty_decimals=8, tick_size=Decimal("0.1"),
        lot_size=Decimal("0.001"),
    )  # fmt: skip


def world() -> tuple[dict[str, AssetConfig], dict[str, Instrument]]:
    """Make the assets and their markets."""
    known, configs = {}, {}
    for asset in range(ASSETS):
        own = [instrument(asset, venue) for venue in range(VENUES)]
        known |= {one.id: one for one in own}
        configs[f"A{asset:02}"] = AssetConfig(
            traded=own[0].id, markets=tuple(MarketConfig(instrument=one.id) for one in own)
        )
    return configs, known


def border(feeds: dict[str, list[str]], number: int) -> list[tuple[str, bytes]]:
    """Encode one border's batches of all feeds; the feeds' prints differ in nothing that costs."""
    rng = np.random.default_rng(number)
    start_ns = START * NS + number * wire.BORDER_NS
    made = []
    for venue, names in feeds.items():
        blocks = []
        for _ in names:
            ids = 1 + number * PRINTS + np.arange(PRINTS)
            at = start_ns + np.sort(rng.integers(0, wire.BORDER_NS, PRINTS))
            price, qty = rng.integers(10**7, 2 * 10**7, PRINTS), rng.integers(1, 10**9, PRINTS)
            side = rng.choice([-1, 1], PRINTS).astype(np.int8)
            none, flags = np.full(PRINTS, -1), np.zeros(PRINTS, np.uint8)
            blocks.append(Trades(ids, at, at + 10**8, price, qty, none, side, flags))
        section = "spot" if int(venue[1:]) % 2 else "linear"
        batch = TradeBatch(venue, section, start_ns + wire.BORDER_NS, tuple(names), tuple(blocks))
        made.append((wire.subject(batch), wire.encode(batch)))
    return made


def figures(stage: Stage) -> list[Figure]:
    """Measure, with a server of its own for the bus."""
    stage.tell("cvd at 50 assets on 20 venues")
    configs, known = world()
    state = Wide()
    state.change([AssetChange(asset=name, from_ts=0, config=config) for name, config in configs.items()], known)
    feeds = {place[0]: list(feed.names) for place, feed in state.feeds.items()}
    with (
        tempfile.TemporaryDirectory(prefix="squeezeflow-bench-nats-") as folder,
        embedded_nats.open_nats(Path(folder)) as server,
    ):
        try:
            times = asyncio.run(_run(server.url, stage, state, feeds))
        finally:
            embedded_nats.stop(Path(folder))
    return _lines(times)


async def _run(url: str, stage: Stage, state: Flow, feeds: dict[str, list[str]]) -> dict[str, list[float]]:
    bus = await buses.connect(url, name="bench")
    keep = Keep(stage.store, "bench")
    times: dict[str, list[float]] = {
        name: [] for name in ("burst", "others", "close", "kernel", "store", "snapshot", "bytes", "machine")
    }
    seq = 0
    try:
        for second in range(WARM_S + SECONDS):
            for quarter in range(4):
                messages = border(feeds, second * 4 + quarter)
                begun = time.perf_counter()
                for subject, data in messages:
                    seq += 1
                    state.take(wire.decode(subject, data), seq)
                state.decide()
                times["burst"].append(time.perf_counter() - begun)
            facts = [
                MarkFact(venue="v00", feed="linear", instrument=config.traded, known_at=START + second + 1, mark=10**7)
                for config in _configs(state)
            ]
            marks = [(wire.subject(mark), wire.encode(mark)) for mark in _marks(feeds, START + second)]
            for fact in facts:
                seq += 1
                state.take(fact, seq)
            begun = time.perf_counter()
            for subject, data in marks[:-1]:
                seq += 1
                state.take(wire.decode(subject, data), seq)
            others = time.perf_counter() - begun
            begun = time.perf_counter()
            seq += 1
            state.take(wire.decode(*marks[-1]), seq)
            state.decide()
            effects = state.effects()
            decided = time.perf_counter()
            await bus.publish_all(effects.rows)
            published = time.perf_counter()
            await asyncio.to_thread(keep.put, effects)
            stored = time.perf_counter()
            body = freeze(state)
            await asyncio.to_thread(keep.put_snapshot, state.decided_s, seq, body)
            kept = time.perf_counter()
            if second >= WARM_S:
                times["others"].append(others)
                times["kernel"].append(decided - begun)
                times["close"].append(published - begun)
                times["store"].append(stored - published)
                times["snapshot"].append(kept - stored)
                times["bytes"].append(len(body))
                if second % 10 == 0:
                    times["machine"].append(calibrate())
    finally:
        await bus.close()
    return times


def _configs(state: Flow) -> list[AssetConfig]:
    return [asset.config for asset in state.assets.values()]


def _marks(feeds: dict[str, list[str]], second: int) -> list[Watermark]:
    return [
        Watermark(
            venue=venue,
            feed="spot" if int(venue[1:]) % 2 else "linear",
            connection=1,
            exchange_ns=second * NS,
            alive=True,
        )
        for venue in feeds
    ]


def _lines(times: dict[str, list[float]]) -> list[Figure]:
    def at(name: str, share: float) -> float:
        return float(np.quantile(times[name], share))

    said = f"{SECONDS} seconds, {ASSETS * VENUES} instruments, {ASSETS * VENUES * PRINTS * 4:,} prints a second"
    prints = ASSETS * VENUES * PRINTS
    slow = statistics.median(times["machine"]) / REFERENCE_S[1]
    close = at("close", 0.5) * 1e3 / slow
    burst = f"{VENUES} batches, {prints:,} prints; p99 {at('burst', 0.99) * 1e3:.2f} ms"
    stored = f"{ASSETS * VENUES} bars, {ASSETS} rows, {ASSETS} marks; after the rows are out"
    size = f"{np.median(times['bytes']) / 1e3:.0f} kB, with two seconds of prints"
    return [
        Figure(
            name="closing watermark read to rows acknowledged, median", value=close, unit="ms", bar=LATENCY_MS_MAX,
            ok=close <= LATENCY_MS_MAX,
            how=f"{said}; p99 {at('close', 0.99) * 1e3:.1f} ms by the clock, machine {slow:.2f} x the reference time",
        ),
        plain(
            "  of it decoding, kernels and rows, median", at("kernel", 0.5) * 1e3, "ms",
            f"p99 {at('kernel', 0.99) * 1e3:.2f} ms",
        ),
        plain("draining a border's burst, median", at("burst", 0.5) * 1e3, "ms", burst),
        plain("closing the nineteen other feeds, median", at("others", 0.5) * 1e3, "ms", "before the last watermark"),
        plain("storing a second, median", at("store", 0.5) * 1e3, "ms", f"{stored}; p99 {at('store', 0.99) * 1e3:.1f} ms"),
        plain("storing a snapshot, median", at("snapshot", 0.5) * 1e3, "ms", f"{size}; p99 {at('snapshot', 0.99) * 1e3:.1f} ms"),
    ]  # fmt: skip
