"""What another generation would do to replicas: which it restarts, starts and ends. Changes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from core.registry import DeploymentWeights, Generation
from core.supervisor.launch import new_replica, orders
from core.supervisor.orders import obey_configuration
from core.supervisor.overrides import why_disabled
from core.supervisor.replica import Replica
from core.supervisor.slots import what_is_missing

__all__ = ["Effects", "forecast"]

_Effect = Literal["restarts", "starts", "ends"]
Effects = dict[str, list[str]]


def forecast(before: Generation, after: Generation, replicas: Callable[[str], Sequence[Replica]]) -> Effects:
    """Return the ids of the deployments of which going on to ``after`` restarts, starts and ends replicas.

    ``replicas`` returns those that a deployment has now. What is loaded on demand is not started, and what only
    restarts when it is needed again is not restarted.
    """
    effects: Effects = {"restarts": [], "starts": [], "ends": []}
    for id_ in sorted(before.table.deployments.keys() | after.table.deployments.keys()):
        for effect in set(_of(after, id_, replicas(id_))):
            effects[effect].append(id_)
    return effects


def _of(after: Generation, id_: str, present: Sequence[Replica]) -> Iterator[_Effect]:
    deployment = after.table.deployments.get(id_)
    wanted = 0 if deployment is None or why_disabled(after, id_) else deployment.replicas
    if any(one.may_run and one.process is not None for one in present[wanted:]):
        yield "ends"
    if deployment is None or not wanted:
        return
    told = orders(deployment, disabled="")
    missing = ""
    if told.at_startup and (len(present) < wanted or any(one.process is None for one in present[:wanted])):
        missing = what_is_missing(DeploymentWeights(deployment, after.settings.weights))
    told = dataclasses.replace(told, missing=missing)
    out = present[0].out if present else ""
    for index in range(wanted):
        if index < len(present):
            replica = present[index]
        elif out:  # an operator took the deployment out of service, and with it those that it has yet to get
            continue
        else:
            replica = dataclasses.replace(new_replica(deployment, index, disabled="", missing=missing), enabled=False)
        then, _ = obey_configuration(replica, told, 0.0, after.settings.supervisor)
        if then.stale and then.recipe != replica.recipe:
            yield "restarts"
        elif then.starts > replica.starts or (then.wanted and not replica.wanted):
            yield "starts"
