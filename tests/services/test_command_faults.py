"""What a person can do wrong, and what can happen to a command: each ends in one sentence and a code, nothing is lost."""

import contextlib
import datetime as dt
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from services.archive_faults import file_text, prints, publish
from squeezecore.adapters import embedded
from squeezecore.market import DAY_S
from squeezecore.spec import day_start_s
from support.command import Market, Said, days_of, eventually, interrupted, processes_of, simulated

RANGE = ("--from", "2026-01-03", "--to", "2026-01-05")
BACKTEST = ("backtest", "BTC", *RANGE)
EXPORT = ("data", "export", "rows", "BTC", "--from", "2026-01-03", "--to", "2026-01-04", "--out")
PERP = "binance:BTC-USDT-PERP"


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """Give five simulated days of BTC and a finished run."""
    with simulated(tmp_path_factory.mktemp("home"), "BTC", 5) as made:
        made.do(*BACKTEST)
        yield made


def refused(said: Said, code: int, *words: object) -> None:
    """Assert that a command ended with one sentence that holds these words."""
    assert said.code == code, said
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err
    assert said.err.count("\n") == 1, said.err
    for word in words:
        assert str(word) in said.err, word


# --- wrong requests: the value, the limit, what to do ---


@pytest.mark.parametrize(
    ("code", "words", "told"),
    [
        (2, "backtest BTX --from 2026-01-03 --to 2026-01-05", "'BTX' | did you mean BTC?"),
        (2, "backtest SHIB --from 2026-01-03 --to 2026-01-05", "'SHIB' | known are BTC, DOGE, ETH, SOL, XRP"),
        (42, "backtest ETH --from 2026-01-03 --to 2026-01-05", "holds nothing of binance:ETH-USDT-PERP | known are BTC"),
        (43, "backtest BTC --from 2026-01-05 --to 2026-01-03", "2026-01-05 to 2026-01-03 | swap them"),
        (42, "backtest BTC --from 2027-01-03 --to 2027-01-05", "no row in it | to 2026-01-05"),
        (43, "backtest BTC BTC --from 2026-01-03 --to 2026-01-05", "BTC, BTC | remove the repeated one"),
        (2, "backtest BTC --from 0001-01-01 --to 9999-12-31", "--from was '0001-01-01' | 1970 and 2105"),
        (2, "flow BTC --from 2026-01-03 --to 9999-01-03", "--to was '9999-01-03' | 1970 and 2105"),
        (2, "backtest BTC,BTX --from 2026-01-03 --to 2026-01-05", "'BTX' | did you mean BTC?"),
        (2, "data export bars binance:btc-usdt-perp --from 2026-01-03 --to 2026-01-04 --out x.csv", f"did you mean {PERP}?"),
        (2, "data export rows BTC --from 2026-01-03 --to 2026-01-04 --out .", "file was . | .parquet or .csv"),
        (2, "simulate --assets ,", "--assets was ',' | at least one"),
        (2, "simulate --start 2099-12-31 --days 3660", "3660 | ends with 2105-12-31"),
        (2, "params --out nowhere/mine.toml", "nowhere/mine.toml | choose another place"),
        (2, "assets --set /dev/null", "/dev/null names no asset"),
        (2, "download binance BTC --from 2026-01-03 --to 2026-01-04 --base-url nonsense", "'nonsense' | https://"),
        (2, "download binance BTC --from 2026-01-03 --to 2026-01-04 --dest /dev/null", "/dev/null | is a file"),
        (2, "backtest BTC --from yesterday --to 2026-01-05", "--from was 'yesterday' | write it as 2026-01-31"),
        (2, "backtest BTC --from 2026-01-03 --to 2026-02-30", "--to was '2026-02-30' | write it as 2026-01-31"),
        (2, "backtest BTC --from 2026-01-03", "--to"),
        (2, "bactest BTC", "'bactest' | 'backtest'"),
        (2, "backtest BTC --from 2026-01-03 --to 2026-01-05 --shard 2", "--shard | --shards"),
        (2, "explain last 999", "trade was 999 | choose 1 to"),
        (2, "explain feedbeef 1", "'feedbeef' | squeezeflow runs lists all"),
        (2, "explain last", "explain last 1 | explain BTC --at TIME"),
        (2, "explain BTC --at noon", "'noon' | 2026-01-31T12:00:00"),
        (42, "explain BTC --at 2027-01-04T12:00:00", "BTC has rows from | T23:59:59Z"),
        (2, "data --name XYZ", "'XYZ' | known are BTC"),
        (2, "data export rowz BTC --from 2026-01-03 --to 2026-01-04 --out x.csv", "'rowz' | bars or rows"),
        (2, "data export bars binance:BTC-USDT-PERB --from 2026-01-03 --to 2026-01-04 --out x.csv", f"did you mean {PERP}?"),
        (2, f"data export bars {PERP} --from 2026-01-03 --to 2026-01-04 --every 2m --out x.csv", "'2m' | 1s, 1m, 5m, 1h"),
        (2, "data export rows BTC --from 2026-01-03 --to 2026-01-04 --every 1m --out x.csv", "every was 1m | export bars"),
        (2, "flow BTC --from 2026-01-03 --to 2026-01-03", "range was 0 s | move --from or --to"),
        (2, "simulate --world calm", "'calm' | noise, squeeze"),
        (2, "simulate --days 9999", "9999 | <= 3660"),
        (2, "simulate --assets BTX", "'BTX' | did you mean BTC?"),
        (2, "import nowhere.zip", "nowhere.zip | name a file or a folder"),
        (2, "assets --set nowhere.toml", "nowhere.toml | name one that exists"),
        (2, "download kraken BTC --from 2026-01-03 --to 2026-01-04", "'kraken' | binance"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_told_value_limit_and_way_out(
    market: Market, tmp_path: Path, code: int, words: str, told: str
) -> None:
    refused(market.say(*words.split(), cwd=tmp_path), code, *told.split(" | "))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "flag", "told"),
    [
        (43, "--set entry_scor=5", "'entry_scor' | did you mean entry_score?"),
        (43, "--set entry_score=99", "entry_score was 99 | <= 10"),
        (43, "--set cooldown_s=1.5", "cooldown_s was 1.5 | a whole number"),
        (43, "--set entry_score=true", "entry_score was True | a number"),
        (43, "--set entry_score=nan", "entry_score was nan | <= 10"),
        (2, "--set entry_score=high", "'entry_score=high' | name=number"),
        (2, "--set entry_score", "'entry_score' | name=number"),
        (43, "--cost taker_fee=400", "'taker_fee' | did you mean taker_fee_ppm?"),
        (43, "--cost taker_fee_ppm=999999", "costs.taker_fee_ppm was 999999 | <= 10000"),
        (43, "--limit leverage_max=0", "limits.leverage_max was 0 | > 0"),
        (43, "--capital 1", "capital_usd was 1 | >= 100"),
        (2, "--capital plenty", "--capital | integer"),
        (43, "--warmup-hours 1000", "warmup_s was 3600000 | <= 604800"),
        (2, "--warmup-hours inf", "--warmup-hours was inf | 28"),
        (2, "--out /dev/null", "/dev/null | name a folder"),
        (2, "--jobs -1", "--jobs | 0"),
        (2, "--shards -1", "--shards | 0"),
        (2, "--params nowhere.toml", "nowhere.toml | squeezeflow params --out FILE makes one"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_told_value_limit_and_way_out(market: Market, code: int, flag: str, told: str) -> None:
    refused(market.say(*BACKTEST, *flag.split()), code, *told.split(" | "))


@pytest.mark.parametrize(
    ("code", "text", "told"),
    [
        (43, b"# mine\nentry_score = 5\nentry_scor = 4\n", "line 3 | 'entry_scor' | did you mean entry_score?"),
        (43, b"cooldown_s = 5\nentry_score = 'high'\n", "line 2 | 'high' | a number"),
        (43, b"entry_score = 11\n", "line 1 | entry_score was 11 | <= 10"),
        (43, b"entry_score = 5\ncooldown_s 600\n", "line 2 | field = number"),
        (2, b"\xff\xfe", "cannot be read | squeezeflow params --out FILE makes one"),
    ],
)
def test_a_broken_parameters_file_is_told_by_line(
    market: Market, tmp_path: Path, code: int, text: bytes, told: str
) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(text)
    refused(market.say(*BACKTEST, "--params", file), code, file, *told.split(" | "))


@pytest.mark.parametrize(
    ("name", "code", "told"), [("rows.xlsx", 2, ".parquet or .csv"), ("rows.csv", 42, "no second")]
)
def test_a_refused_export_leaves_no_file(market: Market, tmp_path: Path, name: str, code: int, told: str) -> None:
    words = [word.replace("2026", "2028") for word in EXPORT]
    refused(market.say(*words, tmp_path / name), code, told)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_store_says_what_to_do_next(tmp_path: Path) -> None:
    with embedded.open_store(tmp_path / "home", grace_s=0.2) as store:
        empty = Market(tmp_path / "home", store)
        assert "squeezeflow import PATH" in empty.do("data")
        refused(empty.say(*BACKTEST), 42, "the store is empty: import or simulate first")
        refused(empty.say("explain", "last", 1), 2, "squeezeflow backtest makes one")
    embedded.stop(tmp_path / "home")


def test_a_corrupt_zip_is_refused_and_leaves_nothing(market: Market, tmp_path: Path) -> None:
    start = day_start_s(dt.date(2025, 5, 5))
    text = file_text("aggTrades", "um", prints(500, start, DAY_S))
    path = publish(tmp_path, "um", "aggTrades", "2025-05-05", text)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    before = market.ask("data", "--name", PERP)
    refused(market.say("import", path), 2, path, "download it again", "nothing of this file was imported")
    assert market.ask("data", "--name", PERP)["instruments"] == before["instruments"]
    path.write_bytes(whole)
    assert [file["rows"] for file in market.ask("import", path)["files"]] == [500]
    assert len(market.store.read_bars(PERP, start, start + DAY_S).ts) == DAY_S


def test_an_import_clears_away_what_a_killed_one_left_in_the_home(market: Market, tmp_path: Path) -> None:
    folder = market.home / "run" / "scratch"
    dead = folder / "squeezeflow-4194305-0badcafe"
    dead.mkdir(parents=True)
    (dead / "bars-0.npy").write_bytes(b"half")
    dead.with_suffix(".lock").touch()
    text = file_text("aggTrades", "um", prints(50, day_start_s(dt.date(2025, 4, 4)), 60))
    market.do("import", publish(tmp_path, "um", "aggTrades", "2025-04-04", text))
    assert list(folder.iterdir()) == []


# --- holes ---


def test_a_hole_is_said_counted_and_warmed_up_after(market: Market) -> None:
    whole = market.ask(*BACKTEST)
    start = day_start_s(dt.date(2026, 1, 4)) + 6 * 3600
    rows = market.store.read_rows("BTC", start, start + 3600)
    market.store.drop_rows("BTC", start, start + 3600)
    try:
        holed = market.ask(*BACKTEST)
        text = market.do(*BACKTEST)
        trades = market.store.trades(holed["run_id"])
        refused(market.say("explain", "BTC", "--at", "2026-01-04T06:30:00"), 42, "no row there", "2026-01-04T05:59:59Z")
    finally:
        market.store.insert_rows("BTC", rows, replace=True)
    assert not holed["cached"]
    assert any("missing on 2026-01-04" in warning for warning in holed["warnings"])
    assert holed["summary"]["holes"] == 1
    assert holed["summary"]["seconds"] == 3 * DAY_S - 3600
    assert "1 holes" in text
    assert "squeezeflow data" in text
    entries = [trade.entry_ts for trade in trades]
    assert any(ts < start for ts in entries)
    assert not any(start <= ts < start + 29 * 3600 for ts in entries)
    assert not any(trade.entry_ts < start < trade.exit_ts - 1 for trade in trades)
    restored = market.ask(*BACKTEST)
    assert restored["result_hash"] == whole["result_hash"]
    assert restored["summary"]["holes"] == 0


def test_a_start_without_warm_up_is_said_and_does_not_trade(market: Market) -> None:
    answer = market.ask("backtest", "BTC", "--from", "2026-01-01", "--to", "2026-01-02")
    assert any("nothing trades before 28 hours" in warning for warning in answer["warnings"])
    begun = day_start_s(dt.date(2026, 1, 1)) + 28 * 3600
    assert all(trade.entry_ts >= begun for trade in market.store.trades(answer["run_id"]))


# --- a full disk ---


@contextlib.contextmanager
def _small_files(_folder: Path) -> Iterator[dict[str, object]]:
    """Let the command write no file longer than 2 kB: it meets the same refusal, without root.

    Python before 3.14 keeps a compiled module of which only the first bytes could be written (its write checks no
    count), so a module first imported here would be broken for every later command: this one must not write any.
    """
    yield {
        "preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048)),
        "extra": {"PYTHONDONTWRITEBYTECODE": "1"},
    }


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[dict[str, object]]:
    """Mount a disk of 16 kB, where that is allowed."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs rights this process lacks; the other case needs none")
    try:
        yield {}
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("shortage", [_small_files, _small_disk])
def test_a_full_disk_loses_no_run(
    market: Market, tmp_path: Path, shortage: Callable[[Path], contextlib.AbstractContextManager[dict[str, object]]]
) -> None:
    words = (*BACKTEST, "--set", "cooldown_s=301", "--fresh", "--out", tmp_path / "full" / "out")
    with shortage(tmp_path / "full") as options:
        said = market.say(*words, **options)
        assert said.code == 1
        assert "could not be written to" in said.err
        assert "run the same command again" in said.err
        left = [path.name for path in (tmp_path / "full").rglob("*") if path.is_file()]
        assert not any(name.endswith(".partial") for name in left)
        assert "result.json" not in left
    again = market.ask(*words[:-3], "--out", tmp_path / "enough")
    assert again["cached"]
    assert len(list((tmp_path / "enough").iterdir())) == 7


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_full_disk_leaves_no_half_export(market: Market, tmp_path: Path, kind: str) -> None:
    with _small_files(tmp_path) as options:
        refused(market.say(*EXPORT, tmp_path / f"rows.{kind}", **options), 1, "could not be written", "free space")
    assert list(tmp_path.iterdir()) == []
    assert market.ask(*EXPORT, tmp_path / f"rows.{kind}")["rows"] == DAY_S


def test_a_disk_that_fills_while_a_file_is_read_is_said(market: Market, tmp_path: Path) -> None:
    text = file_text("aggTrades", "um", prints(500, day_start_s(dt.date(2025, 6, 6)), DAY_S))
    path = publish(tmp_path, "um", "aggTrades", "2025-06-06", text)
    before = market.ask("data", "--name", PERP)
    with _small_files(tmp_path) as options:
        refused(market.say("import", path, **options), 1, path, "nothing of this file was imported", "free some space")
    assert market.ask("data", "--name", PERP)["instruments"] == before["instruments"]
    assert list((market.home / "run" / "scratch").iterdir()) == []


def test_a_module_that_a_full_disk_cut_short_is_said(market: Market, tmp_path: Path) -> None:
    extra = {"PYTHONPYCACHEPREFIX": str(tmp_path)}
    assert market.say("data", extra=extra).code == 0
    (compiled,) = tmp_path.rglob("squeezecore/adapters/operations.*.pyc")
    compiled.write_bytes(compiled.read_bytes()[:2048])
    said = market.say("data", extra=extra)
    assert (said.code, said.out) == (1, "")
    assert all(word in said.err for word in ("error: ", "cut short", "delete", str(tmp_path)))
    assert "stopped" not in said.err


def test_a_server_that_is_not_there_is_said(market: Market) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens: refused at once
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/db"
        refused(market.say("--clickhouse", address, "data"), 1, "cannot be reached", "refused", "mend its address")


# --- stopped and killed ---


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_stopped_run_goes_on_where_it_was(market: Market, number: int, code: int, jobs: int) -> None:
    plan = ("backtest", "BTC", "--from", "2026-01-01", "--to", "2026-01-05", "--shards", 5, "--jobs", jobs)
    said, run_id, words = interrupted(
        market, number, 5, lambda attempt: (*plan, "--set", f"cooldown_s={10 * number + 1000 * jobs + attempt}")
    )
    assert said.code == code
    assert "Traceback" not in said.err
    if number == signal.SIGINT:
        assert "the same command again goes on from there" in said.err
    eventually(lambda: embedded.clients(market.home) == [os.getpid()])  # no worker is left behind
    kept = days_of(market.store, run_id)
    resumed = market.ask(*words)
    assert (resumed["run_id"], resumed["cached"]) == (run_id, False)
    days = days_of(market.store, run_id)
    assert 1 <= len(kept) <= len(days) == 5
    assert {day: days[day].timings for day in kept} == {day: kept[day].timings for day in kept}  # not scanned again
    fresh = market.ask(*words, "--fresh", "--shards", 1)
    assert fresh["result_hash"] == resumed["result_hash"]
    assert fresh["summary"] == resumed["summary"]


def test_a_killed_worker_is_said_and_the_run_goes_on(market: Market) -> None:
    words = ("backtest", "BTC", "--from", "2026-01-01", "--to", "2026-01-05", "--shards", 5, "--jobs", 2)
    process = market.start(*words, "--set", "cooldown_s=302")
    workers: list[psutil.Process] = []

    def found() -> bool:
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(process.pid)
            workers[:] = [each for child in parent.children() for each in child.children()]
        return len(workers) > 0

    assert eventually(found, process)
    workers[0].kill()
    said = Said(process.wait(), *process.communicate())
    refused(said, 1, "a scanning process was killed", "run the same command again")
    eventually(lambda: processes_of(process) == [])
    resumed = market.ask(*words, "--set", "cooldown_s=302")
    fresh = market.ask(*words[:-4], "--set", "cooldown_s=302", "--fresh")
    assert resumed["result_hash"] == fresh["result_hash"]
