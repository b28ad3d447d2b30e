"""Tiny random decoders of plain operators, as optimum writes large ones: every call returns a cache that has grown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["HEADS", "LAYERS", "POSITIONS", "SIZE", "VOCABULARY", "make_growing"]

VOCABULARY = 61
LAYERS = 2
HEADS = 2
SIZE = 8  # of a head
POSITIONS = 64  # that can be told apart
_HIDDEN = HEADS * SIZE
_LOWEST = -1e9
_Info = tuple[str, int, list[int | str]]


def make_growing(
    folder: Path,
    *,
    positions: bool = True,
    mask: bool = True,
    hidden: bool = True,
    needs_past: bool = False,
    rounds: bool = False,
    extra: Sequence[str] = (),
    past: str = "past_key_values.{}.{}",
    present: str = "present.{}.{}",
    name: str = "model.onnx",
) -> Path:
    """Write a decoder; return the file.

    Args:
        folder: where to.
        positions: it takes ``position_ids``; otherwise it counts a call's columns, padding and all.
        mask: it takes ``attention_mask``.
        hidden: the last layer's vectors are an output too.
        needs_past: it fails where nothing was kept before.
        rounds: all rows of a call are rounded to 8 bits by one scale.
        extra: further inputs, ``name`` or ``name:bool``.
        past: how its inputs are named, by layer and half.
        present: how its outputs are named.
        name: of the file.
    """
    graph = _Graph()
    inputs: list[_Info] = [("input_ids", TensorProto.INT64, ["rows", "new"])]
    inputs += [("attention_mask", TensorProto.INT64, ["rows", "total"])] if mask else []
    inputs += [("position_ids", TensorProto.INT64, ["rows", "new"])] if positions else []
    for one in extra:
        called, _, kind = one.partition(":")
        inputs.append((called, TensorProto.BOOL if kind == "bool" else TensorProto.INT64, [1]))
    outputs: list[_Info] = [("logits", TensorProto.FLOAT, ["rows", "new", VOCABULARY])]
    outputs += [("hidden_states", TensorProto.FLOAT, ["rows", "new", _HIDDEN])] if hidden else []

    first_past = past.format(0, "key")
    before = graph.add("Shape", first_past, start=2, end=3)
    total = graph.add("Add", before, graph.add("Shape", "input_ids", start=1, end=2))
    columns = graph.add("Range", graph.scalar(0), graph.add("Squeeze", total), graph.scalar(1))
    queries = graph.add("Slice", columns, before, total)
    seen = graph.add("LessOrEqual", columns, graph.add("Unsqueeze", queries, graph.ints([1])))
    if mask:
        real = graph.add("Unsqueeze", graph.add("Cast", "attention_mask", to=TensorProto.BOOL), graph.ints([1, 2]))
        seen = graph.add("And", seen, real)

    flow = graph.add("Gather", graph.weight(VOCABULARY, _HIDDEN, scale=1.0), "input_ids")
    places = graph.add("Gather", graph.weight(POSITIONS, _HIDDEN, scale=1.0), "position_ids" if positions else queries)
    flow = graph.add("Add", flow, places)
    for layer in range(LAYERS):
        names = {half: (past.format(layer, half), present.format(layer, half)) for half in ("key", "value")}
        flow = graph.add_layer(flow, seen, names, needs_past=needs_past)
        inputs += [(one, TensorProto.FLOAT, ["rows", HEADS, "past", SIZE]) for one, _ in names.values()]
        outputs += [(one, TensorProto.FLOAT, ["rows", HEADS, "kept", SIZE]) for _, one in names.values()]
    if rounds:
        graph.nodes.append(helper.make_node("DynamicQuantizeLinear", [flow], ["rounded", "scale", "zero"]))
        flow = graph.add("DequantizeLinear", "rounded", "scale", "zero")
    flow = graph.add("Tanh", flow, output="hidden_states")
    graph.add("MatMul", flow, graph.weight(_HIDDEN, VOCABULARY, scale=1.0), output="logits")

    made = helper.make_graph(
        graph.nodes,
        "decoder",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        graph.weights,
    )
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), file)
    return file


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._draw = np.random.default_rng(0)

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: object) -> str:
        output = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def add_layer(self, flow: str, seen: str, names: dict[str, tuple[str, str]], *, needs_past: bool) -> str:
        query = self._heads(flow)
        for half, (past, present) in names.items():
            self.add("Concat", past, self._heads(flow), axis=2, output=present)
            if needs_past and half == "key":
                first = self.add("Gather", past, self.ints([0]), axis=2)
                query = self.add("Add", query, self.add("Mul", first, self._array(0.0, np.float32)))
        key, value = names["key"][1], names["value"][1]
        scores = self.add("MatMul", query, self.add("Transpose", key, perm=[0, 1, 3, 2]))
        scores = self.add("Where", seen, scores, self._array(_LOWEST, np.float32))
        mixed = self.add("MatMul", self.add("Softmax", scores, axis=-1), value)
        mixed = self.add("Reshape", self.add("Transpose", mixed, perm=[0, 2, 1, 3]), self.ints([0, 0, _HIDDEN]))
        return self.add("Add", flow, self.add("MatMul", mixed, self.weight(_HIDDEN, _HIDDEN)))

    def scalar(self, value: int) -> str:
        return self._array(value, np.int64)

    def ints(self, values: Sequence[int]) -> str:
        return self._array(values, np.int64)

    def weight(self, *shape: int, scale: float = 0.4) -> str:
        return self._array(self._draw.normal(scale=scale, size=shape), np.float32)

    def _heads(self, flow: str) -> str:
        split = self.add(
            "Reshape", self.add("MatMul", flow, self.weight(_HIDDEN, _HIDDEN)), self.ints([0, 0, HEADS, SIZE])
        )
        return self.add("Transpose", split, perm=[0, 2, 1, 3])

    def _array(self, values: npt.ArrayLike, dtype: type[np.generic]) -> str:
        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name
