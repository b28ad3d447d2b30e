"""Whatever happens, in whatever order, some things are always true of a replica."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core.api import EngineInfo, Load, ReplicaExit
from core.settings import SupervisorTable
from core.supervisor.replica import Replica
from core.supervisor.replica_events import (
    Effect,
    Event,
    Exited,
    Launched,
    LaunchFailed,
    Overslept,
    Reported,
    RetireAnswered,
    Stop,
    Tick,
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
        self.terminated = self.killed = False

    @initialize(enabled=st.booleans(), at_startup=st.booleans(), idle=st.sampled_from([None, 5.0]))
    def begin(self, enabled, at_startup, idle):
        self.replica = Replica(name="m@b#0", enabled=enabled, at_startup=at_startup, idle_unload_s=idle)

    def feed(self, event: Event) -> None:
        self.replica, effects = decide(self.replica, event, self.now_s, TIMING)
        for effect in effects:
            if effect is Effect.LAUNCH:
                assert self.alive is None, "two processes of one replica"
                assert self.replica.enabled, "a disabled replica was started"
                assert not self.replica.stopping, "started while the gateway stops"
                self.alive, self.shown, self.terminated, self.killed = self.replica.starts, False, False, False
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
            assert process.killed or process.kill_at_s is not None, "a drain without end"
        assert replica.reason or replica.state in {"ready", "absent"}, "a state without a reason"

    @invariant()
    def nothing_is_planned_while_stopping(self):
        assert not (self.replica.stopping and self.replica.start_at_s is not None)

    def teardown(self):
        """From any point: stop, let time pass, let the killed die; then nothing is left, and nothing starts."""
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
        self.feed(Wanted())
        self.feed(WeightsFound())
        assert self.alive is None


TestAnyLife = AnyLife.TestCase
TestAnyLife.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
