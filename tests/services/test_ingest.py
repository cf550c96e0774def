"""Ingest under virtual time: a simulated market's own messages, networks that break, venues that stall."""

import asyncio

import pytest

from squeezecore.adapters.loopback import source_of
from squeezecore.adapters.loopback_source import Source
from squeezecore.wire import BORDER_NS
from support.feeding import INVERSE, LINEAR, NS, SPOT, START_NS, Faults, Heard, World, in_world

SECTIONS = {SPOT: "spot", LINEAR: "linear", INVERSE: "inverse"}


@pytest.fixture(scope="module")
def source() -> Source:
    return source_of("sim:7", ("BTC",))


def feed_of(fleet, name):
    return fleet.feeds["binance", SECTIONS[name]]


def instrument_of(fleet, name):
    return next(each for each in feed_of(fleet, name).instruments.values() if each.id == name)


def is_whole(fleet):
    """Say whether everything is up, and nothing is missing or in doubt."""
    feeds = fleet.feeds.values()
    tapes = [tape for feed in feeds for tape in feed.batcher.tapes.values()]
    return all(feed.state == "RUNNING" for feed in feeds) and all(t.proven and not t.holes for t in tapes)


def assert_promises(heard: Heard) -> None:
    """Assert what holds of watermarks whatever happens."""
    for section in {mark.feed for mark in heard.watermarks}:
        marks = [mark for mark in heard.watermarks if mark.feed == section]
        times = [mark.exchange_ns for mark in marks]
        assert times == sorted(set(times))
        assert all(time % BORDER_NS == 0 for time in times)
        connects = [mark.connection for mark in marks]
        assert connects == sorted(connects)


def test_a_quiet_minute_arrives_whole_and_watermarks_follow_it(source):
    async def minute(world: World) -> None:
        await world.watch(SPOT, LINEAR, INVERSE)
        fleet = world.begin()
        await asyncio.sleep(60)
        heard = await world.heard()
        for name in SECTIONS:
            assert heard.assert_whole(world.exchange, instrument_of(fleet, name)) > 20
        assert heard.behind == []
        assert_promises(heard)
        last = {mark.feed: mark for mark in heard.watermarks}
        assert all(mark.alive and mark.connection == 1 for mark in heard.watermarks)
        assert len(heard.watermarks) > 3 * 50
        for mark in last.values():
            assert 0 <= (world.clock.now_ns() - mark.exchange_ns) / NS < 4
        # One batch a border: nothing was cut in two, nothing came late.
        borders = [(batch.feed, batch.border_ns) for batch in heard.batches]
        assert len(borders) == len(set(borders))
        # A mark each second and perpetual, known from the second after it on.
        for name in (LINEAR, INVERSE):
            known = [fact.known_at for fact in heard.marks if fact.instrument == name]
            assert known == list(range(known[0], known[-1] + 1))
            assert len(known) >= 58
            assert known[0] > START_NS // NS

    in_world(source, minute)


@pytest.mark.parametrize("seed", range(6))
def test_every_print_arrives_whatever_the_network_does(source, seed):
    async def storm(world: World) -> None:
        await world.watch(SPOT, LINEAR)
        fleet = world.begin()
        await asyncio.sleep(40)
        world.exchange.faults = Faults()
        await asyncio.sleep(2)
        await world.settle(lambda: is_whole(fleet))
        await asyncio.sleep(5)
        heard = await world.heard()
        for name in (SPOT, LINEAR):
            heard.assert_whole(world.exchange, instrument_of(fleet, name))
        assert_promises(heard)
        feeds = fleet.feeds.values()
        assert sum(feed.backfilled for feed in feeds) > 0
        assert sum(feed.batcher.doubled for feed in feeds) > 0
        assert sum(feed.refused for feed in feeds) > 0
        assert all("binance" in feed.refused_sample for feed in feeds if feed.refused)
        assert all(feed.batcher.waiting < 100 for feed in feeds)

    faults = Faults(lost=0.03, doubled=0.05, swapped=0.05, garbled=0.02, cut_per_s=0.1, refused=0.2, rest_failing=0.2)
    in_world(source, storm, faults, seed)


@pytest.mark.parametrize("seed", range(4))
def test_after_a_lost_connection_nothing_comes_behind_a_watermark(source, seed):
    async def cuts(world: World) -> None:
        await world.watch(SPOT, LINEAR)
        fleet = world.begin()
        await asyncio.sleep(60)
        world.exchange.faults = Faults()
        await asyncio.sleep(10)
        heard = await world.heard()
        for name in (SPOT, LINEAR):
            heard.assert_whole(world.exchange, instrument_of(fleet, name))
        for batch in heard.behind:  # only where the connection was gone for so long that the venue counted as dead
            passed = next(m for m in heard.watermarks if m.feed == batch.feed and m.exchange_ns >= batch.border_ns)
            assert not passed.alive
        assert_promises(heard)
        assert max(mark.connection for mark in heard.watermarks) > 2
        assert sum(feed.backfilled for feed in fleet.feeds.values()) > 0

    in_world(source, cuts, Faults(cut_per_s=0.15), seed)
