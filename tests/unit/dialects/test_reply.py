"""Answers that are not streamed, and entries of the list of models."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
from openai.types import Model

from core.api.messages import (
    Embedding,
    EngineEvent,
    Finished,
    ReasoningDelta,
    Score,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from core.dialects import openai
from core.errors import GatewayError

USAGE = Usage(prompt_tokens=11, completion_tokens=5, cached_tokens=4, reasoning_tokens=2)


def scored(text: str, logprob: float, **more: Any) -> TokenLogprob:
    return TokenLogprob(token=text, logprob=logprob, **more)


HI = scored("Hi", -0.5, utf8=b"Hi", top=(scored("Hi", -0.5), scored("é", -math.inf)))


def test_a_chat_reply(dialect: Any) -> None:
    parsed = dialect.chat()
    body = dialect.whole(parsed, TextDelta(text="Hel"), TextDelta(text="lo"), Finished(reason="length"), USAGE)
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


def test_tool_calls_alone_leave_the_content_null(dialect: Any) -> None:
    body = dialect.whole(
        dialect.chat(),
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


def test_reasoning_is_kept_apart(dialect: Any) -> None:
    body = dialect.whole(
        dialect.chat(), ReasoningDelta(text="hm"), ReasoningDelta(text="!"), TextDelta(text="4"), Finished(), USAGE
    )
    assert body["choices"][0]["message"] == {
        "role": "assistant",
        "content": "4",
        "refusal": None,
        "reasoning_content": "hm!",
    }


def test_an_empty_answer_is_an_empty_string(dialect: Any) -> None:
    assert dialect.whole(dialect.chat(), Finished(), USAGE)["choices"][0]["message"]["content"] == ""


def test_choices_come_in_order_however_events_interleave(dialect: Any) -> None:
    events = (TextDelta(choice=1, text="b"), TextDelta(choice=0, text="a"), TextDelta(choice=1, text="B"))
    body = dialect.whole(dialect.chat(n=2), *events, Finished(choice=1), Finished(choice=0, reason="length"), USAGE)
    got = [(c["index"], c["message"]["content"], c["finish_reason"]) for c in body["choices"]]
    assert got == [(0, "a", "length"), (1, "bB", "stop")]


def test_chat_logprobs(dialect: Any) -> None:
    """What is not among the likely tokens has OpenAI's -9999, as JSON has no infinity."""
    body = dialect.whole(
        dialect.chat(logprobs=True, top_logprobs=2), TextDelta(text="Hi", logprobs=(HI,)), Finished(), USAGE
    )
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


def test_a_legacy_completion(dialect: Any) -> None:
    parsed = dialect.completion(logprobs=2)
    body = dialect.whole(
        parsed, TextDelta(text="Hi", logprobs=(HI,)), TextDelta(text="Hi", logprobs=(HI,)), Finished(), USAGE
    )
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


def test_legacy_logprobs_of_chosen_tokens_only_and_of_an_echoed_prompt(dialect: Any) -> None:
    """The first token of a prompt has no probability: null, as OpenAI's."""
    first = scored("Once", math.nan)
    events = (TextDelta(text="OnceHi", tokens=0, logprobs=(first, HI)), TextDelta(text="Hi", logprobs=(HI,)))
    body = json.loads(openai.reply(dialect.completion(logprobs=0, echo=True), "m", [*events, Finished(), USAGE]))
    logprobs = body["choices"][0]["logprobs"]
    assert logprobs == {
        "tokens": ["Once", "Hi", "Hi"],
        "token_logprobs": [None, -0.5, -0.5],
        "top_logprobs": None,
        "text_offset": [0, 4, 6],
    }
    body = json.loads(openai.reply(dialect.completion(logprobs=1, echo=True), "m", [*events, Finished(), USAGE]))
    assert body["choices"][0]["logprobs"]["top_logprobs"] == [None] + [{"Hi": -0.5, "é": -9999.0}] * 2


def test_the_chosen_token_is_always_among_the_top_ones(dialect: Any) -> None:
    token = scored("z", -5.0, top=(scored("a", -1.0),))
    body = dialect.whole(dialect.completion(logprobs=1), TextDelta(text="z", logprobs=(token,)), Finished(), USAGE)
    assert body["choices"][0]["logprobs"]["top_logprobs"] == [{"a": -1.0, "z": -5.0}]


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_embeddings_are_in_order_and_little_endian(dialect: Any, encoding_format: str) -> None:
    events = [Embedding(index=i, vector=struct.pack("<2f", i, -0.5)) for i in (1, 0)]
    parsed = dialect.embeddings(input=["a", "b"], encoding_format=encoding_format)
    if encoding_format == "base64":
        body = json.loads(openai.reply(parsed, "served", [*events, USAGE]))
        assert [row["embedding"] for row in body["data"]] == ["AAAAAAAAAL8=", "AACAPwAAAL8="]
    else:
        body = dialect.whole(parsed, *events, USAGE)
        assert [row["embedding"] for row in body["data"]] == [[0.0, -0.5], [1.0, -0.5]]
    assert [row["index"] for row in body["data"]] == [0, 1]
    assert body["usage"] == {"prompt_tokens": 11, "total_tokens": 11}
    assert body["model"] == "served"


def ranked(parsed: openai.Parsed, *scores: float) -> dict[str, Any]:
    events = [Score(index=index, score=score) for index, score in enumerate(scores)]
    return json.loads(openai.reply(parsed, "served", [*reversed(events), USAGE]))


def test_a_ranking_is_best_first(dialect: Any) -> None:
    parsed = dialect.rerank(documents=["a", "b", "c", "d"])
    assert ranked(parsed, 0.25, 0.75, -3.0, 0.75) == {
        "id": parsed.request.id,
        "object": "list",
        "model": "served",
        "results": [
            {"index": 1, "relevance_score": 0.75},
            {"index": 3, "relevance_score": 0.75},
            {"index": 0, "relevance_score": 0.25},
            {"index": 2, "relevance_score": -3.0},
        ],
        "usage": {"prompt_tokens": 11, "total_tokens": 11},
    }


@pytest.mark.parametrize(("top_n", "shown"), [(None, [1, 0]), (1, [1]), (2, [1, 0]), (9, [1, 0])])
def test_a_ranking_is_as_long_as_it_is_wanted(dialect: Any, top_n: int | None, shown: list[int]) -> None:
    body = ranked(dialect.rerank(top_n=top_n), 0.25, 0.75)
    assert [result["index"] for result in body["results"]] == shown


def test_a_ranking_may_hold_its_documents(dialect: Any) -> None:
    body = ranked(dialect.rerank(documents=["a", {"text": "b"}], return_documents=True), 0.25, 0.75)
    assert [result["document"] for result in body["results"]] == [{"text": "b"}, {"text": "a"}]


@pytest.mark.parametrize(
    ("task", "fields", "events"),
    [
        ("chat", {}, [TextDelta(text="a"), USAGE]),
        ("chat", {"n": 2}, [Finished(choice=1), USAGE]),
        ("completion", {"prompt": ["a", "b"]}, [Finished(choice=0), USAGE]),
        ("embeddings", {"input": ["a", "b"]}, [Embedding(index=0, vector=b""), USAGE]),
        ("rerank", {"top_n": 1}, [Score(index=0, score=1.0), USAGE]),
    ],
)
def test_an_answer_without_its_end_is_never_a_clean_one(
    dialect: Any, task: str, fields: dict[str, Any], events: list[EngineEvent]
) -> None:
    parsed = getattr(dialect, task)(**fields)
    with pytest.raises(GatewayError, match="without finishing") as caught:
        openai.reply(parsed, "m", events)
    assert caught.value.code == "engine_failed"
    if task not in {"embeddings", "rerank"}:
        stream = openai.Stream(parsed, "m")
        stream.chunks(events)
        with pytest.raises(GatewayError, match="without finishing"):
            stream.end()


def test_a_model_entry_has_openais_fields_first() -> None:
    entry = openai.model_entry("gpt-4", created=5, owned_by="me", alias_of=["llama"], active=True)
    Model.model_validate(entry, strict=True)
    assert list(entry) == ["id", "object", "created", "owned_by", "alias_of", "active"]
    assert entry["object"] == "model"
