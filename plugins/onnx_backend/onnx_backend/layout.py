"""Which file of a folder is the graph, what stands beside it, and what kind of model it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from decoding.kind import Kind, kind_of

from core.api import EngineLoadError

if TYPE_CHECKING:
    import onnxruntime
    from transformers import PreTrainedConfig

__all__ = ["Documents", "find_graph", "graph_kind", "is_past", "read_documents"]

Documents = Sequence[dict[str, Any]]

# What optimum and transformers.exporters call the one file that stands for a model, beside variants and parts of it.
_USUAL = ("model.onnx", "decoder_model_merged.onnx", "onnx/model.onnx", "onnx/decoder_model_merged.onnx", "decode.onnx")
_GENAI = "genai_config.json"
_NAMED_AT_MOST = 12
_VECTORS_RANK = 3


def find_graph(folder: Path, wanted: str | None) -> Path:
    """Return the .onnx file to load.

    In this order: what the operator names, what genai_config.json names, the only one there is, the one with the usual
    name.

    Args:
        folder: of the model; or the file itself.
        wanted: the setting ``graph``: its path in the folder.

    Raises:
        EngineLoadError: there is none, or it cannot be told which; trying again cannot help.
    """
    if folder.is_file():
        if folder.suffix != ".onnx":
            raise _refused(folder, "is no .onnx file")
        return folder
    if wanted is not None:
        return _inside(folder, wanted, f"graph = '{wanted}'")
    decoder = _read(folder / _GENAI, "model", "decoder")
    if isinstance(named := decoder.get("filename"), str):
        return _inside(folder, named, f"the file that {_GENAI} names, '{named}',")
    found = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.onnx"))
    if not found:
        raise _refused(folder, "has no .onnx file")
    chosen = found if len(found) == 1 else [name for name in _USUAL if name in found]
    if not chosen:
        raise _refused(folder, f"has several graphs: set `graph` to one of {_listed(found)}")
    return folder / chosen[0]


def read_documents(graph_file: Path, folder: Path) -> Documents:
    """Return the tables that describe a model, the one to be believed first: genai_config.json's, then config.json's.

    Args:
        graph_file: the files beside it come before those of the folder.
        folder: of the model.

    Raises:
        EngineLoadError: one of them cannot be read; trying again cannot help.
    """
    places = dict.fromkeys((graph_file.parent, folder if folder.is_dir() else folder.parent))
    return [
        *(_read(place / _GENAI, "model", "decoder") for place in places),
        *(_read(place / _GENAI, "model") for place in places),
        *(_read(place / "config.json", "text_config") for place in places),
        *(_read(place / "config.json") for place in places),
    ]


def graph_kind(session: onnxruntime.InferenceSession, graph_file: Path, config: PreTrainedConfig | None) -> Kind:
    """Return what an opened graph serves.

    Its inputs and outputs come first, because a decoder's architecture may have been exported to make vectors.

    Args:
        session: where it is open.
        graph_file: what it was opened from.
        config: what config.json says of the model; None: there is none.

    Raises:
        EngineLoadError: it is no kind that is served; trying again cannot help.
    """
    if any(is_past(given.name) for given in session.get_inputs()):
        return "decoder"
    outputs = session.get_outputs()
    logits = any(output.name == "logits" for output in outputs)
    if not logits and any(len(output.shape) == _VECTORS_RANK or "embedding" in output.name for output in outputs):
        return "encoder"
    kind = "encoder" if config is None else kind_of(config)
    if kind == "decoder" or config is None:
        names = ", ".join(output.name for output in outputs)
        raise _refused(
            graph_file.name,
            f"has no KV cache among its inputs, and neither vectors nor a relevance among its outputs ({names}): "
            "a decoder must be exported with its past (optimum: --task text-generation-with-past)",
        )
    return kind


def is_past(name: str) -> bool:
    """Tell whether an input is what a decoder kept of earlier tokens."""
    return name.startswith(("past", "input.past"))


def _inside(folder: Path, name: str, called: str) -> Path:
    # By its name alone: what the model hub's client stores are links out of the folder.
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or path.suffix != ".onnx" or ":" in name:
        raise _refused(called, f"must be the path of an .onnx file inside {folder}")
    if not (folder / path).is_file():
        found = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.onnx"))
        raise _refused(called, f"is not in {folder}, which has {_listed(found) if found else 'no .onnx file'}")
    return folder / path


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    return ", ".join(names[:_NAMED_AT_MOST]) + more


def _read(file: Path, *names: str) -> dict[str, Any]:
    """The table in a file, or the one of these names in it, each inside of the one before; empty if it has none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise _refused(file, f"cannot be read: {error}") from error
    for depth in range(len(names) + 1):
        if not isinstance(found, dict):
            where = f" as its {'.'.join(names[:depth])}" if depth else ""
            raise _refused(file, f"holds something else than a table{where}")
        if depth < len(names):
            found = found.get(names[depth]) or {}
    return found


def _refused(what: Path | str, problem: str) -> EngineLoadError:
    return EngineLoadError(f"{what} {problem}.", permanent=True)
