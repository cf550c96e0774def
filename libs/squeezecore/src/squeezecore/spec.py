"""What a user asks for, with bounds: one model for the command, HTTP, the form and the Job.

Frozen, unknown fields refused by name. `canonical` gives the bytes that identify a value on any machine; `run_id` hashes
them together with the code. No shards, jobs, paths or times of the machine are part of a spec.
"""

from __future__ import annotations

import datetime as dt
import difflib
import hashlib
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from squeezecore.errors import SpecError
from squeezecore.market import DAY_S, PPM

EPOCH_DAY = dt.date(1970, 1, 1).toordinal()
Ppm = Annotated[int, msgspec.Meta(ge=0, le=PPM)]


class MarketConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One market of an asset and the weight its flow has in the asset's rows."""

    instrument: str
    weight_ppm: Ppm = PPM


class AssetConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An asset: the markets that are watched, the instrument that is traded."""

    traded: str
    markets: tuple[MarketConfig, ...]

    def revision(self) -> int:
        """63 bits that stand in each row as `config_rev`."""
        return int.from_bytes(hashlib.blake2b(canonical(self), digest_size=8).digest(), "big") >> 1


class Costs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What trading costs in the simulated exchange; docs/simulated-exchange.md says where each assumption lies."""

    taker_fee_ppm: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 500  # 5 bp
    maker_fee_ppm: Annotated[int, msgspec.Meta(ge=-1_000, le=10_000)] = 200  # 2 bp
    half_spread_ppm: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 10  # 0.1 bp of the reference price
    impact_ppm: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = (
        100  # 1 bp at an order as large as the second's opposite volume
    )
    participation_max_ppm: Annotated[int, msgspec.Meta(ge=1, le=PPM)] = (
        200_000  # of the second's opposite volume; the rest carries over
    )
    latency_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)] = 250
    dated_fees: bool = False  # take both fees from the venue's dated table (schedules.py) instead of the two above


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Risk limits that need no live service (architecture.md section 7); a denial carries limit and value."""

    order_notional_usd_max: Annotated[int, msgspec.Meta(ge=1)] = 5_000_000
    position_notional_usd_max: Annotated[int, msgspec.Meta(ge=1)] = 10_000_000
    open_positions_max: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 10
    leverage_max: Annotated[float, msgspec.Meta(gt=0, le=125)] = 5.0
    correlated_exposure_max: Annotated[float, msgspec.Meta(gt=0)] = (
        10.0  # gross notional of a correlated cluster over equity
    )
    correlation_min: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.8
    daily_loss_max: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.05  # of the day's opening equity
    weekly_loss_max: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.10
    drawdown_taper_start: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.10  # sizes shrink linearly from here …
    drawdown_max: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.25  # … to zero here
    liquidation_distance_min: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.03  # equity over gross notional
    price_collar: Annotated[float, msgspec.Meta(gt=0, le=1)] = (
        0.02  # a limit price further from the last close is denied
    )
    orders_per_minute_max: Annotated[int, msgspec.Meta(ge=1)] = 60
    stale_data_s_max: Annotated[int, msgspec.Meta(ge=1)] = 10


class BacktestSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One backtest: what, when, with which parameters and assumptions. Days are UTC, `end` is the last one tested."""

    assets: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=1_000)]
    start: dt.date
    end: dt.date
    params: dict[
        str, Any
    ] = {}  # SqueezeParams fields that differ from the defaults; checked by `squeeze.SqueezeParams`
    costs: Costs = Costs()
    limits: Limits = Limits()
    capital_usd: Annotated[int, msgspec.Meta(ge=100, le=1_000_000_000)] = 100_000
    warmup_s: Annotated[int, msgspec.Meta(ge=0, le=7 * DAY_S)] = 28 * 3600
    account: str = "paper"

    def __post_init__(self) -> None:
        """Refuse what no day could run."""
        if self.end < self.start:
            raise SpecError(f"range was {self.start} to {self.end}, the end must not lie before the start: swap them")
        if len(set(self.assets)) != len(self.assets):
            raise SpecError(f"assets were {', '.join(self.assets)}, each may stand there once: remove the repeated one")

    def days(self) -> list[dt.date]:
        """Return the tested days, in order."""
        return [self.start + dt.timedelta(n) for n in range((self.end - self.start).days + 1)]


def canonical(value: object) -> bytes:
    """Return the bytes that identify a value: JSON with sorted keys, no spaces, defaults written out."""
    return msgspec.json.encode(value, order="sorted")


def digest(*parts: bytes) -> str:
    """Hash byte strings, each with its length, to 32 hex digits."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.hexdigest()


def day_start_s(day: dt.date) -> int:
    """Return the UTC second a day begins with."""
    return (day.toordinal() - EPOCH_DAY) * DAY_S


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name a misspelt one may have meant, as the end of an error message."""
    options = sorted(known)
    folded = {option.casefold(): option for option in options}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    return f"did you mean {folded[close[0]]}?" if close else f"known are {', '.join(options)}"
