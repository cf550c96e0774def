"""Questions to a venue's REST side, never more of them than it allows.

A desk serves one section of one venue. It spends a budget of the venue's weights, stops for as long as the venue says
(429, 418, Retry-After), and turns every failure into one kind of error.
"""

from __future__ import annotations

import asyncio
import email.utils
from collections.abc import Callable
from typing import Any

import httpx

from squeezecore.adapters.asking import AskError, Fetch
from squeezecore.adapters.clock import Clock
from squeezecore.venues import Section

SHARE = 0.5  # of the venue's budget; others at our address have the rest
WAIT_S_MIN = 0.01  # for the budget
PENALTY_S = 5.0  # after a refusal for our rate that names no time
PENALTY_S_MAX = 900.0
_TOO_MANY = (429, 418)


class Desk:
    """Asks one section's REST side."""

    def __init__(self, section: Section, base: Callable[[], str], fetch: Fetch, clock: Clock) -> None:
        self.section = section
        self.asked = 0
        self.refused = 0  # for our rate
        self._base = base  # asked each time: a venue on loopback may move
        self._fetch = fetch
        self._clock = clock
        self._per_s = section.weight_per_minute_max * SHARE / 60
        self._burst = max(self._per_s * 10, *section.weights.values(), 1)
        self._budget = float(self._burst)
        self._counted_s: float | None = None
        self._closed_until_s = 0.0
        self._turn = asyncio.Lock()

    async def ask(self, path: str, **values: Any) -> bytes:
        """Return the body of the answer to one of the section's paths, by the name of its field; waits for its turn.

        Raises `AskError` when there is no answer, or the venue refuses.
        """
        template: str = getattr(self.section, path)
        if not template:
            raise AskError(f"{self.section.name} has no path for {path}")
        async with self._turn:
            await self._afford(self.section.weights.get(path, 1))
        url = self._base() + template.format(**values)
        self.asked += 1
        answer = await self._fetch(url)
        if answer.status in _TOO_MANY:
            self.refused += 1
            wait_s = retry_after_s(answer.headers.get("retry-after", ""), self._clock.now_ns())
            self._closed_until_s = asyncio.get_running_loop().time() + wait_s
            raise AskError(f"{url} said that we ask too much ({answer.status}): it is left alone for {wait_s:.0f} s")
        if answer.status != httpx.codes.OK:
            raise AskError(f"{url} answered {answer.status}: {answer.body[:200]!r}")
        return answer.body

    async def _afford(self, weight: int) -> None:
        """Wait until the budget holds a weight and the venue is open, then spend it."""
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            if self._counted_s is not None:
                self._budget = min(self._burst, self._budget + (now - self._counted_s) * self._per_s)
            self._counted_s = now
            wait_s = max(self._closed_until_s - now, (weight - self._budget) / self._per_s)
            if wait_s <= 0:
                self._budget -= weight
                return
            await asyncio.sleep(max(wait_s, WAIT_S_MIN))


def retry_after_s(text: str, now_ns: int) -> float:
    """Read Retry-After, seconds or a date, into bounded seconds.

    >>> retry_after_s("7", 0), retry_after_s("soon", 0), retry_after_s("Thu, 01 Jan 1970 00:01:00 GMT", 0)
    (7.0, 5.0, 60.0)
    """
    try:
        wait_s = float(text)
    except ValueError:
        try:
            wait_s = email.utils.parsedate_to_datetime(text).timestamp() - now_ns / 1e9
        except ValueError:
            wait_s = PENALTY_S
    return min(max(wait_s, 0.0), PENALTY_S_MAX) if wait_s == wait_s else PENALTY_S  # noqa: PLR0124 - not a number
