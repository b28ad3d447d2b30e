"""Events over HTTP: what a listener hears, and what it hears after it was away."""

from __future__ import annotations

import asyncio
import json

import pytest

from core.wire.control import AdminEvent


def happened(number: int, **data) -> AdminEvent:
    return AdminEvent(id=number, at_unix_s=1.5, kind="replica", subject="echo@echo#0", data=data)


async def blocks(response, most: int) -> list[dict[str, str]]:
    """The first events of a stream, comments among them as ``comment``."""
    found, text = [], ""
    async with asyncio.timeout(5):
        async for piece in response.aiter_text():
            text += piece
            while "\n\n" in text:
                block, _, text = text.partition("\n\n")
                lines = [line.partition(": ") for line in block.split("\n")]
                found.append({name or "comment": value for name, _, value in lines})
                if len(found) == most:
                    return found
    return found


async def listening(lab, number: int = 1) -> None:
    async with asyncio.timeout(5):
        while len(lab.supervisor.listeners) < number:
            await asyncio.sleep(0.005)


async def test_events_are_told_as_they_happen(lab) -> None:
    """After a comment, which tells that somebody listens."""
    async with lab.client.stream("GET", "events", headers={"x-request-id": "mine"}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-request-id"] == "mine"
        await listening(lab)
        lab.supervisor.tell(happened(7, after="ready"))
        comment, event = await blocks(response, 2)

    assert comment == {":": "keep-alive"} or "keep-alive" in json.dumps(comment)
    assert (event["id"], event["event"]) == ("7", "replica")
    assert json.loads(event["data"]) == {"at_unix_s": 1.5, "subject": "echo@echo#0", "data": {"after": "ready"}}
    assert lab.supervisor.commands[0].after is None


async def test_a_silent_stream_has_comments(lab) -> None:
    """limits.keepalive_s is 0.2."""
    async with lab.client.stream("GET", "events") as response:
        told = await blocks(response, 3)

    assert all("data" not in block for block in told)


@pytest.mark.parametrize("way", ["header", "query"])
async def test_a_listener_that_comes_back_hears_what_it_missed(lab, way) -> None:
    lab.supervisor.tell(happened(1), happened(2), happened(3))
    headers = {"last-event-id": "1"} if way == "header" else {}
    url = "events?after=1" if way == "query" else "events"
    async with lab.client.stream("GET", url, headers=headers) as response:
        told = await blocks(response, 3)

    assert [block["id"] for block in told if "id" in block] == ["2", "3"]


@pytest.mark.parametrize("wrong", ["x", "-", "-1", "1-2", "1.0", "9" * 30, "\u0661"])
async def test_an_id_that_is_none_is_refused(lab, wrong) -> None:
    headers = [(b"last-event-id", wrong.encode())]
    response = await lab.client.get("events", headers=headers)

    assert (response.status_code, response.json()["error"]["param"]) == (400, "Last-Event-ID")


async def test_the_stream_says_that_the_supervisor_is_gone_and_ends(lab) -> None:
    """What happened before is told first."""
    async with lab.client.stream("GET", "events") as response:
        await listening(lab)
        lab.supervisor.tell(happened(1))
        await asyncio.sleep(0.05)
        lab.supervisor.streams[-1].close()
        told = await blocks(response, 100)

    assert [block.get("event") for block in told if "event" in block] == ["replica", "end"]
    assert "supervisor" in json.loads(told[-1]["data"])["message"]


async def test_the_stream_ends_when_the_gateway_does(lab) -> None:
    """Or it would hold the end of the gateway up."""
    async with lab.client.stream("GET", "events") as response:
        await listening(lab)
        lab.gateway.fleet.draining = True
        told = await blocks(response, 100)

    assert "shutting down" in json.loads(told[-1]["data"])["message"]


async def test_a_listener_that_leaves_is_forgotten(lab) -> None:
    async with lab.client.stream("GET", "events"):
        await listening(lab)
    async with asyncio.timeout(5):
        while not lab.supervisor.listeners[0].gone:
            await asyncio.sleep(0.01)


async def test_little_is_read_ahead_for_a_listener_that_does_not_read(lab) -> None:
    """What the worker does not take stays with the supervisor, which keeps it for all; nothing is lost by that."""
    stream = await lab.gateway.management.listen()
    await listening(lab)
    lab.supervisor.tell(*(happened(number, much="x" * 60_000) for number in range(200)))
    async with asyncio.timeout(20):
        while not stream._stream._read_paused:
            await asyncio.sleep(0.005)
        assert len(stream._stream._frames) < 20
        told: list[AdminEvent] = []
        while len(told) < 200:
            told += await stream.receive()
    stream.close()

    assert [one.id for one in told] == list(range(200))


async def test_without_a_supervisor_it_is_503_at_once(lab) -> None:
    lab.gateway.management._socket = lab.gateway.management._socket.with_name("none")
    response = await lab.client.get("events")

    assert (response.status_code, response.json()["error"]["code"]) == (503, "supervisor_away")
