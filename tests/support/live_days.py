"""Days of live trading in a real store: rows are published on a bus in memory, strategy and executor trade them, tables fill."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from squeeze_executor import keeping as executing
from squeeze_executor.trading import Executor
from squeeze_strategy import keeping as deciding
from squeeze_strategy.deciding import Strategy
from squeezecore import tape
from squeezecore.adapters import flowstore
from squeezecore.adapters.accounts import Plan, plan_key
from squeezecore.adapters.catalogue import key
from squeezecore.adapters.membus import MemServer
from squeezecore.adapters.service import Kit
from squeezecore.adapters.store import Store
from squeezecore.market import DAY_S, FundingSeries, Instrument, Rows, concat, cut
from squeezecore.simulator import WorldSpec, asset_config, simulate_day, simulate_trades
from squeezecore.simulator import instruments as listed
from squeezecore.spec import AssetConfig, canonical, day_start_s
from squeezecore.wire import AssetChange, RowBatch, TradeBatch
from support import virtual
from support.backtest_worlds import World, scan_of
from support.trading_worlds import batches_of, facts_of

CHUNK = 600  # seconds of rows between two waits
WAIT_S = 6.0  # of virtual time, so that snapshots are made


def configs_of(instruments: Mapping[str, Instrument]) -> dict[str, AssetConfig]:
    return {asset: AssetConfig(traded=one.id, markets=()) for asset, one in instruments.items()}


def trade(
    store: Store,
    instruments: Mapping[str, Instrument],
    configs: Mapping[str, AssetConfig],
    batches: Sequence[RowBatch],
    *,
    funding: Mapping[str, FundingSeries],
    params: Mapping[int, Mapping[str, Any]] | None = None,
    plan: Plan | None = None,
) -> None:
    """Let a paper account live through rows, each stored once it was published; `instruments` are traded, by asset.

    `params` are asked for before the chunk of their number.
    """
    params, plan = params or {0: {}}, plan or Plan()

    async def main() -> None:
        server = MemServer()
        bus = server.connect()
        for instrument in instruments.values():
            await bus.put("instruments", key(instrument.id), canonical(instrument))
        await bus.put("config", "assets", canonical(configs))
        await bus.put("config", plan_key("paper"), canonical(plan))
        await bus.publish_all(facts_of(instruments, funding))
        strategy = Strategy(
            Kit("strategy", None, server.connect(), store), deciding.Keep(store, "paper"), "paper", Plan()
        )
        executor = Executor(
            Kit("executor", None, server.connect(), store), executing.Keep(store, "paper"), "paper", Plan(), "me"
        )
        await bus.put("config", "params", canonical(params[0]))
        tasks = [asyncio.create_task(one.run()) for one in (strategy, executor)]
        places = {asset: place for place, asset in enumerate(sorted(instruments))}
        for at in range(0, len(batches), CHUNK):
            part = batches[at : at + CHUNK]
            if at // CHUNK in params:
                await bus.put("config", "params", canonical(params[at // CHUNK]))
                await asyncio.sleep(0.5)
            await bus.publish_all(part)
            rows = concat([batch.rows for batch in part])
            codes = np.array([places[asset] for batch in part for asset in batch.assets])
            flowstore.insert_row_block(store, sorted(instruments), codes, rows)
            while executor.settling.settled_ts < part[-1].ts - 1:
                await asyncio.sleep(0.1)
                for task in tasks:
                    if task.done():
                        task.result()
            await asyncio.sleep(WAIT_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    for instrument in instruments.values():
        store.put_instrument(instrument)
    flowstore.put_asset_changes(
        store, [AssetChange(asset=asset, from_ts=0, config=config) for asset, config in configs.items()]
    )
    for asset, series in funding.items():
        store.insert_funding(instruments[asset].id, series)
    virtual.run(main())


def simulated_window(store: Store, asset: str, day: dt.date, first: int, last: int, seed: int = 21) -> None:
    """Live through seconds `first..last` of a simulated day, the rows before it stored; its prints are recorded."""
    world = WorldSpec(seed=seed, start=day, days=1, assets=(asset,))
    config = asset_config(asset)
    start_s, end_s = day_start_s(day) + first, day_start_s(day) + last
    for instrument in listed(asset):
        store.put_instrument(instrument)
    rows: list[Rows] = []
    for n in (-2, -1, 0):
        made = simulate_day(world, asset, day + dt.timedelta(n))
        rows.append(made.rows)
        store.insert_open_interest(config.traded, made.open_interest)
        store.insert_funding(config.traded, made.funding)
        store.insert_rows(asset, before(made.rows, start_s))
        for name, bars in made.bars.items():
            store.insert_bars(name, before(bars, end_s))
    for name, prints in simulate_trades(world, asset, start_s, end_s).items():
        flowstore.insert_trades(store, [TradeBatch("binance", "any", 0, (name,), (prints,))])
    window = cut(rows[2], first, last)
    traded = next(one for one in listed(asset) if one.id == config.traded)
    trade(store, {asset: traded}, {asset: config}, batches_of({asset: window}), funding={})


def moved(drawn: World, by_s: int) -> World:
    """Let the first day's seconds come later, so that they end with the day and what is held goes over midnight."""
    day = drawn.spec.start
    end_s = day_start_s(day) + DAY_S
    rows, scans = {}, {}
    for asset, block in drawn.rows.items():
        rows[asset] = block._replace(ts=block.ts + np.where(block.ts < end_s, by_s, 0))
        features = tape.unpack(drawn.scans[day][asset].tape)
        stamps = {name: getattr(features, name) + by_s for name in ("ts", "swing_ts", "reset_ts", "part_ts")}
        scans[asset] = scan_of(asset, day, before(rows[asset], end_s), features._replace(**stamps))
    return drawn._replace(rows=rows, scans={**drawn.scans, day: scans})


def before(block: Any, end_s: int) -> Any:
    return cut(block, 0, int(np.searchsorted(block.ts, end_s)))
