"""``POST /v1/completions`` (legacy): body -> `CompletionRequest`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from core.api.requests import CompletionRequest
from core.dialects.openai.decode import decode, invalid
from core.dialects.openai.fields import COMPLETION
from core.dialects.openai.generation import GenerationBody, needs_of_sampling, sampling, wants_usage
from core.dialects.openai.parsed import Needs, Parsed, estimate_tokens, new_id
from core.dialects.openai.texts import Texts, texts
from core.errors import GatewayError
from core.settings import LimitsTable

__all__ = ["CompletionBody", "parse_completion"]

_DEFAULT_MAX_TOKENS = 16
_MAX_CHOICES = 2048


class CompletionBody(GenerationBody, kw_only=True):
    """Types and ranges of the honoured fields; `fields.COMPLETION` says them in words."""

    prompt: Texts
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


_DECODER = msgspec.json.Decoder(CompletionBody)


def parse_completion(body: bytes, limits: LimitsTable) -> Parsed:
    """Return the checked request.

    Raises:
        GatewayError: 400 naming the field at fault, or 413; nothing else, whatever the bytes.
    """
    completion = decode(body, _DECODER, COMPLETION, limits)
    request = CompletionRequest(
        id=new_id("cmpl"),
        prompts=texts(completion.prompt, "prompt", COMPLETION),
        sampling=sampling(
            completion, max_tokens=completion.max_tokens or _DEFAULT_MAX_TOKENS, logprobs=completion.logprobs
        ),
        n=completion.n or 1,
        echo=bool(completion.echo),
        suffix=completion.suffix or None,
    )
    if completion.best_of not in {None, request.n}:
        raise invalid(COMPLETION, "best_of", got=str(completion.best_of))
    if len(request.prompts) * request.n > _MAX_CHOICES:
        message = f"'prompt' times 'n' must be at most {_MAX_CHOICES} choices: split the request."
        raise GatewayError.invalid(message, param="prompt", code="invalid_value")
    return Parsed(
        name=completion.model,
        request=request,
        task="completion",
        stream=bool(completion.stream),
        include_usage=wants_usage(completion),
        needs=_needs(completion, request),
        user=completion.user,
        estimated_prompt_tokens=estimate_tokens(request.prompts),
    )


def _needs(completion: CompletionBody, request: CompletionRequest) -> Needs:
    needs = needs_of_sampling(completion)
    if completion.logprobs is not None:
        needs["logprobs"] = "logprobs"
    if request.echo:
        needs["echo"] = "echo"
    if request.suffix:
        needs["suffix"] = "suffix"
    if not all(isinstance(prompt, str) for prompt in request.prompts):
        needs["token_prompts"] = "prompt"  # noqa: S105 - a field, no password
    return needs
