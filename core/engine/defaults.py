"""Fills what a request leaves open from what the model's declaration says."""

from __future__ import annotations

import msgspec

from core.api.requests import EmbeddingsRequest, EngineRequest, RerankRequest
from core.api.specs import SamplingDefaults

__all__ = ["with_defaults"]


def with_defaults(request: EngineRequest, defaults: SamplingDefaults) -> EngineRequest:
    """Return the request with ``temperature``, ``top_p``, ``top_k`` and ``min_p`` as numbers."""
    if isinstance(request, EmbeddingsRequest | RerankRequest):
        return request
    asked = request.sampling
    sampling = msgspec.structs.replace(
        asked,
        temperature=defaults.temperature if asked.temperature is None else asked.temperature,
        top_p=defaults.top_p if asked.top_p is None else asked.top_p,
        top_k=defaults.top_k if asked.top_k is None else asked.top_k,
        min_p=defaults.min_p if asked.min_p is None else asked.min_p,
    )
    return msgspec.structs.replace(request, sampling=sampling)
