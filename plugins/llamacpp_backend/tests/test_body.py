"""Requests -> llama.cpp's bodies."""

from __future__ import annotations

from typing import Any

import pytest
from llamacpp_backend.body import TemplateCaps, chat_body, sampling_body

from core.api import ChatRequest, Content, FunctionCall, Message, RequestError, Sampling, Tool, ToolCall, ToolChoice

_PLAIN, _NATIVE = TemplateCaps(), TemplateCaps(supports_tools=True, supports_tool_calls=True)
_TOOL = Tool(name="f", description="Does f.")


def _message(role: str, text: str = "", **fields: Any) -> Message:
    return Message(role=role, content=(Content(text=text),), **fields)


def _called(arguments: str = "{}") -> tuple[Message, ...]:
    call = ToolCall(id="call_1", function=FunctionCall(name="f", arguments=arguments))
    return (
        _message("user", "Go"),
        _message("assistant", tool_calls=(call,)),
        _message("tool", "42", tool_call_id="call_1"),
        _message("tool", "43", tool_call_id="call_1"),
    )


def _body(*messages: Message, caps: TemplateCaps = _PLAIN, grammar: str | None = None, **fields: Any) -> dict[str, Any]:
    return chat_body(ChatRequest(id="x", messages=messages, **fields), caps, grammar)


def test_seeds() -> None:
    """Choice ``i`` draws with ``seed + i``; llama.cpp knows 32 bits, whose largest means random."""
    assert sampling_body(Sampling(seed=7), 2, 8)["seed"] == 9
    assert 0 <= sampling_body(Sampling(seed=-1), 0, 8)["seed"] < 2**32 - 1
    assert "seed" not in sampling_body(Sampling(), 0, 8)


def test_developer_is_system() -> None:
    """Templates know no developer."""
    assert _body(_message("developer", "Be kind."))["messages"] == [{"role": "system", "content": "Be kind."}]


def test_tools_reach_a_template_that_knows_none() -> None:
    """In the system prompt, after the client's own, and not at all for ``none``."""
    body = _body(_message("system", "Be kind."), _message("user", "Hi"), tools=(_TOOL,), grammar="g")
    assert "tools" not in body
    assert body["messages"][0]["content"].startswith("Be kind.\n\n# Tools")
    alone = _body(_message("user", "Hi"), tools=(_TOOL,), grammar="g")
    assert [message["role"] for message in alone["messages"]] == ["system", "user"]
    silent = _body(_message("user", "Hi"), tools=(_TOOL,), tool_choice=ToolChoice(mode="none"))
    assert silent == {"messages": [{"role": "user", "content": "Hi"}]}


def test_tools_reach_a_template_that_knows_them() -> None:
    """As tools; bound by our grammar the template still shows them, and llama.cpp's parser stays out."""
    free = _body(_message("user", "Hi"), caps=_NATIVE, tools=(_TOOL,))
    assert (free["tool_choice"], free["tools"][0]["function"]["name"]) == ("auto", "f")
    bound = _body(_message("user", "Hi"), caps=_NATIVE, tools=(_TOOL,), grammar="g")
    assert (bound["tool_choice"], bound["grammar"], bound["reasoning_format"]) == ("none", "g", "none")
    assert len(bound["messages"]) == 1


def test_earlier_calls_become_text_where_the_template_knows_none() -> None:
    """Calls in the form that is asked for, results of parallel calls in one turn."""
    assert _body(*_called())["messages"][1:] == [
        {"role": "assistant", "content": '<tool_call>{"name": "f", "arguments": {}}</tool_call>'},
        {"role": "user", "content": "<tool_response>42</tool_response>\n<tool_response>43</tool_response>"},
    ]


def test_earlier_calls_in_the_template_s_own_form() -> None:
    """With ids that the strictest template accepts, the same for call and result, and the function's name."""
    _, assistant, first, _ = _body(*_called(), caps=_NATIVE)["messages"]
    given = assistant["tool_calls"][0]["id"]
    assert len(given) == 9
    assert given.isalnum()
    assert (first["tool_call_id"], first["name"], first["content"]) == (given, "f", "42")


def test_arguments_that_are_not_json_are_refused() -> None:
    """By name; llama.cpp would fail on them."""
    with pytest.raises(RequestError) as caught:
        _body(*_called("{broken"), caps=_NATIVE)
    assert caught.value.param == "messages[1].tool_calls[0].function.arguments"


def test_a_result_that_comes_first() -> None:
    """A conversation may begin anywhere."""
    assert _body(_message("tool", "42", tool_call_id="a"))["messages"][0]["role"] == "user"


def test_a_greedy_draw_sorts_nothing() -> None:
    """llama.cpp would rank the whole vocabulary for top_p before it takes the first."""
    body = sampling_body(Sampling(temperature=0.0, top_p=0.9, top_k=0, min_p=0.05), 0, 1024)

    assert (body["top_k"], body["top_p"], body["min_p"]) == (1, 1.0, 0.0)
