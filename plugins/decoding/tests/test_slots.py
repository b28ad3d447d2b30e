"""Where a new prompt goes."""

from __future__ import annotations

import pytest
from decoding.slots import WORTH_COPYING_TOKENS, Content, Place, choose_slot, common_prefix
from hypothesis import given
from hypothesis import strategies as st

LONG = tuple(range(100))


def held(slot: int, *tokens: int, free: bool = True, last_used: int = 0) -> Content:
    return Content(slot, list(tokens), free=free, last_used=last_used)


def test_no_slot_is_free() -> None:
    """Then there is no place, whatever is shared."""
    assert choose_slot(LONG, [held(0, *LONG, free=False)]) is None


def test_the_longest_beginning_wins() -> None:
    """And all but the prompt's last token is used."""
    contents = [held(0, *LONG[:30]), held(1, *LONG), held(2)]

    assert choose_slot(LONG, contents) == Place(1, None, 99)


def test_a_long_conversation_is_not_lost_for_a_short_beginning() -> None:
    """A system prompt that others share is copied out of it instead."""
    contents = [held(0, *LONG, *range(500, 900)), held(1)]

    assert choose_slot((*LONG, 7), contents) == Place(1, 0, 100)


def test_it_is_lost_where_there_is_no_other_slot() -> None:
    """Computing the beginning again would not save it."""
    assert choose_slot((*LONG, 7), [held(0, *LONG, *range(500, 900))]) == Place(0, None, 100)


def test_a_running_neighbour_is_copied_from() -> None:
    """Its beginning stays as it is while it goes on."""
    assert choose_slot((*LONG, 7), [held(0, *LONG, free=False), held(1)]) == Place(1, 0, 100)


def test_a_few_tokens_are_computed_again() -> None:
    """A copy costs more."""
    few = LONG[: WORTH_COPYING_TOKENS - 1]

    assert choose_slot(LONG, [held(0, *few, free=False), held(1)]) == Place(1, None, 0)


@pytest.mark.parametrize(("contents", "slot"), [
    ([held(0, 900, last_used=3), held(1, 901, last_used=2)], 1),
    ([held(0, 900, last_used=1), held(1)], 1),
])  # fmt: skip
def test_what_is_missed_least_is_given_up(contents: list[Content], slot: int) -> None:
    """An empty slot, else the one that was left longest ago."""
    assert choose_slot(LONG, contents) == Place(slot, None, 0)


@given(st.lists(st.integers(0, 1), max_size=600), st.lists(st.integers(0, 1), max_size=600), st.integers(0, 600))
def test_common_prefix(one: list[int], other: list[int], shared: int) -> None:
    """As counted one by one."""
    other = one[:shared] + other
    expected = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))

    assert common_prefix(tuple(one), other) == expected
