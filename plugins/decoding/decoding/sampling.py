"""The next token of every row: bias, penalties, grammar, temperature, cuts, one draw.

A row is worked on by itself, whole vectors at a time: a vocabulary of floats stays in the core's cache, which is faster
than passing over the whole batch once per operation, and nothing of a neighbour can enter a row's sums. Equal logits
rank by token id, lower first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.api import EngineError, RequestError, Sampling
from decoding.runner import Floats

__all__ = ["Allowed", "Bits", "Chooser", "Chosen", "check_bias", "choose"]

Bits = npt.NDArray[np.uint8]
"""Which tokens a row may take: token ``t`` is bit ``t % 8`` of byte ``t // 8``; what lies beyond the end is forbidden."""

Allowed = Sequence[Bits | None]
"""One entry a row; None: every token may come."""

Indices = npt.NDArray[np.intp]

GREEDY_BELOW = 1e-6
"""A temperature below this is 0: the scaled logits would not fit a float."""

UNLIKELY = -9999.0
"""The lowest log probability told, as OpenAI has it: minus infinity is not JSON."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A row's next token.

    Attributes:
        token: its id.
        logprob: natural log of its probability, None when none was asked for. Like ``top`` of the model's own
            distribution, before bias, penalties, grammar and temperature.
        top: the most likely tokens and their log probabilities, best first; as many as were asked for.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def check_bias(bias: Mapping[int, float], vocab_size: int) -> None:
    """Raise `RequestError` when ``bias`` names a token outside a vocabulary of ``vocab_size``."""
    for token in bias:
        if not 0 <= token < vocab_size:
            message = f"logit_bias names token {token}, this model has the tokens 0 to {vocab_size - 1}."
            raise RequestError(message, param="logit_bias")


class Chooser:
    """How one row chooses: its parameters, its own random stream, the tokens it has seen.

    Args:
        sampling: what the request asks for; its ``logit_bias`` has passed `check_bias`.
        prompt: tokens of the prompt.
        choice: number of the choice; choice ``i`` of seed ``s`` draws as choice 0 of seed ``s + i``.
        vocab_size: tokens the tokenizer knows. Logits beyond are padding: never chosen, and no part of a distribution.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int], *, choice: int, vocab_size: int) -> None:
        raise NotImplementedError


def choose(
    logits: Floats, choosers: Sequence[Chooser], allowed: Allowed | None = None
) -> list[Chosen | EngineError]:
    """Choose each row's next token, and remember it in the row's chooser.

    Args:
        logits: ``[rows, at least vocab_size]``; left as they are.
        choosers: one a row.
        allowed: what the rows' grammars allow (`decoding.masks`); None: no row has one.

    Returns:
        One entry a row. An `EngineError` stands for a row that nothing can be chosen for: its logits are not numbers,
        or its grammar allows no token. Its neighbours are not touched by that.
    """
    raise NotImplementedError
