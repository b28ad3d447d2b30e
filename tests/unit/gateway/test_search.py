"""Failover until the first event, and what is said when nobody is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from core.api.messages import Finished, Load, TextDelta, Usage
from core.errors import GatewayError
from core.gateway.answer import Answer, ReplicaFailedError
from core.wire.control import ReplicaStatus
from core.wire.frames import Accepted, Done, Failed, Rejected, Submit
from core.wire.stream import FrameStream

Lab = Any
Script = Callable[[FrameStream[Any], Submit], Awaitable[None]]


def answer(text: str, *more: str) -> Script:
    """A script that answers with these texts."""

    async def run(stream: FrameStream[Any], _submit: Submit) -> None:
        stream.send(Accepted(load=Load(running=1)))
        for part in (text, *more):
            stream.send(TextDelta(text=part))
            await asyncio.sleep(0)
        stream.send(Finished(reason="stop"))
        stream.send(Usage(prompt_tokens=3, completion_tokens=1 + len(more)))
        stream.send(Done(load=Load(running=0, steps=7)))

    return run


async def die(stream: FrameStream[Any], _submit: Submit) -> None:
    stream.close()


async def die_midway(stream: FrameStream[Any], _submit: Submit) -> None:
    stream.send(Accepted(load=Load()))
    stream.send(TextDelta(text="half"))
    await asyncio.sleep(0.01)
    stream.close()


def reject(reason: Any, **changes: Any) -> Any:
    async def run(stream: FrameStream[Any], _submit: Submit) -> None:
        stream.send(Rejected(reason=reason, message="no", **changes))

    return run


def fail(reason: Any) -> Any:
    async def run(stream: FrameStream[Any], _submit: Submit) -> None:
        stream.send(Accepted(load=Load()))
        stream.send(Failed(reason=reason, message="oh", param="messages", code="c"))

    return run


async def text_of(found: Answer) -> str:
    events = [event async for batch in found for event in batch]
    assert isinstance(events[-1], Usage)
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def refused(lab: Lab, *tiers: list[str], **changes: Any) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await lab.search(*tiers, **changes).whole_answer()
    return caught.value


async def test_an_answer_streams_and_its_connection_is_pooled(lab: Lab) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", answer("Hel", "lo"))
    for _ in range(3):
        found = await lab.search(["m@b"]).next_answer()
        assert await text_of(found) == "Hello"
        found.close()

    (replica,) = lab.fleet.ready("m@b").values()
    assert (replica.in_flight, len(replica.idle), len(lab.streams)) == (0, 1, 1)
    assert replica.load.steps == 7


async def test_the_last_load_told_is_the_one_that_counts(lab: Lab) -> None:
    """Also when all of an answer arrives at once."""

    async def at_once(stream: FrameStream[Any], _submit: Submit) -> None:
        stream.send(Accepted(load=Load(running=1, steps=1)))
        stream.send(TextDelta(text="x"))
        stream.send(Finished())
        stream.send(Usage())
        stream.send(Done(load=Load(running=0, steps=2)))

    lab.deployment("m@b")
    await lab.replica("m@b", at_once)
    await lab.search(["m@b"]).whole_answer()
    (replica,) = lab.fleet.ready("m@b").values()

    assert replica.load == Load(running=0, steps=2)


async def test_the_better_tier_is_asked_first(lab: Lab) -> None:
    for name in ("low@b", "high@b"):
        lab.deployment(name)
        await lab.replica(name, answer(name))

    assert await text_of(await lab.search(["high@b"], ["low@b"]).next_answer()) == "high@b"


@pytest.mark.parametrize("first", [die, reject("busy"), reject("draining"), fail("engine")])
async def test_the_next_candidate_is_tried_before_the_first_event(lab: Lab, first: Any) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", first)
    await lab.replica("m@b", answer("second"))
    search = lab.search(["m@b"])

    assert await text_of(await search.next_answer()) == "second"
    assert search.attempts == 2


async def test_a_refused_connection_is_a_failed_candidate(lab: Lab) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", answer("never"))
    lab.servers[0].close()
    await lab.replica("m@b", answer("second"))

    assert await text_of(await lab.search(["m@b"]).next_answer()) == "second"


async def test_a_stream_that_broke_is_not_begun_again(lab: Lab) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", die_midway)
    await lab.replica("m@b", answer("second"))
    found = await lab.search(["m@b"]).next_answer()
    with pytest.raises(ReplicaFailedError):
        await text_of(found)
    found.close()

    assert lab.submitted == ["m@b#0"]


async def test_a_whole_answer_that_broke_is_begun_again_elsewhere(lab: Lab) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", die_midway)
    await lab.replica("m@b", answer("second"))
    _, events = await lab.search(["m@b"]).whole_answer()

    assert [event.text for event in events if isinstance(event, TextDelta)] == ["second"]


async def test_a_bad_request_is_never_tried_elsewhere(lab: Lab) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", reject("invalid", param="tools", code="bad"))
    await lab.replica("m@b", answer("never"))
    error = await refused(lab, ["m@b"])

    assert (error.status, error.param, error.code) == (400, "tools", "bad")
    assert lab.submitted == ["m@b#0"]


async def test_full_queues_everywhere_are_429_with_the_shortest_wait(lab: Lab) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", reject("busy", retry_after_s=9.0))
    await lab.replica("m@b", reject("busy", retry_after_s=4.0))
    error = await refused(lab, ["m@b"])

    assert (error.status, error.retry_after_s) == (429, 4.0)


async def test_a_death_with_nobody_left_is_503_with_retry_after(lab: Lab) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", die)
    error = await refused(lab, ["m@b"])

    assert error.status == 503
    assert "Retry-After" in error.headers()


async def test_an_engine_failure_with_nobody_left_is_502(lab: Lab) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", fail("engine"))

    assert (await refused(lab, ["m@b"])).status == 502


async def test_nobody_ready_is_503_with_every_reason(lab: Lab) -> None:
    lab.deployment("a@b")
    lab.deployment("c@b")
    lab.set("a@b", "absent", reason="run python -m core pull a")
    retrying = ReplicaStatus(replica="c@b#0", state="starting", retry_in_s=7.0)
    lab.set("c@b", "starting", reason="exit code 1", replicas=(retrying,))
    error = await refused(lab, ["a@b"], ["c@b"])

    assert (error.status, error.retry_after_s) == (503, 7.0)
    assert "python -m core pull a" in error.message
    assert "exit code 1" in error.message


async def test_a_client_of_a_model_without_weights_is_not_told_to_come_back_in_a_moment(lab: Lab) -> None:
    """Only an operator can bring them; where anything else may come by itself, it is worth another try."""
    lab.deployment("a@b")
    lab.deployment("c@b")
    lab.set("a@b", "absent", reason="run python -m core pull a")
    lab.set("c@b", "absent")
    error = await refused(lab, ["a@b"], ["c@b"])
    assert (error.status, error.headers()) == (503, {})
    lab.set("c@b", "starting")
    assert (await refused(lab, ["a@b"], ["c@b"])).headers() == {"Retry-After": "2"}


async def test_an_on_demand_deployment_is_waited_for(lab: Lab) -> None:
    lab.deployment("m@b", load="on_demand")
    lab.deployment("low@b")
    await lab.replica("low@b", answer("low"))
    lab.publish()
    asked = asyncio.create_task(lab.search(["m@b"], ["low@b"]).next_answer())
    await asyncio.sleep(0)
    lab.set("m@b", "starting")
    await asyncio.sleep(0)
    assert not asked.done()
    await lab.replica("m@b", answer("loaded"))

    assert await text_of(await asked) == "loaded"


async def test_an_on_demand_deployment_that_backs_off_is_not_waited_for(lab: Lab) -> None:
    lab.deployment("m@b", load="on_demand")
    retrying = ReplicaStatus(replica="m@b#0", state="starting", retry_in_s=60.0)
    lab.set("m@b", "starting", replicas=(retrying,))

    assert (await refused(lab, ["m@b"])).status == 503


async def test_closing_an_answer_cancels_it_in_the_replica(lab: Lab) -> None:
    async def endless(stream: FrameStream[Any], _submit: Submit) -> None:
        stream.send(Accepted(load=Load()))
        stream.send(TextDelta(text="x"))
        await stream.receive()

    lab.deployment("m@b")
    await lab.replica("m@b", endless)
    found = await lab.search(["m@b"]).next_answer()
    (replica,) = lab.fleet.ready("m@b").values()
    assert replica.in_flight == 1
    found.close()
    async with asyncio.timeout(5):
        while not lab.cancelled:
            await asyncio.sleep(0.01)

    assert replica.in_flight == 0


async def test_cancelling_a_search_leaves_nothing_in_flight(lab: Lab) -> None:
    async def silent(stream: FrameStream[Any], _submit: Submit) -> None:
        stream.send(Accepted(load=Load()))
        await stream.receive()

    lab.deployment("m@b")
    await lab.replica("m@b", silent)
    asked = asyncio.create_task(lab.search(["m@b"]).next_answer())
    async with asyncio.timeout(5):
        while not lab.submitted:
            await asyncio.sleep(0.01)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    (replica,) = lab.fleet.ready("m@b").values()

    assert replica.in_flight == 0


async def test_a_capability_that_is_missing_is_refused_by_field_and_backend(lab: Lab) -> None:
    lab.deployment("m@weak")
    error = await refused(lab, ["m@weak"], needs={"logprobs": "top_logprobs"})

    assert (error.status, error.param, error.code) == (400, "top_logprobs", "unsupported_parameter")
    assert "weak" in error.message


async def test_deployments_without_the_capability_are_passed_over(lab: Lab) -> None:
    lab.deployment("m@weak")
    lab.deployment("m@able", capabilities=frozenset({"logprobs"}))
    await lab.replica("m@weak", answer("weak"))
    await lab.replica("m@able", answer("able"))
    found = await lab.search(["m@weak"], ["m@able"], needs={"logprobs": "logprobs"}).next_answer()

    assert await text_of(found) == "able"


async def test_a_task_that_no_deployment_has_is_refused(lab: Lab) -> None:
    lab.deployment("m@b", tasks=("chat",))
    error = await refused(lab, ["m@b"], task="embeddings")

    assert (error.status, error.code) == (400, "unsupported_task")


async def test_a_policy_that_raises_does_not_cost_the_request(lab: Lab) -> None:
    class Broken:
        def rank(self, _request: object, _candidates: object) -> Any:
            raise RuntimeError("bug")

    lab.deployment("m@b")
    await lab.replica("m@b", answer("fine"))
    await lab.replica("m@b", answer("fine"))

    assert await text_of(await lab.search(["m@b"], policy=Broken()).next_answer()) == "fine"


@pytest.mark.parametrize("replicas", [1, 2])
async def test_whom_a_policy_leaves_out_is_not_asked(lab: Lab, replicas: int) -> None:
    """Not even when it is the only one; and the error says whose choice it was."""

    class Nobody:
        def rank(self, _request: object, _candidates: object) -> Any:
            return []

    lab.deployment("m@b")
    for _ in range(replicas):
        await lab.replica("m@b", answer("never"))
    with pytest.raises(GatewayError) as caught:
        await lab.search(["m@b"], policy=Nobody()).next_answer()

    assert caught.value.status == 503
    assert "the routing policy least_loaded left every candidate" in caught.value.message
    assert lab.submitted == []


async def test_a_candidate_ranked_twice_is_asked_once(lab: Lab) -> None:
    class Twice:
        def rank(self, _request: object, candidates: Any) -> Any:
            return [*candidates, *candidates]

    lab.deployment("m@b")
    await lab.replica("m@b", reject("busy"))
    await refused(lab, ["m@b"], policy=Twice())

    assert lab.submitted == ["m@b#0"]


async def test_finished_comes_before_usage_in_what_is_passed_on(lab: Lab) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", answer("a"))
    _, events = await lab.search(["m@b"]).whole_answer()

    assert [type(event) for event in events] == [TextDelta, Finished, Usage]
