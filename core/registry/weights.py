"""Where the weights are that a deployment's engine loads: fetched, and prepared if its backend prepares them."""

from __future__ import annotations

import contextlib
import logging
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from core.api.errors import PreparationError
from core.api.preparation import Preparation, PreparationContext, PreparationProgress
from core.models import PathSource, Progress, describe_disk_error, how_to_get_weights, locate, parse_source, pull
from core.routing.deployments import Deployment
from core.routing.table import Table
from core.settings import Settings, WeightsTable

__all__ = ["DeploymentWeights", "FoundWeights", "absent_weights"]

_log = logging.getLogger("gateway.registry")


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundWeights:
    """What is on this disk of a deployment's weights. All is empty for a model that needs none.

    Attributes:
        fetched: the file or folder that the source names.
        path: what the engine loads: ``fetched``, or what was prepared of it.
        missing: what is not there and how to get it, for people; empty when nothing is missing.
        command: the command that gets it; empty when nothing is missing, or no command can help.
    """

    fetched: Path | None = None
    path: Path | None = None
    missing: str = ""
    command: str = ""


def absent_weights(table: Table, settings: Settings) -> list[str]:
    """Return a line for each enabled deployment whose weights are not there: what is missing, and how to get it."""
    told = []
    for deployment in table.deployments.values():
        if not deployment.spec.enabled:
            continue
        try:
            missing = DeploymentWeights(deployment, settings.weights).find().missing
        except PreparationError as error:
            missing = str(error)
        if missing:
            told.append(f"{deployment.id}: {missing}")
    return told


class DeploymentWeights:
    """The weights of one deployment; one object per deployment and process.

    Nothing of the backend's `Preparation` is imported before there is something to prepare.
    """

    def __init__(self, deployment: Deployment, table: WeightsTable) -> None:
        self._id = deployment.id
        self._source = deployment.spec.source
        self._backend = deployment.backend
        self._table = table
        self._context = PreparationContext(
            model=deployment.spec,
            settings=deployment.settings,
            cache_dir=table.cache_dir.expanduser().resolve() / "prepared" / deployment.backend.name,
        )
        self._preparation: Preparation | None = None

    def fetched(self) -> Path | None:
        """Return the file or folder that the source names if it is all there, else None.

        Raises:
            SpecError: the source cannot be read.
        """
        return locate(self._source, self._table)

    def find(self) -> FoundWeights:
        """Look what is there; cheap, so it may be called every few seconds.

        Raises:
            SpecError: the source cannot be read.
            PreparationError: the backend's preparation fails on these weights, or cannot be had.
        """
        if self._source is None:
            return FoundWeights()
        command = f"python -m core pull {self._id}"
        fetched = self.fetched()
        if fetched is None:
            missing = f"weights are not on disk; {how_to_get_weights(self._source, self._id)}"
            return FoundWeights(
                missing=missing, command="" if isinstance(parse_source(self._source), PathSource) else command
            )
        path = self._prepared(fetched)
        if path is None:
            missing = (
                f"weights are fetched, but not yet prepared for {self._backend.name}; prepare them with: {command}"
            )
            return FoundWeights(fetched=fetched, missing=missing, command=command)
        return FoundWeights(fetched=fetched, path=path)

    def get(self, *, fetching: Progress | None = None, preparing: PreparationProgress | None = None) -> Path | None:
        """Fetch and prepare what is missing, and return what the engine loads; None for a model that needs nothing.

        Blocks until then; ``fetching`` and ``preparing`` are told how it goes. Any number of processes may do so at
        once.

        Raises:
            SpecError: the source cannot be read.
            PullError: it cannot be fetched.
            PreparationError: it cannot be prepared.
        """
        if self._source is None:
            return None
        fetched = pull(self._source, self._table, progress=fetching)
        if (path := self._prepared(fetched)) is not None:
            return path

        def report(stage: str, share: float | None) -> None:
            if preparing is not None:
                preparing(stage, share)

        with self._blamed():
            return self._made().make(fetched, report)

    def _prepared(self, fetched: Path) -> Path | None:
        if self._backend.preparation is None:
            return fetched
        with self._blamed():
            return self._made().find(fetched)

    def _made(self) -> Preparation:
        """The preparation itself, made when it is needed first."""
        if self._preparation is None:
            path = self._backend.preparation or ""
            try:
                preparation = pkgutil.resolve_name(path)
            except (ImportError, AttributeError) as error:
                msg = f"{path} cannot be imported: {error}"
                raise PreparationError(msg) from error
            self._preparation = cast("Preparation", preparation(self._context))
        return self._preparation

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        """Somebody else's code: whatever it raises comes out as a `PreparationError` that can be read."""
        try:
            yield
        except PreparationError:
            raise
        except OSError as error:
            raise PreparationError(describe_disk_error(error, self._context.cache_dir)) from error
        except (Exception, SystemExit) as error:
            msg = f"{self._backend.preparation} failed in an unforeseen way: {error!r}"
            _log.exception("%s: %s", self._id, msg)
            raise PreparationError(msg) from error
