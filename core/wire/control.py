"""Frames between HTTP workers and the supervisor.

**Following**: `ControlHello` -> then `Configuration` and `Snapshot` at once, and each again when it changes. A
snapshot always belongs to the configuration that was sent last before it. The worker answers each configuration with
`TookOver`, and may send `EnsureReady` and `BreakerChanged` at any time.

**Managing**: a connection of its own for each command: `AdminHello` and one `AdminCommand` -> one `AdminReply`; or
for `Listen`, `AdminEvent` after `AdminEvent` until the connection is closed.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from core.api.messages import EngineInfo, Load
from core.api.protocols import ReplicaState
from core.wire.frames import Frame

__all__ = [
    "Action",
    "AdminCommand",
    "AdminEvent",
    "AdminHello",
    "AdminReply",
    "BreakerChanged",
    "BreakerState",
    "Change",
    "Configuration",
    "ControlHello",
    "DeploymentOverride",
    "DeploymentStatus",
    "EnsureReady",
    "FromAdmin",
    "FromSupervisor",
    "Listen",
    "MemoryStatus",
    "Operate",
    "Overrides",
    "Reload",
    "ReplicaStatus",
    "Snapshot",
    "ToSupervisor",
    "TookOver",
]

Action = Literal["load", "unload", "restart", "drain"]
BreakerState = Literal["closed", "open", "half_open"]


# --- what was changed at run time ---------------------------------------------------------------


class DeploymentOverride(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an operator changed of one deployment while the gateway ran; None: as configured.

    The keys are those of ``[deployments."..."]``.
    """

    enabled: bool | None = None
    priority: int | None = None
    weight: float | None = None
    replicas: int | None = None
    pinned: bool | None = None
    max_waiting: int | None = None
    max_waiting_prompt_tokens: int | None = None


class Overrides(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that was changed at run time, over what is configured.

    Attributes:
        deployments: by id.
        backends: name -> whether it is enabled.
        aliases: name -> what it stands for, as an entry of ``[aliases]``; empty: there is no such alias.
    """

    deployments: dict[str, DeploymentOverride] = {}
    backends: dict[str, bool] = {}
    aliases: dict[str, tuple[str, ...]] = {}


# --- following ----------------------------------------------------------------------------------


class ControlHello(Frame, frozen=True, kw_only=True, tag="control_hello"):
    """First frame of an HTTP worker to the supervisor."""

    protocol: int
    fingerprint: str
    pid: int


class EnsureReady(Frame, frozen=True, kw_only=True, tag="ensure_ready"):
    """A request wants this deployment: load it if it is stopped. Idempotent."""

    deployment: str


class ReplicaStatus(Frame, frozen=True, kw_only=True):
    """One replica in a snapshot.

    Attributes:
        replica: ``<model>@<backend>#<index>``.
        state: see design.md, section 1.
        reason: why, for people: exit code and last words of a failed one.
        socket: unix socket path; set while ready or draining.
        restarts: how often it was restarted since the gateway started.
        retry_in_s: when the next start is tried, in seconds from the snapshot; None when none is planned.
        rss_bytes: resident memory, as it last reported.
        memory_bytes, device_memory_bytes: what counts for it against the limits.
    """

    replica: str
    state: ReplicaState
    reason: str = ""
    socket: str | None = None
    pid: int | None = None
    restarts: int = 0
    retry_in_s: float | None = None
    load: Load = Load()
    info: EngineInfo | None = None
    rss_bytes: int = 0
    memory_bytes: int = 0
    device_memory_bytes: int = 0


class MemoryStatus(Frame, frozen=True, kw_only=True):
    """What all replicas take together, in bytes, and may take; a limit of None is none."""

    used_bytes: int = 0
    limit_bytes: int | None = None
    device_used_bytes: int = 0
    device_limit_bytes: int | None = None


class DeploymentStatus(Frame, frozen=True, kw_only=True):
    """One deployment in a snapshot: its replicas and the state that sums them up.

    Attributes:
        state: the best of its replicas: ready, draining, starting, stopped, failed, absent in that order.
        on_demand: a request may load it now: so declared, or unloaded when idle, or to make room for another.
    """

    deployment: str
    state: ReplicaState
    reason: str = ""
    on_demand: bool = False
    enabled: bool = True
    replicas: tuple[ReplicaStatus, ...] = ()


class Configuration(Frame, frozen=True, kw_only=True, tag="configuration"):
    """What the table is built from, in every process the same way (`core.registry.build_generation`).

    Attributes:
        generation: grows with every change and every reload of one supervisor; 1 is the first.
        settings: as configured, all of them, as JSON.
        overrides: what was changed at run time.
    """

    generation: int
    settings: bytes
    overrides: Overrides


class TookOver(Frame, frozen=True, kw_only=True, tag="took_over"):
    """The HTTP worker routes by this generation now; with a ``problem``, it cannot, and that is why."""

    generation: int
    problem: str = ""


class BreakerChanged(Frame, frozen=True, kw_only=True, tag="breaker"):
    """The circuit breaker that one HTTP worker has for a replica changed; for those who listen to events."""

    replica: str
    state: BreakerState
    reason: str = ""


class Snapshot(Frame, frozen=True, kw_only=True, tag="snapshot"):
    """All that the supervisor knows, sent whole: at each change of state, and every second with fresh loads.

    Attributes:
        number: grows with every snapshot of one supervisor.
        fingerprint: of the table that the supervisor was built from.
        draining: the gateway is shutting down.
    """

    number: int
    fingerprint: str
    supervisor_pid: int
    draining: bool = False
    deployments: tuple[DeploymentStatus, ...] = ()
    memory: MemoryStatus = MemoryStatus()


# --- managing -----------------------------------------------------------------------------------


class AdminHello(Frame, frozen=True, kw_only=True, tag="admin_hello"):
    """First frame of a connection that carries one command."""

    protocol: int


class Change(Frame, frozen=True, kw_only=True, tag="change"):
    """Change overrides; all or nothing. The body of the reply is `Overrides` as they are then.

    Attributes:
        deployments: id -> key of `DeploymentOverride` -> value; None takes the override of that key back.
        backends: name -> whether it is enabled; None takes the override back.
        aliases: name -> what it stands for; empty: it shall stand for nothing; None takes the override back.
        reset: deployments, backends (``@llamacpp``) and aliases whose overrides are all taken back first; ``*`` is all.
    """

    deployments: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    backends: dict[str, bool | None] = msgspec.field(default_factory=dict)
    aliases: dict[str, tuple[str, ...] | None] = msgspec.field(default_factory=dict)
    reset: tuple[str, ...] = ()


class Operate(Frame, frozen=True, kw_only=True, tag="operate"):
    """Do something to all replicas of a deployment; answered when it has begun.

    ``load``: start what is not started. ``unload``: give the memory back; running requests get the drain time; what is
    loaded on demand comes back with the next request, the rest with ``load``. ``restart``: one replica after another.
    ``drain``: take no new requests, let running ones take their time, then unload; only ``load`` and ``restart``
    bring it back.
    """

    deployment: str
    action: Action


class Reload(Frame, frozen=True, kw_only=True, tag="reload"):
    """Read the configuration again; ``dry_run`` only says what would change.

    The body of the reply: ``{"generation", "changed": [{"key", "before", "after"}], "restart_needed": [sentence],
    "restarts": [id], "starts": [id], "ends": [id]}``: the deployments of which it does that to replicas.
    """

    dry_run: bool = False


class Listen(Frame, frozen=True, kw_only=True, tag="listen"):
    """Tell every event from now on, and first those kept that came after number ``after``; None: only new ones."""

    after: int | None = None


class AdminReply(Frame, frozen=True, kw_only=True, tag="admin_reply"):
    """What became of a command.

    Attributes:
        status: as of an HTTP answer: 200, 400 (the command is wrong), 404 (no such thing), 409 (not in this state),
            500 (done, but not in effect everywhere).
        message: why not, for people, one mistake a line; empty when it was done.
        code: stable, machine-readable; empty when it was done.
        body: JSON.
    """

    status: int = 200
    message: str = ""
    code: str = ""
    body: bytes = b"{}"


class AdminEvent(Frame, frozen=True, kw_only=True, tag="admin_event"):
    """Something changed.

    Attributes:
        id: grows by one with every event of one supervisor; a new supervisor begins above all of the old one's.
        kind: ``replica`` (a state changed), ``breaker``, ``overrides``, ``configuration`` (reloaded, or refused),
            ``evicted``.
        subject: whose: a replica, a deployment, or empty.
        data: JSON values; what a kind holds is told in docs/admin.md.
        missed: events right before this one that this listener did not get and never will, since they are no longer
            kept.
    """

    id: int
    at_unix_s: float
    kind: Literal["replica", "breaker", "overrides", "configuration", "evicted"]
    subject: str = ""
    data: dict[str, Any] = msgspec.field(default_factory=dict)
    missed: int = 0


AdminCommand = Change | Operate | Reload | Listen
ToSupervisor = ControlHello | EnsureReady | TookOver | BreakerChanged | AdminHello | Change | Operate | Reload | Listen
FromSupervisor = Configuration | Snapshot
FromAdmin = AdminReply | AdminEvent
