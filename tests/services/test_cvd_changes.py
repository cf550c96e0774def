"""cvd when things change: a feed dies and lives again, the list of assets, the code, the stream itself."""

import msgspec
import numpy as np
import pytest

from squeezecore.adapters import flowstore
from squeezecore.adapters.store import Store
from squeezecore.errors import UsageError
from squeezecore.market import PPM, Watermark
from squeezecore.spec import AssetConfig, MarketConfig
from squeezecore.wire import AssetChange, RepairBatch, RowBatch, TradeBatch
from support import flow_worlds as worlds
from support.flow_stage import Stage, check, on_stage, rows_of_bars, same_bars

SPOT, PERP, COIN = "binance:BTC-USDT", "binance:BTC-USDT-PERP", "binance:BTC-USD-PERP"


@pytest.fixture(scope="module")
def made() -> worlds.World:
    return worlds.world(("BTC",), seconds=40)


def is_of(event: worlds.Event, section: str) -> bool:
    return isinstance(event.message, TradeBatch | Watermark) and event.message.feed == section


def mark(section: str, at_s: float, *, connection: int = 1, alive: bool = True) -> Watermark:
    return Watermark(venue="binance", feed=section, connection=connection, exchange_ns=round(at_s * 10**9), alive=alive)


def outage(made: worlds.World, start_s: int, end_s: int, *, said: bool) -> list[worlds.Event]:
    """Spot falls silent, is called dead where `said`, comes back on a new connection, and what it missed comes after."""
    stream = []
    for event in worlds.events(made):
        if not is_of(event, "spot") or event.at < start_s:
            stream.append(event)
        elif event.at < end_s:
            if isinstance(event.message, TradeBatch):
                stream.append(worlds.Event(end_s + 3 + (event.at - start_s) / 100, event.message))
            elif said and event.at > start_s + 5:
                stream.append(worlds.Event(event.at, msgspec.structs.replace(event.message, alive=False)))
        elif isinstance(event.message, Watermark):
            stream.append(worlds.Event(event.at, msgspec.structs.replace(event.message, connection=2)))
        else:
            stream.append(event)
    return sorted(stream, key=lambda event: event.at)


@pytest.mark.parametrize("said", [True, False])
def test_a_feed_that_was_away_is_incomplete_and_whole_again_once_its_prints_came(
    store: Store, made: worlds.World, said: bool
) -> None:
    start_s, end_s = made.start_s + 8, made.start_s + 22
    stream = outage(made, start_s, end_s, said=said)

    async def main():
        stage = Stage(store)
        await stage.configure(made)
        before = [event for event in stream if event.at < end_s]
        await stage.publish(before)
        assert await stage.live()
        middle = stage.last.status(), stage.last.flow.decided_s, store.read_rows("BTC", 0, 2**40)
        await stage.publish(stream[len(before) :])
        assert await stage.live()
        return middle, await stage.flow()

    (status, decided_s, rows), messages = on_stage(main())
    if said:  # seconds close without it, and say so
        assert decided_s > start_s + 10
        assert status["state"] == "RUNNING"
        quality = rows.quality_ppm[rows.ts >= start_s]
        assert (quality < PPM).all()
        assert (quality > PPM // 2).all()
    else:  # nothing is known of its time, so time stands still
        assert decided_s <= start_s
        assert status["state"] == "WAITING FOR binance/spot"
    check(store, made, worlds.events(made), messages)
    gaps = store.gaps()
    assert {gap.cause for gap in gaps} >= ({"feed not alive"} if said else set())
    assert {gap.state for gap in gaps} <= {"filled"}


def test_a_new_list_takes_effect_at_a_whole_minute_and_stands_in_every_row(store: Store) -> None:
    made = worlds.world(seconds=100)
    first = {"BTC": AssetConfig(traded=PERP, markets=(MarketConfig(instrument=SPOT), MarketConfig(instrument=PERP)))}
    second = {
        "BTC": AssetConfig(
            traded=PERP, markets=(MarketConfig(instrument=PERP), MarketConfig(instrument=COIN, weight_ppm=250_000))
        ),
        "ETH": made.configs["ETH"],
    }
    stream = worlds.events(made)
    border = made.start_s + 60

    async def main():
        stage = Stage(store)
        await stage.configure(made, first)
        before = [event for event in stream if event.at < made.start_s + 30]
        await stage.publish(before)
        assert await stage.live()
        await stage.configure(made, second)
        for n in range(len(before), len(stream), 50):
            await stage.publish(stream[n : n + 50])
            assert await stage.live()
        return await stage.flow()

    messages = on_stage(main())
    changes = [message for message in messages if isinstance(message, AssetChange)]
    assert [(each.asset, each.from_ts, each.config) for each in changes] == [
        ("BTC", 0, first["BTC"]), ("BTC", border, second["BTC"]), ("ETH", border, second["ETH"]),
    ]  # fmt: skip
    assert flowstore.asset_changes(store) == changes
    rows = store.read_rows("BTC", 0, 2**40)
    expected = np.where(rows.ts < border, first["BTC"].revision(), second["BTC"].revision())
    assert rows.config_rev.tolist() == expected.tolist()
    assert np.diff(rows.ts).tolist() == [1] * (len(rows.ts) - 1)
    before, after = rows.ts < border, rows.ts >= border
    assert (rows.spot_volume[before] > 0).any()
    assert (rows.spot_volume[after] == 0).all()
    eth = store.read_rows("ETH", 0, 2**40)
    assert int(eth.ts[0]) == border
    # What a rebuild with each configuration gives, is what live gave.
    bars = {name: store.read_bars(name, 0, 2**40) for name in made.instruments}
    for configs, at in ((first, before), (second, after)):
        anew = rows_of_bars(store, made._replace(configs={"BTC": configs["BTC"]}), bars)["BTC"]
        at_s = worlds.pick(anew, np.isin(anew.ts, rows.ts[at]))
        for name in ("spot_delta", "perp_delta", "perp_volume", "quality_ppm", "mark", "open_interest", "oi_known_at"):
            assert getattr(at_s, name).tolist() == getattr(rows, name)[at].tolist(), name


def test_an_asset_that_is_no_longer_watched_ends_at_a_minute(store: Store) -> None:
    made = worlds.world(seconds=90)
    stream = worlds.events(made)

    async def main():
        stage = Stage(store)
        await stage.configure(made)
        await stage.publish([event for event in stream if event.at < made.start_s + 30])
        assert await stage.live()
        await stage.configure(made, {"BTC": made.configs["BTC"]})
        await stage.publish([event for event in stream if event.at >= made.start_s + 30])
        assert await stage.live()
        return [message for message in await stage.flow() if isinstance(message, RowBatch)]

    for batch in on_stage(main()):
        assert batch.assets == (("BTC", "ETH") if batch.ts < made.start_s + 60 else ("BTC",))


def test_other_code_goes_on_from_the_stored_bars(store: Store, made: worlds.World) -> None:
    stream = worlds.events(made, {"spot": 0.2, "inverse": 2.0})

    async def main():
        stage = Stage(store)
        await stage.configure(made)
        for n, code in enumerate(("old", "new", "newer")):
            stage.code = code
            await stage.publish(stream[len(stream) * n // 3 : len(stream) * (n + 1) // 3])
            assert await stage.live()
        return await stage.flow()

    check(store, made, stream, on_stage(main()))


def test_a_stream_that_was_made_anew_is_refused_until_it_is_told_to_go_on(store: Store, made: worlds.World) -> None:
    stream = worlds.events(made)
    half = len(stream) // 2

    async def main():
        stage = Stage(store)
        await stage.configure(made)
        await stage.publish(stream[:half])
        assert await stage.live()
        stage.server.make_anew("MD")
        await stage.publish(stream[half:])
        with pytest.raises(ExceptionGroup) as caught:
            await stage.live()
        assert await stage.live(from_bars=True)
        assert await stage.live()  # the next start is an ordinary one
        return caught.value

    refused = on_stage(main()).exceptions[0]
    assert isinstance(refused, UsageError)
    assert "SQUEEZE_FROM_BARS=true" in str(refused)
    truth = worlds.true_bars(made, stream)
    for name, expected in truth.items():
        same_bars(store.read_bars(name, 0, 2**40), expected)


def test_facts_that_come_late_are_used_from_the_second_that_is_open_and_stored_so(
    store: Store, made: worlds.World
) -> None:
    stream = [
        worlds.Event(event.at if isinstance(event.message, TradeBatch | Watermark) else event.at + 6.5, event.message)
        for event in worlds.events(made)
    ]
    stream.sort(key=lambda event: event.at)

    async def main():
        stage = Stage(store)
        await stage.configure(made)
        for n in range(0, len(stream), 40):
            await stage.publish(stream[n : n + 40])
            assert await stage.live()
        return await stage.flow()

    messages = on_stage(main())
    check(store, made, worlds.events(made), messages)
    assert not [message for message in messages if isinstance(message, RepairBatch)]
    interest = store.read_open_interest(PERP, 0, 2**32 - 1)
    assert (interest.known_at - interest.event_ts > 2).any()


def test_minutes_are_rolled_up_and_again_after_a_repair(store: Store) -> None:
    made = worlds.world(("BTC",), seconds=130)
    stream = outage(made, made.start_s + 20, made.start_s + 70, said=True)

    async def main():
        stage = Stage(store)
        await stage.configure(made)
        await stage.publish(stream)
        assert await stage.live()

    on_stage(main())
    minute = store.read_rollup("bars_1m", SPOT, 0, 2**32 - 1)
    bars = worlds.true_bars(made, worlds.events(made))[SPOT]
    for at in range(2):
        inside = (bars.ts >= made.start_s + 60 * at) & (bars.ts < made.start_s + 60 * at + 60)
        assert minute["ts"][at].as_py() == made.start_s + 60 * at
        assert minute["buy_volume"][at].as_py() == int(bars.buy_volume[inside].sum())
        assert minute["complete"][at].as_py() == int(bars.complete[inside].sum())
    assert minute.num_rows == 2


@pytest.mark.parametrize("seconds", [10, 200])
def test_weights_by_turnover_hold_from_a_minute_after_midnight_however_much_comes_at_once(
    store: Store, seconds: int
) -> None:
    midnight = worlds.START - 3600
    made = worlds.world(("BTC",), seconds=150, start_s=midnight - 75)

    async def main():
        stage = Stage(store)
        await stage.configure(made)
        for at in range(0, 200, seconds):
            part = [e for e in worlds.events(made) if at - 10 <= e.at - made.start_s < at + seconds - 10]
            await stage.publish(part)
            assert await stage.live(shares=True)
        return [message for message in await stage.flow() if isinstance(message, AssetChange)]

    changes = on_stage(main())
    assert [change.from_ts for change in changes] == [0, midnight + 60]
    weights = {market.instrument: market.weight_ppm for market in changes[1].config.markets}
    hours = {name: store.read_rollup("bars_1h", name, midnight - 86_400, midnight) for name in made.instruments}
    turnover = {
        name: sum(bars["buy_usd_cents"].to_pylist()) + sum(bars["sell_usd_cents"].to_pylist())
        for name, bars in hours.items()
    }
    assert weights[SPOT] == PPM
    assert weights[PERP] + weights[COIN] == pytest.approx(PPM, abs=1)
    assert weights[PERP] / weights[COIN] == pytest.approx(turnover[PERP] / turnover[COIN], rel=1e-3)
    rows = store.read_rows("BTC", 0, 2**40)
    revisions = [change.config.revision() for change in changes]
    assert rows.config_rev.tolist() == [revisions[int(ts >= midnight + 60)] for ts in rows.ts.tolist()]


def test_rows_do_not_wait_for_ever_for_a_feed_that_has_never_spoken(store: Store, made: worlds.World) -> None:
    stream = worlds.events(made, {"inverse": 18.0})

    async def main():
        stage = Stage(store)
        await stage.configure(made)
        before = [event for event in stream if event.at < made.start_s + 17]
        await stage.publish(before)
        assert await stage.live()
        first = stage.last.flow.decided_s, store.read_rows("BTC", 0, 2**40)
        await stage.publish(stream[len(before) :])
        assert await stage.live()
        return first, await stage.flow()

    (decided_s, rows), messages = on_stage(main())
    assert decided_s >= made.start_s + 10
    assert (rows.quality_ppm < PPM).all()
    check(store, made, stream, messages)
