"""What was installed or removed since the plugins were loaded."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib.metadata import entry_points

from core.api import hooks
from core.registry.registry import Registry

__all__ = ["installed_since"]


def installed_since(registry: Registry) -> Iterator[str]:
    """Yield a sentence for each plugin that is there now and was not, or was another version, and the reverse."""
    importlib.invalidate_caches()
    before = {(one.name, one.distribution): one.version for one in registry.plugins}
    now = {
        (found.name, found.dist.name): found.dist.version
        for found in entry_points(group=hooks.ENTRY_POINT_GROUP)
        if found.dist is not None
    }
    for key in sorted(before.keys() | now.keys()):
        name, distribution = key
        old, new = before.get(key), now.get(key)
        if old is None:
            yield f"plugin {name}: {distribution} {new} was installed; restart the gateway to load it"
        elif new is None:
            yield f"plugin {name}: {distribution} {old} was removed; restart the gateway to go on without it"
        elif old != new:
            yield f"plugin {name}: {distribution} {new} took the place of {old}; restart the gateway to load it"
