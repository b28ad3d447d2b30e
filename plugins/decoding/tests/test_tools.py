"""Tool calls in our own form."""

from __future__ import annotations

import itertools
import json

import pytest
from decoding.tools import PLAIN, CallParser, CallPiece, call_text, tool_prompt
from decoding.tools.scanner import JsonScanner
from hypothesis import given
from hypothesis import strategies as st

from core.api import EngineError, FunctionCall, Tool, ToolCall, ToolChoice


def _call(name: str, arguments: str) -> str:
    return call_text([ToolCall(id="x", function=FunctionCall(name=name, arguments=arguments))])


def _parse(pieces: list[str]) -> tuple[str, list[tuple[str, str]], bool]:
    parser, text = CallParser(bound=True), ""
    calls: list[list[str]] = []
    for piece in pieces:
        for found in parser.push(piece):
            if isinstance(found, str):
                text += found
            elif found.name is not None:
                assert found.index == len(calls)
                calls.append([found.name, found.arguments])
            else:
                calls[found.index][1] += found.arguments
    text += "".join(piece for piece in parser.finish() if isinstance(piece, str))
    return text, [(name, arguments) for name, arguments in calls], parser.repeated


_JSON = st.dictionaries(
    st.text(max_size=3), st.recursive(st.none() | st.text('}{"\\<a', max_size=6), st.lists, max_leaves=4), max_size=3
)


@given(arguments=_JSON, cuts=st.lists(st.integers(0, 200)))
def test_any_cut_gives_the_same_calls(arguments: dict[str, object], cuts: list[int]) -> None:
    """Whatever the arguments hold, also marks of our own form inside strings."""
    first, second = json.dumps(arguments), json.dumps({"x": "}</tool_call>", "y": arguments})
    whole = "Let me see.\n" + _call("look_up", first) + _call("f", second)
    edges = sorted({0, len(whole), *(cut % len(whole) for cut in cuts)})
    pieces = [whole[a:b] for a, b in itertools.pairwise(edges)]
    assert _parse(pieces) == ("Let me see.", [("look_up", first), ("f", second)], False)


@given(text=st.text("<tol_ca> x\n", max_size=30).filter(lambda text: PLAIN.mark not in text))
def test_plain_text_passes_untouched(text: str) -> None:
    """Also what looks like the beginning of a call, and blank space."""
    assert _parse(list(text)) == (text, [], False)


def test_arguments_arrive_as_they_are_written() -> None:
    """Long arguments are not held back until the call is complete."""
    parser = CallParser(bound=True)
    assert parser.push('<tool_call>{"name": "f", "arguments": {') == [CallPiece(0, "f"), CallPiece(0, None, "{")]
    assert parser.push('"text": "abc') == [CallPiece(0, None, '"text": "abc')]


def test_a_repeated_call_ends_the_answer() -> None:
    """A model that begins again would go on for ever; calls that only begin alike pass."""
    paris, rome = _call("f", '{"city": "Paris"}'), _call("f", '{"city": "Rome"}')
    text, calls, repeated = _parse(list(paris + rome + paris + rome))
    assert (text, repeated) == ("", True)
    assert calls == [("f", '{"city": "Paris"}'), ("f", '{"city": "Rome"}')]


@pytest.mark.parametrize("broken", ['{"name": "f", "arguments": {}} ,,,,,,,,,,,,', "x" * 600])
def test_a_broken_form_is_an_error(broken: str) -> None:
    """If the grammar did not hold, the stream must not end as if it had."""
    with pytest.raises(EngineError):
        _parse(["<tool_call>" + broken])


def test_scanner_finds_the_end() -> None:
    """Braces in strings and escapes do not count."""
    assert JsonScanner().scan('{"a": "}\\"}", "b": [1, {}]} rest') == 27
    assert JsonScanner().scan('{"a": [') is None


def test_prompt_shows_every_tool_and_what_must_happen() -> None:
    """Name, description and schema of each; a forced call is asked for."""
    tools = [Tool(name="f", description="Does f.", parameters='{"type":"object"}'), Tool(name="g")]
    prompt = tool_prompt(tools, ToolChoice(mode="named", name="g"))
    assert '{"name":"f","description":"Does f.","parameters":{"type":"object"}}' in prompt
    assert "You must call the function g now." in prompt
