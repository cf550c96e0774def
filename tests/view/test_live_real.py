"""The dashboard on a real reporting service: a simulated squeeze goes on second by second, and the page is read against the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

import squeezeview
from services.test_reporting import TOKEN, settings_of
from squeezecore.adapters import tradestore
from squeezecore.adapters.tradestore import live_run
from squeezecore.market import WARMUP_S
from squeezecore.squeeze import SqueezeParams, explain_second
from squeezecore.trading import USD_E8, Decision, Direction, Parts, Signal
from squeezecore.wire import Clock, Message, Standing
from support.boards import Feed, live_market
from support.browsing import INK, settle
from support.command import Market
from support.dash_server import clock, opened, until
from support.services import Service, started

ASSETS = ("BTC", "ETH")
EXECUTOR_TOKEN = "a-token-of-the-executors"
REFUSED = ("Failed to load resource: the server responded with a status of",)


class Real(NamedTuple):
    """What runs, and what it runs on."""

    market: Market
    feed: Feed
    reporting: Service
    executor: Service
    aside: ThreadPoolExecutor  # the browser has this thread's event loop, the feed needs one too

    @property
    def url(self) -> str:
        return str(self.reporting.http.base_url).rstrip("/")

    def publish(self, count: int) -> range:
        return self.aside.submit(self.feed.publish, count).result()

    def say(self, message: Message) -> None:
        self.aside.submit(self.feed.say, message).result()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    assert squeezeview.live_built(), "the dashboard was not built: run make web (Debian: apt install nodejs npm)"
    home, run = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("run")
    with ThreadPoolExecutor(1) as aside:
        made = live_market(home, ASSETS, 3_600)
        market, feed = aside.submit(made.__enter__).result()
        try:
            settings = settings_of(market, run)
            (run / "executor_token").write_text(EXECUTOR_TOKEN)
            settings["executor_token_file"] = run / "executor_token"
            with (
                started(run, ["-m", "squeeze_executor"], "executor", **settings) as executor,
                started(run, ["-m", "squeeze_reporting"], "reporting", **settings) as reporting,
            ):
                executor.listening().until(lambda: executor.get("/v1/switches").status_code == 200)
                all_ = Real(market, feed, reporting.ready(), executor, aside)
                usd = 100_000 * USD_E8
                standing = Standing(equity_usd_e8=usd, day_open_usd_e8=usd, week_open_usd_e8=usd, peak_usd_e8=usd)
                all_.say(Clock(account="paper", settled_ts=feed.next_ts - 1, standing=standing))
                last = all_.publish(300)[-1]
                reporting.until(lambda: reporting.get("/v1/board").json()["ts"] == last)
                yield all_
        finally:
            aside.submit(made.__exit__, None, None, None).result()


@pytest.fixture
def look(browser: Browser, real: Real) -> Iterator[Callable[..., Page]]:
    with ExitStack() as stack:

        def start(name: str = "", *, width: int = 1280, theme: str = "light", allowed: tuple[str, ...] = ()) -> Page:
            page = opened(browser, real.url, name, width=width, theme=theme, allowed=allowed)
            return stack.enter_context(page)

        yield start


def value(page: Page, chart: str, name: str, ts: int) -> float | None:
    return page.evaluate("([chart, name, ts]) => squeezeflow.value(chart, name, ts)", [chart, name, ts])


@pytest.mark.parametrize("width", [390, 1280])
def test_the_board_moves_with_the_market(real: Real, look: Callable[..., Page], width: int) -> None:
    page = look(width=width)
    expect(page.locator("tbody tr")).to_have_count(len(ASSETS))
    for _ in range(2):
        last = real.publish(3)[-1]
        until(page, "ts => squeezeflow.seconds().last === ts", last)
        for asset in ASSETS:
            scale = 10 ** real.feed.instruments[asset].price_decimals
            close = real.market.store.read_rows(asset, last, last + 1).close[0] / scale
            shown = page.locator(f'tr[data-asset="{asset}"] .k-close').inner_text()
            assert float(shown.replace(",", "")) == pytest.approx(close, rel=1e-4)
    assert page.evaluate("squeezeflow.seconds().missing") == []


@pytest.mark.parametrize(("width", "theme"), [(390, "light"), (1280, "dark"), (1920, "light")])
def test_an_assets_charts_are_the_stores_rows(real: Real, look: Callable[..., Page], width: int, theme: str) -> None:
    page = look("asset/BTC", width=width, theme=theme)
    last = real.publish(5)[-1]
    until(page, "ts => squeezeflow.seconds().last === ts", last)
    page.wait_for_selector("#chart-score canvas")
    start = last - (280 if width == 390 else 800)
    until(page, "ts => squeezeflow.row('price', ts) === ts", start)
    rows = real.market.store.read_rows("BTC", start, last + 1)
    scale = 10 ** real.feed.instruments["BTC"].price_decimals
    for at in (start, last - 245, last - 241, last - 240, last - 239, last - 1, last):
        row = at - start
        for name in ("open", "high", "low", "close"):
            assert value(page, "price", name, at) == getattr(rows, name)[row] / scale, (name, at)
    for name, deltas in (("spot_cvd", rows.spot_delta), ("perp_cvd", rows.perp_delta)):
        moved = value(page, "cvd", name, last) - value(page, "cvd", name, start)
        assert moved == pytest.approx(deltas[1:].sum() / 100, abs=0.01)
    for chart in ("price", "cvd", "open_interest"):
        assert page.evaluate(INK, chart) > 200, chart
    page.get_by_role("button", name="5 min", exact=True).click()
    begin = (last - 3_600) // 300 * 300
    until(page, "ts => squeezeflow.charts()[0].finest === 300 && squeezeflow.row('price', ts) === ts", begin)
    until(page, "ts => squeezeflow.row('price', ts) === Math.floor(ts / 300) * 300", last - 400)
    page.wait_for_selector(".loadstate:empty", state="attached")
    settle(page)
    hour = real.market.store.read_rows("BTC", begin + 300, last + 1)
    moved = value(page, "cvd", "perp_cvd", last) - value(page, "cvd", "perp_cvd", begin)
    assert moved == pytest.approx(hour.perp_delta.sum() / 100, abs=0.05)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than its window"


def test_a_signal_that_is_clicked_tells_the_kernels_reasons(real: Real, look: Callable[..., Page]) -> None:
    page = look("asset/BTC")
    page.wait_for_selector("#chart-score canvas")
    (ts,) = real.publish(1)
    store, params = real.market.store, SqueezeParams()
    why = explain_second(params, store.read_rows("BTC", ts - WARMUP_S - 3_600, ts + 1))
    signal = Signal(
        asset="BTC", ts=ts, direction=Direction.BULLISH, score_milli=why["score_milli"], reasons=("reset",),
        params_hash=params.hash,
    )  # fmt: skip
    decision = Decision(
        asset="BTC", ts=ts, kind="block", direction=Direction.BULLISH, score_milli=why["score_milli"], parts=Parts(),
        phase=why["reset"]["phase"], reset_low=0, reset_high=0, blocked_by=("cooldown",), params_hash=params.hash,
    )  # fmt: skip
    tradestore.insert_signals(store, "paper", [signal])
    store.insert_decisions(live_run("paper"), [decision])
    real.say(signal)
    real.publish(5)
    page.get_by_role("button", name="Signal before").click()
    panel = page.locator("aside.panel")
    expect(panel.locator("h2")).to_contain_text(clock(ts))
    expect(panel.locator(".stored")).to_contain_text("the last exit was too short a time ago")
    score = f"{why['score_milli'] / 1000:.3f}"
    expect(panel.locator(".why")).to_contain_text(f"score {score} of 10")
    expect(panel.locator(".why .inputs")).to_contain_text(f"entry from {params.entry_score:g}")
    expect(panel.locator(".warning").filter(has_text="Scanned again")).to_have_count(0)
    parts = why["parts"]["short" if why["direction"] == "BEARISH" else "long"]
    tests = f"{parts['tests']} test{'' if parts['tests'] == 1 else 's'} of the range"
    expect(panel.locator(".why .parts")).to_contain_text(tests)


def test_the_kill_switch_reaches_the_executor(real: Real, look: Callable[..., Page]) -> None:
    page = look("trading", allowed=REFUSED)
    expect(page.locator(".limits tbody tr").filter(has_text="Leverage")).to_be_visible()
    page.get_by_role("button", name="Kill switch").click()
    box = page.locator("dialog")
    box.locator("[name=token]").fill(TOKEN)  # a writer's here, not the executor's
    box.locator("[name=reason]").fill("a drill")
    box.get_by_role("button", name="End everything of paper").click()
    expect(box.get_by_role("alert")).to_contain_text("It was refused")
    assert not real.executor.get("/v1/switches").json()["kill_switch"]
    box.locator("[name=token]").fill(EXECUTOR_TOKEN)
    box.get_by_role("button", name="End everything of paper").click()
    expect(box.locator(".done")).to_contain_text("the kill switch is on")
    assert real.executor.get("/v1/switches").json()["reason"] == "a drill"


def test_each_market_and_service_is_listed(real: Real, look: Callable[..., Page]) -> None:
    page = look("quality")
    markets = {market.instrument for asset in ASSETS for market in real.feed.watched[asset].markets}
    lines = page.locator('[aria-label="Data quality by market"] tbody tr')
    expect(lines).to_have_count(len(markets))
    expect(lines.first.locator(".strip")).to_have_count(2)
    expect(page.locator(".warning")).to_contain_text("ingest was not found")
    expect(page.locator('[aria-label="Services"]')).to_contain_text("executor")


def test_a_backtest_is_asked_for_and_its_report_read(real: Real, look: Callable[..., Page]) -> None:
    page = look("runs", allowed=REFUSED)
    first = np.datetime64(int(real.feed.next_ts) - 86_400, "s").astype("datetime64[D]")
    page.get_by_role("button", name="New backtest").click()
    form = page.locator("form.newrun")
    form.get_by_label("BTC").check()
    form.get_by_label("ETH").uncheck()
    form.locator('[name="start"]').fill(str(first))
    form.locator('[name="end"]').fill(str(first))
    form.locator("summary").first.click()
    form.locator('[name="params.entry_score"]').fill("3.5")
    form.locator('[name="main.warmup_s"]').fill("0")
    form.get_by_role("button", name="Run it").click()
    box = page.locator("dialog")
    box.locator("[name=token]").fill(TOKEN)
    box.get_by_role("button", name="Use it").click()
    line = page.locator("tr[data-run]").filter(has_text="entry score 3.5")
    expect(line.get_by_role("link", name="Report")).to_be_visible(timeout=120_000)
    (run,) = [run for run in real.reporting.get("/v1/backtests").json()["runs"] if run["state"] == "done"]
    assert (run["assets"], run["params"], run["start"]) == (["BTC"], {"entry_score": 3.5}, str(first))
    with page.context.expect_page() as opening:
        line.get_by_role("link", name="Report").click()
    report = opening.value
    report.wait_for_selector("#page[data-ready]")
    expect(report.locator("h1")).to_contain_text("BTC")
