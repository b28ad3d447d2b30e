"""The messages of a chat body: OpenAI's JSON -> `Message`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from core.api.requests import Content, FunctionCall, Message, ToolCall
from core.dialects.openai.decode import invalid
from core.dialects.openai.fields import CHAT

__all__ = ["AnyMessage", "message"]


class _Checked(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of the structs below."""


class _Part(_Checked, kw_only=True):
    """Where only text may stand. A tag would be optional here: msgspec demands tags in unions alone."""

    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: Any = None


class _TextPart(_Checked, kw_only=True, tag_field="type", tag="text"):
    text: str
    prompt_cache_breakpoint: Any = None


class _RefusalPart(_Checked, kw_only=True, tag_field="type", tag="refusal"):
    refusal: str


class _Function(_Checked, kw_only=True):
    name: str
    arguments: str


class _ToolCall(_Checked, kw_only=True):
    id: str
    type: Literal["function"]
    function: _Function


_TextContent = str | Annotated[list[_Part], Meta(min_length=1)]
_AssistantContent = str | Annotated[list[_TextPart | _RefusalPart], Meta(min_length=1)]


class _System(_Checked, kw_only=True, tag_field="role", tag="system"):
    content: _TextContent
    name: str | None = None


class _Developer(_Checked, kw_only=True, tag_field="role", tag="developer"):
    content: _TextContent
    name: str | None = None


class _User(_Checked, kw_only=True, tag_field="role", tag="user"):
    content: _TextContent
    name: str | None = None


class _Assistant(_Checked, kw_only=True, tag_field="role", tag="assistant"):
    """Holds what an answer of ours or of OpenAI's holds, so that clients can send it back as it is."""

    content: _AssistantContent | None = None
    name: str | None = None
    tool_calls: list[_ToolCall] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    annotations: Any = None
    audio: None = None
    function_call: None = None


class _Tool(_Checked, kw_only=True, tag_field="role", tag="tool"):
    content: _TextContent
    tool_call_id: str
    name: str | None = None


AnyMessage = _System | _Developer | _User | _Assistant | _Tool


def message(given: AnyMessage, index: int) -> Message:
    """Return the contract's message; ``index`` is its place in ``messages``, for the error.

    Raises:
        GatewayError: an assistant message says nothing at all.
    """
    if isinstance(given, _Assistant):
        return _assistant(given, index)
    return Message(
        role=given.__struct_config__.tag,  # type: ignore[arg-type] # the tags above are the roles
        content=_content(given.content),
        name=given.name,
        tool_call_id=given.tool_call_id if isinstance(given, _Tool) else None,
    )


def _assistant(given: _Assistant, index: int) -> Message:
    content = () if given.content is None else _content(given.content)
    if given.refusal is not None:
        content += (Content(text=given.refusal),)
    if not content and not given.tool_calls:
        raise invalid(CHAT, f"messages[{index}].content", path="messages[].content")
    calls = (
        ToolCall(id=call.id, function=FunctionCall(name=call.function.name, arguments=call.function.arguments))
        for call in given.tool_calls or ()
    )
    return Message(
        role="assistant",
        content=content,
        name=given.name,
        tool_calls=tuple(calls),
        reasoning=given.reasoning_content,
    )


def _content(content: _AssistantContent | _TextContent) -> tuple[Content, ...]:
    if isinstance(content, str):
        return (Content(text=content),)
    return tuple(Content(text=part.refusal if isinstance(part, _RefusalPart) else part.text) for part in content)
