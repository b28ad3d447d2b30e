"""One ready replica as an HTTP worker sees it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from core.api.messages import Load
from core.api.protocols import Candidate
from core.gateway.breaker import Breaker
from core.routing.table import Deployment
from core.wire.control import ReplicaStatus
from core.wire.frames import FromReplica, Rejected
from core.wire.stream import FrameStream

__all__ = ["Average", "Replica", "ReplicaStream"]

ReplicaStream = FrameStream[FromReplica]

_NEWEST_SHARE = 0.2


class Average:
    """A moving average: the newest sample counts a fifth. ``value`` is None before the first."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float | None = None

    def add(self, sample: float) -> None:
        """Take one more sample in."""
        self.value = sample if self.value is None else self.value + _NEWEST_SHARE * (sample - self.value)


@dataclass(slots=True, eq=False)
class Replica:
    """A ready replica as this worker sees it. A restarted replica has a new socket and is a new object.

    Attributes:
        status: what the last snapshot said.
        load: the freshest load known, from its own answers or from a snapshot.
        breaker: of its name: the replicas of a name that come one after another share it.
        output_tokens: of one choice of its deployment's answers, on average; replicas of a deployment share it.
        in_flight: requests of this worker on it now.
        in_flight_prompt_tokens, in_flight_output_tokens: of those, what is outstanding; see `Candidate`.
        ttft_s, token_s: as in `Candidate`.
        measured_at_s: when one of these was last measured, in loop time.
    """

    deployment: Deployment
    status: ReplicaStatus
    socket: str
    load: Load
    breaker: Breaker = field(default_factory=Breaker)
    output_tokens: Average = field(default_factory=Average)
    in_flight: int = 0
    in_flight_prompt_tokens: int = 0
    in_flight_output_tokens: int = 0
    ttft_s: Average = field(default_factory=Average)
    token_s: Average = field(default_factory=Average)
    measured_at_s: float | None = None
    idle: list[ReplicaStream] = field(default_factory=list)
    _turned_away: _TurnedAway | None = None

    @property
    def name(self) -> str:
        """``<model>@<backend>#<index>``."""
        return self.status.replica

    def candidate(self) -> Candidate:
        """What a policy sees of it."""
        spec = self.deployment.spec
        measured_at_s = self.measured_at_s
        return Candidate(
            replica=self.status.replica,
            deployment=spec.deployment,
            model=spec.name,
            backend=spec.backend,
            weight=spec.weight,
            slots=self.status.info.slots if self.status.info else 1,
            load=self.load,
            in_flight=self.in_flight,
            in_flight_prompt_tokens=self.in_flight_prompt_tokens,
            in_flight_output_tokens=self.in_flight_output_tokens,
            ttft_s=self.ttft_s.value,
            token_s=self.token_s.value,
            measured_s_ago=0.0 if measured_at_s is None else asyncio.get_running_loop().time() - measured_at_s,
        )

    def turned_away(self, rejected: Rejected, prompt_tokens: int, now_s: float) -> None:
        """Its queue had no room for a request of so many prompt tokens."""
        before = self._turned_away
        if before is not None and before.until_s > now_s:  # it has no room for the smaller of the two either
            prompt_tokens = min(prompt_tokens, before.prompt_tokens)
        self._turned_away = _TurnedAway(prompt_tokens, now_s + rejected.retry_after_s, rejected.load)

    def busy_for_s(self, prompt_tokens: int, now_s: float) -> float:
        """Seconds for which a request of so many prompt tokens need not be sent there, by its own word; 0: it may be.

        What was said of one request holds for those that are no smaller, until the time is over or its queue is
        known to be shorter.
        """
        then = self._turned_away
        if then is None:
            return 0.0
        shorter = (
            self.load.running + self.load.waiting < then.load.running + then.load.waiting
            or self.load.waiting_prompt_tokens < then.load.waiting_prompt_tokens
        )
        if shorter or now_s >= then.until_s:
            self._turned_away = None
            return 0.0
        return then.until_s - now_s if prompt_tokens >= then.prompt_tokens else 0.0

    def close_idle(self) -> None:
        """Close the pooled connections."""
        while self.idle:
            self.idle.pop().close()


@dataclass(frozen=True, slots=True)
class _TurnedAway:
    prompt_tokens: int
    until_s: float
    load: Load
