"""What a reload says that it does to replicas, before it does it."""

from __future__ import annotations

import dataclasses

import pytest

from core.registry import build_generation, load_registry
from core.settings import PluginsTable, Settings
from core.supervisor.forecast import forecast
from core.supervisor.launch import recipe
from core.supervisor.replica import Process, Replica

REGISTRY = load_registry(PluginsTable(allow=("echo",)))
NOTHING = {"restarts": [], "starts": [], "ends": []}


def generation(**keys):
    tables = {"a@echo": {"source": "/dev/null", **keys}, "echo@echo": {"enabled": False}}
    return build_generation(REGISTRY, Settings(deployments=tables))


def told(before, after, *, running, out=""):
    """The forecast for two replicas of a@echo, which run or were stopped."""
    deployment = before.table.deployments["a@echo"]
    one = Replica(name="a@echo#0", state="stopped", enabled=deployment.spec.enabled, recipe=recipe(deployment), out=out)
    if running:
        process = Process(start=1, launched_s=0.0, recipe=one.recipe)
        one = dataclasses.replace(one, state="ready", process=process)
    two = dataclasses.replace(one, name="a@echo#1")
    return forecast(before, after, lambda id_: [one, two] if id_ == "a@echo" else [])


@pytest.mark.parametrize(
    ("keys", "effect"),
    [
        ({}, None),
        ({"priority": 9}, None),
        ({"settings": {"tokens": 3}}, "restarts"),
        ({"replicas": 3}, "starts"),
        ({"replicas": 1}, "ends"),
        ({"enabled": False}, "ends"),
    ],
)
def test_what_a_changed_key_does_to_what_runs(keys, effect):
    before, after = generation(replicas=2), generation(**{"replicas": 2, **keys})
    assert told(before, after, running=True) == (NOTHING if effect is None else {**NOTHING, effect: ["a@echo"]})


def test_one_change_may_do_two_things():
    after = generation(replicas=1, settings={"tokens": 3})
    both = {**NOTHING, "restarts": ["a@echo"], "ends": ["a@echo"]}
    assert told(generation(replicas=2), after, running=True) == both


def test_what_is_enabled_starts_unless_it_waits_for_a_request_or_for_weights():
    before = generation(replicas=2, enabled=False)
    starts = {**NOTHING, "starts": ["a@echo"]}
    assert told(before, generation(replicas=2), running=False) == starts
    assert told(before, generation(replicas=2, load="on_demand"), running=False) == NOTHING
    assert told(before, generation(replicas=2, source="/no/such/file"), running=False) == NOTHING


def test_what_an_operator_took_out_of_service_stays_there():
    after = generation(replicas=3, settings={"tokens": 3})
    assert told(generation(replicas=2), after, running=False, out="drained") == NOTHING
