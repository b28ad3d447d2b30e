"""Good bodies: each field of a chat reaches the request as the contract says, and needs name what is really asked."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest

from core.api.requests import (
    ChatRequest,
    Content,
    FunctionCall,
    Message,
    ResponseFormat,
    Sampling,
    Tool,
    ToolCall,
    ToolChoice,
)
from core.dialects import openai
from core.settings import LimitsTable

LIMITS = LimitsTable()
USER = [{"role": "user", "content": "Hello!"}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def parsed_chat(**fields: Any) -> openai.Parsed:
    return openai.parse_chat(json.dumps({"model": "gpt-4", "messages": USER, **fields}).encode(), LIMITS)


def chat(**fields: Any) -> ChatRequest:
    request = parsed_chat(**fields).request
    assert isinstance(request, ChatRequest)
    return request


def message(**fields: Any) -> Message:
    (only,) = chat(messages=[fields]).messages
    return only


def test_a_minimal_chat_asks_for_nothing_special() -> None:
    parsed = parsed_chat()
    assert (parsed.name, parsed.task, parsed.stream, parsed.include_usage) == ("gpt-4", "chat", False, False)
    assert parsed.needs == {}
    assert parsed.user is None
    assert parsed.choices == 1
    assert abs(parsed.created - time.time()) < 5
    request = chat()
    assert msgspec.structs.replace(request, id="") == ChatRequest(
        id="", messages=(Message(role="user", content=(Content(text="Hello!"),)),)
    )


def test_ids_are_fresh_and_say_what_they_are_of() -> None:
    assert chat().id != chat().id
    assert chat().id.startswith("chatcmpl-")


def test_every_sampling_field_is_honoured() -> None:
    request = chat(
        max_tokens=7,
        temperature=0,
        top_p=0.5,
        top_k=40,
        min_p=0.1,
        presence_penalty=1,
        frequency_penalty=-2,
        repetition_penalty=1.1,
        logit_bias={"50256": -100, "3": 1.5},
        seed=-(2**63),
        stop=["\n", "END"],
        logprobs=True,
        top_logprobs=20,
    )
    assert request.sampling == Sampling(
        max_tokens=7,
        temperature=0.0,
        top_p=0.5,
        top_k=40,
        min_p=0.1,
        presence_penalty=1.0,
        frequency_penalty=-2.0,
        repetition_penalty=1.1,
        logit_bias={50256: -100.0, 3: 1.5},
        seed=-(2**63),
        stop=("\n", "END"),
        logprobs=20,
    )


def test_null_means_left_out_for_every_optional_field() -> None:
    optional = set(openai.chat.ChatBody.__struct_fields__) - {"model", "messages"}
    given = msgspec.structs.replace(chat(**dict.fromkeys(optional)), id="")
    assert given == msgspec.structs.replace(chat(), id="")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"stop": "END"}, ("END",)),
        ({"stop": []}, ()),
    ],
)
def test_stop_is_a_string_or_an_array(fields: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert chat(**fields).sampling.stop == expected


def test_minus_one_switches_top_k_off() -> None:
    assert chat(top_k=-1).sampling.top_k == 0
    assert "top_k" not in parsed_chat(top_k=-1).needs


def test_both_names_of_the_token_limit() -> None:
    assert chat(max_completion_tokens=9).sampling.max_tokens == 9
    assert chat(max_completion_tokens=9, max_tokens=9).sampling.max_tokens == 9


@pytest.mark.parametrize("role", ["system", "developer", "user"])
def test_plain_messages(role: str) -> None:
    assert message(role=role, content="a", name="bob") == Message(
        role=role,  # type: ignore[arg-type]
        content=(Content(text="a"),),
        name="bob",
    )


def test_content_parts_stay_apart_and_refusals_are_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]
    assert message(role="assistant", content=parts).content == (Content(text="a"), Content(text="b"))
    assert message(role="assistant", content=None, refusal="no").text == "no"


def test_an_assistant_message_that_only_calls_tools() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    given = message(role="assistant", content=None, tool_calls=[call])
    assert given == Message(
        role="assistant", tool_calls=(ToolCall(id="call_1", function=FunctionCall(name="f", arguments="{}")),)
    )


def test_a_tool_message_names_its_call() -> None:
    assert message(role="tool", content="17 C", tool_call_id="call_1").tool_call_id == "call_1"


def test_an_answer_may_be_sent_back_as_it_came() -> None:
    """What `reply` and OpenAI's client write as a message is accepted as one."""
    given = message(
        role="assistant",
        content="Hi",
        refusal=None,
        annotations=[],
        audio=None,
        function_call=None,
        tool_calls=None,
        reasoning_content="hm",
    )
    assert (given.text, given.reasoning) == ("Hi", "hm")


def test_tools_become_json_schema_text() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    function = {"name": "weather", "description": "d", "parameters": schema, "strict": True}
    request = chat(tools=[{"type": "function", "function": function}], parallel_tool_calls=False)
    (tool,) = request.tools
    assert (tool.name, tool.description, tool.strict, json.loads(tool.parameters)) == ("weather", "d", True, schema)
    assert request.parallel_tool_calls is False


@pytest.mark.parametrize("parameters", [None, {}])
def test_a_tool_without_parameters_takes_an_empty_object(parameters: dict[str, Any] | None) -> None:
    (tool,) = chat(tools=[{"type": "function", "function": {"name": "f", "parameters": parameters}}]).tools
    assert tool == Tool(name="f")


def test_parameters_are_always_those_of_an_object() -> None:
    (tool,) = chat(tools=[{"type": "function", "function": {"name": "f", "parameters": {"properties": {}}}}]).tools
    assert json.loads(tool.parameters) == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("given", "expected", "needs"),
    [
        ("none", ToolChoice(mode="none"), set()),
        ("auto", ToolChoice(), {"tools"}),
        ("required", ToolChoice(mode="required"), {"tools", "tool_choice"}),
        (
            {"type": "function", "function": {"name": "weather"}},
            ToolChoice(mode="named", name="weather"),
            {"tools", "tool_choice"},
        ),
    ],
)
def test_tool_choice(given: Any, expected: ToolChoice, needs: set[str]) -> None:
    assert chat(tools=[WEATHER], tool_choice=given).tool_choice == expected
    assert set(parsed_chat(tools=[WEATHER], tool_choice=given).needs) == needs


@pytest.mark.parametrize("choice", ["none", "auto"])
def test_without_tools_nothing_can_be_called(choice: str) -> None:
    assert parsed_chat(tool_choice=choice).needs == {}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"type": "text"}, ResponseFormat()),
        ({"type": "json_object"}, ResponseFormat(kind="json_object")),
        (
            {"type": "json_schema", "json_schema": {"name": "a-b_1", "schema": {"type": "object"}, "strict": True}},
            ResponseFormat(kind="json_schema", name="a-b_1", schema='{"type":"object"}', strict=True),
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "any", "schema": True, "description": "d"}},
            ResponseFormat(kind="json_schema", name="any", schema="true"),
        ),
    ],
)
def test_response_format(given: dict[str, Any], expected: ResponseFormat) -> None:
    assert chat(response_format=given).response_format == expected


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({"n": 1, "min_p": 0, "top_k": 0, "presence_penalty": 0, "repetition_penalty": 1, "logit_bias": {}}, {}),
        ({"n": 2}, {"n": "n"}),
        ({"top_k": 1}, {"top_k": "top_k"}),
        ({"min_p": 0.1}, {"min_p": "min_p"}),
        ({"seed": 0}, {"seed": "seed"}),
        ({"stop": "x"}, {"stop": "stop"}),
        ({"presence_penalty": 0.1}, {"penalties": "presence_penalty"}),
        ({"frequency_penalty": 0.1}, {"penalties": "frequency_penalty"}),
        ({"repetition_penalty": 1.2}, {"repetition_penalty": "repetition_penalty"}),
        ({"logit_bias": {"1": 1}}, {"logit_bias": "logit_bias"}),
        ({"logprobs": True}, {"logprobs": "logprobs"}),
        ({"logprobs": True, "top_logprobs": 0}, {"logprobs": "logprobs"}),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": "top_logprobs"}),
        ({"logprobs": False}, {}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"json_object": "response_format"}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
            {"json_schema": "response_format"},
        ),
        ({"tools": []}, {}),
        ({"tools": [WEATHER]}, {"tools": "tools"}),
    ],
)
def test_chat_needs(fields: dict[str, Any], needs: dict[str, str]) -> None:
    assert parsed_chat(**fields).needs == needs


def test_fields_that_change_nothing_are_accepted() -> None:
    accepted = {name: {"any": ["thing"]} for name in openai.fields.ACCEPTED}
    harmless = {"reasoning_effort": "none", "verbosity": "medium", "audio": None, "functions": None}
    request = chat(**accepted, **harmless, modalities=["text"], stream_options=None)
    assert msgspec.structs.replace(request, id="") == msgspec.structs.replace(chat(), id="")


def test_streaming() -> None:
    parsed = parsed_chat(stream=True, stream_options={"include_usage": True, "include_obfuscation": False}, user="u1")
    assert (parsed.stream, parsed.include_usage, parsed.user) == (True, True, "u1")


def test_prompt_tokens_are_estimated_from_bytes_of_text() -> None:
    """4 characters of 3 bytes and a tool's 1 + 33 bytes of JSON make ceil(46 / 4)."""
    tool = {"type": "function", "function": {"name": "f"}}
    content = [{"type": "text", "text": "日本"}, {"type": "text", "text": "日本"}]
    assert parsed_chat(messages=[{"role": "user", "content": content}]).estimated_prompt_tokens == 3
    assert len(Tool(name="f").parameters) == 33
    with_tool = parsed_chat(messages=[{"role": "user", "content": content}], tools=[tool])
    assert with_tool.estimated_prompt_tokens == 12


def test_escapes_and_astral_characters_survive() -> None:
    body = b'{"model":"gpt-4","messages":[{"role":"user","content":"\\ud83d\\ude00 \\u0000 \xf0\x9f\x98\x80"}]}'
    request = openai.parse_chat(body, LIMITS).request
    assert isinstance(request, ChatRequest)
    assert request.messages[0].text == "😀 \0 😀"


def test_a_body_may_be_as_deep_as_the_limit_and_brackets_in_strings_do_not_count() -> None:
    schema: dict[str, Any] = {}
    for _ in range(LIMITS.max_json_depth - 4):
        schema = {"items": schema}
    form = {"type": "json_schema", "json_schema": {"name": "deep", "schema": schema}}
    assert chat(response_format=form, messages=[{"role": "user", "content": '[{"\\' * 100}])
