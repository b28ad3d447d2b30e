"""``prefix_affinity``: a conversation returns to its replica, within bounds."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.api import (
    Candidate,
    ChatRequest,
    CompletionRequest,
    Content,
    EmbeddingsRequest,
    Load,
    Message,
    RerankRequest,
    RouteRequest,
    Tool,
)
from core.routing.policies import PrefixAffinity, PrefixAffinitySettings


def candidate(index: int, running: int = 0, *, slots: int = 4, **more: Any) -> Candidate:
    return Candidate(
        replica=f"m@b#{index}",
        deployment="m@b",
        model="m",
        backend="b",
        slots=slots,
        load=Load(running=running, outstanding_output_tokens=running * 100),
        **more,
    )


def request(asked: Any) -> RouteRequest:
    return RouteRequest(name="m", task="chat", headers={}, request=asked)


def chat(*texts: str, system: str = "", tools: tuple[Tool, ...] = ()) -> RouteRequest:
    """A conversation in which user and assistant take turns."""
    messages = [Message(role="system", content=(Content(text=system),))] if system else []
    messages += [
        Message(role="assistant" if index % 2 else "user", content=(Content(text=text),))
        for index, text in enumerate(texts)
    ]
    return request(ChatRequest(id="1", messages=tuple(messages), tools=tools))


def policy(**settings: Any) -> PrefixAffinity:
    return PrefixAffinity(PrefixAffinitySettings(**settings))


IDLE = [candidate(index) for index in range(5)]


def names(asked: RouteRequest, candidates: list[Candidate], by: PrefixAffinity | None = None) -> list[str]:
    return [one.replica for one in (by or policy()).rank(asked, candidates)]


# --- what a conversation is


def test_the_turns_of_a_conversation_stay_together() -> None:
    """Whatever is said later; conversations with the same instructions spread all the same."""
    first = names(chat("Who was Ada?", system="Be brief."), IDLE)

    assert names(chat("Who was Ada?", "A mathematician.", "When?", system="Be brief."), IDLE) == first
    firsts = Counter(names(chat(f"Who was {index}?", system="Be brief."), IDLE)[0] for index in range(1000))
    assert all(150 < firsts[one.replica] < 250 for one in IDLE)


@pytest.mark.parametrize(
    "other",
    [
        chat("b", system="s"),
        chat("a", system="t"),
        chat("a"),
        chat("sa"),
        chat("a", system="s", tools=(Tool(name="f"),)),
        chat("x" * 20_000 + "a"),
    ],
)
def test_another_beginning_is_another_conversation(other: RouteRequest) -> None:
    """Instructions, tools and the first question tell them apart."""
    assert policy().scores(other, IDLE) != policy().scores(chat("a", system="s"), IDLE)


def test_tools_tell_conversations_apart() -> None:
    """All that a template writes before the first message."""
    given_tools = [Tool(name="f"), Tool(name="g"), Tool(name="f", description="d"), Tool(name="f", parameters="{}")]
    scores = [tuple(policy().scores(chat("a", tools=(tool,)), IDLE)) for tool in given_tools]

    assert len(set(scores)) == 4


def test_a_conversation_without_a_user() -> None:
    """Is known by its first message; one without any message is one, too."""
    system = Message(role="system", content=(Content(text="s"),))
    answer = Message(role="assistant", content=(Content(text="a"),))

    assert names(request(ChatRequest(id="1", messages=(system, answer))), IDLE) == names(
        request(ChatRequest(id="1", messages=(system,))), IDLE
    )
    assert len(names(request(ChatRequest(id="1", messages=())), IDLE)) == 5


@pytest.mark.parametrize("prompt", ["once upon a time " * 10, tuple(range(40))])
def test_a_completion_goes_by_its_leading_block(prompt: Any) -> None:
    """Text that grows stays, as long as its first block is the same."""
    by = policy(block_tokens=10)
    longer = request(CompletionRequest(id="1", prompts=(prompt + prompt,)))
    other = request(CompletionRequest(id="1", prompts=(prompt[1:],)))
    this = request(CompletionRequest(id="1", prompts=(prompt,)))

    assert by.scores(this, IDLE) == by.scores(longer, IDLE)
    assert by.scores(this, IDLE) != by.scores(other, IDLE)


@pytest.mark.parametrize(
    "asked", [EmbeddingsRequest(id="1", inputs=("a",)), RerankRequest(id="1", query="q", documents=("d",))]
)
def test_what_has_no_turns_goes_where_the_least_work_is(asked: Any) -> None:
    """Nothing of it would be found in a cache."""
    assert names(request(asked), [candidate(0, 3), candidate(1, 1)]) == ["m@b#1", "m@b#0"]


def test_the_order_is_the_same_in_every_process() -> None:
    """It must not hang on Python's own hash, nor on the order of candidates."""
    here = names(chat("hello", system="s"), IDLE)
    code = """
from core.api import *
from core.routing.policies import *
messages = tuple(Message(role=r, content=(Content(text=t),)) for r, t in (("system", "s"), ("user", "hello")))
asked = RouteRequest(name="m", task="chat", headers={}, request=ChatRequest(id="1", messages=messages))
given = [Candidate(replica=f"m@b#{i}", deployment="m@b", model="m", backend="b", slots=4) for i in range(5)]
print([one.replica for one in PrefixAffinity(PrefixAffinitySettings()).rank(asked, given)])
"""
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )

    assert there.stdout.strip() == str(here)
    assert names(chat("hello", system="s"), IDLE[::-1]) == here
    assert "".join(name[-1] for name in here) == "13402"


# --- replicas that come and go


@given(st.integers(0, 4), st.integers(0, 10**9))
def test_only_the_conversations_of_a_gone_replica_move(gone: int, number: int) -> None:
    """And each to the second of its own order; the same backwards for one that comes."""
    asked = chat(f"question {number}")
    before = names(asked, IDLE)
    left = [one for one in IDLE if one is not IDLE[gone]]

    assert names(asked, left) == [name for name in before if name != IDLE[gone].replica]


def test_a_replica_that_comes_takes_its_share() -> None:
    """A sixth of all conversations, and no other one moves."""
    by, more = policy(), [*IDLE, candidate(5)]
    moved = Counter[str]()
    for number in range(3000):
        before, after = (names(chat(str(number)), given_candidates, by)[0] for given_candidates in (IDLE, more))
        if before != after:
            moved[after] += 1

    assert list(moved) == ["m@b#5"]
    assert 420 < moved["m@b#5"] < 580


def test_shares_follow_capacity() -> None:
    """Slots times weight."""
    by = policy()
    given_candidates = [candidate(0, slots=1), candidate(1, slots=2), candidate(2, slots=1, weight=5.0)]
    firsts = Counter(names(chat(str(number)), given_candidates, by)[0] for number in range(4000))

    assert 0.10 < firsts["m@b#0"] / 4000 < 0.15
    assert 0.22 < firsts["m@b#1"] / 4000 < 0.28
    assert 0.59 < firsts["m@b#2"] / 4000 < 0.66


# --- bounds


@given(
    st.lists(st.tuples(st.integers(1, 16), st.floats(0.1, 10)), min_size=1, max_size=8),
    st.floats(1.01, 3),
    st.integers(1, 200),
)
def test_no_replica_gets_more_than_its_bound(sizes: list[tuple[int, float]], bound: float, requests: int) -> None:
    """All requests of one conversation, none of which ends: nobody exceeds its fair share times the bound.

    Half of its slots, or one request, is always allowed.
    """
    by = policy(load_bound=bound)
    running = [0] * len(sizes)
    total = sum(slots * weight for slots, weight in sizes)
    asked = chat("the same for all")
    for done in range(requests):
        given_candidates = [
            candidate(index, count, slots=slots, weight=weight)
            for index, (count, (slots, weight)) in enumerate(zip(running, sizes, strict=True))
        ]
        chosen = int(names(asked, given_candidates, by)[0][-1])
        running[chosen] += 1
        slots, weight = sizes[chosen]
        fair = (done + 1) * slots * weight / total
        assert running[chosen] <= max(math.ceil(bound * fair + 1e-6), math.ceil(slots / 2))


def test_a_busy_replica_is_passed_over_for_the_next_in_order() -> None:
    """And comes last; it gets the conversation back when it has room."""
    asked = chat("hello")
    order = names(asked, IDLE)
    busy = [candidate(index, 9 if f"m@b#{index}" == order[0] else 0) for index in range(5)]

    assert names(asked, busy) == [*order[1:], order[0]]


def test_half_of_the_slots_are_never_passed_over() -> None:
    """A replica that has room serves a conversation that it knows, however idle the others are."""
    asked = chat("hello")
    order = names(asked, IDLE)
    by_name = {one.replica: index for index, one in enumerate(IDLE)}

    def with_load(running: int) -> list[Candidate]:
        given_candidates = list(IDLE)
        given_candidates[by_name[order[0]]] = candidate(by_name[order[0]], running)
        return given_candidates

    assert names(asked, with_load(1)) == order
    assert names(asked, with_load(2)) != order


def test_this_workers_own_requests_count() -> None:
    """The replica's word may be older than they are."""
    asked = chat("hello")
    order = names(asked, IDLE)
    busy = [candidate(index, in_flight=9 if f"m@b#{index}" == order[0] else 0) for index in range(5)]

    assert names(asked, busy)[-1] == order[0]
