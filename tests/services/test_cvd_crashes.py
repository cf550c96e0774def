"""Whatever comes late, twice or in another order, and wherever the process ends: the tables and the messages are the same."""

from typing import Any

import numpy as np
import pytest

from squeezecore.adapters.store import Store, StoreError
from squeezecore.wire import AssetChange, RepairBatch
from support import flow_worlds as worlds
from support.flow_stage import Fuse, FusedKeep, Stage, check, on_stage, withheld


@pytest.fixture(scope="module")
def made() -> worlds.World:
    return worlds.world(seconds=16)


def test_without_any_trouble_nothing_is_repaired(store: Store, made: worlds.World) -> None:
    async def main():
        stage = Stage(store)
        await stage.configure(made)
        await stage.publish(worlds.events(made))
        assert await stage.live()
        return stage.last, await stage.flow()

    cvd, messages = on_stage(main())
    check(store, made, worlds.events(made), messages)
    begun = made.start_s + worlds.DOUBT_S  # before, seconds without a print were in doubt
    assert all(message.ts < begun for message in messages if isinstance(message, RepairBatch))
    assert cvd.flow.counts["late"] == 0


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


class Refusing(FusedKeep):
    """A store that takes its first writes only at the third try each."""

    tries = 0

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not name.startswith("put") or name == "put_gaps":  # that is part of `put`
            return found

        def refusing(*args: Any) -> Any:
            Refusing.tries += 1
            if Refusing.tries < 20 and Refusing.tries % 3:
                raise StoreError("the disk is full")
            return found(*args)

        return refusing


def test_a_store_that_takes_nothing_for_a_while_is_waited_for(
    store: Store, made: worlds.World, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = withheld(worlds.events(made), np.random.default_rng(2), 0.02, 4.0)

    async def main():
        stage = Stage(store)
        await stage.configure(made)
        await stage.publish(stream)
        assert await stage.live(keep=Refusing)
        return stage.last, await stage.flow()

    cvd, messages = on_stage(main())
    check(store, made, worlds.events(made), messages)
    assert Refusing.tries > 20
    assert "the disk is full" in capsys.readouterr().out
    assert cvd.last_error == ""  # it is over


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
