"""How good the data is: per market completeness, gaps, share of the flow; reads of the store, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from squeezecore.adapters.store import Store
from squeezecore.market import CENTS, DAY_S
from squeezecore.spec import AssetConfig

HOUR_S, MINUTE_S = 3600, 60
GAPS_SHOWN = 20  # of each market, the newest


class Minutes(NamedTuple):
    """A market's last day by minute; `end_s` is where it ends, exclusive."""

    complete: NDArray[np.int64]  # seconds that are known to be whole, 0..60
    buy_cents: NDArray[np.int64]
    sell_cents: NDArray[np.int64]


def minutes(store: Store, instruments: Sequence[str], end_s: int) -> dict[str, Minutes]:
    """Return the last day of markets by minute, up to `end_s`, a whole minute."""
    start = end_s - DAY_S
    found = store.query(
        "SELECT toString(instrument) AS name, toUnixTimestamp(ts) AS second, complete, buy_usd_cents, sell_usd_cents "
        "FROM bars_1m FINAL WHERE instrument IN {names:Array(String)} AND ts >= toDateTime({start:UInt32}, 'UTC') "
        "AND ts < toDateTime({end:UInt32}, 'UTC') ORDER BY name, second",
        {"names": list(instruments), "start": max(0, start), "end": max(0, end_s)},
    )
    names = np.array(found["name"].to_pylist(), dtype=object)
    second = found["second"].to_numpy().astype(np.int64)
    values = [found[name].to_numpy().astype(np.int64) for name in ("complete", "buy_usd_cents", "sell_usd_cents")]
    made = {}
    for name in instruments:
        mine = names == name
        place = (second[mine] - start) // MINUTE_S
        columns: list[NDArray[np.int64]] = []
        for value in values:
            column = np.zeros(DAY_S // MINUTE_S, np.int64)
            column[place] = value[mine]
            columns.append(column)
        made[name] = Minutes(*columns)
    return made


def strips(day: Minutes) -> dict[str, Any]:
    """Return the share of whole seconds: the last hour by minute, the last day by hour, both in one number."""
    hour = day.complete[-60:]
    by_hour = day.complete.reshape(24, 60).sum(axis=1)
    return {
        "completeness_1h": int(hour.sum()) / HOUR_S,
        "completeness_24h": int(by_hour.sum()) / DAY_S,
        "minutes": (hour / MINUTE_S).round(4).tolist(),
        "hours": (by_hour / HOUR_S).round(4).tolist(),
    }


def gap_counts(store: Store, start_s: int, end_s: int) -> dict[str, dict[str, Any]]:
    """Count the gaps of each market that touch a range: found, filled, open; and list the newest."""
    made: dict[str, dict[str, Any]] = {}
    for gap in store.gaps(None, start_s, end_s):
        of = made.setdefault(gap.instrument, {"found": 0, "filled": 0, "open": 0, "missing_open": 0, "newest": []})
        of["found"] += 1
        of[gap.state] += 1
        of["missing_open"] += gap.missing if gap.state == "open" else 0
        of["newest"] = [*of["newest"], gap][-GAPS_SHOWN:]
    return made


def feed_of(feeds: Sequence[Mapping[str, Any]], instrument: str) -> Mapping[str, Any] | None:
    """Return the feed that brings a market."""
    return next((feed for feed in feeds if instrument in feed.get("instruments", ())), None)


def venues(
    config: AssetConfig, kinds: Mapping[str, str], days: Mapping[str, Minutes], feeds: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return an asset's markets: how much of its flow each brings, and how well. Shares are of its USD volume, unweighted."""
    hour = {name: _usd(day, 60) for name, day in days.items()}
    whole = {name: _usd(day, 24 * 60) for name, day in days.items()}
    total_hour, total_day = (sum(volume for volume, _ in part.values()) for part in (hour, whole))
    entries = []
    for market in config.markets:
        name = market.instrument
        feed, strip = feed_of(feeds, name), strips(days[name])
        entries.append(
            {
                "venue": name.partition(":")[0],
                "instrument": name,
                "kind": kinds.get(name, "unknown"),
                "traded": name == config.traded,
                "weight": market.weight_ppm / 1_000_000,
                "share_1h": hour[name][0] / total_hour if total_hour else None,
                "share_24h": whole[name][0] / total_day if total_day else None,
                "volume_24h_usd": whole[name][0],
                "delta_1h_usd": hour[name][1],
                "lag_s": None if feed is None else feed.get("lag_s"),
                "completeness_1h": strip["completeness_1h"],
                "completeness_24h": strip["completeness_24h"],
                "last_error": None if feed is None else feed.get("last_error", ""),
            }
        )
    return entries


def _usd(day: Minutes, count: int) -> tuple[float, float]:
    """Return volume and delta of the last minutes, USD."""
    buy, sell = int(day.buy_cents[-count:].sum()), int(day.sell_cents[-count:].sum())
    return (buy + sell) / CENTS, (buy - sell) / CENTS
