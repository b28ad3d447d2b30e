"""Frames: length-prefixed msgpack of typed structs, between HTTP worker, replica and supervisor.

A frame is a 4-byte big-endian length, then that many bytes of msgpack. Both ends decode into the one
union of their direction; anything else is a `FrameError` and ends the connection. Never pickle.

**A conversation with a replica** (one unix-socket connection, pooled when idle)::

    peer                                replica
    Hello                          ->
                                   <-   Welcome            once per connection
    Submit(request)                ->
                                   <-   Accepted | Rejected
                                   <-   EngineEvent ...    after Accepted
                                   <-   Done | Failed      then the connection is free for the next Submit

Closing the connection is cancel; EOF is the replica's death. The supervisor speaks to a replica the
same way, with `Watch` (answered by a `Status` at once and every ``interval_s``), `RetireIfIdle` and `SetLimits`.

`core.wire.control` has the frames between HTTP workers and the supervisor.
"""

from __future__ import annotations

import struct
from typing import Generic, Literal, TypeVar

import msgspec

from core.api.messages import (
    Embedding,
    EngineInfo,
    Finished,
    Load,
    ReasoningDelta,
    Score,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from core.api.requests import EngineRequest

__all__ = [
    "HEADER",
    "PROTOCOL",
    "Accepted",
    "Done",
    "Failed",
    "Frame",
    "FrameDecoder",
    "FrameError",
    "FromReplica",
    "Hello",
    "Rejected",
    "RetireIfIdle",
    "RetireReply",
    "SetLimits",
    "Status",
    "Submit",
    "ToReplica",
    "Watch",
    "Welcome",
    "encode",
    "encode_into",
]

PROTOCOL = 1
HEADER = struct.Struct(">I")


class Frame(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """Base of the frames below."""


# --- to and from a replica ----------------------------------------------------------------------


class Hello(Frame, frozen=True, kw_only=True, tag="hello"):
    """First frame of a connection. ``fingerprint`` is of the alias table the peer was built from."""

    protocol: int
    fingerprint: str
    peer: Literal["worker", "supervisor"]


class Submit(Frame, frozen=True, kw_only=True, tag="submit"):
    """Serve this request.

    Attributes:
        timeout_s: what is left of its deadline, in seconds.
        whole: the answer is not streamed to the client: text deltas may be joined.
    """

    request: EngineRequest
    timeout_s: float
    whole: bool = False


class Watch(Frame, frozen=True, kw_only=True, tag="watch"):
    """Send a `Status` now and every ``interval_s`` seconds."""

    interval_s: float


class RetireIfIdle(Frame, frozen=True, kw_only=True, tag="retire"):
    """Stop admitting for ever if nothing is running or waiting; answered by `RetireReply`."""


class SetLimits(Frame, frozen=True, kw_only=True, tag="set_limits"):
    """From now on at most so much waits: the fields of `core.api.protocols.ReplicaConfig`. What waits already stays."""

    max_waiting: int
    max_waiting_prompt_tokens: int


class Welcome(Frame, frozen=True, kw_only=True, tag="welcome"):
    """The replica's answer to `Hello`."""

    protocol: int
    fingerprint: str
    replica: str
    pid: int


class Accepted(Frame, frozen=True, kw_only=True, tag="accepted"):
    """The request is admitted; events follow."""

    load: Load


class Rejected(Frame, frozen=True, kw_only=True, tag="rejected"):
    """The request is not admitted; the connection stays usable.

    Attributes:
        reason: ``busy`` (queue full) and ``draining`` (or still loading): try another replica;
            ``invalid``: the request is at fault, do not.
        param, code: as in `core.api.errors.RequestError`, for ``invalid``.
    """

    reason: Literal["busy", "draining", "invalid"]
    message: str
    retry_after_s: float = 1.0
    param: str | None = None
    code: str | None = None
    load: Load = Load()


class Done(Frame, frozen=True, kw_only=True, tag="done"):
    """The stream is complete."""

    load: Load


class Failed(Frame, frozen=True, kw_only=True, tag="failed"):
    """The stream ended in an error after `Accepted`.

    ``reason``: ``invalid`` (the request is at fault), ``engine`` (this request failed in the engine),
    ``timeout`` (its deadline passed), ``draining`` (the drain's time was up).
    """

    reason: Literal["invalid", "engine", "timeout", "draining"]
    message: str
    param: str | None = None
    code: str | None = None
    load: Load = Load()


class Status(Frame, frozen=True, kw_only=True, tag="status"):
    """How a replica is; ``info`` is set once the model is loaded, ``error`` when loading failed or the engine broke."""

    load: Load
    info: EngineInfo | None = None
    error: str | None = None
    error_permanent: bool = False
    draining: bool = False
    rss_bytes: int = 0


class RetireReply(Frame, frozen=True, kw_only=True, tag="retired"):
    """Whether the replica was idle and now admits nothing any more."""

    retired: bool


ToReplica = Hello | Submit | Watch | RetireIfIdle | SetLimits
FromReplica = (
    Welcome
    | Accepted
    | Rejected
    | TextDelta
    | ReasoningDelta
    | ToolCallDelta
    | Finished
    | Embedding
    | Score
    | Usage
    | Done
    | Failed
    | Status
    | RetireReply
)


# --- bytes --------------------------------------------------------------------------------------


class FrameError(Exception):
    """The peer broke the protocol: an oversized frame, or bytes that are no frame of its direction."""


_encoder = msgspec.msgpack.Encoder()
_NO_HEADER = bytes(HEADER.size)


def encode_into(frame: msgspec.Struct, buffer: bytearray) -> None:
    """Append the bytes of one frame, header included."""
    start = len(buffer)
    buffer += _NO_HEADER
    _encoder.encode_into(frame, buffer, start + HEADER.size)
    HEADER.pack_into(buffer, start, len(buffer) - start - HEADER.size)


def encode(frame: msgspec.Struct) -> bytes:
    """Return the bytes of one frame, header included."""
    buffer = bytearray()
    encode_into(frame, buffer)
    return bytes(buffer)


_FrameT = TypeVar("_FrameT")


class FrameDecoder(Generic[_FrameT]):
    """Cuts a byte stream into frames of one direction.

    ``frame_type`` is one of the unions above; ``max_frame_bytes`` bounds what a peer can make us hold.
    """

    def __init__(self, frame_type: type[_FrameT], max_frame_bytes: int) -> None:
        self._decoder = msgspec.msgpack.Decoder(frame_type)
        self._max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[_FrameT]:
        """Return the frames that ``data`` completes, in order.

        Raises:
            FrameError: the stream is broken; nothing more can be read from it.
        """
        buffer = self._buffer
        buffer += data
        frames: list[_FrameT] = []
        start, held = 0, len(buffer)
        with memoryview(buffer) as view:
            while held - start >= HEADER.size:
                (length,) = HEADER.unpack_from(buffer, start)
                if length > self._max_frame_bytes:
                    msg = f"a frame of {length} bytes is over the limit of {self._max_frame_bytes}"
                    raise FrameError(msg)
                end = start + HEADER.size + length
                if end > held:
                    break
                try:
                    frames.append(self._decoder.decode(view[start + HEADER.size : end]))
                except msgspec.DecodeError as error:
                    msg = f"not a frame of this direction: {error}"
                    raise FrameError(msg) from error
                start = end
        del buffer[:start]
        return frames
