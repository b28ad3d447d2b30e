"""What is asked of an engine and what it answers: typed, immutable, msgpack-able structs.

Every struct is ``array_like``: new fields go to the end and need a default, and the wire's
``PROTOCOL`` number (`core.wire.frames`) is raised only when an old peer could misread the new one.

All counts of tokens are in the model's own tokens; all indices start at 0.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = [
    "ChatRequest",
    "CompletionRequest",
    "Content",
    "Embedding",
    "EmbeddingsRequest",
    "EngineEvent",
    "EngineInfo",
    "EngineRequest",
    "FinishReason",
    "Finished",
    "FunctionCall",
    "Load",
    "Message",
    "ReasoningDelta",
    "RerankRequest",
    "ResponseFormat",
    "Role",
    "Sampling",
    "Score",
    "Task",
    "TextDelta",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolChoice",
    "Usage",
]

Task = Literal["chat", "completion", "embeddings", "rerank"]
Role = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class _Message(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """Base of the structs below: positional on the wire, keyword-only in code."""


# --- requests -----------------------------------------------------------------------------------


class Sampling(_Message, frozen=True, kw_only=True):
    """How the next token is chosen. None means: the model's default, then OpenAI's.

    The host of a replica fills every None that has a default before the engine sees the request
    (`core.engine.host`), so an engine reads ``temperature``, ``top_p``, ``top_k`` and ``min_p`` as numbers.

    Attributes:
        max_tokens: most tokens to generate per choice; None: until the context is full.
        temperature: 0 is greedy.
        top_p: nucleus mass in (0, 1]; 1 switches it off.
        top_k: 0 switches it off.
        min_p: in [0, 1]; 0 switches it off.
        presence_penalty, frequency_penalty: in [-2, 2]; 0 switches them off.
        repetition_penalty: above 0; 1 switches it off.
        logit_bias: token id -> bias added to its logit, in [-100, 100].
        seed: same seed, same request, same replica: same text. None: random. Choice ``i`` uses ``seed + i``.
        stop: strings that end the text; they are not part of it.
        logprobs: None: none wanted; 0: of the chosen tokens; k: also of the k most likely ones.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None


class FunctionCall(_Message, frozen=True, kw_only=True):
    """A call of one function. ``arguments`` is JSON text, as OpenAI writes it."""

    name: str
    arguments: str


class ToolCall(_Message, frozen=True, kw_only=True):
    """A tool call that an earlier assistant message made."""

    id: str
    function: FunctionCall


class Content(_Message, frozen=True, kw_only=True):
    """One part of a message. ``kind`` is ``text`` today; other kinds are refused by the dialect."""

    kind: Literal["text"] = "text"
    text: str = ""


class Message(_Message, frozen=True, kw_only=True):
    """One message of a conversation."""

    role: Role
    content: tuple[Content, ...] = ()
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str | None = None

    @property
    def text(self) -> str:
        """All text parts joined, as templates that know only strings want them."""
        return "".join(part.text for part in self.content)


class Tool(_Message, frozen=True, kw_only=True):
    """A function the model may call. ``parameters`` is a JSON Schema of type object, as JSON text."""

    name: str
    description: str = ""
    parameters: str = '{"type":"object","properties":{}}'
    strict: bool = False


class ToolChoice(_Message, frozen=True, kw_only=True):
    """Whether tools may or must be called; ``name`` is set exactly when ``mode`` is ``named``."""

    mode: Literal["none", "auto", "required", "named"] = "auto"
    name: str | None = None


class ResponseFormat(_Message, frozen=True, kw_only=True):
    """The form the text must have; ``schema`` (JSON text) is set exactly for ``json_schema``."""

    kind: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    schema: str | None = None
    strict: bool = False


class ChatRequest(_Message, frozen=True, kw_only=True, tag="chat"):
    """Continue a conversation. ``n`` choices are drawn, each ending in one `Finished`."""

    id: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    n: int = 1
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    response_format: ResponseFormat = ResponseFormat()


class CompletionRequest(_Message, frozen=True, kw_only=True, tag="completion"):
    """Continue raw text. Choice ``p * n + i`` is draw ``i`` of prompt ``p``.

    Attributes:
        prompts: each a text, or a sequence of token ids of this very model.
        echo: the text of each choice begins with its prompt.
    """

    id: str
    prompts: tuple[str | tuple[int, ...], ...]
    sampling: Sampling = Sampling()
    n: int = 1
    echo: bool = False
    suffix: str | None = None


class EmbeddingsRequest(_Message, frozen=True, kw_only=True, tag="embeddings"):
    """Turn each input into one vector.

    Attributes:
        inputs: each a text, or a sequence of token ids of this very model.
        dimensions: shorten the vectors to this many values and normalise again; None: as the model gives them.
    """

    id: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None


class RerankRequest(_Message, frozen=True, kw_only=True, tag="rerank"):
    """Say of each document how relevant it is to the query.

    Attributes:
        top_n: how many of the best the client will be shown; the engine scores every document all the same.
    """

    id: str
    query: str
    documents: tuple[str, ...]
    top_n: int | None = None


EngineRequest = ChatRequest | CompletionRequest | EmbeddingsRequest | RerankRequest


# --- events -------------------------------------------------------------------------------------


class TokenLogprob(_Message, frozen=True, kw_only=True):
    """A token with its natural-log probability; ``top`` holds the most likely ones, best first."""

    token: str
    logprob: float
    utf8: bytes | None = None
    top: tuple[TokenLogprob, ...] = ()


class TextDelta(_Message, frozen=True, kw_only=True, tag="text"):
    """More text of one choice. Never half a UTF-8 sequence, never part of a stop string.

    ``tokens`` is how many generated tokens this delta stands for (0 for an echoed prompt).
    """

    choice: int = 0
    text: str = ""
    tokens: int = 1
    logprobs: tuple[TokenLogprob, ...] = ()


class ReasoningDelta(_Message, frozen=True, kw_only=True, tag="reasoning"):
    """More of the model's reasoning (thinking) text of one choice."""

    choice: int = 0
    text: str = ""
    tokens: int = 1
    logprobs: tuple[TokenLogprob, ...] = ()


class ToolCallDelta(_Message, frozen=True, kw_only=True, tag="tool_call"):
    """More of tool call number ``index`` of one choice.

    The first delta of a call has ``id`` and ``name``; ``arguments`` of all deltas joined is JSON text.
    """

    choice: int = 0
    index: int = 0
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    tokens: int = 1


class Finished(_Message, frozen=True, kw_only=True, tag="finished"):
    """One choice is complete: exactly one per choice."""

    choice: int = 0
    reason: FinishReason = "stop"


class Embedding(_Message, frozen=True, kw_only=True, tag="embedding"):
    """The vector of input ``index``: little-endian float32 values."""

    index: int
    vector: bytes


class Score(_Message, frozen=True, kw_only=True, tag="score"):
    """How relevant document ``index`` is to the query: finite, higher is more relevant.

    Scores of one query on one model are comparable. A cross-encoder with one logit gives its sigmoid, 0 to 1.
    """

    index: int
    score: float


class Usage(_Message, frozen=True, kw_only=True, tag="usage"):
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


class Load(_Message, frozen=True, kw_only=True):
    """How busy a replica is.

    Attributes:
        running: requests that the engine works on.
        waiting: requests admitted but not begun.
        waiting_prompt_tokens: estimate of the prompt tokens of the waiting ones.
        kv_used: share of the KV cache in use, 0 to 1; 0 when unknown.
        steps: a counter of engine steps; it must move while ``running`` is above 0.
    """

    running: int = 0
    waiting: int = 0
    waiting_prompt_tokens: int = 0
    kv_used: float = 0.0
    steps: int = 0


class EngineInfo(_Message, frozen=True, kw_only=True):
    """What an engine became once its model was loaded.

    Attributes:
        device_requested: as configured (``auto``, ``cuda``).
        device: the device in effect (``cpu``, ``cuda:0``).
        device_reason: why the two differ, or an empty string.
        context_tokens: most tokens of prompt and answer together, per request.
        slots: requests that the engine can work on at once; more wait in the replica's queue.
        memory_bytes: weights and caches of this replica, on host and device; 0 when unknown.
        details: anything else worth showing an operator (layers offloaded, threads, runtime version).
    """

    device_requested: str = "auto"
    device: str = "cpu"
    device_reason: str = ""
    context_tokens: int = 0
    slots: int = 1
    memory_bytes: int = 0
    details: dict[str, str | int | float | bool] = {}
