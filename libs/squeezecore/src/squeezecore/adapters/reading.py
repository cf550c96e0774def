"""From a file's rows to prints of an instrument, whatever the file: archive, column-mapped table, recorded frames.

Contracts become base units and listed thousands single units here, by the instrument's own facts; the taker's side was
decided by the reader or the venue's parser.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from squeezecore.adapters import archive, repair
from squeezecore.adapters.archive import Block, Content, FileRefusedError, Layout, Market, Prints, Published, Scales
from squeezecore.errors import ParseError, UsageError
from squeezecore.market import IdKind, Instrument, Kind, Margin, MarkPrice, Side, Trade, TradeFlag, Trades
from squeezecore.venues import trades_of, venue

FRAMES_PER_BLOCK = 50_000
Ints = NDArray[np.int64]
Advance = Callable[[int], None]  # how many bytes of the file have been read


@njit(cache=True)
def _base_of_contracts(contracts: Ints, price: Ints, contract_usd: int, digits: int) -> Ints:
    """Return contracts * contract_usd * 10**digits / price, rounded half away from zero: division as on paper."""
    out = np.empty(len(contracts), np.int64)
    for i in range(len(contracts)):
        if price[i] <= 0:
            out[i] = 0
            continue
        quote = contracts[i] * contract_usd
        value, rest = quote // price[i], quote % price[i]
        for _ in range(digits):
            rest *= 10
            value = value * 10 + rest // price[i]
            rest %= price[i]
        out[i] = value + (2 * rest >= price[i])
    return out


def scales(instrument: Instrument) -> Scales:
    """Return the decimals that a file's own numbers are read at."""
    zeros = len(str(instrument.multiplier)) - 1
    return Scales(
        instrument.price_decimals - zeros, 0 if instrument.margin is Margin.INVERSE else instrument.qty_decimals
    )


def to_trades(prints: Prints, instrument: Instrument, findings: repair.Findings) -> Trades:
    """Bring prints into base units. A row without price or quantity uses up its id, is counted, and is no flow."""
    count = len(prints.id)
    qty, quote_cents, side, flags = prints.qty, np.full(count, -1, np.int64), prints.side, np.zeros(count, np.uint8)
    if instrument.margin is Margin.INVERSE:
        usd = int(instrument.contract_size)
        digits = instrument.qty_decimals + instrument.price_decimals
        quote_cents = prints.qty * (usd * 100)
        qty = _base_of_contracts(prints.qty, prints.price, usd, digits)
    elif instrument.multiplier > 1:
        qty = prints.qty * instrument.multiplier
    empty = (prints.qty <= 0) | (prints.price <= 0)
    if empty.any():
        findings.set_aside["without_price_or_quantity"] += int(empty.sum())
        flags = np.where(empty, np.uint8(TradeFlag.INTERNAL), flags)
        side = np.where(empty, np.int8(Side.NONE), side)
    return Trades(prints.id, prints.time_ns, np.zeros(count, np.int64), prints.price, qty, quote_cents, side, flags)


class Opened(NamedTuple):
    """A trades file whose first row has been seen."""

    instrument: Instrument
    id_kind: IdKind
    contiguous: bool
    skips_one: bool  # a single missing id is a print the venue leaves out of its files, no hole
    has_ids: bool
    blocks: Callable[[repair.Findings, archive.UnitCount, Advance], Iterator[Trades]]  # may be called again


def open_archive(path: Path, what: Published, market: Market, known: dict[str, Instrument]) -> Opened | None:
    """Look into a published trades file; None when it has no row."""
    head, name = _first_head(path)
    if head is None:
        return None
    archive.archive_layout(what.content, market, head, name)  # refuses a file of another market's width
    if not head.first:
        return None
    price = _price(head.first[1], name, 2 if head.header else 1)
    try:
        made = venue("binance").instrument(market.section, what.native_symbol, price)
    except UsageError as error:
        raise FileRefusedError(name, 0, str(error)) from error
    instrument = known.get(made.id, made)
    archive.check_market(what.content, market, head, name, int(instrument.contract_size))

    def blocks(findings: repair.Findings, units: archive.UnitCount, advance: Advance) -> Iterator[Trades]:
        for stream in archive.open_csvs(path):
            head, start = archive.peek(stream)
            if not head.first:
                continue
            layout = archive.archive_layout(what.content, market, head, stream.name)
            for block in archive.read_csv(stream, head, start, layout, scales(instrument), units):
                advance(block.bytes_read)
                yield to_trades(block.prints, instrument, findings)

    single = what.content is Content.TRADES
    return Opened(
        instrument=instrument,
        id_kind=IdKind.TRADE if single else IdKind.AGGREGATE,
        contiguous=True,
        skips_one=single and market is not Market.SPOT,
        has_ids=True,
        blocks=blocks,
    )


def _first_head(path: Path) -> tuple[archive.Head | None, str]:
    """Return the head of the first CSV that has a row, or at least a header."""
    found: tuple[archive.Head | None, str] = (None, str(path))
    for stream in archive.open_csvs(path):
        head, _ = archive.peek(stream)
        if head.first:
            return head, stream.name
        if head.header and found[0] is None:
            found = head, stream.name
    return found


def _price(text: str, name: str, line: int) -> Decimal:
    """Read the price that sets an unknown instrument's scales."""
    try:
        price = Decimal(text)
    except ArithmeticError:
        price = Decimal(0)
    if not price.is_finite() or price <= 0:
        raise FileRefusedError(name, line, f"price was {text!r}, which is no price")
    return price


# --- any table --------------------------------------------------------------------------------------------------------


def open_table(path: Path, layout: Layout, instrument_id: str, known: dict[str, Instrument]) -> Opened | None:
    """Look into a CSV or Parquet file whose columns the caller has named; None when it has no row."""
    instrument = known.get(instrument_id) or instrument_of(instrument_id, _table_price(path, layout))
    if instrument is None:
        return None
    parquet = path.suffix.lower() == ".parquet"

    def read(units: archive.UnitCount) -> Iterator[Block]:
        if parquet:
            yield from archive.read_parquet(path, layout, scales(instrument), units)
            return
        for stream in archive.open_csvs(path):
            head, start = archive.peek(stream)
            if head.first:
                yield from archive.read_csv(stream, head, start, layout, scales(instrument), units)

    def blocks(findings: repair.Findings, units: archive.UnitCount, advance: Advance) -> Iterator[Trades]:
        for block in read(units):
            advance(block.bytes_read)
            yield to_trades(block.prints, instrument, findings)

    return Opened(
        instrument=instrument,
        id_kind=IdKind.TRADE if layout.id else IdKind.NONE,
        contiguous=bool(layout.id) and instrument.venue == "binance",
        skips_one=False,
        has_ids=bool(layout.id),
        blocks=blocks,
    )


def _table_price(path: Path, layout: Layout) -> Decimal | None:
    """Return the first price of a table; None when it has no row."""
    if path.suffix.lower() == ".parquet":
        return archive.first_parquet_value(path, layout.price)
    head, name = _first_head(path)
    if head is None or not head.first:
        return None
    at = archive.column_index(layout, head, name)["price"]
    if at >= len(head.first):
        raise FileRefusedError(name, 2 if head.header else 1, "its first row is too short")
    return _price(head.first[at], name, 2 if head.header else 1)


_SYMBOL = re.compile(r"(?P<base>[A-Z0-9]+)-(?P<quote>[A-Z0-9]+)(-(?P<what>PERP|\d{6}))?")


def instrument_of(instrument_id: str, price: Decimal | None = None) -> Instrument | None:
    """Make an instrument from our own name; by its venue's rules where we have that venue, else by plain defaults.

    Returns None when only a price could set the scales and there is none.
    """
    name, _, symbol = instrument_id.partition(":")
    match = _SYMBOL.fullmatch(symbol)
    if not name or match is None:
        raise UsageError(
            f"instrument was {instrument_id!r}, it must look like venue:BASE-QUOTE, or with -PERP or -YYMMDD for derivatives"
        )
    if name == "binance":
        return _by_venue(instrument_id, price)
    if price is None:
        return None
    decimals = archive.default_scales(price)
    kind = {None: Kind.SPOT, "PERP": Kind.PERP}.get(match["what"], Kind.FUTURE)
    return Instrument(
        venue=name,
        symbol=symbol,
        native_symbol=symbol,
        section="spot" if kind is Kind.SPOT else "linear",
        base=match["base"],
        quote=match["quote"],
        settle=match["quote"],
        kind=kind,
        margin=Margin.NONE if kind is Kind.SPOT else Margin.LINEAR,
        price_decimals=decimals.price,
        qty_decimals=decimals.qty,
        tick_size=Decimal(1).scaleb(-decimals.price),
        lot_size=Decimal(1).scaleb(-decimals.qty),
    )


def _by_venue(instrument_id: str, price: Decimal | None) -> Instrument | None:
    """Find the native name that a venue's own rules call by our name."""
    name, _, symbol = instrument_id.partition(":")
    rules, parts = venue(name), symbol.split("-")
    pair = "".join(parts[:2])
    dated = f"_{parts[2]}" if len(parts) > 2 and parts[2] != "PERP" else ""
    missing_price = False
    for section in reversed(list(rules.SECTIONS)):  # BTC-USD-PERP is the inverse BTCUSD_PERP before any linear BTCUSD
        for native in dict.fromkeys((pair + dated, f"{pair}_{parts[-1]}", f"1000{pair}{dated}")):
            try:
                made = rules.instrument(section, native, price)
            except UsageError as error:
                missing_price = missing_price or "pass a price" in str(error)
                continue
            if made.id == instrument_id:
                return made
    if missing_price and price is None:
        return None
    raise UsageError(f"instrument was {instrument_id!r}, which no name rule of {name} makes: check its spelling")


# --- recorded frames --------------------------------------------------------------------------------------------------

_FRAMES_NAME = re.compile(r"(?P<venue>[a-z0-9_]+)\.(?P<section>spot|linear|inverse)\.(?P<rest>.+)")


class Recorded(NamedTuple):
    """What a file of recorded frames held: prints and marks on disk, by instrument, and what was left out."""

    opened: dict[str, Opened]
    marks: dict[str, tuple[Ints, Ints]]  # second from which it is known, mark
    frames: int
    others: Counter[str]


def frames_place(path: Path, market: Market | None) -> tuple[str, str] | None:
    """Return (venue, section) of a frames file by its name, or by the market given; None when neither says it."""
    match = _FRAMES_NAME.match(path.name)
    if match is not None:
        return match["venue"], match["section"]
    return ("binance", market.section) if market is not None else None


def looks_like_frames(path: Path) -> bool:
    """Say whether a file's first line is `<receive time> <JSON>`."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            return re.match(rb"\d{16,19} [\[{]", file.read(64)) is not None
    except (OSError, EOFError):
        return False


class _Catalogue(dict[str, Instrument]):
    """Instruments by native symbol, made from their names when first met."""

    def __init__(self, venue_name: str, section: str, known: dict[str, Instrument]) -> None:
        super().__init__()
        self._rules, self._section, self._known = venue(venue_name), section, known

    def get(self, native: str, default: Instrument | None = None) -> Instrument | None:  # type: ignore[override]
        if native not in self:
            try:
                made = self._rules.instrument(self._section, native)
            except UsageError:
                return default
            self[native] = self._known.get(made.id, made)
        return self[native]


def read_frames(
    path: Path, place: tuple[str, str], known: dict[str, Instrument], spool: Path, advance: Advance
) -> Recorded:
    """Parse every frame of a recording, put the prints on disk by instrument, and keep the marks.

    One file may hold several connections: prints heard twice are dropped later by id, holes between them are seen.

    Raises:
        FileRefusedError: at the first line that is no frame.
    """
    rules, catalogue = venue(place[0]), _Catalogue(*place, known)
    runs: dict[tuple[str, IdKind], list[Path]] = {}
    marks: dict[str, dict[int, int]] = {}
    others: Counter[str] = Counter()
    frames, waiting = 0, list[Trade]()

    def flush() -> None:
        for kind in {trade.id_kind for trade in waiting}:
            for name, trades in trades_of([trade for trade in waiting if trade.id_kind is kind]).items():
                files = runs.setdefault((name, kind), [])
                files.append(spool / f"frames-{len(runs)}-{len(files)}.npy")
                np.save(files[-1], repair.pack(trades))
        waiting.clear()

    for number, received_ns, frame in _frame_lines(path, advance):
        try:
            events = rules.parse(place[1], catalogue, frame, received_ns)
        except ParseError as error:
            raise FileRefusedError(str(path), number, str(error)) from error
        frames += 1
        for event in events:
            if isinstance(event, Trade):
                waiting.append(event)
            elif isinstance(event, MarkPrice):
                marks.setdefault(event.instrument, {})[event.exchange_ns // 10**9 + 1] = event.mark
            else:
                others[type(event).__name__] += 1
        if len(waiting) >= FRAMES_PER_BLOCK:
            flush()
    flush()
    by_id = {instrument.id: instrument for instrument in catalogue.values()}
    opened: dict[str, Opened] = {}
    for (name, kind), files in sorted(runs.items()):  # single prints come before aggregates
        if name in opened:
            others["aggregates beside single prints"] += sum(np.load(file, mmap_mode="r").shape[1] for file in files)
            continue
        opened[name] = Opened(by_id[name], kind, True, False, True, _spooled(files))
    return Recorded(opened, {name: _ascending(found) for name, found in marks.items()}, frames, others)


def _ascending(found: dict[int, int]) -> tuple[Ints, Ints]:
    seconds = sorted(found)
    return np.array(seconds, np.int64), np.array([found[second] for second in seconds], np.int64)


def _spooled(files: list[Path]) -> Callable[[repair.Findings, archive.UnitCount, Advance], Iterator[Trades]]:
    def blocks(_findings: repair.Findings, _units: archive.UnitCount, _advance: Advance) -> Iterator[Trades]:
        for file in files:
            yield repair.unpack(np.load(file))

    return blocks


def _frame_lines(path: Path, advance: Advance) -> Iterator[tuple[int, int, bytes]]:
    """Yield (line number, receive time in ns, frame)."""
    with archive.broken_as_corrupt(str(path)), path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        lines = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw
        for number, line in enumerate(lines, 1):
            stamp, _, frame = line.strip().partition(b" ")
            if not stamp:
                continue
            if not stamp.isdigit() or not frame:
                raise FileRefusedError(str(path), number, f"it is no '<receive time> <JSON>': {line[:80]!r}")
            if number % 1024 == 0:
                advance(raw.tell())
            yield number, int(stamp) * 10 ** max(0, 19 - len(stamp)), frame
