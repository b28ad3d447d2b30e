"""Whole texts to vectors and scores: batches of like length, order, limits, failures."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest
import pytest_asyncio
from decoding.engine import DecodingEngine
from decoding.pooled import batches
from decoding.runner import Floats
from decoding.scheduler import Limits
from decoding.template import ChatTemplate
from decoding.testing import byte_level
from decoding.tokens import Vocabulary
from hypothesis import given
from hypothesis import strategies as st

from core.api import (
    EmbeddingsRequest,
    EngineBrokenError,
    EngineError,
    RequestError,
    RerankRequest,
)
from core.testing.asking import collect


class Lengths:
    """A scorer and an embedder whose answer is the length of what it reads; ``fails`` calls raise."""

    context_tokens = 40

    def __init__(self) -> None:
        self.fails = 0
        self.sizes: list[int] = []

    def _called(self, size: int) -> None:
        self.sizes.append(size)
        if self.fails:
            self.fails -= 1
            msg = "out of memory"
            raise RuntimeError(msg)

    def count(self, query: str, document: str) -> int:
        return len(query) + len(document) + 3

    def score(self, query: str, documents: Sequence[str]) -> Floats:
        self._called(len(documents))
        return np.array([(len(query) + len(text)) / 100 for text in documents], np.float32)

    def embed(self, inputs: Sequence[Sequence[int]]) -> Floats:
        self._called(len(inputs))
        return np.array([[len(tokens), 1.0] for tokens in inputs], np.float32)


@pytest_asyncio.fixture
async def served() -> AsyncIterator[tuple[DecodingEngine, Lengths]]:
    tokenizer, model = byte_level(), Lengths()
    engine = DecodingEngine(
        vocabulary=Vocabulary(tokenizer, ()),
        template=ChatTemplate(tokenizer),
        limits=Limits(prefill_tokens=8, prefill_tokens_alone=40),
        embedder=model,
        scorer=model,
    )
    yield engine, model
    await engine.close()


def rerank(*documents: str) -> RerankRequest:
    return RerankRequest(id="r", query="qu", documents=documents)


async def test_every_document_gets_its_own_score(served: tuple[DecodingEngine, Lengths]) -> None:
    """In several batches, none of them too large, and whatever their order."""
    engine, model = served
    documents = ["d" * length for length in (30, 1, 20, 2, 10, 3)]

    answer = await collect(rerank(*documents), engine.stream(rerank(*documents)))

    assert [answer.scores[index] for index in range(6)] == pytest.approx([(2 + len(text)) / 100 for text in documents])
    assert answer.usage.prompt_tokens == sum(5 + len(text) for text in documents)
    assert 1 < len(model.sizes) < 6
    assert engine.load_now().running == 0


async def test_a_pair_that_is_too_long_is_named(served: tuple[DecodingEngine, Lengths]) -> None:
    """Before anything is computed: a reranker that cuts texts off would rank them wrongly in silence."""
    engine, model = served

    with pytest.raises(RequestError) as refused:
        await collect(rerank("d", "d" * 36), engine.stream(rerank("d", "d" * 36)))
    assert refused.value.param == "documents[1]"
    assert model.sizes == []


async def test_an_input_as_long_as_the_context_fits(served: tuple[DecodingEngine, Lengths]) -> None:
    """One token more does not, and the error has both numbers."""
    engine, _ = served
    longest = EmbeddingsRequest(id="e", inputs=(tuple([7] * 40),))
    longer = EmbeddingsRequest(id="e", inputs=(tuple([7] * 41),))

    assert (await collect(longest, engine.stream(longest))).usage.prompt_tokens == 40
    with pytest.raises(RequestError, match=r"context length is 40 tokens.* 41 tokens") as refused:
        await collect(longer, engine.stream(longer))
    assert refused.value.code == "context_length_exceeded"


@pytest.mark.parametrize("fails", [1, 2])
async def test_failures(served: tuple[DecodingEngine, Lengths], fails: int) -> None:
    """One that comes alone ends its request; where nothing can be computed any more, the replica is to end."""
    engine, model = served
    for request in (rerank("d"), EmbeddingsRequest(id="e", inputs=("x",))):
        model.fails = fails
        with pytest.raises(EngineError, match="out of memory") as failed:
            await collect(request, engine.stream(request))
        assert isinstance(failed.value, EngineBrokenError) == (fails == 2)
        await collect(request, engine.stream(request))


@given(st.lists(st.integers(1, 100), max_size=30), st.integers(1, 300))
def test_batches(lengths: list[int], most: int) -> None:
    """Each index once; padded to its longest, a batch stays below the limit unless it is a single one."""
    found = list(batches(lengths, most))

    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= most
