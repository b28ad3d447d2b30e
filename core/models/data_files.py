"""Which files are weights and what belongs to them, and can be read without running code."""

from __future__ import annotations

import fnmatch

__all__ = ["WANTED", "is_data"]

# What runtimes read as data. Pickles (.bin, .pt, .pth, .pkl, .ckpt) and .py can run code: never taken unasked.
WANTED = (
    "*.safetensors",
    "*.gguf",
    "*.onnx",
    "*.onnx_data*",
    "*.onnx.data",
    "*.json",
    "*.txt",
    "*.model",
    "*.tiktoken",
    "*.jinja",
    "LICENSE*",
)
# Some repositories hold the same weights a second time, in their makers' own layout.
_UNWANTED = ("consolidated*.safetensors", "original/*")


def is_data(name: str) -> bool:
    """Whether a file is taken when a whole folder is; ``name`` is its path in the folder."""
    return _matches(name, WANTED) and not _matches(name, _UNWANTED)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
