"""The dialect from both sides: requests made of JSON, answers read back as OpenAI's own client types."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from core.api.messages import EngineEvent
from core.dialects import openai
from core.settings import LimitsTable

LIMITS = LimitsTable()
# Ours beyond the client's types: the de-facto name of reasoning text.
EXTENSIONS = {"reasoning_content"}


class Dialect:
    """Parses bodies; `whole` and `streamed` check every shape before they return it."""

    @staticmethod
    def chat(**fields: Any) -> openai.Parsed:
        body = {"model": "gpt-4", "messages": [{"role": "user", "content": "x"}], **fields}
        return openai.parse_chat(json.dumps(body).encode(), LIMITS)

    @staticmethod
    def completion(**fields: Any) -> openai.Parsed:
        return openai.parse_completion(json.dumps({"model": "gpt-4", "prompt": "x", **fields}).encode(), LIMITS)

    @staticmethod
    def embeddings(**fields: Any) -> openai.Parsed:
        return openai.parse_embeddings(json.dumps({"model": "gpt-4", "input": "x", **fields}).encode(), LIMITS)

    @staticmethod
    def rerank(**fields: Any) -> openai.Parsed:
        body = {"model": "gpt-4", "query": "x", "documents": ["a", "b"], **fields}
        return openai.parse_rerank(json.dumps(body).encode(), LIMITS)

    @staticmethod
    def whole(parsed: openai.Parsed, *events: EngineEvent) -> dict[str, Any]:
        kinds: dict[str, type[BaseModel]] = {
            "chat": ChatCompletion,
            "completion": Completion,
            "embeddings": CreateEmbeddingResponse,
        }
        return strict(kinds[parsed.task], json.loads(openai.reply(parsed, "served", events)))

    @staticmethod
    def streamed(parsed: openai.Parsed, *events: EngineEvent, batch: int = 1) -> list[dict[str, Any]]:
        stream = openai.Stream(parsed, "served")
        sse = b"".join(stream.chunks(events[i : i + batch]) for i in range(0, len(events), batch)) + stream.end()
        *chunks, done = messages(sse)
        assert done == b"[DONE]"
        kind: type[BaseModel] = ChatCompletionChunk if parsed.task == "chat" else Completion
        # Both shapes of a legacy completion are one type in the client, in which an unfinished chunk has no place.
        loaded = [json.loads(chunk) for chunk in chunks]
        for chunk in loaded:
            filled = [c | {"finish_reason": c["finish_reason"] or "stop"} for c in chunk["choices"]]
            strict(kind, chunk if parsed.task == "chat" else chunk | {"choices": filled})
        return loaded


def strict(kind: type[BaseModel], data: Any) -> dict[str, Any]:
    """Check that the data is what the client's type says, with no field that it does not know."""
    no_extras(kind.model_validate(data, strict=True))
    assert isinstance(data, dict)
    return data


def no_extras(value: Any) -> None:
    if isinstance(value, BaseModel):
        assert set(value.model_extra or {}) <= EXTENSIONS
        for name in value.model_fields_set - EXTENSIONS:
            no_extras(getattr(value, name))
    elif isinstance(value, list):
        for item in value:
            no_extras(item)


def messages(sse: bytes) -> list[Any]:
    """The payloads of server-sent events, each of which must be one ``data`` line and an empty line."""
    *blocks, rest = sse.split(b"\n\n")
    assert rest == b""
    assert all(block.startswith(b"data: ") and b"\n" not in block for block in blocks)
    return [block.removeprefix(b"data: ") for block in blocks]


@pytest.fixture(scope="session")
def dialect() -> Dialect:
    return Dialect()
