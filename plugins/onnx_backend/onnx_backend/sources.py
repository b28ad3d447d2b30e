"""What lies on disk -> whether an engine loads it as it is, or what it is to be exported from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.api import PreparationError
from onnx_backend.architecture import kind_to_export

if TYPE_CHECKING:
    from decoding.kind import Kind

__all__ = ["Source", "find_source"]

Form = Literal["onnx", "gguf", "safetensors"]

_GGUF = b"GGUF"
_PICKLES = ("*.bin", "*.pth", "*.pt", "*.ckpt", "*.pkl")
_READ_BY_EXPORT = frozenset({".safetensors", ".json", ".jinja", ".model", ".txt"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Weights, in a form that can be served.

    Attributes:
        path: a GGUF file, else what was fetched.
        form: ``onnx`` is loaded as it is.
        kind: of the model; None for ``onnx``, whose graph tells.
    """

    path: Path
    form: Form
    kind: Kind | None = None

    def identity(self) -> str:
        """Something else whenever the files are other ones; from their names, sizes and times alone."""
        files = [self.path]
        if self.path.is_dir():
            files = sorted(one for one in self.path.rglob("*") if one.suffix in _READ_BY_EXPORT)
        states = ((file.as_posix(), file.stat()) for file in files)
        return "|".join([str(self.path.resolve()), *(f"{name}:{of.st_size}:{of.st_mtime_ns}" for name, of in states)])


def find_source(weights: Path, graph: str | None) -> Source:
    """Return what there is at ``weights``; ``graph`` is the setting of that name.

    Raises:
        PreparationError: nothing that can be loaded or exported.
    """
    if weights.is_file():
        if weights.suffix == ".onnx":
            return Source(path=weights, form="onnx")
        if _is_gguf(weights):
            return Source(path=weights, form="gguf", kind="decoder")
        msg = f"{weights} is no .onnx and no GGUF file; for safetensors name the folder that has the config.json."
        raise PreparationError(msg)
    if not weights.is_dir():
        msg = f"{weights} does not exist."
        raise PreparationError(msg)
    if any(weights.rglob("*.onnx")):
        return Source(path=weights, form="onnx")
    if graph is not None:
        msg = f"{weights} has no .onnx file, but graph = '{graph}' names one."
        raise PreparationError(msg)
    return _exportable(weights)


def _exportable(weights: Path) -> Source:
    if not (weights / "config.json").is_file():
        files = sorted(weights.glob("*.gguf"))
        if len(files) == 1 and _is_gguf(files[0]):
            return Source(path=files[0], form="gguf", kind="decoder")
        problem = f"{weights} has no .onnx file, no config.json, and {'several' if files else 'no'} GGUF files."
    elif any(weights.glob("*.safetensors")):
        return Source(path=weights, form="safetensors", kind=kind_to_export(_read_config(weights / "config.json")))
    elif any(file for pattern in _PICKLES for file in weights.glob(pattern)):
        problem = (
            f"{weights} has its weights as pickles only, which can run code when they are read: "
            "take a repository with safetensors or ONNX files."
        )
    else:
        problem = f"{weights} has neither .onnx nor .safetensors files."
    raise PreparationError(problem)


def _is_gguf(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(_GGUF)) == _GGUF


def _read_config(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{file} cannot be read: {error}."
        raise PreparationError(msg) from error
    if not isinstance(read, dict):
        msg = f"{file} holds no object."
        raise PreparationError(msg)
    return read
