"""``/admin/v1/reset`` and ``/admin/v1/reload``: back to what is configured, and on to what is configured now."""

from __future__ import annotations

from sanic import HTTPResponse, Request

from core.http.admin.bodies import ResetBody, flag, read
from core.http.admin.views import answer
from core.http.gateway import gateway_of
from core.wire.control import Change, Reload

__all__ = ["reload", "reset"]


async def reset(request: Request) -> HTTPResponse:
    """``POST /admin/v1/reset``: take back what was changed of these; answers what is changed still."""
    body = read(request, ResetBody)
    return answer(await gateway_of(request).management.change(Change(reset=tuple(body.names))))


async def reload(request: Request) -> HTTPResponse:
    """``POST /admin/v1/reload``: read the configuration again; ``?dry_run=true`` only says what would change."""
    command = Reload(dry_run=flag(request, "dry_run"))
    return answer(await gateway_of(request).management.reload(command))
