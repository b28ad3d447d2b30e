"""What lies on disk -> a folder that transformers reads as safe data."""

from __future__ import annotations

from pathlib import Path

from core.api import EngineLoadError
from torch_backend.device import Dtype
from torch_backend.gguf import converted, is_gguf

__all__ = ["find_folder"]

_PICKLES = ("*.bin", "*.pth", "*.pt", "*.ckpt", "*.pkl")


def find_folder(weights: Path | None, gguf_dtype: Dtype, cache_dir: Path | None) -> Path:
    """Return a folder with a config.json and safetensors; a GGUF file becomes one.

    Args:
        weights: a folder, or a GGUF file.
        gguf_dtype: number format that a GGUF file's weights are kept in.
        cache_dir: where.

    Raises:
        EngineLoadError: it is neither; trying again cannot help.
    """
    if weights is None:
        problem = "The model has no source: the torch backend needs a safetensors folder or a GGUF file."
    elif weights.is_file():
        if is_gguf(weights):
            return converted(weights, gguf_dtype, cache_dir)
        problem = f"{weights} is no GGUF file; for safetensors name the folder that has the config.json."
    elif not weights.is_dir():
        problem = f"{weights} does not exist."
    elif not (weights / "config.json").is_file():
        files = sorted(weights.glob("*.gguf"))
        if len(files) == 1 and is_gguf(files[0]):
            return converted(files[0], gguf_dtype, cache_dir)
        problem = f"{weights} has no config.json, and {'several' if files else 'no'} GGUF files."
    elif any(weights.glob("*.safetensors")):
        return weights
    elif any(file for pattern in _PICKLES for file in weights.glob(pattern)):
        problem = (
            f"{weights} has its weights as pickles only, which can run code when they are read: "
            "take a repository with safetensors."
        )
    else:
        problem = f"{weights} has no *.safetensors file."
    raise EngineLoadError(problem, permanent=True)
