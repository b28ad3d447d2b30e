"""Server-sent events to one client."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from sanic import Request
from sanic.response import ResponseStream

__all__ = ["EventStream"]


class EventStream:
    """Opens the response with the first bytes, and sends a comment whenever the stream is silent for long.

    The comments begin before the first event too, so that proxies and clients wait while a model loads or
    a long prompt is read; from the first byte on the status is 200 and an error can only be an event.
    A client that does not read has one thing waiting for it: an event or a comment, and no comments behind it.
    """

    def __init__(self, request: Request, *, keepalive: bytes, keepalive_s: float) -> None:
        self.headers: Mapping[str, str] = {}
        self._request = request
        self._keepalive = keepalive
        self._keepalive_s = keepalive_s
        self._response: ResponseStream | Any | None = None
        self._sending = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._last_write_s = self._loop.time()
        self._timer = self._loop.call_later(keepalive_s, self._tick)
        self._comment: asyncio.Task[None] | None = None

    @property
    def opened(self) -> bool:
        """Whether the client has been told that the answer is a stream."""
        return self._response is not None

    async def send(self, data: bytes) -> None:
        """Send bytes to the client, opening the response first; waits while the client reads slowly."""
        async with self._sending:
            if self._response is None:
                await self._open()
            if data:
                self._last_write_s = self._loop.time()
                await self._response.send(data)  # type: ignore[union-attr]  # opened above

    async def end(self) -> None:
        """End the response."""
        self.close()
        if self._response is not None:
            await self._response.eof()

    def close(self) -> None:
        """Stop the comments. Idempotent."""
        self._timer.cancel()
        if self._comment is not None:
            self._comment.cancel()

    async def _open(self) -> None:
        self._response = await self._request.respond(
            content_type="text/event-stream; charset=utf-8",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **self.headers},
        )

    def _tick(self) -> None:
        silent_s = self._loop.time() - self._last_write_s
        if silent_s >= self._keepalive_s * 0.99:
            if not self._sending.locked():
                self._comment = self._loop.create_task(self.send(self._keepalive))
                self._comment.add_done_callback(_saw)
            silent_s = 0.0
        self._timer = self._loop.call_later(self._keepalive_s - silent_s, self._tick)


def _saw(comment: asyncio.Task[None]) -> None:
    """Its failure means that the client is gone, which ends the handler of the request too."""
    if not comment.cancelled():
        comment.exception()
