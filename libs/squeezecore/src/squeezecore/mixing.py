"""Fast hashes of many integers: for telling changed data from the same data, not for defending against a forger.

Two sums of 64 bits, plain and weighted by place, over words that were mixed with their place; a gigabyte takes a fraction
of a second. Ids and receipts, of which people compare a few characters, are hashed by `spec.digest`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., Any])
_njit = cast("Callable[[Function], Function]", numba.njit(cache=True))


def hash_words(array: NDArray[Any]) -> bytes:
    """Hash a contiguous array of 8-byte items to 16 bytes; every item and its place count."""
    plain, weighted = _compiled()(array.reshape(-1).view(np.uint64))
    return int(plain).to_bytes(8, "big") + int(weighted).to_bytes(8, "big")


def hash_bytes(data: bytes) -> bytes:
    """Hash bytes, their number included, to 16 bytes."""
    padded = data + bytes(-len(data) % 8) + len(data).to_bytes(8, "little")
    return hash_words(np.frombuffer(padded, np.uint64))


@_njit
def _mix(words: Any) -> Any:
    """Mix each word with its place, and add them up twice, plain and weighted by place."""
    plain, weighted, place = np.uint64(0), np.uint64(0), np.uint64(0)
    for i in range(len(words)):
        place += np.uint64(0x9E3779B97F4A7C15)
        x = (words[i] ^ place) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(32))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(29)
        plain += x
        weighted += x * (place | np.uint64(1))
    return plain, weighted


@functools.cache
def _compiled() -> Callable[..., Any]:
    """Compile, or load from numba's cache, for read-only words; others are taken too."""
    types, mix = cast("Any", numba.types), cast("Any", _mix)
    mix.compile((types.Array(types.uint64, 1, "C", readonly=True),))
    mix.disable_compile()
    return cast("Callable[..., Any]", mix)
