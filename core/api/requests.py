"""What is asked of an engine: typed, immutable, msgpack-able structs (see `core.api.messages`)."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = [
    "ChatRequest",
    "CompletionRequest",
    "Content",
    "Continued",
    "EmbeddingsRequest",
    "EngineRequest",
    "FunctionCall",
    "Message",
    "Positional",
    "RerankRequest",
    "ResponseFormat",
    "Role",
    "Sampling",
    "Task",
    "Tool",
    "ToolCall",
    "ToolChoice",
]

Task = Literal["chat", "completion", "embeddings", "rerank"]
Role = Literal["system", "developer", "user", "assistant", "tool"]


class Positional(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """Base of all messages: positional on the wire, keyword-only in code."""


class Sampling(Positional, frozen=True, kw_only=True):
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


class FunctionCall(Positional, frozen=True, kw_only=True):
    """A call of one function. ``arguments`` is JSON text, as OpenAI writes it."""

    name: str
    arguments: str


class ToolCall(Positional, frozen=True, kw_only=True):
    """A tool call that an earlier assistant message made."""

    id: str
    function: FunctionCall


class Content(Positional, frozen=True, kw_only=True):
    """One part of a message. ``kind`` is ``text`` today; other kinds are refused by the dialect."""

    kind: Literal["text"] = "text"
    text: str = ""


class Message(Positional, frozen=True, kw_only=True):
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


class Tool(Positional, frozen=True, kw_only=True):
    """A function the model may call. ``parameters`` is a JSON Schema of type object, as JSON text."""

    name: str
    description: str = ""
    parameters: str = '{"type":"object","properties":{}}'
    strict: bool = False


class ToolChoice(Positional, frozen=True, kw_only=True):
    """Whether tools may or must be called; ``name`` is set exactly when ``mode`` is ``named``."""

    mode: Literal["none", "auto", "required", "named"] = "auto"
    name: str | None = None


class ResponseFormat(Positional, frozen=True, kw_only=True):
    """The form the text must have; ``schema`` (JSON text) is set exactly for ``json_schema``."""

    kind: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    schema: str | None = None
    strict: bool = False


class Continued(Positional, frozen=True, kw_only=True):
    """What another replica has already said in answer to this very request, before it died.

    An engine whose backend has the capability ``continuation`` takes ``token_ids`` as generated already, puts them
    through all that it does with tokens it generates itself (stops, grammar, reasoning, penalties, counting), but
    yields only what goes beyond ``text`` and ``reasoning``; `Usage` is that of the whole answer. It may refuse with
    `RequestError` (code ``cannot_continue``) before its first event. docs/continuation.md has more.

    Attributes:
        token_ids: the generated tokens that were told, in order; the last ones may be missing, or all where the
            backend tells none, so that ``text`` may reach further than they do.
        text: the text that the client has.
        reasoning: the reasoning that the client has.
    """

    token_ids: tuple[int, ...]
    text: str = ""
    reasoning: str = ""


class ChatRequest(Positional, frozen=True, kw_only=True, tag="chat"):
    """Continue a conversation. ``n`` choices are drawn, each ending in one `Finished`."""

    id: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    n: int = 1
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    response_format: ResponseFormat = ResponseFormat()
    continued: Continued | None = None


class CompletionRequest(Positional, frozen=True, kw_only=True, tag="completion"):
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
    continued: Continued | None = None


class EmbeddingsRequest(Positional, frozen=True, kw_only=True, tag="embeddings"):
    """Turn each input into one vector.

    Attributes:
        inputs: each a text, or a sequence of token ids of this very model.
        dimensions: shorten the vectors to this many values and normalise again; None: as the model gives them.
    """

    id: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None


class RerankRequest(Positional, frozen=True, kw_only=True, tag="rerank"):
    """Say of each document how relevant it is to the query.

    Attributes:
        top_n: how many of the best the client will be shown; the engine scores every document all the same.
    """

    id: str
    query: str
    documents: tuple[str, ...]
    top_n: int | None = None


EngineRequest = ChatRequest | CompletionRequest | EmbeddingsRequest | RerankRequest
