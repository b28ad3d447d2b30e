"""Embeddings: unit vectors that depend on their own text alone."""

from __future__ import annotations

import array
import math
import sys

from core.api.requests import EmbeddingsRequest
from core.testing.asking import new_id
from core.testing.suites.base import LoadedEngine, Suite

__all__ = ["EmbeddingSuite"]

_TEXTS = (
    "A cat sits on the mat.",
    "Interest rates",
    "The quick brown fox jumps over the lazy dog near the old mill by the river.",
)


class EmbeddingSuite(Suite):
    """Only for models that declare the task."""

    async def test_vectors_are_unit_and_distinct(self, loaded: LoadedEngine) -> None:
        """Length 1, all of one size, and different texts differ."""
        vectors = await self._embed(loaded, *_TEXTS)
        assert len({len(vector) for vector in vectors}) == 1, "all vectors must have one length"
        for vector in vectors:
            assert math.isclose(math.hypot(*vector), 1.0, rel_tol=1e-2), "a vector must have the norm 1"
        assert _cosine(vectors[0], vectors[1]) < 0.999, "different texts must have different vectors"

    async def test_a_batch_changes_no_vector(self, loaded: LoadedEngine) -> None:
        """Each vector of a batch is the one that its text has alone."""
        together = await self._embed(loaded, *_TEXTS)
        for text, vector in zip(_TEXTS, together, strict=True):
            (alone,) = await self._embed(loaded, text)
            assert _cosine(alone, vector) > 0.999, f"the vector of {text!r} changed because others were in its batch"

    async def test_usage_counts_every_input(self, loaded: LoadedEngine) -> None:
        """Prompt tokens are the sum over the inputs; nothing is generated."""
        self.need_task("embeddings")
        alone = [await loaded.ask(EmbeddingsRequest(id=new_id(), inputs=(text,))) for text in _TEXTS]
        together = await loaded.ask(EmbeddingsRequest(id=new_id(), inputs=_TEXTS))
        assert together.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone), (
            "prompt_tokens must be the sum over the inputs"
        )
        assert together.usage.completion_tokens == 0, "embeddings generate no tokens"

    async def test_dimensions(self, loaded: LoadedEngine) -> None:
        """A shortened vector has that many values and length 1."""
        self.need("dimensions")
        (vector,) = await self._embed(loaded, _TEXTS[0], dimensions=8)
        assert len(vector) == 8, "dimensions=8 must give 8 values"
        assert math.isclose(math.hypot(*vector), 1.0, rel_tol=1e-2), "a shortened vector must have the norm 1 again"

    async def _embed(self, loaded: LoadedEngine, *texts: str, dimensions: int | None = None) -> list[list[float]]:
        self.need_task("embeddings")
        answer = await loaded.ask(EmbeddingsRequest(id=new_id(), inputs=texts, dimensions=dimensions))
        vectors = []
        for index in range(len(texts)):
            values = array.array("f", answer.vectors[index])
            if sys.byteorder == "big":
                values.byteswap()
            vectors.append(values.tolist())
        return vectors


def _cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))
