"""Tokens and their text, with a tokenizer of each kind."""

from __future__ import annotations

import pytest
from decoding.testing import KINDS, byte_level, sentencepiece_bpe
from decoding.tokens import Vocabulary
from hypothesis import example, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher
from tokenizers import Tokenizer, decoders, models
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from core.api import EngineLoadError

REAL = [
    "hello 👩\u200d👩\u200d👧\u200d👦 family",
    "你好世界",
    "مرحبا بالعالم",
    "naïve é€ 🙂",
    "  two  spaces",
    "tab\tand\nbreak",
    "<|im_end|> </s>",
    "\U0010ffff\ue000",
]
VOCABULARIES = {kind: Vocabulary(hf := make(), eos=[hf.eos_token_id]) for kind, make in KINDS.items()}
REFERENCES = {kind: make().backend_tokenizer for kind, make in KINDS.items()}
kinds = pytest.mark.parametrize("kind", KINDS)
fast = settings(deadline=None, max_examples=100)


def pushed(vocabulary: Vocabulary, tokens: list[int], *, begins: bool = False) -> tuple[list[str], str]:
    """Return what each token gave, and what was left at the end."""
    detokenizer = vocabulary.detokenizer(begins=begins)
    return [detokenizer.push(token) for token in tokens], detokenizer.flush()


def named(vocabulary: Vocabulary, name: str) -> int:
    token = vocabulary._tokenizer.token_to_id(name)
    assert token is not None
    return token


@kinds
@fast
@given(text=st.one_of(st.sampled_from(REAL), st.text(max_size=20)))
def test_text_comes_back(kind: str, text: str) -> None:
    """As the tokenizer itself decodes it, piece by piece, and never with a broken character."""
    vocabulary, reference = VOCABULARIES[kind], REFERENCES[kind]
    tokens = vocabulary.encode(text, framed=False)
    expected = reference.decode(tokens)

    pieces, left = pushed(vocabulary, tokens, begins=True)

    if not expected.startswith("  "):  # of several spaces at the very beginning, Metaspace drops all
        assert "".join(pieces) + left == expected
    assert left == ""
    assert "".join(pieces).count("\ufffd") == text.count("\ufffd")
    assert vocabulary.decode(tokens) == "".join(pieces)


@kinds
@fast
@given(data=st.data())
def test_any_tokens_give_what_their_bytes_give(kind: str, data: st.DataObject) -> None:
    """In one go or token by token; what can never become a character does not stop the text."""
    vocabulary = VOCABULARIES[kind]
    tokens = data.draw(st.lists(st.integers(0, vocabulary.size - 1), max_size=12))
    visible = [token for token in tokens if token not in vocabulary.special_tokens.values()]
    raw = b"".join(map(vocabulary.bytes_of, visible))

    pieces, left = pushed(vocabulary, tokens)

    whole, shown = raw.decode(errors="replace"), "".join(pieces) + left
    assert whole.removesuffix("\ufffd") == shown or whole == shown
    if REFERENCES[kind].decode(visible).count("\ufffd") == 0:
        assert vocabulary.decode(tokens).lstrip(" ") == REFERENCES[kind].decode(visible).lstrip(" ")


@fast
@given(raw=st.lists(st.sampled_from([0x41, 0x80, 0xA0, 0xBF, 0xC3, 0xE0, 0xED, 0xF0, 0xF4]), max_size=6).map(bytes))
@example(raw=b"\xed\xa0")
@example(raw=b"\xf0\x9f\x99")
def test_the_end_of_a_text_that_is_no_character(raw: bytes) -> None:
    """Half a character is dropped; what never can be one is shown as such."""
    vocabulary = VOCABULARIES["bpe"]
    tokens = [named(vocabulary, f"<0x{byte:02X}>") for byte in raw]
    could_go_on = any(
        _completes(raw, rest) for rest in (b"\x80", b"\xbf", b"\x80\x80", b"\xbf\xbf", b"\x80" * 3, b"\xbf" * 3)
    )

    pieces, left = pushed(vocabulary, tokens)

    whole = raw.decode(errors="replace")
    assert "".join(pieces) + left == (whole.removesuffix("\ufffd") if could_go_on else whole)


def _completes(raw: bytes, rest: bytes) -> bool:
    """Whether the last, broken character of ``raw`` becomes one with ``rest``."""
    try:
        raw[-3:].decode()
    except UnicodeDecodeError as error:
        broken = raw[-3:][error.start :]
    else:
        return False
    while broken:
        try:
            if len((broken + rest).decode()) == 1:
                return True
        except UnicodeDecodeError:
            pass
        broken = broken[1:]
    return False


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("byte level", "Ġw", b" w"),
        ("byte level", "ðŁ", b"\xf0\x9f"),
        ("byte level", "Ń", b"\xad"),
        ("byte level", "<|im_end|>", b"<|im_end|>"),
        ("byte level", " é€", " é€".encode()),
        ("byte level", "<|bare|>", b"<|bare|>"),
        *[
            (kind, name, expected)
            for kind in ("bpe", "unigram")
            for name, expected in [
                ("<0x41>", b"A"),
                ("<0xC3>", b"\xc3"),
                ("<0xFF>", b"\xff"),
                ("▁", b" "),
                ("▁hello", b" hello"),
                ("▁▁", b"  "),
                ("é", "é".encode()),
                ("[TOOL_CALLS]", b"[TOOL_CALLS]"),
            ]
        ],
    ],
)
def test_bytes_of_a_token(kind: str, name: str, expected: bytes) -> None:
    """Exactly, also of tokens that are part of a character; the name is the same as text."""
    vocabulary = VOCABULARIES[kind]
    token = named(vocabulary, name)

    assert vocabulary.bytes_of(token) == expected
    assert vocabulary.name_of(token) == expected.decode(errors="replace")


def test_added_tokens_are_written_as_they_are() -> None:
    """Not in the letters of byte-level tokenizers, nor with what a decoder puts between words."""
    hf = byte_level()
    hf.add_tokens(["Ġé"])
    token = hf.convert_tokens_to_ids("Ġé")
    words = Tokenizer(models.WordPiece({"[PAD]": 0, "hello": 1, "##ly": 2, "[UNK]": 3}, unk_token="[UNK]"))  # noqa: S106
    words.decoder = decoders.WordPiece()
    words.add_special_tokens(["[PAD]"])
    vocabulary = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=words), eos=[])

    assert Vocabulary(hf, eos=[0]).bytes_of(token) == "Ġé".encode()
    assert vocabulary.special_tokens == {"[PAD]": 0}
    assert vocabulary.decode([1, 2, 0, 1]) == "helloly hello"


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_the_space_before_a_word_is_kept_unless_the_text_begins(kind: str) -> None:
    """What continues a prompt needs it; at the beginning of a text it was never written."""
    vocabulary = VOCABULARIES[kind]
    tokens = vocabulary.encode("hello hello", framed=False)

    assert pushed(vocabulary, tokens)[0] == [" hello", " hello"]
    assert pushed(vocabulary, tokens, begins=True)[0] == ["hello", " hello"]


def test_special_tokens_are_silent_unless_shown() -> None:
    """Those that are asked for give their text; end tokens are special even if the tokenizer does not say so."""
    hf = byte_level()
    start, end, bare = hf.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "<|bare|>"])
    vocabulary = Vocabulary(hf, eos=[end, bare])
    detokenizer = vocabulary.detokenizer(shown={start})

    assert [detokenizer.push(token) for token in (start, end, bare)] == ["<|im_start|>", "", ""]
    assert vocabulary.special_tokens == {"<|im_start|>": start, "<|im_end|>": end, "<|bare|>": bare}
    assert vocabulary.encode("<|im_start|>", framed=False) == [start]


def test_framing_and_no_limits() -> None:
    """Only a framed text gets its BOS, and no text is cut or padded, whatever tokenizer.json says."""
    hf = sentencepiece_bpe()
    hf.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    hf.backend_tokenizer.enable_truncation(2)
    hf.backend_tokenizer.enable_padding(length=8)

    vocabulary = Vocabulary(hf, eos=[2])

    assert vocabulary.encode("hello", framed=True) == [1, *vocabulary.encode("hello", framed=False)]
    assert len(vocabulary.encode("hello hello hello", framed=False)) == 3


def test_rows_of_logits_may_be_longer() -> None:
    """Tokens that only the model has are nothing."""
    vocabulary = Vocabulary(byte_level(), eos=[2], size=400)

    assert vocabulary.size == vocabulary.llguidance.vocab_size == 400
    assert (vocabulary.bytes_of(399), vocabulary.name_of(399)) == (b"", "")


def test_ends_that_no_token_has_are_left_out() -> None:
    """Some models' files name -1, or a token that was cut off; a grammar would fail at either."""
    hf = byte_level()
    vocabulary = Vocabulary(hf, eos=[-1, hf.eos_token_id, 1 << 30])
    assert vocabulary.eos == {hf.eos_token_id}
    assert vocabulary.llguidance.eos_token == hf.eos_token_id


@kinds
def test_grammars_see_the_same_text(kind: str) -> None:
    """A text that a grammar spells is accepted token by token, then its end; so llguidance has the right bytes."""
    vocabulary = VOCABULARIES[kind]
    text = " hello hello  é🙂"
    matcher = LLMatcher(vocabulary.llguidance, f'start: "{text}"')
    tokens = vocabulary.encode(text.removeprefix(" ") if kind != "byte level" else text, framed=False)

    assert b"".join(map(vocabulary.bytes_of, tokens)) == text.encode()
    assert matcher.consume_tokens(tokens)
    assert matcher.is_stopped() or matcher.consume_tokens(sorted(vocabulary.eos))


@kinds
def test_grammars_cannot_spell_special_tokens(kind: str) -> None:
    """Free text inside a grammar never ends an answer or opens a call."""
    vocabulary = VOCABULARIES[kind]

    for token in vocabulary.special_tokens.values():
        matcher = LLMatcher(vocabulary.llguidance, r"start: /(.|\n){40}/")
        assert matcher.validate_tokens([token]) == 0
        assert matcher.validate_tokens([named(vocabulary, "h")]) == 1


def test_a_tokenizer_in_python_only_is_refused() -> None:
    """For good: loading again does not help."""

    class Slow:
        is_fast = False

    with pytest.raises(EngineLoadError, match=r"Slow.*tokenizer\.json") as caught:
        Vocabulary(Slow(), eos=[0])
    assert caught.value.permanent
