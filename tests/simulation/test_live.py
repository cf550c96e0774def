"""Whatever happens to the live loop, the tables hold the truth in the end and no order is lost or doubled.

A failure names its seed; `python -m tests.soak --seed N` lives through it again.
"""

import msgspec
import numpy as np
import pytest

from simulation import live
from squeezecore.adapters.store import Store
from support import flow_worlds, memory_store, virtual
from support.flow_stage import Stage, withheld
from support.store import assert_equal

SEEDS, CHUNK = 96, 8  # `make soak` lives through a thousand


def lived(first: int, count: int) -> list[live.Outcome]:
    """Live through some schedules; every one that went wrong is named with the command that replays it."""
    found, wrong = [], {}
    for seed in range(first, first + count):
        try:
            outcome = live.run(seed)
        except Exception as error:  # noqa: BLE001 - the other seeds are lived through, too
            wrong[live.replay(seed)] = f"{type(error).__name__}: {error}"
            continue
        found.append(outcome)
        if outcome.wrong:
            wrong[live.replay(seed)] = outcome.wrong
    assert wrong == {}
    return found


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_whatever_happens_nothing_is_lost_or_doubled(first: int) -> None:
    found = lived(first, CHUNK)
    # A schedule in which nobody trades or nothing breaks proves little.
    assert sum(outcome.orders > 1 for outcome in found) > CHUNK // 4
    assert sum(outcome.fills for outcome in found) > 3 * CHUNK
    assert sum(outcome.crashes for outcome in found) > CHUNK
    assert any(outcome.repaired for outcome in found)


@pytest.mark.parametrize("seed", range(3))
def test_without_trouble_nothing_is_repaired(seed: int) -> None:
    outcome = live.run(seed, calm=True)
    assert outcome.wrong == ""
    assert outcome.orders > 1
    assert (outcome.repaired, outcome.crashes) == (0, 0)


def test_a_seed_is_the_same_schedule_every_time() -> None:
    assert live.run(4) == live.run(4)


def a_print_gone(world: live.World) -> None:
    prints = world.store.trades[live.SPOT]
    del prints[sorted(prints)[len(prints) // 2]]


def another_volume(world: live.World) -> None:
    bars = world.store.read_bars(live.LINEAR, world.start_s + 9, world.start_s + 10)
    world.store.insert_bars(
        live.LINEAR, bars._replace(buy_volume=bars.buy_volume + 1, version=bars.version + np.uint64(1))
    )


def an_order_that_nobody_wrote_down(world: live.World) -> None:
    world.venue_orders["sf-planted"] = 1


def a_fill_at_another_price(world: live.World) -> None:
    fills = world.memory.tables["fills"]
    key = min(fills)
    fills[key] = msgspec.structs.replace(fills[key], price=fills[key].price + 100)


def a_decision_gone(world: live.World) -> None:
    decisions = world.memory.tables["decisions"]
    del decisions[min(decisions)]


SPOILS = {
    "prints of": a_print_gone,
    "bars of": another_volume,
    "written down": an_order_that_nobody_wrote_down,
    "fills differ": a_fill_at_another_price,
    "decisions differ": a_decision_gone,
}


@pytest.mark.parametrize("word", SPOILS)
def test_what_is_wrong_in_the_end_is_found(word: str) -> None:
    assert word in live.run(4, calm=True, spoil=SPOILS[word]).wrong


@pytest.mark.soak
@pytest.mark.parametrize("first", range(SEEDS, SEEDS + 1_000, 20))
def test_a_thousand_schedules(first: int) -> None:
    lived(first, 20)


@pytest.mark.parametrize("seed", range(2))
def test_tables_in_memory_are_like_those_of_the_store(store: Store, seed: int) -> None:
    made = flow_worlds.world(("BTC",), seconds=14, seed=seed)
    stream = withheld(flow_worlds.events(made), np.random.default_rng(seed), 0.1, 6.0)

    async def main(stage: Stage) -> None:
        await stage.configure(made)
        await stage.publish(stream)
        assert await stage.live()

    real, memory = Stage(store), memory_store.MemoryStore()
    virtual.run(main(real))
    twin = Stage(memory)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("support.flow_stage.FusedKeep", lambda kept, code, _fuse: memory_store.MemoryKeep(kept, code))
        virtual.run(main(twin))
    for name in made.instruments:
        assert_equal(store.read_bars(name, 0, 2**32), memory.read_bars(name, 0, 2**32))
        ids = [np.sort(each.prints(name, 0, 2**32).id) for each in (real.last._keep, memory)]
        np.testing.assert_array_equal(*ids)
    assert_equal(store.read_rows("BTC", 0, 2**32), memory.read_rows("BTC", 0, 2**32))
    for one, other in zip(
        store.read_rows_superseded("BTC", 0, 2**32), memory.read_rows_superseded("BTC", 0, 2**32), strict=True
    ):
        for a, b in zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]:
            np.testing.assert_array_equal(a, b)
    traded = made.configs["BTC"].traded
    assert_equal(store.read_open_interest(traded, 0, 2**32), memory.read_open_interest(traded, 0, 2**32))
    assert_equal(store.read_funding(traded, 0, 2**32), memory.read_funding(traded, 0, 2**32))
    for one, other in zip(store.read_marks(traded, 0, 2**32), memory.read_marks(traded, 0, 2**32), strict=True):
        np.testing.assert_array_equal(one, other)
    assert store.gaps() == memory.gaps()
    last_s = int(store.read_bars(traded, 0, 2**32).ts[-1])
    told = real.last._keep.presence(last_s - 10, last_s + 1)
    assert told == memory_store.MemoryKeep(memory, "code").presence(last_s - 10, last_s + 1)
    assert set(told) == set(made.instruments)
