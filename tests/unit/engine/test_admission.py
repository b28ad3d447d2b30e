"""The queue in front of the engine, without an engine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.api import ChatRequest, CompletionRequest, Content, EmbeddingsRequest, EngineRequest, Message, RerankRequest
from core.engine.admission import Admission, Ticket, count_endings, estimate_prompt_tokens


def chat(n: int = 1, text: str = "") -> ChatRequest:
    return ChatRequest(id="r", n=n, messages=(Message(role="user", content=(Content(text=text),)),))


def queue(slots: int, *, waiting: int = 100, tokens: int = 10_000) -> Admission:
    return Admission(slots=slots, max_waiting=waiting, max_waiting_prompt_tokens=tokens)


def enter(admission: Admission, n: int = 1, text: str = "") -> Ticket:
    ticket = admission.enter(chat(n, text))
    assert ticket is not None
    return ticket


@pytest.mark.parametrize(
    ("request_", "endings", "tokens"),
    [
        (chat(3, "12345"), 3, 2),
        (chat(1, "日本"), 1, 2),
        (CompletionRequest(id="r", prompts=("1234", (1, 2, 3)), n=2), 4, 4),
        (EmbeddingsRequest(id="r", inputs=("a", "b", "c")), 3, 3),
        (RerankRequest(id="r", query="12345", documents=("a", "123456789", "")), 3, 8),
    ],
)
def test_what_a_request_counts(request_: EngineRequest, endings: int, tokens: int) -> None:
    """Choices and inputs are counted, tokens guessed from bytes of text and counted from ids."""
    assert count_endings(request_) == endings
    assert estimate_prompt_tokens(request_) == tokens


def test_runs_as_many_choices_as_there_are_slots() -> None:
    """A request of two choices takes two slots."""
    admission = queue(3)
    assert enter(admission, 2).started.is_set()
    assert enter(admission, 1).started.is_set()
    assert not enter(admission, 1).started.is_set()
    assert (admission.running, admission.waiting) == (2, 1)


def test_a_request_wider_than_the_engine_runs_alone() -> None:
    """Its cost is capped, or it could never start."""
    admission = queue(2)
    wide = enter(admission, 5)
    narrow = enter(admission)
    assert wide.started.is_set()
    assert not narrow.started.is_set()
    admission.leave(wide)
    assert narrow.started.is_set()


def test_nobody_overtakes() -> None:
    """A wide request at the head is not starved by narrow ones that would fit."""
    admission = queue(2)
    first, second = enter(admission), enter(admission)
    wide, narrow = enter(admission, 2), enter(admission)
    admission.leave(first)
    assert not wide.started.is_set()
    assert not narrow.started.is_set()
    admission.leave(second)
    assert wide.started.is_set()
    assert not narrow.started.is_set()


def test_leaving_the_queue_lets_those_behind_start() -> None:
    """A wide request that gives up waiting frees the way for a narrow one."""
    admission = queue(2)
    enter(admission)
    wide, narrow = enter(admission, 2), enter(admission)
    admission.leave(wide)
    assert narrow.started.is_set()
    assert not wide.started.is_set()


def test_the_queue_is_bounded_by_requests() -> None:
    """What runs does not count; with a bound of 0 nothing waits."""
    admission = queue(1, waiting=1)
    enter(admission)
    enter(admission)
    assert admission.enter(chat()) is None
    assert queue(1, waiting=0).enter(chat()) is not None


def test_the_queue_is_bounded_by_prompt_tokens() -> None:
    """A long prompt is refused where a short one may still wait; leaving gives the tokens back."""
    admission = queue(1, tokens=10)
    enter(admission, text="x" * 4000)
    waiting = enter(admission, text="x" * 28)
    assert admission.waiting_prompt_tokens == 7
    assert admission.enter(chat(text="x" * 16)) is None
    enter(admission, text="x" * 12)
    admission.leave(waiting)
    assert admission.waiting_prompt_tokens == 3


@given(
    slots=st.integers(1, 5),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 8), st.integers(0, 40)), max_size=80),
)
def test_slots_never_overbooked_and_everybody_gets_a_turn(slots: int, steps: list[tuple[bool, int, int]]) -> None:
    """Whatever comes and goes: running cost fits, order holds, and an emptied queue is as new."""
    admission = queue(slots, waiting=4, tokens=30)
    inside: list[Ticket] = []
    for comes, n, size in steps:
        if comes:
            if ticket := admission.enter(chat(n, "x" * size)):
                inside.append(ticket)
        elif inside:
            admission.leave(inside.pop(n % len(inside)))
        running = [ticket for ticket in inside if ticket.started.is_set()]
        waiting = [ticket for ticket in inside if not ticket.started.is_set()]
        assert sum(ticket.cost for ticket in running) <= slots
        assert (admission.running, admission.waiting) == (len(running), len(waiting))
        assert admission.waiting_prompt_tokens == sum(ticket.prompt_tokens for ticket in waiting) <= 30
        if waiting:
            assert sum(ticket.cost for ticket in running) + waiting[0].cost > slots
    for ticket in inside:
        admission.leave(ticket)
    assert (admission.running, admission.waiting, admission.waiting_prompt_tokens) == (0, 0, 0)
    assert enter(admission, slots).started.is_set()
