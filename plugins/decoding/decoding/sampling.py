"""The next token of every row: bias, penalties, grammar, temperature, cuts, one draw.

A row is worked on by itself, whole vectors at a time: one row of floats stays in a core's own cache, where a pass over
the whole batch would not, and nothing of a neighbour can enter a row's sums. Of equal logits the lower token id ranks
first.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from core.api import EngineError, RequestError, Sampling
from decoding.runner import Floats

__all__ = ["Allowed", "Bits", "Chooser", "Chosen", "check_bias", "choose"]

Bits = npt.NDArray[np.uint8]
"""The tokens that a row may take, a bit for each of its vocabulary: token ``t`` is bit ``t % 8`` of byte ``t // 8``."""

Allowed = Sequence[Bits | None]
"""One entry a row; None: every token may come."""

Indices = npt.NDArray[np.intp]

GREEDY_BELOW = 1e-6
"""A temperature below this counts as 0: logits divided by it need not fit a float."""

UNLIKELY = -9999.0
"""The lowest log probability told: minus infinity is not JSON, and OpenAI says this instead."""

CANDIDATES = (2**11, 2**16)
"""A nucleus is looked for among the tokens that hold at least one part in so many, before all are ranked."""

COLD = 0.7
"""Below this temperature differences of usual logits become so large that their exponentials are no normal floats."""

BLOCK = 128
"""Weights summed as one when a draw looks for its token."""

BARRIERS: Floats = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"), 0.0, -np.inf
)
BARRIERS = BARRIERS.astype(np.float32)
"""For each byte of `Bits`, what to add to its eight logits."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A row's next token.

    Attributes:
        token: its id.
        logprob: natural log of its probability, None when none was asked for. Like those in ``top`` it is of the
            model's own distribution: before bias, penalties, grammar and temperature.
        top: the most likely tokens and their log probabilities, best first; as many as were asked for.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def check_bias(bias: Mapping[int, float], vocab_size: int) -> None:
    """Raise `RequestError` when ``bias`` names a token outside a vocabulary of ``vocab_size``."""
    for token in bias:
        if not 0 <= token < vocab_size:
            message = f"logit_bias names token {token}, but this model's tokens are 0 to {vocab_size - 1}."
            raise RequestError(message, param="logit_bias")


class Chooser:
    """How one row chooses: its parameters, its own random stream, the tokens it has seen.

    Args:
        sampling: what the request asks for; its ``logit_bias`` has passed `check_bias`.
        prompt: tokens of the prompt.
        choice: number of the choice; choice ``i`` of seed ``s`` draws as choice 0 of seed ``s + i``.
        vocab_size: tokens the tokenizer knows. Logits beyond are padding: never chosen, and in no distribution.

    Attributes:
        replayed: tokens that come first, whatever would be chosen: an answer that began elsewhere. All else is as if
            they had been chosen, the random stream included.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int], *, choice: int, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.temperature = 1.0 if sampling.temperature is None else sampling.temperature
        self.top_k = sampling.top_k or 0
        self.top_p = 1.0 if sampling.top_p is None else sampling.top_p
        self.min_p = sampling.min_p or 0.0
        self.logprobs = sampling.logprobs
        self._bias: tuple[Indices, Floats] | None = None
        if sampling.logit_bias:
            tokens, values = zip(*sampling.logit_bias.items(), strict=True)
            self._bias = np.array(tokens, np.intp), np.array(values, np.float32)
        self._penalties = _Penalties(sampling, prompt, vocab_size) if _penalises(sampling) else None
        # A seed may be negative; numpy's may not.
        seed = None if sampling.seed is None else (sampling.seed + choice) % 2**64
        self._stream = np.random.Generator(np.random.PCG64(seed))
        self._seeded = seed is not None
        self.replayed: deque[int] = deque()

    @property
    def repeatable(self) -> bool:
        """Whether the same logits give the same tokens another time."""
        return self.greedy or self._seeded

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken, without a draw."""
        return self.temperature < GREEDY_BELOW

    def adjust(self, row: Floats) -> Floats:
        """Return ``row`` with bias and penalties: itself when there are none, else a copy."""
        if self._bias is None and self._penalties is None:
            return row
        row = row.copy()
        if self._bias is not None:
            tokens, values = self._bias
            row[tokens] += values
        if self._penalties is not None:
            self._penalties.apply(row)
        return row

    def draw(self) -> float:
        """Return the stream's next number, in [0, 1)."""
        return self._stream.random()

    def settle(self, token: int) -> int:
        """Return the token that is taken where ``token`` was chosen, and count it."""
        if self.replayed:
            token = self.replayed.popleft()
        self.remember(token)
        return token

    def remember(self, token: int) -> None:
        """Count a token that was chosen."""
        if self._penalties is not None:
            self._penalties.count(token)


def choose(
    logits: Sequence[Floats] | Floats, choosers: Sequence[Chooser], allowed: Allowed | None = None
) -> list[Chosen | EngineError]:
    """Choose each row's next token, and remember it in the row's chooser.

    Args:
        logits: one row of at least ``vocab_size`` for each chooser; left as they are.
        choosers: one a row.
        allowed: what the rows' grammars allow (`decoding.masks`); None: no row has one.

    Returns:
        One entry a row. An `EngineError` stands for a row that nothing can be chosen for: its logits are not finite, or
        its grammar allows no token. Its neighbours do not notice.
    """
    masks = [None] * len(choosers) if allowed is None else allowed
    with np.errstate(over="ignore", invalid="ignore"):
        return [
            _choose(np.ascontiguousarray(row[: chooser.vocab_size]), chooser, bits)
            for row, chooser, bits in zip(logits, choosers, masks, strict=True)
        ]


def _choose(raw: Floats, chooser: Chooser, bits: Bits | None) -> Chosen | EngineError:
    row, barrier = chooser.adjust(raw), None
    if bits is not None:
        barrier = BARRIERS.take(bits, axis=0).ravel()[: len(row)]
        row = row + barrier
    favourite = int(row.argmax())
    if barrier is not None and row[favourite] == -math.inf:
        # The model rules out whatever the grammar allows; the grammar decides, and all it allows is equally likely.
        row = barrier
        favourite = int(row.argmax())
        if row[favourite] == -math.inf:
            return EngineError("The grammar allows no further token: it became too complex to follow.")
    if not math.isfinite(row[favourite]):  # argmax finds a NaN before any number
        return EngineError("The model's logits are not finite numbers.")
    token = chooser.settle(favourite if chooser.greedy else _sample(row, row[favourite], chooser))
    if chooser.logprobs is None:
        return Chosen(token)
    return _with_logprobs(raw, token, chooser.logprobs)


def _sample(row: Floats, best: np.float32, chooser: Chooser) -> int:
    """Draw a token by temperature, top_k, top_p and min_p, in this order."""
    tokens: Indices | None = None
    if 0 < chooser.top_k < len(row):
        tokens = _largest(row, chooser.top_k, _smallest_of_largest(row, chooser.top_k))
        row = row[tokens]
    weights = _weights(row - best, chooser.temperature)
    if chooser.top_p < 1:
        kept = _nucleus(weights, chooser.top_p)
        tokens, weights = kept if tokens is None else tokens[kept], weights[kept]
    if chooser.min_p > 0:
        kept = np.flatnonzero(weights >= chooser.min_p)
        tokens, weights = kept if tokens is None else tokens[kept], weights[kept]
    ends = _block_ends(weights)
    place = _place(weights, ends, chooser.draw() * ends[-1], "right")
    return place if tokens is None else int(tokens[place])


def _weights(differences: Floats, temperature: float) -> Floats:
    """Return how likely each token is, measured by the best one; changes ``differences`` (from the best logit)."""
    differences /= temperature
    if temperature >= COLD:
        return np.exp(differences, out=differences)
    # A processor takes ten times longer over what is too small for a normal float; that counts as nothing.
    np.maximum(differences, -87, out=differences)
    weights = np.exp(differences, out=differences)
    weights *= weights > 2e-38  # noqa: PLR2004 - exp(-87) is 1.6e-38
    return weights


def _largest(values: Floats, size: int, smallest: np.float32) -> Indices:
    """Return where the ``size`` largest values stand, in order of place; ``smallest`` is the least of them."""
    places = np.flatnonzero(values >= smallest)
    surplus = len(places) - size
    if surplus:
        equals = np.flatnonzero(values[places] == smallest)
        places = np.delete(places, equals[len(equals) - surplus :])
    return places


def _smallest_of_largest(values: Floats, size: int) -> np.float32:
    """Return the ``size``-th largest value."""
    # Each of `columns` groups has a largest value, and `size` of those reach the `size`-th largest of them: no value
    # below that one is wanted. Little more than `size` values are left to partition.
    columns = max(1024, 8 * size)
    rows = len(values) // columns
    if rows > 1:
        heads = values[: rows * columns].reshape(rows, columns).max(axis=0)
        values = values[np.flatnonzero(values >= np.partition(heads, columns - size)[columns - size])]
    smallest: np.float32 = np.partition(values, len(values) - size)[len(values) - size]
    return smallest


def _nucleus(weights: Floats, share: float) -> Indices:
    """Return where the fewest weights stand that together hold ``share`` of the sum, in order of place."""
    total = float(weights.sum(dtype=np.float64))
    wanted = share * total
    # No more than n weights can be an n-th of the sum; only a flat distribution needs all to be ranked.
    for floor in (*(total / parts for parts in CANDIDATES), 0.0):
        ranked = np.sort(weights[np.flatnonzero(weights >= floor)])[::-1]
        size = _place(ranked, _block_ends(ranked), wanted, "left") + 1
        if size <= len(ranked):
            break
    size = min(size, len(ranked))
    return _largest(weights, size, ranked[size - 1])


def _block_ends(weights: Floats) -> npt.NDArray[np.float64]:
    """Return the running sum at the end of each block of weights: most additions need not wait for the one before."""
    starts = np.arange(0, len(weights), BLOCK)
    return np.cumsum(np.add.reduceat(weights, starts, dtype=np.float64)) if len(starts) else np.zeros(0)


def _place(weights: Floats, ends: npt.NDArray[np.float64], wanted: float, side: Literal["left", "right"]) -> int:
    """Return where the running sum of weights reaches (left) or passes (right) ``wanted``; their number if it does not.

    That is never where a weight is 0.
    """
    block = int(np.searchsorted(ends, wanted, side=side))
    if block == len(ends):
        return len(weights)
    if block:
        wanted -= float(ends[block - 1])
    inner = np.cumsum(weights[block * BLOCK : (block + 1) * BLOCK], dtype=np.float64)
    # The block's sum may round otherwise than its parts: then it is the last weight that adds to the block.
    within = min(np.searchsorted(inner, wanted, side=side), np.searchsorted(inner, inner[-1]))
    return block * BLOCK + int(within)


def _with_logprobs(raw: Floats, token: int, count: int) -> Chosen:
    best = raw.max()
    whole = float(best) + math.log(np.exp(raw - best).sum(dtype=np.float64))

    def logprob(of: int) -> float:
        return min(0.0, max(UNLIKELY, float(raw[of]) - whole))

    count = min(count, len(raw))
    if not count:
        return Chosen(token, logprob(token))
    places = _largest(raw, count, _smallest_of_largest(raw, count))
    ranked = places[np.argsort(-raw[places], kind="stable")]
    return Chosen(token, logprob(token), tuple((other, logprob(other)) for other in ranked.tolist()))


def _penalises(sampling: Sampling) -> bool:
    return bool(sampling.presence_penalty or sampling.frequency_penalty or sampling.repetition_penalty != 1)


class _Penalties:
    """Makes tokens less likely that a row has seen.

    Presence and frequency count what was generated, as OpenAI documents; repetition counts the prompt too, as the CTRL
    paper and transformers have it.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int], vocab_size: int) -> None:
        self._presence = sampling.presence_penalty
        self._frequency = sampling.frequency_penalty
        self._repetition = sampling.repetition_penalty
        seen = {token for token in prompt if token < vocab_size} if self._repetition != 1 else set()
        self._places = {token: place for place, token in enumerate(sorted(seen))}
        self._tokens: Indices = np.array(list(self._places), np.intp)
        self._counts: Floats = np.zeros(len(seen), np.float32)

    def count(self, token: int) -> None:
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._counts):
            room = max(64, place)
            self._tokens = np.concatenate([self._tokens, np.zeros(room, np.intp)])
            self._counts = np.concatenate([self._counts, np.zeros(room, np.float32)])
        self._tokens[place] = token
        self._counts[place] += 1

    def apply(self, row: Floats) -> None:
        seen = len(self._places)
        tokens, counts = self._tokens[:seen], self._counts[:seen]
        values = row[tokens]
        if self._presence or self._frequency:
            values -= self._frequency * counts + self._presence * (counts > 0)
        if self._repetition != 1:
            values = np.where(values > 0, values / self._repetition, values * self._repetition)
        row[tokens] = values
