"""A fresh process that scans a day: prints the monotonic times at which it had what it needs. A script, imported by nobody."""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
from pathlib import Path

import numpy as np

from squeezecore import squeeze
from squeezecore.backtest import Item, scan_block, warmup_start_s
from squeezecore.market import DAY_S, Rows, cut
from squeezecore.spec import BacktestSpec, day_start_s


def main(home: Path, day: dt.date, file: Path | None) -> dict[str, float]:
    """Scan one day of the store in `home`, or of rows in a file."""
    times = {"imports": time.monotonic()}
    params = squeeze.params_from({})
    if file is not None:
        rows = Rows(*np.load(file))
        a, b = np.searchsorted(rows.ts, (warmup_start_s(day), day_start_s(day)))
        times["rows"] = time.monotonic()
        blocks = [(day, cut(rows, int(b), len(rows.ts)))]
        scan = next(scan_block(params, "BTC", cut(rows, int(a), int(b)), blocks))
    else:
        from squeezecore.adapters import embedded, scanning
        from squeezecore.adapters.lean import leave_pandas_out

        leave_pandas_out()  # as the command's processes do
        with embedded.open_store(home) as store:
            times["store"] = time.monotonic()
            item = Item(asset="BTC", first_day=day, n_days=1)
            scan = next(scanning.scan_item(store, BacktestSpec(assets=("BTC",), start=day, end=day), params, item))
    times["scanned"] = time.monotonic()
    assert scan.seconds == DAY_S
    return times


if __name__ == "__main__":
    print(
        json.dumps(
            main(Path(sys.argv[1]), dt.date.fromisoformat(sys.argv[2]), Path(sys.argv[3]) if sys.argv[3:] else None)
        )
    )
