"""A day's features as one compressed value: what a backtest's map hands to its fold.

Exact: `unpack(pack(features))` has the same bits. Seconds are stored as the places where contiguous ones begin, scores as
differences (most are zero), events as they are; one zstd frame behind a version and a hash of the bytes. It knows no
store and no file.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from squeezecore.errors import UsageError
from squeezecore.squeeze import Features

MAGIC = b"SQTP\x01"
CHECK = 8  # bytes of hash, so that a flipped bit is a message and not a trade
_COUNTS = struct.Struct("<5q")  # seconds, contiguous spans, entries of swings, reset, parts
_LEVEL = 1  # 3 saves 2 % and costs half as much again


def pack(features: Features) -> bytes:
    """Write features of one block of seconds as bytes: tens of kilobytes a day."""
    n = len(features.ts)
    breaks = np.flatnonzero(np.diff(features.ts) != 1) + 1
    spans = np.concatenate([np.zeros(min(n, 1), np.int64), breaks.astype(np.int64)])
    score = features.score_milli
    step = np.empty(n, np.int16)
    step[:1] = score[:1]
    np.subtract(score[1:], score[:-1], out=step[1:])
    zigzag = ((step << 1) ^ (step >> 15)).view(np.uint16)  # small steps of either sign become small numbers
    counts = _COUNTS.pack(n, len(spans), len(features.swing_ts), len(features.reset_ts), len(features.part_ts))
    columns = (
        spans,
        features.ts[spans],
        zigzag,
        features.flags,
        features.swing_ts,
        features.swings,
        features.reset_ts,
        features.reset,
        features.part_ts,
        features.parts,
    )
    body = zstandard.ZstdCompressor(level=_LEVEL).compress(
        counts + b"".join(np.ascontiguousarray(column).tobytes() for column in columns)
    )
    return MAGIC + hashlib.blake2b(body, digest_size=CHECK).digest() + body


def unpack(data: bytes) -> Features:
    """Read features back; raise `UsageError` where the bytes are another version's or damaged."""
    check, body = data[len(MAGIC) : len(MAGIC) + CHECK], data[len(MAGIC) + CHECK :]
    if data[: len(MAGIC)] != MAGIC or check != hashlib.blake2b(body, digest_size=CHECK).digest():
        raise UsageError(
            f"tape was {len(data)} bytes beginning with {data[:5]!r}, a whole one of this version begins with {MAGIC!r}: "
            "scan the day again"
        )
    raw = zstandard.ZstdDecompressor().decompress(body)
    n, n_spans, n_swings, n_resets, n_parts = _COUNTS.unpack_from(raw)
    offset = _COUNTS.size

    def take(dtype: type[np.generic], rows: int, columns: int = 1) -> NDArray[Any]:
        nonlocal offset
        column = np.frombuffer(raw, dtype, rows * columns, offset).copy()  # aligned and ours to write
        offset += column.nbytes
        return column if columns == 1 else column.reshape(rows, columns)

    spans, starts = take(np.int64, n_spans), take(np.int64, n_spans)
    zigzag = take(np.uint16, n)
    step = (zigzag >> 1).view(np.int16) ^ -((zigzag & 1).view(np.int16))
    return Features(
        ts=np.arange(n) + np.repeat(starts - spans, np.diff(spans, append=n)),
        score_milli=np.cumsum(step, dtype=np.int16),
        flags=take(np.uint32, n),
        swing_ts=take(np.int64, n_swings),
        swings=take(np.float64, n_swings, 3),
        reset_ts=take(np.int64, n_resets),
        reset=take(np.int64, n_resets, 3),
        part_ts=take(np.int64, n_parts),
        parts=take(np.int16, n_parts, 3),
    )
