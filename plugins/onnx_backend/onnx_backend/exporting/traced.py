"""A decoder that the model builder does not know -> a graph, traced by transformers; its cache grows with each call."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from transformers import AutoModelForCausalLM
from transformers.exporters import OnnxConfig, OnnxExporter
from transformers.exporters.utils import decompose_for_generation

from onnx_backend.exporting.progress import ExportError, Progress
from onnx_backend.exporting.source_model import affordable_dtype, parameters_of

__all__ = ["trace_decoder"]

_BITS = {"int8": 8, "int4": 4}
_ACCURACY = 4  # ONNX Runtime's number for computing in int8, as the model builder has it on a CPU
_CACHE = re.compile(r"(?P<side>input|output)\.past_key_values\.layers\.(?P<layer>\d+)\.(?P<half>key|value)s")


def trace_decoder(
    source: Path, out: Path, *, quantization: str, block_size: int, target: str, progress: Progress
) -> None:
    """Write model.onnx and its weights; see `export_decoder` for the arguments.

    Raises:
        ExportError: the model keeps something else than the keys and values of all tokens.
    """
    dtype = torch.float16 if target == "cuda" else affordable_dtype(parameters_of(source))
    if dtype == torch.bfloat16:
        msg = "there is too little memory to trace it: twice its weights in float32"
        raise ExportError(msg)
    progress.tell("exporting")
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=dtype, local_files_only=True, trust_remote_code=False
    ).eval()
    if "sliding_attention" in (getattr(model.config, "layer_types", None) or ()):
        msg = "some of its layers keep a window of tokens only, which the onnx backend does not serve"
        raise ExportError(msg)
    program = _trace(model)
    _name_as_usual(program)
    graph = out / "model.onnx"
    if quantization == "none":
        onnx_ir.save(program, graph, external_data="model.onnx.data")
        return
    progress.tell("quantising")
    quantizer = MatMulNBitsQuantizer(
        onnx_ir.to_proto(program),
        bits=_BITS[quantization],
        block_size=block_size,
        is_symmetric=True,
        accuracy_level=_ACCURACY if target == "cpu" else None,
    )
    quantizer.process()
    quantised: onnx.ModelProto = quantizer.model.model
    if not any(node.op_type == "MatMulNBits" for node in quantised.graph.node):
        msg = 'its graph has no matrices that could be quantised: set quantization = "none"'
        raise ExportError(msg)
    onnx.save_model(quantised, graph, save_as_external_data=True, location="model.onnx.data")


def _trace(model: Any) -> onnx_ir.Model:
    """The graph that takes a past, which may be empty, and any number of tokens."""
    tokens = torch.arange(8).reshape(1, 8).repeat(2, 1)
    # One row is padded: with nothing to hide, the graph would have no attention mask.
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1] * 8])
    # What makes up text ends nothing here: two steps are to be run.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    parts = decompose_for_generation(model, {"input_ids": tokens, "attention_mask": mask}, multi_token_decode=True)
    if "decode" not in parts:
        msg = f"transformers splits it into {', '.join(parts)}, which the onnx backend does not serve"
        raise ExportError(msg)
    return OnnxExporter().export(*parts["decode"], OnnxConfig(dynamic=True)).program


def _name_as_usual(program: onnx_ir.Model) -> None:
    """``past_key_values.0.key`` in, ``present.0.key`` out, with the sizes that the outputs tell."""
    outputs = {value.name: value for value in program.graph.outputs}
    for value in program.graph.inputs:
        if found := _CACHE.fullmatch(value.name or ""):
            given = outputs[f"output{(value.name or '').removeprefix('input')}"]
            past = list(value.shape or ())
            value.shape = onnx_ir.Shape([past[0], (given.shape or past)[1], past[2], (given.shape or past)[3]])
            value.name = f"past_key_values.{found['layer']}.{found['half']}"
            given.name = f"present.{found['layer']}.{found['half']}"
