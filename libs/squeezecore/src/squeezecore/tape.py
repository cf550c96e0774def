"""A day's features as one compressed value: what a backtest's map hands to its fold.

Exact: `unpack(pack(features))` has the same bits. Of the columns with an entry a second only changes are kept: where
contiguous seconds begin, which scores differ from the one before and by how much, where flags change and to what. Events
are kept as they are; one zstd frame behind a version and a hash of the bytes. It knows no store and no file.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import zstandard
from numpy.typing import NDArray

from squeezecore.errors import UsageError
from squeezecore.mixing import hash_bytes
from squeezecore.squeeze import Features

Function = TypeVar("Function", bound=Callable[..., Any])
_njit = cast("Callable[[Function], Function]", numba.njit(cache=True))

MAGIC = b"SQTP\x02"
CHECK = 8  # bytes of hash, so that a flipped bit is a message and not a trade
_COUNTS = struct.Struct("<7q")  # seconds, spans, score steps, runs of flags, entries of swings, reset, parts
_LEVEL = 1  # 3 saves 2 % and costs half as much again


def pack(features: Features) -> bytes:
    """Write features of one block of seconds as bytes: tens of kilobytes a day."""
    n = len(features.ts)
    spans, starts = np.empty(n, np.int64), np.empty(n, np.int64)
    stepped, steps = np.empty(-(-n // 8), np.uint8), np.empty(n + 1, np.uint16)
    runs, flags = np.empty(n, np.int64), np.empty(n, np.uint32)
    shrink, _ = _compiled()
    n_spans, n_steps, n_runs = shrink(
        *(np.ascontiguousarray(column) for column in features[:3]), spans, starts, stepped, steps, runs, flags
    )
    columns = (
        spans[:n_spans],
        starts[:n_spans],
        np.diff(runs[:n_runs], prepend=0).astype(np.uint32),  # lengths are smaller numbers than places
        flags[:n_runs],
        steps[: n_steps + 1],
        stepped,
        features.swing_ts,
        features.swings,
        features.reset_ts,
        features.reset,
        features.part_ts,
        features.parts,
    )
    events = (len(features.swing_ts), len(features.reset_ts), len(features.part_ts))
    body = zstandard.ZstdCompressor(level=_LEVEL).compress(
        _COUNTS.pack(n, n_spans, n_steps, n_runs, *events)
        + b"".join(np.ascontiguousarray(column).tobytes() for column in columns)
    )
    return MAGIC + hash_bytes(body)[:CHECK] + body


def unpack(data: bytes) -> Features:
    """Read features back; raise `UsageError` where the bytes are another version's or damaged."""
    check, body = data[len(MAGIC) : len(MAGIC) + CHECK], data[len(MAGIC) + CHECK :]
    if data[: len(MAGIC)] != MAGIC or check != hash_bytes(body)[:CHECK]:
        raise UsageError(
            f"tape was {len(data)} bytes beginning with {data[:5]!r}, a whole one of this version begins with {MAGIC!r}: "
            "scan the day again"
        )
    raw = zstandard.ZstdDecompressor().decompress(body)
    n, n_spans, n_steps, n_runs, n_swings, n_resets, n_parts = _COUNTS.unpack_from(raw)
    offset = _COUNTS.size

    def take(dtype: type[np.generic], rows: int, columns: int = 1) -> NDArray[Any]:
        nonlocal offset
        column = np.frombuffer(raw, dtype, rows * columns, offset).copy()  # aligned and ours to write
        offset += column.nbytes
        return column if columns == 1 else column.reshape(rows, columns)

    spans, starts = take(np.int64, n_spans), take(np.int64, n_spans)
    runs, values = np.cumsum(take(np.uint32, n_runs), dtype=np.int64), take(np.uint32, n_runs)
    steps, stepped = take(np.uint16, n_steps + 1), take(np.uint8, -(-n // 8))
    ts, score, flags = np.empty(n, np.int64), np.empty(n, np.int16), np.empty(n, np.uint32)
    _, grow = _compiled()
    grow(spans, starts, stepped, steps, runs, values, ts, score, flags)
    return Features(
        ts=ts,
        score_milli=score,
        flags=flags,
        swing_ts=take(np.int64, n_swings),
        swings=take(np.float64, n_swings, 3),
        reset_ts=take(np.int64, n_resets),
        reset=take(np.int64, n_resets, 3),
        part_ts=take(np.int64, n_parts),
        parts=take(np.int16, n_parts, 3),
    )


@_njit
def _shrink(
    ts: Any, score: Any, flags: Any, spans: Any, starts: Any, stepped: Any, steps: Any, runs: Any, values: Any
) -> tuple[int, int, int]:
    """Keep changes; return how many spans, steps and runs there are. Steps wrap; small ones of either sign are small numbers.

    One step of 0 stands behind the last, so that `_grow` may look without asking.
    """
    n_spans = n_steps = n_runs = 0
    before = byte = 0
    for i in range(len(ts)):
        if i == 0 or ts[i] != ts[i - 1] + 1:
            spans[n_spans] = i
            starts[n_spans] = ts[i]
            n_spans += 1
        if i == 0 or flags[i] != flags[i - 1]:
            runs[n_runs] = i
            values[n_runs] = flags[i]
            n_runs += 1
        now: Any = np.int64(score[i])
        step = ((now - before + 32_768) & 65_535) - 32_768
        before = now
        steps[n_steps] = (step << 1) ^ (step >> 63)
        moved = 1 if step != 0 else 0  # no branch: a quarter of the seconds step, none can be foretold
        n_steps += moved
        byte |= moved << (i & 7)
        if i & 7 == 7 or i == len(ts) - 1:
            stepped[i >> 3] = byte
            byte = 0
    steps[n_steps] = 0
    return n_spans, n_steps, n_runs


@_njit
def _grow(
    spans: Any, starts: Any, stepped: Any, steps: Any, runs: Any, values: Any, ts: Any, score: Any, flags: Any
) -> None:
    """Fill in every second from the changes."""
    n = len(ts)
    for k in range(len(spans)):
        for i in range(spans[k], spans[k + 1] if k + 1 < len(spans) else n):
            ts[i] = starts[k] + (i - spans[k])
    for k in range(len(runs)):
        flags[runs[k] : runs[k + 1] if k + 1 < len(runs) else n] = values[k]
    now = k = 0
    for i in range(n):
        moved: Any = np.int64(stepped[i >> 3]) >> (i & 7) & 1
        code: Any = np.int64(steps[k])
        now += ((code >> 1) ^ -(code & 1)) * moved
        k += moved
        score[i] = now


@functools.cache
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Compile both, or load them from numba's cache, for the one signature each has; it takes read-only columns too."""
    types = cast("Any", numba.types)

    def column(kind: Any) -> Any:
        return types.Array(kind, 1, "C", readonly=True)

    spans, bits, steps = (types.int64[::1],) * 2, types.uint8[::1], types.uint16[::1]
    shrink, grow = cast("Any", _shrink), cast("Any", _grow)
    seconds = (types.int64, types.int16, types.uint32)
    shrink.compile((*map(column, seconds), *spans, bits, steps, types.int64[::1], types.uint32[::1]))
    grow.compile((*spans, bits, steps, types.int64[::1], types.uint32[::1], *(kind[::1] for kind in seconds)))
    shrink.disable_compile()
    grow.disable_compile()
    return shrink, grow
