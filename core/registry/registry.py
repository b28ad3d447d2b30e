"""Everything that plugins brought, each thing with who brought it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from core.api.specs import BackendSpec, LauncherSpec, ModelSpec, ObserverSpec, PolicySpec
from core.registry.loader import BUILTIN, LoadedPlugin, PluginStatus, load_plugins
from core.routing.deployments import Declared
from core.settings import PluginsTable

__all__ = ["PluginRecord", "Registry", "RegistryError", "load_registry"]

_KINDS = {
    "gateway_backends": "backend",
    "gateway_models": "model",
    "gateway_policies": "policy",
    "gateway_launchers": "launcher",
    "gateway_observers": "observer",
}


class RegistryError(RuntimeError):
    """The installed plugins contradict each other, or the built-in one is broken; the message names the packages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PluginRecord:
    """What became of one entry point, for people.

    Attributes:
        name: of the entry point; the word in ``plugins.allow`` and ``plugins.deny``.
        reason: why it is not loaded; empty when it is.
        brought: ``backend echo``, ``model echo@echo`` ..., sorted by kind as the hooks are, then by name.
    """

    name: str
    distribution: str
    version: str
    status: PluginStatus
    reason: str
    brought: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Registry:
    """What is installed. Everything is sorted by name: nothing depends on the order of discovery."""

    plugins: tuple[PluginRecord, ...]
    backends: Mapping[str, Declared[BackendSpec]]
    models: tuple[Declared[ModelSpec], ...]
    policies: Mapping[str, Declared[PolicySpec]]
    launchers: Mapping[str, Declared[LauncherSpec]]
    observers: Mapping[str, Declared[ObserverSpec]]

    @property
    def not_loaded(self) -> dict[str, str]:
        """Of each plugin that is installed but not loaded, by name: its package, status and reason."""
        return {
            record.name: f"{record.distribution} {record.version} is {record.status}: {record.reason}"
            for record in self.plugins
            if record.status != "loaded"
        }


def load_registry(plugins: PluginsTable) -> Registry:
    """Find, import and ask all plugins that ``plugins`` allows; the built-in one is always loaded.

    May be called again; only the first time in a process imports anything.

    Raises:
        RegistryError: two plugins bring one name.
        SettingsError: ``plugins.deny`` names the built-in plugin.
    """
    loaded = load_plugins(plugins)
    _refuse_namesakes(loaded)
    builtin = next((plugin for plugin in loaded if plugin.name == BUILTIN), None)
    if builtin is None or builtin.status != "loaded":
        why = "ai-gateway is not installed (pip install -e .)" if builtin is None else builtin.reason
        msg = f"The gateway's own plugin {BUILTIN!r} cannot be loaded: {why}"
        raise RegistryError(msg)
    return Registry(
        plugins=tuple(_record(plugin) for plugin in loaded),
        backends=_collect(loaded, "gateway_backends"),
        models=tuple(_collect(loaded, "gateway_models").values()),
        policies=_collect(loaded, "gateway_policies"),
        launchers=_collect(loaded, "gateway_launchers"),
        observers=_collect(loaded, "gateway_observers"),
    )


def _record(plugin: LoadedPlugin) -> PluginRecord:
    return PluginRecord(
        name=plugin.name,
        distribution=plugin.distribution,
        version=plugin.version,
        status=plugin.status,
        reason=plugin.reason,
        brought=tuple(
            f"{kind} {name}" for hook, kind in _KINDS.items() for name in sorted(map(_name, plugin.specs.get(hook, ())))
        ),
    )


def _collect(loaded: Sequence[LoadedPlugin], hook: str) -> dict[str, Declared[Any]]:
    """Return what one hook gave, by name.

    Raises:
        RegistryError: two of them have one name.
    """
    every: dict[str, Declared[Any]] = {}
    for plugin in loaded:
        for spec in plugin.specs.get(hook, ()):
            name = _name(spec)
            declared = Declared(spec=spec, plugin=plugin.name, distribution=plugin.distribution, version=plugin.version)
            if other := every.get(name):
                msg = (
                    f"The {_KINDS[hook]} {name!r} is brought twice: by {other.source} and by {declared.source}. "
                    f"Uninstall one, or name its plugin in plugins.deny."
                )
                raise RegistryError(msg)
            every[name] = declared
    return dict(sorted(every.items()))


def _refuse_namesakes(loaded: Sequence[LoadedPlugin]) -> None:
    """Two entry points of one name cannot be told apart in ``plugins.allow`` and ``plugins.deny``."""
    allowed = [plugin for plugin in loaded if plugin.status != "denied"]
    for one, other in pairwise(allowed):  # sorted by name
        if one.name == other.name:
            first, second = (f"{plugin.distribution} {plugin.version}" for plugin in (one, other))
            msg = f"The plugin {one.name!r} is brought twice: by {first} and by {second}. Uninstall one."
            raise RegistryError(msg)


def _name(spec: Any) -> str:
    """Return the name that must be unique among specs of its kind."""
    return str(spec.deployment if isinstance(spec, ModelSpec) else spec.name)
