"""What a request leaves open."""

from __future__ import annotations

import pytest

from core.api import CompletionRequest, EmbeddingsRequest, EngineRequest, RerankRequest, Sampling, SamplingDefaults
from core.engine.defaults import with_defaults

DEFAULTS = SamplingDefaults(temperature=0.6, top_p=0.9, top_k=40, min_p=0.05)


def test_fills_only_what_is_open() -> None:
    """A value that was asked for stays, a zero too; what has no default stays None."""
    asked = Sampling(temperature=0.0, top_k=0, max_tokens=None)
    filled = with_defaults(CompletionRequest(id="r", prompts=("x",), sampling=asked), DEFAULTS)
    assert isinstance(filled, CompletionRequest)
    expected = Sampling(temperature=0.0, top_p=0.9, top_k=0, min_p=0.05, max_tokens=None)
    assert filled.sampling == expected


@pytest.mark.parametrize(
    "request_", [EmbeddingsRequest(id="r", inputs=("x",)), RerankRequest(id="r", query="q", documents=("x",))]
)
def test_what_generates_nothing_has_no_sampling(request_: EngineRequest) -> None:
    """It passes as it is."""
    assert with_defaults(request_, DEFAULTS) is request_
