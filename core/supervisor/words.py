"""What operators read: reasons and log lines. Pure."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from core.api.protocols import ReplicaExit
from core.supervisor.replica import Replica
from core.supervisor.replica_log import log_path
from core.wire.control import Overrides

__all__ = ["describe_end", "log_line", "what_changed", "why_not_replaced", "why_stopped"]

_REASON_LINES = 3
_REMEDY = "remove the cause, or undo the change"


def describe_end(end: ReplicaExit) -> str:
    """Return how a process ended, with its last words where they can explain it."""
    if end.signal == "SIGKILL":
        return "killed by SIGKILL (by hand, or because memory ran out)"
    if end.code == 0:
        return "ended by itself, or by a SIGTERM"
    how = f"killed by {end.signal}" if end.signal else f"exit code {end.code}"
    words = [line.strip() for line in end.stderr_tail.splitlines() if line.strip()]
    return f"{how}: {' | '.join(words[-_REASON_LINES:])}" if words else how


def why_stopped(replica: Replica) -> str:
    """Return why a replica has no process, or shall have none soon."""
    if replica.stopping:
        return "the gateway is shutting down"
    if replica.removed:
        return "it is surplus, or its deployment is not configured any more"
    if not replica.enabled:
        return replica.disabled
    if replica.out:
        load = f"load it again with: python -m core load {replica.name.rpartition('#')[0]}"
        return f"{replica.out} by an operator; {'loads at the next request' if replica.comes_back else load}"
    return "unloaded: it was idle" if replica.starts else "loads at the first request"


def why_not_replaced(awaited: Replica) -> str:
    """Return why a replica that serves is not replaced yet: ``awaited`` must be ready before."""
    how = f"{awaited.state}: {awaited.reason.removesuffix('.')}" if awaited.reason else awaited.state
    remedy = "" if awaited.process else f"; {_REMEDY}"
    return f"to be replaced when {awaited.name} is ready, which is {how}{remedy}"


def what_changed(before: Overrides, after: Overrides) -> str:
    """Return the overrides that are new or others, as JSON; null: taken back."""
    told = {}
    for kind in Overrides.__struct_fields__:
        old, new = getattr(before, kind), getattr(after, kind)
        if names := sorted(name for name in old | new if old.get(name) != new.get(name)):
            told[kind] = {name: new.get(name) for name in names}
    return msgspec.json.encode(told).decode()


def log_line(before: Replica, after: Replica, *, now_s: float, log_dir: Path) -> tuple[int, str]:
    """Level and text of the log line for a change: what happened, what will be done, what the operator can do."""
    text = f"{after.name}: {after.state}"
    if after.state != before.state:
        text += f" (was {before.state})"
    if after.reason:
        text += f": {after.reason.removesuffix('.')}"
    if replaced := after.renewing and after.process is None:
        text += f"; no other replica is replaced before it is ready ({_REMEDY})"
    if after.failures <= before.failures or after.process is not None:
        # Who asked for it is told; of what was to load by itself nobody else would hear.
        unasked = before.process is not None and not before.process.demanded
        left_out = after.state == "stopped" and after.displaced == "refused" and unasked
        return logging.WARNING if left_out or replaced else logging.INFO, text
    wait = None if after.start_at_s is None else f"{after.start_at_s - now_s:.1f} s"
    load = f"remove the cause, then: python -m core load {after.name.rpartition('#')[0]}"
    plan = f"starting it again in {wait}" if wait else f"not starting it again; {load}"
    level = logging.ERROR if after.state == "failed" else logging.WARNING
    return level, f"{text}; {plan}; its log is {log_path(log_dir, after.name)}"
