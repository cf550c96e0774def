"""Run the measurements, print the table, write build/bench.json."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from tests.bench import bussing, commanding, computing, flowing, importing, ingesting, judging, living, parsing, storing
from tests.bench.measuring import REFERENCE_S, Figure, calibrate
from tests.bench.stage import Stage

from squeezecore.adapters import embedded

OUT = Path(__file__).parents[2] / "build" / "bench.json"
GROUPS = {
    "computing": computing,
    "storing": storing,
    "importing": importing,
    "commanding": commanding,
    "judging": judging,
    "bus": bussing,
    "parsing": parsing,
    "flow": flowing,
    "ingest": ingesting,
    "live": living,
}
screen = Console(stderr=True)


def main() -> int:
    """Measure; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=GROUPS, help="one group, may be repeated; nothing is written"
    )
    parser.add_argument("--quick", action="store_true", help="the longest run has 90 days instead of 365, and says so")
    asked = parser.parse_args()
    calibrate()
    speed = calibrate()
    screen.print(f"calibration loop {speed * 1e3:.1f} ms, reference {REFERENCE_S[1] * 1e3:.1f} ms")
    found: list[Figure] = []
    with (
        tempfile.TemporaryDirectory(prefix="squeezeflow-bench-") as folder,
        screen.status("beginning", refresh_per_second=1) as status,
    ):
        home = Path(folder) / "home"
        try:
            with embedded.open_store(home, grace_s=5.0) as store:
                stage = Stage(home, store, asked.quick, status.update)
                for name, group in GROUPS.items():
                    if not asked.only or name in asked.only:
                        lines = group.figures(stage)
                        screen.print(f"{name}: {sum(line.ok for line in lines)} of {len(lines)} in order")
                        found += lines
        finally:
            embedded.stop(home)
    show(found)
    if not asked.only:
        OUT.parent.mkdir(parents=True, exist_ok=True)
        OUT.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
        screen.print(f"written: {OUT}")
    return 0 if all(line.ok for line in found) else 1


def show(figures: list[Figure]) -> None:
    """Print the table."""
    table = Table(show_lines=False)
    for heading, side in (
        ("what", "left"),
        ("value", "right"),
        ("bar", "right"),
        ("unit", "left"),
        ("ok", "left"),
        ("how", "left"),
    ):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for line in figures:
        bar = "" if line.bar is None else f"{line.bar:,g}"
        mark = "" if line.bar is None else "yes" if line.ok else "[red]NO[/red]"
        table.add_row(
            line.name,
            f"{line.value:,.4g}" if line.value < 1000 else f"{line.value:,.0f}",
            bar,
            line.unit,
            mark,
            line.how,
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)


if __name__ == "__main__":
    sys.exit(main())
