"""The demo model in both number formats of a CPU: the same model, but for rounding."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from torch_backend.engine import TorchEngine
from torch_backend.plugin import gateway_models
from torch_backend.settings import DtypeRequest, TorchSettings

from core.api import EngineContext, Sampling
from core.testing import demo_weights
from core.testing.asking import Answer, chat, collect

MODEL = dataclasses.replace(gateway_models()[0], context_tokens=1024)


async def answered(dtype: DtypeRequest, scratch: Path) -> tuple[str | int | float | bool, Answer]:
    """Load the model in a format, ask it, and return the format in effect and the answer."""
    settings = TorchSettings(threads=1, dtype=dtype, slots=2)
    engine = TorchEngine(EngineContext(model=MODEL, weights=demo_weights(), settings=settings, scratch=scratch))
    try:
        info = await engine.load()
        sampling = Sampling(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, max_tokens=4, logprobs=1)
        request = chat("What is the capital of France? Answer in one word.", sampling=sampling)
        return info.details["dtype"], await collect(request, engine.stream(request))
    finally:
        await engine.close()


@pytest.mark.timeout(180)
async def test_bfloat16_is_float32_but_for_rounding(tmp_path: Path) -> None:
    """The first token and its probability; packed weights or not, as this CPU is faster."""
    exact, rounded, chosen = [await answered(dtype, tmp_path) for dtype in ("float32", "bfloat16", "auto")]

    assert (exact[0], rounded[0]) == ("float32", "bfloat16")
    assert chosen[0] in {"float32", "bfloat16"}
    for _, answer in (rounded, chosen):
        first, expected = answer.logprobs[0][0], exact[1].logprobs[0][0]
        assert first.token == expected.token
        assert first.logprob == pytest.approx(expected.logprob, abs=0.2)
        assert answer.usage.prompt_tokens == exact[1].usage.prompt_tokens
