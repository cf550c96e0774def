"""Binance's REST answers over plain HTTP/1.1: lists, prints by id, open interest, funding, weights.

Beside the venue's own paths there are ours: `/truth/<section>/<symbol>?from_id=&to_id=&kind=aggTrade` tells every print whatever
was sent, `/status` how the exchange stands; `/faults?spec=` puts other faults in force, `/until?ns=` lets its own clock go on.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec

from squeezecore.adapters.loopback_faults import REST_FAULTS, Made, Trouble, parse_faults
from squeezecore.adapters.loopback_sockets import Limits
from squeezecore.adapters.loopback_source import API, MS, ROWS_MAX, SECTIONS, Query, Source
from squeezecore.errors import UsageError

_IDLE_S = 60.0
_TRUTH_ROWS_MAX = 5_000_000
_BAN_S = 120
_PATIENCE = 10  # requests beyond the limit until the venue bans
# What a request costs; premiumIndex without a symbol would cost 10.
_WEIGHTS: Mapping[str, Mapping[str, int]] = {
    "spot": {"exchangeInfo": 20, "aggTrades": 4, "trades": 25, "historicalTrades": 25},
    "linear": {"aggTrades": 20, "trades": 5, "historicalTrades": 20},
    "inverse": {"aggTrades": 20, "trades": 5, "historicalTrades": 20},
}
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 418: "I'm a teapot",
            429: "Too Many Requests", 500: "Internal Server Error", 503: "Service Unavailable"}  # fmt: skip
_SYMBOL = re.compile(r"[A-Z0-9_]{1,32}")


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    wait_s: float = 0.0  # before it is sent
    share: float = 1.0  # of the body that is sent; less than all ends the connection


def refusal(status: int, code: int, text: str) -> Answer:
    """Make an answer as the venue refuses."""
    return Answer(status, msgspec.json.encode({"code": code, "msg": text}))


class Weights:
    """How much of a minute's weight is used, and who is banned; one caller, because all come from this machine."""

    def __init__(self, limits: Mapping[str, Limits], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._monotonic = limits, monotonic
        self._used: dict[str, tuple[int, int]] = {}  # section → (minute, weight)
        self._over: dict[str, int] = {}
        self._banned: dict[str, float] = {}

    def charge(self, section: str, weight: int) -> tuple[int, Answer | None]:
        """Count a request; return the minute's weight so far and, where it is too much, the refusal."""
        limit, now = self._limits[section].weight_per_minute, self._monotonic()
        minute = int(now // 60)
        before, used = self._used.get(section, (minute, 0))
        used = weight if before != minute else used + weight
        if before != minute:
            self._over[section] = 0
        self._used[section] = (minute, used)
        if now < self._banned.get(section, 0.0):
            return used, self._refuse(418, self._banned[section] - now)
        if limit == 0 or used <= limit:
            return used, None
        self._over[section] = self._over.get(section, 0) + 1
        if self._over[section] > _PATIENCE:
            self._banned[section] = now + _BAN_S
            return used, self._refuse(418, _BAN_S)
        return used, self._refuse(429, 60.0 - now % 60)

    @staticmethod
    def _refuse(status: int, wait_s: float) -> Answer:
        made = refusal(status, -1003, "Too much request weight used; please use WebSocket Streams for live updates.")
        return made._replace(headers=(("Retry-After", str(int(wait_s) + 1)),))


class Rest:
    """The venue's REST interface over a source."""

    def __init__(
        self,
        source: Source,
        limits: Mapping[str, Limits],
        now_ns: Callable[[], int],
        status: Callable[[], Mapping[str, object]],
        trouble: Trouble,
        go_on: Callable[[int | None], None],
    ) -> None:
        self._source, self._now_ns, self._status, self._trouble = source, now_ns, status, trouble
        self._go_on = go_on
        self._weights = Weights(limits)
        self._numbers = dict.fromkeys(SECTIONS, 0)  # of the next request

    def answer(self, target: str) -> Answer:
        """Answer a GET of a path and query."""
        parts = urlsplit(target)
        words = [word for word in parts.path.split("/") if word]
        params = dict(parse_qsl(parts.query, keep_blank_values=True))
        if words == ["status"]:
            return Answer(200, msgspec.json.encode(self._status()))
        if words == ["faults"]:
            return self._new_faults(params.get("spec", ""))
        if words == ["until"]:
            return self._until(params.get("ns", ""))
        if len(words) == 3 and words[0] == "truth" and words[1] in SECTIONS:
            return self._truth(words[1], words[2], params)
        section = words.pop(0) if words and words[0] in SECTIONS else ""
        path = "/" + "/".join(words)
        found = [s for s in SECTIONS if section in {"", s} and path.startswith(API[s] + "/")]
        if not found:
            return refusal(404, -5000, f"Path {parts.path}, Method GET is invalid")
        return self._venue(found[0], path.removeprefix(API[found[0]] + "/"), params)

    def _venue(self, section: str, name: str, params: Mapping[str, str]) -> Answer:
        used, refused = self._weights.charge(section, _WEIGHTS[section].get(name, 1))
        made = refused or self._struck(section) or self._named(section, name, params)
        kind, amount = self._draw(section, ("resthalf", "resthang", "restslow"))
        self._numbers[section] += 1
        if kind == "resthalf":
            made = made._replace(share=0.5)
        elif kind == "resthang":
            made = made._replace(share=0.0, wait_s=amount)
        elif kind == "restslow":
            made = made._replace(wait_s=amount / 1000)
        return made._replace(headers=(*made.headers, ("X-MBX-USED-WEIGHT-1M", str(used))))

    def _until(self, text: str) -> Answer:
        if text and not re.fullmatch(r"[0-9]{1,19}", text):
            return refusal(400, -1000, f"ns was {text!r}, expected nanoseconds since 1970, or nothing for no end")
        self._go_on(int(text) if text else None)
        return Answer(200, b"{}")

    def _new_faults(self, text: str) -> Answer:
        try:
            self._trouble.faults = parse_faults(text)
        except UsageError as error:
            return refusal(400, -1000, str(error))
        return Answer(200, b"{}")

    def _draw(self, section: str, kinds: tuple[str, ...]) -> tuple[str, float]:
        """Return the fault among some that strikes a section's next answer, and its amount."""
        faults, number = self._trouble.faults, self._numbers[section]
        kind = faults.draw({kind: REST_FAULTS[kind] for kind in kinds}, "rest", section, number=number)
        if kind:
            self._trouble.note(Made(kind, section, -1, number))
        return kind, faults.amounts.get(kind, 0.0)

    def _struck(self, section: str) -> Answer | None:
        """Return the answer that a fault gives instead of the true one."""
        kind, amount = self._draw(section, ("rest429", "rest418", "rest500", "rest503"))
        if kind in {"rest429", "rest418"}:
            made = refusal(int(kind[-3:]), -1003, "Too many requests; this one was a fault on purpose.")
            return made._replace(headers=(("Retry-After", f"{amount:.0f}"),))
        if kind:
            return refusal(int(kind[-3:]), -1000, "An unknown error occurred while processing the request.")
        return None

    def _named(self, section: str, name: str, params: Mapping[str, str]) -> Answer:
        now_ns = self._now_ns()
        if name == "ping":
            return Answer(200, b"{}")
        if name == "time":
            return Answer(200, msgspec.json.encode({"serverTime": now_ns // MS}))
        if name == "exchangeInfo":
            return Answer(200, self._source.exchange_info(section, now_ns))
        if name == "fundingInfo" and section != "spot":
            return Answer(200, b"[]")  # only symbols whose settings differ from the default stand there
        known = {"aggTrades", "trades", "historicalTrades"}
        if section != "spot":
            known |= {"openInterest", "premiumIndex", "fundingRate"}
        if name not in known:
            return refusal(404, -5000, f"Path {API[section]}/{name}, Method GET is invalid")
        symbol = params.get("symbol", "")
        if not symbol:
            return refusal(400, -1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        if not _SYMBOL.fullmatch(symbol):
            return refusal(
                400, -1100, "Illegal characters found in parameter 'symbol'; legal range is '^[A-Z0-9-_.]{1,20}$'."
            )
        query = query_of(params, now_ns, 500 if name != "fundingRate" else 100)
        if isinstance(query, Answer):
            return query
        if name == "trades":
            query = Query(query.until_ns, query.limit)
        body = self._body(section, name, symbol, query)
        if body == b"":
            return refusal(404, -5000, f"Nothing was recorded of {name} of {symbol}.")
        return refusal(400, -1121, "Invalid symbol.") if body is None else Answer(200, body)

    def _body(self, section: str, name: str, symbol: str, query: Query) -> bytes | None:
        if name == "openInterest":
            return self._source.open_interest(section, symbol, query.until_ns)
        if name == "premiumIndex":
            return self._source.premium(section, symbol, query.until_ns)
        if name == "fundingRate":
            return self._source.funding(section, symbol, query)
        return self._source.prints(section, symbol, name == "aggTrades", query)

    def _truth(self, section: str, symbol: str, params: Mapping[str, str]) -> Answer:
        if "from_id" not in params and "start_ms" not in params:
            return refusal(400, -1102, "say from_id or start_ms: all prints since ever are too many")
        names = {"from_id": "fromId", "start_ms": "startTime", "end_ms": "endTime"}
        try:
            first, last = int(params.get("from_id", "0")), int(params.get("to_id", str(2**62)))
        except ValueError:
            return refusal(400, -1100, "from_id and to_id have to be integers")
        query = query_of({names.get(k, k): v for k, v in params.items() if k in names}, self._now_ns(), _TRUTH_ROWS_MAX)
        if isinstance(query, Answer):
            return query
        limit = min(_TRUTH_ROWS_MAX, max(0, last - first + 1)) if "to_id" in params else _TRUTH_ROWS_MAX
        rows = self._source.truth(
            section, symbol, params.get("kind", "trade") == "aggTrade", query._replace(limit=limit)
        )
        if rows is None:
            return refusal(404, -1121, "Invalid symbol.")
        return Answer(200, b"[" + b",".join(rows) + b"]")


def query_of(params: Mapping[str, str], now_ns: int, limit: int) -> Query | Answer:
    """Read what a request for prints or funding asks for, or refuse as the venue does."""
    values: dict[str, int] = {}
    for name in ("fromId", "startTime", "endTime", "limit"):
        if name not in params:
            continue
        if not re.fullmatch(r"[0-9]{1,18}", params[name]):
            return refusal(
                400, -1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'."
            )
        values[name] = int(params[name])
    if "fromId" in values and ("startTime" in values or "endTime" in values):
        return refusal(400, -1128, "Combination of optional parameters invalid.")
    if values.get("limit") == 0:
        return refusal(400, -1130, "Data sent for parameter 'limit' is not valid.")
    start, end = values.get("startTime"), values.get("endTime")
    if start is not None and end is not None and start > end:
        return refusal(400, -1023, "Start time is greater than end time.")
    return Query(
        until_ns=now_ns,
        limit=min(ROWS_MAX, values["limit"]) if "limit" in values else limit,
        from_id=values.get("fromId"),
        start_ns=None if start is None else start * MS,
        end_ns=None if end is None else end * MS,
    )


async def handle(rest: Rest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one HTTP connection until it is closed or idle."""
    try:
        keep = True
        while keep:
            async with asyncio.timeout(_IDLE_S):
                head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            words = lines[0].split(" ")
            if len(words) != 3 or not words[2].startswith("HTTP/1."):
                answer, keep = refusal(400, -1000, "Bad request line"), False
            elif words[0] != "GET":
                answer, keep = refusal(405, -1000, f"Method {words[0]} is not supported"), False
            else:
                keep = not any(line.lower().replace(" ", "") == "connection:close" for line in lines[1:])
                answer = rest.answer(words[1])
            await asyncio.sleep(answer.wait_s)
            keep = keep and answer.share == 1.0
            await _write(writer, answer, keep)
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
        pass  # the client left, or says nothing we understand
    finally:
        writer.close()


async def _write(writer: asyncio.StreamWriter, answer: Answer, keep: bool) -> None:
    headers = [
        ("Content-Type", "application/json;charset=UTF-8"),
        ("Content-Length", str(len(answer.body))),
        ("Connection", "keep-alive" if keep else "close"),
        *answer.headers,
    ]
    head = f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers)
    text = head.encode() + b"\r\n" + answer.body
    writer.write(text[: int(len(text) * answer.share)])
    await writer.drain()
