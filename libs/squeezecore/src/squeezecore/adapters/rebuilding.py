"""Rows of an asset made anew from the stored bars, open interest, funding and marks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

from squeezecore import flow
from squeezecore.adapters.reading import instrument_of
from squeezecore.adapters.store import TS_MAX, Store
from squeezecore.errors import UsageError
from squeezecore.market import DAY_S, MarkSeries
from squeezecore.spec import AssetConfig

WARM_S = 3600  # of bars before the range, so that its first rows know the last closes and the basis
MEMORY_S = 60 * DAY_S  # the last open interest and funding before the range are looked for so far back


def assets_of(assets: Mapping[str, AssetConfig], instrument: str) -> list[str]:
    """Return the assets whose rows an instrument's bars are part of."""
    return [
        name
        for name, config in sorted(assets.items())
        if config.traded == instrument or any(market.instrument == instrument for market in config.markets)
    ]


def declare_markets(store: Store, config: AssetConfig) -> None:
    """Add the instruments of an asset that no file has brought yet: a market without data lowers the quality."""
    known = store.instruments()
    for name in [config.traded, *(market.instrument for market in config.markets)]:
        if name not in known:
            made = instrument_of(name)
            if made is None:
                raise UsageError(
                    f"instrument {name} is part of an asset, its scales are not known yet: import some of its trades first"
                )
            store.put_instrument(made)


def rebuild_rows(
    store: Store, assets: Mapping[str, AssetConfig], asset: str, start_s: int, end_s: int
) -> tuple[int, int]:
    """Make the rows of `[start_s, end_s)` anew from what is stored; return how many there are and how many changed."""
    config = assets[asset]
    declare_markets(store, config)
    params = flow.row_params(config, store.instruments())
    traded = config.traded
    facts: dict[str, Any] = {
        "open_interest": store.read_open_interest(traded, start_s - MEMORY_S, end_s),
        "funding": store.read_funding(traded, start_s - MEMORY_S, end_s),
        "marks": MarkSeries(*store.read_marks(traded, start_s - WARM_S, end_s)),
    }
    state = flow.rows_initial(params)
    made = written = 0
    at = start_s - WARM_S
    while at < end_s:
        until = min(end_s, start_s if at < start_s else (at // DAY_S + 1) * DAY_S)
        bars = {name: store.read_bars(name, at, until) for name in params.instruments}
        state, rows = flow.scan_rows(params, state, bars, **facts)
        if at >= start_s and len(rows.ts):
            made += len(rows.ts)
            written += store.insert_rows(asset, rows, replace=True)
        at = until
    return made, written


def drop_rows_of_day(store: Store, assets: Mapping[str, AssetConfig], instrument: str, day: dt.date) -> None:
    """Forget the rows that a day of an instrument was part of."""
    start = int(dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC).timestamp())
    for asset in assets_of(assets, instrument):
        store.drop_rows(asset, start, start + DAY_S)


def asset_span(store: Store, config: AssetConfig) -> tuple[int, int]:
    """Return the time that the traded instrument has bars in, `(0, 0)` if none."""
    days = store.coverage(config.traded, 0, TS_MAX)
    return (days[0].first_ts, days[-1].last_ts + 1) if days else (0, 0)


def united(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges of seconds that overlap or adjoin."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        elif end > start:
            out.append((start, end))
    return out


def without(ranges: Iterable[tuple[int, int]], done: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Take ranges that are done out of others."""
    left = united(ranges)
    for a, b in done:
        left = [
            piece
            for start, end in left
            for piece in ((start, min(end, a)), (max(start, b), end))
            if piece[0] < piece[1]
        ]
    return left
