"""Phases 1 to 4 of the strategy: rows in, score and direction out, one kernel for live and backtest.

This module holds the parameters, the kernel's state, `scan`, and the columns it returns. It knows no position, no order
and no money: those are phase 5, `squeezecore.engine`.
"""

from __future__ import annotations

# ruff: noqa: SIM300 — S and P are no constants but the letters of the definition
import functools
import math
import operator
import tomllib
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar, cast, get_type_hints

import msgspec
import numba
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from squeezecore.errors import SpecError, UsageError
from squeezecore.market import WARMUP_S, Rows, cut
from squeezecore.mixing import hash_words
from squeezecore.spec import canonical, digest, nearest

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Function = TypeVar("Function", bound=Callable[..., Any])
_njit = cast("Callable[[Function], Function]", numba.njit(cache=True))


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
        int, _field("seconds a divergence stays armed after the last second it held", ge=0, le=21_600)
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
    imbalance_expires_s: Annotated[int, _field("seconds until an imbalance is forgotten", ge=1, le=21_600)] = 3600
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
        int, _field("seconds after exhaustion in which a shake-out may come", ge=1, le=21_600)
    ] = 1800
    reset_expires_s: Annotated[int, _field("seconds until a reset is forgotten", ge=1, le=21_600)] = 3600
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
    for name, value in values.items():
        if name not in known:
            raise SpecError(f"parameter was {name!r}, which does not exist: {nearest(name, known)}")
        _check_value("parameter", name, value)
    try:
        return msgspec.convert(values, SqueezeParams, strict=True)
    except msgspec.ValidationError as error:
        raise SpecError(f"parameters were refused: {error}") from error


def write_params(params: SqueezeParams) -> str:
    """Write parameters as a TOML file, above each field its meaning, bounds and default.

    >>> print(write_params(SqueezeParams()).splitlines()[3])
    # context at which it counts as BULLISH (negated: BEARISH); > 0, <= 1; default 0.25
    """
    lines = ["# Parameters of the squeeze strategy; a field that is left out has its default.", ""]
    for field in msgspec.structs.fields(SqueezeParams):
        meta = _meta(field.name)
        bounds = [f"{sign} {limit}" for sign, limit in _bounds(meta)]
        lines += ["", f"# {'; '.join([str(meta.description), ', '.join(bounds), f'default {field.default}'])}"]
        lines += [f"{field.name} = {getattr(params, field.name)}"]
    return "\n".join(lines) + "\n"


def read_params(text: str, name: str = "parameters") -> SqueezeParams:
    """Read a TOML file of parameters; raise `SpecError` naming file, line, field, value and limit."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{name} was no TOML: {error}: a line is `field = number`") from error
    lines = {line.split("=")[0].strip(): n for n, line in enumerate(text.splitlines(), 1) if "=" in line}
    for field, value in values.items():
        where = f"{name} line {lines.get(field, 1)}"
        if field not in SqueezeParams.__struct_fields__:
            known = nearest(field, SqueezeParams.__struct_fields__)
            raise SpecError(f"{where}: field was {field!r}, which does not exist: {known}")
        _check_value(where, field, value)
    return params_from(values)


@functools.cache
def _hints() -> dict[str, Any]:
    return get_type_hints(SqueezeParams, include_extras=True)


def _meta(field: str) -> Meta:
    return cast("Meta", _hints()[field].__metadata__[0])


def _bounds(meta: Meta) -> list[tuple[str, float]]:
    limits = ((">", meta.gt), (">=", meta.ge), ("<", meta.lt), ("<=", meta.le))
    return [(sign, limit) for sign, limit in limits if limit is not None]


def _check_value(where: str, field: str, value: object) -> None:
    """Refuse a value of the wrong type or beyond its bounds, naming both."""
    kind = _hints()[field].__origin__
    fits = isinstance(value, int | float if kind is float else int) and not isinstance(value, bool)
    if not fits:
        want = "a number" if kind is float else "a whole number"
        raise SpecError(f"{where}: {field} was {value!r}, it must be {want}")
    number = cast("float", value)
    bounds = _bounds(_meta(field))
    good = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
    if not math.isfinite(number) or not all(good[sign](number, limit) for sign, limit in bounds):
        limits = " and ".join(f"{sign} {limit}" for sign, limit in bounds)
        raise SpecError(f"{where}: {field} was {value}, it must be {limits}")


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


# --- The kernel -------------------------------------------------------------------------------------------------------
#
# Time in the kernel is the second `t` of a row; everything is said at its close. All prices are compared as integers: the
# traded instrument's prices for extremes, 1e-9 log prices ("nano-logs") for everything that is a distance. Rings are
# indexed by absolute time, sums are integers or added in hour blocks in a fixed order, counters saturate: after 28 h of
# rows the state is the same bits whatever second the rows began with.
#
# Where the definition's words leave a second open: a phase begun at t with a life of n seconds holds through t + n − 1; a
# divergence last held at t is armed through t + n, a shake-out may come through t + n. A test's low lies within the lowest
# quarter, borders included; one below the range is none. Before 28 h, with 240 samples, everything is computed and
# F_WARM is missing; with fewer the asset is silent.

WINDOWS = (300, 900, 1800, 3600, 14_400)  # s
W300, W900, W1800, W3600, W14400 = range(5)
RING = 14_400  # rows kept: the longest window
SAMPLES_MIN = 240  # minutes, for every window
DAY_MINUTES = 1440
CANDLE_S = 300
CANDLES = 256  # closed candles kept: 24 before the oldest imbalance that the bounds of SqueezeParams allow (216)
QUALITY_MIN_PPM = 800_000
QUALITY_S = 60
NANO = 1e9

RING_SPOT, RING_PERP, RING_LOG, RING_OI = range(4)
# Columns of a minute's sample, of their sums, and (as square roots) of `swings`. CROSS holds S·P there, the gap's swing here.
Q_SPOT, Q_PERP, Q_RETURN, Q_CROSS, Q_OI, Q_OI_COUNT, Q_SIZE = 0, 5, 10, 15, 20, 21, 22
C_OPEN, C_HIGH, C_LOW, C_CLOSE, C_VOLUME, C_SPOT, C_PERP = range(7)
SUM_FULL, SUM_PREFIX = range(2)
LED_SPOT, LED_PERP = 1, 2

# Scalars of the state, unpacked into locals for the loop.
(
    I_LAST_TS,
    I_COUNT,  # contiguous rows seen, saturating at 28 h
    I_GOOD,  # seconds since the last bad one, saturating at 60
    I_READY,  # every window has 240 samples and both flow swings are above zero
    I_SHAPE,  # direction, machine and blockers of the last second, to see a change
    I_CANDLE_OPEN,
    I_CANDLE_HIGH,
    I_CANDLE_LOW,
    I_CANDLE_VOLUME,
    I_CANDLE_RANGE,  # mean range of the last 12 closed candles, nano-log
    I_ARMED,  # direction of the armed divergence
    I_ARMED_TS,  # last second it held
    I_ARMED_TRUE,
    I_PHASE,
    I_RESET_SIDE,
    I_START,  # second the imbalance began
    I_SINCE,  # second the phase began
    I_LED,
    I_LOWEST,  # since the start, price scale
    I_HIGHEST,
    I_RESET_LOW,  # frozen, price scale
    I_RESET_HIGH,
    I_RESET_LOW_LOG,
    I_RESET_HIGH_LOG,
    I_SHAKE_TS,  # RESET_B's second and its flows over 300 s
    I_SHAKE_SPOT,
    I_SHAKE_PERP,
    I_SAMPLES,  # five counters, saturating at 1440
    I_SPOT,  # five window sums each
    I_PERP,
    I_SIZE,
) = (*range(27), 27, 32, 37, 42)
G_300, G_900, G_1800, G_EVIDENCE, G_SIZE = range(5)  # largest |gap| since the imbalance's start; the armed evidence

# A side's candle parts in points, and what they were made from.
(
    P_DECELERATION,
    P_ABSORPTION,
    P_BREAKDOWN,
    P_TESTS,
    P_TEST_FIRST_TS,  # its last second
    P_TEST_LAST_TS,
    P_ADVERSE_FIRST,
    P_ADVERSE_LAST,
    P_RANGE_3,
    P_RANGE_6,
    P_ABSORBING,  # bits: 1 the last closed candle, 2 the one before it, …
    P_ABSORBING_VOLUME,
    P_ATTEMPTS,
    P_ATTEMPTS_FALLING,
    P_LAST_CANDLE,
    P_EVALUATED,
    P_SIZE,
) = range(17)

# Limits that change only when swings do: a threshold in swings times the swing, infinite where the swing is zero (z = 0).
L_STILL, L_STALL, L_SHAKE, L_GAP, L_AGAINST, L_BIAS, L_OI, L_SIZE = 0, 5, 6, 7, 12, 16, 17, 18

# What explains a second: one row a window, then single values; filled from the kernel's locals after its last row.
PROBE_WINDOW = (
    "spot_delta_cents",
    "perp_delta_cents",
    "return_nano",
    "swing_spot_cents",
    "swing_perp_cents",
    "swing_return_nano",
    "z_spot",
    "z_perp",
    "z_return",
    "gap",
    "swing_gap",
    "m",
    "dominance",
    "context_term",
    "samples",
)
PROBE = (
    "context",
    "divergence_900",
    "divergence_1800",
    "imbalance",
    "oi_vote",
    "oi_change",
    "swing_oi",
    "z_oi",
    "oi_samples",
    "oi_known_at",
    "oi_age_s",
    "oi_interval_s",
    "directional_bias",
    "points",
    "open_interest",
)


class _Numbers(NamedTuple):
    """The parameters the kernel reads, as floats."""

    context_enter: float
    context_weight_1800: float
    context_weight_3600: float
    context_weight_14400: float
    price_tolerance: float
    divergence_min: float
    divergence_armed_s: float
    oi_vote: float
    imbalance_z: float
    imbalance_share: float
    imbalance_gap: float
    imbalance_expires_s: float
    exhaustion_return: float
    exhaustion_gap: float
    exhaustion_weight: float
    shakeout_return: float
    shakeout_within_s: float
    reset_expires_s: float
    record_score: float
    absorption_wick: float
    absorption_volume: float
    bias_spot_z: float
    against_swing: float


@functools.lru_cache(maxsize=4096)
def _numbers(params: SqueezeParams) -> _Numbers:
    return _Numbers(*(float(getattr(params, name)) for name in _Numbers._fields))


@_njit
def log_nano(price: int) -> int:
    """Return `round(ln(price) * 1e9)`, the door, from + − × ÷ alone: the same bits on every machine.

    `ln(m · 2^e) = e·ln 2 + 2·atanh((m − 1)/(m + 1))` with m in [√½, √2]; the series to x¹⁷ leaves 3e-16.
    """
    m, e = math.frexp(float(price))
    if m < 0.7071067811865476:
        m += m
        e -= 1
    x = (m - 1.0) / (m + 1.0)
    y = x * x
    series = 1.0 / 17.0
    series = series * y + 1.0 / 15.0
    series = series * y + 1.0 / 13.0
    series = series * y + 1.0 / 11.0
    series = series * y + 1.0 / 9.0
    series = series * y + 1.0 / 7.0
    series = series * y + 1.0 / 5.0
    series = series * y + 1.0 / 3.0
    series = series * y + 1.0
    return math.floor((e * 0.6931471805599453 + 2.0 * x * series) * 1e9 + 0.5)


@_njit
def _door(price: int, behind: bool) -> int:
    return price if behind else log_nano(price)


@_njit
def _add_sample(t: int, x: Floats, samples: Floats, hours: Floats, sums: Floats, totals: Floats) -> None:
    """Enter a minute's sample `x` and add up the last 1,440, the same bits whatever the first minute was.

    Suffix of the oldest hour + 23 full hours + prefix of the current one. The oldest hour's rows are turned into suffix
    sums in place when the current hour begins to overwrite them.
    """
    hour = t // 3600
    minute = t // 60 % 60
    slot = hour % 24
    if minute == 0:
        for k in range(58, -1, -1):
            for q in range(Q_SIZE):
                samples[slot * 60 + k, q] += samples[slot * 60 + k + 1, q]
        for q in range(Q_SIZE):
            hours[slot, q] = 0.0
            full = 0.0
            for h in range(1, 24):
                full += hours[(slot + h) % 24, q]
            sums[SUM_FULL, q] = full
            sums[SUM_PREFIX, q] = 0.0
    for q in range(Q_SIZE):
        suffix = samples[slot * 60 + minute + 1, q] if minute < 59 else 0.0
        samples[slot * 60 + minute, q] = x[q]
        prefix = sums[SUM_PREFIX, q] + x[q]
        sums[SUM_PREFIX, q] = prefix
        totals[q] = (suffix + sums[SUM_FULL, q]) + prefix
        if minute == 59:
            hours[slot, q] = prefix


@_njit
def _form_swings(totals: Floats, counts: Ints, swings: Floats) -> bool:
    """Turn sums of squares into swings; say whether every window may be used."""
    ready = True
    for w in range(5):
        n = counts[w]
        if n == 0:
            return False
        swing_spot = math.sqrt(totals[Q_SPOT + w] / n)
        swing_perp = math.sqrt(totals[Q_PERP + w] / n)
        swings[Q_SPOT + w] = swing_spot
        swings[Q_PERP + w] = swing_perp
        swings[Q_RETURN + w] = math.sqrt(totals[Q_RETURN + w] / n)
        swings[Q_CROSS + w] = 0.0
        if swing_spot > 0.0 and swing_perp > 0.0:
            rho = (totals[Q_CROSS + w] / n) / (swing_spot * swing_perp)
            swing_gap = math.sqrt(max(2.0 - 2.0 * rho, 0.0))
            if swing_gap >= 1e-9:
                swings[Q_CROSS + w] = swing_gap
        else:
            ready = False
        if n < SAMPLES_MIN:
            ready = False
    n_oi = totals[Q_OI_COUNT]
    swings[Q_OI_COUNT] = n_oi
    swings[Q_OI] = math.sqrt(totals[Q_OI] / n_oi) if n_oi > 0.0 else 0.0
    return ready


@_njit
def _limit(threshold: float, swing: float) -> float:
    return threshold * swing if swing > 0.0 else math.inf


@_njit
def _form_limits(p: _Numbers, swings: Floats, limits: Floats) -> None:
    """Multiply thresholds by today's swings, once a minute instead of dividing every second."""
    for w in range(5):
        limits[L_STILL + w] = _limit(p.price_tolerance, swings[Q_RETURN + w])
        limits[L_GAP + w] = _limit(1.0, swings[Q_CROSS + w])
    limits[L_STALL] = _limit(p.exhaustion_return, swings[Q_RETURN + W300])
    limits[L_SHAKE] = _limit(p.shakeout_return, swings[Q_RETURN + W300])
    limits[L_AGAINST + 0] = p.against_swing * swings[Q_SPOT + W900]
    limits[L_AGAINST + 1] = p.against_swing * swings[Q_PERP + W900]
    limits[L_AGAINST + 2] = p.against_swing * swings[Q_SPOT + W300]
    limits[L_AGAINST + 3] = p.against_swing * swings[Q_PERP + W300]
    limits[L_BIAS] = p.bias_spot_z * swings[Q_SPOT + W300]
    limits[L_OI] = _limit(p.oi_vote, swings[Q_OI]) if swings[Q_OI_COUNT] >= SAMPLES_MIN else math.inf


@_njit
def _context_term(u: float, change: int, still: float) -> float:
    """Clip a window's gap, in its own swing, to ±1 at two swings; halve it when price contradicts."""
    c = min(max(0.5 * u, -1.0), 1.0)
    if (u > 0.0 and change < -still) or (u < 0.0 and change > still):
        c *= 0.5
    return c


@_njit
def _divergent(u: float, S: int, P: int, change: int, still: float, large: float) -> int:
    """Return the sign of a window's divergence: ±2 true, ±1 relative, 0 none."""
    if abs(u) < large:
        return 0
    side = 1 if u > 0.0 else -1
    if side * change < -still:
        return 0
    return 2 * side if side * S > 0 and side * P < 0 else side


@_njit
def _adverse(side: int, S: int, P: int, swing_spot: float, swing_perp: float) -> float:
    return max(0.0, -side * (S / swing_spot + P / swing_perp))


@_njit
def _deceleration(
    side: int,
    last: int,
    candles: Ints,
    start: int,
    reset_low: int,
    reset_high: int,
    shake_ts: int,
    shake_spot: int,
    shake_perp: int,
    swing_spot: float,
    swing_perp: float,
    out: Floats,
) -> None:
    """Reset deceleration: selling dries up test by test, and ranges shrink. `reset_low` and lows are mirrored for shorts."""
    low = C_LOW if side > 0 else C_HIGH
    first = max(start // CANDLE_S, last - CANDLES + 1)
    tests = first_ts = last_ts = 0
    shaken = shake_ts == 0
    a_first = a_last = 0.0
    for c in range(first, last + 2):
        end = c * CANDLE_S + CANDLE_S - 1
        if not shaken and (c > last or end > shake_ts):
            shaken = True
            a_last = _adverse(side, shake_spot, shake_perp, swing_spot, swing_perp)
            last_ts = shake_ts
            if tests == 0:
                a_first = a_last
                first_ts = last_ts
            tests += 1
        if c > last:
            break
        k = c % CANDLES
        depth = side * candles[k, low] - reset_low
        if depth >= 0 and 4 * depth <= reset_high - reset_low:
            a_last = _adverse(side, candles[k, C_SPOT], candles[k, C_PERP], swing_spot, swing_perp)
            last_ts = end
            if tests == 0:
                a_first = a_last
                first_ts = last_ts
            tests += 1
    range_3 = range_6 = 0
    for c in range(last - 8, last + 1):
        k = c % CANDLES
        if c > last - 3:
            range_3 += candles[k, C_HIGH] - candles[k, C_LOW]
        else:
            range_6 += candles[k, C_HIGH] - candles[k, C_LOW]
    points = 0.0
    if tests >= 2 and a_first > 0.0:
        points += 0.7 * min(max((a_first - a_last) / a_first, 0.0), 1.0)
    if range_6 > 0:  # 2·(1 − (range_3/3) / (range_6/6))
        points += 0.3 * min(max(2.0 * (1.0 - 2.0 * range_3 / range_6), 0.0), 1.0)
    out[P_DECELERATION] = 3.5 * points
    out[P_TESTS] = tests
    out[P_TEST_FIRST_TS] = first_ts
    out[P_TEST_LAST_TS] = last_ts
    out[P_ADVERSE_FIRST] = a_first
    out[P_ADVERSE_LAST] = a_last
    out[P_RANGE_3] = range_3 / 3.0
    out[P_RANGE_6] = range_6 / 6.0


@_njit
def _absorption(p: _Numbers, side: int, last: int, candles: Ints, has_reset: bool, reset_low: int, out: Floats) -> None:
    """Absorption: candles that closed with us after a long adverse wick."""
    low = C_LOW if side > 0 else C_HIGH
    points = 0.0
    absorbing = with_volume = 0
    for c in range(last - 2, last + 1):
        k = c % CANDLES
        body = side * (candles[k, C_CLOSE] - candles[k, C_OPEN])
        span = candles[k, C_HIGH] - candles[k, C_LOW]
        if body <= 0 or span <= 0 or (has_reset and side * candles[k, C_CLOSE] <= reset_low):
            continue
        if side * (candles[k, C_OPEN] - candles[k, low]) < p.absorption_wick * span:
            continue
        absorbing |= 1 << (last - c)
        points += 0.5
        before = 0
        for b in range(c - 12, c):
            before += candles[b % CANDLES, C_VOLUME]
        volume = candles[k, C_VOLUME]
        if before > 0 and volume > 0 and volume >= p.absorption_volume * (before / 12.0):
            with_volume |= 1 << (last - c)
            points += 0.2
    out[P_ABSORPTION] = 2.5 * min(points, 1.0)
    out[P_ABSORBING] = absorbing
    out[P_ABSORBING_VOLUME] = with_volume


@_njit
def _breakdown(side: int, last: int, candles: Ints, swing_spot: float, swing_perp: float, out: Floats) -> None:
    """Failed breakdown: candles that pierced the extreme of the 12 before and closed back inside."""
    low = C_LOW if side > 0 else C_HIGH
    attempts = marks = 0
    falling = True
    adverse = 0.0
    for c in range(last - 11, last + 1):
        k = c % CANDLES
        floor = side * candles[(c - 12) % CANDLES, low]
        for b in range(c - 11, c):
            floor = min(floor, side * candles[b % CANDLES, low])
        if side * candles[k, low] < floor < side * candles[k, C_CLOSE]:
            a = _adverse(side, candles[k, C_SPOT], candles[k, C_PERP], swing_spot, swing_perp)
            if attempts > 0 and a >= adverse:
                falling = False
            adverse = a
            attempts += 1
            marks |= 1 << (last - c)
    points = 0.0 if attempts == 0 else 0.4 if attempts == 1 else 0.7 if attempts == 2 else 1.0
    if attempts > 1 and not falling:
        points *= 0.6
    out[P_BREAKDOWN] = 2.0 * points
    out[P_ATTEMPTS] = marks
    out[P_ATTEMPTS_FALLING] = 1.0 if falling else 0.0


@_njit
def _milli(points: float) -> int:
    """Round points, never negative, to thousandths, half away from zero."""
    return math.floor(points * 1000.0 + 0.5)


@_njit
def _kernel(
    p: _Numbers,
    ts: Ints,
    open_: Ints,
    high: Ints,
    low: Ints,
    close: Ints,
    spot_delta: Ints,
    perp_delta: Ints,
    spot_volume: Ints,
    perp_volume: Ints,
    open_interest: Ints,
    oi_known_at: Ints,
    oi_interval_s: Ints,
    quality_ppm: Ints,
    behind: bool,
    ring: Ints,
    samples: Floats,
    hours: Floats,
    sums: Floats,
    swings: Floats,
    candles: Ints,
    parts: Floats,
    whole: Ints,
    real: Floats,
    score_milli: NDArray[np.int16],
    flags: NDArray[np.uint32],
    swing_ts: Ints,
    swing_out: Floats,
    reset_ts: Ints,
    reset_out: Ints,
    part_ts: Ints,
    part_out: NDArray[np.int16],
    probe: Floats,
    probe_window: Floats,
) -> tuple[int, int, int]:
    """Scan contiguous rows: state arrays in place, outputs filled; return how many entries each event column has."""
    last_ts = whole[I_LAST_TS]
    count = whole[I_COUNT]
    good = whole[I_GOOD]
    ready = whole[I_READY] == 1
    shape = whole[I_SHAPE]
    candle_open = whole[I_CANDLE_OPEN]
    candle_high = whole[I_CANDLE_HIGH]
    candle_low = whole[I_CANDLE_LOW]
    candle_volume = whole[I_CANDLE_VOLUME]
    candle_range = whole[I_CANDLE_RANGE]
    armed = whole[I_ARMED]
    armed_ts = whole[I_ARMED_TS]
    armed_true = whole[I_ARMED_TRUE]
    phase = whole[I_PHASE]
    reset_side = whole[I_RESET_SIDE]
    start = whole[I_START]
    since = whole[I_SINCE]
    led = whole[I_LED]
    lowest = whole[I_LOWEST]
    highest = whole[I_HIGHEST]
    reset_low = whole[I_RESET_LOW]
    reset_high = whole[I_RESET_HIGH]
    reset_low_log = whole[I_RESET_LOW_LOG]
    reset_high_log = whole[I_RESET_HIGH_LOG]
    shake_ts = whole[I_SHAKE_TS]
    shake_spot = whole[I_SHAKE_SPOT]
    shake_perp = whole[I_SHAKE_PERP]
    S0 = whole[I_SPOT]
    S1 = whole[I_SPOT + 1]
    S2 = whole[I_SPOT + 2]
    S3 = whole[I_SPOT + 3]
    S4 = whole[I_SPOT + 4]
    P0 = whole[I_PERP]
    P1 = whole[I_PERP + 1]
    P2 = whole[I_PERP + 2]
    P3 = whole[I_PERP + 3]
    P4 = whole[I_PERP + 4]
    gap_300 = real[G_300]
    gap_900 = real[G_900]
    gap_1800 = real[G_1800]
    evidence = real[G_EVIDENCE]

    armed_s = int(p.divergence_armed_s)
    imbalance_s = int(p.imbalance_expires_s)
    shakeout_s = int(p.shakeout_within_s)
    reset_s = int(p.reset_expires_s)
    record_milli = math.ceil(p.record_score * 1000.0 - 1e-6)
    limits = np.empty(L_SIZE)
    _form_limits(p, swings, limits)
    sample = np.zeros(Q_SIZE)
    totals = np.zeros(Q_SIZE)
    n_swings = n_resets = n_parts = 0
    part_side = 0
    part_0 = part_1 = part_2 = 0
    R0 = R1 = R2 = R3 = R4 = change_oi = 0
    gap0 = gap1 = gap2 = gap3 = gap4 = 0.0
    u1 = u2 = u3 = u4 = c2 = c3 = c4 = context = 0.0
    found_900 = found_1800 = side = vote = source = direction = milli = bits = 0
    fresh = has_oi = False
    bias = points = 0.0
    log = 0
    last_close = close[0] - 1
    pos = (ts[0] - 1) % RING
    of_minute = (ts[0] - 1) % 60  # counted on: a remainder each second would cost 3 % of the scan
    of_candle = (ts[0] - 1) % CANDLE_S

    for i in range(len(ts)):
        t = ts[i]
        pos = pos + 1 if pos + 1 < RING else 0
        of_minute = of_minute + 1 if of_minute + 1 < 60 else 0
        of_candle = of_candle + 1 if of_candle + 1 < CANDLE_S else 0
        if close[i] != last_close:
            last_close = close[i]
            log = _door(last_close, behind)
        count = min(count + 1, WARMUP_S)
        good = min(good + 1, QUALITY_S) if quality_ppm[i] >= QUALITY_MIN_PPM else 0

        # Windows: ring rows of t − W; a row never seen is zero, so sums are right from the first second on.
        k0 = pos - 300 if pos >= 300 else pos + (RING - 300)
        k1 = pos - 900 if pos >= 900 else pos + (RING - 900)
        k2 = pos - 1800 if pos >= 1800 else pos + (RING - 1800)
        k3 = pos - 3600 if pos >= 3600 else pos + (RING - 3600)
        spot = spot_delta[i]
        perp = perp_delta[i]
        known = oi_known_at[i]
        oi = open_interest[i] if known <= t + 1 else 0  # a value is never used before it is known
        S0 += spot - ring[k0, RING_SPOT]
        P0 += perp - ring[k0, RING_PERP]
        R0 = log - ring[k0, RING_LOG]
        S1 += spot - ring[k1, RING_SPOT]
        P1 += perp - ring[k1, RING_PERP]
        R1 = log - ring[k1, RING_LOG]
        S2 += spot - ring[k2, RING_SPOT]
        P2 += perp - ring[k2, RING_PERP]
        R2 = log - ring[k2, RING_LOG]
        S3 += spot - ring[k3, RING_SPOT]
        P3 += perp - ring[k3, RING_PERP]
        R3 = log - ring[k3, RING_LOG]
        S4 += spot - ring[pos, RING_SPOT]
        P4 += perp - ring[pos, RING_PERP]
        R4 = log - ring[pos, RING_LOG]
        has_oi = oi > 0 and ring[k2, RING_OI] > 0
        change_oi = oi - ring[k2, RING_OI] if has_oi else 0
        ring[pos, RING_SPOT] = spot
        ring[pos, RING_PERP] = perp
        ring[pos, RING_LOG] = log
        ring[pos, RING_OI] = oi

        # The candle; the second that ends it sees it closed.
        volume = spot_volume[i] + perp_volume[i]
        if of_candle == 0 or count == 1:
            candle_open = open_[i]
            candle_high = high[i]
            candle_low = low[i]
            candle_volume = volume
        else:
            candle_high = max(candle_high, high[i])
            candle_low = min(candle_low, low[i])
            candle_volume += volume
        closed = of_candle == CANDLE_S - 1
        if closed:
            k = t // CANDLE_S % CANDLES
            candles[k, C_OPEN] = _door(candle_open, behind)
            candles[k, C_HIGH] = _door(candle_high, behind)
            candles[k, C_LOW] = _door(candle_low, behind)
            candles[k, C_CLOSE] = log
            candles[k, C_VOLUME] = candle_volume
            candles[k, C_SPOT] = S0
            candles[k, C_PERP] = P0
            candle_range = 0
            for c in range(t // CANDLE_S - 11, t // CANDLE_S + 1):
                candle_range += candles[c % CANDLES, C_HIGH] - candles[c % CANDLES, C_LOW]
            candle_range //= 12

        changed = False  # the reset: A or B, its direction, its range
        # The minute's sample, counted at once.
        if of_minute == 59:
            for w in range(5):
                S = (S0, S1, S2, S3, S4)[w]
                P = (P0, P1, P2, P3, P4)[w]
                R = (R0, R1, R2, R3, R4)[w]
                seen = count > WINDOWS[w]
                sample[Q_SPOT + w] = float(S) * float(S) if seen else 0.0
                sample[Q_PERP + w] = float(P) * float(P) if seen else 0.0
                sample[Q_RETURN + w] = float(R) * float(R) if seen else 0.0
                sample[Q_CROSS + w] = float(S) * float(P) if seen else 0.0
                if seen:
                    whole[I_SAMPLES + w] = min(whole[I_SAMPLES + w] + 1, DAY_MINUTES)
            sample[Q_OI] = float(change_oi) * float(change_oi)
            sample[Q_OI_COUNT] = 1.0 if has_oi else 0.0
            _add_sample(t, sample, samples, hours, sums, totals)
            was_ready = ready
            ready = _form_swings(totals, whole[I_SAMPLES : I_SAMPLES + 5], swings)
            _form_limits(p, swings, limits)
            if was_ready and not ready:  # a flow died: forget what its swings said
                changed = phase >= RESET_A
                armed = armed_ts = armed_true = 0
                phase = reset_side = start = since = led = lowest = highest = 0
                reset_low = reset_high = reset_low_log = reset_high_log = shake_ts = shake_spot = shake_perp = 0
                evidence = gap_300 = gap_900 = gap_1800 = 0.0
                parts[:, :] = 0.0
        if of_minute == 59 or i == 0:
            s0 = swings[Q_SPOT + W1800]
            s1 = swings[Q_PERP + W1800]
            s2 = swings[Q_RETURN + W3600] / NANO
            if (
                i == 0
                or s0 != swing_out[n_swings - 1, 0]
                or s1 != swing_out[n_swings - 1, 1]
                or s2 != swing_out[n_swings - 1, 2]
            ):
                swing_ts[n_swings] = t
                swing_out[n_swings, 0] = s0
                swing_out[n_swings, 1] = s1
                swing_out[n_swings, 2] = s2
                n_swings += 1

        fresh = oi > 0 and t + 1 - known <= 2 * oi_interval_s[i] + 60
        bits = F_QUALITY if good >= QUALITY_S else 0
        if not (fresh and has_oi):
            bits |= F_OI_SILENT
        if count > 300 and R0 != 0:
            bits |= F_RETURN_UP if R0 > 0 else F_RETURN_DOWN
        direction = milli = 0
        if ready:
            z_s0 = S0 / swings[Q_SPOT + W300]
            z_p0 = P0 / swings[Q_PERP + W300]
            z_s1 = S1 / swings[Q_SPOT + W900]
            z_p1 = P1 / swings[Q_PERP + W900]
            gap0 = z_s0 - z_p0
            gap1 = z_s1 - z_p1
            gap2 = S2 / swings[Q_SPOT + W1800] - P2 / swings[Q_PERP + W1800]
            gap3 = S3 / swings[Q_SPOT + W3600] - P3 / swings[Q_PERP + W3600]
            gap4 = S4 / swings[Q_SPOT + W14400] - P4 / swings[Q_PERP + W14400]
            u1 = gap1 / limits[L_GAP + W900]
            u2 = gap2 / limits[L_GAP + W1800]
            u3 = gap3 / limits[L_GAP + W3600]
            u4 = gap4 / limits[L_GAP + W14400]

            # Phase 1, context.
            c2 = _context_term(u2, R2, limits[L_STILL + W1800])
            c3 = _context_term(u3, R3, limits[L_STILL + W3600])
            c4 = _context_term(u4, R4, limits[L_STILL + W14400])
            context = p.context_weight_1800 * c2 + p.context_weight_3600 * c3 + p.context_weight_14400 * c4

            # Phase 2, divergence: one window true, or both relative and agreed.
            found_900 = _divergent(u1, S1, P1, R1, limits[L_STILL + W900], p.divergence_min)
            found_1800 = _divergent(u2, S2, P2, R2, limits[L_STILL + W1800], p.divergence_min)
            found = 0
            m = 0.0
            if found_900 * found_900 == 4 and (found_1800 * found_1800 != 4 or abs(u1) >= abs(u2)):
                found = found_900
                m = abs(u1)
            elif found_1800 * found_1800 == 4:
                found = found_1800
                m = abs(u2)
            elif found_900 == found_1800:
                found = found_900
                m = max(abs(u1), abs(u2))
            if found != 0:
                armed = 1 if found > 0 else -1
                armed_ts = t
                armed_true = 1 if found * found == 4 else 0
                evidence = min(0.5 * m, 2.0) * (1.0 if armed_true == 1 else 0.5)
            elif armed != 0 and t - armed_ts > armed_s:
                armed = armed_ts = armed_true = 0
                evidence = 0.0
            vote = 0
            if fresh and has_oi:
                vote = 1 if change_oi >= limits[L_OI] else -1 if change_oi <= -limits[L_OI] else 0

            # Phase 3, reset.
            if phase != IDLE and t - since >= (imbalance_s if phase == IMBALANCED else reset_s):
                changed = phase != IMBALANCED
                phase = reset_side = start = since = led = lowest = highest = 0
                reset_low = reset_high = reset_low_log = reset_high_log = shake_ts = shake_spot = shake_perp = 0
                gap_300 = gap_900 = gap_1800 = 0.0
            side = 0
            lead = max(abs(z_s1), abs(z_p1))
            if (
                lead >= p.imbalance_z
                and abs(u1) >= p.imbalance_gap
                and lead >= p.imbalance_share * (abs(z_s1) + abs(z_p1))
            ):
                side = 1 if gap1 > 0.0 else -1
            if side not in (0, reset_side):
                changed = changed or phase >= RESET_A
                phase = IMBALANCED
                reset_side = side
                start = since = t
                led = LED_SPOT if abs(z_s1) >= abs(z_p1) else LED_PERP
                lowest = low[i]
                highest = high[i]
                gap_300 = abs(gap0)
                gap_900 = abs(gap1)
                gap_1800 = abs(gap2)
                reset_low = reset_high = reset_low_log = reset_high_log = shake_ts = shake_spot = shake_perp = 0
            elif IDLE < phase < RESET_B:
                lowest = min(lowest, low[i])
                highest = max(highest, high[i])
                frozen = False
                if phase == IMBALANCED:
                    gap_300 = max(gap_300, abs(gap0))
                    gap_900 = max(gap_900, abs(gap1))
                    gap_1800 = max(gap_1800, abs(gap2))
                    if abs(R0) <= limits[L_STALL]:
                        weight = 0.2 if abs(gap0) <= p.exhaustion_gap * gap_300 else 0.0
                        weight += 0.3 if abs(gap1) <= p.exhaustion_gap * gap_900 else 0.0
                        weight += 0.5 if abs(gap2) <= p.exhaustion_gap * gap_1800 else 0.0
                        frozen = weight >= p.exhaustion_weight
                elif t - since <= shakeout_s and abs(R0) >= limits[L_SHAKE]:
                    frozen = (R0 > 0 and S0 > 0 and P0 > 0) or (R0 < 0 and S0 < 0 and P0 < 0)
                    if frozen:
                        shake_ts = t
                        shake_spot = S0
                        shake_perp = P0
                if frozen:
                    changed = True
                    phase += 1
                    since = t
                    reset_low = lowest
                    reset_high = highest
                    reset_low_log = _door(lowest, behind)
                    reset_high_log = _door(highest, behind)

            # Phase 4: candle parts of both sides, only when a candle closed or the reset changed.
            evaluated = closed or changed
            if evaluated:
                last = t // CANDLE_S if closed else t // CANDLE_S - 1
                for row in range(2):
                    s = 1 if row == 0 else -1
                    out = parts[row]
                    has_reset = phase >= RESET_A and reset_side == s
                    near = reset_low_log if s > 0 else -reset_high_log
                    far = reset_high_log if s > 0 else -reset_low_log
                    sw_s = swings[Q_SPOT + W300]
                    sw_p = swings[Q_PERP + W300]
                    out[:] = 0.0
                    if has_reset:
                        _deceleration(
                            s, last, candles, start, near, far, shake_ts, shake_spot, shake_perp, sw_s, sw_p, out
                        )
                    _absorption(p, s, last, candles, has_reset, near, out)
                    _breakdown(s, last, candles, sw_s, sw_p, out)
                    out[P_LAST_CANDLE] = last * CANDLE_S
                    out[P_EVALUATED] = t

            has_reset = phase >= RESET_A
            source = SOURCE_NONE
            if armed != 0:
                direction = armed
                source = SOURCE_DIVERGENCE
            elif has_reset:
                direction = reset_side
                source = SOURCE_RESET
            elif abs(context) >= p.context_enter:
                direction = 1 if context > 0.0 else -1
                source = SOURCE_CONTEXT
            against_long = (
                S1 <= -limits[L_AGAINST]
                and P1 <= -limits[L_AGAINST + 1]
                and S0 <= -limits[L_AGAINST + 2]
                and P0 <= -limits[L_AGAINST + 3]
            )
            against_short = (
                S1 >= limits[L_AGAINST]
                and P1 >= limits[L_AGAINST + 1]
                and S0 >= limits[L_AGAINST + 2]
                and P0 >= limits[L_AGAINST + 3]
            )
            bits |= (F_BOTH_AGAINST_LONG if against_long else 0) | (F_BOTH_AGAINST_SHORT if against_short else 0)
            bits |= F_CONTEXT_AGAINST_LONG if context <= -p.context_enter else 0
            bits |= F_CONTEXT_AGAINST_SHORT if context >= p.context_enter else 0
            bits |= F_WARM if count >= WARMUP_S else 0
            bits |= F_TRUE_DIVERGENCE if armed_true == 1 else 0
            bits |= (F_RESET_LONG if reset_side > 0 else F_RESET_SHORT) if phase != IDLE else 0
            bits |= source << SOURCE_SHIFT | phase << PHASE_SHIFT
            if direction != 0:
                row = 0 if direction > 0 else 1
                bias = 0.0
                bits |= F_LONG if direction > 0 else F_SHORT
                bits |= F_SIGNAL if direction == armed or (has_reset and direction == reset_side) else 0
                if direction * S0 >= limits[L_BIAS]:
                    bits |= F_BIAS_SPOT
                    bias += 0.4
                if direction * P0 >= 0:
                    bits |= F_BIAS_PERP
                    bias += 0.2
                if direction * R0 > 0:
                    bits |= F_BIAS_RETURN
                    bias += 0.2
                bias = 2.0 * (bias + 0.2 * max(direction * context, 0.0))
                if vote != 0:
                    bits |= F_OI_CONFIRMS if vote > 0 else F_OI_DENIES
                points = parts[row, P_DECELERATION] + parts[row, P_ABSORPTION] + parts[row, P_BREAKDOWN] + bias + vote
                milli = _milli(min(max(points, 0.0), 10.0))
            if evaluated or direction != part_side:
                row = 0 if direction > 0 else 1
                m_0 = _milli(parts[row, P_DECELERATION]) if direction != 0 else 0
                m_1 = _milli(parts[row, P_ABSORPTION]) if direction != 0 else 0
                m_2 = _milli(parts[row, P_BREAKDOWN]) if direction != 0 else 0
                part_side = direction
                if m_0 != part_0 or m_1 != part_1 or m_2 != part_2:
                    part_0 = m_0
                    part_1 = m_1
                    part_2 = m_2
                    if i > 0:
                        part_ts[n_parts] = t
                        part_out[n_parts, 0] = m_0
                        part_out[n_parts, 1] = m_1
                        part_out[n_parts, 2] = m_2
                        n_parts += 1
        elif part_side != 0:
            part_side = part_0 = part_1 = part_2 = 0
            part_ts[n_parts] = t
            part_out[n_parts, :] = 0
            n_parts += 1
        if i == 0:
            part_ts[0] = t
            part_out[0, 0] = part_0
            part_out[0, 1] = part_1
            part_out[0, 2] = part_2
            n_parts = 1
        if closed or changed or i == 0:
            e = n_resets - 1
            if (
                i == 0
                or reset_low != reset_out[e, 0]
                or reset_high != reset_out[e, 1]
                or candle_range != reset_out[e, 2]
            ):
                reset_ts[n_resets] = t
                reset_out[n_resets, 0] = reset_low
                reset_out[n_resets, 1] = reset_high
                reset_out[n_resets, 2] = candle_range
                n_resets += 1

        # A record: with a score worth it, when direction, machine or what blocks it (the
        # score itself aside, which crosses the entry score hundreds of times a day) changed, or a candle closed.
        blocked = bits & (F_SIGNAL | F_WARM | F_QUALITY)
        blocked |= bits & (F_BOTH_AGAINST_LONG | F_CONTEXT_AGAINST_LONG) if direction > 0 else 0
        blocked |= bits & (F_BOTH_AGAINST_SHORT | F_CONTEXT_AGAINST_SHORT) if direction < 0 else 0
        now = blocked | (direction + 1) << 24 | phase << 26 | (reset_side + 1) << 28
        if milli >= record_milli and (closed or now != shape):
            bits |= F_RECORD
        shape = now
        score_milli[i] = milli
        flags[i] = bits
        last_ts = t

    whole[I_LAST_TS] = last_ts
    whole[I_COUNT] = count
    whole[I_GOOD] = good
    whole[I_READY] = 1 if ready else 0
    whole[I_SHAPE] = shape
    whole[I_CANDLE_OPEN] = candle_open
    whole[I_CANDLE_HIGH] = candle_high
    whole[I_CANDLE_LOW] = candle_low
    whole[I_CANDLE_VOLUME] = candle_volume
    whole[I_CANDLE_RANGE] = candle_range
    whole[I_ARMED] = armed
    whole[I_ARMED_TS] = armed_ts
    whole[I_ARMED_TRUE] = armed_true
    whole[I_PHASE] = phase
    whole[I_RESET_SIDE] = reset_side
    whole[I_START] = start
    whole[I_SINCE] = since
    whole[I_LED] = led
    whole[I_LOWEST] = lowest
    whole[I_HIGHEST] = highest
    whole[I_RESET_LOW] = reset_low
    whole[I_RESET_HIGH] = reset_high
    whole[I_RESET_LOW_LOG] = reset_low_log
    whole[I_RESET_HIGH_LOG] = reset_high_log
    whole[I_SHAKE_TS] = shake_ts
    whole[I_SHAKE_SPOT] = shake_spot
    whole[I_SHAKE_PERP] = shake_perp
    real[G_300] = gap_300
    real[G_900] = gap_900
    real[G_1800] = gap_1800
    real[G_EVIDENCE] = evidence
    for w in range(5):
        whole[I_SPOT + w] = (S0, S1, S2, S3, S4)[w]
        whole[I_PERP + w] = (P0, P1, P2, P3, P4)[w]

    # The last second, in full.
    for w in range(5):
        S = whole[I_SPOT + w]
        P = whole[I_PERP + w]
        R = (R0, R1, R2, R3, R4)[w]
        swing_return = swings[Q_RETURN + w]
        row_out = probe_window[w]
        row_out[0] = S
        row_out[1] = P
        row_out[2] = R
        row_out[3] = swings[Q_SPOT + w]
        row_out[4] = swings[Q_PERP + w]
        row_out[5] = swing_return
        row_out[6] = S / swings[Q_SPOT + w] if ready else 0.0
        row_out[7] = P / swings[Q_PERP + w] if ready else 0.0
        row_out[8] = R / swing_return if swing_return > 0.0 else 0.0
        row_out[9] = (gap0, gap1, gap2, gap3, gap4)[w] if ready else 0.0
        row_out[10] = swings[Q_CROSS + w]
        row_out[11] = abs(gap0 / limits[L_GAP] if w == 0 else (u1, u1, u2, u3, u4)[w]) if ready else 0.0
        both = abs(row_out[6]) + abs(row_out[7])
        row_out[12] = abs(row_out[6]) / both if both > 0.0 else 0.0
        row_out[13] = (0.0, 0.0, c2, c3, c4)[w] if ready else 0.0
        row_out[14] = whole[I_SAMPLES + w]
    probe[0] = context if ready else 0.0
    probe[1] = found_900 if ready else 0
    probe[2] = found_1800 if ready else 0
    probe[3] = side if ready else 0
    probe[4] = vote if ready else 0
    probe[5] = change_oi
    probe[6] = swings[Q_OI]
    probe[7] = change_oi / swings[Q_OI] if swings[Q_OI] > 0.0 else 0.0
    probe[8] = swings[Q_OI_COUNT]
    probe[9] = known
    probe[10] = t + 1 - known
    probe[11] = oi_interval_s[len(ts) - 1]
    probe[12] = bias if direction != 0 else 0.0
    probe[13] = points if direction != 0 else 0.0
    probe[14] = oi
    return n_swings, n_resets, n_parts


@_njit
def _segments(ts: Ints, low: Ints, last_ts: int, starts: Ints) -> tuple[int, int]:
    """Find where contiguous rows begin, and the first row that is not a row: (segments, index or −1)."""
    n = 0
    before = last_ts
    for i in range(len(ts)):
        t = ts[i]
        if t <= before or low[i] < 1:
            return n, i
        if i == 0 or t != before + 1:
            starts[n] = i
            n += 1
        before = t
    return n, -1


@functools.cache
def _compiled() -> tuple[Any, Any]:
    """Compile the kernel, or load it from numba's cache, for the one signature it has."""
    types = cast("Any", numba.types)
    ints = types.Array(types.int64, 1, "C", readonly=True)
    whole, grid = types.int64[::1], types.int64[:, ::1]
    floats, table = types.float64[::1], types.float64[:, ::1]
    numbers = types.NamedUniTuple(types.float64, len(_Numbers._fields), _Numbers)
    state = (grid, table, table, table, floats, grid, table, whole, floats)
    outputs = (
        types.int16[::1],
        types.uint32[::1],
        whole,
        table,
        whole,
        grid,
        whole,
        types.int16[:, ::1],
        floats,
        table,
    )
    kernel, segments = cast("Any", _kernel), cast("Any", _segments)
    kernel.compile((numbers, *(ints,) * 13, types.boolean, *state, *outputs))
    kernel.disable_compile()
    segments.compile((ints, ints, types.int64, whole))
    segments.disable_compile()
    return kernel, segments


class SqueezeState(NamedTuple):
    """All that the past may tell the future about one asset; `scan` changes it in place. All zero at the start."""

    ring: Ints  # [14400, 4]: the last rows' spot and perp delta, nano-log close, open interest; by ts mod 14400
    samples: Floats  # [1440, 22]: the minutes' squares, by minute of day; suffix sums in the hour being overwritten
    hours: Floats  # [24, 22]: sums of full hours
    sums: Floats  # [2, 22]: the 23 full hours, the current hour so far
    swings: Floats  # [22]: swings of S, P, R by window, swing_gap by window, swing and samples of open interest
    candles: Ints  # [256, 7]: closed candles, by candle number
    parts: Floats  # [2, 17]: candle parts for long and short, and what they were made from
    whole: Ints  # [42]: scalars, `I_…`
    real: Floats  # [4]: scalars, `G_…`

    def copy(self) -> SqueezeState:
        """Copy the state: 0.7 MB."""
        return SqueezeState._make(array.copy() for array in self)

    @property
    def last_ts(self) -> int:
        """The last second scanned; 0 before the first."""
        return int(self.whole[I_LAST_TS])

    @property
    def warm(self) -> bool:
        """Whether 28 h of contiguous rows were seen and every window's swings exist."""
        return bool(self.whole[I_COUNT] >= WARMUP_S and self.whole[I_READY])


_SHAPES: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
    "ring": ((RING, 4), np.int64),
    "samples": ((DAY_MINUTES, Q_SIZE), np.float64),
    "hours": ((24, Q_SIZE), np.float64),
    "sums": ((2, Q_SIZE), np.float64),
    "swings": ((Q_SIZE,), np.float64),
    "candles": ((CANDLES, 7), np.int64),
    "parts": ((2, P_SIZE), np.float64),
    "whole": ((I_SIZE,), np.int64),
    "real": ((G_SIZE,), np.float64),
}


def initial(params: SqueezeParams) -> SqueezeState:  # noqa: ARG001 — the shape every kernel has; the start knows no parameter
    """Make the state before the first row."""
    return SqueezeState(*(np.zeros(shape, dtype) for shape, dtype in _SHAPES.values()))


def scan(params: SqueezeParams, state: SqueezeState, rows: Rows) -> tuple[SqueezeState, Features]:
    """Scan one asset's rows, ascending; `state` is changed in place and returned.

    A hole (a second without its row) starts the asset afresh: it is WARMING until 28 h of rows were seen again. Raise
    `UsageError` when a row does not follow the one before or holds a price below 1; the state is then as it was.
    """
    features, _ = _scan(params, state, rows, behind=False)
    return state, features


def flow_z(state: SqueezeState) -> tuple[Floats, Floats]:
    """Return spot and perp flow of each of `WINDOWS` in swings, as of the last second scanned; NaN before swings exist."""
    if not state.whole[I_READY]:
        unknown = np.full(len(WINDOWS), np.nan)
        return unknown, unknown
    spot, perp = (state.whole[first : first + len(WINDOWS)] for first in (I_SPOT, I_PERP))
    swings = state.swings
    return spot / swings[Q_SPOT : Q_SPOT + len(WINDOWS)], perp / swings[Q_PERP : Q_PERP + len(WINDOWS)]


def entry_blockers(flags: int, score_milli: int, params: SqueezeParams) -> tuple[str, ...]:
    """Name what keeps a second from being an entry, as far as the rows know; empty: phase 5 decides.

    >>> entry_blockers(F_LONG | F_SIGNAL | F_WARM | F_BOTH_AGAINST_LONG, 4_200, SqueezeParams())
    ('quality', 'both_flows_against')
    """
    if not flags & (F_LONG | F_SHORT):
        return ("warming_up",) if not flags & F_WARM else ("no_direction",)
    long = bool(flags & F_LONG)
    checks = (
        ("warming_up", not flags & F_WARM),
        ("score", score_milli < milli_of(params.entry_score)),
        ("no_signal", not flags & F_SIGNAL),
        ("quality", not flags & F_QUALITY),
        ("both_flows_against", flags & (F_BOTH_AGAINST_LONG if long else F_BOTH_AGAINST_SHORT)),
        ("context_flip", flags & (F_CONTEXT_AGAINST_LONG if long else F_CONTEXT_AGAINST_SHORT)),
    )
    return tuple(name for name, holds in checks if holds)


def milli_of(points: float) -> int:
    """Return the least `score_milli` that reaches a score threshold."""
    return math.ceil(points * 1000.0 - 1e-6)


def explain_second(params: SqueezeParams, rows: Rows, ts: int | None = None) -> dict[str, Any]:
    """Scan rows up to second `ts` (the last one by default) and name everything that made it; 28 h before it make it warm.

    Every value comes from the kernel that trades. Flows are USD cents, distances 1e-9 log price, prices at the traded
    instrument's scale, times UTC seconds.
    """
    end = len(rows.ts) if ts is None else int(np.searchsorted(rows.ts, ts)) + 1
    if end < 1 or end > len(rows.ts) or (ts is not None and rows.ts[end - 1] != ts):
        covered = f"{rows.ts[0]} to {rows.ts[-1]}" if len(rows.ts) else "no second"
        raise UsageError(f"second was {ts}, the rows cover {covered}: ask for a second that has a row")
    state = initial(params)
    features, probes = _scan(params, state, cut(rows, 0, end), behind=False)
    return _explanation(params, state, features, cut(rows, end - 1, end), *probes)


def explain_seconds(
    params: SqueezeParams, state: SqueezeState, rows: Rows, seconds: Iterable[int]
) -> list[dict[str, Any]]:
    """Scan rows and name, on the way, everything that made each of some seconds: many reasons for the price of one scan.

    `state` is changed in place, as by `scan`. Each explanation is what `explain_second` says, from the same rows. Seconds
    that have no row in this block are left out.
    """
    found, start = [], 0
    for ts in sorted(set(seconds)):
        end = int(np.searchsorted(rows.ts, ts)) + 1
        if end > len(rows.ts) or rows.ts[end - 1] != ts:
            continue
        features, probes = _scan(params, state, cut(rows, start, end), behind=False)
        found.append(_explanation(params, state, features, cut(rows, end - 1, end), *probes))
        start = end
    if start < len(rows.ts):
        _scan(params, state, cut(rows, start, len(rows.ts)), behind=False)
    return found


def _explanation(
    params: SqueezeParams, state: SqueezeState, features: Features, row: Rows, probe: Floats, probe_window: Floats
) -> dict[str, Any]:
    """Give names to what the kernel left behind."""
    flags, score = int(features.flags[-1]), int(features.score_milli[-1])
    seen = dict(zip(PROBE, map(float, probe), strict=True))
    whole = state.whole
    sides = {0: "NEUTRAL", 1: "BULLISH", -1: "BEARISH"}
    direction = 1 if flags & F_LONG else -1 if flags & F_SHORT else 0
    phase, side = int(whole[I_PHASE]), int(whole[I_RESET_SIDE])
    dominance = max(float(probe_window[w, PROBE_WINDOW.index("dominance")]) for w in (W1800, W3600, W14400))
    closest = max((n for n in (900, 1800)), key=lambda n: abs(seen[f"divergence_{n}"]))
    return {
        "ts": int(features.ts[-1]),
        "params_hash": params.hash,
        "row": {name: int(column[0]) for name, column in row._asdict().items()},
        "warm": bool(flags & F_WARM),
        "rows_seen": int(whole[I_COUNT]),
        "score_milli": score,
        "direction": sides[direction],
        "direction_from": ("none", "divergence", "reset", "context")[flags >> SOURCE_SHIFT & 3],
        "blocked_by": entry_blockers(flags, score, params),
        "record": bool(flags & F_RECORD),
        "windows": {
            seconds: dict(zip(PROBE_WINDOW, map(float, probe_window[w]), strict=True))
            for w, seconds in enumerate(WINDOWS)
        },
        "context": {
            "value": seen["context"],
            "direction": sides[int(abs(seen["context"]) >= params.context_enter) * (1 if seen["context"] > 0 else -1)],
            "dominance_max": dominance,
            "expected_duration": "HIGH" if dominance >= 0.8 else "MEDIUM" if dominance >= 0.65 else "LOW",
        },
        "divergence": {
            "window_900": int(seen["divergence_900"]),
            "window_1800": int(seen["divergence_1800"]),
            "strongest_window": closest if seen[f"divergence_{closest}"] else 0,
            "armed": sides[int(whole[I_ARMED])],
            "armed_true": bool(whole[I_ARMED_TRUE]),
            "held_last_ts": int(whole[I_ARMED_TS]),
            "evidence": float(state.real[G_EVIDENCE]),
        },
        "open_interest": {
            "value": seen["open_interest"],
            "vote": ("denies", "silent", "confirms")[int(seen["oi_vote"]) + 1],
            "stale_or_missing": bool(flags & F_OI_SILENT),
            "change_1800": seen["oi_change"],
            "swing": seen["swing_oi"],
            "z": seen["z_oi"],
            "samples": int(seen["oi_samples"]),
            "known_at": int(seen["oi_known_at"]),
            "age_s": int(seen["oi_age_s"]),
            "age_s_max": 2 * int(seen["oi_interval_s"]) + 60,
        },
        "reset": {
            "phase": PHASES[phase],
            "direction": sides[side],
            "imbalance_now": sides[int(seen["imbalance"])],
            "start_ts": int(whole[I_START]),
            "phase_ts": int(whole[I_SINCE]),
            "led_by": ("none", "spot", "perp")[int(whole[I_LED])],
            "gap_largest": {n: float(state.real[g]) for n, g in ((300, G_300), (900, G_900), (1800, G_1800))},
            "lowest": int(whole[I_LOWEST]),
            "highest": int(whole[I_HIGHEST]),
            "reset_low": int(whole[I_RESET_LOW]),
            "reset_high": int(whole[I_RESET_HIGH]),
            "shake_out_ts": int(whole[I_SHAKE_TS]),
        },
        "parts": {
            "directional_bias": seen["directional_bias"],
            "bias_spot": bool(flags & F_BIAS_SPOT),
            "bias_perp": bool(flags & F_BIAS_PERP),
            "bias_return": bool(flags & F_BIAS_RETURN),
            "points_unclipped": seen["points"],
            "long": _side_parts(state.parts[0]),
            "short": _side_parts(state.parts[1]),
        },
        "candles": _last_candles(state, int(features.ts[-1])),
        "candle_range_nano": int(whole[I_CANDLE_RANGE]),
        "thresholds": msgspec.to_builtins(params),
    }


def _side_parts(part: Floats) -> dict[str, Any]:
    """Name one side's candle parts and what they were made from; candles by the second they began."""
    last = int(part[P_LAST_CANDLE])

    def marked(bits: int) -> list[int]:
        return [last - n * CANDLE_S for n in range(12) if bits >> n & 1]

    return {
        "reset_deceleration": float(part[P_DECELERATION]),
        "absorption": float(part[P_ABSORPTION]),
        "failed_breakdown": float(part[P_BREAKDOWN]),
        "tests": int(part[P_TESTS]),
        "test_first_ts": int(part[P_TEST_FIRST_TS]),
        "test_last_ts": int(part[P_TEST_LAST_TS]),
        "adverse_first": float(part[P_ADVERSE_FIRST]),
        "adverse_last": float(part[P_ADVERSE_LAST]),
        "range_mean_3_nano": float(part[P_RANGE_3]),
        "range_mean_6_nano": float(part[P_RANGE_6]),
        "absorbing_candles": marked(int(part[P_ABSORBING])),
        "absorbing_with_volume": marked(int(part[P_ABSORBING_VOLUME])),
        "attempts": marked(int(part[P_ATTEMPTS])),
        "attempts_falling": bool(part[P_ATTEMPTS_FALLING]),
        "evaluated_ts": int(part[P_EVALUATED]),
    }


def _last_candles(state: SqueezeState, ts: int) -> list[dict[str, int]]:
    """List the closed candles a second's parts may have read, oldest first: 24, or back to the imbalance's own."""
    end = (ts + 1) // CANDLE_S
    start = int(state.whole[I_START]) // CANDLE_S if state.whole[I_START] else end
    first = max(min(end - 24, start), end - int(state.whole[I_COUNT]) // CANDLE_S, end - CANDLES)
    names = ("open_nano", "high_nano", "low_nano", "close_nano", "volume_cents", "spot_delta_cents", "perp_delta_cents")
    return [
        {"ts": c * CANDLE_S, **dict(zip(names, map(int, state.candles[c % CANDLES]), strict=True))}
        for c in range(first, end)
    ]


def _scan(
    params: SqueezeParams, state: SqueezeState, rows: Rows, *, behind: bool
) -> tuple[Features, tuple[Floats, Floats]]:
    """Scan rows; with `behind` the prices are already integer nano-logs, of any sign (the mirror law's own entry)."""
    kernel, segments = _compiled()
    columns = [np.ascontiguousarray(getattr(rows, name), np.int64) for name in _COLUMNS]
    ts, low = columns[0], columns[3]
    starts = np.empty(len(ts), np.int64)
    n, bad = segments(ts, np.maximum(low, 1) if behind else low, state.whole[I_LAST_TS], starts)
    if bad >= 0:
        before = int(ts[bad - 1]) if bad > 0 else state.last_ts
        raise UsageError(
            f"row {bad} was ts {ts[bad]} with low {low[bad]}, the limits are ts > {before} and low >= 1: sort the rows, each second once"
        )
    probe, probe_window = np.zeros(len(PROBE)), np.zeros((len(WINDOWS), len(PROBE_WINDOW)))
    parts: list[Features] = []
    for k in range(n):
        start, end = int(starts[k]), int(starts[k + 1]) if k + 1 < n else len(ts)
        if ts[start] != state.whole[I_LAST_TS] + 1:
            for array in state:
                array.fill(0)
        m = end - start
        score, flags = np.empty(m, np.int16), np.empty(m, np.uint32)
        events: tuple[NDArray[Any], ...] = (
            np.empty(m // 60 + 2, np.int64), np.empty((m // 60 + 2, 3), np.float64),
            np.empty(m + 1, np.int64), np.empty((m + 1, 3), np.int64),
            np.empty(m + 1, np.int64), np.empty((m + 1, 3), np.int16),
        )  # fmt: skip
        block = columns if n == 1 else [column[start:end] for column in columns]
        n_swings, n_resets, n_parts = kernel(
            _numbers(params), *block, behind, *state, score, flags, *events, probe, probe_window
        )
        lengths = (n_swings, n_swings, n_resets, n_resets, n_parts, n_parts)
        parts.append(Features(block[0], score, flags, *(e[:x].copy() for e, x in zip(events, lengths, strict=True))))
    return join(parts), (probe, probe_window)


_COLUMNS = (
    "ts", "open", "high", "low", "close", "spot_delta", "perp_delta", "spot_volume", "perp_volume",
    "open_interest", "oi_known_at", "oi_interval_s", "quality_ppm",
)  # fmt: skip


def join(blocks: Sequence[Features]) -> Features:
    """Join features of blocks that follow each other; what was in force already is not said twice."""
    if len(blocks) == 1:
        return blocks[0]
    if not blocks:
        return Features(*(np.empty((0, 3) if name in _EVENTS else 0, dtype) for name, dtype in _FEATURE_DTYPES.items()))
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in Features._fields}
    force: dict[str, bytes] = {}
    for block in blocks:
        for name in ("ts", "score_milli", "flags"):
            columns[name].append(getattr(block, name))
        for name, stamp in _EVENTS.items():
            values: NDArray[Any] = getattr(block, name)
            skip = 1 if len(values) and force.get(name) == values[0].tobytes() else 0
            columns[name].append(values[skip:])
            columns[stamp].append(getattr(block, stamp)[skip:])
            if len(values):
                force[name] = values[-1].tobytes()
    return Features(*(np.concatenate(columns[name]) for name in Features._fields))


_EVENTS = {"swings": "swing_ts", "reset": "reset_ts", "parts": "part_ts"}
_FEATURE_DTYPES: dict[str, type[np.generic]] = {
    "ts": np.int64, "score_milli": np.int16, "flags": np.uint32, "swing_ts": np.int64, "swings": np.float64,
    "reset_ts": np.int64, "reset": np.int64, "part_ts": np.int64, "parts": np.int16,
}  # fmt: skip

_MAGIC = b"SQST\x01"


def to_bytes(state: SqueezeState) -> bytes:
    """Write a state as bytes, 0.74 MB: the form of a snapshot."""
    return _MAGIC + b"".join(array.tobytes() for array in state)


def from_bytes(data: bytes) -> SqueezeState:
    """Read a state back; raise `UsageError` where the bytes are of another version."""
    sizes = [int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in _SHAPES.values()]
    if data[: len(_MAGIC)] != _MAGIC or len(data) != len(_MAGIC) + sum(sizes):
        raise UsageError(
            f"state was {len(data)} bytes beginning with {data[:5]!r}, this version's has {len(_MAGIC) + sum(sizes)} "
            f"beginning with {_MAGIC!r}: warm up from rows instead"
        )
    arrays, offset = [], len(_MAGIC)
    for (shape, dtype), size in zip(_SHAPES.values(), sizes, strict=True):
        arrays.append(np.frombuffer(data, dtype, count=int(np.prod(shape)), offset=offset).reshape(shape).copy())
        offset += size
    return SqueezeState(*arrays)


def fingerprint(state: SqueezeState) -> str:
    """Hash everything that may influence the future: 32 hex digits, equal for equal futures once 28 h were seen."""
    return digest(*(hash_words(array) for array in state))
