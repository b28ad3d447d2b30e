"""For tests of engines: tokenizers of a few hundred tokens, one of each kind that models have."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

__all__ = ["KINDS", "byte_level", "sentencepiece_bpe", "sentencepiece_unigram"]

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
MARKS = ["<unk>", "<s>", "</s>", "[TOOL_CALLS]"]
WORDS = [SPACE, "h", "e", "l", "o", SPACE + "h", "he", "ll", "hell", "hello", SPACE + "hello", "é", SPACE * 2]
MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), (SPACE, "hello"), (SPACE, "h"), (SPACE, SPACE)]


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2, Llama 3, Qwen and SmolLM2: every token is bytes, some of them parts of characters."""
    names = sorted(ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("Ġ", "w"), ("ð", "Ł"), ("ðŁ", "ĺ")]
    names += [left + right for left, right in merges] + ["<|bare|>"]
    tokenizer = Tokenizer(models.BPE(vocab={name: token for token, name in enumerate(names)}, merges=merges))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken(" é€", normalized=False)])
    return _fast(tokenizer, "<|im_start|>", "<|im_end|>")


def _vocabulary() -> list[str]:
    return MARKS + [f"<0x{byte:02X}>" for byte in range(256)] + WORDS


def sentencepiece_bpe() -> PreTrainedTokenizerFast:
    """As Llama 2, Mistral 7B and Phi 3: words with a space before them, other characters byte by byte."""
    names = _vocabulary()
    tokenizer = Tokenizer(
        models.BPE(
            vocab={name: token for token, name in enumerate(names)},
            merges=MERGES,
            unk_token=MARKS[0],
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _with_marks(tokenizer)


def sentencepiece_unigram() -> PreTrainedTokenizerFast:
    """As sentencepiece's own kind of model, with a decoder that says in one word what a space is."""
    tokenizer = Tokenizer(
        models.Unigram([(name, -float(rank)) for rank, name in enumerate(_vocabulary())], unk_id=0, byte_fallback=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(replacement=SPACE, prepend_scheme="first")]
    )
    return _with_marks(tokenizer)


def _with_marks(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens(MARKS)
    return _fast(tokenizer, "<s>", "</s>")


def _fast(tokenizer: Tokenizer, bos: str, eos: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)


KINDS = {"byte level": byte_level, "bpe": sentencepiece_bpe, "unigram": sentencepiece_unigram}
