"""Events -> one JSON body, for answers that are not streamed; and the entries of ``/v1/models``."""

from __future__ import annotations

import binascii
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from core.api.messages import (
    Embedding,
    EngineEvent,
    Finished,
    FinishReason,
    ReasoningDelta,
    Score,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from core.api.requests import ChatRequest, CompletionRequest, EmbeddingsRequest, RerankRequest
from core.dialects.openai.parsed import Parsed
from core.dialects.openai.rerank import ranking
from core.dialects.openai.shapes import LegacyLogprobs, chat_logprobs, encode, unfinished, usage_body

__all__ = ["model_entry", "reply"]

_Json = dict[str, Any]


def reply(parsed: Parsed, model: str, events: Sequence[EngineEvent]) -> bytes:
    """Return the whole body; ``model`` is what its model field says.

    Raises:
        GatewayError: 502, a choice or an input was left without its end.
    """
    usage = next((event for event in reversed(events) if isinstance(event, Usage)), Usage())
    match parsed.request:
        case EmbeddingsRequest():
            return encode(_embeddings(parsed, model, events, usage))
        case RerankRequest() as request:
            return encode(ranking(request, model, events, usage, with_documents=parsed.return_documents))
        case ChatRequest():
            name, choices = "chat.completion", [_chat(choice) for choice in _gathered(parsed, events)]
        case CompletionRequest(sampling=sampling):
            with_top = bool(sampling.logprobs)
            name, choices = "text_completion", [_legacy(choice, with_top) for choice in _gathered(parsed, events)]
    body = {
        "id": parsed.request.id,
        "object": name,
        "created": parsed.created,
        "model": model,
        "system_fingerprint": None,
        "choices": choices,
        "usage": usage_body(usage),
    }
    return encode(body)


def model_entry(name: str, *, created: int, owned_by: str, **extension: object) -> _Json:
    """Return an entry of ``/v1/models``: OpenAI's fields, then ours. ``created`` is in Unix seconds."""
    return {"id": name, "object": "model", "created": created, "owned_by": owned_by, **extension}


# --- text ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class _Choice:
    """All events of one choice, joined. ``logprobs`` holds where in the text each run of tokens begins."""

    index: int
    text: str = ""
    reasoning: str = ""
    calls: dict[int, _Call] = field(default_factory=dict)
    logprobs: list[tuple[int, Sequence[TokenLogprob]]] = field(default_factory=list)
    reason: FinishReason | None = None

    def add(self, event: TextDelta | ReasoningDelta | ToolCallDelta | Finished) -> None:
        match event:
            case TextDelta(text=text, logprobs=logprobs):
                if logprobs:
                    self.logprobs.append((len(self.text), logprobs))
                self.text += text
            case ReasoningDelta(text=text):
                self.reasoning += text
            case ToolCallDelta():
                call = self.calls.setdefault(event.index, _Call())
                call.id = event.id or call.id
                call.name = event.name or call.name
                call.arguments += event.arguments
            case Finished(reason=reason):
                self.reason = reason


def _gathered(parsed: Parsed, events: Sequence[EngineEvent]) -> list[_Choice]:
    choices = [_Choice(index) for index in range(parsed.choices)]
    for event in events:
        if not isinstance(event, Embedding | Score | Usage):
            choices[event.choice].add(event)
    for choice in choices:
        if choice.reason is None:
            raise unfinished(choice.index)
    return choices


def _chat(choice: _Choice) -> _Json:
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for _, call in sorted(choice.calls.items())
    ]
    message: _Json = {"role": "assistant", "content": choice.text, "refusal": None}
    if calls:
        message |= {"content": choice.text or None, "tool_calls": calls}
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    logprobs = [token for _, tokens in choice.logprobs for token in tokens]
    return {
        "index": choice.index,
        "message": message,
        "logprobs": chat_logprobs(logprobs) if logprobs else None,
        "finish_reason": choice.reason,
    }


def _legacy(choice: _Choice, with_top: bool) -> _Json:  # noqa: FBT001 - private, one caller
    return {
        "index": choice.index,
        "text": choice.text,
        "logprobs": LegacyLogprobs.of(choice.logprobs, with_top=with_top) if choice.logprobs else None,
        "finish_reason": choice.reason,
    }


# --- embeddings ---------------------------------------------------------------------------------


def _embeddings(parsed: Parsed, model: str, events: Sequence[EngineEvent], usage: Usage) -> _Json:
    vectors = {event.index: event.vector for event in events if isinstance(event, Embedding)}
    for index in range(parsed.choices):
        if index not in vectors:
            raise unfinished(index)
    write = _base64 if parsed.encoding_format == "base64" else _floats
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": write(vectors[index])}
            for index in range(parsed.choices)
        ],
        "model": model,
        "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens},
    }


def _base64(vector: bytes) -> str:
    return binascii.b2a_base64(vector, newline=False).decode()


def _floats(vector: bytes) -> list[float]:
    values = array("f", vector)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()
