"""Laws of the flow kernels: cuts and order are invisible, sums are exact, what is not proved complete says so."""

import decimal
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezecore.errors import UsageError
from squeezecore.flow import (
    BarParams,
    RowParams,
    bar_params,
    bars_initial,
    fingerprint,
    finish_bars,
    merge_bars,
    row_params,
    rows_initial,
    scan_bars,
    scan_rows,
)
from squeezecore.market import (
    Bars,
    FundingSeries,
    IdKind,
    MarkSeries,
    OpenInterestSeries,
    Side,
    TradeFlag,
    Trades,
    concat,
    cut,
    dtypes,
    empty,
)
from squeezecore.spec import AssetConfig, MarketConfig
from squeezecore.venues import binance
from support.flow_reference import prints_of, seconds
from support.recorded import WINDOW, window_instrument, window_trades

T0 = 1_723_161_600  # a UTC minute
NS = 10**9
P = BarParams("binance:BTC-USDT-PERP", 3, 8, IdKind.TRADE, contiguous=True)
decimal.getcontext().prec = 60


def trades(*prints, start_id=100):
    """Build a block from (seconds after T0, price, qty, side) or dicts of columns; ids count on unless given."""
    rows = []
    for number, entry in enumerate(prints):
        given_print = (
            entry if isinstance(entry, dict) else dict(zip(("at", "price", "qty", "side"), entry, strict=True))
        )
        row = {
            "id": start_id + number,
            "received_ns": 0,
            "quote_cents": -1,
            "flags": 0,
            "price": 100,
            "qty": 1,
            "side": 1,
        }
        row |= given_print
        row["exchange_ns"] = T0 * NS + round(row.pop("at") * NS)
        rows.append(row)
    return Trades(*(np.array([row[name] for row in rows], dtype) for name, dtype in dtypes(Trades).items()))


def scan(*steps, params=P, state=None):
    """Scan (block, watermark after T0[, alive]) steps; return the state, all bars and all gaps."""
    state = state or bars_initial()
    out, gaps = [], []
    for block, watermark, *alive in steps:
        state, bars, more = scan_bars(params, state, block, T0 + watermark, *alive)
        out.append(bars)
        gaps += more
    return state, concat(out), gaps


def same(a, b):
    return type(a) is type(b) and all(
        x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True)
    )


def pick(block, index):
    return type(block)(*(column[index] for column in block))


def as_dicts(bars):
    return {bar["ts"]: bar for bar in prints_of(bars)}


@st.composite
def markets(draw, count_max=40):
    """Draw prints in id order, whose times mostly follow the ids; some missing, some no flow, some with own notional."""
    count = draw(st.integers(1, count_max))
    at, rows = 0.0, []
    for number in range(count):
        at += draw(st.sampled_from([0.0, 0.0, 0.1, 0.4, 1.0, 3.7]))
        if number and draw(st.integers(0, 9)) == 0:
            continue
        jitter = draw(st.sampled_from([0.0, 0.0, 0.0, 0.6]))
        price, qty = draw(st.integers(1, 10**11)), draw(st.integers(1, 10**11))
        row = {
            "id": 100 + number,
            "at": at + jitter,
            "price": price,
            "qty": qty,
            "side": draw(st.sampled_from([1, -1, 0])),
        }
        row["flags"] = draw(st.sampled_from([0, 0, 0, int(TradeFlag.RPI), int(TradeFlag.INTERNAL)]))
        row["quote_cents"] = draw(st.sampled_from([-1, -1, 5, 10**12]))
        rows.append(row)
    return trades(*rows)


END = 200
NO_MARK = -T0  # a watermark that says nothing yet


@given(markets(), st.booleans())
@settings(deadline=None, max_examples=150)
def test_bars_equal_the_slow_obvious_version(block, covered):
    covered_from = T0 if covered else -1
    _, bars, _ = scan((block, END), state=bars_initial(covered_from))
    expected = seconds(prints_of(block), 11, T0 + END, covered_from)
    got = as_dicts(bars)
    assert set(got) == set(expected)
    for ts, bar in expected.items():
        assert {name: got[ts][name] for name in bar} == bar
        assert got[ts]["version"] == bar["complete"] << 32
        assert got[ts]["id_kind"] == IdKind.TRADE


@given(markets(), st.data())
@settings(deadline=None, max_examples=150)
def test_a_cut_of_the_prints_is_invisible(block, data):
    at = data.draw(st.integers(0, len(block.id)))
    whole_state, whole, whole_gaps = scan((block, END))
    state, bars, gaps = scan((cut(block, 0, at), NO_MARK), (cut(block, at, len(block.id)), END))
    assert fingerprint(state) == fingerprint(whole_state)
    assert gaps == whole_gaps
    assert same(bars, whole)


@given(markets(), st.data())
@settings(deadline=None, max_examples=150)
def test_any_cut_of_a_stream_with_watermarks_is_invisible(block, data):
    # The stream: pieces of prints, each followed by an honest watermark (nothing later is older); a piece is cut in two.
    marks = [*sorted(data.draw(st.lists(st.integers(1, END), max_size=4))), END]
    pieces, left = [], block
    for mark in marks:
        old = left.exchange_ns < (T0 + mark) * NS
        pieces.append((pick(left, old), mark))
        left = pick(left, ~old)
    k = data.draw(st.integers(0, len(pieces) - 1))
    piece, mark = pieces[k]
    at = data.draw(st.integers(0, len(piece.id)))
    before = pieces[k - 1][1] if k else -10
    halves = [(cut(piece, 0, at), before), (cut(piece, at, len(piece.id)), mark)]
    first = [] if k else [(empty(Trades), before)]
    whole_state, whole, whole_gaps = scan(*first, *pieces)
    state, bars, gaps = scan(*pieces[:k], *halves, *pieces[k + 1 :])
    assert same(bars, whole)
    assert gaps == whole_gaps
    assert fingerprint(state) == fingerprint(whole_state)


@given(markets(), st.data())
@settings(deadline=None, max_examples=150)
def test_the_order_of_delivery_and_doubles_change_nothing(block, data):
    order = data.draw(st.permutations(range(len(block.id))))
    repeated = order + data.draw(st.lists(st.sampled_from(order), max_size=5))
    at = data.draw(st.integers(0, len(repeated)))
    whole_state, whole, whole_gaps = scan((block, END))
    shuffled = pick(block, np.array(repeated))
    pieces = [(cut(shuffled, 0, at), NO_MARK), (cut(shuffled, at, len(repeated)), END)]
    state, bars, gaps = scan(*pieces)
    assert state.doubled == len(repeated) - len(order)
    assert same(bars, whole)
    assert gaps == whole_gaps
    assert fingerprint(state._replace(doubled=0)) == fingerprint(whole_state)


@given(markets())
@settings(deadline=None, max_examples=60)
def test_flows_keep_their_arithmetic(block):
    _, bars, _ = scan((block, END))
    _, swapped, _ = scan((block._replace(side=-block.side), END))
    assert (np.abs(bars.buy_volume - bars.sell_volume) <= bars.buy_volume + bars.sell_volume).all()
    assert (bars.buy_usd_cents == swapped.sell_usd_cents).all()
    assert (bars.sell_volume == swapped.buy_volume).all()
    assert (np.diff(bars.ts) == 1).all()
    flow = (block.side != 0) & (block.flags & int(TradeFlag.INTERNAL) == 0)
    assert bars.buy_volume.sum() + bars.sell_volume.sum() == block.qty[flow].sum()
    assert bars.buy_trades.sum() + bars.sell_trades.sum() == flow.sum()


EXTREME = st.integers(1, 2**63 - 1) | st.sampled_from([1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 10**18])


@given(
    st.lists(st.tuples(EXTREME, EXTREME), min_size=1, max_size=4),
    st.integers(0, 15),
    st.integers(0, 8),
    st.integers(0, 62),
)
@settings(deadline=None, max_examples=400)
def test_cents_are_exact_at_any_size_or_refused(products, price_decimals, qty_decimals, shrink):
    products = [(max(1, price >> shrink), qty) for price, qty in products]
    params = P._replace(price_decimals=price_decimals, qty_decimals=qty_decimals)
    exact = Fraction(sum(price * qty for price, qty in products), 10 ** (price_decimals + qty_decimals)) * 100
    cents = (2 * exact.numerator + exact.denominator) // (2 * exact.denominator)
    volume = sum(qty for _, qty in products)
    block = trades(*((0, price, qty, 1) for price, qty in products))
    if max(cents, volume) >= 2**63:
        with pytest.raises(UsageError, match="does not fit 63 bits"):
            scan((block, 1), params=params)
        return
    _, bars, _ = scan((block, 1), params=params)
    assert (int(bars.buy_usd_cents[0]), int(bars.buy_volume[0])) == (cents, volume)


def test_half_a_cent_is_rounded_away_from_zero_once_a_second():
    half = 5 * 10**8  # price 1, qty 5e-1 cents at 11 decimals
    _, bars, _ = scan((trades((0, 1, half, 1), (0, 1, half, 1), (1, 1, half, -1), (2, 1, half - 1, -1)), 3))
    assert bars.buy_usd_cents.tolist() == [1, 0, 0]  # two halves make one cent, not two
    assert bars.sell_usd_cents.tolist() == [0, 1, 0]


def test_a_jump_in_ids_makes_both_border_seconds_and_all_between_incomplete():
    block = trades({"at": 1, "id": 1}, {"at": 2, "id": 2}, {"at": 5, "id": 4}, {"at": 6, "id": 5}, {"at": 7, "id": 6})
    _, bars, (gap,) = scan((block, 8), state=bars_initial(T0))
    assert bars.complete.tolist() == [1, 0, 0, 0, 0, 1, 1]
    assert (gap.start_s - T0, gap.end_s - T0, gap.first_id, gap.last_id, gap.missing) == (2, 5, 3, 3, 1)
    assert (gap.cause, gap.state, gap.instrument) == ("ids missing", "open", P.instrument)


def test_a_hole_that_is_filled_before_its_seconds_close_leaves_no_trace():
    early = trades({"at": 1, "id": 1}, {"at": 3, "id": 5})
    fill = trades({"at": 2, "id": 3}, {"at": 2, "id": 2}, {"at": 2.5, "id": 4})
    _, bars, gaps = scan((early, 0), (fill, 4), state=bars_initial(T0))
    assert bars.complete.tolist() == [1, 1, 1]
    assert not gaps


def test_prints_that_are_no_flow_use_up_ids_and_count_for_nothing():
    block = trades((0, 100, 5, 1), {"at": 1, "price": 999, "qty": 7, "flags": int(TradeFlag.INTERNAL)}, (2, 101, 5, -1))
    state, bars, gaps = scan((block, 3), state=bars_initial(T0))
    assert bars.complete.tolist() == [1, 1, 1]
    assert bars.high.tolist() == [100, 100, 101]
    assert bars.buy_trades.tolist() == [1, 0, 0]
    assert bars.first_id.tolist() == [100, 101, 102]
    assert (state.not_flow, gaps) == (1, [])


def test_a_second_without_a_print_repeats_the_last_close():
    _, bars, _ = scan((trades((0, 100, 5, 1), (0.5, 90, 5, 1), (3, 95, 1, -1)), 5))
    assert bars.open.tolist() == [100, 90, 90, 95, 95]
    assert bars.high.tolist() == [100, 90, 90, 95, 95]
    assert bars.buy_volume.tolist() == [10, 0, 0, 0, 0]
    assert bars.last_id.tolist() == [101, -1, -1, 102, -1]


def test_a_second_closes_when_the_watermark_reaches_its_end_and_not_before():
    state, bars, _ = scan((trades((0.999, 100, 5, 1)), 0))
    assert not len(bars.ts)
    state, bars, _ = scan((empty(Trades), 1), state=state)
    assert bars.ts.tolist() == [T0]
    _, again, _ = scan((empty(Trades), 1), state=state)
    assert not len(again.ts)


def test_a_late_print_is_reported_and_never_added():
    state, _, _ = scan((trades({"at": 0, "id": 1}, {"at": 1, "id": 3}), 3))
    late = trades({"at": 1, "id": 2}, {"at": 1, "id": 2}, {"at": 3.5, "id": 4})
    state, more, (gap,) = scan((late, 4), state=state)
    assert (state.late, state.doubled) == (1, 1)
    assert (gap.cause, gap.start_s - T0, gap.first_id, gap.missing) == ("late", 1, 2, 1)
    assert more.buy_trades.tolist() == [1]
    _, _, gaps = scan((late, 4), state=state)
    assert not gaps


def test_what_a_dead_feed_closes_is_incomplete_until_it_has_lived_again():
    block = trades(*({"at": k} for k in range(6)))
    state, bars, gaps = scan(
        (cut(block, 0, 2), 2),
        (cut(block, 2, 3), 3, False),
        (cut(block, 3, 5), 5),
        (cut(block, 5, 6), 6),
        state=bars_initial(T0),
    )
    assert bars.complete.tolist() == [1, 1, 0, 0, 0, 1]
    assert [(gap.cause, gap.start_s - T0, gap.end_s - T0) for gap in gaps] == [
        ("feed not alive", 2, 2),
        ("feed not alive", 3, 4),
    ]
    assert not state.dead


def test_what_a_new_connection_closes_is_whole_only_where_later_ids_prove_it():
    state, _, _ = scan_bars(P, bars_initial(), trades((0, 10, 1, 1)), T0 + 1)
    state, bars, _ = scan_bars(P, state, trades((3.5, 10, 1, 1), start_id=101), T0 + 6, doubt_s=T0 + 5)
    assert bars.complete.tolist() == [1, 1, 0, 0, 1]  # after the last print a missing one may lie
    state, bars, _ = scan_bars(P, state, trades((7, 10, 1, 1), (9, 10, 1, 1), start_id=102), T0 + 8, doubt_s=T0 + 20)
    assert bars.complete.tolist() == [1, 1]
    first = trades((1.5, 10, 1, 1), (2.5, 10, 1, 1), (5, 10, 1, 1))
    _, bars, _ = scan_bars(P, bars_initial(T0), first, T0 + 4, doubt_s=T0 + 3)
    assert bars.complete.tolist() == [0, 1, 1]  # beside the first print another may have been before it
    named = P._replace(contiguous=False)
    state, _, _ = scan_bars(named, bars_initial(T0), trades((0, 10, 1, 1)), T0 + 1)
    _, bars, _ = scan_bars(named, state, trades((3, 10, 1, 1), start_id=500), T0 + 4, doubt_s=T0 + 2)
    assert bars.complete.tolist() == [0, 1, 1]


def test_an_alive_watermark_before_the_first_print_makes_its_second_whole():
    _, bars, _ = scan((empty(Trades), 5), (trades((5.5, 100, 1, 1)), 6))
    assert bars.complete.tolist() == [1]
    _, bars, _ = scan((trades((5.5, 100, 1, 1)), 6))
    assert bars.complete.tolist() == [0]


def test_history_sent_on_subscribe_closes_holes_and_is_no_flow_before_coverage():
    snapshot = int(TradeFlag.SNAPSHOT)
    block = trades({"at": 0, "id": 1, "flags": snapshot}, {"at": 1, "id": 2, "flags": snapshot}, {"at": 2, "id": 3})
    state, bars, _ = scan((block, 3))
    assert (state.history, bars.ts.tolist()) == (2, [T0 + 2])
    after = trades({"at": 3, "id": 4, "flags": snapshot}, {"at": 4, "id": 3, "flags": snapshot}, {"at": 4, "id": 5})
    state, bars, gaps = scan((after, 5), state=state)
    assert (state.doubled, bars.buy_trades.tolist(), bars.complete.tolist(), gaps) == (1, [1, 1], [1, 1], [])


def test_a_hole_longer_than_the_limit_is_no_covered_time():
    block = trades({"at": 0, "id": 1}, {"at": 50, "id": 9})
    _, bars, (gap,) = scan((block, 51), params=P._replace(hole_s_max=48))
    assert (bars.ts - T0).tolist() == [0, 50]
    assert gap.missing == 7
    _, bars, _ = scan((block, 51), params=P._replace(hole_s_max=49))
    assert len(bars.ts) == 51


def test_ids_that_only_name_a_print_tell_doubles_and_no_holes():
    params = P._replace(contiguous=False, id_kind=IdKind.NONE)
    block = trades(
        {"at": 0, "id": 900}, {"at": 0.5, "id": 5}, {"at": 0.5, "id": 5}, {"at": 2, "id": -1}, {"at": 2, "id": -1}
    )
    state, bars, gaps = scan((block, 3), params=params, state=bars_initial(T0))
    assert (state.doubled, bars.buy_trades.tolist(), bars.complete.tolist(), gaps) == (1, [2, 0, 2], [1, 1, 1], [])


def test_read_only_columns_and_numpy_integers_give_the_same_bits():
    block = trades((0, 100, 5, 1), (1, 101, 6, -1))
    locked = Trades(*(column.copy() for column in block))
    for column in locked:
        column.flags.writeable = False
    whole_state, whole, _ = scan_bars(P, bars_initial(), block, T0 + 3)
    state, bars, _ = scan_bars(P, bars_initial(), locked, np.int64(T0 + 3), np.bool_(True))  # type: ignore[arg-type]
    assert same(bars, whole)
    assert fingerprint(state) == fingerprint(whole_state) != fingerprint(state._replace(late=1))


def test_a_broken_clock_is_refused():
    with pytest.raises(UsageError, match="check the prints' times"):
        scan((trades((0, 100, 1, 1), (90 * 86_400, 100, 1, 1)), 91 * 86_400))


# -- the recorded window -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", WINDOW)
def test_the_recorded_window_equals_the_reference_second_by_second(section):
    block, instrument = window_trades(section), window_instrument(section)
    params = bar_params(instrument, IdKind.TRADE)
    state, bars, gaps = scan_bars(params, bars_initial(), block, int(block.exchange_ns.max() // NS))
    _, border, more = finish_bars(params, state)
    whole = concat([bars, border])
    end_s = int(whole.ts[-1]) + 1
    expected = seconds(prints_of(block), instrument.price_decimals + instrument.qty_decimals, end_s)
    expected[end_s - 1]["complete"] = 0  # the recording ends inside it
    got = as_dicts(whole)
    assert list(got) == list(expected)
    for ts, bar in expected.items():
        assert {name: got[ts][name] for name in bar} == bar
    assert not gaps + more
    assert len(whole.ts) > 340


@pytest.mark.parametrize("section", WINDOW)
def test_sums_of_the_recorded_window_equal_the_raw_trades(section):
    block, instrument = window_trades(section), window_instrument(section)
    _, bars, _ = scan_bars(
        bar_params(instrument, IdKind.TRADE), bars_initial(), block, int(block.exchange_ns.max() // NS) + 1
    )
    buys = block.side == Side.BUY
    assert bars.buy_volume.sum() == block.qty[buys].sum()
    assert bars.sell_volume.sum() == block.qty[~buys].sum()
    assert bars.buy_trades.sum() + bars.sell_trades.sum() == len(block.id)
    exact = sum(
        Decimal(int(p) * int(q)).scaleb(2 - instrument.price_decimals - instrument.qty_decimals)
        if c < 0
        else Decimal(int(c))
        for p, q, c in zip(block.price, block.qty, block.quote_cents, strict=True)
    )
    total = int(bars.buy_usd_cents.sum() + bars.sell_usd_cents.sum())
    assert abs(total - exact) <= (0 if section == "inverse" else len(bars.ts))  # each side and second was rounded once


# -- merging -----------------------------------------------------------------------------------------------------------


def imported(block):
    """Import a block alone, as one command would."""
    state, bars, _ = scan_bars(P, bars_initial(), block, int(block.exchange_ns.max() // NS))
    _, border, _ = finish_bars(P, state)
    return concat([bars, border])


@given(markets(), st.data())
@settings(deadline=None, max_examples=150)
def test_two_imports_that_adjoin_equal_one(block, data):
    flow = block._replace(
        flags=np.zeros_like(block.flags), side=np.where(block.side == 0, 1, block.side).astype(np.int8)
    )
    ordered = flow._replace(id=np.arange(len(flow.id)), exchange_ns=np.sort(flow.exchange_ns))
    at = data.draw(st.integers(0, len(block.id)))
    parts = [cut(ordered, 0, at), cut(ordered, at, len(block.id))]
    parts = [part for part in parts if len(part.id)]
    if data.draw(st.booleans()):
        parts.reverse()
    merged = imported(parts[0])
    for part in parts[1:]:
        merged = merge_bars(merged, imported(part))
        assert same(merge_bars(merged, imported(part)), merged)  # once more changes nothing
    whole = as_dicts(imported(ordered))
    got = as_dicts(merged)
    assert list(got) == list(whole)
    for ts, bar in whole.items():
        for name in set(bar) - {"version", "buy_usd_cents", "sell_usd_cents"}:
            assert got[ts][name] == bar[name], (ts - T0, name)
        assert abs(got[ts]["buy_usd_cents"] - bar["buy_usd_cents"]) <= 1
        assert got[ts]["version"] >> 32 == bar["complete"]


def test_a_border_second_is_summed_when_its_ids_adjoin():
    older = imported(trades((0, 100, 1, 1), (1.1, 110, 2, 1), start_id=1))
    newer = imported(trades((1.5, 90, 4, -1), (1.6, 95, 8, 1), (3, 96, 1, 1), start_id=3))
    bars = as_dicts(merge_bars(older, newer))
    border = bars[T0 + 1]
    assert (border["open"], border["high"], border["low"], border["close"]) == (110, 110, 90, 95)
    assert (border["buy_volume"], border["sell_volume"], border["complete"]) == (10, 4, 1)
    assert (border["first_id"], border["last_id"], border["version"]) == (2, 4, (1 << 32) | 1)
    assert bars[T0 + 2]["complete"] == 1
    assert bars[T0 + 3]["complete"] == 0


def test_a_newer_second_that_covers_the_older_ids_replaces_it():
    older = imported(trades((1.1, 110, 2, 1), start_id=2))
    newer = imported(trades((0, 100, 1, 1), (1.1, 110, 2, 1), (1.5, 90, 4, -1), (2, 90, 1, 1), start_id=1))
    merged = as_dicts(merge_bars(older, newer))
    assert (merged[T0 + 1]["sell_volume"], merged[T0 + 1]["complete"]) == (4, 1)
    back = as_dicts(merge_bars(newer, older))
    assert (back[T0 + 1]["sell_volume"], back[T0 + 1]["complete"]) == (4, 1)


def test_seconds_that_overlap_in_part_or_count_other_prints_are_refused():
    older = imported(trades((1.1, 110, 2, 1), (1.2, 110, 2, 1), start_id=1))
    newer = imported(trades((1.2, 110, 2, 1), (1.3, 90, 4, -1), start_id=2))
    with pytest.raises(UsageError, match="overlap in part"):
        merge_bars(older, newer)
    aggregates = newer._replace(id_kind=np.full_like(newer.id_kind, IdKind.AGGREGATE))
    with pytest.raises(UsageError, match="different kinds"):
        merge_bars(cut(older, 0, 1)._replace(first_id=np.array([2]), last_id=np.array([3])), aggregates)


def test_imports_far_apart_are_only_laid_side_by_side():
    older, newer = imported(trades((0, 1, 1, 1), start_id=1)), imported(trades((9, 1, 1, 1), start_id=7))
    merged = merge_bars(older, newer)
    assert (merged.ts - T0).tolist() == [0, 9]
    assert merged.complete.tolist() == [0, 0]
    assert same(merge_bars(empty(Bars), newer), newer)


# -- rows --------------------------------------------------------------------------------------------------------------

SPOT, PERP, COIN = (window_instrument(section) for section in WINDOW)
CATALOGUE = {instrument.id: instrument for instrument in (SPOT, PERP, COIN)}


def asset(traded=PERP.id, **weights):
    weights = weights or {SPOT.id: 1_000_000, PERP.id: 1_000_000, COIN.id: 1_000_000}
    markets_ = tuple(MarketConfig(instrument=name, weight_ppm=weight) for name, weight in weights.items())
    return AssetConfig(traded=traded, markets=markets_)


def bar_block(count=5, start=0, **columns):
    bars = Bars(*(np.zeros(count, dtype) for dtype in dtypes(Bars).values()))
    bars.ts[:] = T0 + start + np.arange(count)
    bars.complete[:] = 1
    for name in ("open", "high", "low", "close"):
        getattr(bars, name)[:] = 60_000_000
    for name, value in columns.items():
        getattr(bars, name)[:] = value
    return bars


@st.composite
def row_inputs(draw):
    count = draw(st.integers(1, 12))
    bars = {}
    for name in CATALOGUE:
        numbers = st.lists(st.integers(0, 10**9), min_size=count, max_size=count)
        block = bar_block(count, buy_usd_cents=draw(numbers), sell_usd_cents=draw(numbers))
        block.close[:] = draw(st.lists(st.integers(59_000_000, 61_000_000), min_size=count, max_size=count))
        block.complete[:] = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
        keep = np.array(draw(st.lists(st.sampled_from([True, True, True, False]), min_size=count, max_size=count)))
        bars[name] = block if name == PERP.id else pick(block, keep)
    weights = {name: draw(st.sampled_from([0, 1, 333_333, 500_000, 1_000_000])) for name in CATALOGUE}

    def series(kind, low):
        known = sorted(draw(st.lists(st.integers(-5, count + 5), max_size=6)))
        values = draw(st.lists(st.integers(low, 10**9), min_size=len(known), max_size=len(known)))
        at = np.array([T0 + k for k in known], np.int64)
        spans = np.array([[28_800, 14_400, 3_600][v % 3] for v in values], np.int64)
        columns = {"event_ts": at - 60, "known_at": at, "interval_s": spans}
        return kind(*(columns.get(name, np.array(values, np.int64)) for name in kind._fields))

    return bars, weights, series(OpenInterestSeries, 1), series(FundingSeries, -(10**9)), series(MarkSeries, 1)


def rounded(value):
    size = (2 * abs(value).numerator + value.denominator) // (2 * value.denominator)
    return size if value >= 0 else -size


@given(row_inputs())
@settings(deadline=None, max_examples=100)
def test_rows_equal_the_slow_obvious_version(inputs):
    bars, weights, interest, funding, marks = inputs
    params = row_params(asset(**weights), CATALOGUE)
    _, rows = scan_rows(params, rows_initial(params), bars, interest, funding, marks)
    whole = sum(weights.values())
    for i, ts in enumerate(rows.ts.tolist()):
        sums, covered = {"spot_delta": 0, "perp_delta": 0, "spot_volume": 0, "perp_volume": 0}, 0
        for name, weight in weights.items():
            side = "spot" if name == SPOT.id else "perp"
            for bar in prints_of(bars[name]):
                if bar["ts"] == ts:
                    share = Fraction(weight, 10**6)
                    sums[f"{side}_delta"] += rounded(share * (bar["buy_usd_cents"] - bar["sell_usd_cents"]))
                    sums[f"{side}_volume"] += rounded(share * (bar["buy_usd_cents"] + bar["sell_usd_cents"]))
                    covered += weight * bar["complete"]
        assert {name: int(getattr(rows, name)[i]) for name in sums} == sums
        assert rows.quality_ppm[i] == (10**6 * covered // whole if whole else 10**6 * int(bars[PERP.id].complete[i]))
        known = [fact for fact in prints_of(interest) if fact["known_at"] <= ts]
        assert rows.open_interest[i] == (known[-1]["open_interest"] if known else 0)
        assert rows.oi_known_at[i] == (known[-1]["known_at"] if known else 0)
        paid = [fact for fact in prints_of(funding) if fact["known_at"] <= ts]
        rate = rounded(Fraction(paid[-1]["rate"] * 28_800, paid[-1]["interval_s"])) if paid else 0
        assert rows.funding_rate_8h[i] == rate
        mark = [fact for fact in prints_of(marks) if fact["known_at"] <= ts]
        assert rows.mark[i] == (mark[-1]["mark"] if mark else rows.close[i])
    assert same(rows._replace(config_rev=rows.config_rev * 0 + asset(**weights).revision()), rows)


@given(row_inputs(), st.data())
@settings(deadline=None, max_examples=100)
def test_a_cut_of_the_rows_is_invisible(inputs, data):
    bars, weights, *facts = inputs
    params = row_params(asset(**weights), CATALOGUE)
    whole_state, whole = scan_rows(params, rows_initial(params), bars, *facts)
    at = T0 + data.draw(st.integers(0, len(whole.ts)))
    before = {name: pick(block, block.ts < at) for name, block in bars.items()}
    after = {name: pick(block, block.ts >= at) for name, block in bars.items()}
    only_new = [pick(series, series.known_at >= at) for series in facts]  # what was known before lives in the state
    state, first = scan_rows(params, rows_initial(params), before, *facts)
    state, second = scan_rows(params, state, after, *(only_new if len(first.ts) else facts))
    assert same(concat([first, second]), whole)
    assert fingerprint(state) == fingerprint(whole_state)


@given(row_inputs(), st.permutations(list(CATALOGUE)))
@settings(deadline=None, max_examples=50)
def test_the_order_of_markets_changes_nothing_but_the_revision(inputs, order):
    bars, weights, *facts = inputs
    results = []
    for names in (list(weights), order):
        params = row_params(asset(**{name: weights[name] for name in names}), CATALOGUE)
        _, rows = scan_rows(params, rows_initial(params), {name: bars[name] for name in names}, *facts)
        results.append(rows._replace(config_rev=rows.ts))
    assert same(*results)


@given(row_inputs())
@settings(deadline=None, max_examples=50)
def test_swapping_buys_and_sells_negates_every_delta(inputs):
    bars, weights, *_ = inputs
    params = row_params(asset(**weights), CATALOGUE)
    swapped = {n: b._replace(buy_usd_cents=b.sell_usd_cents, sell_usd_cents=b.buy_usd_cents) for n, b in bars.items()}
    _, rows = scan_rows(params, rows_initial(params), bars)
    _, mirror = scan_rows(params, rows_initial(params), swapped)
    assert (rows.spot_delta == -mirror.spot_delta).all()
    assert (rows.perp_delta == -mirror.perp_delta).all()
    assert (rows.perp_volume == mirror.perp_volume).all()


def test_a_weight_cannot_overflow_on_its_way():
    params = row_params(asset(**{SPOT.id: 999_999, PERP.id: 1_000_000}), CATALOGUE)
    bars = {SPOT.id: bar_block(1, buy_usd_cents=2**62), PERP.id: bar_block(1, sell_usd_cents=2**62)}
    _, rows = scan_rows(params, rows_initial(params), bars)
    assert int(rows.spot_delta[0]) == rounded(Fraction(2**62 * 999_999, 10**6))
    assert int(rows.perp_delta[0]) == -(2**62)


def test_the_basis_is_the_mark_over_the_spot_closes():
    params = row_params(asset(), CATALOGUE)
    bars = {SPOT.id: bar_block(3, close=[60_000_000, 60_000_000, 50_000_000]), PERP.id: bar_block(3)}
    marks = MarkSeries(np.array([T0 + 1]), np.array([60_060_000]))
    state, rows = scan_rows(params, rows_initial(params), bars, marks=marks)
    assert rows.basis_bps.tolist() == [0, 10_000, 2_012_000]
    _, later = scan_rows(params, state, {PERP.id: bar_block(2, start=70)})  # spot and mark are too old to say more
    assert later.basis_bps.tolist() == [2_012_000, 2_012_000]
    assert later.mark.tolist() == [60_000_000, 60_000_000]
    assert later.quality_ppm.tolist() == [333_333, 333_333]


def test_only_spot_feeds_spot_and_a_future_feeds_nothing_by_default():
    future = binance.instrument("linear", "BTCUSDT_241227")
    known = {**CATALOGUE, future.id: future}
    config = asset(**{SPOT.id: 1_000_000, PERP.id: 1_000_000, future.id: 1_000_000})
    bars = {name: bar_block(1, buy_usd_cents=7) for name in (SPOT.id, PERP.id, future.id)}
    for futures, expected in ((False, 7), (True, 14)):
        params = row_params(config, known, futures=futures)
        _, rows = scan_rows(params, rows_initial(params), bars)
        assert (rows.spot_delta[0], rows.perp_delta[0], rows.quality_ppm[0]) == (7, expected, 10**6)


def test_a_market_without_a_dollar_rate_or_a_catalogue_entry_is_refused():
    euro = binance.instrument("spot", "BTCEUR", Decimal(55_000))
    with pytest.raises(UsageError, match="quoted in EUR"):
        row_params(asset(**{euro.id: 1}), {**CATALOGUE, euro.id: euro})
    with pytest.raises(UsageError, match="not in the catalogue"):
        row_params(asset(**{"binance:X-Y": 1}), CATALOGUE)


def test_rows_exist_only_where_the_traded_instrument_has_a_bar():
    params = row_params(asset(), CATALOGUE)
    assert isinstance(params, RowParams)
    _, rows = scan_rows(params, rows_initial(params), {SPOT.id: bar_block(5)})
    assert not len(rows.ts)
    _, rows = scan_rows(params, rows_initial(params), {SPOT.id: bar_block(5), PERP.id: bar_block(2, start=1)})
    assert (rows.ts - T0).tolist() == [1, 2]
    assert rows.quality_ppm.tolist() == [666_666, 666_666]
