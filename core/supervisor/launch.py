"""From a deployment to its replicas, and what the process of one is given: a folder, a socket, a configuration."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.api.protocols import ReplicaConfig
from core.routing.table import Deployment
from core.settings import Settings
from core.supervisor.replica import Replica
from core.supervisor.replica_events import Configured

__all__ = ["make_scratch", "new_replica", "orders", "recipe", "remove_scratch", "replica_config"]

_TOLD_TO_OTHERS: Mapping[str, Any] = {
    "aliases": (),
    "enabled": True,
    "priority": 0,
    "weight": 1.0,
    "load": "startup",
    "description": "",
    "memory_bytes": 0,
}
"""What a spec says to HTTP workers and to the supervisor, but not to the replica's process."""


def new_replica(deployment: Deployment, index: int, *, disabled: str, missing: str) -> Replica:
    """Return a replica as it is before anything has happened.

    ``disabled`` says why its deployment is, if it is; ``missing`` is what its weights lack.
    """
    spec = deployment.spec
    return Replica(
        name=f"{spec.deployment}#{index}",
        enabled=spec.enabled,
        disabled=disabled,
        at_startup=spec.load == "startup",
        idle_unload_s=deployment.idle_unload_s,
        recipe=recipe(deployment),
        reason=missing,
    )


def recipe(deployment: Deployment) -> str:
    """Return what stands for all that a process of the deployment is given and cannot be told later."""
    given = (
        dataclasses.replace(deployment.spec, **_TOLD_TO_OTHERS),
        deployment.backend.engine,
        deployment.backend.preparation,
        deployment.settings.model_dump(mode="json"),
        deployment.python,
    )
    return hashlib.sha256(repr(given).encode()).hexdigest()


def orders(deployment: Deployment, *, disabled: str, known_recipe: str = "") -> Configured:
    """Return what all replicas of the deployment are told; ``known_recipe`` is its `recipe` if that is known."""
    return Configured(
        enabled=not disabled,
        disabled=disabled,
        at_startup=deployment.spec.load == "startup",
        idle_unload_s=deployment.idle_unload_s,
        recipe=known_recipe or recipe(deployment),
    )


def make_scratch(parent: Path) -> Path:
    """Make a private folder with a short name that was never used: a late client of an old process meets nobody.

    Raises:
        OSError: it cannot be made.
    """
    scratch = parent / secrets.token_hex(4)
    scratch.mkdir(mode=0o700)
    return scratch


def remove_scratch(scratch: Path) -> None:
    """Remove the folder and the socket of a process that has ended. Blocks; errors are ignored."""
    with contextlib.suppress(OSError):
        _socket(scratch).unlink(missing_ok=True)
    shutil.rmtree(scratch, ignore_errors=True)


def replica_config(
    deployment: Deployment, replica: str, *, weights: Path | None, scratch: Path, settings: Settings, fingerprint: str
) -> ReplicaConfig:
    """Return all that the process of ``replica`` needs; ``weights`` is what its engine loads."""
    settings_class = deployment.backend.settings
    timing = settings.supervisor
    return ReplicaConfig(
        replica=replica,
        model=deployment.spec,
        engine=deployment.backend.engine,
        settings_class=f"{settings_class.__module__}:{settings_class.__qualname__}",
        settings=deployment.settings.model_dump(mode="json"),
        weights=str(weights) if weights else None,
        socket=str(_socket(scratch)),
        scratch=str(scratch),
        fingerprint=fingerprint,
        max_waiting=deployment.max_waiting,
        max_waiting_prompt_tokens=deployment.max_waiting_prompt_tokens,
        drain_timeout_s=timing.drain_timeout_s,
        max_frame_bytes=settings.limits.max_frame_bytes,
        log_level=settings.log_level,
        log_dir=str(timing.log_dir.expanduser()),
        log_max_bytes=timing.log_max_bytes,
    )


def _socket(scratch: Path) -> Path:
    return scratch.with_suffix(".sock")
