"""Whole and streamed answers: the shapes of OpenAI's own client, exactly, and equal to each other."""

from __future__ import annotations

import json
import math
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import openai as client
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from core.api.messages import (
    Embedding,
    EngineEvent,
    Finished,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from core.dialects import openai
from core.errors import GatewayError
from core.settings import LimitsTable

LIMITS = LimitsTable()
USAGE = Usage(prompt_tokens=11, completion_tokens=5, cached_tokens=4, reasoning_tokens=2)


def scored(text: str, logprob: float, **more: Any) -> TokenLogprob:
    return TokenLogprob(token=text, logprob=logprob, **more)


HI = scored("Hi", -0.5, utf8=b"Hi", top=(scored("Hi", -0.5), scored("é", -math.inf)))
# Ours beyond the client's types: the de-facto name of reasoning text.
EXTENSIONS = {"reasoning_content"}


def chat(**fields: Any) -> openai.Parsed:
    body = {"model": "gpt-4", "messages": [{"role": "user", "content": "x"}], **fields}
    return openai.parse_chat(json.dumps(body).encode(), LIMITS)


def completion(**fields: Any) -> openai.Parsed:
    return openai.parse_completion(json.dumps({"model": "gpt-4", "prompt": "x", **fields}).encode(), LIMITS)


def embeddings(**fields: Any) -> openai.Parsed:
    return openai.parse_embeddings(json.dumps({"model": "gpt-4", "input": "x", **fields}).encode(), LIMITS)


def strict(kind: type[BaseModel], data: Any) -> dict[str, Any]:
    """Check that the data is what the client's type says, with no field that it does not know."""
    no_extras(kind.model_validate(data, strict=True))
    assert isinstance(data, dict)
    return data


def no_extras(value: Any) -> None:
    if isinstance(value, BaseModel):
        assert set(value.model_extra or {}) <= EXTENSIONS
        for name in value.model_fields_set - EXTENSIONS:
            no_extras(getattr(value, name))
    elif isinstance(value, list):
        for item in value:
            no_extras(item)


def whole(parsed: openai.Parsed, *events: EngineEvent) -> dict[str, Any]:
    kinds: dict[str, type[BaseModel]] = {
        "chat": ChatCompletion,
        "completion": Completion,
        "embeddings": CreateEmbeddingResponse,
    }
    return strict(kinds[parsed.task], json.loads(openai.reply(parsed, "served", events)))


def messages(sse: bytes) -> list[Any]:
    """The payloads of server-sent events, each of which must be one ``data`` line and an empty line."""
    *blocks, rest = sse.split(b"\n\n")
    assert rest == b""
    assert all(block.startswith(b"data: ") and b"\n" not in block for block in blocks)
    return [block.removeprefix(b"data: ") for block in blocks]


def streamed(parsed: openai.Parsed, *events: EngineEvent, batch: int = 1) -> list[dict[str, Any]]:
    stream = openai.Stream(parsed, "served")
    sse = b"".join(stream.chunks(events[i : i + batch]) for i in range(0, len(events), batch)) + stream.end()
    *chunks, done = messages(sse)
    assert done == b"[DONE]"
    kind: type[BaseModel] = ChatCompletionChunk if parsed.task == "chat" else Completion
    # Both shapes of a legacy completion are one type in the client, in which an unfinished chunk has no place.
    loaded = [json.loads(chunk) for chunk in chunks]
    for chunk in loaded:
        filled = [c | {"finish_reason": c["finish_reason"] or "stop"} for c in chunk["choices"]]
        strict(kind, chunk if parsed.task == "chat" else chunk | {"choices": filled})
    return loaded


# --- whole --------------------------------------------------------------------------------------


def test_a_chat_reply() -> None:
    parsed = chat()
    body = whole(parsed, TextDelta(text="Hel"), TextDelta(text="lo"), Finished(reason="length"), USAGE)
    assert body == {
        "id": parsed.request.id,
        "object": "chat.completion",
        "created": parsed.created,
        "model": "served",
        "system_fingerprint": None,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {
            "prompt_tokens": 11,
            "completion_tokens": 5,
            "total_tokens": 16,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
    }


def test_tool_calls_alone_leave_the_content_null() -> None:
    body = whole(
        chat(),
        ToolCallDelta(index=1, id="call_b", name="g", arguments="{}"),
        ToolCallDelta(index=0, id="call_a", name="f", arguments='{"a"'),
        ToolCallDelta(index=0, arguments=":1}"),
        Finished(reason="tool_calls"),
        USAGE,
    )
    message = body["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "call_a", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "call_b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    assert body["choices"][0]["finish_reason"] == "tool_calls"


def test_reasoning_is_kept_apart() -> None:
    body = whole(chat(), ReasoningDelta(text="hm"), ReasoningDelta(text="!"), TextDelta(text="4"), Finished(), USAGE)
    assert body["choices"][0]["message"] == {
        "role": "assistant",
        "content": "4",
        "refusal": None,
        "reasoning_content": "hm!",
    }


def test_an_empty_answer_is_an_empty_string() -> None:
    assert whole(chat(), Finished(), USAGE)["choices"][0]["message"]["content"] == ""


def test_choices_come_in_order_however_events_interleave() -> None:
    events = (TextDelta(choice=1, text="b"), TextDelta(choice=0, text="a"), TextDelta(choice=1, text="B"))
    body = whole(chat(n=2), *events, Finished(choice=1), Finished(choice=0, reason="length"), USAGE)
    got = [(c["index"], c["message"]["content"], c["finish_reason"]) for c in body["choices"]]
    assert got == [(0, "a", "length"), (1, "bB", "stop")]


def test_chat_logprobs() -> None:
    """What is not among the likely tokens has OpenAI's -9999, as JSON has no infinity."""
    body = whole(chat(logprobs=True, top_logprobs=2), TextDelta(text="Hi", logprobs=(HI,)), Finished(), USAGE)
    assert body["choices"][0]["logprobs"] == {
        "content": [
            {
                "token": "Hi",
                "logprob": -0.5,
                "bytes": [72, 105],
                "top_logprobs": [
                    {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]},
                    {"token": "é", "logprob": -9999.0, "bytes": [195, 169]},
                ],
            }
        ],
        "refusal": None,
    }


def test_a_legacy_completion() -> None:
    parsed = completion(logprobs=2)
    body = whole(parsed, TextDelta(text="Hi", logprobs=(HI,)), TextDelta(text="Hi", logprobs=(HI,)), Finished(), USAGE)
    assert (body["object"], body["id"]) == ("text_completion", parsed.request.id)
    assert body["choices"] == [
        {
            "index": 0,
            "text": "HiHi",
            "logprobs": {
                "tokens": ["Hi", "Hi"],
                "token_logprobs": [-0.5, -0.5],
                "top_logprobs": [{"Hi": -0.5, "é": -9999.0}] * 2,
                "text_offset": [0, 2],
            },
            "finish_reason": "stop",
        }
    ]


def test_legacy_logprobs_of_chosen_tokens_only_and_of_an_echoed_prompt() -> None:
    """The first token of a prompt has no probability: null, as OpenAI's."""
    first = scored("x", math.nan)
    events = (TextDelta(text="x", tokens=0, logprobs=(first,)), TextDelta(text="Hi", logprobs=(HI,)))
    body = json.loads(openai.reply(completion(logprobs=0, echo=True), "m", [*events, Finished(), USAGE]))
    logprobs = body["choices"][0]["logprobs"]
    assert logprobs == {
        "tokens": ["x", "Hi"],
        "token_logprobs": [None, -0.5],
        "top_logprobs": None,
        "text_offset": [0, 1],
    }
    body = json.loads(openai.reply(completion(logprobs=1, echo=True), "m", [*events, Finished(), USAGE]))
    assert body["choices"][0]["logprobs"]["top_logprobs"] == [None, {"Hi": -0.5, "é": -9999.0}]


def test_the_chosen_token_is_always_among_the_top_ones() -> None:
    token = scored("z", -5.0, top=(scored("a", -1.0),))
    body = whole(completion(logprobs=1), TextDelta(text="z", logprobs=(token,)), Finished(), USAGE)
    assert body["choices"][0]["logprobs"]["top_logprobs"] == [{"a": -1.0, "z": -5.0}]


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_embeddings_are_in_order_and_little_endian(encoding_format: str) -> None:
    events = [Embedding(index=i, vector=struct.pack("<2f", i, -0.5)) for i in (1, 0)]
    parsed = embeddings(input=["a", "b"], encoding_format=encoding_format)
    body = json.loads(openai.reply(parsed, "served", [*events, USAGE]))
    if encoding_format == "base64":
        assert [row["embedding"] for row in body["data"]] == ["AAAAAAAAAL8=", "AACAPwAAAL8="]
    else:
        strict(CreateEmbeddingResponse, body)
        assert [row["embedding"] for row in body["data"]] == [[0.0, -0.5], [1.0, -0.5]]
    assert [row["index"] for row in body["data"]] == [0, 1]
    assert body["usage"] == {"prompt_tokens": 11, "total_tokens": 11}
    assert body["model"] == "served"


@pytest.mark.parametrize(
    ("parsed", "events"),
    [
        (chat(), [TextDelta(text="a"), USAGE]),
        (chat(n=2), [Finished(choice=1), USAGE]),
        (completion(prompt=["a", "b"]), [Finished(choice=0), USAGE]),
        (embeddings(input=["a", "b"]), [Embedding(index=0, vector=b""), USAGE]),
    ],
)
def test_an_answer_without_its_end_is_never_a_clean_one(parsed: openai.Parsed, events: list[EngineEvent]) -> None:
    with pytest.raises(GatewayError, match="without finishing") as caught:
        openai.reply(parsed, "m", events)
    assert caught.value.code == "engine_failed"
    if parsed.task != "embeddings":
        stream = openai.Stream(parsed, "m")
        stream.chunks(events)
        with pytest.raises(GatewayError, match="without finishing"):
            stream.end()


def test_a_model_entry_has_openais_fields_first() -> None:
    entry = openai.model_entry("gpt-4", created=5, owned_by="me", alias_of=["llama"], active=True)
    Model.model_validate(entry, strict=True)
    assert list(entry) == ["id", "object", "created", "owned_by", "alias_of", "active"]
    assert entry["object"] == "model"


# --- streamed -----------------------------------------------------------------------------------


def test_a_chat_stream() -> None:
    parsed = chat(stream=True)
    chunks = streamed(parsed, TextDelta(text='He"l\n'), TextDelta(text="lo"), Finished(reason="stop"), USAGE)
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


def test_usage_is_streamed_only_when_asked_for() -> None:
    parsed = chat(stream=True, stream_options={"include_usage": True})
    *chunks, last = streamed(parsed, TextDelta(text="a"), Finished(), USAGE)
    assert [chunk["usage"] for chunk in chunks] == [None] * 3
    assert last["choices"] == []
    assert last["usage"] == whole(chat(), Finished(), USAGE)["usage"]
    assert last["id"] == parsed.request.id


def test_a_streamed_tool_call() -> None:
    """As OpenAI streams it: the role with null content, then the call, then its arguments."""
    chunks = streamed(
        chat(stream=True),
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


def test_each_choice_begins_with_its_role() -> None:
    chunks = streamed(
        chat(stream=True, n=2),
        TextDelta(choice=1, text="b"),
        TextDelta(choice=0, text="a"),
        TextDelta(choice=1, text="B"),
        Finished(choice=0),
        Finished(choice=1),
        USAGE,
    )
    roles = [c["choices"][0]["index"] for c in chunks if "role" in c["choices"][0]["delta"]]
    assert roles == [1, 0]


def test_streamed_logprobs_stand_with_their_text() -> None:
    chunks = streamed(chat(stream=True, logprobs=True), TextDelta(text="Hi", logprobs=(HI,)), Finished(), USAGE)
    assert [bool(chunk["choices"][0]["logprobs"]) for chunk in chunks] == [False, True, False]


def test_a_legacy_stream_counts_offsets_across_chunks() -> None:
    delta = TextDelta(text="Hi", logprobs=(HI,))
    chunks = streamed(completion(stream=True, logprobs=1), TextDelta(text="é"), delta, delta, Finished(), USAGE)
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["é", "Hi", "Hi", ""]
    assert chunks[0]["choices"][0]["logprobs"] is None
    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks[1:3]] == [[1], [3]]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}


def test_an_error_is_the_last_event_and_the_client_raises_it() -> None:
    """OpenAI's own client, fed with our bytes: comments are skipped, text arrives, the error is raised."""
    stream = openai.Stream(chat(stream=True), "m")
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


def test_embeddings_cannot_be_streamed() -> None:
    with pytest.raises(TypeError, match="not streamed"):
        openai.Stream(embeddings(), "m")


# --- both ---------------------------------------------------------------------------------------

TEXT = st.text(max_size=6)
LOGPROBS = st.lists(
    st.builds(
        TokenLogprob,
        token=TEXT,
        logprob=st.floats(max_value=0, allow_nan=False),
        utf8=st.none() | st.binary(max_size=3),
        top=st.lists(st.builds(TokenLogprob, token=TEXT, logprob=st.floats(-9, 0)), max_size=2).map(tuple),
    ),
    max_size=2,
).map(tuple)


@st.composite
def answers(draw: st.DrawFn, *, with_calls: bool) -> tuple[int, list[EngineEvent]]:
    """A number of choices and a stream as the contract has it: deltas in any order, each choice's end, usage."""
    n = draw(st.integers(1, 3))
    waiting: dict[int, list[EngineEvent]] = {}
    for choice in range(n):
        kinds: list[st.SearchStrategy[EngineEvent]] = [
            st.builds(TextDelta, choice=st.just(choice), text=TEXT, logprobs=LOGPROBS)
        ]
        if with_calls:
            kinds += [
                st.builds(ReasoningDelta, choice=st.just(choice), text=TEXT),
                st.builds(ToolCallDelta, choice=st.just(choice), index=st.integers(0, 1), arguments=TEXT),
            ]
        deltas = draw(st.lists(st.one_of(kinds), max_size=5))
        reason = draw(st.sampled_from(["stop", "length"]))
        waiting[choice] = [*_named(deltas), Finished(choice=choice, reason=reason)]  # type: ignore[arg-type]
    events: list[EngineEvent] = []
    while waiting:
        choice = draw(st.sampled_from(sorted(waiting)))
        events.append(waiting[choice].pop(0))
        if not waiting[choice]:
            del waiting[choice]
    return n, [*events, USAGE]


def _named(deltas: list[EngineEvent]) -> Iterator[EngineEvent]:
    """The first delta of a call has its id and name."""
    seen: set[int] = set()
    for delta in deltas:
        if isinstance(delta, ToolCallDelta) and delta.index not in seen:
            seen.add(delta.index)
            yield ToolCallDelta(choice=delta.choice, index=delta.index, id="c", name="f", arguments=delta.arguments)
        else:
            yield delta


def joined_chat(chunks: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """What a client makes of a chat stream."""
    choices: dict[int, dict[str, Any]] = defaultdict(
        lambda: {"content": "", "reasoning": "", "calls": {}, "logprobs": [], "reason": None}
    )
    for chunk in chunks:
        for choice in chunk["choices"]:
            to, delta = choices[choice["index"]], choice["delta"]
            assert to["reason"] is None, "nothing follows the finish reason"
            to["content"] += delta.get("content") or ""
            to["reasoning"] += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls", []):
                function = call["function"]
                known = to["calls"].setdefault(call["index"], [call.get("id"), function.get("name"), ""])
                known[2] += function["arguments"]
            to["logprobs"] += (choice["logprobs"] or {}).get("content", [])
            to["reason"] = choice["finish_reason"]
    return dict(choices)


@settings(max_examples=150, deadline=None)
@given(answer=answers(with_calls=True), batch=st.integers(1, 8))
def test_a_chat_stream_joined_is_the_whole_reply(answer: tuple[int, list[EngineEvent]], batch: int) -> None:
    n, events = answer
    parsed = chat(n=n)
    parts = joined_chat(streamed(parsed, *events, batch=batch))
    for choice in whole(parsed, *events)["choices"]:
        message, part = choice["message"], parts.pop(choice["index"])
        calls = [[c["id"], c["function"]["name"], c["function"]["arguments"]] for c in message.get("tool_calls", [])]
        assert part == {
            "content": message["content"] or "",
            "reasoning": message.get("reasoning_content", ""),
            "calls": part["calls"],
            "logprobs": (choice["logprobs"] or {}).get("content", []),
            "reason": choice["finish_reason"],
        }
        assert [call for _, call in sorted(part["calls"].items())] == calls
    assert not parts


@settings(max_examples=100, deadline=None)
@given(answer=answers(with_calls=False), batch=st.integers(1, 8), k=st.integers(0, 2))
def test_a_legacy_stream_joined_is_the_whole_reply(answer: tuple[int, list[EngineEvent]], batch: int, k: int) -> None:
    n, events = answer
    parsed = completion(n=n, logprobs=k)
    parts: dict[int, dict[str, Any]] = defaultdict(lambda: {"text": "", "logprobs": None, "finish_reason": None})
    for chunk in streamed(parsed, *events, batch=batch):
        for choice in chunk["choices"]:
            part = parts[choice["index"]]
            part["text"] += choice["text"]
            part["finish_reason"] = choice["finish_reason"]
            if choice["logprobs"] and part["logprobs"]:
                part["logprobs"] = {
                    name: known if known is None else known + choice["logprobs"][name]
                    for name, known in part["logprobs"].items()
                }
            else:
                part["logprobs"] = choice["logprobs"] or part["logprobs"]
    body = whole(parsed, *events)
    assert {choice.pop("index"): choice for choice in body["choices"]} == dict(parts)
