"""What cvd keeps in ClickHouse, and finds there again. Every write may be repeated, and changes nothing the second time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from squeeze_cvd.flowing import Effects
from squeezecore import flow
from squeezecore.adapters import flowstore
from squeezecore.adapters.flowstore import Snapshot
from squeezecore.adapters.store import Store
from squeezecore.market import (
    PPM,
    Bars,
    Block,
    FundingSeries,
    Gap,
    Instrument,
    MarkSeries,
    OpenInterestSeries,
    Rows,
    Trades,
    concat,
    empty,
)
from squeezecore.spec import AssetConfig, MarketConfig
from squeezecore.wire import AssetChange, RowBatch

SERVICE, KEY = "cvd", "all"
PRUNE_EVERY = 60  # snapshots
BEFORE_S = 61  # rows know spot closes and marks of a minute
LAST_ROW_S = 3600  # how far back the row before a repair is looked for
EVENTS_S = 40 * 86_400  # funding that is known now was due at most so long ago


class Known(NamedTuple):
    """What was known of a traded instrument."""

    open_interest: OpenInterestSeries
    funding: FundingSeries
    marks: MarkSeries


class Keep:
    """The tables of the flow."""

    def __init__(self, store: Store, code: str) -> None:
        self.store = store
        self._code = code
        self._snapshots = 0

    # -- writing -------------------------------------------------------------------------------------------------------

    def put(self, effects: Effects) -> None:
        """Store what a step brought: bars, rows, facts, gaps, whole minutes."""
        if effects.bars:
            flowstore.insert_bar_block(self.store, *_joined(effects.bars))
        if effects.stored:
            flowstore.insert_row_block(self.store, *_joined(effects.stored))
        if effects.interest or effects.funding or effects.marks:
            flowstore.insert_facts(
                self.store,
                {name: OpenInterestSeries(*_columns(facts, 4)) for name, facts in effects.interest.items()},
                {name: FundingSeries(*_columns(facts, 4)) for name, facts in effects.funding.items()},
                {name: MarkSeries(*_columns(dict(facts).items(), 2)) for name, facts in effects.marks.items()},
            )
        self.put_gaps(effects.gaps)
        if effects.roll is not None:
            flowstore.roll_up(self.store, *effects.roll, effects.roll[1])

    def put_gaps(self, gaps: Sequence[Gap]) -> None:
        """Store holes, and that they are filled."""
        if gaps:
            self.store.put_gaps(gaps)

    def put_snapshot(self, ts: int, seq: int, body: bytes) -> None:
        """Store the state; the older ones go from time to time."""
        flowstore.put_snapshot(self.store, Snapshot(SERVICE, KEY, max(ts, 0), seq, self._code, body))
        self._snapshots += 1
        if self._snapshots % PRUNE_EVERY == 0:
            flowstore.prune(self.store, SERVICE, KEY)

    def put_changes(self, changes: Iterable[AssetChange]) -> None:
        """Store which configuration holds from when."""
        flowstore.put_asset_changes(self.store, changes)

    def put_bars(self, name: str, bars: Bars, until_s: int) -> None:
        """Store newer versions of an instrument's seconds, and their minutes as far as they end by `until_s`."""
        self.store.insert_bars(name, bars)
        flowstore.roll_up(self.store, int(bars.ts[0]), int(bars.ts[-1]) + 1, until_s, [name])

    def put_newer_rows(self, asset: str, rows: Rows) -> int:
        """Store newer versions of an asset's seconds; those that live saw go to `rows_superseded`."""
        return self.store.insert_rows(asset, rows, keep_superseded=True)

    def put_published(self, batch: RowBatch) -> None:
        """Store rows that were published and perhaps not stored."""
        flowstore.insert_row_block(self.store, batch.assets, np.arange(len(batch.assets)), batch.rows)

    # -- reading -------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot | None:
        """Return the last state that this code can go on from."""
        return flowstore.last_snapshot(self.store, SERVICE, KEY, code_version=self._code)

    def drop_snapshots(self, ts: int) -> None:
        """Forget the states of a second and later."""
        flowstore.drop_snapshots(self.store, SERVICE, KEY, max(ts, 0))

    def changes(self) -> list[AssetChange]:
        """Return all configurations by asset and time."""
        return flowstore.asset_changes(self.store)

    def instruments(self) -> dict[str, Instrument]:
        """Return every instrument the store knows."""
        return self.store.instruments()

    def bars(self, name: str, start_s: int, end_s: int) -> Bars:
        """Return an instrument's seconds."""
        return self.store.read_bars(name, start_s, end_s)

    def bars_of(self, names: Sequence[str], start_s: int, end_s: int) -> dict[str, Bars]:
        """Return several instruments' seconds."""
        return flowstore.read_bars(self.store, names, start_s, end_s)

    def rows(self, asset: str, start_s: int, end_s: int) -> Rows:
        """Return an asset's seconds."""
        return self.store.read_rows(asset, start_s, end_s)

    def first_rows(self, asset: str, start_s: int, end_s: int, limit: int) -> Rows:
        """Return the first rows of a range, at most `limit`."""
        rows = self.store.read_rows(asset, start_s, min(end_s, start_s + 2 * limit))
        if len(rows.ts) < limit and end_s > start_s + 2 * limit:  # there are holes
            rows = self.store.read_rows(asset, start_s, end_s)
        return _pick(rows, np.arange(min(limit, len(rows.ts))))

    def presence(self, start_s: int, end_s: int) -> dict[str, tuple[int, int]]:
        """Count each instrument's seconds in a range, and the complete ones among them."""
        table = self.store.query(
            "SELECT toString(instrument) AS name, count() AS seconds, sum(complete) AS whole FROM bars_1s FINAL "
            "WHERE ts >= toDateTime({start:UInt32}, 'UTC') AND ts < toDateTime({end:UInt32}, 'UTC') GROUP BY name",
            {"start": start_s, "end": end_s},
        )
        return {row["name"]: (int(row["seconds"]), int(row["whole"])) for row in table.to_pylist()}

    def prints(self, name: str, start_s: int, end_s: int) -> Trades:
        """Return an instrument's recorded prints."""
        return flowstore.read_trades(self.store, name, start_s, end_s)

    def last_seconds(self, names: Sequence[str]) -> dict[str, int]:
        """Return the last stored second of each instrument."""
        return flowstore.last_seconds(self.store, names)

    def last_row_s(self, assets: Sequence[str]) -> int:
        """Return the last second that any of these assets has a row of, −1 if none."""
        table = self.store.query(
            "SELECT toUnixTimestamp(max(ts)) AS last FROM rows_1s WHERE asset IN {names:Array(String)}",
            {"names": list(assets)},
        )
        return int(table["last"][0].as_py()) or -1

    def open_holes(self, name: str, since_s: int) -> list[Gap]:
        """Return the holes of an instrument that may still be filled."""
        gaps = self.store.gaps(name, since_s)
        return [gap for gap in gaps if gap.state == "open" and gap.cause == "ids missing" and gap.first_id >= 0]

    def known(self, name: str, start_s: int, end_s: int) -> Known:
        """Return what became known of an instrument in `[start_s, end_s)`, ascending."""
        funding = self.store.read_funding(name, max(0, start_s - EVENTS_S), end_s + EVENTS_S)
        paid = (funding.known_at >= start_s) & (funding.known_at < end_s)
        return Known(
            self.store.read_open_interest(name, start_s, end_s),
            _pick(funding, paid),
            MarkSeries(*self.store.read_marks(name, start_s, end_s)),
        )

    def row_before(self, asset: str, ts: int) -> Rows:
        """Return the last row before a second, none if there is none within the hour."""
        rows = self.store.read_rows(asset, max(0, ts - 2), ts)
        if not len(rows.ts):
            rows = self.store.read_rows(asset, max(0, ts - LAST_ROW_S), ts)
        return _pick(rows, np.arange(len(rows.ts))[-1:])

    def row_state(self, asset: str, params: flow.RowParams, ts: int) -> flow.RowState:
        """Return what the rows of an asset knew before a second: a stored row, and the minute after it scanned again."""
        state, at = self._row_state_at(asset, params, max(0, ts - BEFORE_S))
        state, _ = self._scan(params, state, at, ts)
        return state

    def rows_again(self, asset: str, params: flow.RowParams, start_s: int, end_s: int) -> Rows:
        """Make an asset's rows of `[start_s, end_s)` anew from what is stored."""
        state, at = self._row_state_at(asset, params, max(0, start_s - BEFORE_S))
        _, rows = self._scan(params, state, at, end_s)
        return _pick(rows, rows.ts >= start_s)

    def _row_state_at(self, asset: str, params: flow.RowParams, ts: int) -> tuple[flow.RowState, int]:
        """Read the facts off the last row before a second; return them and the second after that row."""
        before = self.row_before(asset, ts)
        state = flow.rows_initial(params)
        if not len(before.ts):
            return state, max(0, ts - LAST_ROW_S)
        last = int(before.ts[0])
        return state._replace(
            open_interest=int(before.open_interest[0]),
            oi_known_at=int(before.oi_known_at[0]),
            oi_interval_s=int(before.oi_interval_s[0]),
            funding_rate_8h=int(before.funding_rate_8h[0]),
            funding_known_at=last,
            basis_bps=int(before.basis_bps[0]),
        ), last + 1

    def _scan(
        self, params: flow.RowParams, state: flow.RowState, start_s: int, end_s: int
    ) -> tuple[flow.RowState, Rows]:
        if end_s <= start_s:
            return state, empty(Rows)
        bars = self.bars_of(params.instruments, start_s, end_s)
        facts = self.known(params.instruments[params.traded], max(0, start_s - params.age_s_max - 1), end_s)
        interest, funding = facts.open_interest, facts.funding
        return flow.scan_rows(
            params,
            state,
            bars,
            _pick(interest, interest.known_at >= start_s),
            _pick(funding, funding.known_at >= start_s),
            facts.marks,
        )

    def volume_shares(self, config: AssetConfig, instruments: dict[str, Instrument], midnight_s: int) -> AssetConfig:
        """Weigh an asset's markets by their share of the turnover of the day before a midnight, each side's apart.

        A side without any turnover that day keeps the weights of the table.
        """
        turnover = {}
        for market in config.markets:
            bars = self.store.read_rollup("bars_1h", market.instrument, midnight_s - 86_400, midnight_s)
            turnover[market.instrument] = sum(bars["buy_usd_cents"].to_pylist()) + sum(
                bars["sell_usd_cents"].to_pylist()
            )
        sides: dict[str, int] = {}
        for market in config.markets:
            side = instruments[market.instrument].kind.value
            sides[side] = sides.get(side, 0) + (turnover[market.instrument] if market.weight_ppm else 0)
        markets = []
        for market in config.markets:
            whole = sides[instruments[market.instrument].kind.value]
            share = (
                market.weight_ppm and (turnover[market.instrument] * PPM * 2 + whole) // (2 * whole) if whole else None
            )
            markets.append(market if share is None else MarketConfig(instrument=market.instrument, weight_ppm=share))
        return msgspec.structs.replace(config, markets=tuple(markets))


def _joined(parts: Sequence[tuple[tuple[str, ...], NDArray[Any], Block]]) -> tuple[list[str], NDArray[Any], Block]:
    """Join blocks whose entries are named by their own lists into one."""
    names: dict[str, int] = {}
    indices = []
    for own, index, _ in parts:
        place = np.array([names.setdefault(name, len(names)) for name in own], np.int64)
        indices.append(place[index] if len(own) else index)
    return list(names), np.concatenate(indices), concat([block for _, _, block in parts])


def _columns(facts: Iterable[tuple[int, ...]], width: int) -> list[NDArray[Any]]:
    flat = np.array(sorted(facts), np.int64).reshape(-1, width)
    return [np.ascontiguousarray(flat[:, n]) for n in range(width)]


def _pick(block: Block, index: NDArray[Any]) -> Block:
    return type(block)(*(column[index] for column in block))
