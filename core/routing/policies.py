"""The built-in policies; they are declared through the same hooks as everybody else's."""

from __future__ import annotations

import random
from collections.abc import Sequence

from pydantic import BaseModel

from core.api.protocols import Candidate, RouteRequest

__all__ = ["LeastLoaded", "RoundRobin"]


class LeastLoaded:
    """Fewest outstanding requests first, relative to slots and weight; then fewest waiting prompt tokens.

    Two counts are known of a candidate. ``load`` is the replica's own, of all HTTP workers together, and as
    old as its last answer to this worker or the last snapshot. ``in_flight`` is exact, but of this worker
    alone. Their sum would count this worker's requests twice and drive it away from the replicas it uses
    itself, however idle those are. Their maximum counts nobody twice and never falls below what this worker
    knows for sure: with one worker it is exact, with several it is low by at most what this worker has sent
    since the replica's last word. Every answer begins with that word (``Accepted`` carries the load), so
    the error lasts one round trip; and a wrong guess costs another one, because the replica has the last
    say on admission.

    Equals are drawn at random, in proportion to slots and weight: idle replicas share the work, and
    several workers that see the same numbers do not all run to the same replica.
    """

    def __init__(self, settings: BaseModel) -> None:
        del settings  # there are none
        self._random = random.Random()  # noqa: S311 - spreads load, guards nothing

    def rank(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """See `core.api.protocols.Policy`."""
        del request
        draw = self._random.random

        def key(candidate: Candidate) -> tuple[float, float, float]:
            load = candidate.load
            capacity = max(candidate.slots, 1) * candidate.weight
            outstanding = max(load.running + load.waiting, candidate.in_flight)
            # The last one makes a weighted draw: the largest u ** (1 / capacity) is first (Efraimidis and Spirakis).
            return outstanding / capacity, load.waiting_prompt_tokens / capacity, -(draw() ** (1 / capacity))

        return sorted(candidates, key=key)


class RoundRobin:
    """In turns, a candidate of weight 2 twice as often; evenly mixed, not in runs.

    Each candidate has a credit. A turn gives every candidate its weight, puts the richest first and takes
    the turn's whole from that one. Credits belong to replicas, not to positions, so the turns stay fair while
    candidates come and go; a newcomer starts at nothing, neither flooded nor starved.
    """

    def __init__(self, settings: BaseModel) -> None:
        del settings  # there are none
        self._credit: dict[str, float] = {}

    def rank(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """See `core.api.protocols.Policy`."""
        del request
        credit = self._credit
        for candidate in candidates:
            credit[candidate.replica] = credit.get(candidate.replica, 0.0) + candidate.weight
        ranked = sorted(candidates, key=lambda candidate: credit[candidate.replica], reverse=True)
        if ranked:
            credit[ranked[0].replica] -= sum(candidate.weight for candidate in candidates)
        return ranked
