"""What several decisions of `core.supervisor.state` have in common: steps in the life of one process. Pure."""

from __future__ import annotations

from dataclasses import replace

from core.api.protocols import ReplicaState
from core.settings import SupervisorTable
from core.supervisor.replica import Process, Replica
from core.supervisor.replica_events import Effect
from core.supervisor.words import why_stopped

__all__ = ["Decision", "ask_to_retire", "drain", "end_loading", "ended", "kill", "rest", "start"]

Decision = tuple[Replica, tuple[Effect, ...]]

_MOST_DOUBLINGS = 32


def start(replica: Replica, now_s: float, *, demanded: bool = False) -> Decision:
    """Begin a new process."""
    number = replica.starts + 1
    return replace(
        replica,
        state="starting",
        reason=f"restarting; it ended before: {replica.reason}" if replica.failures else "loading the model",
        wanted=False,
        out="",
        restart=False,
        starts=number,
        restarts=replica.restarts + (replica.failures > 0),
        start_at_s=None,
        process=Process(start=number, launched_s=now_s, recipe=replica.recipe, demanded=demanded),
    ), (Effect.LAUNCH,)


def rest(replica: Replica, reason: str = "") -> Replica:
    """Be stopped: no process, and no plan to start one. ``reason`` is for people; empty: what can be seen of it."""
    replica = replace(
        replica,
        state="stopped",
        wanted=False,
        restart=False,
        failures=0,
        start_at_s=None,
        displaced="",
        process=None,
    )
    return replace(replica, reason=reason or why_stopped(replica))


def ask_to_retire(replica: Replica, process: Process, now_s: float) -> Decision:
    """Ask the process to admit nothing any more if it is idle."""
    # Counts as activity: the next question comes after another idle time, whatever the answer.
    return replace(replica, process=replace(process, active_s=now_s, asked_to_retire=True)), (Effect.ASK_TO_RETIRE,)


def drain(replica: Replica, process: Process, reason: str, now_s: float, timing: SupervisorTable) -> Decision:
    """Tell the process to finish what it runs and end."""
    kill_at_s = now_s + timing.drain_timeout_s + timing.kill_after_s
    process = replace(process, leaving=False, kill_at_s=kill_at_s)
    return replace(replica, state="draining", reason=reason, process=process), (Effect.TERMINATE,)


def end_loading(replica: Replica, process: Process, reason: str, now_s: float, timing: SupervisorTable) -> Decision:
    """Tell a process to end that is not ready: nothing runs on it yet, so it gets no drain time."""
    process = replace(process, kill_at_s=now_s + timing.kill_after_s)
    return replace(replica, state="draining", reason=reason, process=process), (Effect.TERMINATE,)


def kill(replica: Replica, process: Process, verdict: str, now_s: float) -> Decision:
    """End the process at once; ``verdict`` says why."""
    del now_s
    process = replace(process, killed=True, verdict=process.verdict or verdict)
    state: ReplicaState = "starting" if replica.state == "ready" else replica.state
    return replace(replica, state=state, reason=process.verdict, process=process), (Effect.KILL,)


def ended(
    replica: Replica, process: Process, reason: str, now_s: float, timing: SupervisorTable, *, jitter: float
) -> Decision:
    """The process is gone: restart it after the back-off, unless that makes no sense."""
    if process.retiring or replica.out or not replica.may_run:
        if replica.wanted and replica.may_run:
            return start(rest(replica), now_s, demanded=True)
        if process.gives_way_to and replica.may_run and not replica.out:
            reason = f"unloaded to make room for {process.gives_way_to}; loads at the next request"
            return replace(rest(replica, reason), displaced="evicted"), ()
        return rest(replica), ()
    healthy = process.ready_s is not None and now_s - process.ready_s >= timing.healthy_after_s
    failures = 1 if healthy else replica.failures + 1
    replica = replace(replica, reason=reason, failures=failures, process=None)
    if process.permanent:
        return replace(replica, state="failed", start_at_s=None), ()
    if failures >= timing.crash_loop_failures:
        return replace(replica, state="failed", start_at_s=now_s + timing.failed_retry_s), ()
    doubled_s = timing.backoff_initial_s * 2.0 ** min(failures - 1, _MOST_DOUBLINGS)
    wait_s = min(timing.backoff_max_s, doubled_s) * jitter
    return replace(replica, state="starting", start_at_s=now_s + wait_s), ()
