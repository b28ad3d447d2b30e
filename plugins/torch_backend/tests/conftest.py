"""Tiny models on disk, and how an engine's loader is asked for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from decoding.loaded import LoadedModel
from decoding.testing import byte_level
from torch_backend.loading import load_model
from torch_backend.settings import TorchSettings
from torch_backend.testing import make_model

from core.api import EngineContext, ModelSpec

Load = Callable[..., LoadedModel]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole repository of a tiny random model: config, safetensors, tokenizer."""
    place = tmp_path / "tiny"
    tokenizer = byte_level()
    make_model("llama-3", vocab_size=len(tokenizer)).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load weights as an engine does, on one thread of the CPU."""

    def load(
        weights: Path | None,
        *,
        tasks: tuple[Any, ...] = ("chat", "completion"),
        context_tokens: int = 64,
        **settings: Any,
    ) -> LoadedModel:
        made = TorchSettings(**{"threads": 1, "device": "cpu", "cache_dir": tmp_path / "cache"} | settings)
        model = ModelSpec(name="tiny", backend="torch", tasks=tasks, context_tokens=context_tokens)
        return load_model(EngineContext(model=model, weights=weights, settings=made, scratch=tmp_path), made)

    return load
