"""Text with tool calls in it, as it arrives in pieces."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from decoding.tools import (
    FORMS,
    HERMES,
    LLAMA3,
    MISTRAL,
    MISTRAL_V11,
    PLAIN,
    CallParser,
    CallPiece,
    ToolForm,
    call_text,
)
from decoding.tools.scanner import JsonScanner
from hypothesis import given, settings
from hypothesis import strategies as st

from core.api import EngineError, FunctionCall, ToolCall

each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
quick = settings(deadline=None, max_examples=60)

_JSON = st.dictionaries(
    st.text(max_size=3), st.recursive(st.none() | st.text('}{"\\<a;[', max_size=6), st.lists, max_leaves=4), max_size=3
)


def _calls(form: ToolForm, *calls: tuple[str, str]) -> str:
    return call_text([ToolCall(id="x", function=FunctionCall(name=n, arguments=a)) for n, a in calls], form)


def _parse(parser: CallParser, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    text, calls = "", list[list[str]]()
    found = list(itertools.chain.from_iterable(parser.push(piece) for piece in pieces))
    for piece in found + parser.finish():
        if isinstance(piece, str):
            text += piece
        elif piece.name is not None:
            assert piece.index == len(calls)
            calls.append([piece.name, piece.arguments])
        else:
            calls[piece.index][1] += piece.arguments
    return text, [(name, arguments) for name, arguments in calls]


def _cut(text: str, cuts: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in itertools.pairwise(edges)]


@each_form
@quick
@given(arguments=_JSON, cuts=st.lists(st.integers(0, 300)), bound=st.booleans())
def test_what_is_written_is_read(form: ToolForm, arguments: dict[str, Any], cuts: list[int], bound: bool) -> None:
    """Whatever the arguments hold, also marks of the form inside strings, and however the text is cut."""
    marks = " ".join((form.mark, form.tail, form.closing, form.separator, *form.inner))
    calls = [("look_up", json.dumps(arguments)), ("f", json.dumps({"x": marks, "y": arguments}))]
    before = "" if form.bare else "Let me see."
    whole = before + "\n" * (not form.bare) + _calls(form, *calls)
    parser = CallParser(form, names={"look_up", "f"}, bound=bound)
    assert _parse(parser, _cut(whole, cuts)) == (before, calls)
    assert not parser.repeated


_FRAGMENTS = st.lists(
    st.sampled_from(
        [
            *(fragment for form in FORMS for fragment in (form.mark, form.opening, form.tail, form.closing)),
            *(form.head(name) for form in FORMS for name in ("f", "unknown")),
            *("{}", "{", "}", '"', "\\", '{"a": ', ", ", ";", "[", "f", "12", " ", "\n", '"id": "x"', "nonsense"),
            *('{"arguments": {"a": 1}, "name": "f"}', '{"type": "function", "name": "f", "parameters": {}}'),
        ]
    ),
    max_size=9,
).map("".join)


@each_form
@settings(deadline=None, max_examples=300)
@given(text=_FRAGMENTS, cuts=st.lists(st.integers(0, 200)))
def test_any_cut_reads_alike(form: ToolForm, text: str, cuts: list[int]) -> None:
    """Also what is almost a call; and without a call no character is lost, none is added."""
    whole, calls = _parse(CallParser(form, names={"f"}), [text])
    assert _parse(CallParser(form, names={"f"}), _cut(text, cuts)) == (whole, calls)
    if not calls:
        assert whole == text


@each_form
@quick
@given(text=st.text('<tol_ca> x\n|p{}"[TOOL_CALS]', max_size=30).filter(lambda text: not text.lstrip().startswith("{")))
def test_plain_text_passes_untouched(form: ToolForm, text: str) -> None:
    """Also what looks like the beginning of a call, and blank space; a grammar changes nothing in that."""
    if form.mark not in text:
        for bound in (False, True):
            assert _parse(CallParser(form, bound=bound), list(text)) == (text, [])


@each_form
def test_arguments_arrive_as_they_are_written(form: ToolForm) -> None:
    """Names come whole; long arguments are not held back until the call is complete."""
    parser = CallParser(form, names={"f"})
    assert parser.push(form.mark + form.opening + form.head("f")[:-3]) == []
    assert parser.push(form.head("f")[-3:] + "{") == [CallPiece(0, "f"), CallPiece(0, None, "{")]
    assert parser.push('"text": "abc') == [CallPiece(0, None, '"text": "abc')]
    assert parser.finish() == []


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (HERMES, '<tool_call>{"name":"f","arguments":{"a":1}}</tool_call>'),
        (HERMES, '\n <tool_call>\n{"arguments": {"a": 1}, "name": "f"}\n</tool_call>\n'),
        (HERMES, '<tool_call>\n{"name": "f", "arguments": {"a": 1}, "id": "12"}\n</tool_call>'),
        (HERMES, '<tool_call>\n{"name": "f", "arguments": "{\\"a\\": 1}"}\n</tool_call>'),
        (HERMES, '<tool_call>\n{"name": "f", "arguments": {"a": 1}}'),
        (MISTRAL, '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}, "id": "abcdefghi"}]'),
        (MISTRAL, '[TOOL_CALLS] [ {"arguments":{"a": 1},"name":"f"} ]'),
        (MISTRAL_V11, '[TOOL_CALLS]f{"a": 1}'),
        (MISTRAL_V11, '[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"a": 1}'),
        (LLAMA3, '{"name": "f", "parameters": {"a": 1}}'),
        (LLAMA3, '\n\n{"type": "function", "name": "f", "parameters": {"a": 1}};'),
        (LLAMA3, '<|python_tag|>{"name": "f", "arguments": {"a": 1}}'),
    ],
)
def test_variants_that_models_write(form: ToolForm, text: str) -> None:
    """Blank space, the order of members, members that are not ours, a mark that is missing."""
    pieces = [list(text), [text]]
    for given_pieces in pieces:
        read, calls = _parse(CallParser(form, names={"f"}), given_pieces)
        assert (read, [(name, json.loads(arguments)) for name, arguments in calls]) == ("", [("f", {"a": 1})])


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {"a": 1}}',
        '{"name": "f", "parameters": {}}\n{"name": "g", "parameters": {"a": 1}}',
        '<|python_tag|>{"name": "f"};<|python_tag|>{"name": "g", "parameters": {"a": 1}}',
    ],
)
def test_several_calls_of_llama(text: str) -> None:
    """It was taught no separator, so it writes one or none; arguments that are missing are none."""
    assert _parse(CallParser(LLAMA3), list(text)) == ("", [("f", "{}"), ("g", '{"a": 1}')])


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (HERMES, "Use <tool_call> to call. <tool_call>\n{name: f}\n</tool_call>"),
        (HERMES, '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>'),
        (HERMES, '<tool_call>\n{"name": "f", "arguments": [1]}\n</tool_call>'),
        (HERMES, '  <tool_call>\n{"name": "f", "argu'),
        (MISTRAL, '[TOOL_CALLS] {"name": "f"}'),
        (MISTRAL_V11, "[TOOL_CALLS]is how a call begins, {"),
        (LLAMA3, '{"name": "Ann", "age": 12}'),
        (LLAMA3, '{"title": "a JSON answer"}'),
        (LLAMA3, "{" + "[" * 20_000),
        (LLAMA3, "<|python_tag|>print(1)"),
        (LLAMA3, 'The call is {"name": "f", "parameters": {}}'),
    ],
)
def test_what_only_looks_like_a_call_is_text(form: ToolForm, text: str) -> None:
    """All of it, once."""
    assert _parse(CallParser(form, names={"f"}), list(text)) == (text, [])


@each_form
def test_a_call_after_something_like_a_call(form: ToolForm) -> None:
    """What is not a call does not hide the one that follows, even if the text ends before that is plain."""
    call = _calls(form, ("f", "{}"))
    if form.bare:
        call = form.mark + call.removeprefix(form.mark)
    text = form.mark + form.opening.rstrip() + (' {"na' if form.json else " f")
    assert _parse(CallParser(form, names={"f"}), list(text + call)) == (text, [("f", "{}")])


def test_json_answers_that_cannot_be_calls_are_not_held_back() -> None:
    """A form without a mark has to wait, but only until the first key."""
    parser = CallParser(LLAMA3, names={"f"})
    assert parser.push('{"tit') == []
    assert "".join(map(str, parser.push('le": "a'))) == '{"title": "a'


@each_form
def test_a_repeated_call_ends_a_bound_answer(form: ToolForm) -> None:
    """A model that begins again would go on for ever; calls that only begin alike pass. Unbound, all pass."""
    paris, rome = ("f", '{"city": "Paris"}'), ("f", '{"city": "Rome"}')
    text = _calls(form, paris, rome, paris, rome)
    bound, unbound = CallParser(form, bound=True), CallParser(form)
    assert _parse(bound, list(text)) == ("", [paris, rome])
    assert bound.repeated
    assert _parse(unbound, list(text)) == ("", [paris, rome, paris, rome])
    assert not unbound.repeated


@pytest.mark.parametrize(
    "broken", ['{"name": "f", "arguments": {}} ,,,,,,,,,,,,', "x" * 600, '{"name": "g", "arguments": {']
)
@pytest.mark.parametrize("form", [PLAIN, HERMES])
def test_a_broken_form_is_an_error_if_it_was_bound(form: ToolForm, broken: str) -> None:
    """If the grammar did not hold, the stream must not end as if it had."""
    with pytest.raises(EngineError):
        _parse(CallParser(form, names={"f"}, bound=True), ["<tool_call>" + broken])


def test_text_after_calls_is_text() -> None:
    """With the blank space before it; blank space alone is nothing."""
    call = _calls(HERMES, ("f", "{}"))
    assert _parse(CallParser(HERMES), [*call, *"\n\nDone."]) == ("\n\nDone.", [("f", "{}")])
    assert _parse(CallParser(HERMES), [*call, *"\n\n"]) == ("", [("f", "{}")])


def test_scanner_finds_the_end() -> None:
    """Braces in strings and escapes do not count."""
    assert JsonScanner().scan('{"a": "}\\"}", "b": [1, {}]} rest') == 27
    assert JsonScanner().scan('{"a": [') is None
