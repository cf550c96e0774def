"""A state made from what is stored, where no snapshot fits: the last second of each instrument, and the stream from there.

Less than a snapshot knows: prints that were open come again from the stream and from what was recorded, and ids up to the
last stored one count as seen, those of known holes left out. Bars that count prints of another kind (single trades, where
aggregates come) have ids that say nothing of these: there ids begin anew, and seconds are whole after the first print.
"""

from __future__ import annotations

import numpy as np

from squeeze_cvd.flowing import TRUSTED, Facts, Feed, Flow, Tear, pick
from squeeze_cvd.keeping import Keep
from squeezecore import abreast as many
from squeezecore import flow
from squeezecore.adapters.bus import Bus, Delivery, StreamInfo
from squeezecore.market import Bars, Watermark, concat, cut, empty
from squeezecore.wire import FundingFact, InterestFact, MarkFact, RowBatch, TradeBatch

LOOK_S = 3600  # for the last second with a print, and for recorded ones after it
FACTS_S = 40 * 86_400  # for the last open interest and funding
BEFORE_S = 30  # feeds differ by so much in one place of the stream
SECOND_NS = 1_000_000_000


def warm(state: Flow, keep: Keep, published: RowBatch | None = None) -> bool:
    """Fill an empty state from the store; False where nothing is stored. `published`: the newest rows on the bus; blocks."""
    configs = [change.config for change in state.schedule if change.config is not None]
    configs += [asset.config for asset in state.assets.values()]
    names = sorted({name for feed in state.feeds.values() for name in feed.names})
    last = keep.last_seconds(names)
    if not last or not configs:
        return False
    assets = sorted({*state.assets, *(change.asset for change in state.schedule)})
    row_s = keep.last_row_s(assets)
    if published is not None and published.ts > row_s:
        keep.put_published(published)
        row_s = published.ts
    decided_s = row_s + 1 if row_s >= 0 else min(last.values()) + 1
    state.decided_s = state.frontier_s = state.first_s = decided_s
    state.rolled_s = decided_s // 60 * 60
    state.decide()  # puts the configuration of that second into effect
    for feed in state.feeds.values():
        _warm_feed(state, feed, keep, last, decided_s)
    for name in state.facts:
        state.facts[name] = _facts(keep, name, decided_s)
    state.set_rows({name: keep.row_state(name, asset.params, decided_s) for name, asset in state.assets.items()})
    return True


def _warm_feed(whole: Flow, feed: Feed, keep: Keep, last: dict[str, int], decided_s: int) -> None:
    """Give each instrument the state after its last stored second."""
    states, slots, waiting = [], [], []
    for slot, name in enumerate(feed.names):
        if name not in last:
            states.append(flow.bars_initial())
            continue
        end_s = last[name] + 1
        bars = keep.bars(name, min(end_s - LOOK_S, decided_s), end_s)
        state = flow.bars_initial()._replace(closed_s=end_s, covered_s=end_s, close=int(bars.close[-1]))
        other = np.flatnonzero(bars.id_kind != feed.params[slot].id_kind)
        begun_s = int(bars.ts[other[-1]]) + 1 if len(other) else 0  # from here on bars count the prints that come
        with_ids = np.flatnonzero((bars.last_id >= 0) & (bars.ts >= begun_s))
        if feed.params[slot].contiguous and len(with_ids):
            high_id, high_s = int(bars.last_id[with_ids].max()), int(bars.ts[with_ids[-1]])
            gaps = keep.open_holes(name, max(begun_s, end_s - flow.HOLE_MEMORY_S))
            gaps = [gap for gap in gaps if gap.last_id < high_id and gap.start_s >= begun_s]
            gaps.sort(key=lambda gap: gap.first_id)
            columns = [[getattr(gap, field) for gap in gaps] for field in ("first_id", "last_id", "start_s", "end_s")]
            holes = flow.Holes(*(np.array(column, np.int64) for column in (*columns, [1] * len(gaps))))
            state = state._replace(low_id=0, low_s=0, high_id=high_id, high_s=high_s, holes=holes)
            if gaps:
                feed.tears[name] = [
                    Tear(gap.start_s, gap.end_s + 1, gap.first_id, gap.last_id, gap.cause) for gap in gaps
                ]
        states.append(state)
        recorded = keep.prints(name, end_s, end_s + LOOK_S)  # the stream may have lost some
        recorded = pick(recorded, whole.counts_in(recorded))
        if len(recorded.id):
            feed.waiting.append((np.full(len(recorded.id), slot), recorded))
        feed.closed_s = max(feed.closed_s, end_s)
        later = int(np.searchsorted(bars.ts, decided_s))
        if later < len(bars.ts):
            slots.append(np.full(len(bars.ts) - later, slot))
            waiting.append(cut(bars, later, len(bars.ts)))
    feed.state = many.abreast(states)
    feed.connections = [TRUSTED] if feed.closed_s >= 0 else []
    if waiting:
        feed.closed = [(np.concatenate(slots), concat([empty(Bars), *waiting]))]


def _facts(keep: Keep, name: str, decided_s: int) -> Facts:
    """Read the last known facts, and those that will be."""
    known = keep.known(name, max(0, decided_s - FACTS_S), decided_s + 86_400)
    book = Facts()
    interest, funding, marks = known
    book.interest = list(
        zip(*(c.tolist() for c in (interest.known_at, interest.open_interest, interest.interval_s)), strict=True)
    )
    book.funding = list(zip(*(c.tolist() for c in (funding.known_at, funding.rate, funding.interval_s)), strict=True))
    book.marks = [(at, mark, 0) for at, mark in zip(marks.known_at.tolist(), marks.mark.tolist(), strict=True)]
    book.interest_event = int(interest.event_ts.max(initial=-1))
    book.funding_event = int(funding.event_ts.max(initial=-1))
    book.mark_known = int(marks.known_at.max(initial=-1))
    book.prune(decided_s)
    return book


async def seek(bus: Bus, there: StreamInfo, state: Flow) -> int:
    """Return the sequence after which the stream is to be read: shortly before the first second that is not closed.

    Where the stream begins later than that, every feed's next seconds are in doubt.
    """
    closed = [feed.closed_s for feed in state.feeds.values() if feed.closed_s >= 0]
    target_ns = (min([state.decided_s, *closed]) - BEFORE_S) * SECOND_NS
    low, high = there.first_seq - 1, there.last_seq  # the place lies in low..high
    while low < high:
        middle = (low + high) // 2
        found = await _next(bus, middle)
        if found is None or time_ns(found) >= target_ns:
            high = middle
        else:
            low = found.seq
    if low < there.first_seq:
        found = await _next(bus, low) if there.messages else None
        if found is None or time_ns(found) > target_ns + BEFORE_S * SECOND_NS:
            for feed in state.feeds.values():
                feed.connections = [-1]  # whatever speaks next is new
    return max(low, 0)


async def _next(bus: Bus, after: int) -> Delivery | None:
    """Return the first message after a place."""
    reader = await bus.read("MD", ("md.v1.>",), "cvd", after)
    try:
        found = await reader.pull(1, 1.0)
    finally:
        await reader.close()
    return found[0] if found else None


def time_ns(delivery: Delivery) -> int:
    """Return the exchange's time that a message speaks of."""
    message = delivery.message
    if isinstance(message, TradeBatch):
        return message.border_ns
    if isinstance(message, Watermark):
        return message.exchange_ns
    if isinstance(message, InterestFact | FundingFact | MarkFact):
        return message.known_at * SECOND_NS
    return delivery.published_ns
