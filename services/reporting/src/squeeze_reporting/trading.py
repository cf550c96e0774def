"""What we said and what came of it, over HTTP: an account's signals, decisions, orders, fills, positions and equity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Response

from squeeze_reporting.answers import answer, second
from squeeze_reporting.market import From, To
from squeezecore.adapters import accounts, tradestore
from squeezecore.adapters.service import PAGE, Kit, PageSize
from squeezecore.adapters.store import TS_MAX, Store
from squeezecore.errors import SqueezeError
from squeezecore.ledger import Ledger
from squeezecore.market import Instrument
from squeezecore.trading import USD_E8, Fill

Account = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,32}$", description="As `squeezeflow up --account` names it.")]


def routes(kit: Kit) -> APIRouter:
    """Return the paths below /v1/accounts."""
    router = APIRouter(prefix="/v1/accounts", tags=["trading"])
    store = kit.store
    assert store is not None

    def span(start: str | None, end: str | None) -> tuple[int, int]:
        return second(start, "from", 0), second(end, "to", TS_MAX)

    @router.get("")
    async def listed() -> Response:
        """List the accounts that ever traded here."""
        return answer(await kit.in_thread(_accounts, store))

    @router.get("/{account}/signals")
    async def signals(account: Account, start: From = None, end: To = None, limit: PageSize = PAGE) -> Response:
        """Give the opinions of `[from, to)`, by second."""
        found = await kit.in_thread(tradestore.signals, store, account, *span(start, end), limit + 1)
        return _page("signals", found, limit, "ts")

    @router.get("/{account}/decisions")
    async def decisions(
        account: Account, asset: str | None = None, start: From = None, end: To = None, limit: PageSize = PAGE
    ) -> Response:
        """Give the records of `[from, to)` with their reasons: what was seen, what it led to, what blocked it."""
        run, wanted = tradestore.live_run(account), None if asset is None else asset.upper()
        found = await kit.in_thread(store.decisions, run, wanted, *span(start, end))
        found = sorted(found, key=lambda decision: (decision.ts, decision.asset))
        return _page("decisions", found[: limit + 1], limit, "ts")

    @router.get("/{account}/orders")
    async def orders(account: Account, start: From = None, end: To = None, limit: PageSize = PAGE) -> Response:
        """Give the orders decided in `[from, to)`, each with what became of it."""
        first, last = span(start, end)
        found = await kit.in_thread(tradestore.orders, store, account, first, last, limit + 1)
        words = await kit.in_thread(tradestore.updates, store, account, first, TS_MAX)
        by_order: dict[str, list[Any]] = {}
        for word in words:
            by_order.setdefault(word.order_id, []).append(word)
        entries = [msgspec.to_builtins(order) | {"updates": by_order.get(order.id, [])} for order in found]
        return _page("orders", entries, limit, "decided_ts")

    @router.get("/{account}/fills")
    async def fills(account: Account, start: From = None, end: To = None, limit: PageSize = PAGE) -> Response:
        """Give the fills of `[from, to)`, by second: prices and quantities at their instrument's scales, money in usd_e8."""
        found = await kit.in_thread(tradestore.fills, store, account, *span(start, end), limit + 1)
        return _page("fills", found, limit, "ts")

    @router.get("/{account}/equity")
    async def equity(account: Account, start: From = None, end: To = None, limit: PageSize = PAGE) -> Response:
        """Give what the account was worth, a point a minute and at each fill, in USD."""
        ts, values = await kit.in_thread(tradestore.equity, store, account, *span(start, end), limit + 1)
        points = [
            {"ts": when, "equity_usd": value / USD_E8} for when, value in zip(ts.tolist(), values.tolist(), strict=True)
        ]
        return _page("equity", points, limit, "ts")

    @router.get("/{account}/positions")
    async def positions(account: Account) -> Response:
        """Give what is held now, by the ledger folded over all fills and funding, valued at the newest marks."""
        found = await kit.bus.get(accounts.BUCKET, accounts.plan_key(account))
        plan = (
            accounts.Plan() if found is None else accounts.decoded(accounts.plan_key(account), found[0], accounts.Plan)
        )
        return answer(await kit.in_thread(_positions, store, account, plan.capital_usd * USD_E8))

    return router


def _page(name: str, found: Sequence[Any], limit: int, key: str) -> Response:
    """Write a page; `next` is the start that gives the following one.

    A second's records stay together: a page ends before the second that does not fit.
    """
    entries, following = list(found), None
    if len(entries) > limit:
        following = _when(entries[limit], key)
        whole = [entry for entry in entries[:limit] if _when(entry, key) < following]
        if not whole:  # a single second fills it: then there is no better place
            whole, following = entries[:limit], following + 1
        entries = whole
    return answer({name: entries, "next": following})


def _when(entry: Any, key: str) -> int:
    return int(entry[key] if isinstance(entry, dict) else getattr(entry, key))


def _accounts(store: Store) -> list[str]:
    found = store.query("SELECT DISTINCT run_id FROM equity FINAL ORDER BY run_id")["run_id"].to_pylist()
    return [name.removeprefix("live:") for name in found]


def _positions(store: Store, account: str, capital_usd_e8: int) -> dict[str, Any]:
    fills = tradestore.fills(store, account)
    if len(fills) == tradestore.ROWS_MAX:
        raise SqueezeError(
            f"fills were {len(fills)} or more, the limit of one fold: ask the executor, GET /v1/positions"
        )
    listed = store.instruments()
    ledger = Ledger(capital_usd_e8)
    for fill in fills:
        ledger.apply(fill, listed[fill.instrument])
    for payment in tradestore.payments(store, account):
        ledger.receive_funding(payment.received_usd_e8)
    marks = {name: _mark(store, fills, name) for name in ledger.positions}
    ledger.mark(marks)
    return {
        "account": account,
        "capital_usd": capital_usd_e8 / USD_E8,
        "equity_usd": ledger.check() / USD_E8,
        "cash_usd": ledger.cash_usd_e8 / USD_E8,
        "positions": [_entry(ledger, listed[name], marks[name]) for name in sorted(ledger.positions)],
    }


def _mark(store: Store, fills: Sequence[Fill], name: str) -> int:
    """Return the newest mark of an instrument, at its price scale."""
    asset = next(fill.asset for fill in reversed(fills) if fill.instrument == name)
    found = store.query(
        "SELECT argMax(mark, ts) AS mark FROM rows_1s FINAL WHERE asset = {asset:String}", {"asset": asset}
    )
    return int(found["mark"][0].as_py())


def _entry(ledger: Ledger, instrument: Instrument, mark: int) -> dict[str, Any]:
    position = ledger.positions[instrument.id]
    return {
        "asset": position.asset,
        "instrument": instrument.id,
        "qty": position.qty / 10**instrument.qty_decimals,
        "entry_price": abs(position.cost_usd_e8 / USD_E8 / (position.qty / 10**instrument.qty_decimals)),
        "mark": mark / 10**instrument.price_decimals,
        "unrealised_usd": ledger.unrealised_of(instrument.id) / USD_E8,
        "opened_ts": position.opened_ts,
    }
