"""The dry run: every candidate, with its tier and rank, or the reason why it is left out."""

from __future__ import annotations

import asyncio

import pytest

from core.api.messages import EngineInfo, Load
from core.wire.control import ReplicaStatus
from core.wire.frames import Rejected

CONFIG = {
    "deployments": {
        "a@echo": {"source": "/dev/null", "priority": 10},
        "b@echo": {"source": "/dev/null", "priority": 10},
        "c@echo": {"source": "/dev/null", "priority": 5, "load": "on_demand"},
        "d@echo": {"source": "/dev/null", "priority": 5, "enabled": False},
        "e@echo": {"source": "/dev/null", "priority": 1, "tasks": ["embeddings"]},
    },
    "aliases": {"all": ["a", "b", "c", "d", "e"]},
    "routes": {"all": {"policy": "round_robin", "hedge_after_ms": 500, "continuation": "off"}},
}


def ready(name: str, number: int, **load) -> ReplicaStatus:
    return ReplicaStatus(
        replica=f"{name}#{number}", state="ready", socket=f"{name}{number}", info=EngineInfo(slots=4), load=Load(**load)
    )


def chat(model: str, **more) -> dict:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}


async def explained(lab, body: dict, query: str = "", **headers) -> dict:
    response = await lab.client.post(f"route/explain{query}", json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


def by_name(told: dict) -> dict[str, dict]:
    return {one["replica"] or one["deployment"]: one for one in told["candidates"]}


async def test_every_candidate_has_its_place_or_its_reason(start) -> None:
    async with start(**CONFIG) as lab:
        lab.supervisor.set(ready("a@echo", 0, running=3, outstanding_prompt_tokens=900), ready("a@echo", 1))
        lab.supervisor.set(ReplicaStatus(replica="b@echo#0", state="failed", reason="code 4"))
        told = await explained(lab, chat("all"))

    assert (told["name"], told["kind"], told["task"], told["policy"]) == ("all", "alias", "chat", "round_robin")
    assert told["policy_from"] == '[routes."all"]'
    assert told["options"] == {"attempt_timeout_s": None, "continuation": "off", "hedge_after_s": 0.5}
    assert told["tiers"] == [["a@echo"], ["b@echo"], ["c@echo"], ["e@echo"]]
    rows = by_name(told)
    assert set(rows) == {"a@echo#0", "a@echo#1", "b@echo#0", "c@echo", "d@echo", "e@echo"}
    assert {rows["a@echo#0"]["rank"], rows["a@echo#1"]["rank"]} == {1, 2}
    (chosen,) = [one for one in told["candidates"] if one["chosen"]]
    assert (chosen["replica"], chosen["rank"], told["chosen"]) == (
        told["candidates"][0]["replica"],
        1,
        chosen["replica"],
    )
    assert (rows["b@echo#0"]["tier"], rows["b@echo#0"]["reason"]) == (2, "it is failed: code 4")
    assert (rows["c@echo"]["tier"], rows["c@echo"]["rank"]) == (3, None)
    assert rows["c@echo"]["reason"] == "it is stopped; a request that comes this far loads it"
    assert (rows["d@echo"]["tier"], rows["d@echo"]["reason"]) == (None, "it is disabled")
    assert rows["e@echo"]["reason"] == "it does not support the task chat"


async def test_the_least_loaded_one_is_chosen_and_its_score_told(start) -> None:
    async with start(**CONFIG) as lab:
        lab.supervisor.set(
            ready("a@echo", 0, running=4, outstanding_prompt_tokens=4000, outstanding_output_tokens=4000),
            ready("a@echo", 1),
        )
        told = await explained(lab, chat("a"))

    rows = by_name(told)
    assert told["chosen"] == "a@echo#1"
    assert rows["a@echo#1"]["score"] < rows["a@echo#0"]["score"]
    assert told["policy_from"] == "[routing]"


async def test_asking_changes_no_policy(start) -> None:
    """Round robin would give the turn to the other one."""
    async with start(**CONFIG) as lab:
        lab.supervisor.set(ready("a@echo", 0), ready("a@echo", 1))
        first = [(await explained(lab, chat("all")))["chosen"] for _ in range(5)]

    assert len(set(first)) == 1


async def test_asking_loads_nothing(start) -> None:
    """What would be loaded is told."""
    async with start(**CONFIG) as lab:
        told = await explained(lab, chat("c"))

        assert lab.supervisor.commands == []
    assert told["chosen"] == "c@echo"
    assert by_name(told)["c@echo"]["reason"] == "it is stopped; a request that comes this far loads it"


async def test_a_field_that_a_backend_lacks_is_named(start) -> None:
    async with start(**CONFIG) as lab:
        lab.supervisor.set(ready("a@echo", 0))
        told = await explained(lab, chat("a", logit_bias={"1": 5}))

    assert told["chosen"] is None
    assert by_name(told)["a@echo"]["reason"] == "it does not support 'logit_bias'"
    assert "does not support 'logit_bias'" in told["error"]


async def test_a_replica_behind_an_open_breaker_is_left_out_until_its_probe(start) -> None:
    """And one whose queue is full, until the time that it named."""
    async with start(**CONFIG) as lab:
        lab.supervisor.set(*(ready("a@echo", number) for number in range(3)))
        now_s = asyncio.get_running_loop().time()
        for _ in range(lab.gateway.settings.routing.breaker_failures):
            lab.gateway.fleet.breakers["a@echo#0"].failed("engine", now_s, lab.gateway.settings.routing)
            now_s += 0.5
        full = lab.gateway.fleet.ready("a@echo")["a@echo1"]
        full.turned_away(Rejected(reason="busy", message="full", retry_after_s=30.0), 1, now_s)
        told = await explained(lab, chat("a"))

    rows = by_name(told)
    assert told["chosen"] == "a@echo#2"
    assert "its circuit breaker is open for another" in rows["a@echo#0"]["reason"]
    assert "its engine failed" in rows["a@echo#0"]["reason"]
    assert rows["a@echo#1"]["reason"].startswith("its queue is full for another 3")
    assert [rows[f"a@echo#{number}"]["rank"] for number in range(3)] == [None, None, 1]


async def test_a_disabled_model_is_explained_rather_than_refused(start) -> None:
    async with start(**CONFIG) as lab:
        told = await explained(lab, chat("d"))
        await lab.client.patch("backends/echo", json={"enabled": False})
        all_off = await explained(lab, chat("a"))

    assert (told["tiers"], told["chosen"]) == ([], None)
    assert "is disabled" in told["error"]
    assert by_name(all_off)["a@echo"]["reason"] == "the backend echo is disabled"


@pytest.mark.parametrize(
    ("body", "task"),
    [
        ({"model": "echo", "prompt": "x"}, "completion"),
        ({"model": "echo", "input": "x"}, "embeddings"),
        ({"model": "echo", "query": "x", "documents": ["y"]}, "rerank"),
        (chat("echo"), "chat"),
    ],
)
async def test_the_endpoint_is_told_by_the_fields_or_by_name(lab, body, task) -> None:
    assert (await explained(lab, body))["task"] == task
    assert (await explained(lab, body, f"?task={task}"))["task"] == task


async def test_what_the_endpoint_would_refuse_is_refused_here(lab) -> None:
    for body, query, status, param in (
        (chat("nobody"), "", 404, "model"),
        (chat("echo", n=0), "", 400, "n"),
        ({"model": "echo"}, "", 400, "messages"),
        (chat("echo"), "?task=poetry", 400, "task"),
        ({"model": "echo", "prompt": "x"}, "?task=chat", 400, "prompt"),
    ):
        response = await lab.client.post(f"route/explain{query}", json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (status, param)


async def test_the_admin_key_is_not_shown_to_a_policy(start, monkeypatch) -> None:
    """Other headers are, as with the real request."""
    seen = []

    def rank(self, request, candidates):
        seen.append(dict(request.headers))
        return candidates

    monkeypatch.setattr("core.routing.policies.LeastLoaded.rank", rank)
    async with start(admin={"key": "x" * 16}) as lab:
        lab.supervisor.set(ready("echo@echo", 0))
        await explained(lab, chat("echo"), authorization="Bearer " + "x" * 16, **{"x-session-id": "s"})

    assert seen
    assert seen[0]["x-session-id"] == "s"
    assert "authorization" not in seen[0]
