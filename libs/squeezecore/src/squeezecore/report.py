"""Results in figures: what a run's trades, equity and days add up to, beside what simply holding would have brought.

A report's *trade* is one entry with its exit; what was done at the venue is a *fill*. Everything here is a pure function of
values that a run stores, so a summary made today from a stored run is the summary that was printed then. Money is exact
(`usd_e8`); ratios are `float64` from exact integers. This module knows no store and draws nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from squeezecore.ledger import Drawdown
from squeezecore.trading import USD_E8, Direction, Trade

__all__ = ["Trade"]  # of `trading`; everything else here is to be had by its name


class DayFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a summary needs to know of one asset's day of rows."""

    asset: str
    day: dt.date
    seconds: int  # rows that exist
    incomplete: int  # of these, seconds with a venue missing
    holes: int  # spans of missing rows
    first_open: int  # price scale; 0 = no row
    last_close: int


class Summary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run in figures. Shares and returns are fractions (0.01 is one per cent)."""

    days: int
    capital_usd_e8: int
    equity_usd_e8: int
    total_return: float
    fees_usd_e8: int  # paid
    slippage_usd_e8: int  # paid; already inside the prices
    funding_usd_e8: int  # received; negative: paid
    trades: int
    wins: int
    win_rate: float
    trades_per_day: float
    profit_factor: float  # won over lost; 0 when nothing was lost or nothing won
    pnl_mean_usd_e8: int
    long_share: float
    hold_s_median: float
    drawdown_max: float  # deepest fall from a peak, of every second
    drawdown_max_usd_e8: int
    exposure: float  # share of seconds with a position
    exits: dict[str, int]  # trades per exit reason
    tiers: dict[str, int]  # trades per tier
    trades_by_asset: dict[str, int]
    records: int  # decision records left
    seconds: int  # rows read, all assets
    seconds_incomplete: int
    holes: int
    seams_repaired: int
    buy_and_hold: dict[str, float]  # return of each asset over the run, without costs
    buy_and_hold_equal: float  # all of them in equal parts


def summarise(
    trades: Iterable[Trade],
    facts: Iterable[DayFacts],
    *,
    capital_usd_e8: int,
    equity_usd_e8: int,
    drawdown: Drawdown,
    seconds_held: int,
    seconds_run: int,
    records: int = 0,
    seams_repaired: int = 0,
) -> Summary:
    """Add a run up. Order of trades and days does not matter; the same values give the same summary, bit for bit."""
    done = sorted(trades, key=lambda t: (t.exit_ts, t.asset, t.entry_ts))
    days = sorted(facts, key=lambda f: (f.asset, f.day))
    count = len(done)
    won = sum(t.pnl_usd_e8 for t in done if t.pnl_usd_e8 > 0)
    lost = -sum(t.pnl_usd_e8 for t in done if t.pnl_usd_e8 < 0)
    wins = sum(t.pnl_usd_e8 > 0 for t in done)
    holding = buy_and_hold(days)
    day_count = len({f.day for f in days})
    return Summary(
        days=day_count,
        capital_usd_e8=capital_usd_e8,
        equity_usd_e8=equity_usd_e8,
        total_return=_share(equity_usd_e8 - capital_usd_e8, capital_usd_e8),
        fees_usd_e8=sum(t.fees_usd_e8 for t in done),
        slippage_usd_e8=sum(t.slippage_usd_e8 for t in done),
        funding_usd_e8=sum(t.funding_usd_e8 for t in done),
        trades=count,
        wins=wins,
        win_rate=_share(wins, count),
        trades_per_day=_share(count, day_count),
        profit_factor=_share(won, lost),
        pnl_mean_usd_e8=(won - lost) // count if count else 0,
        long_share=_share(sum(t.direction is Direction.BULLISH for t in done), count),
        hold_s_median=_median([t.hold_s for t in done]),
        drawdown_max=drawdown.depth,
        drawdown_max_usd_e8=drawdown.depth_usd_e8,
        exposure=_share(seconds_held, seconds_run),
        exits=_counts(t.reason for t in done),
        tiers=_counts(str(t.tier) for t in done),
        trades_by_asset=_counts(t.asset for t in done),
        records=records,
        seconds=sum(f.seconds for f in days),
        seconds_incomplete=sum(f.incomplete for f in days),
        holes=sum(f.holes for f in days),
        seams_repaired=seams_repaired,
        buy_and_hold=holding,
        buy_and_hold_equal=_share_float(sum(holding.values()), len(holding)),
    )


def buy_and_hold(facts: Iterable[DayFacts]) -> dict[str, float]:
    """Return each asset's return from the first open to the last close of the run; assets without rows are left out."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for fact in sorted(facts, key=lambda f: (f.asset, f.day)):
        if fact.seconds:
            first.setdefault(fact.asset, fact.first_open)
            last[fact.asset] = fact.last_close
    return {asset: _share(last[asset] - first[asset], first[asset]) for asset in sorted(first)}


def lines(value: Any, prefix: str = "") -> list[str]:
    """Flatten a value to sorted `key=value` lines; what golden files hold.

    >>> lines({"b": [1, 2.5], "a": {"x": "y"}})
    ['a.x=y', 'b.0=1', 'b.1=2.5']
    """
    plain = msgspec.to_builtins(value)
    flat: list[str] = []
    _flatten(plain, prefix, flat)
    return sorted(flat)


def usd(amount_usd_e8: int) -> float:
    """Return money for people."""
    return amount_usd_e8 / USD_E8


# --- leaves ---


def _flatten(value: Any, prefix: str, flat: list[str]) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(item, f"{prefix}.{key}" if prefix else str(key), flat)
    elif isinstance(value, (list, tuple)):
        width = len(str(max(len(value) - 1, 0)))  # so that sorting keeps the order
        for number, item in enumerate(value):
            _flatten(item, f"{prefix}.{number:0{width}}" if prefix else f"{number:0{width}}", flat)
    else:
        flat.append(f"{prefix}={value!r}" if isinstance(value, float) else f"{prefix}={value}")


def _counts(values: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[str(value)] = counts.get(str(value), 0) + 1
    return dict(sorted(counts.items()))


def _median(values: list[int]) -> float:
    if not values:
        return 0.0
    values = sorted(values)
    middle = len(values) // 2
    return float(values[middle]) if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _share_float(total: float, count: int) -> float:
    return total / count if count else 0.0
