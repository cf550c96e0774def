"""Files of recorded trades, as they really are: bytes in, exact integer columns out, in bounded memory.

Knows the layouts of Binance's public archive and any CSV or Parquet with a column map. Numbers go from text to integers
digit by digit, so no price or quantity ever passes through a float. A file that is not what it claims to be is refused
with its name, the line and the reason; what to do with rows that are readable but wrong is `importing`'s business.
"""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path, PurePath
from typing import IO, Any, NamedTuple, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from squeezecore.adapters.digits import (
    DECIMAL,
    INTEGER,
    MAKER,
    NEGATIVE,
    NOT_A_FLAG,
    NOT_A_NUMBER,
    NOT_A_SIDE,
    NOT_A_TIME,
    OK,
    SIDE,
    TIME,
    TIME_NS_MAX,
    TIME_NS_MIN,
    TOO_FEW,
    TOO_FINE,
    TOO_LARGE,
    TOO_MANY,
    parse_lines,
    time_ns,
)
from squeezecore.errors import UsageError
from squeezecore.market import Side, default_price_decimals, default_qty_decimals

CHUNK_BYTES = 8 << 20  # of text parsed at a time
ROWS_PER_BATCH = 1 << 18  # of Parquet read at a time
LINE_BYTES_MAX = 1 << 16  # a longer line is no line

_REASONS = {
    NOT_A_NUMBER: "which is no number",
    TOO_FINE: "which has more decimals than the instrument's scale keeps ({scale})",
    TOO_LARGE: "which is larger than any value stored (2**63 at {scale} decimals)",
    NEGATIVE: "which is negative",
    NOT_A_FLAG: "which is neither true nor false",
    NOT_A_TIME: "which is no time between 2009 and 2100 in s, ms, µs, ns or ISO 8601",
    NOT_A_SIDE: "which names no side: map it with side values",
}


class FileRefusedError(UsageError):
    """A file that is not what it claims to be, or clashes with what is stored; nothing of it was imported."""

    def __init__(self, file: str, line: int, reason: str) -> None:
        self.file, self.line, self.reason = file, line, reason
        place = f"{file}, line {line}" if line else file
        super().__init__(f"{place}: {reason}; nothing of this file was imported")


class Market(StrEnum):
    """The archive's names for Binance's markets."""

    SPOT = "spot"
    USD_M = "um"
    COIN_M = "cm"

    @property
    def section(self) -> str:
        """The venue's endpoint family (`Instrument.section`)."""
        return {"spot": "spot", "um": "linear", "cm": "inverse"}[self.value]


class Content(StrEnum):
    """The kinds of archive files that we read, by their published names."""

    AGG_TRADES = "aggTrades"
    TRADES = "trades"
    FUNDING = "fundingRate"
    METRICS = "metrics"


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What a published path says about a file."""

    content: Content
    native_symbol: str
    start: dt.date
    end: dt.date  # the last day
    market: Market | None = None  # None: the path does not say it, and nobody may guess it

    @property
    def period(self) -> str:
        """`daily` or `monthly`."""
        return "daily" if self.start == self.end else "monthly"


_NAME = re.compile(
    r"^(?P<symbol>[A-Z0-9_]+)-(?P<content>aggTrades|trades|fundingRate|metrics)"
    r"-(?P<date>\d{4}-\d{2}(-\d{2})?)(\.csv|\.zip|\.csv\.gz|\.csv\.zip)$"
)


def published(path: PurePath) -> Published | None:
    """Read what a path of the archive's layout says; None for other names.

    >>> published(PurePath("data/futures/um/daily/trades/BTCUSDT/BTCUSDT-trades-2026-01-01.zip")).market
    <Market.USD_M: 'um'>
    """
    match = _NAME.match(path.name)
    if match is None:
        return None
    start, end = _period(match["date"], path)
    return Published(
        content=Content(match["content"]),
        native_symbol=match["symbol"],
        start=start,
        end=end,
        market=_market_of(path.parts[:-1]),
    )


def _period(text: str, path: PurePath) -> tuple[dt.date, dt.date]:
    try:
        if len(text) == 10:
            day = dt.date.fromisoformat(text)
            return day, day
        start = dt.date.fromisoformat(text + "-01")
    except ValueError:
        raise FileRefusedError(
            str(path), 0, f"its name says {text}, which is no date: give it its published name"
        ) from None
    return start, (start + dt.timedelta(31)).replace(day=1) - dt.timedelta(1)


def _market_of(parts: tuple[str, ...]) -> Market | None:
    """Find `spot/<period>/` or `futures/{um,cm}/<period>/`, nearest to the file."""
    for n in range(len(parts) - 1, 0, -1):
        if parts[n] not in {"daily", "monthly"}:
            continue
        if parts[n - 1] == "spot":
            return Market.SPOT
        if n >= 2 and parts[n - 2] == "futures" and parts[n - 1] in {"um", "cm"}:
            return Market(parts[n - 1])
    return None


# --- identity -------------------------------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_checksum(path: Path, actual: str) -> bool:
    """Compare a file's sha256 with `<file>.CHECKSUM` beside it; False when there is none.

    Raises:
        FileRefusedError: the two differ.
    """
    beside = path.with_name(path.name + ".CHECKSUM")
    if not beside.exists():
        return False
    words = beside.read_text("utf-8", "replace").split()
    expected = words[0].lower() if words else ""
    if expected != actual:
        raise FileRefusedError(
            str(path),
            0,
            f"its sha256 is {actual}, {beside.name} says {expected or 'nothing'}: download both again "
            "(a file that was repacked on purpose is read when its CHECKSUM file is removed)",
        )
    return True


# --- bytes ----------------------------------------------------------------------------------------------------------


class Stream(NamedTuple):
    """One CSV's bytes, and the raw file below them, whose position is the progress."""

    name: str
    data: IO[bytes]
    raw: IO[bytes]


@contextmanager
def broken_as_corrupt(name: str) -> Iterator[None]:
    """Turn the errors of unpacking into our own."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise FileRefusedError(name, 0, f"it cannot be unpacked ({error}): download it again") from error


def open_csvs(path: Path) -> Iterator[Stream]:
    """Open a `.csv`, `.csv.gz` or `.zip`; a zip may be repacked, with folders or several CSVs in it."""
    with broken_as_corrupt(str(path)), path.open("rb") as raw:
        head = raw.read(4)
        raw.seek(0)
        if head[:2] == b"PK":
            with zipfile.ZipFile(raw) as packed:
                members = [info for info in packed.infolist() if _is_csv(info)]
                if not members:
                    raise FileRefusedError(str(path), 0, "the zip holds no CSV: download it again")
                for info in sorted(members, key=lambda info: info.filename):
                    with packed.open(info) as member:
                        yield Stream(f"{path}:{info.filename}", member, raw)
        elif head[:2] == b"\x1f\x8b":
            with gzip.open(raw) as unpacked:
                yield Stream(str(path), cast("IO[bytes]", unpacked), raw)
        elif path.suffix == ".zip":
            raise FileRefusedError(str(path), 0, "it is named .zip but is none: download it again")
        else:
            yield Stream(str(path), raw, raw)


def _is_csv(info: zipfile.ZipInfo) -> bool:
    name = PurePath(info.filename)
    hidden = name.name.startswith(".") or "__MACOSX" in name.parts
    return not info.is_dir() and not hidden and name.suffix.lower() in {".csv", ".txt", ""}


class Head(NamedTuple):
    """The first lines of a CSV."""

    header: tuple[str, ...]  # empty: none
    first: tuple[str, ...]  # the first row's fields; empty: no row
    delimiter: str


def peek(stream: Stream) -> tuple[Head, bytes]:
    """Read a CSV's first lines, and return them with the bytes that were read, byte-order mark removed."""
    with broken_as_corrupt(stream.name):
        data = stream.data.read(LINE_BYTES_MAX)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FileRefusedError(stream.name, 1, "it is UTF-16: save it as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    lines = [line for line in data.split(b"\n", 64)[:64] if line.strip()]
    if not lines:
        return Head((), (), ","), data
    delimiter = max(b",;\t|", key=lines[0].count)
    rows = [
        tuple(field.strip().strip('"') for field in line.decode("utf-8", "replace").split(chr(delimiter)))
        for line in lines[:2]
    ]
    if _is_header(rows[0]):
        return Head(rows[0], rows[1] if len(rows) > 1 else (), chr(delimiter)), data
    return Head((), rows[0], chr(delimiter)), data


def _is_header(fields: tuple[str, ...]) -> bool:
    """A header holds no number: a row of trades always begins with one."""
    return not any(re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?|\d{4}-\d\d-\d\d.*", field) for field in fields)


# --- layouts --------------------------------------------------------------------------------------------------------


class Prints(NamedTuple):
    """A block of a file's rows, in the file's order."""

    id: NDArray[np.int64]  # -1: the file has none
    time_ns: NDArray[np.int64]
    price: NDArray[np.int64]  # at the price scale
    qty: NDArray[np.int64]  # at the qty scale given: base units, or contracts
    side: NDArray[np.int8]


class Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which columns of a file hold what: by name, or by position where the file has no header."""

    time: str
    price: str
    qty: str
    side: str = ""  # a column that names the taker's side …
    maker: str = ""  # … or one that says whether the buyer was the maker
    id: str = ""
    time_unit: str = ""  # s, ms, us, ns; empty: by magnitude
    side_values: dict[str, int] = {}

    def used(self) -> dict[str, str]:
        """Return role → column for the columns that exist."""
        roles = {name: getattr(self, name) for name in ("id", "time", "price", "qty", "side", "maker")}
        return {role: column for role, column in roles.items() if column}


DEFAULT_SIDES: Mapping[str, int] = {
    "buy": Side.BUY, "b": Side.BUY, "bid": Side.BUY, "1": Side.BUY, "+1": Side.BUY,
    "sell": Side.SELL, "s": Side.SELL, "ask": Side.SELL, "-1": Side.SELL,
}  # fmt: skip
_UNITS = {"": -1, "s": 9, "ms": 6, "us": 3, "µs": 3, "ns": 0}
_SPELLINGS = {
    "id": ("agg_trade_id", "aggtradeid", "id", "trade_id", "a"),
    "price": ("price", "p"),
    "qty": ("quantity", "qty", "q"),
    "time": ("transact_time", "time", "timestamp", "t"),
    "maker": ("is_buyer_maker", "isbuyermaker", "was_the_buyer_the_maker", "m"),
}
_POSITIONS = {
    Content.AGG_TRADES: Layout(id="0", price="1", qty="2", time="5", maker="6"),
    Content.TRADES: Layout(id="0", price="1", qty="2", time="4", maker="5"),
}
_WIDTHS = {Content.AGG_TRADES: (7, 8), Content.TRADES: (6, 7)}  # the wider ones are spot's


def column_map(text: str, time_unit: str = "") -> Layout:
    """Read `time=ts,price=p,qty=q,side=side,id=id`; `buy=…` and `sell=…` name the values of the side column.

    >>> column_map("time=ts,price=p,qty=q,side=s,buy=BUYER,sell=SELLER").side_values
    {'BUYER': 1, 'SELLER': -1}
    """
    roles: dict[str, Any] = {}
    values: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        role, equals, column = (word.strip() for word in part.partition("="))
        if not equals or not column:
            raise UsageError(f"column map holds {part!r}, each part must be role=column: see --help")
        if role in {"buy", "sell"}:
            values[column] = int(Side.BUY if role == "buy" else Side.SELL)
        elif role in {"id", "time", "price", "qty", "side", "maker", "time_unit"}:
            roles[role] = column
        else:
            raise UsageError(
                f"column map names the role {role!r}, known are time, price, qty, side, maker, id, time_unit, buy, sell"
            )
    for role in ("time", "price", "qty"):
        if role not in roles:
            raise UsageError(f"column map was {text!r}, it lacks {role}: add {role}=<column>")
    if ("side" in roles) == ("maker" in roles):
        raise UsageError(f"column map was {text!r}, it needs either side=<column> or maker=<column>: give one of them")
    unit = time_unit or roles.pop("time_unit", "")
    if unit not in _UNITS:
        raise UsageError(f"time unit was {unit!r}, known are s, ms, us, ns: leave it out to take it from the magnitude")
    return Layout(**roles, time_unit=unit, side_values=values)


def archive_layout(content: Content, market: Market, head: Head, name: str) -> Layout:
    """Return the layout of a published trades file, by its header when it has one."""
    width, usual = len(head.header or head.first), _WIDTHS[content]
    spot_only = any(field.lower().replace("_", "") == "isbestmatch" for field in head.header)
    fits = width >= usual[0] and not spot_only if head.header else width == usual[0]  # a header may name new columns
    if not (width in usual if market is Market.SPOT else fits):
        expected = usual[1] if market is Market.SPOT else usual[0]
        raise FileRefusedError(
            name,
            1,
            f"it has {width} columns, {content} of market {market} have {expected}: check --market and the file",
        )
    if not head.header:
        return _POSITIONS[content]
    names = [field.lower() for field in head.header]
    found: dict[str, Any] = {}
    for role, spellings in _SPELLINGS.items():
        known = [head.header[names.index(spelling)] for spelling in spellings if spelling in names]
        if not known:
            raise FileRefusedError(name, 1, f"its header {','.join(head.header)} names no {role} column")
        found[role] = known[0]
    return Layout(**found)


def check_market(content: Content, market: Market, head: Head, name: str, contract_usd: int) -> None:
    """Compare a `trades` row's fourth column with price and quantity: quote units, or base units on COIN-M.

    Guards the unit of every quantity in the file: a COIN-M file read as USD-M would count contracts as coins.
    """
    if content is not Content.TRADES or len(head.first) < 4:
        return
    try:
        price, qty, other = (Decimal(head.first[n]) for n in (1, 2, 3))
        if not (price > 0 and qty > 0 and other > 0):
            return
        expected = qty * contract_usd / price if market is Market.COIN_M else qty * price
        off = abs(other / expected - 1)
    except (InvalidOperation, ArithmeticError):
        return  # the parser names the line
    if off > Decimal("0.01") and abs(other - expected) > Decimal("0.000001"):
        raise FileRefusedError(
            name,
            2 if head.header else 1,
            f"its fourth column is {other}, market {market} would have {expected:.8f}: the file is of another market",
        )


# --- reading --------------------------------------------------------------------------------------------------------


class Scales(NamedTuple):
    """How many decimals the integers of a file's prices and quantities keep."""

    price: int
    qty: int


class Block(NamedTuple):
    """Some prints, the line or row they begin with, and how far into the file they end."""

    prints: Prints
    line: int
    bytes_read: int


def column_index(layout: Layout, head: Head, name: str) -> dict[str, int]:
    """Find each role's position among a CSV's columns."""
    width = len(head.header or head.first)
    found: dict[str, int] = {}
    for role, column in layout.used().items():
        if column in head.header:
            found[role] = head.header.index(column)
        elif column.isdigit() and int(column) < width and not (head.header and not layout.used()[role].isdigit()):
            found[role] = int(column)
        else:
            known = ", ".join(head.header) or f"none (columns are 0 to {width - 1})"
            raise UsageError(
                f"{name}: the column for {role} was {column!r}, the file's columns are {known}: correct the map"
            )
    return found


def _word_table(values: Mapping[str, int]) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    table = dict(DEFAULT_SIDES) if not values else dict(values)
    encoded = [word.lower().encode() for word in table]
    words = np.zeros((len(encoded), max(map(len, encoded))), np.uint8)
    for row, word in zip(words, encoded, strict=True):
        row[: len(word)] = np.frombuffer(word, np.uint8)
    return words, np.array(list(table.values()), np.int8)


_ROLE_KINDS = {"id": INTEGER, "time": TIME, "price": DECIMAL, "qty": DECIMAL, "side": SIDE, "maker": MAKER}


class UnitCount:
    """How many times of a file were in ns, µs, ms, s and ISO 8601."""

    def __init__(self) -> None:
        self.counts = np.zeros(5, np.int64)

    def named(self) -> dict[str, int]:
        """Return unit → rows, for the units that were met."""
        return {name: int(n) for name, n in zip(("ns", "us", "ms", "s", "iso"), self.counts, strict=True) if n}


def read_csv(
    stream: Stream, head: Head, start: bytes, layout: Layout, scales: Scales, units: UnitCount
) -> Iterator[Block]:
    """Yield a CSV's prints in blocks.

    Raises:
        FileRefusedError: with the line, the column and the value.
    """
    width = len(head.header or head.first)
    index = column_index(layout, head, stream.name)
    kinds, powers = np.zeros(width, np.int8), np.zeros(width, np.int64)
    for role, column in index.items():
        kinds[column] = _ROLE_KINDS[role]
        powers[column] = {"price": scales.price, "qty": scales.qty, "time": _UNITS[layout.time_unit]}.get(role, 0)
    words, sides = _word_table(layout.side_values)
    out = np.empty((width, CHUNK_BYTES // (2 * width) + 1), np.int64)
    line, rest, at_end = 0, start, False
    if head.header:
        skipped = len(rest) - len(rest.lstrip(b"\r\n"))
        cut = rest.find(b"\n", skipped)
        line = rest.count(b"\n", 0, cut + 1) if cut >= 0 else 1
        rest = rest[cut + 1 :] if cut >= 0 else b""
    while not at_end or rest:
        with broken_as_corrupt(stream.name):
            more = stream.data.read(CHUNK_BYTES) if not at_end else b""
        at_end = at_end or not more
        data = np.frombuffer(rest + more, np.uint8)
        rows, used, lines, code, column, a, b = parse_lines(
            data, len(data), at_end, ord(head.delimiter), kinds, powers, words, sides, units.counts, out
        )
        if code != OK:
            raise FileRefusedError(stream.name, line + lines, _reason(code, column, data[a:b], index, powers, width))
        if not used and len(data) > LINE_BYTES_MAX:
            raise FileRefusedError(stream.name, line + 1, f"the line is longer than {LINE_BYTES_MAX} bytes")
        if rows:
            yield Block(_prints(out, rows, index), line + 1, stream.raw.tell())
        line += lines
        rest = data[used:].tobytes()


def _reason(
    code: int, column: int, field: NDArray[np.uint8], index: dict[str, int], powers: NDArray[np.int64], width: int
) -> str:
    text = field.tobytes()[:80].decode("utf-8", "replace")
    if code in {TOO_FEW, TOO_MANY}:
        return f"it has {column} columns, the file has {width}: {text!r}"
    role = next(role for role, at in index.items() if at == column)
    return f"{role} was {text!r}, {_REASONS[code].format(scale=powers[column])}"


def _prints(out: NDArray[np.int64], rows: int, index: dict[str, int]) -> Prints:
    side = out[index["side" if "side" in index else "maker"], :rows].astype(np.int8)
    ids = out[index["id"], :rows].copy() if "id" in index else np.full(rows, -1, np.int64)
    return Prints(
        ids, out[index["time"], :rows].copy(), out[index["price"], :rows].copy(), out[index["qty"], :rows].copy(), side
    )


def read_parquet(path: Path, layout: Layout, scales: Scales, units: UnitCount) -> Iterator[Block]:
    """Yield a Parquet file's prints in blocks; numbers may be integers, floats, decimals or strings.

    A float is taken as the shortest decimal that it stands for, which is exact to 15 digits.
    """
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise FileRefusedError(str(path), 0, f"it is no Parquet file ({error})") from error
    names = file.schema_arrow.names
    for role, column in layout.used().items():
        if column not in names:
            raise UsageError(
                f"{path}: the column for {role} was {column!r}, the file's columns are {', '.join(names)}: correct the map"
            )
    used, row, size = layout.used(), 0, path.stat().st_size
    total = max(1, file.metadata.num_rows)
    try:
        for batch in file.iter_batches(ROWS_PER_BATCH, columns=list(dict.fromkeys(used.values()))):
            columns = {role: batch.column(batch.schema.get_field_index(column)) for role, column in used.items()}
            prints = _arrow_prints(columns, layout, scales, units, str(path), row)
            yield Block(prints, row + 1, size * (row + batch.num_rows) // total)
            row += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise FileRefusedError(str(path), row + 1, f"it cannot be read ({error})") from error


def first_parquet_value(path: Path, column: str) -> Decimal | None:
    """Return a column's first value; None when the file has no row."""
    try:
        file = pq.ParquetFile(path)
        if column not in file.schema_arrow.names:
            raise UsageError(
                f"{path}: a column was {column!r}, the file's columns are {', '.join(file.schema_arrow.names)}: correct the map"
            )
        for batch in file.iter_batches(1, columns=[column]):
            return Decimal(str(batch.column(0)[0].as_py()))
    except (pa.ArrowInvalid, OSError, InvalidOperation) as error:
        raise FileRefusedError(str(path), 0, f"it cannot be read ({error})") from error
    return None


def default_scales(price: Decimal) -> Scales:
    """Choose the scales of an instrument that no rule knows."""
    return Scales(default_price_decimals(float(price)), default_qty_decimals(float(price)))


def _arrow_prints(
    columns: dict[str, Any], layout: Layout, scales: Scales, units: UnitCount, name: str, row: int
) -> Prints:
    for role, column in columns.items():
        if column.null_count:
            at = int(pc.index(pc.is_null(column), True).as_py())
            raise FileRefusedError(name, row + at + 1, f"{role} is empty")
    rows = len(columns["time"])
    ids = _arrow_ints(columns["id"], 0, "id", name, row) if "id" in columns else np.full(rows, -1, np.int64)
    if "maker" in columns:
        side = (1 - 2 * _arrow_flags(columns["maker"], name, row)).astype(np.int8)
    else:
        side = _arrow_sides(columns["side"], layout, name, row)
    return Prints(
        ids,
        _arrow_times(columns["time"], layout, units, name, row),
        _arrow_ints(columns["price"], scales.price, "price", name, row),
        _arrow_ints(columns["qty"], scales.qty, "qty", name, row),
        side,
    )


def _arrow_ints(column: Any, scale: int, role: str, name: str, row: int) -> NDArray[np.int64]:
    """Scale numbers to integers, exactly."""
    kind = column.type
    if pa.types.is_integer(kind):
        values = column.to_numpy(zero_copy_only=False).astype(np.int64)
        limit = 2**63 // 10**scale
        if len(values) and int(values.max()) >= limit:
            raise FileRefusedError(
                name,
                row + int(values.argmax()) + 1,
                f"{role} was {values.max()}, {_REASONS[TOO_LARGE].format(scale=scale)}",
            )
        out = np.asarray(values * 10**scale, np.int64)
    elif pa.types.is_floating(kind):
        floats = column.to_numpy(zero_copy_only=False).astype(np.float64)
        shifted = floats * 10.0**scale
        whole = np.rint(shifted)
        # half a unit in the last digit of the float, and one rounding of the product, may lie between
        wrong = ~(np.abs(shifted - whole) <= np.maximum(np.abs(shifted) * 4.5e-16, 1e-6)) | (np.abs(shifted) >= 2**53)
        if wrong.any():
            at = int(wrong.argmax())
            raise FileRefusedError(
                name, row + at + 1, f"{role} was {floats[at]!r}, which {scale} decimals of a float cannot hold exactly"
            )
        out = np.asarray(whole, np.int64)
    else:
        texts = column if pa.types.is_string(kind) or pa.types.is_large_string(kind) else pc.cast(column, pa.string())
        out = _parse_texts(texts, DECIMAL, scale, role, name, row)
    if len(out) and int(out.min()) < 0:
        raise FileRefusedError(name, row + int(out.argmin()) + 1, f"{role} is negative")
    return out


def _parse_texts(
    texts: Any, kind: int, scale: int, role: str, name: str, row: int, units: UnitCount | None = None,
    values: Mapping[str, int] | None = None,
) -> NDArray[np.int64]:  # fmt: skip
    """Parse a column of strings with the text kernel, one a line."""
    data = np.frombuffer("\n".join(texts.to_pylist()).encode() + b"\n", np.uint8)
    words, sides = _word_table(values or {})
    out = np.empty((1, len(texts)), np.int64)
    counts = units.counts if units is not None else np.zeros(5, np.int64)
    rows, _, lines, code, _, a, b = parse_lines(
        data, len(data), True, 31, np.array([kind], np.int8), np.array([scale], np.int64), words, sides, counts, out
    )
    if code != OK or rows != len(texts):
        text = data[a:b].tobytes().decode("utf-8", "replace")
        reason = _REASONS.get(code, "which is empty").format(scale=scale)
        raise FileRefusedError(name, row + lines, f"{role} was {text!r}, {reason}")
    return cast("NDArray[np.int64]", out[0])


def _arrow_times(column: Any, layout: Layout, units: UnitCount, name: str, row: int) -> NDArray[np.int64]:
    kind = column.type
    if pa.types.is_timestamp(kind):
        unit = {"s": "s", "ms": "ms", "us": "us", "ns": "ns"}[kind.unit]
        out = pc.cast(column, pa.int64()).to_numpy(zero_copy_only=False) * 10 ** _UNITS[unit]
        units.counts[_UNITS[unit] // 3] += len(out)
    elif pa.types.is_integer(kind):
        values = column.to_numpy(zero_copy_only=False).astype(np.int64)
        if layout.time_unit:
            power = np.full(len(values), _UNITS[layout.time_unit], np.int64)
        else:
            power = np.select([values < 10**11, values < 10**14, values < 10**17], [9, 6, 3], 0).astype(np.int64)
        units.counts[:4] += np.bincount(power // 3, minlength=4)[:4]
        out = values * 10**power
    else:
        texts = column if pa.types.is_string(kind) or pa.types.is_large_string(kind) else pc.cast(column, pa.string())
        return _parse_texts(texts, TIME, _UNITS[layout.time_unit], "time", name, row, units)
    wrong = (out < TIME_NS_MIN) | (out >= TIME_NS_MAX)
    if wrong.any():
        at = int(wrong.argmax())
        raise FileRefusedError(name, row + at + 1, f"time was {column[at]}, {_REASONS[NOT_A_TIME]}")
    return np.asarray(out, np.int64)


def _arrow_flags(column: Any, name: str, row: int) -> NDArray[np.int64]:
    if pa.types.is_boolean(column.type):
        return np.asarray(pc.cast(column, pa.int8()).to_numpy(zero_copy_only=False), np.int64)
    texts = pc.cast(column, pa.string())
    return (1 - _parse_texts(texts, MAKER, 0, "maker", name, row)) // 2


def _arrow_sides(column: Any, layout: Layout, name: str, row: int) -> NDArray[np.int8]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    texts = pc.cast(column, pa.string())
    return _parse_texts(texts, SIDE, 0, "side", name, row, values=layout.side_values).astype(np.int8)


# --- open interest and funding ----------------------------------------------------------------------------------------


class MetricRow(NamedTuple):
    """One line of a `metrics` file."""

    event_s: int
    open_interest: Decimal  # base on USD-M, contracts on COIN-M; zero where the file has no value
    value: Decimal  # quote on USD-M, base on COIN-M


class FundingRow(NamedTuple):
    """One line of a `fundingRate` file."""

    event_s: int
    interval_s: int  # 0: the file does not say
    rate: Decimal


def _records(path: Path) -> Iterator[tuple[str, int, Head, tuple[str, ...]]]:
    """Yield (file, line, head, fields) of a small CSV."""
    for stream in open_csvs(path):
        head, start = peek(stream)
        with broken_as_corrupt(stream.name):
            text = io.TextIOWrapper(io.BytesIO(start + stream.data.read()), "utf-8", "replace", newline="")
        for number, line in enumerate(text.read().split("\n"), 1):
            fields = tuple(field.strip().strip('"') for field in line.rstrip("\r").split(head.delimiter))
            if line.strip() and fields != head.header:
                yield stream.name, number, head, fields


def _value(text: str, role: str, name: str, line: int) -> Decimal:
    """Parse a decimal; an empty one is zero, which says "no value"."""
    try:
        value = Decimal(text or "0")
    except InvalidOperation:
        value = Decimal("nan")
    if not value.is_finite():
        raise FileRefusedError(name, line, f"{role} was {text!r}, which is no number")
    return value


def _event_s(text: str, name: str, line: int) -> int:
    """Parse a time to the nearest second: venues stamp events some milliseconds late."""
    data = np.frombuffer(text.encode() or b"-", np.uint8)
    ns = int(time_ns(data, 0, len(data), -1, np.zeros(5, np.int64)))
    if not TIME_NS_MIN <= ns < TIME_NS_MAX:
        raise FileRefusedError(name, line, f"time was {text!r}, {_REASONS[NOT_A_TIME]}")
    return (ns + 500_000_000) // 1_000_000_000


def read_metrics(path: Path) -> list[MetricRow]:
    """Read a `metrics` file, in its order."""
    rows = []
    for name, line, head, fields in _records(path):
        order = head.header or ("create_time", "symbol", "sum_open_interest", "sum_open_interest_value")
        record = dict(zip(order, fields, strict=False))
        if len(fields) < 4 or not {"create_time", "sum_open_interest"} <= record.keys():
            raise FileRefusedError(
                name, line, f"it has no create_time and sum_open_interest: {','.join(fields)[:80]!r}"
            )
        rows.append(
            MetricRow(
                _event_s(record["create_time"], name, line),
                _value(record["sum_open_interest"], "sum_open_interest", name, line),
                _value(record.get("sum_open_interest_value", ""), "sum_open_interest_value", name, line),
            )
        )
    return rows


def read_funding(path: Path) -> list[FundingRow]:
    """Read a `fundingRate` file, in its order."""
    rows = []
    for name, line, head, fields in _records(path):
        order = head.header or ("calc_time", "funding_interval_hours", "last_funding_rate")
        record = dict(zip(order, fields, strict=False))
        if not {"calc_time", "last_funding_rate"} <= record.keys() or not record["last_funding_rate"]:
            raise FileRefusedError(name, line, f"it has no calc_time and last_funding_rate: {','.join(fields)[:80]!r}")
        hours = _value(record.get("funding_interval_hours", ""), "funding_interval_hours", name, line)
        if hours < 0 or hours * 3600 != int(hours * 3600) or hours > 24:
            raise FileRefusedError(name, line, f"funding_interval_hours was {hours}, it must lie between 0 and 24")
        rows.append(
            FundingRow(
                _event_s(record["calc_time"], name, line),
                int(hours * 3600),
                _value(record["last_funding_rate"], "last_funding_rate", name, line),
            )
        )
    return rows
