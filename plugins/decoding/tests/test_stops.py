"""Stop strings."""

from __future__ import annotations

from decoding.stops import StopMatcher, held_back
from hypothesis import given
from hypothesis import strategies as st

_TEXT = st.text("abc", max_size=12)


def _run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    matcher, shown = StopMatcher(stops), ""
    for piece in pieces:
        shown += matcher.push(piece)
        if matcher.stopped:
            return shown, True
    return shown + matcher.flush(), False


@given(stops=st.lists(st.text("abc", max_size=4), max_size=3), pieces=st.lists(_TEXT, max_size=6))
def test_pieces_do_not_matter(stops: list[str], pieces: list[str]) -> None:
    """Any cut of a text gives what one character at a time gives."""
    assert _run(stops, pieces) == _run(stops, list("".join(pieces)))


@given(stops=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3), text=_TEXT)
def test_what_is_shown_ends_before_the_first_stop(stops: list[str], text: str) -> None:
    """The shown text is a prefix, holds no stop string, and is the whole text when there is none."""
    shown, stopped = _run(stops, [text])
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert stopped == any(stop in text for stop in stops)
    assert stopped or shown == text


def test_held_text_is_the_longest_possible_beginning() -> None:
    """A shorter candidate must not hide a longer one."""
    assert held_back("xab", ("abc", "b!")) == 2
    assert held_back("xy", ("abc",)) == 0
