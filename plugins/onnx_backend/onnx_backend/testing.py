"""Tiny random decoders as .onnx files, of the operators that large ones are made of; and what lies beside a graph."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from decoding.testing import byte_level
from onnx import TensorProto, helper, numpy_helper

__all__ = ["CAPACITY", "HEADS", "LAYERS", "SIZE", "VOCABULARY", "describe", "make_decoder"]

VOCABULARY = 97
LAYERS = 2
HEADS = 2  # of keys and values
QUERY_HEADS = 4
SIZE = 16  # of a head
CAPACITY = 64  # positions that can be told apart
_HIDDEN = QUERY_HEADS * SIZE
_INNER = 2 * _HIDDEN
_CONTRIB = "com.microsoft"


def make_decoder(
    folder: Path,
    *,
    dtype: type[np.floating] = np.float32,
    logits: Literal["last", "all", "asked"] = "last",
    hidden: bool = True,
    positions: bool = False,
    seed: int = 0,
) -> Path:
    """Write a random decoder like a Llama, with GroupQueryAttention; return the file.

    Args:
        folder: where to.
        dtype: number format of weights, cache and outputs: float32 or float16.
        logits: of which positions: the last, all, or as many of the last as the input ``num_logits_to_keep`` says.
        hidden: the last layer's vectors are an output too.
        positions: it takes ``position_ids``; otherwise attention itself counts them, by the mask.
        seed: of its weights.
    """
    graph = _Graph(dtype, np.random.default_rng(seed))
    graph.take_mask()
    flow = graph.add("Gather", [graph.weight(VOCABULARY, _HIDDEN, scale=1.0), "input_ids"])
    for layer in range(LAYERS):
        flow = graph.add_layer(layer, flow, positions=positions)
    states = graph.add_norm(flow, output="hidden_states")
    if logits == "last":
        states = graph.add("Gather", [states, graph.constant([-1])], axis=1)
    elif logits == "asked":
        beginning = graph.add("Neg", ["num_logits_to_keep"])
        states = graph.add("Slice", [states, beginning, graph.constant([2**62]), graph.constant([1])])
    graph.add("MatMul", [states, graph.weight(_HIDDEN, VOCABULARY, scale=0.5)], output="logits")
    return graph.save(folder / "model.onnx", logits=logits, hidden=hidden, positions=positions)


def describe(folder: Path, *, model_max_length: int = 1000, **config: Any) -> Path:
    """Put a tokenizer and a config.json beside a graph; return the folder.

    Args:
        folder: where to.
        model_max_length: most tokens, as the tokenizer has it.
        config: keys of the config that differ from those of a Llama of `CAPACITY` positions.
    """
    tokenizer = byte_level()
    tokenizer.model_max_length = model_max_length
    tokenizer.save_pretrained(folder)
    told = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": CAPACITY}
    (folder / "config.json").write_text(json.dumps(told | {"eos_token_id": tokenizer.eos_token_id} | config))
    return folder


@dataclass
class _Graph:
    dtype: type[np.floating]
    draw: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    @property
    def format(self) -> int:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype)))

    def add(
        self,
        operator: str,
        inputs: Sequence[str],
        *,
        output: str | None = None,
        more_outputs: Sequence[str] = (),
        domain: str = "",
        **attributes: float,
    ) -> str:
        output = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output, *more_outputs], domain=domain, **attributes))
        return output

    def constant(self, values: npt.ArrayLike, dtype: type[np.generic] = np.int64) -> str:
        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def weight(self, *shape: int, scale: float | None = None) -> str:
        numbers = self.draw.normal(scale=scale or 1.5 * shape[0] ** -0.5, size=shape)
        return self.constant(numbers, self.dtype)

    def take_mask(self) -> None:
        """What attention wants to know of the mask: each row's last position, and the longest row."""
        counted = self.add("ReduceSum", ["attention_mask", self.constant([1])], keepdims=0)
        self.add("Cast", [self.add("Sub", [counted, self.constant([1])])], output="last_position", to=TensorProto.INT32)
        longest = self.add("Gather", [self.add("Shape", ["attention_mask"]), self.constant(1)])
        self.add("Cast", [longest], output="longest", to=TensorProto.INT32)
        angles = np.arange(CAPACITY)[:, None] / 100.0 ** (np.arange(SIZE // 2) / (SIZE // 2))
        self.weights.append(numpy_helper.from_array(np.cos(angles).astype(self.dtype), "cos"))
        self.weights.append(numpy_helper.from_array(np.sin(angles).astype(self.dtype), "sin"))

    def add_norm(self, flow: str, *, output: str | None = None) -> str:
        ones = self.constant(np.ones(_HIDDEN), self.dtype)
        return self.add("SimplifiedLayerNormalization", [flow, ones], output=output, axis=-1, epsilon=1e-5)

    def add_layer(self, number: int, flow: str, *, positions: bool) -> str:
        normed = self.add_norm(flow)
        query = self.add("MatMul", [normed, self.weight(_HIDDEN, _HIDDEN)])
        key = self.add("MatMul", [normed, self.weight(_HIDDEN, HEADS * SIZE)])
        value = self.add("MatMul", [normed, self.weight(_HIDDEN, HEADS * SIZE)])
        if positions:
            turned = {"domain": _CONTRIB, "interleaved": 0}
            query = self.add("RotaryEmbedding", [query, "position_ids", "cos", "sin"], **turned)  # type: ignore[arg-type]
            key = self.add("RotaryEmbedding", [key, "position_ids", "cos", "sin"], **turned)  # type: ignore[arg-type]
        past = [f"past_key_values.{number}.key", f"past_key_values.{number}.value"]
        seen = self.add(
            "GroupQueryAttention",
            [query, key, value, *past, "last_position", "longest", *([] if positions else ["cos", "sin"])],
            more_outputs=[f"present.{number}.key", f"present.{number}.value"],
            domain=_CONTRIB,
            num_heads=QUERY_HEADS,
            kv_num_heads=HEADS,
            do_rotary=int(not positions),
        )
        flow = self.add("Add", [flow, self.add("MatMul", [seen, self.weight(_HIDDEN, _HIDDEN)])])
        normed = self.add_norm(flow)
        gate = self.add("MatMul", [normed, self.weight(_HIDDEN, _INNER)])
        gate = self.add("Mul", [gate, self.add("Sigmoid", [gate])])
        inner = self.add("Mul", [gate, self.add("MatMul", [normed, self.weight(_HIDDEN, _INNER)])])
        return self.add("Add", [flow, self.add("MatMul", [inner, self.weight(_INNER, _HIDDEN)])])

    def save(self, file: Path, *, logits: str, hidden: bool, positions: bool) -> Path:
        def tensor(name: str, *shape: int | str, elements: int | None = None) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, elements or self.format, shape)

        inputs = [tensor("input_ids", "rows", "new", elements=TensorProto.INT64)]
        inputs.append(tensor("attention_mask", "rows", "total", elements=TensorProto.INT64))
        if positions:
            inputs.append(tensor("position_ids", "rows", "new", elements=TensorProto.INT64))
        if logits == "asked":
            inputs.append(tensor("num_logits_to_keep", 1, elements=TensorProto.INT64))
        outputs = [tensor("logits", "rows", 1 if logits == "last" else logits, VOCABULARY)]
        if hidden:
            outputs.append(tensor("hidden_states", "rows", "new", _HIDDEN))
        for name in (f"{layer}.{half}" for layer in range(LAYERS) for half in ("key", "value")):
            inputs.append(tensor(f"past_key_values.{name}", "rows", HEADS, "past", SIZE))
            outputs.append(tensor(f"present.{name}", "rows", HEADS, "kept", SIZE))
        operators = [helper.make_opsetid("", 21), helper.make_opsetid(_CONTRIB, 1)]
        made = helper.make_graph(self.nodes, "decoder", inputs, outputs, self.weights)
        onnx.save(helper.make_model(made, opset_imports=operators, ir_version=10), file)
        return file
