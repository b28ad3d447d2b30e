"""What fetched weights may need once before an engine can load them: an export, a quantisation, a conversion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel

from core.api.specs import ModelSpec

__all__ = ["Preparation", "PreparationContext", "PreparationProgress"]

PreparationProgress = Callable[[str, float | None], None]
"""Called with the present stage, for people (``exporting``), and the share of it that is done, 0 to 1, or None
when that is not known. To be called from one thread at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparationContext:
    """All that a preparation is given; its class is called with this one argument.

    Attributes:
        model: the model, as the configuration left it.
        settings: an instance of the backend's own settings model.
        cache_dir: the folder to keep prepared weights in, ``<weights.cache_dir>/prepared/<backend>``; all
            deployments of the backend share it, and it need not exist.
    """

    model: ModelSpec
    settings: BaseModel
    cache_dir: Path


class Preparation(Protocol):
    """Turns fetched weights into what the engine of one deployment loads.

    Its class is called with a `PreparationContext`, once per deployment and process, by the supervisor and the
    command line: importing it must not import a runtime, and the constructor must be quick.
    """

    def find(self, weights: Path) -> Path | None:
        """Return what the engine loads if all of it is there, else None; ``weights`` itself if nothing is to be done.

        ``weights`` is what was fetched, a file or a folder. Called every few seconds in the supervisor's event
        loop: a few stats, no hashing, no network.

        Raises:
            PreparationError: these weights can never be loaded.
        """
        ...

    def make(self, weights: Path, report: PreparationProgress) -> Path:
        """Make what `find` did not find, and return it; blocks until then.

        From then on `find` returns it. Any number of processes may call this at once: one makes, the others wait for
        it. What is half done is never found, not even when the process is killed.

        Raises:
            PreparationError: it cannot be made.
            OSError: the disk is full, or may not be written.
        """
        ...
