"""Laying new bars over stored ones by the ids of their prints: nothing twice, nothing lost, every hole known.

Pure arithmetic on bars and spans of ids. A span is a stretch of ids that is there without a hole; what lies between
spans is missing. Both are facts about ids, so the order in which files come cannot change them.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from squeezecore import flow
from squeezecore.adapters.reading import Opened
from squeezecore.adapters.repair import Findings, take
from squeezecore.market import Bars, Gap, Trades, concat, cut, empty

SECOND_NS = 1_000_000_000
_CONTENT = [name for name in Bars._fields if name not in {"ts", "complete", "version"}]


class Span(NamedTuple):
    """Ids that are there, and the seconds of the first and the last of them."""

    first: int
    last: int
    first_s: int
    last_s: int


def unite(spans: Iterable[Span], slack: int = 0) -> list[Span]:
    """Join spans that overlap or adjoin; up to `slack` ids between two are no hole."""
    out: list[Span] = []
    for span in sorted(spans):
        if out and span.first <= out[-1].last + 1 + slack:
            if span.last > out[-1].last:
                out[-1] = out[-1]._replace(last=span.last, last_s=span.last_s)
        else:
            out.append(span)
    return out


def subtract(spans: Iterable[Span], gaps: Iterable[Gap]) -> list[Span]:
    """Take the ids of open gaps out of spans; what was filled is in them."""
    open_ones = (gap for gap in gaps if gap.first_id >= 0 and gap.state == "open")
    holes = sorted(open_ones, key=lambda gap: gap.first_id)
    out = []
    for span in spans:
        rest: Span | None = span
        for gap in holes:
            if rest is None or gap.last_id < rest.first:
                continue
            if gap.first_id > rest.last:
                break
            if gap.first_id > rest.first:
                out.append(rest._replace(last=gap.first_id - 1, last_s=gap.start_s))
            rest = rest._replace(first=gap.last_id + 1, first_s=gap.end_s) if gap.last_id < rest.last else None
        if rest is not None:
            out.append(rest)
    return out


def spans_of_bars(bars: Bars) -> list[Span]:
    """Read the spans off stored bars: seconds whose ids adjoin belong together."""
    with_ids = np.flatnonzero(bars.first_id >= 0)
    if not len(with_ids):
        return []
    first, last, ts = bars.first_id[with_ids], bars.last_id[with_ids], bars.ts[with_ids]
    breaks = np.flatnonzero(first[1:] > last[:-1] + 1)
    starts, ends = [0, *(breaks + 1).tolist()], [*breaks.tolist(), len(first) - 1]
    return [
        Span(int(first[a : b + 1].min()), int(last[a : b + 1].max()), int(ts[a]), int(ts[b]))
        for a, b in zip(starts, ends, strict=True)
    ]


def gaps_between(instrument: str, spans: list[Span], removed: Iterable[tuple[int, int, str]]) -> list[Gap]:
    """Return the holes between united spans; `removed` says of ids why they were taken out."""
    reasons = list(removed)
    gaps = []
    for one, other in pairwise(spans):
        first, last = one.last + 1, other.first - 1
        cause = next((why for a, b, why in reasons if a <= last and b >= first), "ids missing")
        gaps.append(
            Gap(
                instrument=instrument,
                start_s=min(one.last_s, other.first_s),
                end_s=max(one.last_s, other.first_s),
                first_id=first,
                last_id=last,
                missing=last - first + 1,
                cause=cause,
            )
        )
    return gaps


def splice(older: Bars, newer: Bars, holes: list[Gap], border: Trades, opened: Opened, findings: Findings) -> Bars:
    """Lay one instrument's new bars over stored ones; return the seconds that are new or have changed.

    `holes` are the stored ones' open gaps, `border` the prints of the new file's first and last second: together they
    settle a second that both have in part. What the ids cannot settle stays as it is stored, and is counted.
    """
    if not len(older.ts):
        return newer
    merged = _settle(older, newer, holes, border, opened, findings)
    for part in _around(older, merged):
        merged = flow.merge_bars(part, merged)
    at = np.minimum(np.searchsorted(older.ts, merged.ts), len(older.ts) - 1)
    same = older.ts[at] == merged.ts
    for name in Bars._fields:
        same &= getattr(older, name)[at] == getattr(merged, name)
    return pick(merged, ~same)


def _around(older: Bars, newer: Bars) -> list[Bars]:
    """Cut stored bars where ids are missing and new bars may close the hole: there both sides end, and can be joined."""
    with_ids = np.flatnonzero(older.first_id >= 0)
    torn = np.flatnonzero(older.first_id[with_ids[1:]] > older.last_id[with_ids[:-1]] + 1)
    left, right = with_ids[torn], with_ids[torn + 1]
    touched = np.searchsorted(newer.ts, older.ts[left]) < np.searchsorted(newer.ts, older.ts[right], "right")
    borders = [0, *(left[touched] + 1).tolist(), len(older.ts)]
    return [cut(older, a, b) for a, b in pairwise(borders)]


def pick(bars: Bars, index: NDArray[np.bool_] | NDArray[np.intp]) -> Bars:
    """Pick seconds."""
    columns: list[Any] = [column[index] for column in bars]
    return Bars(*columns)


def _settle(older: Bars, newer: Bars, holes: list[Gap], border: Trades, opened: Opened, findings: Findings) -> Bars:
    """Take out of the new bars what `merge_bars` could not lay over the stored ones safely."""
    _, i, j = np.intersect1d(older.ts, newer.ts, assume_unique=True, return_indices=True)
    if not len(i):
        return newer
    a, b = pick(older, i), pick(newer, j)
    a_prints, b_prints = a.buy_trades + a.sell_trades, b.buy_trades + b.sell_trades
    a_empty, b_empty = (a.first_id < 0) & (a_prints == 0), (b.first_id < 0) & (b_prints == 0)
    equal = np.ones(len(i), np.bool_)
    for name in _CONTENT:
        equal &= getattr(a, name) == getattr(b, name)
    blind = ~a_empty & ~b_empty & ((a.first_id < 0) | (b.first_id < 0) | (a.id_kind != b.id_kind))
    ids = ~a_empty & ~b_empty & ~blind
    a_covers = ids & (a.first_id <= b.first_id) & (a.last_id >= b.last_id)
    b_covers = ids & (b.first_id <= a.first_id) & (b.last_id >= a.last_id)
    apart = ids & ((a.last_id < b.first_id) | (b.last_id < a.first_id))
    torn = ids & (a.complete == 0) & ~apart & ~b_covers & np.isin(b.ts, border.exchange_ns // SECOND_NS)
    partly = ids & ~a_covers & ~b_covers & ~apart & ~torn
    both_whole = (a.complete == 1) & (b.complete == 1)
    contradicts = (
        (b_covers & ~a_covers & (a.complete == 1))
        | (apart & (a.complete == 1))
        | (a_covers & b_covers & ~equal & both_whole)
        | (a_empty & ~b_empty & (a.complete == 1))
        | partly
    )
    stays = (blind & ~equal) | contradicts
    known = (a_covers & ~contradicts & ~torn) | (blind & equal)
    findings.repaired["prints_stored_before"] += int(b_prints[known].sum())
    findings.set_aside["prints_in_seconds_stored_otherwise"] += int(b_prints[stays].sum())
    kept = np.ones(len(newer.ts), np.bool_)
    kept[j[stays | (blind & equal) | torn]] = False
    sums = [
        _add_rest(pick(a, np.array([k])), int(b_prints[k]), holes, border, opened, findings)
        for k in np.flatnonzero(torn)
    ]
    joined = concat([pick(newer, kept), *sums])
    return pick(joined, np.argsort(joined.ts, kind="stable"))


def _add_rest(a: Bars, prints: int, holes: list[Gap], border: Trades, opened: Opened, findings: Findings) -> Bars:
    """Add to a stored second, of which both sides have a part, those prints that it lacks: by id, each once.

    It lacks what lies outside of its ids or inside a known hole; that is certain only if it holds all the others.
    """
    first, last = int(a.first_id[0]), int(a.last_id[0])
    mine = take(border, border.exchange_ns // SECOND_NS == a.ts[0])
    inside = (mine.id >= first) & (mine.id <= last)
    missing, lacks = 0, ~inside
    for gap in holes:
        if gap.state == "open" and gap.first_id >= first and gap.last_id <= last:
            missing += gap.last_id - gap.first_id + 1
            lacks |= (mine.id >= gap.first_id) & (mine.id <= gap.last_id)
    if int(a.buy_trades[0] + a.sell_trades[0]) != last - first + 1 - missing:
        whole = int(a.buy_trades[0] + a.sell_trades[0]) == last - first + 1  # the holes were filled, not yet called so
        if not (whole and inside.all()):
            findings.set_aside["prints_in_seconds_stored_otherwise"] += prints
        return empty(Bars)
    findings.repaired["prints_stored_before"] += int((~lacks & inside).sum())
    rest = take(mine, lacks)
    if not len(rest.id):
        return empty(Bars)
    params = flow.bar_params(opened.instrument, opened.id_kind, opened.contiguous)
    state, _, _ = flow.scan_bars(params, flow.bars_initial(), rest, 0)
    _, r, _ = flow.finish_bars(params, state)
    if not len(r.ts):
        return empty(Bars)
    out = {name: column.copy() for name, column in a._asdict().items()}
    out["open"] = r.open if r.first_id[0] < first else a.open
    out["close"] = r.close if r.last_id[0] > last else a.close
    out["low"] = np.minimum(a.low, r.low)
    for name in ("high", "largest", "last_id"):
        out[name] = np.maximum(getattr(a, name), getattr(r, name))
    out["first_id"] = np.minimum(a.first_id, r.first_id)
    for name in ("buy_volume", "sell_volume", "buy_usd_cents", "sell_usd_cents", "buy_trades", "sell_trades"):
        out[name] = getattr(a, name) + getattr(r, name)
    return Bars(**out)
