"""The gateway's own plugin: it uses the same hooks as everybody else's."""

from __future__ import annotations

from core.api.hooks import hookimpl
from core.api.specs import LauncherSpec, ObserverSpec, PolicySpec
from core.observe import LogObserver
from core.routing.policies import LeastLoaded, RoundRobin

__all__ = ["gateway_launchers", "gateway_observers", "gateway_policies"]


@hookimpl
def gateway_policies() -> tuple[PolicySpec, ...]:
    """Two ways to share load among equals."""
    return (
        PolicySpec(name="least_loaded", policy=LeastLoaded, description="Fewest outstanding requests per slot first."),
        PolicySpec(name="round_robin", policy=RoundRobin, description="In turns, by weight."),
    )


@hookimpl
def gateway_launchers() -> tuple[LauncherSpec, ...]:
    """Processes of this machine."""
    return (
        LauncherSpec(
            name="local",
            launcher="core.supervisor.local:LocalLauncher",
            description="Replicas are processes of this machine.",
        ),
    )


@hookimpl
def gateway_observers() -> tuple[ObserverSpec, ...]:
    """The log."""
    return (ObserverSpec(name="log", observer=LogObserver, description="A line per request and per change."),)
