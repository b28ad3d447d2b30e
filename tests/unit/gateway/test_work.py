"""What this worker has outstanding on a replica, and what it measures there."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.api.messages import Embedding, EngineEvent, Finished, Load, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from core.api.protocols import RouteRequest
from core.api.requests import ChatRequest, CompletionRequest, EmbeddingsRequest, EngineRequest, Sampling
from core.api.specs import BackendSettings, BackendSpec, ModelSpec
from core.gateway.fleet import Fleet
from core.gateway.replica import Replica
from core.gateway.work import Work
from core.routing.table import Deployment
from core.settings import RoutingTable
from core.wire.control import ReplicaStatus

Lab = Any
CLOCK = [0.0]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loop:
        @staticmethod
        def time() -> float:
            return CLOCK[0]

    CLOCK[0] = 100.0
    monkeypatch.setattr("core.gateway.work.asyncio.get_running_loop", Loop)


def replica() -> Replica:
    deployment = Deployment(
        spec=ModelSpec(name="m", backend="b"),
        backend=BackendSpec(name="b", engine="none:Engine"),
        settings=BackendSettings(),
        python=None,
        replicas=1,
        idle_unload_s=None,
        declared_by="test",
    )
    status = ReplicaStatus(replica="m@b#0", state="ready", socket="s")
    return Replica(deployment=deployment, status=status, socket="s", load=Load())


def work(on: Replica, request: EngineRequest, prompt_tokens: int = 100) -> Work:
    fleet = Fleet.__new__(Fleet)
    asked = RouteRequest(name="m", task="chat", estimated_prompt_tokens=prompt_tokens, headers={}, request=request)
    return Work(fleet, on, asked, RoutingTable())


def chat(max_tokens: int | None = None, n: int = 1) -> ChatRequest:
    return ChatRequest(id="r", messages=(), n=n, sampling=Sampling(max_tokens=max_tokens))


def outstanding(of: Replica) -> tuple[int, int, int]:
    return of.in_flight, of.in_flight_prompt_tokens, of.in_flight_output_tokens


def test_the_prompt_is_outstanding_until_the_first_event_and_tokens_until_they_come() -> None:
    on = replica()
    made = work(on, chat(max_tokens=10))
    assert outstanding(on) == (1, 100, 10)
    made.saw([TextDelta(tokens=2), ReasoningDelta(tokens=1)])
    assert outstanding(on) == (1, 0, 7)
    made.saw([ToolCallDelta(tokens=3), Finished()])
    assert outstanding(on) == (1, 0, 4)
    made.completed()
    made.end()
    made.end()
    assert outstanding(on) == (0, 0, 0)


@pytest.mark.parametrize(
    ("request_", "tokens"),
    [
        (chat(max_tokens=10, n=3), 30),
        (CompletionRequest(id="r", prompts=("a", "b"), n=2, sampling=Sampling(max_tokens=5)), 20),
        (EmbeddingsRequest(id="r", inputs=("a",)), 0),
    ],
)
def test_every_choice_is_outstanding(request_: EngineRequest, tokens: int) -> None:
    on = replica()
    work(on, request_)

    assert on.in_flight_output_tokens == tokens


def test_without_a_limit_an_answer_is_thought_to_be_as_long_as_others_were() -> None:
    on = replica()
    made = work(on, chat(n=2))
    made.saw([TextDelta(tokens=20), TextDelta(choice=1, tokens=60)])
    made.completed()
    made.end()
    work(on, chat())

    assert on.in_flight_output_tokens == 40


def test_the_time_to_the_first_event_and_per_token_after_it_are_measured() -> None:
    on = replica()
    made = work(on, chat())
    CLOCK[0] += 2.0
    made.saw([TextDelta(tokens=5)])
    CLOCK[0] += 3.0
    made.saw([TextDelta(tokens=5)])
    CLOCK[0] += 1.0
    made.saw([TextDelta(tokens=3), Finished(), Usage()])
    made.completed()
    made.end()

    assert on.ttft_s.value == 2.0
    assert on.token_s.value == pytest.approx(4.0 / 8)
    assert on.measured_at_s == 106.0


def test_the_newest_measurement_counts_a_fifth() -> None:
    on = replica()
    for wait_s in (1.0, 2.0):
        made = work(on, chat())
        CLOCK[0] += wait_s
        made.saw([TextDelta()])
        made.end()

    assert on.ttft_s.value == pytest.approx(1.2)


def test_an_answer_in_one_piece_says_nothing_of_the_time_per_token() -> None:
    on = replica()
    made = work(on, chat())
    made.saw([TextDelta(tokens=9), Finished(), Usage()])
    made.completed()

    assert on.token_s.value is None


def test_vectors_count_as_no_tokens() -> None:
    on = replica()
    made = work(on, EmbeddingsRequest(id="r", inputs=("a",)))
    made.saw([Embedding(index=0, vector=b""), Usage(prompt_tokens=1)])
    made.completed()
    made.end()

    assert outstanding(on) == (0, 0, 0)
    assert on.output_tokens.value is None


EVENTS = st.lists(
    st.builds(TextDelta, tokens=st.integers(0, 50))
    | st.builds(ToolCallDelta, tokens=st.integers(0, 9))
    | st.just(Usage()),
    min_size=1,
    max_size=4,
)
LIVES = st.lists(
    st.tuples(
        st.integers(0, 1000),
        st.none() | st.integers(0, 300),
        st.integers(1, 3),
        st.lists(EVENTS, max_size=5),
        st.sampled_from(["completed", "engine", "death", "cancelled"]),
    ),
    max_size=6,
)


@given(lives=LIVES, order=st.randoms())
def test_nothing_is_outstanding_when_nothing_is_in_flight(lives: Any, order: Any) -> None:
    """However requests overlap and end: never below zero, and exactly zero in the end."""
    on = replica()
    on.breaker.failed = lambda *_args, **_more: False  # type: ignore[method-assign]
    running: list[tuple[Work, list[list[EngineEvent]], str]] = []
    for prompt_tokens, max_tokens, n, batches, ending in lives:
        running.append((work(on, chat(max_tokens, n), prompt_tokens), list(batches), ending))
    while running:
        made, batches, ending = order.choice(running)
        if batches:
            made.saw(batches.pop(0))
        else:
            running.remove((made, batches, ending))
            if ending == "completed":
                made.completed()
            elif ending != "cancelled":
                made.failed(ending)  # type: ignore[arg-type]
            made.end()
        assert min(outstanding(on)) >= 0
        assert on.in_flight == len(running)

    assert outstanding(on) == (0, 0, 0)
