"""One vector out of the vectors of a text's tokens, and what it then goes through."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from decoding.recipe import Activation, Dense, Way
from decoding.runner import Floats

__all__ = ["Way", "apply_dense", "pool", "sigmoid"]


def pool(hidden: npt.NDArray[np.floating], lengths: Sequence[int], way: Way) -> Floats:
    """Return ``[inputs, size]``.

    Args:
        hidden: the tokens' vectors, ``[inputs, longest, size]``, padded on the right.
        lengths: tokens of each input.
        way: how.
    """
    match way:
        case "cls":
            pooled = hidden[:, 0]
        case "last":
            pooled = hidden[np.arange(len(lengths)), np.array(lengths) - 1]
        case "mean":
            # Cut, not multiplied by zeros: what stands in the padding may be anything.
            texts = zip(hidden, lengths, strict=True)
            pooled = np.stack([text[:length].mean(0, dtype=np.float32) for text, length in texts])
    return np.asarray(pooled, np.float32)


def apply_dense(vector: Floats, layers: Sequence[Dense]) -> Floats:
    """Return what dense layers make of one vector, ``[size]``.

    One, because a matrix product of many may round each otherwise than it would alone.
    """
    for layer in layers:
        vector = layer.weight @ vector
        if layer.bias is not None:
            vector = vector + layer.bias
        vector = _ACTIVATIONS[layer.activation](vector)
    return vector


def sigmoid(values: Floats) -> Floats:
    """Return values between 0 and 1; none is too large."""
    return np.asarray((np.tanh(values / 2) + 1) / 2, np.float32)


def _gelu(values: Floats) -> Floats:
    erf = np.array([math.erf(value) for value in (values / math.sqrt(2)).tolist()], np.float32)
    return np.asarray(values * (erf + 1) / 2, np.float32)


_ACTIVATIONS: Mapping[Activation, Callable[[Floats], Floats]] = {
    "Identity": lambda values: values,
    "Tanh": np.tanh,
    "ReLU": lambda values: np.maximum(values, 0),
    "GELU": _gelu,
    "SiLU": lambda values: values * sigmoid(values),
    "Sigmoid": sigmoid,
}
