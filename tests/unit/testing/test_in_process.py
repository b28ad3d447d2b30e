"""Replicas that are tasks live, drain and die as those that are processes do."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from echo_backend.plugin import gateway_backends, gateway_models

from core.api import ReplicaExit
from core.testing import InProcessLauncher, ReplicaClient, chat, replica_config
from core.testing.in_process import InProcessReplica
from core.wire.exits import ExitCode
from core.wire.frames import Accepted, Done, Rejected, TextDelta
from core.wire.stream import PeerGoneError

BACKEND, MODEL = gateway_backends()[0], gateway_models()[0]
SLOW = {"tokens": 1000, "tokens_per_s": 100.0}
Launch = Callable[..., Any]


@pytest.fixture
async def launch() -> AsyncGenerator[Launch, None]:
    """Start a replica; returns it, its configuration, and what connects to it."""
    folder = Path(tempfile.mkdtemp(prefix="gw"))
    launcher = InProcessLauncher()

    async def launch(settings: dict[str, Any] | None = None, **more: Any) -> tuple[InProcessReplica, Any]:
        config = replica_config(BACKEND, MODEL, folder, settings=settings, **more)
        replica = await launcher.launch(config, python=None)

        async def client() -> ReplicaClient:
            while not Path(config.socket).exists():
                await asyncio.sleep(0.001)
            return await ReplicaClient.connect(config)

        return replica, client

    yield launch
    for replica in list(launcher.running.values()):
        replica.kill()
        await replica.wait()
    assert not launcher.running
    assert len(asyncio.all_tasks()) == 1, "something of a replica lives on"
    shutil.rmtree(folder)


async def serving(client: Callable[[], Any]) -> ReplicaClient:
    connected: ReplicaClient = await client()
    async for status in connected.watch():
        if status.info is not None:
            break
    connected.close()
    again: ReplicaClient = await client()
    return again


async def collect_text(client: ReplicaClient) -> None:
    while True:
        assert isinstance(await client.receive(), TextDelta)


async def test_serves(launch: Launch) -> None:
    """Over a real socket, in the frames of a real replica."""
    _, client = await launch()
    *said, end = await (await serving(client)).ask(chat("a b"))
    assert "".join(event.text for event in said if isinstance(event, TextDelta)) == "a b"
    assert isinstance(end, Done)


async def test_a_kill_is_seen_at_once_and_says_nothing(launch: Launch) -> None:
    """The stream breaks in its middle, without a `Failed`; the exit is a signal's; nobody can connect."""
    replica, client = await launch(SLOW)
    asking = await serving(client)
    assert isinstance(await asking.submit(chat("a")), Accepted)
    await asking.receive()
    replica.kill()
    with pytest.raises(PeerGoneError):
        await collect_text(asking)
    assert await replica.wait() == ReplicaExit(signal="SIGKILL")
    with pytest.raises((OSError, TimeoutError)):
        async with asyncio.timeout(0.2):
            await client()


async def test_a_kill_before_its_first_turn(launch: Launch) -> None:
    """Is an end like any other."""
    replica, _ = await launch()
    replica.kill()
    assert await asyncio.wait_for(replica.wait(), 5) == ReplicaExit(signal="SIGKILL")


async def test_drains_when_told_to_end(launch: Launch) -> None:
    """What runs goes on to its end, what comes is refused."""
    replica, client = await launch({"tokens": 20, "tokens_per_s": 100.0})
    running, late = await serving(client), await client()
    assert isinstance(await running.submit(chat("a")), Accepted)
    replica.terminate()
    assert isinstance(await late.submit(chat("b")), Rejected)
    late.close()
    *_, end = [frame async for frame in running.frames()]
    assert isinstance(end, Done)
    running.close()
    assert await replica.wait() == ReplicaExit(code=ExitCode.DRAINED)


@pytest.mark.parametrize("before_it_listens", [True, False])
async def test_ends_while_it_loads(launch: Launch, before_it_listens: bool) -> None:
    """Told so before its first turn, or in the middle of loading."""
    replica, client = await launch({"load_s": 60})
    if not before_it_listens:
        (await client()).close()
    replica.terminate()
    assert await asyncio.wait_for(replica.wait(), 5) == ReplicaExit(code=ExitCode.DRAINED)


@pytest.mark.parametrize(
    ("kind", "code"), [("temporary", ExitCode.LOAD_FAILED), ("permanent", ExitCode.LOAD_FAILED_FOR_GOOD)]
)
async def test_says_why_it_could_not_load(launch: Launch, kind: str, code: ExitCode) -> None:
    """By the exit code, and in the words that a process leaves on its standard error."""
    replica, _ = await launch({"fail_load": kind})
    end = await replica.wait()
    assert (end.code, "fail_load" in end.stderr_tail) == (code, True)


async def test_a_replica_has_one_life(launch: Launch) -> None:
    """A second one beside the first is the caller's mistake."""
    await launch()
    with pytest.raises(AssertionError, match="two lives"):
        await launch()
