"""A report page says what the store holds: every second, trade and reason of a simulated run, whole or not."""

from __future__ import annotations

import base64
import datetime as dt
import functools
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

import squeezeview
from squeezecore import simulator, squeeze
from squeezecore.adapters import charting, explaining, reporting, runner
from squeezecore.adapters.operations import silent
from squeezecore.adapters.page import Pack, Page, RunPage
from squeezecore.errors import UsageError
from squeezecore.market import DAY_S, Rows, concat, cut
from squeezecore.spec import day_start_s
from squeezecore.squeeze import SqueezeParams
from squeezecore.trading import USD_E8
from squeezeflow import commands
from squeezeview import rendering
from support.command import Market, simulated

FIRST, LAST = dt.date(2026, 1, 3), dt.date(2026, 1, 5)
BACKTEST = ("backtest", "BTC", "--from", FIRST, "--to", LAST)
START = day_start_s(FIRST)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """Give five simulated days, two of them to warm up."""
    with simulated(tmp_path_factory.mktemp("home"), "BTC", 5) as made:
        yield made


@pytest.fixture(scope="module")
def run_id(market: Market) -> str:
    return str(market.ask(*BACKTEST)["run_id"])


@pytest.fixture(scope="module")
def run(market: Market, run_id: str) -> RunPage:
    return page_of(market, run_id).runs[0]


def page_of(market: Market, *names: str) -> Page:
    return reporting.build_page(market.store, names, placebo_runs=0)


def unpack(pack: Pack) -> dict[str, NDArray[np.int64]]:
    """Read a pack as a browser does, one byte after the other."""
    numbers, number, shift = [], 0, 0
    for byte in zlib.decompress(base64.b64decode(pack.data)):
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append((number >> 1) ^ -(number & 1))
            number = shift = 0
    columns = np.array(numbers, np.int64).reshape(len(pack.columns), pack.count)
    return {column.name: np.cumsum(values) for column, values in zip(pack.columns, columns, strict=True)}


def scales(pack: Pack) -> dict[str, int]:
    return {column.name: column.scale for column in pack.columns}


# --- many seconds explained at once ---


@functools.cache
def two_days() -> Rows:
    world = simulator.WorldSpec(seed=5, start=FIRST, days=2, assets=("BTC",))
    return concat([day.rows for day in simulator.simulate_rows(world, "BTC")])


@pytest.mark.parametrize("block_s", [3_600, 50_000, 10**6])
def test_many_seconds_are_explained_as_each_alone(block_s: int) -> None:
    rows, params = two_days(), SqueezeParams()
    start = int(rows.ts[0])
    wanted = [start, start + 1, start + 3_599, start + 100_000, start + 100_001, start + 172_799, start + 10**7]
    state, found = squeeze.initial(params), []
    for first in range(0, len(rows.ts), block_s):
        found += squeeze.explain_seconds(params, state, cut(rows, first, first + block_s), wanted)
    assert found == [squeeze.explain_second(params, rows, ts) for ts in wanted[:-1]]
    whole, _ = squeeze.scan(params, squeeze.initial(params), rows)
    assert squeeze.to_bytes(state) == squeeze.to_bytes(whole)


# --- series ---


def test_seconds_around_trades_are_the_rows_of_the_store(market: Market, run: RunPage, run_id: str) -> None:
    rows = market.store.read_rows("BTC", START, START + 3 * DAY_S)
    pack = run.series[0].seconds
    columns, scale = unpack(pack), scales(pack)
    at = np.searchsorted(rows.ts, columns["ts"])
    np.testing.assert_array_equal(rows.ts[at], columns["ts"])
    decimals = market.store.instruments()["binance:BTC-USDT-PERP"].price_decimals
    for name in ("open", "high", "low", "close"):
        np.testing.assert_array_equal(columns[name] * (10**decimals // scale[name]), getattr(rows, name)[at], name)
    for name, flow in (("spot_cvd", rows.spot_delta), ("perp_cvd", rows.perp_delta)):
        np.testing.assert_array_equal(columns[name], np.rint(np.cumsum(flow)[at] / 100))
    np.testing.assert_array_equal(columns["quality"], rows.quality_ppm[at])
    shown = set(columns["ts"].tolist())
    for trade in market.store.trades(run_id):
        for border in (trade.entry_ts, trade.exit_ts):
            there = range(max(border - 300, START), min(border + 301, START + 3 * DAY_S))
            assert shown.issuperset(there)


def test_all_but_the_largest_trades_are_shown_in_steps_of_five_seconds(
    market: Market, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charting, "CLOSE_TRADES", 1)
    store, kept = market.store, market.store.run(run_id)
    assert kept is not None
    trades = store.trades(run_id)
    made = charting.make_charts(store, kept, trades, store.decisions(run_id), silent)
    (largest,) = charting.close_up(trades)
    assert abs(trades[largest - 1].pnl_usd_e8) == max(abs(trade.pnl_usd_e8) for trade in trades)
    close: set[int] = set()
    steps: set[int] = set()
    for number, trade in enumerate(trades, 1):
        for at in (trade.entry_ts, trade.exit_ts):
            around = range(at - 300, at + 301)
            (close if number == largest else steps).update(
                around if number == largest else (t // 5 * 5 for t in around)
            )
    steps -= {ts // 5 * 5 for ts in close}  # where both lie, the seconds stand
    end = START + 3 * DAY_S
    shown = unpack(made.series[0].seconds)
    assert shown["ts"].tolist() == sorted(ts for ts in close | steps if START <= ts < end)
    rows = store.read_rows("BTC", START, end)
    scale = 10 ** store.instruments()[trades[0].instrument].price_decimals
    (high,) = (column.scale for column in made.series[0].seconds.columns if column.name == "high")
    for ts in sorted(ts for ts in steps if START <= ts < end)[::97]:
        five = rows.high[ts - START : ts - START + 5]
        assert shown["high"][shown["ts"].tolist().index(ts)] * scale == int(five.max()) * high


def test_minutes_are_their_seconds(market: Market, run: RunPage) -> None:
    rows = market.store.read_rows("BTC", START, START + 3 * DAY_S)
    pack = run.series[0].base
    columns, scale = unpack(pack), scales(pack)
    assert pack.count == 3 * 1440
    np.testing.assert_array_equal(columns["ts"], rows.ts[::60])
    price = 10 ** market.store.instruments()["binance:BTC-USDT-PERP"].price_decimals // scale["close"]
    by_minute = {name: getattr(rows, name).reshape(-1, 60) for name in ("open", "high", "low", "close")}
    np.testing.assert_array_equal(columns["open"] * price, by_minute["open"][:, 0])
    np.testing.assert_array_equal(columns["high"] * price, by_minute["high"].max(axis=1))
    np.testing.assert_array_equal(columns["low"] * price, by_minute["low"].min(axis=1))
    np.testing.assert_array_equal(columns["close"] * price, by_minute["close"][:, -1])
    np.testing.assert_array_equal(columns["perp_cvd"], np.rint(np.cumsum(rows.perp_delta)[59::60] / 100))


@pytest.fixture(scope="module")
def coarse(market: Market, run_id: str) -> charting.Charts:
    """Give the charts as those of a run too long for minutes: steps of five, here after one day."""
    kept = market.store.run(run_id)
    assert kept is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charting, "STEPS", ((1, 60), (10, 300)))
        trades = market.store.trades(run_id)
        return charting.make_charts(market.store, kept, trades, market.store.decisions(run_id), silent)


def test_a_long_run_is_shown_in_steps_and_in_minutes_near_trades(
    market: Market, run: RunPage, coarse: charting.Charts
) -> None:
    whole, near = unpack(coarse.series[0].base), unpack(coarse.series[0].seconds)
    assert coarse.series[0].step_s == 300
    assert coarse.series[0].seconds == run.series[0].seconds
    assert whole["ts"][0] == START
    assert (whole["ts"][:-1] + whole["width"][:-1]).tolist() == whole["ts"][
        1:
    ].tolist()  # one row after the other, no gap
    assert whole["ts"][-1] + whole["width"][-1] == START + 3 * DAY_S
    fine = np.isin(whole["ts"] // 300, near["ts"] // 300)
    assert 0 < fine.sum() < len(fine)
    assert whole["width"].tolist() == np.where(fine, 60, 300).tolist()
    rows = market.store.read_rows("BTC", START, START + 3 * DAY_S)
    price = (
        10 ** market.store.instruments()["binance:BTC-USDT-PERP"].price_decimals
        // scales(coarse.series[0].base)["close"]
    )
    flow = np.cumsum(rows.perp_delta)
    for at in range(0, len(fine), 7):
        first, end = int(whole["ts"][at]) - START, int(whole["ts"][at] + whole["width"][at]) - START
        assert whole["open"][at] * price == rows.open[first]
        assert whole["high"][at] * price == rows.high[first:end].max()
        assert whole["low"][at] * price == rows.low[first:end].min()
        assert whole["close"][at] * price == rows.close[end - 1]
        assert whole["perp_cvd"][at] == round(flow[end - 1] / 100)


def test_a_long_runs_equity_keeps_each_steps_end_and_the_deepest_fall(run: RunPage, coarse: charting.Charts) -> None:
    all_points, shown = unpack(run.equity), unpack(coarse.equity)
    place = np.searchsorted(all_points["ts"], shown["ts"])
    assert all_points["ts"][place].tolist() == shown["ts"].tolist()
    for name in ("equity", "drawdown"):
        assert all_points[name][place].tolist() == shown[name].tolist()
    assert shown["drawdown"].min() == all_points["drawdown"].min()
    ends = {int(ts) // 300: int(ts) for ts in all_points["ts"]}
    assert set(ends.values()) <= set(shown["ts"].tolist())
    assert len(shown["ts"]) <= len(ends) + 3


def test_a_month_is_shown_in_minutes_and_a_year_is_not() -> None:
    def step(days: int) -> int:
        return charting.step_of(runner.make_spec(assets=["BTC"], start=FIRST, end=FIRST + dt.timedelta(days - 1)))

    assert [step(days) for days in (1, 31, 92, 93, 366, 1_000)] == [60, 60, 60, 300, 300, 900]


def test_the_score_at_an_entry_is_the_trades_score_and_its_sign_the_direction(
    market: Market, run: RunPage, run_id: str
) -> None:
    columns = unpack(run.series[0].seconds)
    for trade in market.store.trades(run_id):
        at = int(np.searchsorted(columns["ts"], trade.decided_ts))
        assert columns["score"][at] == trade.score_milli * int(trade.direction)


def test_bands_are_in_order_and_hold_what_the_reset_machine_said(run: RunPage) -> None:
    assert run.bands
    for before, after in zip(run.bands, run.bands[1:], strict=False):
        assert before.start_s < before.end_s <= after.start_s
    for band in run.bands:
        assert band.direction in (1, -1)
        assert band.phase in squeeze.PHASES[1:]
        assert (band.low is not None) == (band.high is not None)
        assert band.low is None or band.high is None or band.low <= band.high
    for trade in run.trades:
        if trade.phase.startswith("RESET"):
            assert any(b.start_s <= trade.decided_ts < b.end_s and b.phase == trade.phase for b in run.bands)


def test_equity_is_the_accounts_and_drawdown_its_fall(market: Market, run: RunPage, run_id: str) -> None:
    ts, equity = market.store.equity(run_id)
    columns, scale = unpack(run.equity), scales(run.equity)
    np.testing.assert_array_equal(columns["ts"], ts)
    np.testing.assert_allclose(columns["equity"] / scale["equity"], equity / USD_E8, atol=0.0051)
    peaks = np.maximum.accumulate(np.maximum(equity, 100_000 * USD_E8))
    np.testing.assert_allclose(columns["drawdown"] / scale["drawdown"], equity / peaks - 1, atol=1e-5)
    rows = market.store.read_rows("BTC", START, START + 3 * DAY_S)
    end = 100_000 * rows.close[-1] / rows.open[0]
    assert columns["holding"][-1] / scale["holding"] == pytest.approx(end, abs=1)


# --- trades and their reasons ---


def test_trades_are_the_stores_trades(market: Market, run: RunPage, run_id: str) -> None:
    trades = market.store.trades(run_id)
    assert len(run.trades) == len(trades) > 0
    rows = market.store.read_rows("BTC", START, START + 3 * DAY_S)
    for line, trade in zip(run.trades, trades, strict=True):
        assert round(line.pnl_usd * USD_E8) == trade.pnl_usd_e8
        assert round(line.fees_usd * USD_E8) == trade.fees_usd_e8
        assert (line.decided_ts, line.entry_ts, line.exit_ts) == (trade.decided_ts, trade.entry_ts, trade.exit_ts)
        assert (line.direction, line.tier, line.reason) == (int(trade.direction), trade.tier, trade.reason)
        assert round(line.score * 1000) == trade.score_milli
        a, b = np.searchsorted(rows.ts, (trade.entry_ts, trade.exit_ts))
        worst = rows.low[a:b].min() if trade.direction > 0 else rows.high[a:b].max()
        best = rows.high[a:b].max() if trade.direction > 0 else rows.low[a:b].min()
        for price, found, clip in ((worst, line.mae_usd, min), (best, line.mfe_usd, max)):
            move = (price / 1000 - line.notional_usd / line.qty) * line.qty * int(trade.direction)
            assert found == pytest.approx(clip(move, 0.0), abs=0.01)
    assert sum(line.pnl_usd for line in run.breakdowns[0].lines) == pytest.approx(sum(t.pnl_usd for t in run.trades))


def test_reasons_are_those_that_explain_tells(market: Market, run: RunPage, run_id: str) -> None:
    for number in (1, len(run.trades)):
        told, line = explaining.explain_trade(market.store, run_id, number), run.trades[number - 1]
        entry = told.entry.explanation
        assert line.entry_why is not None
        assert line.entry_why.ts == entry["ts"] == line.decided_ts
        assert line.entry_why.score == entry["score_milli"] / 1000 == line.score
        flows = {w.window_s: (w.spot_usd, w.perp_usd) for w in line.entry_why.windows}
        for seconds, w in entry["windows"].items():
            assert flows[seconds] == (round(w["spot_delta_cents"] / 100, 4), round(w["perp_delta_cents"] / 100, 4))
        interest = next(i for i in line.entry_why.inputs if i.label == "Open interest")
        assert interest.known_at == entry["open_interest"]["known_at"] <= line.decided_ts
        assert interest.threshold
        assert sum(part.points for part in line.entry_why.parts) == pytest.approx(line.score, abs=0.002)
        if told.exit is not None:
            assert line.exit_why is not None
            assert line.exit_why.ts == told.exit.explanation["ts"]
            assert line.reason_words in line.exit_why.title


def test_numbers_are_those_that_the_backtest_printed(market: Market, run: RunPage) -> None:
    summary = market.ask(*BACKTEST)["summary"]
    figures = {figure.name: figure.value for group in run.groups for figure in group.figures}
    assert figures["total_return"] == pytest.approx(summary["total_return"], abs=1e-12)
    assert figures["drawdown_max"] == summary["drawdown_max"]
    assert figures["trades"] == summary["trades"]
    assert figures["win_rate"] == summary["win_rate"]
    assert figures["fees_usd"] == pytest.approx(summary["fees_usd_e8"] / USD_E8)
    assert run.verdict.word == "too few trades"  # three days
    receipt = {line.label: line.text for line in run.receipt}
    assert receipt["Again"] == "squeezeflow backtest BTC --from 2026-01-03 --to 2026-01-05"
    assert receipt["Result"] == market.ask(*BACKTEST)["result_hash"]


def test_a_second_page_is_the_first_without_its_work(market: Market, run: RunPage, run_id: str) -> None:
    kept = market.store.run(run_id)
    assert kept is not None
    assert market.store.part(run_id, charting.PART, kept.result_hash, charting.VERSION) is not None
    worked: list[object] = []
    again = reporting.build_page(market.store, [run_id], worked.append, placebo_runs=0)
    assert again == page_of(market, run_id)
    assert again.runs[0].series == run.series
    assert again.runs[0].trades == run.trades
    assert worked == []


def test_placebos_and_cost_stress_are_made_once_and_few_of_them_prove_nothing(market: Market, run_id: str) -> None:
    first = reporting.build_page(market.store, [run_id], placebo_runs=2).runs[0]
    worked: list[object] = []
    again = reporting.build_page(market.store, [run_id], worked.append, placebo_runs=2).runs[0]
    assert worked == []
    assert again.placebos == first.placebos
    assert again.stress == first.stress is not None
    shuffled, random = first.placebos
    assert len(shuffled.values) == 2
    assert "Fewer than 19" in shuffled.note
    assert not random.note
    reasons = " ".join(reason.text for reason in first.verdict.reasons)
    assert "Against random entries, p = " in reasons
    assert "Against shuffled perp flow there were 2 runs, too few to count (19 are needed)" in reasons
    assert "No placebo" not in reasons
    fewer = [reporting.build_page(market.store, [run_id], placebo_runs=n).runs[0] for n in (0, 1)]
    assert [(one.placebos, one.stress) for one in fewer] == [(first.placebos, first.stress)] * 2  # nothing is forgotten


# --- runs that are not as they should be ---


def test_a_run_without_trades_has_a_page_that_says_so(market: Market) -> None:
    made = market.ask(*BACKTEST, "--set", "entry_score=10")
    run = page_of(market, made["run_id"]).runs[0]
    assert run.trades == ()
    assert run.verdict.word == "too few trades"
    assert any("no trade" in warning for warning in run.warnings)
    assert run.series[0].seconds.count == 0
    assert run.series[0].base.count == 3 * 1440
    assert unpack(run.equity)["equity"].tolist() == [100_000 * 100] * run.equity.count
    assert all(breakdown.lines == () for breakdown in run.breakdowns)


def test_a_run_with_a_hole_names_it_and_leaves_it_empty(market: Market) -> None:
    start = START + DAY_S + 7_200
    rows = market.store.read_rows("BTC", start, start + 1_800)
    market.store.drop_rows("BTC", start, start + 1_800)
    try:
        made = market.ask(*BACKTEST, "--set", "entry_score=4.1")
        run = page_of(market, made["run_id"]).runs[0]
    finally:
        market.store.insert_rows("BTC", rows, replace=True)
    quality = run.quality[0]
    assert quality.holes == ((start, start + 1_800),)
    assert quality.seconds_expected - quality.seconds == 1_800
    assert [day.holes for day in quality.days] == [0, 1, 0]
    assert any("1,800 of 259,200 seconds have no row" in warning for warning in run.warnings)
    ts = unpack(run.series[0].base)["ts"]
    assert not ((ts >= start) & (ts < start + 1_800)).any()
    assert len(ts) == 3 * 1440 - 30


def test_rows_that_are_gone_since_a_run_are_a_message(market: Market) -> None:
    made = market.ask(*BACKTEST, "--set", "entry_score=4.3")
    start = START + DAY_S
    rows = market.store.read_rows("BTC", start, start + 60)
    market.store.drop_rows("BTC", start, start + 60)
    try:
        said = market.say("report", made["run_id"], "--json")
    finally:
        market.store.insert_rows("BTC", rows, replace=True)
    assert said.code == 42
    assert "had 86400 rows on 2026-01-04" in said.err
    assert "run the backtest again" in " ".join(said.err.split())


def test_an_unfinished_run_says_what_goes_on_with_it(market: Market, run_id: str) -> None:
    done = market.store.run(run_id)
    assert done is not None
    begun = msgspec.structs.replace(done, run_id="f" * 32, state="running", result_hash="", summary={})
    market.store.put_run(begun)
    try:
        with pytest.raises(UsageError, match=r"run f{12} is running.*squeezeflow backtest BTC --from 2026-01-03"):
            page_of(market, "ffff")
        assert {line.run_id: line.state for line in runner.runs(market.store)}["f" * 32] == "running"
        assert page_of(market, "last").runs[0].run_id != "f" * 32
    finally:
        market.store.drop_run("f" * 32)


def test_a_run_of_another_version_has_a_page_with_a_warning(market: Market, run: RunPage, run_id: str) -> None:
    done = market.store.run(run_id)
    assert done is not None
    assert not any("version" in warning for warning in run.warnings)
    market.store.put_run(msgspec.structs.replace(done, code_version="0" * 32))
    try:
        old = reporting.build_page(market.store, [run_id], placebo_runs=20_000).runs[0]
    finally:
        market.store.put_run(done)
    assert any("another version of the code (000000000000)" in warning for warning in old.warnings)
    assert any("Placebos and cost stress are not complete" in warning for warning in old.warnings)
    assert all(len(placebo.values) < 20_000 for placebo in old.placebos)
    assert old.trades == run.trades


# --- side by side ---


def test_a_comparison_counts_what_is_alike_and_says_why_the_rest_is_not(market: Market, run_id: str) -> None:
    other = market.ask(*BACKTEST, "--set", "entry_score=4.6")["run_id"]
    page = page_of(market, run_id, other)
    assert page.comparison is not None
    assert page.comparison.spec == (("entry_score", ("4.0", "4.6")),)
    one, two = page.runs
    assert one.name != two.name
    taken = [sum(d.pnl_usd[place] is not None for d in page.comparison.differences) for place in (0, 1)]
    assert [page.comparison.shared + count for count in taken] == [len(one.trades), len(two.trades)]
    assert page.comparison.differences
    assert all(difference.why for difference in page.comparison.differences)
    with pytest.raises(UsageError, match="not all different"):
        page_of(market, run_id, run_id[:20])


def test_a_run_beside_itself_with_another_capital_has_the_same_decisions(market: Market, run_id: str) -> None:
    other = market.ask(*BACKTEST, "--capital", 50_000)["run_id"]
    comparison = page_of(market, run_id, other).comparison
    assert comparison is not None
    assert comparison.spec == (("capital_usd", ("100000", "50000")),)
    assert comparison.shared > 0


# --- the command ---


def test_the_command_writes_a_page_or_says_how_to_build_it(market: Market, run_id: str, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "page.html"
    said = market.say("report", run_id, "--out", out, "--placebos", 0)
    if squeezeview.built():
        assert said.code == 0, said
        assert str(out) in said.out
        assert out.read_bytes().startswith(b"<!doctype html>")
        assert [path.name for path in out.parent.iterdir()] == ["page.html"]
    else:
        assert said.code == 2
        assert "make web" in said.err
    answer = market.ask("report", run_id, "--out", out, "--placebos", 0)
    assert answer["runs"][0]["verdict"]["word"] == "too few trades"
    assert {figure["name"] for figure in answer["runs"][0]["headline"]} == set(reporting.HEADLINE)


def test_without_the_front_end_the_figures_are_there(
    market: Market, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rendering, "ASSETS", tmp_path)
    words = ["--home", str(market.home), "report", run_id, "--placebos", "0"]
    with pytest.raises(UsageError, match=r"make web.*the same command with --json"):
        commands.app(words, standalone_mode=False)
    capsys.readouterr()
    commands.app([*words, "--json"], standalone_mode=False)
    answer = json.loads(capsys.readouterr().out)
    assert answer["path"] == ""
    assert "make web" in answer["note"]
    assert answer["runs"][0]["run_id"] == run_id


def test_one_run_is_no_comparison(market: Market, run_id: str) -> None:
    said = market.say("compare", run_id)
    assert said.code == 2
    assert "needs two or more" in said.err
