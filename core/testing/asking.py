"""Requests in one line, and answers put together again."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from typing import Any

from core.api.messages import (
    Embedding,
    EngineEvent,
    Finished,
    FinishReason,
    Score,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from core.api.requests import ChatRequest, Content, EngineRequest, Message, Role
from core.engine.contract import StreamCheck

__all__ = ["Answer", "Call", "chat", "collect", "message", "new_id", "put_together"]

_ANSWER_S = 120.0
_numbers = itertools.count(1)


def new_id() -> str:
    """An id that no other request of this process has."""
    return f"test-{next(_numbers)}"


def message(text: str, role: Role = "user") -> Message:
    """A message of one text part."""
    return Message(role=role, content=(Content(text=text),))


def chat(text: str, **fields: Any) -> ChatRequest:
    """A conversation of one user message; ``fields`` are those of `ChatRequest`."""
    return ChatRequest(id=new_id(), messages=(message(text),), **fields)


@dataclass(slots=True)
class Call:
    """A tool call, put together from its deltas."""

    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(slots=True)
class Answer:
    """All that a stream said, by choice.

    Attributes:
        tokens: sum of what the deltas of each choice say they stand for.
        pieces: text of every delta, in order of arrival.
    """

    texts: defaultdict[int, str] = field(default_factory=lambda: defaultdict(str))
    calls: defaultdict[int, defaultdict[int, Call]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Call))
    )
    reasons: dict[int, FinishReason] = field(default_factory=dict)
    tokens: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    logprobs: defaultdict[int, list[TokenLogprob]] = field(default_factory=lambda: defaultdict(list))
    vectors: dict[int, bytes] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)
    pieces: list[str] = field(default_factory=list)
    usage: Usage = Usage()  # noqa: RUF009 - frozen

    @property
    def text(self) -> str:
        """Of the first choice."""
        return self.texts[0]


def put_together(request: EngineRequest, events: Iterable[EngineEvent]) -> Answer:
    """Return the answer that complete ``events`` make.

    Raises:
        ContractError: the engine broke the contract of a stream.
        AssertionError: a choice went on after it had finished.
    """
    answer, check = Answer(), StreamCheck(request)
    for event in events:
        check.see(event)
        _add(answer, event)
    check.end()
    return answer


async def collect(request: EngineRequest, events: AsyncGenerator[EngineEvent, None]) -> Answer:
    """Read a stream to its end and return the answer; raises as `put_together` does, or TimeoutError."""
    async with asyncio.timeout(_ANSWER_S), contextlib.aclosing(events):
        return put_together(request, [event async for event in events])


def _add(answer: Answer, event: EngineEvent) -> None:
    if isinstance(event, Finished):
        answer.reasons[event.choice] = event.reason
    elif isinstance(event, Embedding):
        answer.vectors[event.index] = event.vector
    elif isinstance(event, Score):
        answer.scores[event.index] = event.score
    elif isinstance(event, Usage):
        answer.usage = event
    else:
        assert event.choice not in answer.reasons, f"choice {event.choice} went on after Finished: {event}"
        answer.tokens[event.choice] += event.tokens
        if isinstance(event, ToolCallDelta):
            call = answer.calls[event.choice][event.index]
            call.id, call.name = call.id or event.id, call.name or event.name
            call.arguments += event.arguments
        elif isinstance(event, TextDelta):
            answer.texts[event.choice] += event.text
            answer.logprobs[event.choice].extend(event.logprobs)
            answer.pieces.append(event.text)
