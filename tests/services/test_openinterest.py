"""The poller in virtual time: its grid, its facts, its limits, and what a venue that fails does to the others."""

import asyncio
import functools
import itertools

import pytest

from squeeze_openinterest.desk import Params
from squeeze_openinterest.polling import Past
from squeezecore.adapters.asking import Answer, AskError
from squeezecore.venues import binance
from squeezecore.wire import FundingFact, InterestFact, MarkFact
from support import virtual
from support.oi_venue import COIN, FUNDING_S, MARK, PERP, SPOT, START_S, Bed, paid, series

ETH = binance.instrument("linear", "ETHUSDT")


def polled(test=None, **params):
    """Run a test beside a poller, in virtual time."""
    if test is None:
        return functools.partial(polled, **params)

    @functools.wraps(test)
    def run():
        bed = Bed(Params(**params))

        async def main():
            polling = asyncio.create_task(bed.poller.run())
            await test(bed)
            assert not polling.done(), polling
            polling.cancel()
            await asyncio.wait([polling])

        virtual.run(main(), bed.loop)

    del run.__wrapped__  # pytest would take its argument for a fixture
    return run


async def begin(bed, *instruments, asset="BTC"):
    await bed.declare(*instruments)
    await bed.configure(**{asset: list(instruments)})


@polled
async def test_each_market_is_asked_once_a_round_and_published_with_when_it_was_known(bed):
    await begin(bed, SPOT, PERP, COIN)
    await asyncio.sleep(100.5)
    facts = await bed.facts(InterestFact)
    assert {fact.instrument for fact in facts} == {PERP.id, COIN.id}
    for instrument in (PERP, COIN):
        own = [fact for fact in facts if fact.instrument == instrument.id]
        assert len(own) == 10
        assert {b.known_at - a.known_at for a, b in itertools.pairwise(own)} == {10}
        for fact in own:
            assert (fact.venue, fact.feed, fact.interval_s) == ("binance", instrument.section, 10)
            assert fact.known_at - 2 <= fact.event_ts < fact.known_at <= START_S + 100
    linear = next(fact for fact in facts if fact.instrument == PERP.id)
    # the venue answers with the value of the second it was asked in, some 50 ms before we know it
    assert linear.open_interest in {bed.venue.value(linear.known_at - ago) * 10**8 for ago in (0, 1)}
    coin = next(fact for fact in facts if fact.instrument == COIN.id)
    contracts = coin.open_interest * (MARK * 1000 + 500) / 10**8 / 1000 / 100
    assert round(contracts) in {bed.venue.value(coin.known_at - ago) for ago in (0, 1)}
    assert not [path for _, section, path in bed.venue.asked if section == "spot"]


@polled
async def test_offsets_differ_and_the_same_seed_makes_them_again(bed):
    await begin(bed, PERP, ETH)
    await asyncio.sleep(60)
    at = {symbol: {round(when % 10, 3) for when, _, path in bed.venue.asked if f"openInterest?symbol={symbol}" in path}
          for symbol in ("BTCUSDT", "ETHUSDT")}  # fmt: skip
    assert [len(times) for times in at.values()] == [1, 1]
    assert at["BTCUSDT"] != at["ETHUSDT"]


@polled
async def test_marks_and_predictions_are_published_and_a_prediction_only_when_it_changed(bed):
    await begin(bed, PERP, ETH)
    await asyncio.sleep(95)
    marks, funding = await bed.facts(MarkFact), await bed.facts(FundingFact)
    assert len([fact for fact in marks if fact.instrument == PERP.id]) == 10
    assert {fact.mark for fact in marks if fact.instrument == PERP.id} == {MARK * 1000 + 500}
    predicted = [fact for fact in funding if not fact.settled]
    assert [(fact.instrument, fact.rate) for fact in predicted] == [(PERP.id, 1_200_000), (ETH.id, 1_200_000)]
    assert [(fact.event_ts % fact.interval_s, fact.interval_s) for fact in predicted] == [
        (0, FUNDING_S),
        (0, FUNDING_S // 2),
    ]


@polled
async def test_settled_funding_is_there_from_the_start_and_soon_after_each_payment(bed):
    await begin(bed, PERP)
    await asyncio.sleep(30)
    before = [fact for fact in await bed.facts(FundingFact) if fact.settled]
    due = START_S // FUNDING_S * FUNDING_S
    assert [fact.event_ts for fact in before] == [due - n * FUNDING_S for n in range(8, -1, -1)]
    assert {fact.interval_s for fact in before} == {FUNDING_S}
    await asyncio.sleep(due + FUNDING_S + 40 - START_S - 30)
    (new,) = [fact for fact in await bed.facts(FundingFact) if fact.settled and fact.event_ts > due]
    assert new.event_ts == due + FUNDING_S
    assert new.event_ts < new.known_at <= new.event_ts + 40
    await asyncio.sleep(2 * FUNDING_S)
    every = [fact.event_ts for fact in await bed.facts(FundingFact) if fact.settled]
    assert every == sorted(set(every))
    assert every[-1] == due + 3 * FUNDING_S
    asked = [path for _, _, path in bed.venue.asked if "fundingRate" in path]
    assert len(asked) < 60  # about one an hour


@polled
async def test_what_the_store_has_is_not_published_again_and_changes_know_it(bed):
    due = START_S // FUNDING_S * FUNDING_S
    bed.past[PERP.id] = Past(series((START_S - 295, 5 * 10**8)), paid(*(due - n * FUNDING_S for n in range(8, -1, -1))))
    bed.venue.value = lambda _ts: 7
    await begin(bed, PERP)
    await asyncio.sleep(30)
    assert not [fact for fact in await bed.facts(FundingFact) if fact.settled]
    found = bed.poller.facts.summary("BTC", START_S + 30)
    assert found.all.changes["5m"].change == 2 * 10**8


@polled
async def test_a_section_that_is_down_is_left_alone_longer_and_longer_and_the_other_never_knows(bed):
    await begin(bed, PERP, COIN)
    await asyncio.sleep(60)
    last_s = 60 + START_S

    def refuse():
        raise AskError("http://localhost/inverse could not be asked (connection refused)")

    bed.venue.faults["inverse"] = refuse
    await asyncio.sleep(600)
    status = bed.poller.status()
    assert status["state"] == "RUNNING"
    assert status["sections"]["binance.inverse"]["state"] == "PAUSED"
    assert "next try in" in status["last_error"]
    tried = [when for when, section, _ in bed.venue.asked if section == "inverse" and when > last_s]
    assert 5 < len(tried) < 60
    linear = [fact.known_at for fact in await bed.facts(InterestFact) if fact.instrument == PERP.id]
    assert {b - a for a, b in itertools.pairwise(linear)} == {10}
    assert bed.poller.facts.summary("BTC", START_S + 660).all.missing == (COIN.id,)
    del bed.venue.faults["inverse"]
    await asyncio.sleep(120)
    back = [fact.known_at for fact in await bed.facts(InterestFact) if fact.instrument == COIN.id]
    assert back[-1] > START_S + 700
    assert bed.poller.status()["sections"]["binance.inverse"]["failures"] == 0


@polled
async def test_a_rate_limit_is_obeyed_to_the_second(bed):
    await begin(bed, PERP, ETH, COIN)
    await asyncio.sleep(61)
    bed.venue.faults["linear"] = lambda: Answer(429, b"", {"retry-after": "97"})
    await asyncio.sleep(20)
    first = next(when for when, section, _ in bed.venue.asked if section == "linear" and when >= START_S + 61)
    del bed.venue.faults["linear"]
    await asyncio.sleep(300)
    after = [when for when, section, _ in bed.venue.asked if section == "linear" and when > first + 1]
    assert after[0] >= first + 98
    assert bed.tally.requests["linear", "limited"] >= 1
    assert len([when for when, section, _ in bed.venue.asked if section == "inverse" and when > first]) > 30


@polled
async def test_a_market_the_venue_refuses_is_asked_less_often_and_spoils_no_other(bed):
    await begin(bed, PERP, ETH)
    bed.venue.bad_symbols.add("ETHUSDT")
    await asyncio.sleep(600)
    assert len([fact for fact in await bed.facts(InterestFact) if fact.instrument == PERP.id]) >= 59
    asked = len([path for _, _, path in bed.venue.asked if "symbol=ETHUSDT" in path and "funding" not in path])
    assert 3 < asked < 10
    assert bed.poller.polls["binance", "linear"].desk.pause.failures == 0
    assert bed.tally.requests["linear", "refused"] >= asked
    assert "Invalid symbol" in bed.poller.polls["binance", "linear"].desk.last_error


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"symbol":"BTCUSDT","openInterest":"-1","time":5}', b"\xff" * 40])
def test_answers_that_cannot_be_read_are_counted_and_survived(body):
    @polled
    async def check(bed):
        await begin(bed, PERP)
        bed.venue.faults["linear"] = lambda: Answer(200, body)
        await asyncio.sleep(40)
        assert bed.tally.requests["linear", "unreadable"] > 0
        del bed.venue.faults["linear"]
        await asyncio.sleep(200)
        assert len(await bed.facts(InterestFact)) > 5

    check()


@polled
async def test_assets_come_and_go_without_a_restart(bed):
    await begin(bed, PERP)
    await asyncio.sleep(30)
    await bed.configure(BTC=[PERP], ETH=[ETH])
    await asyncio.sleep(10)
    assert bed.poller.status()["missing"] == [ETH.id]  # nobody has said what it is
    await bed.declare(ETH)
    await asyncio.sleep(30)
    assert len([fact for fact in await bed.facts(InterestFact) if fact.instrument == ETH.id]) >= 2
    await bed.configure(ETH=[ETH])
    await asyncio.sleep(2)
    count = len(await bed.facts(InterestFact))
    await asyncio.sleep(50)
    later = (await bed.facts(InterestFact))[count:]
    assert {fact.instrument for fact in later} == {ETH.id}
    assert list(bed.poller.facts) == [ETH.id]
    await bed.bus.put("config", "assets", b"{nonsense")
    await asyncio.sleep(20)
    assert "the ones before stay" in bed.poller.status()["last_error"]
    assert list(bed.poller.facts) == [ETH.id]


@polled
async def test_a_bus_that_is_away_is_waited_for(bed):
    await begin(bed, PERP)
    await asyncio.sleep(30)
    count = len(await bed.facts(InterestFact))
    bed.server.stop()
    await asyncio.sleep(60)
    bed.server.start()
    await asyncio.sleep(60)
    facts = await bed.facts(InterestFact)
    assert len(facts) > count + 4
    assert [fact.known_at for fact in facts] == sorted(fact.known_at for fact in facts)


@polled(share=0.05)
async def test_a_round_that_weighs_too_much_is_asked_for_less_often(bed):
    many = [binance.instrument("linear", f"A{n}USDT", 5) for n in range(50)]
    await begin(bed, *many)
    await asyncio.sleep(600)
    poll = bed.poller.polls["binance", "linear"]
    assert poll.every_s == 60 * (50 + 10) / (2_400 * 0.05 * 0.8) == 37.5
    for minute in range(0, 600, 60):
        paths = [path for when, _, path in bed.venue.asked if minute <= when - START_S < minute + 60]
        weight = sum(10 if path.endswith("premiumIndex?") else 1 for path in paths if "funding" not in path)
        assert weight <= 2_400 * 0.05 * 65 / 60
        assert len([path for path in paths if "funding" in path]) <= 100 * 0.05 * 65 / 60 + 1
    facts = await bed.facts(InterestFact)
    for name in poll.instruments:
        steady = [fact.interval_s for fact in facts if fact.instrument == name and fact.known_at > START_S + 200]
        assert len(steady) >= 9
        assert set(steady) <= {38, 39, 40, 41, 42, 43}


def test_the_same_seed_asks_the_same_things_at_the_same_times():
    def play(seed):
        bed = Bed(Params(seed=seed))

        async def main():
            polling = asyncio.create_task(bed.poller.run())
            await begin(bed, PERP, COIN)
            bed.venue.faults["linear"] = lambda: Answer(502, b"")
            await asyncio.sleep(200)
            polling.cancel()
            await asyncio.wait([polling])

        virtual.run(main(), bed.loop)
        return bed.venue.asked

    assert play(1) == play(1)
    assert play(1) != play(2)


@polled
async def test_a_day_is_polled_without_a_hole(bed):
    await begin(bed, PERP, COIN)
    await asyncio.sleep(86_400)
    facts = await bed.facts(InterestFact)
    for instrument in (PERP, COIN):
        known = [fact.known_at for fact in facts if fact.instrument == instrument.id]
        # the stream keeps six hours
        assert {b - a for a, b in itertools.pairwise(known)} == {10}
    assert len(bed.poller.facts[PERP.id].ring) < 3_100
    assert bed.poller.facts.summary("BTC", START_S + 86_400).all.changes["4h"].coverage_ppm == 1_000_000


@polled
async def test_many_marks_are_asked_for_at_once_and_few_one_by_one(bed):
    await begin(bed, PERP, ETH)
    await asyncio.sleep(60)
    assert not [path for _, _, path in bed.venue.asked if path.endswith("premiumIndex?")]
    many = [binance.instrument("linear", f"A{n}USDT", 5) for n in range(20)]
    await begin(bed, PERP, ETH, *many)
    await asyncio.sleep(30)
    count = len(bed.venue.asked)
    await asyncio.sleep(100)
    later = [path for _, _, path in bed.venue.asked[count:] if "premiumIndex" in path]
    assert set(later) == {"/fapi/v1/premiumIndex?"}
    assert len(later) == 10
    bed.venue.unlisted = True  # it answers for one only
    await asyncio.sleep(60)
    count = len(bed.venue.asked)
    await asyncio.sleep(100)
    later = [path for _, _, path in bed.venue.asked[count:] if "premiumIndex" in path]
    assert len(later) == 220
    assert "/fapi/v1/premiumIndex?" not in later


@polled
async def test_what_a_venue_that_replays_another_day_says_is_known_on_that_day(bed):
    past_s = 3 * 365 * 86_400
    now_s = bed.venue.now_s
    bed.venue.now_s = lambda: START_S - past_s + 20 * (now_s() - START_S)  # and at twenty times the speed
    await begin(bed, PERP)
    await asyncio.sleep(100)
    assert round(bed.poller.now_s - bed.venue.now_s()) in range(-210, 1)
    facts = await bed.facts(InterestFact)
    assert len(facts) >= 9
    for fact in facts:
        assert fact.event_ts <= fact.known_at <= bed.venue.now_s()
    assert {fact.interval_s for fact in facts[1:]} == {b.known_at - a.known_at for a, b in itertools.pairwise(facts)}
    assert {fact.interval_s for fact in facts[1:]} <= {199, 200, 201}
    for fact in [*await bed.facts(MarkFact), *await bed.facts(FundingFact)]:
        assert START_S - past_s <= fact.known_at <= bed.venue.now_s()
    settled = [fact.event_ts for fact in await bed.facts(FundingFact) if fact.settled]
    assert settled[0] > START_S - past_s - 4 * 86_400


@polled
async def test_a_value_that_comes_every_five_minutes_is_published_once_and_says_so(bed):
    now_s = bed.venue.now_s
    bed.venue.openInterest = lambda _section, query: {
        "symbol": query["symbol"],
        "openInterest": str(int(now_s()) // 300),
        "time": int(now_s()) // 300 * 300_000,
    }
    await begin(bed, PERP)
    await asyncio.sleep(3_000)
    facts = await bed.facts(InterestFact)
    assert [fact.event_ts for fact in facts] == list(range(START_S // 300 * 300, START_S + 3_000, 300))
    assert [fact.interval_s for fact in facts[1:]] == [300] * (len(facts) - 1)
    assert facts[0].interval_s == max(10, facts[0].known_at - facts[0].event_ts)
    for fact in facts[1:]:
        assert fact.event_ts <= fact.known_at <= fact.event_ts + 11
    assert bed.poller.facts.summary("BTC", START_S + 3_000).all.missing == ()  # it was confirmed since

    def refuse():
        raise AskError("away")

    bed.venue.faults["linear"] = refuse
    await asyncio.sleep(1_500)
    bed.venue.faults.clear()
    await asyncio.sleep(700)
    later = (await bed.facts(InterestFact))[len(facts) :]
    assert [fact.interval_s for fact in later] == [300] * len(later)  # our silence is not the venue's
    assert len(later) >= 2


@polled
async def test_what_the_store_has_of_a_slow_source_holds_for_its_interval(bed):
    stored = series(*((START_S - 3_900 + 300 * n, 10**8 * (n + 1)) for n in range(13)))
    bed.past[PERP.id] = Past(stored._replace(interval_s=stored.interval_s * 30), paid(START_S))
    await begin(bed, PERP)
    await asyncio.sleep(20)
    for back, value in ((3_900, 1), (3_601, 1), (3_600, 2), (3_450, 2), (900, 11), (601, 11)):
        assert bed.poller.facts[PERP.id].ring.at(START_S - back, 120) == value * 10**8
    assert bed.poller.facts[PERP.id].ring.at(START_S - 3_901, 120) is None


@pytest.mark.parametrize("set_by_s", [-86_400, -3_600, 3_600, 400 * 86_400])
def test_a_clock_that_somebody_sets_moves_no_fact(set_by_s):
    @polled
    async def check(bed):
        await begin(bed, PERP, COIN)
        await asyncio.sleep(61)
        bed.wall.set_by_s = set_by_s
        await asyncio.sleep(300)
        bed.wall.set_by_s = 0
        await asyncio.sleep(100)
        for instrument in (PERP, COIN):
            known = [fact.known_at for fact in await bed.facts(InterestFact) if fact.instrument == instrument.id]
            assert START_S <= known[0] < known[-1] <= START_S + 461
            assert {b - a for a, b in itertools.pairwise(known)} <= {9, 10, 11, *range(12, 21)}
        assert bed.poller.facts.summary("BTC", bed.poller.now_s).all.missing == ()

    check()
