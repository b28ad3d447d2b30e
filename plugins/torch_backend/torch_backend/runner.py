"""`decoding.runner.Runner` over any causal language model of transformers that keeps a standard KV cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from decoding.runner import Floats
from transformers import PreTrainedModel

from torch_backend import attention
from torch_backend.cache import LayerShape, SlotCache

__all__ = ["TorchRunner"]


class TorchRunner:
    """A decoder and its slots; see `decoding.runner.Runner`."""

    def __init__(
        self,
        model: PreTrainedModel,
        shapes: Sequence[LayerShape],
        *,
        slots: int,
        context_tokens: int,
        kernel: attention.Kernel = attention.sdpa,
    ) -> None:
        self.slots = slots
        self.context_tokens = context_tokens
        self.vocab_size: int = model.get_output_embeddings().out_features
        self._model = model
        self._cache = SlotCache(shapes, slots, context_tokens, model.dtype, model.device)
        self._rows = list(range(slots))  # of each slot
        self._lengths = [0] * slots  # of what each slot holds, at most
        model.set_attn_implementation(attention.register(self._cache, kernel))

    @torch.inference_mode()
    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Floats:
        """See `decoding.runner.Runner.prefill`."""
        positions = self._cache.begin_chunk(self._rows[slot], start, len(tokens))
        self._lengths[slot] = start + len(tokens)
        return self._forward([tokens], positions)[0]

    @torch.inference_mode()
    def decode(self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]) -> Floats:
        """See `decoding.runner.Runner.decode`."""
        self._bring_to_front(slots)
        order = sorted(range(len(slots)), key=lambda number: self._rows[slots[number]])
        places = self._cache.begin_decode([positions[number] for number in order])
        for slot, position in zip(slots, positions, strict=True):
            self._lengths[slot] = position + 1
        logits = self._forward([[tokens[number]] for number in order], places)
        if order == sorted(order):
            return logits
        return logits[[self._rows[slot] for slot in slots]]

    @torch.inference_mode()
    def copy_slot(self, source: int, target: int, length: int) -> None:
        """See `decoding.runner.Runner.copy_slot`."""
        self._cache.copy(self._rows[source], self._rows[target], length)
        self._lengths[target] = length

    def _forward(self, tokens: Sequence[Sequence[int]], positions: torch.Tensor) -> Floats:
        found = self._model(
            input_ids=torch.tensor(tokens, device=positions.device),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Floats = found.logits[:, -1].float().cpu().numpy()
        return logits

    def _bring_to_front(self, slots: Sequence[int]) -> None:
        """Exchange rows until the slots are the first ones, in any order: then a step works on a view of the cache."""
        outside = [slot for slot in slots if self._rows[slot] >= len(slots)]
        if not outside:
            return
        wanted = frozenset(slots)
        inside = [slot for slot in range(self.slots) if self._rows[slot] < len(slots) and slot not in wanted]
        for one, other in zip(outside, inside, strict=True):
            self._cache.swap(self._rows[one], self._rows[other], max(self._lengths[one], self._lengths[other]))
            self._rows[one], self._rows[other] = self._rows[other], self._rows[one]
