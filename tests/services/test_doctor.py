"""The doctor finds what is wrong with the machine, the servers and the services, and says how to mend it."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from squeezecore.adapters import embedded, embedded_nats, supervisor
from squeezeflow import doctor
from squeezeflow.up import SERVICES
from support.command import COMMAND, WAIT_S
from support.services import TINY, started

MACHINE = {"python", "processor", "memory", "home", "disk", "packages", "nats-server", "engine"}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "a home"
    yield path
    embedded_nats.stop(path)
    embedded.stop(path)


def examined(home: Path, *words: object) -> tuple[int, dict[str, dict[str, Any]]]:
    """Ask the command; return its exit code and what it found, by name."""
    said = subprocess.run(
        [COMMAND, "--home", home, *map(str, words), "doctor", "--json"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    told = json.loads(said.stdout)
    assert told["well"] == (said.returncode == 0)
    return said.returncode, {finding["name"]: finding for finding in told["findings"]}


def test_a_fresh_home_is_well_and_lacks_only_what_up_makes(home: Path) -> None:
    code, found = examined(home)
    assert code == 0
    assert {name for name, finding in found.items() if finding["state"] == "right"} >= MACHINE | {"store"}
    assert {name for name, finding in found.items() if finding["state"] == "absent"} == {"bus", "services"}
    assert found["bus"]["mend"] == "squeezeflow up makes it"


def test_each_service_is_asked_why_it_is_not_ready(home: Path) -> None:
    with embedded_nats.open_nats(home, grace_s=1.0) as nats, embedded.open_store(home, grace_s=1.0):
        lock = supervisor.try_lock(home / "run" / "up.lock")  # this process is the `up`
        assert lock is not None
        os.write(lock, f"{os.getpid()}\n".encode())
        common = {"home": home, "nats_url": nats.url}
        run = home / "run" / "services"
        try:
            with (
                started(run, [str(TINY), "cvd"], "cvd", **common) as cvd,
                started(run, [str(TINY), "ingest"], "ingest", end_when=run / "never", **common) as ingest,
            ):
                cvd.ready()
                ingest.listening().until(lambda: "feed" in ingest.missing())
                code, found = examined(home)
        finally:
            os.close(lock)
    assert code == 1
    assert str(os.getpid()) in found["services"]["found"]
    assert found["cvd"]["state"] == "right"
    assert "running, 0.5 s behind" in found["cvd"]["found"]
    assert found["ingest"]["state"] == "wrong"
    assert "feed was silent for 12 s" in found["ingest"]["found"]
    for name in set(SERVICES) - {"cvd", "ingest"}:
        assert found[name]["found"] == "it does not run"
        assert f"{name}.log" in found[name]["mend"]
    assert found["bus"]["state"] == "right"
    assert "MD 0 messages" in found["bus"]["found"]


def test_a_home_that_cannot_be_written_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, found = examined(tmp_path / "file" / "home")
    assert code == 1
    assert "cannot be written" in found["home"]["found"]
    assert "--home" in found["home"]["mend"]
    assert found["store"]["state"] == "absent"


def test_a_store_that_is_not_there_is_wrong_and_its_password_is_not_shown(home: Path) -> None:
    code, found = examined(home, "--clickhouse", "http://me:hunter2@127.0.0.1:9/db")
    assert code == 1
    assert found["store"]["state"] == "wrong"
    assert "127.0.0.1:9 cannot be reached" in found["store"]["found"]
    assert "hunter2" not in json.dumps(found)


def test_a_check_that_fails_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def faint(_place: doctor.Place) -> Iterator[doctor.Finding]:
        raise ZeroDivisionError("by nothing")
        yield

    monkeypatch.setattr(doctor, "CHECKS", {"odd": faint})
    found = doctor.examine(doctor.Place(tmp_path))
    assert not found.well
    assert list(doctor.lines(found)) == [
        "✗ odd  the check failed: ZeroDivisionError: by nothing",
        "       → tell us, with this line",
        "1 wrong: mend the first, then ask again",
    ]
