"""A folder with a graph, and what the files beside it say of the model."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decoding.folder import end_tokens, ends_in
from decoding.kind import Kind, kind_of
from transformers import AutoConfig, AutoTokenizer

from core.api import EngineLoadError
from onnx_backend.layout import find_graph, read_documents

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

__all__ = ["ModelFolder"]

_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
_LIMITS = ("context_length", "max_position_embeddings", "n_positions", "seq_length")
_COUNT_FROM_PADDING = frozenset({"roberta", "xlm-roberta", "camembert", "roberta-prelayernorm", "mpnet", "longformer"})


class ModelFolder:
    """What lies in a folder.

    Args:
        weights: the folder, or a graph in it.
        wanted: the setting ``graph``.

    Attributes:
        path: of the folder.
        graph: the file to load.

    Raises:
        EngineLoadError: there is no graph, or it cannot be told which; trying again cannot help.
    """

    def __init__(self, weights: Path | None, wanted: str | None) -> None:
        if weights is None:
            msg = "The model has no source: the onnx backend needs a folder with a graph, or weights to make one of."
            raise EngineLoadError(msg, permanent=True)
        if not weights.exists():
            msg = f"{weights} does not exist."
            raise EngineLoadError(msg, permanent=True)
        self.path = weights if weights.is_dir() else weights.parent
        self.graph = find_graph(weights, wanted)
        self._documents = read_documents(self.graph, self.path)

    @cached_property
    def config(self) -> PreTrainedConfig | None:
        """What config.json says; None if there is none, as in some folders of onnxruntime-genai's layout."""
        return self._read(AutoConfig) if (self.path / "config.json").is_file() else None

    @property
    def likely_kind(self) -> Kind:
        """What the model is, as far as can be known before its graph is opened."""
        return "decoder" if self.config is None else kind_of(self.config)

    @property
    def most_tokens(self) -> int | None:
        """How many tokens the model has positions for; None: not said."""
        told = (table.get(name) for name in _LIMITS for table in self._documents)
        limit = min((limit for limit in told if type(limit) is int and limit > 0), default=None)
        if limit is not None and getattr(self.config, "model_type", None) in _COUNT_FROM_PADDING:
            limit -= 1 + (getattr(self.config, "pad_token_id", None) or 0)
        return limit

    @property
    def weights_bytes(self) -> int:
        """Size of the graph and of the weights named after it: an estimate of what they take in memory."""
        # model.onnx, model.onnx_data_1, model.onnx.data, model.data; but not model_q4.onnx_data, which is another's.
        names = (self.graph.name, f"{self.graph.stem}.data")
        return sum(file.stat().st_size for file in self.graph.parent.iterdir() if file.name.startswith(names))

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Read the tokenizer."""
        if not any((self.path / name).is_file() for name in _TOKENIZERS):
            msg = (
                f"{self.path} has no tokenizer.json: name the folder that has it as the source, "
                f'and the graph in it with the setting `graph` ("onnx/{self.graph.name}").'
            )
            raise EngineLoadError(msg, permanent=True)
        return self._read(AutoTokenizer)

    def ends(self, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
        """Return the tokens that end an answer."""
        if self.config is not None:
            return end_tokens(ends_in(self.path, self.config), tokenizer)
        told = next((table["eos_token_id"] for table in self._documents if "eos_token_id" in table), None)
        return end_tokens(told, tokenizer)

    def _read(self, auto: Any) -> Any:
        try:
            # Said in words: where nothing is said, transformers asks on standard input whether to run a model's code.
            return auto.from_pretrained(self.path, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            # Its first paragraph: what follows is advice to programmers.
            reason = " ".join(str(error).partition("\n\n")[0].split()).rstrip(".") or type(error).__name__
            msg = f"{self.path} cannot be loaded: {reason}."
            raise EngineLoadError(msg, permanent=not isinstance(error, MemoryError)) from error
