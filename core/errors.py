"""The errors a client can see, in OpenAI's shape.

One class; a function per kind, so that status, type and code are decided in one place.
docs/errors.md lists them; a test keeps that list true.
"""

from __future__ import annotations

import math

__all__ = ["GatewayError"]


class GatewayError(Exception):
    """An error with everything its HTTP answer needs.

    Attributes:
        message: a sentence that names the field and the remedy.
        status: HTTP status.
        type: OpenAI's error type (``invalid_request_error``, ``server_error`` ...).
        code: stable, machine-readable; or None.
        param: the request field at fault, or None.
        retry_after_s: when it makes sense to try again, in seconds; becomes ``Retry-After``.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str,  # noqa: A002 - OpenAI's word
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.type = type
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON body, as OpenAI writes it."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """HTTP headers that go with it; ``Retry-After`` in whole seconds, at least 1."""
        if self.retry_after_s is None:
            return {}
        return {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}

    # --- the client is at fault

    @classmethod
    def invalid(cls, message: str, *, param: str | None = None, code: str | None = None) -> GatewayError:
        """400: a field is wrong; never tried elsewhere."""
        return cls(message, status=400, type="invalid_request_error", code=code, param=param)

    @classmethod
    def unsupported(cls, message: str, *, param: str | None) -> GatewayError:
        """400: a field that is right but that no deployment of this model honours."""
        return cls.invalid(message, param=param, code="unsupported_parameter")

    @classmethod
    def too_large(cls, limit_bytes: int) -> GatewayError:
        """413: the body is over the limit."""
        return cls(
            f"The request body is larger than the limit of {limit_bytes} bytes (limits.max_body_bytes).",
            status=413,
            type="invalid_request_error",
            code="request_too_large",
        )

    @classmethod
    def model_not_found(cls, name: str) -> GatewayError:
        """404: no model, alias or deployment of that name."""
        return cls(
            f"The model '{name}' does not exist. GET /v1/models lists the models and aliases of this gateway.",
            status=404,
            type="invalid_request_error",
            code="model_not_found",
            param="model",
        )

    @classmethod
    def model_disabled(cls, name: str, because: str = "") -> GatewayError:
        """404: known, but every deployment of it is disabled; ``because`` tells why, where its own table does not."""
        why = f": {because}" if because else ""
        return cls(
            f"The model '{name}' is disabled{why}. The operator can enable a deployment of it, or its backend: "
            "python -m core enable <model>@<backend>.",
            status=404,
            type="invalid_request_error",
            code="model_disabled",
            param="model",
        )

    # --- the gateway is at fault, or busy

    @classmethod
    def not_ready(cls, message: str, *, retry_after_s: float | None) -> GatewayError:
        """503: known, but nothing can serve it now; the message says why. None: only an operator can help."""
        return cls(
            message, status=503, type="server_error", code="model_not_ready", param="model", retry_after_s=retry_after_s
        )

    @classmethod
    def busy(cls, message: str, *, retry_after_s: float) -> GatewayError:
        """429: every queue is full."""
        return cls(message, status=429, type="rate_limit_error", code="all_queues_full", retry_after_s=retry_after_s)

    @classmethod
    def timeout(cls, message: str) -> GatewayError:
        """504: a deadline passed."""
        return cls(message, status=504, type="server_error", code="timeout")

    @classmethod
    def engine_failed(cls, message: str) -> GatewayError:
        """502: the engine failed, or its process died, while it served this request."""
        return cls(message, status=502, type="server_error", code="engine_failed")

    @classmethod
    def internal(cls) -> GatewayError:
        """500: a bug of ours; the details are in the log only."""
        return cls(
            "The gateway made a mistake. The operator finds the details in its log under this request's x-request-id.",
            status=500,
            type="server_error",
            code="internal_error",
        )
