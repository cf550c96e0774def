"""The downloader against a loopback copy of the archive's layout: verified, resumable, patient, and honest offline."""

import datetime as dt
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from services import archive_faults as faults
from services.archive_faults import prints, publish
from squeezecore.adapters.download import DownloadError, download
from squeezecore.adapters.store import Store
from squeezecore.errors import UsageError
from squeezecore.spec import day_start_s

DAY, NEXT = dt.date(2026, 1, 1), dt.date(2026, 1, 2)
PERP, SPOT, COIN = "binance:BTC-USDT-PERP", "binance:BTC-USDT", "binance:BTC-USD-PERP"


class Archive(ThreadingHTTPServer):
    """Serves a folder as the archive does, with `Range`; can fail, and can cut answers short."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.asked: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.failures: Counter[str] = Counter()  # suffix → how many answers are 503 yet
        self.cuts: Counter[str] = Counter()  # suffix → how many answers end half way

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Archive

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        server, file = self.server, self.server.root / self.path.lstrip("/")
        server.asked[self.path] += 1
        for suffix in [s for s, n in server.failures.items() if n and self.path.endswith(s)]:
            server.failures[suffix] -= 1
            self.send_error(503)
            return
        if not file.is_file():
            self.send_error(404)
            return
        data, start = file.read_bytes(), 0
        if "Range" in self.headers:
            server.ranges.append(self.headers["Range"])
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        cut = [s for s, n in server.cuts.items() if n and self.path.endswith(s)]
        if cut:
            server.cuts[cut[0]] -= 1
            self.wfile.write(data[start : start + (len(data) - start) // 2])
            self.close_connection = True
            return
        self.wfile.write(data[start:])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Archive]:
    """Give a copy of the archive with two days of all that BTC needs."""
    root = tmp_path / "archive"
    for market, first_id in (("spot", 100), ("um", 10_000), ("cm", 900_000)):
        for n, day in enumerate((DAY, NEXT)):
            rows = prints(300, day_start_s(day), 86_400, first_id=first_id + 300 * n, seed=first_id + n)
            if market == "cm":
                rows = [p._replace(qty=str(1 + k % 9)) for k, p in enumerate(rows)]
            text = faults.file_text("aggTrades", market, rows, header=market != "spot")
            publish(root, market, "aggTrades", str(day), text, checksum=True)
            if market != "spot":
                lines = [faults.HEADERS["metrics"]]
                lines += [
                    f"{day} {m // 60:02}:{m % 60:02}:00,BTCUSDT,{80_000 + m},{1000 + m},1,1,1,1"
                    for m in range(0, 1440, 5)
                ]
                publish(root, market, "metrics", str(day), "\n".join(lines).encode(), checksum=True)
    for market in ("um", "cm"):
        start = day_start_s(DAY)
        text = "\n".join(
            [faults.HEADERS["fundingRate"], *(f"{(start + 28_800 * k) * 1000 + 3},8,0.0001" for k in range(6))]
        )
        publish(root, market, "fundingRate", "2026-01", text.encode(), checksum=True)
    archive = Archive(root)
    thread = threading.Thread(target=archive.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield archive
    archive.shutdown()
    thread.join()
    archive.server_close()


def fetch(store: Store, server: Archive, tmp_path: Path, last: dt.date = NEXT):
    return download(store, "binance", "BTC", DAY, last, tmp_path / "kept", server.url, pause_s=0.001)


def test_an_asset_is_fetched_verified_and_imported(store: Store, server: Archive, tmp_path: Path) -> None:
    report = fetch(store, server, tmp_path)
    assert (report.planned, report.fetched, report.here, report.absent) == (12, 12, 0, ())
    assert all(file.checksum_verified for file in report.imported.files)
    assert {(c.name, c.trades) for c in store.coverage()} == {(name, 300) for name in (PERP, SPOT, COIN)}
    assert store.gaps() == []
    assert len(store.read_funding(PERP, 0, 2**32 - 1).event_ts) == 6
    assert len(store.read_open_interest(PERP, 0, 2**32 - 1).known_at) == 2 * 288
    rows = store.read_rows("BTC", day_start_s(DAY), day_start_s(NEXT) + 86_400)
    assert rows.open_interest[-1] == (80_000 + 1435) * 10**8
    assert rows.funding_rate_8h[-1] == 1_000_000


def test_what_is_here_is_not_fetched_again(store: Store, server: Archive, tmp_path: Path) -> None:
    fetch(store, server, tmp_path, DAY)
    server.asked.clear()
    report = fetch(store, server, tmp_path, DAY)
    assert (report.fetched, report.here, report.bytes) == (0, report.planned, 0)
    assert not server.asked
    assert all(file.already_imported for file in report.imported.files)


def test_an_answer_that_is_cut_is_continued_where_it_ended(store: Store, server: Archive, tmp_path: Path) -> None:
    server.cuts["BTCUSDT-aggTrades-2026-01-01.zip"] = 2
    report = fetch(store, server, tmp_path, DAY)
    assert report.fetched == report.planned
    assert server.ranges
    assert all(not r.startswith("bytes=0-") for r in server.ranges)


def test_an_archive_that_fails_for_a_while_is_asked_again(store: Store, server: Archive, tmp_path: Path) -> None:
    server.failures[".zip"] = 6
    server.failures[".CHECKSUM"] = 3
    assert fetch(store, server, tmp_path, DAY).fetched == 7


def test_a_file_that_does_not_match_its_checksum_is_not_imported(store: Store, server: Archive, tmp_path: Path) -> None:
    path = server.root / "data/spot/daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2026-01-01.zip"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DownloadError, match="sha256"):
        fetch(store, server, tmp_path, DAY)
    assert store.coverage() == []


def test_a_file_damaged_on_disk_is_fetched_anew(store: Store, server: Archive, tmp_path: Path) -> None:
    fetch(store, server, tmp_path, DAY)
    kept = tmp_path / "kept/data/spot/daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2026-01-01.zip"
    kept.write_bytes(b"PK nonsense")
    report = fetch(store, server, tmp_path, DAY)
    assert (report.fetched, report.here) == (1, report.planned - 1)


def test_days_that_are_not_published_are_named(store: Store, server: Archive, tmp_path: Path) -> None:
    report = download(store, "binance", "BTC", NEXT, dt.date(2026, 1, 3), tmp_path / "kept", server.url)
    assert len(report.absent) == 5
    assert all("2026-01-03" in path for path in report.absent)
    with pytest.raises(UsageError, match="has none of the"):
        download(store, "binance", "BTC", dt.date(2030, 1, 1), dt.date(2030, 1, 1), tmp_path / "kept", server.url)


def test_without_a_connection_it_says_so(store: Store, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(DownloadError, match=r"cannot be reached.*internet"):
        download(store, "binance", "BTC", DAY, DAY, tmp_path / "kept", url, pause_s=0.001)


def test_what_cannot_be_planned_is_refused(store: Store, server: Archive, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean BTC"):
        download(store, "binance", "BTCC", DAY, DAY, tmp_path, server.url)
    with pytest.raises(UsageError, match="venue was"):
        download(store, "binanse", "BTC", DAY, DAY, tmp_path, server.url)
    with pytest.raises(UsageError, match="must end after"):
        download(store, "binance", "BTC", NEXT, DAY, tmp_path, server.url)
