"""The error for a prompt that does not fit."""

from __future__ import annotations

from core.api import RequestError

__all__ = ["context_exceeded"]


def context_exceeded(prompt_tokens: int, context_tokens: int, *, param: str | None = None) -> RequestError:
    """Return it, in OpenAI's words."""
    message = (
        f"This model's maximum context length is {context_tokens} tokens, "
        f"but the request has {prompt_tokens} tokens of prompt. Please shorten it."
    )
    return RequestError(message, param=param, code="context_length_exceeded")
