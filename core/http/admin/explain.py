"""``POST /admin/v1/route/explain``: where a request would go and why, without sending it anywhere."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from sanic import HTTPResponse, Request

from core.api.protocols import RouteRequest
from core.api.requests import Task
from core.dialects import openai
from core.errors import GatewayError
from core.gateway import explaining
from core.http.admin.views import answer
from core.http.gateway import gateway_of
from core.settings import LimitsTable

__all__ = ["explain"]

_PARSERS: dict[Task, Callable[[bytes, LimitsTable], openai.Parsed]] = {
    "chat": openai.parse_chat,
    "completion": openai.parse_completion,
    "embeddings": openai.parse_embeddings,
    "rerank": openai.parse_rerank,
}
# The field that only requests of this task have.
_TOLD_BY: dict[str, Task] = {
    "messages": "chat",
    "prompt": "completion",
    "input": "embeddings",
    "documents": "rerank",
}


async def explain(request: Request) -> HTTPResponse:
    """Explain the request body of any endpoint; ``?task=`` says which one, where its fields do not."""
    gateway = gateway_of(request)
    task = _task(request)
    parsed = _PARSERS[task](request.body, gateway.settings.limits)
    table = gateway.table
    route = table.routes.get(parsed.name)
    if route is None:
        raise GatewayError.model_not_found(parsed.name)
    headers = request.headers
    if gateway.settings.admin.key is not None:  # that key is no business of a policy
        headers = headers.copy()
        headers.popall("authorization", None)
    asked = RouteRequest(
        name=parsed.name,
        task=task,
        estimated_prompt_tokens=parsed.estimated_prompt_tokens,
        user=parsed.user,
        headers=headers,
        request=parsed.request,
    )
    behind = table.behind(route.name)
    return answer(explaining.explain(gateway.fleet, gateway.ranker, route, asked, needs=parsed.needs, behind=behind))


def _task(request: Request) -> Task:
    named = request.args.get("task")
    if named is None:
        try:
            given = msgspec.json.decode(request.body, type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            given = {}  # the parser says what is wrong with it
        return next((task for field, task in _TOLD_BY.items() if field in given), "chat")
    task = next((task for task in _PARSERS if task == named), None)
    if task is None:
        message = f"The query parameter 'task' must be one of {', '.join(_PARSERS)}, not '{named[:80]}'."
        raise GatewayError.invalid(message, param="task", code="invalid_value")
    return task
