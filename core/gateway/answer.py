"""An answer that one replica gives: from its first events to its only end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import cast

from core.api.messages import EngineEvent
from core.errors import GatewayError
from core.gateway.fleet import Fleet, Replica, ReplicaStream
from core.wire.frames import Accepted, Done, Failed, FromReplica, Rejected, Submit
from core.wire.stream import PeerGoneError

__all__ = ["Answer", "ReplicaFailedError"]


class ReplicaFailedError(Exception):
    """A replica could not give or finish an answer, but another one might.

    Attributes:
        error: what the client is told if no other one can.
        rejected: the replica's own word, when it did not even begin: its queue is full or it is going away.
    """

    def __init__(self, error: GatewayError, rejected: Rejected | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.rejected = rejected


class Answer:
    """An answer that has begun: its first events are there.

    Iterate over it for batches of events, the first included; each batch is what arrived together.
    `close` it in any case: before the end that cancels the request in the replica.

    Attributes:
        replica: who gives it.
        first_event_s: when the first events arrived, in loop time.
    """

    def __init__(self, fleet: Fleet, replica: Replica, stream: ReplicaStream) -> None:
        self._fleet = fleet
        self.replica = replica
        self.first_event_s = 0.0
        self._stream: ReplicaStream | None = stream
        self._first: list[EngineEvent] = []

    async def begin(self, submit: Submit) -> None:
        """Submit the request and wait for the first events.

        Raises:
            ReplicaFailedError: rejected, failed or died; another candidate may be tried.
            GatewayError: the request is at fault.
        """
        assert self._stream is not None  # noqa: S101 - a fresh answer has its stream
        try:
            self._stream.send(submit)
            while not self._first and self._stream is not None:
                self._first = self._events(await self._stream.receive())
        except PeerGoneError as gone:
            raise ReplicaFailedError(_died(self.replica)) from gone
        self.first_event_s = asyncio.get_running_loop().time()

    async def __aiter__(self) -> AsyncIterator[Sequence[EngineEvent]]:
        """Yield batches of events until the answer is whole.

        Raises:
            ReplicaFailedError: the replica failed or died; what was yielded is only a part.
        """
        if self._first:
            yield self._first
        while self._stream is not None:
            try:
                events = self._events(await self._stream.receive())
            except PeerGoneError as gone:
                raise ReplicaFailedError(_died(self.replica)) from gone
            if events:
                yield events

    def close(self) -> None:
        """Give the connection back; cancels the request unless the answer is whole. Idempotent."""
        if self._stream is not None:
            self._fleet.discard(self.replica, self._stream)
            self._stream = None

    def _events(self, frames: list[FromReplica]) -> list[EngineEvent]:
        """Return the events among the frames; note loads, release the connection at the end."""
        if isinstance(frames[0], Accepted):
            self.replica.load = frames[0].load
            del frames[0]
        if frames and isinstance(last := frames[-1], Done | Failed | Rejected):
            self.replica.load = last.load
            frames.pop()
            stream, self._stream = self._stream, None
            if stream is not None:
                self._fleet.release(self.replica, stream)
            if not isinstance(last, Done):
                raise _refusal(self.replica, last)
        return cast("list[EngineEvent]", frames)


def _refusal(replica: Replica, frame: Failed | Rejected) -> Exception:
    """Turn the end of a conversation that is not `Done` into the exception to raise."""
    where = replica.status.replica
    if frame.reason == "invalid":
        return GatewayError.invalid(frame.message, param=frame.param, code=frame.code)
    if isinstance(frame, Rejected):
        return ReplicaFailedError(GatewayError.busy(frame.message, retry_after_s=frame.retry_after_s), frame)
    if frame.reason == "timeout":
        return GatewayError.timeout(f"{where} did not finish the answer in time: {frame.message}")
    return ReplicaFailedError(GatewayError.engine_failed(f"{where} failed: {frame.message}"))


def _died(replica: Replica) -> GatewayError:
    return GatewayError.not_ready(
        f"The process of {replica.status.replica} ended while it worked on this request; it is being restarted.",
        retry_after_s=2.0,
    )
