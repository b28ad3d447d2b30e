"""Generated text -> plain text and tool calls, as it arrives."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from core.api import EngineError
from decoding.stops import held_back
from decoding.tools.forms import PLAIN, ToolForm
from decoding.tools.head import NotACallError, read_head
from decoding.tools.scanner import JsonScanner

__all__ = ["CallParser", "CallPiece"]

# What may follow the arguments within a call's object; a brace ends it for certain.
_REST_OF_OBJECT = re.compile(r'\s*(?:,\s*"[^"\\{}]*"\s*:\s*(?:"[^"\\{}]*"|[^\s"\\{},\[\]]+)\s*)*\}')
_LONGEST_REST = 256


@dataclass(frozen=True, slots=True)
class CallPiece:
    """More of tool call number ``index``; ``name`` only in its first piece."""

    index: int
    name: str | None = None
    arguments: str = ""


class CallParser:
    """Cuts generated text into plain text and the pieces of tool calls; how it was cut does not matter.

    Names come whole, arguments as they are written: that they are valid JSON is not checked. Blank space before
    and between calls belongs to neither, nor does what separates them. Without a call the text passes unchanged.

    Text without a grammar (not ``bound``): what follows a mark but is not a call of one of the ``names`` is plain
    text, mark and all; so is a call cut off before its arguments. What should close a call but does not is plain
    text after it.

    Bound text: what should have been a call and is not raises `EngineError`, and a call cut off before its
    arguments is dropped. A call that repeats an earlier one is not passed on and sets ``repeated``: a model that
    begins to repeat itself under a grammar would not end by itself.

    Args:
        form: how calls are written.
        names: of the functions that may be called; None: any.
        bound: a grammar enforces the form (`decoding.grammar.tool_grammar`).
    """

    def __init__(self, form: ToolForm = PLAIN, *, names: Collection[str] | None = None, bound: bool = False) -> None:
        self._form = form
        self._names = names
        self._bound = bound
        self._buffer = ""
        self._state = self._at_start if form.bare else self._in_text
        # While a head is awaited: where it begins in the buffer, and what has to open it.
        self._begin = 0
        self._opening = ""
        self._must = False
        self._scanner = JsonScanner()
        self._name = ""
        self._arguments = ""
        self._object_open = False
        self._held: list[CallPiece] | None = None
        self._earlier: list[tuple[str, str]] = []
        self.repeated = False

    def push(self, text: str) -> list[str | CallPiece]:
        """Return what ``text`` completes, in order.

        Raises:
            EngineError: bound text left its form.
        """
        self._buffer += text
        pieces: list[str | CallPiece] = []
        while not self.repeated and self._state(pieces):
            pass
        return pieces

    def finish(self) -> list[str | CallPiece]:
        """Return what was held back: no more text comes. Of a call that is cut off, what was sent stays sent."""
        pieces: list[str | CallPiece] = []
        while self._state == self._in_head and not self._must:
            self._give_up(pieces)
            pieces += self.push("")
        text, self._buffer = self._buffer, ""
        if text and self._state in {self._in_text, self._at_start} and not (self._earlier and text.isspace()):
            pieces.append(text)
        return pieces

    def _at_start(self, pieces: list[str | CallPiece]) -> bool:
        """A form whose calls may go without their mark: only at the very beginning."""
        del pieces
        text = self._buffer.lstrip()
        if not text:
            return False
        if text[0] == "{":
            self._await_head(len(self._buffer) - len(text), "", must=False)
        else:
            self._state = self._in_text
        return True

    def _in_text(self, pieces: list[str | CallPiece]) -> bool:
        before, mark, after = self._buffer.partition(self._form.mark)
        keep = len(before) if mark else len(before) - held_back(before, (self._form.mark,))
        keep = len(before[:keep].rstrip())
        if keep:
            pieces.append(before[:keep])
            self._buffer = before[keep:] + mark + after
        if mark:
            self._await_head(len(before) - keep + len(mark), self._form.opening, must=self._bound)
        return bool(mark)

    def _await_head(self, begin: int, opening: str, *, must: bool) -> None:
        self._begin, self._opening, self._must = begin, opening, must
        self._state = self._in_head

    def _in_head(self, pieces: list[str | CallPiece]) -> bool:
        try:
            head = read_head(self._buffer[self._begin :], self._form, self._opening, self._names)
        except NotACallError as error:
            if self._must:
                raise _left_the_grammar() from error
            self._give_up(pieces)
            return True
        if head is None:
            return False
        self._buffer = self._buffer[self._begin + head.end :]
        self._scanner, self._name, self._arguments = JsonScanner(), head.name, ""
        self._held = [] if self._bound else None
        self._pass_on(CallPiece(len(self._earlier), head.name, ""), pieces)
        self._object_open = self._form.json and head.arguments is None
        self._state = self._in_arguments
        if head.arguments is not None:
            self._pass_on(CallPiece(len(self._earlier), None, head.arguments), pieces)
            return self._end_call(pieces)
        return True

    def _give_up(self, pieces: list[str | CallPiece]) -> None:
        """What was taken for the beginning of a call is text; after it one may still begin."""
        if self._begin:
            pieces.append(self._buffer[: self._begin])
        self._buffer, self._state = self._buffer[self._begin :], self._in_text

    def _in_arguments(self, pieces: list[str | CallPiece]) -> bool:
        end = self._scanner.scan(self._buffer)
        arguments = self._buffer[:end]
        self._buffer = self._buffer[len(arguments) :]
        if arguments:
            self._pass_on(CallPiece(len(self._earlier), None, arguments), pieces)
        return end is not None and self._end_call(pieces)

    def _end_call(self, pieces: list[str | CallPiece]) -> bool:
        call = (self._name, self._arguments)
        if self._held and call in self._earlier:
            self.repeated = True
            return False
        pieces += self._held or ()
        self._earlier.append(call)
        self._state = self._in_tail
        return True

    def _pass_on(self, piece: CallPiece, pieces: list[str | CallPiece]) -> None:
        """Pass a piece on, unless all of its call so far is as an earlier call began."""
        self._arguments += piece.arguments
        if self._held is None:
            pieces.append(piece)
            return
        self._held.append(piece)
        if not any(name == self._name and call.startswith(self._arguments) for name, call in self._earlier):
            pieces += self._held
            self._held = None

    def _in_tail(self, pieces: list[str | CallPiece]) -> bool:
        """What closes the object, then the call; for a list, what opens its next call."""
        del pieces
        if self._object_open:
            held = self._buffer[:_LONGEST_REST]
            rest = _REST_OF_OBJECT.match(held)
            if rest is None:
                ends = held.lstrip()[:1] not in {"", ","} or "{" in held or "}" in held
                return (ends or len(held) == _LONGEST_REST) and self._leave()
            self._buffer, self._object_open = self._buffer[rest.end() :], False
        text = self._buffer.lstrip()
        close = self._form.tail.removeprefix("}").strip() or self._form.closing
        if self._form.listed:
            separator = self._form.separator.strip()
            if not text:
                return False
            if text[0] == separator or (not close and text[0] == "{"):
                self._buffer = text.removeprefix(separator)
                self._await_head(0, "", must=self._bound)
                return True
        if text.startswith(close):
            self._buffer, self._state = text[len(close) :] if close else self._buffer, self._in_text
            return True
        return not close.startswith(text) and self._leave()

    def _leave(self) -> bool:
        if self._bound:
            raise _left_the_grammar()
        self._state = self._in_text
        return True


def _left_the_grammar() -> EngineError:
    return EngineError("the model wrote a tool call that its grammar should have prevented")
