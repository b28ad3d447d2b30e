"""``pull NAME...``: fetch the weights of what was named, with a progress bar on stderr."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import closing
from typing import NoReturn

from tqdm import tqdm

from core.cli.common import CommandError, assemble
from core.models import PullError, pull
from core.routing.deployments import Deployment
from core.routing.table import Table
from core.settings import WeightsTable
from core.words import did_you_mean

__all__ = ["pull_names"]

_LINE_INTERVAL_S = 5.0


def pull_names(arguments: argparse.Namespace) -> int:
    """Fetch what every name stands for; go on after a failure, and fail in the end."""
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
    name, source = deployment.id, deployment.spec.source
    if source is None:
        print(f"{name}: needs no weights")
        return True
    try:
        with closing(_Meter(name, source)) as meter:
            path = pull(source, weights, progress=meter.show)
    except PullError as error:
        print(f"error: {name}: {error}", file=sys.stderr)
        return False
    print(f"{name}: {path}")
    return True


class _Meter:
    """Shows progress: a bar on a terminal, else a line every few seconds."""

    def __init__(self, name: str, source: str) -> None:
        self._name = name
        self._source = source
        self._bar: tqdm[NoReturn] | None = None
        self._next_line_s: float | None = None

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def show(self, done_bytes: int, total_bytes: int | None) -> None:
        """Take what `core.models.pull` tells."""
        if sys.stderr.isatty():
            self._draw(done_bytes, total_bytes)
        else:
            self._say(done_bytes, total_bytes)

    def _draw(self, done_bytes: int, total_bytes: int | None) -> None:
        bar = self._bar
        if bar is None:
            bar = self._bar = tqdm(desc=self._name, unit="B", unit_scale=True, initial=done_bytes, dynamic_ncols=True)
        if total_bytes != bar.total:
            bar.total = total_bytes
            bar.refresh()
        bar.update(done_bytes - bar.n)

    def _say(self, done_bytes: int, total_bytes: int | None) -> None:
        now_s = time.monotonic()
        if self._next_line_s is None:
            print(f"{self._name}: fetching {self._source}", file=sys.stderr, flush=True)
        elif now_s >= self._next_line_s:
            total = f" of {total_bytes / 1e6:.0f}" if total_bytes else ""
            print(f"{self._name}: {done_bytes / 1e6:.0f}{total} MB", file=sys.stderr, flush=True)
        else:
            return
        self._next_line_s = now_s + _LINE_INTERVAL_S
