"""A small raw HTTP client for benchmarks: keep-alive connections, no parsing beyond where an answer ends.

Costs some tens of microseconds a request, so that the server is what is measured.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

_END_OF_CHUNKS = b"\r\n0\r\n\r\n"


def http_request(path: str, body: bytes, host: str = "bench") -> bytes:
    """Return the bytes of a POST request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass(slots=True)
class Reply:
    """What came back: ``ttft_s`` to the first byte of the body after the headers, ``chunks`` SSE data lines."""

    status: int
    ttft_s: float
    duration_s: float
    body: bytes
    chunks: int = 0


@dataclass(slots=True)
class _Waiting:
    done: asyncio.Future[Reply]
    began_s: float
    buffer: bytearray = field(default_factory=bytearray)
    first_s: float = 0.0
    head_end: int = -1
    length: int | None = None


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting: _Waiting | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done.done():
            self._waiting.done.set_exception(exc or ConnectionError("closed in the middle of an answer"))

    async def ask(self, request: bytes) -> Reply:
        """Send a request and return its whole answer."""
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        self._waiting = _Waiting(loop.create_future(), time.perf_counter())
        self._transport.write(request)
        return await self._waiting.done

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        waiting = self._waiting
        if waiting is None or waiting.done.done():
            return
        waiting.buffer += data
        if waiting.head_end < 0:
            waiting.head_end = waiting.buffer.find(b"\r\n\r\n")
            if waiting.head_end < 0:
                return
            head = bytes(waiting.buffer[: waiting.head_end]).lower()
            at = head.find(b"content-length:")
            if at >= 0:
                waiting.length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        body_at = waiting.head_end + 4
        if not waiting.first_s and b"content" in waiting.buffer[body_at:]:
            waiting.first_s = time.perf_counter()
        whole = (
            len(waiting.buffer) - body_at >= waiting.length
            if waiting.length is not None
            else waiting.buffer.endswith(_END_OF_CHUNKS) and len(waiting.buffer) > body_at
        )
        if whole:
            now_s = time.perf_counter()
            waiting.done.set_result(
                Reply(
                    status=int(waiting.buffer[9:12]),
                    ttft_s=(waiting.first_s or now_s) - waiting.began_s,
                    duration_s=now_s - waiting.began_s,
                    body=bytes(waiting.buffer[body_at:]),
                    chunks=waiting.buffer.count(b"data: {"),
                )
            )


async def connect(host: str, port: int) -> Connection:
    """Open a connection over TCP."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, host, port)
    return connection


async def hammer(host: str, port: int, request: bytes, *, concurrency: int, seconds: float) -> list[Reply]:
    """Ask again and again over ``concurrency`` connections for ``seconds``; return all answers."""
    replies: list[Reply] = []
    end_s = time.perf_counter() + seconds

    async def one() -> None:
        connection = await connect(host, port)
        while time.perf_counter() < end_s:
            replies.append(await connection.ask(request))
        connection.close()

    await asyncio.gather(*(one() for _ in range(concurrency)))
    return replies
