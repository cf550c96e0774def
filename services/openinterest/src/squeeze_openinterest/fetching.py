"""Where a venue is, and a GET to it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import msgspec

from squeeze_openinterest.desk import Answer, Fetch, FetchError
from squeezecore.venues import Section

ANSWER_S_MAX = 10.0
ANSWER_BYTES_MAX = 8 << 20  # all marks of a venue are some hundred kilobytes
FILE_BYTES_MAX = 1 << 20


class _Place(msgspec.Struct):
    rest: str = ""


_PLACES = msgspec.json.Decoder(dict[str, dict[str, _Place]])


class Endpoints:
    """Base URLs: a venue's own, or those of a JSON file `{venue: {section: {"rest": URL, …}}}`.

    The file is looked at for each request: a venue on loopback that starts again has another port.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._places: dict[str, dict[str, _Place]] = {}

    def __call__(self, venue: str, section: Section) -> str:
        """Return a section's base URL; raise `FetchError` while the file cannot be read."""
        if self._path is None:
            return section.rest
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_size)
            if stamp != self._stamp:
                if found.st_size > FILE_BYTES_MAX:
                    raise FetchError(f"endpoints file {self._path} had {found.st_size} bytes, is it the right one?")
                self._places = _PLACES.decode(self._path.read_bytes())
                self._stamp = stamp
        except (OSError, msgspec.DecodeError, ValueError) as error:
            raise FetchError(f"endpoints file {self._path} cannot be read ({error}): is the venue started?") from error
        return self._places.get(venue, {}).get(section.name, _Place()).rest or section.rest


def fetcher(client: httpx.AsyncClient) -> Fetch:
    """Return a GET over an HTTP client, bounded in time and size."""

    async def fetch(url: str) -> Answer:
        body = bytearray()
        try:
            async with asyncio.timeout(ANSWER_S_MAX), client.stream("GET", url) as response:
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > ANSWER_BYTES_MAX:
                        raise FetchError(f"{url} answered more than {ANSWER_BYTES_MAX} bytes: is it the venue?")
        except TimeoutError as error:
            raise FetchError(f"{url} did not answer within {ANSWER_S_MAX:.0f} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise FetchError(f"{url} could not be asked ({error or type(error).__name__})") from error
        return Answer(response.status_code, bytes(body), response.headers.get("retry-after"))

    return fetch
