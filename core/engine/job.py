"""One admitted request: runs the engine's stream into the connection, and ends exactly once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Literal, cast

from core.api.errors import EngineBrokenError, EngineError, RequestError
from core.api.messages import EngineEvent
from core.api.protocols import Engine
from core.api.requests import EngineRequest
from core.engine.admission import Ticket
from core.engine.contract import ContractError, StreamCheck
from core.engine.merge import TextMerger
from core.engine.outstanding import Answering
from core.wire.frames import Failed, ToReplica
from core.wire.stream import FrameStream, PeerGoneError

__all__ = ["Job"]

_log = logging.getLogger(__name__)

# An engine with events at hand never waits; others, and the news that its client is gone, need the loop too.
_EVENTS_A_TURN = 64
_UNEXPECTED = "The engine failed in an unforeseen way; the replica's log has the details."


class Job:
    """Until when a request may go on, and why it ends if that time comes.

    Deadline, cancel and drain are one mechanism, ``limit``, because it cancels the engine at most once: a
    second cancellation would interrupt the engine's own cleaning up and leave its device busy.

    Attributes:
        broken: what the engine said if it can serve nothing any more, else empty.
    """

    def __init__(self, ticket: Ticket, timeout_s: float, answering: Answering) -> None:
        self.ticket = ticket
        self._answering = answering
        self.broken = ""
        self.limit = asyncio.timeout(timeout_s)
        self._ends_by: Literal["timeout", "draining", "gone"] = "timeout"
        self._settled = False

    def cut(self, at: float, why: Literal["draining", "gone"]) -> None:
        """End it at this loop time at the latest."""
        when = self.limit.when()
        if not self._settled and not self.limit.expired() and (when is None or at < when):
            self._ends_by = why
            self.limit.reschedule(at)

    def cut_short(self) -> Failed:
        """What the peer is told after ``limit`` expired.

        Raises:
            PeerGoneError: there is nobody to tell.
        """
        if self._ends_by == "gone":
            msg = "the peer closed the connection"
            raise PeerGoneError(msg)
        if self._ends_by == "draining":
            return Failed(reason="draining", message="The replica shut down before the answer was complete.")
        doing = "ran" if self.ticket.started.is_set() else "waited for a free slot"
        return Failed(reason="timeout", message=f"The request's time was up while it {doing}.")

    async def run(
        self, engine: Engine, request: EngineRequest, stream: FrameStream[ToReplica], *, merger: TextMerger | None
    ) -> Failed | None:
        """Pass the engine's events on, through the merger if there is one; return what went wrong, or None.

        Raises:
            PeerGoneError: the peer is gone.
        """
        try:
            events = engine.stream(request)
            try:
                await self._pass_on(events, StreamCheck(request), stream, merger)
            finally:
                self._settle()
                await events.aclose()
        except PeerGoneError:
            raise
        except RequestError as error:
            return Failed(reason="invalid", message=str(error), param=error.param, code=error.code)
        except (EngineError, ContractError) as error:
            why = str(error) or type(error).__name__
            _log.error("request %s failed: %s", request.id, why)
            self.broken = why if isinstance(error, EngineBrokenError) else ""
            return Failed(reason="engine", message=why)
        except asyncio.CancelledError:
            if cast("asyncio.Task[None]", asyncio.current_task()).cancelling():
                raise
            _log.exception("request %s: the engine cancelled itself", request.id)
            return Failed(reason="engine", message=_UNEXPECTED)
        except Exception:  # noqa: BLE001 - a plugin's bug fails its request, not its neighbours
            _log.exception("request %s failed in the engine", request.id)
            return Failed(reason="engine", message=_UNEXPECTED)
        return None

    def _settle(self) -> None:
        """Lift the limit: what follows is the engine's own cleaning up."""
        self._settled = True
        if not self.limit.expired():
            self.limit.reschedule(None)

    async def _pass_on(
        self,
        events: AsyncGenerator[EngineEvent, None],
        check: StreamCheck,
        stream: FrameStream[ToReplica],
        merger: TextMerger | None,
    ) -> None:
        answering = self._answering
        turn = 0
        async for event in events:
            answering.tokens += check.see(event)
            if not answering.begun:
                answering.begin()
            for out in (event,) if merger is None else merger.see(event):
                stream.send(out)
            if stream.congested:
                await stream.drain()
            turn += 1
            if turn % _EVENTS_A_TURN == 0:
                await asyncio.sleep(0)
        check.end()
