"""Bytes -> a checked struct, or a `GatewayError` that names the field as OpenAI spells it.

msgspec finds what is wrong and where; this module says it in sentences made of the phrases in `fields`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import accumulate
from typing import TypeVar

import msgspec

from core.dialects.openai.fields import ACCEPTED, Fields
from core.errors import GatewayError
from core.settings import LimitsTable

__all__ = ["decode", "invalid"]

_BodyT = TypeVar("_BodyT")
_TopLevel = dict[str, msgspec.Raw]
_TOP_LEVEL = msgspec.json.Decoder(_TopLevel)

# A whole JSON string, or one that the body's end cuts off; possessive, so that no body makes it backtrack.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in _STEPS)

# Greedy: what the client wrote stands before the place, and the place holds no names of the client's.
_PLACE = re.compile(r"(?P<what>.*) - at (?P<key>`key` in )?`\$\.?(?P<path>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_WRONG_TYPE = re.compile(r"Expected `.*`, got `(\w+)`")
_WRONG_VALUE = re.compile(r"Invalid (?:enum )?value '(.*)'", re.DOTALL)
_TYPES = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
}
_LONGEST_QUOTE = 80
_CLOSE = 0.75


def decode(body: bytes, decoder: msgspec.json.Decoder[_BodyT], fields: Fields, limits: LimitsTable) -> _BodyT:
    """Return the body as the decoder's struct.

    The struct lists the honoured top-level fields and lets msgspec skip all others: which of those are
    accepted, refused or unknown is decided here.

    Raises:
        GatewayError: 413 when the body is too large, else 400.
    """
    _check_text(body, limits)
    try:
        _check_names(_TOP_LEVEL.decode(body), fields)
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explained(str(error), fields) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise _not_json(str(error)) from None


def invalid(fields: Fields, param: str, *, path: str | None = None, got: str | None = None) -> GatewayError:
    """Return the 400 for a value that is not what `fields` says under ``path`` (by default ``param``)."""
    instead = "" if got is None else f", not {_quoted(got)}"
    message = f"'{param}' must be {fields.honoured[path or param]}{instead}."
    return GatewayError.invalid(message, param=param, code="invalid_value")


# --- before any decoding ------------------------------------------------------------------------


def _check_text(body: bytes, limits: LimitsTable) -> None:
    if len(body) > limits.max_body_bytes:
        raise GatewayError.too_large(limits.max_body_bytes)
    try:
        body.decode()
    except UnicodeDecodeError as error:
        detail = f"byte {error.start} is not UTF-8"
        raise _not_json(detail) from None
    if body.count(b"[") + body.count(b"{") > limits.max_json_depth and _depth(body) > limits.max_json_depth:
        message = (
            f"The request body is nested deeper than the limit of {limits.max_json_depth} (limits.max_json_depth)."
        )
        raise GatewayError.invalid(message, code="json_too_deep")


def _depth(body: bytes) -> int:
    brackets = _STRING.sub(b"", body).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _not_json(detail: str) -> GatewayError:
    return GatewayError.invalid(f"The request body is not valid JSON: {detail}.", code="invalid_json")


# --- names --------------------------------------------------------------------------------------


def _check_names(top_level: _TopLevel, fields: Fields) -> None:
    for name, value in top_level.items():
        if name in fields.honoured or name in ACCEPTED:
            continue
        if name in fields.refused:
            _check_refused(name, bytes(value), fields)
        else:
            raise _unknown(name, "", fields)


def _check_refused(name: str, value: bytes, fields: Fields) -> None:
    refused = fields.refused[name]
    if value == b"null" or value in map(msgspec.json.encode, refused.harmless):
        return
    message = f"'{name}' is not supported: {refused.remedy}."
    raise GatewayError.unsupported(message, param=name)


def _unknown(name: str, parent: str, fields: Fields) -> GatewayError:
    """``parent`` is the path of the object that holds the field, as the client spells it."""
    prefix = f"{_pattern(parent)}." if parent else ""
    siblings = _names_under(prefix, fields.honoured)
    param = _shortened(f"{parent}.{name}" if parent else name)
    if name in siblings:
        hint = f"it must be {fields.honoured[prefix + name]}"
    elif close := get_close_matches(_shortened(name), siblings, n=1, cutoff=_CLOSE):
        hint = f"did you mean '{close[0]}'?"
    else:
        hint = "remove it, docs/openai.md lists the fields"
    message = f"'{param}' is not known here; {hint}".rstrip(".") + ("" if hint.endswith("?") else ".")
    return GatewayError.invalid(message, param=param, code="unknown_parameter")


def _names_under(prefix: str, paths: Iterable[str]) -> list[str]:
    rests = (path.removeprefix(prefix) for path in paths if path.startswith(prefix))
    return [rest for rest in rests if "." not in rest and "[" not in rest]


# --- values -------------------------------------------------------------------------------------


def _explained(error: str, fields: Fields) -> GatewayError:
    place = _PLACE.fullmatch(error)
    what, path = (place["what"], place["path"]) if place else (error, "")
    if missing := _MISSING.fullmatch(what):
        param = f"{path}.{missing[1]}" if path else missing[1]
        message = f"'{param}' is missing; it must be {fields.honoured[_pattern(param)]}."
        return GatewayError.invalid(message, param=param, code="missing_required_parameter")
    if unknown := _UNKNOWN.fullmatch(what):
        return _unknown(unknown[1], path, fields)
    param = _told(path, fields)
    if not param:
        message = "The request body must be a JSON object."
        return GatewayError.invalid(message, code="invalid_type")
    must = f"'{param}' must be {fields.honoured[_pattern(param)]}"
    if got := _WRONG_TYPE.fullmatch(what):
        exact = param == path and place and not place["key"]
        instead = f", not {_TYPES.get(got[1], got[1])}" if exact else ""
        return GatewayError.invalid(f"{must}{instead}.", param=param, code="invalid_type")
    instead = f", not {_quoted(value[1])}" if (value := _WRONG_VALUE.fullmatch(what)) else ""
    return GatewayError.invalid(f"{must}{instead}.", param=param, code="invalid_value")


def _told(path: str, fields: Fields) -> str:
    """The innermost part of the path that has a phrase: items of ``logit_bias`` or a schema have none."""
    while path and _pattern(path) not in fields.honoured:
        path = path[: max(path.rfind("["), path.rfind("."), 0)]
    return path


def _pattern(path: str) -> str:
    return re.sub(r"\[[^\]]*\]", "[]", path)


def _quoted(value: str) -> str:
    return f"'{_shortened(value)}'"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "..."
