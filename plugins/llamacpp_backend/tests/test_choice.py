"""Chunks of llama.cpp -> events."""

from __future__ import annotations

import pytest
from decoding.tools import CallPiece
from llamacpp_backend.choice import Choice
from llamacpp_backend.chunks import Chunk, Counts, decode_chat, decode_completion

from core.api import EngineError, EngineEvent, Finished, ReasoningDelta, RequestError, TextDelta, ToolCallDelta


def _read(choice: Choice, *chunks: Chunk) -> list[EngineEvent]:
    return [event for chunk in chunks for event in choice.read(chunk)]


def _words(*texts: str) -> list[Chunk]:
    return [Chunk(text=text, counts=Counts(number + 1, 5, 2)) for number, text in enumerate(texts)]


def test_text_and_counts() -> None:
    """A delta per chunk, each with its tokens: a character of three tokens counts three."""
    choice = Choice(1)
    chunks = [
        Chunk(text="a", counts=Counts(1, 5, 2)),
        Chunk(text="🐍", counts=Counts(4, 5, 2)),
        Chunk(ended="stop", counts=Counts(5, 5, 2)),
    ]
    assert _read(choice, *chunks) == [
        TextDelta(choice=1, text="a", tokens=1),
        TextDelta(choice=1, text="🐍", tokens=3),
        Finished(choice=1, reason="stop"),
    ]
    assert choice.counts == Counts(5, 5, 2)


def test_a_stop_string_ends_the_choice() -> None:
    """Nothing of it is shown, and the tokens of what was shown are right."""
    choice = Choice(0, ("END",))
    events = _read(choice, *_words("one E", "N", "D two"))
    assert events == [TextDelta(text="one ", tokens=1), Finished(reason="stop")]
    assert choice.finished
    assert choice.counts.generated == 3


def test_text_held_for_a_stop_string_is_shown_when_the_limit_ends_it() -> None:
    """llama.cpp's own server loses it."""
    events = _read(Choice(0, ("END",)), *_words("one", " EN"), Chunk(ended="length"))
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "one EN"
    assert events[-1] == Finished(reason="length")


def test_logprobs_end_where_the_text_ends() -> None:
    """A stop string's tokens have none; tokens that were held come with the text that releases them."""
    data = (
        b'{"content":"%s","completion_probabilities":[{"id":1,"token":"%s","bytes":[97],"logprob":-0.5,'
        b'"top_logprobs":[{"id":1,"token":"%s","bytes":[97],"logprob":-0.5},{"id":2,"token":"z","logprob":null}]}],'
        b'"timings":{"cache_n":0,"prompt_n":1,"predicted_n":%d}}'
    )
    texts = [b"one", b" E", b"N", b"D"]
    chunks = [decode_completion(data % (text, text, text, n + 1), 2) for n, text in enumerate(texts)]
    deltas = [event for event in _read(Choice(0, ("END",)), *chunks) if isinstance(event, TextDelta)]
    assert [(delta.text, [given.token for given in delta.logprobs]) for delta in deltas] == [
        ("one", ["one"]),
        (" ", [" E"]),
    ]
    assert deltas[0].logprobs[0].top[1].logprob == -9999.0


def test_logprobs_as_many_as_asked() -> None:
    """None: none; 0: the chosen token alone."""
    event = b'{"content":"a","completion_probabilities":[{"token":"a","logprob":-1,"top_logprobs":[{"token":"a"}]}]}'
    assert decode_completion(event, None).logprobs == ()
    assert decode_completion(event, 0).logprobs[0].top == ()


def test_echo_comes_with_the_first_chunk() -> None:
    """Not before llama.cpp has accepted the prompt, once, and standing for no token."""
    events = _read(Choice(0, echo="Once"), *_words(" upon", " a"))
    assert events[0] == TextDelta(text="Once", tokens=0)
    assert [event.text for event in events] == ["Once", " upon", " a"]


def test_reasoning_and_native_calls() -> None:
    """What llama.cpp's parser found; ids are our own and unique."""
    events = _read(
        Choice(0),
        decode_chat(b'{"choices":[{"delta":{"reasoning_content":"hm"}}]}', None),
        Chunk(calls=(CallPiece(0, "f", ""), CallPiece(0, None, "{}"), CallPiece(1, "f", "{}"))),
        decode_chat(b'{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}', None),
    )
    assert isinstance(events[0], ReasoningDelta)
    calls = [event for event in events if isinstance(event, ToolCallDelta)]
    assert [(call.index, call.name, call.arguments) for call in calls] == [
        (0, "f", ""),
        (0, None, "{}"),
        (1, "f", "{}"),
    ]
    ids = [call.id for call in calls if call.id]
    assert len(set(ids)) == 2
    assert all(given.startswith("call_") for given in ids)
    assert events[-1] == Finished(reason="tool_calls")


def test_own_calls() -> None:
    """The text form becomes deltas, and the reason says so."""
    text = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    events = _read(Choice(0, parses_calls=True), *_words(*text), Chunk(ended="stop"))
    assert "".join(event.arguments for event in events if isinstance(event, ToolCallDelta)) == '{"a": 1}'
    assert events[-1] == Finished(reason="tool_calls")
    assert not any(isinstance(event, TextDelta) for event in events)


def test_an_answer_that_left_its_grammar_is_no_clean_end() -> None:
    """Cut off it may be; ended it must be JSON."""
    assert _read(Choice(0, bound_to_json=True), *_words('{"a'), Chunk(ended="length"))[-1] == Finished(reason="length")
    with pytest.raises(EngineError):
        _read(Choice(0, bound_to_json=True), *_words("Hello"), Chunk(ended="stop"))


@pytest.mark.parametrize("text", ["", "-", " ", '{"a": "x', "[1, 2", '{"a": tru', '{"a": "\\u12'])
def test_an_answer_cut_off_within_its_grammar_is_a_clean_end(text: str) -> None:
    """By max_tokens, anywhere."""
    assert _read(Choice(0, bound_to_json=True), *_words(text), Chunk(ended="length"))[-1] == Finished(reason="length")


@pytest.mark.parametrize("text", ["I'm glad", "{Your Name}", "Sure: {"])
def test_an_answer_cut_off_outside_its_grammar_is_not(text: str) -> None:
    """llama.cpp drops a grammar that is too large for it without a word."""
    with pytest.raises(EngineError):
        _read(Choice(0, bound_to_json=True), *_words(text), Chunk(ended="length"))


def test_errors_inside_a_stream() -> None:
    """Never an end."""
    event = b'{"error":{"code":%d,"message":"no","type":"%s"}}'
    with pytest.raises(EngineError):
        decode_chat(event % (500, b"server_error"), None)
    with pytest.raises(RequestError):
        decode_completion(event % (400, b"invalid_request_error"), None)
