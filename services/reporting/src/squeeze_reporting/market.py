"""What the market said, over HTTP: assets, rows, bars, coverage, gaps, and why a second was scored as it was."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, HTTPException, Query, Request, Response

from squeeze_reporting.answers import ARROW, answer, body, second, table
from squeezecore.adapters import accounts, explaining, operations, runner
from squeezecore.adapters.assets import check_assets, find_asset
from squeezecore.adapters.bus import Conflict
from squeezecore.adapters.service import PAGE, PAGE_MAX, Kit, PageSize, writer
from squeezecore.adapters.store import Store
from squeezecore.errors import UsageError
from squeezecore.market import DAY_S
from squeezecore.spec import AssetConfig, canonical

BUCKET, KEY = accounts.BUCKET, accounts.ASSETS

TIME = "UTC: 2026-01-31, 2026-01-31T12:00:00Z, or seconds."
From = Annotated[str | None, Query(alias="from", description=f"The first second, {TIME}")]
To = Annotated[str | None, Query(alias="to", description=f"The second after the last, {TIME}")]


def routes(kit: Kit) -> APIRouter:
    """Return the paths below /v1 that tell of the market."""
    router = APIRouter(prefix="/v1", tags=["market"])
    store = kit.store
    assert store is not None

    async def in_force() -> tuple[dict[str, AssetConfig], int]:
        found = await kit.bus.get(BUCKET, KEY)
        if found is None:
            return await kit.in_thread(operations.assets, store), 0
        return msgspec.json.decode(found[0], type=dict[str, AssetConfig]), found[1]

    @router.get("/assets")
    async def assets() -> Response:
        """Say what is watched: each asset's markets with their weights, and the instrument that is traded."""
        watched, revision = await in_force()
        return answer(watched, headers={"ETag": f'"{revision}"'})

    @router.put("/assets", dependencies=[writer()], openapi_extra=_BODY)
    async def put_assets(request: Request, if_match: Annotated[str | None, Header()] = None) -> Response:
        """Change what is watched, whole; in force at the next UTC minute. `If-Match` guards against a change in between."""
        wanted = await body(request, dict[str, AssetConfig])
        check_assets("body", wanted)
        expected = _revision(if_match)
        text = canonical(wanted)
        try:
            revision = await kit.bus.put(BUCKET, KEY, text, revision=expected)
        except Conflict as error:
            raise HTTPException(412, f"list of assets was changed in between ({error}): read it again") from error
        await kit.in_thread(store.put_config, operations.ASSETS_KEY, text.decode())
        return answer(wanted, headers={"ETag": f'"{revision}"'})

    @router.get("/assets/{asset}/rows")
    async def rows(
        request: Request, asset: str, start: From = None, end: To = None, limit: PageSize = PAGE
    ) -> Response:
        """Give an asset's seconds in `[from, to)`, in units people use; JSON, or Arrow by its media type.

        Without a start, the last ones. `next` is the start of the following page.
        """
        entry = operations.instrument_for
        listed = await kit.in_thread(entry, store, "rows", asset.upper())
        first, last = _range(start, end, limit, await kit.in_thread(_last_second, store, asset.upper()))
        block = await kit.in_thread(store.read_rows, asset.upper(), first, min(last, first + PAGE_MAX))
        found = operations.block_table(block, listed).slice(0, limit)
        following = int(found["ts"][-1].as_py()) + 1 if len(found) and int(found["ts"][-1].as_py()) + 1 < last else None
        head = {"asset": asset.upper(), "instrument": listed.id, "from": first, "to": last, "next": following}
        return table(request, found, head, "rows")

    @router.get("/instruments")
    async def instruments() -> Response:
        """List the instruments that the store knows."""
        return answer(await kit.in_thread(store.instruments))

    @router.get("/instruments/{instrument}/bars")
    async def bars(
        request: Request,
        instrument: str,
        every: str = "1m",
        start: From = None,
        end: To = None,
        limit: PageSize = PAGE,
    ) -> Response:
        """Give an instrument's bars that begin in `[from, to)`; `every` is 1s, 1m, 5m or 1h."""
        known = await kit.in_thread(store.instruments)
        if instrument not in known:
            raise HTTPException(
                404, f"instrument was {instrument!r}, known are {', '.join(sorted(known)) or 'none yet'}"
            )
        length = {"1s": 1, "1m": 60, "5m": 300, "1h": 3600}.get(every)
        if length is None:
            raise UsageError(f"every was {every!r}, it can be {', '.join(operations.EVERY)}")
        covered = await kit.in_thread(store.coverage, instrument)
        newest = max((line.last_ts for line in covered), default=0) + 1
        first, last = _range(start, end, limit * length, newest)
        last = min(last, first + limit * length)
        found = await kit.in_thread(operations.bars_table, store, known[instrument], first, last, every)
        return table(request, found, {"instrument": instrument, "every": every, "from": first, "to": last}, "bars")

    @router.get("/coverage")
    async def coverage(name: str | None = None) -> Response:
        """Say which days are stored, how whole they are, and how much room they take."""
        return answer(await kit.in_thread(operations.coverage, store, name))

    @router.get("/gaps")
    async def gaps(
        instrument: str | None = None, start: From = None, end: To = None, limit: PageSize = PAGE
    ) -> Response:
        """List holes in trade ids: found, filled, open."""
        first, last = second(start, "from", 0), second(end, "to", 2**32 - 1)
        found = await kit.in_thread(store.gaps, instrument, first, last)
        return answer({"gaps": found[-limit:], "of": len(found)})

    @router.get("/assets/{asset}/explain")
    async def explain(asset: str, at: str, params: Annotated[list[str] | None, Query()] = None) -> Response:
        """Say why a second was scored as it was: every input, its known-at and its threshold; `params` are NAME=VALUE."""
        changes = dict(each.partition("=")[::2] for each in params or [])
        made = runner.make_params(None, {name: _number(value) for name, value in changes.items()})
        find_asset(await kit.in_thread(operations.assets, store), asset.upper())
        when = second(at, "at", 0)
        return answer(await kit.in_thread(explaining.explain_second, store, asset.upper(), when, made))

    return router


def _revision(text: str | None) -> int | None:
    """Read an ETag as the bus's revision; None where nothing is guarded."""
    if text is None or text == "*":
        return None
    bare = text.strip().removeprefix("W/").strip('"')
    if not bare.isdigit():
        raise UsageError(f"If-Match was {text!r}, it is the ETag of GET /v1/assets")
    return int(bare)


def _number(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _last_second(store: Store, asset: str) -> int:
    """Return the end of an asset's rows; 0 where there are none."""
    found = store.query(
        "SELECT toUnixTimestamp(max(ts)) AS ts, count() AS n FROM rows_1s WHERE asset = {asset:String}",
        {"asset": asset},
    )
    return int(found["ts"][0].as_py()) + 1 if found["n"][0].as_py() else 0


def _range(start: str | None, end: str | None, span_s: int, newest_s: int) -> tuple[int, int]:
    """Return the seconds that are meant: the last ones where nothing is said."""
    last = second(end, "to", max(newest_s, 0))
    first = second(start, "from", max(last - span_s, 0))
    if last - first > 366 * DAY_S:
        raise UsageError(f"range was {last - first} s, the limit is {366 * DAY_S}: ask for less at once")
    if first > last:
        raise UsageError(f"from was {first} and to {last}, the end must not lie before the start")
    return first, last


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": msgspec.json.schema(dict[str, AssetConfig])}},
    }
}

__all__ = ["ARROW", "routes"]
