"""The parts of a chat body that bind the form of the answer: tools, tool choice, response format."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from core.api.requests import ResponseFormat, Tool, ToolChoice
from core.dialects.openai.decode import invalid
from core.dialects.openai.fields import CHAT
from core.errors import GatewayError

__all__ = ["AnyFormat", "AnyToolChoice", "AnyTools", "response_format", "tool_choice", "tools"]

_Name = Annotated[str, Meta(pattern=r"\A[a-zA-Z0-9_-]{1,64}\Z")]


class _Checked(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of the structs below."""


class _Function(_Checked, kw_only=True):
    name: _Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(_Checked, kw_only=True):
    type: Literal["function"]
    function: _Function


class _NamedFunction(_Checked, kw_only=True):
    name: str


class _NamedTool(_Checked, kw_only=True):
    type: Literal["function"]
    function: _NamedFunction


class _TextFormat(_Checked, kw_only=True, tag_field="type", tag="text"):
    pass


class _JsonObjectFormat(_Checked, kw_only=True, tag_field="type", tag="json_object"):
    pass


class _JsonSchema(_Checked, kw_only=True):
    name: _Name
    schema: dict[str, Any] | bool
    description: str | None = None
    strict: bool | None = None


class _JsonSchemaFormat(_Checked, kw_only=True, tag_field="type", tag="json_schema"):
    json_schema: _JsonSchema


AnyTools = Annotated[list[_Tool], Meta(max_length=128)]
AnyToolChoice = Literal["none", "auto", "required"] | _NamedTool
AnyFormat = _TextFormat | _JsonObjectFormat | _JsonSchemaFormat


def tools(given: AnyTools | None) -> tuple[Tool, ...]:
    """Return the contract's tools.

    Raises:
        GatewayError: two have one name, or parameters are not those of an object.
    """
    names: set[str] = set()
    for index, tool in enumerate(given or ()):
        if tool.function.name in names:
            message = f"'tools[{index}].function.name' repeats '{tool.function.name}': give each tool its own name."
            raise GatewayError.invalid(message, param=f"tools[{index}].function.name", code="invalid_value")
        names.add(tool.function.name)
    return tuple(_tool(tool.function, index) for index, tool in enumerate(given or ()))


def _tool(function: _Function, index: int) -> Tool:
    parameters = function.parameters or {"type": "object", "properties": {}}
    if parameters.setdefault("type", "object") != "object":
        param = f"tools[{index}].function.parameters"
        raise invalid(CHAT, param, path="tools[].function.parameters", got=str(parameters["type"]))
    return Tool(
        name=function.name,
        description=function.description or "",
        parameters=_text(parameters),
        strict=bool(function.strict),
    )


def tool_choice(given: AnyToolChoice | None, offered: tuple[Tool, ...]) -> ToolChoice:
    """Return the contract's choice.

    Raises:
        GatewayError: a call is demanded of a tool that is not offered.
    """
    if given is None or given == "auto":
        return ToolChoice()
    if given == "none":
        return ToolChoice(mode="none")
    if not offered:
        raise invalid(CHAT, "tool_choice")
    if given == "required":
        return ToolChoice(mode="required")
    name = given.function.name
    if name not in {tool.name for tool in offered}:
        raise invalid(CHAT, "tool_choice.function.name", got=name)
    return ToolChoice(mode="named", name=name)


def response_format(given: AnyFormat | None) -> ResponseFormat:
    """Return the contract's format."""
    match given:
        case None | _TextFormat():
            return ResponseFormat()
        case _JsonObjectFormat():
            return ResponseFormat(kind="json_object")
        case _JsonSchemaFormat(json_schema=wanted):
            return ResponseFormat(
                kind="json_schema", name=wanted.name, schema=_text(wanted.schema), strict=bool(wanted.strict)
            )


def _text(schema: dict[str, Any] | bool) -> str:  # noqa: FBT001 - true and false are JSON Schemas
    return msgspec.json.encode(schema).decode()
