"""``pull NAME...``: fetch the weights of what was named and prepare them, and show how far it is."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from contextlib import closing, suppress

from core.api.errors import PreparationError
from core.cli.common import CommandError, assemble
from core.cli.meters import JsonMeter, PeopleMeter, print_event
from core.models import PullError
from core.registry import DeploymentWeights
from core.routing.deployments import Deployment
from core.routing.named import NotMeantError, deployments_to_pull
from core.settings import WeightsTable

__all__ = ["pull_names"]


def pull_names(arguments: argparse.Namespace) -> int:
    """Fetch and prepare what every name stands for; go on after a failure, and fail in the end.

    With ``--json``, ``progress`` events, then exactly one ``done`` or ``error``.
    """
    if arguments.end_with_stdin:
        threading.Thread(target=_end_with_stdin, name="end-with-stdin", daemon=True).start()
    settings, _, table = assemble(arguments)
    try:
        deployments = {one.id: one for name in arguments.names for one in deployments_to_pull(table, name)}
    except NotMeantError as error:
        raise CommandError(*error.args) from None
    pulled: dict[str, str | None] = {}
    failures: dict[str, str] = {}
    for one in deployments.values():
        try:
            pulled[one.id] = path = _pull(one, settings.weights, as_json=arguments.json)
        except (PullError, PreparationError) as error:
            failures[one.id] = str(error)
            print(f"error: {one.id}: {error}", file=sys.stderr)
        else:
            if not arguments.json:
                print(f"{one.id}: {path or 'needs no weights'}")
    if arguments.json:
        outcome = {"pulled": pulled, "failed": failures}
        print_event("error" if failures else "done", **outcome)
    return int(bool(failures))


def _end_with_stdin() -> None:
    """Wait until whoever holds the other end of standard input is gone, then end as SIGTERM does.

    With all that this process has started, if its process group is its own.
    """
    with suppress(OSError):
        while os.read(0, 4096):
            pass
    os.kill(0 if os.getpgrp() == os.getpid() else os.getpid(), signal.SIGTERM)


def _pull(deployment: Deployment, weights: WeightsTable, *, as_json: bool) -> str | None:
    make = JsonMeter if as_json else PeopleMeter
    with closing(make(deployment.id, deployment.spec.source or "")) as meter:
        path = DeploymentWeights(deployment, weights).get(fetching=meter.fetching, preparing=meter.preparing)
    return str(path) if path else None
