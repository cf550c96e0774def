"""From a market to a reader: a run is simulated, stored and reported by the command, and its page read against the store."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from playwright.sync_api import expect

from squeezecore.adapters import wording
from squeezecore.adapters.store import Store
from squeezecore.market import DAY_S
from squeezecore.report import Trade
from squeezecore.spec import day_start_s
from squeezecore.trading import Decision
from support.browsing import CHARTS, INK, charts, near, settle
from support.command import simulated
from view.conftest import Opened

FIRST, LAST = dt.date(2026, 1, 3), dt.date(2026, 1, 4)
START, END = day_start_s(FIRST), day_start_s(LAST) + DAY_S
PRICES = ("open", "high", "low", "close")


class Real(NamedTuple):
    """A page that the command wrote, and the store it was written from."""

    file: Path
    store: Store
    trades: list[Trade]
    decisions: list[Decision]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """Give four simulated days, two of them run over, and the page of that run."""
    file = tmp_path_factory.mktemp("real") / "page.html"
    with simulated(tmp_path_factory.mktemp("home"), "BTC", 4) as market:
        run_id = market.ask("backtest", "BTC", "--from", FIRST, "--to", LAST)["run_id"]
        market.do("report", run_id, "--placebos", 1, "--out", file)
        trades, decisions = market.store.trades(run_id), market.store.decisions(run_id)
        assert len(trades) > 5
        yield Real(file, market.store, trades, decisions)


def whole(trades: list[Trade]) -> Trade:
    """Choose a trade whose surroundings lie within the run, long enough that entry and exit stand apart."""
    return next(t for t in trades if t.entry_ts > START + 600 and t.exit_ts < END - 600 and t.hold_s > 900)


def test_every_second_near_a_trade_reads_as_the_store_holds_it(real: Real, open_page: Callable[..., Opened]) -> None:
    page, trade = open_page(file=real.file).page, whole(real.trades)
    listed = real.store.instruments()[trade.instrument]
    for at in (trade.entry_ts, trade.exit_ts):
        near(page, at - 10, at + 10)
        assert charts(page)["price"]["finest"] == 1
        assert charts(page)["price"]["points"] in (20, 21)
        rows = real.store.read_rows("BTC", START, at + 10)
        for ts in range(at - 9, at + 9):
            row = ts - START
            assert rows.ts[row] == ts == page.evaluate("ts => squeezeflow.row('price', ts)", ts)
            held = page.evaluate(
                """ts => Object.fromEntries(["open", "high", "low", "close", "spot_cvd", "perp_cvd", "open_interest", "score"]
                  .map((name) => [name, squeezeflow.value("price", name, ts)]))""",
                ts,
            )
            for name in PRICES:
                assert held[name] == getattr(rows, name)[row] / 10**listed.price_decimals, (name, ts)
            for name, flow in (("spot_cvd", rows.spot_delta), ("perp_cvd", rows.perp_delta)):
                assert held[name] == np.rint(flow[: row + 1].sum() / 100), (name, ts)
            interest = rows.open_interest[row] / 10**listed.qty_decimals
            assert held["open_interest"] == pytest.approx(interest, rel=1e-6)
    decided = page.evaluate("ts => squeezeflow.value('score', 'score', ts)", trade.decided_ts)
    near(page, trade.decided_ts - 10, trade.decided_ts + 10)
    decided = page.evaluate("ts => squeezeflow.value('score', 'score', ts)", trade.decided_ts)
    assert decided == trade.score_milli * int(trade.direction) / 1000


def test_the_hand_over_an_entry_reads_the_stores_close(real: Real, open_page: Callable[..., Opened]) -> None:
    page, trade = open_page(file=real.file).page, whole(real.trades)
    near(page, trade.entry_ts - 10.5, trade.entry_ts + 9.5)
    box = page.locator("#chart-price .u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + 40)  # half a second after the entry's second began
    settle(page)
    rows = real.store.read_rows("BTC", trade.entry_ts, trade.entry_ts + 1)
    listed = real.store.instruments()[trade.instrument]
    close = rows.close[0] / 10**listed.price_decimals
    expect(page.locator(".legend .when dd")).to_contain_text(f"{wording.clock(trade.entry_ts)} the 1")
    expect(page.locator(".legend .v-close dd")).to_have_text(f"{close:,.{wording.decimals(listed)}f}")


def test_a_clicked_trade_tells_the_reasons_that_were_stored_with_it(
    real: Real, open_page: Callable[..., Opened]
) -> None:
    page, trade = open_page(file=real.file).page, whole(real.trades)
    number = real.trades.index(trade) + 1
    entry = next(d for d in real.decisions if d.kind == "entry" and d.order_id == trade.entry_order_id)
    left = next(d for d in real.decisions if d.kind == "exit" and d.order_id == trade.exit_order_id)
    page.locator(f'#trades tr[data-key="{number}"]').click()
    panel = page.locator("aside.panel")
    expect(panel.locator("h2")).to_contain_text(f"Trade {number}")
    for record, name in ((entry, "Why it was taken"), (left, "Why it was left")):
        expect(panel.locator("section", has_text=name)).to_contain_text(f"{wording.clock(record.ts)} UTC")
    taken = panel.locator("section", has_text="Why it was taken")
    expect(taken).to_contain_text(f"score {entry.score_milli / 1000:.3f} of 10")
    expect(taken).to_contain_text(f"reset machine {entry.phase}")
    for label, text in (
        ("Expected move", f"{100 * entry.inputs['expected_move']:.3f} %"),
        ("Stop distance", f"{100 * entry.inputs['stop_distance']:.3f} %"),
        ("Size", f"{entry.inputs['qty_base']:g} BTC at an equity of {entry.inputs['equity_usd']:,.2f} USD"),
    ):
        expect(taken.locator(".inputs tr", has_text=label).first).to_contain_text(text)
    given = panel.locator("section", has_text="Why it was left")
    expect(given).to_contain_text(wording.exit_words(left.reason))
    flow = f"{left.inputs['spot_since_entry_usd'] / 1e6:+,.2f} million USD"
    expect(given.locator(".inputs tr", has_text="Spot flow since entry").first).to_contain_text(flow)
    settle(page)
    assert all(one["from"] < trade.entry_ts < trade.exit_ts < one["to"] for one in charts(page).values())


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_a_real_page_stands_in_every_window(
    real: Real, open_page: Callable[..., Opened], width: int, theme: str
) -> None:
    page = open_page(width, theme, file=real.file).page
    drawn = charts(page)
    assert tuple(drawn) == CHARTS
    for name in CHARTS[:4]:
        assert drawn[name]["points"] == (END - START) // 60
    for name in CHARTS:
        assert page.evaluate(INK, name) > 500, name
    expect(page.locator("#trades-title")).to_have_text(f"Trades ({len(real.trades)})")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than its window"
