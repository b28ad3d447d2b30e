"""Decisions about a replica when it shall be another: an operator says so, or the configuration. Pure.

A part of `core.supervisor.state`. A replica that takes no new requests but may finish what it runs is *leaving*: it
goes on admitting, so that a request on its way is served, until it has nothing to do and agrees to retire. Until then
it can serve again at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from core.settings import SupervisorTable
from core.supervisor.replica import Process, Replica
from core.supervisor.replica_events import (
    Configured,
    DrainOrdered,
    LoadOrdered,
    Removed,
    RestartOrdered,
    TurnCame,
    UnloadOrdered,
)
from core.supervisor.steps import Decision, ask_to_retire, drain, end_loading, rest, start
from core.supervisor.words import why_stopped

__all__ = ["obey_configuration", "obey_operator", "who_is_awaited", "whose_turn"]


def whose_turn(replicas: Sequence[Replica]) -> Replica | None:
    """Return which replica of a deployment is to be replaced now, or None.

    Those that do not serve at once; the others one after another, so that a mistake costs one of them and not all.
    """
    stale = [one for one in replicas if one.stale and not (one.renewing and one.state == "draining")]
    useless = next((one for one in stale if one.state != "ready"), None)
    return useless or (stale[0] if stale and who_is_awaited(replicas) is None else None)


def who_is_awaited(replicas: Iterable[Replica]) -> Replica | None:
    """Return the replica of a deployment that must be ready before one that serves may be replaced, or None."""
    replicas = tuple(replicas)
    # One that got no memory again is not awaited if another took its place: the deployment serves as before.
    replaced = any(one.state == "ready" and not one.stale for one in replicas)
    missing = (one for one in replicas if one.renewing and not (one.state == "stopped" and replaced))
    return next(missing, None) or next((one for one in replicas if one.state in {"starting", "failed"}), None)


# --- the configuration --------------------------------------------------------------------------


def obey_configuration(
    replica: Replica, event: Configured | Removed, now_s: float, timing: SupervisorTable
) -> Decision:
    """Return the replica as the configuration wants it from now on, and what is to be done for that."""
    if isinstance(event, Removed):
        return _leave(replace(replica, removed=True), now_s, timing)
    could_run, before = replica.may_run, replica.recipe
    replica = replace(
        replica,
        removed=False,
        enabled=event.enabled,
        disabled=event.disabled,
        at_startup=event.at_startup,
        idle_unload_s=event.idle_unload_s,
        recipe=event.recipe,
    )
    if not replica.may_run:
        return _leave(replica, now_s, timing)
    if not could_run:
        replica = replace(replica, out="")
    if replica.process is not None:
        return (replica if could_run else _come_back(replica, wanted=replica.at_startup)), ()
    anew = not could_run or event.recipe != before
    if anew and event.missing:
        return replace(rest(replica, event.missing), state="absent"), ()
    if anew or (replica.state == "stopped" and not replica.displaced):
        wakes = (replica.at_startup or replica.renewing) and not replica.out and (anew or not replica.comes_back)
        return start(rest(replica), now_s) if wakes else (rest(replica), ())
    return replica, ()


# --- operators ----------------------------------------------------------------------------------


def obey_operator(
    replica: Replica,
    event: LoadOrdered | UnloadOrdered | DrainOrdered | RestartOrdered | TurnCame,
    now_s: float,
    timing: SupervisorTable,
) -> Decision:
    """Return the replica after what an operator ordered, and what is to be done now."""
    match event:
        case LoadOrdered():
            decision = _load(replica, now_s)
        case UnloadOrdered():
            decision = _unload(replace(replica, out="unloaded", displaced=""), now_s, timing)
        case DrainOrdered():
            decision = _leave(replace(replica, out="drained", displaced=""), now_s, timing)
        case RestartOrdered():
            decision = _restart(replica, now_s)
        case TurnCame():
            decision = _renew(replica, now_s, timing)
    return decision


def _load(replica: Replica, now_s: float) -> Decision:
    if not replica.may_run:
        return replica, ()
    replica = replace(replica, out="")
    if replica.process is not None:
        return _come_back(replica, wanted=True), ()
    return (replica, ()) if replica.state == "absent" else start(rest(replica), now_s, demanded=True)


def _restart(replica: Replica, now_s: float) -> Decision:
    process = replica.process
    if process is None or process.retiring or not replica.may_run:
        return _load(replica, now_s)
    return replace(replica, out="", restart=True, wanted=replica.wanted or process.leaving), ()


def _renew(replica: Replica, now_s: float, timing: SupervisorTable) -> Decision:
    process = replica.process
    if process is None or not replica.stale:
        return replica, ()
    hurried, reason = replica.restart, "restarting: it is configured anew"
    if hurried:
        reason = "restarting: an operator asked for it"
    replica = replace(replica, wanted=True, restart=False, renewing=True)
    return _end(replica, process, reason, now_s, timing, hurried=hurried)


def _unload(replica: Replica, now_s: float, timing: SupervisorTable) -> Decision:
    replica = replace(replica, wanted=False, restart=False, renewing=False)
    if replica.process is None:
        return (replica if replica.state == "absent" else rest(replica)), ()
    return _end(replica, replica.process, why_stopped(replica), now_s, timing, hurried=True)


# --- steps --------------------------------------------------------------------------------------


def _leave(replica: Replica, now_s: float, timing: SupervisorTable) -> Decision:
    """Take no new requests, finish what runs without haste, then end and stay so."""
    replica = replace(replica, wanted=False, restart=False, renewing=False)
    if replica.process is None:
        return (replica if replica.state == "absent" else rest(replica)), ()
    return _end(replica, replica.process, why_stopped(replica), now_s, timing, hurried=False)


def _end(
    replica: Replica, process: Process, reason: str, now_s: float, timing: SupervisorTable, *, hurried: bool
) -> Decision:
    """End a process: what runs on it gets the drain time when ``hurried``, else all the time it needs."""
    if process.killed or process.kill_at_s is not None:
        process = replace(process, retiring=True)  # it ends already, which is no failure any more
        return replace(replica, state="draining", reason=reason, process=process), ()
    if replica.state == "starting":
        return end_loading(replica, replace(process, retiring=True), reason, now_s, timing)
    if hurried:
        return drain(replica, replace(process, retiring=True), reason, now_s, timing)
    replica = replace(replica, state="draining", reason=reason)
    asked = process.asked_to_retire
    replica, effects = ask_to_retire(replica, replace(process, leaving=True), now_s)
    return replica, () if asked else effects


def _come_back(replica: Replica, *, wanted: bool) -> Replica:
    """Serve again: with the present process if that can be, else with the next one if it is ``wanted``."""
    process = replica.process
    if process is None:
        return replica
    if process.leaving and not process.retiring and not replica.renewing:
        if process.recipe == replica.recipe:
            process = replace(process, leaving=False)
            replica = replace(replica, state="ready", reason="", process=process)
        else:
            replica = replace(replica, renewing=True)
    if wanted and (process.killed or process.verdict):  # it ends, and is to be started whatever it ends of
        replica = replace(replica, process=replace(process, retiring=True))
    ends = process.retiring or process.asked_to_retire or process.leaving or process.killed or bool(process.verdict)
    return replace(replica, wanted=replica.wanted or (wanted and ends))
