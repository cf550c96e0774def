"""May the account trade? The answer lies in the bus, is read before it is needed, and is no when it cannot be read.

The kill switch ends what is held and lets nothing in. `HALTED` and `REDUCING` let exits through and nothing else; from
`HALTED` and from a kill only `resume` leads back. Every change is kept in the store too, so that a bus that lost its memory
does not switch trading on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from squeeze_executor.keeping import Keep
from squeezecore.adapters import accounts
from squeezecore.adapters.accounts import Switches
from squeezecore.adapters.bus import BusError, Conflict
from squeezecore.adapters.service import Kit
from squeezecore.adapters.tradestore import Switched
from squeezecore.errors import SqueezeError, UsageError
from squeezecore.risk import TradingState
from squeezecore.spec import canonical

LOOK_S = 1.0  # between two reads
READ_S_MAX = 2.0  # of one
TRIES = 5
UNREADABLE = "switches cannot be read"


class Switchboard:
    """An account's switches, as last read and as asked for here."""

    def __init__(self, kit: Kit, keep: Keep, account: str) -> None:
        self._kit, self._keep, self._account = kit, keep, account
        self.switches = Switches(state=TradingState.HALTED, reason=f"{UNREADABLE}: not yet read")
        self.revision = 0
        self.error = self.switches.reason
        self._killed = False  # asked for here; holds even where the bus did not take it

    async def begin(self) -> None:
        """Read the switches; where the bus has none, what the store knows of them counts."""
        found = await accounts.switches_of(self._kit.bus, self._account)
        if found is None:
            last = await self._kit.in_thread(self._keep.last_switch)
            first = Switches()
            if last is not None:
                first = Switches(
                    state=TradingState(last.state), kill_switch=last.kill_switch, reason=last.reason, at_ns=last.at_ns
                )
            try:
                await self._kit.bus.put(
                    accounts.BUCKET, accounts.switch_key(self._account), canonical(first), revision=0
                )
            except Conflict:
                self._kit.log.info("somebody else made the switches first")
        await self.read()

    async def watch(self) -> None:
        """Read them again and again."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.read()

    async def read(self) -> None:
        """Read them once; what cannot be read halts."""
        try:
            async with asyncio.timeout(READ_S_MAX):
                found = await accounts.switches_of(self._kit.bus, self._account)
            if found is None:
                raise BusError(f"key {accounts.switch_key(self._account)} is gone: POST /resume makes it again")
        except (TimeoutError, SqueezeError) as error:
            self.error = f"{UNREADABLE} ({error or 'no answer'})"
            self.switches = Switches(
                state=TradingState.HALTED, kill_switch=self.switches.kill_switch, reason=self.error
            )
            return
        self.error = ""
        self.switches, self.revision = found

    @property
    def state(self) -> TradingState:
        """Return what may be traded now."""
        return self.switches.state

    @property
    def kill_switch(self) -> bool:
        """Tell whether everything must go."""
        return self.switches.kill_switch or self._killed

    async def kill(self, reason: str) -> Switches:
        """Switch the account off; holds at once, whatever the bus says."""
        self._killed = True
        return await self._set(lambda now: Switches(
            state=now.state, kill_switch=True, reason=reason, at_ns=self._kit.clock.now_ns()
        ))  # fmt: skip

    async def resume(self, reason: str) -> Switches:
        """Switch the account on again."""
        done = await self._set(lambda _: Switches(reason=reason, at_ns=self._kit.clock.now_ns()))
        self._killed = False
        return done

    async def limit(self, state: TradingState, reason: str) -> Switches:
        """Change the trading state; out of `HALTED` or a kill only `resume` leads."""

        def changed(now: Switches) -> Switches:
            if now.kill_switch or self._killed or (now.state is TradingState.HALTED and state is not now.state):
                what = "killed" if now.kill_switch or self._killed else "halted"
                raise UsageError(f"state was to be {state}, the account is {what}: only POST /resume leads out of it")
            return Switches(state=state, reason=reason, at_ns=self._kit.clock.now_ns())

        return await self._set(changed)

    async def _set(self, change: Callable[[Switches], Switches]) -> Switches:
        for _ in range(TRIES):
            found = await accounts.switches_of(self._kit.bus, self._account)
            now, revision = found if found is not None else (Switches(), 0)
            wanted = change(now)
            try:
                revision = await self._kit.bus.put(
                    accounts.BUCKET, accounts.switch_key(self._account), canonical(wanted), revision=revision
                )
            except Conflict:
                continue
            self.switches, self.revision, self.error = wanted, revision, ""
            await self._kit.in_thread(
                self._keep.put_switch,
                Switched(self._account, revision, wanted.at_ns, str(wanted.state), wanted.kill_switch, wanted.reason),
            )
            return wanted
        raise BusError("switches were changed by somebody else all the time: try again")
