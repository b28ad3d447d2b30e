"""How models write tool calls: the forms of the families, read back and, where there is none, asked for."""

from __future__ import annotations

from decoding.tools.forms import FORMS, HERMES, LLAMA3, MISTRAL, MISTRAL_V11, PLAIN, ToolForm, form_of
from decoding.tools.parser import CallParser, CallPiece
from decoding.tools.prompt import call_text, result_text, tool_prompt

__all__ = [
    "FORMS",
    "HERMES",
    "LLAMA3",
    "MISTRAL",
    "MISTRAL_V11",
    "PLAIN",
    "CallParser",
    "CallPiece",
    "ToolForm",
    "call_text",
    "form_of",
    "result_text",
    "tool_prompt",
]
