"""Masks are those of the rows' own grammars, and are made while something else runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from decoding.masks import MaskMaker, Matcher
from decoding.sampling import Chooser, choose
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from core.api import EngineError, RequestError, Sampling

TOKENIZER = LLTokenizer("byte")
SIZE, END = TOKENIZER.vocab_size, TOKENIZER.eos_token
INTEGER = LLMatcher.grammar_from_regex("-?[0-9]{1,3}")
OBJECT = LLMatcher.grammar_from_json_schema(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 150}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)


@pytest.fixture
def maker() -> Iterator[MaskMaker]:
    maker = MaskMaker(SIZE)
    yield maker
    maker.close()


def matcher(grammar: str, text: bytes = b"") -> Matcher:
    matcher = Matcher(TOKENIZER, grammar)
    for token in text:
        matcher.advance(token)
    return matcher


def tokens(bits: np.ndarray | None) -> set[int]:
    assert bits is not None
    return set(np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist())


def test_each_row_has_the_mask_of_its_own_grammar(maker: MaskMaker) -> None:
    allowed = maker.start([matcher(INTEGER), None, matcher(INTEGER, b"-"), matcher(INTEGER, b"12")]).result()

    assert allowed is not None
    first, free, second, third = allowed
    assert tokens(first) == {*b"-0123456789"}
    assert free is None
    assert tokens(second) == {*b"0123456789"}
    assert tokens(third) == {*b"0123456789", END}


@pytest.mark.parametrize("matchers", [[], [None], [None, None]])
def test_rows_without_grammars_have_no_masks(maker: MaskMaker, matchers: list[None]) -> None:
    assert maker.start(matchers).result() is None


def test_a_mask_is_as_long_as_the_row(maker: MaskMaker) -> None:
    """The logits may be longer than the tokenizer's vocabulary: what lies beyond is forbidden."""
    longer = MaskMaker(1000)
    try:
        allowed = longer.start([matcher(INTEGER)]).result()
    finally:
        longer.close()

    assert allowed is not None
    assert tokens(allowed[0]) == {*b"-0123456789"}
    logits = np.zeros((1, 1000), np.float32)
    logits[0, SIZE:] = 9
    chooser = Chooser(Sampling(temperature=1.0, seed=1), [], choice=0, vocab_size=1000)
    assert {choose(logits, [chooser], allowed)[0].token for _ in range(200)} == {*b"-0123456789"}


def test_a_grammar_stops_when_only_the_end_may_follow(maker: MaskMaker) -> None:
    done = matcher(INTEGER, b"12")
    assert not done.stopped
    done.advance(ord("3"))
    assert done.stopped
    allowed = maker.start([done]).result()
    assert allowed is not None
    assert tokens(allowed[0]) == {END}

    ended = matcher(INTEGER, b"1")
    ended.advance(END)
    assert ended.stopped


@pytest.mark.parametrize("token", [ord("x"), END, SIZE, 10**7])
def test_a_token_out_of_the_grammar_is_an_error(token: int, maker: MaskMaker) -> None:
    """In one line; from then on nothing is allowed, not even the end: the text is not complete."""
    lost, fine = matcher(OBJECT, b'{"na'), matcher(INTEGER)
    with pytest.raises(EngineError, match=r"^The grammar cannot be followed any further: .+\.$"):
        lost.advance(token)

    allowed = maker.start([lost, fine]).result()

    assert allowed is not None
    assert tokens(allowed[0]) == set()
    assert tokens(allowed[1]) == {*b"-0123456789"}


def test_a_grammar_that_becomes_too_complex_ends_its_row_alone(
    maker: MaskMaker, caplog: pytest.LogCaptureFixture
) -> None:
    """llguidance then allows the end of the text, as if it were complete."""
    heavy, fine = matcher(INTEGER), matcher(INTEGER)
    limits = LLParserLimits(max_lexer_states=3)
    heavy.llguidance = LLMatcher(
        TOKENIZER, LLMatcher.grammar_from_regex("(a|b)*a(a|b){40}"), limits=limits, log_level=0
    )
    logits = [np.zeros(SIZE, np.float32)] * 2
    choosers = [Chooser(Sampling(temperature=0.0), [], choice=0, vocab_size=SIZE) for _ in range(2)]

    steps = []
    for _ in range(2):
        steps.append(choose(logits, choosers, maker.start([heavy, fine]).result()))
        if len(steps) == 1:
            heavy.advance(ord("a"))
            fine.advance(ord("1"))

    assert [chosen.token for chosen in steps[0]] == [ord("a"), ord("-")]
    assert isinstance(steps[1][0], EngineError)
    assert steps[1][1].token == ord("0")
    assert "too many states" in caplog.text


def test_a_matcher_that_llguidance_refuses_ends_rows_not_threads(
    maker: MaskMaker, caplog: pytest.LogCaptureFixture
) -> None:
    """One matcher in two rows cannot be; the thread lives on."""
    twice = matcher(INTEGER)

    allowed = maker.start([twice, None, twice]).result()

    assert allowed is not None
    assert tokens(allowed[0]) == tokens(allowed[2]) == set()
    assert allowed[1] is None
    assert "no grammar mask" in caplog.text
    again = maker.start([twice]).result()
    assert again is not None
    assert tokens(again[0]) == {*b"-0123456789"}


@pytest.mark.parametrize("grammar", ["start: nope", "", '{"grammars": 3}'])
def test_a_grammar_that_does_not_compile_is_the_requests_fault(grammar: str) -> None:
    with pytest.raises(RequestError, match=r"^The grammar cannot be used: [^\n]+\.$") as refused:
        Matcher(TOKENIZER, grammar, param="response_format")

    assert refused.value.param == "response_format"


def test_a_copy_goes_its_own_way(maker: MaskMaker) -> None:
    one = matcher(INTEGER, b"-")
    other = one.copy()
    other.advance(ord("7"))

    allowed = maker.start([one, other]).result()

    assert allowed is not None
    assert tokens(allowed[0]) == {*b"0123456789"}
    assert tokens(allowed[1]) == {*b"0123456789", END}


def test_masks_are_made_in_another_thread(maker: MaskMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """``start`` returns before the masks are there."""
    go, makers = threading.Event(), []

    def slow(*_: object) -> None:
        makers.append(threading.current_thread())
        assert go.wait(10)

    monkeypatch.setattr("decoding.masks.fill_next_token_bitmask_par", slow)
    masks = maker.start([matcher(INTEGER)])
    go.set()
    masks.result()

    assert makers != [threading.current_thread()]


def test_closing_ends_the_thread() -> None:
    maker = MaskMaker(SIZE)
    maker.start([matcher(INTEGER)]).result()
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("masks")]
    maker.close()

    assert names
    assert not [thread for thread in threading.enumerate() if thread.name in names]


@pytest.mark.parametrize("seed", range(20))
def test_random_logits_under_a_schema_give_valid_json(maker: MaskMaker, seed: int) -> None:
    """Rows of a hot model that knows nothing, one free row among them: every grammar is kept to its end."""
    noise = np.random.default_rng(seed)
    sampling = Sampling(temperature=1.5, top_p=0.95, top_k=100, seed=seed)
    rows: list[Matcher | None] = [matcher(OBJECT), None, matcher(OBJECT)]
    choosers = [Chooser(sampling, [], choice=choice, vocab_size=SIZE) for choice in range(3)]
    texts: list[list[int]] = [[], [], []]
    for _ in range(120):
        logits = (noise.standard_normal((3, SIZE)) * 3).astype(np.float32)
        logits[:, ord(" ")] -= 20  # white space is allowed without end
        logits[:, [ord(c) for c in "\t\r\n"]] -= 20
        for row, (one, chosen) in enumerate(
            zip(rows, choose(logits, choosers, maker.start(rows).result()), strict=True)
        ):
            if one is not None and not one.stopped:
                one.advance(chosen.token)
                texts[row].append(chosen.token)

    for row in (0, 2):
        assert rows[row].stopped
        text = bytes(token for token in texts[row] if token != END)
        value = json.loads(text)
        assert value.keys() == {"name", "age"}
        assert value["age"] <= 150
    assert texts[0] != texts[2]
