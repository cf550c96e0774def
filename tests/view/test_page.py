"""The report page in a real browser: every chart draws its rows, a trade tells its reasons, keys reach everything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from playwright.sync_api import expect

import squeezeview
from support import pages
from support.browsing import CHARTS, INK, SHOWS, charts, near, settle
from view.conftest import Opened

COLOURS = (
    ("price", "up"), ("price", "down"), ("cvd", "spot"), ("cvd", "perp"), ("open_interest", "interest"),
    ("score", "part1"), ("score", "ink"), ("equity", "equity"), ("equity", "hold"), ("drawdown", "down"),
)  # fmt: skip


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_every_chart_draws_its_rows_in_its_colours(open_page: Callable[..., Opened], width: int, theme: str) -> None:
    page = open_page(width, theme).page
    run = pages.sample().page.runs[0]
    drawn = charts(page)
    assert tuple(drawn) == CHARTS
    for name in CHARTS:
        pack = run.equity if name in ("equity", "drawdown") else run.series[0].base
        assert drawn[name]["points"] == pack.count, name
        assert (drawn[name]["from"], drawn[name]["to"]) == (run.start_s, run.end_s)
        assert page.evaluate(INK, name) > 500, name
    for name, colour in COLOURS:
        assert page.evaluate(SHOWS, [name, colour]) > 20, (name, colour)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than its window"


def test_minutes_hold_the_values_of_their_rows(open_page: Callable[..., Opened]) -> None:
    page = open_page().page
    columns = pages.sample().columns["BTC"]
    minute = columns["ts"] // 60
    for at in np.unique(minute)[[0, 777, -1]]:
        rows = np.flatnonzero(minute == at)
        value = {
            name: page.evaluate("([name, ts]) => squeezeflow.value('price', name, ts)", [name, at * 60 + 31])
            for name in ("open", "high", "low", "close", "spot_cvd", "perp_cvd", "open_interest", "score")
        }
        assert value["open"] == columns["open"][rows[0]]
        assert value["high"] == columns["high"][rows].max()
        assert value["low"] == columns["low"][rows].min()
        for name in ("close", "spot_cvd", "perp_cvd", "open_interest", "score"):
            assert value[name] == columns[name][rows[-1]], name


def test_near_a_trade_each_second_holds_the_value_of_its_row(open_page: Callable[..., Opened]) -> None:
    page = open_page().page
    sample = pages.sample()
    trade, columns = sample.page.runs[0].trades[3], sample.columns["BTC"]
    near(page, trade.entry_ts - 10, trade.entry_ts + 10)
    assert {one["finest"] for name, one in charts(page).items() if name in CHARTS[:4]} == {1}
    assert charts(page)["price"]["points"] in (20, 21)
    for ts in (trade.entry_ts - 9, trade.entry_ts, trade.entry_ts + 7):
        row = int(np.searchsorted(columns["ts"], ts))
        assert page.evaluate("ts => squeezeflow.row('cvd', ts)", ts) == ts
        for name in ("open", "high", "low", "close", "spot_cvd", "perp_cvd", "open_interest", "score", "absorption"):
            chart = {"spot_cvd": "cvd", "perp_cvd": "cvd", "open_interest": "open_interest"}.get(name, "price")
            held = page.evaluate("([c, n, ts]) => squeezeflow.value(c, n, ts)", [chart, name, ts])
            assert held == columns[name][row], (name, ts)
    for name in CHARTS[:3]:
        assert page.evaluate(INK, name) > 100, name


def test_a_minute_that_seconds_cover_in_part_stays_whole(open_page: Callable[..., Opened]) -> None:
    page = open_page().page
    trade = pages.sample().page.runs[0].trades[3]
    near(page, trade.entry_ts - 600, trade.entry_ts + 60)
    first = trade.entry_ts - 300
    assert first % 60 >= 5, "this trade's seconds begin with a minute: choose another"
    minute = first // 60 * 60
    assert page.evaluate("ts => squeezeflow.row('price', ts)", first + 1) == minute
    assert page.evaluate("ts => squeezeflow.row('price', ts)", minute + 1) == minute
    assert page.evaluate("ts => squeezeflow.row('price', ts)", minute + 61) == minute + 61


def test_a_long_runs_page_knows_steps_from_afar_minutes_beside_and_seconds_at_a_trade(
    open_page: Callable[..., Opened],
) -> None:
    page = open_page(step_s=300).page
    sample = pages.sample(step_s=300)
    trade, columns = sample.page.runs[0].trades[3], sample.columns["BTC"]
    quiet = next(
        ts
        for ts in range(int(columns["ts"][0]), int(columns["ts"][-1]), 300)
        if all(abs(ts - at) > 900 for t in sample.page.runs[0].trades for at in (t.entry_ts, t.exit_ts))
    )
    assert charts(page)["price"]["finest"] == 300
    assert page.evaluate("ts => squeezeflow.row('price', ts)", quiet + 299) == quiet
    near(page, trade.entry_ts - 600, trade.entry_ts + 600)
    for ts in (trade.entry_ts - 240, trade.entry_ts, trade.entry_ts + 240):  # in whole minutes of seconds
        assert page.evaluate("ts => squeezeflow.row('price', ts)", ts) == ts
        row = int(np.searchsorted(columns["ts"], ts))
        assert page.evaluate("ts => squeezeflow.value('cvd', 'perp_cvd', ts)", ts) == columns["perp_cvd"][row]
    first = trade.entry_ts - 300
    beside = first // 60 * 60
    assert first > beside >= first // 300 * 300
    assert page.evaluate("ts => squeezeflow.row('price', ts)", first - 1) == beside
    expect(page.locator(".charts .hint")).to_contain_text("rows of 5\u202fmin, of a minute near trades")


def test_the_score_shows_from_where_a_run_enters(open_page: Callable[..., Opened], tmp_path: Path) -> None:
    page = open_page().page
    expect(page.locator("#chart-score figcaption")).to_contain_text("dashed: it enters from 4")
    whole = pages.sample().page
    file = tmp_path / "unknown.html"
    run = msgspec.structs.replace(whole.runs[0], entry_score=None)
    file.write_bytes(squeezeview.render(msgspec.structs.replace(whole, runs=(run,))))
    other = open_page(file=file).page
    expect(other.locator("#chart-score figcaption")).not_to_contain_text("dashed")
    drawn, bare = (one.evaluate(SHOWS, ["score", "muted"]) for one in (page, other))
    assert drawn - bare > 300, "two dashed lines through the whole chart"


def test_an_edge_that_is_not_settled_does_not_look_like_one(open_page: Callable[..., Opened], tmp_path: Path) -> None:
    whole = pages.sample().page
    verdict = msgspec.structs.replace(whole.runs[0].verdict, word="edge", provisional=True)
    file = tmp_path / "provisional.html"
    run = msgspec.structs.replace(whole.runs[0], verdict=verdict)
    file.write_bytes(squeezeview.render(msgspec.structs.replace(whole, runs=(run,))))
    head = open_page(file=file).page.locator(".verdict h2")
    expect(head).to_contain_text("edge, provisional")
    expect(head).to_have_class("even")


def test_the_crosshair_reads_the_second_under_it(open_page: Callable[..., Opened]) -> None:
    page = open_page().page
    sample = pages.sample()
    trade, columns = sample.page.runs[0].trades[3], sample.columns["BTC"]
    near(page, trade.entry_ts - 10.5, trade.entry_ts + 9.5)
    box = page.locator("#chart-price .u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + 40)  # half a second after the entry's second began
    settle(page)
    row = int(np.searchsorted(columns["ts"], trade.entry_ts))
    expect(page.locator(".legend .when dd")).to_contain_text("the 1")
    expect(page.locator(".legend .v-close dd")).to_have_text(f"{columns['close'][row]:,.1f}")


def test_a_hole_is_a_hole(open_page: Callable[..., Opened]) -> None:
    page = open_page().page
    quality = pages.sample().page.runs[0].quality[0]
    start, end = quality.holes[0]
    assert page.evaluate("ts => squeezeflow.value('price', 'close', ts)", (start + end) // 2) is None
    page.evaluate("([from, to]) => squeezeflow.zoom(from, to)", [start + 60, end - 60])
    settle(page)
    assert page.evaluate(SHOWS, ["open_interest", "interest"]) == 0, "a line was drawn through the hole"


def test_a_click_on_a_trade_tells_why_and_moves_the_charts(open_page: Callable[..., Opened]) -> None:
    page = open_page().page
    trade = pages.sample().page.runs[0].trades[4]
    page.locator(f'#trades tr[data-key="{trade.number}"]').click()
    panel = page.locator("aside.panel")
    assert trade.entry_why is not None
    assert trade.exit_why is not None
    expect(panel).to_contain_text(trade.entry_why.title)
    expect(panel).to_contain_text(trade.exit_why.title)
    for part in trade.entry_why.parts:
        expect(panel.locator(".parts")).to_contain_text(part.label)
    for value in trade.entry_why.inputs:
        row = panel.locator(".inputs").first.locator("tr", has_text=value.label).first
        expect(row).to_contain_text(value.text)
        expect(row).to_contain_text(value.threshold or value.text)
    settle(page)
    state = charts(page)
    assert all(state[name]["from"] < trade.entry_ts < trade.exit_ts < state[name]["to"] for name in CHARTS)
    assert state["price"]["to"] - state["price"]["from"] < 3 * (trade.hold_s + 600)
    expect(page.locator("#chart-price")).to_be_in_viewport()


def test_keys_reach_the_charts_and_the_trades(open_page: Callable[..., Opened]) -> None:
    page = open_page().page
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    group = page.locator(".charts")
    group.focus()
    whole = charts(page)["price"]
    for key in ("+", "+", "+"):
        page.keyboard.press(key)
    settle(page)
    close = charts(page)["price"]
    assert close["to"] - close["from"] == pytest.approx((whole["to"] - whole["from"]) * 0.7**3)
    page.keyboard.press("ArrowLeft")
    settle(page)
    assert charts(page)["equity"]["from"] < close["from"]
    page.keyboard.press("0")
    settle(page)
    assert charts(page)["price"] == whole

    page.locator('#trades tr[data-key="1"]').focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    panel = page.locator("aside.panel")
    expect(panel).to_be_focused()
    expect(panel.locator("h2")).to_contain_text("Trade 3")
    page.keyboard.press("ArrowRight")
    expect(panel.locator("h2")).to_contain_text("Trade 4")
    page.keyboard.press("Escape")
    expect(panel).to_have_count(0)
    expect(page.locator('#trades tr[data-key="4"]')).to_be_focused()


def test_the_crosshair_moves_by_keys_and_is_spoken(open_page: Callable[..., Opened]) -> None:
    page = open_page().page
    page.locator(".charts").focus()
    page.keyboard.press("Shift+ArrowRight")
    expect(page.locator(".charts [aria-live=polite]")).to_contain_text("UTC: Price")
    expect(page.locator(".charts [aria-live=polite]")).to_contain_text("Equity")


def test_the_receipt_is_copied_or_says_why_not(open_page: Callable[..., Opened]) -> None:
    page = open_page().page
    page.get_by_role("button", name="Copy run id").click()
    expect(page.locator("#receipt output")).to_contain_text("run id:")


def test_heads_sort_the_trades(open_page: Callable[..., Opened]) -> None:
    page = open_page().page
    trades = pages.sample().page.runs[0].trades
    head = page.locator("#trades th", has_text="Result").first
    head.locator("button").click()
    expect(head).to_have_attribute("aria-sort", "descending")
    best = max(trades, key=lambda trade: trade.pnl_usd)
    expect(page.locator("#trades tbody tr").first).to_have_attribute("data-key", str(best.number))
    head.locator("button").click()
    worst = min(trades, key=lambda trade: trade.pnl_usd)
    expect(page.locator("#trades tbody tr").first).to_have_attribute("data-key", str(worst.number))


def test_dragging_and_the_wheel_move_all_charts_together(open_page: Callable[..., Opened]) -> None:
    page = open_page().page
    box = page.locator("#chart-price .u-over").bounding_box()
    assert box is not None
    middle = (box["x"] + box["width"] / 2, box["y"] + 60)
    page.mouse.click(*middle)
    page.mouse.wheel(0, -400)
    settle(page)
    before = charts(page)
    assert len({(one["from"], one["to"]) for one in before.values()}) == 1
    whole = pages.sample().page.runs[0]
    assert before["price"]["to"] - before["price"]["from"] < whole.end_s - whole.start_s
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 100, middle[1], steps=4)
    page.mouse.up()
    settle(page)
    after = charts(page)
    assert len({(one["from"], one["to"]) for one in after.values()}) == 1
    length = before["price"]["to"] - before["price"]["from"]
    moved = before["price"]["from"] - after["price"]["from"]
    assert moved == pytest.approx(length * 100 / box["width"], rel=0.02)


def test_the_theme_can_be_switched_and_reaches_the_canvases(open_page: Callable[..., Opened]) -> None:
    page = open_page().page
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("button.theme").click()
    settle(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    assert page.evaluate(SHOWS, ["cvd", "spot"]) > 20


def test_a_run_without_trades_is_a_page(open_page: Callable[..., Opened]) -> None:
    page = open_page(390, days=1, trades_a_day=0).page
    expect(page.locator(".verdict h2")).to_contain_text("too few trades")
    expect(page.locator("#trades")).to_contain_text("No trade was made")
    assert tuple(charts(page)) == CHARTS


def test_assets_are_switched_and_a_trade_brings_its_own(open_page: Callable[..., Opened]) -> None:
    page = open_page(days=2, assets=("BTC", "ETH")).page
    sample = pages.sample(days=2, assets=("BTC", "ETH"))
    page.get_by_role("group", name="Asset").get_by_role("button", name="ETH").click()
    settle(page)
    ts = int(sample.columns["ETH"]["ts"][30])
    expect(page.locator("#chart-price figcaption")).to_contain_text("ETH-USDT-PERP")
    assert page.evaluate("ts => squeezeflow.value('price', 'open', ts)", ts) == sample.columns["ETH"]["open"][0]
    trade = next(trade for trade in sample.page.runs[0].trades if trade.asset == "BTC")
    page.evaluate("number => squeezeflow.select(number)", trade.number)
    expect(page.locator("#chart-price figcaption")).to_contain_text("BTC-USDT-PERP")


@pytest.mark.parametrize("width", [390, 1280])
def test_several_runs_stand_side_by_side(open_page: Callable[..., Opened], width: int) -> None:
    page = open_page(width, "dark", runs=3).page
    sample = pages.sample(runs=3)
    comparison = sample.page.comparison
    assert comparison is not None
    assert tuple(charts(page)) == ("overlaid", *CHARTS)
    for number in range(3):
        assert page.evaluate(SHOWS, ["overlaid", f"run{number}"]) > 20
    expect(page.locator(".sides thead th")).to_have_count(4)
    expect(page.locator("section", has=page.locator("#differ")).locator("tbody tr")).to_have_count(
        min(50, len(comparison.differences))
    )
    expect(page.locator("section", has=page.locator("#asked"))).to_contain_text("params.entry_score")
    page.get_by_role("group", name="Run shown below").get_by_role("button").nth(1).click()
    expect(page.locator("#trades-title")).to_have_text(f"Trades ({len(sample.page.runs[1].trades)})")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than its window"


def test_many_moves_within_a_frame_draw_once(open_page: Callable[..., Opened]) -> None:
    """A hand moves more often than a screen: smooth is what does not draw in vain."""
    page = open_page().page
    page.evaluate("squeezeflow.drawing()")
    whole = pages.sample().page.runs[0]
    page.evaluate(
        """async ([from, to]) => {
          for (let frame = 0; frame < 5; frame++) {
            for (let n = 1; n < 20; n++) squeezeflow.zoom(from + n * 60 + frame, to - n * 600 - frame);
            await new Promise(requestAnimationFrame);
          }
          await new Promise(requestAnimationFrame);
        }""",
        [whole.start_s, whole.end_s],
    )
    assert page.evaluate("squeezeflow.drawing().times") <= 6 * len(CHARTS)
