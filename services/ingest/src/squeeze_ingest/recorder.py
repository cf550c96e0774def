"""The recorder: prints from the bus into the table `trades`, at least once; the same print again replaces.

It reads what everybody reads, so what a backtest replays is what live was delivered. A slow store delays nobody: it is
another task with its own place in the stream, and waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from squeezecore.adapters.bus import BusError, Delivery, Reader
from squeezecore.adapters.flowstore import insert_trades
from squeezecore.adapters.service import Kit
from squeezecore.adapters.store import Store
from squeezecore.errors import ParseError, SqueezeError
from squeezecore.market import Trades, concat
from squeezecore.wire import STREAMS, TradeBatch

STREAM = "MD"
SUBJECTS = ("md.v1.trade.>",)
BLOCK_S = 1.0  # prints of so long go into one block, which costs the same whatever is in it
PULL_MAX = 2_000  # messages of one block
KEEP_S = 5.0  # how often its place is stored
PAUSE_S, PAUSE_S_MAX = 0.5, 30.0

assert STREAMS[STREAM][0].removesuffix(">") in SUBJECTS[0]


class _Spot(msgspec.Struct, frozen=True):
    """A place in a stream."""

    created: str
    seq: int


def _joined(deliveries: Sequence[Delivery]) -> list[TradeBatch]:
    """Join the prints of many batches into one for each feed, every instrument once."""
    feeds: dict[tuple[str, str], dict[str, list[Trades]]] = {}
    for each in deliveries:
        batch = each.message
        if isinstance(batch, TradeBatch):
            blocks = feeds.setdefault((batch.venue, batch.feed), {})
            for instrument, block in zip(batch.instruments, batch.trades, strict=True):
                blocks.setdefault(instrument, []).append(block)
    return [
        TradeBatch(venue, feed, 0, tuple(blocks), tuple(concat(parts) for parts in blocks.values()))
        for (venue, feed), blocks in feeds.items()
    ]


class Recorder:
    """Writes prints to the store."""

    def __init__(self, kit: Kit, store: Store, instance: str) -> None:
        self.recorded = 0  # prints, since the start
        self.errors = 0
        self.last_error = ""
        self._kit = kit
        self._store = store
        self._instance = instance
        self._seq = 0
        self._created = ""
        self._kept_s = -KEEP_S

    @property
    def _key(self) -> str:
        return f"recorder.{self._instance}"

    async def run(self) -> None:
        """Record until cancelled; whatever goes wrong is tried again, ever more rarely."""
        pause_s = PAUSE_S
        while True:
            recorded = self.recorded
            try:
                await self._record()
            except (SqueezeError, ParseError) as error:
                self.errors += 1
                if str(error) != self.last_error:
                    self.last_error = str(error)
                    self._kit.log.warning("recorder", reason=str(error))
            pause_s = PAUSE_S if self.recorded > recorded else min(PAUSE_S_MAX, 2 * pause_s)
            await asyncio.sleep(pause_s)

    async def _record(self) -> None:
        reader = await self._open()
        try:
            while True:
                began_s = asyncio.get_running_loop().time()
                deliveries = await reader.pull(PULL_MAX)
                if deliveries:
                    self.recorded += await self._kit.in_thread(insert_trades, self._store, _joined(deliveries))
                    self._seq = deliveries[-1].seq
                    await reader.ack(self._seq)
                    await self._keep()
                    self.last_error = ""
                left_s = began_s + BLOCK_S - asyncio.get_running_loop().time()
                if left_s > 0 and len(deliveries) < PULL_MAX // 2:
                    await asyncio.sleep(left_s)
        finally:
            await reader.close()

    async def _open(self) -> Reader:
        """Read on from where the store says, or from the first message where that is of another stream."""
        bus = self._kit.bus
        self._created = (await bus.stream(STREAM)).created
        found = await self._kit.in_thread(self._store.config, self._key)
        spot = _Spot("", 0)
        if found is not None:
            try:
                spot = msgspec.json.decode(found[0], type=_Spot)
            except msgspec.DecodeError:
                self._kit.log.warning("recorder", reason=f"its place was {found[0]!r}, it begins anew")
        name = f"recorder-{self._instance}"
        self._seq = spot.seq if spot.created == self._created else 0
        try:
            return await bus.read(STREAM, SUBJECTS, name, self._seq)
        except BusError:
            if not self._seq:
                raise
            self._seq = 0
            return await bus.read(STREAM, SUBJECTS, name, 0)

    async def _keep(self) -> None:
        """Store our place, now and then; what is read twice replaces itself."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._kept_s >= KEEP_S:
            self._kept_s = now_s
            text = msgspec.json.encode(_Spot(self._created, self._seq)).decode()
            await self._kit.in_thread(self._store.put_config, self._key, text)
