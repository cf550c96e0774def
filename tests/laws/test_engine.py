"""The laws of phase 5: entries need all of their conditions, exits need one, and nothing stops an exit."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezecore import risk, squeeze, tape
from squeezecore.engine import BLOCKS, EXITS, AssetState, Engine, Entry, SecondView, log_nano, view_at
from squeezecore.market import Instrument
from squeezecore.risk import Book, Holding, Pending, TradingState
from squeezecore.spec import Costs, Limits, day_start_s
from squeezecore.squeeze import SqueezeParams
from squeezecore.trading import USD_E8, Decision, Direction, ExitReason, Order, Side
from support.backtest_worlds import INSTRUMENTS, START, world

BTC = INSTRUMENTS["BTC"]
NOW = 1_767_600_000
GOOD = squeeze.F_WARM | squeeze.F_QUALITY | squeeze.F_SIGNAL
RESET_A = squeeze.RESET_A << squeeze.PHASE_SHIFT


def view(ts: int = NOW, **changes: Any) -> SecondView:
    """A second that asks for a long entry: score 4.5, a reset from 59,800 to 60,200, close at 60,000."""
    values: dict[str, Any] = {
        "ts": ts, "score_milli": 4_500, "flags": GOOD | squeeze.F_LONG | squeeze.F_RESET_LONG | RESET_A,
        "swing_spot": 1e8, "swing_perp": 4e8, "swing_return": 0.004, "reset_low": 59_800_000, "reset_high": 60_200_000,
        "candle_range": 1_500_000, "deceleration": 1_200, "absorption": 800, "breakdown": 900, "close": 60_000_000,
        "spot_delta": 0, "perp_delta": 0, "range_low": 59_700_000, "range_high": 60_300_000,
    }  # fmt: skip
    return SecondView(**{**values, **changes})


def mirrored(seen: SecondView) -> SecondView:
    """The same second for a short: flags of the two sides swapped, prices turned round 60,000."""
    flags = seen.flags
    for one, other in (("LONG", "SHORT"), ("RESET_LONG", "RESET_SHORT"), ("BOTH_AGAINST_LONG", "BOTH_AGAINST_SHORT"),
                       ("CONTEXT_AGAINST_LONG", "CONTEXT_AGAINST_SHORT"), ("RETURN_UP", "RETURN_DOWN")):  # fmt: skip
        a, b = getattr(squeeze, f"F_{one}"), getattr(squeeze, f"F_{other}")
        flags = flags & ~(a | b) | (b if flags & a else 0) | (a if flags & b else 0)

    def turn(price: int) -> int:
        return 120_000_000 - price

    return seen._replace(
        flags=flags, close=turn(seen.close), reset_low=turn(seen.reset_high), reset_high=turn(seen.reset_low),
        range_low=turn(seen.range_high), range_high=turn(seen.range_low), spot_delta=-seen.spot_delta,
        perp_delta=-seen.perp_delta,
    )  # fmt: skip


def book(ts: int = NOW, qty: int = 0, **changes: Any) -> Book:
    """An account of 100,000 USD."""
    equity = 100_000 * USD_E8
    values: dict[str, Any] = {
        "ts": ts, "equity_usd_e8": equity, "day_open_usd_e8": equity, "week_open_usd_e8": equity, "peak_usd_e8": equity,
        "instruments": {BTC.id: BTC}, "last_close": {BTC.id: 60_000_000}, "last_data_ts": {BTC.id: ts},
        "holdings": (Holding(asset="BTC", instrument=BTC.id, qty=qty),) if qty else (),
    }  # fmt: skip
    return Book(**{**values, **changes})


def engine(params: SqueezeParams | None = None, limits: Limits | None = None) -> Engine:
    return Engine(params or SqueezeParams(), {"BTC": BTC}, Costs(), limits or Limits())


def entered(seen: SecondView | None = None, params: SqueezeParams | None = None) -> tuple[Engine, Order]:
    """An engine whose entry of the second before NOW was just filled."""
    one = engine(params)
    seen = (seen or view())._replace(ts=NOW - 2)
    (order,) = one.process(NOW - 2, {"BTC": seen}, book(NOW - 2)).orders
    qty = order.qty * order.side.sign
    assert not one.process(NOW - 1, {"BTC": quiet(NOW - 1)}, book(NOW - 1, qty)).orders
    return one, order


def quiet(ts: int = NOW, **changes: Any) -> SecondView:
    """A second that says nothing."""
    return view(ts, **{"score_milli": 0, "flags": GOOD & ~squeeze.F_SIGNAL, **changes})


# --- entries ---


def test_a_good_second_enters_with_the_size_of_its_risk():
    decided = engine().process(NOW, {"BTC": view()}, book())
    (order,), (record,) = decided.orders, decided.decisions
    assert (order.side, order.reduce_only, order.reason, order.decided_ts) == (Side.BUY, False, "entry", NOW)
    distance = np.log(60_000 / 59_800) + 0.005
    notional = min(100_000 * 0.02 * 0.5 / distance, 200_000)
    assert order.qty / 10**BTC.qty_decimals == pytest.approx(notional / 60_000, abs=0.001)
    assert (record.kind, record.order_id, record.blocked_by) == ("entry", order.id, ())
    assert record.inputs["stop_distance"] == pytest.approx(distance, abs=1e-8)
    assert record.inputs["structure_level"] == 59_800


@pytest.mark.parametrize(
    ("block", "changes"),
    [
        ("warming", {"flags": view().flags & ~squeeze.F_WARM}),
        ("quality", {"flags": view().flags & ~squeeze.F_QUALITY}),
        ("signal", {"flags": view().flags & ~squeeze.F_SIGNAL}),
        ("both_flows_against", {"flags": view().flags | squeeze.F_BOTH_AGAINST_LONG}),
        ("context_flip", {"flags": view().flags | squeeze.F_CONTEXT_AGAINST_LONG}),
        ("expected_move", {"swing_return": 0.002}),
        ("structure", {"close": 59_400_000}),
    ],
)
@pytest.mark.parametrize("side", [1, -1])
def test_each_missing_condition_blocks_the_entry_and_is_named(block: str, changes: dict[str, Any], side: int):
    seen = view(**changes)
    decided = engine().process(NOW, {"BTC": seen if side > 0 else mirrored(seen)}, book())
    assert not decided.orders
    assert [d.blocked_by for d in decided.decisions] == [(block,)]
    assert block in BLOCKS


def test_a_score_below_the_entry_or_without_direction_is_no_event():
    for seen in (view(score_milli=3_999), view(flags=GOOD)):
        assert engine().process(NOW, {"BTC": seen}, book()) == ((), (), ())


def test_the_same_block_leaves_one_record_until_it_changes():
    one = engine()
    blocked = view().flags & ~squeeze.F_SIGNAL
    kinds = []
    for n, flags in enumerate((blocked, blocked, blocked & ~squeeze.F_QUALITY, blocked & ~squeeze.F_QUALITY)):
        decided = one.process(NOW + n, {"BTC": view(NOW + n, flags=flags)}, book(NOW + n))
        kinds.append([d.blocked_by for d in decided.decisions])
    assert kinds == [[("signal",)], [], [("quality", "signal")], []]


@pytest.mark.parametrize(
    ("limit", "changes"),
    [
        ("kill_switch", {"kill_switch": True}),
        ("trading_state", {"state": TradingState.HALTED}),
        ("stale_data_s_max", {"last_data_ts": {BTC.id: NOW - 60}}),
        ("daily_loss_max", {"day_open_usd_e8": 110_000 * USD_E8}),
        ("weekly_loss_max", {"week_open_usd_e8": 120_000 * USD_E8}),
        ("orders_per_minute_max", {"orders_last_minute": 60}),
    ],
)
def test_a_limit_denies_an_entry_with_its_value_and_is_asked_again_after_a_minute(limit: str, changes: dict[str, Any]):
    one = engine()
    decided = one.process(NOW, {"BTC": view()}, book(**changes))
    assert not decided.orders
    (record,) = decided.decisions
    assert (record.kind, record.blocked_by) == ("denied", ("risk",))
    assert record.reason.startswith(limit)
    assert {"limit", "value"} <= set(record.inputs)
    assert not one.process(NOW + 59, {"BTC": view(NOW + 59)}, book(NOW + 59)).orders
    assert one.process(NOW + 60, {"BTC": view(NOW + 60)}, book(NOW + 60)).orders


def test_a_size_below_one_lot_is_denied():
    poor = dict.fromkeys(("equity_usd_e8", "day_open_usd_e8", "week_open_usd_e8", "peak_usd_e8"), 10 * USD_E8)
    (record,) = engine().process(NOW, {"BTC": view()}, book(**poor)).decisions
    assert record.reason == "risk leaves less than one lot"


@pytest.mark.parametrize(("score", "tier"), [(4_000, 1), (4_999, 1), (5_000, 2), (5_999, 2), (6_000, 3), (10_000, 3)])
def test_the_tier_is_fixed_at_entry(score: int, tier: int):
    one = engine()
    one.process(NOW, {"BTC": view(score_milli=score)}, book())
    entry = one.entry_of("BTC")
    assert entry is not None
    assert entry.tier == tier


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        (squeeze.F_RESET_LONG | squeeze.RESET_A << squeeze.PHASE_SHIFT, 59_800_000),
        (squeeze.F_RESET_LONG | squeeze.RESET_B << squeeze.PHASE_SHIFT, 59_800_000),
        (squeeze.F_RESET_LONG | squeeze.IMBALANCED << squeeze.PHASE_SHIFT, 59_700_000),
        (squeeze.F_RESET_SHORT | squeeze.RESET_A << squeeze.PHASE_SHIFT, 59_700_000),
        (0, 59_700_000),
    ],
)
def test_without_a_reset_of_our_direction_thirty_minutes_are_the_structure(flags: int, level: int):
    one = engine()
    one.process(NOW, {"BTC": view(flags=GOOD | squeeze.F_LONG | flags)}, book())
    entry = one.entry_of("BTC")
    assert entry is not None
    assert entry.level == level
    assert entry.stop_log == log_nano(level) - 5_000_000


def test_an_entry_waits_five_minutes_after_the_last_exit_fill():
    one, _ = entered()
    one.process(NOW, {"BTC": quiet()}, book())  # the position is gone: NOW is the second of the exit's fill
    assert [bool(one.process(ts, {"BTC": view(ts)}, book(ts)).orders) for ts in (NOW + 1, NOW + 299, NOW + 300)] == [
        False,
        False,
        True,
    ]


def test_an_entry_that_came_to_nothing_is_forgotten():
    one = engine()
    (order,) = one.process(NOW, {"BTC": view()}, book()).orders
    waiting = book(NOW + 1, open_orders=(Pending(order, order.qty),))
    assert not one.process(NOW + 1, {"BTC": view(NOW + 1)}, waiting).orders
    assert one.busy("BTC")
    again = one.process(NOW + 2, {"BTC": view(NOW + 2)}, book(NOW + 2)).orders
    assert [o.id == order.id for o in again] == [False]


def test_the_second_asset_sees_the_order_of_the_first():
    both = Engine(SqueezeParams(), INSTRUMENTS, Costs(), Limits(open_positions_max=1))
    eth = INSTRUMENTS["ETH"]
    account = book(
        instruments={BTC.id: BTC, eth.id: eth}, last_close={BTC.id: 60_000_000, eth.id: 60_000_000},
        last_data_ts={BTC.id: NOW, eth.id: NOW},
    )  # fmt: skip
    decided = both.process(NOW, {"ETH": view(), "BTC": view()}, account)
    assert [order.asset for order in decided.orders] == ["BTC"]
    assert [(d.asset, d.kind) for d in decided.decisions] == [("BTC", "entry"), ("ETH", "denied")]


# --- exits ---


@pytest.mark.parametrize(
    ("reason", "changes", "params"),
    [
        (ExitReason.HARD_RISK, {"close": 58_900_000}, {"fixed_stop": 0.015}),
        (ExitReason.STRUCTURE, {"close": 59_450_000}, {}),
        (ExitReason.BOTH_FLOWS_AGAINST, {"flags": squeeze.F_BOTH_AGAINST_LONG}, {}),
        (ExitReason.CONTEXT_FLIP, {"flags": squeeze.F_CONTEXT_AGAINST_LONG}, {}),
        (ExitReason.TIME_STOP, {"ts": NOW + 3600}, {"time_stop_tier_1_h": 1.0}),
        (ExitReason.FLOW_REVERSAL, {"ts": NOW + 59, "spot_delta": -60_000_000, "perp_delta": 210_000_000}, {}),
    ],
)
@pytest.mark.parametrize("side", [1, -1])
def test_each_exit_closes_the_whole_position(
    reason: ExitReason, changes: dict[str, Any], params: dict[str, float], side: int
):
    start = view() if side > 0 else mirrored(view())
    one, order = entered(start, SqueezeParams(**params))  # type: ignore[arg-type]
    seen = quiet(**changes) if side > 0 else mirrored(quiet(**changes))
    decided = one.process(seen.ts, {"BTC": seen}, book(seen.ts, order.qty * side))
    (leave,) = decided.orders
    assert (leave.qty, leave.side, leave.reduce_only, leave.reason) == (order.qty, Side(-side), True, reason)
    assert decided.decisions[-1].kind == "exit"
    assert decided.decisions[-1].reason == reason


@pytest.mark.parametrize(
    "changes",
    [
        {"ts": NOW + 58, "spot_delta": -60_000_000, "perp_delta": 210_000_000},  # held for 59 s
        {"ts": NOW + 59, "spot_delta": -50_000_000, "perp_delta": 210_000_000},  # no more than half a swing
        {"ts": NOW + 59, "spot_delta": -60_000_000, "perp_delta": 200_000_000},
        {"ts": NOW + 59, "spot_delta": -60_000_000, "perp_delta": 210_000_000, "flags": squeeze.F_RETURN_UP},
        {"flags": squeeze.F_BOTH_AGAINST_SHORT | squeeze.F_CONTEXT_AGAINST_SHORT},  # the other side's
    ],
)
def test_a_flow_reversal_needs_all_its_parts_and_the_other_sides_exits_are_not_ours(changes: dict[str, Any]):
    one, order = entered()
    seen = quiet(**changes)
    assert not one.process(seen.ts, {"BTC": seen}, book(seen.ts, order.qty)).orders


def test_the_first_exit_that_holds_is_the_reason():
    one, order = entered(params=SqueezeParams(fixed_stop=0.001, time_stop_tier_1_h=0.0003))
    every = quiet(NOW, close=59_000_000, flags=squeeze.F_BOTH_AGAINST_LONG | squeeze.F_CONTEXT_AGAINST_LONG)
    (leave,) = one.process(NOW, {"BTC": every}, book(NOW, order.qty)).orders
    assert leave.reason == EXITS[0]


def test_flows_count_from_the_second_after_the_fill():
    one = engine()
    (order,) = one.process(NOW - 2, {"BTC": view(NOW - 2)}, book(NOW - 2)).orders
    filling = quiet(NOW - 1, spot_delta=-(10**12), perp_delta=10**12)
    one.process(NOW - 1, {"BTC": filling}, book(NOW - 1, order.qty))
    later = NOW + 600
    assert not one.process(later, {"BTC": quiet(later)}, book(later, order.qty)).orders


def test_an_exit_that_was_decided_is_asked_for_until_the_position_is_gone():
    one, order = entered()
    against = quiet(flags=squeeze.F_BOTH_AGAINST_LONG)
    (leave,) = one.process(NOW, {"BTC": against}, book(NOW, order.qty)).orders
    waiting = book(NOW + 1, order.qty, open_orders=(Pending(leave, leave.qty),))
    assert not one.process(NOW + 1, {"BTC": quiet(NOW + 1)}, waiting).orders
    rest = BTC.quantise_qty(0.001)
    (again,) = one.process(NOW + 2, {"BTC": quiet(NOW + 2)}, book(NOW + 2, rest)).orders
    assert (again.qty, again.reason) == (rest, leave.reason)
    assert again.id != leave.id


def test_leaving_cancels_what_is_left_of_the_entry():
    one, order = entered()
    part = book(NOW, order.qty // 2, open_orders=(Pending(order, order.qty // 2),))
    decided = one.process(NOW, {"BTC": quiet(flags=squeeze.F_CONTEXT_AGAINST_LONG)}, part)
    assert decided.cancels == (order.id,)
    assert [o.qty for o in decided.orders] == [order.qty // 2]


flags_of_exits = st.sampled_from([squeeze.F_BOTH_AGAINST_LONG, squeeze.F_CONTEXT_AGAINST_LONG])


@given(
    data=st.data(),
    side=st.sampled_from([1, -1]),
    bits=st.integers(0, 2**25 - 1),
    score=st.integers(0, 10_000),
    condition=st.one_of(flags_of_exits, st.just("structure")),
    entry=st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_from_any_state_a_position_whose_exit_holds_is_closed_at_once(
    data: st.DataObject, side: int, bits: int, score: int, condition: int | str, entry: bool
):
    one = engine()
    qty = BTC.quantise_qty(0.5)
    state = AssetState(
        ts=NOW - data.draw(st.integers(1, 10**6)),
        flags=data.draw(st.integers(0, 2**25 - 1)),
        block=data.draw(st.integers(0, 2**17 - 1)),
        left_ts=NOW - data.draw(st.integers(0, 1_000)),
        retry_ts=NOW + data.draw(st.integers(-1_000, 1_000)),
        spot_cents=data.draw(st.integers(-(10**14), 10**14)),
        perp_cents=data.draw(st.integers(-(10**14), 10**14)),
        opened_ts=NOW - data.draw(st.integers(0, 10**6)),
        leaving=data.draw(st.sampled_from(["", "context_flip"])),
        entry=Entry(
            order_id="x", decided_ts=NOW - 10**6, side=side, tier=data.draw(st.integers(1, 3)), score_milli=4_000,
            close=60_000_000, level=60_000_000 - side * 200_000, stop_log=log_nano(60_000_000 - side * 200_000),
        ),
    )  # fmt: skip
    if not entry:  # a position that the engine never asked for
        state.entry, state.opened_ts, state.leaving = None, AssetState().opened_ts, ""
    one.restore(msgspec.json.encode({"BTC": state}))
    seen = view(score_milli=score, flags=bits)
    if condition == "structure" and entry:
        seen = seen._replace(close=59_000_000)
    else:
        condition = squeeze.F_BOTH_AGAINST_LONG if condition == "structure" else condition
        seen = seen._replace(flags=bits | int(condition))
    if side < 0:
        seen = mirrored(seen)
        seen = seen._replace(flags=seen.flags | (0 if condition == "structure" else int(condition) << 1))
    account = book(
        qty=side * qty,
        kill_switch=data.draw(st.booleans()),
        state=data.draw(st.sampled_from(list(TradingState))),
        last_data_ts={BTC.id: NOW - data.draw(st.integers(0, 10**6))},
        orders_last_minute=data.draw(st.integers(0, 10**4)),
        equity_usd_e8=data.draw(st.integers(-(10**15), 10**15)),
    )
    decided = one.process(NOW, {"BTC": seen}, account)
    (order,) = decided.orders
    assert (order.side, order.qty, order.reduce_only) == (Side(-side), qty, True)
    assert risk.check(order, account, Limits()) is None


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("kill switch", {"kill_switch": True}),
        ("daily loss", {"equity_usd_e8": 95_000 * USD_E8}),
        ("liquidation", {"gross_usd_e8": 4_000_000 * USD_E8}),
    ],
)
def test_a_hard_limit_closes_every_position_and_says_which(words: str, changes: dict[str, Any]):
    one, order = entered()
    decided = one.process(NOW, {"BTC": quiet()}, book(NOW, order.qty, **changes))
    assert decided.orders[0].reason == ExitReason.HARD_RISK
    assert words in decided.decisions[-1].reason


# --- state ---


def play(one: Engine, views: list[SecondView], cut: int = -1, *, twice: bool = False) -> tuple[list[bytes], bytes]:
    """Run views through an engine with instant fills; at `cut` through a snapshot into a new engine."""
    qty, said = 0, []
    for n, seen in enumerate(views):
        if n == cut:
            data, one = one.to_bytes(), engine()
            one.restore(data)
        decided = one.process(seen.ts, {"BTC": seen}, book(seen.ts, qty))
        said.append(msgspec.json.encode(decided))
        if twice:
            again = one.process(seen.ts, {"BTC": seen}, book(seen.ts, qty))
            assert again == ((), (), ())
        for order in decided.orders:
            qty += order.side.sign * order.qty
    return said, one.to_bytes()


def drawn_views(seed: int, n: int = 400) -> list[SecondView]:
    made = world(seed, seconds=2_000 + n, holes=0)
    features = tape.unpack(made.scans[START]["BTC"].tape)
    rows = made.rows["BTC"]
    return [view_at(features, 2_000 + k, rows, 2_000 + k) for k in range(n)]


@given(seed=st.integers(0, 2**32), cut=st.integers(0, 399))
@settings(deadline=None, max_examples=15)
def test_a_snapshot_and_its_restoration_are_invisible(seed: int, cut: int):
    views = drawn_views(seed)
    assert play(engine(), views) == play(engine(), views, cut)


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=10)
def test_a_second_seen_twice_changes_nothing(seed: int):
    views = drawn_views(seed)
    assert play(engine(), views) == play(engine(), views, twice=True)


@given(seed=st.integers(0, 2**32), first=st.integers(0, 300), length=st.integers(1, 100))
@settings(deadline=None, max_examples=25)
def test_skipping_is_processing_until_something_happens(seed: int, first: int, length: int):
    made = world(seed, seconds=2_400, holes=0)
    features, rows = tape.unpack(made.scans[START]["BTC"].tape), made.rows["BTC"]
    start = 2_000 + first
    views = [view_at(features, n, rows, n) for n in range(start, min(start + length, 2_400))]
    quick, slow = engine(), engine()
    look = quick.look("BTC", features, start, start + len(views), rows, start)
    said = list(quick.skip(look))
    slowly: list[Decision] = []
    for seen in views[: look.stop - start]:
        decided = slow.process(seen.ts, {"BTC": seen}, book(seen.ts, last_close={BTC.id: seen.close}))
        assert not decided.orders
        slowly += decided.decisions
    assert said == slowly
    assert quick.to_bytes() == slow.to_bytes()
    if look.found:
        seen = views[look.stop - start]
        decided = slow.process(seen.ts, {"BTC": seen}, book(seen.ts, last_close={BTC.id: seen.close}))
        assert decided.decisions[-1].kind in ("entry", "denied")


def test_a_score_is_the_sum_of_its_parts():
    seen = view(score_milli=4_500, flags=view().flags | squeeze.F_BIAS_SPOT | squeeze.F_BIAS_PERP | squeeze.F_OI_DENIES)
    (record,) = engine().process(NOW, {"BTC": seen._replace(flags=seen.flags & ~squeeze.F_SIGNAL)}, book()).decisions
    parts = record.parts
    assert record.direction is Direction.BULLISH
    assert (parts.reset_deceleration, parts.absorption, parts.failed_breakdown) == (1_200, 800, 900)
    assert parts.open_interest == -1_000
    assert 1_200 <= parts.directional_bias <= 1_600


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=40)
def test_the_mirrored_second_gives_the_mirrored_decision(seed: int):
    rng = np.random.default_rng(seed)
    seen = view(
        score_milli=int(rng.integers(3_500, 7_000)), flags=int(rng.integers(0, 2**20)) & ~squeeze.F_SHORT | squeeze.F_LONG,
        swing_return=float(rng.uniform(0.001, 0.006)), close=60_000_000 + int(rng.integers(-600, 600)) * 1_000,
    )  # fmt: skip
    account = book(last_close={BTC.id: seen.close})
    other = book(last_close={BTC.id: 120_000_000 - seen.close})
    one, two = engine().process(NOW, {"BTC": seen}, account), engine().process(NOW, {"BTC": mirrored(seen)}, other)
    assert [(o.side, o.reason) for o in one.orders] == [(Side(-o.side), o.reason) for o in two.orders]
    assert [(d.kind, d.blocked_by) for d in one.decisions] == [(d.kind, d.blocked_by) for d in two.decisions]


def test_the_rows_of_a_day_begin_where_the_worlds_do():
    assert isinstance(BTC, Instrument)
    assert world(1, seconds=60, holes=0).rows["BTC"].ts[0] == day_start_s(START)
