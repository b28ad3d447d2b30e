"""A real replica process, and a client that speaks to it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from core.api.messages import EngineInfo
from core.api.protocols import ReplicaConfig
from core.api.requests import EngineRequest
from core.api.specs import BackendSpec, ModelSpec
from core.wire.frames import (
    PROTOCOL,
    Accepted,
    Done,
    Failed,
    FromReplica,
    Hello,
    Rejected,
    Status,
    Submit,
    Watch,
    Welcome,
)
from core.wire.stream import FrameStream, PeerGoneError, connect

__all__ = ["Replica", "ReplicaClient", "replica_config", "start_replica"]

_POLL_S = 0.02


class ReplicaClient:
    """One connection to a replica; speaks the protocol of `core.wire.frames` as an HTTP worker does."""

    def __init__(self, stream: FrameStream[FromReplica]) -> None:
        self.stream = stream
        self._unread: deque[FromReplica] = deque()

    @classmethod
    async def connect(cls, config: ReplicaConfig) -> ReplicaClient:
        """Connect and say hello.

        Raises:
            OSError: nobody listens.
            PeerGoneError: the replica hung up.
        """
        stream: FrameStream[FromReplica] = await connect(
            config.socket,
            FromReplica,  # type: ignore[arg-type]  # a union is a type to msgspec, not yet to mypy
            max_frame_bytes=config.max_frame_bytes,
        )
        client = cls(stream)
        stream.send(Hello(protocol=PROTOCOL, fingerprint=config.fingerprint, peer="worker"))
        welcome = await client.receive()
        assert isinstance(welcome, Welcome), welcome
        return client

    async def receive(self) -> FromReplica:
        """Return the next frame.

        Raises:
            PeerGoneError: there will be none.
        """
        while not self._unread:
            self._unread.extend(await self.stream.receive())
        return self._unread.popleft()

    async def submit(self, request: EngineRequest, *, timeout_s: float = 60.0) -> Accepted | Rejected:
        """Submit a request and return the replica's decision."""
        self.stream.send(Submit(request=request, timeout_s=timeout_s))
        answer = await self.receive()
        assert isinstance(answer, Accepted | Rejected), answer
        return answer

    async def frames(self) -> AsyncGenerator[FromReplica, None]:
        """Yield what follows `Accepted`, the closing `Done` or `Failed` included."""
        while True:
            frame = await self.receive()
            yield frame
            if isinstance(frame, Done | Failed):
                return

    async def ask(self, request: EngineRequest, *, timeout_s: float = 60.0) -> list[FromReplica]:
        """Submit and return all frames after `Accepted`; a rejection is the only frame then."""
        decision = await self.submit(request, timeout_s=timeout_s)
        if isinstance(decision, Rejected):
            return [decision]
        return [frame async for frame in self.frames()]

    async def watch(self, interval_s: float = _POLL_S) -> AsyncGenerator[Status, None]:
        """Yield the replica's reports."""
        self.stream.send(Watch(interval_s=interval_s))
        while True:
            frame = await self.receive()
            assert isinstance(frame, Status), frame
            yield frame

    def close(self) -> None:
        """Hang up, which cancels what runs."""
        self.stream.close()


class Replica:
    """A started replica process."""

    def __init__(self, process: asyncio.subprocess.Process, config: ReplicaConfig, log: Path) -> None:
        self.process = process
        self.config = config
        self._log = log

    @property
    def log(self) -> str:
        """What it has written to its standard error."""
        return self._log.read_text(errors="replace")

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[ReplicaClient]:
        """A connection; waits until the replica listens.

        Raises:
            AssertionError: the process ended instead.
        """
        while True:
            try:
                client = await ReplicaClient.connect(self.config)
            except (FileNotFoundError, ConnectionRefusedError, PeerGoneError):
                assert self.process.returncode is None, f"the replica ended ({self.process.returncode}):\n{self.log}"
                await asyncio.sleep(_POLL_S)
            else:
                break
        try:
            yield client
        finally:
            client.close()

    async def until(self, test: Callable[[Status], bool], *, timeout_s: float = 180.0) -> Status:
        """Wait for a report that passes ``test``, and return it.

        Raises:
            AssertionError: none came in time, or loading failed and the test does not want to see that.
        """
        seen: Status | None = None
        try:
            async with asyncio.timeout(timeout_s), self.connected() as client:
                async for seen in client.watch():
                    if test(seen):
                        return seen
                    assert seen.error is None, seen.error
        except TimeoutError:
            pass
        msg = f"not within {timeout_s} s; the last report was {seen}"
        raise AssertionError(msg)

    async def ready(self) -> EngineInfo:
        """Wait until the model is loaded."""
        info = (await self.until(lambda status: status.info is not None)).info
        assert info is not None
        return info

    async def wait(self, *, timeout_s: float = 30.0) -> int:
        """Wait for the end of the process and return its exit code, negative for a signal.

        Raises:
            TimeoutError: it lives on.
        """
        async with asyncio.timeout(timeout_s):
            return await self.process.wait()

    def close_stdin(self) -> None:
        """What happens when the supervisor dies."""
        assert self.process.stdin is not None
        self.process.stdin.close()


def replica_config(
    backend: BackendSpec,
    model: ModelSpec,
    folder: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    weights: Path | None = None,
    **more: Any,
) -> ReplicaConfig:
    """The configuration of a replica that lives in ``folder``; ``more`` are fields of `ReplicaConfig`."""
    return ReplicaConfig(
        replica=f"{model.deployment}#0",
        model=model,
        engine=backend.engine,
        settings_class=f"{backend.settings.__module__}:{backend.settings.__qualname__}",
        settings=dict(settings or {}),
        weights=None if weights is None else str(weights),
        socket=str(folder / "r.sock"),
        scratch=str(folder),
        fingerprint="test",
        **more,
    )


@contextlib.asynccontextmanager
async def start_replica(
    backend: BackendSpec,
    model: ModelSpec,
    *,
    settings: Mapping[str, Any] | None = None,
    weights: Path | None = None,
    **more: Any,
) -> AsyncIterator[Replica]:
    """Start ``python -m core.engine`` and return at once; the process is killed at the end.

    ``more`` are fields of `ReplicaConfig`, such as ``max_waiting`` or ``drain_timeout_s``.
    """
    folder = Path(tempfile.mkdtemp(prefix="replica-"))
    config = replica_config(backend, model, folder, settings=settings, weights=weights, **more)
    log = folder / "stderr.log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "core.engine", stdin=asyncio.subprocess.PIPE, stderr=stderr
        )
    try:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(config) + b"\n")
        await process.stdin.drain()
        yield Replica(process, config, log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        shutil.rmtree(folder, ignore_errors=True)
