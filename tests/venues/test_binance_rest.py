"""Binance's REST answers: recorded ones give their values, any bytes give values or `ParseError`."""

import contextlib
import json
from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezecore.errors import ParseError, UsageError
from squeezecore.market import FUNDING_SCALE, IdKind, MarkPrice, Side, Trade, TradeFlag
from squeezecore.venues import Funding, Interest, binance, venue
from support.recorded import FIXTURES

HEARD = 1_700_000_000_123_456_789
ANSWERS = dict(
    line.split(b" ", 1) for line in (FIXTURES / "binance.rest_answers.txt").read_bytes().splitlines()
)  # name → body
PERP = binance.instrument("linear", "BTCUSDT")
COIN = binance.instrument("inverse", "BTCUSD_PERP")
SPOT = binance.instrument("spot", "BTCUSDT")


def answer(name):
    return ANSWERS[name.encode()]


def by_native(*instruments):
    return {instrument.native_symbol: instrument for instrument in instruments}


def test_open_interest_of_linear_contracts_is_base_as_sent():
    assert venue("binance").open_interest("linear", PERP, answer("linear.open_interest"), HEARD, 0) == Interest(
        instrument="binance:BTC-USDT-PERP",
        exchange_ns=1_702_244_985_273_000_000,
        received_ns=HEARD,
        open_interest=int(Decimal("83782.317").scaleb(8)),
    )


def test_open_interest_of_inverse_contracts_is_converted_at_the_mark_of_that_moment():
    mark = Decimal("43751.2")
    found = binance.open_interest("inverse", COIN, answer("inverse.open_interest"), HEARD, int(mark.scaleb(3)))
    base = (Decimal(6_784_657) * 100 / mark).quantize(Decimal("1e-8"), ROUND_HALF_UP)
    assert found.open_interest == base.scaleb(8)
    with pytest.raises(UsageError, match="mark price was 0"):
        binance.open_interest("inverse", COIN, answer("inverse.open_interest"), HEARD, 0)


def test_open_interest_of_listed_thousands_is_in_single_units():
    shib = binance.instrument("linear", "1000SHIBUSDT")
    body = b'{"openInterest":"9876543.21","symbol":"1000SHIBUSDT","time":1702244985273}'
    found = binance.open_interest("linear", shib, body, HEARD, 0)
    assert Decimal(found.open_interest).scaleb(-shib.qty_decimals) == Decimal(9_876_543_210)


def test_an_answer_about_another_symbol_is_refused():
    with pytest.raises(ParseError, match="was about 'BTCUSDT'"):
        binance.open_interest(
            "linear", binance.instrument("linear", "ETHUSDT"), answer("linear.open_interest"), HEARD, 0
        )


def test_what_the_venue_refuses_is_said_in_its_words():
    with pytest.raises(ParseError, match=r"code -1121: Invalid symbol\."):
        binance.open_interest("linear", PERP, b'{"code":-1121,"msg":"Invalid symbol."}', HEARD, 0)


@pytest.mark.parametrize(
    ("section", "instrument", "first", "rates"),
    [
        ("linear", PERP, 1_577_836_800_000, [-1_235_900, -1_238_300, -966_400, 366_200, 1_000_000, 10_400]),
        ("inverse", COIN, 1_605_513_600_010, [1_000_000, 2_514_100, 1_000_000, 1_000_000, 1_000_000]),
    ],
)
def test_settled_funding_has_its_rates_and_times(section, instrument, first, rates):
    found = binance.funding(section, by_native(instrument), answer(f"{section}.funding"), HEARD)
    assert [one.rate for one in found] == rates
    assert found[0] == Funding(
        instrument=instrument.id,
        exchange_ns=first * 10**6,
        received_ns=HEARD,
        rate=rates[0],
        interval_s=8 * 3600,
        settled=True,
    )
    assert {one.interval_s for one in found} == {8 * 3600}


def test_intervals_are_the_listed_ones_and_eight_hours_where_none_is():
    intervals = binance.funding_intervals("linear", answer("linear.funding_info"))
    assert intervals == {
        "GTCUSDT": 8 * 3600,
        "LPTUSDT": 4 * 3600,
        "TRBUSDT": 4 * 3600,
        "BTCDOMUSDT": 8 * 3600,
    }
    trb = binance.instrument("linear", "TRBUSDT", Decimal(50))
    body = b'[{"symbol":"TRBUSDT","fundingRate":"0.0001","fundingTime":1700006400000}]'
    (paid,) = binance.funding("linear", by_native(trb), body, HEARD, intervals)
    assert paid.interval_s == 4 * 3600


def test_an_interval_that_became_shorter_is_seen_in_the_times():
    hour = 3_600_000
    times = [0, 8 * hour, 12 * hour + 7, 13 * hour]
    body = json.dumps([{"symbol": "BTCUSDT", "fundingRate": "0", "fundingTime": at} for at in times]).encode()
    found = binance.funding("linear", by_native(PERP), body, HEARD)
    assert [one.interval_s // 3600 for one in found] == [8, 8, 4, 1]


def test_predicted_funding_is_for_the_next_payment():
    found = binance.funding("linear", by_native(PERP), answer("linear.premium_one"), HEARD, {"BTCUSDT": 3600})
    assert found == [
        Funding(
            instrument=PERP.id,
            exchange_ns=1_687_248_000_000_000_000,
            received_ns=HEARD,
            rate=round(0.00001226 * FUNDING_SCALE),
            interval_s=3600,
            settled=False,
        )
    ]


def test_marks_and_predictions_of_a_list_leave_strangers_and_dated_contracts_out():
    dated = binance.instrument("inverse", "LINKUSD_231229", Decimal(6))
    gmt = binance.instrument("inverse", "GMTUSD_PERP", Decimal("0.15"))
    known = by_native(dated, gmt)
    (paid,) = binance.funding("inverse", known, answer("inverse.premium"), HEARD)
    assert (paid.instrument, paid.rate) == (gmt.id, -66_000)
    first, second = binance.marks("inverse", known, answer("inverse.premium"), HEARD)
    assert first == MarkPrice(
        instrument=dated.id,
        exchange_ns=1_694_401_588_000_000_000,
        received_ns=HEARD,
        mark=int(Decimal("6.10235122").scaleb(dated.price_decimals).to_integral_value(ROUND_HALF_UP)),
        index=int(Decimal("5.99608046").scaleb(dated.price_decimals).to_integral_value(ROUND_HALF_UP)),
        funding_rate=0,
        next_funding_ns=0,
    )
    assert (second.funding_rate, second.next_funding_ns) == (-66_000, 1_694_419_200_000_000_000)
    (coin,) = binance.marks("inverse", by_native(COIN), answer("inverse.premium_one"), HEARD)
    assert coin.mark == 26_780_200


def test_aggregates_over_rest_are_what_frames_say_and_marked():
    (first, second) = binance.aggregates("spot", SPOT, answer("spot.backfill"), HEARD)
    assert first == Trade(
        instrument="binance:BTC-USDT",
        id=426_856_438,
        id_kind=IdKind.AGGREGATE,
        first_id=471_418_857,
        last_id=471_418_859,
        exchange_ns=1_605_740_428_136_000_000,
        received_ns=HEARD,
        price=17_829_750,
        qty=4_121_300,
        quote_cents=-1,
        side=Side.SELL,
        flags=TradeFlag.BACKFILL,
    )
    assert (second.side, second.first_id) == (Side.BUY, second.last_id)


@pytest.mark.parametrize("section", ["linear", "inverse"])
def test_each_aggregate_equals_the_frame_of_the_same_words(section):
    instrument = {"linear": PERP, "inverse": COIN}[section]
    body = answer(f"{section}.backfill")
    for found, entry in zip(binance.aggregates(section, instrument, body, HEARD), json.loads(body), strict=True):
        frame = json.dumps({"e": "aggTrade", "E": 1, "s": instrument.native_symbol, **entry}).encode()
        (heard,) = binance.parse(section, by_native(instrument), frame, HEARD)
        assert found.flags == heard.flags | TradeFlag.BACKFILL
        assert [getattr(found, name) for name in Trade.__struct_fields__ if name != "flags"] == [
            getattr(heard, name) for name in Trade.__struct_fields__ if name != "flags"
        ]


def test_single_trades_over_rest_have_the_base_quantity_the_venue_computes():
    body = answer("inverse.recent_trades")
    found = binance.recent_trades("inverse", COIN, body, HEARD)
    for trade, entry in zip(found, json.loads(body), strict=True):
        assert trade.qty == Decimal(entry["baseQty"]).scaleb(8)
        assert trade.id == trade.first_id == trade.last_id == entry["id"]
        assert trade.side is (Side.SELL if entry["isBuyerMaker"] else Side.BUY)
        assert (trade.id_kind, trade.flags) == (IdKind.TRADE, TradeFlag.BACKFILL)
    (whole, *_) = binance.aggregates("inverse", COIN, answer("inverse.backfill"))
    (single,) = [trade for trade in found if trade.id == whole.first_id]
    assert (single.price, single.qty, single.side) == (whole.price, whole.qty, whole.side)


def test_marked_and_empty_prints_over_rest_are_no_plain_flow():
    entry = {"id": 5, "price": "40000.10", "qty": "0.250", "quoteQty": "10000.02", "time": 9, "isBuyerMaker": True}
    body = [entry, {**entry, "isRPITrade": True}, {**entry, "qty": "0.000"}]
    flags = [trade.flags for trade in binance.recent_trades("linear", PERP, json.dumps(body).encode())]
    assert flags == [
        TradeFlag.BACKFILL,
        TradeFlag.BACKFILL | TradeFlag.RPI,
        TradeFlag.BACKFILL | TradeFlag.INTERNAL,
    ]


def test_an_answer_that_hides_a_side_is_refused():
    with pytest.raises(ParseError, match="missing required field `m`"):
        binance.aggregates("spot", SPOT, answer("spot.backfill_hidden"))


def test_server_time_is_in_nanoseconds():
    assert binance.server_time(b'{"serverTime":1499827319559}') == 1_499_827_319_559_000_000
    with pytest.raises(ParseError, match="server time"):
        binance.server_time(b'{"serverTime":-1}')


READERS = {
    "open_interest": lambda s, i, body: binance.open_interest(s, i, body, HEARD, 40_000_000),
    "funding_info": lambda s, _i, body: binance.funding_intervals(s, body),
    "funding": lambda s, i, body: binance.funding(s, by_native(i), body, HEARD),
    "premium": lambda s, i, body: binance.marks(s, by_native(i), body, HEARD),
    "premium_one": lambda s, i, body: binance.funding(s, by_native(i), body, HEARD),
    "backfill": binance.aggregates,
    "backfill_hidden": binance.aggregates,
    "recent_trades": binance.recent_trades,
}
BITS = [b"null", b"[", b"{", b"[]", b"{}", b'"', b"-", b"1e9", b"1e400", b"9" * 25, b"0", b"NaN", b"\xff", b'"-1"']


@given(st.data())
@settings(deadline=None, max_examples=400)
def test_mutated_answers_give_values_or_a_parse_error(data):
    name = data.draw(st.sampled_from(sorted(ANSWERS)))
    section, kind = name.decode().split(".")
    body = bytearray(ANSWERS[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at, what = data.draw(st.integers(0, max(0, len(body) - 1))), data.draw(st.integers(0, 3))
        if what == 0:
            body[at : at + 1] = bytes([data.draw(st.integers(0, 255))])
        elif what == 1:
            del body[at : at + data.draw(st.integers(1, 20))]
        elif what == 2:
            body[at:at] = data.draw(st.sampled_from(BITS))
        else:
            body = body[:at]
    instrument = {"linear": PERP, "inverse": COIN, "spot": SPOT}[section]
    with contextlib.suppress(ParseError):
        found = READERS[kind](section, instrument, bytes(body))
        for one in found if isinstance(found, list) else [found]:
            if isinstance(one, Interest):
                assert 0 <= one.open_interest < 2**63
            if isinstance(one, Trade) and not one.flags & TradeFlag.INTERNAL:
                assert 0 < one.price < 2**63
                assert 0 < one.qty < 2**63


@given(st.binary(max_size=120), st.sampled_from(sorted(READERS)))
@settings(deadline=None, max_examples=200)
def test_any_bytes_give_values_or_a_parse_error(body, kind):
    with contextlib.suppress(ParseError):
        READERS[kind]("linear", PERP, body)
    with contextlib.suppress(ParseError):
        binance.server_time(body)


@pytest.mark.parametrize("section", list(binance.SECTIONS))
def test_every_path_costs_something_and_fits_the_minute(section):
    where = binance.SECTIONS[section]
    for name, weight in where.weights.items():
        assert getattr(where, name).startswith("/")
        assert 1 <= weight <= where.weight_per_minute_max
