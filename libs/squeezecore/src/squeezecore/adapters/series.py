"""Open interest and funding out of archive files: what is a value, when it was known, which interval it is for."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

import numpy as np

from squeezecore.adapters.archive import FundingRow, MetricRow
from squeezecore.adapters.repair import Findings
from squeezecore.market import FUNDING_SCALE, FundingSeries, Instrument, Margin, OpenInterestSeries

OI_DELAY_S = 60  # venues refresh it with a delay of up to a minute: known only then
OI_INTERVAL_S = 300
FUNDING_INTERVALS_S = (3600, 7200, 4 * 3600, 6 * 3600, 8 * 3600)
FUNDING_TOLERANCE_S = 120
FUNDING_DEFAULT_S = 8 * 3600
UNIT_ERROR_MAX = Decimal("0.1")  # of a price implied by open interest, against the price then


def _units(value: Decimal, decimals: int) -> int:
    return int(value.scaleb(decimals).to_integral_value(ROUND_HALF_UP))


def open_interest_of(
    rows: list[MetricRow], instrument: Instrument, prices: dict[int, int], findings: Findings
) -> OpenInterestSeries:
    """Bring a metrics file's rows into base units. `prices` gives the price at a second, where one is known.

    Zero is no value. A time that stands there with different values has none that can be trusted.
    """
    values: dict[int, set[tuple[Decimal, Decimal]]] = {}
    for row in rows:
        pairs = values.setdefault(row.event_s, set())
        if pairs:
            findings.repaired["doubled_rows"] += 1
        pairs.add((row.open_interest, row.value))
    events: list[int] = []
    amounts: list[int] = []
    for event_s in sorted(values):
        real = {pair for pair in values[event_s] if pair[0] > 0}
        if not real:
            findings.set_aside["open_interest_without_value"] += 1
        elif len({pair[0] for pair in real}) > 1:
            findings.set_aside["one_time_different_values"] += 1
        else:
            base = _base(max(real), instrument, prices.get(event_s, 0), findings)
            if base > 0:
                events.append(event_s)
                amounts.append(base)
    if len(values) > 1:
        slots = (max(values) - min(values)) // OI_INTERVAL_S + 1
        if slots > len(values):
            findings.set_aside["open_interest_rows_missing"] += slots - len(values)
    event = np.array(events, np.int64)
    return OpenInterestSeries(
        event, event + OI_DELAY_S, np.array(amounts, np.int64), np.full(len(event), OI_INTERVAL_S, np.int64)
    )


def _base(pair: tuple[Decimal, Decimal], instrument: Instrument, price: int, findings: Findings) -> int:
    """Return base units at the qty scale; 0 where the row gives none.

    USD-M publishes base units. COIN-M publishes contracts, and their value in base, which is contracts * size / price.
    """
    amount, value = pair
    if instrument.margin is not Margin.INVERSE:
        return _units(amount * instrument.multiplier, instrument.qty_decimals)
    quote = amount * instrument.contract_size
    if value <= 0:
        if not price:
            findings.set_aside["contracts_without_price"] += 1
            return 0
        return _units(quote / Decimal(price).scaleb(-instrument.price_decimals), instrument.qty_decimals)
    if price:
        implied = quote / value
        if abs(implied / Decimal(price).scaleb(-instrument.price_decimals) - 1) > UNIT_ERROR_MAX:
            findings.set_aside["open_interest_of_other_unit"] += 1
            return 0
    return _units(value, instrument.qty_decimals)


def funding_of(rows: list[FundingRow], before: FundingSeries, findings: Findings) -> FundingSeries:
    """Order a funding file's events and find each one's own interval; `before` holds the events stored before them.

    The interval is the file's, unless the event before is nearer than that: then the interval had changed already.
    """
    rates: dict[int, set[Decimal]] = {}
    stated: dict[int, int] = {}
    for row in rows:
        if row.event_s in rates:
            findings.repaired["doubled_rows"] += 1
        rates.setdefault(row.event_s, set()).add(row.rate)
        stated[row.event_s] = row.interval_s
    events = [event for event in sorted(rates) if len(rates[event]) == 1]
    if len(rates) > len(events):
        findings.set_aside["one_time_different_values"] += len(rates) - len(events)
    previous = int(before.event_ts[-1]) if len(before.event_ts) else None
    intervals: list[int] = []
    for n, event in enumerate(events):
        if n:
            previous = events[n - 1]
        actual = _interval(event - previous) if previous is not None else 0
        said = stated[event]
        if said and actual and actual < said:
            findings.repaired["funding_interval_by_its_times"] += 1
            intervals.append(actual)
        else:
            following = _interval(events[n + 1] - event) if n + 1 < len(events) else 0
            intervals.append(said or actual or following or FUNDING_DEFAULT_S)
        if previous is not None and event - previous > intervals[-1] + FUNDING_TOLERANCE_S:
            findings.set_aside["funding_events_missing"] += round((event - previous) / intervals[-1]) - 1
    event_ts = np.array(events, np.int64)
    scale = len(str(FUNDING_SCALE)) - 1
    rate = np.array([_rate(next(iter(rates[event])), scale) for event in events], np.int64)
    return FundingSeries(event_ts, event_ts, rate, np.array(intervals, np.int64))


def _rate(rate: Decimal, scale: int) -> int:
    """Scale a rate, half away from zero (which is what `ROUND_HALF_UP` does on both sides)."""
    return _units(rate, scale)


def _interval(seconds: int) -> int:
    """Return the funding interval that a distance between two events is; 0 when it is none."""
    return next((known for known in FUNDING_INTERVALS_S if abs(seconds - known) <= FUNDING_TOLERANCE_S), 0)
