"""The flow's state machine: what comes out is what the kernels say of the truth, wherever the messages are cut."""

import numpy as np
import pytest

from squeeze_cvd.flowing import Flow
from squeeze_cvd.freezing import freeze, thaw
from squeezecore.market import Bars, Rows, concat, empty
from squeezecore.wire import AssetChange, TradeBatch
from support import flow_worlds as worlds
from support.store import assert_equal


def begin(made):
    state = Flow()
    state.change([AssetChange(asset=name, from_ts=0, config=c) for name, c in made.configs.items()], made.instruments)
    return state


class Outcome:
    """All effects of a run, by name."""

    def __init__(self):
        self.bars, self.rows, self.batches, self.gaps, self.facts = {}, {}, [], [], []

    def add(self, effects):
        for names, index, block in effects.bars:
            for k in np.unique(index).tolist():
                self.bars.setdefault(names[k], []).append(worlds.pick(block, index == k))
        for names, index, block in effects.stored:
            for k in np.unique(index).tolist():
                self.rows.setdefault(names[k], []).append(worlds.pick(block, index == k))
        self.batches += effects.rows
        self.gaps += effects.gaps
        self.facts.append((effects.interest, effects.funding, effects.marks))

    def all_bars(self, name):
        return concat([empty(Bars), *self.bars.get(name, [])])

    def all_rows(self, name):
        return concat([empty(Rows), *self.rows.get(name, [])])


def run(state, stream, cuts=()):
    out = Outcome()
    for seq, event in enumerate(stream, 1):
        state.take(event.message, seq)
        if seq in cuts or seq == len(stream):
            state.decide()
            out.add(state.effects())
            state = thaw(freeze(state))
            out.add(state.effects())
    return state, out


@pytest.fixture(scope="module")
def made():
    return worlds.world()


def check(made, stream, out):
    bars = worlds.true_bars(made, stream)
    for name, expected in bars.items():
        assert_equal(expected, out.all_bars(name))
    rows = worlds.true_rows(made, bars)
    for asset, expected in rows.items():
        assert len(expected.ts) > 10
        assert_equal(expected, out.all_rows(asset))
    assert [batch.ts for batch in out.batches] == sorted({int(ts) for block in rows.values() for ts in block.ts})
    for batch in out.batches:
        assert list(batch.assets) == sorted(batch.assets)
        for at, asset in enumerate(batch.assets):
            assert_equal(
                worlds.pick(rows[asset], rows[asset].ts == batch.ts), worlds.pick(batch.rows, np.arange(at, at + 1))
            )


@pytest.mark.parametrize("delays", [{}, {"spot": 1.7, "inverse": 4.2}])
def test_bars_and_rows_are_those_of_the_kernels(made, delays):
    stream = worlds.events(made, delays)
    _, out = run(begin(made), stream)
    check(made, stream, out)


@pytest.mark.parametrize("seed", range(8))
def test_a_cut_a_freeze_and_a_thaw_anywhere_are_invisible(made, seed):
    rng = np.random.default_rng(seed)
    stream = worlds.events(made, {"spot": 0.1, "linear": 0.5, "inverse": float(rng.random() * 3)}, every_s=0.5)
    _, out = run(begin(made), stream, set(rng.integers(1, len(stream), 12).tolist()))
    check(made, stream, out)


@pytest.mark.parametrize("seed", range(3))
def test_batches_that_come_twice_and_in_another_order_change_nothing(made, seed):
    rng = np.random.default_rng(seed)
    ordered = worlds.events(made)
    stream = []
    for event in ordered:
        if isinstance(event.message, TradeBatch):  # a watermark is two seconds behind
            stream += [worlds.Event(event.at + 1.5 * float(rng.random()), event.message)] * int(rng.integers(1, 3))
        else:
            stream.append(event)
    stream.sort(key=lambda event: event.at)
    state, out = run(begin(made), stream)
    check(made, stream, out)
    for name, expected in worlds.true_bars(made, ordered, proved=True).items():
        found = out.all_bars(name)
        for column in set(Bars._fields) - {"complete", "version"}:
            assert getattr(found, column).tolist() == getattr(expected, column).tolist()
    assert state.counts["late"] == 0
