"""``/health`` and ``/readyz``: the verdict, for which the circuit breakers of all HTTP workers count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from core.api.messages import EngineInfo
from core.gateway import exposition
from core.gateway.metrics import breaker_changed
from core.wire.control import ReplicaStatus

Lab = Any
NAME = "echo@echo#0"


@pytest.fixture(autouse=True)
def _closed_again() -> Iterator[None]:
    """Metrics are the process' own, and outlive a test."""
    yield
    breaker_changed(NAME, "closed", 0.0)


@pytest.fixture
async def ready(start: Any) -> Any:
    """A worker with one deployment of two replicas, both ready."""
    async with start(deployments={"echo@echo": {"replicas": 2}}) as lab:
        lab.supervisor.set(*(status(lab, index) for index in (0, 1)))
        yield lab


def status(lab: Lab, index: int) -> ReplicaStatus:
    socket = str(lab.gateway.management._socket.with_name(f"{index}"))
    return ReplicaStatus(replica=f"echo@echo#{index}", state="ready", socket=socket, info=EngineInfo())


async def verdict(lab: Lab) -> tuple[int, str, list[str]]:
    answer = await lab.client.get(lab.client.base_url.join("/health"))
    probe = await lab.client.get(lab.client.base_url.join("/readyz"))
    body = answer.json()
    assert (answer.status_code, body["reasons"]) == (probe.status_code, probe.json()["reasons"])
    return answer.status_code, body["status"], body["reasons"]


@pytest.mark.parametrize(("state", "for_s"), [("open", 9.0), ("half_open", 0.0)])
async def test_a_breaker_of_another_worker_makes_the_gateway_degraded(ready: Lab, state: Any, for_s: float) -> None:
    assert await verdict(ready) == (200, "healthy", [])
    breaker_changed(NAME, state, for_s)

    reason = f"{NAME} is left out by its circuit breaker: another HTTP worker has seen it fail"
    assert await verdict(ready) == (200, "degraded", [reason])


async def test_a_deployment_of_which_every_replica_is_left_out_cannot_serve(ready: Lab) -> None:
    ready.supervisor.set(status(ready, 0))
    breaker_changed(NAME, "open", 9.0)

    assert (await verdict(ready))[:2] == (503, "unhealthy")


async def test_it_recovers_when_the_breakers_time_is_over_although_nobody_asks(ready: Lab) -> None:
    """Or a worker that gets no requests would hold it against the gateway for ever."""
    breaker_changed(NAME, "open", 0.0)

    assert await verdict(ready) == (200, "healthy", [])


async def test_breakers_of_replicas_that_were_taken_away_are_forgotten(ready: Lab) -> None:
    """By this worker and by its metrics: of a deployment, and of a deployment that has fewer replicas."""
    fleet, kept, gone = ready.gateway.fleet, NAME, ("extra@echo#0", "echo@echo#1")
    ready.configure(deployments={"echo@echo": {"replicas": 2}, "extra@echo": {"source": "/dev/null"}})
    for replica in (kept, *gone):
        assert fleet.breakers[replica].state == "closed"
        breaker_changed(replica, "open", 9.0)
    ready.configure(deployments={"echo@echo": {"replicas": 1}})

    assert list(fleet.breakers) == [kept]
    breakers = exposition.statistics().breakers
    assert [breakers[replica].state for replica in (kept, *gone)] == ["open", "closed", "closed"]
