"""`decoding.runner.Runner` over a graph that writes its KV cache where it reads it: no step copies any of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from decoding.rows import SlotRows
from decoding.runner import Floats

from onnx_backend.buffers import allocate, kept_by
from onnx_backend.embedding import embed
from onnx_backend.graph import DecoderGraph
from onnx_backend.pooling import Way

__all__ = ["SharedBufferRunner"]

_HOST = ("cpu", 0)
_Ints = npt.NDArray[np.int64]


class SharedBufferRunner:
    """A decoder of GroupQueryAttention and its slots; see `decoding.runner.Runner`.

    Past and present are bound to the same rows of the same buffers, at full length. How much of each row counts is said
    by its line of the attention mask: as many ones as the row has tokens, the new ones included, and zeros after them.

    Args:
        graph: where it runs.
        slots: rows of the cache.
        context_tokens: most tokens of a row.
        pooling: how an embedding is made.
    """

    def __init__(self, graph: DecoderGraph, *, slots: int, context_tokens: int, pooling: Way = "mean") -> None:
        self.slots = slots
        self.context_tokens = context_tokens
        self.vocab_size = graph.vocab_size
        self._graph = graph
        self._pooling: Way = pooling
        self._kept = kept_by(graph)
        self._buffers = allocate(graph, rows=slots, capacity=context_tokens)
        self._rows = SlotRows(slots)
        # A prefill binds one row, a decode the first ones: there are never more than 2 * slots - 1.
        self._bindings: dict[tuple[int, int], ort.IOBinding] = {}
        self._places = np.arange(context_tokens)
        # What is written and read in every step; memory that is never touched costs nothing.
        self._tokens = np.empty(max(slots, context_tokens), np.int64)
        self._positions = np.empty_like(self._tokens)
        self._mask = np.empty(slots * context_tokens, np.int64)
        self._logits = np.empty(slots * graph.vocab_size, graph.logits_format)
        self._answer = np.empty((slots, graph.vocab_size), np.float32)

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Floats:
        """See `decoding.runner.Runner.prefill`."""
        count, end = len(tokens), start + len(tokens)
        self._rows.hold(slot, end)
        self._tokens[:count] = tokens
        self._positions[:count] = self._places[start:end]
        self._mask[:end] = 1
        logits = self._run(self._rows[slot], 1, count, end)
        return logits[0].astype(np.float32)  # a copy: the next call may come before it is read

    def decode(self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]) -> Floats:
        """See `decoding.runner.Runner.decode`."""
        count = len(slots)
        order = self._rows.bring_to_front(slots, self._buffers.swap)
        for slot, position in zip(slots, positions, strict=True):
            self._rows.hold(slot, position + 1)
        self._tokens[:count] = [tokens[number] for number in order]
        self._positions[:count] = [positions[number] for number in order]
        longest = max(positions) + 1
        mask = self._mask[: count * longest].reshape(count, longest)
        np.less_equal(self._places[:longest], self._positions[:count, None], out=mask)
        logits = self._run(0, count, 1, longest)
        if logits.dtype == np.float32 and order == sorted(order):
            return logits
        answer = self._answer[:count]
        for row, number in enumerate(order):
            answer[number] = logits[row]
        return answer

    def copy_slot(self, source: int, target: int, length: int) -> None:
        """See `decoding.runner.Runner.copy_slot`."""
        self._buffers.copy(self._rows[source], self._rows[target], length)
        self._rows.hold(target, length)

    def clear_slot(self, slot: int) -> None:
        """See `decoding.runner.Runner.clear_slot`."""
        self._buffers.clear(self._rows[slot])
        self._rows.hold(slot, 0)

    def embed(self, inputs: Sequence[Sequence[int]]) -> Floats:
        """See `onnx_backend.embedding.embed`."""
        return embed(self._graph, inputs, self._pooling)

    def _run(self, first: int, rows: int, new: int, longest: int) -> npt.NDArray[np.floating]:
        """Compute the new tokens of some rows; return each one's last logits, ``[rows, vocab_size]``, in our buffer."""
        if longest > self.context_tokens:
            msg = f"{longest} tokens do not fit into a row of {self.context_tokens}"
            raise ValueError(msg)  # what is bound by address is checked by nobody else
        graph, binding = self._graph, self._binding(first, rows)
        # Bound anew in every step: shapes change, and on another device binding is what copies the input there.
        _bind(binding, "input_ids", self._tokens, (rows, new))
        _bind(binding, "attention_mask", self._mask, (rows, longest))
        if graph.takes_positions:
            _bind(binding, "position_ids", self._positions, (rows, new))
        given = 1 if graph.last_logits_only else new
        numbers = rows * given * self.vocab_size
        if self._logits.size < numbers:
            self._logits = np.empty(numbers, graph.logits_format)
        shape = rows, given, self.vocab_size
        binding.bind_output(graph.logits, *_HOST, graph.logits_format, shape, self._logits.ctypes.data)
        binding.synchronize_inputs()
        graph.session.run_with_iobinding(binding)
        return self._logits[:numbers].reshape(shape)[:, -1]

    def _binding(self, first: int, rows: int) -> ort.IOBinding:
        binding = self._bindings.get((first, rows))
        if binding is None:
            graph = self._graph
            binding = graph.session.io_binding()
            for name, constant in graph.constants.items():
                _bind(binding, name, constant, constant.shape)
            for number, kept in enumerate(self._kept):
                where = graph.device, graph.device_id, graph.cache_format
                shape = rows, kept.heads, self.context_tokens, kept.size
                address = self._buffers.address(number, first)
                binding.bind_input(kept.past, *where, shape, address)
                binding.bind_output(kept.present, *where, shape, address)
            self._bindings[first, rows] = binding
        return binding


def _bind(binding: ort.IOBinding, name: str, values: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
    binding.bind_input(name, *_HOST, values.dtype, shape, values.ctypes.data)
