"""A model's tokens: their bytes, their names, and how text becomes them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from llguidance import LLTokenizer, TokenizerWrapper
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from core.api import EngineLoadError
from decoding.detokenize import Detokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Vocabulary"]

_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")
_BYTES = 256
_NOT_A_CHARACTER = "\N{REPLACEMENT CHARACTER}"


class Vocabulary:
    """The tokens of one model; safe to use from any thread.

    Takes the tokenizer over: it neither pads nor truncates any more.

    Args:
        tokenizer: a fast tokenizer of transformers.
        eos: tokens that end an answer; ids that are of no token, as some models' files have, are left out.
        size: length of the model's rows of logits, where it is more than the tokenizer has tokens.

    Attributes:
        size: token ids are below it.
        eos: as given, without ids of no token.
        special_tokens: how they are written -> their ids. They give no text unless asked for, and a grammar cannot
            spell them, only name them. Those of ``eos`` are among them.

    Raises:
        EngineLoadError: the tokenizer is one in Python only.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos: Iterable[int], *, size: int = 0) -> None:
        if not getattr(tokenizer, "is_fast", False):
            msg = (
                f"The model's tokenizer ({type(tokenizer).__name__}) runs in Python only and gives no bytes of its "
                "tokens; take a repository that has a tokenizer.json."
            )
            raise EngineLoadError(msg, permanent=True)
        self._tokenizer: Tokenizer = tokenizer.backend_tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        marks = self._tokenizer.get_added_tokens_decoder()
        self._pieces, self._drops_space = _pieces(self._tokenizer, marks)
        for token, mark in marks.items():
            if mark.special:
                self._pieces[token] = mark.content.encode()
        self._pieces += [b""] * (size - len(self._pieces))
        self.size = len(self._pieces)
        self.eos = frozenset(token for token in eos if 0 <= token < self.size)
        self._special = self.eos | {token for token, mark in marks.items() if mark.special}
        self.special_tokens = {self.name_of(token): token for token in sorted(self._special)}

    def encode(self, text: str, *, framed: bool) -> list[int]:
        """Return the tokens of ``text``; marks such as ``<|im_end|>`` in it become their tokens.

        Args:
            text: what is encoded.
            framed: put around it what the tokenizer says begins (and ends) a text, such as a BOS. True for raw
                prompts and for texts to embed; False for a rendered chat, whose template has written it already.
        """
        return self._tokenizer.encode(text, add_special_tokens=framed).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of ``tokens`` from its beginning; special ones give none."""
        detokenizer = self.detokenizer(begins=True)
        return "".join(map(detokenizer.push, tokens))

    def bytes_of(self, token: int) -> bytes:
        """Return what the token adds to a text, or how a special token is written; may be part of a character."""
        return self._pieces[token]

    def name_of(self, token: int) -> str:
        """Return `bytes_of` as text, with U+FFFD for what is no whole character."""
        return self._pieces[token].decode(errors="replace")

    def detokenizer(self, shown: Collection[int] = (), *, begins: bool = False) -> Detokenizer:
        """Return what turns the tokens of one answer into text.

        Args:
            shown: special tokens that give text nevertheless, as they are written.
            begins: the text begins here and continues nothing: the space that some tokenizers put before every
                first word is no part of it.
        """
        hidden = self._special.difference(shown)
        return Detokenizer(self._pieces, hidden, drop_space=begins and self._drops_space)

    @cached_property
    def llguidance(self) -> LLTokenizer:
        """The tokens as grammars need them, made on first use: 0.1 s for 50,000 tokens."""
        eos = sorted(self.eos)
        return LLTokenizer(TokenizerWrapper(_ForGrammars(self, eos)), eos_token=eos)


class _ForGrammars:
    """What llguidance asks of a tokenizer. It reads tokenizer.json too, but gets the bytes of some kinds wrong."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, eos: list[int]) -> None:
        self.eos_token_id = eos[0]
        self.tokens = [vocabulary.bytes_of(token) for token in range(vocabulary.size)]
        self.special_token_ids = sorted(vocabulary.special_tokens.values())
        self._encode = vocabulary.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text, framed=False)


def _pieces(tokenizer: Tokenizer, marks: Collection[int]) -> tuple[list[bytes], bool]:
    """Return the bytes of each token, and whether the tokenizer drops a space at the beginning of a text.

    The tokenizer's own decoder says what a token is in the middle of a text: what a second one adds to the first.
    Where that is not whole characters, the name of the token has its bytes.

    Args:
        tokenizer: whose tokens.
        marks: tokens whose name is their text, whatever the decoder makes of it.
    """
    names = [tokenizer.id_to_token(token) or "" for token in range(max([tokenizer.get_vocab_size() - 1, *marks]) + 1)]
    decoder = tokenizer.decoder
    if decoder is not None and b'"ByteLevel"' in decoder.__getstate__():
        table = _byte_level()
        return [
            name.encode() if token in marks or not table.keys() >= set(name) else bytes(map(table.__getitem__, name))
            for token, name in enumerate(names)
        ], False
    pieces, drops_space = [], False
    for token, name in enumerate(names):
        once = tokenizer.decode([token], skip_special_tokens=False)
        twice = tokenizer.decode([token, token], skip_special_tokens=False)
        piece = twice[len(once) :]
        drops_space |= piece == " " + once
        byte = _BYTE_TOKEN.fullmatch(name) if _NOT_A_CHARACTER in piece else None
        pieces.append(bytes.fromhex(byte[1]) if byte else piece.encode())
    return pieces, drops_space


def _byte_level() -> dict[str, int]:
    """Return which byte each letter of byte-level tokenizers stands for.

    Printable ones stand for themselves, the letters from U+0100 on for the other bytes in order.
    """
    letters = sorted(ByteLevel.alphabet())
    plain = {letter: ord(letter) for letter in letters if ord(letter) < _BYTES}
    others = sorted(set(range(_BYTES)).difference(plain.values()))
    return plain | dict(zip(letters[len(plain) :], others, strict=True))
