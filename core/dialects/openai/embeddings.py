"""``POST /v1/embeddings``: body -> `EmbeddingsRequest`."""

from __future__ import annotations

from typing import Literal

import msgspec

from core.api.requests import EmbeddingsRequest
from core.dialects.openai.decode import decode, invalid
from core.dialects.openai.fields import EMBEDDINGS
from core.dialects.openai.generation import Count, ModelName
from core.dialects.openai.parsed import Needs, Parsed, estimate_tokens, new_id
from core.dialects.openai.texts import Texts, texts
from core.settings import LimitsTable

__all__ = ["EmbeddingsBody", "parse_embeddings"]

_MAX_INPUTS = 2048


class EmbeddingsBody(msgspec.Struct, kw_only=True):
    """Types and ranges of the honoured fields; `fields.EMBEDDINGS` says them in words."""

    model: ModelName
    input: Texts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None
    user: str | None = None


_DECODER = msgspec.json.Decoder(EmbeddingsBody)


def parse_embeddings(body: bytes, limits: LimitsTable) -> Parsed:
    """Return the checked request.

    Raises:
        GatewayError: 400 naming the field at fault, or 413; nothing else, whatever the bytes.
    """
    given = decode(body, _DECODER, EMBEDDINGS, limits)
    inputs = texts(given.input, "input", EMBEDDINGS)
    if len(inputs) > _MAX_INPUTS:
        raise invalid(EMBEDDINGS, "input")
    needs: Needs = {}
    if given.dimensions is not None:
        needs["dimensions"] = "dimensions"
    if not isinstance(inputs[0], str):
        needs["token_prompts"] = "input"  # noqa: S105 - a field, no password
    return Parsed(
        name=given.model,
        request=EmbeddingsRequest(id=new_id("embd"), inputs=inputs, dimensions=given.dimensions),
        task="embeddings",
        needs=needs,
        user=given.user,
        estimated_prompt_tokens=estimate_tokens(inputs),
        encoding_format=given.encoding_format or "float",
    )
