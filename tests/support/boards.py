"""A market that goes on live: simulated days in the store, their last hours published second by second; readers of streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np

from squeezecore.adapters import bus, catalogue, embedded, embedded_nats, flowstore, operations
from squeezecore.adapters.accounts import ASSETS, BUCKET
from squeezecore.adapters.store import Store
from squeezecore.market import Instrument, Rows, cut
from squeezecore.spec import canonical
from squeezecore.wire import Message, RowBatch
from support.command import WAIT_S, Market
from support.services import Service


class Told(NamedTuple):
    """An event of a stream."""

    name: str
    id: str
    data: Any


class Stream:
    """One open connection to a stream of events."""

    def __init__(self, base_url: httpx.URL, path: str, last_id: str | None = None) -> None:
        self._client = httpx.Client(base_url=base_url, timeout=WAIT_S, trust_env=False)
        headers = {} if last_id is None else {"Last-Event-ID": last_id}
        self._opened = self._client.stream("GET", path, headers=headers)
        self.response = self._opened.__enter__()
        assert self.response.status_code == 200, self.response.read()
        self._lines = self.response.iter_lines()

    def next(self) -> Told:
        """Read the next event; comments and pauses are none."""
        fields: dict[str, str] = {}
        for line in self._lines:
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                return Told(fields["event"], fields.get("id", ""), json.loads(fields["data"]))
            elif not line:
                fields = {}
        raise EOFError

    def until(self, name: str, ts: int) -> list[Told]:
        """Read events up to the one of that name and second."""
        found: list[Told] = []
        while not found or found[-1].name != name or found[-1].data["ts"] != ts:
            found.append(self.next())
        return found

    def rest(self) -> list[Told]:
        """Read to the end, which has to be one in good order."""
        found = []
        with contextlib.suppress(EOFError):
            while True:
                found.append(self.next())
        return found

    def close(self) -> None:
        """Break the connection off."""
        self.response.close()
        self._client.close()


class Feed:
    """What cvd does with closed seconds: into the store, then onto the bus."""

    def __init__(self, market: Market, assets: Sequence[str], seconds: int) -> None:
        self.store = market.store
        self.assets = tuple(sorted(assets))
        config = operations.assets(self.store)
        self.watched = {asset: config[asset] for asset in self.assets}
        listed = self.store.instruments()
        self.instruments: Mapping[str, Instrument] = {a: listed[self.watched[a].traded] for a in self.assets}
        server = embedded_nats.status(market.home)
        assert server is not None
        self.url = server.url
        self._runner = asyncio.Runner()
        self._bus = self._runner.run(bus.connect(self.url, name="feed"))
        self.ahead: dict[str, Rows] = {}  # what is not published yet
        for asset in self.assets:
            last = self.store.asset_coverage(asset)[-1].last_ts
            self.ahead[asset] = self.store.read_rows(asset, last + 1 - seconds, last + 1)
            self.store.drop_rows(asset, last + 1 - seconds, last + 1)
        self.next_ts = int(self.ahead[self.assets[0]].ts[0])

    def configure(self) -> None:
        """Let the assets be watched."""

        async def put() -> None:
            for asset, config in self.watched.items():
                await catalogue.declare(self._bus, self.instruments[asset])
                del config
            await self._bus.put(BUCKET, ASSETS, canonical(self.watched))

        self._runner.run(put())

    def publish(self, count: int, *, told: bool = True) -> range:
        """Close so many seconds; return them. With `told` off they are stored only."""
        start = self.next_ts
        parts = {}
        for asset in self.assets:
            block = self.ahead[asset]
            at = int(block.ts.searchsorted(start))
            parts[asset] = cut(block, at, at + count)
        flowstore.insert_rows(self.store, parts)
        blocks = [parts[asset] for asset in self.assets]
        batches = [
            RowBatch(
                start + n,
                self.assets,
                Rows(*(np.array([getattr(block, name)[n] for block in blocks]) for name in Rows._fields)),
            )
            for n in range(count)
        ]
        if told:
            self.say(*batches)
        self.next_ts = start + count
        return range(start, start + count)

    def say(self, *messages: Message) -> None:
        """Publish messages."""
        self._runner.run(self._bus.publish_all(messages))

    def close(self) -> None:
        self._runner.run(self._bus.close())
        self._runner.close()


@contextmanager
def live_market(home: Path, assets: Sequence[str], seconds: int, days: int = 2) -> Iterator[tuple[Market, Feed]]:
    """Simulate days of a market and hold back the last seconds, with both servers running."""
    with embedded_nats.open_nats(home, grace_s=5.0), embedded.open_store(home, grace_s=5.0) as store:
        market = Market(home, store)
        market.do("simulate", "--assets", ",".join(assets), "--days", days, "--world", "squeeze")
        feed = Feed(market, assets, seconds)
        feed.configure()
        try:
            yield market, feed
        finally:
            feed.close()
    embedded_nats.stop(home)
    embedded.stop(home)


def metric(service: Service, name: str) -> float:
    """Read one number of a service's metrics."""
    for line in service.get("/metrics").text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(name)


def stored_rows(store: Store, asset: str, seconds: range) -> Rows:
    """Return rows of the store."""
    return store.read_rows(asset, seconds.start, seconds.stop)
