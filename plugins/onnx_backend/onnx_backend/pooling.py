"""Inputs of different lengths into one batch, and one vector out of the vectors of each one's tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from decoding.recipe import Way
from decoding.runner import Floats

__all__ = ["Ints", "pad", "pool"]

Ints = npt.NDArray[np.int64]


def pad(inputs: Sequence[Sequence[int]], padding: int = 0) -> tuple[Ints, Ints]:
    """Return the inputs padded on the right, ``[inputs, longest]``, and a mask of what is real, of the same shape."""
    tokens = np.full((len(inputs), max(map(len, inputs))), padding, np.int64)
    mask = np.zeros_like(tokens)
    for row, given in enumerate(inputs):
        tokens[row, : len(given)] = given
        mask[row, : len(given)] = 1
    return tokens, mask


def pool(hidden: npt.NDArray[np.floating], mask: Ints, way: Way) -> Floats:
    """Return ``[inputs, size]``.

    Args:
        hidden: the tokens' vectors, ``[inputs, longest, size]``, padded on the right.
        mask: what is real, ``[inputs, longest]``.
        way: how.
    """
    lengths = mask.sum(1)
    match way:
        case "cls":
            pooled = hidden[:, 0]
        case "last":
            pooled = hidden[np.arange(len(hidden)), lengths - 1]
        case "mean":
            # Chosen, not multiplied: what stands in the padding may be anything.
            real = np.where(mask[:, :, None] == 1, hidden, 0)
            pooled = real.sum(1, dtype=np.float32) / lengths[:, None]
    return np.asarray(pooled, np.float32)
