"""Rows change places and slots keep what they hold."""

from __future__ import annotations

import pytest
from decoding.rows import SlotRows
from hypothesis import given, settings
from hypothesis import strategies as st

SLOTS = 6
CAPACITY = 9


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_slots_keep_what_they_hold(data: st.DataObject) -> None:
    """Whatever steps are asked for: the slots are in front, each with all its positions, and the order says where."""
    rows = SlotRows(SLOTS)
    memory = [[(-1, -1)] * CAPACITY for _ in range(SLOTS)]
    lengths = [0] * SLOTS

    def swap(one: int, other: int, length: int) -> None:
        memory[one][:length], memory[other][:length] = memory[other][:length], memory[one][:length]

    for number in range(data.draw(st.integers(1, 12))):
        slot = data.draw(st.integers(0, SLOTS - 1))
        lengths[slot] = data.draw(st.integers(0, CAPACITY))
        rows.hold(slot, lengths[slot])
        memory[rows[slot]][: lengths[slot]] = [(slot, number)] * lengths[slot]
        before = [memory[rows[slot]][: lengths[slot]] for slot in range(SLOTS)]

        chosen = data.draw(st.lists(st.integers(0, SLOTS - 1), min_size=1, unique=True))
        order = rows.bring_to_front(chosen, swap)

        assert [rows[chosen[place]] for place in order] == list(range(len(chosen)))
        assert sorted(rows[slot] for slot in range(SLOTS)) == list(range(SLOTS))
        assert [memory[rows[slot]][: lengths[slot]] for slot in range(SLOTS)] == before


def test_nothing_moves_that_need_not() -> None:
    """Slots that are in front already stay where they are; another costs one exchange, as long as the longer one."""
    rows = SlotRows(4)
    swaps: list[tuple[int, int, int]] = []
    for slot, length in enumerate((5, 3, 8, 2)):
        rows.hold(slot, length)

    assert rows.bring_to_front([1, 0], lambda *swapped: swaps.append(swapped)) == [1, 0]
    assert not swaps
    assert rows.bring_to_front([0, 3], lambda *swapped: swaps.append(swapped)) == [0, 1]
    assert swaps == [(3, 1, 3)]
    assert rows.bring_to_front([2], lambda *swapped: swaps.append(swapped)) == [0]
    assert swaps[1:] == [(2, 0, 8)]


def test_an_exchange_that_fails_is_not_believed() -> None:
    """The map says what was done, not what was meant."""
    rows = SlotRows(2)

    def fail(*_: int) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        rows.bring_to_front([1], fail)
    assert [rows[0], rows[1]] == [0, 1]
