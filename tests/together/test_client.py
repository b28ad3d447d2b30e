"""One script of the openai client, which every backend has to pass."""

from __future__ import annotations

import json
import math
from typing import Any

import jsonschema
import openai
import pytest

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in (WEATHER, CLOCK)}
ASK: Any = [{"role": "user", "content": "What is the weather in Paris, in C?"}]
STORY: Any = [{"role": "user", "content": "Tell a story about a dragon."}]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def model(backend: str) -> str:
    """The demo model on one backend."""
    return f"smollm2-135m@{backend}"


def test_chat(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.with_raw_response.create(model=model, messages=STORY, max_tokens=8)
    parsed = answer.parse()

    assert parsed.model == model
    assert answer.headers["x-gateway-backend"] == model.partition("@")[2]
    assert parsed.choices[0].message.content
    assert parsed.choices[0].finish_reason == "length"
    assert parsed.usage is not None
    assert parsed.usage.completion_tokens == 8


def test_stream(client: openai.OpenAI, model: str) -> None:
    """At temperature 0 it says the same as the whole answer."""
    fields: Any = {"model": model, "messages": STORY, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**fields)
    chunks = list(client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}))

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 24


def test_n_and_seed(client: openai.OpenAI, model: str) -> None:
    """Three choices that differ; choice i of seed s is choice 0 of seed s + i."""
    fields: Any = {"model": model, "messages": STORY, "max_tokens": 12, "temperature": 1.2}
    answer = client.chat.completions.create(**fields, n=3, seed=11)
    texts = [choice.message.content for choice in answer.choices]

    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 36


def test_same_seed_same_text(client: openai.OpenAI, model: str) -> None:
    fields: Any = {"model": model, "messages": STORY, "max_tokens": 16, "temperature": 1.2, "seed": 5}
    one, two = (client.chat.completions.create(**fields).choices[0].message.content for _ in range(2))

    assert one == two


def test_stop(client: openai.OpenAI, model: str) -> None:
    fields: Any = {"model": model, "messages": STORY, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**fields).choices[0].message.content or ""
    stop = whole[len(whole) // 2 :][:5]
    answer = client.chat.completions.create(**fields, stop=[stop]).choices[0]

    assert answer.message.content == whole[: whole.index(stop)]
    assert answer.finish_reason == "stop"


def test_logprobs(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=STORY, max_tokens=8, temperature=0, logprobs=True, top_logprobs=3
    )
    found = answer.choices[0].logprobs
    assert found is not None
    tokens = found.content or []

    assert "".join(token.token for token in tokens) == answer.choices[0].message.content
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token  # greedy
        assert sum(math.exp(other.logprob) for other in token.top_logprobs) <= 1.001


def test_json_schema(client: openai.OpenAI, model: str) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "maximum": 150}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Invent a person."}],
        max_tokens=100,
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}},
    )

    jsonschema.validate(json.loads(answer.choices[0].message.content or ""), schema)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_time"}}])
def test_a_tool_that_must_be_called(client: openai.OpenAI, model: str, choice: Any) -> None:
    answer = client.chat.completions.create(
        model=model, messages=ASK, tools=[CLOCK, WEATHER], tool_choice=choice, max_tokens=100
    )
    calls = answer.choices[0].message.tool_calls or []

    assert answer.choices[0].finish_reason == "tool_calls"
    assert calls
    for call in calls:
        assert call.type == "function"
        assert choice == "required" or call.function.name == "get_time"
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])


def test_a_tool_that_may_be_called(client: openai.OpenAI, model: str) -> None:
    """Text or a valid call, and the reason says which."""
    answer = client.chat.completions.create(
        model=model, messages=ASK, tools=[WEATHER], tool_choice="auto", max_tokens=60, temperature=0
    ).choices[0]

    if answer.finish_reason == "tool_calls":
        (call, *_) = answer.message.tool_calls or []
        assert call.type == "function"
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    else:
        assert answer.message.content or answer.message.tool_calls


def test_a_tool_result_can_be_sent_back(client: openai.OpenAI, model: str) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}
    messages: list[Any] = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "21 C and sunny"},
    ]
    answer = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER], max_tokens=20)

    assert answer.choices[0].finish_reason in {"stop", "length", "tool_calls"}


def test_embeddings(client: openai.OpenAI, model: str) -> None:
    together = client.embeddings.create(model=model, input=["a cat", "the stock market"])
    alone = client.embeddings.create(model=model, input="a cat", dimensions=64)

    assert [len(one.embedding) for one in together.data] == [576, 576]
    assert len(alone.data[0].embedding) == 64
    shortened = together.data[0].embedding[:64]
    cosine = sum(a * b for a, b in zip(shortened, alone.data[0].embedding, strict=True)) / math.hypot(*shortened)
    assert cosine > 0.999


def test_completions(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(
        model=model, prompt=["Once upon a time", "The capital of France is"], max_tokens=5, echo=True, temperature=0
    )

    assert [choice.text.startswith(begin) for choice, begin in zip(answer.choices, ("Once", "The"), strict=True)]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 10


def test_what_no_backend_can(client: openai.OpenAI, model: str) -> None:
    """Is refused, and named: nothing is dropped in silence."""
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=model, prompt="Once", suffix="end", max_tokens=5)

    assert refused.value.param == "suffix"
    assert model.partition("@")[2] in str(refused.value)
