"""Changes at run time, as the settings that an operator could have written instead. Pure."""

from __future__ import annotations

import msgspec

from core.api.specs import ModelSpec
from core.settings import BackendTable, DeploymentTable, Settings
from core.wire.control import DeploymentOverride, Overrides

__all__ = ["configured", "effective"]


def effective(
    settings: Settings, overrides: Overrides, *, before: tuple[Overrides, Settings] | None = None
) -> Settings:
    """Return ``settings`` with ``overrides`` written into them; neither is changed.

    ``before``: other overrides, and what came out with them of these same ``settings``. Tables that come out the same
    are the same objects, by which `core.routing.deployments` knows what did not change.
    """
    known, there = before or (Overrides(), settings)
    deployments, backends = dict(settings.deployments), dict(settings.backends)
    for name, override in overrides.deployments.items():
        if known.deployments.get(name) == override:
            deployments[name] = there.deployments[name]
        else:
            deployments[name] = (deployments.get(name) or DeploymentTable()).model_copy(update=_given(override))
    for name, enabled in overrides.backends.items():
        if known.backends.get(name) == enabled:
            backends[name] = there.backends[name]
        else:
            backends[name] = (backends.get(name) or BackendTable()).model_copy(update={"enabled": enabled})
    routes = {
        name: table.model_copy(update={"models": None}) if name in overrides.aliases else table
        for name, table in settings.routes.items()
    }
    return settings.model_copy(
        update={
            "deployments": deployments,
            "backends": backends,
            "aliases": {**settings.aliases, **overrides.aliases},
            "routes": routes,
        }
    )


def configured(settings: Settings, declared: ModelSpec) -> DeploymentOverride:
    """Return the keys of a deployment that can be changed: as configured, else as ``declared``, else the default."""
    table = settings.deployments.get(declared.deployment) or DeploymentTable()
    found = {key: getattr(table, key) for key in DeploymentOverride.__struct_fields__}
    for source in (declared, settings.limits):
        for key, value in found.items():
            if value is None:
                found[key] = getattr(source, key, None)
    return DeploymentOverride(**found)


def _given(override: DeploymentOverride) -> dict[str, object]:
    return {key: value for key, value in msgspec.structs.asdict(override).items() if value is not None}
