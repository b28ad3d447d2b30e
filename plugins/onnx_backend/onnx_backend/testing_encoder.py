"""For tests: tiny random encoders as .onnx files, and what they compute, in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["SIZE", "VOCABULARY", "TinyEncoder", "make_encoder"]

VOCABULARY = 300
SIZE = 24  # of a vector

_TYPES = 2
_FAR = -1e9  # what a token is told of padding: look elsewhere
_SOURCES = {"sentence_embedding": "mean", "logits": "relevant"}
_Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class TinyEncoder:
    """One layer of attention over vectors of tokens.

    Attributes:
        file: the graph.
        words: vectors of the tokens; of what they are the first and the second text's; what attention goes through.
        types: see there.
        mixed: see there.
        relevance: what makes one number of a text's first vector.
    """

    file: Path
    words: _Floats
    types: _Floats
    mixed: _Floats
    relevance: _Floats

    def vectors(self, tokens: Sequence[int], types: Sequence[int] | None = None) -> _Floats:
        """Return what the graph should give for one text without padding, ``[tokens, size]``, in float64."""
        seen = self.words[list(tokens)].astype(np.float64) + self.types[list(types or [0] * len(tokens))]
        weights = np.exp(seen @ seen.T / np.sqrt(SIZE))
        return np.asarray((weights / weights.sum(1, keepdims=True)) @ seen @ self.mixed + seen)


def make_encoder(
    folder: Path,
    *,
    outputs: Sequence[str] = ("last_hidden_state",),
    inputs: Sequence[str] = ("input_ids", "attention_mask", "token_type_ids"),
    shape: tuple[int | str | None, int | str | None] = ("texts", "tokens"),
    integers: int = TensorProto.INT64,
    floats: int = TensorProto.FLOAT,
    labels: int = 1,
) -> TinyEncoder:
    """Write a graph.

    Args:
        folder: where to.
        outputs: ``sentence_embedding`` is the mean of a text's vectors, padding and all, ``logits`` what their first is
            worth; by any other name, a vector a token.
        inputs: what it takes.
        shape: of each of them; a number is fixed, a word names what is not.
        integers: number format of the inputs, as ONNX counts them.
        floats: of the outputs.
        labels: that the logits tell apart.
    """
    draw = np.random.default_rng(5)
    made = TinyEncoder(
        file=folder / "model.onnx",
        words=draw.normal(scale=0.7, size=(VOCABULARY, SIZE)).astype(np.float32),
        types=draw.normal(scale=0.7, size=(_TYPES, SIZE)).astype(np.float32),
        mixed=draw.normal(scale=0.7, size=(SIZE, SIZE)).astype(np.float32),
        relevance=draw.normal(scale=0.05, size=(SIZE, labels)).astype(np.float32),
    )
    numbers: dict[str, npt.ArrayLike] = {"scale": np.float32(SIZE**-0.5), "one": np.float32(1), "far": np.float32(_FAR)}
    numbers |= {"second": np.array([1]), "first": np.array(0)}
    numbers |= {"words": made.words, "types": made.types, "mixed": made.mixed, "relevance": made.relevance}
    nodes = [
        _node("Gather", ["words", "input_ids"], "seen"),
        *(
            [_node("Gather", ["types", "token_type_ids"], "told"), _node("Add", ["seen", "told"], "given")]
            if "token_type_ids" in inputs
            else [_node("Identity", ["seen"], "given")]
        ),
        _node("Transpose", ["given"], "turned", perm=[0, 2, 1]),
        _node("MatMul", ["given", "turned"], "alike"),
        _node("Mul", ["alike", "scale"], "scaled"),
        *(_masked() if "attention_mask" in inputs else [_node("Identity", ["scaled"], "masked")]),
        _node("Softmax", ["masked"], "weights", axis=-1),
        _node("MatMul", ["weights", "given"], "attended"),
        _node("MatMul", ["attended", "mixed"], "through"),
        _node("Add", ["through", "given"], "vectors"),
        _node("ReduceMean", ["vectors", "second"], "mean", keepdims=0),
        _node("Gather", ["vectors", "first"], "beginning", axis=1),
        _node("MatMul", ["beginning", "relevance"], "relevant"),
        *(_node("Cast", [_SOURCES.get(name, "vectors")], name, to=floats) for name in outputs),
    ]
    constants = [numpy_helper.from_array(np.asarray(values), name) for name, values in numbers.items()]
    sizes = {"sentence_embedding": [shape[0], SIZE], "logits": [shape[0], labels]}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, integers, shape) for name in inputs],
        [helper.make_tensor_value_info(name, floats, sizes.get(name, [*shape, SIZE])) for name in outputs],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, made.file)
    return made


def _masked() -> list[onnx.NodeProto]:
    return [
        _node("Cast", ["attention_mask"], "real", to=TensorProto.FLOAT),
        _node("Sub", ["one", "real"], "padding"),
        _node("Mul", ["padding", "far"], "away"),
        _node("Unsqueeze", ["away", "second"], "distance"),
        _node("Add", ["scaled", "distance"], "masked"),
    ]


def _node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], **attributes)
