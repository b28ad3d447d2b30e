"""``prefix_affinity``: a conversation returns to the replica whose KV cache holds it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

from pydantic import Field, PositiveInt

from core.api.protocols import Candidate, RouteRequest
from core.api.requests import ChatRequest, CompletionRequest
from core.api.specs import BackendSettings
from core.routing.policies.least_loaded import LeastLoaded, LeastLoadedSettings
from core.routing.policies.load import capacity, outstanding

__all__ = ["PrefixAffinity", "PrefixAffinitySettings"]

_CHARACTERS_PER_TOKEN = 4
# Of a longer text, only its beginning and its length are hashed, so that the time does not grow with it.
_LONGEST = 16_384
_64_BITS = (1 << 64) - 1
_ODD = 0x9E3779B97F4A7C15
_PASSED_OVER = 1e6


class PrefixAffinitySettings(BackendSettings):
    """``[policies.prefix_affinity]``."""

    load_bound: float = Field(
        1.25, gt=1.0, description="most requests of a replica, times its fair share; beyond it the next one is taken"
    )
    block_tokens: PositiveInt = Field(
        256, description="of a completion's prompt, so many leading tokens (estimated) tell where it goes"
    )


class PrefixAffinity:
    """Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2018), by rendezvous.

    What is hashed is the beginning that all turns of a conversation share: tools, and messages up to the first of the
    user; of a completion, the leading block of its prompt. Each replica has its own hash of that, weighted by capacity,
    and the smallest is first. So every HTTP worker finds the same order without talking to another, and a replica that
    comes or goes moves only its own share. A replica is passed over while it has more than ``load_bound`` times its
    fair share of the requests, but not while at least half of its slots are free: a busy beginning is worth
    sharing a device, not waiting behind it.

    Requests without such a beginning (embeddings, rerank) go where the least work is.
    """

    def __init__(self, settings: PrefixAffinitySettings) -> None:
        self._load_bound = settings.load_bound
        self._block_tokens = settings.block_tokens
        self._seeds: dict[str, int] = {}
        self._least_loaded = LeastLoaded(LeastLoadedSettings())

    def rank(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """See `core.api.protocols.Policy`."""
        beginning = self._beginning(request)
        if beginning is None:
            return self._least_loaded.rank(request, candidates)
        scores = self._scores(beginning, candidates)
        return [candidates[index] for index in sorted(range(len(scores)), key=scores.__getitem__)]

    def scores(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        """The weighted hash; a million more for one that is passed over."""
        beginning = self._beginning(request)
        if beginning is None:
            return self._least_loaded.scores(request, candidates)
        return self._scores(beginning, candidates)

    def _scores(self, beginning: str, candidates: Sequence[Candidate]) -> list[float]:
        key = _hash(beginning)
        requests = [outstanding(candidate) for candidate in candidates]
        capacities = [capacity(candidate) for candidate in candidates]
        share = self._load_bound * (sum(requests) + 1) / (sum(capacities) or 1.0)
        scores = []
        for candidate, its, its_capacity in zip(candidates, requests, capacities, strict=True):
            seed = self._seeds.get(candidate.replica)
            if seed is None:
                seed = self._seeds[candidate.replica] = _hash(candidate.replica)
            mixed = (key ^ seed) * _ODD & _64_BITS
            mixed = (mixed ^ mixed >> 32) * _ODD & _64_BITS
            score = -math.log((mixed + 1) / (_64_BITS + 2)) / its_capacity
            if its >= math.ceil(share * its_capacity) and 2 * its >= candidate.slots:
                score += _PASSED_OVER
            scores.append(score)
        return scores

    def _beginning(self, request: RouteRequest) -> str | None:
        """What this request shares with the next turns of its conversation; None if it has no turns."""
        asked = request.request
        if isinstance(asked, ChatRequest):
            return "".join(f"{len(text)}:{text[:_LONGEST]}" for text in _leading_texts(asked))
        if isinstance(asked, CompletionRequest) and asked.prompts:
            prompt = asked.prompts[0]
            length = self._block_tokens * _CHARACTERS_PER_TOKEN if isinstance(prompt, str) else self._block_tokens
            return str(prompt[:length])
        return None


def _leading_texts(asked: ChatRequest) -> Iterator[str]:
    for tool in asked.tools:
        yield from (tool.name, tool.description, tool.parameters)
    roles = [message.role for message in asked.messages]
    shared = roles.index("user") + 1 if "user" in roles else 1
    for message in asked.messages[:shared]:
        yield from (message.role, message.text)


def _hash(text: str) -> int:
    """Return 64 bits that are the same in every process, unlike Python's own hash."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest())
