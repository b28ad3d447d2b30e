"""For authors of plugins: what an engine must hold to, as tests to inherit, and a real replica to try it in."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("core.testing.asking", "core.testing.suites")

from core.testing.asking import Answer, chat, collect, put_together  # noqa: E402 - after the line above
from core.testing.conformance import EngineConformance  # noqa: E402
from core.testing.gateway import Gateway, eventually, start_gateway  # noqa: E402
from core.testing.replica import Replica, ReplicaClient, replica_config, start_replica  # noqa: E402
from core.testing.weights import demo_weights, weights_of  # noqa: E402

__all__ = [
    "Answer",
    "EngineConformance",
    "Gateway",
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
