"""Where a new prompt goes."""

from __future__ import annotations

import pytest
from decoding.slots import WORTH_COPYING_TOKENS, Content, Place, choose_slot, common_prefix, most_shared
from hypothesis import given
from hypothesis import strategies as st

LONG = tuple(range(100))


def held(slot: int, *tokens: int, free: bool = True, last_used: int = 0) -> Content:
    return Content(slot, list(tokens), free=free, last_used=last_used)


def test_no_slot_is_free() -> None:
    """Then there is no place, whatever is shared."""
    assert choose_slot(LONG, [held(0, *LONG, free=False)]) is None


def test_the_longest_beginning_wins() -> None:
    """And all but the prompt's last two tokens is used: one alone would be rounded otherwise."""
    contents = [held(0, *LONG[:30]), held(1, *LONG), held(2)]

    assert choose_slot(LONG, contents) == Place(1, None, 98)


def test_a_long_conversation_is_not_lost_for_a_short_beginning() -> None:
    """A system prompt that others share is copied out of it instead."""
    contents = [held(0, *LONG, *range(500, 900)), held(1)]

    assert choose_slot((*LONG, 7, 8), contents) == Place(1, 0, 100)


def test_it_is_lost_where_there_is_no_other_slot() -> None:
    """Computing the beginning again would not save it."""
    assert choose_slot((*LONG, 7, 8), [held(0, *LONG, *range(500, 900))]) == Place(0, None, 100)


def test_half_of_what_a_slot_holds_is_enough_to_take_it() -> None:
    """And a token less is copied out of it."""
    assert choose_slot(LONG, [held(0, *LONG[:50], *range(500, 550)), held(1)]) == Place(0, None, 50)
    assert choose_slot(LONG, [held(0, *LONG[:49], *range(500, 550)), held(1)]) == Place(1, 0, 49)


def test_a_running_neighbour_is_copied_from() -> None:
    """Its beginning stays as it is while it goes on."""
    assert choose_slot((*LONG, 7, 8), [held(0, *LONG, free=False), held(1)]) == Place(1, 0, 100)


def test_a_few_tokens_are_computed_again() -> None:
    """A copy costs more."""
    few = LONG[: WORTH_COPYING_TOKENS - 1]

    assert choose_slot(LONG, [held(0, *few, free=False), held(1)]) == Place(1, None, 0)


@pytest.mark.parametrize(("contents", "slot"), [
    ([held(0, 900, last_used=3), held(1, 901, last_used=2)], 1),
    ([held(0, 900, last_used=2), held(1, 901, last_used=3)], 0),
    ([held(0, 900, last_used=1), held(1)], 1),
    ([held(0), held(1, 900, last_used=1)], 0),
])  # fmt: skip
def test_what_is_missed_least_is_given_up(contents: list[Content], slot: int) -> None:
    """An empty slot, else the one that was left longest ago."""
    assert choose_slot(LONG, contents) == Place(slot, None, 0)


def test_a_few_shared_tokens_spare_nothing() -> None:
    """All chats begin alike: the one used longest ago goes, even if it shares a token more than the others."""
    contents = [held(0, *LONG[:5], *range(500, 600), last_used=1), held(1, *LONG[:4], *range(600, 700), last_used=2)]

    assert choose_slot(LONG, contents) == Place(0, None, 5)


def test_what_is_there_already_is_not_copied() -> None:
    """Of two that share as much, the one that loses nothing is taken; a copy that gains a few tokens is not made."""
    long = held(0, *LONG, *range(500, 900), last_used=2)

    assert choose_slot((*LONG, 7, 8), [long, held(1, *LONG, last_used=1), held(2)]) == Place(1, None, 100)
    assert choose_slot((*LONG, 7, 8), [long, held(1, *LONG[:90], *range(500, 900), last_used=1)]) == Place(1, None, 90)


def test_a_slot_that_is_copied_from_is_spared() -> None:
    """Though it was used longest ago."""
    contents = [held(0, *LONG, *range(500, 900), last_used=1), held(1, 900, last_used=2)]

    assert choose_slot((*LONG, 7, 8), contents) == Place(1, 0, 100)


TOKENS = st.lists(st.integers(0, 1), max_size=60)


@given(prompt=TOKENS.filter(bool), slots=st.lists(st.tuples(st.integers(0, 60), TOKENS, st.booleans()), min_size=1))
def test_a_place_is_as_good_as_it_says(prompt: list[int], slots: list[tuple[int, list[int], bool]]) -> None:
    """A free slot, with tokens that really are there or are worth a copy; nothing is lost while a slot is empty."""
    contents = [held(slot, *prompt[:n], *more, free=free) for slot, (n, more, free) in enumerate(slots)]
    place = choose_slot(prompt, contents)
    if place is None:
        assert not any(content.free for content in contents)
        return

    taken = contents[place.slot]
    source = taken if place.copy_from is None else contents[place.copy_from]
    assert taken.free
    assert place.length <= most_shared(prompt) <= max(0, len(prompt) - 2)
    assert list(source.tokens[: place.length]) == prompt[: place.length]
    if source is not taken:
        found_there = min(most_shared(prompt), common_prefix(prompt, taken.tokens))
        assert place.length - found_there >= WORTH_COPYING_TOKENS
    if any(content.free and not content.tokens for content in contents):
        assert not taken.tokens or (source is taken and 2 * place.length >= len(taken.tokens))


@given(st.lists(st.integers(0, 1), max_size=600), st.lists(st.integers(0, 1), max_size=600), st.integers(0, 600))
def test_common_prefix(one: list[int], other: list[int], shared: int) -> None:
    """As counted one by one."""
    other = one[:shared] + other
    expected = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))

    assert common_prefix(tuple(one), other) == expected
