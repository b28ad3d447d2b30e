"""What clients are told when something fails."""

from __future__ import annotations

from core.api import RequestError

__all__ = ["context_exceeded", "said"]


def context_exceeded(prompt_tokens: int, context_tokens: int, *, param: str | None = None) -> RequestError:
    """Return the error for a prompt that does not fit, in OpenAI's words."""
    message = (
        f"This model's maximum context length is {context_tokens} tokens, "
        f"but the request has {prompt_tokens} tokens of prompt. Please shorten it."
    )
    return RequestError(message, param=param, code="context_length_exceeded")


def said(error: Exception) -> str:
    """Return an error's first line, with its kind."""
    first, _, _ = str(error).strip().partition("\n")
    return f"{type(error).__name__}: {first[:300]}" if first else type(error).__name__
