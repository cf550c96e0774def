"""Phases 1 to 4 of the strategy: rows in, score and direction out, one kernel for live and backtest.

This module holds the parameters, the kernel's state, `scan`, and the columns it returns. It knows no position, no order
and no money: those are phase 5, `squeezecore.engine`.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from squeezecore.errors import SpecError
from squeezecore.spec import canonical, digest, nearest


def _field(text: str, **bounds: Any) -> Any:
    return Meta(description=text, **bounds)


class SqueezeParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every number of strategy.md; defaults are starting values, not truths. Identified by `hash`."""

    # Phase 1, context
    context_enter: Annotated[float, _field("context at which it counts as BULLISH (negated: BEARISH)", gt=0, le=1)] = (
        0.25
    )
    context_weight_1800: Annotated[float, _field("weight of the 1800 s window in context", ge=0, le=1)] = 0.2
    context_weight_3600: Annotated[float, _field("weight of the 3600 s window in context", ge=0, le=1)] = 0.3
    context_weight_14400: Annotated[float, _field("weight of the 14400 s window in context", ge=0, le=1)] = 0.5
    price_tolerance: Annotated[
        float, _field("return against us, in swings, that price may show and still count as still", ge=0, le=10)
    ] = 0.5
    # Phase 2, divergence
    divergence_min: Annotated[float, _field("gap, in its own swing, at which a divergence is large", gt=0, le=20)] = 2.0
    divergence_armed_s: Annotated[
        int, _field("seconds a divergence stays armed after the last second it held", ge=0, le=86_400)
    ] = 1800
    oi_vote: Annotated[
        float, _field("open-interest change over 1800 s, in swings, that confirms (negated: denies)", gt=0, le=20)
    ] = 1.0
    # Phase 3, reset
    imbalance_z: Annotated[float, _field("flow over 900 s, in swings, that starts an imbalance", gt=0, le=20)] = 1.5
    imbalance_share: Annotated[float, _field("least share of the larger flow in the sum of both", ge=0.5, le=1)] = 0.6
    imbalance_gap: Annotated[
        float, _field("gap over 900 s, in its own swing, that starts an imbalance", gt=0, le=20)
    ] = 1.5
    imbalance_expires_s: Annotated[int, _field("seconds until an imbalance is forgotten", ge=1, le=86_400)] = 3600
    exhaustion_return: Annotated[
        float, _field("largest |return| over 300 s, in swings, at which price stalls", gt=0, le=10)
    ] = 0.5
    exhaustion_gap: Annotated[
        float, _field("share of its largest value that a gap must have fallen to", gt=0, le=1)
    ] = 0.7
    exhaustion_weight: Annotated[
        float, _field("sum of window weights (0.2, 0.3, 0.5) whose gap must have closed", gt=0, le=1)
    ] = 0.5
    shakeout_return: Annotated[float, _field("|return| over 300 s, in swings, of a shake-out", gt=0, le=20)] = 2.0
    shakeout_within_s: Annotated[
        int, _field("seconds after exhaustion in which a shake-out may come", ge=1, le=86_400)
    ] = 1800
    reset_expires_s: Annotated[int, _field("seconds until a reset is forgotten", ge=1, le=86_400)] = 3600
    # Phase 4, score
    entry_score: Annotated[float, _field("score at which we enter", ge=0, le=10)] = 4.0
    record_score: Annotated[float, _field("score from which changes leave a record", ge=0, le=10)] = 3.0
    absorption_wick: Annotated[
        float, _field("least adverse wick of an absorbing candle, as share of its range", ge=0, le=1)
    ] = 0.4
    absorption_volume: Annotated[
        float, _field("volume over the mean of the 12 candles before that earns a bonus", ge=0, le=20)
    ] = 1.2
    bias_spot_z: Annotated[float, _field("spot flow over 300 s, in swings, that counts as bias", ge=0, le=10)] = 0.25
    cooldown_s: Annotated[int, _field("seconds after the last exit fill before a new entry", ge=0, le=86_400)] = 300
    cost_multiple: Annotated[
        float, _field("expected move must exceed this multiple of the round-trip cost", ge=0, le=100)
    ] = 2.0
    tier_2_score: Annotated[float, _field("score from which the second tier holds", ge=0, le=10)] = 5.0
    tier_3_score: Annotated[float, _field("score from which the third tier holds", ge=0, le=10)] = 6.0
    tier_1_size: Annotated[float, _field("size factor of the first tier", gt=0, le=10)] = 0.5
    tier_2_size: Annotated[float, _field("size factor of the second tier", gt=0, le=10)] = 1.0
    tier_3_size: Annotated[float, _field("size factor of the third tier", gt=0, le=10)] = 1.5
    tier_1_leverage: Annotated[float, _field("leverage cap of the first tier", gt=0, le=125)] = 2.0
    tier_2_leverage: Annotated[float, _field("leverage cap of the second tier", gt=0, le=125)] = 3.0
    tier_3_leverage: Annotated[float, _field("leverage cap of the third tier", gt=0, le=125)] = 5.0
    # Phase 5, exits
    fixed_stop: Annotated[float, _field("fixed stop as log return against us; 0 = off", ge=0, le=1)] = 0.0
    structure_break: Annotated[
        float, _field("log price beyond the reset range that breaks the structure", ge=0, le=1)
    ] = 0.005
    structure_atr: Annotated[
        float, _field("the same as a multiple of the candles' mean range; 0 = use structure_break", ge=0, le=20)
    ] = 0.0
    reversal_min_hold_s: Annotated[
        int, _field("least seconds held before a flow reversal may exit", ge=0, le=86_400)
    ] = 60
    reversal_swing: Annotated[
        float, _field("flow since entry, in swings of 1800 s, that is a reversal", gt=0, le=20)
    ] = 0.5
    against_swing: Annotated[
        float, _field("both flows against us, in swings of their window, that exit", gt=0, le=20)
    ] = 0.5
    time_stop_tier_1_h: Annotated[
        float, _field("hours after which the first tier is closed; 0 = off", ge=0, le=1_000)
    ] = 0.0
    time_stop_tier_2_h: Annotated[
        float, _field("hours after which the second tier is closed; 0 = off", ge=0, le=1_000)
    ] = 0.0
    time_stop_tier_3_h: Annotated[
        float, _field("hours after which the third tier is closed; 0 = off", ge=0, le=1_000)
    ] = 0.0
    # Size
    risk_per_trade: Annotated[
        float, _field("share of equity at risk between entry and structure exit, times the tier's size", gt=0, le=0.5)
    ] = 0.02
    stop_distance_min: Annotated[float, _field("least stop distance, as log price", gt=0, le=1)] = 0.002

    @property
    def hash(self) -> str:
        """32 hex digits of the canonical bytes."""
        return digest(canonical(self))


def params_from(values: dict[str, Any]) -> SqueezeParams:
    """Make parameters from names and values, naming what is wrong and the nearest known name."""
    known = SqueezeParams.__struct_fields__
    for name in values:
        if name not in known:
            raise SpecError(f"parameter was {name!r}, which does not exist: {nearest(name, known)}")
    try:
        return msgspec.convert(values, SqueezeParams, strict=True)
    except msgspec.ValidationError as error:
        raise SpecError(f"parameters were refused: {error}") from error


# What one second says, as bits of `Features.flags`.
F_LONG = 1 << 0  # the score's direction is BULLISH
F_SHORT = 1 << 1
F_SIGNAL = 1 << 2  # a reset (A or B) or an armed divergence stands in the score's direction
F_WARM = 1 << 3  # swings exist and 28 h of contiguous rows were seen
F_QUALITY = 1 << 4  # none of the last 60 seconds had quality < 0.8
F_OI_CONFIRMS = 1 << 5  # of the score's direction
F_OI_DENIES = 1 << 6
F_OI_SILENT = 1 << 7  # stale or missing
F_BOTH_AGAINST_LONG = 1 << 8  # exit 4 holds for a long position
F_BOTH_AGAINST_SHORT = 1 << 9
F_CONTEXT_AGAINST_LONG = 1 << 10  # exit 5 holds for a long position
F_CONTEXT_AGAINST_SHORT = 1 << 11
F_RETURN_UP = 1 << 12  # R(300) > 0
F_RETURN_DOWN = 1 << 13  # R(300) < 0
F_BIAS_SPOT = 1 << 14  # the three yes/no terms of the directional bias
F_BIAS_PERP = 1 << 15
F_BIAS_RETURN = 1 << 16
F_TRUE_DIVERGENCE = 1 << 17  # the armed divergence is a true one
F_RESET_LONG = 1 << 18  # direction of the reset machine (any state but IDLE)
F_RESET_SHORT = 1 << 19
SOURCE_SHIFT = 20  # two bits: where the direction came from
SOURCE_NONE, SOURCE_DIVERGENCE, SOURCE_RESET, SOURCE_CONTEXT = range(4)
PHASE_SHIFT = 22  # two bits: the reset machine
IDLE, IMBALANCED, RESET_A, RESET_B = range(4)
PHASES = ("IDLE", "IMBALANCED", "RESET_A", "RESET_B")
F_RECORD = 1 << 24  # this second leaves a record (score >= record_score and a change, or a closed candle)


class Features(NamedTuple):
    """What `scan` says about a block of contiguous seconds; also the content of a day's tape.

    The first two columns have one entry a second. The others hold values *in force from* the given second on; each has
    an entry for the block's first second, so that a block can be read without the one before it.
    """

    ts: NDArray[np.int64]  # s
    score_milli: NDArray[np.int16]  # 0..10000, thousandths of a point; 0 without a direction
    flags: NDArray[np.uint32]  # F_…
    swing_ts: NDArray[np.int64]
    swings: NDArray[np.float64]  # [k, 3]: swing_S(1800), swing_P(1800) in USD cents, swing_R(3600) as log return
    reset_ts: NDArray[np.int64]
    reset: NDArray[
        np.int64
    ]  # [k, 3]: reset_low, reset_high (price scale; 0 = none), mean range of the last 12 candles in 1e-9 log price
    part_ts: NDArray[np.int64]
    parts: NDArray[np.int16]  # [k, 3]: reset deceleration, absorption, failed breakdown, in thousandths of a point


SWING_SPOT_1800, SWING_PERP_1800, SWING_RETURN_3600 = range(3)
RESET_LOW, RESET_HIGH, CANDLE_RANGE = range(3)
PART_DECELERATION, PART_ABSORPTION, PART_BREAKDOWN = range(3)
