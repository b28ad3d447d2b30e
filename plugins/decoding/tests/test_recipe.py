"""What the files beside a model say of how its vectors are made."""

from __future__ import annotations

import json

import numpy as np
import pytest
from decoding.recipe import choose_pooling, read_recipe
from safetensors.numpy import save_file

from core.api import EngineLoadError

FIRST = np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4)
BIAS = np.linspace(0, 1, 6, dtype=np.float32)
SECOND = np.linspace(1, -1, 12, dtype=np.float32).reshape(2, 6)
OLD, NEW = "sentence_transformers.models.", "sentence_transformers.sentence_transformer.modules.some_file."


@pytest.fixture
def write(tmp_path):
    """Writes the files of sentence-transformers beside a model."""

    def write(*types, pooling=None, **files):
        modules = []
        for index, kind in enumerate(types):
            path = "" if index == 0 else f"{index}_{kind.rpartition('.')[2]}"
            modules.append({"idx": index, "name": str(index), "path": path, "type": kind})
            (tmp_path / path).mkdir(exist_ok=True)
        (tmp_path / "modules.json").write_text(json.dumps(modules))
        if pooling is not None:
            (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        for name, content in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return tmp_path

    return write


def flags(**on):
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    return {"word_embedding_dimension": 8, **{f"pooling_mode_{name}": on.get(name, False) for name in names}}


@pytest.mark.parametrize("prefix", [OLD, NEW])
@pytest.mark.parametrize(
    ("config", "way"),
    [
        (flags(mean_tokens=True), "mean"),
        (flags(cls_token=True), "cls"),
        (flags(lasttoken=True) | {"include_prompt": True}, "last"),
        (flags(), "mean"),
        ({"embedding_dimension": 8, "pooling_mode": "mean"}, "mean"),
        ({"embedding_dimension": 8, "pooling_mode": "cls"}, "cls"),
        ({"embedding_dimension": 8, "pooling_mode": "lasttoken", "include_prompt": True}, "last"),
    ],
)
def test_the_models_files_say_how(write, prefix, config, way):
    """In the form of sentence-transformers before release 5, and since."""
    folder = write(prefix + "Transformer", prefix + "Pooling", prefix + "Normalize", pooling=config)
    assert read_recipe(folder, "auto").way == choose_pooling("auto", folder) == way
    assert len(read_recipe(folder, "auto").dense) == 0


def test_without_files_it_is_the_mean(tmp_path, write):
    assert read_recipe(tmp_path, "auto").way == "mean"
    assert read_recipe(write(OLD + "Transformer"), "auto").way == "mean"


def test_settings_count_more_than_files(write):
    folder = write(OLD + "Transformer", OLD + "Pooling", pooling=flags(max_tokens=True))
    assert read_recipe(folder, "last").way == "last"


def test_the_longest_text_is_read(write):
    assert read_recipe(write(OLD + "Transformer"), "auto").max_tokens is None
    bert = {"max_seq_length": 256, "do_lower_case": False}
    assert read_recipe(write(OLD + "Transformer", sentence_bert_config=bert), "auto").max_tokens == 256
    assert read_recipe(write(sentence_bert_config={"max_seq_length": None}), "auto").max_tokens is None


@pytest.mark.parametrize("config", [flags(max_tokens=True), flags(mean_tokens=True, cls_token=True)])
def test_another_way_of_pooling_is_refused(write, config):
    folder = write(OLD + "Transformer", OLD + "Pooling", pooling=config)
    with pytest.raises(EngineLoadError, match="a way of pooling") as caught:
        read_recipe(folder, "auto")
    assert caught.value.permanent


@pytest.mark.parametrize(
    ("types", "reason"),
    [
        ((OLD + "Transformer", OLD + "Pooling", OLD + "LayerNorm"), "the steps Transformer, Pooling, LayerNorm"),
        ((OLD + "Transformer", OLD + "Pooling", OLD + "Normalize", OLD + "Dense"), "the steps"),
        ((OLD + "Transformer", OLD + "Dense", OLD + "Pooling"), "the steps"),
        ((OLD + "StaticEmbedding",), "the steps StaticEmbedding"),
        (("custom_st.Transformer", OLD + "Pooling"), "code of its own"),
    ],
)
@pytest.mark.parametrize("requested", ["auto", "mean"])
def test_steps_that_are_not_known_are_refused_whatever_the_settings(write, types, reason, requested):
    """A vector that lacks a step looks like any other, and is wrong."""
    with pytest.raises(EngineLoadError, match=reason) as caught:
        read_recipe(
            write(*types, pooling=flags(mean_tokens=True) if types[1:2] == (OLD + "Pooling",) else None), requested
        )
    assert caught.value.permanent


@pytest.fixture
def write_dense(write):
    """Writes a model with two dense layers; the keywords change the first one's config."""

    def write_dense(**changes):
        kinds = ["Transformer", "Pooling", "Dense", "Dense", "Normalize"]
        folder = write(*(OLD + kind for kind in kinds), pooling=flags(mean_tokens=True))
        layers = [
            ("2_Dense", {"linear.weight": FIRST, "linear.bias": BIAS}, "Tanh"),
            ("3_Dense", {"linear.weight": SECOND}, "Identity"),
        ]
        for name, weights, activation in layers:
            kind = f"torch.nn.modules.activation.{activation}"
            config = {"in_features": 4, "out_features": 6, "bias": True, "activation_function": kind}
            (folder / name / "config.json").write_text(json.dumps(config | changes))
            save_file(weights, folder / name / "model.safetensors")
        return folder

    return write_dense


def test_dense_layers_come_after_pooling(write_dense):
    first, second = read_recipe(write_dense(), "auto").dense
    assert (first.activation, second.activation) == ("Tanh", "Identity")
    assert np.array_equal(first.weight, FIRST)
    assert np.array_equal(first.bias, BIAS)
    assert np.array_equal(second.weight, SECOND)
    assert second.bias is None


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("BF16", b"\x80\x3f\x00\xc0"),
        ("F16", np.array([1, -2], np.float16).tobytes()),
        ("F64", np.array([1, -2], np.float64).tobytes()),
    ],
)
def test_weights_of_any_precision_become_float32(write_dense, name, packed):
    folder = write_dense()
    told = {"linear.weight": {"dtype": name, "shape": [1, 2], "data_offsets": [0, len(packed)]}}
    header = json.dumps(told).encode()
    (folder / "3_Dense" / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + packed)
    weight = read_recipe(folder, "auto").dense[1].weight
    assert weight.dtype == np.float32
    assert weight.tolist() == [[1.0, -2.0]]


def test_damaged_dense_layers_are_refused(write_dense):
    file = write_dense() / "3_Dense" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(EngineLoadError, match="damaged") as caught:
        read_recipe(file.parents[1], "auto")
    assert caught.value.permanent


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_function": "torch.nn.modules.activation.Threshold"},
        {"use_residual": True},
        {"module_input_name": "token_embeddings"},
    ],
)
def test_dense_layers_of_an_unknown_form_are_refused(write_dense, changes):
    with pytest.raises(EngineLoadError, match="unknown form"):
        read_recipe(write_dense(**changes), "auto")


def test_dense_layers_in_a_pickle_are_refused(write_dense):
    folder = write_dense()
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(EngineLoadError, match="not there as safetensors"):
        read_recipe(folder, "auto")


def test_a_decoder_has_no_dense_layers(write_dense):
    """Its runner would leave them out."""
    with pytest.raises(EngineLoadError, match="generates text"):
        choose_pooling("mean", write_dense())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("modules.json", "{"),
        ("modules.json", '{"idx": 0}'),
        ("modules.json", '[{"idx": 0}]'),
        ("1_Pooling/config.json", "[]"),
        ("sentence_bert_config.json", "[]"),
        ("sentence_bert_config.json", '{"max_seq_length": "long"}'),
    ],
)
def test_files_that_make_no_sense_are_refused_for_good(write, name, content):
    folder = write(OLD + "Transformer", OLD + "Pooling", pooling=flags(mean_tokens=True))
    (folder / name).write_text(content)
    with pytest.raises(EngineLoadError, match=r"cannot be read from its modules\.json") as caught:
        read_recipe(folder, "auto")
    assert caught.value.permanent
