"""The time of day, for services: the one place that reads it, and what a simulation replaces.

Waiting is the event loop's business (`asyncio.sleep`, `loop.time()`), so that a virtual loop and a virtual clock together
drive a whole service through a day in a moment.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time of day."""

    def now_ns(self) -> int:
        """Return UTC nanoseconds since 1970."""
        ...


class _System:
    """This machine's clock; it may jump when somebody sets it."""

    def now_ns(self) -> int:
        return time.time_ns()


SYSTEM: Clock = _System()
