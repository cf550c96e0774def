"""Fixtures: one embedded server for a whole test run, a fresh database for each test; builders of random blocks."""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeezecore.adapters import embedded
from squeezecore.adapters.store import Store
from squeezecore.market import PPM, Bars, Block, Rows, dtypes


@pytest.fixture(scope="session")
def store_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the home directory of a server that lives as long as the run."""
    home = tmp_path_factory.mktemp("store")
    with embedded.open_store(home, grace_s=5.0):  # this lease keeps it
        yield home
    embedded.stop(home)


@pytest.fixture
def store(store_home: Path) -> Iterator[Store]:
    """Give an empty, migrated store."""
    database = "t_" + secrets.token_hex(6)
    with embedded.open_store(store_home, database=database) as opened:
        yield opened
        opened.drop_database()


INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def random_columns(kind: type[Block], seed: int, n: int, *, extreme: bool) -> dict[str, Any]:
    """Draw n values of each column, whole-range integers where `extreme`, the ends of the range among them."""
    rng = np.random.default_rng(seed)
    columns = {}
    for name, dtype in dtypes(kind).items():
        limits = np.iinfo(dtype)
        low, high = (limits.min, limits.max) if extreme else (max(limits.min, -1000), min(limits.max, 1000))
        values = rng.integers(low, high, n, dtype=dtype, endpoint=True)
        if extreme:
            values[rng.random(n) < 0.2] = limits.min
            values[rng.random(n) < 0.2] = limits.max
        columns[name] = values
    return columns


def random_bars(seed: int, n: int, start_s: int, *, extreme: bool = False) -> Bars:
    """Make n seconds with holes between them, and ids in some."""
    rng = np.random.default_rng(seed)
    columns = random_columns(Bars, seed, n, extreme=extreme)
    columns["ts"] = start_s + np.cumsum(rng.integers(1, 4, n))
    first = rng.integers(0, INT64_MAX if extreme else 10**12, n)
    last = first + np.minimum(rng.integers(0, 10**6, n), INT64_MAX - first)
    if extreme and n:
        first[0], last[0] = 0, INT64_MAX
    has_ids = rng.random(n) < 0.7
    columns["first_id"], columns["last_id"] = np.where(has_ids, first, -1), np.where(has_ids, last, -1)
    return Bars(**columns)


def random_rows(seed: int, n: int, start_s: int, *, extreme: bool = False) -> Rows:
    """Make n seconds with holes between them."""
    rng = np.random.default_rng(seed)
    columns = random_columns(Rows, seed, n, extreme=extreme)
    columns["ts"] = start_s + np.cumsum(rng.integers(1, 4, n))
    columns["quality_ppm"] = rng.integers(0, PPM, n, endpoint=True)
    return Rows(**columns)


def assert_equal(one: Block, other: Block) -> None:
    """Assert that two blocks are equal bit for bit, dtypes included, and fit for kernels."""
    assert type(one) is type(other)
    for name, a, b in zip(one._fields, one, other, strict=True):
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b, err_msg=name)
        assert b.flags.writeable, name
        assert b.flags.c_contiguous, name
