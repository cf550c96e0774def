"""Messages by the thousand: columns to JSON text, and many streams' messages to one connection's bytes.

A `Template` writes a message a row. `merge` puts the messages of several streams into the order of their times, as
WebSocket frames ready for a socket, about a third of a microsecond each. This module knows no venue, no socket and no clock.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Form = Literal["recorded", "bare", "combined"]  # as it came; the message alone; wrapped with its stream's name

Value = TypeVar("Value")

_LITERAL, _INTEGER, _DECIMAL, _BOOLEAN = range(4)
_TEXT_FRAME = 0x81  # final frame of a text message
_SHORT_MAX, _MEDIUM_MAX = 125, 65_535  # payloads whose length fits the frame's first two, first four bytes
_HEAD_MAX = 10
_FIELD_MAX = 21  # characters of a number: 19 digits, a point, a leading zero


class Frames(NamedTuple):
    """One stream's messages, ascending by time; the text of message `n` is `blob[begin[n]:end[n]]`."""

    blob: Bytes
    begin: Ints
    end: Ints
    raw_begin: Ints  # the frame as it was recorded, its wrapper included; equal to `begin` where there is none
    raw_end: Ints
    at_ns: Ints  # when the venue sends it

    def between(self, start_ns: int, end_ns: int) -> Frames:
        """Return the messages of `[start_ns, end_ns)`, as views."""
        first, last = np.searchsorted(self.at_ns, (start_ns, end_ns)).tolist()
        return Frames(self.blob, *(column[first:last] for column in self[1:]))

    def texts(self) -> list[bytes]:
        """Return the messages one by one; for tests and REST, not for sockets."""
        return [self.blob[a:b].tobytes() for a, b in zip(self.begin.tolist(), self.end.tolist(), strict=True)]


class Sent(NamedTuple):
    """What goes to one connection: WebSocket frames one after the other, frame `n` ending before `end[n]`."""

    blob: Bytes
    end: Ints
    at_ns: Ints


def frames_of(blob: Bytes, end: Ints, at_ns: Ints) -> Frames:
    """Make frames whose messages lie one after the other."""
    begin = np.concatenate((np.zeros(1, np.int64), end[:-1]))[: end.size]
    return Frames(blob, begin, end, begin, end, at_ns)


def frames_from(texts: Sequence[bytes], at_ns: Sequence[int]) -> Frames:
    """Make frames from single messages."""
    end = np.cumsum(np.array([len(text) for text in texts], np.int64))
    return frames_of(np.frombuffer(b"".join(texts), np.uint8), end, np.array(at_ns, np.int64))


_FIELD = re.compile(r"<(?P<column>[a-z_]+)(?::(?P<decimals>[0-9]+)|(?P<boolean>\?))?>")


class Template:
    """Text with columns in it: `<name>` an integer, `<name:2>` one of hundredths, `<name?>` true or false.

    >>> blob, end = Template('{"t":<id>,"p":"<price:2>","m":<sell?>}').write({"id": [7], "price": [314], "sell": [1]})
    >>> blob.tobytes()
    b'{"t":7,"p":"3.14","m":true}'
    """

    def __init__(self, text: str) -> None:
        self.columns: list[str] = []
        literals: list[bytes] = []
        codes: list[tuple[int, int, int]] = []  # what, which literal or column, decimals
        place = 0
        for found in _FIELD.finditer(text):
            codes.append((_LITERAL, len(literals), 0))
            literals.append(text[place : found.start()].encode())
            place = found.end()
            name, decimals = found["column"], found["decimals"]
            if name not in self.columns:
                self.columns.append(name)
            what = _DECIMAL if decimals and decimals != "0" else _BOOLEAN if found["boolean"] else _INTEGER
            codes.append((what, self.columns.index(name), int(decimals or 0)))
        codes.append((_LITERAL, len(literals), 0))
        literals.append(text[place:].encode())
        self._codes = np.array(codes, np.int64)
        self._literals = np.frombuffer(b"".join(literals), np.uint8)
        self._bounds = np.cumsum([0, *map(len, literals)]).astype(np.int64)
        self._row_max = self._literals.size + _FIELD_MAX * len(codes)

    def write(self, columns: Mapping[str, Sequence[int] | NDArray[np.generic]]) -> tuple[Bytes, Ints]:
        """Return the rows' text, one after the other, and where each ends. Values are at least zero."""
        rows = [np.asarray(columns[name], np.int64) for name in self.columns]
        values = np.ascontiguousarray(np.stack(rows)) if rows else np.empty((0, 0), np.int64)
        blob, end = np.empty(values.shape[1] * self._row_max, np.uint8), np.empty(values.shape[1], np.int64)
        size = _write(self._codes, self._literals, self._bounds, values, blob, end)
        return blob[:size].copy(), end


@njit(cache=True)
def _digits(value: int, least: int, out: Bytes, at: int) -> int:
    """Write an integer of at least zero with at least `least` digits; return the place after it."""
    count = 1
    rest = value // 10
    while rest > 0:
        count += 1
        rest //= 10
    count = max(count, least)
    for place in range(at + count - 1, at - 1, -1):
        out[place] = 48 + value % 10
        value //= 10
    return at + count


@njit(cache=True)
def _write(codes: Ints, literals: Bytes, bounds: Ints, columns: Ints, out: Bytes, end: Ints) -> int:
    at = 0
    for row in range(columns.shape[1]):
        for n in range(codes.shape[0]):
            what, which = codes[n, 0], codes[n, 1]
            if what == _LITERAL:
                for place in range(bounds[which], bounds[which + 1]):
                    out[at] = literals[place]
                    at += 1
                continue
            value = columns[which, row]
            if what == _INTEGER:
                at = _digits(value, 1, out, at)
            elif what == _DECIMAL:
                unit = np.int64(1)
                for _ in range(codes[n, 2]):
                    unit *= 10
                at = _digits(value // unit, 1, out, at)
                out[at] = 46
                at = _digits(value % unit, codes[n, 2], out, at + 1)
            else:
                for letter in b"true" if value else b"false":
                    out[at] = letter
                    at += 1
        end[row] = at
    return at


def merge(parts: Sequence[tuple[str, Frames]], form: Form) -> Sent:
    """Put streams' messages into the order of their times, each as one WebSocket frame.

    At one time a stream goes before those named after it in `parts`, and its own messages keep their order.
    """
    parts = [part for part in parts if part[1].at_ns.size]
    if not parts:
        return Sent(np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64))
    names = list(dict.fromkeys(name for name, _ in parts))
    heads = [f'{{"stream":"{name}","data":'.encode() if form == "combined" else b"" for name in names]
    bounds = np.cumsum([0, *map(len, heads)]).astype(np.int64)
    begins, ends, blobs, whose = [], [], [], []
    base = 0
    for name, frames in parts:
        begin, end = (frames.raw_begin, frames.raw_end) if form == "recorded" else (frames.begin, frames.end)
        low, high = int(frames.raw_begin[0]), int(frames.raw_end[-1])
        blobs.append(frames.blob[low:high])
        begins.append(begin + (base - low))
        ends.append(end + (base - low))
        whose.append(np.full(begin.size, names.index(name), np.int64))
        base += high - low
    at_ns = np.concatenate([frames.at_ns for _, frames in parts])
    order = np.argsort(at_ns, kind="stable") if len(parts) > 1 else np.arange(at_ns.size)
    begin, end, stream = np.concatenate(begins), np.concatenate(ends), np.concatenate(whose)
    head_max = max(map(len, heads)) + 1 + _HEAD_MAX
    out = np.empty(int((end - begin).sum()) + head_max * begin.size, np.uint8)
    sent_end = np.empty(begin.size, np.int64)
    size = _merge(
        order, begin, end, stream, np.concatenate(blobs), np.frombuffer(b"".join(heads) or b" ", np.uint8), bounds,
        form == "combined", out, sent_end,
    )  # fmt: skip
    return Sent(out[:size], sent_end, at_ns[order])


@njit(cache=True)
def _merge(
    order: Ints, begin: Ints, end: Ints, stream: Ints, blob: Bytes, heads: Bytes, bounds: Ints, wrapped: bool,
    out: Bytes, sent_end: Ints,
) -> int:  # fmt: skip
    at = 0
    for row in range(order.size):
        n = order[row]
        first, last = bounds[stream[n]], bounds[stream[n] + 1]
        length = end[n] - begin[n] + last - first + (1 if wrapped else 0)
        out[at] = _TEXT_FRAME
        if length <= _SHORT_MAX:
            out[at + 1] = length
            at += 2
        else:
            wide = 2 if length <= _MEDIUM_MAX else 8
            out[at + 1] = 126 if wide == 2 else 127
            for byte in range(wide):
                out[at + 2 + byte] = (length >> (8 * (wide - 1 - byte))) & 0xFF
            at += 2 + wide
        for place in range(first, last):
            out[at] = heads[place]
            at += 1
        for place in range(begin[n], end[n]):
            out[at] = blob[place]
            at += 1
        if wrapped:
            out[at] = 125  # }
            at += 1
        sent_end[row] = at
    return at


class Cache:
    """The values used last, up to a weight in bytes; what falls out is made anew when asked for. Threads may share it."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._kept: OrderedDict[object, tuple[object, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()  # not held while a value is made: two threads may make it, one is kept

    def get(self, key: object, make: Callable[[], Value], weigh: Callable[[Value], int]) -> Value:
        """Return what belongs to a key, made if need be."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return cast("Value", self._kept[key][0])
        value = make()
        weight = weigh(value)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = (value, weight)
                self._bytes += weight
            while self._bytes > self._bytes_max and len(self._kept) > 1:
                _, (_, weight) = self._kept.popitem(last=False)
                self._bytes -= weight
        return value


def weight(block: tuple[object, ...]) -> int:
    """Return how many bytes the arrays of a block take."""
    return sum(column.nbytes for column in block if isinstance(column, np.ndarray))
