"""Many instruments and assets at once give the same bits as one after the other, whatever they are sent."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezecore import abreast as many
from squeezecore.errors import UsageError
from squeezecore.flow import BarParams, RowParams, bars_initial, fingerprint, rows_initial, scan_bars, scan_rows
from squeezecore.market import (
    Bars,
    FundingSeries,
    IdKind,
    MarkSeries,
    OpenInterestSeries,
    TradeFlag,
    Trades,
    concat,
    cut,
    dtypes,
    empty,
)

NS = 10**9
T0 = 1_723_161_600
RANDOM = settings(deadline=None, max_examples=60)


def params(slot, contiguous=True):
    return BarParams(f"v:{slot}", 3 - slot % 2, 8, IdKind.AGGREGATE, contiguous, hole_s_max=4)


def prints(rng, first_id, n, from_ns, *, messy):
    """Prints that carry on; messy ones jump, come twice, go back, or are no flow."""
    ids = first_id + np.arange(n)
    ns = np.sort(rng.integers(from_ns, from_ns + 2 * NS, n))
    keep = np.ones(n, bool)
    if messy:
        keep = rng.random(n) < 0.8
        ns = ns + (rng.random(n) < 0.1) * rng.integers(-3 * NS, 3 * NS, n)
    block = Trades(
        id=ids,
        exchange_ns=ns,
        received_ns=ns + 5,
        price=rng.integers(1, 10**8, n),
        qty=rng.integers(1, 10**12, n),
        quote_cents=np.where(rng.random(n) < 0.1, 12345, -1),
        side=rng.integers(-1, 2, n).astype(np.int8),
        flags=rng.choice([0, 0, 0, int(TradeFlag.BLOCK), int(TradeFlag.SNAPSHOT)], n).astype(np.uint8)
        if messy
        else np.zeros(n, np.uint8),
    )
    block = Trades(*(column[keep] for column in block))
    if messy and rng.random() < 0.5:
        block = concat([block, cut(block, 0, len(block.id) // 2)])
        block = Trades(*(column[rng.permutation(len(block.id))] for column in block))
    return block


def bits(block):
    return [(column.dtype.str, column.tobytes()) for column in block]


@RANDOM
@given(seed=st.integers(0, 2**32), messy=st.sampled_from([0.0, 0.2, 1.0]))
def test_bars_of_many_are_those_of_each(seed, messy):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 5))
    each = [params(k, contiguous=bool(rng.random() < 0.8)) for k in range(count)]
    lanes = many.lanes(each)
    states = [bars_initial(T0 if rng.random() < 0.5 else -1) for _ in each]
    state = many.abreast(states)
    next_id = rng.integers(1, 1000, count)
    mark = T0
    for step in range(8):
        blocks, slots = [], []
        for k in rng.permutation(count):
            n = int(rng.integers(0, 6))
            block = prints(rng, next_id[k], n, (T0 + step) * NS, messy=rng.random() < messy)
            next_id[k] += n
            blocks.append(block)
            slots.append(np.full(len(block.id), k))
        mark += int(rng.choice([0, 1, 1, 1, 2, 7]))
        alive = bool(rng.random() < 1 - messy / 4)
        doubts = np.where(rng.random(count) < messy, T0 + rng.integers(-1, 10, count), -1)
        state, slot, bars, gaps = many.scan_abreast(
            lanes, state, np.concatenate(slots), concat(blocks), mark, alive, doubts
        )
        expected_bars, expected_gaps = [], []
        order = np.concatenate(slots)
        joined = concat(blocks)
        for k in range(count):
            own = Trades(*(column[order == k] for column in joined))
            states[k], made, found = scan_bars(each[k], states[k], own, mark, alive, int(doubts[k]))
            expected_bars.append(made)
            expected_gaps += found
        assert bits(bars) == bits(concat(expected_bars))
        assert slot.tolist() == [k for k, made in enumerate(expected_bars) for _ in made.ts]
        assert gaps == expected_gaps
        assert [fingerprint(one) for one in many.states_of(state)] == [fingerprint(one) for one in states]


def test_most_prints_take_the_short_way():
    lanes, rng = many.lanes([params(0), params(1, contiguous=False)]), np.random.default_rng(1)
    state = many.abreast([bars_initial(), bars_initial()])
    for step in range(6):
        block = prints(rng, 100 + 5 * step, 5, (T0 + 2 * step) * NS, messy=False)
        slots = np.repeat([0, 1], 5)
        state, _, _, _ = many.scan_abreast(lanes, state, slots, concat([block, block]), T0 + 2 * step + 2)
    common = np.ones(2, bool)
    block = prints(rng, 130, 5, (T0 + 12) * NS, messy=False)
    ids, ns = np.tile(block.id, 2), np.tile(block.exchange_ns, 2)
    many._plan(lanes.contiguous, state.ends, state.pending.id, state.pending.exchange_ns, state.pending_at, state.holes_at,
               ids, ns, np.array([0, 5, 10]), T0 + 14, np.full(2, -1), common)  # fmt: skip
    assert common.all()


def test_a_turnover_that_does_not_fit_is_refused_with_its_instrument():
    lanes = many.lanes([params(0)])
    state = many.abreast([bars_initial(T0)])
    block = prints(np.random.default_rng(1), 1, 2, T0 * NS, messy=False)
    state, _, _, _ = many.scan_abreast(lanes, state, np.zeros(2, np.int64), block, T0 + 2)
    huge = block._replace(
        id=block.id + 2,
        exchange_ns=np.full(2, (T0 + 3) * NS),
        quote_cents=np.full(2, 2**62),
        side=np.ones(2, np.int8),
    )
    with pytest.raises(UsageError, match="v:0: the turnover of second"):
        many.scan_abreast(lanes, state, np.zeros(2, np.int64), huge, T0 + 4)


def random_bars(rng, n):
    columns = {name: rng.integers(0, 10**9, n).astype(dtype) for name, dtype in dtypes(Bars).items()}
    columns["ts"] = T0 + np.sort(rng.permutation(3 * n)[:n]) if n else np.empty(0, np.int64)
    columns["close"] = rng.integers(1, 10**9, n)
    columns["complete"] = rng.integers(0, 2, n).astype(np.uint8)
    return Bars(**columns)


@RANDOM
@given(seed=st.integers(0, 2**32), data=st.data())
def test_rows_of_many_are_those_of_each(seed, data):
    rng = np.random.default_rng(seed)
    slots = {f"v:{k}": k for k in range(6)}
    bars = {name: random_bars(rng, int(rng.integers(0, 30))) for name in slots}
    assets = []
    for _ in range(int(rng.integers(1, 4))):
        names = tuple(sorted(rng.choice([*slots, "v:absent"], int(rng.integers(1, 6)), replace=False).tolist()))
        sides = tuple(int(side) for side in rng.integers(0, 3, len(names)))
        perps = [k for k, side in enumerate(sides) if side == 2]
        assets.append(
            RowParams(
                traded=int(rng.integers(0, len(names))),
                basis_perp=int(rng.choice(perps)) if perps else -1,
                instruments=names,
                weights_ppm=tuple(int(w) for w in rng.choice([0, 1, 333_333, 1_000_000], len(names))),
                sides=sides,
                price_decimals=tuple(int(d) for d in rng.integers(0, 5, len(names))),
                config_rev=int(rng.integers(0, 2**62)),
                age_s_max=int(rng.integers(1, 20)),
            )
        )
    facts = []
    for _ in assets:
        at = [T0 - 5 + np.sort(rng.integers(0, 100, int(rng.integers(0, 8)))) for _ in range(3)]
        facts.append(
            (
                OpenInterestSeries(at[0], at[0], rng.integers(1, 10**9, len(at[0])), rng.integers(1, 300, len(at[0]))),
                FundingSeries(
                    at[1], at[1], rng.integers(-(10**7), 10**7, len(at[1])), rng.integers(0, 3, len(at[1])) * 14_400
                ),
                MarkSeries(at[2], rng.integers(0, 10**9, len(at[2]))),
            )
        )
    lanes = many.row_lanes(assets, slots)
    states = [rows_initial(one) for one in assets]
    state = many.rows_abreast(states)
    border = data.draw(st.integers(T0, T0 + 90))
    interest = many.known([list(zip(o.known_at, o.open_interest, o.interval_s, strict=True)) for o, _, _ in facts])
    funding = many.known([list(zip(f.known_at, f.rate, f.interval_s, strict=True)) for _, f, _ in facts])
    marks = many.known([[(at, mark, 0) for at, mark in zip(*m, strict=True)] for _, _, m in facts])
    for low, high in ((T0, border), (border, T0 + 100)):
        part = {
            name: Bars(*(column[(block.ts >= low) & (block.ts < high)] for column in block))
            for name, block in bars.items()
        }
        at = np.concatenate([[0], np.cumsum([len(part[name].ts) for name in slots])]).astype(np.int64)
        state, row_at, rows = many.scan_rows_abreast(
            lanes, state, concat([empty(Bars), *part.values()]), at, interest, funding, marks
        )
        for a, one in enumerate(assets):
            oi, paid, mark = facts[a]
            states[a], expected = scan_rows(one, states[a], part, oi, paid, mark)
            assert bits(cut(rows, row_at[a], row_at[a + 1])) == bits(expected)
            assert fingerprint(many.row_state_of(lanes, state, a)) == fingerprint(states[a])
