"""Whatever bytes come, what comes out is a request or a 400 (413) in OpenAI's shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.dialects import openai
from core.dialects.openai.fields import ACCEPTED, CHAT, COMPLETION, EMBEDDINGS, RERANK
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


def refused(task: str, body: bytes, limits: LimitsTable = LIMITS) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        PARSERS[task](body, limits)
    assert caught.value.message.endswith((".", "?"))
    assert caught.value.type == "invalid_request_error"
    json.dumps(caught.value.body()).encode()
    return caught.value


# --- bytes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"model":"m"}x',
        b"\xef\xbb\xbf{}",
        b'{"model":"\xff"}',
        b'{"model":"\xed\xa0\x80"}',
        b'{"metadata":"\xff"}',
        b'{"model":"\\ud800"}',
        b'{"model":"\\udc00\\ud800"}',
        b'{"\\ud800":1}',
        b'{"metadata":"\\ud800"}',
        b'{"temperature":NaN}',
        b'{"temperature":-Infinity}',
        b'{"model":"a\nb"}',
        b"{'model':'m'}",
    ],
)
@pytest.mark.parametrize("task", PARSERS)
def test_what_is_not_json_is_refused(task: str, body: bytes) -> None:
    error = refused(task, body)
    assert (error.status, error.code, error.param) == (400, "invalid_json", None)


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"x"'])
def test_the_body_must_be_an_object(body: bytes) -> None:
    assert refused("chat", body).code == "invalid_type"


def test_numbers_beyond_a_double_are_refused() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":1e999}'
    assert refused("chat", body).param == "temperature"
    deep = b'{"model":"m","messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema",'
    deep += b'"json_schema":{"name":"a","schema":{"a":[{"maximum":1e999}]}}}}'
    assert refused("chat", deep).param == "response_format.json_schema.schema"


def test_a_body_over_the_limit_is_413() -> None:
    limits = LimitsTable(max_body_bytes=10)
    assert refused("chat", b"x" * 11, limits).status == 413
    assert refused("chat", b"x" * 10, limits).status == 400


@pytest.mark.parametrize(
    "body",
    [
        b'{"metadata":' + b"[" * 64 + b"]" * 64 + b"}",
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b'{"metadata":["\\"",' + b"{}," * 100 + b"[" * 63 + b"]" * 63 + b"]}",
    ],
)
def test_a_body_that_is_nested_too_deep_is_refused(body: bytes) -> None:
    assert refused("chat", body).code == "json_too_deep"


def test_an_open_string_full_of_quotes_takes_no_time() -> None:
    """The depth scan is linear: one that began anew at each quote would take hours for this body."""
    body = b"[]" * 100 + b'"' + b'\\"' * 1_000_000
    assert refused("chat", body).code in {"invalid_json", "invalid_type"}


def test_a_careless_depth_limit_still_gives_400() -> None:
    """The decoder's own recursion limit is an answer too, not a crash."""
    body = b'{"metadata":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert refused("chat", body, LimitsTable(max_json_depth=1_000_000)).code == "invalid_json"


# --- whatever comes -----------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = sorted({*CHAT.honoured, *COMPLETION.honoured, *EMBEDDINGS.honoured, *RERANK.honoured, *CHAT.refused, *ACCEPTED})
PATHS = [name for name in NAMES if "." not in name and "[" not in name]


def survives(task: str, body: bytes) -> None:
    try:
        request = PARSERS[task](body, LIMITS).request
    except GatewayError as refusal:
        error = refusal
    else:
        msgspec.msgpack.encode(request)
        return
    assert error.status == 400
    assert error.code
    msgspec.json.encode(error.body())


@settings(max_examples=150, deadline=None)
@given(task=st.sampled_from(sorted(PARSERS)), body=st.binary(max_size=60))
def test_arbitrary_bytes(task: str, body: bytes) -> None:
    survives(task, body)


@settings(max_examples=300, deadline=None)
@given(
    task=st.sampled_from(sorted(PARSERS)),
    fields=st.dictionaries(st.sampled_from(PATHS) | st.text(max_size=8), JSON, max_size=4),
)
def test_arbitrary_json_in_any_field(task: str, fields: dict[str, Any]) -> None:
    survives(task, json.dumps(GOOD[task] | fields).encode())


SCRAPS = st.sampled_from(
    [
        *(path.rpartition(".")[2].replace("[]", "") for path in NAMES),
        *["system", "user", "assistant", "tool", "text", "refusal", "function", "json_schema", "json_object", "object"],
    ]
)
NEARLY = st.recursive(
    SCRAPS | st.integers(-2, 2) | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCRAPS, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(task=st.sampled_from(sorted(PARSERS)), fields=st.dictionaries(st.sampled_from(PATHS), NEARLY, max_size=3))
def test_nearly_right_json(task: str, fields: dict[str, Any]) -> None:
    """Words of the dialect in wrong places reach further into the checks than noise does."""
    survives(task, json.dumps(GOOD[task] | fields).encode())
