"""Open interest added up over markets, venues and time, so that who joins or leaves never looks like a change.

A change is summed over the markets that had a value at both of its ends, and over no others: it is never the difference of
two totals. A value is carried forward up to `max_age_s`; after that its market is missing, and coverage says so. All is
exact: integers at one scale. This module reads no clock and does no IO.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from squeezecore.market import PPM

SPANS_S: Mapping[str, int] = MappingProxyType({"5m": 300, "15m": 900, "1h": 3600, "4h": 4 * 3600})
TOP = 3  # the venues with the most


class Ring:
    """What one market's open interest was known to be, as far back as the longest change looks.

    One thread adds; any may look: a value is there before its time is, and what is forgotten goes with both columns at once.

    >>> ring = Ring(keep_s=60)
    >>> ring.add(100, 7)
    >>> ring.at(99, 10), ring.at(105, 10), ring.at(111, 10)
    (None, 7, None)
    """

    def __init__(self, keep_s: int) -> None:
        self._keep_s = keep_s
        self._columns: tuple[list[int], list[int]] = ([], [])  # known_at, values

    def add(self, known_at: int, value: int) -> None:
        """Take a value that became known; a clock that was set back does not make it older than the last one."""
        times, values = self._columns
        if times and known_at <= times[-1]:
            values[len(times) - 1] = value
            return
        values.append(value)
        times.append(known_at)
        old = bisect_right(times, known_at - self._keep_s)
        if 2 * old > len(times):  # now and then, so that it costs little
            self._columns = (times[old:], values[old:])

    def at(self, ts: int, max_age_s: int) -> int | None:
        """Return the value known at `ts`; None where there was none, or none young enough."""
        times, values = self._columns
        place = bisect_right(times, ts) - 1
        if place < 0 or ts - times[place] > max_age_s:
            return None
        return values[place]

    @property
    def last(self) -> tuple[int, int] | None:
        """The newest `(known_at, value)`."""
        times, values = self._columns
        count = len(times)
        return (times[count - 1], values[count - 1]) if count else None

    def __len__(self) -> int:
        return len(self._columns[0])


class Market(NamedTuple):
    """A market of an asset and what is known of it."""

    instrument: str
    venue: str
    qty_decimals: int
    ring: Ring


class Change(NamedTuple):
    """How much more there is than a span before, over the markets with a value at both ends."""

    change: int | None  # None: no market has both
    before: int  # what the same markets held then
    coverage_ppm: int | None  # their share of the usual open interest

    @property
    def rate(self) -> float | None:
        """The change as a share of what there was."""
        return None if self.change is None or not self.before else self.change / self.before


class Sum(NamedTuple):
    """Several markets together."""

    venues: tuple[str, ...]  # those with a value now, the largest first
    open_interest: int | None  # None: no market has a value now
    coverage_ppm: int | None  # share of the usual open interest that has a value now; None before anything is known
    missing: tuple[str, ...]  # instruments without one
    changes: Mapping[str, Change]  # by the names of `SPANS_S`


class Summary(NamedTuple):
    """An asset's open interest at one time, base units at `decimals`."""

    ts: int
    decimals: int
    venues: Mapping[str, Sum]  # each venue by itself
    top: Sum  # the three with the most
    all: Sum


def summarise(markets: Sequence[Market], ts: int, max_age_s: int) -> Summary:
    """Add an asset's markets up as they were known at `ts`."""
    decimals = max((market.qty_decimals for market in markets), default=0)
    names = sorted({market.venue for market in markets})
    venues = {name: _sum([one for one in markets if one.venue == name], ts, max_age_s, decimals) for name in names}
    whole = _sum(markets, ts, max_age_s, decimals)
    top = whole.venues[:TOP]
    return Summary(
        ts=ts,
        decimals=decimals,
        venues=venues,
        top=_sum([one for one in markets if one.venue in top], ts, max_age_s, decimals),
        all=whole,
    )


def _sum(markets: Sequence[Market], ts: int, max_age_s: int, decimals: int) -> Sum:
    now = {one: _value(one, ts, max_age_s, decimals) for one in markets}
    present = {one: value for one, value in now.items() if value is not None}
    usual = sum(_usual(one, decimals) for one in markets)
    held: dict[str, int] = {}
    for one, value in present.items():
        held[one.venue] = held.get(one.venue, 0) + value
    return Sum(
        venues=tuple(sorted(held, key=lambda venue: (-held[venue], venue))),
        open_interest=sum(present.values()) if present else None,
        coverage_ppm=_share(present.values(), usual),
        missing=tuple(one.instrument for one, value in now.items() if value is None),
        changes={name: _change(present, ts - span_s, max_age_s, decimals, usual) for name, span_s in SPANS_S.items()},
    )


def _change(present: Mapping[Market, int], then: int, max_age_s: int, decimals: int, usual: int) -> Change:
    pairs = [(value, _value(one, then, max_age_s, decimals)) for one, value in present.items()]
    both = [(now, before) for now, before in pairs if before is not None]
    if not both:
        return Change(None, 0, None if not usual else 0)
    before = sum(before for _, before in both)
    return Change(sum(now for now, _ in both) - before, before, _share((now for now, _ in both), usual))


def _value(market: Market, ts: int, max_age_s: int, decimals: int) -> int | None:
    """Return a market's value at the common scale; None where it is missing."""
    value = market.ring.at(ts, max_age_s)
    return None if value is None else value * 10 ** (decimals - market.qty_decimals)


def _usual(market: Market, decimals: int) -> int:
    """Return what a market holds as a rule: the last that was known of it, however old; zero before that."""
    last = market.ring.last
    return 0 if last is None else last[1] * 10 ** (decimals - market.qty_decimals)


def _share(parts: Iterable[int], usual: int) -> int | None:
    return sum(parts) * PPM // usual if usual else None
