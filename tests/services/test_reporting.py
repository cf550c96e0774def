"""Reporting as its users meet it: what was seen, what is watched, and backtests by request, over HTTP."""

import io
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

import squeezeview
from squeezecore.adapters import embedded, embedded_nats, tradestore
from squeezecore.exchange import Payment
from squeezecore.market import DAY_S, Side
from squeezecore.trading import USD_E8, Fill, Liquidity, Order, OrderState, OrderUpdate
from support.command import Market
from support.services import Service, started

TOKEN = "a-token-of-the-writers"
START = 1_767_225_600  # 2026-01-01
ASKED = {"assets": ["btc"], "start": "2026-01-03", "end": "2026-01-04"}
WRITE = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """Give four simulated days, with both servers running."""
    home = tmp_path_factory.mktemp("home")
    with embedded_nats.open_nats(home, grace_s=5.0), embedded.open_store(home, grace_s=5.0) as store:
        made = Market(home, store)
        made.do("simulate", "--assets", "BTC", "--days", 4, "--world", "squeeze")
        yield made
    embedded_nats.stop(home)
    embedded.stop(home)


def settings_of(market: Market, run: Path) -> dict[str, object]:
    server = embedded_nats.status(market.home)
    assert server is not None
    run.mkdir(exist_ok=True)
    (run / "writer").write_text(TOKEN)
    return {"home": market.home, "nats_url": server.url, "token_file": run / "writer", "requests_per_s": 100_000}


@pytest.fixture(scope="module")
def reporting(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    run = tmp_path_factory.mktemp("reporting")
    with started(run, ["-m", "squeeze_reporting"], "reporting", **settings_of(market, run)) as service:
        yield service.ready()


def problem(answer: httpx.Response, status: int, *words: str) -> None:
    """Assert a refusal in a sentence."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    for word in words:
        assert word in answer.json()["detail"], answer.text


def ended(service: Service, run_id: str) -> Any:
    """Wait for a run's end and return what is said of it."""
    service.until(lambda: service.get(f"/v1/backtests/{run_id}").json()["state"] not in ("queued", "running"))
    return service.get(f"/v1/backtests/{run_id}").json()


# --- the market ---


def test_rows_come_in_pages_as_json_and_as_arrow(market: Market, reporting: Service) -> None:
    path = "/v1/assets/btc/rows"
    first = reporting.get(path, params={"from": "2026-01-02", "to": "2026-01-02T00:10:00Z", "limit": 400}).json()
    assert first["instrument"] == "binance:BTC-USDT-PERP"
    assert [row["ts"] for row in first["rows"]] == list(range(START + DAY_S, START + DAY_S + 400))
    rest = reporting.get(path, params={"from": first["next"], "to": first["to"], "limit": 400}).json()
    assert len(rest["rows"]) == 200
    assert rest["next"] is None
    stored = market.store.read_rows("BTC", START + DAY_S, START + DAY_S + 400)
    assert [row["spot_delta"] for row in first["rows"]] == [value / 100 for value in stored.spot_delta.tolist()]
    arrow = reporting.get(
        path,
        params={"from": START, "to": START + 50},
        headers={"Accept": "application/vnd.apache.arrow.stream"},
    )
    read = pa.ipc.open_stream(io.BytesIO(arrow.content)).read_all()
    assert read["ts"].to_pylist() == list(range(START, START + 50))
    assert reporting.get(path, params={"limit": 3}).json()["rows"][-1]["ts"] == START + 4 * DAY_S - 1


def test_bars_coverage_and_reasons_are_there(reporting: Service) -> None:
    bars = reporting.get("/v1/instruments/binance:BTC-USDT-PERP/bars", params={"every": "1h", "from": "2026-01-02"})
    assert [bar["ts"] for bar in bars.json()["bars"]][:2] == [START + DAY_S, START + DAY_S + 3600]
    covered = reporting.get("/v1/coverage", params={"name": "btc"}).json()
    assert {line["seconds"] for line in covered["assets"]} == {DAY_S}
    why = reporting.get("/v1/assets/BTC/explain", params={"at": "2026-01-03T12:00:00Z"}).json()
    assert why["asset"] == "BTC"
    assert why["explanation"]
    assert reporting.get("/v1/gaps").json() == {"gaps": [], "of": 0}


@pytest.mark.parametrize(
    ("path", "params", "status", "words"),
    [
        ("/v1/assets/BTC/rows", {"from": "yesterday"}, 422, ("'yesterday'", "2026-01-31")),
        ("/v1/assets/BTC/rows", {"limit": 0}, 422, ("limit",)),
        ("/v1/assets/BTC/rows", {"from": 9, "to": 8}, 422, ("from was 9", "must not lie before")),
        ("/v1/assets/XYZ/rows", {}, 422, ("'XYZ'",)),
        ("/v1/instruments/binance:NO-USDT/bars", {}, 404, ("known are", "binance:BTC-USDT")),
        ("/v1/instruments/binance:BTC-USDT/bars", {"every": "7m"}, 422, ("'7m'", "1s, 1m, 5m, 1h")),
        ("/v1/assets/BTC/explain", {"at": "2020-01-01"}, 404, ("2026-01-01",)),
        ("/v1/backtests/nonsense", {}, 404, ("nonsense", "GET /v1/backtests")),
    ],
)
def test_a_wrong_question_is_a_sentence(
    reporting: Service, path: str, params: dict[str, Any], status: int, words: tuple[str, ...]
) -> None:
    problem(reporting.get(path, params=params), status, *words)


# --- what is watched ---


def test_the_asset_list_is_changed_by_who_may_and_knows_the_present_one(market: Market, reporting: Service) -> None:
    there = reporting.get("/v1/assets")
    wanted = {"BTC": there.json()["BTC"]}
    body = json.dumps(wanted)
    problem(reporting.http.put("/v1/assets", content=body), 401, "token was not given")
    changed = reporting.http.put("/v1/assets", content=body, headers=WRITE)
    assert changed.json() == wanted == reporting.get("/v1/assets").json() == market.ask("assets")
    stale = reporting.http.put("/v1/assets", content=body, headers=WRITE | {"If-Match": there.headers["etag"]})
    problem(stale, 412, "changed in between")
    again = reporting.http.put("/v1/assets", content=body, headers=WRITE | {"If-Match": changed.headers["etag"]})
    assert again.status_code == 200
    wanted["BTC"]["traded"] = "binance:ETH-USDT-PERP"
    problem(reporting.http.put("/v1/assets", content=json.dumps(wanted), headers=WRITE), 422, "none of its markets")
    wanted["BTC"]["markets"][0]["weight_ppm"] = 2_000_000
    problem(reporting.http.put("/v1/assets", content=json.dumps(wanted), headers=WRITE), 422, "weight_ppm", "1000000")
    problem(reporting.http.put("/v1/assets", content="{", headers=WRITE), 400, "no JSON")


# --- backtests ---


def test_a_backtest_is_asked_for_followed_and_shown(market: Market, reporting: Service) -> None:
    problem(reporting.post("/v1/backtests", json=ASKED), 401, "token")
    asked = reporting.post("/v1/backtests", json=ASKED, headers=WRITE)
    assert asked.status_code == 202
    run_id = asked.json()["run_id"]
    assert asked.headers["location"] == f"/v1/backtests/{run_id}"
    found = ended(reporting, run_id)
    assert found["state"] == "done", found
    shown = market.ask("backtest", "BTC", "--from", "2026-01-03", "--to", "2026-01-04")
    assert shown["cached"]
    assert shown["result_hash"] == found["report"]["result_hash"]
    trades = reporting.get(f"/v1/backtests/{run_id}/trades").json()
    assert trades["of"] == shown["summary"]["trades"] == len(trades["trades"])
    report = reporting.get(f"/v1/backtests/{run_id}/report")
    assert report.json()["runs"][0]["run_id"] == run_id
    page = reporting.get(f"/v1/backtests/{run_id}/report", headers={"Accept": "text/html"})
    if squeezeview.built():
        assert page.text.startswith("<!doctype html>")
    else:
        problem(page, 501, "make web")
    assert run_id in {line["run_id"] for line in reporting.get("/v1/backtests").json()["runs"]}
    other = reporting.post("/v1/backtests", json=ASKED | {"params": {"entry_score": 5}}, headers=WRITE).json()
    assert ended(reporting, other["run_id"])["state"] == "done"
    both = reporting.get("/v1/backtests/compare", params={"run": [run_id, other["run_id"]]}).json()
    assert both["comparison"] is not None
    problem(reporting.http.delete(f"/v1/backtests/{run_id}", headers=WRITE), 409, "was done")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"start": "2026-01-05"}, ("2026-01-05 to 2026-01-04", "swap them")),
        ({"capital_usd": 5}, ("capital_usd", "100")),
        ({"params": {"entry_skore": 4}}, ("entry_skore", "entry_score")),
        ({"params": {"entry_score": 99}}, ("entry_score", "99")),
        ({"colour": "red"}, ("colour",)),
        ({"placebos": 5_000}, ("placebos", "1000")),
    ],
)
def test_a_wrong_backtest_is_refused_with_field_and_limit(
    reporting: Service, change: dict[str, Any], words: tuple[str, ...]
) -> None:
    problem(reporting.post("/v1/backtests", json=ASKED | change, headers=WRITE), 422, *words)


def test_a_backtest_of_what_is_not_there_says_why(reporting: Service) -> None:
    asked = reporting.post("/v1/backtests", json=ASKED | {"start": "2025-01-01", "end": "2025-01-02"}, headers=WRITE)
    found = ended(reporting, asked.json()["run_id"])
    assert (found["state"], found["exit_code"]) == ("failed", 42)
    assert "2026-01-01" in found["error"]


def test_a_cancelled_or_killed_run_goes_on_where_it_was(market: Market, tmp_path: Path) -> None:
    settings = settings_of(market, tmp_path)
    asked = ASKED | {"start": "2026-01-01", "shards": 4, "jobs": 1}
    with started(tmp_path, ["-m", "squeeze_reporting"], "reporting", **settings) as service:
        service.ready()
        first = service.post("/v1/backtests", json=asked, headers=WRITE).json()["run_id"]
        waits = service.post("/v1/backtests", json=asked | {"capital_usd": 777}, headers=WRITE).json()
        assert waits["state"] == "queued"  # one at a time
        assert service.http.delete(f"/v1/backtests/{waits['run_id']}", headers=WRITE).json()["state"] == "cancelled"
        service.until(lambda: service.get(f"/v1/backtests/{first}").json()["progress"]["done"] > 0)
        assert service.get(f"/v1/backtests/{first}").json()["state"] == "running"
        service.end(signal.SIGKILL)
    with started(tmp_path, ["-m", "squeeze_reporting"], "reporting", **settings) as service:
        service.ready()
        service.until(lambda: service.get(f"/v1/backtests/{first}").json()["state"] in ("interrupted", "done"))
        assert service.post(f"/v1/backtests/{first}/resume", headers=WRITE).status_code == 202
        resumed = ended(service, first)
        assert resumed["state"] == "done"
        whole = market.ask("backtest", "BTC", "--from", "2026-01-01", "--to", "2026-01-04", "--fresh")
        assert resumed["report"]["result_hash"] == whole["result_hash"]
        assert service.end() == 0


# --- trading ---


def test_an_account_is_shown_as_its_ledger_says(market: Market, reporting: Service) -> None:
    name, asset = "binance:BTC-USDT-PERP", "BTC"
    perp = market.store.instruments()[name]
    base, price = 10**perp.qty_decimals, 60_000 * 10**perp.price_decimals

    def fill(number: int, ts: int, side: Side, qty: int) -> Fill:
        return Fill(
            id=f"sf-{number}.0", order_id=f"sf-{number}", account="desk", asset=asset, instrument=name, ts=ts, side=side,
            price=price, qty=qty, fee_usd_e8=5 * USD_E8, slippage_usd_e8=0, liquidity=Liquidity.TAKER, reason="entry",
        )  # fmt: skip

    fills = [fill(1, START, Side.BUY, 2 * base), fill(2, START + 60, Side.SELL, base // 2)]
    orders = [
        Order(id=f.order_id, account="desk", asset=asset, instrument=name, decided_ts=f.ts - 1, side=f.side, qty=f.qty)
        for f in fills
    ]
    updates = [OrderUpdate(order_id="sf-1", ts=START, state=OrderState.FILLED)]
    tradestore.insert_orders(market.store, "desk", orders)
    tradestore.insert_updates(market.store, "desk", updates)
    tradestore.insert_fills(market.store, "desk", fills)
    tradestore.insert_payments(market.store, "desk", [Payment(instrument=name, ts=START + 30, received_usd_e8=-USD_E8)])
    tradestore.insert_equity(market.store, "desk", {START + n: 100 * USD_E8 + n for n in range(5)})
    assert "desk" in reporting.get("/v1/accounts").json()
    shown = reporting.get("/v1/accounts/desk/positions").json()
    (position,) = shown["positions"]
    mark = (
        int(market.store.read_rows(asset, START + 4 * DAY_S - 1, START + 4 * DAY_S).mark[0]) / 10**perp.price_decimals
    )
    assert (position["qty"], position["entry_price"], position["mark"]) == (1.5, 60_000, mark)
    assert shown["equity_usd"] == pytest.approx(100_000 - 10 - 1 + 1.5 * (mark - 60_000), abs=0.01)
    first = reporting.get("/v1/accounts/desk/orders", params={"limit": 1}).json()
    assert [update["state"] for update in first["orders"][0]["updates"]] == ["filled"]
    rest = reporting.get("/v1/accounts/desk/orders", params={"from": first["next"]}).json()
    assert [order["id"] for order in first["orders"] + rest["orders"]] == ["sf-1", "sf-2"]
    assert rest["next"] is None
    points = reporting.get("/v1/accounts/desk/equity", params={"from": START + 3}).json()["equity"]
    assert [point["ts"] for point in points] == [START + 3, START + 4]
    problem(reporting.get("/v1/accounts/de.sk/fills"), 422, "account")
