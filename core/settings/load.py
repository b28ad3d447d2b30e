"""Where settings come from: a file, then the environment, which wins."""

from __future__ import annotations

import functools
import json
import os
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource
from pydantic_settings import SettingsError as PydanticSettingsError

from core.settings.tables import (
    AdminTable,
    BackendTable,
    DeploymentTable,
    LimitsTable,
    PluginsTable,
    RouteTable,
    RoutingTable,
    SupervisorTable,
    WeightsTable,
    alias_targets,
)
from core.words import closest, describe, type_at

__all__ = ["CONFIG_ENVIRONMENT", "Settings", "SettingsError", "load_settings", "settings_reader"]

CONFIG_ENVIRONMENT = "GATEWAY_CONFIG"
_DEFAULT_CONFIG = "gateway.toml"
_PREFIX = "GATEWAY_"


class SettingsError(ValueError):
    """The configuration is wrong; the message names file, key and remedy, one mistake a line."""


class Settings(BaseSettings):
    """All settings. Build it with `load_settings`."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        toml_file=None,
        hide_input_in_errors=True,  # it may be a secret, and a traceback has it too
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="least important lines to log; DEBUG adds one per request"
    )
    plugins: PluginsTable = PluginsTable()
    routing: RoutingTable = RoutingTable()
    limits: LimitsTable = LimitsTable()
    supervisor: SupervisorTable = SupervisorTable()
    admin: AdminTable = AdminTable()
    weights: WeightsTable = WeightsTable()
    deployments: dict[str, DeploymentTable] = Field(default_factory=dict)
    backends: dict[str, BackendTable] = Field(default_factory=dict)
    routes: dict[str, RouteTable] = Field(default_factory=dict)
    policies: dict[str, dict[str, Any]] = Field(default_factory=dict)
    launchers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    aliases: dict[str, Annotated[tuple[str, ...], BeforeValidator(alias_targets)]] = Field(
        default_factory=dict, description="alias -> model, alias, or several in order; replaces a declared alias"
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
        """The environment wins over the file; no dotenv, no secrets folder."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(path: str | Path | None = None) -> Settings:
    """Read the settings.

    ``path`` is a TOML file that must exist; None means the file named by ``GATEWAY_CONFIG``, else
    ``gateway.toml`` in the working directory if there is one, else defaults.

    Raises:
        SettingsError: a file is missing or broken, or a key or value is wrong; the message says which.
    """
    named = path or os.environ.get(CONFIG_ENVIRONMENT)
    file = Path(named or _DEFAULT_CONFIG)
    if named and not file.is_file():
        msg = f"The configuration file {file} does not exist."
        raise SettingsError(msg)
    _refuse_unknown_environment()

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    try:
        return FromFile()
    except ValidationError as error:
        raise SettingsError(describe(error, model=Settings, where=_Origin(file))) from error
    except tomllib.TOMLDecodeError as error:
        msg = f"{file} is not valid TOML: {error}"
        raise SettingsError(msg) from error
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{file} cannot be read: {error}"
        raise SettingsError(msg) from error
    except PydanticSettingsError as error:
        msg = "\n".join(_not_json()) or f"An environment variable {_PREFIX}* cannot be read: {error}"
        raise SettingsError(msg) from error


def settings_reader() -> Callable[[], Settings]:
    """Return what reads the settings again.

    A file that is there now must be there then: its absence would mean defaults, without its models and its key.
    """
    named = os.environ.get(CONFIG_ENVIRONMENT) or (_DEFAULT_CONFIG if Path(_DEFAULT_CONFIG).is_file() else None)
    return functools.partial(load_settings, named)


class _Origin:
    """Finds what to blame for a value: the environment's variable if one sets it, else the file."""

    def __init__(self, file: Path) -> None:
        self._file = str(file) if file.is_file() else "settings"

    def __call__(self, path: Sequence[str | int]) -> str:
        parts = [str(part).lower() for part in path]
        inside = []
        for variable, value in _environment():
            names = _parts(variable)
            if names == parts[: len(names)] and (len(names) == len(parts) or _holds(value, path[len(names) :])):
                return variable
            if names[: len(parts)] == parts:
                inside.append(variable)
        return " and ".join([self._file, *inside])


def _environment() -> list[tuple[str, str]]:
    """The gateway's own variables, the most specific first: it wins."""
    ours = [
        (name, value) for name, value in os.environ.items() if name.startswith(_PREFIX) and name != CONFIG_ENVIRONMENT
    ]
    return sorted(ours, key=lambda one: (-len(_parts(one[0])), one[0]))


def _parts(variable: str) -> list[str]:
    return variable.removeprefix(_PREFIX).lower().split("__")


def _holds(text: str, path: Sequence[str | int]) -> bool:
    """Whether a variable's JSON has a value at ``path``."""
    try:
        value = json.loads(text)
        for part in path:
            value = value[part]
    except (ValueError, LookupError, TypeError):
        return False
    return True


def _not_json() -> Iterator[str]:
    """One line per variable that is no JSON although its key is a list or a table."""
    for variable, text in _environment():
        kind = type_at(Settings, _parts(variable))
        try:
            json.loads(text)
        except ValueError:
            if (example := _example(kind, text)) is not None:
                yield f"{variable} must be JSON, for example '{json.dumps(example)}'"


def _example(kind: Any, text: str) -> object:
    """What was probably meant; None for a type that is written as it is."""
    if get_origin(kind) is tuple:
        return [word.strip() for word in text.split(",")]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {"key": "value"}  # not what was written: it may be a secret
    if get_origin(kind) is dict:
        key, _, value = text.partition("=")
        named = kind == Settings.model_fields["aliases"].annotation
        return {key: value} if value and named else {"key": "value"}
    return None


def _refuse_unknown_environment() -> None:
    known = {name.upper() for name in Settings.model_fields}
    for variable, _ in _environment():
        table = variable.removeprefix(_PREFIX).split("__", 1)[0]
        if table not in known:
            close = closest(table, known)
            hint = f"did you mean {_PREFIX}{close}?" if close else f"tables are {', '.join(sorted(known))}."
            msg = f"The environment variable {variable} names no setting; {hint}"
            raise SettingsError(msg)
