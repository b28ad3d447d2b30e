"""What one request of this worker has outstanding on a replica, what it measures there, and how the replica did."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from core.api.messages import EngineEvent, ReasoningDelta, TextDelta, ToolCallDelta
from core.api.protocols import RouteRequest
from core.api.requests import ChatRequest, CompletionRequest, EngineRequest
from core.gateway.breaker import FailureKind
from core.gateway.fleet import Fleet
from core.gateway.metrics import count_replica_failure
from core.gateway.replica import Replica
from core.settings import RoutingTable
from core.wire.control import BreakerState

__all__ = ["Work"]

# What a text is thought to take before the first one of its deployment is whole.
_OUTPUT_TOKENS = 256
_GENERATED = frozenset({TextDelta, ReasoningDelta, ToolCallDelta})


class Work:
    """One request's work on a replica, counted there from before the connection is made until `end`.

    Its replica's breaker must admit it.

    Attributes:
        replica: where.
        probe: number of the probe that it is for the replica's breaker; 0 if it is none.
    """

    def __init__(self, fleet: Fleet, replica: Replica, request: RouteRequest, routing: RoutingTable) -> None:
        self.replica = replica
        self._fleet = fleet
        self._routing = routing
        self._now_s = asyncio.get_running_loop().time
        self._choices = _choices(request.request)
        self._goes_on = _goes_on(request.request)
        self._prompt = request.estimated_prompt_tokens
        self._output = self._choices * _output_tokens(request.request, replica.output_tokens.value)
        self._began_s = self._now_s()
        self._first_s: float | None = None
        self._tokens = self._tokens_first = 0
        self._open = True
        before = replica.breaker.state
        self.probe = replica.breaker.enter()
        self._tell(before)
        replica.in_flight += 1
        replica.in_flight_prompt_tokens += self._prompt
        replica.in_flight_output_tokens += self._output

    def saw(self, events: Iterable[EngineEvent]) -> None:
        """Some events have come: their tokens are not outstanding any more, with the first ones nor is the prompt."""
        tokens = 0
        for event in events:
            if type(event) in _GENERATED:
                tokens += event.tokens  # type: ignore[union-attr]  # these have them
        replica = self.replica
        if self._first_s is None:
            now_s = self._first_s = self._now_s()
            self._tokens_first = tokens
            replica.in_flight_prompt_tokens -= self._prompt
            self._prompt = 0
            if not self._goes_on:  # else what was told before came first, unseen
                replica.ttft_s.add(now_s - self._began_s)
                replica.measured_at_s = now_s
            before = replica.breaker.state
            replica.breaker.succeeded(self.probe, now_s)
            self._tell(before)
        self._tokens += tokens
        done = min(tokens, self._output)
        self._output -= done
        replica.in_flight_output_tokens -= done

    def completed(self) -> None:
        """The answer is whole."""
        replica, now_s = self.replica, self._now_s()
        if self._choices and not self._goes_on:
            replica.output_tokens.add(self._tokens / self._choices)
        later = self._tokens - self._tokens_first
        if later and self._first_s is not None:
            replica.token_s.add((now_s - self._first_s) / later)
            replica.measured_at_s = now_s

    def failed(self, kind: FailureKind) -> None:
        """The replica failed, and it counts against it."""
        replica = self.replica
        before = replica.breaker.state
        if replica.breaker.failed(kind, self._now_s(), self._routing, probe=self.probe, process=replica.socket):
            count_replica_failure(replica.name, kind)
        self._tell(before)

    def end(self) -> None:
        """Nothing of it is outstanding any more. Idempotent."""
        if not self._open:
            return
        self._open = False
        replica = self.replica
        replica.in_flight -= 1
        replica.in_flight_prompt_tokens -= self._prompt
        replica.in_flight_output_tokens -= self._output
        before = replica.breaker.state
        replica.breaker.left(self.probe)
        self._tell(before)

    def _tell(self, before: BreakerState) -> None:
        if self.replica.breaker.state != before:
            self._fleet.tell_breaker(self.replica.name)


def _goes_on(request: EngineRequest) -> bool:
    """Whether another replica began the answer."""
    return isinstance(request, ChatRequest | CompletionRequest) and request.continued is not None


def _choices(request: EngineRequest) -> int:
    """How many texts are to be generated."""
    if isinstance(request, ChatRequest):
        return request.n
    return request.n * len(request.prompts) if isinstance(request, CompletionRequest) else 0


def _output_tokens(request: EngineRequest, average: float | None) -> int:
    """How many tokens a choice is thought to take."""
    if not isinstance(request, ChatRequest | CompletionRequest):
        return 0
    usual = _OUTPUT_TOKENS if average is None else round(average)
    most = request.sampling.max_tokens  # a bound, which clients set generously
    return usual if most is None else min(most, usual)
