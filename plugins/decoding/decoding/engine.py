"""All of an engine but its runtime: `core.api.Engine.stream` over a `Runner`, an `Embedder` or a `Scorer`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator

from core.api import (
    ChatRequest,
    CompletionRequest,
    EmbeddingsRequest,
    EngineError,
    EngineEvent,
    EngineRequest,
    Finished,
    Load,
    RerankRequest,
    TextDelta,
    Usage,
)
from decoding.device_thread import DeviceThread
from decoding.generation import Arrival, Generation
from decoding.pooled import embed, rerank
from decoding.prompts import Draw, Prompts
from decoding.remainder import beyond
from decoding.runner import Embedder, Runner, Scorer
from decoding.scheduler import Limits
from decoding.template import ChatTemplate
from decoding.tokens import Vocabulary

__all__ = ["DecodingEngine"]

Events = AsyncGenerator[EngineEvent, None]
_Queue = asyncio.Queue[list[EngineEvent] | EngineError]


class DecodingEngine:
    """Serves requests; make it in a running loop, once the model is loaded.

    Args:
        vocabulary: of the model.
        template: its chat template.
        limits: on the prompt tokens of one step.
        runner: the model as a generator of text, None if it is none.
        embedder: the model as what makes vectors; a runner can do this too.
        scorer: the model as a cross-encoder.
    """

    def __init__(
        self,
        *,
        vocabulary: Vocabulary,
        template: ChatTemplate,
        limits: Limits,
        runner: Runner | None = None,
        embedder: Embedder | None = None,
        scorer: Scorer | None = None,
    ) -> None:
        self._vocabulary = vocabulary
        self._limits = limits
        self._embedder = embedder
        self._scorer = scorer
        self._running = 0
        self._loop = asyncio.get_running_loop()
        self._generation: Generation | None = None
        self._kv_tokens = 1
        known_tokens = vocabulary.size if runner is None else min(vocabulary.size, runner.vocab_size)
        if runner is not None:
            self._kv_tokens = runner.slots * runner.context_tokens
            self._generation = Generation(
                runner, vocab_size=known_tokens, limits=limits, deliver=self._deliver_from_thread
            )
        context_tokens = 0 if runner is None else runner.context_tokens
        self._prompts = Prompts(vocabulary, template, context_tokens=context_tokens, known_tokens=known_tokens)
        self._device = DeviceThread(self._generation.step if self._generation else lambda: False)

    def load_now(self) -> Load:
        """See `core.api.Engine.load_now`."""
        used = self._generation.used_tokens if self._generation else 0
        return Load(running=self._running, kv_used=min(1.0, used / self._kv_tokens), steps=self._device.steps)

    async def close(self) -> None:
        """End the device's thread after the step it is in."""
        await self._device.close()
        if self._generation is not None:
            self._generation.close()

    async def stream(self, request: EngineRequest) -> Events:
        """See `core.api.Engine.stream`."""
        self._running += 1
        try:
            async with contextlib.aclosing(self._events(request)) as events:
                async for event in events:
                    yield event
        finally:
            self._running -= 1

    def _events(self, request: EngineRequest) -> Events:
        batch_tokens = self._limits.prefill_tokens_alone
        match request:
            case ChatRequest() | CompletionRequest() if self._generation is not None:
                events = self._generate(request, self._generation)
                return beyond(request, request.continued, events) if request.continued else events
            case EmbeddingsRequest() if self._embedder is not None:
                return embed(request, self._vocabulary, self._embedder, self._device, batch_tokens=batch_tokens)
            case RerankRequest() if self._scorer is not None:
                return rerank(request, self._scorer, self._device, batch_tokens=batch_tokens)
        msg = f"This model was not loaded for a {type(request).__name__}."
        raise EngineError(msg)

    async def _generate(self, request: ChatRequest | CompletionRequest, generation: Generation) -> Events:
        if isinstance(request, ChatRequest):
            draws = await asyncio.to_thread(self._prompts.chat, request)
        else:
            draws = await asyncio.to_thread(self._prompts.completion, request)
        for event in _begun(draws):
            yield event
        arrived: _Queue = asyncio.Queue()
        try:
            left = [draw.row for draw in draws if not draw.row.answer.finished]
            for row in left:
                row.reader = arrived
                generation.add(row)
            self._device.wake()
            going = len(left)
            while going:
                events = await arrived.get()
                if isinstance(events, EngineError):
                    raise events
                for event in events:
                    going -= isinstance(event, Finished)
                    yield event
        finally:
            if left := [draw.row for draw in draws if not draw.row.answer.finished]:
                for row in left:
                    generation.cancel(row)
                self._device.wake()
        yield _usage(draws, request.n)

    def _deliver_from_thread(self, arrivals: list[Arrival]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_deliver, arrivals)


def _deliver(arrivals: list[Arrival]) -> None:
    for row, events in arrivals:
        row.reader.put_nowait(events)


def _begun(draws: list[Draw]) -> Iterator[EngineEvent]:
    for index, draw in enumerate(draws):
        if draw.echo:
            yield TextDelta(choice=index, text=draw.echo, tokens=0)
        yield from draw.begun


def _usage(draws: list[Draw], n: int) -> Usage:
    rows = [draw.row for draw in draws]
    return Usage(
        prompt_tokens=sum(draw.prompt_tokens for draw in draws[::n]),
        completion_tokens=sum(row.answer.tokens for row in rows),
        cached_tokens=sum(min(draw.row.sequence.cached, draw.prompt_tokens) for draw in draws[::n]),
        reasoning_tokens=sum(row.answer.reasoning_tokens for row in rows),
    )
