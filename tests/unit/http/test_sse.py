"""Server-sent events to one client: comments while it is silent, and none for a client that does not read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.http.sse import EventStream

KEEPALIVE_S = 0.005


class Client:
    """Stands in for the request and for its response; reads only while `reads` is set."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.reads.set()
        self.failure: Exception | None = None
        self.waiting = 0
        self.most_waiting = 0
        self.got: list[bytes] = []

    async def respond(self, **_: Any) -> Client:
        return self

    async def send(self, data: bytes) -> None:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            await self.reads.wait()
        finally:
            self.waiting -= 1
        if self.failure:
            raise self.failure
        self.got.append(data)

    async def eof(self) -> None:
        self.got.append(b"")

    async def until(self, condition) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)


@pytest.fixture
async def client() -> Client:
    return Client()


def opened(client: Any) -> EventStream:
    return EventStream(client, keepalive=b":", keepalive_s=KEEPALIVE_S)


async def test_a_silent_stream_has_comments_until_it_ends(client) -> None:
    out = opened(client)
    await client.until(lambda: len(client.got) >= 3)
    await out.send(b"data")
    await out.end()

    told = list(client.got)
    assert told[-2:] == [b"data", b""]
    assert set(told[:-2]) == {b":"}
    await asyncio.sleep(5 * KEEPALIVE_S)
    assert client.got == told


@pytest.mark.parametrize("event", [b"data", b""])
async def test_comments_do_not_pile_up_for_a_client_that_does_not_read(client, event) -> None:
    """Whether it is an event or a comment that waits for it."""
    client.reads.clear()
    out = opened(client)
    sending = asyncio.create_task(out.send(event)) if event else None
    await client.until(lambda: client.waiting)
    await asyncio.sleep(20 * KEEPALIVE_S)
    assert client.most_waiting == 1

    client.reads.set()
    await client.until(lambda: len(client.got) >= 3)
    assert client.got[:2] == [event or b":", b":"]
    await out.end()
    assert sending is None or sending.done()


async def test_nothing_is_left_when_the_client_is_gone(client) -> None:
    """Neither a comment that still waits nor an exception that nobody has seen."""
    unseen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    before = asyncio.all_tasks()
    client.reads.clear()
    out = opened(client)
    await client.until(lambda: client.waiting)
    client.failure = AttributeError("'NoneType' object has no attribute 'is_closing'")
    client.reads.set()
    await client.until(lambda: not client.waiting)
    client.reads.clear()
    await client.until(lambda: client.waiting)
    out.close()
    await client.until(lambda: asyncio.all_tasks() == before)

    assert client.got == []
    assert unseen == []
