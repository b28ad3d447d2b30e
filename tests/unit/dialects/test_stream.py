"""Streamed answers: chunks, usage, errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import openai as client
import pytest

from core.api.messages import Finished, TextDelta, TokenLogprob, ToolCallDelta, Usage
from core.dialects import openai
from core.errors import GatewayError

USAGE = Usage(prompt_tokens=11, completion_tokens=5, cached_tokens=4, reasoning_tokens=2)
HI = TokenLogprob(token="Hi", logprob=-0.5)  # noqa: S106 - a token of text


def test_a_chat_stream(dialect: Any) -> None:
    parsed = dialect.chat(stream=True)
    chunks = dialect.streamed(parsed, TextDelta(text='He"l\n'), TextDelta(text="lo"), Finished(reason="stop"), USAGE)
    common = {
        "id": parsed.request.id,
        "object": "chat.completion.chunk",
        "created": parsed.created,
        "model": "served",
        "system_fingerprint": None,
    }
    assert [{k: v for k, v in chunk.items() if k != "choices"} for chunk in chunks] == [common] * 4
    choice = {"index": 0, "logprobs": None, "finish_reason": None}
    assert [chunk["choices"] for chunk in chunks] == [
        [choice | {"delta": {"role": "assistant", "content": "", "refusal": None}}],
        [choice | {"delta": {"content": 'He"l\n'}}],
        [choice | {"delta": {"content": "lo"}}],
        [choice | {"delta": {}, "finish_reason": "stop"}],
    ]


def test_usage_is_streamed_only_when_asked_for(dialect: Any) -> None:
    parsed = dialect.chat(stream=True, stream_options={"include_usage": True})
    *chunks, last = dialect.streamed(parsed, TextDelta(text="a"), Finished(), USAGE)
    assert [chunk["usage"] for chunk in chunks] == [None] * 3
    assert last["choices"] == []
    assert last["usage"] == dialect.whole(dialect.chat(), Finished(), USAGE)["usage"]
    assert last["id"] == parsed.request.id


def test_a_streamed_tool_call(dialect: Any) -> None:
    """As OpenAI streams it: the role with null content, then the call, then its arguments."""
    chunks = dialect.streamed(
        dialect.chat(stream=True),
        ToolCallDelta(id="call_a", name="f"),
        ToolCallDelta(arguments="{}"),
        Finished(reason="tool_calls"),
        USAGE,
    )
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": None, "refusal": None},
        {"tool_calls": [{"index": 0, "id": "call_a", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
        {},
    ]


def test_each_choice_begins_with_its_role(dialect: Any) -> None:
    chunks = dialect.streamed(
        dialect.chat(stream=True, n=2),
        TextDelta(choice=1, text="b"),
        TextDelta(choice=0, text="a"),
        TextDelta(choice=1, text="B"),
        Finished(choice=0),
        Finished(choice=1),
        USAGE,
    )
    roles = [c["choices"][0]["index"] for c in chunks if "role" in c["choices"][0]["delta"]]
    assert roles == [1, 0]


def test_streamed_logprobs_stand_with_their_text(dialect: Any) -> None:
    chunks = dialect.streamed(
        dialect.chat(stream=True, logprobs=True), TextDelta(text="Hi", logprobs=(HI,)), Finished(), USAGE
    )
    assert [bool(chunk["choices"][0]["logprobs"]) for chunk in chunks] == [False, True, False]


def test_a_legacy_stream_counts_offsets_across_chunks(dialect: Any) -> None:
    delta = TextDelta(text="Hi", logprobs=(HI,))
    chunks = dialect.streamed(
        dialect.completion(stream=True, logprobs=1), TextDelta(text="é"), delta, delta, Finished(), USAGE
    )
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["é", "Hi", "Hi", ""]
    assert chunks[0]["choices"][0]["logprobs"] is None
    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks[1:3]] == [[1], [3]]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}


def test_an_error_is_the_last_event_and_the_client_raises_it(dialect: Any) -> None:
    """OpenAI's own client, fed with our bytes: comments are skipped, text arrives, the error is raised."""
    stream = openai.Stream(dialect.chat(stream=True), "m")
    sse = openai.KEEPALIVE + stream.chunks([TextDelta(text="a")]) + openai.KEEPALIVE
    sse += stream.error(GatewayError.engine_failed("It died."))
    assert b"[DONE]" not in sse

    text: list[str | None] = []
    with served(sse) as url:
        user = client.OpenAI(api_key="none", base_url=url, max_retries=0)

        def read() -> None:
            for chunk in user.chat.completions.create(model="m", messages=[], stream=True):
                text.append(chunk.choices[0].delta.content)  # noqa: PERF401 - what came before the error counts

        with user, pytest.raises(client.APIError, match=r"It died\.") as caught:
            read()
    assert caught.value.code == "engine_failed"
    assert text == ["", "a"]


@contextmanager
def served(sse: bytes) -> Iterator[str]:
    """The URL of a server that answers each request with these server-sent events."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            self.wfile.write(sse)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_embeddings_cannot_be_streamed(dialect: Any) -> None:
    with pytest.raises(TypeError, match="not streamed"):
        openai.Stream(dialect.embeddings(), "m")
