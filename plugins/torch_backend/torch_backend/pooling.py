"""Inputs of different lengths into one batch, and one vector out of the vectors of each one's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from decoding.recipe import Dense, Way

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["make_dense", "pad", "pool"]


def make_dense(layers: Sequence[Dense]) -> torch.nn.Sequential:
    """Return a module that computes the dense layers of a recipe."""
    steps: list[torch.nn.Module] = []
    for layer in layers:
        linear = torch.nn.Linear(layer.weight.shape[1], layer.weight.shape[0], bias=layer.bias is not None)
        weights = {"weight": layer.weight} if layer.bias is None else {"weight": layer.weight, "bias": layer.bias}
        linear.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()})
        steps += [linear, getattr(torch.nn, layer.activation)()]
    return torch.nn.Sequential(*steps).requires_grad_(requires_grad=False)


def pad(inputs: Sequence[Sequence[int]], model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the inputs padded on the right, ``[inputs, longest]``, and their lengths, where the model is."""
    lengths = [len(tokens) for tokens in inputs]
    padded = torch.full((len(inputs), max(lengths)), max(0, model.config.pad_token_id or 0))
    for row, tokens in enumerate(inputs):
        padded[row, : len(tokens)] = torch.tensor(tokens)
    return padded.to(model.device), torch.tensor(lengths, device=model.device)


def pool(hidden: torch.Tensor, lengths: torch.Tensor, way: Way) -> torch.Tensor:
    """Return ``[inputs, size]`` in float32.

    Args:
        hidden: the tokens' vectors, ``[inputs, longest, size]``, padded on the right.
        lengths: tokens of each input, ``[inputs]``.
        way: how.
    """
    hidden = hidden.float()
    match way:
        case "cls":
            return hidden[:, 0]
        case "last":
            return hidden[torch.arange(len(lengths), device=hidden.device), lengths - 1]
        case "mean":
            real = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
            # Masked, not multiplied: what stands in the padding may be anything.
            summed = hidden.masked_fill(~real[:, :, None], 0.0).sum(1)
            return summed / lengths[:, None]
