"""Where a new prompt goes: which slot holds the longest beginning of it, and whether to take it or copy from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "LEAST_CHUNK_TOKENS",
    "WORTH_COPYING_TOKENS",
    "Content",
    "Place",
    "choose_slot",
    "common_prefix",
    "most_shared",
]

WORTH_COPYING_TOKENS = 16
"""A shared beginning shorter than this is computed again: most chats share a few tokens of template, and taking
them from another slot saves less than the copy of a slot's memory costs."""

LEAST_CHUNK_TOKENS = 2
"""Runtimes multiply a single row with other kernels than several, which round differently (ONNX Runtime with int8
weights: up to 0.6 of a logit). With no chunk of a single token a prompt gives the same bits, however it was cut and
whatever of it was found in a slot."""

_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Content:
    """What one slot holds.

    Attributes:
        slot: its number.
        tokens: whose keys and values are in it, from position 0.
        free: no sequence works in it.
        last_used: when it was left; lower is longer ago.
    """

    slot: int
    tokens: Sequence[int]
    free: bool
    last_used: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sequence goes: the first ``length`` tokens are there already, or are copied there from ``copy_from``."""

    slot: int
    copy_from: int | None
    length: int


def choose_slot(prompt: Sequence[int], contents: Iterable[Content]) -> Place | None:
    """Return the place for a prompt, None when no slot is free.

    A free slot is taken as it is if the prompt shares at least half of what it holds: the rest is lost, and that is
    then a conversation's own old end more often than somebody else's. Else the prompt gets the free slot that is
    missed least, an empty one or the one used longest ago, and what is shared is copied there if that is worth it.
    The end of a prompt is always computed again, because its logits are wanted: see `most_shared`.
    """
    contents = list(contents)
    free = [content for content in contents if content.free]
    if not free:
        return None
    most = most_shared(prompt)
    shared = {content.slot: min(most, common_prefix(prompt, content.tokens)) for content in contents}
    # Of those that share as much, the free one that has least to lose.
    best = max(contents, key=lambda content: (shared[content.slot], content.free, -len(content.tokens), -content.slot))
    length = shared[best.slot]
    if best.free and 2 * length >= len(best.tokens):
        return Place(best.slot, None, length)
    # A slot that is worth copying from is spared: it is of use right now.
    spared = best if length >= WORTH_COPYING_TOKENS else None
    others = [content for content in free if content is not spared] or free
    target = min(others, key=lambda content: (bool(content.tokens), content.last_used, content.slot))
    if length - shared[target.slot] >= WORTH_COPYING_TOKENS:
        return Place(target.slot, best.slot, length)
    return Place(target.slot, None, shared[target.slot])


def most_shared(prompt: Sequence[int]) -> int:
    """Return how much of a prompt may be taken from a slot: what is left is a whole chunk."""
    return max(0, len(prompt) - LEAST_CHUNK_TOKENS)


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with in common."""
    most = min(len(one), len(other))
    start = 0
    # Whole blocks are compared in C; only the block that differs is looked at token by token.
    while start < most and list(one[start : start + _BLOCK]) == list(other[start : start + _BLOCK]):
        start += _BLOCK
    start = min(start, most)
    end = min(start + _BLOCK, most)
    for index in range(start, end):
        if one[index] != other[index]:
            return index
    return end
