"""What a runtime must give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Embedder", "Floats", "Runner", "Scorer"]

Floats = npt.NDArray[np.float32]


class Runner(Protocol):
    """A loaded decoder model with a KV cache of ``slots`` rows, each ``context_tokens`` long.

    All methods block and are called from one thread, never two at once. A slot's cache is what was last computed
    in it; positions at and beyond a ``start`` that is computed again are overwritten. What a method raises fails
    the sequences it was called for; the library then asks nothing more of their slots' content.

    Attributes:
        slots: rows of the KV cache.
        context_tokens: most tokens a slot holds.
        vocab_size: length of a row of logits; at least the tokenizer's vocabulary.
    """

    slots: int
    context_tokens: int
    vocab_size: int

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Floats:
        """Compute ``tokens`` at positions ``start, start + 1, ...`` of a slot; return the last one's logits.

        They are ``[vocab_size]``. The slot's first ``start`` positions were computed before.
        """
        ...

    def decode(self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]) -> Floats:
        """Compute one token in each of the slots; return the logits, ``[len(slots), vocab_size]``, rows in that order.

        Slots are distinct; ``positions`` are where the tokens stand (each slot holds that many tokens before).
        The array may be overwritten by the caller, and by the next call.
        """
        ...

    def copy_slot(self, source: int, target: int, length: int) -> None:
        """Make the first ``length`` positions of ``target`` those of ``source``."""
        ...

    def clear_slot(self, slot: int) -> None:
        """Overwrite all that a slot holds: a call failed in it, and what is no number spoils what it is added to."""
        ...

    def embed(self, inputs: Sequence[Sequence[int]]) -> Floats:
        """Return one pooled vector per input, ``[len(inputs), size]``, not yet normalised; the slots stay untouched."""
        ...


class Embedder(Protocol):
    """A loaded encoder, or a `Runner`, seen as what turns tokens into vectors.

    Attributes:
        context_tokens: most tokens of one input.
    """

    context_tokens: int

    def embed(self, inputs: Sequence[Sequence[int]]) -> Floats:
        """As `Runner.embed`."""
        ...


class Scorer(Protocol):
    """A loaded cross-encoder: reads a query and a document together.

    Attributes:
        context_tokens: most tokens of a query and a document together.
    """

    context_tokens: int

    def count(self, query: str, document: str) -> int:
        """Return the tokens of a pair, its marks included; called from any thread."""
        ...

    def score(self, query: str, documents: Sequence[str]) -> Floats:
        """Return the relevance of each document, 0 to 1, ``[len(documents)]``."""
        ...
