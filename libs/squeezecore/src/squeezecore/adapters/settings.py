"""A service's settings: from the environment, frozen, bounded, and refused with a sentence.

Every variable begins with `SQUEEZE_`. Secrets are files, named by a variable that ends in `_FILE`. A variable that nearly
has a known name is a slip and is refused; one that is far from all names may belong to another service that shares the
environment, so it is only mentioned.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from squeezecore.errors import UsageError

PREFIX = "SQUEEZE_"
SLIP = 0.88  # how alike two names are, of 1, for one to be the other mistyped
CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*@")
NatsUrl = Annotated[str, Field(pattern=r"^(nats|tls)://[^\s]+$")]
HttpUrl = Annotated[str, Field(pattern=r"^https?://[^\s]+$")]

S = TypeVar("S", bound="ServiceSettings")


class ServiceSettings(BaseSettings):
    """What every service can be told; a service adds its own fields in a subclass."""

    HEADERS: ClassVar[tuple[tuple[str, str], ...]] = ()  # on every answer that does not set them itself

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=True)

    nats_url: NatsUrl = Field(default="nats://127.0.0.1:4222", description="Where NATS answers.")
    nats_user: str | None = Field(default=None, description="Whom NATS knows us as.")
    nats_replicas: int = Field(default=1, ge=1, le=5, description="How many NATS servers keep each message.")
    nats_password_file: Path | None = Field(default=None, description="A file with the password of NATS.")
    home: Path | None = Field(default=None, description="The home directory whose embedded ClickHouse is used.")
    clickhouse_url: HttpUrl | None = Field(
        default=None, description="An external ClickHouse, http://user@host:8123; goes before home."
    )
    clickhouse_password_file: Path | None = Field(
        default=None, description="A file with the password of the external ClickHouse."
    )
    database: str = Field(
        default="squeeze", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="The database in ClickHouse."
    )
    host: str = Field(default="127.0.0.1", description="The address to listen on.")
    port: int = Field(default=0, ge=0, le=65_535, description="The port to listen on; 0 takes a free one.")
    run_dir: Path | None = Field(default=None, description="Where <service>.json with port and pid is written.")
    log_json: bool = Field(default=False, description="Log lines as JSON, for machines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least that is logged."
    )
    token_file: Path | None = Field(
        default=None, description="Bearer tokens for writing, one a line; none: writes are closed."
    )
    executor_token_file: Path | None = Field(
        default=None, description="Bearer tokens for the executor's actions, one a line."
    )
    requests_per_s: float = Field(
        default=20.0, gt=0, le=100_000, description="Requests a second and client, on average."
    )
    requests_burst: int = Field(default=100, ge=1, le=1_000_000, description="Requests a client may make at once.")
    body_bytes_max: int = Field(default=1_048_576, ge=1_024, le=1_073_741_824, description="The longest request body.")
    trusted_proxies: str = Field(
        default="", description="Addresses whose X-Forwarded-For is believed, comma-separated."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments, then the environment; no files that lie about."""
        del settings_cls, dotenv_settings, file_secret_settings
        return init_settings, env_settings


def load(kind: type[S], name: str) -> tuple[S, list[str]]:
    """Read a service's settings.

    Returns:
        The settings, and a sentence about each variable that the service does not know.

    Raises:
        UsageError: a value out of its bounds, or a mistyped name; one sentence each.
    """
    notes, slips = _unknown(kind, name)
    if slips:
        raise UsageError("; ".join(slips))
    try:
        return kind(), notes
    except ValidationError as error:
        raise UsageError("; ".join(_sentence(dict(detail)) for detail in error.errors())) from None
    except SettingsError as error:
        raise UsageError(f"a setting was refused: {redacted(str(error))}") from None


def variable(field: str) -> str:
    """Return the environment's name of a setting.

    >>> variable("token_file")
    'SQUEEZE_TOKEN_FILE'
    """
    return PREFIX + field.upper()


def redacted(text: str) -> str:
    """Leave user and password out of every address in a text.

    >>> redacted("nats://squeeze:secret@host:4222 did not answer")
    'nats://***@host:4222 did not answer'
    """
    return CREDENTIALS.sub("***@", text)


def _sentence(detail: dict[str, Any]) -> str:
    what = str(detail["msg"])
    if not detail["loc"]:
        return f"settings were refused: {what}"
    field = variable(".".join(map(str, detail["loc"])))
    if detail["type"] == "missing":
        return f"{field} was not set, it is required"
    return f"{field} was {redacted(repr(detail['input']))}, it was refused: {what[0].lower()}{what[1:]}"


def _unknown(kind: type[ServiceSettings], name: str) -> tuple[list[str], list[str]]:
    """Return sentences about variables of nobody we know, and about slips."""
    known = [variable(field) for field in kind.model_fields]
    notes, slips = [], []
    for found in sorted(key.upper() for key in EnvSettingsSource(kind).env_vars if key.upper().startswith(PREFIX)):
        if found in known:
            continue
        near = difflib.get_close_matches(found, known, 1, SLIP)
        if near:
            slips.append(f"{found} was set, {name} has no such setting: did you mean {near[0]}?")
        else:
            notes.append(f"{found} was set, {name} has no such setting: it is left alone")
    return notes, slips
