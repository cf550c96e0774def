"""What a run's numbers are worth: return and risk, what trades brought, and how much of it luck explains.

Everything is a pure function of the account's equity, of daily returns, or of trades. A day is a calendar day, UTC, and a
year has 365 of them, since these markets never close. Returns, shares and probabilities are fractions (0.01 is one per
cent), float64; money comes in exactly (`usd_e8`) and goes out as USD for people.

A number that is not defined (no days, nothing lost, a flat line) is None: never nan, never infinite, never an error.
What is drawn by chance comes from the seed that the caller gives: the same input and seed give the same bits. Formulas
and sources: docs/statistics.md. This module knows no store, draws nothing, and asks nobody what a number should have been.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from squeezecore.ledger import equity_path
from squeezecore.market import Instrument
from squeezecore.report import Trade
from squeezecore.trading import USD_E8, Direction

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Key = TypeVar("Key", int, str)

DAY_S = 86_400
DAYS_A_YEAR = 365.0
ROUNDING = 1e-12  # days whose returns differ by no more do not differ: it is the last 1e-8 USD of an account
TAIL = 0.05  # the worst twentieth of days
TAIL_DAYS_MIN = 20  # fewer days have no worst twentieth
LEVEL = 0.95  # of intervals
RESAMPLES = 2_000
UNDEFINED_MAX = 0.05  # share of resamples a number may be undefined in and still have an interval
CHUNK = 512  # resamples, or ways to split, at a time: bounds the memory

TRADES_MIN = 30  # with fewer, a coin's win rate lies anywhere between 32 % and 68 %
DAYS_MIN = 20  # with fewer, the standard error of a year's Sharpe ratio is above 4
CONFIDENCE = 0.95  # of PSR, DSR and the minimum track record
PLACEBO_P_MAX = 0.05
PLACEBOS_MIN = math.ceil(1 / PLACEBO_P_MAX) - 1  # fewer cannot come to a p-value that is small enough
BREAK_EVEN_MIN = 1.5  # times the costs that were assumed
PBO_MAX = 0.2
PBO_TRIALS_MIN = 10
PBO_BLOCKS = 16  # 12,870 ways to split
PBO_BLOCKS_MIN = 8  # 70 ways

_NORMAL = NormalDist()
_EULER = 0.57721566490153286


# --- the account ---


class Curve(NamedTuple):
    """What an account was worth: points of equity, carried on where there is none, and the days they belong to."""

    ts: Ints  # s, not falling; a point at or after the end belongs to the last day
    equity_usd_e8: Ints
    capital_usd_e8: int  # at start_s, > 0
    start_s: int
    n_days: int

    @property
    def end_s(self) -> int:
        """The first second after the last day."""
        return self.start_s + self.n_days * DAY_S

    @property
    def returns(self) -> Floats:
        """Daily returns, [n_days]."""
        return daily_returns(*self)


def daily_equity(ts: Ints, equity_usd_e8: Ints, capital_usd_e8: int, start_s: int, n_days: int) -> Ints:
    """Return the equity at the end of each day, usd_e8 [n_days]; a day without a point ends as the day before it did.

    >>> daily_equity(np.array([10, 86_410]), np.array([101, 99]), 100, 0, 3).tolist()
    [101, 99, 99]
    """
    _refuse_bad_points(ts, equity_usd_e8, capital_usd_e8)
    ends = start_s + DAY_S * np.arange(1, n_days + 1)
    before = np.searchsorted(ts, ends)
    before[-1:] = len(ts)  # what closing the last positions brought is booked at the end itself
    return np.concatenate((np.array([capital_usd_e8]), equity_usd_e8))[before]


def daily_returns(ts: Ints, equity_usd_e8: Ints, capital_usd_e8: int, start_s: int, n_days: int) -> Floats:
    """Return each day's return on the equity it began with, float64 [n_days].

    Nobody loses more than all of it: the day on which equity falls to zero or below returns -1, and the days after it 0.

    >>> daily_returns(np.array([10, 86_410]), np.array([101, 99]), 100, 0, 3).round(4).tolist()
    [0.01, -0.0198, 0.0]
    """
    ends = np.maximum(daily_equity(ts, equity_usd_e8, capital_usd_e8, start_s, n_days), 0)
    if (ruined := np.flatnonzero(ends == 0)).size:
        ends[ruined[0] :] = 0
    begins = np.concatenate((np.array([capital_usd_e8]), ends[:-1]))[:n_days]
    return np.asarray((ends - begins) / np.maximum(begins, 1), np.float64)


class Fall(msgspec.Struct, frozen=True, kw_only=True):
    """The deepest fall from a peak, by share. Times are those of points; none where equity never fell."""

    depth: float | None  # share of the peak, ≥ 0; none: no points
    depth_usd: float | None  # of this fall
    peak_ts: int | None  # s, the last point at the peak
    trough_ts: int | None  # s, the first of the lowest points
    recovery_ts: int | None  # s, the first point back at the peak; none: not yet
    length_s: int | None  # peak to recovery, or to the last point
    recovery_s: int | None  # trough to recovery
    underwater_s_max: int | None  # longest time below a peak, of all falls


def fall(curve: Curve) -> Fall:
    """Find the deepest fall, and how long it took to come back.

    >>> found = fall(Curve(np.array([60, 120, 180]), np.array([80, 90, 100]), 100, 0, 1))
    >>> found.depth, found.trough_ts, found.recovery_ts, found.recovery_s
    (0.2, 60, 180, 120)
    """
    _refuse_bad_points(curve.ts, curve.equity_usd_e8, curve.capital_usd_e8)
    ts = np.concatenate((np.array([curve.start_s]), curve.ts))
    equity = np.concatenate((np.array([curve.capital_usd_e8]), curve.equity_usd_e8))
    peaks = np.maximum.accumulate(equity)
    share = (peaks - equity) / peaks
    low = int(share.argmax())
    depth = float(share[low])
    if depth == 0:
        nothing = None if len(ts) == 1 else 0
        return Fall(
            depth=None if len(ts) == 1 else 0.0, depth_usd=None if len(ts) == 1 else 0.0, peak_ts=None, trough_ts=None,
            recovery_ts=None, length_s=nothing, recovery_s=nothing, underwater_s_max=nothing,
        )  # fmt: skip
    peak = int(np.flatnonzero(equity[:low] == peaks[low])[-1])
    back = np.flatnonzero(equity[low:] >= peaks[low])
    recovery = int(ts[low + back[0]]) if back.size else None
    highs = np.append(np.flatnonzero(equity == peaks), len(ts) - 1)  # the end counts: a fall may last until then
    under = np.diff(ts[highs])[np.diff(highs) > 1]
    unrecovered = int(ts[-1] - ts[highs[-2]])
    return Fall(
        depth=depth,
        depth_usd=int(peaks[low] - equity[low]) / USD_E8,
        peak_ts=int(ts[peak]),
        trough_ts=int(ts[low]),
        recovery_ts=recovery,
        length_s=int((recovery if recovery is not None else ts[-1]) - ts[peak]),
        recovery_s=recovery - int(ts[low]) if recovery is not None else None,
        underwater_s_max=max(int(under.max()) if under.size else 0, unrecovered),
    )


class MonthReturn(NamedTuple):
    """A calendar month's return, or that of its part that the run covers."""

    year: int
    month: int
    total_return: float
    days: int


def monthly_returns(returns: ArrayLike, first_day: dt.date) -> tuple[MonthReturn, ...]:
    """Compound daily returns by calendar month.

    >>> monthly_returns([0.1, 0.1, -0.5], dt.date(2026, 1, 30))[1]
    MonthReturn(year=2026, month=2, total_return=-0.5, days=1)
    """
    found = []
    row = _row(returns)
    days = ((first_day + dt.timedelta(n), value) for n, value in enumerate(row.tolist()))
    for (year, month), group in itertools.groupby(days, lambda item: (item[0].year, item[0].month)):
        values = [value for _, value in group]
        found.append(MonthReturn(year, month, math.prod(1 + value for value in values) - 1, len(values)))
    return tuple(found)


# --- daily returns ---


def total_return(returns: ArrayLike) -> float | None:
    """Compound: Π(1 + r) - 1. None without a day.

    >>> round(total_return([0.1, -0.1]), 12)
    -0.01
    """
    return _number(_totals, returns)


def cagr(returns: ArrayLike, days_a_year: float = DAYS_A_YEAR) -> float | None:
    """Return the yearly growth that compounds to the same: (1 + total)^(year / days) - 1. None without a day."""
    total = total_return(returns)
    return None if total is None else _grow(total, len(_row(returns)), days_a_year)


def annual_volatility(returns: ArrayLike, days_a_year: float = DAYS_A_YEAR) -> float | None:
    """Return the sample standard deviation of days (n - 1) times √year. None below two days."""
    return _number(lambda rows: _deviations(rows) * math.sqrt(days_a_year), returns)


def sharpe(returns: ArrayLike, days_a_year: float = DAYS_A_YEAR) -> float | None:
    """Return mean / sample standard deviation times √year, against a rate of nothing. None when days do not differ.

    Sharpe (1994), "The Sharpe Ratio".

    >>> round(sharpe([0.01, 0.03], 1), 6), sharpe([0.01, 0.01])
    (1.414214, None)
    """
    return _number(lambda rows: _sharpes(rows, days_a_year), returns)


def sortino(returns: ArrayLike, days_a_year: float = DAYS_A_YEAR) -> float | None:
    """Return mean / √mean(min(r, 0)²) times √year: only losing days count as risk. None without one.

    Sortino and Price (1994), "Performance Measurement in a Downside Risk Framework", with a target of nothing.
    """
    return _number(lambda rows: _sortinos(rows, days_a_year), returns)


def calmar(returns: ArrayLike, days_a_year: float = DAYS_A_YEAR, drawdown_max: float | None = None) -> float | None:
    """Return CAGR over the deepest fall: of days' ends, unless the caller knows a deeper one. None without a fall.

    Young (1991), "Calmar Ratio: A Smoother Tool"; over the whole range, not over three years.
    """
    growth = cagr(returns, days_a_year)
    deepest = _number(_drawdowns, returns) if drawdown_max is None else drawdown_max
    return growth / deepest if growth is not None and deepest else None


def omega(returns: ArrayLike) -> float | None:
    """Return what winning days add up to over what losing days do. None without a losing day.

    Keating and Shadwick (2002), "A Universal Performance Measure", with a threshold of nothing.

    >>> omega([0.03, -0.01, 0.0])
    3.0
    """
    row = _row(returns)
    lost = float(-row[row < 0].sum())
    return float(row[row > 0].sum()) / lost if lost > 0 else None


def skew(returns: ArrayLike) -> float | None:
    """Return m3 / m2^1.5 of central moments (n, not n - 1): below zero, the long tail is that of losses."""
    return _moments(_row(returns))[0]


def kurtosis(returns: ArrayLike) -> float | None:
    """Return m4 / m2² of central moments (n, not n - 1): 3 for a normal distribution, more for fatter tails."""
    return _moments(_row(returns))[1]


def drawdown_max(returns: ArrayLike) -> float | None:
    """Return the deepest fall from a peak of days' ends, the start included, as a share ≥ 0. None without a day."""
    return _number(_drawdowns, returns)


def value_at_risk(returns: ArrayLike) -> float | None:
    """Return the return that the worst twentieth of days stays below (historical, interpolated). None below 20 days."""
    row = _row(returns)
    return float(np.quantile(row, TAIL)) if len(row) >= TAIL_DAYS_MIN else None


def expected_shortfall(returns: ArrayLike) -> float | None:
    """Return the mean return of the worst twentieth of days (the first ⌊(n - 1) / 20⌋ + 1). None below 20 days.

    Rockafellar and Uryasev (2000), "Optimization of Conditional Value-at-Risk".
    """
    row = np.sort(_row(returns))
    return float(row[: int((len(row) - 1) * TAIL) + 1].mean()) if len(row) >= TAIL_DAYS_MIN else None


# --- trades ---


def win_rate(trades: Sequence[Trade]) -> float | None:
    """Return the share of trades that earned something after costs. None without a trade."""
    return sum(t.pnl_usd_e8 > 0 for t in trades) / len(trades) if trades else None


def profit_factor(trades: Sequence[Trade]) -> float | None:
    """Return what winning trades earned over what losing trades lost. None when nothing was lost."""
    won, lost, _, _ = _won_and_lost(trades)
    return won / lost if lost else None


def payoff(trades: Sequence[Trade]) -> float | None:
    """Return the mean winning trade over the mean losing trade. None without one of either."""
    won, lost, wins, losses = _won_and_lost(trades)
    return (won / wins) / (lost / losses) if wins and losses else None


def expectancy_usd(trades: Sequence[Trade]) -> float | None:
    """Return what a trade brought in the mean after all costs, USD. None without a trade."""
    return sum(t.pnl_usd_e8 for t in trades) / len(trades) / USD_E8 if trades else None


def expectancy_bps(trades: Sequence[Trade]) -> float | None:
    """Return the mean of pnl / notional of the entry, basis points: comparable with costs. None without a trade."""
    shares = [_pnl_bps(t) for t in trades]
    return math.fsum(shares) / len(shares) if shares else None


def losing_streak(trades: Sequence[Trade]) -> int:
    """Return the longest row of losing trades, in order of exit; a trade at exactly nothing ends a row."""
    longest = row = 0
    for trade in sorted(trades, key=lambda t: (t.exit_ts, t.asset, t.entry_ts)):
        row = row + 1 if trade.pnl_usd_e8 < 0 else 0
        longest = max(longest, row)
    return longest


def traded_usd_e8(trades: Sequence[Trade]) -> int:
    """Return the notional of all entries and exits."""
    return sum(t.entry_usd_e8 + t.exit_usd_e8 for t in trades)


def costs_usd_e8(trades: Sequence[Trade]) -> int:
    """Return what trading cost: fees + slippage - funding received. `pnl + costs` is what it would have been for free."""
    return sum(t.fees_usd_e8 + t.slippage_usd_e8 - t.funding_usd_e8 for t in trades)


def turnover(trades: Sequence[Trade], curve: Curve) -> float | None:
    """Return the notional traded a day, entries and exits, in multiples of the mean equity days began with."""
    return _over_equity(traded_usd_e8(trades), curve)


def leverage(trades: Sequence[Trade], curve: Curve) -> float | None:
    """Return the notional held in the mean, over all seconds of the run, in multiples of the mean equity."""
    held = sum(t.entry_usd_e8 * t.hold_s for t in trades)
    return _over_equity(held / DAY_S, curve)


def exposure(trades: Sequence[Trade], start_s: int, end_s: int) -> float | None:
    """Return the share of [start_s, end_s) with a trade open; trades that overlap count once. None for no time.

    From first entry fill to last exit fill. An account that is flat between two fills of one trade does not exist.
    """
    held, until = 0, start_s
    for first, last in sorted((t.entry_ts, t.exit_ts) for t in trades):
        first, last = max(first, until), min(last, end_s)  # noqa: PLW2901  # cut to what is not counted yet
        if last > first:
            held, until = held + last - first, last
    return held / (end_s - start_s) if end_s > start_s else None


class Excursion(NamedTuple):
    """How far a trade went against us and for us while it was held; before fees and funding."""

    mae_usd_e8: int  # worst unrealised result, ≤ 0
    mfe_usd_e8: int  # best, ≥ 0
    mae_at: int | None  # index of its second; none: it never was below nothing
    mfe_at: int | None


def excursion(marks: Ints, instrument: Instrument, direction: Direction, qty: int, cost_usd_e8: int) -> Excursion:
    """Return a trade's maximum adverse and favourable excursion over its seconds' prices (price scale), exactly.

    `qty` and `cost_usd_e8` are those of the whole entry, both ≥ 0. Give the seconds from the last entry fill to the first
    exit fill: while an order is being filled, less is held than this assumes. Sweeney (1996), "Maximum Adverse Excursion".
    """
    if len(marks) == 0:
        return Excursion(0, 0, None, None)
    sign = int(direction)
    path = equity_path(0, marks.reshape(1, -1), [sign * qty], [sign * cost_usd_e8], [instrument])
    low, high = int(path.argmin()), int(path.argmax())
    worst, best = int(path[low]), int(path[high])
    return Excursion(min(worst, 0), max(best, 0), low if worst < 0 else None, high if best > 0 else None)


# --- where it came from ---


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Trades of one kind, added up."""

    label: str
    trades: int
    wins: int
    pnl_usd_e8: int
    pnl_mean_usd: float
    costs_usd_e8: int  # fees + slippage - funding received


class Split(NamedTuple):
    """A property that trades are split by."""

    name: str
    title: str
    key: Callable[[Trade], Any]  # sorts the groups
    label: Callable[[Any], str]


_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

SPLITS = (
    Split("direction", "Direction", lambda t: -int(t.direction), lambda k: "short" if k > 0 else "long"),
    Split("tier", "Score tier", lambda t: t.tier, lambda k: f"tier {k}"),
    Split("reason", "Exit reason", lambda t: t.reason, lambda k: str(k).replace("_", " ")),
    Split("asset", "Asset", lambda t: t.asset, str),
    Split("hour", "Hour of entry (UTC)", lambda t: t.entry_ts // 3600 % 24, lambda k: f"{k:02}:00"),
    # 1970-01-01 was a Thursday
    Split("weekday", "Weekday of entry (UTC)", lambda t: (t.entry_ts // DAY_S + 3) % 7, lambda k: _WEEKDAYS[k]),
)


def attribute(
    trades: Sequence[Trade], key: Callable[[Trade], Key], label: Callable[[Key], str] = str
) -> tuple[Group, ...]:
    """Split trades by a key, add each group up, and return the groups in order of the key.

    `SPLITS` holds the usual keys. The phase at the decision is not part of a trade: give
    `lambda trade: phases[trade.entry_order_id]`. The groups add up to the whole.
    """
    groups: dict[Key, list[Trade]] = {}
    for trade in trades:
        groups.setdefault(key(trade), []).append(trade)
    return tuple(
        Group(
            label=label(kind),
            trades=len(group),
            wins=sum(t.pnl_usd_e8 > 0 for t in group),
            pnl_usd_e8=sum(t.pnl_usd_e8 for t in group),
            pnl_mean_usd=sum(t.pnl_usd_e8 for t in group) / len(group) / USD_E8,
            costs_usd_e8=costs_usd_e8(group),
        )
        for kind, group in sorted(groups.items(), key=lambda item: item[0])
    )


# --- luck: one result ---


def probabilistic_sharpe(
    sharpe_day: float, benchmark_day: float, days: int, skewness: float, kurt: float
) -> float | None:
    """Return the probability that the true Sharpe ratio is above a benchmark's, both per day.

    Φ((SR - SR*) √(n - 1) / √(1 - γ3 SR + (γ4 - 1)/4 SR²)), γ4 = 3 for a normal distribution. None below two days.
    Bailey and López de Prado (2012), "The Sharpe Ratio Efficient Frontier".

    >>> round(probabilistic_sharpe(0.1, 0.0, 365, 0.0, 3.0), 3)
    0.971
    """
    spread = _sharpe_spread(sharpe_day, skewness, kurt)
    if days < 2 or spread is None:
        return None
    return _NORMAL.cdf((sharpe_day - benchmark_day) * math.sqrt(days - 1) / math.sqrt(spread))


def min_track_record(
    sharpe_day: float, benchmark_day: float, skewness: float, kurt: float, confidence: float = CONFIDENCE
) -> int | None:
    """Return the days after which `probabilistic_sharpe` is at least `confidence`, if all goes on like this.

    1 + (1 - γ3 SR + (γ4 - 1)/4 SR²) (z / (SR - SR*))², rounded up. None when SR is not above SR*: no length proves it.
    Bailey and López de Prado (2012).

    >>> min_track_record(0.1, 0.0, 0.0, 3.0)
    273
    """
    spread = _sharpe_spread(sharpe_day, skewness, kurt)
    above = (sharpe_day - benchmark_day) ** 2
    if sharpe_day <= benchmark_day or spread is None or above == 0:
        return None
    needed = 1 + spread * _NORMAL.inv_cdf(confidence) ** 2 / above
    return math.ceil(needed) if math.isfinite(needed) else None


# --- luck: the best of many ---


def expected_max_sharpe(trials: int, variance: float) -> float:
    """Return the Sharpe ratio that the best of `trials` without any edge is expected to have, in the unit of √variance.

    √V ((1 - γ) Φ⁻¹(1 - 1/N) + γ Φ⁻¹(1 - 1/(N e))), γ Euler's constant; nothing for one trial.
    Bailey and López de Prado (2014), "The Deflated Sharpe Ratio". Their example:

    >>> round(expected_max_sharpe(100, 0.5 / 250), 4)
    0.1132
    """
    if trials < 2:
        return 0.0
    high, higher = _NORMAL.inv_cdf(1 - 1 / trials), _NORMAL.inv_cdf(1 - 1 / (trials * math.e))
    return math.sqrt(variance) * ((1 - _EULER) * high + _EULER * higher)


def deflated_sharpe(
    sharpe_day: float, days: int, skewness: float, kurt: float, trials: int, variance: float
) -> float | None:
    """Return the probability that the true Sharpe ratio is above what the best of `trials` has by luck alone.

    `probabilistic_sharpe` against `expected_max_sharpe`; `variance` is that of the trials' Sharpe ratios, per day.
    Bailey and López de Prado (2014). Their example:

    >>> round(deflated_sharpe(2.5 / 250**0.5, 1250, -3.0, 10.0, 100, 0.5 / 250), 4)
    0.9004
    """
    return probabilistic_sharpe(sharpe_day, expected_max_sharpe(trials, variance), days, skewness, kurt)


class Overfitting(msgspec.Struct, frozen=True, kw_only=True):
    """How often the best trial of one half of the days is among the worse half of trials in the other."""

    pbo: float  # probability of backtest overfitting, 0..1
    trials: int
    days: int  # that were used: a whole number of days a block, the last ones
    blocks: int
    splits: int  # ways to take half of the blocks


def overfitting(returns: ArrayLike) -> Overfitting | None:
    """Estimate the probability that choosing the best trial chose luck, from daily returns [days, trials] of one range.

    Combinatorially symmetric cross-validation: the days are cut into up to 16 blocks; for each way to take half of them,
    the trial with the best Sharpe ratio there is ranked among all trials in the other half. PBO is the share of ways in
    which it comes out below the middle; exactly in the middle counts half. A trial that stands still in a half has a
    Sharpe ratio of nothing there. None below ten trials or 16 days. Bailey, Borwein, López de Prado and Zhu (2015),
    "The Probability of Backtest Overfitting".
    """
    matrix = np.asarray(returns, np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"returns had {matrix.ndim} dimensions, [days, trials] has 2: give one column a trial")
    _refuse_not_finite(matrix)
    blocks = min(PBO_BLOCKS, matrix.shape[0] // 4 * 2)  # even, and two days or more in each
    if matrix.shape[1] < PBO_TRIALS_MIN or blocks < PBO_BLOCKS_MIN:
        return None
    size = matrix.shape[0] // blocks
    matrix = matrix[len(matrix) - size * blocks :]
    days, trials = matrix.shape
    # Sums about each trial's mean, so that the square of the mean does not swallow the variance.
    middle = matrix.mean(axis=0)
    parts = (matrix - middle).reshape(blocks, size, trials)
    sums, squares = parts.sum(axis=1), (parts**2).sum(axis=1)
    still = 1e-12 * squares.sum(axis=0)
    ways = np.array(list(itertools.combinations(range(blocks), blocks // 2)))
    below = 0.0
    for first in range(0, len(ways), CHUNK):
        chosen = np.zeros((len(ways[first : first + CHUNK]), blocks))
        np.put_along_axis(chosen, ways[first : first + CHUNK], 1.0, axis=1)
        inside = _half_sharpes(chosen @ sums, chosen @ squares, middle, still, days // 2)
        outside = _half_sharpes((1 - chosen) @ sums, (1 - chosen) @ squares, middle, still, days // 2)
        best = np.take_along_axis(outside, inside.argmax(axis=1)[:, None], axis=1)
        lower, equal = (outside < best).sum(axis=1), (outside == best).sum(axis=1)
        rank = lower + (equal + 1) / 2  # 1 is the worst
        below += float((rank < (trials + 1) / 2).sum() + (rank == (trials + 1) / 2).sum() / 2)
    return Overfitting(pbo=below / len(ways), trials=trials, days=days, blocks=blocks, splits=len(ways))


# --- intervals ---


class Interval(NamedTuple):
    """Where a number may well lie: `LEVEL` of the resamples fall between."""

    low: float
    high: float


class Intervals(msgspec.Struct, frozen=True, kw_only=True):
    """Bootstrap intervals of headline numbers, by the names of `FIGURES`."""

    level: float
    resamples: int
    block_days: int
    values: dict[str, Interval]  # a number that has none is left out


def block_days(days: int) -> int:
    """Return the length of a block: ∛n rounded up.

    The rate that is best for variances (Hall, Horowitz and Jing, 1995). It keeps what lasts a few days (a trade over
    midnight, a cluster of trades) without leaving too few blocks to draw; an estimated length would itself be noise on
    the months of days that a run has.

    >>> block_days(30), block_days(365)
    (4, 8)
    """
    return max(1, math.ceil(round(math.cbrt(days), 9)))


def intervals(
    curve: Curve,
    trades: Sequence[Trade],
    seed: bytes,
    *,
    resamples: int = RESAMPLES,
    days_a_year: float = DAYS_A_YEAR,
) -> Intervals:
    """Draw days anew in circular blocks, with the trades that ended in them, and see how far the numbers move.

    Percentile intervals; one drawing serves all numbers. There are none below 20 days: so few blocks are much the same
    however they are drawn, and an interval of no width would look like certainty. `drawdown_max` is that of days' ends:
    its interval tells what the same days in another order might have brought.

    Politis and Romano (1992), "A Circular Block-Resampling Procedure for Stationary Data".
    """
    returns = curve.returns
    days, block = len(returns), block_days(len(returns))
    drawn: dict[str, list[Floats]] = {}
    bits = np.random.PCG64(np.random.SeedSequence(int.from_bytes(seed, "big")))
    by_day = _trades_by_day(trades, curve)
    for first in range(0, resamples if days >= DAYS_MIN else 0, CHUNK):
        index = _draw(bits, min(CHUNK, resamples - first), days, block)
        for name, values in _resampled(returns[index], by_day[:, index], days_a_year).items():
            drawn.setdefault(name, []).append(values)
    found = {name: _interval(np.concatenate(values)) for name, values in drawn.items()}
    return Intervals(
        level=LEVEL, resamples=resamples, block_days=block, values={k: v for k, v in found.items() if v is not None}
    )


# --- all of it ---


class Performance(msgspec.Struct, frozen=True, kw_only=True):
    """A run in numbers that people read; what each means stands in `FIGURES` under its name."""

    days: int
    total_return: float | None
    cagr: float | None
    day_mean: float | None
    day_best: float | None
    day_worst: float | None
    days_won: float | None
    annual_volatility: float | None
    sharpe: float | None
    sortino: float | None
    calmar: float | None
    omega: float | None
    skew: float | None
    kurtosis: float | None
    value_at_risk: float | None
    expected_shortfall: float | None
    drawdown_max: float | None
    drawdown_usd: float | None
    drawdown_peak_ts: int | None
    drawdown_trough_ts: int | None
    drawdown_recovery_ts: int | None
    drawdown_length_s: int | None
    drawdown_recovery_s: int | None
    underwater_s_max: int | None
    trades: int
    win_rate: float | None
    profit_factor: float | None
    payoff: float | None
    expectancy_usd: float | None
    expectancy_bps: float | None
    losing_streak: int
    exposure: float | None
    leverage: float | None
    turnover: float | None
    fees_usd: float
    slippage_usd: float
    funding_usd: float
    costs_usd: float
    costs_bps: float | None
    psr: float | None
    min_track_days: int | None
    trials: int
    sharpe_by_luck: float | None
    dsr: float | None


def performance(
    curve: Curve,
    trades: Sequence[Trade],
    *,
    trial_sharpes: Sequence[float | None] = (),
    days_a_year: float = DAYS_A_YEAR,
) -> Performance:
    """Work a run's numbers out. The order of trades does not matter.

    `trial_sharpes` are the yearly Sharpe ratios of every trial over this range, this run's included; None for one that has
    none: it counts as a trial, not in the variance. Without any, this run is taken as the only trial.
    """
    returns = curve.returns
    deepest = fall(curve)
    traded, costs = traded_usd_e8(trades), costs_usd_e8(trades)
    end = int(curve.equity_usd_e8[-1]) if len(curve.equity_usd_e8) else curve.capital_usd_e8
    total = (end - curve.capital_usd_e8) / curve.capital_usd_e8 if len(returns) else None
    return Performance(
        days=len(returns),
        total_return=total,
        cagr=None if total is None else _grow(total, len(returns), days_a_year),
        day_mean=_number(_means, returns),
        day_best=float(returns.max()) if len(returns) else None,
        day_worst=float(returns.min()) if len(returns) else None,
        days_won=float((returns > 0).mean()) if len(returns) else None,
        annual_volatility=annual_volatility(returns, days_a_year),
        sharpe=sharpe(returns, days_a_year),
        sortino=sortino(returns, days_a_year),
        calmar=calmar(returns, days_a_year, deepest.depth),
        omega=omega(returns),
        skew=skew(returns),
        kurtosis=kurtosis(returns),
        value_at_risk=value_at_risk(returns),
        expected_shortfall=expected_shortfall(returns),
        drawdown_max=deepest.depth,
        drawdown_usd=deepest.depth_usd,
        drawdown_peak_ts=deepest.peak_ts,
        drawdown_trough_ts=deepest.trough_ts,
        drawdown_recovery_ts=deepest.recovery_ts,
        drawdown_length_s=deepest.length_s,
        drawdown_recovery_s=deepest.recovery_s,
        underwater_s_max=deepest.underwater_s_max,
        trades=len(trades),
        win_rate=win_rate(trades),
        profit_factor=profit_factor(trades),
        payoff=payoff(trades),
        expectancy_usd=expectancy_usd(trades),
        expectancy_bps=expectancy_bps(trades),
        losing_streak=losing_streak(trades),
        exposure=exposure(trades, curve.start_s, curve.end_s),
        leverage=leverage(trades, curve),
        turnover=turnover(trades, curve),
        fees_usd=sum(t.fees_usd_e8 for t in trades) / USD_E8,
        slippage_usd=sum(t.slippage_usd_e8 for t in trades) / USD_E8,
        funding_usd=sum(t.funding_usd_e8 for t in trades) / USD_E8,
        costs_usd=costs / USD_E8,
        costs_bps=costs / traded * 1e4 if traded else None,
        **_luck(returns, trial_sharpes, days_a_year),
    )


class FigureDefinition(NamedTuple):
    """What a number of `Performance` is called, in which unit it is, and what it means."""

    name: str
    group: str
    label: str
    unit: str  # share | usd | seconds | bps | count | ratio | date
    note: str


def _define(group: str, *figures: tuple[str, str, str, str]) -> tuple[FigureDefinition, ...]:
    return tuple(FigureDefinition(name, group, label, unit, note) for name, label, unit, note in figures)


FIGURES: tuple[FigureDefinition, ...] = (
    *_define(
        "Return",
        ("days", "Days", "count", "Calendar days of the run, UTC."),
        ("total_return", "Total return", "share", "Equity at the end over the capital, less one."),
        ("cagr", "CAGR", "share", "The yearly growth that compounds to the total return; a year has 365 days."),
        ("day_mean", "Mean day", "share", "The mean of daily returns."),
        ("day_best", "Best day", "share", "The highest daily return."),
        ("day_worst", "Worst day", "share", "The lowest daily return."),
        ("days_won", "Days won", "share", "The share of days that ended higher than they began."),
    ),
    *_define(
        "Risk",
        ("annual_volatility", "Volatility", "share", "Standard deviation of daily returns times √365."),
        ("sharpe", "Sharpe ratio", "ratio", "Mean over standard deviation of daily returns, times √365."),
        ("sortino", "Sortino ratio", "ratio", "Mean over downside deviation of daily returns, times √365."),
        ("calmar", "Calmar ratio", "ratio", "CAGR over the maximum drawdown."),
        ("omega", "Omega ratio", "ratio", "The sum of winning days over the sum of losing days."),
        ("skew", "Skew", "ratio", "Below zero, the long tail of days is that of losses."),
        ("kurtosis", "Kurtosis", "ratio", "How fat the tails of days are; 3 for a normal distribution."),
        ("value_at_risk", "VaR 95 %", "share", "The daily return that the worst twentieth of days stays below."),
        ("expected_shortfall", "ES 95 %", "share", "The mean daily return of the worst twentieth of days."),
        ("drawdown_max", "Max drawdown", "share", "The deepest fall of equity from a peak, as a share of the peak."),
        ("drawdown_usd", "Its depth in USD", "usd", "The depth of that fall."),
        ("drawdown_peak_ts", "Drawdown from", "date", "When equity last stood at the peak before that fall."),
        ("drawdown_trough_ts", "Drawdown low", "date", "When equity was lowest in that fall."),
        ("drawdown_recovery_ts", "Recovered", "date", "When equity was back at that peak; none: not yet."),
        ("drawdown_length_s", "Drawdown length", "seconds", "From that peak to the recovery, or to the end."),
        ("drawdown_recovery_s", "Recovery time", "seconds", "From the low to the recovery; none: not yet."),
        ("underwater_s_max", "Longest under water", "seconds", "The longest time below an earlier peak, of all falls."),
    ),
    *_define(
        "Trades",
        ("trades", "Trades", "count", "Entries with their exits."),
        ("win_rate", "Win rate", "share", "The share of trades that earned something after costs."),
        ("profit_factor", "Profit factor", "ratio", "What winning trades earned over what losing trades lost."),
        ("payoff", "Payoff", "ratio", "The mean winning trade over the mean losing trade."),
        ("expectancy_usd", "Expectancy", "usd", "What a trade brought in the mean, after costs."),
        ("expectancy_bps", "Expectancy in bp", "bps", "The mean of each trade's result over its notional, after costs."),
        ("losing_streak", "Longest losing streak", "count", "The most losing trades in a row, by exit."),
        ("exposure", "Exposure", "share", "The share of time with a trade open."),
        ("leverage", "Mean leverage", "ratio", "The notional held in the mean over all time, over mean equity."),
        ("turnover", "Turnover a day", "ratio", "The notional bought and sold a day over mean equity."),
    ),
    *_define(
        "Costs",
        ("fees_usd", "Fees", "usd", "Paid to the venue."),
        ("slippage_usd", "Slippage", "usd", "Spread, impact and rounding; already inside the prices."),
        ("funding_usd", "Funding", "usd", "Received from the other side; below zero: paid."),
        ("costs_usd", "Costs", "usd", "Fees and slippage, less funding received."),
        ("costs_bps", "Costs in bp", "bps", "Costs over the notional bought and sold."),
    ),
    *_define(
        "Luck",
        ("psr", "PSR", "share", "The probability that the true Sharpe ratio is above zero, given length, skew and tails."),
        ("min_track_days", "Days needed", "count", "Days after which the PSR reaches 95 %, if all goes on like this."),
        ("trials", "Trials", "count", "Runs over this range from which this one may have been chosen."),
        ("sharpe_by_luck", "Sharpe by luck", "ratio", "The Sharpe ratio expected of the best of as many trials without edge."),
        ("dsr", "Deflated Sharpe", "share", "The probability that the true Sharpe ratio is above the one by luck."),
    ),
)  # fmt: skip


# --- the verdict ---

EDGE, NO_EDGE, TOO_FEW = "edge", "no edge", "too few trades"


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """A sentence of the verdict, with its number and its threshold."""

    text: str
    points: int  # 1 for an edge, -1 against it, 0 neither


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What it comes to, in words."""

    word: str  # edge | no edge | too few trades
    sentence: str
    reasons: tuple[Reason, ...]
    provisional: bool = False  # an edge that was not held against placebos and other costs yet


def judge(
    *,
    trades: int,
    days: int,
    psr: float | None,
    min_track_days: int | None,
    dsr: float | None,
    trials: int,
    day_mean: Interval | None,
    placebos: Mapping[str, float] | None = None,
    few: Mapping[str, int] | None = None,
    break_even: float | None = None,
    pbo: float | None = None,
) -> Verdict:
    """Say what a run comes to: every test must hold for an edge.

    `placebos` are p-values by what was compared with ("shuffled flow"), `few` how many runs there were of those placebos that
    have fewer than `PLACEBOS_MIN`, `break_even` the multiple of costs at which nothing is left (infinite: none that was tried),
    `pbo` the probability of overfitting. None: not tested, and the verdict says so; an edge without placebos or without cost
    stress is provisional. PSR, DSR, the track record and the mean day are always required; there, None fails, since it means
    "not defined".

    >>> judge(trades=3, days=30, psr=0.99, min_track_days=9, dsr=0.99, trials=1, day_mean=Interval(0.1, 0.2)).word
    'too few trades'
    """
    enough = trades >= TRADES_MIN and days >= DAYS_MIN
    tests = [
        _judge_psr(psr),
        _judge_track(days, min_track_days),
        _judge_dsr(dsr, trials),
        _judge_mean(day_mean),
        *_judge_placebos(placebos or {}, few or {}),
        _judge_costs(break_even),
        _judge_pbo(pbo),
    ]
    sample = [
        Reason(text=f"{trades:,} {_plural('trade', trades)} (at least {TRADES_MIN} are needed)", points=0),
        Reason(text=f"{days} {_plural('day', days)} (at least {DAYS_MIN} are needed)", points=0),
    ]
    if not enough:
        told = [msgspec.structs.replace(reason, points=0) for reason in tests]  # of so few, no test means anything
        sentence = (
            f"{trades} {_plural('trade', trades)} on {days} {_plural('day', days)} cannot tell skill from luck; "
            f"at least {TRADES_MIN} trades on {DAYS_MIN} days are needed."
        )
        return Verdict(word=TOO_FEW, sentence=sentence, reasons=(*sample, *told))
    failed, held = sum(t.points < 0 for t in tests), sum(t.points > 0 for t in tests)
    missing = sum(t.points == 0 for t in tests) - len(few or {})
    provisional = not failed and (not placebos or bool(few) or break_even is None)
    if failed:
        word = NO_EDGE
        sentence = f"An edge is not shown: {failed} of {failed + held} tests {'fails' if failed == 1 else 'fail'}."
    elif provisional:
        word = EDGE
        sentence = f"Provisional: all {held} tests that count hold, but placebos and cost stress are not complete."
    else:
        word, sentence = EDGE, f"Luck does not explain this result: all {held} tests hold."
    if missing:
        sentence += f" {missing} {_plural('test', missing)} {'was' if missing == 1 else 'were'} not made."
    return Verdict(word=word, sentence=sentence, reasons=(*sample, *tests), provisional=provisional)


def _judge_psr(psr: float | None) -> Reason:
    if psr is None:
        return Reason(text="The Sharpe ratio is not defined: no two days differ", points=-1)
    text = f"With {psr:.1%} probability the true Sharpe ratio is above zero ({CONFIDENCE:.0%} is needed)"
    return Reason(text=text, points=_sign(psr >= CONFIDENCE))


def _judge_track(days: int, needed: int | None) -> Reason:
    if needed is None:
        return Reason(
            text="The Sharpe ratio is not above zero, or not defined: no number of days proves an edge", points=-1
        )
    text = f"{days} days were seen (a Sharpe ratio like this needs {needed:,})"
    return Reason(text=text, points=_sign(days >= needed))


def _judge_dsr(dsr: float | None, trials: int) -> Reason:
    counted = f"{trials} {_plural('trial', trials)}"
    if dsr is None:
        return Reason(text=f"The deflated Sharpe ratio ({counted}) is not defined: no two days differ", points=-1)
    text = f"With {dsr:.1%} probability it is better than the luckiest of {counted} ({CONFIDENCE:.0%} is needed)"
    return Reason(text=text, points=_sign(dsr >= CONFIDENCE))


def _judge_mean(day_mean: Interval | None) -> Reason:
    if day_mean is None:
        return Reason(text=f"The mean day has no interval: there are fewer than {DAYS_MIN} days", points=-1)
    low, high = day_mean
    text = f"The mean day lies between {low * 1e4:.2f} and {high * 1e4:.2f} bp in {LEVEL:.0%} of resamples (above 0 is needed)"
    return Reason(text=text, points=_sign(low > 0))


def _judge_placebos(placebos: Mapping[str, float], few: Mapping[str, int]) -> list[Reason]:
    if not placebos and not few:
        return [Reason(text="No placebo was run", points=0)]
    counted = [
        Reason(
            text=f"Against {name}, p = {p:.3f} (at most {PLACEBO_P_MAX:.2f} is allowed)",
            points=_sign(p <= PLACEBO_P_MAX),
        )
        for name, p in placebos.items()
    ]
    uncounted = [
        Reason(
            text=f"Against {name} there {'was' if runs == 1 else 'were'} {runs} {_plural('run', runs)}, too few to count "
            f"({PLACEBOS_MIN} are needed)",
            points=0,
        )
        for name, runs in few.items()
    ]
    return counted + uncounted


def _judge_costs(break_even: float | None) -> Reason:
    if break_even is None:
        return Reason(text="No cost stress was run", points=0)
    dies = f"dies at {break_even:.2f} times the costs" if math.isfinite(break_even) else "outlives all costs tried"
    return Reason(
        text=f"The result {dies} (at least {BREAK_EVEN_MIN} is needed)", points=_sign(break_even >= BREAK_EVEN_MIN)
    )


def _judge_pbo(pbo: float | None) -> Reason:
    if pbo is None:
        return Reason(
            text=f"Not enough trials for a probability of overfitting ({PBO_TRIALS_MIN} are needed)", points=0
        )
    text = f"With {pbo:.1%} probability the best trial was chosen by luck (at most {PBO_MAX:.0%} is allowed)"
    return Reason(text=text, points=_sign(pbo <= PBO_MAX))


# --- leaves: many rows of days at once; one series is one row ---


def _totals(rows: Floats) -> Floats:
    return np.asarray(np.prod(1 + rows, axis=1) - 1, np.float64)


def _means(rows: Floats) -> Floats:
    return np.asarray(rows.mean(axis=1), np.float64)


def _deviations(rows: Floats) -> Floats:
    """Return sample standard deviations: nan below two days, exactly 0 where days do not differ."""
    if rows.shape[1] < 2:
        return np.full(len(rows), np.nan)
    return np.where(np.ptp(rows, axis=1) <= ROUNDING, 0.0, rows.std(axis=1, ddof=1))


def _sharpes(rows: Floats, days_a_year: float) -> Floats:
    return _means(rows) / _deviations(rows) * math.sqrt(days_a_year)


def _sortinos(rows: Floats, days_a_year: float) -> Floats:
    down = np.sqrt((np.minimum(rows, 0) ** 2).mean(axis=1))
    return np.asarray(_means(rows) / down * math.sqrt(days_a_year), np.float64)


def _drawdowns(rows: Floats) -> Floats:
    worth = np.cumprod(1 + rows, axis=1)
    peaks = np.maximum(np.maximum.accumulate(worth, axis=1), 1.0)
    return np.asarray((1 - worth / peaks).max(axis=1), np.float64)


def _number(measure: Callable[[Floats], Floats], returns: ArrayLike) -> float | None:
    row = _row(returns)
    if len(row) == 0:
        return None
    with np.errstate(all="ignore"):
        value = float(measure(row.reshape(1, -1))[0])
    return value if math.isfinite(value) else None


def _row(returns: ArrayLike) -> Floats:
    row = np.asarray(returns, np.float64)
    if row.ndim != 1:
        raise ValueError(f"returns had {row.ndim} dimensions, a series of days has 1")
    _refuse_not_finite(row)
    return row


def _refuse_not_finite(values: Floats) -> None:
    if not np.isfinite(values).all():
        place = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))[0])
        raise ValueError(f"the return of day {place} is not finite: a day without a point has a return of 0")


def _refuse_bad_points(ts: Ints, equity: Ints, capital: int) -> None:
    if len(ts) != len(equity):
        raise ValueError(f"ts had {len(ts)} points, equity {len(equity)}: give as many")
    if capital <= 0:
        raise ValueError(f"capital was {capital} usd_e8, it must be above 0")
    if len(ts) and (np.diff(ts) < 0).any():
        raise ValueError(f"ts falls after point {int((np.diff(ts) < 0).argmax())}: give points in order")


def _grow(total: float, days: int, days_a_year: float) -> float | None:
    if total <= -1:
        return -1.0
    exponent = math.log1p(total) * days_a_year / days
    return math.expm1(exponent) if exponent < 700 else None  # a year of it is no number


def _moments(row: Floats) -> tuple[float, float] | tuple[None, None]:
    """Return skew and kurtosis; None when days do not differ."""
    if len(row) < 2 or np.ptp(row) <= ROUNDING:
        return None, None
    unit = (row - row.mean()) / np.abs(row - row.mean()).max()  # the powers of tiny returns would vanish
    second = float((unit**2).mean())
    return float((unit**3).mean()) / second**1.5, float((unit**4).mean()) / second**2


def _sharpe_spread(sharpe_day: float, skewness: float, kurt: float) -> float | None:
    """Return n - 1 times the variance of a Sharpe ratio's estimate; None where rounding or two-valued days leave none."""
    spread = 1 - skewness * sharpe_day + (kurt - 1) / 4 * sharpe_day**2
    return spread if math.isfinite(spread) and spread > 0 else None


class _Luck(msgspec.Struct):
    psr: float | None = None
    min_track_days: int | None = None
    trials: int = 1
    sharpe_by_luck: float | None = None
    dsr: float | None = None


def _luck(returns: Floats, trial_sharpes: Sequence[float | None], days_a_year: float) -> dict[str, Any]:
    trials = max(len(trial_sharpes), 1)
    known = [value for value in trial_sharpes if value is not None]
    variance = float(np.var(known, ddof=1)) / days_a_year if len(known) > 1 else 0.0
    by_luck = expected_max_sharpe(trials, variance)
    luck = _Luck(trials=trials, sharpe_by_luck=by_luck * math.sqrt(days_a_year))
    per_day, (skewness, kurt) = sharpe(returns, 1.0), _moments(returns)
    if per_day is not None and skewness is not None and kurt is not None:
        luck.psr = probabilistic_sharpe(per_day, 0.0, len(returns), skewness, kurt)
        luck.min_track_days = min_track_record(per_day, 0.0, skewness, kurt)
        luck.dsr = probabilistic_sharpe(per_day, by_luck, len(returns), skewness, kurt)
    return msgspec.structs.asdict(luck)


def _half_sharpes(sums: Floats, squares: Floats, middle: Floats, still: Floats, days: int) -> Floats:
    """Return Sharpe ratios per day [ways, trials] from sums about `middle`; 0 where a trial stands still."""
    variance = (squares - sums**2 / days) / (days - 1)
    moves = variance > still
    ratios = (sums / days + middle) / np.sqrt(np.where(moves, variance, 1.0))
    return np.asarray(np.where(moves, ratios, 0.0), np.float64)


def _won_and_lost(trades: Sequence[Trade]) -> tuple[int, int, int, int]:
    """Return usd_e8 won and lost (≥ 0), and the numbers of winning and losing trades."""
    won = [t.pnl_usd_e8 for t in trades if t.pnl_usd_e8 > 0]
    lost = [-t.pnl_usd_e8 for t in trades if t.pnl_usd_e8 < 0]
    return sum(won), sum(lost), len(won), len(lost)


def _pnl_bps(trade: Trade) -> float:
    return trade.pnl_usd_e8 / trade.entry_usd_e8 * 1e4 if trade.entry_usd_e8 else 0.0


def _over_equity(usd_e8: float, curve: Curve) -> float | None:
    """Return money a day in multiples of the mean equity that days began with."""
    if curve.n_days == 0:
        return None
    ends = daily_equity(*curve)
    mean = (curve.capital_usd_e8 + float(ends[:-1].sum(dtype=np.float64))) / curve.n_days
    return usd_e8 / curve.n_days / mean if mean > 0 else None


_COUNT, _WINS, _WON, _LOST, _BPS = range(5)


def _trades_by_day(trades: Sequence[Trade], curve: Curve) -> Floats:
    """Return [5, n_days]: trades that ended, those that won, USD won, USD lost, and the sum of results in bp."""
    by_day = np.zeros((5, curve.n_days))
    for trade in sorted(trades, key=lambda t: (t.exit_ts, t.asset, t.entry_ts)):
        day = min(max((trade.exit_ts - curve.start_s) // DAY_S, 0), curve.n_days - 1)
        pnl = trade.pnl_usd_e8 / USD_E8
        by_day[:, day] += (1, pnl > 0, max(pnl, 0), max(-pnl, 0), _pnl_bps(trade))
    return by_day


def _draw(bits: np.random.PCG64, resamples: int, days: int, block: int) -> NDArray[np.intp]:
    """Return indices of days [resamples, days]: blocks that begin anywhere and go on over the end to the beginning.

    Starts are taken from the generator's raw bits, whose order numpy promises to keep for good.
    """
    blocks = -(-days // block)
    raw = np.asarray(bits.random_raw(resamples * blocks), np.uint64) >> np.uint64(32)
    starts = ((raw * np.uint64(days)) >> np.uint64(32)).astype(np.intp)
    index = starts.reshape(resamples, blocks, 1) + np.arange(block)
    index[index >= days] -= days
    return index.reshape(resamples, -1)[:, :days]


def _resampled(rows: Floats, by_day: Floats, days_a_year: float) -> dict[str, Floats]:
    """Return the numbers of each resample, nan where they are not defined."""
    count, wins, won, lost, bps = by_day.sum(axis=2)
    with np.errstate(all="ignore"):
        totals, year = _totals(rows), days_a_year / rows.shape[1]
        return {
            "total_return": totals,
            "cagr": np.expm1(np.log1p(np.maximum(totals, -1)) * year),
            "day_mean": _means(rows),
            "annual_volatility": _deviations(rows) * math.sqrt(days_a_year),
            "sharpe": _sharpes(rows, days_a_year),
            "sortino": _sortinos(rows, days_a_year),
            "drawdown_max": _drawdowns(rows),
            "win_rate": wins / count,
            "profit_factor": won / lost,
            "expectancy_usd": (won - lost) / count,
            "expectancy_bps": bps / count,
        }


def _interval(values: Floats) -> Interval | None:
    known = values[np.isfinite(values)]
    if len(known) < (1 - UNDEFINED_MAX) * len(values):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _sign(holds: bool) -> int:
    return 1 if holds else -1
