"""One engine behind a unix socket: admits, runs, cancels, reports, drains.

Every connection has one task, `Host._converse`. A request runs inside it, so that there is no hand-over
per event, and closing the connection is a cancel that the engine sees at once (`core.engine.job`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import cast

import msgspec

from core.api.messages import EngineInfo, Load
from core.api.protocols import Engine, ReplicaConfig
from core.engine.admission import Admission
from core.engine.defaults import with_defaults
from core.engine.job import Job
from core.engine.merge import TextMerger
from core.engine.outstanding import Outstanding
from core.engine.resident import ResidentMemory
from core.wire.frames import (
    PROTOCOL,
    Accepted,
    Done,
    Hello,
    Rejected,
    RetireIfIdle,
    RetireReply,
    SetLimits,
    Status,
    Submit,
    ToReplica,
    Watch,
    Welcome,
)
from core.wire.stream import FrameStream, PeerGoneError, serve

__all__ = ["Host"]

_log = logging.getLogger(__name__)

_Stream = FrameStream[ToReplica]
_LAST_WORDS_S = 1.0
_FAREWELL_S = 0.5
# A connection that is being made while the last worker leaves: a closed server would never greet it.
_ON_ITS_WAY_S = 0.05
_BROKEN_S = 1.0
"""How long requests may stay in an engine that broke: it will tell them the same."""
_RETRY_AFTER_MIN_S, _RETRY_AFTER_MAX_S = 1.0, 60.0
_SMOOTHING = 0.2


class Host:
    """Serves one replica's socket. Make it in a running loop; `listen`, then `ready` or `fail`, at last `close`."""

    def __init__(self, config: ReplicaConfig) -> None:
        self._config = config
        self._engine: Engine | None = None
        self._info: EngineInfo | None = None
        self._error: tuple[str, bool] | None = None
        self._limits = SetLimits(
            max_waiting=config.max_waiting, max_waiting_prompt_tokens=config.max_waiting_prompt_tokens
        )
        self._admission = Admission(slots=1, max_waiting=0, max_waiting_prompt_tokens=0)
        self._outstanding = Outstanding()
        self._jobs: set[Job] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = asyncio.Event()
        self.broken = ""
        """What the engine said when it broke; empty while it serves."""
        self._retired = False
        self._changed = asyncio.Event()
        self._conversations: set[asyncio.Task[None]] = set()
        self._workers: set[_Stream] = set()
        self._worker_left = asyncio.Event()
        self._watches: dict[_Stream, asyncio.Task[None]] = {}
        self._server: asyncio.Server | None = None
        self._memory = ResidentMemory()
        self._mean_run_s = 1.0

    # --- life

    async def listen(self) -> None:
        """Open the socket; until `ready`, requests are rejected as still loading.

        Raises:
            OSError: the path cannot be bound.
        """
        self._server = await serve(
            self._config.socket,
            ToReplica,  # type: ignore[arg-type]  # a union is a type to msgspec, not yet to mypy
            self._welcome,
            max_frame_bytes=self._config.max_frame_bytes,
        )

    def ready(self, engine: Engine, info: EngineInfo) -> None:
        """The model is loaded: admit requests."""
        self._engine, self._info = engine, info
        self._admission = Admission(
            slots=max(1, info.slots),
            max_waiting=self._limits.max_waiting,
            max_waiting_prompt_tokens=self._limits.max_waiting_prompt_tokens,
        )
        self._outstanding = Outstanding(info.context_tokens)
        self._tell()

    def fail(self, message: str, *, permanent: bool) -> None:
        """The model cannot be loaded, or the engine broke: tell the watchers."""
        self._error = (message, permanent)
        self._tell()

    @property
    def draining(self) -> bool:
        """Whether nothing is admitted any more: `drain` was called, or the engine broke."""
        return self._draining.is_set()

    def drain(self, timeout_s: float) -> None:
        """Admit nothing more, fail what waits now and what still runs in ``timeout_s``. Again with less: sooner."""
        self._draining.set()
        now = asyncio.get_running_loop().time()
        for job in self._jobs:
            job.cut(now + timeout_s if job.ticket.started.is_set() else now, "draining")
        self._tell()

    async def ending(self) -> None:
        """Wait until `draining`."""
        await self._draining.wait()

    async def drained(self) -> None:
        """Wait until `draining` and no request runs or waits."""
        await self._draining.wait()
        await self._idle.wait()

    def _break(self, why: str) -> None:
        if not self.broken:
            self.broken = why
            self.fail(why, permanent=False)
            self.drain(_BROKEN_S)

    async def close(self) -> None:
        """End every conversation; what was sent still leaves, if its reader takes it.

        After a drain the HTTP workers go first, as soon as they have heard of it: whoever submits a request until then
        is turned away, and does not have to take a closed connection for a death.
        """
        if self.draining:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL_S):
                    await asyncio.sleep(_ON_ITS_WAY_S)
                    while self._workers:
                        self._worker_left.clear()
                        await self._worker_left.wait()
                        await asyncio.sleep(_ON_ITS_WAY_S)
        if self._server is not None:
            self._server.close()
        for task in self._conversations:
            task.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)
        Path(self._config.socket).unlink(missing_ok=True)  # noqa: ASYNC240 - one system call, at the very end

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # --- what it says of itself

    def load(self) -> Load:
        """How busy the replica is, queue included."""
        queue = self._admission
        engine_load = Load()
        if self._engine is not None:
            try:
                engine_load = self._engine.load_now()
            except Exception:  # noqa: BLE001 - a plugin's bug here must not end every request
                _log.exception("load_now() failed")
        return Load(
            running=queue.running,
            waiting=queue.waiting,
            waiting_prompt_tokens=queue.waiting_prompt_tokens,
            kv_used=engine_load.kv_used,
            steps=engine_load.steps,
            outstanding_prompt_tokens=self._outstanding.prompt_tokens,
            outstanding_output_tokens=self._outstanding.output_tokens,
        )

    def _status(self) -> Status:
        error, permanent = self._error or (None, False)
        return Status(
            load=self.load(),
            info=self._info,
            error=error,
            error_permanent=permanent,
            draining=self.draining,
            rss_bytes=self._memory.now_bytes(),
        )

    # --- conversations

    def _welcome(self, stream: _Stream) -> None:
        task = asyncio.get_running_loop().create_task(self._converse(stream))
        self._conversations.add(task)
        task.add_done_callback(self._conversations.discard)

    async def _converse(self, stream: _Stream) -> None:
        greeted = False
        try:
            while True:
                for frame in await stream.receive():
                    if not greeted:
                        greeted = self._greet(stream, frame)
                        if not greeted:
                            return
                    else:
                        await self._answer(stream, frame)
        except PeerGoneError:
            pass
        except Exception:  # noqa: BLE001 - one conversation's end is not the replica's
            _log.exception("a conversation broke")
        finally:
            self._workers.discard(stream)
            self._worker_left.set()
            if watch := self._watches.pop(stream, None):
                watch.cancel()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS_S):
                    await stream.close_gracefully()
            stream.close()

    def _greet(self, stream: _Stream, frame: ToReplica) -> bool:
        if not isinstance(frame, Hello):
            _log.warning("a peer began with %s instead of Hello", type(frame).__name__)
            return False
        if frame.protocol != PROTOCOL:
            _log.warning("a %s speaks protocol %d, this replica %d", frame.peer, frame.protocol, PROTOCOL)
            return False
        if frame.peer == "worker":
            self._workers.add(stream)
        config = self._config
        stream.send(
            Welcome(protocol=PROTOCOL, fingerprint=config.fingerprint, replica=config.replica, pid=self._memory.pid)
        )
        return True

    async def _answer(self, stream: _Stream, frame: ToReplica) -> None:
        if isinstance(frame, Submit):
            await self._serve(stream, frame)
        elif isinstance(frame, Watch):
            if watch := self._watches.pop(stream, None):
                watch.cancel()
            self._watches[stream] = asyncio.create_task(self._watch(stream, frame.interval_s))
        elif isinstance(frame, RetireIfIdle):
            self._retired = self._retired or self._idle.is_set()
            stream.send(RetireReply(retired=self._retired))
        elif isinstance(frame, SetLimits):
            self._limits = frame
            self._admission.bound(
                max_waiting=frame.max_waiting, max_waiting_prompt_tokens=frame.max_waiting_prompt_tokens
            )

    async def _watch(self, stream: _Stream, interval_s: float) -> None:
        with contextlib.suppress(PeerGoneError):
            while True:
                await self._memory.look()
                changed = self._changed
                stream.send(self._status())
                await stream.drain()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(interval_s):
                        await changed.wait()

    # --- requests

    async def _serve(self, stream: _Stream, submit: Submit) -> None:
        """Answer one `Submit`, to its last frame."""
        rejected = self._closed()
        ticket = None if rejected else self._admission.enter(submit.request)
        if ticket is None:
            stream.send(rejected or self._busy())
            return
        answering = self._outstanding.enter(submit.request, ticket.prompt_tokens)
        job = Job(ticket, submit.timeout_s, answering)
        loop = asyncio.get_running_loop()
        stream.on_gone = lambda: job.cut(loop.time(), "gone")
        self._jobs.add(job)
        self._idle.clear()
        began = loop.time()
        try:
            stream.send(Accepted(load=self.load()))
            async with job.limit:
                await ticket.started.wait()
                began = loop.time()
                request = with_defaults(submit.request, self._config.model.sampling)
                merger = TextMerger() if submit.whole else None
                failed = await job.run(cast("Engine", self._engine), request, stream, merger=merger)
            if job.broken:
                self._break(job.broken)  # before its slot is free: nobody else shall get into this engine
        except TimeoutError:
            failed = job.cut_short()
        finally:
            stream.on_gone = None
            self._admission.leave(ticket)
            self._outstanding.leave(answering)
            self._jobs.discard(job)
            if not self._jobs:
                self._idle.set()
        if ticket.started.is_set():
            if failed is None:
                self._outstanding.learn(submit.request, answering)
            self._mean_run_s += _SMOOTHING * (loop.time() - began - self._mean_run_s)
        load = self.load()
        stream.send(Done(load=load) if failed is None else msgspec.structs.replace(failed, load=load))

    def _closed(self) -> Rejected | None:
        """Why nothing at all is admitted now, or None."""
        if self.draining or self._retired:
            message = "This replica is shutting down."
        elif self._error is not None:
            message = f"The model could not be loaded: {self._error[0]}"
        elif self._info is None:
            message = "The model is still loading."
        else:
            return None
        return Rejected(reason="draining", message=message, load=self.load())

    def _busy(self) -> Rejected:
        queue = self._admission
        turns = (queue.running + queue.waiting) / queue.slots
        return Rejected(
            reason="busy",
            message=f"The replica's queue is full: {queue.running} requests run, {queue.waiting} wait.",
            retry_after_s=min(max(_RETRY_AFTER_MIN_S, self._mean_run_s * turns), _RETRY_AFTER_MAX_S),
            load=self.load(),
        )
