"""The endpoints that ask a model: chat, completions, embeddings, rerank. Parse, route, write."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sanic import HTTPResponse, Request

from core.api.messages import EngineEvent, Finished, Usage
from core.api.protocols import RequestRecord, RouteRequest
from core.api.requests import Task
from core.dialects import openai
from core.errors import GatewayError
from core.gateway import metrics
from core.gateway.answer import Answer, Deadline, ReplicaFailedError
from core.gateway.continuation import Continuous
from core.gateway.search import Search
from core.http.failures import error_response
from core.http.gateway import Gateway, gateway_of
from core.http.sse import EventStream
from core.routing.table import RouteOptions
from core.settings import LimitsTable

__all__ = ["chat", "completions", "embeddings", "rerank"]

_log = logging.getLogger("gateway.http")
_TIMEOUT_HEADER = "x-request-timeout-s"

Parse = Callable[[bytes, LimitsTable], openai.Parsed]


async def chat(request: Request) -> HTTPResponse | None:
    """``POST /v1/chat/completions``."""
    return await _serve(request, "chat", openai.parse_chat)


async def completions(request: Request) -> HTTPResponse | None:
    """``POST /v1/completions``."""
    return await _serve(request, "completion", openai.parse_completion)


async def embeddings(request: Request) -> HTTPResponse | None:
    """``POST /v1/embeddings``."""
    return await _serve(request, "embeddings", openai.parse_embeddings)


async def rerank(request: Request) -> HTTPResponse | None:
    """``POST /v1/rerank``."""
    return await _serve(request, "rerank", openai.parse_rerank)


@dataclass(slots=True)
class _Call:
    """One request on its way, and what is known of it so far; in the end it becomes a `RequestRecord`."""

    request: Request
    gateway: Gateway
    task: Task
    began_s: float
    parsed: openai.Parsed | None = None
    search: Search | None = None
    ttft_s: float | None = None
    outcome: str = "error"
    error: GatewayError | None = None
    usage: Usage = Usage()  # noqa: RUF009 - frozen

    @property
    def id(self) -> str:
        """What the client finds in ``x-request-id``: its own, else that of the answer."""
        return self.request.headers.get("x-request-id") or (
            self.parsed.request.id if self.parsed else str(self.request.id)
        )

    def began(self, answer: Answer) -> None:
        """Note when the answer's first events came."""
        self.ttft_s = answer.first_event_s - self.began_s

    def saw(self, events: Sequence[EngineEvent]) -> None:
        """Note what the record wants to know of some events."""
        for event in events:
            if type(event) is Finished:
                self.outcome = event.reason
            elif type(event) is Usage:
                self.usage = event

    def record(self) -> RequestRecord:
        """The record of the request, now that it is over."""
        replica = self.search.replica if self.search else None
        return RequestRecord(
            id=self.id,
            name=self.parsed.name if self.parsed else "",
            task=self.task,
            replica=replica.name if replica else None,
            outcome="error" if self.error else self.outcome,
            error=(self.error.code or self.error.type) if self.error else None,
            status=self.error.status if self.error else 200,
            attempts=self.search.attempts if self.search else 0,
            ttft_s=self.ttft_s,
            duration_s=asyncio.get_running_loop().time() - self.began_s,
            prompt_tokens=self.usage.prompt_tokens,
            completion_tokens=self.usage.completion_tokens,
            cached_tokens=self.usage.cached_tokens,
        )

    def failed(self, exception: Exception) -> GatewayError:
        """Note the error that ended the call, and return it as the client shall see it."""
        if isinstance(exception, GatewayError):
            self.error = exception
        elif isinstance(exception, ReplicaFailedError):
            self.error = exception.error
        else:
            _log.error("request %s failed by a mistake of the gateway", self.id, exc_info=exception)
            self.error = GatewayError.internal()
        return self.error


async def _serve(request: Request, task: Task, parse: Parse) -> HTTPResponse | None:
    call = _Call(request, gateway_of(request), task, asyncio.get_running_loop().time())
    metrics.request_began()
    try:
        return await _answer(call, parse)
    except asyncio.CancelledError:
        call.outcome = "cancelled"
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it leaves in OpenAI's shape
        return error_response(call.failed(error), call.id)
    finally:
        call.gateway.finished(call.record())


async def _answer(call: _Call, parse: Parse) -> HTTPResponse | None:
    gateway, limits = call.gateway, call.gateway.settings.limits
    if gateway.fleet.draining:
        message = "The gateway is shutting down."
        raise GatewayError.not_ready(message, retry_after_s=limits.keepalive_s)
    parsed = call.parsed = parse(call.request.body, limits)
    route = gateway.table.resolve(parsed.name)
    timeout_s = min(limits.timeout_s, _timeout_header_s(call.request))
    search = call.search = Search(
        gateway.fleet,
        gateway.ranker,
        route,
        RouteRequest(
            name=parsed.name,
            task=parsed.task,
            estimated_prompt_tokens=parsed.estimated_prompt_tokens,
            user=parsed.user,
            headers=call.request.headers,
            request=parsed.request,
        ),
        needs=parsed.needs,
        deadline=Deadline(
            at_s=call.began_s + timeout_s,
            first_event_s=call.began_s + limits.first_token_timeout_s if parsed.stream else math.inf,
            whole_s=call.began_s + limits.timeout_s,
        ),
        routing=gateway.settings.routing,
        budget=gateway.budget,
    )
    if parsed.stream:
        return await _stream(call, parsed, search, route.options, timeout_s)
    return await _whole(call, parsed, search, timeout_s)


async def _whole(call: _Call, parsed: openai.Parsed, search: Search, timeout_s: float) -> HTTPResponse:
    try:
        async with asyncio.timeout_at(call.began_s + timeout_s):
            answer, events = await search.whole_answer()
    except TimeoutError:
        raise _too_late(timeout_s) from None
    call.began(answer)
    call.outcome = call.task  # unless a choice says how it finished
    call.saw(events)
    body = openai.reply(parsed, _reply_model(call, parsed, answer), events)
    return HTTPResponse(body, content_type="application/json", headers=_headers(call, answer))


async def _stream(
    call: _Call, parsed: openai.Parsed, search: Search, options: RouteOptions, timeout_s: float
) -> HTTPResponse | None:
    limits = call.gateway.settings.limits
    out = EventStream(call.request, keepalive=openai.KEEPALIVE, keepalive_s=limits.keepalive_s)
    dialect = openai.Stream(parsed, parsed.name)
    answer: Continuous | None = None
    limit_s = min(limits.first_token_timeout_s, timeout_s)
    try:
        async with asyncio.timeout_at(call.began_s + limit_s) as deadline:
            first = await search.next_answer()
            answer = Continuous(search, first, parsed.request, options)
            limit_s = timeout_s
            deadline.reschedule(call.began_s + limit_s)
            call.began(first)
            out.headers = _headers(call, first)
            dialect = openai.Stream(parsed, _reply_model(call, parsed, first))
            await _copy(call, answer, dialect, out)
    except TimeoutError:
        error = call.failed(_too_late(limit_s))
    except Exception as failure:  # noqa: BLE001 - whatever it is, the stream must not end as a clean one
        error = call.failed(failure)
    else:
        await out.end()
        return None
    finally:
        out.close()
        if answer is not None:
            answer.close()
    if not out.opened:
        return error_response(error, call.id)
    await out.send(dialect.error(error))
    await out.end()
    return None


async def _copy(call: _Call, answer: Continuous, dialect: openai.Stream, out: EventStream) -> None:
    """Carry the answer's events to the client as they come."""
    loop = asyncio.get_running_loop()
    before_s = 0.0
    async for events in answer:
        now_s = loop.time()
        if before_s:
            interval = metrics.token_interval(answer.answer.replica.deployment.id)
            interval.observe((now_s - before_s) / len(events))
        before_s = now_s
        call.saw(events)
        await out.send(dialect.chunks(events))
    await out.send(dialect.end())


def _headers(call: _Call, answer: Answer) -> dict[str, str]:
    spec = answer.replica.deployment.spec
    return {
        "x-request-id": call.id,
        "x-gateway-model": spec.name,
        "x-gateway-backend": spec.backend,
        "x-gateway-replica": answer.replica.name,
    }


def _reply_model(call: _Call, parsed: openai.Parsed, answer: Answer) -> str:
    served = call.gateway.settings.routing.reply_model == "served"
    return answer.replica.deployment.spec.name if served else parsed.name


def _timeout_header_s(request: Request) -> float:
    text = request.headers.get(_TIMEOUT_HEADER)
    if text is None:
        return math.inf
    try:
        timeout_s = float(text)
    except ValueError:
        timeout_s = 0.0
    if not (timeout_s > 0 and math.isfinite(timeout_s)):
        message = f"The header {_TIMEOUT_HEADER} must be a number of seconds above 0, not '{text}'."
        raise GatewayError.invalid(message, param=_TIMEOUT_HEADER, code="invalid_value")
    return timeout_s


def _too_late(limit_s: float) -> GatewayError:
    return GatewayError.timeout(
        f"There was no answer within {limit_s:g} s "
        f"(limits.timeout_s, limits.first_token_timeout_s, the header {_TIMEOUT_HEADER})."
    )
