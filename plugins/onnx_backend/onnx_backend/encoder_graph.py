"""What an opened graph that reads whole texts takes and gives, as its own inputs and outputs say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from core.api import EngineLoadError

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["EncoderGraph", "read_encoder"]

_TOKENS, _MASK, _TYPES = "input_ids", "attention_mask", "token_type_ids"
_FORMATS: Mapping[str, np.dtype[np.integer]] = {
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
}
_FLOATS = frozenset({"tensor(float)", "tensor(float16)", "tensor(double)"})
# Tokens' vectors come first: what is made of them is then what the files beside the graph, and the operator, say.
_VECTORS = ("last_hidden_state", "token_embeddings", "hidden_states")
_POOLED = ("sentence_embedding", "text_embeds", "embeddings")
_RANK_OF_VECTORS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderGraph:
    """An encoder or a cross-encoder.

    Attributes:
        session: where it runs.
        file: what it was opened from.
        inputs: number formats of what it takes: ``input_ids`` and maybe ``attention_mask``, ``token_type_ids``.
        output: name of what is read.
        pooled: it is one vector a text, ``[texts, size]``, as everything in its recipe is in the graph already;
            otherwise one a token, ``[texts, tokens, size]``. For a cross-encoder, one number a text.
        shape: of its inputs, by dimension: a size that is fixed, the name of one that is not, None if it has neither.
    """

    session: onnxruntime.InferenceSession
    file: Path
    inputs: Mapping[str, np.dtype[np.integer]]
    output: str
    pooled: bool
    shape: Mapping[str, tuple[int | str | None, int | str | None]]

    @property
    def one_by_one(self) -> bool:
        """It takes one text at a time."""
        return self.shape[_TOKENS][0] == 1

    @property
    def fixed_tokens(self) -> int | None:
        """To how many tokens every text must be padded; None: any number will do."""
        length = self.shape[_TOKENS][1]
        return length if isinstance(length, int) else None

    def dimensions(self, tokens: int) -> dict[str, int]:
        """Return the sizes of the dimensions that are open, by name, for one text of so many tokens.

        Raises:
            EngineLoadError: one of them has no name; trying again cannot help.
        """
        sizes: dict[str, int] = {}
        for name, (texts, length) in self.shape.items():
            if texts is None or length is None:
                raise _refused(
                    self.file, f"its {name} has a dimension without a name, so that its shape cannot be fixed"
                )
            sizes |= {name: size for name, size in ((texts, 1), (length, tokens)) if isinstance(name, str)}
        return sizes


def read_encoder(
    session: onnxruntime.InferenceSession, graph_file: Path, kind: Literal["encoder", "cross_encoder"]
) -> EncoderGraph:
    """Return what a graph takes and gives.

    Args:
        session: where it is open.
        graph_file: what it was opened from.
        kind: what it is.

    Raises:
        EngineLoadError: it is none that can be served here; trying again cannot help.
    """
    inputs = session.get_inputs()
    names = {given.name for given in inputs}
    if unknown := sorted(names - {_TOKENS, _MASK, _TYPES}):
        raise _refused(graph_file, f"it needs {', '.join(unknown)}")
    if _TOKENS not in names:
        raise _refused(graph_file, f"it does not take {_TOKENS}")
    for given in inputs:
        if given.type not in _FORMATS or len(given.shape) != 2:  # noqa: PLR2004 - texts, tokens
            raise _refused(
                graph_file, f"its {given.name} is {given.type} {given.shape} instead of int64 [texts, tokens]"
            )
        if isinstance(given.shape[0], int) and given.shape[0] != 1:
            raise _refused(graph_file, f"it takes exactly {given.shape[0]} texts at once")
    output = (_vectors if kind == "encoder" else _relevance)(session, graph_file)
    if output.type not in _FLOATS:
        raise _refused(graph_file, f"its {output.name} is {output.type} instead of float32 or float16")
    return EncoderGraph(
        session=session,
        file=graph_file,
        inputs={given.name: _FORMATS[given.type] for given in inputs},
        output=output.name,
        pooled=kind == "encoder" and len(output.shape) != _RANK_OF_VECTORS,
        shape={given.name: (given.shape[0], given.shape[1]) for given in inputs},
    )


def _vectors(session: onnxruntime.InferenceSession, graph_file: Path) -> Any:
    outputs = {output.name: output for output in session.get_outputs()}
    known = [outputs[name] for name in (*_VECTORS, *_POOLED) if name in outputs]
    ranked = [output for output in outputs.values() if len(output.shape) == _RANK_OF_VECTORS]
    found = next(iter(known or ranked), None)
    if found is None:
        raise _refused(graph_file, f"none of its outputs ({', '.join(outputs)}) is known to be vectors")
    return found


def _relevance(session: onnxruntime.InferenceSession, graph_file: Path) -> Any:
    found = next((output for output in session.get_outputs() if output.name == "logits"), None)
    if found is None:
        raise _refused(graph_file, "it gives no logits")
    if isinstance(labels := found.shape[-1], int) and len(found.shape) > 1 and labels != 1:
        raise _refused(graph_file, f"it tells {labels} labels apart; to rerank, a model gives one number")
    return found


def _refused(file: Path, reason: str) -> EngineLoadError:
    return EngineLoadError(f"{file.name} cannot be served: {reason}.", permanent=True)
