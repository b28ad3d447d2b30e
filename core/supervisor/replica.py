"""One replica as the supervisor knows it, all that can happen to it, and all that can be done about it.

Data only; `core.supervisor.state` decides. All times are readings of one monotonic clock, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from core.api.messages import EngineInfo, Load
from core.api.protocols import ReplicaExit, ReplicaState
from core.supervisor.memory import Bytes
from core.wire.frames import Status

__all__ = [
    "AwaitsRoom",
    "Effect",
    "Event",
    "Exited",
    "GiveWay",
    "LaunchFailed",
    "Launched",
    "NoRoom",
    "Overslept",
    "Process",
    "Replica",
    "Reported",
    "RetireAnswered",
    "RoomFound",
    "RoomFree",
    "Stop",
    "Tick",
    "Wanted",
    "WeightsFound",
    "WeightsMissing",
]


# --- what is known ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """One process of a replica, from the decision to launch it until its end is reported.

    Attributes:
        start: number of this start of the replica; 1 is the first.
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
        retiring: it ends because it was idle, not because it failed.
        verdict: why it had to end, when we know better than its exit code.
        permanent: its model can never load.
    """

    start: int
    launched_s: float
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
        at_startup: start without being asked for.
        idle_unload_s: unload after this time without requests; None: never.
        reason: why it is in this state, for people.
        stopping: the gateway shuts down; nothing is started any more.
        wanted: a request asked for it while it unloads, or was about to; it starts again right after.
        starts: how many processes were launched; the number of the last start.
        restarts: how many of those followed a failure.
        failures: ends in a row, none of them after a healthy time.
        start_at_s: when the next start is tried; None when none is planned.
        displaced: why it waits for memory and nobody else: it was unloaded for another deployment, or did not fit.
        process: the one process, or None.
    """

    name: str
    enabled: bool = True
    at_startup: bool = True
    idle_unload_s: float | None = None
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


# --- what happens -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WeightsFound:
    """The weights are on disk, prepared if they must be; or none are needed."""


@dataclass(frozen=True, slots=True)
class WeightsMissing:
    """The weights are not there yet, or not any more: ``reason`` says what is missing.

    Attributes:
        start: of the process that should have been launched; None when none should.
    """

    start: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request wants the replica; single-flight, because all but the first find it starting."""


@dataclass(frozen=True, slots=True)
class AwaitsRoom:
    """Its memory has yet to be found; ``reason`` says what is done about it."""

    start: int
    reason: str


@dataclass(frozen=True, slots=True)
class RoomFound:
    """There is memory for it, and ``promised`` is kept for it."""

    start: int
    promised: Bytes


@dataclass(frozen=True, slots=True)
class NoRoom:
    """It does not fit. For ``hold_s`` it makes no sense to ask again."""

    start: int
    reason: str
    hold_s: float


@dataclass(frozen=True, slots=True)
class RoomFree:
    """There is memory again for a replica that was displaced, and it shall have it."""


@dataclass(frozen=True, slots=True)
class GiveWay:
    """Its memory is needed for ``deployment``: it is asked to retire."""

    deployment: str


@dataclass(frozen=True, slots=True)
class Launched:
    """The launcher has started the process."""

    start: int
    pid: int


@dataclass(frozen=True, slots=True)
class LaunchFailed:
    """The launcher could not start the process. ``jitter`` in (0, 1] shortens the back-off."""

    start: int
    reason: str
    jitter: float


@dataclass(frozen=True, slots=True)
class Exited:
    """The process has ended, however it did. ``jitter`` in (0, 1] shortens the back-off."""

    start: int
    end: ReplicaExit
    jitter: float


@dataclass(frozen=True, slots=True)
class Reported:
    """The process says how it is."""

    start: int
    status: Status


@dataclass(frozen=True, slots=True)
class RetireAnswered:
    """The process answers `Effect.ASK_TO_RETIRE`: it was idle and admits nothing any more, or it was not."""

    start: int
    retired: bool


@dataclass(frozen=True, slots=True)
class Stop:
    """The gateway shuts down: drain, or end at once (``now``)."""

    now: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; needed at `due_s`, harmless at any time."""


@dataclass(frozen=True, slots=True)
class Overslept:
    """The supervisor itself did not run for a while: silence until now proves nothing, its clocks begin anew."""


Event = (
    WeightsFound
    | WeightsMissing
    | Wanted
    | AwaitsRoom
    | RoomFound
    | NoRoom
    | RoomFree
    | GiveWay
    | Launched
    | LaunchFailed
    | Exited
    | Reported
    | RetireAnswered
    | Stop
    | Tick
    | Overslept
)


class Effect(Enum):
    """What the loop must do; all but LAUNCH concern the process that is there."""

    LAUNCH = auto()
    ASK_TO_RETIRE = auto()
    TERMINATE = auto()
    KILL = auto()
