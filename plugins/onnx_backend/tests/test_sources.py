"""What lies on disk, told from names and small files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from onnx_backend.sources import find_source

from core.api import PreparationError


def config(**fields: object) -> str:
    return json.dumps({"architectures": ["LlamaForCausalLM"]} | fields)


def place(tmp_path: Path, *files: tuple[str, str]) -> Path:
    for name, text in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", ["model.onnx", "onnx/model.onnx", "cpu/int4/model.onnx"])
def test_onnx_wins(tmp_path: Path, name: str) -> None:
    """A repository that has graphs is loaded as it is, even with safetensors beside them."""
    folder = place(tmp_path, (name, "x"), ("config.json", config()), ("model.safetensors", "x"))
    assert find_source(folder, None).form == "onnx"
    assert find_source(folder / name, None).form == "onnx"


def test_gguf(tmp_path: Path) -> None:
    """A file, whatever it is called, or the only one of a folder."""
    folder = place(tmp_path, ("a.gguf", "GGUF...."))
    assert find_source(folder, None) == find_source(folder / "a.gguf", None)
    assert (find_source(folder, None).form, find_source(folder, None).kind) == ("gguf", "decoder")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, "decoder"),
        ({"architectures": ["GPT2LMHeadModel"]}, "decoder"),
        ({"architectures": ["BertModel"]}, "encoder"),
        ({"architectures": ["XLMRobertaForSequenceClassification"], "id2label": {"0": "LABEL_0"}}, "cross_encoder"),
    ],
)
def test_kind(tmp_path: Path, fields: dict[str, object], kind: str) -> None:
    """By the class that the weights were saved from."""
    folder = place(tmp_path, ("config.json", config(**fields)), ("model.safetensors", "x"))
    assert find_source(folder, None).kind == kind


@pytest.mark.parametrize(
    ("files", "graph", "told"),
    [
        ([("a.bin", "x")], None, "no .onnx file, no config.json, and no GGUF"),
        ([("a.gguf", "GGUF"), ("b.gguf", "GGUF")], None, "several GGUF files"),
        ([("config.json", config()), ("pytorch_model.bin", "x")], None, "pickles only, which can run code"),
        ([("config.json", config())], None, "neither .onnx nor .safetensors"),
        ([("config.json", "{"), ("a.safetensors", "x")], None, "cannot be read"),
        ([("config.json", "[]"), ("a.safetensors", "x")], None, "holds no object"),
        ([("config.json", config()), ("a.safetensors", "x")], "m.onnx", "has no .onnx file, but graph = 'm.onnx'"),
        ([("config.json", config(architectures=[])), ("a.safetensors", "x")], None, "names no architecture"),
        ([("config.json", config(is_encoder_decoder=True)), ("a.safetensors", "x")], None, "a decoder in one"),
        (
            [("config.json", config(architectures=["BertForSequenceClassification"])), ("a.safetensors", "")],
            None,
            "2 labels",
        ),
        ([("config.json", config(architectures=["ViTForImages"])), ("a.safetensors", "x")], None, "neither generates"),
    ],
)
def test_refused(tmp_path: Path, files: list[tuple[str, str]], graph: str | None, told: str) -> None:
    """In a sentence that says what is there."""
    with pytest.raises(PreparationError, match=told):
        find_source(place(tmp_path, *files), graph)


def test_no_weights(tmp_path: Path) -> None:
    """A file of another kind, and nothing at all."""
    with pytest.raises(PreparationError, match="does not exist"):
        find_source(tmp_path / "none", None)
    (tmp_path / "model.safetensors").write_text("x")
    with pytest.raises(PreparationError, match="name the folder that has the config"):
        find_source(tmp_path / "model.safetensors", None)
