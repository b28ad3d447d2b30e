"""What does not fit into memory waits for idle deployments to leave, or is refused: real processes, real memory."""

from __future__ import annotations

import asyncio
import logging

import psutil
import pytest

MIB = 1 << 20
EACH = 200 * MIB
"""What a replica takes, and a bit: the interpreter is some 50 MiB of it."""
LIMIT = {"memory_limit_bytes": 300 * MIB}
BIG = {"memory_bytes": EACH, "ballast_bytes": 140 * MIB}


def used_bytes(house) -> int:
    """What the replicas that are there take now; one that is just ending takes nothing."""
    total = 0
    for pid in house.launcher.pids:
        try:
            total += psutil.Process(pid).memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def status(house, name):
    found = {one.deployment: one for one in house.supervisor.snapshot().deployments}
    return found[f"{name}@echo"]


async def ask(house, name):
    """What a request does; return how it came out: ready, or refused."""
    house.supervisor.ensure_ready(f"{name}@echo")
    while True:
        replica = house.replica(name)
        if replica.state == "ready" or (replica.state == "stopped" and replica.retry_in_s is not None):
            return replica
        await asyncio.sleep(0.01)


async def asked_for(house, name):
    """What a patient client does: ask again when it is refused."""
    while (replica := await ask(house, name)).state != "ready":
        await asyncio.sleep(replica.retry_in_s)
    return replica


async def test_requests_alternate_between_two_that_do_not_fit_together(house, echo, submit):
    here = await house(echo("a", load="on_demand", **BIG), echo("b", load="on_demand", **BIG), **LIMIT)
    most = 0
    async with asyncio.timeout(60):
        for name in "ab" * 3:
            replica = await asked_for(here, name)
            most = max(most, used_bytes(here))
            await (await submit(replica.socket))()
            other = "b" if name == "a" else "a"
            assert here.replica(other).state in {"stopped", "absent"}
    assert most < LIMIT["memory_limit_bytes"]
    assert here.launcher.launches == {"a@echo#0": 3, "b@echo#0": 3}
    evicted = status(here, "a")
    assert (evicted.state, evicted.on_demand) == ("stopped", True)
    assert evicted.reason == "unloaded to make room for b@echo; loads at the next request"


async def test_nothing_is_loaded_or_unloaded_when_nobody_asks(house, echo):
    """Not even what loads at start-up comes back by itself after it had to leave: they would take turns for ever."""
    here = await house(echo("a", **BIG), echo("b", load="on_demand", **BIG), **LIMIT)
    await here.until("ready", "a")
    async with asyncio.timeout(20):
        await asked_for(here, "b")
    assert status(here, "a").on_demand
    await asyncio.sleep(2.5)  # two ticks
    assert here.launcher.launches == {"a@echo#0": 1, "b@echo#0": 1}
    async with asyncio.timeout(20):
        await asked_for(here, "a")
    assert here.replica("b").state == "stopped"


async def test_a_busy_one_is_never_unloaded(house, echo, submit):
    busy = echo("busy", load="on_demand", tokens=40, tokens_per_s=20, **BIG)
    here = await house(busy, echo("new", load="on_demand", **BIG), **LIMIT)
    async with asyncio.timeout(60):
        replica = await asked_for(here, "busy")
        end = await submit(replica.socket, "a b c")
        refused = await ask(here, "new")
        assert 0 < refused.retry_in_s <= 1
        assert refused.reason.startswith("does not fit: it needs 200 MiB of memory (as declared); ")
        assert "busy@echo has" in refused.reason
        assert refused.reason.endswith("(1 request runs)")
        assert (await end()).load.running == 0  # to its very end
        assert here.replica("busy").pid == replica.pid
        await asked_for(here, "new")
    assert here.launcher.launches == {"busy@echo#0": 1, "new@echo#0": 1}


async def test_a_pinned_one_is_never_unloaded(house, echo):
    here = await house(echo("pin", pinned=True, **BIG), echo("new", load="on_demand", **BIG), **LIMIT)
    pinned = await here.until("ready", "pin")
    async with asyncio.timeout(20):
        refused = await ask(here, "new")
        assert "pin@echo has" in refused.reason
        assert refused.reason.endswith("(pinned)")
        await ask(here, "new")
    assert here.replica("pin").pid == pinned.pid
    assert "new@echo#0" not in here.launcher.launches


async def test_what_would_not_fit_alone_evicts_nobody(house, echo):
    here = await house(echo("a", **BIG), echo("huge", load="on_demand", memory_bytes=1000 * MIB), **LIMIT)
    before = await here.until("ready", "a")
    async with asyncio.timeout(20):
        refused = await ask(here, "huge")
    assert "all replicas together may take 300 MiB (supervisor.memory_limit_bytes)" in refused.reason
    assert refused.retry_in_s > 30
    assert here.replica("a").pid == before.pid


async def test_two_that_load_at_once_are_not_given_the_same_memory(house, echo, until):
    here = await house(echo("a", load_s=0.5, **BIG), echo("b", load_s=0.5, **BIG), **LIMIT)
    states = lambda: sorted(here.replica(name).state for name in "ab")  # noqa: E731
    await until(lambda: states() == ["ready", "stopped"])
    assert sum(here.launcher.launches.values()) == 1
    left_out = next(name for name in "ab" if here.replica(name).state == "stopped")
    assert "nothing is unloaded for what nobody has asked for" in here.replica(left_out).reason


async def test_what_loads_at_start_up_is_loaded_when_memory_is_free_again(house, echo, until):
    """And what somebody only thought that a replica takes is free again once it is known better."""
    modest = {"memory_bytes": EACH, "ballast_bytes": 0}
    here = await house(echo("a", load_s=0.5, **modest), echo("b", load_s=0.5, **modest), **LIMIT)
    await until(lambda: sum(here.launcher.launches.values()) == 1)
    await here.until("ready", "a", within_s=10)
    await here.until("ready", "b", within_s=10)


async def test_what_it_took_before_is_known_better_than_what_was_declared(house, echo):
    here = await house(echo("a", load="on_demand", memory_bytes=1, ballast_bytes=140 * MIB, idle_unload_s=0.3), **LIMIT)
    async with asyncio.timeout(30):
        await asked_for(here, "a")
        await here.until("stopped", "a")
        here.supervisor.ensure_ready("a@echo")
        await here.until("starting", "a")
        while not here.replica("a").memory_bytes:
            await asyncio.sleep(0.005)
        assert here.replica("a").state == "starting"
        assert here.replica("a").memory_bytes > 140 * MIB


async def test_all_replicas_of_a_deployment_leave(house, echo):
    pair = echo("pair", replicas=2, memory_bytes=100 * MIB, ballast_bytes=40 * MIB)
    here = await house(pair, echo("new", load="on_demand", memory_bytes=250 * MIB), **LIMIT)
    while [here.replica("pair", index).state for index in (0, 1)] != ["ready", "ready"]:
        await asyncio.sleep(0.01)
    async with asyncio.timeout(20):
        await asked_for(here, "new")
    assert [here.replica("pair", index).state for index in (0, 1)] == ["stopped", "stopped"]


async def test_stopping_does_not_wait_for_memory(house, echo, submit):
    """One that waits for another to leave is given up at once."""
    here = await house(echo("a", **BIG), echo("b", load="on_demand", **BIG), **LIMIT)
    await here.until("ready", "a")
    here.supervisor.ensure_ready("b@echo")
    await asyncio.sleep(0)
    await here.stop()
    assert "b@echo#0" not in here.launcher.launches


async def test_growth_beyond_the_limit_is_told_once_and_ends_nobody(house, echo, caplog, until):
    caplog.set_level(logging.WARNING)
    here = await house(echo("a", memory_bytes=1, ballast_bytes=140 * MIB), memory_limit_bytes=100 * MIB)
    replica = await here.until("ready", "a")
    told = lambda: [record for record in caplog.records if "more than they may" in record.message]  # noqa: E731
    await until(told)
    await asyncio.sleep(1.5)
    assert len(told()) == 1
    assert "a@echo#0" in told()[0].message
    assert here.replica("a").pid == replica.pid


async def test_the_snapshot_tells_who_takes_what(house, echo):
    here = await house(echo("a", **BIG), device_memory_limit_bytes=500 * MIB, **LIMIT)
    replica = await here.until("ready", "a")
    memory = here.supervisor.snapshot().memory
    assert memory.limit_bytes == 300 * MIB
    assert memory.used_bytes == here.replica("a").memory_bytes == replica.memory_bytes
    assert memory.used_bytes == pytest.approx(psutil.Process(replica.pid).memory_info().rss, rel=0.2)
    assert (memory.device_limit_bytes, memory.device_used_bytes) == (500 * MIB, 0)
