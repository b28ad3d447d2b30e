"""All that can happen to a replica, and all that can be done about it: the words of `core.supervisor.state`.

``start`` is the number of the process that an event is about (`Process.start`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from core.api.protocols import ReplicaExit
from core.supervisor.memory import Bytes
from core.wire.frames import Status

__all__ = [
    "AwaitsRoom",
    "Configured",
    "DrainOrdered",
    "Effect",
    "Event",
    "Exited",
    "GiveWay",
    "LaunchFailed",
    "Launched",
    "LoadOrdered",
    "MayAskAgain",
    "NoRoom",
    "Overslept",
    "Removed",
    "Reported",
    "RestartOrdered",
    "RetireAnswered",
    "RoomFound",
    "RoomFree",
    "Stop",
    "Tick",
    "TurnCame",
    "UnloadOrdered",
    "Wanted",
    "WeightsFound",
    "WeightsMissing",
]


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
class MayAskAgain:
    """Why it did not fit may be over: it makes sense to ask again."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Configured:
    """What the configuration says of it from now on, whether that is new or not: fields of `Replica`.

    Attributes:
        missing: what its weights lack; empty when nothing.
    """

    enabled: bool
    disabled: str
    at_startup: bool
    idle_unload_s: float | None
    recipe: str
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Removed:
    """The configuration has no such replica any more."""


@dataclass(frozen=True, slots=True)
class LoadOrdered:
    """An operator wants it loaded, whatever happened before."""


@dataclass(frozen=True, slots=True)
class UnloadOrdered:
    """An operator wants its memory: running requests get the drain time."""


@dataclass(frozen=True, slots=True)
class DrainOrdered:
    """An operator wants it out of service: running requests take their time."""


@dataclass(frozen=True, slots=True)
class RestartOrdered:
    """An operator wants a new process, in turn with the deployment's other replicas."""


@dataclass(frozen=True, slots=True)
class TurnCame:
    """It is this replica's turn to be replaced."""


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
    | MayAskAgain
    | RoomFree
    | GiveWay
    | Launched
    | LaunchFailed
    | Exited
    | Reported
    | RetireAnswered
    | Configured
    | Removed
    | LoadOrdered
    | UnloadOrdered
    | DrainOrdered
    | RestartOrdered
    | TurnCame
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
