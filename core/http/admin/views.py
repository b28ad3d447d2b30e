"""What the admin API tells: the shapes of its answers, and how they are made of what this HTTP worker knows.

A key that can be changed at run time appears with its value in effect, in ``configured`` with the value that the
configuration and the plugins give it, and, while it is overridden, in ``overrides``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sanic import HTTPResponse

from core.api.protocols import ReplicaState
from core.api.requests import Task
from core.api.specs import LoadMode, ModelSpec
from core.http.gateway import Gateway
from core.routing.overrides import configured as as_configured
from core.routing.table import Deployment
from core.settings import BackendTable
from core.wire.control import DeploymentOverride, ReplicaStatus

__all__ = [
    "AliasView",
    "Aliases",
    "BackendView",
    "Backends",
    "DeploymentView",
    "Deployments",
    "Pulled",
    "Reloaded",
    "alias",
    "aliases",
    "answer",
    "backend",
    "backends",
    "deployment",
    "deployments",
]

_AT_RUN_TIME = "changed at run time"
"""Who declares an alias that an operator has put."""


class _View(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the shapes below."""


class Changeable(_View, frozen=True, kw_only=True):
    """The keys of a deployment that can be changed at run time."""

    enabled: bool
    priority: int
    weight: float
    replicas: int
    pinned: bool
    max_waiting: int
    max_waiting_prompt_tokens: int


class ReplicaView(_View, frozen=True, kw_only=True):
    """One process. ``retry_in_s`` is when its next start is tried."""

    replica: str
    state: ReplicaState
    reason: str | None
    pid: int | None
    restarts: int
    retry_in_s: float | None
    running: int
    waiting: int
    resident_bytes: int
    device_memory_bytes: int


class MemoryView(_View, frozen=True, kw_only=True):
    """Of a deployment: what its declaration estimates for one replica, and what all its replicas hold now."""

    estimate_bytes: int | None
    resident_bytes: int
    device_bytes: int


class DeploymentView(Changeable, frozen=True, kw_only=True):
    """A deployment.

    Attributes:
        takes_requests: it is enabled, and so is its backend.
        backend_enabled: whether the backend is.
        state: the best of its replicas.
        on_demand: a request may load it now.
        replica_states: its processes; ``replicas`` is how many there shall be.
    """

    id: str
    model: str
    backend: str
    declared_by: str
    tasks: tuple[Task, ...]
    context_tokens: int
    takes_requests: bool
    backend_enabled: bool
    load: LoadMode
    idle_unload_s: float | None
    state: ReplicaState
    reason: str | None
    on_demand: bool
    configured: Changeable
    overrides: DeploymentOverride
    memory: MemoryView
    replica_states: list[ReplicaView]


class Deployments(_View, frozen=True, kw_only=True):
    """All deployments, by id. ``generation`` grows with every change and reload."""

    generation: int
    deployments: list[DeploymentView]


class BackendKeys(_View, frozen=True, kw_only=True):
    """The keys of a backend that can be changed at run time."""

    enabled: bool


class BackendOverrides(_View, frozen=True, kw_only=True, omit_defaults=True):
    """Those of them that are overridden."""

    enabled: bool | None = None


class BackendView(BackendKeys, frozen=True, kw_only=True):
    """A backend, and the ids of its deployments."""

    name: str
    description: str
    declared_by: str
    configured: BackendKeys
    overrides: BackendOverrides
    deployments: list[str]


class Backends(_View, frozen=True, kw_only=True):
    """All backends, by name."""

    backends: list[BackendView]


class AliasView(_View, frozen=True, kw_only=True):
    """An alias.

    Attributes:
        models: what it leads to, in order, aliases among them resolved; empty: the name stands for nothing.
        declared_by: the plugins that offer it, ``configuration``, or ``changed at run time``; empty when the name
            stands for nothing.
        configured: what ``[aliases]`` or ``[routes]`` says; null when they say nothing and plugins decide.
        override: what it was changed to; null when it was not.
    """

    name: str
    models: tuple[str, ...]
    declared_by: tuple[str, ...]
    configured: tuple[str, ...] | None
    override: tuple[str, ...] | None


class Aliases(_View, frozen=True, kw_only=True):
    """All aliases, by name, those that were taken away included."""

    aliases: list[AliasView]


class ChangedKey(_View, frozen=True, kw_only=True):
    """One key of the configuration, as it was and as it is; null: it was or is not set."""

    key: str
    before: Any
    after: Any


class Reloaded(_View, frozen=True, kw_only=True):
    """What a reload changes.

    Attributes:
        restart_needed: a sentence for each thing that only a restart of the gateway changes.
        overridden: a sentence for each changed key over which a change at run time lies, which still holds.
        warnings: what `check` warns of, such as weights that are not there.
        restarts: the deployments of which replicas are replaced, one after another.
        starts: those of which replicas are started.
        ends: those of which replicas are drained and ended.
    """

    generation: int
    changed: list[ChangedKey]
    restart_needed: list[str]
    overridden: list[str]
    warnings: list[str]
    restarts: list[str]
    starts: list[str]
    ends: list[str]


class Pulled(_View, frozen=True, kw_only=True):
    """How a pull ended, by deployment: where the weights are (null: it needs none), and why they are not."""

    pulled: dict[str, str | None]
    failed: dict[str, str]


def answer(content: object, status: int = 200) -> HTTPResponse:
    """Return the HTTP answer that holds ``content`` as JSON."""
    return HTTPResponse(msgspec.json.encode(content), status=status, content_type="application/json")


def deployments(gateway: Gateway) -> list[DeploymentView]:
    """Return how all deployments are, by id."""
    declared = _declared(gateway)
    return [_deployment(gateway, one, declared) for one in gateway.generation.table.deployments.values()]


def deployment(gateway: Gateway, one: Deployment) -> DeploymentView:
    """Return how a deployment is."""
    return _deployment(gateway, one, _declared(gateway))


def _declared(gateway: Gateway) -> dict[str, ModelSpec]:
    return {model.spec.deployment: model.spec for model in gateway.registry.models}


def _deployment(gateway: Gateway, one: Deployment, declared: Mapping[str, ModelSpec]) -> DeploymentView:
    generation, status = gateway.generation, gateway.fleet.status(one.id)
    spec = declared.get(one.id) or ModelSpec(name=one.spec.name, backend=one.spec.backend)
    configured = msgspec.structs.asdict(as_configured(generation.configured, spec))
    overrides = generation.overrides.deployments.get(one.id) or DeploymentOverride()
    changed = {key: value for key, value in msgspec.structs.asdict(overrides).items() if value is not None}
    estimate = one.spec.memory_bytes
    backend_table = generation.settings.backends.get(one.spec.backend) or BackendTable()
    return DeploymentView(
        **(configured | changed),
        id=one.id,
        model=one.spec.name,
        backend=one.spec.backend,
        declared_by=one.declared_by,
        tasks=one.spec.tasks,
        context_tokens=one.spec.context_tokens,
        takes_requests=one.spec.enabled,
        backend_enabled=backend_table.enabled,
        load=one.spec.load,
        idle_unload_s=one.idle_unload_s,
        state=status.state,
        reason=status.reason or None,
        on_demand=status.on_demand,
        configured=Changeable(**configured),
        overrides=overrides,
        memory=MemoryView(
            estimate_bytes=estimate or None,
            resident_bytes=sum(replica.rss_bytes for replica in status.replicas),
            device_bytes=sum(replica.info.device_memory_bytes for replica in status.replicas if replica.info),
        ),
        replica_states=[_replica(gateway, replica) for replica in status.replicas],
    )


def backends(gateway: Gateway) -> list[BackendView]:
    """Return all backends, by name."""
    return [backend(gateway, name) for name in gateway.registry.backends]


def backend(gateway: Gateway, name: str) -> BackendView:
    """Return how an installed backend is."""
    generation, declared = gateway.generation, gateway.registry.backends[name]
    configured = (generation.configured.backends.get(name) or BackendTable()).enabled
    override = generation.overrides.backends.get(name)
    return BackendView(
        name=name,
        description=declared.spec.description,
        declared_by=declared.source,
        enabled=configured if override is None else override,
        configured=BackendKeys(enabled=configured),
        overrides=BackendOverrides(enabled=override),
        deployments=[one.id for one in generation.table.deployments.values() if one.spec.backend == name],
    )


def aliases(gateway: Gateway) -> list[AliasView]:
    """Return all aliases, by name; those that were taken away at run time too."""
    generation = gateway.generation
    return [alias(gateway, name) for name in sorted({*generation.table.aliases, *generation.overrides.aliases})]


def alias(gateway: Gateway, name: str) -> AliasView:
    """Return what a name stands for; nothing, where there is no such alias."""
    generation = gateway.generation
    row = generation.table.aliases.get(name)
    route = generation.configured.routes.get(name)
    override = generation.overrides.aliases.get(name)
    declared_by = row.declared_by if row else ()
    return AliasView(
        name=name,
        models=row.targets if row else (),
        declared_by=declared_by if override is None else (_AT_RUN_TIME,) * bool(row),
        configured=generation.configured.aliases.get(name, route.models if route else None),
        override=override,
    )


def _replica(gateway: Gateway, status: ReplicaStatus) -> ReplicaView:
    load = gateway.fleet.load(status)
    return ReplicaView(
        replica=status.replica,
        state=status.state,
        reason=status.reason or None,
        pid=status.pid,
        restarts=status.restarts,
        retry_in_s=status.retry_in_s,
        running=load.running,
        waiting=load.waiting,
        resident_bytes=status.rss_bytes,
        device_memory_bytes=status.info.device_memory_bytes if status.info else 0,
    )
