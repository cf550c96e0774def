"""The connection to ClickHouse: repeats what may be repeated, explains what may not.

Every request made through it must be idempotent, because it may reach the server twice: after a cut connection nobody
knows whether the first one did. The tables are made for that (see `store`).
"""

from __future__ import annotations

import http.client
import logging
import os
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import clickhouse_connect
import pyarrow as pa
import urllib3
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, ProgrammingError

from squeezecore.errors import SqueezeError, UsageError

T = TypeVar("T")

logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)  # what it would log it raises too, and we explain it

RETRY_S_MAX = 30.0  # a server that is restarted, or an embedded one that was killed, is back long before
CONNECT_S_MAX = 5.0  # but the first connection fails sooner: its address is probably wrong
RETRY_PAUSE_S_MAX = 1.0
QUERY_S_MAX = 600
ANSWER_BYTES_MAX = 67_108_864  # up to here an answer comes in one piece: a day in half the time, errors before any byte

# ClickHouse error codes after which the same request may succeed.
RETRY_CODES = {
    159,  # timeout exceeded
    202,  # too many simultaneous queries
    209,  # socket timeout
    210,  # network error
    241,  # memory limit: of the whole server, so somebody else's query may have been the large one
    242,  # table is read only: a replica that has lost its keeper
    252,  # too many parts: merges lag behind
    319,  # unknown status of insert
    425,  # system error
    999,  # keeper
}
DISK_FULL_CODE = 243


class StoreError(SqueezeError):
    """ClickHouse refused or could not be reached; the message carries its reason."""


class Connection:
    """One database of one server. Safe for threads; a forked process connects anew."""

    def __init__(self, locate: Callable[[], str], database: str) -> None:
        self.database = database
        self.locate = locate  # gives the server's URL, starting the server if it must; asked at each new connection
        self._lock = threading.Lock()
        self._client: tuple[int, Client] | None = None
        self._closed = False

    def close(self) -> bool:
        """Let the server go for good; False when that was done before."""
        if self._closed:
            return False
        self._closed = True
        self._disconnect()
        return True

    def create_database(self) -> None:
        """Make the database if it is absent; the first thing done, so a wrong address fails soon."""
        sql = f"CREATE DATABASE IF NOT EXISTS `{self.database}`"
        self._attempt(lambda client: client.command(sql, use_database=False), CONNECT_S_MAX)

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> pa.Table:
        """Run a SELECT, values bound as `{name:Type}`."""
        result: pa.Table = self._attempt(lambda client: client.query_arrow(sql, parameters=dict(params or {})))
        return result

    def command(self, sql: str, params: Mapping[str, Any] | None = None) -> None:
        """Run a statement."""
        self._attempt(lambda client: client.command(sql, parameters=dict(params or {})))

    def insert(self, name: str, table: pa.Table) -> None:
        """Send one block until one send succeeds."""
        self._attempt(lambda client: client.insert_arrow(name, table))

    def _attempt(self, action: Callable[[Client], T], seconds_max: float = RETRY_S_MAX) -> T:
        """Do `action` until it succeeds, reconnecting in between; give up on an error that would come again."""
        if self._closed:
            raise StoreError(f"store {self.database} was closed: open it again")
        deadline = time.monotonic() + seconds_max
        pause = 0.02
        while True:
            try:
                return action(self._connected())
            except (
                ClickHouseError,
                urllib3.exceptions.HTTPError,
                http.client.HTTPException,
                OSError,
                pa.ArrowInvalid,
            ) as error:
                if not _may_pass(error) or time.monotonic() > deadline:
                    raise _explained(error, self.database) from error
                self._disconnect()
            time.sleep(pause)
            pause = min(2 * pause, RETRY_PAUSE_S_MAX)

    def _connected(self) -> Client:
        """Return this process's connection."""
        with self._lock:
            if self._client is None or self._client[0] != os.getpid():
                client = open_client(self.locate())
                client.database = self.database
                self._client = (os.getpid(), client)
            return self._client[1]

    def _disconnect(self) -> None:
        """Drop the connection, so that the next use makes a new one."""
        with self._lock:
            if self._client is not None and self._client[0] == os.getpid():
                self._client[1].close_connections()
                self._client[1].close()
            self._client = None


def open_client(url: str) -> Client:
    """Connect to a server, with the settings every reader and writer needs."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"server was {url!r}, it must look like http://user:password@host:8123")
    near = parts.hostname in {"127.0.0.1", "::1", "localhost"}
    return clickhouse_connect.get_client(
        interface=parts.scheme,
        host=parts.hostname,
        port=parts.port or (8443 if parts.scheme == "https" else 8123),
        username=urllib.parse.unquote(parts.username or "default"),
        password=urllib.parse.unquote(parts.password or ""),
        compress=False if near else "lz4",
        connect_timeout=5,
        send_receive_timeout=QUERY_S_MAX,
        query_limit=0,
        # A pool of its own, closed with the client: a connection left open delays a server's stop by seconds. The near
        # one is made here, because the driver would send even loopback through a proxy named in the environment.
        pool_mgr=urllib3.PoolManager(num_pools=1, maxsize=8) if near else None,
        dedicated_pool=not near,
        autogenerate_session_id=False,  # a session would refuse two threads at once
        settings={
            "async_insert": 0,  # 26.x defaults to 1, with de-duplication rules of its own
            "do_not_merge_across_partitions_select_final": 1,  # every key contains its time, so none crosses a partition
            "http_response_buffer_size": ANSWER_BYTES_MAX,
            "output_format_arrow_compression_method": "none" if near else "lz4_frame",
        },
    )


def _may_pass(error: Exception) -> bool:
    """Say whether the same request may succeed later."""
    if isinstance(error, ClickHouseError):
        code = getattr(error, "code", None)
        return code in RETRY_CODES if code is not None else not isinstance(error, ProgrammingError)
    return True


def _explained(error: Exception, database: str) -> StoreError:
    """Put an error of the driver into words."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if getattr(error, "code", None) == DISK_FULL_CODE or "No space left" in str(error):
        return StoreError(
            f"disk of the store was full, nothing of this block was written: free some space and repeat ({text})"
        )
    if "Max retries exceeded" in text or "Failed to establish" in text:
        why = re.findall(r"\[Errno -?\d+\] [^\"')]+|timed out", text)
        at = re.search(r"host='([^']*)', port=(\d+)", text)
        where = f"{at[1]}:{at[2]}" if at else f"of store {database}"
        return StoreError(
            f"server {where} cannot be reached ({why[-1] if why else text}): start it, or mend its address"
        )
    return StoreError(f"store {database} answered: {text}")
