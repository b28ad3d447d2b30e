"""One connection that carries frames, over asyncio; the kernel does the flow control."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar, cast

import msgspec

from core.wire.frames import FrameDecoder, FrameError, encode_into

__all__ = ["FrameStream", "PeerGoneError", "connect", "serve"]

_FrameT = TypeVar("_FrameT")
# A peer that sends faster than we read is paused at either of these; one request never comes near that many frames.
_MOST_UNREAD_FRAMES = 1024
_MOST_UNREAD_BYTES = 256 * 1024
# Frames of one turn of the loop leave in one write: a write is a system call, and a wake-up for the peer.
_MOST_UNSENT_BYTES = 64 * 1024


class PeerGoneError(ConnectionError):
    """The other end closed the connection, died, or broke the protocol."""


class FrameStream(asyncio.Protocol, Generic[_FrameT]):
    """Sends any frame, receives frames of type ``frame_type``. Owned by one task; not thread-safe."""

    def __init__(
        self,
        frame_type: type[_FrameT],
        *,
        max_frame_bytes: int,
        on_made: Callable[[FrameStream[_FrameT]], None] | None = None,
    ) -> None:
        self._decoder = FrameDecoder(frame_type, max_frame_bytes)
        self._on_made = on_made
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._unsent = bytearray()
        self._frames: list[_FrameT] = []
        self._unread_bytes = 0
        self._gone: str | None = None
        self._reader: asyncio.Future[None] | None = None
        self._drainers: list[asyncio.Future[None]] = []
        self._write_paused = False
        self._read_paused = False
        self.on_gone: Callable[[], None] | None = None
        """Called once when the peer is gone; how a replica learns of a cancel while it sends."""

    # --- for the owner

    @property
    def gone(self) -> bool:
        """Whether the connection is over; frames received before may still be unread."""
        return self._gone is not None

    @property
    def congested(self) -> bool:
        """Whether the peer reads slowly and `drain` would wait."""
        return self._write_paused

    def send(self, frame: msgspec.Struct) -> None:
        """Queue one frame for sending, at the end of this turn of the loop at the latest; see `drain`.

        Raises:
            PeerGoneError: the connection is over.
        """
        if self._gone is not None or self._transport is None:
            raise PeerGoneError(self._gone or "not connected")
        if not self._unsent:
            self._loop.call_soon(self._flush)
        encode_into(frame, self._unsent)
        if len(self._unsent) > _MOST_UNSENT_BYTES:
            self._flush()

    async def drain(self) -> None:
        """Wait until the peer has taken enough of what was sent: back-pressure.

        Raises:
            PeerGoneError: the connection is over.
        """
        if self._write_paused and self._gone is None:
            waiter = self._loop.create_future()
            self._drainers.append(waiter)
            await waiter
        if self._gone is not None:
            raise PeerGoneError(self._gone)

    async def receive(self) -> list[_FrameT]:
        """Return all frames that have arrived, at least one, in order.

        Raises:
            PeerGoneError: the connection is over and every frame has been read.
        """
        while not self._frames:
            if self._gone is not None:
                raise PeerGoneError(self._gone)
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        frames, self._frames = self._frames, []
        self._unread_bytes = 0
        if self._read_paused and self._transport is not None and not self._transport.is_closing():
            self._read_paused = False
            self._transport.resume_reading()
        return frames

    def close(self) -> None:
        """Close at once; unsent bytes are dropped. To a replica this means cancel. Idempotent."""
        self._end("closed on this side")
        if self._transport is not None:
            self._transport.abort()

    async def close_gracefully(self) -> None:
        """Close after everything sent has left; returns when it is done or the peer is gone."""
        if self._transport is None or self._gone is not None:
            return
        self._flush()
        self._transport.close()
        while self._gone is None:
            self._frames.clear()
            try:
                await self.receive()
            except PeerGoneError:
                break

    # --- for asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport and tell the server, if any."""
        self._transport = cast("asyncio.Transport", transport)
        if self._on_made is not None:
            self._on_made(self)

    def data_received(self, data: bytes) -> None:
        """Cut the bytes into frames and wake the reader."""
        if self._gone is not None:
            return
        try:
            self._frames += self._decoder.feed(data)
        except FrameError as error:
            self._end(str(error))
            if self._transport is not None:
                self._transport.abort()
            return
        if self._frames and self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        self._unread_bytes += len(data)
        if not self._frames or self._read_paused or self._transport is None:
            return
        if len(self._frames) > _MOST_UNREAD_FRAMES or self._unread_bytes > _MOST_UNREAD_BYTES:
            self._read_paused = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, whoever made it."""
        self._end(f"the connection broke: {exc}" if exc else "the peer closed the connection")

    def pause_writing(self) -> None:
        """The peer reads slowly."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self._write_paused = False
        self._wake_drainers()

    def _flush(self) -> None:
        if self._unsent and self._gone is None and self._transport is not None:
            unsent, self._unsent = self._unsent, bytearray()
            self._transport.write(unsent)

    def _wake_drainers(self) -> None:
        drainers, self._drainers = self._drainers, []
        for waiter in drainers:
            if not waiter.done():
                waiter.set_result(None)

    def _end(self, why: str) -> None:
        if self._gone is not None:
            return
        self._gone = why
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        self._wake_drainers()
        if self.on_gone is not None:
            self.on_gone()


async def connect(path: str, frame_type: type[_FrameT], *, max_frame_bytes: int) -> FrameStream[_FrameT]:
    """Connect to a unix socket.

    Raises:
        OSError: nobody listens there.
    """
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_unix_connection(
        lambda: FrameStream(frame_type, max_frame_bytes=max_frame_bytes), path
    )
    return stream


async def serve(
    path: str,
    frame_type: type[_FrameT],
    on_made: Callable[[FrameStream[_FrameT]], None],
    *,
    max_frame_bytes: int,
) -> asyncio.Server:
    """Listen on a unix socket; ``on_made`` is called with each new stream and must not block."""
    loop = asyncio.get_running_loop()
    return await loop.create_unix_server(
        lambda: FrameStream(frame_type, max_frame_bytes=max_frame_bytes, on_made=on_made), path, backlog=512
    )
