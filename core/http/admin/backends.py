"""``/admin/v1/backends``: all deployments of a backend, enabled or disabled at once."""

from __future__ import annotations

from urllib.parse import unquote

from sanic import HTTPResponse, Request

from core.http.admin import views
from core.http.admin.bodies import BackendPatch, read
from core.http.admin.errors import not_found
from core.http.admin.views import answer
from core.http.gateway import Gateway, gateway_of
from core.wire.control import Change

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
        await gateway.management.change(Change(backends={name: patch.enabled}))
    return answer(views.backend(gateway, name))


def _named(gateway: Gateway, name: str) -> str:
    name = unquote(name)
    backends = gateway.registry.backends
    if name not in backends:
        raise not_found(name, backends, what="backend")
    return name
