"""``POST /v1/rerank``, over HTTP and through a replica."""

from __future__ import annotations

import httpx

QUERY = "big cats"
DOCUMENTS = ["small dogs", "Big cats!", {"text": "big dogs"}]


def rerank(gateway, **fields) -> httpx.Response:
    body = {"model": "gpt-4", "query": QUERY, "documents": DOCUMENTS, **fields}
    return httpx.post(f"{gateway.url}/v1/rerank", json=body)


def test_the_best_comes_first(gateway) -> None:
    response = rerank(gateway)
    body = response.json()

    assert response.status_code == 200
    assert response.headers["x-gateway-model"] == "echo"
    assert response.headers["x-request-id"] == body["id"]
    assert (body["object"], body["model"]) == ("list", "gpt-4")
    assert [result["index"] for result in body["results"]] == [1, 2, 0]
    assert [result["relevance_score"] for result in body["results"]] == [1.0, 1 / 3, 0.0]
    assert body["usage"] == {"prompt_tokens": 12, "total_tokens": 12}


def test_only_the_best_with_their_texts(gateway) -> None:
    results = rerank(gateway, top_n=1, return_documents=True).json()["results"]

    assert results == [{"index": 1, "relevance_score": 1.0, "document": {"text": "Big cats!"}}]


def test_a_wrong_field_is_named(gateway) -> None:
    response = rerank(gateway, documents=["a", {"texts": "b"}])
    error = response.json()["error"]

    assert (response.status_code, error["code"], error["param"]) == (400, "unknown_parameter", "documents[1].texts")
    assert "did you mean 'text'?" in error["message"]


def test_a_document_too_long_is_the_clients_fault(gateway) -> None:
    response = rerank(gateway, documents=["short", "x " * 40_000])
    error = response.json()["error"]

    assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "documents")


def test_a_model_that_cannot_says_so(gateway) -> None:
    response = rerank(gateway, model="slow")
    error = response.json()["error"]

    assert (response.status_code, error["code"], error["param"]) == (400, "unsupported_task", "model")
    assert "rerank" in error["message"]


def test_who_can_is_listed(gateway) -> None:
    tasks = {model["id"]: model["tasks"] for model in httpx.get(f"{gateway.url}/v1/models").json()["data"]}

    assert "rerank" in tasks["echo"]
    assert "rerank" not in tasks["slow"]


def test_it_is_counted(gateway) -> None:
    rerank(gateway)
    page = httpx.get(f"{gateway.url}/metrics").text

    assert 'gateway_requests_total{status="200",task="rerank"}' in page
    assert 'gateway_request_success_total{deployment="echo@echo",reason="rerank"}' in page
