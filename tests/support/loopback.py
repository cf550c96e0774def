"""Clients of the simulated exchanges, and the exchange as a process of its own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from picows import WSCloseCode, WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from squeezecore.adapters.loopback import Loopback
from squeezecore.adapters.loopback_source import API
from support.command import eventually

WAIT_S = 60.0


class Client(WSListener):
    """A WebSocket client that keeps what it hears: messages in `heard`, answers to its own requests apart."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[bytes] = []
        self.answers: list[dict[str, Any]] = []
        self.pings: list[bytes] = []
        self.pongs_back = True
        self.closed: tuple[WSCloseCode, str] | None = None  # by the venue's close frame
        self.gone = asyncio.Event()
        self.news = asyncio.Event()
        self.transport: WSTransport

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        body = frame.get_payload_as_bytes()
        if frame.msg_type == WSMsgType.PING:
            self.pings.append(body)
            if self.pongs_back:
                transport.send_pong(body)
        elif frame.msg_type == WSMsgType.CLOSE:
            self.closed = (frame.get_close_code(), frame.get_close_reason())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.TEXT and body.startswith((b'{"result"', b'{"error"')):
            self.answers.append(json.loads(body))
        else:
            self.heard.append(body)
        self.news.set()

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002
        self.gone.set()
        self.news.set()

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    def say(self, message: object) -> None:
        """Send a message; bytes go out as they are."""
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.transport.send(WSMsgType.TEXT, body)

    async def ask(self, method: str, params: object = None, number: int = 1) -> dict[str, Any]:
        """Send a request and return its answer."""
        before = len(self.answers)
        self.say({"method": method, "id": number} | ({} if params is None else {"params": params}))
        await self.until(lambda: len(self.answers) > before)
        return self.answers[before]

    async def until(self, condition: Any) -> None:
        """Wait until something heard makes a condition true."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self.news.clear()
                await self.news.wait()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """Connect a client, and leave at the end."""
    transport, client = await ws_connect(Client, url, enable_auto_pong=False)
    try:
        yield client
    finally:
        transport.disconnect(graceful=False)
        with suppress(WSError):  # the venue may have broken the protocol on purpose
            await transport.wait_disconnected()


def url(exchange: Loopback, section: str, path: str = "") -> str:
    """Return where a section's WebSocket is."""
    return exchange.endpoints["binance"][section]["websocket"] + path


async def hear_all(exchange: Loopback, *clients: Client) -> None:
    """Wait until the exchange has sent everything and the clients have heard it."""
    async with asyncio.timeout(WAIT_S):
        await exchange.done.wait()
    sent = exchange.status()["frames_sent"]
    while sum(len(one.heard) for one in clients) < sent:
        async with asyncio.timeout(WAIT_S):
            waits = [asyncio.ensure_future(one.news.wait()) for one in clients]
            for one in clients:
                one.news.clear()
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()


async def get(exchange: Loopback, section: str, path: str) -> httpx.Response:
    """Ask REST below a section's own prefix."""
    rest = exchange.endpoints["binance"][section]["rest"]
    async with httpx.AsyncClient(trust_env=False, timeout=WAIT_S) as http:
        return await http.get(f"{rest}{API[section]}/{path}")


def start(*words: object) -> "subprocess.Popen[str]":
    """Start the exchange as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "squeezecore.adapters.loopback", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def running(directory: Path, *words: object) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """Run the exchange as a process; return it and the file that says where it is."""
    endpoints = directory / "endpoints.json"
    process = start("--endpoints", endpoints, *words)
    try:
        assert eventually(endpoints.exists, process), process.communicate()
        yield process, endpoints
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
