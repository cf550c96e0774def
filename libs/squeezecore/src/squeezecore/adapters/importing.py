"""`import`: recorded trades, funding and open interest into the store, exactly once, with every fault accounted for.

A file is read and judged whole before its first second is stored; then each day of it is one block, laid over what is
there by ids. So a corrupt file leaves nothing, an import that is killed is finished by running it again, and files may
overlap, come in any order, or be split anywhere. docs/data-quality.md lists what is repaired and what is set aside.
"""

from __future__ import annotations

import datetime as dt
import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from squeezecore.adapters import archive, reading, repair
from squeezecore.adapters.archive import Content, FileRefusedError, Layout, Market, Published
from squeezecore.adapters.filebars import Scanned, load_bars, scan_file
from squeezecore.adapters.operations import Progress, Report, silent
from squeezecore.adapters.operations import assets as assets_in_force
from squeezecore.adapters.rebuilding import asset_span, assets_of, drop_rows_of_day, rebuild_rows, united, without
from squeezecore.adapters.scratch import scratch as scratch_folder
from squeezecore.adapters.series import funding_of, open_interest_of
from squeezecore.adapters.splicing import Span, gaps_between, pick, spans_of_bars, splice, subtract, unite
from squeezecore.adapters.store import TS_MAX, ImportRecord, Store
from squeezecore.errors import SqueezeError, UsageError
from squeezecore.market import DAY_S, Bars, Gap, IdKind, Instrument, Trades, concat
from squeezecore.spec import AssetConfig, day_start_s
from squeezecore.venues import venue

PAD_S = 3600  # stored seconds read on both sides of a new day, to join it with
LOOK_S = (DAY_S, 30 * DAY_S, 400 * DAY_S)  # how far the nearest stored print is looked for, step by step
EDGE_S = 60  # a published day whose first or last print is further from midnight begins late or ends early
SUFFIXES = (".csv", ".zip", ".parquet", ".gz", ".txt", ".jsonl")


class FileReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one file brought for one instrument."""

    file: str
    content: str  # aggTrades, trades, fundingRate, metrics, table, frames
    sha256: str
    instrument: str = ""
    checksum_verified: bool = False
    already_imported: bool = False
    rows: int = 0
    seconds: int = 0  # of bars it has, or events
    seconds_written: int = 0  # that were new or changed
    first_s: int = -1
    last_s: int = -1
    first_id: int = -1
    last_id: int = -1
    gaps: int = 0  # holes of this instrument in the time of this file, after it
    ids_missing: int = 0
    repaired: dict[str, int] = {}  # what was put right exactly
    set_aside: dict[str, int] = {}  # what was left out, because nothing right could be made of it
    time_units: dict[str, int] = {}
    notes: tuple[str, ...] = ()


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A file of which nothing was imported."""

    file: str
    line: int  # 0: the whole file
    reason: str


class RowsReport(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of an asset that were made anew."""

    asset: str
    start_s: int
    end_s: int
    rows: int
    written: int


class ImportReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an import did."""

    files: tuple[FileReport, ...]
    refused: tuple[Refusal, ...]
    rows: tuple[RowsReport, ...]


class ImportRefusedError(UsageError):
    """Some files were refused; `report` says what became of the others."""

    def __init__(self, report: ImportReport) -> None:
        self.report = report
        first = report.refused[0]
        place = f"{first.file}, line {first.line}" if first.line else first.file
        more = (
            f"; {len(report.refused)} files were refused, {len(report.files)} imported"
            if len(report.refused) > 1
            else ""
        )
        super().__init__(f"{place}: {first.reason}; nothing of this file was imported{more}")


class Source(NamedTuple):
    """A file and what it is."""

    path: Path
    content: str
    published: Published | None = None
    market: Market | None = None
    place: tuple[str, str] | None = None  # of frames: venue, section
    start: dt.date = dt.date.min
    end: dt.date = dt.date.max


def import_paths(
    store: Store,
    paths: Iterable[Path],
    market: str | None = None,
    column_map: str | Layout | None = None,
    instrument: str | None = None,
    time_unit: str = "",
    replace: bool = False,
    progress: Report = silent,
    assets: Mapping[str, AssetConfig] | None = None,
    scratch: Path | None = None,
) -> ImportReport:
    """Import files and folders.

    Args:
        store: where to.
        paths: archive files, tables, recordings, or folders of them.
        market: `spot`, `um` or `cm` for archive files and frames whose path does not say it.
        column_map: which columns hold what, for any other CSV or Parquet (`archive.column_map`).
        instrument: with `column_map`, whose trades they are.
        time_unit: with `column_map`: s, ms, us or ns; empty takes it from the magnitude.
        replace: take days that hold another kind of prints, or simulated ones, anew from these files.
        progress: told how far it is.
        assets: whose rows are made from it; the store's list by default.
        scratch: where a file's bars lie until all of it is judged; the system's temporary directory by default.

    Raises:
        UsageError: a path or a market is missing or contradicts itself; nothing was imported.
        ImportRefusedError: a file was corrupt or clashes with what is stored; the others were imported.
    """
    layout = (
        column_map
        if isinstance(column_map, Layout)
        else archive.column_map(column_map, time_unit)
        if column_map
        else None
    )
    if (layout is None) != (instrument is None):
        raise UsageError("a column map and an instrument go together: give both --columns and --instrument")
    sources = list(_sources(paths, _market(market), layout is not None))
    run = _Run(store, dict(assets if assets is not None else assets_in_force(store)), replace, progress, sources)
    run.layout, run.instrument, run.scratch = layout, instrument or "", scratch
    for source in sources:
        if source.content in {Content.FUNDING, Content.METRICS}:
            run.series(source)
    trades = [source for source in sources if source.content not in {Content.FUNDING, Content.METRICS}]
    for group in _overlapping(trades):
        for source in group:
            run.trades(source)
        run.settle_bars()
    run.settle_series()
    report = ImportReport(files=tuple(run.files), refused=tuple(run.refused), rows=tuple(run.rows))
    if report.refused:
        raise ImportRefusedError(report)
    return report


# --- what the files are -----------------------------------------------------------------------------------------------


def _market(name: str | None) -> Market | None:
    if name is None:
        return None
    try:
        return Market(name)
    except ValueError:
        raise UsageError(f"market was {name!r}, known are spot, um (USD-M) and cm (COIN-M)") from None


def _sources(paths: Iterable[Path], market: Market | None, mapped: bool) -> list[Source]:
    """Say what each file is; a folder gives the files in it that are known by name, a file named must be known."""
    found: dict[Path, Source] = {}
    for given in paths:
        if not given.exists():
            raise UsageError(f"path was {given}, which does not exist: name a file or a folder")
        files = sorted(p for p in given.rglob("*") if p.is_file()) if given.is_dir() else [given]
        before = len(found)
        for file in files:
            source = _source(file, market, mapped, strict=not given.is_dir())
            if source is not None:
                found[file.resolve()] = source
        if len(found) == before and given.is_dir() and not any(f.resolve() in found for f in files):
            raise UsageError(
                f"folder {given} holds no file that can be imported: name archive files, tables or recordings"
            )
    return sorted(found.values(), key=lambda s: (s.start, str(s.path.name), str(s.path)))


def _source(path: Path, market: Market | None, mapped: bool, *, strict: bool) -> Source | None:
    if path.name.endswith(".CHECKSUM"):
        return None
    if mapped:
        return Source(path, "table") if strict or path.suffix.lower() in {".csv", ".parquet", ".gz", ".zip"} else None
    what = archive.published(path)
    if what is not None:
        if what.market is not None and market is not None and what.market is not market:
            raise UsageError(
                f"market was {market}, but {path} lies in the archive of {what.market}: leave --market out"
            )
        where = what.market or market
        if where is None:
            raise UsageError(
                f"{path.name} does not say its market, and {what.native_symbol} may be listed on several: "
                "keep the archive's folders, or give --market spot, um or cm"
            )
        return Source(path, what.content.value, what, where, None, what.start, what.end)
    if path.suffix.lower() in SUFFIXES and reading.looks_like_frames(path):
        place = reading.frames_place(path, market)
        if place is None:
            raise UsageError(
                f"{path.name} holds recorded frames but does not say of which market: give --market spot, um or cm"
            )
        return Source(path, "frames", None, market, place)
    if strict:
        raise UsageError(
            f"{path.name} is neither a published archive file (SYMBOL-aggTrades-2026-01-01.zip) nor a recording of frames: "
            "for any other table give --columns and --instrument"
        )
    return None


def _overlapping(sources: list[Source]) -> Iterator[list[Source]]:
    """Group files whose days overlap, so that rows are made once for all of them."""
    group: list[Source] = []
    end = dt.date.min
    for source in sources:
        if group and source.start > end:
            yield group
            group, end = [], dt.date.min
        group.append(source)
        end = max(end, source.end)
    if group:
        yield group


# --- one import -------------------------------------------------------------------------------------------------------


class _Run:
    """The state of one import: what was done, and what remains to be made of it."""

    def __init__(
        self, store: Store, assets: dict[str, AssetConfig], replace: bool, progress: Report, sources: list[Source]
    ) -> None:
        self._store, self._assets, self._replace, self._progress = store, assets, replace, progress
        self.layout: Layout | None = None
        self.instrument = ""
        self.scratch: Path | None = None
        self.files: list[FileReport] = []
        self.refused: list[Refusal] = []
        self.rows: list[RowsReport] = []
        self._known = store.instruments()
        self._dirty: dict[str, list[tuple[int, int]]] = {}  # asset → ranges whose bars may have changed
        self._dirty_series: dict[str, list[tuple[int, int]]] = {}
        self._records: list[ImportRecord] = []  # become "done" once their rows are made
        self._series_records: list[ImportRecord] = []
        self._touched: dict[str, set[dt.date]] = {}  # instrument → days whose minutes are to be made anew
        self._replaced: set[tuple[str, dt.date]] = set()
        self._bytes_done, self._bytes = 0, sum(source.path.stat().st_size for source in sources)

    def trades(self, source: Source) -> None:
        """Import one file of trades, or refuse it whole."""
        with scratch_folder(self.scratch) as folder:
            try:
                self._guarded(source, lambda base: self._trades(source, base, folder))
            except OSError as error:
                if error.errno not in {None, errno.ENOSPC, errno.EDQUOT}:  # a short write has no number
                    raise
                raise SqueezeError(
                    f"disk of {folder.parent} was full while {source.path} was read ({error}), nothing of this file was "
                    "imported: free some space and repeat"
                ) from error

    def series(self, source: Source) -> None:
        """Import one file of funding or open interest, or refuse it whole."""
        self._guarded(source, lambda base: self._series(source, base))

    def _guarded(self, source: Source, act: Callable[[FileReport], None]) -> None:
        try:
            sha = archive.sha256(source.path)
            verified = archive.verify_checksum(source.path, sha)
            base = FileReport(file=str(source.path), content=source.content, sha256=sha, checksum_verified=verified)
            done = [] if self._replace else self._done(base)
            if done:
                self.files += done
            else:
                act(base)
        except FileRefusedError as error:
            self.refused.append(Refusal(file=error.file, line=error.line, reason=error.reason))
        self._bytes_done += source.path.stat().st_size
        self._tell(source, 0)

    def _done(self, base: FileReport) -> list[FileReport]:
        """Return reports of a file that was imported before, if all that it brought is still there."""
        found: dict[str, list[ImportRecord]] = {}
        for record in self._store.imports(sha256=base.sha256):
            if record.state == "done" and record.report.get("content") == base.content:
                found.setdefault(record.instrument, []).append(record)
        if self.instrument and set(found) != {self.instrument}:
            return []
        if any(len(records) != int(records[0].report["days"]) for records in found.values()):
            return []
        return [
            msgspec.structs.replace(base, instrument=name, already_imported=True, rows=sum(r.rows for r in records))
            for name, records in sorted(found.items())
        ]

    def _advance(self, source: Source) -> Callable[[int], None]:
        return lambda done: self._tell(source, done)

    def _tell(self, source: Source, done: int) -> None:
        kilobytes = (self._bytes_done + min(done, source.path.stat().st_size)) // 1000
        self._progress(Progress(source.path.name, kilobytes, max(1, self._bytes // 1000), "kB"))

    # - trades

    def _trades(self, source: Source, base: FileReport, spool: Path) -> None:
        opened, marks = self._open(source, spool)
        scans = []
        for number, one in enumerate(opened):  # all of the file is judged before any of it is stored
            (spool / str(number)).mkdir()
            scans.append(self._scan(source, one, spool / str(number)))
        found = [scan for scan in scans if scan is not None]
        for scan in found:
            self._refuse_mixing(source, scan)
        for scan in found:
            self.files.append(self._insert(source, base, scan))
        if not found:
            self.files.append(msgspec.structs.replace(base, notes=("it holds no trade",)))
        for name, (seconds, mark) in marks.items():
            self._store.insert_marks(name, seconds, mark)
            self._mark_dirty(self._dirty, name, int(seconds[0]), int(seconds[-1]) + 60)

    def _open(
        self, source: Source, spool: Path
    ) -> tuple[list[reading.Opened], dict[str, tuple[reading.Ints, reading.Ints]]]:
        """Look into a file: the instruments whose prints it holds, and their marks."""
        if source.place is not None:
            recorded = reading.read_frames(source.path, source.place, self._known, spool, self._advance(source))
            return list(recorded.opened.values()), recorded.marks
        if source.published is not None and source.market is not None:
            one = reading.open_archive(source.path, source.published, source.market, self._known)
        else:
            assert self.layout is not None
            one = reading.open_table(source.path, self.layout, self.instrument, self._known)
        return ([one] if one is not None else []), {}

    def _scan(self, source: Source, opened: reading.Opened, spool: Path) -> _Judged | None:
        """Make the bars of a file: straight through where its rows are in order, sorted and judged where not."""
        period_ns = _period_ns(source)
        for sort in (False, True):
            findings, units, rows = repair.Findings(), archive.UnitCount(), _Count()
            blocks = rows.counted(opened.blocks(findings, units, self._advance(source)))
            if sort:
                ordered = repair.in_any_order(
                    blocks, has_ids=opened.has_ids, findings=findings, spool=spool, period_ns=period_ns
                )
            else:
                ordered = repair.in_order(blocks, has_ids=opened.has_ids, findings=findings, period_ns=period_ns)
            try:
                scanned = scan_file(opened, ordered, spool, findings)
            except repair.OutOfOrderError:
                continue
            return _Judged(opened, scanned, findings, units, rows.rows) if scanned is not None else None
        raise AssertionError("a sorted file is in order")

    def _refuse_mixing(self, source: Source, judged: _Judged) -> None:
        """Hold to one kind of prints a day and instrument, and keep simulated days apart from recorded ones."""
        opened, name = judged.opened, judged.opened.instrument.id
        days = [day.day for day in judged.scanned.days]
        start_s, end_s = day_start_s(days[0]), day_start_s(days[-1]) + DAY_S
        stored = {line.day: line for line in self._store.coverage(name, start_s, end_s) if line.day in set(days)}
        if self._replace:
            for day in stored:
                if (name, day) not in self._replaced:
                    self._store.drop_day(name, day)
                    drop_rows_of_day(self._store, self._assets, name, day)
            self._replaced |= {(name, day) for day in days}
            return
        recorded = {record.day for record in self._store.imports(name) if record.kind in {"trade", "aggregate"}}
        for day, line in sorted(stored.items()):
            if day not in recorded:
                raise FileRefusedError(
                    str(source.path), 0, f"{day} of {name} holds simulated trades: use another --home, or --replace"
                )
            if line.trades and line.id_kind != opened.id_kind:
                there, here = _kind_name(IdKind(line.id_kind)), _kind_name(opened.id_kind)
                raise FileRefusedError(
                    str(source.path),
                    0,
                    f"{day} of {name} holds {there}, this file {here}, and a day counts one kind only: "
                    "leave it out, or give --replace",
                )

    def _insert(self, source: Source, base: FileReport, judged: _Judged) -> FileReport:
        """Lay a judged file over the store, day by day, and bring the holes up to date."""
        opened, scanned, findings = judged.opened, judged.scanned, judged.findings
        name = opened.instrument.id
        base = msgspec.structs.replace(base, instrument=name)
        self._store.put_instrument(opened.instrument)
        self._known[name] = opened.instrument
        start_s, end_s = scanned.ends.first_s, scanned.ends.last_s + 1
        records = self._records_of(source, base, judged)
        self._store.put_imports([msgspec.structs.replace(record, state="started") for record in records])
        neighbours = self._neighbours(name, start_s, end_s) if opened.contiguous else []
        spans, seconds, written = list(scanned.spans), 0, 0
        holes = (
            self._store.gaps(name, start_s - PAD_S, end_s + PAD_S)
            if neighbours
            else self._store.gaps(name, start_s, end_s)
        )
        for day in scanned.days:
            new = load_bars(day.path)
            older = self._around(name, new, neighbours)
            changed = splice(older, new, holes, scanned.border, opened, findings)
            self._store.insert_bars(name, changed)
            self._touched.setdefault(name, {day.day}).update(_days_of(changed), {day.day})
            seconds, written = seconds + len(new.ts), written + len(changed.ts)
            spans += subtract(spans_of_bars(older), holes) if opened.contiguous else []
        gaps = self._put_gaps(judged, spans, holes)
        self._mark_dirty(self._dirty, name, start_s, end_s)
        self._records += records
        return msgspec.structs.replace(
            base,
            rows=judged.rows,
            seconds=seconds,
            seconds_written=written,
            first_s=start_s,
            last_s=end_s - 1,
            first_id=scanned.ends.first,
            last_id=scanned.ends.last,
            gaps=len(gaps),
            ids_missing=sum(gap.missing for gap in gaps),
            repaired={key: count for key, count in sorted(findings.repaired.items()) if count},
            set_aside={key: count for key, count in sorted(findings.set_aside.items()) if count},
            time_units=judged.units.named(),
            notes=_notes(source, judged),
        )

    def _around(self, name: str, new: Bars, neighbours: list[Bars]) -> Bars:
        """Read what is stored in and near a new day, with the nearest prints further off."""
        start_s, end_s = int(new.ts[0]) - PAD_S, int(new.ts[-1]) + 1 + PAD_S
        older = self._store.read_bars(name, start_s, end_s)
        parts = [bars for bars in neighbours if bars.ts[0] < start_s]
        parts += [older, *(bars for bars in neighbours if bars.ts[0] >= end_s)]
        return concat(parts)

    def _neighbours(self, name: str, start_s: int, end_s: int) -> list[Bars]:
        """Return the nearest stored second with ids before and after a time, where there is one."""
        found = []
        for low, high, last in ((start_s, start_s, True), (end_s, end_s, False)):
            for look_s in LOOK_S:
                days = self._store.coverage(name, low - look_s if last else low, high if last else high + look_s)
                for day in reversed(days) if last else days:
                    bars = self._store.read_bars(name, day.first_ts, day.last_ts + 1)
                    with_ids = np.flatnonzero(
                        (bars.first_id >= 0) & ((bars.ts < start_s) if last else (bars.ts >= end_s))
                    )
                    if len(with_ids):
                        at = int(with_ids[-1 if last else 0])
                        found.append(pick(bars, np.array([at])))
                        break
                else:
                    continue
                break
        return found

    def _put_gaps(self, judged: _Judged, spans: list[Span], stored: list[Gap]) -> list[Gap]:
        """Bring the holes of the ids that were touched up to date; return those that are open in the file's time."""
        opened, name = judged.opened, judged.opened.instrument.id
        scanned = judged.scanned
        gaps = list(scanned.gaps)
        if opened.contiguous and spans:
            whole = unite(spans, slack=1 if opened.skips_one else 0)
            gaps += gaps_between(name, whole, judged.findings.removed_ids)
            inside = [
                g for g in stored if g.state == "open" and whole[0].first <= g.first_id and g.last_id <= whole[-1].last
            ]
            now = {(gap.start_s, gap.end_s, gap.first_id, gap.last_id) for gap in gaps}
            closed = [g for g in inside if g.first_id >= 0 and (g.start_s, g.end_s, g.first_id, g.last_id) not in now]
            self._store.put_gaps([msgspec.structs.replace(gap, state="filled") for gap in closed])
        self._store.put_gaps(gaps)
        return [gap for gap in gaps if gap.start_s <= scanned.ends.last_s and gap.end_s >= scanned.ends.first_s]

    def _records_of(self, source: Source, base: FileReport, judged: _Judged) -> list[ImportRecord]:
        """Say which days a file brings; what was repaired or set aside stands in the first."""
        days = judged.scanned.days
        facts = {"content": base.content, "days": str(len(days))}
        return [
            ImportRecord(
                instrument=base.instrument,
                day=day.day,
                kind="aggregate" if judged.opened.id_kind is IdKind.AGGREGATE else "trade",
                sha256=base.sha256,
                source=source.path.name,
                rows=day.prints,
                first_id=day.first_id,
                last_id=day.last_id,
                report=facts | (_counts(judged.findings) if number == 0 else {}),
            )
            for number, day in enumerate(days)
        ]

    # - funding and open interest

    def _series(self, source: Source, base: FileReport) -> None:
        assert source.published is not None
        assert source.market is not None
        what, findings = source.published, repair.Findings()
        instrument = self._derivative(source)
        base = msgspec.structs.replace(base, instrument=instrument.id)
        name = instrument.id
        if what.content is Content.METRICS:
            rows = archive.read_metrics(source.path)
            times = [row.event_s for row in rows]
            prices = self._prices(instrument, min(times), max(times)) if rows else {}
            oi = open_interest_of(rows, instrument, prices, findings)
            known_at, event_ts, count, kind = oi.known_at, oi.event_ts, len(rows), "open_interest"
        else:
            paid = archive.read_funding(source.path)
            first = min((row.event_s for row in paid), default=0)
            before = self._store.read_funding(name, first - DAY_S, first)
            funding = funding_of(paid, before, findings)
            known_at, event_ts, count, kind = funding.known_at, funding.event_ts, len(paid), "funding"
        if not len(event_ts):
            self.files.append(
                msgspec.structs.replace(
                    base, rows=count, set_aside=dict(findings.set_aside), notes=("it holds no value",)
                )
            )
            return
        self._store.put_instrument(instrument)
        self._known[name] = instrument
        if what.content is Content.METRICS:
            self._store.insert_open_interest(name, oi)
            later = self._store.read_open_interest(name, int(known_at[-1]) + 1, TS_MAX).known_at
        else:
            self._store.insert_funding(name, funding)
            later = self._store.read_funding(name, int(event_ts[-1]) + 1, TS_MAX).known_at
        until_s = int(later[0]) if len(later) else TS_MAX
        self._mark_dirty(self._dirty_series, name, int(known_at[0]), until_s)
        self._series_records += self._series_days(source, base, event_ts, kind, findings)
        self.files.append(
            msgspec.structs.replace(
                base,
                rows=count,
                seconds=len(event_ts),
                seconds_written=len(event_ts),
                first_s=int(event_ts[0]),
                last_s=int(event_ts[-1]),
                repaired={key: n for key, n in sorted(findings.repaired.items()) if n},
                set_aside={key: n for key, n in sorted(findings.set_aside.items()) if n},
            )
        )

    def _derivative(self, source: Source) -> Instrument:
        """Return the instrument of a funding or open-interest file, by its name alone."""
        assert source.published is not None
        assert source.market is not None
        section, native = source.market.section, source.published.native_symbol
        for known in self._known.values():
            if (known.venue, known.section, known.native_symbol) == ("binance", section, native):
                return known
        try:
            return venue("binance").instrument(section, native)
        except UsageError as error:
            raise FileRefusedError(str(source.path), 0, f"{error}; or import its trades first") from error

    def _prices(self, instrument: Instrument, start_s: int, end_s: int) -> dict[int, int]:
        """Return the closes at the times of open interest that is published in contracts."""
        if instrument.section != "inverse":
            return {}
        bars = self._store.read_bars(instrument.id, start_s, end_s + 1)
        return dict(zip(bars.ts.tolist(), bars.close.tolist(), strict=True))

    def _series_days(
        self, source: Source, base: FileReport, event_ts: NDArray[np.int64], kind: str, findings: repair.Findings
    ) -> list[ImportRecord]:
        days, counts = np.unique(event_ts // DAY_S, return_counts=True)
        facts = {"content": base.content, "days": str(len(days))}
        return [
            ImportRecord(
                instrument=base.instrument,
                day=dt.date(1970, 1, 1) + dt.timedelta(int(day)),
                kind=kind,
                sha256=base.sha256,
                source=source.path.name,
                rows=int(count),
                report=facts | (_counts(findings) if number == 0 else {}),
            )
            for number, (day, count) in enumerate(zip(days, counts, strict=True))
        ]

    # - rows

    def _mark_dirty(self, ranges: dict[str, list[tuple[int, int]]], instrument: str, start_s: int, end_s: int) -> None:
        for asset in assets_of(self._assets, instrument):
            ranges.setdefault(asset, []).append((start_s, end_s))

    def settle_bars(self) -> None:
        """Make the rows and the minutes of what was imported, then call it done."""
        for asset, ranges in sorted(self._dirty.items()):
            for start_s, end_s in united(ranges):
                self._rebuild(asset, start_s, end_s)
        self._dirty = {}
        for first, last, names in _stretches(self._touched):
            self._store.rollup(first, last, names)
        self._touched = {}
        self._store.put_imports(self._records)
        self._records = []

    def settle_series(self) -> None:
        """Make the rows anew that know newly imported open interest or funding."""
        for asset, ranges in sorted(self._dirty_series.items()):
            low, high = asset_span(self._store, self._assets[asset])
            done = [(rows.start_s, rows.end_s) for rows in self.rows if rows.asset == asset]
            for start_s, end_s in without(((max(low, a), min(high, b)) for a, b in ranges), done):
                self._rebuild(asset, start_s, end_s)
        self._dirty_series = {}
        self._store.put_imports(self._series_records)
        self._series_records = []

    def _rebuild(self, asset: str, start_s: int, end_s: int) -> None:
        rows, written = rebuild_rows(self._store, self._assets, asset, start_s, end_s)
        self.rows.append(RowsReport(asset=asset, start_s=start_s, end_s=end_s, rows=rows, written=written))
        self._tell_rows(asset)

    def _tell_rows(self, asset: str) -> None:
        done = min(self._bytes_done, self._bytes) // 1000
        self._progress(Progress(f"rows of {asset}", done, max(1, self._bytes // 1000), "kB"))


class _Judged(NamedTuple):
    """A file read whole."""

    opened: reading.Opened
    scanned: Scanned
    findings: repair.Findings
    units: archive.UnitCount
    rows: int


class _Count:
    """Counts the rows that go by."""

    def __init__(self) -> None:
        self.rows = 0

    def counted(self, blocks: Iterator[Trades]) -> Iterator[Trades]:
        """Pass blocks on."""
        for block in blocks:
            self.rows += len(block.id)
            yield block


def _period_ns(source: Source) -> tuple[int, int]:
    """Return the time that a published file says it is of, a little wider."""
    if source.published is None:
        return repair.ALWAYS
    start_s, end_s = day_start_s(source.published.start), day_start_s(source.published.end) + DAY_S
    return start_s * 10**9 - repair.PERIOD_SLACK_NS, end_s * 10**9 + repair.PERIOD_SLACK_NS


def _days_of(bars: Bars) -> set[dt.date]:
    return {dt.date(1970, 1, 1) + dt.timedelta(int(day)) for day in np.unique(bars.ts // DAY_S)}


def _stretches(touched: Mapping[str, Iterable[dt.date]]) -> list[tuple[dt.date, dt.date, list[str]]]:
    """Join days that follow each other, and instruments whose days are the same."""
    found: dict[tuple[int, int], list[str]] = {}
    for name, days in sorted(touched.items()):
        for start, end in united((day.toordinal(), day.toordinal() + 1) for day in days):
            found.setdefault((start, end), []).append(name)
    return [(dt.date.fromordinal(start), dt.date.fromordinal(end - 1), names) for (start, end), names in found.items()]


def _counts(findings: repair.Findings) -> dict[str, int]:
    return {f"repaired_{key}": n for key, n in findings.repaired.items() if n} | {
        f"set_aside_{key}": n for key, n in findings.set_aside.items() if n
    }


def _kind_name(kind: IdKind) -> str:
    return {IdKind.AGGREGATE: "aggTrades", IdKind.TRADE: "trades"}.get(kind, "trades without ids")


def _notes(source: Source, judged: _Judged) -> tuple[str, ...]:
    """Say where a published file does not hold what its name promises."""
    if source.published is None:
        return ()
    what, days = source.published, judged.scanned.days
    start_s, end_s = day_start_s(what.start), day_start_s(what.end) + DAY_S
    notes = []
    held = {day.day for day in days if day.prints}
    promised = [what.start + dt.timedelta(n) for n in range((what.end - what.start).days + 1)]
    if missing := [str(day) for day in promised if day not in held]:
        notes.append(f"days without a print: {', '.join(missing)}")
    if outside := sum(day.prints for day in days if not what.start <= day.day <= what.end):
        notes.append(f"{outside} prints are of other days than its name says")
    inside = [day for day in days if what.start <= day.day <= what.end and day.prints]
    if inside:
        first, last = load_bars(inside[0].path).ts[0], load_bars(inside[-1].path).ts[-1]
        if first - start_s > EDGE_S and inside[0].day == what.start:
            notes.append(f"begins {int(first) - start_s} s after the start of {what.start}")
        if end_s - last > EDGE_S and inside[-1].day == what.end:
            notes.append(f"ends {end_s - int(last) - 1} s before the end of {what.end}")
    return tuple(notes)
