"""Decisions about memory: a replica that waits for it, gets none, or gives its own to another. Pure.

A part of `core.supervisor.state`; what fits is decided in `core.supervisor.memory`.
"""

from __future__ import annotations

from dataclasses import replace

from core.settings import SupervisorTable
from core.supervisor.replica import Process, Replica
from core.supervisor.replica_events import AwaitsRoom, MayAskAgain, NoRoom, RoomFound, RoomFree
from core.supervisor.steps import Decision, ask_to_retire, ended, start

__all__ = ["await_room", "give_way", "may_ask_again", "more_room"]


def await_room(
    replica: Replica,
    process: Process,
    event: AwaitsRoom | RoomFound | NoRoom,
    now_s: float,
    timing: SupervisorTable,
) -> Decision:
    """What became of its wish for memory."""
    match event:
        case AwaitsRoom(_, reason):
            return replace(replica, reason=reason), ()
        case RoomFound(_, promised):
            process = replace(process, promised=promised, launched_s=now_s)
            reason = "loading the model" if replica.state == "starting" and not replica.failures else replica.reason
            return replace(replica, reason=reason, process=process), ()
        case NoRoom(_, reason, hold_s):
            if process.killed or replica.state != "starting":  # it was told to end meanwhile
                return ended(replica, process, process.verdict or reason, now_s, timing, jitter=1.0)
            replica = replace(replica, state="stopped", reason=reason, displaced="refused", process=None)
            return replace(replica, start_at_s=now_s + hold_s), ()


def may_ask_again(replica: Replica, now_s: float) -> Decision:
    """A request may ask for it again."""
    del now_s
    return replace(replica, start_at_s=None), ()


def more_room(replica: Replica, event: MayAskAgain | RoomFree, now_s: float) -> Decision:
    """There may be memory again, or there is."""
    if isinstance(event, MayAskAgain):
        return may_ask_again(replica, now_s) if replica.displaced == "refused" else (replica, ())
    waits = replica.state == "stopped" and replica.displaced and replica.may_run
    return start(replica, now_s) if waits else (replica, ())


def give_way(replica: Replica, deployment: str, now_s: float) -> Decision:
    """It is to make room for ``deployment``, if it is idle."""
    process = replica.process
    if replica.state != "ready" or process is None or process.killed:
        return replica, ()
    return ask_to_retire(replica, replace(process, gives_way_to=deployment), now_s)
