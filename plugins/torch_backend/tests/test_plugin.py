"""The declarations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch_backend.plugin as declared
from pydantic import ValidationError
from torch_backend.settings import TorchSettings


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


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:11"])
def test_devices(device: str) -> None:
    """What can be written."""
    assert TorchSettings(device=device).device == device


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda0", "cpu:0", "CUDA", "cuda:0\n"])
def test_other_devices(device: str) -> None:
    """What cannot is told by `python -m core check`, not by torch."""
    with pytest.raises(ValidationError):
        TorchSettings(device=device)


def test_every_setting_is_described() -> None:
    """For the reference."""
    assert all(field.description for field in TorchSettings.model_fields.values())
