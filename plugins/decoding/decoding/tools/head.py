"""The beginning of a call: its name, and where its arguments begin."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any, NamedTuple

import msgspec
from pydantic_core import from_json

from decoding.tools.forms import ToolForm

__all__ = ["KEYS", "Head", "NotACallError", "read_head"]

KEYS = ("name", "arguments", "parameters", "type", "id")
"""What the object of a call can begin with."""

_ARGUMENTS = ("arguments", "parameters")
_STRING = r'"[^"\\\x00-\x1f]*"'
_OBJECT_HEAD = re.compile(
    rf'\{{\s*(?:"(?:type|id)"\s*:\s*{_STRING}\s*,\s*)*'
    rf'"name"\s*:\s*(?P<name>{_STRING})\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{{)'
)
_FIRST_KEY = re.compile(rf"\{{\s*({_STRING})")
_BARE_HEAD = re.compile(r"\s*(?P<name>[\w.-]+)\s*(?:\[CALL_ID\]\s*\w*\s*)?(?:\[ARGS\]\s*)?(?=\{)", re.ASCII)
_BARE_CHARACTERS = re.compile(r"[\w.\s\[\]-]*", re.ASCII)
_LONGEST_BARE = 256
_LONGEST_OBJECT = 16_384
_DECODER = json.JSONDecoder()


class NotACallError(ValueError):
    """What follows the mark can no longer become a call."""


class Head(NamedTuple):
    """A call whose name is known.

    Attributes:
        name: of the function.
        end: index of the text after the head; that of the arguments' first character if they are to follow.
        arguments: the arguments, if the call had to be read as a whole; else None.
    """

    name: str
    end: int
    arguments: str | None = None


def read_head(text: str, form: ToolForm, opening: str, names: Collection[str] | None) -> Head | None:
    """Read the head of a call that begins, after ``opening``, at the start of ``text``; None: more text is needed.

    Blank space is of no matter. An object whose name does not come before its arguments is read as a whole.
    ``names`` are those of the functions that can be called; None: any.

    Raises:
        NotACallError: it is not a call, however it goes on.
    """
    if form.json:
        begin = _skip(text, opening.strip() + "{")
        head = None if begin is None else _object(text, begin - 1)
    else:
        head = _bare(text)
    if head and names is not None and head.name not in names:
        raise NotACallError
    return head


def _skip(text: str, symbols: str) -> int | None:
    index = 0
    for symbol in symbols:
        while index < len(text) and text[index].isspace():
            index += 1
        if index == len(text):
            return None
        if text[index] != symbol:
            raise NotACallError
        index += 1
    return index


def _bare(text: str) -> Head | None:
    brace = text.find("{", 0, _LONGEST_BARE)
    if brace < 0:
        if len(text) >= _LONGEST_BARE or not _BARE_CHARACTERS.fullmatch(text):
            raise NotACallError
        return None
    head = _BARE_HEAD.match(text)
    if head is None:
        raise NotACallError
    return Head(head["name"], head.end())


def _object(text: str, begin: int) -> Head | None:
    held = text[begin : begin + _LONGEST_OBJECT]
    if head := _OBJECT_HEAD.match(held):
        return Head(head["name"][1:-1], begin + head.end())
    first = _FIRST_KEY.match(held)
    if first and first[1][1:-1] not in KEYS:
        raise NotACallError
    try:
        _, end = _DECODER.raw_decode(held)
    except (ValueError, RecursionError):
        end = 0
    try:
        if end:
            return Head(*_whole(held[:end], begin + end))
        from_json(held, allow_partial="trailing-strings")
    except ValueError as error:
        raise NotACallError from error
    if len(held) == _LONGEST_OBJECT:
        raise NotACallError
    return None


def _whole(text: str, end: int) -> tuple[str, int, str]:
    from_json(text)
    call = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    name = msgspec.json.decode(call.get("name", b""), type=str)
    given = next((call[key] for key in _ARGUMENTS if key in call), b"null")
    arguments = bytes(given).decode()
    if arguments == "null":
        return name, end, "{}"
    if arguments.startswith('"'):
        arguments = msgspec.json.decode(arguments, type=str)
    msgspec.json.decode(arguments, type=dict[str, Any])
    return name, end, arguments
