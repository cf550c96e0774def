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
from services.test_reporting import TOKEN, WRITE, problem, settings_of
from squeeze_reporting import channel, series
from squeeze_reporting.app import HEADERS
from squeeze_reporting.board import NAMES, WINDOWS_S
from squeezecore import squeeze
from squeezecore.adapters import operations, tradestore
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
        made.ready().until(lambda: made.get("/v1/status").json()["live"]["state"] == "RUNNING")
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
