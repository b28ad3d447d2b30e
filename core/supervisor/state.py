"""What to do with one replica: `decide(replica, event, now_s, timing) -> (replica, effects)`.

Pure: no clock, no randomness, no I/O, no log. Everything that happens to a replica is an event, time
included (`Tick`, due at `due_s`); everything to be done is an `Effect`, which `core.supervisor.loop`
performs. A replica has at most one process, and every process is known by the number of its start, so that news
of an old process cannot touch a new one. docs/supervisor.md draws the states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from operator import itemgetter

from core.api.protocols import ReplicaState
from core.settings import SupervisorTable
from core.supervisor.making_room import await_room, give_way, may_ask_again, more_room
from core.supervisor.orders import obey_configuration, obey_operator
from core.supervisor.replica import Process, Replica
from core.supervisor.replica_events import (
    AwaitsRoom,
    Configured,
    DrainOrdered,
    Effect,
    Event,
    Exited,
    GiveWay,
    Launched,
    LaunchFailed,
    LoadOrdered,
    MayAskAgain,
    NoRoom,
    Overslept,
    Removed,
    Reported,
    RestartOrdered,
    RetireAnswered,
    RoomFound,
    RoomFree,
    Stop,
    Tick,
    TurnCame,
    UnloadOrdered,
    Wanted,
    WeightsFound,
    WeightsMissing,
)
from core.supervisor.steps import Decision, ask_to_retire, drain, end_loading, ended, kill, rest, start
from core.supervisor.words import describe_end
from core.wire.exits import ExitCode
from core.wire.frames import Status

__all__ = ["Decision", "decide", "due_s"]

_ANSWER_S = 2.0
"""A question that was not answered for so long was lost with the connection."""


# --- decisions ----------------------------------------------------------------------------------


def decide(replica: Replica, event: Event, now_s: float, timing: SupervisorTable) -> Decision:
    """Return the replica after ``event`` and what is to be done now."""
    replica, effects = _decided(replica, event, now_s, timing)
    if replica.renewing and (replica.state == "ready" or (replica.state == "stopped" and not replica.displaced)):
        replica = replace(replica, renewing=False)
    return replica, effects


def _decided(replica: Replica, event: Event, now_s: float, timing: SupervisorTable) -> Decision:
    match event:
        case WeightsFound():
            decision = _weights_found(replica, now_s)
        case WeightsMissing(None, reason):
            decision = (replace(replica, reason=reason) if replica.state == "absent" else replica), ()
        case Wanted():
            decision = _wanted(replica, now_s)
        case MayAskAgain() | RoomFree():
            decision = more_room(replica, event, now_s)
        case GiveWay(deployment):
            decision = give_way(replica, deployment, now_s)
        case Configured() | Removed():
            decision = obey_configuration(replica, event, now_s, timing)
        case LoadOrdered() | UnloadOrdered() | DrainOrdered() | RestartOrdered() | TurnCame():
            decision = obey_operator(replica, event, now_s, timing)
        case Stop(now):
            decision = _stop(replica, now_s, timing, at_once=now)
        case Tick():
            when_s, act = min(_deadlines(replica, timing), key=itemgetter(0), default=(now_s, None))
            decision = act(now_s) if act is not None and when_s <= now_s else (replica, ())
        case _:
            decision = _about_process(replica, event, now_s, timing)
    return decision


def due_s(replica: Replica, timing: SupervisorTable) -> float | None:
    """Return when `Tick` has something to do, or None."""
    return min((when_s for when_s, _ in _deadlines(replica, timing)), default=None)


def _about_process(
    replica: Replica,
    event: WeightsMissing
    | AwaitsRoom
    | RoomFound
    | NoRoom
    | Launched
    | LaunchFailed
    | Exited
    | Reported
    | RetireAnswered
    | Overslept,
    now_s: float,
    timing: SupervisorTable,
) -> Decision:
    process = replica.process
    if process is None or (not isinstance(event, Overslept) and event.start != process.start):
        return replica, ()
    match event:
        case WeightsMissing(_, reason):
            state: ReplicaState = "stopped" if replica.stopping else "absent"
            decision: Decision = replace(replica, process=None, state=state, reason=reason), ()
        case AwaitsRoom() | RoomFound() | NoRoom():
            decision = await_room(replica, process, event, now_s, timing)
        case Launched(_, pid):
            decision = _launched(replica, replace(process, pid=pid))
        case LaunchFailed(_, reason, jitter):
            decision = ended(replica, process, f"cannot be launched: {reason}", now_s, timing, jitter=jitter)
        case Exited(_, end, jitter):
            never = process.ready_s is None and end.code == ExitCode.LOAD_FAILED_FOR_GOOD
            process = replace(process, permanent=process.permanent or never)
            reason = process.verdict or describe_end(end)
            decision = ended(replica, process, reason, now_s, timing, jitter=jitter)
        case Reported(_, status):
            decision = _reported(replica, process, status, now_s, timing)
        case RetireAnswered(_, retired):
            decision = _retire_answered(replica, process, now_s, timing, retired=retired)
        case Overslept():
            process = replace(process, launched_s=now_s, heard_s=now_s, progress_s=now_s)
            decision = replace(replica, process=process), ()
    return decision


def _weights_found(replica: Replica, now_s: float) -> Decision:
    if replica.state != "absent":
        return replica, ()
    wakes = replica.may_run and (replica.at_startup or replica.renewing) and not replica.out
    return start(replica, now_s) if wakes else (rest(replica), ())


def _wanted(replica: Replica, now_s: float) -> Decision:
    if not replica.may_run or replica.out == "drained":
        return replica, ()
    if (process := replica.process) is not None:
        # A request that finds the replica unloading would wait for nothing. The replica may have refused it
        # already while its answer to our question is still on the way.
        ending = (process.retiring or process.asked_to_retire) and replica.comes_back
        return replace(replica, wanted=replica.wanted or ending, process=replace(process, demanded=True)), ()
    retry = replica.state == "failed" and replica.start_at_s is not None and replica.start_at_s <= now_s
    wakes = replica.state == "stopped" and replica.comes_back
    return start(replica, now_s, demanded=True) if retry or wakes else (replica, ())


def _launched(replica: Replica, process: Process) -> Decision:
    replica = replace(replica, process=process)
    if process.killed:
        return replica, (Effect.KILL,)
    return replica, (Effect.TERMINATE,) if replica.state == "draining" else ()


def _reported(replica: Replica, process: Process, status: Status, now_s: float, timing: SupervisorTable) -> Decision:
    load, before = status.load, process.load
    moved = load.steps != before.steps
    # What changed since the last report may have changed just now: both clocks begin late, never early.
    stuck = load.running and before.running and not moved
    idle = not (load.running or load.waiting or before.running or before.waiting or moved)
    process = replace(
        process,
        heard_s=now_s,
        progress_s=process.progress_s if stuck else now_s,
        active_s=process.active_s if idle else now_s,
        load=load,
        info=status.info or process.info,
        rss_bytes=status.rss_bytes,
    )
    replica = replace(replica, process=process)
    if process.killed:
        return replica, ()
    if status.error is not None and not process.verdict and (replica.state != "draining" or process.leaving):
        # It could not load, or its engine broke, and exits by itself; a bounded wait gets its resources back if not.
        process = replace(
            process,
            verdict=status.error,
            permanent=status.error_permanent,
            kill_at_s=now_s + timing.kill_after_s,
        )
        state: ReplicaState = "draining" if replica.state == "draining" else "starting"
        replica = replace(replica, process=process, state=state, reason=status.error)
    elif replica.state == "starting" and status.info is not None and not process.verdict and not status.draining:
        process = replace(process, ready_s=now_s, progress_s=now_s, active_s=now_s)
        replica = replace(replica, process=process, state="ready", reason="", displaced="")
    elif replica.state == "ready" and status.draining:
        # It drains already; a second SIGTERM would cut what it still runs.
        replica, _ = drain(replica, process, "it was told to end by somebody else", now_s, timing)
    elif process.leaving and not (load.running or load.waiting):
        answered = not process.asked_to_retire or now_s - process.active_s > _ANSWER_S
        return ask_to_retire(replica, process, now_s) if answered else (replica, ())
    return replica, ()


def _retire_answered(
    replica: Replica, process: Process, now_s: float, timing: SupervisorTable, *, retired: bool
) -> Decision:
    ends = retired and (replica.state == "ready" or process.leaving)
    process = replace(process, asked_to_retire=False, retiring=process.retiring or ends)
    if not ends:
        process = replace(process, gives_way_to="", active_s=now_s)  # a request came before the question
        return replace(replica, process=process, wanted=replica.wanted and replica.state != "ready"), ()
    if process.leaving:
        return drain(replica, process, replica.reason, now_s, timing)
    if process.gives_way_to:
        return drain(replica, process, f"unloading to make room for {process.gives_way_to}", now_s, timing)
    return drain(replica, process, "unloading: it was idle", now_s, timing)


def _stop(replica: Replica, now_s: float, timing: SupervisorTable, *, at_once: bool) -> Decision:
    reason = "the gateway is shutting down"
    replica = replace(replica, stopping=True, wanted=False, start_at_s=None)
    process = replica.process
    if process is None:
        return (replace(replica, state="stopped", reason=reason) if replica.state == "starting" else replica), ()
    if process.killed:
        return replace(replica, state="draining", reason=reason), ()
    if at_once:
        process = replace(process, killed=True)
        return replace(replica, state="draining", reason=reason, process=process), (Effect.KILL,)
    if replica.state == "starting":
        return end_loading(replica, process, reason, now_s, timing)
    if replica.state == "ready" or process.kill_at_s is None:
        return drain(replica, process, reason, now_s, timing)
    return replica, ()


# --- time ---------------------------------------------------------------------------------------


def _deadlines(replica: Replica, timing: SupervisorTable) -> Iterator[tuple[float, Callable[[float], Decision]]]:
    """Yield when something must be done, and what; the latter takes the present time."""
    process = replica.process
    if process is None:
        if replica.start_at_s is not None:
            again = may_ask_again if replica.state == "stopped" else start
            yield replica.start_at_s, partial(again, replica)
    elif process.killed:
        return
    elif process.kill_at_s is not None:
        yield process.kill_at_s, partial(kill, replica, process, "did not end when it was asked to")
    elif replica.state == "starting":
        limit_s = timing.load_timeout_s
        yield process.launched_s + limit_s, partial(kill, replica, process, f"was not ready within {limit_s:g} s")
    else:
        limit_s = timing.stall_timeout_s
        yield process.heard_s + limit_s, partial(kill, replica, process, f"hung: said nothing for {limit_s:g} s")
        if process.load.running:
            verdict = f"hung: no step in {limit_s:g} s with {process.load.running} running"
            yield process.progress_s + limit_s, partial(kill, replica, process, verdict)
        elif replica.state == "ready" and replica.idle_unload_s is not None and not process.load.waiting:
            yield process.active_s + replica.idle_unload_s, partial(ask_to_retire, replica, process)
