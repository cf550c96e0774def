"""A service as a real process: started with settings, asked over HTTP, ended with a signal."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from support.command import WAIT_S, eventually

TINY = Path(__file__).with_name("tiny_service.py")


class Service:
    """A running service; its log lies beside its note."""

    def __init__(self, name: str, words: list[str], run: Path, settings: Mapping[str, object]) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.run = run
        self.note = run / f"{name}.json"
        self.log = run / f"{name}.log"
        person = {key: value for key, value in os.environ.items() if not key.startswith("SQUEEZE_")}  # noqa: TID251
        given = {"run_dir": run, **settings}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *words],
                env=person | {f"SQUEEZE_{key.upper()}": str(value) for key, value in given.items()},
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self.http = httpx.Client(timeout=WAIT_S, trust_env=False)

    def said(self) -> str:
        return self.log.read_text()

    def answers(self) -> bool:
        """Say whether it listens, and remember where."""
        if not self.note.exists():
            return False
        told = json.loads(self.note.read_text())
        if told["pid"] != self.process.pid:
            return False
        self.http.base_url = httpx.URL(f"http://127.0.0.1:{told['port']}")
        return True

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.http.get(path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.http.post(path, **options)

    def until(self, condition: Callable[[], bool]) -> None:
        assert eventually(condition, self.process), self.said()

    def listening(self) -> "Service":
        self.until(self.answers)
        return self

    def ready(self) -> "Service":
        self.listening().until(lambda: self.get("/readyz").status_code == 200)
        return self

    def missing(self) -> dict[str, str]:
        """Return what /readyz misses, with the reasons."""
        answer = self.get("/readyz")
        return {} if answer.status_code == 200 else {e["field"]: e["reason"] for e in answer.json()["errors"]}

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        return self.process.wait(WAIT_S)

    def close(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@contextmanager
def started(run: Path, words: list[str] | None = None, name: str = "tiny", **settings: object) -> Iterator[Service]:
    """Start a service; kill it at the end if it still runs."""
    service = Service(name, words or [str(TINY)], run, settings)
    try:
        yield service
    finally:
        service.close()
