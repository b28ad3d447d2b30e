"""Which operators an .onnx file has, read from the file itself: the library for that is not needed to run one."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

__all__ = ["operators"]

_Message = Literal["model", "graph", "function", "node", "attribute"]

# Of onnx.proto: where messages that hold nodes hold others of them, by field number. Weights are none of these.
_INSIDE: Mapping[_Message, Mapping[int, _Message]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {6: "graph", 11: "graph"},
}
_OPERATOR_FIELD = 4  # of a node
_VARINT, _BYTES = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}


def operators(file: Path) -> frozenset[str]:
    """Return the names of all operators, those of inner graphs too; weights are passed over without being read.

    Raises:
        ValueError: it is no .onnx file.
    """
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            return frozenset(_named(content, "model", 0, len(content)))
        except (IndexError, KeyError, UnicodeDecodeError) as error:
            msg = f"{file} is no .onnx file."
            raise ValueError(msg) from error


def _named(content: mmap.mmap, message: _Message, begin: int, end: int) -> Iterator[str]:
    at = begin
    while at < end:
        key, at = _varint(content, at)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            _, at = _varint(content, at)
        elif wire == _BYTES:
            length, at = _varint(content, at)
            if message == "node" and field == _OPERATOR_FIELD:
                yield content[at : at + length].decode()
            elif (inner := _INSIDE[message].get(field)) is not None:
                yield from _named(content, inner, at, at + length)
            at += length
        else:
            at += _FIXED_BYTES[wire]
    if at != end:
        raise IndexError


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    """The number there, and where the next thing begins."""
    number = shift = 0
    while True:
        byte = content[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last of a number's bytes
            return number, at
        shift += 7
