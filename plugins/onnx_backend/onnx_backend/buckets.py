"""Sessions of fixed shapes, for devices that compile a graph for each: one text of one of a few lengths."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["Buckets", "OpenFixed", "bucket_for"]

OpenFixed = Callable[[Mapping[str, int]], "onnxruntime.InferenceSession"]

_LEAST_TOKENS = 16
_MOST_SESSIONS = 6  # 16 to 512 tokens, which is all there are for most models; each may hold its own weights


def bucket_for(length: int, context_tokens: int) -> int:
    """Return the length to which a text is padded: the next power of two, but no more than the context.

    Args:
        length: tokens of the text, at most ``context_tokens``.
        context_tokens: most tokens of one.
    """
    return min(max(_LEAST_TOKENS, 1 << (length - 1).bit_length()), context_tokens)


class Buckets:
    """Opens the session of a bucket when its first text comes; closes the one that was unused for longest.

    Args:
        open_fixed: opens the graph with some of its dimensions fixed; takes their names and sizes.
        most_sessions: open at once.
    """

    def __init__(self, open_fixed: OpenFixed, *, most_sessions: int = _MOST_SESSIONS) -> None:
        self._open_fixed = open_fixed
        self._most_sessions = most_sessions
        self._sessions: OrderedDict[tuple[tuple[str, int], ...], onnxruntime.InferenceSession] = OrderedDict()

    def session_for(self, dimensions: Mapping[str, int]) -> onnxruntime.InferenceSession:
        """Return the session whose dimensions are these."""
        key = tuple(sorted(dimensions.items()))
        session = self._sessions.pop(key, None)
        if session is None:
            while len(self._sessions) >= self._most_sessions:
                self._sessions.popitem(last=False)
            session = self._open_fixed(dimensions)
        self._sessions[key] = session
        return session
