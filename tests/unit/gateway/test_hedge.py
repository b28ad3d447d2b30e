"""A second attempt when the first has no event in time: who wins, and what becomes of the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import Mock

import pytest

from core.api.messages import Finished, Load, TextDelta, Usage
from core.errors import GatewayError
from core.gateway.hedge import hedged
from core.gateway.metrics import _hedges
from core.settings import RoutingTable
from core.wire.frames import Accepted, Done, Failed, Rejected, Submit
from core.wire.stream import FrameStream

Lab = Any
Stream = FrameStream[Any]
Script = Callable[[Stream, Submit], Awaitable[None]]
SOON = {"hedge_after_s": 0.02}


def after(seconds: float, text: str) -> Script:
    """A script that answers with the text after some time."""

    async def run(stream: Stream, _submit: Submit) -> None:
        stream.send(Accepted(load=Load()))
        await asyncio.sleep(seconds)
        stream.send(TextDelta(text=text))
        stream.send(Finished())
        stream.send(Usage())
        stream.send(Done(load=Load()))

    return run


async def hang(stream: Stream, _submit: Submit) -> None:
    stream.send(Accepted(load=Load()))
    await stream.receive()


async def die(stream: Stream, _submit: Submit) -> None:
    stream.close()


async def be_busy(stream: Stream, _submit: Submit) -> None:
    stream.send(Rejected(reason="busy", message="no"))


def broken_after(seconds: float) -> Script:
    async def run(stream: Stream, _submit: Submit) -> None:
        stream.send(Accepted(load=Load()))
        await asyncio.sleep(seconds)
        stream.send(Failed(reason="engine", message="oh"))

    return run


async def leave(stream: Stream, _submit: Submit) -> None:
    stream.send(Accepted(load=Load()))
    await asyncio.sleep(0.05)
    stream.send(Failed(reason="draining", message="no"))


async def blame_client(stream: Stream, _submit: Submit) -> None:
    stream.send(Rejected(reason="invalid", message="no"))


async def replicas(lab: Lab, *scripts: Script) -> None:
    lab.deployment("m@b")
    for script in scripts:
        await lab.replica("m@b", script)


async def text(lab: Lab, **options: Any) -> str:
    _, events = await lab.search(["m@b"], options={**SOON, **options}).whole_answer()
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def all_idle(lab: Lab) -> bool:
    return all(
        (one.in_flight, one.in_flight_prompt_tokens, one.in_flight_output_tokens) == (0, 0, 0)
        for one in lab.fleet.ready("m@b").values()
    )


@pytest.fixture
def outcomes() -> Callable[[], dict[str, float]]:
    """How often each outcome was counted since the test began."""

    def now() -> dict[str, float]:
        return {
            sample.labels["outcome"]: sample.value
            for metric in _hedges.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        }

    before = now()
    return lambda: {key: value - before.get(key, 0) for key, value in now().items() if value > before.get(key, 0)}


async def test_the_second_wins_and_the_first_is_cancelled_at_once(lab: Lab, outcomes: Any) -> None:
    await replicas(lab, hang, after(0, "second"))
    search = lab.search(["m@b"], options=SOON)
    answer = await search.next_answer()

    assert (answer.replica.name, search.replica, search.attempts) == ("m@b#1", answer.replica, 2)
    assert [one.in_flight for one in lab.fleet.ready("m@b").values() if one.name == "m@b#0"] == [0]
    await until(lambda: lab.cancelled == ["m@b#0"])
    answer.close()
    assert all_idle(lab)
    assert outcomes() == {"won": 1}


async def test_the_first_may_still_win(lab: Lab, outcomes: Any) -> None:
    await replicas(lab, after(0.05, "first"), hang)
    search = lab.search(["m@b"], options=SOON)
    answer = await search.next_answer()

    assert (answer.replica.name, search.replica) == ("m@b#0", answer.replica)
    await until(lambda: lab.cancelled == ["m@b#1"])
    answer.close()
    assert all_idle(lab)
    assert outcomes() == {"lost": 1}


async def test_of_two_that_begin_at_the_same_moment_one_is_closed() -> None:
    class Attempt:
        """As much of a work and of its answer as a race needs."""

        def __init__(self) -> None:
            self.replica, self.closed = self, False

        def end(self) -> None:
            pass

        def close(self) -> None:
            self.closed = True

    first, second, now = Attempt(), Attempt(), asyncio.Event()

    async def begin(attempt: Any) -> Any:
        await now.wait()
        return attempt

    def another() -> Any:
        asyncio.get_running_loop().call_later(0.01, now.set)
        return second

    winner = await hedged(first, begin, after_s=0.001, another=another)  # type: ignore[arg-type]
    await asyncio.sleep(0)

    assert winner is first
    assert (first.closed, second.closed) == (False, True)


async def test_a_first_that_is_quick_is_never_hedged(lab: Lab, outcomes: Any) -> None:
    await replicas(lab, after(0, "first"), after(0, "second"))

    assert await text(lab, hedge_after_s=5) == "first"
    assert lab.submitted == ["m@b#0"]
    assert outcomes() == {}


async def test_a_single_candidate_is_not_hedged(lab: Lab, outcomes: Any) -> None:
    await replicas(lab, after(0.05, "first"))

    assert await text(lab) == "first"
    assert outcomes() == {}


async def test_where_a_tier_has_nobody_else_the_next_one_is_asked(lab: Lab, outcomes: Any) -> None:
    """As with ``models = ["a", "b"]`` of a route, each of which has one replica."""
    await replicas(lab, hang)
    lab.deployment("n@b")
    await lab.replica("n@b", after(0, "next"))
    _, events = await lab.search(["m@b"], [], ["n@b"], options=SOON).whole_answer()

    assert [event.text for event in events if isinstance(event, TextDelta)] == ["next"]
    assert outcomes() == {"won": 1}


async def test_a_tiers_own_candidates_come_first(lab: Lab) -> None:
    lab.deployment("n@b")
    await lab.replica("n@b", after(0, "next"))
    await replicas(lab, hang, after(0, "second"))
    _, events = await lab.search(["m@b"], ["n@b"], options=SOON).whole_answer()

    assert [event.text for event in events if isinstance(event, TextDelta)] == ["second"]


async def test_a_hedge_needs_the_retry_budget(lab: Lab) -> None:
    await replicas(lab, after(0.05, "first"), after(0, "second"))
    lab.routing = RoutingTable(retry_burst=0)

    assert await text(lab) == "first"
    assert lab.submitted == ["m@b#0"]


async def test_who_was_no_hedge_for_want_of_budget_is_still_the_next_candidate(lab: Lab) -> None:
    await replicas(lab, leave, after(0, "second"))
    lab.routing = RoutingTable(retry_burst=0)

    assert await text(lab) == "second"


async def test_a_hedge_that_was_refused_may_be_made_later(lab: Lab, outcomes: Any) -> None:
    """One hedge per request is one that was made."""
    await replicas(lab, leave, hang, after(0, "third"))
    lab.budget.take = Mock(side_effect=[False, True])

    assert await text(lab) == "third"
    assert outcomes() == {"won": 1}


async def test_there_is_one_hedge_per_request(lab: Lab) -> None:
    """Both fail; the third candidate is a retry, and as slow as it is, it stays alone."""
    await replicas(lab, broken_after(0.03), broken_after(0.03), after(0.05, "third"), after(0, "fourth"))

    assert await text(lab) == "third"
    assert len(lab.submitted) == 3


@pytest.mark.parametrize("second", [die, be_busy])
async def test_a_second_that_fails_leaves_the_first_alone(lab: Lab, second: Script) -> None:
    await replicas(lab, after(0.1, "first"), second)

    assert await text(lab) == "first"
    assert lab.cancelled == []


async def test_a_first_that_fails_meanwhile_is_waited_for_no_longer(lab: Lab) -> None:
    await replicas(lab, broken_after(0.03), after(0.05, "second"), after(0, "third"))

    assert await text(lab) == "second"
    assert len(lab.submitted) == 2


async def test_both_fail_and_nobody_is_left(lab: Lab, outcomes: Any) -> None:
    await replicas(lab, broken_after(0.03), die)
    with pytest.raises(GatewayError) as caught:
        await text(lab)

    assert caught.value.status in {502, 503}
    assert all_idle(lab)
    assert outcomes() == {"failed": 1}


async def test_a_clients_error_ends_both(lab: Lab) -> None:
    await replicas(lab, hang, blame_client)
    with pytest.raises(GatewayError) as caught:
        await text(lab)

    assert caught.value.status == 400
    await until(lambda: lab.cancelled == ["m@b#0"])
    assert all_idle(lab)


@pytest.mark.parametrize("at_s", [0.0, 0.005, 0.02, 0.021, 0.03])
async def test_a_client_that_goes_cancels_both(lab: Lab, at_s: float) -> None:
    await replicas(lab, hang, hang)
    asked = asyncio.create_task(text(lab))
    await asyncio.sleep(at_s)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)

    assert all_idle(lab)
    await until(lambda: len(lab.cancelled) == len(lab.submitted))


async def test_attempts_have_their_own_limit_each(lab: Lab) -> None:
    await replicas(lab, hang, hang, after(0, "third"))

    assert await text(lab, attempt_timeout_s=0.05) == "third"
    assert all_idle(lab)
