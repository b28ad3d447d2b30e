"""HTTP/1.1 to llama.cpp's server over its unix socket: one connection per request, so that closing it is cancel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httptools
import msgspec

from core.api import EngineError, RequestError
from llamacpp_backend.failures import failure

__all__ = ["LlamaClient"]

_EVENT_END = b"\n\n"
_DATA = b"data: "
_ERROR = b"error: "
_DONE = b"data: [DONE]"
_encoder = msgspec.json.Encoder()


class _Exchange(asyncio.Protocol):
    """One request and its answer; the parser calls the ``on_*`` methods."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._transport: asyncio.BaseTransport | None = None
        self.status = 0
        self.complete = False
        self.gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.gone = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.gone = True
        self._wake()

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.complete = True

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def more(self) -> None:
        """Wait until something arrives or the connection is over."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    @property
    def over(self) -> bool:
        return self.complete or self.gone

    def take_events(self) -> list[bytes]:
        """Remove and return the JSON texts of the server-sent events that are complete.

        Raises:
            RequestError, EngineError: one of them is an error.
        """
        end = self._body.rfind(_EVENT_END)
        if end < 0:
            return []
        events = bytes(self._body[:end]).split(_EVENT_END)
        del self._body[: end + len(_EVENT_END)]
        for event in events:
            if event.startswith(_ERROR):
                raise failure(event[len(_ERROR) :], 500)
        return [event[len(_DATA) :] for event in events if event.startswith(_DATA) and event != _DONE]

    async def body(self) -> bytes:
        """Wait for the whole body."""
        while not self.over:
            await self.more()
        if not self.complete:
            msg = "llama.cpp closed the connection before its answer was complete"
            raise EngineError(msg)
        return bytes(self._body)


class LlamaClient:
    """Speaks to the server on ``socket``, a path."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    async def call(self, target: str, body: Any = None) -> bytes:
        """Return the body of the answer; GET without ``body``, else POST of it as JSON.

        Raises:
            RequestError: llama.cpp refused the request.
            EngineError: it failed, or is gone.
        """
        transport, exchange = await self._send(target, body)
        try:
            answer = await exchange.body()
        finally:
            transport.abort()
        if exchange.status != 200:  # noqa: PLR2004 - HTTP's own number
            raise failure(answer, exchange.status)
        return answer

    async def events(self, target: str, body: Any) -> AsyncGenerator[list[bytes], None]:
        """Yield the JSON texts of a stream as they arrive, several at once if they came together.

        Closing the generator closes the connection, which cancels the request in llama.cpp.

        Raises:
            RequestError: llama.cpp refused the request.
            EngineError: it failed, is gone, or ended the stream early.
        """
        transport, exchange = await self._send(target, body)
        try:
            while not exchange.status and not exchange.over:
                await exchange.more()
            if exchange.status != 200:  # noqa: PLR2004
                raise failure(await exchange.body(), exchange.status)
            while not exchange.over:
                if texts := exchange.take_events():
                    yield texts
                else:
                    await exchange.more()
            if texts := exchange.take_events():
                yield texts
            if not exchange.complete:
                msg = "llama.cpp closed the connection in the middle of a stream"
                raise EngineError(msg)
        finally:
            transport.abort()

    async def _send(self, target: str, body: Any) -> tuple[asyncio.Transport, _Exchange]:
        try:
            payload = b"" if body is None else _encoder.encode(body)
        except UnicodeEncodeError as error:
            msg = "The text holds a lone surrogate, which is not valid Unicode."
            raise RequestError(msg) from error
        head = (
            f"{'GET' if body is None else 'POST'} {target} HTTP/1.1\r\nHost: llama\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        try:
            transport, exchange = await asyncio.get_running_loop().create_unix_connection(_Exchange, self._socket)
        except OSError as error:
            msg = f"llama.cpp's server does not answer: {error}"
            raise EngineError(msg) from error
        transport.write(head.encode() + payload)
        return transport, exchange
