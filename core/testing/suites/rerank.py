"""Rerank: scores that depend on the query and on their own document alone."""

from __future__ import annotations

import math

from core.api.requests import RerankRequest
from core.testing.asking import Answer, new_id
from core.testing.suites.base import LoadedEngine, Suite

__all__ = ["RerankSuite"]

_QUERY = "Which animal sits on the mat?"
_DOCUMENTS = (
    "A cat sits on the mat.",
    "Interest rates",
    "The quick brown fox jumps over the lazy dog near the old mill by the river.",
)
_TOLERANCE = 1e-3


class RerankSuite(Suite):
    """Only for models that declare the task."""

    async def test_every_document_has_a_finite_score(self, loaded: LoadedEngine) -> None:
        """A number for each, also when only the best are wanted, and not one for all."""
        scores = (await self._rerank(loaded, *_DOCUMENTS, top_n=1)).scores
        assert sorted(scores) == [0, 1, 2], "every document must have a score, whatever top_n says"
        assert all(map(math.isfinite, scores.values())), f"a score must be a finite number: {scores}"
        assert len(set(scores.values())) > 1, "different documents must have different scores"

    async def test_neighbours_change_no_score(self, loaded: LoadedEngine) -> None:
        """Each score is the one that its document has alone, and in any order."""
        together = await self._rerank(loaded, *_DOCUMENTS)
        backwards = await self._rerank(loaded, *reversed(_DOCUMENTS))
        for index, document in enumerate(_DOCUMENTS):
            score = together.scores[index]
            alone = (await self._rerank(loaded, document)).scores[0]
            moved = backwards.scores[len(_DOCUMENTS) - 1 - index]
            assert math.isclose(alone, score, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE), (
                f"the score of {document!r} changed because others were in its batch"
            )
            assert math.isclose(moved, score, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE), (
                f"the score of {document!r} changed with its place"
            )

    async def test_usage_counts_every_pair(self, loaded: LoadedEngine) -> None:
        """Prompt tokens are the sum over query and document pairs; nothing is generated."""
        alone = [(await self._rerank(loaded, document)).usage for document in _DOCUMENTS]
        together = (await self._rerank(loaded, *_DOCUMENTS)).usage
        assert together.prompt_tokens == sum(one.prompt_tokens for one in alone) > 0, (
            "prompt_tokens must be the sum over the pairs of the query and a document"
        )
        assert together.completion_tokens == 0, "a ranking generates no tokens"

    async def _rerank(self, loaded: LoadedEngine, *documents: str, top_n: int | None = None) -> Answer:
        self.need_task("rerank")
        return await loaded.ask(RerankRequest(id=new_id(), query=_QUERY, documents=documents, top_n=top_n))
