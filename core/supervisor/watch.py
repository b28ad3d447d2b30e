"""The supervisor's connection to one replica: hears how it is, asks it to retire, tells it its limits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from core.wire.frames import PROTOCOL, FromReplica, Hello, RetireIfIdle, RetireReply, SetLimits, Status, Watch, Welcome
from core.wire.stream import FrameStream, PeerGoneError, connect

__all__ = ["Watcher"]

_log = logging.getLogger(__name__)
_RECONNECT_S = 0.05


class Watcher:
    """Keeps a connection to the replica that listens, or will listen, on ``socket``.

    ``hear`` is called with each `Status` and `RetireReply`, in order. It says nothing of the replica's
    end: the launcher knows that sooner and for certain.
    """

    def __init__(
        self,
        socket: str,
        hear: Callable[[Status | RetireReply], None],
        *,
        replica: str,
        fingerprint: str,
        interval_s: float,
        max_frame_bytes: int,
    ) -> None:
        self._socket = socket
        self._hear = hear
        self._replica = replica
        self._fingerprint = fingerprint
        self._interval_s = interval_s
        self._max_frame_bytes = max_frame_bytes
        self._limits: SetLimits | None = None
        self._stream: FrameStream[FromReplica] | None = None

    async def run(self) -> None:
        """Watch until cancelled; connect again whenever the connection is lost."""
        while True:
            try:
                await self._watch()
            except PeerGoneError as error:
                _log.debug("%s: the supervisor's connection was lost (%s); connecting again", self._replica, error)
            except OSError:
                pass  # it does not listen yet, or no longer
            await asyncio.sleep(_RECONNECT_S)

    def ask_to_retire(self) -> None:
        """Ask the replica to admit nothing any more if it is idle; the answer goes to ``hear``."""
        if self._stream is not None and not self._stream.gone:
            self._stream.send(RetireIfIdle())

    def set_limits(self, limits: SetLimits) -> None:
        """Tell the replica the bounds of its queue, now or when it listens."""
        self._limits = limits
        if self._stream is not None and not self._stream.gone:
            self._stream.send(limits)

    async def _watch(self) -> None:
        stream: FrameStream[FromReplica] = await connect(
            self._socket,
            FromReplica,  # type: ignore[arg-type]  # a union is a type to msgspec, not yet to mypy
            max_frame_bytes=self._max_frame_bytes,
        )
        try:
            stream.send(Hello(protocol=PROTOCOL, fingerprint=self._fingerprint, peer="supervisor"))
            stream.send(Watch(interval_s=self._interval_s))
            if self._limits is not None:
                stream.send(self._limits)
            self._stream = stream
            while True:
                for frame in await stream.receive():
                    self._take(frame)
        finally:
            self._stream = None
            stream.close()

    def _take(self, frame: FromReplica) -> None:
        if isinstance(frame, Status | RetireReply):
            self._hear(frame)
        elif isinstance(frame, Welcome) and frame.protocol != PROTOCOL:
            _log.error(
                "%s speaks protocol %d, this gateway %d: install the same ai-gateway version for its interpreter",
                self._replica,
                frame.protocol,
                PROTOCOL,
            )
