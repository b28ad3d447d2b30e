"""The shapes of the answers that handlers and dialect write by hand, for the document; tests hold them to real ones."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from core.api.protocols import ReplicaState
from core.api.requests import Task
from core.dialects.openai.shapes import ChatLogprobs, LegacyLogprobs, UsageBody
from core.wire.control import BreakerState

__all__ = [
    "ChatCompletion",
    "ChatCompletionChunk",
    "Completion",
    "EmbeddingList",
    "Error",
    "Health",
    "Live",
    "Model",
    "ModelList",
    "Ranking",
    "Ready",
]

_Finish = Literal["stop", "length", "tool_calls", "content_filter"]


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the shapes below."""


class _ErrorBody(_Answer, frozen=True, kw_only=True):
    """``message`` is a sentence with the remedy; ``param`` the field at fault; ``code`` is stable."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(_Answer, frozen=True, kw_only=True):
    """Every error, and the data of the event that ends a broken stream."""

    error: _ErrorBody


class _CalledFunction(_Answer, frozen=True, kw_only=True):
    name: str
    arguments: str


class _Call(_Answer, frozen=True, kw_only=True):
    id: str
    type: Literal["function"]
    function: _CalledFunction


class _AssistantMessage(_Answer, frozen=True, kw_only=True):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[_Call] | msgspec.UnsetType = msgspec.UNSET
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET


class _ChatChoice(_Answer, frozen=True, kw_only=True):
    index: int
    message: _AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: _Finish


class ChatCompletion(_Answer, frozen=True, kw_only=True):
    """A whole chat answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[_ChatChoice]
    usage: UsageBody


class _Delta(_Answer, frozen=True, kw_only=True, omit_defaults=True):
    role: Literal["assistant"] | msgspec.UnsetType = msgspec.UNSET
    content: str | msgspec.UnsetType | None = msgspec.UNSET
    refusal: msgspec.UnsetType | None = msgspec.UNSET
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET


class _ChunkChoice(_Answer, frozen=True, kw_only=True):
    index: int
    delta: _Delta
    logprobs: ChatLogprobs | None
    finish_reason: _Finish | None


class ChatCompletionChunk(_Answer, frozen=True, kw_only=True):
    """The data of one event of a streamed chat answer; the last event is ``[DONE]``, or an `Error`."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[_ChunkChoice]
    usage: UsageBody | msgspec.UnsetType | None = msgspec.UNSET


class _LegacyChoice(_Answer, frozen=True, kw_only=True):
    index: int
    text: str
    logprobs: LegacyLogprobs | None
    finish_reason: _Finish | None


class Completion(_Answer, frozen=True, kw_only=True):
    """A legacy completion, whole; streamed, each event holds one of these, ``usage`` null but in the last."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[_LegacyChoice]
    usage: UsageBody | msgspec.UnsetType | None = msgspec.UNSET


class _PromptUsage(_Answer, frozen=True, kw_only=True):
    prompt_tokens: int
    total_tokens: int


class _EmbeddingRow(_Answer, frozen=True, kw_only=True):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(_Answer, frozen=True, kw_only=True):
    """Vectors, in the order of the inputs; a string is base64 of little-endian float32."""

    object: Literal["list"]
    data: list[_EmbeddingRow]
    model: str
    usage: _PromptUsage


class _RankedText(_Answer, frozen=True, kw_only=True):
    text: str


class _Ranked(_Answer, frozen=True, kw_only=True):
    index: int
    relevance_score: float
    document: _RankedText | msgspec.UnsetType = msgspec.UNSET


class Ranking(_Answer, frozen=True, kw_only=True):
    """Documents, best first."""

    id: str
    object: Literal["list"]
    model: str
    results: list[_Ranked]
    usage: _PromptUsage


class _ModelDeployment(_Answer, frozen=True, kw_only=True):
    id: str
    backend: str
    enabled: bool
    active: bool
    state: ReplicaState
    reason: str | None
    priority: int
    weight: float
    replicas: int
    device_requested: str | None
    device: str | None
    device_reason: str | None


class Model(_Answer, frozen=True, kw_only=True):
    """A model or an alias, with what would serve it now. ``alias_of`` is there exactly for an alias."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    alias_of: list[str] | msgspec.UnsetType = msgspec.UNSET
    backend: str
    active: bool
    state: ReplicaState
    reason: str | None
    context_tokens: int
    tasks: list[Task]
    deployments: list[_ModelDeployment]


class ModelList(_Answer, frozen=True, kw_only=True):
    """Models, then aliases."""

    object: Literal["list"]
    data: list[Model]


class _Quantiles(_Answer, frozen=True, kw_only=True):
    p50: float | None
    p95: float | None
    p99: float | None


class _HealthBreaker(_Answer, frozen=True, kw_only=True):
    state: BreakerState
    reason: str | None
    retry_in_s: float | None


class _HealthReplica(_Answer, frozen=True, kw_only=True):
    replica: str
    state: ReplicaState
    reason: str | None
    pid: int | None
    restarts: int
    retry_in_s: float | None
    resident_bytes: int
    running: int
    waiting: int
    engine: dict[str, Any] | None
    breaker: _HealthBreaker


class _HealthDeployment(_Answer, frozen=True, kw_only=True):
    model: str
    backend: str
    enabled: bool
    state: ReplicaState
    reason: str | None
    requests: int
    errors: int
    in_flight: int
    queued: int
    ttft_s: _Quantiles
    latency_s: _Quantiles
    tokens_per_second: float | None
    replicas: list[_HealthReplica]


class _HealthMemoryOfReplica(_Answer, frozen=True, kw_only=True):
    bytes: int
    device_bytes: int


class _HealthMemory(_Answer, frozen=True, kw_only=True):
    used_bytes: int
    limit_bytes: int | None
    device_used_bytes: int
    device_limit_bytes: int | None
    replicas: dict[str, _HealthMemoryOfReplica]


class Health(_Answer, frozen=True, kw_only=True):
    """How the gateway is, and why not better."""

    status: Literal["healthy", "degraded", "unhealthy"]
    reasons: list[str]
    total_requests: int
    requests_in_flight: int
    backends_available: list[str]
    memory: _HealthMemory | None
    deployments: dict[str, _HealthDeployment]


class Live(_Answer, frozen=True, kw_only=True):
    """The HTTP worker answers."""

    status: Literal["alive"]


class Ready(_Answer, frozen=True, kw_only=True):
    """Whether requests should be sent here."""

    status: Literal["ready", "not ready"]
    reasons: list[str]
