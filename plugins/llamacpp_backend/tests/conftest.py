"""The real demo model, loaded once for the module that asks for it."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest_asyncio
from llamacpp_backend.engine import LlamaCppEngine
from llamacpp_backend.plugin import gateway_models
from llamacpp_backend.settings import LlamaCppSettings

from core.api import EngineContext
from core.testing import demo_weights

LoadEngine = Callable[..., Awaitable[LlamaCppEngine]]
MODEL = gateway_models()[0]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def load_engine() -> AsyncIterator[LoadEngine]:
    """Load the demo model with the given settings; closed at the end of the module."""
    engines: list[tuple[LlamaCppEngine, Path]] = []

    async def load(*, context_tokens: int = 4096, **settings: Any) -> LlamaCppEngine:
        scratch = Path(tempfile.mkdtemp(prefix="lc-"))
        engine = LlamaCppEngine(
            EngineContext(
                model=dataclasses.replace(MODEL, context_tokens=context_tokens),
                weights=demo_weights(),
                settings=LlamaCppSettings(threads=1, **settings),
                scratch=scratch,
            )
        )
        engines.append((engine, scratch))
        await engine.load()
        return engine

    yield load
    for engine, scratch in engines:
        await engine.close()
        shutil.rmtree(scratch)
