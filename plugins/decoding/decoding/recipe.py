"""How the makers of a model make one vector of a text: what sentence-transformers' files beside it say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, deserialize

from core.api import EngineLoadError
from decoding.runner import Floats

__all__ = ["Activation", "Dense", "Recipe", "Requested", "Way", "choose_pooling", "read_recipe"]

Way = Literal["mean", "last", "cls"]
Requested = Literal["auto", "mean", "last", "cls"]
Activation = Literal["Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid"]

# As sentence-transformers writes them: flags at first, one word since release 5.
_FLAGS: dict[str, Way] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_cls_token": "cls",
}
_WORDS: dict[str, Way] = {"mean": "mean", "lasttoken": "last", "cls": "cls"}
_ACTIVATIONS: dict[str, Activation] = {
    "Identity": "Identity",
    "Tanh": "Tanh",
    "ReLU": "ReLU",
    "GELU": "GELU",
    "SiLU": "SiLU",
    "Sigmoid": "Sigmoid",
}


@dataclass(frozen=True, eq=False, slots=True)
class Dense:
    """One dense layer.

    Attributes:
        weight: ``[outputs, inputs]``.
        bias: ``[outputs]``, or None.
        activation: what its output goes through, as torch.nn calls it.
    """

    weight: Floats
    bias: Floats | None
    activation: Activation


@dataclass(frozen=True, eq=False, slots=True)
class Recipe:
    """How a text's vector is made of its tokens' vectors.

    Attributes:
        way: how they become one.
        dense: what that one then goes through; nothing in most models. Its length is made 1 afterwards anyway.
        max_tokens: how long the texts were that the model was trained on; None: not said.
    """

    way: Way
    dense: tuple[Dense, ...] = ()
    max_tokens: int | None = None


def read_recipe(folder: Path, requested: Requested) -> Recipe:
    """Return the recipe of a model; without files that say otherwise it is the mean.

    Args:
        folder: of the model.
        requested: a way that is taken instead of the files'.

    Raises:
        EngineLoadError: more, or something else, is done with the vectors than is known here, or a file says nothing
            that can be read; trying again cannot help.
    """
    try:
        return _read_recipe(folder, requested)
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        msg = f"How {folder} makes its vectors cannot be read from its modules.json and what that names: {error!r}."
        raise EngineLoadError(msg, permanent=True) from error


def _read_recipe(folder: Path, requested: Requested) -> Recipe:
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
            return Recipe(way, max_tokens=max_tokens)
        case [("Transformer", _), ("Pooling", place), *rest] if all(kind == "Dense" for kind, _ in rest):
            way = _read_way(place) if requested == "auto" else requested
            return Recipe(way, tuple(_read_dense(layer) for _, layer in rest), max_tokens)
    raise _refused(folder, f"the steps {', '.join(kind for kind, _ in steps)}")


def choose_pooling(requested: Requested, folder: Path) -> Way:
    """Return how a decoder's embeddings are made; see `read_recipe`.

    Raises:
        EngineLoadError: as there, or it has dense layers; trying again cannot help.
    """
    recipe = read_recipe(folder, requested)
    if recipe.dense:
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


def _read_dense(folder: Path) -> Dense:
    config = _read(folder / "config.json")
    activation = _ACTIVATIONS.get(str(config.get("activation_function", "Tanh")).rpartition(".")[2])
    places = {config.get(key) or "sentence_embedding" for key in ("module_input_name", "module_output_name")}
    if activation is None or config.get("use_residual") or places != {"sentence_embedding"}:
        raise _refused(folder, "a dense layer of an unknown form")
    file = folder / "model.safetensors"
    if not file.is_file():
        raise _refused(folder, "a dense layer whose weights are not there as safetensors")
    try:
        weights = {name: _floats(told) for name, told in deserialize(file.read_bytes())}
    except SafetensorError as error:
        msg = f"{folder} cannot be loaded: a file of weights is damaged: {error}."
        raise EngineLoadError(msg, permanent=True) from error
    return Dense(weights["linear.weight"], weights.get("linear.bias"), activation)


def _floats(tensor: dict[str, Any]) -> Floats:
    """Return a tensor in float32; numpy has no bfloat16, which is its upper half."""
    if tensor["dtype"] == "BF16":
        values = (np.frombuffer(tensor["data"], "<u2").astype("<u4") << 16).view("<f4")
    else:
        values = np.frombuffer(tensor["data"], {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[tensor["dtype"]])
    return values.astype(np.float32).reshape(tensor["shape"])


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _refused(folder: Path, what: str) -> EngineLoadError:
    msg = f"{folder} asks for {what} to make its vectors, which this backend does not have."
    return EngineLoadError(msg, permanent=True)
