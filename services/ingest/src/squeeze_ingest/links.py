"""One WebSocket connection: bytes in with the time they came, bytes out. It knows no venue.

A feed takes `Connect` as an argument, so a simulation drives it with links of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import picows

from squeezecore.adapters.asking import AskError
from squeezecore.adapters.clock import Clock

CONNECT_S_MAX = 10.0
FRAME_BYTES_MAX = 4 << 20
BUFFER_BYTES = 256 << 10  # read at once; more frames a turn of the loop, fewer turns

_QUIET = logging.getLogger("squeeze_ingest.picows")  # what it would say, the feed says
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False


class LinkError(AskError):
    """A connection could not be opened, or was lost; the message says why."""


class Ear(Protocol):
    """Who listens to a link; called from the event loop, in the order of the bytes."""

    def frame(self, frame: bytes, received_ns: int) -> None:
        """Take a message of the venue."""

    def alive(self, *, pong: bool) -> None:
        """Take a ping, or the answer to ours: no content, but a sign of life."""

    def ping(self, answer: Callable[[], None]) -> None:
        """Take a ping: `answer` says that what came before it was taken care of, and is to be called soon."""

    def lost(self, reason: str) -> None:
        """Learn that the link has ended, by whomever; nothing comes after this."""


class Link(Protocol):
    """An open connection."""

    def send(self, message: bytes) -> None:
        """Send a text message."""

    def ping(self) -> None:
        """Ask for a sign of life."""

    def pause(self) -> None:
        """Read no more for now: what we cannot take waits at the sender's."""

    def resume(self) -> None:
        """Read again."""

    def close(self) -> None:
        """Close; `Ear.lost` follows, if it was not called already."""


Connect = Callable[[str, Ear], Awaitable[Link]]


class Listener(picows.WSListener):
    """Turns what picows says into what an ear hears; a message in parts is put together."""

    def __init__(self, ear: Ear, clock: Clock) -> None:
        self._ear = ear
        self._now_ns = clock.now_ns
        self._frame = ear.frame
        self._parts: list[bytes] = []
        self._parts_bytes = 0

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Take a frame; its memory is ours only until we return."""
        kind = frame.msg_type
        if kind is picows.WSMsgType.TEXT or kind is picows.WSMsgType.BINARY:
            if frame.fin:
                self._frame(frame.get_payload_as_bytes(), self._now_ns())
            else:
                self._parts, self._parts_bytes = [frame.get_payload_as_bytes()], frame.payload_size
        elif kind is picows.WSMsgType.CONTINUATION:
            self._parts_bytes += frame.payload_size
            if self._parts_bytes > FRAME_BYTES_MAX:
                transport.disconnect(graceful=False)
                return
            self._parts.append(frame.get_payload_as_bytes())
            if frame.fin:
                whole, self._parts, self._parts_bytes = b"".join(self._parts), [], 0
                self._frame(whole, self._now_ns())
        elif kind is picows.WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif kind is picows.WSMsgType.PING:
            self._ear.ping(partial(_pong, transport, frame.get_payload_as_bytes()))
        else:
            self._ear.alive(pong=True)

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """Say how it ended, as far as anybody said."""
        ended = transport.close_handshake
        said = None if ended is None else ended.recv
        self._ear.lost("the connection broke" if said is None else f"the venue closed it ({said.code} {said.reason})")


def _pong(transport: picows.WSTransport, payload: bytes) -> None:
    """Answer a ping, if the connection is still there."""
    if not transport.underlying_transport.is_closing():
        transport.send_pong(payload)


async def _hear_end(transport: picows.WSTransport) -> None:
    """Take note of how it ended; otherwise the loop complains that nobody did. The ear was told already."""
    with contextlib.suppress(picows.WSError, OSError):
        await transport.wait_disconnected()


class _Link:
    def __init__(self, transport: picows.WSTransport) -> None:
        self._transport = transport
        self._end = asyncio.get_running_loop().create_task(_hear_end(transport))

    def send(self, message: bytes) -> None:
        self._transport.send(picows.WSMsgType.TEXT, message)

    def ping(self) -> None:
        self._transport.send_ping()

    def pause(self) -> None:
        self._transport.underlying_transport.pause_reading()

    def resume(self) -> None:
        self._transport.underlying_transport.resume_reading()

    def close(self) -> None:
        self._transport.disconnect()


def connector(clock: Clock) -> Connect:
    """Return what opens real connections; `clock` stamps each message."""

    async def connect(url: str, ear: Ear) -> Link:
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                transport, _ = await picows.ws_connect(
                    lambda: Listener(ear, clock),
                    url,
                    logger_name=_QUIET,
                    disconnect_on_exception=True,
                    enable_auto_pong=False,  # it would keep the venue's pings from us
                    max_frame_size=FRAME_BYTES_MAX,
                    read_buffer_init_size=BUFFER_BYTES,
                )
        except TimeoutError as error:
            raise LinkError(f"{url} did not answer within {CONNECT_S_MAX:.0f} s: is it up?") from error
        except (OSError, picows.WSError) as error:
            raise LinkError(f"{url} could not be reached ({error}): is it up, and this machine online?") from error
        return _Link(transport)

    return connect
