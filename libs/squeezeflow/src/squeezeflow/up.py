"""Everything on this machine with one command: NATS, ClickHouse, simulated exchanges if asked for, and the six services.

The servers belong to the home directory and are shared with other commands. The services are processes of ours: kept
running, ended in reverse order, and gone when we are. Nothing here knows what a service does.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import re
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import msgspec
import numpy as np

from squeezecore.adapters import bus, embedded, embedded_nats, operations, supervisor
from squeezecore.adapters.assets import load_assets
from squeezecore.adapters.store import Store
from squeezecore.errors import SqueezeError, UsageError
from squeezecore.market import DAY_S, cut
from squeezecore.spec import AssetConfig, canonical, day_start_s, nearest
from squeezeflow.board import Board
from squeezeflow.keeping import ASK_S_MAX, Child, Log, Program, Sight

if TYPE_CHECKING:
    from squeezecore.adapters.loopback_replay import Contents

SERVICES = ("ingest", "openinterest", "cvd", "strategy", "executor", "reporting")  # in the order of the data
FIRST = ("venue", "ingest", "openinterest", "reporting")  # the others want the history to be there
PORT_BASE = 8710  # where the services answer, if nobody else does there
LOOK_S = 1.0
GRACE_S = 10.0  # how long the servers stay when we were killed
HISTORY_DAYS = 2  # whole days before today, so that a simulated market finds the strategy warm
INGEST_S_MAX = 60.0  # how long the end of the history waits for the feeds
FEEDS_AHEAD_S = 3.0  # by how much it overlaps with them: an instrument may begin later than its feed
SPEED_MAX = 100_000
CAPITAL_USD = (100, 1_000_000_000)
SOURCE_KEY = "up.source"  # whose market the store holds
CONFIG_KEY = "assets"  # of the bus's bucket `config`: what the services watch


class Source(NamedTuple):
    """Where the market comes from."""

    kind: str  # live, sim or replay
    of: str = ""  # the seed, or the folder

    def __str__(self) -> str:
        return f"{self.kind}:{self.of}" if self.of else self.kind


@dataclass(frozen=True)
class Request:
    """What is to run."""

    home: Path
    source: Source
    environment: Mapping[str, str] = field(repr=False)  # of the services, beyond their settings
    clickhouse_url: str | None = None
    speed: str = "1"
    record: Path | None = None
    assets: Path | None = None
    account: str = "paper"
    capital_usd: int = 100_000
    port: int | None = None
    without: tuple[str, ...] = ()


def source_of(text: str) -> Source:
    """Read `live`, `sim:SEED` or `replay:DIR`.

    >>> str(source_of("sim:7"))
    'sim:7'
    """
    kind, _, of = text.partition(":")
    if text == "live":
        return Source("live")
    if kind == "sim" and of.isdecimal() and int(of) < 2**63:
        return Source("sim", str(int(of)))
    if kind == "replay" and of:
        folder = Path(of).expanduser().resolve()
        if not folder.is_dir():
            raise UsageError(f"--source was {text!r}, {folder} is no folder: name one with recorded frames")
        return Source("replay", str(folder))
    raise UsageError(f"--source was {text!r}: write live, sim:SEED (sim:7) or replay:DIR")


def check(request: Request) -> None:
    """Refuse what cannot run.

    Raises:
        UsageError: a value out of its bounds, or two that exclude each other.
    """
    if request.speed != "max":
        try:
            speed = float(request.speed)
        except ValueError:
            speed = 0.0
        if not 0 < speed <= SPEED_MAX:
            raise UsageError(f"--speed was {request.speed!r}: write a number above 0 up to {SPEED_MAX}, or max")
    if request.source.kind == "live" and request.speed != "1":
        raise UsageError(f"--speed was {request.speed}, live markets have the speed 1: leave it out")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", request.account):
        raise UsageError(f"--account was {request.account!r}, allowed are 32 of A-Z a-z 0-9 - _: rename it")
    low, high = CAPITAL_USD
    if not low <= request.capital_usd <= high:
        raise UsageError(f"--capital was {request.capital_usd} USD, the limits are {low} and {high}")
    if request.port is not None and not 1024 <= request.port <= 65_535 - len(SERVICES):
        raise UsageError(f"--port was {request.port}, the limits are 1024 and {65_535 - len(SERVICES)}")
    for name in request.without:
        if name not in SERVICES:
            raise UsageError(f"--without was {name!r}, which is no service: {nearest(name, SERVICES)}")
    if request.assets is not None:
        load_assets(request.assets)


def up(request: Request, board: Board, programs: Sequence[Program] | None = None) -> int:
    """Run everything until a signal asks to stop; return the exit code.

    Args:
        request: what is to run.
        board: where it is shown.
        programs: instead of the exchanges and the services; tests name their own.

    Raises:
        UsageError: a wrong request, or the home is in use by another `up`.
        SqueezeError: a server cannot be started.
    """
    check(request)
    with _alone(request.home):
        return asyncio.run(_Up(request, board, programs).run())


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Hold the home directory for ourselves; other commands may use its servers."""
    path = home / "run" / "up.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = supervisor.try_lock(path)
    except OSError as error:
        raise UsageError(
            f"home directory was {home}, it cannot be written ({error.strerror}): mend its rights, or name another with --home"
        ) from error
    if lock is None:
        pid = path.read_text().strip() or "unknown"
        raise UsageError(
            f"home directory was {home}, process {pid} runs `squeezeflow up` on it: stop that one (Ctrl-C, or kill {pid}), "
            "or name another with --home"
        )
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


def tokens(home: Path, environment: Mapping[str, str]) -> dict[str, Path]:
    """Return the token files by setting, made with random tokens where nobody has configured any."""
    folder = home / "run" / "tokens"
    found = {}
    for setting, name in (("SQUEEZE_TOKEN_FILE", "writer"), ("SQUEEZE_EXECUTOR_TOKEN_FILE", "executor")):
        if environment.get(setting):
            found[setting] = Path(environment[setting]).expanduser().absolute()
            continue
        found[setting] = path = folder / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(32) + "\n")
    return found


def ports(base: int | None) -> dict[str, int]:
    """Choose where the services answer: from `base` on, or where it is usual if that is free, or anywhere."""
    if base is None:
        base = PORT_BASE if all(is_free(PORT_BASE + n) for n in range(len(SERVICES))) else None
    return {name: 0 if base is None else base + n for n, name in enumerate(SERVICES)}


def is_free(port: int) -> bool:
    """Say whether nobody listens on a loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Server:
    """A server of the home directory: watched, and started again when it is gone."""

    def __init__(self, name: str, find: Callable[[], Any], start: Callable[[], Any]) -> None:
        self.sight = Sight(name)
        self._find = find
        self._start = start

    async def look(self, tell: Callable[[str], None]) -> None:
        """See whether it answers; start it if it does not."""
        sight = self.sight
        try:
            found = await asyncio.to_thread(self._find)
            if found is None:
                sight.state, sight.ready = "RESTARTING", False
                tell(f"{sight.name} was gone, it is started again")
                await asyncio.to_thread(self._start)
                found = await asyncio.to_thread(self._find)
        except SqueezeError as error:
            sight.error = str(error)
            return
        if found is None:
            return
        if found.pid != sight.pid:
            sight.pid, sight.starts = found.pid, sight.starts + 1
        sight.state, sight.ready, sight.address, sight.error = "RUNNING", True, found.url, ""


class _Up:
    """One run of the command."""

    def __init__(self, request: Request, board: Board, programs: Sequence[Program] | None) -> None:
        self.request = request
        self.board = board
        self.children: list[Child] = []
        self._given = programs
        self._servers: list[_Server] = []
        self._nats: embedded_nats.NatsServer | None = None
        self._store: Store | None = None
        self._stop = asyncio.Event()
        self._began = time.monotonic()
        self._keeping: dict[str, asyncio.Task[None]] = {}
        self._assets: dict[str, AssetConfig] = {}
        self._recording: Contents | None = None  # what is replayed
        self._looked = asyncio.Event()

    async def run(self) -> int:
        """Start, watch, stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._asked)
        with self.board:
            try:
                await self._until_asked(self._live())
            finally:
                await self._end()
        return 0

    def _asked(self) -> None:
        if self._stop.is_set():  # twice: at once
            for child in self.children:
                child.kill()
        self._stop.set()

    async def _until_asked(self, work: Awaitable[None]) -> None:
        """Do the work until it fails or somebody asks to stop."""
        task, stop = asyncio.ensure_future(work), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            task.cancel()
            stop.cancel()
            await asyncio.wait({task, stop})

    def _tell(self, text: str, **facts: Any) -> None:
        with self._watched():
            self.board.tell(text, **facts)

    def _show(self) -> None:
        with self._watched():
            self.board.show(self._sights())

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Stop in good order when nobody reads what we say any more; rich raises SystemExit then."""
        try:
            yield
        except (BrokenPipeError, SystemExit):
            self._stop.set()

    # --- start ---

    async def _live(self) -> None:
        request = self.request
        self._tell(f"home {request.home}, source {request.source}, speed {request.speed}")
        await asyncio.gather(self._open_nats(), self._open_store())
        assert self._store is not None
        await asyncio.to_thread(claim, self._store, request.source)
        if request.source.kind == "replay" and self._given is None:
            self._recording = await asyncio.to_thread(_contents, Path(request.source.of))
        await self._put_assets()
        programs = self._programs() if self._given is None else list(self._given)
        logs = request.home / "run" / "logs"
        for program in programs:
            log = Log(logs / f"{program.name}.log")
            self.children.append(Child(program, self._environment, log, self._tell))
        watching = asyncio.create_task(self._watch())
        try:
            self._begin(lambda name: name in FIRST or self._given is not None)
            if request.source.kind == "sim" and self._given is None:
                await self._history()
            self._begin(lambda _name: True)
            done, _ = await asyncio.wait({watching, *self._keeping.values()}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:  # none ends by itself before we are asked to, but one may fail
                task.result()
        finally:
            watching.cancel()
            await asyncio.wait({watching})

    def _begin(self, wanted: Callable[[str], bool]) -> None:
        """Start what is wanted and not yet started."""
        for child in self.children:
            if child.program.name not in self._keeping and wanted(child.program.name):
                self._keeping[child.program.name] = asyncio.create_task(child.keep())

    async def _open_nats(self) -> None:
        home = self.request.home

        def start() -> None:
            before, self._nats = self._nats, embedded_nats.open_nats(home, GRACE_S)
            if before is not None:
                before.close()

        await asyncio.to_thread(start)
        server = _Server("nats", lambda: embedded_nats.status(home), start)
        self._servers.insert(0, server)
        await server.look(self._tell)

    async def _open_store(self) -> None:
        request, home = self.request, self.request.home
        if request.clickhouse_url is not None:
            address, _, database = request.clickhouse_url.partition("://")[2].partition("/")
            scheme = request.clickhouse_url.partition("://")[0]
            self._store = await asyncio.to_thread(Store.connect, f"{scheme}://{address}", database or "squeeze")
            return
        self._store = await asyncio.to_thread(embedded.open_store, home, GRACE_S)
        server = _Server("clickhouse", lambda: embedded.status(home), lambda: embedded.join(home, GRACE_S))
        self._servers.append(server)
        await server.look(self._tell)

    async def _put_assets(self) -> None:
        """Tell the services what to watch; without a file what they were told before stays."""
        assert self._nats is not None
        assert self._store is not None
        if self.request.assets is not None:
            config = await asyncio.to_thread(operations.put_assets, self._store, self.request.assets)
        else:
            config = await asyncio.to_thread(operations.assets, self._store)
        if self._recording is not None:
            config = recorded_assets(config, self._recording, self._tell)
        client = await bus.connect(self._nats.url, name="up")
        try:
            found = await client.get("config", CONFIG_KEY)
            given = self.request.assets is not None
            if found is None or (given and found[0] != canonical(config)):
                await client.put("config", CONFIG_KEY, canonical(config))
            elif not given:
                config = msgspec.json.decode(found[0], type=dict[str, AssetConfig])
        finally:
            await client.close()
        self._assets = config

    def _programs(self) -> list[Program]:
        """List the exchanges and the services."""
        request, run = self.request, self.request.home / "run"
        held = tokens(request.home, request.environment)
        self._tell("tokens: " + ", ".join(map(str, held.values())), tokens={k: str(v) for k, v in held.items()})
        endpoints = run / "endpoints.json"
        programs = []
        if request.source.kind != "live":
            endpoints.unlink(missing_ok=True)  # of a run before: its ports are others
            programs.append(_venue(request, endpoints, self._assets, self._recording))
        place = ports(request.port)
        for name in SERVICES:
            if name in request.without:
                continue
            given = {
                "SQUEEZE_RUN_DIR": str(run / "services"),
                "SQUEEZE_PORT": str(place[name]),
                **{setting: str(path) for setting, path in held.items()},
                **self._own_settings(name, endpoints),
            }
            programs.append(Program(name, ("-m", f"squeeze_{name}"), given, run / "services" / f"{name}.json"))
        return programs

    def _own_settings(self, name: str, endpoints: Path) -> dict[str, str]:
        """Return what only some services want to know."""
        request, settings = self.request, {}
        if name in {"ingest", "openinterest"} and request.source.kind != "live":
            settings["SQUEEZE_ENDPOINTS"] = str(endpoints)
        if name in {"ingest", "cvd"} and self._recording is not None:
            settings["SQUEEZE_TRADE_STREAM"] = "trade" if self._recording.single else "aggtrade"
        if name == "ingest" and request.record is not None:
            settings["SQUEEZE_RECORD"] = str(request.record.expanduser().absolute())
        if name in {"strategy", "executor", "reporting"}:
            settings["SQUEEZE_ACCOUNT"] = request.account
        if name == "executor":
            settings["SQUEEZE_CAPITAL_USD"] = str(request.capital_usd)
        return settings

    def _environment(self) -> dict[str, str]:
        """Return what every program is told: where the servers are at this moment."""
        assert self._nats is not None
        url = self.request.clickhouse_url
        store = {"SQUEEZE_HOME": str(self.request.home)} if url is None else {"SQUEEZE_CLICKHOUSE_URL": url}
        return {**self.request.environment, "SQUEEZE_NATS_URL": self._nats.url} | store

    async def _history(self) -> None:
        """Fill the store with the simulated days before, and today up to now, if they are missing."""
        assert self._store is not None
        seed, now = int(self.request.source.of), _venue_start(self.request)
        assets = tuple(sorted(self._assets))
        try:
            made = await asyncio.to_thread(fill_days, self._store, seed, assets, now)
            if not await asyncio.to_thread(_without_rows, self._store, assets, _day(now)):
                return
            await self._feeds_run()
            rows = await asyncio.to_thread(fill_today, self._store, seed, assets, _venue_start(self.request))
        except UsageError as error:
            self._tell(f"no history was made: {error}")
            return
        if made or rows:
            self._tell(f"history of sim:{seed}: {made} days of assets, and {rows:,} seconds of today until now")

    async def _feeds_run(self) -> None:
        """Wait until every feed has heard prints: the history has to reach into what they have heard."""
        sight = next((child.sight for child in self.children if child.program.name == "ingest"), None)
        if sight is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(INGEST_S_MAX), httpx.AsyncClient(timeout=ASK_S_MAX, trust_env=False) as http:
                while not await _hear(http, sight):
                    self._looked.clear()
                    await self._looked.wait()
                await asyncio.sleep(FEEDS_AHEAD_S)

    # --- watch ---

    async def _watch(self) -> None:
        ready = False
        async with httpx.AsyncClient(timeout=ASK_S_MAX, trust_env=False) as http:
            while True:
                assert self._nats is not None
                before = self._nats.url
                await asyncio.gather(
                    *(server.look(self._tell) for server in self._servers),
                    *(child.look(http) for child in self.children),
                )
                if self._nats.url != before:  # its old port was taken meanwhile
                    self._tell(f"nats answers on {self._nats.url} now: the services are started again")
                    for child in self.children:
                        child.restart()
                self._show()
                self._looked.set()
                if not ready and all(sight.ready for sight in self._sights()):
                    ready = True
                    after_s = time.monotonic() - self._began
                    self._tell(f"ready after {after_s:.1f} s; Ctrl-C stops everything", event="ready", after_s=after_s)
                await asyncio.sleep(LOOK_S if ready else LOOK_S / 5)

    def _sights(self) -> list[Sight]:
        return [server.sight for server in self._servers] + [child.sight for child in self.children]

    # --- stop ---

    async def _end(self) -> None:
        """Stop everything in reverse order, and say what was stopped."""
        self._stop.set()
        ended = []
        for child in reversed(self.children):
            if child.sight.pid:
                self._tell(f"stopping {child.program.name}")
            how = await child.stop()
            if how != "was not running":
                ended.append(child.program.name if how == "stopped" else f"{child.program.name} ({how})")
        await asyncio.gather(*self._keeping.values(), return_exceptions=True)  # a failure was raised before
        for child in self.children:
            child.log.close()
        ended += await asyncio.to_thread(self._close_servers)
        for server in self._servers:
            server.sight.state = "STOPPED" if server.sight.name in ended else "LEFT"
        self._show()
        self._tell(
            f"stopped: {', '.join(ended) or 'nothing was running'}; the next start goes on from here",
            event="stopped",
            stopped=ended,
        )

    def _close_servers(self) -> list[str]:
        """Let the servers go; end those that nobody else uses."""
        home, ended = self.request.home, []
        if self._nats is not None:
            self._nats.close()
            others = embedded_nats.clients(home)
            if others:
                ended.append(f"not nats (process {others[0]} uses it)")
            elif embedded_nats.stop(home):
                ended.append("nats")
        if self._store is not None:
            self._store.close()
            if self.request.clickhouse_url is None:
                others = embedded.clients(home)
                if others:
                    ended.append(f"not clickhouse (process {others[0]} uses it)")
                elif embedded.stop(home):
                    ended.append("clickhouse")
        return ended


# --- sources ---


def claim(store: Store, source: Source) -> None:
    """Refuse to mix two markets in one store."""
    found = store.config(SOURCE_KEY)
    if found is not None and found[0] != str(source):
        raise UsageError(
            f"--source was {source}, this home holds {found[0]}: a store holds one market; use --source {found[0]}, "
            "or name another with --home"
        )
    store.put_config(SOURCE_KEY, str(source))


def _venue_start(request: Request) -> int:
    """Return the second at which a simulated venue begins to speak: now, or yesterday's midnight where it hurries."""
    now = int(dt.datetime.now(dt.UTC).timestamp())  # noqa: TID251 - the start of a process, not of a computation
    return now if request.speed == "1" else now // DAY_S * DAY_S - DAY_S


def _contents(folder: Path) -> Contents:
    """Look into a recording."""
    from squeezecore.adapters.loopback_replay import Recorded  # noqa: PLC0415 - compiles on first use

    return Recorded(folder).contents()


def recorded_assets(
    assets: Mapping[str, AssetConfig], recording: Contents, tell: Callable[[str], None]
) -> dict[str, AssetConfig]:
    """Return the assets as far as a recording has their prints, and say what it lacks.

    Raises:
        UsageError: it has none of them.
    """
    kept = {}
    for name, asset in assets.items():
        markets = tuple(market for market in asset.markets if market.instrument in recording.prints)
        if asset.traded in recording.prints:
            kept[name] = msgspec.structs.replace(asset, markets=markets)
    if not kept:
        raise UsageError(
            f"--source was a recording of {', '.join(sorted(recording.prints)) or 'no prints'}, which is no traded market of "
            f"{', '.join(sorted(assets))}: name other assets with --assets"
        )
    wanted = {market.instrument for asset in assets.values() for market in asset.markets}
    missing = sorted(wanted - {market.instrument for asset in kept.values() for market in asset.markets})
    if missing:
        tell(f"the recording has no prints of {', '.join(missing)}: watched are {', '.join(sorted(kept))} without them")
    if not recording.open_interest:
        tell("the recording has no open interest: rows are made without it, and nothing is decided that needs it")
    return kept


def _venue(
    request: Request, endpoints: Path, assets: Mapping[str, AssetConfig], recording: Contents | None = None
) -> Program:
    """Return the loopback exchanges; their ports stay when they are started again."""
    markets = {market.instrument for asset in assets.values() for market in asset.markets}
    streams = sum(2 if name.endswith("-PERP") else 1 for name in markets)  # prints, and marks of perpetuals
    port, rest_port = _free_port(), _free_port()
    words = ["-m", "squeezecore.adapters.loopback", "--source", str(request.source), "--endpoints", str(endpoints)]
    words += ["--port", str(port), "--rest-port", str(rest_port), "--speed", request.speed]
    if request.speed != "1" or recording is not None:
        words += ["--await-streams", str(streams)]  # so that a clock of its own does not begin without one of them
    if request.source.kind == "sim" and request.speed != "1":
        start = dt.datetime.fromtimestamp(_venue_start(request), dt.UTC)
        now = dt.datetime.now(dt.UTC)  # noqa: TID251 - where the hurry ends
        words += ["--start", start.strftime("%Y-%m-%dT%H:%M:%S"), "--until", now.strftime("%Y-%m-%dT%H:%M:%S")]
    return Program("venue", tuple(words), sign=endpoints, address=f"ws://127.0.0.1:{port}")


async def _hear(http: httpx.AsyncClient, sight: Sight) -> bool:
    """Say whether every feed of ingest has taken prints."""
    if not sight.ready:
        return False
    try:
        feeds = (await http.get(f"{sight.address}/v1/feeds")).json()
        return bool(feeds) and min(int(feed["trades"]) for feed in feeds) > 0
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return False


def fill_days(store: Store, seed: int, assets: Sequence[str], now_s: int) -> int:
    """Simulate the whole days before `now_s` of which nothing is stored; return how many were made, of all assets."""
    made = 0
    for back in range(HISTORY_DAYS, 0, -1):
        day = _day(now_s) - dt.timedelta(back)
        missing = _without_rows(store, assets, day)
        if missing:
            operations.simulate(store, operations.SimulateRequest(assets=missing, start=day, days=1, seed=seed))
            made += len(missing)
    return made


def _day(second: int) -> dt.date:
    return dt.datetime.fromtimestamp(second, dt.UTC).date()


def _without_rows(store: Store, assets: Sequence[str], day: dt.date) -> tuple[str, ...]:
    start_s = day_start_s(day)
    held = {line.name for line in store.asset_coverage(None, start_s, start_s + DAY_S)}
    return tuple(asset for asset in assets if asset not in held)


def fill_today(store: Store, seed: int, assets: Sequence[str], now_s: int) -> int:
    """Simulate the seconds from midnight until `now_s` where nothing of the day is stored; return how many rows were made."""
    from squeezecore import simulator  # noqa: PLC0415 - compiles on first use

    today = _day(now_s)
    assets = _without_rows(store, assets, today)
    if not assets or now_s % DAY_S == 0:
        return 0
    world = simulator.WorldSpec(seed=seed, start=today, days=1, assets=tuple(assets))
    known = operations.assets(store)
    rows = 0
    for asset in assets:
        for day in simulator.simulate_rows(world, asset):
            for name, bars in day.bars.items():
                none = np.full_like(bars.first_id, -1)  # they number prints, the feed aggregates: not to be compared
                bare = bars._replace(first_id=none, last_id=none, id_kind=np.zeros_like(bars.id_kind))
                store.insert_bars(name, cut(bare, 0, int((bars.ts < now_s).sum())))
            interest, funding = day.open_interest, day.funding
            store.insert_open_interest(known[asset].traded, cut(interest, 0, int((interest.known_at < now_s).sum())))
            store.insert_funding(known[asset].traded, cut(funding, 0, int((funding.known_at < now_s).sum())))
            part = cut(day.rows, 0, int((day.rows.ts < now_s).sum()))
            store.insert_rows(asset, part, replace=True)
            rows += len(part.ts)
    return rows
