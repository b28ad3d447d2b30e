"""A KV cache of slots: rows of one tensor a layer, each with a length of its own, behind transformers' `Cache`.

Nothing grows and nothing is concatenated: a forward call writes its tokens where they stand and reads a view.
Before each call `SlotCache.step` is set to say which rows and positions that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

__all__ = ["LayerShape", "SlotCache", "Step"]

# Attention kernels compute so many positions at once and what is left over in another way, rounded differently. With
# nothing left over, and zeros for what is masked, the longest row's length cannot change a bit of another row's result.
_TOGETHER = 32


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer keeps of each token."""

    heads: int
    key_size: int
    value_size: int

    @property
    def numbers(self) -> int:
        """Numbers kept of each token."""
        return self.heads * (self.key_size + self.value_size)


class Step:
    """Which part of the cache one forward call writes and reads.

    Attributes:
        rows: the physical rows, a range.
        end: positions ``0 .. end - 1`` of them are read; what a row does not hold yet is masked.
        positions: where the new tokens stand, ``[rows, new]``.
        index: the same as places in a layer's tensor seen as one long row, ``[rows * new]``.
        causal: the new tokens are all there is, so that plain causal attention is right.
        full: every new token sees every position that is read.
    """

    __slots__ = ("_masks", "causal", "end", "full", "index", "positions", "rows")

    def __init__(
        self, rows: range, end: int, positions: torch.Tensor, index: torch.Tensor, *, causal: bool, full: bool
    ) -> None:
        self.rows = rows
        self.end = end
        self.positions = positions
        self.index = index
        self.causal = causal
        self.full = full
        self._masks: dict[tuple[int | None, torch.dtype], torch.Tensor] = {}

    def mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        """What is added to attention's scores, ``[rows, 1, new, end]``; None if nothing is hidden."""
        if window is not None and window >= self.end:
            window = None
        if self.full and window is None:
            return None
        found = self._masks.get((window, dtype))
        if found is None:
            keys = torch.arange(self.end, device=self.positions.device)
            queries = self.positions[:, :, None]
            hidden = keys > queries
            if window is not None:
                hidden |= keys <= queries - window
            found = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)
            found = self._masks[window, dtype] = found[:, None]
        return found


class _SlotLayer(CacheLayerMixin):
    """One layer's keys and values, ``[slots, places, heads, size]``."""

    is_sliding = False

    def __init__(self, owner: SlotCache, shape: LayerShape, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self._owner = owner
        # Zeros, not empty: a masked position still enters a product, and 0 * nan is nan.
        # (The system gives zeroed memory only when it is touched: an unused slot costs nothing on the CPU.)
        places = (owner.slots, owner.places, shape.heads)
        self.keys = torch.zeros(*places, shape.key_size, dtype=dtype, device=device)
        self.values = torch.zeros(*places, shape.value_size, dtype=dtype, device=device)
        self._flat_keys = self.keys.view(-1, shape.heads, shape.key_size)
        self._flat_values = self.values.view(-1, shape.heads, shape.value_size)
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: the shapes are known from the start."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: object, **_kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write ``[rows, heads, new, size]`` where the step says; return views of all that it reads."""
        step = self._owner.step
        self._flat_keys.index_copy_(0, step.index, key_states.transpose(1, 2).flatten(0, 1))
        self._flat_values.index_copy_(0, step.index, value_states.transpose(1, 2).flatten(0, 1))
        rows = slice(step.rows.start, step.rows.stop)
        return self.keys[rows, : step.end].transpose(1, 2), self.values[rows, : step.end].transpose(1, 2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what is read."""
        del query_length
        return self._owner.step.end, 0

    def get_seq_length(self) -> int:
        """Positions before the new tokens; rows differ, so this is the longest row's."""
        step = self._owner.step
        return step.end - step.positions.shape[1]

    def get_max_length(self) -> int:
        """Most tokens of a row."""
        return self._owner.capacity


class SlotCache(Cache):
    """All layers, and which part of them the next forward call works on.

    Attributes:
        slots: rows.
        capacity: most tokens of a row.
        spare_position: one more in each row, that no sequence uses.
        places: of a row's tensor.
        step: what the next call works on.
    """

    def __init__(
        self, shapes: Sequence[LayerShape], slots: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.slots = slots
        self.capacity = capacity
        self.spare_position = capacity
        self.places = _rounded_up(capacity + 1)
        self.device = device
        nothing = torch.zeros(0, 1, dtype=torch.long, device=device)
        self.step = Step(range(0), 0, nothing, nothing.flatten(), causal=False, full=True)
        super().__init__(layers=[_SlotLayer(self, shape, dtype, device) for shape in shapes])

    def begin_chunk(self, row: int, start: int, count: int) -> torch.Tensor:
        """Make the next call one of ``count`` new tokens of a row; return their positions, ``[1, count]``."""
        end = start + count
        positions = torch.arange(start, end, device=self.device)
        self.step = Step(
            range(row, row + 1),
            end,
            positions[None],
            positions + row * self.places,
            causal=start == 0,
            full=count == 1,
        )
        return self.step.positions

    def begin_decode(self, positions: Sequence[int]) -> torch.Tensor:
        """Make the next call one of a new token in each of the first rows; return their positions, ``[rows, 1]``."""
        end = _rounded_up(max(positions) + 1)
        places = torch.tensor(positions, device=self.device)[:, None]
        self.step = self._of_first_rows(places, end, full=min(positions) == end - 1)
        return places

    def begin_fixed(self, positions: torch.Tensor, end: int) -> None:
        """As `begin_decode`, from positions that are known to the device only, all below ``end`` or spare."""
        self.step = self._of_first_rows(positions, end, full=False)

    def begin_whole(self, tokens: torch.Tensor) -> torch.Tensor:
        """Make the next call one over whole inputs, padded on the right, that leaves the slots alone."""
        rows, longest = tokens.shape
        positions = torch.arange(longest, device=self.device).expand(rows, -1)
        self.step = Step(range(0), longest, positions, positions[:0].flatten(), causal=True, full=longest == 1)
        return positions

    def _of_first_rows(self, positions: torch.Tensor, end: int, *, full: bool) -> Step:
        beginnings = torch.arange(0, len(positions) * self.places, self.places, device=self.device)
        index = positions.flatten() + beginnings
        return Step(range(len(positions)), end, positions, index, causal=False, full=full)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first positions of one row into another."""
        for layer in self.layers:
            layer.keys[target, :length] = layer.keys[source, :length]
            layer.values[target, :length] = layer.values[source, :length]

    def clear(self, row: int) -> None:
        """Overwrite a row with zeros: a masked position still enters a product, and 0 * nan is nan."""
        for layer in self.layers:
            layer.keys[row] = 0
            layer.values[row] = 0

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange the first positions of two rows."""
        for layer in self.layers:
            for kept in (layer.keys, layer.values):
                held = kept[one, :length].clone()
                kept[one, :length] = kept[other, :length]
                kept[other, :length] = held


def _rounded_up(positions: int) -> int:
    return -(-positions // _TOGETHER) * _TOGETHER
