"""What a reload changes: the difference between two settings, and what of it only a restart applies. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from core.settings import BackendTable, DeploymentTable, RouteTable, Settings
from core.wire.control import Overrides
from core.words import masked

__all__ = ["Difference", "difference", "overridden", "with_what_stays"]

_RESTART: Mapping[str, str] = {
    "plugins": "plugins are loaded when the gateway starts",
    "launchers": "the launcher is made when the gateway starts",
    "supervisor.launcher": "the launcher is made when the gateway starts",
    "supervisor.drain_timeout_s": "replicas and HTTP workers are told when they start",
    "supervisor.kill_after_s": "the main process is told when it starts",
    "supervisor.status_interval_s": "replicas are told when they start",
    "supervisor.log_dir": "log files are opened when replicas start",
    "supervisor.log_max_bytes": "log files are opened when replicas start",
    "limits.max_body_bytes": "HTTP workers are told when they start",
    "limits.max_frame_bytes": "all processes are told when they start",
    "admin.database": "the file is read when the gateway starts",
    "admin.events_kept": "room for events is made when the gateway starts",
}
_PLAIN = re.compile(r"[\w-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """What a reload would change.

    Attributes:
        changed: key, value before and value after of each; None where there was or is none, or the default if
            there is one. Secrets are masked.
        restart_needed: for each of those keys that only a restart applies: a sentence.
    """

    changed: tuple[Mapping[str, Any], ...]
    restart_needed: tuple[str, ...]


def difference(before: Settings, after: Settings) -> Difference:
    """Return what differs, sorted by key as it would be written in the file."""
    old, new = _leaves(before), _leaves(after)
    changed, restart = [], []
    for path in sorted(old.keys() | new.keys()):
        default = _DEFAULTS.get((path[0], *path[2:]))  # for all keys of a table that only one of the two has
        values = [old.get(path, default), new.get(path, default)]
        if values[0] == values[1]:
            continue
        key = ".".join(part if _PLAIN.fullmatch(part) else f'"{part}"' for part in path)
        inside = path[1:] if path[0] == "admin" else path[2:]  # what comes before is a name that somebody chose
        shown = [masked(inside, value) for value in values]
        changed.append({"key": key, "before": shown[0], "after": shown[1]})
        if why := _RESTART.get(".".join(path[:2])) or _RESTART.get(path[0]):
            restart.append(f"{key}: {why}; restart the gateway to apply it")
    return Difference(changed=tuple(changed), restart_needed=tuple(restart))


def overridden(before: Settings, after: Settings, overrides: Overrides) -> Iterator[str]:
    """Yield a sentence for each key that differs and over which a change at run time lies."""
    for id_, override in overrides.deployments.items():
        old, new = (one.deployments.get(id_) or DeploymentTable() for one in (before, after))
        for key, value in msgspec.structs.asdict(override).items():
            if value is not None and getattr(old, key) != getattr(new, key):
                yield _still(f'deployments."{id_}".{key}', value, id_)
    for name, enabled in overrides.backends.items():
        old_backend, new_backend = (one.backends.get(name) or BackendTable() for one in (before, after))
        if old_backend.enabled != new_backend.enabled:
            yield _still(f"backends.{name}.enabled", enabled, f"@{name}")
    for name, targets in overrides.aliases.items():
        if _meaning(before, name) != _meaning(after, name):
            yield _still(f"aliases.{name}", targets, name)


def _still(key: str, value: object, name: str) -> str:
    held = msgspec.json.encode(value).decode()
    return (
        f"{key}: it was set to {held} at run time, which still holds; take that back with: python -m core reset {name}"
    )


def _meaning(settings: Settings, alias: str) -> tuple[str, ...] | None:
    route = settings.routes.get(alias)
    return settings.aliases.get(alias) or (route.models if route else None)


def with_what_stays(before: Settings, after: Settings) -> Settings:
    """Return ``after``, but with the values of ``before`` where only a restart could apply others."""
    updates: dict[str, Any] = {}
    for key in _RESTART:
        table, _, name = key.partition(".")
        if name:
            whole = updates.get(table, getattr(after, table))
            updates[table] = whole.model_copy(update={name: getattr(getattr(before, table), name)})
        else:
            updates[table] = getattr(before, table)
    return after.model_copy(update=updates)


def _leaves(settings: Settings) -> dict[tuple[str, ...], Any]:
    return dict(_walk((), settings.model_dump(mode="json")))


def _walk(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _walk((*path, key), inner)
    else:
        yield path, value


_DEFAULTS = {
    path: value
    for group, table in (("deployments", DeploymentTable()), ("routes", RouteTable()), ("backends", BackendTable()))
    for path, value in _walk((group,), table.model_dump(mode="json"))
}
"""What the keys of named tables are where nobody wrote them, by path without the name."""
