"""The supervisor with real replica processes of the echo backend: when they start, unload and end."""

from __future__ import annotations

import asyncio
import contextlib
import time

from core.wire.control import EnsureReady
from core.wire.frames import Done

# --- on demand


async def test_a_hundred_workers_that_want_it_first_start_one_process(house, echo):
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


async def test_each_replica_of_a_deployment_is_its_own_process(house, echo, until):
    here = await house(echo(replicas=2))
    await until(lambda: all(here.replica(index=index).state == "ready" for index in (0, 1)))
    first, second = here.replica(), here.replica(index=1)
    assert (first.replica, second.replica) == ("echo@echo#0", "echo@echo#1")
    assert first.pid != second.pid


async def test_an_idle_replica_is_unloaded_and_loaded_again_on_demand(house, echo, gone):
    here = await house(echo(idle_unload_s=0.4))
    before = await here.until("ready")
    await here.until("stopped")
    assert gone(before.pid)
    here.supervisor.ensure_ready("echo@echo")
    after = await here.until("ready")
    assert (after.restarts, here.launcher.launches) == (0, {"echo@echo#0": 2})


async def test_a_request_in_flight_is_never_unloaded(house, echo, submit):
    here = await house(echo(idle_unload_s=0.3, tokens=24, tokens_per_s=20))
    ready = await here.until("ready")
    end = await submit(ready.socket)
    assert isinstance(await end(), Done)  # four idle times later
    assert here.replica().pid == ready.pid
    await here.until("stopped")


async def test_weights_that_appear_are_noticed(house, echo, folder):
    weights = folder / "weights.bin"
    here = await house(echo(source=str(weights)))
    absent = here.replica()
    assert absent.state == "absent"
    assert "there is nothing at " in absent.reason
    weights.write_bytes(b"w")
    await here.until("ready")


# --- the end


async def test_stop_lets_running_requests_finish_and_leaves_no_process(house, echo, submit, gone):
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


async def test_stop_ends_a_replica_that_loads_and_one_that_waits_for_its_restart(house, echo, script, until):
    broken = echo("broken", python=script("exit 1"))
    here = await house(echo("slow", load_s=60), broken, backoff_initial_s=100, backoff_max_s=100)
    await until(lambda: here.replica("broken").retry_in_s is not None and here.replica("slow").pid)
    began_s = time.monotonic()
    await here.stop()
    assert time.monotonic() - began_s < 20


async def test_a_group_that_ignores_sigterm_is_killed_with_its_children(house, echo, *, folder, script, gone, until):
    note = folder / "pid"
    body = f"trap '' TERM; sleep 1000 & echo $! > {note}; wait; wait"
    here = await house(echo(python=script(body)), kill_after_s=0.3)
    await until(note.exists)
    await until(lambda: note.read_text().strip())
    await here.stop()
    await until(lambda: gone(int(note.read_text())))


async def test_a_cancelled_supervisor_leaves_no_process(house, echo, gone):
    here = await house(echo())
    await here.until("ready")
    here.running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await here.running
    assert all(gone(pid) for pid in here.launcher.pids)
    here.running = asyncio.create_task(asyncio.sleep(0))


async def test_an_observer_is_told_of_each_change_and_cannot_break_anything(house, echo):
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
