"""One backtest in a process of its own: a request as JSON on stdin, lines of JSON on stdout, an end when stdin closes.

    stdin    {"home": …, "clickhouse_url": …, "request": {"spec": …, …}}, then nothing until it is closed
    stdout   {"label": …, "done": …, "total": …, "unit": …} …   then {"report": …} or {"error": …, "exit_code": …}

Whoever started it closes stdin to stop it, and a starter that dies closes it too: what was finished is kept, the same
request again goes on from there.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

from squeezecore.adapters.lean import leave_pandas_out
from squeezecore.adapters.operations import Progress
from squeezecore.errors import SqueezeError
from squeezecore.spec import BacktestSpec


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for."""

    home: str | None
    clickhouse_url: str | None
    spec: BacktestSpec
    jobs: int = 0
    shards: int = 0
    fresh: bool = False
    placebos: int = 0  # runs over shuffled flow to measure luck by; kept with the run


def main() -> None:
    """Do it; returns the exit code of the operation."""
    leave_pandas_out()
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=Task)
    threading.Thread(target=_watch, daemon=True).start()
    from squeezecore.adapters import operations, reporting, runner  # noqa: PLC0415 - it is much, the request may be none

    request = runner.BacktestRequest(spec=task.spec, jobs=task.jobs, shards=task.shards, fresh=task.fresh)
    try:
        home = Path(task.home or "")
        answer = runner.backtest(home, task.clickhouse_url, request, _tell)
        if task.placebos:
            with operations.open_store(home, task.clickhouse_url) as store:
                reporting.build_page(store, [answer.run_id], _tell, placebo_runs=task.placebos)
    except SqueezeError as error:
        _say({"error": str(error), "exit_code": error.exit_code})
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    else:
        _say({"report": answer})
        code = 0
    sys.stdout.flush()
    os._exit(code)


def _watch() -> None:
    """Interrupt the work when stdin is closed."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGINT)


def _tell(progress: Progress) -> None:
    _say(progress._asdict())


def _say(value: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
