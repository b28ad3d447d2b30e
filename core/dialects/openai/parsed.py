"""What a request body became: the engine's request and what the gateway needs to know of it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from core.api.requests import ChatRequest, CompletionRequest, EmbeddingsRequest, EngineRequest, RerankRequest, Task
from core.api.specs import Capability

__all__ = ["Needs", "Parsed", "estimate_tokens", "new_id"]

Needs = dict[Capability, str]
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsed:
    """A request body that was found right.

    Attributes:
        name: the model field as the client wrote it.
        request: what the engine is asked.
        task: which endpoint was called.
        stream: whether the answer is to be streamed.
        include_usage: whether the stream ends with a usage chunk.
        needs: capability that the backend must have -> the request field that needs it.
        user: the user field, or None.
        estimated_prompt_tokens: bytes of text / 4, rounded up; token ids count as they are.
        created: of the answer, in Unix seconds; the same in every chunk.
        encoding_format: how embeddings are written.
        return_documents: whether a ranking holds the documents themselves.
    """

    name: str
    request: EngineRequest
    task: Task
    stream: bool = False
    include_usage: bool = False
    needs: Mapping[Capability, str]
    user: str | None = None
    estimated_prompt_tokens: int
    created: int = field(default_factory=lambda: int(time.time()))
    encoding_format: Literal["float", "base64"] = "float"
    return_documents: bool = False

    @property
    def choices(self) -> int:
        """How many choices, embeddings or scores the answer has."""
        match self.request:
            case ChatRequest(n=n):
                return n
            case CompletionRequest(n=n, prompts=prompts):
                return n * len(prompts)
            case EmbeddingsRequest(inputs=inputs):
                return len(inputs)
            case RerankRequest(documents=documents):
                return len(documents)


_random = random.Random()  # noqa: S311 - see new_id


def new_id(prefix: str) -> str:
    """Return a fresh id such as ``chatcmpl-9f86d081884c7d659a2feaa0``."""
    # Unique, not secret: the system's generator would cost a system call per request.
    return f"{prefix}-{_random.getrandbits(96):024x}"


def estimate_tokens(texts: Iterable[str | tuple[int, ...]]) -> int:
    """Return about how many tokens the texts are, without a tokenizer; token ids count as they are."""
    text_bytes = tokens = 0
    for text in texts:
        if isinstance(text, tuple):
            tokens += len(text)
        else:
            text_bytes += len(text) if text.isascii() else len(text.encode())
    return tokens - (-text_bytes // _BYTES_PER_TOKEN)
