"""The dashboard over HTTP: the page, its streams and the reads that go with them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, HTTPException, Query, Request, Response

import squeezeview
from squeeze_reporting import limits, parameters, quality, series
from squeeze_reporting.answers import ARROW, answer, second, table
from squeeze_reporting.board import ROW_NAMES, SCHEMA
from squeeze_reporting.channel import Channel, EventStream, Key, encode, read_id
from squeeze_reporting.live import Live
from squeeze_reporting.market import From, To
from squeeze_reporting.peers import Peers
from squeeze_reporting.trading import Account
from squeezecore.adapters import operations
from squeezecore.adapters.assets import find_asset
from squeezecore.adapters.service import Kit
from squeezecore.errors import UsageError
from squeezecore.market import DAY_S
from squeezecore.spec import AssetConfig, nearest

VIEWERS_MAX = 500
RANGE_S_MAX = 366 * 20 * DAY_S
ASSETS = {"live.js", "live.css"}
EXECUTOR_ACTIONS = ("kill", "resume", "state")
LastEventId = Annotated[str | None, Header(alias="last-event-id", description="The id of the last event one has.")]
After = Annotated[str | None, Query(description="The same, for a first connection: begin after this second.")]
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}, "description": "Events."}}
SERIES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}, ARROW: {}}, "description": "Columns, ascending."}
}


def routes(kit: Kit, live: Live, peers: Peers) -> APIRouter:
    """Return the dashboard's paths."""
    router = APIRouter()
    for part in (_page(), _streams(live), _reads(kit, live, peers), _accounts(kit, live, peers)):
        router.include_router(part)
    return router


# --- the page ---


def _page() -> APIRouter:
    router = APIRouter(tags=["page"], include_in_schema=False)
    files: dict[str, tuple[bytes, str, str]] = {}

    async def file(request: Request, name: str) -> Response:
        if not squeezeview.live_built():
            raise HTTPException(
                501, "the dashboard's front end is not built here: make web builds it; /docs lists the API"
            )
        if not files or not request.url.query:  # built anew: who asks for the page gets it
            for key, (data, kind) in (await asyncio.to_thread(squeezeview.live)).items():
                files[key] = (data, kind, f'"{hashlib.sha256(data).hexdigest()[:20]}"')
        data, kind, tag = files[name]
        # Scripts are asked for with their hash, so that they may be kept; the page itself is asked for anew.
        hashed = bool(request.url.query) and name in ASSETS
        keep = "public, max-age=31536000, immutable" if hashed else "no-cache"
        headers = {"ETag": tag, "Cache-Control": keep}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(data, headers=headers, media_type=kind)

    @router.get("/")
    async def page(request: Request) -> Response:
        return await file(request, "live.html")

    @router.get("/assets/{name}")
    async def asset(request: Request, name: str) -> Response:
        if name not in ASSETS:
            raise HTTPException(404, f"file was {name[:100]!r}, there are {', '.join(sorted(ASSETS))}")
        return await file(request, name)

    return router


# --- streams ---


def _streams(live: Live) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["live"])

    def stream(
        channel: Channel, last: str | None, after: str | None, schema: Mapping[str, Any], history: Any
    ) -> Response:
        if live.counts.viewers >= VIEWERS_MAX:
            raise HTTPException(
                503, f"viewers were {live.counts.viewers}, the limit is {VIEWERS_MAX}: close some", {"Retry-After": "5"}
            )
        key = read_id(last) or read_id(after)
        greeting = encode("schema", msgspec.json.encode(schema), None)
        return EventStream(channel, live.counts, after=key, greeting=greeting, history=history)

    @router.get("/stream", responses=STREAM)
    async def board(last: LastEventId = None, after: After = None) -> Response:
        """Watch all assets: an event `board` each second, its id the second; `schema` first says what the values are.

        With the id of the last event one has, the seconds since come first: each once, none left out. Seconds further back
        than an hour are skipped and named by an event `gap`.
        """
        return stream(live.board, last, after, SCHEMA, live.boards_after)

    @router.get("/assets/{asset}/stream", responses=STREAM)
    async def rows(asset: str, last: LastEventId = None, after: After = None) -> Response:
        """Watch an asset: an event `row` each second; `signal`, `decision`, `order` and `fill` as they come.

        Resumes like the board, up to six hours back. What is no second may come twice then; it has an id of its own.
        """
        name = asset.upper()
        _known(live, name)

        def history(key: Key, end_s: int) -> AsyncIterator[bytes]:
            return live.rows_after(name, key, end_s)

        instrument = live.lanes[name].instrument
        schema = {
            "names": ROW_NAMES, "asset": name, "instrument": instrument.id,
            "price_decimals": instrument.price_decimals, "qty_decimals": instrument.qty_decimals,
        }  # fmt: skip
        return stream(live.channels[name], last, after, schema, history)

    @router.get("/board")
    async def shown() -> Response:
        """Give the board as it stands, with the names of its values and an hour of each asset's scores."""
        return answer(live.shown(), headers={"Cache-Control": "no-store"})

    return router


def _known(live: Live, asset: str) -> None:
    if asset in live.lanes and asset in live.channels:
        return
    if not live.lanes:
        raise HTTPException(503, f"no asset is told yet: {live.state.lower()}", {"Retry-After": "1"})
    raise HTTPException(404, f"asset was {asset[:50]!r}, it is not watched: {nearest(asset, live.lanes)}")


# --- reads ---


def _reads(kit: Kit, live: Live, peers: Peers) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["live"])
    store = kit.store
    assert store is not None

    scans = series.Scans(store)

    async def config_of(asset: str) -> AssetConfig:
        watched = live.configs or await kit.in_thread(operations.assets, store)
        return find_asset(watched, asset)

    async def end_of(names: list[str]) -> int:
        """Return the end of the last whole minute that there are bars of."""
        found = await kit.in_thread(
            store.query,
            "SELECT toUnixTimestamp(max(ts)) AS last FROM bars_1m WHERE instrument IN {names:Array(String)}",
            {"names": names},
        )
        return int(found["last"][0].as_py()) + quality.MINUTE_S if found["last"][0].as_py() else 0

    @router.get("/assets/{asset}/series", responses=SERIES)
    async def series_of(
        request: Request,
        asset: str,
        start: From = None,
        end: To = None,
        step: Annotated[int | None, Query(description=f"Seconds: {', '.join(map(str, series.STEPS))}.")] = None,
    ) -> Response:
        """Give columns for charts over `[from, to)`: in steps as long as asked for, or so that they are at most 2,000.

        Deltas and volumes are sums, a score is the one furthest from zero with its direction's sign, quality the mean; all
        else is the step's last. What the kernel says is there for ranges up to three days.
        """
        name = asset.upper()
        instrument = await kit.in_thread(operations.instrument_for, store, "rows", name)
        if end is None:
            newest = live.lanes[name].last_ts if name in live.lanes else 0
            last = (newest or await kit.in_thread(_newest, store, name)) + 1
        else:
            last = second(end, "to", 0)
        first = second(start, "from", max(0, last - (step or 1) * 1_000))
        if first > last or last - first > RANGE_S_MAX:
            raise UsageError(f"from was {first} and to {last}, to must not lie before it, nor twenty years after")
        wide = series.check_step(step, last - first)
        found = await kit.in_thread(series.read, store, scans, live.schedule, name, instrument, first, last, wide)
        if ARROW in request.headers.get("accept", ""):
            return table(request, found, {}, "series")
        return answer({"asset": name, "instrument": instrument.id, "step": wide, **found.to_pydict()})

    @router.get("/assets/{asset}/venues")
    async def venues(asset: str) -> Response:
        """Say what each market of an asset brings: its share of the flow, how whole its seconds are, how late it is."""
        config = await config_of(asset.upper())
        names = [market.instrument for market in config.markets]
        end_s = await end_of(names)
        days = await kit.in_thread(quality.minutes, store, names, end_s)
        listed = await kit.in_thread(store.instruments)
        feeds, why = await peers.feeds()
        kinds = {name: str(listed[name].kind) for name in names if name in listed}
        markets = quality.venues(config, kinds, days, feeds)
        return answer({"asset": asset.upper(), "to": end_s or None, "markets": markets, "feeds_error": why})

    @router.get("/quality")
    async def data_quality() -> Response:
        """Say how good the data is: each feed's lag, skew and holes, each market's gaps and completeness."""
        watched = live.configs or await kit.in_thread(operations.assets, store)
        names = sorted({market.instrument for config in watched.values() for market in config.markets})
        end_s = await end_of(names)
        days = await kit.in_thread(quality.minutes, store, names, end_s)
        gaps = await kit.in_thread(quality.gap_counts, store, max(0, end_s - DAY_S), end_s)
        feeds, why = await peers.feeds()
        markets = []
        for name in names:
            feed = quality.feed_of(feeds, name)
            none = {"found": 0, "filled": 0, "open": 0, "missing_open": 0, "newest": []}
            markets.append(
                {
                    "instrument": name,
                    "venue": name.partition(":")[0],
                    "section": None if feed is None else feed.get("section"),
                    "lag_s": None if feed is None else feed.get("lag_s"),
                    "skew_s": None if feed is None else feed.get("skew_s"),
                    "gaps": gaps.get(name, none),
                    "last_error": None if feed is None else feed.get("last_error", ""),
                    **quality.strips(days[name]),
                }
            )
        return answer({"to": end_s or None, "feeds": feeds, "feeds_error": why, "markets": markets})

    @router.get("/services")
    async def services() -> Response:
        """Give every service's own status; of one that does not answer, why."""
        return answer({"services": await peers.statuses()})

    @router.get("/parameters/schema")
    async def schema() -> Response:
        """Describe what a backtest can be asked with: fields, titles, defaults and limits, made from the models."""
        return answer(parameters.schema(), headers={"Cache-Control": "max-age=60"})

    return router


def _newest(store: Any, asset: str) -> int:
    found = store.query(
        "SELECT toUnixTimestamp(max(ts)) AS last FROM rows_1s WHERE asset = {asset:String}", {"asset": asset}
    )
    return int(found["last"][0].as_py())


# --- accounts ---


def _accounts(kit: Kit, live: Live, peers: Peers) -> APIRouter:
    router = APIRouter(prefix="/v1/accounts", tags=["trading"])

    @router.get("/{account}/limits")
    async def limits_of(account: Account) -> Response:
        """Give each limit with how much of it is used, by the account's last word on the bus."""
        return answer(await limits.used(kit.bus, account, live.lanes))

    def passed_on(action: str) -> Any:
        async def act(request: Request, account: Account) -> Response:
            switches = await peers.json("executor", "/v1/switches")
            if switches.get("account") != account:
                raise HTTPException(404, f"account was {account}, the executor trades {switches.get('account')}")
            given = request.headers.get("authorization")
            headers = {"Content-Type": "application/json"} | ({"Authorization": given} if given else {})
            body = await request.body()
            said = await peers.ask("executor", f"/{action}", method="POST", body=body, headers=headers)
            kind = said.headers.get("content-type", "application/json")
            return Response(said.content, said.status_code, media_type=kind)

        act.__doc__ = f"Pass `{action}` on to the executor, whose token it takes."
        return act

    for action in EXECUTOR_ACTIONS:
        router.add_api_route(f"/{{account}}/{action}", passed_on(action), methods=["POST"], name=action)
    return router
