"""Whatever happens, in whatever order, some things are always true of a replica."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core.api import EngineInfo, Load, ReplicaExit
from core.settings import SupervisorTable
from core.supervisor.orders import whose_turn
from core.supervisor.replica import Replica
from core.supervisor.replica_events import (
    Configured,
    DrainOrdered,
    Effect,
    Event,
    Exited,
    GiveWay,
    Launched,
    LaunchFailed,
    LoadOrdered,
    NoRoom,
    Overslept,
    Removed,
    Reported,
    RestartOrdered,
    RetireAnswered,
    Stop,
    Tick,
    TurnCame,
    UnloadOrdered,
    Wanted,
    WeightsFound,
    WeightsMissing,
)
from core.supervisor.state import decide, due_s
from core.wire.exits import ExitCode
from core.wire.frames import Status

TIMING = SupervisorTable(
    crash_loop_failures=3, healthy_after_s=20, failed_retry_s=40, load_timeout_s=30, stall_timeout_s=10
)
STATUSES = st.builds(
    Status,
    load=st.builds(Load, running=st.integers(0, 1), steps=st.integers(0, 2)),
    info=st.sampled_from([None, EngineInfo()]),
    error=st.sampled_from([None, None, "broken"]),
    error_permanent=st.booleans(),
    draining=st.booleans(),
)


class AnyLife(RuleBasedStateMachine):
    """A world around one replica: a process it really has, and messages that may be late."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.replica = Replica(name="m@b#0")
        self.alive: int | None = None  # start of the process that exists, or is about to
        self.shown = False  # whether the launcher has reported it
        self.terminated = self.killed = self.asked = False

    @initialize(enabled=st.booleans(), at_startup=st.booleans(), idle=st.sampled_from([None, 5.0]))
    def begin(self, enabled, at_startup, idle):
        self.replica = Replica(name="m@b#0", enabled=enabled, at_startup=at_startup, idle_unload_s=idle, recipe="1")

    def feed(self, event: Event) -> None:
        self.replica, effects = decide(self.replica, event, self.now_s, TIMING)
        for effect in effects:
            self.asked |= effect is Effect.ASK_TO_RETIRE
            if effect is Effect.LAUNCH:
                assert self.alive is None, "two processes of one replica"
                assert self.replica.enabled, "a disabled replica was started"
                assert not self.replica.removed, "a replica was started that is not configured"
                assert not self.replica.out, "a replica was started that was taken out"
                assert self.replica.process.recipe == self.replica.recipe
                assert not self.replica.stopping, "started while the gateway stops"
                self.alive, self.shown, self.asked = self.replica.starts, False, False
                self.terminated = self.killed = False
            else:
                assert self.alive is not None, f"{effect} for no process"
                assert not self.killed or not self.shown, f"{effect} after the kill"
                self.terminated |= self.shown and effect is Effect.TERMINATE
                self.killed |= self.shown and effect is Effect.KILL

    def start(self, late: bool) -> int:
        return self.replica.starts - 1 if late else self.replica.starts

    @rule()
    def weights_appear(self):
        self.feed(WeightsFound())

    @rule()
    def weights_are_incomplete(self):
        before = self.replica
        self.feed(WeightsMissing(None, "incomplete"))
        assert (before.state, before.process) == (self.replica.state, self.replica.process)

    @rule()
    def request(self):
        self.feed(Wanted())

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 10.0, 50.0]))
    def time_passes(self, seconds):
        self.now_s += seconds
        self.feed(Tick())

    @rule()
    def time_comes(self):
        due = due_s(self.replica, TIMING)
        if due is not None:
            self.now_s = max(self.now_s, due)
            before = self.replica
            self.feed(Tick())
            assert self.replica != before, "a deadline that does nothing would be due for ever"

    @rule(seconds=st.sampled_from([2.0, 100.0]))
    def oversleep(self, seconds):
        self.now_s += seconds
        self.feed(Overslept())

    @precondition(lambda self: self.alive is not None and not self.shown)
    @rule()
    def launched(self):
        self.shown = True
        self.feed(Launched(self.alive, 42))

    @precondition(lambda self: self.alive is not None and not self.shown)
    @rule(how=st.sampled_from(["error", "weights"]))
    def not_launched(self, how):
        start, self.alive = self.alive, None
        gone = WeightsMissing(start, "gone")
        self.feed(gone if how == "weights" else LaunchFailed(start, "no", 0.5))

    @precondition(lambda self: self.alive is not None and self.shown)
    @rule(code=st.sampled_from([*ExitCode, None]))
    def ends(self, code):
        start, self.alive = self.alive, None
        self.feed(Exited(start, ReplicaExit(code=code, signal=None if code is not None else "SIGKILL"), 0.7))

    @rule(late=st.booleans(), status=STATUSES)
    def reports(self, late, status):
        self.feed(Reported(self.start(late), status))

    @rule(late=st.booleans(), retired=st.booleans())
    def retire_answer(self, late, retired):
        self.feed(RetireAnswered(self.start(late), retired))

    @rule(
        enabled=st.sampled_from([True, True, False]),
        at_startup=st.booleans(),
        idle=st.sampled_from([None, 5.0]),
        recipe=st.sampled_from(["1", "2"]),
        missing=st.sampled_from(["", "", "there is nothing"]),
    )
    def configured(self, *, enabled, at_startup, idle, recipe, missing):
        before = self.replica
        self.feed(
            Configured(
                enabled=enabled,
                disabled="disabled at run time",
                at_startup=at_startup,
                idle_unload_s=idle,
                recipe=recipe,
                missing=missing,
            )
        )
        if not enabled:
            assert self.replica.state not in {"ready", "starting", "failed"}, "disabled, but it goes on"
        elif before.may_run and before.state == "ready":
            assert self.replica.state == "ready", "a running replica was touched out of its turn"

    @rule()
    def removed(self):
        self.feed(Removed())
        assert self.replica.state not in {"ready", "starting", "failed"}, "removed, but it goes on"

    @rule(order=st.sampled_from([LoadOrdered(), UnloadOrdered(), DrainOrdered(), RestartOrdered()]))
    def ordered(self, order):
        self.feed(order)
        if isinstance(order, UnloadOrdered | DrainOrdered):
            assert self.replica.state not in {"ready", "starting", "failed"}, "taken out, but it goes on"

    @rule()
    def turn(self):
        before = self.replica
        self.feed(TurnCame())
        assert before.stale or before == self.replica

    @rule()
    def gives_way(self):
        self.feed(GiveWay("other@b"))

    @precondition(lambda self: self.alive is not None and not self.shown)
    @rule()
    def no_room(self):
        start, self.alive = self.alive, None
        self.feed(NoRoom(start, "does not fit", 1.0))

    @rule(now=st.booleans())
    def stop(self, now):
        self.feed(Stop(now=now))

    @invariant()
    def it_knows_its_process(self):
        process = self.replica.process
        assert (process.start if process else None) == self.alive

    @invariant()
    def states_mean_what_they_say(self):
        replica, process = self.replica, self.replica.process
        if replica.state in {"absent", "stopped", "failed"}:
            assert process is None
        elif replica.state == "starting":
            assert process is not None or replica.start_at_s is not None, "starting, but nothing will happen"
        elif replica.state == "ready":
            assert process is not None
            assert process.info is not None
            assert not process.killed
            assert not replica.stopping
        else:
            assert process is not None
            assert process.killed or process.leaving or process.kill_at_s is not None, "a drain without end"
        assert replica.reason or replica.state in {"ready", "absent"}, "a state without a reason"

    @invariant()
    def nothing_is_planned_while_stopping(self):
        assert not (self.replica.stopping and self.replica.start_at_s is not None)

    @invariant()
    def only_one_that_runs_is_replaced(self):
        assert not self.replica.stale or self.replica.process is not None
        assert not self.replica.renewing or self.replica.state != "ready"

    def comes_up(self):
        """Enabled and loaded, in a world that does what it is asked, it becomes ready as it is configured."""
        self.feed(
            Configured(enabled=True, disabled="", at_startup=True, idle_unload_s=None, recipe=self.replica.recipe)
        )
        self.feed(LoadOrdered())
        for _ in range(40):
            if self.replica.state == "absent":
                self.feed(WeightsFound())
            elif whose_turn([self.replica]):
                self.feed(TurnCame())
            elif self.alive is None:
                self.time_comes()
            elif not self.shown:
                self.launched()
            elif self.killed or self.terminated:
                self.ends(0)
            elif self.asked:
                self.asked = False
                self.retire_answer(late=False, retired=True)
            elif self.replica.state == "ready":
                break
            else:
                self.now_s += 3
                self.reports(late=False, status=Status(load=Load(), info=EngineInfo()))
                self.feed(Tick())
        assert self.replica.state == "ready", self.replica
        assert self.replica.process.recipe == self.replica.recipe

    def teardown(self):
        """Unless it stops, it can be brought back from any point. And from any point: stop, let time pass, let the
        killed die; then nothing is left, and nothing starts.
        """
        if not self.replica.stopping:
            self.comes_up()
        self._stops()

    def _stops(self):
        self.feed(Stop())
        for _ in range(10):
            if self.alive is None:
                break
            if not self.shown:
                self.launched()
            if self.killed:
                self.ends(None)
            else:
                assert due_s(self.replica, TIMING) is not None, "a process that would never be killed"
                self.time_comes()
        assert self.alive is None
        assert due_s(self.replica, TIMING) is None
        for event in (Wanted(), WeightsFound(), LoadOrdered(), RestartOrdered()):
            self.feed(event)
        assert self.alive is None


TestAnyLife = AnyLife.TestCase
TestAnyLife.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
