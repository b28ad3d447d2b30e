"""Tool calls in a form of our own, for models whose chat template knows no tools and for calls that must come.

The model is told of the tools in the system prompt (`tool_prompt`), a grammar binds what it writes
(`llamacpp_backend.grammar`), and `CallParser` reads it back. The form is::

    <tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec
from decoding.stops import held_back

from core.api import EngineError, Message, Tool, ToolCall, ToolChoice
from llamacpp_backend.chunks import CallPiece

__all__ = ["CLOSE", "OPEN", "CallParser", "JsonScanner", "call_head", "call_text", "result_text", "tool_prompt"]

OPEN = "<tool_call>"
CLOSE = "}</tool_call>"
_HEAD = re.compile(r'\{"name": ("(?:[^"\\]|\\.)*"), "arguments": ')
_ENOUGH_FOR_A_HEAD = 512

_PROMPT = """\
# Tools

You may call these functions; each is described by a JSON object:

{tools}

To call a function, write exactly this, once for each call, and nothing between or after:

<tool_call>{{"name": "<name of the function>", "arguments": <its arguments as a JSON object>}}</tool_call>

The result is then given to you between <tool_response> and </tool_response>. {when}"""
_WHEN = {
    "auto": "When no function is needed, answer in plain text.",
    "required": "You must call a function now.",
    "named": "You must call the function {name} now.",
}


def tool_prompt(tools: Iterable[Tool], choice: ToolChoice) -> str:
    """Return what the system prompt says of the tools."""
    described = "\n".join(
        msgspec.json.encode(
            {
                "name": tool.name,
                "description": tool.description,
                "parameters": msgspec.Raw(tool.parameters.encode()),
            }
        ).decode()
        for tool in tools
    )
    when = _WHEN[choice.mode].format(name=choice.name)
    return _PROMPT.format(tools=described, when=when)


def call_head(name: str) -> str:
    """Return what stands between `OPEN` and a call's arguments."""
    return f'{{"name": {msgspec.json.encode(name).decode()}, "arguments": '


def call_text(calls: Sequence[ToolCall]) -> str:
    """Return earlier calls as the model would have written them."""
    return "".join(OPEN + call_head(call.function.name) + call.function.arguments + CLOSE for call in calls)


def result_text(message: Message) -> str:
    """Return a tool's result as the system prompt announced it."""
    return f"<tool_response>{message.text}</tool_response>"


class JsonScanner:
    """Finds the end of one JSON object or array that arrives in pieces, without reading it."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def scan(self, text: str) -> int | None:
        """Return the index just after the value's last character, or None while it goes on."""
        for index, char in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self._in_string = False
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return index + 1
        return None


class CallParser:
    """Cuts generated text into plain text and the pieces of tool calls, as they arrive.

    Blank space before and between calls belongs to neither. A call that repeats an earlier one is not
    passed on and sets ``repeated``: a model that begins to repeat itself would not end by itself. The grammar
    guarantees the form; should it fail, `EngineError` says so.
    """

    def __init__(self) -> None:
        self._buffer = ""
        self._state = self._in_text
        self._scanner = JsonScanner()
        self._calls = 0
        self._earlier: list[str] = []
        self._current = ""
        self._held: list[CallPiece] | None = None
        self.repeated = False

    def push(self, text: str) -> list[str | CallPiece]:
        """Return what ``text`` completes, in order.

        Raises:
            EngineError: what follows `OPEN` is not a call.
        """
        self._buffer += text
        pieces: list[str | CallPiece] = []
        while not self.repeated and self._state(pieces):
            pass
        return pieces

    def flush(self) -> str:
        """Return plain text that was held back; of a call that is cut off, what was sent stays sent."""
        text, self._buffer = self._buffer, ""
        return text if self._state == self._in_text and not (self._calls and text.isspace()) else ""

    def _in_text(self, pieces: list[str | CallPiece]) -> bool:
        before, mark, after = self._buffer.partition(OPEN)
        if mark:
            if before.strip():
                pieces.append(before.rstrip())
            self._buffer, self._state = after, self._in_head
            return True
        keep = len(before) - held_back(before, (OPEN,))
        keep = len(before[:keep].rstrip())
        if keep:
            pieces.append(before[:keep])
            self._buffer = before[keep:]
        return False

    def _in_head(self, pieces: list[str | CallPiece]) -> bool:
        head = _HEAD.match(self._buffer)
        if head is None:
            if len(self._buffer) > _ENOUGH_FOR_A_HEAD:
                raise _left_the_grammar()
            return False
        self._scanner, self._current, self._held = JsonScanner(), "", []
        self._pass_on(CallPiece(self._calls, msgspec.json.decode(head[1]), ""), head[0], pieces)
        self._buffer, self._state = self._buffer[head.end() :], self._in_arguments
        return True

    def _in_arguments(self, pieces: list[str | CallPiece]) -> bool:
        end = self._scanner.scan(self._buffer)
        arguments = self._buffer[:end]
        self._buffer = self._buffer[len(arguments) :]
        if arguments:
            self._pass_on(CallPiece(self._calls, None, arguments), arguments, pieces)
        if end is None:
            return False
        if self._held and self._current in self._earlier:
            self.repeated = True
            return False
        pieces += self._held or ()
        self._calls += 1
        self._earlier.append(self._current)
        self._state = self._in_tail
        return True

    def _pass_on(self, piece: CallPiece, source: str, pieces: list[str | CallPiece]) -> None:
        """Pass a piece on, unless all of its call so far is as an earlier call began."""
        self._current += source
        if self._held is None:
            pieces.append(piece)
            return
        self._held.append(piece)
        if not any(call.startswith(self._current) for call in self._earlier):
            pieces += self._held
            self._held = None

    def _in_tail(self, pieces: list[str | CallPiece]) -> bool:
        del pieces
        if len(self._buffer) < len(CLOSE):
            return False
        if not self._buffer.startswith(CLOSE):
            raise _left_the_grammar()
        self._buffer, self._state = self._buffer[len(CLOSE) :], self._in_text
        return True


def _left_the_grammar() -> EngineError:
    return EngineError("the model wrote a tool call that its grammar should have prevented")
