"""What the engine says: words that follow from the prompt and from every word before them.

So two replicas say the same, one that continues from wrong words says something else, and who asks can work out
what is right without asking anybody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import islice

from core.api import ChatRequest, CompletionRequest

__all__ = ["TOKENS", "pieces_of", "prompts_of"]

_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
_WORDS = [first + second for first in _SYLLABLES for second in _SYLLABLES]
TOKENS = len(_WORDS)
"""Token ids are below this."""


def prompts_of(request: ChatRequest | CompletionRequest) -> list[str]:
    """The text that is answered, of each prompt."""
    if isinstance(request, ChatRequest):
        return [" ".join(f"{message.role}: {message.text}" for message in request.messages)]
    return [str(prompt) for prompt in request.prompts]


def pieces_of(prompt: str, count: int, *, draw: int = 0, known: Sequence[int] = ()) -> list[tuple[int, str]]:
    """The first tokens of an answer, id and text; ``known`` ids stand at its beginning, right or wrong."""
    state = hashlib.blake2b(f"{draw}|{prompt}".encode(), digest_size=16).digest()
    pieces: list[tuple[int, str]] = []
    given = iter(islice(known, count))
    while len(pieces) < count:
        token = next(given, int.from_bytes(state[:4], "big") % TOKENS)
        state = hashlib.blake2b(state + token.to_bytes(4, "big"), digest_size=16).digest()
        pieces.append((token, f" {_WORDS[token]}" if pieces else _WORDS[token]))
    return pieces
