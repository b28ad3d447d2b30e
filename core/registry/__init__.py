"""Which plugins there are and what they bring.

`loader` finds and imports them, `registry` asks them for their specs, `build` joins the specs with the
settings, `weights` finds what a deployment's engine loads, `builtin` is the plugin that the gateway itself brings.
Only here is pluggy used.
"""

from __future__ import annotations

from core.registry.build import build_table, make_launcher, make_observers, make_policies
from core.registry.generation import Generation, build_generation, receive_generation
from core.registry.installed import installed_since
from core.registry.registry import PluginRecord, Registry, RegistryError, load_registry
from core.registry.weights import DeploymentWeights, FoundWeights, absent_weights

__all__ = [
    "DeploymentWeights",
    "FoundWeights",
    "Generation",
    "PluginRecord",
    "Registry",
    "RegistryError",
    "absent_weights",
    "build_generation",
    "build_table",
    "installed_since",
    "load_registry",
    "make_launcher",
    "make_observers",
    "make_policies",
    "receive_generation",
]
