"""``least_loaded``: the less loaded of two."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.api import Candidate, ChatRequest, Load, RouteRequest
from core.routing.policies import LeastLoaded, LeastLoadedSettings
from core.routing.policies.load import work

REQUEST = RouteRequest(name="m", task="chat", headers={}, request=ChatRequest(id="1", messages=()))


def candidate(name: str = "m@b#0", *, prompt: int = 0, output: int = 0, slots: int = 4, **more: Any) -> Candidate:
    load = Load(
        running=more.pop("running", 0),
        waiting=more.pop("waiting", 0),
        outstanding_prompt_tokens=prompt,
        outstanding_output_tokens=output,
    )
    return Candidate(replica=name, deployment="m@b", model="m", backend="b", slots=slots, load=load, **more)


@pytest.fixture
def policy() -> LeastLoaded:
    return LeastLoaded(LeastLoadedSettings())


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (candidate(prompt=100), candidate(prompt=101)),
        (candidate(output=100), candidate(output=101)),
        # Tokens count, not requests.
        (candidate(running=9, output=100), candidate(running=1, output=2000)),
        # A generated token costs four of a prompt.
        (candidate(prompt=399), candidate(output=100)),
        (candidate(output=100), candidate(prompt=401)),
        (candidate(output=300, slots=16), candidate(output=100, slots=4)),
        (candidate(output=300, weight=4.0), candidate(output=100)),
        # What this worker has on it itself is known for sure; it is in the replica's count already.
        (candidate(output=200), candidate(output=100, in_flight_output_tokens=300)),
        (candidate(prompt=200), candidate(prompt=100, in_flight_prompt_tokens=300)),
        (candidate(output=300, in_flight_output_tokens=300), candidate(output=400)),
        # Nearly over is not the same as over, and far from untold: a replica that has said all it was asked for is
        # no more loaded than one that has yet to begin.
        (candidate(running=13), candidate(running=14, output=14)),
        (candidate(), candidate(running=1)),
        # Without any word of tokens, requests count.
        (candidate(running=1), candidate(running=1, waiting=1)),
        (candidate(running=1), candidate(in_flight=2)),
        (candidate(running=3, slots=16), candidate(running=1, slots=4)),
    ],
)
def test_who_is_less_loaded(policy: LeastLoaded, better: Candidate, worse: Candidate) -> None:
    """Of two, whichever way round."""
    assert all(policy.rank(REQUEST, pair)[0] is better for pair in ([better, worse], [worse, better]) for _ in range(9))


def test_what_a_generated_token_costs_is_a_setting() -> None:
    """Of the policy's table."""
    policy = LeastLoaded(LeastLoadedSettings(output_token_cost=1))

    assert policy.scores(REQUEST, [candidate(prompt=50, output=50, slots=1)]) == [100]


sizes = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 64), st.floats(0.01, 100)), min_size=2, max_size=12)


@given(sizes)
def test_the_first_is_never_the_worse_of_two(given_sizes: list[tuple[int, int, float]]) -> None:
    """Two different ones are drawn and the better one is first, so the worst of all never is; the rest is by work."""
    policy = LeastLoaded(LeastLoadedSettings())
    given_candidates = [
        candidate(str(index), output=output, slots=slots, weight=weight)
        for index, (output, slots, weight) in enumerate(given_sizes)
    ]
    score = dict(zip((one.replica for one in given_candidates), policy.scores(REQUEST, given_candidates), strict=True))
    drawn = policy._two(given_candidates)
    policy._two = lambda _given: drawn  # type: ignore[method-assign]
    first, *rest = policy.rank(REQUEST, given_candidates)

    assert len(set(drawn)) == 2
    assert first in [given_candidates[index] for index in drawn]
    assert score[first.replica] == min(score[given_candidates[index].replica] for index in drawn)
    assert [score[one.replica] for one in rest] == sorted(score[one.replica] for one in rest)


def test_two_are_drawn_and_not_the_best_of_all(policy: LeastLoaded) -> None:
    """Of ten with different loads, the least loaded is first about as often as two of ten are drawn; the last never."""
    given_candidates = [candidate(str(index), output=index * 10) for index in range(10)]
    firsts = Counter(policy.rank(REQUEST, given_candidates)[0].replica for _ in range(4000))

    assert 0.17 < firsts["0"] / 4000 < 0.23
    assert firsts["9"] == 0
    assert [firsts[str(index)] for index in range(0, 9, 2)] == sorted(
        (firsts[str(index)] for index in range(0, 9, 2)), reverse=True
    )


def test_equals_share_by_capacity(policy: LeastLoaded) -> None:
    """Idle replicas are drawn in proportion to slots and weight."""
    given_candidates = [candidate("one", slots=1), candidate("two", slots=1, weight=2.0), candidate("five", slots=5)]
    firsts = Counter(policy.rank(REQUEST, given_candidates)[0].replica for _ in range(4000))

    assert 0.08 < firsts["one"] / 4000 < 0.17
    assert 0.20 < firsts["two"] / 4000 < 0.30
    assert 0.57 < firsts["five"] / 4000 < 0.68


def test_one_that_outweighs_all_others(policy: LeastLoaded) -> None:
    """Rounding draws no candidate twice, and none that is not there."""
    given_candidates = [candidate("a", weight=1e-300), candidate("b", weight=1e300), candidate("c", weight=1e-300)]

    for _ in range(100):
        assert len(set(policy._two(given_candidates))) == 2


def test_several_workers_even_out() -> None:
    """Four workers, each seeing the true load of a moment ago, keep eight replicas within a few of each other."""
    workers = [LeastLoaded(LeastLoadedSettings()) for _ in range(4)]
    output = Counter({f"m@b#{index}": 0 for index in range(8)})
    for _ in range(200):
        seen = dict(output)
        for worker in workers:  # one request each before any of them hears of the others'
            chosen = worker.rank(REQUEST, [candidate(name, output=seen[name]) for name in seen])[0].replica
            output[chosen] += 100

    assert max(output.values()) - min(output.values()) <= 800


def test_work_is_what_is_known_for_sure() -> None:
    """Both kinds of tokens, each by the greater of two counts."""
    one = candidate(prompt=10, output=5, in_flight_prompt_tokens=7, in_flight_output_tokens=6)

    assert work(one, 4.0) == 10 + 4 * 6
