"""The bus: what every service may ask of it, and JetStream behind it.

At least once everywhere: a publish repeats itself under the same id until it is acknowledged, the stream drops the copies
of the last two minutes, and whoever reads is idempotent. A reader's place is its caller's (a snapshot), never the server's:
the durable is made anew at each start, and again whenever the connection or the server was gone, so the order of the
stream is the order of the reader. `membus` is the same without a server.

Only `wire` knows subjects and bytes; nobody but this module knows streams' configurations.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import re
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import msgspec
import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from squeezecore import wire
from squeezecore.errors import ParseError, SqueezeError, UsageError

API_LEVEL_MIN = 2  # what a server of 2.12 answers
DUPLICATES_S = 120  # how long a stream knows the ids of what it holds
BUCKETS = ("config", "instruments")

CONNECT_S_MAX = 10.0
CALL_S_MAX = 5.0  # a question that is not answered by then raises
ANSWER_S_MAX = 1.0  # one try of it
ACK_S_MAX = 5.0  # then a publish is repeated; a lost connection repeats it at once
ABSENT_S_MAX = 10.0  # a server that starts may know its streams a little later than its port
RECONNECT_S = 0.1
PAUSE_S = 0.05
WATCH_S = 0.5

PAYLOAD_BYTES_MAX = (
    wire.PAYLOAD_BYTES_MAX - 1024
)  # servers count the headers in, and cut the connection of who sends more
IN_FLIGHT_MAX = 512  # messages sent and not acknowledged, of one publish_all, where streams acknowledge early;
SYNCED_IN_FLIGHT_MAX = 1  # … and elsewhere: a server that syncs each message is three times slower when several wait
IN_FLIGHT_BYTES_MAX = 16 << 20
AHEAD_MAX = 1000  # messages a reader asks for before they are pulled
AHEAD_BYTES_MAX = 32 << 20
RECENT_S = 2.0  # what a stream acknowledged before its disk has it is published again if the server dies by then
RECENT_MAX = 10_000
UNACKED_MAX = 100_000  # delivered messages whose ack address is kept
ASK_S = 30.0  # how long the server holds one question for messages
HEARTBEAT_S = 0.5
SILENCE_S_MAX = 3.0  # no message and no heartbeat: the reader is made anew
ACK_WAIT_S = 86_400  # nothing is delivered again by time; a restart does that

_STALE = frozenset({10071, 10164})  # wrong last sequence: single server, cluster
_FULL = frozenset({10023, 10077})  # of the server's space, of the stream's limits
_SAME_ID_IN_FLIGHT = 10158
_NOT_FOUND = frozenset({10014, 10037, 10059})  # consumer, message, stream
_BUCKET_KEY = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9_=/-]*(\.[A-Za-z0-9_=/-]+)*", re.ASCII)
_S_NS = 1_000_000_000


class BusError(SqueezeError):
    """The bus cannot be reached or refused; the message says what to do."""


class Fenced(BusError):  # noqa: N818 - the word of the field
    """A stale writer: somebody else leads the account."""


class Conflict(BusError):  # noqa: N818 - the word of the field
    """A compare-and-set found another revision."""


class Delivery(NamedTuple):
    """A message as it came out of its stream."""

    message: wire.Message
    subject: str
    seq: int  # the stream's sequence
    published_ns: int  # when the server stored it


class Ack(NamedTuple):
    """A message is in its stream."""

    seq: int
    duplicate: bool  # it was there already


class StreamInfo(NamedTuple):
    """What a stream holds now."""

    first_seq: int
    last_seq: int
    created: str
    messages: int
    bytes: int


class Reader(Protocol):
    """A place in a stream that moves forward only."""

    async def pull(self, count: int = 500, wait_s: float = 1.0) -> list[Delivery]:
        """Return the next messages in the stream's order, as soon as there are some; none after `wait_s`.

        Raises:
            ParseError: the next message is of another schema version; all before it were returned.
            BusError: another process reads under this name, or the stream no longer holds what was read from it.
        """

    async def ack(self, seq: int) -> None:
        """Say that everything up to `seq` has had its effect; only `lag` of others sees it."""

    async def lag(self) -> int:
        """Count the messages that are in the stream and not yet pulled."""

    async def close(self) -> None:
        """Stop reading; the durable stays and goes on counting."""


class Bus(Protocol):
    """A connection to the bus."""

    async def publish(self, message: wire.Message, *, lead_seq: int | None = None) -> Ack:
        """Publish a message and wait until its stream holds it, for as long as the server is away.

        Args:
            message: any of `wire`.
            lead_seq: what `take_lead` gave; the message is refused once somebody else has taken the lead of its account.

        Raises:
            Fenced: somebody else leads the account.
            BusError: the message is too large, or the stream is full.
        """

    async def publish_all(self, messages: Sequence[wire.Message]) -> list[Ack]:
        """Publish messages, a bounded number in flight; return when all are held.

        Their order in the stream is that of the list, unless the connection was lost in between.
        """

    async def take_lead(self, account: str, holder: str) -> int:
        """Take over an account's writing; return the fence to publish under. The leader before is fenced from now on."""

    async def read(
        self, stream: str, subjects: tuple[str, ...], name: str, after_seq: int, *, created: str | None = None
    ) -> Reader:
        """Read a stream from the message after `after_seq` on, 0: from the first there is.

        Args:
            stream: one of `wire.STREAMS`.
            subjects: filters like "md.v1.>".
            name: of the durable; it is made anew, and who read under it before is refused from now on.
            after_seq: of the last message that has had its effect.
            created: the stream's creation as it was when `after_seq` was noted; another one is refused.

        Raises:
            BusError: the stream ends before `after_seq`, or was made anew.
        """

    async def last(self, subject: str) -> Delivery | None:
        """Return the newest message of a subject."""

    async def stream(self, stream: str) -> StreamInfo:
        """Say what a stream holds."""

    async def get(self, bucket: str, key: str) -> tuple[bytes, int] | None:
        """Return a key's value and revision."""

    async def put(self, bucket: str, key: str, value: bytes, revision: int | None = None) -> int:
        """Set a key, return its new revision.

        Args:
            bucket: one of `BUCKETS`.
            key: letters, digits and `-_=/`, parted by dots.
            value: at most `PAYLOAD_BYTES_MAX`.
            revision: set only if this is the present one; 0: only if there is none.

        Raises:
            Conflict: the present revision is another.
        """

    def watch(self, bucket: str, key: str) -> AsyncIterator[tuple[bytes, int]]:
        """Yield a key's present value, if any, then each newer one within a second; a value soon replaced may be skipped."""

    async def keys(self, bucket: str) -> list[str]:
        """Return a bucket's keys, sorted."""

    async def ping(self) -> None:
        """Return if the bus answers; raise `BusError` otherwise."""

    async def close(self) -> None:
        """Let go of the connection; what waits on it raises `BusError`."""


class Limits(NamedTuple):
    """How long and how much a stream keeps; 0: without limit."""

    age_s: int = 0
    bytes: int = 0
    drops: bool = False  # its oldest go when it is full; otherwise it refuses more
    early: bool = False  # acknowledged before it is written: a server that dies loses the last milliseconds


# MD is the only busy stream and can be fetched again; a synced disk takes about a thousand messages a second.
LIMITS: Mapping[str, Limits] = MappingProxyType(
    {
        "MD": Limits(age_s=6 * 3600, bytes=2_000_000_000, drops=True, early=True),
        "FLOW": Limits(age_s=3 * 86_400, bytes=2_000_000_000, drops=True),
        "TRADE": Limits(),
        "AUDIT": Limits(),
    }
)


def stream_of(subject: str) -> str:
    """Return the stream that holds a subject.

    >>> stream_of("trade.v1.lead.paper")
    'TRADE'
    """
    for name, filters in wire.STREAMS.items():
        if any(subject.startswith(each.removesuffix(">")) for each in filters):
            return name
    raise UsageError(f"subject was {subject!r}, streams hold {', '.join(sum(wire.STREAMS.values(), ()))}")


def check_stream(name: str) -> None:
    """Refuse a stream that is none of ours."""
    if name not in wire.STREAMS:
        raise UsageError(f"stream was {name!r}, known are {', '.join(wire.STREAMS)}")


def check_key(bucket: str, key: str) -> None:
    """Refuse a bucket or a key that the bus could not hold."""
    if bucket not in BUCKETS:
        raise UsageError(f"bucket was {bucket!r}, known are {', '.join(BUCKETS)}")
    if _BUCKET_KEY.fullmatch(key) is None:
        raise UsageError(f"key was {key!r}, allowed are A-Z a-z 0-9 - _ = / in parts between dots")


def check_size(what: str, data: bytes, limit: int = PAYLOAD_BYTES_MAX) -> None:
    """Refuse a payload that the bus would refuse."""
    if len(data) > limit:
        raise BusError(f"{what} had {len(data)} bytes, the bus takes {limit}: send less in one message")


def fence_subject(message: wire.Message) -> str:
    """Return the subject of the leads that guard a message."""
    account = getattr(message, "account", None)
    if account is None or stream_of(wire.subject(message)) != "TRADE":
        raise UsageError(f"a lead fences messages of an account, {type(message).__name__} has none: leave lead_seq out")
    return wire.subject(wire.Lead(account=account, holder="", previous_seq=0))


def fenced(subject: str, lead_seq: int, reason: str) -> Fenced:
    """Say who may no longer write."""
    account = subject.rpartition(".")[2]
    return Fenced(
        f"account {account}: lead {lead_seq} is not the newest ({reason}), somebody else leads: end this writer"
    )


def ends_before(stream: str, last_seq: int, after_seq: int) -> BusError:
    """Say that a reader's place is beyond the end."""
    return BusError(
        f"stream {stream} ended at {last_seq}, the reader was at {after_seq} already: the stream was lost or made anew; "
        "start without the snapshot, or bring the stream back"
    )


def made_anew(stream: str, created: str, expected: str) -> BusError:
    """Say that a reader's place belongs to another stream of that name."""
    return BusError(
        f"stream {stream} was made at {created}, the reader's place is of one made at {expected}: "
        "start without the snapshot, or bring the stream back"
    )


def taken_over(stream: str, name: str) -> BusError:
    """Say that somebody else reads now."""
    return BusError(f"reader {name} of {stream} was taken over by another process: run it once")


def stale_key(bucket: str, key: str, revision: int | None) -> Conflict:
    """Say that somebody else set a key."""
    return Conflict(f"key {key} of {bucket} is no longer of revision {revision}: read it and decide again")


def stream_config(name: str, limits: Limits, replicas: int = 1) -> dict[str, Any]:
    """Return a stream's configuration as the server keeps it; lengths of time in ns."""
    config = {
        "name": name,
        "subjects": list(wire.STREAMS[name]),
        "retention": "limits",
        "storage": "file",
        "discard": "old" if limits.drops else "new",
        "max_age": limits.age_s * _S_NS,
        "max_bytes": limits.bytes or -1,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "duplicate_window": DUPLICATES_S * _S_NS,
        "num_replicas": replicas,
        "compression": "s2" if name == "MD" else "none",
        "allow_direct": False,
    }
    if limits.early and replicas == 1:
        config["persist_mode"] = "async"  # refused on replicated streams
    return config


def bucket_config(name: str, replicas: int = 1) -> dict[str, Any]:
    """Return the configuration of a bucket: a stream of one message a key."""
    return {
        "name": f"KV_{name}",
        "subjects": [f"$KV.{name}.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_age": 0,
        "max_bytes": -1,
        "max_msgs": -1,
        "max_msgs_per_subject": 1,
        "max_msg_size": -1,
        "duplicate_window": DUPLICATES_S * _S_NS,
        "num_replicas": replicas,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
    }


async def connect(
    url: str,
    *,
    name: str,
    user: str | None = None,
    password_file: Path | None = None,
    limits: Mapping[str, Limits] = LIMITS,
    replicas: int = 1,
    wait_s: float = CONNECT_S_MAX,
) -> Bus:
    """Connect to a NATS server and make what is missing of the streams and buckets.

    Args:
        url: like "nats://127.0.0.1:4222".
        name: of this client, shown by the server.
        user: whom the server knows; the answers then come to the inbox `_INBOX.<user>`.
        password_file: its first line is the user's password.
        limits: what the streams keep; a stream of other limits is refused.
        replicas: of streams and buckets.
        wait_s: how long to wait for the server.

    Raises:
        BusError: no answer, an old server, no JetStream, a stream of another configuration.
    """
    bus = JetStream(url)
    try:
        await bus.open(name, user, password_file, wait_s)
        await bus.make(limits, replicas)
    except BaseException:
        await bus.close()
        raise
    return bus


class _RefusedError(BusError):
    """The server's answer is an error."""

    def __init__(self, what: str, code: int, err_code: int, description: str) -> None:
        super().__init__(f"{what}: the bus refused ({description}, {err_code})")
        self.code, self.err_code, self.description = code, err_code, description


class _AwayError(BusError):
    """No answer; ask again."""


class _ApiError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    error: _ApiError | None = None


class _Envelope(NamedTuple):
    subject: str
    data: bytes
    headers: dict[str, str]


class _Stored(NamedTuple):
    """A message as the server keeps it."""

    subject: str
    data: bytes
    seq: int
    published_ns: int
    headers: dict[str, str]


_PUB_ACK = msgspec.json.Decoder(_PubAck)


def _rfc3339_ns(text: str) -> int:
    """Read a server's time.

    >>> _rfc3339_ns("1970-01-01T00:00:01.5Z")
    1500000000
    """
    seconds = dt.datetime.fromisoformat(text[:19]).replace(tzinfo=dt.UTC).timestamp()
    return int(seconds) * _S_NS + int(text[19:].strip(".Z").ljust(9, "0"))


def _headers(raw: bytes) -> dict[str, str]:
    """Read a stored message's headers."""
    pairs = (line.split(":", 1) for line in raw.decode(errors="replace").splitlines()[1:] if ":" in line)
    return {key: value.strip() for key, value in pairs}


def _temporary(error: _ApiError) -> bool:
    """Say whether the same question may be answered a moment later."""
    return error.err_code == _SAME_ID_IN_FLIGHT or (error.code >= 500 and error.err_code not in _FULL)


class JetStream:
    """A `Bus` over one connection to a NATS server; `connect` makes it."""

    def __init__(self, url: str) -> None:
        self.client = Client()
        self.epoch = 0  # how often the connection came back
        self._url = url
        self._up = asyncio.Event()
        self._fatal: BusError | None = None
        self._waiting: dict[str, asyncio.Future[Msg]] = {}  # a future for each message in flight
        self._inbox = ""
        self._sent = 0
        self._busy: tuple[str, ...] = ()  # beginnings of subjects of which many may be in flight
        self._early: tuple[str, ...] = ()  # … of which a server that dies may lose what it acknowledged
        self._recent: deque[tuple[float, _Envelope]] = deque(maxlen=RECENT_MAX)  # when acknowledged, and what
        self._recovery: asyncio.Task[None] | None = None

    async def open(self, name: str, user: str | None, password_file: Path | None, wait_s: float) -> None:
        """Connect and see what kind of server answers."""
        options: dict[str, Any] = {}
        if user is not None:
            options["user"] = user
            options["inbox_prefix"] = f"_INBOX.{user}"
        if password_file is not None:
            try:
                options["password"] = password_file.read_text().splitlines()[0].strip()  # noqa: ASYNC240 - once, at start
            except (OSError, IndexError) as error:
                raise BusError(
                    f"password file was {password_file}, it cannot be read ({error}): name one with a line in it"
                ) from error
        try:
            async with asyncio.timeout(wait_s):
                await self.client.connect(
                    self._url,
                    name=name,
                    allow_reconnect=True,
                    max_reconnect_attempts=-1,  # then the first connect waits for ever, too: hence the timeout
                    reconnect_time_wait=RECONNECT_S,  # type: ignore[arg-type]  # any number is slept
                    ping_interval=10,
                    error_cb=self._on_error,
                    disconnected_cb=self._on_lost,
                    reconnected_cb=self._on_back,
                    closed_cb=self._on_closed,
                    **options,
                )
        except (TimeoutError, OSError, nats.errors.Error) as error:
            said = self.client.last_error or error
            raise BusError(
                f"no NATS server answered at {self._url} within {wait_s:.0f} s ({said}): start one, or mend the address"
            ) from error
        self._inbox = self.client.new_inbox()
        await self.client.subscribe(f"{self._inbox}.*", cb=self._on_answer)
        self._up.set()
        account = await self.call("INFO", {}, wait_s=wait_s)
        if self.client.max_payload < wire.PAYLOAD_BYTES_MAX:
            raise BusError(
                f"NATS server at {self._url} takes messages of {self.client.max_payload} bytes, "
                f"{wire.PAYLOAD_BYTES_MAX} are needed: raise its max_payload"
            )
        level = int(account.get("api", {}).get("level", 0))
        if level < API_LEVEL_MIN:
            version = self.client.connected_server_version
            raise BusError(
                f"NATS server at {self._url} was {version.major}.{version.minor}.{version.patch}, "
                "2.12 or newer is needed: update it"
            )

    async def make(self, limits: Mapping[str, Limits], replicas: int) -> None:
        """Make the streams and buckets that are missing; refuse those that are not as we need them."""
        wanted = [stream_config(name, limits[name], replicas) for name in wire.STREAMS]
        for name, filters in wire.STREAMS.items():
            if limits[name].early:
                self._busy += tuple(each.removesuffix(">") for each in filters)
        wanted += [bucket_config(name, replicas) for name in BUCKETS]
        for config in wanted:
            name = config["name"]
            if "persist_mode" in config:
                self._early += tuple(each.removesuffix(">") for each in config["subjects"])
            try:
                answer = await self.call(f"STREAM.INFO.{name}", {})
            except _RefusedError as error:
                if error.err_code not in _NOT_FOUND:
                    raise
                answer = await self.call(f"STREAM.CREATE.{name}", config)
            self._compare(f"stream {name}", config, answer["config"])

    def _compare(self, what: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Refuse a configuration that differs in what we set."""
        for field, value in wanted.items():
            if found.get(field, "none" if field == "compression" else False if value is False else None) != value:
                raise BusError(
                    f"{what} at {self._url} had {field} {found.get(field)!r}, this version needs {value!r}: "
                    f"edit it with the nats command, or use a server of its own"
                )

    # The connection's life.

    async def _on_error(self, error: Exception) -> None:
        if "permissions violation" in str(error).lower():  # otherwise calls would just never be answered
            self._end(
                BusError(f"NATS server at {self._url} forbids what this service needs ({error}): mend its rights")
            )

    async def _on_lost(self) -> None:
        self._up.clear()
        # What the client has not sent yet it would send first when it is back, before what came earlier is repeated.
        self.client._pending, self.client._pending_data_size = [], 0  # noqa: SLF001 - it has no other way
        if self._recovery is not None:
            self._recovery.cancel()
        self._forget(asyncio.get_running_loop().time())
        self._fail(_AwayError(f"connection to {self._url} was lost"))

    async def _on_back(self) -> None:
        self.epoch += 1
        self._recovery = asyncio.get_running_loop().create_task(self._recover())

    async def _recover(self) -> None:
        """Publish again what the server may have lost, then let everybody go on."""
        self._refresh()
        with contextlib.suppress(BusError):
            await self._publish([envelope for _, envelope in self._recent], recovering=True)
        self._refresh()
        self._up.set()

    def _refresh(self) -> None:
        """Count from now: the server may die again at once."""
        now_s = asyncio.get_running_loop().time()
        self._recent = deque(((now_s, envelope) for _, envelope in self._recent), maxlen=RECENT_MAX)

    def _forget(self, now_s: float) -> None:
        """Let go of what is on the server's disk by now."""
        while self._recent and now_s - self._recent[0][0] > RECENT_S:
            self._recent.popleft()

    async def _on_closed(self) -> None:
        self._end(BusError(f"connection to {self._url} was closed: connect again"))

    def _end(self, error: BusError) -> None:
        """Let everything that waits raise."""
        self._fatal = self._fatal or error
        self._fail(self._fatal)
        self._up.set()

    def _fail(self, error: BusError) -> None:
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(error)
                future.exception()  # whoever waited may be gone

    async def connected(self) -> None:
        """Wait until there is a connection."""
        await self._up.wait()
        if self._fatal is not None:
            raise self._fatal

    async def _on_answer(self, message: Msg) -> None:
        future = self._waiting.pop(message.subject.rpartition(".")[2], None)
        if future is None or future.done():
            return
        if not message.data and message.headers and message.headers.get("Status") == "503":
            future.set_exception(_AwayError(f"nobody at {self._url} answers this subject"))
            future.exception()
        else:
            future.set_result(message)

    async def _send(self, subject: str, data: bytes, headers: dict[str, str] | None) -> tuple[str, asyncio.Future[Msg]]:
        """Send a message and return the future of its answer."""
        self._sent += 1
        token = str(self._sent)
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        if not self.client.is_connected:
            future.set_exception(_AwayError(f"connection to {self._url} was lost"))
            future.exception()
            return token, future
        self._waiting[token] = future
        try:
            await self.client.publish(subject, data, reply=f"{self._inbox}.{token}", headers=headers)
        except (nats.errors.Error, OSError) as error:
            self._waiting.pop(token, None)
            if not future.done():
                future.set_exception(_AwayError(f"connection to {self._url} was lost ({error})"))
                future.exception()
        return token, future

    async def call(self, api: str, body: Mapping[str, Any], wait_s: float = CALL_S_MAX) -> dict[str, Any]:
        """Ask the JetStream interface and return the answer; repeat while it does not come."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_s
        reason: object = "no connection"
        while (left := deadline - clock()) > 0:
            token = ""
            try:
                async with asyncio.timeout(min(left, ANSWER_S_MAX)):
                    await self.connected()
                    token, future = await self._send(f"$JS.API.{api}", msgspec.json.encode(body), None)
                    answer: dict[str, Any] = msgspec.json.decode((await future).data)
            except TimeoutError:
                reason = f"silent for {wait_s:.0f} s"
                continue
            except _AwayError as error:
                reason = error
                await asyncio.sleep(PAUSE_S)
                continue
            finally:
                self._waiting.pop(token, None)
            if "error" not in answer:
                return answer
            told = msgspec.convert(answer["error"], _ApiError)
            if not _temporary(told):
                raise _RefusedError(api, told.code, told.err_code, told.description)
            reason = told.description
            await asyncio.sleep(PAUSE_S)
        raise _AwayError(f"NATS server at {self._url} did not answer {api} ({reason}): is it up, with JetStream?")

    # Publishing.

    async def publish(self, message: wire.Message, *, lead_seq: int | None = None) -> Ack:
        """Publish a message and wait until its stream holds it."""
        envelope = self._envelope(message)
        if lead_seq is None:
            return (await self._publish([envelope]))[0]
        fence = fence_subject(message)
        envelope.headers["Nats-Expected-Last-Subject-Sequence"] = str(lead_seq)
        envelope.headers["Nats-Expected-Last-Subject-Sequence-Subject"] = fence
        try:
            return (await self._publish([envelope]))[0]
        except _RefusedError as error:
            if error.err_code in _STALE:
                raise fenced(fence, lead_seq, error.description) from error
            raise

    async def publish_all(self, messages: Sequence[wire.Message]) -> list[Ack]:
        """Publish messages, a bounded number in flight."""
        return await self._publish([self._envelope(message) for message in messages])

    def _envelope(self, message: wire.Message) -> _Envelope:
        subject, data = wire.subject(message), wire.encode(message)
        check_size(f"{type(message).__name__} for {subject}", data)
        return _Envelope(subject, data, {"Nats-Msg-Id": wire.message_id(message)})

    async def _publish(self, envelopes: Sequence[_Envelope], *, recovering: bool = False) -> list[Ack]:
        """Send in order; what was not acknowledged is sent again, in order, under the same ids."""
        acks: list[Ack] = [Ack(0, duplicate=False)] * len(envelopes)
        due = deque(range(len(envelopes)))
        flying: deque[tuple[int, str, asyncio.Future[Msg]]] = deque()
        flying_bytes = 0
        absent_since: float | None = None
        clock = asyncio.get_running_loop().time
        try:
            while due or flying:
                while due and flying_bytes < IN_FLIGHT_BYTES_MAX:
                    busy = envelopes[due[0]].subject.startswith(self._busy)
                    if len(flying) >= (IN_FLIGHT_MAX if busy else SYNCED_IN_FLIGHT_MAX):
                        break
                    if not recovering:
                        await self.connected()
                    index = due.popleft()
                    envelope = envelopes[index]
                    flying.append((index, *await self._send(*envelope)))
                    flying_bytes += len(envelope.data)
                index, token, future = flying.popleft()
                flying_bytes -= len(envelopes[index].data)
                try:
                    if not future.done():
                        async with asyncio.timeout(ACK_S_MAX):
                            await future
                    answer = _PUB_ACK.decode(future.result().data)
                except (TimeoutError, _AwayError) as error:
                    # Those behind it in flight failed with it, or will be duplicates: send all again, to keep the order.
                    due.extendleft(each for each, *_ in reversed(flying))
                    due.appendleft(index)
                    for _, each, _ in flying:
                        self._waiting.pop(each, None)
                    flying.clear()
                    flying_bytes = 0
                    if self.client.is_connected and isinstance(error, _AwayError):
                        absent_since = absent_since or clock()
                        if clock() - absent_since > ABSENT_S_MAX:
                            raise BusError(
                                f"no stream at {self._url} took {envelopes[index].subject} for {ABSENT_S_MAX:.0f} s: "
                                "it was deleted, or JetStream is off; restart this service to make it again"
                            ) from error
                    await asyncio.sleep(PAUSE_S)
                    continue
                finally:
                    self._waiting.pop(token, None)
                absent_since = None
                if answer.error is None:
                    acks[index] = Ack(answer.seq, answer.duplicate)
                    if self._early and envelopes[index].subject.startswith(self._early) and not recovering:
                        self._recent.append((clock(), envelopes[index]))
                        self._forget(clock())
                elif _temporary(answer.error):
                    due.appendleft(index)
                    await asyncio.sleep(PAUSE_S)
                else:
                    raise self._refusal(envelopes[index].subject, answer.error)
        finally:
            for _, each, _ in flying:
                self._waiting.pop(each, None)
        return acks

    def _refusal(self, subject: str, error: _ApiError) -> BusError:
        if error.err_code in _FULL:
            return BusError(
                f"message for {subject} was refused, the store of the server at {self._url} is full ({error.description}): "
                "raise max_file_store, or free its disk"
            )
        return _RefusedError(f"message for {subject}", error.code, error.err_code, error.description)

    async def take_lead(self, account: str, holder: str) -> int:
        """Take over an account's writing."""
        while True:
            subject = wire.subject(wire.Lead(account=account, holder=holder, previous_seq=0))
            newest = await self._newest("TRADE", subject)
            lead = wire.Lead(account=account, holder=holder, previous_seq=newest.seq if newest else 0)
            seq = await self._set(subject, wire.encode(lead), lead.previous_seq)
            if seq is not None:
                return seq

    async def _set(self, subject: str, data: bytes, revision: int | None) -> int | None:
        """Publish if the subject's newest message is still that of `revision`; None when it is not."""
        once = secrets.token_hex(16)  # two who write the same bytes are still two
        headers = {"Nats-Msg-Id": once}
        if revision is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(revision)
        try:
            return (await self._publish([_Envelope(subject, data, headers)]))[0].seq
        except _RefusedError as error:
            if error.err_code not in _STALE:
                raise
        # A repeated publish that was stored the first time is refused as stale, not told to be a duplicate.
        stream = f"KV_{subject.split('.')[1]}" if subject.startswith("$KV.") else stream_of(subject)
        newest = await self._newest(stream, subject)
        return newest.seq if newest and newest.headers.get("Nats-Msg-Id") == once else None

    # Reading.

    async def read(
        self, stream: str, subjects: tuple[str, ...], name: str, after_seq: int, *, created: str | None = None
    ) -> Reader:
        """Read a stream from the message after `after_seq` on."""
        check_stream(stream)
        reader = _Reader(self, stream, subjects, name, after_seq, created)
        await reader.start()
        return reader

    async def last(self, subject: str) -> Delivery | None:
        """Return the newest message of a subject."""
        stored = await self._newest(stream_of(subject), subject)
        if stored is None:
            return None
        return Delivery(wire.decode(stored.subject, stored.data), stored.subject, stored.seq, stored.published_ns)

    async def _newest(self, stream: str, subject: str) -> _Stored | None:
        return await self.stored(stream, {"last_by_subj": subject})

    async def stored(self, stream: str, which: Mapping[str, Any]) -> _Stored | None:
        """Return one message of a stream; None when it is not there."""
        try:
            answer = await self.call(f"STREAM.MSG.GET.{stream}", which)
        except _RefusedError as error:
            if error.err_code in _NOT_FOUND:
                return None
            raise
        message = answer["message"]
        return _Stored(
            message["subject"],
            base64.b64decode(message.get("data", "")),
            message["seq"],
            _rfc3339_ns(message["time"]),
            _headers(base64.b64decode(message.get("hdrs", ""))),
        )

    async def stream(self, stream: str) -> StreamInfo:
        """Say what a stream holds."""
        check_stream(stream)
        answer = await self.call(f"STREAM.INFO.{stream}", {})
        state = answer["state"]
        return StreamInfo(state["first_seq"], state["last_seq"], answer["created"], state["messages"], state["bytes"])

    # Keys and values.

    async def get(self, bucket: str, key: str) -> tuple[bytes, int] | None:
        """Return a key's value and revision."""
        check_key(bucket, key)
        stored = await self._newest(f"KV_{bucket}", f"$KV.{bucket}.{key}")
        if stored is None or "KV-Operation" in stored.headers:  # deleted by hand
            return None
        return stored.data, stored.seq

    async def put(self, bucket: str, key: str, value: bytes, revision: int | None = None) -> int:
        """Set a key, return its new revision."""
        check_key(bucket, key)
        check_size(f"value of {key} in {bucket}", value)
        subject = f"$KV.{bucket}.{key}"
        try:
            async with asyncio.timeout(CALL_S_MAX):
                seq = await self._set(subject, value, revision)
                if seq is None and revision == 0:
                    newest = await self._newest(f"KV_{bucket}", subject)
                    if newest is not None and "KV-Operation" in newest.headers:  # deleted by hand: there is none
                        seq = await self._set(subject, value, newest.seq)
        except TimeoutError as error:
            raise _AwayError(
                f"NATS server at {self._url} did not take {key} within {CALL_S_MAX:.0f} s: is it up?"
            ) from error
        if seq is None:
            raise stale_key(bucket, key, revision)
        return seq

    async def watch(self, bucket: str, key: str) -> AsyncIterator[tuple[bytes, int]]:
        """Yield a key's present value, then each newer one."""
        check_key(bucket, key)
        changed = asyncio.Event()

        async def hint(_message: Msg) -> None:
            changed.set()

        # A hint only: what was put is read with `get`, which also finds what no hint told.
        subscription = await self.client.subscribe(f"$KV.{bucket}.{key}", cb=hint)
        try:
            seen = 0
            while True:
                changed.clear()
                with contextlib.suppress(_AwayError):
                    found = await self.get(bucket, key)
                    if found is not None and found[1] > seen:
                        seen = found[1]
                        yield found
                        continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(WATCH_S):
                        await changed.wait()
        finally:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def keys(self, bucket: str) -> list[str]:
        """Return a bucket's keys, sorted."""
        check_key(bucket, "any")
        prefix = f"$KV.{bucket}."
        answer = await self.call(f"STREAM.INFO.KV_{bucket}", {"subjects_filter": f"{prefix}>"})
        return sorted(each.removeprefix(prefix) for each in answer["state"].get("subjects") or {})

    async def ping(self) -> None:
        """Return if the bus answers."""
        await self.call("INFO", {}, wait_s=ANSWER_S_MAX)

    async def close(self) -> None:
        """Let go of the connection."""
        self._end(BusError(f"connection to {self._url} was closed by this process"))
        if self._recovery is not None:
            self._recovery.cancel()
        with contextlib.suppress(Exception):  # it raises all kinds when the server is gone
            await self.client.close()


class _Held(NamedTuple):
    """A message that came and was not pulled yet."""

    subject: str
    data: bytes
    seq: int
    consumer_seq: int
    published_ns: int
    reply: str


class _Reader:
    """A `Reader` over a durable pull consumer, which is made anew whenever its order is in doubt."""

    def __init__(
        self, bus: JetStream, stream: str, subjects: tuple[str, ...], name: str, after_seq: int, created: str | None
    ) -> None:
        self._bus = bus
        self._stream, self._subjects, self._name = stream, subjects, name
        self._created = created
        self._token = secrets.token_hex(8)  # tells our durable from that of another process
        self._seq = after_seq  # of the last message pulled
        self._published_ns: int | None = None  # of the same
        self._consumer_seq = 0  # of the same
        self._heard_seq = 0  # the consumer's newest that came
        self._held: deque[_Held] = deque()
        self._unacked: deque[tuple[int, str]] = deque(maxlen=UNACKED_MAX)
        self._arrived = asyncio.Event()
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._asked = 0  # messages the server was asked for and has not sent
        self._heard_s = 0.0
        self._epoch = -1
        self._broken = False
        self._bad: Exception | None = None

    async def start(self) -> None:
        """Make the durable for the first time, whoever had it before."""
        await self._make(first=True)

    async def _make(self, *, first: bool = False) -> None:
        """Make the durable at our place; raise when the stream is not the one we read."""
        bus, target = self._bus, f"{self._stream}.{self._name}"
        epoch = bus.epoch
        answer = await bus.call(f"STREAM.INFO.{self._stream}", {})
        created = str(answer["created"])
        if self._created is not None and created != self._created:
            raise made_anew(self._stream, created, self._created)
        state = answer["state"]
        if state["last_seq"] < self._seq:
            raise ends_before(self._stream, state["last_seq"], self._seq)
        if self._published_ns is not None:
            stored = await bus.stored(self._stream, {"seq": self._seq})
            if stored is not None and stored.published_ns != self._published_ns:
                raise BusError(
                    f"message {self._seq} of {self._stream} is another than the one read: the server lost its newest; "
                    "restart this service"
                )
        try:
            if not first:
                found = await bus.call(f"CONSUMER.INFO.{target}", {})
                if (found["config"].get("metadata") or {}).get("reader") != self._token:
                    raise taken_over(self._stream, self._name)
            await bus.call(f"CONSUMER.DELETE.{target}", {})
        except _RefusedError as error:
            if error.err_code not in _NOT_FOUND:
                raise
        config = {
            "name": self._name,
            "durable_name": self._name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._seq + 1,
            "ack_policy": "all",
            "ack_wait": ACK_WAIT_S * _S_NS,
            "max_deliver": -1,
            "max_ack_pending": -1,
            "replay_policy": "instant",
            "filter_subjects": list(self._subjects),
            "metadata": {"reader": self._token},
        }
        answer = await bus.call(
            f"CONSUMER.CREATE.{target}", {"stream_name": self._stream, "config": config, "action": "create"}
        )
        found = dict(answer["config"])
        found["metadata"] = {"reader": (found.get("metadata") or {}).get("reader")}  # the server adds its own
        bus._compare(f"reader {self._name} of {self._stream}", config, found)  # noqa: SLF001 - one module
        await self._listen()
        self._created = created
        self._epoch = epoch
        self._broken = False

    async def _listen(self) -> None:
        """Take a fresh address, so that nothing meant for the durable before is heard."""
        await self._unsubscribe()
        self._held.clear()
        self._unacked.clear()
        self._consumer_seq = self._heard_seq = self._asked = 0
        self._inbox = self._bus.client.new_inbox()
        self._subscription = await self._bus.client.subscribe(self._inbox, cb=self._hear(self._inbox))

    def _hear(self, inbox: str) -> Callable[[Msg], Any]:
        loop = asyncio.get_running_loop()

        async def hear(message: Msg) -> None:
            if inbox != self._inbox or self._broken:
                return
            self._heard_s = loop.time()
            if message.reply.startswith("$JS.ACK."):
                self._keep(message)
            else:
                self._note(message.headers or {})

        return hear

    def _keep(self, message: Msg) -> None:
        """Hold a message that came in order; anything else breaks the reader."""
        tokens = message.reply.split(".")
        at = 4 if len(tokens) == 9 else 6  # newer servers put domain and account in
        seq, consumer_seq, published_ns = int(tokens[at + 1]), int(tokens[at + 2]), int(tokens[at + 3])
        if consumer_seq != self._heard_seq + 1 or seq <= (self._held[-1].seq if self._held else self._seq):
            self._broken = True
        else:
            self._heard_seq = consumer_seq
            self._asked -= 1
            self._held.append(_Held(message.subject, message.data, seq, consumer_seq, published_ns, message.reply))
        self._arrived.set()

    def _note(self, headers: Mapping[str, str]) -> None:
        """Understand a status instead of a message."""
        status = headers.get("Status", "")
        if status == "100":  # a heartbeat
            return
        said = headers.get("Description", "").lower()
        over = status == "408" or (status == "409" and ("maxbytes" in said or "batch completed" in said))
        if over:
            self._asked -= int(headers.get("Nats-Pending-Messages", "0"))
        else:
            self._broken = True  # deleted, another leader, shutting down
        self._arrived.set()

    async def _ask(self) -> None:
        """Ask for more, so that about `AHEAD_MAX` are held or under way."""
        room = AHEAD_MAX - len(self._held) - self._asked
        if self._broken or room < AHEAD_MAX // 2:
            return
        self._asked += room
        self._heard_s = asyncio.get_running_loop().time()
        body = {
            "batch": room,
            "max_bytes": AHEAD_BYTES_MAX,
            "expires": int(ASK_S * _S_NS),
            "idle_heartbeat": int(HEARTBEAT_S * _S_NS),
        }
        try:
            await self._bus.client.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}", msgspec.json.encode(body), reply=self._inbox
            )
        except (nats.errors.Error, OSError):
            self._broken = True

    async def pull(self, count: int = 500, wait_s: float = 1.0) -> list[Delivery]:
        """Return the next messages in the stream's order."""
        if self._bad is not None:
            raise self._bad
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_s
        while True:
            self._arrived.clear()
            if not self._held and (self._broken or self._epoch != self._bus.epoch):
                try:
                    async with asyncio.timeout_at(deadline):
                        await self._bus.connected()
                    await self._make()
                except (TimeoutError, _AwayError):
                    self._broken = True
                    if clock() >= deadline:
                        return []
                    continue
                except BusError as error:
                    self._bad = error
                    raise
            await self._ask()
            if self._held:
                return self._take(count)
            if clock() >= deadline:
                if self._asked and clock() - self._heard_s > SILENCE_S_MAX:
                    self._broken = True
                return []
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._arrived.wait()

    def _take(self, count: int) -> list[Delivery]:
        taken: list[Delivery] = []
        while self._held and len(taken) < count:
            held = self._held[0]
            try:
                message = wire.decode(held.subject, held.data)
            except ParseError as error:
                self._bad = ParseError(f"message {held.seq} of {self._stream}: {error}")
                if taken:
                    break
                raise self._bad from error
            self._held.popleft()
            self._seq, self._published_ns, self._consumer_seq = held.seq, held.published_ns, held.consumer_seq
            self._unacked.append((held.seq, held.reply))
            taken.append(Delivery(message, held.subject, held.seq, held.published_ns))
        return taken

    async def ack(self, seq: int) -> None:
        """Say that everything up to `seq` has had its effect."""
        reply = None
        while self._unacked and self._unacked[0][0] <= seq:
            _, reply = self._unacked.popleft()
        # One that is lost costs nothing: places come from snapshots.
        if reply is not None and self._bus.client.is_connected and self._epoch == self._bus.epoch:
            with contextlib.suppress(nats.errors.Error, OSError):
                await self._bus.client.publish(reply, b"+ACK")

    async def lag(self) -> int:
        """Count the messages that are in the stream and not yet pulled."""
        info = await self._bus.call(f"CONSUMER.INFO.{self._stream}.{self._name}", {})
        return int(info["num_pending"]) + int(info["delivered"]["consumer_seq"]) - self._consumer_seq

    async def _unsubscribe(self) -> None:
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error, OSError):
                await self._subscription.unsubscribe()
            self._subscription = None

    async def close(self) -> None:
        """Stop reading."""
        self._bad = self._bad or BusError(f"reader {self._name} of {self._stream} was closed by this process")
        self._inbox = ""
        await self._unsubscribe()
