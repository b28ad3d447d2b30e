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
        who = request.user or request.headers.get(self._header)
        if not who:
            return sorted(candidates, key=_outstanding)
        seed = hashlib.blake2b(who.encode(), digest_size=8)

        def score(candidate: Candidate) -> bytes:
            digest = seed.copy()
            digest.update(candidate.replica.encode())
            return digest.digest()

        return sorted(candidates, key=score)


def _outstanding(candidate: Candidate) -> float:
    load = candidate.load
    return max(load.running + load.waiting, candidate.in_flight) / max(candidate.slots, 1)


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
