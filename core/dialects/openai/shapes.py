"""What whole and streamed answers have in common: logprobs, usage, and the error of a missing end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from core.api.messages import TokenLogprob, Usage
from core.errors import GatewayError

__all__ = ["ChatLogprobs", "LegacyLogprobs", "UsageBody", "chat_logprobs", "encode", "unfinished", "usage_body"]

_encoder = msgspec.json.Encoder()
encode = _encoder.encode
"""Value -> JSON bytes."""

_VERY_UNLIKELY = -9999.0
"""OpenAI's number for a token whose probability is too small to tell; JSON has no infinity."""


class _Shape(msgspec.Struct, kw_only=True):
    """Base of the structs that are written as JSON, fields in OpenAI's order."""


class _TopLogprob(_Shape, kw_only=True):
    token: str
    logprob: float
    bytes: list[int] | None


class _ChatLogprob(_TopLogprob, kw_only=True):
    top_logprobs: list[_TopLogprob]


class ChatLogprobs(_Shape, kw_only=True):
    """Of a chat choice, or of one of its chunks."""

    content: list[_ChatLogprob]
    refusal: None = None


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    """Return the tokens as chat writes them."""
    content = [
        _ChatLogprob(
            token=token.token,
            logprob=_finite(token.logprob),
            bytes=_bytes(token),
            top_logprobs=[
                _TopLogprob(token=other.token, logprob=_finite(other.logprob), bytes=_bytes(other))
                for other in token.top
            ],
        )
        for token in tokens
    ]
    return ChatLogprobs(content=content)


def _bytes(token: TokenLogprob) -> list[int]:
    return list(token.token.encode() if token.utf8 is None else token.utf8)


def _finite(logprob: float) -> float:
    return max(_VERY_UNLIKELY, logprob)


class LegacyLogprobs(_Shape, kw_only=True):
    """Of a legacy completion's choice, or of one of its chunks: parallel arrays.

    ``text_offset`` counts characters from the start of the choice's text.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]

    @classmethod
    def of(cls, runs: Iterable[tuple[int, Sequence[TokenLogprob]]], *, with_top: bool) -> LegacyLogprobs:
        """Return runs of tokens, each with the offset where it begins, as legacy completions write them.

        A NaN (the first token of an echoed prompt has no probability) becomes null.
        """
        logprobs = cls(tokens=[], token_logprobs=[], top_logprobs=[] if with_top else None, text_offset=[])
        for offset, tokens in runs:
            for token in tokens:
                logprobs.tokens.append(token.token)
                logprobs.token_logprobs.append(None if math.isnan(token.logprob) else _finite(token.logprob))
                logprobs.text_offset.append(offset)
                if logprobs.top_logprobs is not None:
                    logprobs.top_logprobs.append(_top(token))
                offset += len(token.token)  # noqa: PLW2901 - it walks along the run
        return logprobs


def _top(token: TokenLogprob) -> dict[str, float] | None:
    """The most likely tokens and always the chosen one, which makes up to k + 1."""
    if math.isnan(token.logprob):
        return None
    return {other.token: _finite(other.logprob) for other in (*token.top, token)}


class _PromptDetails(_Shape, kw_only=True):
    cached_tokens: int


class _CompletionDetails(_Shape, kw_only=True):
    reasoning_tokens: int


class UsageBody(_Shape, kw_only=True):
    """What a chat or a legacy completion cost."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _PromptDetails
    completion_tokens_details: _CompletionDetails


def usage_body(usage: Usage) -> UsageBody:
    """Return the usage as chat and legacy completions write it."""
    return UsageBody(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=_PromptDetails(cached_tokens=usage.cached_tokens),
        completion_tokens_details=_CompletionDetails(reasoning_tokens=usage.reasoning_tokens),
    )


def unfinished(index: int) -> GatewayError:
    """Return the error of an engine that left choice or input number ``index`` without its end."""
    return GatewayError.engine_failed(f"The engine ended its answer without finishing number {index} of it.")
