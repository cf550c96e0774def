"""The simulated exchanges: what they tell is the market's truth in the venue's own words, whatever goes wrong on the way."""

import asyncio
import datetime as dt
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from picows import WSCloseCode, WSHandshakeError, ws_connect

from squeezecore.adapters.loopback import MAX, Loopback, Options, main, rest_limits, serve, source_of
from squeezecore.adapters.loopback_faults import KINDS, parse_faults
from squeezecore.adapters.loopback_frames import Template, frames_from, merge
from squeezecore.adapters.loopback_recording import Recorder, read_lines, recorded_files
from squeezecore.adapters.loopback_replay import Recorded
from squeezecore.adapters.loopback_rest import Weights
from squeezecore.adapters.loopback_sockets import LIMITS, Limits
from squeezecore.adapters.loopback_source import NS, SECTIONS, Query
from squeezecore.adapters.loopback_world import STRETCH_S, Simulated
from squeezecore.errors import ParseError, UsageError
from squeezecore.market import DAY_S, Quote, Trade, Trades, cut
from squeezecore.simulator import WorldSpec, instruments, simulate_day, simulate_trades
from squeezecore.venues import Feed, Unknown, trades_of, venue
from support import recorded
from support.command import eventually
from support.loopback import Client, connected, get, hear_all, running, start, url

BINANCE = venue("binance")
NOON = 1_767_268_800  # 2026-01-01T12:00
QUIET = WorldSpec(seed=7, assets=("DOGE",))  # whose days are made quickly
QUIET_NATIVE = {"spot": "DOGEUSDT", "linear": "DOGEUSDT", "inverse": "DOGEUSD_PERP"}
NATIVE = {"spot": "BTCUSDT", "linear": "BTCUSDT", "inverse": "BTCUSD_PERP"}
LISTED = {one.section: one for one in instruments("BTC")}


def a_while(seconds: int, **more: object) -> Options:
    """Options of a virtual clock that begins at noon."""
    return Options(speed=MAX, start_ns=NOON * NS, until_ns=(NOON + seconds) * NS, **more)  # type: ignore[arg-type]


def stream(section: str, what: str) -> str:
    return f"{NATIVE[section].lower()}@{what}"


def parsed(section: str, frames: list[bytes]) -> Trades:
    """Read frames as ingest does."""
    one = LISTED[section]
    events = [event for frame in frames for event in BINANCE.parse(section, {one.native_symbol: one}, frame, 0)]
    return trades_of(events)[one.id]


def same(one: Trades, other: Trades, *but: str) -> None:
    for name, mine, theirs in zip(Trades._fields, one, other, strict=True):
        assert name in but or np.array_equal(mine, theirs), name


# -- a simulated market ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", SECTIONS)
def test_trades_on_the_wire_are_the_simulated_prints(section: str) -> None:
    async def run() -> list[bytes]:
        async with serve("sim:7", a_while(20)) as exchange, connected(url(exchange, section)) as client:
            assert await client.ask("SUBSCRIBE", [stream(section, "trade")]) == {"result": None, "id": 1}
            await hear_all(exchange, client)
            return client.heard

    prints = simulate_trades(WorldSpec(seed=7), "BTC", NOON, NOON + 20)[LISTED[section].id]
    same(parsed(section, asyncio.run(run())), prints, "received_ns")


@pytest.mark.parametrize("section", SECTIONS)
def test_aggregates_add_up_to_their_trades_and_their_ids_run_on(section: str) -> None:
    source = Simulated(QUIET)
    market = source.markets[section, QUIET_NATIVE[section]]
    midnight = NOON // DAY_S * DAY_S // STRETCH_S
    last_aggregate = last_trade = None
    for stretch in (midnight - 1, midnight, midnight + 1):  # the day's border and an ordinary one
        trades, groups = source.stretch(market, False, stretch), source.stretch(market, True, stretch)
        assert np.array_equal(np.diff(groups.id), np.ones(groups.id.size - 1))
        assert np.array_equal(groups.first_id[1:], groups.last_id[:-1] + 1)
        assert (groups.first_id[0], groups.last_id[-1]) == (trades.id[0], trades.id[-1])
        start = np.searchsorted(trades.id, groups.first_id)
        assert np.array_equal(np.add.reduceat(trades.qty, start), groups.qty)
        of = np.repeat(np.arange(groups.id.size), groups.last_id - groups.first_id + 1)
        for name in ("price", "side", "exchange_ns"):
            assert np.array_equal(getattr(groups, name)[of], getattr(trades, name)), name
        if last_aggregate is not None:
            assert (groups.id[0], groups.first_id[0]) == (last_aggregate + 1, last_trade + 1)
        last_aggregate, last_trade = groups.id[-1], groups.last_id[-1]
        assert groups.id.size < trades.id.size  # some are joined


def test_two_processes_tell_the_same_whatever_they_were_asked_before() -> None:
    asked = Simulated(QUIET)
    for stretch in (-900, 60, 2):
        asked.stretch(asked.markets["linear", "DOGEUSDT"], True, NOON // STRETCH_S + stretch)
    query = Query(until_ns=NOON * NS, limit=50)
    assert asked.prints("linear", "DOGEUSDT", True, query) == Simulated(QUIET).prints("linear", "DOGEUSDT", True, query)


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("kind", ["trade", "aggTrade"])
def test_rest_by_id_adjoins_the_stream(section: str, kind: str) -> None:
    field, path = ("t", "historicalTrades") if kind == "trade" else ("a", "aggTrades")

    async def run() -> None:
        async with serve("sim:7", a_while(10)) as exchange, connected(url(exchange, section)) as client:
            await client.ask("SUBSCRIBE", [stream(section, kind)])
            await hear_all(exchange, client)
            heard = [json.loads(frame) for frame in client.heard]
            first = heard[0][field]
            answer = await get(exchange, section, f"{path}?symbol={NATIVE[section]}&fromId={first - 5}&limit=1000")
            rows = answer.json()
            assert [row["id" if kind == "trade" else "a"] for row in rows] == list(range(first - 5, first + len(heard)))
            for row, message in zip(rows[5:], heard, strict=True):
                if kind == "trade":
                    assert (row["price"], row["qty"], row["time"]) == (message["p"], message["q"], message["T"])
                    assert row["isBuyerMaker"] == message["m"]
                else:
                    assert {name: message[name] for name in row} == row

    asyncio.run(run())


def test_rest_does_not_know_the_future() -> None:
    async def run() -> None:
        async with serve("sim:7", a_while(5)) as exchange, connected(url(exchange, "spot")) as client:
            await client.ask("SUBSCRIBE", [stream("spot", "trade")])
            await hear_all(exchange, client)
            rows = (await get(exchange, "spot", "trades?symbol=BTCUSDT&limit=1")).json()
            assert rows[0]["id"] == json.loads(client.heard[-1])["t"]
            assert (await get(exchange, "spot", "time")).json() == {"serverTime": (NOON + 5) * 1000}

    asyncio.run(run())


@pytest.mark.parametrize("section", SECTIONS)
def test_prints_can_be_asked_for_from_far_back_and_by_time(section: str) -> None:
    source = Simulated(QUIET)
    market = source.markets[section, QUIET_NATIVE[section]]
    for aggregate in (False, True):
        for hours in (1, 30, 24 * 40):
            block = source.stretch(market, aggregate, (NOON - hours * 3600) // STRETCH_S)
            some = int(block.id[block.id.size // 3])
            found = source.found(market, aggregate, Query(until_ns=NOON * NS, limit=3, from_id=some))
            assert found.id.tolist() == [some, some + 1, some + 2]
            at = int(block.exchange_ns[block.id.size // 3])
            found = source.found(market, aggregate, Query(until_ns=NOON * NS, start_ns=at, end_ns=at))
            assert set(found.exchange_ns.tolist()) == {at}
            assert some in found.id
        assert source.found(market, aggregate, Query(until_ns=NOON * NS, from_id=2**60)).id.size == 0


def test_lists_name_the_simulated_instruments_and_the_clones() -> None:
    source = source_of("sim:7", ("BTC", "DOGE"), clones=2)
    for section in SECTIONS:
        found, unknown = BINANCE.instruments(section, source.exchange_info(section, 0))
        listed = [one for asset in ("BTC", "DOGE") for one in instruments(asset) if one.section == section]
        assert found[:2] == listed
        assert [one.base for one in found[2:]] == ["S000", "S001"]
        assert not unknown


def test_a_clone_prints_what_its_model_prints() -> None:
    source = source_of("sim:7", ("BTC",), clones=1)
    stretch = (NOON * NS, (NOON + 5) * NS)
    model = b"".join(source.frames("linear", "btcusdt@trade", *stretch)[0].texts())
    clone = b"".join(source.frames("linear", "s000usdt@trade", *stretch)[0].texts())
    assert clone == model.replace(b"BTCUSDT", b"S000USDT")


@pytest.mark.parametrize("section", SECTIONS)
def test_quotes_are_those_that_the_prints_traded_at(section: str) -> None:
    one = LISTED[section]
    source = Simulated(WorldSpec(seed=7))
    stretch = (NOON * NS, (NOON + 20) * NS)
    frames = source.frames(section, stream(section, "bookTicker"), *stretch)[0].texts()
    quotes = {}
    for frame in frames:
        (quote,) = BINANCE.parse(section, {one.native_symbol: one}, frame, 0)
        assert isinstance(quote, Quote)
        assert 0 < quote.bid < quote.ask
        assert min(quote.bid_qty, quote.ask_qty) > 0
        quotes[quote.update_id] = quote
    trades = simulate_trades(source.world, "BTC", NOON, NOON + 20)[one.id]
    now = None
    for trade_id, price, side in zip(trades.id.tolist(), trades.price.tolist(), trades.side.tolist(), strict=True):
        now = quotes.get(trade_id, now)
        assert now is None or price == (now.ask if side > 0 else now.bid)


def test_marks_funding_and_open_interest_are_what_the_world_published() -> None:
    world = WorldSpec(seed=7)
    day = simulate_day(world, "BTC", dt.date(2026, 1, 1))
    source = Simulated(world)
    one = LISTED["linear"]
    frames = [
        frame
        for part in source.frames("linear", "btcusdt@markPrice@1s", NOON * NS, (NOON + 90) * NS)
        for frame in part.texts()
    ]
    assert len(frames) == 90
    (mark,) = BINANCE.parse("linear", {one.native_symbol: one}, frames[30], 0)
    bar = int(np.searchsorted(day.bars[one.id].ts, NOON + 29))
    assert mark.mark == day.bars[one.id].close[bar]
    assert mark.next_funding_ns == (NOON // 28_800 + 1) * 28_800 * NS
    rows = json.loads(source.funding("linear", "BTCUSDT", Query(until_ns=(NOON + DAY_S // 2 - 1) * NS, limit=3)) or b"")
    assert [row["fundingTime"] for row in rows] == [int(ts) * 1000 for ts in day.funding.event_ts]
    assert [round(float(row["fundingRate"]) * 1e10) for row in rows] == day.funding.rate.tolist()
    assert mark.funding_rate == day.funding.rate[2]
    interest = json.loads(source.open_interest("linear", "BTCUSDT", NOON * NS) or b"")
    n = int(np.searchsorted(day.open_interest.known_at, NOON, side="right")) - 1
    assert interest["time"] == day.open_interest.event_ts[n] * 1000
    assert round(float(interest["openInterest"]) * 10**one.qty_decimals) == day.open_interest.open_interest[n]
    inverse = json.loads(source.open_interest("inverse", "BTCUSD_PERP", NOON * NS) or b"")
    assert int(inverse["openInterest"]) > 0


# -- time --------------------------------------------------------------------------------------------------------------


def test_at_full_speed_every_client_hears_all_in_order_however_slow_it_is() -> None:
    names = [stream("linear", what) for what in ("trade", "aggTrade", "bookTicker")]

    async def run() -> tuple[list[bytes], list[bytes]]:
        async with (
            serve("sim:7", a_while(120, await_streams=6)) as exchange,
            connected(url(exchange, "linear", "/stream")) as quick,
            connected(url(exchange, "linear", "/stream")) as slow,
        ):
            below = slow.transport.underlying_transport
            await slow.ask("SUBSCRIBE", names)
            await quick.ask("SUBSCRIBE", names)
            seen = 0
            while not exchange.done.is_set():  # reads in gulps, and never while the other one does
                below.pause_reading()
                await quick.until(lambda seen=seen: exchange.done.is_set() or len(quick.heard) > seen)
                seen = len(quick.heard)
                below.resume_reading()
                for _ in range(20):
                    await asyncio.sleep(0)
            await hear_all(exchange, quick, slow)
            return quick.heard, slow.heard

    quick, slow = asyncio.run(run())
    assert quick == slow
    source = Simulated(WorldSpec(seed=7))
    for name in names:
        parts = source.frames("linear", name, NOON * NS, (NOON + 120) * NS)
        wanted = [b'{"stream":"%s","data":%s}' % (name.encode(), text) for part in parts for text in part.texts()]
        assert [frame for frame in quick if frame.startswith(b'{"stream":"%s"' % name.encode())] == wanted
    times = [json.loads(frame)["data"]["T"] for frame in quick]
    assert times == sorted(times)


def test_a_slow_client_holds_the_clock_of_all_back() -> None:
    async def run() -> None:
        async with (
            serve("sim:7", a_while(600, await_streams=2)) as exchange,
            connected(url(exchange, "spot")) as quick,
            connected(url(exchange, "linear")) as stuck,
        ):
            stuck.transport.underlying_transport.pause_reading()
            stuck.say({"method": "SUBSCRIBE", "params": [stream("linear", "trade")], "id": 1})
            await quick.ask("SUBSCRIBE", [stream("spot", "trade")])
            await quick.until(lambda: quick.heard)
            before = -1
            while before != exchange.now_ns():
                before = exchange.now_ns()
                for _ in range(200):
                    await asyncio.sleep(0)
            assert not exchange.done.is_set()
            stuck.transport.underlying_transport.resume_reading()
            await hear_all(exchange, quick, stuck)

    asyncio.run(run())


def test_a_client_that_answers_pings_late_is_waited_for_and_sections_stay_together() -> None:
    async def run() -> None:
        async with (
            serve("sim:7", a_while(600, await_streams=2)) as exchange,
            connected(url(exchange, "spot")) as quick,
            connected(url(exchange, "inverse")) as slow,
        ):
            slow.pongs_back = False  # reads everything, but is not done with it
            await slow.ask("SUBSCRIBE", [stream("inverse", "trade")])
            await quick.ask("SUBSCRIBE", [stream("spot", "trade")])
            await slow.until(lambda: len(slow.pings) > 10)
            for _ in range(200):
                await asyncio.sleep(0)
            assert len(slow.pings) == 11
            assert exchange.now_ns() == (NOON + 11) * NS
            slow.transport.send_pong(slow.pings[5])
            await slow.until(lambda: len(slow.pings) > 16)
            assert exchange.now_ns() == (NOON + 17) * NS
            slow.pongs_back = True
            slow.transport.send_pong(slow.pings[-1])
            await hear_all(exchange, quick, slow)

    asyncio.run(run())


class Unmade(Simulated):
    """A world of which nothing is there before `made`."""

    def __init__(self) -> None:
        super().__init__(QUIET)
        self.made = threading.Event()

    def prepare(self, section: str, stream: str, at_ns: int) -> None:
        assert self.made.wait(60)
        super().prepare(section, stream, at_ns)


def test_in_real_time_a_subscription_is_acknowledged_once_it_can_be_told_and_a_path_is_told_late() -> None:
    async def run() -> None:
        source = Unmade()
        name = f"{QUIET_NATIVE['linear'].lower()}@markPrice@1s"
        async with (
            serve(source) as exchange,
            connected(url(exchange, "linear", f"/ws/{name}")) as early,
            connected(url(exchange, "linear", "/ws")) as client,
        ):
            await early.ask("LIST_SUBSCRIPTIONS")
            began_ms = exchange.now_ns() // 1_000_000
            client.say({"method": "SUBSCRIBE", "params": [name], "id": 5})
            client.say({"method": "LIST_SUBSCRIPTIONS", "id": 6})
            await client.until(lambda: client.answers)
            assert client.answers == [{"result": [], "id": 6}]
            await asyncio.sleep(began_ms / 1000 + 1.5 - exchange.now_ns() / NS)  # a mark would have come
            assert not client.heard
            assert not early.heard
            source.made.set()
            await client.until(lambda: len(client.answers) > 1 and client.heard)
            assert client.answers[1] == {"result": None, "id": 5}
            await early.until(lambda: len(early.heard) > 1)
            assert json.loads(early.heard[0])["E"] < began_ms + 1_500  # what was owed
            times = [json.loads(frame)["E"] for frame in early.heard]
            assert set(np.diff(times)) == {1000}

    asyncio.run(run())


def test_the_own_clock_stands_until_enough_is_subscribed() -> None:
    async def run() -> None:
        async with serve("sim:7", a_while(2, await_streams=2)) as exchange, connected(url(exchange, "spot")) as client:
            await client.ask("SUBSCRIBE", [stream("spot", "trade")])
            assert exchange.now_ns() == NOON * NS
            await client.ask("SUBSCRIBE", [stream("spot", "aggTrade")])
            await hear_all(exchange, client)
            assert exchange.now_ns() == (NOON + 2) * NS

    asyncio.run(run())


def test_in_real_time_prints_carry_the_present() -> None:
    async def run() -> None:
        async with serve("sim:7") as exchange, connected(url(exchange, "linear")) as client:
            await client.ask("SUBSCRIBE", [stream("linear", "trade"), stream("linear", "markPrice@1s")])
            before = exchange.now_ns()
            await client.until(lambda: any(b"markPrice" in frame for frame in client.heard))
            after = exchange.now_ns()
            times = [json.loads(frame)["E"] for frame in client.heard]
            assert before // 1_000_000 - 1_100 < min(times)
            assert max(times) <= after // 1_000_000 + 2
            assert (await get(exchange, "linear", "openInterest?symbol=BTCUSDT")).status_code == 200

    asyncio.run(run())


# -- the venue's manners -----------------------------------------------------------------------------------------------


def test_subscriptions_are_answered_as_the_venue_does() -> None:
    async def run() -> None:
        async with serve("sim:7") as exchange, connected(url(exchange, "inverse", "/ws/btcusd_perp@trade")) as client:
            assert await client.ask("LIST_SUBSCRIPTIONS", number=3) == {"result": ["btcusd_perp@trade"], "id": 3}
            assert await client.ask("SUBSCRIBE", ["no@trade"], 4) == {"result": None, "id": 4}  # silent, not refused
            assert await client.ask("UNSUBSCRIBE", ["btcusd_perp@trade"], 5) == {"result": None, "id": 5}
            assert (await client.ask("LIST_SUBSCRIPTIONS"))["result"] == ["no@trade"]
            assert (await client.ask("GET_PROPERTY", ["combined"]))["result"] is False
            assert (await client.ask("SET_PROPERTY", ["combined", 1]))["error"]["code"] == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"{", 3),
        (b"[1]", 2),
        (b'{"method":"SUBSCRIBE","params":["a@trade"],"id":{}}', 2),
        (b'{"method":"SUBSCRIBE","params":"a@trade","id":1}', 2),
        (b'{"method":"SUBSCRIBE","params":[1],"id":1}', 2),
        (b'{"method":"subscribe","id":1}', 2),
        (b'{"id":1}', 2),
        (b'{"method":"SET_PROPERTY","params":["x",true],"id":1}', 0),
        (b'{"method":"SET_PROPERTY","id":1}', 2),
    ],
)
def test_a_wrong_request_is_refused_and_the_connection_lives(message: bytes, code: int) -> None:
    async def run() -> None:
        async with serve("sim:7") as exchange, connected(url(exchange, "linear")) as client:
            client.say(message)
            await client.until(lambda: client.answers)
            assert client.answers[0]["error"]["code"] == code
            assert await client.ask("LIST_SUBSCRIPTIONS", number=9) == {"result": [], "id": 9}
            one = LISTED["linear"]
            (control,) = BINANCE.parse("linear", {one.native_symbol: one}, json.dumps(client.answers[0]).encode(), 0)
            assert not control.ok  # type: ignore[union-attr]

    asyncio.run(run())


def test_each_path_has_its_form_and_usd_m_its_routes() -> None:
    async def run() -> None:
        async with (
            serve("sim:7", a_while(3, await_streams=6)) as exchange,
            connected(url(exchange, "linear", "/ws/btcusdt@trade")) as bare,
            connected(url(exchange, "linear", "/stream?streams=btcusdt@trade")) as combined,
            connected(url(exchange, "linear").replace("/linear", "/public/ws")) as public,
            connected(url(exchange, "linear").replace("/linear", "/market/ws")) as market,
        ):
            both = [stream("linear", "trade"), stream("linear", "aggTrade")]
            await public.ask("SUBSCRIBE", both)
            await market.ask("SUBSCRIBE", both)
            await hear_all(exchange, bare, combined, public, market)
            assert public.heard == bare.heard
            assert {json.loads(frame)["e"] for frame in market.heard} == {"aggTrade"}
            assert [json.loads(frame)["data"] for frame in combined.heard] == [json.loads(f) for f in bare.heard]

    asyncio.run(run())


def test_nobody_lives_at_an_unknown_path() -> None:
    async def run() -> None:
        async with serve("sim:7") as exchange:
            with pytest.raises(WSHandshakeError, match="404"):
                await ws_connect(Client, url(exchange, "linear").replace("/linear", "/option"))

    asyncio.run(run())


def with_limits(**changed: object) -> Options:
    limits = {section: msgspec.structs.replace(one, **changed) for section, one in LIMITS.items()}
    return Options(limits=limits)


def test_too_many_requests_end_the_connection() -> None:
    async def run() -> None:
        async with serve("sim:7") as exchange, connected(url(exchange, "spot")) as client:
            for number in range(6):
                client.say({"method": "LIST_SUBSCRIPTIONS", "id": number})
            await client.until(client.gone.is_set)
            assert client.closed == (WSCloseCode.POLICY_VIOLATION, "Too many requests")
            assert len(client.answers) == 5

    asyncio.run(run())


def test_too_many_streams_end_the_connection() -> None:
    async def run() -> None:
        async with serve("sim:7", with_limits(streams_max=3)) as exchange, connected(url(exchange, "spot")) as client:
            client.say({"method": "SUBSCRIBE", "params": [f"s{n}@trade" for n in range(4)], "id": 1})
            await client.until(client.gone.is_set)
            assert client.closed == (WSCloseCode.POLICY_VIOLATION, "Too many subscriptions")

    asyncio.run(run())


def test_the_venue_drops_who_does_not_answer_its_pings() -> None:
    async def run() -> None:
        options = with_limits(ping_s=0.01, pong_s=0.01)
        async with serve("sim:7", options) as exchange, connected(url(exchange, "spot")) as client:
            client.pongs_back = False
            await client.until(client.gone.is_set)
            assert client.pings
            assert client.closed == (WSCloseCode.POLICY_VIOLATION, "Pong timeout")

    asyncio.run(run())


def test_who_answers_pings_stays_and_may_ping_too() -> None:
    async def run() -> None:
        options = with_limits(ping_s=0.01, messages_per_s_max=10_000)
        async with serve("sim:7", options) as exchange, connected(url(exchange, "spot")) as client:
            await client.until(lambda: len(client.pings) > 3)
            client.transport.send_ping(b"hello")
            await client.until(lambda: b"hello" in client.heard)
            assert not client.gone.is_set()

    asyncio.run(run())


def test_a_connection_lives_for_a_day() -> None:
    async def run() -> None:
        async with serve("sim:7", with_limits(life_s=0.01)) as exchange, connected(url(exchange, "spot")) as client:
            await client.until(client.gone.is_set)
            assert client.closed == (WSCloseCode.GOING_AWAY, "24 hours")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("aggTrades", 400, -1102),
        ("aggTrades?symbol=btc usdt", 400, -1100),
        ("aggTrades?symbol=NOUSDT", 400, -1121),
        ("aggTrades?symbol=BTCUSDT&fromId=x", 400, -1100),
        ("aggTrades?symbol=BTCUSDT&fromId=1&startTime=2", 400, -1128),
        ("aggTrades?symbol=BTCUSDT&startTime=2&endTime=1", 400, -1023),
        ("aggTrades?symbol=BTCUSDT&limit=0", 400, -1130),
        ("nothing", 404, -5000),
        ("../../etc/passwd", 404, -5000),
    ],
)
def test_a_wrong_rest_request_is_refused_as_the_venue_does(path: str, status: int, code: int) -> None:
    async def run() -> None:
        async with serve("sim:7") as exchange:
            answer = await get(exchange, "linear", path)
            assert (answer.status_code, answer.json()["code"]) == (status, code)

    asyncio.run(run())


def test_weights_refuse_then_ban_and_forgive() -> None:
    now = 0.0
    weights = Weights({"spot": Limits(weight_per_minute=10)}, lambda: now)
    assert weights.charge("spot", 10) == (10, None)
    statuses = [weights.charge("spot", 1)[1] for _ in range(11)]
    assert [one.status for one in statuses if one] == [429] * 10 + [418]
    assert dict(statuses[0].headers)["Retry-After"] == "61"  # type: ignore[union-attr]
    now = 100.0  # the minute is over, the ban is not
    assert weights.charge("spot", 1)[1].status == 418  # type: ignore[union-attr]
    now = 121.0
    assert weights.charge("spot", 1)[1] is None


def test_the_used_weight_is_told_and_too_much_is_refused() -> None:
    async def run() -> None:
        async with serve("sim:7", with_limits(weight_per_minute=21)) as exchange:
            first = await get(exchange, "linear", "aggTrades?symbol=BTCUSDT&limit=1")
            second = await get(exchange, "linear", "aggTrades?symbol=BTCUSDT&limit=1")
            assert (first.status_code, first.headers["X-MBX-USED-WEIGHT-1M"]) == (200, "20")
            assert second.status_code in {200, 429}  # a new minute may have begun
            if second.status_code == 429:
                assert second.json()["code"] == -1003
                assert int(second.headers["Retry-After"]) > 0

    asyncio.run(run())


def test_weights_are_of_the_venues_own_minutes() -> None:
    def limit(speed: float) -> int:
        return rest_limits(Options(speed=speed))["spot"].weight_per_minute

    assert (limit(1), limit(10), limit(MAX)) == (6_000, 60_000, 0)


def test_a_machine_that_slept_finds_its_connections_gone_and_no_flood() -> None:
    async def run() -> None:
        async with serve("sim:7") as exchange, connected(url(exchange, "spot")) as client:
            await client.ask("SUBSCRIBE", [stream("spot", "trade")])
            exchange.sent_ns -= 3_600 * NS
            await client.until(client.gone.is_set)
            assert len(client.heard) < 1_000

    asyncio.run(run())


def test_what_ends_the_clock_is_not_silent() -> None:
    async def run() -> None:
        async with serve("sim:7", a_while(5)) as exchange:
            exchange.source = None  # type: ignore[assignment]  # whatever goes wrong within
            exchange._changed.set()
            async with connected(url(exchange, "spot", "/ws/btcusdt@trade")):
                await asyncio.wait(exchange.loops, timeout=60, return_when=asyncio.FIRST_COMPLETED)

    with pytest.raises(AttributeError):
        asyncio.run(run())


# -- recordings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", SECTIONS)
def test_replay_sends_the_recorded_frames_as_they_are(section: str) -> None:
    native = recorded.WINDOW[section][0].lower()
    frames = [frame for _, frame in recorded.frames(section)]
    names = sorted({json.loads(frame)["stream"] for frame in frames})
    assert all(name.startswith(native) for name in names)

    async def run() -> list[bytes]:
        options = Options(speed=MAX, await_streams=len(names))
        async with (
            serve(f"replay:{recorded.FIXTURES}", options) as exchange,
            connected(url(exchange, section)) as client,
        ):
            await client.ask("SUBSCRIBE", names)
            await hear_all(exchange, client)
            first = recorded.window_trades(section).id[100]
            path = f"historicalTrades?symbol={native.upper()}&fromId={first}&limit=50"
            rows = (await get(exchange, section, path)).json()
            assert [row["id"] for row in rows] == list(range(first, first + 50))
            assert (await get(exchange, section, f"aggTrades?symbol={native.upper()}")).json() == []
            if section != "spot":
                answer = await get(exchange, section, f"openInterest?symbol={native.upper()}")
                assert answer.status_code == 404
            listed, _ = BINANCE.instruments(section, (await get(exchange, section, "exchangeInfo")).content)
            assert native.upper() in {one.native_symbol for one in listed}
            return client.heard

    assert asyncio.run(run()) == frames


def test_what_is_recorded_is_replayed(tmp_path: Path) -> None:
    source = Simulated(WorldSpec(seed=7))
    border = NOON + 3600
    recorder = Recorder(tmp_path)
    wanted = []
    for part in source.frames("linear", "btcusdt@aggTrade", (border - 5) * NS, (border + 5) * NS):
        for at_ns, text in zip(part.at_ns.tolist(), part.texts(), strict=True):
            recorder.write("linear", at_ns, text)
            wanted.append(text)
    recorder.write("linear", (border + 5) * NS, b"\x00 no\nframe")
    body = b'{"openInterest":"5","symbol":"BTCUSDT","time":1}'
    recorder.write("linear:openInterest", (border + 5) * NS, body)
    recorder.close()
    assert len(list(tmp_path.glob("*.jsonl.gz"))) == 2  # one an hour

    async def run() -> None:
        async with (
            serve(f"replay:{tmp_path}", Options(speed=MAX)) as exchange,
            connected(url(exchange, "linear", "/ws")) as client,
        ):
            await client.ask("SUBSCRIBE", [stream("linear", "aggTrade")])
            await hear_all(exchange, client)
            assert client.heard == wanted
            first = json.loads(wanted[3])
            rows = (await get(exchange, "linear", f"aggTrades?symbol=BTCUSDT&fromId={first['a']}&limit=1")).json()
            assert rows == [{name: first[name] for name in rows[0]}]
            assert exchange.truth("linear", "BTCUSDT", aggregate=True) == wanted

    asyncio.run(run())
    lines = [line for file in recorded_files(tmp_path) for line in read_lines(file)]
    assert [line.frame for line in lines[-2:]] == [b"\x00 no\nframe", body]


def test_a_crash_costs_what_was_not_flushed_and_nothing_before_it(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    for n in range(10):
        recorder.write("spot", NOON * NS + n, b'{"n":%d}' % n)
    recorder.flush()
    recorder.write("spot", NOON * NS + 10, b"{}")  # never flushed
    (file,) = recorded_files(tmp_path)
    whole = file.path.read_bytes()
    assert [line.frame for line in read_lines(file)] == [b'{"n":%d}' % n for n in range(10)]
    torn = gzip.compress(b"%d spot {}\n" % (NOON * NS))
    for cut_at in range(len(torn)):
        file.path.write_bytes(whole + torn[:cut_at])
        frames = [line.frame for line in read_lines(file)]
        assert frames[:10] == [b'{"n":%d}' % n for n in range(10)]
        assert frames[10:] in ([], [b"{}"])  # the torn member's line may be whole already
    recorder.close()


def test_two_recorders_may_share_a_directory(tmp_path: Path) -> None:
    for _ in range(2):
        recorder = Recorder(tmp_path)
        recorder.write("spot", NOON * NS, b"{}")
        recorder.close()
    assert sum(len(list(read_lines(file))) for file in recorded_files(tmp_path)) == 2


# -- faults ------------------------------------------------------------------------------------------------------------

ALL = (
    "seed={seed},disconnect=0.001,halfframe=0.001,garbage=0.01,wreck=0.0005,duplicate=0.02,skip=0.01:3,reorder=0.02,"
    "delay=0.02:300,silence=0.001:2"
)


def caught_up(exchange: Loopback, client: Client, parts: list[list[bytes]]) -> bool:
    sent = exchange.status()["frames_sent"]
    return client.gone.is_set() or sum(map(len, parts)) + len(client.heard) >= sent


def hear_faults(seed: int) -> tuple[list[list[bytes]], list[object]]:
    """Listen to a minute of a faulty exchange, connecting anew when cut off; return what each connection heard."""

    async def run() -> tuple[list[list[bytes]], list[object]]:
        parts: list[list[bytes]] = []
        options = a_while(60, faults=ALL.format(seed=seed))
        async with serve("sim:7", options) as exchange:
            while not exchange.done.is_set():
                async with connected(url(exchange, "linear")) as client:
                    client.say({"method": "SUBSCRIBE", "params": [stream("linear", "trade")], "id": 1})
                    done = asyncio.create_task(exchange.done.wait())
                    gone = asyncio.create_task(client.gone.wait())
                    await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
                    if not client.gone.is_set():
                        await client.until(partial(caught_up, exchange, client, parts))
                    gone.cancel()
                    done.cancel()
                    parts.append(client.heard)
            return parts, list(exchange.trouble.made)

    return asyncio.run(run())


def test_faults_are_the_same_for_the_same_seed_and_the_truth_stays() -> None:
    parts, made = hear_faults(1)
    again, made_again = hear_faults(1)
    assert made == made_again
    assert parts == again
    assert made != hear_faults(2)[1]
    kinds = {one.kind for one in made}  # type: ignore[attr-defined]
    assert kinds >= {"duplicate", "skip", "reorder", "delay", "garbage"}
    truth = simulate_trades(WorldSpec(seed=7), "BTC", NOON, NOON + 60)[LISTED["linear"].id]
    one, good, bad = LISTED["linear"], [], 0
    for frame in (frame for part in parts for frame in part):
        try:
            good += [t for t in BINANCE.parse("linear", {"BTCUSDT": one}, frame, 0) if isinstance(t, Trade)]
        except ParseError:
            bad += 1
    assert bad > 0
    ids = [trade.id for trade in good]
    assert len(set(ids)) < len(ids)
    assert ids != sorted(ids)
    assert set(ids) < set(truth.id.tolist())  # some are lost, none is invented
    prices = dict(zip(truth.id.tolist(), truth.price.tolist(), strict=True))
    assert all(prices[trade.id] == trade.price for trade in good)


def test_the_truth_can_be_asked_for_whatever_was_sent() -> None:
    async def run() -> None:
        options = a_while(10, faults="skip=0.5:20")
        async with serve("sim:7", options) as exchange, connected(url(exchange, "spot")) as client:
            await client.ask("SUBSCRIBE", [stream("spot", "trade")])
            await hear_all(exchange, client)
            prints = simulate_trades(WorldSpec(seed=7), "BTC", NOON, NOON + 10)["binance:BTC-USDT"]
            assert len(client.heard) < prints.id.size
            truth = exchange.truth("spot", "BTCUSDT", from_id=int(prints.id[0]))
            same(parsed("spot", truth), prints, "received_ns")
            first, last = int(prints.id[5]), int(prints.id[9])
            rest = exchange.endpoints["binance"]["spot"]["rest"].removesuffix("/spot")
            async with httpx.AsyncClient(trust_env=False) as http:
                answer = await http.get(f"{rest}/truth/spot/BTCUSDT?from_id={first}&to_id={last}")
                assert (await http.get(f"{rest}/status")).json()["faults"]["skip"] > 0
                assert (await http.get(f"{rest}/faults?spec=sleep=1")).status_code == 400
                assert (await http.get(f"{rest}/faults?spec=rest500=1")).status_code == 200
            same(parsed("spot", [json.dumps(row).encode() for row in answer.json()]), cut(prints, 5, 10), "received_ns")
            assert (await get(exchange, "spot", "time")).status_code == 500

    asyncio.run(run())


@pytest.mark.parametrize(("fault", "status"), [("rest429=1:7", 429), ("rest418=1:7", 418), ("rest503=1", 503)])
def test_rest_faults_are_the_venues_refusals(fault: str, status: int) -> None:
    async def run() -> None:
        async with serve("sim:7", Options(faults=fault)) as exchange:
            answer = await get(exchange, "spot", "time")
            assert answer.status_code == status
            assert answer.headers.get("Retry-After", "7") == "7"

    asyncio.run(run())


@pytest.mark.parametrize("fault", ["resthalf=1", "resthang=1:0.01"])
def test_an_answer_may_be_cut_or_never_come(fault: str) -> None:
    async def run() -> None:
        async with serve("sim:7", Options(faults=fault)) as exchange:
            with pytest.raises(httpx.RemoteProtocolError):
                await get(exchange, "spot", "exchangeInfo")

    asyncio.run(run())


def test_a_silent_connection_stays_open_and_says_nothing() -> None:
    async def run() -> None:
        options = a_while(30, faults="silence=1")
        async with serve("sim:7", options) as exchange, connected(url(exchange, "spot")) as client:
            await client.ask("SUBSCRIBE", [stream("spot", "trade")])
            await exchange.done.wait()
            assert client.heard == []
            assert not client.gone.is_set()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.ask("LIST_SUBSCRIPTIONS")

    asyncio.run(run())


def test_a_connection_may_be_refused() -> None:
    async def run() -> None:
        async with serve("sim:7", Options(faults="refuse=1")) as exchange:
            with pytest.raises(WSHandshakeError, match="503"):
                await ws_connect(Client, url(exchange, "spot"))

    asyncio.run(run())


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_process_says_where_it_is_and_ends_when_told(tmp_path: Path) -> None:
    with running(tmp_path, "--source", "sim:7") as (process, endpoints):
        said = json.loads(endpoints.read_bytes())
        assert set(said["binance"]) == set(SECTIONS)
        assert json.loads(process.stdout.readline()) == said  # type: ignore[union-attr]
        assert said["binance"]["linear"]["websocket"].startswith("ws://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert list(tmp_path.iterdir()) == [endpoints]


def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    endpoints = tmp_path / "endpoints.json"
    code = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-m', 'squeezecore.adapters.loopback', '--source', 'sim:7', "
        f"'--endpoints', {str(endpoints)!r}])\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert eventually(endpoints.exists, parent)
    os.kill(parent.pid, signal.SIGKILL)
    parent.stdout.read()  # type: ignore[union-attr]  # ends when the last holder of the pipe has gone
    parent.communicate()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--source", "sim:x"], "a seed is a number"),
        (["--source", "mars"], "expected sim:SEED or replay:DIR"),
        (["--source", "replay:/nowhere"], "does not exist"),
        (["--source", "sim:7", "--speed", "fast"], "expected a number or max"),
        (["--source", "sim:7", "--speed", "-1", "--start", "2026-01-01"], "above zero"),
        (["--source", "sim:7", "--speed", "60"], "add --start"),
        (["--source", "sim:7", "--start", "noon"], "expected a time"),
        (["--source", "sim:7", "--start", "2026-01-02", "--until", "2026-01-01"], "until lies before start"),
        (["--source", "sim:7", "--assets", "BTX"], "did you mean BTC"),
        (["--source", "sim:7", "--world", "quiet"], "world"),
        (["--source", "sim:7", "--symbols", "999"], "limits are 0 and 200"),
        (["--source", "sim:7", "--faults", "discon=1"], "did you mean disconnect"),
        (["--source", "sim:7", "--faults", "skip=2"], "limits of a chance"),
        (["--source", "sim:7", "--faults", "skip"], "name=chance"),
        ([], "--source"),
    ],
)
def test_a_wrong_option_is_told_in_a_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_a_port_in_use_is_told_in_a_sentence() -> None:
    async def run() -> str:
        async with serve("sim:7") as exchange:
            process = start("--source", "sim:7", "--port", exchange.port)
            _, said = await asyncio.to_thread(process.communicate)
            assert process.returncode == 1
            return said

    assert "in use" in asyncio.run(run())


def test_help_names_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(kind in said for kind in KINDS)


def test_an_empty_directory_is_no_recording(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no frames"):
        source_of(f"replay:{tmp_path}")
    Recorder(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format":"squeezeflow-recording","version":9}')
    with pytest.raises(UsageError, match="version 9"):
        source_of(f"replay:{tmp_path}")


def test_faults_are_read_and_refused() -> None:
    faults = parse_faults(" seed=4, delay=0.5:20 ,")
    assert (faults.seed, faults.chances, faults.amounts) == (4, {"delay": 0.5}, {"delay": 20.0})
    for text in ("delay=x", "delay=0.1:-3", "nothing=0.1", "seed=x", "delay=nan"):
        with pytest.raises(UsageError):
            parse_faults(text)


def test_every_feed_that_a_section_names_can_be_subscribed() -> None:
    source = Simulated(WorldSpec(seed=7))
    silent = {Feed.BOOK, Feed.LIQUIDATION}
    for section in SECTIONS:
        for feed in BINANCE.SECTIONS[section].websocket:
            ((_, message),) = BINANCE.subscribe(section, [NATIVE[section]], [feed], 1)
            name = json.loads(message)["params"][0]
            parts = source.frames(section, name, NOON * NS, (NOON + 10) * NS)
            assert (feed in silent) == (not any(part.at_ns.size for part in parts)), name


# -- single faults -----------------------------------------------------------------------------------------------------


def heard_with(faults: str, seconds: int = 5, section: str = "spot") -> tuple[list[bytes], list[bytes], Client]:
    """Return what a client heard, what there was, and the client."""

    async def run() -> tuple[list[bytes], list[bytes], Client]:
        async with (
            serve("sim:7", a_while(seconds, faults=faults)) as exchange,
            connected(url(exchange, section)) as client,
        ):
            client.say({"method": "SUBSCRIBE", "params": [stream(section, "trade")], "id": 1})
            await client.until(lambda: client.gone.is_set() or exchange.done.is_set())
            if not client.gone.is_set():
                await hear_all(exchange, client)
            source = exchange.source.frames(section, stream(section, "trade"), NOON * NS, (NOON + seconds) * NS)
            return client.heard, [text for part in source for text in part.texts()], client

    return asyncio.run(run())


def test_a_duplicated_frame_comes_twice() -> None:
    heard, truth, _ = heard_with("duplicate=1")
    assert heard == [frame for frame in truth for _ in range(2)]


def test_a_late_frame_comes_after_later_ones_and_none_is_lost() -> None:
    for fault in ("reorder=0.3", "delay=0.3:700"):
        heard, truth, _ = heard_with(fault, 20)
        lost = set(truth) - set(heard)
        assert lost <= set(truth[-60:])  # at the very end some are still on their way
        places = [truth.index(frame) for frame in heard]
        assert len(set(places)) == len(places)
        assert places != sorted(places)


def test_skipped_frames_are_lost_in_runs() -> None:
    heard, truth, _ = heard_with("skip=0.05:4", 20)
    places = [truth.index(frame) for frame in heard]
    runs = np.diff(places)
    assert set(runs[runs > 1].tolist()) >= {5}
    assert places == sorted(places)


@pytest.mark.parametrize(("fault", "whole"), [("disconnect=1", 1), ("halfframe=1", 0), ("wreck=1", 1)])
def test_a_cut_connection_ends_where_the_fault_says(fault: str, whole: int) -> None:
    heard, truth, client = heard_with(fault)
    assert heard == truth[:whole]
    assert client.gone.is_set()
    assert client.closed is None  # no close frame: a network broke


def test_damaged_frames_never_read_as_another_print() -> None:
    heard, truth, _ = heard_with("garbage=1", 60, "linear")
    one = LISTED["linear"]
    assert heard[::2] == truth
    refused = 0
    for good, bad in zip(heard[::2], heard[1::2], strict=True):
        try:
            events = BINANCE.parse("linear", {"BTCUSDT": one}, bad, 0)
        except ParseError:
            refused += 1
            continue
        if not any(isinstance(event, Unknown) for event in events):
            assert events == BINANCE.parse("linear", {"BTCUSDT": one}, good, 0)
    assert refused > len(truth) // 2


def test_the_clock_goes_on_when_told() -> None:
    async def run() -> None:
        async with serve("sim:7", a_while(2)) as exchange, connected(url(exchange, "spot")) as client:
            await client.ask("SUBSCRIBE", [stream("spot", "trade")])
            await hear_all(exchange, client)
            count = len(client.heard)
            rest = exchange.endpoints["binance"]["spot"]["rest"].removesuffix("/spot")
            async with httpx.AsyncClient(trust_env=False) as http:
                assert (await http.get(f"{rest}/until?ns=soon")).status_code == 400
                assert (await http.get(f"{rest}/until?ns={(NOON + 4) * NS}")).status_code == 200
            await hear_all(exchange, client)
            assert exchange.now_ns() == (NOON + 4) * NS
            assert len(client.heard) > count

    asyncio.run(run())


def test_who_does_not_read_in_real_time_is_dropped() -> None:
    async def run() -> None:
        path = "/ws/btcusdt@trade/btcusdt@bookTicker/ethusdt@trade"
        async with (
            serve("sim:7", with_limits(backlog_bytes_max=1)) as exchange,
            connected(url(exchange, "linear", path)) as client,
        ):
            await client.ask("LIST_SUBSCRIPTIONS")
            client.transport.underlying_transport.pause_reading()
            async with asyncio.timeout(60):
                (connection,) = exchange.connections
                while connection.open:
                    connection.deliver((NOON - 60) * NS, NOON * NS)  # until it is more than the kernel holds
                    await asyncio.sleep(0)

    asyncio.run(run())


# -- laws of the parts -------------------------------------------------------------------------------------------------


def unframed(blob: bytes) -> list[bytes]:
    """Read a server's WebSocket frames as RFC 6455 has them."""
    texts, at = [], 0
    while at < len(blob):
        assert blob[at] == 0x81
        length, at = blob[at + 1], at + 2
        if length >= 126:
            wide = 2 if length == 126 else 8
            length, at = int.from_bytes(blob[at : at + wide]), at + wide
        texts.append(blob[at : at + length])
        at += length
    return texts


TEXTS = st.sampled_from([b"{}", b"x" * 125, b"y" * 126, b"z" * 65_535, b"w" * 65_536]) | st.binary(
    min_size=1, max_size=9
)
STREAM = st.lists(st.tuples(st.integers(0, 5), TEXTS), max_size=6).map(
    lambda rows: sorted(rows, key=lambda row: row[0])
)


@given(st.lists(STREAM, max_size=4), st.sampled_from(["bare", "combined", "recorded"]))
def test_streams_are_merged_by_time_and_framed(streams: list[list[tuple[int, bytes]]], form: Any) -> None:
    parts = [
        (f"s{n}@trade", frames_from([text for _, text in rows], [at for at, _ in rows]))
        for n, rows in enumerate(streams)
    ]
    sent = merge(parts, form)
    rows = [(at, n, text) for n, stream in enumerate(streams) for at, text in stream]
    wanted = [
        b'{"stream":"s%d@trade","data":%s}' % (n, text) if form == "combined" else text
        for _, n, text in sorted(rows, key=lambda row: row[:2])
    ]
    assert unframed(sent.blob.tobytes()) == wanted
    assert sent.at_ns.tolist() == sorted(at for at, _, _ in rows)
    if wanted:
        assert sent.end[-1] == sent.blob.size


@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), st.booleans()), max_size=5))
def test_a_template_writes_numbers_exactly(rows: list[tuple[int, int, bool]]) -> None:
    columns = {"id": [row[0] for row in rows], "price": [row[1] for row in rows], "sell": [row[2] for row in rows]}
    blob, end = Template("[<id>|<price:8>|<price:0>|<sell?>]").write(columns)
    wanted = [f"[{a}|{b // 10**8}.{b % 10**8:08}|{b}|{'true' if c else 'false'}]".encode() for a, b, c in rows]
    assert blob.tobytes() == b"".join(wanted)
    assert end.tolist() == np.cumsum([len(text) for text in wanted]).astype(int).tolist()


FRAME = st.tuples(st.sampled_from(["spot", "linear", "linear:openInterest"]), st.binary(min_size=1, max_size=30))


@given(st.lists(st.tuples(st.integers(0, 3), FRAME, st.booleans()), max_size=20))
def test_any_frame_is_read_as_it_was_recorded(rows: list[tuple[int, tuple[str, bytes], bool]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        recorder = Recorder(Path(directory))
        for hours, (section, frame), flushed in rows:
            recorder.write(section, (NOON + hours * 3600) * NS, frame)
            if flushed:
                recorder.flush()
        recorder.close()
        lines = []
        if rows:
            lines = [
                (line.section, line.frame) for file in recorded_files(Path(directory)) for line in read_lines(file)
            ]
    assert sorted(lines) == sorted(row[1] for row in rows)


def test_what_did_not_fit_on_a_full_disk_is_written_later(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.write("spot", NOON * NS, b'{"n":1}')
    recorder.flush()
    (path,) = tmp_path.glob("*.gz")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, before[1]))
    try:
        recorder.write("spot", NOON * NS + 1, os.urandom(999).hex().encode())
        with pytest.raises(OSError, match="too large"):
            recorder.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    recorder.write("spot", NOON * NS + 2, b'{"n":3}')
    recorder.close()
    lines = sorted(line for file in recorded_files(tmp_path) for line in read_lines(file))
    assert [len(line.frame) for line in lines] == [7, 1998, 7]  # nothing is lost, the second file holds the rest


def test_a_big_recording_is_not_read_whole_for_one_id(tmp_path: Path) -> None:
    source = Simulated(QUIET)
    recorder = Recorder(tmp_path)
    for hour in range(4):
        start_s = NOON + hour * 3600
        for part in source.frames("linear", "dogeusdt@trade", start_s * NS, (start_s + 2) * NS):
            for at_ns, text in zip(part.at_ns.tolist(), part.texts(), strict=True):
                recorder.write("linear", at_ns, text)
    recorder.close()
    replay = Recorded(tmp_path)
    wanted = replay.truth("linear", "DOGEUSDT", False, Query(until_ns=(NOON + 4 * 3600) * NS, from_id=0)) or []
    assert len(wanted) > 8
    lone = Recorded(tmp_path)
    last = json.loads(wanted[-2])["t"]
    rows = json.loads(lone.prints("linear", "DOGEUSDT", False, Query(until_ns=2**62, from_id=last, limit=1)) or b"")
    assert [row["id"] for row in rows] == [last]
    assert lone.truth("linear", "DOGEUSDT", False, Query(until_ns=2**62, limit=3)) == wanted[-3:]
    middle = NOON + 3600
    found = lone.truth("linear", "DOGEUSDT", False, Query(2**62, 1000, None, middle * NS, (middle + 2) * NS))
    assert found == [text for text in wanted if middle * 1000 <= json.loads(text)["T"] <= (middle + 2) * 1000]
    assert lone.resumes_ns((NOON + 10) * NS) == (NOON + 10) * NS
    assert lone.resumes_ns((NOON + 9 * 3600) * NS) == (NOON + 9 * 3600) * NS


def test_an_own_clock_passes_over_hours_without_a_frame(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    texts = [b'{"e":"trade","T":1,"s":"BTCUSDT","t":%d,"p":"1","q":"1","m":true}' % n for n in range(2)]
    for n, text in enumerate(texts):
        recorder.write("spot", (NOON + n * 30 * DAY_S) * NS, text)
    recorder.close()

    async def run() -> list[bytes]:
        async with serve(f"replay:{tmp_path}", Options(speed=2.0)) as exchange, connected(url(exchange, "spot")) as one:
            await one.ask("SUBSCRIBE", [stream("spot", "trade")])
            exchange.go_on((NOON + 1) * NS)
            await hear_all(exchange, one)
            exchange.sent_ns = (NOON + 4 * 3600) * NS  # as if hours had gone by
            exchange.go_on(None)
            await hear_all(exchange, one)
            return one.heard

    assert asyncio.run(run()) == texts
