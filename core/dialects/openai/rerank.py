"""``POST /v1/rerank``: body -> `RerankRequest`, scores -> body.

OpenAI has no such endpoint; this is the shape of Cohere, Jina and llama.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from core.api.messages import EngineEvent, Score, Usage
from core.api.requests import RerankRequest
from core.dialects.openai.decode import decode
from core.dialects.openai.fields import RERANK
from core.dialects.openai.generation import Count, ModelName
from core.dialects.openai.parsed import Parsed, estimate_tokens, new_id
from core.dialects.openai.shapes import unfinished
from core.settings import LimitsTable

__all__ = ["RerankBody", "parse_rerank", "ranking"]

_Text = Annotated[str, Meta(min_length=1)]


class _Document(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    text: _Text


class RerankBody(msgspec.Struct, kw_only=True):
    """Types and ranges of the honoured fields; `fields.RERANK` says them in words."""

    model: ModelName
    query: _Text
    documents: Annotated[list[_Text | _Document], Meta(min_length=1, max_length=2048)]
    top_n: Count | None = None
    return_documents: bool | None = None
    user: str | None = None


_DECODER = msgspec.json.Decoder(RerankBody)


def parse_rerank(body: bytes, limits: LimitsTable) -> Parsed:
    """Return the checked request.

    Raises:
        GatewayError: 400 naming the field at fault, or 413; nothing else, whatever the bytes.
    """
    given = decode(body, _DECODER, RERANK, limits)
    documents = tuple(one.text if isinstance(one, _Document) else one for one in given.documents)
    return Parsed(
        name=given.model,
        request=RerankRequest(id=new_id("rerank"), query=given.query, documents=documents, top_n=given.top_n),
        task="rerank",
        needs={},
        user=given.user,
        # A cross-encoder reads the query anew with each document.
        estimated_prompt_tokens=estimate_tokens((given.query,)) * len(documents) + estimate_tokens(documents),
        return_documents=bool(given.return_documents),
    )


def ranking(
    request: RerankRequest, model: str, events: Sequence[EngineEvent], usage: Usage, *, with_documents: bool
) -> dict[str, Any]:
    """Return the body: best first, equals in the order in which they were given.

    Raises:
        GatewayError: 502, a document has no score.
    """
    scores = {event.index: event.score for event in events if isinstance(event, Score)}
    for index in range(len(request.documents)):
        if index not in scores:
            raise unfinished(index)
    best_first = sorted(scores, key=lambda index: (-scores[index], index))[: request.top_n]
    results: list[dict[str, Any]] = [{"index": index, "relevance_score": scores[index]} for index in best_first]
    if with_documents:
        for result in results:
            result["document"] = {"text": request.documents[result["index"]]}
    return {
        "id": request.id,
        "object": "list",
        "model": model,
        "results": results,
        "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens},
    }
