"""llama.cpp's stream events -> `Chunk`, the same for ``/completion`` and ``/v1/chat/completions``."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from decoding.tools import CallPiece

from core.api import EngineError, FinishReason, TokenLogprob
from llamacpp_backend.failures import failure

__all__ = ["Chunk", "Counts", "decode_chat", "decode_completion"]


class Counts(msgspec.Struct, frozen=True):
    """Tokens of one choice; ``cached`` ones are part of ``prompt``."""

    generated: int
    prompt: int
    cached: int


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of llama.cpp's stream.

    Attributes:
        text, reasoning, calls: what is new.
        counts: of tokens so far; None in an event that does not say.
        logprobs: of the new tokens.
        ended: why the text is complete, or None while it is not.
    """

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()
    counts: Counts | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    ended: FinishReason | None = None


class _Timings(msgspec.Struct, frozen=True):
    cache_n: int = 0
    prompt_n: int = 0
    predicted_n: int = 0


class _Logprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float | None = None
    bytes: list[int] | None = None
    top_logprobs: list[_Logprob] = []


class _Completion(msgspec.Struct, frozen=True):
    content: str = ""
    completion_probabilities: list[_Logprob] = []
    stop: bool = False
    stop_type: str = ""
    timings: _Timings | None = None
    error: dict[str, Any] | None = None


class _Function(msgspec.Struct, frozen=True):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct, frozen=True):
    index: int = 0
    function: _Function = _Function()


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] = []


class _Logprobs(msgspec.Struct, frozen=True):
    content: list[_Logprob] | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta = _Delta()
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Chat(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    timings: _Timings | None = None
    error: dict[str, Any] | None = None


_EventT = TypeVar("_EventT", _Completion, _Chat)
_completion = msgspec.json.Decoder(_Completion)
_chat = msgspec.json.Decoder(_Chat)
_ENDS: dict[str, FinishReason] = {
    "eos": "stop",
    "word": "stop",
    "limit": "length",
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
}


def decode_completion(event: bytes, top: int | None) -> Chunk:
    """Read one event of ``/completion``; ``top`` is how many likely tokens to keep, None for no logprobs.

    Raises:
        RequestError, EngineError: the event is an error.
    """
    got = _decode(_completion, event)
    return Chunk(
        text=got.content,
        logprobs=_logprobs(got.completion_probabilities, top),
        ended=_ENDS.get(got.stop_type, "stop") if got.stop else None,
        counts=_counts(got.timings),
    )


def decode_chat(event: bytes, top: int | None) -> Chunk:
    """Read one event of ``/v1/chat/completions``; as `decode_completion`.

    Raises:
        RequestError, EngineError: the event is an error.
    """
    got = _decode(_chat, event)
    choice = got.choices[0] if got.choices else _Choice()
    delta = choice.delta
    return Chunk(
        text=delta.content or "",
        reasoning=delta.reasoning_content or "",
        calls=tuple(
            CallPiece(call.index, call.function.name, call.function.arguments or "") for call in delta.tool_calls
        ),
        logprobs=_logprobs((choice.logprobs and choice.logprobs.content) or [], top),
        ended=_ENDS.get(choice.finish_reason, "stop") if choice.finish_reason else None,
        counts=_counts(got.timings),
    )


def _decode(decoder: msgspec.json.Decoder[_EventT], event: bytes) -> _EventT:
    try:
        got = decoder.decode(event)
    except msgspec.DecodeError as error:
        msg = f"llama.cpp sent an event that cannot be read: {error}"
        raise EngineError(msg) from error
    if got.error is not None:
        raise failure(event, 500)
    return got


def _counts(timings: _Timings | None) -> Counts | None:
    if timings is None:
        return None
    return Counts(timings.predicted_n, timings.cache_n + timings.prompt_n, timings.cache_n)


def _logprobs(given: list[_Logprob], top: int | None) -> tuple[TokenLogprob, ...]:
    if top is None:
        return ()
    return tuple(_logprob(token, tuple(_logprob(other) for other in token.top_logprobs[:top])) for token in given)


def _logprob(given: _Logprob, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    # null stands for minus infinity: JSON has no word for it. OpenAI writes -9999.
    logprob = -9999.0 if given.logprob is None else given.logprob
    return TokenLogprob(
        token=given.token, logprob=logprob, utf8=None if given.bytes is None else bytes(given.bytes), top=top
    )
