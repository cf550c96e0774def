"""The dashboard's API as a browser meets it: a running service, rows published as cvd publishes them, streams that break."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

import squeezeview
from services.test_reporting import WRITE, problem, settings_of
from squeeze_reporting import channel, series
from squeeze_reporting.app import HEADERS
from squeeze_reporting.board import NAMES, WINDOWS_S
from squeezecore import squeeze
from squeezecore.adapters import embedded, operations, tradestore
from squeezecore.market import DAY_S, WARMUP_S, Side
from squeezecore.risk import Holding
from squeezecore.squeeze import SqueezeParams, explain_second
from squeezecore.trading import (
    USD_E8,
    Decision,
    Direction,
    Fill,
    Liquidity,
    Order,
    OrderState,
    OrderUpdate,
    Parts,
    Signal,
)
from squeezecore.wire import Clock, Standing
from support.boards import Feed, Stream, live_market, metric, stored_rows
from support.command import Market
from support.services import Service, started

P = SqueezeParams()
ASSETS = ("BTC", "ETH")
PERP = "binance:BTC-USDT-PERP"
AHEAD_S = 4 * 3600  # seconds that the tests may publish


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Market, Feed]]:
    with live_market(tmp_path_factory.mktemp("home"), ASSETS, AHEAD_S) as made:
        yield made


@pytest.fixture(scope="module")
def market(bed: tuple[Market, Feed]) -> Market:
    return bed[0]


@pytest.fixture(scope="module")
def feed(bed: tuple[Market, Feed]) -> Feed:
    return bed[1]


@pytest.fixture(scope="module")
def service(market: Market, feed: Feed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    run = tmp_path_factory.mktemp("reporting")
    settings = settings_of(market, run) | {"account": "desk"}
    with started(run, ["-m", "squeeze_reporting"], "reporting", **settings) as made:
        made.ready()
        yield made


def watch(service: Service, path: str, last_id: str | None = None) -> Stream:
    return Stream(service.http.base_url, path, last_id)


def seconds_of(told: list[Any], name: str) -> list[int]:
    return [one.data["ts"] for one in told if one.name == name]


# --- what is told ---


def test_rows_are_the_stores_and_scores_the_kernels(market: Market, feed: Feed, service: Service) -> None:
    stream = watch(service, "/v1/assets/btc/stream")
    assert stream.next().data["instrument"] == PERP
    published = feed.publish(20)
    told = [one for one in stream.until("row", published[-1]) if one.data["ts"] in published]
    stream.close()
    assert [one.id for one in told] == [str(ts) for ts in published]
    stored = operations.block_table(stored_rows(market.store, "BTC", published), feed.instruments["BTC"]).to_pylist()
    rows = market.store.read_rows("BTC", published[0] - WARMUP_S - 3600, published[-1] + 1)
    for event, row in zip(told, stored, strict=True):
        assert {name: event.data[name] for name in row if name in event.data} == {
            name: row[name] for name in row if name not in ("oi_interval_s", "config_rev")
        }
        why = explain_second(P, rows, event.data["ts"])
        scale = 10 ** feed.instruments["BTC"].price_decimals
        side = {"BULLISH": 1, "BEARISH": -1, "NEUTRAL": 0}[why["direction"]]
        assert event.data["score"] == why["score_milli"] / 1000
        assert (event.data["direction"], event.data["phase"]) == (side, why["reset"]["phase"])
        assert event.data["blocked_by"] == list(why["blocked_by"])
        for name in ("reset_low", "reset_high"):
            assert event.data[name] == (why["reset"][name] / scale or None)
        if side:
            parts = why["parts"]["long" if side > 0 else "short"]
            assert event.data["parts"]["absorption"] == pytest.approx(parts["absorption"], abs=0.0006)
            assert sum(event.data["parts"].values()) == pytest.approx(event.data["score"], abs=0.002)


def test_the_board_is_the_kernels_too(market: Market, feed: Feed, service: Service) -> None:
    stream = watch(service, "/v1/stream")
    assert stream.next().data == {"names": list(NAMES), "windows_s": list(WINDOWS_S)}
    published = feed.publish(5)
    told = [one for one in stream.until("board", published[-1]) if one.data["ts"] in published]
    stream.close()
    assert [one.id for one in told] == [str(ts) for ts in published]
    for asset in ASSETS:
        rows = market.store.read_rows(asset, published[0] - WARMUP_S - 3600, published[-1] + 1)
        scale = 10 ** feed.instruments[asset].price_decimals
        for event in told:
            line = dict(zip(NAMES, event.data["assets"][ASSETS.index(asset)], strict=True))
            at = int(rows.ts.searchsorted(event.data["ts"]))
            why = explain_second(P, rows, event.data["ts"])
            for name, flow in (("z_spot", "z_spot"), ("z_perp", "z_perp")):
                assert line[name] == [round(why["windows"][window][flow], 3) for window in WINDOWS_S]
            then = [rows.open_interest[at - window] for window in WINDOWS_S]
            assert line["oi_chg_pct"] == [round((rows.open_interest[at] / one - 1) * 100, 3) for one in then]
            assert line["chg24h_pct"] == round((rows.close[at] / rows.close[at - DAY_S] - 1) * 100, 3)
            assert line["close"] == rows.close[at] / scale
            assert (line["asset"], line["phase"], line["score"]) == (
                asset,
                why["reset"]["phase"],
                why["score_milli"] / 1000,
            )
    shown = service.get("/v1/board").json()
    assert shown["assets"] == told[-1].data["assets"]
    assert (shown["ts"], shown["names"]) == (published[-1], list(NAMES))
    assert [len(spark) for spark in shown["sparks"].values()] == [60, 60]
    rows = market.store.read_rows("BTC", published[0] - WARMUP_S - 3600, published[-1] + 1)
    _, features = squeeze.scan(P, squeeze.initial(P), rows)
    minute = features.ts // 60 == published[-1] // 60
    assert abs(shown["sparks"]["BTC"][-1]) == features.score_milli[minute].max() / 1000


def test_what_happens_in_trading_is_told_in_its_assets_stream(feed: Feed, service: Service) -> None:
    perp = feed.instruments["BTC"]
    stream = watch(service, "/v1/assets/BTC/stream")
    (ts,) = feed.publish(1)
    stream.until("row", ts)
    order = Order(
        id=f"sf-{ts}",
        account="desk",
        asset="BTC",
        instrument=PERP,
        decided_ts=ts,
        side=Side.BUY,
        qty=5 * 10**perp.qty_decimals,
    )
    fill = Fill(
        id=f"sf-{ts}.0", order_id=order.id, account="desk", asset="BTC", instrument=PERP, ts=ts + 1, side=Side.BUY,
        price=60_000 * 10**perp.price_decimals, qty=order.qty, fee_usd_e8=15 * USD_E8, slippage_usd_e8=0,
        liquidity=Liquidity.TAKER,
    )  # fmt: skip
    signal = Signal(
        asset="BTC", ts=ts, direction=Direction.BULLISH, score_milli=4_200, reasons=("entry",), params_hash="p"
    )
    decision = Decision(
        asset="BTC", ts=ts, kind="entry", direction=Direction.BULLISH, score_milli=4_200, parts=Parts(absorption=700),
        phase="RESET_A", reset_low=perp.price_decimals, reset_high=0, order_id=order.id,
    )  # fmt: skip
    other = Signal(asset="ETH", ts=ts, direction=Direction.BEARISH, score_milli=3_100, reasons=(), params_hash="p")
    feed.say(other, signal, order, fill)
    told = [stream.next() for _ in range(3)]
    assert [one.name for one in told] == ["signal", "order", "fill"]
    assert [one.id for one in told] == [f"{ts}.{n}" for n in (1, 2, 3)]
    assert told[0].data["reasons"] == ["entry"]
    assert told[0].data["units"] == {"score": 4.2}
    assert (told[1].data["state"], told[1].data["units"]["qty"]) == ("asked", 5.0)
    assert told[2].data["units"] == {"price": 60_000.0, "qty": 5.0, "fee_usd": 15.0, "slippage_usd": 0.0}
    feed.say(decision, OrderUpdate(order_id=order.id, ts=ts + 1, state=OrderState.FILLED))
    last = [stream.next() for _ in range(2)]
    assert [(one.name, one.data.get("state")) for one in last] == [("decision", None), ("order", "filled")]
    assert last[0].data["parts"]["absorption"] == 700
    stream.close()
    again = watch(service, "/v1/assets/BTC/stream", told[1].id)  # in the middle of a second
    assert [again.next() for _ in range(4)][1:] == [told[2], *last]
    again.close()
    (ts,) = feed.publish(1)
    board = watch(service, "/v1/stream", str(ts - 1))
    event = board.until("board", ts)[-1]
    board.close()
    line = dict(zip(NAMES, event.data["assets"][0], strict=True))
    mark = stored_rows(feed.store, "BTC", range(ts, ts + 1)).mark[0] / 10**perp.price_decimals
    assert line["position_usd"] == pytest.approx(5 * mark, abs=0.01)
    assert line["pnl_usd"] == pytest.approx(5 * (mark - 60_000), abs=0.01)


# --- lines that break ---


def test_after_a_lost_connection_no_second_is_missing_or_told_twice(feed: Feed, service: Service) -> None:
    for path, name in (("/v1/stream", "board"), ("/v1/assets/ETH/stream", "row")):
        stream = watch(service, path)
        before = feed.publish(5)
        seen = stream.until(name, before[-1])
        stream.close()
        missed = feed.publish(10)
        again = watch(service, path, seen[-1].id)
        after = feed.publish(5)
        seen += again.until(name, after[-1])
        again.close()
        ts = seconds_of(seen, name)
        assert ts == list(range(ts[0], after[-1] + 1))
        assert set(missed) < set(ts)


def test_seconds_older_than_the_memory_come_from_the_store_the_same(feed: Feed, service: Service) -> None:
    streams = {"/v1/stream": "board", "/v1/assets/BTC/stream": "row"}
    first = feed.publish(3)
    told = {path: watch(service, path) for path in streams}
    began = feed.publish(40)
    seen = {path: told[path].until(name, began[-1]) for path, name in streams.items()}
    for stream in told.values():
        stream.close()
    later = feed.publish(channel.RING_S + 100)
    service.until(lambda: service.get("/v1/board").json()["ts"] == later[-1])
    for path, name in streams.items():
        again = watch(service, path, str(first[-1]))
        events = again.until(name, later[-1])
        again.close()
        assert seconds_of(events, name) == [*began, *later]
        known = {one.id: one.data for one in seen[path] if one.name == name}
        for one in events:
            if one.id in known and name == "board":  # what was held then is not told again
                assert [line[:-2] for line in one.data["assets"]] == [line[:-2] for line in known[one.id]["assets"]]
            elif one.id in known:
                assert one.data == known[one.id]


def test_a_restart_costs_no_second(market: Market, feed: Feed, tmp_path: Path) -> None:
    settings = settings_of(market, tmp_path) | {"instance": "other", "account": "away"}
    with started(tmp_path, ["-m", "squeeze_reporting"], "reporting", **settings) as service:
        service.ready()
        stream = watch(service, "/v1/assets/BTC/stream")
        before = feed.publish(3)
        seen = stream.until("row", before[-1])
        assert service.end() == 0
        assert "Traceback" not in service.said()
        assert stream.rest() == []  # it ended in good order
        stream.close()
    missed = feed.publish(7)
    signal = Signal(
        asset="BTC", ts=missed[3], direction=Direction.BULLISH, score_milli=3_500, reasons=(), params_hash="p"
    )
    tradestore.insert_signals(market.store, "away", [signal])
    with started(tmp_path, ["-m", "squeeze_reporting"], "reporting", **settings) as service:
        again = watch(service.ready(), "/v1/assets/BTC/stream", seen[-1].id)
        after = feed.publish(3)
        seen += again.until("row", after[-1])
        again.close()
    ts = seconds_of(seen, "row")
    assert ts == list(range(ts[0], after[-1] + 1))
    assert [(one.id, one.data["units"]) for one in seen if one.name == "signal"] == [(f"{missed[3]}.1", {"score": 3.5})]


def test_what_is_left_out_of_the_stream_is_told_from_the_store(feed: Feed, service: Service) -> None:
    stream = watch(service, "/v1/assets/BTC/stream")
    before = feed.publish(2)
    feed.publish(30, told=False)
    after = feed.publish(2)
    ts = seconds_of(stream.until("row", after[-1]), "row")
    assert ts[ts.index(before[0]) :] == list(range(before[0], after[-1] + 1))
    stream.close()


def test_a_past_that_is_stored_after_the_start_counts(market: Market, feed: Feed, tmp_path: Path) -> None:
    settings = settings_of(market, tmp_path) | {"database": "later"}
    with (
        embedded.open_store(market.home, database="later") as store,
        started(tmp_path, ["-m", "squeeze_reporting"], "reporting", **settings) as service,
    ):
        assert service.ready().get("/v1/board").json()["ts"] is None
        until = feed.next_ts
        store.insert_rows("BTC", market.store.read_rows("BTC", until - WARMUP_S - 7200, until))
        (ts,) = feed.publish(1)
        service.until(lambda: service.get("/v1/board").json()["ts"] == ts)
        mine, other = (dict(zip(NAMES, line, strict=True)) for line in service.get("/v1/board").json()["assets"])
        why = explain_second(P, market.store.read_rows("BTC", ts - WARMUP_S - 3600, ts + 1))
        assert mine["z_spot"] == [round(why["windows"][window]["z_spot"], 3) for window in WINDOWS_S]
        assert mine["phase"] == why["reset"]["phase"]
        assert other["phase"] is None  # it has no past
        store.drop_database()


@pytest.mark.parametrize("wrong", ["abc", "-5", "1.2.3", "99999999999"])
def test_a_wrong_id_is_refused(service: Service, wrong: str) -> None:
    problem(service.get("/v1/stream", headers={"Last-Event-ID": wrong}), 422, wrong)


def test_an_asset_that_is_not_watched_is_named(service: Service) -> None:
    problem(service.get("/v1/assets/BTX/stream"), 404, "'BTX'", "BTC")


# --- many ---


def test_a_slow_viewer_is_let_go_and_nobody_else_notices(feed: Feed, service: Service) -> None:
    dropped = metric(service, "squeezeflow_viewers_dropped_total")
    url = service.http.base_url
    begin = feed.publish(1)[0]
    seconds = channel.QUEUE_MAX + 80

    async def read(last_ts: int, ready: asyncio.Event) -> list[int]:
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(f"GET /v1/stream HTTP/1.1\r\nHost: here\r\nLast-Event-ID: {begin}\r\n\r\n".encode())
        seen: list[int] = []
        while not seen or seen[-1] != last_ts:
            line = await reader.readline()
            if line.startswith(b"event: schema"):
                ready.set()
            if line.startswith(b"id: "):
                seen.append(int(line[4:]))
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return seen

    async def everybody() -> list[list[int]]:
        ready = [asyncio.Event() for _ in range(50)]
        reading = [asyncio.create_task(read(begin + seconds, each)) for each in ready]
        for each in ready:
            await each.wait()
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect((url.host, url.port))
            far = begin - 3 * 3600  # more than all buffers on the way hold
            slow.sendall(f"GET /v1/assets/BTC/stream HTTP/1.1\r\nHost: here\r\nLast-Event-ID: {far}\r\n\r\n".encode())
            await asyncio.to_thread(service.until, lambda: metric(service, "squeezeflow_viewers") == 51)
            await asyncio.to_thread(feed.publish, seconds)
            seen = await asyncio.gather(*reading)
            assert await asyncio.to_thread(metric, service, "squeezeflow_viewers_dropped_total") == dropped + 1
            # It never reads, so it is cut off.
            await asyncio.to_thread(service.until, lambda: metric(service, "squeezeflow_viewers") == 0)
        return seen

    for seen in asyncio.run(everybody()):
        assert seen == list(range(begin + 1, begin + seconds + 1))


# --- series ---


def reference(market: Market, feed: Feed, asset: str, start: int, end: int, step: int) -> dict[str, list[Any]]:
    """Group rows and features by step, the obvious way."""
    start, end = start // step * step, -(-end // step) * step
    rows = market.store.read_rows(asset, start - WARMUP_S - 3600, end)
    _, features = squeeze.scan(P, squeeze.initial(P), rows)
    instrument = feed.instruments[asset]
    sign = np.where(features.flags & squeeze.F_LONG, 1, np.where(features.flags & squeeze.F_SHORT, -1, 0))
    table = pl.DataFrame(
        {name: getattr(rows, name) for name in rows._fields}
        | {
            "signed": sign * features.score_milli.astype(np.int64),
            "phase": [squeeze.PHASES[bits >> squeeze.PHASE_SHIFT & 3] for bits in features.flags.tolist()],
            "low_of": features.reset[features.reset_ts.searchsorted(features.ts, "right") - 1][:, 0],
        }
    ).filter(pl.col("ts") >= start)
    sums = [pl.col(name).sum() for name in ("spot_delta", "perp_delta", "spot_volume", "perp_volume")]
    lasts = [
        pl.col(name).last() for name in ("close", "open_interest", "funding_rate_8h", "basis_bps", "phase", "low_of")
    ]
    grouped = (
        table.group_by((pl.col("ts") // step * step).alias("step"), maintain_order=True)
        .agg(
            pl.col("open").first(), pl.col("high").max(), pl.col("low").min(), *lasts, *sums, pl.col("quality_ppm").mean(),
            pl.col("signed").get(pl.col("signed").abs().arg_max()),
        )
        .rename({"step": "ts", "signed": "score", "quality_ppm": "quality", "low_of": "reset_low"})
        .to_dict(as_series=False)
    )  # fmt: skip
    price, cents = 10**instrument.price_decimals, 100
    scales = dict.fromkeys(("open", "high", "low", "close", "reset_low"), price)
    scales |= dict.fromkeys(("spot_delta", "perp_delta", "spot_volume", "perp_volume"), cents)
    scales |= {"open_interest": 10**instrument.qty_decimals, "funding_rate_8h": 10**10, "basis_bps": 1000}
    scales |= {"quality": 10**6, "score": 1000}
    return {
        name: [value / scales[name] for value in column] if name in scales else column
        for name, column in grouped.items()
    }


@pytest.mark.parametrize(("step", "span"), [(1, 700), (60, 5_000), (300, 20_000), (3600, 86_400)])
def test_steps_are_rows_grouped_by_time(market: Market, feed: Feed, service: Service, step: int, span: int) -> None:
    end = feed.next_ts - 17
    asked = {"from": end - span, "to": end, "step": step}
    found = service.get("/v1/assets/eth/series", params=asked).json()
    wanted = reference(market, feed, "ETH", end - span, end, step)
    assert found["step"] == step
    for name, column in wanted.items():
        if name == "reset_low":
            assert [value or 0 for value in found[name]] == column, name
        elif name == "quality":
            assert found[name] == pytest.approx(column), name
        else:
            assert found[name] == column, name


def test_a_series_grows_with_its_rows(market: Market, feed: Feed, service: Service) -> None:
    for _ in range(3):  # the present day is scanned on from where it was
        end = feed.publish(20)[-1] + 1
        found = service.get("/v1/assets/BTC/series", params={"from": end - 100, "to": end, "step": 5}).json()
        wanted = reference(market, feed, "BTC", end - 100, end, 5)
        assert {name: found[name] for name in ("ts", "close", "score", "phase")} == {
            name: wanted[name] for name in ("ts", "close", "score", "phase")
        }


def test_a_step_is_chosen_so_that_a_screen_is_enough(feed: Feed, service: Service) -> None:
    end = feed.next_ts
    for span in (600, 30_000, 86_400 * 2):
        found = service.get("/v1/assets/BTC/series", params={"from": end - span, "to": end}).json()
        assert 1 <= len(found["ts"]) <= series.POINTS + 1
        assert {len(column) for column in found.values() if isinstance(column, list)} == {len(found["ts"])}
    long = service.get(
        "/v1/assets/BTC/series", params={"from": "2024-01-01", "to": "2026-02-01", "step": 14_400}
    ).json()
    assert set(long["score"]) == {None}  # too long to be scanned
    assert service.get("/v1/assets/BTC/series", params={"from": "2020-01-01", "to": "2020-01-02"}).json()["ts"] == []


@pytest.mark.parametrize(
    ("params", "status", "words"),
    [
        ({"step": 7}, 422, ("step was 7", "300")),
        ({"step": 1, "from": "2026-01-01", "to": "2026-01-02"}, 422, ("points were 86400", "5000", "step=30")),
        ({"from": 5, "to": 4}, 422, ("from was 5",)),
        ({"from": "soon"}, 422, ("'soon'",)),
    ],
)
def test_a_wrong_series_is_refused(
    service: Service, params: dict[str, Any], status: int, words: tuple[str, ...]
) -> None:
    problem(service.get("/v1/assets/BTC/series", params=params), status, *words)


# --- reads ---


def test_markets_are_told_with_share_and_completeness(market: Market, feed: Feed, service: Service) -> None:
    shown = service.get("/v1/assets/btc/venues").json()
    config = feed.watched["BTC"]
    assert [one["instrument"] for one in shown["markets"]] == [one.instrument for one in config.markets]
    assert "ingest was not found" in shown["feeds_error"]
    assert sum(one["share_24h"] for one in shown["markets"]) == pytest.approx(1)
    for one in shown["markets"]:
        bars = market.store.read_bars(one["instrument"], shown["to"] - 3600, shown["to"])
        assert one["delta_1h_usd"] == int((bars.buy_usd_cents - bars.sell_usd_cents).sum()) / 100
        assert one["completeness_1h"] == int(bars.complete.sum()) / 3600
        assert one["traded"] == (one["instrument"] == config.traded)
    quality = service.get("/v1/quality").json()
    assert {one["instrument"] for one in quality["markets"]} >= {one["instrument"] for one in shown["markets"]}
    for one in quality["markets"]:
        assert (len(one["minutes"]), len(one["hours"])) == (60, 24)
        assert one["gaps"]["found"] == one["gaps"]["open"] + one["gaps"]["filled"]


def test_limits_are_told_with_what_is_used(feed: Feed, service: Service) -> None:
    problem(service.get("/v1/accounts/nobody/limits"), 404, "nobody")
    perp = feed.instruments["BTC"]
    standing = Standing(
        equity_usd_e8=90_000 * USD_E8, day_open_usd_e8=100_000 * USD_E8, week_open_usd_e8=95_000 * USD_E8,
        peak_usd_e8=100_000 * USD_E8, gross_usd_e8=180_000 * USD_E8,
        holdings=(Holding(asset="BTC", instrument=PERP, qty=3 * 10**perp.qty_decimals),), sent_ts=(940, 941, 1000),
    )  # fmt: skip
    feed.say(Clock(account="measured", settled_ts=1000, standing=standing))
    shown = service.get("/v1/accounts/measured/limits").json()
    used = {name: one["used"] for name, one in shown["limits"].items()}
    assert used["daily_loss_max"] == pytest.approx(0.1)
    assert used["weekly_loss_max"] == pytest.approx(5 / 95)
    assert (used["leverage_max"], used["open_positions_max"], used["orders_per_minute_max"]) == (2.0, 1, 2)
    ts = feed.next_ts - 1
    service.until(lambda: service.get("/v1/board").json()["ts"] == ts)
    mark = stored_rows(feed.store, "BTC", range(ts, ts + 1)).mark[0] / 10**perp.price_decimals
    shown = service.get("/v1/accounts/measured/limits").json()
    assert shown["limits"]["position_notional_usd_max"]["used"] == pytest.approx(3 * mark)
    assert shown["limits"]["price_collar"] == {"used": None, "limit": 0.02}


def test_the_form_of_a_backtest_is_made_from_the_models(service: Service) -> None:
    found = service.get("/v1/parameters/schema").json()
    score = found["$defs"]["SqueezeParams"]["properties"]["entry_score"]
    assert (score["minimum"], score["maximum"], score["default"]) == (0, 10, P.entry_score)
    assert score["title"] == "Entry score"
    assert score["description"]
    assert set(found["$defs"]["SqueezeParams"]["properties"]) == set(SqueezeParams.__struct_fields__)
    assert found["$defs"]["Costs"]["properties"]["taker_fee_ppm"]["unit"] == "ppm"
    spec = found["$defs"]["BacktestSpec"]
    assert set(spec["required"]) == {"assets", "start", "end"}


def test_what_moves_money_is_passed_on_to_the_executor(
    market: Market, feed: Feed, service: Service, tmp_path: Path
) -> None:
    problem(service.post("/v1/accounts/desk/kill", json={"reason": "test"}), 503, "executor was not found")
    settings = settings_of(market, tmp_path) | {"account": "desk"}
    (tmp_path / "executor_token").write_text("a-token-of-the-executors")
    with (
        started(
            tmp_path,
            ["-m", "squeeze_executor"],
            "executor",
            **settings,
            executor_token_file=tmp_path / "executor_token",
        ) as executor,
        started(tmp_path, ["-m", "squeeze_reporting"], "reporting", **settings) as reporting,
    ):
        executor.listening().until(lambda: executor.get("/v1/switches").status_code == 200)
        reporting.ready()
        shown = reporting.get("/v1/services").json()["services"]
        assert set(shown) == {"executor", "reporting"}
        assert shown["executor"]["pid"] == executor.process.pid
        body = {"reason": "the test says so"}
        path = "/v1/accounts/desk/kill"
        problem(reporting.post(path, json=body), 401, "token was not given")
        problem(reporting.post(path, json=body, headers=WRITE), 403, "needs executor")
        may = {"Authorization": "Bearer a-token-of-the-executors"}
        problem(reporting.post("/v1/accounts/other/kill", json=body, headers=may), 404, "the executor trades desk")
        killed = reporting.post(path, json=body, headers=may)
        assert (killed.status_code, killed.json()["kill_switch"]) == (200, True)
        assert executor.get("/v1/switches").json()["kill_switch"] is True
        problem(reporting.post("/v1/accounts/desk/resume", json=body, headers=may), 422, "confirm")
        back = reporting.post("/v1/accounts/desk/resume", json=body | {"confirm": "desk"}, headers=may)
        assert back.json()["kill_switch"] is False
        executor.end(9)
        executor.note.write_text(json.dumps({"port": 1, "pid": 1}))  # as one that died leaves it
        assert reporting.get("/v1/services").json()["services"]["executor"]["state"] == "UNREACHABLE"


# --- the page, and what a browser may do ---


def test_the_page_is_served_with_its_own_files_only(service: Service) -> None:
    page = service.get("/")
    if not squeezeview.live_built():
        problem(page, 501, "make web")
        return
    assert page.text.startswith("<!doctype html>")
    assert "<script>" not in page.text
    assert "style=" not in page.text
    for name, kind in (("live.js", "text/javascript"), ("live.css", "text/css")):
        found = service.get(f"/assets/{name}")
        assert found.headers["content-type"].startswith(kind)
        assert service.get(f"/assets/{name}", headers={"If-None-Match": found.headers["etag"]}).status_code == 304
    problem(service.get("/assets/report.js"), 404, "live.js")


def headers_of(answer: httpx.Response) -> list[tuple[str, str]]:
    return [(name, answer.headers.get(name, "")) for name, _ in HEADERS]


def test_every_answer_carries_the_headers_that_keep_a_browser_here(feed: Feed, service: Service) -> None:
    paths = service.get("/openapi.json").json()["paths"]
    filled = {"{asset}": "BTC", "{account}": "desk", "{run_id}": "none", "{instrument}": PERP}
    asked = ["/", "/assets/live.js", "/docs", "/nothing/here"]
    for path, methods in paths.items():
        if "get" in methods and not path.endswith("stream"):
            for name, value in filled.items():
                path = path.replace(name, value)  # noqa: PLW2901
            asked.append(path)
    assert len(asked) > 30
    answers = [service.get(path) for path in asked]
    answers += [service.http.delete("/v1/board"), service.http.put("/v1/assets", content="{}")]
    answers += [service.post("/v1/backtests", content=b"x" * 2_000_000), service.get("/v1/stream?after=x")]
    assert {answer.status_code for answer in answers} >= {200, 401, 404, 405, 413, 422}
    for answer in answers:
        assert headers_of(answer) == list(HEADERS), answer.url
    for path in ("/v1/stream", "/v1/assets/BTC/stream"):
        stream = watch(service, path)
        assert headers_of(stream.response) == list(HEADERS)
        assert stream.response.headers["content-type"] == "text/event-stream"
        assert stream.response.headers["cache-control"] == "no-store"
        stream.close()


def test_the_paths_are_a_page_that_loads_nothing(service: Service) -> None:
    page = service.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for path in service.get("/openapi.json").json()["paths"]:
        assert path in page.text
    for word in ("<script", "<style", "style=", "<link", "://"):
        assert word not in page.text, word
    assert "Needs a token of the role writer." in page.text


def test_who_asks_too_often_is_told_so_with_the_same_headers(market: Market, tmp_path: Path) -> None:
    settings = settings_of(market, tmp_path) | {"requests_burst": 1, "requests_per_s": 0.001}
    with started(tmp_path, ["-m", "squeeze_reporting"], "reporting", **settings) as service:
        service.listening()
        answers = [service.get("/v1/board") for _ in range(2)]
        assert answers[1].status_code == 429
        assert headers_of(answers[1]) == list(HEADERS)
