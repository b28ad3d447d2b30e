"""What tests of real processes share."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import psutil
import pytest

from core.api import ChatRequest, Content, Message
from core.wire.frames import PROTOCOL, Accepted, Done, FromReplica, Hello, Submit, Welcome
from core.wire.stream import connect


@pytest.fixture
def folder():
    """A folder with a short path, for unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="gw"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def gone():
    """Whether a process has ended."""

    def gone(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return gone


@pytest.fixture
async def submit():
    """Begin a request at a replica, past ``Accepted``; the answer's ``end`` waits for `Done`."""
    streams = []

    async def submit(socket: str, text: str = "hello"):
        stream = await connect(socket, FromReplica, max_frame_bytes=1 << 24)
        streams.append(stream)
        stream.send(Hello(protocol=PROTOCOL, fingerprint="f", peer="worker"))
        message = Message(role="user", content=(Content(text=text),))
        stream.send(Submit(request=ChatRequest(id="1", messages=(message,)), timeout_s=60))
        seen = []
        while len(seen) < 2:
            seen += await stream.receive()
        assert isinstance(seen[0], Welcome)
        assert isinstance(seen[1], Accepted), seen[1]

        async def end() -> Done:
            last = seen[-1]
            while not isinstance(last, Done):
                last = (await stream.receive())[-1]
            return last

        return end

    yield submit
    for stream in streams:
        stream.close()
