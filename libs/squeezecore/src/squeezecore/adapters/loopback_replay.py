"""Recorded frames as a source: what was heard goes out as it came, prints by id answer REST.

The venue's clock is the recorder's: a frame is sent at its `received_ns`. Frames of one section keep the order they were
recorded in. An hour is read when it is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from squeezecore.adapters.loopback_frames import Cache, Frames, Ints, weight
from squeezecore.adapters.loopback_recording import HOUR_NS, Line, RecordedFile, read_lines, recorded_files
from squeezecore.adapters.loopback_source import MS, Query
from squeezecore.adapters.loopback_world import listing
from squeezecore.errors import UsageError
from squeezecore.market import Instrument
from squeezecore.venues import venue

_HOURS_BYTES_MAX = 768_000_000
_OVER_NS = 60_000_000_000  # an hour's last frames may be put off so far, to keep their order
_WRAPPER = b'{"stream":"'
_STREAM_OF = {
    "trade": "trade",
    "aggTrade": "aggTrade",
    "bookTicker": "bookTicker",
    "depthUpdate": "depth@100ms",
    "markPriceUpdate": "markPrice@1s",
    "forceOrder": "forceOrder",
}


class _Head(msgspec.Struct):
    e: str = ""
    s: str = ""
    u: int = -1
    o: dict[str, object] | None = None


class _Print(msgspec.Struct):
    """A trade or aggTrade message."""

    T: int
    p: str
    q: str
    m: bool
    t: int = -1
    a: int = -1
    f: int = -1
    l: int = -1  # noqa: E741 - the venue's name
    nq: str | None = None


class _Index(NamedTuple):
    """One stream's prints of an hour by id, each id once."""

    id: Ints
    traded_ns: Ints
    row: Ints  # among the hour's frames


class _Hour(NamedTuple):
    """What was recorded in an hour."""

    streams: dict[tuple[str, str], Frames]  # by section and stream
    answers: dict[tuple[str, str], list[tuple[int, bytes]]]  # REST bodies by section and name, with their times


class Contents(NamedTuple):
    """What a recording is of, as far as its first and last hour tell."""

    single: bool  # prints are single trades, not the venue's aggregates
    prints: frozenset[str]  # ids of the instruments whose prints it holds
    marks: frozenset[str]
    open_interest: bool  # answers about open interest were recorded too


class Recorded:
    """A recording as a source."""

    def __init__(self, directory: Path, venue_name: str = "binance") -> None:
        self._directory, self._venue = directory, venue_name
        self._files: dict[int, list[RecordedFile]] = {}
        self._loose: dict[int, list[Line]] = {}  # of files that may span hours
        for file in recorded_files(directory, venue_name):
            if file.hour is not None:
                self._files.setdefault(file.hour, []).append(file)
                continue
            for line in read_lines(file):
                self._loose.setdefault(line.received_ns // HOUR_NS, []).append(line)
        self._kept = Cache(_HOURS_BYTES_MAX)
        self._indices = Cache(_HOURS_BYTES_MAX // 8)
        self._decode = msgspec.json.Decoder(_Print).decode
        self.hours = sorted({*self._files, *self._loose})
        ends = [self._bounds(hour) for hour in (*self.hours[:1], *self.hours[-1:])]
        if not ends or not all(ends):
            raise UsageError(f"recording {directory} holds no whole frame: record for longer than a moment")
        self.start_ns: int | None = min(ends[0])
        self.end_ns: int | None = max(ends[-1]) + 1

    def _bounds(self, hour: int) -> list[int]:
        return [at for f in self._hour(hour).streams.values() for at in (int(f.at_ns[0]), int(f.at_ns[-1]))]

    def contents(self) -> Contents:
        """Say what the recording holds; where a feed was recorded both ways, its aggregates count."""
        hours = [self._hour(hour) for hour in (*self.hours[:1], *self.hours[-1:])]
        streams = {key for hour in hours for key in hour.streams}
        names: dict[tuple[str, str], str] = {}
        for section in sorted({section for section, _ in streams}):
            listed, _ = venue(self._venue).instruments(section, self.exchange_info(section, self.end_ns or 0))
            names |= {(section, one.native_symbol.lower()): one.id for one in listed}
        held: dict[str, set[str]] = {"aggTrade": set(), "trade": set(), "markPrice": set()}
        for section, stream in streams:
            native, _, what = stream.partition("@")
            name, kind = names.get((section, native)), what.partition("@")[0]
            if name is not None and kind in held:
                held[kind].add(name)
        single = not held["aggTrade"]
        return Contents(
            single=single,
            prints=frozenset(held["trade" if single else "aggTrade"]),
            marks=frozenset(held["markPrice"]),
            open_interest=any(name == "openInterest" for hour in hours for _, name in hour.answers),
        )

    # -- hours ---------------------------------------------------------------------------------------------------------

    def _hour(self, hour: int) -> _Hour:
        return self._kept.get(hour, lambda: self._read(hour), lambda made: sum(map(weight, made.streams.values())))

    def _read(self, hour: int) -> _Hour:
        lines = [line for file in self._files.get(hour, []) for line in read_lines(file)]
        lines += self._loose.get(hour, [])
        lines.sort(key=lambda line: line.received_ns)  # stable: one file's order stays where times are equal
        rows: dict[tuple[str, str], list[tuple[int, bytes, int, int]]] = {}
        answers: dict[tuple[str, str], list[tuple[int, bytes]]] = {}
        last: dict[str, int] = {}
        for received_ns, section, frame in lines:
            where, colon, name = section.partition(":")
            if colon:
                answers.setdefault((where, name), []).append((received_ns, frame))
                continue
            stream, begin, end = _stream_of(frame)
            if stream:
                # Each later than the one before, so that merged streams come in the order recorded.
                at = max(received_ns, last.get(section, 0) + 1)
                last[section] = at
                rows.setdefault((section, stream), []).append((at, frame, begin, end))
        return _Hour({key: _frames(found) for key, found in rows.items()}, answers)

    def _hours_until(self, until_ns: int) -> list[int]:
        return [hour for hour in self.hours if hour * HOUR_NS < until_ns]

    # -- Source --------------------------------------------------------------------------------------------------------

    def frames(self, section: str, stream: str, start_ns: int, end_ns: int) -> list[Frames]:
        """See `Source.frames`."""
        parts = []
        for hour in self.hours:
            if hour * HOUR_NS < end_ns and (hour + 1) * HOUR_NS + _OVER_NS > start_ns:
                found = self._hour(hour).streams.get((section, stream))
                if found is not None:
                    parts.append(found.between(start_ns, end_ns))
        return parts

    def resumes_ns(self, at_ns: int) -> int:
        """See `Source.resumes_ns`; recordings may lie days apart."""
        later = [hour for hour in self.hours if (hour + 1) * HOUR_NS + _OVER_NS > at_ns]
        return max(at_ns, later[0] * HOUR_NS) if later else at_ns

    def prepare(self, section: str, stream: str, at_ns: int) -> None:
        """See `Source.prepare`."""
        self.frames(section, stream, at_ns, at_ns + 1)

    def exchange_info(self, section: str, until_ns: int) -> bytes:
        """Return the list that was recorded or lies beside the recording, else one of what its frames name."""
        answer = self._answer(section, "exchangeInfo", until_ns)
        if answer:
            return answer
        beside = self._directory / f"{self._venue}.{section}.exchange_info.json"
        if beside.is_file():
            return beside.read_bytes()
        symbols = [listing(one) for one in self._instruments(section, until_ns)]
        return json.dumps({"timezone": "UTC", "serverTime": until_ns // MS, "symbols": symbols}).encode()

    def _instruments(self, section: str, until_ns: int) -> Iterable[Instrument]:
        for native in sorted(self._natives(section, until_ns)):
            try:
                yield venue(self._venue).instrument(section, native)
            except UsageError:
                continue  # its scales are known to nobody here

    def _natives(self, section: str, until_ns: int) -> set[str]:
        return {
            stream.partition("@")[0].upper()
            for hour in self._hours_until(until_ns) or self.hours[:1]
            for where, stream in self._hour(hour).streams
            if where == section
        }

    def _index(self, hour: int, section: str, stream: str, aggregate: bool) -> _Index | None:
        frames = self._hour(hour).streams.get((section, stream))
        if frames is None:
            return None

        def make() -> _Index:
            messages = [self._decode(text) for text in frames.texts()]
            ids = np.array([one.a if aggregate else one.t for one in messages], np.int64)
            unique, row = np.unique(ids, return_index=True)
            return _Index(unique, np.array([one.T * MS for one in messages], np.int64)[row], row.astype(np.int64))

        return self._indices.get((hour, section, stream), make, weight)

    def _found(self, section: str, native: str, aggregate: bool, query: Query) -> list[bytes] | None:
        """Return the messages of the prints that a query asks for, ascending by id, each once."""
        if native not in self._natives(section, query.until_ns):
            return None
        stream = f"{native.lower()}@{'aggTrade' if aggregate else 'trade'}"
        latest = query.from_id is None and query.start_ns is None and query.end_ns is None
        found: dict[int, bytes] = {}
        for hour in self._hours_of(section, stream, aggregate, latest, query):
            index = self._index(hour, section, stream, aggregate)
            if index is None:
                continue
            frames = self._hour(hour).streams[section, stream]
            keep = frames.at_ns[index.row] < query.until_ns
            if query.from_id is not None:
                keep &= index.id >= query.from_id
            if query.start_ns is not None:
                keep &= index.traded_ns >= query.start_ns
            if query.end_ns is not None:
                keep &= index.traded_ns <= query.end_ns
            ids, rows = index.id[keep], index.row[keep]
            part = slice(-query.limit, None) if latest else slice(0, query.limit)
            for number, row in zip(ids[part].tolist(), rows[part].tolist(), strict=True):
                found.setdefault(number, frames.blob[frames.begin[row] : frames.end[row]].tobytes())
            if len(found) >= query.limit:
                break
        ordered = [found[number] for number in sorted(found)]
        return ordered[-query.limit :] if latest else ordered[: query.limit]

    def _hours_of(self, section: str, stream: str, aggregate: bool, latest: bool, query: Query) -> list[int]:
        """Return the hours to look into, in the order to do so: no more of a long recording than need be."""
        hours = self._hours_until(query.until_ns)
        if latest:
            return hours[::-1]
        if query.start_ns is not None:
            return [
                hour for hour in hours if (hour + 2) * HOUR_NS > query.start_ns
            ]  # clocks differ by less than an hour
        if query.from_id is None:
            return hours
        for n in range(len(hours) - 1, -1, -1):
            index = self._index(hours[n], section, stream, aggregate)
            if index is not None and index.id[0] <= query.from_id:
                return hours[max(0, n - 1) :]  # an hour may begin with prints that others in it were before
        return hours

    def prints(self, section: str, native: str, aggregate: bool, query: Query) -> bytes | None:
        """See `Source.prints`."""
        found = self._found(section, native, aggregate, query)
        if found is None:
            return None
        make = _rest_aggregate if aggregate else _rest_trade
        return msgspec.json.encode([make(section, self._decode(text)) for text in found])

    def truth(self, section: str, native: str, aggregate: bool, query: Query) -> list[bytes] | None:
        """See `Source.truth`."""
        return self._found(section, native, aggregate, query)

    def _answer(self, section: str, name: str, until_ns: int, native: str = "") -> bytes:
        """Return the last body recorded before a time, of a symbol where one is named; empty where there is none."""
        needle = f'"{native}"'.encode()
        for hour in reversed(self._hours_until(until_ns)):
            for at_ns, body in reversed(self._hour(hour).answers.get((section, name), [])):
                if at_ns < until_ns and (not native or needle in body):
                    return body
        return b""

    def open_interest(self, section: str, native: str, until_ns: int) -> bytes | None:
        """See `Source.open_interest`."""
        return self._answer(section, "openInterest", until_ns, native)

    def premium(self, section: str, native: str, until_ns: int) -> bytes | None:
        """See `Source.premium`."""
        return self._answer(section, "premiumIndex", until_ns, native)

    def funding(self, section: str, native: str, query: Query) -> bytes | None:
        """See `Source.funding`."""
        return self._answer(section, "fundingRate", query.until_ns, native)


def _stream_of(frame: bytes) -> tuple[str, int, int]:
    """Name a frame's stream and where in it the message lies; an empty name where it belongs to none."""
    if frame.startswith(_WRAPPER):
        quote = frame.find(b'"', len(_WRAPPER))
        begin = frame.find(b":", quote) + 1
        if quote > 0 and begin > 0 and frame.endswith(b"}"):
            return frame[len(_WRAPPER) : quote].decode("latin-1"), begin, len(frame) - 1
        return "", 0, 0
    try:
        head = msgspec.json.decode(frame, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "", 0, 0  # damaged frames are recorded too
    native = str(head.o.get("s", "")) if head.o else head.s
    what = "bookTicker" if not head.e and head.u >= 0 else _STREAM_OF.get(head.e, "")
    return (f"{native.lower()}@{what}" if native and what else ""), 0, len(frame)


def _frames(rows: list[tuple[int, bytes, int, int]]) -> Frames:
    at_ns = np.array([row[0] for row in rows], np.int64)
    raw_end = np.cumsum(np.array([len(row[1]) for row in rows], np.int64))
    raw_begin = raw_end - np.array([len(row[1]) for row in rows], np.int64)
    begin = raw_begin + np.array([row[2] for row in rows], np.int64)
    end = raw_begin + np.array([row[3] for row in rows], np.int64)
    return Frames(np.frombuffer(b"".join(row[1] for row in rows), np.uint8), begin, end, raw_begin, raw_end, at_ns)


def _rest_aggregate(section: str, one: _Print) -> dict[str, object]:
    made: dict[str, object] = {"a": one.a, "p": one.p, "q": one.q, "f": one.f, "l": one.l, "T": one.T, "m": one.m}
    if one.nq is not None:
        made["nq"] = one.nq
    return made | ({"M": True} if section == "spot" else {})


def _rest_trade(section: str, one: _Print) -> dict[str, object]:
    made: dict[str, object] = {
        "id": one.t, "price": one.p, "qty": one.q, "time": one.T, "isBuyerMaker": one.m,
    }  # fmt: skip
    if section == "inverse":
        return made
    made["quoteQty"] = f"{Decimal(one.p) * Decimal(one.q):f}"
    return made | ({"isBestMatch": True} if section == "spot" else {})
