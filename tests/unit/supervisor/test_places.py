"""Places follow the generation; only those that it changes are looked at."""

from __future__ import annotations

from dataclasses import replace

import pytest
from echo_backend.plugin import gateway_backends

from core.api import ModelSpec
from core.registry import Generation, build_generation, load_registry
from core.routing.table import Declared
from core.settings import PluginsTable, Settings
from core.supervisor import places as places_module
from core.supervisor.places import Places
from core.supervisor.replica_events import Configured, Removed
from core.wire.control import DeploymentOverride, Overrides

BUILTIN = load_registry(PluginsTable(allow=()))
BACKEND, *_ = gateway_backends()


def declared(spec):
    return Declared(spec=spec, plugin="test", distribution="test", version="1")


REGISTRY = replace(
    BUILTIN,
    backends={"echo": declared(BACKEND)},
    models=tuple(declared(ModelSpec(name=name, backend="echo")) for name in ("a", "b", "c")),
)


def changed(before: Generation, **overrides) -> Generation:
    return build_generation(REGISTRY, before.configured, Overrides(**overrides), before=before)


class Told:
    """Puts generations in place, and hears what replicas are told."""

    def __init__(self) -> None:
        self.places = Places()
        self.events: list[tuple[str, type, str]] = []

    def by(self, generation: Generation) -> list[tuple[str, type, str]]:
        self.events = []
        self.places.arrange(generation, self._hear)
        return self.events

    def _hear(self, slot, event) -> None:
        self.events.append((slot.replica.name, type(event), getattr(event, "disabled", "")))


def test_who_is_changed_is_told_and_nobody_else() -> None:
    told, first = Told(), build_generation(REGISTRY, Settings())
    assert told.by(first) == []
    off = DeploymentOverride(enabled=False)
    second = changed(first, deployments={"b@echo": off})
    assert told.by(second) == [("b@echo#0", Configured, "disabled at run time")]
    assert told.by(second) == []
    third = changed(second, deployments={"b@echo": off}, backends={"echo": False})
    assert {event for _, _, event in told.by(third)} == {"its backend echo is disabled at run time"}
    assert len(told.events) == 3
    assert {(name, why) for name, _, why in told.by(changed(third))} == {(f"{name}@echo#0", "") for name in "abc"}


def test_places_come_and_go_with_the_number_of_replicas() -> None:
    told, first = Told(), build_generation(REGISTRY, Settings())
    told.by(first)
    second = changed(first, deployments={"b@echo": DeploymentOverride(replicas=2)})
    assert told.by(second) == []
    assert [slot.replica.name for slot in told.places.of("b@echo")] == ["b@echo#0", "b@echo#1"]
    third = changed(second)
    assert told.by(third) == [("b@echo#1", Removed, "")]
    fourth = changed(third, deployments={"b@echo": DeploymentOverride(replicas=2)})
    assert [name for name, event, _ in told.by(fourth) if event is Configured] == ["b@echo#1"], "it has yet to end"


def test_a_change_of_one_looks_at_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands it would take the supervisor's loop too long."""
    told, first = Told(), build_generation(REGISTRY, Settings())
    told.by(first)
    seen = []

    def counted(deployment, **known):
        seen.append(deployment.id)
        return orders(deployment, **known)

    orders = places_module.orders
    monkeypatch.setattr(places_module, "orders", counted)
    told.by(changed(first, deployments={"c@echo": DeploymentOverride(weight=3.0)}))
    assert seen == ["c@echo"]
    told.by(build_generation(REGISTRY, Settings(weights={"cache_dir": "/elsewhere"}), before=first))
    assert seen == ["c@echo", "a@echo", "b@echo", "c@echo"], "weights are looked for elsewhere"
