"""The loop: take the lead, find the account as it was, then settle second after second and send what was decided.

An order is appended under the account's fence before it reaches the venue. So whoever was replaced while it slept is refused
there, and whoever takes over knows every order that may have gone out: it sends those again, under the same ids, and no
other. The account's state is redone from its last snapshot with the same rows and orders; what had been said is not said
again. Nothing waits for ClickHouse: records are stored beside the loop, a snapshot after the records before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from squeeze_executor.keeping import Keep, Place, Records
from squeeze_executor.switches import Switchboard
from squeeze_executor.venue import Paper, Venue
from squeezecore import wire
from squeezecore.account import Happened
from squeezecore.adapters import accounts, catalogue
from squeezecore.adapters.accounts import Plan
from squeezecore.adapters.bus import BusError, Fenced, Reader
from squeezecore.adapters.service import Kit
from squeezecore.adapters.tradestore import Standing
from squeezecore.errors import UsageError
from squeezecore.market import DAY_S, Instrument
from squeezecore.risk import TradingState
from squeezecore.settling import SettledSecond, Settling
from squeezecore.trading import USD_E8, Order, OrderState, Signal
from squeezecore.wire import Clock, Decided, FundingFact, RowBatch, Sending

PULL = 500
AHEAD_S_MAX = 2_000  # seconds of rows that wait to be settled
BREATHE = 200  # settled seconds between two turns of the event loop
FUNDING_S_MAX = 120.0  # how long a due funding rate is waited for
STALL_S = 2.0  # between an order's append and its sending; beyond it the lead is looked at once more
SNAPSHOT_S = 5.0  # between two, at least
STORE_S = 0.2  # records are gathered for so long
SUBJECTS = ("intent", "decided", "sending", "clock", "lead")
COUNTS = (
    "seconds", "orders", "denied", "sent", "fills", "payments", "clocks", "snapshots", "late_funding", "store_errors",
)  # fmt: skip


class Executor:
    """One account on paper."""

    def __init__(
        self,
        kit: Kit,
        keep: Keep,
        account: str,
        plan: Plan,
        holder: str,
        *,
        from_streams: bool = False,
        venue_of: Callable[[Paper], Venue] = lambda paper: paper,
    ) -> None:
        self._kit, self._bus, self._keep = kit, kit.bus, keep
        self.account, self.plan, self._holder = account, plan, holder
        self.switchboard = Switchboard(kit, keep, account)
        self.settling = Settling({}, plan.costs, plan.limits, plan.capital_usd * USD_E8, account)
        self._paper = Paper(self.settling)
        self.venue = venue_of(self._paper)
        self.state = "STARTING"
        self.counts = dict.fromkeys(COUNTS, 0)
        self.last_error = ""
        self.last_message_ns = 0
        self.lead = 0
        self._from_streams = from_streams
        self._place = Place()
        self._seqs: deque[tuple[int, int]] = deque()  # second of rows → their sequence
        self._sent_before: set[str] = set()  # orders that went out, or may have, before this start
        self._stood: tuple[TradingState, bool] | None = None  # as last kept
        self._until_ts = -1  # what was said before this start reaches so far
        self._stirred = asyncio.Event()
        self._records, self._to_store = Records(), asyncio.Event()
        self._snapshots: list[tuple[int, Place, bytes]] = []
        self._snapshot_s = -SNAPSHOT_S
        self._wanted: dict[str, Instrument] | None = None
        self._readers: tuple[Reader, Reader, Reader] | None = None

    async def run(self) -> None:
        """Run until cancelled, or until somebody else leads."""
        rows, trade, facts = self._readers = await self._begin()
        self.state = "RUNNING"
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump_rows(rows))
                tasks.create_task(self._pump_trade(trade))
                tasks.create_task(self._pump_facts(facts))
                tasks.create_task(self.switchboard.watch())
                tasks.create_task(self._watch_assets())
                tasks.create_task(self._store_all())
                tasks.create_task(self._trade())
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    # -- where it begins -----------------------------------------------------------------------------------------------

    async def _begin(self) -> tuple[Reader, Reader, Reader]:
        self.plan = await accounts.plan_of(self._bus, self.account, self.plan)
        await self._kit.in_thread(self._keep.put_plan, self.plan)
        self.state = "WAITING FOR ASSETS"
        assets = await accounts.first_assets(self._bus)
        self.state = "RECONCILING"
        await self.switchboard.begin()
        self.lead = await self._bus.take_lead(self.account, self._holder)
        self._use(self._machine(assets))
        fresh = not await self._restore(assets)
        streams = {name: (await self._bus.stream(name)).created for name in ("FLOW", "TRADE", "MD")}
        trade = await self._trade_reader(streams["TRADE"])
        await self._recall(trade, fresh=fresh)
        rows = await self._reader("FLOW", ("flow.v1.rows",), "rows", self._place.flow_seq, self._place.flow_created)
        facts = await self._reader(
            "MD", ("md.v1.funding.>",), "facts", self._place.facts_seq, self._place.facts_created
        )
        self._place = self._place._replace(
            flow_created=streams["FLOW"], trade_created=streams["TRADE"], facts_created=streams["MD"]
        )
        if fresh:  # from here on there is always one to go on from
            await self._kit.in_thread(
                self._keep.put_snapshot, 0, self._place._replace(trade_seq=0), self.settling.to_bytes()
            )
        self._kit.log.info(
            "leading", account=self.account, lead=self.lead, settled_ts=self.settling.settled_ts,
            said_until_ts=self._until_ts, may_be_out=len(self._sent_before),
        )  # fmt: skip
        return rows, trade, facts

    async def _restore(self, assets: dict[str, Instrument]) -> bool:
        """Take over the last snapshot, if there is one; tell whether there was."""
        try:
            found = await self._kit.in_thread(self._keep.snapshot)
            if found is None:
                return False
            self._place, data = found
            self.settling.restore(data)
            held = {one.asset: name for name, one in self.settling.account.exchange.ledger.positions.items()}
            if held.keys() - assets.keys():  # no longer wanted, and not yet left
                known = accounts.by_asset(held, await catalogue.wait_for(self._bus, held.values()))
                self._use(self._machine({**known, **assets}))
                self.settling.restore(data)
        except msgspec.MsgspecError as error:
            raise UsageError(
                f"snapshot of account {self.account} was not understood ({error}): another version wrote it, "
                "let that one end its positions first, or name another account"
            ) from error
        self._sent_before.update(self._place.sent)
        return True

    async def _trade_reader(self, created: str) -> Reader:
        subjects = (*(f"trade.v1.{kind}.{self.account}" for kind in SUBJECTS), "trade.v1.signal.>")
        if self._from_streams and self._place.trade_created != created:
            self._place = self._place._replace(trade_seq=0, trade_created=created)
        try:
            return await self._bus.read(
                "TRADE",
                subjects,
                f"executor-{self.account}-trade",
                self._place.trade_seq,
                created=self._place.trade_created,
            )
        except BusError as error:
            raise UsageError(
                f"{error}; to go on from the snapshot alone, start the executor once with SQUEEZE_FROM_STREAMS=true"
            ) from error

    async def _reader(
        self, stream: str, subjects: tuple[str, ...], what: str, after_seq: int, created: str | None
    ) -> Reader:
        """Read market data on; from the first there is where the stream is another than it was: seconds have their time."""
        name = f"executor-{self.account}-{what}"
        try:
            return await self._bus.read(stream, subjects, name, after_seq, created=created)
        except BusError as error:
            self._kit.log.warning("stream was made anew, read from its beginning", stream=stream, reason=str(error))
            return await self._bus.read(stream, subjects, name, 0)

    async def _recall(self, trade: Reader, *, fresh: bool) -> None:
        """Hear what was said since the snapshot, up to our own lead: what went out, and up to which second all was told."""
        while self._place.trade_seq < self.lead:
            for each in await trade.pull(PULL, 1.0):
                message = each.message
                if isinstance(message, Sending):
                    self._sent_before.add(message.order.id)
                elif isinstance(message, Clock):
                    self._until_ts = max(self._until_ts, message.settled_ts)
                    standing = message.standing
                    self._note_standing(message.settled_ts, standing.state, kill_switch=standing.kill_switch)
                elif isinstance(message, Order | Decided | Signal):
                    self.settling.hear(message)
                self._place = self._place._replace(trade_seq=each.seq)
        if fresh and self._sent_before and not self._from_streams:
            raise UsageError(
                f"account {self.account} has sent {len(self._sent_before)} orders and the store has no snapshot of it: "
                "bring the store back, or start once with SQUEEZE_FROM_STREAMS=true if the streams still hold its whole life"
            )

    def _machine(self, assets: Mapping[str, Instrument]) -> Settling:
        plan = self.plan
        return Settling(assets, plan.costs, plan.limits, plan.capital_usd * USD_E8, self.account)

    def _use(self, settling: Settling) -> None:
        self.settling = settling
        self._paper.follow(settling)

    # -- what comes in -------------------------------------------------------------------------------------------------

    async def _pump_rows(self, reader: Reader) -> None:
        while True:
            if self.settling.waiting_s > AHEAD_S_MAX:
                await asyncio.sleep(0.01)
                continue
            deliveries = await reader.pull(PULL, 1.0)
            for each in deliveries:
                if isinstance(each.message, RowBatch) and each.message.ts > self.settling.taken_ts:
                    self.settling.take([each.message])
                    self._seqs.append((each.message.ts, each.seq))
            self._heard(len(deliveries))

    async def _pump_trade(self, reader: Reader) -> None:
        while True:
            deliveries = await reader.pull(PULL, 1.0)
            for each in deliveries:
                if isinstance(each.message, Order | Decided | Signal):
                    self.settling.hear(each.message)
                self._place = self._place._replace(trade_seq=each.seq)
            self._heard(len(deliveries))

    async def _pump_facts(self, reader: Reader) -> None:
        while True:
            deliveries = await reader.pull(PULL, 1.0)
            for each in deliveries:
                if isinstance(each.message, FundingFact):
                    self._hear_fact(each.message)
                self._place = self._place._replace(facts_seq=each.seq)
            self._heard(len(deliveries))

    def _hear_fact(self, fact: FundingFact) -> None:
        if fact.instrument in self.settling.account.instruments:
            late = fact.settled and fact.event_ts <= self.settling.settled_ts
            self.counts["late_funding"] += late and fact.instrument in self.settling.account.exchange.ledger.positions
            self.settling.hear(fact)

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

    # -- what is done --------------------------------------------------------------------------------------------------

    async def _trade(self) -> None:
        turns = 0
        while True:
            self._stirred.clear()
            while await self._step():
                turns += 1
                if turns % BREATHE == 0:
                    await asyncio.sleep(0)
            await self._stirred.wait()

    async def _step(self) -> bool:
        """Do the next thing that can be done; tell whether there was one."""
        self._change_assets()
        account = self.settling.account
        account.state, account.kill_switch = self.switchboard.state, self.switchboard.kill_switch
        if self.settling.may_judge:
            await self._send_orders()
        elif self.settling.next_ts >= 0:
            await self._settle()
        else:
            return False
        return True

    def _change_assets(self) -> None:
        """Trade other assets from here on; one with a position or an order stays until that has ended."""
        wanted, self._wanted = self._wanted, None
        if wanted is None:
            return
        held = set(self.settling.account.involved())
        present = self.settling.assets
        assets = {**wanted, **{asset: present[asset] for asset in held}}
        if set(assets) != set(wanted):
            self._wanted = wanted  # until that has been left
        if assets == dict(present):
            return
        self._kit.log.info("assets changed", assets=sorted(assets))
        before = self.settling
        self._use(self._machine(assets))
        self.settling.restore(before.to_bytes())
        self.settling.take(before.rows)

    async def _send_orders(self) -> None:
        """Put the settled second's orders to the limits and send those that pass, each written down before."""
        settling = self.settling
        if settling.has_orders:
            await self.switchboard.read()
            settling.account.state = self.switchboard.state
            settling.account.kill_switch = self.switchboard.kill_switch
            if settling.settled_ts > self._until_ts:
                state, kill_switch = self.switchboard.state, self.switchboard.kill_switch
                self._note_standing(settling.settled_ts, state, kill_switch=kill_switch, judging=True)
        for order in settling.judge(self._sent_before, self._until_ts):
            await self._send(order)
            self._sent_before.discard(order.id)
        happened = settling.account.take()
        self._note(happened)
        if happened.updates and settling.settled_ts >= self._until_ts:
            await self._bus.publish_all(happened.updates)

    async def _send(self, order: Order) -> None:
        loop = asyncio.get_running_loop()
        if order.id not in self._sent_before:
            begun = loop.time()
            await self._bus.publish(Sending(account=self.account, order=order, lead_seq=self.lead), lead_seq=self.lead)
            if loop.time() - begun > STALL_S:
                await self._demand_lead()
            self.counts["sent"] += 1
        await self.venue.submit(order)  # an id that is out already is no second order

    async def _demand_lead(self) -> None:
        """Make sure that nobody took over while this process slept."""
        last = await self._bus.last(wire.subject(wire.Lead(account=self.account, holder="", previous_seq=0)))
        if last is None or last.seq != self.lead:
            raise Fenced(
                f"account {self.account}: lead {self.lead} is not the newest, somebody else leads: this one ends"
            )

    async def _settle(self) -> None:
        """Let the next second happen, and tell of it."""
        settling = self.settling
        ts = settling.next_ts
        if ts // DAY_S != settling.settled_ts // DAY_S and settling.settled_ts >= 0:
            self._freeze(ts // DAY_S * DAY_S)
        await self._await_funding(ts)
        if ts > self._until_ts:
            self._note_standing(ts, settling.account.state, kill_switch=settling.account.kill_switch)
        second = settling.settle()
        while self._seqs and self._seqs[0][0] <= ts:
            self._place = self._place._replace(flow_seq=self._seqs.popleft()[1])
        self.counts["seconds"] += 1
        self._note(second.happened)
        if second.is_point:
            self._records.equity[ts] = second.equity_usd_e8
            self._to_store.set()
        self._paper.note(second.happened.fills)
        if ts > self._until_ts:
            await self._tell(second)
        loop = asyncio.get_running_loop()
        if (ts + 1) % 60 == 0 and loop.time() - self._snapshot_s >= SNAPSHOT_S:
            self._snapshot_s = loop.time()
            self._freeze(ts + 1)

    async def _await_funding(self, ts: int) -> None:
        """Wait for the rates that are due in a second we hold through, but not for ever: exits come after it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + FUNDING_S_MAX
        while (due := self.settling.awaits(ts)) and loop.time() < deadline:
            self.last_error = f"waiting for funding of {', '.join(due)} at {ts}"
            self._stirred.clear()
            try:
                async with asyncio.timeout_at(min(deadline, loop.time() + 1.0)):
                    await self._stirred.wait()
            except TimeoutError:
                continue
        if due:
            self._kit.log.warning("funding was not known in time, it is paid when it comes", instruments=due, ts=ts)

    async def _tell(self, second: SettledSecond) -> None:
        """Publish what a second brought, the account's standing last."""
        for fill in second.happened.fills:
            await self._bus.publish(fill, lead_seq=self.lead)
        for payment in second.happened.payments:
            await self._bus.publish(
                wire.Payment(
                    account=self.account, instrument=payment.instrument, ts=payment.ts, received_usd_e8=payment.received_usd_e8
                ),
                lead_seq=self.lead,
            )  # fmt: skip
        if second.happened.decisions:
            await self._bus.publish_all(second.happened.decisions)
        if second.happened.updates:
            await self._bus.publish_all(second.happened.updates)
        if second.clock is not None:
            await self._bus.publish(second.clock, lead_seq=self.lead)
            self.counts["clocks"] += 1

    def _note(self, happened: Happened) -> None:
        """Count and keep what happened."""
        self.counts["orders"] += len(happened.orders)
        self.counts["denied"] += sum(update.state is OrderState.DENIED for update in happened.updates)
        self.counts["fills"] += len(happened.fills)
        self.counts["payments"] += len(happened.payments)
        self._records.add(happened)
        if self._records:
            self._to_store.set()

    def _note_standing(self, ts: int, state: TradingState, *, kill_switch: bool, judging: bool = False) -> None:
        """Keep from when on the account might do what."""
        if (state, kill_switch) != self._stood:
            self._stood = state, kill_switch
            self._records.standings.append(Standing(ts, judging, str(state), kill_switch))
            self._to_store.set()

    # -- what is kept --------------------------------------------------------------------------------------------------

    def _freeze(self, ts: int) -> None:
        """Have the state stored, after all records before it."""
        if self._snapshots and self._snapshots[-1][0] % DAY_S:
            self._snapshots.pop()
        place = self._place._replace(sent=tuple(sorted(self._sent_before)))
        self._snapshots.append((ts, place, self.settling.to_bytes()))
        self._to_store.set()

    async def _store_all(self) -> None:
        """Store records and snapshots, again until it works."""
        while True:
            await self._to_store.wait()
            await asyncio.sleep(STORE_S)
            self._to_store.clear()
            records, self._records = self._records, Records()
            snapshots, self._snapshots = self._snapshots, []
            await self._kit.insist(self._unstored, self._keep.put, records)
            for snapshot in snapshots:
                await self._kit.insist(self._unstored, self._keep.put_snapshot, *snapshot)
                self.counts["snapshots"] += 1
                await self._acknowledge(snapshot[1])

    def _unstored(self, reason: str, over: bool) -> None:
        """Note that the store took nothing, or that this is over."""
        if not over:
            self.counts["store_errors"] += 1
            self.last_error = reason
        elif self.last_error == reason:
            self.last_error = ""

    async def _acknowledge(self, place: Place) -> None:
        assert self._readers is not None
        for reader, seq in zip(self._readers, (place.flow_seq, place.trade_seq, place.facts_seq), strict=True):
            await reader.ack(seq)

    # -- what is there -------------------------------------------------------------------------------------------------

    def status(self) -> Mapping[str, Any]:
        """Say how it goes."""
        board, settling = self.switchboard, self.settling
        state = self.state
        if state == "RUNNING":
            state = "KILLED" if board.kill_switch else state if board.state == "active" else str(board.state).upper()
        return {
            "state": state,
            "lag_s": float(max(0, settling.taken_ts - settling.settled_ts)) if settling.settled_ts >= 0 else 0.0,
            "messages": self.counts["seconds"],
            "errors": self.counts["store_errors"],
            "last_message_ns": self.last_message_ns,
            "last_error": board.error or self.last_error,
            "account": self.account,
            "settled_ts": settling.settled_ts,
            "decided_ts": settling.decided_ts,
            "lead": self.lead,
        }
