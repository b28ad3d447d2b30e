"""The declarations."""

from __future__ import annotations

from pathlib import Path

import llamacpp_backend.plugin as declared
import pytest
from llamacpp_backend.server import find_gguf

from core.api import EngineLoadError


def test_rows_of_the_alias_table() -> None:
    """Who answers to what, and in which tier."""
    models = {model.name: model for model in declared.gateway_models()}
    assert models["mistral-7b"].aliases == ("gpt-3.5-turbo", "claude-3-sonnet")
    assert models["llama-3-8b"].aliases == ("gpt-4", "gpt-4-turbo", "claude-3-opus")
    assert set(models["smollm2-135m"].aliases) == {*models["mistral-7b"].aliases, *models["llama-3-8b"].aliases}
    assert {name: (model.enabled, model.priority) for name, model in models.items()} == {
        "smollm2-135m": (True, 1),
        "mistral-7b": (True, 10),
        "llama-3-8b": (True, 10),
        "qwen-7b": (False, 5),
    }
    assert all(model.source and model.memory_bytes for model in models.values())


def test_declarations_are_short() -> None:
    """The module that every process imports."""
    assert len(Path(declared.__file__).read_text().splitlines()) < 120


def test_weights_are_one_gguf(tmp_path: Path) -> None:
    """A file, a folder with one, or the first of several parts; anything else is a permanent fault."""
    for name in ("a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf"):
        (tmp_path / name).write_bytes(b"GGUF...")
    assert find_gguf(tmp_path / "a.gguf").name == "a.gguf"
    with pytest.raises(EngineLoadError, match="several"):
        find_gguf(tmp_path)
    (tmp_path / "a.gguf").unlink()
    assert find_gguf(tmp_path).name == "b-00001-of-00002.gguf"
    (tmp_path / "text.gguf").write_text("hello")
    for wrong in (None, tmp_path / "nope", tmp_path / "text.gguf", Path(__file__).parent):
        with pytest.raises(EngineLoadError) as caught:
            find_gguf(wrong)
        assert caught.value.permanent
