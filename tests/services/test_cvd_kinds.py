"""cvd where stored seconds, a state or the stream hold prints of another kind: neither's ids say anything of the other's."""

import numpy as np
import pytest

from squeezecore import flow
from squeezecore.adapters.store import Store
from squeezecore.market import Bars, IdKind, TradeFlag
from squeezecore.venues import Feed as Stream
from squeezecore.wire import TradeBatch
from support import flow_worlds as worlds
from support.flow_stage import Stage, on_stage
from support.store import assert_equal

KINDS = {Stream.AGGREGATE: IdKind.AGGREGATE, Stream.TRADE: IdKind.TRADE}
OTHER = {Stream.AGGREGATE: Stream.TRADE, Stream.TRADE: Stream.AGGREGATE}
APART = 10**9  # single trades' ids are so much larger
CONTENT = set(Bars._fields) - {"complete", "version"}
BOTH = pytest.mark.parametrize("stream", KINDS)


@pytest.fixture(scope="module")
def made() -> worlds.World:
    return worlds.world(("BTC",), seconds=40)


def as_kind(event: worlds.Event, stream: Stream) -> worlds.Event:
    """Say an event as a feed of single trades, or of aggregates, would."""
    batch = event.message
    if not isinstance(batch, TradeBatch) or stream is Stream.AGGREGATE:
        return event
    blocks = tuple(b._replace(id=b.id + APART, flags=b.flags | np.uint8(TradeFlag.SINGLE)) for b in batch.trades)
    return event._replace(message=batch._replace(trades=blocks))


def bars_of(made: worlds.World, name: str, stream: Stream, start_s: int, end_s: int) -> Bars:
    """Make an instrument's seconds as they would be counted, all whole."""
    params = flow.bar_params(made.instruments[name], KINDS[stream])
    block = made.trades[name]
    block = block if stream is Stream.AGGREGATE else block._replace(id=block.id + APART)
    _, bars, _ = flow.scan_bars(params, flow.bars_initial(made.start_s), block, made.end_s)
    return worlds.pick(bars, (bars.ts >= start_s) & (bars.ts < end_s))


def check(made: worlds.World, name: str, stored: Bars, stream: Stream, begun_s: int) -> None:
    """From `begun_s` on every second holds its prints; whole it is after the first of them."""
    truth = bars_of(made, name, stream, begun_s, int(stored.ts[-1]) + 1)
    after = worlds.pick(stored, stored.ts >= begun_s)
    assert after.ts.tolist() == truth.ts.tolist()
    with_prints = np.flatnonzero(truth.first_id >= 0)
    assert len(with_prints) > 5
    first = with_prints[0]
    for column in CONTENT:
        got, want = getattr(after, column), getattr(truth, column)
        np.testing.assert_array_equal(got[first + 1 :], want[first + 1 :], f"{name} {column}")
    assert after.complete[first + 1 : with_prints[-1]].all()


def archive(store: Store, made: worlds.World, stream: Stream, until_s: int) -> dict[str, Bars]:
    """Store seconds as an import would, and no prints of them."""
    bars = {name: bars_of(made, name, stream, made.start_s, until_s) for name in made.instruments}
    for name, block in bars.items():
        store.insert_bars(name, block)
    return bars


@BOTH
def test_an_archive_of_the_other_kind_is_gone_on_from(store: Store, made: worlds.World, stream: Stream) -> None:
    middle, joined = made.start_s + 15, made.start_s + 19
    events = [as_kind(event, stream) for event in worlds.events(made) if event.at >= joined + 3]

    async def main():
        stage = Stage(store)
        stored = archive(store, made, OTHER[stream], middle)
        await stage.configure(made)
        await stage.publish(events)
        assert await stage.live(stream=stream)
        return stored

    for name, before in on_stage(main()).items():
        bars = store.read_bars(name, 0, 2**40)
        assert_equal(before, worlds.pick(bars, bars.ts < middle))
        blind = (bars.ts >= middle) & (bars.ts < joined)  # nobody heard these
        assert blind.sum() == joined - middle
        assert not bars.complete[blind].any()
        check(made, name, bars, stream, joined + 3)


@BOTH
def test_a_stream_that_reaches_back_behind_the_archive_leaves_no_second_out(
    store: Store, made: worlds.World, stream: Stream
) -> None:
    middle = made.start_s + 15

    async def main():
        stage = Stage(store)
        stored = archive(store, made, OTHER[stream], middle)
        await stage.configure(made)
        await stage.publish([as_kind(event, stream) for event in worlds.events(made)])
        assert await stage.live(stream=stream)
        return stored

    for name, before in on_stage(main()).items():
        bars = store.read_bars(name, 0, 2**40)
        assert_equal(before, worlds.pick(bars, bars.ts < middle))
        check(made, name, bars, stream, middle)


def test_between_an_archive_and_prints_that_came_days_later_there_are_no_seconds(store: Store) -> None:
    made = worlds.world(("BTC",), seconds=30)
    old = made._replace(start_s=made.start_s - 100 * 86_400)

    async def main():
        stage = Stage(store)
        for name in made.instruments:
            bars = bars_of(made, name, Stream.TRADE, made.start_s, made.end_s)
            store.insert_bars(name, bars._replace(ts=bars.ts - (made.start_s - old.start_s)))
        await stage.configure(made)
        await stage.publish(worlds.events(made))
        assert await stage.live()

    on_stage(main())
    for name in made.instruments:
        bars = store.read_bars(name, made.start_s - 86_400, 2**40)
        assert int(bars.ts[0]) == int(made.trades[name].exchange_ns[0]) // worlds.NS
        check(made, name, bars, Stream.AGGREGATE, int(bars.ts[0]))


@BOTH
def test_a_state_of_another_setting_is_not_gone_on_from(store: Store, made: worlds.World, stream: Stream) -> None:
    middle = made.start_s + 20
    events = worlds.events(made)
    before = [as_kind(event, OTHER[stream]) for event in events if event.at < middle]
    after = [as_kind(event, stream) for event in events if event.at >= middle]

    async def main():
        stage = Stage(store)
        await stage.configure(made)
        await stage.publish(before)
        assert await stage.live(stream=OTHER[stream])
        stored = {name: store.read_bars(name, 0, 2**40) for name in made.instruments}
        await stage.publish(after)
        assert await stage.live(stream=stream)
        assert await stage.live(stream=stream)  # and the next start is an ordinary one
        return stored, stage.last.flow

    stored, state = on_stage(main())
    assert state.stream is stream
    for name, old in stored.items():
        bars = store.read_bars(name, 0, 2**40)
        assert_equal(old, worlds.pick(bars, bars.ts <= old.ts[-1]))
        assert set(bars.id_kind[bars.ts > old.ts[-1]].tolist()) == {KINDS[stream]}
        check(made, name, bars, stream, middle + 1)
        blind = (bars.ts > old.ts[-1]) & (bars.ts < middle - 1)
        assert not bars.complete[blind].any()


@BOTH
def test_prints_of_another_kind_make_no_second_whole_and_are_not_counted(
    store: Store, made: worlds.World, stream: Stream
) -> None:
    start_s, end_s = made.start_s + 12, made.start_s + 24
    events = [as_kind(event, OTHER[stream] if start_s <= event.at < end_s else stream) for event in worlds.events(made)]

    async def main():
        stage = Stage(store)
        await stage.configure(made)
        await stage.publish(events)
        assert await stage.live(stream=stream)
        return stage.last

    cvd = on_stage(main())
    assert cvd.flow.counts["foreign"] > 100
    assert cvd.status()["errors"] == cvd.flow.counts["foreign"]
    for name in made.instruments:
        bars = store.read_bars(name, 0, 2**40)
        foreign = (bars.ts >= start_s) & (bars.ts < end_s - 1)
        assert not bars.complete[foreign].any()
        assert set(bars.id_kind.tolist()) == {KINDS[stream]}
        check(made, name, bars, stream, end_s + 1)
