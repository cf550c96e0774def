"""The command's entry: settings from the environment, errors as sentences, exit codes that mean something.

Everything a command does is a function Request → Response in `squeezecore.adapters.operations`; here they get flags, a
progress bar and a picture. Heavy imports happen inside the commands, so that `--help` is there at once.
"""

from __future__ import annotations

import atexit
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from squeezecore.adapters.lean import leave_pandas_out
from squeezecore.errors import SqueezeError

STOPPED = 130  # what a shell says of a command that Ctrl-C ended
HOME_HELP = "Where the store lives (environment: SQUEEZE_HOME)."
EPILOG = (
    "Times are UTC. A range of days names its last day; a range of seconds ends before its last. Exit codes: 0 done, \
2 wrong request, 42 a hole in the data, 43 a spec that can never run, 130 stopped by Ctrl-C (resumable)."
)

app = typer.Typer(
    name="squeezeflow",
    help="Spot against perpetual flow at one second: import it, look at it, test the squeeze on it, ask why.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass(frozen=True)
class Settings:
    """What the environment and the global flags say; nobody else reads them."""

    home: Path
    clickhouse_url: str | None


def default_home() -> Path:
    """Return `SQUEEZE_HOME`, or the user's data directory."""
    import platformdirs  # noqa: PLC0415

    named = os.environ.get("SQUEEZE_HOME")  # noqa: TID251
    return Path(named) if named else Path(platformdirs.user_data_dir("squeezeflow"))


def environment() -> dict[str, str]:
    """Return what the processes that we start inherit; where the store is, they are told anew."""
    told = {"SQUEEZE_HOME", "SQUEEZE_CLICKHOUSE"}
    return {name: value for name, value in os.environ.items() if name not in told}  # noqa: TID251


@app.callback()
def _settings(
    context: typer.Context,
    home: Annotated[Path | None, typer.Option(help=HOME_HELP, show_default="the user's data directory")] = None,
    clickhouse: Annotated[
        str | None,
        typer.Option(
            help="An external ClickHouse, http://user:password@host:8123/database (environment: SQUEEZE_CLICKHOUSE)."
        ),
    ] = None,
) -> None:
    url = clickhouse or os.environ.get("SQUEEZE_CLICKHOUSE")  # noqa: TID251
    context.obj = Settings(home=(home or default_home()).expanduser().resolve(), clickhouse_url=url)


def main() -> None:
    """Run the command; every refusal is one sentence on stderr and an exit code."""
    leave_pandas_out()
    try:
        from squeezeflow import commands  # noqa: F401, PLC0415 - registers the commands on `app`

        code: Any = app(standalone_mode=False)
    except SqueezeError as error:
        _say(str(error))
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort) as stopped:
        code = STOPPED
        if isinstance(stopped.__cause__, EOFError):  # click takes it for a closed terminal; we never read from one
            _say(_cut_short(stopped.__cause__))
            code = 1
    except EOFError as error:
        _say(_cut_short(error))
        code = 1
    except OSError as error:
        _say(f"the system refused: {error}")
        code = 1
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's own errors carry their sentence
            raise
        _say(error.format_message())
        code = getattr(error, "exit_code", 2)
    if code == STOPPED:
        sys.stderr.write("stopped; what was finished is kept, the same command again goes on from there\n")
    sys.stdout.flush()
    sys.stderr.flush()
    # LLVM takes 0.15 s to tear itself down; after the exit handlers (sockets, temporary files) nothing is left to do.
    atexit._run_exitfuncs()  # noqa: SLF001 - there is no public word for it
    os._exit(code if isinstance(code, int) else 0)


def _cut_short(error: EOFError) -> str:
    """Explain the one end of file that we can meet: Python keeps a compiled module that a full disk cut short."""
    cache = sys.pycache_prefix or str(Path(__file__).parents[1])
    return (
        f"a compiled module of Python is cut short ({error}), as a full disk leaves it: "
        f"delete the __pycache__ folders below {cache} (they are made again) and run the same command again"
    )


def _say(text: str) -> None:
    sys.stderr.write(f"error: {text}\n")


if __name__ == "__main__":
    main()
