"""Reasoning blocks."""

from __future__ import annotations

import pytest
from decoding.reasoning import Part, ReasoningSplitter
from hypothesis import given
from hypothesis import strategies as st

MARKS = [("<think>", "</think>"), ("[THINK]", "[/THINK]")]
_pieces = st.lists(
    st.one_of(
        st.sampled_from(["<think>", "</think>", "<th", "ink>", "</", "\n", "\r\n", "a", " b"]),
        st.text("a<\n>", max_size=3),
    ),
    max_size=12,
)


def split(pieces: list[str], *, inside: bool = False, marks: tuple[str, str] = MARKS[0]) -> list[Part]:
    """Return the parts, neighbours of one kind joined."""
    splitter = ReasoningSplitter(*marks, inside=inside)
    parts = [part for piece in pieces for part in splitter.push(piece)] + splitter.flush()
    joined: list[Part] = []
    for kind, text in parts:
        assert text
        if joined and joined[-1][0] == kind:
            joined[-1] = (kind, joined[-1][1] + text)
        else:
            joined.append((kind, text))
    return joined


@given(pieces=_pieces, inside=st.booleans())
def test_pieces_do_not_matter(pieces: list[str], inside: bool) -> None:
    """Any cut of a text gives what one character at a time gives."""
    assert split(pieces, inside=inside) == split(list("".join(pieces)), inside=inside)


@given(pieces=_pieces, inside=st.booleans())
def test_no_mark_and_no_beginning_of_one_leaks(pieces: list[str], inside: bool) -> None:
    """Before the text ends, nothing that was passed on ends like a mark begins, or holds one."""
    splitter = ReasoningSplitter("<think>", "</think>", inside=inside)
    for piece in pieces:
        for _, text in splitter.push(piece):
            assert "<think>" not in text
            assert "</think>" not in text
        assert not splitter.push("")


@given(text=st.text("abc <>/\n", max_size=30))
def test_a_text_without_marks_is_passed_on_whole(text: str) -> None:
    """Line breaks at its beginning too."""
    assert "".join(part for _, part in split([text])) == text


@pytest.mark.parametrize("marks", MARKS)
@pytest.mark.parametrize("inside", [False, True])
def test_a_block_and_its_line_breaks(marks: tuple[str, str], inside: bool) -> None:
    """The breaks around the marks belong to neither; those within the texts stay."""
    opening, closing = marks
    text = f"\nwell,\n\nyes\n{closing}\n\nIt is\n4.\n"

    parts = split([text if inside else "\n" + opening + text], inside=inside, marks=marks)

    assert parts == [("reasoning", "well,\n\nyes"), ("text", "It is\n4.\n")]


def test_the_beginning_of_a_mark_is_held_until_it_is_told_apart() -> None:
    """And given back when the text ends there."""
    splitter = ReasoningSplitter("<think>", "</think>", inside=False)

    assert splitter.push("2 <thi") == [("text", "2 ")]
    assert splitter.push("ng") == [("text", "<thing")]
    assert splitter.push(" <") == [("text", " ")]
    assert splitter.flush() == [("text", "<")]


def test_later_blocks_and_stray_marks() -> None:
    """A block may come after text; a mark that changes nothing is dropped."""
    assert split(["a\n<think>b<think>c</think>d</think>e"]) == [("text", "a\n"), ("reasoning", "bc"), ("text", "de")]


def test_inside_tells_what_comes_next() -> None:
    """Who counts tokens looks at it."""
    splitter = ReasoningSplitter("<think>", "</think>", inside=True)

    splitter.push("a</think")
    assert splitter.inside
    splitter.push(">")
    assert not splitter.inside
