"""Settings: ``gateway.toml``, then ``GATEWAY_*`` in the environment (``__`` nests), which wins.

Every key, with its default and unit, stands in ``gateway.example.toml``; a test loads that file and
compares. Unknown keys are errors. The tables ``[backends.*]``, ``[policies.*]`` and ``[launchers.*]``
belong to plugins and are validated by the plugin's own model once plugins are known (`core.registry`).
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource
from pydantic_settings import SettingsError as PydanticSettingsError

from core.api.messages import Task
from core.api.specs import LoadMode
from core.words import closest, describe, type_at

__all__ = [
    "CONFIG_ENVIRONMENT",
    "BackendTable",
    "DeploymentTable",
    "LimitsTable",
    "PluginsTable",
    "RoutingTable",
    "Settings",
    "SettingsError",
    "SupervisorTable",
    "WeightsTable",
    "load_settings",
]

CONFIG_ENVIRONMENT = "GATEWAY_CONFIG"
_DEFAULT_CONFIG = "gateway.toml"
_PREFIX = "GATEWAY_"


class SettingsError(ValueError):
    """The configuration is wrong; the message names file, key and remedy, one mistake a line."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_as_number(cls, value: object, info: ValidationInfo) -> object:
        """Python takes true for 1."""
        if isinstance(value, bool) and type_at(cls, [info.field_name or ""]) in {int, float}:
            msg = "Input should be a number, not true or false"
            raise ValueError(msg)
        return value


class PluginsTable(_Table):
    """Which entry points may be imported, by entry-point name; decided before import."""

    allow: tuple[str, ...] = Field(("*",), description="entry-point names to load; * is all")
    deny: tuple[str, ...] = Field((), description="entry-point names never to load; wins over allow; * is all")


class RoutingTable(_Table):
    """How a deployment is chosen."""

    policy: str = Field("least_loaded", description="ranks the candidates of a tier")
    reply_model: Literal["requested", "served"] = Field(
        "requested", description="the reply's model field: the name that was requested, or the model that served"
    )


class LimitsTable(_Table):
    """What a request may cost."""

    max_body_bytes: PositiveInt = Field(8 * 1024 * 1024, description="largest request body")
    max_json_depth: PositiveInt = Field(64, description="deepest nesting of a request body")
    timeout_s: PositiveFloat = Field(
        600.0, description="a request's whole time; the header x-request-timeout-s may lower it"
    )
    first_token_timeout_s: PositiveFloat = Field(
        300.0, description="time to the first event of a streamed answer, queueing and loading included"
    )
    keepalive_s: PositiveFloat = Field(10.0, description="silence on a stream after which a comment is sent")
    max_waiting: NonNegativeInt = Field(
        128, description="requests that may wait per replica; more are rejected with 429"
    )
    max_waiting_prompt_tokens: PositiveInt = Field(
        262_144, description="estimated prompt tokens that may wait per replica"
    )
    max_frame_bytes: PositiveInt = Field(
        64 * 1024 * 1024, description="largest message between processes of the gateway"
    )


class SupervisorTable(_Table):
    """How replicas are kept alive."""

    launcher: str = Field("local", description="where replicas run")
    backoff_initial_s: PositiveFloat = Field(1.0, description="wait before the first restart; doubles, with jitter")
    backoff_max_s: PositiveFloat = Field(300.0, description="longest wait between restarts")
    crash_loop_failures: PositiveInt = Field(
        5, description="ends in a row, none of them after a healthy time, that make a replica failed"
    )
    healthy_after_s: PositiveFloat = Field(60.0, description="time ready after which earlier failures are forgotten")
    failed_retry_s: PositiveFloat = Field(300.0, description="a failed replica is tried again after this time")
    load_timeout_s: PositiveFloat = Field(900.0, description="a replica that is not ready by then is killed")
    stall_timeout_s: PositiveFloat = Field(
        60.0, description="a busy replica whose step counter stands still, or a silent one, is killed after this time"
    )
    drain_timeout_s: PositiveFloat = Field(
        30.0, description="running requests may go on this long when a replica or the gateway stops"
    )
    kill_after_s: PositiveFloat = Field(
        5.0, description="a process that was asked to end is killed this long after its drain time"
    )
    status_interval_s: PositiveFloat = Field(0.5, description="how often replicas report their load")
    log_dir: Path = Field(
        Path("~/.cache/ai-gateway/logs"), description="one log file per replica, rotated; ~ is the home directory"
    )
    log_max_bytes: PositiveInt = Field(
        10 * 1024 * 1024, description="size at which a replica's log is rotated; one old file is kept"
    )

    @model_validator(mode="after")
    def _backoff_grows(self) -> Self:
        if self.backoff_initial_s > self.backoff_max_s:
            msg = f"backoff_initial_s ({self.backoff_initial_s:g}) is above backoff_max_s ({self.backoff_max_s:g})"
            raise ValueError(msg)
        return self


class WeightsTable(_Table):
    """Where weights are kept."""

    cache_dir: Path = Field(
        Path("~/.cache/ai-gateway"), description="downloaded weights; ~ is the home directory", validate_default=False
    )
    hf_endpoint: str = Field("https://huggingface.co", description="the model hub that hf: sources name")


class DeploymentTable(_Table):
    """``[deployments."model@backend"]``: changes what a plugin declares, or declares a model of your own.

    None means: as declared, or the default of `core.api.specs.ModelSpec`.
    """

    source: str | None = Field(
        None, description="where the weights come from; needed when no plugin declares the model"
    )
    tasks: tuple[Task, ...] | None = Field(None, description="what the model can do")
    context_tokens: PositiveInt | None = Field(None, description="context size to serve it with")
    aliases: tuple[str, ...] | None = Field(
        None, description="names it offers to answer to; replaces the declared ones"
    )
    enabled: bool | None = Field(None, description="whether it takes requests")
    priority: int | None = Field(None, description="tier; higher is preferred")
    weight: PositiveFloat | None = Field(None, description="share among equals of a tier")
    replicas: PositiveInt = Field(1, description="processes that serve it")
    load: LoadMode | None = Field(None, description="startup, or on_demand at the first request")
    idle_unload_s: PositiveFloat | None = Field(
        None, description="unload after this time without requests; unset: never. It is loaded again on demand"
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="backend settings for this deployment alone")


class BackendTable(BaseModel):
    """``[backends.<name>]``: keys of the core; all others belong to the plugin's own model."""

    model_config = ConfigDict(extra="allow", frozen=True)

    python: str | None = Field(None, description="interpreter that runs the replicas; unset: the gateway's own")

    @property
    def plugin_settings(self) -> dict[str, Any]:
        """The keys that the plugin's model validates."""
        return dict(self.model_extra or {})


def _alias_targets(value: object) -> tuple[str, ...]:
    targets = value if isinstance(value, list | tuple) else (value,)
    if not all(isinstance(target, str) for target in targets):
        msg = "an alias stands for a name or a list of names"
        raise ValueError(msg)
    return tuple(targets)


class Settings(BaseSettings):
    """All settings. Build it with `load_settings`."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=_PREFIX, env_nested_delimiter="__", toml_file=None
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="least important lines to log; DEBUG adds one per request"
    )
    plugins: PluginsTable = PluginsTable()
    routing: RoutingTable = RoutingTable()
    limits: LimitsTable = LimitsTable()
    supervisor: SupervisorTable = SupervisorTable()
    weights: WeightsTable = WeightsTable()
    deployments: dict[str, DeploymentTable] = Field(default_factory=dict)
    backends: dict[str, BackendTable] = Field(default_factory=dict)
    policies: dict[str, dict[str, Any]] = Field(default_factory=dict)
    launchers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    aliases: dict[str, Annotated[tuple[str, ...], BeforeValidator(_alias_targets)]] = Field(
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
    except PydanticSettingsError as error:
        msg = "\n".join(_not_json()) or f"An environment variable {_PREFIX}* cannot be read: {error}"
        raise SettingsError(msg) from error


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
    if get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        key, _, value = text.partition("=")
        return {key: value} if value else {"key": "value"}
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
