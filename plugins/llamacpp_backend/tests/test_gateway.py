"""The demo model behind a whole gateway: the openai client, crowds, leavers, and the engine's own words."""

from __future__ import annotations

import concurrent.futures
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from core.testing import Gateway, demo_weights, eventually, start_gateway

ALIASES = ("gpt-3.5-turbo", "gpt-4", "gpt-4-turbo", "claude-3-opus", "claude-3-sonnet")
HELLO: list[Any] = [{"role": "user", "content": "Hello!"}]
MODEL = "smollm2-135m"
CONFIG = """
[plugins]
allow = ["llamacpp"]
[limits]
max_waiting = 200
[deployments."smollm2-135m@llamacpp"]
settings = { threads = 1, slots = 4 }
"""
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    demo_weights()
    with start_gateway(CONFIG) as running:
        eventually(lambda: running.health()["status"] == "healthy", within_s=60)
        yield running


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0, timeout=120) as made:
        yield made


@pytest.mark.parametrize("alias", ALIASES)
def test_each_alias_is_answered(client: openai.OpenAI, alias: str) -> None:
    answer = client.chat.completions.with_raw_response.create(model=alias, messages=HELLO, max_tokens=8)
    parsed = answer.parse()

    assert parsed.choices[0].message.content
    assert parsed.model == alias
    assert answer.headers["x-gateway-model"] == MODEL
    assert parsed.usage is not None
    assert 0 < parsed.usage.completion_tokens <= 8


def test_a_stream_says_the_same_as_the_whole(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=30, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            max_tokens=30,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_binding_tool_choice_yields_a_valid_call(client: openai.OpenAI, choice: Any) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[CLOCK, WEATHER],
        tool_choice=choice,
        parallel_tool_calls=False,
    )
    (call,) = answer.choices[0].message.tool_calls or ()
    assert call.type == "function"
    tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in (CLOCK, WEATHER)}

    assert answer.choices[0].finish_reason == "tool_calls"
    assert choice == "required" or call.function.name == "get_weather"
    jsonschema.validate(json.loads(call.function.arguments), tools[call.function.name])


def test_a_tool_result_can_be_sent_back(client: openai.OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}
    messages: list[Any] = [
        {"role": "user", "content": "What is the weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "21 C and sunny"},
    ]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER], max_tokens=20)

    assert answer.choices[0].finish_reason in {"stop", "length", "tool_calls"}


def test_a_json_schema_is_kept(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Invent a person."}],
        max_tokens=100,
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}},
    )

    jsonschema.validate(json.loads(answer.choices[0].message.content or ""), schema)


def test_embeddings(client: openai.OpenAI) -> None:
    together = client.embeddings.create(model=MODEL, input=["a cat", "the stock market"])
    alone = client.embeddings.create(model=MODEL, input="a cat", dimensions=64)

    assert len(together.data) == 2
    assert len(together.data[0].embedding) == 576
    assert len(alone.data[0].embedding) == 64
    assert sum(value * value for value in alone.data[0].embedding) == pytest.approx(1.0, abs=1e-3)


def test_a_prompt_over_the_context_is_refused_with_both_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 9000}])

    assert caught.value.code == "context_length_exceeded"
    assert re.search(r"\b8192\b", str(caught.value))


def test_a_hundred_streams_on_four_slots_all_end_rightly(gateway: Gateway, client: openai.OpenAI) -> None:
    """None is lost, cut or mixed up: each echoes the usage of its own prompt, whose length is its number."""

    def ask(number: int) -> tuple[str | None, int, int]:
        prompt = " ".join(["a"] * (number + 1))
        chunks = list(
            client.completions.create(
                model=MODEL, prompt=prompt, max_tokens=8, stream=True, stream_options={"include_usage": True}
            )
        )
        usage = chunks[-1].usage
        assert usage is not None
        return chunks[-2].choices[0].finish_reason, usage.prompt_tokens, usage.completion_tokens

    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(ask, range(100)))

    assert {reason for reason, _, _ in answers} <= {"stop", "length"}
    assert [prompt for _, prompt, _ in answers] == [number + 1 for number in range(100)]
    eventually(lambda: gateway.health()["requests_in_flight"] == 0)


def test_sixteen_clients_that_leave_cost_the_next_one_nothing(gateway: Gateway, client: openai.OpenAI) -> None:
    """Half of them in a long prefill, half while they decode or wait."""
    host, port = gateway.url.removeprefix("http://").split(":")
    clients = []
    for number in range(16):
        text = f"{number} " + "word " * (3000 if number % 2 else 5)
        body = json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": text}]}).encode()
        leaver = socket.create_connection((host, int(port)))
        leaver.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        clients.append(leaver)
    deployment = f"{MODEL}@llamacpp"
    eventually(lambda: gateway.health()["deployments"][deployment]["queued"] >= 10)
    for leaver in clients:
        leaver.close()
    left_s = time.monotonic()
    client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1)
    took_s = time.monotonic() - left_s

    # A prefill batch of 256 tokens is what may have to end first; all sixteen would take minutes.
    assert took_s < 10
    eventually(lambda: gateway.health()["deployments"][deployment]["in_flight"] == 0, within_s=5)


def test_the_gateway_adds_and_takes_nothing_from_the_engines_text() -> None:
    """At temperature 0 and one slot: the same text, token for token, as llama.cpp's own server gives."""
    program = """
import sys, threading, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.hostnames = sys.argv[1], [sys.argv[2]]
p.n_ctx, p.n_parallel, p.n_batch, p.n_ubatch = 2048, 1, 256, 256
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(p)
threading.Event().wait()
"""
    config = CONFIG.replace("slots = 4", "slots = 1") + "context_tokens = 2048\n"
    prompts = ["Hello!", "Count to ten.", "Name three rivers and say where they are."]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/s.sock"
        own = subprocess.Popen([sys.executable, "-c", program, str(demo_weights()), path], stderr=subprocess.DEVNULL)
        try:
            with httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url="http://engine", timeout=60) as direct:
                eventually(lambda: _listens(path) and direct.get("/health").status_code == 200, within_s=60)
                expected = [_greedy(direct, "/v1/chat/completions", prompt) for prompt in prompts]
        finally:
            own.kill()
            own.wait()
    with start_gateway(config) as running:
        eventually(lambda: running.health()["status"] == "healthy", within_s=60)
        with httpx.Client(base_url=running.url, timeout=60) as through:
            actual = [_greedy(through, "/v1/chat/completions", prompt) for prompt in prompts]

    assert actual == expected


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def _greedy(client: httpx.Client, path: str, prompt: str) -> tuple[str, list[str], int]:
    """The text, its tokens one by one (llama.cpp lists the end of the answer too, without text), and their number."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": 60,
        "logprobs": True,
        "top_logprobs": 1,
    }
    answer = client.post(path, json=body).raise_for_status().json()
    choice = answer["choices"][0]
    tokens = [token["token"] for token in choice["logprobs"]["content"] if token["token"]]
    return choice["message"]["content"], tokens, answer["usage"]["completion_tokens"]
