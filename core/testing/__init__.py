"""For authors of plugins: what an engine must hold to, as tests to inherit, and a real replica to try it in.

Names are imported when they are asked for: a part of this package runs in production (`core.testing.faults`, and
the drills of ``python -m core doctor``), where the packages of ``ai-gateway[test]`` need not be installed.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.testing.asking import Answer, chat, collect, put_together
    from core.testing.conformance import EngineConformance
    from core.testing.gateway import Gateway, eventually, start_gateway
    from core.testing.in_process import InProcessLauncher
    from core.testing.replica import Replica, ReplicaClient, replica_config, start_replica
    from core.testing.weights import demo_weights, weights_of

__all__ = [
    "Answer",
    "EngineConformance",
    "Gateway",
    "InProcessLauncher",
    "Replica",
    "ReplicaClient",
    "chat",
    "collect",
    "demo_weights",
    "eventually",
    "put_together",
    "replica_config",
    "start_gateway",
    "start_replica",
    "weights_of",
]

_MODULES = {
    "asking": ("Answer", "chat", "collect", "put_together"),
    "conformance": ("EngineConformance",),
    "gateway": ("Gateway", "eventually", "start_gateway"),
    "in_process": ("InProcessLauncher",),
    "replica": ("Replica", "ReplicaClient", "replica_config", "start_replica"),
    "weights": ("demo_weights", "weights_of"),
}

if "pytest" in sys.modules:
    sys.modules["pytest"].register_assert_rewrite("core.testing.asking", "core.testing.suites")


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
