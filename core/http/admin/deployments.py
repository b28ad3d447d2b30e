"""``/admin/v1/deployments``: what they are, what may be changed of them, and what may be done to them."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from typing import get_args
from urllib.parse import unquote

import msgspec
from sanic import HTTPResponse, Request

from core.http.admin import views
from core.http.admin.bodies import DeploymentPatch, read, seconds
from core.http.admin.errors import not_found, not_loaded
from core.http.admin.guard import Handler
from core.http.admin.views import DeploymentView, answer
from core.http.gateway import Gateway, gateway_of
from core.routing.table import Deployment
from core.wire.control import Action, Change, DeploymentStatus, Operate

__all__ = [
    "ACTIONS",
    "Operation",
    "list_deployments",
    "operate",
    "patch_deployment",
    "show_deployment",
    "unknown_operation",
]

ACTIONS: tuple[Action, ...] = get_args(Action)
_LONGEST_WAIT_S = 3600.0
_HEARD_WITHIN_S = 0.5


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """How far an operation is. ``message`` says it for people."""

    action: Action
    done: bool
    message: str
    deployment: DeploymentView


async def list_deployments(request: Request) -> HTTPResponse:
    """``GET /admin/v1/deployments``."""
    gateway = gateway_of(request)
    return answer(
        views.Deployments(generation=gateway.generation.number, deployments=views.deployments(gateway)),
    )


async def show_deployment(request: Request, name: str) -> HTTPResponse:
    """``GET /admin/v1/deployments/{id}``; ids may hold slashes."""
    gateway = gateway_of(request)
    return answer(views.deployment(gateway, _named(gateway, name)))


async def patch_deployment(request: Request, name: str) -> HTTPResponse:
    """``PATCH /admin/v1/deployments/{id}``: a JSON merge patch."""
    gateway = gateway_of(request)
    one = _named(gateway, name)
    patch = read(request, DeploymentPatch)
    changes = {key: getattr(patch, key) for key in patch.model_fields_set}
    if changes:
        await gateway.management.change(Change(deployments={one.id: changes}))
    return answer(views.deployment(gateway, _named(gateway, one.id)))


def operate(action: Action) -> Handler:
    """Return the handler of ``POST /admin/v1/deployments/{id}/<action>``: 202, or 200 once it is done."""

    async def handler(request: Request, name: str) -> HTTPResponse:
        gateway = gateway_of(request)
        one = _named(gateway, name)
        wait_s = seconds(request, "wait_s", most=_LONGEST_WAIT_S)
        before = gateway.fleet.status(one.id)
        states = await gateway.management.operate(Operate(deployment=one.id, action=action))

        def heard() -> bool:
            return {replica.replica: replica.state for replica in gateway.fleet.status(one.id).replicas} == states

        def over() -> bool:
            status = gateway.fleet.status(one.id)
            return _is_done(action, before, status) or _has_failed(action, status)

        # What is known from before the order says nothing about how it goes.
        await _until(gateway, heard, within_s=_HEARD_WITHIN_S)
        await _until(gateway, over, within_s=wait_s)
        return _told(gateway, action, one.id, before)

    handler.__name__ = f"{action}_deployment"
    return handler


async def unknown_operation(_request: Request, name: str) -> HTTPResponse:
    """``POST`` to anything else of a deployment: there is none."""
    raise not_found(unquote(name).rpartition("/")[2], ACTIONS, what="operation")


def _told(gateway: Gateway, action: Action, name: str, before: DeploymentStatus) -> HTTPResponse:
    status = gateway.fleet.status(name)
    done = _is_done(action, before, status)
    reason = f": {status.reason}" if status.reason else ""
    if not done and _has_failed(action, status):
        message = f"{name} cannot be loaded; it is {status.state}{reason}."
        raise not_loaded(message, retry_after_s=_retry_s(status))
    told = f"{name} is {status.state}{reason}" if status.state != "ready" or done else f"{name} is still ready"
    body = Operation(
        action=action,
        done=done,
        message=f"{told}." if done else f"{told}; the {action} goes on.",
        deployment=views.deployment(gateway, _named(gateway, name)),
    )
    return answer(body, 200 if done else 202)


def _is_done(action: Action, before: DeploymentStatus, now: DeploymentStatus) -> bool:
    if action in {"unload", "drain"}:
        return all(replica.state not in {"starting", "ready", "draining"} for replica in now.replicas)
    all_ready = bool(now.replicas) and all(replica.state == "ready" for replica in now.replicas)
    if action == "load":
        return all_ready
    old = {replica.socket for replica in before.replicas} - {None}
    return all_ready and not any(replica.socket in old for replica in now.replicas)


def _has_failed(action: Action, now: DeploymentStatus) -> bool:
    """Whether a load or a restart has come to nothing: no replica serves, or will before its next attempt."""
    if action in {"unload", "drain"}:
        return False
    return bool(now.replicas) and all(
        replica.state in {"failed", "absent"} or (replica.state == "stopped" and replica.retry_in_s is not None)
        for replica in now.replicas
    )


def _retry_s(status: DeploymentStatus) -> float | None:
    retry_s = min((one.retry_in_s for one in status.replicas if one.retry_in_s is not None), default=math.inf)
    return None if math.isinf(retry_s) else retry_s


async def _until(gateway: Gateway, condition: Callable[[], bool], *, within_s: float) -> bool:
    """Wait until a condition on what this worker knows is true; return whether it is."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while not condition():
                await gateway.fleet.changed()
    return condition()


def _named(gateway: Gateway, name: str) -> Deployment:
    """Return the deployment of that id, which may be percent-coded.

    Raises:
        GatewayError: 404, there is none.
    """
    name = unquote(name)  # Sanic leaves the names of path parameters as they came
    deployments = gateway.generation.table.deployments
    if name not in deployments:
        raise not_found(name, deployments, what="deployment")
    return deployments[name]
