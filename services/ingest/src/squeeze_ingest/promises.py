"""How far a venue's facts are known to have come, and by how much its clock differs from ours. Pure.

A promise is a time of the venue before which nothing more is expected: the newest time it has sent, or, while it is silent
but answers, the moment at which we asked it for a sign of life, by its own clock. Both less a grace.
"""

from __future__ import annotations

GRACE_NS = 2_000_000_000  # prints may be overtaken by so much
WINDOW_S = 30.0


class Skew:
    """How far our clock is ahead of a venue's, delay included: the least difference seen of late.

    >>> skew = Skew()
    >>> for difference, at in ((7, 0.0), (5, 1.0), (6, 40.0)):
    ...     skew.observe(difference, at)
    >>> skew.ns
    5
    """

    def __init__(self) -> None:
        self._before: int | None = None  # least of the window before
        self._now: int | None = None
        self._since_s = 0.0

    def observe(self, ns: int, now_s: float) -> None:
        """Take the difference between when we heard of an event and when it happened."""
        if self._now is None:
            self._now, self._since_s = ns, now_s
        elif now_s - self._since_s > WINDOW_S:
            self._before, self._now, self._since_s = self._now, ns, now_s
        elif ns < self._now:
            self._now = ns

    @property
    def ns(self) -> int | None:
        """The least difference of one to two windows; None before the first."""
        if self._now is None or self._before is None:
            return self._now
        return min(self._before, self._now)


def promise_ns(newest_ns: int, asked_ns: int | None, skew_ns: int | None) -> int | None:
    """Return up to when a connection's facts have come, by the venue's clock.

    `newest_ns` is the newest time it sent, 0 before the first; `asked_ns` when we asked for the sign of life that it gave
    last, by our clock; `skew_ns` how far that is ahead.

    >>> promise_ns(10 * GRACE_NS, None, None) == 9 * GRACE_NS, promise_ns(0, None, 5)
    (True, None)
    """
    known = newest_ns
    if asked_ns is not None and skew_ns is not None:
        known = max(known, asked_ns - skew_ns)
    return known - GRACE_NS if known > 0 else None
