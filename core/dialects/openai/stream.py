"""Events -> server-sent events, as OpenAI streams them.

This is the gateway's hottest path: what does not change is encoded once per stream, and a text event
costs one JSON string and one ``bytes`` format (bench/dialect.py measures it).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from core.api.messages import EngineEvent, Finished, ReasoningDelta, TextDelta, TokenLogprob, ToolCallDelta, Usage
from core.api.requests import ChatRequest, CompletionRequest, EmbeddingsRequest, RerankRequest
from core.dialects.openai.parsed import Parsed
from core.dialects.openai.shapes import LegacyLogprobs, chat_logprobs, encode, unfinished, usage_body
from core.errors import GatewayError

__all__ = ["KEEPALIVE", "Stream"]

KEEPALIVE = b": keep-alive\n\n"
"""A comment that clients skip; it keeps proxies from closing a silent stream."""

_DONE = b"data: [DONE]\n\n"


class Stream:
    """One streamed answer to a chat or a legacy completion. ``model`` is what its model field says."""

    def __init__(self, parsed: Parsed, model: str) -> None:
        self._writer = _writer(parsed, model)
        self._include_usage = parsed.include_usage
        self._usage = Usage()
        self._unfinished = set(range(parsed.choices))

    def chunks(self, events: Sequence[EngineEvent]) -> bytes:
        """Return the events as they go to the client; may be empty."""
        parts = []
        for event in events:
            match event:
                case Usage():
                    self._usage = event
                    continue
                case Finished():
                    self._unfinished.discard(event.choice)
            parts.append(self._writer.write(event))
        return b"".join(parts)

    def end(self) -> bytes:
        """Return what follows the last event: the usage if it was asked for, then ``[DONE]``.

        Raises:
            GatewayError: 502, a choice has no end: this stream must not end as a clean one.
        """
        if self._unfinished:
            raise unfinished(min(self._unfinished))
        return (self._writer.usage(self._usage) if self._include_usage else b"") + _DONE

    def error(self, error: GatewayError) -> bytes:
        """Return the error as the stream's last event; no ``[DONE]`` follows it."""
        return b"data: %b\n\n" % encode(error.body())


def _writer(parsed: Parsed, model: str) -> _Writer:
    match parsed.request:
        case ChatRequest():
            return _ChatWriter(parsed, model)
        case CompletionRequest(sampling=sampling):
            return _CompletionWriter(parsed, model, with_top=bool(sampling.logprobs))
        case EmbeddingsRequest() | RerankRequest():
            message = f"the answer of {parsed.task} is not streamed"
            raise TypeError(message)


class _Writer(ABC):
    """Writes chunks: a fixed head, one choice, a fixed tail."""

    def __init__(self, parsed: Parsed, model: str, object_name: str) -> None:
        fixed = {
            "id": parsed.request.id,
            "object": object_name,
            "created": parsed.created,
            "model": model,
            "system_fingerprint": None,
        }
        self._head = b'data: %b,"choices":[' % encode(fixed)[:-1]
        self._tail = b'],"usage":null}\n\n' if parsed.include_usage else b"]}\n\n"

    @abstractmethod
    def write(self, event: EngineEvent) -> bytes:
        """Return the chunks that the event makes."""

    def usage(self, usage: Usage) -> bytes:
        """Return the chunk that has no choices but the usage."""
        return b'%b],"usage":%b}\n\n' % (self._head, encode(usage_body(usage)))

    def _chunk(self, choice: int, said: bytes, logprobs: bytes = b"null", reason: bytes = b"null") -> bytes:
        return b'%b{"index":%d,%b,"logprobs":%b,"finish_reason":%b}%b' % (
            self._head,
            choice,
            said,
            logprobs,
            reason,
            self._tail,
        )


class _ChatWriter(_Writer):
    def __init__(self, parsed: Parsed, model: str) -> None:
        super().__init__(parsed, model, "chat.completion.chunk")
        self._begun: set[int] = set()

    def write(self, event: EngineEvent) -> bytes:
        match event:
            case TextDelta(choice=choice, text=text, logprobs=logprobs):
                said = self._delta(choice, b'{"content":%b}' % encode(text), _chat(logprobs))
            case ReasoningDelta(choice=choice, text=text):
                said = self._delta(choice, b'{"reasoning_content":%b}' % encode(text))
            case ToolCallDelta(choice=choice):
                said = self._delta(choice, b'{"tool_calls":[%b]}' % encode(_tool_call(event)))
            case Finished(choice=choice, reason=reason):
                said = self._chunk(choice, b'"delta":{}', reason=encode(reason))
            case _:
                return b""
        if choice in self._begun:
            return said
        self._begun.add(choice)
        return self._role(choice, calls_only=isinstance(event, ToolCallDelta)) + said

    def _role(self, choice: int, *, calls_only: bool) -> bytes:
        """The first chunk of a choice; its content is null, as OpenAI's, when a tool call comes first."""
        content = b"null" if calls_only else b'""'
        return self._chunk(choice, b'"delta":{"role":"assistant","content":%b,"refusal":null}' % content)

    def _delta(self, choice: int, delta: bytes, logprobs: bytes = b"null") -> bytes:
        return self._chunk(choice, b'"delta":%b' % delta, logprobs)


def _chat(logprobs: Sequence[TokenLogprob]) -> bytes:
    return encode(chat_logprobs(logprobs)) if logprobs else b"null"


def _tool_call(event: ToolCallDelta) -> dict[str, object]:
    if event.id is None:
        return {"index": event.index, "function": {"arguments": event.arguments}}
    return {
        "index": event.index,
        "id": event.id,
        "type": "function",
        "function": {"name": event.name, "arguments": event.arguments},
    }


class _CompletionWriter(_Writer):
    def __init__(self, parsed: Parsed, model: str, *, with_top: bool) -> None:
        super().__init__(parsed, model, "text_completion")
        self._with_top = with_top
        self._offsets: dict[int, int] = {}

    def write(self, event: EngineEvent) -> bytes:
        match event:
            case TextDelta(choice=choice, text=text, logprobs=logprobs):
                said = self._chunk(choice, b'"text":%b' % encode(text), self._legacy(choice, logprobs))
                self._offsets[choice] = self._offsets.get(choice, 0) + len(text)
                return said
            case Finished(choice=choice, reason=reason):
                return self._chunk(choice, b'"text":""', reason=encode(reason))
            case _:
                return b""

    def _legacy(self, choice: int, logprobs: Sequence[TokenLogprob]) -> bytes:
        if not logprobs:
            return b"null"
        run = (self._offsets.get(choice, 0), logprobs)
        return encode(LegacyLogprobs.of([run], with_top=self._with_top))
