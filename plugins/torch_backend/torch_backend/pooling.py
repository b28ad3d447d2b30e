"""Inputs of different lengths into one batch, and one vector out of the vectors of each one's tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import load_file

from core.api import EngineLoadError
from torch_backend.settings import Pooling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Recipe", "Way", "choose_pooling", "pad", "pool", "read_recipe"]

Way = Literal["mean", "last", "cls"]

# As sentence-transformers writes them: flags at first, one word since release 5.
_FLAGS: dict[str, Way] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_cls_token": "cls",
}
_WORDS: dict[str, Way] = {"mean": "mean", "lasttoken": "last", "cls": "cls"}
_ACTIVATIONS = frozenset({"Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid"})


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the makers of a model make a vector of a text, as sentence-transformers' files beside it say.

    Attributes:
        way: how the tokens' vectors become one.
        dense: what that one then goes through; nothing in most models. Its length is made 1 afterwards anyway.
        max_tokens: how long the texts were that the model was trained on; None: not said.
    """

    way: Way
    dense: torch.nn.Sequential
    max_tokens: int | None


def read_recipe(folder: Path, requested: Pooling) -> Recipe:
    """Return the recipe of a model; without files that say otherwise it is the mean.

    Args:
        folder: of the model.
        requested: a way that is taken instead of the files'.

    Raises:
        EngineLoadError: more, or something else, is done with the vectors than is known here; trying again cannot help.
    """
    limits = [_read(file).get("max_seq_length") for file in folder.glob("sentence_*_config.json")]
    max_tokens = next((int(limit) for limit in limits if limit), None)
    modules: list[dict[str, str]] = _read(folder / "modules.json") or []
    for module in modules:
        if not module["type"].startswith("sentence_transformers."):
            raise _refused(folder, f"Python code of its own ({module['type']})")
    steps = [(module["type"].rpartition(".")[2], folder / module["path"]) for module in modules]
    while steps and steps[-1][0] == "Normalize":
        steps.pop()
    way: Way = "mean" if requested == "auto" else requested
    match steps:
        case [] | [("Transformer", _)]:
            return Recipe(way, torch.nn.Sequential(), max_tokens)
        case [("Transformer", _), ("Pooling", place), *rest] if all(kind == "Dense" for kind, _ in rest):
            way = _read_way(place) if requested == "auto" else requested
            return Recipe(way, torch.nn.Sequential(*(_read_dense(layer) for _, layer in rest)), max_tokens)
    raise _refused(folder, f"the steps {', '.join(kind for kind, _ in steps)}")


def choose_pooling(requested: Pooling, folder: Path) -> Way:
    """Return how a decoder's embeddings are made; see `read_recipe`.

    Raises:
        EngineLoadError: as there, or it has dense layers; trying again cannot help.
    """
    recipe = read_recipe(folder, requested)
    if len(recipe.dense):
        raise _refused(folder, "dense layers behind a model that generates text")
    return recipe.way


def _read_way(folder: Path) -> Way:
    config = _read(folder / "config.json")
    found = config.get("pooling_mode")
    if found is None:
        flags = [flag for flag, on in config.items() if flag.startswith("pooling_mode_") and on is True]
        ways = [_FLAGS.get(flag) for flag in flags] or ["mean"]
    else:
        ways = [_WORDS.get(str(found))]
    if len(ways) != 1 or ways[0] is None:
        raise _refused(folder, "a way of pooling other than the mean, the last token or the first")
    return ways[0]


def _read_dense(folder: Path) -> torch.nn.Sequential:
    config = _read(folder / "config.json")
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    places = {config.get(key) or "sentence_embedding" for key in ("module_input_name", "module_output_name")}
    if activation not in _ACTIVATIONS or config.get("use_residual") or places != {"sentence_embedding"}:
        raise _refused(folder, "a dense layer of an unknown form")
    if not (folder / "model.safetensors").is_file():
        raise _refused(folder, "a dense layer whose weights are not there as safetensors")
    weights = load_file(folder / "model.safetensors")
    weight = weights["linear.weight"]
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias="linear.bias" in weights)
    linear.load_state_dict({name.removeprefix("linear."): values for name, values in weights.items()})
    return torch.nn.Sequential(linear, getattr(torch.nn, activation)()).requires_grad_(requires_grad=False)


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _refused(folder: Path, what: str) -> EngineLoadError:
    msg = f"{folder} asks for {what} to make its vectors, which the torch backend does not have."
    return EngineLoadError(msg, permanent=True)


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
