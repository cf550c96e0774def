"""A venue that answers for open interest and funding as scripted, by the clock it is given; and a bed to poll it in."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import structlog

from squeeze_openinterest.desk import Params
from squeeze_openinterest.polling import Past
from squeeze_openinterest.watching import Poller
from squeezecore.adapters import catalogue
from squeezecore.adapters.asking import Answer
from squeezecore.adapters.membus import MemServer
from squeezecore.market import FundingSeries, Instrument, OpenInterestSeries, empty
from squeezecore.spec import AssetConfig, MarketConfig, canonical
from squeezecore.venues import binance
from support.virtual import VirtualClock, VirtualLoop

START_S = 1_700_000_000
HOUR_S = 3600
FUNDING_S = 8 * HOUR_S
SPOT = binance.instrument("spot", "BTCUSDT")
PERP = binance.instrument("linear", "BTCUSDT")
COIN = binance.instrument("inverse", "BTCUSD_PERP")
MARK = 40_000
PLACES = {"spot": "http://localhost/spot", "linear": "http://localhost/linear/", "inverse": "http://localhost/inverse"}


class ScriptedVenue:
    """Answers requests; `faults` maps a section to what it does instead of answering."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self.now_s = now_s
        self.faults: dict[str, Callable[[], Answer]] = {}  # raises or answers
        self.bad_symbols: set[str] = set()
        self.unlisted = False  # it answers for one symbol only
        self.asked: list[tuple[float, str, str]] = []  # (when, section, path with query)
        self.value = lambda ts: 1_000 + ts % 1_000  # base or contracts

    async def __call__(self, url: str) -> Answer:
        parts = urlsplit(url)
        section, path = parts.path[1:].split("/", 1)
        query = {key: value[0] for key, value in parse_qs(parts.query).items()}
        self.asked.append((self.now_s(), section, f"/{path}?{parts.query}"))
        await asyncio.sleep(0.05)
        fault = self.faults.get(section)
        if fault is not None:
            return fault()
        if query.get("symbol") in self.bad_symbols or (self.unlisted and not query):
            return Answer(400, b'{"code":-1121,"msg":"Invalid symbol."}')
        answer = getattr(self, path.rsplit("/", 1)[1])(section, query)
        return Answer(200, json.dumps(answer).encode())

    def openInterest(self, _section: str, query: dict[str, str]) -> Any:
        now = int(self.now_s())
        return {"symbol": query["symbol"], "openInterest": str(self.value(now)), "time": now * 1000 - 700}

    def premiumIndex(self, section: str, query: dict[str, str]) -> Any:
        now = int(self.now_s())
        entry = {"markPrice": f"{MARK}.50", "indexPrice": f"{MARK}", "lastFundingRate": "0.00012"}
        symbols = {"linear": {"BTCUSDT": 8, "ETHUSDT": 4}, "inverse": {"BTCUSD_PERP": 8}}[section]
        if "symbol" in query:
            symbols = {query["symbol"]: symbols.get(query["symbol"], 8)}
        found = [
            {"symbol": symbol, **entry, "time": now * 1000, "nextFundingTime": (now // every + 1) * every * 1000}
            for symbol, every in ((symbol, hours * HOUR_S) for symbol, hours in symbols.items())
        ]
        return found[0] if "symbol" in query and section == "linear" else found

    def fundingRate(self, _section: str, query: dict[str, str]) -> Any:
        first, last = (int(query[name]) // 1000 for name in ("startTime", "endTime"))
        last = min(last, int(self.now_s()) - 1)
        every = FUNDING_S // 2 if query["symbol"] == "ETHUSDT" else FUNDING_S
        events = range(-(-first // every) * every, last + 1, every)
        return [
            {"symbol": query["symbol"], "fundingRate": "0.0001", "fundingTime": event * 1000 + 3} for event in events
        ]

    def fundingInfo(self, _section: str, _query: dict[str, str]) -> Any:
        return [{"symbol": "ETHUSDT", "fundingIntervalHours": 4}]


class Tally:
    """Counts what the service's metrics would."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()  # (section, outcome)
        self.facts: Counter[tuple[str, str]] = Counter()

    def asked(self, _venue: str, section: str, outcome: str) -> None:
        self.requests[section, outcome] += 1

    def published(self, _venue: str, section: str, kind: str, count: int) -> None:
        self.facts[section, kind] += count


NOTHING = Past(empty(OpenInterestSeries), empty(FundingSeries))


class Wall:
    """This machine's clock, which somebody may set."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.set_by_s = 0

    def now_ns(self) -> int:
        """Return what it shows."""
        return self._clock.now_ns() + self.set_by_s * 10**9


class Bed:
    """A poller over the bus in memory, in virtual time."""

    def __init__(self, params: Params | None = None) -> None:
        self.loop = VirtualLoop()
        self.clock = VirtualClock(self.loop, START_S * 10**9)
        self.wall = Wall(self.clock)
        self.server = MemServer(self.clock.now_ns)
        self.bus = self.server.connect()
        self.venue = ScriptedVenue(lambda: self.clock.now_ns() / 1e9)
        self.tally = Tally()
        self.past: dict[str, Past] = {}
        self.poller = Poller(
            self.bus, self.wall, self.venue, self._history, params or Params(), self.tally,
            structlog.get_logger(), lambda _venue, section: PLACES[section.name],
        )  # fmt: skip

    async def _history(self, instrument: str, _now_s: int) -> Past:
        return self.past.get(instrument, NOTHING)

    async def configure(self, **assets: list[Instrument]) -> None:
        """Say which assets are watched."""
        value = {
            name: AssetConfig(
                traded=markets[-1].id, markets=tuple(MarketConfig(instrument=market.id) for market in markets)
            )
            for name, markets in assets.items()
        }
        await self.bus.put("config", "assets", canonical(value))

    async def declare(self, *instruments: Instrument) -> None:
        """Say what instruments are."""
        for instrument in instruments:
            await catalogue.declare(self.bus, instrument)

    async def facts(self, kind: type[Any]) -> list[Any]:
        """Return everything of a kind that was published so far."""
        reader = await self.server.connect().read("MD", ("md.v1.>",), f"test-{kind.__name__}", 0)
        found = []
        while pulled := await reader.pull(500, 0.01):
            found += [each.message for each in pulled if isinstance(each.message, kind)]
        await reader.close()
        return found


def series(*readings: tuple[int, int]) -> OpenInterestSeries:
    """Make stored open interest of (known_at, value)."""
    known_at, values = (np.array(column, np.int64) for column in zip(*readings, strict=True))
    return OpenInterestSeries(known_at - 1, known_at, values, np.full(len(values), 10, np.int64))


def paid(*events: int) -> FundingSeries:
    """Make stored funding."""
    event_ts = np.array(events, np.int64)
    return FundingSeries(event_ts, event_ts + 9, np.full(len(events), 5), np.full(len(events), FUNDING_S))
