"""The OpenAI dialect: JSON bodies -> requests, events -> JSON bodies and SSE.

In: `parse_chat`, `parse_completion`, `parse_embeddings`, `parse_rerank` turn bytes into `Parsed` or raise
`GatewayError`.
Out: `reply` (one JSON body), `Stream` (SSE), `model_entry` (a row of ``/v1/models``).
docs/openai.md tells users which fields are honoured, accepted and refused; `fields` decides it.
"""

from __future__ import annotations

from core.dialects.openai.chat import parse_chat
from core.dialects.openai.completions import parse_completion
from core.dialects.openai.embeddings import parse_embeddings
from core.dialects.openai.parsed import Parsed
from core.dialects.openai.reply import model_entry, reply
from core.dialects.openai.rerank import parse_rerank
from core.dialects.openai.stream import KEEPALIVE, Stream

__all__ = [
    "KEEPALIVE",
    "Parsed",
    "Stream",
    "model_entry",
    "parse_chat",
    "parse_completion",
    "parse_embeddings",
    "parse_rerank",
    "reply",
]
