"""One row a second from a simulated asset's bars, open interest and funding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from squeezecore.market import (
    BASIS_SCALE,
    PPM,
    Bars,
    FundingSeries,
    OpenInterestSeries,
    Rows,
)
from squeezecore.simulator.profiles import asset_config, instruments

EIGHT_HOURS_S = 28_800


def compose_rows(asset: str, bars: dict[str, Bars], interest: OpenInterestSeries, funding: FundingSeries) -> Rows:
    """Compose the rows of one day; all markets weigh alike and all seconds are complete."""
    spot, perp, coin = (bars[one.id] for one in instruments(asset))
    n = perp.ts.size
    seen = np.searchsorted(interest.known_at, perp.ts, side="right") - 1
    has = seen >= 0
    paid = np.searchsorted(funding.known_at, perp.ts, side="right") - 1
    rate = funding.rate * EIGHT_HOURS_S // funding.interval_s
    return Rows(
        ts=perp.ts,
        open=perp.open,
        high=perp.high,
        low=perp.low,
        close=perp.close,
        buy_qty=perp.buy_volume,
        sell_qty=perp.sell_volume,
        mark=perp.close,
        spot_delta=spot.buy_usd_cents - spot.sell_usd_cents,
        perp_delta=perp.buy_usd_cents - perp.sell_usd_cents + coin.buy_usd_cents - coin.sell_usd_cents,
        spot_volume=spot.buy_usd_cents + spot.sell_usd_cents,
        perp_volume=perp.buy_usd_cents + perp.sell_usd_cents + coin.buy_usd_cents + coin.sell_usd_cents,
        open_interest=_last(interest.open_interest, seen, has),
        oi_known_at=_last(interest.known_at, seen, has),
        oi_interval_s=_last(interest.interval_s, seen, has),
        funding_rate_8h=_last(rate, paid, paid >= 0),
        basis_bps=(perp.close - spot.close) * (10_000 * BASIS_SCALE) // spot.close,
        quality_ppm=np.full(n, PPM, np.int64),
        config_rev=np.full(n, asset_config(asset).revision(), np.int64),
    )


def _last(values: NDArray[np.int64], index: NDArray[np.int64], has: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the value in force at each second, 0 where none is."""
    return np.where(has, values[np.maximum(index, 0)], 0)
