"""The gateway's own plugin: it uses the same hooks as everybody else's."""

from __future__ import annotations

from core.api.hooks import hookimpl
from core.api.specs import LauncherSpec, ObserverSpec, PolicySpec
from core.observe import LogObserver
from core.routing.policies import (
    LeastLoaded,
    LeastLoadedSettings,
    LowestLatency,
    LowestLatencySettings,
    PrefixAffinity,
    PrefixAffinitySettings,
    RoundRobin,
    Weighted,
)

__all__ = ["gateway_launchers", "gateway_observers", "gateway_policies"]


@hookimpl
def gateway_policies() -> tuple[PolicySpec, ...]:
    """Ways to share load among equals."""
    return (
        PolicySpec(
            name="least_loaded",
            policy=LeastLoaded,
            settings=LeastLoadedSettings,
            description="Of two drawn at random, the one with less work, in tokens, per slot and weight.",
        ),
        PolicySpec(name="round_robin", policy=RoundRobin, description="In turns."),
        PolicySpec(name="weighted", policy=Weighted, description="In turns, by the weights of deployments."),
        PolicySpec(
            name="lowest_latency",
            policy=LowestLatency,
            settings=LowestLatencySettings,
            description="The shortest expected time of the answer, as measured here.",
        ),
        PolicySpec(
            name="prefix_affinity",
            policy=PrefixAffinity,
            settings=PrefixAffinitySettings,
            description="A conversation returns to the replica that has its beginning in its cache, within bounds.",
        ),
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
