"""An answer that one replica gives: from its first events to its only end."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from core.api.messages import EngineEvent
from core.errors import GatewayError
from core.gateway.breaker import FailureKind
from core.gateway.fleet import Fleet
from core.gateway.replica import ReplicaStream
from core.gateway.work import Work
from core.wire.frames import Accepted, Done, Failed, Rejected, Submit
from core.wire.stream import PeerGoneError

__all__ = ["Answer", "Deadline", "FailureReason", "ReplicaFailedError"]

FailureReason = FailureKind | Literal["draining"]

# Timers of the loop may ring this much too early.
_TIMER_S = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Deadline:
    """Until when an answer is waited for, in loop time.

    Attributes:
        at_s: the request's end; its client may have shortened it.
        first_event_s, whole_s: the operator's own limits. A replica that lets them pass has failed; one that
            does not keep to its client's has not.
    """

    at_s: float
    first_event_s: float = math.inf
    whole_s: float = math.inf


class ReplicaFailedError(Exception):
    """A replica could not give or finish an answer, but another one might.

    Attributes:
        error: what the client is told if no other one can.
        reason: how it failed; None when it did not even begin.
        rejected: its own word then: its queue is full or it is going away, perhaps with the request in its queue.
    """

    def __init__(
        self, error: GatewayError, reason: FailureReason | None = None, *, rejected: Rejected | None = None
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.reason = reason
        self.rejected = rejected


class Answer:
    """An answer that has begun: its first events are there.

    Iterate over it for batches of events, the first included; each batch is what arrived together.
    `close` it in any case: before the end that cancels the request in the replica.

    Attributes:
        replica: who gives it.
        first_event_s: when the first events arrived, in loop time.
    """

    def __init__(self, fleet: Fleet, work: Work, stream: ReplicaStream, deadline: Deadline) -> None:
        self._fleet = fleet
        self._work = work
        self._deadline = deadline
        self._limit_s = min(deadline.first_event_s, deadline.whole_s)
        self.replica = work.replica
        self.first_event_s = 0.0
        self._stream: ReplicaStream | None = stream
        self._first: list[EngineEvent] = []
        self._has_events = False
        self._heard_s = 0.0

    async def begin(self, submit: Submit) -> None:
        """Submit the request and wait for the first events.

        Raises:
            ReplicaFailedError: rejected, failed or died; another candidate may be tried.
            GatewayError: the request is at fault.
        """
        assert self._stream is not None  # noqa: S101 - a fresh answer has its stream
        try:
            self._stream.send(submit)
        except PeerGoneError as gone:
            raise self._died() from gone
        while not self._first and self._stream is not None:
            self._first = await self._receive(self._stream)
        self.first_event_s = asyncio.get_running_loop().time()
        self._limit_s = self._deadline.whole_s

    async def __aiter__(self) -> AsyncIterator[Sequence[EngineEvent]]:
        """Yield batches of events until the answer is whole.

        Raises:
            ReplicaFailedError: the replica failed or died; what was yielded is only a part.
        """
        if self._first:
            yield self._first
        while self._stream is not None:
            if events := await self._receive(self._stream):
                yield events

    def close(self) -> None:
        """Give the connection back; cancels the request unless the answer is whole. Idempotent."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._work.end()

    async def _receive(self, stream: ReplicaStream) -> list[EngineEvent]:
        """Wait for frames and return the events among them; release the connection at the end."""
        try:
            frames = await stream.receive()
        except PeerGoneError as gone:
            raise self._died() from gone
        except asyncio.CancelledError:
            if self._is_late():
                self._work.failed("timeout")
            raise
        if isinstance(frames[0], Accepted):
            self.replica.load = frames[0].load
            del frames[0]
        last = frames.pop() if frames and isinstance(frames[-1], Done | Failed | Rejected) else None
        events = cast("list[EngineEvent]", frames)
        if events:
            self._has_events = True
            self._heard_s = asyncio.get_running_loop().time()
            self._work.saw(events)
        if last is not None:
            self._end(cast("Done | Failed | Rejected", last))
        return events

    def _end(self, last: Done | Failed | Rejected) -> None:
        """Take the last frame of the conversation.

        Raises:
            ReplicaFailedError, GatewayError: it is not `Done`.
        """
        self.replica.load = last.load
        stream, self._stream = self._stream, None
        if stream is not None:
            self._fleet.release(self.replica, stream)
        failure = None if isinstance(last, Done) else self._refusal(last)
        if failure is None:
            self._work.completed()
        self._work.end()
        if failure is not None:
            raise failure

    def _refusal(self, last: Failed | Rejected) -> Exception:
        """Turn the end of a conversation that is not `Done` into the exception to raise."""
        where = self.replica.name
        if last.reason == "draining" and not self._has_events:  # it goes away: the same for all that wait there
            last = Rejected(reason="draining", message=last.message, load=last.load)
        if last.reason == "invalid":
            return GatewayError.invalid(last.message, param=last.param, code=last.code)
        if isinstance(last, Rejected):
            error = GatewayError.busy(last.message, retry_after_s=last.retry_after_s)
            return ReplicaFailedError(error, rejected=last)
        if last.reason == "timeout":
            if self._is_late():
                self._work.failed("timeout")
            return GatewayError.timeout(f"{where} did not finish the answer in time: {last.message}")
        if last.reason == "engine":
            self._work.failed("engine")
        return ReplicaFailedError(GatewayError.engine_failed(f"{where} failed: {last.message}"), last.reason)

    def _died(self) -> ReplicaFailedError:
        self._work.failed("death")
        error = GatewayError.not_ready(
            f"{self.replica.name} broke off while it worked on this request; if it has died, it is being restarted.",
            retry_after_s=2.0,
        )
        return ReplicaFailedError(error, "death")

    def _is_late(self) -> bool:
        """Whether the replica let a limit of the operator's own pass; one that went on telling has a long answer."""
        now_s = asyncio.get_running_loop().time()
        silent = now_s - self._heard_s >= (now_s - self.first_event_s) / 2
        return silent and now_s >= self._limit_s - _TIMER_S
