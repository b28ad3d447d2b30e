"""Joining text deltas of an answer that is wanted whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.api.messages import EngineEvent, Finished, ReasoningDelta, TextDelta, TokenLogprob, Usage
from core.engine.merge import TextMerger

LOGPROB = TokenLogprob(token="x", logprob=-1.0)  # noqa: S106 - no password


def merged(events: list[EngineEvent]) -> list[EngineEvent]:
    merger = TextMerger()
    return [out for event in events for out in merger.see(event)] + list(merger.rest())


def test_the_first_event_passes_at_once() -> None:
    first = TextDelta(text="a")

    assert list(TextMerger().see(first)) == [first]


def test_neighbours_of_one_choice_are_joined() -> None:
    events = [TextDelta(text="a"), *(TextDelta(text="b", tokens=2) for _ in range(3)), Finished(), Usage()]

    assert merged(events) == [TextDelta(text="a"), TextDelta(text="bbb", tokens=6), Finished(), Usage()]


def test_tokens_with_logprobs_stay_apart() -> None:
    events = [TextDelta(text="a"), TextDelta(text="b", logprobs=(LOGPROB,)), TextDelta(text="c", logprobs=(LOGPROB,))]

    assert merged(events) == events


text = st.builds(
    TextDelta,
    choice=st.integers(0, 2),
    text=st.text(max_size=3),
    tokens=st.integers(0, 3),
    logprobs=st.sampled_from([(), (LOGPROB,)]),
    token_ids=st.tuples(st.integers(0, 9)) | st.just(()),
)
other = st.one_of(st.builds(Finished, choice=st.integers(0, 2)), st.builds(ReasoningDelta, text=st.text(max_size=3)))


@given(st.lists(st.one_of(text, text, other), max_size=600))
def test_nothing_is_lost_or_reordered_within_a_choice(events: list[EngineEvent]) -> None:
    def told(stream: list[EngineEvent], choice: int) -> tuple[str, int, list[int], list[EngineEvent]]:
        texts = [event for event in stream if isinstance(event, TextDelta) and event.choice == choice]
        others = [event for event in stream if not isinstance(event, TextDelta)]
        ids = [token for event in texts for token in event.token_ids]
        return "".join(event.text for event in texts), sum(event.tokens for event in texts), ids, others

    for choice in range(3):
        assert told(merged(events), choice) == told(events, choice)
