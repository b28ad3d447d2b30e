"""``python -m core.supervisor`` as the main process's child: whoever dies first, nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from core.settings import Settings
from core.supervisor.loop import SOCKET_NAME
from core.wire.control import ControlHello, FromSupervisor
from core.wire.frames import PROTOCOL
from core.wire.stream import PeerGoneError, connect

LIMIT_BYTES = 1 << 24


class Child:
    """The supervisor process, its standard input, and what it says."""

    def __init__(self, folder, *, orphans=(), stall_timeout_s=10, **echo) -> None:
        self.log = folder / "supervisor.log"
        self.run_dir = folder / "run"
        self.run_dir.mkdir(exist_ok=True)
        settings = Settings(
            plugins={"allow": ("builtin", "echo")},
            supervisor={
                "status_interval_s": 0.05,
                "stall_timeout_s": stall_timeout_s,
                "backoff_initial_s": 0.1,
                "drain_timeout_s": 20,
                "kill_after_s": 2,
                "log_dir": str(folder / "logs"),
            },
            admin={"database": str(folder / "overrides.sqlite3")},
            backends={"echo": echo},
        )
        order = {
            "run_dir": str(self.run_dir),
            "settings": settings.model_dump(mode="json"),
            "orphans": list(orphans),
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "core.supervisor"], stdin=subprocess.PIPE, stderr=log, start_new_session=True
            )
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    async def ready(self):
        """Wait until the echo replica serves; return its status."""
        return await self.until("ready")

    async def until(self, state, *, restarts=0):
        """Wait until the echo replica is in this state; return its status."""
        async with asyncio.timeout(45):
            while True:
                try:
                    async for replica in self._reports():
                        if (replica.state, replica.restarts) == (state, restarts):
                            return replica
                except (OSError, PeerGoneError):
                    assert self.process.poll() is None, "the supervisor ended"
                    await asyncio.sleep(0.02)

    async def _reports(self):
        stream = await connect(str(self.run_dir / SOCKET_NAME), FromSupervisor, max_frame_bytes=LIMIT_BYTES)
        try:
            stream.send(ControlHello(protocol=PROTOCOL, fingerprint="f", pid=os.getpid()))
            while True:
                snapshot = (await stream.receive())[-1]
                if snapshot.supervisor_pid == self.process.pid:
                    yield snapshot.deployments[0].replicas[0]
        finally:
            stream.close()

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, 30)


@pytest.fixture
async def start(folder):
    children = []

    def start(**options) -> Child:
        children.append(Child(folder, **options))
        return children[-1]

    yield start
    for child in children:
        child.process.stdin.close()
        try:
            child.process.wait(30)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
            raise
        assert "Traceback" not in (said := child.log.read_text()), said


@pytest.fixture
def sleeper():
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


async def test_it_brings_a_killed_replica_back(start):
    child = start()
    before = await child.ready()
    os.kill(before.pid, signal.SIGKILL)
    after = await child.until("ready", restarts=1)
    assert after.pid != before.pid
    assert "killed by SIGKILL" in child.log.read_text()


async def test_a_pause_of_the_supervisor_costs_no_replica(start, until):
    child = start(stall_timeout_s=2)
    before = await child.ready()
    child.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(3.5)  # the pause itself; nothing is waited for
    child.process.send_signal(signal.SIGCONT)
    await until(lambda: "did not run for" in child.log.read_text())
    after = await child.ready()
    assert after.pid == before.pid


async def test_when_the_main_process_is_gone_all_is_drained_and_cleared_away(start, submit, gone, sleeper):
    child = start(orphans=[sleeper.pid], tokens=10, tokens_per_s=20)
    replica = await child.ready()
    end = await submit(replica.socket)
    child.process.stdin.close()
    await end()
    assert await child.ended() == 0
    assert gone(replica.pid)
    assert not child.run_dir.exists()
    assert sleeper.wait(5) == -signal.SIGKILL


async def test_sigterm_drains_and_leaves_the_rest_to_the_main_process(start, submit, gone, sleeper):
    child = start(orphans=[sleeper.pid], tokens=10, tokens_per_s=20)
    replica = await child.ready()
    end = await submit(replica.socket)
    child.process.send_signal(signal.SIGINT)  # Ctrl-C is not for it
    child.process.terminate()
    await end()
    assert await child.ended() == 0
    assert gone(replica.pid)
    assert child.run_dir.exists()
    assert sleeper.poll() is None


async def test_a_second_sigterm_does_not_wait(start, submit, gone):
    child = start(tokens=10_000, tokens_per_s=20)
    replica = await child.ready()
    end = await submit(replica.socket)
    began_s = time.monotonic()
    child.process.terminate()
    await child.until("draining")  # two signals at once would be one
    child.process.terminate()
    assert await child.ended() == 0
    assert time.monotonic() - began_s < 15
    assert gone(replica.pid)
    with pytest.raises(PeerGoneError):
        await end()


async def test_a_killed_supervisor_leaves_replicas_that_drain_and_its_successor_serves(start, submit, gone, until):
    first = start(tokens=100, tokens_per_s=20)
    before = await first.ready()
    end = await submit(before.socket)
    first.process.kill()
    first.process.wait()
    second = start()
    after = await second.ready()
    assert after.pid != before.pid
    assert after.socket != before.socket
    assert not gone(before.pid)  # it still serves what it had
    await end()
    await until(lambda: gone(before.pid))
    second.process.terminate()
    assert await second.ended() == 0
    assert gone(after.pid)


async def test_an_order_that_makes_no_sense_is_refused():
    for order, complaint in ((b"", b"cannot start"), (b'{"run_dir": "x", "settings": {"nonsense": 1}}\n', b"nonsense")):
        process = subprocess.run(
            [sys.executable, "-m", "core.supervisor"], input=order, capture_output=True, check=False, timeout=20
        )
        assert process.returncode == 2
        assert complaint in process.stderr
