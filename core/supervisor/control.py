"""The supervisor's unix socket: HTTP workers learn the state of everything here, and ask for what they need."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from core.wire.control import BreakerChanged, Configuration, ControlHello, EnsureReady, Snapshot, ToSupervisor
from core.wire.frames import PROTOCOL
from core.wire.stream import FrameStream, PeerGoneError, serve

__all__ = ["ControlServer"]

_log = logging.getLogger(__name__)


class ControlServer:
    """Sends configuration and newest snapshot to every HTTP worker, and hands on what they ask for.

    A worker that reads slowly misses the snapshots in between, never the newest nor the configuration that it
    belongs to, and costs no memory.

    ``present`` returns the present configuration, the same object until there is another, and its snapshot;
    ``ensure_ready`` is called with a deployment that a request wants, ``breaker_changed`` with each such frame.
    """

    def __init__(
        self,
        path: Path,
        *,
        present: Callable[[], tuple[Configuration, Snapshot]],
        ensure_ready: Callable[[str], None],
        breaker_changed: Callable[[BreakerChanged], None],
        max_frame_bytes: int,
    ) -> None:
        self._path = path
        self._present = present
        self._ensure_ready = ensure_ready
        self._breaker_changed = breaker_changed
        self._max_frame_bytes = max_frame_bytes
        self._server: asyncio.Server | None = None
        self._conversations: set[asyncio.Task[None]] = set()
        self._news: set[asyncio.Event] = set()

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

    async def close(self) -> None:
        """Stop listening and hang up."""
        if self._server is not None:
            self._server.close()
        for conversation in self._conversations:
            conversation.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    def _welcome(self, stream: FrameStream[ToSupervisor]) -> None:
        conversation = asyncio.get_running_loop().create_task(self._converse(stream))
        self._conversations.add(conversation)
        conversation.add_done_callback(self._conversations.discard)

    async def _converse(self, stream: FrameStream[ToSupervisor]) -> None:
        telling: asyncio.Task[None] | None = None
        try:
            while True:
                for frame in await stream.receive():
                    if telling is not None and isinstance(frame, EnsureReady):
                        self._ensure_ready(frame.deployment)
                    elif telling is not None and isinstance(frame, BreakerChanged):
                        self._breaker_changed(frame)
                    elif telling is None and isinstance(frame, ControlHello) and self._understands(frame):
                        telling = asyncio.create_task(self._tell(stream))
                    else:
                        return
        except PeerGoneError:
            pass
        finally:
            stream.close()
            if telling is not None:
                telling.cancel()

    async def _tell(self, stream: FrameStream[ToSupervisor]) -> None:
        news, told = asyncio.Event(), None
        news.set()
        self._news.add(news)
        try:
            with contextlib.suppress(PeerGoneError):
                while await news.wait():
                    news.clear()
                    configuration, snapshot = self._present()
                    if configuration is not told:
                        stream.send(configuration)
                        told = configuration
                    stream.send(snapshot)
                    await stream.drain()
        finally:
            self._news.discard(news)

    @staticmethod
    def _understands(hello: ControlHello) -> bool:
        if hello.protocol != PROTOCOL:
            _log.error(
                "HTTP worker %d speaks protocol %d, the supervisor %d; it is refused: restart the gateway",
                hello.pid,
                hello.protocol,
                PROTOCOL,
            )
            return False
        return True
