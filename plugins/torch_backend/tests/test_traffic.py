"""Many random requests together on the real demo model: each gives what it gives alone."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from decoding.traffic import play, random_requests
from torch_backend.engine import TorchEngine
from torch_backend.plugin import gateway_models
from torch_backend.settings import TorchSettings

from core.api import EngineContext, EngineEvent, TextDelta, ToolCallDelta, Usage
from core.testing import demo_weights

VOCABULARY = 49_152
COUNT = 200


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TorchEngine]:
    """One thread and float32: where arithmetic depends least on what is computed together."""
    scratch: Path = tmp_path_factory.mktemp("scratch")
    model = dataclasses.replace(gateway_models()[0], context_tokens=2048)
    settings = TorchSettings(threads=1, dtype="float32", slots=8)
    made = TorchEngine(EngineContext(model=model, weights=demo_weights(), settings=settings, scratch=scratch))
    await made.load()
    yield made
    await made.close()


def choices(events: list[EngineEvent]) -> dict[int, Any]:
    """What each choice said: texts joined, calls without their random ids, and how it ended."""
    kept = [event for event in events if not isinstance(event, Usage)]
    found = {}
    for choice, own in itertools.groupby(sorted(kept, key=lambda event: event.choice), lambda event: event.choice):
        own_events = list(own)
        text = "".join(event.text for event in own_events if isinstance(event, TextDelta))
        calls = [msgspec.structs.replace(event, id=None) for event in own_events if isinstance(event, ToolCallDelta)]
        found[choice] = (text, calls, own_events[-1])
    return found


@pytest.mark.timeout(600)
@pytest.mark.asyncio(loop_scope="module")
async def test_two_hundred_requests_together(engine: TorchEngine) -> None:
    """A fifth of them are left half-way. All slots are free at the end, and the texts are those of each request alone.

    Matrix products of different heights are rounded differently in the last bit, so a tie may fall differently:
    at most one request in a hundred may differ, and none did when this was written.
    """
    requests = random_requests(COUNT, seed=3, vocab_size=VOCABULARY, max_tokens=6)

    together = await play(engine, requests, seed=4, spread_s=20.0)

    async with asyncio.timeout(10):
        while engine.load_now().running or engine.load_now().kv_used:
            await asyncio.sleep(0.01)
    different = []
    for request, events in zip(requests, together, strict=True):
        if events is not None:
            alone = [event async for event in engine.stream(request)]
            if choices(events) != choices(alone):
                different.append((request, choices(events), choices(alone)))
    assert sum(events is None for events in together) > COUNT // 10
    assert len(different) <= COUNT // 100, different
