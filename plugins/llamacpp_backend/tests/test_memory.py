"""What the engine says that it takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from llamacpp_backend import engine as module
from llamacpp_backend.engine import LlamaCppEngine
from llamacpp_backend.plugin import gateway_models
from llamacpp_backend.settings import LlamaCppSettings

from core.api import EngineContext
from core.testing import demo_weights


@pytest.mark.parametrize(
    ("before", "after", "taken"),
    [(9_000_000_000, 7_000_000_000, 2_000_000_000), (7_000_000_000, 9_000_000_000, 0), (0, 0, 0)],
)
async def test_what_gpus_lost_while_it_loaded(
    before: int, after: int, taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is device memory; nothing where somebody else gave more back, or there is no GPU."""
    left = iter((before, after))
    monkeypatch.setattr(module, "free_gpu_bytes", lambda: next(left))
    engine = LlamaCppEngine(
        EngineContext(
            model=dataclasses.replace(gateway_models()[0], context_tokens=256),
            weights=demo_weights(),
            settings=LlamaCppSettings(threads=1, slots=1),
            scratch=tmp_path,
        )
    )
    info = await engine.load()
    await engine.close()
    assert info.device_memory_bytes == taken
    assert info.memory_bytes > taken
