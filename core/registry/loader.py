"""From entry points to specs: allowed? compatible? then import, register, ask.

The first two are decided before the import, because importing a plugin runs its code. A plugin that fails
at any step is recorded with the reason, and leaves nothing behind.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import Distribution, EntryPoint, entry_points, version
from types import MappingProxyType, ModuleType
from typing import Any, Literal

import pluggy
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from core.api import hooks
from core.api.specs import BackendSpec, LauncherSpec, ModelSpec, ObserverSpec, PolicySpec
from core.settings import PluginsTable, SettingsError

__all__ = ["BUILTIN", "LoadedPlugin", "PluginStatus", "load_plugins"]

BUILTIN = "builtin"
_CORE = "ai-gateway"
_SPEC_TYPES: Mapping[str, type[Any]] = {
    "gateway_backends": BackendSpec,
    "gateway_models": ModelSpec,
    "gateway_policies": PolicySpec,
    "gateway_launchers": LauncherSpec,
    "gateway_observers": ObserverSpec,
}

PluginStatus = Literal["loaded", "denied", "incompatible", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedPlugin:
    """One entry point and what became of it.

    Attributes:
        name: of the entry point.
        distribution, version: that brought it.
        status: ``loaded``, or why it was not: ``denied`` and ``incompatible`` ones were not even imported.
        reason: one line; empty when loaded.
        specs: what each hook returned, by the hook's name; empty unless loaded.
    """

    name: str
    distribution: str
    version: str
    status: PluginStatus = "loaded"
    reason: str = ""
    specs: Mapping[str, tuple[Any, ...]] = field(default_factory=lambda: MappingProxyType({}))


class _PluginError(Exception):
    """This plugin cannot be used; the message says why."""


def load_plugins(plugins: PluginsTable) -> tuple[LoadedPlugin, ...]:
    """Return every installed plugin, sorted by name and distribution.

    Raises:
        SettingsError: ``plugins.deny`` names the built-in plugin, which is always loaded.
    """
    if BUILTIN in plugins.deny:
        msg = f"plugins.deny: {BUILTIN!r} cannot be denied: the default policy and launcher are in it"
        raise SettingsError(msg)
    loader = _Loader(plugins)
    found = [loader.load(entry_point) for entry_point in entry_points(group=hooks.ENTRY_POINT_GROUP)]
    return tuple(sorted(found, key=lambda one: (one.name, one.distribution)))


class _Loader:
    def __init__(self, plugins: PluginsTable) -> None:
        self._plugins = plugins
        self._core_version = version(_CORE)
        self._manager = pluggy.PluginManager(hooks.PROJECT)
        self._manager.add_hookspecs(hooks)

    def load(self, entry_point: EntryPoint) -> LoadedPlugin:
        distribution = entry_point.dist
        assert distribution is not None  # noqa: S101 - true of every entry point that was discovered
        status: PluginStatus = "loaded"
        specs: Mapping[str, tuple[Any, ...]] = {}
        if reason := self._denial(entry_point, distribution):
            status = "denied"
        elif reason := self._incompatibility(distribution):
            status = "incompatible"
        else:
            try:
                specs = self._specs(entry_point, distribution.name)
            except _PluginError as error:
                status, reason = "failed", str(error)
        return LoadedPlugin(
            name=entry_point.name,
            distribution=distribution.name,
            version=distribution.version,
            status=status,
            reason=reason,
            specs=MappingProxyType(specs),
        )

    # --- before the import

    def _denial(self, entry_point: EntryPoint, distribution: Distribution) -> str:
        name, plugins = entry_point.name, self._plugins
        if name == BUILTIN:
            return "" if canonicalize_name(distribution.name) == _CORE else f"the name belongs to {_CORE}"
        if name in plugins.deny or "*" in plugins.deny:
            return "plugins.deny names it" if name in plugins.deny else 'plugins.deny is "*"'
        if name in plugins.allow or "*" in plugins.allow:
            return ""
        return "plugins.allow does not name it"

    def _incompatibility(self, distribution: Distribution) -> str:
        for text in distribution.requires or ():
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                return f"its requirement {text!r} cannot be read"
            if canonicalize_name(requirement.name) != _CORE:
                continue
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            if not requirement.specifier.contains(self._core_version, prereleases=True):
                return f"it needs {_CORE} {requirement.specifier}, but this is {self._core_version}"
        return ""

    # --- import, register, ask

    def _specs(self, entry_point: EntryPoint, distribution: str) -> dict[str, tuple[Any, ...]]:
        name = f"{distribution}: {entry_point.name}"
        try:
            module = entry_point.load()
        except (Exception, SystemExit) as error:
            msg = f"importing {entry_point.value} failed: {_said(error)}"
            raise _PluginError(msg) from error
        if not isinstance(module, ModuleType):
            msg = f"{entry_point.value} is not a module"
            raise _PluginError(msg)
        try:
            self._register(module, name)
            return self._ask(module)
        except _PluginError:
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            raise

    def _register(self, module: ModuleType, name: str) -> None:
        for attribute, value in vars(module).items():
            if attribute in hooks.HOOK_NAMES and not hasattr(value, f"{hooks.PROJECT}_impl"):
                msg = f"{attribute} lacks the decorator @hookimpl"
                raise _PluginError(msg)
        try:
            self._manager.register(module, name)
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            msg = f"{_said(error)}; hooks are {', '.join(hooks.HOOK_NAMES)}, without arguments"
            raise _PluginError(msg) from error
        except ValueError as error:
            msg = f"another entry point brings {module.__name__} already"
            raise _PluginError(msg) from error

    def _ask(self, module: ModuleType) -> dict[str, tuple[Any, ...]]:
        """Call the plugin's own implementations, each by itself: an error is blamed on whom it belongs to."""
        specs = {}
        for hook, spec_type in _SPEC_TYPES.items():
            for impl in getattr(self._manager.hook, hook).get_hookimpls():
                if impl.plugin is module:
                    specs[hook] = _answer(hook, impl, spec_type)
        if not specs:
            msg = f"it implements no hook; hooks are {', '.join(hooks.HOOK_NAMES)}"
            raise _PluginError(msg)
        return specs


def _answer(hook: str, impl: pluggy.HookImpl, spec_type: type[Any]) -> tuple[Any, ...]:
    if impl.tryfirst or impl.trylast or impl.wrapper or impl.hookwrapper:
        msg = f"{hook} has options for @hookimpl; nothing here depends on the order of plugins"
        raise _PluginError(msg)
    try:
        answer = impl.function()
    except (Exception, SystemExit) as error:
        msg = f"{hook} raised {_said(error)}"
        raise _PluginError(msg) from error
    if inspect.iscoroutine(answer):
        answer.close()
    if not isinstance(answer, tuple | list):
        msg = f"{hook} returned {type(answer).__name__}, not a tuple of {spec_type.__name__}"
        raise _PluginError(msg)
    for one in answer:
        if not isinstance(one, spec_type):
            msg = f"{hook} returned {type(one).__name__} in its tuple, which may hold {spec_type.__name__} only"
            raise _PluginError(msg)
    return tuple(answer)


def _said(error: BaseException) -> str:
    """One line: the type of an error and what it says, shortened."""
    said = textwrap.shorten(str(error), 400)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
