"""How often a venue may be asked: its minute's weight, its pauses, its word. No clock, no IO: the caller says when it is."""

from __future__ import annotations

BURST_S = 5.0  # of a minute's weight, how many seconds' worth may go at once
PAUSE_S_MIN, PAUSE_S_MAX = 1.0, 60.0
LIMITED_S, BANNED_S = 60.0, 120.0  # where the venue does not say for how long
RETRY_AFTER_S_MAX = 3 * 86_400  # the longest ban a venue names
TOO_MANY, BANNED = 429, 418


class Budget:
    """Weight a minute, evenly.

    >>> budget = Budget(per_minute=60)
    >>> [budget.take(1, 0.0) for _ in range(7)]
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    """

    def __init__(self, per_minute: float) -> None:
        self.per_minute = per_minute
        self._free_s = float("-inf")

    def take(self, weight: int, now_s: float) -> float:
        """Take weight out of the budget; return how long to wait before it may be spent."""
        start_s = max(self._free_s, now_s - BURST_S)
        self._free_s = start_s + weight * 60 / self.per_minute
        return max(0.0, start_s - now_s)


class Pause:
    """When a venue may be asked again after it failed: twice as long each time, exactly as long as it says where it does."""

    def __init__(self) -> None:
        self.until_s = 0.0
        self.failures = 0  # in a row

    def left_s(self, now_s: float) -> float:
        """Return how long to wait."""
        return max(0.0, self.until_s - now_s)

    def failed(self, began_s: float, now_s: float, jitter: float) -> float:
        """Note that a request begun at `began_s` failed; return the pause. `jitter` is of [0, 1)."""
        if began_s < self.until_s:  # sent before the pause that another one's failure made
            return self.left_s(now_s)
        pause_s = min(PAUSE_S_MAX, PAUSE_S_MIN * 2.0 ** min(self.failures, 10)) * (1 + jitter / 2)
        self.failures += 1
        self.until_s = max(self.until_s, now_s + pause_s)
        return pause_s

    def told(self, status: int, retry_after: str | None, now_s: float) -> float:
        """Note that the venue asked for quiet; return for how long."""
        pause_s = BANNED_S if status == BANNED else LIMITED_S
        if retry_after is not None and retry_after.strip().isdecimal():
            pause_s = float(min(int(retry_after), RETRY_AFTER_S_MAX)) + 1.0
        self.failures += 1
        self.until_s = max(self.until_s, now_s + pause_s)
        return pause_s

    def succeeded(self) -> None:
        """Note that the venue answers."""
        self.failures = 0


def every_s(wanted_s: float, weight: int, per_minute: float) -> float:
    """Return how often a round of `weight` can be asked for: as wanted, or as the budget lets it.

    >>> every_s(10, 210, 1200), every_s(10, 600, 1200)
    (10.5, 30.0)
    """
    return max(wanted_s, weight * 60 / per_minute)


def next_s(now_s: float, every: float, phase: float) -> float:
    """Return the seconds until the next point of a grid; `phase` of [0, 1) says where in it.

    A point that is nearer than a tenth is passed over: who woke a little early has just been there.

    >>> next_s(100.0, 10.0, 0.5), next_s(105.0, 10.0, 0.5), next_s(106.0, 10.0, 0.5), next_s(104.5, 10.0, 0.5)
    (5.0, 10.0, 9.0, 10.5)
    """
    wait_s = every - (now_s - phase * every) % every
    return wait_s if wait_s >= every / 10 else wait_s + every
