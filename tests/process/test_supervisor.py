"""The supervisor with real replica processes of the echo backend: whatever is done to them, it puts right."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from echo_backend.plugin import EchoSettings, gateway_backends

from core.api import BackendSettings, ModelSpec
from core.routing.table import Deployment
from core.settings import Settings
from core.supervisor.local import LocalLauncher
from core.supervisor.loop import SOCKET_NAME, Supervisor
from core.wire.frames import (
    PROTOCOL,
    ControlHello,
    Done,
    EnsureReady,
    Snapshot,
)
from core.wire.stream import PeerGoneError, connect

LIMIT_BYTES = 1 << 24
TIMING = {
    "backoff_initial_s": 0.1,
    "backoff_max_s": 0.4,
    "crash_loop_failures": 3,
    "healthy_after_s": 30,
    "failed_retry_s": 60,
    "load_timeout_s": 15,
    "stall_timeout_s": 10,
    "drain_timeout_s": 5,
    "kill_after_s": 1,
    "status_interval_s": 0.05,
}


def echo(name="echo", *, load="startup", source=None, replicas=1, idle_unload_s=None, python=None, **settings):
    return Deployment(
        spec=ModelSpec(name=name, backend="echo", load=load, source=source),
        backend=gateway_backends()[0],
        settings=EchoSettings(**settings),
        python=python,
        replicas=replicas,
        idle_unload_s=idle_unload_s,
        declared_by="test",
    )


class CountingLauncher(LocalLauncher):
    """The real one; remembers what it launched."""

    def __init__(self) -> None:
        super().__init__(BackendSettings())
        self.launches: Counter[str] = Counter()
        self.pids: list[int] = []

    async def launch(self, config, *, python):
        self.launches[config.replica] += 1
        process = await super().launch(config, python=python)
        self.pids.append(process.pid)
        return process


class House:
    """A supervisor at work, and a way to see what it says."""

    def __init__(self, folder: Path, deployments, timing, observers=()) -> None:
        self.run_dir = folder / "run"
        self.log_dir = folder / "logs"
        self.launcher = CountingLauncher()
        settings = Settings(supervisor={**TIMING, "log_dir": str(self.log_dir), **timing})
        self.supervisor = Supervisor(
            deployments={deployment.id: deployment for deployment in deployments},
            fingerprint="f",
            settings=settings,
            launcher=self.launcher,
            observers=observers,
            run_dir=self.run_dir,
        )
        self.running = asyncio.create_task(self.supervisor.run())

    def replica(self, name="echo", index=0):
        deployments = {one.deployment: one for one in self.supervisor.snapshot().deployments}
        return deployments[f"{name}@echo"].replicas[index]

    async def until(self, state, name="echo", *, within_s=15.0, **fields):
        """Wait until the replica is in ``state`` (and has ``fields``); return its status."""
        limit = time.monotonic() + within_s
        while True:
            replica = self.replica(name)
            if replica.state == state and all(getattr(replica, key) == value for key, value in fields.items()):
                return replica
            assert time.monotonic() < limit, f"not {state} {fields} but {replica}; it said:\n{self.log(name)}"
            await asyncio.sleep(0.01)

    def log(self, name) -> str:
        file = self.log_dir / f"{name}@echo#0.log"
        return file.read_text() if file.exists() else ""

    async def control(self):
        stream = await connect(str(self.run_dir / SOCKET_NAME), Snapshot, max_frame_bytes=LIMIT_BYTES)
        stream.send(ControlHello(protocol=PROTOCOL, fingerprint="f", pid=os.getpid()))
        return stream

    async def stop(self) -> None:
        self.supervisor.stop()
        await asyncio.wait_for(self.running, 15)


@pytest.fixture
async def house(folder):
    houses = []

    async def build(*deployments, observers=(), **timing):
        houses.append(House(folder, deployments, timing, observers))
        while not (houses[-1].run_dir / SOCKET_NAME).exists():
            await asyncio.sleep(0.005)
        return houses[-1]

    yield build
    for one in houses:
        one.supervisor.kill()
        await asyncio.wait_for(one.running, 15)
        assert not [pid for pid in one.launcher.pids if psutil.pid_exists(pid)], "a process was left behind"
        assert not list((one.run_dir / "r").iterdir()), "a socket or scratch folder was left behind"


async def until(condition, *, within_s=10.0):
    limit = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        await asyncio.sleep(0.01)


def script(folder: Path, body: str) -> str:
    """An interpreter that is none."""
    file = folder / "python.sh"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return str(file)


# --- deaths


async def test_a_killed_replica_is_seen_at_once_and_comes_back(house, submit):
    here = await house(echo())
    before = await here.until("ready")
    control = await here.control()
    await control.receive()
    os.kill(before.pid, signal.SIGKILL)
    killed_s = time.monotonic()
    while (await control.receive())[-1].deployments[0].state == "ready":
        pass
    seen_after_s = time.monotonic() - killed_s
    dead = here.replica()
    assert (dead.state, dead.socket) == ("starting", None)
    assert "SIGKILL" in dead.reason
    after = await here.until("ready")
    assert seen_after_s < 0.2
    assert after.restarts == 1
    assert after.pid != before.pid
    assert after.socket != before.socket
    end = await submit(after.socket)
    await end()
    control.close()


async def test_a_death_does_not_touch_the_neighbours(house):
    here = await house(echo("a"), echo("b"))
    a, b = await here.until("ready", "a"), await here.until("ready", "b")
    os.kill(a.pid, signal.SIGKILL)
    await here.until("ready", "a", restarts=1)
    assert here.replica("b").pid == b.pid
    assert here.launcher.launches == {"a@echo#0": 2, "b@echo#0": 1}


async def test_a_crash_loop_ends_in_failed_with_the_last_words(house, folder):
    python = script(folder, "echo warming up >&2; echo no kernel image for this device >&2; exit 7")
    here = await house(echo(python=python))
    failed = await here.until("failed")
    assert here.launcher.launches == {"echo@echo#0": 3}
    assert failed.reason == "exit code 7: warming up | no kernel image for this device"
    assert 50 < failed.retry_in_s <= 60
    assert here.log("echo").count("warming up") == 3


async def test_a_failed_replica_is_tried_again_and_serves_once_the_cause_is_gone(house, folder):
    python = script(folder, "exit 7")
    here = await house(echo(python=python), failed_retry_s=0.2)
    await here.until("failed")
    Path(python).write_text(f'#!/bin/sh\nexec {os.sys.executable} "$@"\n')
    await here.until("ready")


async def test_an_engine_that_can_never_load_is_not_tried_again(house):
    here = await house(echo(fail_load="permanent"))
    failed = await here.until("failed")
    assert (failed.retry_in_s, here.launcher.launches) == (None, {"echo@echo#0": 1})
    assert "as configured" in failed.reason


async def test_an_interpreter_that_is_not_there_is_a_reason_not_an_accident(house):
    here = await house(echo(python="/nowhere/python"))
    failed = await here.until("failed")
    assert failed.reason.startswith("cannot be launched: ")
    assert "/nowhere/python" in failed.reason


async def test_children_of_a_dead_replica_do_not_stay(house, folder, gone):
    note = folder / "pid"
    here = await house(echo(python=script(folder, f"sleep 1000 & echo $! >> {note}; exit 1")))
    await here.until("failed")
    children = [int(line) for line in note.read_text().split()]
    assert len(children) == 3
    await until(lambda: all(gone(child) for child in children))


# --- hangs


async def test_a_replica_that_hangs_at_work_is_killed_and_restarted(house, submit):
    here = await house(echo(hang_after_tokens=1, tokens=50), stall_timeout_s=0.6)
    before = await here.until("ready")
    end = await submit(before.socket)
    after = await here.until("ready", restarts=1)
    assert after.pid != before.pid
    with pytest.raises(PeerGoneError):
        await end()


async def test_a_stopped_process_is_killed_and_restarted(house, gone):
    here = await house(echo(), stall_timeout_s=0.6)
    before = await here.until("ready")
    os.kill(before.pid, signal.SIGSTOP)
    await here.until("ready", restarts=1)
    assert gone(before.pid)


async def test_a_replica_that_takes_too_long_to_load_is_killed(house):
    here = await house(echo(load_s=60), load_timeout_s=1.5, crash_loop_failures=1)
    failed = await here.until("failed")
    assert failed.reason == "was not ready within 1.5 s"


# --- on demand


async def test_a_hundred_workers_that_want_it_first_start_one_process(house):
    here = await house(echo(load="on_demand", load_s=0.3))
    assert here.replica().state == "stopped"
    controls = [await here.control() for _ in range(100)]
    for control in controls:
        control.send(EnsureReady(deployment="echo@echo"))
        control.send(EnsureReady(deployment="unknown@echo"))
    for control in controls:
        while (await control.receive())[-1].deployments[0].state != "ready":
            pass
        control.close()
    assert here.launcher.launches == {"echo@echo#0": 1}


async def test_each_replica_of_a_deployment_is_its_own_process(house):
    here = await house(echo(replicas=2))
    await until(lambda: all(here.replica(index=index).state == "ready" for index in (0, 1)))
    first, second = here.replica(), here.replica(index=1)
    assert (first.replica, second.replica) == ("echo@echo#0", "echo@echo#1")
    assert first.pid != second.pid


async def test_an_idle_replica_is_unloaded_and_loaded_again_on_demand(house, gone):
    here = await house(echo(idle_unload_s=0.4))
    before = await here.until("ready")
    await here.until("stopped")
    assert gone(before.pid)
    here.supervisor.ensure_ready("echo@echo")
    after = await here.until("ready")
    assert (after.restarts, here.launcher.launches) == (0, {"echo@echo#0": 2})


async def test_a_request_in_flight_is_never_unloaded(house, submit):
    here = await house(echo(idle_unload_s=0.3, tokens=24, tokens_per_s=20))
    ready = await here.until("ready")
    end = await submit(ready.socket)
    assert isinstance(await end(), Done)  # four idle times later
    assert here.replica().pid == ready.pid
    await here.until("stopped")


async def test_weights_that_appear_are_noticed(house, folder):
    weights = folder / "weights.bin"
    here = await house(echo(source=str(weights)))
    absent = here.replica()
    assert absent.state == "absent"
    assert "python -m core pull echo" in absent.reason
    weights.write_bytes(b"w")
    await here.until("ready")


# --- the end


async def test_stop_lets_running_requests_finish_and_leaves_no_process(house, submit, gone):
    here = await house(echo("a", tokens=15, tokens_per_s=20), echo("b"))
    ready = await here.until("ready", "a")
    await here.until("ready", "b")
    control = await here.control()
    end = await submit(ready.socket)
    here.supervisor.stop()
    here.supervisor.stop()
    while not (snapshot := (await control.receive())[-1]).draining:
        pass
    assert snapshot.deployments[0].state == "draining"
    assert isinstance(await end(), Done)
    await asyncio.wait_for(here.running, 5)
    assert all(gone(pid) for pid in here.launcher.pids)


async def test_stop_ends_a_replica_that_loads_and_one_that_waits_for_its_restart(house, folder):
    broken = echo("broken", python=script(folder, "exit 1"))
    here = await house(echo("slow", load_s=60), broken, backoff_initial_s=100, backoff_max_s=100)
    await until(lambda: here.replica("broken").retry_in_s is not None and here.replica("slow").pid)
    began_s = time.monotonic()
    await here.stop()
    assert time.monotonic() - began_s < 3


async def test_a_group_that_ignores_sigterm_is_killed_with_its_children(house, folder, gone):
    note = folder / "pid"
    body = f"trap '' TERM; sleep 1000 & echo $! > {note}; wait; wait"
    here = await house(echo(python=script(folder, body)), kill_after_s=0.3)
    await until(note.exists)
    await until(lambda: note.read_text().strip())
    await here.stop()
    await until(lambda: gone(int(note.read_text())))


async def test_a_cancelled_supervisor_leaves_no_process(house, gone):
    here = await house(echo())
    await here.until("ready")
    here.running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await here.running
    assert all(gone(pid) for pid in here.launcher.pids)
    here.running = asyncio.create_task(asyncio.sleep(0))


async def test_an_observer_is_told_of_each_change_and_cannot_break_anything(house):
    class Broken:
        def __init__(self) -> None:
            self.seen = []

        def replica_changed(self, change) -> None:
            self.seen.append((change.before, change.after))
            raise RuntimeError

        def request_finished(self, record) -> None:
            raise AssertionError

    observer = Broken()
    here = await house(echo(), observers=[observer])
    await here.until("ready")
    await here.stop()
    assert observer.seen == [
        ("absent", "starting"),
        ("starting", "ready"),
        ("ready", "draining"),
        ("draining", "stopped"),
    ]
