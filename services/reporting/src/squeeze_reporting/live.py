"""What happens now, told to whoever watches: one channel for the board of all assets, one for each asset.

Rows come from the bus, from the moment this service starts; what lies before comes from the store, scanned by the kernel, so
that a score here is the score there. Where the stream leaves seconds out, the store is asked for them first: a second is told
once, in order, or it has no row. Nothing here decides or keeps anything: a restart warms up anew, and viewers go on from the
id of their last event.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from squeeze_reporting.board import BEFORE_S, SCHEMA, Held, Lane, Schedule, seconds_of
from squeeze_reporting.books import Books
from squeeze_reporting.channel import Channel, Counts, Key, encode
from squeezecore.adapters import accounts, catalogue, tradestore
from squeezecore.adapters.accounts import Plan
from squeezecore.adapters.bus import Reader
from squeezecore.adapters.service import Kit
from squeezecore.adapters.store import Store
from squeezecore.errors import SqueezeError
from squeezecore.market import Instrument, Rows, cut
from squeezecore.spec import AssetConfig
from squeezecore.squeeze import SqueezeParams, params_from
from squeezecore.trading import Decision, Fill, Order, OrderUpdate, Signal
from squeezecore.wire import Clock, RowBatch

PULL = 500
LOOK_S = 1.0  # between two looks for what an asset lacks
PREFILL_S = 300  # seconds before the start that are told from the store, so that a restart costs viewers nothing
FILL_S_MAX = 1200  # a longer hole in the stream is not told second by second to who watches: they come back for it
STORE_TRIES, STORE_PAUSE_S = 8, 0.25  # the store may be a moment behind the bus
RESUME_S_MAX = 6 * 3600  # of an asset's seconds, told again from the store
BOARD_RESUME_S_MAX = 3600
PIECE_S = 300  # that are told at once
FILLS_BACK = 5_000  # messages before the newest in which a fill may lie that the store has not yet
ORDERS_KNOWN = 10_000  # orders whose asset is remembered, for what becomes of them

Said = Signal | Decision | Fill | Order


class Live:
    """The assets that are watched, as they are now, and their channels."""

    def __init__(self, kit: Kit, account: str, instance: str) -> None:
        assert kit.store is not None
        self._kit, self._bus, self._store = kit, kit.bus, kit.store
        self.account, self._instance = account, instance
        self.counts = Counts()
        self.board = Channel(self.counts)
        self.channels: dict[str, Channel] = {}
        self.lanes: dict[str, Lane] = {}
        self.taken_ts = -1
        self.state = "STARTING"
        self.rows = 0
        self.last_message_ns = 0
        self.clock: Clock | None = None  # the account's last word on how it stands
        self.schedule = Schedule(SqueezeParams())
        self.configs: dict[str, AssetConfig] = {}  # what is watched
        self._wanted: dict[str, str] = {}  # asset → traded instrument
        self._changed = asyncio.Event()
        self._books = Books(1)
        self._instruments: dict[str, Instrument] = {}
        self._orders: OrderedDict[str, Order] = OrderedDict()

    async def ready(self) -> None:
        """Raise while assets are scanned for the first time; where none is watched there is nothing to wait for."""
        if self.state in ("STARTING", "WARMING"):
            raise SqueezeError(f"the board is {self.state.lower()}: the last 28 hours of each asset are scanned first")

    async def run(self) -> None:
        """Run until cancelled."""
        first = await self._read_params()
        if await self._bus.get(accounts.BUCKET, accounts.ASSETS) is None:
            self.state = "WAITING FOR ASSETS"
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_assets())
            tasks.create_task(self._watch_params(first))
            tasks.create_task(self._tell_market())

    # --- the market ---

    async def _tell_market(self) -> None:
        while not self._wanted:
            await self._stirred()
        self.state = "WARMING"
        flow, trade, audit = [await self._bus.stream(name) for name in ("FLOW", "TRADE", "AUDIT")]
        reader = await self._bus.read("FLOW", ("flow.v1.rows",), f"reporting-{self._instance}-rows", flow.last_seq)
        await self._open_books()
        await self._begin()
        self.state = "RUNNING"
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pump_rows(reader))
            tasks.create_task(self._settle_assets())
            tasks.create_task(self._tell_trading(trade.last_seq))
            tasks.create_task(self._tell_audit(audit.last_seq))

    async def _begin(self) -> None:
        """Scan what is stored; tell the last minutes of it."""
        newest = await self._kit.in_thread(_last_second, self._store, sorted(self._wanted))
        start = max(0, newest + 1 - PREFILL_S)
        for asset, name in sorted(self._wanted.items()):
            instrument = await catalogue.known(self._bus, name)
            if instrument is not None:
                self.lanes[asset] = await self._warmed(asset, instrument, start)
        self.taken_ts = start - 1
        self.board.begin(self.taken_ts)
        for asset in self._wanted:
            self._channel_of(asset)
        if newest >= start:
            await self._fill(newest + 1, happened=await self._happened(start, newest + 1))

    async def _warmed(self, asset: str, instrument: Instrument, end_s: int) -> Lane:
        """Make a lane of the stored rows before a second."""
        lane = Lane(asset, instrument)
        rows = await self._kit.in_thread(self._store.read_rows, asset, max(0, end_s - BEFORE_S), end_s)
        lane.warm(self.schedule, rows)
        return lane

    def _channel_of(self, asset: str) -> Channel:
        channel = self.channels.get(asset)
        if channel is None:
            channel = self.channels[asset] = Channel(self.counts)
            channel.begin(self.taken_ts)
        return channel

    async def _pump_rows(self, reader: Reader) -> None:
        while True:
            deliveries = await reader.pull(PULL, 1.0)
            for each in deliveries:
                batch = each.message
                if isinstance(batch, RowBatch) and batch.ts > self.taken_ts:
                    if batch.ts > self.taken_ts + 1:
                        await self._catch_up(batch.ts)
                    places = enumerate(batch.assets)
                    self._take(batch.ts, {asset: cut(batch.rows, at, at + 1) for at, asset in places})
                    await asyncio.sleep(0)
            if deliveries:
                self.last_message_ns = self._kit.clock.now_ns()
                await reader.ack(deliveries[-1].seq)

    async def _catch_up(self, end_s: int) -> None:
        """Bring the lanes to just before a second that does not follow the one before.

        A lane that is not warm is made anew: the store may have got its past only after this service had looked.
        """
        far = end_s - self.taken_ts - 1 > FILL_S_MAX
        for asset, lane in list(self.lanes.items()):
            if far or not lane.state.warm:
                warmed = await self._warmed(asset, lane.instrument, end_s if far else self.taken_ts + 1)
                if asset in self.lanes:
                    self.lanes[asset] = warmed
        if not far:
            await self._fill(end_s)
            return
        self.taken_ts = end_s - 1
        for channel in (self.board, *self.channels.values()):
            channel.begin(self.taken_ts)

    async def _happened(self, start_s: int, end_s: int) -> dict[str, list[Happened]]:
        """Return what the store knows of trading in a range, by asset."""
        return {
            asset: await self._kit.in_thread(
                _records, self._store, self.account, asset, start_s, end_s, lane.instrument
            )
            for asset, lane in list(self.lanes.items())
        }

    async def _fill(self, end_s: int, happened: Mapping[str, list[Happened]] = MappingProxyType({})) -> None:
        """Tell the seconds from the store that the stream left out before `end_s`, with what happened in them."""
        for attempt in range(STORE_TRIES):
            start = self.taken_ts + 1
            seconds: dict[int, dict[str, Rows]] = {}
            for asset in list(self.lanes):
                rows = await self._kit.in_thread(self._store.read_rows, asset, start, end_s)
                for ts, row in seconds_of(rows):
                    seconds.setdefault(ts, {})[asset] = row
            if end_s - 1 in seconds or attempt == STORE_TRIES - 1:
                break
            await asyncio.sleep(STORE_PAUSE_S)
        for ts in sorted(seconds):
            self._take(ts, seconds[ts])
            for asset, records in happened.items():
                for each in _until(records, ts):
                    self._channel_of(asset).say(each.name, each.body)
            await asyncio.sleep(0)
        self.taken_ts = max(self.taken_ts, end_s - 1)

    def _take(self, ts: int, rows: Mapping[str, Rows]) -> None:
        """Take one second of all assets and tell it."""
        for asset, row in rows.items():
            lane = self.lanes.get(asset)
            if lane is not None and ts > lane.last_ts:
                self._channel_of(asset).say("row", msgspec.json.encode(lane.take(self.schedule, row)), ts)
                self.rows += 1
        self.taken_ts = ts
        held = self.held()
        lines = [lane.line(ts, _of(held, asset)) for asset, lane in sorted(self.lanes.items())]
        self.board.say("board", msgspec.json.encode({"ts": ts, "assets": lines}), ts)

    def held(self) -> dict[str, Held] | None:
        """Return what the account holds at the newest marks."""
        return self._books.held({lane.instrument.id: lane.mark for lane in self.lanes.values()})

    def shown(self) -> dict[str, Any]:
        """Return the board as it stands, with what a page needs to begin."""
        held = self.held()
        lines = [lane.line(self.taken_ts, _of(held, asset)) for asset, lane in sorted(self.lanes.items())]
        sparks = {asset: lane.spark() for asset, lane in sorted(self.lanes.items())}
        return {
            **SCHEMA, "ts": self.taken_ts if self.taken_ts >= 0 else None, "assets": lines, "sparks": sparks,
            "account": self.account, "state": self.state,
        }  # fmt: skip

    # --- what is watched ---

    async def _stirred(self) -> None:
        """Wait until something may have changed."""
        try:
            async with asyncio.timeout(LOOK_S):
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()

    async def _watch_assets(self) -> None:
        async for value, _ in self._bus.watch(accounts.BUCKET, accounts.ASSETS):
            self.configs = accounts.decoded(accounts.ASSETS, value, dict[str, AssetConfig])
            self._wanted = {asset: config.traded for asset, config in self.configs.items()}
            self._changed.set()

    async def _read_params(self) -> SqueezeParams:
        """Learn which parameters hold: those that the strategy wrote down, else those that were asked for."""
        swaps, _ = await accounts.swaps_of(self._bus)
        first = swaps[0].params if swaps else SqueezeParams()
        asked = None if swaps else await self._bus.get(accounts.BUCKET, accounts.PARAMS)
        if asked is not None:
            try:
                first = params_from(msgspec.json.decode(asked[0], type=dict[str, Any]))
            except (msgspec.MsgspecError, SqueezeError) as error:
                self._kit.log.warning("parameters that were asked for are not understood", reason=str(error))
        self.schedule = Schedule(first, swaps)
        return first

    async def _watch_params(self, first: SqueezeParams) -> None:
        async for _ in self._bus.watch(accounts.BUCKET, accounts.PARAMS_LOG):
            swaps, _ = await accounts.swaps_of(self._bus)
            self.schedule = Schedule(first, swaps)

    async def _settle_assets(self) -> None:
        """Follow the list of assets: a new one is scanned up to the present second first."""
        while True:
            for asset in self.lanes.keys() - self._wanted.keys():
                del self.lanes[asset]
                self.channels.pop(asset).begin(self.taken_ts)
            for asset, name in sorted(self._wanted.items()):
                if asset not in self.lanes or self.lanes[asset].instrument.id != name:
                    instrument = await catalogue.known(self._bus, name)
                    if instrument is not None:
                        await self._add(asset, instrument)
            await self._stirred()

    async def _add(self, asset: str, instrument: Instrument) -> None:
        lane = await self._warmed(asset, instrument, self.taken_ts + 1)
        for _ in range(STORE_TRIES):
            if lane.last_ts >= self.taken_ts:
                break
            rows = await self._kit.in_thread(self._store.read_rows, asset, lane.last_ts + 1, self.taken_ts + 1)
            lane.warm(self.schedule, rows)
            await asyncio.sleep(STORE_PAUSE_S)
        self.lanes[asset] = lane
        self._channel_of(asset)

    # --- trading ---

    async def _open_books(self) -> None:
        """Fold the stored fills."""
        found = await self._bus.get(accounts.BUCKET, accounts.plan_key(self.account))
        plan = Plan() if found is None else accounts.decoded(accounts.plan_key(self.account), found[0], Plan)
        self._instruments = await self._kit.in_thread(self._store.instruments)
        self._books = Books(plan.capital_usd)
        for fill in await self._kit.in_thread(tradestore.fills, self._store, self.account):
            await self._book(fill)

    async def _book(self, fill: Fill) -> None:
        instrument = self._instruments.get(fill.instrument) or await catalogue.known(self._bus, fill.instrument)
        if instrument is not None:
            self._instruments[fill.instrument] = instrument
            self._books.apply(fill, instrument)

    async def _tell_trading(self, last_seq: int) -> None:
        """Tell what comes after a message; fills a little before it may be new to the books."""
        subjects = ("trade.v1.signal.>", "trade.v1.intent.>", "trade.v1.fill.>", "trade.v1.clock.>")
        after = max(0, last_seq - FILLS_BACK)
        reader = await self._bus.read("TRADE", subjects, f"reporting-{self._instance}-trade", after)
        while True:
            deliveries = await reader.pull(PULL, 1.0)
            for each in deliveries:
                await self._hear(each.message, new=each.seq > last_seq)
            if deliveries:
                await reader.ack(deliveries[-1].seq)

    async def _hear(self, message: object, *, new: bool) -> None:
        if isinstance(message, Clock) and message.account == self.account:
            self.clock = message
        elif isinstance(message, Fill):
            if message.account == self.account:
                await self._book(message)
            if new:
                await self._say("fill", message)
        elif isinstance(message, Order):
            self._know(message)
            if new:
                await self._say("order", message)
        elif isinstance(message, Signal) and new:
            await self._say("signal", message)

    async def _tell_audit(self, last_seq: int) -> None:
        name = f"reporting-{self._instance}-audit"
        reader = await self._bus.read("AUDIT", ("audit.v1.decision.>", "audit.v1.order.>"), name, last_seq)
        while True:
            deliveries = await reader.pull(PULL, 1.0)
            for each in deliveries:
                if isinstance(each.message, Decision):
                    await self._say("decision", each.message)
                elif isinstance(each.message, OrderUpdate) and each.message.order_id in self._orders:
                    await self._say("order", self._orders[each.message.order_id], each.message)
            if deliveries:
                await reader.ack(deliveries[-1].seq)

    def _know(self, order: Order) -> None:
        self._orders[order.id] = order
        if len(self._orders) > ORDERS_KNOWN:
            self._orders.popitem(last=False)

    async def _say(self, name: str, record: Said, update: OrderUpdate | None = None) -> None:
        channel, lane = self.channels.get(record.asset), self.lanes.get(record.asset)
        if channel is not None and lane is not None:
            channel.say(name, msgspec.json.encode(in_units(record, lane.instrument, update)))

    # --- what lies before the memory ---

    async def rows_after(self, asset: str, after: Key, end_s: int) -> AsyncIterator[bytes]:
        """Tell an asset's seconds after an id again, up to `end_s` (exclusive), with what happened in them."""
        start = after[0] + 1
        if end_s - start > RESUME_S_MAX:
            yield _skipped(start, end_s - RESUME_S_MAX)
            start = end_s - RESUME_S_MAX
        instrument = self.lanes[asset].instrument
        lane = await self._warmed(asset, instrument, start)
        records = await self._kit.in_thread(_records, self._store, self.account, asset, after[0], end_s, instrument)
        for piece in range(start, end_s, PIECE_S):
            rows = await self._kit.in_thread(self._store.read_rows, asset, piece, min(piece + PIECE_S, end_s))
            made = []
            for ts, row in seconds_of(rows):
                made.append(encode("row", msgspec.json.encode(lane.take(self.schedule, row)), (ts, 0)))
                made += _encoded(_until(records, ts), ts)
            yield b"".join(made)
            await asyncio.sleep(0)
        yield b"".join(_encoded(records[::-1], end_s - 1))

    async def boards_after(self, after: Key, end_s: int) -> AsyncIterator[bytes]:
        """Tell the board's seconds after an id again, up to `end_s` (exclusive); what was held then is left out."""
        start = after[0] + 1
        if end_s - start > BOARD_RESUME_S_MAX:
            yield _skipped(start, end_s - BOARD_RESUME_S_MAX)
            start = end_s - BOARD_RESUME_S_MAX
        lanes = {asset: await self._warmed(asset, lane.instrument, start) for asset, lane in sorted(self.lanes.items())}
        for piece in range(start, end_s, PIECE_S):
            seconds: dict[int, dict[str, Rows]] = {}
            for asset in lanes:
                rows = await self._kit.in_thread(self._store.read_rows, asset, piece, min(piece + PIECE_S, end_s))
                for ts, row in seconds_of(rows):
                    seconds.setdefault(ts, {})[asset] = row
            for ts in sorted(seconds):
                for asset, row in seconds[ts].items():
                    lanes[asset].take(self.schedule, row)
                lines = [lane.line(ts, None) for lane in lanes.values()]
                yield encode("board", msgspec.json.encode({"ts": ts, "assets": lines}), (ts, 0))
                await asyncio.sleep(0)


def _of(held: Mapping[str, Held] | None, asset: str) -> Held | None:
    return None if held is None else held.get(asset, Held(0.0, 0.0))


def _skipped(start_s: int, end_s: int) -> bytes:
    """Say that seconds are not told again: whoever needs them reads the series."""
    return encode("gap", msgspec.json.encode({"from": start_s, "to": end_s}), None)


def _encoded(records: Sequence[Happened], ts: int) -> list[bytes]:
    """Write what came after a second and before the next."""
    return [encode(each.name, each.body, (ts, n)) for n, each in enumerate(records, 1)]


def _last_second(store: Store, assets: Sequence[str]) -> int:
    """Return the last second that any of these assets has a row of, −1 if none."""
    found = store.query(
        "SELECT toUnixTimestamp(max(ts)) AS last FROM rows_1s WHERE asset IN {names:Array(String)}",
        {"names": list(assets)},
    )
    return int(found["last"][0].as_py()) or -1


def in_units(record: Said, instrument: Instrument, update: OrderUpdate | None = None) -> dict[str, Any]:
    """Return a record as it is, with what in it stands at an instrument's scale in units people use."""
    price, qty, money = 10**instrument.price_decimals, 10**instrument.qty_decimals, 10**8
    scales = {
        "price": price, "qty": qty, "reset_low": price, "reset_high": price, "fee_usd_e8": money, "slippage_usd_e8": money,
        "score_milli": 1000,
    }  # fmt: skip
    shown: dict[str, Any] = msgspec.to_builtins(record)
    names = {"fee_usd_e8": "fee_usd", "slippage_usd_e8": "slippage_usd", "score_milli": "score"}
    shown["units"] = {names.get(name, name): shown[name] / scale for name, scale in scales.items() if name in shown}
    if isinstance(record, Order):
        shown["state"] = "asked" if update is None else str(update.state)
        shown["update"] = None if update is None else msgspec.to_builtins(update)
    return shown


class Happened(NamedTuple):
    """Something that is no second: when, what, and its JSON."""

    ts: int
    name: str
    body: bytes


def _records(
    store: Store, account: str, asset: str, start_s: int, end_s: int, instrument: Instrument
) -> list[Happened]:
    """Return what happened to an asset in `[start_s, end_s)`, by second, the last first."""
    run = tradestore.live_run(account)
    orders = {order.id: order for order in tradestore.orders(store, account, start_s, end_s)}
    found: list[tuple[int, str, Said, OrderUpdate | None]] = []
    found += [(signal.ts, "signal", signal, None) for signal in tradestore.signals(store, account, start_s, end_s)]
    found += [(one.ts, "decision", one, None) for one in store.decisions(run, asset, start_s, end_s)]
    found += [(order.decided_ts, "order", order, None) for order in orders.values()]
    found += [
        (update.ts, "order", orders[update.order_id], update)
        for update in tradestore.updates(store, account, start_s, end_s)
        if update.order_id in orders
    ]
    found += [(fill.ts, "fill", fill, None) for fill in tradestore.fills(store, account, start_s, end_s)]
    mine = sorted((one for one in found if one[2].asset == asset), key=lambda one: one[0])
    made = [
        Happened(ts, name, msgspec.json.encode(in_units(record, instrument, update)))
        for ts, name, record, update in mine
    ]
    return made[::-1]


def _until(records: list[Happened], ts: int) -> list[Happened]:
    """Take the records up to a second off the end of the list."""
    taken = []
    while records and records[-1].ts <= ts:
        taken.append(records.pop())
    return taken
