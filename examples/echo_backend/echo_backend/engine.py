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
    EngineBrokenError,
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
    RerankRequest,
    Sampling,
    Score,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from echo_backend.plugin import EchoSettings

__all__ = ["EchoEngine"]

_DIMENSIONS = 64
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
        self._broken = False
        self._ballast = b""

    async def load(self) -> EngineInfo:
        """Take ``load_s``, then be ready, or fail as the settings want it."""
        self._ballast = b"x" * self._settings.ballast_bytes  # written to, so that it is really there
        await asyncio.sleep(self._settings.load_s)
        if self._settings.fail_load:
            msg = f"fail_load = {self._settings.fail_load!r}, as configured"
            raise EngineLoadError(msg, permanent=self._settings.fail_load == "permanent")
        return EngineInfo(context_tokens=self._context_tokens, slots=self._settings.slots)

    def load_now(self) -> Load:
        """Steps move as long as something runs, unless the settings want a hang."""
        return Load(running=self._running, steps=self._steps)

    async def close(self) -> None:
        """Give the ballast back; there is nothing else."""
        self._ballast = b""

    async def stream(self, request: EngineRequest) -> AsyncGenerator[EngineEvent, None]:
        """Serve one request: each step gives one event to each choice, as a batch on a device would."""
        choices, prompt_tokens = self._plan(request)
        told = completion_tokens = _pass_over_told(request, choices)
        self._running += 1
        try:
            await self._work(self._settings.prefill_s)
            due = time.monotonic()
            while choices:
                for choice in tuple(choices):
                    event = next(choice, None)
                    if event is None:
                        choices.remove(choice)
                    else:
                        completion_tokens += getattr(event, "tokens", 0)
                        yield event
                await self._fail_as_configured(completion_tokens - told)
                due += 1 / self._settings.tokens_per_s if self._settings.tokens_per_s else 0.0
                await self._work(due - time.monotonic())
            yield Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        finally:  # however it ends: to the end, by an error, by a cancel
            self._running -= 1

    # --- what to say

    def _plan(self, request: EngineRequest) -> tuple[list[Iterator[EngineEvent]], int]:
        """The events of each choice, and the tokens of the prompts."""
        if isinstance(request, EmbeddingsRequest):
            return self._embeddings(request)
        if isinstance(request, RerankRequest):
            return self._rerank(request)
        if isinstance(request, CompletionRequest):
            return self._completion(request)
        return self._chat(request)

    def _chat(self, request: ChatRequest) -> tuple[list[Iterator[EngineEvent]], int]:
        prompt_tokens = sum(len(_tokens(message.text)) for message in request.messages)
        room = self._room(prompt_tokens, "messages")
        if request.tool_choice.mode in ("required", "named"):
            return [_tool_call(request, choice) for choice in range(request.n)], prompt_tokens
        said = next((message.text for message in reversed(request.messages) if message.role == "user"), "")
        answer, reason = self._answer(said, request.sampling, room)
        return [_text(choice, answer, reason) for choice in range(request.n)], prompt_tokens

    def _completion(self, request: CompletionRequest) -> tuple[list[Iterator[EngineEvent]], int]:
        choices: list[Iterator[EngineEvent]] = []
        prompt_tokens = 0
        for prompt in map(str, request.prompts):  # token ids are not among our capabilities and never come
            prompt_tokens += len(_tokens(prompt))
            answer, reason = self._answer(prompt, request.sampling, self._room(len(_tokens(prompt)), "prompt"))
            for choice in range(len(choices), len(choices) + request.n):
                head = [TextDelta(choice=choice, text=prompt, tokens=0)] if request.echo else []
                choices.append(itertools.chain(head, _text(choice, answer, reason)))
        return choices, prompt_tokens

    def _embeddings(self, request: EmbeddingsRequest) -> tuple[list[Iterator[EngineEvent]], int]:
        dimensions = request.dimensions or _DIMENSIONS
        if dimensions > _DIMENSIONS:
            msg = f"dimensions must be at most {_DIMENSIONS}"
            raise RequestError(msg, param="dimensions")
        inputs = [str(text) for text in request.inputs]
        for text in inputs:
            self._room(len(_tokens(text)), "input")
        vectors: list[Iterator[EngineEvent]] = [
            iter((Embedding(index=index, vector=_vector(text, dimensions)),)) for index, text in enumerate(inputs)
        ]
        return vectors, sum(len(_tokens(text)) for text in inputs)

    def _rerank(self, request: RerankRequest) -> tuple[list[Iterator[EngineEvent]], int]:
        pairs = [len(_tokens(request.query)) + len(_tokens(document)) for document in request.documents]
        self._room(max(pairs), "documents")
        scores: list[Iterator[EngineEvent]] = [
            iter((Score(index=index, score=_overlap(request.query, document)),))
            for index, document in enumerate(request.documents)
        ]
        return scores, sum(pairs)

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

    async def _work(self, seconds: float) -> None:
        """Spend time as a device would, in steps. With none to spend, the host lets others in between events."""
        self._steps += 1
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _LONGEST_STEP_S))
            self._steps += 1

    async def _fail_as_configured(self, tokens: int) -> None:
        settings = self._settings
        if settings.raise_after_tokens is not None and tokens >= settings.raise_after_tokens:
            msg = f"raise_after_tokens = {settings.raise_after_tokens}, as configured"
            raise EngineError(msg)
        if settings.break_after_tokens is not None and (self._broken or tokens >= settings.break_after_tokens):
            self._broken = True
            msg = f"break_after_tokens = {settings.break_after_tokens}, as configured"
            raise EngineBrokenError(msg)
        if settings.hang_after_tokens is not None and tokens >= settings.hang_after_tokens:
            await asyncio.Event().wait()
        if settings.die_after_tokens is not None and tokens >= settings.die_after_tokens:
            os.kill(os.getpid(), signal.SIGKILL)


def _text(choice: int, tokens: list[str], reason: FinishReason) -> Iterator[EngineEvent]:
    for place, token in enumerate(tokens):
        yield TextDelta(choice=choice, text=token, token_ids=(place,))
    yield Finished(choice=choice, reason=reason)


def _pass_over_told(request: EngineRequest, choices: list[Iterator[EngineEvent]]) -> int:
    """Drop from the answer what another replica has told of it before it died; return how many tokens that was."""
    if not isinstance(request, ChatRequest | CompletionRequest) or request.continued is None:
        return 0
    tokens, told = 0, request.continued.text
    if len(choices) > 1 or request.continued.reasoning:
        raise _another_answer()
    while told:
        event = next(choices[0], None)
        if not isinstance(event, TextDelta) or not told.startswith(event.text):
            raise _another_answer()
        tokens, told = tokens + event.tokens, told.removeprefix(event.text)
    return tokens


def _another_answer() -> RequestError:
    return RequestError("This answer cannot be continued: it would be another one here.", code="cannot_continue")


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


def _overlap(query: str, document: str) -> float:
    """Words that both have, among all words of both: from 0 to 1."""
    one, other = (set(re.findall(r"\w+", text.casefold())) for text in (query, document))
    return len(one & other) / len(one | other) if one | other else 0.0
