"""Reasons in words: what blocks an entry, why a trade was left, and one explained second as values that a page shows.

Names of blocks and exits are for machines; what people read stands here once. It computes nothing.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from squeezecore.adapters.page import Input, Part, Why, WindowLine
from squeezecore.market import CENTS, FUNDING_SCALE, PPM, Instrument
from squeezecore.report import Trade
from squeezecore.squeeze import NANO, SqueezeParams
from squeezecore.trading import Decision

BLOCK_WORDS = {
    "score": "the score is below the entry's",
    "direction": "there is no direction",
    "no_direction": "there is no direction",
    "warming": "less than 28 hours of rows, or a flow without any swing",
    "warming_up": "less than 28 hours of rows, or a flow without any swing",
    "quality": "a venue was incomplete within the last minute",
    "signal": "neither a reset nor an armed divergence stands in this direction",
    "no_signal": "neither a reset nor an armed divergence stands in this direction",
    "cooldown": "the last exit was too short a time ago",
    "both_flows_against": "both flows run against it",
    "context_flip": "the context is on the other side",
    "expected_move": "the expected move does not pay for the costs",
    "structure": "price is beyond the structure's border already",
    "size": "the limits leave less than one lot",
    "risk": "a limit denies it",
    "position": "a position or an order stands",
}
EXIT_WORDS = {
    "structure": "price broke the structure",
    "flow_reversal": "the flow since entry reversed",
    "both_flows_against": "both flows ran against it",
    "context_flip": "the context changed sides",
    "time_stop": "its time was up",
    "hard_risk": "a hard risk limit was reached",
    "liquidation": "it was liquidated",
    "data_hole": "rows are missing after it",
    "end_of_run": "the run ended",
}
PHASE_WORDS = {
    "IDLE": "no imbalance",
    "IMBALANCED": "imbalance",
    "RESET_A": "reset A (exhausted)",
    "RESET_B": "reset B (shaken out)",
}
SIDE_WORDS = {"NEUTRAL": "nobody", "BULLISH": "shorts", "BEARISH": "longs"}
_SIDES = {"NEUTRAL": 0, "BULLISH": 1, "BEARISH": -1}


def block_words(name: str) -> str:
    """Say what a block means; a name that has no words stands for itself."""
    return BLOCK_WORDS.get(name, name.replace("_", " "))


def exit_words(reason: str) -> str:
    """Say why a trade was left."""
    return EXIT_WORDS.get(reason, reason.replace("_", " "))


def entry_why(
    explanation: dict[str, Any], decision: Decision | None, trade: Trade, params: SqueezeParams, listed: Instrument
) -> Why:
    """Tell why a trade was taken, from the explained second and, where it is kept, the decision's record."""
    e, side = explanation, int(trade.direction)
    trapped = "shorts trapped" if side > 0 else "longs trapped"
    score = f"{e['score_milli'] / 1000:.3f}"
    reset, divergence = e["reset"], e["divergence"]
    signal = []
    if reset["phase"].startswith("RESET"):
        signal.append(f"a {PHASE_WORDS[reset['phase']]} of an imbalance led by {reset['led_by']}")
    if _SIDES[divergence["armed"]] == side:
        signal.append(f"an armed {'true' if divergence['armed_true'] else 'relative'} divergence")
    return Why(
        ts=int(e["ts"]),
        title=f"Entry: {trapped}, score {score} of 10",
        sentence=(
            f"The score reached {score} (entry at {params.entry_score:g}), its direction came from the {e['direction_from']}; "
            f"{' and '.join(signal) or 'no signal'} stood; {_nothing_blocks(e)}."
        ),
        parts=_parts(e, side),
        inputs=(*_market_inputs(e, params, listed), *_entry_inputs(decision, params, listed)),
        blocked_by=_blocks(e),
        **_common(e),
    )


def exit_why(
    explanation: dict[str, Any], decision: Decision | None, trade: Trade, params: SqueezeParams, listed: Instrument
) -> Why:
    """Tell why a trade was left; what blocks a new entry at that second is no part of it."""
    e = explanation
    words = exit_words(trade.reason)
    return Why(
        ts=int(e["ts"]),
        title=f"Exit: {words}",
        sentence=f"It was left because {words}; {_exit_rule(trade.reason, params)}.",
        parts=_parts(e, int(trade.direction)),
        inputs=(*_exit_inputs(e, decision, trade, params), *_market_inputs(e, params, listed)),
        **_common(e),
    )


# --- what stands in both ---


def _common(e: dict[str, Any]) -> dict[str, Any]:
    return {
        "score": e["score_milli"] / 1000,
        "direction": _SIDES[e["direction"]],
        "phase": e["reset"]["phase"],
        "windows": tuple(
            WindowLine(
                window_s=int(seconds), spot_usd=_round(w["spot_delta_cents"] / CENTS), perp_usd=_round(w["perp_delta_cents"] / CENTS),
                z_spot=_round(w["z_spot"]), z_perp=_round(w["z_perp"]), gap=_round(w["gap"]), gap_in_swings=_round(w["m"]),
                price_return=_round(w["return_nano"] / NANO, 7), z_return=_round(w["z_return"]),
            )
            for seconds, w in e["windows"].items()
        ),
    }  # fmt: skip


def _parts(e: dict[str, Any], side: int) -> tuple[Part, ...]:
    parts = e["parts"]
    direction = _SIDES[e["direction"]] or side
    mine = parts["short" if direction < 0 else "long"]
    vote = e["open_interest"]["vote"]
    bias = [
        f"{name} {'yes' if parts[key] else 'no'}"
        for name, key in (("spot flow", "bias_spot"), ("perp flow", "bias_perp"), ("return", "bias_return"))
    ]
    return (
        Part(label="Reset deceleration", points=_round(mine["reset_deceleration"]), points_max=3.5,
             text=f"{_count(mine['tests'], 'test')} of the range; adverse flow {mine['adverse_first']:.2f} at the first, "
             f"{mine['adverse_last']:.2f} at the last"),
        Part(label="Absorption", points=_round(mine["absorption"]), points_max=2.5,
             text=f"{_count(len(mine['absorbing_candles']), 'absorbing candle')} of the last three, "
             f"{len(mine['absorbing_with_volume'])} with volume"),
        Part(label="Failed breakdown", points=_round(mine["failed_breakdown"]), points_max=2.0,
             text=f"{_count(len(mine['attempts']), 'attempt')} within twelve candles"
             + (", each weaker than the one before" if mine["attempts_falling"] and len(mine["attempts"]) > 1 else "")),
        Part(label="Directional bias", points=_round(parts["directional_bias"]), points_max=2.0, text=", ".join(bias)),
        Part(label="Open interest", points={"confirms": 1.0, "denies": -1.0}.get(vote, 0.0), points_max=1.0, text=vote),
    )  # fmt: skip


def _market_inputs(e: dict[str, Any], p: SqueezeParams, listed: Instrument) -> tuple[Input, ...]:
    price, row = 10**listed.price_decimals, e["row"]
    reset, divergence, context, interest = e["reset"], e["divergence"], e["context"], e["open_interest"]
    made = [
        Input(label="Close", text=f"{row['close'] / price:,.{decimals(listed)}f} {listed.quote}"),
        Input(label="Score", text=f"{e['score_milli'] / 1000:.3f} of 10", threshold=f"entry from {p.entry_score:g}",
              met=e["score_milli"] >= 1000 * p.entry_score),
        Input(label="Context", text=f"{context['value']:+.3f}: {SIDE_WORDS[context['direction']]} trapped, expected duration "
              f"{context['expected_duration'].lower()}", threshold=f"a side from ±{p.context_enter:g}",
              met=context["direction"] != "NEUTRAL"),
        Input(label="Reset", text=_reset(reset, price, listed), known_at=reset["phase_ts"] or None,
              threshold=f"an imbalance from {p.imbalance_z:g} swings over 900 s, forgotten after {p.imbalance_expires_s:,} s",
              met=reset["phase"].startswith("RESET")),
        Input(label="Divergence", text="none armed" if divergence["armed"] == "NEUTRAL" else
              f"{'true' if divergence['armed_true'] else 'relative'}, {SIDE_WORDS[divergence['armed']]} trapped",
              known_at=divergence["held_last_ts"] or None if divergence["armed"] != "NEUTRAL" else None,
              threshold=f"a gap from {p.divergence_min:g} of its swings, armed for {p.divergence_armed_s:,} s",
              met=divergence["armed"] != "NEUTRAL"),
    ]  # fmt: skip
    if interest["known_at"]:
        made += [
            Input(label="Open interest",
                  text=f"{interest['value'] / 10**listed.qty_decimals:,.0f} {listed.base}, {interest['age_s']} s old",
                  known_at=interest["known_at"], threshold=f"at most {interest['age_s_max']} s old",
                  met=not interest["stale_or_missing"]),
            Input(label="Open interest, change over 1,800 s", text=f"{interest['z']:+.2f} swings: {interest['vote']}",
                  known_at=interest["known_at"], threshold=f"a vote from ±{p.oi_vote:g} swings", met=interest["vote"] != "silent"),
        ]  # fmt: skip
    else:
        made.append(Input(label="Open interest", text="none is known", threshold="without it there is no vote"))
    made += [
        Input(label="Funding, 8 h", text=f"{100 * row['funding_rate_8h'] / FUNDING_SCALE:+.4f} %"),
        Input(label="Venues complete", text=f"{100 * row['quality_ppm'] / PPM:.0f} % of the weight",
              threshold="80 % in each of the last 60 s", met=None if e["direction"] == "NEUTRAL" else "quality" not in e["blocked_by"]),
    ]  # fmt: skip
    return tuple(made)


def _entry_inputs(decision: Decision | None, p: SqueezeParams, listed: Instrument) -> tuple[Input, ...]:
    if decision is None:
        return ()
    seen = decision.inputs
    made = []
    if "expected_move" in seen and "round_trip_cost" in seen:
        bar = p.cost_multiple * seen["round_trip_cost"]
        made.append(
            Input(label="Expected move", text=f"{100 * seen['expected_move']:.3f} %",
                  threshold=f"above {p.cost_multiple:g} × the round trip: {100 * bar:.3f} %", met=seen["expected_move"] > bar)
        )  # fmt: skip
    if "structure_level" in seen:
        made.append(Input(label="Structure, frozen", text=f"{seen['structure_level']:,.{decimals(listed)}f} {listed.quote}",
                          threshold=f"left {100 * p.structure_break:g} % beyond it" if not p.structure_atr else
                          f"left {p.structure_atr:g} mean ranges beyond it"))  # fmt: skip
    if "stop_distance" in seen:
        made.append(Input(label="Stop distance", text=f"{100 * seen['stop_distance']:.3f} %",
                          threshold=f"at least {100 * p.stop_distance_min:g} %",
                          met=seen["stop_distance"] >= p.stop_distance_min))  # fmt: skip
    if "qty_base" in seen and "equity_usd" in seen:
        made.append(Input(label="Size", text=f"{seen['qty_base']:g} {listed.base} at an equity of {seen['equity_usd']:,.2f} USD",
                          threshold=f"{100 * p.risk_per_trade:g} % of equity at risk, times the tier's size"))  # fmt: skip
    return tuple(made)


def _exit_inputs(e: dict[str, Any], decision: Decision | None, trade: Trade, p: SqueezeParams) -> tuple[Input, ...]:
    """List what the exit rules looked at, signed as in the rows."""
    made = []
    if decision is not None and "spot_since_entry_usd" in decision.inputs:
        seen, against = decision.inputs, int(trade.direction)
        for name in ("spot", "perp"):
            flow, bar = seen[f"{name}_since_entry_usd"], p.reversal_swing * seen[f"swing_{name}_1800_usd"]
            wanted = -against if name == "spot" else against  # a reversal: spot against us, perp with us
            made.append(
                Input(label=f"{name.capitalize()} flow since entry", text=_millions(flow),
                      threshold=f"reversal from {_millions(wanted * bar)}", met=wanted * flow > bar)
            )  # fmt: skip
        made.append(Input(label="Held", text=f"{seen['held_s'] / 60:.1f} min",
                          threshold=f"a reversal from {p.reversal_min_hold_s} s", met=seen["held_s"] >= p.reversal_min_hold_s))  # fmt: skip
        if seen.get("structure_level"):
            made.append(Input(label="Structure, frozen at entry", text=f"{seen['structure_level']:,.10g}"))
    for seconds in (900, 300):
        w = _window(e, seconds)
        both = max(int(trade.direction) * w["z_spot"], int(trade.direction) * w["z_perp"])
        made.append(
            Input(label=f"Both flows, {seconds} s", text=f"spot {w['z_spot']:+.2f}, perp {w['z_perp']:+.2f} swings",
                  threshold=f"against from {-int(trade.direction) * p.against_swing:+g} swings each", met=both <= -p.against_swing)
        )  # fmt: skip
    return tuple(made)


def _exit_rule(reason: str, p: SqueezeParams) -> str:
    return {
        "structure": f"it leaves when the close is {100 * p.structure_break:g} % beyond the border frozen at entry",
        "flow_reversal": f"it leaves when spot against it and perp with it both exceed {p.reversal_swing:g} swings since entry",
        "both_flows_against": f"it leaves when spot and perp are {p.against_swing:g} swings against it over 900 s and over 300 s",
        "context_flip": f"it leaves when the context reaches {p.context_enter:g} on the other side",
        "hard_risk": "liquidation distance, the day's loss and the fixed stop close everything at once",
    }.get(reason, "no rule of the strategy asked for it")


# --- leaves ---


def clock(second: int) -> str:
    """Write a second as a UTC time.

    >>> clock(0)
    '1970-01-01 00:00:00'
    """
    return dt.datetime.fromtimestamp(second, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")


def decimals(listed: Instrument) -> int:
    """Return the decimals of an instrument's tick: those that people read."""
    return max(0, -int(listed.tick_size.normalize().as_tuple().exponent))


def _reset(reset: dict[str, Any], price: int, listed: Instrument) -> str:
    if reset["phase"] == "IDLE":
        return "no imbalance"
    text = f"{PHASE_WORDS[reset['phase']]}, {SIDE_WORDS[reset['direction']]} trapped, "
    text += f"since {clock(reset['start_ts'])} UTC, led by {reset['led_by']}"
    if reset["reset_low"] or reset["reset_high"]:
        d = decimals(listed)
        text += f", range {reset['reset_low'] / price:,.{d}f} to {reset['reset_high'] / price:,.{d}f}"
    return text


def _nothing_blocks(e: dict[str, Any]) -> str:
    return "; ".join(_blocks(e)) or "nothing blocked it"


def _blocks(e: dict[str, Any]) -> tuple[str, ...]:
    return tuple(block_words(name) for name in e["blocked_by"])


def _window(e: dict[str, Any], seconds: int) -> dict[str, Any]:
    found: dict[str, Any] = e["windows"][seconds]
    return found


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _millions(usd: float) -> str:
    return f"{usd / 1e6:+,.2f} million USD"


def _round(value: float, digits: int = 4) -> float:
    return round(value, digits)
