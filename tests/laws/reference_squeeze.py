"""Phases 1 to 4 once more, slow and obvious, from the words of the definition: the oracle of the kernel.

Whole columns where a thing has no memory, one plain loop where it has one. Nothing is shared with the kernel but the
parameters and the names of the flags. Squares are added in another order and logarithms come from libm, so swings agree
to about 1e-12 and scores to a thousandth of a point.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from squeezecore import squeeze
from squeezecore.market import Rows
from squeezecore.squeeze import IDLE, IMBALANCED, RESET_A, RESET_B, SqueezeParams

WINDOWS = (300, 900, 1800, 3600, 14_400)


def window_sum(x: np.ndarray, w: int) -> np.ndarray:
    total = np.concatenate([[0], np.cumsum(x)])
    first = np.maximum(np.arange(len(x)) - w + 1, 0)
    return total[1:] - total[first]


def change(x: np.ndarray, w: int) -> np.ndarray:
    out = np.zeros(len(x), np.int64)
    out[w:] = x[w:] - x[:-w]
    return out


def nano(price: np.ndarray) -> np.ndarray:
    return np.floor(np.log(price) * 1e9 + 0.5).astype(np.int64)


class Swings:
    """Root mean squares at the row that ends each minute, over the last 1,440 such rows that have the whole window."""

    def __init__(self, ts: np.ndarray) -> None:
        self.ends = np.flatnonzero((ts + 1) % 60 == 0)
        self.latest = np.searchsorted(self.ends, np.arange(len(ts)), "right") - 1

    def mean(self, product: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return, for every second, the mean of the samples in force and their number."""
        sample, good = product[self.ends].astype(float), usable[self.ends]
        means, counts = np.zeros(len(self.ends)), np.zeros(len(self.ends), int)
        for j in range(len(self.ends)):
            day = slice(max(0, j - 1439), j + 1)
            counts[j] = good[day].sum()
            means[j] = sample[day][good[day]].mean() if counts[j] else 0.0
        none = self.latest < 0
        return np.where(none, 0.0, means[self.latest]), np.where(none, 0, counts[self.latest])


def quotient(x: np.ndarray, swing: np.ndarray) -> np.ndarray:
    return np.divide(x, swing, out=np.zeros(len(x)), where=swing > 0)


def measure(p: SqueezeParams, rows: Rows) -> dict[str, Any]:
    """Everything that has no memory of its own: a column each."""
    n = len(rows.ts)
    age = np.arange(n)
    swings = Swings(rows.ts)
    log = nano(rows.close)
    q: dict[str, Any] = {"ready": np.ones(n, bool)}
    for w in WINDOWS:
        S, P, R = window_sum(rows.spot_delta, w), window_sum(rows.perp_delta, w), change(log, w)
        usable = age >= w
        square_s, count = swings.mean(S.astype(float) ** 2, usable)
        swing_s, swing_p, swing_r = (
            np.sqrt(square_s),
            np.sqrt(swings.mean(P.astype(float) ** 2, usable)[0]),
            np.sqrt(swings.mean(R.astype(float) ** 2, usable)[0]),
        )
        rho = quotient(swings.mean(S.astype(float) * P, usable)[0], swing_s * swing_p)
        swing_gap = np.sqrt(np.maximum(2 - 2 * rho, 0))
        swing_gap[swing_gap < 1e-9] = 0
        z_s, z_p = quotient(S, swing_s), quotient(P, swing_p)
        q["ready"] &= (count >= 240) & (swing_s > 0) & (swing_p > 0)
        q[w] = {
            "S": S, "P": P, "R": R, "swing_S": swing_s, "swing_P": swing_p, "swing_R": swing_r,
            "z_S": z_s, "z_P": z_p, "z_R": quotient(R, swing_r),
            "gap": z_s - z_p, "gap_in_swings": quotient(z_s - z_p, swing_gap),
        }  # fmt: skip
    q["context"] = np.zeros(n)
    for w, weight in ((1800, p.context_weight_1800), (3600, p.context_weight_3600), (14_400, p.context_weight_14400)):
        c = np.clip(q[w]["gap_in_swings"] / 2, -1, 1)
        contradicts = np.sign(q[w]["gap"]) * q[w]["z_R"] < -p.price_tolerance
        q["context"] += weight * np.where(contradicts, c / 2, c)
    oi = np.where(rows.oi_known_at <= rows.ts + 1, rows.open_interest, 0)
    before = np.concatenate([np.zeros(min(n, 1800), np.int64), oi[:-1800]])
    has = (oi > 0) & (before > 0)
    O = np.where(has, oi - before, 0)  # noqa: E741 — the definition's letter
    square_o, count_o = swings.mean(O.astype(float) ** 2, has)
    fresh = (oi > 0) & (rows.ts + 1 - rows.oi_known_at <= 2 * rows.oi_interval_s + 60)
    z_o = np.where(fresh & has & (count_o >= 240), quotient(O, np.sqrt(square_o)), 0)
    q["oi_silent"] = ~(fresh & has)
    q["vote"] = (z_o >= p.oi_vote).astype(int) - (z_o <= -p.oi_vote)
    q["quality"] = (window_sum(rows.quality_ppm < 800_000, 60) == 0) & (age >= 59)
    return q


def divergence(p: SqueezeParams, q: dict[str, Any], i: int) -> tuple[int, bool]:
    """Return direction and truth of what holds at second i; (0, False): nothing."""
    held = []
    for w in (900, 1800):
        x = q[w]
        s = int(np.sign(x["gap"][i]))
        size = abs(x["gap_in_swings"][i])
        if size >= p.divergence_min and s * x["z_R"][i] >= -p.price_tolerance:
            held.append((s, np.sign(x["S"][i]) == s and np.sign(x["P"][i]) == -s, size))
    true = [one for one in held if one[1]]
    if true:
        return max(true, key=lambda one: one[2])[0], True
    if len(held) == 2 and held[0][0] == held[1][0]:
        return held[0][0], False
    return 0, False


class Machine:
    """Phase 3, as the definition tells it."""

    def __init__(self, p: SqueezeParams) -> None:
        self.p = p
        self.forget()

    def forget(self) -> None:
        self.phase, self.side = IDLE, 0
        self.low = self.high = self.reset_low = self.reset_high = self.shake = self.start = self.since = 0
        self.largest: dict[int, float] = {}

    @property
    def reset(self) -> tuple[int, int, int, int]:
        """Direction, range and phase of the reset; a shake-out is a change even where it froze the same range."""
        return (self.side, self.reset_low, self.reset_high, self.phase) if self.phase >= RESET_A else (0, 0, 0, 0)

    def step(self, t: int, x: dict[str, Any], low: int, high: int) -> None:
        p = self.p
        life = p.imbalance_expires_s if self.phase == IMBALANCED else p.reset_expires_s
        if self.phase != IDLE and t - self.since >= life:
            self.forget()
        z_s, z_p = abs(x[900]["z_S"]), abs(x[900]["z_P"])
        imbalanced = (
            max(z_s, z_p) >= p.imbalance_z
            and max(z_s, z_p) >= p.imbalance_share * (z_s + z_p)
            and abs(x[900]["gap_in_swings"]) >= p.imbalance_gap
        )
        side = int(np.sign(x[900]["gap"]))
        if imbalanced and (self.phase == IDLE or side != self.side):
            self.forget()
            self.phase, self.side, self.start, self.since, self.low, self.high = IMBALANCED, side, t, t, low, high
            self.largest = {w: abs(x[w]["gap"]) for w in (300, 900, 1800)}
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self.phase == IMBALANCED:
            self.largest = {w: max(self.largest[w], abs(x[w]["gap"])) for w in self.largest}
            closed = [
                weight
                for w, weight in ((300, 0.2), (900, 0.3), (1800, 0.5))
                if abs(x[w]["gap"]) <= p.exhaustion_gap * self.largest[w]
            ]
            if abs(x[300]["z_R"]) <= p.exhaustion_return and sum(closed) >= p.exhaustion_weight:
                self.freeze(t, RESET_A)
        elif self.phase == RESET_A and t - self.since <= p.shakeout_within_s:
            way = np.sign(x[300]["R"])
            if abs(x[300]["z_R"]) >= p.shakeout_return and np.sign(x[300]["S"]) == way == np.sign(x[300]["P"]):
                self.freeze(t, RESET_B)
                self.shake = t

    def freeze(self, t: int, phase: int) -> None:
        self.phase, self.since, self.reset_low, self.reset_high = phase, t, self.low, self.high


def candles_of(rows: Rows, q: dict[str, Any]) -> list[dict[str, int]]:
    """List five-minute candles in nano-logs that closed within the rows."""
    out = []
    volume = rows.spot_volume + rows.perp_volume
    for end in np.flatnonzero((rows.ts + 1) % 300 == 0):
        first = max(0, end - 299)
        own = slice(first, end + 1)
        prices = [rows.open[first], rows.high[own].max(), rows.low[own].min(), rows.close[end]]
        o, h, l, c = (int(x) for x in nano(np.array(prices)))  # noqa: E741
        flows = {"S": int(q[300]["S"][end]), "P": int(q[300]["P"][end])}
        out.append({"end": int(rows.ts[end]), "o": o, "h": h, "l": l, "c": c, "v": int(volume[own].sum()), **flows})
    return out


def mirrored(candle: dict[str, int]) -> dict[str, int]:
    o, h, l, c = -candle["o"], -candle["l"], -candle["h"], -candle["c"]  # noqa: E741
    return {**candle, "o": o, "h": h, "l": l, "c": c, "S": -candle["S"], "P": -candle["P"]}


def long_parts(
    p: SqueezeParams,
    candles: list[dict[str, int]],
    swing_s: float,
    swing_p: float,
    reset: tuple[int, int] | None,
    start: int,
    shake: dict[str, int] | None,
) -> tuple[float, float, float]:
    """Give the candle parts of a long, in points; a short's are those of the mirrored candles."""

    def adverse(x: dict[str, int]) -> float:
        return max(0.0, -(x["S"] / swing_s + x["P"] / swing_p))

    ranges = [x["h"] - x["l"] for x in candles]
    deceleration = 0.0
    if reset is not None:
        low, high = reset
        tests = [x for x in candles if x["end"] >= start and 0 <= x["l"] - low <= (high - low) / 4]
        if shake is not None:
            tests = sorted([*tests, shake], key=lambda x: x["end"])
        a = [adverse(x) for x in tests]
        if len(a) >= 2 and a[0] > 0:
            deceleration += 0.7 * min(max((a[0] - a[-1]) / a[0], 0.0), 1.0)
        before = sum(ranges[-9:-3]) / 6
        if before > 0:
            deceleration += 0.3 * min(max(2 * (1 - sum(ranges[-3:]) / 3 / before), 0.0), 1.0)
    absorption = 0.0
    for k in range(len(candles) - 3, len(candles)):
        x = candles[k]
        if x["c"] <= x["o"] or (reset is not None and x["c"] <= reset[0]):
            continue
        if ranges[k] == 0 or x["o"] - x["l"] < p.absorption_wick * ranges[k]:
            continue
        mean = sum(y["v"] for y in candles[k - 12 : k]) / 12
        absorption += 0.7 if mean > 0 and x["v"] >= p.absorption_volume * mean else 0.5
    attempts = []
    for k in range(len(candles) - 12, len(candles)):
        floor = min(y["l"] for y in candles[k - 12 : k])
        if candles[k]["l"] < floor < candles[k]["c"]:
            attempts.append(adverse(candles[k]))
    breakdown = (0.0, 0.4, 0.7, 1.0)[min(len(attempts), 3)]
    if any(later >= earlier for earlier, later in itertools.pairwise(attempts)):
        breakdown *= 0.6
    return 3.5 * deceleration, 2.5 * min(absorption, 1.0), 2.0 * breakdown


def reference(p: SqueezeParams, rows: Rows) -> dict[str, np.ndarray]:
    """Return score and flags for every second, parts and reset range in force, from rows without a hole."""
    q = measure(p, rows)
    n = len(rows.ts)
    candles = candles_of(rows, q)
    ends = np.array([x["end"] for x in candles])
    machine = Machine(p)
    armed, armed_at, armed_true, was_reset = 0, 0, False, (0, 0, 0, 0)
    sides = {1: (0.0, 0.0, 0.0), -1: (0.0, 0.0, 0.0)}
    out: dict[str, Any] = {
        "score_milli": np.zeros(n, np.int16),
        "flags": np.zeros(n, np.uint32),
        "parts": np.zeros((n, 3), np.int16),
        "reset": np.zeros((n, 2), np.int64),
    }
    for i in range(n):
        t = int(rows.ts[i])
        flags = squeeze.F_QUALITY if q["quality"][i] else 0
        flags |= squeeze.F_OI_SILENT if q["oi_silent"][i] else 0
        R = q[300]["R"][i]
        flags |= squeeze.F_RETURN_UP if R > 0 else squeeze.F_RETURN_DOWN if R < 0 else 0
        if not q["ready"][i]:
            out["flags"][i] = flags
            continue
        x = {w: {name: column[i] for name, column in q[w].items()} for w in WINDOWS}
        context = q["context"][i]

        found, true = divergence(p, q, i)
        if found:
            armed, armed_at, armed_true = found, t, true
        elif armed and t - armed_at > p.divergence_armed_s:
            armed, armed_true = 0, False
        machine.step(t, x, int(rows.low[i]), int(rows.high[i]))

        if (t + 1) % 300 == 0 or machine.reset != was_reset:
            was_reset = machine.reset
            seen = candles[: int(np.searchsorted(ends, t, "right"))]
            from_start = machine.start - machine.start % 300
            shake = None
            if machine.shake:
                at = i - (t - machine.shake)
                shake = {"end": machine.shake, "S": int(q[300]["S"][at]), "P": int(q[300]["P"][at])}
            for side in (1, -1):
                reset = None
                if was_reset[0] == side:
                    low, high = (int(v) for v in nano(np.array(was_reset[1:3])))
                    reset = (low, high) if side == 1 else (-high, -low)
                own = [y if side == 1 else mirrored(y) for y in seen[-260:]]
                turned = None if shake is None else {**shake, "S": side * shake["S"], "P": side * shake["P"]}
                sides[side] = long_parts(p, own, x[300]["swing_S"], x[300]["swing_P"], reset, from_start, turned)

        direction, source = 0, squeeze.SOURCE_NONE
        if armed:
            direction, source = armed, squeeze.SOURCE_DIVERGENCE
        elif machine.reset[0]:
            direction, source = machine.side, squeeze.SOURCE_RESET
        elif abs(context) >= p.context_enter:
            direction, source = int(np.sign(context)), squeeze.SOURCE_CONTEXT
        for side, both, flip in (
            (1, squeeze.F_BOTH_AGAINST_LONG, squeeze.F_CONTEXT_AGAINST_LONG),
            (-1, squeeze.F_BOTH_AGAINST_SHORT, squeeze.F_CONTEXT_AGAINST_SHORT),
        ):
            against = all(side * x[w][z] <= -p.against_swing for w in (900, 300) for z in ("z_S", "z_P"))
            flags |= both if against else 0
            flags |= flip if side * context <= -p.context_enter else 0
        flags |= squeeze.F_WARM if i + 1 >= 28 * 3600 else 0
        flags |= squeeze.F_TRUE_DIVERGENCE if armed_true else 0
        flags |= {1: squeeze.F_RESET_LONG, -1: squeeze.F_RESET_SHORT, 0: 0}[machine.side]
        flags |= source << squeeze.SOURCE_SHIFT | machine.phase << squeeze.PHASE_SHIFT
        if direction:
            flags |= squeeze.F_LONG if direction == 1 else squeeze.F_SHORT
            flags |= squeeze.F_SIGNAL if direction in (armed, machine.reset[0]) else 0
            terms = (
                (squeeze.F_BIAS_SPOT, 0.4, direction * x[300]["z_S"] >= p.bias_spot_z),
                (squeeze.F_BIAS_PERP, 0.2, direction * x[300]["z_P"] >= 0),
                (squeeze.F_BIAS_RETURN, 0.2, direction * R > 0),
            )
            bias = 0.2 * max(0.0, direction * context)
            for flag, weight, holds in terms:
                flags |= flag if holds else 0
                bias += weight if holds else 0.0
            vote = q["vote"][i]
            flags |= squeeze.F_OI_CONFIRMS if vote > 0 else squeeze.F_OI_DENIES if vote < 0 else 0
            score = min(max(sum(sides[direction]) + 2 * bias + vote, 0.0), 10.0)
            out["score_milli"][i] = int(score * 1000 + 0.5)
            out["parts"][i] = [int(part * 1000 + 0.5) for part in sides[direction]]
        out["reset"][i] = machine.reset[1:3]
        out["flags"][i] = flags
    return out
