"""The other services over HTTP: where they answer, what they say, and what is passed on to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from squeezecore.errors import SqueezeError

ANSWER_S_MAX = 3.0
ANSWER_BYTES_MAX = 4_000_000


class PeerError(SqueezeError):
    """Another service does not answer."""


class Peers:
    """The services beside this one: by the notes they write, or where settings say they are."""

    def __init__(self, client: httpx.AsyncClient, places: Mapping[str, str], run_dir: Path | None) -> None:
        self._client, self._places, self._run_dir = client, dict(places), run_dir

    def where(self) -> dict[str, str]:
        """Return each known service's address; reads files."""
        found: dict[str, str] = {}
        if self._run_dir is not None:
            for note in sorted(self._run_dir.glob("*.json")):
                try:
                    found[note.stem] = f"http://127.0.0.1:{int(json.loads(note.read_text())['port'])}"
                except (OSError, ValueError, KeyError, TypeError):
                    continue  # half a note, or another's file
        return found | {name: url.rstrip("/") for name, url in self._places.items()}

    async def ask(
        self,
        name: str,
        path: str,
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Ask a service; raise `PeerError` where it does not answer."""
        place = (await asyncio.to_thread(self.where)).get(name)
        if place is None:
            raise PeerError(
                f"{name} was not found: it is not started, or SQUEEZE_PEERS and SQUEEZE_RUN_DIR do not name it"
            )
        try:
            return await self._client.request(
                method, place + path, content=body, headers=dict(headers or {}), timeout=ANSWER_S_MAX
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PeerError(
                f"{name} did not answer ({type(error).__name__}): see whether it runs, GET /v1/services"
            ) from error

    async def json(self, name: str, path: str) -> Any:
        """Ask a service for JSON."""
        answer = await self.ask(name, path)
        if answer.status_code != httpx.codes.OK or len(answer.content) > ANSWER_BYTES_MAX:
            raise PeerError(f"{name} answered {answer.status_code} to {path}: see its own log")
        try:
            return answer.json()
        except ValueError as error:
            raise PeerError(
                f"{name} answered no JSON to {path} ({error}): see whether another program has its port"
            ) from error

    async def statuses(self) -> dict[str, dict[str, Any]]:
        """Return every service's own status; where one does not answer, why."""
        names = sorted(await asyncio.to_thread(self.where))

        async def status(name: str) -> dict[str, Any]:
            try:
                found = await self.json(name, "/v1/status")
            except PeerError as error:
                return {"service": name, "state": "UNREACHABLE", "last_error": str(error)}
            return found if isinstance(found, dict) else {"service": name, "state": "UNREACHABLE"}

        return dict(zip(names, await asyncio.gather(*map(status, names)), strict=True))

    async def feeds(self) -> tuple[list[dict[str, Any]], str]:
        """Return what ingest says of its feeds, or why it does not."""
        try:
            found = await self.json("ingest", "/v1/feeds")
        except PeerError as error:
            return [], str(error)
        return (found, "") if isinstance(found, list) else ([], "ingest answered no list of feeds")
