"""Where a JSON value ends that arrives in pieces."""

from __future__ import annotations

__all__ = ["JsonScanner"]


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
