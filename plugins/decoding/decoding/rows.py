"""Where each slot's memory is: rows change places, so that the slots of a step are the first ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["SlotRows", "Swap"]

Swap = Callable[[int, int, int], None]
"""Exchanges the first positions of two rows: one, other, how many."""


class SlotRows:
    """Which row of a KV cache each slot has, and how much is in it.

    A runtime computes a range of rows without copying it; the slots that decode together are any. Exchanging a few
    rows when a sequence comes or goes costs far less than gathering all of them in every step.

    Args:
        slots: how many; slot and row are the same number at first.
    """

    def __init__(self, slots: int) -> None:
        self._rows = list(range(slots))
        self._lengths = [0] * slots

    def __getitem__(self, slot: int) -> int:
        """Return the row of a slot."""
        return self._rows[slot]

    def hold(self, slot: int, length: int) -> None:
        """Say that nothing beyond the first ``length`` positions of a slot is needed; told before they are computed."""
        self._lengths[slot] = length

    def bring_to_front(self, slots: Sequence[int], swap: Swap) -> list[int]:
        """Exchange rows until the slots, which are distinct, are the first ones, in any order.

        Returns:
            That order: ``slots[order[row]]`` is the slot in a row.
        """
        front = len(slots)
        outside = [slot for slot in slots if self._rows[slot] >= front]
        if outside:
            wanted = frozenset(slots)
            inside = [slot for slot, row in enumerate(self._rows) if row < front and slot not in wanted]
            for one, other in zip(outside, inside, strict=True):
                swap(self._rows[one], self._rows[other], max(self._lengths[one], self._lengths[other]))
                self._rows[one], self._rows[other] = self._rows[other], self._rows[one]
        return sorted(range(front), key=lambda number: self._rows[slots[number]])
