"""Every error leaves in OpenAI's shape; no traceback reaches a client."""

from __future__ import annotations

import logging

import msgspec
from sanic import HTTPResponse, Request, Sanic
from sanic.exceptions import MethodNotAllowed, NotFound, PayloadTooLarge, SanicException

from core.errors import GatewayError
from core.http.gateway import gateway_of

__all__ = ["error_response", "install"]

_log = logging.getLogger("gateway.http")


def error_response(error: GatewayError, request_id: str, **more_headers: str) -> HTTPResponse:
    """The HTTP answer of an error."""
    headers = {**error.headers(), "x-request-id": request_id, **more_headers}
    return HTTPResponse(
        msgspec.json.encode(error.body()), status=error.status, content_type="application/json", headers=headers
    )


def install(app: Sanic) -> None:  # type: ignore[type-arg]
    """Handle all that handlers and Sanic itself raise."""
    app.exception(Exception)(_handle)


def _handle(request: Request | None, exception: Exception) -> HTTPResponse:
    request_id = str(request.id) if request else "unknown"
    if isinstance(exception, GatewayError):
        error = exception
    elif isinstance(exception, NotFound):
        where = f"{request.method} {request.path}" if request else "this URL"
        error = GatewayError(
            f"There is nothing at {where}; see the API section of the README.",
            status=404,
            type="invalid_request_error",
            code="unknown_url",
        )
    elif isinstance(exception, MethodNotAllowed):
        allowed = str(exception.headers.get("Allow", ""))
        error = GatewayError(
            f"This URL does not take {request.method if request else 'this method'}"
            + (f"; it takes {allowed}." if allowed else "."),
            status=405,
            type="invalid_request_error",
            code="method_not_allowed",
        )
        return error_response(error, request_id, Allow=allowed)
    elif isinstance(exception, PayloadTooLarge) and request is not None:
        error = GatewayError.too_large(gateway_of(request).settings.limits.max_body_bytes)
    elif isinstance(exception, SanicException) and exception.status_code < 500:  # noqa: PLR2004
        error = GatewayError(
            str(exception), status=exception.status_code, type="invalid_request_error", code="bad_request"
        )
    else:
        _log.error("request %s failed by a mistake of the gateway", request_id, exc_info=exception)
        error = GatewayError.internal()
    return error_response(error, request_id)
