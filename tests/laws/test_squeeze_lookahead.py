"""No look-ahead: what was said of the past does not change when the future is taken away."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laws.mutants import HONEST, MUTANTS, Path
from laws.squeeze_worlds import WARMUP_S, Facts, facts

LENGTH = WARMUP_S + 5 * 3600
CUTS = range(3_599, 5 * 3600, 361)  # seconds after the warm-up, at changing places in minute and candle


@functools.cache
def world(seed: int) -> Facts:
    """Make a market in which some seconds are incomplete."""
    market = facts(seed, LENGTH)
    quality = market.rows.quality_ppm.copy()
    for start in range(WARMUP_S, LENGTH, 433):
        quality[start : start + 90] = 500_000
    return market._replace(rows=market.rows._replace(quality_ppm=quality))


def knows_the_future(path: Path, market: Facts, end: int) -> bool:
    """Say whether a path says anything else of the seconds before `end`, or of why, once it has seen what follows."""
    said, reasons = path(market, end)
    without, reasons_without = path(market.until(end), end)
    return reasons != reasons_without or any(said[name].tobytes() != without[name].tobytes() for name in said)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(1, 5), end=st.integers(1, LENGTH))
def test_a_future_taken_away_changes_no_past(seed, end):
    assert not knows_the_future(HONEST, world(seed), end)


@pytest.mark.parametrize("name", MUTANTS)
def test_the_prefix_test_catches(name):
    assert any(knows_the_future(MUTANTS[name], world(seed), WARMUP_S + end) for seed in (2, 3) for end in CUTS)


def test_the_honest_path_passes_where_the_mutants_are_caught():
    assert not any(knows_the_future(HONEST, world(seed), WARMUP_S + end) for seed in (2, 3) for end in CUTS[::4])
