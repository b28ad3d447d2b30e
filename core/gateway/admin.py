"""An HTTP worker's way to the supervisor for those who manage the gateway: one connection for each command."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from core.errors import GatewayError
from core.wire.control import AdminEvent, AdminHello, AdminReply, Change, FromAdmin, Listen, Operate, Overrides, Reload
from core.wire.frames import PROTOCOL
from core.wire.stream import FrameStream, PeerGoneError, connect

__all__ = ["EventsStream", "Management"]

_REPLY_TIMEOUT_S = 30.0
_RETRY_AFTER_S = 1.0


class EventsStream:
    """What the supervisor tells a listener; `close` it in any case."""

    def __init__(self, stream: FrameStream[FromAdmin]) -> None:
        self._stream = stream

    async def receive(self) -> list[AdminEvent]:
        """Return the events that have arrived, at least one; may be cancelled without losing any.

        Raises:
            GatewayError: the supervisor refused, or went away: this stream is over.
        """
        try:
            frames = await self._stream.receive()
        except PeerGoneError as gone:
            raise _away() from gone
        for frame in frames:
            if isinstance(frame, AdminReply):
                raise _refusal(frame)
        return [frame for frame in frames if isinstance(frame, AdminEvent)]

    def close(self) -> None:
        """Listen no more. Idempotent."""
        self._stream.close()


class _BegunReplica(msgspec.Struct):
    replica: str
    state: str


class _Begun(msgspec.Struct):
    replicas: list[_BegunReplica] = []


class Management:
    """Carries commands to the supervisor that listens on ``socket``."""

    def __init__(self, socket: Path, *, max_frame_bytes: int) -> None:
        self._socket = socket
        self._max_frame_bytes = max_frame_bytes

    async def change(self, command: Change) -> Overrides:
        """Change overrides and return all of them as they are then.

        Raises:
            GatewayError: refused, and nothing was changed; or the supervisor is away.
        """
        return msgspec.json.decode(await self._ask(command), type=Overrides)

    async def operate(self, command: Operate) -> dict[str, str]:
        """Begin an operation on a deployment; return the state of each of its replicas then, by name.

        Raises:
            GatewayError: refused; or the supervisor is away.
        """
        begun = msgspec.json.decode(await self._ask(command), type=_Begun)
        return {one.replica: one.state for one in begun.replicas}

    async def reload(self, command: Reload) -> dict[str, Any]:
        """Have the configuration read again, and return the difference that it makes.

        Raises:
            GatewayError: it was refused whole and the old one stays; or the supervisor is away.
        """
        return msgspec.json.decode(await self._ask(command), type=dict[str, Any])

    async def listen(self, after: int | None = None) -> EventsStream:
        """Listen from now on, and before that to the kept events that came after number ``after``.

        Raises:
            GatewayError: the supervisor is away.
        """
        return EventsStream(await self._begin(Listen(after=after)))

    async def _ask(self, command: Change | Operate | Reload) -> bytes:
        stream = await self._begin(command)
        try:
            async with asyncio.timeout(_REPLY_TIMEOUT_S):
                (reply, *_) = await stream.receive()
        except PeerGoneError as gone:
            raise _away() from gone
        except TimeoutError:
            message = (
                f"The supervisor did not answer within {_REPLY_TIMEOUT_S:g} s; whether it did what was asked is not "
                f"known. GET /admin/v1/deployments shows what is in effect."
            )
            raise GatewayError.timeout(message) from None
        finally:
            stream.close()
        if not isinstance(reply, AdminReply):
            raise _away()
        if reply.status >= 400:  # noqa: PLR2004 - HTTP
            raise _refusal(reply)
        return reply.body

    async def _begin(self, command: msgspec.Struct) -> FrameStream[FromAdmin]:
        try:
            stream: FrameStream[FromAdmin] = await connect(
                str(self._socket),
                FromAdmin,  # type: ignore[arg-type]  # a union stands for its members
                max_frame_bytes=self._max_frame_bytes,
            )
            stream.send(AdminHello(protocol=PROTOCOL))
            stream.send(command)
        except OSError as error:  # PeerGoneError is one too
            raise _away() from error
        return stream


def _away() -> GatewayError:
    return GatewayError(
        "The supervisor is away; it is being restarted. Try again.",
        status=503,
        type="server_error",
        code="supervisor_away",
        retry_after_s=_RETRY_AFTER_S,
    )


def _refusal(reply: AdminReply) -> GatewayError:
    kind = "server_error" if reply.status >= 500 else "invalid_request_error"  # noqa: PLR2004 - HTTP
    return GatewayError(reply.message, status=reply.status, type=kind, code=reply.code or None)
