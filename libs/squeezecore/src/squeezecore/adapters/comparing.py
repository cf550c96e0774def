"""Two accounts of the same seconds laid side by side: are they equal, byte for byte, and if not, where first?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from squeezecore.market import Block
from squeezecore.spec import canonical, digest

NOTHING = "nothing"
Record = TypeVar("Record")


class Difference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first place where two accounts part."""

    name: str  # an asset, an instrument, or whatever the records are of
    ts: int  # s, UTC
    stored: str  # what the store says
    again: str  # what came out this time


class Proof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one kind of facts came to."""

    what: str
    equal: bool | None  # None: nothing could be said, `note` says why
    count: int = 0  # compared
    stored_hash: str = ""
    again_hash: str = ""
    difference: Difference | None = None
    note: str = ""


def unproved(what: str, note: str) -> Proof:
    """Say that nothing can be said, and why."""
    return Proof(what=what, equal=None, note=note)


def compare_records(
    what: str, stored: Sequence[Record], again: Sequence[Record], place: Callable[[Record], tuple[int, str]]
) -> Proof:
    """Compare records by second and name (`place`), those of one place in their own order."""
    mine, theirs = sorted(stored, key=place), sorted(again, key=place)
    texts = [canonical(record) for record in mine], [canonical(record) for record in theirs]
    difference = None
    for (a, text), (b, other) in itertools.zip_longest(
        zip(mine, texts[0], strict=True), zip(theirs, texts[1], strict=True), fillvalue=(None, b"")
    ):
        if text != other:
            difference = _parting(a, text, b, other, place)
            break
    return Proof(
        what=what,
        equal=difference is None,
        count=len(mine),
        stored_hash=digest(*texts[0]),
        again_hash=digest(*texts[1]),
        difference=difference,
    )


def _parting(a: Any, text: bytes, b: Any, other: bytes, place: Callable[[Any], tuple[int, str]]) -> Difference:
    """Describe where two sequences part; of different places only the earlier one's record is there at all."""
    first = min(place(record) for record in (a, b) if record is not None)
    stored = text.decode() if a is not None and place(a) == first else NOTHING
    again = other.decode() if b is not None and place(b) == first else NOTHING
    return Difference(name=first[1], ts=first[0], stored=stored, again=again)


def compare_seconds(what: str, name: str, stored: Block, again: Block, leave_out: Collection[str] = ()) -> Proof:
    """Compare blocks that have one entry a second, column by column."""
    columns = [field for field in stored._fields if field not in leave_out]  # type: ignore[attr-defined]
    difference = _first_second(name, stored, again, columns)
    hashes = [
        digest(*(np.ascontiguousarray(getattr(block, c)).tobytes() for c in columns)) for block in (stored, again)
    ]
    return Proof(
        what=what,
        equal=difference is None,
        count=len(stored[0]),
        stored_hash=hashes[0],
        again_hash=hashes[1],
        difference=difference,
    )


def _first_second(name: str, stored: Any, again: Any, columns: Sequence[str]) -> Difference | None:
    both = min(len(stored.ts), len(again.ts))
    wrong = np.zeros(both, np.bool_)
    for column in columns:
        wrong |= getattr(stored, column)[:both] != getattr(again, column)[:both]
    if not wrong.any() and len(stored.ts) == len(again.ts):
        return None
    at = int(wrong.argmax()) if wrong.any() else both
    seconds = [int(block.ts[at]) for block in (stored, again) if at < len(block.ts)]
    ts = min(seconds)
    there = [at < len(block.ts) and int(block.ts[at]) == ts for block in (stored, again)]
    shown = [c for c in columns if not all(there) or getattr(stored, c)[at] != getattr(again, c)[at]]
    texts = [
        " ".join(f"{c}={getattr(block, c)[at]}" for c in shown) if is_there else NOTHING
        for block, is_there in zip((stored, again), there, strict=True)
    ]
    return Difference(name=name, ts=ts, stored=texts[0], again=texts[1])


def joined(what: str, proofs: Sequence[Proof], none: str = "") -> Proof:
    """Make one proof of several: as many as were compared, the first difference; `none` says why there are none."""
    known = [proof for proof in proofs if proof.equal is not None]
    note = "; ".join(dict.fromkeys(proof.note for proof in proofs if proof.note))
    if not known:
        return unproved(what, note or none)
    parts = [proof.difference for proof in known if proof.difference is not None]
    return Proof(
        what=what,
        equal=not parts and all(proof.equal for proof in known),
        count=sum(proof.count for proof in known),
        stored_hash=digest(*(proof.stored_hash.encode() for proof in known)),
        again_hash=digest(*(proof.again_hash.encode() for proof in known)),
        difference=min(parts, key=lambda part: (part.ts, part.name)) if parts else None,
        note=note,
    )
