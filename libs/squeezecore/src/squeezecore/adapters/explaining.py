"""Why: one trade of a run, or any second of an asset, from the stored rows and the kernel that trades.

Records keep a score's parts; every input with its value, its known-at and its threshold comes from scanning the 28 hours
before the second again (docs/adr/0003).
"""

from __future__ import annotations

from typing import Any

import msgspec

from squeezecore import squeeze
from squeezecore.adapters import operations
from squeezecore.adapters.assets import find_asset
from squeezecore.adapters.store import Store
from squeezecore.adapters.tables import BacktestRun
from squeezecore.errors import DataHoleError, UsageError
from squeezecore.market import WARMUP_S
from squeezecore.report import Trade
from squeezecore.spec import BacktestSpec
from squeezecore.squeeze import SqueezeParams, params_from
from squeezecore.trading import Decision


class SecondReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that made one second's score."""

    asset: str
    instrument: str
    price_decimals: int
    qty_decimals: int
    second: str  # UTC
    params: SqueezeParams
    explanation: dict[str, Any]


class TradeReport(msgspec.Struct, frozen=True, kw_only=True):
    """One trade: what was decided, what it brought, and the seconds of both decisions."""

    run_id: str
    number: int
    of: int
    trade: Trade
    price_decimals: int
    qty_decimals: int
    decisions: tuple[Decision, ...]
    entry: SecondReport
    exit: (
        SecondReport | None
    )  # none where the exit was no decision of the strategy (a hole, a liquidation, the run's end)


def explain_second(store: Store, asset: str, ts: int, params: SqueezeParams) -> SecondReport:
    """Scan the 28 hours before a second again and name every input of its score."""
    config = find_asset(operations.assets(store), asset)
    rows = operations.read_rows(store, asset, ts - WARMUP_S - 3600, ts + 1)
    if int(rows.ts[-1]) != ts:
        last = operations.utc(int(rows.ts[-1]))
        raise DataHoleError(
            f"second was {operations.utc(ts)}, {asset} has no row there: the nearest before it is {last}"
        )
    instrument = store.instruments()[config.traded]
    return SecondReport(
        asset=asset,
        instrument=config.traded,
        price_decimals=instrument.price_decimals,
        qty_decimals=instrument.qty_decimals,
        second=operations.utc(ts),
        params=params,
        explanation=squeeze.explain_second(params, rows),
    )


def find_run(store: Store, name: str) -> BacktestRun:
    """Return a finished run by its id, the beginning of it, or `last`."""
    runs = [run for run in store.runs() if run.state == "done"]
    if not runs:
        raise UsageError("the store holds no finished run: squeezeflow backtest makes one")
    if name == "last":
        return runs[0]
    found = [run for run in runs if run.run_id.startswith(name)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(run.run_id[:12] for run in runs[:8])
    what = "no finished run begins so" if not found else f"{len(found)} runs begin so"
    raise UsageError(f"run was {name!r}, {what}: known are {known}; squeezeflow runs lists all")


def explain_trade(store: Store, run_name: str, number: int) -> TradeReport:
    """Say why trade `number` (1 is the first) of a run was taken and left."""
    run = find_run(store, run_name)
    trades = store.trades(run.run_id)
    if not 1 <= number <= len(trades):
        hint = f"choose 1 to {len(trades)}" if trades else "this run made none"
        raise UsageError(f"trade was {number}, run {run.run_id[:12]} has {len(trades)}: {hint}")
    trade = trades[number - 1]
    params = params_from(msgspec.json.decode(run.spec, type=BacktestSpec).params)
    left = exit_decision_ts(store, run.run_id, trade)
    entry = explain_second(store, trade.asset, trade.decided_ts, params)
    return TradeReport(
        run_id=run.run_id,
        number=number,
        of=len(trades),
        trade=trade,
        price_decimals=entry.price_decimals,
        qty_decimals=entry.qty_decimals,
        decisions=tuple(
            decision
            for ts in (trade.decided_ts, left or trade.exit_ts)
            for decision in store.decisions(run.run_id, trade.asset, ts, ts + 1)
        ),
        entry=entry,
        exit=explain_second(store, trade.asset, left, params) if left else None,
    )


def exit_decision_ts(store: Store, run_id: str, trade: Trade) -> int | None:
    """Return the second whose close decided a trade's exit, where the strategy decided it."""
    table = store.query(
        "SELECT ts FROM decisions FINAL WHERE run_id = {run:String} AND asset = {asset:String} AND order_id = {order:String} "
        "AND kind = 'exit' ORDER BY ts LIMIT 1",
        {"run": run_id, "asset": trade.asset, "order": trade.exit_order_id},
    )
    return int(table["ts"][0].as_py()) if len(table) else None
