"""What is known of each market now: its open interest as far back as changes look, its mark, its funding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from squeeze_openinterest.sums import SPANS_S, Market, Ring, Summary, summarise
from squeezecore.errors import UsageError
from squeezecore.market import FundingSeries, Instrument, OpenInterestSeries
from squeezecore.spec import AssetConfig, nearest
from squeezecore.wire import FundingFact, InterestFact, MarkFact

TS_MAX = 2**32
SETTLED_S = 3 * 86_400  # settled funding is remembered, and asked for at the start, so far back


class Known(NamedTuple):
    """One market; the dictionaries are written to as facts come."""

    instrument: Instrument
    ring: Ring
    latest: dict[str, InterestFact | FundingFact | MarkFact]  # "interest", "predicted", "settled", "mark"
    settled: set[int]  # event_ts of the settlements that are published


class Facts:
    """Every watched market's facts, and the assets they belong to. Polls write it; any thread may read."""

    def __init__(self, max_age_s: int) -> None:
        self.max_age_s = max_age_s
        self.keep_s = max(SPANS_S.values()) + max_age_s + 60
        self.assets: dict[str, AssetConfig] = {}
        self._known: dict[str, Known] = {}

    def __getitem__(self, instrument: str) -> Known:
        return self._known[instrument]

    def __contains__(self, instrument: str) -> bool:
        return instrument in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._known))

    def every(self) -> list[Known]:
        """Return all markets, of whatever asset."""
        return list(self._known.values())

    def watch(self, instrument: Instrument) -> None:
        """Begin with a market."""
        self._known[instrument.id] = Known(instrument, Ring(self.keep_s), {}, set())

    def fill(self, instrument: str, before: OpenInterestSeries, settled: FundingSeries) -> None:
        """Take what the store has of a market: its open interest, and what was settled."""
        known = self._known[instrument]
        times = before.known_at.tolist()
        ends = np.minimum(np.append(before.known_at[1:], TS_MAX)[: len(times)], before.known_at + before.interval_s + 1)
        for known_at, end, value in zip(times, ends.tolist(), before.open_interest.tolist(), strict=True):
            for ts in range(known_at, end, self.max_age_s):  # it was confirmed meanwhile, which is not stored
                known.ring.add(ts, value)
        known.settled.update(settled.event_ts.tolist())
        if len(settled.event_ts):
            event_ts, known_at, rate, interval_s = (int(column[-1]) for column in settled)
            known.latest["settled"] = FundingFact(
                venue=known.instrument.venue,
                feed=known.instrument.section,
                instrument=instrument,
                event_ts=event_ts,
                known_at=known_at,
                rate=rate,
                interval_s=interval_s,
                settled=True,
            )

    def forget(self, instrument: str) -> None:
        """End with a market that no asset names any more."""
        self._known.pop(instrument, None)

    def take(self, fact: InterestFact | FundingFact | MarkFact) -> None:
        """Remember a fact that was published."""
        known = self._known.get(fact.instrument)
        if known is None:  # it was dropped while the answer was on its way
            return
        if isinstance(fact, InterestFact):
            known.ring.add(fact.known_at, fact.open_interest)
            known.latest["interest"] = fact
        elif isinstance(fact, MarkFact):
            known.latest["mark"] = fact
        elif fact.settled:
            known.settled.add(fact.event_ts)
            known.latest["settled"] = fact
        else:
            known.latest["predicted"] = fact

    def markets(self, asset: str) -> list[Known]:
        """Return an asset's markets that have open interest, in the order of its configuration."""
        if asset not in self.assets:
            raise UsageError(f"asset was {asset!r}, the watched assets do not name it: {nearest(asset, self.assets)}")
        found = [self._known.get(market.instrument) for market in self.assets[asset].markets]
        return [one for one in found if one is not None]

    def summary(self, asset: str, ts: int) -> Summary:
        """Add an asset's markets up as they were known at `ts`."""
        markets = [
            Market(one.instrument.id, one.instrument.venue, one.instrument.qty_decimals, one.ring)
            for one in self.markets(asset)
        ]
        return summarise(markets, ts, self.max_age_s)


def ages_s(facts: Facts, now_s: int) -> Mapping[str, int]:
    """Return each market's age of open interest in seconds; markets without any are left out."""
    ages = {one.instrument.id: one.ring.last for one in facts.every()}
    return {name: max(0, now_s - last[0]) for name, last in ages.items() if last is not None}
