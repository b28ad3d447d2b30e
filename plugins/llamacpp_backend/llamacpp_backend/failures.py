"""llama.cpp's error bodies -> the contract's exceptions."""

from __future__ import annotations

import msgspec
from decoding.errors import context_exceeded

from core.api import EngineError, RequestError

__all__ = ["failure"]

_JINJA = "Jinja Exception: "


class _Error(msgspec.Struct, frozen=True):
    message: str = ""
    type: str = ""
    n_prompt_tokens: int = 0
    n_ctx: int = 0


class _Body(msgspec.Struct, frozen=True):
    error: _Error


def failure(body: bytes, status: int) -> RequestError | EngineError:
    """Return what to raise for an answer that is not a success; the engine adds the ``param``."""
    try:
        error = msgspec.json.decode(body, type=_Body).error
    except msgspec.DecodeError:
        error = _Error(message=body[:200].decode(errors="replace"))
    if error.type == "exceed_context_size_error":
        return context_exceeded(error.n_prompt_tokens, error.n_ctx)
    if error.type == "invalid_request_error" or status == 400:  # noqa: PLR2004
        _, jinja, said = error.message.rpartition(_JINJA)
        if jinja:
            return RequestError(f"The model's chat template refuses these messages: {said}")
        return RequestError(f"llama.cpp refuses the request: {error.message}")
    return EngineError(f"llama.cpp failed ({status}): {error.message}")
