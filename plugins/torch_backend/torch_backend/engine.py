"""The engine: a model of transformers, a slot cache, and the decoding library around them."""

from __future__ import annotations

from typing import cast

from decoding.loaded import LoadedModel, LoadingEngine

from core.api import EngineContext
from torch_backend.loading import load_model
from torch_backend.settings import TorchSettings

__all__ = ["TorchEngine"]


class TorchEngine(LoadingEngine):
    """See `core.api.Engine`."""

    def load_model(self, context: EngineContext) -> LoadedModel:
        """See `torch_backend.loading.load_model`."""
        return load_model(context, cast("TorchSettings", context.settings))
