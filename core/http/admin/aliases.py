"""``/admin/v1/aliases``: what names stand for."""

from __future__ import annotations

from urllib.parse import unquote

from sanic import HTTPResponse, Request

from core.http.admin import views
from core.http.admin.bodies import AliasBody, flag, read
from core.http.admin.errors import name_taken
from core.http.admin.views import answer
from core.http.gateway import gateway_of
from core.wire.control import Change

__all__ = ["delete_alias", "list_aliases", "put_alias"]


async def list_aliases(request: Request) -> HTTPResponse:
    """``GET /admin/v1/aliases``."""
    return answer(views.Aliases(aliases=views.aliases(gateway_of(request))))


async def put_alias(request: Request, name: str) -> HTTPResponse:
    """``PUT /admin/v1/aliases/{name}``: let a name stand for these models, whatever it stood for."""
    gateway, name = gateway_of(request), unquote(name)
    body = read(request, AliasBody)
    if name in gateway.generation.table.models or name in gateway.generation.table.deployments:
        raise name_taken(name)
    await gateway.management.change(Change(aliases={name: tuple(body.models)}))
    return answer(views.alias(gateway, name))


async def delete_alias(request: Request, name: str) -> HTTPResponse:
    """``DELETE /admin/v1/aliases/{name}``: it stands for nothing; with ``?reset=true``, for what it did at first."""
    gateway, name = gateway_of(request), unquote(name)
    reset = flag(request, "reset")
    # Whether there is one is for the supervisor to say, which also knows the aliases that are left out.
    await gateway.management.change(Change(aliases={name: None if reset else ()}))
    return answer(views.alias(gateway, name))
