"""Asking one section of one venue: within its limits, and less often when it fails."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from squeeze_openinterest.limits import BANNED, TOO_MANY, Budget, Pause
from squeezecore.adapters.asking import AskError, Fetch
from squeezecore.errors import ParseError, SqueezeError
from squeezecore.venues import Section

SLOTS = 4  # requests to a section at once
OK = 200
FUNDING_FIELDS = frozenset({"funding", "funding_info"})  # of `Section`; a venue may count them apart


Where = Callable[[str, Section], str]  # (venue, section) → base URL; raises `AskError` where it is not known now


class Params(NamedTuple):
    """What can be chosen."""

    every_s: float = 10.0
    share: float = 0.5  # of a section's limits; the rest is for others at the same address
    max_age_s: int = 120
    publish_marks: bool = True
    seed: int = 0


class Counts(Protocol):
    """Where is counted what was asked and what was published."""

    def asked(self, venue: str, section: str, outcome: str) -> None:
        """Count a request: answered, refused, limited, failed, unreadable."""

    def published(self, venue: str, section: str, kind: str, count: int) -> None:
        """Count facts: interest, predicted, settled, mark."""


class RefusedError(SqueezeError):
    """The venue does not answer this request; others may be answered."""


class Desk:
    """Asks one section of one venue; all its polls go through here."""

    def __init__(self, name: str, section: Section, where: Where, fetch: Fetch, params: Params, counts: Counts) -> None:
        self.venue, self.section = name, section
        self.last_error = ""
        self.pause = Pause()
        self._loop = asyncio.get_running_loop()
        self._where, self._fetch, self._counts = where, fetch, counts
        self._budget = Budget(section.weight_per_minute_max * params.share)
        self._funding = Budget(section.funding_per_minute_max * params.share)
        self._slots = asyncio.Semaphore(SLOTS)
        self._dice = np.random.default_rng([params.seed, zlib.crc32(f"{name}.{section.name}".encode())])

    async def ask(self, field: str, **values: object) -> bytes | None:
        """Ask for one of the section's paths, by its field; None where there was no answer, which is dealt with here.

        Raises `RefusedError` where it answered that it will not.
        """
        template: str = getattr(self.section, field)
        path = template.format(**values)
        await self._afford(field)  # before a slot is taken: what waits for its weight holds nobody up
        async with self._slots:
            await self._quiet()
            began_s = self._loop.time()
            try:
                answer = await self._fetch(self._where(self.venue, self.section).rstrip("/") + path)
            except AskError as error:
                self._failed(began_s, str(error))
                return None
        now_s = self._loop.time()
        if answer.status in (TOO_MANY, BANNED):
            pause_s = self.pause.told(answer.status, answer.headers.get("retry-after"), now_s)
            self._count("limited", f"{self._name} answered {answer.status}: it is left alone for {pause_s:.0f} s")
            return None
        if answer.status >= 500:
            self._failed(began_s, f"{self._name} answered {answer.status}")
            return None
        self.pause.succeeded()
        if answer.status != OK:
            reason = f"{self._name} refused {path} with {answer.status}: {answer.body[:200].decode(errors='replace')}"
            self._count("refused", reason)
            raise RefusedError(reason)
        self._counts.asked(self.venue, self.section.name, "answered")
        return answer.body

    @property
    def pause_s(self) -> float:
        """For how long the section is left alone."""
        return self.pause.left_s(self._loop.time())

    def unreadable(self, error: ParseError) -> None:
        """Note that an answer could not be read."""
        self._count("unreadable", str(error))

    @property
    def _name(self) -> str:
        return f"{self.venue} {self.section.name}"

    async def _afford(self, field: str) -> None:
        """Wait until the section's limits allow a request."""
        budget = self._funding if field in FUNDING_FIELDS else self._budget
        weight = 1 if budget is self._funding else self.section.weights.get(field, 1)
        await asyncio.sleep(budget.take(weight, self._loop.time()))

    async def _quiet(self) -> None:
        """Wait as long as the section is left alone."""
        while True:
            left_s = self.pause_s
            if left_s <= 0:
                return
            await asyncio.sleep(left_s)

    def _failed(self, began_s: float, reason: str) -> None:
        now_s = self._loop.time()
        pause_s = self.pause.failed(began_s, now_s, float(self._dice.random()))
        self._count("failed", f"{reason}: next try in {pause_s:.1f} s")

    def _count(self, outcome: str, reason: str) -> None:
        self.last_error = reason
        self._counts.asked(self.venue, self.section.name, outcome)
