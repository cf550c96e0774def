"""A day's tape: exact, small, and refused when it is damaged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from laws.squeeze_worlds import WARMUP_S, bits, rows
from squeezecore.errors import UsageError
from squeezecore.market import concat, cut
from squeezecore.squeeze import Features, SqueezeParams, initial, scan
from squeezecore.tape import pack, unpack

P = SqueezeParams()


def features_of(start: int, end: int, seed: int = 2) -> Features:
    block = rows(seed, WARMUP_S + 86_400)
    state, _ = scan(P, initial(P), cut(block, 0, start))
    return scan(P, state, cut(block, start, end))[1]


@settings(deadline=None, max_examples=20)
@given(start=st.integers(0, WARMUP_S + 80_000), length=st.integers(0, 6_000))
def test_what_is_unpacked_has_the_bits_that_were_packed(start, length):
    features = features_of(start, start + length)
    assert bits(unpack(pack(features))) == bits(features)


@st.composite
def any_features(draw: st.DrawFn) -> Features:
    """Draw features that no market would make."""

    def column(dtype: str, shape: int | tuple[int, int], low: int, high: int) -> np.ndarray:
        return draw(arrays.arrays(dtype, shape, elements=st.integers(low, high)))

    n, k = draw(st.integers(0, 20)), draw(st.integers(0, 5))
    ts = 1_700_000_000 + np.cumsum(column("i8", n, 1, 3))
    swings = draw(arrays.arrays("f8", (k, 3)))
    return Features(
        ts,
        column("i2", n, 0, 10_000),
        column("u4", n, 0, 2**32 - 1),
        column("i8", k, 0, 2**62),
        swings,
        column("i8", k, 0, 2**62),
        column("i8", (k, 3), -(2**62), 2**62),
        column("i8", k, 0, 2**62),
        column("i2", (k, 3), -(2**15), 2**15 - 1),
    )


@settings(deadline=None)
@given(features=any_features())
def test_any_features_survive(features):
    again = unpack(pack(features))
    assert bits(again) == bits(features)
    assert all(column.flags.writeable and column.flags.aligned and column.flags.c_contiguous for column in again)


def test_a_hole_survives():
    block = rows(1, WARMUP_S + 86_400)
    _, features = scan(P, initial(P), concat([cut(block, 0, 100), cut(block, 150, 400)]))
    assert bits(unpack(pack(features))) == bits(features)


def test_a_day_takes_less_than_a_hundred_kilobytes():
    for seed in (1, 2, 3):
        assert len(pack(features_of(WARMUP_S, WARMUP_S + 86_400, seed))) < 100_000


@settings(deadline=None, max_examples=40)
@given(at=st.integers(0, 4_000), flip=st.integers(1, 255))
def test_a_damaged_tape_is_refused(at, flip):
    data = bytearray(pack(features_of(0, 1_000)))
    data[at % len(data)] ^= flip
    with pytest.raises(UsageError, match="scan the day again"):
        unpack(bytes(data))


def test_a_cut_tape_is_refused():
    data = pack(features_of(0, 1_000))
    for length in (0, 4, 12, len(data) - 1):
        with pytest.raises(UsageError, match="scan the day again"):
            unpack(data[:length])
