"""``/admin/v1/backends``: all deployments of a backend, enabled or disabled at once."""

from __future__ import annotations

from urllib.parse import unquote

from sanic import HTTPResponse, Request

from core.errors import GatewayError
from core.http.admin import views
from core.http.admin.bodies import BackendPatch, read
from core.http.admin.changing import change
from core.http.admin.views import answer
from core.http.gateway import Gateway, gateway_of
from core.wire.control import Change
from core.words import did_you_mean

__all__ = ["list_backends", "patch_backend", "show_backend"]


async def list_backends(request: Request) -> HTTPResponse:
    """``GET /admin/v1/backends``."""
    return answer(views.Backends(backends=views.backends(gateway_of(request))))


async def show_backend(request: Request, name: str) -> HTTPResponse:
    """``GET /admin/v1/backends/{name}``."""
    gateway = gateway_of(request)
    return answer(views.backend(gateway, _named(gateway, name)))


async def patch_backend(request: Request, name: str) -> HTTPResponse:
    """``PATCH /admin/v1/backends/{name}``: a JSON merge patch."""
    gateway = gateway_of(request)
    name = _named(gateway, name)
    patch = read(request, BackendPatch)
    if patch.model_fields_set:
        await change(gateway, Change(backends={name: patch.enabled}))
    return answer(views.backend(gateway, name))


def _named(gateway: Gateway, name: str) -> str:
    name = unquote(name)
    backends = gateway.registry.backends
    if name not in backends:
        message = f"There is no backend '{name}'; {did_you_mean(name, backends)}"
        raise GatewayError(message, status=404, type="invalid_request_error", code="backend_not_found")
    return name
