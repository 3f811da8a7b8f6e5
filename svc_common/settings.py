"""Settings: one frozen object per service, read once at start.

Precedence, highest first: arguments of the command line (passed to `load`), environment, project file (`./dbp.toml` or
`$DBP_CONFIG`), user file (`~/.config/dbp/dbp.toml`), defaults. In the files each settings class has a table of its own; a key
that no setting has is an error. In the environment the names are the class's prefix and the field, e.g. `DBP_JOBS_LISTEN`.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableValue

S = TypeVar("S", bound="Settings")

_QUOTED = re.compile(r'"(\w+)"')


class SettingsError(Exception):
    """A setting that cannot be used. The message is one line that names the key."""


def _has_port(address: str) -> str:
    if int(address.rpartition(":")[2]) > 65_535:
        raise ValueError("a port is 65535 at most")
    return address


ListenAddress = Annotated[
    str,
    Field(pattern=r"^[^:\s]+:\d{1,5}$|^\[[0-9a-fA-F:]+\]:\d{1,5}$", description="host:port; port 0 takes a free one"),
    AfterValidator(_has_port),
]


class _TomlSource(PydanticBaseSettingsSource):
    def __init__(self, settings_cls: type[BaseSettings], table: str, path: Path) -> None:
        super().__init__(settings_cls)
        self._values: dict[str, Any] = {}
        try:
            content = tomllib.loads(path.read_text())
        except FileNotFoundError:
            return
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise SettingsError(f"{path}: {error}") from error
        values = content.get(table, {})
        if not isinstance(values, dict):
            raise SettingsError(f"{path}: {table} must be a table: [{table}]")
        if unknown := sorted(set(values) - set(settings_cls.model_fields)):
            raise SettingsError(f"{path}: [{table}] has no setting {unknown[0]!r}")
        self._values = values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._values


class Settings(BaseSettings):
    """Base of all settings classes. A subclass names its table in the files and its prefix in the environment."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_ignore_empty=True)
    table: ClassVar[str]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        project = Path(os.environ.get("DBP_CONFIG") or "dbp.toml")
        if os.environ.get("DBP_CONFIG") and not project.is_file():
            raise SettingsError(f"DBP_CONFIG: there is no file {project}")
        user = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "dbp" / "dbp.toml"
        files = [_TomlSource(settings_cls, cls.table, path) for path in (project, user)]
        return (init_settings, env_settings, *files)


class CommonSettings(Settings):
    """What all services and the client share."""

    model_config = SettingsConfigDict(env_prefix="DBP_")
    table = "common"

    jobs_address: str = Field("127.0.0.1:8811", description="host:port or dns:/// target of jobs_svc")
    budget_address: str = Field("127.0.0.1:8812", description="host:port or dns:/// target of budget_svc")
    tool_address: str = Field("127.0.0.1:8813", description="host:port or dns:/// target of tool_svc")
    coordinator_address: str = Field("127.0.0.1:8810", description="host:port or dns:/// target of coordinator_svc")
    auth_token: str = Field("", repr=False, description="token that every call must carry; empty: none is asked for")
    tls_cert_file: Path | None = Field(
        None, description="PEM certificate chain of this service; with tls_key_file turns TLS on"
    )
    tls_key_file: Path | None = Field(None, description="PEM private key of this service")
    tls_ca_file: Path | None = Field(None, description="PEM certificates by which clients check the services")
    traces: str = Field(
        "none",
        pattern="^(none|console|otlp)$",
        description="where spans go: none, console or otlp, which reads OTEL_EXPORTER_OTLP_*",
    )
    log_level: str = Field(
        "INFO",
        pattern="^(DEBUG|INFO|WARNING|ERROR)$",
        description="least messages logged: DEBUG, INFO, WARNING or ERROR",
    )

    @model_validator(mode="after")
    def _has_whole_pair(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file go together: one alone would leave TLS off")
        return self


class ServiceSettings(Settings):
    """What each service has of its own; a service subclasses it with its table, prefix and default port."""

    common: CommonSettings = Field(default_factory=lambda: CommonSettings())
    listen: ListenAddress = "127.0.0.1:0"
    max_concurrent_rpcs: int = Field(4096, gt=0, description="calls beyond it are answered RESOURCE_EXHAUSTED at once")
    drain_seconds: float = Field(5.0, ge=0, le=600, description="how long a stopping service lets running calls go on")
    max_call_seconds: float = Field(
        330.0, gt=0, description="deadline of calls that bring none; streams that watch are exempt"
    )


def load(settings_class: type[S], **arguments: Any) -> S:
    """Reads the settings. Raises SettingsError with one line that names the key and where it may be set."""
    try:
        return settings_class(**arguments)
    except UnreadableValue as error:
        # Its message is the only place that names the field.
        where = _QUOTED.findall(str(error))[:1]
        raise _unusable(settings_class, where, f"is not JSON: {error.__cause__}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = [str(part) for part in first["loc"]]
        owner = CommonSettings if error.title == CommonSettings.__name__ else settings_class
        raise _unusable(owner, where, first["msg"]) from error


def _unusable(owner: type[Settings], where: list[str], why: str) -> SettingsError:
    variable = f"{owner.model_config.get('env_prefix', '')}{'_'.join(where)}".upper()
    key = f"{variable} ([{owner.table}] {'.'.join(where)})" if where else f"[{owner.table}]"
    return SettingsError(f"{key}: {why.removeprefix('Value error, ')}")
