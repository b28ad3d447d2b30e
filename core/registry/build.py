"""From what is installed and what is configured to what runs."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from core.api.protocols import Launcher, Observer, Policy
from core.api.specs import LauncherSpec, PolicySpec
from core.registry.registry import Registry
from core.routing.deployments import Declared
from core.routing.routes import has_own_policy
from core.routing.table import Table, assemble
from core.routing.words import how_to_get
from core.settings import PluginsTable, RouteTable, Settings, SettingsError
from core.words import describe, did_you_mean

__all__ = ["build_table", "make_launcher", "make_observers", "make_policies"]

_log = logging.getLogger("gateway.registry")

_Chosen = Declared[PolicySpec] | Declared[LauncherSpec]
_Choices = Mapping[str, Declared[PolicySpec]] | Mapping[str, Declared[LauncherSpec]]
_Tables = Mapping[str, dict[str, Any]]


def build_table(registry: Registry, settings: Settings, *, before: Table | None = None) -> Table:
    """Assemble the alias table, and check every setting that belongs to a plugin; ``before`` as in `assemble`.

    Raises:
        SettingsError: a name that no loaded plugin brings, or a value that its plugin refuses; all mistakes,
            one a line. A plugin that is not loaded is a mistake exactly when something of it is named.
    """
    not_loaded = registry.not_loaded
    mistakes = [
        *_mistakes(
            registry.policies,
            settings.policies,
            "policies",
            chosen=("routing.policy", settings.routing.policy),
            not_loaded=not_loaded,
        ),
        *_route_mistakes(registry, settings),
        *_mistakes(
            registry.launchers,
            settings.launchers,
            "launchers",
            chosen=("supervisor.launcher", settings.supervisor.launcher),
            not_loaded=not_loaded,
        ),
    ]
    try:
        table = assemble(
            backends=registry.backends,
            models=registry.models,
            settings=settings,
            not_loaded=not_loaded,
            before=before,
        )
    except SettingsError as error:
        mistakes.append(str(error))
    if mistakes:
        raise SettingsError("\n".join(mistakes))
    warnings = [*_unmatched(registry, settings.plugins), *table.warnings]
    if not any(one.spec.enabled for one in table.deployments.values()):
        remedy = (
            "enable one (python -m core enable <model>@<backend>), or its backend (python -m core enable --backend "
            "<backend>); `python -m core models` lists them"
            if table.deployments
            else "install a backend with its models, or configure one under [deployments]; `python -m core plugins` "
            "lists what is installed"
        )
        warnings.append(f"no deployment is enabled, so nothing can be served: {remedy}")
    return dataclasses.replace(table, warnings=tuple(warnings))


def make_policies(
    registry: Registry, settings: Settings, *, known: Mapping[str, Policy] | None = None
) -> Mapping[str, Policy]:
    """Make the policies of one HTTP worker, by `Route.policy_key`; ``settings`` have passed `build_table`.

    The empty key is the global one. A route with a policy or settings of its own has an object of its own, so
    that routes share no state. They are made of all that are configured, also where nothing has that name now: a
    change at run time may bring it back, and must find nothing that cannot be made. ``known`` are not made again.

    Raises:
        SettingsError: a plugin cannot make one, or what it makes is no policy; all mistakes, one a line.
    """
    policies: dict[str, Policy] = {}
    mistakes, known = [], known or {}
    for key in ("", *sorted(key for key, route in settings.routes.items() if has_own_policy(route))):
        try:
            policies[key] = known[key] if key in known else _policy(registry, settings, key)
        except SettingsError as error:
            mistakes.append(str(error))
    if mistakes:
        raise SettingsError("\n".join(mistakes))
    return policies


def _policy(registry: Registry, settings: Settings, key: str) -> Policy:
    route = settings.routes[key] if key else RouteTable()
    declared = registry.policies[route.policy or settings.routing.policy]
    with _blamed(f'[routes."{key}"] policy' if key else "routing.policy", declared):
        policy: object = declared.spec.policy(_validated(declared, settings.policies, route.settings))
        if not isinstance(policy, Policy):
            msg = "it has no method rank(request, candidates)"
            raise TypeError(msg)
    return policy


def make_launcher(registry: Registry, settings: Settings) -> Launcher:
    """Import and make the launcher of ``[supervisor] launcher``; ``settings`` have passed `build_table`.

    Raises:
        SettingsError: it cannot be imported, or its plugin cannot make it.
    """
    declared = registry.launchers[settings.supervisor.launcher]
    with _blamed("supervisor.launcher", declared):
        launcher = pkgutil.resolve_name(declared.spec.launcher)
        return cast("Launcher", launcher(_validated(declared, settings.launchers)))


def make_observers(registry: Registry) -> tuple[Observer, ...]:
    """Make all observers for one process; one that cannot be made is logged and left out."""
    observers = []
    for name, declared in registry.observers.items():
        try:
            observers.append(declared.spec.observer())
        except Exception:  # noqa: BLE001 - somebody else's code, and nothing depends on an observer
            _log.exception("the observer %s of %s cannot be made; going on without it", name, declared.source)
    return tuple(observers)


def _unmatched(registry: Registry, plugins: PluginsTable) -> Iterator[str]:
    """Names in ``plugins.allow`` and ``plugins.deny`` that do nothing; the plugin may be yet to be installed."""
    installed = {record.name for record in registry.plugins}
    for key, names in (("allow", plugins.allow), ("deny", plugins.deny)):
        for name in names:
            if name != "*" and name not in installed:
                yield f"plugins.{key}: no plugin {name!r} is installed; {did_you_mean(name, installed)}"


def _mistakes(
    choices: _Choices, tables: _Tables, group: str, *, chosen: tuple[str, str], not_loaded: Mapping[str, str]
) -> Iterator[str]:
    """Check the tables ``[<group>.*]``, and the one name that is ``chosen``: the key it stands at, and itself."""
    for name in sorted({chosen[1], *tables}):
        where = f"[{group}.{name}]" if name in tables else chosen[0]
        if name not in choices:
            yield f"{where}: {name!r} is not there; {how_to_get(name, choices, not_loaded)}"
            continue
        try:
            _validated(choices[name], tables)
        except ValidationError as error:
            yield from describe(error, model=choices[name].spec.settings, where=where).splitlines()


def _route_mistakes(registry: Registry, settings: Settings) -> Iterator[str]:
    """Check policy and settings of each ``[routes."name"]``; what is wrong in ``[policies.*]`` is told there."""
    for key, route in sorted(settings.routes.items()):
        where = f'[routes."{key}"]'
        name = route.policy or settings.routing.policy
        declared = registry.policies.get(name)
        if declared is None:
            if route.policy:
                hint = how_to_get(name, registry.policies, registry.not_loaded)
                yield f"{where} policy: {name!r} is not there; {hint}"
        elif route.policy or route.settings:
            whose = f" of {name}" if route.policy else f" of {name}, the policy of [routing]"
            common = settings.policies.get(name, {}).keys() - route.settings.keys()
            try:
                _validated(declared, settings.policies, route.settings)
            except ValidationError as error:
                told = describe(
                    error,
                    model=declared.spec.settings,
                    where=lambda path: "" if path and path[0] in common else f"{where} settings{whose}",  # noqa: B023
                )
                yield from (line for line in told.splitlines() if line.startswith(where))


def _validated(declared: _Chosen, tables: _Tables, own: Mapping[str, Any] | None = None) -> BaseModel:
    """The settings model of a plugin's table, with what a route says on top."""
    spec = declared.spec
    return spec.settings.model_validate({**tables.get(spec.name, {}), **(own or {})})


@contextlib.contextmanager
def _blamed(key: str, declared: _Chosen) -> Iterator[None]:
    """Name the setting and the plugin in the error of somebody else's code."""
    try:
        yield
    except Exception as error:
        msg = f"{key}: {declared.spec.name!r} of {declared.source} cannot be made: {type(error).__name__}: {error}"
        raise SettingsError(msg) from error
