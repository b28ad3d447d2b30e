"""Which tokens the rows' grammars allow next, found in another thread while the device works."""

from __future__ import annotations

from collections.abc import Sequence

from llguidance import LLTokenizer

from decoding.sampling import Allowed

__all__ = ["MaskMaker", "Masks", "Matcher"]


class Matcher:
    """Where one row stands in its grammar. Not to be touched between `MaskMaker.start` and the end of `Masks.result`.

    Args:
        tokenizer: of the model.
        grammar: as llguidance writes it (Lark, or JSON). Compiling a large one takes up to a second: not on the step thread.
        param: the request field to blame when it does not compile.

    Raises:
        RequestError: the grammar does not compile.
    """

    def __init__(self, tokenizer: LLTokenizer, grammar: str, *, param: str | None = None) -> None:
        raise NotImplementedError

    @property
    def stopped(self) -> bool:
        """Whether the grammar is complete: only an end-of-sequence token may follow, or has come."""
        raise NotImplementedError

    def advance(self, token: int) -> None:
        """Take the token that was chosen; raise `EngineError` when the grammar does not allow it."""
        raise NotImplementedError

    def copy(self) -> Matcher:
        """Return an independent matcher that stands at the same place; cheap: nothing is compiled."""
        raise NotImplementedError


class Masks:
    """The masks that `MaskMaker.start` began; they are wanted when the logits are there."""

    def result(self) -> Allowed | None:
        """Wait for the masks: one entry a row, None for a row without a grammar; None when no row has one.

        Never raises: a row whose grammar failed is allowed no token, which `decoding.sampling.choose` answers with an error.
        """
        raise NotImplementedError


class MaskMaker:
    """Computes masks in a thread of its own, without Python's lock. ``close()`` it when done.

    Args:
        vocab_size: tokens the tokenizer knows.
    """

    def __init__(self, vocab_size: int) -> None:
        raise NotImplementedError

    def start(self, matchers: Sequence[Matcher | None]) -> Masks:
        """Begin the masks of these rows, and return at once."""
        raise NotImplementedError

    def close(self) -> None:
        """End the thread."""
        raise NotImplementedError
