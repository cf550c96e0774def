"""An executor whose venue lies outside of it: a file that knows each order by its id, whoever sends it.

`python tests/support/trading_venue.py FILE [WHERE]` stops itself (SIGSTOP) at its first order: `before` it is appended to the
stream, `between` append and sending, or `after` it was sent; then FILE.stopped appears.
"""

import dataclasses
import fcntl
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from squeeze_executor.app import Settings, build
from squeeze_executor.venue import Paper
from squeezecore.adapters.service import Kit, Part, main
from squeezecore.trading import Order, OrderUpdate
from squeezecore.wire import Sending

LEDGER = Path(sys.argv[1])
WHERE = sys.argv[2] if len(sys.argv) > 2 else ""


def stop(where: str) -> None:
    """Fall asleep, once, where it was asked for."""
    told = LEDGER.with_suffix(".stopped")
    if where == WHERE and not told.exists():
        told.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)


class StoppingBus:
    def __init__(self, bus: Any) -> None:
        self._bus = bus

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def publish(self, message: Any, **options: Any) -> Any:
        if isinstance(message, Sending):
            stop("before")
        return await self._bus.publish(message, **options)


def first(name: str) -> bool:
    """Write a name down unless it is there; tell whether it was not."""
    with LEDGER.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        known = name in file.read().split()
        if not known:
            file.write(name + "\n")
    return not known


class FileVenue:
    """Takes an order once; a line for each, and one in another file for each that was sent again."""

    def __init__(self, paper: Paper) -> None:
        self._paper = paper

    def __getattr__(self, name: str) -> Any:
        return getattr(self._paper, name)

    async def submit(self, order: Order) -> OrderUpdate:
        stop("between")
        if not first(order.id):
            with LEDGER.with_suffix(".again").open("a") as file:
                file.write(order.id + "\n")
        stop("after")
        return await self._paper.submit(order)


async def build_here(kit: Kit, stack: AsyncExitStack) -> Part:
    return await build(dataclasses.replace(kit, bus=StoppingBus(kit.bus)), stack, venue_of=FileVenue)


if __name__ == "__main__":
    main("executor", Settings, build_here)
