"""The counts of all HTTP workers read back: for ``/metrics`` as they are, for ``/health`` summed up."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from core.gateway.fleet import Fleet
from core.gateway.metrics import BREAKER_STATES, NAMESPACE, flush
from core.wire.control import BreakerState

__all__ = ["BreakerStatistics", "DeploymentStatistics", "Statistics", "quantile", "render", "statistics"]

_SERVER_ERROR = 500
_STATES = {number: state for state, number in BREAKER_STATES.items()}


def _registry() -> CollectorRegistry:
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


# --- /metrics -----------------------------------------------------------------------------------


class _FleetCollector:
    """What the last snapshot says of replicas: the same in every worker, so never summed over them."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterable[Metric]:
        def gauge(name: str, text: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"{NAMESPACE}_{name}", text, labels=("deployment", "replica"))

        running = gauge("num_requests_running", "Requests that the engine works on.")
        waiting = gauge("num_requests_waiting", "Requests admitted but not begun.")
        kv_used = gauge("kv_cache_usage_ratio", "Share of the KV cache in use.")
        resident = gauge("replica_resident_bytes", "Resident memory of the replica's process.")
        up = gauge("replica_up", "1 when the replica is ready.")
        restarts = CounterMetricFamily(
            f"{NAMESPACE}_replica_restarts", "Restarts since the gateway started.", labels=("deployment", "replica")
        )
        snapshot = self._fleet.snapshot
        for deployment in snapshot.deployments if snapshot else ():
            for replica in deployment.replicas:
                labels = (deployment.deployment, replica.replica)
                load = self._fleet.load(replica)
                running.add_metric(labels, load.running)
                waiting.add_metric(labels, load.waiting)
                kv_used.add_metric(labels, load.kv_used)
                resident.add_metric(labels, replica.rss_bytes)
                up.add_metric(labels, replica.state == "ready")
                restarts.add_metric(labels, replica.restarts)
        supervisor = GaugeMetricFamily(f"{NAMESPACE}_supervisor_up", "1 when this HTTP worker hears the supervisor.")
        supervisor.add_metric((), self._fleet.connected)
        return running, waiting, kv_used, resident, up, restarts, supervisor


def render(fleet: Fleet) -> bytes:
    """Everything in Prometheus' text format."""
    flush()
    extra = CollectorRegistry()
    extra.register(_FleetCollector(fleet))
    return generate_latest(_registry()) + generate_latest(extra)


# --- /health ------------------------------------------------------------------------------------


@dataclass(slots=True)
class DeploymentStatistics:
    """Sums over all HTTP workers since the gateway started.

    ``errors`` are the server's own (status 500 and above), not the clients'.
    """

    requests: int = 0
    errors: int = 0
    generation_tokens: int = 0
    decode_s: float = 0.0
    ttft_buckets: dict[float, float] = field(default_factory=dict)
    e2e_buckets: dict[float, float] = field(default_factory=dict)

    @property
    def tokens_per_s(self) -> float | None:
        """Mean speed of one stream after its first event."""
        return self.generation_tokens / self.decode_s if self.decode_s > 0 else None


@dataclass(slots=True)
class BreakerStatistics:
    """The circuit breaker of one replica, where it is worst of all HTTP workers.

    Attributes:
        probe_unix_s: when the last of those that are open lets a request probe.
    """

    state: BreakerState = "closed"
    probe_unix_s: float = 0.0


@dataclass(slots=True)
class Statistics:
    """All that HTTP workers counted together.

    Attributes:
        requests: finished.
        in_flight: being served now.
        deployments: by id; those that were never asked are missing.
        breakers: by replica; those that never changed are missing.
    """

    requests: int = 0
    in_flight: int = 0
    deployments: dict[str, DeploymentStatistics] = field(default_factory=lambda: defaultdict(DeploymentStatistics))
    breakers: dict[str, BreakerStatistics] = field(default_factory=lambda: defaultdict(BreakerStatistics))


def statistics() -> Statistics:
    """Read what all HTTP workers counted."""
    flush()
    found = Statistics()
    for metric in _registry().collect():
        for sample in metric.samples:
            name, labels, value = sample.name.removeprefix(f"{NAMESPACE}_"), sample.labels, sample.value
            if name == "requests_total":
                found.requests += int(value)
            elif name == "requests_in_flight":
                found.in_flight += int(value)
            elif name == "circuit_breaker_state":
                found.breakers[labels["replica"]].state = _STATES[int(value)]
            elif name == "circuit_breaker_probe_timestamp_seconds":
                found.breakers[labels["replica"]].probe_unix_s = value
            elif labels.get("deployment"):
                _add(found.deployments[labels["deployment"]], name, labels, value)
    return found


def _add(into: DeploymentStatistics, name: str, labels: Mapping[str, str], value: float) -> None:
    if name == "request_success_total":
        into.requests += int(value)
    elif name == "request_errors_total":
        into.requests += int(value)
        into.errors += int(value) if int(labels["status"]) >= _SERVER_ERROR else 0
    elif name == "generation_tokens_total":
        into.generation_tokens += int(value)
    elif name == "decode_seconds_total":
        into.decode_s += value
    elif name == "time_to_first_token_seconds_bucket":
        into.ttft_buckets[float(labels["le"])] = value
    elif name == "e2e_request_latency_seconds_bucket":
        into.e2e_buckets[float(labels["le"])] = value


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """Estimate a quantile from cumulative histogram buckets, linearly inside one; None without data.

    The same estimate as PromQL's ``histogram_quantile``: what lies above the last finite bound is
    reported as that bound.
    """
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] == 0:
        return None
    rank = share * buckets[bounds[-1]]
    below_bound, below_count = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if bound == float("inf"):
                return below_bound
            inside = buckets[bound] - below_count
            return below_bound + (bound - below_bound) * ((rank - below_count) / inside if inside else 1.0)
        below_bound, below_count = bound, buckets[bound]
    return below_bound
