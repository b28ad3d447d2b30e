"""The model that is exported, as torch reads it: the measure of what was made of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from onnx_backend.exporting.progress import ExportError

__all__ = ["FILES_TO_KEEP", "affordable_dtype", "copy_files", "folder_of_gguf", "parameters_of"]

FILES_TO_KEEP = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.tiktoken",
)
_FLOAT32_BYTES = 4


def affordable_dtype(parameters: int) -> torch.dtype:
    """Return float32, or bfloat16 if that would take more than half the free memory."""
    large = _FLOAT32_BYTES * parameters > psutil.virtual_memory().available / 2
    return torch.bfloat16 if large else torch.float32


def parameters_of(folder: Path) -> int:
    """Return how many numbers the safetensors files of a folder hold, from their headers."""
    return sum(_numbers_in(file) for file in folder.glob("*.safetensors"))


def _numbers_in(file: Path) -> int:
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    shapes = (of["shape"] for name, of in header.items() if name != "__metadata__")
    return sum(int(torch.Size(shape).numel()) for shape in shapes)


def folder_of_gguf(file: Path, folder: Path) -> None:
    """Write a GGUF file's weights, dequantised, and its tokenizer as a safetensors folder.

    Raises:
        ExportError: transformers cannot read the file.
    """
    place: dict[str, Any] = {
        "pretrained_model_name_or_path": str(file.parent),
        "gguf_file": file.name,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    try:
        from gguf import GGUFReader  # noqa: PLC0415 - a model from a folder needs none

        dtype = affordable_dtype(sum(int(tensor.n_elements) for tensor in GGUFReader(file).tensors))
        tokenizer = AutoTokenizer.from_pretrained(**place)
        model = AutoModelForCausalLM.from_pretrained(
            **place, dtype=dtype, quantization_config=transformers.GgufConfig(dequantize=True)
        )
    except Exception as error:  # a damaged file fails anywhere in the reader: ValueError, struct.error, KeyError ...
        if isinstance(error, OSError) and error.errno is not None:  # the disk's
            raise
        reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        msg = f"transformers cannot read it ({reason})"
        raise ExportError(msg) from error
    model.hf_quantizer = None  # or save_pretrained refuses
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def copy_files(source: Path, out: Path) -> None:
    """Copy the tokenizer and what else describes a model, over what an exporter made of it."""
    for pattern in FILES_TO_KEEP:
        for found in source.glob(pattern):
            if found.is_dir():
                shutil.copytree(found, out / found.name, dirs_exist_ok=True)
            else:
                shutil.copyfile(found, out / found.name)
