"""Many frames at once: whatever the frames, `parse_many` gives what `parse` gives one by one."""

import gzip
import json
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from squeezecore.errors import ParseError
from squeezecore.market import Trade, TradeFlag
from squeezecore.venues import Parsed, binance, trades_of
from support.recorded import WINDOW, frames, recordings, window_instrument
from support.store import assert_equal

SHIB = binance.instrument("linear", "1000SHIBUSDT")
ETH = binance.instrument("linear", "ETHUSDT")
COIN_ETH = binance.instrument("inverse", "ETHUSD_PERP")
TRADE = {"e": "trade", "E": 1, "T": 2, "s": "BTCUSDT", "t": 7, "p": "40000.10", "q": "0.250", "X": "MARKET", "m": False}
AGGREGATE = {"e": "aggTrade", "E": 1, "s": "BTCUSDT", "a": 9, "p": "40000.1", "q": "3.5", "f": 11, "l": 14, "T": 3, "m": True}  # fmt: skip
HEARD = 1_723_161_256_000_000_000


def known(section):
    more = {"linear": [SHIB, ETH], "inverse": [COIN_ETH], "spot": []}[section]
    return {instrument.native_symbol: instrument for instrument in [window_instrument(section), *more]}


def one_by_one(section, instruments, pack, heard):
    events, refused = [], []
    for frame, received in zip(pack, heard, strict=True):
        try:
            events += binance.parse(section, instruments, frame, received)
        except ParseError as error:
            refused.append(error)
    return Parsed(trades_of(events), [event for event in events if not isinstance(event, Trade)], refused)


def check(section, pack, instruments=None):
    instruments = known(section) if instruments is None else instruments
    heard = list(range(HEARD, HEARD + len(pack)))
    found, expected = (read(section, instruments, pack, heard) for read in (binance.parse_many, one_by_one))
    assert list(found.trades) == list(expected.trades)
    for name, block in expected.trades.items():
        assert_equal(block, found.trades[name])
    assert found.others == expected.others
    assert list(map(str, found.refused)) == list(map(str, expected.refused))
    return found


def encoded(message, *, wrapped=False):
    return json.dumps({"stream": "x", "data": message} if wrapped else message, separators=(",", ":")).encode()


@pytest.mark.parametrize("section", list(WINDOW))
def test_the_recorded_window_is_the_same_in_packs_of_any_size(section):
    window = [frame for _, frame in frames(section)]
    for at in range(0, len(window), 10):
        check(section, window[at : at + 1])
    for size in (7, 64, 1000):
        found = [check(section, window[at : at + size]) for at in range(0, len(window), size)]
    assert sum(len(block.id) for pack in found for block in pack.trades.values()) > 2_000
    assert sum(len(pack.others) for pack in found) > 100


@pytest.mark.parametrize("section", list(WINDOW))
def test_recorded_prints_take_the_fast_way_wrapped_and_bare(section, monkeypatch):
    window = [frame for _, frame in frames(section) if b'"e":"trade"' in frame][:500]
    bare = [json.dumps(json.loads(frame)["data"]).encode() for frame in window]
    monkeypatch.setattr(binance, "_parse_each", None)  # nothing may need it
    for pack in (window, bare):
        (block,) = binance.parse_many(section, known(section), pack, [HEARD] * len(pack)).trades.values()
        assert len(block.id) == len(pack)


def test_every_frame_of_the_larger_recordings_is_the_same():
    for path in sorted((recordings() / "history" / "raw_ws").glob("binance.*.gz")):
        section = path.name.split(".")[1]
        with gzip.open(path) as lines:
            pack = [line.split(b" ", 1)[1].rstrip() for _, line in zip(range(20_000), lines, strict=False)]
        prints = 0
        for at in range(0, len(pack), 250):
            prints += sum(len(block.id) for block in check(section, pack[at : at + 250]).trades.values())
        assert prints > 100


@pytest.mark.parametrize("section", ["spot", "linear", "inverse"])
@pytest.mark.parametrize("folder", ["cryptofeed", "crypto-msg-parser", "tardis", "nautilus"])
def test_every_recorded_kind_of_frame_is_the_same(section, folder):
    for path in sorted((recordings() / "raw" / folder).glob(f"binance.{section}.*.jsonl*")):
        if ".rest_" not in path.name:
            text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            pack = text.splitlines()[:3_000]
            check(section, pack)
            for at in range(0, len(pack), 50):
                check(section, pack[at : at + 50])


def test_no_frame_gives_nothing():
    assert check("linear", []) == Parsed({}, [], [])


def test_one_bad_frame_spoils_no_other():
    good = encoded(TRADE)
    found = check("linear", [good, encoded({**TRADE, "p": "-1"}), b"", b"{", encoded({**TRADE, "t": 8})])
    assert [block.id.tolist() for block in found.trades.values()] == [[7, 8]]
    assert len(found.refused) == 3


def test_a_value_never_reaches_from_one_frame_into_the_next():
    good = encoded(TRADE)
    broken = [
        [good + b',{"a":[{}', b"{}]," + good[1:]],
        [b'{"a":"}', b'{"}'],
        [good + good, b"{"],
        [good[:20], good[20:]],
        [good + b"\n" + good],
        [good + b"\n{", good],
        [b"[" + good + b"]", good],
        [b'{"stream":"x","data":' + good + b"}", good],
        [b'{ "stream":"x","data":' + good + b',"id":5,"result":null}'],
        [b'{"stream":5,"data":' + good + b"}"],
        [b'{"stream":"x",' + good[1:]],
    ]
    for pack in broken:
        check("linear", pack)


def test_marks_of_prints_survive():
    found = check("linear", [encoded({**TRADE, "X": kind}) for kind in ("MARKET", "RPI")])
    assert found.trades["binance:BTC-USDT-PERP"].flags.tolist() == [0, TradeFlag.RPI]
    check("linear", [encoded({**TRADE, "X": kind}) for kind in ("MARKET", "ADL", "NA")])
    aggregates = [AGGREGATE, {**AGGREGATE, "nq": "1.5"}, {**AGGREGATE, "nq": "3.50"}, {**AGGREGATE, "nq": "3.5"}]
    found = check("linear", [encoded(one) for one in aggregates])
    assert found.trades["binance:BTC-USDT-PERP"].flags.tolist() == [0, TradeFlag.RPI, 0, 0]


def test_a_quantity_that_only_coarse_scales_can_hold_is_read():
    # eight decimals of 1e12 units would pass 63 bits; the instrument's own scale holds them
    pepe = binance.instrument("linear", "1000PEPEUSDT")
    frame = encoded({**AGGREGATE, "s": "1000PEPEUSDT", "p": "0.0078000", "q": "900000000000", "nq": "1"})
    found = check("linear", [frame], {"1000PEPEUSDT": pepe})
    assert Decimal(int(found.trades[pepe.id].qty[0])).scaleb(-pepe.qty_decimals) == Decimal(9 * 10**14)


CHANGES = {
    "p": ["0", "40000.123", "1e4", "NaN", "9" * 30, "0.0136", ".5", "7."],
    "q": ["0.000", "1", "1e2", "9" * 18, "00.1", "12345.678", "9e15"],
    "X": ["RPI", "ADL", "INSURANCE_FUND", "NA", ""],
    "s": ["ETHUSDT", "1000SHIBUSDT", "BTCUSD_PERP", "ETHUSD_PERP", "DOGEUSDT"],
    "m": [True, False, None],
    "t": [0, -1, 2**63 - 1, 2**63],
    "a": [0, -1, 2**63 - 1],
    "l": [10, 11, 2**63 - 1],
    "nq": ["3.5", "0", "3.500", "x", None],
    "T": [0, 2**62, 9_223_372_036_854],
    "e": ["trade", "aggTrade", "kline", "markPriceUpdate"],
}
STRANGERS = [
    b'{"result":null,"id":3}',
    b'{"error":{"code":2,"msg":"Invalid request"},"id":3}',
    b'{"u":1,"s":"BTCUSDT","b":"1.5","B":"2","a":"3","A":"4"}',
    b'{"e":"bookTicker","u":1,"s":"BTCUSDT","b":"1.5","B":"2","a":"3","A":"4","T":5}',
    b'{"e":"markPriceUpdate","E":5,"s":"BTCUSDT","p":"40000.12345678","r":"-0.0001","T":9}',
    b"[]",
    b"null",
    b"",
]


@st.composite
def frame(draw):
    if draw(st.integers(0, 19)) == 0:
        return draw(st.sampled_from(STRANGERS))
    message = dict(draw(st.sampled_from([TRADE, AGGREGATE])))
    for name in draw(st.sets(st.sampled_from(sorted(CHANGES)), max_size=2)) if draw(st.booleans()) else ():
        message[name] = draw(st.sampled_from(CHANGES[name]))
    return encoded(message, wrapped=draw(st.booleans()))


@given(st.sampled_from(list(WINDOW)), st.lists(frame(), max_size=8), st.booleans())
@settings(deadline=None, max_examples=500)
@example("linear", [encoded(TRADE), encoded(AGGREGATE)], False)
def test_any_pack_is_what_its_frames_are_one_by_one(section, pack, alike):
    if alike:  # of one form, so that the fast way is taken more often
        pack = [one for one in pack if one[:9] == pack[0][:9]]
    if section == "inverse":
        pack = [one.replace(b'"BTCUSDT"', b'"BTCUSD_PERP"').replace(b"0.250", b"25") for one in pack]
    check(section, pack)


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_mutated_packs_are_what_their_frames_are_one_by_one(data):
    section = data.draw(st.sampled_from(list(WINDOW)))
    window = frames(section)
    start = data.draw(st.integers(0, len(window) - 6))
    pack = [bytearray(one) for _, one in window[start : start + 6]]
    for _ in range(data.draw(st.integers(0, 3))):
        victim = data.draw(st.sampled_from(pack))
        at = data.draw(st.integers(0, max(0, len(victim) - 1)))
        if data.draw(st.booleans()):
            victim[at : at + 1] = bytes([data.draw(st.sampled_from([*b'{}[],:"\n-.e09', 0, 255]))])
        else:
            del victim[at:]
    check(section, [bytes(one) for one in pack])
