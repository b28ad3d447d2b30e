"""Retries, circuit breakers, limits of time: each kind of failure by a scripted replica."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from core.api.messages import Finished, Load, TextDelta, Usage
from core.api.protocols import Candidate, RouteRequest
from core.api.specs import BackendSettings
from core.errors import GatewayError
from core.gateway.answer import Answer, Deadline, ReplicaFailedError
from core.routing.policies import RoundRobin, Weighted
from core.settings import RoutingTable
from core.wire.control import BreakerChanged, ReplicaStatus
from core.wire.frames import Accepted, Done, Failed, Rejected, Submit
from core.wire.stream import FrameStream

Lab = Any
Stream = FrameStream[Any]
Script = Callable[[Stream, Submit], Awaitable[None]]


async def fine(stream: Stream, _submit: Submit) -> None:
    stream.send(Accepted(load=Load()))
    stream.send(TextDelta(text="fine"))
    stream.send(Finished())
    stream.send(Usage(prompt_tokens=1, completion_tokens=1))
    stream.send(Done(load=Load()))


async def die(stream: Stream, _submit: Submit) -> None:
    stream.close()


async def die_midway(stream: Stream, _submit: Submit) -> None:
    stream.send(Accepted(load=Load()))
    stream.send(TextDelta(text="half"))
    await asyncio.sleep(0.005)
    stream.close()


async def break_engine(stream: Stream, _submit: Submit) -> None:
    stream.send(Accepted(load=Load()))
    stream.send(Failed(reason="engine", message="oh"))


async def hang(stream: Stream, _submit: Submit) -> None:
    stream.send(Accepted(load=Load()))
    await stream.receive()


async def be_busy(stream: Stream, _submit: Submit) -> None:
    stream.send(Rejected(reason="busy", message="no", retry_after_s=3.0, load=Load(waiting=5)))


async def blame_client(stream: Stream, _submit: Submit) -> None:
    stream.send(Rejected(reason="invalid", message="no", param="messages"))


async def blame_client_late(stream: Stream, _submit: Submit) -> None:
    stream.send(Accepted(load=Load()))
    stream.send(Failed(reason="invalid", message="no", param="messages"))


async def leave(stream: Stream, _submit: Submit) -> None:
    stream.send(Rejected(reason="draining", message="no"))


async def leave_with_the_queue(stream: Stream, _submit: Submit) -> None:
    stream.send(Accepted(load=Load()))
    stream.send(Failed(reason="draining", message="no"))


def in_turn(*scripts: Script) -> Script:
    """Each request gets the next script, and the last one from then on."""
    left = list(scripts)

    async def run(stream: Stream, submit: Submit) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(stream, submit)

    return run


async def ask(lab: Lab, *tiers: list[str], **changes: Any) -> GatewayError | str:
    """Ask for a whole answer; return its text, or the error."""
    try:
        _, events = await lab.search(*(tiers or [["m@b"]]), **changes).whole_answer()
    except GatewayError as error:
        return error
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def replica(lab: Lab, number: int = 0) -> Any:
    return next(one for one in lab.fleet.ready("m@b").values() if one.name == f"m@b#{number}")


def settings(**changes: Any) -> RoutingTable:
    quick = {"retry_backoff_s": 0.001, "breaker_failures": 1000}
    return RoutingTable(**{**quick, **changes})


FAILURES = [die, die_midway, break_engine, hang]


# --- retries


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failure_is_followed_by_the_next_candidate(lab: Lab, failure: Script) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", failure)
    await lab.replica("m@b", fine)

    assert await ask(lab, options={"attempt_timeout_s": 0.05}) == "fine"


@pytest.mark.parametrize("failure", FAILURES)
async def test_without_a_budget_the_failure_is_the_answer(lab: Lab, failure: Script) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", failure)
    await lab.replica("m@b", fine)
    lab.routing = settings(retry_burst=0)
    error = await ask(lab, options={"attempt_timeout_s": 0.05})

    assert isinstance(error, GatewayError)
    assert error.status in {502, 503, 504}
    assert "Retry-After" in error.headers()
    assert lab.submitted == ["m@b#0"]


@pytest.mark.parametrize("rejection", [be_busy, leave, leave_with_the_queue])
async def test_a_rejection_costs_nothing(lab: Lab, rejection: Script) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", rejection)
    await lab.replica("m@b", fine)
    lab.routing = settings(retry_burst=0)

    assert await ask(lab) == "fine"


@pytest.mark.parametrize("leaving", [leave, leave_with_the_queue])
async def test_who_leaves_is_waited_out_until_a_snapshot_tells_of_another(lab: Lab, leaving: Script) -> None:
    """On a restart the successor is ready, but this worker has not heard of it yet."""
    lab.deployment("m@b")
    await lab.replica("m@b", leaving)
    lab.routing = settings(retry_burst=0)
    asking = asyncio.create_task(ask(lab))
    await until(lambda: lab.submitted and not replica(lab).in_flight)
    await lab.replica("m@b", fine)

    assert await asking == "fine"
    assert lab.submitted == ["m@b#0", "m@b#1"]


async def test_who_became_ready_while_another_was_asked_is_asked_too(lab: Lab) -> None:
    """Replicas are restarted one after another: the first is back when the second leaves."""

    async def leave_when_another_is_ready(stream: Stream, submit: Submit) -> None:
        await lab.replica("m@b", fine)
        await leave(stream, submit)

    lab.deployment("m@b")
    await lab.replica("m@b", leave_when_another_is_ready)

    assert await ask(lab) == "fine"


async def test_who_is_ready_but_left_out_by_the_policy_is_not_waited_for(lab: Lab) -> None:
    class OnlyTheFirst:
        def rank(self, _request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
            return [one for one in candidates if one.replica == "m@b#0"]

    lab.deployment("m@b")
    await lab.replica("m@b", break_engine)
    await lab.replica("m@b", fine)
    error = await ask(lab, policy=OnlyTheFirst())

    assert isinstance(error, GatewayError)
    assert lab.submitted == ["m@b#0"]


async def test_when_nobody_follows_who_left_the_state_is_told(lab: Lab) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", leave_with_the_queue)
    asking = asyncio.create_task(ask(lab))
    await until(lambda: lab.submitted and not replica(lab).in_flight)
    lab.set("m@b", "starting")
    error = await asking

    assert isinstance(error, GatewayError)
    assert (error.status, "m@b is starting" in error.message) == (503, True)


@pytest.mark.parametrize("mistake", [blame_client, blame_client_late])
async def test_a_clients_error_is_never_tried_again_and_never_counts(lab: Lab, mistake: Script) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", mistake)
    await lab.replica("m@b", fine)
    lab.routing = settings(breaker_failures=1)
    for _ in range(3):
        error = await ask(lab)
        assert isinstance(error, GatewayError)
        assert error.status == 400

    assert lab.submitted == ["m@b#0"] * 3
    assert replica(lab).breaker.state == "closed"


async def test_a_storm_of_failures_is_retried_for_a_share_only(lab: Lab) -> None:
    lab.deployment("m@b")
    for _ in range(3):
        await lab.replica("m@b", break_engine)
    lab.routing = settings(retry_burst=5, retry_share=0.1)
    for _ in range(50):
        await ask(lab)

    assert 50 < len(lab.submitted) <= 50 + 5 + 5 + 1  # one for what time gave back


async def test_a_retry_that_is_turned_away_is_not_paid_twice(lab: Lab) -> None:
    lab.deployment("m@b")
    for script in (break_engine, be_busy, fine):
        await lab.replica("m@b", script)
    lab.routing = settings(retry_burst=1)

    assert await ask(lab) == "fine"


async def test_later_retries_wait_but_not_past_the_deadline(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr("core.gateway.search.asyncio.sleep", note)
    monkeypatch.setattr("core.gateway.search.backoff_s", lambda retries, _: (0.0, 0.5, 100.0)[retries])
    lab.deployment("m@b")
    for _ in range(4):
        await lab.replica("m@b", break_engine)
    now_s = asyncio.get_running_loop().time()
    lab.routing = settings()
    await ask(lab, deadline=Deadline(at_s=now_s + 10))

    assert waits[0] == 0.5
    assert 8 < waits[1] <= 10
    assert len(waits) == 2


async def test_an_answer_that_breaks_again_and_again_is_begun_three_times_at_most(lab: Lab) -> None:
    lab.deployment("m@b")
    for _ in range(6):
        await lab.replica("m@b", die_midway)
    lab.routing = settings()
    error = await ask(lab)

    assert isinstance(error, GatewayError)
    assert len(lab.submitted) == 3


async def test_a_request_that_kills_replicas_does_so_to_two_processes_of_each_at_most(lab: Lab) -> None:
    """A deployment that is loaded on demand comes back after each death."""

    async def die_and_come_back(stream: Stream, _submit: Submit) -> None:
        lab.set("m@b", "starting")
        stream.close()

    lab.deployment("m@b", load="on_demand")
    lab.routing = settings()
    lab.set("m@b", "starting")
    asked = asyncio.create_task(ask(lab))
    for process in range(4):
        await lab.replica("m@b", die_and_come_back)
        await until(lambda count=process + 1: len(lab.submitted) == count or asked.done())
        await until(lambda: not lab.fleet.ready("m@b") or asked.done())
    error = await asked

    assert isinstance(error, GatewayError)
    assert lab.submitted == ["m@b#0", "m@b#0"]


# --- whose turn it is


@pytest.mark.parametrize("policy", [RoundRobin, Weighted])
@pytest.mark.parametrize("failure", [break_engine, leave])
async def test_the_share_of_a_replica_that_fails_is_spread(lab: Lab, policy: Any, failure: Script) -> None:
    """Who stands in for it has had its turn, so that it is not the same one each time."""
    lab.deployment("m@b")
    for script in (fine, failure, fine, fine):
        await lab.replica("m@b", script)
    lab.routing, turns = settings(retry_burst=1000), policy(BackendSettings())
    for _ in range(60):
        assert await ask(lab, policy=turns) == "fine"

    counts = [Counter(lab.submitted)[f"m@b#{number}"] for number in (0, 2, 3)]
    assert (sum(counts), max(counts) - min(counts) <= 1) == (60, True)


async def test_who_is_not_asked_for_want_of_budget_keeps_its_turn(lab: Lab) -> None:
    lab.deployment("m@b")
    for script in (fine, break_engine, fine, fine):
        await lab.replica("m@b", script)
    lab.routing, turns = settings(retry_burst=0), RoundRobin(BackendSettings())
    for _ in range(40):
        await ask(lab, policy=turns)

    assert set(Counter(lab.submitted).values()) == {10}


@pytest.mark.parametrize("burst", [0, 1000])
async def test_the_turns_of_hedges_are_spread_too(lab: Lab, burst: float) -> None:
    async def be_slow(stream: Stream, submit: Submit) -> None:
        await asyncio.sleep(0.03)
        await fine(stream, submit)

    lab.deployment("m@b")
    for script in (fine, be_slow, fine, fine):
        await lab.replica("m@b", script)
    lab.routing, turns = settings(retry_burst=burst), RoundRobin(BackendSettings())
    for _ in range(24):
        assert await ask(lab, policy=turns, options={"hedge_after_s": 0.01}) == "fine"

    counts = [Counter(lab.submitted)[f"m@b#{number}"] for number in (0, 2, 3)]
    assert max(counts) - min(counts) <= 2


# --- Retry-After of replicas


async def test_a_busy_replica_is_not_asked_again_before_its_time(lab: Lab) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", be_busy)
    for _ in range(3):
        error = await ask(lab)
        assert isinstance(error, GatewayError)
        assert error.status == 429
        assert 2 < (error.retry_after_s or 0) <= 3

    assert lab.submitted == ["m@b#0"]
    assert len(lab.streams) == 1


async def test_it_is_asked_again_as_soon_as_its_queue_is_shorter(lab: Lab) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", in_turn(be_busy, fine))
    await ask(lab)
    replica(lab).load = Load(waiting=4)

    assert await ask(lab) == "fine"


async def test_it_is_asked_again_after_its_time(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", in_turn(be_busy, fine))
    await ask(lab)
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda time=loop.time: time() + 3.1)

    assert await ask(lab) == "fine"


async def test_no_room_for_a_long_prompt_may_be_room_for_a_short_one(lab: Lab) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", in_turn(be_busy, fine))
    await ask(lab, prompt_tokens=1000)

    assert isinstance(await ask(lab, prompt_tokens=1000), GatewayError)
    assert await ask(lab, prompt_tokens=10) == "fine"


async def test_busy_replicas_make_room_for_the_next_tier(lab: Lab) -> None:
    lab.deployment("m@b")
    lab.deployment("low@b")
    await lab.replica("m@b", be_busy)
    await lab.replica("low@b", fine)
    for _ in range(2):
        assert await ask(lab, ["m@b"], ["low@b"]) == "fine"

    assert lab.submitted == ["m@b#0", "low@b#0", "low@b#0"]


# --- circuit breakers


@pytest.mark.parametrize("failure", FAILURES)
async def test_failures_open_the_breaker_and_nobody_is_sent_there(lab: Lab, failure: Script) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", failure)
    lab.routing = settings(breaker_failures=3)
    for _ in range(5):
        error = await ask(lab, options={"attempt_timeout_s": 0.02})
    assert isinstance(error, GatewayError)

    assert replica(lab).breaker.state == "open"
    assert lab.submitted == ["m@b#0"] * 3
    assert (error.status, error.code) == (503, "model_not_ready")
    assert "circuit breaker (3 failures within 30 s" in error.message
    assert 3 < (error.retry_after_s or 0) <= 5


async def test_refused_connections_open_the_breaker(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", fine)
    lab.servers[0].close()
    lab.routing = settings(breaker_failures=3)
    loop = asyncio.get_running_loop()
    for second in range(3):
        monkeypatch.setattr(loop, "time", lambda time=loop.time, second=second: time() + second)
        assert isinstance(await ask(lab), GatewayError)

    assert replica(lab).breaker.state == "open"


async def test_rejections_do_not_open_the_breaker(lab: Lab) -> None:
    async def unload(stream: Stream, submit: Submit) -> None:
        lab.set("m@b", "stopped")
        await leave(stream, submit)

    lab.deployment("m@b")
    await lab.replica("m@b", in_turn(be_busy, unload))
    lab.routing = settings(breaker_failures=1)
    await ask(lab, prompt_tokens=2)
    await ask(lab, prompt_tokens=1)

    assert lab.submitted == ["m@b#0"] * 2
    assert lab.fleet.breakers["m@b#0"].state == "closed"


async def test_the_news_that_a_replica_leaves_is_not_waited_for_in_vain(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may say so for ever, while the supervisor calls it ready."""
    lab.deployment("m@b")
    lab.deployment("low@b")
    await lab.replica("m@b", leave)
    await lab.replica("low@b", fine)
    loop, jump = asyncio.get_running_loop(), [0.0]
    monkeypatch.setattr(loop, "time", lambda time=loop.time: time() + jump[0])
    asked = asyncio.create_task(ask(lab, ["m@b"], ["low@b"]))
    await until(lambda: lab.submitted)
    await asyncio.sleep(0.01)
    jump[0] = 2.0
    lab.publish()

    assert await asked == "fine"


async def test_one_death_that_cuts_many_streams_is_one_failure(lab: Lab) -> None:
    lab.deployment("m@b")
    together = asyncio.Event()

    async def live_until_told(stream: Stream, _submit: Submit) -> None:
        stream.send(Accepted(load=Load()))
        stream.send(TextDelta(text="half"))
        await together.wait()
        stream.close()

    await lab.replica("m@b", live_until_told)
    lab.routing = settings(breaker_failures=2)
    found = [await lab.search(["m@b"]).next_answer() for _ in range(8)]
    together.set()
    for answer in found:
        with pytest.raises(ReplicaFailedError):
            await text_of(answer)
        answer.close()

    assert replica(lab).breaker.state == "closed"


async def text_of(answer: Answer) -> str:
    events = [event async for batch in answer for event in batch]
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def open_breaker(lab: Lab, then: Script) -> Any:
    """A replica whose breaker is open but may be probed now; it goes on with ``then``."""
    lab.deployment("m@b")
    lab.routing = settings(breaker_failures=1, breaker_open_s=0.001, breaker_open_max_s=60)
    await lab.replica("m@b", in_turn(break_engine, then))
    await ask(lab)
    breaker = replica(lab).breaker
    assert breaker.state == "open"
    await asyncio.sleep(0.002)
    return breaker


async def test_a_probe_that_answers_closes_the_breaker(lab: Lab) -> None:
    breaker = await open_breaker(lab, fine)

    assert await ask(lab) == "fine"
    assert breaker.state == "closed"


async def test_there_is_one_probe_at_a_time_and_a_cancelled_one_makes_room(lab: Lab) -> None:
    breaker = await open_breaker(lab, hang)
    probe = asyncio.create_task(ask(lab))
    await until(lambda: len(lab.submitted) == 2)
    error = await ask(lab)
    assert isinstance(error, GatewayError)
    assert (error.status, breaker.state, breaker.admits(0)) == (503, "half_open", False)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)

    assert (breaker.state, breaker.admits(asyncio.get_running_loop().time())) == ("open", True)


@pytest.mark.parametrize("turned_away", [be_busy, blame_client, blame_client_late])
async def test_a_probe_that_is_turned_away_makes_room_for_the_next(lab: Lab, turned_away: Script) -> None:
    breaker = await open_breaker(lab, turned_away)
    await ask(lab)

    assert (breaker.state, breaker.admits(asyncio.get_running_loop().time())) == ("open", True)


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_probe_that_fails_opens_the_breaker_again(lab: Lab, failure: Script) -> None:
    breaker = await open_breaker(lab, failure)
    await ask(lab, options={"attempt_timeout_s": 0.02})

    assert breaker.state == "open"


async def test_the_breaker_outlives_the_process(lab: Lab) -> None:
    breaker = await open_breaker(lab, fine)
    old = replica(lab)
    lab.set("m@b", "starting")
    await lab.replica("m@b", fine)

    assert replica(lab) is not old
    assert replica(lab).breaker is breaker


async def test_the_successor_of_a_broken_engine_is_asked_as_soon_as_it_is_ready(lab: Lab) -> None:
    """The engine broke with many requests running; each failed, and that is no matter of the next process."""

    async def break_with_the_others(stream: Stream, _submit: Submit) -> None:
        stream.send(Accepted(load=Load()))
        await until(lambda: len(lab.submitted) == 8)
        stream.send(Failed(reason="engine", message="it broke"))

    lab.deployment("m@b")
    lab.routing = settings(breaker_failures=5, breaker_open_s=60)
    await lab.replica("m@b", break_with_the_others)
    await asyncio.gather(*(ask(lab) for _ in range(8)))
    breaker = replica(lab).breaker
    assert breaker.state == "open"
    lab.set("m@b", "starting")
    await lab.replica("m@b", fine)

    assert [await ask(lab) for _ in range(3)] == ["fine"] * 3
    assert breaker.state == "closed"


async def test_no_storm_follows_each_successor_in_a_crash_loop(lab: Lab) -> None:
    lab.deployment("m@b")
    lab.routing = settings(breaker_failures=2, breaker_open_s=60)
    for _ in range(6):
        lab.set("m@b", "starting")
        await lab.replica("m@b", die)
        await asyncio.gather(*(ask(lab) for _ in range(8)))

    # Two open it, however many each of them cut; the third is probed by one request, and then nobody goes there.
    assert lab.fleet.breakers["m@b#0"].state == "open"
    assert len(lab.submitted) == 8 + 8 + 1


async def test_an_open_breaker_makes_room_for_the_next_tier(lab: Lab) -> None:
    lab.deployment("m@b")
    lab.deployment("low@b")
    await lab.replica("m@b", break_engine)
    await lab.replica("low@b", fine)
    lab.routing = settings(breaker_failures=1)
    assert isinstance(await ask(lab), GatewayError)

    assert await ask(lab, ["m@b"], ["low@b"]) == "fine"
    assert lab.submitted == ["m@b#0", "low@b#0"]


async def test_the_supervisor_is_told_of_each_change(lab: Lab) -> None:
    class Control:
        def __init__(self) -> None:
            self.told: list[Any] = []

        def send(self, frame: Any) -> None:
            self.told.append(frame)

        def close(self) -> None:
            pass

    lab.fleet._control = control = Control()
    await open_breaker(lab, fine)
    await ask(lab)

    assert [(type(frame), frame.replica, frame.state) for frame in control.told] == [
        (BreakerChanged, "m@b#0", state) for state in ("open", "half_open", "closed")
    ]
    assert "engine" in control.told[0].reason


# --- time


async def test_an_attempt_that_takes_too_long_is_504_when_nobody_else_is_left(lab: Lab) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", hang)
    error = await ask(lab, options={"attempt_timeout_s": 0.02})
    assert isinstance(error, GatewayError)

    assert error.status == 504
    assert "routing.attempt_timeout_s" in error.message
    await until(lambda: lab.cancelled == ["m@b#0"])


@pytest.mark.parametrize(
    ("operators_s", "counts"), [({"first_event_s": 0.05}, True), ({"whole_s": 0.05}, True), ({"whole_s": 60}, False)]
)
async def test_a_limit_counts_against_a_replica_only_if_it_is_the_operators(
    lab: Lab, operators_s: dict[str, float], counts: bool
) -> None:
    """A client that allows a hundredth of a second may not close replicas for everybody."""
    lab.deployment("m@b")
    await lab.replica("m@b", hang)
    lab.routing = settings(breaker_failures=1)
    now_s = asyncio.get_running_loop().time()
    limits = {key: now_s + value for key, value in operators_s.items()}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout_at(now_s + 0.05):
            await lab.search(["m@b"], deadline=Deadline(at_s=now_s + 0.05, **limits)).next_answer()

    assert (replica(lab).breaker.state == "open") == counts


@pytest.mark.parametrize(("whole_s", "counts"), [(0.05, True), (9, False)])
async def test_a_stall_after_the_first_event_counts_by_the_limit_of_the_whole(
    lab: Lab, whole_s: float, counts: bool
) -> None:
    async def stall(stream: Stream, _submit: Submit) -> None:
        stream.send(Accepted(load=Load()))
        stream.send(TextDelta(text="half"))
        await stream.receive()

    lab.deployment("m@b")
    await lab.replica("m@b", stall)
    lab.routing = settings(breaker_failures=1)
    now_s = asyncio.get_running_loop().time()
    deadline = Deadline(at_s=now_s + 0.05, first_event_s=now_s + 0.01, whole_s=now_s + whole_s)
    answer = await lab.search(["m@b"], deadline=deadline).next_answer()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout_at(now_s + 0.05):
            await text_of(answer)
    answer.close()

    assert (replica(lab).breaker.state == "open") == counts


async def test_a_long_answer_is_no_failure_of_its_replica(lab: Lab) -> None:
    """It told tokens until the operator's limit passed."""

    async def tell(stream: Stream, _submit: Submit) -> None:
        stream.send(Accepted(load=Load()))
        while True:
            stream.send(TextDelta(text="more"))
            await asyncio.sleep(0.005)

    lab.deployment("m@b")
    await lab.replica("m@b", tell)
    lab.routing = settings(breaker_failures=1)
    now_s = asyncio.get_running_loop().time()
    answer = await lab.search(["m@b"], deadline=Deadline(at_s=now_s + 0.1, whole_s=now_s + 0.1)).next_answer()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout_at(now_s + 0.1):
            await text_of(answer)
    answer.close()

    assert replica(lab).breaker.state == "closed"


async def test_a_whole_answer_is_measured_and_not_in_flight_before_anybody_closes_it(lab: Lab) -> None:
    lab.deployment("m@b")
    await lab.replica("m@b", fine)
    answer = await lab.search(["m@b"]).next_answer()
    await text_of(answer)

    assert (replica(lab).in_flight, replica(lab).output_tokens.value) == (0, 1)


async def test_a_replica_that_is_planned_to_restart_is_named_with_its_breaker(lab: Lab) -> None:
    lab.deployment("m@b")
    lab.routing = settings(breaker_failures=1)
    await lab.replica("m@b", break_engine)
    await ask(lab)
    retrying = ReplicaStatus(replica="m@b#0", state="starting", retry_in_s=2.5)
    lab.set("m@b", "starting", reason="exit code 4", replicas=(retrying,))
    error = await ask(lab)
    assert isinstance(error, GatewayError)

    assert error.retry_after_s == 2.5
    assert "exit code 4" in error.message
