"""A fresh process: print the monotonic times at which it had what it needs to scan a day. Not imported by the others."""

from __future__ import annotations

import time

STARTED = time.monotonic()

import datetime as dt
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from squeezecore import squeeze
from squeezecore.adapters import scanning
from squeezecore.backtest import Item, scan_block, warmup_start_s
from squeezecore.market import DAY_S, Rows
from squeezecore.spec import BacktestSpec, day_start_s

IMPORTED = time.monotonic()


def main() -> None:
    """Scan one day: `home`, `day`, and `store` or `file`."""
    home, day, source = Path(sys.argv[1]), dt.date.fromisoformat(sys.argv[2]), sys.argv[3]
    spec = BacktestSpec(assets=("BTC",), start=day, end=day)
    params = squeeze.params_from({})
    file = Path(tempfile.gettempdir()) / f"{home.parent.name}.npz"
    if source == "file" and file.exists():
        warmup, rows = (Rows(*block) for block in np.load(file)["rows"])
        ready = time.monotonic()
        scans = list(scan_block(params, "BTC", warmup, [(day, rows)]))
    else:
        scans = []
    print(json.dumps({"interpreter": STARTED, "imports": IMPORTED, "rows": ready, "scanned": time.monotonic()}))
    assert scans[0].seconds == DAY_S


if __name__ == "__main__":
    main()
