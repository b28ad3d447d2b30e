"""What every built-in policy must hold."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.api import (
    Candidate,
    ChatRequest,
    CompletionRequest,
    Content,
    EmbeddingsRequest,
    Load,
    Message,
    Policy,
    PolicySpec,
    RerankRequest,
    RouteRequest,
    ScoringPolicy,
)
from core.registry.builtin import gateway_policies

SPECS = {spec.name: spec for spec in gateway_policies()}


def request(asked: Any) -> RouteRequest:
    return RouteRequest(name="m", task="chat", headers={}, request=asked)


REQUESTS = [
    request(ChatRequest(id="1", messages=())),
    request(ChatRequest(id="1", messages=(Message(role="user", content=(Content(text="hello " * 1000),)),))),
    request(CompletionRequest(id="1", prompts=("hello",))),
    request(CompletionRequest(id="1", prompts=((1, 2, 3),))),
    request(EmbeddingsRequest(id="1", inputs=("hello",))),
    request(RerankRequest(id="1", query="q", documents=("d",))),
]

WEIGHTS = {"a@b": 0.001, "c@b": 1.0, "d@b": 1000.0}
counts = st.integers(0, 100)
tokens = st.integers(0, 10**7)
latencies = st.none() | st.floats(0, 1000)
candidates = st.lists(
    st.builds(
        Candidate,
        replica=st.text(min_size=1),
        deployment=st.sampled_from(sorted(WEIGHTS)),
        model=st.just("m"),
        backend=st.just("b"),
        slots=st.integers(0, 64),
        load=st.builds(
            Load,
            running=counts,
            waiting=counts,
            outstanding_prompt_tokens=tokens,
            outstanding_output_tokens=tokens,
        ),
        in_flight=counts,
        in_flight_prompt_tokens=tokens,
        in_flight_output_tokens=tokens,
        ttft_s=latencies,
        token_s=latencies,
        measured_s_ago=st.floats(0, 10**6),
    ).map(lambda one: msgspec.structs.replace(one, weight=WEIGHTS[one.deployment])),
    max_size=20,
    unique_by=lambda one: one.replica,
)


def make(spec: PolicySpec) -> Policy:
    return spec.policy(spec.settings())


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> PolicySpec:
    return SPECS[request.param]


def test_there_are_five() -> None:
    """By the names that are written into the configuration; ``sticky`` is a plugin's."""
    assert list(SPECS) == ["least_loaded", "round_robin", "weighted", "lowest_latency", "prefix_affinity"]


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=50)
@given(given_candidates=candidates, asked=st.sampled_from(REQUESTS))
def test_all_are_ranked_and_none_is_changed(name: str, given_candidates: list[Candidate], asked: RouteRequest) -> None:
    """Each candidate once, so that failover reaches all of them; nothing in, nothing out."""
    before = deepcopy(given_candidates)
    ranked = list(make(SPECS[name]).rank(asked, given_candidates))

    assert sorted(map(id, ranked)) == sorted(map(id, given_candidates))
    assert given_candidates == before


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=50)
@given(given_candidates=candidates, asked=st.sampled_from(REQUESTS))
def test_scores_explain_the_order(name: str, given_candidates: list[Candidate], asked: RouteRequest) -> None:
    """The lower the better; only ``least_loaded`` takes one of two that it drew first."""
    policy = make(SPECS[name])
    assert isinstance(policy, ScoringPolicy)
    scores = dict(zip((one.replica for one in given_candidates), policy.scores(asked, given_candidates), strict=True))
    ranked = [scores[one.replica] for one in policy.rank(asked, given_candidates)]
    by_least_work = name == "least_loaded" or not isinstance(asked.request, ChatRequest | CompletionRequest)
    rest = ranked[1:] if by_least_work else ranked

    assert rest == sorted(rest)


@pytest.mark.parametrize("asked", REQUESTS[:2] + REQUESTS[4:5])
def test_a_hundred_candidates_take_little_time(spec: PolicySpec, asked: RouteRequest) -> None:
    """The contract says 100 microseconds; ten times that is a mistake and not a slow machine."""
    policy = make(spec)
    many = [
        Candidate(replica=f"m@b#{index}", deployment="m@b", model="m", backend="b", load=Load(running=index % 5))
        for index in range(100)
    ]
    policy.rank(asked, many)
    best_s = min(_timed_s(lambda: policy.rank(asked, many)) for _ in range(50))

    assert best_s < 0.001


def _timed_s(call: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    call()
    return time.perf_counter() - start_s
