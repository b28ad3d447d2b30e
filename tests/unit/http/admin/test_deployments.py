"""Deployments, backends and aliases over HTTP: what is told of them, changed of them and refused."""

from __future__ import annotations

import asyncio

import pytest

from core.wire.control import AdminReply, Change, Operate, ReplicaStatus


def ready(name: str, socket: str = "x", **more) -> ReplicaStatus:
    return ReplicaStatus(replica=name, state="ready", socket=socket, pid=1, rss_bytes=1000, **more)


async def test_every_deployment_is_told_with_configured_values(lab) -> None:
    """A key of the file, one of the plugin's and one by default."""
    told = (await lab.client.get("deployments")).json()

    rows = {row["id"]: row for row in told["deployments"]}
    assert set(rows) == {"echo@echo", "org/big@echo"}
    big = rows["org/big@echo"]
    assert (big["model"], big["backend"], big["declared_by"]) == ("org/big", "echo", "configuration")
    assert (big["priority"], big["max_waiting"], big["max_waiting_prompt_tokens"]) == (7, 3, 262144)
    assert rows["echo@echo"]["priority"] == 0
    assert big["configured"] == {
        "enabled": True,
        "priority": 7,
        "weight": 1.0,
        "replicas": 1,
        "pinned": False,
        "max_waiting": 3,
        "max_waiting_prompt_tokens": 262144,
    }
    assert big["overrides"] == {}


async def test_a_change_is_seen_when_it_is_answered(lab) -> None:
    """As value, as override beside the configured value, and in the table that requests are routed by."""
    changes = {"enabled": False, "priority": -3, "weight": 2.5, "replicas": 4, "pinned": True, "max_waiting": 0}
    told = (await lab.client.patch("deployments/org/big@echo", json=changes)).json()

    assert told["overrides"] == changes
    assert {key: told[key] for key in changes} == changes
    assert told["configured"]["priority"] == 7
    assert told["takes_requests"] is False
    deployment = lab.gateway.table.deployments["org/big@echo"]
    assert (deployment.spec.enabled, deployment.spec.priority, deployment.replicas) == (False, -3, 4)


async def test_null_takes_one_change_back_and_leaves_the_others(lab) -> None:
    await lab.client.patch("deployments/org/big@echo", json={"priority": 1, "weight": 2})
    told = (await lab.client.patch("deployments/org/big@echo", json={"priority": None})).json()

    assert (told["priority"], told["overrides"]) == (7, {"weight": 2.0})


async def test_an_empty_patch_changes_nothing(lab) -> None:
    response = await lab.client.patch("deployments/org/big@echo", json={})

    assert response.status_code == 200
    assert lab.supervisor.commands == []


@pytest.mark.parametrize("name", ["org/big@echo", "org%2Fbig%40echo", "org/big%40echo"])
async def test_an_id_may_hold_slashes_and_percent_codes(lab, name) -> None:
    assert (await lab.client.get(f"deployments/{name}")).json()["id"] == "org/big@echo"
    assert (await lab.client.post(f"deployments/{name}/load")).json()["deployment"]["id"] == "org/big@echo"
    assert lab.supervisor.commands == [Operate(deployment="org/big@echo", action="load")]


async def test_an_unknown_deployment_is_404_with_a_guess(lab) -> None:
    for response in (
        await lab.client.get("deployments/org/bug@echo"),
        await lab.client.patch("deployments/org/bug@echo", json={"enabled": False}),
        await lab.client.post("deployments/org/bug@echo/drain"),
    ):
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
        assert "org/big@echo" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param", "code", "words"),
    [
        ('{"enabeld": true}', "enabeld", "unknown_parameter", "did you mean 'enabled'?"),
        ('{"context_tokens": 5}', "context_tokens", "unknown_parameter", "then: python -m core reload."),
        ('{"zzz": 5}', "zzz", "unknown_parameter", "it takes enabled, priority"),
        ('{"enabled": "no"}', "enabled", "invalid_type", "boolean"),
        ('{"enabled": 0}', "enabled", "invalid_type", "boolean"),
        ('{"priority": 1.5}', "priority", "invalid_type", "integer"),
        ('{"priority": true}', "priority", "invalid_type", "integer"),
        ('{"weight": 0}', "weight", "invalid_value", "greater than 0"),
        ('{"weight": -1}', "weight", "invalid_value", "greater than 0"),
        ('{"replicas": 0}', "replicas", "invalid_value", "greater than 0"),
        ('{"max_waiting": -1}', "max_waiting", "invalid_value", "greater than or equal to 0"),
        ('{"max_waiting_prompt_tokens": 0}', "max_waiting_prompt_tokens", "invalid_value", "greater than 0"),
        ("[]", None, "invalid_type", "JSON object"),
        ("{", None, "invalid_json", "not valid JSON"),
        ("", None, "invalid_json", "not valid JSON"),
        ('{"weight": NaN}', None, "invalid_json", "not valid JSON"),
        ('{"weight": 1e999}', None, "invalid_json", "not valid JSON"),
        ("[" * 100_000, None, "invalid_json", "not valid JSON"),
        (b'{"\xff": 1}', None, "invalid_json", "not valid JSON"),
        ('{"priority": 99999999999999999999}', "priority", "invalid_value", "less than or equal"),
        ('{"replicas": 257}', "replicas", "invalid_value", "less than or equal"),
    ],
)
async def test_a_wrong_patch_is_refused_by_name(lab, body, param, code, words) -> None:
    headers = {"Content-Type": "application/json"}
    response = await lab.client.patch("deployments/echo@echo", content=body, headers=headers)
    error = response.json()["error"]

    assert (response.status_code, error["param"], error["code"]) == (400, param, code)
    assert words in error["message"]
    assert lab.supervisor.commands == []


async def test_a_patch_tells_all_its_mistakes(lab) -> None:
    response = await lab.client.patch("deployments/echo@echo", json={"weight": 0, "x": 1, "enabled": "y"})

    assert len(response.json()["error"]["message"].splitlines()) == 3


async def test_what_the_supervisor_refuses_is_refused(lab) -> None:
    lab.supervisor.replies.append(AdminReply(status=409, message="Not now.", code="draining"))
    response = await lab.client.patch("deployments/echo@echo", json={"enabled": False})

    assert (response.status_code, response.json()["error"]["code"]) == (409, "draining")
    assert response.json()["error"]["message"] == "Not now."


async def test_without_a_supervisor_nothing_is_changed_and_it_is_said(lab) -> None:
    """What this worker knows is told all the same."""
    lab.gateway.management._socket = lab.gateway.management._socket.with_name("none")
    response = await lab.client.patch("deployments/echo@echo", json={"enabled": False})

    assert (response.status_code, response.json()["error"]["code"]) == (503, "supervisor_away")
    assert int(response.headers["retry-after"]) >= 1
    assert (await lab.client.get("deployments")).status_code == 200


async def test_a_supervisor_that_dies_before_it_answers_is_503(lab) -> None:
    """Not a request that hangs."""

    def die(_command: Operate) -> None:
        lab.supervisor.streams[-1].close()

    lab.supervisor.on_operate = die
    response = await lab.client.post("deployments/echo@echo/load")

    assert (response.status_code, response.json()["error"]["code"]) == (503, "supervisor_away")


async def test_replicas_and_their_memory_are_told(lab) -> None:
    lab.supervisor.set(ready("echo@echo#0", "a"), ReplicaStatus(replica="echo@echo#1", state="failed", reason="code 4"))
    told = (await lab.client.get("deployments/echo@echo")).json()

    assert told["memory"]["resident_bytes"] == 1000
    assert [(one["replica"], one["state"], one["reason"]) for one in told["replica_states"]] == [
        ("echo@echo#0", "ready", None),
        ("echo@echo#1", "failed", "code 4"),
    ]


# --- operations


async def test_an_operation_is_answered_when_it_has_begun(lab) -> None:
    response = await lab.client.post("deployments/echo@echo/load")

    assert response.status_code == 202
    assert response.json()["done"] is False


async def test_wait_returns_when_it_is_over(lab) -> None:
    def load(_command: Operate) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.05, lab.supervisor.set, ReplicaStatus(replica="echo@echo#0", state="starting"))
        loop.call_later(0.1, lab.supervisor.set, ready("echo@echo#0"))

    lab.supervisor.on_operate = load
    response = await lab.client.post("deployments/echo@echo/load?wait_s=8")

    assert response.status_code == 200
    assert response.json() | {"deployment": None} == {
        "action": "load",
        "done": True,
        "message": "echo@echo is ready.",
        "deployment": None,
    }


async def test_wait_says_how_far_it_is_when_time_is_up(lab) -> None:
    lab.supervisor.set(ReplicaStatus(replica="echo@echo#0", state="starting"))
    response = await lab.client.post("deployments/echo@echo/load?wait_s=0.1")

    assert (response.status_code, response.json()["done"]) == (202, False)
    assert response.json()["message"] == "echo@echo is starting; the load goes on."


async def test_a_load_that_fails_is_503_with_the_reason(lab) -> None:
    def fail(_command: Operate) -> None:
        failed = ReplicaStatus(replica="echo@echo#0", state="failed", reason="out of memory", retry_in_s=30.0)
        asyncio.get_running_loop().call_later(0.05, lab.supervisor.set, failed)

    lab.supervisor.on_operate = fail
    response = await lab.client.post("deployments/echo@echo/load?wait_s=8")

    assert (response.status_code, response.json()["error"]["code"]) == (503, "not_loaded")
    assert "out of memory" in response.json()["error"]["message"]
    assert response.headers["retry-after"] == "30"


async def test_a_load_after_a_failure_is_not_told_the_old_failure(lab) -> None:
    """The news of the load may come later than its answer."""
    lab.supervisor.set(ReplicaStatus(replica="echo@echo#0", state="failed", reason="the old one"))
    lab.supervisor.replies.append(AdminReply(body=b'{"replicas": [{"replica": "echo@echo#0", "state": "starting"}]}'))
    loop = asyncio.get_running_loop()
    loop.call_later(0.1, lab.supervisor.set, ReplicaStatus(replica="echo@echo#0", state="starting"))
    loop.call_later(0.2, lab.supervisor.set, ready("echo@echo#0"))
    response = await lab.client.post("deployments/echo@echo/load?wait_s=8")

    assert (response.status_code, response.json()["done"]) == (200, True)


async def test_a_restart_is_over_when_no_old_replica_is_left(lab) -> None:
    """Both are ready all the time, the first of them new, then the second."""
    lab.supervisor.set(ready("echo@echo#0", "a"), ready("echo@echo#1", "b"))

    def restart(_command: Operate) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.05, lab.supervisor.set, ready("echo@echo#0", "c"), ready("echo@echo#1", "b"))
        loop.call_later(0.15, lab.supervisor.set, ready("echo@echo#0", "c"), ready("echo@echo#1", "d"))

    lab.supervisor.on_operate = restart
    response = await lab.client.post("deployments/echo@echo/restart?wait_s=8")

    assert response.json()["done"] is True
    assert [one.socket for one in lab.gateway.fleet.status("echo@echo").replicas] == ["c", "d"]


async def test_a_drain_is_over_when_nothing_runs(lab) -> None:
    lab.supervisor.set(ready("echo@echo#0"))
    early = await lab.client.post("deployments/echo@echo/drain")
    lab.supervisor.set(ReplicaStatus(replica="echo@echo#0", state="stopped"))
    late = await lab.client.post("deployments/echo@echo/unload")

    assert (early.status_code, early.json()["message"]) == (202, "echo@echo is still ready; the drain goes on.")
    assert (late.status_code, late.json()["done"]) == (200, True)


@pytest.mark.parametrize("wait", ["-1", "x", "nan", "4000", "inf"])
async def test_a_wrong_wait_is_refused(lab, wait) -> None:
    response = await lab.client.post(f"deployments/echo@echo/load?wait_s={wait}")

    assert (response.status_code, response.json()["error"]["param"]) == (400, "wait_s")
    assert lab.supervisor.commands == []


# --- backends


async def test_a_backend_is_disabled_with_all_its_deployments(lab) -> None:
    told = (await lab.client.patch("backends/echo", json={"enabled": False})).json()

    assert (told["enabled"], told["configured"], told["overrides"]) == (False, {"enabled": True}, {"enabled": False})
    assert told["deployments"] == ["echo@echo", "org/big@echo"]
    row = (await lab.client.get("deployments/echo@echo")).json()
    assert (row["enabled"], row["takes_requests"], row["backend_enabled"]) == (True, False, False)
    back = (await lab.client.patch("backends/echo", json={"enabled": None})).json()
    assert (back["enabled"], back["overrides"]) == (True, {})


async def test_an_unknown_backend_is_404(lab) -> None:
    response = await lab.client.get("backends/ecco")

    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    assert "echo" in response.json()["error"]["message"]
    assert [one["name"] for one in (await lab.client.get("backends")).json()["backends"]] == ["echo"]


# --- aliases


async def aliases(lab) -> dict:
    return {row["name"]: row for row in (await lab.client.get("aliases")).json()["aliases"]}


async def test_an_alias_is_put_and_taken_away_and_taken_back(lab) -> None:
    """Also a configured one, and one of a plugin's (parrot)."""
    assert (await aliases(lab))["gpt-4"] == {
        "name": "gpt-4",
        "models": ["echo"],
        "declared_by": ["configuration"],
        "configured": ["echo"],
        "override": None,
    }
    for name, first, configured in (("gpt-4", ["echo"], ["echo"]), ("parrot", ["echo"], None), ("new/one", [], None)):
        put = (await lab.client.put(f"aliases/{name}", json={"models": ["org/big", "echo"]})).json()
        assert (put["models"], put["override"], put["configured"]) == (["org/big", "echo"],) * 2 + (configured,)
        assert put["declared_by"] == ["changed at run time"]
        assert lab.gateway.table.resolve(name).tiers[0][0].id == "org/big@echo"
        gone = (await lab.client.delete(f"aliases/{name}")).json()
        assert (gone["models"], gone["override"], gone["declared_by"]) == ([], [], [])
        assert name not in lab.gateway.table.routes
        assert (await aliases(lab))[name] == gone
        back = (await lab.client.delete(f"aliases/{name}?reset=true")).json()
        assert (back["models"], back["override"]) == (first, None)


async def test_an_alias_may_be_one_name(lab) -> None:
    assert (await lab.client.put("aliases/a%20b", json={"models": "echo"})).json()["models"] == ["echo"]
    assert lab.supervisor.commands == [Change(aliases={"a b": ("echo",)})]


@pytest.mark.parametrize("name", ["echo", "org/big@echo"])
async def test_an_alias_that_a_model_would_hide_is_refused(lab, name) -> None:
    response = await lab.client.put(f"aliases/{name}", json={"models": "org/big"})

    assert (response.status_code, response.json()["error"]["code"]) == (409, "name_taken")


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "models"), ({"models": []}, "models"), ({"models": [1]}, "models[0]"), ({"models": None}, "models")],
)
async def test_an_alias_of_nothing_is_refused(lab, body, param) -> None:
    response = await lab.client.put("aliases/x", json=body)

    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_an_alias_to_an_unknown_model_is_refused_by_the_supervisor(lab) -> None:
    response = await lab.client.put("aliases/x", json={"models": "nobody"})

    assert response.status_code == 400
    assert "nobody" in response.json()["error"]["message"]
    assert "x" not in await aliases(lab)


async def test_whether_an_alias_is_deleted_or_reset_is_one_of_two_words(lab) -> None:
    assert (await lab.client.delete("aliases/gpt-4?reset=perhaps")).status_code == 400
    assert (await lab.client.delete("aliases/gpt-4?reset=false")).json()["models"] == []


# --- reset and reload


async def test_reset_takes_back_what_is_named(lab) -> None:
    await lab.client.patch("deployments/echo@echo", json={"priority": 5})
    await lab.client.patch("backends/echo", json={"enabled": False})
    await lab.client.put("aliases/x", json={"models": "echo"})
    left = (await lab.client.post("reset", json={"names": ["echo@echo", "@echo"]})).json()
    none = (await lab.client.post("reset", json={"names": ["*"]})).json()

    assert left == {"aliases": {"x": ["echo"]}}
    assert none == {}
    assert (await lab.client.post("reset", json={"names": []})).status_code == 400


@pytest.mark.parametrize("path", ["deployments/echo@echo/explode", "deployments/org/big@echo/explode"])
async def test_an_operation_that_there_is_not_is_not_found_and_those_that_there_are_are_named(lab, path) -> None:
    response = await lab.client.post(path)
    told = response.json()["error"]
    assert (response.status_code, told["code"]) == (404, "not_found")
    assert told["message"] == "There is no operation 'explode'; there are drain, load, restart, unload"
    assert lab.supervisor.commands == []


async def test_reload_tells_what_changed(lab) -> None:
    told = (await lab.client.post("reload?dry_run=true")).json()

    effects = ("changed", "restart_needed", "overridden", "warnings", "restarts", "starts", "ends")
    assert told == {"generation": 3, **{effect: [] for effect in effects}}
    assert lab.supervisor.commands[0].dry_run is True
    lab.supervisor.replies.append(AdminReply(status=400, message="gateway.toml: x: wrong", code="invalid_settings"))
    refused = await lab.client.post("reload")
    assert (refused.status_code, refused.json()["error"]["message"]) == (400, "gateway.toml: x: wrong")
