"""What is loaded, as what, and what is refused with which words."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from decoding.loaded import LoadedModel
from torch_backend import loading, memory
from torch_backend.architecture import check_decoder, probe
from torch_backend.measure import Format, Measured
from torch_backend.runner import TorchRunner
from torch_backend.testing import make_model
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, BertConfig, BertForSequenceClassification, BertModel

from core.api import EngineLoadError

Load = Callable[..., LoadedModel]


def refused(load: Load, weights: Path | None, **given: Any) -> EngineLoadError:
    with pytest.raises(EngineLoadError) as caught:
        load(weights, **given)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return caught.value


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# --- what it becomes


def test_info(folder: Path, load: Load) -> None:
    """What an operator wants to know, and memory as it is."""
    loaded = load(folder, dtype="float32", slots=3)
    info, details = loaded.info, loaded.info.details
    assert (info.device_requested, info.device, info.device_reason) == ("cpu", "cpu", "")
    assert (info.slots, info.context_tokens) == (3, 64)
    token_bytes = 2 * (2 * 8 + 2 * 8) * 4  # layers, keys and values of two heads, float32
    assert details["kv_bytes_per_token"] == token_bytes
    assert details["kv_bytes"] == 3 * 64 * token_bytes
    assert details["weights_bytes"] == 4 * int(details["parameters"])
    assert info.memory_bytes == int(details["kv_bytes"]) + int(details["weights_bytes"])
    assert details["dtype"] == "float32"
    assert "float32: " in str(details["measured"])
    assert "bfloat16" not in str(details["measured"])
    assert loaded.runner is not None
    assert loaded.runner is loaded.embedder
    assert loaded.vocabulary.size == loaded.runner.vocab_size
    assert loaded.limits.prefill_tokens == details["prefill_tokens"] == 64


def test_number_format_is_measured(folder: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """auto takes the fastest of two; what was measured is told."""
    times = {"float32": 2.0, "bfloat16": 1.0}

    def measured(_shapes: Any, dtypes: Any, rows: Any, *, pack: bool) -> Measured:
        assert pack
        return Measured({Format(dtype, packed=False): dict.fromkeys(rows, times[dtype]) for dtype in dtypes})

    monkeypatch.setattr(loading, "measure", measured)
    assert load(folder).info.details["dtype"] == "bfloat16"
    times["float32"] = 0.5
    assert load(folder).info.details["dtype"] == "float32"
    assert "float32: 0.5 ms at 1" in str(load(folder).info.details["measured"])


def test_context_is_not_more_than_trained(folder: Path, load: Load) -> None:
    """Beyond its positions a model says nothing sensible."""
    assert load(folder, context_tokens=100_000, slots=1).info.context_tokens == 256


def test_fewer_slots_than_asked_for(folder: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as fit into the memory that is left, which the info tells; none is an error with a remedy."""
    slot_bytes = 64 * 2 * 32 * 4
    monkeypatch.setattr(loading, "check_weights", lambda *_, **__: None)
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 5 * slot_bytes)
    info = load(folder, dtype="float32", slots=8, memory_share=0.5).info
    assert (info.slots, info.details["slots_requested"]) == (2, 8)
    monkeypatch.setattr(memory, "free_host_bytes", lambda: slot_bytes)
    assert "context_tokens" in str(refused(load, folder, dtype="float32", memory_share=0.5))


def test_encoders_and_cross_encoders(folder: Path, load: Load, tmp_path: Path) -> None:
    """What the weights are decides what is loaded; tasks that they cannot do are refused."""
    small = {"vocab_size": 300, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = BertConfig(**small, intermediate_size=64, num_labels=1)
    for kind, model in (("encoder", BertModel(config)), ("cross_encoder", BertForSequenceClassification(config))):
        place = tmp_path / kind
        model.save_pretrained(place)
        for file in folder.glob("token*"):
            (place / file.name).write_bytes(file.read_bytes())
    embeddings = load(tmp_path / "encoder", tasks=("embeddings",))
    assert embeddings.runner is None
    assert embeddings.embedder is not None
    assert embeddings.embedder.embed([[5, 6, 7]]).shape == (1, 32)
    scorer = load(tmp_path / "cross_encoder", tasks=("rerank",)).scorer
    assert scorer is not None
    assert 0 < scorer.score("hello", ["hell"])[0] < 1
    assert load(folder, tasks=("embeddings",)).embedder is not None
    assert "declared for chat" in str(refused(load, tmp_path / "encoder", tasks=("chat", "embeddings")))
    assert "declared for rerank" in str(refused(load, folder, tasks=("rerank",)))


# --- what is refused


def test_what_is_no_folder_of_weights(tmp_path: Path, load: Load) -> None:
    """Nothing, a text file, an empty folder: each in words of its own."""
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").mkdir()
    for weights, words in (
        (None, "no source"),
        (tmp_path / "absent", "does not exist"),
        (tmp_path / "text", "no GGUF file"),
        (tmp_path / "empty", "no config.json"),
    ):
        error = refused(load, weights)
        assert words in str(error)
        assert error.permanent


def test_pickles_are_never_read(folder: Path, load: Load) -> None:
    """A pickle beside safetensors is left alone, alone it is refused."""
    trap = "raise SystemExit"
    torch.save({"weights": trap}, folder / "pytorch_model.bin")
    load(folder)
    (folder / "model.safetensors").unlink()
    error = refused(load, folder)
    assert "pickles" in str(error)
    assert error.permanent


def test_damaged_weights(folder: Path, load: Load) -> None:
    """Cut off, or without one of its tensors: never random numbers instead."""
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "damaged" in str(refused(load, folder))
    file.write_bytes(whole)
    edit_config(folder, num_hidden_layers=3)
    assert "lack 9 tensors" in str(refused(load, folder))


def test_unknown_architecture(folder: Path, load: Load) -> None:
    """The message names it."""
    edit_config(folder, model_type="moth")
    error = refused(load, folder)
    assert "moth" in str(error)
    assert error.permanent


def test_code_of_a_repository(folder: Path, load: Load) -> None:
    """It runs only for models that the settings name; the message says how."""
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class Own(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    edit_config(folder, model_type="own", auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"})
    assert "trust_remote_code of [backends.torch]" in str(refused(load, folder))
    assert "trust_remote_code of [backends.torch]" in str(refused(load, folder, trust_remote_code=["another"]))
    assert load(folder, trust_remote_code=["tiny"]).info.details["architecture"] == "Own"


_SMALL = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("mamba", {"state_size": 4}, "recurrent state"),
        ("rwkv", {"attention_hidden_size": 32, "intermediate_size": 64}, "recurrent state"),
        ("jamba", {"num_key_value_heads": 2, "intermediate_size": 64}, "recurrent state"),
        ("qwen3_next", {"num_key_value_heads": 2, "intermediate_size": 64}, "recurrent state"),
        ("bloom", {"n_head": 4}, "attention interface"),
        (
            "llama4_text",
            {"num_key_value_heads": 2, "intermediate_size": 64, "intermediate_size_mlp": 64},
            "layers of the kind chunked_attention",
        ),
    ],
)
def test_without_a_standard_cache(kind: str, changes: dict[str, Any], words: str) -> None:
    """Told from the class, with the reason, before any weights are read."""
    config = CONFIG_MAPPING[kind](**_SMALL, **changes)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(EngineLoadError, match=words) as caught:
        check_decoder(config, model)
    assert type(model).__name__ in str(caught.value)
    assert caught.value.permanent


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_that_computes_something_else_is_found_out(dtype: torch.dtype) -> None:
    """The trial at load sees a wrong position, which no class tells, and lets rounding pass."""
    model = make_model("llama-3").to(dtype)
    honest = probe(model)
    honest.check(TorchRunner(model, honest.shapes, slots=2, context_tokens=16), dtype)
    model = make_model("llama-3").to(dtype)
    probed = probe(model)
    rotate = model.model.rotary_emb.forward
    model.model.rotary_emb.forward = lambda given, position_ids: rotate(given, position_ids=position_ids * 0)
    runner = TorchRunner(model, probed.shapes, slots=2, context_tokens=16)
    with pytest.raises(EngineLoadError, match="something else through the slot cache"):
        probed.check(runner, dtype)


def test_declarations_need_no_runtime() -> None:
    """Every process imports them."""
    code = "import sys, torch_backend.plugin; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == "set()"


def test_a_template_that_cannot_be_read(folder: Path, load: Load, tmp_path: Path) -> None:
    """Told with its name, for good, and before the weights are read."""
    with pytest.raises(EngineLoadError, match=r"chat_template = .*missing\.jinja") as failed:
        load(folder, chat_template=tmp_path / "missing.jinja")
    assert failed.value.permanent
