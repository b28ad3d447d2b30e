"""What an opened decoder graph takes and gives, as its own inputs and outputs say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["DecoderGraph", "LayerTensors"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerTensors:
    """One layer's part of the KV cache: names of its tensors, ``[rows, heads, positions, size]``, and their sizes."""

    past_key: str
    past_value: str
    present_key: str
    present_value: str
    heads: int
    key_size: int
    value_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderGraph:
    """A decoder that keeps a KV cache.

    Attributes:
        session: where it runs.
        device: of its tensors, as ONNX Runtime names it: ``cpu`` or ``cuda``; and which one.
        layers: what it keeps of each token.
        cache_format: number format of the cache, float32 or float16.
        logits: name of the output, ``[rows, positions or 1, vocab_size]``; and its number format.
        last_logits_only: the graph computes the logits of each row's last position alone.
        hidden: name of the output with the last layer's vectors, ``[rows, positions, size]``; None if it has none.
        shares_buffer: past and present may be one buffer of full length (GroupQueryAttention); otherwise every call
            returns a cache that has grown.
        takes_mask, takes_positions: it has the inputs ``attention_mask``, ``position_ids``.
    """

    session: onnxruntime.InferenceSession
    device: str
    device_id: int
    layers: tuple[LayerTensors, ...]
    cache_format: np.dtype[np.floating]
    vocab_size: int
    logits: str
    logits_format: np.dtype[np.floating]
    last_logits_only: bool
    hidden: str | None
    hidden_format: np.dtype[np.floating] | None
    shares_buffer: bool
    takes_mask: bool
    takes_positions: bool
