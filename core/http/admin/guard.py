"""Who may manage the gateway: whoever has the key, or, where there is none, whoever sits at this very machine."""

from __future__ import annotations

import functools
import hmac
import ipaddress
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import SplitResult, urlsplit

from sanic import HTTPResponse, Request

from core.errors import GatewayError
from core.http.admin.errors import forbidden, no_key, not_json
from core.http.failures import error_response
from core.http.gateway import gateway_of

__all__ = ["Handler", "guarded", "who_may_manage"]

Handler = Callable[..., Coroutine[Any, Any, HTTPResponse | None]]

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
# What proxies add. A proxy on this machine would make everybody a peer on the loopback interface.
_FORWARDED = (
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "true-client-ip",
    "cf-connecting-ip",
)


def who_may_manage(key: str | None) -> str:
    """Return, for the log at start-up, whom ``/admin/v1`` answers."""
    if key is not None:
        return "/admin/v1 answers whoever sends the key of [admin]"
    return "/admin/v1 answers on the loopback interface only; for others, set admin.key or GATEWAY_ADMIN__KEY"


def guarded(handler: Handler) -> Handler:
    """Return the handler, behind the guard; what it refuses or raises leaves in OpenAI's shape."""

    @functools.wraps(handler)
    async def guarding(request: Request, **parts: str) -> HTTPResponse | None:
        request_id = request.headers.get("x-request-id") or str(request.id)
        try:
            _check(request)
            response = await handler(request, **parts)
        except GatewayError as error:
            more = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}  # noqa: PLR2004 - HTTP
            return error_response(error, request_id, **more)
        if response is not None:
            response.headers.setdefault("x-request-id", request_id)
        return response

    return guarding


def _check(request: Request) -> None:
    key = gateway_of(request).settings.admin.key
    if key is None:
        _check_at_this_machine(request)
    else:
        _check_key(request, key)
    if request.method not in _READING:
        _check_no_other_site(request)
        _check_content_type(request)


def _check_key(request: Request, key: str) -> None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # Bytes, since compare_digest takes no text beyond ASCII; headers come as UTF-8 with what is not escaped.
    sent = given.strip().encode("utf-8", "surrogateescape")
    if scheme.lower() != "bearer" or not hmac.compare_digest(sent, key.encode()):
        raise no_key()


def _check_at_this_machine(request: Request) -> None:
    if not _is_loopback(_peer(request)):
        message = "Without a key the admin API answers on the loopback interface only"
        raise forbidden(message)
    if proxied := next((name for name in _FORWARDED if name in request.headers), None):
        message = f"Without a key the admin API answers nobody behind a proxy (there is a header {proxied})"
        raise forbidden(message)
    # Another site's name that was made to lead here would pass for this one in a browser.
    host = _split(f"//{request.headers.get('host', '')}").hostname or ""
    if host != "localhost" and not _is_loopback(host):
        message = f"Without a key the admin API answers at 127.0.0.1, [::1] and localhost only, not at '{host[:80]}'"
        raise forbidden(message)


def _check_no_other_site(request: Request) -> None:
    """A page of another site that is open in the operator's browser may send requests here, but names itself."""
    origin = request.headers.get("origin")
    if origin is not None and _split(origin).netloc.lower() != request.headers.get("host", "").lower():
        message = f"The admin API changes nothing for pages of other sites, such as '{origin[:80]}'"
        raise forbidden(message, with_key=False)


def _split(url: str) -> SplitResult:
    """Return the parts of a URL; none of them of what is no URL, which then is nobody who may."""
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", "", "", "")


def _check_content_type(request: Request) -> None:
    """Forms, which browsers send to other sites without asking, are never JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.body and kind != "application/json":
        raise not_json()


def _peer(request: Request) -> str:
    """The address at the other end of the socket, which no header can change; of a unix socket there is none."""
    return request.conn_info.client_ip if request.conn_info else ""


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback
