"""What a replica holds of the memory, and whether it could give it back. Pure."""

from __future__ import annotations

from core.supervisor.memory import Bytes, Holder
from core.supervisor.replica import Process, Replica

__all__ = ["counted", "holder", "measured"]

_SETTLE_S = 1.0
"""Whom somebody has waited for is not unloaded before a request could reach it."""
_ANSWER_S = 2.0
"""A replica that was asked to retire and says nothing for so long is taken to stay."""


def measured(process: Process) -> Bytes:
    """What it takes, as it last reported."""
    return Bytes(process.rss_bytes, process.info.device_memory_bytes if process.info else 0)


def counted(replica: Replica) -> Bytes:
    """What counts against the limits: what it takes, and while it loads no less than what it was promised."""
    process = replica.process
    if process is None or process.promised is None:
        return Bytes()
    takes = measured(process)
    return takes if process.ready_s is not None else takes.at_least(process.promised)


def holder(replica: Replica, deployment: str, *, pinned: bool, now_s: float, asked_s: float) -> Holder | None:
    """Return how it stands when somebody who asked at ``asked_s`` needs memory; None: it holds none."""
    process = replica.process
    if process is None or process.promised is None:
        return None
    answering = process.asked_to_retire and now_s - process.active_s < _ANSWER_S
    kept, doubtful = _kept(replica, process, pinned=pinned, now_s=now_s, asked_s=asked_s)
    return Holder(
        deployment=deployment,
        memory=counted(replica),
        kept=kept,
        doubtful=doubtful,
        leaving=process.killed
        or bool(process.verdict)
        or answering
        or (replica.state == "draining" and not _busy(process)),
        idle_s=max(0.0, now_s - process.active_s),
        load_s=(process.ready_s or now_s) - process.launched_s,
    )


def _busy(process: Process) -> int:
    return process.load.running + process.load.waiting


def _kept(replica: Replica, process: Process, *, pinned: bool, now_s: float, asked_s: float) -> tuple[str, bool]:
    """Why it must stay, and whether that may be over in a moment; an empty reason: it need not."""
    busy = _busy(process)
    why, doubtful = "", False
    if replica.state == "draining":
        why = f"it is draining, with {busy} to finish" if busy else "it is unloading"
    elif replica.state != "ready" or process.ready_s is None:
        why = "it is loading"
    elif pinned:
        why = "pinned"
    elif busy:
        why, doubtful = f"{busy} {'request runs' if busy == 1 else 'requests run'}", process.heard_s <= asked_s
    elif process.active_s > process.heard_s and not process.asked_to_retire:
        why, doubtful = "a request has just begun", True  # it said so when it was asked to retire
    elif now_s - process.ready_s < _SETTLE_S:
        why, doubtful = "it has just been loaded", True
    return why, doubtful
