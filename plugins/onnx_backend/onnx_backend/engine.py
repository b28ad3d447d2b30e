"""The engine: graphs of ONNX Runtime, and the decoding library around them."""

from __future__ import annotations

from typing import cast

from decoding.loaded import LoadedModel, LoadingEngine

from core.api import EngineContext
from onnx_backend.loading import load_model
from onnx_backend.settings import OnnxSettings

__all__ = ["OnnxEngine"]


class OnnxEngine(LoadingEngine):
    """See `core.api.Engine`."""

    def load_model(self, context: EngineContext) -> LoadedModel:
        """See `onnx_backend.loading.load_model`."""
        return load_model(context, cast("OnnxSettings", context.settings))
