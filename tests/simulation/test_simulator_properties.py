"""Simulated days have the properties of real ones: market-statistics targets on the BTC profile, medians over seeds.

The statistic functions are first held to recorded windows in tests/laws/test_market_statistics.py.
"""

import datetime as dt
from functools import cache
from statistics import median

import numpy as np
import pytest

from laws.market_statistics import (
    Pair,
    Seconds,
    acf,
    burst_sides,
    clustering,
    common,
    correlation,
    delta_link,
    kurtosis,
    opposite_share,
    pair,
    returns_bp,
)
from squeezecore.market import Bars, Instrument
from squeezecore.simulator import PROFILES, WorldSpec, instruments, simulate_day

SEEDS = (1, 2, 3, 4, 5)
DAY = dt.date(2026, 1, 5)
KINDS = ("squeeze", "noise")
CONFIGURED = PROFILES["BTC"]


def seconds_of_bars(bars: Bars, instrument: Instrument) -> Seconds:
    return Seconds(
        int(bars.ts[0]),
        bars.buy_trades + bars.sell_trades,
        bars.buy_trades,
        (bars.buy_usd_cents + bars.sell_usd_cents) / 100,
        (bars.buy_usd_cents - bars.sell_usd_cents) / 100,
        bars.close / 10**instrument.price_decimals,
    )


def market_properties(name: str, seconds: Seconds) -> dict[str, float]:
    """Measure what one market's day is like."""
    r = returns_bp(seconds.close)
    sides = burst_sides(seconds)
    link, slope = delta_link(seconds)
    return {
        f"{name} fills/s": seconds.fills.mean(),
        f"{name} clustering": clustering(seconds.fills),
        f"{name} bursts": sides.size,
        f"{name} burst side": np.median(sides) if sides.size else 0.0,
        f"{name} empty": (seconds.fills == 0).mean(),
        f"{name} return std": r.std(ddof=1),
        f"{name} kurtosis": kurtosis(r),
        f"{name} zero returns": (r == 0).mean(),
        f"{name} |r| ACF 1": acf(abs(r), 1),
        f"{name} |r| ACF 60": acf(abs(r), 60),
        f"{name} link": link,
        f"{name} slope": slope,
        f"{name} return ACF": acf(r, 1),
        f"{name} delta ACF": acf(seconds.delta, 1),
        f"{name} hours": np.ptp(np.log(seconds.quote.reshape(24, -1).sum(1))),
    }


def pair_properties(name: str, first: Seconds, second: Seconds) -> dict[str, float]:
    """Measure how two markets move together; the first may lead."""
    a, b = common(first, second)
    ra, rb = returns_bp(a.close), returns_bp(b.close)
    measured = Pair(*pair(first, second))
    return {
        **{f"{name} {key.replace('_', ' ')}": value for key, value in measured._asdict().items()},
        f"{name} leads": correlation(ra[:-1], rb[1:]),
        f"{name} lags": correlation(ra[1:], rb[:-1]),
        f"{name} 5 s correlation": correlation(returns_bp(first.close[::5]), returns_bp(second.close[::5])),
        f"{name} opposite": opposite_share(first.delta, second.delta),
    }


def interest_properties(published: np.ndarray, perp: Seconds) -> dict[str, float]:
    """Measure published open interest, minute by minute, against the perp's flow."""
    change = np.diff(published)
    volume = (perp.quote / perp.close).reshape(-1, 60).sum(1)[:-1]  # minute m ends where change m does
    delta = perp.delta.reshape(-1, 60).sum(1)[:-1]
    moves = returns_bp(perp.close[59::60])
    return {
        "OI std": returns_bp(published).std(),
        "OI ratio": float(np.median(abs(change[1:]) / volume[:-1])),
        "OI with delta": correlation(change, delta),
        "OI with return": correlation(change[1:], moves[: change.size - 1]),
        "OI lag": correlation(abs(change[1:]), volume[:-1]) - correlation(abs(change[1:]), volume[1:]),
    }


@cache
def properties(kind: str, seed: int) -> dict[str, float]:
    """Measure one simulated BTC day."""
    day = simulate_day(WorldSpec(seed=seed, kind=kind, start=DAY), "BTC", DAY)
    spot, perp, coin = (seconds_of_bars(day.bars[one.id], one) for one in instruments("BTC"))
    return {
        **market_properties("spot", spot),
        **market_properties("perp", perp),
        **market_properties("coin", coin),
        **pair_properties("perp/spot", perp, spot),
        **pair_properties("coin/perp", coin, perp),
        **interest_properties(day.open_interest.open_interest / 1e8, perp),
    }


# (number in market-statistics section 6, property, least, most)
TARGETS = [
    *(
        (1, f"{name} fills/s", 0.7 * market.fills_per_s, 1.3 * market.fills_per_s)
        for name, market in zip(("spot", "perp", "coin"), CONFIGURED.markets, strict=True)
    ),
    (1, "perp/spot trade ratio", 2.0, 4.0),
    (2, "spot clustering", 20.0, 400.0),
    (2, "perp clustering", 20.0, 400.0),
    (3, "perp bursts", 10.0, 8_640.0),
    (3, "perp burst side", 0.75, 1.0),
    (4, "spot empty", 0.0, 0.04),
    (4, "perp empty", 0.0, 0.04),
    (4, "coin empty", 0.23, 0.51),
    (10, "spot return std", CONFIGURED.sigma_bp / 2, CONFIGURED.sigma_bp * 2),
    (10, "perp return std", CONFIGURED.sigma_bp / 2, CONFIGURED.sigma_bp * 2),
    (11, "spot kurtosis", 5.0, 60.0),
    (11, "perp kurtosis", 5.0, 60.0),
    (12, "spot zero returns", 0.07, 0.49),
    (12, "perp zero returns", 0.07, 0.49),
    (12, "coin zero returns", 0.26, 0.68),
    *((13, f"{name} |r| ACF 1", 0.10, 0.9) for name in ("spot", "perp")),
    *((13, f"{name} |r| ACF 60", 0.05, 0.9) for name in ("spot", "perp")),
    *((14, f"{name} link", 0.35, 0.80) for name in ("spot", "perp", "coin")),
    (15, "spot slope", 3.0, 18.0),
    (15, "perp slope", 0.3, 3.6),
    *((16, f"{name} return ACF", -0.35, 0.35) for name in ("spot", "perp", "coin")),
    *((17, f"{name} delta ACF", -0.35, 0.35) for name in ("spot", "perp", "coin")),
    (18, "perp/spot return correlation", 0.55, 0.95),
    (19, "perp/spot leads", -0.30, 0.30),
    (19, "perp/spot lags", -0.30, 0.30),
    (20, "perp/spot delta correlation", 0.25, 0.70),
    (21, "perp/spot volume ratio", 0.6 * 10.6, 1.4 * 10.6),
    (21, "perp/spot volume correlation", 0.30, 0.85),
    (22, "perp/spot opposite", 0.15, 0.60),
    (23, "perp/spot basis mean", CONFIGURED.basis_bp - 0.5, CONFIGURED.basis_bp + 0.5),
    (23, "perp/spot basis std", 0.3, 1.5),
    (23, "perp/spot basis ar1", 0.3, 0.95),
    (24, "perp/spot 5 s correlation", 0.7, 1.0),
    (24, "coin/perp 5 s correlation", 0.7, 1.0),
    (25, "OI std", 1.5, 6.0),
    (25, "OI ratio", 0.03, 0.20),
    (27, "OI with delta", -0.20, 0.20),
    (27, "OI with return", -0.20, 0.20),
    (28, "OI lag", 0.01, 1.0),
    (33, "perp hours", float(np.log(2.0)), float(np.log(6.0))),
]


@pytest.mark.parametrize(("number", "name", "least", "most"), TARGETS, ids=[f"{t[0]}-{t[1]}" for t in TARGETS])
@pytest.mark.parametrize("kind", KINDS)
def test_a_simulated_day_has_the_properties_of_a_real_one(kind, number, name, least, most):
    values = [properties(kind, seed)[name] for seed in SEEDS]
    assert least <= median(values) <= most, f"property {number}, {name}: {values}, limits {least} and {most}"
    slack = (most - least) / 2
    outside = [value for value in values if not least - slack <= value <= most + slack]
    assert not outside, f"property {number}, {name}: {outside} lie outside twice the tolerance"


@pytest.mark.parametrize("kind", KINDS)
def test_a_perp_moves_less_per_dollar_than_spot(kind):
    ratios = [properties(kind, seed)["perp slope"] / properties(kind, seed)["spot slope"] for seed in SEEDS]
    assert median(ratios) < 1 / 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_perp_leads_no_less_than_spot(kind):
    leads = [properties(kind, seed)["perp/spot leads"] - properties(kind, seed)["perp/spot lags"] for seed in SEEDS]
    assert median(leads) >= -0.05


@pytest.mark.parametrize("kind", KINDS)
def test_two_flows_are_never_one_process(kind):
    assert max(properties(kind, seed)["perp/spot delta correlation"] for seed in SEEDS) <= 0.85
