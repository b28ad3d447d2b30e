"""``lowest_latency``: who is expected to be done first."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from core.api import Candidate, ChatRequest, EmbeddingsRequest, Load, RouteRequest, Sampling
from core.routing.policies import LowestLatency, LowestLatencySettings


def request(max_tokens: int | None = None) -> RouteRequest:
    chat = ChatRequest(id="1", messages=(), sampling=Sampling(max_tokens=max_tokens))
    return RouteRequest(name="m", task="chat", headers={}, request=chat)


def candidate(
    name: str, ttft_s: float | None = None, token_s: float | None = None, *, running: int = 0, **more: Any
) -> Candidate:
    return Candidate(
        replica=name,
        deployment="m@b",
        model="m",
        backend="b",
        slots=more.pop("slots", 4),
        ttft_s=ttft_s,
        token_s=token_s,
        load=Load(running=running),
        **more,
    )


@pytest.fixture
def policy() -> LowestLatency:
    return LowestLatency(LowestLatencySettings(half_life_s=10))


def first(policy: LowestLatency, *candidates: Candidate, max_tokens: int | None = None) -> str:
    return policy.rank(request(max_tokens), candidates)[0].replica


def test_long_answers_go_where_tokens_are_fast(policy: LowestLatency) -> None:
    """And short ones where the first comes soon; without a limit, the setting's number of tokens is expected."""
    sprinter, runner = candidate("sprinter", 0.1, 0.1), candidate("runner", 1.0, 0.01)

    assert first(policy, runner, sprinter, max_tokens=5) == "sprinter"
    assert first(policy, sprinter, runner, max_tokens=100) == "runner"
    assert first(policy, sprinter, runner) == "runner"
    assert first(LowestLatency(LowestLatencySettings(output_tokens=5)), runner, sprinter) == "sprinter"


def test_what_generates_nothing_is_judged_by_its_first_event(policy: LowestLatency) -> None:
    """Embeddings have no tokens to wait for."""
    embeddings = RouteRequest(name="m", task="embeddings", headers={}, request=EmbeddingsRequest(id="1", inputs=("a",)))

    assert policy.scores(embeddings, [candidate("a", 0.1, 0.1)]) == [0.1]


def test_the_scores_are_seconds(policy: LowestLatency) -> None:
    """Time to the first token, then the tokens; more by what it has to do already."""
    scores = policy.scores(
        request(10), [candidate("a", 1.0, 0.1), candidate("b", 1.0, 0.1, running=4), candidate("c", 1.0)]
    )

    assert scores == pytest.approx([2.0, 4.0, 1.0])


def test_a_busy_one_is_left_for_one_half_as_fast(policy: LowestLatency) -> None:
    """When it has more than a request per slot to do."""
    assert first(policy, candidate("fast", 1.0, running=3), candidate("slow", 2.0)) == "fast"
    assert first(policy, candidate("fast", 1.0, running=5), candidate("slow", 2.0)) == "slow"
    assert first(policy, candidate("fast", 1.0, in_flight=5), candidate("slow", 2.0)) == "slow"


@pytest.mark.parametrize("times", [2, 8, 32])
def test_a_slow_one_is_tried_again(policy: LowestLatency, times: int) -> None:
    """After as many half-lives as it is powers of two slower; not before."""
    half_lives = times.bit_length() - 1
    before = candidate("slow", 0.1 * times, measured_s_ago=10 * half_lives - 1)
    after = candidate("slow", 0.1 * times, measured_s_ago=10 * half_lives + 1)

    assert first(policy, candidate("fast", 0.1), before) == "fast"
    assert first(policy, candidate("fast", 0.1), after) == "slow"


def test_one_request_is_enough_to_find_out(policy: LowestLatency) -> None:
    """While it is on its way, the old expectation counts: the next requests go to the fast one."""
    tried = candidate("slow", 10.0, measured_s_ago=1e6, in_flight=1)

    assert first(policy, candidate("fast", 0.1), tried) == "fast"


def test_the_unknown_comes_first_but_not_with_everything(policy: LowestLatency) -> None:
    """With one request on its way it is taken for as good as the best, and its load counts."""
    fast = candidate("fast", 0.1)

    assert first(policy, fast, candidate("new")) == "new"
    assert first(policy, fast, candidate("new", in_flight=1)) == "fast"
    assert first(policy, candidate("fast", 0.1, running=4), candidate("new", in_flight=1)) == "new"


def test_among_unknowns_requests_spread(policy: LowestLatency) -> None:
    """At first nobody is known: who has nothing yet, drawn at random, then who has less."""
    counts = Counter(first(policy, candidate("a"), candidate("b")) for _ in range(400))
    assert 140 < counts["a"] < 260

    assert first(policy, candidate("a", in_flight=1), candidate("b")) == "b"
    assert first(policy, candidate("a", in_flight=2), candidate("b", in_flight=1)) == "b"


def test_a_slow_one_gets_little_in_the_long_run(policy: LowestLatency) -> None:
    """A simulated hour of requests, one at a time: the one ten times slower is tried, a few times a minute at most."""
    last_s = {"fast": -1.0, "slow": -1.0}
    ttft_s = {"fast": 0.1, "slow": 1.0}
    counts, now_s = Counter[str](), 0.0
    while now_s < 3600:
        chosen = first(policy, *(candidate(name, ttft_s[name], measured_s_ago=now_s - last_s[name]) for name in ttft_s))
        counts[chosen] += 1
        now_s += ttft_s[chosen]
        last_s[chosen] = now_s

    assert 50 < counts["slow"] < 200
    assert counts["fast"] > 30_000
