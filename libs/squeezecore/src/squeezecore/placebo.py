"""What a result would be if nothing were known: perp flow out of its place, entries at random, costs that are not so.

* `shuffle_perp` permutes whole hours of perp delta, together with perp volume, and leaves everything else where it was.
  Spot and price stay what they are, and so does each hour's perp flow from within; only what links the two is cut.
* `random_entries` enters at random seconds, with a run's own directions, holding times and sizes.
* `scaled` and `break_even` ask how much more trading may cost before nothing is left.

Randomness comes from a seed alone: raw 64-bit words of PCG64, whose stream is the same on every machine and in every
version of numpy. This module reads no row and runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from squeezecore.market import FUNDING_SCALE, PPM, FundingSeries, Instrument, Rows
from squeezecore.report import Trade
from squeezecore.schedules import terms_of
from squeezecore.spec import Costs
from squeezecore.trading import USD_E8

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BLOCK_S = 3_600  # a block of the permutation: one UTC hour
FACTOR_MAX = 8.0  # costs beyond this multiple are not tried
FACTOR_STEP = 0.05  # a break-even is known closely enough
FOLDS_MAX = 6  # tried in the search of a break-even, after 0, 1 and 2 times the costs


# --- perp flow out of its place ---


class Hours(NamedTuple):
    """The hours of a range whose rows are all there."""

    start_s: int  # the range's first hour begins here
    total: int  # hours of the range, whole or not
    number: Ints  # of each whole hour, within the range
    at: Ints  # index of its first row


def whole_hours(ts: Ints, start_s: int) -> Hours:
    """Find the hours from `start_s` on (a whole UTC hour, not after the first row) of which no row is missing."""
    count = (int(ts[-1]) - start_s) // BLOCK_S + 1 if len(ts) else 0
    borders = np.searchsorted(ts, start_s + BLOCK_S * np.arange(count + 1))
    number = np.flatnonzero(np.diff(borders) == BLOCK_S)
    return Hours(start_s, count, number, borders[number])


def permuted(hours: Hours, seed: int) -> Ints:
    """Return, for each whole hour, the index of the first row whose flow it is given.

    A word is drawn for each hour of the range, and hours are ordered by their words. So assets of one range whose hours
    are all there are permuted alike, and what their flows have to do with each other stays.
    """
    words = np.random.PCG64(seed).random_raw(hours.total)
    return hours.at[np.argsort(words[hours.number], kind="stable")]


def shuffled(
    columns: tuple[Ints, Ints], hours: Hours, source: Ints, first: int = 0, end: int | None = None
) -> tuple[Ints, Ints]:
    """Return rows `first:end` of perp delta and perp volume, their whole hours taken from where `source` says.

    An hour with a hole keeps its own. Cut however one likes, the parts are those of the whole.
    """
    end = len(columns[0]) if end is None else end
    found = columns[0][first:end].copy(), columns[1][first:end].copy()
    touched = slice(int(np.searchsorted(hours.at, first - BLOCK_S, side="right")), int(np.searchsorted(hours.at, end)))
    for at, given in zip(hours.at[touched].tolist(), source[touched].tolist(), strict=True):
        a, b = max(at, first), min(at + BLOCK_S, end)
        for column, new in zip(columns, found, strict=True):
            new[a - first : b - first] = column[given + a - at : given + b - at]
    return found


def shuffle_perp(rows: Rows, seed: int, start_s: int | None = None) -> Rows:
    """Permute perp delta and volume of an asset's rows in whole UTC hours; see `permuted` and `shuffled`."""
    first = int(rows.ts[0]) // BLOCK_S * BLOCK_S if len(rows.ts) else 0
    hours = whole_hours(rows.ts, first if start_s is None else start_s)
    delta, volume = shuffled((rows.perp_delta, rows.perp_volume), hours, permuted(hours, seed))
    return rows._replace(perp_delta=delta, perp_volume=volume)


# --- entries at random ---


class Market(NamedTuple):
    """An asset to enter at random: rows of the tested range, its traded instrument and settled funding."""

    rows: Rows  # ts, open, buy_qty and sell_qty are read
    instrument: Instrument
    funding: FundingSeries


class Entries(NamedTuple):
    """What random entries came to, by seed."""

    total_return: Floats  # on the capital
    win_rate: Floats


def random_entries(
    trades: Sequence[Trade], markets: Mapping[str, Market], costs: Costs, capital_usd_e8: int, seeds: Sequence[int]
) -> Entries:
    """Make a run's trades again, each at a second drawn uniformly from the rows of its asset from which it fits.

    Direction, holding time and notional stay, trade by trade. An approximation of the simulated exchange, told here:

    * In at the open of the row after the second drawn and the latency, out at the open of the first row after the holding
      time. All of it fills there, however large: half the spread and the impact of its share of that second's volume, at
      most that of the participation cap, worse than the open. No tick, no bound of low and high.
    * Taker fees both ways: those of `costs`, or with dated fees those in force when the real trade began.
    * Funding events while it is held are paid on the notional of the entry.
    * Results add up on the start capital: trades may overlap, nothing is compounded, no limit and no margin is asked.
    """
    drawn = np.array([np.random.PCG64(seed).random_raw(len(trades)) for seed in seeds], np.uint64)
    unit = np.asarray((drawn.reshape(len(seeds), len(trades)) >> np.uint64(11)) * 2.0**-53, np.float64)
    total, wins = np.zeros(len(seeds)), np.zeros(len(seeds))
    for number, trade in enumerate(trades):
        pnl = _pnl(trade, markets[trade.asset], costs, unit[:, number])
        total += pnl
        wins += pnl > 0
    return Entries(total * USD_E8 / capital_usd_e8, wins / max(len(trades), 1))


def _pnl(trade: Trade, market: Market, costs: Costs, unit: Floats) -> Floats:
    """Return what one trade brings when it begins at `unit` of the way through the rows it fits into, USD."""
    rows, sign = market.rows, int(trade.direction)
    ts, delay = rows.ts, 1 + costs.latency_ms // 1000
    fitting = max(1, int(np.searchsorted(ts, int(ts[-1]) - delay - trade.hold_s, side="right")))
    decided = ts[(unit * fitting).astype(np.int64)]
    entry = np.minimum(np.searchsorted(ts, decided + delay), len(ts) - 1)
    leaving = np.minimum(np.searchsorted(ts, ts[entry] + trade.hold_s), len(ts) - 1)
    buys = rows.buy_qty, rows.sell_qty
    paid, got = buys if sign > 0 else buys[::-1]  # what competes with our way in, and with our way out
    price_in = rows.open[entry] * (1.0 + sign * _slippage(trade.qty, paid[entry], costs))
    price_out = rows.open[leaving] * (1.0 - sign * _slippage(trade.qty, got[leaving], costs))
    fee = (terms_of(market.instrument, trade.entry_ts).taker_fee_ppm if costs.dated_fees else costs.taker_fee_ppm) / PPM
    events = market.funding.event_ts
    paid_rates = np.concatenate(([0.0], np.cumsum(market.funding.rate / FUNDING_SCALE)))
    rate = (
        paid_rates[np.searchsorted(events, ts[leaving], "right")]
        - paid_rates[np.searchsorted(events, ts[entry], "right")]
    )
    ratio = price_out / price_in
    share: Floats = sign * (ratio - 1.0) - fee * (1.0 + ratio) - sign * rate
    return trade.entry_usd_e8 / USD_E8 * share


def _slippage(qty: int, volume: Ints, costs: Costs) -> Floats:
    """Return half the spread and the impact as a share of the price."""
    cap = costs.participation_max_ppm / PPM
    share = np.where(volume > 0, np.minimum(qty / np.maximum(volume, 1), cap), cap)
    found: Floats = (costs.half_spread_ppm + costs.impact_ppm * share) / PPM
    return found


def p_value(real: float, values: Sequence[float]) -> float:
    """Return the chance of a result at least as good where nothing is known: (1 + how many are) / (1 + all).

    North, Curtis and Sham (2002), "A Note on the Calculation of Empirical P Values from Monte Carlo Procedures".

    >>> p_value(3.0, [1.0, 2.0, 4.0])
    0.5
    """
    return (1 + sum(value >= real for value in values)) / (1 + len(values))


# --- other costs ---


def scaled(costs: Costs, factor: float) -> Costs:
    """Multiply fees, half-spread and impact, rounded to whole parts per million, within the bounds of `Costs`.

    Latency and the participation cap stay. Dated fees must be made plain first (`plain_fees`).

    >>> scaled(Costs(), 2.0).taker_fee_ppm, scaled(Costs(), 0.0).impact_ppm
    (1000, 0)
    """
    bounds = {"taker_fee_ppm": 10_000, "maker_fee_ppm": 10_000, "half_spread_ppm": 10_000, "impact_ppm": 100_000}
    changed = {name: max(-1_000, min(most, round(getattr(costs, name) * factor))) for name, most in bounds.items()}
    return msgspec.structs.replace(costs, **changed)


def plain_fees(costs: Costs, instrument: Instrument, ts: int) -> Costs:
    """Put the fees in force at `ts` in the place of dated ones, which cannot be multiplied."""
    if not costs.dated_fees:
        return costs
    terms = terms_of(instrument, ts)
    return msgspec.structs.replace(
        costs, dated_fees=False, taker_fee_ppm=terms.taker_fee_ppm, maker_fee_ppm=terms.maker_fee_ppm
    )


def break_even(known: Mapping[float, float], result: Callable[[float], float]) -> float | None:
    """Return the lowest multiple of costs up to which the result is positive, to about `FACTOR_STEP`; None: beyond 8.

    `known` holds results of some factors, 0 among them; `result` is asked for at most `FOLDS_MAX` more. Where the result
    is not positive for free, that is 0. The result need not fall steadily: what is found is the first fall to zero
    between neighbouring factors that were tried, then by false position, or in halves where that is slow.

    >>> break_even({0.0: 1.0, 1.0: 0.5, 2.0: 0.0}, lambda factor: 1.0 - factor / 2)
    2.0
    >>> break_even({0.0: 1.0, 1.0: 0.7, 2.0: 0.4}, lambda factor: 1.0 - 0.3 * factor)
    3.33
    """
    found = dict(sorted(known.items()))
    asked = 0
    while asked < FOLDS_MAX:
        low, high = _bracket(found)
        if low is None:
            return 0.0
        if high is None:
            if low >= FACTOR_MAX:
                return None
            factor = min(FACTOR_MAX, max(2.0 * low, 1.0))
        elif high - low <= FACTOR_STEP or found[high] == 0.0:
            break
        else:
            factor = _between(low, high, found[low], found[high], halve=asked % 2 == 1)
        found[factor] = result(factor)
        asked += 1
    low, high = _bracket(found)
    if low is None or high is None:
        return 0.0 if low is None else None
    above, below = found[low], found[high]
    return round(low + (high - low) * above / (above - below), 2)


def _bracket(found: Mapping[float, float]) -> tuple[float | None, float | None]:
    """Return the last factor before the first loss, and that of the loss."""
    low = None
    for factor in sorted(found):
        if found[factor] <= 0.0:
            return low, factor
        low = factor
    return low, None


def _between(low: float, high: float, above: float, below: float, *, halve: bool) -> float:
    """Return where a line meets zero, kept away from both ends; or the middle."""
    share = 0.5 if halve else above / (above - below)
    step = min(FACTOR_STEP / 2, (high - low) / 4)
    return max(low + step, min(high - step, low + share * (high - low)))
