"""One replica as the supervisor knows it.

Data only; `core.supervisor.state` decides. All times are readings of one monotonic clock, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.api.messages import EngineInfo, Load
from core.api.protocols import ReplicaState
from core.supervisor.memory import Bytes

__all__ = ["Process", "Replica"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """One process of a replica, from the decision to launch it until its end is reported.

    Attributes:
        start: number of this start of the replica; 1 is the first.
        recipe: `Replica.recipe` when it was started.
        launched_s: when its launch was decided, or when there was memory for it.
        demanded: somebody waits for it, so that others may be unloaded for it.
        promised: memory that is kept for it until it is ready; None: it may not be launched yet.
        gives_way_to: the deployment for which it is unloaded, or was asked to be; else empty.
        pid: None until the launcher has started it.
        ready_s: when its model was loaded, or None.
        heard_s: when it last reported.
        progress_s: when it last reported a step done, or nothing to do.
        active_s: when it last had a request.
        kill_at_s: when it is killed if it has not ended; None: it was not asked to end.
        killed: it was killed; only its end is awaited.
        asked_to_retire: `Effect.ASK_TO_RETIRE` is not answered yet.
        leaving: it takes no new requests, and is asked to retire as soon as those that run are finished.
        retiring: it ends because it was told to, not because it failed.
        verdict: why it had to end, when we know better than its exit code.
        permanent: its model can never load.
    """

    start: int
    launched_s: float
    recipe: str = ""
    demanded: bool = False
    promised: Bytes | None = None
    gives_way_to: str = ""
    pid: int | None = None
    ready_s: float | None = None
    heard_s: float = 0.0
    progress_s: float = 0.0
    active_s: float = 0.0
    kill_at_s: float | None = None
    killed: bool = False
    asked_to_retire: bool = False
    leaving: bool = False
    retiring: bool = False
    verdict: str = ""
    permanent: bool = False
    load: Load = Load()  # noqa: RUF009 - frozen
    info: EngineInfo | None = None
    rss_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Replica:
    """All that is known of one replica.

    Attributes:
        name: ``<model>@<backend>#<index>``.
        enabled: a disabled one is never started.
        disabled: why it is disabled, for people, if it is.
        at_startup: start without being asked for.
        idle_unload_s: unload after this time without requests; None: never.
        removed: the configuration has no such replica any more; forgotten once it has no process.
        out: how an operator took it out of service; empty: nobody did.
        recipe: stands for all that its next process is given; another one, another process.
        restart: an operator wants another process, in its turn.
        renewing: its process is being replaced; over when it is ready, however often it fails before.
        reason: why it is in this state, for people.
        stopping: the gateway shuts down; nothing is started any more.
        wanted: somebody needs it who found it ending, or about to; it starts again right after.
        starts: how many processes were launched; the number of the last start.
        restarts: how many of those followed a failure.
        failures: ends in a row, none of them after a healthy time.
        start_at_s: when the next start is tried; None when none is planned.
        displaced: why it waits for memory and nobody else: it was unloaded for another deployment, or did not fit.
        process: the one process, or None.
    """

    name: str
    enabled: bool = True
    disabled: str = "disabled in the configuration"
    at_startup: bool = True
    idle_unload_s: float | None = None
    removed: bool = False
    out: Literal["", "unloaded", "drained"] = ""
    recipe: str = ""
    restart: bool = False
    renewing: bool = False
    state: ReplicaState = "absent"
    reason: str = ""
    stopping: bool = False
    wanted: bool = False
    starts: int = 0
    restarts: int = 0
    failures: int = 0
    start_at_s: float | None = None
    displaced: Literal["", "evicted", "refused"] = ""
    process: Process | None = None

    @property
    def may_run(self) -> bool:
        """Whether it may have a process that takes requests."""
        return self.enabled and not self.removed and not self.stopping

    @property
    def stale(self) -> bool:
        """Whether its process is to be replaced, in its turn."""
        process = self.process
        if process is None or process.retiring or self.out or not self.may_run:
            return False
        return self.restart or process.recipe != self.recipe

    @property
    def comes_back(self) -> bool:
        """Whether a request may load it: so configured, or others need its memory."""
        on_demand = not self.at_startup or self.idle_unload_s is not None
        gives_way = self.process is not None and bool(self.process.gives_way_to)
        return self.may_run and self.out != "drained" and (on_demand or bool(self.displaced) or gives_way)
