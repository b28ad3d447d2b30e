"""The check that every stream of an engine passes through."""

from __future__ import annotations

import pytest

from core.api import (
    ChatRequest,
    Embedding,
    EmbeddingsRequest,
    EngineEvent,
    Finished,
    RerankRequest,
    Score,
    TextDelta,
    Usage,
)
from core.engine.contract import ContractError, StreamCheck

TWO_CHOICES = ChatRequest(id="r", messages=(), n=2)
END = (Finished(choice=1), Finished(choice=0), Usage())


def check(*events: EngineEvent) -> None:
    stream = StreamCheck(TWO_CHOICES)
    for event in events:
        stream.see(event)
    stream.end()


def test_a_right_stream_passes() -> None:
    """Deltas, one Finished per choice in any order, Usage."""
    check(TextDelta(choice=0, text="a"), TextDelta(choice=1, text="b"), *END)


def test_embeddings_end_by_their_vectors() -> None:
    """One per input, in any order."""
    stream = StreamCheck(EmbeddingsRequest(id="r", inputs=("a", "b")))
    for event in (Embedding(index=1, vector=b""), Embedding(index=0, vector=b""), Usage()):
        stream.see(event)
    stream.end()


def test_rankings_end_by_their_scores() -> None:
    """One per document, in any order, whatever the client will be shown."""
    stream = StreamCheck(RerankRequest(id="r", query="q", documents=("a", "b"), top_n=1))
    for event in (Score(index=1, score=-0.5), Score(index=0, score=2.0), Usage()):
        stream.see(event)
    stream.end()


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_must_be_finite(score: float) -> None:
    """JSON knows no other numbers, and they cannot be sorted."""
    with pytest.raises(ContractError, match=f"Score 0 of {score}, which is no finite number"):
        StreamCheck(RerankRequest(id="r", query="q", documents=("a",))).see(Score(index=0, score=score))


@pytest.mark.parametrize(
    ("events", "complaint"),
    [
        ((), "ended the stream early"),
        (END[:2], "ended the stream early"),
        ((END[0], END[2]), "ended the stream early"),
        ((END[0], END[0]), "Finished 1 twice"),
        ((Finished(choice=2),), "Finished 2"),
        ((*END, TextDelta(text="late")), "TextDelta after Usage"),
        ((*END, Usage()), "Usage after Usage"),
        (("text",), "str, which is no event"),
        ((TextDelta(choice=2, text="a"),), "TextDelta of choice 2"),
        ((TextDelta(choice=-1, text="a"),), "TextDelta of choice -1"),
        ((END[0], TextDelta(choice=1, text="late")), "TextDelta of choice 1"),
        ((END[0], END[1], Usage(completion_tokens=-1)), "negative"),
    ],
)
def test_a_wrong_stream_is_named(events: tuple[EngineEvent, ...], complaint: str) -> None:
    """The error says what the engine did, for its author."""
    with pytest.raises(ContractError, match=complaint):
        check(*events)
