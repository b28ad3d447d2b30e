"""The operations of everybody: models, probes, metrics, this document."""

from __future__ import annotations

from core.dialects.openai.chat import ChatBody
from core.dialects.openai.completions import CompletionBody
from core.dialects.openai.embeddings import EmbeddingsBody
from core.dialects.openai.rerank import RerankBody
from core.http.openapi import answers
from core.http.openapi.operation import EVENT_STREAM, JSON, Answer, Operation, header, in_path

__all__ = ["PUBLIC"]

_STREAM = (
    'With "stream": true the answer is text/event-stream: events `data: {...}` without a name, comments while it is '
    "silent, and one end: `data: [DONE]`, or, when the answer broke off, an event whose data is an Error."
)
_TIMEOUT = header(
    "x-request-timeout-s", "the request's whole time in seconds; lowers limits.timeout_s", type="number", minimum=0
)
_UNHEALTHY = "nothing can be served"


def _ask(path: str, name: str, summary: str, body: type, answer: type, *, streams: bool = False) -> Operation:
    content: dict[str, type | None] = {JSON: answer}
    if streams:
        content[EVENT_STREAM] = None
    return Operation(
        method="post",
        path=path,
        name=name,
        summary=summary,
        description=_STREAM if streams else "",
        tag="models",
        parameters=(_TIMEOUT,),
        body=body,
        answers={200: Answer(description="the answer", content=content)},
    )


def _probe(path: str, name: str, summary: str, answer: type, *, may_fail: bool = True) -> tuple[Operation, ...]:
    found = {200: Answer(description="yes", content={JSON: answer})}
    if may_fail:
        found[503] = Answer(description=_UNHEALTHY, content={JSON: answer})
    return tuple(
        Operation(
            method=method,
            path=path,
            name=name if method == "get" else f"{name}_head",
            summary=summary,
            tag="operations",
            answers=found,
        )
        for method in ("get", "head")
    )


PUBLIC: tuple[Operation, ...] = (
    _ask(
        "/v1/chat/completions",
        "chat",
        "Continue a conversation",
        ChatBody,
        answers.ChatCompletion,
        streams=True,
    ),
    _ask(
        "/v1/completions",
        "completions",
        "Continue a text (legacy)",
        CompletionBody,
        answers.Completion,
        streams=True,
    ),
    _ask("/v1/embeddings", "embeddings", "Turn texts into vectors", EmbeddingsBody, answers.EmbeddingList),
    _ask("/v1/rerank", "rerank", "Rank documents by relevance to a query", RerankBody, answers.Ranking),
    Operation(
        method="get",
        path="/v1/models",
        name="list_models",
        summary="List models and aliases",
        tag="models",
        answers={200: Answer(description="all of them", content={JSON: answers.ModelList})},
    ),
    Operation(
        method="get",
        path="/v1/models/{name}",
        name="show_model",
        summary="Show a model, an alias or a deployment",
        tag="models",
        parameters=(in_path("name", "a model, an alias, or a deployment (model@backend)"),),
        answers={200: Answer(description="it", content={JSON: answers.Model})},
    ),
    *_probe("/health", "health", "How the gateway is, and why not better", answers.Health),
    *_probe("/livez", "livez", "Whether this HTTP worker answers", answers.Live, may_fail=False),
    *_probe("/readyz", "readyz", "Whether requests should be sent here", answers.Ready),
    Operation(
        method="get",
        path="/metrics",
        name="metrics",
        summary="Metrics in Prometheus' text format",
        tag="operations",
        answers={200: Answer(description="docs/metrics.md lists them", content={"text/plain": None})},
    ),
    Operation(
        method="get",
        path="/openapi.json",
        name="openapi",
        summary="This document",
        tag="operations",
        answers={200: Answer(description="OpenAPI 3.1", content={JSON: None})},
    ),
)
