"""Tools for models whose chat template knows none: a system prompt tells of them, and of how to call them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from core.api import Message, Tool, ToolCall, ToolChoice
from decoding.tools.forms import PLAIN, ToolForm

__all__ = ["call_text", "result_text", "tool_prompt"]

_PROMPT = """\
# Tools

You may call these functions; each is described by a JSON object:

{tools}

To call a function, write exactly this, once for each call, and nothing between or after:

<tool_call>{{"name": "<name of the function>", "arguments": <its arguments as a JSON object>}}</tool_call>

The result is then given to you between <tool_response> and </tool_response>. {when}"""
_WHEN = {
    "auto": "When no function is needed, answer in plain text.",
    "required": "You must call a function now.",
    "named": "You must call the function {name} now.",
}


def tool_prompt(tools: Iterable[Tool], choice: ToolChoice) -> str:
    """Return what the system prompt says of the tools; ``choice`` is not ``none``."""
    described = "\n".join(
        msgspec.json.encode(
            {
                "name": tool.name,
                "description": tool.description,
                "parameters": msgspec.Raw(tool.parameters.encode()),
            }
        ).decode()
        for tool in tools
    )
    when = _WHEN[choice.mode].format(name=choice.name)
    return _PROMPT.format(tools=described, when=when)


def call_text(calls: Sequence[ToolCall], form: ToolForm = PLAIN) -> str:
    """Return earlier calls as the model would have written them."""
    written = [form.head(call.function.name) + call.function.arguments + form.tail for call in calls]
    if not written:
        return ""
    if form.listed:
        return form.mark + form.opening + form.separator.join(written) + form.closing
    return form.separator.join(form.mark + form.opening + call for call in written)


def result_text(message: Message) -> str:
    """Return a tool's result as the system prompt announced it."""
    return f"<tool_response>{message.text}</tool_response>"
