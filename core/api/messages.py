"""What an engine answers and what it says of itself: typed, immutable, msgpack-able structs.

Every struct is ``array_like``: new fields go to the end and need a default, and the wire's
``PROTOCOL`` number (`core.wire.frames`) is raised only when an old peer could misread the new one.

All counts of tokens are in the model's own tokens; all indices start at 0.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from core.api.requests import Positional

__all__ = [
    "Embedding",
    "EngineEvent",
    "EngineInfo",
    "FinishReason",
    "Finished",
    "Load",
    "ReasoningDelta",
    "Score",
    "TextDelta",
    "TokenLogprob",
    "ToolCallDelta",
    "Usage",
]

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


# --- events -------------------------------------------------------------------------------------


class TokenLogprob(Positional, frozen=True, kw_only=True):
    """A token with its natural-log probability; ``top`` holds the most likely ones, best first."""

    token: str
    logprob: float
    utf8: bytes | None = None
    top: tuple[TokenLogprob, ...] = ()


class TextDelta(Positional, frozen=True, kw_only=True, tag="text"):
    """More text of one choice. Never half a UTF-8 sequence, never part of a stop string.

    ``tokens`` is how many generated tokens this delta stands for (0 for an echoed prompt). ``token_ids`` are the
    generated tokens that became known with this delta, in order, for `Continued`; empty where a backend cannot
    tell them. Those of all deltas of a choice joined, reasoning included, begin its generated tokens.
    """

    choice: int = 0
    text: str = ""
    tokens: int = 1
    logprobs: tuple[TokenLogprob, ...] = ()
    token_ids: tuple[int, ...] = ()


class ReasoningDelta(Positional, frozen=True, kw_only=True, tag="reasoning"):
    """More of the model's reasoning (thinking) text of one choice; ``token_ids`` as in `TextDelta`."""

    choice: int = 0
    text: str = ""
    tokens: int = 1
    logprobs: tuple[TokenLogprob, ...] = ()
    token_ids: tuple[int, ...] = ()


class ToolCallDelta(Positional, frozen=True, kw_only=True, tag="tool_call"):
    """More of tool call number ``index`` of one choice.

    The first delta of a call has ``id`` and ``name``; ``arguments`` of all deltas joined is JSON text.
    """

    choice: int = 0
    index: int = 0
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    tokens: int = 1


class Finished(Positional, frozen=True, kw_only=True, tag="finished"):
    """One choice is complete: exactly one per choice."""

    choice: int = 0
    reason: FinishReason = "stop"


class Embedding(Positional, frozen=True, kw_only=True, tag="embedding"):
    """The vector of input ``index``: little-endian float32 values."""

    index: int
    vector: bytes


class Score(Positional, frozen=True, kw_only=True, tag="score"):
    """How relevant document ``index`` is to the query: finite, higher is more relevant.

    Scores of one query on one model are comparable. A cross-encoder with one logit gives its sigmoid, 0 to 1.
    """

    index: int
    score: float


class Usage(Positional, frozen=True, kw_only=True, tag="usage"):
    """What the request cost, summed over its choices; the last event of every stream.

    Attributes:
        prompt_tokens: of each prompt once, however many choices were drawn from it; of a ranking, of every pair
            of the query and a document.
        cached_tokens: of those, how many were found in the prefix cache.
        reasoning_tokens: of ``completion_tokens``, how many were reasoning.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


EngineEvent = TextDelta | ReasoningDelta | ToolCallDelta | Finished | Embedding | Score | Usage


# --- what an engine says of itself --------------------------------------------------------------


class Load(Positional, frozen=True, kw_only=True):
    """How busy a replica is.

    Attributes:
        running: requests that the engine works on.
        waiting: requests admitted but not begun.
        waiting_prompt_tokens: estimate of the prompt tokens of the waiting ones.
        kv_used: share of the KV cache in use, 0 to 1; 0 when unknown.
        steps: a counter of engine steps; it must move while ``running`` is above 0.
        outstanding_prompt_tokens: estimate of the prompt tokens yet to be computed, of all admitted requests.
        outstanding_output_tokens: estimate of the tokens yet to be generated, of all admitted requests.
    """

    running: int = 0
    waiting: int = 0
    waiting_prompt_tokens: int = 0
    kv_used: float = 0.0
    steps: int = 0
    outstanding_prompt_tokens: int = 0
    outstanding_output_tokens: int = 0


class EngineInfo(Positional, frozen=True, kw_only=True):
    """What an engine became once its model was loaded.

    Attributes:
        device_requested: as configured (``auto``, ``cuda``).
        device: the device in effect (``cpu``, ``cuda:0``).
        device_reason: why the two differ, or an empty string.
        context_tokens: most tokens of prompt and answer together, per request.
        slots: requests that the engine can work on at once; more wait in the replica's queue.
        memory_bytes: weights and caches of this replica, on host and device; 0 when unknown.
        device_memory_bytes: what this replica holds on a device other than the host, measured after the load; 0 when
            unknown or nothing.
        details: anything else worth showing an operator (layers offloaded, threads, runtime version).
    """

    device_requested: str = "auto"
    device: str = "cpu"
    device_reason: str = ""
    context_tokens: int = 0
    slots: int = 1
    memory_bytes: int = 0
    details: dict[str, str | int | float | bool] = msgspec.field(default_factory=dict)
    device_memory_bytes: int = 0
