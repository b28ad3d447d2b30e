"""``pull NAME...``: fetch the weights of what was named and prepare them, with a progress bar on stderr."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import closing
from typing import NoReturn

from tqdm import tqdm

from core.api.errors import PreparationError
from core.cli.common import CommandError, assemble
from core.models import PullError
from core.registry import DeploymentWeights
from core.routing.deployments import Deployment
from core.routing.table import Table
from core.settings import WeightsTable
from core.words import did_you_mean

__all__ = ["pull_names"]

_LINE_INTERVAL_S = 5.0
_STAGE = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}"
_STAGE_OF_UNKNOWN_LENGTH = "{desc}, {elapsed}"


def pull_names(arguments: argparse.Namespace) -> int:
    """Fetch and prepare what every name stands for; go on after a failure, and fail in the end."""
    settings, _, table = assemble(arguments)
    deployments = {one.id: one for name in arguments.names for one in _named(table, name)}
    failures = [not _pull(one, settings.weights) for one in deployments.values()]
    return int(any(failures))


def _named(table: Table, name: str) -> list[Deployment]:
    if name in table.deployments:
        return [table.deployments[name]]
    if name not in table.routes:
        msg = f"There is no model, alias or deployment {name!r}; {did_you_mean(name, table.routes)}"
        raise CommandError(msg)
    enabled = [one for tier in table.routes[name].tiers for one in tier]
    if not enabled:
        models = [name] if name in table.models else table.aliases[name].targets
        ids = [one for one, deployment in table.deployments.items() if {one, deployment.spec.name} & set(models)]
        msg = f"Every deployment of {name} is disabled; name the one to pull: {', '.join(ids)}"
        raise CommandError(msg)
    return enabled


def _pull(deployment: Deployment, weights: WeightsTable) -> bool:
    name = deployment.id
    try:
        with closing(_Meter(name, deployment.spec.source or "")) as meter:
            path = DeploymentWeights(deployment, weights).get(fetching=meter.fetching, preparing=meter.preparing)
    except (PullError, PreparationError) as error:
        print(f"error: {name}: {error}", file=sys.stderr)
        return False
    print(f"{name}: {path or 'needs no weights'}")
    return True


class _Meter:
    """Shows progress: bars on a terminal, one for the bytes and one for each stage; else a line every few seconds."""

    def __init__(self, name: str, source: str) -> None:
        self._name = name
        self._source = source
        self._bar: tqdm[NoReturn] | None = None
        self._stage: str | None = None
        self._next_line_s: float | None = None

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def fetching(self, done_bytes: int, total_bytes: int | None) -> None:
        """Take what `core.models.pull` tells."""
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(desc=self._name, unit="B", unit_scale=True, initial=done_bytes, dynamic_ncols=True)
            _draw(self._bar, done_bytes, total_bytes)
        elif self._next_line_s is None:
            self._say(f"fetching {self._source}")
        else:
            total = f" of {total_bytes / 1e6:.0f}" if total_bytes else ""
            self._say(f"{done_bytes / 1e6:.0f}{total} MB")

    def preparing(self, stage: str, share: float | None) -> None:
        """Take what a `Preparation` tells."""
        if stage != self._stage:
            self._stage, self._next_line_s = stage, None
            self.close()
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(desc=f"{self._name}: {stage}", dynamic_ncols=True)
            self._bar.bar_format = _STAGE_OF_UNKNOWN_LENGTH if share is None else _STAGE
            _draw(self._bar, 0.0 if share is None else share, None if share is None else 1.0)
        else:
            self._say(stage if share is None or self._next_line_s is None else f"{stage}: {share:.0%}")

    def _say(self, line: str) -> None:
        now_s = time.monotonic()
        if self._next_line_s is None or now_s >= self._next_line_s:
            print(f"{self._name}: {line}", file=sys.stderr, flush=True)
            self._next_line_s = now_s + _LINE_INTERVAL_S


def _draw(bar: tqdm[NoReturn], done: float, total: float | None) -> None:
    if total != bar.total:
        bar.total = total
        bar.refresh()
    bar.update(done - bar.n)
