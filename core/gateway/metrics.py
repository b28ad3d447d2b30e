"""What is counted and timed, in Prometheus' terms; right over several HTTP workers.

With ``PROMETHEUS_MULTIPROC_DIR`` set, every worker writes its values to files there and each of them can
answer for all (`core.gateway.exposition`). docs/metrics.md lists the names, modelled on vLLM's; a test keeps it true.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from prometheus_client import Counter, Gauge, Histogram

from core.api.protocols import RequestRecord
from core.wire.control import BreakerState

__all__ = [
    "BREAKER_STATES",
    "NAMESPACE",
    "breaker_changed",
    "count_budget_exhausted",
    "count_continuation",
    "count_hedge",
    "count_policy_failure",
    "count_replica_failure",
    "count_retry",
    "flush",
    "observe",
    "request_began",
    "token_interval",
]

NAMESPACE = "gateway"
_LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_INTERVAL_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5)
_NOBODY = ""
_FLUSH_S = 0.1
# As numbers they can be compared: the greatest is the worst.
BREAKER_STATES: Mapping[BreakerState, int] = {"closed": 0, "half_open": 1, "open": 2}

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
_failovers = Counter("request_failovers", "Attempts beyond the first of a request.", namespace=NAMESPACE)
_prompt_tokens = Counter("prompt_tokens", "Prompt tokens.", ("deployment",), namespace=NAMESPACE)
_cached_tokens = Counter(
    "prompt_tokens_cached", "Prompt tokens found in a prefix cache.", ("deployment",), namespace=NAMESPACE
)
_generation_tokens = Counter("generation_tokens", "Generated tokens.", ("deployment",), namespace=NAMESPACE)
_decode_s = Counter(
    "decode_seconds", "Time between first and last event, summed over requests.", ("deployment",), namespace=NAMESPACE
)
_retries = Counter("retries", "Attempts after one that failed, by what had failed.", ("reason",), namespace=NAMESPACE)
_budget_exhausted = Counter(
    "retry_budget_exhausted",
    "Retries, continuations and hedges that the retry budget did not allow.",
    namespace=NAMESPACE,
)
_hedges = Counter("hedges", "Second attempts for want of a first token, by outcome.", ("outcome",), namespace=NAMESPACE)
_continuations = Counter(
    "continuations",
    "Streams whose replica died after their first token, by outcome.",
    ("outcome",),
    namespace=NAMESPACE,
)
_policy_failures = Counter(
    "policy_failures",
    "Attempts for which least_loaded ranked because their policy failed.",
    ("policy", "reason"),
    namespace=NAMESPACE,
)
_replica_failures = Counter(
    "replica_failures",
    "Failures that count for the circuit breaker.",
    ("deployment", "replica", "reason"),
    namespace=NAMESPACE,
)
_breaker_state = Gauge(
    "circuit_breaker_state",
    "Circuit breaker of a replica: 0 closed, 1 half-open, 2 open; the worst of all HTTP workers.",
    ("deployment", "replica"),
    namespace=NAMESPACE,
    multiprocess_mode="livemax",
)
_breaker_probe_unix_s = Gauge(
    "circuit_breaker_probe_timestamp_seconds",
    "Unix time at which an open circuit breaker lets a request probe; 0 unless open.",
    ("deployment", "replica"),
    namespace=NAMESPACE,
    multiprocess_mode="livemax",
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
    "Time between two reads of a stream, per event read.",
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


# --- rare things, written at once ---------------------------------------------------------------

# At 0 from the start, so that the first one is an increase and not a new series.
for _counter, _values in (
    (_retries, ("connect", "death", "engine", "timeout", "draining")),
    (_hedges, ("won", "lost", "failed", "cancelled")),
    (_continuations, ("continued", "nobody", "refused", "impossible")),
):
    for _value in _values:
        _counter.labels(_value)


def count_retry(reason: str) -> None:
    """Count an attempt that follows a failed one; ``reason`` is how that failed."""
    _retries.labels(reason).inc()


def count_budget_exhausted() -> None:
    """Count an attempt that the retry budget did not allow."""
    _budget_exhausted.inc()


def count_hedge(outcome: Literal["won", "lost", "failed", "cancelled"]) -> None:
    """Count a second attempt: it gave the first event, the first attempt did, neither did, or nobody wants it."""
    _hedges.labels(outcome).inc()


def count_continuation(outcome: str) -> None:
    """Count a stream that broke after its first token; docs/metrics.md names the outcomes."""
    _continuations.labels(outcome).inc()


def count_policy_failure(policy: str, reason: str) -> None:
    """Count an attempt that was ranked without its policy."""
    _policy_failures.labels(policy, reason).inc()


def count_replica_failure(replica: str, reason: str) -> None:
    """Count a failure that counts against a replica."""
    _replica_failures.labels(replica.rpartition("#")[0], replica, reason).inc()


def breaker_changed(replica: str, state: BreakerState, probe_in_s: float) -> None:
    """Note the state of the circuit breaker that this worker has for a replica."""
    labels = replica.rpartition("#")[0], replica
    _breaker_state.labels(*labels).set(BREAKER_STATES[state])
    _breaker_probe_unix_s.labels(*labels).set(time.time() + probe_in_s if state == "open" else 0.0)
