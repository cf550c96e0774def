"""Whatever comes late, twice or in another order, and wherever the process ends: the tables and the messages are the same."""

import numpy as np
import pytest

from squeezecore import flow
from squeezecore.adapters.store import Store
from squeezecore.market import Bars, MarkSeries, Rows
from squeezecore.wire import AssetChange, RepairBatch, RowBatch
from support import flow_worlds as worlds
from support.flow_stage import Fuse, Stage, on_stage, withheld
from support.store import assert_equal

CONTENT = [name for name in Bars._fields if name != "version"]


@pytest.fixture(scope="module")
def made() -> worlds.World:
    return worlds.world(seconds=16)


def same_bars(one: Bars, other: Bars) -> None:
    """Assert that bars are equal but for how often they were repaired."""
    assert_equal(other._replace(version=one.version), one)
    assert (one.version >> np.uint64(32)).tolist() == one.complete.tolist()


def rows_of_bars(store: Store, made: worlds.World, bars: dict[str, Bars]) -> dict[str, Rows]:
    """Scan rows from bars and stored facts, as a rebuild would."""
    found = {}
    for asset, config in made.configs.items():
        params = flow.row_params(config, made.instruments)
        facts = (
            store.read_open_interest(config.traded, 0, 2**32 - 1),
            store.read_funding(config.traded, 0, 2**32 - 1),
            MarkSeries(*store.read_marks(config.traded, 0, 2**32 - 1)),
        )
        _, found[asset] = flow.scan_rows(params, flow.rows_initial(params), bars, *facts)
    return found


def check(store: Store, made: worlds.World, stream, messages) -> None:
    """Tables hold the truth; messages lead to the tables, and say each second's first rows once."""
    bars = {name: store.read_bars(name, 0, 2**40) for name in made.instruments}
    for name, expected in worlds.true_bars(made, stream).items():
        same_bars(bars[name], expected)
    rows = rows_of_bars(store, made, bars)
    seen: dict[tuple[str, int], Rows] = {}
    firsts: dict[int, RowBatch] = {}
    for message in messages:
        if isinstance(message, RowBatch):
            assert message.ts not in firsts
            assert not firsts or message.ts > max(firsts)
            firsts[message.ts] = message
        if isinstance(message, RowBatch | RepairBatch):
            for at, asset in enumerate(message.assets):
                seen[asset, message.ts] = worlds.pick(message.rows, np.arange(at, at + 1))
    for asset, expected in rows.items():
        stored = store.read_rows(asset, 0, 2**40)
        assert_equal(expected, stored)
        for at, ts in enumerate(stored.ts.tolist()):
            assert_equal(worlds.pick(stored, np.arange(at, at + 1)), seen[asset, ts])
        old, _ = store.read_rows_superseded(asset, 0, 2**40)
        for ts in np.unique(old.ts).tolist():
            first = firsts[ts]
            own = worlds.pick(first.rows, np.array([name == asset for name in first.assets]))
            assert_equal(own, worlds.pick(old, np.flatnonzero(old.ts == ts)[:1]))


def test_without_any_trouble_nothing_is_repaired(store: Store, made: worlds.World) -> None:
    async def main():
        stage = Stage(store)
        await stage.configure(made)
        await stage.publish(worlds.events(made))
        assert await stage.live()
        return stage.last, await stage.flow()

    cvd, messages = on_stage(main())
    check(store, made, worlds.events(made), messages)
    assert cvd.repaired == 0
    assert not [message for message in messages if isinstance(message, RepairBatch)]


def test_late_prints_are_repaired(store: Store, made: worlds.World) -> None:
    stream = withheld(worlds.events(made), np.random.default_rng(1), 0.05, 6.0)

    async def main():
        stage = Stage(store)
        await stage.configure(made)
        await stage.publish(stream)
        assert await stage.live()
        return stage.last, await stage.flow()

    cvd, messages = on_stage(main())
    check(store, made, worlds.events(made), messages)
    assert cvd.repaired > 0
    assert all(gap.state == "filled" for gap in store.gaps())


@pytest.mark.parametrize("seed", range(8))
def test_an_end_between_any_two_effects_changes_nothing(store: Store, made: worlds.World, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = worlds.events(made, {"spot": 0.2, "inverse": 2.0})
    stream = withheld(truth, rng, float(rng.choice([0.0, 0.02])), 4.0, made.start_s + 4.0)
    cuts = sorted(rng.integers(0, len(stream), int(rng.integers(1, 5))).tolist())
    fuses = [(int(rng.integers(0, 14)), bool(rng.random() < 0.5)) for _ in range(len(cuts) + 1)]

    async def main():
        stage = Stage(store)
        await stage.configure(made)
        at = 0
        for cut, (left, after) in zip(cuts, fuses, strict=False):
            await stage.publish(stream[at:cut])
            at = max(at, cut)
            await stage.live(Fuse(left, after=after))
        await stage.publish(stream[at:])
        await stage.live(Fuse(fuses[-1][0], after=fuses[-1][1]))
        assert await stage.live()
        return await stage.flow()

    messages = on_stage(main())
    check(store, made, truth, messages)
    assert len([each for each in messages if isinstance(each, AssetChange)]) >= len(made.configs)
