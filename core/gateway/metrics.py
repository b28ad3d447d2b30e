"""What is counted and timed, in Prometheus' terms; right over several HTTP workers.

With ``PROMETHEUS_MULTIPROC_DIR`` set, every worker writes its values to files there and each of them can
answer for all. docs/metrics.md lists the names, modelled on vLLM's; a test keeps it true.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from core.api.protocols import RequestRecord
from core.gateway.fleet import Fleet

__all__ = [
    "DeploymentStatistics",
    "flush",
    "observe",
    "quantile",
    "render",
    "request_began",
    "statistics",
    "token_interval",
]

NAMESPACE = "gateway"
_LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_INTERVAL_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5)
_NOBODY = ""
_SERVER_ERROR = 500
_FLUSH_S = 0.1

_requests = Counter("requests", "Requests finished, by HTTP status.", ("task", "status"), namespace=NAMESPACE)
_in_flight = Gauge(
    "requests_in_flight",
    "Requests that HTTP workers are serving now.",
    namespace=NAMESPACE,
    multiprocess_mode="livesum",
)
_success = Counter(
    "request_success", "Requests answered whole, by finish reason.", ("deployment", "reason"), namespace=NAMESPACE
)
_errors = Counter(
    "request_errors",
    "Requests that ended in an error or were cancelled; deployment is empty when none was reached.",
    ("deployment", "code", "status"),
    namespace=NAMESPACE,
)
_failovers = Counter("request_failovers", "Candidates that were tried and could not answer.", namespace=NAMESPACE)
_prompt_tokens = Counter("prompt_tokens", "Prompt tokens.", ("deployment",), namespace=NAMESPACE)
_cached_tokens = Counter(
    "prompt_tokens_cached", "Prompt tokens found in a prefix cache.", ("deployment",), namespace=NAMESPACE
)
_generation_tokens = Counter("generation_tokens", "Generated tokens.", ("deployment",), namespace=NAMESPACE)
_decode_s = Counter(
    "decode_seconds", "Time between first and last event, summed over requests.", ("deployment",), namespace=NAMESPACE
)
_ttft_s = Histogram(
    "time_to_first_token_seconds",
    "From a request's arrival to the first event of its answer.",
    ("deployment",),
    namespace=NAMESPACE,
    buckets=_LATENCY_S,
)
_interval_s = Histogram(
    "inter_token_latency_seconds",
    "Time between two reads of a stream, per token read.",
    ("deployment",),
    namespace=NAMESPACE,
    buckets=_INTERVAL_S,
)
_e2e_s = Histogram(
    "e2e_request_latency_seconds",
    "From a request's arrival to the end of its answer.",
    ("deployment",),
    namespace=NAMESPACE,
    buckets=_LATENCY_S,
)


class _Children:
    """The metrics of one deployment; looking labels up for each request would cost more than counting."""

    def __init__(self, deployment: str) -> None:
        self.prompt_tokens = _prompt_tokens.labels(deployment)
        self.cached_tokens = _cached_tokens.labels(deployment)
        self.generation_tokens = _generation_tokens.labels(deployment)
        self.decode_s = _decode_s.labels(deployment)
        self.ttft_s = _ttft_s.labels(deployment)
        self.interval_s = _interval_s.labels(deployment)
        self.e2e_s = _e2e_s.labels(deployment)


_children = functools.cache(_Children)
_requests_of = functools.cache(_requests.labels)
_success_of = functools.cache(_success.labels)
_errors_of = functools.cache(_errors.labels)


class _Pending:
    """What was counted since the last `flush`.

    Values shared between processes cost a system call each, so a worker writes them ten times a second, and
    before it answers for them, rather than with each request.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.records: list[RequestRecord] = []
        self.timer: asyncio.TimerHandle | None = None

    def changed(self) -> None:
        """See to it that `flush` comes soon."""
        if self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(_FLUSH_S, flush)


_pending = _Pending()


def request_began() -> None:
    """Count a request in; `observe` counts it out. Both are called in the worker's loop."""
    _pending.in_flight += 1
    _pending.changed()


def observe(record: RequestRecord) -> None:
    """Count a finished request."""
    _pending.in_flight -= 1
    _pending.records.append(record)
    _pending.changed()


def flush() -> None:
    """Write down what is pending, where all workers see it."""
    if _pending.timer is not None:
        _pending.timer.cancel()
        _pending.timer = None
    _in_flight.set(_pending.in_flight)
    records, _pending.records = _pending.records, []
    _write(records)


def token_interval(deployment: str) -> Histogram:
    """The histogram to which a stream adds the time between its reads."""
    return _children(deployment).interval_s


def _write(records: Sequence[RequestRecord]) -> None:
    """Write records down: histograms one by one, counters summed."""
    sums: dict[Counter, float] = defaultdict(float)
    for record in records:
        deployment = _NOBODY if record.replica is None else record.replica.rpartition("#")[0]
        sums[_requests_of(record.task, str(record.status))] += 1
        sums[_failovers] += max(0, record.attempts - 1)
        if record.outcome in {"error", "cancelled"}:
            sums[_errors_of(deployment, record.error or record.outcome, str(record.status))] += 1
        else:
            sums[_success_of(deployment, record.outcome)] += 1
        if deployment == _NOBODY:
            continue
        children = _children(deployment)
        sums[children.prompt_tokens] += record.prompt_tokens
        sums[children.cached_tokens] += record.cached_tokens
        sums[children.generation_tokens] += record.completion_tokens
        children.e2e_s.observe(record.duration_s)
        if record.ttft_s is not None:
            children.ttft_s.observe(record.ttft_s)
            sums[children.decode_s] += record.duration_s - record.ttft_s
    for counter, amount in sums.items():
        if amount:
            counter.inc(amount)


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


def statistics() -> tuple[int, int, Mapping[str, DeploymentStatistics]]:
    """Return (requests finished, requests in flight, statistics by deployment)."""
    flush()
    total = in_flight = 0.0
    by_deployment: dict[str, DeploymentStatistics] = {}
    for metric in _registry().collect():
        for sample in metric.samples:
            name = sample.name.removeprefix(f"{NAMESPACE}_")
            if name == "requests_total":
                total += sample.value
            elif name == "requests_in_flight":
                in_flight += sample.value
            deployment = sample.labels.get("deployment")
            if deployment:
                _add(by_deployment.setdefault(deployment, DeploymentStatistics()), name, sample.labels, sample.value)
    return int(total), int(in_flight), by_deployment


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
