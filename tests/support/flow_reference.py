"""The slow, obvious version of `squeezecore.flow`: dictionaries and Python integers, one print at a time."""

from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise

from squeezecore.market import TRADE_NOT_FLOW

SECOND_NS = 10**9


def half_away(value: Decimal) -> int:
    return int(value.to_integral_value(ROUND_HALF_UP))


def seconds(prints, decimals, end_s, covered_from_s=-1):
    """Return {ts: bar as a dict} of prints given as dicts, each id once; holes by contiguous ids."""
    prints = sorted(prints, key=lambda p: (p["exchange_ns"], p["id"]))
    by_id = sorted(prints, key=lambda p: p["id"])
    broken = set()
    for a, b in pairwise(by_id):
        if b["id"] != a["id"] + 1:
            ends = sorted((a["exchange_ns"] // SECOND_NS, b["exchange_ns"] // SECOND_NS))
            broken |= set(range(ends[0], ends[1] + 1))
    first_s = prints[0]["exchange_ns"] // SECOND_NS
    bars, close = {}, None
    for ts in range(first_s, end_s):
        mine = [p for p in prints if p["exchange_ns"] // SECOND_NS == ts]
        flow = [p for p in mine if p["side"] and not p["flags"] & TRADE_NOT_FLOW]
        if flow:
            close = flow[-1]["price"]
        if close is None:
            continue
        bar = {"ts": ts, "open": flow[0]["price"] if flow else close, "close": close}
        bar["high"] = max((p["price"] for p in flow), default=close)
        bar["low"] = min((p["price"] for p in flow), default=close)
        bar["largest"] = max((p["qty"] for p in flow), default=0)
        for name, sign in (("buy", 1), ("sell", -1)):
            some = [p for p in flow if p["side"] == sign]
            exact = sum((Decimal(p["price"]) * p["qty"] for p in some if p["quote_cents"] < 0), Decimal(0))
            given = sum(p["quote_cents"] for p in some if p["quote_cents"] >= 0)
            bar[f"{name}_volume"] = sum(p["qty"] for p in some)
            bar[f"{name}_usd_cents"] = given + half_away(exact.scaleb(2 - decimals))
            bar[f"{name}_trades"] = len(some)
        bar["first_id"] = min((p["id"] for p in mine), default=-1)
        bar["last_id"] = max((p["id"] for p in mine), default=-1)
        joined_before = covered_from_s >= 0 and ts >= covered_from_s
        bar["complete"] = int(ts not in broken and (joined_before or ts > first_s))
        bars[ts] = bar
    return bars


def prints_of(trades):
    """Return a block's prints as dicts of Python integers."""
    columns = {name: getattr(trades, name).tolist() for name in trades._fields}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
