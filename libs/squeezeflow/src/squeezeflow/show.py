"""How answers look in a terminal: tables, a progress bar, a picture; or JSON, as it is.

Nothing is computed here that a machine could not read in the JSON.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from squeezecore.market import DAY_S

T = TypeVar("T")
WIDTH_PIPED = 140  # columns, where no terminal says how wide it is

out = Console(highlight=False)
if not out.is_terminal:
    out = Console(highlight=False, width=WIDTH_PIPED)
err = Console(stderr=True, highlight=False)


def answer(value: T, as_json: bool, picture: Callable[[T], None]) -> None:
    """Print a response."""
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2).decode() + "\n")
    else:
        picture(value)


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[Callable[[Any], None]]:
    """Give a callback that moves a bar with an ETA on stderr; nothing is drawn where nobody looks."""
    if quiet or not err.is_terminal:
        yield lambda _progress: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("starting (a first run compiles its kernels, some 20 s)", total=None, unit="")

        def move(now: Any) -> None:
            bar.update(task, description=now.label, completed=now.done, total=now.total, unit=now.unit)

        yield move


def table(title: str, *columns: str, right: tuple[str, ...] = ()) -> Table:
    """Make an empty table; `right` names the columns that hold numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def pairs(title: str, lines: list[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    made.add_column(style="dim")
    made.add_column()
    for name, value in lines:
        made.add_row(name, value)
    out.print(made)


def clock(second: int) -> str:
    """Write a second as a UTC time."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S")


def usd(value: float, decimals: int = 0) -> str:
    """Write dollars with their sign."""
    return f"{value:+,.{decimals}f}"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return ""


def simulated(report: Any) -> None:
    """Say what was simulated and what to type next."""
    span = f"{report.first} to {report.last}"
    out.print(f"simulated {', '.join(report.assets)}, {span}, world {report.world}, seed {report.seed}: "
              f"{report.rows:,} rows, {report.bars:,} bars")  # fmt: skip


def exported(report: Any) -> None:
    """Say what was written."""
    out.print(f"{report.out}: {report.rows:,} seconds, {_bytes(report.bytes)}; columns {', '.join(report.columns)}")


def assets(config: Any) -> None:
    """List assets with their markets."""
    made = table("Assets", "asset", "traded", "markets (weight)")
    for name, asset in config.items():
        markets = ", ".join(f"{m.instrument} ({m.weight_ppm / 1e6:g})" for m in asset.markets)
        made.add_row(name, asset.traded, markets)
    out.print(made)


BLOCKS = "·▁▂▃▄▅▆▇█"


def coverage(report: Any) -> None:
    """Draw a calendar strip an instrument, the gaps, what was set aside, and the sizes."""
    for title, days in (("Instruments (bars_1s)", report.instruments), ("Assets (rows_1s)", report.assets)):
        made = table(title, "name", "first", "last", "days", "seconds", "complete", "prints", "coverage by day",
                     right=("days", "seconds", "complete", "prints"))  # fmt: skip
        for name in dict.fromkeys(line.name for line in days):
            mine = [line for line in days if line.name == name]
            seconds, complete = sum(d.seconds for d in mine), sum(d.complete for d in mine)
            made.add_row(
                name, clock(mine[0].first_ts), clock(mine[-1].last_ts), str(len(mine)), f"{seconds:,}",
                f"{100 * complete / seconds:.2f} %", f"{sum(d.trades for d in mine):,}" if mine[0].trades else "",
                _strip(mine),
            )  # fmt: skip
        if days:
            out.print(made)
    if not (report.instruments or report.assets):
        out.print("the store is empty; next: squeezeflow import PATH, or squeezeflow simulate")
    _gaps(report.gaps)
    for name, counts in report.set_aside.items():
        out.print(f"{name}: " + ", ".join(f"{key.replace('_', ' ')} {count:,}" for key, count in counts.items()))
    if report.tables:
        sizes = table("Sizes", "table", "rows", "bytes", "bytes a row", right=("rows", "bytes", "bytes a row"))
        for size in report.tables:
            sizes.add_row(size["table"], f"{size['rows']:,}", _bytes(size["bytes"]), f"{size['bytes_per_row']:.1f}")
        out.print(sizes)


def _strip(days: list[Any], width: int = 62) -> str:
    """Draw one block a day, the newest at the right; a day without a second is a space."""
    seconds = {line.day: line.seconds for line in days}
    last = days[-1].day.toordinal()
    first = max(days[0].day.toordinal(), last - width + 1)
    filled = [seconds.get(type(days[0].day).fromordinal(n), 0) / DAY_S for n in range(first, last + 1)]
    return "".join(" " if part == 0 else BLOCKS[max(1, round(part * (len(BLOCKS) - 1)))] for part in filled)


def _gaps(gaps: Any) -> None:
    if not gaps:
        out.print("no gap is known")
        return
    made = table(
        f"Gaps ({len(gaps)})", "instrument", "after", "before", "missing", "cause", "state", right=("missing",)
    )
    for gap in gaps[:20]:
        missing = f"{gap.missing:,}" if gap.missing else "unknown"
        made.add_row(gap.instrument, clock(gap.start_s), clock(gap.end_s), missing, gap.cause, gap.state)
    out.print(made)
    if len(gaps) > 20:
        out.print(f"… and {len(gaps) - 20} more: --json lists all")


def flow(report: Any, last: int) -> None:
    """Draw CVDs and price over the range and list its last seconds."""
    import plotext  # noqa: PLC0415

    width = min(max(out.width, 60), 160)
    begin = report.ts[0]
    for title, series in (
        ("CVD since the start, million USD", (("spot", report.spot_cvd_usd), ("perp", report.perp_cvd_usd))),
        (f"price of {report.traded}", (("close", report.close),)),
    ):
        plotext.clear_figure()
        plotext.theme("clear")
        plotext.plot_size(width, 15 if len(series) > 1 else 9)
        for name, values in series:
            scaled = [v / 1e6 for v in values] if len(series) > 1 else values
            color = {"spot": "green", "perp": "orange", "close": "default"}[name]
            plotext.plot([t - begin for t in report.ts], scaled, label=name, marker="braille", color=color)
        plotext.title(title)
        plotext.xlabel(f"seconds since {clock(begin)} UTC")
        text = plotext.build()
        out.print(text if out.is_terminal else plotext.uncolorize(text), markup=False, soft_wrap=True)
    whole = sum(q == 1 for q in report.quality)
    out.print(
        f"{report.asset}: {len(report.ts):,} seconds; "
        f"spot {report.spot_volume_usd:,.0f} USD traded and CVD {usd(report.spot_cvd_usd[-1])}, "
        f"perp {report.perp_volume_usd:,.0f} USD and CVD {usd(report.perp_cvd_usd[-1])}; "
        f"complete {whole:,} of {len(report.ts):,} seconds, missing {report.missing_seconds:,}"
    )
    made = table("Last seconds (UTC, USD)", "second", "price", "spot delta", "perp delta", "spot CVD", "perp CVD", "quality",
                 right=("price", "spot delta", "perp delta", "spot CVD", "perp CVD", "quality"))  # fmt: skip
    for i in range(max(0, len(report.ts) - last), len(report.ts)):
        made.add_row(
            clock(report.ts[i])[11:], f"{report.close[i]:,.2f}", usd(report.spot_delta_usd[i]), usd(report.perp_delta_usd[i]),
            usd(report.spot_cvd_usd[i]), usd(report.perp_cvd_usd[i]), f"{report.quality[i]:.2f}",
        )  # fmt: skip
    if last:
        out.print(made)


def imported(report: Any) -> None:
    """Say what each file brought, what was put right, what was left out, and which rows were made."""
    made = table("Imported", "file", "content", "instrument", "rows", "seconds", "first", "last", "ids missing", "repaired or set aside",
                 right=("rows", "seconds", "ids missing"))  # fmt: skip
    for file in report.files:
        counts = [
            f"{name.replace('_', ' ')} {count:,}"
            for part in (file.repaired, file.set_aside)
            for name, count in part.items()
        ]
        again = ["already imported"] if file.already_imported else []
        made.add_row(
            Path(file.file).name, file.content, file.instrument, f"{file.rows:,}", f"{file.seconds:,}",
            clock(file.first_s) if file.first_s >= 0 else "", clock(file.last_s) if file.last_s >= 0 else "",
            f"{file.ids_missing:,}", "; ".join([*again, *counts]),
        )  # fmt: skip
    if report.files:
        out.print(made)
    for note in dict.fromkeys(note for file in report.files for note in file.notes):
        out.print(f"note: {note}")
    for refusal in report.refused if len(report.refused) > 1 else ():
        place = f", line {refusal.line}" if refusal.line else ""
        err.print(f"refused: {refusal.file}{place}: {refusal.reason}", soft_wrap=True)
    for rows in report.rows:
        out.print(
            f"{rows.asset}: {rows.written:,} of {rows.rows:,} rows new or changed, {clock(rows.start_s)} to {clock(rows.end_s)} UTC"
        )


def downloaded(report: Any) -> None:
    """Say what was fetched, what the archive does not have, and what the import made of it."""
    out.print(
        f"{report.base_url} → {report.dest}: {report.planned} files planned, {report.fetched} fetched ({_bytes(report.bytes)}), "
        f"{report.here} were here already"
    )
    if report.absent:
        shown = ", ".join(report.absent[:5]) + (
            f" and {len(report.absent) - 5} more (--json lists all)" if len(report.absent) > 5 else ""
        )
        out.print(f"note: the archive does not have {shown}", style="yellow")
    imported(report.imported)
