"""``POST /v1/chat/completions``: body -> `ChatRequest`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from core.api.requests import ChatRequest
from core.dialects.openai.decode import decode, invalid
from core.dialects.openai.fields import CHAT
from core.dialects.openai.generation import Count, GenerationBody, needs_of_sampling, sampling, wants_usage
from core.dialects.openai.messages import AnyMessage, message
from core.dialects.openai.parsed import Needs, Parsed, estimate_tokens, new_id
from core.dialects.openai.tools import AnyFormat, AnyToolChoice, AnyTools, response_format, tool_choice, tools
from core.settings import LimitsTable

__all__ = ["ChatBody", "parse_chat"]


class ChatBody(GenerationBody, kw_only=True):
    """Types and ranges of the honoured fields; `fields.CHAT` says them in words."""

    messages: Annotated[list[AnyMessage], Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: AnyFormat | None = None
    tools: AnyTools | None = None
    tool_choice: AnyToolChoice | None = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[list[Literal["text"]], Meta(min_length=1)] | None = None


_DECODER = msgspec.json.Decoder(ChatBody)


def parse_chat(body: bytes, limits: LimitsTable) -> Parsed:
    """Return the checked request.

    Raises:
        GatewayError: 400 naming the field at fault, or 413; nothing else, whatever the bytes.
    """
    chat = decode(body, _DECODER, CHAT, limits)
    offered = tools(chat.tools)
    request = ChatRequest(
        id=new_id("chatcmpl"),
        messages=tuple(message(given, index) for index, given in enumerate(chat.messages)),
        sampling=sampling(chat, max_tokens=_max_tokens(chat), logprobs=_logprobs(chat)),
        n=chat.n or 1,
        tools=offered,
        tool_choice=tool_choice(chat.tool_choice, offered),
        parallel_tool_calls=chat.parallel_tool_calls is not False,
        response_format=response_format(chat.response_format),
    )
    return Parsed(
        name=chat.model,
        request=request,
        task="chat",
        stream=bool(chat.stream),
        include_usage=wants_usage(chat),
        needs=_needs(chat, request),
        user=chat.user,
        estimated_prompt_tokens=estimate_tokens(_texts(request)),
    )


def _max_tokens(chat: ChatBody) -> int | None:
    both = {chat.max_tokens, chat.max_completion_tokens} - {None}
    if len(both) > 1:
        raise invalid(CHAT, "max_completion_tokens", got=str(chat.max_completion_tokens))
    return both.pop() if both else None


def _logprobs(chat: ChatBody) -> int | None:
    if chat.logprobs:
        return chat.top_logprobs or 0
    if chat.top_logprobs is not None:
        raise invalid(CHAT, "top_logprobs")
    return None


def _needs(chat: ChatBody, request: ChatRequest) -> Needs:
    needs = needs_of_sampling(chat)
    if request.sampling.logprobs is not None:
        needs["logprobs"] = "top_logprobs" if request.sampling.logprobs else "logprobs"
    if request.response_format.kind != "text":
        needs[request.response_format.kind] = "response_format"
    if request.tools and request.tool_choice.mode != "none":
        needs["tools"] = "tools"
    if request.tool_choice.mode in {"required", "named"}:
        needs["tool_choice"] = "tool_choice"
    return needs


def _texts(request: ChatRequest) -> list[str]:
    texts = [part.text for given in request.messages for part in given.content]
    for given in request.messages:
        texts += [given.reasoning or ""]
        texts += [call.function.name + call.function.arguments for call in given.tool_calls]
    for tool in request.tools:
        texts += [tool.name, tool.description, tool.parameters]
    return texts
