"""The engine: a whole one, with words for tokens and sleep for work."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import math
import os
import re
import signal
import struct
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any, cast

from core.api import (
    ChatRequest,
    CompletionRequest,
    Embedding,
    EmbeddingsRequest,
    EngineContext,
    EngineError,
    EngineEvent,
    EngineInfo,
    EngineLoadError,
    EngineRequest,
    Finished,
    FinishReason,
    Load,
    RequestError,
    Sampling,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from echo_backend.plugin import EchoSettings

__all__ = ["EchoEngine"]

_DIMENSIONS = 64
_STEPS_A_TURN = 32  # at full speed: steps between two chances for everybody else in the loop
_LONGEST_STEP_S = 0.05


def _tokens(text: str) -> list[str]:
    """Words with the space that follows them; joined they are the text."""
    return re.findall(r"\s*\S+\s*", text)


class EchoEngine:
    """One object per replica; everything below happens in its one event loop."""

    def __init__(self, context: EngineContext) -> None:
        self._context_tokens = context.model.context_tokens
        self._settings = cast("EchoSettings", context.settings)
        self._running = 0
        self._steps = 0

    async def load(self) -> EngineInfo:
        """Take ``load_s``, then be ready, or fail as the settings want it."""
        await asyncio.sleep(self._settings.load_s)
        if self._settings.fail_load:
            msg = f"fail_load = {self._settings.fail_load!r}, as configured"
            raise EngineLoadError(msg, permanent=self._settings.fail_load == "permanent")
        return EngineInfo(context_tokens=self._context_tokens, slots=self._settings.slots)

    def load_now(self) -> Load:
        """Steps move as long as something runs, unless the settings want a hang."""
        return Load(running=self._running, steps=self._steps)

    async def close(self) -> None:
        """Nothing to give back."""

    async def stream(self, request: EngineRequest) -> AsyncGenerator[EngineEvent, None]:
        """Answer one request. ``finally`` runs however it ends: to the end, by an error, by ``aclose()``."""
        self._running += 1
        try:
            if isinstance(request, EmbeddingsRequest):
                events = self._embeddings(request)
            elif isinstance(request, CompletionRequest):
                events = self._completion(request)
            else:
                events = self._chat(request)
            async for event in events:
                yield event
        finally:
            self._running -= 1

    # --- the three tasks

    async def _chat(self, request: ChatRequest) -> AsyncGenerator[EngineEvent, None]:
        prompt = [token for message in request.messages for token in _tokens(message.text)]
        room = self._room(len(prompt), "messages")
        if request.tool_choice.mode in ("required", "named"):
            choices = [_tool_call(request, choice) for choice in range(request.n)]
        else:
            said = next((message.text for message in reversed(request.messages) if message.role == "user"), "")
            choices = [_text(choice, *self._answer(said, request.sampling, room)) for choice in range(request.n)]
        async for event in self._generate(choices, len(prompt)):
            yield event

    async def _completion(self, request: CompletionRequest) -> AsyncGenerator[EngineEvent, None]:
        prompts = [cast("str", prompt) for prompt in request.prompts]  # "token_prompts" is not among our capabilities
        choices: list[Iterator[EngineEvent]] = []
        for choice in range(len(prompts) * request.n):
            prompt = prompts[choice // request.n]
            answer, reason = self._answer(prompt, request.sampling, self._room(len(_tokens(prompt)), "prompt"))
            head = [TextDelta(choice=choice, text=prompt, tokens=0)] if request.echo else []
            choices.append(itertools.chain(head, _text(choice, answer, reason)))
        async for event in self._generate(choices, sum(len(_tokens(prompt)) for prompt in prompts)):
            yield event

    async def _embeddings(self, request: EmbeddingsRequest) -> AsyncGenerator[EngineEvent, None]:
        dimensions = request.dimensions or _DIMENSIONS
        if dimensions > _DIMENSIONS:
            msg = f"dimensions must be at most {_DIMENSIONS}"
            raise RequestError(msg, param="dimensions")
        inputs = [cast("str", text) for text in request.inputs]
        for index, text in enumerate(inputs):
            self._room(len(_tokens(text)), "input")
            await self._work(0)
            yield Embedding(index=index, vector=_vector(text, dimensions))
        yield Usage(prompt_tokens=sum(len(_tokens(text)) for text in inputs))

    # --- words

    def _room(self, prompt_tokens: int, param: str) -> int:
        """How many tokens the context has left for an answer."""
        room = self._context_tokens - prompt_tokens
        if room <= 0:
            msg = f"The prompt has {prompt_tokens} tokens, but the context holds {self._context_tokens}."
            raise RequestError(msg, param=param, code="context_length_exceeded")
        return room

    def _answer(self, said: str, sampling: Sampling, room: int) -> tuple[list[str], FinishReason]:
        """The tokens of an answer and why it ends there."""
        words = _tokens(said)
        if words and self._settings.tokens > len(words):
            words[-1] = words[-1].rstrip() + " "
            words = list(itertools.islice(itertools.cycle(words), self._settings.tokens))
        limit = min(room, room if sampling.max_tokens is None else sampling.max_tokens)
        text = "".join(words[:limit])
        stops = [at for stop in sampling.stop if (at := text.find(stop)) >= 0]
        if stops:
            return _tokens(text[: min(stops)]), "stop"
        return words[:limit], "length" if len(words) > limit else "stop"

    # --- time

    async def _generate(
        self, choices: list[Iterator[EngineEvent]], prompt_tokens: int
    ) -> AsyncGenerator[EngineEvent, None]:
        """One step gives one event to each choice that still runs, as a batch on a device would."""
        await self._work(self._settings.prefill_s)
        completion_tokens, due = 0, time.monotonic()
        while choices:
            for choice in tuple(choices):
                event = next(choice, None)
                if event is None:
                    choices.remove(choice)
                    continue
                completion_tokens += getattr(event, "tokens", 0)
                yield event
            await self._fail_as_configured(completion_tokens)
            if self._settings.tokens_per_s:
                due += 1 / self._settings.tokens_per_s
                await self._work(due - time.monotonic())
            elif self._steps % _STEPS_A_TURN == 0:
                await self._work(0)
            else:
                self._steps += 1
        yield Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)

    async def _work(self, seconds: float) -> None:
        """Spend time as a device would, in steps; lets others in between even when there is none to spend."""
        until = time.monotonic() + seconds
        while True:
            self._steps += 1
            left = until - time.monotonic()
            await asyncio.sleep(max(0.0, min(left, _LONGEST_STEP_S)))
            if left <= _LONGEST_STEP_S:
                return

    async def _fail_as_configured(self, tokens: int) -> None:
        settings = self._settings
        if settings.raise_after_tokens is not None and tokens >= settings.raise_after_tokens:
            msg = f"raise_after_tokens = {settings.raise_after_tokens}, as configured"
            raise EngineError(msg)
        if settings.hang_after_tokens is not None and tokens >= settings.hang_after_tokens:
            await asyncio.Event().wait()
        if settings.die_after_tokens is not None and tokens >= settings.die_after_tokens:
            os.kill(os.getpid(), signal.SIGKILL)


def _text(choice: int, tokens: list[str], reason: FinishReason) -> Iterator[EngineEvent]:
    for token in tokens:
        yield TextDelta(choice=choice, text=token)
    yield Finished(choice=choice, reason=reason)


def _tool_call(request: ChatRequest, choice: int) -> Iterator[EngineEvent]:
    """Call the named tool, or else the first, with the least that its schema accepts."""
    tool = next(tool for tool in request.tools if request.tool_choice.name in (None, tool.name))
    yield ToolCallDelta(choice=choice, id=f"call_{request.id}_{choice}", name=tool.name)
    yield ToolCallDelta(choice=choice, arguments=json.dumps(_least(json.loads(tool.parameters))))
    yield Finished(choice=choice, reason="tool_calls")


def _least(schema: dict[str, Any]) -> Any:
    """A small value of a simple JSON Schema."""
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: _least(properties.get(name, {})) for name in schema.get("required", ())}
    values: dict[str, Any] = {"string": "echo", "integer": 0, "number": 0.0, "boolean": True, "array": []}
    return values.get(kind)


def _vector(text: str, dimensions: int) -> bytes:
    """A unit vector that depends on the text alone."""
    values = [byte - 127.5 for byte in hashlib.blake2b(text.encode(), digest_size=_DIMENSIONS).digest()[:dimensions]]
    length = math.hypot(*values)
    return struct.pack(f"<{dimensions}f", *(value / length for value in values))
