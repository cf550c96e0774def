"""The live dashboard in a real browser, against a server whose every value is known: it moves, finds, explains and asks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

import squeezeview
from squeezecore.spec import Limits
from squeezecore.squeeze import SqueezeParams
from support import dash_server
from support.browsing import INK, SHOWS, charts, settle
from support.dash_server import START, TOKEN, Served, columns, line, opened, row, series_of, until

CHARTS = ("price", "cvd", "open_interest", "funding", "score")
PAGES = {"": "Overview", "asset/BTC": "BTC", "trading": "Trading", "quality": "Data quality", "runs": "Backtests"}
SIZES = [
    *((page, width, "light") for page in PAGES for width in (390, 1280)),
    *(("asset/BTC", width, theme) for width, theme in ((390, "dark"), (1280, "dark"), (1920, "light"), (1920, "dark"))),
]
# What a browser says by itself of an answer that is a refusal, or of a server that is gone.
REFUSED = "Failed to load resource: the server responded with a status of"
GONE = ("Failed to load resource: net::ERR_", "ERR_INCOMPLETE_CHUNKED_ENCODING")


class Live(NamedTuple):
    """An open dashboard and the server it lives of."""

    page: Page
    server: Served


@pytest.fixture
def served() -> Iterator[Served]:
    assert squeezeview.live_built(), "the dashboard was not built: run make web (Debian: apt install nodejs npm)"
    with dash_server.served() as server:
        yield server


@pytest.fixture
def live(browser: Browser, served: Served) -> Iterator[Callable[..., Live]]:
    """Open pages of the dashboard."""
    with ExitStack() as stack:

        def start(name: str = "", width: int = 1280, theme: str = "light", *, allowed: tuple[str, ...] = ()) -> Live:
            page = opened(browser, served.url, name, width=width, theme=theme, allowed=allowed)
            return Live(stack.enter_context(page), served)

        yield start


def drawn(page: Page, columns_: int = 1) -> None:
    """Wait until the charts hold rows."""
    page.wait_for_selector("#chart-score canvas")
    until(page, f"squeezeflow.charts().every((chart) => chart.points > {columns_})")


def hold(tried: Live) -> int:
    """Stop the clock and wait until the page has all of it; return the newest second."""
    world = tried.server.world
    world.held = world.ts
    until(tried.page, "ts => squeezeflow.seconds()?.last === ts", world.held)
    return world.held


def spoken(page: Page, selector: str) -> str:
    return page.locator(selector).first.inner_text()


# --- each page, in each window ---


@pytest.mark.parametrize(("name", "width", "theme"), SIZES)
def test_a_page_stands_in_every_window_and_moves(live: Callable[..., Live], name: str, width: int, theme: str) -> None:
    page = live(name, width, theme).page
    moving = {
        "": 'tr[data-asset="BTC"] .k-close', "asset/BTC": ".headvalues strong", "trading": '.data[class~="opens"] tbody td:nth-child(6)',
        "quality": '[aria-label="Services"] tbody td:nth-child(3)', "runs": ".progress small",
    }[name]  # fmt: skip
    expect(page.locator("main h2").first).to_contain_text(PAGES[name])
    expect(page.locator(moving).first).to_have_text(re.compile(r"\d"))
    before = spoken(page, moving)
    expect(page.locator(moving).first).not_to_have_text(before)
    until(page, "squeezeflow.seconds().received > 5")
    assert page.evaluate("squeezeflow.seconds().missing") == []
    expect(page.locator(".line .clock")).to_contain_text("UTC")
    if name == "asset/BTC":
        drawn(page)
        for chart in CHARTS:
            assert page.evaluate(INK, chart) > 200, chart
        for chart, colour in (("price", "up"), ("price", "down"), ("cvd", "spot"), ("cvd", "perp")):
            assert page.evaluate(SHOWS, [chart, colour]) > 20, (chart, colour)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than its window"


# --- all assets ---


def test_the_board_shows_what_the_stream_says(live: Callable[..., Live]) -> None:
    tried = live()
    ts = hold(tried)
    page = tried.page
    expect(page.locator("tbody tr")).to_have_count(len(dash_server.ASSETS))
    for asset in ("BTC", "SOL"):
        said = dict(zip(dash_server.NAMES, line(asset, ts), strict=True))
        place = page.locator(f'tr[data-asset="{asset}"]')
        expect(place.locator(".k-chg24h")).to_have_text(_signed(said["chg24h_pct"], 2))
        for name, window, z in (("zspot", "5m", said["z_spot"][0]), ("zperp", "4h", said["z_perp"][3])):
            cell = place.locator(f".k-{name}-{window}")
            expect(cell).to_have_text(_signed(z, 1))
            tone = "up" if z > 0 else "down"
            assert (f"heat {tone}" in (cell.get_attribute("class") or "")) == (abs(z) >= 0.5)
        expect(place.locator(".k-funding")).to_have_text(_signed(said["funding_8h_bp"], 2))
        expect(place.locator(".k-basis")).to_have_text(_signed(said["basis_bp"], 1))


def _signed(value: float, decimals: int) -> str:
    text = f"{abs(value):,.{decimals}f}"
    return text if float(text.replace(",", "")) == 0 else f"{'−' if value < 0 else '+'}{text}"


def test_the_board_is_sorted_searched_and_walked_by_keys(live: Callable[..., Live]) -> None:
    tried = live()
    hold(tried)
    page = tried.page
    rows = page.locator("tbody tr")
    head = page.locator("th.k-close")
    head.locator("button").click()
    expect(head).to_have_attribute("aria-sort", "descending")
    expect(rows.first).to_have_attribute("data-asset", "BTC")
    head.locator("button").click()
    expect(rows.last).to_have_attribute("data-asset", "BTC")
    page.keyboard.press("/")
    field = page.get_by_role("searchbox")
    expect(field).to_be_focused()
    page.keyboard.type("l")
    expect(rows).to_have_count(3)  # LINK, LTC, SOL
    page.keyboard.press("ArrowDown")
    expect(rows.first).to_be_focused()
    page.keyboard.press("ArrowDown")
    second = rows.nth(1)
    expect(second).to_be_focused()
    asset = second.get_attribute("data-asset")
    page.keyboard.press("Enter")
    expect(page.locator("#asset-title")).to_contain_text(str(asset))
    page.get_by_role("button", name="Back to all assets").click()
    expect(page.locator("tbody tr")).to_have_count(len(dash_server.ASSETS))


def test_a_search_that_finds_nothing_says_so(live: Callable[..., Live]) -> None:
    page = live().page
    page.get_by_role("searchbox").fill("zzz")
    expect(page.locator(".empty")).to_contain_text("No asset has “zzz”")


def test_lines_change_in_place(live: Callable[..., Live]) -> None:
    """A line is the same element second after second: nothing blinks, a focus stays."""
    page = live().page
    page.locator("th.k-zspot-5m button").click()
    line_ = page.locator('tr[data-asset="ETH"]')
    line_.focus()
    page.evaluate("window.before = document.querySelector('tr[data-asset=\"ETH\"]')")
    seen = page.evaluate("squeezeflow.seconds().received")
    until(page, "n => squeezeflow.seconds().received > n + 40", seen)
    assert page.evaluate(
        "window.before === document.querySelector('tr[data-asset=\"ETH\"]') && window.before.isConnected"
    )
    expect(line_).to_be_focused()


# --- one asset ---


def value(page: Page, chart: str, name: str, ts: int) -> float | None:
    return page.evaluate("([chart, name, ts]) => squeezeflow.value(chart, name, ts)", [chart, name, ts])


def between(page: Page, name: str, first: int, last: int) -> float:
    held = [value(page, "cvd", name, ts) for ts in (first, last)]
    assert None not in held, (name, first, last, held)
    return held[1] - held[0]


def total(name: str, start: int, end: int) -> float:
    return float(columns("BTC", np.arange(start, end))[name.replace("cvd", "delta")].sum())


def test_seconds_of_the_stream_and_of_the_store_are_drawn_as_they_are(live: Callable[..., Live]) -> None:
    tried = live("asset/BTC")
    ts, page = hold(tried), tried.page
    until(page, "ts => squeezeflow.value('price', 'close', ts) !== null", ts - 800)
    for at in (ts, ts - 100, ts - 239, ts - 240, ts - 241, ts - 800):
        said = row("BTC", at)
        assert page.evaluate("ts => squeezeflow.row('price', ts)", at) == at
        for name in ("open", "high", "low", "close", "open_interest"):
            assert value(page, "price", name, at) == pytest.approx(said[name], rel=1e-12), (name, at)
        assert value(page, "score", "score", at) == pytest.approx(said["score"] * (said["direction"] or 1)), at
        assert value(page, "funding", "funding_bps", at) == pytest.approx(1e4 * said["funding_rate_8h"])
    for name in ("spot_cvd", "perp_cvd"):
        assert between(page, name, ts - 800, ts) == total(name, ts - 799, ts + 1)


@pytest.mark.parametrize("text", ["5 s", "1 min", "5 min", "15 min"])
def test_a_row_that_the_stream_goes_on_with_is_whole(live: Callable[..., Live], text: str) -> None:
    """Longer rows are part store, part stream; where they meet, no second is lost and none counted twice."""
    tried = live("asset/BTC")
    ts, page = hold(tried), tried.page
    step = {"5 s": 5, "1 min": 60, "5 min": 300, "15 min": 900}[text]
    page.get_by_role("group", name="Timeframe").get_by_role("button", name=text, exact=True).click()
    end = ts // step * step  # where the newest row begins
    until(
        page,
        "([ts, step]) => squeezeflow.charts()[0].finest === step && squeezeflow.row('price', ts) === ts",
        [end - 12 * step, step],
    )
    until(page, "ts => squeezeflow.row('price', ts) === ts", end - max(step, 240) // step * step)
    page.wait_for_selector(".loadstate:empty", state="attached")
    settle(page)
    first = end - 12 * step
    for name in ("spot_cvd", "perp_cvd"):
        assert between(page, name, first, ts) == total(name, first + step, ts + 1), name
    told = series_of("BTC", first, ts + 1, step, ts)
    for at, high, low, close in zip(told["ts"], told["high"], told["low"], told["close"], strict=True):
        for name, expected in (("high", high), ("low", low), ("close", close)):
            assert value(page, "price", name, at) == pytest.approx(expected, rel=1e-12), (name, at)


def test_scrolling_back_loads_what_the_screen_needs(live: Callable[..., Live]) -> None:
    tried = live("asset/BTC")
    page, world = tried.page, tried.server.world
    hold(tried)
    page.wait_for_selector("#chart-score canvas")
    day = START - 3 * 86_400
    until(page, "from => { squeezeflow.zoom(from, from + 86400); return squeezeflow.charts()[0].from === from; }", day)
    until(page, "from => squeezeflow.value('price', 'close', from + 43200) !== null", day)
    asked = [re.search(r"/series\?from=(\d+)&to=(\d+)&step=(\d+)", path) for path in world.seen]
    spans = [[int(number) for number in found.groups()] for found in asked if found]
    steps = {step for first, last, step in spans if first < day + 86_400 and last > day}
    assert steps == {300}  # a day on some 1,200 px
    told = series_of("BTC", day + 36_000, day + 39_600, 300, world.ts)
    for at, close, low in zip(told["ts"], told["close"], told["low"], strict=True):
        assert value(page, "price", "close", at) == pytest.approx(close)
        assert value(page, "price", "low", at) == pytest.approx(low)
    until(page, "from => { squeezeflow.zoom(from, from + 60); return squeezeflow.charts()[0].from === from; }", day)
    until(page, "from => squeezeflow.row('price', from + 30) === from + 30", day)
    assert value(page, "price", "close", day + 30) == pytest.approx(row("BTC", day + 30)["close"])
    page.get_by_role("button", name="to now").click()
    expect(page.get_by_role("button", name="following")).to_be_visible()


def test_the_charts_follow_the_newest_second_until_somebody_looks_back(live: Callable[..., Live]) -> None:
    page = live("asset/BTC").page
    drawn(page)
    before = charts(page)["price"]
    until(page, "to => squeezeflow.charts()[0].to > to + 3", before["to"])
    after = charts(page)["price"]
    assert after["to"] - after["from"] == before["to"] - before["from"]
    page.locator(".charts").focus()
    page.keyboard.press("ArrowLeft")
    settle(page)
    held = charts(page)["price"]
    seen = page.evaluate("squeezeflow.seconds().received")
    until(page, "n => squeezeflow.seconds().received > n + 5", seen)
    assert charts(page)["price"]["to"] == held["to"]


@pytest.mark.parametrize("ago", [40, 2_000])
def test_the_crosshair_shows_the_whole_row_of_its_second(live: Callable[..., Live], ago: int) -> None:
    tried = live("asset/BTC")
    ts, page = hold(tried), tried.page
    page.wait_for_selector("#chart-score canvas")
    at = ts - ago
    until(page, "at => { squeezeflow.zoom(at - 10.5, at + 9.5); return squeezeflow.row('price', at) === at; }", at)
    settle(page)
    box = page.locator("#chart-price .u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + 40)  # half a second after its second began
    said = row("BTC", at)
    whole = page.locator(".wholerow")
    expect(whole.locator("h3 small").first).to_have_attribute("data-ts", str(at))
    expect(whole.locator(".r-close dd")).to_have_text(f"{said['close']:,.2f}")
    expect(whole.locator(".r-open dd")).to_have_text(f"{said['open']:,.2f}")
    expect(whole.locator(".r-basis_bps dd")).to_have_text(f"{_signed(said['basis_bps'], 2)} bp")
    expect(whole.locator(".r-score dd")).to_have_text(f"{abs(said['score']):.3f} of 10")
    expect(page.locator(".legend .v-close dd")).to_have_text(f"{said['close']:,.2f}")
    expect(page.locator(".legend .when dd")).to_contain_text("the 1")


def test_both_cvds_begin_at_the_anchor_that_was_chosen(live: Callable[..., Live]) -> None:
    tried = live("asset/BTC")
    ts, page = hold(tried), tried.page
    page.wait_for_selector("#chart-score canvas")
    page.get_by_role("button", name="UTC day").click()
    midnight = ts // 86_400 * 86_400
    for name in ("spot_cvd", "perp_cvd"):
        until(
            page,
            "([name, ts, sum]) => squeezeflow.value('cvd', name, ts) === sum",
            [name, ts, total(name, midnight, ts + 1)],
        )
    box = page.locator("#chart-cvd .u-over").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 30)
    middle = ts + 1 - 450
    until(page, "ts => Math.abs(squeezeflow.value('cvd', 'spot_cvd', ts - 1)) === 0", middle)
    assert value(page, "cvd", "perp_cvd", ts) == total("perp_cvd", middle, ts + 1)


def test_a_click_on_a_signal_tells_its_reasons_and_what_was_stored(live: Callable[..., Live]) -> None:
    tried = live("asset/BTC")
    ts, page = hold(tried), tried.page
    at = (ts - 140) // 60 * 60 + 20
    said = dash_server.decision(at)
    page.wait_for_selector("#chart-score canvas")
    page.get_by_role("group", name="Signals").wait_for()
    until(page, "at => { squeezeflow.zoom(at - 20.5, at + 19.5); return squeezeflow.row('price', at) === at; }", at)
    settle(page)
    box = page.locator("#chart-price .u-over").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.525, box["y"] + box["height"] - 20)
    panel = page.locator("aside.panel")
    expect(panel).to_be_focused()
    expect(panel.locator("h2")).to_contain_text("Signal")
    stored = panel.locator(".stored li")
    expect(stored).to_contain_text("an entry was ordered")
    expect(stored).to_contain_text(f"score {said.score_milli / 1000:.3f}")
    expect(stored).to_contain_text(said.order_id)
    why = panel.locator(".why")
    expect(why).to_contain_text("Shorts trapped, score 5.125 of 10")
    for words in (
        "Reset deceleration",
        "Absorption",
        "Directional bias",
        "an imbalance from 1.5 swings",
        "at most 90 s old",
    ):
        expect(why).to_contain_text(words)
    page.keyboard.press("ArrowLeft")
    expect(panel.locator("h2")).to_contain_text(dash_server.clock(at - 60))
    page.keyboard.press("Escape")
    expect(panel).to_have_count(0)


def test_a_signal_appears_as_it_is_said(live: Callable[..., Live]) -> None:
    tried = live("asset/BTC")
    page = tried.page
    drawn(page)
    before = tried.server.world.ts
    until(page, "ts => squeezeflow.seconds().last % 60 > 25 && squeezeflow.seconds().last > ts + 10", before)
    ts = hold(tried)
    page.get_by_role("button", name="Signal before").click()
    at = (ts - 20) // 60 * 60 + 20
    expect(page.locator("aside.panel h2")).to_contain_text(dash_server.clock(at))


def test_an_asset_that_nobody_watches_is_said_to_be_so(browser: Browser, served: Served) -> None:
    page = browser.new_context().new_page()
    page.goto(f"{served.url}/#/asset/NOPE")
    expect(page.locator(".line")).to_contain_text("asset was 'NOPE', it is not watched")
    page.context.close()


# --- trading ---


def test_the_kill_switch_asks_says_and_shows(live: Callable[..., Live]) -> None:
    tried = live("trading", allowed=(REFUSED,))
    page, world = tried.page, tried.server.world
    expect(page.locator(".switches")).to_contain_text("active")
    page.get_by_role("button", name="Kill switch").click()
    box = page.locator("dialog")
    expect(box).to_contain_text("end all positions at market: sell 0.2500 BTC")
    press = box.get_by_role("button", name="End everything of paper")
    expect(press).to_be_disabled()
    box.locator("[name=token]").fill("wrong")
    box.locator("[name=reason]").fill("a drill")
    press.click()
    expect(box.get_by_role("alert")).to_contain_text("It was refused: a token with the role executor is needed")
    assert world.killed == ""
    box.locator("[name=token]").fill(TOKEN)
    press.click()
    expect(box.locator(".done")).to_contain_text("the kill switch is on")
    expect(box.locator(".done")).to_contain_text("a drill")
    expect(box.locator(".left")).to_contain_text("Nothing is held any more")
    assert world.killed == "a drill"
    box.locator(".done").get_by_role("button", name="Close").click()
    expect(page.locator(".switches")).to_contain_text("killed")
    expect(page.locator(".trading > .empty").first).to_contain_text("Nothing is held")
    assert all(TOKEN not in path for path in world.seen), "the token was in an address"
    assert page.evaluate("JSON.stringify([sessionStorage, localStorage, document.cookie])") == '[{},{},""]'


def test_trading_is_resumed_by_the_accounts_name(live: Callable[..., Live]) -> None:
    tried = live("trading")
    page, world = tried.page, tried.server.world
    world.killed, world.killed_ts = "a drill", START
    page.get_by_role("button", name="Resume trading").click()
    box = page.locator("dialog")
    box.locator("[name=token]").fill(TOKEN)
    box.locator("[name=reason]").fill("over")
    press = box.get_by_role("button", name="Trade again")
    box.locator("[name=confirm]").fill("papers")
    expect(press).to_be_disabled()
    box.locator("[name=confirm]").fill("paper")
    press.click()
    expect(box.locator(".done")).to_contain_text("the state is active")
    assert world.killed == ""


def test_limits_show_how_much_of_each_is_used(live: Callable[..., Live]) -> None:
    page = live("trading").page
    lines = page.locator(".limits tbody tr")
    drawdown = lines.filter(has_text="Drawdown")
    share = 0.22 / Limits().drawdown_max
    expect(drawdown).to_contain_text(f"{100 * share:.0f}")
    expect(drawdown).to_have_class("near")
    expect(lines.filter(has_text="Open positions")).to_contain_text(str(Limits().open_positions_max))


def test_an_executor_that_is_not_there_is_said_in_words(live: Callable[..., Live]) -> None:
    tried = live("trading", allowed=(REFUSED,))
    page = tried.page
    tried.server.world.executor = False
    page.reload()
    expect(page.locator(".switches")).to_contain_text("The trading state cannot be shown: the executor does not answer")
    expect(page.locator(".switches").get_by_role("button", name="Kill switch")).to_be_visible()
    expect(page.locator("#chart-equity canvas")).to_be_visible()
    expect(page.locator('[aria-label="Fills"] tbody tr').first).to_be_visible()


def test_what_is_held_is_never_shown_as_if_it_were_of_now(live: Callable[..., Live]) -> None:
    tried = live("trading", allowed=GONE)
    page, server = tried.page, tried.server
    expect(page.locator(".limits tbody tr").first).to_be_visible()
    server.pull()
    expect(page.locator(".trading > .warning")).to_contain_text(
        "Not of now, shown as it was: positions (the server does"
    )
    expect(page.locator('[aria-label="Positions"] tbody tr')).to_have_count(1)
    server.plug()
    expect(page.locator(".trading > .warning")).to_have_count(0, timeout=20_000)


# --- data quality ---


def test_each_market_tells_how_whole_it_is(live: Callable[..., Live]) -> None:
    page = live("quality").page
    lines = page.locator('[aria-label="Data quality by market"] tbody tr')
    expect(lines).to_have_count(20)
    one = lines.filter(has_text="okx:BTC-USDT")
    expect(one).to_contain_text("running, silent")
    expect(one).to_contain_text("closed by the venue (1006)")
    expect(one.locator(".strip").first.locator("rect")).to_have_count(60)
    expect(one.locator(".strip").nth(1).locator("rect")).to_have_count(24)
    expect(one.locator(".strip").first.locator(".level1")).to_have_count(3)


# --- backtests ---


def test_the_form_asks_for_what_differs_within_its_limits(live: Callable[..., Live]) -> None:
    tried = live("runs", allowed=(REFUSED,))
    page, world = tried.page, tried.server.world
    page.get_by_role("button", name="New backtest").click()
    form = page.locator("form.newrun")
    expect(form.locator("details")).to_have_count(3)
    form.locator("summary").first.click()
    field = form.locator('[name="params.entry_score"]')
    expect(field).to_have_value(f"{SqueezeParams().entry_score:g}")
    field.fill("11")
    expect(form.locator("ul.warning")).to_contain_text("the limit is ≥ 0, ≤ 10")
    expect(form.get_by_role("button", name="Run it")).to_be_disabled()
    field.fill("4.5")
    form.locator('[name="params.cooldown_s"]').fill(str(SqueezeParams().cooldown_s))  # the default, typed anew
    form.locator("summary").nth(1).click()
    form.locator('[name="costs.dated_fees"]').check()
    form.get_by_label("ADA").uncheck()
    form.locator('[name="assets"]').fill("btc, eth")
    form.locator('[name="start"]').fill("2025-12-30")
    form.locator('[name="end"]').fill("2025-12-31")
    form.get_by_role("button", name="Run it").click()
    box = page.locator("dialog")
    expect(box).to_contain_text("a token with the role writer is needed")
    box.locator("[name=token]").fill(TOKEN)
    box.get_by_role("button", name="Use it").click()
    expect(page.locator(".said")).to_contain_text("is queued")
    assert world.asked == [
        {
            "assets": ["BTC", "ETH"], "start": "2025-12-30", "end": "2025-12-31", "params": {"entry_score": 4.5},
            "costs": {"dated_fees": True},
        }
    ]  # fmt: skip
    expect(page.locator("tr", has_text="queued")).to_contain_text("entry score 4.5")


def test_runs_are_followed_compared_cancelled_and_taken_up_again(live: Callable[..., Live]) -> None:
    tried = live("runs")
    page, world = tried.page, tried.server.world
    running = page.locator(f'tr[data-run="{"b" * 32}"]')
    expect(running).to_contain_text("of 100 shards, about")
    running.get_by_role("button", name="Cancel").click()
    expect(running).to_contain_text("cancelled")
    running.get_by_role("button", name="Resume").click()
    expect(page.locator(".said")).to_contain_text("Resume bbbbbbbbbbbb: done")
    assert world.told["b" * 32] == 2
    for letter in "cd":
        page.locator(f'tr[data-run="{letter * 32}"] input').check()
    with page.context.expect_page() as opening:
        page.get_by_role("link", name="Compare 2 side by side").click()
    expect(opening.value).to_have_title("side by side")
    assert f"run={'c' * 32}&run={'d' * 32}" in opening.value.url
    with page.context.expect_page() as opening:
        page.locator(f'tr[data-run="{"c" * 32}"]').get_by_role("link", name="Report").click()
    expect(opening.value.locator("p")).to_have_text("c" * 32)


# --- the line ---


@pytest.mark.parametrize("name", ["", "asset/BTC"])
def test_a_pulled_plug_loses_no_second(live: Callable[..., Live], name: str) -> None:
    tried = live(name, allowed=GONE)
    page, server = tried.page, tried.server
    until(page, "squeezeflow.seconds().received > 5")
    if name:
        drawn(page)
    server.pull()
    expect(page.locator(".line")).to_contain_text("reconnecting since")
    expect(page.locator(".line")).to_have_class(re.compile("lost"))
    gone = page.evaluate("squeezeflow.seconds().last")
    while server.world.ts < gone + 30:
        page.evaluate("() => new Promise(requestAnimationFrame)")
    server.plug()
    expect(page.locator(".line")).to_have_class(re.compile(r"\bon\b"))
    until(page, "ts => squeezeflow.seconds().last > ts + 35", gone)
    told = page.evaluate("squeezeflow.seconds()")
    assert told["missing"] == []
    assert told["repeated"] == 0
    assert told["received"] == told["last"] - told["first"] + 1
    if name:
        for at in range(gone - 2, gone + 33):
            assert value(page, "price", "close", at) == pytest.approx(row("BTC", at)["close"]), at


def test_seconds_that_the_server_will_not_tell_again_are_loaded(live: Callable[..., Live]) -> None:
    """After a long absence a server says `gap`: the charts read those seconds from the store."""
    tried = live("asset/BTC", allowed=GONE)
    page, server = tried.page, tried.server
    drawn(page)
    server.pull()
    expect(page.locator(".line")).to_contain_text("reconnecting since")
    gone = page.evaluate("squeezeflow.seconds().last")
    while server.world.ts < gone + 30:
        page.evaluate("() => new Promise(requestAnimationFrame)")
    server.world.memory_s = 10
    server.plug()
    until(page, "ts => squeezeflow.seconds().last > ts + 35", gone)
    assert page.evaluate("squeezeflow.seconds().missing") == []
    until(page, "ts => squeezeflow.row('price', ts) === ts", gone + 12)
    for at in range(gone - 2, gone + 33):
        assert value(page, "price", "close", at) == pytest.approx(row("BTC", at)["close"]), at


# --- the rest ---


def test_keys_reach_everything(live: Callable[..., Live]) -> None:
    page = live().page
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    assert page.evaluate("location.hash") == "#/"
    page.keyboard.press("?")
    expect(page.locator("dialog")).to_contain_text("walk through a table")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def test_the_theme_can_be_switched_and_reaches_the_canvases(live: Callable[..., Live]) -> None:
    page = live("asset/BTC").page
    drawn(page)
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Switch to dark").click()
    settle(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    assert page.evaluate(SHOWS, ["cvd", "spot"]) > 20


def test_the_shell_holds_no_script_and_no_style_of_its_own() -> None:
    files = squeezeview.live()
    assert {name: kind.partition(";")[0] for name, (_, kind) in files.items()} == {
        "live.html": "text/html", "live.css": "text/css", "live.js": "text/javascript",
    }  # fmt: skip
    shell = files["live.html"][0].decode()
    assert re.findall(r"<script[^>]*>([^<]*)</script>", shell) == [""]
    assert "<style" not in shell
    assert " style=" not in shell
    assert len(re.findall(r'(?:src|href)="assets/live\.(?:js|css)\?[0-9a-f]{12}"', shell)) == 2
    assert b"http://" not in re.sub(rb"http://www\.w3\.org/\S+?[\"'`]", b"", files["live.css"][0])
    assert json.dumps(shell).count("https://") == 0
