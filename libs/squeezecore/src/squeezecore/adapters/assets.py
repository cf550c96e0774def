"""`assets.toml`: which markets make up an asset, and which of them is traded."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import msgspec

from squeezecore.errors import UsageError
from squeezecore.spec import AssetConfig, nearest

DEFAULT = "default_assets.toml"


def load_assets(path: Path | None = None) -> dict[str, AssetConfig]:
    """Read an assets file, or the one that comes with the package.

    >>> load_assets()["BTC"].traded
    'binance:BTC-USDT-PERP'

    Raises:
        UsageError: the file is missing, is no TOML, or says something that cannot be.
    """
    name = str(path) if path else DEFAULT
    try:
        data = path.read_bytes() if path else resources.files(__package__).joinpath(DEFAULT).read_bytes()
    except OSError as error:
        raise UsageError(f"assets file {name} cannot be read ({error.strerror}): name one that exists") from error
    try:
        assets = msgspec.toml.decode(data, type=dict[str, AssetConfig])
    except msgspec.DecodeError as error:  # covers wrong TOML and wrong values
        raise UsageError(f"assets file {name}: {error}") from error
    check_assets(f"assets file {name}", assets)
    return assets


def check_assets(source: str, assets: Mapping[str, AssetConfig]) -> None:
    """Refuse an asset list that cannot be watched; `source` says where it came from.

    Raises:
        UsageError: no asset, an instrument that is no id or stands there twice, a traded one that is not watched.
    """
    if not assets:
        raise UsageError(f"{source} names no asset: write at least one, as squeezeflow assets shows them")
    for asset, config in assets.items():
        _check(source, asset, config)


def _check(source: str, asset: str, config: AssetConfig) -> None:
    names = [market.instrument for market in config.markets]
    for name in names:
        venue, colon, symbol = name.partition(":")
        if not (venue and colon and symbol):
            raise UsageError(f"{source}: {asset} watches {name!r}, an instrument is venue:SYMBOL")
    if len(set(names)) != len(names):
        raise UsageError(f"{source}: {asset} watches {', '.join(names)}, each may stand there once")
    if config.traded not in names:
        raise UsageError(
            f"{source}: {asset} trades {config.traded}, which is none of its markets "
            f"({', '.join(names)}): add it, with weight_ppm = 0 if its flow is not to count"
        )


def find_asset(assets: dict[str, AssetConfig], name: str) -> AssetConfig:
    """Return an asset's configuration, or say which one may have been meant."""
    if name not in assets:
        raise UsageError(f"asset was {name!r}, which assets.toml does not name: {nearest(name, assets)}")
    return assets[name]
