"""Keeps a user on one replica: the next turn of a conversation finds its prefix in that replica's cache."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pydantic import Field

from core.api import BackendSettings, Candidate, PolicySpec, RouteRequest, hookimpl

__all__ = ["StickyPolicy", "StickySettings", "gateway_policies"]


class StickySettings(BackendSettings):
    """``[policies.sticky]``."""

    header: str = Field("x-session-id", description="request header that names who is to stay together")


class StickyPolicy:
    """Ranks by rendezvous hash of the ``user`` field or the header; without either, by least outstanding work.

    Every HTTP worker computes the same order without talking to another one, and a replica that comes or goes
    moves only the users that are its own.
    """

    def __init__(self, settings: StickySettings) -> None:
        self._header = settings.header.lower()

    def rank(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """See `core.api.Policy`."""
        scores = self.scores(request, candidates)
        return [candidates[index] for index in sorted(range(len(scores)), key=scores.__getitem__)]

    def scores(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        """See `core.api.ScoringPolicy`: a hash between 0 and 1, or outstanding requests per slot."""
        who = request.user or request.headers.get(self._header)
        if not who:
            return [_outstanding(candidate) for candidate in candidates]
        seed = hashlib.blake2b(who.encode(errors="surrogatepass"), digest_size=8)
        return [_hash(seed, candidate) for candidate in candidates]


def _outstanding(candidate: Candidate) -> float:
    load = candidate.load
    return max(load.running + load.waiting, candidate.in_flight) / max(candidate.slots, 1)


def _hash(seed: hashlib.blake2b, candidate: Candidate) -> float:
    digest = seed.copy()
    digest.update(candidate.replica.encode())
    return int.from_bytes(digest.digest()) / 2**64


@hookimpl
def gateway_policies() -> tuple[PolicySpec, ...]:
    """The one policy of this package."""
    return (
        PolicySpec(
            name="sticky",
            policy=StickyPolicy,
            settings=StickySettings,
            description="A user stays on one replica.",
        ),
    )
