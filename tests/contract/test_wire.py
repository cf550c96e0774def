"""The wire's contract: what is written is read back, each type has one subject, what is not understood is refused."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezecore import wire
from squeezecore.errors import ParseError, UsageError
from squeezecore.market import Rows, Side, Trades, Watermark, concat, dtypes, empty
from squeezecore.risk import Holding, Pending, TradingState
from squeezecore.spec import AssetConfig, MarketConfig
from squeezecore.trading import Decision, Direction, Fill, Liquidity, Order, OrderState, OrderUpdate, Parts, Signal

GOLDEN = Path(__file__).with_name("wire.json")
TS = 1_767_225_600
PERP = "binance:BTC-USDT-PERP"
STANDING = wire.Standing(equity_usd_e8=1, day_open_usd_e8=1, week_open_usd_e8=1, peak_usd_e8=1)
CLOCK = wire.Clock(account="paper", settled_ts=1, standing=STANDING)


def block(kind, count, seed=1):
    rng = np.random.default_rng(seed)
    return kind(*(rng.integers(0, 100, count).astype(dtype) for dtype in dtypes(kind).values()))


def samples():
    """Return one message of each type, the same on every machine."""
    prints, rows = empty(Trades), empty(Rows)
    prints = type(prints)(*(np.arange(2, dtype=column.dtype) + k for k, column in enumerate(prints)))
    rows = type(rows)(*(np.arange(2, dtype=column.dtype) - k for k, column in enumerate(rows)))
    config = AssetConfig(traded=PERP, markets=(MarketConfig(instrument=PERP, weight_ppm=500_000),))
    order = Order(
        id="sf-1", account="paper", asset="BTC", instrument=PERP, decided_ts=TS, side=Side.SELL, qty=5, reason="entry"
    )
    fill = Fill(
        id="sf-1.0", order_id="sf-1", account="paper", asset="BTC", instrument=PERP, ts=TS + 1, side=Side.SELL,
        price=60_000_000, qty=5, fee_usd_e8=7, slippage_usd_e8=-3, liquidity=Liquidity.TAKER,
    )  # fmt: skip
    decision = Decision(
        asset="BTC", ts=TS, kind="entry", direction=Direction.BEARISH, score_milli=4200, phase="RESET_A", reset_low=1,
        reset_high=2, parts=Parts(absorption=250), blocked_by=("quality",), inputs={"z_spot_300": -0.5}, order_id="sf-1",
    )  # fmt: skip
    standing = wire.Standing(
        equity_usd_e8=10, day_open_usd_e8=11, week_open_usd_e8=12, peak_usd_e8=13, gross_usd_e8=4,
        holdings=(Holding(asset="BTC", instrument=PERP, qty=-5),), open_orders=(Pending(order, 3),), sent_ts=(TS - 1, TS),
        clusters=(("BTC", "ETH"),), state=TradingState.REDUCING, kill_switch=True,
    )  # fmt: skip
    return [
        wire.TradeBatch("binance", "spot-trade", TS * 10**9, ("binance:BTC-USDT",), (prints,)),
        Watermark(venue="binance", feed="spot-trade", connection=2, exchange_ns=TS * 10**9, alive=True),
        wire.InterestFact(
            venue="binance",
            feed="linear",
            instrument=PERP,
            event_ts=TS,
            known_at=TS + 3,
            open_interest=9,
            interval_s=60,
        ),
        wire.FundingFact(
            venue="binance",
            feed="linear",
            instrument=PERP,
            event_ts=TS,
            known_at=TS,
            rate=-5,
            interval_s=28_800,
            settled=True,
        ),
        wire.MarkFact(venue="binance", feed="linear", instrument=PERP, known_at=TS, mark=60_000_001),
        wire.RowBatch(TS, ("BTC", "ETH"), rows),
        wire.RepairBatch(TS, ("BTC", "ETH"), rows),
        wire.AssetChange(asset="BTC", from_ts=TS, config=config),
        wire.AssetChange(asset="BTC", from_ts=TS, config=None),
        Signal(asset="BTC", ts=TS, direction=Direction.BULLISH, score_milli=4100, reasons=("reset",), params_hash="ab"),
        order,
        OrderUpdate(order_id="sf-1", ts=TS, state=OrderState.DENIED, reason="leverage", limit="5", value="7"),
        wire.Lead(account="paper", holder="pod-1", previous_seq=3),
        wire.Clock(account="paper", settled_ts=TS, standing=standing),
        wire.Decided(account="paper", ts=TS, kill_switch=True, state=TradingState.HALTED),
        wire.Sending(account="paper", order=order, lead_seq=7),
        wire.Payment(account="paper", instrument=PERP, ts=TS, received_usd_e8=-12),
        fill,
        decision,
    ]


def equal(a, b):
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("message", samples(), ids=lambda m: type(m).__name__)
def test_what_is_written_is_read_back(message):
    assert equal(wire.decode(wire.subject(message), wire.encode(message)), message)


def test_each_type_has_exactly_one_subject():
    prefixes = [prefix for prefix, _ in wire.SUBJECTS.values()]
    assert len(set(prefixes)) == len(prefixes)
    assert {type(message) for message in samples()} == set(wire.SUBJECTS) == set(wire.Message.__args__)
    for message in samples():
        name = wire.subject(message)
        assert wire.type_of(name) is type(message)
        assert len(name.split(".")) <= wire.TOKENS_MAX
        streams = [stream for stream, (pattern,) in wire.STREAMS.items() if name.startswith(pattern.removesuffix(">"))]
        assert len(streams) == 1


def contract():
    """Return what other versions rely on: subject, fields and bytes of each message."""
    lines = {}
    for message in samples():
        kind = type(message)
        fields = list(getattr(kind, "_fields", None) or kind.__struct_fields__)
        lines.setdefault(
            kind.__name__, {"subject": wire.subject(message), "fields": fields, "bytes": wire.encode(message).hex()}
        )
    return {"schema": wire.SCHEMA, "trades": list(Trades._fields), "rows": list(Rows._fields), "messages": lines}


def test_a_change_of_any_message_is_a_change_of_this_file():
    assert json.loads(GOLDEN.read_text()) == contract(), (
        f"raise wire.SCHEMA, then rewrite: python {Path(__file__).name}"
    )


@pytest.mark.parametrize("message", samples(), ids=lambda m: type(m).__name__)
def test_other_versions_and_other_lengths_are_refused(message):
    name, values = wire.subject(message), msgspec.msgpack.decode(wire.encode(message))
    for schema in (wire.SCHEMA + 1, 0, None, "1", True):
        with pytest.raises(ParseError, match="update the older side"):
            wire.decode(name, msgspec.msgpack.encode([schema, *values[1:]]))
    with pytest.raises(ParseError, match="fields"):
        wire.decode(name, msgspec.msgpack.encode([*values, 0]))
    with pytest.raises(ParseError, match="fields"):
        wire.decode(name, msgspec.msgpack.encode(values[:-1]))
    with pytest.raises(ParseError):
        wire.decode(name, msgspec.msgpack.encode([*values[:-1], {"other": 1}]))


@pytest.mark.parametrize(
    "name", ["md.v1.trade.binance", "md.v2.trade.binance.x", "flow.v1.rows.a", "", "md.v1.trade.a.b c"]
)
def test_a_subject_nobody_uses_is_refused(name):
    with pytest.raises(ParseError, match="known are"):
        wire.type_of(name)


def test_a_message_on_a_foreign_subject_is_refused():
    with pytest.raises(ParseError, match=r"belongs on trade\.v1\.clock\.paper"):
        wire.decode("trade.v1.clock.live", wire.encode(CLOCK))


def test_a_token_with_a_dot_is_refused():
    with pytest.raises(UsageError, match="subject token"):
        wire.subject(msgspec.structs.replace(CLOCK, account="a.b"))


def test_columns_of_unequal_length_are_refused():
    prints = block(Trades, 3)
    broken = wire.TradeBatch("binance", "x", 1, ("binance:BTC-USDT",), (prints._replace(id=prints.id[:2]),))
    with pytest.raises(UsageError, match="must be equal"):
        wire.encode(broken)
    values = msgspec.msgpack.decode(wire.encode(broken._replace(trades=(prints,))))
    values[5][0][0] = values[5][0][0][:-8]
    with pytest.raises(ParseError, match="different lengths"):
        wire.decode("md.v1.trade.binance.x", msgspec.msgpack.encode(values))
    values[5][0][0] = values[5][0][0][:-3]
    with pytest.raises(ParseError, match="multiple of 8"):
        wire.decode("md.v1.trade.binance.x", msgspec.msgpack.encode(values))


def test_rows_go_sorted_by_asset_each_once():
    for assets in (("ETH", "BTC"), ("BTC", "BTC"), ("BTC",)):
        with pytest.raises(UsageError, match="sorted"):
            wire.encode(wire.RowBatch(TS, assets, block(Rows, 2)))


@given(st.binary(max_size=300), st.sampled_from([wire.subject(message) for message in samples()]))
@settings(deadline=None, max_examples=150)
def test_any_bytes_are_read_or_refused(data, name):
    for attempt in (data, b"\x95\x01" + data):
        try:
            message = wire.decode(name, attempt)
        except ParseError:
            continue
        assert wire.subject(message) == name


def test_two_who_saw_the_same_prints_make_the_same_id():
    prints = block(Trades, 5)
    heard_later = prints._replace(received_ns=prints.received_ns + 10**6)
    first, second, third = (
        wire.TradeBatch("binance", "spot-trade", 250_000_000, ("binance:BTC-USDT",), (p,))
        for p in (prints, heard_later, prints._replace(price=prints.price + 1))
    )
    assert wire.message_id(first) == wire.message_id(second) != wire.message_id(third)
    assert wire.message_id(first).startswith("binance.spot-trade.250000000.")
    assert wire.encode(first) != wire.encode(second)


def test_ids_are_unique_among_messages():
    ids = [wire.message_id(message) for message in samples()]
    assert len(set(ids)) == len(ids)
    (order,) = (message for message in samples() if isinstance(message, Order))
    assert wire.message_id(order) == "intent.sf-1"
    sending = wire.Sending(account="paper", order=order, lead_seq=1)
    assert wire.message_id(sending) == wire.message_id(msgspec.structs.replace(sending, lead_seq=9)) == "sending.sf-1"


def test_decoded_columns_can_be_written_and_joined():
    batch = wire.TradeBatch("binance", "x", 1, ("binance:BTC-USDT",), (block(Trades, 4),))
    read = wire.decode("md.v1.trade.binance.x", wire.encode(batch))
    assert all(column.flags.writeable and column.flags.c_contiguous for column in read.trades[0])
    assert len(concat([read.trades[0], batch.trades[0]]).id) == 8


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(contract(), indent=1) + "\n")
