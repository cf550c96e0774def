"""What goes wrong between a venue and us, from a seed: the same seed and the same clients meet the same faults.

A fault strikes a frame by its number on its connection, a REST answer by its number in its section; nothing else enters the
draw. What the venue knows stays true: a skipped print is still there for who asks by id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from squeezecore.adapters.loopback_frames import Sent
from squeezecore.adapters.loopback_source import MS, NS
from squeezecore.errors import UsageError
from squeezecore.simulator.noise import hash64, key, uniform
from squeezecore.spec import nearest

FOREVER_S = 1e9
LOG_MAX = 100_000
_REORDER_NS_MAX = 2_000_000_000  # a quiet stream's frame does not wait for later ones for ever
_NEVER = 2**62


class Kind(NamedTuple):
    """A fault: what it does, and what its amount means."""

    meaning: str
    amount: float = 0.0  # where none is given


FRAME_FAULTS: Mapping[str, Kind] = MappingProxyType({
    "disconnect": Kind("the connection is cut after the frame"),
    "halfframe": Kind("the connection is cut in the middle of the frame"),
    "wreck": Kind("bytes follow that are no WebSocket frame, then the end"),
    "garbage": Kind("a frame with a damaged message follows"),
    "duplicate": Kind("the frame comes twice"),
    "skip": Kind("the frame is lost, and so many in all", 1),
    "reorder": Kind("the frame comes after up to so many later ones", 8),
    "delay": Kind("the frame comes so many ms later, of the venue's time", 500),
    "silence": Kind("nothing comes for so many seconds of the venue's time, the connection stays open", FOREVER_S),
})  # fmt: skip
REST_FAULTS: Mapping[str, Kind] = MappingProxyType({
    "rest429": Kind("too many requests; retry after so many seconds", 1),
    "rest418": Kind("banned for so many seconds", 2),
    "rest500": Kind("an internal error"),
    "rest503": Kind("unavailable"),
    "resthalf": Kind("half the answer, then the end"),
    "resthang": Kind("no answer for so many seconds, then the end", 30),
    "restslow": Kind("the answer takes so many ms longer", 500),
})  # fmt: skip
CONNECT_FAULTS: Mapping[str, Kind] = MappingProxyType({"refuse": Kind("a new connection is refused with status 503")})
KINDS: Mapping[str, Kind] = MappingProxyType({**FRAME_FAULTS, **REST_FAULTS, **CONNECT_FAULTS})


class Faults(NamedTuple):
    """Which faults happen how often; `parse_faults` makes it from text."""

    seed: int = 1
    chances: Mapping[str, float] = MappingProxyType({})
    amounts: Mapping[str, float] = MappingProxyType({})

    def draw(self, kinds: Mapping[str, Kind], *where: object, number: int) -> str:
        """Return the fault that strikes one occasion; "" where none does."""
        for kind in kinds:
            chance = self.chances.get(kind, 0.0)
            if chance and uniform(key(self.seed, kind, *where), number) < chance:
                return kind
        return ""


def parse_faults(text: str) -> Faults:
    """Read `seed=3,disconnect=0.001,delay=0.01:250`: chances, and amounts behind a colon.

    >>> parse_faults("duplicate=0.02").chances
    {'duplicate': 0.02}

    Raises:
        UsageError: a fault does not exist, or a chance does not lie within 0 and 1.
    """
    seed, chances, amounts = 1, {}, {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = word.partition("=")
        chance, _, amount = value.partition(":")
        try:
            if name == "seed":
                seed = int(chance)
                continue
            chances[name] = float(chance)
            amounts[name] = float(amount) if amount else KINDS[name].amount if name in KINDS else 0.0
        except ValueError as error:
            raise UsageError(f"fault was {word!r}, expected name=chance or name=chance:amount") from error
        if name not in KINDS:
            raise UsageError(f"fault was {name!r}, which does not exist: {nearest(name, KINDS)}")
        if not 0 <= chances[name] <= 1 or not amounts[name] >= 0:
            raise UsageError(f"fault was {word!r}, the limits of a chance are 0 and 1, an amount is not negative")
    return Faults(seed, chances, amounts)


class Made(NamedTuple):
    """A fault that happened."""

    kind: str
    section: str
    connection: int  # number among the section's; of a REST answer -1
    number: int  # of the frame on its connection, of the answer in its section


class Trouble:
    """The faults in force, and those that happened."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.made: list[Made] = []  # the first `LOG_MAX`
        self.counts: Counter[str] = Counter()

    def note(self, made: Made) -> None:
        """Remember a fault."""
        self.counts[made.kind] += 1
        if len(self.made) < LOG_MAX:
            self.made.append(made)


class Struck(NamedTuple):
    """What becomes of some frames."""

    pieces: list[bytes]
    frames: int  # that are whole
    cut: bool  # whether the connection ends after them


class _Held(NamedTuple):
    frame: bytes
    due_ns: int
    due_number: int


class FrameFaults:
    """The faults of one connection."""

    def __init__(self, trouble: Trouble, section: str, connection: int) -> None:
        self._trouble, self._section, self._connection = trouble, section, connection
        self._number = 0  # of the next frame
        self._held: list[_Held] = []
        self._skip = 0
        self._silent_until_ns = 0
        self._faults: Faults | None = None
        self._kinds: list[str] = []
        self._streams = np.empty(0, np.uint64)
        self._chances = np.empty(0)

    @property
    def silent(self) -> bool:
        """Whether the connection says nothing at present, pings included."""
        return self._silent_until_ns > 0

    @property
    def waiting(self) -> bool:
        """Whether frames are kept back."""
        return bool(self._held)

    def strike(self, sent: Sent, end_ns: int) -> Struck | None:
        """Return what becomes of frames that go out up to `end_ns`; None where they go as they are."""
        self._follow()
        count = sent.end.size
        drawn = np.zeros(count, np.int8)
        hits = _draw(self._streams, self._chances, self._number, drawn) if self._kinds else 0
        if not hits and not self._held and not self._skip and not self._silent_until_ns:
            self._number += count
            return None
        return self._one_by_one(sent, drawn, end_ns)

    def _follow(self) -> None:
        """Take over the faults in force."""
        faults = self._trouble.faults
        if faults is not self._faults:
            self._faults = faults
            self._kinds = [kind for kind in FRAME_FAULTS if faults.chances.get(kind)]
            where = (self._section, self._connection)
            self._streams = np.array([key(faults.seed, kind, *where) for kind in self._kinds], np.uint64)
            self._chances = np.array([faults.chances[kind] for kind in self._kinds])
            if not self._kinds:
                self._silent_until_ns = 0

    def _one_by_one(self, sent: Sent, drawn: NDArray[np.int8], end_ns: int) -> Struck:
        pieces: list[bytes] = []
        whole, begin = 0, 0
        for end, at_ns, code in zip(sent.end.tolist(), sent.at_ns.tolist(), drawn.tolist(), strict=True):
            frame = sent.blob[begin:end].tobytes()
            begin = end
            number = self._number
            self._number += 1
            whole += self._release(pieces, at_ns, number)
            if self._silent_until_ns > at_ns:
                continue
            self._silent_until_ns = 0
            if self._skip:
                self._skip -= 1
                continue
            kind = self._kinds[code - 1] if code else ""
            if kind:
                self._trouble.note(Made(kind, self._section, self._connection, number))
            if kind == "halfframe":
                pieces.append(frame[: max(1, len(frame) // 2)])
                return Struck(pieces, whole, cut=True)
            if not self._keep_back(kind, frame, at_ns, number):
                pieces.append(frame)
                whole += 1
                if kind == "duplicate":
                    pieces.append(frame)
                    whole += 1
                elif kind == "garbage":
                    pieces.append(_damaged(frame, self._seed(), number))
                    whole += 1
                elif kind in {"wreck", "disconnect"}:
                    pieces.append(b"\xff\x07no frame at all" if kind == "wreck" else b"")
                    return Struck(pieces, whole, cut=True)
        whole += self._release(pieces, end_ns, self._number)
        return Struck(pieces, whole, cut=False)

    def _seed(self) -> int:
        return self._trouble.faults.seed

    def _keep_back(self, kind: str, frame: bytes, at_ns: int, number: int) -> bool:
        """Say whether a fault keeps the frame from going out now."""
        amount = self._trouble.faults.amounts.get(kind, 0.0)
        if kind == "skip":
            self._skip = max(0, int(amount) - 1)
        elif kind == "silence":
            self._silent_until_ns = at_ns + int(amount * NS)
        elif kind == "delay":
            self._held.append(_Held(frame, at_ns + int(amount * MS), number + _NEVER))
        elif kind == "reorder":
            later = 1 + int(hash64(key(self._seed(), "later"), number)) % max(1, int(amount))
            self._held.append(_Held(frame, at_ns + _REORDER_NS_MAX, number + 1 + later))
        else:
            return False
        return True

    def _release(self, pieces: list[bytes], at_ns: int, number: int) -> int:
        """Let go of frames that were kept back long enough; return how many."""
        if not self._held or self._silent_until_ns > at_ns:
            return 0
        kept = [one for one in self._held if one.due_ns > at_ns and one.due_number > number]
        if len(kept) < len(self._held):
            pieces.extend(one.frame for one in self._held if one.due_ns <= at_ns or one.due_number <= number)
        released = len(self._held) - len(kept)
        self._held = kept
        return released


@njit(cache=True)
def _draw(streams: NDArray[np.uint64], chances: NDArray[np.float64], first: int, out: NDArray[np.int8]) -> int:
    """Mark each frame with the first of the kinds that strikes it, from 1; return how many are struck."""
    hits = 0
    for n in range(out.size):
        for k in range(streams.size):
            if uniform(streams[k], first + n) < chances[k]:
                out[n] = k + 1
                hits += 1
                break
    return hits


def _damaged(frame: bytes, seed: int, number: int) -> bytes:
    """Return a frame of the same length whose message is cut short or noise; it never reads as another print."""
    head = 2 if frame[1] < 126 else 4 if frame[1] == 126 else 10
    body = bytearray(frame[head:])
    mixed = int(hash64(key(seed, "damage"), number))
    place = mixed % len(body)
    how = mixed >> 32 & 3
    if how == 0:
        body[place:] = b" " * (len(body) - place)
    elif how == 1:
        body[-1] = 32  # whole but for its last brace
    elif how == 2:
        body[place] = 0xFF  # no UTF-8
    else:
        body[:] = (body[place : place + 1] + b"\x00\x81{") * (len(body) // 4 + 1)
        del body[len(frame) - head :]
    return frame[:head] + bytes(body)
