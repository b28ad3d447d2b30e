"""Stop strings, found in a text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopMatcher", "held_back"]


def held_back(text: str, words: Sequence[str]) -> int:
    """Return the length of the longest end of ``text`` that may be the beginning of a word."""
    longest = 0
    for word in words:
        for length in range(min(len(word) - 1, len(text)), longest, -1):
            if text.endswith(word[:length]):
                longest = length
                break
    return longest


class StopMatcher:
    """Passes text on until one of ``stops`` is complete; no part of a stop string ever leaves.

    What comes out does not depend on how the text was cut into pieces: the stop string that is complete
    first decides, of two that end together the longer one.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Return what may be shown now; look at ``stopped`` afterwards."""
        if not self._stops:
            return text
        text = self._held + text
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        keep = len(text) - held_back(text, self._stops)
        self._held = text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """Return what was held back: no stop string can become complete any more."""
        text, self._held = self._held, ""
        return text
