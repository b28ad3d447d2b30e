"""What HTTP workers are told: replicas as frames, and the state that sums up a deployment. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from core.api.messages import Load
from core.api.protocols import ReplicaState
from core.routing.table import Deployment
from core.supervisor.footprint import counted
from core.supervisor.memory import Bytes, Limits
from core.supervisor.orders import who_is_awaited
from core.supervisor.replica import Replica
from core.supervisor.words import why_not_replaced
from core.wire.control import DeploymentStatus, MemoryStatus, ReplicaStatus

__all__ = ["deployment_status", "memory_status", "replica_status"]

_BEST_FIRST: tuple[ReplicaState, ...] = ("ready", "draining", "starting", "stopped", "failed", "absent")


def replica_status(
    replica: Replica, *, socket: str | None, now_s: float, awaited: Replica | None = None
) -> ReplicaStatus:
    """Return ``replica`` as it stands at ``now_s``.

    ``socket`` is its process's, shown only while it serves; ``awaited`` is who must be ready before it is replaced.
    """
    process = replica.process
    memory = counted(replica)
    return ReplicaStatus(
        replica=replica.name,
        state=replica.state,
        reason=why_not_replaced(awaited) if awaited and replica.stale and replica.state == "ready" else replica.reason,
        socket=socket if replica.state in {"ready", "draining"} else None,
        pid=process.pid if process else None,
        restarts=replica.restarts,
        retry_in_s=None if replica.start_at_s is None else max(0.0, replica.start_at_s - now_s),
        load=process.load if process else Load(),
        info=process.info if process else None,
        rss_bytes=process.rss_bytes if process else 0,
        memory_bytes=memory.host,
        device_memory_bytes=memory.device,
    )


def memory_status(used: Bytes, limits: Limits) -> MemoryStatus:
    """Return what all replicas take together, and may take."""
    return MemoryStatus(
        used_bytes=used.host,
        limit_bytes=limits.host,
        device_used_bytes=used.device,
        device_limit_bytes=limits.device,
    )


def deployment_status(
    deployment: Deployment, replicas: Sequence[tuple[Replica, str | None]], *, now_s: float
) -> DeploymentStatus:
    """Return a deployment's status, whose state and reason are its best replica's; each comes with its socket."""
    awaited = who_is_awaited(replica for replica, _ in replicas)
    told = [replica_status(replica, socket=socket, now_s=now_s, awaited=awaited) for replica, socket in replicas]
    best = min(told, key=lambda replica: _BEST_FIRST.index(replica.state))
    return DeploymentStatus(
        deployment=deployment.spec.deployment,
        state=best.state,
        reason=best.reason,
        on_demand=any(replica.comes_back for replica, _ in replicas),
        enabled=deployment.spec.enabled,
        replicas=tuple(told),
    )
