"""An encoder or a cross-encoder -> a graph that reads whole texts."""

from __future__ import annotations

import inspect
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from onnx_backend.exporting.progress import ExportError

__all__ = ["export_encoder"]

_BITS = {"int8": 8, "int4": 4}
_ACCURACY = 4  # ONNX Runtime's number for computing in int8
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_TEXTS, _TOKENS = 2, 7  # of the example: neither 0 nor 1, which torch would take for constants
_RECIPE = ("modules.json", "config_sentence_transformers.json", "sentence_*_config.json")
_RECIPE_STEP = ("config.json", "model.safetensors")


def export_encoder(source: Path, out: Path, quantization: str, block_size: int = 64) -> None:
    """Write model.onnx, its weights, and what sentence-transformers says of how its vectors are made.

    Args:
        source: a folder with safetensors.
        out: an empty folder.
        quantization: of the matrices: none, int8 or int4. Weights alone have scales that are stored; what runs
            through them has some of its own for each token, so that no text changes another's.
        block_size: weights that share one scale.

    Raises:
        ExportError: torch cannot trace it.
    """
    program = _trace(source)
    if quantization != "none":
        quantizer = MatMulNBitsQuantizer(
            onnx_ir.to_proto(program),
            bits=_BITS[quantization],
            block_size=block_size,
            is_symmetric=True,
            accuracy_level=_ACCURACY,
        )
        quantizer.process()
        program = onnx_ir.from_proto(quantizer.model.model)
    onnx_ir.save(program, out / "model.onnx", external_data="model.onnx.data")
    _copy_recipe(source, out)


class _Reading(torch.nn.Module):
    """A model as the graph shall be: one output, and no cache."""

    def __init__(self, model: torch.nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(**dict(zip(self.names, inputs, strict=True)))[0]
        return found


def _trace(source: Path) -> onnx_ir.Model:
    place: dict[str, Any] = {
        "pretrained_model_name_or_path": source,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    config = AutoConfig.from_pretrained(**place)
    relevance = (config.architectures or [""])[0].endswith("ForSequenceClassification")
    # Plain attention: ONNX Runtime's is made of its operators, and torch's fused one becomes more of them.
    model = (AutoModelForSequenceClassification if relevance else AutoModel).from_pretrained(
        **place, dtype=torch.float32, use_safetensors=True, attn_implementation="eager"
    )
    model.eval().config.use_cache = False  # some are decoders by birth, and would give out what nobody asks for
    taken = AutoTokenizer.from_pretrained(**place).model_input_names
    known = inspect.signature(model.forward).parameters
    names = [name for name in _INPUTS if name in known and (name != "token_type_ids" or name in taken)]
    return trace(model, names, "logits" if relevance else "last_hidden_state")


def trace(model: torch.nn.Module, names: list[str], output: str) -> onnx_ir.Model:
    """Return the graph of a model that takes ``names``, with any number of texts and tokens."""
    # Each its own: of two inputs that are one tensor, torch would leave out the second.
    examples = tuple(torch.ones(_TEXTS, _TOKENS, dtype=torch.long) for _ in names)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of names that it gives to dimensions before it has seen that they are one
            program = torch.onnx.export(
                _Reading(model, names),
                examples,
                dynamo=True,
                input_names=names,
                output_names=[output],
                dynamic_shapes=(({0: "texts", 1: "tokens"},) * len(names),),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0].rstrip(".")
        msg = f"torch cannot trace it ({reason})"
        raise ExportError(msg) from error
    if program is None:
        msg = "torch gave no graph of it"
        raise ExportError(msg)
    return program.model


def _copy_recipe(source: Path, out: Path) -> None:
    for pattern in _RECIPE:
        for found in source.glob(pattern):
            shutil.copyfile(found, out / found.name)
    modules = source / "modules.json"
    steps = json.loads(modules.read_text(encoding="utf-8")) if modules.is_file() else []
    for name in (step["path"] for step in steps if step["path"]):
        folder = source / name
        if not folder.resolve().is_relative_to(source.resolve()):
            msg = f"its modules.json names a folder outside of it, '{name}'"
            raise ExportError(msg)
        for file in _RECIPE_STEP:
            if (folder / file).is_file():
                (out / name).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / file, out / name / file)
