"""`assets.toml`: read with its errors in words."""

from pathlib import Path

import pytest

from squeezecore.adapters.assets import find_asset, load_assets
from squeezecore.errors import UsageError


def test_the_default_watches_spot_and_both_kinds_of_perpetuals() -> None:
    assets = load_assets()
    assert set(assets) == {"BTC", "ETH", "SOL", "XRP", "DOGE"}
    for name, config in assets.items():
        assert config.traded == f"binance:{name}-USDT-PERP"
        watched = [market.instrument for market in config.markets]
        assert watched == [f"binance:{name}-USDT", f"binance:{name}-USDT-PERP", f"binance:{name}-USD-PERP"]
        assert {market.weight_ppm for market in config.markets} == {1_000_000}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[BTC", "assets.toml"),
        ('[BTC]\ntraded = "binance:BTC-USDT"\nmarkets = []\n', "none of its markets"),
        (
            '[BTC]\ntraded = "a:B-C"\nmarkets = [{instrument="a:B-C"},{instrument="a:B-C"}]\n',
            "each may stand there once",
        ),
        ('[BTC]\ntraded = "BTC"\nmarkets = [{instrument="BTC"}]\n', "venue:SYMBOL"),
        ('[BTC]\ntraded = "a:B-C"\nmarkets = [{instrument="a:B-C", weight_ppm=-1}]\n', "weight_ppm"),
        ('[BTC]\ntraded = "a:B-C"\nweights = 1\nmarkets = []\n', "weights"),
    ],
)
def test_a_broken_file_says_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "assets.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        load_assets(path)


def test_a_missing_file_and_an_unknown_asset_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_assets(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="did you mean BTC"):
        find_asset(load_assets(), "BTX")
