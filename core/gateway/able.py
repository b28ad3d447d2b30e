"""Which deployments of a route can do what a request asks, and what the others lack."""

from __future__ import annotations

from collections.abc import Mapping

from core.api.requests import Task
from core.api.specs import Capability
from core.errors import GatewayError
from core.routing.table import Deployment, Route

__all__ = ["able_tiers", "lacking"]


def lacking(deployment: Deployment, task: Task, needs: Mapping[Capability, str]) -> str | None:
    """Return the task or the request field that a deployment cannot serve; None when it can serve all.

    ``needs`` maps a capability to the request field that needs it.
    """
    if task not in deployment.spec.tasks:
        return task
    return next((field for need, field in needs.items() if need not in deployment.backend.capabilities), None)


def able_tiers(route: Route, task: Task, needs: Mapping[Capability, str]) -> list[list[Deployment]]:
    """Return the route's tiers without the deployments that cannot do what is asked.

    Raises:
        GatewayError: 400, none of them can.
    """
    tiers = [[one for one in tier if lacking(one, task, needs) is None] for tier in route.tiers]
    if tiers := [tier for tier in tiers if tier]:
        return tiers
    with_task = [one for tier in route.tiers for one in tier if task in one.spec.tasks]
    if not with_task:
        message = f"The model '{route.name}' does not support {task}; GET /v1/models lists what each can do."
        raise GatewayError.invalid(message, param="model", code="unsupported_task")
    backend, field = with_task[0].spec.backend, lacking(with_task[0], task, needs)
    message = (
        f"The backend '{backend}' of '{route.name}' does not support '{field}'; leave it out or choose another model."
    )
    raise GatewayError.unsupported(message, param=field)
