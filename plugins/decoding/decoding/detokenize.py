"""Tokens -> text, as they come."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence

__all__ = ["Detokenizer"]

_utf8 = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """The text of one sequence of tokens, in whole characters.

    The bytes of a character that is not complete yet are kept until it is; bytes that can never become one turn
    into U+FFFD just as `bytes.decode` does it.

    Args:
        pieces: the bytes of each token id.
        hidden: tokens that give no text.
        drop_space: the first space of the text is not part of it.
    """

    def __init__(self, pieces: Sequence[bytes], hidden: Collection[int], *, drop_space: bool = False) -> None:
        self._pieces = pieces
        self._hidden = hidden
        self._drop_space = drop_space
        self._utf8 = _utf8(errors="replace")

    def push(self, token: int) -> str:
        """Return the characters that ``token`` completes; often none."""
        if token in self._hidden:
            return ""
        piece = self._pieces[token]
        if self._drop_space and piece:
            self._drop_space = False
            piece = piece.removeprefix(b" ")
        return self._utf8.decode(piece)

    def flush(self) -> str:
        """Return what is left when the text ends: nothing for the beginning of a character, it is dropped.

        U+FFFD for bytes that are none: the decoder keeps the first two of an encoded surrogate in vain.
        """
        kept, _ = self._utf8.getstate()
        self._utf8.reset()
        return kept.decode(errors="replace") if kept[:1] == b"\xed" and kept[1:] >= b"\xa0" else ""
