"""How a replica process ends: the exit codes of ``python -m core.engine``."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ExitCode"]


class ExitCode(IntEnum):
    """What the replica says by its end; a process that is killed, or that Python ends, says nothing by it."""

    DRAINED = 0
    LOAD_FAILED = 1
    """The model could not be loaded; trying again may help. Also Python's own code for an accident."""
    UNUSABLE_CONFIGURATION = 2
    LOAD_FAILED_FOR_GOOD = 3
    """The model can never be loaded (`core.api.errors.EngineLoadError.permanent`)."""
    ENGINE_BROKEN = 4
    """The engine could serve nothing any more (`core.api.errors.EngineBrokenError`)."""
