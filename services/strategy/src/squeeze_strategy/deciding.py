"""The loop: rows and the account's standings in, signals, records and intents out.

What is decided follows from the stream alone, so a restart from the last snapshot decides the same again; what had been said
is not said again, and ids keep the rest apart. A second's signals and intents lie in the stream before the word that it is
decided. Records are stored beside the loop, a snapshot after the records before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from squeeze_strategy.keeping import Keep, Place
from squeezecore.adapters import accounts
from squeezecore.adapters.accounts import Plan, Swap
from squeezecore.adapters.bus import BusError, Reader
from squeezecore.adapters.service import Kit
from squeezecore.desk import NEVER, Desk, Said, signal_of
from squeezecore.errors import SqueezeError
from squeezecore.market import DAY_S, Instrument
from squeezecore.squeeze import SqueezeParams, params_from
from squeezecore.trading import Decision, Direction, Parts
from squeezecore.wire import Clock, Decided, RowBatch

PULL = 500
AHEAD_S_MAX = 2_000  # seconds of rows that wait to be taken, and taken ones that wait to be decided
MARGIN = 200  # messages before the place where a row is thought to be
SNAPSHOT_S = 5.0  # between two, at least
SNAPSHOT_BYTES_S = 1_000_000  # a larger state is stored less often: so many bytes a second
STORE_S = 0.2  # records are gathered for so long
COUNTS = ("rows", "seconds", "decisions", "signals", "intents", "snapshots", "swaps", "refused_params", "store_errors")


class _Row(NamedTuple):
    batch: RowBatch
    seq: int


class Strategy:
    """The decisions of one account."""

    def __init__(self, kit: Kit, keep: Keep, account: str, plan: Plan) -> None:
        self._kit, self._bus, self._keep = kit, kit.bus, keep
        self.account, self.plan = account, plan
        self.desk = Desk(SqueezeParams(), {}, plan.costs, plan.limits, account)
        self.state = "STARTING"
        self.counts = dict.fromkeys(COUNTS, 0)
        self.last_error = ""
        self.last_message_ns = 0
        self.refused = ""  # why the parameters that were asked for do not hold
        self.asked: Mapping[str, Any] | None = None
        self._place = Place()
        self._until_ts = NEVER  # what was said before this start reaches so far
        self._incoming: deque[_Row] = deque()
        self._stirred = asyncio.Event()
        self._wanted: dict[str, Instrument] | None = None
        self._wanted_params: SqueezeParams | None = None
        self._decisions: list[Decision] = []
        self._swaps: list[Swap] = []
        self._to_store = asyncio.Event()
        self._snapshots: list[tuple[int, Place, bytes]] = []
        self._snapshot_s, self._snapshot_ts, self._pause_s = -SNAPSHOT_S, NEVER, SNAPSHOT_S
        self._readers: tuple[Reader, Reader] | None = None

    async def run(self) -> None:
        """Run until cancelled."""
        rows, clocks = self._readers = await self._begin()
        self.state = "RUNNING"
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump_rows(rows))
                tasks.create_task(self._pump_clocks(clocks))
                tasks.create_task(self._watch_assets())
                tasks.create_task(self._watch_params())
                tasks.create_task(self._store_all())
                tasks.create_task(self._decide())
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    # -- where it begins -----------------------------------------------------------------------------------------------

    async def _begin(self) -> tuple[Reader, Reader]:
        self.plan = await accounts.plan_of(self._bus, self.account, self.plan)
        self.state = "WAITING FOR ASSETS"
        assets = await accounts.first_assets(self._bus)
        self.state = "WARMING"
        flow, trade = await self._bus.stream("FLOW"), await self._bus.stream("TRADE")
        swaps, _ = await accounts.swaps_of(self._bus)
        self._swaps = swaps  # what a crash may have left out
        self.desk = self._desk(await self._first_params(swaps), assets)
        found = await self._kit.in_thread(self._keep.snapshot)
        fits = found is not None and found.fits and found.place.flow_created == flow.created
        if found is not None and fits:
            self._place = found.place
            self.desk.restore(found.state)
            for swap in swaps:
                if swap.from_ts > self.desk.taken_ts:
                    self.desk.swap(swap.params, swap.from_ts)
            rows = await self._rows_reader(self._place.flow_seq)
        else:
            if found is not None:
                self._adopt(found.state)
            rows = await self._warm_up()
        clocks = await self._clocks_reader(trade.created)
        said = await self._bus.last(f"trade.v1.decided.{self.account}")
        if said is not None and isinstance(said.message, Decided):
            self._until_ts = said.message.ts
        self._place = self._place._replace(flow_created=flow.created, trade_created=trade.created)
        if not fits:  # from here on there is always one to go on from
            state = self.desk.to_bytes()
            await self._kit.in_thread(self._keep.put_snapshot, self.desk.decided_ts + 1, self._place, state)
        if self.desk.decided_ts > self._until_ts:
            await self._bus.publish(Decided(account=self.account, ts=self.desk.decided_ts))
            self._until_ts = self.desk.decided_ts
        self._kit.log.info(
            "deciding", account=self.account, decided_ts=self.desk.decided_ts, said_until_ts=self._until_ts,
            params=self.desk.params.hash, warming=self.desk.warming,
        )  # fmt: skip
        return rows, clocks

    def _adopt(self, state: bytes) -> None:
        try:
            self.desk.adopt(state)
        except msgspec.MsgspecError as error:
            self._kit.log.warning("snapshot was not understood, what is held gets today's levels", reason=str(error))

    def _desk(self, params: SqueezeParams, assets: Mapping[str, Instrument]) -> Desk:
        return Desk(params, assets, self.plan.costs, self.plan.limits, self.account)

    async def _first_params(self, swaps: list[Swap]) -> SqueezeParams:
        """Return the parameters of a start without a snapshot: those asked for, else the last that held, else the defaults."""
        found = await self._bus.get(accounts.BUCKET, accounts.PARAMS)
        if found is not None:
            asked = self._understood(found[0])
            if asked is not None:
                return asked
        return swaps[-1].params if swaps else SqueezeParams()

    async def _rows_reader(self, after_seq: int) -> Reader:
        return await self._bus.read("FLOW", ("flow.v1.rows",), f"strategy-{self.account}-rows", after_seq)

    async def _warm_up(self) -> Reader:
        """Scan the stored rows before those of the stream; return a reader that goes on from there."""
        last = await self._bus.last("flow.v1.rows")
        if last is None:  # nothing was published yet: the first row says where we are
            reader = await self._rows_reader(0)
            deliveries = await reader.pull(1, 1.0)
            while not deliveries:
                deliveries = await reader.pull(1, 1.0)
            first = deliveries[0].message
            assert isinstance(first, RowBatch)
            await self._warm(first.ts)
            self._incoming.append(_Row(first, deliveries[0].seq))
            return reader
        assert isinstance(last.message, RowBatch)
        newest = await self._kit.in_thread(self._keep.last_row, list(self.desk.assets), last.message.ts + 1)
        if newest < 0:
            return await self._rows_reader(0)
        await self._warm(newest + 1)
        back = MARGIN + last.message.ts - newest
        while True:
            after = max(0, last.seq - back)
            reader = await self._rows_reader(after)
            deliveries = await reader.pull(PULL, 1.0)
            rows = [_Row(each.message, each.seq) for each in deliveries if isinstance(each.message, RowBatch)]
            if not after or (rows and rows[0].batch.ts <= newest + 1):
                self._incoming.extend(rows)
                self._place = self._place._replace(flow_seq=after)
                return reader
            back *= 4

    async def _warm(self, end_ts: int) -> None:
        for asset in self.desk.assets:
            self.desk.warm(asset, await self._kit.in_thread(self._keep.warmup, asset, end_ts))
        self.desk.begin(end_ts - 1)

    async def _clocks_reader(self, created: str) -> Reader:
        """Hear the account's standings: from the snapshot's place on, or only the last."""
        subject = f"trade.v1.clock.{self.account}"
        name = f"strategy-{self.account}-clocks"
        if self._place.trade_created == created:
            return await self._bus.read("TRADE", (subject,), name, self._place.trade_seq, created=created)
        last = await self._bus.last(subject)
        if last is None:
            return await self._bus.read("TRADE", (subject,), name, 0)
        self._hear(last.message)
        self._place = self._place._replace(trade_seq=last.seq)
        return await self._bus.read("TRADE", (subject,), name, last.seq)

    # -- what comes in -------------------------------------------------------------------------------------------------

    async def _pump_rows(self, reader: Reader) -> None:
        while True:
            if len(self._incoming) > AHEAD_S_MAX:
                await asyncio.sleep(0.01)
                continue
            deliveries = await reader.pull(PULL, 1.0)
            self._incoming.extend(
                _Row(each.message, each.seq) for each in deliveries if isinstance(each.message, RowBatch)
            )
            self._heard(len(deliveries))

    async def _pump_clocks(self, reader: Reader) -> None:
        while True:
            deliveries = await reader.pull(PULL, 1.0)
            for each in deliveries:
                self._hear(each.message)
                self._place = self._place._replace(trade_seq=each.seq)
            self._heard(len(deliveries))

    def _hear(self, message: object) -> None:
        if isinstance(message, Clock):
            self.desk.hear(message)

    def _heard(self, count: int) -> None:
        if count:
            self.last_message_ns = self._kit.clock.now_ns()
            self._stirred.set()

    async def _watch_assets(self) -> None:
        async for assets in accounts.asset_changes(self._bus, self._refuse):
            self._wanted = assets
            self._stirred.set()

    def _refuse(self, reason: str) -> None:
        self.last_error = reason

    async def _watch_params(self) -> None:
        async for value, _ in self._bus.watch(accounts.BUCKET, accounts.PARAMS):
            self._wanted_params = self._understood(value)
            self._stirred.set()

    def _understood(self, value: bytes) -> SqueezeParams | None:
        """Read parameters that were asked for; wrong ones change nothing, and why is shown."""
        try:
            self.asked = msgspec.json.decode(value, type=dict[str, Any])
            params = params_from(dict(self.asked))
        except (msgspec.MsgspecError, SqueezeError) as error:
            self.refused = f"parameters in key {accounts.PARAMS} were refused, the old ones stay: {error}"
            self.last_error = self.refused
            self.counts["refused_params"] += 1
            return None
        self.refused = ""
        return params

    # -- what is done --------------------------------------------------------------------------------------------------

    async def _decide(self) -> None:
        while True:
            self._stirred.clear()
            if await self._step():
                await asyncio.sleep(0)
            else:
                await self._stirred.wait()

    async def _step(self) -> bool:
        """Take rows, decide what can be decided, say it; tell whether there was anything to do."""
        await self._change_assets()
        await self._change_params()
        moved = self._take()
        while (said := self.desk.decide()) is not None:
            moved = True
            await self._say(said)
        if moved:
            self._maybe_freeze()
        return moved

    def _take(self) -> bool:
        """Take rows up to the day's end; the next day's wait until all before it is decided, for the snapshot between."""
        desk = self.desk
        taken: list[_Row] = []
        if desk.undecided_s >= AHEAD_S_MAX:
            return False
        while self._incoming:
            row = self._incoming[0]
            before = taken[-1].batch.ts if taken else desk.taken_ts
            if before >= 0 and row.batch.ts // DAY_S > before // DAY_S:
                if taken or desk.undecided_s:
                    break
                self._freeze(row.batch.ts // DAY_S * DAY_S)
            taken.append(self._incoming.popleft())
            self._place = self._place._replace(flow_seq=row.seq)
        desk.take([row.batch for row in taken])
        self.counts["rows"] += len(taken)
        return bool(taken)

    async def _say(self, said: Said) -> None:
        """Publish what was decided: signals, then intents, then that all of it was said."""
        signals = [signal for signal in map(signal_of, said.decisions) if signal is not None]
        self._decisions += said.decisions
        if said.decisions:
            self._to_store.set()
        self.counts["seconds"] += 1
        self.counts["decisions"] += len(said.decisions)
        self.counts["signals"] += len(signals)
        self.counts["intents"] += len(said.orders)
        if said.decided_ts <= self._until_ts:
            return
        await self._bus.publish_all(signals)
        for order in said.orders:
            await self._bus.publish(order)
        decided = Decided(account=self.account, ts=said.decided_ts, kill_switch=said.kill_switch, state=said.state)
        await self._bus.publish(decided)
        if said.decisions:
            await self._bus.publish_all(said.decisions)

    async def _change_assets(self) -> None:
        """Trade other assets from here on; one that is held stays until it has been left."""
        wanted, self._wanted = self._wanted, None
        if wanted is None:
            return
        present, standing = self.desk.assets, self.desk.standing
        held = {holding.asset for holding in standing.holdings} if standing is not None else set()
        assets = {**wanted, **{asset: present[asset] for asset in held if asset in present}}
        if set(assets) != set(wanted):
            self._wanted = wanted  # until that has been left
        if assets == dict(present):
            return
        self._kit.log.info("assets changed", assets=sorted(assets))
        before = self.desk
        desk = self._desk(before.params, assets)
        desk.restore(before.to_bytes())
        for asset in assets.keys() - present.keys():
            rows = await self._kit.in_thread(self._keep.warmup, asset, before.taken_ts + 1)
            desk.warm_one(asset, rows)
        self.desk = desk

    async def _change_params(self) -> None:
        """Let parameters that were asked for hold from the next second that is taken, and write that down first."""
        params, self._wanted_params = self._wanted_params, None
        if params is None or params == self.desk.params_after:
            return
        # what was said before a restart was decided with the old ones, and will be again
        from_ts = max(self.desk.taken_ts, self._until_ts, self.desk.swapped_ts) + 1
        before = self.desk.params_after
        try:
            await accounts.log_swap(self._bus, Swap(from_ts=from_ts, params=params))
        except BusError as error:
            self.last_error, self._wanted_params = f"parameters wait for the bus: {error}", params
            return
        self._swaps, _ = await accounts.swaps_of(self._bus)
        self._to_store.set()
        self.desk.swap(params, from_ts)
        self.counts["swaps"] += 1
        self._kit.log.info("parameters change", from_ts=from_ts, before=before.hash, after=params.hash)
        await self._bus.publish_all([_swapped(asset, from_ts, before, params) for asset in self.desk.assets])

    # -- what is kept --------------------------------------------------------------------------------------------------

    def _maybe_freeze(self) -> None:
        now_s = asyncio.get_running_loop().time()
        minute = self.desk.decided_ts // 60
        if minute > self._snapshot_ts // 60 and now_s - self._snapshot_s >= self._pause_s:
            self._freeze(self.desk.decided_ts + 1)

    def _freeze(self, ts: int) -> None:
        """Have the state stored, after all records before it."""
        state = self.desk.to_bytes()
        self._snapshot_s, self._snapshot_ts = asyncio.get_running_loop().time(), self.desk.decided_ts
        self._pause_s = max(SNAPSHOT_S, len(state) / SNAPSHOT_BYTES_S)
        if self._snapshots and self._snapshots[-1][0] % DAY_S:
            self._snapshots.pop()
        self._snapshots.append((ts, self._place, state))
        self._to_store.set()

    async def _store_all(self) -> None:
        """Store records and snapshots, again until it works."""
        while True:
            await self._to_store.wait()
            await asyncio.sleep(STORE_S)
            self._to_store.clear()
            decisions, self._decisions = self._decisions, []
            snapshots, self._snapshots = self._snapshots, []
            swaps, self._swaps = self._swaps, []
            if swaps:
                await self._kit.insist(self._unstored, self._keep.put_swaps, swaps)
            if decisions:
                await self._kit.insist(self._unstored, self._keep.put, decisions)
            for snapshot in snapshots:
                await self._kit.insist(self._unstored, self._keep.put_snapshot, *snapshot)
                self.counts["snapshots"] += 1
                assert self._readers is not None
                for reader, seq in zip(self._readers, (snapshot[1].flow_seq, snapshot[1].trade_seq), strict=True):
                    await reader.ack(seq)

    def _unstored(self, reason: str, over: bool) -> None:
        """Note that the store took nothing, or that this is over."""
        if not over:
            self.counts["store_errors"] += 1
            self.last_error = reason
        elif self.last_error == reason:
            self.last_error = ""

    # -- what is there -------------------------------------------------------------------------------------------------

    def status(self) -> Mapping[str, Any]:
        """Say how it goes."""
        desk, state = self.desk, self.state
        if state == "RUNNING":
            if desk.standing is None:
                state = "WAITING FOR THE EXECUTOR"
            elif desk.warming:
                state = "WARMING"
        newest = self._incoming[-1].batch.ts if self._incoming else desk.taken_ts
        return {
            "state": state,
            "lag_s": float(max(0, newest - desk.decided_ts)) if desk.decided_ts >= 0 else 0.0,
            "messages": self.counts["rows"],
            "errors": self.counts["store_errors"],
            "last_message_ns": self.last_message_ns,
            "last_error": self.last_error,
            "account": self.account,
            "decided_ts": desk.decided_ts,
            "warming": list(desk.warming),
            "params_hash": desk.params.hash,
        }


def _swapped(asset: str, from_ts: int, before: SqueezeParams, after: SqueezeParams) -> Decision:
    """Record in the audit from when other parameters hold."""
    return Decision(
        asset=asset, ts=from_ts, kind="parameters", direction=Direction.NEUTRAL, score_milli=0, parts=Parts(), phase="IDLE",
        reset_low=0, reset_high=0, reason=f"{before.hash} -> {after.hash}", params_hash=after.hash,
    )  # fmt: skip
