"""A deterministic event loop: time passes only when nobody has anything to do, and then at once to the next timer.

A day of waiting costs nothing, and the same program runs the same way every time. Real files, sockets and threads have no
place in it: what waits for them would wait for ever, and the loop says so.
"""

import asyncio
import math
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class StuckError(RuntimeError):
    """Nothing is left that could ever happen, and the program has not ended."""


TICK_S = (
    1e-6  # time stands on a grid: a timer never fires a hair before its time, and whoever looks again sees it passed
)


class _Selector(selectors.SelectSelector):
    """Waits by moving the clock."""

    ticks = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise StuckError("every task waits for something that no task and no timer will bring")
        self.ticks = max(self.ticks + 1, round(self.ticks + timeout / TICK_S))
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time` starts at zero and jumps from timer to timer."""

    def __init__(self) -> None:
        self._waits = _Selector()
        super().__init__(self._waits)

    def time(self) -> float:
        """Return the virtual seconds since the start."""
        return self._waits.ticks * TICK_S

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """Call at a time, or at the first tick after it."""
        tick = math.ceil(when / TICK_S)
        tick += tick * TICK_S < when
        return super().call_at(tick * TICK_S, callback, *args, context=context)


class VirtualClock:
    """The time of day inside a virtual loop (`adapters.clock.Clock`)."""

    def __init__(self, loop: VirtualLoop, start_ns: int) -> None:
        self._loop, self._start_ns = loop, start_ns

    def now_ns(self) -> int:
        """Return UTC nanoseconds."""
        return self._start_ns + round(self._loop.time() * 1e9)


def run(main: Coroutine[Any, Any, Result], loop: VirtualLoop | None = None) -> Result:
    """Run a program to its end in virtual time; tasks it leaves behind are cancelled."""
    loop = loop or VirtualLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.close()
