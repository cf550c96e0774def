"""`download`: an asset's files from a venue's public archive, verified and resumable, then imported.

A file is fetched beside its final name and moved there when its checksum holds, so what has its name is whole. A run that
was cut goes on where it was: whole files are not asked for again, half ones from the byte they had reached.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
import msgspec

from squeezecore.adapters import archive
from squeezecore.adapters.archive import FileRefusedError
from squeezecore.adapters.assets import find_asset
from squeezecore.adapters.importing import ImportReport, import_paths
from squeezecore.adapters.operations import Progress, Report, silent
from squeezecore.adapters.operations import assets as assets_in_force
from squeezecore.adapters.reading import instrument_of
from squeezecore.adapters.store import Store
from squeezecore.errors import SqueezeError, UsageError
from squeezecore.market import Instrument, Kind
from squeezecore.spec import AssetConfig
from squeezecore.venues import ArchiveFile, venue
from squeezecore.venues.binance import ARCHIVE

CONNECTIONS = 4  # files fetched at once
TRIES = 5  # of one file, each after a pause twice as long
PAUSE_S = 0.5
TIMEOUT_S = 30.0  # without a byte
DAYS_MAX = 3_660


class DownloadError(SqueezeError):
    """The archive cannot be reached, or gives something else than it promises; what was fetched is kept."""


class Outcome(StrEnum):
    """What became of a planned file."""

    FETCHED = "fetched"
    HERE = "here"  # was whole already
    ABSENT = "absent"  # the archive has no such file


class DownloadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a download did."""

    base_url: str
    dest: str
    planned: int
    fetched: int
    here: int
    bytes: int  # that came over the network
    absent: tuple[str, ...]  # paths that the archive does not have
    imported: ImportReport


class _Fetched(NamedTuple):
    outcome: Outcome
    bytes: int


def download(
    store: Store,
    venue_name: str,
    asset: str,
    first: dt.date,
    last: dt.date,
    dest: Path,
    base_url: str = ARCHIVE,
    progress: Report = silent,
    assets: Mapping[str, AssetConfig] | None = None,
    pause_s: float = PAUSE_S,
    scratch: Path | None = None,
) -> DownloadReport:
    """Fetch what an asset's markets need from `first` to `last`, verify it, and import it.

    Args:
        store: where to.
        venue_name: whose archive.
        asset: whose markets, as the asset list says.
        first: first day, UTC.
        last: last day.
        dest: where the files are kept, in the archive's own folders.
        base_url: where the archive lies; a copy of its layout works too.
        progress: told how many files are there.
        assets: the asset list; the store's by default.
        pause_s: before the second try of a file.
        scratch: as `import_paths` takes it.

    Raises:
        UsageError: an unknown venue or asset, an impossible range, or nothing is published for it.
        DownloadError: the archive cannot be reached, or a file does not match its checksum.
        ImportRefusedError: a file was fetched and could not be imported.
    """
    if urlsplit(base_url).scheme not in {"http", "https"} or not urlsplit(base_url).hostname:
        raise UsageError(f"address was {base_url!r}, it must look like {ARCHIVE}")
    if dest.exists() and not dest.is_dir():
        raise UsageError(f"folder for the files was {dest}, which is a file: name another")
    known = dict(assets if assets is not None else assets_in_force(store))
    files = list(plan(venue_name, find_asset(known, asset), store.instruments(), first, last))
    got = _fetch_all(base_url.rstrip("/"), files, dest, progress, pause_s)
    here = [dest / path for path in files if got[path].outcome is not Outcome.ABSENT]
    absent = tuple(path for path in files if got[path].outcome is Outcome.ABSENT)
    if not here:
        raise UsageError(
            f"range was {first} to {last}, {base_url} has none of the {len(files)} files of {asset} for it: "
            "a day is published on the next one, a month on the first day of the next"
        )
    imported = import_paths(store, here, progress=progress, assets=known, scratch=scratch)
    outcomes = [fetched.outcome for fetched in got.values()]
    return DownloadReport(
        base_url=base_url,
        dest=str(dest),
        planned=len(files),
        fetched=outcomes.count(Outcome.FETCHED),
        here=outcomes.count(Outcome.HERE),
        bytes=sum(fetched.bytes for fetched in got.values()),
        absent=absent,
        imported=imported,
    )


def plan(
    venue_name: str, config: AssetConfig, known: Mapping[str, Instrument], first: dt.date, last: dt.date
) -> Iterator[str]:
    """Yield the archive's paths that a range of days needs: aggregates and open interest a day, funding a month."""
    rules = venue(venue_name)
    if last < first or (last - first).days >= DAYS_MAX:
        raise UsageError(f"range was {first} to {last}, it must end after it begins and have at most {DAYS_MAX} days")
    days = [first + dt.timedelta(n) for n in range((last - first).days + 1)]
    months = sorted({f"{day:%Y-%m}" for day in days})
    mine = [market.instrument for market in config.markets if market.instrument.startswith(venue_name + ":")]
    if not mine:
        raise UsageError(f"venue was {venue_name}, none of the asset's markets trades there: see squeezeflow assets")
    for name in mine:
        instrument = known.get(name) or instrument_of(name)
        if instrument is None:
            raise UsageError(
                f"instrument {name} is not known well enough to find its files: import some of its trades first"
            )
        kinds = [("aggTrades", [f"{day}" for day in days])]
        if instrument.kind is Kind.PERP:
            kinds += [("fundingRate", months), ("metrics", [f"{day}" for day in days])]
        for kind, periods in kinds:
            for period in periods:
                yield rules.archive_path(
                    ArchiveFile(
                        section=instrument.section, kind=kind, native_symbol=instrument.native_symbol, period=period
                    )
                )


# --- fetching ---------------------------------------------------------------------------------------------------------


def _fetch_all(base_url: str, files: list[str], dest: Path, progress: Report, pause_s: float) -> dict[str, _Fetched]:
    """Fetch files, a few at a time; the first one that cannot be had ends it."""
    got: dict[str, _Fetched] = {}
    stop = threading.Event()
    loopback = urlsplit(base_url).hostname in {"127.0.0.1", "localhost", "::1"}
    with (
        httpx.Client(timeout=TIMEOUT_S, follow_redirects=True, trust_env=not loopback) as client,
        ThreadPoolExecutor(CONNECTIONS) as pool,
    ):
        waiting = {
            pool.submit(_with_tries, client, f"{base_url}/{path}", dest / path, pause_s, stop): path for path in files
        }
        try:
            for done in as_completed(waiting):
                got[waiting[done]] = done.result()
                progress(Progress(f"fetching {waiting[done].rsplit('/', 1)[-1]}", len(got), len(files), "files"))
        except DownloadError as error:
            raise DownloadError(
                f"{error}; {len(got)} of {len(files)} files are in {dest}: run it again to go on"
            ) from error
        finally:
            stop.set()
            for future in waiting:
                future.cancel()
    return got


def _with_tries(client: httpx.Client, url: str, path: Path, pause_s: float, stop: threading.Event) -> _Fetched:
    """Fetch one file, again after a while when the network or the archive fails."""
    if _is_whole(path):
        return _Fetched(Outcome.HERE, 0)
    error: Exception | None = None
    for attempt in range(TRIES):
        if attempt and stop.wait(pause_s * 2 ** (attempt - 1)):
            break
        if stop.is_set():
            break
        try:
            return _fetch(client, url, path)
        except (httpx.TransportError, _TryAgainError) as failure:
            error = failure
    raise DownloadError(_explained(url, error))


class _TryAgainError(Exception):
    """The archive answered, but not with the file."""


def _explained(url: str, error: Exception | None) -> str:
    host = urlsplit(url).netloc
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
        return f"{host} cannot be reached ({error}): is there a connection to the internet?"
    return f"{url} could not be fetched in {TRIES} tries ({error or 'stopped'})"


def _is_whole(path: Path) -> bool:
    """Say whether a file is here and matches the checksum beside it."""
    if not path.exists() or not path.with_name(path.name + ".CHECKSUM").exists():
        return False
    try:
        return archive.verify_checksum(path, archive.sha256(path))
    except FileRefusedError:
        return False


def _fetch(client: httpx.Client, url: str, path: Path) -> _Fetched:
    """Fetch a file and its checksum, from where an earlier try had stopped; move it to its name when it is whole."""
    answer = client.get(url + ".CHECKSUM")
    if answer.status_code == httpx.codes.NOT_FOUND:
        return _Fetched(Outcome.ABSENT, 0)
    if answer.status_code != httpx.codes.OK:
        raise _TryAgainError(f"{url}.CHECKSUM answered {answer.status_code}")
    expected = (answer.text.split() or [""])[0].lower()
    path.parent.mkdir(parents=True, exist_ok=True)
    checksum = path.with_name(path.name + ".CHECKSUM")
    part = path.with_name(path.name + ".part")
    came = _continue(client, url, part)
    if came is None:
        return _Fetched(Outcome.ABSENT, 0)
    actual = archive.sha256(part)
    if actual != expected:
        part.unlink()
        raise _TryAgainError(f"its sha256 is {actual}, the archive says {expected}")
    checksum.write_text(answer.text, "utf-8")
    part.replace(path)
    return _Fetched(Outcome.FETCHED, came)


def _continue(client: httpx.Client, url: str, part: Path) -> int | None:
    """Append what is missing to a half file; return how many bytes came, None when the archive has no such file."""
    have = part.stat().st_size if part.exists() else 0
    with client.stream("GET", url, headers={"Range": f"bytes={have}-"} if have else {}) as answer:
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return 0  # it was whole; the checksum decides
        if answer.status_code not in {httpx.codes.OK, httpx.codes.PARTIAL_CONTENT}:
            raise _TryAgainError(f"it answered {answer.status_code}")
        came = 0
        with part.open("ab" if answer.status_code == httpx.codes.PARTIAL_CONTENT else "wb") as file:
            for piece in answer.iter_raw():
                file.write(piece)
                came += len(piece)
    return came
