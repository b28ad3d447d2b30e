"""The tables of the configuration: every key, its default and its unit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from core.api.requests import Task
from core.api.specs import LoadMode
from core.words import type_at

__all__ = [
    "LARGEST_NUMBER",
    "MOST_REPLICAS",
    "AdminTable",
    "BackendTable",
    "DeploymentTable",
    "LimitsTable",
    "PluginsTable",
    "RouteTable",
    "RoutingTable",
    "SupervisorTable",
    "WeightsTable",
    "alias_targets",
]


class _Table(BaseModel):
    # Settings travel between processes as JSON and msgpack, which carry neither infinity nor larger whole numbers.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plain_numbers(cls, value: object, info: ValidationInfo) -> object:
        """Python takes true for 1, and its whole numbers have no end."""
        if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            msg = f"Input should be at most {LARGEST_NUMBER}"
            raise ValueError(msg)
        if isinstance(value, bool) and type_at(cls, [info.field_name or ""]) in {int, float}:
            msg = "Input should be a number, not true or false"
            raise ValueError(msg)
        return value


LARGEST_NUMBER = 2**53
# Who writes more than this means something else, and each change of an alias is paid for in every process.
_MOST_TARGETS = 64
# A mistyped number must not fill the machine with processes.
MOST_REPLICAS = 256


def alias_targets(value: object) -> tuple[str, ...]:
    """Take a name for a list of one."""
    targets = value if isinstance(value, list | tuple) else (value,)
    if not all(isinstance(target, str) for target in targets):
        msg = "an alias stands for a name or a list of names"
        raise ValueError(msg)
    if len(targets) > _MOST_TARGETS:
        msg = f"an alias stands for at most {_MOST_TARGETS} names, not {len(targets)}"
        raise ValueError(msg)
    return tuple(targets)


class PluginsTable(_Table):
    """Which entry points may be imported, by entry-point name; decided before import."""

    allow: tuple[str, ...] = Field(("*",), description="entry-point names to load; * is all")
    deny: tuple[str, ...] = Field((), description="entry-point names never to load; wins over allow; * is all")


class RoutingTable(_Table):
    """How a deployment is chosen, and what happens when one fails."""

    policy: str = Field("least_loaded", description="ranks the candidates of a tier")
    policy_timeout_s: PositiveFloat = Field(
        0.25, description="a policy that takes longer is stopped; least_loaded ranks that request instead"
    )
    reply_model: Literal["requested", "served"] = Field(
        "requested", description="the reply's model field: the name that was requested, or the model that served"
    )
    attempt_timeout_s: PositiveFloat | None = Field(
        None, description="time to the first event on one candidate, then the next is tried; unset: no such limit"
    )
    continuation: Literal["off", "same_backend", "any_backend"] = Field(
        "same_backend", description="where a stream goes on whose replica died: other replicas of the same weights"
    )
    retry_share: NonNegativeFloat = Field(0.2, description="retries that each request earns for the retry budget")
    retry_burst: NonNegativeFloat = Field(
        128.0, description="most retries that the budget of an HTTP worker holds; it begins full"
    )
    retry_backoff_s: PositiveFloat = Field(
        0.05,
        description="longest wait before the second retry of a request; doubles, with jitter; the first is at once",
    )
    retry_backoff_max_s: PositiveFloat = Field(1.0, description="longest wait before any retry")
    breaker_failures: PositiveInt = Field(
        5, description="failures of a replica within breaker_window_s that open its circuit breaker"
    )
    breaker_window_s: PositiveFloat = Field(30.0, description="time after which a failure is forgotten")
    breaker_open_s: PositiveFloat = Field(
        5.0, description="an open breaker lets one request probe after this time; doubles with each failed probe"
    )
    breaker_open_max_s: PositiveFloat = Field(60.0, description="longest time between two probes")


class RouteTable(_Table):
    """``[routes."name"]``: how requests for one name (an alias, a model or a deployment) are routed.

    None means: as ``[routing]`` says.
    """

    models: Annotated[tuple[str, ...], BeforeValidator(alias_targets)] | None = Field(
        None, description="what the name stands for, as an entry of [aliases]; unset: as declared"
    )
    policy: str | None = Field(None, description="ranks the candidates of a tier; unset: routing.policy")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="settings of the policy for this route alone, over [policies.<name>]"
    )
    attempt_timeout_s: PositiveFloat | None = Field(None, description="as in [routing], for this route")
    continuation: Literal["off", "same_backend", "any_backend"] | None = Field(
        None, description="as in [routing], for this route"
    )
    hedge_after_ms: PositiveFloat | None = Field(
        None, description="without a first token by then, a second candidate is asked too; unset: never"
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
    memory_limit_bytes: PositiveInt | None = Field(
        None, description="resident memory that all replicas together may take; unset: what the machine has"
    )
    device_memory_limit_bytes: PositiveInt | None = Field(
        None, description="device memory that all replicas together may take; unset: not limited by the gateway"
    )
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


class AdminTable(_Table):
    """Managing the gateway while it runs."""

    key: str | None = Field(
        None, min_length=16, repr=False, description="what /admin/v1 asks for as bearer token; unset: loopback only"
    )
    database: Path = Field(
        Path("gateway.sqlite3"), description="where changes at run time are kept; relative to the working directory"
    )
    events_kept: PositiveInt = Field(1000, description="events that a listener who reconnects can catch up on")


class DeploymentTable(_Table):
    """``[deployments."model@backend"]``: changes what a plugin declares, or declares a model of your own.

    None means: as declared, or the default of `core.api.specs.ModelSpec`.
    """

    source: str | None = Field(
        None, description="where the weights come from; needed when no plugin declares the model"
    )
    tasks: tuple[Task, ...] | None = Field(None, description="what the model can do")
    context_tokens: PositiveInt | None = Field(None, description="context size to serve it with")
    memory_bytes: NonNegativeInt | None = Field(
        None, description="what a replica may need, before one was measured; 0: guessed by its weights"
    )
    aliases: tuple[str, ...] | None = Field(
        None, description="names it offers to answer to; replaces the declared ones"
    )
    enabled: bool | None = Field(None, description="whether it takes requests")
    priority: int | None = Field(None, description="tier; higher is preferred")
    weight: PositiveFloat | None = Field(None, description="share among equals of a tier")
    replicas: PositiveInt = Field(1, le=MOST_REPLICAS, description="processes that serve it")
    load: LoadMode | None = Field(None, description="startup, or on_demand at the first request")
    idle_unload_s: PositiveFloat | None = Field(
        None, description="unload after this time without requests; unset: never. It is loaded again on demand"
    )
    pinned: bool = Field(default=False, description="never unloaded to make room for another deployment")
    max_waiting: NonNegativeInt | None = Field(None, description="as in [limits], for each replica of this deployment")
    max_waiting_prompt_tokens: PositiveInt | None = Field(
        None, description="as in [limits], for each replica of this deployment"
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="backend settings for this deployment alone")


class BackendTable(BaseModel):
    """``[backends.<name>]``: keys of the core; all others belong to the plugin's own model."""

    model_config = ConfigDict(extra="allow", frozen=True)

    enabled: bool = Field(default=True, description="false: no deployment of this backend takes requests")
    python: str | None = Field(None, description="interpreter that runs the replicas; unset: the gateway's own")

    @property
    def plugin_settings(self) -> dict[str, Any]:
        """The keys that the plugin's model validates."""
        return dict(self.model_extra or {})
