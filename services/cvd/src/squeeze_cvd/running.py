"""The loop: pull, decide, publish, store, snapshot, acknowledge; and from where it begins.

Rows are published before anything is stored, because somebody waits for them; then the effects are stored, then the
state with its place in the stream, and only then is the stream acknowledged. All of it may be done twice: a crash
anywhere goes on from the last snapshot, decides the same again, and the bus and the store know what they have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from squeeze_cvd.flowing import SECOND_NS, Effects, Flow, Remake, names_of
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
SNAPSHOT_S = 1.0  # loop time between two snapshots at least
SNAPSHOT_BYTES_S = 1_000_000  # a larger state is stored less often: so many bytes a second
REMAKES = 4  # repairs between two pulls
REMAKE_S = 1.0  # until a repair whose prints are not recorded yet is tried again
REMAKE_S_MAX = 60.0  # after that it is done with what there is
STALE_S = 12  # without a watermark for so long while others go on: ingest is dead
DAY_S = 86_400

Assets = dict[str, AssetConfig]


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
        self._weighed_s = -1  # the midnight whose shares hold
        self._stirred = asyncio.Event()
        self._created = ""
        self._snapshot_s = -SNAPSHOT_S
        self._snapshot_bytes = 0
        self._stored_seq = -1
        self._tried: dict[str, tuple[float, float]] = {}  # remake → when it was first and last tried
        self._reader: Reader | None = None

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._run())

    async def _run(self) -> None:
        reader = self._reader = await self._begin()
        self.state = "RUNNING"
        while True:
            await self._reconfigure()
            deliveries = await reader.pull(PULL, PULL_S)
            for each in deliveries:
                self.flow.take(each.message, each.seq)
            self.messages += len(deliveries)
            self.flow.decide()
            busy = await self._carry_out()
            self.decided_s = self.flow.decided_s
            busy = await self._remake() or busy
            await self._snapshot(reader, busy=busy)
            self.lag = await reader.lag() if deliveries else 0

    # -- where it begins -----------------------------------------------------------------------------------------------

    async def _begin(self) -> Reader:
        """Find the state to go on from, and the place in the stream that belongs to it."""
        there = await self._bus.stream("MD")
        self._created = there.created
        found = None if self._from_bars else await self._kit.in_thread(self._keep.snapshot)
        created: str | None = None
        if found is not None:
            created, body = msgspec.msgpack.decode(found.body, type=tuple[str, bytes])
            self.flow = thaw(body)
            self._kit.log.info("going on from a snapshot", ts=found.ts, seq=found.stream_seq)
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
            await self._store_state()
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

    async def _reconfigure(self) -> None:
        """Bring a changed list, or a new day's weights, into the schedule: stored first, then said, then followed."""
        if self._wanted is None:
            return
        assets, instruments = self._wanted
        if self._shares:
            assets = await self._weighed(assets, instruments)
        changes = self.flow.plan(assets)
        if changes:
            await self._kit.in_thread(self._keep.put_changes, changes)
            await self._bus.publish_all(changes)
            self.flow.change(changes, instruments)
            self._kit.log.info("assets change", from_ts=changes[0].from_ts, assets=[change.asset for change in changes])
        if not self._shares:
            self._wanted = None

    async def _weighed(self, assets: Assets, instruments: dict[str, Instrument]) -> Assets:
        """Weigh markets by yesterday's turnover, as it is known since midnight."""
        midnight_s = self.flow.rolled_s // DAY_S * DAY_S
        if midnight_s <= 0:
            return assets
        shares = self._keep.volume_shares
        return {
            name: await self._kit.in_thread(shares, config, instruments, midnight_s) for name, config in assets.items()
        }

    # -- effects -------------------------------------------------------------------------------------------------------

    async def _carry_out(self) -> bool:
        """Publish and store what was decided; say whether there was anything."""
        effects = self.flow.effects()
        if not effects:
            return False
        if effects.rows:
            await self._bus.publish_all(effects.rows)
            self.published += len(effects.rows)
            self._remember(effects)
        await self._kit.in_thread(self._keep.put, effects)
        return True

    def _remember(self, effects: Effects) -> None:
        last = effects.rows[-1]
        for at, asset in enumerate(last.assets):
            self.last_rows[asset] = Rows(*(column[at : at + 1] for column in last.rows))

    async def _snapshot(self, reader: Reader, *, busy: bool) -> None:
        """Store the state with its place, then acknowledge; not more often than its size allows."""
        now_s = asyncio.get_running_loop().time()
        pause_s = max(SNAPSHOT_S, self._snapshot_bytes / SNAPSHOT_BYTES_S)
        if now_s < self._snapshot_s + pause_s or (not busy and self.flow.seq == self._stored_seq):
            return
        self.flow.settle()  # may find late prints
        await self._carry_out()
        self._snapshot_bytes = await self._store_state()
        await reader.ack(self.flow.seq)
        self._snapshot_s = now_s

    async def _store_state(self) -> int:
        """Store the state with its place in the stream; return how large it is."""
        body = msgspec.msgpack.encode((self._created, freeze(self.flow)))
        await self._kit.in_thread(self._keep.put_snapshot, self.flow.decided_s, self.flow.seq, body)
        self._stored_seq = self.flow.seq
        return len(body)

    # -- repairs -------------------------------------------------------------------------------------------------------

    async def _remake(self) -> bool:
        """Make a few late or proved seconds again; what is not possible yet is tried later."""
        now_s = asyncio.get_running_loop().time()
        done = 0
        for name in self.flow.due():
            first_s, last_s = self._tried.get(name, (now_s, now_s - REMAKE_S))
            if done == REMAKES:
                break
            if now_s < last_s + REMAKE_S:
                continue
            done += 1
            if await self._remake_one(name, forced=now_s >= first_s + REMAKE_S_MAX):
                self._tried.pop(name, None)
            else:
                self._tried[name] = (first_s, now_s)
        return done > 0

    async def _remake_one(self, name: str, *, forced: bool) -> bool:
        """Bars first, then the rows they are part of: said, then stored. False: prints are not recorded yet."""
        remake, state, keep = self.flow.remakes[name], self.flow, self._keep
        start_s, end_s = remake.start_s, remake.end_s
        if not remake.rows_only:
            older = await self._kit.in_thread(keep.bars, name, start_s - 1, max(end_s, state.closed_s(name)))
            prints = await self._kit.in_thread(_prints, keep, name, remake)
            newer = state.remade(name, older, prints, forced=forced)
            if newer is None:
                return False
            if len(newer.ts):
                await self._kit.in_thread(keep.put_bars, name, newer, max(state.rolled_s, 0))
                start_s, end_s = min(start_s, int(newer.ts[0])), max(end_s, int(newer.ts[-1]) + 1)
        await self._remake_rows(name, start_s, min(end_s + 61, state.decided_s))
        state.forget(name, remake)
        await self._carry_out()
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
            self.repaired += await self._kit.in_thread(self._keep.put_newer_rows, asset, rows)

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
            "errors": self.flow.counts["strange"],
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
