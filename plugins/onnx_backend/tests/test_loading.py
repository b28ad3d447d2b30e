"""What is loaded, as what, and what is refused with which words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoding.loaded import LoadedModel
from decoding.testing import byte_level
from onnx_backend import decoder_loading, loading
from onnx_backend.device import Found
from onnx_backend.growing import GrowingRunner
from onnx_backend.receipt import AGREEMENT
from onnx_backend.runner import SharedBufferRunner
from onnx_backend.testing import VOCABULARY, describe, make_decoder
from onnx_backend.testing_growing import make_growing

from core.api import EngineLoadError

Load = Callable[..., LoadedModel]

TOKEN_BYTES = 2 * 2 * (16 + 16) * 4  # layers, heads, a key and a value, float32
GROWING_TOKEN_BYTES = 2 * 2 * (8 + 8) * 4
END = byte_level().convert_tokens_to_ids("<|im_end|>")


def refused(load: Load, weights: Path | None, *, permanent: bool = True, **given: Any) -> str:
    with pytest.raises(EngineLoadError) as caught:
        load(weights, **given)
    assert str(caught.value).endswith(".")
    assert not str(caught.value).endswith("..")
    assert "\n" not in str(caught.value)
    assert caught.value.permanent is permanent
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A decoder with its cache in place."""
    place = tmp_path / "tiny"
    place.mkdir()
    make_decoder(place)
    return describe(place)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Accelerators that this machine is said to have."""

    def pretend(**told: Any) -> None:
        monkeypatch.setattr(loading, "find_devices", lambda _: Found(build="onnxruntime 9.9", **told))

    return pretend


# --- what it becomes


def test_info(folder: Path, load: Load) -> None:
    """What an operator wants to know, and memory as it is."""
    loaded = load(folder, slots=3)
    info, details = loaded.info, loaded.info.details
    assert (info.device_requested, info.device, info.device_reason) == ("cpu", "cpu", "")
    assert (details["provider_requested"], details["provider"]) == ("CPUExecutionProvider",) * 2
    assert (info.slots, details["slots_requested"], info.context_tokens) == (3, 3, 32)
    assert (details["graph"], details["threads"]) == ("model.onnx", 1)
    assert (details["kv_format"], details["kv_bytes_per_token"]) == ("float32", TOKEN_BYTES)
    assert details["kv_bytes"] == 3 * 32 * TOKEN_BYTES
    assert details["weights_bytes"] == (folder / "model.onnx").stat().st_size
    assert info.memory_bytes == int(details["kv_bytes"]) + int(details["weights_bytes"])
    assert (details["runner"], details["runner_reason"]) == ("SharedBufferRunner", "")
    assert isinstance(loaded.runner, SharedBufferRunner)
    assert (loaded.runner.slots, loaded.runner.context_tokens) == (3, 32)
    assert loaded.runner is loaded.embedder
    assert loaded.scorer is None
    assert loaded.runner.vocab_size == VOCABULARY
    assert loaded.vocabulary.size == len(byte_level())
    assert loaded.vocabulary.eos == {END}
    assert (loaded.limits.prefill_tokens, loaded.limits.prefill_tokens_alone) == (64, 256)
    assert details["prefill_tokens"] == 64
    assert not any(name.startswith("export_") for name in details)


def test_a_cache_that_grows_is_there_twice(tmp_path: Path, load: Load) -> None:
    """While a step copies it: so it counts twice in memory."""
    make_growing(tmp_path)
    loaded = load(describe(tmp_path), slots=2)
    details = loaded.info.details
    assert isinstance(loaded.runner, GrowingRunner)
    assert "GroupQueryAttention" in str(details["runner_reason"])
    assert details["kv_bytes_per_token"] == 2 * GROWING_TOKEN_BYTES
    assert details["kv_bytes"] == 2 * 32 * 2 * GROWING_TOKEN_BYTES


def test_prefill_tokens(folder: Path, load: Load) -> None:
    """As set; a step for a prompt alone is never smaller."""
    limits = load(folder, prefill_tokens=300).limits
    assert (limits.prefill_tokens, limits.prefill_tokens_alone) == (300, 300)


def test_context_is_not_more_than_trained(folder: Path, load: Load) -> None:
    """Beyond its positions a model says nothing sensible; less may be asked for."""
    loaded = load(folder, context_tokens=100_000, slots=1)
    assert loaded.info.context_tokens == 64
    assert loaded.runner is not None
    assert loaded.runner.context_tokens == 64
    assert loaded.info.details["kv_bytes"] == 64 * TOKEN_BYTES


def test_fewer_slots_than_asked_for(folder: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as fit into the memory that is left, which the info tells; none is an error with a remedy."""
    slot_bytes = 32 * TOKEN_BYTES
    monkeypatch.setattr(decoder_loading, "free_device_bytes", lambda _: 5 * slot_bytes)
    loaded = load(folder, slots=8, memory_share=0.5)
    assert (loaded.info.slots, loaded.info.details["slots_requested"]) == (2, 8)
    assert loaded.info.details["kv_bytes"] == 2 * slot_bytes
    assert loaded.runner is not None
    assert loaded.runner.slots == 2
    monkeypatch.setattr(decoder_loading, "free_device_bytes", lambda _: slot_bytes)
    assert "context_tokens" in refused(load, folder, permanent=False, memory_share=0.5)


def test_agreement_is_shown(folder: Path, load: Load) -> None:
    """Of an export: how well it agrees, and what made it; nothing that is not known."""
    told = {"share": 0.97, "quantization": "int8", "target": "cpu", "source": "elsewhere"}
    (folder / AGREEMENT).write_text(json.dumps(told))
    details = load(folder).info.details
    shown = {name: value for name, value in details.items() if name.startswith("export_")}
    assert shown == {"export_share": 0.97, "export_quantization": "int8", "export_target": "cpu"}


def test_without_hidden_states(tmp_path: Path, load: Load) -> None:
    """Text can be generated, vectors cannot be made: refused only where they are asked for, with both ways out."""
    make_decoder(tmp_path, hidden=False)
    describe(tmp_path)
    assert load(tmp_path).embedder is None
    told = refused(load, tmp_path, tasks=("chat", "embeddings"))
    assert told.startswith("tiny is declared for embeddings, but its graph gives no hidden states")
    assert 'set tasks of this deployment to ["chat", "completion"]' in told


def test_embeddings_of_a_decoder(folder: Path, load: Load) -> None:
    """Pooled as the settings say."""
    vectors = {}
    for pooling in ("mean", "last", "cls"):
        embedder = load(folder, tasks=("embeddings",), pooling=pooling).embedder
        assert embedder is not None
        (vectors[pooling],) = embedder.embed([[5, 6, 7]])
    assert not np.allclose(vectors["mean"], vectors["last"])
    assert not np.allclose(vectors["cls"], vectors["last"])


# --- where it runs


def test_auto_says_why_it_is_the_cpu(folder: Path, load: Load, found: Callable[..., None]) -> None:
    """Never silently."""
    found(problems=("no driver",))
    info = load(folder, device="auto").info
    assert (info.device_requested, info.device, info.device_reason) == ("auto", "cpu", "no driver")


def test_coreml_is_not_for_what_generates_text(folder: Path, load: Load, found: Callable[..., None]) -> None:
    """By auto; the reason is in the info."""
    found(usable=frozenset({"coreml"}))
    info = load(folder, device="auto").info
    assert info.device == "cpu"
    assert "CoreML is slower" in info.device_reason


def test_a_named_device_that_is_not_there(folder: Path, load: Load, found: Callable[..., None]) -> None:
    """An error, never the CPU instead."""
    found(usable=frozenset({"coreml"}), problems=("no driver",))
    told = refused(load, folder, device="cuda:1")
    assert "device = 'cuda:1' was asked for, but only coreml, cpu can be used: no driver" in told


def test_a_cache_dir_that_cannot_be_made(folder: Path, load: Load, found: Callable[..., None], tmp_path: Path) -> None:
    """Told with its name where something is compiled; elsewhere it is not needed."""
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "cache"
    load(folder, cache_dir=place)
    found(usable=frozenset({"coreml"}))
    told = refused(load, folder, device="coreml", cache_dir=place)
    assert told == f"cache_dir = '{place}' cannot be made: Not a directory."


# --- what is refused


def test_what_is_no_folder_with_a_graph(tmp_path: Path, load: Load) -> None:
    """Nothing, a text file, an empty folder: each in words of its own."""
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").mkdir()
    for weights, words in (
        (None, "The model has no source"),
        (tmp_path / "absent", f"{tmp_path / 'absent'} does not exist"),
        (tmp_path / "text", "is no .onnx file"),
        (tmp_path / "empty", "has no .onnx file"),
    ):
        assert words in refused(load, weights)


def test_which_graph(folder: Path, load: Load) -> None:
    """Of several the one that is named, inside the folder; the file itself will do too."""
    file = (folder / "model.onnx").rename(folder / "one.onnx")
    assert load(file).info.details["graph"] == "one.onnx"
    (folder / "two.onnx").write_bytes(file.read_bytes())
    assert "has several graphs: set `graph` to one of one.onnx, two.onnx" in refused(load, folder)
    assert load(folder, graph="two.onnx").info.details["graph"] == "two.onnx"
    for outside in ("../one.onnx", str(file)):
        assert "must be the path of an .onnx file inside" in refused(load, folder, graph=outside)


def test_tasks_of_another_kind(folder: Path, load: Load) -> None:
    """A graph decides what can be asked of it; only what it cannot do is named."""
    told = refused(load, folder, tasks=("rerank", "chat"))
    assert told == (
        "tiny is declared for rerank, but it is of the kind decoder: "
        'choose the tasks of tiny@onnx from ["chat", "completion", "embeddings"].'
    )


def test_without_a_tokenizer(folder: Path, load: Load) -> None:
    """As where a graph in a folder of graphs was named: the tokenizer is then one folder up."""
    for file in folder.glob("token*"):
        file.unlink()
    told = refused(load, folder)
    assert told.startswith(f"{folder} has no tokenizer.json")
    assert 'the graph in it with the setting `graph` ("onnx/model.onnx")' in told


def test_unknown_architecture(folder: Path, load: Load) -> None:
    """The message names it, without advice to programmers."""
    describe(folder, model_type="moth")
    told = refused(load, folder)
    assert "moth" in told
    assert "pip install" not in told


def test_memory_for_a_configuration_may_come_back(folder: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed for want of memory is worth another try."""

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("onnx_backend.model_folder.AutoTokenizer.from_pretrained", fail)
    assert refused(load, folder, permanent=False) == f"{folder} cannot be loaded: MemoryError."


def test_a_template_that_cannot_be_read(folder: Path, load: Load, tmp_path: Path) -> None:
    """Told with its name; one that can be is used."""
    with pytest.raises(EngineLoadError, match=r"chat_template = .*missing\.jinja") as failed:
        load(folder, chat_template=tmp_path / "missing.jinja")
    assert failed.value.permanent
    file = tmp_path / "own.jinja"
    file.write_text("{{ messages[0].content }}!")
    assert load(folder, chat_template=file).template.source == file.read_text()


def test_weights_that_do_not_fit(folder: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before they are read; smaller ones are one setting away."""
    monkeypatch.setattr(loading, "free_device_bytes", lambda _: (folder / "model.onnx").stat().st_size - 1)
    assert 'set quantization = "int4"' in refused(load, folder, permanent=False)
    monkeypatch.setattr(loading, "free_device_bytes", lambda _: (folder / "model.onnx").stat().st_size)
    load(folder)


# --- what the files say


def test_without_a_config(tmp_path: Path, load: Load) -> None:
    """onnxruntime-genai's layout: its own file names the graph, its ends and its positions."""
    make_decoder(tmp_path).rename(tmp_path / "its.onnx")
    make_growing(tmp_path, name="other.onnx")
    byte_level().save_pretrained(tmp_path)
    decoder = {"filename": "its.onnx", "head_size": 16}
    (tmp_path / "genai_config.json").write_text(
        json.dumps({"model": {"decoder": decoder, "eos_token_id": [3, 4], "context_length": 24}})
    )
    loaded = load(tmp_path)
    assert loaded.info.details["graph"] == "its.onnx"
    assert loaded.vocabulary.eos == {3, 4, END}
    assert loaded.info.context_tokens == 24


def test_ends_of_a_config(folder: Path, load: Load) -> None:
    """generation_config.json's before config.json's."""
    describe(folder, eos_token_id=7)
    assert load(folder).vocabulary.eos == {7, END}
    (folder / "generation_config.json").write_text('{"eos_token_id": [8, 9]}')
    assert load(folder).vocabulary.eos == {8, 9, END}
