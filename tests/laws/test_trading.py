"""The law of live trading: desk and account in lockstep, however their messages arrive, do what the backtest does."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from squeezecore import backtest, desk
from squeezecore.errors import UsageError
from squeezecore.fold import Fold
from squeezecore.market import DAY_S, Rows, cut, empty
from squeezecore.settling import Settling
from squeezecore.spec import Costs, Limits, canonical, day_start_s
from squeezecore.squeeze import params_from
from squeezecore.wire import Decided
from support.backtest_worlds import INSTRUMENTS, START, World, world
from support.trading_worlds import Lockstep, after, batches_of, facts_of, pretend, simulated

PARAMS = ({}, {"cooldown_s": 0}, {"fixed_stop": 0.002}, {"structure_atr": 1.0}, {"time_stop_tier_1_h": 0.1})
LIMITS = (
    Limits(), Limits(daily_loss_max=0.002), Limits(open_positions_max=1), Limits(orders_per_minute_max=1),
    Limits(liquidation_distance_min=0.9),
)  # fmt: skip
COSTS = (Costs(), Costs(latency_ms=3_500), Costs(participation_max_ppm=1_000))


def lockstep(drawn: World, seed: int, **how: object) -> Lockstep:
    """Trade a world's rows live."""
    instruments = {asset: INSTRUMENTS[asset] for asset in drawn.spec.assets}
    batches = [*batches_of(drawn.rows), after(drawn)]
    run = Lockstep(drawn.spec, instruments, batches, facts_of(instruments, drawn.funding), seed)
    run.begin(day_start_s(START) - 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(desk.squeeze, "scan", pretend(drawn))
        run.run(**how)  # type: ignore[arg-type]
    return run


@given(
    seed=st.integers(0, 2**32),
    assets=st.sampled_from([("BTC",), ("BTC", "ETH")]),
    holes=st.integers(0, 5),
    params=st.sampled_from(PARAMS),
    limits=st.sampled_from(LIMITS),
    costs=st.sampled_from(COSTS),
    capital=st.sampled_from([1_000, 10_000, 1_000_000]),
    pull=st.sampled_from([3, 40, 400]),
)
@settings(
    deadline=None, max_examples=15, phases=(Phase.explicit, Phase.reuse, Phase.generate)
)  # shrinking takes minutes
def test_live_does_what_the_backtest_does_whatever_arrives_when(
    seed: int,
    assets: tuple[str, ...],
    holes: int,
    params: dict[str, float],
    limits: Limits,
    costs: Costs,
    capital: int,
    pull: int,
):
    drawn = world(
        seed, assets=assets, days=2, seconds=1_500, holes=holes, params=params, limits=limits, costs=costs,
        capital_usd=capital,
    )  # fmt: skip
    _, days = drawn.run(days=2)
    live = lockstep(drawn, seed, pull=pull)
    assert live.differs(days, day_start_s(START), day_start_s(START) + 2 * DAY_S) == ""
    assert live.decisions


def test_live_does_what_the_backtest_does_on_a_simulated_market():
    market = simulated(("BTC", "SOL"))
    days = market.fold()
    live = Lockstep(market.spec, market.instruments, market.batches, facts_of(market.instruments, market.funding), 7)
    for asset, rows in market.warmup.items():
        live.desk.warm(asset, rows)
    live.begin(day_start_s(market.spec.start) - 1)
    live.run(cuts=4, pull=20_000)
    assert live.differs(days, day_start_s(market.spec.start), day_start_s(market.spec.end) + DAY_S) == ""
    assert len(live.fills) > 4
    assert {decision.kind for decision in live.decisions} > {"entry", "exit", "candle", "reset"}


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=5)
def test_other_parameters_hold_from_their_second_on_whatever_arrives_when(seed: int):
    drawn = world(seed, seconds=1_500, holes=1)
    border, other = day_start_s(START) + 700, params_from({"entry_score": 6.0, "cooldown_s": 0})
    runs = []
    for order in (seed, seed + 1):
        batches = [*batches_of(drawn.rows), after(drawn)]
        run = Lockstep(drawn.spec, {"BTC": INSTRUMENTS["BTC"]}, batches, [], order)
        run.begin(day_start_s(START) - 1)
        run.desk.swap(other, border)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(desk.squeeze, "scan", pretend(drawn))
            run.run(pull=60)
        runs.append(run)
    first, second = ([canonical(decision) for decision in run.decisions] for run in runs)
    assert first == second
    hashes = [(decision.ts >= border, decision.params_hash == other.hash) for decision in runs[0].decisions]
    assert all(later == changed for later, changed in hashes)
    with pytest.raises(UsageError, match="name a later second"):
        runs[0].desk.swap(other, border)


def test_a_signal_is_what_others_may_act_on():
    drawn = world(5, seconds=3_000)
    run = lockstep(drawn, 1)
    said = [(decision, desk.signal_of(decision)) for decision in run.decisions]
    kinds = {decision.kind for decision, signal in said if signal is not None}
    assert {"entry", "exit"} <= kinds <= {"entry", "denied", "exit", "direction"}
    for decision, signal in said:
        if signal is None:
            assert decision.kind not in ("entry", "denied", "exit")
        else:
            assert signal.direction == (0 if decision.kind == "exit" else decision.direction)
            assert signal.reasons[0] == decision.kind
            assert signal.params_hash == decision.params_hash


def test_an_intent_that_comes_too_late_enters_nothing_but_leaves():
    drawn = world(5, seconds=3_000)
    run = lockstep(drawn, 1)
    machine, order = run.settling, next(order for order in run.orders if order.reason == "entry")
    fresh = msgspec.structs.replace(order, id="sf-late", decided_ts=machine.settled_ts - 5)
    machine.hear(fresh)
    machine.take([run.batches[-1]._replace(ts=machine.settled_ts + 1)])
    machine.hear(Decided(account="paper", ts=machine.settled_ts + 1))
    machine.settle()
    assert machine.judge() == []
    last = machine.account.happened.updates[-1]
    assert (last.order_id, last.state) == ("sf-late", "denied")
    assert "too late to enter" in last.reason
    machine.hear(fresh)  # known: not asked again
    assert machine.judge() == []


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=10)
def test_a_day_begins_with_the_groups_of_assets_that_the_backtest_finds(seed: int):
    rng = np.random.default_rng(seed)
    drawn = world(seed, assets=("BTC", "ETH"), days=3, holes=0)
    spec, common = drawn.spec, rng.standard_normal(3 * 144)
    rows, scans = {}, {}
    for asset in spec.assets:
        ts = day_start_s(START) + np.arange(3 * 144) * 600 + 599  # a row each ten minutes, some missing
        path = np.cumsum(common + 0.1 * rng.standard_normal(len(ts)))  # a missing row hides a price, not a move
        kept = rng.random(len(ts)) < 0.9
        ts, close = ts[kept], np.rint(60_000_000 * np.exp(path[kept] * 1e-3)).astype(np.int64)
        zero = np.zeros(len(ts), np.int64)
        rows[asset] = Rows(*(ts if name == "ts" else close for name in Rows._fields))._replace(
            spot_delta=zero, perp_delta=zero, quality_ppm=zero
        )
        found = [cut(rows[asset], *ts.searchsorted([at, at + DAY_S]).tolist()) for at in map(day_start_s, spec.days())]
        for scan in backtest.scan_block(params_from({}), asset, empty(Rows), zip(spec.days(), found, strict=True)):
            scans[scan.day, asset] = scan
    fold, groups = Fold(spec, INSTRUMENTS), {}
    for day in spec.days():
        fold.add_day(day, {asset: scans[day, asset] for asset in spec.assets}, drawn.read)
        groups[day_start_s(day) // DAY_S] = fold._account.clusters
    machine = Settling(INSTRUMENTS, spec.costs, spec.limits, 10**12)
    machine.take(batches_of(rows))
    machine.hear(Decided(account="paper", ts=day_start_s(spec.end) + DAY_S))
    seen: dict[int, set[tuple[tuple[str, ...], ...]]] = {}
    while machine.may_judge or machine.next_ts >= 0:
        if machine.may_judge:
            machine.judge()
        else:
            clock = machine.settle().clock
            assert clock is not None
            seen.setdefault(machine.settled_ts // DAY_S, set()).add(clock.standing.clusters)
    assert seen == {day: {group} for day, group in groups.items()}
    assert list(groups.values())[-1] == (("BTC", "ETH"),)
