"""The built-in policies, a file each; they are declared through the same hooks as everybody else's. Pure."""

from __future__ import annotations

from core.routing.policies.least_loaded import LeastLoaded, LeastLoadedSettings
from core.routing.policies.lowest_latency import LowestLatency, LowestLatencySettings
from core.routing.policies.prefix_affinity import PrefixAffinity, PrefixAffinitySettings
from core.routing.policies.turns import RoundRobin, Weighted

__all__ = [
    "LeastLoaded",
    "LeastLoadedSettings",
    "LowestLatency",
    "LowestLatencySettings",
    "PrefixAffinity",
    "PrefixAffinitySettings",
    "RoundRobin",
    "Weighted",
]
