"""What a simulated exchange asks of whoever knows the market: messages by time, prints by id, lists and rates.

`loopback_world` answers from a seed, `loopback_replay` from recorded frames. A source knows no connection and no clock:
every question names the time up to which the venue may tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

from squeezecore.adapters.loopback_frames import Frames

MS = 1_000_000  # ns
NS = 1_000_000_000
ROWS_MAX = 1_000  # of one REST answer
SECTIONS = ("spot", "linear", "inverse")
API: Mapping[str, str] = MappingProxyType({"spot": "/api/v3", "linear": "/fapi/v1", "inverse": "/dapi/v1"})


class Query(NamedTuple):
    """Which prints are asked for: from an id, in a stretch of time, or the latest; never later than `until_ns`."""

    until_ns: int  # the venue's present
    limit: int = ROWS_MAX
    from_id: int | None = None
    start_ns: int | None = None
    end_ns: int | None = None


class Source(Protocol):
    """A market that can be told. Answers are the venue's own JSON; None: no such symbol; empty: nothing is known of it."""

    start_ns: int | None  # where its time begins; None: any time will do
    end_ns: int | None  # exclusive; None: it never ends

    def frames(self, section: str, stream: str, start_ns: int, end_ns: int) -> list[Frames]:
        """Return a stream's messages of `[start_ns, end_ns)`; empty where the stream does not exist."""
        ...

    def resumes_ns(self, at_ns: int) -> int:
        """Return the time at which the source goes on where it has nothing for a long while, else `at_ns`."""
        ...

    def prepare(self, section: str, stream: str, at_ns: int) -> None:
        """Make what the next minutes of a stream need, if that takes long; may run in another thread."""
        ...

    def exchange_info(self, section: str, until_ns: int) -> bytes:
        """Return the list of instruments."""
        ...

    def prints(self, section: str, native: str, aggregate: bool, query: Query) -> bytes | None:
        """Return prints as REST tells them, ascending by id."""
        ...

    def truth(self, section: str, native: str, aggregate: bool, query: Query) -> list[bytes] | None:
        """Return prints as the stream's messages tell them, all that were asked for, whatever was sent."""
        ...

    def open_interest(self, section: str, native: str, until_ns: int) -> bytes | None:
        """Return the open interest last published."""
        ...

    def premium(self, section: str, native: str, until_ns: int) -> bytes | None:
        """Return mark, index and the running funding rate of a perpetual."""
        ...

    def funding(self, section: str, native: str, query: Query) -> bytes | None:
        """Return settled funding, ascending by time."""
        ...
