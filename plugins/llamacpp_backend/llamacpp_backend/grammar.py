"""Grammars that bind an answer to a JSON Schema or to tool calls, for the LLGuidance in llama.cpp.

llama.cpp *ignores* a grammar that LLGuidance cannot compile and answers unbound, so each one is compiled
here first, by LLGuidance itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
from llguidance import LLMatcher, LLTokenizer

from core.api import RequestError, ResponseFormat, Tool, ToolChoice
from llamacpp_backend.schema_size import check_size
from llamacpp_backend.tools import CLOSE, OPEN, call_head

__all__ = ["answer_grammar", "tool_grammar"]

_HEADER = "%llguidance {}\n"
# Compiling needs some tokenizer; that a grammar compiles does not depend on which.
_BYTES = LLTokenizer("byte")
_QUOTED_SOURCE = re.compile(r"\s*(\d+ \||\^)")
_ANY_OBJECT = '{"type":"object"}'
# Small models like blank space and may never leave it: JSON is written as Python's json.dumps does.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def answer_grammar(form: ResponseFormat) -> str | None:
    """Return the grammar of a response format, None for plain text.

    Raises:
        RequestError: the schema is wrong, or uses what cannot be enforced.
    """
    if form.kind == "text":
        return None
    return _grammar({"start": _answer(form)})


def tool_grammar(tools: Sequence[Tool], choice: ToolChoice, form: ResponseFormat, *, parallel: bool) -> str:
    """Return the grammar of an answer that may (``auto``) or must (``required``, ``named``) call tools.

    Keywords of a tool's schema that cannot be enforced are an error if the tool is ``strict``, else left out.

    Raises:
        RequestError: a schema is wrong.
    """
    if choice.mode == "named":
        tools = [tool for tool in tools if tool.name == choice.name]
        parallel = False
    more = f"({_literal(OPEN)} call)*" if parallel else ""
    rules = {"call": " | ".join(f"call_{index}" for index in range(len(tools)))}
    for index, tool in enumerate(tools):
        param = f"tools[{index}].function.parameters"
        arguments = _json(tool.parameters, param=param, lenient=not tool.strict)
        _checked({"start": arguments}, param=param)
        rules[f"call_{index}"] = f"{_literal(call_head(tool.name))} arguments_{index} {_literal(CLOSE)}"
        rules[f"arguments_{index}"] = arguments
    if choice.mode != "auto":
        rules["start"] = f"{_literal(OPEN)} call {more}"
    elif form.kind != "text":
        rules["start"] = f"answer | {_literal(OPEN)} call {more}"
        rules["answer"] = _answer(form)
    else:
        rules["start"] = f"PLAIN | before_call call {more}"
        # Lazy: it ends at the first mark. Plain text must not hold the mark, or a call could pass unbound.
        rules["before_call[lazy]"] = f"/(?s:.*){OPEN}/"
        rules["PLAIN"] = f"/(?s:.*)/ & ~/(?s:.*{OPEN}.*)/"
    return _checked(rules, param="tools")


def _answer(form: ResponseFormat) -> str:
    answer = _json(form.schema or _ANY_OBJECT, param="response_format", lenient=False)
    _checked({"start": answer}, param="response_format")
    return answer


def _json(schema: str, *, param: str, lenient: bool) -> str:
    parsed = msgspec.json.decode(schema)
    check_size(parsed, param=param)
    if isinstance(parsed, dict):
        parsed["x-guidance"] = _LAYOUT | ({"lenient": True} if lenient else {})
    return f"%json {msgspec.json.encode(parsed).decode()}"


def _literal(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _grammar(rules: dict[str, str]) -> str:
    return _HEADER + "".join(f"{name}: {rule}\n" for name, rule in rules.items())


def _checked(rules: dict[str, str], *, param: str) -> str:
    grammar = _grammar(rules)
    try:
        matcher = LLMatcher(_BYTES, grammar, log_level=0)
        matcher.compute_bitmask()
        fault = matcher.get_error()
    except Exception as error:  # noqa: BLE001 - whatever a schema does to the compiler is the schema's fault
        fault = str(error)
    if fault:
        lines = [line for line in fault.splitlines() if not _QUOTED_SOURCE.match(line)]
        _, _, said = " ".join(" ".join(lines).split()).rpartition("JSON schema: ")
        said = "no text can satisfy it" if "<state>" in said else said[:300]
        msg = f"'{param}' cannot be enforced: {said}"
        raise RequestError(msg, param=param)
    return grammar
