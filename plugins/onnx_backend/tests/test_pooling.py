"""Vectors of tokens -> one vector, and the layers behind it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from decoding.recipe import Dense
from onnx_backend.pooling import apply_dense, pool, sigmoid

HIDDEN = np.array([[[1, 2], [3, 6], [5, 1]], [[7, 8], [np.nan, 1], [2, np.inf]]], np.float32)
LENGTHS = [3, 1]


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("mean", [[3.0, 3.0], [7.0, 8.0]]),
        ("last", [[5.0, 1.0], [7.0, 8.0]]),
        ("cls", [[1.0, 2.0], [7.0, 8.0]]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_vector_is_made_of_its_own_tokens_only(way, expected, dtype):
    """Whatever stands in the padding, be it nan, and always in float32."""
    found = pool(HIDDEN.astype(dtype), LENGTHS, way)
    assert found.dtype == np.float32
    assert found.tolist() == expected


def test_the_mean_of_many_half_precision_vectors_is_summed_in_float32():
    """Half precision counts to 2,048 only."""
    hidden = np.ones((1, 4000, 1), np.float16)
    assert pool(hidden, [4000], "mean").item() == 1.0


@pytest.mark.parametrize("way", ["mean", "last", "cls"])
def test_padding_changes_no_bit(way):
    hidden = np.random.default_rng(2).normal(size=(1, 37, 50)).astype(np.float32)
    padded = np.concatenate([hidden, np.full((1, 27, 50), 9, np.float32)], axis=1)
    assert np.array_equal(pool(padded, [37], way), pool(hidden, [37], way))


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("Identity", lambda x: x),
        ("Tanh", math.tanh),
        ("ReLU", lambda x: max(x, 0.0)),
        ("GELU", lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2)))),
        ("SiLU", lambda x: x / (1 + math.exp(-x))),
        ("Sigmoid", lambda x: 1 / (1 + math.exp(-x))),
    ],
)
def test_dense_layers_are_applied_in_their_order(activation, function):
    """As torch has the functions; a bias where there is one."""
    draw = np.random.default_rng(1)
    weight, bias, second, given = (draw.normal(size=size).astype(np.float32) for size in ((6, 4), 6, (2, 6), 4))
    between = [function(value) for value in (weight @ given + bias).tolist()]
    found = apply_dense(given, [Dense(weight, bias, activation), Dense(second, None, "Identity")])
    assert found.dtype == np.float32
    assert found == pytest.approx(second @ between, rel=1e-4, abs=1e-5)


def test_nothing_is_too_large_for_a_sigmoid():
    assert sigmoid(np.array([-1e4, 0, 1e4], np.float32)).tolist() == [0.0, 0.5, 1.0]
