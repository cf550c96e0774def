"""One client's WebSocket, as Binance treats it: subscriptions with their answers, limits, pings, an end after 24 hours.

What the venue does is taken from its documentation, except where a comment says that we assume it. Messages come from a
source by time; whoever owns the clock calls `deliver`.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from squeezecore.adapters.loopback_faults import FrameFaults
from squeezecore.adapters.loopback_frames import Form, merge
from squeezecore.adapters.loopback_source import SECTIONS, Source

SEND_BUFFER_BYTES = 262_144  # of the kernel, and of ours before a connection counts as full
PATIENCE_S = 10.0  # a client that has answered no ping for so long is not waited for
_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_PACE = b"pace "  # what the pings that measure a client begin with
_PUBLIC = frozenset({"trade", "bookTicker", "depth"})  # what USD-M's /public bears; /market bears the others


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a section allows and how it keeps a connection alive."""

    streams_max: int = 1024  # of a connection
    messages_per_s_max: int = 10  # from a client, pings and pongs included
    ping_s: float = 180.0
    pong_s: float = 600.0  # without a pong for so long after a ping the connection is closed
    life_s: float = 86_400.0
    backlog_bytes_max: int = 16_000_000  # we assume that the venue drops a client that does not read
    weight_per_minute: int = 2_400  # of REST requests; 0: no limit


LIMITS: Mapping[str, Limits] = {
    "spot": Limits(messages_per_s_max=5, ping_s=20.0, pong_s=60.0, weight_per_minute=6_000),
    "linear": Limits(),
    "inverse": Limits(),
}


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL's path and query ask for."""

    section: str
    route: str  # public or market on USD-M; "" where everything is to be had
    form: Form
    streams: tuple[str, ...]


def place_of(target: str) -> Place | None:
    """Read a WebSocket URL's path and query; None where nobody lives.

    >>> place_of("/linear/stream?streams=btcusdt@trade/ethusdt@trade").streams
    ('btcusdt@trade', 'ethusdt@trade')
    """
    parts = urlsplit(target)
    words = [unquote(word) for word in parts.path.split("/") if word]
    section = "spot"  # the venue tells sections by host name; we do by the first word
    if words and words[0] in SECTIONS:
        section = words.pop(0)
    elif not words or words[0] not in {"ws", "stream", "public", "market"}:
        return None
    route = ""
    if words and words[0] in {"public", "market"}:
        section, route = "linear", words.pop(0)
    if not words:
        return Place(section=section, route=route, form="recorded", streams=())
    if words[0] == "ws":
        return Place(section=section, route=route, form="bare", streams=tuple(words[1:]))
    if words == ["stream"]:
        named = [name for value in parse_qs(parts.query).get("streams", []) for name in value.split("/") if name]
        return Place(section=section, route=route, form="combined", streams=tuple(named))
    return None


class Connection(WSListener):
    """A client and what it has subscribed to."""

    def __init__(
        self,
        place: Place,
        limits: Limits,
        source: Source,
        faults: FrameFaults,
        number: int,
        changed: Callable[[Connection], None],
        ready: Callable[[str, str], bool],
    ) -> None:
        super().__init__()
        self.section, self.number = place.section, number
        self.streams: dict[str, None] = dict.fromkeys(place.streams)
        self.open = False
        self.frames_sent = 0
        self.writable = asyncio.Event()
        self.writable.set()
        self._route, self._form, self._limits, self._source = place.route, place.form, limits, source
        self._faults = faults
        self._ready = ready  # whether a section's stream can be told without delay
        self._changed = changed  # called when the connection opens, closes or subscribes
        self._transport: WSTransport | None = None
        self._heard: deque[float] = deque()
        self._pong_at = 0.0
        self._behind: dict[str, int] = {}  # streams that cannot be told yet → from when on they are owed
        self._unready: list[tuple[list[str], int | str | None]] = []  # subscriptions that are not acknowledged yet
        self._paced = self._answered = 0  # pings that measure how far the client has read; of them answered
        self._answered_s = 0.0
        self._timers: list[asyncio.TimerHandle] = []

    # -- what picows calls ---------------------------------------------------------------------------------------------

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Begin the connection's life."""
        self._transport, self.open = transport, True
        below: Any = transport.underlying_transport
        peer = below.get_extra_info("socket")
        if peer is not None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        below.set_write_buffer_limits(high=SEND_BUFFER_BYTES)
        self._pong_at = time.monotonic()
        self._later(self._limits.ping_s, self._ping)
        self._later(self._limits.life_s, lambda: self.close(WSCloseCode.GOING_AWAY, "24 hours"))
        if len(self.streams) > self._limits.streams_max:
            self.close(WSCloseCode.POLICY_VIOLATION, "Too many subscriptions")
        self._changed(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Answer a client's frame."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
            return
        if self._faults.silent:
            return  # as if nobody were there
        now = time.monotonic()
        if frame.msg_type == WSMsgType.PONG and self._measured(frame.get_payload_as_bytes(), now):
            return
        self._heard.append(now)
        while self._heard[0] <= now - 1.0:
            self._heard.popleft()
        if len(self._heard) > self._limits.messages_per_s_max:
            self.close(WSCloseCode.POLICY_VIOLATION, "Too many requests")
        elif frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.PONG:
            self._pong_at = now
        elif frame.msg_type in {WSMsgType.TEXT, WSMsgType.BINARY}:
            self._answer(frame.get_payload_as_bytes())

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002 - its name is the protocol's
        """End the connection's life."""
        self.open = False
        self.writable.set()
        for timer in self._timers:
            timer.cancel()
        self._changed(self)

    def pause_writing(self) -> None:
        """Remember that the client does not read as fast as we write."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """Go on writing."""
        self.writable.set()

    # -- subscriptions -------------------------------------------------------------------------------------------------

    def _answer(self, body: bytes) -> None:
        try:
            request = msgspec.json.decode(body)
        except msgspec.DecodeError:
            self._refuse(3, "Invalid JSON: expected value at line 1 column 1", None)
            return
        if not isinstance(request, dict):
            self._refuse(2, "Invalid request: expected a JSON object", None)
            return
        number = request.get("id")
        if number is not None and (not isinstance(number, int | str) or isinstance(number, bool)):
            self._refuse(2, "Invalid request: request ID must be an unsigned integer", None)
            return
        method, params = request.get("method"), request.get("params", [])
        if method not in _METHODS:
            listed = ", ".join(f"`{one}`" for one in _METHODS)
            text = (
                "missing field `method`" if method is None else f"unknown variant `{method}`, expected one of {listed}"
            )
            self._refuse(2, f"Invalid request: {text} at line 1 column {len(body)}", number)
        elif method == "LIST_SUBSCRIPTIONS":
            self._say({"result": list(self.streams), "id": number})
        elif method in {"SUBSCRIBE", "UNSUBSCRIBE"}:
            if not isinstance(params, list) or not all(isinstance(name, str) for name in params):
                self._refuse(2, "Invalid request: params must be a list of stream names", number)
            else:
                self._subscribe(params, method == "SUBSCRIBE", number)
        else:
            self._property(method, params, number)

    def _subscribe(self, names: list[str], on: bool, number: int | str | None) -> None:
        """The venue acknowledges streams that do not exist as well; they are silent.

        A stream that cannot be told yet is acknowledged once it can: what follows an acknowledgement is whole.
        """
        unready = [name for name in names if on and not self._is_ready(name)]  # asked of all, so that all are made
        if unready:
            self._unready.append((names, number))
            return
        for name in names:
            if on:
                self.streams[name] = None
            else:
                self.streams.pop(name, None)
        if len(self.streams) > self._limits.streams_max:  # we assume the way it is refused
            self.close(WSCloseCode.POLICY_VIOLATION, "Too many subscriptions")
            return
        self._say({"result": None, "id": number})
        self._changed(self)

    def _is_ready(self, stream: str) -> bool:
        return not self._bears(stream) or self._ready(self.section, stream)

    def acknowledge(self) -> None:
        """Acknowledge the subscriptions whose streams can be told by now."""
        waiting, self._unready = self._unready, []
        for names, number in waiting:
            if self.open:
                self._subscribe(names, True, number)

    def _property(self, method: str, params: Any, number: int | str | None) -> None:
        if not isinstance(params, list) or not params or not isinstance(params[0], str):
            self._refuse(2, "Invalid request: property name must be a string", number)
        elif params[0] != "combined":
            self._refuse(0, "Unknown property", number)
        elif method == "GET_PROPERTY":
            self._say({"result": self._form == "combined", "id": number})
        elif len(params) != 2 or not isinstance(params[1], bool):
            self._refuse(1, "Invalid value type: expected Boolean", number)
        else:
            self._form = "combined" if params[1] else "bare"
            self._say({"result": None, "id": number})

    def _say(self, answer: dict[str, Any]) -> None:
        if self.open and self._transport is not None:
            self._transport.send(WSMsgType.TEXT, msgspec.json.encode(answer))

    def _refuse(self, code: int, text: str, number: int | str | None) -> None:
        answer: dict[str, Any] = {"error": {"code": code, "msg": text}}
        self._say(answer if number is None else answer | {"id": number})

    # -- life ----------------------------------------------------------------------------------------------------------

    def _later(self, delay_s: float, do: Callable[[], None]) -> None:
        self._timers = [timer for timer in self._timers if not timer.cancelled() and timer.when() > time.monotonic()]
        self._timers.append(asyncio.get_running_loop().call_later(delay_s, do))

    def _ping(self) -> None:
        if not self.open or self._transport is None:
            return
        if time.monotonic() - self._pong_at > self._limits.ping_s + self._limits.pong_s:
            self.close(WSCloseCode.POLICY_VIOLATION, "Pong timeout")
            return
        if not self._faults.silent:
            self._transport.send_ping(str(time.time_ns() // 1_000_000).encode())
        self._later(self._limits.ping_s, self._ping)

    def pace(self) -> None:
        """Ask for a sign that everything up to here was read; such pings and their answers count for nothing else."""
        if self.open and self._transport is not None and self.streams and not self._faults.silent:
            if self._paced == self._answered:
                self._answered_s = time.monotonic()
            self._paced += 1
            self._transport.send_ping(_PACE + str(self._paced).encode())

    def _measured(self, payload: bytes, now: float) -> bool:
        """Take the answer to such a ping; False where it is another's."""
        number = payload.removeprefix(_PACE)
        if not payload.startswith(_PACE) or not number.isdigit():
            return False
        self._pong_at = self._answered_s = now
        self._answered = max(self._answered, min(self._paced, int(number)))
        self._changed(self)
        return True

    def is_behind(self, pings: int) -> bool:
        """Say whether more than so many of those pings are unanswered; not of a client that answers none."""
        late = self._paced - self._answered > pings and time.monotonic() - self._answered_s < PATIENCE_S
        return late and self.open and not self._faults.silent

    def close(self, code: WSCloseCode, reason: str) -> None:
        """Say goodbye and hang up."""
        if self.open and self._transport is not None:
            self.open = False
            self._transport.send_close(code, reason.encode())
            self._transport.disconnect()

    def abort(self) -> None:
        """Cut the connection as a broken network does."""
        if self._transport is not None:
            self.open = False
            self._transport.disconnect(graceful=False)

    # -- messages ------------------------------------------------------------------------------------------------------

    def _bears(self, stream: str) -> bool:
        if not self._route:
            return True
        return (stream.partition("@")[2].partition("@")[0] in _PUBLIC) == (self._route == "public")

    def deliver(self, start_ns: int, end_ns: int) -> None:
        """Send what the subscribed streams say in `[start_ns, end_ns)`; what a path names may come late, never not at all."""
        if not self.open or self._transport is None or not self.streams:
            return
        parts = []
        for stream in self.streams:
            if not self._is_ready(stream):
                self._behind.setdefault(stream, start_ns)
            elif self._bears(stream):
                since_ns = self._behind.pop(stream, start_ns)
                parts += [(stream, one) for one in self._source.frames(self.section, stream, since_ns, end_ns)]
        sent = merge(parts, self._form)
        if not sent.end.size and not self._faults.waiting:
            return
        struck = self._faults.strike(sent, end_ns)
        self.frames_sent += sent.end.size if struck is None else struck.frames
        below: Any = self._transport.underlying_transport
        below.write(sent.blob.data if struck is None else b"".join(struck.pieces))
        if struck is not None and struck.cut:
            self.open = False
            self._transport.disconnect()  # no close frame; what was written still arrives
        elif below.get_write_buffer_size() > self._limits.backlog_bytes_max:
            self.abort()
