"""What every service's HTTP side has in common: refusals as problem+json, tokens, limits, pages.

A refusal is RFC 9457's object: `status`, `title`, `detail` (a sentence), `instance`, and for wrong input `errors`, each with
the field and the reason. Writing needs a bearer token; where none is configured, writing is closed.
"""

from __future__ import annotations

import hmac
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from squeezecore.adapters.settings import ServiceSettings, redacted, variable
from squeezecore.errors import DataHoleError, SpecError, SqueezeError, UsageError

PAGE_MAX = 10_000  # entries of one answer
PAGE = 500
CLIENTS_MAX = 10_000  # whose rate is remembered
TOKEN_CHARS_MIN = 16  # a shorter token can be guessed
FREE_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})  # asked by machines that must never be turned away
ROLES = {"writer": "token_file", "executor": "executor_token_file"}

PageSize = Annotated[int, Query(ge=1, le=PAGE_MAX, description=f"How many entries at most, up to {PAGE_MAX}.")]

PROBLEM: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "reason"],
                "properties": {"field": {"type": "string"}, "reason": {"type": "string"}},
            },
        },
    },
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    code: {"description": text, "content": {"application/problem+json": {"schema": PROBLEM}}}
    for code, text in (
        (422, "The request was refused: which field, and why."),
        ("default", "A problem, in a sentence."),
    )
}


def problem(
    status: int,
    detail: str,
    path: str,
    *,
    errors: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Make the answer that says what is wrong."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": redacted(detail),
        "instance": path,
    }
    if errors:
        body["errors"] = list(errors)
    return JSONResponse(body, status, dict(headers or {}), media_type="application/problem+json")


def install_problems(app: FastAPI) -> None:
    """Answer every refusal as a problem."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)
        detail = error.detail if isinstance(error.detail, str) else str(error.detail)
        if error.status_code == HTTPStatus.NOT_FOUND and detail == HTTPStatus.NOT_FOUND.phrase:
            reason = request.app.state.runtime.unready()
            if reason:  # the paths of a service are known only when it runs
                return problem(503, f"not ready: {reason}", request.url.path, headers={"Retry-After": "1"})
            detail = f"path was {request.url.path}, there is nothing: see /docs"
        elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("Allow", "another")
            detail = f"method was {request.method}, {request.url.path} takes {allowed}"
        return problem(error.status_code, detail, request.url.path, headers=error.headers)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        errors = [{"field": _field(each["loc"]), "reason": _reason(each)} for each in error.errors()]
        detail = "; ".join(f"{each['field']}: {each['reason']}" for each in errors)
        return problem(422, detail, request.url.path, errors=errors)

    async def explained(request: Request, error: Exception) -> Response:
        if isinstance(error, UsageError | SpecError):
            return problem(422, str(error), request.url.path)
        if isinstance(error, DataHoleError):
            return problem(404, str(error), request.url.path)
        return problem(503, str(error), request.url.path)

    app.add_exception_handler(StarletteHTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(SqueezeError, explained)


def _field(place: Sequence[int | str]) -> str:
    """Name a field as its user wrote it: `query.limit`, `body.legs.0.price`."""
    return ".".join(map(str, place))


def _reason(detail: Mapping[str, Any]) -> str:
    what = str(detail["msg"])
    what = what[0].lower() + what[1:]
    given = detail.get("input")
    short = isinstance(given, str | int | float | bool) and len(str(given)) <= 100
    return f"was {given!r}, {what}" if short else what


# --- tokens ---


def writer(role: str = "writer") -> Any:
    """Return the dependency that lets only holders of a role's token in: `dependencies=[writer("executor")]`.

    Answers 503 while no token is configured, 401 without a known one, 403 to a token of another role.
    """
    bearer = HTTPBearer(auto_error=False, scheme_name=role, description=f"A token of {variable(ROLES[role])}.")

    def check(
        request: Request,
        given: HTTPAuthorizationCredentials | None = Depends(bearer),  # noqa: B008 - `bearer` is a local name
    ) -> None:  # in a thread: it reads files
        settings: ServiceSettings = request.app.state.runtime.settings
        valid = _tokens(settings, role)
        token = "" if given is None else given.credentials
        if _matches(token, valid):
            return
        for other in ROLES.keys() - {role}:
            if getattr(settings, ROLES[other]) is not None and _matches(token, _tokens(settings, other)):
                raise HTTPException(403, f"token was of the role {other}, {request.url.path} needs {role}")
        was = "not given" if not token else "not known"
        raise HTTPException(
            401,
            f"token was {was}: send Authorization: Bearer with a token of the file that {variable(ROLES[role])} names",
            {"WWW-Authenticate": "Bearer"},
        )

    return Depends(check)


def _tokens(settings: ServiceSettings, role: str) -> list[str]:
    """Read a role's tokens anew: a mounted secret may have changed."""
    name = variable(ROLES[role])
    path: Path | None = getattr(settings, ROLES[role])
    if path is None:
        raise HTTPException(503, f"writing is closed: no token is configured, set {name} to a file with one")
    try:
        found = path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise HTTPException(503, f"writing is closed: the file that {name} names cannot be read ({error})") from error
    if not found or min(map(len, found)) < TOKEN_CHARS_MIN:
        raise HTTPException(
            503,
            f"writing is closed: a token in the file that {name} names must have {TOKEN_CHARS_MIN} characters or more",
        )
    return found


def _matches(token: str, valid: Sequence[str]) -> bool:
    """Say whether a token is one of the valid ones."""
    given = token.encode()
    return any([hmac.compare_digest(given, each.encode()) for each in valid])  # noqa: C419 - all of them, so that the time tells nothing


# --- limits ---


class Rates:
    """A token bucket a client: `burst` at once, `per_s` on average."""

    def __init__(self, per_s: float, burst: int) -> None:
        self.per_s = per_s
        self.burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client → (left, when)

    def take(self, client: str, now_s: float) -> float:
        """Take one request; return 0, or after how many seconds there is one again.

        >>> rates = Rates(per_s=2.0, burst=1)
        >>> rates.take("a", 0.0), rates.take("a", 0.0), rates.take("b", 0.0), rates.take("a", 0.5)
        (0.0, 0.5, 0.0, 0.0)
        """
        left, when = self._buckets.pop(client, (float(self.burst), now_s))
        left = min(float(self.burst), left + max(0.0, now_s - when) * self.per_s)
        wait_s = 0.0 if left >= 1 else (1 - left) / self.per_s
        self._buckets[client] = (left if wait_s else left - 1, now_s)
        if len(self._buckets) > CLIENTS_MAX:
            self._buckets.popitem(last=False)  # whoever was longest away has a full bucket again
        return wait_s


class Gate:
    """The outermost layer: turns away who asks too often or sends too much, answers for our faults, counts requests."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ServiceSettings,
        now_s: Callable[[], float],
        answered: Callable[[str, str, int], None],
        limited: Callable[[], None],
        log: Any,
    ) -> None:
        self.app = app
        self.log = log
        self.settings = settings
        self.headers = [(name.lower().encode(), value.encode()) for name, value in settings.HEADERS]
        self.rates = Rates(settings.requests_per_s, settings.requests_burst)
        self.now_s = now_s
        self.answered = answered
        self.limited = limited

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 0  # not yet answered

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": self._with_headers(message.get("headers", ()))}
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is None:
                await self.app(scope, self._bounded(receive), noted)
            else:
                await refusal(scope, receive, noted)
        except Exception as error:
            path = scope["path"]
            self.log.exception("request failed", method=scope["method"], path=path)
            if status:  # half an answer is out: cut the connection, so that nobody takes it for a whole one
                raise
            fault = problem(500, f"this is our fault ({type(error).__name__}): the log has the trace", path)
            await fault(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "none")  # the pattern: paths have no end
            self.answered(scope["method"], route, status)

    def _with_headers(self, given: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Add the service's headers to an answer's own, which win."""
        own = list(given)
        names = {name.lower() for name, _ in own}
        return own + [header for header in self.headers if header[0] not in names]

    def _refusal(self, scope: Scope) -> Response | None:
        path = scope["path"]
        if path not in FREE_PATHS:
            client = scope["client"][0] if scope.get("client") else ""
            wait_s = self.rates.take(client, self.now_s())
            if wait_s:
                self.limited()
                return problem(
                    429,
                    f"requests were more than {self.rates.per_s:g} a second, {self.rates.burst} at once: "
                    f"wait {wait_s:.1f} s, or raise {variable('requests_per_s')}",
                    path,
                    headers={"Retry-After": str(math.ceil(wait_s))},
                )
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.settings.body_bytes_max:
            return problem(413, self._too_long(int(length)), path, headers={"Connection": "close"})
        return None

    def _bounded(self, receive: Receive) -> Receive:
        """Count what comes: a body in chunks does not say its length before."""
        got = 0

        async def counted() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > self.settings.body_bytes_max:
                raise HTTPException(413, self._too_long(got), {"Connection": "close"})
            return message

        return counted

    def _too_long(self, length: int) -> str:
        most = self.settings.body_bytes_max
        return f"body was {length} bytes or more, the limit is {most}: send less, or raise {variable('body_bytes_max')}"
