"""`decoding.runner.Runner` over a graph that returns its whole KV cache, one token longer, from every call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from decoding.runner import Floats

from onnx_backend.buffers import kept_by
from onnx_backend.embedding import embed
from onnx_backend.graph import DecoderGraph
from onnx_backend.pooling import Way

__all__ = ["GrowingRunner"]

_Array = npt.NDArray[np.floating]
_Ints = npt.NDArray[np.int64]

# How much longer a buffer is made than it must be: rows that grow by a token a step then rarely need a new one.
_SLACK = 1.25


@dataclass(kw_only=True, slots=True)
class _Batch:
    """Rows that decode together, ``width`` tokens long with the padding on their left.

    Attributes:
        slots: of each row; None: what stands there counts no more.
        lengths: tokens of each row.
        width: the most of them.
        past: what they hold: for each of the graph's cache tensors a buffer, that begins with it.
        next: buffers for what the next step returns.
    """

    slots: list[int | None] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    width: int = 0
    past: list[_Array]
    next: list[_Array]


class GrowingRunner:
    """A decoder and its slots; see `decoding.runner.Runner`.

    Rows that decode together need one common past. They are padded on the left, where distances between positions stay
    what they are, and the mask hides the padding. What a step returns is the next one's past as it stands, so nothing
    is copied here while the same slots go on; when one comes or leaves, the batch is put together anew. Between the two
    calls of one step the cache is there twice. It lies in main memory, on whatever device the graph runs.

    Args:
        graph: where it runs.
        slots: choices at once.
        context_tokens: most tokens of a slot.
        pooling: how an embedding is made.
        together: whether the graph computes rows of different lengths in one call.
    """

    def __init__(
        self, graph: DecoderGraph, *, slots: int, context_tokens: int, pooling: Way = "mean", together: bool = True
    ) -> None:
        self.slots = slots
        self.context_tokens = context_tokens
        self.vocab_size = graph.vocab_size
        self._graph = graph
        self._pooling: Way = pooling
        self._together = together
        self._kinds = kept_by(graph)
        self._empty = self._tensors(1, 0)
        # What each slot holds that is in no batch; only read once it is here, so that copies of a slot share it.
        self._kept = [self._empty] * slots
        self._batch = _Batch(past=self._buffers(), next=self._buffers())

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Floats:
        """See `decoding.runner.Runner.prefill`."""
        end = start + len(tokens)
        present = self._tensors(1, end)
        logits = self._run(
            tokens=np.array([tokens], np.int64),
            mask=np.ones((1, end), np.int64),
            positions=np.arange(start, end, dtype=np.int64)[None],
            past=[np.ascontiguousarray(tensor) for tensor in self._held(slot, start)],
            present=present,
        )
        self._keep(slot, present)
        return logits[0]

    def decode(self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]) -> Floats:
        """See `decoding.runner.Runner.decode`."""
        if not self._together:
            given = zip(slots, tokens, positions, strict=True)
            return np.stack([self.prefill(slot, [token], position) for slot, token, position in given])
        number_of = {slot: number for number, slot in enumerate(slots)}
        if dict(zip(self._batch.slots, self._batch.lengths, strict=True)) != dict(zip(slots, positions, strict=True)):
            self._put_together(slots, positions)
        batch, rows, width = self._batch, len(slots), self._batch.width
        order = [number_of[slot] for slot in batch.slots if slot is not None]
        lengths = np.array(batch.lengths, np.int64)[:, None]
        logits = self._run(
            tokens=np.array([[tokens[number]] for number in order], np.int64),
            mask=(np.arange(width + 1) >= width - lengths).astype(np.int64),
            positions=lengths,
            past=self._tensors(rows, width, batch.past),
            present=self._tensors(rows, width + 1, batch.next),
        )
        batch.past, batch.next = batch.next, batch.past
        batch.lengths = [length + 1 for length in batch.lengths]
        batch.width += 1
        return logits if order == sorted(order) else logits[np.argsort(order)]

    def copy_slot(self, source: int, target: int, length: int) -> None:
        """See `decoding.runner.Runner.copy_slot`."""
        self._keep(target, self._copied(source, length))

    def clear_slot(self, slot: int) -> None:
        """See `decoding.runner.Runner.clear_slot`."""
        self._keep(slot, self._empty)

    def embed(self, inputs: Sequence[Sequence[int]]) -> Floats:
        """See `onnx_backend.embedding.embed`."""
        return embed(self._graph, inputs, self._pooling)

    def _held(self, slot: int, length: int) -> list[_Array]:
        """Views of the first tokens that a slot holds, one tensor ``[1, heads, length, size]`` of each kind."""
        batch = self._batch
        if slot not in batch.slots:
            return [tensor[:, :, :length] for tensor in self._kept[slot]]
        row = batch.slots.index(slot)
        begin = batch.width - batch.lengths[row]
        tensors = self._tensors(len(batch.slots), batch.width, batch.past)
        return [tensor[row : row + 1, :, begin : begin + length] for tensor in tensors]

    def _copied(self, slot: int, length: int) -> list[_Array]:
        """The same, to be kept: a batch's buffers are written to again, what lies outside of it never is."""
        held = self._held(slot, length)
        return [tensor.copy() if slot in self._batch.slots else np.ascontiguousarray(tensor) for tensor in held]

    def _keep(self, slot: int, tensors: list[_Array]) -> None:
        """Let a slot hold something else, outside of the batch."""
        self._kept[slot] = tensors
        self._batch.slots = [None if row == slot else row for row in self._batch.slots]

    def _put_together(self, slots: Sequence[int], lengths: Sequence[int]) -> None:
        """Make a batch of these slots and the first tokens that each holds."""
        old, width = self._batch, max(lengths)
        tensors = self._tensors(len(slots), width, old.next)
        for row, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
            for tensor, held in zip(tensors, self._held(slot, length), strict=True):
                tensor[row, :, : width - length] = 0  # hidden by the mask, but it must be a number
                tensor[row, :, width - length :] = held[0]
        for left, length in zip(old.slots, old.lengths, strict=True):
            if left is not None and left not in slots:
                self._kept[left] = self._copied(left, length)
        for slot in slots:
            self._kept[slot] = self._empty
        self._batch = _Batch(slots=[*slots], lengths=[*lengths], width=width, past=old.next, next=old.past)

    def _buffers(self) -> list[_Array]:
        return [np.empty(0, self._graph.cache_format) for _ in self._kinds]

    def _tensors(self, rows: int, width: int, buffers: list[_Array] | None = None) -> list[_Array]:
        """One tensor ``[rows, heads, width, size]`` of each kind; too short buffers are replaced."""
        buffers = self._buffers() if buffers is None else buffers
        tensors = []
        for number, kind in enumerate(self._kinds):
            shape = rows, kind.heads, width, kind.size
            numbers = math.prod(shape)
            if buffers[number].size < numbers:
                buffers[number] = np.empty(int(numbers * _SLACK), self._graph.cache_format)
            tensors.append(buffers[number][:numbers].reshape(shape))
        return tensors

    def _run(
        self, *, tokens: _Ints, mask: _Ints, positions: _Ints, past: list[_Array], present: list[_Array]
    ) -> Floats:
        """Compute new tokens behind a past; return the last ones' logits, ``[rows, vocab_size]``."""
        graph = self._graph
        rows, new = tokens.shape
        given: dict[str, npt.NDArray[Any]] = {"input_ids": tokens, **graph.constants}
        if graph.takes_mask:
            given["attention_mask"] = mask
        if graph.takes_positions:
            given["position_ids"] = positions
        logits = np.empty((rows, 1 if graph.last_logits_only else new, graph.vocab_size), graph.logits_format)
        taken = {graph.logits: logits}
        for kind, before, after in zip(self._kinds, past, present, strict=True):
            given[kind.past] = before
            taken[kind.present] = after
        binding = graph.session.io_binding()
        for name, values in given.items():
            binding.bind_input(name, "cpu", 0, values.dtype, values.shape, values.ctypes.data)
        for name, values in taken.items():
            binding.bind_output(name, "cpu", 0, values.dtype, values.shape, values.ctypes.data)
        binding.synchronize_inputs()
        graph.session.run_with_iobinding(binding)
        return logits[:, -1].astype(np.float32, copy=False)
