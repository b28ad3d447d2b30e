"""``POST /admin/v1/pull``: fetch and prepare weights in a process of its own, with progress as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from typing import Any

import msgspec
from sanic import HTTPResponse, Request

from core.errors import GatewayError
from core.http.admin.bodies import PullBody, read
from core.http.admin.errors import pull_failed
from core.http.admin.events import KEEPALIVE, LOOK_UP_S, event
from core.http.gateway import Gateway, gateway_of
from core.http.sse import EventStream
from core.routing.named import NotMeantError, deployments_to_pull

__all__ = ["pull"]

_log = logging.getLogger("gateway.http")
_Event = dict[str, Any]
_END_WITHIN_S = 5.0
_LAST_WORDS_BYTES = 2000
_LONGEST_LINE_BYTES = 1024 * 1024
_SHUTTING_DOWN = (
    "The gateway is shutting down, and the pull ends with it. Pull again when it is back; what is half fetched is "
    "kept where its source can resume."
)
# Those of the HTTP worker, not of the process that it starts.
_NOT_INHERITED = frozenset({"PROMETHEUS_MULTIPROC_DIR", "AI_GATEWAY_RUN_DIR"})


class _ShuttingDownError(Exception):
    """The gateway shuts down."""


async def pull(request: Request) -> HTTPResponse | None:
    """Pull what a name stands for: ``progress`` events, then exactly one ``done`` or ``error``.

    It is ended when the client leaves or the gateway shuts down; what is half fetched is kept for the next time where
    the source can resume.
    """
    gateway = gateway_of(request)
    name = read(request, PullBody).name
    try:
        deployments = [one.id for one in deployments_to_pull(gateway.generation.table, name)]
    except NotMeantError as error:
        raise GatewayError.invalid(str(error), param="name", code="model_not_found") from None
    out = EventStream(request, keepalive=KEEPALIVE, keepalive_s=gateway.settings.limits.keepalive_s)
    out.headers = {"x-request-id": request.headers.get("x-request-id") or str(request.id)}
    process = await _start(deployments)
    try:
        await out.send(KEEPALIVE)
        await out.send(await _copy(gateway, process, out))
        await out.end()
    finally:
        out.close()
        await asyncio.shield(_end(process))
    return None


async def _start(deployments: list[str]) -> Process:
    # A session of its own: what it starts itself ends with it. Nothing is written to its standard input, whose end
    # tells it that this HTTP worker is gone, however it went.
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "core",
        "pull",
        "--json",
        "--end-with-stdin",
        "--",
        *deployments,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        limit=_LONGEST_LINE_BYTES,
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if name not in _NOT_INHERITED},
    )


async def _copy(gateway: Gateway, process: Process, out: EventStream) -> bytes:
    """Carry its progress to the client until it is over; return the one event that is left to send."""
    assert process.stdout is not None and process.stderr is not None  # noqa: S101, PT018 - they are pipes
    words = bytearray()
    listening = asyncio.create_task(_keep_last_words(process.stderr, words))
    last: _Event = {"event": "error", "pulled": {}, "failed": {}}
    try:
        while line := await _line(gateway, process.stdout):
            told = msgspec.json.decode(line, type=_Event)
            if told["event"] != "progress":
                last = told
                break
            await out.send(event("progress", _data(told)))
        async with asyncio.timeout(_END_WITHIN_S):
            await process.wait()
            await listening
    except _ShuttingDownError:
        return event("error", pull_failed(_SHUTTING_DOWN).body() | _data(last))
    except (TimeoutError, ValueError, KeyError) as failure:  # it hangs, or writes what is no event
        _log.warning("the pull of process %d went wrong: %r", process.pid, failure)
    finally:
        listening.cancel()
    if last["event"] == "done":
        return event("done", _data(last))
    message = "\n".join(f"{name}: {why}" for name, why in last["failed"].items())
    if not message:
        said = words.decode(errors="replace").strip() or "nothing"
        message = f"The pull broke off (exit code {process.returncode}). The last that it said: {said}"
    return event("error", pull_failed(message).body() | _data(last))


async def _line(gateway: Gateway, stdout: asyncio.StreamReader) -> bytes:
    """Return the next line, empty at the end; give up when the gateway shuts down."""
    while not gateway.fleet.draining:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_UP_S):
                return await stdout.readline()
    raise _ShuttingDownError


def _data(told: _Event) -> _Event:
    return {key: value for key, value in told.items() if key != "event"}


async def _keep_last_words(stderr: asyncio.StreamReader, words: bytearray) -> None:
    """Read all that it says, so that it never waits for a reader, and keep the end of it."""
    while piece := await stderr.read(_LAST_WORDS_BYTES):
        words += piece
        del words[:-_LAST_WORDS_BYTES]


async def _end(process: Process) -> None:
    """End it and all that it started, if it has not ended by itself."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_WITHIN_S):
                await process.wait()
