"""How `squeezeflow up` looks: a live table in a terminal, plain lines where nobody watches, JSON lines for machines."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from rich.live import Live
from rich.table import Table
from rich.text import Text

from squeezeflow import show
from squeezeflow.keeping import Sight

ERROR_CHARS = 240  # of a line; /readyz and the log have the whole
STATUS_EVERY = 5  # looks, between two JSON lines with everything
TOLD = {"STARTING", "RESTARTING", "REFUSED", "STOPPING", "STOPPED", "LEFT"}  # lines of their own say these
COLORS = {"RUNNING": "green", "REFUSED": "bold red", "RESTARTING": "red", "SILENT": "red", "STOPPED": "dim"}


class Board(Protocol):
    """Where it is shown how everything goes."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def tell(self, text: str, **facts: Any) -> None:
        """Say that something happened."""

    def show(self, sights: Sequence[Sight]) -> None:
        """Show the present state of everything."""


def board(as_json: bool) -> Board:
    """Return the board that fits whoever looks."""
    if as_json:
        return _Json()
    return _Table() if show.out.is_terminal else _Lines()


class _Plain:
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class _Lines(_Plain):
    """A line whenever a state, an address or a reason changes."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[Any, ...]] = {}

    def tell(self, text: str, **_facts: Any) -> None:
        """Print it."""
        show.out.print(text, markup=False, soft_wrap=True)

    def show(self, sights: Sequence[Sight]) -> None:
        """Print what changed."""
        for sight in sights:
            now = sight.state, sight.ready, sight.address, sight.error
            if sight.state in TOLD:
                continue
            if self._shown.get(sight.name) != now:
                self._shown[sight.name] = now
                error = sight.error if len(sight.error) <= ERROR_CHARS else sight.error[:ERROR_CHARS] + " …"
                parts = [f"{sight.name}: {word(sight)}", sight.address, error]
                self.tell("  ".join(part for part in parts if part))


class _Json(_Plain):
    """One JSON object a line: what happened, and every few seconds everything."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[Any, ...]] = {}
        self._looks = 0

    def tell(self, text: str, **facts: Any) -> None:
        """Write it."""
        self._write({"event": "told", "text": text} | facts)

    def show(self, sights: Sequence[Sight]) -> None:
        """Write what changed, and everything now and then."""
        for sight in sights:
            now = sight.state, sight.ready, sight.pid, sight.address, sight.error
            if self._shown.get(sight.name) != now:
                self._shown[sight.name] = now
                self._write({"event": "state"} | _plain(sight))
        self._looks += 1
        if self._looks % STATUS_EVERY == 0:
            self._write({"event": "status", "services": [_plain(sight) for sight in sights]})

    @staticmethod
    def _write(value: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()


def _plain(sight: Sight) -> dict[str, Any]:
    return dataclasses.asdict(sight) | {"service": sight.name, "restarts": sight.restarts}


class _Table:
    """A table that stays in its place."""

    def __init__(self) -> None:
        self._live = Live(console=show.out, auto_refresh=False, vertical_overflow="visible")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def tell(self, text: str, **_facts: Any) -> None:
        """Print it above the table."""
        show.out.print(text, markup=False, soft_wrap=True)

    def show(self, sights: Sequence[Sight]) -> None:
        """Draw it anew."""
        self._live.update(drawn(sights), refresh=True)


def drawn(sights: Sequence[Sight]) -> Table:
    """Draw the table of everything that runs."""
    made = show.table("", "service", "state", "lag", "messages/s", "restarts", "address", "last error",
                      right=("lag", "messages/s", "restarts"))  # fmt: skip
    made.title = None
    made.columns[-1].no_wrap, made.columns[-1].overflow = True, "ellipsis"  # the log and /readyz have the whole
    for sight in sights:
        color = "yellow" if not sight.ready and sight.state == "RUNNING" else COLORS.get(sight.state, "yellow")
        made.add_row(
            sight.name,
            Text(word(sight), style=color),
            "" if sight.lag_s is None else f"{sight.lag_s:.1f} s",
            "" if sight.rate is None else f"{sight.rate:,.0f}",
            str(sight.restarts) if sight.restarts else "",
            sight.address,
            Text(sight.error),
        )
    return made


def word(sight: Sight) -> str:
    """Say a state in words.

    >>> word(Sight("cvd", "RUNNING", ready=False))
    'running, not ready'
    """
    text = sight.state.lower().replace("_", " ")
    return text if sight.ready or sight.state not in {"RUNNING", "WARMING"} else f"{text}, not ready"
