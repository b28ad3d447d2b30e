"""Which plugins there are and what they bring.

`loader` finds and imports them, `registry` asks them for their specs, `build` joins the specs with the
settings, `builtin` is the plugin that the gateway itself brings. Only here is pluggy used.
"""

from __future__ import annotations

from core.registry.build import build_table, make_launcher, make_observers, make_policy
from core.registry.registry import PluginRecord, Registry, RegistryError, load_registry

__all__ = [
    "PluginRecord",
    "Registry",
    "RegistryError",
    "build_table",
    "load_registry",
    "make_launcher",
    "make_observers",
    "make_policy",
]
