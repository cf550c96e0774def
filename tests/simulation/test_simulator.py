"""Simulated worlds: the same bytes for the same spec, exact accounting, and an edge only where one was planted."""

import datetime as dt
import hashlib
import itertools

import msgspec
import numpy as np
import pytest

from laws.market_statistics import Tape, acf, orders_of, seconds_of, top_share
from squeezecore import flow, squeeze
from squeezecore.errors import UsageError
from squeezecore.exchange import round_trip_cost
from squeezecore.market import DAY_S, IdKind, Instrument, Margin, Rows, Trades, concat, cut, dtypes, empty
from squeezecore.simulator import (
    PROFILES,
    MarketDay,
    WorldSpec,
    asset_config,
    instruments,
    regimes,
    simulate_day,
    simulate_rows,
    simulate_trades,
    wire_frames,
)
from squeezecore.simulator.facts import open_interest_truth, publish_funding
from squeezecore.simulator.noise import exp, key, normal, uniform
from squeezecore.spec import Costs, day_start_s
from squeezecore.squeeze import F_WARM, PHASE_SHIFT, SqueezeParams
from squeezecore.trading import Direction
from squeezecore.venues import binance

DAY = dt.date(2026, 1, 1)
WORLD = WorldSpec(seed=7, start=DAY, days=3, assets=("BTC", "ETH"))
NOON_S = day_start_s(DAY) + 43_200


def same(a: tuple, b: tuple) -> bool:
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


def digest_of(day: MarketDay) -> str:
    state = hashlib.blake2b(digest_size=16)
    for block in (*day.bars.values(), day.open_interest, day.funding, day.rows):
        for column in block:
            state.update(np.ascontiguousarray(column).astype("<i8").tobytes())
    return state.hexdigest()


# --- the same bytes ---


@pytest.mark.parametrize(("kind", "asset"), [("squeeze", "BTC"), ("noise", "ETH")])
def test_a_world_has_the_same_bytes_on_every_machine(kind, asset):
    # A change of the calibration changes these; nothing else may.
    expected = {
        ("squeeze", "BTC"): "f0e81af54b2366197352238f07e571a2",
        ("noise", "ETH"): "0f656c63e0175e27ddfe7a73d84f8f60",
    }
    assert digest_of(simulate_day(WorldSpec(seed=7, start=DAY, kind=kind), asset, DAY)) == expected[kind, asset]


def test_a_day_does_not_depend_on_where_the_world_begins():
    later = WorldSpec(seed=7, start=DAY + dt.timedelta(1), days=1, assets=("BTC",))
    (alone,) = simulate_rows(later, "BTC")
    among = list(simulate_rows(WORLD, "BTC"))[1]
    assert alone.day == among.day
    assert digest_of(alone) == digest_of(among)


def test_seeds_and_kinds_make_different_worlds():
    made = [
        digest_of(simulate_day(WorldSpec(seed=seed, start=DAY, kind=kind), "BTC", DAY))
        for seed, kind in [(1, "squeeze"), (2, "squeeze"), (1, "noise")]
    ]
    assert len(set(made)) == 3


@pytest.mark.parametrize("asset", PROFILES)
def test_every_asset_makes_a_plausible_day(asset):
    day = simulate_day(WorldSpec(start=DAY, assets=(asset,)), asset, DAY)
    listed = instruments(asset)
    assert set(day.bars) == {one.id for one in listed}
    for one in listed:
        bars = day.bars[one.id]
        assert {name: column.dtype for name, column in bars._asdict().items()} == dtypes(type(bars))
        price = bars.close / 10**one.price_decimals
        assert 0.4 < price.mean() / PROFILES[asset].price_usd < 2.5
        assert (bars.low <= np.minimum(bars.open, bars.close)).all()
        assert (bars.high >= np.maximum(bars.open, bars.close)).all()
        assert (bars.buy_usd_cents + bars.sell_usd_cents > 0).mean() > 0.2
    assert day.rows.ts.tolist() == list(range(day_start_s(DAY), day_start_s(DAY) + DAY_S))
    assert (day.rows.quality_ppm == 1_000_000).all()
    assert (day.rows.open_interest > 0).all()


def test_noise_is_a_function_of_key_and_counter():
    stream = key("a", 1)
    assert stream != key("a", 2)
    drawn = np.array([normal(stream, n) for n in range(4_000)])
    assert abs(drawn.mean()) < 0.06
    assert abs(drawn.std() - 1) < 0.04
    assert all(0 <= uniform(stream, n) < 1 for n in range(1_000))
    assert [normal(stream, n) for n in range(10)] == drawn[:10].tolist()
    for x in (-12.5, -1.0, 0.0, 1e-9, 0.7, 3.0, 20.0):
        assert exp(x) == pytest.approx(np.exp(x), rel=1e-10)


# --- prints, bars and rows are one ---


def bars_of(instrument: Instrument, trades: Trades, start_s: int, end_s: int):
    params = flow.bar_params(instrument, IdKind.TRADE)
    _, bars, gaps = flow.scan_bars(params, flow.bars_initial(start_s), trades, end_s)
    return bars, gaps


@pytest.mark.parametrize("start_s", [day_start_s(DAY), NOON_S, day_start_s(DAY) + DAY_S - 600])
def test_bars_of_simulated_prints_are_the_simulated_bars(start_s):
    end_s = start_s + 900  # the last case crosses midnight
    trades = simulate_trades(WORLD, "BTC", start_s, end_s)
    days = [simulate_day(WORLD, "BTC", DAY), simulate_day(WORLD, "BTC", DAY + dt.timedelta(1))]
    for one in instruments("BTC"):
        bars, gaps = bars_of(one, trades[one.id], start_s, end_s)
        assert not gaps
        planned = concat([day.bars[one.id] for day in days])
        first = int(np.searchsorted(planned.ts, bars.ts[0]))
        assert bars.ts[0] - start_s < 60  # seconds before the very first print have no price
        assert same(bars, cut(planned, first, first + len(bars.ts)))


def test_print_ids_run_on_over_midnight_without_a_hole():
    midnight = day_start_s(DAY) + DAY_S
    for trades in simulate_trades(WORLD, "ETH", midnight - 120, midnight + 120).values():
        assert (np.diff(trades.id) == 1).all()
        assert (np.diff(trades.exchange_ns) >= 0).all()
        assert (trades.received_ns > trades.exchange_ns).all()


def test_prices_run_on_over_midnight():
    days = list(simulate_rows(WORLD, "BTC"))
    for one in instruments("BTC"):
        for before, after in itertools.pairwise(days):
            last, first = before.bars[one.id].close[-1], after.bars[one.id].open[0]
            assert abs(np.log(first / last)) < 30e-4


def test_a_stretch_of_prints_is_the_same_whatever_is_made_around_it():
    whole = simulate_trades(WORLD, "BTC", NOON_S, NOON_S + 120)
    part = simulate_trades(WORLD, "BTC", NOON_S + 30, NOON_S + 90)
    for name, trades in whole.items():
        second = trades.exchange_ns // 10**9
        inside = np.flatnonzero((second >= NOON_S + 30) & (second < NOON_S + 90))
        assert same(cut(trades, inside[0], inside[-1] + 1), part[name])


def test_rows_of_single_days_are_the_rows_of_all_days_in_one_scan():
    days = list(simulate_rows(WORLD, "BTC"))
    params = flow.row_params(asset_config("BTC"), {one.id: one for one in instruments("BTC")})
    _, rows = flow.scan_rows(
        params,
        flow.rows_initial(params),
        {one.id: concat([day.bars[one.id] for day in days]) for one in instruments("BTC")},
        concat([day.open_interest for day in days]),
        concat([day.funding for day in days]),
    )
    assert same(rows, concat([day.rows for day in days]))


@pytest.mark.parametrize("position", range(3))
def test_wire_frames_are_read_back_by_the_venue_as_the_same_prints(position):
    one = instruments("BTC")[position]
    trades = simulate_trades(WORLD, "BTC", NOON_S, NOON_S + 20)[one.id]
    frames = list(wire_frames(trades, one))
    assert len(frames) == len(trades.id) > 0
    for n, frame in enumerate(frames):
        (trade,) = binance.parse(one.section, {one.native_symbol: one}, frame, int(trades.received_ns[n]))
        assert trade.instrument == one.id
        columns = (
            trade.id,
            trade.exchange_ns,
            trade.received_ns,
            trade.price,
            trade.qty,
            trade.quote_cents,
            trade.side,
            0,
        )
        assert columns == tuple(int(column[n]) for column in trades)


def test_instruments_have_the_scales_the_venue_module_gives_them():
    for asset in PROFILES:
        for one in instruments(asset):
            venue = binance.instrument(one.section, one.native_symbol)
            for name in ("id", "price_decimals", "qty_decimals", "kind", "margin", "contract_size", "settle"):
                assert getattr(one, name) == getattr(venue, name), (one.id, name)


# --- what fills are like (market-statistics section 6, 5 to 9) ---


def tape_of(one: Instrument, trades: Trades) -> Tape:
    price, qty = trades.price / 10**one.price_decimals, trades.qty / 10**one.qty_decimals
    quote = trades.quote_cents / 100 if one.margin is Margin.INVERSE else price * qty
    return Tape(trades.exchange_ns // 10**6, price, quote, trades.side.astype(np.int64))


def test_fills_come_in_orders_with_atoms_and_heavy_tails():
    hours = [simulate_trades(WorldSpec(seed=seed, start=DAY), "BTC", NOON_S, NOON_S + 3_600) for seed in (1, 2, 3)]
    for one in instruments("BTC")[:2]:
        found = []
        for hour in hours:
            tape = tape_of(one, hour[one.id])
            sides, _ = orders_of(tape)
            _, counts = np.unique(hour[one.id].qty, return_counts=True)
            found.append(
                [tape.side.size / sides.size, np.quantile(tape.quote, 0.999) / np.median(tape.quote)]
                + [top_share(tape.quote), counts.max() / counts.sum()]
                + [acf(tape.side, lag) for lag in (1, 10, 100)]
                + [acf(sides, lag) for lag in (1, 10, 100)]
            )
        limits = [
            (2, 5), (200, 2_000), (0.15, 0.40), (0.10, 0.5), (0.60, 0.95), (0.30, 0.75), (-0.15, 0.40),
            (0.10, 0.60), (0.03, 0.25), (-0.05, 0.12),
        ]  # fmt: skip
        for value, (least, most) in zip(np.median(found, axis=0), limits, strict=True):
            assert least <= value <= most, found


def test_a_second_of_the_raw_path_is_a_second_of_the_row_path():
    spot = instruments("BTC")[0]
    trades = simulate_trades(WORLD, "BTC", NOON_S, NOON_S + 600)[spot.id]
    seconds = seconds_of(tape_of(spot, trades))
    bars = simulate_day(WORLD, "BTC", DAY).bars[spot.id]
    at = seconds.start - int(bars.ts[0])
    planned = (bars.buy_usd_cents - bars.sell_usd_cents)[at : at + seconds.fills.size] / 100
    assert np.abs(seconds.delta - planned).max() <= 0.011  # each side of a bar is rounded to a cent once


# --- open interest and funding ---


def test_open_interest_never_changes_by_more_than_was_traded():
    rng = np.random.default_rng(3)
    volume = np.where(rng.random(DAY_S) < 0.1, 0, rng.integers(1_000, 10**10, DAY_S))
    truth = open_interest_truth(key("x"), 20_000, 94_500 * 10**8, volume, np.full(DAY_S, 0.05))
    following = open_interest_truth(key("x"), 20_001, 94_500 * 10**8, volume, np.zeros(DAY_S))
    assert (np.abs(np.diff(truth)) <= volume).all()
    assert abs(int(following[0]) - int(truth[-1])) <= 1_000  # 1e-5 BTC: the sum of a day's shares is a float


def test_open_interest_is_known_after_it_was_true():
    for day in simulate_rows(WORLD, "BTC"):
        series = day.open_interest
        assert (series.known_at > series.event_ts).all()
        assert (np.diff(series.known_at) > 0).all()
        assert (series.open_interest > 0).all()
        assert series.known_at[0] == day.rows.ts[0]


def test_funding_is_settled_at_its_interval_and_sometimes_at_the_default():
    paid = simulate_day(WORLD, "BTC", DAY).funding
    assert paid.event_ts.tolist() == [day_start_s(DAY) + 28_800 * n for n in range(3)]
    many = np.concatenate([publish_funding(key("f"), day).rate for day in range(20_000, 20_400)]) / 1e10 * 1e4
    assert 0.25 < many.mean() < 0.55
    assert 0.05 < (many < 0).mean() < 0.25
    assert 0.05 < (many == 1.0).mean() < 0.25


# --- regimes ---


def test_a_noise_world_has_no_regimes_and_a_squeeze_world_has_both():
    days = [DAY + dt.timedelta(n) for n in range(30)]
    noise = WorldSpec(kind="noise", start=DAY)
    assert not any(regimes(noise, "BTC", day) for day in days)
    found = [episode for day in days for episode in regimes(WorldSpec(start=DAY), "BTC", day)]
    assert 2 * 30 < len(found) < 6 * 30
    long = sum(episode.direction is Direction.BULLISH for episode in found)
    assert 0.35 < long / len(found) < 0.65
    assert {episode.move_bp > 0 for episode in found} == {True, False}
    for episode in found:
        assert episode.start_s < episode.reset_s < episode.move_s < episode.end_s
        assert episode.start_s // DAY_S == (episode.end_s - 1) // DAY_S


def test_trapped_sellers_sell_into_spot_buyers_before_price_rises():
    world = WorldSpec(seed=5, start=DAY)
    signed = []
    for n in range(12):
        date = DAY + dt.timedelta(n)
        rows = simulate_day(world, "BTC", date).rows
        for episode in regimes(world, "BTC", date):
            a, b, c, d = (
                t - day_start_s(date) for t in (episode.start_s, episode.reset_s, episode.move_s, episode.end_s)
            )
            side = int(episode.direction)
            move = 1e4 * side * np.log(rows.close[min(d, DAY_S - 1)] / rows.close[c])
            signed.append(
                (side * rows.spot_delta[a:b].sum() > 0, side * rows.perp_delta[a:b].sum() < 0, move, episode.move_bp)
            )
    spot, perp, moves, promised = (np.array(column) for column in zip(*signed, strict=True))
    assert spot.mean() > 0.9
    assert perp.mean() > 0.9
    assert abs((moves - promised).mean()) < 25  # ordinary noise remains
    assert moves[promised > 0].mean() > 25


def follow(world: WorldSpec, days: int) -> np.ndarray:
    """Trade the gap of spot and perp flow over 900 s, in yesterday's swings, while price stands still; gross bp.

    It enters a second after it has seen the gap and holds for 40 minutes.
    """
    gains, swings = [], None
    for n in range(days + 1):
        rows = simulate_day(world, "BTC", world.start + dt.timedelta(n)).rows
        price = np.log(rows.close.astype(float))
        windows = [np.cumsum(x.astype(float)) for x in (rows.spot_delta, rows.perp_delta)] + [price]
        changes = [x[900:] - x[:-900] for x in windows]
        if swings is not None:
            s, p, r = (x / swing for x, swing in zip(changes, swings, strict=True))
            t = 0
            while t < s.size - 2_401:
                if abs(s[t] - p[t]) > 2.5 and abs(r[t]) < 1:
                    gains.append(1e4 * np.sign(s[t] - p[t]) * (price[t + 3_301] - price[t + 901]))
                    t += 2_400
                t += 30
        swings = [np.sqrt(np.mean(x * x)) for x in changes]
    return np.array(gains)


def test_following_the_gap_pays_in_a_squeeze_world_and_not_in_noise():
    cost = 1e4 * round_trip_cost(Costs())
    squeezed = follow(WorldSpec(seed=11, start=DAY), 20)
    noise = follow(WorldSpec(seed=11, start=DAY, kind="noise"), 20)
    assert squeezed.size > 40
    assert squeezed.mean() > cost + 2 * squeezed.std() / np.sqrt(squeezed.size)
    assert noise.mean() < cost
    assert abs(noise.mean()) < 3 * noise.std() / np.sqrt(noise.size)


@pytest.mark.parametrize("kind", ["squeeze", "noise"])
def test_the_reset_machine_spends_its_time_as_the_strategy_expects(kind):
    state = squeeze.initial(SqueezeParams())
    phases = []
    for day in simulate_rows(WorldSpec(seed=2, start=DAY, days=12, kind=kind), "BTC"):
        state, features = squeeze.scan(SqueezeParams(), state, day.rows)
        warm = (features.flags & F_WARM) > 0
        phases.append((features.flags[warm] >> PHASE_SHIFT) & 3)
    share = np.bincount(np.concatenate(phases), minlength=4) / sum(map(len, phases))
    for value, expected in zip(share, (0.70, 0.06, 0.10, 0.14), strict=True):
        assert expected / 2 <= value <= expected * 2, share


# --- several assets ---


def test_assets_move_together_but_are_not_one():
    moves = []
    for asset in ("BTC", "ETH"):
        rows = simulate_day(WORLD, asset, DAY).rows
        moves.append(np.diff(np.log(rows.close[::60].astype(float))))
    assert 0.4 < np.corrcoef(*moves)[0, 1] < 0.95


# --- refusals ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"assets": ("BTCC",)}, "did you mean BTC"),
        ({"assets": ("BTC", "BTC")}, "each may stand there once"),
        ({"start": dt.date(1999, 1, 1)}, "the limits are"),
    ],
)
def test_a_world_that_cannot_be_is_refused_with_the_limit(changes, message):
    with pytest.raises(UsageError, match=message):
        WorldSpec(**changes)


@pytest.mark.parametrize("changes", [{"days": 0}, {"seed": -1}, {"kind": "calm"}, {"assets": []}, {"sed": 1}])
def test_values_outside_a_worlds_bounds_are_refused(changes):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(changes, WorldSpec)


def test_an_empty_range_of_prints_is_refused():
    with pytest.raises(UsageError, match="the end must lie after the start"):
        simulate_trades(WORLD, "BTC", NOON_S, NOON_S)


def test_blocks_of_the_simulator_are_those_of_the_market():
    day = simulate_day(WORLD, "BTC", DAY)
    assert {name: column.dtype for name, column in day.rows._asdict().items()} == dtypes(Rows)
    assert type(day.rows) is type(empty(Rows))
