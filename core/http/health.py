"""``/health``, ``/livez``, ``/readyz``, ``/metrics``: true at every moment, or silent."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from sanic import HTTPResponse, Request

from core.api.messages import Load
from core.gateway import exposition
from core.http.gateway import Gateway, gateway_of
from core.routing.table import Deployment
from core.wire.control import ReplicaStatus

__all__ = ["health", "livez", "metrics_page", "readyz"]


async def health(request: Request) -> HTTPResponse:
    """``GET /health``: 200 while anything can be served, else 503; the body says what and why not.

    ``healthy``: every enabled deployment whose weights are on disk can serve (it is ready, or is loaded on
    demand). ``degraded``: some of them cannot. ``unhealthy``: nothing can serve; so it is while the supervisor
    is away, since replicas drain without it.
    """
    gateway = gateway_of(request)
    counted = exposition.statistics()
    deployments = {
        name: _deployment(gateway, deployment, counted) for name, deployment in gateway.table.deployments.items()
    }
    status, reasons = _verdict(gateway, counted)
    body = {
        "status": status,
        "reasons": reasons,
        "total_requests": counted.requests,
        "requests_in_flight": counted.in_flight,
        "backends_available": gateway.fleet.ready_backends(),
        "memory": _memory(gateway),
        "deployments": deployments,
    }
    return _json(body, 503 if status == "unhealthy" else 200)


async def livez(_request: Request) -> HTTPResponse:
    """``GET /livez``: 200 while this HTTP worker answers at all."""
    return _json({"status": "alive"}, 200)


async def readyz(request: Request) -> HTTPResponse:
    """``GET /readyz``: 200 when requests should be sent here, else 503."""
    gateway = gateway_of(request)
    status, reasons = _verdict(gateway, exposition.statistics())
    ready = status != "unhealthy"
    return _json({"status": "ready" if ready else "not ready", "reasons": reasons}, 200 if ready else 503)


async def metrics_page(request: Request) -> HTTPResponse:
    """``GET /metrics`` in Prometheus' text format."""
    return HTTPResponse(exposition.render(gateway_of(request).fleet), content_type=CONTENT_TYPE_PLAIN_0_0_4)


def _verdict(gateway: Gateway, statistics: exposition.Statistics) -> tuple[str, list[str]]:
    fleet = gateway.fleet
    reasons: list[str] = []
    serving = 0
    for deployment in gateway.table.deployments.values():
        status = fleet.status(deployment.id)
        if not deployment.spec.enabled or status.state == "absent":
            continue
        ready = [replica.name for replica in fleet.ready(deployment.id).values()]
        breakers = {replica: _breaker(gateway, replica, statistics) for replica in ready}
        left_out = [replica for replica in ready if _leaves_out(breakers[replica])]
        reasons += [f"{one} is left out by its circuit breaker: {breakers[one]['reason']}" for one in left_out]
        if len(left_out) < len(ready) or fleet.is_coming(deployment):
            serving += 1
        elif status.state != "ready":
            reasons.append(f"{deployment.id} is {status.state}" + (f": {status.reason}" if status.reason else ""))
        reasons += [
            f"{replica.replica} is {replica.state}" + (f": {replica.reason}" if replica.reason else "")
            for replica in status.replicas
            if status.state == "ready" and replica.state != "ready"
        ]
    if fleet.draining:
        reasons.append("the gateway is shutting down")
        serving = 0
    if not fleet.connected:
        reasons = ["the supervisor is away; it is being restarted"]
        serving = 0
    if not fleet.fingerprint_matches:
        reasons.append("the supervisor runs with another configuration; restart the gateway")
    if serving == 0:
        return "unhealthy", reasons or [_nothing(gateway)]
    return ("degraded" if reasons else "healthy"), reasons


def _nothing(gateway: Gateway) -> str:
    """Why nothing can serve although nothing fails."""
    deployments = gateway.table.deployments.values()
    disabled = [
        one.id for one in deployments if not one.spec.enabled and gateway.fleet.status(one.id).state != "absent"
    ]
    why = "no enabled deployment has its weights on disk; see python -m core models"
    return f"{why}. Disabled with weights: {', '.join(disabled)}" if disabled else why


def _memory(gateway: Gateway) -> dict[str, Any] | None:
    """What replicas take and may take, in bytes; None while the supervisor is away."""
    snapshot = gateway.fleet.snapshot
    if snapshot is None:
        return None
    counted = {
        replica.replica: {"bytes": replica.memory_bytes, "device_bytes": replica.device_memory_bytes}
        for deployment in snapshot.deployments
        for replica in deployment.replicas
        if replica.memory_bytes or replica.device_memory_bytes
    }
    return {**msgspec.structs.asdict(snapshot.memory), "replicas": counted}


def _deployment(gateway: Gateway, deployment: Deployment, statistics: exposition.Statistics) -> dict[str, Any]:
    status = gateway.fleet.status(deployment.id)
    counted = statistics.deployments[deployment.id]
    loads = [gateway.fleet.load(replica) for replica in status.replicas]
    return {
        "model": deployment.spec.name,
        "backend": deployment.spec.backend,
        "enabled": deployment.spec.enabled,
        "state": status.state,
        "reason": status.reason or None,
        "requests": counted.requests,
        "errors": counted.errors,
        "in_flight": sum(load.running for load in loads),
        "queued": sum(load.waiting for load in loads),
        "ttft_s": _quantiles(counted.ttft_buckets),
        "latency_s": _quantiles(counted.e2e_buckets),
        "tokens_per_second": _rounded(counted.tokens_per_s),
        "replicas": [
            {**_replica(replica, load), "breaker": _breaker(gateway, replica.replica, statistics)}
            for replica, load in zip(status.replicas, loads, strict=True)
        ],
    }


def _replica(replica: ReplicaStatus, load: Load) -> dict[str, Any]:
    info = replica.info
    return {
        "replica": replica.replica,
        "state": replica.state,
        "reason": replica.reason or None,
        "pid": replica.pid,
        "restarts": replica.restarts,
        "retry_in_s": _rounded(replica.retry_in_s),
        "resident_bytes": replica.rss_bytes,
        "running": load.running,
        "waiting": load.waiting,
        "engine": msgspec.structs.asdict(info) if info else None,
    }


def _breaker(gateway: Gateway, replica: str, statistics: exposition.Statistics) -> dict[str, Any]:
    """The circuit breaker of a replica in the HTTP worker where it is worst; only our own can say why."""
    worst, own = statistics.breakers[replica], gateway.fleet.breakers.get(replica)
    reason = "another HTTP worker has seen it fail" if worst.state != "closed" else None
    if own is not None and own.state == worst.state:
        reason = own.reason or None
    retry_in_s = max(0.0, worst.probe_unix_s - time.time()) if worst.state == "open" else None
    return {"state": worst.state, "reason": reason, "retry_in_s": _rounded(retry_in_s)}


def _leaves_out(breaker: dict[str, Any]) -> bool:
    """Whether an HTTP worker sends no request there now; an open breaker whose time is over waits for the next one."""
    return breaker["state"] == "half_open" or bool(breaker["retry_in_s"])


def _quantiles(buckets: dict[float, float]) -> dict[str, float | None]:
    return {f"p{share * 100:g}": _rounded(exposition.quantile(buckets, share)) for share in (0.5, 0.95, 0.99)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _json(content: object, status: int) -> HTTPResponse:
    return HTTPResponse(msgspec.json.encode(content), status=status, content_type="application/json")
