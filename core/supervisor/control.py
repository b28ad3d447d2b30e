"""The supervisor's unix socket: HTTP workers learn the state of everything here, ask for what they need, and manage."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Protocol

from core.supervisor.events import Events
from core.wire.control import (
    AdminHello,
    AdminReply,
    BreakerChanged,
    Change,
    Configuration,
    ControlHello,
    EnsureReady,
    Listen,
    Operate,
    Reload,
    Snapshot,
    TookOver,
    ToSupervisor,
)
from core.wire.frames import PROTOCOL
from core.wire.stream import FrameStream, PeerGoneError, serve

__all__ = ["ControlServer", "Desk"]

_log = logging.getLogger(__name__)
_Stream = FrameStream[ToSupervisor]


class Desk(Protocol):
    """Whom the server speaks for.

    Attributes:
        events: those that a listener is told of.
    """

    events: Events

    def present(self) -> tuple[Configuration, Snapshot]:
        """Return the present configuration, the same object until there is another, and its snapshot."""
        ...

    def ensure_ready(self, deployment: str) -> None:
        """A request wants this deployment."""
        ...

    def breaker_changed(self, change: BreakerChanged, pid: int) -> None:
        """The circuit breaker changed that the HTTP worker ``pid`` has for a replica."""
        ...

    async def execute(self, command: Change | Operate | Reload) -> AdminReply:
        """Do what an operator commands; never raises."""
        ...


class ControlServer:
    """Sends configuration and newest snapshot to every HTTP worker, and hands on what they ask for and command.

    A worker that reads slowly misses the snapshots in between, never the newest nor the configuration that it
    belongs to. A listener that reads slowly misses events and is told how many. Neither costs any memory.
    """

    def __init__(self, path: Path, desk: Desk, *, max_frame_bytes: int) -> None:
        self._path = path
        self._desk = desk
        self._max_frame_bytes = max_frame_bytes
        self._server: asyncio.Server | None = None
        self._conversations: set[asyncio.Task[None]] = set()
        self._commands: set[asyncio.Task[None]] = set()
        self._news: set[asyncio.Event] = set()
        self._generations: dict[_Stream, int] = {}
        self._problems: dict[_Stream, str] = {}
        self._took_over = asyncio.Event()

    async def start(self) -> None:
        """Listen; a socket that a dead supervisor left is replaced.

        Raises:
            OSError: the socket cannot be made.
        """
        self._path.unlink(missing_ok=True)
        self._server = await serve(
            str(self._path),
            ToSupervisor,  # type: ignore[arg-type]  # a union is a type to msgspec, not yet to mypy
            self._welcome,
            max_frame_bytes=self._max_frame_bytes,
        )

    def publish(self) -> None:
        """Send a fresh snapshot to every worker."""
        for news in self._news:
            news.set()

    async def taken_over(self, generation: int, *, timeout_s: float) -> bool:
        """Wait until every HTTP worker that is there routes by ``generation``; return whether all did in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while any(number < generation for number in self._generations.values()):
                    await self._took_over.wait()
                return True
        return False

    def problems(self) -> tuple[str, ...]:
        """Return why HTTP workers could not go over to the generation that they were told of last."""
        return tuple(problem for problem in self._problems.values() if problem)

    async def close(self) -> None:
        """Stop listening and hang up."""
        if self._server is not None:
            self._server.close()
        tasks = self._conversations | self._commands
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    def _welcome(self, stream: _Stream) -> None:
        conversation = asyncio.get_running_loop().create_task(self._converse(stream))
        self._conversations.add(conversation)
        conversation.add_done_callback(self._conversations.discard)

    async def _converse(self, stream: _Stream) -> None:
        try:
            first, *frames = await stream.receive()
            if isinstance(first, ControlHello) and _understands(first, f"HTTP worker {first.pid}"):
                await self._follow(stream, first.pid, frames)
            elif isinstance(first, AdminHello) and _understands(first, "who wants to manage it"):
                (command, *_) = frames or await stream.receive()
                await self._manage(stream, command)
        except PeerGoneError:
            pass
        finally:
            stream.close()

    # --- HTTP workers

    async def _follow(self, stream: _Stream, pid: int, frames: list[ToSupervisor]) -> None:
        """Tell a worker all that is new, and hear what it has to say."""
        self._generations[stream] = 0
        telling = asyncio.create_task(self._tell(stream))
        try:
            while all(self._hear(stream, pid, frame) for frame in frames):
                frames = await stream.receive()
        finally:
            telling.cancel()
            del self._generations[stream]
            self._problems.pop(stream, None)
            self._wake()

    def _hear(self, stream: _Stream, pid: int, frame: ToSupervisor) -> bool:
        """Take a frame of a worker; False: it makes no sense."""
        match frame:
            case EnsureReady(deployment=deployment):
                self._desk.ensure_ready(deployment)
            case BreakerChanged():
                self._desk.breaker_changed(frame, pid)
            case TookOver(generation=generation, problem=problem):
                self._generations[stream] = generation
                self._problems[stream] = problem and f"HTTP worker {pid} {problem}"
                self._wake()
            case _:
                return False
        return True

    async def _tell(self, stream: _Stream) -> None:
        news, told = asyncio.Event(), None
        news.set()
        self._news.add(news)
        try:
            with contextlib.suppress(PeerGoneError):
                while await news.wait():
                    news.clear()
                    configuration, snapshot = self._desk.present()
                    if configuration is not told:
                        stream.send(configuration)
                        told = configuration
                    stream.send(snapshot)
                    await stream.drain()
        finally:
            self._news.discard(news)

    def _wake(self) -> None:
        self._took_over.set()
        self._took_over = asyncio.Event()

    # --- operators

    async def _manage(self, stream: _Stream, command: ToSupervisor) -> None:
        """Answer one command; the peer says nothing more, but may hang up."""
        if isinstance(command, Listen):
            answering = asyncio.create_task(self._listen(stream, command.after))
        elif isinstance(command, Change | Operate | Reload):
            answering = asyncio.create_task(self._execute(stream, command))
            self._commands.add(answering)
            answering.add_done_callback(self._commands.discard)
        else:
            return
        try:
            await stream.receive()
        finally:
            if isinstance(command, Listen):  # a command is done to its end, whoever has gone
                answering.cancel()

    async def _execute(self, stream: _Stream, command: Change | Operate | Reload) -> None:
        reply = await self._desk.execute(command)
        with contextlib.suppress(PeerGoneError):
            stream.send(reply)
            await stream.drain()

    async def _listen(self, stream: _Stream, after: int | None) -> None:
        events = self._desk.events
        told = events.newest if after is None else after
        with contextlib.suppress(PeerGoneError):
            while True:
                new = events.after(told)
                for event in new:
                    stream.send(event)
                    told = event.id
                    await stream.drain()
                if not new:
                    await events.wait()


def _understands(hello: ControlHello | AdminHello, who: str) -> bool:
    if hello.protocol != PROTOCOL:
        _log.error(
            "%s speaks protocol %d, the supervisor %d; it is refused: restart the gateway",
            who,
            hello.protocol,
            PROTOCOL,
        )
        return False
    return True
