"""Who is trapped, and when: the episodes planted in a squeeze world, with their truth as labels.

A day is cut into slots; each holds at most one episode, which begins and ends within it, so that a day is whole in
itself. An episode has three stages. *Imbalance*: one side buys in spot while perpetual traders sell and price does not
fall (or the mirror). *Reset*: the flows converge, price stalls, and tests its edge. *Move*: the trapped side is forced
out and price goes against it, unless the episode fails.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from squeezecore.market import DAY_S
from squeezecore.simulator.noise import key, uniform
from squeezecore.trading import Direction

SLOT_S = 14_400  # six slots a day
_CHANCE = 0.6  # that a slot holds an episode
_SUCCEEDS = 0.85  # that an episode ends with the move its flows promise
_MOVE_BP = 100.0  # mean size of that move, at one basis point of one-second volatility
_IMBALANCE_S, _RESET_S, _MOVE_S, _AFTER_S = (900, 1_500), (500, 1_000), (1_200, 2_400), 900


class Regime(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One planted episode: its direction (`BULLISH`: shorts are trapped) and where each stage begins."""

    asset: str
    direction: Direction
    start_s: int  # UTC: the imbalance begins
    reset_s: int
    move_s: int
    end_s: int
    move_bp: float  # what price will do in the move stage, in our direction; negative: it fails


class Push(NamedTuple):
    """What a day's episodes do to its seconds."""

    drift: NDArray[np.float64]  # [DAY_S], log return a second
    calm: NDArray[np.float64]  # [DAY_S], factor of volatility
    flow: NDArray[np.float64]  # [3, DAY_S], bias of side
    interest: NDArray[np.float64]  # [DAY_S], bias of opens over closes
    moody: float  # factor of the markets' own moods


def draw(seed: int, asset: str, day: int, sigma_bp: float) -> tuple[Regime, ...]:
    """Draw the episodes of one UTC day (counted from 1970)."""
    stream = key(seed, asset, "regimes", day)
    found = []
    for slot in range(DAY_S // SLOT_S):
        u = [uniform(stream, slot * 16 + n) for n in range(8)]
        if u[0] >= _CHANCE:
            continue
        lengths = [
            int(low + part * (high - low))
            for part, (low, high) in zip(u[1:4], (_IMBALANCE_S, _RESET_S, _MOVE_S), strict=True)
        ]
        start = day * DAY_S + slot * SLOT_S + int(u[4] * (SLOT_S - sum(lengths) - _AFTER_S))
        size = _MOVE_BP * sigma_bp * (0.6 + 0.8 * u[6])
        found.append(
            Regime(
                asset=asset,
                direction=Direction.BULLISH if u[5] < 0.5 else Direction.BEARISH,
                start_s=start,
                reset_s=start + lengths[0],
                move_s=start + lengths[0] + lengths[1],
                end_s=start + sum(lengths),
                move_bp=size if u[7] < _SUCCEEDS else -0.5 * size,
            )
        )
    return tuple(found)


def push_of(episodes: tuple[Regime, ...], day: int, moody: float) -> Push:
    """Lay the episodes of one day over its seconds."""
    push = Push(np.zeros(DAY_S), np.ones(DAY_S), np.zeros((3, DAY_S)), np.zeros(DAY_S), moody)
    for episode in episodes:
        side = int(episode.direction)
        a, b, c, d = (t - day * DAY_S for t in (episode.start_s, episode.reset_s, episode.move_s, episode.end_s))
        push.flow[0, a:b] += 0.52 * side
        push.flow[1:, a:b] -= 0.52 * side
        push.drift[a:b] += side * 0.004e-4
        push.calm[a:b] *= 0.85
        push.interest[a:b] += 0.06
        push.calm[b:c] *= 0.75
        if episode.move_bp > 0:
            push.flow[0, c:d] += 0.08 * side
            push.flow[1:, c:d] += 0.10 * side
        else:
            push.flow[:, c:d] -= 0.08 * side
        push.flow[:, d : d + _AFTER_S] -= 0.12 * side  # those who won take their profit
        push.interest[c:d] -= 0.05
        push.drift[c:d] += side * episode.move_bp * 1e-4 / (d - c)
    return push
