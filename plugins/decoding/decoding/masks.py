"""Which tokens the rows' grammars allow next, found in another thread while the device works."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from llguidance import LLExecutor, LLMatcher, LLTokenizer
from llguidance.numpy import fill_next_token_bitmask_par

from core.api import EngineError, RequestError
from decoding.sampling import Allowed

__all__ = ["MaskMaker", "Masks", "Matcher"]

logger = logging.getLogger(__name__)


class Matcher:
    """Where one row stands in its grammar. Not to be touched between `MaskMaker.start` and the end of `Masks.result`.

    Args:
        tokenizer: of the model.
        grammar: as llguidance writes it (Lark, or JSON). A large one takes up to a second: not on the step thread.
        param: the request field to blame when it does not compile.

    Raises:
        RequestError: the grammar does not compile.
    """

    def __init__(self, tokenizer: LLTokenizer, grammar: str, *, param: str | None = None) -> None:
        self.llguidance = LLMatcher(tokenizer, grammar, log_level=0)
        self.words = -(-tokenizer.vocab_size // 32)
        if self.llguidance.is_error():
            message = f"The grammar cannot be used: {self.reason}."
            raise RequestError(message, param=param)

    @property
    def stopped(self) -> bool:
        """Whether the grammar is complete: only an end-of-sequence token may follow, or has come."""
        return self.llguidance.is_stopped()

    def advance(self, token: int) -> None:
        """Take the token that was chosen; raise `EngineError` when the grammar does not allow it."""
        if not self.llguidance.consume_token(token):
            message = f"The grammar cannot be followed any further: {self.reason}."
            raise EngineError(message)

    def copy(self) -> Matcher:
        """Return an independent matcher that stands at the same place; cheap: nothing is compiled."""
        twin = Matcher.__new__(Matcher)
        twin.llguidance = self.llguidance.deep_copy()
        twin.words = self.words
        return twin

    @property
    def reason(self) -> str:
        """What is wrong, in one line; llguidance says more, and quotes the grammar."""
        lines = self.llguidance.get_error().strip().splitlines() or ["no reason given"]
        return lines[0].rstrip(".")


class Masks:
    """The masks that `MaskMaker.start` began, to be taken when the logits are there."""

    def __init__(self, future: Future[Allowed] | None) -> None:
        self._future = future

    def result(self) -> Allowed | None:
        """Wait for the masks: one entry a row, None for a row without a grammar; None when no row has one.

        Never raises: a row whose grammar failed may take no token, and `decoding.sampling.choose` makes that an error.
        """
        return None if self._future is None else self._future.result()


class MaskMaker:
    """Computes masks in a thread of its own, without Python's lock. ``close()`` it when done.

    One thread, because the device wants the other cores.

    Args:
        vocab_size: bits that a mask must have; those beyond the tokenizer's own tokens are 0.
    """

    def __init__(self, vocab_size: int) -> None:
        self._bytes = -(-vocab_size // 8)
        self._llguidance = LLExecutor(num_threads=1)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="masks")

    def start(self, matchers: Sequence[Matcher | None]) -> Masks:
        """Begin the masks of these rows, and return at once."""
        if not any(matchers):
            return Masks(None)
        return Masks(self._thread.submit(self._make, tuple(matchers)))

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _make(self, matchers: tuple[Matcher | None, ...]) -> Allowed:
        wanted = [(row, matcher) for row, matcher in enumerate(matchers) if matcher is not None]
        masks: npt.NDArray[np.int32] = np.zeros((len(matchers), wanted[0][1].words), np.int32)
        try:
            fill_next_token_bitmask_par(self._llguidance, [(matcher.llguidance, row) for row, matcher in wanted], masks)
        except BaseException:  # a panic in there is no Exception
            logger.exception("no grammar mask of this step could be made")
            masks[:] = 0
        for row, matcher in wanted:
            if matcher.llguidance.is_error():  # it would allow the end, as if the grammar were complete
                logger.warning("a grammar cannot be followed any further: %s", matcher.reason)
                masks[row] = 0
        bits = masks.astype("<i4", copy=False).view(np.uint8)
        if bits.shape[1] < self._bytes:
            bits = np.pad(bits, ((0, 0), (0, self._bytes - bits.shape[1])))
        return [None if matcher is None else bits[row] for row, matcher in enumerate(matchers)]
