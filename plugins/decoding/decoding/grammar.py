"""Grammars that bind an answer to a JSON Schema, to tool calls, to a regular expression or to a Lark grammar.

They are LLGuidance's. Each is compiled here first, over bytes, so that one that cannot be enforced is refused
before anything runs; that a grammar compiles does not depend on the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec
from llguidance import LLMatcher, LLTokenizer

from core.api import RequestError, ResponseFormat, Tool, ToolChoice
from decoding.schema_size import check_size
from decoding.tools.forms import PLAIN, ToolForm
from decoding.tools.head import KEYS

__all__ = ["Reasoning", "answer_grammar", "lark_grammar", "regex_grammar", "tool_grammar"]

_HEADER = "%llguidance {}\n"
_BYTES = LLTokenizer("byte")
_QUOTED_SOURCE = re.compile(r"\s*(\d+ \||\^)")
_ANY_OBJECT = '{"type":"object"}'
# Small models like blank space and may never leave it: JSON is written as Python's json.dumps does.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_LONGEST_SOURCE = 65_536
_ANYTHING = "/(?s:.*)/"

Rules = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """How a model thinks before it answers; what it thinks is bound by no grammar.

    Attributes:
        open, close: the marks of a reasoning block.
        opened: the prompt has opened the block, so the text begins in it; else the model may open one.
        tokens: of the marks, those that are special tokens for LLGuidance -> their ids.
    """

    open: str
    close: str
    opened: bool = False
    tokens: Mapping[str, int] = field(default_factory=dict)


def answer_grammar(form: ResponseFormat, *, reasoning: Reasoning | None = None) -> str | None:
    """Return the grammar of a response format, None for plain text.

    Raises:
        RequestError: the schema is wrong, or uses what cannot be enforced.
    """
    if form.kind == "text":
        return None
    return _grammar(_thoughtful({"start": _answer(form)}, reasoning))


def regex_grammar(pattern: str, *, param: str = "response_format", reasoning: Reasoning | None = None) -> str:
    """Return the grammar of an answer that a regular expression matches as a whole.

    Raises:
        RequestError: naming ``param``; the expression is wrong, too large, or uses what cannot be enforced.
    """
    _check_length(pattern, param=param)
    check_size({"pattern": pattern}, param=param)
    rules = {"start": "ANSWER", "ANSWER": f"/{_slashed(pattern, param=param)}/"}
    _checked(rules, param=param)
    return _grammar(_thoughtful(rules, reasoning))


def lark_grammar(text: str, *, param: str = "response_format", reasoning: Reasoning | None = None) -> str:
    """Return the grammar of an answer in LLGuidance's dialect of Lark.

    It cannot name a model's special tokens, nor hold a JSON Schema: the size of that would not be known.

    Raises:
        RequestError: naming ``param``; the grammar is wrong or too large.
    """
    _check_length(text, param=param)
    if "%json" in text:
        msg = f"'{param}' cannot be enforced: a grammar cannot hold a JSON Schema"
        raise RequestError(msg, param=param)
    rules = {"start": f"%lark {{\n{text}\n}}"}
    _checked(rules, param=param)
    return _grammar(_thoughtful(rules, reasoning))


def tool_grammar(
    tools: Sequence[Tool],
    choice: ToolChoice,
    form: ResponseFormat,
    *,
    parallel: bool,
    tool_form: ToolForm = PLAIN,
    reasoning: Reasoning | None = None,
) -> str:
    """Return the grammar of an answer that may (``auto``) or must (``required``, ``named``) call tools.

    Keywords of a tool's schema that cannot be enforced are an error if the tool is ``strict``, else left out.

    Raises:
        RequestError: a schema is wrong.
    """
    if choice.mode == "named":
        tools = [tool for tool in tools if tool.name == choice.name]
        parallel = False
    fixed: Rules = {}
    for index, tool in enumerate(tools):
        param = f"tools[{index}].function.parameters"
        fixed[f"arguments_{index}"] = _json(tool.parameters, param=param, lenient=not tool.strict)
        _checked({"start": fixed[f"arguments_{index}"]}, param=param)
    if choice.mode == "auto" and form.kind != "text":
        fixed["answer"] = _answer(form)

    def rules(form: ToolForm, reasoning: Reasoning | None) -> Rules:
        calls = _calls([tool.name for tool in tools], form, parallel=parallel) | fixed
        mark = _text(form.mark, form)
        if "answer" in fixed:
            # A bare call and an answer could begin alike, so here a call has its mark.
            return _thoughtful({"start": f"answer | {mark} calls"} | calls, reasoning)
        mark += "?" if form.bare else ""
        if choice.mode != "auto":
            return _thoughtful({"start": f"{mark} calls"} | calls, reasoning)
        return _thoughtful(_free(form, mark, reasoning) | calls, reasoning, gap=form.bare)

    # The byte vocabulary has none of the special tokens: what is checked has marks of ordinary text instead.
    _checked(rules(replace(tool_form, tokens={}), None), param="tools")
    return _grammar(rules(tool_form, reasoning))


def _calls(names: Sequence[str], form: ToolForm, *, parallel: bool) -> Rules:
    """The rule ``calls``, as they go on after the first mark, and what it consists of."""
    again = form.separator if form.listed else form.separator + form.mark + form.opening
    more = f"({_text(again, form)} call)*" if parallel else ""
    rules = {
        "calls": f"{_text(form.opening, form)} call {more} {_text(form.closing, form)}",
        "call": " | ".join(f"call_{index}" for index in range(len(names))),
    }
    for index, name in enumerate(names):
        rules[f"call_{index}"] = f"{_text(form.head(name), form)} arguments_{index} {_text(form.tail, form)}"
    return rules


def _free(form: ToolForm, mark: str, reasoning: Reasoning | None) -> Rules:
    """Text, which must not hold the mark, or a call could pass unbound; or calls, if need be after text."""
    excluded = [f"(?s:.*{_escaped(form.mark)}.*)"]
    opening = [] if reasoning is None or reasoning.opened else [rf"\s*{_escaped(reasoning.open)}(?s:.*)"]
    if form.bare:
        if reasoning is not None:
            excluded.append(r"\n(?s:.*)")  # blank lines after a thought may stand before a call, so they are no text
        excluded.append(rf'\s*\{{\s*"({"|".join(KEYS)})"(?s:.*)')
    rules = {"TEXT": _anything_but(*excluded, *opening)}
    if form.bare:
        return {"start": f"TEXT | {mark} calls"} | rules
    if form.mark in form.tokens:
        return {"start": f"TEXT ({mark} calls)?"} | rules
    # Lazy: it ends at the first mark.
    before = f"/(?s:.*){_escaped(form.mark)}/"
    return {
        "start": "TEXT | before_call calls",
        "before_call[lazy]": " & ".join((before, *(f"~/{pattern}/" for pattern in opening))),
    } | rules


def _thoughtful(rules: Rules, reasoning: Reasoning | None, *, gap: bool = True) -> Rules:
    """Let reasoning go before what the rules bind; ``gap``: they may then begin after a blank line."""
    if reasoning is None:
        return rules
    bound = "GAP? bound" if gap else "bound"
    rules = rules | {"bound": rules["start"], "GAP": r"/\n{1,2}/"}
    if reasoning.close in reasoning.tokens:
        rules["thought"] = f"THOUGHT <[{reasoning.tokens[reasoning.close]}]>"
        rules["THOUGHT"] = _anything_but(f"(?s:.*{_escaped(reasoning.close)}.*)")
    else:
        rules["thought[lazy]"] = f"/(?s:.*){_escaped(reasoning.close)}/"
    if reasoning.opened:
        rules["start"] = f"thought {bound}"
    elif reasoning.open in reasoning.tokens:
        rules["start"] = f"bound | <[{reasoning.tokens[reasoning.open]}]> thought {bound}"
    else:
        rules["start"] = f"bound | OPENING thought {bound}"
        rules["OPENING"] = rf"/\s*{_escaped(reasoning.open)}/"
    return rules


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


def _text(text: str, form: ToolForm) -> str:
    """Grammar source of a fixed text; its special tokens are named, the rest is spelled."""
    pieces = [text]
    if form.tokens:
        pieces = re.split("(" + "|".join(map(re.escape, form.tokens)) + ")", text)
    return " ".join(
        f"<[{form.tokens[piece]}]>" if piece in form.tokens else msgspec.json.encode(piece).decode()
        for piece in pieces
        if piece
    )


def _escaped(text: str) -> str:
    return re.escape(text).replace("/", r"\/")


def _slashed(pattern: str, *, param: str) -> str:
    """The pattern as it stands between slashes."""
    if re.sub(r"\\.", "", pattern, flags=re.DOTALL).endswith("\\"):
        msg = f"'{param}' cannot be enforced: a backslash ends it"
        raise RequestError(msg, param=param)
    named = {"/": r"\/", "\n": r"\n", "\\\n": r"\n"}
    pattern = re.sub(r"\\.|/|\n", lambda found: named.get(found[0], found[0]), pattern, flags=re.DOTALL)
    return pattern or "(?:)"


def _anything_but(*patterns: str) -> str:
    return " & ".join((_ANYTHING, *(f"~/{pattern}/" for pattern in patterns)))


def _check_length(source: str, *, param: str) -> None:
    if len(source) > _LONGEST_SOURCE:
        msg = f"'{param}' is too large to be enforced: at most {_LONGEST_SOURCE} characters can be enforced."
        raise RequestError(msg, param=param)


def _grammar(rules: Rules) -> str:
    return _HEADER + "".join(f"{name}: {rule}\n" for name, rule in rules.items())


def _checked(rules: Rules, *, param: str) -> None:
    try:
        matcher = LLMatcher(_BYTES, _grammar(rules), log_level=0)
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
