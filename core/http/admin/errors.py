"""The errors that only the admin API has, in OpenAI's shape; docs/errors.md lists them with all others."""

from __future__ import annotations

from collections.abc import Iterable

from core.errors import GatewayError
from core.words import did_you_mean

__all__ = ["forbidden", "name_taken", "no_key", "not_found", "not_json", "not_loaded", "pull_failed"]

_HOW_TO_SET = 'set a key (admin.key = "...", or GATEWAY_ADMIN__KEY) and send it as "Authorization: Bearer ..."'


def no_key() -> GatewayError:
    """401: the key is missing or wrong; which of both is not told."""
    return GatewayError(
        'The admin API needs the key that the operator set (admin.key): send it as "Authorization: Bearer <key>".',
        status=401,
        type="authentication_error",
        code="invalid_admin_key",
    )


def forbidden(message: str, *, with_key: bool = True) -> GatewayError:
    """403: not from there. ``with_key`` adds how a key makes it possible."""
    told = f"{message}: {_HOW_TO_SET}." if with_key else f"{message}."
    return GatewayError(told, status=403, type="permission_error", code="admin_forbidden")


def not_json() -> GatewayError:
    """415: the body is not called JSON."""
    return GatewayError(
        "The body must be JSON: send it with the header Content-Type: application/json.",
        status=415,
        type="invalid_request_error",
        code="unsupported_media_type",
    )


def not_found(name: str, known: Iterable[str], *, what: str) -> GatewayError:
    """404: there is no such deployment, backend or alias."""
    message = f"There is no {what} '{name}'; {did_you_mean(name, known)}"
    return GatewayError(message, status=404, type="invalid_request_error", code="not_found")


def name_taken(name: str) -> GatewayError:
    """409: an alias of this name would never be looked at."""
    return GatewayError(
        f"'{name}' is a model or deployment itself, which wins over an alias of that name; choose another name.",
        status=409,
        type="invalid_request_error",
        code="name_taken",
    )


def not_loaded(message: str, *, retry_after_s: float | None) -> GatewayError:
    """503: what was to be loaded, and waited for, is not; the message says why."""
    return GatewayError(message, status=503, type="server_error", code="not_loaded", retry_after_s=retry_after_s)


def pull_failed(message: str) -> GatewayError:
    """502: weights could not be fetched or prepared; the last event of a pull."""
    return GatewayError(message, status=502, type="server_error", code="pull_failed")
