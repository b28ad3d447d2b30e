"""The fields that chat and legacy completions share: sampling, streaming, and what they need of a backend."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from core.api.requests import Sampling
from core.dialects.openai.fields import CHAT
from core.dialects.openai.parsed import Needs
from core.errors import GatewayError

__all__ = [
    "MAX_INT32",
    "Count",
    "GenerationBody",
    "ModelName",
    "StreamOptions",
    "needs_of_sampling",
    "sampling",
    "wants_usage",
]

MAX_INT32 = 2**31 - 1
_MAX_INT64 = 2**63 - 1

ModelName = Annotated[str, Meta(min_length=1, max_length=256)]
Count = Annotated[int, Meta(ge=1, le=MAX_INT32)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_StopString = Annotated[str, Meta(min_length=1)]


class StreamOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``include_obfuscation`` asks OpenAI to pad chunks; nothing is padded here, so either value holds."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class GenerationBody(msgspec.Struct, kw_only=True):
    """Types and ranges of the shared fields; null always means: left out. `fields` says them in words."""

    model: ModelName
    user: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=MAX_INT32)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=-_MAX_INT64 - 1, le=_MAX_INT64)] | None = None
    stop: _StopString | Annotated[list[_StopString], Meta(max_length=4)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    logit_bias: dict[Annotated[int, Meta(ge=0, le=MAX_INT32)], Annotated[float, Meta(ge=-100, le=100)]] | None = None


def wants_usage(body: GenerationBody) -> bool:
    """Whether the stream is to end with a usage chunk.

    Raises:
        GatewayError: stream options without a stream.
    """
    if body.stream_options is None:
        return False
    if not body.stream:
        message = f"'stream_options' must be {CHAT.honoured['stream_options']}."
        raise GatewayError.invalid(message, param="stream_options", code="invalid_value")
    return bool(body.stream_options.include_usage)


def sampling(body: GenerationBody, *, max_tokens: int | None, logprobs: int | None) -> Sampling:
    """Return how tokens are to be chosen; what differs between the endpoints is given by name."""
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return Sampling(
        max_tokens=max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=None if body.top_k is None else max(body.top_k, 0),
        min_p=body.min_p,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        logit_bias=body.logit_bias or {},
        seed=body.seed,
        stop=stop,
        logprobs=logprobs,
    )


def needs_of_sampling(body: GenerationBody) -> Needs:
    """Return the capabilities that the shared fields really ask for, each with its field.

    A value that switches a feature off needs nothing.
    """
    needs: Needs = {}
    if body.n is not None and body.n > 1:
        needs["n"] = "n"
    if body.top_k is not None and body.top_k > 0:
        needs["top_k"] = "top_k"
    if body.min_p:
        needs["min_p"] = "min_p"
    if body.seed is not None:
        needs["seed"] = "seed"
    if body.stop:
        needs["stop"] = "stop"
    if body.presence_penalty:
        needs["penalties"] = "presence_penalty"
    elif body.frequency_penalty:
        needs["penalties"] = "frequency_penalty"
    if body.repetition_penalty not in {None, 1.0}:
        needs["repetition_penalty"] = "repetition_penalty"
    if body.logit_bias:
        needs["logit_bias"] = "logit_bias"
    return needs
