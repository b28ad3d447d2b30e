"""``least_loaded``: the less loaded of two that were drawn."""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate

from pydantic import Field, NonNegativeFloat

from core.api.protocols import Candidate, RouteRequest
from core.api.specs import BackendSettings
from core.routing.policies.load import capacity, work

__all__ = ["LeastLoaded", "LeastLoadedSettings"]


class LeastLoadedSettings(BackendSettings):
    """``[policies.least_loaded]``."""

    output_token_cost: NonNegativeFloat = Field(
        4.0, description="prompt tokens that take as long as one generated token"
    )


class LeastLoaded:
    """Draws two candidates, in proportion to their capacity, and takes the one with less work; then by work.

    Work is counted in tokens, not in requests, because one request may cost a thousand times another; it is divided
    by capacity (slots times weight). Always to take the least loaded of all would send every HTTP worker to the same
    replica until it speaks again. Of two drawn at random, the better one is nearly as good, and the workers
    spread: the longest queue grows with log log n instead of log n (Mitzenmacher, *The Power of Two Choices in
    Randomized Load Balancing*, 2001).
    """

    def __init__(self, settings: LeastLoadedSettings) -> None:
        self._output_token_cost = settings.output_token_cost
        self._random = random.Random()  # noqa: S311 - spreads load, guards nothing

    def rank(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """See `core.api.protocols.Policy`."""
        scores = self.scores(request, candidates)
        order = sorted(range(len(scores)), key=scores.__getitem__)
        if len(order) > 1:
            first, second = self._two(candidates)
            best = second if scores[second] < scores[first] else first
            order.remove(best)
            order.insert(0, best)
        return [candidates[index] for index in order]

    def scores(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        """Work per slot and weight, in prompt tokens."""
        del request
        cost = self._output_token_cost
        return [work(candidate, cost) / capacity(candidate) for candidate in candidates]

    def _two(self, candidates: Sequence[Candidate]) -> tuple[int, int]:
        """Draw two different ones, each draw in proportion to capacity; the second from those that are left."""
        upto = list(accumulate(map(capacity, candidates)))
        last = len(upto) - 1
        first = bisect(upto, self._random.random() * upto[-1], 0, last)
        before = upto[first - 1] if first else 0.0
        its = upto[first] - before
        point = self._random.random() * (upto[-1] - its)
        second = bisect(upto, point if point < before else point + its, 0, last)
        if second == first:  # rounding, where one outweighs all others
            second = first - 1 if first else 1
        return first, second
