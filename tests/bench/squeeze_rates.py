"""Print what the squeeze kernel says of rows, as rates a day, and what the scan of a day costs.

    python tests/bench/squeeze_rates.py --days 14 --seed 7 --world squeeze
    python tests/bench/squeeze_rates.py rows.parquet          (columns of `squeezecore.market.Rows`, in its own units)

The figures stand beside what strategy.md expects; ten times more or less means a fault.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from squeezecore import squeeze, tape
from squeezecore.market import DAY_S, WARMUP_S, Rows, concat, cut
from squeezecore.simulator import WorldSpec, simulate_rows
from squeezecore.squeeze import Features, SqueezeParams, initial, scan


def read(path: Path) -> Rows:
    """Read rows from a Parquet file."""
    import polars as pl

    table = pl.read_parquet(path)
    return Rows(*(table[name].to_numpy().astype(np.int64) for name in Rows._fields))


def rates(features: Features, params: SqueezeParams) -> list[tuple[str, float, str]]:
    """Return name, value and what is expected, over the warm seconds of some features."""
    flags = features.flags[features.flags & squeeze.F_WARM != 0]
    score = features.score_milli[features.flags & squeeze.F_WARM != 0]
    days = len(flags) / DAY_S
    phases = np.bincount(flags >> squeeze.PHASE_SHIFT & 3, minlength=4) / len(flags)
    sources = np.bincount(flags >> squeeze.SOURCE_SHIFT & 3, minlength=4) / len(flags)
    armed = (flags & squeeze.F_LONG != 0) | (flags & squeeze.F_SHORT != 0)
    against = np.where(
        flags & squeeze.F_LONG, flags & (squeeze.F_BOTH_AGAINST_LONG | squeeze.F_CONTEXT_AGAINST_LONG), 0
    )
    against |= np.where(
        flags & squeeze.F_SHORT, flags & (squeeze.F_BOTH_AGAINST_SHORT | squeeze.F_CONTEXT_AGAINST_SHORT), 0
    )
    entry = (score >= squeeze.milli_of(params.entry_score)) & (flags & squeeze.F_SIGNAL != 0) & (against == 0)
    begins = entry & ~np.concatenate([[False], entry[:-1]])
    long = flags[begins] & squeeze.F_LONG != 0
    vote = flags & (squeeze.F_OI_CONFIRMS | squeeze.F_OI_DENIES) != 0
    tiers = np.searchsorted([5_000, 6_000], score[begins], "right")
    share = np.bincount(tiers, minlength=3) / max(1, len(tiers))
    return [
        ("warm days", days, ""),
        *((f"phase {name}", phases[k], expected) for k, (name, expected) in enumerate(
            zip(squeeze.PHASES, ("0.70", "0.06", "0.10", "0.14"), strict=True)
        )),
        *((f"direction from {name}", sources[k], "") for k, name in enumerate(("none", "divergence", "reset", "context"))),
        ("open interest votes, of seconds with a direction", vote.sum() / max(1, armed.sum()), "0.62 at half a swing"),
        ("seconds that would enter", entry.mean(), ""),
        ("spans that would enter, a day", begins.sum() / days, "4-6 trades"),
        ("long share of their beginnings", long.mean() if len(long) else float("nan"), "0.40-0.60"),
        *((f"tier {k + 1} share of their beginnings", share[k], x) for k, x in enumerate(("0.78", "0.17", "0.05"))),
        ("highest score", score.max() / 1000, ""),
        ("records a day", (flags & squeeze.F_RECORD != 0).sum() / days, "about 120"),
    ]  # fmt: skip


def cost(rows: Rows, params: SqueezeParams, rounds: int = 15) -> list[tuple[str, float, str]]:
    """Time the scan and the tape of the last day."""
    state, _ = scan(params, initial(params), cut(rows, 0, len(rows.ts) - DAY_S))
    day = cut(rows, len(rows.ts) - DAY_S, len(rows.ts))
    times: dict[str, list[float]] = {"scan": [], "pack": [], "unpack": []}
    for _ in range(rounds):
        kept = state.copy()
        marks = [time.perf_counter()]
        features = scan(params, kept, day)[1]
        marks.append(time.perf_counter())
        data = tape.pack(features)
        marks.append(time.perf_counter())
        tape.unpack(data)
        marks.append(time.perf_counter())
        for name, span in zip(times, np.diff(marks), strict=True):
            times[name].append(1000 * float(span))
    expected = {"scan": "6-7", "pack": "1.5 with unpack", "unpack": ""}
    result = [(f"{name}, ms a day", statistics.median(spent), expected[name]) for name, spent in times.items()]
    return [*result, ("tape, kB a day", len(data) / 1000, "300 at most")]


def main() -> None:
    """Read or make rows, scan them, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parquet", nargs="?", type=Path)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--world", choices=("squeeze", "noise"), default="squeeze")
    parser.add_argument("--asset", default="BTC")
    asked = parser.parse_args()
    if asked.parquet:
        rows = read(asked.parquet)
    else:
        world = WorldSpec(seed=asked.seed, days=asked.days + 2, assets=(asked.asset,), kind=asked.world)
        rows = concat([day.rows for day in simulate_rows(world, asked.asset)])
    if len(rows.ts) < WARMUP_S + DAY_S:
        raise SystemExit(f"rows were {len(rows.ts)}, at least {WARMUP_S + DAY_S} are needed: give 28 h and a day")
    params = SqueezeParams()
    _, features = scan(params, initial(params), rows)
    for name, value, expected in [*rates(features, params), *cost(rows, params)]:
        print(f"{name:52} {value:10.3f}   {expected}")


if __name__ == "__main__":
    main()
