"""Bad bodies: each is a 400 that names field and code and says the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from core.dialects import openai
from core.dialects.openai import chat, completions, embeddings, rerank
from core.dialects.openai.fields import ACCEPTED, CHAT, COMPLETION, EMBEDDINGS, RERANK, Fields
from core.errors import GatewayError
from core.settings import LimitsTable

LIMITS = LimitsTable()
PARSERS: dict[str, Callable[[bytes, LimitsTable], openai.Parsed]] = {
    "chat": openai.parse_chat,
    "completion": openai.parse_completion,
    "embeddings": openai.parse_embeddings,
    "rerank": openai.parse_rerank,
}
GOOD: dict[str, dict[str, Any]] = {
    "chat": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    "completion": {"model": "m", "prompt": "hi"},
    "embeddings": {"model": "m", "input": "hi"},
    "rerank": {"model": "m", "query": "hi", "documents": ["a"]},
}
ENDPOINTS = [
    (chat.ChatBody, CHAT),
    (completions.CompletionBody, COMPLETION),
    (embeddings.EmbeddingsBody, EMBEDDINGS),
    (rerank.RerankBody, RERANK),
]


def refused(task: str, body: bytes, limits: LimitsTable = LIMITS) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        PARSERS[task](body, limits)
    assert caught.value.message.endswith((".", "?"))
    assert caught.value.type == "invalid_request_error"
    json.dumps(caught.value.body()).encode()
    return caught.value


def refused_with(task: str, **fields: Any) -> GatewayError:
    return refused(task, json.dumps(GOOD[task] | fields).encode())


# --- values -------------------------------------------------------------------------------------

VALUE, TYPE, MISSING = "invalid_value", "invalid_type", "missing_required_parameter"
UNKNOWN, UNSUPPORTED = "unknown_parameter", "unsupported_parameter"


def one_message(**fields: Any) -> dict[str, Any]:
    return {"messages": [fields]}


def tool(name: str = "f", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def schema(**json_schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": json_schema}}


GENERATION_TABLE: list[tuple[dict[str, Any], str, str]] = [
    ({"model": ""}, "model", VALUE),
    ({"model": "m" * 257}, "model", VALUE),
    ({"model": None}, "model", TYPE),
    ({"user": 1}, "user", TYPE),
    ({"stream": "yes"}, "stream", TYPE),
    ({"stream_options": {"include_usage": True}}, "stream_options", VALUE),
    ({"stream": True, "stream_options": []}, "stream_options", TYPE),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", TYPE),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", UNKNOWN),
    ({"n": 0}, "n", VALUE),
    ({"n": 129}, "n", VALUE),
    ({"n": "2"}, "n", TYPE),
    ({"n": 1.0}, "n", TYPE),
    ({"n": True}, "n", TYPE),
    ({"n": 10**30}, "n", VALUE),
    ({"max_tokens": 0}, "max_tokens", VALUE),
    ({"max_tokens": 2**31}, "max_tokens", VALUE),
    ({"temperature": -0.1}, "temperature", VALUE),
    ({"temperature": 2.1}, "temperature", VALUE),
    ({"temperature": "hot"}, "temperature", TYPE),
    ({"top_p": 0}, "top_p", VALUE),
    ({"top_p": 1.1}, "top_p", VALUE),
    ({"top_k": -2}, "top_k", VALUE),
    ({"min_p": 1.1}, "min_p", VALUE),
    ({"seed": 2**63}, "seed", VALUE),
    ({"seed": -(2**63) - 1}, "seed", VALUE),
    ({"seed": 10**30}, "seed", VALUE),
    ({"stop": ""}, "stop", VALUE),
    ({"stop": ["a", ""]}, "stop", VALUE),
    ({"stop": ["a"] * 5}, "stop", VALUE),
    ({"stop": [1]}, "stop", TYPE),
    ({"presence_penalty": 2.1}, "presence_penalty", VALUE),
    ({"frequency_penalty": -2.1}, "frequency_penalty", VALUE),
    ({"repetition_penalty": 0}, "repetition_penalty", VALUE),
    ({"repetition_penalty": 10.1}, "repetition_penalty", VALUE),
    ({"logit_bias": {"1": 101}}, "logit_bias", VALUE),
    ({"logit_bias": {"-1": 1}}, "logit_bias", VALUE),
    ({"logit_bias": {"9" * 30: 1}}, "logit_bias", VALUE),
    ({"logit_bias": {"x": 1}}, "logit_bias", TYPE),
    ({"logit_bias": {"1": "x"}}, "logit_bias", TYPE),
    ({"logit_bias": [1]}, "logit_bias", TYPE),
    ({"temprature": 1}, "temprature", UNKNOWN),
    ({"": 1}, "", UNKNOWN),
]
CHAT_TABLE: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "messages", VALUE),
    ({"messages": "hi"}, "messages", TYPE),
    ({"messages": ["hi"]}, "messages[0]", TYPE),
    (one_message(content="x"), "messages[0].role", MISSING),
    (one_message(role="user"), "messages[0].content", MISSING),
    (one_message(role="user", content=None), "messages[0].content", TYPE),
    (one_message(role="user", content=1), "messages[0].content", TYPE),
    (one_message(role="user", content=[]), "messages[0].content", VALUE),
    (one_message(role="user", content=["x"]), "messages[0].content[0]", TYPE),
    (one_message(role="user", content=[{"text": "x"}]), "messages[0].content[0].type", MISSING),
    (one_message(role="user", content=[{"type": "text"}]), "messages[0].content[0].text", MISSING),
    (one_message(role="user", content=[{"type": "text", "text": 1}]), "messages[0].content[0].text", TYPE),
    (one_message(role="user", content=[{"type": "text", "text": "", "x": 1}]), "messages[0].content[0].x", UNKNOWN),
    (one_message(role="user", content=[{"type": "image_url"}]), "messages[0].content[0].type", VALUE),
    (one_message(role="user", content=[{"type": "input_audio"}]), "messages[0].content[0].type", VALUE),
    (one_message(role="user", content=[{"type": "file"}]), "messages[0].content[0].type", VALUE),
    (one_message(role="user", content=[{"type": "refusal", "refusal": ""}]), "messages[0].content[0].type", VALUE),
    (one_message(role="user", content="x", name=1), "messages[0].name", TYPE),
    (one_message(role="user", content="x", tool_calls=[]), "messages[0].tool_calls", UNKNOWN),
    (one_message(role="user", contents="x"), "messages[0].contents", UNKNOWN),
    (one_message(role="robot", content="x"), "messages[0].role", VALUE),
    (one_message(role=1, content="x"), "messages[0].role", VALUE),
    (one_message(role="function", content="x", name="f"), "messages[0].role", VALUE),
    (one_message(role="tool", content="x"), "messages[0].tool_call_id", MISSING),
    (one_message(role="assistant"), "messages[0].content", VALUE),
    (one_message(role="assistant", content=None, tool_calls=[]), "messages[0].content", VALUE),
    (one_message(role="assistant", content="x", audio={"id": "a"}), "messages[0].audio", TYPE),
    (one_message(role="assistant", content="x", function_call={}), "messages[0].function_call", TYPE),
    (one_message(role="assistant", tool_calls=[{}]), "messages[0].tool_calls[0].id", MISSING),
    (one_message(role="assistant", tool_calls=[tool()]), "messages[0].tool_calls[0].function.arguments", MISSING),
    (one_message(role="assistant", tool_calls=[tool(arguments="")]), "messages[0].tool_calls[0].id", MISSING),
    (one_message(role="assistant", content=[{"text": "x"}]), "messages[0].content[0].type", MISSING),
    (
        one_message(role="assistant", tool_calls=[{"id": "1"} | tool(arguments={})]),
        "messages[0].tool_calls[0].function.arguments",
        TYPE,
    ),
    (
        one_message(role="assistant", tool_calls=[{"id": "1", "type": "custom", "function": {}}]),
        "messages[0].tool_calls[0].type",
        VALUE,
    ),
    ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens", VALUE),
    ({"max_completion_tokens": 0}, "max_completion_tokens", VALUE),
    ({"logprobs": 3}, "logprobs", TYPE),
    ({"top_logprobs": 3}, "top_logprobs", VALUE),
    ({"top_logprobs": 3, "logprobs": False}, "top_logprobs", VALUE),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", VALUE),
    ({"response_format": "json"}, "response_format", TYPE),
    ({"response_format": {}}, "response_format.type", MISSING),
    ({"response_format": {"type": "xml"}}, "response_format.type", VALUE),
    ({"response_format": {"type": "text", "x": 1}}, "response_format.x", UNKNOWN),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", MISSING),
    (schema(name="a"), "response_format.json_schema.schema", MISSING),
    (schema(schema={}), "response_format.json_schema.name", MISSING),
    (schema(name="a b", schema={}), "response_format.json_schema.name", VALUE),
    (schema(name="a\n", schema={}), "response_format.json_schema.name", VALUE),
    (schema(name="a" * 65, schema={}), "response_format.json_schema.name", VALUE),
    (schema(name="a", schema="x"), "response_format.json_schema.schema", TYPE),
    (schema(name="a", schema={}, strict="x"), "response_format.json_schema.strict", TYPE),
    ({"tools": {}}, "tools", TYPE),
    ({"tools": [tool(f"f{i}") for i in range(129)]}, "tools", VALUE),
    ({"tools": [{}]}, "tools[0].type", MISSING),
    ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type", VALUE),
    ({"tools": [{"type": "function"}]}, "tools[0].function", MISSING),
    ({"tools": [tool("a b")]}, "tools[0].function.name", VALUE),
    ({"tools": [tool(), tool()]}, "tools[1].function.name", VALUE),
    ({"tools": [tool(parameters=[])]}, "tools[0].function.parameters", TYPE),
    ({"tools": [tool(parameters={"type": "array"})]}, "tools[0].function.parameters", VALUE),
    ({"tools": [tool(parameters={"type": ["object"]})]}, "tools[0].function.parameters", VALUE),
    ({"tools": [tool(params={})]}, "tools[0].function.params", UNKNOWN),
    ({"tool_choice": "required"}, "tool_choice", VALUE),
    ({"tool_choice": tool(), "tools": []}, "tool_choice", VALUE),
    ({"tool_choice": "any", "tools": [tool()]}, "tool_choice", VALUE),
    ({"tool_choice": tool("g"), "tools": [tool()]}, "tool_choice.function.name", VALUE),
    ({"tool_choice": {"type": "allowed_tools"}, "tools": [tool()]}, "tool_choice.type", VALUE),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls", TYPE),
    ({"modalities": ["text", "audio"]}, "modalities", VALUE),
    ({"functions": []}, "functions", UNSUPPORTED),
    ({"function_call": "auto"}, "function_call", UNSUPPORTED),
    ({"audio": {}}, "audio", UNSUPPORTED),
    ({"prediction": {}}, "prediction", UNSUPPORTED),
    ({"reasoning_effort": "low"}, "reasoning_effort", UNSUPPORTED),
    ({"verbosity": "low"}, "verbosity", UNSUPPORTED),
    ({"web_search_options": {}}, "web_search_options", UNSUPPORTED),
    ({"moderation": {"model": "m"}}, "moderation", UNSUPPORTED),
    ({"echo": True}, "echo", UNKNOWN),
]
TEXTS_TABLE: list[tuple[Any, str]] = [
    ("", VALUE),
    ([], VALUE),
    ([""], VALUE),
    (["a", 1], VALUE),
    ([1, [2]], VALUE),
    ([[]], VALUE),
    ([[1], []], VALUE),
    ([-1], VALUE),
    ([2**31], VALUE),
    ([1.5], TYPE),
    ([["a"]], TYPE),
    ([None], TYPE),
    (None, TYPE),
    ({}, TYPE),
]
COMPLETION_TABLE: list[tuple[dict[str, Any], str, str]] = [
    *(({"prompt": prompt}, "prompt", code) for prompt, code in TEXTS_TABLE),
    ({"prompt": ["a"] * 17, "n": 128}, "prompt", VALUE),
    ({"logprobs": 6}, "logprobs", VALUE),
    ({"logprobs": True}, "logprobs", TYPE),
    ({"echo": 1}, "echo", TYPE),
    ({"suffix": 1}, "suffix", TYPE),
    ({"best_of": 2}, "best_of", VALUE),
    ({"best_of": 2, "n": 3}, "best_of", VALUE),
    ({"messages": []}, "messages", UNKNOWN),
    ({"top_logprobs": 1}, "top_logprobs", UNKNOWN),
]
EMBEDDINGS_TABLE: list[tuple[dict[str, Any], str, str]] = [
    *(({"input": texts}, "input", code) for texts, code in TEXTS_TABLE),
    ({"input": ["a"] * 2049}, "input", VALUE),
    ({"encoding_format": "int8"}, "encoding_format", VALUE),
    ({"dimensions": 0}, "dimensions", VALUE),
    ({"dimensions": "64"}, "dimensions", TYPE),
    ({"stream": True}, "stream", UNKNOWN),
]

RERANK_TABLE: list[tuple[dict[str, Any], str, str]] = [
    ({"query": ""}, "query", VALUE),
    ({"query": ["hi"]}, "query", TYPE),
    ({"documents": []}, "documents", VALUE),
    ({"documents": "a"}, "documents", TYPE),
    ({"documents": ["a"] * 2049}, "documents", VALUE),
    ({"documents": ["a", ""]}, "documents[1]", VALUE),
    ({"documents": ["a", 7]}, "documents[1]", TYPE),
    ({"documents": [{"text": ""}]}, "documents[0].text", VALUE),
    ({"documents": [{"text": ["a"]}]}, "documents[0].text", TYPE),
    ({"documents": [{}]}, "documents[0].text", MISSING),
    ({"documents": [{"text": "a", "title": "b"}]}, "documents[0].title", UNKNOWN),
    ({"top_n": 0}, "top_n", VALUE),
    ({"top_n": 1.5}, "top_n", TYPE),
    ({"return_documents": "yes"}, "return_documents", TYPE),
    ({"max_tokens_per_doc": 7}, "max_tokens_per_doc", UNKNOWN),
    ({"stream": True}, "stream", UNKNOWN),
]


def rows() -> Iterator[Any]:
    tables = {
        "chat": GENERATION_TABLE + CHAT_TABLE,
        "completion": GENERATION_TABLE + COMPLETION_TABLE,
        "embeddings": EMBEDDINGS_TABLE,
        "rerank": RERANK_TABLE,
    }
    for task, table in tables.items():
        for fields, param, code in table:
            yield pytest.param(task, fields, param, code, id=f"{task}: {json.dumps(fields)[:60]}")


@pytest.mark.parametrize(("task", "fields", "param", "code"), list(rows()))
def test_a_wrong_field_is_named(task: str, fields: dict[str, Any], param: str, code: str) -> None:
    error = refused_with(task, **fields)
    assert (error.status, error.param, error.code) == (400, param, code)
    assert f"'{param}'" in error.message


@pytest.mark.parametrize("task", PARSERS)
def test_what_is_required_is_missed(task: str) -> None:
    for field in GOOD[task]:
        body = {name: value for name, value in GOOD[task].items() if name != field}
        error = refused(task, json.dumps(body).encode())
        assert (error.param, error.code) == (field, MISSING)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"temprature": 1}, "did you mean 'temperature'?"),
        (one_message(role="user", contents="x"), "did you mean 'content'?"),
        ({"wholly_unlike_anything": 1}, "docs/openai.md"),
        ({"temperature": 3}, "'temperature' must be a number from 0 to 2."),
        ({"n": "3"}, "'n' must be an integer from 1 to 128, not a string."),
        ({"functions": []}, "use 'tools'"),
        ({"function_call": "auto"}, "use 'tool_choice'"),
        (one_message(role="function", content="x", name="f"), "use 'tool' with 'tool_call_id'"),
        (one_message(role="user", content=[{"type": "image_url"}]), "images, audio and files are not supported"),
        (one_message(role="user", content="x", refusal="x"), "only in an assistant message"),
    ],
)
def test_the_sentence_holds_the_remedy(fields: dict[str, Any], words: str) -> None:
    assert words in refused_with("chat", **fields).message


def test_what_the_client_wrote_is_not_echoed_at_length() -> None:
    error = refused_with("chat", **{"x" * 100_000: 1})
    assert len(error.message) < 300
    assert len(error.param or "") < 100
    assert len(refused_with("chat", **one_message(role="x" * 100_000, content="")).message) < 400
    named = tool("f", parameters={"type": "x" * 100_000})
    assert len(refused_with("chat", tools=[named]).message) < 300


# --- the tables and the structs agree -----------------------------------------------------------


def paths_of(kind: Any, at: str) -> Iterator[str]:
    """Every path that msgspec can name in an error, as `fields` spells paths."""
    match kind:
        case msgspec.inspect.StructType(fields=fields, tag_field=tag_field):
            if tag_field is not None:
                yield f"{at}.{tag_field}"
            for field in fields:
                path = f"{at}.{field.encode_name}" if at else field.encode_name
                yield path
                yield from paths_of(field.type, path)
        case msgspec.inspect.UnionType(types=types):
            for one in types:
                yield from paths_of(one, at)
        case msgspec.inspect.ListType(item_type=msgspec.inspect.StructType() | msgspec.inspect.UnionType() as item):
            if at not in {"prompt", "input"}:
                yield f"{at}[]"
                yield from paths_of(item, f"{at}[]")
        case _:
            pass


@pytest.mark.parametrize(("body", "fields"), ENDPOINTS)
def test_every_field_of_the_structs_has_its_phrase_and_no_other_has(body: type, fields: Fields) -> None:
    assert set(paths_of(msgspec.inspect.type_info(body), "")) == set(fields.honoured)


@pytest.mark.parametrize(("body", "fields"), ENDPOINTS)
def test_a_field_is_treated_in_one_way(body: type, fields: Fields) -> None:
    del body
    assert not set(fields.honoured) & set(fields.refused)
    assert not set(ACCEPTED) & (set(fields.honoured) | set(fields.refused))
