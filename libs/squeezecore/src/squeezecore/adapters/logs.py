"""How services log: one line an event, for people or as JSON, always with the service's name, never with a secret."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from squeezecore.adapters.settings import redacted

SECRET = re.compile(r"token|password|secret|authorization|api_?key", re.IGNORECASE)
QUIET = {  # what they say at these levels we say in our own words, or nobody needs
    "asyncio": logging.WARNING,
    "httpx": logging.WARNING,
    "nats": logging.CRITICAL,
    "urllib3": logging.ERROR,
    "uvicorn": logging.WARNING,
}


def configure(service: str, *, as_json: bool, level: str) -> Any:
    """Send everything that is logged in this process to stderr; return the service's logger."""
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        stamp,
        structlog.processors.format_exc_info,
        _without_secrets,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # tests configure anew
    )
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=40
        )
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_named(service), *shared],  # what libraries log
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in QUIET.items():
        logging.getLogger(name).setLevel(least)
    return structlog.get_logger("squeezeflow").bind(service=service)


def _named(service: str) -> Any:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    return add


def _without_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Hide values whose name tells of a secret, and credentials in addresses."""
    for name, value in event.items():
        if SECRET.search(name) and not name.endswith("_file"):
            event[name] = "***"
        elif isinstance(value, str):
            event[name] = redacted(value)
    return event
