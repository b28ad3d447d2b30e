"""Each fault against each policy, in a real gateway: drills of `core.testing.drills`, all of a policy at once.

Before the first token another replica answers. After it the answer goes on elsewhere, or ends with an error event.
Nothing hangs, nothing broken ends as if it were whole, and nothing is left in flight.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from core.registry import load_registry
from core.routing.routes import RouteOptions
from core.settings import RoutingTable, Settings, SupervisorTable
from core.testing.drills import DRILLS, Finding, RouteUnderDrill, configuration_of, run_drills, to_toml
from core.testing.gateway import start_gateway

POLICIES = ("least_loaded", "round_robin", "weighted", "lowest_latency", "prefix_affinity", "sticky")
SETTINGS = Settings(
    routing=RoutingTable(breaker_open_s=1.5),
    supervisor=SupervisorTable(
        backoff_initial_s=0.2,
        stall_timeout_s=4.0,
        drain_timeout_s=5.0,
        kill_after_s=1.0,
        status_interval_s=0.05,
    ),
    policies={"lowest_latency": {"half_life_s": 0.5}},  # so that a replica that was slow once is met again
)
CONTINUED = RouteOptions(attempt_timeout_s=1.0)
CUT = RouteOptions(attempt_timeout_s=1.0, continuation="off")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(
    scope="module",
    params=[*((policy, CONTINUED) for policy in POLICIES), ("least_loaded", CUT)],
    ids=[*POLICIES, "without continuation"],
)
def findings(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Finding]]:
    """What came of all drills under one policy."""
    policy, options = request.param
    folder: Path = tmp_path_factory.mktemp(policy)
    route = RouteUnderDrill(names=(), policy=policy, options=options)
    declared = [model.spec.deployment for model in load_registry(SETTINGS.plugins).models]
    configuration = configuration_of(SETTINGS, route, DRILLS, folder, declared=declared)
    with start_gateway(to_toml(configuration), quick=False) as gateway:
        found = asyncio.run(run_drills(gateway.url, DRILLS, SETTINGS, options, folder))
        yield {finding.drill: finding for finding in found}


@pytest.mark.parametrize("drill", [*(drill.id for drill in DRILLS), "policy", "left-behind"])
def test_a_fault(findings: Mapping[str, Finding], drill: str) -> None:
    """The faulty replica was met by a stream and by a request for the whole, and all went as it must."""
    finding = findings[drill]
    assert finding.verdict == "ok", finding.seen
