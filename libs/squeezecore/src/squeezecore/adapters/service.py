"""What all services are made of: settings, the wait for bus and store, one loop, HTTP around it, an orderly end.

A service is a function that builds a `Part` from a `Kit`; `main` does the rest. HTTP answers from the first moment:
/healthz says that the event loop turns, /readyz says what is still missing, /metrics and /v1/status how it goes. If the
service's loop ends, for whatever reason, the process ends: start and recovery are one path.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import structlog
import uvicorn
from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from squeezecore.adapters import bus, embedded, logs, reference, web
from squeezecore.adapters.bus import Bus
from squeezecore.adapters.clickhouse import StoreError
from squeezecore.adapters.clock import SYSTEM, Clock
from squeezecore.adapters.lean import leave_pandas_out
from squeezecore.adapters.settings import ServiceSettings, load, variable
from squeezecore.adapters.store import Store
from squeezecore.adapters.web import PAGE, PAGE_MAX, PageSize, writer
from squeezecore.errors import SqueezeError, UsageError

__all__ = [
    "PAGE",
    "PAGE_MAX",
    "Build",
    "Kit",
    "PageSize",
    "Part",
    "ServiceSettings",
    "clickhouse_address",
    "create_app",
    "main",
    "writer",
]

RETRY_S_MIN = 0.1  # between two tries to reach NATS or ClickHouse at the start
RETRY_S_MAX = 5.0
CONNECT_S_MAX = 2.0  # one try to reach NATS
PROBE_S_MAX = 2.0  # until a probe counts as failed
LAG_EVERY_S = 0.25  # how often the event loop's lag is measured
STORE_RETRY_S = 1.0  # a full disk may get room again
UNWIND_S_MAX = 8.0  # for the loop and its resources to end
STOP_S_MAX = 15  # after that the kernel ends the process
CLOSE_S_MAX = 2  # for open requests to be answered at the end
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BUCKETS_S = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0)

P = ParamSpec("P")
T = TypeVar("T")
Probe = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Kit:
    """What a service is built from."""

    name: str
    settings: Any  # the service's own ServiceSettings
    bus: Bus
    store: Store | None  # None where the service needs none
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)  # for metrics of its own
    log: Any = field(default_factory=structlog.get_logger)
    clock: Clock = SYSTEM
    threads: Executor | None = None  # None runs blocking calls inline: the simulation's way

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking call in the service's one worker thread: in the order asked, beside the event loop."""
        if self.threads is None:
            return function(*args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self.threads, lambda: function(*args, **kwargs))

    async def insist(
        self, refused: Callable[[str, bool], None], write: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Write, again until the store takes it: the bus keeps what is not stored, so nothing is lost meanwhile.

        `refused` is told each refusal's reason with False, and the last reason with True when that is over.
        """
        reason = ""
        while True:
            try:
                done = await self.in_thread(write, *args, **kwargs)
            except StoreError as error:
                reason = str(error)
                refused(reason, False)
                await asyncio.sleep(STORE_RETRY_S)
            else:
                if reason:
                    refused(reason, True)
                return done


@dataclass(frozen=True)
class Part:
    """What a service is.

    `status` is shown by GET /v1/status and by `squeezeflow up`, and feeds /metrics. Every key may be left out:

        state            RUNNING, WARMING, …                 str
        lag_s            how far behind the bus or the feed  float, s
        messages         taken or published since the start  int
        errors           since the start                     int
        last_message_ns  when the last message came          int, UTC ns
        last_error       a sentence                          str
    """

    run: Callable[[], Awaitable[None]]  # the one loop; when it ends, the process ends
    router: APIRouter | None = None  # HTTP beyond the common
    probes: Mapping[str, Probe] = field(default_factory=dict)  # each raises a SqueezeError's sentence while not ready
    status: Callable[[], Mapping[str, Any]] = dict


Build = Callable[[Kit, AsyncExitStack], Awaitable[Part]]


async def _connect(settings: ServiceSettings, name: str) -> Bus:
    return await bus.connect(
        settings.nats_url,
        name=name,
        user=settings.nats_user,
        password_file=settings.nats_password_file,
        replicas=settings.nats_replicas,
        wait_s=CONNECT_S_MAX,
    )


def create_app(
    name: str,
    settings: ServiceSettings,
    build: Build,
    *,
    needs_store: bool = True,
    connect: Callable[[ServiceSettings, str], Awaitable[Bus]] = _connect,
    clock: Clock = SYSTEM,
) -> FastAPI:
    """Make a service's application; its lifespan is the service's life.

    Args:
        name: as in `python -m squeeze_<name>`.
        settings: frozen, read by `main`.
        build: makes the service from its kit; what it opens it puts on the stack, which is unwound in reverse.
        needs_store: whether ClickHouse has to answer first.
        connect: opens the bus; tests give another.
        clock: the time of day.

    Raises:
        UsageError: the service needs a store and the settings name none.
    """
    if needs_store and settings.home is None and settings.clickhouse_url is None:
        raise UsageError(
            f"{variable('clickhouse_url')} and {variable('home')} were not set, {name} needs one: "
            "an external ClickHouse, or a home directory with the embedded one"
        )
    runtime = Runtime(name, settings, build, needs_store=needs_store, connect=connect, clock=clock)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        async with runtime.alive(app):
            yield {"runtime": runtime}

    app = FastAPI(
        title=f"squeezeflow {name}",
        version=importlib.metadata.version("squeezecore"),
        lifespan=lifespan,
        responses=web.RESPONSES,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
    )
    app.state.runtime = runtime
    web.install_problems(app)
    app.add_middleware(
        web.Gate,
        settings=settings,
        now_s=time.monotonic,
        answered=runtime.answered,
        limited=runtime.limited.inc,
        log=runtime.log,
    )
    _common_paths(app, runtime)
    return app


def _common_paths(app: FastAPI, runtime: Runtime) -> None:
    @app.get("/healthz", tags=["common"])
    async def healthz() -> dict[str, str]:
        """Say that the event loop turns."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["common"])
    async def readyz() -> Response:
        """Say whether everything the service needs answers, and if not, what is missing."""
        missing = await runtime.missing()
        if not missing:
            return JSONResponse({"status": "ready"})
        errors = [{"field": resource, "reason": reason} for resource, reason in missing.items()]
        detail = "; ".join(f"{resource}: {reason}" for resource, reason in missing.items())
        return web.problem(503, detail, "/readyz", errors=errors, headers={"Retry-After": "1"})

    @app.get("/metrics", tags=["common"])
    def metrics() -> Response:
        """Give the metrics in Prometheus' text form."""
        return Response(generate_latest(runtime.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:
        """List the paths for people."""
        return Response(reference.page(app.openapi()), media_type="text/html; charset=utf-8")

    @app.get("/v1/status", tags=["common"])
    async def status() -> dict[str, Any]:
        """Say what the service is doing."""
        return runtime.describe()


class Runtime:
    """A service's life: wait for what it needs, build it, run it, end it."""

    def __init__(
        self,
        name: str,
        settings: ServiceSettings,
        build: Build,
        *,
        needs_store: bool,
        connect: Callable[[ServiceSettings, str], Awaitable[Bus]],
        clock: Clock,
    ) -> None:
        self.name = name
        self.settings = settings
        self.clock = clock
        self.log = structlog.get_logger("squeezeflow").bind(service=name)
        self.registry = CollectorRegistry()
        self.ended: Callable[[], None] = lambda: None  # told once the loop has ended by itself
        self.exit_code = 0
        self._build = build
        self._connect = connect
        self._needs_store = needs_store
        self._part: Part | None = None
        self._kit: Kit | None = None
        self._waiting: dict[str, str] = {"NATS": "no answer yet"} | (
            {"ClickHouse": "no answer yet"} if needs_store else {}
        )
        self._death = ""
        self._began_s = time.monotonic()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._pinger = ThreadPoolExecutor(1, thread_name_prefix="ping")
        self._store_ping: asyncio.Future[Any] | None = None
        self._loop_lag = Histogram(
            "squeezeflow_event_loop_lag_seconds",
            "How late the event loop was.",
            registry=self.registry,
            buckets=BUCKETS_S,
        )
        self.limited = Counter(
            "squeezeflow_http_limited", "Requests turned away for their rate.", registry=self.registry
        )
        self.requests = Counter(
            "squeezeflow_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.registry.register(_Common(self))
        ProcessCollector(registry=self.registry)

    @asynccontextmanager
    async def alive(self, app: FastAPI) -> AsyncIterator[None]:
        """Run the service while the application runs."""
        life = asyncio.create_task(self._live(app))
        lag = asyncio.create_task(self._measure_lag())
        try:
            yield
        finally:
            lag.cancel()
            life.cancel()
            _, late = await asyncio.wait({life, lag}, timeout=UNWIND_S_MAX)
            if late:
                self.log.error("resources were not closed in time, they are left", limit_s=UNWIND_S_MAX)
            for threads in (self._threads, self._pinger):
                threads.shutdown(wait=False, cancel_futures=True)

    async def _live(self, app: FastAPI) -> None:
        try:
            async with AsyncExitStack() as stack:
                bus, store = await self._resources(stack)
                self._kit = Kit(
                    self.name, self.settings, bus, store, self.registry, self.log, self.clock, self._threads
                )
                part = await self._build(self._kit, stack)
                if part.router is not None:
                    app.include_router(part.router)
                    app.openapi_schema = None  # it is kept, and was without these paths
                self._part = part
                self.log.info("running", after_s=round(time.monotonic() - self._began_s, 2))
                await part.run()
                self._death = "its loop ended by itself"
                self.log.error("the loop ended by itself, the process ends with it")
        except asyncio.CancelledError:
            raise
        except UsageError as error:  # a setting or what is stored is wrong: a trace would not help
            self._death = str(error)
            self.log.error("refused", reason=str(error))  # noqa: TRY400
            self.exit_code = UsageError.exit_code if self._part is None else 1
        except BaseException as error:  # whatever it was, the process must not live on without its loop
            cause = _innermost(error)
            self._death = str(cause) if isinstance(cause, SqueezeError) else f"{type(cause).__name__}: {cause}"
            self.log.exception("the loop failed, the process ends with it")
        self.exit_code = self.exit_code or 1
        self.ended()

    async def _resources(self, stack: AsyncExitStack) -> tuple[Bus, Store | None]:
        """Open the bus and the store at once, however long it takes."""

        async def bus_there() -> Bus:
            opened = await self._until("NATS", lambda: self._connect(self.settings, self.name))
            stack.push_async_callback(opened.close)
            return opened

        async def store_there() -> Store | None:
            if not self._needs_store:
                return None
            opened = await self._until("ClickHouse", self._open_store)
            stack.callback(opened.close)
            return opened

        opening = asyncio.create_task(bus_there()), asyncio.create_task(store_there())
        try:
            return await asyncio.gather(*opening)
        except BaseException:
            for task in opening:
                task.cancel()
            await asyncio.wait(opening)
            raise

    async def _until(self, what: str, opening: Callable[[], Awaitable[T]]) -> T:
        """Open something, again and again until it works; a reason is logged when it changes."""
        pause_s = RETRY_S_MIN
        while True:
            try:
                opened = await opening()
            except UsageError:
                raise
            except (SqueezeError, OSError) as error:
                if self._waiting[what] != str(error):
                    self._waiting[what] = str(error)
                    self.log.warning("waiting", resource=what, reason=str(error))
            else:
                del self._waiting[what]
                return opened
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_S_MAX)

    async def _open_store(self) -> Store:
        return await asyncio.get_running_loop().run_in_executor(self._threads, _open_store, self.settings)

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self._loop_lag.observe(max(0.0, loop.time() - due))

    def answered(self, method: str, route: str, status: int) -> None:
        """Count an answer; a method that nobody knows is not a label of its own."""
        self.requests.labels(method if method in METHODS else "other", route, str(status)).inc()

    def unready(self) -> str:
        """Say why the service's own paths are not there yet; empty when they are."""
        if self._death:
            return self._death
        if self._part is not None:
            return ""
        return "; ".join(f"{what}: {why}" for what, why in self._waiting.items()) or "starting"

    async def missing(self) -> dict[str, str]:
        """Ask every resource and probe; return what does not answer, with the reason."""
        if self._death:
            return {self.name: self._death}
        if self._part is None or self._kit is None:
            return dict(self._waiting) or {self.name: "starting"}
        probes: dict[str, Probe] = {"NATS": self._kit.bus.ping, **self._part.probes}
        if self._kit.store is not None:
            probes["ClickHouse"] = self._ping_store
        reasons = await asyncio.gather(*map(_reason, probes.values()))
        return {what: reason for what, reason in zip(probes, reasons, strict=True) if reason}

    async def _ping_store(self) -> None:
        """Ask ClickHouse for a one; one question at a time, because each may take half a minute to fail."""
        assert self._kit is not None
        assert self._kit.store is not None
        if self._store_ping is None or self._store_ping.done():
            loop = asyncio.get_running_loop()
            self._store_ping = loop.run_in_executor(self._pinger, self._kit.store.query, "SELECT 1")
            self._store_ping.add_done_callback(lambda ping: ping.cancelled() or ping.exception())  # heard, if late
        await asyncio.shield(self._store_ping)

    def describe(self) -> dict[str, Any]:
        """Return the service's status, the common part added."""
        unready = self.unready()
        own = {} if self._part is None else dict(self._part.status())
        state = "ENDED" if self._death else "WAITING" if unready else "RUNNING"
        common = {
            "service": self.name,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._began_s, 1),
            "state": state,
            "lag_s": None,
            "messages": 0,
            "errors": 0,
            "last_error": unready,
        }
        return common | own

    @property
    def death(self) -> str:
        """Why the loop ended by itself; empty while it has not."""
        return self._death

    @property
    def up(self) -> bool:
        """Whether the service's loop runs."""
        return self._part is not None and not self._death


def _open_store(settings: ServiceSettings) -> Store:
    """Open the store that the settings name; blocks."""
    address = clickhouse_address(settings)
    if address is None:
        assert settings.home is not None
        return embedded.open_store(settings.home, database=settings.database)
    url, _, database = address.rpartition("/")
    return Store.connect(url, database)


def clickhouse_address(settings: ServiceSettings) -> str | None:
    """Return where the external ClickHouse is, `http://user:password@host:8123/database`; None for the embedded one."""
    if settings.clickhouse_url is None:
        return None
    parts = urlsplit(settings.clickhouse_url)
    if settings.clickhouse_password_file is not None:
        password = quote(_secret(settings.clickhouse_password_file, "clickhouse_password_file"), safe="")
        user = parts.username or "default"
        host = parts.netloc.rpartition("@")[2]
        parts = parts._replace(netloc=f"{user}:{password}@{host}")
    database = parts.path.strip("/") or settings.database
    return f"{urlunsplit(parts._replace(path=''))}/{database}"


def _secret(path: Path, name: str) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{variable(name)} was {path}, which cannot be read ({error}): name a readable file") from None


def _innermost(error: BaseException) -> BaseException:
    """Return the one error inside groups of one: what a task group was left for."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


async def _reason(probe: Probe) -> str:
    """Run a probe; return why it failed, or nothing."""
    try:
        async with asyncio.timeout(PROBE_S_MAX):
            await probe()
    except TimeoutError:
        return f"no answer within {PROBE_S_MAX:g} s"
    except Exception as error:  # noqa: BLE001 - a probe's failure is its answer
        return str(error) or type(error).__name__
    return ""


class _Common(Collector):
    """The metrics that every service has, read off its status when they are asked for."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def collect(self) -> Iterator[Metric]:
        """Yield them, counters at zero before anything happened."""
        status = self._runtime.describe()
        up = GaugeMetricFamily("squeezeflow_up", "Whether the service's loop runs.", labels=["service", "version"])
        up.add_metric([self._runtime.name, importlib.metadata.version("squeezecore")], float(self._runtime.up))
        yield up
        yield CounterMetricFamily("squeezeflow_messages", "Messages taken or published.", value=status["messages"])
        yield CounterMetricFamily("squeezeflow_errors", "Errors met and survived.", value=status["errors"])
        lag = status["lag_s"]
        yield GaugeMetricFamily(
            "squeezeflow_lag_seconds", "How far behind it is.", value=float("nan") if lag is None else lag
        )
        last_ns = status.get("last_message_ns")
        age_s = float("nan") if not last_ns else max(0.0, (self._runtime.clock.now_ns() - last_ns) / 1e9)
        yield GaugeMetricFamily(
            "squeezeflow_last_message_age_seconds", "Since the last message; NaN before the first.", value=age_s
        )


# --- the process ---


def main(name: str, kind: type[ServiceSettings], build: Build, *, needs_store: bool = True) -> None:
    """Run a service until it is asked to end or its loop does: what `python -m squeeze_<name>` calls.

    Ends the process: 0 after SIGTERM or SIGINT, 1 when the loop ended, 2 when a setting was wrong.
    """
    import uvloop  # noqa: PLC0415 - only a process wants it

    leave_pandas_out()
    disable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        settings, notes = load(kind, name)
        log = logs.configure(name, as_json=settings.log_json, level=settings.log_level)
        app = create_app(name, settings, build, needs_store=needs_store)
        listener = _listen(settings)
    except SqueezeError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    for note in notes:
        log.warning(note)
    code = uvloop.run(_serve(app, listener))
    sys.stderr.flush()
    os._exit(code)  # a blocking call in a thread must not hold the end up


def _listen(settings: ServiceSettings) -> socket.socket:
    """Take the port at once, so that a port in use is a sentence; whoever has it may go, so another try is worth it."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        raise SqueezeError(
            f"{variable('host')} and {variable('port')} were {settings.host} and {settings.port}, "
            f"they cannot be listened on ({error.strerror or error}): choose others, port 0 takes a free one"
        ) from None
    return listener


class _Server(uvicorn.Server):
    """Uvicorn, with the signals left to us, and a word when it answers."""

    def __init__(self, config: uvicorn.Config, answering: Callable[[], None]) -> None:
        super().__init__(config)
        self._answering = answering

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # it would raise them again at the end, and so die of them
        """Leave signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets)
        if self.started:
            self._answering()


async def _serve(app: FastAPI, listener: socket.socket) -> int:
    runtime: Runtime = app.state.runtime
    settings = runtime.settings
    port = listener.getsockname()[1]
    note = None if settings.run_dir is None else settings.run_dir / f"{runtime.name}.json"

    def answering() -> None:
        runtime.log.info("listening", host=settings.host, port=port)
        if note is not None:
            try:
                _write_note(note, port)
            except OSError as error:  # a full disk: whoever looks for us will not find us, but we work
                runtime.log.error("could not say where it listens", file=str(note), reason=str(error))  # noqa: TRY400

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=CLOSE_S_MAX,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies or None,
    )
    server = _Server(config, answering)

    def stop() -> None:
        signal.alarm(STOP_S_MAX)  # whatever hangs, the kernel ends us then
        server.should_exit = True

    def asked(number: int) -> None:
        runtime.log.info("stopping", signal=signal.Signals(number).name)
        stop()

    runtime.ended = stop
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked, number)
    await server.serve(sockets=[listener])
    if note is not None:
        _remove_note(note)
    runtime.log.info("stopped", code=runtime.exit_code, **({"reason": runtime.death} if runtime.death else {}))
    return runtime.exit_code


def _write_note(path: Path, port: int) -> None:
    """Write where the service answers; a reader sees the old note or the new, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.new")
    temporary.write_text(json.dumps({"port": port, "pid": os.getpid()}))
    temporary.replace(path)


def _remove_note(path: Path) -> None:
    """Take the note away, unless it is already another process's."""
    with contextlib.suppress(OSError, ValueError):
        if json.loads(path.read_text()).get("pid") == os.getpid():
            path.unlink()
