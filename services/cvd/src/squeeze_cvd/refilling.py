"""A second made again of all its prints, the late ones among them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezecore import flow
from squeezecore.market import Bars, Block, Trades, concat, cut

SECOND_NS = 1_000_000_000
REPAIRS = 0xFFFFFFFF  # of a bar's version


def refill(params: flow.BarParams, bars: Bars, late: Trades, prints: Trades, *, forced: bool) -> bool:
    """Write the seconds of late prints anew, in place, and carry a new last price on; False where prints are missing."""
    known = _united(prints, late)
    seconds, is_late = known.exchange_ns // SECOND_NS, np.isin(known.id, late.id) & (known.id >= 0)
    for second in np.unique(late.exchange_ns // SECOND_NS).tolist():
        at = int(np.searchsorted(bars.ts, second))
        if at == len(bars.ts) or bars.ts[at] != second:
            continue  # inside of a long hole: no covered time
        if bars.id_kind[at] != params.id_kind:
            continue  # counted by prints of another kind, which these are part of
        before = int(bars.close[at - 1]) if at and bars.ts[at - 1] == second - 1 else int(bars.open[at])
        made = _second(params, second, before, _pick(known, seconds == second))
        if _same(cut(bars, at, at + 1), made):
            continue  # it was done before
        without = _second(params, second, before, _pick(known, (seconds == second) & ~is_late))
        if not _same(
            cut(bars, at, at + 1), without
        ):  # not what it was made of: prints are missing, or some are in already
            more = made.buy_trades[0] + made.sell_trades[0] > bars.buy_trades[at] + bars.sell_trades[at]
            # Prints are recorded in the stream's order: where these late ones are, those of a repair before them are, too.
            own = late.id[late.exchange_ns // SECOND_NS == second]
            recorded = bool(np.isin(own[own >= 0], prints.id).all())
            if not (more and (forced or (recorded and int(bars.version[at]) & REPAIRS))):
                if forced:
                    continue  # less than what is stored: what was lost cannot be made again
                return False
        for name in Bars._fields[1:]:
            if name not in {"complete", "version"}:
                getattr(bars, name)[at] = getattr(made, name)[0]
        for later in range(at + 1, len(bars.ts)):
            if bars.buy_trades[later] + bars.sell_trades[later] or bars.ts[later] != bars.ts[later - 1] + 1:
                break
            for column in (bars.open, bars.high, bars.low, bars.close):
                column[later] = made.close[0]
    return True


def _second(params: flow.BarParams, second: int, close: int, prints: Trades) -> Bars:
    """Make one second's bar of its prints."""
    state = flow.bars_initial(second)._replace(closed_s=second, close=close)
    _, made, _ = flow.scan_bars(params._replace(contiguous=False), state, prints, second + 1)
    return made


def _same(one: Bars, other: Bars) -> bool:
    """Say whether two bars of a second hold the same prints."""
    if not one.buy_trades[0] + one.sell_trades[0] + other.buy_trades[0] + other.sell_trades[0]:
        return bool(one.first_id[0] == other.first_id[0] and one.last_id[0] == other.last_id[0])
    names = set(Bars._fields) - {"complete", "version"}
    return all(getattr(one, name)[0] == getattr(other, name)[0] for name in names)


def _united(prints: Trades, late: Trades) -> Trades:
    """Join kept and late prints, each once; those without an id are told apart by all they say."""
    joined = concat([prints, late])
    named = joined.id >= 0
    if named.all():
        _, first = np.unique(joined.id, return_index=True)
        return _pick(joined, np.sort(first))
    kept = set(
        zip(*(column.tolist() for column in (prints.exchange_ns, prints.price, prints.qty, prints.side)), strict=True)
    )
    new = [
        key not in kept
        for key in zip(*(c.tolist() for c in (late.exchange_ns, late.price, late.qty, late.side)), strict=True)
    ]
    return concat([prints, _pick(late, np.array(new, np.bool_))])


def _pick(block: Block, index: NDArray[Any]) -> Block:
    return type(block)(*(column[index] for column in block))
