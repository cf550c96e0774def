"""`up` keeps what it starts running, shows it, refuses to be two, and leaves nothing behind, however it ends."""

import asyncio
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from squeezecore import simulator
from squeezecore.adapters import embedded, embedded_nats
from squeezecore.adapters.bus import connect
from squeezecore.adapters.store import Store
from squeezecore.errors import UsageError
from squeezecore.market import DAY_S, cut
from squeezeflow import up
from squeezeflow.board import drawn
from squeezeflow.keeping import LOG_BYTES_MAX, Log, Sight
from support.command import WAIT_S, eventually
from support.store import assert_equal

UP = Path(__file__).parents[1] / "support" / "up_tiny.py"


class Running:
    """An `up`, and the JSON lines it has said so far."""

    def __init__(self, home: Path, programs: tuple[str, ...]) -> None:
        self.home = home
        person = {key: value for key, value in os.environ.items() if not key.startswith("SQUEEZE_")}  # noqa: TID251
        self.process = subprocess.Popen(
            [sys.executable, str(UP), str(home), *programs],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=person,
            start_new_session=True,
        )
        self.lines: list[dict[str, Any]] = []
        self.pids: set[int] = set()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told = json.loads(line)
            self.lines.append(told)
            if told["event"] == "state" and told["pid"]:
                self.pids.add(told["pid"])

    def state(self, name: str) -> dict[str, Any]:
        """Return the newest line about a service."""
        return next((x for x in reversed(self.lines) if x["event"] == "state" and x["service"] == name), {})

    def told(self, words: str) -> bool:
        return any(words in line.get("text", "") for line in self.lines)

    def until(self, condition: Callable[[], bool]) -> None:
        assert eventually(condition, self.process), (self.lines[-10:], self.process.communicate()[1])

    def ready(self) -> "Running":
        self.until(lambda: any(line["event"] == "ready" for line in self.lines))
        return self

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(WAIT_S)
        self._reader.join()
        return code

    def left(self) -> list[int]:
        """Return the programs that still run."""
        return [pid for pid in self.pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        eventually(lambda: not self.left())


@contextmanager
def running(home: Path, *programs: str) -> Iterator[Running]:
    started = Running(home, programs)
    try:
        yield started
    finally:
        started.close()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "a home"
    yield path
    embedded_nats.stop(path)
    embedded.stop(path)


def test_everything_is_started_shown_and_stopped_in_reverse_and_the_next_start_goes_on(home: Path) -> None:
    for _ in range(2):
        with running(home, "silent", "tiny1", "tiny2") as it:
            it.ready()
            told = it.state("tiny2")
            assert told["ready"]
            assert told["state"] == "RUNNING"
            assert told["lag_s"] == 0.5
            assert told["address"].startswith("http://127.0.0.1:")
            assert it.state("nats")["address"].startswith("nats://127.0.0.1:")
            assert it.state("clickhouse")["ready"]
            it.until(lambda: any(line["event"] == "status" for line in it.lines))
            assert it.end() == 0
            assert it.lines[-1]["event"] == "stopped" or it.lines[-2]["event"] == "stopped"
            stopped = next(line["stopped"] for line in it.lines if line["event"] == "stopped")
            assert stopped == ["tiny2", "tiny1", "silent", "nats", "clickhouse"]
            assert it.left() == []
            assert embedded_nats.status(home) is None
            assert embedded.status(home) is None
    assert "here I am" in (home / "run" / "logs" / "silent.log").read_text()
    assert (home / "run" / "logs" / "tiny1.log").read_text().count("running") == 2, "logs go on as well"


def test_a_killed_service_is_started_again(home: Path) -> None:
    with running(home, "tiny") as it:
        it.ready()
        first = it.state("tiny")["pid"]
        os.kill(first, signal.SIGKILL)
        it.until(lambda: it.state("tiny")["ready"] and it.state("tiny")["pid"] != first)
        assert it.state("tiny")["restarts"] == 1
        assert it.told("tiny ended (SIGKILL), it is started again in 0.2 s")
        assert it.end(signal.SIGTERM) == 0


def test_a_service_that_dies_is_started_again_with_its_reason_shown(home: Path) -> None:
    end = home.parent / "end"
    with running(home, f"tiny=end:loudly,end_when:{end}") as it:
        it.ready()
        end.touch()
        it.until(lambda: it.told("in 0.2 s: ValueError: a thing nobody thought of"))
        end.unlink()
        assert "a thing nobody thought of" in (home / "run" / "logs" / "tiny.log").read_text()
        assert it.end() == 0


def test_what_ends_at_once_is_started_ever_more_slowly(home: Path) -> None:
    with running(home, "broken=code:1") as it:
        it.until(lambda: it.told("in 2.0 s: nothing to be done"))
        told = [line["text"] for line in it.lines if "again in" in line.get("text", "")]
        assert [text.split(" again in ")[1].split(":")[0] for text in told] == ["0.2 s", "0.5 s", "1.0 s", "2.0 s"]
        assert it.end() == 0


def test_wrong_settings_are_not_tried_again(home: Path) -> None:
    with running(home, "broken=code:2", "tiny=port:99999") as it:
        it.until(lambda: it.told("tiny refused") and it.told("broken refused its settings"))
        it.until(lambda: it.state("tiny")["state"] == "REFUSED")
        assert "SQUEEZE_PORT was '99999'" in it.state("tiny")["error"]
        assert it.state("tiny")["restarts"] == 0
        assert it.end() == 0


def test_a_service_that_is_not_ready_shows_why(home: Path) -> None:
    with running(home, f"tiny=end_when:{home / 'never'}") as it:
        it.until(lambda: "silent for 12 s" in it.state("tiny").get("error", ""))
        assert not it.state("tiny")["ready"]
        assert it.end() == 0


@pytest.mark.parametrize("server", ["nats", "clickhouse"])
def test_a_killed_server_is_started_again_and_the_services_go_on(home: Path, server: str) -> None:
    with running(home, "tiny") as it:
        it.ready()
        service, killed = it.state("tiny")["pid"], it.state(server)["pid"]
        os.kill(killed, signal.SIGKILL)
        it.until(lambda: it.state(server)["pid"] != killed and it.state(server)["ready"])
        it.until(lambda: it.state("tiny")["ready"])
        assert it.state("tiny")["pid"] == service
        assert it.end() == 0


def test_nothing_outlives_a_killed_up(home: Path) -> None:
    with running(home, "silent", "tiny") as it:
        it.ready()
        it.process.kill()
        it.wait()
        eventually(lambda: it.left() == [])
        with running(home, "tiny") as again:  # and its home is free at once
            again.ready()
            assert again.end() == 0


def test_up_stops_in_good_order_when_nobody_reads_it_any_more(home: Path) -> None:
    note = home / "run" / "tiny" / "tiny" / "tiny.json"
    process = subprocess.Popen(
        [sys.executable, str(UP), str(home), "tiny"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert eventually(note.exists, process)
        process.stdout.close()
        process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
        process.wait()
    assert not note.exists(), "the service was asked to end, not killed"
    assert embedded_nats.status(home) is None
    assert embedded.status(home) is None


def test_a_second_up_on_the_same_home_is_refused_with_the_pid_of_the_first(home: Path) -> None:
    with running(home, "silent") as first:
        first.ready()
        with running(home, "silent") as second:
            assert second.wait() == 2
            assert second.process.stderr is not None
            assert f"process {first.process.pid} runs `squeezeflow up`" in second.process.stderr.read()
        assert first.end() == 0


def test_the_services_are_told_what_to_watch(home: Path) -> None:
    async def told(url: str) -> tuple[bytes, int] | None:
        bus = await connect(url, name="test")
        try:
            return await bus.get("config", "assets")
        finally:
            await bus.close()

    with running(home, "silent") as it:
        it.ready()
        found = asyncio.run(told(it.state("nats")["address"]))
        assert found is not None
        assert set(json.loads(found[0])) == {"BTC", "ETH", "SOL", "XRP", "DOGE"}
        assert it.end() == 0


# --- parts ---


def test_a_simulated_home_gets_its_history_once_and_no_second_of_the_future(store: Store) -> None:
    now_s = 1_767_225_600 + 3 * DAY_S + 3600
    assert up.fill_days(store, 7, ["BTC"], now_s) == 2
    assert up.fill_today(store, 7, ["BTC"], now_s) == 3600
    first, rows = now_s - 3600 - 2 * DAY_S, store.read_rows("BTC", 0, now_s + DAY_S)
    assert rows.ts[0] == first
    assert rows.ts[-1] == now_s - 1
    assert len(rows.ts) == 2 * DAY_S + 3600, "no hole, so the strategy is warm"
    bars = store.read_bars("binance:BTC-USDT-PERP", 0, now_s + DAY_S)
    assert bars.ts[-1] < now_s
    assert up.fill_days(store, 7, ["BTC"], now_s) == 0
    assert up.fill_today(store, 7, ["BTC"], now_s + 60) == 0, "what is there is never touched"
    whole = simulator.simulate_day(simulator.WorldSpec(seed=7), "BTC", dt.date(2026, 1, 4))
    assert_equal(cut(whole.rows, 0, 3600), cut(rows, 2 * DAY_S, 2 * DAY_S + 3600))


def test_a_home_holds_one_market(store: Store) -> None:
    up.claim(store, up.Source("sim", "7"))
    up.claim(store, up.Source("sim", "7"))
    with pytest.raises(UsageError, match="this home holds sim:7"):
        up.claim(store, up.Source("live"))


def test_local_tokens_are_random_for_their_owner_only_and_stay(tmp_path: Path) -> None:
    made = up.tokens(tmp_path, {})
    texts = {path.read_text().strip() for path in made.values()}
    assert len(texts) == 2
    assert all(len(text) >= 32 for text in texts)
    assert all(path.stat().st_mode & 0o077 == 0 for path in made.values())
    assert up.tokens(tmp_path, {}) == made
    assert {path.read_text().strip() for path in made.values()} == texts
    own = up.tokens(tmp_path, {"SQUEEZE_TOKEN_FILE": "/somewhere/token"})
    assert own["SQUEEZE_TOKEN_FILE"] == Path("/somewhere/token")
    assert own["SQUEEZE_EXECUTOR_TOKEN_FILE"] == made["SQUEEZE_EXECUTOR_TOKEN_FILE"]


@pytest.mark.parametrize("text", ["", "sim", "sim:", "sim:x", "sim:-1", "replay:", "replay:/no/such/folder", "demo"])
def test_a_wrong_source_is_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="--source was"):
        up.source_of(text)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"speed": "0"}, "--speed was '0'"),
        ({"speed": "fast"}, "--speed was 'fast'"),
        ({"speed": "nan"}, "--speed was 'nan'"),
        ({"speed": "2", "source": up.Source("live")}, "live markets have the speed 1"),
        ({"account": "my account"}, "--account was 'my account'"),
        ({"capital_usd": 0}, "--capital was 0 USD"),
        ({"port": 80}, "--port was 80"),
        ({"port": 65_535}, "--port was 65535"),
        ({"without": ("cdv",)}, "--without was 'cdv', which is no service.*cvd"),
        ({"assets": Path("/no/such/file")}, "assets file /no/such/file cannot be read"),
    ],
)
def test_a_wrong_request_is_a_sentence(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    request = up.Request(**({"home": tmp_path, "source": up.Source("sim", "7"), "environment": {}} | options))
    with pytest.raises(UsageError, match=words):
        up.check(request)


def test_a_log_is_bounded_and_remembers_its_last_lines(tmp_path: Path) -> None:
    log = Log(tmp_path / "a.log")
    for number in range(20):
        log.write(b"x" * (LOG_BYTES_MAX // 8) + b"\nline %d\n  and " % number)
    log.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2.5 * LOG_BYTES_MAX
    assert log.last[-1] == "line 19"


def test_the_table_shows_every_service(tmp_path: Path) -> None:
    from rich.console import Console

    console = Console(width=150, record=True, file=(tmp_path / "out").open("w"))
    console.print(
        drawn(
            [
                Sight("ingest", "RUNNING", ready=True, lag_s=2.31, rate=1234.5, address="http://127.0.0.1:1"),
                Sight("cvd", "RESTARTING", starts=3, error="[the] end"),
            ]
        )
    )
    console.file.close()
    lines = [line for line in console.export_text().splitlines() if line.strip()]
    assert lines[0].split() == ["service", "state", "lag", "messages/s", "restarts", "address", "last", "error"]
    assert lines[2].split() == ["ingest", "running", "2.3", "s", "1,234", "http://127.0.0.1:1"]
    assert lines[3].split() == ["cvd", "restarting", "2", "[the]", "end"]
