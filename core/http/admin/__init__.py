"""``/admin/v1``: managing the gateway while it runs; docs/admin.md tells all of it.

Thin handlers: what changes anything goes to the supervisor (`core.gateway.admin`), what is told comes from what this
HTTP worker knows. All of them stand behind `guard`.
"""

from __future__ import annotations

from typing import Any

from sanic import Sanic

from core.http.admin import aliases, backends, configuration, deployments, events, explain, pull
from core.http.admin.guard import Handler, guarded, who_may_manage

__all__ = ["install", "who_may_manage"]

_ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/deployments", deployments.list_deployments),
    ("GET", "/deployments/<name:path>", deployments.show_deployment),
    ("PATCH", "/deployments/<name:path>", deployments.patch_deployment),
    *(("POST", f"/deployments/<name:path>/{action}", deployments.operate(action)) for action in deployments.ACTIONS),
    ("POST", "/deployments/<name:path>", deployments.unknown_operation),
    ("GET", "/backends", backends.list_backends),
    ("GET", "/backends/<name:str>", backends.show_backend),
    ("PATCH", "/backends/<name:str>", backends.patch_backend),
    ("GET", "/aliases", aliases.list_aliases),
    ("PUT", "/aliases/<name:path>", aliases.put_alias),
    ("DELETE", "/aliases/<name:path>", aliases.delete_alias),
    ("POST", "/reset", configuration.reset),
    ("POST", "/reload", configuration.reload),
    ("POST", "/pull", pull.pull),
    ("GET", "/events", events.events),
    ("POST", "/route/explain", explain.explain),
)


def install(app: Sanic[Any, Any]) -> None:
    """Add every route of the admin API."""
    for method, path, handler in _ROUTES:
        app.add_route(guarded(handler), f"/admin/v1{path}", methods=[method], name=f"admin_{handler.__name__}")
