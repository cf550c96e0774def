"""The embedded server is shared, outlives its clients by its grace only, and survives whatever is killed."""

import datetime as dt
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from squeezecore.adapters import embedded
from squeezecore.adapters.embedded import EmbeddedError
from squeezecore.adapters.store import Store, StoreError
from squeezecore.market import concat
from support.store import assert_equal, random_bars, random_rows

START = 1_723_075_200
PERP = "binance:BTC-USDT-PERP"
GRACE_S = 0.3

CLIENT = """
import sys
from pathlib import Path
from squeezecore.adapters import embedded
with embedded.open_store(Path(sys.argv[1]), grace_s=float(sys.argv[2])) as store:
    print(embedded.status(Path(sys.argv[1])).pid, flush=True)
    sys.stdin.read()
    print(store.config("who"), flush=True)
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "it's a ?home & <more>"
    yield path
    embedded.stop(path)


def eventually(condition: Callable[[], bool], wait_s: float = 30.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.02)


def client(home: Path, grace_s: float = GRACE_S) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(home), str(grace_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def pid_of(home: Path) -> int:
    server = embedded.status(home)
    assert server is not None
    return server.pid


def test_the_engine_is_the_one_we_know_and_survives_stop_and_kill(home: Path) -> None:
    """Guard an upgrade of the engine: everything the store relies on, in one go."""
    bars = random_bars(1, 500, START)
    with embedded.open_store(home, grace_s=GRACE_S) as store:
        assert store.query("SELECT version() AS v")["v"].to_pylist() == ["26.9.2.1"]
        store.insert_bars(PERP, bars)
        with pytest.raises(StoreError):
            store.query("SELECT throwIf(number = 500000) FROM numbers(1000000)")
        assert store.query("SELECT toInt64(42) AS n")["n"].to_pylist() == [42]
        embedded.stop(home)
        assert_equal(bars, store.read_bars(PERP, 0, 2**40))  # a new server, found by the same store
        os.kill(pid_of(home), signal.SIGKILL)
        assert_equal(bars, store.read_bars(PERP, 0, 2**40))
        store.insert_bars(PERP, bars)
    eventually(lambda: embedded.status(home) is None)
    with embedded.open_store(home, grace_s=GRACE_S) as store:
        assert_equal(bars, store.read_bars(PERP, 0, 2**40))


def test_two_processes_share_one_server_and_the_last_one_out_ends_it(home: Path) -> None:
    with embedded.open_store(home, grace_s=GRACE_S) as store:
        store.put_config("who", "me")
        other = client(home)
        assert other.stdout is not None
        assert int(other.stdout.readline()) == pid_of(home)
        eventually(lambda: embedded.clients(home) == sorted([os.getpid(), other.pid]))
    said, _ = other.communicate()
    assert said == "('me', 1)\n"
    eventually(lambda: embedded.status(home) is None)
    assert not (home / "run" / "server.json").exists()
    assert list((home / "run" / "leases").iterdir()) == []


def test_many_first_commands_start_one_server(home: Path) -> None:
    others = [client(home) for _ in range(4)]
    pids = {other.stdout.readline() for other in others if other.stdout is not None}
    assert len(pids) == 1
    for other in others:
        other.communicate()
        assert other.returncode == 0


def test_a_command_that_comes_while_the_server_goes_gets_a_new_one(home: Path) -> None:
    for _ in range(3):
        with embedded.open_store(home, grace_s=0.0) as store:
            count = store.put_config("count", str(time.monotonic_ns()))
        # no waiting: the next one meets the server at some moment of its end
    assert count == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_end_of_one_client_leaves_the_server_to_the_others(home: Path, number: int) -> None:
    first = client(home)
    assert first.stdout is not None
    started = int(first.stdout.readline())
    with embedded.open_store(home, grace_s=GRACE_S) as store:
        os.killpg(first.pid, number)
        first.communicate()
        eventually(lambda: embedded.clients(home) == [os.getpid()])
        assert store.query("SELECT toInt64(1) AS n").num_rows == 1
        assert pid_of(home) == started
    eventually(lambda: embedded.status(home) is None)


def test_a_killed_client_does_not_keep_the_server(home: Path) -> None:
    only = client(home)
    assert only.stdout is not None
    only.stdout.readline()
    os.killpg(only.pid, signal.SIGKILL)
    only.communicate()
    eventually(lambda: embedded.status(home) is None)
    assert list((home / "run" / "leases").iterdir()) == []


def test_what_a_killed_server_left_behind_is_no_server(home: Path) -> None:
    (home / "run").mkdir(parents=True)
    for stale in ('{"port": 9, "pid": 1}', "{", "[]"):
        (home / "run" / "server.json").write_text(stale)
        assert embedded.status(home) is None
        with embedded.open_store(home, grace_s=GRACE_S) as store:
            assert store.query("SELECT toInt64(1) AS n").num_rows == 1
        embedded.stop(home)


@pytest.mark.parametrize("damage", ["", "{", "[]", None])
def test_a_running_server_mends_its_server_json(home: Path, damage: str | None) -> None:
    with embedded.open_store(home, grace_s=GRACE_S):
        started = pid_of(home)
        if damage is None:
            (home / "run" / "server.json").unlink()
        else:
            (home / "run" / "server.json").write_text(damage)
        with embedded.open_store(home, grace_s=GRACE_S):
            assert pid_of(home) == started


def test_killing_the_server_while_it_is_written_to_loses_and_doubles_nothing(home: Path) -> None:
    """Send batches blindly, in a random order and some twice, while the engine is killed again and again."""
    parts = [random_bars(seed, 40, START + 200 * seed) for seed in range(120)]
    rows = [random_rows(seed, 40, START + 200 * seed) for seed in range(120)]
    order = np.random.default_rng(3).permutation(np.repeat(np.arange(120), 2))
    killed: list[int] = []
    done = threading.Event()

    def killer() -> None:
        while len(killed) < 6 and not done.is_set():
            server = embedded.status(home)
            if server is not None and server.pid not in killed:
                time.sleep(0.15)  # let it be in the middle of something
                os.kill(server.pid, signal.SIGKILL)
                killed.append(server.pid)
            time.sleep(0.01)

    with embedded.open_store(home, grace_s=30.0) as store:
        thread = threading.Thread(target=killer)
        thread.start()
        try:
            for n in order.tolist():
                store.insert_bars(PERP, parts[n])
                store.insert_rows("BTC", rows[n])
        finally:
            done.set()
            thread.join()
        assert len(killed) >= 3
        assert_equal(concat(parts), store.read_bars(PERP, 0, 2**40))
        assert_equal(concat(rows), store.read_rows("BTC", 0, 2**40))
        total = store.query("SELECT sum(buy_volume) AS v, count() AS n FROM bars_1s FINAL").to_pylist()[0]
        assert total == {"v": int(concat(parts).buy_volume.sum()), "n": 4800}
        store.compact(dt.date(2024, 8, 8))
        assert_equal(concat(parts), store.read_bars(PERP, 0, 2**40))


def test_any_server_can_be_used_by_its_address(home: Path) -> None:
    with (
        embedded.open_store(home, grace_s=GRACE_S) as store,
        Store.connect(store._connection.locate(), "elsewhere") as other,
    ):
        other.put_config("a", "b")
        assert store.config("a") is None
        assert other.config("a") == ("b", 1)


def test_a_proxy_in_the_environment_is_not_asked_for_loopback(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with embedded.open_store(home, grace_s=GRACE_S) as store:
        assert store.config("a") is None


def test_a_forked_process_connects_anew(home: Path) -> None:
    with embedded.open_store(home, grace_s=GRACE_S) as store:
        store.put_config("a", "b")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of any fork beside threads
            child = os.fork()
        if child == 0:
            os._exit(0 if store.config("a") == ("b", 1) else 1)
        assert store.config("a") == ("b", 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_home_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match=r"home directory was .*file.*name another with --home"):
        embedded.open_store(tmp_path / "file" / "home")


def test_data_that_another_program_has_open_are_explained(home: Path) -> None:
    (home / "data").mkdir(parents=True)
    with (home / "data" / "status").open("w") as status:
        fcntl.flock(status, fcntl.LOCK_EX)
        with pytest.raises(EmbeddedError, match="another program has it open"):
            embedded.open_store(home)


def test_a_missing_engine_says_how_to_get_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "chdb", None)
    with pytest.raises(EmbeddedError, match=r"make venv, or pip install 'squeezecore\[embedded\]'"):
        embedded.open_store(home)


def test_a_processor_that_is_too_old_is_explained(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu sse2 avx\n")
    with pytest.raises(EmbeddedError, match="without AVX2"):
        embedded._check_engine(tmp_path / "cpuinfo")


def test_an_engine_that_will_not_start_shows_what_it_said(home: Path) -> None:
    with embedded.open_store(home, grace_s=GRACE_S):
        pass
    embedded.stop(home)
    (home / "data" / "metadata" / "squeeze.sql").write_text("not SQL at all")
    with pytest.raises(EmbeddedError, match=r"server\.log says: .*squeeze"):
        embedded.open_store(home)


def test_a_store_that_could_not_be_opened_holds_no_lease(home: Path) -> None:
    with embedded.open_store(home, grace_s=GRACE_S) as store:
        store.command("INSERT INTO schema_version VALUES (999, 'from the future')")
        with pytest.raises(StoreError, match="version 999"):
            embedded.open_store(home)
        assert len(embedded.clients(home)) == 1


def test_server_json_names_port_and_process(home: Path) -> None:
    with embedded.open_store(home, grace_s=GRACE_S):
        server = embedded.status(home)
        assert server is not None
        assert json.loads((home / "run" / "server.json").read_text()) == {"port": server.port, "pid": server.pid}
        os.kill(server.pid, 0)
