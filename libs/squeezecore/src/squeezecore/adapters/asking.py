"""Where a venue is, and a GET to it: its own addresses, or those that a file of endpoints says.

The file is JSON: `{"binance": {"spot": {"websocket": "ws://127.0.0.1:1/spot", "rest": "http://127.0.0.1:1/spot"}}}`. It is
looked at again whenever an address is asked for, because a venue on loopback gets a new port when it starts again. What
may be asked how often is the business of whoever asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec

from squeezecore.errors import SqueezeError
from squeezecore.venues import Section

ANSWER_S_MAX = 10.0
ANSWER_BYTES_MAX = 64 << 20  # an instrument list has some megabytes
FILE_BYTES_MAX = 1 << 20


class AskError(SqueezeError):
    """A venue could not be asked, or not now; the message says why."""


class Answer(NamedTuple):
    """What a server said."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}  # names in lower case


Fetch = Callable[[str], Awaitable[Answer]]  # a GET; raises `AskError` where there is no answer


def fetcher(client: httpx.AsyncClient) -> Fetch:
    """Return a GET over an HTTP client, bounded in time and size."""

    async def fetch(url: str) -> Answer:
        body = bytearray()
        try:
            async with asyncio.timeout(ANSWER_S_MAX), client.stream("GET", url) as response:
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > ANSWER_BYTES_MAX:
                        raise AskError(f"{url} answered more than {ANSWER_BYTES_MAX} bytes: is it the venue?")
        except TimeoutError as error:
            raise AskError(f"{url} did not answer within {ANSWER_S_MAX:.0f} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise AskError(f"{url} could not be asked ({error or type(error).__name__})") from error
        return Answer(
            response.status_code, bytes(body), {key.lower(): value for key, value in response.headers.items()}
        )

    return fetch


class _Place(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section's addresses; "" leaves the venue's own."""

    websocket: str = ""
    rest: str = ""


class Places:
    """Answers where sections are."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None  # (mtime, size) of what was read
        self._places: dict[str, dict[str, _Place]] = {}

    def websocket(self, venue: str, section: str) -> Callable[[str], str]:
        """Return what turns the venue's own WebSocket address into the one to use."""

        def place(url: str) -> str:
            return self._place(venue, section).websocket or url

        return place

    def rest(self, venue: str, section: Section) -> str:
        """Return the REST side's address; raises `AskError` where the file cannot be read now."""
        return self._place(venue, section.name).rest or section.rest

    def _place(self, venue: str, section: str) -> _Place:
        """Raises `AskError` where the file cannot be read now: it may be there a moment later."""
        if self._path is None:
            return _Place()
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_size)
            if stamp != self._stamp:
                if found.st_size > FILE_BYTES_MAX:
                    raise AskError(
                        f"endpoints file {self._path} had {found.st_size} bytes, the limit is {FILE_BYTES_MAX}"
                    )
                self._places = msgspec.json.decode(self._path.read_bytes(), type=dict[str, dict[str, _Place]])
                self._stamp = stamp
        except (OSError, msgspec.DecodeError, ValueError) as error:
            raise AskError(f"endpoints file {self._path} cannot be read ({error}): is the venue started?") from error
        return self._places.get(venue, {}).get(section, _Place())
