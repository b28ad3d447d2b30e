"""Schemas that are too large to enforce.

One with ``maxItems`` of 3,000,000 takes gigabytes to compile. A smaller one compiles, but llama.cpp drops its
grammar without a word (seen with 1,000 properties and with ``maxItems`` of 100,000). So both are refused first.
"""

from __future__ import annotations

import math
import re
from typing import Any

from core.api import RequestError

__all__ = ["check_size"]

_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_MOST_REPETITIONS = 10_000
_MOST_PROPERTIES = 500
# The automaton of a divisibility has as many states; that of several patterns the product of theirs.
_MOST_MULTIPLE = 1_000
_MOST_PATTERNS = 2
_BRACES = re.compile(r"\{(\d+)(?:,(\d*))?\}")


def check_size(schema: Any, *, param: str) -> None:
    """Refuse a schema, given as decoded JSON, that asks for too many properties or repetitions.

    Raises:
        RequestError: naming ``param``, the keyword and the bound.
    """
    properties = 0
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        if not isinstance(node, dict):
            continue
        waiting += node.values()
        if isinstance(named := node.get("properties"), dict):
            properties += len(named)
        _check_node(node, param)
    if properties > _MOST_PROPERTIES:
        raise _too_large(param, f"it has {properties} properties, and at most {_MOST_PROPERTIES}")


def _check_node(node: dict[str, Any], param: str) -> None:
    for keyword in _COUNTS:
        if isinstance(count := node.get(keyword), int | float) and count > _MOST_REPETITIONS:
            raise _too_large(param, f"{keyword} is {count:g}, and at most {_MOST_REPETITIONS}")
    if isinstance(pattern := node.get("pattern"), str) and _repetitions(pattern) > _MOST_REPETITIONS:
        raise _too_large(param, f"the counts in a pattern multiply to more than {_MOST_REPETITIONS}, and no more")
    if isinstance(step := node.get("multipleOf"), int | float) and step > _MOST_MULTIPLE:
        raise _too_large(param, f"multipleOf is {step:g}, and at most {_MOST_MULTIPLE}")
    if len(together := [one for one in _members(node) if "pattern" in one]) > _MOST_PATTERNS:
        raise _too_large(param, f"allOf has {len(together)} patterns, and at most {_MOST_PATTERNS} together")


def _members(node: dict[str, Any]) -> list[dict[str, Any]]:
    """A schema and those that hold together with it."""
    more = node.get("allOf")
    return [node, *(one for one in more if isinstance(one, dict))] if isinstance(more, list) else [node]


def _repetitions(pattern: str) -> int:
    """The counts in braces multiplied: an upper bound of how often a nested part is repeated."""
    counts = [max(1, int(most or least)) for least, most in _BRACES.findall(pattern)]
    return math.prod(counts)


def _too_large(param: str, why: str) -> RequestError:
    return RequestError(f"'{param}' is too large to be enforced: {why} can be enforced.", param=param)
