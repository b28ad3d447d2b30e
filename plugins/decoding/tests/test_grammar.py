"""The grammars, run by LLGuidance over bytes."""

from __future__ import annotations

import pytest
from decoding.grammar import answer_grammar, tool_grammar
from llguidance import LLMatcher, LLTokenizer

from core.api import RequestError, ResponseFormat, Tool, ToolChoice

_WEATHER = Tool(
    name="get_weather",
    parameters='{"type":"object","properties":{"city":{"$ref":"#/$defs/c"}},"required":["city"],'
    '"additionalProperties":false,"$defs":{"c":{"type":"string"}}}',
)
_TIME = Tool(name="get_time")
_PARIS = '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>'
_NOW = '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>'


def _accepts(grammar: str, text: str) -> bool:
    matcher = LLMatcher(LLTokenizer("byte"), grammar)
    data = text.encode()
    return matcher.try_consume_tokens(list(data)) == len(data) and matcher.is_accepting()


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
