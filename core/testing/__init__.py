"""For authors of plugins: what an engine must hold to, as tests to inherit, and a real replica to try it in."""

from __future__ import annotations

from core.testing.replica import Replica, ReplicaClient, replica_config, start_replica

__all__ = ["Replica", "ReplicaClient", "replica_config", "start_replica"]
