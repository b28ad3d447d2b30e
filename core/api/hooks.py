"""The five hooks. A plugin is a module with any of them, named in the entry-point group ``gateway.plugins``.

    [project.entry-points."gateway.plugins"]
    echo = "echo_backend.plugin"

Hooks are synchronous, take no arguments, are called once per process at start-up, and only declare:
return a tuple (not a generator: its error would escape the registry). The module must not import
the runtime it declares.
"""

from __future__ import annotations

import pluggy

from core.api.specs import BackendSpec, LauncherSpec, ModelSpec, ObserverSpec, PolicySpec

__all__ = [
    "ENTRY_POINT_GROUP",
    "HOOK_NAMES",
    "PROJECT",
    "gateway_backends",
    "gateway_launchers",
    "gateway_models",
    "gateway_observers",
    "gateway_policies",
    "hookimpl",
    "hookspec",
]

PROJECT = "gateway"
ENTRY_POINT_GROUP = "gateway.plugins"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def gateway_backends() -> tuple[BackendSpec, ...]:  # type: ignore[empty-body]
    """Runtimes::

    @hookimpl
    def gateway_backends():
        return (BackendSpec(name="echo", engine="echo_backend.engine:EchoEngine"),)
    """


@hookspec
def gateway_models() -> tuple[ModelSpec, ...]:  # type: ignore[empty-body]
    """Models, each on one backend, and the aliases they offer::

    @hookimpl
    def gateway_models():
        return (ModelSpec(name="echo", backend="echo", aliases=("parrot",)),)
    """


@hookspec
def gateway_policies() -> tuple[PolicySpec, ...]:  # type: ignore[empty-body]
    """Ways to rank candidates::

    @hookimpl
    def gateway_policies():
        return (PolicySpec(name="sticky", policy=StickyPolicy),)
    """


@hookspec
def gateway_launchers() -> tuple[LauncherSpec, ...]:  # type: ignore[empty-body]
    """Places where replicas can run::

    @hookimpl
    def gateway_launchers():
        return (LauncherSpec(name="ray", launcher="my_ray.launcher:RayLauncher"),)
    """


@hookspec
def gateway_observers() -> tuple[ObserverSpec, ...]:  # type: ignore[empty-body]
    """Listeners to requests and replicas::

    @hookimpl
    def gateway_observers():
        return (ObserverSpec(name="billing", observer=BillingObserver),)
    """


HOOK_NAMES = ("gateway_backends", "gateway_models", "gateway_policies", "gateway_launchers", "gateway_observers")
