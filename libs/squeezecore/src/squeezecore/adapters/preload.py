"""Imported by the process that workers are forked from: loads the modules and compiles or loads the kernels."""

# ruff: noqa: E402

from __future__ import annotations

import datetime as dt
import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business, from the first import on

import numpy as np

from squeezecore.adapters import scanning  # noqa: F401
from squeezecore.adapters.lean import leave_pandas_out
from squeezecore.backtest import scan_block
from squeezecore.market import Rows, dtypes, empty
from squeezecore.spec import day_start_s
from squeezecore.squeeze import SqueezeParams

_DAY = dt.date(2026, 1, 1)
_ROWS = Rows(*(np.ones(2, dtype) for dtype in dtypes(Rows).values()))._replace(
    ts=np.arange(2, dtype=np.int64) + day_start_s(_DAY)
)
for _scan in scan_block(SqueezeParams(), "BTC", empty(Rows), [(_DAY, _ROWS)]):
    pass
leave_pandas_out()
