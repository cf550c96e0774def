"""What HTTP tells: sums, changes and funding as plain numbers with their units."""

from __future__ import annotations

from typing import Any

from squeeze_openinterest.facts import Facts, Known
from squeeze_openinterest.sums import Change, Sum
from squeezecore.market import FUNDING_SCALE, PPM
from squeezecore.wire import FundingFact, InterestFact, MarkFact

EIGHT_HOURS_S = 8 * 3600


def open_interest(facts: Facts, asset: str, now_s: int) -> dict[str, Any]:
    """Tell an asset's open interest: each market, each venue, the top three, all; base units, one-sided."""
    found = facts.summary(asset, now_s)
    unit = 10**found.decimals
    return {
        "asset": asset,
        "ts": found.ts,
        "unit": "base",
        "max_age_s": facts.max_age_s,
        "all": _sum(found.all, unit),
        "top": _sum(found.top, unit),
        "venues": {name: _sum(one, unit) for name, one in found.venues.items()},
        "markets": [_market(one, now_s, facts.max_age_s) for one in facts.markets(asset)],
    }


def _sum(one: Sum, unit: int) -> dict[str, Any]:
    return {
        "venues": list(one.venues),
        "open_interest": None if one.open_interest is None else one.open_interest / unit,
        "coverage": _share(one.coverage_ppm),
        "missing": list(one.missing),
        "changes": {name: _change(change, unit) for name, change in one.changes.items()},
    }


def _change(one: Change, unit: int) -> dict[str, float | None]:
    return {
        "change": None if one.change is None else one.change / unit,
        "rate": one.rate,
        "coverage": _share(one.coverage_ppm),
    }


def _share(ppm: int | None) -> float | None:
    return None if ppm is None else ppm / PPM


def _market(one: Known, now_s: int, max_age_s: int) -> dict[str, Any]:
    """Tell one market's last value, stale or not, and its worth at the last mark."""
    last, mark, fact = one.ring.last, one.latest.get("mark"), one.latest.get("interest")
    value = None if last is None else last[1] / 10**one.instrument.qty_decimals
    price = mark.mark / 10**one.instrument.price_decimals if isinstance(mark, MarkFact) else None
    age_s = None if last is None else max(0, now_s - last[0])
    return {
        "instrument": one.instrument.id,
        "open_interest": value,
        "open_interest_quote": None if value is None or price is None else value * price,
        "mark": price,
        "event_ts": fact.event_ts if isinstance(fact, InterestFact) else None,
        "known_at": None if last is None else last[0],
        "age_s": age_s,
        "stale": age_s is None or age_s > max_age_s,
    }


def funding(facts: Facts, asset: str, now_s: int) -> dict[str, Any]:
    """Tell an asset's funding: each market's, and the mean per 8 h weighted by open interest. Positive: longs pay."""
    markets = facts.markets(asset)
    weighed: dict[str, list[tuple[float, float]]] = {"predicted": [], "settled": []}
    for one in markets:
        held = one.ring.at(now_s, facts.max_age_s)
        for kind, pairs in weighed.items():
            fact = one.latest.get(kind)
            if isinstance(fact, FundingFact) and held is not None:
                pairs.append((_per_8h(fact), held / 10**one.instrument.qty_decimals))
    return {
        "asset": asset,
        "ts": now_s,
        "mean_rate_8h": {kind: _mean(pairs) for kind, pairs in weighed.items()},
        "markets": [
            {"instrument": one.instrument.id, "predicted": _rate(one, "predicted"), "settled": _rate(one, "settled")}
            for one in markets
        ],
    }


def _per_8h(fact: FundingFact) -> float:
    return fact.rate / FUNDING_SCALE * EIGHT_HOURS_S / fact.interval_s


def _mean(pairs: list[tuple[float, float]]) -> float | None:
    """Return the mean by weight; rounding must not lead it out of what it is the mean of."""
    weight = sum(held for _, held in pairs)
    if not weight:
        return None
    rates = [rate for rate, held in pairs if held]
    return min(max(sum(rate * held for rate, held in pairs) / weight, min(rates)), max(rates))


def _rate(one: Known, kind: str) -> dict[str, Any] | None:
    fact = one.latest.get(kind)
    if not isinstance(fact, FundingFact):
        return None
    return {
        "rate": fact.rate / FUNDING_SCALE,
        "rate_8h": _per_8h(fact),
        "interval_s": fact.interval_s,
        "event_ts": fact.event_ts,
        "known_at": fact.known_at,
    }
