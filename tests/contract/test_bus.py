"""The bus's contract: JetStream on a real server and its twin in memory keep the same promises."""

import asyncio
import contextlib
import shutil
import socket
from pathlib import Path

import nats
import numpy as np
import pytest

from squeezecore import wire
from squeezecore.adapters import bus
from squeezecore.adapters.bus import Ack, Bus, BusError, Conflict, Fenced
from squeezecore.errors import ParseError, UsageError
from squeezecore.market import Side, Trades, empty
from squeezecore.trading import Order
from support.bus import Bed, MemoryBed, NatsBed, NatsProcess, on

ALL = ("trade.v1.>",)


def second(ts: int, account: str = "paper") -> wire.Decided:
    return wire.Decided(account=account, ts=ts)


def change(n: int, asset: str = "BTC") -> wire.AssetChange:
    return wire.AssetChange(asset=asset, from_ts=60 * n, config=None)


def mark(n: int) -> wire.MarkFact:
    return wire.MarkFact(venue="binance", feed="linear", instrument="binance:BTC-USDT-PERP", known_at=n, mark=1)


def sending(order_id: str, lead_seq: int) -> wire.Sending:
    order = Order(
        id=order_id, account="paper", asset="BTC", instrument="binance:BTC-USDT-PERP", decided_ts=1, side=Side.BUY, qty=5,
        reason="entry",
    )  # fmt: skip
    return wire.Sending(account="paper", order=order, lead_seq=lead_seq)


def prints(count: int, received_ns: int = 0) -> wire.TradeBatch:
    columns = empty(Trades)._asdict()
    block = Trades(**{name: np.zeros(count, column.dtype) for name, column in columns.items()})
    block = block._replace(received_ns=np.full(count, received_ns, block.received_ns.dtype))
    return wire.TradeBatch("binance", "spot", 250_000_000, ("binance:BTC-USDT",), (block,))


async def expect_nothing(reader: bus.Reader) -> None:
    for _ in range(10):
        assert await reader.pull() == []


async def pull_all(reader: bus.Reader, count: int) -> list[bus.Delivery]:
    taken: list[bus.Delivery] = []
    while len(taken) < count:
        taken += await reader.pull()
    return taken


# Order and ids.


@on
async def test_a_stream_gives_back_what_was_published_in_its_order(bed: Bed):
    one = await bed.connect()
    sent = [second(ts) for ts in range(1500)]
    acks = await one.publish_all(sent)
    assert acks == [Ack(n + 1, duplicate=False) for n in range(1500)]
    reader = await (await bed.connect()).read("TRADE", ALL, "reader", 0)
    got = await pull_all(reader, 1500)
    assert [each.message for each in got] == sent
    assert [each.seq for each in got] == list(range(1, 1501))
    assert {each.subject for each in got} == {"trade.v1.decided.paper"}
    times = [each.published_ns for each in got]
    assert times == sorted(times)
    assert await reader.pull(wait_s=0.05) == []


@on
async def test_nothing_to_publish_is_published_at_once(bed: Bed):
    assert await (await bed.connect()).publish_all([]) == []


@on
async def test_a_pull_gives_no_more_than_it_is_asked_for_and_waits_for_the_first_only(bed: Bed):
    one = await bed.connect()
    reader = await one.read("TRADE", ALL, "reader", 0)
    waiting = asyncio.create_task(reader.pull(wait_s=60.0))
    await asyncio.sleep(0)
    await one.publish(second(1))
    assert [each.message for each in await waiting] == [second(1)]
    await one.publish_all([second(ts) for ts in range(2, 9)])
    first = await reader.pull(count=3)
    assert [each.seq for each in first] == [2, 3, 4][: len(first)]


@on
async def test_what_two_saw_alike_is_stored_once(bed: Bed):
    one, two = await bed.connect(), await bed.connect()
    assert await one.publish(prints(3, received_ns=10)) == Ack(1, duplicate=False)
    assert await two.publish(prints(3, received_ns=20)) == Ack(1, duplicate=True)
    assert await two.publish(prints(4)) == Ack(2, duplicate=False)
    assert (await one.stream("MD")).messages == 2


@on
async def test_ids_are_known_after_the_server_was_killed(bed: Bed):
    one = await bed.connect()
    await one.publish_all([second(1), second(2)])
    await bed.down()
    await bed.up()
    assert await one.publish_all([second(2), second(3)]) == [Ack(2, duplicate=True), Ack(3, duplicate=False)]


@on
async def _window(bed: MemoryBed) -> None:
    one = await bed.connect()
    await one.publish(second(1))
    await asyncio.sleep(bus.DUPLICATES_S - 1)
    assert (await one.publish(second(1))).duplicate
    await asyncio.sleep(1)
    assert await one.publish(second(1)) == Ack(2, duplicate=False)


def test_ids_are_forgotten_after_the_window():
    _window(bed=MemoryBed())


# A reader's place.


@on
async def test_a_reader_starts_exactly_after_its_place_whatever_was_acknowledged(bed: Bed):
    one = await bed.connect()
    await one.publish_all([second(ts) for ts in range(1, 21)])
    reader = await one.read("TRADE", ALL, "reader", 0)
    assert len(await pull_all(reader, 20)) == 20
    await reader.ack(15)  # had an effect that the snapshot does not know
    again = await (await bed.connect()).read("TRADE", ALL, "reader", 7)
    assert [each.seq for each in await pull_all(again, 13)] == list(range(8, 21))
    at_end = await (await bed.connect()).read("TRADE", ALL, "reader", 20)
    assert await at_end.pull(wait_s=0.05) == []
    await one.publish(second(21))
    assert [each.seq for each in await at_end.pull()] == [21]


@on
async def test_who_read_under_a_name_before_is_refused(bed: Bed):
    one = await bed.connect()
    old = await one.read("TRADE", ALL, "reader", 0)
    assert await old.pull(wait_s=0.02) == []
    new = await (await bed.connect()).read("TRADE", ALL, "reader", 0)
    await one.publish(second(1))
    assert [each.seq for each in await pull_all(new, 1)] == [1]
    for _ in range(2):  # it does not come to its senses
        with pytest.raises(BusError, match="reader of TRADE was taken over by another process"):
            await expect_nothing(old)


@on
async def test_readers_of_other_names_do_not_disturb_each_other(bed: Bed):
    one = await bed.connect()
    await one.publish_all([second(ts) for ts in range(5)])
    readers = [await one.read("TRADE", ALL, f"reader-{n}", n) for n in range(3)]
    assert [len(await pull_all(reader, 5 - n)) for n, reader in enumerate(readers)] == [5, 4, 3]


@on
async def test_a_reader_hears_its_subjects_only(bed: Bed):
    one = await bed.connect()
    await one.publish_all([second(1), second(1, "live"), sending("a", 0), second(2), second(2, "live")])
    reader = await one.read("TRADE", ("trade.v1.decided.paper", "trade.v1.sending.*"), "reader", 1)
    assert await reader.lag() == 2
    assert [each.seq for each in await pull_all(reader, 2)] == [3, 4]
    assert await reader.pull(wait_s=0.05) == []
    assert await reader.lag() == 0


@on
async def test_lag_counts_what_was_not_pulled(bed: Bed):
    one = await bed.connect()
    await one.publish_all([second(ts) for ts in range(10)])
    reader = await one.read("TRADE", ALL, "reader", 2)
    assert await reader.lag() == 8
    taken = await reader.pull(count=3)
    assert await reader.lag() == 8 - len(taken)
    await reader.ack(taken[-1].seq)
    assert await reader.lag() == 8 - len(taken)
    await pull_all(reader, 8 - len(taken))
    assert await reader.lag() == 0


@on
async def test_a_slow_reader_misses_nothing(bed: Bed):
    one = await bed.connect()
    reader = await one.read("FLOW", ("flow.v1.>",), "slow", 0)
    assert await reader.pull(wait_s=0.02) == []
    sent = [change(n) for n in range(8000)]
    got: list[bus.Delivery] = []
    for start in range(0, 8000, 2000):
        await one.publish_all(sent[start : start + 2000])
        got += await reader.pull(count=100)
    got += await pull_all(reader, 8000 - len(got))
    assert [each.message for each in got] == sent


@on
async def test_a_place_beyond_the_end_is_refused(bed: Bed):
    one = await bed.connect()
    await one.publish_all([second(1), second(2)])
    with pytest.raises(
        BusError, match="stream TRADE ended at 2, the reader was at 3 already: the stream was lost or made anew"
    ):
        await one.read("TRADE", ALL, "reader", 3)


@on
async def test_a_place_in_a_stream_made_anew_is_refused(bed: Bed):
    one = await bed.connect()
    await one.publish(second(1))
    created = (await one.stream("TRADE")).created
    reader = await one.read("TRADE", ALL, "reader", 0, created=created)
    assert len(await reader.pull()) == 1
    await bed.make_anew("TRADE")
    with pytest.raises(BusError, match=r"stream TRADE was made at .*, the reader's place is of one made at"):
        await expect_nothing(reader)
    two = await bed.connect()
    await two.publish(second(1))
    with pytest.raises(BusError, match=r"made at .*, the reader's place is of one made at"):
        await two.read("TRADE", ALL, "reader", 1, created=created)


@on
async def test_a_stream_or_subject_that_is_none_of_ours_is_refused(bed: Bed):
    one = await bed.connect()
    with pytest.raises(UsageError, match="stream was 'TRADES', known are MD, FLOW, TRADE, AUDIT"):
        await one.read("TRADES", ALL, "reader", 0)
    with pytest.raises(UsageError, match="stream was 'X'"):
        await one.stream("X")
    with pytest.raises(UsageError, match="subject was 'trade'"):
        await one.last("trade")


@on
async def test_bytes_of_another_schema_stop_a_reader_after_all_before_them(bed: Bed):
    one = await bed.connect()
    await one.publish_all([second(1), second(2)])
    await bed.foreign("trade.v1.decided.paper", b"\x93\x63\x01\x02")
    await one.publish(second(3))
    reader = await one.read("TRADE", ALL, "reader", 0)
    assert [each.message for each in await pull_all(reader, 2)] == [second(1), second(2)]
    for _ in range(2):
        with pytest.raises(ParseError, match=r"message 3 of TRADE: .*schema was \[99\], this version reads 1"):
            await reader.pull()
    after = await one.read("TRADE", ALL, "reader", 3)
    assert [each.message for each in await pull_all(after, 1)] == [second(3)]


@on
async def test_a_closed_reader_reads_no_more(bed: Bed):
    one = await bed.connect()
    reader = await one.read("TRADE", ALL, "reader", 0)
    await reader.close()
    await reader.close()
    with pytest.raises(BusError, match="reader reader of TRADE was closed by this process"):
        await reader.pull()


# One message, one stream.


@on
async def test_the_newest_message_of_a_subject_is_found(bed: Bed):
    one = await bed.connect()
    assert await one.last("trade.v1.decided.paper") is None
    await one.publish_all([second(1), second(2), second(1, "live")])
    found = await one.last("trade.v1.decided.paper")
    assert found is not None
    reader = await one.read("TRADE", ALL, "reader", 1)
    assert found == (await reader.pull())[0]


@on
async def test_a_stream_tells_what_it_holds(bed: Bed):
    one = await bed.connect()
    before = await one.stream("TRADE")
    assert (before.first_seq, before.last_seq, before.messages, before.bytes) == (0, 0, 0, 0)
    await one.publish_all([second(1), second(2)])
    after = await one.stream("TRADE")
    assert (after.first_seq, after.last_seq, after.messages, after.created) == (1, 2, 2, before.created)
    assert after.bytes > 0


@on
async def test_a_message_too_large_is_refused_in_words(bed: Bed):
    one = await bed.connect()
    size = sum(column.dtype.itemsize for column in empty(Trades))
    large = prints(bus.PAYLOAD_BYTES_MAX // size + 1)
    words = r"TradeBatch for md\.v1\.trade\.binance\.spot had \d+ bytes, the bus takes 1047552: send less"
    with pytest.raises(BusError, match=words):
        await one.publish(large)
    with pytest.raises(BusError, match=words):
        await one.publish_all([prints(1), large])
    assert (await one.stream("MD")).messages == 0
    # The largest that is allowed passes, headers and all.
    fitting = prints((bus.PAYLOAD_BYTES_MAX - 200) // size)
    assert bus.PAYLOAD_BYTES_MAX - 1000 < len(wire.encode(fitting)) <= bus.PAYLOAD_BYTES_MAX
    assert await one.publish(fitting) == Ack(1, duplicate=False)


# Fences.


@on
async def test_a_stale_writer_is_fenced_and_a_repeated_sending_is_a_duplicate(bed: Bed):
    old, new = await bed.connect(), await bed.connect()
    lead = await old.take_lead("paper", "one")
    stored = await old.publish(sending("a", lead), lead_seq=lead)
    assert stored == Ack(2, duplicate=False)
    assert await old.publish(sending("a", lead), lead_seq=lead) == Ack(2, duplicate=True)
    newer = await new.take_lead("paper", "two")
    assert newer == 3
    with pytest.raises(
        Fenced, match=r"account paper: lead 1 is not the newest \(.*3\), somebody else leads: end this writer"
    ):
        await old.publish(sending("b", lead), lead_seq=lead)
    with pytest.raises(Fenced):
        await old.publish(second(1), lead_seq=lead)
    assert await new.publish(sending("a", newer), lead_seq=newer) == Ack(2, duplicate=True)
    assert await new.publish(sending("b", newer), lead_seq=newer) == Ack(4, duplicate=False)
    assert (await new.stream("TRADE")).messages == 4


@on
async def test_a_stale_writer_is_fenced_though_the_server_was_killed_in_between(bed: Bed):
    old, new = await bed.connect(), await bed.connect()
    lead = await old.take_lead("paper", "one")
    await bed.down()
    late = asyncio.create_task(new.take_lead("paper", "two"))
    await asyncio.sleep(0.1)
    await bed.up()
    newer = await late
    with pytest.raises(Fenced):
        await old.publish(sending("b", lead), lead_seq=lead)
    assert (await new.publish(sending("b", newer), lead_seq=newer)).duplicate is False


@on
async def test_who_never_took_the_lead_is_fenced(bed: Bed):
    one = await bed.connect()
    with pytest.raises(Fenced):
        await one.publish(sending("a", 5), lead_seq=5)
    other = await one.take_lead("live", "one")
    with pytest.raises(Fenced):  # a lead counts for its own account
        await one.publish(sending("a", other), lead_seq=other)


@on
async def test_a_lead_fences_messages_of_an_account_only(bed: Bed):
    one = await bed.connect()
    lead = await one.take_lead("paper", "one")
    with pytest.raises(UsageError, match="a lead fences messages of an account, AssetChange has none"):
        await one.publish(change(1), lead_seq=lead)


@on
async def test_of_many_who_take_the_lead_at_once_each_holds_its_own_and_the_last_one_leads(bed: Bed):
    writers = [await bed.connect() for _ in range(4)]
    fences = await asyncio.gather(*(writers[n % 4].take_lead("paper", "same") for n in range(24)))
    assert len(set(fences)) == 24
    reader = await writers[0].read("TRADE", ALL, "reader", 0)
    leads = await pull_all(reader, 24)
    assert [each.seq for each in leads] == sorted(fences)
    before = [0, *(each.seq for each in leads)]
    assert [each.message for each in leads] == [
        wire.Lead(account="paper", holder="same", previous_seq=seq) for seq in before[:-1]
    ]

    async def try_to_send(n: int, fence: int) -> bool:
        try:
            await writers[n % 4].publish(sending(f"order-{n}", fence), lead_seq=fence)
        except Fenced:
            return False
        return True

    sent = await asyncio.gather(*(try_to_send(n, fence) for n, fence in enumerate(fences)))
    assert [fence for fence, accepted in zip(fences, sent, strict=True) if accepted] == [max(fences)]


# Keys and values.


@on
async def test_a_key_is_created_once_and_changed_by_who_knows_its_revision(bed: Bed):
    one, two = await bed.connect(), await bed.connect()
    assert await one.get("config", "assets") is None
    created = await one.put("config", "assets", b"1", 0)
    with pytest.raises(Conflict, match="key assets of config is no longer of revision 0: read it and decide again"):
        await two.put("config", "assets", b"2", 0)
    assert await two.get("config", "assets") == (b"1", created)
    changed = await two.put("config", "assets", b"2", created)
    with pytest.raises(Conflict):
        await one.put("config", "assets", b"3", created)
    assert await one.get("config", "assets") == (b"2", changed)
    assert await one.put("config", "assets", b"") > changed  # whatever stands there
    assert (await one.get("config", "assets") or (None,))[0] == b""


@on
async def test_of_many_who_create_a_key_one_wins(bed: Bed):
    writers = [await bed.connect() for _ in range(3)]

    async def create(n: int) -> int | None:
        try:
            return await writers[n % 3].put("instruments", "binance/BTC-USDT", str(n).encode(), 0)
        except Conflict:
            return None

    won = [(n, seq) for n, seq in enumerate(await asyncio.gather(*map(create, range(12)))) if seq is not None]
    assert len(won) == 1
    assert await writers[0].get("instruments", "binance/BTC-USDT") == (str(won[0][0]).encode(), won[0][1])


@on
async def test_a_bucket_lists_its_keys(bed: Bed):
    one = await bed.connect()
    assert await one.keys("instruments") == []
    for key in ("okx/BTC-USDT", "binance/BTC-USDT", "binance/BTC-USDT"):
        await one.put("instruments", key, b"{}")
    await one.put("config", "assets", b"{}")
    assert await one.keys("instruments") == ["binance/BTC-USDT", "okx/BTC-USDT"]


@on
async def test_a_key_that_cannot_be_is_refused(bed: Bed):
    one = await bed.connect()
    for key in ("", "a b", "binance:BTC", "a..b", ".a", "a.", "*", ">", "/a\n"):
        with pytest.raises(UsageError, match="key was"):
            await one.put("config", key, b"")
    with pytest.raises(UsageError, match="bucket was 'other', known are config, instruments"):
        await one.get("other", "a")
    with pytest.raises(BusError, match="value of a in config had 2000000 bytes"):
        await one.put("config", "a", bytes(2_000_000))


@on
async def test_a_watch_sees_the_present_value_and_each_newer_one_also_after_a_restart(bed: Bed):
    one, two = await bed.connect(), await bed.connect()
    await two.put("config", "kill", b"off")
    watch = aiter(one.watch("config", "kill"))
    async with asyncio.timeout(60):
        assert (await anext(watch))[0] == b"off"
        for value in (b"on", b"off"):
            seen = asyncio.create_task(anext(watch))  # type: ignore[arg-type]
            await asyncio.sleep(0.05)
            revision = await two.put("config", "kill", value)
            assert await seen == (value, revision)
        await bed.down()
        seen = asyncio.create_task(anext(watch))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        await bed.up()
        assert not seen.done()
        await two.put("config", "kill", b"on")
        assert (await seen)[0] == b"on"
    await watch.aclose()  # type: ignore[attr-defined]


@on
async def test_a_watch_waits_for_a_key_that_is_not_there_yet(bed: Bed):
    one = await bed.connect()
    watch = aiter(one.watch("instruments", "a"))
    seen = asyncio.create_task(anext(watch))  # type: ignore[arg-type]
    await asyncio.sleep(0.05)
    revision = await one.put("instruments", "a", b"1", 0)
    assert await seen == (b"1", revision)
    await watch.aclose()  # type: ignore[attr-defined]


# A server that is away.


@on
async def test_a_publish_waits_for_a_server_that_is_away(bed: Bed):
    one = await bed.connect()
    await one.publish(second(1))
    await bed.down()
    waiting = [
        asyncio.create_task(one.publish(second(2))),
        asyncio.create_task(one.publish_all([second(3), second(4)])),
    ]
    await asyncio.sleep(0.3)
    assert not any(each.done() for each in waiting)
    await bed.up()
    await asyncio.gather(*waiting)
    info = await one.stream("TRADE")
    assert (info.last_seq, info.messages) == (4, 4)


@on
async def test_questions_to_a_server_that_is_away_end_in_words(bed: Bed):
    one = await bed.connect()
    await bed.down()
    with pytest.raises(BusError, match="did not answer"):
        await one.ping()
    questions = (
        one.stream("MD"),
        one.get("config", "a"),
        one.put("config", "a", b""),
        one.read("MD", ALL, "reader", 0),
    )
    for answer in await asyncio.gather(*questions, return_exceptions=True):
        assert isinstance(answer, BusError)
        assert "did not" in str(answer)
    await bed.up()
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(BusError):
                await one.ping()
                return


@on
async def test_a_waiting_publish_ends_when_it_is_cancelled_or_the_bus_is_closed(bed: Bed):
    one = await bed.connect()
    await bed.down()
    first, other = asyncio.create_task(one.publish(second(1))), asyncio.create_task(one.publish(second(2)))
    await asyncio.sleep(0.05)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await one.close()
    await one.close()
    with pytest.raises(BusError, match="closed by this process"):
        await other
    with pytest.raises(BusError, match="closed by this process"):
        await one.publish(second(3))
    await bed.up()


@on
async def test_a_reader_goes_on_where_it_was_after_the_server_was_killed(bed: Bed):
    one, two = await bed.connect(), await bed.connect()
    await one.publish_all([second(ts) for ts in range(1, 1501)])
    reader = await two.read("TRADE", ALL, "reader", 0)
    got = await reader.pull(count=10)
    await reader.ack(got[4].seq)
    await bed.down()
    early = await reader.pull(count=5, wait_s=0.2)  # what had come may still be pulled
    await bed.up()
    later = asyncio.create_task(one.publish(second(1501)))
    got += early + await pull_all(reader, 1501 - len(got) - len(early))
    await later
    assert [each.seq for each in got] == list(range(1, 1502))
    assert await reader.pull(wait_s=0.05) == []


@pytest.mark.parametrize("stream", ["TRADE", "FLOW", "MD"])
@on
async def test_nothing_acknowledged_is_lost_doubled_or_moved_when_the_server_dies_under_load(bed: Bed, stream: str):
    writer, other = await bed.connect(), await bed.connect()
    make = {"TRADE": second, "FLOW": change, "MD": mark}[stream]
    filters = (f"{stream.lower()}.v1.>",)
    wanted, deaths = 12_000, 5
    sent = [make(n) for n in range(wanted)]
    reached = {wanted * part // 7 // 300 * 300: asyncio.Event() for part in range(1, deaths + 1)}
    acks: list[Ack] = []

    async def write() -> None:
        for start in range(0, wanted, 300):
            if start in reached:
                reached[start].set()
            acks.extend(await writer.publish_all(sent[start : start + 300]))

    async def kill() -> None:
        for each in reached.values():
            await each.wait()
            await asyncio.sleep(0.003)  # some are in flight
            await bed.down()
            await bed.up()

    async def read() -> list[bus.Delivery]:
        """Read along; of a stream that is acknowledged early, afterwards: its newest may be gone and come again."""
        if stream == "MD":
            await writing
        return await pull_all(await other.read(stream, filters, "reader", 0), wanted)

    writing = asyncio.create_task(write())
    _, _, got = await asyncio.gather(writing, kill(), read())
    info = await other.stream(stream)
    assert (info.first_seq, info.last_seq, info.messages) == (1, wanted, wanted)
    assert [each.message for each in got] == sent
    assert [each.seq for each in got] == list(range(1, wanted + 1))
    if stream != "MD":
        assert [ack.seq for ack in acks] == [each.seq for each in got]


# What only a server can do.


def test_a_server_that_is_not_there_is_told(tmp_path: Path):
    with socket.socket() as taken:  # bound, not listening: nobody answers, and nobody else can have it
        taken.bind(("127.0.0.1", 0))
        url = f"nats://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            BusError, match=f"no NATS server answered at {url} within 0 s .*start one, or mend the address"
        ):
            asyncio.run(bus.connect(url, name="test", wait_s=0.3))


def test_a_server_without_streams_or_too_old_is_refused(tmp_path: Path):
    process = NatsProcess(tmp_path, "debug: false")  # JetStream is off

    async def main() -> None:
        with pytest.raises(BusError, match=r"did not answer INFO .*is it up, with JetStream"):
            await bus.connect(process.url, name="test", wait_s=1.0)
        client = await nats.connect(process.url)
        answers = [b'{"api": {"level": 1}}']

        async def old(message: nats.aio.msg.Msg) -> None:
            await message.respond(answers[0])

        await client.subscribe("$JS.API.INFO", cb=old)
        await client.flush()
        with pytest.raises(BusError, match=r"was 2\.\d+\.\d+, 2\.12 or newer is needed: update it"):
            await bus.connect(process.url, name="test")
        await client.close()

    try:
        asyncio.run(main())
    finally:
        process.stop()


@on
async def test_a_stream_or_bucket_of_another_configuration_is_refused_by_name(nats_bed: NatsBed):
    limits = dict(bus.LIMITS)
    await nats_bed.connect()
    await nats_bed.connect()  # the same again is no change
    limits["MD"] = limits["MD"]._replace(age_s=60)
    with pytest.raises(
        BusError, match=r"stream MD at nats://.* had max_age 21600000000000, this version needs 60000000000"
    ):
        await bus.connect(nats_bed.process.url, name="test", limits=limits)
    limits["MD"] = bus.LIMITS["MD"]._replace(drops=False)
    with pytest.raises(BusError, match=r"stream MD at .* had discard 'old', this version needs 'new'"):
        await bus.connect(nats_bed.process.url, name="test", limits=limits)
    client = await nats.connect(nats_bed.process.url)
    await client.jetstream().delete_stream("KV_config")
    await client.jetstream().create_key_value(bucket="config", history=5)
    await client.close()
    with pytest.raises(BusError, match=r"stream KV_config at .* had max_msgs_per_subject 5, this version needs 1"):
        await nats_bed.connect()


@on
async def test_our_buckets_are_those_of_other_clients(nats_bed: NatsBed):
    one = await nats_bed.connect()
    revision = await one.put("config", "assets", b"1")
    client = await nats.connect(nats_bed.process.url)
    bucket = await client.jetstream().key_value("config")
    entry = await bucket.get("assets")
    assert (entry.value, entry.revision) == (b"1", revision)
    await bucket.delete("assets")  # by hand
    assert await one.get("config", "assets") is None
    assert await one.put("config", "assets", b"2", 0) > revision
    assert (await bucket.get("assets")).value == b"2"
    await client.close()


@on
async def test_a_reader_is_told_when_the_server_comes_back_without_what_it_read(nats_bed: NatsBed, tmp_path: Path):
    one = await nats_bed.connect()
    store, copy = nats_bed.process.folder / "store", tmp_path / "copy"
    await one.publish_all([second(ts) for ts in range(1, 6)])
    readers = [await one.read("TRADE", ALL, f"reader-{n}", 0) for n in range(2)]
    for reader in readers:
        await pull_all(reader, 5)
    await asyncio.to_thread(nats_bed.process.stop)
    shutil.copytree(store, copy)
    await nats_bed.up()
    await one.publish_all([second(6), second(7)])
    for reader in readers:
        await pull_all(reader, 2)
    await nats_bed.down()
    shutil.rmtree(store)
    copy.rename(store)
    await nats_bed.up()  # as from a backup
    with pytest.raises(BusError, match="stream TRADE ended at 5, the reader was at 7 already"):
        await expect_nothing(readers[0])
    await one.publish_all([second(ts) for ts in range(8, 11)])
    with pytest.raises(BusError, match="message 7 of TRADE is another than the one read: the server lost its newest"):
        await expect_nothing(readers[1])


@on
async def test_a_publish_to_a_stream_that_was_deleted_ends_in_words(nats_bed: NatsBed, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bus, "ABSENT_S_MAX", 0.2)
    one = await nats_bed.connect()
    client = await nats.connect(nats_bed.process.url)
    await client.jetstream().delete_stream("TRADE")
    await client.close()
    with pytest.raises(BusError, match=r"no stream at .* took trade\.v1\.decided\.paper for .*restart this service"):
        await one.publish_all([second(1), second(2)])


def test_a_service_with_rights_of_its_own_works_and_one_without_is_told(tmp_path: Path):
    process = NatsProcess(
        tmp_path,
        f"""jetstream {{ store_dir: "{tmp_path / "store"}", max_file_store: 10GB }}
        authorization {{ users [
          {{ user: maker, password: "a" }}
          {{ user: ingest, password: "b", permissions: {{
              publish: ["md.v1.>", "$JS.API.INFO", "$JS.API.STREAM.INFO.>"], subscribe: ["_INBOX.ingest.>"] }} }}
        ] }}""",
    )
    passwords = {}
    for user, password in (("maker", "a"), ("ingest", "b"), ("stranger", "c")):
        passwords[user] = tmp_path / user
        passwords[user].write_text(password + "\n")

    async def connect(user: str) -> Bus:
        return await bus.connect(process.url, name=user, user=user, password_file=passwords[user], wait_s=2.0)

    async def main() -> None:
        await (await connect("maker")).close()
        ingest = await connect("ingest")
        assert await ingest.publish(prints(1)) == Ack(1, duplicate=False)
        with pytest.raises(
            BusError, match=r"forbids what this service needs .*trade\.v1\.decided\.paper.*mend its rights"
        ):
            await ingest.publish(second(1))
        await ingest.close()
        with pytest.raises(BusError, match=r"no NATS server answered .*[Aa]uthorization"):
            await connect("stranger")
        passwords["ingest"].unlink()
        with pytest.raises(BusError, match=r"password file was .*, it cannot be read"):
            await connect("ingest")

    try:
        asyncio.run(main())
    finally:
        process.stop()
