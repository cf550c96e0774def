"""Is the stored flow of a day what its prints make of it? Prints → bars, bars and facts → rows, compared with the tables.

Bars are made from the prints that ingest recorded, an hour at a time, from the state that the second before the first one
leaves; rows from the bars and facts as they are stored, `known_at` included. Newest versions are compared: what live saw
first stands in `rows_superseded`, and is the business of the trading side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from squeezecore import flow
from squeezecore.adapters import comparing, flowstore
from squeezecore.adapters.comparing import Difference, Proof, unproved
from squeezecore.adapters.rebuilding import MEMORY_S, WARM_S
from squeezecore.adapters.store import Store
from squeezecore.errors import UsageError
from squeezecore.market import DAY_S, Bars, IdKind, Instrument, MarkSeries, Rows, concat, cut, empty
from squeezecore.spec import AssetConfig
from squeezecore.venues import Contiguity, venue
from squeezecore.venues import Feed as Stream
from squeezecore.wire import AssetChange

HOUR_S = 3_600
SETTLE_S = 61  # rows of another configuration know spot closes and marks from before it for so long


class Flows(NamedTuple):
    """What is compared."""

    start_s: int
    until_s: int  # exclusive
    instruments: Mapping[str, Instrument]
    configs: Mapping[str, Sequence[tuple[int, int, AssetConfig]]]  # asset → stretches of seconds, ascending


def configs_of(
    changes: Sequence[AssetChange], fallback: Mapping[str, AssetConfig], start_s: int, until_s: int
) -> dict[str, list[tuple[int, int, AssetConfig]]]:
    """Cut a span by the configuration each asset's rows follow; where none was ever kept, that is `fallback`."""
    if not changes:
        return {asset: [(start_s, until_s, config)] for asset, config in sorted(fallback.items())}
    found: dict[str, list[tuple[int, int, AssetConfig]]] = {}
    by_asset: dict[str, list[AssetChange]] = {}
    for change in changes:
        by_asset.setdefault(change.asset, []).append(change)
    for asset, own in by_asset.items():
        ends = [change.from_ts for change in own[1:]] + [until_s]
        pieces = [
            (max(start_s, change.from_ts), min(until_s, end), change.config)
            for change, end in zip(own, ends, strict=True)
        ]
        found[asset] = [(low, high, config) for low, high, config in pieces if config is not None and low < high]
    return {asset: pieces for asset, pieces in sorted(found.items()) if pieces}


def prove_bars(store: Store, span: Flows) -> Proof:
    """Make the bars of all instruments from their prints."""
    names = sorted(
        {
            name
            for pieces in span.configs.values()
            for _, _, config in pieces
            for name in (config.traded, *(market.instrument for market in config.markets))
        }
    )
    proofs = [_bars_of(store, span, name) for name in names if name in span.instruments]
    return comparing.joined("bars", proofs, "no instrument of these assets is known")


def _bars_of(store: Store, span: Flows, name: str) -> Proof:
    stored = store.read_bars(name, span.start_s, span.until_s)
    if not len(stored.ts):
        return unproved("bars", "")
    if any(record.kind in ("trade", "aggregate") for record in store.imports(name) if _covers(record.day, span)):
        return unproved("bars", f"{name} was imported from an archive since")
    start_s, until_s = int(stored.ts[0]), int(stored.ts[-1]) + 1
    first = _first_print_s(store, name, until_s)
    if first < 0:
        prints = int((stored.buy_trades + stored.sell_trades).sum())
        return unproved("bars", f"prints of {name} are gone, or were never recorded" if prints else "")
    note = ""
    if first >= start_s:  # recording begins here, or what was before has expired; this second may be half of one
        start_s = first + 1
        stored = cut(stored, int(stored.ts.searchsorted(start_s)), len(stored.ts))
        note = f"prints of {name} are kept from second {start_s} on"
        if not len(stored.ts):
            return unproved("bars", note)
    try:
        params = _params(span.instruments[name], stored)
    except UsageError as error:
        return unproved("bars", str(error))
    made = _scan(store, params, start_s, until_s)
    made = cut(made, int(made.ts.searchsorted(start_s)), int(made.ts.searchsorted(until_s)))
    proof = comparing.compare_seconds("bars", name, stored, made, ("version", "complete"))
    difference = proof.difference
    if difference is None:
        doubtful = np.flatnonzero((stored.complete == 1) & (made.complete == 0))
        if len(doubtful):
            difference = Difference(
                name=name, ts=int(stored.ts[doubtful[0]]), stored="complete=1", again="complete=0: a print is missing"
            )
    known = int(((stored.complete == 0) & (made.complete == 1)).sum())
    if known:
        note = "; ".join(filter(None, (note, f"{known} seconds of {name} are stored as incomplete and are whole")))
    return Proof(
        what="bars", equal=difference is None, count=proof.count, stored_hash=proof.stored_hash,
        again_hash=proof.again_hash, difference=difference, note=note,
    )  # fmt: skip


def _covers(day: object, span: Flows) -> bool:
    start = (np.datetime64(str(day)) - np.datetime64("1970-01-01")).astype("timedelta64[s]").astype(int)
    return bool(start < span.until_s and span.start_s < start + DAY_S)


def _first_print_s(store: Store, name: str, until_s: int) -> int:
    found = store.query(
        "SELECT min(exchange_ns) AS first, count() AS n FROM trades WHERE instrument = {name:String} "
        "AND ts < toDateTime({end:UInt32}, 'UTC')",
        {"name": name, "end": until_s},
    )
    return int(found["first"][0].as_py()) // flowstore.SECOND_NS if found["n"][0].as_py() else -1


def _params(instrument: Instrument, stored: Bars) -> flow.BarParams:
    """Say how an instrument's bars were made: of which prints, and whether their ids prove that none is missing."""
    kinds = set(stored.id_kind[(stored.buy_trades + stored.sell_trades) > 0].tolist())
    if len(kinds) > 1:
        raise UsageError(f"bars of {instrument.id} count single trades and aggregates on the same day")
    kind = IdKind(kinds.pop()) if kinds else IdKind.AGGREGATE
    stream = Stream.TRADE if kind is IdKind.TRADE else Stream.AGGREGATE
    contiguity = venue(instrument.venue).SECTIONS[instrument.section].contiguity.get(stream)
    return flow.bar_params(instrument, kind, contiguity is Contiguity.CONTIGUOUS)


def _scan(store: Store, params: flow.BarParams, start_s: int, until_s: int) -> Bars:
    """Make bars from prints, an hour at a time."""
    before = store.read_bars(params.instrument, max(0, start_s - HOUR_S), start_s)
    state = flow.bars_initial(covered_from_s=start_s)
    if len(before.ts) and int(before.ts[-1]) == start_s - 1:
        state = state._replace(closed_s=start_s, close=int(before.close[-1]))
        ids = before.last_id[(before.last_id >= 0) & (before.id_kind == params.id_kind)]
        if len(ids) and params.contiguous:
            state = state._replace(low_id=0, low_s=0, high_id=int(ids.max()), high_s=start_s - 1)
    made = [empty(Bars)]
    at = start_s
    while at < until_s:
        end = min(until_s, (at // HOUR_S + 1) * HOUR_S)
        prints = flowstore.read_trades(store, params.instrument, at, end)
        state, bars, _ = flow.scan_bars(params, state, prints, end)
        made.append(bars)
        at = end
    return concat(made)


def prove_rows(store: Store, span: Flows) -> Proof:
    """Make the rows of all assets from bars and facts."""
    proofs = []
    for asset, pieces in span.configs.items():
        for low, high, config in pieces:
            begun = low if low == span.start_s else low + SETTLE_S
            proofs.append(_rows_of(store, span, asset, begun, high, config))
    return comparing.joined("rows", proofs, "no asset was configured")


def _rows_of(store: Store, span: Flows, asset: str, low: int, high: int, config: AssetConfig) -> Proof:
    stored = store.read_rows(asset, low, high)
    if not len(stored.ts):
        return unproved("rows", "")
    absent = [name for name in (config.traded, *(m.instrument for m in config.markets)) if name not in span.instruments]
    if absent:
        return unproved("rows", f"instruments of {asset} are not known: {', '.join(absent)}")
    params = flow.row_params(config, span.instruments)
    if (stored.config_rev != params.config_rev).all():
        return unproved("rows", f"rows of {asset} follow another configuration than the one that is kept")
    if not len(store.read_bars(config.traded, int(stored.ts[0]), int(stored.ts[0]) + HOUR_S).ts):
        return unproved("rows", f"bars of {config.traded} are not there")
    low, high = int(stored.ts[0]), int(stored.ts[-1]) + 1
    facts = (
        store.read_open_interest(config.traded, max(0, low - MEMORY_S), high),
        store.read_funding(config.traded, max(0, low - MEMORY_S), high),
        MarkSeries(*store.read_marks(config.traded, max(0, low - WARM_S), high)),
    )
    state, made = flow.rows_initial(params), [empty(Rows)]
    at = max(0, low - WARM_S)
    while at < high:
        end = min(high, low if at < low else (at // HOUR_S + 1) * HOUR_S)
        bars = {name: store.read_bars(name, at, end) for name in params.instruments}
        state, rows = flow.scan_rows(params, state, bars, *facts)
        made.append(rows)
        at = end
    rows = concat(made)
    return comparing.compare_seconds("rows", asset, stored, cut(rows, int(rows.ts.searchsorted(low)), len(rows.ts)))
