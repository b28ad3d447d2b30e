"""What an opened decoder graph takes and gives, as its own inputs and outputs say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from core.api import EngineLoadError
from onnx_backend.layout import Documents, read_documents
from onnx_backend.operators import operators

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["DecoderGraph", "LayerTensors", "read_decoder"]

# past_key_values.0.key, past_key_0, input.past_key_values.layers.0.keys: the layer's number, and which half of it.
_CACHE = re.compile(
    r"(?:past|present|(?:input|output)\.past)(?:_key_values)?[._](?:layers\.)?"
    r"(?:(?P<number>\d+)[._](?P<half>key|value)s?|(?P<half_first>key|value)s?[._](?P<number_last>\d+))"
)
_CACHE_RANK = 4
_FORMATS: Mapping[str, np.dtype[np.floating]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
}
_INT64 = "tensor(int64)"
_HIDDEN = ("hidden_states", "last_hidden_state")
_TOKENS, _MASK, _POSITIONS = "input_ids", "attention_mask", "position_ids"
# Rounded to 8 bits before they are multiplied: each token by itself, or all tokens of a call by one scale.
_ROUNDING = frozenset({"MatMulNBits", "QMoE"})
_ROUNDING_TOGETHER = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul"})
# What other inputs betray; the first that fits.
_REASONS = (
    (r"encoder|cross", "it is one half of an encoder and a decoder"),
    (r"embeds|pixel|image|audio|vision", "it takes vectors instead of tokens"),
    (r"conv|ssm|state|recurrent|rnn", "it keeps a recurrent state instead of a KV cache"),
    (r"beam|indirection", "its cache is for beam search"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerTensors:
    """One layer's part of the KV cache: names of its tensors, ``[rows, heads, positions, size]``, and their sizes."""

    past_key: str
    past_value: str
    present_key: str
    present_value: str
    heads: int
    key_size: int
    value_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderGraph:
    """A decoder that keeps a KV cache.

    Attributes:
        session: where it runs.
        device: of its tensors, as ONNX Runtime names it: ``cpu`` or ``cuda``; and which one.
        layers: what it keeps of each token.
        cache_format: number format of the cache, float32 or float16.
        logits: name of the output, ``[rows, positions or 1, vocab_size]``; and its number format.
        last_logits_only: the graph computes the logits of each row's last position alone.
        hidden: name of the output with the last layer's vectors, ``[rows, positions, size]``; None if it has none.
        shares_buffer: past and present may be one buffer of full length (GroupQueryAttention); otherwise every call
            returns a cache that has grown.
        takes_mask, takes_positions: it has the inputs ``attention_mask``, ``position_ids``.
        constants: further inputs, and what each is always given.
        rounds: it may round to 8 bits what it multiplies, so results depend a little on how many tokens a call has.
        mixes_rows: what it rounds to depends on all rows of a call.
    """

    session: onnxruntime.InferenceSession
    device: str
    device_id: int
    layers: tuple[LayerTensors, ...]
    cache_format: np.dtype[np.floating]
    vocab_size: int
    logits: str
    logits_format: np.dtype[np.floating]
    last_logits_only: bool
    hidden: str | None
    hidden_format: np.dtype[np.floating] | None
    shares_buffer: bool
    takes_mask: bool
    takes_positions: bool
    constants: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    rounds: bool = False
    mixes_rows: bool = False

    def whole(self, tokens: Sequence[int]) -> dict[str, npt.NDArray[Any]]:
        """Return the inputs of a call that computes a text from its beginning, with nothing kept before."""
        feed: dict[str, npt.NDArray[Any]] = {_TOKENS: np.array([tokens], np.int64), **self.constants}
        if self.takes_mask:
            feed[_MASK] = np.ones((1, len(tokens)), np.int64)
        if self.takes_positions:
            feed[_POSITIONS] = np.arange(len(tokens), dtype=np.int64)[None]
        for layer in self.layers:
            feed[layer.past_key] = np.empty((1, layer.heads, 0, layer.key_size), self.cache_format)
            feed[layer.past_value] = np.empty((1, layer.heads, 0, layer.value_size), self.cache_format)
        return feed


def read_decoder(
    session: onnxruntime.InferenceSession, graph_file: Path, folder: Path, *, device: str = "cpu", device_id: int = 0
) -> DecoderGraph:
    """Return what a graph takes and gives. Sizes that it leaves open are those of the files beside it.

    Args:
        session: where it is open.
        graph_file: what it was opened from.
        folder: of the model, with genai_config.json or config.json.
        device: of the tensors; see `DecoderGraph`.
        device_id: which one.

    Raises:
        EngineLoadError: it is no decoder that can be served here; trying again cannot help.
    """
    return _Reader(session, graph_file, read_documents(graph_file, folder)).read(device, device_id)


class _Reader:
    def __init__(self, session: onnxruntime.InferenceSession, graph_file: Path, documents: Documents) -> None:
        self._session = session
        self._file = graph_file
        self._documents = documents
        self._inputs = {given.name: given for given in session.get_inputs()}
        self._outputs = {given.name: given for given in session.get_outputs()}

    def read(self, device: str, device_id: int) -> DecoderGraph:
        layers = self._read_layers()
        constants = self._read_constants()
        cache = [name for layer in layers for name in (layer.past_key, layer.past_value)]
        self._check_inputs({_TOKENS, _MASK, _POSITIONS, *constants, *cache})
        logits = self._output("logits")
        used = operators(self._file)
        hidden = next((self._outputs[name] for name in _HIDDEN if name in self._outputs), None)
        return DecoderGraph(
            session=self._session,
            device=device,
            device_id=device_id,
            layers=layers,
            cache_format=self._format([self._inputs[name] for name in cache]),
            vocab_size=self._size(logits, -1, "vocab_size"),
            logits=logits.name,
            logits_format=self._format([logits]),
            last_logits_only=logits.shape[1] == 1 or "num_logits_to_keep" in constants,
            hidden=None if hidden is None else hidden.name,
            hidden_format=None if hidden is None else self._format([hidden]),
            shares_buffer="GroupQueryAttention" in used,
            takes_mask=_MASK in self._inputs,
            takes_positions=_POSITIONS in self._inputs,
            constants=constants,
            rounds=not used.isdisjoint(_ROUNDING | _ROUNDING_TOGETHER),
            mixes_rows=not used.isdisjoint(_ROUNDING_TOGETHER),
        )

    def _read_layers(self) -> tuple[LayerTensors, ...]:
        past, present = self._cache_names("past", self._inputs), self._cache_names("present", self._outputs)
        numbers = sorted({number for number, _ in past})
        if not numbers or set(past) != {(number, half) for number in numbers for half in ("key", "value")}:
            raise _refused(self._file, "it has no KV cache among its inputs that is known here")
        if missing := [name for place, name in past.items() if place not in present]:
            raise _refused(self._file, f"it gives no new cache for {', '.join(missing)}")
        return tuple(
            LayerTensors(
                past_key=(key := past[number, "key"]),
                past_value=(value := past[number, "value"]),
                present_key=present[number, "key"],
                present_value=present[number, "value"],
                heads=self._size(self._cache_input(key), 1, "num_key_value_heads", "num_attention_heads", "n_head"),
                key_size=self._head_size(key),
                value_size=self._head_size(value),
            )
            for number in numbers
        )

    def _cache_names(self, side: str, names: Mapping[str, Any]) -> dict[tuple[int, str], str]:
        """Names of one side's tensors by layer and half: as genai_config.json writes them, or as is usual."""
        found: dict[tuple[int, str], str] = {}
        kind = "inputs" if side == "past" else "outputs"
        for table in self._documents:
            told = table.get(kind)
            for half in ("key", "value"):
                pattern = told.get(f"{side}_{half}_names") if isinstance(told, dict) else None
                if isinstance(pattern, str) and pattern.count("%d") == 1:
                    shape = re.compile(re.escape(pattern).replace("%d", r"(\d+)"))
                    found |= {(int(match[1]), half): name for name in names if (match := shape.fullmatch(name))}
        for name in names:
            if (match := _CACHE.fullmatch(name)) is not None:
                place = int(match["number"] or match["number_last"]), match["half"] or match["half_first"]
                found.setdefault(place, name)
        return found

    def _cache_input(self, name: str) -> Any:
        tensor = self._inputs[name]
        if len(tensor.shape) != _CACHE_RANK:
            raise _refused(self._file, f"{name} is not [rows, heads, positions, size]")
        return tensor

    def _head_size(self, name: str) -> int:
        tensor = self._cache_input(name)
        if _fixed(tensor.shape[-1]) is None and self._told("head_size", "head_dim") is None:
            hidden, heads = self._told("hidden_size", "n_embd"), self._told("num_attention_heads", "n_head")
            if hidden and heads:
                return hidden // heads
        return self._size(tensor, -1, "head_size", "head_dim")

    def _read_constants(self) -> Mapping[str, npt.NDArray[Any]]:
        constants: dict[str, npt.NDArray[Any]] = {}
        if "use_cache_branch" in self._inputs:  # of its two halves, that which takes a past, be it of length 0
            constants["use_cache_branch"] = np.ones(1, bool)
        if (keep := self._inputs.get("num_logits_to_keep")) is not None:
            constants[keep.name] = np.ones([1] * len(keep.shape), np.int64)
        return constants

    def _check_inputs(self, known: set[str]) -> None:
        if unknown := [name for name in self._inputs if name not in known]:
            reason = next((why for sign, why in _REASONS if any(re.search(sign, name) for name in unknown)), None)
            raise _refused(self._file, f"it needs {', '.join(unknown)}" + (f" ({reason})" if reason else ""))
        if _TOKENS not in self._inputs:
            raise _refused(self._file, f"it does not take {_TOKENS}")
        for name in (_TOKENS, _MASK, _POSITIONS):
            tensor = self._inputs.get(name)
            if tensor is not None and (tensor.type != _INT64 or len(tensor.shape) != 2):  # noqa: PLR2004 - rows, tokens
                raise _refused(
                    self._file, f"its {name} is {tensor.type} {tensor.shape} instead of int64 [rows, tokens]"
                )

    def _output(self, name: str) -> Any:
        if name not in self._outputs:
            raise _refused(self._file, f"it gives no {name}")
        return self._outputs[name]

    def _format(self, tensors: list[Any]) -> np.dtype[np.floating]:
        types = {tensor.type for tensor in tensors}
        if len(types) != 1 or not types <= _FORMATS.keys():
            raise _refused(self._file, f"{tensors[0].name} is {' and '.join(sorted(types))}, not float32 or float16")
        return _FORMATS[types.pop()]

    def _size(self, tensor: Any, axis: int, *names: str) -> int:
        size = _fixed(tensor.shape[axis]) or self._told(*names)
        if size is None:
            raise _refused(
                self._file,
                f"it leaves the size of {tensor.name} open, and no config.json or genai_config.json has {names[0]}",
            )
        return size

    def _told(self, *names: str) -> int | None:
        values = (table.get(name) for name in names for table in self._documents)
        return next((value for value in values if isinstance(value, int) and value > 0), None)


def _fixed(size: int | str | None) -> int | None:
    """A dimension, if the graph fixes it; some exporters write it as a name."""
    if isinstance(size, str):
        return int(size) if size.isdecimal() else None
    return size


def _refused(file: Path, reason: str) -> EngineLoadError:
    return EngineLoadError(f"{file.name} cannot be served as a decoder: {reason}.", permanent=True)
