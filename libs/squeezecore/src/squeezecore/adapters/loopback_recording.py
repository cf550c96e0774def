"""Recorded frames on disk: how ingest's recorder writes them, and how they are read again.

    <dir>/manifest.json                              what this is
    <dir>/binance-20260101T12-<first ns>.jsonl.gz    an hour of one recorder: `<received ns> <section> <frame>` a line
    <dir>/binance.linear.btcusdt.20240808.recvts_json.gz    `<received ns> <frame>`, as others publish recordings

A section may be followed by `:name` for the body of a REST answer, such as `linear:openInterest`. A frame that would break its
line, or begins with `!`, is written as `!` and its base64. Files grow by whole gzip members, so a crash costs what was not
flushed and nothing before it; a torn end is passed over when read. The hour is that of `received_ns`: nothing here knows a clock.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import datetime as dt
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from squeezecore.errors import UsageError

FORMAT, VERSION = "squeezeflow-recording", 1
MANIFEST = "manifest.json"
HOUR_NS = 3_600_000_000_000
_BUFFER_BYTES = 262_144
_NAME = re.compile(r"(?P<venue>[a-z0-9_]+)-(?P<hour>[0-9]{8}T[0-9]{2})-(?P<first>[0-9]+)(?:-[0-9]+)?\.jsonl(?:\.gz)?")
_FOREIGN = re.compile(r"(?P<venue>[a-z0-9_]+)\.(?P<section>[a-z_]+)\..+\.recvts_json\.gz")
_GZIP = 31  # zlib's word for a gzip member


class Line(NamedTuple):
    """One recorded frame."""

    received_ns: int
    section: str  # with `:name` where it is a REST answer
    frame: bytes


class Recorder:
    """Append what arrives to a directory; one for a process and venue. Nothing is on disk before `flush` or a full buffer."""

    def __init__(self, directory: Path, venue: str = "binance") -> None:
        self.directory, self.venue = directory, venue
        self._lines: list[bytes] = []
        self._bytes = 0
        self._hour = -1
        self._first_ns = 0
        self._file: int | None = None
        self._size = 0
        directory.mkdir(parents=True, exist_ok=True)
        manifest = directory / MANIFEST
        if not manifest.exists():
            temporary = directory / f".{MANIFEST}.{os.getpid()}"
            temporary.write_text(json.dumps({"format": FORMAT, "version": VERSION, "venue": venue}) + "\n")
            temporary.replace(manifest)

    def write(self, section: str, received_ns: int, frame: bytes) -> None:
        """Take a frame as it came; raises `OSError` when a full buffer cannot be written."""
        hour = received_ns // HOUR_NS
        if hour != self._hour:
            self.close()
            self._hour, self._first_ns = hour, received_ns
        if frame.startswith(b"!") or b"\n" in frame or b"\r" in frame:
            frame = b"!" + base64.b64encode(frame)
        line = b"%d %s %s\n" % (received_ns, section.encode(), frame)
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes >= _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Bring what was taken to the file, as one gzip member; on an error the lines are kept for another file."""
        if not self._lines:
            return
        if self._file is None:
            self._file, self._size = self._open(), 0
        packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
        member = packer.compress(b"".join(self._lines)) + packer.flush()
        try:
            _write_all(self._file, member)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)  # a part of a member would hide what follows it
            os.close(self._file)
            self._file = None
            raise
        self._size += len(member)
        self._lines, self._bytes = [], 0

    def _open(self) -> int:
        days, hour = divmod(self._hour, 24)
        day = _date(days)
        for n in range(1000):
            again = f"-{n}" if n else ""  # another recorder heard its first frame at the same time
            path = self.directory / f"{self.venue}-{day}T{hour:02}-{self._first_ns}{again}.jsonl.gz"
            try:
                return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                continue
        raise FileExistsError(f"recording {path} exists a thousand times")

    def close(self) -> None:
        """Flush and close the file; the next frame begins another one."""
        self.flush()
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._hour = -1


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _date(days: int) -> str:
    return f"{dt.date(1970, 1, 1) + dt.timedelta(days):%Y%m%d}"


class RecordedFile(NamedTuple):
    """A file of a recording."""

    path: Path
    hour: int | None  # from 1970; None where a file may span more than one
    section: str  # "" where each line names its own


def recorded_files(directory: Path, venue: str = "binance") -> list[RecordedFile]:
    """List a directory's recorded files, or the one file that is named, in the order of their names.

    Raises:
        UsageError: there is nothing of the venue, or the recording is of a version we do not know.
    """
    if not directory.exists():
        raise UsageError(
            f"recording {directory} does not exist: name a directory that squeezeflow up --record has written"
        )
    manifest = directory / MANIFEST
    if manifest.is_file():
        _check(manifest)
    found = []
    for path in [directory] if directory.is_file() else sorted(directory.iterdir()):
        ours, foreign = _NAME.fullmatch(path.name), _FOREIGN.fullmatch(path.name)
        if ours and ours["venue"] == venue:
            found.append(RecordedFile(path, int(ours["first"]) // HOUR_NS, ""))
        elif foreign and foreign["venue"] == venue:
            found.append(RecordedFile(path, None, foreign["section"]))
    if not found:
        raise UsageError(
            f"recording {directory} holds no frames of {venue}: expected {venue}-*.jsonl.gz or {venue}.*.recvts_json.gz"
        )
    return found


def _check(manifest: Path) -> None:
    try:
        said = json.loads(manifest.read_bytes())
        version = said["version"] if said["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UsageError(f"recording {manifest} cannot be read ({error}): restore it or remove it") from error
    if version != VERSION:
        raise UsageError(f"recording {manifest} is of version {version}, this program reads {VERSION}: use a newer one")


def read_lines(file: RecordedFile) -> Iterator[Line]:
    """Yield a file's frames in the order written; what is torn or no line of a recording is passed over."""
    lines = _decompressed(file.path).split(b"\n")
    if not (file.section and lines[-1].endswith(b"}")):  # others may leave out the last line's end
        lines.pop()
    for line in lines:
        time, _, rest = line.partition(b" ")
        if file.section:
            section, frame = file.section, rest
        else:
            name, _, frame = rest.partition(b" ")
            section = name.decode("latin-1")
        if not time.isdigit() or not frame:
            continue
        if frame.startswith(b"!"):
            try:
                frame = base64.b64decode(frame[1:], validate=True)
            except binascii.Error:
                continue
        yield Line(_ns(time), section, frame)


def _ns(digits: bytes) -> int:
    """Read an epoch in ns, or in µs as some recordings have it."""
    value = int(digits)
    return value * 1000 if len(digits) == 16 else value


def _decompressed(path: Path) -> bytes:
    """Return a file's text up to where it is torn."""
    data = path.read_bytes()
    if path.suffix != ".gz":
        return data
    parts = []
    while data:
        unpacker = zlib.decompressobj(_GZIP)
        try:
            parts.append(unpacker.decompress(data))
        except zlib.error:
            break
        data = unpacker.unused_data
    return b"".join(parts)
