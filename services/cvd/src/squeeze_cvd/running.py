"""The loop: pull, decide, publish, store, snapshot, acknowledge; and from where it begins.

Rows are published before anything is stored, because somebody waits for them. Then, beside the next pulls, the effects are
stored, then the state with its place in the stream, and only then is the stream acknowledged. All of it may be done twice: a crash
anywhere goes on from the last snapshot, decides the same again, and the bus and the store know what they have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ParamSpec, TypeVar

import msgspec
import numpy as np

from squeeze_cvd.flowing import SECOND_NS, Effects, Flow, Remake, joined, names_of, pick
from squeeze_cvd.freezing import FORMAT, freeze, thaw
from squeeze_cvd.keeping import Keep
from squeeze_cvd.warming import seek, warm
from squeezecore import flow
from squeezecore.adapters import catalogue
from squeezecore.adapters.bus import BusError, Reader
from squeezecore.adapters.scanning import code_version
from squeezecore.adapters.service import Kit
from squeezecore.errors import UsageError
from squeezecore.market import Instrument, Rows, Trades, concat, empty
from squeezecore.spec import AssetConfig
from squeezecore.venues import Feed as Stream
from squeezecore.wire import RepairBatch, RowBatch

PULL = 2_000  # messages at a time
PULL_S = 1.0
STORE_S = 1.0  # effects other than rows wait so long for company: an insert costs ten milliseconds whatever is in it
BEHIND_MAX = 8  # pulls whose effects are not stored yet; then nothing more is pulled
SNAPSHOT_S = 1.0  # loop time between two snapshots at least
SNAPSHOT_BYTES_S = 1_000_000  # a larger state is stored less often: so many bytes a second
REMAKE_SHARE = (
    0.2  # of the time may go into repairs: after a reconnect there are many, and new seconds must not wait for them
)
REMAKE_S = 1.0  # until a repair whose prints are not recorded yet is tried again
REMAKE_S_MAX = 60.0  # after that it is done with what there is
STALE_S = 12  # without a watermark for so long while others go on, or without any message: ingest is dead
DAY_S = 86_400
WEIGHING_S = 60  # after midnight new weights hold

Assets = dict[str, AssetConfig]
P = ParamSpec("P")
T = TypeVar("T")


def version() -> str:
    """Return what a frozen state depends on: the core's sources and the format."""
    return f"{code_version()}.{FORMAT}"


class Cvd:
    """The service's loop."""

    def __init__(
        self, kit: Kit, keep: Keep, stream: Stream = Stream.AGGREGATE, *, shares: bool = False, from_bars: bool = False
    ) -> None:
        self._kit, self._bus, self._keep = kit, kit.bus, keep
        self.flow = Flow(stream)
        self.state = "STARTING"
        self.messages = 0
        self.decided_s = -1  # rows before this second are published and stored
        self.published = 0  # seconds of rows
        self.repaired = 0  # rows
        self.last_error = ""
        self.lag = 0  # messages
        self.last_rows: dict[str, Rows] = {}
        self._shares, self._from_bars = shares, from_bars
        self._wanted: tuple[Assets, dict[str, Instrument]] | None = None
        self._followed: object = None  # the list that the schedule has in it
        self._weighed_s = -1  # when weights were last taken
        self._stirred = asyncio.Event()
        self._created = ""
        self._snapshot_s = -SNAPSHOT_S
        self._snapshot_bytes = 0
        self._stored_seq = -1
        self._unstored: list[Effects] = []
        self._storing: asyncio.Task[None] | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # status is asked for from threads too
        self._heard_s = -1.0  # when the last message came, loop time
        self._hurry = False  # rows are out and not stored
        self._store_s = -STORE_S
        self._remake_from_s = 0.0  # of the event loop: the next repair may begin
        self._tried: dict[str, tuple[float, float]] = {}  # remake → when it was first and last tried

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks, self._loop = tasks, asyncio.get_running_loop()
            tasks.create_task(self._watch())
            tasks.create_task(self._run())

    async def _run(self) -> None:
        reader = await self._begin()
        self.state = "RUNNING"
        while True:
            await self._reconfigure(reader)
            held = self.flow.hold_s == self.flow.decided_s >= 0  # what came is not used up
            deliveries = [] if held else await reader.pull(PULL, PULL_S)
            for each in deliveries:
                self.flow.take(each.message, each.seq)
            self.messages += len(deliveries)
            self._heard_s = asyncio.get_running_loop().time() if deliveries else self._heard_s
            self._hold()
            self.flow.decide()
            await self._publish()
            await self._store(reader)
            await self._remake(reader)

    # -- where it begins -----------------------------------------------------------------------------------------------

    async def _begin(self) -> Reader:
        """Find the state to go on from, and the place in the stream that belongs to it."""
        there = await self._bus.stream("MD")
        self._created = there.created
        found = None if self._from_bars else await self._kit.in_thread(self._keep.snapshot)
        created: str | None = None
        if found is not None:
            created, body = msgspec.msgpack.decode(found.body, type=tuple[str, bytes])
            stood = thaw(body)
            if stood.stream is self.flow.stream:
                self.flow = stood
                self._kit.log.info("going on from a snapshot", ts=found.ts, seq=found.stream_seq)
            else:  # it counts other prints
                self._kit.log.info("the snapshot counts other prints", trade_stream=stood.stream.value)
                found = created = None
        await self._recall()
        if found is None:
            self.state = "WARMING"
            newest = await self._bus.last("flow.v1.rows")
            published = newest.message if newest is not None and isinstance(newest.message, RowBatch) else None
            if await self._kit.in_thread(warm, self.flow, self._keep, published):
                self.flow.seq = await seek(self._bus, there, self.flow)
                self._kit.log.info("going on from stored bars", decided_s=self.flow.decided_s, seq=self.flow.seq)
            await self._kit.in_thread(self._keep.drop_snapshots, self.flow.decided_s)
        try:
            reader = await self._bus.read("MD", ("md.v1.>",), "cvd", self.flow.seq, created=created)
        except BusError as error:
            raise UsageError(
                f"{error}; to go on from the stored bars instead of the snapshot, start cvd once with SQUEEZE_FROM_BARS=true"
            ) from error
        if found is None:  # whatever comes, the next start begins here too
            seq = self.flow.seq
            await self._kit.insist(self._refused, self._keep.put_snapshot, self.flow.decided_s, seq, self._frozen())
            self._stored_seq = seq
        return reader

    async def _recall(self) -> None:
        """Take the configurations that are safe in the store and not in the state, and wait for the first if there is none."""
        stored = await self._kit.in_thread(self._keep.changes)
        known = await self._kit.in_thread(self._keep.instruments) if stored else {}
        wanted = {name for change in stored if change.config is not None for name in names_of(change.config)}
        for name in sorted(wanted):
            entry = await catalogue.known(self._bus, name)
            if entry is not None:
                known[name] = entry
        usable = [
            change
            for change in stored
            if change.config is None or all(name in known for name in names_of(change.config))
        ]
        news = [change for change in usable if change not in self.flow.changes and change not in self.flow.schedule]
        if news:
            await self._bus.publish_all(news)  # said again, should the end have come between storing and saying it
            self.flow.change(news, known)
        while not self.flow.assets and not self.flow.schedule:
            self.state = "WAITING FOR ASSETS"
            await self._stirred.wait()
            await self._reconfigure()

    # -- configuration -------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Follow the asset list; hand it over when every instrument in it is known."""
        async for value, revision in self._bus.watch("config", "assets"):
            try:
                assets = msgspec.json.decode(value, type=Assets)
            except msgspec.DecodeError as error:
                self._complain(
                    f"key assets in bucket config, revision {revision}, is no list of assets ({error}): mend it"
                )
                continue
            names = sorted({name for config in assets.values() for name in names_of(config)})
            instruments = await catalogue.wait_for(self._bus, names)
            refused = [name for name, config in assets.items() if not self._usable(name, config, instruments)]
            self._wanted = {name: config for name, config in assets.items() if name not in refused}, instruments
            self._stirred.set()

    def _usable(self, asset: str, config: AssetConfig, instruments: Mapping[str, Instrument]) -> bool:
        try:
            flow.row_params(config, instruments)
        except UsageError as error:
            self._complain(f"asset {asset} is left out: {error}")
            return False
        return True

    async def _reconfigure(self, reader: Reader | None = None) -> None:
        """Bring a changed list, or a new day's weights, into the schedule: stored first, then said, then followed."""
        decided_s = self.flow.decided_s
        weigh = self._shares and decided_s >= 0 and self._next_weighing_s(decided_s) == decided_s != self._weighed_s
        if self._wanted is None and weigh:
            await self._stirred.wait()
        if self._wanted is None:
            return
        if self._wanted is self._followed and not weigh:
            return
        if weigh and reader is not None:
            await self._store(reader, all_of_it=True)  # the turnover of yesterday's last hour
        assets, instruments = self._wanted
        if self._shares and decided_s >= DAY_S:
            midnight_s = (decided_s - WEIGHING_S) // DAY_S * DAY_S
            shares = self._keep.volume_shares
            assets = {
                name: await self._kit.in_thread(shares, config, instruments, midnight_s)
                for name, config in assets.items()
            }
        changes = self.flow.plan(assets, decided_s if weigh else -1)
        if changes:
            await self._kit.insist(self._refused, self._keep.put_changes, changes)
            await self._bus.publish_all(changes)
            self.flow.change(changes, instruments)
            self._kit.log.info("assets change", from_ts=changes[0].from_ts, assets=[change.asset for change in changes])
        self._followed, self._weighed_s = self._wanted, decided_s

    def _next_weighing_s(self, second: int) -> int:
        """Return the first second at or after one from which new weights hold: the same in every run over the same facts."""
        return -((WEIGHING_S - second) // DAY_S) * DAY_S + WEIGHING_S

    def _hold(self) -> None:
        """Let no row pass the second from which new weights hold before they are there."""
        at = self.flow.decided_s if self.flow.decided_s >= 0 else self.flow.first_s
        if self._shares and at >= 0:
            self.flow.hold_s = self._next_weighing_s(at + 1)

    # -- effects -------------------------------------------------------------------------------------------------------

    async def _publish(self) -> None:
        """Say what was decided; it is stored after that, beside the next pull."""
        effects = self.flow.effects()
        if effects:
            self._unstored.append(effects)
        if effects.rows:
            await self._bus.publish_all(effects.rows)
            self.published += len(effects.rows)
            self._hurry = True
            last = effects.rows[-1]
            for at, asset in enumerate(last.assets):
                self.last_rows[asset] = Rows(*(column[at : at + 1] for column in last.rows))

    async def _store(self, reader: Reader, *, all_of_it: bool = False) -> None:
        """Begin to store what is not stored yet: after each second of rows, else once a second; one such task at a time."""
        while self._storing is not None:
            if not self._storing.done() and len(self._unstored) < BEHIND_MAX and not all_of_it:
                return
            begun, self._storing = self._storing, None
            await begun
            all_of_it = all_of_it and bool(self._unstored_facts())
        now_s = asyncio.get_running_loop().time()
        if not (self._hurry or all_of_it or now_s >= self._store_s + STORE_S):
            return
        if not self._unstored_facts() and self.flow.seq == self._stored_seq:
            self._unstored.clear()
            return
        body: bytes | None = None
        pause_s = max(SNAPSHOT_S, self._snapshot_bytes / SNAPSHOT_BYTES_S)
        if now_s >= self._snapshot_s + pause_s:
            self.flow.settle()  # may find late prints
            self._unstored.append(self.flow.effects())
            body = self._frozen()
            self._snapshot_s, self._snapshot_bytes = now_s, len(body)
        made, self._unstored = joined(self._unstored), []
        self._store_s, self._hurry = now_s, False
        assert self._tasks is not None
        storing = self._store_all(made, body, self.flow.decided_s, self.flow.seq, reader)
        self._storing = self._tasks.create_task(storing)
        if all_of_it:
            await self._store(reader, all_of_it=True)

    def _refused(self, reason: str, over: bool) -> None:
        """Note that the store took nothing, each reason once, or that this is over."""
        if not over and self.last_error != reason:
            self._complain(reason)
        elif over and self.last_error == reason:
            self.last_error = ""

    def _unstored_facts(self) -> bool:
        return any(self._unstored)

    async def _store_all(self, made: Effects, body: bytes | None, decided_s: int, seq: int, reader: Reader) -> None:
        """Effects, then the state that has them behind it, then the stream's place."""
        await self._kit.insist(self._refused, self._keep.put, made)
        if body is not None:
            await self._kit.insist(self._refused, self._keep.put_snapshot, decided_s, seq, body)
            await reader.ack(seq)
            self._stored_seq = seq
            self.lag = await reader.lag()
        self.decided_s = decided_s

    def _frozen(self) -> bytes:
        return msgspec.msgpack.encode((self._created, freeze(self.flow)))

    # -- repairs -------------------------------------------------------------------------------------------------------

    async def _remake(self, reader: Reader) -> None:
        """Make some late or proved seconds again; what is not possible yet is tried later."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        if now_s < self._remake_from_s:
            return
        due = [name for name in self.flow.due() if now_s >= self._tried.get(name, (0.0, -REMAKE_S))[1] + REMAKE_S]
        if due:
            await self._store(reader, all_of_it=True)  # what is made again is what is stored
        for name in due[:1]:
            first_s = self._tried.get(name, (now_s, 0.0))[0]
            if await self._remake_one(name, forced=now_s >= first_s + REMAKE_S_MAX):
                self._tried.pop(name, None)
            else:
                self._tried[name] = (first_s, now_s)
        self._remake_from_s = loop.time() + (loop.time() - now_s) * (1 / REMAKE_SHARE - 1)

    async def _remake_one(self, name: str, *, forced: bool) -> bool:
        """Bars first, then the rows they are part of: said, then stored. False: prints are not recorded yet."""
        remake, state, keep = self.flow.remakes[name], self.flow, self._keep
        start_s, end_s = remake.start_s, remake.end_s
        if not remake.rows_only:
            older = await self._kit.in_thread(keep.bars, name, start_s - 1, max(end_s, state.closed_s(name)))
            prints = await self._kit.in_thread(_prints, keep, name, remake)
            prints = pick(prints, state.counts_in(prints))
            newer = state.remade(name, older, prints, forced=forced)
            if newer is None:
                return False
            if len(newer.ts):
                await self._kit.insist(self._refused, keep.put_bars, name, newer, max(state.rolled_s, 0))
                start_s, end_s = min(start_s, int(newer.ts[0])), max(end_s, int(newer.ts[-1]) + 1)
        await self._remake_rows(name, start_s, min(end_s + 61, state.decided_s))
        state.forget(name, remake)
        self._unstored.append(state.effects())
        return True

    async def _remake_rows(self, name: str, start_s: int, end_s: int) -> None:
        """Make the rows of all assets with an instrument again, and pass on those that differ."""
        newer: dict[str, Rows] = {}
        for asset in self.flow.assets_with(name):
            made = await self._kit.in_thread(self._rows_again, asset, start_s, end_s)
            if len(made.ts):
                newer[asset] = made
        if not newer:
            return
        await self._bus.publish_all(repairs_of(newer))
        for asset, rows in newer.items():
            self.repaired += await self._kit.insist(self._refused, self._keep.put_newer_rows, asset, rows)

    def _rows_again(self, asset: str, start_s: int, end_s: int) -> Rows:
        """Return an asset's rows that would be other than those stored; blocks."""
        stored = self._keep.rows(asset, start_s, end_s)
        made = [empty(Rows)]
        for low, high, config in self.flow.configs_between(asset, start_s, end_s):
            params = flow.row_params(config, self.flow.instruments)
            made.append(self._keep.rows_again(asset, params, low, high))
        return different(stored, concat(made))

    # -- how it goes ---------------------------------------------------------------------------------------------------

    def _complain(self, sentence: str) -> None:
        self.last_error = sentence
        self._kit.log.warning(sentence)

    def status(self) -> dict[str, Any]:
        """Say how it goes; a feed that stands still is named."""
        waits = self.flow.waits_for(STALE_S)
        if self._loop is not None and self._heard_s >= 0 and self._loop.time() > self._heard_s + STALE_S:
            waits = ["/".join(place) for place in self.flow.feeds]
        state = self.state
        if state == "RUNNING" and waits:
            state = f"WAITING FOR {', '.join(waits)}"
        decided_s = self.decided_s
        behind = self._kit.clock.now_ns() / SECOND_NS - decided_s if decided_s >= 0 else None
        return {
            "state": state,
            "lag_s": None if behind is None else round(behind, 3),
            "lag_messages": self.lag,
            "messages": self.messages,
            "errors": self.flow.counts["strange"] + self.flow.counts["foreign"],
            "last_error": self.last_error,
            "decided_s": decided_s,
            "stream_seq": self._stored_seq,  # the last message that a restart will not see again
            "seconds": self.published,
            "repaired": self.repaired,
            "remakes": len(self.flow.remakes),
        }


def _prints(keep: Keep, name: str, remake: Remake) -> Trades:
    """Return the recorded prints of the seconds that late ones belong to; blocks."""
    if not len(remake.late.id):
        return empty(Trades)
    seconds = remake.late.exchange_ns // SECOND_NS
    return keep.prints(name, int(seconds.min()), int(seconds.max()) + 1)


def different(stored: Rows, made: Rows) -> Rows:
    """Return the made rows that are not stored so and that the store would take."""
    if not len(stored.ts) or not len(made.ts):
        return made
    at = np.minimum(np.searchsorted(stored.ts, made.ts), len(stored.ts) - 1)
    found = stored.ts[at] == made.ts
    same = found.copy()
    for column, other in zip(made, stored, strict=True):
        same &= column == other[at]
    stale = found & (made.config_rev == stored.config_rev[at]) & (made.quality_ppm < stored.quality_ppm[at])
    return Rows(*(column[~(same | stale)] for column in made))


def repairs_of(newer: Mapping[str, Rows]) -> list[RepairBatch]:
    """Put assets' newer rows into one message a second, assets sorted."""
    seconds = np.unique(np.concatenate([rows.ts for rows in newer.values()]))
    made = []
    for second in seconds.tolist():
        parts = {name: rows for name, rows in sorted(newer.items()) if second in rows.ts}
        rows = concat([Rows(*(column[block.ts == second] for column in block)) for block in parts.values()])
        made.append(RepairBatch(second, tuple(parts), rows))
    return made
