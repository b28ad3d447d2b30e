"""A real replica process: how it ends, whoever ends it, and what it says last."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from echo_backend.plugin import gateway_backends, gateway_models

from core.api import BackendSpec, ModelSpec, Sampling
from core.testing import Replica, ReplicaClient, chat, start_replica
from core.wire.exits import ExitCode
from core.wire.frames import Accepted, Done, Failed
from core.wire.stream import PeerGoneError

ECHO = gateway_backends()[0]
MODEL = gateway_models()[0]
SLOW = {"tokens": 100_000, "tokens_per_s": 100.0}

STUBBORN = """
import asyncio, threading, time
from core.api import *

class Base:
    def __init__(self, context): pass
    async def load(self): return EngineInfo()
    def load_now(self): return Load()
    async def close(self): pass
    async def stream(self, request):
        yield TextDelta(text="begun")
        await asyncio.Event().wait()

class BlocksTheLoop(Base):
    async def stream(self, request):
        yield TextDelta(text="begun")
        await asyncio.sleep(0.05)
        time.sleep(1000)

class NeverCloses(Base):
    async def close(self):
        threading.Thread(target=time.sleep, args=(1000,)).start()
        await asyncio.Event().wait()

class IgnoresCancel(Base):
    async def stream(self, request):
        yield TextDelta(text="begun")
        while True:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                pass

class StealsSignals(Base):
    async def load(self):
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return EngineInfo()

class Crashes(Base):
    async def load(self):
        import ctypes
        ctypes.string_at(0)

class LoadsWrongly(Base):
    async def load(self): return {}["weights"]
"""


@pytest.fixture
def stubborn(tmp_path, monkeypatch):
    """A backend spec for one of the engines above."""
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda name: (
        BackendSpec(name="stubborn", engine=f"stubborn:{name}"),
        ModelSpec(name="m", backend="stubborn"),
    )


@pytest.fixture
async def echo() -> AsyncIterator[Replica]:
    """A ready echo that talks slowly and for ever."""
    async with start_replica(ECHO, MODEL, settings=SLOW, drain_timeout_s=30.0) as replica:
        await replica.ready()
        yield replica


async def begin(client: ReplicaClient, **sampling: Any) -> None:
    """Submit, and wait for the first event."""
    answer = await client.submit(chat("hello big world", sampling=Sampling(**sampling)))
    assert isinstance(answer, Accepted)
    await client.receive()


async def rest(client: ReplicaClient) -> Any:
    """The last frame of a request that runs."""
    return [frame async for frame in client.frames()][-1]


async def test_kill_is_seen_as_end_of_file(echo: Replica) -> None:
    """Within a second, by who waits for the next event: the stream is broken, not ended."""
    async with echo.connected() as client:
        await begin(client)
        echo.process.kill()
        async with asyncio.timeout(1.0):
            with pytest.raises(PeerGoneError):
                await rest(client)
    assert await echo.wait() == -signal.SIGKILL


async def test_a_second_sigterm_ends_the_drain(echo: Replica) -> None:
    """The first lets the stream go on, the second fails it; the process exits with 0."""
    async with echo.connected() as client:
        await begin(client)
        echo.process.terminate()
        await echo.until(lambda status: status.draining)
        for _ in range(3):
            await client.receive()
        await asyncio.sleep(1.1)  # two within a second are one order, told by two
        echo.process.terminate()
        async with asyncio.timeout(15):  # the drain would take 30 s
            failed = await rest(client)
        assert isinstance(failed, Failed)
        assert failed.reason == "draining"
    assert await echo.wait(timeout_s=5.0) == 0


async def test_ctrl_c_is_for_the_gateway(echo: Replica) -> None:
    """SIGINT, which a terminal sends to all, changes nothing here."""
    async with echo.connected() as client:
        echo.process.send_signal(signal.SIGINT)
        await begin(client, max_tokens=5)
        assert isinstance(await rest(client), Done)


@pytest.mark.parametrize("end", [Replica.close_stdin, lambda replica: replica.process.terminate()])
async def test_the_drains_time_is_kept(end) -> None:
    """A stream that would go on is failed when the time is up, and the process exits with 0."""
    async with start_replica(ECHO, MODEL, settings=SLOW, drain_timeout_s=0.2) as replica:
        await replica.ready()
        async with replica.connected() as client:
            await begin(client)
            end(replica)
            failed = await rest(client)
        assert isinstance(failed, Failed)
        assert failed.reason == "draining"
        assert await replica.wait(timeout_s=5.0) == 0


@pytest.mark.parametrize("end", [Replica.close_stdin, lambda replica: replica.process.terminate()])
async def test_the_end_while_loading_is_quick(end) -> None:
    """Nothing runs, so there is nothing to wait for."""
    async with start_replica(ECHO, MODEL, settings={"load_s": 1000}) as replica:
        await replica.until(lambda status: status.info is None)
        end(replica)
        assert await replica.wait(timeout_s=5.0) == 0


@pytest.mark.parametrize(("engine", "code"), [("BlocksTheLoop", 1), ("IgnoresCancel", 1), ("NeverCloses", 0)])
async def test_an_orphan_always_ends(stubborn, engine: str, code: int) -> None:
    """Whatever its engine does: nobody is left who could kill it. A drain that was kept is a clean exit."""
    async with start_replica(*stubborn(engine), drain_timeout_s=0.1) as replica:
        await replica.ready()
        async with replica.connected() as client:
            await begin(client)
            await asyncio.sleep(0.1)  # for the engine to block
            replica.close_stdin()
            assert await replica.wait(timeout_s=10.0) == code


async def test_a_runtimes_signal_handlers_are_replaced(stubborn) -> None:
    """Native servers install their own when they load; SIGTERM still drains."""
    async with start_replica(*stubborn("StealsSignals")) as replica:
        await replica.ready()
        replica.process.terminate()
        assert await replica.wait(timeout_s=5.0) == 0


async def test_a_crash_leaves_last_words(stubborn) -> None:
    """A segmentation fault dumps its stacks."""
    async with start_replica(*stubborn("Crashes")) as replica:
        assert await replica.wait() == -signal.SIGSEGV
        assert "Segmentation fault" in replica.log


async def test_a_broken_engine_ends_the_process() -> None:
    """All that it served is told why, and the last line of standard error and the exit code say it too."""
    settings = {**SLOW, "break_after_tokens": 20}
    async with start_replica(ECHO, MODEL, settings=settings) as replica:
        await replica.ready()
        async with replica.connected() as first, replica.connected() as second:
            await begin(first)
            await begin(second)
            for failed in await asyncio.gather(rest(first), rest(second)):
                assert isinstance(failed, Failed)
                assert (failed.reason, failed.message) == ("engine", "break_after_tokens = 20, as configured")
        assert await replica.wait() == ExitCode.ENGINE_BROKEN
        assert replica.log.splitlines()[-1] == "break_after_tokens = 20, as configured"
        assert "Traceback" not in replica.log


# --- failed loads


@pytest.mark.parametrize(
    ("kind", "code"), [("temporary", ExitCode.LOAD_FAILED), ("permanent", ExitCode.LOAD_FAILED_FOR_GOOD)]
)
async def test_a_failed_load_is_told_three_ways(kind: str, code: int) -> None:
    """To watchers, by the exit code, and as the last line of standard error, without a traceback."""
    async with start_replica(ECHO, MODEL, settings={"fail_load": kind}) as replica:
        status = await replica.until(lambda status: status.error is not None)
        assert status.error == f"fail_load = '{kind}', as configured"
        assert status.error_permanent == (kind == "permanent")
        assert await replica.wait() == code
        assert replica.log.splitlines()[-1] == status.error
        assert "Traceback" not in replica.log


async def test_an_unforeseen_error_in_load_has_a_traceback(stubborn) -> None:
    """For the plugin's author; the last line is short."""
    async with start_replica(*stubborn("LoadsWrongly")) as replica:
        assert await replica.wait() == ExitCode.LOAD_FAILED
        assert "Traceback" in replica.log
        assert replica.log.splitlines()[-1] == "KeyError: 'weights'"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"engine": "no_such_package.engine:Engine"}, ["'no_such_package'", sys.executable]),
        ({"engine": "json:NoSuchClass"}, ["json:NoSuchClass", "NoSuchClass"]),
    ],
)
async def test_a_missing_engine_is_named(changes: dict[str, str], words: list[str]) -> None:
    """And what to install, and for which interpreter; it is permanent."""
    async with start_replica(BackendSpec(name="echo", **changes), MODEL) as replica:
        assert await replica.wait() == ExitCode.LOAD_FAILED_FOR_GOOD
        assert all(word in replica.log.splitlines()[-1] for word in words)


async def test_wrong_settings_are_named() -> None:
    """By table and key."""
    async with start_replica(ECHO, MODEL, settings={"tokens_per_second": 1}) as replica:
        assert await replica.wait() == ExitCode.LOAD_FAILED_FOR_GOOD
        assert replica.log.splitlines()[-1].startswith("[backends.echo]: tokens_per_second: there is no such key; ")


async def test_without_a_configuration_it_says_what_it_wants() -> None:
    """For who starts it by hand."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "core.engine", stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, words = await process.communicate()
    assert process.returncode == ExitCode.UNUSABLE_CONFIGURATION
    assert b"one line of JSON" in words


# --- speed


async def test_events_are_cheap() -> None:
    """Ten thousand events a second through one replica, with a wide margin for a busy machine."""
    async with start_replica(ECHO, MODEL, settings={"tokens": 20_000}) as replica:
        await replica.ready()
        async with replica.connected() as client:
            began = time.monotonic()
            frames = await client.ask(chat("hello big world"))
            assert len(frames) / (time.monotonic() - began) > 10_000
