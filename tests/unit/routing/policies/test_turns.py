"""``round_robin`` and ``weighted``: in turns."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.api import BackendSettings, Candidate, ChatRequest, Load, Policy, RouteRequest
from core.routing.policies import RoundRobin, Weighted

REQUEST = RouteRequest(name="m", task="chat", headers={}, request=ChatRequest(id="1", messages=()))
NONE = BackendSettings()


def candidate(name: str, weight: float = 1.0, running: int = 0) -> Candidate:
    """``a0`` is replica 0 of deployment ``a``."""
    return Candidate(
        replica=name, deployment=name[0], model="m", backend="b", weight=weight, load=Load(running=running)
    )


def turns(policy: Policy, given_candidates: list[Candidate], count: int) -> list[str]:
    return [policy.rank(REQUEST, given_candidates)[0].replica for _ in range(count)]


# --- round_robin


def test_in_turns() -> None:
    """Each once before anybody is twice, in the same order each time, whatever the load or the weight."""
    given_candidates = [candidate("a"), candidate("b", running=9), candidate("c", weight=5)]
    got = turns(RoundRobin(NONE), given_candidates, 9)

    assert sorted(got[:3]) == ["a", "b", "c"]
    assert got[:3] == got[3:6] == got[6:]


def test_who_failed_is_followed_by_the_next_in_turn() -> None:
    """The whole order is by turns."""
    policy = RoundRobin(NONE)
    given_candidates = [candidate(name) for name in "abcd"]
    order = turns(policy, given_candidates, 4)

    assert [one.replica for one in policy.rank(REQUEST, given_candidates)] == order


def test_workers_begin_at_random() -> None:
    """So that several do not go in step."""
    given_candidates = [candidate(name) for name in "abcd"]
    firsts = Counter(turns(RoundRobin(NONE), given_candidates, 1)[0] for _ in range(400))

    assert all(60 < firsts[name] < 140 for name in "abcd")


@given(st.lists(st.sets(st.sampled_from("abcde"), min_size=1), max_size=60), st.randoms(use_true_random=False))
def test_turns_are_fair_while_candidates_come_and_go(rounds: list[set[str]], chance: object) -> None:
    """Whoever is there throughout has as many turns as each other such one, give or take one: in any stretch."""
    policy = RoundRobin(NONE)
    order = [turns(policy, [candidate(name) for name in sorted(present)], 1)[0] for present in rounds]
    for start in range(len(rounds)):
        present, counts = set("abcde"), Counter[str]()
        for end in range(start, len(rounds)):
            present &= rounds[end]
            counts[order[end]] += 1
            there = [counts[name] for name in present]
            assert not there or max(there) - min(there) <= 1


def test_two_sets_do_not_disturb_each_other() -> None:
    """Requests for two models in turns: each set is still served evenly."""
    policy = RoundRobin(NONE)
    first, second = [candidate("a"), candidate("b")], [candidate("c"), candidate("d")]
    counts = Counter(policy.rank(REQUEST, group)[0].replica for _ in range(10) for group in (first, second))

    assert set(counts.values()) == {5}


# --- weighted


def test_turns_by_weight_are_mixed() -> None:
    """Weight 3 is three turns of four, and not three in a run after the other."""
    got = "".join(turns(Weighted(NONE), [candidate("a", weight=3), candidate("b")], 80))

    assert got.count("a") == 60
    assert "bb" not in got
    assert "aaaa" not in got


def test_a_deployments_weight_is_shared_by_its_replicas() -> None:
    """Four replicas get no more than one would; they take turns."""
    given_candidates = [candidate("a0"), *(candidate(f"b{index}") for index in range(4))]
    counts = Counter(turns(Weighted(NONE), given_candidates, 800))

    assert counts["a0"] == pytest.approx(400, abs=1)
    assert all(counts[f"b{index}"] == pytest.approx(100, abs=1) for index in range(4))


weights = st.dictionaries(st.sampled_from("abcde"), st.floats(0.1, 10), min_size=1)


@given(weights, st.integers(1, 300))
def test_each_has_its_share_at_any_time(given_weights: dict[str, float], count: int) -> None:
    """After any number of turns, everybody is within two turns of the share of the weights."""
    given_candidates = [candidate(name, weight) for name, weight in given_weights.items()]
    counts = Counter(turns(Weighted(NONE), given_candidates, count))

    for name, weight in given_weights.items():
        assert abs(counts[name] - count * weight / sum(given_weights.values())) <= 2


@given(
    st.dictionaries(st.sampled_from("abcde"), st.floats(0.1, 10), min_size=5),
    st.lists(st.sets(st.sampled_from("abcde"), min_size=1), max_size=60),
)
def test_who_was_away_is_neither_flooded_nor_starved(given_weights: dict[str, float], rounds: list[set[str]]) -> None:
    """Whatever came and went before: from then on, everybody soon has the share of the weights."""
    policy = Weighted(NONE)
    for present in rounds:
        turns(policy, [candidate(name, given_weights[name]) for name in sorted(present)], 1)
    total = sum(given_weights.values())
    counts = Counter(turns(policy, [candidate(name, weight) for name, weight in given_weights.items()], 400))

    for name, weight in given_weights.items():
        assert abs(counts[name] - 400 * weight / total) <= 4 + len(rounds)


def test_weighted_workers_begin_at_random() -> None:
    """Two equals: about half of the workers begin with each."""
    firsts = Counter(turns(Weighted(NONE), [candidate("a"), candidate("b")], 1)[0] for _ in range(400))

    assert 140 < firsts["a"] < 260
