"""The tables of the flow in memory, for schedules by the thousand; `test_live.py` holds it to the real store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from squeeze_cvd.flowing import Effects
from squeeze_cvd.keeping import KEY, SERVICE, Keep
from squeezecore.adapters.flowstore import Snapshot
from squeezecore.adapters.store import REVISION_SHIFT, StoreError
from squeezecore.market import (
    Bars,
    FundingSeries,
    Gap,
    Instrument,
    OpenInterestSeries,
    Rows,
    Trades,
    concat,
    dtypes,
    empty,
)
from squeezecore.wire import AssetChange, RowBatch

Columns = tuple[np.ndarray, ...]


class Table:
    """Seconds of one name: of two with the same `ts` the higher version stays, of two equal ones the later."""

    def __init__(self, width: int) -> None:
        self._parts: list[np.ndarray] = [np.empty((width, 0), np.uint64)]

    def add(self, ts: np.ndarray, version: np.ndarray, columns: Sequence[np.ndarray]) -> None:
        made = np.array([ts.astype(np.int64).view(np.uint64), version.astype(np.uint64)])
        rest = [np.ascontiguousarray(c).astype(np.int64).view(np.uint64) for c in columns]
        self._parts.append(np.concatenate([made, np.array(rest).reshape(len(rest), len(ts))]))

    def between(self, start_s: int, end_s: int) -> np.ndarray:
        """Return `(ts, version, *columns)` of a stretch, ascending."""
        if len(self._parts) > 1:
            whole = np.concatenate(self._parts, axis=1)
            order = np.lexsort((np.arange(whole.shape[1]), whole[1], whole[0]))
            whole = whole[:, order]
            last = np.append(whole[0, 1:] != whole[0, :-1], True)[: whole.shape[1]]
            self._parts = [whole[:, last]]
        held = self._parts[0]
        first, end = np.searchsorted(held[0], np.array([max(0, start_s), max(0, end_s)], np.uint64))
        return held[:, first:end]


def _block(kind: Any, table: np.ndarray, names: Sequence[str]) -> Any:
    """Make a block of columns that were written as 64 bits; `names` says which row is which."""
    columns = []
    for name, dtype in dtypes(kind).items():
        raw = np.ascontiguousarray(table[names.index(name)])
        columns.append(raw if dtype == np.uint64 else raw.view(np.int64).astype(dtype))
    return kind(*columns)


BAR_NAMES = ("ts", "version", *(name for name in Bars._fields if name not in ("ts", "version")))
ROW_NAMES = ("ts", "version", *(name for name in Rows._fields if name != "ts"))


class MemoryStore:
    """What of a `Store` the flow's loops use. `away` makes every call fail."""

    def __init__(self) -> None:
        self.away = False
        self.known: dict[str, Instrument] = {}
        self.texts: dict[str, str] = {}
        self.trades: dict[str, dict[tuple[int, ...], tuple[int, ...]]] = {}
        self.bars: dict[str, Table] = {}
        self.rows: dict[str, Table] = {}
        self.superseded: dict[str, dict[tuple[int, int], Columns]] = {}
        self.interest: dict[str, dict[tuple[int, int], tuple[int, ...]]] = {}
        self.funding: dict[str, dict[int, tuple[int, ...]]] = {}
        self.marks: dict[str, dict[int, int]] = {}
        self.holes: dict[tuple[Any, ...], Gap] = {}
        self.snapshots: list[Snapshot] = []
        self.changes: dict[tuple[str, int], AssetChange] = {}

    def reach(self) -> None:
        if self.away:
            raise StoreError("store in memory did not answer: it was stopped")

    # -- what a Store has ----------------------------------------------------------------------------------------------

    def instruments(self) -> dict[str, Instrument]:
        self.reach()
        return dict(self.known)

    def put_instrument(self, instrument: Instrument) -> None:
        self.reach()
        self.known[instrument.id] = instrument

    def config(self, key: str) -> tuple[str, int] | None:
        self.reach()
        return (self.texts[key], 1) if key in self.texts else None

    def put_config(self, key: str, value: str) -> int:
        self.reach()
        self.texts[key] = value
        return 1

    def insert_table(self, name: str, table: pa.Table) -> None:
        """Take prints as the recorder writes them."""
        self.reach()
        assert name == "trades"
        columns = [table[column].to_pylist() for column in (*Trades._fields, "twin")]
        for instrument, *values in zip(table["instrument"].to_pylist(), *columns, strict=True):
            print_ = dict(zip((*Trades._fields, "twin"), values, strict=True))
            key = tuple(print_[each] for each in ("exchange_ns", "id", "price", "qty", "side", "twin"))
            self.trades.setdefault(instrument, {})[key] = tuple(print_[each] for each in Trades._fields)

    def prints(self, instrument: str, start_s: int, end_s: int) -> Trades:
        self.reach()
        held = sorted(self.trades.get(instrument, {}).items())
        rows = [row for key, row in held if start_s * 10**9 <= key[0] < end_s * 10**9]
        columns = list(zip(*rows, strict=True)) or [()] * len(Trades._fields)
        return Trades(*(np.array(c, dtype) for c, dtype in zip(columns, dtypes(Trades).values(), strict=True)))

    def insert_bars(self, instrument: str, bars: Bars) -> None:
        self.reach()
        table = self.bars.setdefault(instrument, Table(len(BAR_NAMES)))
        table.add(bars.ts, bars.version, [getattr(bars, name) for name in BAR_NAMES[2:]])

    def read_bars(self, instrument: str, start_s: int, end_s: int) -> Bars:
        self.reach()
        table = self.bars.get(instrument)
        return empty(Bars) if table is None else _block(Bars, table.between(start_s, end_s), BAR_NAMES)

    def insert_published(self, asset: str, rows: Rows) -> None:
        self.reach()
        table = self.rows.setdefault(asset, Table(len(ROW_NAMES)))
        table.add(rows.ts, rows.quality_ppm, [getattr(rows, name) for name in ROW_NAMES[2:]])

    def insert_rows(self, asset: str, rows: Rows, *, keep_superseded: bool = False) -> int:
        self.reach()
        table = self.rows.setdefault(asset, Table(len(ROW_NAMES)))
        written = 0
        for at in range(len(rows.ts)):
            new = Rows(*(column[at : at + 1] for column in rows))
            old = table.between(int(new.ts[0]), int(new.ts[0]) + 1)
            revision = np.uint64(0)
            if old.shape[1]:
                was = _block(Rows, old, ROW_NAMES)
                same = all((a == b).all() for a, b in zip(new, was, strict=True))
                if same or (new.config_rev == was.config_rev and new.quality_ppm < was.quality_ppm):
                    continue
                if keep_superseded:
                    self.superseded.setdefault(asset, {})[int(was.ts[0]), int(old[1, 0])] = tuple(was)
                revision = (old[1] >> REVISION_SHIFT) + np.uint64(1)
            version = new.quality_ppm.astype(np.uint64) | revision << REVISION_SHIFT
            table.add(new.ts, version, [getattr(new, name) for name in ROW_NAMES[2:]])
            written += 1
        return written

    def read_rows(self, asset: str, start_s: int, end_s: int) -> Rows:
        self.reach()
        table = self.rows.get(asset)
        return empty(Rows) if table is None else _block(Rows, table.between(start_s, end_s), ROW_NAMES)

    def read_rows_superseded(self, asset: str, start_s: int, end_s: int) -> tuple[Rows, np.ndarray]:
        held = sorted(self.superseded.get(asset, {}).items())
        inside = [(version, Rows(*row)) for (ts, version), row in held if start_s <= ts < end_s]
        return concat([empty(Rows), *(row for _, row in inside)]), np.array([v for v, _ in inside], np.uint64)

    def read_open_interest(self, instrument: str, start_s: int, end_s: int) -> OpenInterestSeries:
        self.reach()
        held = sorted(self.interest.get(instrument, {}).items())
        return OpenInterestSeries(*_series([row for (known, _), row in held if start_s <= known < end_s], 4))

    def read_funding(self, instrument: str, start_s: int, end_s: int) -> FundingSeries:
        self.reach()
        held = sorted(self.funding.get(instrument, {}).items())
        return FundingSeries(*_series([row for event, row in held if start_s <= event < end_s], 4))

    def read_marks(self, instrument: str, start_s: int, end_s: int) -> tuple[np.ndarray, np.ndarray]:
        self.reach()
        held = sorted(self.marks.get(instrument, {}).items())
        at, mark = _series([pair for pair in held if start_s <= pair[0] < end_s], 2)
        return at, mark

    def put_gaps(self, gaps: Sequence[Gap]) -> None:
        self.reach()
        for gap in gaps:
            key = gap.instrument, gap.start_s, gap.end_s, gap.first_id, gap.last_id
            if gap.state == "filled" or key not in self.holes or self.holes[key].state != "filled":
                self.holes[key] = gap

    def gaps(self, instrument: str | None = None, start_s: int = 0, end_s: int = 2**32) -> list[Gap]:
        self.reach()
        return [
            gap
            for _, gap in sorted(self.holes.items())
            if instrument in (None, gap.instrument) and gap.end_s >= start_s and gap.start_s < end_s
        ]


def _series(rows: Iterable[tuple[int, ...]], width: int) -> list[np.ndarray]:
    flat = np.array(list(rows), np.int64).reshape(-1, width)
    return [np.ascontiguousarray(flat[:, n]) for n in range(width)]


class MemoryKeep(Keep):
    """cvd's tables over a `MemoryStore`; what is worked out from them is the real one's."""

    def __init__(self, store: MemoryStore, code: str) -> None:
        super().__init__(store, code)  # type: ignore[arg-type]
        self.memory = store

    def put(self, effects: Effects) -> None:
        memory = self.memory
        memory.reach()
        for names, index, bars in effects.bars:
            for at in np.unique(index).tolist():
                memory.insert_bars(names[at], Bars(*(column[index == at] for column in bars)))
        for names, index, rows in effects.stored:
            for at in np.unique(index).tolist():
                memory.insert_published(names[at], Rows(*(column[index == at] for column in rows)))
        for name, facts in effects.interest.items():
            memory.interest.setdefault(name, {}).update({(fact[1], fact[0]): fact for fact in facts})
        for name, facts in effects.funding.items():
            memory.funding.setdefault(name, {}).update({fact[0]: fact for fact in facts})
        for name, pairs in effects.marks.items():
            memory.marks.setdefault(name, {}).update(dict(pairs))
        memory.put_gaps(effects.gaps)

    def put_snapshot(self, ts: int, seq: int, body: bytes) -> None:
        self.memory.reach()
        self.memory.snapshots.append(Snapshot(SERVICE, KEY, max(ts, 0), seq, self._code, body))

    def put_changes(self, changes: Iterable[AssetChange]) -> None:
        self.memory.reach()
        self.memory.changes.update({(change.asset, change.from_ts): change for change in changes})

    def put_bars(self, name: str, bars: Bars, _until_s: int) -> None:
        self.memory.insert_bars(name, bars)

    def bars_of(self, names: Sequence[str], start_s: int, end_s: int) -> dict[str, Bars]:
        return {name: self.bars(name, start_s, end_s) for name in names}

    def put_published(self, batch: RowBatch) -> None:
        for at, asset in enumerate(batch.assets):
            self.memory.insert_published(asset, Rows(*(column[at : at + 1] for column in batch.rows)))

    def snapshot(self) -> Snapshot | None:
        self.memory.reach()
        return max(self.memory.snapshots, key=lambda one: (one.ts, one.stream_seq), default=None)

    def drop_snapshots(self, ts: int) -> None:
        self.memory.snapshots = [one for one in self.memory.snapshots if one.ts < max(ts, 0)]

    def changes(self) -> list[AssetChange]:
        self.memory.reach()
        return [change for _, change in sorted(self.memory.changes.items())]

    def prints(self, name: str, start_s: int, end_s: int) -> Trades:
        return self.memory.prints(name, start_s, end_s)

    def last_seconds(self, names: Sequence[str]) -> dict[str, int]:
        found = {name: self.memory.read_bars(name, 0, 2**40).ts for name in names}
        return {name: int(ts[-1]) for name, ts in found.items() if len(ts)}

    def last_row_s(self, assets: Sequence[str]) -> int:
        found = [self.memory.read_rows(asset, 0, 2**40).ts for asset in assets]
        return max((int(ts[-1]) for ts in found if len(ts)), default=-1)

    def presence(self, start_s: int, end_s: int) -> dict[str, tuple[int, int]]:
        found = self.bars_of(sorted(self.memory.bars), start_s, end_s)
        return {name: (len(bars.ts), int(bars.complete.sum())) for name, bars in found.items() if len(bars.ts)}


def facts_of(memory: MemoryStore, traded: str) -> Mapping[str, Any]:
    """Return all that became known of an instrument."""
    return {
        "open_interest": memory.read_open_interest(traded, 0, 2**40),
        "funding": memory.read_funding(traded, 0, 2**40),
        "marks": memory.read_marks(traded, 0, 2**40),
    }
