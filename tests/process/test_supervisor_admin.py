"""The supervisor with real replica processes, while an operator changes what they shall be."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from core.api.messages import Load
from core.settings import SettingsError
from core.supervisor.store import OverrideStore
from core.wire.control import Change, Operate, Reload
from core.wire.frames import PROTOCOL, Accepted, FromReplica, Hello, Rejected, Submit, Welcome
from core.wire.stream import PeerGoneError, connect

# --- enabled and disabled


async def test_a_disabled_deployment_finishes_what_runs_and_ends(house, echo, submit, until, gone):
    """Without haste: the drain time is far too short for the request that runs."""
    here = await house(echo(tokens=30, tokens_per_s=20), drain_timeout_s=0.1, kill_after_s=0.1)
    before = await here.until("ready")
    end = await submit(before.socket)
    await here.change(enabled=False)
    leaving = here.replica()
    assert (leaving.state, leaving.reason) == ("draining", "disabled at run time")
    assert not here.supervisor.snapshot().deployments[0].enabled
    await end()
    stopped = await here.until("stopped")
    assert (stopped.reason, stopped.retry_in_s) == ("disabled at run time", None)
    assert gone(before.pid)
    here.supervisor.ensure_ready("echo@echo")
    assert here.replica().state == "stopped"


async def test_a_deployment_enabled_again_starts_again(house, echo, gone):
    here = await house(echo())
    before = await here.until("ready")
    await here.change(enabled=False)
    await here.until("stopped")
    await here.change(enabled=True)
    after = await here.until("ready")
    assert after.pid != before.pid
    assert gone(before.pid)


async def test_a_deployment_enabled_again_before_it_has_ended_goes_on_with_its_process(house, echo, submit):
    here = await house(echo(tokens=30, tokens_per_s=20))
    before = await here.until("ready")
    end = await submit(before.socket)
    await here.change(enabled=False)
    assert here.replica().state == "draining"
    await here.change(enabled=None)
    assert (here.replica().state, here.replica().pid) == ("ready", before.pid)
    await end()
    assert here.launcher.launches == {"echo@echo#0": 1}


async def test_a_request_on_its_way_to_a_disabled_replica_is_served(house, echo, submit):
    """A worker may not have heard yet. The running request keeps the replica from ending."""
    here = await house(echo(tokens=20, tokens_per_s=20, slots=4))
    before = await here.until("ready")
    first = await submit(before.socket)
    await here.change(enabled=False)
    second = await submit(before.socket)
    await first()
    await second()
    await here.until("stopped")


async def test_a_disabled_backend_disables_all_its_deployments_at_once(house, echo):
    here = await house(echo("a"), echo("b"))
    for name in ("a", "b"):
        await here.until("ready", name)
    reply = await here.ask(Change(backends={"echo": False}))
    assert reply.status == 200
    for name in ("a", "b"):
        stopped = await here.until("stopped", name)
        assert stopped.reason == "its backend echo is disabled at run time"
    assert (await here.ask(Change(reset=("@echo",)))).status == 200
    for name in ("a", "b"):
        await here.until("ready", name)


async def test_a_deployment_disabled_while_it_loads_ends_at_once(house, echo, gone, until):
    here = await house(echo(load_s=60))
    await until(lambda: here.replica().pid)
    pid = here.replica().pid
    await here.change(enabled=False)
    await here.until("stopped", within_s=10)
    assert gone(pid)


# --- numbers


async def test_more_replicas_start_and_fewer_drain_away(house, echo, submit, until, gone):
    here = await house(echo(tokens=30, tokens_per_s=20))
    first = await here.until("ready")
    await here.change(replicas=3)
    await until(lambda: [one.state for one in here.replicas()] == ["ready"] * 3)
    assert [one.replica for one in here.replicas()] == ["echo@echo#0", "echo@echo#1", "echo@echo#2"]
    assert here.replica().pid == first.pid
    last = here.replica(index=2)
    end = await submit(last.socket)
    await here.change(replicas=1)
    await until(lambda: len(here.replicas()) == 2)  # 1 was idle
    assert [(one.replica, one.state) for one in here.replicas()] == [
        ("echo@echo#0", "ready"),
        ("echo@echo#2", "draining"),
    ]
    await end()
    await until(lambda: len(here.replicas()) == 1)
    assert here.replica().pid == first.pid
    assert gone(last.pid)


async def test_a_replica_wanted_again_before_it_has_ended_stays(house, echo, submit, until):
    here = await house(echo(replicas=2, tokens=30, tokens_per_s=20))
    await until(lambda: [one.state for one in here.replicas()] == ["ready"] * 2)
    last = here.replica(index=1)
    end = await submit(last.socket)
    await here.change(replicas=1)
    assert here.replica(index=1).state == "draining"
    await here.change(replicas=2)
    assert (here.replica(index=1).state, here.replica(index=1).pid) == ("ready", last.pid)
    await end()


async def test_priority_weight_and_alias_touch_no_replica(house, echo):
    here = await house(echo())
    before = await here.until("ready")
    await here.change(priority=3, weight=2.5, pinned=True)
    assert (await here.ask(Change(aliases={"other": ("echo",)}))).status == 200
    table = here.supervisor.generation.table
    assert (table.deployments["echo@echo"].spec.priority, table.deployments["echo@echo"].spec.weight) == (3, 2.5)
    assert [one.id for one in table.resolve("other").tiers[0]] == ["echo@echo"]
    await asyncio.sleep(0.2)  # nothing happens
    assert (here.replica().state, here.replica().pid) == ("ready", before.pid)


async def test_limits_reach_a_running_replica(house, echo, submit, until):
    """One slot is taken; whether a second request may wait is a limit."""

    async def second() -> type:
        stream = await connect(here.replica().socket, FromReplica, max_frame_bytes=1 << 20)
        stream.send(Hello(protocol=PROTOCOL, fingerprint="f", peer="worker"))
        stream.send(Submit(request=submit.request, timeout_s=60))
        seen = []
        while len(seen) < 2:
            seen += await stream.receive()
        stream.close()
        assert isinstance(seen[0], Welcome)
        return type(seen[1])

    here = await house(echo(tokens=200, tokens_per_s=20, slots=1))
    before = await here.until("ready")
    await submit(before.socket)
    assert await second() is Accepted
    await here.change(max_waiting=0)
    async with asyncio.timeout(5):
        while await second() is not Rejected:
            await asyncio.sleep(0.02)
    await here.change(max_waiting=None)
    async with asyncio.timeout(5):
        while await second() is not Accepted:
            await asyncio.sleep(0.02)
    assert here.replica().pid == before.pid


async def test_a_replica_more_of_a_drained_deployment_is_drained_too(house, echo, until):
    here = await house(echo())
    await here.until("ready")
    await here.ask(Operate(deployment="echo@echo", action="drain"))
    await here.until("stopped")
    await here.change(replicas=2)
    assert [one.state for one in here.replicas()] == ["stopped", "stopped"]
    await here.ask(Operate(deployment="echo@echo", action="load"))
    await until(lambda: [one.state for one in here.replicas()] == ["ready", "ready"])


# --- operations


async def test_an_unloaded_deployment_comes_back_with_load_only(house, echo, gone):
    here = await house(echo())
    before = await here.until("ready")
    assert (await here.ask(Operate(deployment="echo@echo", action="unload"))).status == 200
    stopped = await here.until("stopped")
    assert stopped.reason == "unloaded by an operator; load it again with: python -m core load echo@echo"
    assert gone(before.pid)
    here.supervisor.ensure_ready("echo@echo")
    assert here.replica().state == "stopped"
    assert not here.supervisor.snapshot().deployments[0].on_demand
    assert (await here.ask(Operate(deployment="echo@echo", action="unload"))).status == 200
    assert (await here.ask(Operate(deployment="echo@echo", action="load"))).status == 200
    await here.until("ready")


async def test_an_unloaded_deployment_that_loads_on_demand_comes_back_with_a_request(house, echo):
    here = await house(echo(load="on_demand"))
    here.supervisor.ensure_ready("echo@echo")
    await here.until("ready")
    await here.ask(Operate(deployment="echo@echo", action="unload"))
    stopped = await here.until("stopped")
    assert stopped.reason == "unloaded by an operator; loads at the next request"
    assert here.supervisor.snapshot().deployments[0].on_demand
    here.supervisor.ensure_ready("echo@echo")
    await here.until("ready")


async def test_unloading_gives_running_requests_the_drain_time(house, echo, submit):
    here = await house(echo(tokens=10_000, tokens_per_s=20), drain_timeout_s=0.3, kill_after_s=0.3)
    before = await here.until("ready")
    end = await submit(before.socket)
    await here.ask(Operate(deployment="echo@echo", action="unload"))
    await here.until("stopped", within_s=10)
    with pytest.raises((PeerGoneError, AssertionError)):
        await asyncio.wait_for(end(), 5)


async def test_a_gateway_that_shuts_down_lets_its_successor_have_the_changes(house, echo, submit):
    """At once, not when the last request has ended."""
    here = await house(echo(tokens=10_000, tokens_per_s=20))
    before = await here.until("ready")
    await submit(before.socket)
    await here.change(priority=7)
    successor = OverrideStore(here.run_dir.parent / "overrides.sqlite3")
    successor.load()
    assert "another gateway" in successor.problem
    here.supervisor.stop()
    assert successor.load().deployments["echo@echo"].priority == 7
    assert successor.owned
    assert here.replica().state == "draining"
    here.supervisor.kill()


@pytest.mark.parametrize("load", ["startup", "on_demand"])
async def test_a_drained_deployment_stays_out_until_it_is_loaded(house, echo, submit, load):
    here = await house(echo(load=load, tokens=20, tokens_per_s=20), drain_timeout_s=0.1, kill_after_s=0.1)
    here.supervisor.ensure_ready("echo@echo")
    before = await here.until("ready")
    end = await submit(before.socket)
    assert (await here.ask(Operate(deployment="echo@echo", action="drain"))).status == 200
    assert here.replica().state == "draining"
    await end()
    stopped = await here.until("stopped")
    assert stopped.reason.startswith("drained by an operator")
    here.supervisor.ensure_ready("echo@echo")
    assert here.replica().state == "stopped"
    assert not here.supervisor.snapshot().deployments[0].on_demand
    await here.ask(Operate(deployment="echo@echo", action="restart" if load == "startup" else "load"))
    await here.until("ready")


async def test_a_restart_replaces_one_replica_after_another(house, echo, until):
    here = await house(echo(replicas=3, load_s=0.3))
    await until(lambda: [one.state for one in here.replicas()] == ["ready"] * 3)
    before = {one.pid for one in here.replicas()}
    fewest = 3
    await here.ask(Operate(deployment="echo@echo", action="restart"))

    def all_new() -> bool:
        nonlocal fewest
        ready = [one for one in here.replicas() if one.state == "ready"]
        fewest = min(fewest, len(ready))
        return len(ready) == 3 and not before & {one.pid for one in ready}

    await until(all_new)
    assert fewest == 2
    assert here.launcher.launches == {f"echo@echo#{index}": 2 for index in range(3)}
    assert [one.restarts for one in here.replicas()] == [0, 0, 0]  # of failures


async def test_load_ends_a_crash_loop(house, echo, script):
    python = script("exit 7")
    here = await house(echo(python=python), failed_retry_s=1000)
    await here.until("failed")
    Path(python).write_text(f'#!/bin/sh\nexec {os.sys.executable} "$@"\n')
    assert (await here.ask(Operate(deployment="echo@echo_echo", action="load"))).status == 200
    await here.until("ready")


async def test_operations_that_make_no_sense_are_refused_with_a_sentence(house, echo):
    here = await house(echo("off"), echo("absent", source="/nowhere/at/all"))
    await here.until("ready", "off")
    await here.change("off@echo", enabled=False)
    for command, status, words in (
        (Operate(deployment="of@echo", action="load"), 404, "did you mean 'off@echo'?"),
        (Operate(deployment="off@echo", action="load"), 409, "off@echo cannot be loaded: disabled at run time"),
        (Operate(deployment="absent@echo", action="restart"), 409, "there is nothing at /nowhere/at/all"),
    ):
        reply = await here.ask(command)
        assert reply.status == status, reply
        assert words in reply.message
        assert reply.code


# --- reload


async def test_a_reload_restarts_what_has_changed_and_nothing_else(house, echo, submit, until, gone):
    here = await house(echo("changed", tokens=30, tokens_per_s=20), echo("same"), echo("gone"))
    before = {name: await here.until("ready", name) for name in ("changed", "same", "gone")}
    end = await submit(before["changed"].socket)
    settings = here.with_deployment("changed@echo", settings={"tokens": 5}, context_tokens=2048)
    without = {name: table for name, table in settings.deployments.items() if name != "gone@echo"}
    without["gone@echo"] = settings.deployments["gone@echo"].model_copy(update={"enabled": False})
    without["new@echo"] = settings.deployments["same@echo"].model_copy(update={"source": "/dev/null"})
    here.settings_now = settings.model_copy(update={"deployments": without})
    dry = await here.ask(Reload(dry_run=True))
    assert here.supervisor.generation.number == 1
    reply = await here.ask(Reload())
    told = json.loads(reply.body)
    assert {**json.loads(dry.body), "generation": 2} == told
    assert (told["restarts"], told["starts"], told["ends"]) == (["changed@echo"], ["new@echo"], ["gone@echo"])
    assert told["generation"] == 2
    assert told["restart_needed"] == []
    keys = {one["key"]: (one["before"], one["after"]) for one in told["changed"]}
    assert keys['deployments."changed@echo".context_tokens'] == (None, 2048)
    assert keys['deployments."changed@echo".settings.tokens'] == (30, 5)
    assert keys['deployments."gone@echo".enabled'] == (None, False)
    assert keys['deployments."new@echo".source'] == (None, "/dev/null")
    assert here.replica("changed").state == "draining"
    await here.until("ready", "new")
    await here.until("stopped", "gone")
    assert here.replica("changed").pid == before["changed"].pid  # a request still runs
    await end()
    after = await here.until("ready", "changed")
    assert after.pid != before["changed"].pid
    assert here.replica("same").pid == before["same"].pid
    here.settings_now = settings
    await here.ask(Reload())
    await until(lambda: not here.replicas("new"))
    assert here.replica("changed").pid == after.pid


async def test_a_bad_configuration_is_refused_whole(house, echo, caplog):
    here = await house(echo())
    before = await here.until("ready")
    generation = here.supervisor.generation
    after = here.supervisor.events.newest
    bad = here.with_deployment(settings={"nonsense": 1})
    here.settings_now = bad.model_copy(update={"aliases": {"x": ("nobody",)}})
    reply = await here.ask(Reload())
    assert (reply.status, reply.code) == (400, "invalid_configuration")
    assert "nonsense" in reply.message
    assert "nobody" in reply.message
    here.settings_now = SettingsError("gateway.toml is not valid TOML")
    reply = await here.ask(Reload())
    assert (reply.status, "not valid TOML" in reply.message) == (400, True)
    assert here.supervisor.generation is generation
    assert here.replica().pid == before.pid
    refused = [event.data["refused"] for event in here.supervisor.events.after(after)]
    assert [("nobody" in one, "TOML" in one) for one in refused] == [(True, False), (False, True)]
    assert "the old one stays" in caplog.text


async def test_what_only_a_restart_applies_is_told_and_stays(house, echo):
    here = await house(echo())
    await here.until("ready")
    table = here.configured.supervisor.model_copy(update={"drain_timeout_s": 99.0, "stall_timeout_s": 77.0})
    admin = here.configured.admin.model_copy(update={"key": "a secret of many characters"})
    here.settings_now = here.configured.model_copy(update={"supervisor": table, "admin": admin})
    told = json.loads((await here.ask(Reload())).body)
    assert [one["key"] for one in told["changed"]] == [
        "admin.key",
        "supervisor.drain_timeout_s",
        "supervisor.stall_timeout_s",
    ]
    assert told["changed"][0] == {"key": "admin.key", "before": None, "after": "***"}
    (sentence,) = told["restart_needed"]
    assert "supervisor.drain_timeout_s" in sentence
    settings = here.supervisor.generation.settings
    assert (settings.supervisor.stall_timeout_s, settings.supervisor.drain_timeout_s) == (77.0, 5)
    assert settings.admin.key == "a secret of many characters"
    again = json.loads((await here.ask(Reload())).body)
    assert [one["key"] for one in again["changed"]] == ["supervisor.drain_timeout_s"]
    assert again["restart_needed"] == told["restart_needed"]
    assert again["generation"] == told["generation"]


async def test_overrides_outlive_a_reload_and_those_without_sense_are_left_out(house, echo, until):
    here = await house(echo("a"), echo("b"))
    await here.until("ready", "a")
    await here.change("b@echo", enabled=False)
    assert (await here.ask(Change(aliases={"x": ("a",)}))).status == 200
    extra = {"c@echo": here.configured.deployments["a@echo"].model_copy(update={"source": "/dev/null"})}
    here.settings_now = here.configured.model_copy(update={"deployments": {**here.configured.deployments, **extra}})
    await here.ask(Reload())
    await here.change("c@echo", priority=3)
    here.settings_now = here.configured
    assert (await here.ask(Reload())).status == 200
    overrides = here.supervisor.generation.overrides
    assert overrides.deployments.keys() == {"b@echo"}
    assert overrides.aliases == {"x": ("a",)}
    here.settings_now = here.configured.model_copy(update={"deployments": {**here.configured.deployments, **extra}})
    assert (await here.ask(Reload())).status == 200
    assert here.supervisor.generation.table.deployments["c@echo"].spec.priority == 3


# --- deaths in between


async def test_a_replica_killed_while_it_leaves_stays_gone(house, echo, submit):
    here = await house(echo(tokens=10_000, tokens_per_s=20))
    before = await here.until("ready")
    await submit(before.socket)
    await here.change(enabled=False)
    os.kill(before.pid, signal.SIGKILL)
    stopped = await here.until("stopped")
    assert (stopped.reason, stopped.load) == ("disabled at run time", Load())


async def test_a_new_supervisor_goes_on_with_what_was_changed(house, echo):
    first = await house(echo("a"), echo("b"))
    await first.until("ready", "a")
    await first.change("a@echo", enabled=False, priority=7)
    await first.stop()
    second = await house(echo("a"), echo("b"))
    await second.until("ready", "b")
    assert (second.replica("a").state, second.replica("a").reason) == ("stopped", "disabled at run time")
    assert second.supervisor.generation.table.deployments["a@echo"].spec.priority == 7
    await second.change("a@echo", enabled=None)
    await second.until("ready", "a")
