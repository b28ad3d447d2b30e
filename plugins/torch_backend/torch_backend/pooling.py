"""Inputs of different lengths into one batch, and one vector out of the vectors of each one's tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from core.api import EngineLoadError
from torch_backend.settings import Pooling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Way", "choose_pooling", "pad", "pool"]

Way = Literal["mean", "last", "cls"]

# As sentence-transformers writes them: flags at first, one word since release 5.
_FLAGS: dict[str, Way] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_cls_token": "cls",
}
_WORDS: dict[str, Way] = {"mean": "mean", "lasttoken": "last", "cls": "cls"}
_HARMLESS = frozenset({"Transformer", "Pooling", "Normalize"})


def choose_pooling(requested: Pooling, folder: Path) -> Way:
    """Return what the settings say, else what the model's ``modules.json`` says, else the mean.

    Raises:
        EngineLoadError: the model is more than tokens' vectors and one of these ways; trying again cannot help.
    """
    if requested != "auto":
        return requested
    if not (folder / "modules.json").is_file():
        return "mean"
    modules: list[dict[str, str]] = json.loads((folder / "modules.json").read_text())
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if others := sorted(set(kinds) - _HARMLESS):
        msg = (
            f"The model's modules.json asks for {', '.join(others)}, which is not supported: set pooling."
        )
        raise EngineLoadError(msg, permanent=True)
    if "Pooling" not in kinds:
        return "mean"
    file = folder / modules[kinds.index("Pooling")]["path"] / "config.json"
    config: dict[str, Any] = json.loads(file.read_text())
    if "pooling_mode" in config:
        ways = [_WORDS.get(str(config["pooling_mode"]))]
    else:
        ways = [_FLAGS.get(flag) for flag, on in config.items() if flag.startswith("pooling_mode_") and on is True]
    if len(ways) != 1 or ways[0] is None:
        msg = f"{file} asks for a way of pooling that is not supported: set pooling to mean, last or cls."
        raise EngineLoadError(msg, permanent=True)
    return ways[0]


def pad(inputs: Sequence[Sequence[int]], model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the inputs padded on the right, ``[inputs, longest]``, and their lengths, where the model is."""
    lengths = [len(tokens) for tokens in inputs]
    padded = torch.full((len(inputs), max(lengths)), model.config.pad_token_id or 0)
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
