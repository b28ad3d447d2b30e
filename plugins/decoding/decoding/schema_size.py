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
        for keyword in _COUNTS:
            if isinstance(count := node.get(keyword), int | float) and count > _MOST_REPETITIONS:
                raise _too_large(param, f"{keyword} is {count:g}, and at most {_MOST_REPETITIONS}")
        if isinstance(pattern := node.get("pattern"), str) and _repetitions(pattern) > _MOST_REPETITIONS:
            raise _too_large(param, f"the counts in a pattern multiply to more than {_MOST_REPETITIONS}, and no more")
    if properties > _MOST_PROPERTIES:
        raise _too_large(param, f"it has {properties} properties, and at most {_MOST_PROPERTIES}")


def _repetitions(pattern: str) -> int:
    """The counts in braces multiplied: an upper bound of how often a nested part is repeated."""
    counts = [max(1, int(most or least)) for least, most in _BRACES.findall(pattern)]
    return math.prod(counts)


def _too_large(param: str, why: str) -> RequestError:
    return RequestError(f"'{param}' is too large to be enforced: {why} can be enforced.", param=param)
