"""A simulated market as the messages that ingest and openinterest would publish, and the bars and rows it must come to."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from squeezecore import flow, wire
from squeezecore.market import (
    Bars,
    FundingSeries,
    IdKind,
    Instrument,
    MarkSeries,
    OpenInterestSeries,
    Rows,
    Trades,
    Watermark,
    concat,
    empty,
)
from squeezecore.simulator import WorldSpec, asset_config, instruments, simulate_trades
from squeezecore.spec import AssetConfig
from squeezecore.wire import FundingFact, InterestFact, MarkFact, Message, TradeBatch

NS = 10**9
GRACE_S, DOUBT_S = 2.0, 3  # of ingest's watermarks; of what cvd believes of a new connection
START = 1_767_229_200  # 2026-01-01 01:00 UTC


class Event(NamedTuple):
    """A message and when it is published, in seconds of exchange time."""

    at: float
    message: Message


class World(NamedTuple):
    """The truth of some seconds."""

    start_s: int
    end_s: int
    configs: dict[str, AssetConfig]
    instruments: dict[str, Instrument]
    trades: dict[str, Trades]
    facts: list[Event]


def world(assets: Sequence[str] = ("BTC", "ETH"), seconds: int = 20, seed: int = 7, start_s: int = START) -> World:
    """Simulate a few seconds of some assets, a mark price a second, open interest every seven, one settlement."""
    spec = WorldSpec(seed=seed, assets=tuple(assets), start=dt.date(2026, 1, 1), days=1)
    listed = {one.id: one for asset in assets for one in instruments(asset)}
    trades: dict[str, Trades] = {}
    facts = []
    rng = np.random.default_rng(seed)
    for asset in assets:
        trades |= simulate_trades(spec, asset, start_s, start_s + seconds)
        traded = asset_config(asset).traded
        place = {"venue": "binance", "feed": "linear", "instrument": traded}
        for n, second in enumerate(range(start_s - 2, start_s + seconds)):
            at = second + float(rng.random())
            price = int(trades[traded].price[0])
            facts.append(Event(at, MarkFact(**place, known_at=second + 1, mark=price + int(rng.integers(-99, 99)))))
            if n % 7 == 0:
                fact = InterestFact(
                    **place, event_ts=second, known_at=second + 2, open_interest=10**12 + n, interval_s=300
                )
                facts.append(Event(at + 2, fact))
        rate = int(rng.integers(-(10**6), 10**6))
        due = start_s + seconds // 2
        paid = FundingFact(**place, event_ts=due, known_at=due + 1, rate=rate, interval_s=28_800, settled=True)
        facts.append(Event(due + 1.0, paid))
    configs = {asset: asset_config(asset) for asset in assets}
    return World(start_s, start_s + seconds, configs, listed, trades, facts)


def batches(made: World, name: str, names: Iterable[str]) -> list[TradeBatch]:
    """Cut the prints of one feed's instruments into messages, one for each border."""
    parts: dict[int, list[tuple[str, Trades]]] = {}
    for instrument in sorted(names):
        block = made.trades[instrument]
        borders = block.exchange_ns // wire.BORDER_NS
        for border in np.unique(borders).tolist():
            parts.setdefault(border, []).append((instrument, pick(block, borders == border)))
    return [
        TradeBatch("binance", name, (border + 1) * wire.BORDER_NS, *zip(*parts[border], strict=True))
        for border in sorted(parts)
    ]


def events(
    made: World, delays: Mapping[str, float] | None = None, *, connection: int = 1, every_s: float = 1.0
) -> list[Event]:
    """Publish every feed's batches and watermarks, and the facts, in the order of a stream.

    `delays` say by how much a feed is late; a watermark follows all batches before it.
    """
    delays = delays or {}
    found = list(made.facts)
    for section in sorted({one.section for one in made.instruments.values()}):
        names = [name for name, one in made.instruments.items() if one.section == section]
        late = delays.get(section, 0.3)
        found += [Event(batch.border_ns / NS + late, batch) for batch in batches(made, section, names)]
        for n in range(int((made.end_s - made.start_s) / every_s) + 1):
            at = made.start_s + n * every_s
            mark = Watermark(
                venue="binance", feed=section, connection=connection, exchange_ns=round(at * NS), alive=True
            )
            found.append(Event(at + late + GRACE_S + 0.001, mark))
    return sorted(found, key=lambda event: event.at)


def pick(block: Any, index: Any) -> Any:
    return type(block)(*(column[index] for column in block))


def bar_params(instrument: Instrument) -> flow.BarParams:
    return flow.bar_params(instrument, IdKind.AGGREGATE)


def true_bars(made: World, stream: Sequence[Event], *, proved: bool = False) -> dict[str, Bars]:
    """Scan each instrument alone, watermark by watermark; `proved`: whole where ids have shown it in the end."""
    found = {}
    for name, instrument in made.instruments.items():
        params, state, parts, open_ones = bar_params(instrument), flow.bars_initial(), [empty(Bars)], [empty(Trades)]
        doubt_s = -1
        for event in stream:
            message = event.message
            if isinstance(message, TradeBatch) and name in message.instruments:
                open_ones.append(message.trades[message.instruments.index(name)])
            if isinstance(message, Watermark) and message.feed == instrument.section:
                watermark_s = message.exchange_ns // NS
                doubt_s = doubt_s if doubt_s >= 0 else watermark_s + DOUBT_S
                state, bars, _ = flow.scan_bars(params, state, concat(open_ones), 0)
                begun_s = max(doubt_s, state.low_s + 1)  # beside the first print another may be missing
                state, bars, _ = flow.scan_bars(params, state, empty(Trades), watermark_s, doubt_s=begun_s)
                parts.append(bars)
                open_ones = [empty(Trades)]
        bars = concat(parts)
        if proved:
            bars.complete[(bars.ts > state.low_s) & (bars.ts < state.high_s)] = 1
        found[name] = bars
    return found


def series(facts: Iterable[Event], name: str) -> tuple[OpenInterestSeries, FundingSeries, MarkSeries]:
    """Return an instrument's facts as series, known when they say."""
    own = [event.message for event in facts if getattr(event.message, "instrument", "") == name]

    def columns(kind: Any, *names: str) -> list[Any]:
        rows = sorted((one.known_at, *(getattr(one, n) for n in names)) for one in own if isinstance(one, kind))
        return list(np.array(rows, np.int64).reshape(-1, len(names) + 1).T.copy())

    at, event, value, interval = columns(InterestFact, "event_ts", "open_interest", "interval_s")
    paid_at, due, rate, span = columns(FundingFact, "event_ts", "rate", "interval_s")
    return (
        OpenInterestSeries(event, at, value, interval),
        FundingSeries(due, paid_at, rate, span),
        MarkSeries(*columns(MarkFact, "mark")),
    )


def true_rows(made: World, bars: Mapping[str, Bars]) -> dict[str, Rows]:
    """Scan each asset alone, in one go."""
    found = {}
    for asset, config in made.configs.items():
        params = flow.row_params(config, made.instruments)
        _, rows = flow.scan_rows(params, flow.rows_initial(params), bars, *series(made.facts, config.traded))
        found[asset] = rows
    return found
