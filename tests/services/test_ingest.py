"""Ingest under virtual time: a simulated market's own messages, networks that break, venues that stall."""

import asyncio
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from squeeze_ingest import feed as feed_module
from squeeze_ingest import lines
from squeezecore.adapters.asking import Answer
from squeezecore.adapters.loopback import source_of
from squeezecore.adapters.loopback_source import Source
from squeezecore.market import TradeFlag
from squeezecore.venues import Feed as Stream
from squeezecore.venues import venue
from squeezecore.wire import BORDER_NS
from support.feeding import INVERSE, LINEAR, NS, SPOT, START_NS, Exchange, Faults, Heard, World, in_world

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


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment_it_goes_on_without_a_hole(source, seed):
    async def kills(world: World) -> None:
        await world.watch(SPOT, LINEAR, INVERSE)
        for _ in range(6):
            world.begin()
            await asyncio.sleep(world.exchange.random.uniform(0.5, 9))
            await world.kill()
            await asyncio.sleep(world.exchange.random.uniform(0, 4))
        fleet = world.begin()
        await asyncio.sleep(4)
        await world.settle(lambda: is_whole(fleet))
        await asyncio.sleep(4)
        heard = await world.heard()
        for name in SECTIONS:
            heard.assert_whole(world.exchange, instrument_of(fleet, name), copies=2)
        assert_promises(heard)
        assert sum(feed.backfilled for feed in fleet.feeds.values()) > 0

    in_world(source, kills, seed=seed)


def test_two_at_once_are_as_one(source):
    async def pair(world: World) -> None:
        await world.watch(SPOT, LINEAR)
        fleets = [world.begin("a"), world.begin("b")]
        await asyncio.sleep(30)
        for link in world.exchange.open[:2]:  # one of them misses something now
            link.end("the connection broke")
        await asyncio.sleep(30)
        heard = await world.heard()
        sent = sum(feed.published for fleet in fleets for feed in fleet.feeds.values())
        held = sum(len(block.id) for blocks in heard.blocks.values() for block in blocks)
        for name in (SPOT, LINEAR):
            heard.assert_whole(world.exchange, instrument_of(fleets[0], name), copies=2)
        assert sum(feed.copies for fleet in fleets for feed in fleet.feeds.values()) > 200
        assert held < 0.6 * sent
        # A pod whose connection is gone does not hold up the other's seconds.
        for section in ("spot", "linear"):
            marks = [mark.exchange_ns for mark in heard.watermarks if mark.feed == section]
            assert world.clock.now_ns() - max(marks) < 4 * NS

    in_world(source, pair)


def test_a_venue_that_does_not_answer_is_dead_after_ten_seconds_and_alive_again_later(source):
    async def mute(world: World) -> None:
        await world.watch(SPOT, LINEAR)
        fleet = world.begin()
        await asyncio.sleep(20)
        world.exchange.online = False
        for link in world.exchange.open:
            link.mute = True  # half-open: nothing comes, nobody says so
        fell_ns = world.clock.now_ns()
        await asyncio.sleep(9)
        before = await world.heard()
        assert all(mark.alive for mark in before.watermarks)
        assert max(mark.exchange_ns for mark in before.watermarks) < fell_ns
        await asyncio.sleep(20)
        assert {feed.state for feed in fleet.feeds.values()} == {"DOWN"}
        during = await world.heard()
        for section in ("spot", "linear"):
            last = [mark for mark in during.watermarks if mark.feed == section][-1]
            assert not last.alive
            assert world.clock.now_ns() - last.exchange_ns < 4 * NS
        world.exchange.online = True
        await world.settle(lambda: is_whole(fleet))
        await asyncio.sleep(15)
        heard = await world.heard()
        for name in (SPOT, LINEAR):
            heard.assert_whole(world.exchange, instrument_of(fleet, name))
        assert heard.behind != []  # what came after the promise without the venue: repairs
        assert_promises(heard)
        for section in ("spot", "linear"):
            last = [mark for mark in heard.watermarks if mark.feed == section][-1]
            assert last.alive
            assert last.connection >= 2

    in_world(source, mute)


def test_a_hole_holds_the_watermark_for_ten_seconds_and_is_closed_when_it_can_be(source):
    async def hole(world: World) -> None:
        await world.watch(LINEAR)
        fleet = world.begin()
        await asyncio.sleep(10)
        world.exchange.faults = Faults(rest_failing=1.0, lost=0.3)
        await asyncio.sleep(1)
        world.exchange.faults = Faults(rest_failing=1.0)
        feed = feed_of(fleet, LINEAR)
        assert feed.holes() != []
        first_ns = min(hole.before_ns for hole in feed.holes())
        await asyncio.sleep(8)
        assert feed.marked_ns <= first_ns
        await asyncio.sleep(8)
        assert feed.marked_ns > first_ns
        assert world.clock.now_ns() - feed.marked_ns < 4 * NS
        assert all(hole.passed and hole.tries > 0 for hole in feed.holes())
        assert feed.describe()["holes_open"] == len(feed.holes())
        assert "could not be asked" in feed.describe()["last_error"]
        world.exchange.faults = Faults()
        await world.settle(lambda: is_whole(fleet))
        await asyncio.sleep(5)
        heard = await world.heard()
        heard.assert_whole(world.exchange, instrument_of(fleet, LINEAR))
        assert heard.behind != []

    in_world(source, hole)


class Silent:
    """A market in which nobody trades."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __getattr__(self, name):
        return getattr(self._source, name)

    def frames(self, *_):
        return []


def test_silence_is_promised_as_far_as_the_venues_own_clock_has_come(source):
    async def silence(world: World) -> None:
        await world.watch(SPOT)
        fleet = world.begin()
        await asyncio.sleep(30)
        heard = await world.heard()
        assert heard.batches == []
        assert len(heard.watermarks) > 20
        for mark in heard.watermarks:
            assert mark.alive
        assert 1 <= (world.exchange.now_ns() - heard.watermarks[-1].exchange_ns) / NS < 4
        assert feed_of(fleet, SPOT).state == "RUNNING"

    in_world(Silent(source), silence)


@pytest.mark.parametrize("again", [False, True])
def test_nothing_is_promised_from_before_the_venue_confirmed_that_it_would_tell(source, again):
    async def slow(world: World) -> None:
        await world.watch(SPOT, LINEAR)
        if again:  # then the clocks' difference is known from the start
            world.begin()
            await asyncio.sleep(10)
            await world.kill()
        before = len((await world.heard()).watermarks)
        world.exchange.confirms_s = 7.0
        fleet = world.begin()
        await asyncio.sleep(6.5)
        assert len((await world.heard()).watermarks) == before
        confirmed_ns = world.exchange.now_ns() + NS // 2
        await asyncio.sleep(20)
        heard = await world.heard()
        for name in (SPOT, LINEAR):
            heard.assert_whole(world.exchange, instrument_of(fleet, name))
        marks = heard.watermarks[before:]
        assert len(marks) > 20
        assert min(mark.exchange_ns for mark in marks) >= confirmed_ns

    in_world(source, slow)


def test_a_stream_that_is_added_is_promised_from_when_it_was_confirmed():
    many = source_of("sim:7", ("BTC",), clones=1)

    async def added(world: World) -> None:
        listed, _ = venue("binance").instruments("linear", many.exchange_info("linear", START_NS))
        await world.watch(LINEAR)
        fleet = world.begin()
        await asyncio.sleep(10)
        world.exchange.confirms_s = 4.0
        before = await world.heard()
        added_ns = world.exchange.now_ns()
        await world.watch(*(one.id for one in listed))
        await asyncio.sleep(3.9)
        waiting = await world.heard()
        assert max(mark.exchange_ns for mark in waiting.watermarks) < added_ns
        await asyncio.sleep(10)
        heard = await world.heard()
        later = [mark for mark in heard.watermarks if mark.exchange_ns >= added_ns]
        assert min(mark.exchange_ns for mark in later) >= added_ns + 4 * NS
        assert all(mark.alive for mark in later)
        assert len(later) > 4
        assert len(world.exchange.links) == 1
        assert len(before.watermarks) <= len(waiting.watermarks) <= len(before.watermarks) + 1
        for one in feed_of(fleet, LINEAR).instruments.values():
            heard.assert_whole(world.exchange, one)

    in_world(many, added)


def test_pausing_closes_the_connections_and_resuming_asks_for_what_was_missed(source):
    async def pause(world: World) -> None:
        await world.watch(SPOT, LINEAR)
        fleet = world.begin()
        await asyncio.sleep(5)
        feed_of(fleet, SPOT).pause(on=True)
        await asyncio.sleep(15)
        assert [link.section for link in world.exchange.open] == ["linear"]
        assert feed_of(fleet, SPOT).state == "PAUSED"
        assert not feed_of(fleet, SPOT).alive
        feed_of(fleet, SPOT).pause(on=False)
        await world.settle(lambda: is_whole(fleet))
        await asyncio.sleep(5)
        heard = await world.heard()
        heard.assert_whole(world.exchange, instrument_of(fleet, SPOT))
        assert feed_of(fleet, SPOT).alive

    in_world(source, pause)


def test_a_changed_list_is_picked_up_without_losing_anything(source):
    async def change(world: World) -> None:
        fleet = world.begin()
        await asyncio.sleep(3)
        assert fleet.feeds == {}
        assert "not there yet" in fleet.waiting["assets"]
        await world.watch(LINEAR)
        await asyncio.sleep(5)
        assert set(fleet.feeds) == {("binance", "linear")}
        await world.bus.put("config", "assets", b'{"BTC": 1}')
        await asyncio.sleep(5)
        assert "the one before holds" in fleet.waiting["assets"]
        await world.watch(LINEAR, SPOT, "binance:NO-SUCH")
        await asyncio.sleep(5)
        assert set(fleet.feeds) == {("binance", "linear"), ("binance", "spot")}
        assert "does not list it" in fleet.waiting["binance:NO-SUCH"]
        linear = instrument_of(fleet, LINEAR)
        await world.watch(SPOT)
        await asyncio.sleep(5)
        assert set(fleet.feeds) == {("binance", "spot")}
        assert [link.section for link in world.exchange.open] == ["spot"]
        assert fleet.waiting == {}
        heard = await world.heard()
        heard.assert_whole(world.exchange, linear)
        heard.assert_whole(world.exchange, instrument_of(fleet, SPOT))
        assert len(world.exchange.links) == 2  # nothing was connected anew

    in_world(source, change)


def test_a_connection_is_replaced_before_the_venue_ends_it_and_nobody_notices(source, monkeypatch):
    monkeypatch.setattr(lines, "LIFE_SHARE", 10 / 86_400)
    monkeypatch.setattr(lines, "LIFE_JITTER", 0.0)

    async def life(world: World) -> None:
        await world.watch(LINEAR)
        fleet = world.begin()
        await asyncio.sleep(60)
        links = world.exchange.links
        assert len(links) >= 2
        assert len(world.exchange.open) == 1
        heard = await world.heard()
        heard.assert_whole(world.exchange, instrument_of(fleet, LINEAR))
        feed = feed_of(fleet, LINEAR)
        assert feed.backfilled == 0  # the old one went on until the new one had begun
        assert heard.behind == []
        assert feed.errors == 0
        assert heard.watermarks[-1].connection == len(links)

    in_world(source, life)


def test_streams_are_shared_out_over_connections_and_asked_for_no_faster_than_allowed(source):
    many = source_of("sim:7", ("BTC",), clones=12)

    async def limits(world: World) -> None:
        listed, _ = venue("binance").instruments("linear", many.exchange_info("linear", START_NS))
        fleet = world.begin()
        await world.watch(LINEAR)
        await asyncio.sleep(2)
        feed = feed_of(fleet, LINEAR)
        feed.section = msgspec.structs.replace(feed.section, streams_max=8, messages_per_s_max=2)
        await world.watch(*(one.id for one in listed))
        await asyncio.sleep(20)
        assert len(listed) == 13
        assert len(world.exchange.open) == 4  # four instruments each, two streams an instrument
        assert max(len(link.streams) for link in world.exchange.open) == 8
        heard = await world.heard()
        for one in feed.instruments.values():
            heard.assert_whole(world.exchange, one)

    in_world(many, limits)


def test_large_subscriptions_are_asked_for_in_parts(monkeypatch):
    monkeypatch.setattr(lines, "SUBSCRIBE_MAX", 3)
    many = source_of("sim:7", ("BTC",), clones=12)

    async def parts(world: World) -> None:
        listed, _ = venue("binance").instruments("spot", many.exchange_info("spot", START_NS))
        await world.watch(*(one.id for one in listed))
        fleet = world.begin()
        await asyncio.sleep(5)
        [link] = world.exchange.open
        times = [at for at, _ in link.sent]
        assert len(times) == 5
        gaps = [after - before for before, after in pairwise(times)]
        assert min(gaps) >= 1 / feed_of(fleet, SPOT).section.messages_per_s_max - 1e-6
        assert len(link.streams) == 13

    in_world(many, parts)


def test_a_bus_that_is_away_stops_the_reading_and_loses_nothing(source, monkeypatch):
    monkeypatch.setattr(feed_module, "WAITING_MAX", 100)

    async def away(world: World) -> None:
        await world.watch(LINEAR)
        fleet = world.begin()
        await asyncio.sleep(5)
        world.server.stop()
        await asyncio.sleep(60)
        [link] = world.exchange.open
        assert not link.reading
        assert feed_of(fleet, LINEAR).batcher.waiting < 400
        world.server.start()
        await asyncio.sleep(10)
        assert link.reading
        heard = await world.heard()
        heard.assert_whole(world.exchange, instrument_of(fleet, LINEAR))
        assert heard.behind == []

    in_world(source, away)


def test_it_waits_for_a_venue_that_is_not_there_and_says_so_once(source, capsys):
    async def offline(world: World) -> None:
        world.exchange.online = False
        await world.watch(SPOT)
        fleet = world.begin()
        await asyncio.sleep(120)
        assert fleet.feeds == {}
        assert "could not be asked" in fleet.waiting[SPOT]
        assert (await world.heard()).watermarks == []
        world.exchange.online = True
        await asyncio.sleep(20)
        assert feed_of(fleet, SPOT).state == "RUNNING"
        world.exchange.online = False
        for link in world.exchange.open:
            link.end("the connection broke")
        await asyncio.sleep(300)
        assert feed_of(fleet, SPOT).errors > 5

    in_world(source, offline)
    said = capsys.readouterr().out
    assert said.count("could not be asked") == 1
    assert said.count("could not be reached") == 1


def test_a_venue_that_says_too_much_is_left_alone_for_as_long_as_it_says(source):
    async def limited(world: World) -> None:
        await world.watch(LINEAR)
        fleet = world.begin()
        await asyncio.sleep(5)
        world.exchange.answers = [Answer(429, b"", {"retry-after": "7"}), Answer(418, b"", {"retry-after": "20"})]
        world.exchange.faults = Faults(lost=0.3)
        await asyncio.sleep(1)
        world.exchange.faults = Faults()
        before_s, asked = asyncio.get_running_loop().time(), len(world.exchange.asked)
        await world.settle(lambda: not feed_of(fleet, LINEAR).holes())
        assert asyncio.get_running_loop().time() - before_s > 25
        assert len(world.exchange.asked) - asked < 12
        assert fleet.turned_away == 2
        await asyncio.sleep(3)
        (await world.heard()).assert_whole(world.exchange, instrument_of(fleet, LINEAR))

    in_world(source, limited)


def test_single_prints_are_read_and_their_holes_closed_from_the_recent_ones(source):
    async def single(world: World) -> None:
        await world.watch(SPOT, LINEAR)
        fleet = world.begin(stream=Stream.TRADE)
        await asyncio.sleep(5)
        for link in world.exchange.open:
            link.end("the connection broke")
        await asyncio.sleep(10)
        heard = await world.heard()
        for name in (SPOT, LINEAR):
            ids = heard.trades(name).id
            assert (ids[1:] - ids[:-1] == 1).all()
            assert feed_of(fleet, name).backfilled > 0
        assert {"public", "market"} == {
            link.url.split("/")[3] for link in world.exchange.open if link.section == "linear"
        }
        assert any(fact.instrument == LINEAR for fact in heard.marks)

    in_world(source, single)


@pytest.mark.parametrize("first", [Stream.AGGREGATE, Stream.TRADE])
def test_another_setting_begins_ids_anew(source, first):
    second = Stream.TRADE if first is Stream.AGGREGATE else Stream.AGGREGATE

    async def changed(world: World) -> None:
        await world.watch(SPOT)
        for stream in (first, second, first):
            before = len((await world.heard()).blocks.get(SPOT, []))
            fleet = world.begin(stream=stream)
            await asyncio.sleep(12)
            await world.kill()
            heard = await world.heard()
            ids = np.concatenate([block.id for block in heard.blocks[SPOT][before:]])
            flags = np.concatenate([block.flags for block in heard.blocks[SPOT][before:]])
            assert len(ids) > 10
            assert (np.diff(np.sort(ids)) == 1).all()
            assert set((flags & np.uint8(TradeFlag.SINGLE)).tolist()) == {128 if stream is Stream.TRADE else 0}
            feed = feed_of(fleet, SPOT)
            assert (feed.backfilled, feed.holes()) == (0, [])  # what the other kind brought is not asked for again

    in_world(source, changed)


def test_a_mad_time_moves_no_promise_and_delays_nothing_else(source):
    async def mad(world: World) -> None:
        await world.watch(LINEAR)
        fleet = world.begin()
        await asyncio.sleep(10)
        feed = feed_of(fleet, LINEAR)
        [link] = world.exchange.open
        high_id = feed.batcher.tapes[LINEAR].high_id
        frame = {
            "e": "aggTrade",
            "E": 1,
            "s": "BTCUSDT",
            "a": high_id + 10**6,
            "p": "1.0",
            "q": "1.000",
            "f": 1,
            "l": 1,
        }
        link.say(msgspec.json.encode(frame | {"T": (START_NS + 10**6 * NS) // 10**6, "m": True}))
        await asyncio.sleep(20)
        assert abs(world.clock.now_ns() - feed.marked_ns) < 14 * NS
        heard = await world.heard()
        assert max(mark.exchange_ns for mark in heard.watermarks) < world.clock.now_ns()
        assert heard.trades(LINEAR).id[-1] > high_id + 20
        assert abs(feed.wall_skew_ns) < NS

    in_world(source, mad)


@pytest.mark.parametrize("seed", range(6))
def test_with_everything_at_once_nothing_is_lost(source, seed):
    async def everything(world: World) -> None:
        exchange, random = world.exchange, world.exchange.random
        await world.watch(SPOT, LINEAR, INVERSE)
        fleets = {name: world.begin(name) for name in ("a", "b")}
        for _ in range(8):
            await asyncio.sleep(random.uniform(0.2, 6))
            name, pause_s = str(random.choice(["a", "b"])), random.uniform(0.1, 8)
            event = random.choice(["kill", "bus", "venue", "mute", "pause"])
            if event == "kill":
                await world.kill(name)
                await asyncio.sleep(pause_s)
                fleets[name] = world.begin(name)
            elif event == "bus":
                world.server.stop()
                await asyncio.sleep(pause_s)
                world.server.start()
            elif event == "venue":
                exchange.online = False
                for link in exchange.open:
                    link.end("the venue went away")
                await asyncio.sleep(2 * pause_s)
                exchange.online = True
            elif event == "mute":
                for link in exchange.open:
                    link.mute = bool(random.random() < 0.5)
            else:
                for feed in fleets[name].feeds.values():
                    feed.pause(on=True)
                await asyncio.sleep(pause_s)
                for feed in fleets[name].feeds.values():
                    feed.pause(on=False)
        exchange.faults = Faults()
        await asyncio.sleep(lines.ANSWER_S_MAX + 1)  # a mute connection is found out
        await world.settle(lambda: all(fleet.feeds and is_whole(fleet) for fleet in fleets.values()))
        await asyncio.sleep(6)
        heard = await world.heard()
        for name in SECTIONS:
            heard.assert_whole(exchange, instrument_of(fleets["a"], name), copies=20)
        for fleet in fleets.values():
            for feed in fleet.feeds.values():
                assert world.clock.now_ns() - feed.marked_ns < 6 * NS
                assert feed.batcher.waiting < 200

    faults = Faults(lost=0.01, doubled=0.02, swapped=0.02, garbled=0.01, cut_per_s=0.05, refused=0.1, rest_failing=0.1)
    in_world(source, everything, faults, seed)


def test_an_ingest_that_is_cut_off_spoils_no_second_that_another_hears(source):
    async def half(world: World) -> None:
        other = Exchange(source, world.clock)
        await world.watch(SPOT, LINEAR)
        fleets = [world.begin("a"), world.begin("b", exchange=other)]
        await asyncio.sleep(20)
        other.online = False
        for link in other.open:
            link.mute = True
        await asyncio.sleep(30)
        assert [feed.state for feed in fleets[1].feeds.values()] == ["DOWN", "DOWN"]
        assert not any(feed.alive for feed in fleets[1].feeds.values())
        heard = await world.heard()
        assert all(mark.alive for mark in heard.watermarks)
        assert world.clock.now_ns() - max(mark.exchange_ns for mark in heard.watermarks) < 4 * NS
        await world.kill("a")
        await asyncio.sleep(15)
        heard = await world.heard()
        assert not heard.watermarks[-1].alive  # now nobody hears it
        assert world.clock.now_ns() - heard.watermarks[-1].exchange_ns < 4 * NS

    in_world(source, half)


def test_more_missed_prints_than_may_wait_do_not_stop_the_feed(source, monkeypatch):
    monkeypatch.setattr(feed_module, "WAITING_MAX", 50)

    async def missed(world: World) -> None:
        await world.watch(LINEAR)
        fleet = world.begin()
        await asyncio.sleep(5)
        feed_of(fleet, LINEAR).pause(on=True)
        await asyncio.sleep(40)
        feed_of(fleet, LINEAR).pause(on=False)
        await world.settle(lambda: is_whole(fleet))
        await asyncio.sleep(5)
        feed = feed_of(fleet, LINEAR)
        assert feed.backfilled > 200
        assert world.clock.now_ns() - feed.marked_ns < 4 * NS
        (await world.heard()).assert_whole(world.exchange, instrument_of(fleet, LINEAR))

    in_world(source, missed)
