"""Who gets memory: a world of made-up processes around the real decisions."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from echo_backend.plugin import EchoSettings, gateway_backends
from hypothesis import given, settings

from core.api import EngineInfo, Load, ModelSpec, ReplicaExit
from core.routing.table import Deployment
from core.settings import SupervisorTable
from core.supervisor.memory import Bytes, Limits
from core.supervisor.replica import Process, Replica
from core.supervisor.replica_events import (
    Effect,
    Exited,
    GiveWay,
    Launched,
    MayAskAgain,
    NoRoom,
    Reported,
    RetireAnswered,
    Stop,
    Tick,
    Wanted,
    WeightsFound,
)
from core.supervisor.room import Room, limits_of
from core.supervisor.slots import Slot
from core.supervisor.state import decide
from core.supervisor.words import log_line
from core.wire.frames import Status

TIMING = SupervisorTable(backoff_initial_s=1.0, backoff_max_s=4.0, stall_timeout_s=1e6, load_timeout_s=1e6)
BACKEND = gateway_backends()[0]


def deployment(name, size, *, pinned=False, load="on_demand"):
    return Deployment(
        spec=ModelSpec(name=name, backend="echo", load=load, memory_bytes=size),
        backend=BACKEND,
        settings=EchoSettings(),
        python=None,
        replicas=1,
        idle_unload_s=None,
        declared_by="test",
        pinned=pinned,
    )


class World:
    """Deployments of one replica each, whose processes do what a test says. Use it in a running loop."""

    def __init__(self, deployments, limits, *, takes=None):
        self.now_s = 1000.0
        asyncio.get_running_loop().time = lambda: self.now_s
        self.takes = takes or {}
        self.slots = {
            one.spec.name: Slot(one, None, Replica(name=f"{one.id}#0", at_startup=one.spec.load == "startup"))
            for one in deployments
        }
        self.limits = limits
        self.room = Room(limits, self.slots.values, self.feed)
        self.waiting = {}  # tasks that wait for memory
        self.alive = {}  # name -> requests that run there, or None while it loads
        self.questions = set()  # names of those who were asked to retire

    def feed(self, slot, event):
        name = slot.deployment.spec.name
        if isinstance(event, GiveWay):
            assert not slot.deployment.pinned, "a pinned one was told to leave"
            assert slot.replica.state != "starting", "a loading one was told to leave"
        slot.replica, effects = decide(slot.replica, event, self.now_s, TIMING)
        for effect in effects:
            if effect is Effect.LAUNCH:
                self.waiting[name] = asyncio.create_task(self._launch(name, slot.replica.starts))
            elif effect is Effect.ASK_TO_RETIRE:
                self.questions.add(name)
        if isinstance(event, Reported):
            self.room.note(slot)
        self.room.look()

    async def _launch(self, name, start):
        granted = await self.room.find(self.slots[name], None)
        del self.waiting[name]
        if granted:
            self.alive[name] = None
            self.feed(self.slots[name], Launched(start, 1))

    async def settle(self):
        for _ in range(6):
            await asyncio.sleep(0)

    # --- what may happen

    async def do(self, what, name):
        self.now_s += 0.001
        slot = self.slots[name]
        start = slot.replica.starts
        if what == "want":
            self.feed(slot, Wanted())
        elif what == "load" and name in self.alive:
            self.alive[name] = self.alive[name] or 0
            self.report(name)
        elif what == "begin" and self.alive.get(name) is not None and slot.replica.state != "draining":
            self.alive[name] += 1  # the supervisor does not know it yet
        elif what == "end" and self.alive.get(name):
            self.alive[name] -= 1
        elif what == "report" and name in self.alive:
            self.report(name)
        elif what == "answer" and name in self.questions:
            self.questions.discard(name)
            if name in self.alive:
                self.feed(slot, RetireAnswered(start, self.alive[name] == 0))
        elif what == "exit" and name in self.alive and slot.replica.state == "draining":
            self.gone(name, ReplicaExit(code=0))
        elif what == "crash" and name in self.alive:
            self.gone(name, ReplicaExit(signal="SIGKILL"))
        elif what == "time":
            self.now_s += 1.0
            for one in self.slots.values():
                self.feed(one, Tick())
            for one in tuple(self.alive):
                self.report(one)
            self.room.tick()
        await self.settle()

    def report(self, name):
        requests = self.alive[name]
        info = None if requests is None else EngineInfo()
        takes = self.takes.get(name, self.slots[name].deployment.spec.memory_bytes)
        status = Status(load=Load(running=requests or 0), info=info, rss_bytes=takes)
        self.feed(self.slots[name], Reported(self.slots[name].replica.starts, status))

    def gone(self, name, end):
        assert end.code is None or not self.alive[name], "a busy one was ended"
        del self.alive[name]
        self.questions.discard(name)
        self.feed(self.slots[name], Exited(self.slots[name].replica.starts, end, 1.0))

    async def loaded(self, name):
        await self.do("want", name)
        await self.do("load", name)

    def state(self, name):
        return self.slots[name].replica.state


def run(test):
    """A fresh loop each, since its clock is the world's."""
    with asyncio.Runner() as runner:
        runner.run(test)


ACTIONS = ("want", "load", "begin", "end", "report", "answer", "exit", "crash", "time")
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.sampled_from("abcd")), min_size=5, max_size=60)


@given(
    sizes=st.tuples(*[st.integers(1, 8)] * 4),
    pinned=st.sampled_from(["", "a", "ab"]),
    limit=st.integers(4, 20),
    steps=STEPS,
)
@settings(max_examples=150, deadline=None)
def test_whatever_happens(sizes, pinned, limit, steps):
    """Nothing is over the limit, nobody is cut or told to leave who must stay, and nobody waits for ever."""

    async def live():
        world = World(
            [deployment(name, size, pinned=name in pinned) for name, size in zip("abcd", sizes, strict=True)],
            Limits(host=limit),
        )
        for slot in world.slots.values():
            world.feed(slot, WeightsFound())
        for what, name in steps:
            await world.do(what, name)
            taken = sum(world.slots[alive].deployment.spec.memory_bytes for alive in world.alive)
            assert taken <= limit
            assert taken <= world.room.used().host
        for _ in range(4):  # everybody answers, ends and reports
            for name in "abcd":
                while world.alive.get(name):
                    await world.do("end", name)
                for what in ("load", "answer", "exit"):
                    await world.do(what, name)
            await world.do("time", "a")
        assert not world.waiting
        for name in "abcd":
            assert world.state(name) in {"ready", "stopped", "starting", "failed"}
            assert (name in world.alive) == (world.state(name) == "ready")
        for slot in world.slots.values():
            world.feed(slot, Stop(now=True))
        await world.settle()
        assert not world.waiting

    run(live())


def test_an_idle_one_leaves_and_the_next_is_loaded():
    async def live():
        world = World([deployment("a", 6), deployment("b", 6)], Limits(host=10))
        for slot in world.slots.values():
            world.feed(slot, WeightsFound())
        await world.loaded("a")
        await world.do("time", "a")
        await world.do("time", "a")
        await world.do("want", "b")
        assert world.slots["b"].replica.reason == "waiting for memory: unloading a@echo"
        assert world.questions == {"a"}
        await world.do("answer", "a")
        assert world.slots["a"].replica.reason == "unloading to make room for b@echo"
        assert "b" in world.waiting, "not before the other is gone"
        await world.do("exit", "a")
        assert "b" in world.alive
        assert world.slots["a"].replica.displaced == "evicted"
        await world.do("load", "b")
        assert (world.state("a"), world.state("b")) == ("stopped", "ready")

    run(live())


def test_one_that_says_that_it_is_busy_stays_and_the_other_is_refused():
    async def live():
        world = World([deployment("a", 6), deployment("b", 6)], Limits(host=10))
        for slot in world.slots.values():
            world.feed(slot, WeightsFound())
        await world.loaded("a")
        await world.do("time", "a")
        await world.do("time", "a")
        await world.do("begin", "a")  # the supervisor has not heard of it
        await world.do("want", "b")
        await world.do("answer", "a")
        assert (world.state("a"), world.state("b")) == ("ready", "starting")
        assert not world.questions, "it is not asked again before it has reported"
        await world.do("report", "a")
        refused = world.slots["b"].replica
        assert (refused.state, refused.displaced) == ("stopped", "refused")
        assert refused.reason.endswith("a@echo has 0 MiB (1 request runs)")
        assert refused.start_at_s == pytest.approx(world.now_s + 1.0)
        await world.do("end", "a")
        await world.do("time", "a")
        assert world.state("b") == "stopped", "nobody asks for it any more"
        await world.do("want", "b")
        await world.do("answer", "a")
        await world.do("exit", "a")
        assert "b" in world.alive

    run(live())


def test_who_was_asked_twice_is_not_asked_a_thousand_times():
    """A report that was on its way when the request came says nothing."""

    async def live():
        world = World([deployment("a", 6), deployment("b", 6)], Limits(host=10))
        for slot in world.slots.values():
            world.feed(slot, WeightsFound())
        await world.loaded("a")
        await world.do("time", "a")
        await world.do("time", "a")
        await world.do("want", "b")
        await world.do("report", "a")
        await world.do("begin", "a")
        await world.do("answer", "a")
        assert not world.questions
        await world.do("report", "a")
        assert world.state("b") == "stopped"

    run(live())


def test_a_question_that_was_lost_is_asked_again():
    async def live():
        world = World([deployment("a", 6), deployment("b", 6)], Limits(host=10))
        for slot in world.slots.values():
            world.feed(slot, WeightsFound())
        await world.loaded("a")
        await world.do("time", "a")
        await world.do("time", "a")
        await world.do("want", "b")
        world.questions.clear()
        await world.do("report", "a")
        assert not world.questions, "it has still time to answer"
        del world.alive["a"]  # it says nothing either
        for _ in range(3):
            await world.do("time", "b")
        assert world.questions == {"a"}

    run(live())


def test_who_is_stopped_waits_no_longer():
    async def live():
        world = World([deployment("a", 6), deployment("b", 6)], Limits(host=10))
        for slot in world.slots.values():
            world.feed(slot, WeightsFound())
        await world.loaded("a")
        await world.do("time", "a")
        await world.do("time", "a")
        await world.do("want", "b")
        assert "b" in world.waiting
        world.feed(world.slots["b"], Stop())
        await world.settle()
        assert not world.waiting
        assert world.state("b") == "stopped"
        assert "b" not in world.alive

    run(live())


@pytest.mark.parametrize("state", ["absent", "stopped", "starting", "draining", "failed"])
def test_only_who_is_ready_can_give_way(state):
    process = Process(start=1, launched_s=0.0) if state in {"starting", "draining"} else None
    replica = Replica(name="m@b#0", state=state, process=process)
    assert decide(replica, GiveWay("x@y"), 5.0, TIMING) == (replica, ())


def test_a_start_that_nobody_asked_for_makes_nobody_leave():
    async def live():
        world = World([deployment("a", 6), deployment("b", 6, load="startup")], Limits(host=10))
        world.feed(world.slots["a"], WeightsFound())
        await world.loaded("a")
        await world.do("time", "a")
        await world.do("time", "a")
        world.feed(world.slots["b"], WeightsFound())
        await world.settle()
        assert (world.state("b"), world.questions) == ("stopped", set())
        await world.do("time", "a")
        await world.do("want", "b")
        assert world.questions == {"a"}

    run(live())


def test_a_start_that_nobody_asked_for_waits_until_there_is_room():
    async def live():
        world = World([deployment("a", 6, load="startup"), deployment("b", 6, load="startup")], Limits(host=10))
        for slot in world.slots.values():
            world.feed(slot, WeightsFound())
        await world.settle()
        assert set(world.alive) == {"a"}
        assert world.slots["b"].replica.displaced == "refused"
        await world.do("load", "a")
        for _ in range(5):
            await world.do("time", "a")
        assert (set(world.alive), world.questions) == ({"a"}, set())
        world.takes["a"] = 3  # it turns out to be smaller
        await world.do("time", "a")
        await world.do("time", "a")
        assert set(world.alive) == {"a", "b"}

    run(live())


def test_what_was_refused_is_tried_at_once_when_something_has_changed():
    """The limit, or what it needs, or whom it may unload; also what could not even fit alone."""

    async def live():
        world = World([deployment("a", 6, load="startup"), deployment("b", 60)], Limits(host=5))
        a, b = world.slots.values()
        world.feed(a, WeightsFound())
        world.feed(b, WeightsFound())
        await world.do("want", "b")
        for slot in (a, b):
            assert (slot.replica.state, slot.replica.start_at_s) == ("stopped", pytest.approx(world.now_s + 60, abs=1))
        world.room.limits = Limits(host=10)
        await world.room.forget_refusals()
        await world.settle()
        assert "a" in world.alive
        assert (b.replica.state, b.replica.start_at_s) == ("stopped", None), "a request may ask for it"
        await world.do("load", "a")
        await world.do("want", "b")
        assert b.replica.start_at_s is not None
        b.deployment = deployment("b", 3, load="startup")
        b.replica = replace(b.replica, at_startup=True)
        await world.room.forget_refusals()
        await world.settle()
        assert set(world.alive) == {"a", "b"}

    run(live())


def test_what_was_never_refused_has_nothing_to_ask_again():
    failed = Replica(name="m@b#0", state="failed", failures=9, start_at_s=99.0)
    assert decide(failed, MayAskAgain(), 5.0, TIMING) == (failed, ())


def test_who_came_first_is_served_first():
    async def live():
        world = World([deployment("a", 6), deployment("b", 8), deployment("c", 3)], Limits(host=10))
        for slot in world.slots.values():
            world.feed(slot, WeightsFound())
        await world.loaded("a")
        await world.do("time", "a")
        await world.do("time", "a")
        await world.do("want", "b")
        assert "b" in world.waiting
        await world.do("want", "c")  # it would fit beside a, but not beside b, who was here before
        assert world.state("c") == "stopped"
        await world.do("answer", "a")
        await world.do("exit", "a")
        assert set(world.alive) == {"b"}

    run(live())


def test_a_measurement_counts_until_the_recipe_changes():
    async def live():
        world = World([deployment("a", 6)], Limits(host=100), takes={"a": 50})
        slot = world.slots["a"]
        world.feed(slot, WeightsFound())
        await world.loaded("a")
        for recipe, promised in (("", 50), ("another", 6)):
            slot.replica = replace(slot.replica, recipe=recipe)
            await world.do("crash", "a")
            world.now_s += 1
            await world.do("time", "a")
            assert slot.replica.process.promised == Bytes(host=promised)

    run(live())


def test_a_guess_alone_keeps_nothing_from_a_device():
    async def live():
        world = World([deployment("a", 60)], Limits(host=10, device=20))
        world.feed(world.slots["a"], WeightsFound())
        await world.do("want", "a")
        assert world.slots["a"].replica.process.promised == Bytes(device=20)

    run(live())


@pytest.mark.parametrize(("limit", "host"), [(None, 77), (5, 5)])
def test_the_limit_is_the_machines_unless_it_is_set(monkeypatch, limit, host):
    monkeypatch.setattr("core.supervisor.room.host_bytes", lambda: 77)
    table = SupervisorTable(memory_limit_bytes=limit, device_memory_limit_bytes=3)
    assert limits_of(table) == Limits(host=host, device=3)


def test_what_was_to_load_by_itself_and_does_not_fit_is_a_warning(tmp_path):
    """Who asked for it is told by a 503; otherwise nobody would hear of it."""

    def level(*, demanded):
        process = Process(start=1, launched_s=0.0, demanded=demanded)
        before = Replica(name="m@b#0", state="starting", process=process)
        after, _ = decide(before, NoRoom(1, "does not fit: it is big", 1.0), 5.0, TIMING)
        return log_line(before, after, now_s=5.0, log_dir=tmp_path)

    text = "m@b#0: stopped (was starting): does not fit: it is big"
    assert level(demanded=False) == (logging.WARNING, text)
    assert level(demanded=True) == (logging.INFO, text)
