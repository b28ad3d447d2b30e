"""For tests of engines: many random requests together, each to be compared with itself alone."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Sequence
from typing import Any

import msgspec

from core.api import (
    ChatRequest,
    CompletionRequest,
    Content,
    Engine,
    EngineEvent,
    EngineRequest,
    Message,
    ResponseFormat,
    Sampling,
    TextDelta,
    Tool,
    ToolCallDelta,
    ToolChoice,
    Usage,
)

__all__ = ["different_alone", "play", "random_requests", "said"]

_WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "seven",
    "wizards",
    "brew",
    "tea",
    "in",
    "an",
    "old",
    "castle",
]
_SCHEMA = (
    '{"type": "object", "properties": {"n": {"type": "integer", "maximum": 99}}, "required": ["n"], '
    '"additionalProperties": false}'
)
_TOOL = Tool(name="look_up", parameters=_SCHEMA)


def random_requests(count: int, seed: int, *, vocab_size: int, max_tokens: int = 16) -> list[EngineRequest]:
    """Return ``count`` requests with every sampling parameter drawn at random; always the same for one seed.

    Prompts share beginnings now and then, so that prefixes are found and copied. Those that sample have a seed.
    """
    draw = random.Random(seed)  # noqa: S311 - not a secret
    return [_request(draw, f"r{index}", vocab_size, max_tokens) for index in range(count)]


async def play(
    engine: Engine, requests: Sequence[EngineRequest], *, seed: int, spread_s: float, cancelled: float = 0.2
) -> list[list[EngineEvent] | None]:
    """Send the requests at random times within ``spread_s``; leave a share of ``cancelled`` after some events.

    Returns:
        The events of each request, None where it was left.
    """
    draw = random.Random(seed)  # noqa: S311 - not a secret
    plans = [(draw.uniform(0, spread_s), draw.randrange(4) if draw.random() < cancelled else None) for _ in requests]

    async def one(request: EngineRequest, delay_s: float, leave_after: int | None) -> list[EngineEvent] | None:
        await asyncio.sleep(delay_s)
        events: list[EngineEvent] = []
        async with contextlib.aclosing(engine.stream(request)) as stream:
            if leave_after == 0:
                return None
            async for event in stream:
                events.append(event)
                if len(events) == leave_after:
                    return None
        return events

    return await asyncio.gather(*(one(request, *how) for request, how in zip(requests, plans, strict=True)))


def _request(draw: random.Random, name: str, vocab_size: int, max_tokens: int) -> EngineRequest:
    said = " ".join(_WORDS[: draw.randrange(len(_WORDS))] + draw.choices(_WORDS, k=draw.randint(1, 6)))
    n = draw.choice((1, 1, 1, 2, 3))
    sampling = _sampling(draw, vocab_size, max_tokens)
    if draw.random() < 0.5:  # noqa: PLR2004 - half of them
        return CompletionRequest(id=name, prompts=(said,), sampling=sampling, n=n, echo=sampling.logprobs is None)
    bound = draw.choice(("free", "free", "schema", "tool"))
    return ChatRequest(
        id=name,
        messages=(Message(role="user", content=(Content(text=said),)),),
        sampling=sampling,
        n=n,
        response_format=ResponseFormat(kind="json_schema", schema=_SCHEMA) if bound == "schema" else ResponseFormat(),
        tools=(_TOOL,) if bound == "tool" else (),
        tool_choice=ToolChoice(mode="required") if bound == "tool" else ToolChoice(),
    )


def _sampling(draw: random.Random, vocab_size: int, max_tokens: int) -> Sampling:
    def sometimes(value: float, otherwise: float) -> float:
        return value if draw.random() < 0.3 else otherwise  # noqa: PLR2004 - a third of them

    return Sampling(
        max_tokens=draw.randint(1, max_tokens),
        temperature=draw.choice((0.0, 0.7, 1.3)),
        top_p=sometimes(draw.uniform(0.3, 1.0), 1.0),
        top_k=int(sometimes(draw.randint(1, 50), 0)),
        min_p=sometimes(draw.uniform(0.0, 0.3), 0.0),
        presence_penalty=sometimes(draw.uniform(-2, 2), 0.0),
        frequency_penalty=sometimes(draw.uniform(-2, 2), 0.0),
        repetition_penalty=sometimes(draw.uniform(0.8, 1.5), 1.0),
        logit_bias={draw.randrange(vocab_size): draw.uniform(-100, 10)} if draw.random() < 0.3 else {},  # noqa: PLR2004
        seed=draw.randrange(2**31),
        stop=("e", "wizard") if draw.random() < 0.3 else (),  # noqa: PLR2004
        logprobs=draw.choice((None, None, 0, 3)),
    )


def said(events: Sequence[EngineEvent]) -> dict[int, Any]:
    """Return what each choice said: texts joined, calls without their random ids, and how it ended."""
    kept = sorted((event for event in events if not isinstance(event, Usage)), key=_choice)
    found = {}
    for choice, group in itertools.groupby(kept, _choice):
        own = list(group)
        text = "".join(event.text for event in own if isinstance(event, TextDelta))
        calls = [msgspec.structs.replace(event, id=None) for event in own if isinstance(event, ToolCallDelta)]
        found[choice] = (text, calls, own[-1])
    return found


async def different_alone(
    engine: Engine, requests: Sequence[EngineRequest], together: Sequence[Sequence[EngineEvent] | None]
) -> list[tuple[EngineRequest, Any, Any]]:
    """Ask every request that `play` finished once more, alone; return those that say something else then."""
    different = []
    for request, events in zip(requests, together, strict=True):
        if events is not None:
            alone = said([event async for event in engine.stream(request)])
            if said(events) != alone:
                different.append((request, said(events), alone))
    return different


def _choice(event: Any) -> int:
    return int(event.choice)
