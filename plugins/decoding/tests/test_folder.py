"""What a model's files and the operator's say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from decoding.folder import default_cache_dir, end_tokens, ends_in, read_template
from decoding.testing import byte_level
from transformers import AutoConfig

from core.api import EngineLoadError

CONFIG = AutoConfig.for_model("llama", eos_token_id=7)


@pytest.mark.parametrize(("told", "ends"), [({"eos_token_id": 3}, 3), ({"eos_token_id": [3, 4]}, [3, 4]), ({}, None)])
def test_the_generation_config_says_what_ends_an_answer(tmp_path, told, ends):
    """It counts more than the model's config, also where it names nothing."""
    (tmp_path / "generation_config.json").write_text(json.dumps(told))
    assert ends_in(tmp_path, CONFIG) == ends


def test_without_one_the_models_config_says_it(tmp_path):
    """That of its text, where it is one of several."""
    assert ends_in(tmp_path, CONFIG) == 7
    whole = AutoConfig.for_model("gemma3", text_config={"eos_token_id": 9})
    assert ends_in(tmp_path, whole) == 9


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe"])
def test_a_damaged_generation_config_is_told(tmp_path, content):
    (tmp_path / "generation_config.json").write_bytes(content)
    with pytest.raises(EngineLoadError, match=r"generation_config\.json cannot be read") as caught:
        ends_in(tmp_path, CONFIG)
    assert caught.value.permanent


@pytest.mark.parametrize(("told", "more"), [(3, {3}), ([3, 4], {3, 4}), (None, set()), ([], set())])
def test_the_tokenizers_own_end_is_one_too(told, more):
    tokenizer = byte_level()
    assert end_tokens(told, tokenizer) == {tokenizer.eos_token_id} | more
    tokenizer.eos_token = None
    assert end_tokens(told, tokenizer) == more


@pytest.mark.parametrize("told", ["</s>", [3, "</s>"], [[3]], 3.5])
def test_an_end_that_is_no_token_is_refused_for_good(told):
    with pytest.raises(EngineLoadError, match=r"as eos_token_id, which is no token's id") as caught:
        end_tokens(told, byte_level())
    assert caught.value.permanent


def test_the_operators_template_is_read_as_it_is(tmp_path):
    file = tmp_path / "own.jinja"
    file.write_text("{{ 'é' }}", encoding="utf-8")
    assert read_template(file) == "{{ 'é' }}"
    assert read_template(None) is None


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_template_that_cannot_be_read_is_told(tmp_path, content):
    file = tmp_path / "own.jinja"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(EngineLoadError, match=r"chat_template = .*own\.jinja") as caught:
        read_template(file)
    assert caught.value.permanent


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir("torch") == tmp_path / "ai-gateway" / "torch"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir("onnx") == tmp_path / ".cache" / "ai-gateway" / "onnx"
