"""Schemas that llama.cpp would drop, or choke on."""

from __future__ import annotations

from typing import Any

import pytest
from decoding.grammar import answer_grammar
from decoding.schema_size import check_size

from core.api import RequestError, ResponseFormat


def _object(properties: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(properties)}}


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        (_object(501), "501 properties"),
        ({"anyOf": [_object(300), _object(300)]}, "600 properties"),
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 3_000_000}, "maxItems"),
        ({"type": "object", "properties": {"a": {"type": "string", "minLength": 10_001}}}, "minLength"),
        ({"type": "string", "pattern": "^(a{1000}){1000}$"}, "pattern"),
    ],
)
def test_a_schema_too_large_to_enforce_is_refused(schema: dict[str, Any], named: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_size(schema, param="response_format")

    assert named in str(caught.value)
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    "schema",
    [
        True,
        _object(500),
        {"type": "array", "maxItems": 10_000},
        {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
        {"type": "object", "properties": {"maxItems": {"type": "integer"}}},
    ],
)
def test_an_ordinary_schema_passes(schema: Any) -> None:
    check_size(schema, param="response_format")


def test_answers_are_checked_before_anything_is_compiled() -> None:
    schema = '{"type": "array", "items": {"type": "integer"}, "maxItems": 3000000}'
    with pytest.raises(RequestError, match="maxItems"):
        answer_grammar(ResponseFormat(kind="json_schema", name="a", schema=schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "multipleOf": 99_999_989},
        {"allOf": [{"type": "string", "pattern": f".*{letter}.{{50}}{letter}.*"} for letter in "abc"]},
    ],
)
def test_automata_that_would_fill_the_memory(schema: dict) -> None:
    """A few bytes of schema, gigabytes to compile."""
    with pytest.raises(RequestError, match="too large"):
        check_size(schema, param="response_format")
