"""A toy transformer in numpy, so that all of this library can be tested in milliseconds, and exactly.

Every row and every position is computed by itself in float64, in one order whatever surrounds it, so a sequence's
logits are bit for bit the same alone, in a batch, in chunks, and from a copied slot. Positions that were never
computed hold NaN, so reading one shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from decoding.runner import Floats

__all__ = ["ReferenceRunner"]

_WIDTH = 16
_HEADS = 2
_LAYERS = 2
_HIDDEN = 32
_SHARPNESS = 4.0  # untrained logits are so far apart that sampling would always take the same token

Array = npt.NDArray[np.float64]


class ReferenceRunner:
    """A `decoding.runner.Runner` of 7,000 weights, which nobody trained.

    Args:
        slots, context_tokens, vocab_size: as in the protocol.
        seed: of the weights.
        on_call: called with the method's name before each call; what it raises, the call raises, and it may block.
    """

    def __init__(
        self,
        *,
        slots: int = 4,
        context_tokens: int = 256,
        vocab_size: int = 300,
        seed: int = 0,
        on_call: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.slots = slots
        self.context_tokens = context_tokens
        self.vocab_size = vocab_size
        self._on_call = on_call
        random = np.random.default_rng(seed)

        def weights(*shape: int) -> Array:
            drawn: Array = random.standard_normal(shape) / np.sqrt(shape[-1])
            return drawn

        self._embedding = random.standard_normal((vocab_size, _WIDTH))
        self._positions = random.standard_normal((context_tokens, _WIDTH)) / 2
        self._layers = [
            (weights(3 * _WIDTH, _WIDTH), weights(_WIDTH, _WIDTH), weights(_HIDDEN, _WIDTH), weights(_WIDTH, _HIDDEN))
            for _ in range(_LAYERS)
        ]
        self._cache = np.full((_LAYERS, 2, slots, context_tokens, _HEADS, _WIDTH // _HEADS), np.nan)

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Floats:
        """See `decoding.runner.Runner.prefill`."""
        self._on_call("prefill")
        cache = self._cache[:, :, slot]
        return self._logits([self._token(cache, token, start + index) for index, token in enumerate(tokens)][-1])

    def decode(self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]) -> Floats:
        """See `decoding.runner.Runner.decode`."""
        self._on_call("decode")
        assert len(set(slots)) == len(slots), f"slots must be distinct: {slots}"  # noqa: S101 - a test double checks its caller
        rows = zip(slots, tokens, positions, strict=True)
        return np.stack(
            [self._logits(self._token(self._cache[:, :, slot], token, position)) for slot, token, position in rows]
        )

    def copy_slot(self, source: int, target: int, length: int) -> None:
        """See `decoding.runner.Runner.copy_slot`."""
        self._on_call("copy_slot")
        self._cache[:, :, target] = np.nan
        self._cache[:, :, target, :length] = self._cache[:, :, source, :length]

    def clear_slot(self, slot: int) -> None:
        """See `decoding.runner.Runner.clear_slot`; here what was never computed is no number."""
        self._on_call("clear_slot")
        self._cache[:, :, slot] = np.nan

    def embed(self, inputs: Sequence[Sequence[int]]) -> Floats:
        """See `decoding.runner.Runner.embed`: the mean of the tokens' last hidden states."""
        self._on_call("embed")
        cache = np.full_like(self._cache[:, :, 0], np.nan)
        pooled = [
            np.mean([self._token(cache, token, index) for index, token in enumerate(tokens)], axis=0)
            for tokens in inputs
        ]
        return np.stack(pooled).astype(np.float32)

    def _token(self, cache: Array, token: int, position: int) -> Array:
        """Compute one token into a slot's cache, ``[layers, 2, positions, heads, size]``; return its state."""
        state: Array = self._embedding[token] + self._positions[position]
        for layer, (attention_in, attention_out, up, down) in enumerate(self._layers):
            query, key, value = (attention_in @ state).reshape(3, _HEADS, -1)
            cache[layer, :, position] = key, value
            keys, values = cache[layer, :, : position + 1]
            heads = []
            for head in range(_HEADS):
                scores = np.exp(keys[:, head] @ query[head] / np.sqrt(len(query[head])))
                heads.append(scores @ values[:, head] / scores.sum())
            state = state + attention_out @ np.concatenate(heads)
            state = state + down @ np.tanh(up @ state)
        return state

    def _logits(self, state: Array) -> Floats:
        return (self._embedding @ state / _SHARPNESS).astype(np.float32)
