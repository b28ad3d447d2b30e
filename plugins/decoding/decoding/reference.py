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

_BYTES = 256
_WIDTH = 16
_HEADS = 2
_LAYERS = 2
_HIDDEN = 32

Array = npt.NDArray[np.float64]


class ReferenceRunner:
    """A `decoding.runner.Runner`: tokens 0 to 255 are bytes, then come BOS and EOS.

    Args:
        slots, context_tokens: as in the protocol.
        seed: of the weights.
        on_call: called with the method's name before each call; what it raises, the call raises, and it may block.
    """

    bos = _BYTES
    eos = _BYTES + 1
    vocab_size = _BYTES + 2

    def __init__(
        self,
        *,
        slots: int = 4,
        context_tokens: int = 256,
        seed: int = 0,
        on_call: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.slots = slots
        self.context_tokens = context_tokens
        self._on_call = on_call
        random = np.random.default_rng(seed)

        def weights(*shape: int) -> Array:
            return random.standard_normal(shape) / np.sqrt(shape[-1])

        self._embedding = random.standard_normal((self.vocab_size, _WIDTH))
        self._positions = random.standard_normal((context_tokens, _WIDTH)) / 2
        self._layers = [
            (weights(3 * _WIDTH, _WIDTH), weights(_WIDTH, _WIDTH), weights(_HIDDEN, _WIDTH), weights(_WIDTH, _HIDDEN))
            for _ in range(_LAYERS)
        ]
        self._keys = np.full((_LAYERS, slots, context_tokens, _HEADS, _WIDTH // _HEADS), np.nan)
        self._values = np.full_like(self._keys, np.nan)

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Floats:
        """See `decoding.runner.Runner.prefill`."""
        self._on_call("prefill")
        return self._logits([self._token(slot, token, start + index) for index, token in enumerate(tokens)][-1])

    def decode(self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]) -> Floats:
        """See `decoding.runner.Runner.decode`."""
        self._on_call("decode")
        assert len(set(slots)) == len(slots), f"slots must be distinct: {slots}"  # noqa: S101 - a test double checks its caller
        rows = zip(slots, tokens, positions, strict=True)
        return np.stack([self._logits(self._token(slot, token, position)) for slot, token, position in rows])

    def copy_slot(self, source: int, target: int, length: int) -> None:
        """See `decoding.runner.Runner.copy_slot`."""
        self._on_call("copy_slot")
        for cache in (self._keys, self._values):
            cache[:, target] = np.nan
            cache[:, target, :length] = cache[:, source, :length]

    def embed(self, inputs: Sequence[Sequence[int]]) -> Floats:
        """See `decoding.runner.Runner.embed`: the mean of the tokens' last hidden states."""
        self._on_call("embed")
        alone = ReferenceRunner.__new__(ReferenceRunner)
        alone.__dict__.update(self.__dict__)
        alone._keys = np.full_like(self._keys[:, :1], np.nan)  # noqa: SLF001 - itself, with other slots
        alone._values = np.full_like(alone._keys, np.nan)  # noqa: SLF001
        pooled = [
            np.mean([alone._token(0, token, index) for index, token in enumerate(tokens)], axis=0)  # noqa: SLF001
            for tokens in inputs
        ]
        return np.stack(pooled).astype(np.float32)

    def _token(self, slot: int, token: int, position: int) -> Array:
        """Compute one token into a slot; return its hidden state."""
        state: Array = self._embedding[token] + self._positions[position]
        for layer, (attention_in, attention_out, up, down) in enumerate(self._layers):
            query, key, value = (attention_in @ state).reshape(3, _HEADS, -1)
            self._keys[layer, slot, position], self._values[layer, slot, position] = key, value
            heads = []
            for head in range(_HEADS):
                keys = self._keys[layer, slot, : position + 1, head]
                scores = np.exp(keys @ query[head] / np.sqrt(len(query[head])))
                heads.append(scores @ self._values[layer, slot, : position + 1, head] / scores.sum())
            state = state + attention_out @ np.concatenate(heads)
            state = state + down @ np.tanh(up @ state)
        return state

    def _logits(self, state: Array) -> Floats:
        return (self._embedding @ state).astype(np.float32)
