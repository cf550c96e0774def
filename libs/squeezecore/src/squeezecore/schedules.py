"""What the venue asks, and from which day on: fees, ticks, lots, maintenance margin, as dated tables.

A backtest over years must pay what was asked on each day, so each table is a list of terms and the last one that has begun
is in force; before the first, the first. An instrument without a table takes its own tick and lot and `UNLISTED`, which is
stricter than what Binance asks of its large contracts. Fees are those of `spec.Costs` unless it says `dated_fees`.

What is known and what is not: the maintenance brackets are Binance's, as announced for 2021-03-18 (BTC) and as published
in the third quarter of 2024 (BTC, ETH); changes between are not listed here, and ETH before 2024 takes the same as after.
The standard taker fee was 4 bp in mid-2021 and is 5 bp now; the day it rose is not known to us, so the higher fee counts
from 2022 on (pessimistic). Ticks and lots are those of today, given by the instrument; where a tick was once finer, fills
are rounded more coarsely than they were (pessimistic). This module knows no order and no account.
"""

from __future__ import annotations

import bisect
import datetime as dt
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from squeezecore.ledger import equity_path
from squeezecore.market import PPM, Instrument, Kind, scaled
from squeezecore.trading import USD_E8


class Bracket(NamedTuple):
    """Maintenance margin of the part of a position's notional above the bracket before, up to `notional_usd_max`."""

    notional_usd_max: int
    maintenance_ppm: int


class Terms(NamedTuple):
    """What holds from `valid_from` on."""

    valid_from: dt.date  # UTC midnight
    taker_fee_ppm: int
    maker_fee_ppm: int
    liquidation_fee_ppm: int  # of the notional that is liquidated, instead of the taker fee
    brackets: tuple[Bracket, ...]  # the last one holds beyond its maximum
    tick_size: Decimal | None = None  # None: the instrument's own
    lot_size: Decimal | None = None

    @property
    def valid_from_s(self) -> int:
        """Return `valid_from` as a UTC second."""
        return (self.valid_from - dt.date(1970, 1, 1)).days * 86_400


class Grid(NamedTuple):
    """Steps of an instrument in force at a time, as integers at its price and qty scale."""

    tick: int
    lot: int


def _brackets(*steps: tuple[int, float]) -> tuple[Bracket, ...]:
    """Read (largest notional in thousand USD, maintenance in percent)."""
    return tuple(Bracket(thousand * 1_000, round(percent * 10_000)) for thousand, percent in steps)


_BTC_2021 = _brackets(
    (50, 0.4), (250, 0.5), (1_000, 1), (10_000, 2.5), (20_000, 5), (50_000, 10), (100_000, 12.5), (200_000, 15),
    (300_000, 25), (500_000, 50),
)  # fmt: skip
_BTC_2024 = _brackets(
    (50, 0.4), (600, 0.5), (3_000, 0.65), (12_000, 1), (70_000, 2), (100_000, 2.5), (230_000, 5), (480_000, 10),
    (600_000, 12.5), (800_000, 15), (1_200_000, 25), (1_800_000, 50),
)  # fmt: skip
_ETH_2024 = _brackets(
    (50, 0.4), (600, 0.5), (3_000, 0.65), (12_000, 1), (50_000, 2), (65_000, 2.5), (150_000, 5), (320_000, 10),
    (400_000, 12.5), (530_000, 15), (800_000, 25), (1_200_000, 50),
)  # fmt: skip
_STRICT = _brackets((5, 1.5), (50, 2), (100, 2.5), (1_000, 5), (2_000, 10), (2_500, 12.5), (5_000, 25), (10_000, 50))
_EPOCH = dt.date(2017, 1, 1)  # before any of our data

TABLES: dict[str, tuple[Terms, ...]] = {
    "binance:BTC-USDT-PERP": (
        Terms(_EPOCH, 400, 200, 12_500, _BTC_2021),
        Terms(dt.date(2022, 1, 1), 500, 200, 12_500, _BTC_2021),
        Terms(dt.date(2024, 7, 1), 500, 200, 12_500, _BTC_2024),
    ),
    "binance:ETH-USDT-PERP": (
        Terms(_EPOCH, 400, 200, 12_500, _ETH_2024),
        Terms(dt.date(2022, 1, 1), 500, 200, 12_500, _ETH_2024),
    ),
}
UNLISTED = (Terms(_EPOCH, 500, 200, 15_000, _STRICT),)
SPOT = (Terms(_EPOCH, 1_000, 1_000, 0, ()),)


def table_of(instrument: Instrument) -> tuple[Terms, ...]:
    """Return all terms of an instrument, ascending by the day they begin."""
    if instrument.kind is Kind.SPOT:
        return TABLES.get(instrument.id, SPOT)
    return TABLES.get(instrument.id, UNLISTED)


def terms_of(instrument: Instrument, ts: int) -> Terms:
    """Return the terms in force in UTC second `ts`."""
    table = table_of(instrument)
    return table[max(0, bisect.bisect_right(_begins(instrument.id), ts) - 1)] if len(table) > 1 else table[0]


def grid_of(instrument: Instrument, ts: int) -> Grid:
    """Return the tick and lot in force in UTC second `ts`, as integers at the instrument's scales."""
    return _grid(instrument, terms_of(instrument, ts))


@cache
def _begins(instrument_id: str) -> list[int]:
    return [terms.valid_from_s for terms in TABLES[instrument_id]]


@cache
def _grid(instrument: Instrument, terms: Terms) -> Grid:
    tick = terms.tick_size or instrument.tick_size
    lot = terms.lot_size or instrument.lot_size
    return Grid(scaled(tick, instrument.price_decimals), scaled(lot, instrument.qty_decimals))


def maintenance_usd_e8(terms: Terms, notional_usd_e8: int) -> int:
    """Return the maintenance margin of a notional ≥ 0, each part at its own bracket's rate, rounded up once."""
    limits, rates, deductions = _lists(terms.brackets)
    if not rates:
        return 0
    at = min(bisect.bisect_left(limits, notional_usd_e8), len(rates) - 1)
    return -(-notional_usd_e8 * rates[at] // PPM) - deductions[at]


def maintenance_path(instrument: Instrument, qty: int, start_ts: int, marks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the maintenance margin of a position in each second from `start_ts`, usd_e8, as `maintenance_usd_e8` does.

    `marks` is a column at price scale. Terms that change inside the span do so here too.
    """
    notional = equity_path(0, marks[np.newaxis, :], [abs(qty)], [0], [instrument])
    result = np.zeros(len(marks), np.int64)
    table = table_of(instrument)
    for number, terms in enumerate(table):
        first = 0 if number == 0 else max(0, terms.valid_from_s - start_ts)
        last = len(marks) if number == len(table) - 1 else max(0, table[number + 1].valid_from_s - start_ts)
        if terms.brackets and first < min(last, len(marks)):
            _maintain(notional[first:last], *bracket_columns(terms.brackets), result[first:last])
    return result


@cache
def _lists(brackets: tuple[Bracket, ...]) -> tuple[list[int], list[int], list[int]]:
    """Return `bracket_columns` as Python integers, for a single notional."""
    limits, rates, deductions = bracket_columns(brackets)
    return limits.tolist(), rates.tolist(), deductions.tolist()


@cache
def bracket_columns(brackets: tuple[Bracket, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return upper limits (usd_e8), rates (ppm) and deductions (usd_e8): maintenance = notional × rate − deduction."""
    limits = np.array([bracket.notional_usd_max * USD_E8 for bracket in brackets], np.int64)
    rates = np.array([bracket.maintenance_ppm for bracket in brackets], np.int64)
    deductions = np.zeros(len(brackets), np.int64)
    for i in range(1, len(brackets)):
        # continuous at the border: limit × rate[i−1] − deduction[i−1] = limit × rate[i] − deduction[i]
        step = int(limits[i - 1]) * (int(rates[i]) - int(rates[i - 1])) // PPM
        deductions[i] = deductions[i - 1] + step
    return limits, rates, deductions


@njit(cache=True)  # type: ignore[misc, unused-ignore]
def _maintain(notional: Any, limits: Any, rates: Any, deductions: Any, result: Any) -> None:
    """Fill in each second's maintenance; the notional is split at PPM so that no product leaves int64."""
    last = len(rates) - 1
    for i in range(len(notional)):
        at = 0
        while at < last and notional[i] > limits[at]:
            at += 1
        whole = notional[i] // PPM
        rest = notional[i] - whole * PPM
        result[i] = whole * rates[at] + (rest * rates[at] + PPM - 1) // PPM - deductions[at]
