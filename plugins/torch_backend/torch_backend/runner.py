"""`decoding.runner.Runner` over any causal language model of transformers that keeps a standard KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from decoding.recipe import Way
from decoding.rows import SlotRows
from decoding.runner import Floats

from torch_backend import attention
from torch_backend.cache import LayerShape, SlotCache
from torch_backend.cuda_graphs import DecodeGraphs
from torch_backend.pooling import pad, pool

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["TorchRunner"]


class TorchRunner:
    """A decoder and its slots; see `decoding.runner.Runner`.

    Args:
        model: where it runs, in the number format that it runs in.
        shapes: what each of its layers keeps of a token.
        slots: rows of the cache.
        context_tokens: most tokens of a row.
        kernel: how attention is computed.
        pooling: how an embedding is made.
        graphs: whether decode steps are captured as CUDA graphs.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        shapes: Sequence[LayerShape],
        *,
        slots: int,
        context_tokens: int,
        kernel: attention.Kernel = attention.sdpa,
        pooling: Way = "mean",
        graphs: bool = False,
    ) -> None:
        self.slots = slots
        self.context_tokens = context_tokens
        self.vocab_size: int = model.get_output_embeddings().out_features
        self._model = model
        self._pooling: Way = pooling
        self._cache = SlotCache(shapes, slots, context_tokens, model.dtype, model.device)
        self._rows = SlotRows(slots)
        self._graphs = DecodeGraphs(self._forward, self._cache) if graphs else None
        model.set_attn_implementation(attention.register(self._cache, kernel))

    @torch.inference_mode()
    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Floats:
        """See `decoding.runner.Runner.prefill`."""
        self._rows.hold(slot, start + len(tokens))
        positions = self._cache.begin_chunk(self._rows[slot], start, len(tokens))
        return _floats(self._forward(self._tensor([tokens]), positions))[0]

    @torch.inference_mode()
    def decode(self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]) -> Floats:
        """See `decoding.runner.Runner.decode`."""
        order = self._rows.bring_to_front(slots, self._cache.swap)
        for slot, position in zip(slots, positions, strict=True):
            self._rows.hold(slot, position + 1)
        given = self._tensor([[tokens[number]] for number in order])
        places = [positions[number] for number in order]
        if self._graphs is None:
            logits = _floats(self._forward(given, self._cache.begin_decode(places)))
        else:
            logits = _floats(self._graphs(given, self._tensor(places)[:, None], max(places) + 1))
        return logits if order == sorted(order) else logits[[self._rows[slot] for slot in slots]]

    @torch.inference_mode()
    def copy_slot(self, source: int, target: int, length: int) -> None:
        """See `decoding.runner.Runner.copy_slot`."""
        self._cache.copy(self._rows[source], self._rows[target], length)
        self._rows.hold(target, length)

    @torch.inference_mode()
    def clear_slot(self, slot: int) -> None:
        """See `decoding.runner.Runner.clear_slot`."""
        self._cache.clear(self._rows[slot])
        self._rows.hold(slot, 0)

    @torch.inference_mode()
    def embed(self, inputs: Sequence[Sequence[int]]) -> Floats:
        """See `decoding.runner.Runner.embed`."""
        tokens, lengths = pad(inputs, self._model)
        positions = self._cache.begin_whole(tokens)
        output = self._model.base_model(input_ids=tokens, position_ids=positions, use_cache=False)
        return _floats(pool(output.last_hidden_state, lengths, self._pooling))

    def _forward(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        output = self._model(
            input_ids=tokens,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,  # a prompt's other logits would be by far the largest tensor of all
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _tensor(self, numbers: Sequence[int] | Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor(numbers, device=self._cache.device)


def _floats(values: torch.Tensor) -> Floats:
    found: Floats = values.float().cpu().numpy()
    return found
