"""Both kinds of worlds and every asset of the default list, simulated and tested by the command."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest

from squeezecore.adapters.assets import load_assets
from squeezecore.market import DAY_S
from support.command import Market, simulated

RANGE = ("--from", "2026-01-03", "--to", "2026-01-04")


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """Give four simulated days of every asset in the default list."""
    with simulated(tmp_path_factory.mktemp("home"), ",".join(load_assets()), 4) as made:
        yield made


@pytest.mark.parametrize("asset", load_assets())
def test_two_days_of_any_listed_asset_are_tested(market: Market, asset: str) -> None:
    summary = market.ask("backtest", asset, *RANGE)["summary"]
    assert (summary["days"], summary["seconds"], summary["holes"]) == (2, 2 * DAY_S, 0)
    assert summary["trades"] > 0
    assert summary["trades_by_asset"] == {asset: summary["trades"]}


def test_three_assets_share_one_portfolio(market: Market) -> None:
    answer = market.ask("backtest", "BTC", "ETH", "SOL", *RANGE)
    summary, trades = answer["summary"], market.store.trades(answer["run_id"])
    assert set(summary["buy_and_hold"]) == set(summary["trades_by_asset"]) == {"BTC", "ETH", "SOL"}
    assert all(summary["trades_by_asset"].values())
    assert {trade.instrument for trade in trades} == {f"binance:{asset}-USDT-PERP" for asset in ("BTC", "ETH", "SOL")}
    end = dt.datetime(2026, 1, 5, tzinfo=dt.UTC).timestamp()
    assert all(trade.exit_ts <= end for trade in trades)
    assert summary["equity_usd_e8"] - summary["capital_usd_e8"] == sum(trade.pnl_usd_e8 for trade in trades)


def test_a_noise_world_is_another_market_and_earns_nothing(market: Market, tmp_path: Path) -> None:
    with simulated(tmp_path / "home", "BTC", 4, world="noise") as noise:
        made = noise.ask("simulate", "--days", 4, "--world", "noise")
        assert (made["world"], made["rows"]) == ("noise", 4 * DAY_S)
        answer, other = noise.ask("backtest", "BTC", *RANGE), market.ask("backtest", "BTC", *RANGE)
        trades = noise.store.trades(answer["run_id"])
    assert answer["data_hash"] != other["data_hash"]
    assert len(trades) == answer["summary"]["trades"] > 0
    assert answer["summary"]["total_return"] < 0
