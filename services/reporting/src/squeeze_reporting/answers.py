"""JSON in and out: bodies read as the core's own values, answers written from them, times as people and machines write them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import pyarrow as pa
from fastapi import HTTPException, Request, Response

from squeezecore.adapters.operations import refusal
from squeezecore.errors import UsageError

T = TypeVar("T")

ARROW = "application/vnd.apache.arrow.stream"
YEARS = (1970, 2105)  # whose seconds the store can hold


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Write a value as JSON."""
    return Response(msgspec.json.encode(value), status, dict(headers or {}), media_type="application/json")


def table(request: Request, values: pa.Table, head: Mapping[str, Any], name: str) -> Response:
    """Write a table: Arrow where it is asked for, else JSON with `head` beside the entries."""
    if ARROW in request.headers.get("accept", ""):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, values.schema) as writer:
            writer.write_table(values)
        return Response(sink.getvalue().to_pybytes(), media_type=ARROW)
    return answer({**head, name: values.to_pylist()})


async def body(request: Request, kind: type[T]) -> T:
    """Read a request's JSON as a value of the core; wrong input is a sentence with the field."""
    raw = await request.body()
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        given = msgspec.json.decode(raw)
        raise UsageError(refusal(error, given) if isinstance(given, dict) else f"body was refused: {error}") from error
    except msgspec.DecodeError as error:
        raise HTTPException(400, f"body was no JSON: {error}") from error


def second(text: str | None, name: str, default: int) -> int:
    """Read a time as UTC seconds: `2026-01-31`, `2026-01-31T12:00:00Z`, or the seconds themselves."""
    if text is None or text == "":
        return default
    if text.isdigit():
        found = int(text)
    else:
        try:
            time = dt.datetime.fromisoformat(text)
        except ValueError:
            raise UsageError(f"{name} was {text!r}, which is no UTC time: write 2026-01-31T12:00:00Z") from None
        found = int((time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp())
    if not YEARS[0] <= dt.datetime.fromtimestamp(min(found, 2**40), dt.UTC).year <= YEARS[1]:
        raise UsageError(f"{name} was {text!r}, the limits are the years {YEARS[0]} and {YEARS[1]}")
    return found


def page(entries: Sequence[Any], limit: int) -> tuple[list[Any], bool]:
    """Cut entries to a page; say whether there are more."""
    return list(entries[:limit]), len(entries) > limit
