"""Where a venue is: at its own addresses, or where a file of endpoints says.

The file is JSON: `{"binance": {"spot": {"websocket": "ws://127.0.0.1:1/spot", "rest": "http://127.0.0.1:1/spot"}}}`. It is
looked at again whenever an address is asked for, because a venue on loopback gets a new port when it starts again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from squeeze_ingest.links import LinkError
from squeezecore.venues import Section

BYTES_MAX = 1 << 20


class Place(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section's addresses; "" leaves the venue's own."""

    websocket: str = ""
    rest: str = ""


class Places:
    """Answers where sections are."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None  # (mtime, size) of what was read
        self._places: dict[str, dict[str, Place]] = {}

    def websocket(self, venue: str, section: str) -> Callable[[str], str]:
        """Return what turns the venue's own WebSocket address into the one to use."""

        def place(url: str) -> str:
            return self._place(venue, section).websocket or url

        return place

    def rest(self, venue: str, section: Section) -> Callable[[], str]:
        """Return what gives the REST side's address."""

        def place() -> str:
            return self._place(venue, section.name).rest or section.rest

        return place

    def _place(self, venue: str, section: str) -> Place:
        """Raises `LinkError` where the file cannot be read now: it may be there a moment later."""
        if self._path is None:
            return Place()
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_size)
            if stamp != self._stamp:
                if found.st_size > BYTES_MAX:
                    raise LinkError(f"endpoints file {self._path} had {found.st_size} bytes, the limit is {BYTES_MAX}")
                self._places = msgspec.json.decode(self._path.read_bytes(), type=dict[str, dict[str, Place]])
                self._stamp = stamp
        except (OSError, msgspec.DecodeError) as error:
            raise LinkError(f"endpoints file {self._path} cannot be read ({error}): is the venue started?") from error
        return self._places.get(venue, {}).get(section, Place())
