"""``GET /admin/v1/events``: every change of state, as server-sent events."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
from sanic import HTTPResponse, Request

from core.errors import GatewayError
from core.gateway.admin import EventsStream
from core.http.gateway import Gateway, gateway_of
from core.http.sse import EventStream
from core.wire.control import AdminEvent

__all__ = ["KEEPALIVE", "LOOK_UP_S", "EventData", "event", "events"]

_ID = re.compile(r"[0-9]{1,18}")
KEEPALIVE = b": keep-alive\n\n"
LOOK_UP_S = 0.5
"""How often a stream that has nothing to tell looks whether the gateway is shutting down."""


class EventData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The data of an event; its SSE name is the kind. ``missed`` is there when events before it are kept no more."""

    at_unix_s: float
    subject: str
    data: dict[str, Any]
    missed: int = 0


def event(name: str, data: object, event_id: str = "") -> bytes:
    """Return one server-sent event; ``data`` becomes one line of JSON."""
    head = f"id: {event_id}\n" if event_id else ""
    return b"%bevent: %b\ndata: %b\n\n" % (head.encode(), name.encode(), msgspec.json.encode(data))


async def events(request: Request) -> HTTPResponse | None:
    """Tell events until the client leaves; ``Last-Event-ID`` (or ``?after=ID``) brings what was missed.

    The last event is ``end``, and says why, when the gateway shuts down or the supervisor is gone: connect again.
    """
    gateway = gateway_of(request)
    after = request.headers.get("last-event-id") or request.args.get("after") or ""
    stream = await gateway.management.listen(_number_after(after))
    out = EventStream(request, keepalive=KEEPALIVE, keepalive_s=gateway.settings.limits.keepalive_s)
    out.headers = {"x-request-id": request.headers.get("x-request-id") or str(request.id)}
    try:
        await out.send(KEEPALIVE)  # opens the response, so that a listener knows that it listens
        why = await _copy(gateway, stream, out)
        await out.send(event("end", {"message": why}))
        await out.end()
    finally:
        out.close()
        stream.close()
    return None


async def _copy(gateway: Gateway, stream: EventsStream, out: EventStream) -> str:
    """Carry events to the client; return why there are no more."""
    while not gateway.fleet.draining:
        try:
            async with asyncio.timeout(LOOK_UP_S):
                told = await stream.receive()
        except TimeoutError:
            continue
        except GatewayError as error:
            return error.message
        await out.send(b"".join(_written(one) for one in told))
    return "The gateway is shutting down."


def _written(one: AdminEvent) -> bytes:
    data = EventData(at_unix_s=one.at_unix_s, subject=one.subject, data=one.data, missed=one.missed)
    return event(one.kind, data, str(one.id))


def _number_after(text: str) -> int | None:
    """Return the number to go on after; None: only new events."""
    if not text:
        return None
    if not _ID.fullmatch(text):
        message = f"'{text[:80]}' is no id of an event; leave Last-Event-ID out to hear only new events."
        raise GatewayError.invalid(message, param="Last-Event-ID", code="invalid_value")
    return int(text)
