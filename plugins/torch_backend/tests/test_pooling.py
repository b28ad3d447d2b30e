"""Vectors of tokens -> one vector, and the layers behind it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from decoding.recipe import Dense
from torch_backend.pooling import make_dense, pad, pool
from transformers import BertConfig, BertModel

HIDDEN = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [5.0, 1.0]], [[7.0, 8.0], [torch.nan, 1.0], [2.0, torch.inf]]])
LENGTHS = torch.tensor([3, 1])


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("mean", [[3.0, 3.0], [7.0, 8.0]]),
        ("last", [[5.0, 1.0], [7.0, 8.0]]),
        ("cls", [[1.0, 2.0], [7.0, 8.0]]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_vector_is_made_of_its_own_tokens_only(way, expected, dtype):
    """Whatever stands in the padding, be it nan, and always in float32."""
    found = pool(HIDDEN.to(dtype), LENGTHS, way)
    assert found.dtype == torch.float32
    assert found.tolist() == expected


def test_the_mean_of_many_half_precision_vectors_is_summed_in_float32():
    hidden = torch.full((1, 2000, 1), 1.0, dtype=torch.bfloat16)
    assert pool(hidden, torch.tensor([2000]), "mean").item() == 1.0


def test_padding_is_on_the_right_and_of_the_models_own_token():
    """RoBERTa tells by the token what is padding."""
    config = BertConfig(
        vocab_size=9, hidden_size=4, num_hidden_layers=0, num_attention_heads=1, intermediate_size=4, pad_token_id=5
    )
    tokens, lengths = pad([[1, 2, 3], [4]], BertModel(config))
    assert tokens.tolist() == [[1, 2, 3], [4, 5, 5]]
    assert lengths.tolist() == [3, 1]


@pytest.mark.parametrize("activation", ["Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid"])
def test_dense_layers_are_what_the_recipe_says(activation):
    """In its order, with a bias where there is one."""
    random = np.random.default_rng(1)
    weight, bias, second = (random.standard_normal(shape, np.float32) for shape in ((6, 4), 6, (2, 6)))
    made = make_dense([Dense(weight, bias, activation), Dense(second, None, "Identity")])
    given = torch.randn(3, 4)
    between = getattr(torch.nn, activation)()(given @ torch.from_numpy(weight).T + torch.from_numpy(bias))
    torch.testing.assert_close(made(given), between @ torch.from_numpy(second).T)
    assert not any(parameter.requires_grad for parameter in made.parameters())
