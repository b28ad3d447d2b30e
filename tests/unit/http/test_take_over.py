"""An HTTP worker goes over to another generation of the configuration, and keeps what it has."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from echo_backend.plugin import gateway_backends

from core.api import EngineInfo, Load, ModelSpec, PolicySpec
from core.gateway.admin import Management
from core.gateway.fleet import Fleet
from core.http.gateway import Gateway
from core.registry import Registry, build_generation, load_registry, make_policies
from core.routing.policies import RoundRobin
from core.routing.table import Declared
from core.settings import DeploymentTable, PluginsTable, Settings
from core.wire.control import DeploymentOverride, DeploymentStatus, Overrides, ReplicaStatus, Snapshot


def declared(spec):
    return Declared(spec=spec, plugin="test", distribution="test", version="1")


class Broken:
    def __init__(self, _settings) -> None:
        raise RuntimeError("no such thing")


@pytest.fixture(scope="module")
def registry() -> Registry:
    builtin = load_registry(PluginsTable(allow=()))
    return replace(
        builtin,
        backends={"echo": declared(gateway_backends()[0])},
        models=tuple(declared(ModelSpec(name=name, backend="echo")) for name in ("a", "b")),
        policies={**builtin.policies, "broken": declared(PolicySpec(name="broken", policy=Broken))},
    )


@pytest.fixture
async def gateway(registry):
    generation = build_generation(registry, Settings())
    gateway = Gateway(
        registry=registry,
        generation=generation,
        policies=make_policies(registry, generation.settings),
        fleet=Fleet(generation.table, Path("/nowhere"), max_frame_bytes=1 << 20),
        management=Management(Path("/nowhere"), max_frame_bytes=1 << 20),
        observers=(),
        started_unix_s=0,
    )
    yield gateway
    gateway.fleet.close()


def configuration(registry, number, settings=None, **overrides):
    return build_generation(registry, settings or Settings(), Overrides(**overrides), number=number).configuration()


def see(gateway, *names) -> None:
    """Let the supervisor say that these deployments have a ready replica."""
    deployments = []
    for name in names:
        replica = ReplicaStatus(replica=f"{name}@echo#0", state="ready", socket=f"/{name}", info=EngineInfo(slots=4))
        deployments.append(DeploymentStatus(deployment=f"{name}@echo", state="ready", replicas=(replica,)))
    fingerprint = gateway.table.fingerprint
    gateway.fleet.update(Snapshot(number=1, fingerprint=fingerprint, supervisor_pid=1, deployments=tuple(deployments)))


async def test_what_was_changed_is_in_effect_at_once(gateway, registry):
    old = gateway.table.resolve("a")
    gateway.take_over(
        configuration(
            registry,
            5,
            deployments={"a@echo": DeploymentOverride(enabled=False), "b@echo": DeploymentOverride(weight=3.0)},
            aliases={"x": ("b",)},
        )
    )
    assert gateway.generation.number == 5
    assert gateway.table.routes["a"].tiers == ()
    assert [one.id for one in gateway.table.resolve("x").tiers[0]] == ["b@echo"]
    assert gateway.fleet.table is gateway.table
    assert [one.id for one in old.tiers[0]] == ["a@echo"], "a running request keeps its route"


async def test_known_replicas_keep_all_that_they_have(gateway, registry):
    see(gateway, "a", "b")
    (before,) = gateway.fleet.ready("a@echo").values()
    before.in_flight, before.load = 3, Load(running=3, steps=9)
    gateway.take_over(configuration(registry, 1, deployments={"a@echo": DeploymentOverride(weight=3.0)}))
    (after,) = gateway.fleet.ready("a@echo").values()
    assert after is before
    assert (after.in_flight, after.load.running) == (3, 3)
    assert after.candidate().weight == 3.0
    see(gateway, "a", "b")
    assert next(iter(gateway.fleet.ready("a@echo").values())) is before


async def test_replicas_of_a_deployment_that_is_gone_are_forgotten(gateway, registry):
    extra = Settings(deployments={"c@echo": DeploymentTable(source="/dev/null")})
    gateway.take_over(configuration(registry, 1, extra))
    see(gateway, "a", "c")
    assert gateway.fleet.ready("c@echo")
    gateway.take_over(configuration(registry, 2))
    assert not gateway.fleet.ready("c@echo")
    assert gateway.fleet.ready("a@echo")


@pytest.mark.parametrize("number", [0, 1, 7])
async def test_a_new_supervisors_numbers_are_accepted_whatever_they_are(gateway, registry, number):
    gateway.take_over(configuration(registry, 7, aliases={"x": ("a",)}))
    gateway.take_over(configuration(registry, number))
    assert gateway.generation.number == number
    assert "x" not in gateway.table.routes


async def test_a_policy_that_is_defined_as_before_keeps_what_it_has_learnt(gateway, registry, monkeypatch):
    routes = {"a": {"policy": "round_robin"}}
    gateway.take_over(configuration(registry, 1, Settings(routes=routes)))
    before = dict(gateway.policies)
    assert before.keys() == {"", "a"}
    with monkeypatch.context() as patch:
        patch.setattr(RoundRobin, "__init__", Broken.__init__)
        assert gateway.take_over(configuration(registry, 2, Settings(routes=routes), aliases={"x": ("b",)})) == ""
    assert {key: policy is before[key] for key, policy in gateway.policies.items()} == {"": True, "a": True}
    gateway.take_over(configuration(registry, 3, Settings(routes=routes, routing={"policy": "round_robin"})))
    assert {key: policy is before[key] for key, policy in gateway.policies.items()} == {"": False, "a": True}
    gateway.take_over(configuration(registry, 4, Settings(routes={"a": {"policy": "least_loaded"}})))
    assert gateway.policies["a"] is not before["a"]


@pytest.mark.parametrize(
    "wrong",
    [
        Settings(deployments={"x@tpu": DeploymentTable(source="/dev/null")}),
        Settings(routing={"policy": "broken"}),
    ],
)
async def test_what_cannot_be_taken_over_is_told_and_the_old_one_stays(gateway, registry, wrong, caplog):
    before, ranker = gateway.generation, gateway.ranker
    frame = build_generation(registry, Settings(), number=9).configuration()
    frame = type(frame)(generation=9, settings=wrong.model_dump_json().encode(), overrides=Overrides())
    with caplog.at_level(logging.ERROR):
        problem = gateway.take_over(frame)
    assert problem.startswith("stays at generation 0: ")
    assert (gateway.generation, gateway.ranker) == (before, ranker)
    assert gateway.fleet.table is before.table
    assert "stays at 0; restart the gateway" in caplog.text


async def test_a_worker_of_other_plugins_is_noticed_once(gateway, caplog):
    snapshot = Snapshot(number=1, fingerprint="other", supervisor_pid=1)
    with caplog.at_level(logging.ERROR):
        gateway.fleet.update(snapshot)
        gateway.fleet.update(snapshot)
    assert caplog.text.count("other plugins") == 1
    assert not gateway.fleet.fingerprint_matches
