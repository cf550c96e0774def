"""Batches are a function of which prints were heard: each once, in its border, however they came."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from squeeze_ingest import batching
from squeeze_ingest.batching import Batcher, Tape
from squeezecore import wire
from squeezecore.market import TradeFlag, Trades
from squeezecore.venues import Contiguity
from squeezecore.wire import BORDER_NS, TradeBatch, message_id

NAMES = ("binance:BTC-USDT", "binance:ETH-USDT")
START_NS = 1_700_000_000_000_000_000


def prints(ids: list[int], times_ns: list[int], flags: int = 0, received_ns: int = 7) -> Trades:
    """Make prints; what an id says besides its time follows from the id."""
    number = np.array(ids, np.int64)
    return Trades(
        id=number,
        exchange_ns=np.array(times_ns, np.int64),
        received_ns=np.full(len(ids), received_ns, np.int64),
        price=number * 3 + 1,
        qty=number % 7 + 1,
        quote_cents=np.full(len(ids), -1, np.int64),
        side=np.where(number % 2 == 0, np.int8(1), np.int8(-1)),
        flags=np.full(len(ids), flags, np.uint8),
    )


def batcher(contiguity: Contiguity = Contiguity.CONTIGUOUS, high_id: int = -1) -> Batcher:
    made = Batcher()
    for name in NAMES:
        made.watch(Tape(name, contiguity, high_id))
    return made


def sealed(one: Batcher) -> list[TradeBatch]:
    one.close(2**62)
    return one.seal("binance", "spot", 10**6)


def heard(batches: list[TradeBatch]) -> dict[str, list[int]]:
    """Return the ids by instrument, as often as they are there."""
    found: dict[str, list[int]] = {}
    for batch in batches:
        for name, block in zip(batch.instruments, batch.trades, strict=True):
            found.setdefault(name, []).extend(block.id.tolist())
    return {name: sorted(ids) for name, ids in found.items()}


@st.composite
def tapes(draw: st.DrawFn) -> dict[str, Trades]:
    """Draw each instrument's prints: ids without a hole, times that never go back."""
    found = {}
    for name in NAMES:
        first = draw(st.integers(1, 1000))
        steps = draw(st.lists(st.integers(0, 2 * BORDER_NS), min_size=1, max_size=40))
        times = START_NS + np.cumsum(steps)
        found[name] = prints(list(range(first, first + len(steps))), times.tolist())
    return found


@st.composite
def deliveries(draw: st.DrawFn, whole: dict[str, Trades]) -> list[dict[str, Trades]]:
    """Draw how prints came: in blocks of any cut, some prints again, blocks of one instrument sometimes swapped."""
    blocks = []
    for name, tape in whole.items():
        count = len(tape.id)
        cuts = sorted({0, count, *draw(st.lists(st.integers(0, count), max_size=6))})
        parts = [(name, Trades(*(c[a:b] for c in tape))) for a, b in pairwise(cuts)]
        parts += draw(st.lists(st.sampled_from(parts), max_size=3))
        blocks += draw(st.permutations(parts)) if draw(st.booleans()) else parts
    order = draw(st.permutations(range(len(blocks)))) if draw(st.booleans()) else range(len(blocks))
    return [{blocks[at][0]: blocks[at][1]} for at in order]


@given(st.data())
def test_every_print_is_in_the_batches_once_and_in_its_border(data):
    whole = data.draw(tapes())
    one = batcher()
    batches = []
    low = dict.fromkeys(NAMES, -1)
    for blocks in data.draw(deliveries(whole)):
        for name, block in blocks.items():
            low[name] = low[name] if low[name] >= 0 else int(block.id[0])
        one.take(blocks, 0.0)
        if data.draw(st.booleans()):
            batches += one.seal("binance", "spot", 10**6)
    batches += sealed(one)
    # What lies before the first print that was heard is from before coverage began.
    expected = {name: [i for i in whole[name].id.tolist() if i >= low[name]] for name in NAMES}
    assert heard(batches) == expected
    assert one.holes() == []
    assert one.waiting == 0
    for batch in batches:
        assert batch.border_ns % BORDER_NS == 0
        assert list(batch.instruments) == sorted(batch.instruments)
        for name, block in zip(batch.instruments, batch.trades, strict=True):
            assert all(wire.border_ns(ns) == batch.border_ns for ns in block.exchange_ns.tolist())
            at = block.id - whole[name].id[0]
            for column, truth in zip(block, whole[name], strict=True):
                np.testing.assert_array_equal(column, truth[at])


@given(st.data())
def test_two_that_heard_the_same_make_the_same_batches(data):
    whole = data.draw(tapes())
    ids = []
    for number in range(2):
        one = Batcher(linger=10**6)  # nothing is overtaken by more
        for name in NAMES:
            one.watch(Tape(name, Contiguity.CONTIGUOUS, int(whole[name].id[0]) - 1))
        for blocks in data.draw(deliveries(whole)):
            moved = {name: block._replace(received_ns=block.received_ns + number) for name, block in blocks.items()}
            one.take(moved, float(number))
        ids.append([message_id(batch) for batch in sealed(one)])
    assert ids[0] == ids[1]


def test_what_is_heard_in_order_closes_one_border_late():
    one = batcher()
    for number in range(4):
        one.take({NAMES[0]: prints([number], [START_NS + number * BORDER_NS])}, 0.0)
        assert one.closed == max(0, number - 1)
    batches = one.seal("binance", "spot", 10)
    assert [batch.border_ns for batch in batches] == [START_NS + BORDER_NS, START_NS + 2 * BORDER_NS]


def test_a_late_print_goes_into_a_further_batch_of_its_border():
    one = batcher()
    one.take({NAMES[0]: prints([1, 3], [START_NS, START_NS + 9 * BORDER_NS])}, 5.0)
    assert [(hole.first_id, hole.last_id, hole.before_ns, hole.found_s) for hole in one.holes()] == [
        (2, 2, START_NS, 5.0)
    ]
    first = one.seal("binance", "spot", 10)
    one.take({NAMES[0]: prints([2], [START_NS + 1])}, 6.0)
    assert one.holes() == []
    one.close(START_NS + BORDER_NS)
    later = one.seal("binance", "spot", 10)
    assert [batch.border_ns for batch in first + later] == [START_NS + BORDER_NS] * 2
    assert heard(later) == {NAMES[0]: [2]}
    assert message_id(first[0]) != message_id(later[0])


def reference(seen: set[int], high: int, first: int) -> list[tuple[int, int]]:
    """Return the ids between the first and the highest that were not seen, as ranges."""
    missing = [number for number in range(first, high) if number not in seen]
    ranges: list[tuple[int, int]] = []
    for number in missing:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges


@given(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=8), max_size=30))
def test_holes_are_what_was_jumped_over_and_has_not_come(blocks):
    tape = Tape("x", Contiguity.CONTIGUOUS)
    seen: set[int] = set()
    first = high = -1
    for ids in blocks:
        new = tape.admit(prints(ids, [START_NS + number for number in ids]), 0.0)
        expected = []
        for number in ids:
            first = number if first < 0 else first
            if number >= first and number not in seen:
                expected.append(number)
                seen.add(number)
                high = max(high, number)
        assert new.id.tolist() == expected
        assert [(hole.first_id, hole.last_id) for hole in tape.holes] == reference(seen, high, first)
        for hole in tape.holes:
            assert hole.before_ns == START_NS + hole.first_id - 1
    assert tape.high_id == high


def test_history_sent_on_subscribe_closes_gaps_and_is_no_flow_before_the_first_print():
    one = batcher()
    history = prints([5, 6, 7, 8], [START_NS] * 4, flags=TradeFlag.SNAPSHOT)
    one.take({NAMES[0]: history}, 0.0)
    assert sealed(one) == []
    one.take({NAMES[0]: prints([8, 9], [START_NS] * 2)}, 0.0)
    one.take({NAMES[0]: prints([12], [START_NS])}, 0.0)
    one.take({NAMES[0]: prints([9, 10, 11, 12, 13], [START_NS] * 5, flags=TradeFlag.SNAPSHOT)}, 0.0)
    assert heard(sealed(one)) == {NAMES[0]: [8, 9, 10, 11, 12, 13]}
    assert one.holes() == []


def test_prints_that_ids_only_name_are_taken_once_and_leave_no_holes():
    one = batcher(Contiguity.UNIQUE)
    for ids in ([900, 5], [5, 17], [17, 900, 3]):
        one.take({NAMES[0]: prints(ids, [START_NS] * len(ids))}, 0.0)
    assert heard(sealed(one)) == {NAMES[0]: [3, 5, 17, 900]}
    assert one.holes() == []
    assert one.doubled == 3


def test_prints_without_ids_are_all_taken():
    one = batcher(Contiguity.NONE)
    for _ in range(3):
        one.take({NAMES[0]: prints([-1, -1], [START_NS, START_NS])}, 0.0)
    assert heard(sealed(one)) == {NAMES[0]: [-1] * 6}


def test_a_border_that_no_message_can_hold_is_cut_and_every_part_fits():
    count = 2 * batching.BATCH_TRADES_MAX + 5
    one = batcher()
    one.take({NAMES[0]: prints(list(range(count)), [START_NS] * count)}, 0.0)
    one.take({NAMES[1]: prints(list(range(9)), [START_NS] * 9)}, 0.0)
    batches = sealed(one)
    assert len(batches) == 3
    assert all(len(wire.encode(batch)) < wire.PAYLOAD_BYTES_MAX for batch in batches)
    assert heard(batches) == {NAMES[0]: list(range(count)), NAMES[1]: list(range(9))}


def test_a_mad_id_leaves_a_hole_and_the_prints_after_it_are_still_taken():
    one = batcher()
    one.take({NAMES[0]: prints([10, 2**62, 11, 12], [START_NS, START_NS, START_NS + 5, START_NS + 6])}, 0.0)
    assert heard(sealed(one)) == {NAMES[0]: [10, 11, 12, 2**62]}
    [hole] = one.holes()
    assert (hole.first_id, hole.last_id, hole.before_ns) == (13, 2**62 - 1, START_NS + 6)


def test_only_so_many_holes_are_remembered():
    tape = Tape("x", Contiguity.CONTIGUOUS)
    ids = list(range(0, 2 * batching.HOLES_MAX + 10, 2))
    tape.admit(prints(ids, [START_NS] * len(ids)), 0.0)
    assert len(tape.holes) == batching.HOLES_MAX
    assert tape.holes[-1].last_id == ids[-1] - 1


@pytest.mark.parametrize("number", [11, 12])
def test_a_doubt_ends_with_the_next_print(number):
    tape = Tape("x", Contiguity.CONTIGUOUS, 10, START_NS)
    tape.doubt()
    assert not tape.proven
    tape.admit(prints([10], [START_NS]), 0.0)
    assert not tape.proven
    tape.admit(prints([number], [START_NS]), 0.0)
    assert tape.proven
    assert len(tape.holes) == number - 11


def test_an_instrument_that_is_not_watched_is_left_out():
    one = batcher()
    one.forget(NAMES[1])
    one.take({NAMES[0]: prints([1], [START_NS]), NAMES[1]: prints([1], [START_NS])}, 0.0)
    assert heard(sealed(one)) == {NAMES[0]: [1]}
