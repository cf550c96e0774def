"""What the simulated markets are like: the constants of the calibration, one profile an asset.

Rates, sizes and spreads follow market statistics measured on recorded Binance windows of 2023 and 2024; docs/simulator.md
holds the table of targets and what the simulated days measure.
"""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from squeezecore.errors import UsageError
from squeezecore.market import (
    CENTS,
    Instrument,
    Kind,
    Margin,
    default_price_decimals,
    default_qty_decimals,
)
from squeezecore.spec import AssetConfig, MarketConfig, nearest

VENUE = "binance"


class MarketProfile(NamedTuple):
    """One market of an asset."""

    symbol: str
    native_symbol: str
    section: str
    kind: Kind
    margin: Margin
    tick: str
    lot: str  # base; contracts for inverse markets
    contract_usd: int  # 0 unless inverse
    fills_per_s: float  # mean over the day
    gain: float  # how strongly the asset's common activity moves the market's
    own_activity: float  # log standard deviation of the market's own activity, second by second
    size_median_usd: float  # of the lognormal body
    size_sigma: float  # its log standard deviation
    size_max_usd: float  # of one fill
    atoms: tuple[tuple[int, float], ...]  # (lots, share of fills)
    still: float  # share of seconds in which the quote does not move
    link: float  # how strongly a second's flow follows the quote's move, 0..1


class AssetProfile(NamedTuple):
    """An asset: its price, its volatility and its markets (spot, USD-M, COIN-M in this order)."""

    base: str
    price_usd: float
    sigma_bp: float  # root mean square of the efficient price's one-second return
    open_interest: float  # base, mean level
    basis_bp: float  # mean of perp over spot
    markets: tuple[MarketProfile, MarketProfile, MarketProfile]


def _asset(
    base: str,
    price_usd: float,
    sigma_bp: float,
    open_interest: float,
    ticks: tuple[str, str, str],
    lots: tuple[str, str],
    rates: tuple[float, float, float],
    sizes: tuple[float, float],
    contract_usd: int,
) -> AssetProfile:
    """Lay out the three Binance markets of an asset; they differ in ticks, rates and sizes only."""
    spot_atom = max(1, round(5.6 / price_usd / float(lots[0])))  # the least notional a venue takes, 5 to 6 USD
    perp_atom = max(1, round(120.0 / price_usd / float(lots[1])))
    spot = MarketProfile(
        f"{base}-USDT", f"{base}USDT", "spot", Kind.SPOT, Margin.NONE, ticks[0], lots[0], 0, rates[0], 1.0, 0.62,
        sizes[0], 2.15, 55_000.0, ((spot_atom, 0.17), (spot_atom + 1, 0.05)), 0.50, 0.88,
    )  # fmt: skip
    perp = MarketProfile(
        f"{base}-USDT-PERP", f"{base}USDT", "linear", Kind.PERP, Margin.LINEAR, ticks[1], lots[1], 0, rates[1], 1.0, 0.62,
        sizes[1], 1.90, 500_000.0, ((perp_atom, 0.21), (perp_atom + 1, 0.06)), 0.50, 0.88,
    )  # fmt: skip
    coin = MarketProfile(
        f"{base}-USD-PERP", f"{base}USD_PERP", "inverse", Kind.PERP, Margin.INVERSE, ticks[2], "1", contract_usd,
        rates[2], 1.6, 1.20, 16.0 * contract_usd, 1.55, 130_000.0, ((1, 0.26), (2, 0.13)), 0.40, 0.96,
    )  # fmt: skip
    return AssetProfile(base, price_usd, sigma_bp, open_interest, -4.0, (spot, perp, coin))


PROFILES: dict[str, AssetProfile] = {
    p.base: p
    for p in (
        _asset("BTC", 61_800.0, 0.80, 94_500.0, ("0.01", "0.1", "0.1"), ("0.00001", "0.001"), (26.0, 60.0, 6.6),
               (180.0, 1_350.0), 100),
        _asset("ETH", 2_640.0, 0.95, 1_900_000.0, ("0.01", "0.01", "0.01"), ("0.0001", "0.001"), (18.0, 40.0, 5.1),
               (110.0, 400.0), 10),
        _asset("SOL", 148.0, 1.15, 9_000_000.0, ("0.01", "0.01", "0.01"), ("0.001", "0.01"), (10.0, 24.0, 2.5),
               (90.0, 400.0), 10),
        _asset("XRP", 0.58, 1.15, 480_000_000.0, ("0.0001", "0.0001", "0.0001"), ("0.1", "0.1"), (7.0, 18.0, 1.5),
               (80.0, 350.0), 10),
        _asset("DOGE", 0.105, 1.30, 1_600_000_000.0, ("0.00001", "0.00001", "0.00001"), ("1", "1"), (6.0, 14.0, 1.2),
               (70.0, 300.0), 10),
    )
}  # fmt: skip


def profile_of(asset: str) -> AssetProfile:
    """Return an asset's profile, or say which there are."""
    if asset not in PROFILES:
        raise UsageError(f"asset was {asset!r}, which no simulated world knows: {nearest(asset, PROFILES)}")
    return PROFILES[asset]


def instrument_of(profile: AssetProfile, market: MarketProfile) -> Instrument:
    """Describe one simulated market as the venue would list it."""
    inverse = market.margin is Margin.INVERSE
    quote = "USD" if inverse else "USDT"
    return Instrument(
        venue=VENUE,
        symbol=market.symbol,
        native_symbol=market.native_symbol,
        section=market.section,
        base=profile.base,
        quote=quote,
        settle=profile.base if inverse else quote,
        kind=market.kind,
        margin=market.margin,
        price_decimals=default_price_decimals(profile.price_usd),
        qty_decimals=default_qty_decimals(profile.price_usd),
        tick_size=Decimal(market.tick),
        lot_size=Decimal(market.lot),
        contract_size=Decimal(market.contract_usd or 1),
    )


def instruments(asset: str) -> tuple[Instrument, Instrument, Instrument]:
    """Return an asset's simulated markets: spot, USD-M perpetual, COIN-M perpetual."""
    profile = profile_of(asset)
    spot, perp, coin = (instrument_of(profile, market) for market in profile.markets)
    return spot, perp, coin


def asset_config(asset: str) -> AssetConfig:
    """Return the configuration that watches all markets of a simulated asset and trades its USD-M perpetual."""
    listed = instruments(asset)
    return AssetConfig(traded=listed[1].id, markets=tuple(MarketConfig(instrument=one.id) for one in listed))


def contract_cents(market: MarketProfile) -> int:
    """Return the USD cents of one contract; 0 where sizes are in base."""
    return market.contract_usd * CENTS
