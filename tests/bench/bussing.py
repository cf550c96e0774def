"""What the bus carries: small batches published and read over a real server, a synced one, as on a laptop."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from tests.bench.measuring import Figure, plain, rate, timed
from tests.bench.stage import Stage

from squeezecore import wire
from squeezecore.adapters import bus, embedded_nats
from squeezecore.market import Trades, dtypes

RUNS = 3
PRINTS = 20  # of one 250 ms of one feed
BATCHES, AWAITED, SYNCED = 10_000, 2_000, 1_000
VENUE, INSTRUMENT = "binance", "binance:BTC-USDT-PERP"


def figures(stage: Stage) -> list[Figure]:
    """Measure over a server that nobody else uses."""
    stage.tell("messages over the bus")
    with tempfile.TemporaryDirectory(prefix="squeezeflow-bus-") as folder:
        server = embedded_nats.open_nats(Path(folder), grace_s=1.0)
        try:
            return _measure(server.url)
        finally:
            server.close()
            embedded_nats.stop(Path(folder))


def _measure(url: str) -> list[Figure]:
    borders = iter(range(1, 1 << 40))

    def batches(count: int) -> list[wire.Message]:
        return [_batch(next(borders)) for _ in range(count)]

    def publishing(
        count: int, publish: Callable[[bus.Bus, Sequence[wire.Message]], Awaitable[Any]]
    ) -> Callable[[], float]:
        return lambda: _timed_on(url, batches(count), publish)

    many = timed(publishing(BATCHES, _all_at_once), RUNS)
    one_by_one = timed(publishing(AWAITED, _one_by_one), RUNS)
    reading = timed(lambda: _timed_on(url, [], _read), RUNS)
    decided = iter(range(1, 1 << 40))
    synced = timed(
        lambda: _timed_on(url, [wire.Decided(account="bench", ts=next(decided)) for _ in range(SYNCED)], _one_by_one),
        RUNS,
    )
    rates = BATCHES / many.seconds, AWAITED / one_by_one.seconds
    size = len(wire.encode(_batch(0)))
    return [
        rate(
            "batches published", BATCHES, many, "messages/s", 5_000,
            f"publish_all of batches of {PRINTS} prints, {size} bytes, up to {bus.IN_FLIGHT_MAX} in flight, uvloop",
        ),
        plain("  of it awaiting each", rates[1], "messages/s", f"publish, one after another; {one_by_one.said}"),
        plain("  ratio", rates[0] / rates[1], "x", "both in this run", 1.5, least=True),
        rate(
            "batches read", BATCHES, reading, "messages/s", 5_000,
            "pull(500) and ack of the stream just filled, decoded",
        ),
        plain(
            "synced messages", SYNCED / synced.seconds, "messages/s",
            f"publish into TRADE, on the disk before it is acknowledged, one after another; {synced.said}",
        ),
    ]  # fmt: skip


def _batch(border: int) -> wire.TradeBatch:
    columns = (np.full(PRINTS, (border + n) % 127, dtype) for n, dtype in enumerate(dtypes(Trades).values()))
    return wire.TradeBatch(VENUE, "linear", border * wire.BORDER_NS, (INSTRUMENT,), (Trades(*columns),))


def _timed_on(
    url: str, messages: Sequence[wire.Message], action: Callable[[bus.Bus, Sequence[wire.Message]], Awaitable[Any]]
) -> float:
    """Time an action on a fresh connection, as a service has one."""

    async def main() -> float:
        connection = await bus.connect(url, name="bench")
        begun = time.perf_counter()
        await action(connection, messages)
        took = time.perf_counter() - begun
        await connection.close()
        return took

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


async def _all_at_once(connection: bus.Bus, messages: Sequence[wire.Message]) -> None:
    await connection.publish_all(messages)


async def _one_by_one(connection: bus.Bus, messages: Sequence[wire.Message]) -> None:
    for message in messages:
        await connection.publish(message)


async def _read(connection: bus.Bus, _messages: Sequence[wire.Message]) -> None:
    reader = await connection.read("MD", wire.STREAMS["MD"], "bench", 0)
    read = 0
    while read < BATCHES:
        taken = await reader.pull()
        read += len(taken)
        await reader.ack(taken[-1].seq)
