"""The grammars, run by LLGuidance over bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from decoding.grammar import Reasoning, answer_grammar, lark_grammar, regex_grammar, tool_grammar
from decoding.tools import FORMS, LLAMA3, CallParser, CallPiece, ToolForm, call_text
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from core.api import FunctionCall, RequestError, ResponseFormat, Tool, ToolCall, ToolChoice

_WEATHER = Tool(
    name="get_weather",
    parameters='{"type":"object","properties":{"city":{"$ref":"#/$defs/c"}},"required":["city"],'
    '"additionalProperties":false,"$defs":{"c":{"type":"string"}}}',
)
_TIME = Tool(name="get_time")
_PARIS = '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>'
_NOW = '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>'


def _accepts(grammar: str, text: str, tokens: Mapping[str, int] | None = None) -> bool:
    """Whether the grammar accepts the text, in bytes but for special ``tokens``."""
    tokens = tokens or {}
    matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0)
    pieces = re.split("|".join(f"({re.escape(mark)})" for mark in tokens), text) if tokens else [text]
    data = [token for piece in pieces if piece for token in ([tokens[piece]] if piece in tokens else piece.encode())]
    taken = matcher.try_consume_tokens(data)
    assert not matcher.get_error()
    return taken == len(data) and matcher.is_accepting()


def _tools(mode: str, *, parallel: bool = True, form: ResponseFormat | None = None) -> str:
    choice = ToolChoice(mode=mode, name="get_time" if mode == "named" else None)
    return tool_grammar([_WEATHER, _TIME], choice, form or ResponseFormat(), parallel=parallel)


def test_required_binds_from_the_first_token() -> None:
    """One call or more, and nothing else."""
    grammar = _tools("required")
    assert _accepts(grammar, _PARIS)
    assert _accepts(grammar, _PARIS + _NOW)
    for wrong in ("", "Hello", "x" + _PARIS, _PARIS + "x", _PARIS.replace("city", "town"), _PARIS.replace("get_", "")):
        assert not _accepts(grammar, wrong), wrong


def test_named_is_that_one_once() -> None:
    """Whatever else is offered."""
    grammar = _tools("named")
    assert _accepts(grammar, _NOW)
    assert not _accepts(grammar, _PARIS)
    assert not _accepts(grammar, _NOW + _NOW)


def test_without_parallel_calls_there_is_one() -> None:
    """Also when calling is optional."""
    for mode in ("auto", "required"):
        assert _accepts(_tools(mode, parallel=False), _PARIS)
        assert not _accepts(_tools(mode, parallel=False), _PARIS + _NOW)


def test_auto_leaves_text_free_and_binds_calls() -> None:
    """Text, text before calls, calls; but no call out of form."""
    grammar = _tools("auto")
    for right in ("", "Hello <tool", _PARIS, "Let me see.\n" + _PARIS + _NOW):
        assert _accepts(grammar, right), right
    assert not _accepts(grammar, "<tool_call>nonsense")


def test_auto_with_a_format_is_one_or_the_other() -> None:
    """A JSON answer or calls, no plain text."""
    grammar = _tools("auto", form=ResponseFormat(kind="json_object"))
    assert _accepts(grammar, '{"a": 1}')
    assert _accepts(grammar, _NOW)
    assert not _accepts(grammar, "Hello")


def test_answer_grammar() -> None:
    """Plain text has none, an object is any object, a schema is that schema."""
    assert answer_grammar(ResponseFormat()) is None
    assert _accepts(answer_grammar(ResponseFormat(kind="json_object")) or "", '{"a": [1, 2]}')
    bound = answer_grammar(ResponseFormat(kind="json_schema", schema='{"type":"integer"}')) or ""
    assert _accepts(bound, "12")
    assert not _accepts(bound, '"12"')


_TREE = (
    '{"type":"object","properties":{"value":{"type":"integer"},"next":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},'
    '"required":["value","next"],"additionalProperties":false}'
)


def test_recursion_is_enforced() -> None:
    """A schema may refer to itself, to any depth."""
    grammar = answer_grammar(ResponseFormat(kind="json_schema", schema=_TREE)) or ""
    assert _accepts(grammar, '{"value": 1, "next": {"value": 2, "next": {"value": 3, "next": null}}}')
    assert not _accepts(grammar, '{"value": 1, "next": {"value": 2, "next": {"value": "3", "next": null}}}')


@pytest.mark.parametrize(
    "schema",
    ['{"type":"foo"}', '{"type":"string","pattern":"(["}', '{"not":{}}', '{"$ref":"#/nope"}', "false", '{"$ref":"#"}'],
)
def test_what_cannot_be_enforced_is_refused(schema: str) -> None:
    """llama.cpp would answer unbound; strict tools are refused alike, others leave a keyword out."""
    with pytest.raises(RequestError) as caught:
        answer_grammar(ResponseFormat(kind="json_schema", schema=schema))
    assert caught.value.param == "response_format"


def test_strict_tools_are_held_to_every_keyword() -> None:
    """A keyword that LLGuidance does not know is left out for a tool that is not strict."""
    schema = '{"type":"object","properties":{"a":{"type":"array","uniqueItems":true}}}'
    choice = ToolChoice(mode="required")
    assert tool_grammar([Tool(name="f", parameters=schema)], choice, ResponseFormat(), parallel=True)
    with pytest.raises(RequestError, match=r"uniqueItems") as caught:
        tool_grammar([Tool(name="f", parameters=schema, strict=True)], choice, ResponseFormat(), parallel=True)
    assert caught.value.param == "tools[0].function.parameters"


_CITY = Tool(
    name="get_weather",
    parameters='{"type":"object","properties":{"city":{"type":"string"}},"required":["city"],"additionalProperties":false}',
)
_SPECIAL = {"<|python_tag|>": 257, "[TOOL_CALLS]": 257, "[ARGS]": 258, "<tool_call>": 257, "</tool_call>": 258}


def _of(form: ToolForm, *, special: bool) -> ToolForm:
    marks = (form.mark, *form.inner)
    return replace(form, tokens={mark: _SPECIAL[mark] for mark in marks if mark in _SPECIAL}) if special else form


def _calls(form: ToolForm, name: str, arguments: list[str]) -> str:
    functions = [FunctionCall(name=name, arguments=given) for given in arguments]
    return call_text([ToolCall(id="1", function=function) for function in functions], form)


def _written(form: ToolForm, *cities: str) -> str:
    return _calls(form, "get_weather", [json.dumps({"city": city}) for city in cities])


each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
spelled_or_special = pytest.mark.parametrize("special", [False, True], ids=["spelled", "special"])


@each_form
@spelled_or_special
def test_calls_in_the_familys_own_form(form: ToolForm, special: bool) -> None:
    """One or several, as the mode says; nothing else, whether marks are special tokens or spelled."""
    form = _of(form, special=special)

    def accepts(mode: str, text: str, *, parallel: bool = True, kind: str = "text") -> bool:
        choice = ToolChoice(mode=mode, name="get_weather" if mode == "named" else None)
        asked = ResponseFormat(kind=kind)
        grammar = tool_grammar([_CITY, _TIME], choice, asked, parallel=parallel, tool_form=form)
        return _accepts(grammar, text, form.tokens)

    one, two = _written(form, "Paris"), _written(form, "Rome", "Oslo")
    for mode in ("auto", "required"):
        assert accepts(mode, one)
        assert accepts(mode, two)
        assert accepts(mode, one, parallel=False)
        assert not accepts(mode, two, parallel=False)
        assert not accepts(mode, one.replace("city", "town"))
        assert not accepts(mode, one.replace("get_weather", "get_rain"))
        assert not accepts(mode, one[:-1])
    assert accepts("named", one)
    assert not accepts("named", two)
    assert not accepts("named", one.replace("get_weather", "get_time").replace('{"city": "Paris"}', "{}"))
    assert not accepts("required", "Hello")
    assert not accepts("required", "")
    for text in ("", "Hello", '{"title": "A"}', "Hello\n\n" + one if not form.bare else "Hello {}"):
        assert accepts("auto", text), text
    assert not accepts("auto", form.mark + "nonsense")
    assert accepts("auto", '{"a": 1}', kind="json_object")
    assert accepts("auto", two, kind="json_object")
    assert not accepts("auto", "Hello", kind="json_object")


@each_form
def test_a_mark_that_is_special_cannot_be_spelled(form: ToolForm) -> None:
    """The model would not have learnt to go on from it, and text that spells it is no call."""
    special = _of(form, special=True)
    grammar = tool_grammar([_CITY], ToolChoice(), ResponseFormat(), parallel=True, tool_form=special)
    text = form.mark + _written(form, "Paris").removeprefix(form.mark)
    assert _accepts(grammar, text, special.tokens)
    assert not _accepts(grammar, text)


def test_llama_may_leave_its_mark_out_but_not_its_form() -> None:
    """What begins as a call does is one; other JSON is text."""
    grammar = tool_grammar([_CITY], ToolChoice(), ResponseFormat(), parallel=True, tool_form=LLAMA3)
    call = _written(LLAMA3, "Paris").removeprefix(LLAMA3.mark)
    assert _accepts(grammar, call)
    assert _accepts(grammar, LLAMA3.mark + call)
    assert _accepts(grammar, '{"title": "name"}')
    assert not _accepts(grammar, '{"name": "Ann"}')
    assert not _accepts(grammar, call.replace("city", "town"))


_ARGUMENTS = st.fixed_dictionaries(
    {
        "city": st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x7f"), max_size=8),
        "days": st.integers(-(10**6), 10**6),
        "tags": st.lists(st.sampled_from(["a", "}", "]", "</tool_call>", "[TOOL_CALLS]", ";", '"', "\\"]), max_size=3),
    },
    optional={"where": st.none() | st.fixed_dictionaries({"x": st.booleans()})},
)
_RICH = Tool(
    name="look_up",
    strict=True,
    parameters=json.dumps(
        {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "where": {
                    "anyOf": [
                        {"type": "null"},
                        {
                            "type": "object",
                            "properties": {"x": {"type": "boolean"}},
                            "required": ["x"],
                            "additionalProperties": False,
                        },
                    ]
                },
            },
            "required": ["city", "days", "tags"],
            "additionalProperties": False,
        }
    ),
)


@each_form
@settings(deadline=None, max_examples=25)
@given(calls=st.lists(_ARGUMENTS, min_size=1, max_size=3, unique_by=json.dumps), special=st.booleans())
def test_what_the_grammar_allows_the_parser_reads(form: ToolForm, calls: list[dict[str, Any]], special: bool) -> None:
    """Arguments of a schema, written in the form, pass the grammar and come back as they were."""
    held = json.dumps(calls)
    form = _of(form, special=special and not any(mark in held for mark in _SPECIAL))
    # LLGuidance holds an object to the order of its schema, and escapes to what has to be escaped.
    ordered = [{key: call[key] for key in ("city", "days", "tags", "where") if key in call} for call in calls]
    arguments = [json.dumps(call, ensure_ascii=False) for call in ordered]
    text = _calls(form, "look_up", arguments)
    grammar = tool_grammar([_RICH], ToolChoice(mode="required"), ResponseFormat(), parallel=True, tool_form=form)
    assert _accepts(grammar, text, form.tokens)
    parser = CallParser(form, names={"look_up"}, bound=True)
    pieces = [piece for char in text for piece in parser.push(char)] + parser.finish()
    assert all(isinstance(piece, CallPiece) for piece in pieces)
    read = ["".join(piece.arguments for piece in pieces if piece.index == index) for index in range(len(calls))]
    assert read == arguments


_MARKS = {"<think>": 259, "</think>": 260}


@each_form
@spelled_or_special
@pytest.mark.parametrize("mode", ["auto", "required"])
def test_reasoning_goes_before_calls(form: ToolForm, special: bool, mode: str) -> None:
    """In the block that the prompt opened, or in one that the model may open; what follows is bound as ever."""
    form = _of(form, special=special)
    tokens = _MARKS if special else {}
    for opened in (False, True):
        reasoning = Reasoning(open="<think>", close="</think>", opened=opened, tokens=tokens)
        grammar = tool_grammar(
            [_CITY], ToolChoice(mode=mode), ResponseFormat(), parallel=True, tool_form=form, reasoning=reasoning
        )
        opening, call = "" if opened else "<think>", _written(form, "Paris")

        def accepts(text: str, grammar: str = grammar) -> bool:
            return _accepts(grammar, text, {**tokens, **form.tokens})

        for gap in ("", "\n", "\n\n"):
            assert accepts(f'{opening}Should I call?\n{{"name": </think>{gap}{call}')
        assert accepts(f"{opening}</think>{call}")
        assert not accepts(f"{opening}Hm.</think>" + call.replace("city", "town"))
        assert not accepts(f"{opening}Hm.")
        assert accepts(f"{opening}Hm.</think>Hello") == (mode == "auto")
        assert accepts(call) != opened


@spelled_or_special
@pytest.mark.parametrize("opened", [False, True])
def test_reasoning_goes_before_an_answer(special: bool, opened: bool) -> None:
    """It is bound by nothing; the answer is."""
    tokens = _MARKS if special else {}
    reasoning = Reasoning(open="<think>", close="</think>", opened=opened, tokens=tokens)
    opening = "" if opened else "<think>"
    grammars = [
        (
            answer_grammar(ResponseFormat(kind="json_schema", schema='{"type":"integer"}'), reasoning=reasoning),
            "12",
            "x",
        ),
        (regex_grammar("[0-9]+/[0-9]", reasoning=reasoning), "12/3", "12"),
        (lark_grammar('start: "a" B\nB: /b+/', reasoning=reasoning), "abb", "a"),
    ]
    for grammar, right, wrong in grammars:
        assert grammar is not None
        assert _accepts(grammar, f"{opening}So: 13 <thi </thin\n</think>\n\n{right}", tokens)
        assert not _accepts(grammar, f"{opening}So: 13</think>\n\n{wrong}", tokens)
        assert _accepts(grammar, right, tokens) != opened


@pytest.mark.parametrize(
    ("pattern", "right", "wrong"),
    [
        (r"(yes|no)", "yes", "yes."),
        (r"\d{4}-\d{2}", "2024-05", "2024-5"),
        (r"a/b\/c\\", "a/b/c\\", "a/b"),
        ("a\nb", "a\nb", "a b"),
        ("", "", "a"),
    ],
)
def test_a_regular_expression_binds_all_of_the_answer(pattern: str, right: str, wrong: str) -> None:
    """Slashes and line ends in it are its own."""
    assert _accepts(regex_grammar(pattern), right)
    assert not _accepts(regex_grammar(pattern), wrong)


@pytest.mark.parametrize("pattern", ["(", "a\\", "(?=a)b", "(a{1000}){1000}", "x" * 70_000, '/\nstart: "b"\n#/('])
def test_a_regular_expression_that_cannot_be_enforced_is_refused(pattern: str) -> None:
    """Wrong, looking ahead, or too large."""
    with pytest.raises(RequestError) as caught:
        regex_grammar(pattern, param="guided_regex")
    assert caught.value.param == "guided_regex"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "start: nothing",
        'start: "a',
        "start: <|im_end|>",
        "start: <[100000]>",
        'start: %json {"maxItems": 3000000}',
        "x" * 70_000,
    ],
)
def test_a_lark_grammar_that_cannot_be_enforced_is_refused(text: str) -> None:
    """Wrong, too large, or naming tokens that text does not have."""
    with pytest.raises(RequestError) as caught:
        lark_grammar(text, param="guided_grammar")
    assert caught.value.param == "guided_grammar"
