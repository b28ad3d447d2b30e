"""``lowest_latency``: who is expected to be done first, as measured here."""

from __future__ import annotations

import random
from collections.abc import Sequence

from pydantic import Field, PositiveFloat, PositiveInt

from core.api.protocols import Candidate, RouteRequest
from core.api.requests import ChatRequest, CompletionRequest
from core.api.specs import BackendSettings
from core.routing.policies.load import outstanding

__all__ = ["LowestLatency", "LowestLatencySettings"]


class LowestLatencySettings(BackendSettings):
    """``[policies.lowest_latency]``."""

    output_tokens: PositiveInt = Field(256, description="tokens of an answer whose request sets no max_tokens")
    half_life_s: PositiveFloat = Field(
        30.0, description="an expectation halves in this time without a measurement, so that a slow one is tried again"
    )


class LowestLatency:
    """Ranks by the expected time of the answer: time to the first token, and tokens times time per token.

    Both are moving averages of what this HTTP worker measured. The expected time grows with what the candidate has to
    do already (times 1 + outstanding requests per slot), and fades: it halves with every ``half_life_s`` without a
    measurement, so that one which is k times slower is tried again after log2(k) half-lives. One that was never
    measured comes first. Either way one request is enough to find out: while one is on its way, the old expectation
    counts, or for one never measured the best of the others.
    """

    def __init__(self, settings: LowestLatencySettings) -> None:
        self._output_tokens = settings.output_tokens
        self._half_life_s = settings.half_life_s
        self._random = random.Random()  # noqa: S311 - spreads load, guards nothing

    def rank(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """See `core.api.protocols.Policy`."""
        draw = self._random.random
        scores = self.scores(request, candidates)
        order = [(score, draw(), index) for index, score in enumerate(scores)]
        order.sort()
        return [candidates[index] for _, _, index in order]

    def scores(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        """Expected seconds to the end of the answer."""
        tokens = self._tokens(request)
        expected_s = [None if one.ttft_s is None else one.ttft_s + tokens * (one.token_s or 0.0) for one in candidates]
        best_s = min((one for one in expected_s if one is not None), default=1.0)
        return [self._score(candidate, its_s, best_s) for candidate, its_s in zip(candidates, expected_s, strict=True)]

    def _score(self, candidate: Candidate, expected_s: float | None, best_s: float) -> float:
        if not candidate.in_flight:
            if expected_s is None:
                return 0.0
            expected_s *= 0.5 ** (candidate.measured_s_ago / self._half_life_s)
        return (best_s if expected_s is None else expected_s) * (1 + outstanding(candidate) / (candidate.slots or 1))

    def _tokens(self, request: RouteRequest) -> int:
        asked = request.request
        if isinstance(asked, ChatRequest | CompletionRequest):
            return asked.sampling.max_tokens or self._output_tokens
        return 0
