"""The engine: a model of transformers, a slot cache, and the decoding library around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import cast

from decoding.engine import DecodingEngine

from core.api import EngineContext, EngineEvent, EngineInfo, EngineRequest, Load
from torch_backend.loading import LoadedModel, load_model
from torch_backend.settings import TorchSettings

__all__ = ["TorchEngine"]


class TorchEngine:
    """See `core.api.Engine`."""

    def __init__(self, context: EngineContext) -> None:
        self._context = context
        self._engine: DecodingEngine | None = None

    async def load(self) -> EngineInfo:
        """Load the model in a thread; see `torch_backend.loading.load_model`."""
        settings = cast("TorchSettings", self._context.settings)
        loaded: LoadedModel = await asyncio.to_thread(load_model, self._context, settings)
        self._engine = DecodingEngine(
            vocabulary=loaded.vocabulary,
            template=loaded.template,
            limits=loaded.limits,
            runner=loaded.runner,
            embedder=loaded.embedder,
            scorer=loaded.scorer,
        )
        return loaded.info

    def stream(self, request: EngineRequest) -> AsyncGenerator[EngineEvent, None]:
        """Serve one request; see `core.api.Engine.stream`."""
        return self._loaded().stream(request)

    def load_now(self) -> Load:
        """See `core.api.Engine.load_now`."""
        return self._loaded().load_now()

    async def close(self) -> None:
        """End the device's thread; the memory goes with the process."""
        if self._engine is not None:
            await self._engine.close()

    def _loaded(self) -> DecodingEngine:
        if self._engine is None:
            msg = "load() has not been called, or failed"
            raise RuntimeError(msg)
        return self._engine
