"""``round_robin`` and ``weighted``: in turns, whatever the load.

Each HTTP worker takes its own turns, and begins them at a random point, so that workers do not go in step. Turns belong
to names, not to positions, so they stay fair while candidates come and go.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from core.api.protocols import Candidate, RouteRequest
from core.api.specs import BackendSettings

__all__ = ["RoundRobin", "Weighted"]


class _Turns:
    """Whose turn was how long ago. A newcomer's turn is next; newcomers among each other are drawn."""

    def __init__(self) -> None:
        self._random = random.Random()  # noqa: S311 - spreads load, guards nothing
        self._last: dict[str, float] = {}
        self._turn = 0

    def take(self, name: str) -> None:
        """It is this one's turn."""
        self._turn += 1
        self._last[name] = self._turn

    def of(self, name: str) -> float:
        """Number of its last turn: who has the smallest is next."""
        last = self._last.get(name)
        if last is None:
            last = self._last[name] = -self._random.random()
        return last


class RoundRobin:
    """The replica whose last turn is longest ago, so between two turns of one each other one has exactly one."""

    def __init__(self, settings: BackendSettings) -> None:
        del settings  # there are none
        self._turns = _Turns()

    def rank(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """See `core.api.protocols.Policy`."""
        del request
        ranked = sorted(candidates, key=lambda candidate: self._turns.of(candidate.replica))
        if ranked:
            self._turns.take(ranked[0].replica)
        return ranked

    def scores(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        """The number of its last turn; at most 0 before any."""
        del request
        return [self._turns.of(candidate.replica) for candidate in candidates]


class Weighted:
    """Smooth weighted round robin over deployments; the replicas of a deployment take turns at its share.

    Each deployment has a credit. A turn gives every deployment its weight, puts the richest first and takes the turn's
    whole from that one: weight 3 against 1 is a, a, b, a and not a, a, a, b. Credits stay within the sum of weights,
    so a deployment that was away is neither flooded with what it missed nor starved.
    """

    def __init__(self, settings: BackendSettings) -> None:
        del settings  # there are none
        self._random = random.Random()  # noqa: S311 - spreads load, guards nothing
        self._turns = _Turns()
        self._credit: dict[str, float] = {}

    def rank(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """See `core.api.protocols.Policy`."""
        del request
        weights = {candidate.deployment: candidate.weight for candidate in candidates}
        credit = {name: self._credit_of(name, weight) + weight for name, weight in weights.items()}
        self._credit |= credit
        ranked = sorted(candidates, key=lambda one: (-credit[one.deployment], self._turns.of(one.replica)))
        if ranked:
            first = ranked[0]
            self._credit[first.deployment] -= sum(weights.values())
            self._turns.take(first.replica)
        return ranked

    def scores(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        """The deployment's credit after its share of this turn, negative: who has most is next."""
        del request
        return [-self._credit_of(one.deployment, one.weight) - one.weight for one in candidates]

    def _credit_of(self, deployment: str, weight: float) -> float:
        credit = self._credit.get(deployment)
        if credit is None:
            credit = self._credit[deployment] = (self._random.random() - 0.5) * weight
        return credit
