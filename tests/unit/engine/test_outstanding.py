"""The estimate of what is yet to be computed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.api import ChatRequest, Continued, EmbeddingsRequest, Sampling
from core.engine.outstanding import Answering, Outstanding


def chat(max_tokens: int | None = None, *, n: int = 1, said: int = 0) -> ChatRequest:
    continued = Continued(token_ids=(1,) * said) if said else None
    return ChatRequest(id="r", messages=(), n=n, sampling=Sampling(max_tokens=max_tokens), continued=continued)


def told(sums: Outstanding) -> tuple[int, int]:
    return sums.prompt_tokens, sums.output_tokens


def test_a_prompt_counts_until_the_first_event_and_an_answer_until_it_is_told() -> None:
    """Each to zero again."""
    sums = Outstanding(4096)
    one = sums.enter(chat(40), 100)
    assert told(sums) == (100, 40)
    one.begin()
    one.tokens = 10
    assert told(sums) == (0, 30)
    sums.leave(one)
    assert told(sums) == (0, 0)


def test_how_long_an_answer_is_expected_to_be() -> None:
    """256 tokens a choice at first, or less where the request or the context allows less; nothing is generated else."""
    sums = Outstanding(1000)

    assert sums.enter(chat(), 100).expected_tokens == 256
    assert sums.enter(chat(5000, n=2), 100).expected_tokens == 512
    assert sums.enter(chat(7, n=2), 100).expected_tokens == 14
    assert sums.enter(chat(), 900).expected_tokens == 100
    assert sums.enter(chat(), 5000).expected_tokens == 1
    assert sums.enter(EmbeddingsRequest(id="r", inputs=("a",)), 5).expected_tokens == 0
    assert Outstanding().enter(chat(), 10**6).expected_tokens == 256


def test_what_another_replica_has_said_is_not_expected_again() -> None:
    """Of a continued answer, only the rest."""
    sums = Outstanding(4096)

    assert sums.enter(chat(300, said=200), 10).expected_tokens == 56
    assert sums.enter(chat(300, said=299), 10).expected_tokens == 1


def test_an_answer_longer_than_expected_is_not_nothing() -> None:
    """It counts for a little until its limit is near."""
    sums = Outstanding(4096)
    one = sums.enter(chat(300), 10)
    one.begin()
    left = []
    for one.tokens in (255, 290, 300):
        left.append(sums.output_tokens)

    assert left == [32, 10, 0]


def test_it_learns_from_whole_answers() -> None:
    """Per choice; what was continued elsewhere is no whole answer."""
    sums = Outstanding(4096)
    for _ in range(100):
        one = sums.enter(chat(n=2), 1)
        one.tokens = 200
        sums.learn(chat(n=2), one)
        sums.learn(chat(said=5), one)
        sums.leave(one)

    assert sums.enter(chat(), 1).expected_tokens == 100


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["enter", "begin", "leave"]), st.integers(0, 500))))
def test_the_sums_are_those_of_who_is_there(moves: list[tuple[int, str, int]]) -> None:
    """Whoever comes, begins and goes in whichever order; at the end nothing is left."""
    sums = Outstanding(2000)
    there: dict[int, Answering] = {}
    for number, move, tokens in moves:
        if move == "enter" and number not in there:
            there[number] = sums.enter(chat(tokens or None), tokens)
        elif number in there and move == "begin" and not there[number].begun:
            there[number].begin()
            there[number].tokens = tokens
        elif number in there and move == "leave":
            sums.leave(there.pop(number))
        waiting = [one for one in there.values() if not one.begun]
        assert sums.prompt_tokens == sum(one.prompt_tokens for one in waiting)
        assert sums.output_tokens == sum(one.left_tokens for one in there.values())
    for one in there.values():
        sums.leave(one)
    assert told(sums) == (0, 0)
