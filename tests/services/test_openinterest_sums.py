"""Open interest added up: who joins or leaves never looks like a change, whatever the venues do."""

from fractions import Fraction

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from squeeze_openinterest.limits import BANNED_S, LIMITED_S, PAUSE_S_MAX, Budget, Pause, every_s, next_s
from squeeze_openinterest.sums import SPANS_S, TOP, Market, Ring, summarise
from squeezecore.market import PPM

NOW = 1_700_000_000
AGE = 120
KEEP = max(SPANS_S.values()) + AGE + 60


def market(name, *readings, venue=None, decimals=3):
    ring = Ring(KEEP)
    for known_at, value in readings:
        ring.add(known_at, value)
    return Market(name, venue or name.split(":")[0], decimals, ring)


def steady(name, value, start, end, *, step=10, **more):
    """A market that says the same from `start` to `end`, both before now, in seconds."""
    return market(name, *((at, value) for at in range(NOW - start, NOW - end + 1, step)), **more)


def test_a_change_is_over_the_venues_with_a_value_at_both_ends():
    grown = market("a:X", (NOW - 300, 1_000), (NOW - 5, 1_200))
    joined = market("b:X", (NOW - 100, 50_000))
    left = market("c:X", (NOW - 310, 9_000), (NOW - 250, 9_500))
    found = summarise([grown, joined, left], NOW, AGE)
    change = found.all.changes["5m"]
    assert (change.change, change.before, change.rate) == (200, 1_000, 0.2)
    assert found.all.open_interest == 51_200
    assert found.all.missing == ("c:X",)
    assert found.all.coverage_ppm == 51_200 * PPM // 60_700
    assert change.coverage_ppm == 1_200 * PPM // 60_700
    assert found.all.changes["4h"].change is None
    assert found.venues["b"].changes["5m"].change is None
    assert found.venues["c"].open_interest is None


def test_the_top_are_the_venues_with_the_most_now():
    markets = [steady(f"{venue}:X", value, 400, 0) for venue, value in zip("abcde", (5, 4, 3, 2, 6), strict=True)]
    found = summarise(markets, NOW, AGE)
    assert found.top.venues == ("e", "a", "b")
    assert found.top.open_interest == 15
    assert found.all.venues == ("e", "a", "b", "c", "d")
    assert len(found.top.venues) == TOP


def test_scales_meet_at_the_finest():
    found = summarise([market("a:X", (NOW, 15), decimals=1), market("b:X", (NOW, 25), decimals=3)], NOW, AGE)
    assert (found.decimals, found.all.open_interest) == (3, 1_525)


def test_a_venues_markets_come_and_go_one_by_one():
    linear = market("a:X-USDT-PERP", (NOW - 300, 100), (NOW, 130), venue="a")
    inverse = market("a:X-USD-PERP", (NOW - 300, 900), venue="a")
    found = summarise([linear, inverse], NOW, AGE)
    assert found.venues["a"].open_interest == 130
    assert found.venues["a"].changes["5m"].change == 30
    assert found.venues["a"].missing == ("a:X-USD-PERP",)


def test_a_value_is_carried_as_long_as_it_may_and_no_longer():
    one = market("a:X", (NOW - AGE, 7))
    assert summarise([one], NOW, AGE).all.open_interest == 7
    assert summarise([one], NOW + 1, AGE).all.open_interest is None
    assert summarise([one], NOW - AGE - 1, AGE).all.open_interest is None


def test_no_market_and_no_value_are_no_zero():
    for markets in ([], [market("a:X")]):
        found = summarise(markets, NOW, AGE).all
        assert (found.open_interest, found.coverage_ppm) == (None, None)
        assert found.changes["5m"].rate is None


readings = st.lists(st.tuples(st.integers(0, KEEP + 400), st.integers(1, 10**15)), max_size=12)


@st.composite
def asset(draw):
    """Draw markets of a few venues, known at any times before now, at any scales."""
    found = []
    for number in range(draw(st.integers(0, 5))):
        values = sorted({NOW - ago: value for ago, value in draw(readings)}.items())
        venue = draw(st.sampled_from("abcd"))
        found.append(market(f"{venue}:{number}", *values, venue=venue, decimals=draw(st.integers(0, 8))))
    return found


@given(st.lists(st.tuples(st.integers(1, 10**12), st.integers(0, 5000), st.integers(0, 5000)), max_size=6))
@settings(deadline=None, max_examples=150)
@example([(7, 5000, 0), (9, 200, 0), (11, 5000, 4000)])
def test_venues_that_hold_still_never_change_whoever_comes_and_goes(lives):
    markets = [steady(f"{n}:X", value, max(start, end), min(start, end)) for n, (value, start, end) in enumerate(lives)]
    for ts in range(NOW - 4000, NOW + 200, 500):
        found = summarise(markets, ts, AGE)
        for one in (found.all, found.top, *found.venues.values()):
            assert {change.change for change in one.changes.values()} <= {0, None}


@given(asset(), st.data())
@settings(deadline=None, max_examples=150)
def test_a_market_known_at_one_end_only_adds_nothing_to_a_change(markets, data):
    name = data.draw(st.sampled_from(sorted(SPANS_S)))
    then = NOW - SPANS_S[name]
    before = summarise(markets, NOW, AGE).all.changes[name]
    at = data.draw(st.sampled_from([NOW, then]))
    stranger = market("z:X", (at, data.draw(st.integers(1, 10**15))))
    assume(SPANS_S[name] > AGE)
    after = summarise([*markets, stranger], NOW, AGE).all.changes[name]
    shift = 10 ** (
        max([3, *(one.qty_decimals for one in markets)]) - max((one.qty_decimals for one in markets), default=3)
    )
    assert after.change == (None if before.change is None else before.change * shift)
    assert after.before == before.before * shift


@given(asset(), st.randoms())
@settings(deadline=None, max_examples=150)
def test_sums_are_those_of_plain_fractions_in_any_order(markets, shuffler):
    found = summarise(markets, NOW, AGE)
    shuffled = list(markets)
    shuffler.shuffle(shuffled)
    again = summarise(shuffled, NOW, AGE)
    assert (again.all.open_interest, again.all.changes) == (found.all.open_interest, found.all.changes)
    unit = 10**found.decimals

    def at(one, ts):
        value = one.ring.at(ts, AGE)
        return None if value is None else Fraction(value, 10**one.qty_decimals)

    present = [one for one in markets if at(one, NOW) is not None]
    assert Fraction(found.all.open_interest or 0, unit) == sum(at(one, NOW) for one in present)
    for name, span_s in SPANS_S.items():
        both = [one for one in present if at(one, NOW - span_s) is not None]
        change = found.all.changes[name]
        assert (change.change is None) == (not both)
        assert Fraction(change.change or 0, unit) == sum(at(one, NOW) - at(one, NOW - span_s) for one in both)
        venues = [one.changes[name].change for one in found.venues.values()]
        assert (change.change or 0) == sum(value for value in venues if value is not None)
    if found.all.coverage_ppm is not None:
        assert 0 <= found.all.coverage_ppm <= PPM


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=300), st.integers(0, 200))
@settings(deadline=None, max_examples=150)
def test_a_ring_forgets_only_what_no_change_can_ask_for(steps, back):
    ring, known, now = Ring(keep_s=200), {}, 0
    for step, value in steps:
        now += step
        ring.add(now, value)
        known[now] = value
        ts = now - back
        if now - ts + 50 > 200:
            continue
        young = [at for at in known if ts - 50 <= at <= ts]
        assert ring.at(ts, 50) == (known[max(young)] if young else None)
    assert len(ring) <= 2 * (len([at for at in known if at > now - 200]) + 1)


def test_a_clock_that_is_set_back_makes_nothing_older():
    ring = Ring(KEEP)
    ring.add(NOW, 5)
    ring.add(NOW - 3600, 6)
    assert ring.last == (NOW, 6)
    assert ring.at(NOW - 1, AGE) is None


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0, 30)), min_size=1, max_size=60), st.integers(10, 3000))
@settings(deadline=None, max_examples=150)
def test_no_minute_gets_more_than_its_weight_and_the_burst(asks, per_minute):
    budget, now, spent = Budget(per_minute), 0.0, []
    for weight, pause_s in asks:
        now += pause_s
        wait_s = budget.take(weight, now)
        assert wait_s >= 0
        spent.append((now + wait_s, weight))
    for at, _ in spent:
        minute = [weight for when, weight in spent if at - 1e-6 <= when < at + 60]
        assert sum(minute[:-1]) <= per_minute * 65 / 60 + 1e-6


def test_a_pause_doubles_ends_and_obeys_the_venue():
    pause = Pause()
    lengths, now = [], 0.0
    for _ in range(9):
        lengths.append(pause.failed(now, now, 0.0))
        assert pause.failed(now - 0.5, now, 0.0) == pause.left_s(now)  # sent before: no longer pause for it
        now = pause.until_s
    assert lengths == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert max(lengths) == PAUSE_S_MAX
    pause.succeeded()
    assert pause.failed(now, now, 0.5) == 1.25
    for status, told, expected in (
        (429, None, LIMITED_S),
        (418, None, BANNED_S),
        (429, "17", 18.0),
        (429, "Wed, 21 Oct 2015 07:28:00 GMT", LIMITED_S),
        (418, "9" * 30, 3 * 86_400 + 1),
    ):
        assert Pause().told(status, told, 5.0) == expected


@given(st.floats(0.1, 600), st.integers(0, 5000), st.integers(1, 6000))
def test_a_round_is_never_asked_for_more_often_than_its_weight_allows(wanted_s, weight, per_minute):
    found = every_s(wanted_s, weight, per_minute)
    assert found >= wanted_s
    assert weight * 60 / found <= per_minute * 1.000001


@given(st.floats(1.6e9, 1.8e9), st.floats(0.1, 600), st.floats(0, 1, exclude_max=True))
def test_the_next_point_of_a_grid_lies_ahead_and_on_it(now_s, every, phase):
    wait_s = next_s(now_s, every, phase)
    assert every / 10 <= wait_s < 1.1 * every
    off = (now_s + wait_s - phase * every) / every
    assert off == pytest.approx(round(off), abs=1e-4 / every + 1e-6)
