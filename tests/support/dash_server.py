"""A server that answers as reporting does, from a market made of sines: what the dashboard's tests are held against.

Every value is a function of asset and second, so a test can say what the page has to show. Its clock runs faster than ours.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
import numpy as np
import uvicorn
from fastapi import FastAPI, Header, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from playwright.sync_api import Browser, Page, expect

import squeezeview
from squeezecore.market import Side
from squeezecore.spec import BacktestSpec, Costs, Limits
from squeezecore.squeeze import SqueezeParams
from squeezecore.trading import Decision, Direction, Fill, Liquidity, Parts, Signal
from support.command import WAIT_S, eventually

START = 1_767_348_000  # 2026-01-02 10:00:00 UTC, where the clock begins
HISTORY_S = 6 * 86_400
TICK_S = 0.2  # of ours, for a second of theirs
TOKEN = "open sesame"
ASSETS = ("BTC", "ETH", "SOL", "XRP", "DOGE", "ADA", "AVAX", "LINK", "DOT", "LTC", "BCH", "UNI")
STEPS = (1, 5, 10, 30, 60, 300, 900, 3600, 14_400, 86_400)
NAMES = (
    "asset", "close", "chg24h_pct", "z_spot", "z_perp", "oi_chg_pct", "funding_8h_bp", "basis_bp", "phase", "direction",
    "score", "quality", "position_usd", "pnl_usd",
)  # fmt: skip
PHASES = ("IDLE", "IMBALANCED", "RESET_A", "RESET_B")
SUMS = ("spot_delta", "perp_delta", "spot_volume", "perp_volume")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)


def clock(ts: int) -> str:
    return f"{ts // 3600 % 24:02}:{ts // 60 % 60:02}:{ts % 60:02}"


def wave(ts: Any, period_s: float, shift: float = 0.0) -> Any:
    return np.sin(2 * np.pi * (np.asarray(ts, float) / period_s + shift))


def noise(ts: Any, seed: int) -> Any:
    """Give numbers between -1 and 1 that look like chance."""
    return 2 * np.modf(np.abs(np.sin(np.asarray(ts % 100_003, float) * 12.9898 + seed * 78.233) * 43_758.5453))[0] - 1


def price(asset: str, ts: Any) -> Any:
    at = ASSETS.index(asset)
    base = 60_000 / 3.7**at
    return base * (1 + 0.012 * wave(ts, 7_000, at / 7) + 0.003 * wave(ts, 900, at / 3) + 0.0004 * noise(ts, at))


def columns(asset: str, ts: Any) -> dict[str, Any]:
    """Return an asset's seconds, whole."""
    at = ASSETS.index(asset)
    before, close = price(asset, ts - 1), price(asset, ts)
    cycle = (ts + 311 * at) % 1_800
    phase = np.where(cycle < 700, 0, np.where(cycle < 1_100, 1, np.where(cycle < 1_500, 2, 3)))
    direction = np.where(phase == 0, 0, np.where((ts // 1_800 + at) % 2, 1, -1))
    parts = [
        np.where(phase > 1, most * (0.6 + 0.4 * wave(ts, 240, n / 5)), 0.0) for n, most in enumerate((3.0, 2.0, 1.5))
    ]
    close_range = np.where(phase > 1, 1, 0)
    return {
        "ts": ts, "open": before, "close": close, "mark": close * 1.0001,
        "high": np.maximum(before, close) * 1.0002, "low": np.minimum(before, close) * 0.9998,
        "buy_qty": 2 + noise(ts, at + 40), "sell_qty": 2 - noise(ts, at + 41),
        "spot_delta": np.rint(40_000 * (wave(ts, 3_600, at / 5) + 2 * noise(ts, at + 50))),
        "perp_delta": np.rint(-90_000 * (wave(ts, 3_000, at / 4) + 2 * noise(ts, at + 60))),
        "spot_volume": 150_000 + np.rint(50_000 * noise(ts, 7)), "perp_volume": 400_000 + np.rint(90_000 * noise(ts, 8)),
        "open_interest": 80_000 + 900 * wave(ts, 5_400, at / 9), "oi_known_at": ts - ts % 15,
        "funding_rate_8h": 0.0001 + 0.00004 * wave(ts, 28_800), "basis_bps": 3 + 2 * wave(ts, 1_300),
        "quality": np.where(ts % 977 == 0, 0.5, 1.0), "score": np.clip(sum(parts) + np.where(phase > 1, 1.0, 0.0), 0, 10),
        "direction": direction, "phase": phase,
        "reset_deceleration": parts[0], "absorption": parts[1], "failed_breakdown": parts[2],
        "reset_low": close_range * np.round(price(asset, ts - ts % 1_800) * 0.997, 2),
        "reset_high": close_range * np.round(price(asset, ts - ts % 1_800) * 1.003, 2),
    }  # fmt: skip


def row(asset: str, ts: int) -> dict[str, Any]:
    """Return a second as the stream tells it."""
    found = {name: column[0].item() for name, column in columns(asset, np.array([ts])).items()}
    parts = {name: found.pop(name) for name in ("reset_deceleration", "absorption", "failed_breakdown")}
    more = {"phase": PHASES[found["phase"]], "parts": parts | {"directional_bias": 1.0, "open_interest": 0.0}}
    ranges = {name: found[name] or None for name in ("reset_low", "reset_high")}
    return found | more | ranges | {"warm": True, "blocked_by": []}


def line(asset: str, ts: int) -> list[Any]:
    at, now = ASSETS.index(asset), row(asset, ts)
    held = asset == "BTC"
    z = [
        [round(3.4 * float(wave(ts, period, at / shift)), 3) for period in (300, 900, 3600, 14_400)] for shift in (5, 4)
    ]
    interest = [round(float(0.6 * wave(ts, period, at / 6)), 3) for period in (300, 900, 3600, 14_400)]
    return [
        asset, now["close"], round(100 * (now["close"] / float(price(asset, ts - 86_400)) - 1), 3), *z, interest,
        round(1e4 * now["funding_rate_8h"], 3), round(now["basis_bps"], 3), now["phase"], now["direction"],
        now["score"], now["quality"], 12_345.0 if held else 0.0, 12.5 * (ts % 7) if held else 0.0,
    ]  # fmt: skip


def board(ts: int) -> dict[str, Any]:
    return {"ts": ts, "assets": [line(asset, ts) for asset in ASSETS]}


def traded(asset: str) -> str:
    return f"binance:{asset}-USDT-PERP"


# --- what the strategy said: BTC, at the twentieth second of each minute ---


def said(start: int, end: int) -> range:
    first = start + (20 - start) % 60
    return range(max(first, START - HISTORY_S), end, 60)


def signal(ts: int) -> Signal:
    side = Direction.BULLISH if ts // 60 % 2 else Direction.BEARISH
    return Signal(asset="BTC", ts=ts, direction=side, score_milli=5_125, reasons=("reset",), params_hash="p1")


def decision(ts: int) -> Decision:
    parts = Parts(reset_deceleration=2_000, absorption=1_125, directional_bias=2_000)
    return Decision(
        asset="BTC", ts=ts, kind="entry", direction=signal(ts).direction, score_milli=5_125, parts=parts,
        phase="RESET_A", reset_low=5_990_000, reset_high=6_020_000, order_id=f"sf-{ts}", params_hash="p1",
        inputs={"expected_move": 0.0123, "qty_base": 0.25},
    )  # fmt: skip


def fill(ts: int) -> Fill:
    side = Side.BUY if signal(ts - 1).direction > 0 else Side.SELL
    return Fill(
        id=f"sf-{ts - 1}-1", order_id=f"sf-{ts - 1}", account="paper", asset="BTC", instrument=traded("BTC"), ts=ts,
        side=side, price=round(100 * float(price("BTC", ts))), qty=250, fee_usd_e8=750_000_000, slippage_usd_e8=120_000_000,
        liquidity=Liquidity.TAKER, reason="entry",
    )  # fmt: skip


def order(ts: int) -> dict[str, Any]:
    state = {"order_id": f"sf-{ts}", "ts": ts + 1, "state": "filled", "reason": "", "limit": "", "value": ""}
    return {
        "id": f"sf-{ts}", "account": "paper", "asset": "BTC", "instrument": traded("BTC"), "decided_ts": ts,
        "side": 1, "qty": 250, "kind": "market", "price": 0, "reduce_only": False, "reason": "entry", "updates": [state],
    }  # fmt: skip


def explanation(asset: str, ts: int) -> dict[str, Any]:
    side = {
        "reset_deceleration": 2.0, "absorption": 1.125, "failed_breakdown": 0.0, "tests": 3, "adverse_first": 0.8,
        "adverse_last": 0.3, "absorbing_candles": [ts - 600, ts - 300], "absorbing_with_volume": [ts - 300],
        "attempts": [], "attempts_falling": False,
    }  # fmt: skip
    window = {
        "spot_delta_cents": 12_345_600.0, "perp_delta_cents": -45_678_900.0, "return_nano": -1_500_000.0, "z_spot": 1.25,
        "z_perp": -2.5, "z_return": -0.4, "gap": 3.75, "m": 2.1,
    }  # fmt: skip
    return {
        "ts": ts, "row": {"close": 6_001_234, "quality_ppm": 1_000_000}, "score_milli": 5_125, "direction": "BULLISH",
        "direction_from": "reset", "blocked_by": [] if asset == "BTC" else ["cooldown"],
        "windows": {str(seconds): window for seconds in (300, 900, 1800, 3600, 14_400)},
        "context": {"value": 0.312, "direction": "BULLISH", "expected_duration": "MEDIUM"},
        "divergence": {"armed": "BULLISH", "armed_true": True, "held_last_ts": ts - 42},
        "open_interest": {"value": 80_123_000, "vote": "confirms", "stale_or_missing": False, "z": 1.4,
                          "known_at": ts - 9, "age_s": 9, "age_s_max": 90},
        "reset": {"phase": "RESET_A", "direction": "BULLISH", "led_by": "perp", "phase_ts": ts - 300,
                  "reset_low": 5_990_000, "reset_high": 6_020_000},
        "parts": {"directional_bias": 2.0, "bias_spot": True, "bias_perp": True, "bias_return": True, "long": side,
                  "short": side},
        "thresholds": msgspec.to_builtins(SqueezeParams()),
    }  # fmt: skip


class World:
    """The clock, and what is changed from outside."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self.held: int | None = None  # a second at which the clock stands
        self.killed = ""
        self.killed_ts = 0
        self.executor = True  # whether it answers
        self.asked: list[dict[str, Any]] = []  # backtests
        self.seen: list[str] = []  # paths that were asked for
        self.memory_s = 3_600  # how far back a stream is told again
        self.told: dict[str, int] = {}  # how often each run was cancelled or resumed

    @property
    def ts(self) -> int:
        """The newest second."""
        return self.held if self.held is not None else START + int((time.monotonic() - self._begun) / TICK_S)

    def positions(self) -> list[dict[str, Any]]:
        if self.killed and self.ts > self.killed_ts + 3:
            return []
        mark = float(price("BTC", self.ts))
        return [
            {"asset": "BTC", "instrument": traded("BTC"), "qty": 0.25, "entry_price": 59_900.0, "mark": mark,
             "unrealised_usd": 0.25 * (mark - 59_900), "opened_ts": START - 4_000}
        ]  # fmt: skip

    def switches(self) -> dict[str, Any]:
        return {
            "account": "paper", "state": "halted" if self.killed else "active", "kill_switch": bool(self.killed),
            "reason": self.killed, "at_ns": self.killed_ts * 10**9,
        }  # fmt: skip


def problem(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"type": "about:blank", "title": "refused", "status": status, "detail": detail}, status)


def make(world: World) -> FastAPI:
    """Make the server."""
    app = FastAPI()

    @app.middleware("http")
    async def guard(request: Request, proceed: Any) -> Response:
        world.seen.append(f"{request.method} {request.url.path}?{request.url.query}")
        answer = await proceed(request)
        if not request.url.path.endswith("/report"):
            answer.headers["Content-Security-Policy"] = POLICY
        answer.headers["X-Content-Type-Options"] = "nosniff"
        return answer

    @app.get("/")
    async def page() -> Response:
        data, kind = squeezeview.live()["live.html"]
        return Response(data, media_type=kind)

    @app.get("/assets/{name}")
    async def asset_file(name: str) -> Response:
        data, kind = squeezeview.live()[name]
        return Response(data, media_type=kind)

    _streams(app, world)
    _market(app, world)
    _trading(app, world)
    _backtests(app, world)
    return app


def _event(name: str, data: Any, key: str = "") -> str:
    number = f"id: {key}\n" if key else ""
    return f"{number}event: {name}\ndata: {json.dumps(data)}\n\n"


def _streams(app: FastAPI, world: World) -> None:
    async def follow(last: str | None, told: Any) -> AsyncIterator[str]:
        sent = int(last.partition(".")[0]) if last else world.ts - 1
        if sent < world.ts - world.memory_s:
            missed, sent = sent + 1, world.ts - world.memory_s
            yield _event("gap", {"from": missed, "to": sent + 1})
        while True:
            while sent < world.ts:
                sent += 1
                yield told(sent)
            await asyncio.sleep(TICK_S / 4)

    def streaming(pieces: AsyncIterator[str]) -> StreamingResponse:
        return StreamingResponse(pieces, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @app.get("/v1/stream")
    async def stream(last_event_id: Annotated[str | None, Header()] = None) -> Response:
        async def pieces() -> AsyncIterator[str]:
            yield "retry: 1000\n\n" + _event("schema", {"names": NAMES})
            async for piece in follow(last_event_id, lambda ts: _event("board", board(ts), str(ts))):
                yield piece

        return streaming(pieces())

    @app.get("/v1/assets/{asset}/stream")
    async def asset_stream(asset: str, last_event_id: Annotated[str | None, Header()] = None) -> Response:
        if asset not in ASSETS:
            return problem(404, f"asset was {asset!r}, it is not watched")

        def told(ts: int) -> str:
            text = _event("row", row(asset, ts), str(ts))
            if asset == "BTC" and ts % 60 == 20:
                text += _event("signal", msgspec.to_builtins(signal(ts)), f"{ts}.1")
                text += _event("decision", msgspec.to_builtins(decision(ts)), f"{ts}.2")
            if asset == "BTC" and ts % 60 == 21:
                text += _event("fill", msgspec.to_builtins(fill(ts)), f"{ts}.1")
            return text

        async def pieces() -> AsyncIterator[str]:
            yield _event("schema", {"asset": asset})
            async for piece in follow(last_event_id, told):
                yield piece

        return streaming(pieces())


def _market(app: FastAPI, world: World) -> None:
    @app.get("/v1/board")
    async def now() -> dict[str, Any]:
        minutes = np.arange(world.ts // 60 - 59, world.ts // 60 + 1) * 60
        sparks = {
            asset: (columns(asset, minutes)["score"] * columns(asset, minutes)["direction"]).tolist()
            for asset in ASSETS
        }
        return {"names": NAMES, **board(world.ts), "sparks": sparks, "account": "paper", "state": "RUNNING"}

    @app.get("/v1/assets")
    async def assets() -> dict[str, Any]:
        return {asset: {"traded": traded(asset), "markets": []} for asset in ASSETS}

    @app.get("/v1/instruments")
    async def instruments() -> dict[str, Any]:
        scales = {"quote": "USDT", "price_decimals": 2, "qty_decimals": 3}
        return {traded(asset): {"base": asset, **scales} for asset in ASSETS}

    @app.get("/v1/coverage")
    async def coverage(name: str) -> dict[str, Any]:
        return {"assets": [{"name": name, "first_ts": START - HISTORY_S, "last_ts": world.ts}]}

    @app.get("/v1/assets/{asset}/series")
    async def series(asset: str, request: Request) -> Any:
        start, end = int(request.query_params["from"]), int(request.query_params["to"])
        step = int(request.query_params["step"])
        if step not in STEPS or (end - start) / step > 5_000:
            return problem(422, f"step was {step}")
        return series_of(asset, start, end, step, world.ts)

    @app.get("/v1/assets/{asset}/explain")
    async def explain(asset: str, at: int) -> Any:
        return {
            "asset": asset, "instrument": traded(asset), "price_decimals": 2, "qty_decimals": 3, "second": str(at),
            "explanation": explanation(asset, at),
        }  # fmt: skip

    def market(asset: str, at: int, venue: str, kind: str) -> dict[str, Any]:
        symbol = f"{venue}:{asset}-USDT{'-PERP' if kind == 'linear' else ''}"
        return {
            "venue": venue, "instrument": symbol, "kind": kind, "traded": symbol == traded(asset), "weight": 1.0,
            "share_1h": 0.5 / (at + 1), "share_24h": 0.45 / (at + 1), "delta_1h_usd": 1e6 * float(wave(world.ts, 900, at / 4)),
            "lag_s": 0.12 + at / 10, "completeness_1h": 1.0 - at / 500, "completeness_24h": 0.999, "last_error": "",
        }  # fmt: skip

    places = (("binance", "linear"), ("binance", "spot"), ("bybit", "linear"), ("okx", "spot"), ("coinbase", "spot"))

    @app.get("/v1/assets/{asset}/venues")
    async def venues(asset: str) -> dict[str, Any]:
        found = [market(asset, at, venue, kind) for at, (venue, kind) in enumerate(places)]
        return {"asset": asset, "to": world.ts, "markets": found, "feeds_error": ""}

    @app.get("/v1/quality")
    async def quality() -> dict[str, Any]:
        markets, feeds = [], []
        for asset in ASSETS[:4]:
            for at, (venue, kind) in enumerate(places):
                one = market(asset, at, venue, kind)
                minutes = [1.0 if (n + 7 * at) % 23 else 0.7 for n in range(60)]
                hours = [1.0 if (n + at) % 9 else 0.995 for n in range(24)]
                broken = at == 3
                markets.append(
                    {key: one[key] for key in ("venue", "instrument", "completeness_1h", "completeness_24h", "lag_s")}
                    | {"section": kind, "skew_s": 0.004 * at, "minutes": minutes, "hours": hours,
                       "gaps": {"found": at, "filled": max(0, at - 1), "open": int(at > 0), "missing_open": at},
                       "last_error": "connection was closed by the venue (1006): reconnecting" if broken else ""}
                )  # fmt: skip
                feeds.append({"section": kind, "state": "RUNNING", "alive": not broken, "trades_doubled": 3 * at,
                              "instruments": [one["instrument"]]})  # fmt: skip
        return {"to": world.ts // 60 * 60, "markets": markets, "feeds": feeds, "feeds_error": ""}

    @app.get("/v1/services")
    async def services() -> dict[str, Any]:
        run = {"state": "RUNNING", "messages": world.ts % 10_000, "errors": 0, "last_error": ""}
        gone = {"state": "UNREACHABLE", "last_error": "executor did not answer: see whether it runs"}
        return {"services": {"ingest": run, "cvd": run, "strategy": run, "executor": run if world.executor else gone}}


def series_of(asset: str, start: int, end: int, step: int, newest: int) -> dict[str, Any]:
    """Return whole steps that touch a range, as reporting does."""
    ts = np.arange(max(start // step * step, START - HISTORY_S), min(-(-end // step) * step, newest + 1))
    if not len(ts):
        return {"asset": asset, "step": step, "ts": []}
    found = columns(asset, ts)
    begins = np.flatnonzero(np.diff(ts // step, prepend=-1))
    last = np.append(begins[1:], len(ts)) - 1
    out: dict[str, Any] = {"ts": (ts[begins] // step * step).tolist(), "open": found["open"][begins].tolist()}
    out |= {
        "high": np.maximum.reduceat(found["high"], begins).tolist(),
        "low": np.minimum.reduceat(found["low"], begins).tolist(),
    }
    out |= {name: np.add.reduceat(found[name], begins).tolist() for name in SUMS}
    for name in ("close", "open_interest", "funding_rate_8h", "basis_bps", "quality", "reset_low", "reset_high"):
        out[name] = found[name][last].tolist()
    key = np.rint(found["score"] * 1e6).astype(np.int64) * len(ts) + np.arange(len(ts))[::-1]
    best = len(ts) - 1 - np.maximum.reduceat(key, begins) % len(ts)
    out |= {name: found[name][best].tolist() for name in ("reset_deceleration", "absorption", "failed_breakdown")}
    out |= {
        "score": (found["score"] * found["direction"])[best].tolist(),
        "phase": [PHASES[n] for n in found["phase"][last]],
    }
    return {"asset": asset, "instrument": traded(asset), "step": step, **out}


def _trading(app: FastAPI, world: World) -> None:
    path = "/v1/accounts/{account}"

    @app.get("/v1/accounts")
    async def accounts() -> list[str]:
        return ["paper"]

    def span(request: Request) -> tuple[int, int]:
        asked = request.query_params
        return int(asked.get("from", 0)), min(int(asked.get("to", 2**32)), world.ts + 1)

    @app.get(path + "/signals")
    async def signals(request: Request) -> dict[str, Any]:
        found = said(*span(request))[-1_000:]
        return {"signals": [msgspec.to_builtins(signal(ts)) for ts in found], "next": None}

    @app.get(path + "/decisions")
    async def decisions(request: Request) -> dict[str, Any]:
        mine = request.query_params.get("asset", "BTC") == "BTC"
        return {
            "decisions": [msgspec.to_builtins(decision(ts)) for ts in said(*span(request))[-1_000:] if mine],
            "next": None,
        }

    @app.get(path + "/fills")
    async def fills(request: Request) -> dict[str, Any]:
        start, end = span(request)
        found = said(start - 1, end - 1)[-1_000:]
        return {"fills": [msgspec.to_builtins(fill(ts + 1)) for ts in found], "next": None}

    @app.get(path + "/orders")
    async def orders(request: Request) -> dict[str, Any]:
        return {"orders": [order(ts) for ts in said(*span(request))[-40:]], "next": None}

    @app.get(path + "/equity")
    async def equity(request: Request) -> dict[str, Any]:
        start, end = span(request)
        ts = np.arange(max(start, START - 86_400) // 60 * 60 + 60, end, 60)
        values = 100_000 * (1 + 0.02 * wave(ts, 40_000) + 0.004 * wave(ts, 5_000))
        points = [{"ts": int(at), "equity_usd": float(value)} for at, value in zip(ts, values, strict=True)]
        return {"equity": points[:1_000], "next": points[1_000]["ts"] if len(points) > 1_000 else None}

    @app.get(path + "/positions")
    async def positions() -> dict[str, Any]:
        held = world.positions()
        worth = 100_000 + sum(one["unrealised_usd"] for one in held)
        return {
            "account": "paper",
            "capital_usd": 100_000,
            "equity_usd": worth,
            "cash_usd": 85_000.0,
            "positions": held,
        }

    @app.get(path + "/limits")
    async def limits() -> Any:
        if not world.executor:
            return problem(503, "the executor does not answer")
        used = {"daily_loss_max": 0.012, "leverage_max": 0.15, "drawdown_max": 0.22, "open_positions_max": 1,
                "position_notional_usd_max": 15_000.0, "orders_per_minute_max": 2}  # fmt: skip
        all_limits = msgspec.to_builtins(Limits())
        return world.switches() | {
            "limits": {name: {"used": used.get(name), "limit": limit} for name, limit in all_limits.items()}
        }

    async def switch(request: Request, action: str) -> Any:
        if not world.executor:
            return problem(503, "the executor does not answer")
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return problem(401, "a token with the role executor is needed")
        body = await request.json()
        if action == "kill":
            world.killed, world.killed_ts = body["reason"], world.ts
        elif body["confirm"] != "paper":
            return problem(422, "confirm must be the account's name")
        else:
            world.killed = ""
        return world.switches()

    @app.post(path + "/kill")
    async def kill(request: Request) -> Any:
        return await switch(request, "kill")

    @app.post(path + "/resume")
    async def resume(request: Request) -> Any:
        return await switch(request, "resume")


def _backtests(app: FastAPI, world: World) -> None:
    def spec(**changes: Any) -> dict[str, Any]:
        return {"assets": ["BTC"], "start": "2025-12-20", "end": "2026-01-01", "params": {}} | changes

    def going(run_id: str, state: str, body: dict[str, Any]) -> dict[str, Any]:
        done = world.ts % 100
        progress = {"stage": "scan", "done": done, "total": 100, "unit": "shards", "eta_s": 120.0 - done}
        return {
            "run_id": run_id,
            "state": state,
            "spec": spec(**body),
            "progress": progress if state == "running" else None,
            "error": "",
        }

    @app.get("/v1/parameters/schema")
    async def schema() -> dict[str, Any]:
        _, parts = msgspec.json.schema_components(
            (BacktestSpec, SqueezeParams, Costs, Limits), ref_template="#/$defs/{name}"
        )
        names = {"spec": "BacktestSpec", "params": "SqueezeParams", "costs": "Costs", "limits": "Limits"}
        return {"$defs": parts} | {key: {"$ref": f"#/$defs/{name}"} for key, name in names.items()}

    @app.get("/v1/backtests")
    async def runs() -> dict[str, Any]:
        asked = [going(f"{n:032x}", "queued", body) for n, body in enumerate(world.asked, 0xA51)]
        running = "b" * 32
        told = [going(running, "cancelled" if running in world.told else "running", {"params": {"entry_score": 5.0}})]
        done = [
            spec(
                run_id=letter * 32,
                state="done",
                result_hash="r",
                total_return=value,
                trades=211,
                params={"cooldown_s": 600},
            )
            for letter, value in (("c", 0.0312), ("d", -0.0127))
        ]
        failed = spec(run_id="e" * 32, state="interrupted", result_hash="", total_return=None, trades=None)
        return {"runs": [*asked, *told, *done, failed], "more": False}

    @app.post("/v1/backtests", status_code=202)
    async def ask(request: Request) -> Any:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return problem(401, "a token with the role writer is needed")
        world.asked.append(await request.json())
        return going(f"{0xA50 + len(world.asked):032x}", "queued", world.asked[-1])

    @app.delete("/v1/backtests/{run_id}")
    async def cancel(run_id: str) -> Any:
        world.told[run_id] = world.told.get(run_id, 0) + 1
        return going(run_id, "cancelled", {})

    @app.post("/v1/backtests/{run_id}/resume", status_code=202)
    async def resume(run_id: str) -> Any:
        world.told[run_id] = world.told.get(run_id, 0) + 1
        return going(run_id, "queued", {})

    @app.get("/v1/backtests/compare")
    async def compare(request: Request) -> Response:
        return HTMLResponse(f"<title>side by side</title><p>{' '.join(request.query_params.getlist('run'))}</p>")

    @app.get("/v1/backtests/{run_id}/report")
    async def report(run_id: str) -> Response:
        return HTMLResponse(f"<title>report</title><p>{run_id}</p>")


class Served:
    """A running server, whose plug can be pulled."""

    def __init__(self) -> None:
        self.world = World()
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._port = 0
        self.plug()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def plug(self) -> None:
        """Serve, on the port it had before."""
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self._port))
        self._port = listening.getsockname()[1]
        config = uvicorn.Config(make(self.world), log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        server = self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        self._thread.start()
        eventually(lambda: server.started)

    def pull(self) -> None:
        """Close every connection and listen no more; the clock goes on."""
        assert self._server is not None
        assert self._thread is not None
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(WAIT_S)


@contextmanager
def served() -> Iterator[Served]:
    """Serve the dashboard and its made-up market."""
    server = Served()
    try:
        yield server
    finally:
        server.pull()


# --- a browser before it ---

HEIGHTS = {390: 844, 1280: 900, 1920: 1080}  # px


@contextmanager
def opened(
    browser: Browser,
    url: str,
    name: str = "",
    *,
    width: int = 1280,
    theme: str = "light",
    allowed: tuple[str, ...] = (),
) -> Iterator[Page]:
    """Open a page of a dashboard; at the end nothing may have complained, and nothing been asked of another server.

    What the browser itself says of answers that are meant to fail is `allowed`, by its beginning.
    """
    size = {"width": width, "height": HEIGHTS[width]}
    context = browser.new_context(viewport=size, color_scheme=theme, reduced_motion="reduce")
    page, complaints = context.new_page(), []
    page.on(
        "console",
        lambda said: said.text.startswith(allowed or ("\0",)) or complaints.append(f"console {said.type}: {said.text}"),
    )
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on(
        "request",
        lambda asked: asked.url.startswith((url, "data:")) or complaints.append(f"request: {asked.url}"),
    )
    try:
        page.goto(f"{url}/#/{name}")
        page.wait_for_selector("#page[data-ready]")
        expect(page.locator(".line")).to_contain_text("live")
        yield page
    finally:
        context.close()
    assert complaints == []


def until(page: Page, condition: str, given: Any = None) -> None:
    """Wait for a condition; the page's policy allows no eval, so it is asked from here, a frame at a time."""
    deadline = time.monotonic() + WAIT_S
    while not page.evaluate(condition, given):
        assert time.monotonic() < deadline, f"it never came to pass: {condition} {given}"
        page.evaluate("() => new Promise(requestAnimationFrame)")
