"""The commands: flags in, an operation called, its response shown as a picture or as JSON."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from squeezecore.errors import SqueezeError, UsageError
from squeezeflow import results, show
from squeezeflow.main import Settings, app

Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON, for machines.")]
FROM_DAY = "First day, 2026-01-01."
TO_DAY = "Last day, included, 2026-01-31."
FROM_TIME = "First second, UTC: 2026-01-01 or 2026-01-01T12:00:00."
TO_TIME = "End, not included: a day (its midnight) or a second, UTC."


YEARS = (1970, 2105)  # whose seconds the store can hold


def day(text: str, name: str) -> dt.date:
    """Read a day, or say what one looks like."""
    try:
        found = dt.date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{name} was {text!r}, which is no day: write it as 2026-01-31") from None
    _check_year(found, text, name)
    return found


def _check_year(found: dt.date, text: str, name: str) -> None:
    if not YEARS[0] <= found.year <= YEARS[1]:
        raise UsageError(
            f"{name} was {text!r}, the limits are the years {YEARS[0]} and {YEARS[1]}: choose a day between"
        )


def second(text: str, name: str) -> int:
    """Read a UTC time as whole seconds, or say what one looks like."""
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{name} was {text!r}, which is no UTC time: write it as 2026-01-31T12:00:00") from None
    _check_year(time, text, name)
    stamp = (time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp()
    if stamp != int(stamp):
        raise UsageError(f"{name} was {text!r}, times are whole seconds: leave the fraction out")
    return int(stamp)


def _store(context: typer.Context) -> Any:
    from squeezecore.adapters import operations  # noqa: PLC0415

    settings: Settings = context.obj
    return operations.open_store(settings.home, settings.clickhouse_url)


def _scratch(context: typer.Context) -> Path | None:
    """Name the folder for what is needed only meanwhile: the home's, or the system's when there is no home."""
    settings: Settings = context.obj
    return settings.home / "run" / "scratch" if settings.clickhouse_url is None else None


# --- bring data in ---


@app.command("import")
def import_(
    context: typer.Context,
    paths: Annotated[
        list[Path],
        typer.Argument(help="Files or folders: archive CSV or zip, CSV or Parquet of trades, recorded frames."),
    ],
    market: Annotated[str, typer.Option(help="spot, um or cm, where the path does not say it; never guessed.")] = "",
    columns: Annotated[
        str, typer.Option(help="For any other CSV or Parquet: time=ts,price=p,qty=q,side=s[,id=i] (ours = the file's).")
    ] = "",
    instrument: Annotated[str, typer.Option(help="With --columns: which instrument, binance:BTC-USDT-PERP.")] = "",
    time_unit: Annotated[
        str, typer.Option(help="With --columns: s, ms, us or ns; read off the values when not given.")
    ] = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace days that hold the other kind of prints.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Import recorded trades, funding and open interest; twice is once.

    Binance's public archive files are taken as published (daily and monthly, zip or CSV, aggTrades, trades, fundingRate,
    metrics), and as they really are: docs/data-quality.md says what is repaired and what is set aside.
    """
    from squeezecore.adapters import importing  # noqa: PLC0415

    try:
        with _store(context) as store, show.progress(as_json) as report:
            answer = importing.import_paths(
                store,
                paths,
                market=market or None,
                column_map=columns or None,
                instrument=instrument or None,
                time_unit=time_unit,
                replace=replace,
                progress=report,
                scratch=_scratch(context),
            )
    except importing.ImportRefusedError as error:
        show.answer(error.report, as_json, show.imported)  # the others were imported: say so, then refuse
        raise
    show.answer(answer, as_json, show.imported)


@app.command()
def download(
    context: typer.Context,
    venue: Annotated[str, typer.Argument(help="binance")],
    asset: Annotated[str, typer.Argument(help="BTC")],
    first: Annotated[str, typer.Option("--from", help=FROM_DAY)],
    last: Annotated[str, typer.Option("--to", help=TO_DAY)],
    base_url: Annotated[str, typer.Option(help="Where the archive lies; a copy of its layout works too.")] = "",
    dest: Annotated[Path | None, typer.Option(help="Where the files are kept.", show_default="HOME/archive")] = None,
    as_json: Json = False,
) -> None:
    """Download an asset's public archive with checksums, resumable, then import it."""
    from squeezecore.adapters import download as downloads  # noqa: PLC0415
    from squeezecore.venues.binance import ARCHIVE  # noqa: PLC0415

    settings: Settings = context.obj
    with _store(context) as store, show.progress(as_json) as report:
        answer = downloads.download(
            store,
            venue,
            asset.upper(),
            day(first, "--from"),
            day(last, "--to"),
            dest or settings.home / "archive",
            base_url=base_url or ARCHIVE,
            progress=report,
            scratch=_scratch(context),
        )
    show.answer(answer, as_json, show.downloaded)


@app.command()
def simulate(
    context: typer.Context,
    assets: Annotated[str, typer.Option(help="Assets, comma-separated.")] = "BTC",
    days: Annotated[int, typer.Option(help="How many days.", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="The same seed gives the same market, byte for byte.", min=0)] = 7,
    world: Annotated[
        str, typer.Option(help="squeeze: somebody gets trapped now and then; noise: flows know nothing.")
    ] = "squeeze",
    start: Annotated[str, typer.Option(help="First day.")] = "2026-01-01",
    as_json: Json = False,
) -> None:
    """Make a market, calibrated to measured statistics, and put it into the store."""
    from squeezecore.adapters import operations  # noqa: PLC0415

    if not names(assets):
        raise UsageError(f"--assets was {assets!r}: name at least one, BTC or BTC,ETH")
    request = operations.SimulateRequest(
        assets=names(assets), days=days, seed=seed, world=world, start=day(start, "--start")
    )
    with _store(context) as store, show.progress(as_json) as report:
        answer = operations.simulate(store, request, report)
    show.answer(answer, as_json, show.simulated)


def names(text: str) -> tuple[str, ...]:
    """Split a comma-separated list of assets."""
    return tuple(part.strip().upper() for part in text.split(",") if part.strip())


# --- look at it ---

data_app = typer.Typer(help="What is in the store: days, holes, sizes; and export.", invoke_without_command=True)
app.add_typer(data_app, name="data")


@data_app.callback()
def data(
    context: typer.Context,
    name: Annotated[str, typer.Option("--name", help="Only this instrument or asset.")] = "",
    as_json: Json = False,
) -> None:
    """Show days, holes and sizes of what is in the store."""
    if context.invoked_subcommand is not None:
        return
    from squeezecore.adapters import operations  # noqa: PLC0415

    with _store(context) as store:
        answer = operations.coverage(store, name or None)
    show.answer(answer, as_json, show.coverage)


@data_app.command("export")
def export(
    context: typer.Context,
    what: Annotated[str, typer.Argument(help="bars (of an instrument) or rows (of an asset)")],
    name: Annotated[str, typer.Argument(help="binance:BTC-USDT-PERP, or BTC")],
    start: Annotated[str, typer.Option("--from", help=FROM_TIME)],
    end: Annotated[str, typer.Option("--to", help=TO_TIME)],
    out: Annotated[Path, typer.Option("--out", help="file.parquet or file.csv")],
    every: Annotated[str, typer.Option(help="How long a bar is: 1s, 1m, 5m or 1h.")] = "1s",
    as_json: Json = False,
) -> None:
    """Write bars or rows to Parquet or CSV: UTC seconds, base units, USD as decimals."""
    from squeezecore.adapters import operations  # noqa: PLC0415

    request = operations.ExportRequest(
        what=what,
        name=name.upper() if what == "rows" else name,
        start_s=second(start, "--from"),
        end_s=second(end, "--to"),
        out=out,
        every=every,
    )
    with _store(context) as store, show.progress(as_json) as report:
        answer = operations.export(store, request, report)
    show.answer(answer, as_json, show.exported)


@app.command()
def flow(
    context: typer.Context,
    asset: Annotated[str, typer.Argument(help="BTC")],
    start: Annotated[str, typer.Option("--from", help=FROM_TIME)],
    end: Annotated[str, typer.Option("--to", help=TO_TIME)],
    last: Annotated[int, typer.Option(help="How many seconds to list below the picture.", min=0)] = 12,
    as_json: Json = False,
) -> None:
    """Draw spot and perp CVD, second by second, with price and data quality."""
    from squeezecore.adapters import operations  # noqa: PLC0415

    with _store(context) as store:
        answer = operations.flow(store, asset.upper(), second(start, "--from"), second(end, "--to"))
    show.answer(answer, as_json, lambda report: show.flow(report, last))


@app.command("assets")
def assets_(
    context: typer.Context,
    file: Annotated[Path | None, typer.Option("--set", help="Put this assets.toml in force.")] = None,
    as_json: Json = False,
) -> None:
    """Show which markets make up each asset and which is traded, or put another list in force."""
    from squeezecore.adapters import operations  # noqa: PLC0415

    with _store(context) as store:
        answer = operations.put_assets(store, file) if file else operations.assets(store)
    show.answer(answer, as_json, show.assets)


# --- test the idea ---


@app.command()
def params(
    out: Annotated[Path | None, typer.Option("--out", help="Write to this file instead of printing.")] = None,
    changes: Annotated[list[str], typer.Option("--set", help="name=value, more than once.")] = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Print every strategy parameter with its meaning, bounds and default, as a file that --params reads."""
    from squeezecore import squeeze  # noqa: PLC0415

    value = squeeze.params_from(settings_of(changes))
    if as_json:
        show.answer(value, True, lambda _value: None)
    elif out:
        try:
            out.write_text(squeeze.write_params(value))
        except OSError as error:
            raise UsageError(
                f"--out was {out}, it cannot be written ({error.strerror}): choose another place"
            ) from None
        show.out.print(f"{out}: hash {value.hash}")
    else:
        show.out.print(squeeze.write_params(value), markup=False, soft_wrap=True)


def settings_of(changes: list[str]) -> dict[str, Any]:
    """Read parameters given as `name=number`."""
    return pairs_of(changes, "--set")


@app.command()
def backtest(
    context: typer.Context,
    assets: Annotated[list[str], typer.Argument(help="BTC ETH …; several share one portfolio.")],
    first: Annotated[str, typer.Option("--from", help=FROM_DAY)],
    last: Annotated[str, typer.Option("--to", help=TO_DAY)],
    params_file: Annotated[
        Path | None, typer.Option("--params", help="A parameters file, see squeezeflow params.")
    ] = None,
    changes: Annotated[
        list[str], typer.Option("--set", help="entry_score=5, more than once; wins over --params.")
    ] = [],  # noqa: B006
    costs: Annotated[list[str], typer.Option("--cost", help="taker_fee_ppm=400, more than once.")] = [],  # noqa: B006
    limits: Annotated[list[str], typer.Option("--limit", help="leverage_max=3, more than once.")] = [],  # noqa: B006
    capital: Annotated[int, typer.Option(help="Start capital in USD.")] = 100_000,
    shards: Annotated[
        int, typer.Option(help="Pieces to cut the days into; the result is the same for any.", min=0)
    ] = 0,
    jobs: Annotated[int, typer.Option(help="Processes.", show_default="one a core", min=0)] = 0,
    warmup_hours: Annotated[
        float, typer.Option(help="Rows before each piece; less than 28 h makes seams to repair.", min=0)
    ] = 28,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for trades, decisions, equity (Parquet, CSV) and result.json.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Scan again even if this very run is finished.")] = False,
    as_json: Json = False,
) -> None:
    """Run the strategy over days of rows: exact, resumable (Ctrl-C and the same command again), beside buy-and-hold."""
    from squeezecore.adapters import pool  # noqa: PLC0415

    if not math.isfinite(warmup_hours):
        raise UsageError(f"--warmup-hours was {warmup_hours}: write a number of hours, 28 is enough")
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out was {out}, which is a file: name a folder")
    if jobs != 1:
        pool.warm()  # its imports run beside ours
    from squeezecore.adapters import runner  # noqa: PLC0415

    spec = runner.make_spec(
        assets=[asset for words in assets for asset in names(words)],
        start=day(first, "--from"),
        end=day(last, "--to"),
        params_file=params_file,
        changes=settings_of(changes),
        costs=pairs_of(costs, "--cost"),
        limits=pairs_of(limits, "--limit"),
        capital_usd=capital,
        warmup_s=round(warmup_hours * 3600),
    )
    settings: Settings = context.obj
    request = runner.BacktestRequest(spec=spec, shards=shards, jobs=jobs, fresh=fresh, out=out)
    with show.progress(as_json) as report:
        answer = runner.backtest(settings.home, settings.clickhouse_url, request, report)
    show.answer(answer, as_json, results.backtest)


def pairs_of(changes: list[str], flag: str) -> dict[str, float | int | bool]:
    """Read `name=number` settings."""
    found: dict[str, float | int | bool] = {}
    for change in changes:
        name, equals, text = change.partition("=")
        try:
            found[name.strip()] = _number(text if equals else "")
        except ValueError:
            raise UsageError(f"{flag} was {change!r}: write it as name=number") from None
    return found


def _number(text: str) -> float | int | bool:
    if text.strip().lower() in ("true", "false"):
        return text.strip().lower() == "true"
    try:
        return int(text)
    except ValueError:
        return float(text)


@app.command()
def runs(context: typer.Context, as_json: Json = False) -> None:
    """List the runs in the store, the newest first."""
    from squeezecore.adapters import runner  # noqa: PLC0415

    with _store(context) as store:
        answer = runner.runs(store)
    show.answer(answer, as_json, results.runs)


@app.command("trials")
def trials_(
    context: typer.Context,
    verify: Annotated[bool, typer.Option("--verify", help="Check that no trial was changed or taken out.")] = False,
    as_json: Json = False,
) -> None:
    """List what was tried: every finished run is a trial that a result must be measured against."""
    from squeezecore.adapters import trials  # noqa: PLC0415

    with _store(context) as store:
        answer = trials.overview(store, trials.TrialsRequest(verify=verify))
    show.answer(answer, as_json, results.trials)
    if answer.faults:
        raise SqueezeError(f"faults in the trials were {len(answer.faults)}, there must be none: see above for each")


@app.command()
def explain(
    context: typer.Context,
    what: Annotated[str, typer.Argument(help="A run (its id, the beginning of it, or last), or an asset with --at.")],
    trade: Annotated[int, typer.Argument(help="Which trade of the run, 1 is the first.")] = 0,
    at: Annotated[str, typer.Option("--at", help="Explain this second of an asset: 2026-01-05T12:00:00.")] = "",
    params_file: Annotated[Path | None, typer.Option("--params", help="With --at: a parameters file.")] = None,
    changes: Annotated[list[str], typer.Option("--set", help="With --at: name=value, more than once.")] = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Say why a trade was taken and left, or what any second looked like to the strategy: inputs, known-at, thresholds."""
    from squeezecore.adapters import explaining, runner  # noqa: PLC0415

    if bool(at) == bool(trade):
        raise UsageError(
            "name either a run and a trade (explain last 1), or an asset and a time (explain BTC --at TIME)"
        )
    with _store(context) as store:
        if at:
            values = runner.make_params(params_file, settings_of(changes))
            show.answer(
                explaining.explain_second(store, what.upper(), second(at, "--at"), values), as_json, results.second
            )
        else:
            show.answer(explaining.explain_trade(store, what, trade), as_json, results.trade)


# --- look at what came of it ---


@app.command()
def report(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="A run: its id, the beginning of it, or last.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The HTML file.", show_default="HOME/reports/RUN.html")
    ] = None,
    look: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    placebos: Annotated[
        int, typer.Option(help="Placebo runs of each kind, made by the first report; 0 = none.", min=0)
    ] = 200,
    as_json: Json = False,
) -> None:
    """Make the report page of a run: one offline HTML file, with a verdict, charts, and the reasons of each trade."""
    _report(context, [run], out, placebos, look, as_json)


@app.command()
def compare(
    context: typer.Context,
    runs: Annotated[list[str], typer.Argument(help="Two or more runs: ids, their beginnings, or last.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The HTML file.", show_default="HOME/reports/RUN-RUN.html")
    ] = None,
    look: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    placebos: Annotated[int, typer.Option(help="Placebo runs of each kind; 0 = none.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Make one page of several runs: numbers and equity side by side, which trades differ, and why."""
    if len(runs) < 2:
        raise UsageError(f"runs were {len(runs)}, a comparison needs two or more: squeezeflow runs lists them")
    _report(context, runs, out, placebos, look, as_json)


def _report(
    context: typer.Context, runs: list[str], out: Path | None, placebos: int, look: bool, as_json: bool
) -> None:
    """Build a page, draw it where the front end is there, and say what it came to."""
    from squeezecore.adapters import reporting  # noqa: PLC0415

    with _store(context) as store, show.progress(as_json) as progress:
        page = reporting.build_page(store, runs, progress, placebo_runs=placebos, scratch=_scratch(context))
    settings: Settings = context.obj
    file = out or settings.home / "reports" / f"{'-'.join(run.run_id[:12] for run in page.runs)}.html"
    try:
        import squeezeview  # noqa: PLC0415

        html = squeezeview.render(page)
    except (ImportError, UsageError) as error:
        if not as_json:
            raise UsageError(f"{error}; the figures are there without it: the same command with --json") from error
        show.answer(reporting.answer_of(page, note=str(error)), as_json, results.report)
        return
    reporting.write_page(file, html)
    show.answer(reporting.answer_of(page, str(file), len(html)), as_json, results.report)
    if look:
        typer.launch(file.resolve().as_uri())


# --- run it all day ---


@app.command()
def up(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Option(
            help="live: the real venues; sim:SEED: simulated exchanges on this machine; replay:DIR: recorded frames."
        ),
    ] = "live",
    speed: Annotated[str, typer.Option(help="Of sim and replay: 1 is real time, N so many times faster, max.")] = "1",
    record: Annotated[Path | None, typer.Option(help="Record the raw frames that arrive into this folder.")] = None,
    assets_file: Annotated[
        Path | None,
        typer.Option("--assets", help="An assets file to put in force; without it what was watched before."),
    ] = None,
    account: Annotated[str, typer.Option(help="The name of the paper account.")] = "paper",
    capital: Annotated[int, typer.Option(help="USD that a new paper account begins with.")] = 100_000,
    port: Annotated[
        int | None,
        typer.Option(
            help="The services answer on this port of 127.0.0.1 and the five after it.",
            show_default="8710 if free, or any",
        ),
    ] = None,
    without: Annotated[list[str] | None, typer.Option(help="Leave a service out; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Run everything on this machine: NATS, ClickHouse and the six services, watched, until Ctrl-C.

    The first start of sim:SEED also simulates the two days before, so that the strategy is warm. The next start goes on
    where this one stopped. Logs lie in HOME/run/logs, tokens for writing in HOME/run/tokens.
    """
    from squeezeflow import board  # noqa: PLC0415
    from squeezeflow import up as running  # noqa: PLC0415
    from squeezeflow.main import environment  # noqa: PLC0415

    settings: Settings = context.obj
    request = running.Request(
        home=settings.home,
        source=running.source_of(source),
        environment=environment(),
        clickhouse_url=settings.clickhouse_url,
        speed=speed,
        record=record,
        assets=assets_file,
        account=account,
        capital_usd=capital,
        port=port,
        without=tuple(without or ()),
    )
    running.up(request, board.board(as_json))


@app.command()
def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Check this machine, the bus, the store and each service; say what is wrong and how to mend it.

    Ends with exit code 1 when something is wrong. Services are checked where `squeezeflow up` runs.
    """
    from squeezeflow import doctor as doctors  # noqa: PLC0415

    settings: Settings = context.obj
    found = doctors.examine(doctors.Place(settings.home, settings.clickhouse_url))

    def picture(diagnosis: doctors.Diagnosis) -> None:
        for line in doctors.lines(diagnosis):
            show.out.print(line, markup=False, soft_wrap=True)

    show.answer(found, as_json, picture)
    if not found.well:
        raise typer.Exit(1)


@app.command()
def parity(
    context: typer.Context,
    date: Annotated[str, typer.Option("--date", help="The UTC day, 2026-01-31.")],
    account: Annotated[str, typer.Option(help="The paper account.")] = "paper",
    as_json: Json = False,
) -> None:
    """Prove a stored day of live trading again, from the rows it saw and the prints it recorded; print the certificate.

    Ends with exit code 1 where anything differs, and names the first place; with 42 where the day is not there, or nothing
    of it can be compared.
    """
    from squeezecore.adapters import parity as proving  # noqa: PLC0415

    request = proving.ParityRequest(day=day(date, "--date"), account=account)
    with _store(context) as store, show.progress(as_json) as progress:
        certificate = proving.parity(store, request, progress)
    show.answer(certificate, as_json, results.certificate)
    if certificate.verdict != proving.EQUAL:
        raise typer.Exit(1 if certificate.verdict == proving.DIFFERENT else 42)
