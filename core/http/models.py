"""``GET /v1/models``: models and aliases, each with what would serve it now."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import msgspec
from sanic import HTTPResponse, Request

from core.dialects import openai
from core.errors import GatewayError
from core.http.gateway import Gateway, gateway_of
from core.routing.table import Deployment
from core.wire.control import DeploymentStatus

__all__ = ["list_models", "show_model"]


async def list_models(request: Request) -> HTTPResponse:
    """``GET /v1/models``."""
    gateway = gateway_of(request)
    names = [
        *sorted(gateway.table.models),
        *sorted(name for name in gateway.table.aliases if name not in gateway.table.models),
    ]
    return _json({"object": "list", "data": [_entry(gateway, name) for name in names]})


async def show_model(request: Request, name: str) -> HTTPResponse:
    """``GET /v1/models/{id}``; names may hold slashes, and a deployment may be asked for too."""
    gateway = gateway_of(request)
    name = unquote(name)  # Sanic leaves the names of path parameters as they came
    if name not in gateway.table.models and name not in gateway.table.aliases and name not in gateway.table.deployments:
        raise GatewayError.model_not_found(name)
    return _json(_entry(gateway, name))


def _entry(gateway: Gateway, name: str) -> dict[str, Any]:
    deployments = gateway.table.behind(name)
    statuses = [gateway.fleet.status(deployment.id) for deployment in deployments]
    # What would serve a request now: the first that can, else the first there is.
    best = next((i for i, one in enumerate(deployments) if _active(gateway, one)), 0)
    serving, status = deployments[best], statuses[best]
    is_alias = name not in gateway.table.models and name in gateway.table.aliases
    return openai.model_entry(
        name,
        created=gateway.started_unix_s,
        owned_by=serving.declared_by,
        **({"alias_of": list(gateway.table.aliases[name].targets)} if is_alias else {}),
        backend=serving.spec.backend,
        active=_active(gateway, serving),
        state=status.state,
        reason=status.reason or None,
        context_tokens=_context_tokens(serving, status),
        tasks=list(serving.spec.tasks),
        deployments=[_deployment(gateway, one, state) for one, state in zip(deployments, statuses, strict=True)],
    )


def _active(gateway: Gateway, deployment: Deployment) -> bool:
    """Whether a request for it would be answered: it is ready, or will be loaded for the request."""
    ready = gateway.fleet.status(deployment.id).state == "ready"
    return deployment.spec.enabled and (ready or gateway.fleet.is_coming(deployment))


def _context_tokens(deployment: Deployment, status: DeploymentStatus) -> int:
    """Of the loaded engine if there is one, else as declared."""
    loaded = [replica.info.context_tokens for replica in status.replicas if replica.info is not None]
    return min(loaded, default=deployment.spec.context_tokens)


def _deployment(gateway: Gateway, deployment: Deployment, status: DeploymentStatus) -> dict[str, Any]:
    info = next((replica.info for replica in status.replicas if replica.info is not None), None)
    return {
        "id": deployment.id,
        "backend": deployment.spec.backend,
        "enabled": deployment.spec.enabled,
        "active": _active(gateway, deployment),
        "state": status.state,
        "reason": status.reason or None,
        "priority": deployment.spec.priority,
        "weight": deployment.spec.weight,
        "replicas": len(status.replicas),
        "device_requested": info.device_requested if info else None,
        "device": info.device if info else None,
        "device_reason": (info.device_reason or None) if info else None,
    }


def _json(content: object) -> HTTPResponse:
    return HTTPResponse(msgspec.json.encode(content), content_type="application/json")
