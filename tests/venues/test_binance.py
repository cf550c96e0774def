"""Binance: recorded frames give their values, any bytes give values or `ParseError`, names never default to spot."""

import contextlib
import gzip
import json
from collections import Counter
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezecore.errors import ParseError, UsageError
from squeezecore.market import (
    BookDelta,
    IdKind,
    Kind,
    Liquidation,
    Margin,
    MarkPrice,
    Quote,
    Side,
    Trade,
    TradeFlag,
)
from squeezecore.venues import ArchiveFile, Control, Feed, Unknown, binance, fixed, fixed_rounded, venue
from support.recorded import FIXTURES, WINDOW, frames, recordings, window_events, window_instrument, window_trades

SECTIONS = list(WINDOW)
HEARD = 1_723_161_256_000_000_000


def linear(native="BTCUSDT", price=None):
    return binance.instrument("linear", native, price)


def parse(section, frame, *instruments):
    known = {instrument.native_symbol: instrument for instrument in instruments}
    return venue("binance").parse(
        section, known, frame if isinstance(frame, bytes) else json.dumps(frame).encode(), HEARD
    )


def trade_frame(**changes):
    # written from the documented form; the values are ours
    message = {"e": "trade", "E": 1_700_000_000_001, "T": 1_700_000_000_000, "s": "BTCUSDT", "t": 7, "p": "40000.10"}
    return {**message, "q": "0.250", "X": "MARKET", "m": False, **changes}


@pytest.mark.parametrize("section", SECTIONS)
def test_each_recorded_trade_frame_has_the_values_that_decimals_give(section):
    instrument = window_instrument(section)
    prints = [event for event in window_events(section) if isinstance(event, Trade)]
    messages = [json.loads(frame)["data"] for _, frame in frames(section) if b'"e":"trade"' in frame]
    assert len(prints) == len(messages)
    for event, message in zip(prints, messages, strict=True):
        price, qty = Decimal(message["p"]), Decimal(message["q"])
        cents = -1
        if section == "inverse":
            cents = int(qty * 100 * 100)
            qty = (qty * 100 / price).quantize(Decimal("1e-8"), ROUND_HALF_UP)
        assert event.id == event.first_id == event.last_id == message["t"]
        assert event.exchange_ns == message["T"] * 10**6
        assert event.price == price.scaleb(instrument.price_decimals)
        assert event.qty == qty.scaleb(instrument.qty_decimals)
        assert event.quote_cents == cents
        assert event.side is (Side.SELL if message["m"] else Side.BUY)
        assert (event.flags, event.id_kind) == (TradeFlag(0), IdKind.TRADE)


@pytest.mark.parametrize("section", SECTIONS)
def test_each_recorded_quote_and_book_frame_has_its_values(section):
    instrument = window_instrument(section)
    books = [event for event in window_events(section) if isinstance(event, Quote | BookDelta)]
    messages = [json.loads(frame)["data"] for _, frame in frames(section) if b'"e":"trade"' not in frame]
    assert len(books) == len(messages) > 100

    def level(price, qty):
        price_units = int(Decimal(price).scaleb(instrument.price_decimals))
        if section != "inverse":
            return price_units, int(Decimal(qty).scaleb(instrument.qty_decimals))
        base = (Decimal(qty) * 100 / Decimal(price)).quantize(Decimal("1e-8"), ROUND_HALF_UP)
        return price_units, int(base.scaleb(8))

    for event, message in zip(books, messages, strict=True):
        if isinstance(event, Quote):
            assert (event.bid, event.bid_qty) == level(message["b"], message["B"])
            assert (event.ask, event.ask_qty) == level(message["a"], message["A"])
            assert event.update_id == message["u"]
            assert event.exchange_ns == message.get("T", 0) * 10**6
            assert event.bid < event.ask
        else:
            assert event.bids == tuple(level(*entry) for entry in message["b"])
            assert event.asks == tuple(level(*entry) for entry in message["a"])
            assert (event.first_id, event.last_id) == (message["U"], message["u"])
            assert event.previous_id == message.get("pu", -1)


@pytest.mark.parametrize("section", SECTIONS)
def test_price_moves_agree_with_the_takers_side(section):
    trades = window_trades(section)
    moves = [
        (b - a, side) for (a, b), side in zip(pairwise(trades.price.tolist()), trades.side[1:].tolist(), strict=True)
    ]
    agree = [(move > 0) == (side > 0) for move, side in moves if move]
    assert len(agree) > 200
    assert sum(agree) / len(agree) > 0.9


@pytest.mark.parametrize("section", SECTIONS)
def test_recorded_ids_are_contiguous(section):
    assert set((window_trades(section).id[1:] - window_trades(section).id[:-1]).tolist()) == {1}


def test_a_base_quantity_equals_the_one_the_venue_computes():
    # (contracts, price, the venue's own baseQty), from REST answers recorded by gocryptotrader (see NOTICE)
    perp = binance.instrument("inverse", "BTCUSD_PERP")
    for contracts, price, base in (
        ("1", "19100.5", "0.00523547"),
        ("40", "19099.7", "0.20942737"),
        ("37", "19099.7", "0.19372032"),
        ("70", "19099.6", "0.36649982"),
    ):
        _, qty, cents = binance.amounts(perp, price, contracts)
        assert qty == Decimal(base).scaleb(8)
        assert cents == int(contracts) * 100 * 100


def test_a_bare_frame_and_a_wrapped_one_say_the_same():
    message = trade_frame()
    wrapped = {"stream": "btcusdt@trade", "data": message}
    assert parse("linear", message, linear()) == parse("linear", wrapped, linear())
    spaced = json.dumps(wrapped, indent=1).encode()
    assert parse("linear", spaced, linear()) == parse("linear", message, linear())
    reordered = json.dumps({"data": message, "stream": "btcusdt@trade"}).encode()
    assert parse("linear", reordered, linear()) == parse("linear", message, linear())


def test_only_market_and_rpi_prints_are_flow():
    def flags(kind):
        (trade, *rest) = parse("linear", trade_frame(X=kind), linear())
        return trade.flags, rest

    assert flags("MARKET") == (TradeFlag(0), [])
    assert flags("RPI") == (TradeFlag.RPI, [])
    assert flags("ADL") == flags("INSURANCE_FUND") == (TradeFlag.INTERNAL, [])
    internal, (unknown,) = flags("NA")
    assert internal == TradeFlag.INTERNAL
    assert unknown.what == "X NA"
    (empty, *_) = parse("linear", trade_frame(X="NA", p="0", q="0"), linear())  # it still uses up an id
    assert (empty.id, empty.qty) == (7, 0)


def test_an_aggregate_names_its_own_id_and_the_trades_inside():
    frame = {
        "e": "aggTrade",
        "E": 2,
        "a": 90,
        "s": "BTCUSDT",
        "p": "40000.1",
        "q": "35.5",
        "f": 11,
        "l": 14,
        "T": 1,
        "m": True,
    }
    (trade,) = parse("linear", frame, linear())
    assert (trade.id, trade.first_id, trade.last_id, trade.id_kind) == (90, 11, 14, IdKind.AGGREGATE)
    assert (trade.side, trade.qty, trade.flags) == (Side.SELL, 3_550_000_000, TradeFlag(0))
    (partly,) = parse("linear", {**frame, "nq": "1.5"}, linear())
    assert partly.flags == TradeFlag.RPI
    (none,) = parse("linear", {**frame, "nq": "35.500"}, linear())
    assert none.flags == TradeFlag(0)
    with pytest.raises(ParseError, match="last must not lie before the first"):
        parse("linear", {**frame, "l": 10}, linear())


def test_mark_prices_come_alone_and_in_lists():
    one = {"e": "markPriceUpdate", "E": 1_700_000_000_000, "s": "BTCUSDT", "p": "40000.12345678", "i": "39999.9995"}
    one |= {"P": "40001.0", "r": "-0.00010000", "T": 1_700_006_400_000}
    dated = {"e": "markPriceUpdate", "E": 5, "s": "BTCUSDT_241227", "p": "41000.00", "r": "", "T": 0}
    future = linear("BTCUSDT_241227")
    (event,) = parse("linear", one, linear())
    assert event == MarkPrice(
        instrument="binance:BTC-USDT-PERP",
        exchange_ns=1_700_000_000_000_000_000,
        received_ns=HEARD,
        mark=40_000_123,
        index=40_000_000,  # 39999.9995 rounds half away
        funding_rate=-1_000_000,
        next_funding_ns=1_700_006_400_000_000_000,
    )
    both = parse("linear", {"stream": "!markPrice@arr", "data": [one, dated]}, linear(), future)
    assert both[0] == event
    assert (both[1].funding_rate, both[1].next_funding_ns, both[1].index) == (0, 0, 0)


def test_a_forced_sell_order_is_a_liquidated_long():
    order = {"s": "BTCUSDT", "S": "SELL", "o": "LIMIT", "f": "IOC", "q": "0.014", "p": "40000", "ap": "40010.5"}
    frame = {"e": "forceOrder", "E": 4, "o": {**order, "X": "FILLED", "l": "0.014", "z": "0.014", "T": 3}}
    (event,) = parse("linear", frame, linear())
    assert event == Liquidation(
        instrument="binance:BTC-USDT-PERP",
        exchange_ns=3_000_000,
        received_ns=HEARD,
        liquidated=Side.BUY,
        price=40_010_500,
        qty=1_400_000,
        complete=False,
    )
    coin = binance.instrument("inverse", "BTCUSD_PERP")
    (event,) = parse("inverse", {**frame, "o": {**frame["o"], "s": "BTCUSD_PERP", "S": "BUY", "q": "8"}}, coin)
    assert (event.liquidated, event.qty) == (Side.SELL, round(800 / 40010.5 * 1e8))


def test_a_listed_thousand_becomes_single_units():
    shib = linear("1000SHIBUSDT")
    (trade,) = parse("linear", trade_frame(s="1000SHIBUSDT", p="0.013600", q="20"), shib)
    assert (shib.base, shib.multiplier, shib.symbol) == ("SHIB", 1000, "SHIB-USDT-PERP")
    assert Decimal(trade.price).scaleb(-shib.price_decimals) == Decimal("0.0000136")
    assert Decimal(trade.qty).scaleb(-shib.qty_decimals) == 20_000
    mark = {"e": "markPriceUpdate", "E": 5, "s": "1000SHIBUSDT", "p": "0.01360000", "r": "0.0001", "T": 9}
    (event,) = parse("linear", mark, shib)
    assert event.mark == trade.price


def test_answers_errors_and_strangers_are_told_apart():
    check = lambda frame: parse("linear", frame, linear())  # noqa: E731
    assert check({"result": None, "id": 3}) == [Control(request_id=3, ok=True, detail="")]
    refused = Control(request_id=3, ok=False, detail="Invalid request")
    assert check({"error": {"code": 2, "msg": "Invalid request"}, "id": 3}) == [refused]
    assert check({"code": 2, "msg": "Invalid request"}) == [Control(request_id=0, ok=False, detail="Invalid request")]
    assert [e.what for e in check({"e": "kline", "s": "BTCUSDT"})] == ["type kline"]
    assert [e.what for e in check({"stream": "btcusdt@kline_1m", "data": {"e": "kline"}})] == ["type kline"]
    assert [e.what for e in check(trade_frame(s="ETHUSDT"))] == ["instrument ETHUSDT"]
    assert all(isinstance(e, Unknown) for e in check({"lastUpdateId": 5, "bids": []}))


@pytest.mark.parametrize(
    "changes",
    [
        {"p": "NaN"},
        {"p": "-1"},
        {"p": "0"},
        {"q": "0.000"},
        {"q": "1e400"},
        {"p": "40000.12345"},  # finer than the instrument's scale
        {"q": "9" * 30},
        {"q": "٣"},
        {"t": -1},
        {"t": 2**64},
        {"T": 2**62},
        {"m": "true"},
        {"p": None},
        {"p": 40000.1},
    ],
)
def test_a_broken_value_is_refused(changes):
    with pytest.raises(ParseError, match="binance linear"):
        parse("linear", trade_frame(**changes), linear())


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=150)
def test_any_bytes_give_values_or_a_parse_error(data):
    with contextlib.suppress(ParseError):
        parse("linear", data, linear())


@given(st.data())
@settings(deadline=None, max_examples=250)
def test_mutated_frames_give_values_or_a_parse_error(data):
    section = data.draw(st.sampled_from(SECTIONS))
    frame = bytearray(data.draw(st.sampled_from(frames(section)[::50]))[1])
    for _ in range(data.draw(st.integers(1, 4))):
        if not frame:
            break
        at, what = data.draw(st.integers(0, len(frame) - 1)), data.draw(st.integers(0, 3))
        if what == 0:
            frame[at] = data.draw(st.integers(0, 255))
        elif what == 1:
            del frame[at : at + data.draw(st.integers(1, 20))]
        elif what == 2:
            frame[at:at] = data.draw(st.sampled_from([b"null", b"[", b"{", b'"', b"-", b"1e9", b"9" * 25, b"0"]))
        else:
            frame = frame[: at + 1]
    try:
        events = parse(section, bytes(frame), window_instrument(section))
    except ParseError:
        return
    for event in events:
        if isinstance(event, Trade) and not event.flags:
            assert 0 < event.price < 2**63
            assert 0 < event.qty < 2**63


NAMES = [  # section, native, symbol, base, quote, kind, margin, size, expiry
    ("spot", "BTCUSDT", "BTC-USDT", "BTC", "USDT", Kind.SPOT, Margin.NONE, 1, 0),
    ("spot", "ETHBTC", "ETH-BTC", "ETH", "BTC", Kind.SPOT, Margin.NONE, 1, 0),
    ("spot", "BTCEUR", "BTC-EUR", "BTC", "EUR", Kind.SPOT, Margin.NONE, 1, 0),
    ("spot", "PERPUSDT", "PERP-USDT", "PERP", "USDT", Kind.SPOT, Margin.NONE, 1, 0),
    ("spot", "C98USDT", "C98-USDT", "C98", "USDT", Kind.SPOT, Margin.NONE, 1, 0),
    ("linear", "BTCUSDT", "BTC-USDT-PERP", "BTC", "USDT", Kind.PERP, Margin.LINEAR, 1, 0),
    ("linear", "BTCUSDT_221230", "BTC-USDT-221230", "BTC", "USDT", Kind.FUTURE, Margin.LINEAR, 1, 1_672_387_200),
    ("linear", "1000SHIBUSDT", "SHIB-USDT-PERP", "SHIB", "USDT", Kind.PERP, Margin.LINEAR, 1, 0),
    ("linear", "BTCDOMUSDT", "BTCDOM-USDT-PERP", "BTCDOM", "USDT", Kind.PERP, Margin.LINEAR, 1, 0),
    ("inverse", "BTCUSD_PERP", "BTC-USD-PERP", "BTC", "USD", Kind.PERP, Margin.INVERSE, 100, 0),
    ("inverse", "ETHUSD_PERP", "ETH-USD-PERP", "ETH", "USD", Kind.PERP, Margin.INVERSE, 10, 0),
    ("inverse", "BTCUSD_230331", "BTC-USD-230331", "BTC", "USD", Kind.FUTURE, Margin.INVERSE, 100, 1_680_249_600),
]


@pytest.mark.parametrize("row", NAMES, ids=lambda row: f"{row[0]}-{row[1]}")
def test_names_are_read_by_the_sections_rules(row):
    section, native, symbol, base, quote, kind, margin, size, expiry_s = row
    made = binance.instrument(section, native, Decimal(10))
    assert (made.symbol, made.base, made.quote, made.kind, made.margin) == (symbol, base, quote, kind, margin)
    assert (made.contract_size, made.expiry_s, made.native_symbol) == (size, expiry_s, native)


@pytest.mark.parametrize(
    ("section", "native"),
    [
        ("spot", "FOO~BAR"),
        ("spot", "btcusdt"),
        ("spot", "BTCUSDT_221230"),
        ("linear", "BTCUSD_PERP"),
        ("linear", "BTCUSDT_221332"),
        ("inverse", "BTCUSDT"),
        ("inverse", "BTCUSD"),
        ("linear", "币安人生USDT"),
    ],
)
def test_a_name_no_rule_covers_is_unknown_and_never_spot(section, native):
    assert binance.kind(section, native) is Kind.UNKNOWN
    with pytest.raises(UsageError, match="no name rule"):
        binance.instrument(section, native, Decimal(10))


def test_scales_of_known_bases_do_not_depend_on_what_was_imported_first():
    assert binance.instrument("spot", "BTCUSDT", Decimal(9)) == binance.instrument("spot", "BTCUSDT", Decimal(100_000))
    for section, native in (("spot", "BTCUSDT"), ("linear", "BTCUSDT"), ("inverse", "BTCUSD_PERP")):
        made = binance.instrument(section, native)
        assert (made.price_decimals, made.qty_decimals) == (3, 8)
    with pytest.raises(UsageError, match="pass a price"):
        binance.instrument("spot", "GASUSDT")
    assert binance.instrument("spot", "GASUSDT", Decimal("2.5")).price_decimals == 7


@pytest.mark.parametrize("section", SECTIONS)
def test_the_list_and_the_name_make_the_same_instrument(section):
    found, unknown = binance.instruments(section, (FIXTURES / f"binance.{section}.exchange_info.json").read_bytes())
    assert not unknown
    by_native = {made.native_symbol: made for made in found}
    native = WINDOW[section][0]
    assert by_native[native] == binance.instrument(section, native)
    if section == "inverse":
        assert by_native["DOGEUSD_PERP"].contract_size == 10
        assert by_native["GALAUSD_PERP"].kind is Kind.PERP
        assert by_native["BTCUSD_PERP"].settle == "BTC"


def test_a_list_that_contradicts_a_name_makes_no_instrument():
    entry = {"symbol": "BTCSTUSDT", "baseAsset": "BTCST", "quoteAsset": "USDT", "contractType": "", "deliveryDate": 0}
    entry["filters"] = [{"filterType": "PRICE_FILTER", "tickSize": "0.01"}, {"filterType": "LOT_SIZE", "stepSize": "1"}]
    found, (unknown,) = binance.instruments("linear", json.dumps({"symbols": [entry]}).encode())
    assert not found
    assert "BTCSTUSDT" in unknown.what
    with pytest.raises(ParseError, match="instrument list"):
        binance.instruments("linear", b'{"symbols":[{"symbol":1}]}')


def test_every_name_of_the_recorded_lists_is_known_and_unique():
    folder = recordings() / "raw"
    lists = [
        ("spot", folder / "cryptofeed/binance.spot.rest_instruments.jsonl.gz"),
        ("linear", folder / "cryptofeed/binance.linear.rest_instruments.jsonl"),
        ("inverse", folder / "cryptofeed/binance.inverse.rest_instruments.jsonl"),
        ("spot", folder / "gocryptotrader/binance.spot.rest_instruments.jsonl"),
        ("linear", folder / "markets/binance.linear.instruments.2022-12-06.jsonl"),
        ("inverse", folder / "markets/binance.inverse.instruments.2022-11-23.jsonl"),
    ]
    strangers = Counter()
    for section, path in lists:
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        body = text.splitlines()[0]
        if "markets" in str(path):
            body = json.dumps([entry.get("info", entry) for entry in json.loads(body)]).encode()
        found, unknown = binance.instruments(section, body)
        assert len({made.id for made in found}) == len(found) > 20
        strangers.update(event.what.split(":")[0].removeprefix("instrument ") for event in unknown)
    assert set(strangers) == {"BTCSTUSDT"}  # its contractType is empty


def test_subscriptions_go_to_the_url_that_bears_them():
    pairs = binance.subscribe("linear", ["BTCUSDT", "ETHUSDT"], [Feed.TRADE, Feed.MARK], 5)
    assert pairs == [
        (
            "wss://fstream.binance.com/public/ws",
            b'{"method":"SUBSCRIBE","params":["btcusdt@trade","ethusdt@trade"],"id":5}',
        ),
        (
            "wss://fstream.binance.com/market/ws",
            b'{"method":"SUBSCRIBE","params":["btcusdt@markPrice@1s","ethusdt@markPrice@1s"],"id":6}',
        ),
    ]
    with pytest.raises(UsageError, match="feed was mark"):
        binance.subscribe("spot", ["BTCUSDT"], [Feed.MARK], 1)


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("period", ["2024-08-08", "2024-08"])
def test_archive_paths_read_back(section, period):
    file = ArchiveFile(section=section, kind="aggTrades", native_symbol=WINDOW[section][0], period=period)
    assert binance.archive_file(f"/home/me/{binance.archive_path(file)}") == file
    assert binance.archive_file(f"C:\\{binance.archive_path(file)}".replace("/", "\\")) == file


@pytest.mark.parametrize(
    "path",
    [
        "BTCUSDT-aggTrades-2024-08-08.zip",
        "data/futures/um/daily/aggTrades/BTCUSDT/ETHUSDT-aggTrades-2024-08-08.zip",
        "data/futures/um/monthly/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2024-08-08.zip",
        "data/option/daily/trades/BTCUSDT/BTCUSDT-trades-2024-08-08.zip",
    ],
)
def test_a_path_that_does_not_say_its_market_says_nothing(path):
    assert binance.archive_file(path) is None


@given(st.decimals(0, 10**9, places=9), st.integers(0, 9))
@settings(deadline=None, max_examples=200)
def test_decimals_are_read_exactly_or_refused(value, decimals):
    text = f"{value:f}"
    shifted = value.scaleb(decimals)
    if shifted == int(shifted):
        assert fixed(text, decimals) == shifted
        assert fixed(f"{value:e}", decimals) == shifted
    else:
        with pytest.raises(ParseError, match="store it with more decimals"):
            fixed(text, decimals)
    assert fixed_rounded(text, decimals) == int(shifted.quantize(Decimal(1), ROUND_HALF_UP))


@pytest.mark.parametrize(
    "text", ["", ".", "+1", "-1", "1_000", " 1", "1 ", "0x10", "inf", "nan", "1e99", "1,5", "1" * 50]
)
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ParseError):
        fixed(text, 2)


def test_an_unknown_venue_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean binance"):
        venue("binanse")
