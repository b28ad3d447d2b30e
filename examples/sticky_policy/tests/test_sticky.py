from __future__ import annotations

from collections import Counter

import pytest
from sticky_policy.plugin import StickyPolicy, StickySettings, gateway_policies

from core.api import Candidate, ChatRequest, Load, RouteRequest, ScoringPolicy


def candidate(index: int, load: Load | None = None, slots: int = 4, in_flight: int = 0) -> Candidate:
    return Candidate(
        replica=f"m@b#{index}",
        deployment="m@b",
        model="m",
        backend="b",
        slots=slots,
        in_flight=in_flight,
        load=load or Load(),
    )


def request(user: str | None = None, **headers: str) -> RouteRequest:
    chat = ChatRequest(id="1", messages=())
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return RouteRequest(name="m", task="chat", user=user, headers=names, request=chat)


CANDIDATES = [candidate(index) for index in range(5)]


@pytest.fixture
def policy() -> StickyPolicy:
    return StickyPolicy(StickySettings())


def test_a_user_stays(policy: StickyPolicy) -> None:
    """The order of one user depends on neither time nor load nor the order of candidates."""
    first = [one.replica for one in policy.rank(request("ann"), CANDIDATES)]
    busy = [candidate(index, Load(running=index)) for index in reversed(range(5))]

    assert [one.replica for one in policy.rank(request("ann"), busy)] == first


def test_the_order_is_the_same_in_every_process() -> None:
    """It must not hang on Python's own hash, which differs between processes."""
    ranked = StickyPolicy(StickySettings()).rank(request("ann"), CANDIDATES)

    assert [one.replica[-1] for one in ranked] == list("43201")


def test_users_are_spread(policy: StickyPolicy) -> None:
    """Each of five replicas gets about a fifth of a thousand users."""
    counts = Counter(policy.rank(request(f"user-{index}"), CANDIDATES)[0].replica for index in range(1000))

    assert len(counts) == 5
    assert all(150 < count < 250 for count in counts.values())


def test_only_the_users_of_a_gone_replica_move(policy: StickyPolicy) -> None:
    """And each of them moves to the second of their own order."""
    for index in range(100):
        before = policy.rank(request(f"user-{index}"), CANDIDATES)
        left = [one for one in CANDIDATES if one is not CANDIDATES[0]]

        assert list(policy.rank(request(f"user-{index}"), left)) == [one for one in before if one in left]


def test_the_header_stands_in_for_the_user() -> None:
    """Its name is configured, in any case; the user field wins."""
    policy = StickyPolicy(StickySettings(header="X-Team"))
    by_user = policy.rank(request("ann"), CANDIDATES)

    assert policy.rank(request(x_team="ann"), CANDIDATES) == by_user
    assert policy.rank(request("ann", x_team="bob"), CANDIDATES) == by_user


def test_without_a_name_the_least_busy_is_first(policy: StickyPolicy) -> None:
    """Relative to its slots, and with this worker's own requests."""
    busy = candidate(0, Load(running=2, waiting=2), slots=4)
    big = candidate(1, Load(running=4), slots=16)
    ours = candidate(2, in_flight=3, slots=4)

    assert list(policy.rank(request(), [busy, ours, big])) == [big, ours, busy]


@pytest.mark.parametrize("user", [None, "ann"])
def test_the_scores_tell_the_order(policy: StickyPolicy, user: str | None) -> None:
    """For ``python -m core explain``; the lower the better."""
    given = [candidate(index, Load(running=index)) for index in range(5)]
    scores = policy.scores(request(user), given)

    assert isinstance(policy, ScoringPolicy)
    assert [one for _, one in sorted(zip(scores, given, strict=True))] == list(policy.rank(request(user), given))


@pytest.mark.parametrize("user", [None, "ann"])
def test_nothing_in_nothing_out(policy: StickyPolicy, user: str | None) -> None:
    """And the candidates are ranked, not changed."""
    given = list(CANDIDATES)

    assert list(policy.rank(request(user), [])) == []
    assert {id(one) for one in policy.rank(request(user), given)} == set(map(id, CANDIDATES))
    assert given == CANDIDATES


def test_what_the_plugin_declares() -> None:
    """The hook gives the policy with its settings."""
    (spec,) = gateway_policies()

    assert (spec.name, spec.settings) == ("sticky", StickySettings)
