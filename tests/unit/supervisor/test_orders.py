"""Every decision about a replica that shall be another, without a process, a clock or chance."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.api import EngineInfo, Load, ReplicaExit
from core.settings import SupervisorTable
from core.supervisor.orders import who_is_awaited, whose_turn
from core.supervisor.replica import Process, Replica
from core.supervisor.replica_events import (
    Configured,
    DrainOrdered,
    Effect,
    Exited,
    GiveWay,
    LaunchFailed,
    LoadOrdered,
    NoRoom,
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

TIMING = SupervisorTable(drain_timeout_s=30, kill_after_s=5, stall_timeout_s=60, crash_loop_failures=2)
NOW_S = 1000.0
IDLE, BUSY = Load(), Load(running=1)
ASK, END, LAUNCH = (Effect.ASK_TO_RETIRE,), (Effect.TERMINATE,), (Effect.LAUNCH,)
NONE = ()


def configured(**changes) -> Configured:
    known = {"enabled": True, "disabled": "-", "at_startup": True, "idle_unload_s": None, "recipe": "1"}
    return Configured(**{**known, **changes})


DISABLED = configured(enabled=False, disabled="disabled at run time")


def running(state="ready", *, load=IDLE, process=None, **fields) -> Replica:
    """A replica with a process, in a state that goes with one."""
    ready_s = None if state == "starting" else NOW_S
    times = {"ready_s": ready_s, "heard_s": NOW_S, "progress_s": NOW_S, "active_s": NOW_S}
    made = Process(start=1, launched_s=NOW_S, recipe="1", pid=7, load=load, info=EngineInfo(), **times)
    made = replace(made, **(process or {}))
    known = {
        "name": "m@b#0",
        "starts": 1,
        "recipe": "1",
        "disabled": "-",
        "reason": "" if state == "ready" else "loading the model",
    }
    return Replica(**{**known, **fields}, state=state, process=made)


def without_process(state, **fields) -> Replica:
    return Replica(name="m@b#0", state=state, recipe="1", disabled="-", **{"reason": "some", **fields})


def after(replica: Replica, *events, now_s=NOW_S):
    """Feed events; return the replica and the effects of the last one."""
    effects = NONE
    for event in events:
        replica, effects = decide(replica, event, now_s, TIMING)
    return replica, effects


def exited(replica: Replica) -> Exited:
    return Exited(replica.process.start, ReplicaExit(code=0), 1.0)


def says(load) -> Reported:
    return Reported(1, Status(load=load, info=EngineInfo()))


# --- leaving


@pytest.mark.parametrize("event", [DISABLED, DrainOrdered(), Removed()])
def test_a_busy_replica_leaves_when_it_has_nothing_to_do_and_agrees(event):
    """It is asked at once, since what it last reported may be over, and again when it is idle; no deadline cuts it."""
    replica, effects = after(running(load=BUSY), event)
    assert (replica.state, replica.process.kill_at_s, effects) == ("draining", None, ASK)
    replica, effects = after(replica, RetireAnswered(1, retired=False))
    assert (replica.state, effects) == ("draining", NONE)
    replica, effects = after(replica, says(BUSY))
    assert effects == NONE
    assert due_s(replica, TIMING) == NOW_S + TIMING.stall_timeout_s
    replica, effects = after(replica, says(IDLE))
    assert effects == ASK
    replica, effects = after(replica, says(IDLE))
    assert effects == NONE, "it was asked already"
    replica, effects = after(replica, RetireAnswered(1, retired=True))
    assert (replica.state, replica.process.kill_at_s, effects) == ("draining", NOW_S + 35, END)
    replica, effects = after(replica, exited(replica))
    assert (replica.state, replica.process, replica.failures, effects) == ("stopped", None, 0, NONE)


def test_a_question_that_got_lost_is_asked_again():
    replica, _ = after(running(), DISABLED)
    assert after(replica, says(IDLE), now_s=NOW_S + 1)[1] == NONE
    assert after(replica, says(IDLE), now_s=NOW_S + 5)[1] == ASK


def test_a_replica_that_hangs_while_it_leaves_is_killed_and_stays_gone():
    replica, _ = after(running(load=BUSY), DISABLED)
    due = due_s(replica, TIMING)
    replica, effects = after(replica, Tick(), now_s=due)
    assert (effects, replica.state) == ((Effect.KILL,), "draining")
    replica, effects = after(replica, Exited(1, ReplicaExit(signal="SIGKILL"), 1.0))
    assert (replica.state, replica.reason, replica.start_at_s) == ("stopped", "disabled at run time", None)


def test_an_engine_that_breaks_while_it_leaves_is_not_waited_for():
    replica, _ = after(running(load=BUSY), DISABLED)
    replica, _ = after(replica, Reported(1, Status(load=BUSY, info=EngineInfo(), error="the device is lost")))
    assert (replica.state, replica.process.kill_at_s) == ("draining", NOW_S + 5)


@pytest.mark.parametrize("state", ["stopped", "failed", "starting"])
def test_what_has_no_process_is_disabled_at_once(state):
    before = without_process(state, failures=3, start_at_s=NOW_S + 5)
    replica, effects = after(before, DISABLED)
    assert (replica.state, replica.reason, replica.start_at_s, effects) == (
        "stopped",
        "disabled at run time",
        None,
        NONE,
    )
    assert after(replica, Wanted())[0].state == "stopped"


def test_weights_of_a_disabled_replica_stay_absent_until_they_are_there():
    replica, _ = after(without_process("absent", reason="no weights"), DISABLED)
    assert (replica.state, replica.reason) == ("absent", "no weights")
    replica, effects = after(replica, WeightsFound())
    assert (replica.state, replica.reason, effects) == ("stopped", "disabled at run time", NONE)


@pytest.mark.parametrize("event", [DISABLED, UnloadOrdered(), DrainOrdered(), Removed()])
def test_a_replica_that_loads_is_told_to_end(event):
    replica, effects = after(running("starting"), event)
    assert (replica.state, replica.process.kill_at_s, effects) == ("draining", NOW_S + 5, END)
    replica, effects = after(replica, LaunchFailed(1, "no", 1.0))
    assert (replica.state, replica.failures, effects) == ("stopped", 0, NONE)


# --- coming back


def test_what_leaves_serves_again_with_its_process():
    replica, _ = after(running(load=BUSY), DISABLED, RetireAnswered(1, retired=False))
    replica, effects = after(replica, configured())
    assert (replica.state, replica.reason, replica.process.leaving, effects) == ("ready", "", False, NONE)
    assert not replica.wanted


def test_what_leaves_and_agrees_just_then_starts_again():
    """The question was on its way when it was wanted again."""
    replica, _ = after(running(), DISABLED)
    replica, _ = after(replica, configured())
    assert replica.state == "ready"
    replica, effects = after(replica, RetireAnswered(1, retired=True))
    assert (replica.state, effects) == ("draining", END)
    replica, effects = after(replica, exited(replica))
    assert (replica.state, effects) == ("starting", LAUNCH)


def test_what_has_agreed_to_end_starts_again_afterwards_if_it_loads_at_startup():
    for at_startup, state in ((True, "starting"), (False, "stopped")):
        replica, _ = after(running(), DISABLED, RetireAnswered(1, retired=True))
        replica, effects = after(replica, configured(at_startup=at_startup))
        assert (replica.state, effects) == ("draining", NONE)
        assert after(replica, exited(replica))[0].state == state


def test_what_is_enabled_again_starts_or_waits_for_a_request():
    disabled, _ = after(without_process("stopped"), DISABLED)
    assert after(disabled, configured())[1] == LAUNCH
    replica, effects = after(disabled, configured(at_startup=False))
    assert (replica.state, replica.reason, effects) == ("stopped", "loads at the first request", NONE)
    assert after(replica, Wanted())[1] == LAUNCH
    replica, effects = after(disabled, configured(missing="no weights"))
    assert (replica.state, replica.reason, effects) == ("absent", "no weights", NONE)


def test_what_was_drained_and_disabled_is_as_new_when_it_is_enabled():
    drained, _ = after(without_process("stopped"), DrainOrdered())
    assert after(drained, configured())[1] == NONE, "it was enabled all the time, so it stays drained"
    replica, effects = after(drained, DISABLED, configured())
    assert (replica.out, effects) == ("", LAUNCH)


def test_a_change_that_does_not_concern_a_replica_leaves_it_alone():
    for before in (
        running(),
        running("starting"),
        without_process("failed", failures=2, start_at_s=NOW_S + 9),
        without_process("starting", failures=1, start_at_s=NOW_S + 9),
        without_process("absent"),
        without_process("stopped", displaced="refused", start_at_s=NOW_S + 1),
    ):
        assert after(before, configured()) == (before, NONE)


# --- operators


def test_an_unloaded_replica_comes_back_with_a_request_exactly_if_it_loads_on_demand():
    for fields, back in (
        ({"at_startup": False}, True),
        ({"idle_unload_s": 9.0}, True),
        ({"at_startup": True}, False),
    ):
        replica, effects = after(running(load=BUSY, **fields), UnloadOrdered())
        assert (replica.state, replica.process.kill_at_s, effects) == ("draining", NOW_S + 35, END)
        assert replica.comes_back == back
        while_ending, _ = after(replica, Wanted())
        assert after(while_ending, exited(while_ending))[1] == (LAUNCH if back else NONE)
        stopped, _ = after(replica, exited(replica))
        assert (stopped.state, stopped.comes_back) == ("stopped", back)
        assert after(stopped, Wanted())[1] == (LAUNCH if back else NONE)
        assert after(stopped, LoadOrdered())[1] == LAUNCH


def test_a_drained_replica_comes_back_with_load_and_restart_only():
    for order in (LoadOrdered(), RestartOrdered()):
        replica, _ = after(running(at_startup=False), DrainOrdered(), RetireAnswered(1, retired=True))
        replica, _ = after(replica, exited(replica), Wanted())
        assert (replica.state, replica.comes_back) == ("stopped", False)
        assert after(replica, order)[1] == LAUNCH


def test_unloading_hurries_what_leaves_without_haste():
    replica, _ = after(running(load=BUSY), DrainOrdered())
    replica, effects = after(replica, UnloadOrdered())
    assert (replica.process.kill_at_s, replica.process.leaving, effects) == (NOW_S + 35, False, END)
    replica, effects = after(replica, says(IDLE), RetireAnswered(1, retired=True))
    assert effects == NONE, "a second SIGTERM would cut what it still runs"


def test_load_clears_a_crash_loop_and_a_model_that_could_never_load():
    for start_at_s in (NOW_S + 100, None):
        replica, effects = after(without_process("failed", failures=5, start_at_s=start_at_s), LoadOrdered())
        assert (replica.state, replica.failures, replica.reason, effects) == (
            "starting",
            0,
            "loading the model",
            LAUNCH,
        )
        assert replica.process.demanded


def test_load_starts_at_once_what_waits_for_its_restart():
    assert after(without_process("starting", failures=1, start_at_s=NOW_S + 100), LoadOrdered())[1] == LAUNCH


def test_load_starts_again_what_is_just_ending_of_a_failure():
    never = Reported(1, Status(load=IDLE, error="no such device", error_permanent=True))
    replica, _ = after(running("starting"), never)
    replica, effects = after(replica, LoadOrdered())
    assert (replica.state, effects) == ("starting", NONE)
    replica, effects = after(replica, exited(replica))
    assert (replica.state, replica.failures, effects) == ("starting", 0, LAUNCH)


def test_operations_are_idempotent():
    for order in (LoadOrdered(), UnloadOrdered(), DrainOrdered(), RestartOrdered()):
        once, _ = after(running(load=BUSY), order)
        twice, effects = after(once, order)
        assert twice == once
        assert effects == NONE
    assert after(running(), LoadOrdered()) == (running(), NONE)


@pytest.mark.parametrize("order", [LoadOrdered(), RestartOrdered()])
def test_nothing_is_started_that_may_not_run(order):
    for replica in (
        without_process("stopped", enabled=False),
        without_process("stopped", removed=True),
        without_process("stopped", stopping=True),
        without_process("absent"),
    ):
        assert after(replica, order)[1] == NONE


# --- one after another


def test_replicas_are_replaced_one_after_another_and_those_first_that_do_not_serve():
    ready, loading, fresh = running(recipe="2"), running("starting", recipe="2"), running(recipe="1")
    assert whose_turn([ready, loading, fresh]) is loading
    assert whose_turn([ready, fresh]) is ready
    assert whose_turn([fresh, without_process("failed")]) is None
    renewing, _ = after(loading, TurnCame())
    assert renewing.renewing
    assert whose_turn([ready, renewing]) is None
    assert whose_turn([ready, renewing, loading]) is loading, "it serves nobody, so nothing is lost"


@pytest.mark.parametrize("state", ["starting", "failed", "draining"])
def test_no_other_is_replaced_while_one_is_on_its_way_or_fails(state):
    ready = running(recipe="2")
    down = running("draining", renewing=True) if state == "draining" else without_process(state, failures=1)
    assert (whose_turn([ready, down]), who_is_awaited([ready, down])) == (None, down)


def test_who_is_out_of_service_anyway_holds_up_nobody():
    ready = running(recipe="2")
    out = [without_process("absent"), without_process("stopped"), without_process("stopped", displaced="refused")]
    assert whose_turn([*out, ready]) is ready


def replaced(recipe="2", **fields):
    """A replica whose old process has just ended, and whose new one is being started."""
    replica, _ = after(running(**fields), configured(recipe=recipe), TurnCame(), RetireAnswered(1, retired=True))
    replica, _ = after(replica, exited(replica))
    assert (replica.state, replica.renewing) == ("starting", True)
    return replica


def test_a_replacement_that_cannot_be_started_holds_up_the_others_until_it_is_ready():
    ready, renewing = running(recipe="2"), replaced()
    for event, state in (
        (LaunchFailed(2, "no", 1.0), "starting"),
        (Exited(2, ReplicaExit(code=ExitCode.LOAD_FAILED_FOR_GOOD), 1.0), "failed"),
        (WeightsMissing(2, "no such file"), "absent"),
        (NoRoom(2, "does not fit", 1.0), "stopped"),
    ):
        replica, _ = after(renewing, event)
        assert (replica.state, replica.process) == (state, None)
        assert (whose_turn([replica, ready]), who_is_awaited([replica, ready])) == (None, replica)
        replica, effects = after(replica, WeightsFound() if state == "absent" else LoadOrdered())
        assert effects == LAUNCH
        assert whose_turn([replica, ready]) is None
        replica, _ = after(replica, Reported(3, Status(load=IDLE, info=EngineInfo())))
        assert whose_turn([replica, ready]) is ready


def test_who_gets_no_memory_again_holds_up_nobody_when_another_took_its_place():
    refused, _ = after(replaced(), NoRoom(2, "does not fit", 1.0))
    ready, fresh = running(recipe="2"), running()
    assert whose_turn([refused, ready, fresh]) is ready


@pytest.mark.parametrize("at_startup", [True, False])
@pytest.mark.parametrize("failure", [LaunchFailed(2, "no", 1.0), WeightsMissing(2, "no"), NoRoom(2, "no", 1.0)])
def test_a_newer_configuration_starts_what_failed_at_once(at_startup, failure):
    """Also if it loads on demand: nobody asks for it while the others serve."""
    replica, _ = after(replaced(at_startup=at_startup), failure)
    replica, effects = after(replica, configured(recipe="3", at_startup=at_startup))
    assert (replica.process.recipe, replica.renewing, effects) == ("3", True, LAUNCH)


def test_a_newer_configuration_does_not_wait_for_one_that_loads():
    old, renewing = running(), replaced()
    old, _ = after(old, configured(recipe="3"))
    renewing, _ = after(renewing, configured(recipe="3"))
    assert whose_turn([old, renewing]) is renewing
    renewing, effects = after(renewing, TurnCame())
    assert (renewing.state, effects) == ("draining", END)
    assert whose_turn([old, renewing]) is None
    renewing, effects = after(renewing, exited(renewing))
    assert (renewing.process.recipe, effects) == ("3", LAUNCH)


@pytest.mark.parametrize("order", [UnloadOrdered(), DrainOrdered(), DISABLED, Removed()])
def test_who_is_taken_out_is_not_awaited(order):
    replica, _ = after(replaced(), WeightsMissing(2, "no"), order)
    assert who_is_awaited([replica]) is None


def test_what_is_configured_anew_is_replaced_without_haste():
    replica, effects = after(running(load=BUSY), configured(recipe="2"))
    assert (replica.state, replica.stale, effects) == ("ready", True, NONE)
    replica, effects = after(replica, TurnCame())
    assert (replica.state, replica.process.kill_at_s, effects) == ("draining", None, ASK)
    replica, effects = after(replica, RetireAnswered(1, retired=False), says(IDLE), RetireAnswered(1, retired=True))
    assert effects == END
    replica, effects = after(replica, exited(replica))
    assert (replica.state, replica.process.recipe, replica.renewing, effects) == ("starting", "2", True, LAUNCH)
    replica, _ = after(replica, Reported(2, Status(load=IDLE, info=EngineInfo())))
    assert (replica.state, replica.renewing, replica.stale) == ("ready", False, False)


def test_a_restart_gives_running_requests_the_drain_time():
    replica, effects = after(running(load=BUSY), RestartOrdered())
    assert (replica.state, replica.stale, effects) == ("ready", True, NONE)
    replica, effects = after(replica, TurnCame())
    assert (replica.state, replica.process.kill_at_s, effects) == ("draining", NOW_S + 35, END)
    replica, effects = after(replica, exited(replica))
    assert (replica.state, replica.restarts, replica.failures, effects) == ("starting", 0, 0, LAUNCH)


def test_what_was_disabled_while_it_was_replaced_does_not_come_back_with_the_old_process():
    replica, _ = after(running(load=BUSY), configured(recipe="2"), TurnCame(), RetireAnswered(1, retired=False))
    replica, _ = after(replica, configured(enabled=False, disabled="off", recipe="2"))
    assert (replica.wanted, replica.renewing) == (False, False)
    replica, effects = after(replica, configured(recipe="2"))
    assert (replica.state, replica.wanted, replica.renewing, effects) == ("draining", True, True, NONE)


def test_what_has_no_process_starts_as_it_is_configured_now():
    for state in ("failed", "starting"):
        before = without_process(state, failures=2, start_at_s=NOW_S + 99)
        replica, effects = after(before, configured(recipe="2"))
        assert (replica.state, replica.failures, replica.process.recipe, effects) == ("starting", 0, "2", LAUNCH)
    replica, effects = after(without_process("failed"), configured(recipe="2", at_startup=False))
    assert (replica.state, effects) == ("stopped", NONE)
    replica, effects = after(without_process("stopped"), configured(recipe="2", missing="no such file"))
    assert (replica.state, replica.reason, effects) == ("absent", "no such file", NONE)


def test_what_was_loaded_on_demand_starts_when_it_is_to_load_at_startup():
    assert after(without_process("stopped", at_startup=False), configured())[1] == LAUNCH
    assert after(without_process("stopped", at_startup=False, out="unloaded"), configured())[1] == NONE


# --- other ends


def test_shutting_down_gives_what_leaves_the_drain_time():
    replica, _ = after(running(load=BUSY), DrainOrdered())
    replica, effects = after(replica, Stop())
    assert (replica.process.kill_at_s, effects) == (NOW_S + 35, END)
    replica, effects = after(replica, says(IDLE))
    assert effects == NONE


def test_an_unloaded_replica_does_not_make_room():
    replica, _ = after(running(), DrainOrdered())
    assert after(replica, GiveWay("other@b"))[1] == NONE


def test_a_removed_replica_that_is_wanted_again_is_as_any_other():
    replica, _ = after(running(load=BUSY), Removed(), RetireAnswered(1, retired=False))
    assert after(replica, configured())[0].state == "ready"
    gone, _ = after(without_process("stopped"), Removed())
    assert (gone.removed, gone.process) == (True, None)
