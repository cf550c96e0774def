"""Ingest over real sockets and a real NATS, in one process with a venue that has faults, and with recorded frames."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from picows import WSListener, WSMsgType, ws_create_server

from squeeze_ingest.fleet import Fleet
from squeeze_ingest.links import Link, LinkError, connector
from squeezecore.adapters.asking import AskError, Places, fetcher
from squeezecore.adapters.clock import SYSTEM
from squeezecore.adapters.loopback import MAX, Loopback, Options, serve, source_of, write_endpoints
from squeezecore.adapters.loopback_sockets import LIMITS
from squeezecore.market import TradeFlag, Trades
from squeezecore.venues import Feed as Stream
from support import recorded
from support.bus import NatsBed, on
from support.feeding import INVERSE, LINEAR, SPOT, START_NS, Heard, assets_of, fleet_of, heard

NS = 1_000_000_000
HANG_S = 90.0
FIXTURES = Path(recorded.FIXTURES)
SECTIONS = {SPOT: "spot", LINEAR: "linear", INVERSE: "inverse"}


@asynccontextmanager
async def running(
    bed: NatsBed, exchange: Loopback, folder: Path, names: tuple[str, ...], stream: Stream
) -> AsyncIterator[Fleet]:
    """Run an ingest against an exchange."""
    write_endpoints(folder / "endpoints.json", exchange)
    bus = await bed.connect()
    await bus.put("config", "assets", assets_of(*names))
    async with httpx.AsyncClient(trust_env=False) as client:
        fleet = fleet_of(bus, SYSTEM, connector(SYSTEM), fetcher(client), "0", stream, folder / "endpoints.json")
        task = asyncio.create_task(fleet.run())
        try:
            yield fleet
        finally:
            task.cancel()
            ended = (await asyncio.gather(task, return_exceptions=True))[0]
            if not isinstance(ended, asyncio.CancelledError):
                raise ended


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(HANG_S):
        while True:
            held = condition()
            if isinstance(held, Awaitable):
                held = await held
            if held:
                return
            await asyncio.sleep(0.05)


async def all_heard(bed: NatsBed, exchange: Loopback, fleet: Fleet) -> Heard:
    """Wait until the exchange has told all and ingest has published it; return what the bus holds."""
    await until(exchange.done.is_set)

    def quiet() -> bool:
        feeds = fleet.feeds.values()
        tapes = [tape for feed in feeds for tape in feed.batcher.tapes.values()]
        return all(feed.state == "RUNNING" for feed in feeds) and all(t.proven and not t.holes for t in tapes)

    await until(quiet)
    for feed in fleet.feeds.values():
        feed.batcher.close(2**62)  # nobody will pass the last borders any more
        await until(lambda feed=feed: feed.batcher.waiting == 0 and feed.published == feed.batcher.taken)
    return await heard(await bed.connect())


@on
async def test_recorded_frames_arrive_as_the_parser_reads_them(nats_bed: NatsBed, tmp_path: Path):
    names = tuple(recorded.window_instrument(section).id for section in recorded.WINDOW)
    options = Options(speed=MAX, await_streams=5)  # prints of three, marks of two
    async with (
        serve(f"replay:{FIXTURES}", options) as exchange,
        running(nats_bed, exchange, tmp_path, names, Stream.TRADE) as fleet,
    ):
        found = await all_heard(nats_bed, exchange, fleet)
        for section in recorded.WINDOW:
            expected = recorded.window_trades(section)
            trades = found.trades(recorded.window_instrument(section).id)
            order = np.argsort(expected.id, kind="stable")
            expected = expected._replace(flags=expected.flags | np.uint8(TradeFlag.SINGLE))
            for name in Trades._fields:
                if name != "received_ns":
                    np.testing.assert_array_equal(getattr(trades, name), getattr(expected, name)[order], err_msg=name)
        assert found.behind == []
        assert all(feed.refused == 0 for feed in fleet.feeds.values())


@pytest.mark.parametrize("seed", [1, 2])
def test_with_every_fault_of_the_venue_nothing_is_lost_or_doubled(nats_bed: NatsBed, tmp_path: Path, seed: int):
    faults = (
        f"seed={seed},disconnect=0.001,halfframe=0.0005,wreck=0.0005,garbage=0.01,duplicate=0.02,skip=0.005,"
        "reorder=0.01:8,delay=0.005:300,refuse=0.1,rest429=0.02:1,rest500=0.05,rest503=0.05,resthalf=0.05,restslow=0.1:100"
    )
    generous = {name: limits.__class__(weight_per_minute=0) for name, limits in LIMITS.items()}
    options = Options(
        speed=15, start_ns=START_NS, until_ns=START_NS + 75 * NS, await_streams=2, faults=faults, limits=generous
    )

    @on
    async def storm(nats_bed: NatsBed) -> None:
        async with (
            serve(source_of("sim:7", ("BTC",)), options) as exchange,
            running(nats_bed, exchange, tmp_path, (SPOT, LINEAR), Stream.AGGREGATE) as fleet,
        ):
            await until(exchange.done.is_set)
            exchange.trouble.faults = type(exchange.trouble.faults)()
            found = await all_heard(nats_bed, exchange, fleet)
            assert {"garbage", "duplicate"} < set(exchange.trouble.counts)
            for name in (SPOT, LINEAR):
                trades = found.trades(name)
                rows = exchange.truth(SECTIONS[name], "BTCUSDT", True, int(trades.id[0]), int(trades.id[-1]))
                feed = fleet.feeds["binance", SECTIONS[name]]
                truth = feed.venue.parse_many(feed.section.name, feed.instruments, rows, [0] * len(rows)).trades[name]
                for column in ("id", "exchange_ns", "price", "qty", "side"):
                    np.testing.assert_array_equal(getattr(trades, column), getattr(truth, column), err_msg=column)
            assert sum(feed.backfilled for feed in fleet.feeds.values()) > 0
            assert sum(feed.refused for feed in fleet.feeds.values()) > 0
            times = [mark.exchange_ns for mark in found.watermarks if mark.feed == "spot"]
            assert times == sorted(set(times))

    storm(nats_bed=nats_bed)


class Ear:
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.signs: list[bool] = []
        self.reason = ""

    def frame(self, frame: bytes, received_ns: int) -> None:
        assert received_ns > 1_600_000_000 * NS
        self.frames.append(frame)

    def alive(self, *, pong: bool) -> None:
        self.signs.append(pong)

    def ping(self, answer: Callable[[], None]) -> None:
        self.signs.append(False)
        answer()

    def lost(self, reason: str) -> None:
        self.reason = reason


class Peer:
    """The other end of one connection."""

    def __init__(self) -> None:
        peer = self

        class Listener(WSListener):
            def on_ws_connected(self, transport):
                peer.transport = transport

            def on_ws_frame(self, transport, frame):  # noqa: ARG002 - its name is the protocol's
                peer.heard.append((frame.msg_type, frame.get_payload_as_bytes()))

        self.listener = Listener
        self.transport = None
        self.heard: list[tuple[WSMsgType, bytes]] = []


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[Peer, Ear, Link]]:
    peer, ear = Peer(), Ear()
    server = await ws_create_server(lambda _request: peer.listener(), "127.0.0.1", 0, enable_auto_pong=True)
    port = server.sockets[0].getsockname()[1]
    try:
        link = await connector(SYSTEM)(f"ws://127.0.0.1:{port}/", ear)
        await until(lambda: peer.transport is not None)
        yield peer, ear, link
    finally:
        server.close()
        if peer.transport is not None:
            peer.transport.disconnect(graceful=False)


def test_a_link_puts_parts_together_answers_pings_and_says_how_it_ended():
    async def talk() -> None:
        async with linked() as (peer, ear, link):
            peer.transport.send(WSMsgType.TEXT, b"whole")
            peer.transport.send(WSMsgType.TEXT, b"in ", fin=False)
            peer.transport.send(WSMsgType.CONTINUATION, b"three ", fin=False)
            peer.transport.send(WSMsgType.CONTINUATION, b"parts")
            peer.transport.send_ping(b"there?")
            link.send(b"hello")
            link.ping()
            await until(lambda: len(ear.frames) == 2 and len(ear.signs) == 2 and len(peer.heard) >= 2)
            assert ear.frames == [b"whole", b"in three parts"]
            assert sorted(ear.signs) == [False, True]
            assert (WSMsgType.TEXT, b"hello") in peer.heard
            assert (WSMsgType.PONG, b"there?") in peer.heard
            link.pause()
            peer.transport.send(WSMsgType.TEXT, b"later")
            await asyncio.sleep(0.05)
            assert len(ear.frames) == 2
            link.resume()
            await until(lambda: ear.frames[-1] == b"later")
            peer.transport.send_close(1001, b"maintenance")
            peer.transport.disconnect()
            await until(lambda: bool(ear.reason))
            assert "maintenance" in ear.reason

    asyncio.run(talk())


@pytest.mark.parametrize(
    "wreck", [b"\x81\x85half", b"\xff\xff\xff\xff" * 4, b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff"]
)
def test_bytes_that_are_no_frames_end_a_link_and_nothing_else(wreck):
    async def talk() -> None:
        async with linked() as (peer, ear, _):
            peer.transport.underlying_transport.write(wreck)
            peer.transport.underlying_transport.close()
            await until(lambda: bool(ear.reason))
            assert ear.frames == []

    asyncio.run(talk())


def test_what_is_not_there_is_said_with_its_address(tmp_path: Path):
    async def ask() -> None:
        with pytest.raises(LinkError, match=re.escape("ws://127.0.0.1:1/ could not be reached")):
            await connector(SYSTEM)("ws://127.0.0.1:1/", Ear())
        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(AskError, match=re.escape("http://127.0.0.1:1/x could not be asked")):
                await fetcher(client)("http://127.0.0.1:1/x")

    asyncio.run(ask())
    places = Places(tmp_path / "endpoints.json")
    with pytest.raises(AskError, match="is the venue started"):
        places.websocket("binance", "spot")("wss://host/x")
    (tmp_path / "endpoints.json").write_text('{"binance": {"spot": {"websocket": "ws://host/y", "rest": ""}}}')
    assert places.websocket("binance", "spot")("wss://host/x") == "ws://host/y"
    assert places.websocket("binance", "linear")("wss://host/x") == "wss://host/x"
    (tmp_path / "endpoints.json").write_text('{"binance": 7}')
    with pytest.raises(AskError, match="cannot be read"):
        places.websocket("binance", "spot")("wss://host/x")
