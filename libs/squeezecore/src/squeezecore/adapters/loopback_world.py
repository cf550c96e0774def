"""A simulated world as Binance would tell it: prints, aggregates, best quotes, marks, open interest, funding.

Everything is a function of the seed and the time, so two processes tell the same. Aggregates are the fills of one
millisecond, side and price. Their ids have to run on over days that nobody has looked at: a midnight's id is a fixed share of
the print ids before it, and the day's aggregates are cut finer, evenly over the day, until they fill the ids it has.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from squeezecore.adapters.loopback_frames import Cache, Frames, Ints, Template, frames_from, frames_of, weight
from squeezecore.adapters.loopback_source import MS, NS, Query
from squeezecore.errors import SqueezeError, UsageError
from squeezecore.market import DAY_S, FUNDING_SCALE, Instrument, Margin, OpenInterestSeries, Trades, concat, cut
from squeezecore.simulator import WorldSpec, instruments, simulate_day, simulate_trades
from squeezecore.simulator.facts import FUNDING_S, publish_funding
from squeezecore.simulator.noise import key
from squeezecore.simulator.profiles import profile_of

STRETCH_S = 1_200  # prints are made and kept by stretches of a day
_STRETCHES = DAY_S // STRETCH_S
_COUNTED = 12  # stretches made at once when a day is counted
_PRINTS_BYTES_MAX, _FRAMES_BYTES_MAX, _CLONE_BYTES_MAX = 72_000_000, 24_000_000, 3_000_000
_SENT_MS = 2  # a message is sent so long after its print
CLONES_MAX = 200
# Of hundred prints so many begin an aggregate. At most 85, 64 and 85 have to on any day measured (360 days of 3 assets).
_SHARE: Mapping[str, int] = MappingProxyType({"spot": 92, "linear": 75, "inverse": 92})
_COIN_SHARE_PPM = 150_000  # of the USD-M open interest; the simulator makes none for COIN-M markets
_PERPETUAL_MS = 4_133_404_800_000  # the delivery date that the venue lists for what is never delivered
_MIX = np.uint64(2_654_435_761)  # spreads sizes shown at the best quotes


class Market(NamedTuple):
    """One listed market; clones share the prints of the market they are copied from."""

    instrument: Instrument
    asset: str
    prints_of: str  # id of the simulated instrument whose prints these are
    price_digits: int
    qty_digits: int


class Prints(NamedTuple):
    """Prints or aggregates of one market, ascending by id; equal columns where the one is the other."""

    id: Ints
    first_id: Ints
    last_id: Ints
    exchange_ns: Ints
    price: Ints
    qty: Ints
    quote_cents: Ints
    side: NDArray[np.int8]


class _Day(NamedTuple):
    """How many prints, and how many aggregates at least, one market's day has before each of its stretches."""

    first_id: int
    prints: Ints  # [_STRETCHES + 1]
    groups: Ints  # [_STRETCHES + 1]

    def first_aggregate(self, share: int) -> int:
        """The aggregate id that a day begins with."""
        return self.first_id * share // 100

    def splits(self, share: int) -> int:
        """Say how many aggregates have to be cut in two for the day to fill its ids."""
        next_first = (self.first_id + int(self.prints[-1])) * share // 100
        return next_first - self.first_aggregate(share) - int(self.groups[-1])


class Simulated:
    """A world as a source; `clones` copies of BTC under other names are for load tests."""

    start_ns: int | None = None
    end_ns: int | None = None

    def __init__(self, world: WorldSpec, clones: int = 0) -> None:
        if not 0 <= clones <= CLONES_MAX:
            raise UsageError(f"symbols was {clones}, the limits are 0 and {CLONES_MAX}: choose a number between")
        self.world = world
        listed = [(asset, one, one) for asset in world.assets for one in instruments(asset)]
        for n in range(clones):
            listed += [("BTC", one, _clone(one, f"S{n:03}")) for one in instruments("BTC")]
        self.markets = {
            (one.section, one.native_symbol): Market(one, asset, of.id, *_digits_of(one)) for asset, of, one in listed
        }
        self._by_stream = {(section, native.lower()): native for section, native in self.markets}
        self._prints = Cache(_PRINTS_BYTES_MAX)
        self._texts = Cache(_FRAMES_BYTES_MAX + clones * _CLONE_BYTES_MAX)
        self._days: dict[tuple[str, int], dict[str, _Day]] = {}
        self._interest: dict[tuple[str, int], OpenInterestSeries] = {}
        self._templates: dict[tuple[str, str, str], Template] = {}

    # -- prints --------------------------------------------------------------------------------------------------------

    def trades(self, asset: str, stretch: int) -> dict[str, Trades]:
        """Return a stretch's prints of an asset's markets; `stretch` counts from 1970."""
        return self._prints.get(
            (asset, stretch),
            lambda: simulate_trades(self.world, asset, stretch * STRETCH_S, (stretch + 1) * STRETCH_S),
            lambda blocks: sum(map(weight, blocks.values())),
        )

    def stretch(self, market: Market, aggregate: bool, stretch: int) -> Prints:
        """Return a market's prints or aggregates of a stretch."""
        if aggregate:
            return self._prints.get((market.prints_of, stretch), lambda: self._aggregate(market, stretch), weight)
        trades = self.trades(market.asset, stretch)[market.prints_of]
        return Prints(
            trades.id,
            trades.id,
            trades.id,
            trades.exchange_ns,
            trades.price,
            trades.qty,
            trades.quote_cents,
            trades.side,
        )

    def _aggregate(self, market: Market, stretch: int) -> Prints:
        """Join a stretch's fills of one millisecond, side and price, but cut as many of them as the day has to."""
        trades = self.trades(market.asset, stretch)[market.prints_of]
        number, n = divmod(stretch, _STRETCHES)
        day, share = self._day(market.asset, number)[market.prints_of], _SHARE[market.instrument.section]
        splits, total = day.splits(share), int(day.prints[-1] - day.groups[-1])
        if splits < 0:
            raise SqueezeError(
                f"aggregates of {market.instrument.id} were {-splits} too many on day {number} for their ids: "
                "watch single trades there, or choose another seed"
            )
        joined_before = int(day.prints[n] - day.groups[n])
        begins = _begins(trades)
        order = joined_before + np.cumsum(~begins)  # of fills that could join the one before them, over the day
        whole = max(1, total)
        cuts = ~begins & (order * splits // whole > (order - 1) * splits // whole)
        start = np.flatnonzero(begins | cuts)
        stop = np.append(start[1:], trades.id.size)
        base = day.first_aggregate(share) + int(day.groups[n]) + joined_before * splits // whole
        first = np.arange(base, base + start.size, dtype=np.int64)
        some = start.size > 0
        return Prints(
            first, trades.id[start], trades.id[stop - 1] if some else first, trades.exchange_ns[start], trades.price[start],
            np.add.reduceat(trades.qty, start) if some else first,
            np.add.reduceat(trades.quote_cents, start) if some and trades.quote_cents[0] >= 0 else trades.quote_cents[start],
            trades.side[start],
        )  # fmt: skip

    def _day(self, asset: str, number: int) -> dict[str, _Day]:
        """Count a day's prints stretch by stretch, once a process: a fifth of a second."""
        found = self._days.get((asset, number))
        if found is not None:
            return found
        counts: dict[str, list[tuple[int, int]]] = {}
        first: dict[str, int] = {}
        for first_stretch in range(0, _STRETCHES, _COUNTED):
            start = number * DAY_S + first_stretch * STRETCH_S
            made = simulate_trades(self.world, asset, start, start + _COUNTED * STRETCH_S)
            for name, trades in made.items():
                if trades.id.size:
                    first.setdefault(name, int(trades.id[0]))
                begins = _begins(trades)
                edges = np.searchsorted(
                    trades.exchange_ns, [(start + n * STRETCH_S) * NS for n in range(_COUNTED + 1)]
                ).tolist()
                counts.setdefault(name, []).extend(
                    (last - first_, int(begins[first_:last].sum())) for first_, last in pairwise(edges)
                )
        days = {}
        for name, pairs in counts.items():
            sums = np.concatenate((np.zeros((1, 2), np.int64), np.cumsum(np.array(pairs, np.int64), axis=0)))
            days[name] = _Day(first[name], sums[:, 0].copy(), sums[:, 1].copy())
        self._days[asset, number] = days
        return days

    # -- streams -------------------------------------------------------------------------------------------------------

    def _market_of(self, section: str, stream: str) -> tuple[Market, str] | None:
        name, _, what = stream.partition("@")
        native = self._by_stream.get((section, name))
        return None if native is None else (self.markets[section, native], what)

    def frames(self, section: str, stream: str, start_ns: int, end_ns: int) -> list[Frames]:
        """See `Source.frames`."""
        found = self._market_of(section, stream)
        if found is None or end_ns <= start_ns:
            return []
        market, what = found
        parts = []
        for minute in range(start_ns // (60 * NS), -(-end_ns // (60 * NS))):
            made = self._texts.get((section, stream, minute), partial(self._minute, market, what, minute), weight)
            parts.append(made.between(start_ns, end_ns))
        return parts

    def _minute(self, market: Market, what: str, minute: int) -> Frames:
        """Write one minute of a stream."""
        if what in {"trade", "aggTrade"}:
            block = self._prints_of_minute(market, what == "aggTrade", minute)
            return frames_of(*self._template(market, what).write(_columns(market, block)), block.exchange_ns)
        if what == "bookTicker":
            return self._quotes(market, minute)
        if what in {"markPrice", "markPrice@1s"} and market.instrument.section != "spot":
            step = 1 if what.endswith("@1s") else 3
            seconds = range(minute * 60, minute * 60 + 60, step)
            return frames_from([self._mark(market, second) for second in seconds], [second * NS for second in seconds])
        return frames_from([], [])

    def _prints_of_minute(self, market: Market, aggregate: bool, minute: int) -> Prints:
        block = self.stretch(market, aggregate, minute * 60 // STRETCH_S)
        return cut(block, *np.searchsorted(block.exchange_ns, (minute * 60 * NS, (minute + 1) * 60 * NS)).tolist())

    def _quotes(self, market: Market, minute: int) -> Frames:
        """Derive the best quotes: a sell prints at the bid, a buy one tick above it."""
        block = self._prints_of_minute(market, False, minute)
        tick = _units(market.instrument.tick_size, market.instrument.price_decimals)
        bid = block.price - np.where(block.side > 0, tick, 0)
        moved = np.flatnonzero(np.append(True, bid[1:] != bid[:-1])[: bid.size])
        lot = 1 if market.instrument.margin is Margin.INVERSE else _units(market.instrument.lot_size, market.qty_digits)
        mixed = (block.id[moved].astype(np.uint64) * _MIX) >> np.uint64(7)
        columns = {
            "id": block.id[moved],
            "bid": _rescale(bid[moved], market.instrument.price_decimals, market.price_digits),
            "ask": _rescale(bid[moved] + tick, market.instrument.price_decimals, market.price_digits),
            "bid_qty": lot * (1 + (mixed % np.uint64(4096)).astype(np.int64)),
            "ask_qty": lot * (1 + ((mixed >> np.uint64(12)) % np.uint64(4096)).astype(np.int64)),
            "at": block.exchange_ns[moved] // MS,
        }
        return frames_of(*self._template(market, "bookTicker").write(columns), block.exchange_ns[moved])

    def _last_price(self, market: Market, before_ns: int) -> int:
        """Return the price of the last print before a time."""
        stretch = (before_ns - 1) // (STRETCH_S * NS)
        while True:
            block = self.trades(market.asset, stretch)[market.prints_of]
            count = int(np.searchsorted(block.exchange_ns, before_ns))
            if count:
                return int(block.price[count - 1])
            stretch -= 1

    def _mark_and_index(self, market: Market, at_ns: int) -> tuple[str, str]:
        spot = self.markets["spot", f"{market.asset}USDT"]
        return _text(self._last_price(market, at_ns), market.instrument.price_decimals, 8), _text(
            self._last_price(spot, at_ns), spot.instrument.price_decimals, 8
        )

    def _mark(self, market: Market, second: int) -> bytes:
        mark, index = self._mark_and_index(market, second * NS)
        due = second // FUNDING_S * FUNDING_S + FUNDING_S
        i = "" if market.instrument.section == "inverse" else f'"i":"{index}",'
        return (
            f'{{"e":"markPriceUpdate","E":{second * 1000},"s":"{market.instrument.native_symbol}","p":"{mark}",'
            f'"P":"{mark}",{i}"r":"{self._rate(market.asset, due)}","T":{due * 1000}}}'
        ).encode()

    def _template(self, market: Market, what: str) -> Template:
        one = market.instrument
        known = (one.section, one.native_symbol, what)
        if known not in self._templates:
            self._templates[known] = Template(_message(market, what))
        return self._templates[known]

    def resumes_ns(self, at_ns: int) -> int:
        """See `Source.resumes_ns`."""
        return at_ns

    def prepare(self, section: str, stream: str, at_ns: int) -> None:
        """See `Source.prepare`."""
        found = self._market_of(section, stream)
        if found is not None:
            stretch = at_ns // (STRETCH_S * NS)
            self.stretch(found[0], found[1] == "aggTrade", stretch)

    # -- REST ----------------------------------------------------------------------------------------------------------

    def exchange_info(self, section: str, until_ns: int) -> bytes:
        """See `Source.exchange_info`."""
        symbols = [listing(market.instrument) for (where, _), market in self.markets.items() if where == section]
        limit = 6000 if section == "spot" else 2400
        return json.dumps(
            {
                "timezone": "UTC",
                "serverTime": until_ns // MS,
                "rateLimits": [
                    {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": limit}
                ],
                "exchangeFilters": [],
                "symbols": symbols,
            },
            separators=(",", ":"),
        ).encode()

    def found(self, market: Market, aggregate: bool, query: Query) -> Prints:
        """Return the prints a query asks for."""
        until_ns = query.until_ns if query.end_ns is None else min(query.until_ns, query.end_ns + 1)
        if query.from_id is None and query.start_ns is None:
            return self._latest(market, aggregate, until_ns, query.limit)
        last_stretch = (until_ns - 1) // (STRETCH_S * NS)
        if query.from_id is not None:
            stretch = self._stretch_of_id(market, aggregate, query.from_id, last_stretch)
        else:
            stretch = (query.start_ns or 0) // (STRETCH_S * NS)
        parts: list[Prints] = [cut(self.stretch(market, aggregate, last_stretch), 0, 0)]
        wanted = query.limit
        while wanted > 0 and stretch <= last_stretch:
            block = self.stretch(market, aggregate, stretch)
            first = 0 if query.from_id is None else int(np.searchsorted(block.id, query.from_id))
            if query.start_ns is not None:
                first = max(first, int(np.searchsorted(block.exchange_ns, query.start_ns)))
            last = int(np.searchsorted(block.exchange_ns, until_ns))
            parts.append(cut(block, first, max(first, min(last, first + wanted))))
            wanted -= parts[-1].id.size
            stretch += 1
        return concat(parts)

    def _latest(self, market: Market, aggregate: bool, until_ns: int, limit: int) -> Prints:
        parts: list[Prints] = []
        stretch, wanted = (until_ns - 1) // (STRETCH_S * NS), limit
        while wanted > 0:
            block = self.stretch(market, aggregate, stretch)
            last = int(np.searchsorted(block.exchange_ns, until_ns))
            parts.insert(0, cut(block, max(0, last - wanted), last))
            wanted -= parts[0].id.size
            stretch -= 1
        return concat(parts)

    def _stretch_of_id(self, market: Market, aggregate: bool, wanted: int, last_stretch: int) -> int:
        """Find the stretch that holds an id, from about how many ids a day has; never after `last_stretch`."""
        share = _SHARE[market.instrument.section] if aggregate else 100
        number = last_stretch // _STRETCHES
        for _ in range(16):
            day = self._day(market.asset, number)[market.prints_of]
            first, after = day.first_id * share // 100, (day.first_id + int(day.prints[-1])) * share // 100
            if first <= wanted < after or (wanted >= after and number >= last_stretch // _STRETCHES):
                break
            number = min(
                last_stretch // _STRETCHES, max(_day_of(2017), number + (wanted - first) // max(1, after - first))
            )
        before = day.prints
        if aggregate:
            total = max(1, int(day.prints[-1] - day.groups[-1]))
            before = day.groups + (day.prints - day.groups) * day.splits(share) // total
        stretch = int(np.searchsorted(before, wanted - first, side="right")) - 1
        return min(last_stretch, number * _STRETCHES + min(_STRETCHES - 1, max(0, stretch)))

    def prints(self, section: str, native: str, aggregate: bool, query: Query) -> bytes | None:
        """See `Source.prints`."""
        market = self.markets.get((section, native))
        if market is None:
            return None
        block = self.found(market, aggregate, query)
        columns = _columns(market, block)
        if not aggregate:
            columns["other_qty"] = _other_qty(market, block, columns)
        blob, _ = self._template(market, "rest aggTrade" if aggregate else "rest trade").write(columns)
        return b"[" + blob[: max(0, blob.size - 1)].tobytes() + b"]"  # each row ends in a comma

    def truth(self, section: str, native: str, aggregate: bool, query: Query) -> list[bytes] | None:
        """See `Source.truth`."""
        market = self.markets.get((section, native))
        if market is None:
            return None
        block = self.found(market, aggregate, query)
        written = self._template(market, "aggTrade" if aggregate else "trade").write(_columns(market, block))
        return frames_of(*written, block.exchange_ns).texts()

    def open_interest(self, section: str, native: str, until_ns: int) -> bytes | None:
        """See `Source.open_interest`."""
        market = self.markets.get((section, native))
        if market is None or section == "spot":
            return None
        series = self._open_interest(market.asset, until_ns // NS // DAY_S)
        n = int(np.searchsorted(series.known_at, until_ns // NS, side="right")) - 1
        at_ms, value = int(series.event_ts[n]) * 1000, int(series.open_interest[n])
        decimals = instruments(market.asset)[1].qty_decimals
        if section == "linear":
            answer = {"openInterest": _text(value, decimals, decimals), "symbol": native, "time": at_ms}
            return json.dumps(answer, separators=(",", ":")).encode()
        usd = value * round(profile_of(market.asset).price_usd * 100) * _COIN_SHARE_PPM // 10 ** (decimals + 8)
        contracts = usd // int(market.instrument.contract_size)
        answer = {
            "symbol": native, "pair": native.partition("_")[0], "openInterest": str(contracts),
            "contractType": "PERPETUAL", "time": at_ms,
        }  # fmt: skip
        return json.dumps(answer, separators=(",", ":")).encode()

    def _open_interest(self, asset: str, number: int) -> OpenInterestSeries:
        if (asset, number) not in self._interest:
            day = dt.date(1970, 1, 1) + dt.timedelta(number)
            self._interest[asset, number] = simulate_day(self.world, asset, day).open_interest
        return self._interest[asset, number]

    def _rate(self, asset: str, due_s: int) -> str:
        """Return the rate settled at a time, as text."""
        series = publish_funding(key(self.world.seed, self.world.kind, asset, "facts"), due_s // DAY_S)
        rate = int(series.rate[(due_s % DAY_S) // FUNDING_S])
        digits = len(str(FUNDING_SCALE)) - 1
        return ("-" if rate < 0 else "") + _text(abs(rate), digits, digits)

    def premium(self, section: str, native: str, until_ns: int) -> bytes | None:
        """See `Source.premium`."""
        market = self.markets.get((section, native))
        if market is None or section == "spot":
            return None
        second = until_ns // NS
        mark, index = self._mark_and_index(market, second * NS)
        due = second // FUNDING_S * FUNDING_S + FUNDING_S
        answer = {
            "symbol": native, "markPrice": mark, "indexPrice": index, "estimatedSettlePrice": mark,
            "lastFundingRate": self._rate(market.asset, due), "interestRate": "0.00010000",
            "nextFundingTime": due * 1000, "time": second * 1000,
        }  # fmt: skip
        if section == "inverse":
            answer = {"pair": native.partition("_")[0], **answer}
        return json.dumps([answer] if section == "inverse" else answer, separators=(",", ":")).encode()

    def funding(self, section: str, native: str, query: Query) -> bytes | None:
        """See `Source.funding`."""
        market = self.markets.get((section, native))
        if market is None or section == "spot":
            return None
        last = min(query.until_ns, query.until_ns if query.end_ns is None else query.end_ns) // NS // FUNDING_S
        first = last - query.limit + 1 if query.start_ns is None else -(-query.start_ns // NS // FUNDING_S)
        first = max(first, _day_of(2017) * DAY_S // FUNDING_S)
        dues = [n * FUNDING_S for n in range(first, last + 1)][: query.limit]
        rows = [
            {
                "symbol": native,
                "fundingTime": due * 1000,
                "fundingRate": self._rate(market.asset, due),
                "markPrice": "",
            }
            for due in dues
        ]
        return json.dumps(rows, separators=(",", ":")).encode()


# -- one market's words ------------------------------------------------------------------------------------------------


def _message(market: Market, what: str) -> str:
    """Return the venue's message, its columns named."""
    one, p, q = market.instrument, market.price_digits, market.qty_digits
    spot, native = one.section == "spot", one.native_symbol
    best = ',"M":true' if spot else ""
    head = f'{{"e":"{what}","E":<sent>,"s":"{native}"'
    if what == "trade" and spot:
        return f'{head},"t":<id>,"p":"<price:{p}>","q":"<qty:{q}>","T":<at>,"m":<sell?>,"M":true}}'
    if what == "trade":
        return (
            f'{{"e":"trade","E":<sent>,"T":<at>,"s":"{native}","t":<id>,"p":"<price:{p}>","q":"<qty:{q}>",'
            '"X":"MARKET","m":<sell?>}'
        )
    normal = f'"nq":"<qty:{q}>",' if one.section == "linear" else ""  # the quantity without RPI
    if what == "aggTrade":
        return (
            f'{head},"a":<id>,"p":"<price:{p}>","q":"<qty:{q}>",{normal}"f":<first_id>,"l":<last_id>,"T":<at>,'
            f'"m":<sell?>{best}}}'
        )
    if what == "rest aggTrade":
        return (
            f'{{"a":<id>,"p":"<price:{p}>","q":"<qty:{q}>",{normal}"f":<first_id>,"l":<last_id>,"T":<at>,'
            f'"m":<sell?>{best}}},'
        )
    if what == "rest trade":
        other = "baseQty" if one.section == "inverse" else "quoteQty"
        matched = ',"isBestMatch":true' if spot else ""
        return (
            f'{{"id":<id>,"price":"<price:{p}>","qty":"<qty:{q}>","{other}":"<other_qty:8>","time":<at>,'
            f'"isBuyerMaker":<sell?>{matched}}},'
        )
    pair = f'"ps":"{native.partition("_")[0]}",' if one.section == "inverse" else ""
    quotes = f'"b":"<bid:{p}>","B":"<bid_qty:{q}>","a":"<ask:{p}>","A":"<ask_qty:{q}>"'
    if spot:
        return f'{{"u":<id>,"s":"{native}",{quotes}}}'
    return f'{{"e":"bookTicker","u":<id>,"s":"{native}",{pair}{quotes},"T":<at>,"E":<at>}}'


def _columns(market: Market, block: Prints) -> dict[str, NDArray[np.int64]]:
    """Return prints as a message's columns, numbers at the digits it is written with."""
    one = market.instrument
    at = block.exchange_ns // MS
    if one.margin is Margin.INVERSE:
        qty = block.quote_cents // int(one.contract_size * 100)
    else:
        qty = _rescale(block.qty, one.qty_decimals, market.qty_digits)
    return {
        "id": block.id,
        "first_id": block.first_id,
        "last_id": block.last_id,
        "price": _rescale(block.price, one.price_decimals, market.price_digits),
        "qty": qty,
        "at": at,
        "sent": at + _SENT_MS,
        "sell": (block.side < 0).astype(np.int64),
    }


def _other_qty(market: Market, block: Prints, columns: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return a REST print's second quantity at 8 digits: its value, or its base where it is counted in contracts."""
    if market.instrument.margin is Margin.INVERSE:
        return _rescale(block.qty, market.instrument.qty_decimals, 8)
    digits = market.price_digits + market.qty_digits - 8
    pairs = zip(columns["price"].tolist(), columns["qty"].tolist(), strict=True)
    return np.array([_shift(price * qty, digits) for price, qty in pairs], np.int64)


def _begins(trades: Trades) -> NDArray[np.bool_]:
    """Say which fills differ from the one before in millisecond, price or side."""
    begins = np.ones(trades.id.size, np.bool_)
    begins[1:] = (
        (trades.exchange_ns[1:] != trades.exchange_ns[:-1])
        | (trades.price[1:] != trades.price[:-1])
        | (trades.side[1:] != trades.side[:-1])
    )
    return begins


def _rescale(values: NDArray[np.int64], decimals: int, digits: int) -> NDArray[np.int64]:
    """Bring integers of `10**-decimals` to `10**-digits`; nothing is lost where values are whole ticks or lots."""
    return values * _ten(digits - decimals) if digits >= decimals else values // _ten(decimals - digits)


def _ten(power: int) -> int:
    ten: int = 10**power
    return ten


def _shift(value: int, digits: int) -> int:
    return value // _ten(digits) if digits >= 0 else value * _ten(-digits)


def _text(value: int, decimals: int, digits: int) -> str:
    """Write a number of `10**-decimals` with `digits` digits after its point."""
    value = _shift(value, decimals - digits)
    whole, fraction = divmod(value, 10**digits)
    return f"{whole}.{fraction:0{digits}}" if digits else str(whole)


def _units(step: Decimal, decimals: int) -> int:
    return int(step.scaleb(decimals))


def _digits_of(one: Instrument) -> tuple[int, int]:
    """Return how many digits the venue writes behind the point of prices and quantities."""
    if one.section == "spot":
        return 8, 8
    lot = 0 if one.margin is Margin.INVERSE else max(0, -int(one.lot_size.as_tuple().exponent))
    return max(0, -int(one.tick_size.as_tuple().exponent)), lot


def _clone(one: Instrument, base: str) -> Instrument:
    """Copy a market under another name."""
    native = one.native_symbol.replace(one.base, base, 1)
    settle = base if one.settle == one.base else one.settle
    return replace(one, symbol=one.symbol.replace(one.base, base, 1), native_symbol=native, base=base, settle=settle)


def listing(one: Instrument) -> dict[str, object]:
    """Return a market's entry in the venue's list."""
    tick, lot = f"{one.tick_size:f}", f"{one.lot_size:f}"
    filters = [
        {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000", "tickSize": tick},
        {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "9000000", "stepSize": lot},
    ]
    listed: dict[str, object] = {
        "symbol": one.native_symbol, "baseAsset": one.base, "quoteAsset": one.quote, "filters": filters,
    }  # fmt: skip
    if one.section == "spot":
        return listed | {"status": "TRADING", "isSpotTradingAllowed": True}
    listed |= {
        "pair": one.native_symbol.partition("_")[0], "contractType": "PERPETUAL", "deliveryDate": _PERPETUAL_MS,
        "marginAsset": one.settle,
    }  # fmt: skip
    if one.section == "inverse":
        return listed | {"contractStatus": "TRADING", "contractSize": int(one.contract_size)}
    return listed | {"status": "TRADING"}


def _day_of(year: int) -> int:
    return (dt.date(year, 1, 1) - dt.date(1970, 1, 1)).days
