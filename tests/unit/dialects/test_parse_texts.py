"""Good bodies of legacy completions, embeddings and rankings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.api.requests import CompletionRequest, EmbeddingsRequest, RerankRequest, Sampling
from core.dialects import openai
from core.settings import LimitsTable

LIMITS = LimitsTable()


def parsed_completion(**fields: Any) -> openai.Parsed:
    return openai.parse_completion(json.dumps({"model": "gpt-4", "prompt": "Once", **fields}).encode(), LIMITS)


def completion(**fields: Any) -> CompletionRequest:
    request = parsed_completion(**fields).request
    assert isinstance(request, CompletionRequest)
    return request


def parsed_embeddings(**fields: Any) -> openai.Parsed:
    return openai.parse_embeddings(json.dumps({"model": "gpt-4", "input": "Once", **fields}).encode(), LIMITS)


# --- legacy completions -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
)
def test_prompts(prompt: Any, prompts: tuple[Any, ...]) -> None:
    assert completion(prompt=prompt).prompts == prompts
    assert parsed_completion(prompt=prompt).choices == len(prompts)


def test_completion_fields() -> None:
    request = completion(echo=True, suffix="end", n=2, best_of=2, logprobs=5, max_tokens=3, temperature=0.5)
    assert (request.echo, request.suffix, request.n) == (True, "end", 2)
    assert request.sampling == Sampling(max_tokens=3, temperature=0.5, logprobs=5)
    assert parsed_completion(prompt=["a", "b"], n=2).choices == 4


def test_an_empty_suffix_is_none() -> None:
    assert completion(suffix="").suffix is None


def test_completions_end_after_16_tokens_unless_told_otherwise() -> None:
    assert completion().sampling.max_tokens == 16


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({"suffix": "", "echo": False, "best_of": 1}, {}),
        ({"echo": True}, {"echo": "echo"}),
        ({"suffix": "x"}, {"suffix": "suffix"}),
        ({"logprobs": 0}, {"logprobs": "logprobs"}),
        ({"prompt": [1]}, {"token_prompts": "prompt"}),
        ({"stop": "x", "n": 2}, {"stop": "stop", "n": "n"}),
    ],
)
def test_completion_needs(fields: dict[str, Any], needs: dict[str, str]) -> None:
    assert parsed_completion(**fields).needs == needs


# --- embeddings ---------------------------------------------------------------------------------


def test_embeddings() -> None:
    parsed = parsed_embeddings(input=["a", "b"], encoding_format="base64", dimensions=64, user="u")
    assert parsed.request == EmbeddingsRequest(id=parsed.request.id, inputs=("a", "b"), dimensions=64)
    assert (parsed.task, parsed.encoding_format, parsed.user, parsed.choices) == ("embeddings", "base64", "u", 2)
    assert parsed.needs == {"dimensions": "dimensions"}
    assert parsed_embeddings().encoding_format == "float"


def test_token_ids_count_as_they_are() -> None:
    parsed = parsed_embeddings(input=[[1, 2, 3], [4]])
    assert parsed.needs == {"token_prompts": "input"}
    assert parsed.estimated_prompt_tokens == 4


# --- rerank -------------------------------------------------------------------------------------


def test_rerank(dialect: Any) -> None:
    """Documents are texts, however they are written; the query counts with each of them."""
    parsed = dialect.rerank(query="12345678", documents=["abcd", {"text": "efgh"}], top_n=1, user="u")
    assert parsed.request == RerankRequest(id=parsed.request.id, query="12345678", documents=("abcd", "efgh"), top_n=1)
    assert (parsed.task, parsed.choices, parsed.needs, parsed.user) == ("rerank", 2, {}, "u")
    assert parsed.estimated_prompt_tokens == 6
    assert not parsed.return_documents
    assert dialect.rerank(return_documents=True).return_documents
