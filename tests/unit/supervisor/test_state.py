"""Every decision about a replica, without a process, a clock or chance."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.api import EngineInfo, Load, ReplicaExit
from core.settings import SupervisorTable
from core.supervisor.replica import Process, Replica
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
    backoff_initial_s=1,
    backoff_max_s=300,
    crash_loop_failures=5,
    healthy_after_s=60,
    failed_retry_s=200,
    load_timeout_s=900,
    stall_timeout_s=60,
    drain_timeout_s=30,
    kill_after_s=5,
)
LOADING = Status(load=Load())
READY = Status(load=Load(), info=EngineInfo(), rss_bytes=7)
CRASH = ReplicaExit(code=1, stderr_tail="Traceback\nRuntimeError: boom\n")


class Life:
    """A replica with a clock: feeds events, remembers the effects of the last one."""

    def __init__(self, **fields) -> None:
        self.replica = Replica(name="m@b#0", **fields)
        self.now_s = 1000.0
        self.effects: tuple[Effect, ...] = ()

    def feed(self, *events: Event) -> Life:
        for event in events:
            self.replica, self.effects = decide(self.replica, event, self.now_s, TIMING)
        return self

    def pass_s(self, seconds: float) -> Life:
        """Let time go by; what is due meanwhile happens when it is due."""
        end_s = self.now_s + seconds
        effects: tuple[Effect, ...] = ()
        while (due := due_s(self.replica, TIMING)) is not None and due <= end_s:
            self.now_s = max(self.now_s, due)
            effects += self.feed(Tick()).effects
        self.now_s, self.effects = end_s, effects
        return self

    def launched(self) -> Life:
        return self.feed(Launched(self.start, 4711))

    def reports(self, status: Status = READY) -> Life:
        return self.feed(Reported(self.start, status))

    def dies(self, end: ReplicaExit = CRASH, jitter: float = 1.0) -> Life:
        return self.feed(Exited(self.start, end, jitter))

    def until_ready(self) -> Life:
        if self.state == "absent":
            self.feed(WeightsFound())
        if self.state == "stopped":
            self.feed(Wanted())
        return self.launched().reports()

    @property
    def start(self) -> int:
        return self.replica.starts

    @property
    def state(self) -> str:
        return self.replica.state

    @property
    def process(self) -> Process:
        assert self.replica.process is not None
        return self.replica.process


# --- starting


def test_a_startup_replica_starts_when_its_weights_are_there():
    life = Life().feed(WeightsFound())
    assert (life.state, life.effects, life.start) == ("starting", (Effect.LAUNCH,), 1)


def test_an_absent_replica_cannot_be_wanted_into_life():
    life = Life().feed(Wanted())
    assert (life.state, life.effects) == ("absent", ())


def test_an_on_demand_replica_waits_for_the_first_request():
    life = Life(at_startup=False).feed(WeightsFound())
    assert (life.state, life.effects) == ("stopped", ())
    assert life.feed(Wanted()).effects == (Effect.LAUNCH,)


def test_a_hundred_first_requests_launch_one_process():
    life = Life(at_startup=False).feed(WeightsFound())
    launches = sum(life.feed(Wanted()).effects.count(Effect.LAUNCH) for _ in range(100))
    assert launches == 1
    life.launched()
    assert not any(life.feed(Wanted()).effects for _ in range(100))


def test_a_disabled_replica_is_never_started():
    life = Life(enabled=False).feed(WeightsFound())
    assert (life.state, life.effects) == ("stopped", ())
    assert life.feed(Wanted()).effects == ()
    assert "disabled" in life.replica.reason


def test_weights_found_again_change_nothing():
    life = Life().feed(WeightsFound())
    before = life.replica
    assert life.feed(WeightsFound()).effects == ()
    assert life.replica == before


def test_weights_that_vanish_before_the_launch_make_it_absent_again():
    life = Life(at_startup=False).feed(WeightsFound(), Wanted(), WeightsMissing(1, "gone"))
    assert (life.state, life.replica.reason, life.replica.process) == ("absent", "gone", None)
    assert life.feed(WeightsFound()).state == "stopped"


def test_an_absent_replica_tells_what_is_missing_now():
    """Fetched weights may still have to be prepared."""
    life = Life(reason="not fetched").feed(WeightsMissing(None, "not prepared"))
    assert (life.state, life.replica.reason, life.effects) == ("absent", "not prepared", ())


def test_weights_that_vanish_do_not_touch_what_runs():
    life = Life().until_ready()
    before = life.replica
    assert life.feed(WeightsMissing(None, "gone")).replica == before


def test_it_is_ready_once_it_reports_what_its_engine_became():
    life = Life().feed(WeightsFound()).launched().reports(LOADING)
    assert life.state == "starting"
    life.reports(READY)
    assert (life.state, life.replica.reason, life.process.pid, life.process.rss_bytes) == ("ready", "", 4711, 7)


def test_a_replica_that_is_told_to_end_while_loading_does_not_become_ready():
    life = Life().feed(WeightsFound()).launched().reports(Status(load=Load(), info=EngineInfo(), draining=True))
    assert life.state == "starting"


def test_a_replica_that_does_not_load_in_time_is_killed_and_counts_as_failed():
    life = Life().feed(WeightsFound()).launched().pass_s(899)
    assert life.effects == ()
    assert life.pass_s(1).effects == (Effect.KILL,)
    life.dies(ReplicaExit(signal="SIGKILL"))
    assert (life.state, life.replica.failures) == ("starting", 1)
    assert life.replica.reason == "was not ready within 900 s"


def test_a_launch_that_fails_is_a_failure_like_any_other():
    life = Life().feed(WeightsFound()).feed(LaunchFailed(1, "no such file: python", 1.0))
    assert (life.state, life.replica.process, life.replica.failures) == ("starting", None, 1)
    assert life.replica.reason == "cannot be launched: no such file: python"
    assert life.pass_s(1).effects == (Effect.LAUNCH,)


# --- deaths


def test_a_death_says_why_and_is_followed_by_a_restart():
    life = Life().until_ready().dies()
    assert life.state == "starting"
    assert life.replica.reason == "exit code 1: Traceback | RuntimeError: boom"
    assert life.pass_s(0.99).effects == ()
    assert life.pass_s(0.01).effects == (Effect.LAUNCH,)
    assert life.replica.restarts == 1
    assert life.launched().reports().state == "ready"


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (ReplicaExit(signal="SIGKILL", stderr_tail="loaded"), "killed by SIGKILL (by hand, or because memory ran out)"),
        (ReplicaExit(signal="SIGABRT", stderr_tail="GGML_ASSERT(x)\n"), "killed by SIGABRT: GGML_ASSERT(x)"),
        (ReplicaExit(code=2), "exit code 2"),
    ],
)
def test_the_reason_of_a_death_is_what_explains_it(end, reason):
    assert Life().until_ready().dies(end).replica.reason == reason


def test_restarts_back_off_and_then_the_replica_is_failed_and_tried_again_later():
    life = Life().feed(WeightsFound())
    waits = []
    for _ in range(5):
        life.dies()
        assert life.replica.start_at_s is not None
        waits.append(life.replica.start_at_s - life.now_s)
        if life.state == "failed":
            break
        life.pass_s(waits[-1])
    assert waits == [1, 2, 4, 8, 200]
    assert life.replica.reason.startswith("exit code 1")
    assert life.pass_s(200).effects == (Effect.LAUNCH,)
    assert life.dies().state == "failed"  # one more try, not five


def test_back_off_has_a_ceiling():
    timing = SupervisorTable(crash_loop_failures=100_000)
    replica = replace(Replica(name="m@b#0"), failures=90_000, state="starting", starts=1)
    replica = replace(replica, process=Process(start=1, launched_s=0))
    replica, _ = decide(replica, Exited(1, CRASH, 1.0), 10.0, timing)
    assert replica.start_at_s == 10 + timing.backoff_max_s


def test_jitter_shortens_the_wait():
    life = Life().until_ready().dies(jitter=0.5)
    assert life.replica.start_at_s == life.now_s + 0.5


def test_a_healthy_time_forgives_earlier_failures():
    life = Life().until_ready()
    for _ in range(20):
        while life.process.ready_s is None or life.now_s - life.process.ready_s < 60:
            life.pass_s(10).reports()
        assert life.dies().state == "starting"
        assert life.replica.failures == 1
        life.pass_s(1).launched().reports()


def test_being_ready_for_a_moment_forgives_nothing():
    life = Life().until_ready()
    for _ in range(4):
        life.dies().pass_s(8).launched().reports()
        assert life.state == "ready"
    assert life.dies().state == "failed"


@pytest.mark.parametrize("how", ["status", "exit code"])
def test_a_permanent_load_error_is_not_tried_again(how):
    life = Life().feed(WeightsFound()).launched()
    if how == "status":
        life.reports(Status(load=Load(), error="no such architecture", error_permanent=True))
    life.dies(ReplicaExit(code=ExitCode.LOAD_FAILED_FOR_GOOD, stderr_tail="no such architecture"))
    assert (life.state, life.replica.start_at_s) == ("failed", None)
    assert "no such architecture" in life.replica.reason
    assert life.pass_s(1e6).feed(Wanted()).effects == ()


def test_that_exit_code_after_loading_is_an_ordinary_death():
    assert Life().until_ready().dies(ReplicaExit(code=ExitCode.LOAD_FAILED_FOR_GOOD)).state == "starting"


def test_a_load_error_is_the_reason_whatever_the_exit_code_says():
    life = Life().feed(WeightsFound()).launched().reports(Status(load=Load(), error="out of memory"))
    assert (life.state, life.replica.reason) == ("starting", "out of memory")
    life.dies(ReplicaExit(signal="SIGSEGV"))
    assert (life.state, life.replica.reason, life.replica.failures) == ("starting", "out of memory", 1)


def test_a_replica_that_could_not_load_and_stays_is_killed():
    life = Life().feed(WeightsFound()).launched().reports(Status(load=Load(), error="out of memory"))
    life.pass_s(4).reports(Status(load=Load(), error="out of memory"))
    assert life.pass_s(1).effects == (Effect.KILL,)


def test_a_broken_engine_is_a_death_with_its_own_reason():
    life = Life().until_ready().reports(Status(load=Load(), info=EngineInfo(), error="device lost", draining=True))
    assert (life.state, life.replica.reason, life.effects) == ("starting", "device lost", ())
    life.dies(ReplicaExit(code=ExitCode.ENGINE_BROKEN, stderr_tail="other words"))
    assert (life.state, life.replica.reason, life.replica.failures) == ("starting", "device lost", 1)
    assert life.pass_s(1).effects == (Effect.LAUNCH,)


def test_a_broken_engine_that_stays_is_killed():
    life = Life().until_ready().reports(Status(load=Load(), error="device lost"))
    assert life.pass_s(4).reports().state == "starting", "it cannot come back"
    assert life.pass_s(1).effects == (Effect.KILL,)


def test_engines_that_break_again_and_again_are_a_crash_loop():
    life = Life()
    for _ in range(5):
        life.until_ready().reports(Status(load=Load(), error="device lost")).dies().pass_s(16)
    assert (life.state, life.replica.reason) == ("failed", "device lost")


def test_a_failed_replica_is_tried_at_once_by_a_request_after_its_time_has_come():
    life = Life().feed(WeightsFound())
    for _ in range(5):
        life.dies().pass_s(8 if life.state == "starting" else 0)
    assert life.state == "failed"
    assert life.feed(Wanted()).effects == ()
    life.now_s += 200
    assert life.feed(Wanted()).effects == (Effect.LAUNCH,)


def test_news_of_an_old_process_cannot_touch_the_new_one():
    life = Life().until_ready().dies().pass_s(1).launched()
    before = life.replica
    for event in (Reported(1, READY), Launched(1, 1), Exited(1, CRASH, 1.0), RetireAnswered(1, True)):
        assert life.feed(event).effects == ()
    assert life.replica == before


# --- hangs


def busy(steps: int) -> Status:
    return Status(load=Load(running=3, steps=steps), info=EngineInfo())


def test_a_busy_replica_without_a_step_is_killed_and_restarted():
    life = Life().until_ready().reports(busy(1))
    for _ in range(59):
        life.pass_s(1).reports(busy(1))
        assert life.state == "ready"
    assert life.pass_s(1).effects == (Effect.KILL,)
    assert (life.state, life.replica.reason) == ("starting", "hung: no step in 60 s with 3 running")
    assert life.pass_s(1000).effects == ()
    life.dies(ReplicaExit(signal="SIGKILL"))
    assert life.replica.reason == "hung: no step in 60 s with 3 running"
    assert life.pass_s(1).effects == (Effect.LAUNCH,)


def test_a_busy_replica_that_steps_is_left_alone():
    life = Life().until_ready()
    for step in range(100):
        assert life.pass_s(50).reports(busy(step)).effects == ()
    assert life.state == "ready"


def test_an_idle_replica_need_not_step():
    life = Life().until_ready()
    for _ in range(100):
        assert life.pass_s(50).reports(READY).effects == ()
    life.reports(busy(0))
    assert life.pass_s(59).reports(busy(0)).state == "ready"  # the clock began with the work


def test_a_silent_replica_is_killed():
    life = Life().until_ready().pass_s(60)
    assert (life.state, life.effects) == ("starting", (Effect.KILL,))
    assert life.replica.reason == "hung: said nothing for 60 s"


def test_a_replica_that_was_killed_cannot_come_back_as_ready():
    life = Life().until_ready().pass_s(60).reports()
    assert life.state == "starting"


def test_a_pause_of_the_supervisor_proves_nothing_about_replicas():
    life = Life().until_ready().reports(busy(1))
    life.now_s += 500
    life.feed(Overslept(), Tick())
    assert (life.state, life.effects) == ("ready", ())
    assert life.pass_s(59).effects == ()
    assert life.pass_s(1).effects == (Effect.KILL,)
    life = Life().feed(WeightsFound()).launched()
    life.now_s += 5000
    assert life.feed(Overslept(), Tick()).effects == ()


# --- idle unload


def idle(seconds: float = 10) -> Life:
    return Life(at_startup=False, idle_unload_s=seconds).until_ready()


def test_an_idle_replica_is_asked_and_unloaded_when_it_agrees():
    life = idle()
    assert life.pass_s(9).effects == ()
    assert life.pass_s(1).effects == (Effect.ASK_TO_RETIRE,)
    assert life.state == "ready"
    life.feed(RetireAnswered(1, True))
    assert (life.state, life.effects) == ("draining", (Effect.TERMINATE,))
    life.dies(ReplicaExit(code=0))
    assert (life.state, life.replica.failures, life.replica.start_at_s) == ("stopped", 0, None)
    assert life.feed(Wanted()).effects == (Effect.LAUNCH,)
    assert life.replica.restarts == 0


def test_a_replica_that_refuses_is_asked_again_after_another_idle_time():
    life = idle().pass_s(10).feed(RetireAnswered(1, False))
    assert (life.state, life.effects) == ("ready", ())
    assert life.pass_s(9).effects == ()
    assert life.pass_s(1).effects == (Effect.ASK_TO_RETIRE,)


@pytest.mark.parametrize("load", [Load(running=1, steps=1), Load(waiting=1), Load(steps=5)])
def test_any_work_since_the_last_report_counts_as_activity(load):
    life = idle().pass_s(9).reports(Status(load=load, info=EngineInfo()))
    if not load.steps or load.running:
        assert life.pass_s(9).effects == ()
        life.reports(Status(load=Load(steps=load.steps), info=EngineInfo()))
    assert life.pass_s(9).effects == ()
    assert life.pass_s(1).effects == (Effect.ASK_TO_RETIRE,)


@pytest.mark.parametrize("when", ["asked", "agreed"])
def test_a_request_that_finds_it_unloading_loads_it_again(when):
    life = idle().pass_s(10)
    if when == "asked":
        life.feed(Wanted())
    life.feed(RetireAnswered(1, True))
    if when == "agreed":
        assert life.feed(Wanted()).effects == ()
    life.dies(ReplicaExit(code=0))
    assert (life.state, life.effects) == ("starting", (Effect.LAUNCH,))
    life.launched().reports().pass_s(10).feed(RetireAnswered(2, True)).dies(ReplicaExit(code=0))
    assert life.state == "stopped"  # the wish was granted once


def test_without_the_setting_it_is_never_unloaded():
    life = Life().until_ready()
    for _ in range(1000):
        assert life.pass_s(59).reports().effects == ()


def test_a_replica_that_agreed_and_does_not_end_is_killed():
    life = idle().pass_s(10).feed(RetireAnswered(1, True))
    assert life.pass_s(35).effects == (Effect.KILL,)


def test_a_replica_told_to_end_by_somebody_else_drains_and_is_restarted():
    life = Life().until_ready().reports(Status(load=Load(running=1), info=EngineInfo(), draining=True))
    assert (life.state, life.effects) == ("draining", ())  # a second SIGTERM would cut what still runs
    assert life.dies(ReplicaExit(code=0)).state == "starting"
    assert life.pass_s(1).effects == (Effect.LAUNCH,)


# --- stopping


def test_stop_drains_a_ready_replica_and_kills_it_when_its_time_is_up():
    life = Life().until_ready().feed(Stop())
    assert (life.state, life.effects) == ("draining", (Effect.TERMINATE,))
    assert life.pass_s(34.9).effects == ()
    assert life.pass_s(0.1).effects == (Effect.KILL,)
    assert life.dies(ReplicaExit(signal="SIGKILL")).state == "stopped"
    assert life.pass_s(1e6).feed(Wanted(), WeightsFound()).effects == ()


def test_a_loading_replica_gets_no_drain_time():
    life = Life().feed(WeightsFound()).launched().feed(Stop())
    assert (life.state, life.effects) == ("draining", (Effect.TERMINATE,))
    assert life.pass_s(5).effects == (Effect.KILL,)


def test_stop_during_the_launch_reaches_the_process_once_it_is_there():
    life = Life().feed(WeightsFound(), Stop()).launched()
    assert life.effects == (Effect.TERMINATE,)
    life = Life().feed(WeightsFound(), Stop(now=True)).launched()
    assert life.effects == (Effect.KILL,)


def test_stop_during_back_off_cancels_the_restart():
    life = Life().until_ready().dies().feed(Stop())
    assert life.state == "stopped"
    assert life.pass_s(1e6).effects == ()


def test_stop_leaves_what_does_not_run_as_it_is():
    assert Life().feed(Stop()).state == "absent"
    assert Life(at_startup=False).feed(WeightsFound(), Stop()).state == "stopped"
    failed = Life().feed(WeightsFound()).launched().dies(ReplicaExit(code=ExitCode.LOAD_FAILED_FOR_GOOD))
    assert failed.feed(Stop()).state == "failed"


def test_stop_while_unloading_or_killed_waits_for_the_end():
    life = idle().pass_s(10).feed(RetireAnswered(1, True), Wanted(), Stop())
    assert life.state == "draining"
    assert life.dies(ReplicaExit(code=0)).effects == ()
    assert life.state == "stopped"
    life = Life().until_ready().pass_s(60).feed(Stop())
    assert (life.state, life.effects) == ("draining", ())
    assert life.dies().state == "stopped"


def test_stop_now_kills_whatever_runs_and_twice_is_once():
    life = Life().until_ready().feed(Stop())
    assert life.feed(Stop(now=True)).effects == (Effect.KILL,)
    assert life.feed(Stop(now=True)).effects == ()
    assert life.dies().state == "stopped"


def test_two_stops_do_not_prolong_the_drain():
    life = Life().until_ready().feed(Stop()).pass_s(20).feed(Stop())
    assert life.effects == ()
    assert life.pass_s(15).effects == (Effect.KILL,)
