"""The command as it is used: simulate, look, backtest, ask why, export; and the notebook's functions."""

import csv
import datetime as dt
import doctest
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pytest

import squeezeflow
from squeezecore.adapters.operations import RATES, assets
from squeezecore.errors import DataHoleError, UsageError
from squeezecore.market import DAY_S, Rows
from squeezecore.spec import day_start_s
from squeezecore.squeeze import SqueezeParams
from squeezecore.trading import USD_E8
from squeezeflow import notebook
from support.command import Market, simulated

SPOT, PERP = "binance:BTC-USDT", "binance:BTC-USDT-PERP"
FIRST, LAST = dt.date(2026, 1, 3), dt.date(2026, 1, 5)
RANGE = ("--from", FIRST, "--to", LAST)
BACKTEST = ("backtest", "BTC", *RANGE)
NOON = day_start_s(dt.date(2026, 1, 4)) + DAY_S // 2


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """Give five simulated days of two assets."""
    with simulated(tmp_path_factory.mktemp("home"), "BTC,ETH", 5) as made:
        yield made


def tell(market: Market, *words: object) -> str:
    """Return what the command prints, on one line: tables fold where they like."""
    return re.sub(r"\s+", " ", market.do(*words))


# --- one result, however it is computed ---


def test_a_finished_run_is_shown_again_and_a_fresh_one_is_the_same(market: Market) -> None:
    first = market.ask(*BACKTEST, "--fresh", "--set", "entry_score=4.5")
    again = market.ask(*BACKTEST, "--set", "entry_score=4.5")
    fresh = market.ask(*BACKTEST, "--set", "entry_score=4.5", "--fresh")
    assert (first["cached"], again["cached"], fresh["cached"]) == (False, True, False)
    assert first["summary"] == again["summary"] == fresh["summary"]
    assert first["summary"]["days"] == 3
    assert first["summary"]["trades"] > 0
    for name in ("run_id", "result_hash", "data_hash", "params_hash", "code_version"):
        assert re.fullmatch(r"[0-9a-f]{32}", first[name]), name
        assert first[name] == again[name] == fresh[name]


@pytest.mark.parametrize("cut", [(1, 1), (3, 1), (3, 2)])
def test_shards_and_jobs_change_no_bit(market: Market, cut: tuple[int, int]) -> None:
    whole = market.ask(*BACKTEST)
    pieces = market.ask(*BACKTEST, "--fresh", "--shards", cut[0], "--jobs", cut[1])
    assert not pieces["cached"]
    assert pieces["run_id"] == whole["run_id"]
    assert pieces["result_hash"] == whole["result_hash"]


def test_a_short_warm_up_makes_seams_that_are_repaired(market: Market) -> None:
    short = (*BACKTEST, "--warmup-hours", 1)
    whole, pieces = market.ask(*short, "--shards", 1), market.ask(*short, "--shards", 3, "--fresh")
    assert pieces["result_hash"] == whole["result_hash"]
    assert pieces["summary"]["seams_repaired"] > whole["summary"]["seams_repaired"] == 0


def test_rows_that_changed_are_scanned_again(market: Market) -> None:
    before = market.ask(*BACKTEST)
    rows = market.store.read_rows("BTC", NOON, NOON + 3600)
    changed = rows._replace(spot_delta=rows.spot_delta - 10**9, spot_volume=rows.spot_volume + 10**9)
    market.store.insert_rows("BTC", changed, replace=True)
    try:
        after = market.ask(*BACKTEST)
        assert not after["cached"]
        assert after["run_id"] == before["run_id"]
        assert after["data_hash"] != before["data_hash"]
        assert after["result_hash"] != before["result_hash"]
        assert any("rows have changed" in warning for warning in after["warnings"])
    finally:
        market.store.insert_rows("BTC", rows, replace=True)
    restored = market.ask(*BACKTEST)
    assert not restored["cached"]
    assert restored["result_hash"] == before["result_hash"]


def test_several_assets_share_one_portfolio(market: Market) -> None:
    both = market.ask("backtest", "BTC", "eth", *RANGE)
    assert market.ask("backtest", "btc,ETH", *RANGE)["run_id"] == both["run_id"]
    traded = both["summary"]["trades_by_asset"]
    assert set(traded) == {"BTC", "ETH"}
    assert sum(traded.values()) == both["summary"]["trades"]
    assert set(both["summary"]["buy_and_hold"]) == {"BTC", "ETH"}
    text = tell(market, "backtest", "BTC", "ETH", *RANGE)
    assert "Backtest of BTC, ETH, 2026-01-03 to 2026-01-05" in text
    assert "equal parts" in text


def test_two_commands_at_once_share_the_server(market: Market) -> None:
    words = [(*BACKTEST, "--set", f"entry_score={score}", "--json") for score in (4.2, 4.4)]
    running = [market.start(*each) for each in words]
    said = [each.communicate() for each in running]
    assert [each.returncode for each in running] == [0, 0], said
    alone = [market.ask(*each[:-1]) for each in words]
    assert all(run["cached"] for run in alone)
    assert [json.loads(out)["result_hash"] for out, _ in said] == [run["result_hash"] for run in alone]


# --- what it prints and writes ---


def test_a_summary_says_what_it_came_to_and_what_to_type_next(market: Market, tmp_path: Path) -> None:
    answer = market.ask(*BACKTEST)
    text = tell(market, *BACKTEST, "--out", tmp_path / "run")
    for word in ("return", "buy and hold", "max drawdown", "fees", "slippage", "funding", "won", "exposure", "exits"):
        assert word in text, word
    assert answer["run_id"][:12] in text
    assert answer["result_hash"][:16] in text
    assert "squeezeflow explain last 1" in text
    listed = market.ask("runs")
    assert {"done"} == {run["state"] for run in listed if run["run_id"] == answer["run_id"]}
    assert answer["run_id"][:12] in tell(market, "runs")


def test_the_files_of_a_run_hold_what_the_store_holds(market: Market, tmp_path: Path) -> None:
    answer = market.ask(*BACKTEST, "--out", tmp_path / "run")
    names = {f"{name}.{kind}" for name in ("trades", "decisions", "equity") for kind in ("parquet", "csv")}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names | {"result.json"}
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert {name: written[name] for name in written if name != "seconds"} == {
        name: answer[name] for name in answer if name != "seconds"
    }
    trades, (ts, equity) = market.store.trades(answer["run_id"]), market.store.equity(answer["run_id"])
    frame = pl.read_parquet(tmp_path / "run" / "trades.parquet")
    assert frame["number"].to_list() == list(range(1, answer["summary"]["trades"] + 1))
    assert [round(value * USD_E8) for value in frame["pnl_usd"]] == [trade.pnl_usd_e8 for trade in trades]
    assert frame["entry_order_id"].to_list() == [trade.entry_order_id for trade in trades]
    curve = pl.read_parquet(tmp_path / "run" / "equity.parquet")
    np.testing.assert_array_equal(curve["ts"].to_numpy(), ts)
    np.testing.assert_allclose(curve["equity_usd"].to_numpy() * USD_E8, equity, rtol=1e-15)
    assert round(curve["equity_usd"][-1] * USD_E8) == answer["summary"]["equity_usd_e8"]
    decisions = pl.read_parquet(tmp_path / "run" / "decisions.parquet")
    assert len(decisions) == answer["summary"]["records"]
    for name, table in (("trades", frame), ("equity", curve), ("decisions", decisions)):
        with (tmp_path / "run" / f"{name}.csv").open(newline="") as file:
            lines = list(csv.reader(file))
        assert (lines[0], len(lines) - 1) == (table.columns, len(table))


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_exported_rows_are_the_stored_integers_in_units_of_people(market: Market, tmp_path: Path, kind: str) -> None:
    said = market.ask(
        "data", "export", "rows", "BTC", "--from", "2026-01-03T23:50:00", "--to", "2026-01-04T00:10:00",
        "--out", tmp_path / f"rows.{kind}",
    )  # fmt: skip
    frame = pl.read_parquet(said["out"]) if kind == "parquet" else pl.read_csv(said["out"])
    midnight = day_start_s(dt.date(2026, 1, 4))
    rows = market.store.read_rows("BTC", midnight - 600, midnight + 600)
    assert said["rows"] == len(frame) == 1200
    assert tuple(said["columns"]) == tuple(frame.columns)
    instrument = market.store.instruments()[PERP]
    price, qty = 10**instrument.price_decimals, 10**instrument.qty_decimals
    scales = dict.fromkeys(Rows._fields, 1) | RATES
    scales |= dict.fromkeys(("open", "high", "low", "close", "mark"), price)
    scales |= dict.fromkeys(("buy_qty", "sell_qty", "open_interest"), qty)
    scales |= dict.fromkeys(("spot_delta", "perp_delta", "spot_volume", "perp_volume"), 100)
    for name, scale in scales.items():
        column = frame[name.replace("quality_ppm", "quality")].to_numpy()
        np.testing.assert_array_equal(np.rint(column * scale), getattr(rows, name), err_msg=name)


def test_exported_bars_have_the_promised_columns(market: Market, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "bars.csv"
    said = market.ask(
        "data", "export", "bars", SPOT, "--from", "2026-01-04T12:00:00", "--to", "2026-01-04T12:05:00", "--out", out
    )
    promised = {
        "ts",
        "open",
        "high",
        "low",
        "close",
        "buy_volume",
        "sell_volume",
        "buy_trades",
        "sell_trades",
        "complete",
    }
    assert promised <= set(said["columns"])
    frame, bars = pl.read_csv(out), market.store.read_bars(SPOT, NOON, NOON + 300)
    instrument = market.store.instruments()[SPOT]
    assert frame["ts"].to_list() == bars.ts.tolist()
    assert [round(v * 10**instrument.price_decimals) for v in frame["close"]] == bars.close.tolist()
    assert [round(v * 10**instrument.qty_decimals) for v in frame["buy_volume"]] == bars.buy_volume.tolist()
    assert [round(v * 100) for v in frame["buy_usd"]] == bars.buy_usd_cents.tolist()
    assert [bool(v) for v in frame["complete"]] == [bool(v) for v in bars.complete]


def test_minutes_and_hours_are_made_with_the_seconds_and_exported(market: Market, tmp_path: Path) -> None:
    bars = market.store.read_bars(PERP, NOON, NOON + 7200)
    scale = 10 ** market.store.instruments()[PERP].qty_decimals
    words = ("data", "export", "bars", PERP, "--from", "2026-01-04T12:00:00", "--to", "2026-01-04T14:00:00")
    for every, seconds in (("1m", 60), ("5m", 300), ("1h", 3600)):
        said = market.ask(*words, "--every", every, "--out", tmp_path / f"{every}.parquet")
        frame, shape = pl.read_parquet(said["out"]), (7200 // seconds, seconds)
        assert frame["ts"].to_list() == list(range(NOON, NOON + 7200, seconds))
        volumes = [round(v * scale) for v in frame["buy_volume"]]
        assert volumes == bars.buy_volume.reshape(shape).sum(1).tolist()
        assert frame["seconds"].to_list() == frame["seconds_complete"].to_list() == [seconds] * shape[0]
        assert {"open", "close", "buy_usd"} <= set(frame.columns)
        assert "version" not in frame.columns
        shown = squeezeflow.bars(PERP, "2026-01-04T12:00:00", "2026-01-04T14:00:00", every=every, home=market.home)
        assert shown.drop("ts").equals(frame.drop("ts"))
        assert shown["ts"].dt.epoch("s").to_list() == frame["ts"].to_list()
    with pytest.raises(DataHoleError, match="it has bars from"):
        squeezeflow.bars(PERP, "2027-01-04", "2027-01-05", every="1h", home=market.home)


def test_data_shows_days_holes_and_sizes(market: Market) -> None:
    text = tell(market, "data")
    for word in (SPOT, PERP, "BTC", "ETH", "100.00 %", "█████", "no gap is known", "bytes a row", "rows_1s"):
        assert word in text, word
    answer = market.ask("data", "--name", PERP)
    assert [(line["name"], line["seconds"]) for line in answer["instruments"]] == [(PERP, DAY_S)] * 5


def test_flow_draws_and_lists_seconds(market: Market) -> None:
    words = ("flow", "btc", "--from", "2026-01-04T12:00:00", "--to", "2026-01-04T12:10:00")
    text = tell(market, *words, "--last", 3)
    assert "CVD since the start, million USD" in text
    assert "12:09:59" in text
    assert "12:09:56" not in text
    answer, rows = market.ask(*words), market.store.read_rows("BTC", NOON, NOON + 600)
    assert answer["ts"] == rows.ts.tolist()
    assert [round(100 * value) for value in answer["perp_cvd_usd"]] == np.cumsum(rows.perp_delta).tolist()
    assert answer["missing_seconds"] == 0


def test_assets_shows_the_list_in_force_and_takes_another(market: Market, tmp_path: Path) -> None:
    before = assets(market.store)
    assert PERP in tell(market, "assets")
    file = tmp_path / "assets.toml"
    lines = [
        f'[{name}]\ntraded = "{each.traded}"\nmarkets = [{{ instrument = "{each.traded}" }}]'
        for name, each in before.items()
    ]
    file.write_text("\n".join(lines))
    try:
        assert len(market.ask("assets", "--set", file)["BTC"]["markets"]) == 1
        assert len(market.ask("assets")["BTC"]["markets"]) == 1
    finally:
        market.store.put_config("assets.toml", msgspec.json.encode(before).decode())
    assert assets(market.store) == before


# --- why ---


def test_a_trade_is_explained_by_what_was_known(market: Market) -> None:
    run = market.ask(*BACKTEST)
    text = tell(market, "explain", run["run_id"][:12], 1)
    for word in (
        *(
            "Trade 1 of",
            "Why it was taken",
            "Why it was left",
            "score",
            "entry at 4",
            "reset deceleration",
            "absorption",
        ),
        *(
            "failed breakdown",
            "bias",
            "open interest",
            "known at",
            "limit 180",
            "votes at",
            "14,400 s",
            "fees",
            "entry",
        ),
    ):
        assert word in text, word
    answer = market.ask("explain", run["run_id"], 1)
    assert answer["trade"]["decided_ts"] == answer["entry"]["explanation"]["ts"]
    assert answer["entry"]["explanation"]["score_milli"] == answer["trade"]["score_milli"]
    assert answer["decisions"][0]["kind"] == "entry"
    assert answer["of"] == run["summary"]["trades"]


def test_every_trade_of_a_run_has_its_reasons_still(market: Market) -> None:
    run = market.ask(*BACKTEST)
    last = market.ask("explain", run["run_id"], run["summary"]["trades"])
    assert last["number"] == run["summary"]["trades"]
    assert last["entry"]["explanation"]["blocked_by"] == []


def test_any_second_is_explained(market: Market) -> None:
    text = tell(market, "explain", "btc", "--at", "2026-01-04T12:00:00", "--set", "entry_score=7")
    for word in (
        "BTC at 2026-01-04 12:00:00 UTC",
        "entry at 7",
        "known at",
        "reset deceleration",
        "context",
        "blocked",
    ):
        assert word in text, word
    answer = market.ask("explain", "BTC", "--at", "2026-01-04T12:00:00Z")
    assert answer["second"] == "2026-01-04T12:00:00Z"
    assert answer["explanation"]["open_interest"]["known_at"] <= NOON
    assert answer["params"]["entry_score"] == SqueezeParams().entry_score


# --- parameters ---


def test_a_parameters_file_comes_back_as_it_went(market: Market, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    changes = ("--set", "entry_score=4.5", "--set", "cooldown_s=600")
    told = tell(market, "params", *changes, "--out", file)
    by_file, by_flags = market.ask(*BACKTEST, "--params", file), market.ask(*BACKTEST, *changes)
    assert by_file["run_id"] == by_flags["run_id"]
    assert by_file["spec"]["params"] == {"entry_score": 4.5, "cooldown_s": 600}
    assert by_file["params_hash"] in told
    over = market.ask(*BACKTEST, "--params", file, "--set", "entry_score=4")
    assert over["spec"]["params"] == {"cooldown_s": 600}


# --- notebooks ---


@pytest.mark.parametrize(("frame", "kind"), [("polars", pl.DataFrame), ("pandas", pd.DataFrame)])
def test_notebooks_get_a_run_in_frames(market: Market, frame: Any, kind: type) -> None:
    answer = market.ask(*BACKTEST)
    run = squeezeflow.load_run(answer["run_id"][:10], home=market.home, frame=frame)
    assert (run.run_id, run.result_hash) == (answer["run_id"], answer["result_hash"])
    assert run.summary.trades == answer["summary"]["trades"]
    assert run.spec.assets == ("BTC",)
    trades, equity, decisions = run.trades(), run.equity(), run.decisions()
    assert all(isinstance(each, kind) for each in (trades, equity, decisions))
    assert len(trades) == run.summary.trades
    assert len(decisions) == run.summary.records
    assert round(list(equity["equity_usd"])[-1] * USD_E8) == run.summary.equity_usd_e8
    last = pd.Timestamp(list(equity["ts"])[-1])
    assert last.tz_convert("UTC").date() in (LAST, LAST + dt.timedelta(1))


def test_notebooks_get_rows_and_bars(market: Market) -> None:
    rows = squeezeflow.rows(
        "BTC", "2026-01-04T12:00:00", dt.datetime(2026, 1, 4, 12, 5, tzinfo=dt.UTC), home=market.home
    )
    stored = market.store.read_rows("BTC", NOON, NOON + 300)
    assert isinstance(rows, pl.DataFrame)
    assert [round(100 * value) for value in rows["spot_delta"]] == stored.spot_delta.tolist()
    assert rows["ts"].dt.epoch("s").to_list() == stored.ts.tolist()
    bars = squeezeflow.bars(SPOT, "2026-01-04", dt.date(2026, 1, 5), home=str(market.home), frame="pandas")
    assert isinstance(bars, pd.DataFrame)
    assert len(bars) == DAY_S


def test_notebooks_find_the_home_the_command_uses(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    market.ask(*BACKTEST, "--fresh")
    monkeypatch.setenv("SQUEEZE_HOME", str(market.home))
    assert squeezeflow.load_run().summary.days == 3
    assert doctest.testmod(notebook) == (0, 7)


def test_notebooks_are_told_what_is_wrong(market: Market) -> None:
    market.ask(*BACKTEST)
    with pytest.raises(UsageError, match="known are"):
        squeezeflow.load_run("nothing", home=market.home)
    with pytest.raises(UsageError, match="did you mean BTC"):
        squeezeflow.rows("BTX", "2026-01-04", "2026-01-05", home=market.home)
    with pytest.raises(DataHoleError, match="BTC has rows from"):
        squeezeflow.rows("BTC", "2027-01-04", "2027-01-05", home=market.home)
    with pytest.raises(UsageError, match="it can be polars or pandas"):
        squeezeflow.bars(SPOT, "2026-01-04", "2026-01-05", home=market.home, frame="arrow")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="start was 'noon'"):
        squeezeflow.rows("BTC", "noon", "2026-01-05", home=market.home)
    with pytest.raises(DataHoleError, match=f"{PERP} has no bar in it: it has bars from 2026-01-01T00:00:00Z"):
        squeezeflow.bars(PERP, "2027-01-04", "2027-01-05", home=market.home)
    for read, name in ((squeezeflow.rows, "BTC"), (squeezeflow.bars, PERP)):
        with pytest.raises(UsageError, match="it must end after it begins"):
            read(name, "2026-01-05", "2026-01-05", home=market.home)


@pytest.mark.parametrize(
    "time",
    ["2026-01-04T12:00:00.5", dt.datetime(2026, 1, 4, 12, 0, 0, 1, tzinfo=dt.UTC), pd.Timestamp(NOON * 10**9 + 1)],
)
def test_notebooks_take_whole_seconds_only(market: Market, time: Any) -> None:
    for read, name in ((squeezeflow.rows, "BTC"), (squeezeflow.bars, PERP)):
        with pytest.raises(UsageError, match=r"start was 2026-01-04 12:00:00.*leave the fraction out"):
            read(name, time, "2026-01-05", home=market.home)


def test_an_asset_may_be_written_small(market: Market, tmp_path: Path) -> None:
    frame = squeezeflow.rows("btc", "2026-01-04", "2026-01-04T00:05:00", home=market.home)
    said = market.ask(
        "data", "export", "rows", "btc", "--from", "2026-01-04", "--to", "2026-01-04T00:05:00",
        "--out", tmp_path / "rows.csv",
    )  # fmt: skip
    assert len(frame) == said["rows"] == 300
    assert market.ask("data", "--name", "btc") == market.ask("data", "--name", "BTC")
