"""Reasoning (thinking) told from the answer, in a text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from decoding.stops import held_back

__all__ = ["Part", "ReasoningSplitter"]

Part = tuple[Literal["text", "reasoning"], str]
_BREAKS = "\r\n"


class ReasoningSplitter:
    """Cuts text at the marks of reasoning blocks; no part of a mark leaves, not even of one that stands alone.

    Line breaks right after a mark, at the end of a block, and before a block that begins the answer belong to
    neither. What comes out does not depend on how the text was cut into pieces.

    Args:
        opening: the mark that begins a block (``<think>``).
        closing: the mark that ends it.
        inside: the prompt has opened a block already.

    Attributes:
        inside: whether what comes next is reasoning.
    """

    def __init__(self, opening: str, closing: str, *, inside: bool) -> None:
        self._marks = (opening, closing)
        self._held = ""
        self._after_mark = inside
        self._begun = inside
        self.inside = inside

    def push(self, text: str) -> list[Part]:
        """Return what ``text`` completes, in order."""
        self._held += text
        return list(self._parts())

    def flush(self) -> list[Part]:
        """Return what was held back: it can become no mark any more."""
        text, self._held = self._held, ""
        return [self._part(text)] if text else []

    def _parts(self) -> Iterator[Part]:
        while True:
            if self._after_mark:
                self._held = self._held.lstrip(_BREAKS)
                self._after_mark = not self._held
            found = [(start + len(mark), start, mark) for mark in self._marks if (start := self._held.find(mark)) >= 0]
            end, start, mark = min(found, default=(len(self._held), len(self._held), None))
            if mark is None:
                start -= held_back(self._held, self._marks)
            text = self._held[:start]
            if self.inside or (not self._begun and not text.strip(_BREAKS)):
                # Line breaks at its end may be the last of a block, or stand before the first one.
                text = text.rstrip(_BREAKS)
            if text:
                self._begun = True
                yield self._part(text)
            if mark is None:
                self._held = self._held[len(text) :]
                return
            self._held, self._after_mark, self._begun = self._held[end:], True, True
            self.inside = mark == self._marks[0]

    def _part(self, text: str) -> Part:
        return ("reasoning" if self.inside else "text", text)
