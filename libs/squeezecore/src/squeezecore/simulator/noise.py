"""Noise without memory: any second's random numbers from its key alone, the same bits on every machine.

A number is a hash of (key, counter), so a day needs no day before it. Only integers and `+ − × ÷ √` are used: they are
exact everywhere, where a mathematical library's `exp` or `log` may differ in the last bit between machines.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numba import njit

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_U30, _U27, _U31, _U11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_U16, _U32, _U48, _LOW16 = np.uint64(16), np.uint64(32), np.uint64(48), np.uint64(0xFFFF)
_TWO = np.uint64(2)
_UNIT = 1.0 / 9007199254740992.0  # 2**-53
_NORMAL_MEAN = 8 * 65535 / 2
_NORMAL_SCALE = 1.868836e-5  # 1 / (65536 * sqrt(8 / 12)), to unit variance


def key(*parts: object) -> np.uint64:
    """Make the key of a stream of noise from what it belongs to."""
    text = "\x1f".join(str(part) for part in parts)
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big"))


@njit(cache=True)
def hash64(stream: np.uint64, counter: int) -> np.uint64:
    """Return 64 random bits of one stream at one counter (the finaliser of SplitMix64)."""
    x = stream + np.uint64(counter) * _GOLDEN
    x = (x ^ (x >> _U30)) * _MIX_1
    x = (x ^ (x >> _U27)) * _MIX_2
    return x ^ (x >> _U31)


@njit(cache=True)
def uniform(stream: np.uint64, counter: int) -> float:
    """Return a number in [0, 1)."""
    return np.float64(hash64(stream, counter) >> _U11) * _UNIT


@njit(cache=True)
def normal(stream: np.uint64, counter: int) -> float:
    """Return a nearly normal number of unit variance: the sum of eight 16-bit uniforms."""
    twice = np.uint64(counter) * _TWO
    a = hash64(stream, int(twice))
    b = hash64(stream, int(twice + np.uint64(1)))
    total = (a & _LOW16) + ((a >> _U16) & _LOW16) + ((a >> _U32) & _LOW16) + (a >> _U48)
    total += (b & _LOW16) + ((b >> _U16) & _LOW16) + ((b >> _U32) & _LOW16) + (b >> _U48)
    return (np.float64(total) - _NORMAL_MEAN) * _NORMAL_SCALE


@njit(cache=True)
def exp(x: float) -> float:
    """Return e**x for |x| < 40 from multiplications alone, to about 1e-12 relative."""
    y = x * (1.0 / 1024.0)
    value = 1.0 + y * (1.0 + y * (0.5 + y * (1.0 / 6.0 + y * (1.0 / 24.0 + y * (1.0 / 120.0 + y * (1.0 / 720.0))))))
    for _ in range(10):
        value *= value
    return value
