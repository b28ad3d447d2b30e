"""The supervisor with real replica processes of the echo backend: deaths and hangs are put right."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from core.wire.stream import PeerGoneError

# --- deaths


async def test_a_killed_replica_is_seen_at_once_and_comes_back(house, echo, submit):
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
    after = await here.until("ready", restarts=1)
    assert seen_after_s < 0.5  # milliseconds, but on a busy machine
    assert after.restarts == 1
    assert after.pid != before.pid
    assert after.socket != before.socket
    end = await submit(after.socket)
    await end()
    control.close()


async def test_a_death_does_not_touch_the_neighbours(house, echo):
    here = await house(echo("a"), echo("b"))
    a, b = await here.until("ready", "a"), await here.until("ready", "b")
    os.kill(a.pid, signal.SIGKILL)
    await here.until("ready", "a", restarts=1)
    assert here.replica("b").pid == b.pid
    assert here.launcher.launches == {"a@echo#0": 2, "b@echo#0": 1}


async def test_a_crash_loop_ends_in_failed_with_the_last_words(house, echo, script):
    python = script("echo warming up >&2; echo no kernel image for this device >&2; exit 7")
    here = await house(echo(python=python))
    failed = await here.until("failed")
    assert here.launcher.launches == {"echo@echo_echo#0": 3}
    assert failed.reason == "exit code 7: warming up | no kernel image for this device"
    assert 50 < failed.retry_in_s <= 60
    assert here.log("echo").count("warming up") == 3


async def test_a_failed_replica_is_tried_again_and_serves_once_the_cause_is_gone(house, echo, script):
    python = script("exit 7")
    here = await house(echo(python=python), failed_retry_s=0.2)
    await here.until("failed")
    Path(python).write_text(f'#!/bin/sh\nexec {os.sys.executable} "$@"\n')
    await here.until("ready")


async def test_an_engine_that_can_never_load_is_not_tried_again(house, echo):
    here = await house(echo(fail_load="permanent"))
    failed = await here.until("failed")
    assert (failed.retry_in_s, here.launcher.launches) == (None, {"echo@echo#0": 1})
    assert "as configured" in failed.reason


async def test_an_interpreter_that_is_not_there_is_a_reason_not_an_accident(house, echo):
    here = await house(echo(python="/nowhere/python"))
    failed = await here.until("failed")
    assert failed.reason.startswith("cannot be launched: ")
    assert "/nowhere/python" in failed.reason


async def test_children_of_a_dead_replica_do_not_stay(house, echo, *, folder, script, gone, until):
    note = folder / "pid"
    here = await house(echo(python=script(f"sleep 1000 & echo $! >> {note}; exit 1")))
    await here.until("failed")
    children = [int(line) for line in note.read_text().split()]
    assert len(children) == 3
    await until(lambda: all(gone(child) for child in children))


# --- broken engines


async def test_a_replica_whose_engine_breaks_ends_and_comes_back(house, echo, submit):
    here = await house(echo(break_after_tokens=2))
    before = await here.until("ready")
    control = await here.control()
    await control.receive()
    end = await submit(before.socket, "a b c d")
    while (broken := (await control.receive())[-1].deployments[0].replicas[0]).state == "ready":
        pass
    control.close()
    assert (broken.state, broken.reason, broken.socket) == ("starting", "break_after_tokens = 2, as configured", None)
    with pytest.raises(PeerGoneError):
        await end()
    after = await here.until("ready", restarts=1)
    assert (after.restarts, after.pid != before.pid) == (1, True)
    await (await submit(after.socket, "a"))()


# --- hangs


async def test_a_replica_that_hangs_at_work_is_killed_and_restarted(house, echo, submit):
    here = await house(echo(hang_after_tokens=1, tokens=50), stall_timeout_s=0.6)
    before = await here.until("ready")
    end = await submit(before.socket)
    after = await here.until("ready", restarts=1)
    assert after.pid != before.pid
    with pytest.raises(PeerGoneError):
        await end()


async def test_a_stopped_process_is_killed_and_restarted(house, echo, gone):
    here = await house(echo(), stall_timeout_s=0.6)
    before = await here.until("ready")
    os.kill(before.pid, signal.SIGSTOP)
    await here.until("ready", restarts=1)
    assert gone(before.pid)


async def test_a_replica_that_takes_too_long_to_load_is_killed(house, echo):
    here = await house(echo(load_s=60), load_timeout_s=1.5, crash_loop_failures=1)
    failed = await here.until("failed")
    assert failed.reason == "was not ready within 1.5 s"
