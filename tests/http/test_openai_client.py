"""The openai client, with only its base_url changed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest

HELLO = [{"role": "user", "content": "Hello there my friend"}]


@pytest.fixture(scope="module")
def client(gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def test_chat(client) -> None:
    answer = client.chat.completions.create(model="gpt-4", messages=HELLO)

    assert answer.choices[0].message.content == "Hello there my friend"
    assert answer.model == "gpt-4"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens == 8


def test_headers_say_who_served(client) -> None:
    answer = client.chat.completions.with_raw_response.create(model="gpt-4", messages=HELLO)

    assert answer.headers["x-gateway-model"] == "echo"
    assert answer.headers["x-gateway-backend"] == "echo"
    assert answer.headers["x-gateway-replica"] == "echo@echo#0"
    assert answer.headers["x-request-id"]


def test_a_stream_says_the_same_as_the_whole(client) -> None:
    chunks = list(
        client.chat.completions.create(
            model="echo", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "Hello there my friend"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 4
    assert len({chunk.id for chunk in chunks}) == 1


def test_several_choices(client) -> None:
    answer = client.chat.completions.create(model="echo", messages=HELLO, n=3, max_tokens=2)

    assert [(choice.index, choice.message.content, choice.finish_reason) for choice in answer.choices] == [
        (index, "Hello there ", "length") for index in range(3)
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_a_required_tool_is_called(client, stream) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    answer = client.chat.completions.create(
        model="echo", messages=HELLO, tools=[tool], tool_choice="required", stream=stream
    )
    if stream:
        chunks = list(answer)
        calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
        name, arguments = calls[0].function.name, "".join(call.function.arguments or "" for call in calls)
        reason = chunks[-1].choices[0].finish_reason
    else:
        (call,) = answer.choices[0].message.tool_calls
        name, arguments, reason = call.function.name, call.function.arguments, answer.choices[0].finish_reason

    assert (name, reason) == ("weather", "tool_calls")
    assert isinstance(json.loads(arguments)["city"], str)


def test_completions(client) -> None:
    answer = client.completions.create(model="echo", prompt="one two three", max_tokens=2)

    assert answer.choices[0].text == "one two "


def test_embeddings(client) -> None:
    answer = client.embeddings.create(model="echo", input=["a", "b", "a"])
    first, second, third = (one.embedding for one in answer.data)

    assert first == third != second
    assert sum(value * value for value in first) == pytest.approx(1.0, abs=1e-5)


def test_models_and_aliases_are_listed(client) -> None:
    listed = {model.id: model.model_dump() for model in client.models.list()}

    assert listed["gpt-4"]["alias_of"] == ["echo"]
    assert listed["gpt-4"]["backend"] == "echo"
    assert listed["echo"]["active"] is True
    assert listed["echo"]["state"] == "ready"
    assert listed["off"]["active"] is False
    assert listed["absent"]["state"] == "absent"
    assert client.models.retrieve("echo@echo").model_dump()["context_tokens"] > 0


@pytest.mark.parametrize(
    ("model", "error", "code"),
    [
        ("nobody", openai.NotFoundError, "model_not_found"),
        ("off", openai.NotFoundError, "model_disabled"),
        ("absent", openai.InternalServerError, "model_not_ready"),
    ],
)
def test_a_model_that_cannot_answer_says_why(client, model, error, code) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(model=model, messages=HELLO)

    assert caught.value.body["code"] == code
    assert "retry-after" not in caught.value.response.headers, "nothing that time alone would mend"


def test_what_a_backend_cannot_do_is_refused_by_name(client) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="echo", messages=HELLO, logprobs=True)

    assert caught.value.body["param"] == "logprobs"
    assert "echo" in caught.value.body["message"]


def test_an_unknown_field_is_refused_by_name(client) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="echo", messages=HELLO, extra_body={"temprature": 1})

    assert caught.value.body["param"] == "temprature"


def test_a_deployment_can_be_addressed(client) -> None:
    assert client.chat.completions.create(model="echo@echo", messages=HELLO).choices[0].message.content
